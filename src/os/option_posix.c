/* Options of sockets on POSIX: one table from netkit's names to the system's.
 *
 * A row that the system has no name for says so with the level -1 and gives NETKIT_E_NOSYS; so
 * does an option of TCP asked of another protocol, by the kernel's own ENOPROTOOPT or EOPNOTSUPP.
 * What a kernel returns for a boolean may be any number but 0 (the BSDs return the option's bit):
 * it is made 1. Blocking and close-on-exec are flags of the descriptor and go through fcntl. Time
 * limits are milliseconds here and a struct timeval there, lingering is one number here. */

#if NKI_POSIX

#if defined(TCP_KEEPIDLE)
#define NKI_TCP_KEEPIDLE TCP_KEEPIDLE
#elif defined(TCP_KEEPALIVE) /* the same under macOS's name */
#define NKI_TCP_KEEPIDLE TCP_KEEPALIVE
#endif

static const nki_option_row *nki_option_find(netkit_option option) {
    static const nki_option_row rows[] = {
        {NETKIT_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE, NKI_OPTION_BOOL},
        {NETKIT_OPT_REUSE_ADDR, SOL_SOCKET, SO_REUSEADDR, NKI_OPTION_BOOL},
        {NETKIT_OPT_EXCLUSIVE_ADDR, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY, NKI_OPTION_BOOL},
        {NETKIT_OPT_RECV_BUFFER, SOL_SOCKET, SO_RCVBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_SEND_BUFFER, SOL_SOCKET, SO_SNDBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_RECV_TIMEOUT, SOL_SOCKET, SO_RCVTIMEO, NKI_OPTION_TIME},
        {NETKIT_OPT_SEND_TIMEOUT, SOL_SOCKET, SO_SNDTIMEO, NKI_OPTION_TIME},
        {NETKIT_OPT_LINGER, SOL_SOCKET, SO_LINGER, NKI_OPTION_LINGER},
#if defined(TCP_FASTOPEN)
        {NETKIT_OPT_FAST_OPEN, IPPROTO_TCP, TCP_FASTOPEN, NKI_OPTION_NATURAL},
#else
        {NETKIT_OPT_FAST_OPEN, -1, 0, NKI_OPTION_NATURAL},
#endif
#if defined(TCP_FASTOPEN_CONNECT)
        {NETKIT_OPT_FAST_OPEN_CONNECT, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, NKI_OPTION_BOOL},
#else
        {NETKIT_OPT_FAST_OPEN_CONNECT, -1, 0, NKI_OPTION_BOOL},
#endif
#if NKI_LINUX && defined(SO_PASSCRED)
        {NETKIT_OPT_CREDENTIALS, SOL_SOCKET, SO_PASSCRED, NKI_OPTION_BOOL},
#else
        {NETKIT_OPT_CREDENTIALS, -1, 0, NKI_OPTION_BOOL},
#endif
#if defined(NKI_TCP_KEEPIDLE)
        {NETKIT_OPT_KEEPALIVE_IDLE, IPPROTO_TCP, NKI_TCP_KEEPIDLE, NKI_OPTION_POSITIVE},
#else
        {NETKIT_OPT_KEEPALIVE_IDLE, -1, 0, NKI_OPTION_POSITIVE},
#endif
#if defined(TCP_KEEPINTVL) && defined(TCP_KEEPCNT)
        {NETKIT_OPT_KEEPALIVE_PERIOD, IPPROTO_TCP, TCP_KEEPINTVL, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_COUNT, IPPROTO_TCP, TCP_KEEPCNT, NKI_OPTION_POSITIVE},
#else
        {NETKIT_OPT_KEEPALIVE_PERIOD, -1, 0, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_COUNT, -1, 0, NKI_OPTION_POSITIVE},
#endif
#if defined(TCP_USER_TIMEOUT)
        {NETKIT_OPT_USER_TIMEOUT, IPPROTO_TCP, TCP_USER_TIMEOUT, NKI_OPTION_NATURAL},
#else
        {NETKIT_OPT_USER_TIMEOUT, -1, 0, NKI_OPTION_NATURAL},
#endif
#if NKI_LINUX && defined(SO_REUSEPORT)
        {NETKIT_OPT_REUSE_PORT, SOL_SOCKET, SO_REUSEPORT, NKI_OPTION_BOOL},
#elif defined(SO_REUSEPORT_LB)
        {NETKIT_OPT_REUSE_PORT, SOL_SOCKET, SO_REUSEPORT_LB, NKI_OPTION_BOOL},
#else
        {NETKIT_OPT_REUSE_PORT, -1, 0, NKI_OPTION_BOOL},
#endif
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

/* Set or clear one flag of a descriptor; no call is made that changes nothing. */
static int nki_option_set_flag(int fd, int get, int set, int flag, bool is_set) {
    int flags = NKI_SYS_fcntl(fd, get, 0);
    if (flags < 0) {
        return nki_os_error();
    }
    int wanted = is_set ? flags | flag : flags & ~flag;
    if (wanted != flags && NKI_SYS_fcntl(fd, set, wanted) < 0) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

static int nki_option_get_flag(int fd, int get, int flag, bool *is_set) {
    int flags = NKI_SYS_fcntl(fd, get, 0);
    if (flags < 0) {
        return nki_os_error();
    }
    *is_set = (flags & flag) != 0;
    return NETKIT_OK;
}

static int nki_option_set_time(int fd, const nki_option_row *row, int value) {
    struct timeval time;
    memset(&time, 0, sizeof time);
    time.tv_sec = value / 1000;
    time.tv_usec = value % 1000 * 1000L;
    return NKI_SYS_setsockopt(fd, row->level, row->name, &time, (socklen_t)sizeof time) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_option_get_time(int fd, const nki_option_row *row, int *value) {
    struct timeval time;
    socklen_t len = (socklen_t)sizeof time;
    memset(&time, 0, sizeof time);
    if (NKI_SYS_getsockopt(fd, row->level, row->name, &time, &len) != 0) {
        return nki_os_error();
    }
    int64_t ms = (int64_t)time.tv_sec * 1000 + ((int64_t)time.tv_usec + 999) / 1000;
    *value = ms > INT_MAX ? INT_MAX : (int)ms;
    return NETKIT_OK;
}

static int nki_option_set_linger(int fd, int value) {
    struct linger linger;
    memset(&linger, 0, sizeof linger);
    linger.l_onoff = value >= 0;
    linger.l_linger = value >= 0 ? value : 0;
    return NKI_SYS_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, (socklen_t)sizeof linger) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_option_get_linger(int fd, int *value) {
    struct linger linger;
    socklen_t len = (socklen_t)sizeof linger;
    memset(&linger, 0, sizeof linger);
    if (NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) != 0) {
        return nki_os_error();
    }
    *value = linger.l_onoff != 0 ? linger.l_linger : -1;
    return NETKIT_OK;
}

/* EINVAL, although the value is one that the option has: macOS says so of every option of a
 * connection that was reset (SD44). Such a one has no name for its peer either. */
static NKI_COLD int nki_option_refused(int fd, int rc) {
    int os_code = errno;
    netkit_addr peer;
    bool is_reset = os_code == EINVAL && nki_os_peer(fd, &peer) == NETKIT_E_RESET;
    errno = os_code;
    return is_reset ? (int)NETKIT_E_RESET : rc;
}

static int nki_option_set_row(int fd, const nki_option_row *row, int value) {
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    switch (row->values) {
    case NKI_OPTION_TIME: return nki_option_set_time(fd, row, value);
    case NKI_OPTION_LINGER: return nki_option_set_linger(fd, value);
    default: {
        int rc = nki_os_set_int(fd, row->level, row->name, value);
        return rc == NETKIT_OK ? rc : nki_option_refused(fd, rc);
    }
    }
}

static int nki_os_set_option(uintptr_t s, netkit_option option, int value) {
    int fd = nki_os_fd(s);
    bool is_flag = option == NETKIT_OPT_BLOCKING || option == NETKIT_OPT_CLOSE_ON_EXEC;
    const nki_option_row *row = nki_option_find(option);
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_set_ip_option(s, option, value);
    }
    if ((row == NULL && !is_flag) ||
        !nki_option_accepts(is_flag ? (int)NKI_OPTION_BOOL : row->values, value)) {
        return NETKIT_E_INVALID;
    }
    if (option == NETKIT_OPT_BLOCKING) {
        return nki_option_set_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, value == 0);
    }
    if (option == NETKIT_OPT_CLOSE_ON_EXEC) {
        return nki_option_set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, value != 0);
    }
    return nki_option_set_row(fd, row, value);
}

static int nki_option_get_int(int fd, const nki_option_row *row, int *value) {
    int raw = 0;
    socklen_t len = (socklen_t)sizeof(raw);
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    if (row->values == NKI_OPTION_TIME) {
        return nki_option_get_time(fd, row, value);
    }
    if (row->values == NKI_OPTION_LINGER) {
        return nki_option_get_linger(fd, value);
    }
    if (NKI_SYS_getsockopt(fd, row->level, row->name, &raw, &len) != 0) {
        return nki_option_refused(fd, nki_os_error());
    }
    *value = row->values == NKI_OPTION_BOOL ? raw != 0 : raw;
    return NETKIT_OK;
}

static int nki_os_get_option(uintptr_t s, netkit_option option, int *value) {
    int fd = nki_os_fd(s);
    bool is_set = false;
    int error;
    int rc;
    const nki_option_row *row = nki_option_find(option);
    *value = 0;
    if (row != NULL) {
        return nki_option_get_int(fd, row, value);
    }
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_get_ip_option(s, option, value);
    }
    switch ((int)option) {
    case NETKIT_OPT_BLOCKING:
        rc = nki_option_get_flag(fd, F_GETFL, O_NONBLOCK, &is_set);
        *value = rc == NETKIT_OK && !is_set;
        return rc;
    case NETKIT_OPT_CLOSE_ON_EXEC:
        rc = nki_option_get_flag(fd, F_GETFD, FD_CLOEXEC, &is_set);
        *value = is_set;
        return rc;
    case NETKIT_OPT_ERROR:
        rc = nki_os_pending_error(fd, &error);
        *value = netkit_error_from_os(error);
        return rc;
    default: return NETKIT_E_INVALID;
    }
}

/* ---- texts ---- */

#if defined(TCP_CONGESTION)
enum {
    NKI_CONGESTION_MAX = 16 /* with its NUL, on Linux and FreeBSD */
};

static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value) {
    size_t len = strlen(value);
    if (option != NETKIT_OPT_CONGESTION || len == 0) {
        return NETKIT_E_INVALID;
    }
    if (len >= NKI_CONGESTION_MAX) {
        return NETKIT_E_NOTFOUND; /* Linux would cut it, and find another */
    }
    return NKI_SYS_setsockopt(nki_os_fd(s), IPPROTO_TCP, TCP_CONGESTION, value, (socklen_t)len) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size) {
    char name[NKI_CONGESTION_MAX + 1];
    socklen_t len = (socklen_t)NKI_CONGESTION_MAX;
    if (option != NETKIT_OPT_CONGESTION) {
        return NETKIT_E_INVALID;
    }
    memset(name, 0, sizeof name);
    if (NKI_SYS_getsockopt(nki_os_fd(s), IPPROTO_TCP, TCP_CONGESTION, name, &len) != 0) {
        return nki_os_error();
    }
    size_t used = strlen(name);
    if (used >= size) {
        return NETKIT_E_TOOBIG;
    }
    memcpy(text, name, used + 1);
    return (int)used;
}
#else
static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value) {
    NKI_UNUSED(s);
    NKI_UNUSED(value);
    return option == NETKIT_OPT_CONGESTION ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}

static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(text);
    NKI_UNUSED(size);
    return option == NETKIT_OPT_CONGESTION ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}
#endif

#endif /* NKI_POSIX */
