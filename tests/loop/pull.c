/* Pulling: the same happenings, fetched one by one. */

#include "support_loop.h"

static netkit_loop *pull_loop(void) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.pull = true;
    return nkt_loop_with(&desc);
}

/* Fetch the next event of any turn, waiting for it. */
static netkit_event pull_next(netkit_loop *loop) {
    netkit_event ev;
    uint64_t end = tl_deadline();
    for (;;) {
        int code = netkit_loop_next(loop, &ev);
        CHECK_OK(code);
        if (code == 1) {
            CHECK(ev.type != NETKIT_EVENT_NONE);
            return ev;
        }
        CHECK_EQ(ev.type, NETKIT_EVENT_NONE);
        CHECK(nkt_now_ns() < end);
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
}

/* Nothing more comes. */
static void pull_nothing(netkit_loop *loop) {
    netkit_event ev;
    static const netkit_event zero;
    for (int i = 0; i < 4; i++) {
        memset(&ev, 0x55, sizeof(ev));
        CHECK_EQ(netkit_loop_next(loop, &ev), 0);
        CHECK_MEM(&ev, &zero, sizeof(ev));
    }
}

static netkit_event pull_expect(netkit_loop *loop, netkit_event_type type, void *user) {
    netkit_event ev = pull_next(loop);
    CHECK_EQ(ev.type, type);
    CHECK(ev.user == user);
    return ev;
}

static void pull_adopt(netkit_loop *loop, tl_conn *c, const netkit_conn_options *options) {
    netkit_handler none;
    memset(&none, 0, sizeof(none));
    tl_adopt_as(loop, c, &none, options);
}

/* BX09 I3 I13 PL21: a conn's whole life by events, each with its conn, bytes and user; a turn's end
 * is 0 and an empty event. */
NKT_LOOP_TEST(pull_a_conn) {
    netkit_loop *loop = pull_loop();
    static tl_conn c;
    netkit_event ev;
    char text[32];
    pull_adopt(loop, &c, NULL);
    ev = pull_expect(loop, NETKIT_EVENT_OPEN, &c);
    CHECK(ev.conn.id == c.handle.id);
    CHECK_OK(netkit_conn_send(loop, c.handle, "hello", 5));
    pull_nothing(loop); /* at the end of the turn all is sent */
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "hello");
    tl_say(c.peer, "abcdef");
    ev = pull_expect(loop, NETKIT_EVENT_DATA, &c);
    CHECK_EQ(ev.len, 6);
    CHECK_MEM(ev.data, "abcdef", 6);
    CHECK(ev.conn.id == c.handle.id);
    CHECK_OK(netkit_conn_send(loop, ev.conn, ev.data, ev.len));
    pull_nothing(loop); /* all of it counts as used */
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "abcdef");
    tl_say(c.peer, "last");
    CHECK_EQ(shutdown(c.peer, SHUT_WR), 0);
    ev = pull_expect(loop, NETKIT_EVENT_DATA, &c);
    CHECK_EQ(ev.len, 4);
    ev = pull_expect(loop, NETKIT_EVENT_EOF, &c);
    pull_nothing(loop);
    CHECK_EQ(netkit_conn_phase(loop, c.handle), NETKIT_PHASE_OPEN); /* closing is up to us */
    CHECK_OK(netkit_conn_send(loop, c.handle, "bye", 3));
    CHECK_OK(netkit_conn_close(loop, c.handle));
    ev = pull_expect(loop, NETKIT_EVENT_CLOSE, &c);
    CHECK_ERR(ev.close.code, NETKIT_OK);
    CHECK(ev.conn.id == c.handle.id && ev.close.text != NULL);
    CHECK(netkit_conn_phase(loop, c.handle) == NETKIT_PHASE_CLOSING ||
          netkit_conn_phase(loop, c.handle) == NETKIT_E_STALE);
    pull_nothing(loop);
    CHECK_ERR(netkit_conn_phase(loop, c.handle), NETKIT_E_STALE);
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "bye");
    CHECK_EQ(netkit_loop_objects(loop), 0);
    tl_hang_up(&c);
    nkt_loop_done(loop);
}

/* ER07: what cannot be pulled, and when. */
NKT_LOOP_TEST(pull_refuses_what_makes_no_sense) {
    netkit_loop *loop = pull_loop(), *plain = nkt_loop();
    static tl_conn c;
    netkit_event ev;
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_next(plain, &ev), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_next(loop, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_consume(plain, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_consume(loop, 0), NETKIT_E_INVALID);
    pull_adopt(loop, &c, NULL);
    (void)pull_expect(loop, NETKIT_EVENT_OPEN, &c);
    CHECK_ERR(netkit_loop_consume(loop, 0), NETKIT_E_INVALID);
    tl_say(c.peer, "abc");
    ev = pull_expect(loop, NETKIT_EVENT_DATA, &c);
    CHECK_ERR(netkit_loop_consume(loop, 4), NETKIT_E_INVALID);
    CHECK_OK(netkit_loop_consume(loop, 3));
    pull_nothing(loop);
    CHECK_ERR(netkit_loop_consume(loop, 0), NETKIT_E_INVALID);
    nkt_loop_done(loop);
    nkt_loop_done(plain);
    tl_hang_up(&c);
}

/* BX09: what is not consumed comes again with more behind it. */
NKT_LOOP_TEST(pull_consumes_in_part) {
    netkit_loop *loop = pull_loop();
    static tl_conn c;
    netkit_event ev;
    pull_adopt(loop, &c, NULL);
    (void)pull_expect(loop, NETKIT_EVENT_OPEN, &c);
    tl_say(c.peer, "GET");
    ev = pull_expect(loop, NETKIT_EVENT_DATA, &c);
    CHECK_EQ(ev.len, 3);
    CHECK_OK(netkit_loop_consume(loop, 1));
    pull_nothing(loop); /* no news, no event */
    tl_say(c.peer, " /");
    ev = pull_expect(loop, NETKIT_EVENT_DATA, &c);
    CHECK_EQ(ev.len, 4);
    CHECK_MEM(ev.data, "ET /", 4);
    CHECK_OK(netkit_loop_consume(loop, 0));
    pull_nothing(loop);
    CHECK_OK(netkit_conn_pause(loop, c.handle));
    pull_nothing(loop);
    CHECK_OK(netkit_conn_resume(loop, c.handle)); /* offers the rest without news */
    ev = pull_expect(loop, NETKIT_EVENT_DATA, &c);
    CHECK_EQ(ev.len, 4);
    pull_nothing(loop);
    nkt_loop_done(loop);
    tl_hang_up(&c);
}

static void pull_count_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    netkit_event ev;
    (void)timer;
    CHECK_ERR(netkit_loop_next(loop, &ev), NETKIT_E_BUSY);
    ++*(int *)user;
}

static void pull_count_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    CHECK_OK(status);
    ++*(int *)user;
}

/* BX09: timers, watches and listeners without a function are events, those with one are called;
 * posts have one always. A timer that was pulled may be stopped or restarted at once. */
NKT_LOOP_TEST(pull_timers_watches_listeners) {
    netkit_loop *loop = pull_loop();
    netkit_timer once = {0}, often = {0};
    netkit_watch watch = {0};
    netkit_listener listener = {0};
    netkit_listen_desc desc;
    netkit_event ev;
    int marks[5] = {0, 0, 0, 0, 0}, called = 0, posted = 0, tube[2], fd;
    uint16_t port;
    CHECK_OK(netkit_timer_start(loop, &once, 0, 0, NULL, &marks[0]));
    ev = pull_expect(loop, NETKIT_EVENT_TIMER, &marks[0]);
    CHECK(ev.timer.id == once.id);
    pull_nothing(loop);
    CHECK_ERR(netkit_timer_stop(loop, once), NETKIT_E_STALE);
    CHECK_OK(netkit_timer_start(loop, &often, 1000, 1000, NULL, &marks[1]));
    for (int i = 0; i < 3; i++) {
        ev = pull_expect(loop, NETKIT_EVENT_TIMER, &marks[1]);
        CHECK(ev.timer.id == often.id);
    }
    CHECK_OK(netkit_timer_stop(loop, often));
    CHECK_OK(netkit_timer_start(loop, &once, 0, 0, NULL, &marks[0]));
    (void)pull_expect(loop, NETKIT_EVENT_TIMER, &marks[0]);
    CHECK_OK(netkit_timer_restart(loop, once, 0)); /* not dead yet */
    (void)pull_expect(loop, NETKIT_EVENT_TIMER, &marks[0]);
    pull_nothing(loop);
    CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, pull_count_timer, &called));
    CHECK_OK(netkit_loop_post(loop, pull_count_post, &posted));
    while (called + posted < 2) {
        CHECK_OK(netkit_loop_run_once(loop, 100));
        CHECK_EQ(netkit_loop_next(loop, &ev), 0);
    }
    CHECK_EQ(pipe(tube), 0);
    CHECK_OK(
        netkit_watch_start(loop, &watch, (uintptr_t)tube[0], NETKIT_POLL_READ, NULL, &marks[2]));
    CHECK_EQ(write(tube[1], "x", 1), 1);
    ev = pull_expect(loop, NETKIT_EVENT_WATCH, &marks[2]);
    CHECK(ev.watch.id == watch.id);
    CHECK_EQ(ev.poll_events, NETKIT_POLL_READ);
    CHECK_OK(netkit_watch_stop(loop, watch));
    pull_nothing(loop);
    memset(&desc, 0, sizeof(desc));
    desc.user = &marks[3];
    port = tl_listen(loop, &desc, &listener);
    nkt_fault_at("accept", 1, EMFILE, false);
    fd = tl_dial(port);
    ev = pull_expect(loop, NETKIT_EVENT_LISTENER_ERROR, &marks[3]);
    CHECK(ev.listener.id == listener.id);
    CHECK_ERR(ev.close.code, NETKIT_E_MFILE);
    CHECK_EQ(ev.close.os_code, EMFILE);
    nkt_fault_clear();
    ev = pull_expect(loop, NETKIT_EVENT_OPEN, &marks[3]); /* it goes on by itself */
    CHECK_OK(netkit_conn_abort(loop, ev.conn));
    (void)pull_expect(loop, NETKIT_EVENT_CLOSE, &marks[3]);
    CHECK_OK(netkit_listener_close(loop, listener));
    ev = pull_expect(loop, NETKIT_EVENT_LISTENER_CLOSE, &marks[3]);
    CHECK(ev.listener.id == listener.id);
    pull_nothing(loop);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    CHECK_EQ(close(fd) + close(tube[0]) + close(tube[1]), 0);
    nkt_loop_done(loop);
}

/* L-06 SD19 I2: between two events of one turn others are ended: they have nothing more to say but
 * their CLOSE. */
NKT_LOOP_TEST(pull_survives_ends_in_a_turn) {
    enum {
        COUNT = 32
    };
    static tl_conn all[COUNT];
    netkit_loop *loop = pull_loop();
    bool ended[COUNT] = {false};
    int opens = 0, closes = 0, datas = 0;
    for (int i = 0; i < COUNT; i++) {
        pull_adopt(loop, &all[i], NULL);
    }
    for (; opens < COUNT; opens++) {
        CHECK_EQ(pull_next(loop).type, NETKIT_EVENT_OPEN);
    }
    for (int i = 0; i < COUNT; i++) {
        tl_say(all[i].peer, "x");
    }
    while (closes < COUNT) {
        netkit_event ev = pull_next(loop);
        int self = (int)((tl_conn *)ev.user - all);
        CHECK(self >= 0 && self < COUNT && all[self].closes == 0);
        if (ev.type == NETKIT_EVENT_CLOSE) {
            CHECK(ended[self]);
            all[self].closes++;
            closes++;
            continue;
        }
        CHECK_EQ(ev.type, NETKIT_EVENT_DATA);
        CHECK(!ended[self]);
        datas++;
        for (int k = 0; k < 3; k++) { /* itself and two others */
            int victim = k == 0 ? self : (int)(nkt_random() % COUNT);
            if (!ended[victim]) {
                CHECK_OK(netkit_conn_abort(loop, all[victim].handle));
                ended[victim] = true;
            }
        }
    }
    CHECK(datas >= COUNT / 3);
    pull_nothing(loop);
    nkt_loop_done(loop);
    for (int i = 0; i < COUNT; i++) {
        tl_hang_up(&all[i]);
    }
}

/* I13: the same life by callbacks and by events. */
NKT_LOOP_TEST(pull_and_callbacks_tell_the_same) {
    static char big[300000];
    char traces[2][16];
    memset(traces, 0, sizeof(traces));
    for (int way = 0; way < 2; way++) {
        netkit_loop *loop = way == 0 ? pull_loop() : nkt_loop();
        tl_conn c;
        size_t len = 0;
        uint64_t bytes = 0;
        char *trace = traces[way];
        memset(&c, 0, sizeof(c));
        if (way == 0) {
            pull_adopt(loop, &c, NULL);
        } else {
            tl_adopt(loop, &c);
        }
        CHECK_EQ(send(c.peer, big, 100000, MSG_DONTWAIT), 100000);
        CHECK_EQ(shutdown(c.peer, SHUT_WR), 0);
        for (int i = 0; i < 200 && (len == 0 || trace[len - 1] != 'c'); i++) {
            if (way == 0) {
                netkit_event ev;
                while (netkit_loop_next(loop, &ev) == 1) {
                    static const char letters[] = "-odrec";
                    bytes += ev.len;
                    if (len == 0 || trace[len - 1] != letters[ev.type]) {
                        trace[len++] = letters[ev.type];
                    }
                    if (ev.type == NETKIT_EVENT_EOF) {
                        CHECK_OK(netkit_conn_close(loop, ev.conn));
                    }
                }
            } else {
                c.closes_at_eof = true;
                TL_UNTIL(loop, c.closes == 1);
                bytes = c.bytes;
                CHECK(c.opens == 1 && c.datas > 0 && c.eofs == 1);
                memcpy(trace, "odec", 5);
                len = 4;
            }
        }
        CHECK_EQ(bytes, 100000);
        tl_hang_up(&c);
        nkt_loop_done(loop);
    }
    CHECK_STR(traces[0], traces[1]);
}

/* ---- budgets ------------------------------------------------------------------------ */

typedef struct pull_flooder {
    int fd;
    bool is_over;
    uint64_t sent;
    pthread_t thread;
} pull_flooder;

static void *pull_flood(void *user) {
    pull_flooder *f = (pull_flooder *)user;
    static const char data[65536];
    while (!TL_GET(&f->is_over)) {
        ssize_t put = send(f->fd, data, sizeof(data), MSG_NOSIGNAL | MSG_DONTWAIT);
        f->sent += put > 0 ? (uint64_t)put : 0;
        if (put < 0) {
            sched_yield();
        }
    }
    return NULL;
}

static size_t pull_burn(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                        void *user) {
    uint64_t until = nkt_now_ns() + 100000;
    while (nkt_now_ns() < until) { /* a tenth of a millisecond of work */
    }
    return tl_on_data(loop, conn, data, len, user);
}

/* BX09 PL23: frames of a game under a flood that never ends: each poll keeps near its budget, says
 * that work is left, and every conn gets on; when the flood is over all is there. */
NKT_LOOP_TEST(pull_frames_keep_their_time) {
    enum {
        COUNT = 8
    };
    static tl_conn all[COUNT];
    static pull_flooder flooders[2];
    static const netkit_handler handler = {tl_on_open, pull_burn, NULL, NULL, tl_on_close};
    netkit_loop *loop = nkt_loop();
    uint64_t longest = 0, late = tl_deadline();
    int left = 0, frames = 0;
    for (int i = 0; i < COUNT; i++) {
        tl_adopt_as(loop, &all[i], &handler, NULL);
    }
    tl_settle(loop);
    for (int i = 0; i < 2; i++) {
        flooders[i].fd = all[i].peer;
        CHECK_EQ(pthread_create(&flooders[i].thread, NULL, pull_flood, &flooders[i]), 0);
    }
    for (; frames < 60 || left == 0; frames++) { /* the flood may be late to begin */
        uint64_t began = nkt_thread_cpu_ns(), took;
        int code;
        for (int i = 2; i < COUNT; i++) {
            tl_say(all[i].peer, "x");
        }
        code = netkit_loop_poll(loop, 1000);
        took = nkt_thread_cpu_ns() - began; /* not what others took of the machine */
        longest = took > longest ? took : longest;
        CHECK(code == 0 || code == 1);
        CHECK(nkt_now_ns() < late);
        left += code;
    }
    for (int i = 0; i < 2; i++) {
        TL_SET(&flooders[i].is_over, true);
        CHECK_EQ(pthread_join(flooders[i].thread, NULL), 0);
    }
    printf("longest frame %" PRIu64 " us, work left after %d of %d\n", longest / 1000, left,
           frames);
    /* Windows counts a thread's time in ticks of 10 or 16 ms. */
    CHECK(longest < (NKI_WINDOWS ? 35000000u : 11000000u) * nkt_slowness);
    TL_UNTIL(loop, all[0].bytes == flooders[0].sent && all[1].bytes == flooders[1].sent);
    for (int i = 2; i < COUNT; i++) {
        TL_UNTIL(loop, all[i].bytes == (uint64_t)frames);
    }
    nkt_loop_done(loop);
    for (int i = 0; i < COUNT; i++) {
        tl_hang_up(&all[i]);
    }
}

/* BX09: a budget of 0 is one callback at most and gets through everything in the end, a negative
 * one is a whole turn. */
NKT_LOOP_TEST(pull_budget_of_nothing) {
    enum {
        COUNT = 20
    };
    static tl_conn all[COUNT];
    netkit_loop *loop = nkt_loop();
    int posted = 0, seen = 0;
    for (int i = 0; i < COUNT; i++) {
        tl_open(loop, &all[i]);
    }
    tl_settle(loop);
    for (int i = 0; i < COUNT; i++) {
        tl_say(all[i].peer, "x");
        CHECK_OK(netkit_loop_post(loop, pull_count_post, &posted));
    }
    for (int polls = 0; seen < 2 * COUNT; polls++) {
        int before = seen, code = netkit_loop_poll(loop, 0);
        CHECK(polls < 20 * COUNT);
        seen = posted;
        for (int i = 0; i < COUNT; i++) {
            seen += all[i].datas;
        }
        CHECK(seen <= before + 1);
        CHECK(code == 1 || seen == 2 * COUNT);
    }
    for (int i = 0; i < 3 && netkit_loop_poll(loop, 0) == 1; i++) {
    }
    CHECK_EQ(netkit_loop_poll(loop, 0), 0);
    for (int i = 0; i < COUNT; i++) {
        tl_say(all[i].peer, "x");
        CHECK_OK(netkit_loop_post(loop, pull_count_post, &posted));
    }
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(posted, 2 * COUNT);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(all[i].datas, 2);
        tl_drop(loop, &all[i]);
    }
    nkt_loop_done(loop);
}

/* What has come at all the peers, without waiting. */
static size_t pull_heard(const tl_conn *all, int count) {
    char bytes[64];
    size_t sum = 0;
    for (int i = 0; i < count; i++) {
        long n = (long)recv(all[i].peer, bytes, sizeof(bytes), MSG_DONTWAIT);
        sum += n > 0 ? (size_t)n : 0;
    }
    return sum;
}

/* PL21: the budget ends a turn in the middle: what was answered until then, on whichever conn,
 * has gone, although the turn has not come to its end. */
NKT_LOOP_TEST(pull_budget_leaves_nothing_behind) {
    enum {
        COUNT = 20
    };
    static tl_conn all[COUNT];
    netkit_loop *loop = pull_loop();
    netkit_event ev;
    for (int i = 0; i < COUNT; i++) {
        pull_adopt(loop, &all[i], NULL);
        (void)pull_expect(loop, NETKIT_EVENT_OPEN, &all[i]);
        pull_nothing(loop);
    }
    for (int i = 0; i < COUNT; i++) {
        tl_say(all[i].peer, "x");
    }
    size_t answers = 0, heard = 0;
    for (int polls = 0; answers < 2 * COUNT; polls++) {
        CHECK(polls < 50 * COUNT);
        CHECK_OK(netkit_loop_poll(loop, 0));
        while (netkit_loop_next(loop, &ev) == 1) {
            const tl_conn *next = (const tl_conn *)ev.user + 1;
            CHECK_EQ(ev.type, NETKIT_EVENT_DATA);
            CHECK_OK(netkit_conn_send(loop, ev.conn, "y", 1));
            CHECK_OK(
                netkit_conn_send(loop, next == all + COUNT ? all[0].handle : next->handle, "z", 1));
            answers += 2;
        }
        heard += pull_heard(all, COUNT);
        CHECK_EQ(heard, answers);
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(netkit_conn_abort(loop, all[i].handle));
        (void)pull_expect(loop, NETKIT_EVENT_CLOSE, &all[i]);
        tl_hang_up(&all[i]);
    }
    nkt_loop_done(loop);
}

/* PL21: the flush at the end of a budget meets peers that have gone, conns that were aborted
 * within their own event, and others' that were; each ends once, and what was answered before a close
 * arrives. */
NKT_LOOP_TEST(pull_budget_meets_ends) {
    enum {
        KINDS = 5, /* closes; its peer has gone; aborts itself; aborts the next; is that one */
        COUNT = 4 * KINDS
    };
    static tl_conn all[COUNT];
    netkit_loop *loop = pull_loop();
    netkit_event ev;
    int closes[COUNT] = {0}, ended = 0;
    bool is_answered[COUNT] = {false};
    for (int i = 0; i < COUNT; i++) {
        pull_adopt(loop, &all[i], NULL);
        (void)pull_expect(loop, NETKIT_EVENT_OPEN, &all[i]);
        pull_nothing(loop);
    }
    for (int i = 0; i < COUNT; i++) {
        tl_say(all[i].peer, "x");
        if (i % KINDS == 1) {
            tl_hang_up(&all[i]);
        }
    }
    for (int polls = 0; ended < COUNT; polls++) {
        CHECK(polls < 50 * COUNT);
        CHECK_OK(netkit_loop_poll(loop, 0));
        while (netkit_loop_next(loop, &ev) == 1) {
            int i = (int)((const tl_conn *)ev.user - all);
            netkit_conn next = all[(i + 1) % COUNT].handle;
            CHECK_EQ(closes[i], 0);
            if (ev.type == NETKIT_EVENT_CLOSE) {
                closes[i] = 1;
                ended++;
                continue;
            }
            (void)netkit_conn_send(loop, next, "z", 1); /* it may be gone */
            (void)netkit_conn_send(loop, ev.conn, "y", 1);
            if (i % KINDS == 3) {
                (void)netkit_conn_abort(loop, next);
            }
            CHECK_OK(i % KINDS == 0 ? netkit_conn_close(loop, ev.conn)
                                    : netkit_conn_abort(loop, ev.conn));
            is_answered[i] = true;
        }
        for (int i = 0; i < COUNT; i += KINDS) {
            if (is_answered[i] && all[i].peer >= 0) {
                char text[32];
                CHECK(strchr(tl_hear(all[i].peer, text, sizeof(text)), 'y') != NULL);
                tl_hang_up(&all[i]); /* a close waits for that */
            }
        }
    }
    pull_nothing(loop);
    for (int i = 0; i < COUNT; i++) {
        tl_hang_up(&all[i]);
    }
    nkt_loop_done(loop);
}
