/* Contracts C2 and C4: what send takes, when it goes out, and what becomes of memory that is lent. */
#include "support.h"

static uint64_t write_calls(void) {
    return nkt_calls("send") + nkt_calls("sendmsg");
}

/* Queue `len` bytes of the stream, from *at on. */
static int write_send(sup_end *end, size_t len, uint64_t *at) {
    static unsigned char data[1 << 20];
    int code;
    CHECK(len <= sizeof(data));
    sup_fill(data, len, *at);
    code = netkit_conn_send(end->loop, end->conn, data, len);
    if (code == NETKIT_OK) {
        *at += len;
    }
    return code;
}

typedef struct write_drainer {
    sup_end end;
    uint64_t at;
    size_t wanted; /* sent in on_drain, must fit */
} write_drainer;

static void write_on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    write_drainer *d = (write_drainer *)user;
    sup_on_drain(loop, conn, user);
    if (d->wanted != 0) {
        CHECK_OK(write_send(&d->end, d->wanted, &d->at));
        d->wanted = 0;
    }
}

/* C2 C4 IO03 IO17: all or nothing; FULL takes nothing and brings one on_drain, in which the
 * refused size fits; TOOBIG can never fit and brings none */
NKT_LOOP_TEST(write_takes_all_or_nothing) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_drainer d;
    sup_peer peer;
    memset(&d, 0, sizeof(d));
    sup_end_init(&d.end);
    setup.options.send_max = 1000;
    setup.handler.on_drain = write_on_drain;
    peer = sup_open(loop, &d.end, &setup);
    CHECK_OK(write_send(&d.end, 600, &d.at));
    CHECK_EQ(sup_queued(&d.end), 600);
    CHECK_ERR(write_send(&d.end, 401, &d.at), NETKIT_E_FULL);
    CHECK_EQ(sup_queued(&d.end), 600);
    CHECK_OK(write_send(&d.end, 400, &d.at));
    CHECK_OK(write_send(&d.end, 0, &d.at));
    CHECK_EQ(sup_queued(&d.end), 1000);
    CHECK_ERR(write_send(&d.end, 1001, &d.at), NETKIT_E_TOOBIG);
    CHECK_ERR(write_send(&d.end, 1000, &d.at), NETKIT_E_FULL);
    CHECK_EQ(d.end.drains, 0);
    d.wanted = 1000;
    SUP_UNTIL(loop, d.end.drains == 1);
    SUP_UNTIL_DOING(loop, peer.received == 2000) {
        sup_peer_recv(&peer);
    }
    CHECK_ERR(write_send(&d.end, 1001, &d.at), NETKIT_E_TOOBIG);
    sup_settle(loop);
    CHECK_EQ(d.end.drains, 1);
    CHECK_EQ(d.at, 2000);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C2 T-18 T-03: against a reader that does not read the queue stops at send_max, memory too; no
 * on_drain before room has come, then one */
NKT_LOOP_TEST(write_is_capped_and_drains_once) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_drainer d;
    sup_peer peer;
    int64_t live;
    uint64_t rss;
    int code = NETKIT_OK;
    memset(&d, 0, sizeof(d));
    sup_end_init(&d.end);
    setup.handler.on_drain = write_on_drain;
    peer = sup_open(loop, &d.end, &setup);
    live = nkt_live_bytes();
    rss = nkt_rss_bytes();
    for (int quiet = 0; quiet < 20; quiet = code == NETKIT_OK ? 0 : quiet + 1) {
        do {
            code = write_send(&d.end, 5000, &d.at);
        } while (code == NETKIT_OK);
        CHECK_ERR(code, NETKIT_E_FULL);
        d.end.drains = 0;
        sup_turn(loop);
        code = d.end.drains > 0 ? NETKIT_OK : NETKIT_E_FULL;
    }
    while (write_send(&d.end, 5000, &d.at) == NETKIT_OK) { /* room that came in the last turn */
    }
    CHECK(sup_queued(&d.end) <= 262144);
    CHECK(sup_queued(&d.end) > 262144 - 5000);
    CHECK(nkt_live_bytes() - live <= 262144 + (128 << 10));
    CHECK(nkt_slowness > 1 || nkt_rss_bytes() - rss < 262144 + (1 << 20) + (1 << 20));
    CHECK_EQ(d.end.drains, 0);
    d.wanted = 5000;
    SUP_UNTIL_DOING(loop, peer.received == d.at && d.end.drains > 0) {
        sup_peer_recv(&peer);
    }
    sup_settle(loop);
    CHECK_EQ(d.end.drains, 1);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* Fill the queue, and the system behind it, against a peer that does not read. */
static void write_fill(write_drainer *d, size_t each) {
    netkit_loop *loop = d->end.loop;
    for (int quiet = 0; quiet < 20; quiet++) {
        while (write_send(&d->end, each, &d->at) == NETKIT_OK) {
            quiet = 0;
        }
        sup_turn(loop);
    }
    d->end.drains = 0;
    while (write_send(&d->end, each, &d->at) == NETKIT_OK) { /* the last turn may have moved some */
    }
}

/* C2 IO17: with a slow reader on_drain waits until the very size that was refused fits */
NKT_LOOP_TEST(write_drains_when_the_refused_size_fits) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_drainer d;
    sup_peer peer;
    uintptr_t native = 0;
    int partial = 0, sndbuf = 16384;
    memset(&d, 0, sizeof(d));
    sup_end_init(&d.end);
    setup.handler.on_drain = write_on_drain;
    setup.rcvbuf = 16384;
    peer = sup_open(loop, &d.end, &setup);
    CHECK_OK(netkit_conn_native(loop, d.end.conn, &native));
    CHECK_EQ(setsockopt((int)native, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf)), 0);
    write_fill(&d, 1000);
    CHECK_ERR(write_send(&d.end, 250000, &d.at), NETKIT_E_FULL);
    d.wanted = 250000;
    SUP_UNTIL_DOING(loop, d.end.drains > 0) {
        unsigned char data[20000];
        ssize_t got = recv(peer.fd, data, sizeof(data), 0);
        partial += sup_queued(&d.end) > 20000 && sup_queued(&d.end) < 240000;
        if (got > 0) {
            sup_check_bytes(data, (size_t)got, peer.received);
            peer.received += (uint64_t)got;
        }
    }
    CHECK(partial > 0); /* room came bit by bit */
    SUP_UNTIL_DOING(loop, peer.received == d.at) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(d.end.drains, 1);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C3: while the queue could not take one more full span there is no on_data, be it for ten bytes;
 * when it can, they come; a duplex conn gets them at once */
NKT_LOOP_TEST(write_queue_holds_reading_back) {
    for (int is_duplex = 0; is_duplex < 2; is_duplex++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        write_drainer d;
        sup_peer peer;
        memset(&d, 0, sizeof(d));
        sup_end_init(&d.end);
        setup.options.duplex = is_duplex != 0;
        peer = sup_open(loop, &d.end, &setup);
        write_fill(&d, 60000);
        CHECK(sup_queued(&d.end) > 262144 - 65536);
        peer.to_send = 10;
        sup_peer_send(&peer);
        sup_settle(loop);
        if (is_duplex || sup_queued(&d.end) > 262144 - 65536) {
            CHECK_EQ(d.end.datas, is_duplex);
        } /* else the system has taken more meanwhile, as it may: then there is room */
        SUP_UNTIL_DOING(loop, peer.received == d.at) {
            sup_peer_recv(&peer);
        }
        SUP_UNTIL(loop, d.end.datas == 1);
        CHECK_EQ(d.end.bytes, 10);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* C2 IO06 IO07: the spans of an array are one: all or nothing, in order, in one system call */
NKT_LOOP_TEST(write_sendv_is_one) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    unsigned char data[1200];
    netkit_span spans[4];
    sup_end_init(&end);
    setup.options.send_max = 1000;
    peer = sup_open(loop, &end, &setup);
    sup_fill(data, sizeof(data), 0);
    memset(spans, 0, sizeof(spans));
    spans[0].data = data;
    spans[0].len = 100;
    spans[2].data = data + 100;
    spans[2].len = 500;
    nkt_calls_reset();
    CHECK_OK(netkit_conn_sendv(loop, end.conn, spans, 4));
    CHECK_OK(netkit_conn_sendv(loop, end.conn, spans, 0));
    CHECK_OK(netkit_conn_sendv(loop, end.conn, NULL, 0));
    CHECK_EQ(sup_queued(&end), 600);
    spans[1].data = data + 600;
    spans[1].len = 401;
    CHECK_ERR(netkit_conn_sendv(loop, end.conn, spans + 1, 1), NETKIT_E_FULL);
    spans[2].len = 600;
    CHECK_ERR(netkit_conn_sendv(loop, end.conn, spans, 3), NETKIT_E_TOOBIG);
    spans[2].len = SIZE_MAX - 100;
    CHECK(netkit_conn_sendv(loop, end.conn, spans, 3) < 0);
    CHECK_EQ(sup_queued(&end), 600);
    CHECK_EQ(write_calls(), 0);
    sup_turn(loop);
    CHECK_EQ(write_calls(), 1);
    SUP_UNTIL_DOING(loop, peer.received == 600) {
        sup_peer_recv(&peer);
    }
    sup_settle(loop);
    CHECK_EQ(end.drains, 1);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* ---- lending ------------------------------------------------------------------ */

enum {
    WRITE_LOANS = 2048
};

typedef struct write_lender {
    sup_end end; /* first */
    int released;
    int status[WRITE_LOANS];
    bool is_in_call;
    int closes_at_last_release;
} write_lender;

typedef struct write_loan {
    write_lender *lender;
    int number;
} write_loan;

static write_loan write_loans[WRITE_LOANS];

static void write_on_release(netkit_loop *loop, int status, void *user) {
    write_loan *loan = (write_loan *)user;
    write_lender *lender = loan->lender;
    (void)loop;
    CHECK(!lender->is_in_call);
    CHECK_EQ(loan->number, lender->released); /* in order, each once */
    lender->status[lender->released++] = status;
    lender->closes_at_last_release = lender->end.closes;
}

static int write_lend(write_lender *lender, int number, const void *data, size_t len) {
    int code;
    write_loans[number].lender = lender;
    write_loans[number].number = number;
    lender->is_in_call = true;
    code = netkit_conn_send_borrowed(lender->end.loop, lender->end.conn, data, len,
                                     write_on_release, &write_loans[number]);
    lender->is_in_call = false;
    return code;
}

static write_lender *write_lender_new(void) {
    write_lender *lender = (write_lender *)calloc(1, sizeof(*lender));
    sup_end_init(&lender->end);
    return lender;
}

/* C2 IO04 IO18: lent and copied bytes go out in the order of the calls; each loan is released
 * once, with OK, in order, from the loop; lent bytes do not count against send_max */
NKT_LOOP_TEST(write_borrowed_keeps_its_place) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_lender *lender = write_lender_new();
    unsigned char *data = (unsigned char *)malloc(3000000);
    uint64_t at = 0;
    int loans = 0;
    sup_peer peer;
    sup_fill(data, 3000000, 0);
    setup.options.send_max = 20000;
    peer = sup_open(loop, &lender->end, &setup);
    for (; loans < 20; loans++) {
        size_t len = (size_t)(loans * loans * 317 % 140000) + 1;
        CHECK_OK(netkit_conn_send(loop, lender->end.conn, data + at, 1000));
        at += 1000;
        CHECK_OK(write_lend(lender, loans, data + at, len));
        at += len;
    }
    CHECK_ERR(netkit_conn_send(loop, lender->end.conn, data, 20001), NETKIT_E_TOOBIG);
    SUP_UNTIL_DOING(loop, peer.received == at && lender->released == loans) {
        sup_peer_recv(&peer);
    }
    for (int i = 0; i < loans; i++) {
        CHECK_OK(lender->status[i]);
    }
    sup_peer_close(&peer);
    nkt_loop_done(loop);
    free(data);
    free(lender);
}

/* C2: the number of loans is bounded by chunks_max: FULL, then one on_drain; a refused loan is
 * never released */
NKT_LOOP_TEST(write_borrowed_is_bounded) {
    for (int is_default = 0; is_default < 2; is_default++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        write_lender *lender = write_lender_new();
        int most = is_default ? 1024 : 4;
        unsigned char data[1024];
        sup_peer peer;
        sup_fill(data, sizeof(data), 0);
        setup.options.chunks_max = is_default ? 0 : 4;
        peer = sup_open(loop, &lender->end, &setup);
        for (int i = 0; i < most; i++) {
            CHECK_OK(write_lend(lender, i, data + i % 1024, 1));
        }
        CHECK_ERR(write_lend(lender, most, data, 1), NETKIT_E_FULL);
        CHECK_EQ(lender->end.drains, 0);
        SUP_UNTIL_DOING(loop, peer.received == (uint64_t)most && lender->end.drains == 1) {
            sup_peer_recv(&peer);
        }
        sup_settle(loop);
        CHECK_EQ(lender->released, most);
        CHECK_EQ(lender->end.drains, 1);
        CHECK_OK(write_lend(lender, most, data + most % 1024, 1));
        SUP_UNTIL(loop, lender->released == most + 1);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
        free(lender);
    }
}

/* What ends a conn that has loans out. */
enum {
    WRITE_BY_ABORT,
    WRITE_BY_RESET,
    WRITE_BY_DESTROY,
    WRITE_BY_DEADLINE,
    WRITE_WAYS
};

/* C2 C5 I1 I4 I9 T-12 SK18: whatever ends the conn, loans come back once, in order, before
 * on_close, with the reason; what did not leave is counted */
NKT_LOOP_TEST(write_borrowed_comes_back_when_the_conn_ends) {
    for (int way = 0; way < WRITE_WAYS; way++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        write_lender *lender = write_lender_new();
        size_t each = 1 << 20, queued, ended, gone = 0;
        unsigned char *data = (unsigned char *)malloc(each);
        sup_peer peer;
        memset(data, 7, each);
        peer = sup_open(loop, &lender->end, &setup);
        for (int i = 0; i < 16; i++) {
            CHECK_OK(write_lend(lender, i, data, each));
        }
        CHECK_OK(netkit_conn_send(loop, lender->end.conn, data, 1000));
        sup_turn_for_ms(loop, 50);
        CHECK(lender->released < 16);
        queued = sup_queued(&lender->end);
        ended = (size_t)lender->released;
        if (way == WRITE_BY_ABORT) {
            lender->is_in_call = true;
            CHECK_OK(netkit_conn_abort(loop, lender->end.conn));
            lender->is_in_call = false;
        } else if (way == WRITE_BY_RESET) {
            sup_raw_reset(peer.fd);
        } else if (way == WRITE_BY_DEADLINE) {
            CHECK_OK(netkit_conn_set_deadline(loop, lender->end.conn, 20));
        }
        if (way == WRITE_BY_DESTROY) {
            nkt_loop_done(loop);
        } else {
            SUP_UNTIL(loop, lender->end.closes == 1);
        }
        CHECK_EQ(lender->released, 16);
        CHECK_EQ(lender->closes_at_last_release, 0);
        CHECK_EQ(lender->end.closes, 1);
        CHECK(lender->status[15] < 0);
        while (lender->status[gone] == NETKIT_OK) {
            gone++;
        }
        for (size_t i = gone; i < 16; i++) {
            CHECK(lender->status[i] < 0);
        }
        CHECK(gone >= ended); /* the system may have taken more meanwhile */
        if (way != WRITE_BY_RESET) {
            uint64_t unsent = lender->end.info.unsent;
            CHECK(unsent <= queued && unsent > (15 - gone) * each + 1000);
            CHECK(unsent <= (16 - gone) * each + 1000);
        }
        CHECK_ERR(lender->status[15], lender->end.info.code);
        if (way == WRITE_BY_RESET) {
            CHECK_ERR(lender->end.info.code, NETKIT_E_RESET);
        } else if (way == WRITE_BY_DEADLINE) {
            CHECK_ERR(lender->end.info.code, NETKIT_E_TIMEOUT);
        } else {
            CHECK_EQ(lender->end.info.op, NETKIT_OP_CLOSE);
        }
        if (way != WRITE_BY_DESTROY) {
            CHECK(write_lend(lender, 16, data, 1) == NETKIT_E_STALE);
            nkt_loop_done(loop);
        }
        CHECK_EQ(lender->released, 16);
        if (way != WRITE_BY_RESET) {
            sup_peer_close(&peer);
        }
        free(data);
        free(lender);
    }
}

/* ---- flushing ------------------------------------------------------------------- */

typedef struct write_flusher {
    sup_end end;
    sup_end *other; /* sends go here, NULL = to itself */
    int sends;
    size_t each;
    uint64_t at;
    uint64_t calls_in;   /* system calls made inside the callback */
    size_t queued_after; /* its sends */
    bool flushes;
} write_flusher;

static void write_many(write_flusher *f) {
    sup_end *to = f->other != NULL ? f->other : &f->end;
    nkt_calls_reset();
    for (int i = 0; i < f->sends; i++) {
        CHECK_OK(write_send(to, f->each, &f->at));
    }
    if (f->flushes) {
        CHECK_OK(netkit_conn_flush(to->loop, to->conn));
    }
    f->calls_in = write_calls();
    f->queued_after = sup_queued(to);
}

static size_t write_many_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    size_t used = sup_on_data(loop, conn, data, len, user);
    write_many((write_flusher *)user);
    return used;
}

static void write_many_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_open(loop, conn, user);
    write_many((write_flusher *)user);
}

static void write_many_on_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    write_many((write_flusher *)user);
}

static void write_flusher_init(write_flusher *f, int sends, size_t each) {
    memset(f, 0, sizeof(*f));
    sup_end_init(&f->end);
    f->sends = sends;
    f->each = each;
}

/* C4 IO08: sixteen sends in a callback are one system call, made when it has returned: in on_data,
 * in on_open, for another conn and from a timer */
NKT_LOOP_TEST(write_sixteen_sends_are_one_call) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_flusher f, g;
    sup_end other;
    sup_peer peer, to, opened;
    write_flusher_init(&f, 16, 64);
    setup.handler.on_data = write_many_on_data;
    peer = sup_open(loop, &f.end, &setup);
    to = sup_open_default(loop, &other);
    peer.to_send = 1;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, f.end.datas == 1);
    CHECK_EQ(f.calls_in, 0);
    CHECK_EQ(f.queued_after, 1024);
    CHECK_EQ(write_calls(), 1);
    f.other = &other;
    f.at = 0;
    peer.to_send = 2;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, f.end.datas == 2);
    CHECK_EQ(f.calls_in, 0);
    CHECK_EQ(write_calls(), 1);
    f.at = 1024;
    CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, write_many_on_timer, &f));
    f.queued_after = 0;
    SUP_UNTIL(loop, f.queued_after != 0);
    CHECK_EQ(f.calls_in, 0);
    CHECK_EQ(write_calls(), 1);
    SUP_UNTIL_DOING(loop, peer.received == 1024 && to.received == 2048) {
        sup_peer_recv(&peer);
        sup_peer_recv(&to);
    }
    write_flusher_init(&g, 16, 64);
    setup.handler.on_open = write_many_on_open;
    opened = sup_open(loop, &g.end, &setup);
    CHECK_EQ(g.calls_in, 0);
    CHECK_EQ(write_calls(), 1);
    sup_peer_close(&opened);
    sup_peer_close(&peer);
    sup_peer_close(&to);
    nkt_loop_done(loop);
}

/* C4: a queue that reaches 64 KiB goes out at once, inside the callback */
NKT_LOOP_TEST(write_goes_out_at_64_kib) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_flusher f;
    sup_peer peer;
    write_flusher_init(&f, 15, 4096);
    setup.handler.on_data = write_many_on_data;
    peer = sup_open(loop, &f.end, &setup);
    peer.to_send = 1;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, f.end.datas == 1);
    CHECK_EQ(f.calls_in, 0);
    CHECK_EQ(write_calls(), 1);
    f.sends = 17;
    peer.to_send = 2;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, f.end.datas == 2);
    CHECK_EQ(f.calls_in, 1);
    CHECK(f.queued_after < 65536);
    CHECK(write_calls() <= 2);
    SUP_UNTIL_DOING(loop, peer.received == 32 * 4096) {
        sup_peer_recv(&peer);
    }
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C4: large sends on an empty queue, whether they go out at once or not, keep their order */
NKT_LOOP_TEST(write_large_sends_keep_order) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    uint64_t at = 0;
    sup_end_init(&end);
    setup.options.send_max = 8 << 20;
    peer = sup_open(loop, &end, &setup);
    for (size_t len = 32767; len < 500000; len += 77777) {
        CHECK_OK(write_send(&end, len, &at));
        CHECK_OK(write_send(&end, 10, &at));
        CHECK(sup_queued(&end) <= at);
        sup_turn(loop);
        sup_peer_recv(&peer);
    }
    SUP_UNTIL_DOING(loop, peer.received == at) {
        sup_peer_recv(&peer);
    }
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C4: netkit_conn_flush sends now; what it frees is told later, from the loop */
NKT_LOOP_TEST(write_conn_flush_sends_now) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_flusher f;
    sup_peer peer;
    write_flusher_init(&f, 3, 10);
    f.flushes = true;
    setup.handler.on_data = write_many_on_data;
    setup.options.send_max = 30;
    peer = sup_open(loop, &f.end, &setup);
    peer.to_send = 1;
    sup_peer_send(&peer);
    SUP_UNTIL(loop, f.end.datas == 1);
    CHECK_EQ(f.calls_in, 1);
    CHECK_EQ(f.queued_after, 0);
    CHECK_EQ(write_calls(), 1);
    CHECK_OK(write_send(&f.end, 20, &f.at));
    CHECK_ERR(write_send(&f.end, 20, &f.at), NETKIT_E_FULL);
    CHECK_OK(netkit_conn_flush(loop, f.end.conn));
    CHECK_EQ(sup_queued(&f.end), 0);
    CHECK_EQ(f.end.drains, 0);
    CHECK(sup_raw_wait(peer.fd, POLLIN));
    SUP_UNTIL(loop, f.end.drains == 1);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C4: between turns sends wait; netkit_loop_flush sends them and calls nothing back */
NKT_LOOP_TEST(write_loop_flush_calls_nothing_back) {
    netkit_loop *loop = nkt_loop();
    write_lender *lender = write_lender_new();
    sup_setup setup = sup_setup_default();
    sup_end other;
    sup_peer peer, second;
    unsigned char data[100];
    uint64_t at = 0;
    sup_fill(data, sizeof(data), 0);
    setup.options.send_max = 100;
    peer = sup_open(loop, &lender->end, &setup);
    second = sup_open_default(loop, &other);
    peer.to_send = 10;
    sup_peer_send(&peer);
    CHECK(sup_raw_wait(peer.fd, POLLOUT));
    nkt_calls_reset();
    CHECK_OK(write_lend(lender, 0, data, 50));
    CHECK_OK(netkit_conn_send(loop, lender->end.conn, data + 50, 50));
    CHECK_ERR(netkit_conn_send(loop, lender->end.conn, data, 60), NETKIT_E_FULL);
    CHECK_OK(write_send(&other, 100, &at));
    CHECK_EQ(write_calls(), 0);
    lender->is_in_call = true;
    CHECK_OK(netkit_loop_flush(loop));
    lender->is_in_call = false;
    CHECK_EQ(write_calls(), 2);
    CHECK_EQ(lender->released + lender->end.drains + lender->end.datas, 0);
    CHECK(sup_raw_wait(peer.fd, POLLIN) && sup_raw_wait(second.fd, POLLIN));
    sup_peer_recv(&peer);
    sup_peer_recv(&second);
    CHECK_EQ(peer.received, 100);
    CHECK_EQ(second.received, 100);
    SUP_UNTIL(loop, lender->released == 1 && lender->end.drains == 1 && lender->end.datas == 1);
    CHECK_OK(lender->status[0]);
    sup_peer_close(&peer);
    sup_peer_close(&second);
    nkt_loop_done(loop);
    free(lender);
}

/* ---- a crowd ---------------------------------------------------------------------- */

/* So many that a backend may let their answers wait for each other. */
enum {
    WRITE_CROWD = 8
};

typedef struct write_member {
    sup_end end;
    sup_peer peer;
    uint64_t at;
    size_t answer;
    int *answered;              /* of all, so far */
    struct write_member *crowd; /* for which the last one sends more in its callback, or NULL */
    bool is_flushed;            /* and flushes */
    int (*then)(netkit_loop *loop, netkit_conn conn); /* done behind the answer, or NULL */
} write_member;

/* What was sent is there without a turn. */
static void write_arrives(write_member *m) {
    while (m->peer.received < m->at) {
        CHECK_EQ(m->peer.end, 0);
        CHECK(sup_raw_wait(m->peer.fd, POLLIN));
        sup_peer_recv(&m->peer);
    }
    CHECK_EQ(m->peer.received, m->at);
}

static size_t write_member_on_data(netkit_loop *loop, netkit_conn conn, const void *data,
                                   size_t len, void *user) {
    write_member *m = (write_member *)user;
    size_t used = sup_on_data(loop, conn, data, len, user);
    CHECK_OK(write_send(&m->end, m->answer, &m->at));
    CHECK_OK(m->then != NULL ? m->then(loop, conn) : NETKIT_OK);
    if (++*m->answered < WRITE_CROWD || m->crowd == NULL) {
        return used;
    }
    for (int i = 0; i < WRITE_CROWD; i++) {
        CHECK_OK(write_send(&m->crowd[i].end, 1, &m->crowd[i].at));
    }
    CHECK_OK(m->is_flushed ? netkit_loop_flush(loop) : NETKIT_OK);
    for (int i = 0; i < WRITE_CROWD && m->is_flushed; i++) {
        write_arrives(&m->crowd[i]);
    }
    return used;
}

static void write_crowd_open(netkit_loop *loop, write_member *crowd, int *answered) {
    sup_setup setup = sup_setup_default();
    setup.handler.on_data = write_member_on_data;
    memset(crowd, 0, WRITE_CROWD * sizeof *crowd);
    for (int i = 0; i < WRITE_CROWD; i++) {
        sup_end_init(&crowd[i].end);
        crowd[i].answered = answered;
        crowd[i].peer = sup_open(loop, &crowd[i].end, &setup);
    }
}

/* All is there, and the end of the stream, without a turn. */
static void write_crowd_ends(write_member *crowd) {
    for (int i = 0; i < WRITE_CROWD; i++) {
        write_arrives(&crowd[i]);
        CHECK(crowd[i].peer.end != 0 || sup_raw_wait(crowd[i].peer.fd, POLLIN));
        sup_peer_recv(&crowd[i].peer);
        CHECK_EQ(crowd[i].peer.end, SUP_EOF);
    }
}

/* All are asked, and all have answered by the end of a turn. */
static void write_crowd_answers(netkit_loop *loop, write_member *crowd, size_t answer) {
    *crowd->answered = 0;
    for (int i = 0; i < WRITE_CROWD; i++) {
        crowd[i].answer = answer;
        crowd[i].peer.to_send++;
        sup_peer_send(&crowd[i].peer);
    }
    nkt_sleep_ms(5);
    SUP_UNTIL(loop, *crowd->answered == WRITE_CROWD);
}

static void write_crowd_close(write_member *crowd) {
    for (int i = 0; i < WRITE_CROWD; i++) {
        sup_peer_close(&crowd[i].peer);
    }
}

/* C4 I13: after a turn in which many have answered nothing is on its way that would keep what is
 * flushed between turns, or the end of a stream, until another turn. */
NKT_LOOP_TEST(write_flush_between_turns_leaves_nothing) {
    static const size_t answers[] = {64, 900, 4000, 20000};
    netkit_loop *loop = nkt_loop();
    write_member crowd[WRITE_CROWD];
    int answered = 0;
    write_crowd_open(loop, crowd, &answered);
    for (int round = 0; round < 8; round++) {
        write_crowd_answers(loop, crowd, answers[round % 4]);
        for (int i = 0; i < WRITE_CROWD; i++) {
            CHECK_EQ(sup_queued(&crowd[i].end), 0);
            CHECK_OK(write_send(&crowd[i].end, 1, &crowd[i].at));
            CHECK_OK(round < 4 ? NETKIT_OK : netkit_conn_flush(loop, crowd[i].end.conn));
        }
        CHECK_OK(round < 4 ? netkit_loop_flush(loop) : NETKIT_OK);
        for (int i = 0; i < WRITE_CROWD; i++) {
            write_arrives(&crowd[i]);
        }
    }
    write_crowd_answers(loop, crowd, 4000);
    for (int i = 0; i < WRITE_CROWD; i++) {
        CHECK_OK(netkit_conn_shutdown(loop, crowd[i].end.conn));
    }
    CHECK_OK(netkit_loop_flush(loop));
    write_crowd_ends(crowd);
    write_crowd_close(crowd);
    nkt_loop_done(loop);
}

/* C4 I13: a flush in a callback sends what was sent before in the same turn, and what is behind; a
 * turn that is left without one does so too. */
NKT_LOOP_TEST(write_flush_in_a_turn_leaves_nothing) {
    static const size_t answers[] = {64, 900, 4000, 20000};
    netkit_loop *loop = nkt_loop();
    write_member crowd[WRITE_CROWD];
    int answered = 0;
    write_crowd_open(loop, crowd, &answered);
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < WRITE_CROWD; i++) {
            crowd[i].crowd = crowd;
            crowd[i].is_flushed = round < 4;
        }
        write_crowd_answers(loop, crowd, answers[round % 4]);
        for (int i = 0; i < WRITE_CROWD; i++) {
            write_arrives(&crowd[i]);
        }
    }
    write_crowd_close(crowd);
    nkt_loop_done(loop);
}

/* C4 I13: an answer and the end of the stream behind it, in a callback, take one turn. */
NKT_LOOP_TEST(write_crowd_that_ends_in_a_turn) {
    for (int closes = 0; closes < 2; closes++) {
        netkit_loop *loop = nkt_loop();
        write_member crowd[WRITE_CROWD];
        int answered = 0;
        write_crowd_open(loop, crowd, &answered);
        for (int i = 0; i < WRITE_CROWD; i++) {
            crowd[i].then = closes ? netkit_conn_close : netkit_conn_shutdown;
        }
        write_crowd_answers(loop, crowd, 900);
        write_crowd_ends(crowd);
        write_crowd_close(crowd);
        nkt_loop_done(loop);
    }
}

/* C4 C5 I13: peers that reset while their answers are under way: a flush calls nothing back, each of
 * them is told of once, and the others have all of theirs. */
NKT_LOOP_TEST(write_flush_to_peers_that_reset) {
    netkit_loop *loop = nkt_loop();
    write_member crowd[WRITE_CROWD];
    int answered = 0;
    write_crowd_open(loop, crowd, &answered);
    write_crowd_answers(loop, crowd, 4000);
    for (int i = 0; i < WRITE_CROWD; i += 2) {
        struct linger reset = {1, 0};
        CHECK_EQ(setsockopt(crowd[i].peer.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
        sup_peer_close(&crowd[i].peer);
    }
    nkt_sleep_ms(5);
    for (int i = 0; i < WRITE_CROWD; i++) {
        CHECK_OK(write_send(&crowd[i].end, 1, &crowd[i].at));
    }
    CHECK_OK(netkit_loop_flush(loop));
    for (int i = 0; i < WRITE_CROWD; i++) {
        CHECK_EQ(crowd[i].end.closes, 0);
    }
    for (int i = 1; i < WRITE_CROWD; i += 2) {
        write_arrives(&crowd[i]);
    }
    for (int i = 0; i < WRITE_CROWD; i += 2) {
        SUP_UNTIL(loop, crowd[i].end.closes == 1);
        CHECK(crowd[i].end.info.code != NETKIT_OK);
        CHECK_EQ(crowd[i + 1].end.closes, 0);
        sup_peer_close(&crowd[i + 1].peer);
    }
    nkt_loop_done(loop);
}

typedef struct write_pump {
    sup_end end;
    uint64_t at, turn;
    int drains, most; /* in one turn */
} write_pump;

static void write_pump_more(netkit_loop *loop, write_pump *p) {
    CHECK_OK(netkit_loop_flush(loop));
    while (write_send(&p->end, 1024, &p->at) == NETKIT_OK) {
    }
}

static size_t write_pump_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    size_t used = sup_on_data(loop, conn, data, len, user);
    write_pump_more(loop, (write_pump *)user);
    return used;
}

static void write_pump_on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    write_pump *p = (write_pump *)user;
    (void)conn;
    p->drains = p->turn == netkit_loop_turns(loop) ? p->drains + 1 : 1;
    p->turn = netkit_loop_turns(loop);
    p->most = p->drains > p->most ? p->drains : p->most;
    if (p->drains < 100) {
        write_pump_more(loop, p);
    }
}

/* C2 I4: who flushes in on_drain and then fills the queue is told once in a turn, however much the
 * system takes. */
NKT_LOOP_TEST(write_drains_once_in_a_turn) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_pump pumps[4];
    sup_peer peers[4];
    setup.handler.on_data = write_pump_on_data;
    setup.handler.on_drain = write_pump_on_drain;
    setup.options.send_max = 4096;
    setup.options.recv_max = 4096;
    setup.options.duplex = true;
    memset(pumps, 0, sizeof pumps);
    for (int i = 0; i < 4; i++) {
        sup_end_init(&pumps[i].end);
        peers[i] = sup_open(loop, &pumps[i].end, &setup);
    }
    for (int i = 0; i < 4; i++) {
        peers[i].to_send = 1;
        sup_peer_send(&peers[i]);
    }
    SUP_UNTIL_DOING(loop, pumps[0].at > 200000 && pumps[3].at > 200000) {
        for (int i = 0; i < 4; i++) {
            sup_peer_recv(&peers[i]);
        }
    }
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(pumps[i].most, 1);
        sup_peer_close(&peers[i]);
    }
    nkt_loop_done(loop);
}

/* ---- bad weather ------------------------------------------------------------------ */

/* T-04 IO03 IO18: vectors of 1 to 64 pieces, empty ones too, through a system that moves a few
 * bytes at a time, and now and then says it cannot (where readiness is level-triggered) */
NKT_LOOP_TEST(write_short_transfers_lose_nothing) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    static unsigned char data[64 * 700];
    uint64_t runs = nkt_scale(10000, 300), at = 0;
    nkt_clip_random("send", 3000);
    nkt_clip_random("sendmsg", 3000);
    if (nkt_is_level()) {
        nkt_fault_prob("send", 20, EAGAIN);
        nkt_fault_prob("sendmsg", 20, EAGAIN);
    }
    for (uint64_t run = 0; run < runs; run++) {
        netkit_span spans[64];
        size_t count = 1 + (size_t)(nkt_random() % 64), total = 0;
        int code;
        for (size_t i = 0; i < count; i++) {
            size_t len = nkt_random() % 3 == 0 ? 0 : (size_t)(nkt_random() % 700);
            spans[i].data = data + total;
            spans[i].len = len;
            total += len;
        }
        sup_fill(data, total, at);
        SUP_UNTIL_DOING(loop,
                        (code = netkit_conn_sendv(loop, end.conn, spans, count)) != NETKIT_E_FULL) {
            sup_peer_recv(&peer);
        }
        CHECK_OK(code);
        at += total;
        if (run % 3 == 0) {
            sup_turn(loop);
            sup_peer_recv(&peer);
        }
    }
    SUP_UNTIL_DOING(loop, peer.received == at) {
        sup_peer_recv(&peer);
    }
    CHECK(nkt_faults() > runs);
    nkt_fault_clear();
    CHECK_EQ(end.closes, 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* T-03: much lent to a peer with a small window that does not read, then does: order kept, all
 * released in order, one on_drain per refusal */
NKT_SLOW_LOOP_TEST(write_to_a_slow_reader) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_lender *lender = write_lender_new();
    size_t each = 16384, total = (size_t)nkt_scale(32 << 20, 8 << 20);
    unsigned char *data = (unsigned char *)malloc(total);
    int loans = (int)(total / each) < 512 ? (int)(total / each) : 512, refusals = 0;
    sup_peer peer;
    int next = 0;
    sup_fill(data, total, 0);
    each = total / (size_t)loans;
    setup.rcvbuf = 4096;
    setup.options.chunks_max = 32;
    peer = sup_open(loop, &lender->end, &setup);
    SUP_UNTIL_DOING(loop, lender->released == loans) {
        while (next < loans && refusals == lender->end.drains) {
            int code = write_lend(lender, next, data + (size_t)next * each, each);
            if (code == NETKIT_E_FULL) {
                refusals++;
            } else {
                CHECK_OK(code);
                next++;
            }
        }
        if (refusals > 0) {
            sup_peer_recv(&peer);
        }
    }
    SUP_UNTIL_DOING(loop, peer.received == each * (size_t)loans) {
        sup_peer_recv(&peer);
    }
    CHECK(refusals > 0);
    CHECK_EQ(refusals, lender->end.drains);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
    free(data);
    free(lender);
}

/* T-06 SK19 SD26 T-15: 8 MiB, then shutdown at once: the peer gets all and a clean end, while our
 * receiving goes on; sending is over */
NKT_LOOP_TEST(write_then_shutdown_delivers_all) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    write_lender *lender = write_lender_new();
    size_t each = 1 << 20;
    unsigned char *data = (unsigned char *)malloc(8 * each);
    sup_peer peer;
    sup_fill(data, 8 * each, 0);
    peer = sup_open(loop, &lender->end, &setup);
    for (int i = 0; i < 8; i++) {
        CHECK_OK(write_lend(lender, i, data + (size_t)i * each, each));
    }
    CHECK_OK(netkit_conn_shutdown(loop, lender->end.conn));
    CHECK_ERR(netkit_conn_send(loop, lender->end.conn, "x", 1), NETKIT_E_CLOSED);
    CHECK_ERR(write_lend(lender, 8, data, 1), NETKIT_E_CLOSED);
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_EQ(peer.received, 8 * each);
    CHECK_EQ(lender->released, 8);
    CHECK_EQ(netkit_conn_phase(loop, lender->end.conn), NETKIT_PHASE_OPEN);
    peer.to_send = 100000;
    SUP_UNTIL_DOING(loop, lender->end.bytes == 100000) {
        sup_peer_send(&peer);
    }
    sup_peer_close(&peer);
    SUP_UNTIL(loop, lender->end.eofs == 1);
    CHECK_OK(netkit_conn_close(loop, lender->end.conn));
    SUP_UNTIL(loop, lender->end.closes == 1);
    CHECK_OK(lender->end.info.code);
    CHECK_EQ(lender->end.info.unsent, 0);
    nkt_loop_done(loop);
    free(data);
    free(lender);
}

/* T-15 SD26 SK21 I3 C6: the peer ends its direction: on_eof, the conn stays, and 1 MiB of ours
 * still arrives */
NKT_LOOP_TEST(write_after_the_peers_half_close) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    uint64_t at = 0;
    sup_end_init(&end);
    setup.options.send_max = 1 << 20;
    peer = sup_open(loop, &end, &setup);
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    SUP_UNTIL(loop, end.eofs == 1);
    sup_settle(loop);
    CHECK_EQ(end.closes, 0);
    CHECK_EQ(netkit_conn_phase(loop, end.conn), NETKIT_PHASE_OPEN);
    CHECK_OK(write_send(&end, 1 << 20, &at));
    SUP_UNTIL_DOING(loop, peer.received == at) {
        sup_peer_recv(&peer);
    }
    CHECK_OK(netkit_conn_close(loop, end.conn));
    SUP_UNTIL_DOING(loop, peer.end != 0 && end.closes == 1) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_OK(end.info.code);
    CHECK_STR(end.trace, "oec");
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* T-13 IO12 SD27 T-12: a thousand sends to a peer that has reset: errors, no signal, and the
 * program's disposition of SIGPIPE is as it was */
NKT_LOOP_TEST(write_to_a_reset_peer) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer;
    int failures = 0;
    CHECK(nkt_sigpipe_reset());
    peer = sup_open_default(loop, &end);
    sup_raw_reset(peer.fd);
    for (int i = 0; i < 1000; i++) {
        int code = netkit_conn_send(loop, end.conn, "x", 1);
        if (code == NETKIT_OK) {
            code = netkit_conn_flush(loop, end.conn);
        }
        failures += code < 0;
    }
    CHECK(failures > 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_ERR(end.info.code, NETKIT_E_RESET);
    CHECK_ERR(netkit_conn_send(loop, end.conn, "x", 1), NETKIT_E_STALE);
    CHECK(nkt_sigpipe_is_default());
    CHECK_STR(end.trace, "oc");
    nkt_loop_done(loop);
}

/* C3 MB04: out of memory in send dooms the conn: the stream must not lose its middle */
NKT_LOOP_TEST(write_without_memory_ends_the_conn) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_peer peer;
    uint64_t at = 0;
    int code = NETKIT_OK;
    sup_end_init(&end);
    setup.options.send_max = 64 << 20;
    peer = sup_open(loop, &end, &setup);
    nkt_alloc_fail_at(3, true);
    while (code == NETKIT_OK) {
        code = write_send(&end, 200000, &at);
    }
    nkt_alloc_fail_at(0, false);
    CHECK_ERR(code, NETKIT_E_NOMEM);
    CHECK(write_send(&end, 10, &at) < 0);
    CHECK_EQ(end.closes, 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_ERR(end.info.code, NETKIT_E_NOMEM);
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK(peer.received < at + 200000); /* the beginning of what was refused may have gone */
    CHECK(peer.end != SUP_EOF);         /* a cut stream must not look like a whole one */
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C3 MB04: the system takes the beginning of a large send, and there is no memory for the rest */
NKT_LOOP_TEST(write_without_memory_for_the_rest) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    uint64_t at = 0;
    nkt_clip_random("send", 3000);
    nkt_alloc_fail_at(1, true);
    CHECK_ERR(write_send(&end, 50000, &at), NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    CHECK_EQ(nkt_faults(), 1);
    nkt_fault_clear();
    CHECK_ERR(write_send(&end, 10, &at), NETKIT_E_CLOSED);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_ERR(end.info.code, NETKIT_E_NOMEM);
    CHECK_EQ(end.info.unsent, 0); /* what was refused was never ours to send */
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK(peer.received <= 3000);
    CHECK(peer.end != SUP_EOF);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* I4 IO03: everything that send took is received, or counted as unsent, when the conn is ended in
 * the middle of it */
NKT_LOOP_TEST(write_accounts_for_every_byte) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    uint64_t at = 0;
    for (int i = 0; i < 50; i++) {
        while (write_send(&end, 10000, &at) == NETKIT_OK) {
        }
        sup_turn(loop);
        sup_peer_recv(&peer);
    }
    CHECK_OK(netkit_conn_set_option(loop, end.conn, NETKIT_OPT_NODELAY, 1));
    CHECK_OK(netkit_conn_shutdown(loop, end.conn));
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(peer.received, at);
    CHECK_OK(netkit_conn_abort(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(end.info.unsent, 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}
