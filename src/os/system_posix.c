/* The system on POSIX: codes of errors, clock, randomness, thread identity, interfaces.
 *
 * errno is the system's code, untouched between a failure and nki_os_code. No state is kept
 * here. */

#if NKI_POSIX

typedef struct nki_os_row {
    int os_code;
    int code;
} nki_os_row;

static int nki_os_begin(void) {
    return NETKIT_OK;
}

static void nki_os_end(void) {}

static int nki_os_code(void) {
    return errno;
}

/* EAGAIN comes first: it is the only one that steady traffic meets. Several names may share one
 * number (EAGAIN and EWOULDBLOCK, ENOTSUP and EOPNOTSUPP), which a switch would not compile. */
NETKIT_API int netkit_error_from_os(int os_code) {
    static const nki_os_row rows[] = {
        {EAGAIN, NETKIT_E_AGAIN},
        {EWOULDBLOCK, NETKIT_E_AGAIN},
        {EINPROGRESS, NETKIT_E_AGAIN},
        {EALREADY, NETKIT_E_AGAIN},
        {ECONNRESET, NETKIT_E_RESET},
        {EPIPE, NETKIT_E_RESET}, /* the peer's end is gone, however it went */
        {ENETRESET, NETKIT_E_RESET},
        {ECONNREFUSED, NETKIT_E_REFUSED},
        {ETIMEDOUT, NETKIT_E_TIMEOUT},
        {ECONNABORTED, NETKIT_E_ABORTED},
        {ENOTCONN, NETKIT_E_NOTCONN},
        {EDESTADDRREQ, NETKIT_E_NOTCONN},
        {EINTR, NETKIT_E_INTERRUPTED},
        {ENETUNREACH, NETKIT_E_UNREACHABLE},
        {EHOSTUNREACH, NETKIT_E_UNREACHABLE},
        {ENETDOWN, NETKIT_E_UNREACHABLE},
        {EHOSTDOWN, NETKIT_E_UNREACHABLE},
        {EADDRINUSE, NETKIT_E_ADDRINUSE},
        {EADDRNOTAVAIL, NETKIT_E_ADDRNOTAVAIL},
        {EMFILE, NETKIT_E_MFILE},
        {ENFILE, NETKIT_E_MFILE},
        {ETOOMANYREFS, NETKIT_E_MFILE}, /* of descriptors that are on their way */
        {ENOMEM, NETKIT_E_NOMEM},
        {ENOBUFS, NETKIT_E_NOMEM},
        {ENOSPC, NETKIT_E_FULL},
        {EMSGSIZE, NETKIT_E_TOOBIG},
        {ENAMETOOLONG, NETKIT_E_TOOBIG},
        {E2BIG, NETKIT_E_TOOBIG},
        {EACCES, NETKIT_E_ACCESS},
        {EPERM, NETKIT_E_ACCESS},
        {EROFS, NETKIT_E_ACCESS},
        {EEXIST, NETKIT_E_EXISTS},
        {EISCONN, NETKIT_E_EXISTS},
        {ENOENT, NETKIT_E_NOTFOUND},
        {ENOTDIR, NETKIT_E_NOTFOUND},
        {ENODEV, NETKIT_E_NOTFOUND},
        {ENXIO, NETKIT_E_NOTFOUND},
        {EINVAL, NETKIT_E_INVALID},
        {EBADF, NETKIT_E_INVALID},
        {EFAULT, NETKIT_E_INVALID},
        {ENOTSOCK, NETKIT_E_INVALID},
        {ELOOP, NETKIT_E_INVALID},
        {ENOSYS, NETKIT_E_NOSYS},
        {ENOTSUP, NETKIT_E_NOSYS},
        {EOPNOTSUPP, NETKIT_E_NOSYS},
        {EAFNOSUPPORT, NETKIT_E_NOSYS},
        {EPFNOSUPPORT, NETKIT_E_NOSYS},
        {EPROTONOSUPPORT, NETKIT_E_NOSYS},
        {ESOCKTNOSUPPORT, NETKIT_E_NOSYS},
        {EPROTOTYPE, NETKIT_E_NOSYS},
        {ENOPROTOOPT, NETKIT_E_NOSYS},
        {ESHUTDOWN, NETKIT_E_CLOSED},
        {ECANCELED, NETKIT_E_CANCELLED},
        {EBUSY, NETKIT_E_BUSY},
#ifdef ENONET
        {ENONET, NETKIT_E_UNREACHABLE},
#endif
#ifdef EDQUOT
        {EDQUOT, NETKIT_E_FULL},
#endif
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].os_code == os_code) {
            return rows[i].code;
        }
    }
    return os_code == 0 ? NETKIT_OK : NETKIT_E_IO;
}

/* The netkit code of the failure just seen. */
static NKI_OUTLINE int nki_os_error(void) {
    return netkit_error_from_os(errno);
}

static int nki_os_fail(int os_code) {
    errno = os_code;
    return netkit_error_from_os(os_code);
}

/* A socket as the system's descriptor: what cannot be one is -1, which is EBADF everywhere but in
 * poll, where it is nobody. Cutting the upper half off instead could hit a stranger's. */
static int nki_os_fd(uintptr_t s) {
    return s <= (uintptr_t)INT_MAX ? (int)s : -1;
}

static int nki_os_timed_out(void) {
    return nki_os_fail(ETIMEDOUT);
}

static void nki_os_abandon(uintptr_t s) {
    int os_code = errno;
    (void)NKI_SYS_close(nki_os_fd(s));
    errno = os_code;
}

static void nki_os_abandon_file(uintptr_t file) {
    nki_os_abandon(file);
}

/* CLOCK_MONOTONIC cannot fail where it exists, and it does on every system netkit runs on. 0
 * stands for a failure all the same, and who waits takes it for "time is up". */
static uint64_t nki_os_now_ns(void) {
    struct timespec now;
    if (NKI_SYS_clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        return 0;
    }
    return (uint64_t)now.tv_sec * NKI_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Where there is no call for it, or a sandbox refuses the call. */
static int nki_os_random_device(void *out, size_t size) {
    int fd = NKI_SYS_open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return nki_os_error();
    }
    char *at = (char *)out;
    int rc = NETKIT_OK;
    while (size > 0 && rc == NETKIT_OK) {
        ssize_t got = NKI_SYS_read(fd, at, size);
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        } else if (got == 0) {
            rc = NETKIT_E_IO;
        } else if (errno != EINTR) {
            rc = nki_os_error();
        }
    }
    nki_os_abandon((uintptr_t)fd);
    return rc;
}

static int nki_os_random(void *out, size_t size) {
    char *at = (char *)out;
#if NKI_LINUX || NKI_BSD
    while (size > 0) {
        size_t want = NKI_MIN(size, 256u); /* up to here getrandom(2) is never cut short */
        long got = (long)NKI_SYS_getrandom(at, want);
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        } else if (got == 0 || errno != EINTR) {
            break;
        }
    }
#endif
    return size == 0 ? NETKIT_OK : nki_os_random_device(at, size);
}

/* Who is calling, for the check at the head of every call. On Linux the thread's own control
 * block is one instruction away and needs no function (x86-64 psABI: %fs:0 holds its address;
 * AArch64: TPIDR_EL0); elsewhere pthread_self tells. */
static NKI_HOT uintptr_t nki_os_thread_id(void) {
#if !NKI_HAS_THREADS
    return 1;
#elif NKI_LINUX && defined(__GNUC__) && defined(__x86_64__) && !defined(__ILP32__)
    uintptr_t id;
    __asm__("mov %%fs:0, %0" : "=r"(id));
    return id;
#elif NKI_LINUX && defined(__GNUC__) && defined(__aarch64__) && !defined(__ILP32__)
    uintptr_t id;
    __asm__("mrs %0, tpidr_el0" : "=r"(id));
    return id;
#else
    return (uintptr_t)pthread_self();
#endif
}

static uint32_t nki_os_interface(const char *name) {
    return NKI_SYS_if_nametoindex(name);
}

#endif /* NKI_POSIX */
