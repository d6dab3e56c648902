/* What a loop costs before its first turn: time to create one, with what its ring tries out.
 *
 * usage: create BACKEND
 *
 * Prints {"value", "plain", "destroy"}: milliseconds, medians of ROUNDS loops; value is with
 * incremental buffers wished for, which the ring tries out, plain is without. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

enum {
    ROUNDS = 301
};

static void check(int error, const char *what) {
    if (error != NETKIT_OK) {
        fprintf(stderr, "create: %s: %s\n", what, netkit_error_name(error));
        exit(1);
    }
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times) {
    qsort(times, ROUNDS, sizeof *times, by_size);
    return times[ROUNDS / 2];
}

static void measure(const netkit_loop_desc *desc, double *create, double *destroy) {
    static double created[ROUNDS], destroyed[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        netkit_loop *loop;
        double began = now_ms();
        check(netkit_loop_create(&loop, desc), "create");
        double there = now_ms();
        check(netkit_loop_destroy(loop), "destroy");
        created[i] = there - began;
        destroyed[i] = now_ms() - there;
    }
    *create = median(created);
    *destroy = median(destroyed);
}

int main(int argc, char **argv) {
    double plain, tried, destroy;
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.backend = argc == 2 ? netkit_backend_from_name(argv[1]) : NETKIT_E_INVALID;
    if (desc.backend < 0) {
        fprintf(stderr, "usage: create BACKEND\n");
        return 2;
    }
    measure(&desc, &plain, &destroy);
    desc.ring_incremental = true;
    measure(&desc, &tried, &destroy);
    printf("{\"value\":%.4f,\"plain\":%.4f,\"destroy\":%.4f}\n", tried, plain, destroy);
    return 0;
}
