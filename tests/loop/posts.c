/* Posts: calls that other threads leave for the loop. Each comes once, in its thread's order. */

#include "support_loop.h"

enum {
    LPOSTS_PRODUCERS = 8,
    LPOSTS_MOST = 200000
};

/* Posts carry numbers: the address inside this array says which. */
static unsigned char lposts_numbers[LPOSTS_MOST];

static void *lposts_user(size_t number) {
    CHECK(number < LPOSTS_MOST);
    return &lposts_numbers[number];
}

typedef struct lposts_log {
    size_t count, cancelled;
    size_t last; /* number plus one */
    bool stops;
} lposts_log;

static lposts_log lposts_seen;

static void lposts_note(netkit_loop *loop, int status, void *user) {
    size_t number = (size_t)((unsigned char *)user - lposts_numbers);
    CHECK(status == NETKIT_OK || status == NETKIT_E_CANCELLED);
    CHECK(number + 1 > lposts_seen.last);
    CHECK(netkit_loop_is_owner(loop));
    lposts_seen.last = number + 1;
    lposts_seen.count++;
    lposts_seen.cancelled += status == NETKIT_E_CANCELLED;
}

/* TQ06 TQ10 I6 ER07: first in, first out, a run with nothing but posts ends behind the last;
 * what a post posts comes in a later turn; no function is INVALID. */
NKT_LOOP_TEST(lposts_run_in_order) {
    netkit_loop *loop = nkt_loop();
    CHECK_ERR(netkit_loop_post(loop, NULL, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_loop_invoke(loop, NULL, NULL), NETKIT_E_INVALID);
    for (size_t i = 0; i < 3000; i++) {
        CHECK_OK(netkit_loop_post(loop, lposts_note, lposts_user(i)));
    }
    CHECK_EQ(lposts_seen.count, 0); /* never inside a call of the user's */
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(lposts_seen.count, 3000);
    CHECK_EQ(lposts_seen.cancelled, 0);
    nkt_loop_done(loop);
    CHECK_EQ(lposts_seen.count, 3000);
}

/* R5 TQ10: posts_max, rounded up to a power of two, may wait; the next is FULL; each that has run
 * makes room for one. Posting allocates nothing. */
NKT_LOOP_TEST(lposts_are_bounded) {
    static const uint32_t limits[][2] = {{1, 1}, {2, 2}, {5, 8}, {64, 64}, {100, 128}, {0, 4096}};
    for (size_t k = 0; k < sizeof(limits) / sizeof(limits[0]); k++) {
        netkit_loop_desc desc;
        netkit_loop *loop;
        uint32_t fits = 0;
        memset(&desc, 0, sizeof(desc));
        memset(&lposts_seen, 0, sizeof(lposts_seen));
        desc.posts_max = limits[k][0];
        loop = nkt_loop_with(&desc);
        for (int round = 0; round < 3; round++) {
            uint64_t allocs = nkt_allocs();
            for (fits = 0; fits < 10000; fits++) {
                if (netkit_loop_post(loop, lposts_note, lposts_user(lposts_seen.last + fits)) !=
                    NETKIT_OK) {
                    break;
                }
            }
            CHECK_EQ(fits, limits[k][1]);
            CHECK_ERR(netkit_loop_post(loop, lposts_note, lposts_user(0)), NETKIT_E_FULL);
            CHECK_ERR(netkit_loop_post(loop, lposts_note, lposts_user(0)), NETKIT_E_FULL);
            CHECK_EQ(nkt_allocs(), allocs);
            CHECK_OK(netkit_loop_run(loop));
            CHECK_EQ(lposts_seen.count, (uint32_t)(round + 1) * fits);
        }
        nkt_loop_done(loop);
    }
}

/* ---- many producers ------------------------------------------------------------------ */

typedef struct lposts_producer {
    netkit_loop *loop;
    uint64_t count, full;
    uint64_t run; /* by the loop */
    pthread_t thread;
    bool is_over;
} lposts_producer;

/* An item that knows its number. */
typedef struct lposts_item {
    lposts_producer *by;
    uint64_t number;
} lposts_item;

static void lposts_item_run(netkit_loop *loop, int status, void *user) {
    lposts_item *item = (lposts_item *)user;
    (void)loop;
    CHECK_OK(status);
    if (item->number != item->by->run) {
        CHECK_EQ(item->number, item->by->run);
    }
    TL_ADD(&item->by->run, 1);
}

static void *lposts_produce(void *user) {
    lposts_producer *p = (lposts_producer *)user;
    lposts_item *items = (lposts_item *)calloc((size_t)p->count, sizeof(*items));
    for (uint64_t i = 0; i < p->count; i++) {
        int code;
        items[i].by = p;
        items[i].number = i;
        while ((code = netkit_loop_post(p->loop, lposts_item_run, &items[i])) == NETKIT_E_FULL) {
            p->full++;
            sched_yield();
        }
        CHECK_OK(code);
    }
    TL_SET(&p->is_over, true);
    while (TL_GET(&p->run) != p->count) { /* the items are the loop's until they have run */
        nkt_sleep_ms(1);
    }
    free(items);
    return NULL;
}

/* Q-01 SD35 TQ02 TQ10 I6: eight threads post into a small queue and try again when it is full:
 * each one's come in order, none is lost, none comes twice, again and again. */
NKT_LOOP_TEST(lposts_of_eight_threads) {
    static lposts_producer producers[LPOSTS_PRODUCERS];
    int rounds = (int)nkt_scale(4, 3);
    for (int round = 0; round < rounds; round++) {
        netkit_loop_desc desc;
        netkit_loop *loop;
        uint64_t run = 0, count = nkt_count(1000000, 20000) / (unsigned)rounds;
        memset(&desc, 0, sizeof(desc));
        desc.posts_max = round == 0 ? 4 : 256;
        loop = nkt_loop_with(&desc);
        memset(producers, 0, sizeof(producers));
        for (int i = 0; i < LPOSTS_PRODUCERS; i++) {
            producers[i].loop = loop;
            producers[i].count = count;
            CHECK_EQ(pthread_create(&producers[i].thread, NULL, lposts_produce, &producers[i]), 0);
        }
        while (run < LPOSTS_PRODUCERS * count) {
            CHECK_OK(netkit_loop_run_once(loop, 1000));
            run = 0;
            for (int i = 0; i < LPOSTS_PRODUCERS; i++) {
                run += producers[i].run;
            }
        }
        for (int i = 0; i < LPOSTS_PRODUCERS; i++) {
            CHECK_EQ(pthread_join(producers[i].thread, NULL), 0);
            CHECK_EQ(producers[i].run, count);
        }
        CHECK_EQ(netkit_loop_poll(loop, -1), 0);
        nkt_loop_done(loop);
    }
}

/* ---- waking ------------------------------------------------------------------------------ */

enum {
    LPOSTS_WAIT_MS = 10000 /* so long a wake is late that is lost */
};

typedef struct lposts_sleeper {
    netkit_loop *loop;
    uint64_t rounds, posted_ns, longest_ns;
    uint64_t run;
    int fault; /* errno of the first wake of each round, 0 = none */
} lposts_sleeper;

static void lposts_woken(netkit_loop *loop, int status, void *user) {
    lposts_sleeper *s = (lposts_sleeper *)user;
    uint64_t took = nkt_now_ns() - TL_GET(&s->posted_ns);
    CHECK_OK(status);
    s->longest_ns = took > s->longest_ns ? took : s->longest_ns;
    if (TL_ADD(&s->run, 1) == s->rounds) {
        CHECK_OK(netkit_loop_stop(loop));
    }
}

static void *lposts_wake_thread(void *user) {
    lposts_sleeper *s = (lposts_sleeper *)user;
    for (uint64_t i = 0; i < s->rounds; i++) {
        if (i % 64 == 0) {
            nkt_sleep_ms(1); /* now it does sleep, else it is about to */
        }
        if (s->fault != 0) {
            nkt_fault_clear();
            nkt_fault_at("write", 1, s->fault, false);
            nkt_fault_at("kevent_trigger", 1, s->fault, false);
        }
        TL_SET(&s->posted_ns, nkt_now_ns());
        CHECK_OK(netkit_loop_post(s->loop, lposts_woken, s));
        while (TL_GET(&s->run) <= i) {
            sched_yield(); /* valgrind runs one thread at a time: a spin would starve the loop */
        }
    }
    nkt_fault_clear();
    return NULL;
}

static void lposts_ping_pong(uint64_t rounds, int fault) {
    lposts_sleeper s;
    pthread_t thread;
    int never = 0;
    memset(&s, 0, sizeof(s));
    s.loop = nkt_loop();
    s.rounds = rounds;
    s.fault = fault;
    (void)never;
    CHECK_EQ(pthread_create(&thread, NULL, lposts_wake_thread, &s), 0);
    while (TL_GET(&s.run) < s.rounds) {
        CHECK_OK(netkit_loop_run_once(s.loop, LPOSTS_WAIT_MS));
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(s.run, rounds);
    printf("longest %" PRIu64 " us\n", s.longest_ns / 1000);
    CHECK(s.longest_ns / 1000000 < LPOSTS_WAIT_MS / 2); /* a busy machine may take a second */
    nkt_loop_done(s.loop);
}

/* Q-02 PL14 I6: posts that come while the loop sleeps or is just about to: none is late. */
NKT_LOOP_TEST(lposts_wake_the_sleeper) {
    lposts_ping_pong(nkt_scale(1000000, 5000), 0);
}

/* Q-06 Z-04 I6: a wake that a signal interrupts is made again. */
NKT_LOOP_TEST(lposts_wake_in_spite_of_signals) {
    lposts_ping_pong(300, EINTR);
}

/* SD40 TQ06 Q-06 I6: a hundred thousand posts to a sleeping loop cost a few writes, block nobody,
 * and all run. */
NKT_LOOP_TEST(lposts_wake_once_for_many) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    size_t count = 100000;
    memset(&desc, 0, sizeof(desc));
    desc.posts_max = 131072;
    loop = nkt_loop_with(&desc);
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_calls_reset();
    for (size_t i = 0; i < count; i++) {
        CHECK_OK(netkit_loop_post(loop, lposts_note, lposts_user(i)));
    }
    CHECK(nkt_calls(NULL) <= 4);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(lposts_seen.count, count);
    nkt_loop_done(loop);
}

/* Q-06 PL14: stops and wakes without end block nobody, fill nothing up, and are one. */
NKT_LOOP_TEST(lposts_wakes_are_one) {
    netkit_loop *loop = nkt_loop();
    netkit_poller *poller = NULL;
    netkit_poller_desc desc;
    netkit_poll_event event;
    uint64_t began;
    memset(&desc, 0, sizeof(desc));
    desc.backend = nkt_backend == NETKIT_BACKEND_URING ? NETKIT_BACKEND_EPOLL : nkt_backend;
    desc.allocator = nkt_allocator();
    for (int i = 0; i < (int)nkt_count(200000, 200000); i++) {
        CHECK_OK(netkit_loop_stop(loop));
    }
    CHECK_OK(netkit_loop_run(loop));
    CHECK_OK(netkit_loop_run_once(loop, 50)); /* may be woken by what is left of them */
    began = nkt_now_ns();
    CHECK_OK(netkit_loop_run_once(loop, 50));
    CHECK(nkt_now_ns() - began >= 50000000);
    CHECK_OK(netkit_poller_create(&poller, &desc));
    for (int i = 0; i < (int)nkt_count(200000, 200000); i++) {
        CHECK_OK(netkit_poller_wake(poller));
    }
    began = nkt_now_ns();
    CHECK_EQ(netkit_poller_wait(poller, &event, 1, 5000000), 0);
    CHECK(nkt_now_ns() - began < 4000000000u);
    began = nkt_now_ns();
    CHECK_EQ(netkit_poller_wait(poller, &event, 1, 30000), 0);
    CHECK(nkt_now_ns() - began >= 30000000);
    netkit_poller_destroy(poller);
    nkt_loop_done(loop);
}

/* ---- fairness --------------------------------------------------------------------------- */

typedef struct lposts_endless {
    uint64_t run;
    bool is_over;
} lposts_endless;

static void lposts_again(netkit_loop *loop, int status, void *user) {
    lposts_endless *e = (lposts_endless *)user;
    e->run++;
    if (!e->is_over && status == NETKIT_OK) {
        CHECK_OK(netkit_loop_post(loop, lposts_again, e));
    }
}

static void lposts_tick(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    ++*(int *)user;
}

/* Q-05 PL23 R5: posts that post themselves for ever leave room for sockets and timers. */
NKT_LOOP_TEST(lposts_without_end_starve_nobody) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    lposts_endless all[10];
    static tl_conn c;
    char text[64];
    int ticks = 0;
    memset(&desc, 0, sizeof(desc));
    memset(all, 0, sizeof(all));
    desc.post_budget = 5;
    loop = nkt_loop_with(&desc);
    c.is_echo = true;
    tl_open(loop, &c);
    for (int i = 0; i < 10; i++) {
        CHECK_OK(netkit_loop_post(loop, lposts_again, &all[i]));
    }
    CHECK_OK(netkit_timer_start(loop, NULL, 1000, 1000, lposts_tick, &ticks));
    for (int i = 0; i < 100; i++) {
        uint64_t before = 0, after = 0;
        int turns = 0;
        tl_say(c.peer, "ping");
        while (tl_hear(c.peer, text, sizeof(text))[0] == '\0') {
            before = after = 0;
            for (int k = 0; k < 10; k++) {
                before += all[k].run;
            }
            CHECK_EQ(netkit_loop_run_once(loop, 1000), 1);
            for (int k = 0; k < 10; k++) {
                after += all[k].run;
            }
            CHECK(after > before && after - before <= 5);
            CHECK(++turns < 4);
        }
        CHECK_STR(text, "ping");
    }
    TL_UNTIL(loop, ticks > 3);
    for (int i = 0; i < 10; i++) {
        all[i].is_over = true;
        CHECK(all[i].run > 10);
    }
    tl_drop(loop, &c);
    nkt_loop_done(loop);
}

/* ---- the end ------------------------------------------------------------------------------ */

static int lposts_late_code;

static void lposts_repost(netkit_loop *loop, int status, void *user) {
    CHECK_ERR(status, NETKIT_E_CANCELLED);
    lposts_late_code = netkit_loop_post(loop, lposts_note, user);
}

/* TQ09 SD31 Q-04 I6 PL27: what waits at the end is given back as CANCELLED, in order, once; a
 * post from there is refused or given back too. */
NKT_LOOP_TEST(lposts_left_over_are_cancelled) {
    netkit_loop *loop = nkt_loop();
    for (size_t i = 0; i < 2000; i++) {
        CHECK_OK(netkit_loop_post(loop, lposts_note, lposts_user(i)));
    }
    CHECK_OK(netkit_loop_post(loop, lposts_repost, lposts_user(5000)));
    nkt_loop_done(loop);
    CHECK_EQ(lposts_seen.cancelled, lposts_seen.count);
    CHECK_EQ(lposts_seen.count, lposts_late_code == NETKIT_OK ? 2001 : 2000);
}

typedef struct lposts_ender {
    netkit_loop *loop;
    uint64_t accepted, run, cancelled;
    bool is_over;
    pthread_t thread;
} lposts_ender;

static void lposts_end_run(netkit_loop *loop, int status, void *user) {
    lposts_ender *e = (lposts_ender *)user;
    (void)loop;
    e->run += status == NETKIT_OK;
    e->cancelled += status == NETKIT_E_CANCELLED;
}

static void *lposts_end_thread(void *user) {
    lposts_ender *e = (lposts_ender *)user;
    while (!TL_GET(&e->is_over)) {
        e->accepted += netkit_loop_post(e->loop, lposts_end_run, e) == NETKIT_OK;
    }
    return NULL;
}

/* Q-04 SD31 TQ09 I6: posts that race with a stop run or are given back by destroy, each once: the
 * posters are ended between the two, as who posts must keep the loop alive. */
NKT_LOOP_TEST(lposts_race_with_the_end) {
    for (int round = 0; round < (int)nkt_scale(300, 30); round++) {
        lposts_ender e[3];
        netkit_loop *loop = nkt_loop();
        uint64_t total = 0, seen = 0;
        memset(e, 0, sizeof(e));
        for (int i = 0; i < 3; i++) {
            e[i].loop = loop;
            CHECK_EQ(pthread_create(&e[i].thread, NULL, lposts_end_thread, &e[i]), 0);
        }
        for (uint64_t until = nkt_now_ns() + nkt_random() % 2000000; nkt_now_ns() < until;) {
            CHECK_OK(netkit_loop_run_once(loop, 0));
        }
        CHECK_OK(netkit_loop_stop(loop));
        CHECK_OK(netkit_loop_run(loop));
        for (int i = 0; i < 3; i++) {
            TL_SET(&e[i].is_over, true);
            CHECK_EQ(pthread_join(e[i].thread, NULL), 0);
        }
        nkt_loop_done(loop);
        for (int i = 0; i < 3; i++) {
            total += e[i].accepted;
            seen += e[i].run + e[i].cancelled;
        }
        CHECK_EQ(seen, total);
    }
}

/* ---- who owns the loop ----------------------------------------------------------------------- */

typedef struct lposts_invoked {
    netkit_loop *loop;
    int run;
    bool is_inline, was_owner;
} lposts_invoked;

static void lposts_invoke_run(netkit_loop *loop, int status, void *user) {
    lposts_invoked *v = (lposts_invoked *)user;
    CHECK_OK(status);
    CHECK(netkit_loop_is_owner(loop));
    v->run++;
}

static void lposts_invoke_inside(netkit_loop *loop, int status, void *user) {
    lposts_invoked *v = (lposts_invoked *)user;
    CHECK_OK(status);
    CHECK_OK(netkit_loop_invoke(loop, lposts_invoke_run, v));
    v->is_inline = v->run == 1;
    CHECK_OK(netkit_loop_post(loop, lposts_invoke_run, v));
    CHECK_EQ(v->run, 1);
}

static void *lposts_invoke_thread(void *user) {
    lposts_invoked *v = (lposts_invoked *)user;
    v->was_owner = netkit_loop_is_owner(v->loop);
    CHECK_OK(netkit_loop_invoke(v->loop, lposts_invoke_run, v));
    return NULL;
}

/* TQ07 TQ08: invoke runs at once on the loop's thread, and posts from any other. */
NKT_LOOP_TEST(lposts_invoke_runs_inline_on_its_thread) {
    lposts_invoked v;
    pthread_t thread;
    memset(&v, 0, sizeof(v));
    v.loop = nkt_loop();
    CHECK_OK(netkit_loop_poll(v.loop, -1));
    CHECK(netkit_loop_is_owner(v.loop));
    CHECK(!netkit_loop_is_running(v.loop));
    CHECK_OK(netkit_loop_post(v.loop, lposts_invoke_inside, &v));
    CHECK_OK(netkit_loop_run(v.loop));
    CHECK(v.is_inline);
    CHECK_EQ(v.run, 2);
    v.was_owner = true;
    CHECK_EQ(pthread_create(&thread, NULL, lposts_invoke_thread, &v), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(!v.was_owner);
    CHECK_EQ(v.run, 2);
    CHECK_OK(netkit_loop_run(v.loop));
    CHECK_EQ(v.run, 3);
    nkt_loop_done(v.loop);
}

static void lposts_invoke_stop(netkit_loop *loop, int status, void *user) {
    CHECK_OK(status);
    ((lposts_invoked *)user)->run++;
    CHECK_OK(netkit_loop_stop(loop));
}

static void *lposts_invoke_early(void *user) {
    lposts_invoked *v = (lposts_invoked *)user;
    CHECK(!netkit_loop_is_owner(v->loop));
    CHECK_OK(netkit_loop_invoke(v->loop, lposts_invoke_stop, v));
    return NULL;
}

/* TQ07 TQ08: others may ask who owns the loop just when its first run decides that (what a race
 * would do here ThreadSanitizer shows). */
NKT_LOOP_TEST(lposts_invoke_during_the_first_run) {
    lposts_invoked v;
    pthread_t thread;
    netkit_listen_desc desc;
    memset(&v, 0, sizeof(v));
    memset(&desc, 0, sizeof(desc));
    v.loop = nkt_loop();
    desc.address = "127.0.0.1:0";
    CHECK_OK(netkit_listen(v.loop, &desc, NULL));
    CHECK_EQ(pthread_create(&thread, NULL, lposts_invoke_early, &v), 0);
    CHECK_OK(netkit_loop_run(v.loop));
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(v.run, 1);
    nkt_loop_done(v.loop);
}
