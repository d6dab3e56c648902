/* Fuzz the timer queue: the input is a row of operations, a sorted array the judge.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/timers.c
 *
 * Each operation is two bytes and, when it sets a time, a few more: what, which node, how
 * many bytes of time, the time. With FUZZ_REPLAY it has a main of its own that runs files. */
#define NETKIT_IMPLEMENTATION
#define NETKIT_STATIC
#if defined(FUZZ_LIBRARY)
#include FUZZ_LIBRARY
#else
#include "../../src/netkit.h"
#endif

enum {
    FUZZ_NODES = 64
};

static nki_timer_node fuzz_nodes[FUZZ_NODES];
static uint64_t fuzz_due[FUZZ_NODES];
static uint64_t fuzz_order[FUZZ_NODES]; /* 0 = not in */

static void fuzz_check(bool holds) {
    if (!holds) {
        abort();
    }
}

/* The earliest by the model, found the plain way; FUZZ_NODES when there is none. */
static uint32_t fuzz_first(void) {
    uint32_t best = FUZZ_NODES;
    uint32_t i;
    for (i = 0; i < FUZZ_NODES; i++) {
        if (fuzz_order[i] != 0 &&
            (best == FUZZ_NODES || fuzz_due[i] < fuzz_due[best] ||
             (fuzz_due[i] == fuzz_due[best] && fuzz_order[i] < fuzz_order[best]))) {
            best = i;
        }
    }
    return best;
}

static void fuzz_check_first(nki_timers *queue) {
    uint32_t first = fuzz_first();
    fuzz_check(nki_timers_first(queue) == (first == FUZZ_NODES ? NULL : &fuzz_nodes[first]));
}

static void fuzz_set(nki_timers *queue, uint32_t node, uint64_t due, uint64_t order) {
    if (fuzz_order[node] != 0) {
        nki_timers_restart(queue, &fuzz_nodes[node], due);
    } else {
        fuzz_check(nki_timers_start(queue, &fuzz_nodes[node], due) == NETKIT_OK);
    }
    fuzz_due[node] = due;
    fuzz_order[node] = order;
}

static void fuzz_stop(nki_timers *queue, uint32_t node) {
    nki_timers_stop(queue, &fuzz_nodes[node]);
    fuzz_check(fuzz_nodes[node].at == 0);
    fuzz_order[node] = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    netkit_allocator given, allocator;
    nki_timers queue;
    uint64_t now = 0, order = 1;
    size_t at = 0;
    memset(&given, 0, sizeof(given));
    fuzz_check(nki_allocator_init(&allocator, &given) == NETKIT_OK);
    nki_timers_init(&queue, &allocator);
    memset(fuzz_nodes, 0, sizeof(fuzz_nodes));
    memset(fuzz_order, 0, sizeof(fuzz_order));
    while (at + 2 <= size) {
        uint8_t op = data[at++];
        uint32_t node = data[at++] % FUZZ_NODES;
        if (op % 4 <= 1) {
            uint64_t time = 0;
            uint32_t bytes = op / 4 % 9;
            for (; bytes > 0 && at < size; bytes--) {
                time = time << 8 | data[at++];
            }
            fuzz_set(&queue, node, op % 4 == 0 ? time : now + (time << op / 64 * 10), order++);
        } else if (op % 4 == 2) {
            fuzz_stop(&queue, node);
        } else if (fuzz_first() != FUZZ_NODES) {
            fuzz_check_first(&queue);
            now = NKI_MAX(now, fuzz_due[fuzz_first()]);
            fuzz_stop(&queue, fuzz_first());
        }
        if (op / 4 % 2 == 0) {
            fuzz_check_first(&queue);
        }
    }
    while (fuzz_first() != FUZZ_NODES) {
        fuzz_check_first(&queue);
        fuzz_stop(&queue, fuzz_first());
    }
    fuzz_check(queue.count == 0 && nki_timers_first(&queue) == NULL);
    nki_timers_free(&queue);
    return 0;
}

#ifdef FUZZ_REPLAY
int main(int count, char **names) {
    static uint8_t data[1 << 20];
    int i;
    for (i = 1; i < count; i++) {
        FILE *file = fopen(names[i], "rb");
        if (file == NULL) {
            return 1;
        }
        (void)LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof(data), file));
        (void)fclose(file);
    }
    return 0;
}
#endif
