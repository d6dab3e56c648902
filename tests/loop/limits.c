/* Times and limits of conns, their context, and peers that are slow, silent or gone. */
#include "support.h"

static uint64_t limits_ms_since(uint64_t began) {
    return (nkt_now_ns() - began) / 1000000;
}

/* After 100 ms: what ends after 150 of silence may have ended for the machine's. */
static void limits_skip_when_late(uint64_t began) {
    if (limits_ms_since(began) > 100) {
        SKIP("the machine is too busy to keep a conn from idling");
    }
}

/* TM05 TM06 IO19 SK24: no byte either way for the idle time ends a conn, not before; bytes of
 * either direction put it off */
NKT_LOOP_TEST(limits_idle_timeout) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    uint64_t began, last;
    sup_end end;
    sup_peer peer;
    sup_end_init(&end);
    setup.options.idle_timeout_ms = 150;
    began = nkt_now_ns();
    peer = sup_open(loop, &end, &setup);
    limits_skip_when_late(began);
    began = last = nkt_now_ns();
    while (limits_ms_since(began) < 450) {
        if (limits_ms_since(last) >= 40) {
            if (end.datas <= end.drains) {
                peer.to_send++;
                sup_peer_send(&peer);
            } else {
                CHECK_OK(netkit_conn_send(loop, end.conn, "x", 1));
                end.drains++; /* counts the turns of sending here */
            }
            last = nkt_now_ns();
        }
        CHECK_OK(netkit_loop_run_once(loop, 5));
        limits_skip_when_late(last);
        CHECK_EQ(end.closes, 0);
    }
    CHECK(end.datas > 1 && end.drains > 1);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK(limits_ms_since(last) >= 150);
    CHECK(limits_ms_since(last) < (uint64_t)nkt_slowness * 1500);
    CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
    CHECK_EQ(end.info.op, NETKIT_OP_TIMER);
    CHECK_EQ(end.info.phase, NETKIT_PHASE_OPEN);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* The peer's one byte is never used, so each resume shows it again. */
static size_t limits_answer_only(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    (void)data;
    (void)len;
    ((sup_end *)user)->datas++;
    CHECK_OK(netkit_conn_send(loop, conn, "x", 1));
    return 0;
}

/* TM05 SK24: bytes sent alone put the end off, from callbacks of the conn and from outside. */
NKT_LOOP_TEST(limits_idle_timeout_of_a_sender) {
    for (int from_callbacks = 0; from_callbacks < 2; from_callbacks++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        uint64_t began, last;
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        setup.options.idle_timeout_ms = 150;
        setup.handler.on_data = limits_answer_only;
        began = nkt_now_ns();
        peer = sup_open(loop, &end, &setup);
        peer.to_send++;
        sup_peer_send(&peer);
        SUP_UNTIL(loop, end.datas == 1 || end.closes == 1);
        limits_skip_when_late(began);
        began = last = nkt_now_ns();
        while (limits_ms_since(began) < 500) {
            if (limits_ms_since(last) >= 40) {
                CHECK_OK(from_callbacks ? netkit_conn_resume(loop, end.conn)
                                        : netkit_conn_send(loop, end.conn, "y", 1));
                last = nkt_now_ns();
            }
            CHECK_OK(netkit_loop_run_once(loop, 5));
            limits_skip_when_late(last);
            CHECK_EQ(end.closes, 0);
        }
        CHECK(from_callbacks ? end.datas > 5 : end.datas == 1);
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* IO19 TM06: the deadline ends a conn however busy it is, so long after its start */
NKT_LOOP_TEST(limits_deadline) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    uint64_t began;
    sup_end end;
    sup_peer peer;
    sup_end_init(&end);
    setup.options.deadline_ms = (uint32_t)(150 * nkt_slowness);
    began = nkt_now_ns();
    peer = sup_open(loop, &end, &setup);
    SUP_UNTIL_DOING(loop, end.closes == 1) {
        peer.to_send++;
        sup_peer_send(&peer);
    }
    CHECK(limits_ms_since(began) >= 150 * nkt_slowness);
    CHECK(limits_ms_since(began) < nkt_slowness * 1500);
    CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
    CHECK_EQ(end.info.op, NETKIT_OP_TIMER);
    CHECK(end.bytes > 2);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* T-19 IO19: a minimum rate ends who sends less, and nobody else */
NKT_LOOP_TEST(limits_minimum_rate) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end slow, fast;
    sup_peer slow_peer, fast_peer;
    uint64_t began, last = 0;
    setup.options.rate_min = 1000;
    setup.options.rate_period_ms = 200;
    sup_end_init(&slow);
    sup_end_init(&fast);
    slow_peer = sup_open(loop, &slow, &setup);
    began = nkt_now_ns();
    fast_peer = sup_open(loop, &fast, &setup);
    limits_skip_when_late(began);
    began = nkt_now_ns();
    while (limits_ms_since(began) < 700) {
        if (limits_ms_since(last) >= 20) {
            last = nkt_now_ns();
            slow_peer.to_send++;
            sup_peer_send(&slow_peer);
            fast_peer.to_send += 2000;
            sup_peer_send(&fast_peer);
        }
        CHECK_OK(netkit_loop_run_once(loop, 5));
        limits_skip_when_late(last);
    }
    CHECK_EQ(slow.closes, 1);
    CHECK_ERR(slow.info.code, NETKIT_E_TIMEOUT);
    CHECK_EQ(slow.info.op, NETKIT_OP_TIMER);
    CHECK_EQ(fast.closes, 0);
    SUP_UNTIL(loop, fast.closes == 1); /* when it falls silent it goes too */
    sup_peer_close(&slow_peer);
    sup_peer_close(&fast_peer);
    nkt_loop_done(loop);
}

/* TM05 IO19: timeouts can be set, moved and taken off while a conn is open */
NKT_LOOP_TEST(limits_change_while_open) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    uint64_t began;
    sup_end end;
    sup_peer peer;
    sup_end_init(&end);
    peer = sup_open(loop, &end, &setup);
    CHECK_OK(netkit_conn_set_idle_timeout(loop, end.conn, 40));
    CHECK_OK(netkit_conn_set_deadline(loop, end.conn, 60));
    CHECK_OK(netkit_conn_set_idle_timeout(loop, end.conn, 0));
    CHECK_OK(netkit_conn_set_deadline(loop, end.conn, 0));
    sup_turn_for_ms(loop, 150 * (unsigned)nkt_slowness);
    CHECK_EQ(end.closes, 0);
    began = nkt_now_ns();
    CHECK_OK(netkit_conn_set_deadline(loop, end.conn, 100000));
    CHECK_OK(netkit_conn_set_deadline(loop, end.conn, 50));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK(limits_ms_since(began) >= 50);
    CHECK(limits_ms_since(began) < (uint64_t)nkt_slowness * 1000);
    sup_peer_close(&peer);
    sup_end_init(&end);
    memset(&setup.options, 0, sizeof(setup.options));
    peer = sup_open(loop, &end, &setup);
    sup_turn_for_ms(loop, 80);
    began = nkt_now_ns();
    CHECK_OK(netkit_conn_set_idle_timeout(loop, end.conn, 50));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK(limits_ms_since(began) < (uint64_t)nkt_slowness * 1000);
    CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

enum {
    LIMITS_SLOW = 500,
    LIMITS_GOOD = 10
};

/* T-19 TM05 TM06: many peers that trickle a byte now and then are all gone at the deadline; good
 * ones next to them are served throughout */
NKT_SLOW_LOOP_TEST(limits_slowloris) {
    static sup_end slow[LIMITS_SLOW], good[LIMITS_GOOD];
    static sup_peer slow_peers[LIMITS_SLOW], good_peers[LIMITS_GOOD];
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    int count = (int)nkt_scale(LIMITS_SLOW, 100), gone = 0, rounds = 0;
    uint64_t began, last = 0, deadline = nkt_scale(5000, NKI_WINDOWS ? 3000 : 800);
    for (int i = 0; i < LIMITS_GOOD; i++) {
        sup_end_init(&good[i]);
        good[i].is_echo = true;
        good_peers[i] = sup_open(loop, &good[i], &setup);
    }
    setup.options.idle_timeout_ms = 4000;
    setup.options.deadline_ms = (uint32_t)deadline;
    for (int i = 0; i < count; i++) {
        sup_end_init(&slow[i]);
        slow_peers[i] = sup_open(loop, &slow[i], &setup);
    }
    began = nkt_now_ns();
    while (gone < count) {
        CHECK(limits_ms_since(began) < deadline + (uint64_t)nkt_slowness * 5000);
        if (limits_ms_since(last) > 100) {
            last = nkt_now_ns();
            rounds++;
            for (int i = 0; i < count; i++) {
                slow_peers[i].to_send++;
                sup_peer_send(&slow_peers[i]);
            }
        }
        for (int i = 0; i < LIMITS_GOOD; i++) {
            if (good_peers[i].received == good_peers[i].to_send) {
                good_peers[i].to_send += 1000;
            }
            sup_peer_step(&good_peers[i]);
        }
        CHECK_OK(netkit_loop_run_once(loop, 5));
        gone = 0;
        for (int i = 0; i < count; i++) {
            gone += slow[i].closes;
        }
    }
    CHECK(rounds >= 4);
    for (int i = 0; i < count; i++) {
        CHECK_ERR(slow[i].info.code, NETKIT_E_TIMEOUT);
        CHECK(slow[i].datas > 1);
        sup_peer_close(&slow_peers[i]);
    }
    for (int i = 0; i < LIMITS_GOOD; i++) {
        CHECK_EQ(good[i].closes, 0);
        CHECK(good_peers[i].received > 10000);
        sup_peer_close(&good_peers[i]);
    }
    nkt_loop_done(loop);
}

/* ---- a peer that vanishes ----------------------------------------------------------- */

#if defined(__linux__)
#include <sys/ioctl.h>

/* A network namespace of this process with its own loopback, which can be taken down. */
static bool limits_own_network(void) {
    return unshare(CLONE_NEWNET) == 0;
}

static void limits_set_loopback(bool is_up) {
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(fd >= 0);
    memset(&request, 0, sizeof(request));
    memcpy(request.ifr_name, "lo", 3);
    request.ifr_flags = is_up ? IFF_UP | IFF_RUNNING : 0;
    CHECK_EQ(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    CHECK_EQ(close(fd), 0);
}

/* T-20 OP02 OP11: the peer is gone without a word. With data unacknowledged the user timeout of
 * 1.5 s ends the conn; idle, keepalive of 1 s with its probes does */
NKT_SLOW_LOOP_TEST(limits_peer_vanishes) {
    netkit_loop *loop;
    sup_setup setup = sup_setup_default();
    sup_end sending, idle;
    sup_peer first, second;
    uint64_t began;
    if (!limits_own_network()) {
        SKIP("needs root, for a network namespace");
    }
    limits_set_loopback(true);
    loop = nkt_loop();
    sup_end_init(&sending);
    sup_end_init(&idle);
    setup.options.user_timeout_ms = 1500;
    first = sup_open(loop, &sending, &setup);
    setup.options.user_timeout_ms = 0;
    setup.options.keepalive_s = 1;
    second = sup_open(loop, &idle, &setup);
    CHECK_OK(netkit_conn_set_option(loop, idle.conn, NETKIT_OPT_KEEPALIVE_PERIOD, 1));
    CHECK_OK(netkit_conn_set_option(loop, idle.conn, NETKIT_OPT_KEEPALIVE_COUNT, 2));
    sup_settle(loop);
    limits_set_loopback(false);
    began = nkt_now_ns();
    CHECK_OK(netkit_conn_send(loop, sending.conn, "anyone?", 7));
    SUP_UNTIL(loop, sending.closes == 1);
    printf("user timeout after %d ms\n", (int)limits_ms_since(began));
    CHECK(limits_ms_since(began) < (uint64_t)nkt_slowness * 6000);
    CHECK(sending.info.code == NETKIT_E_TIMEOUT || sending.info.code == NETKIT_E_UNREACHABLE);
    SUP_UNTIL(loop, idle.closes == 1);
    printf("keepalive after %d ms\n", (int)limits_ms_since(began));
    CHECK(idle.info.code == NETKIT_E_TIMEOUT || idle.info.code == NETKIT_E_UNREACHABLE);
    CHECK_EQ(idle.info.op, NETKIT_OP_READ);
    sup_peer_close(&first);
    sup_peer_close(&second);
    nkt_loop_done(loop);
}
#endif

/* ---- context --------------------------------------------------------------------------- */

static size_t limits_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    (void)loop;
    (void)conn;
    (void)data;
    ((int *)user)[0]++;
    return len;
}

/* C7: the pointer given to callbacks is the desc's, then what set_user said last */
NKT_LOOP_TEST(limits_set_user) {
    netkit_loop *loop = nkt_loop();
    int first[1] = {0}, second[1] = {0}, fd;
    netkit_handler handler;
    netkit_adopt_desc desc;
    netkit_conn conn;
    int fds[2];
    memset(&handler, 0, sizeof(handler));
    handler.on_data = limits_on_data;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    fd = fds[1];
    memset(&desc, 0, sizeof(desc));
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    desc.handler = handler;
    desc.user = first;
    CHECK_OK(netkit_adopt(loop, &desc, &conn));
    CHECK(netkit_conn_user(loop, conn) == first);
    CHECK(netkit_conn_ext(loop, conn) == NULL);
    sup_say(fd, "a");
    SUP_UNTIL(loop, first[0] == 1);
    CHECK_OK(netkit_conn_set_user(loop, conn, second));
    CHECK(netkit_conn_user(loop, conn) == second);
    sup_say(fd, "b");
    SUP_UNTIL(loop, second[0] == 1);
    CHECK_EQ(first[0], 1);
    CHECK_EQ(close(fd), 0);
    nkt_loop_done(loop);
}

typedef struct limits_upgrade {
    sup_end end; /* of the new protocol */
    netkit_handler after;
    int before, hellos;
} limits_upgrade;

/* The old protocol: one line; what is behind it belongs to the new one. */
static size_t limits_hello(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                           void *user) {
    limits_upgrade *u = (limits_upgrade *)user;
    const char *newline = (const char *)memchr(data, '\n', len);
    u->before++;
    if (newline == NULL) {
        return 0;
    }
    u->hellos++;
    CHECK_OK(netkit_conn_set_handler(loop, conn, &u->after, &u->end));
    memset(&u->after, 0xEE, sizeof(u->after)); /* the table was copied */
    return (size_t)(newline - (const char *)data) + 1;
}

/* C7 IO05 PL24: set_handler in on_data changes the protocol: what the old one left, and all that
 * comes, goes to the new one alone */
NKT_LOOP_TEST(limits_set_handler_upgrades) {
    for (int is_split = 0; is_split < 2; is_split++) {
        netkit_loop *loop = nkt_loop();
        limits_upgrade u;
        netkit_handler handler;
        netkit_listen_desc desc;
        unsigned char data[106];
        sup_peer peer;
        memset(&u, 0, sizeof(u));
        memset(&handler, 0, sizeof(handler));
        sup_end_init(&u.end);
        u.end.opens = 1; /* the new table hears of no opening */
        u.end.closes_at_eof = true;
        u.after = sup_handler();
        handler.on_data = limits_hello;
        desc = sup_listen_desc(&handler, &u);
        peer = sup_peer_of(sup_raw_dial(sup_listen(loop, &desc, NULL), 0));
        memcpy(data, "hello\n", 6);
        sup_fill(data + 6, 100, 0);
        if (is_split) {
            CHECK_EQ(send(peer.fd, data, 3, 0), 3);
            SUP_UNTIL(loop, u.before == 1);
            CHECK_EQ(send(peer.fd, data + 3, 3, 0), 3);
            SUP_UNTIL(loop, u.hellos == 1);
            CHECK_EQ(send(peer.fd, data + 6, 100, 0), 100);
        } else {
            CHECK_EQ(send(peer.fd, data, 106, 0), 106);
            SUP_UNTIL(loop, u.hellos == 1);
            sup_settle(loop);
            /* A rest comes again with more behind it, at the latest. */
            peer.sent = 100;
            peer.to_send = 101;
            sup_peer_send(&peer);
        }
        SUP_UNTIL(loop, u.end.bytes == (is_split ? 100 : 101));
        CHECK_EQ(u.hellos, 1);
        sup_peer_close(&peer);
        SUP_UNTIL(loop, u.end.closes == 1);
        CHECK_STR(u.end.trace, "dec");
        nkt_loop_done(loop);
    }
}

/* PL20 C7: an unreferenced conn does not keep the loop running */
NKT_LOOP_TEST(limits_unreferenced_conn) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    CHECK_EQ(netkit_loop_references(loop), 1);
    CHECK_OK(netkit_conn_set_referenced(loop, end.conn, false));
    CHECK_EQ(netkit_loop_references(loop), 0);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(end.closes, 0);
    CHECK_OK(netkit_conn_set_referenced(loop, end.conn, true));
    CHECK_EQ(netkit_loop_references(loop), 1);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* ---- pulling ---------------------------------------------------------------------------- */

/* C8 C1 I3: with desc.pull the same happenings come as events, in order; bytes count as used
 * unless said otherwise, and the rest comes again with more behind it; closing at the end of the
 * stream is up to the caller */
NKT_LOOP_TEST(limits_pull_a_conn) {
    netkit_loop_desc loop_desc;
    netkit_loop *loop;
    netkit_listen_desc desc;
    netkit_listener listener;
    netkit_event ev;
    netkit_conn conn;
    sup_peer peer;
    uint64_t bytes = 0, began = nkt_now_ns();
    int opens = 0, eofs = 0, closes = 0, listener_closes = 0, spans = 0;
    memset(&loop_desc, 0, sizeof(loop_desc));
    memset(&desc, 0, sizeof(desc));
    memset(&conn, 0, sizeof(conn));
    loop_desc.pull = true;
    loop = nkt_loop_with(&loop_desc);
    desc.address = "127.0.0.1:0";
    desc.user = &bytes;
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    peer = sup_peer_of(sup_raw_dial(sup_port(loop, listener), 0));
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_consume(loop, 0), NETKIT_E_INVALID);
    while (closes == 0 || listener_closes == 0) {
        int got = netkit_loop_next(loop, &ev);
        CHECK(!sup_is_late(began, __FILE__, __LINE__, "the events of a conn"));
        CHECK_OK(got);
        if (got == 0) {
            CHECK_EQ(ev.type, NETKIT_EVENT_NONE);
            if (opens == 1 && spans == 0) {
                peer.to_send = 1000;
            } else if (spans == 1 && bytes == 10) {
                peer.to_send = 200000;
            } else if (bytes == 200000 && eofs == 0) {
                CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
            }
            sup_peer_step(&peer);
            CHECK_OK(netkit_loop_run_once(loop, 5));
            continue;
        }
        CHECK_EQ(closes * (ev.type != NETKIT_EVENT_LISTENER_CLOSE), 0);
        CHECK(ev.user == &bytes);
        if (ev.type == NETKIT_EVENT_OPEN) {
            CHECK_EQ(opens++, 0);
            conn = ev.conn;
        } else if (ev.type == NETKIT_EVENT_DATA) {
            CHECK_EQ(ev.conn.id, conn.id);
            sup_check_bytes(ev.data, ev.len, bytes);
            CHECK_ERR(netkit_loop_consume(loop, ev.len + 1), NETKIT_E_INVALID);
            if (spans++ == 0) {
                CHECK_EQ(ev.len, 1000);
                CHECK_OK(netkit_loop_consume(loop, 10));
                bytes += 10;
            } else {
                CHECK(spans > 2 || ev.len > 990);
                bytes += ev.len;
            }
            CHECK_OK(netkit_conn_send(loop, conn, "", 0));
        } else if (ev.type == NETKIT_EVENT_EOF) {
            CHECK_EQ(eofs++, 0);
            CHECK_EQ(bytes, 200000);
            CHECK_OK(netkit_conn_close(loop, conn));
            CHECK_OK(netkit_listener_close(loop, listener));
        } else if (ev.type == NETKIT_EVENT_CLOSE) {
            CHECK_EQ(eofs, 1);
            CHECK_EQ(closes++, 0);
            CHECK_OK(ev.close.code);
        } else {
            CHECK_EQ(ev.type, NETKIT_EVENT_LISTENER_CLOSE);
            CHECK_EQ(ev.listener.id, listener.id);
            listener_closes++;
        }
    }
    CHECK_EQ(opens + eofs + closes, 3);
    CHECK_EQ(netkit_loop_next(loop, &ev), 0);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C8: a pulled echo answers with sends of the caller's own; they go out with the turn */
NKT_LOOP_TEST(limits_pull_an_echo) {
    netkit_loop_desc loop_desc;
    netkit_loop *loop;
    netkit_listen_desc desc;
    netkit_listener listener;
    uint64_t began = nkt_now_ns();
    sup_peer peer;
    memset(&loop_desc, 0, sizeof(loop_desc));
    memset(&desc, 0, sizeof(desc));
    loop_desc.pull = true;
    loop = nkt_loop_with(&loop_desc);
    desc.address = "127.0.0.1:0";
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    peer = sup_peer_of(sup_raw_dial(sup_port(loop, listener), 0));
    peer.to_send = 4 << 20;
    while (peer.received < peer.to_send) {
        netkit_event ev;
        CHECK(!sup_is_late(began, __FILE__, __LINE__, "a pulled echo"));
        CHECK_OK(netkit_loop_run_once(loop, 2));
        while (netkit_loop_next(loop, &ev) == 1) {
            if (ev.type == NETKIT_EVENT_DATA) {
                CHECK_OK(netkit_conn_send(loop, ev.conn, ev.data, ev.len));
            }
        }
        sup_peer_step(&peer);
    }
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C8 BX09: poll never waits, tells whether work is left, and with a budget of 0 makes one callback
 * at most */
NKT_LOOP_TEST(limits_poll_with_a_budget) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end ends[10];
    sup_peer peers[10];
    int datas = 0;
    uint64_t began = nkt_now_ns();
    for (int i = 0; i < 10; i++) {
        sup_end_init(&ends[i]);
        peers[i] = sup_open(loop, &ends[i], &setup);
    }
    for (int i = 0; i < 10; i++) {
        peers[i].to_send = 10;
        sup_peer_send(&peers[i]);
    }
    while (datas < 10) {
        int before = datas;
        CHECK_OK(netkit_loop_poll(loop, 0));
        datas = 0;
        for (int i = 0; i < 10; i++) {
            datas += ends[i].datas;
        }
        CHECK(datas - before <= 1);
        CHECK(!sup_is_late(began, __FILE__, __LINE__, "all is told"));
    }
    for (int i = 0; i < 10; i++) {
        sup_peer_close(&peers[i]);
    }
    nkt_loop_done(loop);
}
