/* What a post costs: two loops on two threads, each on a core of its own, post to each other in
 * turn, so that each post finds the other loop asleep.
 *
 * usage: post BACKEND MILLISECONDS
 *
 * Prints {"rate", "server_us"}: posts a second, CPU time of both threads for one of them. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#include <sched.h>

enum {
    WARM = 2000,
    BETWEEN = 100 /* posts between looks at the clock */
};

static netkit_loop *loops[2];
static uint64_t posts; /* one thread at a time counts: the one that was posted to */
static uint64_t time_ns;
static uint64_t began_ns, began_cpu_ns;

static void check(int error, const char *what) {
    if (error != NETKIT_OK) {
        fprintf(stderr, "post: %s: %s\n", what, netkit_error_name(error));
        exit(1);
    }
}

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void finish(uint64_t now_ns) {
    double count = (double)(posts - WARM);
    double cpu_ns = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - began_cpu_ns);
    printf("{\"rate\":%.0f,\"server_us\":%.4f}\n", count * 1e9 / (double)(now_ns - began_ns),
           cpu_ns / 1e3 / count);
    check(netkit_loop_stop(loops[0]), "stop");
    check(netkit_loop_stop(loops[1]), "stop");
}

static void on_post(netkit_loop *loop, int status, void *user) {
    (void)status;
    (void)user;
    posts++;
    if (posts == WARM) {
        began_ns = clock_ns(CLOCK_MONOTONIC);
        began_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    }
    if (posts > WARM && posts % BETWEEN == 0) {
        uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
        if (now_ns - began_ns >= time_ns) {
            finish(now_ns);
            return;
        }
    }
    check(netkit_loop_post(loops[loop == loops[0]], on_post, NULL), "post");
}

static void on_never(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    (void)user;
}

static void *run(void *arg) {
    netkit_loop **at = (netkit_loop **)arg;
    netkit_timer timer;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)(at - loops), &set);
    (void)sched_setaffinity(0, sizeof set, &set); /* with one core both share it */
    check(netkit_loop_adopt(*at), "adopt");
    check(netkit_timer_start(*at, &timer, (uint64_t)3600 * 1000000, 0, on_never, NULL), "timer");
    check(netkit_loop_run(*at), "run");
    return NULL;
}

int main(int argc, char **argv) {
    netkit_loop_desc desc;
    pthread_t thread;
    memset(&desc, 0, sizeof desc);
    time_ns = argc == 3 ? strtoull(argv[2], NULL, 10) * 1000000u : 0;
    if (time_ns == 0) {
        fputs("usage: post BACKEND MILLISECONDS\n", stderr);
        return 2;
    }
    alarm(60);
    desc.backend = netkit_backend_from_name(argv[1]);
    check(desc.backend < 0 ? desc.backend : NETKIT_OK, argv[1]);
    for (int i = 0; i < 2; i++) {
        check(netkit_loop_create(&loops[i], &desc), argv[1]);
    }
    if (pthread_create(&thread, NULL, run, &loops[1]) != 0) {
        check(NETKIT_E_NOMEM, "thread");
    }
    check(netkit_loop_post(loops[0], on_post, NULL), "post");
    (void)run(&loops[0]);
    pthread_join(thread, NULL);
    check(netkit_loop_adopt(loops[1]), "adopt");
    check(netkit_loop_destroy(loops[1]), "destroy");
    return netkit_loop_destroy(loops[0]) == NETKIT_OK ? 0 : 1;
}
