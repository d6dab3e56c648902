/* The loop: its life, its owner, what may be called where, who is served when, what it costs. */

#include "support_loop.h"

static void loop_tick(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    ++*(int *)user;
}

static void loop_ignore_watch(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    (void)loop;
    (void)watch;
    (void)events;
    (void)user;
}

static void loop_count_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    ((int *)user)[status == NETKIT_OK ? 0 : 1]++;
}

/* ---- life --------------------------------------------------------------------- */

/* L-01 PL27 TQ18: a thousand lives, many with all sorts of things open at the end: nothing stays
 * behind, no descriptor, no byte, no thread. */
NKT_LOOP_TEST(loop_lives_a_thousand_times) {
    int fds = nkt_open_fds(), threads = nkt_threads();
    for (int i = 0; i < (int)nkt_count(1000, 1000); i++) {
        netkit_loop *loop = nkt_loop();
        if (i % 4 != 0) {
            netkit_listen_desc desc;
            netkit_listener listener;
            tl_conn c;
            int tube[2], posts[2] = {0, 0}, ticks = 0;
            memset(&desc, 0, sizeof(desc));
            memset(&c, 0, sizeof(c));
            CHECK_EQ(pipe(tube), 0);
            tl_adopt(loop, &c);
            (void)tl_listen(loop, &desc, &listener);
            CHECK_OK(netkit_timer_start(loop, NULL, 1000000, 0, loop_tick, &ticks));
            CHECK_OK(netkit_watch_start(loop, NULL, (uintptr_t)tube[0], NETKIT_POLL_READ,
                                        loop_ignore_watch, NULL));
            CHECK_OK(netkit_loop_post(loop, loop_count_post, posts));
            if (i % 4 == 1) {
                CHECK_OK(netkit_loop_poll(loop, -1));
            }
            nkt_loop_done(loop);
            CHECK_EQ(c.closes, 1);
            CHECK_EQ(posts[0], i % 4 == 1);
            CHECK_EQ(posts[1], i % 4 != 1);
            tl_hang_up(&c);
            CHECK_EQ(close(tube[0]) + close(tube[1]), 0);
        } else {
            nkt_loop_done(loop);
        }
    }
    CHECK_EQ(nkt_open_fds(), fds);
    CHECK_EQ(nkt_threads(), threads);
    CHECK_OK(netkit_loop_destroy(NULL));
}

/* L-11 PL05 R6: a backend that is named is the one, or an error and no loop (a ring may be refused for
 * want of memory); AUTO picks one and says why; a number that is no backend is INVALID. */
NKT_TEST(loop_backends_are_forced) {
    int found = 0;
    for (int number = NETKIT_BACKEND_AUTO; number <= NETKIT_BACKEND_SIM; number++) {
        netkit_loop_desc desc;
        netkit_loop *loop = (netkit_loop *)(void *)&found;
        const char *why = NULL;
        int code;
        memset(&desc, 0, sizeof(desc));
        desc.backend = number;
        desc.allocator = nkt_allocator();
        code = netkit_loop_create(&loop, &desc);
        if (code != NETKIT_OK) {
            CHECK(number > NETKIT_BACKEND_FASTEST);
            bool is_short = number == NETKIT_BACKEND_URING && code == NETKIT_E_NOMEM;
            CHECK_ERR(code, is_short ? NETKIT_E_NOMEM : NETKIT_E_NOSYS);
            CHECK(loop == NULL);
            continue;
        }
        found++;
        if (number > NETKIT_BACKEND_FASTEST) {
            CHECK_STR(netkit_loop_backend(loop, &why), netkit_backend_name(number));
        } else {
            CHECK(netkit_backend_from_name(netkit_loop_backend(loop, &why)) >
                  NETKIT_BACKEND_FASTEST);
        }
        printf("%s: %s\n", netkit_loop_backend(loop, NULL), why);
        CHECK(why != NULL && strlen(why) > 3);
        CHECK_OK(netkit_loop_destroy(loop));
    }
    CHECK(found >= 3);
    for (int number = -1; number <= NETKIT_BACKEND_SIM + 1; number += NETKIT_BACKEND_SIM + 2) {
        netkit_loop_desc desc;
        netkit_loop *loop = (netkit_loop *)(void *)&found;
        memset(&desc, 0, sizeof(desc));
        desc.backend = number;
        CHECK_ERR(netkit_loop_create(&loop, &desc), NETKIT_E_INVALID);
        CHECK(loop == NULL);
    }
}

/* L-01 MB04: whatever is short at the start, there is an error, no loop and nothing left. */
NKT_LOOP_TEST(loop_create_fails_cleanly) {
    static const char *const calls[] = {"epoll_create", "eventfd", "pipe",         "epoll_ctl",
                                        "fcntl",        "kqueue",  "kevent_change"};
    netkit_loop_desc desc;
    netkit_loop *loop;
    int fds = nkt_open_fds(), failed = 0;
    memset(&desc, 0, sizeof(desc));
    desc.backend = nkt_backend;
    desc.allocator = nkt_allocator();
    for (uint64_t nth = 1;; nth++) {
        int code;
        loop = (netkit_loop *)(void *)&desc;
        nkt_alloc_fail_at(nth, false);
        code = netkit_loop_create(&loop, &desc);
        if (nkt_alloc_faults() == 0) {
            CHECK_OK(code);
            CHECK_OK(netkit_loop_destroy(loop));
            break;
        }
        CHECK_ERR(code, NETKIT_E_NOMEM);
        CHECK(loop == NULL);
        CHECK_EQ(nkt_live_bytes(), 0);
        CHECK_EQ(nkt_open_fds(), fds);
        failed++;
    }
    CHECK(failed > 0);
    nkt_alloc_fail_at(0, false);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        int code;
        nkt_fault_at(calls[i], 1, EMFILE, false);
        code = netkit_loop_create(&loop, &desc);
        if (nkt_faults() != 0) {
            CHECK_ERR(code, NETKIT_E_MFILE);
            CHECK(loop == NULL);
            CHECK_EQ(nkt_live_bytes(), 0);
        } else {
            CHECK_OK(code);
            CHECK_OK(netkit_loop_destroy(loop));
        }
        nkt_fault_clear();
        CHECK_EQ(nkt_open_fds(), fds);
    }
}

/* ---- run, stop ----------------------------------------------------------------- */

static void loop_stop_tick(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)timer;
    if (++*(int *)user % 3 == 0) {
        CHECK_OK(netkit_loop_stop(loop));
    }
}

/* L-02 PL21: a run of nothing ends at once; a stop before a run ends that run after its turn and
 * no later one; a stop in a callback ends it behind that turn. */
NKT_LOOP_TEST(loop_runs_and_stops) {
    netkit_loop *loop = nkt_loop();
    int ticks = 0;
    uint64_t turns;
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(netkit_loop_run_once(loop, 0), 0);
    CHECK_EQ(netkit_loop_poll(loop, 0), 0);
    CHECK_EQ(netkit_loop_poll(loop, -1), 0);
    CHECK(!netkit_loop_is_running(loop));
    CHECK_OK(netkit_timer_start(loop, NULL, 1000, 1000, loop_stop_tick, &ticks));
    CHECK_OK(netkit_loop_stop(loop));
    CHECK_OK(netkit_loop_stop(loop));
    turns = netkit_loop_turns(loop);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(netkit_loop_turns(loop), turns + 1);
    CHECK(ticks < 3);
    ticks = 0;
    for (int i = 1; i <= 5; i++) {
        CHECK_OK(netkit_loop_run(loop)); /* ends by the stop in the third tick */
        CHECK_EQ(ticks, 3 * i);
    }
    nkt_loop_done(loop);
}

/* PL21: run once waits its time and no longer, at once when there is something. */
NKT_LOOP_TEST(loop_run_once_waits_its_time) {
    netkit_loop *loop = nkt_loop();
    static tl_conn c;
    uint64_t began, took = UINT64_MAX;
    tl_open(loop, &c);
    tl_settle(loop);
    for (int tries = 0; took >= 400000000u * nkt_slowness; tries++) {
        CHECK(tries < 5); /* a busy machine may be late itself */
        began = nkt_now_ns();
        CHECK_EQ(netkit_loop_run_once(loop, 40), 0);
        took = nkt_now_ns() - began;
        CHECK(took >= 40000000);
    }
    tl_say(c.peer, "x");
    began = nkt_now_ns();
    CHECK_OK(netkit_loop_run_once(loop, -1));
    CHECK_EQ(c.datas, 1);
    CHECK(nkt_now_ns() - began < 2000000000u * nkt_slowness);
    took = UINT64_MAX;
    for (int tries = 0; took >= 500000000u * nkt_slowness; tries++) {
        CHECK(tries < 5);
        began = nkt_now_ns();
        CHECK_OK(netkit_loop_poll(loop, 1000000)); /* a budget is no wait */
        took = nkt_now_ns() - began;
    }
    tl_drop(loop, &c);
    nkt_loop_done(loop);
}

/* PL09: who pulls is told, too, but never instead of an event that can be fetched. */
NKT_LOOP_TEST(loop_says_so_behind_events) {
    netkit_loop_desc desc;
    netkit_timer timer;
    netkit_event event;
    tl_clock clock; /* of its own, so that no timer comes due between the two calls */
    int errors = 0, events = 0;
    memset(&desc, 0, sizeof(desc));
    desc.pull = true;
    netkit_loop *loop = tl_loop_on(&clock, 1000000, &desc);
    CHECK_OK(netkit_timer_start(loop, &timer, 100000, 0, NULL, NULL));
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_fault_waits(ENOMEM);
    for (int turn = 0; events == 0; turn++) {
        int code = netkit_loop_run_once(loop, 10);
        CHECK(turn < 100);
        CHECK(code >= 0 || code == NETKIT_E_NOMEM);
        errors += code < 0;
        int next = netkit_loop_next(loop, &event);
        CHECK(code == 1 || next != 1);
        events += next == 1;
        clock.now += 2000000;
    }
    CHECK(event.type == NETKIT_EVENT_TIMER);
    CHECK(errors > 0);
    nkt_fault_clear();
    CHECK_EQ(netkit_loop_run_once(loop, 0), 0);
    nkt_loop_done(loop);
}

static netkit_loop *loop_to_stop;

static void loop_on_alarm(int number) {
    (void)number;
    (void)netkit_loop_stop(loop_to_stop);
}

static void *loop_stop_thread(void *user) {
    nkt_sleep_ms(20);
    CHECK_OK(netkit_loop_stop((netkit_loop *)user));
    return NULL;
}

/* PL09 I-08: a wait that fails now and then is nobody's business; one that fails again and again is
 * told by whatever runs the loop, until it works again. */
NKT_LOOP_TEST(loop_says_that_waiting_fails) {
    netkit_loop *loop = nkt_loop();
    netkit_timer timer;
    int code = 0, ticks = 0;
    CHECK_OK(netkit_timer_start(loop, &timer, (uint64_t)3600 * 1000000, 0, loop_tick, &ticks));
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_fault_waits(ENOMEM);
    for (int i = 0; i < 1000 && code == 0; i++) {
        code = i % 2 == 0 ? netkit_loop_poll(loop, -1) : netkit_loop_run_once(loop, 1);
        CHECK(i > 2 || code == 0);
    }
    CHECK_ERR(code, NETKIT_E_NOMEM);
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_NOMEM);
    nkt_fault_clear();
    CHECK_EQ(netkit_loop_run_once(loop, 0), 0);
    CHECK_EQ(netkit_loop_poll(loop, -1), 0);
    nkt_loop_done(loop);
}

/* L-02 PL14: a stop from a signal handler and one from another thread end a run that sleeps. */
NKT_LOOP_TEST(loop_is_stopped_from_outside) {
    netkit_loop *loop = nkt_loop();
    int ticks = 0;
    pthread_t thread;
    uint64_t began = nkt_now_ns();
    CHECK_OK(netkit_timer_start(loop, NULL, 3600000000u, 0, loop_tick, &ticks));
    loop_to_stop = loop;
    CHECK(nkt_alarm(20000, 0, loop_on_alarm));
    CHECK_OK(netkit_loop_run(loop));
    CHECK(nkt_now_ns() - began >= 15000000);
    CHECK_EQ(pthread_create(&thread, NULL, loop_stop_thread, loop), 0);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(ticks, 0);
    nkt_loop_done(loop);
}

/* ---- in callbacks ---------------------------------------------------------------- */

typedef struct loop_nested {
    unsigned places; /* bits of where it was tried */
    tl_conn c;
} loop_nested;

enum {
    LOOP_IN_OPEN = 1,
    LOOP_IN_DATA = 2,
    LOOP_IN_EOF = 4,
    LOOP_IN_CLOSE = 8,
    LOOP_IN_TIMER = 16,
    LOOP_IN_POST = 32,
    LOOP_IN_WATCH = 64,
    LOOP_IN_RELEASE = 128,
    LOOP_IN_ACCEPT = 256,
    LOOP_IN_LISTENER_CLOSE = 512,
    LOOP_IN_HOOKS = 1024,
    LOOP_IN_DRAIN = 2048,
    LOOP_IN_ALL = 4095
};

static void loop_try_nested(netkit_loop *loop, loop_nested *n, unsigned place) {
    netkit_event ev;
    n->places |= place;
    CHECK(netkit_loop_is_running(loop));
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_run_once(loop, 0), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_poll(loop, 0), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_next(loop, &ev), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_destroy(loop), NETKIT_E_BUSY);
}

static void loop_nested_open(netkit_loop *loop, netkit_conn conn, void *user) {
    loop_nested *n = (loop_nested *)user;
    n->c.handle = conn;
    loop_try_nested(loop, n, LOOP_IN_OPEN);
}

static size_t loop_nested_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                               void *user) {
    (void)conn;
    (void)data;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_DATA);
    return len;
}

static void loop_nested_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)conn;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_DRAIN);
}

static void loop_nested_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_EOF);
    CHECK_OK(netkit_conn_close(loop, conn));
}

static void loop_nested_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                              void *user) {
    loop_nested *n = (loop_nested *)user;
    (void)conn;
    (void)info;
    n->c.closes++;
    loop_try_nested(loop, n, LOOP_IN_CLOSE);
}

static void loop_nested_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)timer;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_TIMER);
}

static void loop_nested_post(netkit_loop *loop, int status, void *user) {
    (void)status;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_POST);
}

static void loop_nested_watch(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    (void)events;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_WATCH);
    CHECK_OK(netkit_watch_stop(loop, watch));
}

static void loop_nested_release(netkit_loop *loop, int status, void *user) {
    (void)status;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_RELEASE);
}

static int loop_nested_accept(netkit_loop *loop, netkit_listener listener, const netkit_addr *peer,
                              void *user) {
    (void)listener;
    CHECK_EQ(peer->family, NETKIT_AF_IPV4);
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_ACCEPT);
    return 0;
}

static void loop_nested_listener_close(netkit_loop *loop, netkit_listener listener, void *user) {
    (void)listener;
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_LISTENER_CLOSE);
}

static void loop_nested_hook(netkit_loop *loop, void *user) {
    loop_try_nested(loop, (loop_nested *)user, LOOP_IN_HOOKS);
}

/* L-02 PL16: running, polling, pulling from and destroying a loop inside any of its callbacks is
 * BUSY and changes nothing. */
NKT_LOOP_TEST(loop_is_not_run_inside_itself) {
    static loop_nested n;
    static char big[262144];
    netkit_loop_desc loop_desc;
    netkit_listen_desc desc;
    netkit_listener listener;
    netkit_loop *loop;
    int fd, tube[2], code = NETKIT_OK;
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.before_turn = loop_desc.after_turn = loop_nested_hook;
    loop_desc.user = &n;
    loop = nkt_loop_with(&loop_desc);
    memset(&desc, 0, sizeof(desc));
    desc.handler.on_open = loop_nested_open;
    desc.handler.on_data = loop_nested_data;
    desc.handler.on_drain = loop_nested_drain;
    desc.handler.on_eof = loop_nested_eof;
    desc.handler.on_close = loop_nested_close;
    desc.on_accept = loop_nested_accept;
    desc.on_close = loop_nested_listener_close;
    desc.user = &n;
    fd = tl_dial(tl_listen(loop, &desc, &listener));
    TL_UNTIL(loop, n.c.handle.id != 0);
    CHECK_EQ(pipe(tube), 0);
    CHECK_EQ(write(tube[1], "x", 1), 1);
    CHECK_OK(netkit_watch_start(loop, NULL, (uintptr_t)tube[0], NETKIT_POLL_READ, loop_nested_watch,
                                &n));
    CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, loop_nested_timer, &n));
    CHECK_OK(netkit_loop_post(loop, loop_nested_post, &n));
    CHECK_OK(netkit_conn_send_borrowed(loop, n.c.handle, "lent", 4, loop_nested_release, &n));
    tl_say(fd, "x");
    TL_UNTIL(loop, (n.places & LOOP_IN_DATA) != 0);
    while (code == NETKIT_OK) {
        code = netkit_conn_send(loop, n.c.handle, big, sizeof(big) / 4);
        if (code == NETKIT_OK) {
            CHECK_OK(netkit_loop_poll(loop, -1));
        }
    }
    CHECK_ERR(code, NETKIT_E_FULL);
    while ((n.places & LOOP_IN_DRAIN) == 0) {
        CHECK(recv(fd, big, sizeof(big), MSG_DONTWAIT) != 0);
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    CHECK_EQ(shutdown(fd, SHUT_WR), 0);
    while (n.c.closes == 0) {
        (void)recv(fd, big, sizeof(big), MSG_DONTWAIT);
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    CHECK_OK(netkit_listener_close(loop, listener));
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(n.places, LOOP_IN_ALL);
    CHECK_EQ(close(fd) + close(tube[0]) + close(tube[1]), 0);
    nkt_loop_done(loop);
}

/* Where a victim is closed from. */
typedef struct loop_killer {
    netkit_loop *loop;
    tl_conn killer, victim;
    int way; /* 0 close, 1 abort, 2 both */
    bool is_self;
    int place; /* LOOP_IN_* */
    int done;
} loop_killer;

static void loop_kill(loop_killer *k, int place) {
    netkit_conn conn = k->is_self ? k->killer.handle : k->victim.handle;
    tl_conn *dying = k->is_self ? &k->killer : &k->victim;
    if (k->place != place || k->done > 0) {
        return;
    }
    k->done++;
    dying->in_call++; /* from here on_close would fail the test */
    if (k->way != 1) {
        CHECK_OK(netkit_conn_close(k->loop, conn));
        CHECK_OK(netkit_conn_close(k->loop, conn));
        CHECK_EQ(netkit_conn_phase(k->loop, conn), NETKIT_PHASE_CLOSING);
        CHECK_ERR(netkit_conn_send(k->loop, conn, "x", 1), NETKIT_E_CLOSED);
    }
    if (k->way != 0) {
        CHECK_OK(netkit_conn_abort(k->loop, conn));
    }
    CHECK_EQ(dying->closes, 0);
    dying->in_call--;
}

static loop_killer *loop_killer_of(void *user) {
    return (loop_killer *)(void *)((char *)user - offsetof(loop_killer, killer));
}

static void loop_kill_open(netkit_loop *loop, netkit_conn conn, void *user) {
    tl_on_open(loop, conn, user);
    loop_kill(loop_killer_of(user), LOOP_IN_OPEN);
}

static size_t loop_kill_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    size_t used = tl_on_data(loop, conn, data, len, user);
    loop_kill(loop_killer_of(user), LOOP_IN_DATA);
    return used;
}

static void loop_kill_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    loop_killer *k = loop_killer_of(user);
    tl_on_eof(loop, conn, user);
    loop_kill(k, LOOP_IN_EOF);
    CHECK_OK(netkit_conn_close(loop, conn));
}

static void loop_kill_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                            void *user) {
    loop_killer *k = loop_killer_of(user);
    tl_on_close(loop, conn, info, user);
    if (!k->is_self) {
        loop_kill(k, LOOP_IN_CLOSE);
    }
}

static void loop_kill_release(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    loop_kill(loop_killer_of(user), LOOP_IN_RELEASE);
}

static void loop_kill_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    loop_kill(loop_killer_of(user), LOOP_IN_TIMER);
}

static void loop_kill_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    loop_kill(loop_killer_of(user), LOOP_IN_POST);
}

static void loop_kill_once(int place, int way, bool is_self, bool is_fed) {
    static loop_killer k;
    static const netkit_handler handler = {loop_kill_open, loop_kill_data, NULL, loop_kill_eof,
                                           loop_kill_close};
    memset(&k, 0, sizeof(k));
    k.loop = nkt_loop();
    k.place = place;
    k.way = way;
    k.is_self = is_self;
    tl_open(k.loop, &k.victim);
    tl_adopt_as(k.loop, &k.killer, &handler, NULL);
    if (is_fed) {
        tl_say(k.victim.peer, "for the victim");
    }
    tl_say(k.killer.peer, "x");
    CHECK_OK(netkit_timer_start(k.loop, NULL, 0, 0, loop_kill_timer, &k.killer));
    CHECK_OK(netkit_loop_post(k.loop, loop_kill_post, &k.killer));
    if (place == LOOP_IN_RELEASE) {
        CHECK_OK(netkit_conn_send_borrowed(k.loop, k.killer.handle, "y", 1, loop_kill_release,
                                           &k.killer));
    }
    CHECK_EQ(shutdown(k.killer.peer, SHUT_WR), 0);
    TL_UNTIL(k.loop, k.done == 1);
    tl_hang_up(&k.killer);
    tl_hang_up(&k.victim); /* lets a graceful close end */
    TL_UNTIL(k.loop, k.killer.closes == 1);
    TL_UNTIL(k.loop, is_self ? true : k.victim.closes == 1);
    tl_settle(k.loop);
    CHECK_EQ(k.killer.closes, 1);
    CHECK_ERR(netkit_conn_phase(k.loop, k.killer.handle), NETKIT_E_STALE);
    nkt_loop_done(k.loop);
    CHECK_EQ(k.victim.closes, 1);
}

/* L-03 SD19 PL16 I2: a conn closed, aborted or both inside each kind of callback, its own or
 * another's, with and without data of its own in the same turn: one on_close, after the call, and
 * nothing behind it. */
NKT_LOOP_TEST(loop_conns_end_in_any_callback) {
    static const int places[] = {LOOP_IN_OPEN, LOOP_IN_DATA,  LOOP_IN_EOF,    LOOP_IN_CLOSE,
                                 LOOP_IN_POST, LOOP_IN_TIMER, LOOP_IN_RELEASE};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        for (int way = 0; way < 3; way++) {
            for (int kind = 0; kind < 4; kind++) {
                if (places[i] != LOOP_IN_CLOSE || kind % 2 == 0) {
                    loop_kill_once(places[i], way, kind % 2 == 1, kind >= 2);
                }
            }
        }
    }
}

static tl_conn *loop_other[2];

static size_t loop_fratricide(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                              void *user) {
    size_t used = tl_on_data(loop, conn, data, len, user);
    tl_conn *other = loop_other[user == loop_other[0]];
    uint64_t roll = nkt_random();
    int code = roll % 2 == 0 ? netkit_conn_abort(loop, other->handle)
                             : netkit_conn_close(loop, other->handle);
    CHECK(code == NETKIT_OK || (code == NETKIT_E_STALE && other->closes == 1));
    if (roll % 3 == 0) {
        CHECK_OK(netkit_conn_abort(loop, conn));
    }
    return used;
}

/* L-06 SD19 I2: two that are ready in the same batch, and each closes the other: 10 000 rounds at
 * random, one on_close each. */
NKT_LOOP_TEST(loop_conns_close_each_other) {
    static const netkit_handler handler = {tl_on_open, loop_fratricide, tl_on_drain, NULL,
                                           tl_on_close};
    netkit_loop *loop = nkt_loop();
    for (uint64_t round = 0; round < nkt_count(10000, 1000); round++) {
        tl_conn a, b;
        memset(&a, 0, sizeof(a));
        memset(&b, 0, sizeof(b));
        loop_other[0] = &a;
        loop_other[1] = &b;
        tl_adopt_as(loop, &a, &handler, NULL);
        tl_adopt_as(loop, &b, &handler, NULL);
        CHECK_OK(netkit_loop_poll(loop, -1));
        if (round % 2 == 0) {
            tl_say(a.peer, "x");
            tl_say(b.peer, "x");
        } else {
            tl_say(b.peer, "x");
            tl_say(a.peer, "x");
            tl_hang_up(&a);
        }
        CHECK_OK(netkit_loop_run_once(loop, 1000));
        CHECK(a.datas + b.datas >= 1);
        tl_hang_up(&a);
        tl_hang_up(&b);
        TL_UNTIL(loop, a.closes == 1 && b.closes == 1);
    }
    nkt_loop_done(loop);
}

static int loop_released;
static int loop_release_status;

static void loop_release(netkit_loop *loop, int status, void *user) {
    tl_conn *c = (tl_conn *)user;
    (void)loop;
    CHECK(status < 0);
    CHECK_EQ(c->closes, 0);
    loop_release_status = status;
    loop_released++;
}

/* I1 I2: what a closing conn had borrowed comes back first, in order, then its on_close. */
NKT_LOOP_TEST(loop_closes_in_order) {
    enum {
        COUNT = 6
    };
    static char big[200000];
    static tl_conn all[COUNT];
    netkit_loop *loop = nkt_loop();
    for (int i = 0; i < COUNT; i++) {
        int code = NETKIT_OK;
        tl_open(loop, &all[i]);
        while (code == NETKIT_OK) { /* until the socket's buffer is full */
            code = netkit_conn_send(loop, all[i].handle, big, sizeof(big));
            CHECK_OK(netkit_loop_poll(loop, -1));
        }
        for (int k = 0; k < 3; k++) {
            (void)netkit_conn_send_borrowed(loop, all[i].handle, big, 10, loop_release, &all[i]);
        }
    }
    CHECK_OK(netkit_loop_poll(loop, -1));
    for (int i = COUNT - 1; i >= 0; i--) {
        CHECK_OK(netkit_conn_abort(loop, all[i].handle));
        CHECK_EQ(loop_released, 0);
    }
    TL_UNTIL(loop, all[0].closes == 1);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(all[i].closes, 1);
        CHECK(all[i].info.unsent > 0);
        CHECK_EQ(all[i].info.op, NETKIT_OP_CLOSE);
        CHECK_ERR(all[i].info.code, loop_release_status); /* the same reason */
        tl_hang_up(&all[i]);
    }
    CHECK_EQ(loop_released, 3 * COUNT);
    nkt_loop_done(loop);
}

/* ---- handles --------------------------------------------------------------------- */

/* Each call with a handle that names nothing alive. */
static void loop_expect_stale(netkit_loop *loop, netkit_conn conn, netkit_listener listener,
                              netkit_timer timer, netkit_watch watch) {
    netkit_addr addr;
    netkit_handler handler = tl_handler();
    netkit_span span = {"x", 1};
    netkit_buf buf;
    size_t size;
    uint64_t left;
    uintptr_t native;
    int value;
    CHECK_ERR(netkit_conn_send(loop, conn, "x", 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_sendv(loop, conn, &span, 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_send_borrowed(loop, conn, "x", 1, loop_release, NULL), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_pause(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_resume(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_shutdown(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_close(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_abort(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_queued(loop, conn, &size), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_unread(loop, conn, &size), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_phase(loop, conn), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_local(loop, conn, &addr), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_remote(loop, conn, &addr), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_native(loop, conn, &native), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_set_option(loop, conn, NETKIT_OPT_NODELAY, 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_get_option(loop, conn, NETKIT_OPT_NODELAY, &value), NETKIT_E_STALE);
    CHECK(netkit_conn_user(loop, conn) == NULL);
    CHECK(netkit_conn_ext(loop, conn) == NULL);
    CHECK_ERR(netkit_conn_set_user(loop, conn, NULL), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_set_handler(loop, conn, &handler, NULL), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_set_idle_timeout(loop, conn, 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_set_deadline(loop, conn, 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_set_referenced(loop, conn, true), NETKIT_E_STALE);
    CHECK_ERR(netkit_conn_keep(loop, conn, &buf), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_close(loop, listener), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_local(loop, listener, &addr), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_set_referenced(loop, listener, true), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_restart(loop, timer, 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_stop(loop, timer), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_remaining(loop, timer, &left), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_set_referenced(loop, timer, true), NETKIT_E_STALE);
    CHECK_ERR(netkit_watch_set(loop, watch, 0), NETKIT_E_STALE);
    CHECK_ERR(netkit_watch_stop(loop, watch), NETKIT_E_STALE);
    CHECK_ERR(netkit_watch_set_referenced(loop, watch, true), NETKIT_E_STALE);
}

/* Of each kind one. */
typedef struct loop_things {
    tl_conn c;
    netkit_listener listener;
    netkit_timer timer;
    netkit_watch watch;
    int tube[2], ticks;
} loop_things;

static void loop_things_open(netkit_loop *loop, loop_things *t) {
    netkit_listen_desc desc;
    memset(t, 0, sizeof(*t));
    memset(&desc, 0, sizeof(desc));
    tl_open(loop, &t->c);
    (void)tl_listen(loop, &desc, &t->listener);
    CHECK_OK(netkit_timer_start(loop, &t->timer, 3600000000u, 0, loop_tick, &t->ticks));
    CHECK_EQ(pipe(t->tube), 0);
    CHECK_OK(netkit_watch_start(loop, &t->watch, (uintptr_t)t->tube[0], NETKIT_POLL_READ,
                                loop_ignore_watch, NULL));
}

static void loop_things_close(loop_things *t) {
    tl_hang_up(&t->c);
    CHECK_EQ(close(t->tube[0]) + close(t->tube[1]), 0);
}

/* L-04 ER07 I5: handles that are zero, dead, of another kind, of another loop or made up are
 * STALE in every call, and hurt nobody. */
NKT_LOOP_TEST(loop_handles_that_name_nothing) {
    netkit_loop_desc desc;
    netkit_loop *loop, *second;
    loop_things t, u;
    netkit_conn conn = {0};
    netkit_listener listener = {0};
    netkit_timer timer = {0};
    netkit_watch watch = {0};
    memset(&desc, 0, sizeof(desc));
    desc.seed = 1000;
    loop = nkt_loop_with(&desc);
    desc.seed = 500000;
    second = nkt_loop_with(&desc);
    loop_expect_stale(loop, conn, listener, timer, watch);
    loop_things_open(loop, &t);
    loop_things_open(second, &u);
    loop_expect_stale(loop, conn, listener, timer, watch);
    loop_expect_stale(loop, u.c.handle, u.listener, u.timer, u.watch);
    loop_expect_stale(second, t.c.handle, t.listener, t.timer, t.watch);
    conn.id = t.listener.id; /* each of another kind */
    listener.id = t.watch.id;
    timer.id = t.c.handle.id;
    watch.id = t.timer.id;
    loop_expect_stale(loop, conn, listener, timer, watch);
    conn.id = t.watch.id;
    listener.id = t.c.handle.id;
    timer.id = t.listener.id;
    watch.id = t.listener.id;
    loop_expect_stale(loop, conn, listener, timer, watch);
    for (int i = 0; i < 2000; i++) { /* and one bit off, or any number */
        uint64_t bit = (uint64_t)1 << (i % 64);
        uint64_t other = i < 64 ? bit : nkt_random();
        conn.id = t.c.handle.id ^ other;
        listener.id = t.listener.id ^ other;
        timer.id = t.timer.id ^ other;
        watch.id = t.watch.id ^ other;
        if (i < 64 || (other != 0 && other >> 32 != 0)) {
            loop_expect_stale(loop, conn, listener, timer, watch);
        }
    }
    CHECK_EQ(netkit_loop_objects(loop), 4);
    CHECK_OK(netkit_timer_stop(loop, t.timer));
    CHECK_OK(netkit_watch_stop(loop, t.watch));
    CHECK_OK(netkit_listener_close(loop, t.listener));
    CHECK_OK(netkit_conn_abort(loop, t.c.handle));
    TL_UNTIL(loop, t.c.closes == 1);
    CHECK_OK(netkit_loop_run(loop));
    loop_expect_stale(loop, t.c.handle, t.listener, t.timer, t.watch);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    CHECK_EQ(t.ticks, 0);
    loop_things_close(&t);
    nkt_loop_done(loop);
    nkt_loop_done(second);
    loop_things_close(&u);
}

/* L-04: on a closing conn the getters work, close is OK and all else is CLOSED. */
NKT_LOOP_TEST(loop_calls_on_a_closing_conn) {
    netkit_loop *loop = nkt_loop();
    static tl_conn c;
    netkit_span span = {"x", 1};
    netkit_addr addr;
    size_t size = 1;
    uintptr_t native = 0;
    int got = 0;
    char text[8];
    tl_open(loop, &c);
    CHECK_OK(netkit_conn_send(loop, c.handle, "bye", 3));
    CHECK_OK(netkit_conn_close(loop, c.handle));
    CHECK_OK(netkit_conn_close(loop, c.handle));
    CHECK_EQ(netkit_conn_phase(loop, c.handle), NETKIT_PHASE_CLOSING);
    CHECK(netkit_conn_user(loop, c.handle) == &c);
    CHECK_OK(netkit_conn_queued(loop, c.handle, &size));
    CHECK_OK(netkit_conn_unread(loop, c.handle, &size));
    CHECK_OK(netkit_conn_local(loop, c.handle, &addr));
    CHECK_OK(netkit_conn_remote(loop, c.handle, &addr));
    CHECK_OK(netkit_conn_native(loop, c.handle, &native));
    CHECK_ERR(netkit_conn_send(loop, c.handle, "x", 1), NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_sendv(loop, c.handle, &span, 1), NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_send_borrowed(loop, c.handle, "x", 1, loop_release, NULL),
              NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_pause(loop, c.handle), NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_resume(loop, c.handle), NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_shutdown(loop, c.handle), NETKIT_E_CLOSED);
    CHECK_EQ(c.closes, 0);
    for (int i = 0; i < 5; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    CHECK_EQ(c.closes, 0); /* the peer has not ended its own direction yet */
    got = (int)recv(c.peer, text, sizeof(text), MSG_WAITALL);
    CHECK_EQ(got, 3);
    tl_hang_up(&c);
    TL_UNTIL(loop, c.closes == 1);
    CHECK_ERR(c.info.code, NETKIT_OK);
    CHECK_EQ(c.info.unsent, 0);
    nkt_loop_done(loop);
}

/* ER07: no loop, nowhere to write to and descs that cannot be: INVALID, and nothing is made. */
NKT_LOOP_TEST(loop_bad_arguments_are_invalid) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc adopt;
    netkit_connect_desc connect;
    netkit_listen_desc listen;
    netkit_conn conn = {1};
    netkit_listener listener = {1};
    netkit_event ev;
    netkit_timer timer = {1};
    tl_conn c;
    CHECK_ERR(netkit_loop_create(NULL, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_run(NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_run_once(NULL, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_poll(NULL, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_stop(NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_flush(NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_adopt(NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_post(NULL, loop_count_post, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_next(NULL, &ev), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_native(loop, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_timer_start(NULL, &timer, 1, 0, loop_tick, NULL), NETKIT_E_INVALID);
    CHECK_EQ(timer.id, 0);
    CHECK_ERR(netkit_listen(loop, NULL, &listener), NETKIT_E_INVALID);
    CHECK_EQ(listener.id, 0);
    CHECK_ERR(netkit_connect(loop, NULL, &conn), NETKIT_E_INVALID);
    CHECK_EQ(conn.id, 0);
    conn.id = 1;
    CHECK_ERR(netkit_adopt(loop, NULL, &conn), NETKIT_E_INVALID);
    CHECK_EQ(conn.id, 0);
    memset(&adopt, 0, sizeof(adopt));
    memset(&connect, 0, sizeof(connect));
    memset(&listen, 0, sizeof(listen));
    CHECK_ERR(netkit_adopt(loop, &adopt, &conn), NETKIT_E_INVALID);
    CHECK_ERR(netkit_connect(loop, &connect, &conn), NETKIT_E_INVALID);
    CHECK_ERR(netkit_listen(loop, &listen, &listener), NETKIT_E_INVALID);
    connect.address = "nonsense";
    listen.address = "127.0.0.1:99999";
    CHECK_ERR(netkit_connect(loop, &connect, &conn), NETKIT_E_INVALID);
    CHECK_ERR(netkit_listen(loop, &listen, &listener), NETKIT_E_INVALID);
    CHECK_EQ(netkit_loop_references(loop), 0);
    memset(&c, 0, sizeof(c));
    tl_open(loop, &c);
    CHECK_ERR(netkit_conn_queued(loop, c.handle, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_local(loop, c.handle, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_native(loop, c.handle, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send(loop, c.handle, NULL, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_sendv(loop, c.handle, NULL, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_borrowed(loop, c.handle, NULL, 1, loop_release, NULL),
              NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_set_handler(loop, c.handle, NULL, NULL), NETKIT_E_INVALID);
    tl_drop(loop, &c);
    nkt_loop_done(loop);
}

/* ---- numbers that come again --------------------------------------------------------- */

enum {
    LOOP_BATCH = 64
};

typedef struct loop_batch {
    tl_conn old[LOOP_BATCH], fresh[LOOP_BATCH];
    bool is_done;
    bool is_closed[LOOP_BATCH];
} loop_batch;

static loop_batch *loop_the_batch;

static size_t loop_batch_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                              void *user) {
    loop_batch *b = loop_the_batch;
    tl_conn *self = (tl_conn *)user;
    size_t used = tl_on_data(loop, conn, data, len, user);
    CHECK(!b->is_closed[self - b->old]);
    if (!b->is_done) {
        b->is_done = true;
        for (int i = 0, closed = 0; i < LOOP_BATCH && closed < LOOP_BATCH / 2; i++) {
            if (&b->old[i] != self && b->old[i].datas == 0) {
                CHECK_OK(netkit_conn_abort(loop, b->old[i].handle));
                b->is_closed[i] = true;
                closed++;
                tl_hang_up(&b->old[i]);
                tl_adopt(loop, &b->fresh[i]);
            }
        }
    }
    return used;
}

/* L-05 SD32 PL15 I5 BX01: in one wake-up with 64 ready conns the first callback ends half of them
 * and opens as many; the new ones hear nothing that is not theirs, the ended ones nothing. */
NKT_LOOP_TEST(loop_batch_survives_its_members) {
    static loop_batch b;
    static const netkit_handler handler = {tl_on_open, loop_batch_data, tl_on_drain, tl_on_eof,
                                           tl_on_close};
    nkt_want_descriptors(6 * LOOP_BATCH);
    for (int round = 0; round < 10; round++) {
        netkit_loop *loop = nkt_loop();
        memset(&b, 0, sizeof(b));
        loop_the_batch = &b;
        for (int i = 0; i < LOOP_BATCH; i++) {
            tl_adopt_as(loop, &b.old[i], &handler, NULL);
            b.fresh[i].peer = -1;
        }
        tl_settle(loop);
        for (int i = 0; i < LOOP_BATCH; i++) {
            tl_say(b.old[i].peer, "mine");
        }
        CHECK_OK(netkit_loop_run_once(loop, 1000));
        CHECK(b.is_done);
        tl_settle(loop);
        for (int i = 0; i < LOOP_BATCH; i++) {
            CHECK_EQ(b.old[i].closes, b.is_closed[i]);
            CHECK_EQ(b.old[i].bytes, b.is_closed[i] ? 0 : 4);
            CHECK_EQ(b.fresh[i].opens, b.is_closed[i]);
            CHECK_EQ(b.fresh[i].datas + b.fresh[i].eofs + b.fresh[i].closes, 0);
            if (b.is_closed[i]) {
                tl_say(b.fresh[i].peer, "fresh");
            }
        }
        tl_settle(loop);
        nkt_loop_done(loop);
        for (int i = 0; i < LOOP_BATCH; i++) {
            CHECK_EQ(b.fresh[i].bytes, b.is_closed[i] ? 5 : 0);
            CHECK_EQ(b.fresh[i].closes, b.is_closed[i]);
            CHECK_EQ(b.old[i].closes, 1);
            tl_hang_up(&b.old[i]);
            tl_hang_up(&b.fresh[i]);
        }
    }
}

typedef struct loop_reuse {
    netkit_conn conn;
    uint64_t tag, got;
    bool is_closed;
    int peer;
} loop_reuse;

static size_t loop_reuse_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                              void *user) {
    loop_reuse *r = (loop_reuse *)user;
    uint64_t tag = 0;
    (void)loop;
    CHECK(!r->is_closed && r->conn.id == conn.id && len == sizeof(tag));
    memcpy(&tag, data, sizeof(tag));
    if (tag != r->tag) {
        CHECK_EQ(tag, r->tag);
    }
    r->got++;
    return len;
}

static void loop_reuse_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                             void *user) {
    loop_reuse *r = (loop_reuse *)user;
    (void)loop;
    (void)info;
    CHECK(!r->is_closed && r->conn.id == conn.id);
    r->is_closed = true;
}

/* BX01 SD18 SD32 L-05 PL15 I5: a million conns on a handful of descriptor numbers, each with bytes
 * of its own and half of them ended with bytes unread: none is told another's; memory is flat. */
NKT_LOOP_TEST(loop_descriptors_are_reused_a_million_times) {
    enum {
        RING = 16
    };
    static loop_reuse ring[RING];
    static uint64_t tag;
    netkit_loop *loop = nkt_loop();
    uint64_t rounds = nkt_count(1000000, 20000) / RING, heard = 0;
    int64_t live = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        for (int i = 0; i < RING; i++) {
            netkit_adopt_desc desc;
            int fds[2];
            CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
            memset(&desc, 0, sizeof(desc));
            memset(&ring[i], 0, sizeof(ring[i]));
            desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
            desc.handler.on_data = loop_reuse_data;
            desc.handler.on_close = loop_reuse_close;
            desc.user = &ring[i];
            ring[i].peer = fds[1];
            ring[i].tag = ++tag;
            CHECK_OK(netkit_adopt(loop, &desc, &ring[i].conn));
            CHECK_EQ(write(fds[1], &tag, sizeof(tag)), sizeof(tag));
        }
        if (round % 3 != 0) {
            CHECK_OK(netkit_loop_run_once(loop, 0));
        }
        for (int i = 0; i < RING; i++) {
            CHECK_OK(netkit_conn_abort(loop, ring[i].conn));
        }
        CHECK_OK(netkit_loop_poll(loop, -1));
        for (int i = 0; i < RING; i++) {
            CHECK(ring[i].is_closed && ring[i].got <= 1);
            CHECK_EQ(close(ring[i].peer), 0);
            heard += ring[i].got;
        }
        if (round == rounds / 10) {
            live = nkt_live_bytes();
        }
    }
    CHECK(heard > rounds);
    CHECK(nkt_live_bytes() <= live);
    nkt_loop_done(loop);
}

/* L-07: a duplicate of an ended conn's descriptor wakes nobody. */
NKT_LOOP_TEST(loop_leaves_nothing_behind_in_a_duplicate) {
    netkit_loop *loop = nkt_loop();
    static tl_conn c;
    uint64_t turns, end, cpu;
    int copy;
    tl_open(loop, &c);
    copy = dup(tl_native(loop, c.handle));
    CHECK(copy >= 0);
    CHECK_OK(netkit_conn_abort(loop, c.handle));
    TL_UNTIL(loop, c.closes == 1);
    tl_settle(loop);
    turns = netkit_loop_turns(loop);
    cpu = nkt_thread_cpu_ns();
    end = nkt_now_ns() + nkt_scale(2000, 200) * 1000000u;
    while (nkt_now_ns() < end) {
        (void)send(c.peer, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
    CHECK(netkit_loop_turns(loop) - turns <= nkt_scale(25, 5));
    CHECK(nkt_thread_cpu_ns() - cpu < 50000000u * nkt_slowness);
    CHECK_EQ(c.datas, 0);
    CHECK_EQ(close(copy), 0);
    tl_hang_up(&c);
    nkt_loop_done(loop);
}

/* L-09: a conn's descriptor is closed behind the loop's back: no spin, no crash, its end comes
 * once, and what others have open stays open. */
NKT_LOOP_TEST(loop_bears_a_descriptor_closed_under_it) {
    netkit_loop *loop = nkt_loop();
    static tl_conn c, other;
    uint64_t turns, end;
    char text[8];
    tl_open(loop, &c);
    tl_open(loop, &other);
    other.is_echo = true;
    CHECK_EQ(close(tl_native(loop, c.handle)), 0);
    turns = netkit_loop_turns(loop);
    end = nkt_now_ns() + 200000000u;
    while (nkt_now_ns() < end) {
        CHECK_OK(netkit_loop_run_once(loop, 50));
    }
    CHECK(netkit_loop_turns(loop) - turns <= 20);
    if (c.closes == 0) {
        (void)netkit_conn_send(loop, c.handle, "x", 1);
        CHECK_OK(netkit_loop_poll(loop, -1));
    }
    if (c.closes == 0) {
        CHECK_OK(netkit_conn_abort(loop, c.handle));
    }
    TL_UNTIL(loop, c.closes == 1);
    tl_say(other.peer, "ok");
    TL_UNTIL(loop, other.datas == 1);
    CHECK_STR(tl_hear(other.peer, text, sizeof(text)), "ok");
    tl_hang_up(&c);
    tl_drop(loop, &other);
    nkt_loop_done(loop);
}

/* ---- signals ---------------------------------------------------------------------- */

static volatile sig_atomic_t loop_alarms;

static void loop_count_alarm(int number) {
    (void)number;
    loop_alarms++;
}

typedef struct loop_stream {
    int fd;
    uint64_t len;
    bool is_right;
    pthread_t threads[2];
} loop_stream;

static unsigned char loop_byte(uint64_t at) {
    return (unsigned char)(at * 131 + (at >> 9));
}

static void *loop_stream_send(void *user) {
    loop_stream *s = (loop_stream *)user;
    unsigned char data[16384];
    nkt_alarm_mask(true);
    for (uint64_t at = 0; at < s->len;) {
        size_t len = s->len - at < sizeof(data) ? (size_t)(s->len - at) : sizeof(data);
        for (size_t i = 0; i < len; i++) {
            data[i] = loop_byte(at + i);
        }
        for (size_t done = 0; done < len;) {
            ssize_t put = send(s->fd, data + done, len - done, MSG_NOSIGNAL);
            CHECK(put > 0);
            done += (size_t)put;
        }
        at += len;
    }
    CHECK_EQ(shutdown(s->fd, SHUT_WR), 0);
    return NULL;
}

static void *loop_stream_recv(void *user) {
    loop_stream *s = (loop_stream *)user;
    unsigned char data[16384];
    uint64_t at = 0;
    ssize_t got;
    nkt_alarm_mask(true);
    while ((got = recv(s->fd, data, sizeof(data), 0)) > 0) {
        for (ssize_t i = 0; i < got; i++, at++) {
            if (data[i] != loop_byte(at)) {
                return NULL;
            }
        }
    }
    s->is_right = got == 0 && at == s->len;
    return NULL;
}

static void loop_stream_start(loop_stream *s, int fd, uint64_t len) {
    s->fd = fd;
    s->len = len;
    s->is_right = false;
    CHECK_EQ(pthread_create(&s->threads[0], NULL, loop_stream_send, s), 0);
    CHECK_EQ(pthread_create(&s->threads[1], NULL, loop_stream_recv, s), 0);
}

static void loop_stream_join(loop_stream *s) {
    CHECK_EQ(pthread_join(s->threads[0], NULL), 0);
    CHECK_EQ(pthread_join(s->threads[1], NULL), 0);
    CHECK(s->is_right);
}

typedef struct loop_late {
    uint64_t last_ns, longest_ns, count;
    int late; /* gaps that are too long */
} loop_late;

static void loop_measure(netkit_loop *loop, netkit_timer timer, void *user) {
    loop_late *late = (loop_late *)user;
    uint64_t now = nkt_now_ns();
    (void)loop;
    (void)timer;
    late->longest_ns =
        now - late->last_ns > late->longest_ns ? now - late->last_ns : late->longest_ns;
    late->late += now - late->last_ns >= 205000000u * nkt_slowness;
    late->last_ns = now;
    late->count++;
}

/* L-08 Z-04: a thousand signals a second, without restarting of calls, while 10 MB are echoed:
 * every byte comes back and timers keep their time. */
NKT_LOOP_TEST(loop_endures_a_storm_of_signals) {
    netkit_loop *loop = nkt_loop();
    static tl_conn c;
    loop_stream s;
    loop_late late = {nkt_now_ns(), 0, 0, 0};
    netkit_timer timer = {0};
    c.is_echo = c.closes_at_eof = true;
    tl_open(loop, &c);
    CHECK_OK(netkit_timer_start(loop, &timer, 5000, 5000, loop_measure, &late));
    loop_stream_start(&s, c.peer, nkt_scale(100000000, 10000000));
    CHECK(nkt_alarm(1000, 1000, loop_count_alarm));
    while (c.closes == 0 || loop_alarms < 20) {
        CHECK_OK(netkit_loop_run_once(loop, 1000));
    }
    CHECK(nkt_alarm(0, 0, loop_count_alarm));
    loop_stream_join(&s);
    printf("%d signals, %" PRIu64 " us at most between ticks\n", (int)loop_alarms,
           late.longest_ns / 1000);
    CHECK_ERR(c.info.code, NETKIT_OK);
    CHECK(late.count > 0);
    CHECK(late.late <= 1); /* the machine itself may stand still once */
    CHECK_OK(netkit_timer_stop(loop, timer));
    tl_hang_up(&c);
    nkt_loop_done(loop);
}

/* ---- fairness ------------------------------------------------------------------------ */

/* PL23 L-10 R5: one turn reads a conn's budget and no more, the others are served in that turn. */
NKT_LOOP_TEST(loop_budgets_each_conn) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    static tl_conn flood, small[10];
    static char data[100000];
    int turns = 0;
    ssize_t put;
    memset(&desc, 0, sizeof(desc));
    desc.conn_budget = 1000;
    loop = nkt_loop_with(&desc);
    tl_open(loop, &flood);
    for (int i = 0; i < 10; i++) {
        tl_open(loop, &small[i]);
    }
    put = send(flood.peer, data, sizeof(data), MSG_DONTWAIT);
    CHECK(put > 20000);
    for (uint64_t before = 0; before < (uint64_t)put; before = flood.bytes, turns++) {
        for (int i = 0; i < 10; i++) {
            tl_say(small[i].peer, "x");
        }
        CHECK_OK(netkit_loop_run_once(loop, 1000));
        CHECK(flood.bytes > before);
        CHECK(flood.bytes - before <= 1000 + 65536);
        for (int i = 0; i < 10; i++) {
            CHECK_EQ(small[i].bytes, turns + 1);
        }
    }
    tl_drop(loop, &flood);
    for (int i = 0; i < 10; i++) {
        tl_drop(loop, &small[i]);
    }
    nkt_loop_done(loop);
}

/* L-10: of two busy peers one is not read: the other is served, and the first's bytes wait. */
NKT_LOOP_TEST(loop_serves_beside_a_paused_conn) {
    netkit_loop *loop = nkt_loop();
    static tl_conn paused, served;
    uint64_t turns;
    tl_open(loop, &paused);
    tl_open(loop, &served);
    CHECK_OK(netkit_conn_pause(loop, paused.handle));
    tl_say(paused.peer, "wait");
    for (int i = 1; i <= 100; i++) {
        tl_say(served.peer, "x");
        TL_UNTIL(loop, served.datas == i);
    }
    CHECK_EQ(paused.datas, 0);
    turns = netkit_loop_turns(loop);
    CHECK_EQ(netkit_loop_run_once(loop, 50), 0);
    CHECK(netkit_loop_turns(loop) - turns <= 2);
    CHECK_OK(netkit_conn_resume(loop, paused.handle));
    TL_UNTIL(loop, paused.bytes == 4);
    tl_drop(loop, &paused);
    tl_drop(loop, &served);
    nkt_loop_done(loop);
}

typedef struct loop_flooder {
    int fd;
    bool is_over;
    bool has_ended;
    uint64_t sent;
    pthread_t thread;
} loop_flooder;

static void *loop_flood(void *user) {
    loop_flooder *f = (loop_flooder *)user;
    static const char data[65536];
    while (!TL_GET(&f->is_over)) {
        ssize_t put = send(f->fd, data, sizeof(data), MSG_NOSIGNAL);
        CHECK(put > 0);
        f->sent += (uint64_t)put;
    }
    TL_SET(&f->has_ended, true);
    return NULL;
}

enum {
    LOOP_PINGS = 300
};

typedef struct loop_pinger {
    int fd;
    netkit_loop *loop;
    uint64_t took_ns[LOOP_PINGS];
    pthread_t thread;
} loop_pinger;

static int loop_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void *loop_ping(void *user) {
    loop_pinger *p = (loop_pinger *)user;
    char data = 'x';
    for (int i = 0; i < LOOP_PINGS; i++) {
        uint64_t began = nkt_now_ns();
        CHECK_EQ(send(p->fd, &data, 1, MSG_NOSIGNAL), 1);
        CHECK_EQ(recv(p->fd, &data, 1, 0), 1);
        p->took_ns[i] = nkt_now_ns() - began;
    }
    qsort(p->took_ns, LOOP_PINGS, sizeof(p->took_ns[0]), loop_compare);
    CHECK_OK(netkit_loop_stop(p->loop));
    return NULL;
}

/* L-10 PL23: two peers that send as much as they can do not keep a small one waiting. */
NKT_LOOP_TEST(loop_is_fair_under_flood) {
    netkit_loop *loop = nkt_loop();
    static tl_conn conns[3];
    static loop_flooder flooders[2];
    static loop_pinger p;
    for (int i = 0; i < 3; i++) {
        conns[i].is_echo = i == 2;
        tl_open(loop, &conns[i]);
    }
    for (int i = 0; i < 2; i++) {
        flooders[i].fd = conns[i].peer;
        CHECK_EQ(pthread_create(&flooders[i].thread, NULL, loop_flood, &flooders[i]), 0);
    }
    TL_UNTIL(loop, conns[0].bytes > 0 && conns[1].bytes > 0); /* the pings may be quick */
    p.fd = conns[2].peer;
    p.loop = loop;
    CHECK_EQ(pthread_create(&p.thread, NULL, loop_ping, &p), 0);
    CHECK_OK(netkit_loop_run(loop));
    TL_SET(&flooders[0].is_over, true);
    TL_SET(&flooders[1].is_over, true);
    CHECK_EQ(pthread_join(p.thread, NULL), 0);
    for (int i = 0; i < 2; i++) {
        while (!TL_GET(&flooders[i].has_ended)) {
            CHECK_OK(netkit_loop_run_once(loop, 1));
        }
        CHECK_EQ(pthread_join(flooders[i].thread, NULL), 0);
        TL_UNTIL(loop, conns[i].bytes == flooders[i].sent);
    }
    printf("99%% of pings in %" PRIu64 " us beside %" PRIu64 " MB\n",
           p.took_ns[LOOP_PINGS * 99 / 100] / 1000,
           (flooders[0].sent + flooders[1].sent) / 1000000);
    CHECK(p.took_ns[LOOP_PINGS * 99 / 100] < 200000000u * nkt_slowness);
    for (int i = 0; i < 3; i++) {
        tl_drop(loop, &conns[i]);
    }
    nkt_loop_done(loop);
}

/* ---- hooks, counters, references, times ------------------------------------------------ */

typedef struct loop_hooks {
    int before, after;
    uint64_t turns;
    int ticks;
} loop_hooks;

static void loop_before(netkit_loop *loop, void *user) {
    loop_hooks *h = (loop_hooks *)user;
    CHECK(netkit_loop_user(loop) == user);
    CHECK_EQ(h->before, h->after);
    h->before++;
    h->turns = netkit_loop_turns(loop);
}

static void loop_after(netkit_loop *loop, void *user) {
    loop_hooks *h = (loop_hooks *)user;
    h->after++;
    CHECK_EQ(h->before, h->after);
    CHECK_EQ(netkit_loop_turns(loop), h->turns + 1);
}

/* PL18 PL19: hooks frame every turn, and turns are counted. */
NKT_LOOP_TEST(loop_hooks_frame_each_turn) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    loop_hooks h;
    uint64_t now;
    memset(&h, 0, sizeof(h));
    memset(&desc, 0, sizeof(desc));
    desc.before_turn = loop_before;
    desc.after_turn = loop_after;
    desc.user = &h;
    loop = nkt_loop_with(&desc);
    CHECK_EQ(netkit_loop_turns(loop), 0);
    for (int i = 1; i <= 5; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 0));
        CHECK_EQ(h.after, i);
        CHECK_EQ(netkit_loop_turns(loop), i);
    }
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(h.after, 6);
    CHECK_OK(netkit_timer_start(loop, NULL, 2000, 0, loop_tick, &h.ticks));
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(h.ticks, 1);
    CHECK_EQ(netkit_loop_turns(loop), h.after);
    now = netkit_loop_now(loop);
    CHECK(netkit_loop_turn_time(loop) <= now);
    nkt_sleep_ms(2);
    CHECK(netkit_loop_now(loop) >= now + 2000000);
    CHECK(netkit_loop_turn_time(loop) <= now);
    nkt_loop_done(loop);
}

/* PL20 PL21: what is unreferenced works but keeps no run going; counts tell both. */
NKT_LOOP_TEST(loop_unreferenced_objects_do_not_count) {
    netkit_loop *loop = nkt_loop();
    loop_things t;
    int once = 0;
    loop_things_open(loop, &t);
    CHECK_EQ(netkit_loop_objects(loop), 4);
    CHECK_EQ(netkit_loop_references(loop), 4);
    CHECK_OK(netkit_conn_set_referenced(loop, t.c.handle, false));
    CHECK_OK(netkit_conn_set_referenced(loop, t.c.handle, false));
    CHECK_OK(netkit_listener_set_referenced(loop, t.listener, false));
    CHECK_OK(netkit_timer_set_referenced(loop, t.timer, false));
    CHECK_OK(netkit_watch_set_referenced(loop, t.watch, false));
    CHECK_EQ(netkit_loop_objects(loop), 4);
    CHECK_EQ(netkit_loop_references(loop), 0);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_OK(netkit_timer_start(loop, NULL, 10000, 0, loop_tick, &once));
    tl_say(t.c.peer, "x");
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(once, 1);
    CHECK_EQ(t.c.datas, 1);
    CHECK_OK(netkit_conn_set_referenced(loop, t.c.handle, true));
    CHECK_EQ(netkit_loop_references(loop), 1);
    CHECK_EQ(close(t.c.peer), 0); /* which ends the conn and so the run */
    t.c.peer = -1;
    t.c.closes_at_eof = true;
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(t.c.closes, 1);
    CHECK_EQ(netkit_loop_objects(loop), 3);
    nkt_loop_done(loop);
    loop_things_close(&t);
}

/* C4 PL16: what was queued between turns goes out by flush, at once, with nobody called back. */
NKT_LOOP_TEST(loop_flush_sends_and_calls_nobody) {
    netkit_loop *loop = nkt_loop();
    static tl_conn c, d;
    char text[16];
    tl_open(loop, &c);
    tl_open(loop, &d);
    tl_say(c.peer, "not now");
    CHECK_OK(netkit_conn_send(loop, c.handle, "one ", 4));
    CHECK_OK(netkit_conn_send(loop, c.handle, "two", 3));
    CHECK_OK(netkit_conn_send(loop, d.handle, "three", 5));
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "");
    c.in_call++;
    CHECK_OK(netkit_loop_flush(loop));
    c.in_call--;
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "one two");
    CHECK_STR(tl_hear(d.peer, text, sizeof(text)), "three");
    CHECK_EQ(c.datas, 0);
    CHECK_OK(netkit_conn_send(loop, c.handle, "four", 4));
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "four");
    CHECK_EQ(c.datas, 1);
    tl_drop(loop, &c);
    tl_drop(loop, &d);
    nkt_loop_done(loop);
}

/* ---- threads --------------------------------------------------------------------------- */

typedef struct loop_stranger {
    netkit_loop *loop;
    loop_things *things;
    int adopted;
    int ran;
    int posts[2];
} loop_stranger;

static void *loop_stranger_calls(void *user) {
    loop_stranger *s = (loop_stranger *)user;
    netkit_loop *loop = s->loop;
    netkit_addr addr;
    netkit_event ev;
    netkit_listen_desc desc;
    netkit_timer timer = {1};
    uintptr_t native;
    size_t size;
    memset(&desc, 0, sizeof(desc));
    desc.address = "127.0.0.1:0";
    CHECK(!netkit_loop_is_owner(loop));
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_run_once(loop, 0), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_poll(loop, 0), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_next(loop, &ev), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_flush(loop), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_destroy(loop), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_native(loop, &native), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_timeout_ms(loop), NETKIT_E_THREAD);
    CHECK_ERR(netkit_timer_start(loop, &timer, 0, 0, loop_tick, NULL), NETKIT_E_THREAD);
    CHECK_EQ(timer.id, 0);
    CHECK_ERR(netkit_timer_stop(loop, s->things->timer), NETKIT_E_THREAD);
    CHECK_ERR(netkit_watch_stop(loop, s->things->watch), NETKIT_E_THREAD);
    CHECK_ERR(netkit_listener_local(loop, s->things->listener, &addr), NETKIT_E_THREAD);
    CHECK_ERR(netkit_listener_close(loop, s->things->listener), NETKIT_E_THREAD);
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_THREAD);
    CHECK_ERR(netkit_conn_send(loop, s->things->c.handle, "x", 1), NETKIT_E_THREAD);
    CHECK_ERR(netkit_conn_queued(loop, s->things->c.handle, &size), NETKIT_E_THREAD);
    CHECK_ERR(netkit_conn_close(loop, s->things->c.handle), NETKIT_E_THREAD);
    CHECK_ERR(netkit_conn_abort(loop, s->things->c.handle), NETKIT_E_THREAD);
    CHECK(netkit_conn_user(loop, s->things->c.handle) == NULL);
    CHECK_OK(netkit_loop_post(loop, loop_count_post, s->posts));
    CHECK_OK(netkit_loop_stop(loop));
    return NULL;
}

/* TQ08 R12 ER07: a thread that does not own the loop gets THREAD from every call but post, stop and
 * the questions for any thread; nothing has changed by it. */
NKT_LOOP_TEST(loop_belongs_to_one_thread) {
    loop_stranger s;
    loop_things t;
    pthread_t thread;
    memset(&s, 0, sizeof(s));
    s.loop = nkt_loop();
    s.things = &t;
    loop_things_open(s.loop, &t); /* which has polled: the loop is this thread's */
    CHECK(netkit_loop_is_owner(s.loop));
    CHECK_EQ(pthread_create(&thread, NULL, loop_stranger_calls, &s), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(netkit_loop_run(s.loop)); /* ended by its stop, after its post */
    CHECK_EQ(s.posts[0], 1);
    CHECK_EQ(netkit_loop_objects(s.loop), 4);
    CHECK_EQ(t.c.closes, 0);
    nkt_loop_done(s.loop);
    loop_things_close(&t);
}

static void *loop_adopt_thread(void *user) {
    loop_stranger *s = (loop_stranger *)user;
    s->adopted = netkit_loop_adopt(s->loop);
    if (s->adopted == NETKIT_OK) {
        int ticks = 0;
        CHECK(netkit_loop_is_owner(s->loop));
        CHECK_OK(netkit_timer_start(s->loop, NULL, 1000, 0, loop_tick, &ticks));
        CHECK_OK(netkit_loop_run(s->loop));
        CHECK_EQ(ticks, 1);
        s->ran = 1;
    }
    return NULL;
}

static void loop_adopt_meanwhile(netkit_loop *loop, netkit_timer timer, void *user) {
    loop_stranger *s = (loop_stranger *)user;
    pthread_t thread;
    (void)loop;
    (void)timer;
    CHECK_EQ(pthread_create(&thread, NULL, loop_adopt_thread, s), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(netkit_loop_is_owner(loop));
}

/* TQ08 TQ15: an idle loop changes its thread by adopt; one that is running does not; before its
 * first turn it is whoever's holds it. */
NKT_LOOP_TEST(loop_is_adopted_when_idle) {
    loop_stranger s;
    pthread_t thread;
    int ticks = 0;
    memset(&s, 0, sizeof(s));
    s.loop = nkt_loop();
    CHECK_OK(netkit_timer_start(s.loop, NULL, 0, 0, loop_adopt_meanwhile, &s));
    CHECK_OK(netkit_loop_run(s.loop));
    CHECK_ERR(s.adopted, NETKIT_E_BUSY);
    CHECK_EQ(s.ran, 0);
    CHECK_EQ(pthread_create(&thread, NULL, loop_adopt_thread, &s), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(s.adopted);
    CHECK_EQ(s.ran, 1);
    CHECK(!netkit_loop_is_owner(s.loop));
    CHECK_ERR(netkit_loop_run_once(s.loop, 0), NETKIT_E_THREAD);
    CHECK_ERR(netkit_timer_start(s.loop, NULL, 0, 0, loop_tick, &ticks), NETKIT_E_THREAD);
    CHECK_OK(netkit_loop_adopt(s.loop));
    CHECK_OK(netkit_loop_adopt(s.loop));
    CHECK_OK(netkit_timer_start(s.loop, NULL, 0, 0, loop_tick, &ticks));
    CHECK_OK(netkit_loop_run(s.loop));
    CHECK_EQ(ticks, 1);
    nkt_loop_done(s.loop);
}

typedef struct loop_worker {
    netkit_loop *loop;
    tl_conn c;
    pthread_t thread;
} loop_worker;

static void *loop_work(void *user) {
    CHECK_OK(netkit_loop_run(((loop_worker *)user)->loop));
    return NULL;
}

/* PL25: several loops in one process, each on its thread, joined by streams: each carries its own
 * bytes, one's end does not touch the others. */
NKT_LOOP_TEST(loop_has_company) {
    enum {
        COUNT = 4
    };
    static loop_worker workers[COUNT];
    static loop_stream streams[COUNT];
    for (int i = 0; i < COUNT; i++) {
        workers[i].loop = nkt_loop();
        workers[i].c.is_echo = workers[i].c.closes_at_eof = true;
        tl_adopt(workers[i].loop, &workers[i].c);
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, loop_work, &workers[i]), 0);
        loop_stream_start(&streams[i], workers[i].c.peer, 1000000 * (uint64_t)(i + 1));
    }
    for (int i = 0; i < COUNT; i++) {
        loop_stream_join(&streams[i]);
        CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
        CHECK_EQ(workers[i].c.closes, 1);
        CHECK_OK(netkit_loop_adopt(workers[i].loop));
        tl_hang_up(&workers[i].c);
    }
    for (int i = 0; i < COUNT; i++) {
        nkt_loop_done(workers[i].loop);
    }
}

/* ---- the end with everything open ------------------------------------------------------- */

typedef struct loop_last {
    netkit_loop *loop;
    tl_conn echo, fed, full, dialled, accepted;
    int released, listener_closes, ticks, posts[2];
    int late_tries;
} loop_last;

static void loop_last_release(netkit_loop *loop, int status, void *user) {
    loop_last *l = (loop_last *)user;
    (void)loop;
    CHECK(status == NETKIT_OK || status == NETKIT_E_CANCELLED);
    CHECK_EQ(l->full.closes, 0);
    l->released++;
}

static void loop_last_listener(netkit_loop *loop, netkit_listener listener, void *user) {
    (void)loop;
    (void)listener;
    ((loop_last *)user)->listener_closes++;
}

static void loop_last_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                            void *user) {
    tl_conn *c = (tl_conn *)user;
    netkit_connect_desc desc;
    netkit_listen_desc listen;
    tl_on_close(loop, conn, info, user);
    CHECK_EQ(c->closes, 1);
    memset(&desc, 0, sizeof(desc));
    memset(&listen, 0, sizeof(listen));
    desc.address = listen.address = "127.0.0.1:0";
    CHECK(netkit_conn_send(loop, conn, "x", 1) < 0);
    CHECK(netkit_listen(loop, &listen, NULL) <= 0); /* what is had now ends now, too */
    CHECK(netkit_timer_start(loop, NULL, 0, 0, loop_tick, &c->drains) <= 0);
    CHECK(netkit_connect(loop, &desc, NULL) <= 0);
}

/* L-01 PL27 SD31 TQ09 I1 I2: destroy with everything open and under way: every on_close, every
 * release and every post comes, once; no timer fires; callbacks that start new things leak
 * nothing. */
NKT_LOOP_TEST(loop_ends_with_everything_open) {
    static loop_last l;
    static char big[100000];
    netkit_handler handler = tl_handler();
    netkit_listen_desc desc;
    netkit_connect_desc connect;
    netkit_listener listener;
    char address[32];
    int code = NETKIT_OK, accepted = 0, tube[2];
    l.loop = nkt_loop();
    handler.on_close = loop_last_close;
    tl_adopt_as(l.loop, &l.echo, &handler, NULL);
    tl_adopt_as(l.loop, &l.full, &handler, NULL);
    memset(&desc, 0, sizeof(desc));
    desc.on_close = loop_last_listener;
    desc.handler = handler;
    desc.user = &l;
    snprintf(address, sizeof(address), "127.0.0.1:%d", tl_listen(l.loop, &desc, &listener));
    while (code == NETKIT_OK) {
        code = netkit_conn_send_borrowed(l.loop, l.full.handle, big, sizeof(big), loop_last_release,
                                         &l);
        accepted += code == NETKIT_OK;
        CHECK_OK(netkit_loop_poll(l.loop, -1));
    }
    CHECK_ERR(code, NETKIT_E_FULL);
    tl_adopt_as(l.loop, &l.fed, &handler, NULL);
    tl_say(l.fed.peer, "unread");
    memset(&connect, 0, sizeof(connect));
    connect.address = address;
    connect.handler = handler;
    connect.user = &l.dialled;
    CHECK_OK(netkit_connect(l.loop, &connect, &l.dialled.handle));
    CHECK_EQ(pipe(tube), 0);
    CHECK_EQ(write(tube[1], "x", 1), 1);
    CHECK_OK(netkit_watch_start(l.loop, NULL, (uintptr_t)tube[0], NETKIT_POLL_READ,
                                loop_ignore_watch, NULL));
    CHECK_OK(netkit_timer_start(l.loop, NULL, 0, 0, loop_tick, &l.ticks));
    CHECK_OK(netkit_timer_start(l.loop, NULL, 0, 1, loop_tick, &l.ticks));
    CHECK_OK(netkit_loop_post(l.loop, loop_count_post, l.posts));
    nkt_loop_done(l.loop);
    CHECK_EQ(l.echo.closes, 1);
    CHECK_EQ(l.full.closes, 1);
    CHECK_EQ(l.fed.closes, 1);
    CHECK_EQ(l.dialled.closes, 1);
    CHECK_EQ(l.listener_closes, 1);
    CHECK_EQ(l.released, accepted);
    CHECK_EQ(l.ticks, 0);
    CHECK_EQ(l.posts[0], 0);
    CHECK_EQ(l.posts[1], 1);
    CHECK_ERR(l.dialled.info.code, NETKIT_E_CANCELLED);
    CHECK_ERR(l.full.info.code, NETKIT_E_CANCELLED);
    CHECK(l.full.info.unsent > 0);
    CHECK_EQ(l.echo.drains + l.fed.drains + l.full.drains + l.dialled.drains, 0);
    tl_hang_up(&l.echo);
    tl_hang_up(&l.full);
    tl_hang_up(&l.fed);
    CHECK_EQ(close(tube[0]) + close(tube[1]), 0);
}

/* ---- whatever happens -------------------------------------------------------------------- */

enum {
    LOOP_CHAOS = 24,
    LOOP_LENT = 64
};

typedef struct loop_chaos_conn {
    tl_conn c;
    struct loop_chaos_conn *twin; /* the other end, in the same loop */
    uint64_t sent;                /* accepted bytes of the stream */
    uint64_t got, offered;
    bool is_lossy; /* this end or the other was aborted */
    bool is_ended; /* by shutdown or close */
} loop_chaos_conn;

typedef struct loop_lent {
    loop_chaos_conn *by;
    unsigned char data[512];
    int state; /* 0 free, 1 lent */
} loop_lent;

static loop_chaos_conn loop_chaos_conns[LOOP_CHAOS];
static loop_lent loop_lents[LOOP_LENT];
static bool loop_chaos_is_over;
static uint64_t loop_chaos_lent, loop_chaos_released, loop_chaos_opened, loop_chaos_closed;

static void loop_chaos_release(netkit_loop *loop, int status, void *user) {
    loop_lent *lent = (loop_lent *)user;
    (void)loop;
    CHECK_EQ(lent->state, 1);
    CHECK_EQ(lent->by->c.closes, 0);
    CHECK(status == NETKIT_OK || lent->by->is_ended || lent->by->is_lossy ||
          lent->by->twin->is_ended || loop_chaos_is_over); /* somebody ended it */
    lent->state = 0;
    memset(lent->data, 0xEE, sizeof(lent->data));
    loop_chaos_released++;
}

static void loop_chaos_deed(netkit_loop *loop, loop_chaos_conn *cc) {
    uint64_t roll = nkt_random();
    unsigned char data[700];
    size_t len = 1 + (size_t)((roll >> 8) % sizeof(data));
    netkit_conn conn = cc->c.handle;
    int code = NETKIT_OK;
    if (cc->c.closes != 0) {
        code = netkit_conn_send(loop, conn, "x", 1); /* CLOSED: inside its on_close */
        CHECK(code == NETKIT_E_STALE || code == NETKIT_E_CLOSED);
        return;
    }
    switch (roll % 24) {
    case 0:
        CHECK_OK(netkit_conn_close(loop, conn));
        cc->is_ended = true;
        break;
    case 1:
        CHECK_OK(netkit_conn_abort(loop, conn));
        cc->is_lossy = cc->twin->is_lossy = cc->is_ended = true;
        break;
    case 2:
        code = netkit_conn_shutdown(loop, conn);
        CHECK(code == NETKIT_OK || code == NETKIT_E_CLOSED);
        cc->is_ended = true;
        break;
    case 3:
    case 4:
        code = netkit_conn_pause(loop, conn);
        CHECK(code == NETKIT_OK || code == NETKIT_E_CLOSED);
        break;
    case 5:
    case 6:
    case 7:
    case 8:
        code = netkit_conn_resume(loop, conn);
        CHECK(code == NETKIT_OK || code == NETKIT_E_CLOSED);
        break;
    case 9:
    case 10:
    case 11: {
        loop_lent *lent = &loop_lents[(roll >> 32) % LOOP_LENT];
        if (lent->state == 0) {
            lent->by = cc;
            for (size_t i = 0; i < sizeof(lent->data); i++) {
                lent->data[i] = loop_byte(cc->sent + i);
            }
            len = 1 + len % sizeof(lent->data);
            code = netkit_conn_send_borrowed(loop, conn, lent->data, len, loop_chaos_release, lent);
            if (code == NETKIT_OK) {
                lent->state = 1;
                cc->sent += len;
                loop_chaos_lent++;
            }
            CHECK(code != NETKIT_OK || !cc->is_ended);
        }
        break;
    }
    default:
        for (size_t i = 0; i < len; i++) {
            data[i] = loop_byte(cc->sent + i);
        }
        code = netkit_conn_send(loop, conn, data, len);
        CHECK(code == NETKIT_OK || code == NETKIT_E_FULL || code == NETKIT_E_CLOSED);
        CHECK(code != NETKIT_OK || !cc->is_ended);
        cc->sent += code == NETKIT_OK ? len : 0;
        break;
    }
}

static void loop_chaos_deeds(netkit_loop *loop) {
    for (int i = (int)(nkt_random() % 4); i > 0; i--) {
        loop_chaos_conn *cc = &loop_chaos_conns[nkt_random() % LOOP_CHAOS];
        if (cc->c.handle.id != 0) {
            loop_chaos_deed(loop, cc);
        }
    }
}

static void loop_chaos_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    tl_on_open(loop, conn, user);
    loop_chaos_opened++;
    loop_chaos_deeds(loop);
}

static size_t loop_chaos_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    loop_chaos_conn *cc = (loop_chaos_conn *)user;
    const unsigned char *bytes = (const unsigned char *)data;
    size_t used = nkt_random() % 4 == 0 ? (size_t)(nkt_random() % (len + 1)) : len;
    CHECK(cc->c.handle.id == conn.id);
    CHECK_EQ(cc->c.opens, 1);
    CHECK_EQ(cc->c.closes, 0);
    CHECK(cc->c.eofs == 0 || cc->got + len <= cc->offered); /* a rest, on request */
    cc->offered = cc->got + len;
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != loop_byte(cc->got + i)) {
            printf("at %" PRIu64 " + %zu of %zu, offered %" PRIu64 ", sent %" PRIu64 "\n", cc->got,
                   i, len, cc->offered, cc->twin->sent);
            CHECK_EQ(bytes[i], loop_byte(cc->got + i));
        }
    }
    cc->got += used;
    cc->c.datas++;
    loop_chaos_deeds(loop);
    if (used < len && cc->c.datas % 2 == 0) {
        (void)netkit_conn_resume(loop, conn); /* offer the rest again */
    }
    return used;
}

static void loop_chaos_on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    loop_chaos_conn *cc = (loop_chaos_conn *)user;
    (void)conn;
    CHECK(cc->c.opens == 1 && cc->c.eofs == 0 && cc->c.closes == 0);
    CHECK(cc->twin->is_ended || cc->twin->c.closes == 1);
    cc->c.eofs++;
    loop_chaos_deeds(loop);
}

static void loop_chaos_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                                void *user) {
    loop_chaos_conn *cc = (loop_chaos_conn *)user;
    tl_on_close(loop, conn, info, user);
    for (int i = 0; i < LOOP_LENT; i++) {
        CHECK(loop_lents[i].state == 0 || loop_lents[i].by != cc);
    }
    if (info->unsent > cc->sent) {
        printf("unsent %zu of %" PRIu64 ": %s\n", info->unsent, cc->sent, info->text);
    }
    CHECK(info->unsent <= cc->sent);
    loop_chaos_closed++;
    loop_chaos_deeds(loop);
}

static void loop_chaos_pair(netkit_loop *loop, loop_chaos_conn *a, loop_chaos_conn *b) {
    static const netkit_handler handler = {loop_chaos_on_open, loop_chaos_on_data, tl_on_drain,
                                           loop_chaos_on_eof, loop_chaos_on_close};
    loop_chaos_conn *both[2];
    int fds[2];
    both[0] = a;
    both[1] = b;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (int i = 0; i < 2; i++) {
        netkit_adopt_desc desc;
        memset(both[i], 0, sizeof(*both[i]));
        both[i]->twin = both[1 - i];
        memset(&desc, 0, sizeof(desc));
        desc.socket = netkit_socket_from_native((uintptr_t)fds[i]);
        desc.handler = handler;
        desc.conn.send_max = 4096;
        desc.conn.close_deadline_ms = 50;
        desc.conn.duplex = nkt_random() % 2 == 0;
        desc.user = both[i];
        CHECK_OK(netkit_adopt(loop, &desc, &both[i]->c.handle));
    }
}

static void loop_chaos(uint64_t turns) {
    netkit_loop *loop = nkt_loop();
    uint64_t made = 0;
    for (uint64_t turn = 0; turn < turns; turn++) {
        for (int i = 0; i < LOOP_CHAOS; i += 2) {
            loop_chaos_conn *a = &loop_chaos_conns[i], *b = &loop_chaos_conns[i + 1];
            if (a->c.handle.id == 0 || (a->c.closes == 1 && b->c.closes == 1)) {
                loop_chaos_pair(loop, a, b);
                made += 2;
            }
        }
        loop_chaos_deeds(loop);
        CHECK_OK(netkit_loop_run_once(loop, turn % 8 == 0 ? 1 : 0));
        for (int i = 0; i < LOOP_CHAOS; i++) {
            loop_chaos_conn *cc = &loop_chaos_conns[i];
            CHECK(cc->got <= cc->twin->sent);
        }
    }
    loop_chaos_is_over = true;
    nkt_loop_done(loop);
    CHECK(made > LOOP_CHAOS);
    CHECK_EQ(loop_chaos_closed, made);
    CHECK(loop_chaos_opened <= made);
    CHECK(loop_chaos_lent > 100);
    CHECK_EQ(loop_chaos_released, loop_chaos_lent);
    printf("%" PRIu64 " conns, %" PRIu64 " chunks\n", made, loop_chaos_lent);
}

/* G8 I1 I2 I4 L-03 L-06 PL16: conns in pairs, and in each callback random deeds to random ones:
 * every lent chunk comes back once and before its conn's close, every conn closes once and hears
 * nothing more, every byte that arrives is the right one, and none that was not sent. */
NKT_LOOP_TEST(loop_keeps_its_word_in_chaos) {
    loop_chaos(nkt_count(200000, 4000));
}

/* G8 I1 I2 T-04: the same while the system moves few bytes at a time or says not now. */
NKT_LOOP_TEST(loop_keeps_its_word_in_chaos_with_faults) {
    nkt_clip_random("recv", 50);
    nkt_clip_random("send", 50);
    nkt_fault_prob("sendmsg", 20, EAGAIN);
    loop_chaos(nkt_count(100000, 2000));
    CHECK(nkt_faults() > 100);
}

/* ---- what it costs -------------------------------------------------------------------------- */

/* MB05 BX06 F3: echoing allocates nothing once it runs, timers, posts and timeouts included. */
NKT_LOOP_TEST(loop_echo_allocates_nothing) {
    enum {
        COUNT = 20
    };
    static tl_conn all[COUNT];
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = tl_handler();
    netkit_conn_options options;
    uint64_t rounds = nkt_count(1000000, 40000) / COUNT, allocs = 0;
    char data[64], back[64];
    int posts[2] = {0, 0}, ticks = 0;
    memset(data, 'x', sizeof(data));
    memset(&options, 0, sizeof(options));
    options.idle_timeout_ms = 60000;
    for (int i = 0; i < COUNT; i++) {
        all[i].is_echo = true;
        tl_adopt_as(loop, &all[i], &handler, &options);
    }
    tl_settle(loop);
    CHECK_OK(netkit_timer_start(loop, NULL, 100, 100, loop_tick, &ticks));
    for (uint64_t round = 0; round < rounds; round++) {
        if (round == 20) {
            allocs = nkt_allocs();
        }
        for (int i = 0; i < COUNT; i++) {
            CHECK_EQ(send(all[i].peer, data, sizeof(data), 0), sizeof(data));
        }
        CHECK_OK(netkit_loop_post(loop, loop_count_post, posts));
        CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, loop_tick, &ticks));
        for (int i = 0; i < COUNT; i++) {
            while (all[i].datas <= (int)round) {
                CHECK_OK(netkit_loop_run_once(loop, 1000));
            }
            CHECK_EQ(recv(all[i].peer, back, sizeof(back), MSG_DONTWAIT), sizeof(back));
        }
    }
    CHECK_EQ(nkt_allocs(), allocs);
    CHECK(posts[0] > 0 && ticks > 0);
    for (int i = 0; i < COUNT; i++) {
        tl_drop(loop, &all[i]);
    }
    nkt_loop_done(loop);
}

/* G7 F5 SD42 PL17: a thousand idle conns and no timer due: next to no system calls. */
NKT_LOOP_TEST(loop_costs_nothing_when_idle) {
    static tl_conn all[1000];
    int count = 1000, ticks = 0;
    netkit_loop *loop = nkt_loop();
    uint64_t limit = nkt_want_descriptors(2100), calls, turns, ms = nkt_scale(10000, 1000);
    count = limit < 2100 ? (int)(limit / 2) - 20 : count;
    for (int i = 0; i < count; i++) {
        tl_adopt(loop, &all[i]);
    }
    CHECK_OK(netkit_timer_start(loop, NULL, 3600000000u, 0, loop_tick, &ticks));
    tl_settle(loop);
    nkt_calls_reset();
    turns = netkit_loop_turns(loop);
    CHECK_OK(netkit_loop_run_once(loop, (int)ms));
    calls = nkt_calls(NULL);
    printf("%" PRIu64 " calls in %" PRIu64 " ms, %" PRIu64 " turns\n", calls, ms,
           netkit_loop_turns(loop) - turns);
    CHECK_EQ(netkit_loop_turns(loop), turns + 1);
    CHECK(calls <= 10 + 2 * ms / 1000);
    nkt_loop_done(loop);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(all[i].closes, 1);
        tl_hang_up(&all[i]);
    }
}

typedef struct loop_grower {
    tl_conn c;
    tl_conn more[300];
    uint64_t *ext;
} loop_grower;

static size_t loop_grow(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                        void *user) {
    loop_grower *g = (loop_grower *)user;
    const char *bytes = (const char *)data;
    char before[16];
    uint64_t *ext = (uint64_t *)netkit_conn_ext(loop, conn);
    CHECK(len == 5);
    memcpy(before, bytes, len);
    CHECK(ext == g->ext);
    for (int i = 0; i < 300; i++) {
        tl_adopt(loop, &g->more[i]);
    }
    CHECK(netkit_conn_ext(loop, conn) == ext);
    CHECK_EQ(ext[0], 4711);
    CHECK_MEM(bytes, before, len);
    CHECK_OK(netkit_conn_send(loop, conn, bytes, len));
    g->c.datas++;
    return len;
}

/* SD41 PL26: hundreds of conns made inside a callback move nothing: the conn's own memory, aligned
 * and zeroed at first, stays in its place, and so do the bytes it is looking at. */
NKT_LOOP_TEST(loop_objects_stay_in_place) {
    static loop_grower g;
    netkit_loop *loop = nkt_loop();
    netkit_conn_options options;
    netkit_handler handler;
    char text[16];
    nkt_want_descriptors(700);
    memset(&options, 0, sizeof(options));
    memset(&handler, 0, sizeof(handler));
    handler.on_data = loop_grow;
    handler.on_close = tl_on_close;
    options.ext_size = 40;
    tl_adopt_as(loop, &g.c, &handler, &options);
    g.ext = (uint64_t *)netkit_conn_ext(loop, g.c.handle);
    CHECK(g.ext != NULL && (uintptr_t)g.ext % 16 == 0);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(g.ext[i], 0);
    }
    g.ext[0] = 4711;
    tl_say(g.c.peer, "hello");
    TL_UNTIL(loop, g.c.datas == 1);
    CHECK_STR(tl_hear(g.c.peer, text, sizeof(text)), "hello");
    nkt_loop_done(loop);
    tl_hang_up(&g.c);
    for (int i = 0; i < 300; i++) {
        CHECK_EQ(g.more[i].closes, 1);
        tl_hang_up(&g.more[i]);
    }
}

/* MB01 MB06 R5 PL10: the limits of the desc hold: objects, and kernel events of a turn. */
NKT_LOOP_TEST(loop_limits_hold) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    static tl_conn all[20];
    netkit_adopt_desc adopt;
    netkit_conn none = {1};
    int pair[2], served = 0;
    memset(&desc, 0, sizeof(desc));
    desc.objects_max = 20;
    desc.events_max = 3;
    loop = nkt_loop_with(&desc);
    for (int i = 0; i < 20; i++) {
        tl_open(loop, &all[i]);
    }
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    memset(&adopt, 0, sizeof(adopt));
    adopt.socket = netkit_socket_from_native((uintptr_t)pair[0]);
    CHECK_ERR(netkit_adopt(loop, &adopt, &none), NETKIT_E_FULL);
    CHECK_EQ(none.id, 0);
    CHECK_EQ(close(pair[0]) + close(pair[1]), 0); /* still the caller's */
    tl_settle(loop);
    for (int i = 0; i < 20; i++) {
        tl_say(all[i].peer, "x");
    }
    while (served < 20) {
        int before = served;
        CHECK_OK(netkit_loop_run_once(loop, 1000));
        served = 0;
        for (int i = 0; i < 20; i++) {
            served += all[i].datas;
        }
        CHECK(served > before && served <= before + 3);
    }
    for (int i = 0; i < 20; i++) {
        tl_drop(loop, &all[i]);
    }
    memset(&all[0], 0, sizeof(all[0]));
    tl_open(loop, &all[0]); /* there is room again */
    tl_drop(loop, &all[0]);
    nkt_loop_done(loop);
}

/* ---- the stack --------------------------------------------------------------------------------- */

typedef struct loop_deep {
    netkit_loop *loop;
    tl_conn c;
    char *top;
    size_t deepest;
    int left;
    int drains;
} loop_deep;

static loop_deep *loop_the_deep;

static void loop_deep_mark(void) {
    /* Not a local's address: AddressSanitizer may keep locals on the heap. */
    size_t depth = (size_t)(loop_the_deep->top - (char *)__builtin_frame_address(0));
    loop_the_deep->deepest = depth > loop_the_deep->deepest ? depth : loop_the_deep->deepest;
}

static void loop_deep_release(netkit_loop *loop, int status, void *user) {
    loop_deep *d = (loop_deep *)user;
    loop_deep_mark();
    if (status == NETKIT_OK && --d->left > 0) {
        CHECK_OK(netkit_conn_send_borrowed(loop, d->c.handle, "x", 1, loop_deep_release, d));
    } else if (status == NETKIT_OK) {
        CHECK_OK(netkit_conn_abort(loop, d->c.handle));
    }
}

static void loop_deep_post(netkit_loop *loop, int status, void *user) {
    loop_deep_mark();
    if (status == NETKIT_OK && --((loop_deep *)user)->left > 0) {
        CHECK_OK(netkit_loop_invoke(loop, loop_count_post, (int *)&((loop_deep *)user)->drains));
        CHECK_OK(netkit_loop_post(loop, loop_deep_post, user));
    }
}

static void *loop_deep_thread(void *user) {
    loop_deep *d = (loop_deep *)user;
    char data[4096];
    d->top = (char *)__builtin_frame_address(0);
    d->left = 20000;
    CHECK_OK(netkit_loop_adopt(d->loop));
    tl_open(d->loop, &d->c);
    CHECK_OK(netkit_conn_send_borrowed(d->loop, d->c.handle, "x", 1, loop_deep_release, d));
    while (d->c.closes == 0) {
        CHECK_OK(netkit_loop_run_once(d->loop, 1000));
        (void)recv(d->c.peer, data, sizeof(data), MSG_DONTWAIT);
    }
    d->left = 20000;
    CHECK_OK(netkit_loop_post(d->loop, loop_deep_post, d));
    CHECK_OK(netkit_loop_run(d->loop));
    CHECK_EQ(d->left, 0);
    CHECK_OK(netkit_loop_destroy(d->loop));
    tl_hang_up(&d->c);
    return NULL;
}

/* Z-09: the loop lives on a thread with 64 KiB of stack, and callbacks that always find their
 * work done at once do not pile up. */
NKT_LOOP_TEST(loop_fits_a_small_stack) {
    static loop_deep d;
    pthread_attr_t attr;
    pthread_t thread;
    size_t size = 64 * 1024;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    size = 1024 * 1024;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
    size = 1024 * 1024;
#endif
#endif
    loop_the_deep = &d;
    d.loop = nkt_loop();
    nkt_loops--; /* the thread ends it */
    CHECK_EQ(pthread_attr_init(&attr), 0);
    if (pthread_attr_setstacksize(&attr, size) != 0) {
        SKIP("stacks are larger here");
    }
    CHECK_EQ(pthread_create(&thread, &attr, loop_deep_thread, &d), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pthread_attr_destroy(&attr), 0);
    printf("%zu bytes deep\n", d.deepest);
    CHECK(d.deepest > 0 && d.deepest < size / 2);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* ---- the log --------------------------------------------------------------------------------- */

static int loop_error_code, loop_error_os;

static void loop_listener_error(netkit_loop *loop, netkit_listener listener, int code, int os_code,
                                void *user) {
    (void)loop;
    (void)listener;
    (void)user;
    loop_error_code = code;
    loop_error_os = os_code;
}

/* Z-05: a log function that spoils errno does not change what is reported. */
NKT_LOOP_TEST(loop_log_does_not_spoil_codes) {
    static tl_log log;
    static tl_conn c;
    netkit_loop_desc desc;
    netkit_loop *loop;
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_listener listener;
    char address[32];
    uint16_t port;
    int fd;
    memset(&desc, 0, sizeof(desc));
    desc.logger = tl_logger(&log);
    desc.debug = true;
    log.spoils_errno = EDOM;
    loop = nkt_loop_with(&desc);
    CHECK(log.lines[NETKIT_LOGID_BACKEND] >= 1);
    memset(&listen, 0, sizeof(listen));
    listen.on_error = loop_listener_error;
    port = tl_listen(loop, &listen, &listener);
    nkt_fault_at("accept", 1, EMFILE, false);
    fd = tl_dial(port);
    TL_UNTIL(loop, loop_error_code != 0);
    nkt_fault_clear();
    CHECK_ERR(loop_error_code, NETKIT_E_MFILE);
    CHECK_EQ(loop_error_os, EMFILE);
    CHECK(log.lines[NETKIT_LOGID_ACCEPT] >= 1);
    CHECK_EQ(log.os_code[NETKIT_LOGID_ACCEPT], EMFILE);
    CHECK_EQ(close(fd), 0);
    CHECK_OK(netkit_listener_close(loop, listener));
    TL_UNTIL(loop, netkit_loop_references(loop) == 0);
    memset(&connect, 0, sizeof(connect));
    snprintf(address, sizeof(address), "127.0.0.1:%d", port);
    connect.address = address;
    connect.handler = tl_handler();
    connect.user = &c;
    CHECK_OK(netkit_connect(loop, &connect, &c.handle));
    TL_UNTIL(loop, c.closes == 1);
    CHECK_ERR(c.info.code, NETKIT_E_REFUSED);
    CHECK_EQ(c.info.os_code, ECONNREFUSED);
    CHECK_EQ(c.info.op, NETKIT_OP_CONNECT);
    CHECK_EQ(c.info.phase, NETKIT_PHASE_CONNECTING);
    nkt_loop_done(loop);
}
