/* Datagrams on plain sockets: batches, what is told, failures, groups, options. */

static netkit_socket dg_open(const char *address, netkit_addr *out) {
    netkit_socket s;
    CHECK_OK(netkit_addr_parse(out, address, NULL));
    CHECK_OK(netkit_socket_open(&s, out->family, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(s, out, 0));
    CHECK_OK(netkit_socket_local(s, out));
    return s;
}

static void dg_wait(netkit_socket s) {
    CHECK_OK(netkit_socket_wait(s, NETKIT_POLL_READ, 5000));
}

/* UD04 UD05 BX11 U-01: a batch each way, an empty one among them, with each sender. */
NKT_TEST(datagram_batches) {
    static unsigned char memory[40][100];
    static netkit_datagram in[40], out[40];
    netkit_addr to_a, to_b;
    netkit_socket a = dg_open("127.0.0.1:0", &to_a), b = dg_open("127.0.0.1:0", &to_b);
    unsigned char text[64];
    uint32_t caps;
    int got = 0;
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (unsigned char)i;
    }
    for (size_t i = 0; i < 40; i++) {
        out[i].data = text;
        out[i].len = i;
        out[i].peer = to_b;
    }
    nkt_calls_reset();
    CHECK_EQ(netkit_socket_send_datagrams(a, out, 40), 32);
    CHECK_EQ(netkit_socket_send_datagrams(a, out + 32, 8), 8);
    CHECK_EQ(netkit_socket_send_datagrams(a, out, 0), 0);
    while (got < 40) {
        dg_wait(b);
        int n = netkit_socket_recv_datagrams(b, in + got, (size_t)(40 - got), memory[got],
                                             (size_t)(40 - got) * 100);
        CHECK(n > 0 && n <= 32);
        got += n;
    }
    for (size_t i = 0; i < 40; i++) {
        CHECK_EQ(in[i].len, i);
        CHECK_MEM(in[i].data, text, i);
        CHECK(netkit_addr_equal(&in[i].peer, &to_a) && !in[i].is_truncated && in[i].error == 0);
    }
    CHECK_ERR(netkit_socket_recv_datagrams(b, in, 40, memory, sizeof(memory)), NETKIT_E_AGAIN);
    CHECK_OK(netkit_socket_datagram_caps(a, &caps));
    if ((caps & NETKIT_UDP_CAP_BATCH) != 0) {
        CHECK_EQ(nkt_calls(NKT_SEND_DATAGRAMS), 2);
    }
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
}

/* U-02 UD06: parts of the memory that are too small for what comes. */
NKT_TEST(datagram_truncated) {
    netkit_datagram in[4], out;
    unsigned char memory[40], text[50];
    netkit_addr to_a, to_b;
    netkit_socket a = dg_open("127.0.0.1:0", &to_a), b = dg_open("127.0.0.1:0", &to_b);
    memset(&out, 0, sizeof(out));
    memset(text, 7, sizeof(text));
    out.data = text;
    out.peer = to_b;
    for (size_t len = 9; len <= 50; len += 41) {
        out.len = len;
        CHECK_EQ(netkit_socket_send_datagrams(a, &out, 1), 1);
        dg_wait(b);
        CHECK_EQ(netkit_socket_recv_datagrams(b, in, 4, memory, sizeof(memory)), 1);
        CHECK_EQ(in[0].len, len == 9 ? 9 : 10);
        CHECK_EQ(in[0].is_truncated, len != 9);
        CHECK(netkit_addr_equal(&in[0].peer, &to_a));
    }
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
}

/* U-04: each mistake has its own error; those before it are sent. */
NKT_TEST(datagram_errors) {
    netkit_datagram out[3], in;
    unsigned char memory[10];
    netkit_addr to_a;
    netkit_socket none, a = dg_open("127.0.0.1:0", &to_a);
    none.value = 0;
    memset(out, 0, sizeof(out));
    for (int i = 0; i < 3; i++) {
        out[i].data = "x";
        out[i].len = 1;
        out[i].peer = to_a;
    }
    CHECK_OK(netkit_addr_parse(&out[1].peer, "255.255.255.255:9", NULL));
    CHECK_EQ(netkit_socket_send_datagrams(a, out, 3), 1);
    CHECK_ERR(netkit_socket_send_datagrams(a, out + 1, 2), NETKIT_E_ACCESS);
    out[1].peer.family = NETKIT_AF_NONE;
    CHECK_ERR(netkit_socket_send_datagrams(a, out + 1, 2), NETKIT_E_NOTCONN);
    out[1].peer = to_a;
    out[1].data = NULL;
    CHECK_ERR(netkit_socket_send_datagrams(a, out + 1, 2), NETKIT_E_INVALID);
    CHECK_EQ(netkit_socket_send_datagrams(a, out, 3), 1);
    CHECK_ERR(netkit_socket_send_datagrams(none, out, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_send_datagrams(a, NULL, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_datagrams(none, &in, 1, memory, 10), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_datagrams(a, &in, 0, memory, 10), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_datagrams(a, &in, 11, memory, 10), NETKIT_E_INVALID);
    nkt_fault_at(NKT_SEND_DATAGRAMS, 1, ENOBUFS, false);
    CHECK_ERR(netkit_socket_send_datagrams(a, out, 1), NETKIT_E_NOMEM);
    nkt_fault_clear();
#if NKI_POSIX
    nkt_fault_at(NKT_SEND_DATAGRAMS, 1, EINTR, false);
    CHECK_EQ(netkit_socket_send_datagrams(a, out, 1), 1);
    nkt_fault_clear();
#endif
    CHECK_OK(netkit_socket_close(&a));
}

/* U-03 BX11: a refusal comes as a datagram with an error, when that was asked for. */
NKT_TEST(datagram_refusals) {
    netkit_datagram in, out;
    unsigned char memory[100];
    netkit_addr to_a, deaf;
    netkit_socket b, a = dg_open("127.0.0.1:0", &to_a);
    b = dg_open("127.0.0.1:0", &deaf);
    CHECK_OK(netkit_socket_close(&b));
    uint32_t caps;
    CHECK_OK(netkit_socket_datagram_caps(a, &caps));
    if ((caps & NETKIT_UDP_CAP_ERRORS) == 0) {
        SKIP("the system does not tell who could not be reached");
    }
    memset(&out, 0, sizeof(out));
    out.data = "knock";
    out.len = 5;
    out.peer = deaf;
    CHECK_OK(netkit_socket_set(a, NETKIT_OPT_TELL_ERRORS, 1));
    CHECK_EQ(netkit_socket_send_datagrams(a, &out, 1), 1);
    dg_wait(a);
    CHECK_EQ(netkit_socket_recv_datagrams(a, &in, 1, memory, sizeof(memory)), 1);
    CHECK_EQ(in.error, NETKIT_E_REFUSED);
    CHECK(netkit_addr_equal(&in.peer, &deaf));
    CHECK_EQ(in.len, 5);
    CHECK_MEM(in.data, "knock", 5);
    CHECK_ERR(netkit_socket_recv_datagrams(a, &in, 1, memory, sizeof(memory)), NETKIT_E_AGAIN);
    CHECK_OK(netkit_socket_close(&a));
}

/* UD07 UD09 UD10 UD11 U-06: options, what they tell, and segments. */
static void dg_told(const char *address) {
    static unsigned char memory[65536], data[3500];
    static const netkit_option options[] = {NETKIT_OPT_TELL_LOCAL, NETKIT_OPT_TELL_TOS,
                                            NETKIT_OPT_TELL_TTL, NETKIT_OPT_TELL_TIME,
                                            NETKIT_OPT_TELL_ERRORS};
    netkit_addr to_a, to_b;
    netkit_datagram in, out;
    uint32_t caps;
    int value;
    size_t sum = 0;
    netkit_socket a = dg_open(address, &to_a), b = dg_open(address, &to_b);
    bool has_time =
        netkit_socket_get(b, NETKIT_OPT_TELL_TIME, &value) != NETKIT_E_NOSYS && !nkt_lacks("time");
    for (size_t i = 0; i < 5; i++) {
        CHECK_ERR(netkit_socket_set(b, options[i], 2), NETKIT_E_INVALID);
        if (options[i] == NETKIT_OPT_TELL_TIME && !has_time) {
            continue; /* Windows and emulators of processors have no such time */
        }
        if (options[i] == NETKIT_OPT_TELL_TTL && nkt_lacks("ttl asked")) {
            CHECK_OK(netkit_socket_set(b, options[i], 1));
            continue;
        }
        if (options[i] == NETKIT_OPT_TELL_ERRORS && NKI_WINDOWS) {
            CHECK_OK(netkit_socket_set(b, options[i], 1)); /* it does not tell that it is set */
            continue;
        }
        CHECK_OK(netkit_socket_get(b, options[i], &value));
        CHECK_EQ(value, 0);
        CHECK_OK(netkit_socket_set(b, options[i], 1));
        CHECK_OK(netkit_socket_get(b, options[i], &value));
        CHECK_EQ(value, 1);
    }
    memset(&out, 0, sizeof(out));
    out.data = data;
    out.len = 10;
    out.peer = to_b;
    out.local = to_a;
    out.interface_index = 1;
    out.tos = NETKIT_ECN_ECT0;
    out.ttl = 9;
    CHECK_EQ(netkit_socket_send_datagrams(a, &out, 1), 1);
    dg_wait(b);
    CHECK_EQ(netkit_socket_recv_datagrams(b, &in, 1, memory, sizeof(memory)), 1);
    /* Wine tells, but does not take them. */
    bool is_taken = (in.tos & NETKIT_ECN_MASK) == NETKIT_ECN_ECT0 && in.ttl == 9;
    CHECK(is_taken || (NKI_WINDOWS && in.ttl != 0));
    CHECK((in.time_ns != 0) == has_time);
    CHECK(in.local.family == to_b.family && memcmp(in.local.ip, to_b.ip, 16) == 0);
    CHECK_EQ(in.interface_index, 1);
    bool is_ipv4 = to_b.family == NETKIT_AF_IPV4;
    CHECK_OK(netkit_addr_parse(&out.local, is_ipv4 ? "[::1]:0" : "127.0.0.1:0", NULL));
    CHECK_ERR(netkit_socket_send_datagrams(a, &out, 1), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_datagram_caps(a, &caps));
    memset(&out.local, 0, sizeof(out.local));
    out.len = sizeof(data);
    out.segment_size = 1000;
    if ((caps & NETKIT_UDP_CAP_GSO) == 0) {
        CHECK_ERR(netkit_socket_send_datagrams(a, &out, 1), NETKIT_E_NOSYS);
    } else {
        CHECK_OK(netkit_socket_set(b, NETKIT_OPT_GRO, 1));
        CHECK_EQ(netkit_socket_send_datagrams(a, &out, 1), 1);
        while (sum < sizeof(data)) {
            dg_wait(b);
            CHECK_EQ(netkit_socket_recv_datagrams(b, &in, 1, memory, sizeof(memory)), 1);
            CHECK(in.len <= 1000 || in.segment_size == 1000);
            sum += in.len;
        }
        CHECK_EQ(sum, sizeof(data));
    }
    CHECK_OK(netkit_socket_set(a, NETKIT_OPT_BROADCAST, 1));
    CHECK_OK(netkit_socket_get(a, NETKIT_OPT_BROADCAST, &value));
    CHECK_EQ(value, 1);
    CHECK_OK(netkit_socket_connect(a, &to_b, 0));
    if (!nkt_lacks("path mtu")) {
        int rc = netkit_socket_get(a, NETKIT_OPT_PATH_MTU, &value);
        CHECK(rc == NETKIT_OK || NKI_WINDOWS);
        CHECK(rc != NETKIT_OK || value >= 1280);
    }
    CHECK_ERR(netkit_socket_set(a, NETKIT_OPT_PATH_MTU, 1500), NETKIT_E_INVALID);
    memset(&out, 0, sizeof(out)); /* to the peer, by its own options */
    out.ttl = 5;
    CHECK_EQ(netkit_socket_send_datagrams(a, &out, 1), 1);
    dg_wait(b);
    CHECK_EQ(netkit_socket_recv_datagrams(b, &in, 1, memory, sizeof(memory)), 1);
    CHECK(in.len == 0 && (in.ttl == 5 || !is_taken));
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
}

/* UD07 UD09 UD10 UD11 U-06 BX11: options, what they make known, segments, for each family. */
NKT_TEST(datagram_told) {
    netkit_socket s;
    netkit_addr addr;
    dg_told("127.0.0.1:0");
    CHECK_OK(netkit_addr_parse(&addr, "[::1]:0", NULL));
    if (netkit_socket_open(&s, NETKIT_AF_IPV6, NETKIT_SOCK_DGRAM, 0) == NETKIT_OK) {
        int rc = netkit_socket_bind(s, &addr, 0);
        CHECK_OK(netkit_socket_close(&s));
        if (rc == NETKIT_OK) {
            dg_told("[::1]:0");
        }
    }
}

/* U-07 UD08: groups on a plain socket; what has no groups says so. */
NKT_TEST(datagram_groups) {
    netkit_addr addr, group, source;
    netkit_socket none, pair[2], s = dg_open("0.0.0.0:0", &addr);
    int value;
    none.value = 0;
    CHECK_OK(netkit_addr_parse(&group, "239.255.70.3:0", NULL));
    CHECK_OK(netkit_addr_parse(&source, "127.0.0.1:0", NULL));
    int joined = netkit_socket_join(s, &group, 1, NULL);
    if (NKI_WINDOWS && joined == NETKIT_E_INVALID) {
        SKIP("wine does not know interfaces of IPv4 by their index");
    }
    CHECK_OK(joined);
    CHECK_ERR(netkit_socket_join(s, &group, 1, NULL), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_socket_leave(s, &group, 1, NULL));
    CHECK_ERR(netkit_socket_leave(s, &group, 1, NULL), NETKIT_E_ADDRNOTAVAIL);
    CHECK_OK(netkit_socket_join(s, &group, 1, &source));
    CHECK_ERR(netkit_socket_join(s, &group, 1, &source), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_socket_leave(s, &group, 1, &source));
    CHECK_ERR(netkit_socket_leave(s, &group, 1, &source), NETKIT_E_ADDRNOTAVAIL);
    CHECK_ERR(netkit_socket_join(s, &source, 1, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_join(none, &group, 1, NULL), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_DGRAM, 0));
#if NKI_POSIX /* elsewhere the pair is of UDP */
    CHECK(netkit_socket_join(pair[0], &group, 1, NULL) < 0);
    CHECK_ERR(netkit_socket_set(pair[0], NETKIT_OPT_TTL, 3), NETKIT_E_NOSYS);
    CHECK_ERR(netkit_socket_get(pair[0], NETKIT_OPT_TTL, &value), NETKIT_E_NOSYS);
#endif
    CHECK_ERR(netkit_socket_set(s, (netkit_option)9999, 3), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_get(s, (netkit_option)9999, &value), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_close(&pair[0]));
    CHECK_OK(netkit_socket_close(&pair[1]));
    CHECK_OK(netkit_socket_close(&s));
}

/* UD04: datagrams over unix sockets, by path and in pairs. */
NKT_TEST(datagram_unix) {
    char path[160];
    unsigned char memory[200];
    netkit_addr to;
    netkit_datagram out, in[2];
    netkit_socket pair[2], s;
    nkt_temp_path(path, sizeof(path));
    CHECK_OK(netkit_addr_from_path(&to, path, strlen(path), false));
    if (NKI_WINDOWS) {
        CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0), NETKIT_E_NOSYS);
        SKIP("Windows' unix sockets are of streams");
    }
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(s, &to, 0));
    CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_DGRAM, 0));
    memset(&out, 0, sizeof(out));
    out.data = "unix";
    out.len = 4;
    CHECK_EQ(netkit_socket_send_datagrams(pair[0], &out, 1), 1);
    out.len = 0;
    CHECK_EQ(netkit_socket_send_datagrams(pair[0], &out, 1), 1);
    CHECK_EQ(netkit_socket_recv_datagrams(pair[1], in, 2, memory, sizeof(memory)), 2);
    CHECK(in[0].len == 4 && in[1].len == 0);
    netkit_socket from;
    CHECK_OK(netkit_socket_open(&from, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0));
    out.len = 3;
    out.peer = to;
    CHECK_EQ(netkit_socket_send_datagrams(from, &out, 1), 1);
    CHECK_EQ(netkit_socket_recv_datagrams(s, in, 2, memory, sizeof(memory)), 1);
    CHECK_EQ(in[0].len, 3);
    CHECK_OK(netkit_socket_close(&from));
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_close(&pair[0]));
    CHECK_OK(netkit_socket_close(&pair[1]));
}

/* X-05 U-03: a receive that fails looks for reports of failures, which unix sockets do not have: no
 * datagram is lost by that. */
NKT_TEST(datagram_unix_has_no_reports) {
    static const int errors[] = {EAGAIN, EIO, ENOBUFS};
    unsigned char memory[64];
    netkit_datagram out, in;
    netkit_socket pair[2];
    CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_DGRAM, 0));
    memset(&out, 0, sizeof(out));
    out.data = "unix";
    for (size_t i = 0; i < 3; i++) {
        out.len = i + 1;
        CHECK_EQ(netkit_socket_send_datagrams(pair[0], &out, 1), 1);
        nkt_fault_at(NKT_RECV_DATAGRAMS, 1, errors[i], false);
        CHECK(netkit_socket_recv_datagrams(pair[1], &in, 1, memory, sizeof(memory)) < 0);
        CHECK_EQ(netkit_socket_os_code(), errors[i]);
        nkt_fault_clear();
        CHECK_EQ(netkit_socket_recv_datagrams(pair[1], &in, 1, memory, sizeof(memory)), 1);
        CHECK_EQ(in.len, i + 1);
    }
    CHECK_OK(netkit_socket_close(&pair[0]));
    CHECK_OK(netkit_socket_close(&pair[1]));
}
