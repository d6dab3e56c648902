/* The descriptor that wakes a waiting thread: an eventfd, or where there is none a pipe. And what
 * new descriptors may need after birth: their flags, and no SIGPIPE.
 *
 * The wake must work from a signal handler (write(2) is on the list of signal-safety(7)), so one
 * that succeeds leaves errno as it found it; it never blocks, and one that is full is signalled
 * already. */

#if NKI_POSIX

#if defined(SO_NOSIGPIPE)
/* On accepted sockets too: it is not inherited. */
static int nki_os_no_sigpipe(int fd) {
    int on = 1;
    if (NKI_SYS_setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, (socklen_t)sizeof(on)) != 0) {
        return nki_os_error();
    }
    return NETKIT_OK;
}
#else
static int nki_os_no_sigpipe(int fd) {
    NKI_UNUSED(fd);
    return NETKIT_OK;
}
#endif

#if !NKI_HAS_EVENTFD || !NKI_HAS_SOCK_FLAGS
static int nki_os_set_fd_flags(int fd, bool is_blocking) {
    int flags = NKI_SYS_fcntl(fd, F_GETFL, 0);
    if (flags < 0) {
        return nki_os_error();
    }
    int wanted = is_blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    if (wanted != flags && NKI_SYS_fcntl(fd, F_SETFL, wanted) != 0) {
        return nki_os_error();
    }
    return NKI_SYS_fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 ? nki_os_error() : NETKIT_OK;
}
#endif

#if NKI_HAS_EVENTFD
static int nki_os_wake_open(nki_wake *out) {
    int fd = NKI_SYS_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    out->reader = out->writer = fd < 0 ? UINTPTR_MAX : (uintptr_t)fd;
    return fd < 0 ? nki_os_error() : NETKIT_OK;
}
#else
static int nki_os_wake_open(nki_wake *out) {
    int fds[2];
    out->reader = out->writer = UINTPTR_MAX;
    if (NKI_SYS_pipe(fds) != 0) {
        return nki_os_error();
    }
    int rc = nki_os_set_fd_flags(fds[0], false);
    if (rc == NETKIT_OK) {
        rc = nki_os_set_fd_flags(fds[1], false);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fds[0]);
        nki_os_abandon((uintptr_t)fds[1]);
        return rc;
    }
    out->reader = (uintptr_t)fds[0];
    out->writer = (uintptr_t)fds[1];
    return NETKIT_OK;
}
#endif

static void nki_os_wake_close(nki_wake *wake) {
    if (wake->reader != UINTPTR_MAX) {
        (void)NKI_SYS_close(nki_os_fd(wake->reader));
    }
    if (wake->writer != wake->reader && wake->writer != UINTPTR_MAX) {
        (void)NKI_SYS_close(nki_os_fd(wake->writer));
    }
    wake->reader = wake->writer = UINTPTR_MAX;
}

static int nki_os_wake_signal(const nki_wake *wake) {
    static const uint64_t one = 1;
    int os_code = errno;
    /* An eventfd takes eight bytes; to a pipe one is enough. */
    size_t size = wake->reader == wake->writer ? sizeof(one) : 1;
    while (NKI_SYS_write(nki_os_fd(wake->writer), &one, size) < 0) {
        if (errno == EAGAIN) {
            break;
        }
        if (errno != EINTR) {
            return nki_os_error();
        }
    }
    errno = os_code;
    return NETKIT_OK;
}

/* One read empties an eventfd. A pipe is read until it is empty, which is soon: wakes are
 * coalesced above, and 64 KiB is all a pipe holds. */
static void nki_os_wake_drain(const nki_wake *wake) {
    uint64_t junk[32];
    bool is_pipe = wake->reader != wake->writer;
    for (int i = 0; i < 1024; i++) {
        size_t size = is_pipe ? sizeof(junk) : sizeof(junk[0]);
        ssize_t got = NKI_SYS_read(nki_os_fd(wake->reader), junk, size);
        bool was_all = got >= 0 && (size_t)got < sizeof(junk);
        if (was_all || (got < 0 && errno != EINTR)) {
            return;
        }
    }
}

#endif /* NKI_POSIX */
