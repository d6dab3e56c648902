/* One million timers, netkit against libev, in one process.
 *
 * Both get the same delays in the same order through their public calls. Rounds
 * alternate who goes first, each on a new loop; what is reported are medians
 * and quartiles of the ratios of CPU time within a round. "insert" grows from
 * nothing, memory included; "insert again" comes after the random cancels, so
 * netkit's slots are handed out in their order, while libev's lie in a row.
 * libev counts a delay from the time its loop last woke. To have netkit do the
 * same work its clock is a number that only jumps (desc.clock). With the
 * system's clock, which netkit reads at each start so that no timer is early,
 * the rows "..., fresh clock" say what that reading costs. For firing the clock
 * jumps; libev, whose clock cannot, gets the same delays less 2,000 s, so all
 * are due at once and in the same order. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    INSERT,
    RESTART,
    CANCEL,
    AGAIN,
    FIRE,
    FRESH_INSERT,
    FRESH_RESTART,
    PHASES,
    ROUNDS_MAX = 31
};

static const char *const phase_name[PHASES] = {"insert",
                                               "restart",
                                               "cancel",
                                               "insert again",
                                               "fire",
                                               "insert, fresh clock",
                                               "restart, fresh clock"};

static uint32_t count = 1000000;
static uint64_t *delay_us;  /* 1 to 1,000 s */
static uint64_t *delay2_us; /* the second ones, for restarting */
static uint32_t *order;     /* a permutation */
static uint64_t clock_offset;
static uint32_t fired;
static size_t netkit_live;
static double cost[2][PHASES][ROUNDS_MAX]; /* ns for each timer */

static void die(const char *what) {
    fprintf(stderr, "timers: %s\n", what);
    exit(1);
}

static uint64_t read_clock(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t cpu_ns(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static uint64_t jumping_ns(void *user) {
    return *(uint64_t *)user;
}

static uint64_t shifted_ns(void *user) {
    return read_clock(CLOCK_MONOTONIC) + *(uint64_t *)user;
}

static uint64_t next_random(void) {
    static uint64_t x = 0x9e3779b97f4a7c15u; /* xorshift64: the same run every time */
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

static void make_input(void) {
    delay_us = (uint64_t *)malloc(count * sizeof *delay_us);
    delay2_us = (uint64_t *)malloc(count * sizeof *delay2_us);
    order = (uint32_t *)malloc(count * sizeof *order);
    if (delay_us == NULL || delay2_us == NULL || order == NULL) {
        die("out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        delay_us[i] = 1000000u + next_random() % 999000000u;
        delay2_us[i] = 1000000u + next_random() % 999000000u;
        order[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(next_random() % (i + 1u));
        uint32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

/* ---- libev ------------------------------------------------------------------- */

static void ev_fired(struct ev_loop *loop, ev_timer *w, int revents) {
    (void)loop;
    (void)w;
    (void)revents;
    fired++;
}

static void ev_insert(struct ev_loop *loop, ev_timer *timers, double less) {
    for (uint32_t i = 0; i < count; i++) {
        ev_timer_init(&timers[i], ev_fired, (double)delay_us[i] * 1e-6 - less, 0.);
        ev_timer_start(loop, &timers[i]);
    }
}

static void ev_round(double *ns) {
    uint64_t t0 = cpu_ns();
    struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL);
    ev_timer *timers = (ev_timer *)malloc(count * sizeof *timers);
    if (loop == NULL || timers == NULL) {
        die("libev: out of memory");
    }
    ev_insert(loop, timers, 0);
    uint64_t t1 = cpu_ns();
    for (uint32_t i = 0; i < count; i++) {
        ev_timer *w = &timers[order[i]];
        w->repeat = (double)delay2_us[i] * 1e-6;
        ev_timer_again(loop, w);
    }
    uint64_t t2 = cpu_ns();
    for (uint32_t i = 0; i < count; i++) {
        ev_timer_stop(loop, &timers[order[count - 1 - i]]);
    }
    uint64_t t3 = cpu_ns();
    ev_insert(loop, timers, 2000.);
    uint64_t t4 = cpu_ns();
    fired = 0;
    while (fired < count) {
        ev_run(loop, EVRUN_NOWAIT);
    }
    uint64_t t5 = cpu_ns();
    ns[INSERT] = (double)(t1 - t0);
    ns[RESTART] = (double)(t2 - t1);
    ns[CANCEL] = (double)(t3 - t2);
    ns[AGAIN] = (double)(t4 - t3);
    ns[FIRE] = (double)(t5 - t4);
    ev_loop_destroy(loop);
    free(timers);
}

/* ---- netkit ------------------------------------------------------------------- */

typedef struct our_work {
    netkit_timer *timers;
    double *ns;
    size_t live_before;
    double bytes; /* for each timer */
    bool done;
} our_work;

static void *our_alloc(size_t size, void *user) {
    *(size_t *)user += size;
    return malloc(size);
}

static void our_free(void *memory, size_t size, void *user) {
    *(size_t *)user -= memory != NULL ? size : 0;
    free(memory);
}

static netkit_loop *our_loop(bool is_fresh) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    memset(&desc, 0, sizeof desc);
    desc.clock.user = &clock_offset;
    desc.clock.now_ns = is_fresh ? shifted_ns : jumping_ns;
    desc.allocator.user = &netkit_live;
    desc.allocator.alloc = our_alloc;
    desc.allocator.free = our_free;
    if (netkit_loop_create(&loop, &desc) != NETKIT_OK) {
        die("netkit_loop_create failed");
    }
    return loop;
}

static void our_fired(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    (void)user;
    fired++;
}

static int our_insert(netkit_loop *loop, netkit_timer *timers) {
    int bad = 0;
    for (uint32_t i = 0; i < count; i++) {
        bad |= netkit_timer_start(loop, &timers[i], delay_us[i], 0, our_fired, NULL);
    }
    return bad;
}

/* Runs as a post: a program starts its timers in callbacks. */
static void our_operate(netkit_loop *loop, int status, void *user) {
    our_work *w = (our_work *)user;
    int bad = status;
    uint64_t t0 = cpu_ns();
    bad |= our_insert(loop, w->timers);
    uint64_t t1 = cpu_ns();
    w->bytes = (double)(netkit_live - w->live_before) / (double)count;
    for (uint32_t i = 0; i < count; i++) {
        bad |= netkit_timer_restart(loop, w->timers[order[i]], delay2_us[i]);
    }
    uint64_t t2 = cpu_ns();
    for (uint32_t i = 0; i < count; i++) {
        bad |= netkit_timer_stop(loop, w->timers[order[count - 1 - i]]);
    }
    uint64_t t3 = cpu_ns();
    bad |= our_insert(loop, w->timers);
    uint64_t t4 = cpu_ns();
    if (bad != 0) {
        die("a netkit timer call failed");
    }
    w->ns[INSERT] = (double)(t1 - t0);
    w->ns[RESTART] = (double)(t2 - t1);
    w->ns[CANCEL] = (double)(t3 - t2);
    w->ns[AGAIN] = (double)(t4 - t3);
    w->done = true;
}

static double our_round(double *ns, bool is_fresh) {
    our_work work;
    uint64_t start = cpu_ns();
    netkit_loop *loop = our_loop(is_fresh);
    memset(&work, 0, sizeof work);
    work.ns = ns;
    work.live_before = netkit_live;
    work.timers = (netkit_timer *)malloc(count * sizeof *work.timers);
    if (work.timers == NULL || netkit_loop_post(loop, our_operate, &work) != NETKIT_OK) {
        die("netkit: out of memory");
    }
    double made = (double)(cpu_ns() - start);
    while (!work.done) {
        (void)netkit_loop_poll(loop, -1);
    }
    ns[INSERT] += made;
    fired = 0;
    clock_offset += (uint64_t)2000 * 1000000000u;
    start = cpu_ns();
    while (fired < count) {
        (void)netkit_loop_poll(loop, -1);
    }
    ns[FIRE] = (double)(cpu_ns() - start);
    if (netkit_loop_destroy(loop) != NETKIT_OK) {
        die("netkit_loop_destroy failed");
    }
    free(work.timers);
    return work.bytes;
}

/* ---- report -------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(const double *values, int n, double part) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double at = part * (n - 1);
    int low = (int)at;
    int high = low + 1 < n ? low + 1 : low;
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

static void report(int rounds, double bytes) {
    printf("{\"timers\":%u,\"rounds\":%d,\"netkit_bytes\":%.1f,\"libev_bytes\":%zu,\"phases\":[",
           count, rounds, bytes, sizeof(ev_timer));
    for (int p = 0; p < PHASES; p++) {
        double ratio[ROUNDS_MAX];
        for (int r = 0; r < rounds; r++) {
            ratio[r] = cost[0][p][r] / cost[1][p][r];
        }
        printf("%s{\"name\":\"%s\",\"netkit_ns\":%.2f,\"libev_ns\":%.2f,\"ratio\":%.4f,"
               "\"q1\":%.4f,\"q3\":%.4f}",
               p > 0 ? "," : "", phase_name[p], quantile(cost[0][p], rounds, 0.5) / count,
               quantile(cost[1][p], rounds, 0.5) / count, quantile(ratio, rounds, 0.5),
               quantile(ratio, rounds, 0.25), quantile(ratio, rounds, 0.75));
    }
    printf("]}\n");
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 7;
    double bytes = 0;
    alarm(240);
    if (argc > 2) {
        count = (uint32_t)strtoul(argv[2], NULL, 10);
    }
    if (rounds < 1 || rounds > ROUNDS_MAX || count < 1) {
        die("usage: timers [ROUNDS [COUNT]]");
    }
    make_input();
    for (int r = -1; r < rounds; r++) { /* the first round only warms up */
        double ns[2][PHASES];
        for (int turn = 0; turn < 2; turn++) {
            if ((turn ^ (r & 1)) == 0) {
                double fresh[PHASES];
                bytes = our_round(fresh, true);
                bytes = our_round(ns[0], false);
                ns[0][FRESH_INSERT] = fresh[INSERT];
                ns[0][FRESH_RESTART] = fresh[RESTART];
            } else {
                ev_round(ns[1]);
                ns[1][FRESH_INSERT] = ns[1][INSERT];
                ns[1][FRESH_RESTART] = ns[1][RESTART];
            }
        }
        for (int p = 0; p < PHASES && r >= 0; p++) {
            cost[0][p][r] = ns[0][p];
            cost[1][p][r] = ns[1][p];
        }
    }
    report(rounds, bytes);
    return 0;
}
