/* io_uring in the words of bare programs: the kernel's interface in numbers of its own, since the
 * headers of old systems know only half of it, and a ring with the flags of netkit's:
 * SINGLE_ISSUER, DEFER_TASKRUN, SUBMIT_ALL, NO_SQARRAY, its descriptor registered. Needs Linux
 * 6.1. To be opened by the thread that uses it. */
#ifndef BENCH_BARE_RING_H
#define BENCH_BARE_RING_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SQ_ENTRIES = 256,
    CQ_ENTRIES = 4096,
    NR_SETUP = 425,
    NR_ENTER = 426,
    NR_REGISTER = 427,
    /* operations */
    OP_POLL = 6,
    OP_SENDMSG = 9,
    OP_ACCEPT = 13,
    OP_CLOSE = 19,
    OP_SEND = 26,
    OP_RECV = 27,
    OP_MSG_RING = 40, /* 5.18 */
    /* of a submission */
    SQE_FIXED_FILE = 1 << 0,
    SQE_BUFFER_SELECT = 1 << 5,
    SQE_SKIP_SUCCESS = 1 << 6,
    ACCEPT_MULTISHOT = 1 << 0,
    POLL_MULTISHOT = 1 << 0,
    RECV_MULTISHOT = 1 << 1,
    RECV_BUNDLE = 1 << 4, /* 6.10 */
    /* of a completion */
    CQE_BUFFER = 1 << 0,
    CQE_MORE = 1 << 1,
    CQE_BUF_MORE = 1 << 4, /* 6.12: more will come into the same buffer */
    /* of enter and register */
    ENTER_GETEVENTS = 1 << 0,
    ENTER_REGISTERED = 1 << 4,
    REGISTER_FILES2 = 13,
    REGISTER_RING = 20,
    REGISTER_BUFFERS = 22,
    REGISTER_SEND_MSG_RING = 31, /* 6.13 */
    FILES_SPARSE = 1 << 0,
    BUFFERS_INCREMENTAL = 1 << 1, /* 6.12 */
    FEAT_BUNDLE = 1 << 14
};

#define FILE_INDEX_ALLOC UINT32_MAX
#define SETUP_FLAGS                                                                   \
    (1u << 3 /* CQSIZE */ | 1u << 7 /* SUBMIT_ALL */ | 1u << 12 /* SINGLE_ISSUER */ | \
     1u << 13 /* DEFER_TASKRUN */)
#define SETUP_NO_SQARRAY (1u << 16) /* 6.6 */
#define SQES_OFFSET 0x10000000

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

typedef struct ring_buffers_reg {
    uint64_t addr;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
} ring_buffers_reg;

typedef struct ring_files_reg {
    uint32_t count;
    uint32_t flags;
    uint64_t reserved;
    uint64_t data;
    uint64_t tags;
} ring_files_reg;

typedef struct bare_ring {
    int fd;
    int enter_fd; /* its registered number */
    uint32_t features;
    uint32_t sqe_tail, sq_mask, cq_mask;
    uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
    ring_sqe *sqes;
    ring_cqe *cqes;
} bare_ring;

static inline void bare_die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline int bare_setup(ring_params *p) {
    for (uint32_t more = SETUP_NO_SQARRAY;; more = 0) {
        memset(p, 0, sizeof *p);
        p->flags = SETUP_FLAGS | more;
        p->cq_entries = CQ_ENTRIES;
        int fd = (int)syscall(NR_SETUP, SQ_ENTRIES, p);
        if (fd >= 0) {
            return fd;
        }
        if (errno != EINVAL || more == 0) {
            bare_die("io_uring_setup");
        }
    }
}

static inline void *bare_map(int fd, size_t size, long offset) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (at == MAP_FAILED) {
        bare_die("mmap");
    }
    return at;
}

static inline long bare_register(const bare_ring *r, int what, void *arg, unsigned count) {
    return syscall(NR_REGISTER, r->fd, what, arg, count);
}

static inline void bare_register_itself(bare_ring *r) {
    struct {
        uint32_t offset;
        uint32_t reserved;
        uint64_t fd;
    } update;
    update.offset = UINT32_MAX;
    update.reserved = 0;
    update.fd = (uint64_t)r->fd;
    if (bare_register(r, REGISTER_RING, &update, 1) != 1) {
        bare_die("registering the ring");
    }
    r->enter_fd = (int)update.offset;
}

static inline void bare_open(bare_ring *r) {
    ring_params p;
    int fd = bare_setup(&p);
    bool has_array = (p.flags & SETUP_NO_SQARRAY) == 0;
    size_t sq_size = has_array ? p.sq.c + p.sq_entries * sizeof(uint32_t) : 0;
    size_t cq_size = p.cq.b + p.cq_entries * sizeof(ring_cqe);
    char *at = (char *)bare_map(fd, sq_size > cq_size ? sq_size : cq_size, 0);
    memset(r, 0, sizeof *r);
    r->fd = fd;
    r->features = p.features;
    r->sqes = (ring_sqe *)bare_map(fd, p.sq_entries * sizeof(ring_sqe), SQES_OFFSET);
    r->sq_head = (uint32_t *)(void *)(at + p.sq.head);
    r->sq_tail = (uint32_t *)(void *)(at + p.sq.tail);
    r->cq_head = (uint32_t *)(void *)(at + p.cq.head);
    r->cq_tail = (uint32_t *)(void *)(at + p.cq.tail);
    r->cqes = (ring_cqe *)(void *)(at + p.cq.b);
    r->sq_mask = p.sq_entries - 1;
    r->cq_mask = p.cq_entries - 1;
    for (uint32_t i = 0; has_array && i < p.sq_entries; i++) {
        ((uint32_t *)(void *)(at + p.sq.c))[i] = i;
    }
    bare_register_itself(r);
}

/* Filled in, but not yet taken by the kernel. */
static inline uint32_t bare_unsubmitted(const bare_ring *r) {
    return r->sqe_tail - __atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE);
}

/* Submit, and with ENTER_GETEVENTS among the flags do what is due and wait for so many. */
static inline void bare_enter(bare_ring *r, uint32_t wait, unsigned flags) {
    uint32_t count = bare_unsubmitted(r);
    __atomic_store_n(r->sq_tail, r->sqe_tail, __ATOMIC_RELEASE);
    long n = syscall(NR_ENTER, r->enter_fd, count, wait, flags | ENTER_REGISTERED, NULL, 0);
    if (n < 0 && errno != EINTR && errno != EBUSY && errno != EAGAIN) {
        bare_die("io_uring_enter");
    }
}

/* There must be a place: bare_unsubmitted() is at most sq_mask. */
static inline ring_sqe *bare_take(bare_ring *r, int op, int fd) {
    ring_sqe *sqe = &r->sqes[r->sqe_tail++ & r->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = (uint8_t)op;
    sqe->fd = fd;
    return sqe;
}

#endif
