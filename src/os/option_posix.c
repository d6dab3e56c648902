/* Options of sockets on POSIX: one table from netkit's names to the system's.
 *
 * A row that the system has no name for says so with the level -1 and gives NETKIT_E_NOSYS; so
 * does an option of TCP asked of another protocol, by the kernel's own ENOPROTOOPT or EOPNOTSUPP.
 * What a kernel returns for a boolean may be any number but 0 (the BSDs return the option's bit):
 * it is made 1. Blocking and close-on-exec are flags of the descriptor and go through fcntl. */

#if NKI_POSIX

#if defined(TCP_KEEPIDLE)
#define NKI_TCP_KEEPIDLE TCP_KEEPIDLE
#elif defined(TCP_KEEPALIVE) /* the same under macOS's name */
#define NKI_TCP_KEEPIDLE TCP_KEEPALIVE
#endif

enum {
    NKI_OPTION_BOOL = 0,
    NKI_OPTION_POSITIVE = 1,
    NKI_OPTION_NATURAL = 2
};

typedef struct nki_option_row {
    int option;
    int level; /* -1 = the system has none such */
    int name;
    int values; /* NKI_OPTION_* */
} nki_option_row;

static const nki_option_row *nki_option_find(netkit_option option) {
    static const nki_option_row rows[] = {
        {NETKIT_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE, NKI_OPTION_BOOL},
        {NETKIT_OPT_REUSE_ADDR, SOL_SOCKET, SO_REUSEADDR, NKI_OPTION_BOOL},
        {NETKIT_OPT_EXCLUSIVE_ADDR, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY, NKI_OPTION_BOOL},
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

static bool nki_option_accepts(int values, int value) {
    if (values == NKI_OPTION_BOOL) {
        return value == 0 || value == 1;
    }
    return value >= (values == NKI_OPTION_POSITIVE ? 1 : 0);
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
    return row->level < 0 ? (int)NETKIT_E_NOSYS : nki_os_set_int(fd, row->level, row->name, value);
}

static int nki_option_get_int(int fd, const nki_option_row *row, int *value) {
    int raw = 0;
    socklen_t len = (socklen_t)sizeof(raw);
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    if (NKI_SYS_getsockopt(fd, row->level, row->name, &raw, &len) != 0) {
        return nki_os_error();
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

#endif /* NKI_POSIX */
