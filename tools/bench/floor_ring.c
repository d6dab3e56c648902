/* The second floor: the least that a sound echo server over io_uring does.
 *
 * One multishot accept, one multishot receive a connection into provided buffers
 * of netkit's own number and size (servers.py reads them from netkit.h), answers
 * sent straight out of these buffers, one submit-and-wait a turn, on a ring with
 * the flags of netkit's: SINGLE_ISSUER, DEFER_TASKRUN, SUBMIT_ALL, NO_SQARRAY,
 * its descriptor registered. Sound means that the duties nobody may skip are
 * done: one send at a time of a connection, so that its bytes stay in order, and
 * all that has come meanwhile gathered into the next one; a descriptor is closed
 * only when nothing of it is in flight, so no completion can reach its successor;
 * a receive that ended is begun again, one that found no buffer when there are
 * some, oldest first; the bytes are counted, so that the end can say whether all
 * that came went back. The bench holds it to at most 0.04 system calls for each
 * message of 64 bytes at 50 connections.
 *
 * The kernel's interface stands here in numbers of its own, since the headers of
 * old systems know only half of it. Needs Linux 6.1. */
#include "server.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef POOL_COUNT
#define POOL_COUNT 256
#endif
#ifndef POOL_SIZE
#define POOL_SIZE 8192
#endif

enum {
    FD_MAX = 1 << 20,
    SQ_ENTRIES = 256,
    CQ_ENTRIES = 4096,
    NR_SETUP = 425,
    NR_ENTER = 426,
    NR_REGISTER = 427,
    /* operations */
    OP_SENDMSG = 9,
    OP_ACCEPT = 13,
    OP_CLOSE = 19,
    OP_SEND = 26,
    OP_RECV = 27,
    /* of a submission */
    SQE_BUFFER_SELECT = 1 << 5,
    SQE_SKIP_SUCCESS = 1 << 6,
    ACCEPT_MULTISHOT = 1 << 0,
    RECV_MULTISHOT = 1 << 1,
    /* of a completion */
    CQE_BUFFER = 1 << 0,
    CQE_MORE = 1 << 1,
    /* of enter and register */
    ENTER_GETEVENTS = 1 << 0,
    ENTER_REGISTERED = 1 << 4,
    REGISTER_RING = 20,
    REGISTER_BUFFERS = 22
};

#define SETUP_FLAGS                                                                   \
    (1u << 3 /* CQSIZE */ | 1u << 7 /* SUBMIT_ALL */ | 1u << 12 /* SINGLE_ISSUER */ | \
     1u << 13 /* DEFER_TASKRUN */)
#define SETUP_NO_SQARRAY (1u << 16) /* 6.6 */
#define SQES_OFFSET 0x10000000
#define NO_BUFFER UINT16_MAX

typedef struct ring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buffer_group;
    uint16_t personality;
    uint32_t file_index;
    uint64_t pad[2];
} ring_sqe;

typedef struct ring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
} ring_cqe;

typedef struct ring_offsets {
    uint32_t head, tail, mask, entries, a, b, c, d;
    uint64_t user_addr;
} ring_offsets;

typedef struct ring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t reserved[3];
    ring_offsets sq; /* c: its array */
    ring_offsets cq; /* b: its entries */
} ring_params;

typedef struct ring_buffer {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t tail; /* of the ring, in its first place */
} ring_buffer;

typedef struct floor_conn {
    uint64_t received;
    uint64_t sent;
    uint32_t want;    /* bytes of the send in flight, 0 = none */
    int next_dirty;   /* the connection after it that has something to send */
    int next_starved; /* or waits for a buffer */
    uint16_t first;   /* buffers to be sent */
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

/* The ring. */
static int ring_fd;
static uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
static uint32_t sqe_tail, sq_mask, cq_mask;
static ring_sqe *sqes;
static ring_cqe *cqes;

/* The buffers. */
static char memory[POOL_COUNT][POOL_SIZE];
static ring_buffer *pool;
static uint16_t pool_tail;
static uint32_t pool_held; /* not with the kernel, as far as is known here */
static uint16_t next_of[POOL_COUNT];
static uint32_t len_of[POOL_COUNT];

/* What the kernel reads while it takes submissions, not longer. */
static struct iovec pieces[POOL_COUNT];
static struct msghdr messages[POOL_COUNT];
static uint32_t pieces_used;
static uint32_t messages_used;

static void on_term(int sig) {
    (void)sig;
    stopping = 1;
}

/* ---- the ring ---- */

static void enter(uint32_t wait) {
    uint32_t count = sqe_tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE);
    __atomic_store_n(sq_tail, sqe_tail, __ATOMIC_RELEASE);
    long n = syscall(NR_ENTER, ring_fd, count, wait, ENTER_GETEVENTS | ENTER_REGISTERED, NULL, 0);
    if (n < 0 && errno != EINTR && errno != EBUSY && errno != EAGAIN) {
        server_die("io_uring_enter");
    }
    if (__atomic_load_n(sq_head, __ATOMIC_ACQUIRE) == sqe_tail) {
        pieces_used = 0;
        messages_used = 0;
    }
}

static ring_sqe *take(int op, int fd) {
    while (sqe_tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE) > sq_mask) {
        enter(0);
    }
    ring_sqe *sqe = &sqes[sqe_tail++ & sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = (uint8_t)op;
    sqe->fd = fd;
    sqe->user_data = (uint64_t)op << 32 | (uint32_t)fd;
    return sqe;
}

static int setup(ring_params *p) {
    for (uint32_t more = SETUP_NO_SQARRAY;; more = 0) {
        memset(p, 0, sizeof *p);
        p->flags = SETUP_FLAGS | more;
        p->cq_entries = CQ_ENTRIES;
        int fd = (int)syscall(NR_SETUP, SQ_ENTRIES, p);
        if (fd >= 0) {
            return fd;
        }
        if (errno != EINVAL || more == 0) {
            server_die("io_uring_setup");
        }
    }
}

static void *map(int fd, size_t size, long offset) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (at == MAP_FAILED) {
        server_die("mmap");
    }
    return at;
}

static void open_ring(void) {
    ring_params p;
    int fd = setup(&p);
    bool has_array = (p.flags & SETUP_NO_SQARRAY) == 0;
    size_t sq_size = has_array ? p.sq.c + p.sq_entries * sizeof(uint32_t) : 0;
    size_t cq_size = p.cq.b + p.cq_entries * sizeof(ring_cqe);
    char *at = (char *)map(fd, sq_size > cq_size ? sq_size : cq_size, 0);
    sqes = (ring_sqe *)map(fd, p.sq_entries * sizeof(ring_sqe), SQES_OFFSET);
    sq_head = (uint32_t *)(void *)(at + p.sq.head);
    sq_tail = (uint32_t *)(void *)(at + p.sq.tail);
    cq_head = (uint32_t *)(void *)(at + p.cq.head);
    cq_tail = (uint32_t *)(void *)(at + p.cq.tail);
    cqes = (ring_cqe *)(void *)(at + p.cq.b);
    sq_mask = p.sq_entries - 1;
    cq_mask = p.cq_entries - 1;
    for (uint32_t i = 0; has_array && i < p.sq_entries; i++) {
        ((uint32_t *)(void *)(at + p.sq.c))[i] = i;
    }
    ring_fd = fd;
}

/* ---- buffers ---- */

static void give(uint16_t id) {
    ring_buffer *place = &pool[pool_tail++ & (POOL_COUNT - 1)];
    place->addr = (uint64_t)(uintptr_t)memory[id];
    place->len = POOL_SIZE;
    place->id = id;
    pool_held--;
}

static void give_all(uint16_t id) {
    while (id != NO_BUFFER) {
        uint16_t next = next_of[id];
        give(id);
        id = next;
    }
}

static void publish(void) {
    __atomic_store_n(&pool[0].tail, pool_tail, __ATOMIC_RELEASE);
}

static void open_buffers(void) {
    struct {
        uint64_t addr;
        uint32_t entries;
        uint16_t group;
        uint16_t flags;
        uint64_t reserved[3];
    } buffers;
    struct {
        uint32_t offset;
        uint32_t reserved;
        uint64_t fd;
    } ring;
    memset(&buffers, 0, sizeof buffers);
    pool = (ring_buffer *)map(-1, POOL_COUNT * sizeof *pool, 0);
    buffers.addr = (uint64_t)(uintptr_t)pool;
    buffers.entries = POOL_COUNT;
    if (syscall(NR_REGISTER, ring_fd, REGISTER_BUFFERS, &buffers, 1) != 0) {
        server_die("registering buffers");
    }
    pool_held = POOL_COUNT;
    for (uint32_t i = 0; i < POOL_COUNT; i++) {
        give((uint16_t)i);
    }
    publish();
    ring.offset = UINT32_MAX;
    ring.reserved = 0;
    ring.fd = (uint64_t)ring_fd;
    if (syscall(NR_REGISTER, ring_fd, REGISTER_RING, &ring, 1) != 1) {
        server_die("registering the ring");
    }
    ring_fd = (int)ring.offset;
}

/* ---- operations ---- */

static void begin_accept(int listener) {
    ring_sqe *sqe = take(OP_ACCEPT, listener);
    sqe->ioprio = ACCEPT_MULTISHOT;
    sqe->op_flags = SOCK_CLOEXEC;
}

static void begin_recv(int fd) {
    ring_sqe *sqe = take(OP_RECV, fd);
    sqe->flags = SQE_BUFFER_SELECT;
    sqe->ioprio = RECV_MULTISHOT;
}

/* Everything that has come so far in one send. MSG_WAITALL: the kernel goes on
 * after a short one by itself. */
static void begin_send(int fd) {
    floor_conn *c = &conns[fd];
    uint16_t id = c->first;
    bool one = next_of[id] == NO_BUFFER;
    ring_sqe *sqe = take(one ? OP_SEND : OP_SENDMSG, fd);
    sqe->op_flags = MSG_NOSIGNAL | MSG_WAITALL;
    c->sending = id;
    c->first = NO_BUFFER;
    c->want = len_of[id];
    if (one) {
        sqe->addr = (uint64_t)(uintptr_t)memory[id];
        sqe->len = c->want;
        return;
    }
    struct msghdr *message = &messages[messages_used++];
    memset(message, 0, sizeof *message);
    message->msg_iov = &pieces[pieces_used];
    for (c->want = 0; id != NO_BUFFER; id = next_of[id]) {
        pieces[pieces_used].iov_base = memory[id];
        pieces[pieces_used++].iov_len = len_of[id];
        message->msg_iovlen++;
        c->want += len_of[id];
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
    take(OP_CLOSE, fd)->flags = SQE_SKIP_SUCCESS;
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
    uint32_t count = (POOL_COUNT - pool_held + 7) / 8;
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
        conns[fd].first = NO_BUFFER;
        begin_recv(fd);
    } else if (fd != -EAGAIN && fd != -EINTR && fd != -ECONNABORTED) {
        errno = -fd;
        server_die("accept");
    }
    if ((cqe->flags & CQE_MORE) == 0) {
        begin_accept(listener);
    }
}

static void on_received(int fd, const ring_cqe *cqe) {
    floor_conn *c = &conns[fd];
    if (cqe->flags & CQE_BUFFER) {
        uint16_t id = (uint16_t)(cqe->flags >> 16);
        pool_held++;
        c->received += cqe->res > 0 ? (uint32_t)cqe->res : 0;
        if (cqe->res <= 0 || c->failed || server_opt.sink) {
            give(id);
        } else {
            len_of[id] = (uint32_t)cqe->res;
            next_of[id] = NO_BUFFER;
            if (c->first == NO_BUFFER) {
                c->first = id;
            } else {
                next_of[c->last] = id;
            }
            c->last = id;
            mark(fd);
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
        if (c->want == 0 && c->first == NO_BUFFER) {
            drop(fd);
        }
    }
}

static void on_sent(int fd, int res) {
    floor_conn *c = &conns[fd];
    give_all(c->sending);
    c->sent += res > 0 ? (uint32_t)res : 0;
    if (res != (int)c->want) { /* the receive will end, too */
        c->failed = true;
        give_all(c->first);
        c->first = NO_BUFFER;
    }
    c->want = 0;
    if (c->first != NO_BUFFER) {
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
        uint32_t head = *cq_head;
        uint32_t tail = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            on_completed(&cqes[head & cq_mask]);
        }
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
        answer();
        feed();
    }
}

int main(int argc, char **argv) {
    struct sigaction action;
    server_parse(argc, argv, "");
    server_opt.backend = "uring";
    memset(&action, 0, sizeof action);
    action.sa_handler = on_term; /* the wait ends */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    open_ring();
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
