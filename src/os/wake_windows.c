/* Pairs of sockets, and the one that wakes a waiting thread where its poller has no wake.
 *
 * Windows has no socketpair, so a pair is a TCP connection of this machine with itself. Between
 * listen and accept anybody on the machine may connect as well: what is accepted is ours only if
 * its peer is the address of our other end. */

#if NKI_WINDOWS

enum {
    NKI_PAIR_STRANGERS = 64, /* connections of others that may come before ours */
    NKI_PAIR_JUNK = 1024,    /* and datagrams */
    NKI_WAKE_BUFFER = 4096   /* bytes */
};

static void nki_pair_loopback(netkit_addr *out) {
    memset(out, 0, sizeof *out);
    out->family = NETKIT_AF_IPV4;
    out->ip[0] = 127;
    out->ip[3] = 1;
}

static bool nki_pair_is_same(const netkit_addr *a, const netkit_addr *b) {
    return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

/* A socket of the loopback with a port; `at` is its address. */
static int nki_pair_end(int type, bool is_blocking, uintptr_t *out, netkit_addr *at) {
    netkit_addr any;
    nki_pair_loopback(&any);
    int rc = nki_os_socket(NETKIT_AF_IPV4, type, is_blocking, out);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_bind(*out, &any, 0);
    if (rc == NETKIT_OK) {
        rc = nki_os_local(*out, at);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon(*out);
        *out = UINTPTR_MAX;
    }
    return rc;
}

/* Our own connection, among those that may wait. The listener is blocking: ours is there. */
static int nki_pair_accept(uintptr_t listener, const netkit_addr *wanted, uintptr_t *out) {
    for (int i = 0; i < NKI_PAIR_STRANGERS; i++) {
        netkit_addr peer;
        int rc = nki_os_accept(listener, out, &peer);
        if (rc == NETKIT_OK && nki_pair_is_same(&peer, wanted)) {
            return NETKIT_OK;
        }
        if (rc == NETKIT_OK) {
            nki_os_abandon(*out);
            *out = UINTPTR_MAX;
        } else if (rc != NETKIT_E_ABORTED) {
            return rc;
        }
    }
    return nki_os_fail(WSAECONNREFUSED);
}

static int nki_pair_connect(uintptr_t listener, const netkit_addr *at, uintptr_t out[2]) {
    netkit_addr self;
    int rc = nki_pair_end(NETKIT_SOCK_STREAM, true, &out[0], &self);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_connect(out[0], at);
    if (rc == NETKIT_OK) {
        rc = nki_pair_accept(listener, &self, &out[1]);
    }
    if (rc != NETKIT_OK) {
        nki_os_abandon(out[0]);
        out[0] = UINTPTR_MAX;
    }
    return rc;
}

static int nki_pair_stream(uintptr_t out[2]) {
    uintptr_t listener;
    netkit_addr at;
    int rc = nki_pair_end(NETKIT_SOCK_STREAM, true, &listener, &at);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_listen(listener, NKI_PAIR_STRANGERS);
    if (rc == NETKIT_OK) {
        rc = nki_pair_connect(listener, &at, out);
    }
    nki_os_abandon(listener);
    return rc;
}

/* From here on each takes datagrams of the other alone; what strangers have sent before is thrown
 * away. */
static int nki_pair_datagram(uintptr_t out[2]) {
    netkit_addr at[2];
    char junk[16];
    int rc = nki_pair_end(NETKIT_SOCK_DGRAM, false, &out[0], &at[0]);
    if (rc == NETKIT_OK) {
        rc = nki_pair_end(NETKIT_SOCK_DGRAM, false, &out[1], &at[1]);
    }
    for (int i = 0; i < 2 && rc == NETKIT_OK; i++) {
        rc = nki_os_connect(out[i], &at[1 - i]);
    }
    for (int i = 0; i < NKI_PAIR_JUNK && rc == NETKIT_OK; i++) {
        if (nki_os_recv(out[i & 1], junk, sizeof junk) == NETKIT_E_AGAIN &&
            nki_os_recv(out[1 - (i & 1)], junk, sizeof junk) == NETKIT_E_AGAIN) {
            break;
        }
    }
    return rc;
}

/* As unix sockets, which do not wait for more before they send. */
static int nki_pair_finish(uintptr_t s, int type, bool is_blocking) {
    int rc = nki_os_set_blocking(nki_os_fd(s), is_blocking);
    return rc == NETKIT_OK && type == NETKIT_SOCK_STREAM
               ? nki_os_set_int(nki_os_fd(s), IPPROTO_TCP, TCP_NODELAY, 1)
               : rc;
}

static int nki_os_pair(int type, bool is_blocking, uintptr_t out[2]) {
    out[0] = out[1] = UINTPTR_MAX;
    if (type != NETKIT_SOCK_STREAM && type != NETKIT_SOCK_DGRAM) {
        return NETKIT_E_INVALID;
    }
    int rc = type == NETKIT_SOCK_STREAM ? nki_pair_stream(out) : nki_pair_datagram(out);
    for (int i = 0; i < 2 && rc == NETKIT_OK; i++) {
        rc = nki_pair_finish(out[i], type, is_blocking);
    }
    for (int i = 0; i < 2 && rc != NETKIT_OK; i++) {
        if (out[i] != UINTPTR_MAX) {
            nki_os_abandon(out[i]);
            out[i] = UINTPTR_MAX;
        }
    }
    return rc;
}

static int nki_os_plain_socket(int family, int type, bool is_blocking, uintptr_t *out) {
    *out = UINTPTR_MAX;
    int rc = nki_os_begin();
    return rc == NETKIT_OK ? nki_os_socket(family, type, is_blocking, out) : rc;
}

static int nki_os_plain_pair(int type, bool is_blocking, uintptr_t out[2]) {
    out[0] = out[1] = UINTPTR_MAX;
    int rc = nki_os_begin();
    return rc == NETKIT_OK ? nki_os_pair(type, is_blocking, out) : rc;
}

/* ---- wake ---- */

static int nki_os_wake_open(nki_wake *out) {
    uintptr_t pair[2];
    int rc = nki_os_pair(NETKIT_SOCK_STREAM, false, pair);
    out->reader = pair[0];
    out->writer = pair[1];
    if (rc == NETKIT_OK) { /* as little as there can be, so that it is soon drained */
        (void)nki_os_set_int(nki_os_fd(out->reader), SOL_SOCKET, SO_RCVBUF, NKI_WAKE_BUFFER);
        (void)nki_os_set_int(nki_os_fd(out->writer), SOL_SOCKET, SO_SNDBUF, NKI_WAKE_BUFFER);
    }
    return rc;
}

static void nki_os_wake_close(nki_wake *wake) {
    if (wake->reader != UINTPTR_MAX) {
        nki_os_abandon(wake->reader);
    }
    if (wake->writer != UINTPTR_MAX) {
        nki_os_abandon(wake->writer);
    }
    wake->reader = wake->writer = UINTPTR_MAX;
}

/* A pair that is full is signalled already. */
static int nki_os_wake_signal(const nki_wake *wake) {
    int os_code = nki_os_code();
    int rc = nki_os_send(wake->writer, "", 1);
    if (rc < 0 && rc != NETKIT_E_AGAIN) {
        return rc;
    }
    WSASetLastError(os_code);
    return NETKIT_OK;
}

static void nki_os_wake_drain(const nki_wake *wake) {
    char junk[256];
    for (int i = 0; i < NKI_PAIR_JUNK; i++) {
        if (nki_os_recv(wake->reader, junk, sizeof junk) < (int)sizeof junk) {
            return;
        }
    }
}

#endif /* NKI_WINDOWS */
