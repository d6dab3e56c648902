/* Contract C1: what on_data gets, what is kept for it, and when the end of the stream comes. */
#include "support.h"

/* C1 IO16 SK22: a rest is kept, stays silent alone, and comes again with more behind it */
NKT_LOOP_TEST(read_rest_comes_again_with_more) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    end.used_at_most = 0;
    peer.to_send = 10;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, end.datas == 1);
    CHECK_EQ(end.last_len, 10);
    sup_settle(loop);
    CHECK_EQ(end.datas, 1);
    CHECK_EQ(sup_unread(&end), 10);
    end.used_at_most = 4;
    peer.to_send = 15;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, end.datas == 2);
    CHECK_EQ(end.last_len, 15);
    CHECK_EQ(sup_unread(&end), 11);
    end.used_at_most = SIZE_MAX;
    peer.to_send = 16;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, end.datas == 3);
    CHECK_EQ(end.last_len, 12);
    CHECK_EQ(sup_unread(&end), 0);
    CHECK_EQ(end.bytes, 16);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
    CHECK_EQ(end.closes, 1);
}

/* C1 IO16: a rest comes again after resume with nothing behind it, from the loop alone */
NKT_LOOP_TEST(read_rest_comes_again_after_resume) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    end.used_at_most = 3;
    peer.to_send = 10;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, end.datas == 1);
    CHECK_OK(netkit_conn_pause(loop, end.conn));
    end.used_at_most = SIZE_MAX;
    sup_settle(loop);
    CHECK_EQ(end.datas, 1);
    CHECK_OK(netkit_conn_resume(loop, end.conn));
    CHECK_EQ(end.datas, 1);
    SUP_UNTIL(loop, end.datas == 2);
    CHECK_EQ(end.last_len, 7);
    CHECK_EQ(end.bytes, 10);
    sup_settle(loop);
    CHECK_EQ(end.datas, 2);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

enum {
    READ_ANSWER = 40000,
    READ_REQUESTS = 400
};

typedef struct read_server {
    uint64_t answered;
    int refused, drains;
} read_server;

/* Each byte asks for READ_ANSWER bytes; what cannot be answered is left unused. */
static size_t read_answer(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                          void *user) {
    static unsigned char answer[READ_ANSWER];
    read_server *server = (read_server *)user;
    size_t used = 0;
    (void)data;
    for (; used < len; used++) {
        int code;
        sup_fill(answer, sizeof(answer), server->answered);
        code = netkit_conn_send(loop, conn, answer, sizeof(answer));
        if (code == NETKIT_E_FULL) {
            server->refused++;
            return used;
        }
        CHECK_OK(code);
        server->answered += sizeof(answer);
    }
    return used;
}

static void read_count_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)conn;
    ((read_server *)user)->drains++;
}

/* C1 C2 PO15: a handler that leaves what it cannot answer needs no on_drain: the rest comes again
 * after a drain with nothing behind it */
NKT_LOOP_TEST(read_rest_comes_again_after_drain) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler;
    netkit_listen_desc desc;
    read_server server = {0, 0, 0};
    sup_peer peer;
    char requests[READ_REQUESTS] = {0};
    uint64_t all = (uint64_t)READ_ANSWER * READ_REQUESTS;
    memset(&handler, 0, sizeof(handler));
    handler.on_data = read_answer;
    handler.on_drain = read_count_drain;
    desc = sup_listen_desc(&handler, &server);
    desc.conn.duplex = true;
    peer = sup_peer_of(sup_raw_dial(sup_listen(loop, &desc, NULL), 0));
    CHECK_EQ(send(peer.fd, requests, sizeof(requests), 0), sizeof(requests));
    SUP_UNTIL(loop, server.refused > 0);
    sup_settle(loop);
    CHECK(server.answered < all);
    SUP_UNTIL_DOING(loop, peer.received == all) {
        sup_peer_step(&peer);
    }
    CHECK_EQ(server.answered, all);
    CHECK(server.drains > 0);
    CHECK_EQ(server.drains, server.refused);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C1: a rest that reaches recv_max with nothing used ends the conn with TOOBIG */
NKT_LOOP_TEST(read_rest_at_recv_max_is_toobig) {
    for (int is_default = 0; is_default < 2; is_default++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        uint64_t most = is_default ? 65536 : 1000;
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        end.used_at_most = 0;
        setup.options.recv_max = is_default ? 0 : 1000;
        peer = sup_open(loop, &end, &setup);
        peer.to_send = most - 1;
        SUP_UNTIL_DOING(loop, end.last_len == most - 1) {
            sup_peer_send(&peer);
        }
        sup_settle(loop);
        CHECK_EQ(end.closes, 0);
        CHECK_EQ(sup_unread(&end), most - 1);
        peer.to_send = most;
        sup_peer_send(&peer);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_ERR(end.info.code, NETKIT_E_TOOBIG);
        CHECK_EQ(end.info.op, NETKIT_OP_READ);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_OPEN);
        CHECK_EQ(end.eofs, 0);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* C1: recv_max bounds the rest, not the stream: many times as much passes a slow consumer */
NKT_LOOP_TEST(read_recv_max_bounds_the_rest_only) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    sup_end_init(&end);
    setup.options.recv_max = 100;
    end.used_at_most = 1;
    peer = sup_open(loop, &end, &setup);
    for (int i = 0; i < 300; i++) {
        peer.to_send += i % 3 == 0 ? 2 : 1;
        sup_peer_send(&peer);
        SUP_UNTIL(loop, end.datas == i + 1);
        if (sup_unread(&end) > 50) {
            end.used_at_most = SIZE_MAX;
        }
    }
    CHECK_EQ(end.bytes + sup_unread(&end), peer.sent);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

typedef struct read_pauser {
    sup_end end; /* first: handlers cast */
    int pauses_left;
} read_pauser;

static size_t read_then_pause(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                              void *user) {
    read_pauser *p = (read_pauser *)user;
    size_t used = sup_on_data(loop, conn, data, len, user);
    if (p->pauses_left > 0) {
        p->pauses_left--;
        CHECK_OK(netkit_conn_pause(loop, conn));
    }
    return used;
}

/* C1 I3 SK22: pause inside the callback holds data, and the end behind it, back */
NKT_LOOP_TEST(read_pause_holds_data_and_end) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    read_pauser p;
    sup_peer peer;
    memset(&p, 0, sizeof(p));
    sup_end_init(&p.end);
    p.pauses_left = 2;
    setup.handler.on_data = read_then_pause;
    peer = sup_open(loop, &p.end, &setup);
    peer.to_send = 100;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, p.end.datas == 1);
    peer.to_send = 300;
    sup_peer_send(&peer);
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    sup_settle(loop);
    CHECK_STR(p.end.trace, "od");
    CHECK_EQ(p.end.bytes, 100);
    CHECK_OK(netkit_conn_resume(loop, p.end.conn));
    SUP_UNTIL(loop, p.end.bytes == 300);
    sup_settle(loop);
    CHECK_STR(p.end.trace, "od"); /* paused again: the end waits */
    CHECK_OK(netkit_conn_resume(loop, p.end.conn));
    SUP_UNTIL(loop, p.end.eofs == 1);
    CHECK_STR(p.end.trace, "ode");
    CHECK_OK(netkit_conn_close(loop, p.end.conn));
    SUP_UNTIL(loop, p.end.closes == 1);
    CHECK_OK(p.end.info.code);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C1 PO15 IO13: a paused conn holds its peer back at the system's buffers, without memory of its
 * own; resumed, everything is there, in order */
NKT_LOOP_TEST(read_pause_holds_the_peer_back) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    int64_t live = nkt_live_bytes();
    peer.to_send = 32 << 20;
    CHECK_OK(netkit_conn_pause(loop, end.conn));
    sup_send_until_stuck(loop, &peer);
    CHECK(peer.sent < peer.to_send);
    CHECK_EQ(end.datas, 0);
    /* What the ring had received by then is kept; it is not told to receive any more. */
    CHECK(nkt_live_bytes() <= live + (nkt_backend == NETKIT_BACKEND_URING ? 4 << 20 : 4096));
    CHECK_OK(netkit_conn_resume(loop, end.conn));
    SUP_UNTIL_DOING(loop, end.bytes == peer.to_send) {
        sup_peer_send(&peer);
    }
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

typedef struct read_framer {
    sup_end end;
    size_t tail;
} read_framer;

static size_t read_whole_frames(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                void *user) {
    read_framer *framer = (read_framer *)user;
    framer->end.used_at_most = len - len % 8;
    return sup_on_data(loop, conn, data, len, user);
}

static void read_tail_at_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    read_framer *framer = (read_framer *)user;
    CHECK_OK(netkit_conn_unread(loop, conn, &framer->tail));
    sup_on_eof(loop, conn, user);
}

/* C1 C6: at on_eof the unread count shows a truncated tail, which is not offered as data */
NKT_LOOP_TEST(read_unread_counts_a_truncated_tail) {
    for (size_t extra = 0; extra < 8; extra += 3) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        read_framer framer;
        sup_peer peer;
        memset(&framer, 0, sizeof(framer));
        sup_end_init(&framer.end);
        framer.end.closes_at_eof = true;
        framer.tail = 99;
        setup.handler.on_data = read_whole_frames;
        setup.handler.on_eof = read_tail_at_eof;
        peer = sup_open(loop, &framer.end, &setup);
        peer.to_send = 40 + extra;
        sup_peer_send(&peer);
        sup_peer_close(&peer);
        SUP_UNTIL(loop, framer.end.closes == 1);
        CHECK_EQ(framer.tail, extra);
        CHECK_EQ(framer.end.bytes, 40);
        CHECK_STR(framer.end.trace, "odec");
        nkt_loop_done(loop);
    }
}

/* ---- keeping ----------------------------------------------------------------- */

enum {
    READ_KEPT_MAX = 4096
};

typedef struct read_keeper {
    sup_end end;
    netkit_buf kept[READ_KEPT_MAX];
    uint64_t at[READ_KEPT_MAX];
    int count, taken, refused, is_over;
    size_t kept_bytes;
    pthread_mutex_t lock;
} read_keeper;

static size_t read_keep(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                        void *user) {
    read_keeper *k = (read_keeper *)user;
    netkit_buf buf;
    uint64_t at = k->end.bytes;
    int code = netkit_conn_keep(loop, conn, &buf);
    sup_on_data(loop, conn, data, len, user);
    if (code == NETKIT_E_FULL) {
        k->refused++;
        return len;
    }
    CHECK_OK(code);
    CHECK_EQ(buf.len, len);
    sup_check_bytes(buf.data, buf.len, at);
    pthread_mutex_lock(&k->lock);
    if (k->count < READ_KEPT_MAX) {
        k->at[k->count] = at;
        k->kept[k->count] = buf;
        k->kept_bytes += len;
        k->count++;
    } else {
        netkit_buf_release(&buf);
        CHECK(buf.data == NULL && buf.len == 0 && buf.owner == NULL);
    }
    pthread_mutex_unlock(&k->lock);
    return len;
}

static read_keeper *read_keeper_new(void) {
    read_keeper *k = (read_keeper *)calloc(1, sizeof(*k));
    sup_end_init(&k->end);
    CHECK_EQ(pthread_mutex_init(&k->lock, NULL), 0);
    return k;
}

static void read_keeper_free(read_keeper *k) {
    pthread_mutex_destroy(&k->lock);
    free(k);
}

/* On a thread of its own: checks what was kept, gives it back, until all has come. */
static void *read_release_thread(void *arg) {
    read_keeper *k = (read_keeper *)arg;
    bool is_over = false;
    while (!is_over) {
        netkit_buf buf;
        uint64_t at = 0;
        buf.data = NULL;
        pthread_mutex_lock(&k->lock);
        if (k->taken < k->count) {
            buf = k->kept[k->taken];
            at = k->at[k->taken++];
        } else {
            is_over = k->is_over;
        }
        pthread_mutex_unlock(&k->lock);
        if (buf.data != NULL) {
            sup_check_bytes(buf.data, buf.len, at);
            netkit_buf_release(&buf);
        } else {
            nkt_sleep_ms(1);
        }
    }
    return NULL;
}

/* C1 IO04: kept spans outlive the callback unchanged and are given back by another thread */
NKT_LOOP_TEST(read_keep_is_released_by_another_thread) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    read_keeper *k = read_keeper_new();
    pthread_t thread;
    sup_peer peer;
    setup.handler.on_data = read_keep;
    peer = sup_open(loop, &k->end, &setup);
    CHECK_EQ(pthread_create(&thread, NULL, read_release_thread, k), 0);
    peer.to_send = nkt_scale(64 << 20, 8 << 20);
    SUP_UNTIL_DOING(loop, k->end.bytes == peer.to_send) {
        sup_peer_send(&peer);
    }
    CHECK(k->count > 0);
    pthread_mutex_lock(&k->lock);
    k->is_over = 1;
    pthread_mutex_unlock(&k->lock);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(k->taken, k->count);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
    read_keeper_free(k);
}

/* C1 SD38: kept bytes are bounded by keep_max: then FULL, while the conn goes on; giving one back
 * makes room */
NKT_LOOP_TEST(read_keep_is_bounded) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    sup_setup setup = sup_setup_default();
    read_keeper *k = read_keeper_new();
    int64_t live;
    int at_full;
    sup_peer peer;
    memset(&desc, 0, sizeof(desc));
    desc.keep_max = 256 << 10;
    loop = nkt_loop_with(&desc);
    setup.handler.on_data = read_keep;
    peer = sup_open(loop, &k->end, &setup);
    live = nkt_live_bytes();
    peer.to_send = 4 << 20;
    SUP_UNTIL_DOING(loop, k->end.bytes == peer.to_send) {
        sup_peer_send(&peer);
    }
    at_full = k->count;
    CHECK(at_full > 0);
    CHECK(k->refused > 0);
    CHECK(k->kept_bytes <= 256 << 10);
    /* What a span lies in may be larger than the span, but not without bound. */
    CHECK(nkt_live_bytes() - live <= (256 << 10) + (128 << 10));
    for (int i = 0; i < at_full; i++) {
        sup_check_bytes(k->kept[i].data, k->kept[i].len, k->at[i]);
        netkit_buf_release(&k->kept[i]);
        CHECK(k->kept[i].data == NULL && k->kept[i].owner == NULL);
    }
    peer.to_send += 100;
    SUP_UNTIL_DOING(loop, k->end.bytes == peer.to_send) {
        sup_peer_send(&peer);
    }
    CHECK(k->count > at_full);
    sup_peer_close(&peer);
    for (int i = at_full; i < k->count; i++) {
        netkit_buf_release(&k->kept[i]);
    }
    nkt_loop_done(loop);
    read_keeper_free(k);
}

/* C1: keeping is for on_data alone; what is kept may be given back after the loop is gone */
NKT_LOOP_TEST(read_keep_outlives_the_loop) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    read_keeper *k = read_keeper_new();
    netkit_buf buf;
    netkit_conn conn;
    sup_peer peer;
    setup.handler.on_data = read_keep;
    peer = sup_open(loop, &k->end, &setup);
    CHECK_ERR(netkit_conn_keep(loop, k->end.conn, &buf), NETKIT_E_BUSY);
    peer.to_send = 5000;
    SUP_UNTIL_DOING(loop, k->end.bytes == peer.to_send) {
        sup_peer_send(&peer);
    }
    CHECK_ERR(netkit_conn_keep(loop, k->end.conn, &buf), NETKIT_E_BUSY);
    conn = k->end.conn;
    CHECK_OK(netkit_conn_abort(loop, conn));
    SUP_UNTIL(loop, k->end.closes == 1);
    CHECK_ERR(netkit_conn_keep(loop, conn, &buf), NETKIT_E_STALE);
    CHECK_OK(netkit_loop_destroy(loop));
    nkt_loops--;
    CHECK(k->count > 0);
    for (int i = 0; i < k->count; i++) {
        sup_check_bytes(k->kept[i].data, k->kept[i].len, k->at[i]);
        netkit_buf_release(&k->kept[i]);
    }
    CHECK_EQ(nkt_live_bytes(), 0);
    sup_peer_close(&peer);
    read_keeper_free(k);
}

/* ---- ends ---------------------------------------------------------------------- */

/* T-05 SD24 I3 SK22: a peer that sends 1 MiB and closes at once: all bytes, then the end, once */
NKT_LOOP_TEST(read_all_comes_before_the_end) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    end.closes_at_eof = true;
    CHECK_OK(netkit_conn_pause(loop, end.conn));
    peer.to_send = 1 << 20;
    sup_peer_send(&peer);
    CHECK(peer.sent > 100000); /* on most systems the buffers take it whole */
    sup_peer_close(&peer);
    sup_settle(loop);
    CHECK_STR(end.trace, "o");
    CHECK_OK(netkit_conn_resume(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(end.bytes, peer.sent);
    CHECK_STR(end.trace, "odec");
    CHECK_OK(end.info.code);
    nkt_loop_done(loop);
}

/* C6 IO01: no on_data: bytes are discarded; no on_eof: the conn closes gracefully */
NKT_LOOP_TEST(read_defaults_discard_and_close) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    sup_end_init(&end);
    setup.handler.on_data = NULL;
    setup.handler.on_eof = NULL;
    peer = sup_open(loop, &end, &setup);
    peer.to_send = 5 << 20;
    SUP_UNTIL_DOING(loop, peer.sent == peer.to_send) {
        sup_peer_send(&peer);
    }
    sup_settle(loop);
    CHECK_EQ(sup_unread(&end), 0);
    CHECK_EQ(end.closes, 0);
    CHECK_OK(netkit_conn_send(loop, end.conn, "", 0));
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    SUP_UNTIL_DOING(loop, end.closes == 1 && peer.end != 0) {
        sup_peer_step(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_OK(end.info.code);
    CHECK_STR(end.trace, "oc");
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* T-12 T-17 SK24 IO01: a reset while idle is told once, as RESET */
NKT_LOOP_TEST(read_reset_while_idle) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    netkit_conn conn = end.conn;
    sup_raw_reset(peer.fd);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_ERR(end.info.code, NETKIT_E_RESET);
    CHECK_EQ(end.info.os_code, ECONNRESET);
    CHECK_EQ(end.info.op, NETKIT_OP_READ);
    CHECK_EQ(end.info.phase, NETKIT_PHASE_OPEN);
    CHECK_STR(end.trace, "oc");
    sup_settle(loop);
    CHECK_ERR(netkit_conn_send(loop, conn, "x", 1), NETKIT_E_STALE);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    nkt_loop_done(loop);
}

/* T-12: reset behind data that was not read: the data first, then one RESET, nothing after it */
NKT_LOOP_TEST(read_reset_comes_behind_data) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    CHECK_OK(netkit_conn_pause(loop, end.conn));
    peer.to_send = 1000;
    sup_peer_send(&peer);
    sup_settle(loop);
    sup_raw_reset(peer.fd);
    sup_settle(loop);
    CHECK_STR(end.trace, "o");
    CHECK_OK(netkit_conn_resume(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_ERR(end.info.code, NETKIT_E_RESET);
    CHECK_EQ(end.bytes, 1000);
    CHECK_STR(end.trace, "odc");
    nkt_loop_done(loop);
}

/* T-17 PO15: reading paused while the peer ends or resets: no spinning, then the truth */
NKT_LOOP_TEST(read_paused_on_a_dead_peer_does_not_spin) {
    for (int is_reset = 0; is_reset < 2; is_reset++) {
        netkit_loop *loop = nkt_loop();
        sup_end end;
        sup_peer peer = sup_open_default(loop, &end);
        uint64_t ms = nkt_scale(3000, 400), turns, began;
        CHECK_OK(netkit_conn_pause(loop, end.conn));
        sup_settle(loop);
        if (is_reset) {
            sup_raw_reset(peer.fd);
        } else {
            sup_peer_close(&peer);
        }
        turns = netkit_loop_turns(loop);
        began = nkt_now_ns();
        while (nkt_now_ns() - began < ms * 1000000 && end.closes == 0) {
            CHECK_OK(netkit_loop_run_once(loop, 100));
        }
        CHECK(netkit_loop_turns(loop) - turns < 10 + ms / 20);
        if (end.closes == 0) {
            CHECK_OK(netkit_conn_resume(loop, end.conn));
        }
        if (!is_reset) {
            SUP_UNTIL(loop, end.eofs == 1);
            CHECK_OK(netkit_conn_close(loop, end.conn));
        }
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_ERR(end.info.code, is_reset ? NETKIT_E_RESET : NETKIT_OK);
        nkt_loop_done(loop);
    }
}

/* Turns of a loop in so many milliseconds, fewer when the conn is told of its end. */
static uint64_t read_turns_for_ms(netkit_loop *loop, const sup_end *end, uint64_t ms) {
    uint64_t turns = netkit_loop_turns(loop), began = nkt_now_ns();
    while (nkt_now_ns() - began < ms * 1000000 && end->closes == 0) {
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
    return netkit_loop_turns(loop) - turns;
}

/* T-12 T-17 C6 I3: a peer ends, and then resets while we are half open, idle: the end is told, and
 * the reset at once and not by the next send, also when both came together, and to who pauses when
 * it goes on; nothing spins meanwhile. After small reads and large ones. */
NKT_LOOP_TEST(read_reset_behind_the_end) {
    for (int round = 0; round < 8; round++) {
        netkit_loop *loop = nkt_loop();
        int way = round % 4;
        bool is_large = round >= 4; /* on the ring by a poll that goes on, see UR09 */
        sup_end end;
        sup_peer peer = sup_open_default(loop, &end);
        for (int i = 0; i < (is_large ? 3 : 1); i++) {
            peer.to_send += is_large ? 20000 : 1000;
            sup_peer_send(&peer);
            CHECK_EQ(peer.sent, peer.to_send);
            SUP_UNTIL(loop, end.bytes == peer.sent);
        }
        sup_settle(loop);
        if (way == 2) {
            CHECK_OK(netkit_conn_pause(loop, end.conn));
        }
        CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
        if (way == 0 || way == 3) {
            SUP_UNTIL(loop, end.eofs == 1);
        }
        if (way == 3) {
            CHECK_OK(netkit_conn_pause(loop, end.conn));
        }
        CHECK(way == 1 || read_turns_for_ms(loop, &end, 200) < 20);
        sup_raw_reset(peer.fd);
        CHECK(read_turns_for_ms(loop, &end, way == 2 ? 400 : 5000) < 40);
        if (way == 2) {
            CHECK_EQ(end.eofs + end.closes, 0);
            CHECK_OK(netkit_conn_resume(loop, end.conn));
        }
        SUP_UNTIL(loop, end.closes == 1);
        bool was_at_once = way == 1 || way == 2;
        if (was_at_once && (!NKI_LINUX || strcmp(netkit_loop_backend(loop, NULL), "kqueue") == 0)) {
            CHECK(strcmp(end.trace, "odc") == 0 || strcmp(end.trace, "odec") == 0);
        } else { /* other systems have recv(2) say the reset first */
            CHECK_STR(end.trace, "odec");
        }
        CHECK_ERR(end.info.code, NETKIT_E_RESET);
        CHECK_EQ(end.info.op, NETKIT_OP_READ);
        CHECK_EQ(end.info.phase, NETKIT_PHASE_OPEN);
        CHECK(end.info.os_code == EPIPE || end.info.os_code == ECONNRESET);
        nkt_loop_done(loop);
    }
}

/* T-17 C6 UR09: bytes, and behind them a reset, that were there before the loop looked */
NKT_LOOP_TEST(read_reset_from_the_start) {
    for (int i = 0; i < 4; i++) {
        static const size_t sizes[] = {1, 100, 8192, 20000};
        netkit_loop *loop = nkt_loop();
        netkit_adopt_desc desc;
        sup_end end;
        uint16_t port;
        int listener = sup_raw_listen(&port, 1);
        sup_peer peer = sup_peer_of(sup_raw_dial(port, 0));
        int fd = accept(listener, NULL, NULL);
        CHECK(fd >= 0);
        CHECK_EQ(close(listener), 0);
        peer.to_send = sizes[i];
        sup_peer_send(&peer);
        CHECK_EQ(peer.sent, peer.to_send);
        sup_end_init(&end);
        memset(&desc, 0, sizeof(desc));
        desc.socket = netkit_socket_from_native((uintptr_t)fd);
        desc.handler = sup_handler();
        desc.user = &end;
        CHECK_OK(netkit_adopt(loop, &desc, &end.conn)); /* refuses one that was reset */
        CHECK(sup_raw_wait(fd, POLLIN));
        sup_raw_reset(peer.fd);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_ERR(end.info.code, NETKIT_E_RESET);
        CHECK(end.bytes == sizes[i] || end.bytes == 0); /* some systems drop what was not read */
        nkt_loop_done(loop);
    }
}

/* T-12 I4: both sides have ended, and what we sent last is reset by a peer that did not read it */
NKT_LOOP_TEST(read_ended_on_both_sides_does_not_spin) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    CHECK_OK(netkit_conn_shutdown(loop, end.conn));
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    SUP_UNTIL(loop, end.eofs == 1);
    CHECK(read_turns_for_ms(loop, &end, 300) < 30);
    CHECK_STR(end.trace, "oe");
    CHECK_OK(netkit_conn_close(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_OK(end.info.code);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

typedef struct read_text {
    sup_end end;
    char text[64];
    size_t len;
} read_text;

static size_t read_collect(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                           void *user) {
    read_text *t = (read_text *)user;
    CHECK(t->len + len < sizeof(t->text));
    memcpy(t->text + t->len, data, len);
    t->len += len;
    return sup_on_data(loop, conn, data, len, user);
}

/* T-22: an urgent byte neither stalls the stream nor doubles anything, before and after it */
NKT_LOOP_TEST(read_urgent_data_does_not_stall) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    read_text t;
    sup_peer peer;
    memset(&t, 0, sizeof(t));
    sup_end_init(&t.end);
    t.end.is_text = true;
    setup.handler.on_data = read_collect;
    peer = sup_open(loop, &t.end, &setup);
    sup_say(peer.fd, "abc");
    CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
    sup_say(peer.fd, "def");
    SUP_UNTIL(loop, t.len >= 6);
    CHECK_EQ(send(peer.fd, "?", 1, MSG_OOB), 1);
    sup_settle(loop);
    sup_say(peer.fd, "ghi");
    SUP_UNTIL(loop, t.len >= 9);
    sup_settle(loop);
    CHECK_STR(t.text, "abcdefghi");
    sup_peer_close(&peer);
    SUP_UNTIL(loop, t.end.eofs == 1);
    nkt_loop_done(loop);
}

/* T-22: a receive that is put off before an urgent byte, as Linux does while a signal is
 * pending, is made again without anything new from the peer. */
NKT_LOOP_TEST(read_urgent_data_behind_a_signal) {
    netkit_loop *loop = nkt_loop();
    if (!NKI_LINUX || strcmp(netkit_loop_backend(loop, NULL), "kqueue") == 0) {
        nkt_loop_done(loop);
        SKIP("signals do not put receives off here");
    }
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    for (int turns = 0; turns < 4; turns++) {
        CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
        peer.to_send += 100;
        sup_peer_send(&peer);
        CHECK_EQ(peer.sent, peer.to_send);
        nkt_fault_at("recv", 1, EAGAIN, true);
        for (int i = 0; i < turns; i++) {
            CHECK_OK(netkit_loop_run_once(loop, 1));
        }
        nkt_fault_clear();
        SUP_UNTIL(loop, end.bytes == peer.sent);
    }
    CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1); /* with nothing behind it, it is not looked for */
    nkt_fault_at("recv", 1, EAGAIN, true);
    uintptr_t native = UINTPTR_MAX;
    CHECK_OK(netkit_conn_native(loop, end.conn, &native));
    bool is_quiet = false; /* what is late on a slow machine may end a wait, but not each */
    for (int i = 0; i < 10 && !is_quiet; i++) {
        uint64_t began = nkt_now_ns();
        CHECK_OK(netkit_loop_run_once(loop, 30));
        /* Short of memory for TCP, the kernel calls even that byte alone readable. */
        is_quiet = nkt_now_ns() - began >= 20 * (uint64_t)NKI_NS_PER_MS ||
                   nki_os_wait(native, NETKIT_POLL_READ, 0) > 0;
    }
    CHECK(is_quiet);
    nkt_fault_clear();
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs == 1);
    nkt_loop_done(loop);
}

/* T-22: an urgent byte in the middle of what waits in the system, again and again: nothing of the
 * stream is missing. (An urgent byte that a second one overtakes becomes ordinary: tcp(7).) */
NKT_LOOP_TEST(read_urgent_data_within_much_data) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    end.closes_at_eof = true;
    for (int i = 0; i < 10; i++) {
        CHECK_OK(netkit_conn_pause(loop, end.conn));
        peer.to_send += 100000;
        sup_peer_send(&peer);
        CHECK_EQ(peer.sent, peer.to_send);
        CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
        peer.to_send += 1000;
        sup_peer_send(&peer);
        CHECK_EQ(peer.sent, peer.to_send);
        CHECK_OK(netkit_conn_resume(loop, end.conn));
        SUP_UNTIL(loop, end.bytes == peer.sent);
    }
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(end.bytes, 1010000);
    CHECK_STR(end.trace, "odec");
    nkt_loop_done(loop);
}
