/* Load generator: options, measuring, report. See load.h and README.md. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

options opt;
results res;
char recv_buf[RECV_MAX];
char pattern[PATTERN_PERIOD + SEND_MAX];
uint64_t hist[HIST_BUCKETS];
char cc_used[32] = "default";

static uint64_t warm_until;
static uint64_t measure_until;

void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

static uint64_t clock_ns(clockid_t id) {
    struct timespec ts;
    if (clock_gettime(id, &ts) != 0) {
        return 0;
    }
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

/* Busy and stolen time of all CPUs, from the first line of /proc/stat. */
static void read_machine(snapshot *s) {
    unsigned long long v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
    FILE *f = fopen("/proc/stat", "r");
    if (f == NULL) {
        return;
    }
    if (fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4],
               &v[5], &v[6], &v[7]) == 8) {
        s->busy_ns = (v[0] + v[1] + v[2] + v[5] + v[6]) * tick_ns;
        s->steal_ns = v[7] * tick_ns;
    }
    fclose(f);
}

/* The clock of another process is the sum that /proc/PID/task/.../schedstat
 * shows, but brought up to date when it is read; the files lag by a tick. */
void take_snapshot(snapshot *s) {
    clockid_t id;
    memset(s, 0, sizeof *s);
    read_machine(s);
    if (opt.pid > 0 && clock_getcpuclockid(opt.pid, &id) == 0) {
        s->server_ns = clock_ns(id);
    }
    s->own_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    s->wall_ns = now_ns();
}

void hist_add(uint64_t ns) {
    unsigned shift = 0;
    size_t at;
    if (ns >= HIST_SUB) {
        shift = 63u - (unsigned)__builtin_clzll(ns) - 7u; /* keeps 8 bits: 128 to 255 */
        at = (size_t)shift * (HIST_SUB / 2) + (size_t)(ns >> shift);
    } else {
        at = (size_t)ns;
    }
    hist[at < HIST_BUCKETS ? at : HIST_BUCKETS - 1]++;
}

/* The lowest value that falls into a bucket. */
static double hist_value(size_t at) {
    size_t half = HIST_SUB / 2;
    if (at < HIST_SUB) {
        return (double)at;
    }
    size_t shift = at / half - 1;
    return (double)((uint64_t)(at - shift * half) << shift);
}

static double percentile_us(double part) {
    uint64_t all = 0;
    double seen = 0;
    for (size_t i = 0; i < HIST_BUCKETS; i++) {
        all += hist[i];
    }
    double wanted = part * (double)all;
    for (size_t i = 0; i + 1 < HIST_BUCKETS; i++) {
        double here = (double)hist[i];
        if (here > 0 && seen + here >= wanted) {
            double low = hist_value(i);
            return (low + (hist_value(i + 1) - low) * (wanted - seen) / here) / 1000.0;
        }
        seen += here;
    }
    return 0;
}

static void set_congestion(int fd) {
    socklen_t len = sizeof cc_used - 1;
    if (opt.cc != NULL) {
        /* A kernel without it keeps its default; the report says which. */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, opt.cc, (socklen_t)strlen(opt.cc));
    }
    memset(cc_used, 0, sizeof cc_used);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cc_used, &len) != 0) {
        strcpy(cc_used, "unknown");
    }
}

int open_conn(void) {
    static uint32_t opened;
    struct sockaddr_in addr;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fail("socket: %s (connection %u)", strerror(errno), opened);
    }
    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons((uint16_t)opt.port);
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
        fail("TCP_NODELAY: %s", strerror(errno));
    }
    if (opened == 0 || opt.cc != NULL) {
        set_congestion(fd);
    }
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        fail("connect: %s (connection %u)", strerror(errno), opened);
    }
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        fail("fcntl: %s", strerror(errno));
    }
    opened++;
    return fd;
}

void verify(conn *c, const char *data, size_t len, bool whole) {
    const char *want = pattern + c->recv_at;
    bool ok;
    if (whole || len <= 4096) {
        ok = memcmp(data, want, len) == 0;
    } else {
        ok = memcmp(data, want, 64) == 0 && memcmp(data + len - 64, want + len - 64, 64) == 0;
    }
    if (!ok) {
        res.wrong += len;
    }
    c->recv_at = (uint32_t)((c->recv_at + len) % PATTERN_PERIOD);
}

static void wait_for(int fd, short events) {
    struct pollfd p;
    p.fd = fd;
    p.events = events;
    p.revents = 0;
    if (poll(&p, 1, 10000) != 1) {
        fail("the server was silent for 10 s");
    }
}

void echo_once(conn *c) {
    size_t left = opt.size < 64 ? opt.size : 64;
    ssize_t n = send(c->fd, pattern + c->send_at, left, MSG_NOSIGNAL);
    if (n != (ssize_t)left) {
        fail("first send: %s", strerror(errno));
    }
    c->send_at = (uint32_t)((c->send_at + left) % PATTERN_PERIOD);
    while (left > 0) {
        wait_for(c->fd, POLLIN);
        n = recv(c->fd, recv_buf, left, 0);
        if (n <= 0) {
            fail("first answer: %s", n == 0 ? "end of file" : strerror(errno));
        }
        verify(c, recv_buf, (size_t)n, true);
        left -= (size_t)n;
    }
}

static double seconds(uint64_t from, uint64_t to) {
    return to > from ? (double)(to - from) / 1e9 : 0;
}

static void report(void) {
    double wall = seconds(res.start.wall_ns, res.end.wall_ns);
    double server = seconds(res.start.server_ns, res.end.server_ns);
    double own = seconds(res.start.own_ns, res.end.own_ns);
    double busy = seconds(res.start.busy_ns, res.end.busy_ns);
    double done = (double)res.messages;
    double per = wall > 0 ? 1 / wall : 0;
    printf("{\"mode\":\"%s\",\"conns\":%u,\"inflight\":%u,\"size\":%u,", opt.mode, opt.conns,
           opt.inflight, opt.size);
    printf("\"messages\":%llu,\"bytes\":%llu,\"total\":%llu,\"wrong\":%llu,",
           (unsigned long long)res.messages, (unsigned long long)res.bytes,
           (unsigned long long)res.total, (unsigned long long)res.wrong);
    printf("\"seconds\":%.4f,\"rate\":%.1f,\"bytes_per_s\":%.0f,", wall, done * per,
           (double)res.bytes * per);
    printf("\"p50_us\":%.2f,\"p90_us\":%.2f,\"p99_us\":%.2f,\"p999_us\":%.2f,", percentile_us(0.5),
           percentile_us(0.9), percentile_us(0.99), percentile_us(0.999));
    printf("\"server_cpu_s\":%.6f,\"server_us\":%.4f,\"own_load\":%.3f,", server,
           done > 0 ? server * 1e6 / done : 0, own * per);
    printf("\"other_load\":%.3f,\"steal\":%.3f,\"cc\":\"%s\"}\n", (busy - own - server) * per,
           seconds(res.start.steal_ns, res.end.steal_ns) * per, cc_used);
}

/* What was measured since the last line of standard input is reported; false at its end. */
static bool slice_goes_on(void) {
    char line[16];
    if (res.end.wall_ns != 0) {
        report();
        fflush(stdout);
        opt.warm_ms = opt.slice_warm_ms;
    }
    warm_until = 0;
    measure_until = 0;
    memset(&res.end, 0, sizeof res.end);
    return fgets(line, sizeof line, stdin) != NULL;
}

bool phase_goes_on(uint64_t now) {
    if (warm_until == 0) {
        if (opt.slice_warm_ms != 0) {
            if (!slice_goes_on()) {
                return false;
            }
            now = now_ns();
        }
        warm_until = now + opt.warm_ms * (uint64_t)1000000u;
    }
    if (measure_until == 0) {
        if (now >= warm_until) {
            memset(hist, 0, sizeof hist);
            res.messages = 0;
            res.bytes = 0;
            take_snapshot(&res.start);
            measure_until = res.start.wall_ns + opt.time_ms * (uint64_t)1000000u;
        }
        return true;
    }
    if (now < measure_until) {
        return true;
    }
    if (res.end.wall_ns == 0) {
        take_snapshot(&res.end);
    }
    if (opt.slice_warm_ms != 0) {
        warm_until = 0;
        return phase_goes_on(now);
    }
    return false;
}

static uint64_t number(const char *name, const char *text, uint64_t max) {
    char *end = NULL;
    unsigned long long v = 0;
    errno = 0;
    if (text != NULL && *text >= '0' && *text <= '9') {
        v = strtoull(text, &end, 10);
    }
    if (end == NULL || *end != 0 || errno != 0 || v > max) {
        fail("%s wants a number up to %llu", name, (unsigned long long)max);
    }
    return v;
}

static void usage(void) {
    fputs("load --mode echo|churn|bulk|idle --port P [--conns C] [--inflight P] [--size BYTES]\n"
          "     [--warm MS] [--time MS] [--count MESSAGES] [--batch] [--cc NAME] [--core N]\n"
          "     [--pid SERVER] [--life SECONDS] [--reset] [--slices WARM_MS]\n",
          stderr);
    exit(2);
}

static bool set_option(const char *name, const char *value) {
    if (strcmp(name, "--mode") == 0 && value != NULL) {
        opt.mode = value;
    } else if (strcmp(name, "--cc") == 0 && value != NULL) {
        opt.cc = value;
    } else if (strcmp(name, "--port") == 0) {
        opt.port = (int)number(name, value, 65535);
    } else if (strcmp(name, "--core") == 0) {
        opt.core = (int)number(name, value, 1023);
    } else if (strcmp(name, "--pid") == 0) {
        opt.pid = (pid_t)number(name, value, INT32_MAX);
    } else if (strcmp(name, "--conns") == 0) {
        opt.conns = (uint32_t)number(name, value, 1000000);
    } else if (strcmp(name, "--inflight") == 0) {
        opt.inflight = (uint32_t)number(name, value, 4096);
    } else if (strcmp(name, "--size") == 0) {
        opt.size = (uint32_t)number(name, value, SEND_MAX);
    } else if (strcmp(name, "--warm") == 0) {
        opt.warm_ms = (uint32_t)number(name, value, 600000);
    } else if (strcmp(name, "--slices") == 0) {
        opt.slice_warm_ms = (uint32_t)number(name, value, 600000);
    } else if (strcmp(name, "--time") == 0) {
        opt.time_ms = (uint32_t)number(name, value, 600000);
    } else if (strcmp(name, "--life") == 0) {
        opt.life_s = (uint32_t)number(name, value, 86400);
    } else if (strcmp(name, "--count") == 0) {
        opt.count = number(name, value, (uint64_t)1 << 40);
    } else {
        return false;
    }
    return true;
}

static void parse(int argc, char **argv) {
    opt.mode = "";
    opt.core = -1;
    opt.conns = 50;
    opt.inflight = 1;
    opt.size = 64;
    opt.warm_ms = 250;
    opt.time_ms = 700;
    opt.life_s = 60;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--batch") == 0) {
            opt.batch = true;
        } else if (strcmp(argv[i], "--reset") == 0) {
            opt.reset = true;
        } else if (set_option(argv[i], i + 1 < argc ? argv[i + 1] : NULL)) {
            i++;
        } else {
            usage();
        }
    }
    if (opt.port == 0 || opt.conns == 0 || opt.inflight == 0 || opt.size == 0) {
        usage();
    }
}

static void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        fprintf(stderr, "load: not pinned to core %d: %s\n", core, strerror(errno));
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    alarm(opt.life_s);
    if (opt.core >= 0) {
        pin(opt.core);
    }
    for (size_t i = 0; i < sizeof pattern; i++) {
        pattern[i] = (char)((i % PATTERN_PERIOD) * 31 + 7);
    }
    if (strcmp(opt.mode, "echo") == 0) {
        run_echo();
    } else if (strcmp(opt.mode, "churn") == 0) {
        run_churn();
    } else if (strcmp(opt.mode, "bulk") == 0) {
        run_bulk();
    } else if (strcmp(opt.mode, "idle") == 0) {
        run_idle();
        return 0;
    } else {
        usage();
    }
    if (opt.slice_warm_ms == 0) {
        report();
    }
    return res.wrong == 0 ? 0 : 1;
}
