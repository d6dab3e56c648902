/* Contracts C5 and C6, rules R1 and R4: how conns end, what is legal meanwhile, and that the dead
 * stay dead. */
#include "support.h"

/* Queue `len` bytes of the stream from its start. */
static void close_queue(sup_end *end, size_t len) {
    unsigned char *data = (unsigned char *)malloc(len);
    sup_fill(data, len, 0);
    CHECK_OK(netkit_conn_send(end->loop, end->conn, data, len));
    free(data);
}

/* T-07 SD25 SK17 C5: a graceful close with unread input, in the system or left by the handler,
 * delivers all that is queued and a clean end: no reset eats it */
NKT_LOOP_TEST(close_delivers_behind_unread_input) {
    for (int way = 0; way < 4; way++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        size_t len = way < 2 ? 200000 : 1 << 20;
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        end.used_at_most = way % 2 == 0 ? SIZE_MAX : 0;
        setup.options.send_max = 2 << 20;
        peer = sup_open(loop, &end, &setup);
        if (way % 2 == 0) {
            CHECK_OK(netkit_conn_pause(loop, end.conn));
        }
        peer.to_send = 10;
        sup_peer_send(&peer);
        SUP_UNTIL(loop, way % 2 == 0 || end.datas == 1);
        close_queue(&end, len);
        CHECK_OK(netkit_conn_close(loop, end.conn));
        SUP_UNTIL_DOING(loop, peer.end != 0) {
            sup_peer_recv(&peer);
            if (peer.received > 0 && peer.to_send == 10) {
                peer.to_send = 2000; /* more that nobody will read */
                sup_peer_send(&peer);
            }
        }
        CHECK_EQ(peer.end, SUP_EOF);
        CHECK_EQ(peer.received, len);
        CHECK_EQ(end.closes, 0);
        sup_peer_close(&peer);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_OK(end.info.code);
        CHECK_EQ(end.info.unsent, 0);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_CLOSING);
        CHECK_EQ(end.info.op, NETKIT_OP_CLOSE);
        CHECK_EQ(end.datas, way % 2);
        CHECK_EQ(end.eofs, 0);
        nkt_loop_done(loop);
    }
}

enum {
    CLOSE_ORDER = 12
};

/* Conns that one callback ends, one after the other, and the order in which they hear of it. */
typedef struct close_order {
    sup_end ends[CLOSE_ORDER];
    uint64_t told[CLOSE_ORDER];
    int count;
} close_order;

static close_order close_orders;

static void close_order_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                                 void *user) {
    close_order *o = &close_orders;
    sup_on_close(loop, conn, info, user);
    o->told[o->count++] = conn.id;
}

/* Every other from the back, the rest from the front: none in the order of its making. */
static int close_order_at(int i) {
    return i % 2 == 0 ? CLOSE_ORDER - 1 - i : i - 1;
}

static void close_order_post(netkit_loop *loop, int status, void *user) {
    close_order *o = (close_order *)user;
    CHECK_OK(status);
    for (int i = 0; i < CLOSE_ORDER; i++) {
        CHECK_OK(netkit_conn_abort(loop, o->ends[close_order_at(i)].conn));
    }
    CHECK_EQ(o->count, 0);
}

/* I13 I2 SK18 UR15: aborted in one callback, conns hear of their end in that order, whether they
 * were reading, paused with bytes waiting, ended by their peer or stuck in sending; and each peer
 * knows as soon as that turn is over. */
NKT_LOOP_TEST(close_order_within_a_turn) {
    static char big[4 << 20];
    netkit_loop *loop = nkt_loop();
    close_order *o = &close_orders;
    sup_peer peers[CLOSE_ORDER];
    memset(o, 0, sizeof(*o));
    for (int i = 0; i < CLOSE_ORDER; i++) {
        sup_setup setup = sup_setup_default();
        setup.handler.on_close = close_order_on_close;
        setup.options.send_max = sizeof(big);
        setup.rcvbuf = 4096;
        sup_end_init(&o->ends[i]);
        peers[i] = sup_open(loop, &o->ends[i], &setup);
        if (i % 4 == 1) {
            CHECK_OK(netkit_conn_pause(loop, o->ends[i].conn));
            peers[i].to_send = 100;
            sup_peer_send(&peers[i]);
        } else if (i % 4 == 2) {
            CHECK_EQ(shutdown(peers[i].fd, SHUT_WR), 0);
            SUP_UNTIL(loop, o->ends[i].eofs == 1);
        } else if (i % 4 == 3) {
            CHECK_OK(netkit_conn_send(loop, o->ends[i].conn, big, sizeof(big)));
        }
    }
    sup_settle(loop);
    CHECK_OK(netkit_loop_post(loop, close_order_post, o));
    SUP_UNTIL(loop, o->count == CLOSE_ORDER);
    for (int i = 0; i < CLOSE_ORDER; i++) {
        uint64_t until = nkt_now_ns() + 100000000u * nkt_slowness;
        char byte;
        ssize_t got;
        CHECK_EQ(o->told[i], o->ends[close_order_at(i)].conn.id);
        do {
            got = recv(peers[i].fd, &byte, 1, 0);
        } while (got == 1 || (got < 0 && errno == EAGAIN && nkt_now_ns() < until));
        CHECK(got < 0 && errno == ECONNRESET);
        sup_peer_close(&peers[i]);
    }
    nkt_loop_done(loop);
}

/* SD02 C5: closing with a read under way: the peer sees the end at once; on_close waits for the
 * peer's own end */
NKT_LOOP_TEST(close_ends_the_stream_at_once) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    uint64_t began = nkt_now_ns();
    CHECK_OK(netkit_conn_close(loop, end.conn));
    CHECK_EQ(end.closes, 0);
    SUP_UNTIL_DOING(loop, peer.end == SUP_EOF) {
        sup_peer_recv(&peer);
    }
    CHECK(nkt_now_ns() - began < 1000000000u * nkt_slowness);
    sup_settle(loop);
    CHECK_EQ(end.closes, 0);
    CHECK_EQ(netkit_conn_phase(loop, end.conn), NETKIT_PHASE_CLOSING);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_OK(end.info.code);
    nkt_loop_done(loop);
}

/* T-07 C5 R5: a peer that reads nothing, or never ends its own stream, is cut off at
 * close_deadline_ms; what it did not take is counted */
NKT_LOOP_TEST(close_deadline_bounds_the_whole_close) {
    for (int is_blocked = 0; is_blocked < 2; is_blocked++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        size_t len = is_blocked ? 16 << 20 : 100;
        uint64_t began;
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        setup.options.send_max = 16 << 20;
        setup.options.close_deadline_ms = 100;
        peer = sup_open(loop, &end, &setup);
        close_queue(&end, len);
        began = nkt_now_ns();
        CHECK_OK(netkit_conn_close(loop, end.conn));
        SUP_UNTIL_DOING(loop, end.closes == 1) {
            peer.to_send++;
            sup_peer_send(&peer); /* trickles on: no progress of this kind extends it */
        }
        CHECK(nkt_now_ns() - began >= 99000000);
        CHECK(nkt_now_ns() - began < (uint64_t)nkt_slowness * 1100000000);
        CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_CLOSING);
        CHECK(is_blocked ? end.info.unsent > 0 : end.info.unsent == 0);
        CHECK_EQ(netkit_loop_objects(loop), 0);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* C5 R5: a peer that floods instead of ending is cut off at drain_max, long before the deadline */
NKT_LOOP_TEST(close_discards_at_most_drain_max) {
    for (int is_default = 0; is_default < 2; is_default++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        uint64_t began;
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        setup.options.drain_max = is_default ? 0 : 100000;
        peer = sup_open(loop, &end, &setup);
        CHECK_OK(netkit_conn_close(loop, end.conn));
        peer.to_send = is_default ? 1 << 20 : 100000;
        peer.to_send -= 1000;
        SUP_UNTIL_DOING(loop, peer.sent == peer.to_send) {
            sup_peer_send(&peer);
        }
        sup_settle(loop);
        CHECK_EQ(end.closes, 0);
        began = nkt_now_ns();
        peer.to_send += 64 << 20;
        SUP_UNTIL_DOING(loop, end.closes == 1) {
            sup_peer_send(&peer);
        }
        CHECK(nkt_now_ns() - began < (uint64_t)nkt_slowness * 2000000000);
        CHECK(end.info.code < 0);
        CHECK(end.info.code != NETKIT_E_TIMEOUT);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_CLOSING);
        CHECK_EQ(end.datas, 0);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

static void close_check_refused(netkit_loop *loop, netkit_conn conn, int code) {
    netkit_handler handler = sup_handler();
    netkit_span span;
    span.data = "x";
    span.len = 1;
    CHECK_ERR(netkit_conn_send(loop, conn, "x", 1), code);
    CHECK_ERR(netkit_conn_sendv(loop, conn, &span, 1), code);
    CHECK_ERR(netkit_conn_send_borrowed(loop, conn, "x", 1, NULL, NULL), code);
    CHECK_ERR(netkit_conn_flush(loop, conn), code);
    CHECK_ERR(netkit_conn_pause(loop, conn), code);
    CHECK_ERR(netkit_conn_resume(loop, conn), code);
    CHECK_ERR(netkit_conn_shutdown(loop, conn), code);
    CHECK_ERR(netkit_conn_set_handler(loop, conn, &handler, NULL), code);
    CHECK_ERR(netkit_conn_set_user(loop, conn, NULL), code);
    CHECK_ERR(netkit_conn_set_idle_timeout(loop, conn, 1), code);
    CHECK_ERR(netkit_conn_set_deadline(loop, conn, 1), code);
    CHECK_ERR(netkit_conn_set_option(loop, conn, NETKIT_OPT_NODELAY, 1), code);
    CHECK_ERR(netkit_conn_set_referenced(loop, conn, false), code);
}

/* C5 L-04 SK26: while closing the getters and abort work, a second close is OK, all else is
 * CLOSED; abort then ends it */
NKT_LOOP_TEST(close_allows_getters_close_and_abort) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    netkit_addr addr;
    uintptr_t native;
    size_t count;
    int value;
    sup_end_init(&end);
    setup.options.ext_size = 8;
    peer = sup_open(loop, &end, &setup);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    CHECK_OK(netkit_conn_close(loop, end.conn));
    sup_turn(loop);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    CHECK_EQ(netkit_conn_phase(loop, end.conn), NETKIT_PHASE_CLOSING);
    CHECK_OK(netkit_conn_queued(loop, end.conn, &count));
    CHECK_OK(netkit_conn_unread(loop, end.conn, &count));
    CHECK_OK(netkit_conn_local(loop, end.conn, &addr));
    CHECK_EQ(addr.family, NETKIT_AF_IPV4);
    CHECK_OK(netkit_conn_remote(loop, end.conn, &addr));
    CHECK_OK(netkit_conn_native(loop, end.conn, &native));
    CHECK_OK(netkit_conn_get_option(loop, end.conn, NETKIT_OPT_NODELAY, &value));
    CHECK(netkit_conn_user(loop, end.conn) == &end);
    CHECK(netkit_conn_ext(loop, end.conn) != NULL);
    close_check_refused(loop, end.conn, NETKIT_E_CLOSED);
    CHECK_OK(netkit_conn_abort(loop, end.conn));
    CHECK_EQ(end.closes, 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK(end.info.code < 0);
    close_check_refused(loop, end.conn, NETKIT_E_STALE);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* L-04 PO13 R1 BX01: dead, zero, foreign and wrong-kind handles are STALE everywhere, never a
 * crash */
NKT_LOOP_TEST(close_leaves_a_stale_handle) {
    netkit_loop *loop = nkt_loop();
    netkit_loop *second = nkt_loop();
    sup_end end, foreign;
    sup_peer peer = sup_open_default(loop, &end);
    sup_peer other = sup_open_default(second, &foreign);
    netkit_conn bad[4];
    netkit_timer timer;
    CHECK_OK(netkit_timer_start(loop, &timer, 1000000000, 0, NULL, NULL) == NETKIT_E_INVALID
                 ? NETKIT_OK
                 : netkit_timer_stop(loop, timer));
    CHECK_OK(netkit_conn_abort(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    memset(bad, 0, sizeof(bad));
    bad[1] = end.conn;
    bad[2] = foreign.conn;
    bad[3].id = UINT64_MAX;
    for (int i = 0; i < 4; i++) {
        netkit_listener listener;
        netkit_addr addr;
        uintptr_t native;
        size_t count;
        int value;
        close_check_refused(loop, bad[i], NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_close(loop, bad[i]), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_abort(loop, bad[i]), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_phase(loop, bad[i]), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_queued(loop, bad[i], &count), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_unread(loop, bad[i], &count), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_local(loop, bad[i], &addr), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_remote(loop, bad[i], &addr), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_native(loop, bad[i], &native), NETKIT_E_STALE);
        CHECK_ERR(netkit_conn_get_option(loop, bad[i], NETKIT_OPT_NODELAY, &value), NETKIT_E_STALE);
        CHECK(netkit_conn_user(loop, bad[i]) == NULL);
        CHECK(netkit_conn_ext(loop, bad[i]) == NULL);
        listener.id = bad[i].id;
        CHECK_ERR(netkit_listener_close(loop, listener), NETKIT_E_STALE);
        CHECK_ERR(netkit_listener_local(loop, listener, &addr), NETKIT_E_STALE);
        CHECK_ERR(netkit_listener_set_referenced(loop, listener, false), NETKIT_E_STALE);
    }
    CHECK_EQ(foreign.closes, 0);
    sup_peer_close(&peer);
    sup_peer_close(&other);
    nkt_loop_done(loop);
    nkt_loop_done(second);
}

/* R1 PO13: where there is no answer its place is empty, and a descriptor is none */
NKT_LOOP_TEST(close_leaves_places_for_answers_empty) {
    netkit_loop *loop = nkt_loop();
    netkit_conn conn = {0};
    netkit_udp udp = {0};
    netkit_listener listener = {0};
    netkit_timer timer = {0};
    netkit_addr addr[4];
    uintptr_t native[2] = {0, 0};
    size_t count[3] = {7, 7, 7};
    int value[3] = {7, 7, 7};
    uint32_t caps = 7;
    uint64_t left = 7;
    void *place = &loop;
    netkit_buf buf;
    size_t room = 7;
    memset(addr, 7, sizeof(addr));
    memset(&buf, 7, sizeof(buf));
    CHECK_ERR(netkit_conn_queued(loop, conn, &count[0]), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_unread(loop, conn, &count[1]), NETKIT_E_STALE);
    CHECK_ERR(netkit_udp_queued(loop, udp, &count[2]), NETKIT_E_STALE);
    CHECK(count[0] == 0 && count[1] == 0 && count[2] == 0);
    CHECK_ERR(netkit_conn_local(loop, conn, &addr[0]), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_remote(loop, conn, &addr[1]), NETKIT_E_STALE);
    CHECK_ERR(netkit_udp_local(loop, udp, &addr[2]), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_local(loop, listener, &addr[3]), NETKIT_E_STALE);
    CHECK(addr[0].family == NETKIT_AF_NONE && addr[1].family == NETKIT_AF_NONE);
    CHECK(addr[2].family == NETKIT_AF_NONE && addr[3].family == NETKIT_AF_NONE);
    CHECK_ERR(netkit_conn_native(loop, conn, &native[0]), NETKIT_E_STALE);
    CHECK_ERR(netkit_udp_native(loop, udp, &native[1]), NETKIT_E_STALE);
    CHECK(native[0] == UINTPTR_MAX && native[1] == UINTPTR_MAX);
    CHECK_ERR(netkit_conn_get_option(loop, conn, NETKIT_OPT_TTL, &value[0]), NETKIT_E_STALE);
    CHECK_ERR(netkit_udp_get_option(loop, udp, NETKIT_OPT_TTL, &value[1]), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_get_option(loop, listener, NETKIT_OPT_TTL, &value[2]),
              NETKIT_E_STALE);
    CHECK(value[0] == 0 && value[1] == 0 && value[2] == 0);
    CHECK_ERR(netkit_udp_caps(loop, udp, &caps), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_remaining(loop, timer, &left), NETKIT_E_STALE);
    CHECK(caps == 0 && left == 0);
    CHECK_ERR(netkit_conn_reserve(loop, conn, 1, &place, &room), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_keep(loop, conn, &buf), NETKIT_E_STALE);
    CHECK(place == NULL && room == 0 && buf.owner == NULL);
    nkt_loop_done(loop);
}

/* R1 PO13: the kind of a handle counts */
NKT_LOOP_TEST(close_takes_no_handle_of_another_kind) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    netkit_listener listener, wrong;
    netkit_conn conn;
    sup_end end, watched;
    sup_peer peer = sup_open_default(loop, &watched);
    sup_end_init(&end);
    desc = sup_listen_desc(&handler, &end);
    sup_listen(loop, &desc, &listener);
    conn.id = listener.id;
    wrong.id = watched.conn.id;
    CHECK_ERR(netkit_conn_close(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_close(loop, wrong), NETKIT_E_STALE);
    sup_settle(loop);
    CHECK_EQ(watched.closes, 0);
    CHECK_EQ(netkit_loop_objects(loop), 2);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* T-14 SK18 C5: abort is a reset that the peer sees; what was queued is dropped; after a shutdown
 * it is legal too */
NKT_LOOP_TEST(close_abort_resets) {
    for (int is_shut = 0; is_shut < 2; is_shut++) {
        netkit_loop *loop = nkt_loop();
        sup_end end;
        sup_peer peer = sup_open_default(loop, &end);
        char text[200];
        if (is_shut) {
            CHECK_OK(netkit_conn_shutdown(loop, end.conn));
            sup_turn(loop);
        } else {
            CHECK_OK(netkit_conn_send(loop, end.conn, "lost", 4));
        }
        CHECK_OK(netkit_conn_abort(loop, end.conn));
        CHECK_EQ(end.closes, 0);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_EQ(end.info.unsent, is_shut ? 0 : 4);
        CHECK(end.info.code < 0);
        CHECK_EQ(end.info.op, NETKIT_OP_CLOSE);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_OPEN);
        CHECK(netkit_close_describe(&end.info, text, sizeof(text)) < (int)sizeof(text));
        SUP_UNTIL_DOING(loop, peer.end != 0) {
            sup_peer_recv(&peer);
        }
        CHECK_EQ(peer.received, 0);
        if (is_shut) {
            CHECK(send(peer.fd, "x", 1, MSG_NOSIGNAL) == -1);
        } else {
            CHECK_EQ(peer.end, ECONNRESET);
        }
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* ---- ending from callbacks --------------------------------------------------- */

enum {
    CLOSE_IN_OPEN,
    CLOSE_IN_DATA,
    CLOSE_IN_DRAIN,
    CLOSE_IN_EOF,
    CLOSE_IN_TIMER,
    CLOSE_IN_SIBLING,
    CLOSE_PLACES
};

typedef struct close_closer {
    sup_end end;
    int place;
    bool aborts;
    netkit_conn victim; /* 0 = itself */
    int after;          /* callbacks but on_close after the call */
    bool is_over;
} close_closer;

static void close_now(netkit_loop *loop, netkit_conn conn, close_closer *c) {
    netkit_conn victim = c->victim.id != 0 ? c->victim : conn;
    CHECK_OK(c->aborts ? netkit_conn_abort(loop, victim) : netkit_conn_close(loop, victim));
    CHECK_EQ(c->end.closes, c->place == CLOSE_IN_SIBLING);
    c->is_over = true;
}

static void close_at(netkit_loop *loop, netkit_conn conn, close_closer *c, int place) {
    c->after += c->is_over;
    if (c->place == place) {
        close_now(loop, conn, c);
    }
}

static void close_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_open(loop, conn, user);
    close_at(loop, conn, (close_closer *)user, CLOSE_IN_OPEN);
}

static size_t close_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                            void *user) {
    sup_on_data(loop, conn, data, len, user);
    close_at(loop, conn, (close_closer *)user, CLOSE_IN_DATA);
    return len;
}

static void close_on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_drain(loop, conn, user);
    close_at(loop, conn, (close_closer *)user, CLOSE_IN_DRAIN);
}

static void close_on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_eof(loop, conn, user);
    close_at(loop, conn, (close_closer *)user, CLOSE_IN_EOF);
}

static void close_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                           void *user) {
    close_closer *c = (close_closer *)user;
    sup_on_close(loop, conn, info, user);
    if (c->place == CLOSE_IN_SIBLING && c->victim.id != 0) {
        close_now(loop, conn, c);
    }
}

static void close_on_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    close_closer *c = (close_closer *)user;
    (void)timer;
    close_at(loop, c->end.conn, c, CLOSE_IN_TIMER);
}

static netkit_handler close_handler(void) {
    netkit_handler h;
    h.on_open = close_on_open;
    h.on_data = close_on_data;
    h.on_drain = close_on_drain;
    h.on_eof = close_on_eof;
    h.on_close = close_on_close;
    return h;
}

static void close_in_place(int place, bool aborts) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    close_closer c, other;
    sup_peer peer, second;
    memset(&c, 0, sizeof(c));
    sup_end_init(&c.end);
    c.place = place;
    c.aborts = aborts;
    setup.handler = close_handler();
    setup.options.send_max = 100;
    peer = sup_open(loop, &c.end, &setup);
    other = c;
    if (place == CLOSE_IN_SIBLING) {
        memset(&other, 0, sizeof(other));
        sup_end_init(&other.end);
        other.place = -1;
        second = sup_open(loop, &other.end, &setup);
        c.victim = other.end.conn;
        CHECK_OK(netkit_conn_abort(loop, c.end.conn));
    } else if (place == CLOSE_IN_DRAIN) {
        char data[100] = {0};
        CHECK_OK(netkit_conn_send(loop, c.end.conn, data, sizeof(data)));
        CHECK_ERR(netkit_conn_send(loop, c.end.conn, data, 1), NETKIT_E_FULL);
    } else if (place == CLOSE_IN_TIMER) {
        CHECK_OK(netkit_timer_start(loop, NULL, 1000, 0, close_on_timer, &c));
    }
    peer.to_send = 1000; /* all that could happen next, happens */
    sup_peer_send(&peer);
    if (place == CLOSE_IN_EOF) {
        CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    }
    SUP_UNTIL(loop, c.is_over);
    if (place != CLOSE_IN_EOF) {
        peer.to_send = 2000;
        sup_peer_send(&peer);
    }
    sup_peer_close(&peer);
    if (place == CLOSE_IN_SIBLING) {
        sup_peer_close(&second);
        SUP_UNTIL(loop, other.end.closes == 1);
    }
    SUP_UNTIL(loop, c.end.closes == 1);
    sup_settle(loop);
    CHECK_EQ(c.after, 0);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    nkt_loop_done(loop);
}

/* L-03 PL16 C5 C6 I2 R4: close and abort in every callback: on_close once, later than the call,
 * last, and nothing else after the call */
NKT_LOOP_TEST(close_in_every_callback) {
    for (int place = 0; place < CLOSE_PLACES; place++) {
        close_in_place(place, false);
        close_in_place(place, true);
    }
}

/* PL16 R4: calls on itself and on others are legal in on_close; the handle dies with its return */
static void close_calls_in_on_close(netkit_loop *loop, netkit_conn conn,
                                    const netkit_close_info *info, void *user) {
    unsigned char *ext = (unsigned char *)netkit_conn_ext(loop, conn);
    sup_on_close(loop, conn, info, user);
    CHECK(ext != NULL);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(ext[i], 7);
    }
    CHECK(netkit_conn_user(loop, conn) == user);
    CHECK(netkit_conn_send(loop, conn, "x", 1) < 0);
    CHECK(netkit_conn_close(loop, conn) == NETKIT_OK ||
          netkit_conn_close(loop, conn) == NETKIT_E_CLOSED);
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_destroy(loop), NETKIT_E_BUSY);
}

/* C7 PL16 R4 SK28: ext is valid in on_close, zeroed at first, aligned to 16; the loop cannot be
 * run or destroyed from there */
NKT_LOOP_TEST(close_ext_lives_through_on_close) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    setup.handler.on_close = close_calls_in_on_close;
    setup.options.ext_size = 100;
    for (int round = 0; round < 3; round++) {
        sup_end end;
        sup_peer peer;
        unsigned char *ext;
        sup_end_init(&end);
        peer = sup_open(loop, &end, &setup);
        ext = (unsigned char *)netkit_conn_ext(loop, end.conn);
        CHECK(ext != NULL && (uintptr_t)ext % 16 == 0);
        for (int i = 0; i < 100; i++) {
            CHECK_EQ(ext[i], 0);
        }
        memset(ext, 7, 100);
        CHECK_OK(netkit_conn_abort(loop, end.conn));
        SUP_UNTIL(loop, end.closes == 1);
        CHECK(netkit_conn_ext(loop, end.conn) == NULL);
        CHECK_ERR(netkit_conn_phase(loop, end.conn), NETKIT_E_STALE);
        sup_peer_close(&peer);
    }
    nkt_loop_done(loop);
}

/* Two conns whose callbacks close each other, both ready in one turn. */
typedef struct close_pair {
    sup_end ends[2];
    int datas;
    bool aborts;
} close_pair;

static close_pair close_duel;

static size_t close_the_other(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                              void *user) {
    sup_end *self = (sup_end *)user;
    sup_end *other = self == &close_duel.ends[0] ? &close_duel.ends[1] : &close_duel.ends[0];
    int code;
    sup_on_data(loop, conn, data, len, user);
    close_duel.datas++;
    code = close_duel.aborts ? netkit_conn_abort(loop, other->conn)
                             : netkit_conn_close(loop, other->conn);
    CHECK_OK(code);
    return len;
}

/* L-06 I2 I5: whoever comes first wins; the other hears nothing more but its end */
NKT_LOOP_TEST(close_each_other_in_one_turn) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    uint64_t rounds = nkt_scale(10000, 60);
    setup.handler.on_data = close_the_other;
    setup.options.close_deadline_ms = 1000;
    for (uint64_t round = 0; round < rounds; round++) {
        sup_peer peers[2];
        close_duel.aborts = nkt_random() % 2 == 0;
        close_duel.datas = 0;
        for (int i = 0; i < 2; i++) {
            sup_end_init(&close_duel.ends[i]);
            peers[i] = sup_open(loop, &close_duel.ends[i], &setup);
        }
        for (int i = 0; i < 2; i++) {
            peers[i].to_send = 1;
            sup_peer_send(&peers[i]);
        }
        SUP_UNTIL(loop, close_duel.datas > 0);
        CHECK_EQ(close_duel.datas, 1);
        sup_peer_close(&peers[0]);
        sup_peer_close(&peers[1]);
        for (int i = 0; i < 2; i++) {
            SUP_UNTIL(loop, close_duel.ends[i].eofs + close_duel.ends[i].closes > 0);
            if (close_duel.ends[i].closes == 0) {
                CHECK_OK(netkit_conn_abort(loop, close_duel.ends[i].conn));
            }
            SUP_UNTIL(loop, close_duel.ends[i].closes == 1);
        }
    }
    CHECK_EQ(netkit_loop_objects(loop), 0);
    nkt_loop_done(loop);
}

/* ---- descriptors that come back ------------------------------------------------ */

enum {
    CLOSE_MANY = 64
};

typedef struct close_crowd {
    sup_end old[CLOSE_MANY], fresh[CLOSE_MANY];
    bool is_aborted[CLOSE_MANY];
    uint16_t port;
    int made;
} close_crowd;

static close_crowd close_here;

/* The first of many that are ready ends half of the others and dials as many anew: the system
 * gives them the same descriptors. */
static size_t close_half_and_dial(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                  void *user) {
    sup_on_data(loop, conn, data, len, user);
    if (close_here.made == 0) {
        for (int i = 0; i < CLOSE_MANY; i++) {
            if (&close_here.old[i] != user && i % 2 == 0 && close_here.old[i].datas == 0) {
                CHECK_OK(netkit_conn_abort(loop, close_here.old[i].conn));
                close_here.is_aborted[i] = true;
            }
        }
        for (int i = 0; i < CLOSE_MANY; i++) {
            if (close_here.is_aborted[i]) {
                sup_end_init(&close_here.fresh[i]);
                sup_connect(loop, &close_here.fresh[i], close_here.port, NULL);
                close_here.made++;
            }
        }
    }
    return len;
}

/* L-05 SD32 I5 PL15: with 64 ready in one wake-up, the first ends half of them and opens as many:
 * the dead hear nothing more but their end, the new only what is theirs */
NKT_LOOP_TEST(close_and_reuse_of_descriptors) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    uint64_t rounds = nkt_scale(200, 5);
    int listener = sup_raw_listen(&close_here.port, 1000);
    sup_nonblocking(listener);
    setup.handler.on_data = close_half_and_dial;
    for (uint64_t round = 0; round < rounds; round++) {
        sup_peer peers[CLOSE_MANY];
        int accepted[CLOSE_MANY], count = 0;
        memset(close_here.is_aborted, 0, sizeof(close_here.is_aborted));
        close_here.made = 0;
        for (int i = 0; i < CLOSE_MANY; i++) {
            sup_end_init(&close_here.old[i]);
            peers[i] = sup_open(loop, &close_here.old[i], &setup);
        }
        for (int i = 0; i < CLOSE_MANY; i++) {
            peers[i].to_send = 1;
            sup_peer_send(&peers[i]);
        }
        SUP_UNTIL(loop, close_here.made > 0);
        SUP_UNTIL_DOING(loop, count == close_here.made) {
            int fd = accept(listener, NULL, NULL);
            if (fd >= 0) {
                accepted[count++] = fd;
            }
        }
        sup_settle(loop);
        for (int i = 0; i < CLOSE_MANY; i++) {
            CHECK_EQ(close_here.old[i].datas, !close_here.is_aborted[i]);
            CHECK_EQ(close_here.old[i].closes, close_here.is_aborted[i]);
            if (close_here.is_aborted[i]) {
                CHECK_STR(close_here.fresh[i].trace, "o");
                CHECK_OK(netkit_conn_abort(loop, close_here.fresh[i].conn));
            } else {
                CHECK_OK(netkit_conn_abort(loop, close_here.old[i].conn));
            }
            sup_peer_close(&peers[i]);
        }
        SUP_UNTIL(loop, netkit_loop_objects(loop) == 0);
        while (count > 0) {
            CHECK_EQ(close(accepted[--count]), 0);
        }
    }
    CHECK_EQ(close(listener), 0);
    nkt_loop_done(loop);
}

/* ---- the end of the loop ----------------------------------------------------------- */

typedef struct close_listening {
    sup_end end;
    int listener_closes;
} close_listening;

static void close_on_listener_close(netkit_loop *loop, netkit_listener listener, void *user) {
    (void)loop;
    (void)listener;
    ((close_listening *)user)->listener_closes++;
}

/* R4 I1 I2 C5 SK29: destroy is the last turn: open, closing and connecting conns and listeners get
 * their on_close, once, inside it */
NKT_LOOP_TEST(close_by_destroy) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = sup_handler();
    close_listening l;
    netkit_listen_desc desc;
    sup_end end, closing, connecting;
    sup_peer peer = sup_open_default(loop, &end);
    sup_peer second = sup_open_default(loop, &closing);
    memset(&l, 0, sizeof(l));
    sup_end_init(&connecting);
    desc = sup_listen_desc(&handler, &l);
    desc.on_close = close_on_listener_close;
    sup_connect(loop, &connecting, sup_listen(loop, &desc, NULL), NULL);
    CHECK_OK(netkit_conn_close(loop, closing.conn));
    CHECK_OK(netkit_conn_send(loop, end.conn, "abc", 3));
    CHECK_EQ(netkit_loop_objects(loop), 4);
    CHECK_EQ(end.closes + closing.closes + connecting.closes + l.listener_closes, 0);
    nkt_loop_done(loop);
    CHECK_EQ(end.closes, 1);
    CHECK(end.info.code < 0);
    CHECK_EQ(end.info.op, NETKIT_OP_CLOSE);
    CHECK_EQ(closing.closes, 1);
    CHECK_EQ(connecting.closes, 1);
    CHECK_EQ(connecting.opens, 0);
    CHECK_EQ(connecting.info.phase, NETKIT_PHASE_CONNECTING);
    CHECK_EQ(l.listener_closes, 1);
    sup_peer_close(&peer);
    sup_peer_close(&second);
}

/* ---- a storm ------------------------------------------------------------------------- */

enum {
    CLOSE_STORM = 40,
    CLOSE_STORM_LOANS = 20000
};

typedef struct close_sailor {
    netkit_conn conn;
    netkit_loop *loop;
    int opens, eofs, closes;
    int loans_out;
    bool is_dialled;
} close_sailor;

typedef struct close_storm {
    close_sailor sailors[CLOSE_STORM_LOANS];
    unsigned char released[CLOSE_STORM_LOANS];
    close_sailor *owner[CLOSE_STORM_LOANS];
    int made, loans, alive;
    char payload[30000];
} close_storm;

static close_storm close_sea;

static void close_storm_release(netkit_loop *loop, int status, void *user) {
    unsigned char *mark = (unsigned char *)user;
    close_sailor *owner = close_sea.owner[mark - close_sea.released];
    (void)loop;
    CHECK(status <= 0);
    CHECK_EQ(*mark, 0); /* once */
    CHECK_EQ(owner->closes, 0);
    *mark = 1;
    owner->loans_out--;
}

/* One of all the calls there are, by chance, on one of the conns made last: most are alive. */
static void close_storm_act(netkit_loop *loop) {
    int recent = close_sea.made < 2 * CLOSE_STORM ? close_sea.made : 2 * CLOSE_STORM;
    close_sailor *s =
        &close_sea.sailors[close_sea.made - 1 - (int)(nkt_random() % (unsigned)recent)];
    size_t len = (size_t)(nkt_random() % sizeof(close_sea.payload));
    int code = NETKIT_OK;
    switch (nkt_random() % 16) {
    case 0: code = netkit_conn_close(loop, s->conn); break;
    case 1: code = nkt_random() % 2 == 0 ? netkit_conn_abort(loop, s->conn) : NETKIT_OK; break;
    case 2: code = netkit_conn_shutdown(loop, s->conn); break;
    case 3:
    case 4: code = netkit_conn_pause(loop, s->conn); break;
    case 5:
    case 6:
    case 7: code = netkit_conn_resume(loop, s->conn); break;
    case 8: code = netkit_conn_flush(loop, s->conn); break;
    case 9:
    case 10:
    case 11:
        if (close_sea.loans < CLOSE_STORM_LOANS) {
            close_sea.owner[close_sea.loans] = s;
            code = netkit_conn_send_borrowed(loop, s->conn, close_sea.payload, len + 1,
                                             close_storm_release,
                                             &close_sea.released[close_sea.loans]);
            if (code == NETKIT_OK) {
                s->loans_out++;
                close_sea.loans++;
            }
        }
        break;
    default: code = netkit_conn_send(loop, s->conn, close_sea.payload, len); break;
    }
    CHECK(code == NETKIT_OK || code == NETKIT_E_STALE || code == NETKIT_E_CLOSED ||
          code == NETKIT_E_FULL);
    CHECK(s->closes == 0 || code != NETKIT_E_FULL);
}

static void close_storm_open(netkit_loop *loop, netkit_conn conn, void *user) {
    close_sailor *s = *(close_sailor **)netkit_conn_ext(loop, conn);
    if (s == NULL) { /* accepted: this is the first we hear of it */
        CHECK(user == NULL);
        s = &close_sea.sailors[close_sea.made++];
        s->conn = conn;
        *(close_sailor **)netkit_conn_ext(loop, conn) = s;
        close_sea.alive++;
    }
    CHECK_EQ(s->opens++ + s->eofs + s->closes, 0);
    close_storm_act(loop);
}

static size_t close_storm_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                               void *user) {
    close_sailor *s = *(close_sailor **)netkit_conn_ext(loop, conn);
    (void)data;
    (void)user;
    CHECK_EQ(s->opens, 1);
    CHECK_EQ(s->eofs + s->closes, 0);
    close_storm_act(loop);
    return len - (len > 1000 ? 0 : (size_t)(nkt_random() % (len + 1)));
}

static void close_storm_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    close_sailor *s = *(close_sailor **)netkit_conn_ext(loop, conn);
    (void)user;
    CHECK_EQ(s->closes, 0);
    close_storm_act(loop);
}

static void close_storm_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    close_sailor *s = *(close_sailor **)netkit_conn_ext(loop, conn);
    (void)user;
    CHECK_EQ(s->eofs++ + s->closes, 0);
    close_storm_act(loop);
    netkit_conn_close(loop, conn);
}

static void close_storm_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                              void *user) {
    close_sailor *s = *(close_sailor **)netkit_conn_ext(loop, conn);
    (void)user;
    CHECK(info->code <= 0);
    if (s == NULL) {
        return; /* ended before on_open of an accepted conn told of it */
    }
    CHECK_EQ(s->closes++, 0);
    CHECK_EQ(s->loans_out, 0);
    close_sea.alive--;
    close_storm_act(loop);
}

/* I1 I2 I3 I5 PL16 G8: forty conns at a time that talk to each other, everything happening by
 * chance, in every callback: each conn closes once and last, each loan comes back once and
 * before that, and nothing is left */
NKT_SLOW_LOOP_TEST(close_storm_of_everything) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler;
    netkit_listen_desc desc;
    netkit_connect_desc connect_desc;
    char address[32];
    uint64_t rounds = nkt_scale(80000, 15000);
    handler.on_open = close_storm_open;
    handler.on_data = close_storm_data;
    handler.on_drain = close_storm_drain;
    handler.on_eof = close_storm_eof;
    handler.on_close = close_storm_close;
    desc = sup_listen_desc(&handler, NULL);
    desc.conn.ext_size = sizeof(close_sailor *);
    desc.conn.send_max = 100000;
    desc.conn.close_deadline_ms = 200;
    desc.conn.chunks_max = 8;
    desc.conn.duplex = nkt_random() % 2 == 0;
    snprintf(address, sizeof(address), "127.0.0.1:%u", sup_listen(loop, &desc, NULL));
    memset(&connect_desc, 0, sizeof(connect_desc));
    connect_desc.address = address;
    connect_desc.handler = handler;
    connect_desc.conn = desc.conn;
    for (uint64_t round = 0; round < rounds; round++) {
        while (close_sea.alive < CLOSE_STORM && close_sea.made < CLOSE_STORM_LOANS - 100) {
            close_sailor *s = &close_sea.sailors[close_sea.made++];
            s->is_dialled = true;
            CHECK_OK(netkit_connect(loop, &connect_desc, &s->conn));
            *(close_sailor **)netkit_conn_ext(loop, s->conn) = s;
            close_sea.alive++;
        }
        close_storm_act(loop);
        CHECK_OK(netkit_loop_poll(loop, -1));
    }
    printf("%d conns, %d loans\n", close_sea.made, close_sea.loans);
    CHECK(close_sea.made > CLOSE_STORM * 2);
    CHECK(close_sea.loans > 100);
    nkt_loop_done(loop);
    CHECK_EQ(close_sea.alive, 0);
    for (int i = 0; i < close_sea.made; i++) {
        CHECK_EQ(close_sea.sailors[i].closes, 1);
        CHECK_EQ(close_sea.sailors[i].loans_out, 0);
    }
    for (int i = 0; i < close_sea.loans; i++) {
        CHECK_EQ(close_sea.released[i], 1);
    }
}

static void close_count_release(netkit_loop *loop, int status, void *user) {
    sup_end *end = (sup_end *)user;
    (void)loop;
    CHECK_OK(status);
    CHECK_EQ(end->closes, 0);
    end->datas++;
}

/* C2 C5 I1: a graceful close with loans out: each comes back with OK before on_close; bad
 * arguments take nothing */
NKT_LOOP_TEST(close_gracefully_with_loans) {
    netkit_loop *loop = nkt_loop();
    size_t each = 1 << 20;
    unsigned char *data = (unsigned char *)malloc(4 * each);
    netkit_span span;
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    sup_fill(data, 4 * each, 0);
    span.data = NULL;
    span.len = 4;
    CHECK_ERR(netkit_conn_send(loop, end.conn, NULL, 4), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_sendv(loop, end.conn, &span, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_sendv(loop, end.conn, NULL, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_borrowed(loop, end.conn, NULL, 4, close_count_release, &end),
              NETKIT_E_INVALID);
    CHECK_EQ(sup_queued(&end), 0);
    for (size_t i = 0; i < 4; i++) {
        CHECK_OK(netkit_conn_send_borrowed(loop, end.conn, data + i * each, each,
                                           close_count_release, &end));
    }
    CHECK_OK(netkit_conn_close(loop, end.conn));
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_EQ(peer.received, 4 * each);
    CHECK_EQ(end.datas, 4);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_OK(end.info.code);
    nkt_loop_done(loop);
    free(data);
}

/* ---- what on_close says --------------------------------------------------------------- */

/* SK24 R2: the reason as a sentence with its numbers; short buffers are cut as snprintf does */
NKT_TEST(close_describe_tells_all) {
    netkit_close_info info;
    char text[256], small[10];
    int len;
    memset(&info, 0, sizeof(info));
    info.code = NETKIT_E_RESET;
    info.os_code = 104;
    info.op = NETKIT_OP_READ;
    info.phase = NETKIT_PHASE_OPEN;
    info.text = "the peer went away in anger";
    info.unsent = 98765;
    len = netkit_close_describe(&info, text, sizeof(text));
    CHECK_EQ(len, strlen(text));
    CHECK(strstr(text, "104") != NULL);
    CHECK(strstr(text, "98765") != NULL);
    CHECK(strstr(text, "the peer went away in anger") != NULL || strstr(text, "RESET") != NULL);
    CHECK_EQ(netkit_close_describe(&info, small, sizeof(small)), len);
    CHECK_EQ(strlen(small), 9);
    CHECK(strncmp(small, text, 9) == 0);
    CHECK_EQ(netkit_close_describe(&info, NULL, 0), len);
    for (int op = 0; op <= 9; op++) {
        for (int phase = 0; phase <= 4; phase++) {
            info.op = (netkit_op)op;
            info.phase = (netkit_phase)phase;
            CHECK(netkit_close_describe(&info, text, sizeof(text)) > 0);
        }
    }
}

/* ---- the same on every backend ----------------------------------------------------------- */

typedef struct close_story {
    netkit_loop *loop;
    sup_end ends[8];
    sup_peer peers[8];
    int count;
} close_story;

static sup_peer *close_story_open(close_story *s, const sup_setup *setup) {
    int i = s->count++;
    sup_end_init(&s->ends[i]);
    s->peers[i] = sup_open(s->loop, &s->ends[i], setup);
    return &s->peers[i];
}

/* A scripted day of several conns; what each was told is written to `out`. */
static void close_tell_story(int backend, char *out, size_t size) {
    netkit_loop_desc desc;
    sup_setup setup = sup_setup_default();
    close_story s;
    sup_peer *peer;
    size_t len = 0;
    memset(&desc, 0, sizeof(desc));
    memset(&s, 0, sizeof(s));
    desc.backend = backend;
    s.loop = nkt_loop_with(&desc);
    setup.options.send_max = 5000;
    peer = close_story_open(&s, &setup); /* 0: data, end, close */
    s.ends[0].closes_at_eof = true;
    peer->to_send = 300000;
    SUP_UNTIL_DOING(s.loop, peer->sent == peer->to_send) {
        sup_peer_send(peer);
    }
    sup_peer_close(peer);
    peer = close_story_open(&s, &setup); /* 1: reset behind data, held back by a pause */
    CHECK_OK(netkit_conn_pause(s.loop, s.ends[1].conn));
    peer->to_send = 5000;
    sup_peer_send(peer);
    sup_settle(s.loop);
    sup_raw_reset(peer->fd);
    sup_settle(s.loop);
    CHECK_OK(netkit_conn_resume(s.loop, s.ends[1].conn));
    peer = close_story_open(&s, &setup); /* 2: full, drained, closed */
    close_queue(&s.ends[2], 5000);
    CHECK_ERR(netkit_conn_send(s.loop, s.ends[2].conn, "x", 1), NETKIT_E_FULL);
    SUP_UNTIL(s.loop, s.ends[2].drains == 1);
    CHECK_OK(netkit_conn_close(s.loop, s.ends[2].conn));
    sup_settle(s.loop);
    sup_peer_recv(peer); /* else its close were a reset */
    sup_peer_close(peer);
    close_story_open(&s, &setup); /* 3: aborted */
    CHECK_OK(netkit_conn_abort(s.loop, s.ends[3].conn));
    sup_end_init(&s.ends[4]); /* 4: refused */
    {
        uint16_t port;
        int fd = sup_raw_listen(&port, 1);
        CHECK_EQ(close(fd), 0);
        sup_connect(s.loop, &s.ends[4], port, NULL);
    }
    setup.options.idle_timeout_ms = 20;
    s.count = 5;
    close_story_open(&s, &setup); /* 5: idle */
    setup.options.idle_timeout_ms = 0;
    setup.options.recv_max = 10;
    peer = close_story_open(&s, &setup); /* 6: leaves too much */
    s.ends[6].used_at_most = 0;
    peer->to_send = 10;
    sup_peer_send(peer);
    for (int i = 0; i < 7; i++) {
        SUP_UNTIL(s.loop, s.ends[i].closes == 1);
        len += (size_t)snprintf(
            out + len, size - len, "%d %s %" PRIu64 " %s %d %d %d %zu\n", i, s.ends[i].trace,
            s.ends[i].bytes, netkit_error_name(s.ends[i].info.code), s.ends[i].info.os_code,
            (int)s.ends[i].info.op, (int)s.ends[i].info.phase, s.ends[i].info.unsent);
        CHECK(len < size);
    }
    sup_peer_close(&s.peers[3]);
    sup_peer_close(&s.peers[5]);
    sup_peer_close(&s.peers[6]);
    nkt_loop_done(s.loop);
}

/* I13 BX03 SK24: a scripted scenario gives each object the same events and the same reason of its
 * end on every backend */
NKT_TEST(close_story_is_the_same_on_every_backend) {
    char first[2048] = "", text[2048];
    int told = 0;
    for (int backend = NETKIT_BACKEND_FASTEST + 1; netkit_backend_name(backend) != NULL;
         backend++) {
        netkit_loop *loop = NULL;
        netkit_loop_desc desc;
        memset(&desc, 0, sizeof(desc));
        desc.backend = backend;
        if (netkit_loop_create(&loop, &desc) != NETKIT_OK) {
            continue;
        }
        CHECK_OK(netkit_loop_destroy(loop));
        close_tell_story(backend, text, sizeof(text));
        if (told++ == 0) {
            memcpy(first, text, sizeof(first));
            CHECK(strstr(first, "0 odec 300000 NETKIT_OK ") != NULL);
            CHECK(strstr(first, "1 odc 5000 NETKIT_E_RESET ") != NULL);
            CHECK(strstr(first, "2 orc 0 NETKIT_OK ") != NULL);
            CHECK(strstr(first, "4 c 0 NETKIT_E_REFUSED ") != NULL);
            CHECK(strstr(first, "5 oc 0 NETKIT_E_TIMEOUT ") != NULL);
            CHECK(strstr(first, "6 odc 0 NETKIT_E_TOOBIG ") != NULL);
        }
        CHECK_STR(text, first);
    }
    CHECK(told > 0);
}

#if NKI_POSIX
/* Z-06: a forked child destroys the loop it inherited, with everything open and bytes waiting: the
 * parent's conns, listener and timers go on, and no peer sees an end or a reset. */
NKT_LOOP_TEST(close_in_a_forked_child) {
    netkit_loop *loop = nkt_loop();
    sup_end end, other;
    sup_peer peer = sup_open_default(loop, &end);
    int status = 0;
    char byte;
    sup_settle(loop);
    peer.to_send = 5;
    sup_peer_step(&peer);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_OK(netkit_loop_destroy(loop));
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    SUP_UNTIL(loop, end.bytes == 5); /* the child has not taken their event */
    peer.to_send = 9;
    sup_peer_step(&peer);
    SUP_UNTIL(loop, end.bytes == 9);
    CHECK(recv(peer.fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    CHECK_EQ(end.closes, 0);
    sup_peer fresh = sup_open_default(loop, &other);
    fresh.to_send = 3;
    sup_peer_step(&fresh);
    SUP_UNTIL(loop, other.bytes == 3);
    sup_peer_close(&fresh);
    sup_peer_close(&peer);
    sup_settle(loop);
    nkt_loop_done(loop);
}
#endif
