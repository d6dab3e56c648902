/* Plain sockets: netkit_socket_*, on loopback, with every peer in this process. */

/* ---- helpers --------------------------------------------------------------- */

static netkit_addr socket_addr(const char *text) {
    netkit_addr addr;
    CHECK_OK(netkit_addr_parse(&addr, text, NULL));
    return addr;
}

static bool socket_has_ipv6(void) {
    netkit_addr addr = socket_addr("[::1]:0");
    netkit_socket s;
    bool has = netkit_socket_listen_on(&s, &addr, 0, 1) == NETKIT_OK;
    netkit_socket_close(&s);
    return has;
}

/* Listen on `text` and read back where. */
static netkit_socket socket_listener(const char *text, netkit_addr *at) {
    netkit_socket s;
    *at = socket_addr(text);
    CHECK_OK(netkit_socket_listen_on(&s, at, 0, 0));
    CHECK_OK(netkit_socket_local(s, at));
    return s;
}

/* A TCP connection: [0] dialled, [1] was accepted. */
static void socket_tcp_pair(netkit_socket out[2], int flags) {
    netkit_addr at;
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    CHECK_OK(netkit_socket_open(&out[0], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, flags));
    CHECK_OK(netkit_socket_connect(out[0], &at, 1000));
    CHECK(netkit_socket_wait(listener, NETKIT_POLL_READ, 1000) > 0);
    CHECK_OK(netkit_socket_accept(listener, &out[1], NULL));
    CHECK_OK(netkit_socket_close(&listener));
}

static void socket_close_both(netkit_socket s[2]) {
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_OK(netkit_socket_close(&s[1]));
}

static int socket_fd(netkit_socket s) {
    return (int)netkit_socket_native(s);
}

static bool socket_is_nonblocking(netkit_socket s) {
    return (fcntl(socket_fd(s), F_GETFL) & O_NONBLOCK) != 0;
}

/* Windows does not tell whether a socket that is not connected waits. */
static bool socket_mode_is(netkit_socket s, bool is_nonblocking) {
    int value;
    bool is_told = netkit_socket_get(s, NETKIT_OPT_BLOCKING, &value) != NETKIT_E_NOSYS;
    return !is_told || socket_is_nonblocking(s) == is_nonblocking;
}

static void socket_need_unix(void) {
    netkit_socket s;
    if (netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0) == NETKIT_E_NOSYS) {
        SKIP("no unix sockets here");
    }
    CHECK_OK(netkit_socket_close(&s));
}

static bool socket_is_cloexec(netkit_socket s) {
    return (fcntl(socket_fd(s), F_GETFD) & FD_CLOEXEC) != 0;
}

/* An address of 127.0.0.1 that nobody listens on. */
static netkit_addr socket_free_addr(const char *text) {
    netkit_addr at;
    netkit_socket s = socket_listener(text, &at);
    CHECK_OK(netkit_socket_close(&s));
    return at;
}

static uint64_t socket_ms_since(uint64_t start) {
    return (nkt_now_ns() - start) / 1000000;
}

/* ---- opening --------------------------------------------------------------- */

/* SK01: every family and type, non-blocking unless asked otherwise, never inherited. */
NKT_TEST(socket_open_flags) {
    const int families[] = {NETKIT_AF_IPV4, NETKIT_AF_IPV6, NETKIT_AF_UNIX};
    for (int i = 0; i < 12; i++) {
        netkit_socket s;
        int flags = i % 4 < 2 ? 0 : NETKIT_SOCKET_BLOCKING;
        int rc = netkit_socket_open(&s, families[i / 4], i % 2, flags);
        if (rc == NETKIT_E_NOSYS && (families[i / 4] == NETKIT_AF_IPV6 || NKI_WINDOWS)) {
            CHECK(families[i / 4] != NETKIT_AF_IPV4);
            continue; /* Windows' unix sockets are of streams, and wine has none */
        }
        CHECK_OK(rc);
        CHECK(s.value != 0);
        CHECK(socket_mode_is(s, flags == 0));
        CHECK(socket_is_cloexec(s));
        CHECK_OK(netkit_socket_close(&s));
        CHECK_EQ(s.value, 0);
        CHECK_OK(netkit_socket_close(&s));
    }
}

/* SK01: what cannot be opened is an error with {0}, whatever was in *out. */
NKT_TEST(socket_open_bad) {
    netkit_socket s;
    s.value = 5;
    CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_NONE, NETKIT_SOCK_STREAM, 0), NETKIT_E_INVALID);
    CHECK_EQ(s.value, 0);
    CHECK_ERR(netkit_socket_open(&s, 99, NETKIT_SOCK_STREAM, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_IPV4, 7, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 64), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_open(NULL, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_pair(NULL, NETKIT_SOCK_STREAM, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_accept(s, NULL, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_local(s, NULL), NETKIT_E_INVALID);
    const int causes[][2] = {{EMFILE, NETKIT_E_MFILE},
                             {ENFILE, NETKIT_E_MFILE},
                             {ENOBUFS, NETKIT_E_NOMEM},
                             {EAFNOSUPPORT, NETKIT_E_NOSYS},
                             {EACCES, NETKIT_E_ACCESS}};
    for (size_t i = 0; i < sizeof(causes) / sizeof(causes[0]); i++) {
        nkt_fault_at("socket", 1, causes[i][0], false);
        s.value = 5;
        CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0), causes[i][1]);
        CHECK_EQ(netkit_socket_os_code(), causes[i][0]);
        CHECK_EQ(s.value, 0);
        nkt_fault_clear();
    }
}

/* SK01 SK26: {0} is no socket to any call, and none waits or crashes on it. */
NKT_TEST(socket_zero_is_none) {
    netkit_socket none = {0};
    netkit_socket out;
    netkit_addr addr = socket_addr("127.0.0.1:1");
    netkit_span span = {"x", 1};
    char byte;
    int value;
    CHECK_ERR(netkit_socket_bind(none, &addr, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_listen(none, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_accept(none, &out, NULL), NETKIT_E_INVALID);
    CHECK_EQ(out.value, 0);
    CHECK_ERR(netkit_socket_connect(none, &addr, -1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_connect_result(none), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_send(none, "x", 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv(none, &byte, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_sendv(none, &span, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_send_all(none, "x", 1, -1, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_all(none, &byte, 1, -1, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_wait(none, NETKIT_POLL_READ, -1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_shutdown(none, NETKIT_SHUT_BOTH), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_local(none, &addr), NETKIT_E_INVALID);
    CHECK_EQ(addr.family, NETKIT_AF_NONE);
    CHECK_ERR(netkit_socket_remote(none, &addr), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_set(none, NETKIT_OPT_NODELAY, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get(none, NETKIT_OPT_NODELAY, &value), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_close(NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_reset(NULL), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_reset(&none));
}

/* SK02 SK27: a descriptor of the system goes in and comes out the same. */
NKT_TEST(socket_native_round_trip) {
    int fds[2];
    char text[4];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    netkit_socket a = netkit_socket_from_native((uintptr_t)fds[0]);
    netkit_socket b = netkit_socket_from_native((uintptr_t)fds[1]);
    CHECK_EQ(netkit_socket_native(a), fds[0]);
    CHECK_EQ(netkit_socket_send(a, "abc", 3), 3);
    CHECK_EQ(netkit_socket_recv(b, text, sizeof(text)), 3);
    CHECK_EQ(netkit_socket_from_native(UINTPTR_MAX).value, 0);
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
    CHECK(fcntl(fds[0], F_GETFD) == -1);
}

/* SK03: a pair of either type; datagrams keep their bounds. */
NKT_TEST(socket_pair_types) {
    netkit_socket s[2];
    char text[16];
    for (int type = NETKIT_SOCK_STREAM; type <= NETKIT_SOCK_DGRAM; type++) {
        CHECK_OK(netkit_socket_pair(s, type, 0));
        CHECK(socket_is_cloexec(s[0]) && socket_is_cloexec(s[1]));
        CHECK(socket_is_nonblocking(s[0]) && socket_is_nonblocking(s[1]));
        CHECK_ERR(netkit_socket_recv(s[0], text, 16), NETKIT_E_AGAIN);
        CHECK_EQ(netkit_socket_send(s[0], "ab", 2), 2);
        CHECK_EQ(netkit_socket_send(s[0], "cd", 2), 2);
        int first = netkit_socket_recv(s[1], text, 16);
        CHECK_EQ(first, type == NETKIT_SOCK_STREAM ? 4 : 2);
        socket_close_both(s);
    }
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING));
    CHECK(!socket_is_nonblocking(s[0]) && !socket_is_nonblocking(s[1]));
    socket_close_both(s);
    CHECK_ERR(netkit_socket_pair(s, 9, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 64), NETKIT_E_INVALID);
    nkt_fault_at(NKI_WINDOWS ? "socket" : "socketpair", 1, EMFILE, false);
    CHECK_ERR(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0), NETKIT_E_MFILE);
    CHECK(s[0].value == 0 && s[1].value == 0);
}

/* ---- binding and listening -------------------------------------------------- */

/* SK04 SK25: port 0 takes a free one that can be read back; wildcards are addresses like any. */
NKT_TEST(socket_bind_reads_back) {
    const char *texts[] = {"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"};
    for (int i = 0; i < (socket_has_ipv6() ? 4 : 2); i++) {
        netkit_socket s;
        netkit_addr addr = socket_addr(texts[i]);
        netkit_addr real;
        CHECK_OK(netkit_socket_open(&s, addr.family, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_local(s, &real));
        CHECK_EQ(real.port, 0);
        CHECK_OK(netkit_socket_bind(s, &addr, 0));
        CHECK_OK(netkit_socket_local(s, &real));
        CHECK(real.port != 0 && real.family == addr.family);
        CHECK_MEM(real.ip, addr.ip, 16);
        CHECK_ERR(netkit_socket_remote(s, &real), NETKIT_E_NOTCONN);
        CHECK_EQ(real.family, NETKIT_AF_NONE);
        CHECK_OK(netkit_socket_close(&s));
    }
}

/* T-16 OP03 SK04: each way a bind or listen can fail is told at that call. */
NKT_TEST(socket_bind_errors) {
    netkit_addr at;
    netkit_socket s;
    netkit_socket first = socket_listener("127.0.0.1:0", &at);
    netkit_addr foreign = socket_addr("192.0.2.1:0");
    netkit_addr zero;
    memset(&zero, 0, sizeof(zero));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_bind(s, &at, 0), NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_socket_os_code(), EADDRINUSE);
    CHECK_ERR(netkit_socket_bind(s, &foreign, 0), NETKIT_E_ADDRNOTAVAIL);
    CHECK_ERR(netkit_socket_bind(s, &zero, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_bind(s, NULL, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_bind(s, &at, 64), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_listen(s, -1), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&s));
    CHECK_ERR(netkit_socket_listen_on(&s, &at, 0, 0), NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_socket_os_code(), EADDRINUSE);
    CHECK_EQ(s.value, 0);
    CHECK_ERR(netkit_socket_listen_on(&s, &at, 64, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_listen_on(&s, &at, 0, -1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_listen_on(&s, NULL, 0, 0), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&first));
}

/* OP03 T-16 WN18: a restarted server gets its port over connections in TIME_WAIT, unless it says no. */
NKT_TEST(socket_bind_over_time_wait) {
    netkit_addr at;
    netkit_socket dialled, accepted;
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    CHECK_OK(netkit_socket_open(&dialled, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_connect(dialled, &at, 1000));
    CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
    char byte;
    CHECK_OK(netkit_socket_close(&accepted)); /* the listener's side ends first */
    CHECK(netkit_socket_wait(dialled, NETKIT_POLL_READ, 1000) > 0);
    CHECK_ERR(netkit_socket_recv(dialled, &byte, 1), NETKIT_E_EOF);
    CHECK_OK(netkit_socket_close(&dialled));
    CHECK_OK(netkit_socket_close(&listener));
#if !NKI_WINDOWS /* nobody could take the port over, so there is nothing to ask for */
    CHECK_ERR(netkit_socket_listen_on(&listener, &at, NETKIT_SOCKET_NO_REUSE, 0),
              NETKIT_E_ADDRINUSE);
#endif
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_close(&listener));
}

/* OP03: two programs never share a UDP port by our doing. */
NKT_TEST(socket_bind_datagram_alone) {
    netkit_addr at = socket_addr("127.0.0.1:0");
    netkit_socket a, b;
    CHECK_OK(netkit_socket_open(&a, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_open(&b, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(a, &at, 0));
    CHECK_OK(netkit_socket_local(a, &at));
    CHECK_ERR(netkit_socket_bind(b, &at, 0), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
}

/* OP04 T-16: sharing a port is asked for by each, and refused where it means nothing. */
NKT_TEST(socket_reuse_port) {
    netkit_addr at = socket_addr("127.0.0.1:0");
    netkit_socket a, b, c;
    int value;
    int rc = netkit_socket_listen_on(&a, &at, NETKIT_SOCKET_REUSE_PORT, 0);
#if defined(__linux__) || defined(__FreeBSD__)
    CHECK_OK(rc);
    CHECK_OK(netkit_socket_get(a, NETKIT_OPT_REUSE_PORT, &value));
    CHECK_EQ(value, 1);
    CHECK_OK(netkit_socket_local(a, &at));
    CHECK_OK(netkit_socket_listen_on(&b, &at, NETKIT_SOCKET_REUSE_PORT, 0));
    CHECK_ERR(netkit_socket_listen_on(&c, &at, 0, 0), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
#else
    CHECK_ERR(rc, NETKIT_E_NOSYS);
#endif
    char path[160], text[180];
    nkt_temp_path(path, sizeof(path));
    snprintf(text, sizeof(text), "unix:%s", path);
    at = socket_addr(text);
    CHECK_ERR(netkit_socket_listen_on(&a, &at, NETKIT_SOCKET_REUSE_PORT, 0), NETKIT_E_NOSYS);
    CHECK(access(path, F_OK) != 0);
    (void)b;
    (void)c;
    (void)value;
}

/* Dial `text` with the port of `at`; whether it is answered. */
static int socket_try(const char *text, uint16_t port) {
    netkit_addr to = socket_addr(text);
    netkit_socket s;
    to.port = port;
    CHECK_OK(netkit_socket_open(&s, to.family, NETKIT_SOCK_STREAM, 0));
    int rc = netkit_socket_connect(s, &to, 1000);
    CHECK_OK(netkit_socket_close(&s));
    return rc;
}

/* Listen on IPv6 alone, at a port that no other program has of IPv4 or can get while the socket that
 * is returned holds it. */
static netkit_socket socket_v6only(netkit_socket *listener, netkit_addr *at) {
    netkit_addr any = socket_addr(":0"), same = socket_addr("127.0.0.1:0");
    netkit_socket holder;
    for (int tries = 0; tries < 20; tries++) {
        CHECK_OK(netkit_socket_listen_on(listener, &any, NETKIT_SOCKET_V6ONLY, 0));
        CHECK_OK(netkit_socket_local(*listener, at));
        CHECK_OK(netkit_socket_open(&holder, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        same.port = at->port;
        if (netkit_socket_bind(holder, &same, 0) == NETKIT_OK) {
            return holder;
        }
        CHECK_OK(netkit_socket_close(&holder));
        CHECK_OK(netkit_socket_close(listener));
    }
    FAIL("no port that is free of IPv4");
    return holder;
}

/* SK06 OP06 T-16: ":port" takes IPv4 and IPv6 on one socket, V6ONLY leaves IPv4 to others. */
NKT_TEST(socket_dual_stack) {
    netkit_addr any = socket_addr(":0");
    netkit_addr at;
    netkit_socket s;
    int value;
    if (!socket_has_ipv6()) {
        SKIP("no IPv6 here");
    }
    CHECK_OK(netkit_socket_listen_on(&s, &any, 0, 0));
    CHECK_OK(netkit_socket_local(s, &at));
    CHECK_EQ(at.family, NETKIT_AF_IPV6);
    CHECK_OK(netkit_socket_get(s, NETKIT_OPT_V6ONLY, &value));
    CHECK_EQ(value, 0);
    CHECK_OK(socket_try("127.0.0.1:1", at.port));
    CHECK_OK(socket_try("[::1]:1", at.port));
    CHECK_OK(netkit_socket_close(&s));

    netkit_socket holder = socket_v6only(&s, &at);
    CHECK_OK(netkit_socket_get(s, NETKIT_OPT_V6ONLY, &value));
    CHECK_EQ(value, 1);
    CHECK_OK(socket_try("[::1]:1", at.port));
    CHECK_ERR(socket_try("127.0.0.1:1", at.port), NETKIT_E_REFUSED);
    CHECK_OK(netkit_socket_close(&holder));
    netkit_socket ipv4;
    netkit_addr other = socket_addr("0.0.0.0:0");
    other.port = at.port;
    CHECK_OK(netkit_socket_listen_on(&ipv4, &other, 0, 0));
    CHECK_OK(netkit_socket_close(&ipv4));
    CHECK_OK(netkit_socket_close(&s));
}

/* SK06 OP06: without IPv6, in any of the ways it can be missing, ":port" is IPv4. */
NKT_TEST(socket_dual_stack_without_ipv6) {
    netkit_addr any = socket_addr(":0");
    netkit_addr at;
    netkit_socket s;
    const struct {
        const char *call;
        int os_code;
    } ways[] = {{"socket", EAFNOSUPPORT}, {"bind", EADDRNOTAVAIL}};
    for (size_t i = 0; i < 2; i++) {
        nkt_fault_at(ways[i].call, 1, ways[i].os_code, false);
        CHECK_OK(netkit_socket_listen_on(&s, &any, 0, 0));
        CHECK_EQ(nkt_faults(), 1);
        CHECK_OK(netkit_socket_local(s, &at));
        CHECK_EQ(at.family, NETKIT_AF_IPV4);
        CHECK_OK(socket_try("127.0.0.1:1", at.port));
        CHECK_OK(netkit_socket_close(&s));
        nkt_fault_clear();
    }
    nkt_fault_at("socket", 1, EAFNOSUPPORT, false);
    CHECK_ERR(netkit_socket_listen_on(&s, &any, NETKIT_SOCKET_V6ONLY, 0), NETKIT_E_NOSYS);
    nkt_fault_clear();
    nkt_fault_at("socket", 1, EMFILE, false);
    CHECK_ERR(netkit_socket_listen_on(&s, &any, 0, 0), NETKIT_E_MFILE);
    nkt_fault_clear();
    nkt_fault_at("listen", 1, EADDRINUSE, false);
    CHECK_ERR(netkit_socket_listen_on(&s, &any, 0, 0), NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_socket_os_code(), EADDRINUSE);
    CHECK_EQ(s.value, 0);
}

/* SK05 SK09: a backlog of 0 is a long one, and a batch is taken until there is none. */
NKT_TEST(socket_accept_batch) {
    enum {
        COUNT = 100
    };
    netkit_addr at;
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    netkit_socket dialled[COUNT], accepted;
    int taken = 0, rc;
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(netkit_socket_open(&dialled[i], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(dialled[i], &at, 1000));
    }
    while ((rc = netkit_socket_accept(listener, &accepted, NULL)) == NETKIT_OK) {
        CHECK_OK(netkit_socket_close(&accepted));
        taken++;
    }
    CHECK_ERR(rc, NETKIT_E_AGAIN);
    CHECK_EQ(taken, COUNT);
    CHECK_EQ(accepted.value, 0);
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(netkit_socket_close(&dialled[i]));
    }
    CHECK_OK(netkit_socket_close(&listener));
}

/* SK07 OP12 OP13: what is accepted is non-blocking and not inherited, even from a blocking
 * listener; the peer's address is the dialler's own. */
NKT_TEST(socket_accept_flags) {
    for (int flags = 0; flags <= NETKIT_SOCKET_BLOCKING; flags++) {
        netkit_addr at = socket_addr("127.0.0.1:0"), mine, peer;
        netkit_socket listener, dialled, accepted;
        CHECK_OK(netkit_socket_listen_on(&listener, &at, flags, 0));
        CHECK(socket_mode_is(listener, flags == 0));
        CHECK_OK(netkit_socket_local(listener, &at));
        CHECK_OK(netkit_socket_open(&dialled, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(dialled, &at, 1000));
        CHECK_OK(netkit_socket_accept(listener, &accepted, &peer));
        CHECK(socket_is_nonblocking(accepted) && socket_is_cloexec(accepted));
        CHECK_OK(netkit_socket_local(dialled, &mine));
        CHECK(netkit_addr_equal(&mine, &peer));
        CHECK_OK(netkit_socket_remote(accepted, &peer));
        CHECK(netkit_addr_equal(&mine, &peer));
        CHECK_OK(netkit_socket_remote(dialled, &peer));
        CHECK(netkit_addr_equal(&at, &peer));
        CHECK_OK(netkit_socket_close(&accepted));
        CHECK_OK(netkit_socket_close(&dialled));
        CHECK_OK(netkit_socket_close(&listener));
    }
}

/* SK08: accept tells "that one is gone", "back off" and "never" apart. */
NKT_TEST(socket_accept_errors) {
    const int causes[][2] = {
#if NKI_WINDOWS
        {WSAECONNRESET, NETKIT_E_ABORTED}, /* reset while it waited */
#else
        {EPROTO, NETKIT_E_ABORTED},
        {ENOPROTOOPT, NETKIT_E_ABORTED},
        {EHOSTDOWN, NETKIT_E_ABORTED},
        {EHOSTUNREACH, NETKIT_E_ABORTED},
        {ENETUNREACH, NETKIT_E_ABORTED},
        {EOPNOTSUPP, NETKIT_E_ABORTED},
        {EPERM, NETKIT_E_ABORTED},
#endif
        {ECONNABORTED, NETKIT_E_ABORTED},
        {ENETDOWN, NETKIT_E_ABORTED},
        {EMFILE, NETKIT_E_MFILE},
        {ENFILE, NETKIT_E_MFILE},
        {ENOBUFS, NETKIT_E_NOMEM},
        {ENOMEM, NETKIT_E_NOMEM},
        {EAGAIN, NETKIT_E_AGAIN},
        {EBADF, NETKIT_E_INVALID}
    };
    netkit_addr at;
    netkit_socket out, s;
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    for (size_t i = 0; i < sizeof(causes) / sizeof(causes[0]); i++) {
        nkt_fault_at("accept", 1, causes[i][0], false);
        CHECK_ERR(netkit_socket_accept(listener, &out, &at), causes[i][1]);
        CHECK_EQ(netkit_socket_os_code(), causes[i][0]);
        CHECK(out.value == 0 && at.family == NETKIT_AF_NONE);
        nkt_fault_clear();
    }
    CHECK_OK(netkit_socket_close(&listener));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_ERR(netkit_socket_accept(s, &out, NULL), NETKIT_E_NOSYS); /* would spin as "next" */
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_accept(s, &out, NULL), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&s));
}

/* ---- connecting ------------------------------------------------------------- */

/* SK10 SK13: start with 0, wait until it can be written, ask for the result. */
NKT_TEST(socket_connect_by_hand) {
    netkit_addr at;
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    netkit_socket s;
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_connect_result(s), NETKIT_E_NOTCONN);
    int rc = netkit_socket_connect(s, &at, 0);
    CHECK(rc == NETKIT_OK || rc == NETKIT_E_AGAIN);
    CHECK((netkit_socket_wait(s, NETKIT_POLL_WRITE, 1000) & NETKIT_POLL_WRITE) != 0);
    CHECK_OK(netkit_socket_connect_result(s));
    rc = netkit_socket_connect(s, &at, 0); /* Linux says yes once more */
    CHECK(rc == NETKIT_OK || rc == NETKIT_E_EXISTS);
    CHECK_ERR(netkit_socket_connect(s, &at, 0), NETKIT_E_EXISTS);
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_close(&listener));
}

/* How long a refusal took. */
static uint64_t socket_refused_ms(const netkit_addr *at, bool is_blocking) {
    netkit_socket s;
    netkit_addr peer;
    int flags = is_blocking ? NETKIT_SOCKET_BLOCKING : 0;
    uint64_t start = nkt_now_ns();
    CHECK_OK(netkit_socket_open(&s, at->family, NETKIT_SOCK_STREAM, flags));
    CHECK_ERR(netkit_socket_connect(s, at, is_blocking ? -1 : 5000), NETKIT_E_REFUSED);
    CHECK_EQ(netkit_socket_os_code(), ECONNREFUSED);
    uint64_t took = socket_ms_since(start);
    CHECK_ERR(netkit_socket_remote(s, &peer), NETKIT_E_NOTCONN);
    CHECK(socket_mode_is(s, !is_blocking));
    CHECK_OK(netkit_socket_close(&s));
    return took;
}

/* T-08 SD04 SK13: refused is told once, at once, on each family, blocking or not. A machine that
 * is busy gets three tries at the time. */
NKT_TEST(socket_connect_refused) {
    const char *texts[] = {"127.0.0.1:0", "[::1]:0"};
    for (int i = 0; i < (socket_has_ipv6() ? 4 : 2); i++) {
        netkit_addr at = socket_free_addr(texts[i / 2]);
        uint64_t took = socket_refused_ms(&at, i % 2 != 0);
        for (int tries = 1; tries < 3 && took > 100; tries++) {
            took = socket_refused_ms(&at, i % 2 != 0);
        }
        CHECK(took <= 100);
    }
}

/* SK10: a connect whose error somebody else has read is over, not under way for ever. */
NKT_TEST(socket_connect_result_lost) {
    netkit_addr at = socket_free_addr("127.0.0.1:0");
    netkit_socket s;
    int error;
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    int rc = netkit_socket_connect(s, &at, 0);
    if (rc == NETKIT_E_AGAIN) {
        CHECK(netkit_socket_wait(s, NETKIT_POLL_WRITE, 1000) > 0);
        CHECK_OK(netkit_socket_get(s, NETKIT_OPT_ERROR, &error));
        CHECK_EQ(error, NETKIT_E_REFUSED);
    }
    rc = netkit_socket_connect_result(s); /* Windows tells it again */
    CHECK(rc == NETKIT_E_NOTCONN || (NKI_WINDOWS && rc == NETKIT_E_REFUSED));
    CHECK_OK(netkit_socket_close(&s));
}

/* Fill the queue of a listener, so that a further connect finds no room. */
static int socket_fill(const netkit_addr *at, netkit_socket *out, int most) {
    for (int i = 0; i < most; i++) {
        CHECK_OK(netkit_socket_open(&out[i], at->family, NETKIT_SOCK_STREAM, 0));
        if (netkit_socket_connect(out[i], at, 50) != NETKIT_OK) {
            return i + 1;
        }
    }
    SKIP("the backlog of a listener cannot be filled here");
    return 0;
}

static void socket_on_signal(int number) {
    (void)number;
}

/* Signals without SA_RESTART every `us` microseconds from now; 0 = no more. */
static void socket_storm(unsigned us) {
    CHECK(nkt_alarm(us, us, socket_on_signal));
}

/* SK11 IO19 Z-04: a connect has its time and not more, signals or not, blocking or not. */
NKT_TEST(socket_connect_timeout) {
    netkit_addr at = socket_addr("127.0.0.1:0");
    netkit_socket listener, queue[8], s;
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 1));
    CHECK_OK(netkit_socket_local(listener, &at));
    int queued = socket_fill(&at, queue, 8);
    for (int i = 0; i < 4; i++) {
        int flags = i % 2 != 0 ? NETKIT_SOCKET_BLOCKING : 0;
        CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, flags));
        socket_storm(i >= 2 ? 15000 : 0);
        uint64_t start = nkt_now_ns();
        CHECK_ERR(netkit_socket_connect(s, &at, 150), NETKIT_E_TIMEOUT);
        CHECK_EQ(netkit_socket_os_code(), ETIMEDOUT);
        CHECK(nkt_now_ns() - start >= 150000000);
        CHECK(socket_ms_since(start) < 1000 * nkt_slowness);
        socket_storm(0);
        CHECK_EQ(socket_is_nonblocking(s), flags == 0);
        CHECK_ERR(netkit_socket_connect_result(s), NETKIT_E_AGAIN);
        CHECK_OK(netkit_socket_close(&s));
    }
    while (queued-- > 0) {
        CHECK_OK(netkit_socket_close(&queue[queued]));
    }
    CHECK_OK(netkit_socket_close(&listener));
}

static void *socket_accept_later(void *user) {
    netkit_socket s;
    nkt_sleep_ms(100);
    while (netkit_socket_accept(*(netkit_socket *)user, &s, NULL) == NETKIT_OK) {
        netkit_socket_close(&s);
    }
    return NULL;
}

/* Z-04 SK11: a blocking connect hit by signals goes on in the kernel and is waited for. */
NKT_TEST(socket_connect_interrupted) {
    netkit_addr at = socket_addr("127.0.0.1:0");
    netkit_socket listener, queue[8], s;
    pthread_t thread;
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 1));
    CHECK_OK(netkit_socket_local(listener, &at));
    int queued = socket_fill(&at, queue, 8);
    nkt_alarm_mask(true); /* the thread inherits it: signals are for us */
    CHECK_EQ(pthread_create(&thread, NULL, socket_accept_later, &listener), 0);
    nkt_alarm_mask(false);
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING));
    socket_storm(15000);
    CHECK_OK(netkit_socket_connect(s, &at, -1));
    socket_storm(0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(netkit_socket_connect_result(s));
    CHECK_OK(netkit_socket_close(&s));
    while (queued-- > 0) {
        CHECK_OK(netkit_socket_close(&queue[queued]));
    }
    CHECK_OK(netkit_socket_close(&listener));
}

/* SK15: the source address and port are what was bound before. */
NKT_TEST(socket_connect_from) {
    netkit_addr at, peer;
    netkit_addr source = socket_free_addr("127.0.0.1:0");
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    netkit_socket s, accepted;
#if defined(__linux__)
    source = socket_addr("127.0.0.2:0"); /* all of 127.0.0.0/8 is ours there */
#endif
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_bind(s, &source, 0));
    CHECK_OK(netkit_socket_local(s, &source));
    CHECK_OK(netkit_socket_connect(s, &at, 1000));
    CHECK_OK(netkit_socket_accept(listener, &accepted, &peer));
    CHECK(netkit_addr_equal(&source, &peer));
    CHECK_OK(netkit_socket_close(&accepted));
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_close(&listener));
}

/* C-07: a socket that reaches itself was refused; a datagram socket may talk to itself. */
NKT_TEST(socket_connect_to_itself) {
    for (int i = 0; i < 4; i++) {
        int type = i % 2 == 0 ? NETKIT_SOCK_STREAM : NETKIT_SOCK_DGRAM;
        netkit_addr at = socket_addr(i < 2 ? "127.0.0.1:0" : "[::1]:0");
        netkit_socket s;
        if (i >= 2 && !socket_has_ipv6()) {
            break;
        }
        CHECK_OK(netkit_socket_open(&s, at.family, type, 0));
        CHECK_OK(netkit_socket_bind(s, &at, 0));
        CHECK_OK(netkit_socket_local(s, &at));
        if (type == NETKIT_SOCK_STREAM) {
            CHECK_ERR(netkit_socket_connect(s, &at, 1000), NETKIT_E_REFUSED);
            CHECK_EQ(netkit_socket_os_code(), ECONNREFUSED);
        } else {
            CHECK_OK(netkit_socket_connect(s, &at, 1000));
            CHECK_OK(netkit_socket_connect_result(s));
        }
        CHECK_OK(netkit_socket_close(&s));
    }
}

/* SK13: an address of another family, or none, is an error at the call. */
NKT_TEST(socket_connect_bad) {
    netkit_socket s;
    netkit_addr zero;
    memset(&zero, 0, sizeof(zero));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_connect(s, &zero, 100), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_connect(s, NULL, 100), NETKIT_E_INVALID);
    netkit_addr ipv6 = socket_addr("[::1]:9");
    int rc = netkit_socket_connect(s, &ipv6, 100);
    CHECK(rc == NETKIT_E_NOSYS || rc == NETKIT_E_INVALID);
#if !NKI_WINDOWS                               /* it says so by its name */
    nkt_fault_at("connect", 1, EAGAIN, false); /* Linux: no port left to dial from */
    netkit_addr ipv4 = socket_addr("127.0.0.1:9");
    CHECK_ERR(netkit_socket_connect(s, &ipv4, 100), NETKIT_E_ADDRNOTAVAIL);
#endif
    CHECK_OK(netkit_socket_close(&s));
}

/* ---- moving bytes ------------------------------------------------------------ */

/* IO01: bytes, nothing now, the end and a reset are all different. */
NKT_TEST(socket_recv_results) {
    netkit_socket s[2];
    char text[8];
    socket_tcp_pair(s, 0);
    CHECK_ERR(netkit_socket_recv(s[0], text, 8), NETKIT_E_AGAIN);
    CHECK_EQ(netkit_socket_recv(s[0], text, 0), 0);
    CHECK_EQ(netkit_socket_send(s[1], "abc", 3), 3);
    CHECK_EQ(netkit_socket_send(s[1], "", 0), 0);
    CHECK_EQ(netkit_socket_send(s[1], NULL, 0), 0);
    CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
    CHECK_EQ(netkit_socket_recv(s[0], text, 8), 3);
    CHECK_MEM(text, "abc", 3);
    CHECK_OK(netkit_socket_shutdown(s[1], NETKIT_SHUT_WRITE));
    CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
    CHECK_ERR(netkit_socket_recv(s[0], text, 8), NETKIT_E_EOF);
    CHECK_ERR(netkit_socket_recv(s[0], text, 8), NETKIT_E_EOF);
    CHECK_ERR(netkit_socket_recv(s[0], NULL, 8), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_send(s[0], NULL, 8), NETKIT_E_INVALID);
    socket_close_both(s);
}

/* SK18 IO01: a reset reaches the peer as one, on its read and on its writes. */
NKT_TEST(socket_reset_is_seen) {
    netkit_socket s[2];
    char text[8];
    socket_tcp_pair(s, 0);
    CHECK_EQ(netkit_socket_send(s[1], "abc", 3), 3);
    CHECK_OK(netkit_socket_reset(&s[1]));
    CHECK_EQ(s[1].value, 0);
    CHECK((netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) & NETKIT_POLL_ERROR) != 0);
    int rc = netkit_socket_recv(s[0], text, 8);
    if (rc == 3) { /* Linux hands out what came before the reset */
        rc = netkit_socket_recv(s[0], text, 8);
    }
    CHECK_ERR(rc, NETKIT_E_RESET);
    CHECK_EQ(netkit_socket_os_code(), ECONNRESET);
    socket_close_both(s);

    socket_tcp_pair(s, 0);
    nkt_fault_at("setsockopt", 1, ENOMEM, false);
    CHECK_ERR(netkit_socket_reset(&s[1]), NETKIT_E_NOMEM);
    CHECK_EQ(s[1].value, 0); /* closed all the same */
    CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
    CHECK_ERR(netkit_socket_recv(s[0], text, 8), NETKIT_E_EOF);
    socket_close_both(s);
}

/* T-13 IO12 SD27: a thousand writes to a peer that is gone: an error each time, and no signal. */
NKT_TEST(socket_no_sigpipe) {
    netkit_socket s[2];
    netkit_span spans[2] = {{"ab", 2}, {"cd", 2}};
    CHECK(nkt_sigpipe_is_default());
    for (int i = 0; i < 3; i++) {
        if (i == 0) {
            socket_tcp_pair(s, 0);
            CHECK_OK(netkit_socket_reset(&s[1]));
            CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
        } else {
            CHECK_OK(
                netkit_socket_pair(s, NETKIT_SOCK_STREAM, i == 1 ? 0 : NETKIT_SOCKET_BLOCKING));
            CHECK_OK(netkit_socket_close(&s[1]));
        }
        /* Where the pair is one of TCP, the first is answered by a reset. */
        if (NKI_WINDOWS && i > 0) {
            CHECK_EQ(netkit_socket_send(s[0], "x", 1), 1);
            for (int t = 0; t < 1000 && netkit_socket_send(s[0], "x", 1) != NETKIT_E_RESET; t++) {
                nkt_sleep_ms(1);
            }
        }
        for (int n = 0; n < 1000; n++) {
            int rc =
                n % 2 != 0 ? netkit_socket_send(s[0], "x", 1) : netkit_socket_sendv(s[0], spans, 2);
            CHECK_ERR(rc, NETKIT_E_RESET);
        }
        CHECK_ERR(netkit_socket_send_all(s[0], "x", 1, -1, NULL), NETKIT_E_RESET);
        CHECK_OK(netkit_socket_close(&s[0]));
    }
    CHECK(nkt_sigpipe_is_default());
}

/* SK19 SK20 SK26: one direction ends, the other goes on; reading can be ended too. */
NKT_TEST(socket_half_close) {
    netkit_socket s[2];
    char text[8];
    socket_tcp_pair(s, 0);
    CHECK_OK(netkit_socket_shutdown(s[0], NETKIT_SHUT_WRITE));
    CHECK_ERR(netkit_socket_send(s[0], "x", 1), NETKIT_E_RESET);
    CHECK((netkit_socket_wait(s[1], NETKIT_POLL_READ, 1000) & NETKIT_POLL_READ) != 0);
    CHECK_ERR(netkit_socket_recv(s[1], text, 8), NETKIT_E_EOF);
    CHECK_EQ(netkit_socket_send(s[1], "still", 5), 5);
    CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
    CHECK_EQ(netkit_socket_recv(s[0], text, 8), 5);
    CHECK_OK(netkit_socket_shutdown(s[0], NETKIT_SHUT_READ));
    CHECK_ERR(netkit_socket_recv(s[0], text, 8), NETKIT_E_EOF);
    CHECK_ERR(netkit_socket_shutdown(s[0], 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_shutdown(s[0], 4), NETKIT_E_INVALID);
    socket_close_both(s);
    CHECK_OK(netkit_socket_open(&s[0], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_shutdown(s[0], NETKIT_SHUT_BOTH), NETKIT_E_NOTCONN);
    int rc = netkit_socket_send(s[0], "x", 1); /* Linux: EPIPE; BSD: ENOTCONN */
    CHECK(rc == NETKIT_E_RESET || rc == NETKIT_E_NOTCONN);
    CHECK_OK(netkit_socket_close(&s[0]));
}

/* IO01: an empty datagram is one, not the end of anything. */
NKT_TEST(socket_empty_datagram) {
    netkit_socket s[2];
    char text[8];
    size_t done;
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_DGRAM, 0));
    CHECK_EQ(netkit_socket_send(s[0], "", 0), 0);
    CHECK_EQ(netkit_socket_recv(s[1], text, 8), 0);
    CHECK_ERR(netkit_socket_recv(s[1], text, 8), NETKIT_E_AGAIN);
    CHECK_EQ(netkit_socket_send(s[0], "", 0), 0);
    CHECK_EQ(netkit_socket_send(s[0], "ab", 2), 2);
    CHECK_OK(netkit_socket_recv_all(s[1], text, 2, 1000, &done));
    CHECK_EQ(done, 2);
    socket_close_both(s);
}

/* IO07: several spans go out as one, empty ones and none too; short writes keep the order. */
NKT_TEST(socket_gathered_send) {
    netkit_socket s[2];
    netkit_span spans[65];
    char text[128];
    for (int i = 0; i < 65; i++) {
        spans[i].data = &"0123456789"[i % 10];
        spans[i].len = i == 3 ? 0 : 1;
    }
    spans[3].data = NULL;
    socket_tcp_pair(s, 0);
    CHECK_EQ(netkit_socket_sendv(s[0], spans, 64), 63);
    CHECK_OK(netkit_socket_recv_all(s[1], text, 63, 1000, NULL));
    CHECK_MEM(text, "012456789012", 12);
    CHECK_ERR(netkit_socket_sendv(s[0], spans, 65), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_sendv(s[0], NULL, 1), NETKIT_E_INVALID);
    spans[0].data = NULL;
    CHECK_ERR(netkit_socket_sendv(s[0], spans, 2), NETKIT_E_INVALID);
    CHECK_EQ(netkit_socket_sendv(s[0], NULL, 0), 0);
    nkt_clip_random("sendmsg", 3);
    spans[0].data = "abc";
    spans[0].len = 3;
    spans[1].data = "def";
    spans[1].len = 3;
    int sent = netkit_socket_sendv(s[0], spans, 2);
    CHECK(sent >= 1 && sent <= 3);
    CHECK_EQ(netkit_socket_recv(s[1], text, 8), sent);
    CHECK_MEM(text, "abc", (size_t)sent);
    socket_close_both(s);
}

typedef struct socket_bulk {
    netkit_socket s;
    size_t len;
    int rc;
    size_t done;
    unsigned char *data;
} socket_bulk;

static void *socket_send_bulk(void *user) {
    socket_bulk *bulk = (socket_bulk *)user;
    bulk->rc = netkit_socket_send_all(bulk->s, bulk->data, bulk->len, 5000, &bulk->done);
    return NULL;
}

/* IO02: megabytes cross whole, however the system cuts them, on blocking sockets and not. */
NKT_TEST(socket_send_all_recv_all) {
    enum {
        LEN = 2 * 1024 * 1024
    };
    unsigned char *out = (unsigned char *)malloc(LEN);
    unsigned char *in = (unsigned char *)calloc(1, LEN);
    CHECK(out != NULL && in != NULL);
    for (size_t i = 0; i < LEN; i++) {
        out[i] = (unsigned char)(i * 31 >> 3);
    }
    for (int flags = 0; flags <= NETKIT_SOCKET_BLOCKING; flags++) {
        netkit_socket s[2];
        pthread_t thread;
        size_t done;
        socket_tcp_pair(s, flags);
        socket_bulk bulk = {s[0], LEN, 1, 0, out};
        CHECK_EQ(pthread_create(&thread, NULL, socket_send_bulk, &bulk), 0);
        nkt_clip_random("recv", 100000);
        CHECK_OK(netkit_socket_recv_all(s[1], in, LEN, 5000, &done));
        nkt_fault_clear();
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_OK(bulk.rc);
        CHECK(bulk.done == LEN && done == LEN);
        CHECK_MEM(in, out, LEN);
        memset(in, 0, LEN);
        CHECK_OK(netkit_socket_send_all(s[0], "ab", 2, 0, &done));
        CHECK_OK(netkit_socket_close(&s[0]));
        CHECK_ERR(netkit_socket_recv_all(s[1], in, 9, 1000, &done), NETKIT_E_EOF);
        CHECK_EQ(done, 2);
        CHECK_OK(netkit_socket_recv_all(s[1], in, 0, 0, &done));
        CHECK_EQ(done, 0);
        CHECK_OK(netkit_socket_close(&s[1]));
    }
    free(out);
    free(in);
}

/* IO02 IO19 Z-04: a deadline holds on a blocking socket, through signals, against a peer that
 * trickles, and says how far it came. */
NKT_TEST(socket_deadlines) {
    static char big[4 * 1024 * 1024];
    netkit_socket s[2];
    char text[8];
    size_t done;
    for (int i = 0; i < 4; i++) {
        socket_tcp_pair(s, i % 2 != 0 ? NETKIT_SOCKET_BLOCKING : 0);
        CHECK_EQ(netkit_socket_send(s[1], "ab", 2), 2);
        socket_storm(i >= 2 ? 15000 : 0);
        uint64_t start = nkt_now_ns();
        CHECK_ERR(netkit_socket_recv_all(s[0], text, 8, 60, &done), NETKIT_E_TIMEOUT);
        CHECK_EQ(netkit_socket_os_code(), ETIMEDOUT);
        CHECK_EQ(done, 2);
        CHECK(nkt_now_ns() - start >= 60000000);
        CHECK(socket_ms_since(start) < 1000 * nkt_slowness);
        start = nkt_now_ns();
        CHECK_ERR(netkit_socket_recv_all(s[0], text, 8, 0, &done), NETKIT_E_TIMEOUT);
        CHECK(socket_ms_since(start) < 500 * nkt_slowness);
        start = nkt_now_ns();
        CHECK_ERR(netkit_socket_send_all(s[0], big, sizeof(big), 60, &done), NETKIT_E_TIMEOUT);
        CHECK(done > 0 && done < sizeof(big));
        CHECK(nkt_now_ns() - start >= 60000000 && socket_ms_since(start) < 1000 * nkt_slowness);
        CHECK_ERR(netkit_socket_wait(s[0], NETKIT_POLL_READ, 20), NETKIT_E_TIMEOUT);
        socket_storm(0);
        socket_close_both(s);
    }
}

/* IO19 IO02: a peer that always has one more byte does not stretch the time. */
NKT_TEST(socket_deadline_despite_progress) {
    static char big[64 * 1024];
    netkit_socket s[2];
    size_t done;
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_send_all(s[0], big, sizeof(big), 1000, NULL));
    nkt_clip_random("recv", 1);
    uint64_t start = nkt_now_ns();
    CHECK_ERR(netkit_socket_recv_all(s[1], big, sizeof(big), 2, &done), NETKIT_E_TIMEOUT);
    CHECK(done > 0 && done < sizeof(big));
    CHECK(nkt_now_ns() - start >= 2000000 && socket_ms_since(start) < 1000 * nkt_slowness);
    nkt_fault_clear();
    CHECK_OK(netkit_socket_recv_all(s[1], big, sizeof(big) - done, 1000, NULL));
    socket_close_both(s);
}

/* SK26: waiting tells what holds; nonsense is refused instead of waited for. */
NKT_TEST(socket_wait_results) {
    netkit_socket s[2];
    socket_tcp_pair(s, 0);
    CHECK_EQ(netkit_socket_wait(s[0], NETKIT_POLL_READ | NETKIT_POLL_WRITE, 0), NETKIT_POLL_WRITE);
    CHECK_ERR(netkit_socket_wait(s[0], NETKIT_POLL_READ, 0), NETKIT_E_TIMEOUT);
    CHECK_ERR(netkit_socket_wait(s[0], 0, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_wait(s[0], NETKIT_POLL_EDGE, 0), NETKIT_E_INVALID);
    CHECK_EQ(netkit_socket_send(s[1], "x", 1), 1);
    CHECK_OK(netkit_socket_shutdown(s[1], NETKIT_SHUT_WRITE));
    CHECK((netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) & NETKIT_POLL_READ) != 0);
    netkit_socket copy = s[0];
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_ERR(netkit_socket_wait(copy, NETKIT_POLL_READ, -1), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&s[1]));
    nkt_fault_at("poll", 1, ENOMEM, false);
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_wait(s[0], NETKIT_POLL_READ, -1), NETKIT_E_NOMEM);
    nkt_fault_clear();
    nkt_fault_at("clock_gettime", 1, EINVAL, true); /* no clock: time is up, not endless */
    CHECK_ERR(netkit_socket_wait(s[0], NETKIT_POLL_READ, 100000), NETKIT_E_TIMEOUT);
    nkt_fault_clear();
    socket_close_both(s);
}

static void socket_interrupt(const char *call) {
    nkt_fault_at(call, 1, EINTR, false);
    nkt_fault_at(call, 1, EINTR, false);
    nkt_fault_at(call, 1, EINTR, false);
}

/* Z-04: three signals in a row in each call: nothing shows. A close is never repeated. */
NKT_TEST(socket_interrupted_calls) {
    char path[160], address[180], text[8];
    netkit_socket listener, s, twice, accepted;
    netkit_span span = {"v", 1};
    socket_need_unix();
    nkt_temp_path(path, sizeof(path));
    snprintf(address, sizeof(address), "unix:%s", path);
    netkit_addr at = socket_addr(address);
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
    socket_interrupt("connect");
    CHECK_OK(netkit_socket_connect(s, &at, 1000));
    nkt_rule_count = 0;
    nkt_fault_at("connect", 1, EINTR, false); /* done all the same: the retry finds it so */
    CHECK_OK(netkit_socket_open(&twice, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
    nkt_fault_at("connect", 1, EISCONN, false);
    CHECK_ERR(netkit_socket_connect(twice, &at, 1000), NETKIT_E_NOTCONN);
    CHECK_OK(netkit_socket_close(&twice));
    nkt_rule_count = 0;
    socket_interrupt("accept");
    CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
    nkt_rule_count = 0;
    socket_interrupt("send");
    CHECK_EQ(netkit_socket_send(s, "x", 1), 1);
    nkt_rule_count = 0;
    socket_interrupt("sendmsg");
    CHECK_EQ(netkit_socket_sendv(s, &span, 1), 1);
    nkt_rule_count = 0;
    socket_interrupt("recv");
    CHECK_EQ(netkit_socket_recv(accepted, text, 8), 2);
    nkt_rule_count = 0;
    socket_interrupt("poll");
    CHECK_EQ(netkit_socket_wait(s, NETKIT_POLL_WRITE, 1000), NETKIT_POLL_WRITE);
    CHECK_EQ(nkt_faults(), 20);
    nkt_fault_clear();
    socket_interrupt("close");
    nkt_calls_reset();
    CHECK_OK(netkit_socket_close(&s));
    CHECK_EQ(nkt_calls("close"), 1);
    CHECK_OK(netkit_socket_reset(&accepted));
    CHECK_OK(netkit_socket_close(&listener));
    CHECK_EQ(nkt_calls("close"), 3);
    nkt_fault_clear();
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    nkt_fault_at("close", 1, EIO, false);
    CHECK_ERR(netkit_socket_close(&s), NETKIT_E_IO);
    CHECK_EQ(s.value, 0);
}

/* SD03: a descriptor beyond 1024 is one like any. */
NKT_TEST(socket_high_descriptor) {
    netkit_socket s[2];
    char text[4];
    (void)nkt_want_descriptors(1500);
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    int high = nkt_dup_above(socket_fd(s[0]), 1400);
    if (high < 0) {
        SKIP("no descriptor above 1024 allowed");
    }
    CHECK_OK(netkit_socket_close(&s[0]));
    s[0] = netkit_socket_from_native((uintptr_t)high);
    CHECK_EQ(netkit_socket_send(s[1], "abc", 3), 3);
    CHECK_EQ(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000), NETKIT_POLL_READ);
    CHECK_EQ(netkit_socket_recv(s[0], text, 4), 3);
    socket_close_both(s);
}

/* ---- options ------------------------------------------------------------------ */

static int socket_option(netkit_socket s, netkit_option option) {
    int value = -77;
    CHECK_OK(netkit_socket_get(s, option, &value));
    return value;
}

/* OP01 OP02 OP03 OP11 OP12 OP13: what is set is read back, and booleans are 0 and 1. */
NKT_TEST(socket_options) {
    const netkit_option flags[] = {NETKIT_OPT_NODELAY, NETKIT_OPT_KEEPALIVE, NETKIT_OPT_REUSE_ADDR,
                                   NETKIT_OPT_BLOCKING, NETKIT_OPT_CLOSE_ON_EXEC};
    netkit_socket s;
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK(socket_mode_is(s, true));
    CHECK_EQ(socket_option(s, NETKIT_OPT_CLOSE_ON_EXEC), 1);
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        for (int value = 0; value <= 3; value++) {
            if (NKI_WINDOWS && flags[i] == NETKIT_OPT_REUSE_ADDR) {
                CHECK_ERR(netkit_socket_set(s, flags[i], value % 2), NETKIT_E_NOSYS);
                continue; /* it would let others take the port */
            }
            if (NKI_WINDOWS && flags[i] == NETKIT_OPT_BLOCKING) {
                int none;
                CHECK_OK(netkit_socket_set(s, flags[i], value % 2));
                CHECK_ERR(netkit_socket_get(s, flags[i], &none), NETKIT_E_NOSYS);
                continue;
            }
            CHECK_OK(netkit_socket_set(s, flags[i], value % 2));
            CHECK_EQ(socket_option(s, flags[i]), value % 2);
        }
        CHECK_ERR(netkit_socket_set(s, flags[i], 2), NETKIT_E_INVALID);
        CHECK_ERR(netkit_socket_set(s, flags[i], -1), NETKIT_E_INVALID);
    }
    CHECK(socket_is_cloexec(s) && socket_mode_is(s, false));
#if !defined(__OpenBSD__)
    const netkit_option numbers[] = {NETKIT_OPT_KEEPALIVE_IDLE, NETKIT_OPT_KEEPALIVE_PERIOD,
                                     NETKIT_OPT_KEEPALIVE_COUNT};
    for (int i = 0; i < 3; i++) {
        int rc = netkit_socket_set(s, numbers[i], 7 + i);
        if (rc == NETKIT_E_NOSYS && NKI_WINDOWS) {
            continue; /* before Windows 10, and wine 8 */
        }
        CHECK_OK(rc);
        CHECK_EQ(socket_option(s, numbers[i]), 7 + i);
        CHECK_ERR(netkit_socket_set(s, numbers[i], 0), NETKIT_E_INVALID);
    }
#endif
#if defined(__linux__)
    CHECK_OK(netkit_socket_set(s, NETKIT_OPT_USER_TIMEOUT, 1234));
    CHECK_EQ(socket_option(s, NETKIT_OPT_USER_TIMEOUT), 1234);
#else
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_USER_TIMEOUT, 1234), NETKIT_E_NOSYS);
#endif
    CHECK_OK(netkit_socket_close(&s));
}

/* OP01 OP03: options that the system or the protocol has not are NOSYS, nonsense is INVALID. */
NKT_TEST(socket_options_bad) {
    netkit_socket s;
    int value = 5;
    netkit_option missing[2] = {NETKIT_OPT_NODELAY, NETKIT_OPT_EXCLUSIVE_ADDR};
#if NKI_WINDOWS
    missing[0] = NETKIT_OPT_FAST_OPEN;
    missing[1] = NETKIT_OPT_REUSE_PORT;
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_set(s, NETKIT_OPT_EXCLUSIVE_ADDR, 1));
#else
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
#endif
    for (int i = 0; i < 2; i++) {
        CHECK_ERR(netkit_socket_set(s, missing[i], 1), NETKIT_E_NOSYS);
        CHECK_ERR(netkit_socket_get(s, missing[i], &value), NETKIT_E_NOSYS);
        CHECK_EQ(value, 0);
        value = 5;
    }
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_ERROR, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_set(s, (netkit_option)99, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get(s, (netkit_option)0, &value), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get(s, NETKIT_OPT_ERROR, NULL), NETKIT_E_INVALID);
    CHECK_EQ(socket_option(s, NETKIT_OPT_ERROR), NETKIT_OK);
    nkt_fault_at(NKI_WINDOWS ? "ioctl" : "fcntl", 1, EBADF, false);
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_BLOCKING, 1), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&s));
}

/* OP01: an option of the listener is the accepted socket's. */
NKT_TEST(socket_options_inherited) {
    netkit_addr at;
    netkit_socket listener = socket_listener("127.0.0.1:0", &at);
    netkit_socket s, accepted;
    CHECK_OK(netkit_socket_set(listener, NETKIT_OPT_NODELAY, 1));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_connect(s, &at, 1000));
    CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
    CHECK_EQ(socket_option(accepted, NETKIT_OPT_NODELAY), 1);
    CHECK_EQ(socket_option(s, NETKIT_OPT_NODELAY), 0);
    CHECK_OK(netkit_socket_close(&accepted));
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_close(&listener));
}

/* ---- unix ---------------------------------------------------------------------- */

/* Connect to a listener at `at` and pass a word. */
static void socket_unix_talk(netkit_socket listener, const netkit_addr *at) {
    netkit_socket s, accepted;
    netkit_addr peer;
    char text[4];
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_connect(s, at, 1000));
    CHECK_OK(netkit_socket_remote(s, &peer));
    CHECK(netkit_addr_equal(&peer, at));
    CHECK_OK(netkit_socket_accept(listener, &accepted, &peer));
    CHECK(peer.family == NETKIT_AF_UNIX && peer.path_len == 0);
    CHECK_EQ(netkit_socket_send(s, "hey", 3), 3);
    CHECK_EQ(netkit_socket_recv(accepted, text, 4), 3);
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_close(&accepted));
}

/* UX01 SK25 T-16: listen and connect by path; what is there already is never removed. */
NKT_TEST(socket_unix_path) {
    char path[160], text[180];
    netkit_socket listener, other;
    netkit_addr real;
    socket_need_unix();
    nkt_temp_path(path, sizeof(path));
    snprintf(text, sizeof(text), "unix:%s", path);
    netkit_addr at = socket_addr(text);
    CHECK_ERR(socket_try(text, 0), NETKIT_E_NOTFOUND);
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &real));
    CHECK(netkit_addr_equal(&real, &at));
    socket_unix_talk(listener, &at);
    CHECK_ERR(netkit_socket_listen_on(&other, &at, 0, 0), NETKIT_E_ADDRINUSE);
    socket_unix_talk(listener, &at);
    CHECK_OK(netkit_socket_close(&listener));
    CHECK_EQ(access(path, F_OK), 0);
    CHECK_ERR(socket_try(text, 0), NETKIT_E_REFUSED); /* SD04: nobody behind it */
    CHECK_EQ(unlink(path), 0);
}

/* UX01: a unix listener whose backlog is full refuses for now, at once, whatever the timeout. */
NKT_TEST(socket_unix_backlog_full) {
    char path[160], text[180];
    netkit_socket listener, s[4];
    int rc = NETKIT_OK, count = 0;
    socket_need_unix();
    nkt_temp_path(path, sizeof(path));
    snprintf(text, sizeof(text), "unix:%s", path);
    netkit_addr at = socket_addr(text);
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 1));
    while (rc == NETKIT_OK && count < 4) {
        CHECK_OK(netkit_socket_open(&s[count], NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
        rc = netkit_socket_connect(s[count++], &at, 100);
    }
    CHECK(rc == NETKIT_E_FULL || rc == NETKIT_E_REFUSED); /* the BSDs call it refused */
#if defined(__linux__)
    CHECK_ERR(rc, NETKIT_E_FULL);
    CHECK_EQ(netkit_socket_os_code(), EAGAIN);
#endif
    while (count-- > 0) {
        CHECK_OK(netkit_socket_close(&s[count]));
    }
    CHECK_OK(netkit_socket_close(&listener));
}

/* X-01 UX02 SD30: the longest path works, one more byte is refused and makes nothing. */
NKT_TEST(socket_unix_path_length) {
    enum {
        LIMIT = (int)sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1
    };
    char path[5000];
    netkit_socket listener;
    netkit_addr at, real;
    socket_need_unix();
    nkt_temp_path(path, 100);
    size_t len = strlen(path);
    CHECK(len < LIMIT);
    memset(path + len, 'x', sizeof(path) - len);
    CHECK_OK(netkit_addr_from_path(&at, path, LIMIT, false));
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &real));
    CHECK_EQ(real.path_len, LIMIT);
    CHECK(netkit_addr_equal(&real, &at));
    socket_unix_talk(listener, &at);
    CHECK_OK(netkit_socket_close(&listener));
    path[LIMIT] = '\0';
    CHECK_EQ(unlink(path), 0);
    path[LIMIT] = 'x';
    CHECK_ERR(netkit_addr_from_path(&at, path, LIMIT + 1, false), NETKIT_E_TOOBIG);
    CHECK_ERR(netkit_addr_from_path(&at, path, 4096, false), NETKIT_E_TOOBIG);
    CHECK_ERR(netkit_socket_listen_on(&listener, &at, 0, 0), NETKIT_E_INVALID);
    path[3] = '\0';
    CHECK_ERR(netkit_addr_from_path(&at, path, 20, false), NETKIT_E_INVALID);
}

/* X-02 UX03: abstract names are exact to the byte, NULs and all, and leave no file. */
NKT_TEST(socket_unix_abstract) {
#if defined(__linux__)
    char name[64];
    netkit_socket listener, other;
    netkit_addr at, longer, real;
    int len = snprintf(name, sizeof(name), "nkt-%ld-%llx", (long)getpid(),
                       (unsigned long long)nkt_random());
    name[2] = '\0';
    CHECK_OK(netkit_addr_from_path(&at, name, (size_t)len, true));
    CHECK_OK(netkit_addr_from_path(&longer, name, (size_t)len + 1, true)); /* with a NUL behind */
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_listen_on(&other, &longer, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &real));
    CHECK(real.is_abstract && real.path_len == len);
    CHECK_MEM(real.path, name, (size_t)len);
    socket_unix_talk(listener, &at);
    socket_unix_talk(other, &longer);
    CHECK_OK(netkit_socket_close(&listener));
    CHECK_OK(netkit_socket_close(&other));
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0)); /* free again at once */
    CHECK_OK(netkit_socket_close(&listener));
    struct sockaddr_un bare;
    memset(&bare, 0, sizeof(bare));
    bare.sun_family = AF_UNIX;
    CHECK_OK(netkit_socket_open(&listener, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
    CHECK_EQ(bind(socket_fd(listener), (struct sockaddr *)&bare, sizeof(bare.sun_family)), 0);
    CHECK_OK(netkit_socket_local(listener, &real)); /* autobind: five hex digits */
    CHECK(real.is_abstract && real.path_len == 5);
    CHECK_OK(netkit_socket_close(&listener));
#else
    netkit_addr at;
    CHECK_ERR(netkit_addr_from_path(&at, "x", 1, true), NETKIT_E_NOSYS);
#endif
}

/* Z-02: each call of a whole conversation fails once: an error comes out, nothing is left open,
 * and what was moved is right. */
NKT_TEST(socket_every_call_fails) {
    int n = 1;
    for (bool is_hit = true; is_hit; n++) {
        netkit_addr at = socket_addr("127.0.0.1:0"), peer;
        netkit_socket listener = {0}, s = {0}, accepted = {0};
        char text[4] = "";
        nkt_fault_at(NULL, (uint64_t)n, ENOMEM, false);
        int rc = netkit_socket_listen_on(&listener, &at, 0, 0);
        rc = rc < 0 ? rc : netkit_socket_local(listener, &at);
        rc = rc < 0 ? rc : netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0);
        rc = rc < 0 ? rc : netkit_socket_connect(s, &at, 1000);
        rc = rc < 0 ? rc : netkit_socket_accept(listener, &accepted, &peer);
        rc = rc < 0 ? rc : netkit_socket_send_all(s, "abc", 3, 1000, NULL);
        rc = rc < 0 ? rc : netkit_socket_recv_all(accepted, text, 3, 1000, NULL);
        CHECK(rc != NETKIT_OK || memcmp(text, "abc", 3) == 0);
        int closed = netkit_socket_close(&accepted);
        closed = netkit_socket_close(&s) < 0 ? NETKIT_E_NOMEM : closed;
        closed = netkit_socket_reset(&listener) < 0 ? NETKIT_E_NOMEM : closed;
        is_hit = nkt_faults() > 0;
        /* Only the clock's failure may pass unseen: it makes a wait end early, or not at all. */
        CHECK(!is_hit || rc < 0 || closed < 0 || nkt_calls("clock_gettime") > 0);
        CHECK(is_hit || (rc == NETKIT_OK && closed == NETKIT_OK));
        nkt_fault_clear();
    }
    CHECK(n > 12);
}

/* SD44: macOS says EINVAL of a connection that was reset, whatever is asked of it, and EPROTOTYPE
 * when it is being torn down: that is a reset and no bad argument. */
NKT_TEST(socket_reset_that_says_invalid) {
    netkit_socket s[2];
    netkit_addr peer;
    int value;
    if (NKI_WINDOWS) {
        SKIP("Windows names a reset");
    }
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    nkt_fault_at("getpeername", 1, EINVAL, true);
    CHECK_ERR(netkit_socket_remote(s[0], &peer), NETKIT_E_RESET);
    nkt_fault_at("setsockopt", 1, EINVAL, true);
    CHECK_ERR(netkit_socket_set(s[0], NETKIT_OPT_KEEPALIVE, 1), NETKIT_E_RESET);
    CHECK_EQ(netkit_socket_os_code(), EINVAL);
    nkt_fault_at("getsockopt", 1, EINVAL, true);
    CHECK_ERR(netkit_socket_get(s[0], NETKIT_OPT_KEEPALIVE, &value), NETKIT_E_RESET);
    nkt_fault_clear();
    nkt_fault_at("setsockopt", 1, EINVAL, true); /* one whose peer is there */
    CHECK_ERR(netkit_socket_set(s[0], NETKIT_OPT_KEEPALIVE, 1), NETKIT_E_INVALID);
    nkt_fault_clear();
    nkt_fault_at("send", 1, EPROTOTYPE, false);
    CHECK_ERR(netkit_socket_send(s[0], "x", 1), NETKIT_E_RESET);
    nkt_fault_at("sendmsg", 1, EPROTOTYPE, false);
    netkit_span span = {"x", 1};
    CHECK_ERR(netkit_socket_sendv(s[0], &span, 1), NETKIT_E_RESET);
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_OK(netkit_socket_close(&s[1]));
}
