/* The test harness: what a test may use. tests/main.c is the runner.
 *
 *     NKT_LOOP_TEST(timer_is_never_early) {
 *         netkit_loop *loop = nkt_loop();
 *         ...
 *         CHECK_EQ(fired, 1);
 *         nkt_loop_done(loop);
 *     }
 *
 * Each test runs in a process of its own, for at most 10 seconds (60 on Windows). It fails at the first CHECK
 * that does not hold, and also by crashing, by taking too long, by leaving a descriptor or a
 * byte of the counting allocator behind, and by checking nothing. A loop test runs once per
 * backend. All test files are one translation unit with the library in it, so a test may call
 * nki_ functions; its own helpers are static and carry the file's name.
 *
 * The comment right above a test starts with the ids of the rows in tests/CATALOGUE.md that it
 * proves ("T-07 SK17: ..."). T=word runs the tests with such an id, or with the word in their
 * name or their file's. */
#ifndef NKT_HARNESS_H
#define NKT_HARNESS_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plain.h"
#if NKI_WINDOWS
#include "posix_on_windows.h"
#else
#include "posix.h"
#endif
#include "emulator.h"

/* ---- registration --------------------------------------------------------- */

enum {
    NKT_LOOP = 1,
    NKT_SLOW = 2,
    NKT_HIDDEN = 4
};

typedef struct nkt_case {
    const char *name;
    const char *file;
    int flags;
    void (*run)(void);
    struct nkt_case *next;
} nkt_case;

static nkt_case *nkt_cases;

#define NKT_CASE(id, flags)                                                   \
    static void nkt_run_##id(void);                                           \
    __attribute__((constructor)) static void nkt_add_##id(void) {             \
        static nkt_case entry = {#id, __FILE__, (flags), nkt_run_##id, NULL}; \
        entry.next = nkt_cases;                                               \
        nkt_cases = &entry;                                                   \
    }                                                                         \
    static void nkt_run_##id(void)

#define NKT_TEST(id) NKT_CASE(id, 0)
#define NKT_LOOP_TEST(id) NKT_CASE(id, NKT_LOOP) /* once per backend */
#define NKT_SLOW_TEST(id) NKT_CASE(id, NKT_SLOW) /* left out by T=quick */
#define NKT_SLOW_LOOP_TEST(id) NKT_CASE(id, NKT_LOOP | NKT_SLOW)
#define NKT_HIDDEN_TEST(id) NKT_CASE(id, NKT_HIDDEN) /* the harness's tests of itself */

/* ---- this run -------------------------------------------------------------- */

enum {
    NKT_RUNNING,
    NKT_PASSED,
    NKT_SKIPPED,
    NKT_FAILED
};

/* What a test's process tells the runner, in memory both share. */
typedef struct nkt_result {
    int state;
    int limit_s;
    uint64_t checks;
    char reason[160];
} nkt_result;

static nkt_result *nkt_now_running;
static int nkt_backend;              /* in a loop test: NETKIT_BACKEND_* */
static const char *nkt_backend_name; /* and its name */
static const char *nkt_program;      /* path of this program */
static bool nkt_long;                /* LONG=1 */
static uint64_t nkt_slowness = 1;    /* how many times slower than usual: sanitizers, valgrind */
static uint64_t nkt_seed;            /* this test's */

static void nkt_stop(int state, const char *reason) {
    snprintf(nkt_now_running->reason, sizeof(nkt_now_running->reason), "%s", reason);
    nkt_now_running->state = state;
    fflush(NULL);
    _exit(state == NKT_FAILED ? 1 : 0);
}

/* Is this loop test's backend told again and again of what is ready, and so forgives a call that
 * says EAGAIN although it could do something? */
static inline bool nkt_is_level(void) {
    return nkt_backend == NETKIT_BACKEND_POLL || nkt_backend == NETKIT_BACKEND_AFD ||
           nkt_backend == NETKIT_BACKEND_WSAPOLL;
}

/* Raise (or lower) the time limit of the test that is running. */
#define NKT_TIME_LIMIT(seconds) (nkt_now_running->limit_s = (seconds))

/* End the test as skipped; the reason is listed. */
#define SKIP(why) nkt_stop(NKT_SKIPPED, (why))

#if !NKI_HAS_THREADS
/* A test that would start a thread ends here. */
static inline int nkt_no_thread(pthread_t *thread) {
    memset(thread, 0, sizeof(*thread));
    SKIP("built without threads");
    return 0;
}
#define pthread_create(thread, attributes, run, argument) nkt_no_thread(thread)
#endif

static inline uint64_t nkt_scale(uint64_t full, uint64_t quick) {
    return nkt_long ? full : quick;
}

/* How many times less to do where all is very slow: emulators, valgrind. */
static inline uint64_t nkt_thrift(void) {
    return nkt_slowness < 8 ? 1 : nkt_slowness;
}

/* The same for what is little but calls of the system, where these are dear: wine's take tens of
 * microseconds. */
static inline uint64_t nkt_count(uint64_t full, uint64_t quick) {
    return nkt_long ? full : NKI_WINDOWS ? quick / 5 : quick;
}

/* The same numbers on each thread. */
static inline uint64_t nkt_random(void) {
    static NKT_THREAD_LOCAL uint64_t state;
    state = state == 0 ? nkt_seed | 1 : state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static inline uint64_t nkt_clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t nkt_now_ns(void) {
    return nkt_clock_ns(CLOCK_MONOTONIC);
}

static inline uint64_t nkt_cpu_ns(void) {
    return nkt_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static inline uint64_t nkt_thread_cpu_ns(void) {
    return nkt_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static inline void nkt_sleep_ms(unsigned ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

/* ---- checks ---------------------------------------------------------------- */

#define NKT_COUNT_CHECK() ((void)__atomic_fetch_add(&nkt_now_running->checks, 1, __ATOMIC_RELAXED))

#define CHECK(cond)                                    \
    do {                                               \
        NKT_COUNT_CHECK();                             \
        if (!(cond)) {                                 \
            nkt_fail_check(__FILE__, __LINE__, #cond); \
        }                                              \
    } while (0)

/* For a place that must not be reached. */
#define FAIL(why) nkt_fail_check(__FILE__, __LINE__, (why))

#define CHECK_EQ(a, b) nkt_check_eq((int64_t)(a), (int64_t)(b), __FILE__, __LINE__, #a " == " #b)
#define CHECK_OK(call) nkt_check_ok((int64_t)(call), __FILE__, __LINE__, #call)
#define CHECK_ERR(call, code) nkt_check_err((int64_t)(call), (code), __FILE__, __LINE__, #call)
#define CHECK_STR(a, b) nkt_check_str((a), (b), __FILE__, __LINE__, #a " == " #b)
#define CHECK_MEM(a, b, len) nkt_check_mem((a), (b), (len), __FILE__, __LINE__, #a " == " #b)

/* Print the place, from the repository's root, and what was seen there. */
__attribute__((format(NKT_PRINTF, 3, 4))) static void nkt_print_at(const char *file, int line,
                                                                   const char *format, ...) {
    va_list args;
    const char *root = file;
    for (const char *at = file; (at = strstr(at, "tests/")) != NULL; at++) {
        root = at;
    }
    printf("%s:%d: ", root, line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static void nkt_fail_check(const char *file, int line, const char *what) {
    nkt_print_at(file, line, "CHECK failed: %s", what);
    nkt_stop(NKT_FAILED, what);
}

static inline void nkt_check_eq(int64_t a, int64_t b, const char *file, int line,
                                const char *what) {
    NKT_COUNT_CHECK();
    if (a != b) {
        nkt_print_at(file, line, "%" PRId64 " != %" PRId64, a, b);
        nkt_fail_check(file, line, what);
    }
}

/* Holds for NETKIT_OK and every count. */
static inline void nkt_check_ok(int64_t got, const char *file, int line, const char *what) {
    NKT_COUNT_CHECK();
    if (got < 0) {
        nkt_print_at(file, line, "got %s (%" PRId64 ", errno %d)", netkit_error_name((int)got), got,
                     errno);
        nkt_fail_check(file, line, what);
    }
}

static inline void nkt_check_err(int64_t got, int want, const char *file, int line,
                                 const char *what) {
    NKT_COUNT_CHECK();
    if (got != want) {
        nkt_print_at(file, line, "got %s (%" PRId64 "), wanted %s", netkit_error_name((int)got),
                     got, netkit_error_name(want));
        nkt_fail_check(file, line, what);
    }
}

static inline void nkt_check_str(const char *a, const char *b, const char *file, int line,
                                 const char *what) {
    NKT_COUNT_CHECK();
    if (a == NULL || b == NULL ? a != b : strcmp(a, b) != 0) {
        nkt_print_at(file, line, "\"%s\" != \"%s\"", a ? a : "(NULL)", b ? b : "(NULL)");
        nkt_fail_check(file, line, what);
    }
}

static inline void nkt_check_mem(const void *a, const void *b, size_t len, const char *file,
                                 int line, const char *what) {
    const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
    NKT_COUNT_CHECK();
    for (size_t i = 0; i < len; i++) {
        if (x[i] != y[i]) {
            nkt_print_at(file, line, "byte %zu: 0x%02x != 0x%02x", i, x[i], y[i]);
            nkt_fail_check(file, line, what);
        }
    }
}

/* ---- faults ----------------------------------------------------------------
 *
 * Every system call of the library asks nkt_fail first (src/os/seam_*.h). Rules
 * apply on the thread that set them and count from the moment they are set. */

enum {
    NKT_RULES = 8,
    NKT_NAMES = 128
};

typedef struct nkt_rule {
    const char *name; /* NULL = any call */
    enum {
        NKT_RULE_FAIL_AT,
        NKT_RULE_FAIL_PERCENT,
        NKT_RULE_CLIP,
        NKT_RULE_MASK
    } kind;
    uint64_t nth;
    uint64_t seen;
    int os_error;
    bool is_sticky;
} nkt_rule;

static NKT_THREAD_LOCAL nkt_rule nkt_rules[NKT_RULES];
static NKT_THREAD_LOCAL int nkt_rule_count;
static NKT_THREAD_LOCAL uint64_t nkt_fault_count;
static const char *nkt_call_names[NKT_NAMES];
static uint64_t nkt_call_counts[NKT_NAMES];

/* The counter of a call: a small table, filled as names turn up on any thread. */
static uint64_t *nkt_call_counter(const char *name) {
    uint32_t hash = 2166136261u;
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    }
    for (uint32_t i = 0; i < NKT_NAMES; i++) {
        uint32_t at = (hash + i) % NKT_NAMES;
        const char *there = __atomic_load_n(&nkt_call_names[at], __ATOMIC_ACQUIRE);
        if (there == NULL && __atomic_compare_exchange_n(&nkt_call_names[at], &there, name, false,
                                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            there = name;
        }
        if (strcmp(there, name) == 0) {
            return &nkt_call_counts[at];
        }
    }
    fputs("harness: NKT_NAMES is too small\n", stderr);
    abort();
    return NULL; /* for compilers that do not know abort */
}

/* The calls that datagrams go by: their names, for the faults. */
#if NKI_HAS_MMSG
#define NKT_SEND_DATAGRAMS "sendmmsg"
#define NKT_RECV_DATAGRAMS "recvmmsg"
#else
#define NKT_SEND_DATAGRAMS "sendmsg"
#define NKT_RECV_DATAGRAMS "recvmsg"
#endif

/* How often the library made a call since nkt_calls_reset; NULL = all calls together. */
static inline uint64_t nkt_calls(const char *name) {
    uint64_t sum = 0;
    if (name != NULL) {
        return __atomic_load_n(nkt_call_counter(name), __ATOMIC_RELAXED);
    }
    for (int i = 0; i < NKT_NAMES; i++) {
        sum += __atomic_load_n(&nkt_call_counts[i], __ATOMIC_RELAXED);
    }
    return sum;
}

static inline void nkt_calls_reset(void) {
    for (int i = 0; i < NKT_NAMES; i++) {
        __atomic_store_n(&nkt_call_counts[i], 0, __ATOMIC_RELAXED);
    }
}

static bool nkt_rule_fires(nkt_rule *rule) {
    rule->seen++;
    if (rule->kind == NKT_RULE_FAIL_AT) {
        return rule->is_sticky ? rule->seen >= rule->nth : rule->seen == rule->nth;
    }
    return rule->kind == NKT_RULE_FAIL_PERCENT && nkt_random() % 100 < rule->nth;
}

static bool nkt_fail(const char *name) {
    __atomic_fetch_add(nkt_call_counter(name), 1, __ATOMIC_RELAXED);
    if (nkt_is_starved(name)) {
        return true;
    }
    for (int i = 0; i < nkt_rule_count; i++) {
        nkt_rule *rule = &nkt_rules[i];
        if (rule->kind < NKT_RULE_CLIP && (rule->name == NULL || strcmp(rule->name, name) == 0) &&
            nkt_rule_fires(rule)) {
            nkt_fault_count++;
            nkt_set_os_error(rule->os_error);
            return true;
        }
    }
    return false;
}

static size_t nkt_clip(const char *name, size_t len) {
    for (int i = 0; i < nkt_rule_count; i++) {
        nkt_rule *rule = &nkt_rules[i];
        if (len > 1 && rule->kind == NKT_RULE_CLIP && strcmp(rule->name, name) == 0) {
            size_t most = rule->nth < len ? (size_t)rule->nth : len;
            nkt_fault_count++;
            return 1 + (size_t)(nkt_random() % most);
        }
    }
    return len;
}

/* What the kernel says it can, less what a rule hides. */
static inline unsigned long long nkt_mask(const char *name, unsigned long long bits) {
    for (int i = 0; i < nkt_rule_count; i++) {
        nkt_rule *rule = &nkt_rules[i];
        if (rule->kind == NKT_RULE_MASK && strcmp(rule->name, name) == 0 &&
            nkt_random() % 100 < rule->seen) {
            nkt_fault_count += (bits & rule->nth) != 0;
            bits &= ~rule->nth;
        }
    }
    return bits;
}

static inline void nkt_rule_add(nkt_rule rule) {
    CHECK(nkt_rule_count < NKT_RULES);
    nkt_rules[nkt_rule_count++] = rule;
}

/* Fail the nth (from 1) call of a name, or of any; sticky: and all later ones. */
static inline void nkt_fault_at(const char *name, uint64_t nth, int os_error, bool sticky) {
    nkt_rule rule = {name, NKT_RULE_FAIL_AT, nth, 0, os_error, sticky};
    nkt_rule_add(rule);
}

/* Fail the next wake of a poller or a loop: under the name that it has with each backend. */
static inline void nkt_fault_wake(int os_error) {
    static const char *const names[] = {"io_uring_message", "write", "kevent_trigger", "port_post",
                                        "send"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        nkt_fault_at(names[i], 1, os_error, false);
    }
}

/* Fail all waits of pollers and loops: under the names that they have with each backend. */
static inline void nkt_fault_waits(int os_error) {
    static const char *const names[] = {"epoll_wait", "epoll_pwait2", "poll",
                                        "kevent",     "port_wait",    "io_uring_enter"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        nkt_fault_at(names[i], 1, os_error, true);
    }
}

/* Fail that many calls in a hundred. */
static inline void nkt_fault_prob(const char *name, unsigned percent, int os_error) {
    nkt_rule rule = {name, NKT_RULE_FAIL_PERCENT, percent, 0, os_error, false};
    nkt_rule_add(rule);
}

/* Let each transfer of a name move 1 to max bytes, at random. */
static inline void nkt_clip_random(const char *name, size_t max) {
    nkt_rule rule = {name, NKT_RULE_CLIP, max, 0, 0, false};
    nkt_rule_add(rule);
}

/* Hide these bits of what the kernel says under a name, so many times in a hundred. */
static inline void nkt_hide(const char *name, uint64_t bits, unsigned percent) {
    nkt_rule rule = {name, NKT_RULE_MASK, bits, percent, 0, false};
    nkt_rule_add(rule);
}

/* How many calls were failed, clipped or lied about since nkt_fault_clear. */
static inline uint64_t nkt_faults(void) {
    return nkt_fault_count;
}

static inline void nkt_fault_clear(void) {
    nkt_rule_count = 0;
    nkt_fault_count = 0;
}

/* ---- memory ---------------------------------------------------------------- */

enum {
    NKT_BLOCK = 16
}; /* bytes before each block: keeps the alignment of malloc */

static uint64_t nkt_alloc_calls, nkt_free_calls, nkt_alloc_nth, nkt_alloc_failures;
static int64_t nkt_live;
static bool nkt_alloc_sticky;

static void *nkt_allocate(size_t size, void *user) {
    uint64_t nth = __atomic_load_n(&nkt_alloc_nth, __ATOMIC_RELAXED);
    bool sticky = __atomic_load_n(&nkt_alloc_sticky, __ATOMIC_RELAXED);
    uint64_t call = __atomic_add_fetch(&nkt_alloc_calls, 1, __ATOMIC_RELAXED);
    unsigned char *block;
    (void)user;
    if (nth != 0 && (sticky ? call >= nth : call == nth)) {
        __atomic_add_fetch(&nkt_alloc_failures, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    block = (unsigned char *)malloc(NKT_BLOCK + size);
    if (block == NULL) {
        abort();
    }
    memcpy(block, &size, sizeof(size));
    __atomic_add_fetch(&nkt_live, (int64_t)size, __ATOMIC_RELAXED);
    return block + NKT_BLOCK;
}

static void nkt_release(void *memory, size_t size, void *user) {
    unsigned char *block = (unsigned char *)memory - NKT_BLOCK;
    size_t had;
    (void)user;
    memcpy(&had, block, sizeof(had));
    if (had != size) {
        printf("freed with size %zu what was allocated with %zu\n", size, had);
        nkt_stop(NKT_FAILED, "a block is freed with another size than it was allocated with");
    }
    memset(block, 0xDD, NKT_BLOCK + size);
    free(block);
    __atomic_add_fetch(&nkt_free_calls, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&nkt_live, (int64_t)size, __ATOMIC_RELAXED);
}

/* Counts, checks sizes, spoils what is freed, and fails when told. */
static inline netkit_allocator nkt_allocator(void) {
    netkit_allocator a = {NULL, nkt_allocate, nkt_release};
    return a;
}

/* Fail the nth allocation from now (1 = the next; 0 = none); sticky: and all later ones. */
static inline void nkt_alloc_fail_at(uint64_t nth, bool sticky) {
    uint64_t calls = __atomic_load_n(&nkt_alloc_calls, __ATOMIC_RELAXED);
    __atomic_store_n(&nkt_alloc_failures, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&nkt_alloc_sticky, sticky, __ATOMIC_RELAXED);
    __atomic_store_n(&nkt_alloc_nth, nth == 0 ? 0 : calls + nth, __ATOMIC_RELAXED);
}

static inline uint64_t nkt_allocs(void) {
    return __atomic_load_n(&nkt_alloc_calls, __ATOMIC_RELAXED);
}

static inline uint64_t nkt_frees(void) {
    return __atomic_load_n(&nkt_free_calls, __ATOMIC_RELAXED);
}

/* How many allocations were failed since nkt_alloc_fail_at. */
static inline uint64_t nkt_alloc_faults(void) {
    return __atomic_load_n(&nkt_alloc_failures, __ATOMIC_RELAXED);
}

static inline int64_t nkt_live_bytes(void) {
    return __atomic_load_n(&nkt_live, __ATOMIC_RELAXED);
}

/* ---- the process ----------------------------------------------------------- */

/* A path under TMPDIR that nothing has; whatever is there is removed at the end. */
static char nkt_folder[128];

static inline void nkt_temp_path(char *buf, size_t size) {
    static int number;
    int len = snprintf(buf, size, "%s/%d", nkt_folder, ++number);
    CHECK(len > 0 && (size_t)len < size);
}

/* Where all of 127.0.0.0/8 is this machine, each process has an address that no other test uses: for
 * ports that nobody is to be at, and for who sends to ports that were closed, which others may have
 * been given since. Valid until the next call. */
#if defined(__linux__)
#define NKT_HAS_OWN_ADDRESS true
#else
#define NKT_HAS_OWN_ADDRESS false
#endif

static inline const char *nkt_own_address(uint16_t port) {
    static char text[32];
    unsigned pid = NKT_HAS_OWN_ADDRESS ? (unsigned)getpid() : 1;
    unsigned high = NKT_HAS_OWN_ADDRESS ? 1 + pid / 65536 % 254 : 0;
    snprintf(text, sizeof(text), "127.%u.%u.%u:%u", high, pid / 256 % 256, pid % 256, port);
    return text;
}

/* ---- loops ----------------------------------------------------------------- */

#ifndef NKT_NO_LOOP
static int nkt_loops;

/* With NKT_RING_OPTIONS in the environment: what the ring does on request and needs no answer. */
static inline void nkt_ring_options(netkit_loop_desc *desc) {
    if (getenv("NKT_RING_OPTIONS") != NULL) {
        desc->ring_incremental = true;
        desc->ring_files = 1000;
    }
}

/* A loop on nkt_backend with the counting allocator, where the desc says nothing else. */
static inline netkit_loop *nkt_loop_with(netkit_loop_desc *desc) {
    netkit_loop *loop = NULL;
    if (desc->backend == NETKIT_BACKEND_AUTO) {
        desc->backend = nkt_backend;
    }
    if (desc->allocator.alloc == NULL) {
        desc->allocator = nkt_allocator();
    }
    nkt_ring_options(desc);
    CHECK_OK(netkit_loop_create(&loop, desc));
    nkt_loops++;
    return loop;
}

static inline netkit_loop *nkt_loop(void) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    return nkt_loop_with(&desc);
}

/* Destroy a loop; with the last one, nothing may be left allocated. */
static inline void nkt_loop_done(netkit_loop *loop) {
    CHECK_OK(netkit_loop_destroy(loop));
    if (--nkt_loops == 0) {
        CHECK_EQ(nkt_live_bytes(), 0);
    }
}
#endif

#endif /* NKT_HARNESS_H */
