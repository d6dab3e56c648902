/* What the loop tests share: a recorder of what a conn was told, peers on raw sockets of the
 * system that the same thread drives between turns, and waiting for a condition.
 *
 * A stream's byte at position i is sup_byte(i), so that each side can check what it gets, in
 * place and order, without keeping it. */
#ifndef NKT_LOOP_SUPPORT_H
#define NKT_LOOP_SUPPORT_H

/* ---- the bytes of a stream ------------------------------------------------- */

#define SUP_STEP 0x9E3779B97F4A7C15u

static inline unsigned char sup_byte(uint64_t at) {
    return (unsigned char)((at * SUP_STEP) >> 56);
}

/* By adding, as tests make and check hundreds of megabytes without an optimiser. */
static inline void sup_fill(void *data, size_t len, uint64_t at) {
    unsigned char *bytes = (unsigned char *)data;
    uint64_t x = at * SUP_STEP;
    for (size_t i = 0; i < len; i++, x += SUP_STEP) {
        bytes[i] = (unsigned char)(x >> 56);
    }
}

static inline void sup_check_bytes(const void *data, size_t len, uint64_t at) {
    const unsigned char *bytes = (const unsigned char *)data;
    uint64_t x = at * SUP_STEP;
    size_t i = 0;
    while (i < len && bytes[i] == (unsigned char)(x >> 56)) {
        i++;
        x += SUP_STEP;
    }
    if (i < len) {
        printf("byte %" PRIu64 " of the stream is wrong\n", at + i);
    }
    CHECK_EQ(i, len);
}

/* ---- waiting ----------------------------------------------------------------- */

static inline bool sup_is_late(uint64_t began, const char *file, int line, const char *what) {
    if (nkt_now_ns() - began > (uint64_t)nkt_slowness * (nkt_long ? 100u : 8u) * 1000000000u) {
        nkt_print_at(file, line, "never came true: %s", what);
        nkt_stop(NKT_FAILED, what);
    }
    return false;
}

/* Turn until it holds; the statement after it runs before each turn. */
#define SUP_UNTIL_DOING(loop, cond)         \
    for (uint64_t sup_began = nkt_now_ns(); \
         !(cond) && !sup_is_late(sup_began, __FILE__, __LINE__, #cond); sup_turn(loop))

#define SUP_UNTIL(loop, cond)      \
    SUP_UNTIL_DOING(loop, cond) {} \
    NKT_COUNT_CHECK()

static inline void sup_turn(netkit_loop *loop) {
    CHECK_OK(netkit_loop_run_once(loop, 2));
}

/* Turn for so long, and a few times however the machine stands still meanwhile. */
static inline void sup_turn_for_ms(netkit_loop *loop, unsigned ms) {
    uint64_t due = nkt_now_ns() + (uint64_t)ms * 1000000u;
    for (int turns = 0; turns < 4 || nkt_now_ns() < due; turns++) {
        CHECK_OK(netkit_loop_run_once(loop, 5));
    }
}

/* Turn until a few turns had nothing to do. */
static inline void sup_settle(netkit_loop *loop) {
    sup_turn_for_ms(loop, 20);
}

/* ---- the recorder ------------------------------------------------------------- */

/* What one conn was told, and how it answers. It is the conn's user pointer. */
typedef struct sup_end {
    netkit_loop *loop;
    netkit_conn conn;
    int opens, datas, drains, eofs, closes;
    uint64_t bytes;      /* used of the stream */
    size_t last_len;     /* of the span on_data was called with last */
    size_t used_at_most; /* of one span; SIZE_MAX = all */
    bool is_echo;        /* send back what is used */
    bool is_text;        /* the bytes are not those of sup_byte */
    bool closes_at_eof;
    int echo_code; /* the first error of an echo's send */
    netkit_close_info info;
    char trace[512]; /* one letter per event: o d r e c, data only once in a row */
} sup_end;

static inline void sup_trace(sup_end *end, char letter) {
    size_t len = strlen(end->trace);
    if (letter == 'd' && len > 0 && end->trace[len - 1] == 'd') {
        return;
    }
    if (len + 1 < sizeof(end->trace)) {
        end->trace[len] = letter;
        end->trace[len + 1] = '\0';
    }
}

static inline void sup_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_end *end = (sup_end *)user;
    CHECK_EQ(end->opens + end->datas + end->eofs + end->closes, 0);
    end->loop = loop;
    end->conn = conn;
    end->opens++;
    sup_trace(end, 'o');
}

static inline size_t sup_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    sup_end *end = (sup_end *)user;
    size_t used = len < end->used_at_most ? len : end->used_at_most;
    CHECK(len > 0);
    CHECK_EQ(end->opens, 1);
    CHECK_EQ(end->eofs + end->closes, 0);
    if (!end->is_text) {
        sup_check_bytes(data, len, end->bytes);
    }
    end->datas++;
    end->bytes += used;
    end->last_len = len;
    sup_trace(end, 'd');
    if (end->is_echo) {
        int code = netkit_conn_send(loop, conn, data, used);
        end->echo_code = end->echo_code == NETKIT_OK ? code : end->echo_code;
    }
    return used;
}

static inline void sup_on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_end *end = (sup_end *)user;
    (void)loop;
    (void)conn;
    CHECK_EQ(end->closes, 0);
    end->drains++;
    sup_trace(end, 'r');
}

static inline void sup_on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_end *end = (sup_end *)user;
    CHECK_EQ(end->opens, 1);
    CHECK_EQ(end->eofs + end->closes, 0);
    end->eofs++;
    sup_trace(end, 'e');
    if (end->closes_at_eof) {
        CHECK_OK(netkit_conn_close(loop, conn));
    }
}

static inline void sup_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                                void *user) {
    sup_end *end = (sup_end *)user;
    char text[256];
    (void)loop;
    CHECK(end->conn.id == 0 || end->conn.id == conn.id);
    CHECK_EQ(end->closes, 0);
    CHECK(info->text != NULL && info->text[0] != '\0');
    CHECK(netkit_close_describe(info, text, sizeof(text)) > 0);
    end->conn = conn;
    end->info = *info;
    end->closes++;
    sup_trace(end, 'c');
}

static inline netkit_handler sup_handler(void) {
    netkit_handler h;
    h.on_open = sup_on_open;
    h.on_data = sup_on_data;
    h.on_drain = sup_on_drain;
    h.on_eof = sup_on_eof;
    h.on_close = sup_on_close;
    return h;
}

static inline void sup_end_init(sup_end *end) {
    memset(end, 0, sizeof(*end));
    end->used_at_most = SIZE_MAX;
}

static inline size_t sup_queued(const sup_end *end) {
    size_t out = 0;
    CHECK_OK(netkit_conn_queued(end->loop, end->conn, &out));
    return out;
}

static inline size_t sup_unread(const sup_end *end) {
    size_t out = 0;
    CHECK_OK(netkit_conn_unread(end->loop, end->conn, &out));
    return out;
}

/* ---- raw sockets ---------------------------------------------------------------- */

static inline void sup_nonblocking(int fd) {
    CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

static inline struct sockaddr_in sup_loopback(uint16_t port) {
    struct sockaddr_in in;
    memset(&in, 0, sizeof(in));
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in.sin_port = htons(port);
    return in;
}

/* A raw listener on 127.0.0.1, blocking. */
static inline int sup_raw_listen(uint16_t *port, int backlog) {
    struct sockaddr_in in = sup_loopback(0);
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    CHECK_EQ(listen(fd, backlog), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    *port = ntohs(in.sin_port);
    return fd;
}

/* A raw connection to 127.0.0.1, non-blocking from then on; with a small buffer on request. */
static inline int sup_raw_dial(uint16_t port, int rcvbuf) {
    struct sockaddr_in in = sup_loopback(port);
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    if (rcvbuf != 0) {
        CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf)), 0);
    }
    CHECK_EQ(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
    sup_nonblocking(fd);
    return fd;
}

static inline void sup_raw_reset(int fd) {
    struct linger linger;
    linger.l_onoff = 1;
    linger.l_linger = 0;
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    CHECK_EQ(close(fd), 0);
}

/* Wait for something on a raw socket, at most 5 s. */
static inline bool sup_raw_wait(int fd, short events) {
    struct pollfd p;
    p.fd = fd;
    p.events = events;
    p.revents = 0;
    return poll(&p, 1, 5000 * (int)nkt_slowness) == 1;
}

/* The far side of a conn: a raw non-blocking socket that sends and checks the stream. */
enum {
    SUP_EOF = -1 /* beside 0 = open, and errno */
};

typedef struct sup_peer {
    int fd;
    uint64_t sent, to_send;
    uint64_t received;
    int end;      /* of what it receives: 0, SUP_EOF or an errno */
    bool is_idle; /* the last step moved nothing */
} sup_peer;

static inline sup_peer sup_peer_of(int fd) {
    sup_peer peer;
    memset(&peer, 0, sizeof(peer));
    peer.fd = fd;
    return peer;
}

static inline void sup_peer_send(sup_peer *peer) {
    static unsigned char data[65536];
    while (peer->sent < peer->to_send) {
        uint64_t left = peer->to_send - peer->sent;
        size_t len = left < sizeof(data) ? (size_t)left : sizeof(data);
        ssize_t put;
        sup_fill(data, len, peer->sent);
        put = send(peer->fd, data, len, MSG_NOSIGNAL);
        if (put <= 0) {
            return;
        }
        peer->sent += (uint64_t)put;
        peer->is_idle = false;
    }
}

static inline void sup_peer_recv(sup_peer *peer) {
    static unsigned char data[65536];
    while (peer->end == 0) {
        ssize_t got = recv(peer->fd, data, sizeof(data), 0);
        if (got < 0 && errno == EAGAIN) {
            return;
        }
        peer->is_idle = false;
        if (got <= 0) {
            peer->end = got == 0 ? SUP_EOF : errno;
            return;
        }
        sup_check_bytes(data, (size_t)got, peer->received);
        peer->received += (uint64_t)got;
    }
}

static inline void sup_peer_step(sup_peer *peer) {
    peer->is_idle = true;
    sup_peer_send(peer);
    sup_peer_recv(peer);
}

/* Send until all is sent, or the far side has taken nothing for a while. */
static inline void sup_send_until_stuck(netkit_loop *loop, sup_peer *peer) {
    uint64_t last = nkt_now_ns();
    while (peer->sent < peer->to_send && nkt_now_ns() - last < nkt_slowness * 100000000u) {
        uint64_t before = peer->sent;
        sup_peer_send(peer);
        last = peer->sent > before ? nkt_now_ns() : last;
        sup_turn(loop);
    }
}

static inline void sup_peer_close(sup_peer *peer) {
    CHECK_EQ(close(peer->fd), 0);
    peer->fd = -1;
}

/* Send a text whole; it is short. */
static inline void sup_say(int fd, const char *text) {
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* ---- conns for a test ----------------------------------------------------------- */

static inline uint16_t sup_port(netkit_loop *loop, netkit_listener listener) {
    netkit_addr addr;
    CHECK_OK(netkit_listener_local(loop, listener, &addr));
    CHECK(addr.port != 0);
    return addr.port;
}

static inline netkit_listen_desc sup_listen_desc(const netkit_handler *handler, void *user) {
    netkit_listen_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.address = "127.0.0.1:0";
    desc.handler = *handler;
    desc.user = user;
    return desc;
}

/* Listen on 127.0.0.1; returns the port. */
static inline uint16_t sup_listen(netkit_loop *loop, const netkit_listen_desc *desc,
                                  netkit_listener *out) {
    netkit_listener listener;
    CHECK_OK(netkit_listen(loop, desc, &listener));
    if (out != NULL) {
        *out = listener;
    }
    return sup_port(loop, listener);
}

typedef struct sup_setup {
    netkit_handler handler;
    netkit_conn_options options;
    int rcvbuf; /* of the peer, 0 = the system's */
} sup_setup;

static inline sup_setup sup_setup_default(void) {
    sup_setup setup;
    memset(&setup, 0, sizeof(setup));
    setup.handler = sup_handler();
    return setup;
}

/* An accepted conn with a raw peer; its listener is closed again. */
static inline sup_peer sup_open(netkit_loop *loop, sup_end *end, const sup_setup *setup) {
    netkit_listen_desc desc = sup_listen_desc(&setup->handler, end);
    netkit_listener listener;
    netkit_addr addr;
    sup_peer peer;
    desc.conn = setup->options;
    peer = sup_peer_of(sup_raw_dial(sup_listen(loop, &desc, &listener), setup->rcvbuf));
    SUP_UNTIL(loop, end->opens == 1);
    CHECK_OK(netkit_listener_close(loop, listener));
    SUP_UNTIL(loop, netkit_listener_local(loop, listener, &addr) == NETKIT_E_STALE);
    return peer;
}

/* The same with defaults, whatever the conn's user. */
static inline sup_peer sup_open_default(netkit_loop *loop, sup_end *end) {
    sup_setup setup = sup_setup_default();
    sup_end_init(end);
    return sup_open(loop, end, &setup);
}

static inline netkit_connect_desc sup_connect_desc(const char *address, sup_end *end) {
    netkit_connect_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.address = address;
    desc.handler = sup_handler();
    desc.user = end;
    return desc;
}

/* A client conn to 127.0.0.1 that a recorder watches. */
static inline void sup_connect(netkit_loop *loop, sup_end *end, uint16_t port,
                               const netkit_conn_options *options) {
    char address[32];
    netkit_connect_desc desc;
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    desc = sup_connect_desc(address, end);
    if (options != NULL) {
        desc.conn = *options;
    }
    end->loop = loop;
    CHECK_OK(netkit_connect(loop, &desc, &end->conn));
}

#endif /* NKT_LOOP_SUPPORT_H */
