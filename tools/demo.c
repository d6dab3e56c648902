/* demo: the client of tools/demo. Drives http_server and echo_server over real
 * sockets, compares every byte that comes back, and prints what it measured.
 *
 * usage: demo HTTP_ADDR ECHO_ADDR FOLDER HTTP_PID ECHO_PID BACKEND IDLE_MAX
 *
 * One engine does all traffic over a loop: each conn sends requests, `depth` of
 * them in flight, and compares what comes with what must come, as it comes. The
 * single cases of HTTP go over plain blocking sockets. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_LEN = 1 << 20,
    DEPTH_MAX = 16,
    ROWS_MAX = 8,
    WAIT_MS = 5000
};
enum {
    STUCK_LEN = 64 << 20,
    STUCK_PIECE = 65536
};
enum {
    SUB_BITS = 5,
    BUCKETS = 64 << SUB_BITS
};

/* Latencies in buckets 3 % wide. */
typedef struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t total, max_ns;
} histogram;

/* What to send and what must come back. */
typedef struct work {
    const char *address;
    const char *request, *response;
    size_t request_len, response_len;
    size_t date_at;   /* of the response, where 29 bytes may differ; 0 = nowhere */
    bool is_echo;     /* messages of request_len bytes, each from another place of the block */
    int conns, depth; /* requests in flight on each */
    uint32_t time_ms; /* 0: one request for each conn, which then stays open */
} work;

typedef struct row {
    char name[40];
    char rate[24];
    bool has_latency;
    uint64_t p50, p90, p99, max;
} row;

typedef struct demo {
    netkit_loop *loop;
    const work *job;
    uint32_t idle_open, idle_asked, idle_max; /* with time_ms 0 */
    bool is_over;                             /* time is up: finish what is in flight */
    netkit_timer over, dots;
    uint64_t done, failures, responses;
    uint64_t start_ns, end_ns;
    histogram latency;
    row rows[ROWS_MAX];
    int row_count, column;
    char *block; /* random bytes, twice the same so that no message wraps */
} demo;

typedef struct peer {
    uint64_t sent_ns[DEPTH_MAX];
    uint64_t sent, done; /* requests */
    uint64_t serial;     /* makes the messages of conns differ */
    size_t at;           /* bytes compared of the response that is coming */
    bool is_closing;
} peer;

/* ---- printing ------------------------------------------------------------------ */

static void say(demo *d, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = vprintf(format, list);
    va_end(list);
    d->column += n > 0 ? n : 0;
    fflush(stdout);
}

static void say_end(demo *d, const char *text) {
    printf("%*s\n", d->column < 79 ? 79 - d->column : 1, text);
    d->column = 0;
    fflush(stdout);
}

static void fail(demo *d, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (d->failures++ < 10) {
        printf("%s    WRONG: %s\n", d->column ? "\n" : "", text);
        d->column = 0;
    }
}

/* 1234567 as "1,234,567". */
static const char *grouped(char *out, size_t size, uint64_t value) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, value);
    size_t n = 0;
    for (int i = 0; i < len && n + 2 < size; i++) {
        out[n++] = digits[i];
        if ((len - i - 1) % 3 == 0 && i + 1 < len) {
            out[n++] = ',';
        }
    }
    out[n] = '\0';
    return out;
}

static const char *duration(char *out, size_t size, uint64_t ns) {
    if (ns < 1000000) {
        snprintf(out, size, "%.0f us", (double)ns / 1e3);
    } else if (ns < 100000000) {
        snprintf(out, size, "%.1f ms", (double)ns / 1e6);
    } else {
        snprintf(out, size, "%.0f ms", (double)ns / 1e6);
    }
    return out;
}

/* ---- the histogram -------------------------------------------------------------- */

static size_t bucket_of(uint64_t ns) {
    int shift = 0;
    while ((ns >> shift) >= (2u << SUB_BITS)) {
        shift++;
    }
    return ((size_t)shift << SUB_BITS) + (size_t)(ns >> shift);
}

static uint64_t bucket_value(size_t bucket) {
    size_t shift = bucket >> SUB_BITS;
    shift = shift > 0 ? shift - 1 : 0;
    return (uint64_t)(bucket - (shift << SUB_BITS)) << shift;
}

static void record(histogram *h, uint64_t ns) {
    h->counts[bucket_of(ns)]++;
    h->total++;
    h->max_ns = ns > h->max_ns ? ns : h->max_ns;
}

static uint64_t percentile(const histogram *h, unsigned percent) {
    uint64_t rank = (h->total * percent + 99) / 100, seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += h->counts[i];
        if (seen >= rank && seen > 0) {
            return bucket_value(i);
        }
    }
    return h->max_ns;
}

/* ---- the engine ------------------------------------------------------------------ */

static const char *message(const demo *d, const peer *p, uint64_t number) {
    return d->block + ((p->serial * 7919 + number * 61) % BLOCK_LEN);
}

static void send_one(demo *d, netkit_conn conn, peer *p) {
    const work *job = d->job;
    const char *bytes = job->is_echo ? message(d, p, p->sent) : job->request;
    int code = netkit_conn_send(d->loop, conn, bytes, job->request_len);
    if (code != NETKIT_OK) {
        fail(d, "a send was refused: %s", netkit_error_text(code));
        netkit_conn_abort(d->loop, conn);
        return;
    }
    p->sent_ns[p->sent++ % DEPTH_MAX] = netkit_loop_now(d->loop);
}

/* Compare bytes at offset `at` of a response, passing over the date. */
static bool is_right(const work *job, const char *expected, size_t at, const char *data,
                     size_t len) {
    if (!job->date_at || at >= job->date_at + 29 || at + len <= job->date_at) {
        return !memcmp(expected + at, data, len);
    }
    size_t before = at < job->date_at ? job->date_at - at : 0;
    size_t behind = job->date_at + 29 < at + len ? at + len - (job->date_at + 29) : 0;
    return !memcmp(expected + at, data, before) &&
           !memcmp(expected + at + len - behind, data + len - behind, behind);
}

static void on_response(demo *d, netkit_conn conn, peer *p) {
    record(&d->latency, netkit_loop_now(d->loop) - p->sent_ns[p->done++ % DEPTH_MAX]);
    p->at = 0;
    d->done++;
    d->responses++;
    if (d->job->time_ms == 0) {
        d->idle_open++; /* and rests */
        netkit_loop_stop(d->loop);
    } else if (!d->is_over) {
        send_one(d, conn, p);
    } else if (p->done == p->sent) {
        d->end_ns = netkit_loop_now(d->loop);
        p->is_closing = true;
        netkit_conn_close(d->loop, conn);
    }
}

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    demo *d = (demo *)user;
    peer *p = (peer *)netkit_conn_ext(loop, conn);
    const char *bytes = (const char *)data;
    for (size_t used = 0; used < len && !p->is_closing;) {
        const char *expected = d->job->is_echo ? message(d, p, p->done) : d->job->response;
        size_t step =
            d->job->response_len - p->at < len - used ? d->job->response_len - p->at : len - used;
        if (p->done == p->sent || !is_right(d->job, expected, p->at, bytes + used, step)) {
            fail(d, "%s: a response differs near its byte %zu", d->job->address, p->at);
            p->is_closing = true;
            netkit_conn_abort(loop, conn);
            return len;
        }
        p->at += step;
        used += step;
        if (p->at == d->job->response_len) {
            on_response(d, conn, p);
        }
    }
    return len;
}

static void on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    demo *d = (demo *)user;
    peer *p = (peer *)netkit_conn_ext(loop, conn);
    p->serial = conn.id & 0xffff;
    for (int i = 0; i < d->job->depth; i++) {
        send_one(d, conn, p);
    }
}

static void on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    demo *d = (demo *)user;
    fail(d, "%s: the server ended a connection", d->job->address);
    ((peer *)netkit_conn_ext(loop, conn))->is_closing = true;
    netkit_conn_close(loop, conn);
    if (d->job->time_ms == 0) {
        netkit_loop_stop(loop);
    }
}

static void on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user) {
    demo *d = (demo *)user;
    peer *p = (peer *)netkit_conn_ext(loop, conn);
    if (!p->is_closing && !(d->is_over && d->job->time_ms == 0)) {
        char why[256];
        netkit_close_describe(info, why, sizeof why);
        fail(d, "%s: %s", d->job->address, why);
        netkit_loop_stop(loop);
    }
}

static void on_time_over(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    ((demo *)user)->is_over = true;
}

static void on_dot(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    say((demo *)user, ".");
}

static bool connect_one(demo *d, const work *job) {
    netkit_connect_desc desc = {0};
    desc.address = job->address;
    desc.timeout_ms = WAIT_MS;
    desc.conn.ext_size = sizeof(peer);
    desc.conn.deadline_ms = job->time_ms ? job->time_ms + WAIT_MS : 0;
    desc.handler.on_open = on_open;
    desc.handler.on_data = on_data;
    desc.handler.on_eof = on_eof;
    desc.handler.on_close = on_close;
    desc.user = d;
    int code = netkit_connect(d->loop, &desc, NULL);
    if (code != NETKIT_OK) {
        fail(d, "%s: %s", job->address, netkit_error_text(code));
    }
    return code == NETKIT_OK;
}

static void start_dots(demo *d) {
    if (netkit_timer_start(d->loop, &d->dots, 250000, 250000, on_dot, d) == NETKIT_OK) {
        netkit_timer_set_referenced(d->loop, d->dots, false);
    }
}

/* Run a timed job: all conns end by themselves once the time is over. */
static void run_job(demo *d, const char *name, const work *job) {
    d->job = job;
    d->is_over = false;
    d->done = 0;
    memset(&d->latency, 0, sizeof d->latency);
    say(d, "  %-36s ", name);
    start_dots(d);
    d->start_ns = d->end_ns = netkit_loop_now(d->loop);
    for (int i = 0; i < job->conns; i++) {
        connect_one(d, job);
    }
    netkit_timer_start(d->loop, &d->over, (uint64_t)job->time_ms * 1000, 0, on_time_over, d);
    while (netkit_loop_references(d->loop) > 0 && netkit_loop_run(d->loop) == NETKIT_OK) {
    }
    netkit_timer_stop(d->loop, d->dots);
}

static void add_row(demo *d, const char *name, bool is_bulk) {
    char number[32];
    row *r = &d->rows[d->row_count++];
    double seconds = (double)(d->end_ns - d->start_ns) / 1e9;
    double rate = seconds > 0 ? (double)d->done / seconds : 0;
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "%s", name);
    if (is_bulk) {
        rate = rate * (double)d->job->response_len / (1 << 20);
    }
    snprintf(r->rate, sizeof r->rate, "%s%s", grouped(number, sizeof number, (uint64_t)rate),
             is_bulk ? " MiB" : "");
    r->has_latency = d->latency.total > 0;
    r->p50 = percentile(&d->latency, 50);
    r->p90 = percentile(&d->latency, 90);
    r->p99 = percentile(&d->latency, 99);
    r->max = d->latency.max_ns;
    snprintf(number, sizeof number, " %s/s", r->rate);
    say_end(d, number);
    if (d->done == 0) {
        fail(d, "%s: nothing came back", name);
    }
}

/* ---- HTTP, one case at a time, over plain sockets --------------------------------- */

static int ask(const char *address, const char *text, size_t len, bool slowly, char *out,
               size_t size) {
    netkit_addr addr;
    netkit_socket s;
    size_t got = 0;
    int code = netkit_addr_parse(&addr, address, NULL);
    if (code == NETKIT_OK) {
        code = netkit_socket_open(&s, addr.family, NETKIT_SOCK_STREAM, 0);
    }
    if (code != NETKIT_OK) {
        return code;
    }
    code = netkit_socket_connect(s, &addr, WAIT_MS);
    for (size_t at = 0; at < len && code == NETKIT_OK;) {
        size_t step = slowly ? 1 : len;
        code = netkit_socket_send_all(s, text + at, step, WAIT_MS, NULL);
        at += step;
    }
    while (code >= 0 && got < size - 1) {
        code = netkit_socket_wait(s, NETKIT_POLL_READ, WAIT_MS);
        if (code > 0) {
            code = netkit_socket_recv(s, out + got, size - 1 - got);
        }
        if (code == NETKIT_E_AGAIN) {
            code = 1;
        } else if (code > 0) {
            got += (size_t)code;
        }
    }
    out[got] = '\0';
    netkit_socket_close(&s);
    return code == NETKIT_E_EOF ? (int)got : code < 0 ? code : NETKIT_E_TOOBIG;
}

static char *read_whole(demo *d, const char *folder, const char *name, size_t *len) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    long size = -1;
    char *data = NULL;
    if (file && !fseek(file, 0, SEEK_END) && (size = ftell(file)) >= 0 &&
        !fseek(file, 0, SEEK_SET) && (data = (char *)malloc((size_t)size + 1)) != NULL &&
        fread(data, 1, (size_t)size, file) != (size_t)size) {
        free(data);
        data = NULL;
    }
    if (file) {
        fclose(file);
    }
    if (!data) {
        fail(d, "cannot read %s", path);
        return NULL;
    }
    *len = (size_t)size;
    return data;
}

/* Whether a whole response is what it must be: status, length, body, and only
 * well-formed header lines. body NULL: any, but of the length it says. */
static const char *judge(const char *data, size_t len, int status, bool is_head, const char *body,
                         size_t body_len) {
    char line[32];
    const char *end = strstr(data, "\r\n\r\n"), *length = strstr(data, "\r\nContent-Length: ");
    snprintf(line, sizeof line, "HTTP/1.1 %d ", status);
    if (strncmp(data, line, strlen(line)) != 0) {
        return "the status";
    }
    if (!end || !length || length > end || !strstr(data, "\r\nDate: ")) {
        return "the head";
    }
    for (const char *at = strstr(data, "\r\n"); at < end; at = strstr(at + 2, "\r\n")) {
        size_t name_len = strspn(at + 2, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-");
        if (name_len == 0 || strncmp(at + 2 + name_len, ": ", 2) != 0 ||
            !strncmp(at + 2, "Evil", 4)) {
            return "a header line";
        }
    }
    size_t said = (size_t)strtoul(length + 18, NULL, 10);
    size_t come = len - (size_t)(end + 4 - data);
    if ((body && said != body_len) || come != (is_head ? 0 : said)) {
        return "the length";
    }
    return body && !is_head && memcmp(end + 4, body, body_len) != 0 ? "the body" : NULL;
}

typedef struct http_case {
    const char *request; /* up to and with the version; the rest is added */
    int status;
    const char *file; /* the body's, or NULL */
} http_case;

static char scratch[1 << 20];

static void one_case(demo *d, const char *address, const char *folder, const http_case *c,
                     const char *more, bool slowly) {
    static char text[32768];
    size_t body_len = 0;
    char *body = c->file ? read_whole(d, folder, c->file, &body_len) : NULL;
    snprintf(text, sizeof text, "%s\r\nHost: demo\r\nConnection: close\r\n%s\r\n", c->request,
             more);
    int n = ask(address, text, strlen(text), slowly, scratch, sizeof scratch);
    const char *wrong =
        n < 0 ? netkit_error_text(n)
              : judge(scratch, (size_t)n, c->status, !strncmp(text, "HEAD", 4), body, body_len);
    if (wrong) {
        fail(d, "%.60s: not %d as it must be (%s)", c->request, c->status, wrong);
    }
    d->responses += !wrong;
    free(body);
}

static void check_cases(demo *d, const char *address, const char *folder) {
    static const http_case cases[] = {
        {"GET / HTTP/1.1", 200, "index.html"},
        {"HEAD / HTTP/1.1", 200, "index.html"},
        {"GET /page.html?x=1 HTTP/1.1", 200, "page.html"},
        {"GET /a%20file.txt HTTP/1.1", 200, "a file.txt"},
        {"GET /empty.txt HTTP/1.1", 200, "empty.txt"},
        {"GET /sub/ HTTP/1.1", 200, "sub/index.html"},
        {"GET http://demo/sub/ HTTP/1.1", 200, "sub/index.html"},
        {"GET /sub HTTP/1.1", 301, NULL},
        {"GET /none HTTP/1.1", 404, NULL},
        {"GET /%0d%0aEvil:%20yes HTTP/1.1", 404, NULL},
        {"GET /page.html%00.txt HTTP/1.1", 400, NULL},
        {"GET /%zz HTTP/1.1", 400, NULL},
        {"GET /../secret.txt HTTP/1.1", 403, NULL},
        {"GET /sub/../../secret.txt HTTP/1.1", 403, NULL},
        {"GET /%2e%2e/secret.txt HTTP/1.1", 403, NULL},
        {"GET /..%2fsecret.txt HTTP/1.1", 403, NULL},
        {"GET /escape HTTP/1.1", 403, NULL},
        {"DELETE /page.html HTTP/1.1", 405, NULL},
        {"GET page.html HTTP/1.1", 400, NULL},
        {"GET / HTTP/1.1\r\nHost: two", 400, NULL},
        {"GET / HTTP/1.1\r\n folded", 400, NULL},
        {"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400, NULL},
        {"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400, NULL},
        {"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999", 413, NULL},
        {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked", 501, NULL},
        {"GET / HTTP/2.0", 505, NULL},
        {"nonsense", 400, NULL},
    };
    static const http_case plain = {"GET /page.html HTTP/1.1", 200, "page.html"};
    static const http_case long_head = {"GET / HTTP/1.1", 431, NULL};
    static char filler[16384], target[8192];
    size_t count = sizeof cases / sizeof cases[0];
    say(d, "  HTTP, one case at a time ");
    for (size_t i = 0; i < count; i++) {
        one_case(d, address, folder, &cases[i], "", false);
        say(d, ".");
    }
    one_case(d, address, folder, &plain, "", true); /* a byte at a time */
    memset(filler, 'x', 9000);
    memcpy(filler, "X: ", 3);
    strcpy(filler + 9000, "\r\n");
    one_case(d, address, folder, &long_head, filler, false);
    memset(target, 'x', 3000);
    memcpy(target, "GET /", 5);
    strcpy(target + 3000, " HTTP/1.1");
    http_case long_target = {target, 414, NULL};
    one_case(d, address, folder, &long_target, "", false);
    char number[32];
    snprintf(number, sizeof number, " %zu cases", count + 3);
    say_end(d, number);
}

/* Ask for a file once, judge the response in full, and make it the pattern for
 * all further ones: only the date may differ. */
static char *learn(demo *d, work *job, const char *folder, const char *file, char *request,
                   size_t size) {
    size_t body_len;
    char *body = read_whole(d, folder, file, &body_len);
    size_t max = body_len + 4096;
    char *response = body ? (char *)malloc(max) : NULL;
    if (!response) {
        free(body);
        return NULL;
    }
    snprintf(request, size, "GET /%s HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n", file);
    int n = ask(job->address, request, strlen(request), false, response, max);
    const char *wrong =
        n < 0 ? netkit_error_text(n) : judge(response, (size_t)n, 200, false, body, body_len);
    char *close_line = wrong ? NULL : strstr(response, "Connection: close\r\n");
    free(body);
    if (!close_line) {
        fail(d, "%s: %s", file, wrong ? wrong : "no Connection: close");
        free(response);
        return NULL;
    }
    size_t close_len = strlen("Connection: close\r\n"); /* without it the conn stays */
    memmove(close_line, close_line + close_len,
            (size_t)n - (size_t)(close_line - response) - close_len);
    snprintf(request, size, "GET /%s HTTP/1.1\r\nHost: demo\r\n\r\n", file);
    job->request = request;
    job->request_len = strlen(request);
    job->response = response;
    job->response_len = (size_t)n - close_len;
    job->date_at = (size_t)(strstr(response, "\r\nDate: ") - response) + 8;
    return response;
}

/* ---- the peer that sends and does not read ------------------------------------------ */

typedef struct stuck {
    demo *d;
    netkit_conn conn;
    size_t sent, come, last_sent, held; /* bytes; held: where sending came to rest */
    long rss_kib;                       /* of the server then */
    long pid;
    bool is_reading, is_done;
} stuck;

/* Resident memory of a process in KiB; 0 where there is no /proc. */
static long resident_kib(long pid) {
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, "VmRSS:", 6)) {
            kib = strtol(line + 6, NULL, 10);
        }
    }
    if (file) {
        fclose(file);
    }
    return kib;
}

static void stuck_send(netkit_loop *loop, netkit_conn conn, void *user) {
    stuck *s = (stuck *)user;
    int code = NETKIT_OK;
    while (s->sent < STUCK_LEN && code == NETKIT_OK) {
        code = netkit_conn_send(loop, conn, s->d->block + s->sent % BLOCK_LEN, STUCK_PIECE);
        s->sent += code == NETKIT_OK ? STUCK_PIECE : 0;
    }
    if (s->sent == STUCK_LEN) {
        netkit_conn_shutdown(loop, conn);
    }
}

static void stuck_open(netkit_loop *loop, netkit_conn conn, void *user) {
    ((stuck *)user)->conn = conn;
    netkit_conn_pause(loop, conn);
    stuck_send(loop, conn, user);
}

static size_t stuck_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                         void *user) {
    stuck *s = (stuck *)user;
    if (s->come + len > s->sent || memcmp(s->d->block + s->come % BLOCK_LEN, data, len) != 0) {
        fail(s->d, "what came back to the peer that did not read differs");
        netkit_conn_abort(loop, conn);
    }
    s->come += len;
    return len;
}

static void stuck_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    stuck *s = (stuck *)user;
    s->is_done = s->come == STUCK_LEN;
    netkit_conn_close(loop, conn);
}

static void stuck_tick(netkit_loop *loop, netkit_timer timer, void *user) {
    stuck *s = (stuck *)user;
    (void)timer;
    if (!s->is_reading && s->sent > 0 && s->sent == s->last_sent) {
        s->is_reading = true; /* nothing moves any more: now read */
        s->held = s->sent;
        s->rss_kib = resident_kib(s->pid);
        netkit_conn_resume(loop, s->conn);
    }
    s->last_sent = s->sent;
}

static void run_stuck(demo *d, const char *address, long pid) {
    stuck s;
    netkit_timer tick = {0};
    netkit_connect_desc desc = {0};
    char text[80];
    long before = resident_kib(pid);
    memset(&s, 0, sizeof s);
    s.d = d;
    s.pid = pid;
    desc.address = address;
    desc.user = &s;
    desc.conn.duplex = true;
    desc.conn.deadline_ms = 3 * WAIT_MS;
    desc.handler.on_open = stuck_open;
    desc.handler.on_data = stuck_data;
    desc.handler.on_drain = stuck_send;
    desc.handler.on_eof = stuck_eof;
    say(d, "  echo, a peer that does not read ");
    start_dots(d);
    if (netkit_connect(d->loop, &desc, NULL) == NETKIT_OK &&
        netkit_timer_start(d->loop, &tick, 400000, 400000, stuck_tick, &s) == NETKIT_OK) {
        netkit_timer_set_referenced(d->loop, tick, false);
        netkit_loop_run(d->loop);
    }
    netkit_timer_stop(d->loop, tick);
    netkit_timer_stop(d->loop, d->dots);
    if (!s.is_done) {
        fail(d, "of 64 MiB sent without reading only %zu bytes came back", s.come);
    }
    d->responses++;
    snprintf(text, sizeof text, " 64 MiB back, server +%ld KiB", s.rss_kib - before);
    say_end(d, before ? text : " 64 MiB back");
}

/* ---- memory of idle connections ------------------------------------------------------ */

static void open_idle(demo *d, const work *job, uint32_t count) {
    d->job = job;
    while (d->idle_open < count && d->failures == 0) {
        while (d->idle_asked < count && d->idle_asked - d->idle_open < 64) {
            d->idle_asked++;
            connect_one(d, job);
        }
        netkit_loop_run(d->loop);
    }
}

/* Bytes of the server's memory for each connection, by the slope between a
 * tenth of them and all; each has had one request answered. A loop of its own:
 * destroying it ends them all. */
static long run_idle(demo *d, const char *name, const work *job, long pid, int backend) {
    char text[64];
    long bytes = -1;
    work once = *job;
    netkit_loop *outer = d->loop;
    netkit_loop_desc loop_desc = {0};
    loop_desc.backend = backend;
    once.time_ms = 0;
    once.depth = 1;
    d->idle_open = d->idle_asked = 0;
    d->is_over = false;
    say(d, "  %-36s ", name);
    if (netkit_loop_create(&d->loop, &loop_desc) == NETKIT_OK) {
        start_dots(d);
        open_idle(d, &once, d->idle_max / 10);
        long few = resident_kib(pid);
        open_idle(d, &once, d->idle_max);
        long many = resident_kib(pid);
        if (few > 0 && many >= few && d->idle_open == d->idle_max) {
            bytes = (many - few) * 1024 / (long)(d->idle_max - d->idle_max / 10);
        }
        d->is_over = true;
        netkit_loop_destroy(d->loop);
    }
    d->loop = outer;
    snprintf(text, sizeof text, bytes < 0 ? " not measured" : " %ld bytes each", bytes);
    say_end(d, text);
    return bytes;
}

/* ---- the whole ------------------------------------------------------------------------- */

static void print_table(demo *d, long http_bytes, long echo_bytes) {
    char a[24], b[24], c[24], e[24];
    const char *why = "";
    const char *backend = netkit_loop_backend(d->loop, &why);
    printf("\n  %-30s %12s %8s %8s %8s %8s\n", "", "per second", "p50", "p90", "p99", "max");
    for (int i = 0; i < d->row_count; i++) {
        const row *r = &d->rows[i];
        printf("  %-30s %12s", r->name, r->rate);
        if (r->has_latency) {
            printf(" %8s %8s %8s %8s", duration(a, sizeof a, r->p50), duration(b, sizeof b, r->p90),
                   duration(c, sizeof c, r->p99), duration(e, sizeof e, r->max));
        }
        printf("\n");
    }
    printf("\n");
    if (http_bytes >= 0 && echo_bytes >= 0) {
        printf("  memory per idle connection     echo_server %ld bytes, http_server %ld bytes\n",
               echo_bytes, http_bytes);
        printf("                                 (growth of the process over %s of them)\n",
               grouped(a, sizeof a, d->idle_max - d->idle_max / 10));
    }
    printf("  backend                        %s\n    %.76s\n", backend, why ? why : "");
    printf("  responses compared             %s, %s wrong\n", grouped(a, sizeof a, d->responses),
           grouped(b, sizeof b, d->failures));
}

static bool make_block(demo *d) {
    uint32_t x = 2463534242u; /* xorshift: the same bytes each time */
    d->block = (char *)malloc(2 * (size_t)BLOCK_LEN);
    if (!d->block) {
        return false;
    }
    for (size_t i = 0; i < BLOCK_LEN; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        d->block[i] = (char)(x >> 24);
    }
    memcpy(d->block + BLOCK_LEN, d->block, BLOCK_LEN); /* no message wraps */
    return true;
}

static void run_http(demo *d, work *job, const char *folder) {
    static char request[128], big_request[128];
    work big = *job;
    char *page = learn(d, job, folder, "page.html", request, sizeof request);
    char *film = learn(d, &big, folder, "film.bin", big_request, sizeof big_request);
    if (page && film) {
        job->conns = 50;
        job->depth = 1;
        job->time_ms = 2000;
        run_job(d, "HTTP GET 1 KiB, 50 connections", job);
        add_row(d, "HTTP GET 1 KiB, 50 conns", false);
        job->depth = DEPTH_MAX;
        job->time_ms = 1000;
        run_job(d, "the same, 16 pipelined on each", job);
        add_row(d, "the same, 16 pipelined", false);
        big.conns = 4;
        big.depth = 1;
        big.time_ms = 1000;
        run_job(d, "HTTP GET 16 MiB, 4 connections", &big);
        add_row(d, "HTTP GET 16 MiB, 4 conns", true);
    }
    free(film); /* the page's response stays for the idle connections */
}

static void run_echo(demo *d, work *job) {
    job->is_echo = true;
    job->request_len = job->response_len = 64;
    job->depth = 1;
    job->conns = 1;
    job->time_ms = 1000;
    run_job(d, "echo 64 bytes, 1 connection", job);
    add_row(d, "echo 64 B, 1 conn", false);
    job->conns = 50;
    job->time_ms = 2000;
    run_job(d, "echo 64 bytes, 50 connections", job);
    add_row(d, "echo 64 B, 50 conns", false);
    job->request_len = job->response_len = 16384;
    job->time_ms = 1000;
    run_job(d, "echo 16 KiB, 50 connections", job);
    add_row(d, "echo 16 KiB, 50 conns", true);
    job->request_len = job->response_len = 64;
}

int main(int argc, char **argv) {
    static demo d;
    work http, echo;
    netkit_loop_desc loop_desc = {0};
    if (argc != 8) {
        fprintf(stderr, "demo: started by tools/demo\n");
        return 2;
    }
    memset(&http, 0, sizeof http);
    memset(&echo, 0, sizeof echo);
    http.address = argv[1];
    echo.address = argv[2];
    const char *folder = argv[3];
    long http_pid = strtol(argv[4], NULL, 10), echo_pid = strtol(argv[5], NULL, 10);
    loop_desc.backend = netkit_backend_from_name(argv[6]);
    d.idle_max = (uint32_t)strtoul(argv[7], NULL, 10);
    int code = loop_desc.backend < 0 ? loop_desc.backend : netkit_loop_create(&d.loop, &loop_desc);
    if (code != NETKIT_OK || !make_block(&d)) {
        fprintf(stderr, "demo: %s: %s\n", argv[6], netkit_error_text(code));
        return 1;
    }
    check_cases(&d, http.address, folder);
    run_http(&d, &http, folder);
    run_echo(&d, &echo);
    run_stuck(&d, echo.address, echo_pid);
    long echo_bytes = run_idle(&d, "echo, idle connections", &echo, echo_pid, loop_desc.backend);
    long http_bytes = -1;
    if (http.response) {
        http_bytes = run_idle(&d, "HTTP, idle connections", &http, http_pid, loop_desc.backend);
    }
    print_table(&d, http_bytes, echo_bytes);
    netkit_loop_destroy(d.loop);
    free(d.block);
    return d.failures > 0 ? 1 : 0;
}
