/* Errors: names and texts out of the one table in src/api/error.h. */

NETKIT_API int netkit_version(void) {
    return NETKIT_VERSION_NUMBER;
}

typedef struct nki_error_row {
    const char *name;
    const char *text;
    bool is_retryable;
} nki_error_row;

/* Row n is the code -n: the table's values are checked to run without a gap. */
static const nki_error_row nki_error_rows[] = {{"NETKIT_OK", "no error", false},
#define NKI_ERROR_ROW(name, value, text, retryable) {#name, text, (retryable) != 0},
                                               NETKIT_ERRORS(NKI_ERROR_ROW)
#undef NKI_ERROR_ROW
};

NKI_STATIC_ASSERT(error_rows, NKI_COUNT(nki_error_rows) == 1 - (int)NETKIT_E_LAST_);

static const nki_error_row *nki_error_find(int code) {
    static const nki_error_row unknown = {"NETKIT_E_UNKNOWN", "unknown error", false};
    if (code >= 0) {
        return &nki_error_rows[0];
    }
    return code < (int)NETKIT_E_LAST_ ? &unknown : &nki_error_rows[-code];
}

NETKIT_API const char *netkit_error_name(int code) {
    return nki_error_find(code)->name;
}

NETKIT_API const char *netkit_error_text(int code) {
    return nki_error_find(code)->text;
}

NETKIT_API bool netkit_error_is_retryable(int code) {
    return nki_error_find(code)->is_retryable;
}
