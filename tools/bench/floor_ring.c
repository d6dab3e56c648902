/* The second floor: the least that a sound echo server over io_uring does.
 *
 * One multishot accept, one multishot receive a connection into provided buffers
 * of netkit's own number and size (servers.py reads them from netkit.h), answers
 * sent straight out of these buffers, one submit-and-wait a turn, on a ring with
 * the flags of netkit's (bare_ring.h). Sound means that the duties nobody may skip
 * are done: one send at a time of a connection, so that its bytes stay in order, and
 * all that has come meanwhile gathered into the next one; a descriptor is closed
 * only when nothing of it is in flight, so no completion can reach its successor;
 * a receive that ended is begun again, one that found no buffer when there are
 * some, oldest first; the bytes are counted, so that the end can say whether all
 * that came went back. The bench holds it to at most 0.04 system calls for
 * each message of 64 bytes at 50 connections.
 *
 * With -DTRIED it has options for what netkit's ring leaves out, to be held against
 * the same without (make bench ROW=tried):
 *   --fixed        connections live in the ring's own table of files
 *   --bundle       a receive may fill several buffers for one completion (6.10)
 *   --incremental  few large buffers, each used up piece by piece (6.12)
 *   --large        buffers of that size that are not, to tell the two apart */
#include "server.h"
#include "bare_ring.h"

#include <sys/uio.h>

#ifndef POOL_COUNT
#define POOL_COUNT 256
#endif
#ifndef POOL_SIZE
#define POOL_SIZE 8192
#endif

#ifdef TRIED
#define OPTIONS "--look --fixed --bundle --incremental --large"
#define HAS(option) (server_opt.option)
#else
#define OPTIONS ""
#define HAS(option) false
#endif

enum {
    FD_MAX = 1 << 20,
    FIXED_MAX = 1000,   /* the usual limit on descriptors, 1024, holds for the table, too */
    LARGE_SIZE = 65536, /* of a large buffer; as many as make the same memory */
    PIECES_MAX = 1 << 15,
    SEND_PIECES_MAX = 1024 /* the kernel's limit */
};

#define NO_PIECE UINT16_MAX

typedef struct floor_conn {
    uint64_t received;
    uint64_t sent;
    uint32_t want;    /* bytes of the send in flight, 0 = none */
    int next_dirty;   /* the connection after it that has something to send */
    int next_starved; /* or waits for a buffer */
    uint16_t first;   /* pieces to be sent */
    uint16_t last;
    uint16_t sending; /* and those under way */
    bool dirty;
    bool ended;  /* nothing more is received */
    bool failed; /* nothing more can be sent */
} floor_conn;

static floor_conn conns[FD_MAX];
static int fd_top; /* the highest descriptor there has been */
static int dirty_first = -1;
static int dirty_last = -1;
static int starved_first = -1;
static int starved_last = -1;
static uint64_t received; /* by connections that have ended */
static uint64_t sent_back;
static volatile sig_atomic_t stopping;

static bare_ring ring;
static uint8_t conn_flags;                   /* of all submissions for a connection */
static uint16_t recv_flags = RECV_MULTISHOT; /* and of its receive */

/* The buffers. */
static char memory[POOL_COUNT * POOL_SIZE];
static ring_buffer *pool;
static uint16_t pool_tail;
static uint16_t pool_last;          /* the buffer given last */
static uint16_t behind[POOL_COUNT]; /* and the one given after each */
static uint32_t pool_held;          /* not with the kernel, as far as is known here */

/* What is in them. A piece is a buffer and has its number, unless they are incremental: then a
 * buffer has many, and it is given back when it is used up and all of them are sent. */
static char *at_of[PIECES_MAX];
static uint32_t len_of[PIECES_MAX];
static uint16_t next_of[PIECES_MAX]; /* in a connection's queue, or among the free ones */
static uint16_t buffer_of[PIECES_MAX];
static uint16_t free_piece = NO_PIECE;
static uint32_t used_of[POOL_COUNT]; /* bytes that have come into a buffer */
static uint32_t kept_of[POOL_COUNT]; /* its pieces, and 1 while the kernel has it */

/* What the kernel reads while it takes submissions, not longer. */
static struct iovec vectors[PIECES_MAX];
static struct msghdr messages[PIECES_MAX];
static uint32_t vectors_used;
static uint32_t messages_used;

static void on_term(int sig) {
    (void)sig;
    stopping = 1;
}

/* ---- the ring ---- */

static void enter(uint32_t wait) {
    bare_enter(&ring, wait, ENTER_GETEVENTS);
    if (bare_unsubmitted(&ring) == 0) {
        vectors_used = 0;
        messages_used = 0;
    }
}

static ring_sqe *take(int op, int fd) {
    while (bare_unsubmitted(&ring) > ring.sq_mask) {
        enter(0);
    }
    ring_sqe *sqe = bare_take(&ring, op, fd);
    sqe->user_data = (uint64_t)op << 32 | (uint32_t)fd;
    return sqe;
}

static void open_files(void) {
    ring_files_reg files;
    memset(&files, 0, sizeof files);
    files.count = FIXED_MAX;
    files.flags = FILES_SPARSE;
    if (bare_register(&ring, REGISTER_FILES2, &files, sizeof files) != 0) {
        server_die("registering a table of files");
    }
    conn_flags = SQE_FIXED_FILE;
}

static void open_bundles(void) {
    if ((ring.features & FEAT_BUNDLE) == 0) {
        errno = EOPNOTSUPP;
        server_die("needs Linux 6.10: receive bundles");
    }
    recv_flags |= RECV_BUNDLE;
}

/* ---- buffers ---- */

static uint32_t pool_size(void) {
    return HAS(incremental) || HAS(large) ? LARGE_SIZE : POOL_SIZE;
}

static uint32_t pool_count(void) {
    return (uint32_t)sizeof memory / pool_size();
}

static char *at(uint16_t piece) {
    return HAS(incremental) ? at_of[piece] : memory + piece * pool_size();
}

static void give(uint16_t id) {
    ring_buffer *place = &pool[pool_tail++ & (pool_count() - 1)];
    place->addr = (uint64_t)(uintptr_t)(memory + id * pool_size());
    place->len = pool_size();
    place->id = id;
    if (HAS(bundle)) {
        behind[pool_last] = id;
        pool_last = id;
    }
    pool_held--;
}

/* Incremental: what has come is the next piece of its buffer. The completions of a buffer are in
 * the order of its bytes as long as the completion queue is not full. */
static uint16_t cut(uint16_t id, uint32_t len, bool is_used_up) {
    uint16_t piece = free_piece;
    if (piece == NO_PIECE) {
        errno = ENOBUFS;
        server_die("pieces");
    }
    free_piece = next_of[piece];
    at_of[piece] = memory + id * pool_size() + used_of[id];
    buffer_of[piece] = id;
    used_of[id] += len;
    kept_of[id] += is_used_up ? 0 : 1;
    pool_held += is_used_up ? 1 : 0;
    return piece;
}

static void put_back(uint16_t piece) {
    if (!HAS(incremental)) {
        give(piece);
        return;
    }
    uint16_t id = buffer_of[piece];
    next_of[piece] = free_piece;
    free_piece = piece;
    if (--kept_of[id] == 0) {
        used_of[id] = 0;
        kept_of[id] = 1;
        give(id);
    }
}

static void put_all_back(uint16_t piece) {
    while (piece != NO_PIECE) {
        uint16_t next = next_of[piece];
        put_back(piece);
        piece = next;
    }
}

static void publish(void) {
    __atomic_store_n(&pool[0].tail, pool_tail, __ATOMIC_RELEASE);
}

static void open_buffers(void) {
    ring_buffers_reg buffers;
    memset(&buffers, 0, sizeof buffers);
    pool = (ring_buffer *)bare_map(-1, pool_count() * sizeof *pool, 0);
    buffers.addr = (uint64_t)(uintptr_t)pool;
    buffers.entries = pool_count();
    buffers.flags = HAS(incremental) ? BUFFERS_INCREMENTAL : 0;
    if (bare_register(&ring, REGISTER_BUFFERS, &buffers, 1) != 0) {
        server_die(HAS(incremental) ? "needs Linux 6.12: incremental buffers"
                                    : "registering buffers");
    }
    pool_held = pool_count();
    for (uint16_t i = 0; i < pool_count(); i++) {
        kept_of[i] = 1;
        give(i);
    }
    for (uint16_t i = 0; HAS(incremental) && i < PIECES_MAX; i++) {
        next_of[i] = free_piece;
        free_piece = i;
    }
    publish();
}

/* ---- operations ---- */

static void begin_accept(int listener) {
    ring_sqe *sqe = take(OP_ACCEPT, listener);
    sqe->ioprio = ACCEPT_MULTISHOT;
    sqe->op_flags = HAS(fixed) ? 0 : SOCK_CLOEXEC;
    sqe->file_index = HAS(fixed) ? FILE_INDEX_ALLOC : 0;
}

static void begin_recv(int fd) {
    ring_sqe *sqe = take(OP_RECV, fd);
    sqe->flags = (uint8_t)(conn_flags | SQE_BUFFER_SELECT);
    sqe->ioprio = recv_flags;
}

/* Everything that has come so far in one send. MSG_WAITALL: the kernel goes on
 * after a short one by itself. */
static void begin_send(int fd) {
    floor_conn *c = &conns[fd];
    uint16_t piece = c->first;
    bool one = next_of[piece] == NO_PIECE;
    ring_sqe *sqe = take(one ? OP_SEND : OP_SENDMSG, fd);
    sqe->flags = conn_flags;
    sqe->op_flags = MSG_NOSIGNAL | MSG_WAITALL;
    c->sending = piece;
    c->first = NO_PIECE;
    c->want = len_of[piece];
    if (one) {
        sqe->addr = (uint64_t)(uintptr_t)at(piece);
        sqe->len = c->want;
        return;
    }
    struct msghdr *message = &messages[messages_used++];
    memset(message, 0, sizeof *message);
    message->msg_iov = &vectors[vectors_used];
    for (c->want = 0; piece != NO_PIECE; piece = next_of[piece]) {
        vectors[vectors_used].iov_base = at(piece);
        vectors[vectors_used++].iov_len = len_of[piece];
        c->want += len_of[piece];
        if (++message->msg_iovlen == SEND_PIECES_MAX) {
            c->first = next_of[piece];
            next_of[piece] = NO_PIECE;
        }
    }
    sqe->addr = (uint64_t)(uintptr_t)message;
    sqe->len = 1;
}

static void mark(int fd) {
    floor_conn *c = &conns[fd];
    if (!c->dirty && c->want == 0) {
        c->dirty = true;
        c->next_dirty = -1;
        if (dirty_first < 0) {
            dirty_first = fd;
        } else {
            conns[dirty_last].next_dirty = fd;
        }
        dirty_last = fd;
    }
}

static void answer(void) {
    while (dirty_first >= 0) {
        int fd = dirty_first;
        dirty_first = conns[fd].next_dirty;
        conns[fd].dirty = false;
        begin_send(fd);
    }
}

/* Nothing of it is in flight. */
static void drop(int fd) {
    floor_conn *c = &conns[fd];
    received += c->received;
    sent_back += c->sent;
    memset(c, 0, sizeof *c);
    ring_sqe *sqe = take(OP_CLOSE, HAS(fixed) ? 0 : fd);
    sqe->flags = SQE_SKIP_SUCCESS;
    sqe->file_index = HAS(fixed) ? (uint32_t)fd + 1 : 0;
}

static void starve(int fd) {
    conns[fd].next_starved = -1;
    if (starved_first < 0) {
        starved_first = fd;
    } else {
        conns[starved_last].next_starved = fd;
    }
    starved_last = fd;
}

/* As many as are likely to find buffers: a receive that finds none is for nothing. */
static void feed(void) {
    uint32_t count = ((pool_count() - pool_held) * (pool_size() / POOL_SIZE) + 7) / 8;
    for (; starved_first >= 0 && count > 0; count--) {
        int fd = starved_first;
        starved_first = conns[fd].next_starved;
        begin_recv(fd);
    }
}

/* ---- completions ---- */

static void on_accepted(int listener, const ring_cqe *cqe) {
    int fd = cqe->res;
    if (fd >= FD_MAX) {
        close(fd);
    } else if (fd >= 0) {
        fd_top = fd > fd_top ? fd : fd_top;
        conns[fd].first = NO_PIECE;
        begin_recv(fd);
    } else if (fd != -EAGAIN && fd != -EINTR && fd != -ECONNABORTED) {
        errno = -fd;
        server_die("accept");
    }
    if ((cqe->flags & CQE_MORE) == 0) {
        begin_accept(listener);
    }
}

static void on_bytes(int fd, uint16_t piece, uint32_t len) {
    floor_conn *c = &conns[fd];
    c->received += len;
    if (len == 0 || c->failed || server_opt.sink) {
        if (HAS(look)) {
            server_look(at(piece), len);
        }
        put_back(piece);
        return;
    }
    len_of[piece] = len;
    next_of[piece] = NO_PIECE;
    if (c->first == NO_PIECE) {
        c->first = piece;
    } else {
        next_of[c->last] = piece;
    }
    c->last = piece;
    mark(fd);
}

/* Of a bundle the completion names the first buffer. All but the last are full, and they are
 * in the order in which they were given. */
static void on_buffers(int fd, uint16_t id, uint32_t len) {
    pool_held++;
    while (HAS(bundle) && len > pool_size()) {
        uint16_t next = behind[id];
        on_bytes(fd, id, pool_size());
        id = next;
        len -= pool_size();
        pool_held++;
    }
    on_bytes(fd, id, len);
}

/* A completion with nothing in it leaves the buffer with the kernel, whatever it says. */
static void on_part(int fd, uint16_t id, const ring_cqe *cqe) {
    if (cqe->res > 0) {
        uint32_t len = (uint32_t)cqe->res;
        on_bytes(fd, cut(id, len, (cqe->flags & CQE_BUF_MORE) == 0), len);
    }
}

static void on_received(int fd, const ring_cqe *cqe) {
    floor_conn *c = &conns[fd];
    if (cqe->flags & CQE_BUFFER) {
        uint16_t id = (uint16_t)(cqe->flags >> 16);
        if (HAS(incremental)) {
            on_part(fd, id, cqe);
        } else {
            on_buffers(fd, id, cqe->res > 0 ? (uint32_t)cqe->res : 0);
        }
    }
    if (cqe->flags & CQE_MORE) {
        return;
    }
    if (cqe->res == -ENOBUFS) {
        starve(fd);
    } else if (cqe->res > 0 || cqe->res == -EINTR) {
        begin_recv(fd);
    } else {
        c->ended = true;
        if (c->want == 0 && c->first == NO_PIECE) {
            drop(fd);
        }
    }
}

static void on_sent(int fd, int res) {
    floor_conn *c = &conns[fd];
    put_all_back(c->sending);
    c->sent += res > 0 ? (uint32_t)res : 0;
    if (res != (int)c->want) { /* the receive will end, too */
        c->failed = true;
        put_all_back(c->first);
        c->first = NO_PIECE;
    }
    c->want = 0;
    if (c->first != NO_PIECE) {
        mark(fd);
    } else if (c->ended) {
        drop(fd);
    }
}

static void on_completed(const ring_cqe *cqe) {
    int fd = (int)(uint32_t)cqe->user_data;
    switch ((int)(cqe->user_data >> 32)) {
    case OP_RECV: on_received(fd, cqe); break;
    case OP_SEND:
    case OP_SENDMSG: on_sent(fd, cqe->res); break;
    case OP_ACCEPT: on_accepted(fd, cqe); break;
    default: break;
    }
}

static void run(int listener) {
    begin_accept(listener);
    while (!stopping) {
        publish();
        enter(1);
        uint32_t head = *ring.cq_head;
        uint32_t tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            on_completed(&ring.cqes[head & ring.cq_mask]);
        }
        __atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
        answer();
        feed();
    }
}

int main(int argc, char **argv) {
    struct sigaction action;
    server_parse(argc, argv, OPTIONS);
    server_opt.backend = "uring";
    if (HAS(bundle) && HAS(incremental)) { /* out of order in some kernels */
        fputs("server: --bundle or --incremental\n", stderr);
        return 2;
    }
    memset(&action, 0, sizeof action);
    action.sa_handler = on_term; /* the wait ends */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    bare_open(&ring);
    if (HAS(fixed)) {
        open_files();
    }
    if (HAS(bundle)) {
        open_bundles();
    }
    open_buffers();
    int listener = server_socket();
    server_announce(listener);
    run(listener);
    for (int fd = 0; fd <= fd_top; fd++) {
        received += conns[fd].received;
        sent_back += conns[fd].sent;
    }
    printf("bytes received=%llu sent=%llu\n", (unsigned long long)received,
           (unsigned long long)sent_back);
    return 0;
}
