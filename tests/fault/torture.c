/* Allocation and system call torture over all scenarios (tests/fault/scenarios.c): each run
 * fails one call more, or that call and all later ones. When there are more runs than fit into
 * the time, they are a sample that depends on the seed; LONG=1 does all. */

enum {
    TORTURE_COUNT = sizeof(scenarios) / sizeof(scenarios[0]),
    TORTURE_PLAN = 20000
};

static torture_fault torture_plan[TORTURE_PLAN];
static int torture_planned;

/* What an emulator cannot do the kernel's part of. */
static bool torture_is_left_out(const torture_scenario *s) {
    char name[64];
    snprintf(name, sizeof(name), "scenario:%s", s->name);
    return nkt_lack_why(name) != NULL;
}

static void torture_add(const char *call, uint64_t nth, int os_error, bool is_sticky) {
    torture_fault fault = {call, nth, os_error, is_sticky, 0, false};
    CHECK(torture_planned < TORTURE_PLAN);
    torture_plan[torture_planned++] = fault;
}

/* In an order of the seed, for as long as there is time. */
static void torture_go(const torture_scenario *s, uint64_t budget_ms) {
    uint64_t end = nkt_now_ns() + budget_ms * nkt_slowness / nkt_thrift() * 1000000u;
    int done = 0;
    for (int i = torture_planned - 1; i >= 0 && (nkt_long || nkt_now_ns() < end); i--, done++) {
        int pick = (int)(nkt_random() % (uint64_t)(i + 1));
        torture_fault fault = torture_plan[pick];
        torture_plan[pick] = torture_plan[i];
        torture_run(s, &fault);
    }
    printf("%s: %d of %d runs\n", s->name, done, torture_planned);
}

/* Without a fault the scenario is complete: else it would prove nothing. */
static void torture_clean(const torture_scenario *s) {
    torture_fault none = {NULL, 0, 0, false, 0, false};
    nkt_calls_reset();
    torture_run(s, &none);
    CHECK(torture.is_complete);
}

static void torture_allocations(const torture_scenario *s) {
    uint64_t before, count;
    before = nkt_allocs();
    torture_clean(s);
    count = nkt_allocs() - before;
    torture_planned = 0;
    for (uint64_t n = 1; n <= count; n++) {
        torture_add(NULL, n, 0, false);
        torture_add(NULL, n, 0, true);
    }
    torture_go(s, 500);
}

/* An error that a retry loop of the library answers by trying again, for ever if it stays. */
static bool torture_is_passing(int os_error) {
    return os_error == EINTR || os_error == EAGAIN;
}

/* May the call say EAGAIN although it could do something? A level-triggered poller tells again. */
static bool torture_may_be_again(const char *call) {
    static const char *const calls[] = {"recv",     "send",     "sendmsg", "accept",
                                        "recvmmsg", "sendmmsg", "recvmsg"};
    for (size_t i = 0; nkt_is_level() && i < 7; i++) {
        if (strcmp(calls[i], call) == 0) {
            return true;
        }
    }
    return false;
}

static void torture_plan_call(const char *call, uint64_t count) {
    static const int errors[] = {EIO, EINTR, ENOBUFS, EMFILE, ENOMEM, EAGAIN};
    for (uint64_t n = 1; n <= count; n++) {
        for (size_t e = 0; e < 6; e++) {
            if (errors[e] == EAGAIN && !torture_may_be_again(call)) {
                continue;
            }
            torture_add(call, n, errors[e], false);
            /* Who never hears of an end (port_wait) can never free what the kernel may write. */
            if (!torture_is_passing(errors[e]) && strcmp(call, "port_wait") != 0) {
                torture_add(call, n, errors[e], true);
            }
        }
    }
}

static void torture_calls(const torture_scenario *s) {
    torture_clean(s);
    torture_planned = 0;
    for (int i = 0; i < NKT_NAMES; i++) {
        const char *call = nkt_call_names[i];
        /* No system's monotonic clock fails. */
        if (call != NULL && strcmp(call, "clock_gettime") != 0) {
            torture_plan_call(call, nkt_call_counts[i] < 40 ? nkt_call_counts[i] : 40);
        }
    }
    torture_go(s, 500);
}

/* Z-01 G2 G11: in each scenario each allocation, once and from then on. */
NKT_SLOW_LOOP_TEST(torture_each_allocation) {
    NKT_TIME_LIMIT(nkt_long ? 600 : 60);
    for (int i = 0; i < TORTURE_COUNT; i++) {
        if (!torture_is_left_out(&scenarios[i])) {
            torture_allocations(&scenarios[i]);
        }
    }
}

/* Z-02 G3 G11: in each scenario each call of the system, in several ways. */
NKT_SLOW_LOOP_TEST(torture_each_call) {
    NKT_TIME_LIMIT(nkt_long ? 600 : 60);
    for (int i = 0; i < TORTURE_COUNT; i++) {
        if (!torture_is_left_out(&scenarios[i])) {
            torture_calls(&scenarios[i]);
        }
    }
}

#if NKI_POSIX /* Windows interrupts nothing */
/* What a signal may interrupt (signal(7)), and getrandom and open, which must not mind either. */
static const char *const torture_slow_calls[] = {
    "recv",           "send",         "sendmsg",   "accept",   "connect",
    "epoll_wait",     "epoll_pwait2", "poll",      "close",    "read",
    "write",          "open",         "getrandom", "kevent",   "kevent_change",
    "kevent_trigger", "recvmsg",      "recvmmsg",  "sendmmsg",
};

/* Calls of close beyond one for each conn: on a port that was another test's a moment ago there may
 * be a conn from there, too. */
static int64_t torture_closes(void) {
    return (int64_t)nkt_calls("close") - torture.conn_count;
}

/* Returns how many runs. */
static int torture_interrupt(const torture_scenario *s, const char *call, int64_t closes) {
    int runs = 0;
    bool was_hit = true;
    for (uint64_t n = 1; was_hit && n <= nkt_scale(1000, 4); n++) {
        for (int times = 1; times <= 3; times += 2, runs++) {
            torture_fault fault = {call, n, EINTR, false, times, false};
            nkt_calls_reset();
            was_hit = torture_run(s, &fault);
            CHECK(torture.is_complete);
            CHECK_EQ(torture.reports, 0);
            /* Every descriptor is closed once: a second close could hit somebody else's. */
            CHECK_EQ(torture_closes(), closes);
        }
    }
    return runs;
}

/* Z-04: a signal during any call has no visible effect, and close is not repeated. */
NKT_LOOP_TEST(torture_interrupts) {
    NKT_TIME_LIMIT(nkt_long ? 600 : 60);
    for (int i = 0; i < TORTURE_COUNT; i++) {
        int runs = 0;
        int64_t closes;
        if (torture_is_left_out(&scenarios[i])) {
            continue;
        }
        torture_clean(&scenarios[i]);
        closes = torture_closes();
        for (size_t c = 0; c < sizeof(torture_slow_calls) / sizeof(torture_slow_calls[0]); c++) {
            runs += torture_interrupt(&scenarios[i], torture_slow_calls[c], closes);
        }
        printf("%s: %d runs\n", scenarios[i].name, runs);
    }
}
#endif /* NKI_POSIX */

/* Z-03: the process runs out of descriptors at each step. */
NKT_LOOP_TEST(torture_descriptors) {
    for (int i = 0; i < TORTURE_COUNT; i++) {
        if (scenarios[i].uses_test_fds || torture_is_left_out(&scenarios[i])) {
            continue; /* the test itself could not open its ends */
        }
        for (int spare = 0; spare <= 20; spare++) {
            torture_starve(&scenarios[i], spare);
        }
        CHECK(torture.is_complete); /* 20 are enough */
    }
}

/* A clock that gives nothing for once: whatever is told, the verdict holds. */
NKT_LOOP_TEST(torture_clock) {
    for (int i = 0; i < TORTURE_COUNT; i++) {
        bool was_hit = true;
        int n;
        if (torture_is_left_out(&scenarios[i])) {
            continue;
        }
        for (n = 1; was_hit && n <= (int)nkt_scale(1000, 20); n++) {
            torture_fault fault = {"clock_gettime", (uint64_t)n, EINVAL, false, 0, true};
            was_hit = torture_run(&scenarios[i], &fault);
        }
        printf("%s: %d runs\n", scenarios[i].name, n);
    }
}
