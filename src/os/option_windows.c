/* Options of sockets on Windows: one table from netkit's names to the system's.
 *
 * A row that the system has no name for says so with the level -1 and gives NETKIT_E_NOSYS. A
 * boolean comes back as one byte or as four, into a number that was 0. Close-on-exec is a flag of
 * the handle. Whether a socket is blocking can be set but not asked. */

#if NKI_WINDOWS

/* Of Windows 10; the numbers are the system's own. */
#define NKI_TCP_KEEPIDLE 3
#define NKI_TCP_KEEPCNT 16
#define NKI_TCP_KEEPINTVL 17

static const nki_option_row *nki_option_find(netkit_option option) {
    static const nki_option_row rows[] = {
        {NETKIT_OPT_NODELAY, IPPROTO_TCP, TCP_NODELAY, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE, SOL_SOCKET, SO_KEEPALIVE, NKI_OPTION_BOOL},
        {NETKIT_OPT_KEEPALIVE_IDLE, IPPROTO_TCP, NKI_TCP_KEEPIDLE, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_PERIOD, IPPROTO_TCP, NKI_TCP_KEEPINTVL, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_KEEPALIVE_COUNT, IPPROTO_TCP, NKI_TCP_KEEPCNT, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_USER_TIMEOUT, -1, 0, NKI_OPTION_NATURAL},
        {NETKIT_OPT_REUSE_ADDR, SOL_SOCKET, SO_REUSEADDR, NKI_OPTION_BOOL},
        {NETKIT_OPT_EXCLUSIVE_ADDR, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, NKI_OPTION_BOOL},
        {NETKIT_OPT_REUSE_PORT, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_V6ONLY, IPPROTO_IPV6, IPV6_V6ONLY, NKI_OPTION_BOOL},
        {NETKIT_OPT_RECV_BUFFER, SOL_SOCKET, SO_RCVBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_SEND_BUFFER, SOL_SOCKET, SO_SNDBUF, NKI_OPTION_POSITIVE},
        {NETKIT_OPT_RECV_TIMEOUT, SOL_SOCKET, SO_RCVTIMEO, NKI_OPTION_NATURAL},
        {NETKIT_OPT_SEND_TIMEOUT, SOL_SOCKET, SO_SNDTIMEO, NKI_OPTION_NATURAL},
        {NETKIT_OPT_LINGER, SOL_SOCKET, SO_LINGER, NKI_OPTION_LINGER},
        {NETKIT_OPT_FAST_OPEN, -1, 0, NKI_OPTION_NATURAL},
        {NETKIT_OPT_FAST_OPEN_CONNECT, -1, 0, NKI_OPTION_BOOL},
        {NETKIT_OPT_CREDENTIALS, -1, 0, NKI_OPTION_BOOL},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

static int nki_option_set_linger(SOCKET s, int value) {
    struct linger linger;
    linger.l_onoff = value >= 0 ? 1 : 0;
    linger.l_linger = (u_short)NKI_MAX(value, 0);
    return NKI_SYS_setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, (int)sizeof linger) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_option_get_linger(SOCKET s, int *value) {
    struct linger linger;
    int len = (int)sizeof linger;
    memset(&linger, 0, sizeof linger);
    if (NKI_SYS_getsockopt(s, SOL_SOCKET, SO_LINGER, &linger, &len) != 0) {
        return nki_os_error();
    }
    *value = linger.l_onoff != 0 ? linger.l_linger : -1;
    return NETKIT_OK;
}

static int nki_option_set_inherited(uintptr_t s, bool is_inherited) {
    DWORD flags = is_inherited ? HANDLE_FLAG_INHERIT : 0;
    return NKI_SYS_set_handle(nki_os_handle(s), HANDLE_FLAG_INHERIT, flags) ? NETKIT_OK
                                                                            : nki_os_error();
}

static int nki_option_get_inherited(uintptr_t s, int *is_closed) {
    DWORD flags = 0;
    if (!NKI_SYS_get_handle(nki_os_handle(s), &flags)) {
        return nki_os_error();
    }
    *is_closed = (flags & HANDLE_FLAG_INHERIT) == 0;
    return NETKIT_OK;
}

/* SO_REUSEADDR shares a port between datagram sockets; of streams it would let anybody take it. */
static int nki_option_set_row(uintptr_t s, const nki_option_row *row, int value) {
    bool is_theft = row->option == NETKIT_OPT_REUSE_ADDR && !nki_os_is_datagram(s);
    if (row->level < 0 || is_theft) {
        return NETKIT_E_NOSYS;
    }
    return row->values == NKI_OPTION_LINGER
               ? nki_option_set_linger(nki_os_fd(s), value)
               : nki_os_set_int(nki_os_fd(s), row->level, row->name, value);
}

static int nki_os_set_option(uintptr_t s, netkit_option option, int value) {
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
        return nki_os_set_blocking(nki_os_fd(s), value != 0);
    }
    if (option == NETKIT_OPT_CLOSE_ON_EXEC) {
        return nki_option_set_inherited(s, value == 0);
    }
    return nki_option_set_row(s, row, value);
}

static int nki_option_get_row(uintptr_t s, const nki_option_row *row, int *value) {
    int raw;
    if (row->level < 0) {
        return NETKIT_E_NOSYS;
    }
    if (row->values == NKI_OPTION_LINGER) {
        return nki_option_get_linger(nki_os_fd(s), value);
    }
    int rc = nki_os_get_int(nki_os_fd(s), row->level, row->name, &raw);
    if (rc == NETKIT_OK) {
        *value = row->values == NKI_OPTION_BOOL ? raw != 0 : raw;
    }
    return rc;
}

static int nki_os_get_option(uintptr_t s, netkit_option option, int *value) {
    const nki_option_row *row = nki_option_find(option);
    int error;
    int rc;
    *value = 0;
    if (row != NULL) {
        return nki_option_get_row(s, row, value);
    }
    if (option >= NETKIT_OPT_BROADCAST) {
        return nki_os_get_ip_option(s, option, value);
    }
    switch ((int)option) {
    case NETKIT_OPT_BLOCKING: return NETKIT_E_NOSYS;
    case NETKIT_OPT_CLOSE_ON_EXEC: return nki_option_get_inherited(s, value);
    case NETKIT_OPT_ERROR:
        rc = nki_os_get_int(nki_os_fd(s), SOL_SOCKET, SO_ERROR, &error);
        *value = netkit_error_from_os(error);
        return rc;
    default: return NETKIT_E_INVALID;
    }
}

static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value) {
    NKI_UNUSED(s);
    return option == NETKIT_OPT_CONGESTION && value[0] != '\0' ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}

static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(text);
    NKI_UNUSED(size);
    return option == NETKIT_OPT_CONGESTION ? NETKIT_E_NOSYS : NETKIT_E_INVALID;
}

#endif /* NKI_WINDOWS */
