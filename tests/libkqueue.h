/* The suite on backend kqueue over libkqueue 2.3.1, Debian's, where Linux has no kqueue.
 *
 * Included before the library when NETKIT_FORCE_KQUEUE is defined. libkqueue is not BSD: what is
 * different is shown, without netkit, by tools/libkqueue.c. Three differences that would leave
 * little to test are made good here, between the library and libkqueue:
 * - it cannot hold the read and the write filter of one descriptor ("both directions"): the write
 *   filter gets a duplicate, closed with the filter, and its events name the descriptor;
 * - waits of a millisecond and more are cut to whole ones ("timeout"): they are rounded up;
 * - what it counts as there to read ends at an urgent mark ("urgent"): there is more.
 * Tests that meet one of the others are skipped by name, see nkt_libkqueue_rows. */
#ifndef NKT_LIBKQUEUE_H
#define NKT_LIBKQUEUE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/event.h>
#include <time.h>
#include <unistd.h>

enum {
    NKT_KQ_FDS = 65536, /* descriptors that can be watched, and pipes of kqueues remembered */
    NKT_KQ_PIPES = 64
};

typedef struct nkt_kq_twin {
    int kq; /* 0 = this descriptor is no duplicate of ours */
    int of;
} nkt_kq_twin;

static nkt_kq_twin nkt_kq_twins[NKT_KQ_FDS]; /* by duplicate */
static int *nkt_kq_writes[NKT_KQ_FDS];       /* by kqueue and descriptor: the duplicate, or 0 */
static char nkt_kq_pipes[NKT_KQ_PIPES][48];  /* what the ends of a kqueue's pipe are called */
static int nkt_kq_numbers[NKT_KQ_PIPES];
static int nkt_kq_count;

static void nkt_kq_link(int fd, char *out, size_t size) {
    char path[48];
    ssize_t len;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    len = readlink(path, out, size - 1);
    out[len < 0 ? 0 : len] = '\0';
}

static void nkt_kq_forget(int kq, int fd) {
    int twin = nkt_kq_writes[kq][fd];
    if (twin > 0) {
        nkt_kq_writes[kq][fd] = 0;
        nkt_kq_twins[twin].kq = 0;
        close(twin);
    }
}

static int nkt_kqueue(void) {
    int kq = kqueue();
    if (kq < 0 || kq >= NKT_KQ_FDS) {
        return kq < 0 ? kq : (errno = EMFILE, -1);
    }
    if (nkt_kq_writes[kq] == NULL) {
        nkt_kq_writes[kq] = (int *)calloc(NKT_KQ_FDS, sizeof(int));
    }
    for (int fd = 0; fd < NKT_KQ_FDS; fd++) { /* of one with this number that was closed */
        nkt_kq_forget(kq, fd);
    }
    nkt_kq_link(kq, nkt_kq_pipes[nkt_kq_count % NKT_KQ_PIPES], sizeof(nkt_kq_pipes[0]));
    nkt_kq_numbers[nkt_kq_count++ % NKT_KQ_PIPES] = kq;
    return kq;
}

static int nkt_kq_change(int kq, const struct kevent *change) {
    struct kevent c = *change;
    int fd = (int)c.ident;
    bool is_write = c.filter == EVFILT_WRITE && fd >= 0 && fd < NKT_KQ_FDS;
    if (is_write && (c.flags & EV_ADD) != 0 && nkt_kq_writes[kq][fd] == 0) {
        int twin = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (twin < 0 || twin >= NKT_KQ_FDS) {
            return -1;
        }
        nkt_kq_twins[twin].kq = kq;
        nkt_kq_twins[twin].of = fd;
        nkt_kq_writes[kq][fd] = twin;
    }
    if (is_write && nkt_kq_writes[kq][fd] != 0) {
        c.ident = (uintptr_t)nkt_kq_writes[kq][fd];
    }
    int rc = kevent(kq, &c, 1, NULL, 0, NULL);
    if (is_write && (c.flags & EV_DELETE) != 0) {
        int os_code = errno;
        nkt_kq_forget(kq, fd);
        errno = os_code;
    }
    return rc;
}

static int nkt_kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events,
                      int nevents, const struct timespec *timeout) {
    struct timespec up;
    for (int i = 0; i < nchanges; i++) {
        if (nkt_kq_change(kq, &changes[i]) < 0) {
            return -1;
        }
    }
    if (timeout != NULL && (timeout->tv_sec > 0 || timeout->tv_nsec > 1000000)) {
        up = *timeout;
        up.tv_nsec = (up.tv_nsec + 999999) / 1000000 * 1000000;
        up.tv_sec += up.tv_nsec / 1000000000;
        up.tv_nsec %= 1000000000;
        timeout = &up;
    }
    int n = nevents > 0 ? kevent(kq, NULL, 0, events, nevents, timeout) : 0;
    for (int i = 0; i < n; i++) {
        if (events[i].filter == EVFILT_READ) {
            struct pollfd urgent = {(int)events[i].ident, POLLPRI, 0};
            events[i].data += poll(&urgent, 1, 0) > 0 && (urgent.revents & POLLPRI) != 0;
        } else if (events[i].filter == EVFILT_WRITE) {
            int fd = nkt_kq_twins[events[i].ident].of;
            if ((events[i].flags & EV_ONESHOT) != 0) {
                nkt_kq_forget(kq, fd);
            }
            events[i].ident = (uintptr_t)fd;
        }
    }
    return n;
}

#define kqueue() nkt_kqueue()
#define kevent(kq, changes, nchanges, events, nevents, timeout) \
    nkt_kevent((kq), (changes), (nchanges), (events), (nevents), (timeout))

/* Is this descriptor libkqueue's or ours here? A kqueue counts as the one it would be. */
static bool nkt_kq_owns(int fd) {
    char what[48];
    if (fd >= 0 && fd < NKT_KQ_FDS && nkt_kq_twins[fd].kq != 0) {
        return true;
    }
    nkt_kq_link(fd, what, sizeof(what));
    if (what[0] == 0 || strncmp(what, "anon_inode:", 11) == 0) { /* closed meanwhile, or its own */
        return true;
    }
    if (strcmp(what, "/proc/sys/vm/overcommit_memory") == 0) { /* malloc's, of its thread */
        return true;
    }
    for (int i = 0; i < nkt_kq_count && i < NKT_KQ_PIPES; i++) {
        if (strcmp(what, nkt_kq_pipes[i]) == 0) {
            return fd != nkt_kq_numbers[i];
        }
    }
    return false;
}

typedef struct nkt_libkqueue_row {
    const char *test;
    const char *why; /* a word of tools/libkqueue.c, and what it means here */
} nkt_libkqueue_row;

static const nkt_libkqueue_row nkt_libkqueue_rows[] = {
    {"loop_lives_a_thousand_times", "libkqueue: thread: it counts the process's threads"},
    {"embed_forgets_no_work", "libkqueue: native: a foreign loop waits for the kqueue"},
    {"embed_wakes_for_everything", "libkqueue: native: a foreign loop waits for the kqueue"},
    {"embed_behind_much_ado_about_nothing",
     "libkqueue: native: a foreign loop waits for the kqueue"},
    {"torture_descriptors", "libkqueue: codes: EMFILE comes as EFAULT, and is no shortage then"},
    {"udp_refused_without_reports", "libkqueue: error: the next call would have told it"},
    {"udp_queue_is_full", "libkqueue: error: of reports without one it says nothing"},
    {NULL, NULL},
};

/* Why a test cannot run over libkqueue, or NULL. */
static const char *nkt_libkqueue_why(const char *test) {
    for (const nkt_libkqueue_row *row = nkt_libkqueue_rows; row->test != NULL; row++) {
        if (strcmp(row->test, test) == 0) {
            return row->why;
        }
    }
    return NULL;
}

#endif /* NKT_LIBKQUEUE_H */
