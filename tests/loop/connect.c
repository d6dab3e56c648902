/* Connecting: what is told at once, what later, and that on_close comes once whatever happens. */
#include "support.h"

/* A port of 127.0.0.1 where nobody listens. */
static uint16_t connect_closed_port(void) {
    uint16_t port;
    int fd = sup_raw_listen(&port, 1);
    CHECK_EQ(close(fd), 0);
    return port;
}

/* The same for a while longer, where there are addresses that no other test uses. */
static const char *connect_closed_address(void) {
    return nkt_own_address(NKT_HAS_OWN_ADDRESS ? 20009 : connect_closed_port());
}

/* T-08 SD04 SK10 SK24: refused, on every family, is told once, soon, with all of the reason */
NKT_LOOP_TEST(connect_refused) {
    netkit_loop *loop = nkt_loop();
    char address[3][160], path[128];
    uint16_t port = connect_closed_port();
    nkt_temp_path(path, sizeof(path));
    snprintf(address[0], sizeof(address[0]), "127.0.0.1:%u", port);
    snprintf(address[1], sizeof(address[1]), "[::1]:%u", port);
    snprintf(address[2], sizeof(address[2]), "unix:@netkit-nobody-%d", (int)getpid());
    for (int i = 0; i < (NKI_WINDOWS ? 2 : 3); i++) { /* abstract names are no names there */
        uint64_t began = nkt_now_ns();
        sup_end end;
        netkit_connect_desc desc;
        int code;
        sup_end_init(&end);
        desc = sup_connect_desc(address[i], &end);
        code = netkit_connect(loop, &desc, &end.conn);
        if (code != NETKIT_OK) { /* told at once: then nothing is called */
            CHECK(code == NETKIT_E_REFUSED ||
                  (i == 1 && (code == NETKIT_E_ADDRNOTAVAIL || code == NETKIT_E_NOSYS ||
                              code == NETKIT_E_UNREACHABLE)));
            sup_settle(loop);
            CHECK_EQ(end.closes, 0);
            continue;
        }
        CHECK_EQ(end.closes, 0);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK(nkt_now_ns() - began < (uint64_t)nkt_slowness * 1000000000u);
        CHECK_STR(end.trace, "c");
        if (i != 1 || end.info.code == NETKIT_E_REFUSED) {
            CHECK_ERR(end.info.code, NETKIT_E_REFUSED);
            CHECK_EQ(end.info.os_code, ECONNREFUSED);
        }
        CHECK_EQ(end.info.op, NETKIT_OP_CONNECT);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_CONNECTING);
        CHECK_ERR(netkit_conn_phase(loop, end.conn), NETKIT_E_STALE);
    }
    CHECK_EQ(netkit_loop_objects(loop), 0);
    nkt_loop_done(loop);
}

/* R2 SK13: what is wrong in the desc is told at once; nothing is created, nothing called */
NKT_LOOP_TEST(connect_refuses_bad_descs) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    netkit_connect_desc desc;
    netkit_addr addr;
    netkit_conn conn;
    int fds = nkt_open_fds();
    sup_end_init(&end);
    desc = sup_connect_desc(NULL, &end);
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_INVALID);
    desc.address = "localhost:80"; /* a name wants a resolver */
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_INVALID);
    desc.address = "127.0.0.1:65536";
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_INVALID);
    CHECK_OK(netkit_addr_parse(&addr, "127.0.0.1:1", NULL));
    desc.address = "127.0.0.1:1";
    desc.addr = &addr;
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_INVALID);
    CHECK_ERR(netkit_connect(loop, NULL, &conn), NETKIT_E_INVALID);
    sup_settle(loop);
    CHECK_EQ(end.closes, 0);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    CHECK_EQ(nkt_open_fds(), fds);
    nkt_loop_done(loop);
}

/* R2 Z-03: no descriptor for the socket: told at once, nothing leaks, and later it works */
NKT_LOOP_TEST(connect_without_descriptors) {
    netkit_loop *loop = nkt_loop();
    uint16_t port;
    int listener = sup_raw_listen(&port, 10);
    sup_end end;
    netkit_connect_desc desc;
    netkit_conn conn;
    char address[32];
    sup_end_init(&end);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    desc = sup_connect_desc(address, &end);
    CHECK(nkt_spare_descriptors(0));
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_MFILE);
    CHECK(nkt_spare_descriptors(-1));
    sup_settle(loop);
    CHECK_EQ(end.opens + end.closes, 0);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    CHECK_OK(netkit_connect(loop, &desc, &conn));
    SUP_UNTIL(loop, end.opens == 1);
    nkt_loop_done(loop);
    CHECK_EQ(close(listener), 0);
}

/* T-09 C2 SK10: sends before on_open are kept, in order, and go out after it; getters tell */
NKT_LOOP_TEST(connect_sends_after_open) {
    netkit_loop *loop = nkt_loop();
    uint16_t port;
    int listener = sup_raw_listen(&port, 10), fd;
    sup_end end;
    sup_peer peer;
    netkit_addr addr;
    unsigned char data[1000];
    sup_end_init(&end);
    sup_connect(loop, &end, port, NULL);
    CHECK_EQ(netkit_conn_phase(loop, end.conn), NETKIT_PHASE_CONNECTING);
    for (int i = 0; i < 10; i++) {
        sup_fill(data, sizeof(data), (uint64_t)i * sizeof(data));
        CHECK_OK(netkit_conn_send(loop, end.conn, data, sizeof(data)));
    }
    CHECK_EQ(sup_queued(&end), 10000);
    CHECK_EQ(end.opens, 0);
    fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    sup_nonblocking(fd);
    peer = sup_peer_of(fd);
    SUP_UNTIL(loop, end.opens == 1);
    CHECK_EQ(netkit_conn_phase(loop, end.conn), NETKIT_PHASE_OPEN);
    SUP_UNTIL_DOING(loop, peer.received == 10000) {
        sup_peer_recv(&peer);
    }
    CHECK_OK(netkit_conn_remote(loop, end.conn, &addr));
    CHECK_EQ(addr.port, port);
    CHECK_OK(netkit_conn_local(loop, end.conn, &addr));
    CHECK(addr.port != 0 && addr.ip[0] == 127);
    sup_peer_close(&peer);
    CHECK_EQ(close(listener), 0);
    nkt_loop_done(loop);
}

typedef struct connect_loan {
    sup_end *end;
    int releases, status, closes_before;
} connect_loan;

static void connect_on_release(netkit_loop *loop, int status, void *user) {
    connect_loan *loan = (connect_loan *)user;
    (void)loop;
    loan->releases++;
    loan->status = status;
    loan->closes_before = loan->end->closes;
}

/* T-09 I1 I4 C2: connecting fails with sends queued: loans come back before on_close, all counted
 * as unsent, one on_close, no on_open */
NKT_LOOP_TEST(connect_fails_with_sends_queued) {
    netkit_loop *loop = nkt_loop();
    connect_loan loan;
    sup_end end;
    sup_end_init(&end);
    memset(&loan, 0, sizeof(loan));
    loan.end = &end;
    sup_connect(loop, &end, connect_closed_port(), NULL);
    CHECK_OK(netkit_conn_send(loop, end.conn, "abc", 3));
    CHECK_OK(netkit_conn_send_borrowed(loop, end.conn, "defg", 4, connect_on_release, &loan));
    CHECK_EQ(loan.releases, 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_STR(end.trace, "c");
    CHECK_EQ(loan.releases, 1);
    CHECK_EQ(loan.closes_before, 0);
    CHECK(loan.status < 0);
    CHECK_ERR(end.info.code, NETKIT_E_REFUSED);
    CHECK_EQ(end.info.unsent, 7);
    nkt_loop_done(loop);
}

/* A port that takes no connection: its backlog is full, what comes is dropped. */
typedef struct connect_hole {
    int listener, fillers[8];
    int count;
    uint16_t port;
} connect_hole;

static void connect_hole_dig(connect_hole *h) {
    memset(h, 0, sizeof(*h));
    h->listener = sup_raw_listen(&h->port, 0);
    for (h->count = 0; h->count < 8; h->count++) {
        struct sockaddr_in in = sup_loopback(h->port);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fd >= 0);
        sup_nonblocking(fd);
        (void)connect(fd, (const struct sockaddr *)&in, sizeof(in));
        h->fillers[h->count] = fd;
    }
    nkt_sleep_ms(20);
}

static void connect_hole_fill(connect_hole *h) {
    while (h->count > 0) {
        CHECK_EQ(close(h->fillers[--h->count]), 0);
    }
    CHECK_EQ(close(h->listener), 0);
}

/* T-09 SK12 IO19: into a black hole: TIMEOUT after the time of the desc, not before */
NKT_LOOP_TEST(connect_times_out) {
    netkit_loop *loop = nkt_loop();
    connect_hole hole;
    netkit_connect_desc desc;
    uint64_t began, took;
    sup_end end;
    char address[32];
    connect_hole_dig(&hole);
    sup_end_init(&end);
    snprintf(address, sizeof(address), "127.0.0.1:%u", hole.port);
    desc = sup_connect_desc(address, &end);
    desc.timeout_ms = 150;
    nkt_sleep_ms(30);
    began = nkt_now_ns();
    CHECK_OK(netkit_connect(loop, &desc, &end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    took = nkt_now_ns() - began;
    CHECK(took >= 150000000);
    CHECK(took < (uint64_t)nkt_slowness * 1500000000u);
    CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
    CHECK_EQ(end.info.phase, NETKIT_PHASE_CONNECTING);
    CHECK(end.info.op == NETKIT_OP_CONNECT || end.info.op == NETKIT_OP_TIMER);
    CHECK_STR(end.trace, "c");
    connect_hole_fill(&hole);
    nkt_loop_done(loop);
}

/* T-09 SK16 C5 C6: close and abort of a connecting conn: one on_close, later, no on_open; what was
 * queued is unsent; a closing conn that cannot connect is bounded by its deadline */
NKT_LOOP_TEST(connect_is_ended_while_connecting) {
    for (int way = 0; way < 4; way++) {
        netkit_loop *loop = nkt_loop();
        netkit_connect_desc desc;
        connect_hole hole;
        sup_end end;
        char address[32];
        connect_hole_dig(&hole);
        sup_end_init(&end);
        snprintf(address, sizeof(address), "127.0.0.1:%u", hole.port);
        desc = sup_connect_desc(address, &end);
        desc.conn.close_deadline_ms = 100;
        CHECK_OK(netkit_connect(loop, &desc, &end.conn));
        if (way >= 2) {
            CHECK_OK(netkit_conn_send(loop, end.conn, "abc", 3));
            sup_settle(loop);
        }
        CHECK_OK(way % 2 == 0 ? netkit_conn_close(loop, end.conn)
                              : netkit_conn_abort(loop, end.conn));
        CHECK_EQ(end.closes, 0);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_STR(end.trace, "c");
        CHECK(end.info.code < 0);
        CHECK_EQ(end.info.unsent, way >= 2 ? 3 : 0);
        CHECK_EQ(netkit_loop_objects(loop), 0);
        connect_hole_fill(&hole);
        nkt_loop_done(loop);
    }
}

/* A dial from inside a callback, and what the callback does next. */
typedef struct connect_dial {
    const netkit_connect_desc *desc;
    sup_end *end;
    int code;
    bool is_done, closes, aborts;
} connect_dial;

static void connect_on_post(netkit_loop *loop, int status, void *user) {
    connect_dial *d = (connect_dial *)user;
    CHECK_OK(status);
    d->code = netkit_connect(loop, d->desc, &d->end->conn);
    if (d->closes) {
        CHECK_OK(netkit_conn_close(loop, d->end->conn));
    }
    if (d->aborts) {
        CHECK_OK(netkit_conn_abort(loop, d->end->conn));
    }
    CHECK_EQ(d->end->opens + d->end->closes, 0);
    d->is_done = true;
}

static int connect_in_turn(netkit_loop *loop, connect_dial *d, const netkit_connect_desc *desc,
                           sup_end *end) {
    d->desc = desc;
    d->end = end;
    CHECK_OK(netkit_loop_post(loop, connect_on_post, d));
    SUP_UNTIL(loop, d->is_done);
    return d->code;
}

/* Dial; the code that is returned, or on_close's: then with all of the reason. */
static int connect_outcome(netkit_loop *loop, const char *to, const netkit_addr *source,
                           bool is_in_turn) {
    netkit_connect_desc desc;
    connect_dial dial;
    sup_end end;
    memset(&dial, 0, sizeof(dial));
    sup_end_init(&end);
    desc = sup_connect_desc(to, &end);
    desc.source = source;
    desc.timeout_ms = 3000;
    int code = is_in_turn ? connect_in_turn(loop, &dial, &desc, &end)
                          : netkit_connect(loop, &desc, &end.conn);
    if (code != NETKIT_OK) {
        sup_settle(loop);
        CHECK_EQ(end.opens + end.closes, 0);
        return code;
    }
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_STR(end.trace, "c");
    CHECK_EQ(end.info.op, NETKIT_OP_CONNECT);
    CHECK_EQ(end.info.phase, NETKIT_PHASE_CONNECTING);
    if (end.info.os_code != 0) {
        CHECK_EQ(end.info.code, netkit_error_from_os(end.info.os_code));
    }
    return end.info.code;
}

/* T-08 SD04 SK10 UR14 C-07: what cannot be connected to is told with the same code from inside a
 * callback and from outside, once, and no descriptor is left: nobody listens, no way there, a
 * source that is not ours, and the very port it comes from. */
NKT_LOOP_TEST(connect_fails_in_a_callback) {
    netkit_loop *loop = nkt_loop();
    netkit_addr foreign, own;
    const char *refused = connect_closed_address();
    CHECK_OK(netkit_addr_parse(&foreign, "192.0.2.7:0", NULL));
    CHECK_OK(netkit_addr_parse(&own, refused, NULL));
    sup_settle(loop);
    int fds = nkt_open_fds();
    for (int i = 0; i < 4; i++) {
        bool is_in_turn = i % 2 == 0;
        CHECK_ERR(connect_outcome(loop, refused, NULL, is_in_turn), NETKIT_E_REFUSED);
        CHECK_ERR(connect_outcome(loop, refused, &foreign, is_in_turn), NETKIT_E_ADDRNOTAVAIL);
        int code = connect_outcome(loop, "224.0.0.1:9", NULL, is_in_turn);
        CHECK(code < 0 && (!NKI_LINUX || code == NETKIT_E_UNREACHABLE));
        if (NKI_LINUX) {
            CHECK_ERR(connect_outcome(loop, refused, &own, is_in_turn), NETKIT_E_REFUSED);
        }
        CHECK_EQ(netkit_loop_objects(loop), 0);
    }
    sup_settle(loop);
    CHECK_EQ(nkt_open_fds(), fds);
    nkt_loop_done(loop);
}

static void connect_close_on_post(netkit_loop *loop, int status, void *user) {
    connect_dial *d = (connect_dial *)user;
    CHECK_OK(status);
    CHECK_OK(netkit_conn_close(loop, d->end->conn));
}

/* T-09 SK12 SK16 UR14 UR15 C5: dialled in a callback and ended before it is connected: in the same
 * callback, in a later one, between turns, by its time, or by the end of the loop; one on_close, no
 * on_open, and no descriptor is left. */
NKT_LOOP_TEST(connect_in_a_callback_is_ended) {
    connect_hole hole;
    char address[32];
    connect_hole_dig(&hole);
    snprintf(address, sizeof(address), "127.0.0.1:%u", hole.port);
    int fds = nkt_open_fds();
    for (int way = 0; way < 8; way++) {
        netkit_loop *loop = nkt_loop();
        netkit_connect_desc desc;
        connect_dial dial;
        sup_end end;
        memset(&dial, 0, sizeof(dial));
        sup_end_init(&end);
        desc = sup_connect_desc(address, &end);
        desc.timeout_ms = way == 4 ? 50 : 0;
        dial.closes = way == 0;
        dial.aborts = way == 1;
        CHECK_OK(connect_in_turn(loop, &dial, &desc, &end));
        if (way == 5) {
            sup_settle(loop);
        } else if (way == 6) {
            CHECK_OK(netkit_conn_abort(loop, end.conn));
        }
        if (way == 2) {
            CHECK_OK(netkit_loop_post(loop, connect_close_on_post, &dial));
        } else if (way == 3) {
            CHECK_OK(netkit_conn_close(loop, end.conn));
        }
        if (way < 5) {
            SUP_UNTIL(loop, end.closes == 1);
            CHECK_EQ(netkit_loop_objects(loop), 0);
        }
        nkt_loop_done(loop);
        CHECK_STR(end.trace, "c");
        CHECK_ERR(end.info.code, way == 1 || way == 6 ? NETKIT_E_ABORTED
                                 : way == 4           ? NETKIT_E_TIMEOUT
                                                      : NETKIT_E_CANCELLED);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_CONNECTING);
        CHECK_EQ(nkt_open_fds(), fds);
    }
    connect_hole_fill(&hole);
}

/* A dial from a port of its own in the on_close of the one that had it. */
typedef struct connect_again {
    sup_end ends[2];
    netkit_connect_desc desc;
    netkit_addr source;
    int code;
} connect_again;

static void connect_again_on_close(netkit_loop *loop, netkit_conn conn,
                                   const netkit_close_info *info, void *user) {
    connect_again *again = (connect_again *)user;
    (void)conn;
    CHECK_ERR(info->code, NETKIT_E_ABORTED);
    again->ends[0].closes++;
    again->desc.handler = sup_handler();
    again->desc.user = &again->ends[1];
    again->code = netkit_connect(loop, &again->desc, NULL);
}

static void connect_again_abort(netkit_loop *loop, int status, void *user) {
    connect_again *again = (connect_again *)user;
    CHECK_OK(status);
    CHECK_OK(netkit_conn_abort(loop, again->ends[0].conn));
}

static void connect_again_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)conn;
    ((connect_again *)user)->ends[0].opens++;
}

/* SK15 UR15: the port that a conn came from is free again in its on_close. */
NKT_LOOP_TEST(connect_again_from_the_same_port) {
    netkit_loop *loop = nkt_loop();
    for (int round = 0; round < 5; round++) {
        connect_again again;
        char address[32], from[32];
        uint16_t port;
        int listener = sup_raw_listen(&port, 10), code = NETKIT_E_ADDRINUSE;
        memset(&again, 0, sizeof(again));
        sup_end_init(&again.ends[1]);
        snprintf(address, sizeof(address), "127.0.0.1:%u", port);
        again.desc.address = address;
        again.desc.source = &again.source;
        again.desc.handler.on_open = connect_again_on_open;
        again.desc.handler.on_close = connect_again_on_close;
        again.desc.user = &again;
        again.code = -1;
        for (int tries = 0; tries < 20 && code == NETKIT_E_ADDRINUSE; tries++) { /* somebody's? */
            snprintf(from, sizeof(from), "127.0.0.1:%u", connect_closed_port());
            CHECK_OK(netkit_addr_parse(&again.source, from, NULL));
            code = netkit_connect(loop, &again.desc, &again.ends[0].conn);
        }
        CHECK_OK(code);
        SUP_UNTIL(loop, again.ends[0].opens == 1);
        sup_settle(loop); /* it reads */
        CHECK_OK(netkit_loop_post(loop, connect_again_abort, &again));
        SUP_UNTIL(loop, again.ends[0].closes == 1);
        CHECK_OK(again.code);
        SUP_UNTIL(loop, again.ends[1].opens == 1);
        CHECK_OK(netkit_conn_abort(loop, again.ends[1].conn));
        SUP_UNTIL(loop, again.ends[1].closes == 1);
        CHECK_EQ(close(listener), 0);
    }
    nkt_loop_done(loop);
}

/* T-12 I2: a peer that resets as soon as it has accepted: one on_close, an on_open at most before
 * it, RESET */
NKT_LOOP_TEST(connect_is_reset_at_once) {
    netkit_loop *loop = nkt_loop();
    for (int round = 0; round < 20; round++) {
        uint16_t port;
        int listener = sup_raw_listen(&port, 10), fd;
        sup_end end;
        sup_end_init(&end);
        sup_connect(loop, &end, port, NULL);
        if (round % 2 == 0) {
            CHECK_OK(netkit_conn_send(loop, end.conn, "abc", 3));
        }
        fd = accept(listener, NULL, NULL);
        CHECK(fd >= 0);
        sup_raw_reset(fd);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_ERR(end.info.code, NETKIT_E_RESET);
        CHECK_EQ(end.eofs + end.datas, 0);
        CHECK_EQ(close(listener), 0);
    }
    nkt_loop_done(loop);
}

/* SK15: the peer sees the source address that was asked for; a foreign one is refused */
NKT_LOOP_TEST(connect_from_a_source_address) {
    netkit_loop *loop = nkt_loop();
    uint16_t port;
    int listener = sup_raw_listen(&port, 10), fd, code;
    struct sockaddr_in in;
    socklen_t len = sizeof(in);
    netkit_connect_desc desc;
    netkit_addr source;
    sup_end end;
    char address[32];
    sup_end_init(&end);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    desc = sup_connect_desc(address, &end);
    CHECK_OK(netkit_addr_parse(&source, "127.0.0.2:0", NULL));
    desc.source = &source;
    CHECK_OK(netkit_connect(loop, &desc, &end.conn));
    SUP_UNTIL(loop, end.opens == 1);
    fd = accept(listener, (struct sockaddr *)&in, &len);
    CHECK(fd >= 0);
    CHECK_EQ(ntohl(in.sin_addr.s_addr), 0x7F000002);
    CHECK_EQ(close(fd), 0);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    sup_end_init(&end);
    CHECK_OK(netkit_addr_parse(&source, "192.0.2.7:0", NULL));
    code = netkit_connect(loop, &desc, &end.conn);
    if (code == NETKIT_OK) {
        SUP_UNTIL(loop, end.closes == 1);
        code = end.info.code;
    }
    CHECK_ERR(code, NETKIT_E_ADDRNOTAVAIL);
    CHECK_EQ(end.opens, 0);
    CHECK_EQ(close(listener), 0);
    nkt_loop_done(loop);
}

/* SK02 C6 SK27: a connected socket is adopted and owned; what is none is refused and stays the
 * caller's */
NKT_LOOP_TEST(connect_adopts_a_socket) {
    netkit_loop *loop = nkt_loop();
    int fds[2], file = open("/dev/null", O_RDWR);
    netkit_adopt_desc desc;
    uintptr_t native = 0;
    netkit_conn conn;
    sup_end end;
    sup_peer peer;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    sup_end_init(&end);
    memset(&desc, 0, sizeof(desc));
    CHECK_ERR(netkit_adopt(loop, &desc, &conn), NETKIT_E_INVALID);
    desc.handler = sup_handler();
    desc.user = &end;
    desc.socket = netkit_socket_from_native((uintptr_t)file);
    CHECK(netkit_adopt(loop, &desc, &conn) < 0);
    CHECK_EQ(close(file), 0);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    CHECK_OK(netkit_adopt(loop, &desc, &conn));
    CHECK_EQ(end.opens, 0);
    SUP_UNTIL(loop, end.opens == 1);
    CHECK_OK(netkit_conn_native(loop, conn, &native));
    CHECK_EQ(native, fds[0]);
    CHECK((fcntl(fds[0], F_GETFL) & O_NONBLOCK) != 0);
    end.is_echo = true;
    sup_nonblocking(fds[1]);
    peer = sup_peer_of(fds[1]);
    peer.to_send = 500000;
    SUP_UNTIL_DOING(loop, peer.received == peer.to_send) {
        sup_peer_step(&peer);
    }
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs == 1);
    CHECK_OK(netkit_conn_close(loop, conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(fcntl(fds[0], F_GETFD), -1);
    nkt_loop_done(loop);
}

/* R5: at objects_max making one more is FULL, closing ones count, and room comes back */
NKT_LOOP_TEST(connect_is_bounded_by_objects_max) {
    netkit_loop_desc loop_desc;
    netkit_loop *loop;
    uint16_t port;
    int listener = sup_raw_listen(&port, 10);
    netkit_connect_desc desc;
    netkit_conn conn;
    sup_end end[3];
    char address[32];
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.objects_max = 2;
    loop = nkt_loop_with(&loop_desc);
    for (int i = 0; i < 2; i++) {
        sup_end_init(&end[i]);
        sup_connect(loop, &end[i], port, NULL);
    }
    sup_end_init(&end[2]);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    desc = sup_connect_desc(address, &end[2]);
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_FULL);
    SUP_UNTIL(loop, end[0].opens == 1 && end[1].opens == 1);
    CHECK_OK(netkit_conn_close(loop, end[0].conn));
    sup_settle(loop);
    CHECK_ERR(netkit_connect(loop, &desc, &conn), NETKIT_E_FULL);
    CHECK_OK(netkit_conn_abort(loop, end[0].conn));
    SUP_UNTIL(loop, end[0].closes == 1);
    sup_turn(loop);
    CHECK_OK(netkit_connect(loop, &desc, &conn));
    SUP_UNTIL(loop, end[2].opens == 1);
    nkt_loop_done(loop);
    CHECK_EQ(close(listener), 0);
}
