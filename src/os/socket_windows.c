/* Sockets on Windows: one thin function for each thing the library does with a socket.
 *
 * Owns: what each failure means, and what Windows has not.
 * - No call can be told not to wait, and no socket says whether it is blocking. So what must not
 *   wait looks first whether it would have to, and sends no more than certainly fits. Connecting
 *   within a time is an overlapped call, which does not mind.
 * - A port that is bound is nobody else's (SO_EXCLUSIVEADDRUSE): SO_REUSEADDR would be an
 *   invitation to take it over. Binding over connections in TIME_WAIT needs no option here.
 * - To a port of this machine where nobody listens, connecting is tried four times in two seconds,
 *   unless told not to (SIO_TCP_INITIAL_RTO): the refusal of this machine is final.
 * - ICMP's "port unreachable" makes receiving fail on unconnected sockets, too (WSAECONNRESET),
 *   unless told not to (SIO_UDP_CONNRESET).
 * - WSAPoll did not report a refused connect before Windows 10 2004, select does.
 * Closing is graceful: what was sent is still delivered. */

#if NKI_WINDOWS

#define NKI_MSG_MORE 0
#define NKI_SIO_UDP_CONNRESET _WSAIOW(IOC_VENDOR, 12)
#define NKI_SIO_TCP_INITIAL_RTO _WSAIOW(IOC_VENDOR, 17)

enum {
    NKI_NOW_MOST =
        16384, /* bytes that a socket takes at once when it says that it can be written */
    NKI_LISTEN_PLAIN = 200 /* a backlog above is cut to it, unless given as a hint */
};

static int nki_os_set_blocking(SOCKET s, bool is_blocking) {
    u_long mode = is_blocking ? 0 : 1;
    return NKI_SYS_ioctl(s, (long)FIONBIO, &mode) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_get_int(SOCKET s, int level, int name, int *value) {
    int len = (int)sizeof *value;
    *value = 0;
    return NKI_SYS_getsockopt(s, level, name, value, &len) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_set_int(SOCKET s, int level, int name, int value) {
    return NKI_SYS_setsockopt(s, level, name, &value, (int)sizeof value) != 0 ? nki_os_error()
                                                                              : NETKIT_OK;
}

/* Whether receiving fails with what ICMP says. Not every provider knows it. */
static int nki_os_set_reports(SOCKET s, bool is_on) {
    BOOL value = is_on ? TRUE : FALSE;
    DWORD got = 0;
    return NKI_SYS_control(s, NKI_SIO_UDP_CONNRESET, &value, (DWORD)sizeof value, NULL, 0, &got) !=
                   0
               ? nki_os_error()
               : NETKIT_OK;
}

/* What is not bound before it connects is for both families, as elsewhere: a mapped address is one
 * of IPv4, which a socket for IPv6 alone, the kind that is made here, cannot reach. */
static int nki_os_finish_socket(SOCKET s, int domain, bool is_blocking) {
    int rc = is_blocking ? (int)NETKIT_OK : nki_os_set_blocking(s, false);
    return rc == NETKIT_OK && domain == AF_INET6 ? nki_os_set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, 0)
                                                 : rc;
}

static int nki_os_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    int domain = nki_os_domain(family);
    *out = UINTPTR_MAX;
    if (domain < 0 || (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM)) {
        return NETKIT_E_INVALID;
    }
    SOCKET s = NKI_SYS_socket(domain, type == NETKIT_SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (s == INVALID_SOCKET) {
        return nki_os_error();
    }
    int rc = nki_os_finish_socket(s, domain, is_blocking);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)s);
        return rc;
    }
    if (type == NETKIT_SOCK_DGRAM) {
        (void)nki_os_set_reports(s, false);
    }
    *out = (uintptr_t)s;
    return NETKIT_OK;
}

static bool nki_os_is_datagram(uintptr_t s) {
    int type = 0;
    int len = (int)sizeof type;
    return NKI_SYS_getsockopt(nki_os_fd(s), SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
           type == SOCK_DGRAM;
}

/* ---- binding, listening, accepting ---- */

/* A socket that shares its port, for multicasts, was told so before. */
static int nki_os_bind_options(SOCKET s, const netkit_addr *addr, int flags) {
    int is_shared;
    int rc = nki_os_get_int(s, SOL_SOCKET, SO_REUSEADDR, &is_shared);
    if (rc == NETKIT_OK && is_shared == 0) {
        rc = nki_os_set_int(s, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
    }
    if (rc == NETKIT_OK && addr->family == NETKIT_AF_IPV6) {
        bool is_v6only = (flags & NETKIT_SOCKET_V6ONLY) != 0;
        rc = nki_os_set_int(s, IPPROTO_IPV6, IPV6_V6ONLY, is_v6only ? 1 : 0);
    }
    return rc;
}

static int nki_os_bind(uintptr_t s, const netkit_addr *addr, int flags) {
    const int known = NETKIT_SOCKET_REUSE_PORT | NETKIT_SOCKET_V6ONLY | NETKIT_SOCKET_NO_REUSE |
                      NETKIT_SOCKET_REPLACE;
    struct sockaddr_storage sa;
    socklen_t len;
    netkit_unix_file file;
    if ((flags & ~known) != 0) {
        return NETKIT_E_INVALID;
    }
    if (addr->family == NETKIT_AF_UNIX && (flags & NETKIT_SOCKET_REPLACE) != 0) {
        return nki_os_bind_unix(s, addr, flags, 0, &file);
    }
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc == NETKIT_OK && (flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        rc = NETKIT_E_NOSYS; /* no balance: SO_REUSEADDR gives everything to one of them */
    }
    if (rc == NETKIT_OK && addr->family != NETKIT_AF_UNIX) {
        rc = nki_os_bind_options(nki_os_fd(s), addr, flags);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&sa;
    return NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_listen(uintptr_t s, int backlog) {
    if (backlog < 0) {
        return NETKIT_E_INVALID;
    }
    int most = backlog == 0 ? SOMAXCONN : backlog;
    if (backlog > NKI_LISTEN_PLAIN) {
        most = -NKI_MIN(backlog, 65535); /* SOMAXCONN_HINT */
    }
    return NKI_SYS_listen(nki_os_fd(s), most) != 0 ? nki_os_error() : NETKIT_OK;
}

/* Of the connection, not of the listener: it was reset before it was accepted. */
static NKI_COLD int nki_os_accept_error(void) {
    switch (nki_os_code()) {
    case WSAECONNRESET:
    case WSAECONNABORTED:
    case WSAENETRESET:
    case WSAENETDOWN:
    case WSAENOTCONN: /* wine's word for it, when it is asked who that was */
    case WSAETIMEDOUT: return NETKIT_E_ABORTED;
    default: return nki_os_error();
    }
}

/* The mode is the listener's at first, and programs that are started would inherit the socket. */
static int nki_os_finish_accepted(SOCKET s) {
    int rc = nki_os_set_blocking(s, false);
    if (rc == NETKIT_OK && !NKI_SYS_set_handle(nki_os_handle(s), HANDLE_FLAG_INHERIT, 0)) {
        rc = nki_os_error();
    }
    return rc;
}

static int nki_os_accept(uintptr_t s, uintptr_t *out, netkit_addr *peer) {
    struct sockaddr_storage sa;
    int len = (int)sizeof sa;
    struct sockaddr *at = peer != NULL ? (struct sockaddr *)(void *)&sa : NULL;
    *out = UINTPTR_MAX;
    if (peer != NULL) {
        memset(peer, 0, sizeof *peer);
        memset(&sa, 0, sizeof sa);
    }
    SOCKET taken = NKI_SYS_accept(nki_os_fd(s), at, at != NULL ? &len : NULL);
    if (taken == INVALID_SOCKET) {
        return nki_os_code() == WSAEWOULDBLOCK ? (int)NETKIT_E_AGAIN : nki_os_accept_error();
    }
    int rc = nki_os_finish_accepted(taken);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)taken);
        return rc;
    }
    if (peer != NULL) {
        nki_sockaddr_to(peer, &sa, len);
    }
    *out = (uintptr_t)taken;
    return NETKIT_OK;
}

/* ---- names ---- */

static int nki_os_name(SOCKET s, bool is_peer, netkit_addr *out) {
    struct sockaddr_storage sa;
    int len = (int)sizeof sa;
    struct sockaddr *at = (struct sockaddr *)(void *)&sa;
    memset(out, 0, sizeof *out);
    memset(&sa, 0, sizeof sa);
    int rc = is_peer ? NKI_SYS_getpeername(s, at, &len) : NKI_SYS_getsockname(s, at, &len);
    if (rc != 0) {
        return nki_os_error();
    }
    nki_sockaddr_to(out, &sa, len);
    return NETKIT_OK;
}

/* NETKIT_AF_* of a socket, bound or not. */
static int nki_os_family(uintptr_t s, int *family) {
    WSAPROTOCOL_INFOW info;
    int len = (int)sizeof info;
    *family = NETKIT_AF_NONE;
    if (NKI_SYS_getsockopt(nki_os_fd(s), SOL_SOCKET, SO_PROTOCOL_INFOW, &info, &len) != 0) {
        return nki_os_error();
    }
    *family = info.iAddressFamily == AF_INET    ? NETKIT_AF_IPV4
              : info.iAddressFamily == AF_INET6 ? NETKIT_AF_IPV6
              : info.iAddressFamily == AF_UNIX  ? NETKIT_AF_UNIX
                                                : NETKIT_AF_NONE;
    return NETKIT_OK;
}

/* A socket that was never bound has no name here (WSAEINVAL): elsewhere its address is all zero. */
static int nki_os_local(uintptr_t s, netkit_addr *out) {
    int rc = nki_os_name(nki_os_fd(s), false, out);
    if (rc == NETKIT_OK || nki_os_code() != WSAEINVAL) {
        return rc;
    }
    int family;
    rc = nki_os_family(s, &family);
    out->family = (uint8_t)family;
    return rc;
}

static int nki_os_remote(uintptr_t s, netkit_addr *out) {
    return nki_os_name(nki_os_fd(s), true, out);
}

/* A TCP socket that dials a port of the ephemeral range nobody listens on may be given that very
 * port as its own, meet its own SYN and connect to itself (RFC 9293, 3.5: simultaneous open). It
 * would then hold the port against the server it waits for: that is a refusal (C-07). */
static int nki_os_check_peer(SOCKET s) {
    netkit_addr peer;
    netkit_addr self;
    int rc = nki_os_name(s, true, &peer);
    if (rc != NETKIT_OK || (peer.family != NETKIT_AF_IPV4 && peer.family != NETKIT_AF_IPV6)) {
        return rc;
    }
    rc = nki_os_name(s, false, &self);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_same = self.port == peer.port && self.family == peer.family &&
                   memcmp(self.ip, peer.ip, sizeof self.ip) == 0;
    return is_same && !nki_os_is_datagram((uintptr_t)s) ? nki_os_fail(WSAECONNREFUSED) : NETKIT_OK;
}

/* ---- waiting ---- */

static short nki_os_poll_from(uint32_t events) {
    int bits = (events & NETKIT_POLL_READ) != 0 ? POLLRDNORM : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? POLLRDBAND : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? POLLWRNORM : 0;
    return (short)bits;
}

/* WSAPoll's hang-up is one direction's, the peer's; with an error it is both. */
static uint32_t nki_os_poll_to(short bits) {
    uint32_t events = (bits & POLLRDNORM) != 0 ? (uint32_t)NETKIT_POLL_READ : 0u;
    events |= (bits & POLLRDBAND) != 0 ? (uint32_t)NETKIT_POLL_PRIORITY : 0u;
    events |= (bits & POLLWRNORM) != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    events |= (bits & POLLERR) != 0 ? (uint32_t)NETKIT_POLL_ERROR : 0u;
    if ((bits & POLLHUP) != 0) {
        events |= (uint32_t)(NETKIT_POLL_READ | NETKIT_POLL_PEER_END);
        events |= (bits & POLLERR) != 0 ? (uint32_t)NETKIT_POLL_HANGUP : 0u;
    }
    return events;
}

/* Look without waiting: 1, 0, or an error. */
static int nki_os_look(SOCKET s, uint32_t events, uint32_t *held) {
    WSAPOLLFD one;
    one.fd = s;
    one.events = nki_os_poll_from(events);
    one.revents = 0;
    int ready = NKI_SYS_poll(&one, 1, 0);
    *held = ready > 0 ? nki_os_poll_to(one.revents) : 0;
    return ready < 0 ? nki_os_error() : ready > 0 && (one.revents & POLLNVAL) == 0 ? 1 : 0;
}

static void nki_fd_set_one(fd_set *set, SOCKET s, bool is_in) {
    set->fd_count = is_in ? 1 : 0;
    set->fd_array[0] = s;
}

/* The sets of one: select's limit of 64 does not matter. Its third says that connecting has failed.
 * Returns events, 0 after the time, or an error. */
static int nki_os_select(SOCKET s, uint32_t events, int ms) {
    fd_set readable;
    fd_set writable;
    fd_set special;
    struct timeval time;
    bool is_special = (events & (NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY)) != 0;
    uint32_t held = 0;
    nki_fd_set_one(&readable, s, (events & (NETKIT_POLL_READ | NETKIT_POLL_PEER_END)) != 0);
    nki_fd_set_one(&writable, s, (events & NETKIT_POLL_WRITE) != 0);
    nki_fd_set_one(&special, s, is_special);
    time.tv_sec = ms / 1000;
    time.tv_usec = ms % 1000 * 1000;
    int ready = NKI_SYS_select(&readable, &writable, &special, ms < 0 ? NULL : &time);
    if (ready <= 0) {
        return ready < 0 ? nki_os_error() : 0;
    }
    uint32_t seen = readable.fd_count != 0 ? (uint32_t)NETKIT_POLL_READ : 0u;
    seen |= writable.fd_count != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    (void)nki_os_look(s, events, &held); /* says more */
    held &= events | (uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP);
    if (special.fd_count != 0 && held == 0) {
        seen |= (uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_WRITE);
    }
    return (int)((seen | held) & (events | (uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP)));
}

static int nki_os_wait(uintptr_t s, uint32_t events, uint64_t deadline_ns) {
    if ((events & (NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY |
                   NETKIT_POLL_PEER_END)) == 0) {
        return NETKIT_E_INVALID; /* select takes no sets that are all empty */
    }
    for (;;) {
        uint64_t left = NKI_NEVER;
        if (deadline_ns != NKI_NEVER) {
            uint64_t now = nki_os_now_ns();
            left = now != 0 && now < deadline_ns ? deadline_ns - now : 0;
        }
        int ms = nki_os_poll_ms(left);
        int held = nki_os_select(nki_os_fd(s), events, ms);
        if (held != 0) {
            return held;
        }
        if (ms >= 0 && ms < INT_MAX) { /* else it was cut, and there is more */
            return nki_os_timed_out();
        }
    }
}

/* What there is instead of MSG_DONTWAIT: NETKIT_OK when a call will not wait. One that fails at
 * once does not wait either. */
static int nki_os_would_wait(uintptr_t s, uint32_t events) {
    uint32_t held;
    netkit_addr peer;
    int rc = nki_os_look(nki_os_fd(s), events, &held);
    if (rc != 0) {
        return rc < 0 ? rc : (int)NETKIT_OK;
    }
    rc = nki_os_remote(s, &peer);
    return rc == NETKIT_E_NOTCONN && !nki_os_is_datagram(s) ? rc : (int)NETKIT_E_AGAIN;
}

/* ---- connecting ---- */

static bool nki_os_is_loopback(const netkit_addr *addr) {
    static const uint8_t one[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    return addr->family == NETKIT_AF_IPV4 ? addr->ip[0] == 127
                                          : memcmp(addr->ip, one, sizeof one) == 0;
}

/* Where the system cannot, a refusal comes late. */
static void nki_os_fail_fast(SOCKET s, const netkit_addr *addr) {
    struct {
        uint16_t first_rtt; /* 0xFFFF = the system's */
        uint8_t retries;    /* 0xFE = none */
        uint8_t unused;
    } how = {0xFFFF, 0xFE, 0};
    DWORD got = 0;
    if (addr->family != NETKIT_AF_UNIX && nki_os_is_loopback(addr)) {
        int os_code = nki_os_code();
        (void)NKI_SYS_control(s, NKI_SIO_TCP_INITIAL_RTO, &how, (DWORD)sizeof how, NULL, 0, &got);
        WSASetLastError(os_code);
    }
}

static int nki_os_connect(uintptr_t s, const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_os_fail_fast(nki_os_fd(s), addr);
    if (NKI_SYS_connect(nki_os_fd(s), (const struct sockaddr *)(const void *)&sa, len) != 0) {
        return nki_os_error();
    }
    return nki_os_check_peer(nki_os_fd(s));
}

static int nki_os_connect_check(SOCKET s) {
    int error;
    int rc = nki_os_get_int(s, SOL_SOCKET, SO_ERROR, &error);
    if (rc == NETKIT_OK && error != 0) {
        rc = nki_os_fail(error);
    }
    return rc == NETKIT_OK ? nki_os_check_peer(s) : rc;
}

/* Without an error and without a peer a socket is on its way, or was never sent: then it has no
 * address either, unless it was bound to one. */
static int nki_os_connect_result(uintptr_t s) {
    SOCKET fd = nki_os_fd(s);
    netkit_addr self;
    int rc = nki_os_connect_check(fd);
    if (rc != NETKIT_E_NOTCONN) {
        return rc;
    }
    if (nki_os_name(fd, false, &self) != NETKIT_OK) {
        return nki_os_fail(WSAENOTCONN);
    }
    rc = nki_os_select(fd, NETKIT_POLL_WRITE, 0);
    if (rc <= 0) {
        return rc == 0 ? (int)NETKIT_E_AGAIN : rc;
    }
    rc = nki_os_connect_check(fd); /* over, without an error: it was connected, and is reset */
    return rc == NETKIT_E_NOTCONN ? nki_os_fail(WSAECONNRESET) : rc;
}

/* An overlapped connect wants a socket that is bound. To any address, if it is not. */
static int nki_os_bind_any(SOCKET s, int family) {
    netkit_addr any;
    struct sockaddr_storage sa;
    socklen_t len;
    memset(&any, 0, sizeof any);
    any.family = (uint8_t)family;
    (void)nki_sockaddr_from(&sa, &len, &any);
    if (NKI_SYS_bind(s, (const struct sockaddr *)(const void *)&sa, len) != 0 &&
        nki_os_code() != WSAEINVAL) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

/* The memory of a call is the system's until it is over, so a call that takes too long is cancelled
 * and waited for, which is soon. */
static int nki_os_await_overlapped(SOCKET s, OVERLAPPED *o, HANDLE event, int timeout_ms) {
    DWORD got = 0;
    DWORD flags = 0;
    DWORD ended = NKI_SYS_wait_handle(event, (DWORD)timeout_ms);
    int os_code = nki_os_code();
    if (ended != WAIT_OBJECT_0) {
        (void)NKI_SYS_cancel(nki_os_handle((uintptr_t)s), o);
    }
    if (NKI_SYS_result(s, o, &got, TRUE, &flags)) {
        return NETKIT_OK;
    }
    if (ended == WAIT_OBJECT_0 || nki_os_code() != WSA_OPERATION_ABORTED) {
        return nki_os_error();
    }
    return ended == WAIT_TIMEOUT ? nki_os_timed_out() : nki_os_fail(os_code);
}

static int nki_os_connect_overlapped(SOCKET s, const struct sockaddr *to, int len, int timeout_ms) {
    static const GUID which = WSAID_CONNECTEX;
    LPFN_CONNECTEX call = NULL;
    DWORD got = 0;
    OVERLAPPED o;
    GUID guid = which;
    if (NKI_SYS_extension(s, &guid, &call, (DWORD)sizeof call, &got) != 0) {
        return nki_os_error();
    }
    HANDLE event = NKI_SYS_event();
    if (event == NULL) {
        return nki_os_error();
    }
    memset(&o, 0, sizeof o);
    /* The lowest bit: no packet to a completion port that the socket may belong to. */
    o.hEvent = nki_os_handle((uintptr_t)event | 1u);
    int rc = NETKIT_OK;
    if (!NKI_SYS_connect_ex(call, s, to, len, &o)) {
        rc = nki_os_code() == WSA_IO_PENDING ? nki_os_await_overlapped(s, &o, event, timeout_ms)
                                             : nki_os_error();
    }
    nki_os_abandon_file((uintptr_t)event);
    if (rc == NETKIT_OK &&
        NKI_SYS_setsockopt(s, SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL, 0) != 0) {
        rc = nki_os_error();
    }
    return rc == NETKIT_OK ? nki_os_check_peer(s) : rc;
}

/* Datagrams and unix sockets connect at once. */
static int nki_os_connect_timed(uintptr_t s, const netkit_addr *addr, int timeout_ms) {
    struct sockaddr_storage sa;
    socklen_t len;
    if (addr->family == NETKIT_AF_UNIX || nki_os_is_datagram(s)) {
        return nki_os_connect(s, addr);
    }
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc == NETKIT_OK) {
        rc = nki_os_bind_any(nki_os_fd(s), addr->family);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_os_fail_fast(nki_os_fd(s), addr);
    return nki_os_connect_overlapped(nki_os_fd(s), (const struct sockaddr *)(const void *)&sa, len,
                                     timeout_ms);
}

static int nki_os_connect_within(uintptr_t s, const netkit_addr *addr, int timeout_ms) {
    if (timeout_ms > 0) {
        return nki_os_connect_timed(s, addr, timeout_ms);
    }
    int rc = timeout_ms == 0 ? nki_os_set_blocking(nki_os_fd(s), false) : (int)NETKIT_OK;
    if (rc == NETKIT_OK) {
        rc = nki_os_connect(s, addr);
    }
    while (timeout_ms < 0 && rc == NETKIT_E_AGAIN) {
        rc = nki_os_wait(s, NETKIT_POLL_WRITE, NKI_NEVER);
        rc = rc < 0 ? rc : nki_os_connect_result(s);
    }
    return rc;
}

/* Nothing here needs it. */
static int nki_os_unblock(uintptr_t s, bool *was_blocking) {
    NKI_UNUSED(s);
    *was_blocking = false;
    return NETKIT_OK;
}

static int nki_os_reblock(uintptr_t s, bool was_blocking) {
    NKI_UNUSED(s);
    NKI_UNUSED(was_blocking);
    return NETKIT_OK;
}

/* ---- moving bytes ---- */

/* What recv said, when it gave no bytes. A datagram that was cut is one all the same. A limit on
 * the time of calls that wait (NETKIT_OPT_RECV_TIMEOUT) ends as a dead connection does. */
static NKI_COLD int nki_os_recv_error(uintptr_t s, size_t len) {
    int limit;
    int os_code = nki_os_code();
    switch (os_code) {
    case WSAEWOULDBLOCK: return NETKIT_E_AGAIN;
    case WSAEMSGSIZE: return (int)len;
    case WSAESHUTDOWN: return NETKIT_E_EOF;
    case WSAECONNABORTED: return NETKIT_E_RESET;
    case WSAECONNRESET:
        return nki_os_is_datagram(s) ? nki_os_fail(WSAECONNREFUSED) : NETKIT_E_RESET;
    case WSAETIMEDOUT:
        limit = 0;
        (void)nki_os_get_int(nki_os_fd(s), SOL_SOCKET, SO_RCVTIMEO, &limit);
        (void)nki_os_fail(os_code);
        return limit != 0 ? NETKIT_E_AGAIN : NETKIT_E_TIMEOUT;
    default: return netkit_error_from_os(os_code);
    }
}

/* Wine takes the error out of a socket that was reset, and what receiving is left with looks like
 * an end: polling still knows better. */
static NKI_COLD int nki_os_recv_end(uintptr_t s) {
    uint32_t held;
    bool is_reset = nki_os_look(nki_os_fd(s), NETKIT_POLL_READ, &held) == 1 &&
                    (held & NETKIT_POLL_ERROR) != 0 && !nki_os_is_datagram(s);
    return is_reset ? nki_os_fail(WSAECONNRESET) : (int)NETKIT_E_EOF;
}

static int nki_os_recv_result(uintptr_t s, int got, size_t len) {
    if (got > 0 || (got == 0 && len == 0)) {
        return got;
    }
    return got == 0 ? nki_os_recv_end(s) : nki_os_recv_error(s, len);
}

static int nki_os_recv_flags(uintptr_t s, void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    return nki_os_recv_result(s, NKI_SYS_recv(nki_os_fd(s), data, most, flags), most);
}

/* Once for every message, so without detour. */
static NKI_HOT int nki_os_recv(uintptr_t s, void *data, size_t len) {
    int got = NKI_SYS_recv((SOCKET)s, data, len, 0);
    return NKI_LIKELY(got > 0) ? got : nki_os_recv_result(s, got, len);
}

static int nki_os_recv_now(uintptr_t s, void *data, size_t len) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_READ);
    return rc != NETKIT_OK ? rc : nki_os_recv_flags(s, data, len, 0);
}

/* To a peer that is gone, however it went. */
static NKI_COLD int nki_os_send_error(uintptr_t s) {
    int limit;
    int os_code = nki_os_code();
    switch (os_code) {
    case WSAEWOULDBLOCK: return NETKIT_E_AGAIN;
    case WSAESHUTDOWN:
    case WSAECONNABORTED: return NETKIT_E_RESET;
    case WSAETIMEDOUT:
        limit = 0;
        (void)nki_os_get_int(nki_os_fd(s), SOL_SOCKET, SO_SNDTIMEO, &limit);
        (void)nki_os_fail(os_code);
        return limit != 0 ? NETKIT_E_AGAIN : NETKIT_E_TIMEOUT;
    default: return netkit_error_from_os(os_code);
    }
}

static int nki_os_send_flags(uintptr_t s, const void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    int sent = NKI_SYS_send(nki_os_fd(s), data, most, flags);
    return NKI_LIKELY(sent >= 0) ? sent : nki_os_send_error(s);
}

/* The same for sending. */
static NKI_HOT int nki_os_send(uintptr_t s, const void *data, size_t len) {
    int sent = NKI_SYS_send((SOCKET)s, data, len, 0);
    return NKI_LIKELY(sent >= 0) ? sent : nki_os_send_error(s);
}

/* How much of `len` bytes a socket that can be written takes without waiting: of a datagram all. */
static size_t nki_os_now_most(uintptr_t s, size_t len) {
    return len <= NKI_NOW_MOST || nki_os_is_datagram(s) ? len : (size_t)NKI_NOW_MOST;
}

static int nki_os_send_now(uintptr_t s, const void *data, size_t len) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_WRITE);
    return rc != NETKIT_OK ? rc : nki_os_send_flags(s, data, nki_os_now_most(s, len), 0);
}

/* ---- ends ---- */

static int nki_os_shutdown(uintptr_t s, int how) {
    int direction;
    switch (how) {
    case NETKIT_SHUT_READ: direction = SD_RECEIVE; break;
    case NETKIT_SHUT_WRITE: direction = SD_SEND; break;
    case NETKIT_SHUT_BOTH: direction = SD_BOTH; break;
    default: return NETKIT_E_INVALID;
    }
    return NKI_SYS_shutdown(nki_os_fd(s), direction) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_close(uintptr_t s) {
    return NKI_SYS_close(nki_os_fd(s)) != 0 ? nki_os_error() : NETKIT_OK;
}

/* When lingering cannot be set the close is an orderly one, and the caller is told. */
static int nki_os_reset(uintptr_t s) {
    struct linger linger;
    linger.l_onoff = 1;
    linger.l_linger = 0;
    int rc =
        NKI_SYS_setsockopt(nki_os_fd(s), SOL_SOCKET, SO_LINGER, &linger, (int)sizeof linger) != 0
            ? nki_os_error()
            : NETKIT_OK;
    int closed = nki_os_close(s);
    return rc != NETKIT_OK ? rc : closed;
}

#endif /* NKI_WINDOWS */
