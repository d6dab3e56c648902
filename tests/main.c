/* The test program: the library, all tests, and the runner in one translation unit.
 *
 * usage: build/tests/all [T=word,word] [B=backend] [LONG=1] [SEED=number] [V=1] [J=jobs]
 * (or the same as environment variables, which is what make test does)
 *
 * NKT_FROM_SRC takes the library from src/ instead of the generated header. */
#include <stdbool.h>
#include <stddef.h>

#if defined(NETKIT_FORCE_KQUEUE)
#include "libkqueue.h"
#endif

/* The seam's hooks come before the library, which asks them at each system call. */
static bool nkt_fail(const char *name);
static size_t nkt_clip(const char *name, size_t len);
static unsigned long long nkt_mask(const char *name, unsigned long long bits);
#define NKI_FAIL(name) nkt_fail(#name)
#define NKI_CLIP(name, len) nkt_clip(#name, (size_t)(len))
#define NKI_MASK(name, bits) nkt_mask(#name, (bits))

#define NKI_HAS_SOCKET_TABLE 1 /* Windows' own, tested everywhere */

#define NETKIT_WITH_TRY
#define NETKIT_IMPLEMENTATION
#if defined(NKT_LIBRARY)
#include NKT_LIBRARY
#elif defined(NKT_FROM_SRC)
#include "../src/netkit.h"
#else
#include "../netkit.h"
#endif

#include "harness.h"
#include "seccomp.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

#ifndef NKT_LIST
#define NKT_LIST "../build/tests/list.h"
#define NKT_IDS "../build/tests/ids.h"
#endif
#include NKT_LIST

/* Ids of each test, out of the comment above it: made by tools/rows --table. */
typedef struct nkt_id_row {
    const char *test;
    const char *ids; /* between spaces */
} nkt_id_row;

static const nkt_id_row nkt_ids[] = {
#ifdef NKT_IDS
#include NKT_IDS
#endif
    {NULL, NULL}};

typedef struct nkt_backend_row {
    int number;
    const char *name;
} nkt_backend_row;

typedef struct nkt_job {
    const nkt_case *test;
    nkt_backend_row backend; /* number 0 for a test that is no loop test */
    uint64_t order;
    uint64_t took_ms;
    int state;
    char reason[160];
} nkt_job;

/* A test's process and where its output goes. */
typedef struct nkt_process {
#if NKI_WINDOWS
    HANDLE handle;
    HANDLE job; /* it, and what it starts */
    HANDLE output;
#else
    pid_t pid;
    int status;
    int output;
#endif
} nkt_process;

typedef struct nkt_slot {
    nkt_job *job; /* NULL = free */
    nkt_result *result;
    nkt_process process;
    uint64_t began;
} nkt_slot;

enum {
    NKT_JOBS = 16,
    NKT_BACKENDS = 8,
    NKT_LIMIT_S = NKI_WINDOWS ? 60 : 10,
    NKT_LONG_LIMIT_S = 120
};

static nkt_job *nkt_jobs;
static size_t nkt_job_count;
static nkt_slot nkt_slots[NKT_JOBS];
static nkt_backend_row nkt_backends[NKT_BACKENDS];
static int nkt_backend_count;
static uint64_t nkt_run_seed;
static bool nkt_is_verbose;
static char nkt_root[96];

static const char *nkt_option(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

static uint64_t nkt_number(const char *name, uint64_t otherwise) {
    const char *value = nkt_option(name);
    return value != NULL ? strtoull(value, NULL, 10) : otherwise;
}

static uint64_t nkt_hash(const char *text) {
    uint64_t hash = 14695981039346656037u;
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    }
    return hash;
}

static void nkt_run_job(const nkt_job *job);

#if NKI_WINDOWS
#include "process_windows.h"
#else
#include "process_posix.h"
#endif

/* ---- what runs -------------------------------------------------------------- */

/* The backends that make a loop here, or that of B= alone. */
static void nkt_find_backends(void) {
#ifndef NKT_NO_LOOP
    const char *only = nkt_option("B");
    int number = NETKIT_BACKEND_FASTEST + 1;
    if (only != NULL && netkit_backend_from_name(only) < number) {
        printf("B=%s: no such backend\n", only);
        exit(2);
    }
    for (; netkit_backend_name(number) != NULL && nkt_backend_count < NKT_BACKENDS; number++) {
        const char *name = netkit_backend_name(number);
        int code;
        if (only != NULL && strcmp(only, name) != 0) {
            continue;
        }
        code = nkt_try_backend(number);
        if (code == NETKIT_OK) {
            nkt_backends[nkt_backend_count].number = number;
            nkt_backends[nkt_backend_count++].name = name;
        } else if (only != NULL || (code != NETKIT_E_NOSYS && nkt_option("NKT_SECCOMP") == NULL)) {
            printf("backend %s: %s\n", name, netkit_error_name(code));
            exit(2);
        }
    }
#endif
}

static const char *nkt_ids_of(const nkt_case *test) {
    for (const nkt_id_row *row = nkt_ids; row->test != NULL; row++) {
        if (strcmp(row->test, test->name) == 0) {
            return row->ids;
        }
    }
    return " ";
}

/* A word selects by exact id, or as a part of the test's name or file. */
static bool nkt_word_selects(const char *word, const nkt_case *test) {
    char id[68];
    if (strcmp(word, "quick") == 0) {
        return (test->flags & NKT_SLOW) == 0;
    }
    for (const nkt_case *other = nkt_cases; other != NULL; other = other->next) {
        if (strcmp(other->name, word) == 0) {
            return strcmp(test->name, word) == 0;
        }
    }
    snprintf(id, sizeof(id), " %s ", word);
    return strstr(nkt_ids_of(test), id) != NULL || strstr(test->name, word) != NULL ||
           strstr(test->file, word) != NULL;
}

static bool nkt_is_selected(const nkt_case *test) {
    const char *words = nkt_option("T");
    if ((test->flags & NKT_HIDDEN) != 0 && nkt_option("NKT_SHOW_HIDDEN") == NULL) {
        return false;
    }
    if ((test->flags & NKT_SLOW) != 0 && nkt_option("NKT_QUICK") != NULL) {
        return false; /* whatever T says */
    }
    if (words == NULL) {
        return true;
    }
    while (*words != '\0') {
        char word[64];
        size_t len = strcspn(words, ", ");
        snprintf(word, sizeof(word), "%.*s", (int)len, words);
        if (len > 0 && nkt_word_selects(word, test)) {
            return true;
        }
        words += len + (words[len] != '\0');
    }
    return false;
}

static void nkt_add_job(const nkt_case *test, nkt_backend_row backend) {
    nkt_job *job;
    nkt_jobs = (nkt_job *)realloc(nkt_jobs, (nkt_job_count + 1) * sizeof(*nkt_jobs));
    job = &nkt_jobs[nkt_job_count++];
    memset(job, 0, sizeof(*job));
    job->test = test;
    job->backend = backend;
    job->order = nkt_random();
}

static int nkt_compare_order(const void *a, const void *b) {
    uint64_t x = ((const nkt_job *)a)->order, y = ((const nkt_job *)b)->order;
    return (x > y) - (x < y);
}

static int nkt_compare_names(const void *a, const void *b) {
    return strcmp((*(nkt_case *const *)a)->name, (*(nkt_case *const *)b)->name);
}

/* Jobs in an order that depends on the seed and the names alone. */
static void nkt_make_jobs(void) {
    static const nkt_backend_row none = {0, ""};
    const nkt_case **sorted;
    size_t count = 0, i = 0;
    for (const nkt_case *test = nkt_cases; test != NULL; test = test->next) {
        count++;
    }
    sorted = (const nkt_case **)malloc((count + 1) * sizeof(*sorted));
    for (const nkt_case *test = nkt_cases; test != NULL; test = test->next) {
        sorted[i++] = test;
    }
    qsort(sorted, count, sizeof(*sorted), nkt_compare_names);
    for (i = 0; i < count; i++) {
        if (!nkt_is_selected(sorted[i])) {
            continue;
        }
        if ((sorted[i]->flags & NKT_LOOP) == 0) {
            nkt_add_job(sorted[i], none);
        }
        for (int b = 0; (sorted[i]->flags & NKT_LOOP) != 0 && b < nkt_backend_count; b++) {
            nkt_add_job(sorted[i], nkt_backends[b]);
        }
    }
    free(sorted);
    if (nkt_job_count > 0) {
        qsort(nkt_jobs, nkt_job_count, sizeof(*nkt_jobs), nkt_compare_order);
    }
}

static void nkt_job_name(const nkt_job *job, char *buf, size_t size) {
    snprintf(buf, size, "%s%s%s", job->test->name, job->backend.number ? "/" : "",
             job->backend.name);
}

/* ---- one test's process ------------------------------------------------------ */

/* What must hold when a test's function has returned. */
static void nkt_check_end(int fds) {
    char why[160];
    int open_fds = nkt_open_fds();
    if (open_fds != fds) {
        snprintf(why, sizeof(why), "leaks %d descriptors", open_fds - fds);
        nkt_stop(NKT_FAILED, why);
    }
    if (nkt_live_bytes() != 0) {
        snprintf(why, sizeof(why), "leaks %" PRId64 " bytes", nkt_live_bytes());
        nkt_stop(NKT_FAILED, why);
    }
    if (nkt_now_running->checks == 0) {
        nkt_stop(NKT_FAILED, "asserts nothing");
    }
    nkt_now_running->state = NKT_PASSED;
}

/* A folder of the test's own: a system may give the number of a process again within a run. */
static void nkt_make_folder(void) {
    for (int i = 0; i < 1000; i++) {
        snprintf(nkt_folder, sizeof(nkt_folder), "%s/%d_%d", nkt_root, (int)getpid(), i);
        if (mkdir(nkt_folder, 0700) == 0) {
            return;
        }
    }
    nkt_stop(NKT_FAILED, "no folder for the test's files");
}

/* In the process of a test: does not return. */
static void nkt_run_job(const nkt_job *job) {
    char name[128];
    int fds;
    nkt_job_name(job, name, sizeof(name));
    nkt_seed = nkt_hash(name) ^ nkt_run_seed;
    nkt_backend = job->backend.number;
    nkt_backend_name = job->backend.name;
    nkt_make_folder();
    nkt_calls_reset();
    fds = nkt_open_fds();
#if defined(NETKIT_FORCE_KQUEUE)
    bool is_over_it = (job->test->flags & NKT_LOOP) == 0 || nkt_backend == NETKIT_BACKEND_KQUEUE;
    if (is_over_it && nkt_libkqueue_why(job->test->name) != NULL) {
        SKIP(nkt_libkqueue_why(job->test->name));
    }
#endif
    if (nkt_lack_why(job->test->name) != NULL) {
        SKIP(nkt_lack_why(job->test->name));
    }
    job->test->run();
    nkt_fault_clear();
    nkt_check_end(fds);
    exit(0); /* and not _exit: leak checkers and coverage work at exit */
}

/* ---- the runner --------------------------------------------------------------- */

static void nkt_start(nkt_slot *slot, nkt_job *job) {
    slot->job = job;
    memset(slot->result, 0, sizeof(*slot->result));
    slot->result->limit_s = nkt_long ? NKT_LONG_LIMIT_S : NKT_LIMIT_S;
    slot->began = nkt_now_ns();
    nkt_process_start(slot);
}

static void nkt_report(const nkt_slot *slot) {
    const nkt_job *job = slot->job;
    char name[128];
    nkt_job_name(job, name, sizeof(name));
    if (job->state == NKT_FAILED) {
        nkt_process_show(&slot->process);
        printf("FAILED %s: %s\n       again: make test T=%s%s%s SEED=%" PRIu64 "%s\n", name,
               job->reason, job->test->name, job->backend.number ? " B=" : "", job->backend.name,
               nkt_run_seed, nkt_long ? " LONG=1" : "");
    } else if (nkt_is_verbose) {
        nkt_process_show(&slot->process);
        printf("%s %s (%" PRIu64 " ms)\n", job->state == NKT_PASSED ? "ok    " : "skip  ", name,
               job->took_ms);
    }
}

/* Take the result of a process that has ended, or was killed for taking too long. */
static void nkt_finish(nkt_slot *slot, bool is_late) {
    nkt_job *job = slot->job;
    int status = nkt_process_status(&slot->process, job->reason, sizeof(job->reason));
    job->state = NKT_FAILED;
    job->took_ms = (nkt_now_ns() - slot->began) / 1000000;
    if (is_late) {
        snprintf(job->reason, sizeof(job->reason), "still running after %" PRIu64 " s",
                 job->took_ms / 1000);
    } else if (status >= 0 && slot->result->state == NKT_RUNNING) {
        snprintf(job->reason, sizeof(job->reason), "left by exit(%d)", status);
    } else if (status > 0 && slot->result->state != NKT_FAILED) {
        snprintf(job->reason, sizeof(job->reason), "exit status %d after passing (a sanitizer?)",
                 status);
    } else if (status >= 0) {
        job->state = slot->result->state;
        memcpy(job->reason, slot->result->reason, sizeof(job->reason));
    }
    nkt_report(slot);
    nkt_process_forget(&slot->process);
    slot->job = NULL;
}

static void nkt_watch(nkt_slot *slot) {
    uint64_t limit = (uint64_t)slot->result->limit_s * nkt_slowness * 1000000000u;
    if (nkt_process_has_ended(&slot->process)) {
        nkt_finish(slot, false);
    } else if (nkt_now_ns() - slot->began > limit) {
        nkt_process_kill(&slot->process);
        nkt_finish(slot, true);
    }
}

static void nkt_run_all(int jobs) {
    size_t next = 0;
    bool is_busy = true;
    while (is_busy) {
        is_busy = false;
        for (int i = 0; i < jobs; i++) {
            if (nkt_slots[i].job != NULL) {
                nkt_watch(&nkt_slots[i]);
            }
            if (nkt_slots[i].job == NULL && next < nkt_job_count) {
                nkt_start(&nkt_slots[i], &nkt_jobs[next++]);
            }
            is_busy = is_busy || nkt_slots[i].job != NULL;
        }
        nkt_sleep_ms(1);
    }
}

/* ---- the end ------------------------------------------------------------------- */

static int nkt_compare_time(const void *a, const void *b) {
    uint64_t x = ((const nkt_job *)a)->took_ms, y = ((const nkt_job *)b)->took_ms;
    return (x < y) - (x > y);
}

/* Each job that ended so, with its reason; how many there were. */
static unsigned nkt_list(int state, const char *word) {
    unsigned count = 0;
    char name[128];
    for (size_t i = 0; i < nkt_job_count; i++) {
        const nkt_job *job = &nkt_jobs[i];
        if (job->state != state) {
            continue;
        }
        count++;
        if (word != NULL) {
            nkt_job_name(job, name, sizeof(name));
            printf("%s %s: %s\n", word, name, job->reason);
        }
    }
    return count;
}

static void nkt_list_slowest(void) {
    char name[128];
    if (nkt_job_count > 0) {
        qsort(nkt_jobs, nkt_job_count, sizeof(*nkt_jobs), nkt_compare_time);
    }
    for (size_t i = 0; i < nkt_job_count && i < 5; i++) {
        nkt_job_name(&nkt_jobs[i], name, sizeof(name));
        printf("%s %s %" PRIu64 " ms", i == 0 ? "slowest:" : ",", name, nkt_jobs[i].took_ms);
    }
    printf("\n");
}

/* The closing line, with what tools/test has counted before (NKT_TALLY="passed failed skipped").
   What failed comes right before it, once more: of a long run often only the end is read. */
static int nkt_summarize(void) {
    unsigned tally[NKT_FAILED + 1] = {0};
    const char *before = nkt_option("NKT_TALLY");
    if (before != NULL) {
        sscanf(before, "%u %u %u", &tally[NKT_PASSED], &tally[NKT_FAILED], &tally[NKT_SKIPPED]);
    }
    if (nkt_is_verbose) {
        nkt_list_slowest();
    }
    tally[NKT_PASSED] += nkt_list(NKT_PASSED, NULL);
    tally[NKT_SKIPPED] += nkt_list(NKT_SKIPPED, "skipped");
    tally[NKT_FAILED] += nkt_list(NKT_FAILED, "failed");
    if (nkt_job_count == 0) {
        printf("no test is selected\n");
        tally[NKT_FAILED]++;
    }
    printf("%u passed, %u failed, %u skipped\n", tally[NKT_PASSED], tally[NKT_FAILED],
           tally[NKT_SKIPPED]);
    return tally[NKT_FAILED] == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    int rc;
    uint64_t jobs;
    nkt_program = argv[0];
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (value == NULL) {
            printf("usage: %s [T=word] [B=backend] [LONG=1] [SEED=number] [V=1]\n", argv[0]);
            return 2;
        }
        *value = '\0';
        if (!nkt_set_option(argv[i], value + 1)) {
            perror(argv[i]);
            return 2;
        }
    }
    if (nkt_option("NKT_SECCOMP") != NULL && !nkt_seccomp_named(nkt_option("NKT_SECCOMP"))) {
        perror("NKT_SECCOMP");
        return 2;
    }
    nkt_is_verbose = nkt_option("V") != NULL;
    nkt_long = nkt_option("LONG") != NULL;
    nkt_slowness = nkt_number("NKT_SLOWNESS", 1);
    nkt_run_seed = nkt_number("SEED", (nkt_now_ns() / 1000) % 1000000);
    nkt_seed = nkt_hash("order") ^ nkt_run_seed;
    jobs = nkt_number("J", 3);
    nkt_process_if_child();
    for (int i = 0; i < NKT_JOBS; i++) {
        nkt_slots[i].result = nkt_new_result();
    }
    nkt_make_root();
    nkt_find_backends();
    nkt_make_jobs();
    if (nkt_job_count > nkt_number("NKT_AT_MOST", SIZE_MAX)) {
        nkt_job_count = (size_t)nkt_number("NKT_AT_MOST", 0); /* a sample, by the seed */
    }
    printf("SEED=%" PRIu64 "  backends:", nkt_run_seed);
    for (int b = 0; b < nkt_backend_count; b++) {
        printf(" %s", nkt_backends[b].name);
    }
    printf("  tests: %zu\n", nkt_job_count);
    nkt_run_all(jobs < 1 ? 1 : jobs > NKT_JOBS ? NKT_JOBS : (int)jobs);
    rc = nkt_summarize();
    nkt_remove_root();
    free(nkt_jobs);
    return rc;
}
