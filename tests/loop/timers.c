/* Timers of a loop: when they fire, in which order, and what may be done to them where. */

#include "support_loop.h"

typedef struct ltimer {
    netkit_timer handle;
    uint64_t due;   /* of the loop's clock */
    uint64_t order; /* of the start */
    int fired;
    int stops_at; /* firing that ends it, 0 = never */
    struct ltimers *all;
} ltimer;

typedef struct ltimers {
    netkit_loop *loop;
    tl_clock clock;
    ltimer *list;
    uint64_t last_due, last_order;
    int fired;
} ltimers;

static void ltimer_count(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    ++*(int *)user;
}

static netkit_timer ltimer_after(netkit_loop *loop, uint64_t delay_us, uint64_t period_us,
                                 int *count) {
    netkit_timer timer = {0};
    CHECK_OK(netkit_timer_start(loop, &timer, delay_us, period_us, ltimer_count, count));
    CHECK(timer.id != 0);
    return timer;
}

/* TM01 TM09 I7: one fires once and its handle dies, the other one goes on; neither comes a
 * nanosecond early, by the clock that was put in. */
NKT_LOOP_TEST(timers_one_shot_and_repeating) {
    tl_clock clock;
    netkit_loop *loop = tl_loop_on(&clock, 5000000000u, NULL);
    int once = 0, often = 0;
    netkit_timer one = ltimer_after(loop, 10000, 0, &once);
    netkit_timer many = ltimer_after(loop, 1000, 1000, &often);
    uint64_t left = 0;
    CHECK_EQ(netkit_loop_now(loop), clock.now);
    tl_pass(loop, &clock, 999999);
    CHECK_EQ(often, 0);
    CHECK_OK(netkit_timer_remaining(loop, many, &left));
    CHECK_EQ(left, 1); /* rounded up */
    tl_pass(loop, &clock, 1);
    CHECK_EQ(often, 1);
    CHECK_EQ(netkit_loop_turn_time(loop), clock.now);
    for (int i = 2; i <= 9; i++) {
        tl_pass(loop, &clock, 1000000);
        CHECK_EQ(often, i);
    }
    tl_pass(loop, &clock, 999999);
    CHECK_EQ(once, 0);
    CHECK_OK(netkit_timer_remaining(loop, one, &left));
    CHECK_EQ(left, 1);
    tl_pass(loop, &clock, 1);
    CHECK_EQ(once, 1);
    CHECK_EQ(often, 10);
    CHECK_ERR(netkit_timer_remaining(loop, one, &left), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_restart(loop, one, 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_stop(loop, one), NETKIT_E_STALE);
    CHECK_ERR(netkit_timer_set_referenced(loop, one, true), NETKIT_E_STALE);
    CHECK_OK(netkit_timer_stop(loop, many));
    CHECK_ERR(netkit_timer_stop(loop, many), NETKIT_E_STALE);
    tl_pass(loop, &clock, 1000000000);
    CHECK_EQ(once + often, 11);
    nkt_loop_done(loop);
}

static void ltimer_check_order(netkit_loop *loop, netkit_timer timer, void *user) {
    ltimer *t = (ltimer *)user;
    ltimers *all = t->all;
    CHECK(loop == all->loop && timer.id == t->handle.id);
    CHECK(t->due <= netkit_loop_now(loop));
    CHECK(t->due > all->last_due || (t->due == all->last_due && t->order > all->last_order));
    all->last_due = t->due;
    all->last_order = t->order;
    t->fired++;
    all->fired++;
}

/* M-02 I7: by due time, and those of one time in the order of their start, restarts included. */
NKT_LOOP_TEST(timers_fire_by_due_time_then_start) {
    int count = (int)nkt_scale(100000, 20000), fired = 0;
    ltimers all;
    uint64_t order = 0;
    memset(&all, 0, sizeof(all));
    all.loop = tl_loop_on(&all.clock, 1, NULL);
    all.list = (ltimer *)calloc((size_t)count, sizeof(ltimer));
    for (int i = 0; i < count; i++) {
        ltimer *t = &all.list[i];
        uint64_t delay_us = nkt_random() % 2000;
        t->all = &all;
        t->order = ++order;
        t->due = all.clock.now + delay_us * 1000;
        CHECK_OK(netkit_timer_start(all.loop, &t->handle, delay_us, 0, ltimer_check_order, t));
    }
    for (int i = 0; i < count; i += 3) {
        ltimer *t = &all.list[i];
        uint64_t delay_us = nkt_random() % 2000;
        t->order = ++order;
        t->due = all.clock.now + delay_us * 1000;
        CHECK_OK(netkit_timer_restart(all.loop, t->handle, delay_us));
    }
    for (int i = 1; i < count; i += 5) {
        CHECK_OK(netkit_timer_stop(all.loop, all.list[i].handle));
        fired--;
        all.list[i].fired = 1;
    }
    for (fired += count; all.fired < fired && all.clock.now < 10000000000u;) {
        tl_pass(all.loop, &all.clock, nkt_random() % 50000);
        while (netkit_loop_poll(all.loop, -1) == 1 && netkit_loop_timeout_ms(all.loop) == 0) {
        }
    }
    CHECK_EQ(all.fired, fired);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(all.list[i].fired, 1);
    }
    free(all.list);
    nkt_loop_done(all.loop);
}

typedef struct ltimer_early {
    netkit_loop *loop;
    uint64_t started_ns, delay_ns, late_ns;
    int *left;
} ltimer_early;

static void ltimer_check_early(netkit_loop *loop, netkit_timer timer, void *user) {
    ltimer_early *t = (ltimer_early *)user;
    uint64_t took = nkt_now_ns() - t->started_ns;
    (void)loop;
    (void)timer;
    CHECK(took >= t->delay_ns);
    t->late_ns = took - t->delay_ns;
    --*t->left;
}

static int ltimer_compare_late(const void *a, const void *b) {
    uint64_t x = ((const ltimer_early *)a)->late_ns, y = ((const ltimer_early *)b)->late_ns;
    return (x > y) - (x < y);
}

/* A thousand of up to 20 ms: how late the half of them was at most. */
static uint64_t ltimer_lateness(netkit_loop *loop) {
    enum {
        COUNT = 1000
    };
    static ltimer_early all[COUNT];
    int left = 0;
    for (int i = 0; i < COUNT; i++) {
        all[i].delay_ns = (100 + nkt_random() % 19900) * 1000;
        all[i].left = &left;
        all[i].started_ns = nkt_now_ns();
        left++;
        CHECK_OK(
            netkit_timer_start(loop, NULL, all[i].delay_ns / 1000, 0, ltimer_check_early, &all[i]));
        if (i % 10 == 0) {
            CHECK_OK(netkit_loop_run_once(loop, 0));
        }
    }
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(left, 0);
    qsort(all, COUNT, sizeof(all[0]), ltimer_compare_late);
    printf("late: half %" PRIu64 " us, 99%% %" PRIu64 " us\n", all[COUNT / 2].late_ns / 1000,
           all[COUNT * 99 / 100].late_ns / 1000);
    return all[COUNT / 2].late_ns;
}

/* M-03 I7: by the real clock, none of many short ones is early, and few are late: of a machine
 * that stands still now and then, one round in five. */
NKT_LOOP_TEST(timers_are_never_early) {
    netkit_loop *loop = nkt_loop();
    int late = 0;
    while (ltimer_lateness(loop) >= 30000000u * nkt_slowness) {
        CHECK(++late < 5);
    }
    nkt_loop_done(loop);
}

/* ---- in callbacks ---------------------------------------------------------------- */

typedef struct ltimer_deed {
    netkit_timer self, other;
    enum {
        LTIMER_STOP_SELF,
        LTIMER_RESTART_SELF,
        LTIMER_STOP_OTHER,
        LTIMER_RESTART_OTHER,
        LTIMER_START_SAME,
        LTIMER_DEEDS
    } deed;
    int fired, other_fired;
} ltimer_deed;

static void ltimer_do(netkit_loop *loop, netkit_timer timer, void *user) {
    ltimer_deed *d = (ltimer_deed *)user;
    uint64_t left = 1;
    CHECK(timer.id == d->self.id);
    if (d->fired++ > 0) {
        return;
    }
    CHECK_OK(netkit_timer_remaining(loop, timer, &left));
    switch (d->deed) {
    case LTIMER_STOP_SELF:
        CHECK_OK(netkit_timer_stop(loop, timer));
        CHECK_ERR(netkit_timer_stop(loop, timer), NETKIT_E_STALE);
        CHECK_ERR(netkit_timer_restart(loop, timer, 1), NETKIT_E_STALE);
        break;
    case LTIMER_RESTART_SELF:
        CHECK_OK(netkit_timer_restart(loop, timer, 5000));
        CHECK_OK(netkit_timer_remaining(loop, timer, &left));
        CHECK_EQ(left, 5000);
        break;
    case LTIMER_STOP_OTHER: CHECK_OK(netkit_timer_stop(loop, d->other)); break;
    case LTIMER_RESTART_OTHER: CHECK_OK(netkit_timer_restart(loop, d->other, 5000)); break;
    case LTIMER_START_SAME:
        CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, ltimer_count, &d->other_fired));
        break;
    case LTIMER_DEEDS: break;
    }
}

/* M-01 SD20 TM02 TM03 PL16: in the callback of a timer, that timer or one that is due in the
 * same turn is stopped or restarted, for one-shot and repeating ones. */
NKT_LOOP_TEST(timers_are_changed_in_callbacks) {
    for (int i = 0; i < 2 * LTIMER_DEEDS; i++) {
        tl_clock clock;
        netkit_loop *loop = tl_loop_on(&clock, 77, NULL);
        ltimer_deed d;
        bool repeats = i >= LTIMER_DEEDS;
        uint64_t left = 0;
        memset(&d, 0, sizeof(d));
        *(int *)&d.deed = i % LTIMER_DEEDS;
        CHECK_OK(netkit_timer_start(loop, &d.self, 1000, repeats ? 1000 : 0, ltimer_do, &d));
        d.other = ltimer_after(loop, 1000, 0, &d.other_fired);
        tl_pass(loop, &clock, 1000000);
        CHECK_EQ(d.fired, 1);
        if (d.deed == LTIMER_START_SAME) { /* started in a callback, it may wait a turn */
            CHECK_OK(netkit_loop_poll(loop, -1));
        }
        CHECK_EQ(d.other_fired, d.deed == LTIMER_STOP_OTHER || d.deed == LTIMER_RESTART_OTHER ? 0
                                : d.deed == LTIMER_START_SAME                                 ? 2
                                                                                              : 1);
        bool lives = d.deed == LTIMER_RESTART_SELF || (repeats && d.deed != LTIMER_STOP_SELF);
        CHECK_ERR(netkit_timer_remaining(loop, d.self, &left), lives ? NETKIT_OK : NETKIT_E_STALE);
        tl_pass(loop, &clock, 4999999);
        CHECK_EQ(d.fired, repeats && lives && d.deed != LTIMER_RESTART_SELF ? 2 : 1);
        tl_pass(loop, &clock, 1);
        if (d.deed == LTIMER_RESTART_SELF) {
            CHECK_EQ(d.fired, 2);
            tl_pass(loop, &clock, 1000000); /* the period counts from there */
            CHECK_EQ(d.fired, repeats ? 3 : 2);
        }
        CHECK_EQ(d.other_fired, d.deed == LTIMER_STOP_OTHER   ? 0
                                : d.deed == LTIMER_START_SAME ? 2
                                                              : 1);
        nkt_loop_done(loop);
    }
}

enum {
    LTIMER_MODEL = 64
};

typedef struct ltimer_model {
    netkit_loop *loop;
    tl_clock clock;
    struct {
        netkit_timer handle;
        bool is_alive;
        uint64_t due, period, order;
    } rows[LTIMER_MODEL];
    uint64_t order, fired;
    bool is_inside; /* a callback */
    int current;    /* the row whose callback runs, or -1 */
} ltimer_model;

static void ltimer_model_fire(netkit_loop *loop, netkit_timer timer, void *user);

static ltimer_model *ltimer_the_model;

/* One random deed, to any row, from anywhere. */
static void ltimer_model_step(ltimer_model *m) {
    uint64_t roll = nkt_random();
    int i = (int)(roll % LTIMER_MODEL);
    uint64_t delay = (roll >> 8) % 300, period = (roll >> 20) % 3 == 0 ? 1 + (roll >> 24) % 90 : 0;
    uint64_t left = 0;
    switch ((roll >> 40) % 4) {
    case 0:
        if (!m->rows[i].is_alive && i != m->current) {
            CHECK_OK(netkit_timer_start(m->loop, &m->rows[i].handle, delay, period,
                                        ltimer_model_fire, &m->rows[i]));
            m->rows[i].is_alive = true;
            m->rows[i].due = m->clock.now + delay * 1000;
            m->rows[i].period = period * 1000;
            m->rows[i].order = ++m->order;
        }
        break;
    case 1:
        if (i != m->current) {
            CHECK_ERR(netkit_timer_stop(m->loop, m->rows[i].handle),
                      m->rows[i].is_alive ? NETKIT_OK : NETKIT_E_STALE);
            m->rows[i].is_alive = false;
        }
        break;
    case 2:
        if (m->rows[i].is_alive) {
            CHECK_OK(netkit_timer_restart(m->loop, m->rows[i].handle, delay));
            m->rows[i].due = m->clock.now + delay * 1000;
            m->rows[i].order = ++m->order;
        } else if (i != m->current) {
            CHECK_ERR(netkit_timer_restart(m->loop, m->rows[i].handle, delay), NETKIT_E_STALE);
        }
        break;
    default:
        if (m->rows[i].is_alive && i != m->current) {
            uint64_t want =
                m->rows[i].due > m->clock.now ? (m->rows[i].due - m->clock.now + 999) / 1000 : 0;
            CHECK_OK(netkit_timer_remaining(m->loop, m->rows[i].handle, &left));
            CHECK_EQ(left, want);
        }
        break;
    }
}

static void ltimer_model_fire(netkit_loop *loop, netkit_timer timer, void *user) {
    ltimer_model *m = ltimer_the_model;
    int self = -1;
    (void)loop;
    CHECK(!m->is_inside);
    for (int i = 0; i < LTIMER_MODEL; i++) {
        if (user == &m->rows[i]) {
            self = i;
        }
    }
    CHECK(self >= 0 && m->rows[self].is_alive && m->rows[self].handle.id == timer.id);
    CHECK(m->rows[self].due <= m->clock.now);
    for (int i = 0; i < LTIMER_MODEL; i++) { /* nobody was to come before */
        CHECK(i == self || !m->rows[i].is_alive || m->rows[i].due > m->rows[self].due ||
              (m->rows[i].due == m->rows[self].due && m->rows[i].order > m->rows[self].order));
    }
    if (m->rows[self].period == 0) {
        m->rows[self].is_alive = false;
    } else {
        uint64_t missed = (m->clock.now - m->rows[self].due) / m->rows[self].period;
        m->rows[self].due += (missed + 1) * m->rows[self].period;
        m->rows[self].order = ++m->order;
    }
    m->fired++;
    m->is_inside = true;
    m->current = self;
    for (int i = (int)(nkt_random() % 3); i > 0; i--) {
        ltimer_model_step(m);
    }
    m->current = -1;
    m->is_inside = false;
}

/* M-01 M-04 TM02 TM03 TM07 I7: random starts, stops, restarts and questions from outside and
 * from callbacks, one-shot and repeating, over an uneven clock, against a list. */
NKT_LOOP_TEST(timers_agree_with_a_list) {
    static ltimer_model m;
    ltimer_the_model = &m;
    m.current = -1;
    m.loop = tl_loop_on(&m.clock, nkt_random() % 1000000000000u, NULL);
    for (uint64_t step = 0; step < nkt_scale(1000000, 60000); step++) {
        ltimer_model_step(&m);
        if (nkt_random() % 4 == 0) {
            tl_pass(m.loop, &m.clock, nkt_random() % 80000);
            for (int turn = 0; turn < 100 && netkit_loop_timeout_ms(m.loop) == 0; turn++) {
                CHECK_OK(netkit_loop_poll(m.loop, -1)); /* what its callbacks started with 0 */
            }
            for (int i = 0; i < LTIMER_MODEL; i++) {
                CHECK(!m.rows[i].is_alive || m.rows[i].due > m.clock.now);
            }
        }
    }
    CHECK(m.fired > 5000);
    nkt_loop_done(m.loop);
}

/* ---- zero, huge, odd clocks -------------------------------------------------------- */

typedef struct ltimer_zero {
    uint64_t fired, last_turn;
    bool is_over;
} ltimer_zero;

static void ltimer_rearm_zero(netkit_loop *loop, netkit_timer timer, void *user) {
    ltimer_zero *z = (ltimer_zero *)user;
    CHECK(netkit_loop_turns(loop) != z->last_turn);
    z->last_turn = netkit_loop_turns(loop);
    z->fired++;
    if (!z->is_over) {
        CHECK_OK(netkit_timer_restart(loop, timer, 0));
    }
}

/* M-05: one that starts itself again with no delay fires once a turn, and the rest is served. */
NKT_LOOP_TEST(timers_of_no_delay_starve_nobody) {
    netkit_loop *loop = nkt_loop();
    ltimer_zero z = {0, UINT64_MAX, false};
    static tl_conn c;
    char text[64];
    uint64_t end = nkt_now_ns() + nkt_scale(1000, 200) * 1000000u;
    int served = 0;
    c.is_echo = true;
    tl_open(loop, &c);
    CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, ltimer_rearm_zero, &z));
    while (nkt_now_ns() < end || served <= 10) {
        uint64_t before = z.fired;
        tl_say(c.peer, "ping");
        for (int turns = 0; tl_hear(c.peer, text, sizeof(text))[0] == '\0'; turns++) {
            CHECK(turns < 3);
            CHECK_EQ(netkit_loop_run_once(loop, 1000), 1);
        }
        CHECK_STR(text, "ping");
        CHECK(z.fired > before);
        served++;
    }
    z.is_over = true;
    tl_drop(loop, &c);
    nkt_loop_done(loop);
}

static uint64_t ltimer_waits(void) {
    return nkt_calls("epoll_wait") + nkt_calls("epoll_pwait2") + nkt_calls("poll") +
           nkt_calls("kevent");
}

/* M-06 TM04: fractions of a millisecond are waited for and not polled for. */
NKT_LOOP_TEST(timers_below_a_millisecond_do_not_spin) {
    static const uint64_t delays_us[] = {300, 900, 1100, 2500};
    netkit_loop *loop = nkt_loop();
    for (size_t i = 0; i < 4; i++) {
        int fired = 0;
        for (int round = 0; round < 20; round++) {
            uint64_t began;
            nkt_calls_reset();
            began = nkt_now_ns();
            ltimer_after(loop, delays_us[i], 0, &fired);
            CHECK_OK(netkit_loop_run(loop));
            CHECK(nkt_now_ns() - began >= delays_us[i] * 1000);
            CHECK_EQ(fired, round + 1);
            CHECK(ltimer_waits() <= 3);
        }
    }
    nkt_loop_done(loop);
}

#if NKI_POSIX /* Windows interrupts nothing */
/* M-06 Z-04: a wait that a signal ends early is continued, not begun anew. */
NKT_LOOP_TEST(timers_are_kept_over_interruptions) {
    netkit_loop *loop = nkt_loop();
    int fired = 0;
    uint64_t began = nkt_now_ns();
    nkt_fault_at("epoll_wait", 1, EINTR, false);
    nkt_fault_at("epoll_pwait2", 1, EINTR, false);
    nkt_fault_at("poll", 1, EINTR, false);
    nkt_fault_at("kevent", 1, EINTR, false);
    nkt_fault_at("io_uring_enter", 1, EINTR, false);
    ltimer_after(loop, 30000, 0, &fired);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(fired, 1);
    CHECK(nkt_now_ns() - began >= 30000000);
    CHECK(nkt_faults() >= 1);
    nkt_loop_done(loop);
}
#endif

/* M-07 TM08: delays without end neither fire nor wrap nor spin; long ones are not cut short. */
NKT_LOOP_TEST(timers_take_huge_delays) {
    static const uint64_t delays_us[] = {UINT64_MAX,
                                         UINT64_MAX - 1,
                                         (uint64_t)-1000,
                                         (uint64_t)1 << 63,
                                         UINT64_MAX / 1000,
                                         UINT64_MAX / 1000 + 1,
                                         ((uint64_t)INT_MAX + 1) * 1000,
                                         (uint64_t)UINT32_MAX * 1000 + 1000,
                                         (uint64_t)3600 * 1000000};
    netkit_loop *loop = nkt_loop();
    uint64_t began = nkt_now_ns(), left = 0, turns;
    int fired = 0;
    for (size_t i = 0; i < sizeof(delays_us) / sizeof(delays_us[0]); i++) {
        netkit_timer timer = ltimer_after(loop, delays_us[i], 0, &fired);
        netkit_timer often = ltimer_after(loop, delays_us[i], delays_us[i], &fired);
        uint64_t least = delays_us[i] < (uint64_t)1 << 62 ? delays_us[i] : ((uint64_t)1 << 62);
        least = least > ((uint64_t)1 << 62) / 1000 ? ((uint64_t)1 << 62) / 1000 : least;
        CHECK_OK(netkit_timer_remaining(loop, timer, &left));
        CHECK(left <= delays_us[i] && left > least - 10000000);
        CHECK(netkit_loop_timeout_ms(loop) > 3000000);
        CHECK_OK(netkit_loop_poll(loop, -1));
        CHECK_OK(netkit_timer_restart(loop, often, delays_us[i]));
        CHECK_OK(netkit_timer_stop(loop, timer));
        CHECK_OK(netkit_timer_stop(loop, often));
    }
    ltimer_after(loop, UINT64_MAX, UINT64_MAX, &fired);
    ltimer_after(loop, ((uint64_t)INT_MAX + 1) * 1000, 0, &fired);
    began = nkt_now_ns();
    turns = netkit_loop_turns(loop);
    nkt_calls_reset();
    CHECK_OK(netkit_loop_run_once(loop, 30));
    CHECK(nkt_now_ns() - began >= 30000000);
    CHECK_EQ(netkit_loop_turns(loop), turns + 1);
    CHECK(ltimer_waits() <= 3);
    CHECK_EQ(fired, 0);
    nkt_loop_done(loop);
}

/* M-08 TM09: clocks that stand where seconds or nanoseconds pass 31, 32 or 63 bits. */
NKT_LOOP_TEST(timers_pass_the_ends_of_integers) {
    static const uint64_t starts[] = {0,
                                      (uint64_t)INT32_MAX * 1000000 - 500000,
                                      (uint64_t)UINT32_MAX * 1000000 - 500000,
                                      ((uint64_t)INT32_MAX - 1) * 1000000000,
                                      (uint64_t)INT32_MAX * 1000000000 + 999500000,
                                      (uint64_t)UINT32_MAX * 1000000000 + 999500000,
                                      (uint64_t)UINT32_MAX - 500000,
                                      (uint64_t)INT64_MAX - 500000,
                                      (uint64_t)INT64_MAX - 1000000000,
                                      (uint64_t)UINT64_MAX / 2 + 1};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        tl_clock clock;
        netkit_loop *loop = tl_loop_on(&clock, starts[i], NULL);
        int often = 0, once = 0, late = 0, never = 0;
        ltimer_after(loop, 100, 100, &often);
        ltimer_after(loop, 1500, 0, &once);
        ltimer_after(loop, 5000000, 0, &late);
        ltimer_after(loop, UINT64_MAX, 0, &never);
        for (int step = 1; step <= 20; step++) {
            tl_pass(loop, &clock, 99999);
            CHECK_EQ(often, step - 1);
            tl_pass(loop, &clock, 1);
            CHECK_EQ(often, step);
            CHECK_EQ(once, step >= 15);
        }
        CHECK_EQ(late, 0);
        tl_pass(loop, &clock, 5000000000u - 20 * 100000u - 1);
        CHECK_EQ(late, 0);
        tl_pass(loop, &clock, 1);
        CHECK_EQ(late, 1);
        CHECK_EQ(never, 0);
        nkt_loop_done(loop);
    }
}

/* M-10 TM07 I7: after eight hours of sleep each repeating timer fires once and keeps its phase. */
NKT_LOOP_TEST(timers_catch_up_once) {
    tl_clock clock;
    netkit_loop *loop = tl_loop_on(&clock, 123456789, NULL);
    const uint64_t hours8 = (uint64_t)8 * 3600 * 1000000000u;
    int fast = 0, slow = 0, odd = 0;
    uint64_t left = 0, start = clock.now;
    netkit_timer timer;
    ltimer_after(loop, 1000, 1000, &fast);
    ltimer_after(loop, 5000000, 60000000, &slow);
    timer = ltimer_after(loop, 700, 7777, &odd);
    tl_pass(loop, &clock, hours8 + 300000);
    CHECK_EQ(fast, 1);
    CHECK_EQ(slow, 1);
    CHECK_EQ(odd, 1);
    CHECK_OK(netkit_timer_remaining(loop, timer, &left));
    CHECK_EQ(left, 7777 - ((clock.now - start) / 1000 - 700) % 7777);
    tl_pass(loop, &clock, 699999);
    CHECK_EQ(fast, 1);
    tl_pass(loop, &clock, 1);
    CHECK_EQ(fast, 2);
    tl_pass(loop, &clock, 250 * 1000000); /* late again, by 250 periods */
    CHECK_EQ(fast, 3);
    tl_pass(loop, &clock, 999999);
    CHECK_EQ(fast, 3);
    tl_pass(loop, &clock, 1);
    CHECK_EQ(fast, 4);
    nkt_loop_done(loop);
}

/* ---- limits, memory, references ------------------------------------------------------ */

/* TM11 SD18: a million timers come and go in bounded memory; a dead handle stays dead. */
NKT_LOOP_TEST(timers_reuse_memory) {
    tl_clock clock;
    netkit_loop *loop = tl_loop_on(&clock, 1, NULL);
    netkit_timer ring[100];
    int fired = 0, stopped = 0;
    int64_t live = 0;
    uint64_t steps = nkt_scale(1000000, 200000), allocs = 0;
    memset(ring, 0, sizeof(ring));
    for (uint64_t i = 0; i < steps; i++) {
        netkit_timer *slot = &ring[nkt_random() % 100];
        if (netkit_timer_stop(loop, *slot) == NETKIT_OK) {
            stopped++;
            CHECK_ERR(netkit_timer_stop(loop, *slot), NETKIT_E_STALE);
        }
        *slot = ltimer_after(loop, nkt_random() % 300, 0, &fired);
        if (i % 8 == 0) {
            tl_pass(loop, &clock, 10000);
        }
        if (i == steps / 10) {
            live = nkt_live_bytes();
            allocs = nkt_allocs();
        }
    }
    printf("%d fired, %d stopped, %" PRId64 " bytes\n", fired, stopped, nkt_live_bytes());
    CHECK(fired > 0 && stopped > 0);
    CHECK(nkt_live_bytes() <= live + 16384);
    CHECK(nkt_allocs() - allocs < steps / 100);
    nkt_loop_done(loop);
}

/* ER07 R5: timers_max is kept, bad arguments and having no memory are told, and nothing is made. */
NKT_LOOP_TEST(timers_are_bounded) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    netkit_timer timer = {1};
    int fired = 0;
    memset(&desc, 0, sizeof(desc));
    desc.timers_max = 10;
    loop = nkt_loop_with(&desc);
    CHECK_ERR(netkit_timer_start(loop, &timer, 1, 1, NULL, NULL), NETKIT_E_INVALID);
    CHECK_EQ(timer.id, 0);
    for (int i = 0; i < 10; i++) {
        timer = ltimer_after(loop, 1000000, 0, &fired);
    }
    netkit_timer none = {1};
    CHECK_ERR(netkit_timer_start(loop, &none, 1, 0, ltimer_count, &fired), NETKIT_E_FULL);
    CHECK_EQ(none.id, 0);
    CHECK_OK(netkit_timer_restart(loop, timer, 0));
    CHECK_OK(netkit_timer_stop(loop, timer));
    ltimer_after(loop, 0, 0, &fired);
    TL_UNTIL(loop, fired == 1);
    ltimer_after(loop, 0, 0, &fired); /* the one that fired made room */
    TL_UNTIL(loop, fired == 2);
    nkt_loop_done(loop);
    for (uint64_t nth = 1; nth < 4; nth++) {
        int code = NETKIT_OK;
        loop = nkt_loop();
        nkt_alloc_fail_at(nth, true);
        for (int i = 0; i < 2000 && code == NETKIT_OK; i++) {
            code = netkit_timer_start(loop, NULL, 1000, 0, ltimer_count, &fired);
        }
        CHECK_ERR(code, NETKIT_E_NOMEM);
        nkt_alloc_fail_at(0, false);
        fired = 0;
        ltimer_after(loop, 0, 0, &fired);
        TL_UNTIL(loop, fired >= 1);
        nkt_loop_done(loop);
    }
}

/* R5 PL23: timer_budget bounds what one turn fires; between turns there is work left. */
NKT_LOOP_TEST(timers_have_a_budget) {
    tl_clock clock;
    netkit_loop_desc desc;
    netkit_loop *loop;
    int fired = 0, turns = 0;
    memset(&desc, 0, sizeof(desc));
    desc.timer_budget = 10;
    loop = tl_loop_on(&clock, 1, &desc);
    for (int i = 0; i < 95; i++) {
        ltimer_after(loop, 10, 0, &fired);
    }
    clock.now += 10000;
    for (int before = 0; before < 95; before = fired, turns++) {
        CHECK_EQ(netkit_loop_timeout_ms(loop), 0);
        int more = netkit_loop_run_once(loop, 1000);
        CHECK_EQ(more, fired < 95);
        CHECK(fired > before && fired <= before + 10);
    }
    CHECK_EQ(turns, 10);
    nkt_loop_done(loop);
}

static void ltimer_fail(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    (void)user;
    CHECK(false && "a timer fired that was to wait");
}

/* TM10 PL20 PL21: an unreferenced timer works but does not keep the loop running. */
NKT_LOOP_TEST(timers_may_be_unreferenced) {
    netkit_loop *loop = nkt_loop();
    netkit_timer quiet = {0};
    int ticks = 0, once = 0;
    CHECK_OK(netkit_timer_start(loop, &quiet, 60000000, 0, ltimer_fail, NULL));
    netkit_timer tick = ltimer_after(loop, 1000, 1000, &ticks);
    CHECK_OK(netkit_timer_set_referenced(loop, quiet, false));
    CHECK_OK(netkit_timer_set_referenced(loop, quiet, false));
    CHECK_OK(netkit_timer_set_referenced(loop, tick, false));
    CHECK_EQ(netkit_loop_references(loop), 0);
    CHECK_OK(netkit_loop_run(loop));
    ltimer_after(loop, 20000, 0, &once);
    CHECK_EQ(netkit_loop_references(loop), 1);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(once, 1);
    CHECK(ticks >= 1);
    CHECK_OK(netkit_timer_set_referenced(loop, tick, true));
    CHECK_EQ(netkit_loop_references(loop), 1);
    CHECK_OK(netkit_timer_stop(loop, tick));
    CHECK_EQ(netkit_loop_references(loop), 0);
    nkt_loop_done(loop);
}

/* ---- another thread -------------------------------------------------------------------- */

typedef struct ltimer_remote {
    netkit_loop *loop;
    uint64_t posted_ns, fired_ns;
} ltimer_remote;

static void ltimer_remote_fire(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)timer;
    ((ltimer_remote *)user)->fired_ns = nkt_now_ns();
    CHECK_OK(netkit_loop_stop(loop));
}

static void ltimer_remote_start(netkit_loop *loop, int status, void *user) {
    CHECK_OK(status);
    CHECK_OK(netkit_timer_start(loop, NULL, 20000, 0, ltimer_remote_fire, user));
}

static void *ltimer_remote_thread(void *user) {
    ltimer_remote *r = (ltimer_remote *)user;
    nkt_sleep_ms(30); /* the loop sleeps by now */
    r->posted_ns = nkt_now_ns();
    CHECK_OK(netkit_loop_post(r->loop, ltimer_remote_start, r));
    return NULL;
}

/* SD08 TM04: one that another thread has started while the loop slept fires at its time. */
NKT_LOOP_TEST(timers_are_started_from_another_thread) {
    ltimer_remote r = {nkt_loop(), 0, 0};
    pthread_t thread;
    int never = 0;
    ltimer_after(r.loop, 3600000000u, 0, &never); /* what it sleeps for */
    CHECK_EQ(pthread_create(&thread, NULL, ltimer_remote_thread, &r), 0);
    CHECK_OK(netkit_loop_run(r.loop));
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(r.fired_ns - r.posted_ns >= 20000000);
    CHECK(r.fired_ns - r.posted_ns < 70000000u + 500000000u * nkt_slowness);
    nkt_loop_done(r.loop);
}

/* ---- timeouts of conns -------------------------------------------------------------------- */

/* TM06 TM05 TM09 F3: a conn ends with TIMEOUT when no byte went either way for its time, not a
 * nanosecond before; traffic only writes the time down, without a timer being touched. */
NKT_LOOP_TEST(timers_of_idle_conns) {
    tl_clock clock;
    netkit_loop *loop = tl_loop_on(&clock, 1000000000, NULL);
    netkit_handler handler = tl_handler();
    netkit_conn_options options;
    static tl_conn c, other;
    const uint64_t second = 1000000000;
    char text[16];
    memset(&options, 0, sizeof(options));
    options.idle_timeout_ms = 1000;
    tl_adopt_as(loop, &c, &handler, &options);
    tl_adopt(loop, &other);
    TL_UNTIL(loop, c.opens == 1 && other.opens == 1);
    for (int i = 0; i < 10; i++) { /* received bytes count */
        tl_pass(loop, &clock, second - 1);
        CHECK_EQ(c.closes, 0);
        tl_say(c.peer, "x");
        TL_UNTIL(loop, c.datas == i + 1);
    }
    for (int i = 0; i < 10; i++) { /* and sent ones */
        tl_pass(loop, &clock, second - 1);
        CHECK_EQ(c.closes, 0);
        CHECK_OK(netkit_conn_send(loop, c.handle, "y", 1));
        CHECK_OK(netkit_loop_poll(loop, -1));
        CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "y");
    }
    tl_pass(loop, &clock, second - 1);
    CHECK_EQ(c.closes, 0);
    tl_pass(loop, &clock, 2000000); /* rounding to the loop's ticks is late, never early */
    TL_UNTIL(loop, c.closes == 1);
    CHECK_ERR(c.info.code, NETKIT_E_TIMEOUT);
    CHECK_EQ(c.info.op, NETKIT_OP_TIMER);
    tl_pass(loop, &clock, 1000 * second);
    CHECK_EQ(other.closes, 0);
    CHECK_OK(netkit_conn_set_idle_timeout(loop, other.handle, 500));
    tl_pass(loop, &clock, second / 2 - 1);
    CHECK_EQ(other.closes, 0);
    CHECK_OK(netkit_conn_set_idle_timeout(loop, other.handle, 0));
    tl_pass(loop, &clock, 1000 * second);
    CHECK_EQ(other.closes, 0);
    CHECK_OK(netkit_conn_set_deadline(loop, other.handle, 2000));
    for (int i = 0; i < 19; i++) { /* traffic does not move a deadline */
        tl_pass(loop, &clock, second / 10);
        tl_say(other.peer, "x");
        CHECK_OK(netkit_loop_poll(loop, -1));
        CHECK_EQ(other.closes, 0);
    }
    tl_pass(loop, &clock, second / 10 + 1000000);
    TL_UNTIL(loop, other.closes == 1);
    CHECK_ERR(other.info.code, NETKIT_E_TIMEOUT);
    tl_hang_up(&c);
    tl_hang_up(&other);
    nkt_loop_done(loop);
}

/* TM05 F3: thousands of conns with idle timeouts and traffic: no allocation, and all end. */
NKT_LOOP_TEST(timers_of_many_idle_conns) {
    enum {
        COUNT = 200
    };
    static tl_conn all[COUNT];
    tl_clock clock;
    netkit_loop *loop = tl_loop_on(&clock, 1, NULL);
    netkit_handler handler = tl_handler();
    netkit_conn_options options;
    uint64_t allocs = 0;
    int closes = 0;
    memset(&options, 0, sizeof(options));
    options.idle_timeout_ms = 300000;
    nkt_want_descriptors(2 * COUNT + 50);
    for (int i = 0; i < COUNT; i++) {
        tl_adopt_as(loop, &all[i], &handler, &options);
    }
    TL_UNTIL(loop, all[COUNT - 1].opens == 1);
    for (int round = 0; round < 30; round++) {
        if (round == 3) {
            allocs = nkt_allocs();
        }
        for (int i = 0; i < COUNT; i++) {
            tl_say(all[i].peer, "x");
        }
        TL_UNTIL(loop, all[COUNT - 1].datas == round + 1 && all[0].datas == round + 1);
        tl_pass(loop, &clock, (uint64_t)200 * 1000000000);
    }
    CHECK_EQ(nkt_allocs(), allocs);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(all[i].closes, 0);
    }
    tl_pass(loop, &clock, (uint64_t)101 * 1000000000);
    tl_settle(loop);
    for (int i = 0; i < COUNT; i++) {
        closes += all[i].closes;
        tl_hang_up(&all[i]);
    }
    CHECK_EQ(closes, COUNT);
    nkt_loop_done(loop);
}

#if NKI_POSIX /* libfaketime is loaded before libc there */
/* ---- the wall clock ---------------------------------------------------------------------- */

typedef struct ltimer_wall {
    const char *path;
    bool is_over;
} ltimer_wall;

static void ltimer_set_wall(const char *path, const char *offset) {
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    CHECK(fprintf(f, "%s\n", offset) > 0);
    CHECK_EQ(fclose(f), 0);
}

static void *ltimer_wall_thread(void *user) {
    ltimer_wall *w = (ltimer_wall *)user;
    for (int i = 0; !TL_GET(&w->is_over); i++) {
        ltimer_set_wall(w->path, i % 2 == 0 ? "-3600" : "+3600");
        nkt_sleep_ms(100);
    }
    return NULL;
}

/* Run by the test below, under libfaketime. */
NKT_HIDDEN_TEST(ltimers_under_a_jumping_wall_clock) {
    ltimer_wall w = {getenv("FAKETIME_TIMESTAMP_FILE"), false};
    netkit_loop_desc desc;
    netkit_loop *loop = NULL;
    pthread_t thread;
    time_t first, least, most;
    int ticks = 0;
    uint64_t began;
    CHECK(w.path != NULL);
    memset(&desc, 0, sizeof(desc));
    desc.backend = netkit_backend_from_name(getenv("LTIMER_BACKEND"));
    CHECK_OK(netkit_loop_create(&loop, &desc));
    CHECK_EQ(pthread_create(&thread, NULL, ltimer_wall_thread, &w), 0);
    first = least = most = time(NULL);
    began = nkt_now_ns();
    netkit_timer timer = ltimer_after(loop, 10000, 10000, &ticks);
    while (nkt_now_ns() - began < 1000000000) {
        int before = ticks;
        uint64_t turn = nkt_now_ns();
        time_t now = time(NULL);
        least = now < least ? now : least;
        most = now > most ? now : most;
        CHECK_OK(netkit_loop_run_once(loop, 10000));
        CHECK(ticks > before && ticks <= before + 1);
        CHECK(nkt_now_ns() - turn < 3000000000u * nkt_slowness); /* the jumps are of an hour */
    }
    printf("wall clock went over %ld s from %ld\n", (long)(most - least), (long)first);
    if (most - least <= 3000) {
        SKIP("libfaketime does not work here"); /* made for another machine */
    }
    CHECK(ticks <= 101);
    TL_SET(&w.is_over, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(netkit_timer_stop(loop, timer));
    CHECK_OK(netkit_loop_destroy(loop));
}

static const char *ltimer_find_faketime(void) {
    static const char *const places[] = {"/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
                                         "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
                                         "/usr/lib64/faketime/libfaketimeMT.so.1",
                                         "/usr/lib/faketime/libfaketimeMT.so.1",
                                         "/usr/local/lib/faketime/libfaketimeMT.so.1"};
    const char *named = getenv("NKT_FAKETIME");
    if (named != NULL && access(named, R_OK) == 0) {
        return named;
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (access(places[i], R_OK) == 0) {
            return places[i];
        }
    }
    return NULL;
}

/* M-09 SD29: the wall clock jumps by hours ten times a second, and no timer takes notice. */
NKT_LOOP_TEST(timers_ignore_the_wall_clock) {
    const char *library = ltimer_find_faketime();
    char path[160], command[1024], out[4096];
    size_t len;
    FILE *f;
    if (library == NULL) {
        SKIP("libfaketime is not installed");
    }
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("libfaketime cannot be loaded before a sanitizer");
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
    SKIP("libfaketime cannot be loaded before a sanitizer");
#endif
#endif
    nkt_temp_path(path, sizeof(path));
    ltimer_set_wall(path, "+0");
    snprintf(command, sizeof(command),
             "env -u NKT_TALLY -u B -u LONG V=1 NKT_SHOW_HIDDEN=1 LTIMER_BACKEND=%s "
             "FAKETIME_TIMESTAMP_FILE='%s' FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 "
             "DONT_FAKE_MONOTONIC=1 LD_PRELOAD='%s' %s '%s' "
             "T=ltimers_under_a_jumping_wall_clock SEED=1 2>&1",
             nkt_backend_name, path, library, nkt_emulator(), nkt_program);
    f = popen(command, "r");
    CHECK(f != NULL);
    len = fread(out, 1, sizeof(out) - 1, f);
    out[len] = '\0';
    printf("%s", out);
    CHECK_EQ(pclose(f), 0);
    if (strstr(out, "0 passed, 0 failed, 1 skipped") != NULL) {
        SKIP("libfaketime does not work here");
    }
    CHECK(strstr(out, "1 passed, 0 failed, 0 skipped") != NULL);
}
#endif /* NKI_POSIX */
