/* Options of plain sockets beyond switches: buffers, times, lingering, Fast Open, names. */

static netkit_socket option_tcp(int flags) {
    netkit_socket s;
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, flags));
    return s;
}

static int option_get(netkit_socket s, netkit_option option) {
    int value = -77;
    CHECK_OK(netkit_socket_get(s, option, &value));
    return value;
}

/* OP07: buffers are sized and read back, at least as large as asked for (Linux doubles them), and
 * only numbers from 1 are sizes. */
NKT_TEST(option_buffers) {
    const netkit_option options[] = {NETKIT_OPT_RECV_BUFFER, NETKIT_OPT_SEND_BUFFER};
    netkit_socket s = option_tcp(0), pair[2];
    for (int i = 0; i < 2; i++) {
        int was = option_get(s, options[i]);
        CHECK(was > 0);
        CHECK_OK(netkit_socket_set(s, options[i], 20000));
        CHECK(option_get(s, options[i]) == 20000 || option_get(s, options[i]) == 40000);
        CHECK_OK(netkit_socket_set(s, options[i], 50000));
        CHECK(option_get(s, options[i]) == 50000 || option_get(s, options[i]) == 100000);
        CHECK_ERR(netkit_socket_set(s, options[i], 0), NETKIT_E_INVALID);
        CHECK_ERR(netkit_socket_set(s, options[i], -1), NETKIT_E_INVALID);
    }
    CHECK_OK(netkit_socket_close(&s));
    /* It is the size that counts: a smaller one takes less. */
    size_t taken[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        static char data[65536];
        int rc;
        CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_set(pair[0], NETKIT_OPT_SEND_BUFFER, i == 0 ? 8192 : 160000));
        while ((rc = netkit_socket_send(pair[0], data, sizeof(data))) > 0) {
            taken[i] += (size_t)rc;
        }
        CHECK_ERR(rc, NETKIT_E_AGAIN);
        CHECK_OK(netkit_socket_close(&pair[0]));
        CHECK_OK(netkit_socket_close(&pair[1]));
    }
    CHECK(taken[0] * 4 < taken[1]);
}

/* Of 40 ms: the system counts in ticks of up to 10 ms, of which the first may be nearly over. */
enum {
    OPTION_TIME_LEAST = 29000000
};

/* OP08 IO19: time limits are milliseconds, 0 is none; a blocking receive ends by its own. */
NKT_TEST(option_times) {
    const netkit_option options[] = {NETKIT_OPT_RECV_TIMEOUT, NETKIT_OPT_SEND_TIMEOUT};
    netkit_socket s[2];
    char text[4];
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING));
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(option_get(s[0], options[i]), 0);
        CHECK_OK(netkit_socket_set(s[0], options[i], 7000));
        CHECK_EQ(option_get(s[0], options[i]), 7000);
        CHECK_OK(netkit_socket_set(s[0], options[i], 1));
        CHECK(option_get(s[0], options[i]) >= 1 && option_get(s[0], options[i]) <= 20);
        CHECK_OK(netkit_socket_set(s[0], options[i], INT_MAX));
        CHECK(option_get(s[0], options[i]) >= INT_MAX - 1000 || option_get(s[0], options[i]) == 0);
        CHECK_OK(netkit_socket_set(s[0], options[i], 0));
        CHECK_EQ(option_get(s[0], options[i]), 0);
        CHECK_ERR(netkit_socket_set(s[0], options[i], -1), NETKIT_E_INVALID);
    }
    CHECK_OK(netkit_socket_set(s[0], NETKIT_OPT_RECV_TIMEOUT, 40));
    uint64_t start = nkt_now_ns();
    CHECK_ERR(netkit_socket_recv(s[0], text, sizeof(text)), NETKIT_E_AGAIN);
    CHECK(nkt_now_ns() - start >= OPTION_TIME_LEAST);
    static char data[65536];
    int rc;
    CHECK_OK(netkit_socket_set(s[0], NETKIT_OPT_SEND_TIMEOUT, 40));
    do { /* nobody reads: so does a blocking send */
        start = nkt_now_ns();
        rc = netkit_socket_send(s[0], data, sizeof(data));
    } while (rc > 0);
    CHECK_ERR(rc, NETKIT_E_AGAIN);
    CHECK(nkt_now_ns() - start >= OPTION_TIME_LEAST);
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_OK(netkit_socket_close(&s[1]));
}

/* OP14: off from the start, seconds, and 0: then closing resets. */
NKT_TEST(option_linger) {
    netkit_addr at;
    netkit_socket listener, s = option_tcp(0), accepted;
    char text[4];
    CHECK_EQ(option_get(s, NETKIT_OPT_LINGER), -1);
    for (int value = 3; value >= -1; value--) {
        CHECK_OK(netkit_socket_set(s, NETKIT_OPT_LINGER, value));
        CHECK_EQ(option_get(s, NETKIT_OPT_LINGER), value);
    }
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_LINGER, -2), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_LINGER, 100000), NETKIT_E_INVALID);
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &at));
    CHECK_OK(netkit_socket_set(s, NETKIT_OPT_LINGER, 0));
    CHECK_OK(netkit_socket_connect(s, &at, 1000));
    CHECK(netkit_socket_wait(listener, NETKIT_POLL_READ, 1000) > 0);
    CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
    CHECK_OK(netkit_socket_close(&s));
    CHECK(netkit_socket_wait(accepted, NETKIT_POLL_READ, 1000) > 0);
    CHECK_ERR(netkit_socket_recv(accepted, text, sizeof(text)), NETKIT_E_RESET);
    CHECK_OK(netkit_socket_close(&accepted));
    CHECK_OK(netkit_socket_close(&listener));
}

/* OP09: chosen by name; a name nobody knows, however long, is told; where there is none, NOSYS. */
NKT_TEST(option_congestion) {
    char name[64], same[64];
    netkit_socket s = option_tcp(0), none = {0}, pair[2];
#if defined(__linux__)
    int len = netkit_socket_get_text(s, NETKIT_OPT_CONGESTION, name, sizeof(name));
    CHECK(len > 0 && (size_t)len == strlen(name));
    CHECK_OK(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, name));
    CHECK_OK(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, "reno")); /* is always there */
    CHECK_EQ(netkit_socket_get_text(s, NETKIT_OPT_CONGESTION, same, 5), 4);
    CHECK_STR(same, "reno");
    CHECK_ERR(netkit_socket_get_text(s, NETKIT_OPT_CONGESTION, same, 4), NETKIT_E_TOOBIG);
    CHECK_STR(same, "");
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, "nosuch"), NETKIT_E_NOTFOUND);
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, "reno-and-far-too-long"),
              NETKIT_E_NOTFOUND);
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, "renoooooooooooooo"),
              NETKIT_E_NOTFOUND);
    CHECK_EQ(netkit_socket_get_text(s, NETKIT_OPT_CONGESTION, same, sizeof(same)), 4);
    CHECK_STR(same, "reno");
#endif
    (void)same;
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, ""), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_NODELAY, "1"), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get_text(s, NETKIT_OPT_NODELAY, name, sizeof(name)), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get_text(s, NETKIT_OPT_CONGESTION, name, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get_text(none, NETKIT_OPT_CONGESTION, name, 9), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_CONGESTION, 1), NETKIT_E_INVALID);
    int value;
    CHECK_ERR(netkit_socket_get(s, NETKIT_OPT_CONGESTION, &value), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_STREAM, 0));
    CHECK_ERR(netkit_socket_set_text(pair[0], NETKIT_OPT_CONGESTION, "reno"), NETKIT_E_NOSYS);
    CHECK_ERR(netkit_socket_get_text(pair[0], NETKIT_OPT_CONGESTION, name, 9), NETKIT_E_NOSYS);
    CHECK_ERR(netkit_socket_set(pair[0], NETKIT_OPT_FAST_OPEN, 1), NETKIT_E_NOSYS);
    CHECK_OK(netkit_socket_close(&pair[0]));
    CHECK_OK(netkit_socket_close(&pair[1]));
}

/* OP10: the queue of a listener and the wish of a client are set and read back; a client that
 * wishes it is connected as any other, and its data arrives. */
NKT_TEST(option_fast_open) {
    netkit_addr at;
    netkit_socket listener, s, accepted;
    char text[8];
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &at));
    int value = 0;
    CHECK(netkit_socket_get(listener, NETKIT_OPT_FAST_OPEN, &value) == NETKIT_OK || NKI_WINDOWS);
    CHECK_EQ(value, 0);
    int rc = netkit_socket_set(listener, NETKIT_OPT_FAST_OPEN, 16);
    CHECK(rc == NETKIT_OK || rc == NETKIT_E_NOSYS);
    if (rc == NETKIT_OK) {
        CHECK(option_get(listener, NETKIT_OPT_FAST_OPEN) > 0);
    }
    CHECK_ERR(netkit_socket_set(listener, NETKIT_OPT_FAST_OPEN, -1), NETKIT_E_INVALID);
    for (int i = 0; i < 3; i++) { /* the second knows the server's cookie where that is on */
        s = option_tcp(0);
        rc = netkit_socket_set(s, NETKIT_OPT_FAST_OPEN_CONNECT, 1);
        if (rc != NETKIT_OK) {
            CHECK_ERR(rc, NETKIT_E_NOSYS);
        } else {
            CHECK_EQ(option_get(s, NETKIT_OPT_FAST_OPEN_CONNECT), 1);
        }
        CHECK_OK(netkit_socket_connect(s, &at, 1000));
        CHECK_OK(netkit_socket_send_all(s, "hello", 5, 1000, NULL));
        CHECK(netkit_socket_wait(listener, NETKIT_POLL_READ, 1000) > 0);
        CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
        CHECK_OK(netkit_socket_recv_all(accepted, text, 5, 1000, NULL));
        CHECK_MEM(text, "hello", 5);
        CHECK_OK(netkit_socket_close(&s));
        CHECK_OK(netkit_socket_close(&accepted));
    }
    CHECK_OK(netkit_socket_close(&listener));
}

/* OP05: a port is had alone, by streams and by datagrams; the name for it is Windows's. */
NKT_TEST(option_exclusive) {
    for (int type = 0; type < 2; type++) {
        netkit_addr at;
        netkit_socket a, b;
        CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
        for (int flags = 0; flags <= NETKIT_SOCKET_NO_REUSE; flags += NETKIT_SOCKET_NO_REUSE) {
            CHECK_OK(netkit_socket_open(&a, NETKIT_AF_IPV4, type, 0));
            CHECK_OK(netkit_socket_open(&b, NETKIT_AF_IPV4, type, 0));
            CHECK_OK(netkit_socket_bind(a, &at, flags));
            CHECK_OK(netkit_socket_local(a, &at));
            CHECK(type == NETKIT_SOCK_DGRAM || netkit_socket_listen(a, 0) == NETKIT_OK);
            CHECK_ERR(netkit_socket_bind(b, &at, flags), NETKIT_E_ADDRINUSE);
            CHECK_ERR(netkit_socket_bind(b, &at, flags | NETKIT_SOCKET_REUSE_PORT),
                      NKI_WINDOWS ? NETKIT_E_NOSYS : NETKIT_E_ADDRINUSE); /* both have to ask */
            CHECK_OK(netkit_socket_close(&a));
            CHECK_OK(netkit_socket_close(&b));
            at.port = 0;
        }
    }
    netkit_socket s = option_tcp(0);
    int value = 5;
#if NKI_WINDOWS
    CHECK_OK(netkit_socket_set(s, NETKIT_OPT_EXCLUSIVE_ADDR, 1));
    CHECK_OK(netkit_socket_get(s, NETKIT_OPT_EXCLUSIVE_ADDR, &value));
    CHECK_EQ(value, 1);
#else
    CHECK_ERR(netkit_socket_set(s, NETKIT_OPT_EXCLUSIVE_ADDR, 1), NETKIT_E_NOSYS);
    CHECK_ERR(netkit_socket_get(s, NETKIT_OPT_EXCLUSIVE_ADDR, &value), NETKIT_E_NOSYS);
    CHECK_EQ(value, 0);
#endif
    CHECK_OK(netkit_socket_close(&s));
}

/* OP07 OP08 OP09 OP10 OP14: a refusal of the system comes out with its code. */
NKT_TEST(option_refusals) {
    const netkit_option options[] = {
        NETKIT_OPT_RECV_BUFFER,
        NETKIT_OPT_SEND_BUFFER,
        NETKIT_OPT_RECV_TIMEOUT,
        NETKIT_OPT_SEND_TIMEOUT,
        NETKIT_OPT_LINGER,
#if NKI_POSIX
        NETKIT_OPT_FAST_OPEN,
        NETKIT_OPT_FAST_OPEN_CONNECT
#endif
    };
    netkit_socket s = option_tcp(0);
    char text[20];
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        int value = 9;
        nkt_fault_at("setsockopt", 1, ENOPROTOOPT, false);
        CHECK_ERR(netkit_socket_set(s, options[i], 1), NETKIT_E_NOSYS);
        nkt_fault_at("getsockopt", 1, EACCES, false);
        CHECK_ERR(netkit_socket_get(s, options[i], &value), NETKIT_E_ACCESS);
        CHECK_EQ(value, 0);
        nkt_fault_clear();
    }
#if NKI_POSIX
    nkt_fault_at("setsockopt", 1, EPERM, false);
    CHECK_ERR(netkit_socket_set_text(s, NETKIT_OPT_CONGESTION, "reno"), NETKIT_E_ACCESS);
    nkt_fault_at("getsockopt", 1, ENOBUFS, false);
    CHECK_ERR(netkit_socket_get_text(s, NETKIT_OPT_CONGESTION, text, sizeof(text)), NETKIT_E_NOMEM);
    nkt_fault_clear();
#endif
    (void)text;
    CHECK_OK(netkit_socket_close(&s));
}
