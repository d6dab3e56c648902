/* Load generator: what its parts share.
 *
 * One thread, raw epoll, no netkit: a fault of the library must not be able to
 * hide in the instrument. Each byte of a stream is a function of its offset
 * (a pattern whose period is prime, so that a block lost or moved shows), which
 * also means that an unfinished send needs to remember a count and no bytes. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PATTERN_PERIOD = 251,
    SEND_MAX = 1024 * 1024, /* bytes given to one send */
    RECV_MAX = 64 * 1024,
    EVENTS_MAX = 512,
    HIST_SUB = 256, /* half as many buckets in each power of two: 0.8 % wide at most */
    HIST_BUCKETS = 20 * HIST_SUB
};

typedef struct options {
    const char *mode;
    const char *cc; /* congestion control asked for, NULL = the system's */
    int port;
    int core;  /* -1 = anywhere */
    pid_t pid; /* server whose CPU time is read, 0 = none */
    uint32_t conns;
    uint32_t inflight;
    uint32_t size;
    uint32_t warm_ms;
    uint32_t time_ms;
    uint32_t slice_warm_ms; /* not 0: a measurement for each line of standard input, and this before
                               all but the first */
    uint32_t life_s;        /* SIGALRM ends the process after this */
    uint64_t count;         /* messages in all, 0 = by time */
    bool batch;             /* the next requests go out when all answers are in */
    bool reset;             /* churn: close with a reset */
} options;

typedef struct conn {
    int fd;
    uint32_t send_at; /* offset in the stream modulo the pattern's period */
    uint32_t recv_at;
    uint32_t inflight;
    uint32_t reads;
    uint32_t first; /* oldest of the times of sending */
    bool out;       /* EPOLLOUT is armed */
    size_t unsent;
    size_t partial;  /* bytes of a message whose rest is still to come */
    uint64_t *times; /* of the messages in flight, a ring */
} conn;

/* What is read at both ends of the measured time. */
typedef struct snapshot {
    uint64_t wall_ns;
    uint64_t own_ns;
    uint64_t server_ns;
    uint64_t busy_ns;  /* of the whole machine, in ticks of 10 ms */
    uint64_t steal_ns; /* taken by the host */
} snapshot;

typedef struct results {
    snapshot start;
    snapshot end;
    uint64_t messages; /* or connections, for churn */
    uint64_t bytes;
    uint64_t total; /* messages with those of the warm-up */
    uint64_t wrong; /* bytes or connections that came back wrong */
} results;

extern options opt;
extern results res;
extern char recv_buf[RECV_MAX];
extern char pattern[PATTERN_PERIOD + SEND_MAX];
extern uint64_t hist[HIST_BUCKETS];
extern char cc_used[32];

/* Print a sentence and end with status 1: a generator that goes on after a
 * failure reports nonsense. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

uint64_t now_ns(void);
void take_snapshot(snapshot *s);
void hist_add(uint64_t ns);

/* Connect, blocking until done, then non-blocking with TCP_NODELAY. */
int open_conn(void);

/* One message there and back with blocking waits: proves that the server has
 * accepted this connection and all before it. */
void echo_once(conn *c);

/* Compare what was received with the pattern; counts into res.wrong. */
void verify(conn *c, const char *data, size_t len, bool whole);

/* Begin and end the measured time by the clock; false when it is over. */
bool phase_goes_on(uint64_t now);

void run_echo(void);
void run_churn(void);
void run_bulk(void);
void run_idle(void);

#endif
