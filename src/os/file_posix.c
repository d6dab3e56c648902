/* Files to sockets. Linux's sendfile takes no MSG_NOSIGNAL: to a peer that is gone it raises
 * SIGPIPE (seen on 6.18: ECONNRESET once, then the signal). So the signal is held back on this
 * thread during the call, and one that it raised is taken back; mask and disposition are as before
 * afterwards. macOS and FreeBSD heed SO_NOSIGPIPE. Offsets are 64 bits wide everywhere. */

#if NKI_POSIX

enum {
    /* Bytes of one call: half as many cost 4 % of the rate (loopback, 6.18), more gain nothing and
     * hold up the others of a loop. */
    NKI_FILE_CALL = 1 << 21,
    NKI_FILE_COPY = 16384 /* bytes at a time where the system cannot do it itself */
};

#if NKI_LINUX

/* A SIGPIPE that was blocked and pending before is not ours to take. */
static ssize_t nki_os_sendfile_masked(int s, int file, int64_t *offset, size_t len) {
    sigset_t pipe, before, pending;
    (void)sigemptyset(&pipe);
    (void)sigaddset(&pipe, SIGPIPE);
    (void)NKI_SYS_sigmask(SIG_BLOCK, &pipe, &before);
    bool was_blocked = sigismember(&before, SIGPIPE) == 1;
    bool was_pending =
        was_blocked && NKI_SYS_sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
    ssize_t sent = NKI_SYS_sendfile(s, file, offset, len);
    int error = errno;
    /* Inside it is many sends: one that raises the signal may follow others that went. */
    bool may_be_raised = sent < 0 ? error == EPIPE : (size_t)sent < len;
    if (may_be_raised && !was_pending) {
        struct timespec now = {0, 0};
        while (NKI_SYS_sigtimedwait(&pipe, NULL, &now) < 0 && errno == EINTR) {
        }
    }
    if (!was_blocked) {
        (void)NKI_SYS_sigmask(SIG_UNBLOCK, &pipe, NULL);
    }
    errno = error;
    return sent;
}

static ssize_t nki_os_sendfile(int s, int file, uint64_t offset, size_t len) {
    int64_t at = (int64_t)offset;
    return nki_os_sendfile_masked(s, file, &at, len);
}

#elif NKI_APPLE || defined(__FreeBSD__)

/* What was sent counts, also when the call says that it would have blocked. */
static ssize_t nki_os_sendfile(int s, int file, uint64_t offset, size_t len) {
    off_t sent = 0;
    int rc = NKI_SYS_sendfile(s, file, (off_t)offset, len, &sent);
    return rc < 0 && sent == 0 ? -1 : (ssize_t)sent;
}

#else

static ssize_t nki_os_sendfile(int s, int file, uint64_t offset, size_t len) {
    NKI_UNUSED(s);
    NKI_UNUSED(file);
    NKI_UNUSED(offset);
    NKI_UNUSED(len);
    errno = ENOSYS;
    return -1;
}

#endif

/* Some file systems, and some systems, have no sendfile: the same through a buffer. */
static ssize_t nki_os_copy_file(int s, int file, uint64_t offset, size_t len, int flags) {
    char buffer[NKI_FILE_COPY];
    size_t most = NKI_MIN(len, sizeof buffer);
    ssize_t got;
    do {
        got = NKI_SYS_pread(file, buffer, most, offset);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        return got;
    }
    return NKI_SYS_send(s, buffer, (size_t)got, flags | NKI_MSG_NOSIGNAL);
}

static int nki_os_send_file(uintptr_t s, uintptr_t file, uint64_t offset, uint64_t len,
                            bool is_waiting) {
    size_t most = (size_t)NKI_MIN(len, (uint64_t)NKI_FILE_CALL);
    ssize_t sent;
    if (len == 0) {
        return 0;
    }
    do {
        sent = nki_os_sendfile(nki_os_fd(s), nki_os_fd(file), offset, most);
        if (sent < 0 && (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
            int flags = is_waiting ? 0 : MSG_DONTWAIT;
            sent = nki_os_copy_file(nki_os_fd(s), nki_os_fd(file), offset, most, flags);
        }
    } while (sent < 0 && errno == EINTR);
    if (sent > 0) {
        return (int)sent;
    }
    if (sent == 0) {
        errno = 0; /* the file has become shorter: nobody's error but the stream's */
        return NETKIT_E_TRUNCATED;
    }
    return nki_os_send_error();
}

static int nki_os_file_size(uintptr_t file, uint64_t *out) {
    struct stat st;
    *out = 0;
    if (NKI_SYS_fstat(nki_os_fd(file), &st) != 0) {
        return nki_os_error();
    }
    if (!S_ISREG(st.st_mode)) {
        return NETKIT_E_INVALID;
    }
    *out = (uint64_t)st.st_size;
    return NETKIT_OK;
}

#endif /* NKI_POSIX */
