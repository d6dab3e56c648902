/* Codes, names, versions: the tables a user reads. */

typedef struct errors_row {
    const char *name;
    int value;
    const char *text;
    int is_retryable;
} errors_row;

static const errors_row errors_rows[] = {
#define ERRORS_ROW(name, value, text, retryable) {#name, name, text, retryable},
    NETKIT_ERRORS(ERRORS_ROW)
#undef ERRORS_ROW
};

/* ER01 ER03: each code is negative, its own, and gives its own name and phrase. */
NKT_TEST(errors_have_a_name_and_a_text) {
    size_t count = sizeof(errors_rows) / sizeof(errors_rows[0]);
    for (size_t i = 0; i < count; i++) {
        const errors_row *row = &errors_rows[i];
        CHECK(row->value < 0 && row->value >= NETKIT_E_LAST_);
        CHECK_STR(netkit_error_name(row->value), row->name);
        CHECK_STR(netkit_error_text(row->value), row->text);
        CHECK_EQ(netkit_error_is_retryable(row->value), row->is_retryable != 0);
        CHECK(strncmp(row->name, "NETKIT_E_", 9) == 0);
        CHECK(strlen(row->text) > 5);
        for (size_t k = 0; k < i; k++) {
            CHECK(errors_rows[k].value != row->value);
            CHECK(strcmp(errors_rows[k].name, row->name) != 0);
            CHECK(strcmp(errors_rows[k].text, row->text) != 0);
        }
    }
    CHECK_EQ(count, -NETKIT_E_LAST_);
}

/* ER03: 0 and every count are no error; a number that is no code has a name too. */
NKT_TEST(errors_of_any_number) {
    static const int counts[] = {0, 1, 100, INT_MAX};
    static const int strangers[] = {NETKIT_E_LAST_ - 1, -1000, INT_MIN + 1, INT_MIN};
    for (size_t i = 0; i < 4; i++) {
        CHECK_STR(netkit_error_name(counts[i]), "NETKIT_OK");
        CHECK(netkit_error_text(counts[i])[0] != '\0');
        CHECK(!netkit_error_is_retryable(counts[i]));
        CHECK_STR(netkit_error_name(strangers[i]), "NETKIT_E_UNKNOWN");
        CHECK(netkit_error_text(strangers[i])[0] != '\0');
        CHECK(!netkit_error_is_retryable(strangers[i]));
    }
}

/* ER05: those that a program tells apart are apart, and retrying helps where it can. */
NKT_TEST(errors_are_distinct) {
    static const int codes[] = {
        NETKIT_OK,        NETKIT_E_EOF,     NETKIT_E_AGAIN,   NETKIT_E_FULL,   NETKIT_E_TOOBIG,
        NETKIT_E_NOMEM,   NETKIT_E_RESET,   NETKIT_E_TIMEOUT, NETKIT_E_THREAD, NETKIT_E_CANCELLED,
        NETKIT_E_REFUSED, NETKIT_E_STALE,   NETKIT_E_CLOSED,  NETKIT_E_BUSY,   NETKIT_E_TRUNCATED,
        NETKIT_E_NOSYS,   NETKIT_E_INVALID,
    };
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        for (size_t k = 0; k < i; k++) {
            CHECK(codes[i] != codes[k]);
        }
    }
    CHECK(netkit_error_is_retryable(NETKIT_E_FULL) && netkit_error_is_retryable(NETKIT_E_TIMEOUT));
    CHECK(!netkit_error_is_retryable(NETKIT_E_INVALID) &&
          !netkit_error_is_retryable(NETKIT_E_STALE));
}

/* ER01: what the system says is translated in one place; what it does not know is IO. */
NKT_TEST(errors_of_the_system_are_translated) {
    static const struct {
        int os_code, code;
    } rows[] = {
        {0, NETKIT_OK},
        {EINVAL, NETKIT_E_INVALID},
        {EBADF, NETKIT_E_INVALID},
        {ENOMEM, NETKIT_E_NOMEM},
        {ENOBUFS, NETKIT_E_NOMEM},
        {EAGAIN, NETKIT_E_AGAIN},
        {EWOULDBLOCK, NETKIT_E_AGAIN},
        {EMSGSIZE, NETKIT_E_TOOBIG},
        {ECONNRESET, NETKIT_E_RESET},
        {EPIPE, NETKIT_E_RESET},
        {ECONNREFUSED, NETKIT_E_REFUSED},
        {ETIMEDOUT, NETKIT_E_TIMEOUT},
        {EADDRINUSE, NETKIT_E_ADDRINUSE},
        {EADDRNOTAVAIL, NETKIT_E_ADDRNOTAVAIL},
        {ENETUNREACH, NETKIT_E_UNREACHABLE},
        {EHOSTUNREACH, NETKIT_E_UNREACHABLE},
        {EACCES, NETKIT_E_ACCESS},
        {EPERM, NETKIT_E_ACCESS},
        {EMFILE, NETKIT_E_MFILE},
        {ENFILE, NETKIT_E_MFILE},
        {ENOTCONN, NETKIT_E_NOTCONN},
        {ECONNABORTED, NETKIT_E_ABORTED},
        {EINTR, NETKIT_E_INTERRUPTED},
        {ENOSYS, NETKIT_E_NOSYS},
        {EOPNOTSUPP, NETKIT_E_NOSYS},
        {EAFNOSUPPORT, NETKIT_E_NOSYS},
        {EEXIST, NETKIT_E_EXISTS},
        {ENOENT, NETKIT_E_NOTFOUND},
        {EIO, NETKIT_E_IO},
        {INT_MAX, NETKIT_E_IO},
        {-1, NETKIT_E_IO},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        printf("%d %s\n", rows[i].os_code, strerror(rows[i].os_code));
        CHECK_ERR(netkit_error_from_os(rows[i].os_code), rows[i].code);
    }
    for (int os_code = 1; os_code < 4096; os_code++) {
        int code = netkit_error_from_os(os_code);
        CHECK(code < 0 && code >= NETKIT_E_LAST_);
    }
}

/* MB07: number, parts and text of the version agree, with the compiled library too. */
NKT_TEST(errors_versions_agree) {
    char text[32];
    snprintf(text, sizeof(text), "%d.%d.%d", NETKIT_VERSION_MAJOR, NETKIT_VERSION_MINOR,
             NETKIT_VERSION_PATCH);
    CHECK_STR(NETKIT_VERSION_STRING, text);
    CHECK_EQ(netkit_version(), NETKIT_VERSION_NUMBER);
    CHECK_EQ(NETKIT_VERSION_NUMBER,
             NETKIT_VERSION_MAJOR * 10000 + NETKIT_VERSION_MINOR * 100 + NETKIT_VERSION_PATCH);
}

/* PL05: names of backends go both ways; others are not there. */
NKT_TEST(errors_backend_names_go_both_ways) {
    static const char *const names[] = {"auto",   "fastest", "epoll",   "uring", "poll",
                                        "kqueue", "afd",     "wsapoll", "sim"};
    for (int i = 0; i < 9; i++) {
        CHECK_STR(netkit_backend_name(i), names[i]);
        CHECK_EQ(netkit_backend_from_name(names[i]), i);
    }
    CHECK(netkit_backend_name(9) == NULL && netkit_backend_name(-1) == NULL);
    CHECK(netkit_backend_name(INT_MAX) == NULL && netkit_backend_name(INT_MIN) == NULL);
    CHECK_ERR(netkit_backend_from_name("Epoll"), NETKIT_E_NOTFOUND);
    CHECK_ERR(netkit_backend_from_name("epoll "), NETKIT_E_NOTFOUND);
    CHECK_ERR(netkit_backend_from_name(""), NETKIT_E_NOTFOUND);
}

/* ER03: a reason for closing is one sentence with its numbers, of any length asked for. */
NKT_TEST(errors_reasons_are_sentences) {
    netkit_close_info info;
    char text[256], cut[8];
    int len;
    memset(&info, 0, sizeof(info));
    info.code = NETKIT_E_RESET;
    info.os_code = 104;
    info.op = NETKIT_OP_READ;
    info.phase = NETKIT_PHASE_OPEN;
    info.text = "the peer reset the connection";
    info.unsent = 4711;
    len = netkit_close_describe(&info, text, sizeof(text));
    printf("%s\n", text);
    CHECK_EQ(len, strlen(text));
    CHECK(strstr(text, "104") != NULL && strstr(text, "4711") != NULL);
    CHECK(strstr(text, "reset") != NULL || strstr(text, "RESET") != NULL);
    memset(cut, 'x', sizeof(cut));
    CHECK_EQ(netkit_close_describe(&info, cut, sizeof(cut)), len);
    CHECK_EQ(strlen(cut), sizeof(cut) - 1);
    CHECK_MEM(cut, text, sizeof(cut) - 1);
    CHECK_EQ(netkit_close_describe(&info, NULL, 0), len);
    for (int op = NETKIT_OP_NONE; op <= NETKIT_OP_TIMER; op++) {
        for (int phase = NETKIT_PHASE_CONNECTING; phase <= NETKIT_PHASE_CLOSING; phase++) {
            char other[256];
            info.op = (netkit_op)op;
            info.phase = (netkit_phase)phase;
            len = netkit_close_describe(&info, other, sizeof(other));
            CHECK(len > 20 && (size_t)len < sizeof(other));
        }
    }
}
