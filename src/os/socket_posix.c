/* Sockets on POSIX: one thin function for each thing the library does with a socket.
 *
 * Owns: which calls are repeated after a signal, and what each failure means.
 * - recv, send, accept: repeated, nothing has happened yet.
 * - connect: repeated, and so it makes no difference whether it had begun. It goes on without us
 *   on IP (POSIX connect: "the connection shall be established asynchronously"), then the second
 *   call says EALREADY or EISCONN; on a unix path a signal only ends the wait for room.
 * - close: never repeated; the descriptor is gone (Linux close(2)), and the number may already
 *   be another thread's.
 * Every socket is close-on-exec and raises no SIGPIPE: by MSG_NOSIGNAL with each send, and where
 * SO_NOSIGPIPE exists by that as well (birth_*.c).
 * Linux says of accept(2): errors of the network waiting on the new connection come out of
 * accept itself and mean "this one is gone, take the next", never "the listener is broken". */

#if NKI_POSIX

#if defined(MSG_NOSIGNAL)
#define NKI_MSG_NOSIGNAL MSG_NOSIGNAL
#else
#define NKI_MSG_NOSIGNAL 0
#endif
/* More follows at once: not to be sent in a segment of its own. */
#if defined(MSG_MORE)
#define NKI_MSG_MORE MSG_MORE
#else
#define NKI_MSG_MORE 0
#endif

#if defined(POLLRDHUP)
#define NKI_POLLRDHUP POLLRDHUP
#else
#define NKI_POLLRDHUP 0
#endif

/* A poll that need not wait is interrupted too: how often to insist on looking. */
enum {
    NKI_LAST_LOOKS = 16
};

static int nki_os_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    int domain = nki_os_domain(family);
    *out = UINTPTR_MAX;
    if (domain < 0 || (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM)) {
        return NETKIT_E_INVALID;
    }
    int fd = NKI_SYS_socket(domain, nki_os_type(type, is_blocking), 0);
    if (fd < 0) {
        return nki_os_error();
    }
    int rc = nki_os_finish_socket(fd, is_blocking);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fd);
        return rc;
    }
    *out = (uintptr_t)fd;
    return NETKIT_OK;
}

static int nki_os_pair(int type, bool is_blocking, uintptr_t out[2]) {
    int fds[2];
    out[0] = out[1] = UINTPTR_MAX;
    if (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM) {
        return NETKIT_E_INVALID;
    }
    if (NKI_SYS_socketpair(AF_UNIX, nki_os_type(type, is_blocking), 0, fds) != 0) {
        return nki_os_error();
    }
    int rc = nki_os_finish_socket(fds[0], is_blocking);
    if (rc == NETKIT_OK) {
        rc = nki_os_finish_socket(fds[1], is_blocking);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fds[0]);
        nki_os_abandon((uintptr_t)fds[1]);
        return rc;
    }
    out[0] = (uintptr_t)fds[0];
    out[1] = (uintptr_t)fds[1];
    return NETKIT_OK;
}

static int nki_os_plain_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    return nki_os_socket(family, type, is_blocking, out);
}

static int nki_os_plain_pair(int type, bool is_blocking, uintptr_t out[2]) {
    return nki_os_pair(type, is_blocking, out);
}

static bool nki_os_is_datagram(uintptr_t s) {
    int type = 0;
    socklen_t len = (socklen_t)sizeof(type);
    return NKI_SYS_getsockopt(nki_os_fd(s), SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
           type == SOCK_DGRAM;
}

static int nki_os_set_int(int fd, int level, int name, int value) {
    return NKI_SYS_setsockopt(fd, level, name, &value, (socklen_t)sizeof(value)) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

/* Several sockets share a port only where the kernel spreads connections over them: elsewhere
 * SO_REUSEPORT hands all to the last one, or lets a stranger steal them. */
static int nki_os_share_port(int fd) {
#if NKI_LINUX && defined(SO_REUSEPORT)
    return nki_os_set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
#elif defined(SO_REUSEPORT_LB)
    return nki_os_set_int(fd, SOL_SOCKET, SO_REUSEPORT_LB, 1);
#else
    NKI_UNUSED(fd);
    return NETKIT_E_NOSYS;
#endif
}

/* Set either way, since the default is the administrator's (net.ipv6.bindv6only). OpenBSD refuses
 * to clear it, which matters to a wildcard alone. */
static int nki_os_bind_v6only(int fd, const netkit_addr *addr, bool is_v6only) {
    static const uint8_t wildcard[16] = {0};
    int rc = nki_os_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, is_v6only ? 1 : 0);
    bool matters = is_v6only || memcmp(addr->ip, wildcard, sizeof(wildcard)) == 0;
    return matters ? rc : NETKIT_OK;
}

/* SO_REUSEADDR lets a server restart over its own connections in TIME_WAIT. For datagrams it would
 * let two programs share a port, the second stealing from the first: never there. */
static int nki_os_bind_options(int fd, const netkit_addr *addr, int flags) {
    int rc = NETKIT_OK;
    if (!nki_os_is_datagram((uintptr_t)fd)) {
        bool is_reuse = (flags & NETKIT_SOCKET_NO_REUSE) == 0;
        rc = nki_os_set_int(fd, SOL_SOCKET, SO_REUSEADDR, is_reuse ? 1 : 0);
    }
    if (rc == NETKIT_OK && (flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        rc = nki_os_share_port(fd);
    }
    if (rc == NETKIT_OK && addr->family == NETKIT_AF_IPV6) {
        rc = nki_os_bind_v6only(fd, addr, (flags & NETKIT_SOCKET_V6ONLY) != 0);
    }
    return rc;
}

/* As nki_sockaddr_from, and the address without a path by which Linux chooses a name: the family
 * alone (unix(7), autobind). */
static int nki_os_bind_address(struct sockaddr_storage *sa, socklen_t *len,
                               const netkit_addr *addr) {
    if (NKI_LINUX && addr->family == NETKIT_AF_UNIX && !addr->is_abstract && addr->path_len == 0) {
        memset(sa, 0, sizeof *sa);
        sa->ss_family = AF_UNIX;
        *len = (socklen_t)sizeof(sa->ss_family);
        return NETKIT_OK;
    }
    return nki_sockaddr_from(sa, len, addr);
}

/* A path that exists stays, unless it is asked for: removing it could cut off a server that is
 * alive. */
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
    int rc = nki_os_bind_address(&sa, &len, addr);
    if (rc == NETKIT_OK && addr->family != NETKIT_AF_UNIX) {
        rc = nki_os_bind_options(nki_os_fd(s), addr, flags);
    } else if (rc == NETKIT_OK && (flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        rc = NETKIT_E_NOSYS; /* Linux before 6.12 would say yes and mean nothing by it */
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&sa;
    return NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : NETKIT_OK;
}

/* The kernel cuts a backlog to its own limit (net.core.somaxconn, kern.ipc.somaxconn), which
 * SOMAXCONN was the value of when libc was built, at best. */
static int nki_os_listen(uintptr_t s, int backlog) {
    if (backlog < 0) {
        return NETKIT_E_INVALID;
    }
    int most = backlog == 0 ? INT_MAX : backlog;
    return NKI_SYS_listen(nki_os_fd(s), most) != 0 ? nki_os_error() : NETKIT_OK;
}

static NKI_COLD int nki_os_accept_error(uintptr_t s) {
    int os_code = errno;
    switch (os_code) {
    case ECONNABORTED:
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ETIMEDOUT:
#ifdef ENONET
    case ENONET:
#endif
    case EPERM: /* a rule of the firewall forbids this one */ return NETKIT_E_ABORTED;
    case EOPNOTSUPP: {
        /* Of a stream an error of the network; else accept itself is what is not supported, and
         * taking the next one would fail for ever. */
        bool is_hopeless = nki_os_is_datagram(s);
        errno = os_code;
        return is_hopeless ? NETKIT_E_NOSYS : NETKIT_E_ABORTED;
    }
    default: return netkit_error_from_os(os_code);
    }
}

static int nki_os_accept(uintptr_t s, uintptr_t *out, netkit_addr *peer) {
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)sizeof(sa);
    struct sockaddr *at = peer != NULL ? (struct sockaddr *)(void *)&sa : NULL;
    int fd;
    *out = UINTPTR_MAX;
    if (peer != NULL) {
        memset(peer, 0, sizeof(*peer));
        memset(&sa, 0, sizeof(sa)); /* macOS may write nothing for one that is gone already */
    }
    do {
        fd = NKI_SYS_accept(nki_os_fd(s), at, at != NULL ? &len : NULL);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno == EAGAIN ? NETKIT_E_AGAIN : nki_os_accept_error(s);
    }
    int rc = nki_os_finish_socket(fd, false);
    if (rc != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fd);
        /* macOS refuses options of a connection that has been reset already. */
        return errno == EINVAL ? (int)NETKIT_E_ABORTED : rc;
    }
    if (peer != NULL) {
        nki_sockaddr_to(peer, &sa, len);
    }
    *out = (uintptr_t)fd;
    return NETKIT_OK;
}

static int nki_os_name(int fd, bool is_peer, netkit_addr *out) {
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)sizeof(sa);
    struct sockaddr *at = (struct sockaddr *)(void *)&sa;
    memset(out, 0, sizeof(*out));
    memset(&sa, 0, sizeof(sa));
    int rc = is_peer ? NKI_SYS_getpeername(fd, at, &len) : NKI_SYS_getsockname(fd, at, &len);
    if (rc != 0) {
        return nki_os_error();
    }
    nki_sockaddr_to(out, &sa, len);
    return NETKIT_OK;
}

static int nki_os_local(uintptr_t s, netkit_addr *out) {
    return nki_os_name(nki_os_fd(s), false, out);
}

/* macOS has no name for the peer of a connection that was reset: EINVAL. */
static int nki_os_peer(int fd, netkit_addr *out) {
    int rc = nki_os_name(fd, true, out);
    return rc != NETKIT_OK && errno == EINVAL ? (int)NETKIT_E_RESET : rc;
}

static int nki_os_remote(uintptr_t s, netkit_addr *out) {
    return nki_os_peer(nki_os_fd(s), out);
}

/* A TCP socket that dials a port of the ephemeral range nobody listens on may be given that very
 * port as its own, meet its own SYN and connect to itself (RFC 9293, 3.5: simultaneous open). It
 * would then hold the port against the server it waits for: that is a refusal (C-07). */
static int nki_os_check_peer(int fd) {
    netkit_addr peer;
    netkit_addr self;
    int rc = nki_os_peer(fd, &peer);
    if (rc != NETKIT_OK || (peer.family != NETKIT_AF_IPV4 && peer.family != NETKIT_AF_IPV6)) {
        return rc;
    }
    rc = nki_os_name(fd, false, &self);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_same = self.port == peer.port && self.family == peer.family &&
                   memcmp(self.ip, peer.ip, sizeof(self.ip)) == 0;
    if (is_same && !nki_os_is_datagram((uintptr_t)fd)) {
        errno = ECONNREFUSED;
        return NETKIT_E_REFUSED;
    }
    return NETKIT_OK;
}

/* With Fast Open connect only notes where to, and has no peer before the first send. */
static bool nki_os_is_deferred(int fd) {
#if defined(TCP_FASTOPEN_CONNECT)
    int os_code = errno;
    int is_on = 0;
    socklen_t len = (socklen_t)sizeof is_on;
    int rc = NKI_SYS_getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &is_on, &len);
    errno = os_code;
    return rc == 0 && is_on != 0;
#else
    NKI_UNUSED(fd);
    return false;
#endif
}

static int nki_os_connect(uintptr_t s, const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    int fd = nki_os_fd(s);
    bool was_interrupted = false;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc != NETKIT_OK) {
        return rc;
    }
    while (NKI_SYS_connect(fd, (const struct sockaddr *)(const void *)&sa, len) != 0) {
        if (errno == EISCONN && was_interrupted) {
            break;
        }
        if (errno == EAGAIN) {
            /* IP: no port is left to dial from (Linux connect(2)). Unix: the backlog is full, and
             * no descriptor tells when there will be room. */
            return addr->family == NETKIT_AF_UNIX ? NETKIT_E_FULL : NETKIT_E_ADDRNOTAVAIL;
        }
        if (errno != EINTR) {
            return nki_os_error(); /* EINPROGRESS and, repeated, EALREADY are NETKIT_E_AGAIN */
        }
        was_interrupted = true;
    }
    rc = nki_os_check_peer(fd);
    return rc == NETKIT_E_NOTCONN && nki_os_is_deferred(fd) ? (int)NETKIT_OK : rc;
}

static int nki_os_pending_error(int fd, int *error) {
    socklen_t len = (socklen_t)sizeof(*error);
    *error = 0;
    return NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_ERROR, error, &len) != 0 ? nki_os_error()
                                                                          : NETKIT_OK;
}

static int nki_os_connect_check(int fd) {
    int error;
    int rc = nki_os_pending_error(fd, &error);
    if (rc == NETKIT_OK && error != 0) {
        errno = error;
        rc = netkit_error_from_os(error);
    }
    return rc == NETKIT_OK ? nki_os_check_peer(fd) : rc;
}

/* What recv said, when it gave no bytes. */
static int nki_os_recv_result(ssize_t got, size_t len) {
    if (got >= 0) {
        return got == 0 && len != 0 ? (int)NETKIT_E_EOF : (int)got;
    }
    return errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
}

static int nki_os_recv_flags(uintptr_t s, void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    ssize_t got;
    do {
        got = NKI_SYS_recv(nki_os_fd(s), data, most, flags);
    } while (NKI_UNLIKELY(got < 0) && errno == EINTR);
    return nki_os_recv_result(got, len);
}

static NKI_COLD int nki_os_recv_odd(uintptr_t s, void *data, size_t len, ssize_t got) {
    return got < 0 && errno == EINTR ? nki_os_recv_flags(s, data, len, 0)
                                     : nki_os_recv_result(got, len);
}

/* Once for every message, so without detour: len is at most INT_MAX, and the socket is one that
 * the system has given. */
static NKI_HOT int nki_os_recv(uintptr_t s, void *data, size_t len) {
    ssize_t got = NKI_SYS_recv((int)s, data, len, 0);
    return NKI_LIKELY(got > 0) ? (int)got : nki_os_recv_odd(s, data, len, got);
}

static int nki_os_recv_now(uintptr_t s, void *data, size_t len) {
    return nki_os_recv_flags(s, data, len, MSG_DONTWAIT);
}

/* macOS says EPROTOTYPE of a connection that is being torn down at this moment. */
static NKI_COLD int nki_os_send_error(void) {
    if (errno == EPROTOTYPE) {
        return NETKIT_E_RESET;
    }
    return errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
}

static int nki_os_send_flags(uintptr_t s, const void *data, size_t len, int flags) {
    size_t most = NKI_MIN(len, (size_t)INT_MAX);
    ssize_t sent;
    do {
        sent = NKI_SYS_send(nki_os_fd(s), data, most, flags | NKI_MSG_NOSIGNAL);
    } while (NKI_UNLIKELY(sent < 0) && errno == EINTR);
    return NKI_LIKELY(sent >= 0) ? (int)sent : nki_os_send_error();
}

static NKI_COLD int nki_os_send_odd(uintptr_t s, const void *data, size_t len) {
    return errno == EINTR ? nki_os_send_flags(s, data, len, 0) : nki_os_send_error();
}

/* The same for sending. */
static NKI_HOT int nki_os_send(uintptr_t s, const void *data, size_t len) {
    ssize_t sent = NKI_SYS_send((int)s, data, len, NKI_MSG_NOSIGNAL);
    return NKI_LIKELY(sent >= 0) ? (int)sent : nki_os_send_odd(s, data, len);
}

static int nki_os_send_now(uintptr_t s, const void *data, size_t len) {
    return nki_os_send_flags(s, data, len, MSG_DONTWAIT);
}

static short nki_os_poll_from(uint32_t events) {
    int bits = (events & NETKIT_POLL_READ) != 0 ? POLLIN | NKI_POLLRDHUP : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? POLLPRI : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? POLLOUT : 0;
    bits |= (events & NETKIT_POLL_PEER_END) != 0 ? NKI_POLLRDHUP : 0;
    return (short)bits;
}

/* POLLNVAL, "no descriptor", is for the caller to see. */
static uint32_t nki_os_poll_to(short bits) {
    uint32_t events = (bits & POLLIN) != 0 ? (uint32_t)NETKIT_POLL_READ : 0u;
    events |= (bits & POLLPRI) != 0 ? (uint32_t)NETKIT_POLL_PRIORITY : 0u;
    events |= (bits & POLLOUT) != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    events |= (bits & POLLERR) != 0 ? (uint32_t)NETKIT_POLL_ERROR : 0u;
    events |= (bits & POLLHUP) != 0 ? (uint32_t)NETKIT_POLL_HANGUP : 0u;
    events |= (bits & NKI_POLLRDHUP) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
    return events;
}

static int nki_os_wait(uintptr_t s, uint32_t events, uint64_t deadline_ns) {
    struct pollfd one;
    int last_looks = 0;
    one.fd = nki_os_fd(s);
    one.events = nki_os_poll_from(events);
    if (one.fd < 0) {
        return NETKIT_E_INVALID; /* poll would take it for nobody and wait */
    }
    for (;;) {
        uint64_t left = NKI_NEVER;
        if (deadline_ns != NKI_NEVER) {
            uint64_t now = nki_os_now_ns();
            left = now != 0 && now < deadline_ns ? deadline_ns - now : 0;
        }
        int ms = nki_os_poll_ms(left);
        one.revents = 0;
        int ready = NKI_SYS_poll(&one, 1, ms);
        if (ready > 0) {
            bool is_bad = (one.revents & POLLNVAL) != 0;
            return is_bad ? (int)NETKIT_E_INVALID : (int)nki_os_poll_to(one.revents);
        }
        if (ready < 0 && errno != EINTR) {
            return nki_os_error();
        }
        bool is_over = ready == 0 && ms < INT_MAX; /* else it was cut, and there is more */
        if (is_over || (left == 0 && ++last_looks == NKI_LAST_LOOKS)) {
            return nki_os_timed_out();
        }
    }
}

/* Without an error and without a peer a socket is on its way, or was never sent, or its error has
 * been read before. Only one that is on its way is not writable. */
static int nki_os_connect_result(uintptr_t s) {
    int fd = nki_os_fd(s);
    int rc = nki_os_connect_check(fd);
    if (rc != NETKIT_E_NOTCONN) {
        return rc;
    }
    rc = nki_os_wait(s, NETKIT_POLL_WRITE, 0);
    if (rc < 0) {
        return rc == NETKIT_E_TIMEOUT ? (int)NETKIT_E_AGAIN : rc;
    }
    return nki_os_connect_check(fd);
}

/* Waking without a result (a stray event) goes round again, against the same deadline. */
static int nki_os_await_connect(uintptr_t s, uint64_t deadline_ns) {
    for (;;) {
        int rc = nki_os_wait(s, NETKIT_POLL_WRITE, deadline_ns);
        if (rc >= 0) {
            rc = nki_os_connect_result(s);
        }
        if (rc != NETKIT_E_AGAIN) {
            return rc;
        }
    }
}

static int nki_os_unblock(uintptr_t s, bool *was_blocking) {
    int is_blocking = 0;
    int rc = nki_os_get_option(s, NETKIT_OPT_BLOCKING, &is_blocking);
    if (rc == NETKIT_OK && is_blocking != 0) {
        rc = nki_os_set_option(s, NETKIT_OPT_BLOCKING, 0);
    }
    *was_blocking = rc == NETKIT_OK && is_blocking != 0;
    return rc;
}

static int nki_os_reblock(uintptr_t s, bool was_blocking) {
    return was_blocking ? nki_os_set_option(s, NETKIT_OPT_BLOCKING, 1) : NETKIT_OK;
}

/* A blocking socket cannot be made to connect within a time, so it is non-blocking meanwhile. */
static int nki_os_connect_within(uintptr_t s, const netkit_addr *addr, int timeout_ms) {
    bool was_blocking = false;
    int rc = timeout_ms >= 0 ? nki_os_unblock(s, &was_blocking) : (int)NETKIT_OK;
    if (rc != NETKIT_OK) {
        return rc;
    }
    uint64_t deadline = nki_os_deadline(timeout_ms);
    rc = nki_os_connect(s, addr);
    if (rc == NETKIT_E_AGAIN && timeout_ms != 0) {
        rc = nki_os_await_connect(s, deadline);
    }
    int restored = nki_os_reblock(s, was_blocking);
    return rc == NETKIT_OK ? restored : rc;
}

static int nki_os_shutdown(uintptr_t s, int how) {
    int direction;
    switch (how) {
    case NETKIT_SHUT_READ: direction = SHUT_RD; break;
    case NETKIT_SHUT_WRITE: direction = SHUT_WR; break;
    case NETKIT_SHUT_BOTH: direction = SHUT_RDWR; break;
    default: return NETKIT_E_INVALID;
    }
    return NKI_SYS_shutdown(nki_os_fd(s), direction) != 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_close(uintptr_t s) {
    if (NKI_SYS_close(nki_os_fd(s)) != 0 && errno != EINTR) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

/* When lingering cannot be set the close is an orderly one, and the caller is told. */
static int nki_os_reset(uintptr_t s) {
    struct linger linger;
    linger.l_onoff = 1;
    linger.l_linger = 0;
    int rc = NKI_SYS_setsockopt(nki_os_fd(s), SOL_SOCKET, SO_LINGER, &linger,
                                (socklen_t)sizeof(linger)) != 0
                 ? nki_os_error()
                 : NETKIT_OK;
    int closed = nki_os_close(s);
    return rc != NETKIT_OK ? rc : closed;
}

#endif /* NKI_POSIX */
