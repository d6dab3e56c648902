/* Files to sockets on Windows, through a buffer: TransmitFile is an overlapped call that a loop
 * would have to wait for, and a workstation runs two of them at a time.
 *
 * A file is a HANDLE. Reading at an offset moves the position of a file, so the loop opens the file
 * once more for itself, and a plain socket puts the position back. */

#if NKI_WINDOWS

enum {
    NKI_FILE_COPY = 16384 /* bytes at a time */
};

/* One that was opened for overlapped calls answers later: it is waited for, as a disk may be. */
static int nki_file_read(HANDLE file, void *out, size_t len, uint64_t offset) {
    OVERLAPPED at;
    DWORD got = 0;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)(offset & 0xFFFFFFFFu);
    at.OffsetHigh = (DWORD)(offset >> 32);
    if (NKI_SYS_pread(file, out, len, &got, &at) ||
        (nki_os_code() == ERROR_IO_PENDING && NKI_SYS_pread_result(file, &at, &got))) {
        return (int)got;
    }
    return nki_os_code() == ERROR_HANDLE_EOF ? 0 : nki_os_error();
}

static int nki_file_read_in_place(HANDLE file, void *out, size_t len, uint64_t offset) {
    LARGE_INTEGER nothing;
    LARGE_INTEGER position;
    nothing.QuadPart = 0;
    bool has_position = NKI_SYS_seek(file, nothing, &position, FILE_CURRENT) != 0;
    int n = nki_file_read(file, out, len, offset);
    if (has_position) {
        int os_code = nki_os_code();
        (void)NKI_SYS_seek(file, position, NULL, FILE_BEGIN);
        WSASetLastError(os_code);
    }
    return n;
}

static int nki_os_send_file(uintptr_t s, uintptr_t file, uint64_t offset, uint64_t len,
                            bool is_waiting) {
    char buffer[NKI_FILE_COPY];
    size_t most = (size_t)NKI_MIN(len, (uint64_t)sizeof buffer);
    if (len == 0) {
        return 0;
    }
    int n = nki_file_read_in_place(nki_os_handle(file), buffer, most, offset);
    if (n <= 0) {
        (void)(n == 0 ? nki_os_fail(0) : n); /* shorter: nobody's error but the stream's */
        return n < 0 ? n : (int)NETKIT_E_TRUNCATED;
    }
    return is_waiting ? nki_os_send_flags(s, buffer, (size_t)n, 0)
                      : nki_os_send_now(s, buffer, (size_t)n);
}

static int nki_os_file_size(uintptr_t file, uint64_t *out) {
    BY_HANDLE_FILE_INFORMATION info;
    *out = 0;
    DWORD type = NKI_SYS_file_type(nki_os_handle(file));
    if (type == FILE_TYPE_UNKNOWN && nki_os_code() != 0) {
        return nki_os_error();
    }
    if (type != FILE_TYPE_DISK) {
        return NETKIT_E_INVALID;
    }
    if (!NKI_SYS_file_id(nki_os_handle(file), &info)) {
        return nki_os_error();
    }
    if ((info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0) {
        return NETKIT_E_INVALID;
    }
    *out = (uint64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow;
    return NETKIT_OK;
}

/* With a position of its own, where the file can be opened once more. */
static int nki_os_dup_file(uintptr_t file, uintptr_t *out) {
    HANDLE own = NKI_SYS_reopen(nki_os_handle(file));
    *out = UINTPTR_MAX;
    if (own == INVALID_HANDLE_VALUE && !NKI_SYS_dup(nki_os_handle(file), &own)) {
        return nki_os_error();
    }
    *out = (uintptr_t)own;
    return NETKIT_OK;
}

/* Of anything else nobody asks: descriptors are not handed over here. */
static int nki_os_dup(uintptr_t native, uintptr_t *out) {
    NKI_UNUSED(native);
    *out = UINTPTR_MAX;
    return NETKIT_E_NOSYS;
}

#endif /* NKI_WINDOWS */
