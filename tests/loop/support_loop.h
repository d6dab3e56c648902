/* What the tests of the loop itself share: conns over socket pairs whose far end is a raw
 * blocking descriptor of the test's, a clock that the test turns, and a logger that keeps. */
#ifndef NKT_SUPPORT_LOOP_H
#define NKT_SUPPORT_LOOP_H

/* ---- waiting ----------------------------------------------------------------- */

static inline uint64_t tl_deadline(void) {
    return nkt_now_ns() + (uint64_t)nkt_slowness * (nkt_long ? 100u : 8u) * 1000000000u;
}

/* Turn until it holds; fails when that takes too long. */
#define TL_UNTIL(loop, cond)                                           \
    do {                                                               \
        uint64_t tl_end = tl_deadline();                               \
        while (!(cond)) {                                              \
            if (nkt_now_ns() > tl_end) {                               \
                nkt_fail_check(__FILE__, __LINE__, "in time: " #cond); \
            }                                                          \
            CHECK_OK(netkit_loop_run_once((loop), 5));                 \
        }                                                              \
        NKT_COUNT_CHECK();                                             \
    } while (0)

/* What several threads look at. */
#define TL_GET(at) __atomic_load_n((at), __ATOMIC_SEQ_CST)
#define TL_SET(at, value) __atomic_store_n((at), (value), __ATOMIC_SEQ_CST)
#define TL_ADD(at, value) __atomic_add_fetch((at), (value), __ATOMIC_SEQ_CST)

/* Turn until nothing has happened for a few turns. */
static inline void tl_settle(netkit_loop *loop) {
    for (int quiet = 0; quiet < 3;) {
        uint64_t began = nkt_now_ns();
        CHECK_OK(netkit_loop_run_once(loop, 3));
        quiet = nkt_now_ns() - began > 2000000 ? quiet + 1 : 0;
        CHECK_OK(netkit_loop_poll(loop, -1));
    }
}

/* ---- a conn and what it was told ----------------------------------------------- */

typedef struct tl_conn {
    netkit_conn handle;
    int peer; /* the far end, or -1 */
    int opens, datas, drains, eofs, closes;
    uint64_t bytes;
    uint64_t closed_as; /* its place among all closes */
    netkit_close_info info;
    bool is_echo;
    bool closes_at_eof;
    int in_call; /* the test is inside a call of its own */
} tl_conn;

static uint64_t tl_close_count;

static inline void tl_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    tl_conn *c = (tl_conn *)user;
    (void)loop;
    CHECK(c->opens == 0 && c->closes == 0 && c->in_call == 0);
    c->handle = conn;
    c->opens++;
}

static inline size_t tl_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                void *user) {
    tl_conn *c = (tl_conn *)user;
    CHECK(len > 0 && c->eofs == 0 && c->closes == 0 && c->in_call == 0);
    CHECK(c->handle.id == conn.id);
    c->datas++;
    c->bytes += len;
    if (c->is_echo) {
        CHECK_OK(netkit_conn_send(loop, conn, data, len));
    }
    return len;
}

static inline void tl_on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    tl_conn *c = (tl_conn *)user;
    (void)loop;
    CHECK(c->closes == 0 && c->handle.id == conn.id);
    c->drains++;
}

static inline void tl_on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    tl_conn *c = (tl_conn *)user;
    CHECK(c->eofs == 0 && c->closes == 0 && c->handle.id == conn.id);
    c->eofs++;
    if (c->closes_at_eof) {
        CHECK_OK(netkit_conn_close(loop, conn));
    }
}

static inline void tl_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                               void *user) {
    tl_conn *c = (tl_conn *)user;
    (void)loop;
    CHECK(c->closes == 0 && c->in_call == 0);
    CHECK(c->handle.id == 0 || c->handle.id == conn.id);
    CHECK(info != NULL && info->text != NULL);
    c->closes++;
    c->info = *info;
    c->closed_as = TL_ADD(&tl_close_count, 1);
}

static inline netkit_handler tl_handler(void) {
    netkit_handler h = {tl_on_open, tl_on_data, tl_on_drain, tl_on_eof, tl_on_close};
    return h;
}

/* Adopt one end of a fresh socket pair; the other one is `peer`. */
static inline void tl_adopt_as(netkit_loop *loop, tl_conn *c, const netkit_handler *handler,
                               const netkit_conn_options *options) {
    netkit_adopt_desc desc;
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    memset(&desc, 0, sizeof(desc));
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    desc.handler = *handler;
    desc.user = c;
    if (options != NULL) {
        desc.conn = *options;
    }
    c->peer = fds[1];
    c->in_call++;
    CHECK_OK(netkit_adopt(loop, &desc, &c->handle));
    c->in_call--;
    CHECK(c->handle.id != 0);
}

static inline void tl_adopt(netkit_loop *loop, tl_conn *c) {
    netkit_handler handler = tl_handler();
    tl_adopt_as(loop, c, &handler, NULL);
}

static inline void tl_open(netkit_loop *loop, tl_conn *c) {
    tl_adopt(loop, c);
    TL_UNTIL(loop, c->opens == 1);
}

static inline void tl_hang_up(tl_conn *c) {
    if (c->peer >= 0) {
        CHECK_EQ(close(c->peer), 0);
    }
    c->peer = -1;
}

/* End a conn at once and wait for its close. */
static inline void tl_drop(netkit_loop *loop, tl_conn *c) {
    if (c->closes == 0) {
        CHECK_OK(netkit_conn_abort(loop, c->handle));
        TL_UNTIL(loop, c->closes == 1);
    }
    tl_hang_up(c);
}

static inline void tl_say(int fd, const char *text) {
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What can be read now, as a string. */
static inline const char *tl_hear(int fd, char *text, size_t size) {
    ssize_t got = recv(fd, text, size - 1, MSG_DONTWAIT);
    text[got > 0 ? got : 0] = '\0';
    return text;
}

static inline int tl_native(netkit_loop *loop, netkit_conn conn) {
    uintptr_t native = 0;
    CHECK_OK(netkit_conn_native(loop, conn, &native));
    return (int)native;
}

/* ---- TCP ------------------------------------------------------------------------ */

/* Listen on 127.0.0.1 with a free port; returns the port. */
static inline uint16_t tl_listen(netkit_loop *loop, netkit_listen_desc *desc,
                                 netkit_listener *out) {
    netkit_addr addr;
    desc->address = "127.0.0.1:0";
    CHECK_OK(netkit_listen(loop, desc, out));
    CHECK_OK(netkit_listener_local(loop, *out, &addr));
    CHECK(addr.port != 0);
    return addr.port;
}

static inline int tl_dial(uint16_t port) {
    struct sockaddr_in in;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    memset(&in, 0, sizeof(in));
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in.sin_port = htons(port);
    CHECK_EQ(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
    return fd;
}

/* ---- a clock that the test turns ------------------------------------------------- */

typedef struct tl_clock {
    uint64_t now;
} tl_clock;

static inline uint64_t tl_clock_now(void *user) {
    return ((tl_clock *)user)->now;
}

static inline netkit_loop *tl_loop_on(tl_clock *clock, uint64_t now, netkit_loop_desc *desc) {
    netkit_loop_desc plain;
    memset(&plain, 0, sizeof(plain));
    desc = desc == NULL ? &plain : desc;
    clock->now = now;
    desc->clock.user = clock;
    desc->clock.now_ns = tl_clock_now;
    return nkt_loop_with(desc);
}

/* Let so much time pass and do all that is then due. */
static inline void tl_pass(netkit_loop *loop, tl_clock *clock, uint64_t ns) {
    clock->now += ns;
    CHECK_OK(netkit_loop_poll(loop, -1));
}

/* ---- a log that is kept ------------------------------------------------------------ */

enum {
    TL_LOG_IDS = NETKIT_LOGID_LAST_ + 1
};

typedef struct tl_log {
    unsigned lines[TL_LOG_IDS];
    int level[TL_LOG_IDS];
    int os_code[TL_LOG_IDS];
    char text[TL_LOG_IDS][256]; /* the last line of each id */
    int spoils_errno;           /* what it leaves in errno, 0 = nothing */
} tl_log;

static inline void tl_log_line(int level, int id, const char *text, int os_code, void *user) {
    tl_log *log = (tl_log *)user;
    CHECK(id > 0 && id < TL_LOG_IDS);
    CHECK(level >= NETKIT_LOG_ERROR && level <= NETKIT_LOG_DEBUG);
    CHECK(text != NULL && text[0] != '\0');
    log->level[id] = level;
    log->os_code[id] = os_code;
    snprintf(log->text[id], sizeof(log->text[id]), "%s", text);
    TL_ADD(&log->lines[id], 1);
    if (log->spoils_errno != 0) {
        errno = log->spoils_errno;
    }
}

static inline netkit_logger tl_logger(tl_log *log) {
    netkit_logger logger = {log, tl_log_line};
    return logger;
}

#endif /* NKT_SUPPORT_LOOP_H */
