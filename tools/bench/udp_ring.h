/* A bare server on the ring: one recvmsg that goes on (multishot) into provided buffers, what has
 * come answered by sendmmsg. For the question whether datagrams should be received so in the ring,
 * and not, as they are there, by recvmmsg when a poll says so. Needs Linux 6.0. */
#if NKI_HAS_URING

enum {
    RING_OP_RECVMSG = 10,
    RING_COUNT = 256,
    RING_SIZE = 2304 /* the record of what came, the sender, 2,048 bytes */
};

/* What stands in a buffer before the sender (struct io_uring_recvmsg_out). */
typedef struct ring_came {
    uint32_t name_len, control_len, len, flags;
} ring_came;

static struct {
    nki_uring ring;
    nki_uring_buffer *buffers;
    unsigned char *memory;
    uint16_t tail;
    struct msghdr shape; /* how much room a sender has */
} mshot;

static void ring_give(uint16_t id) {
    nki_uring_buffer *place = &mshot.buffers[mshot.tail++ & (RING_COUNT - 1)];
    place->addr = (uint64_t)(uintptr_t)(mshot.memory + (size_t)id * RING_SIZE);
    place->len = RING_SIZE;
    place->id = id;
}

static void ring_publish(void) {
    __atomic_store_n(&mshot.buffers[0].tail, mshot.tail, __ATOMIC_RELEASE);
}

static void ring_open(void) {
    nki_uring_wish wish;
    nki_uring_buffers_reg reg;
    const char *where;
    memset(&wish, 0, sizeof wish);
    memset(&reg, 0, sizeof reg);
    if (nki_uring_open(&mshot.ring, &wish, &where) != 0 || nki_uring_enable(&mshot.ring) != 0) {
        die("io_uring");
    }
    mshot.memory = (unsigned char *)calloc(RING_COUNT, RING_SIZE);
    mshot.buffers =
        (nki_uring_buffer *)mmap(NULL, RING_COUNT * sizeof(nki_uring_buffer),
                                 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    reg.addr = (uint64_t)(uintptr_t)mshot.buffers;
    reg.entries = RING_COUNT;
    if (mshot.memory == NULL || mshot.buffers == MAP_FAILED ||
        syscall(SYS_io_uring_register, mshot.ring.fd, NKI_URING_REGISTER_BUFFERS, &reg, 1) != 0) {
        die("buffers of the ring");
    }
    for (unsigned i = 0; i < RING_COUNT; i++) {
        ring_give((uint16_t)i);
    }
    ring_publish();
    mshot.shape.msg_namelen = sizeof(struct sockaddr_in);
}

static void ring_begin(int fd) {
    nki_uring_sqe *sqe = nki_uring_take(&mshot.ring);
    sqe->opcode = RING_OP_RECVMSG;
    sqe->flags = NKI_URING_SQE_BUFFER_SELECT;
    sqe->ioprio = NKI_URING_RECV_MULTISHOT;
    sqe->fd = fd;
    sqe->addr = (uint64_t)(uintptr_t)&mshot.shape;
    sqe->len = 1;
}

/* Where it lies, as a message that goes back. */
static void ring_answer(batch *b, unsigned i, uint16_t id) {
    unsigned char *at = mshot.memory + (size_t)id * RING_SIZE;
    const ring_came *came = (const ring_came *)(void *)at;
    struct msghdr *m = &b->heads[i].msg_hdr;
    m->msg_name = at + sizeof *came;
    m->msg_namelen = came->name_len;
    b->iov[i].iov_base = at + sizeof *came + mshot.shape.msg_namelen;
    b->iov[i].iov_len = came->len;
    m->msg_iov = &b->iov[i];
    m->msg_iovlen = 1;
}

static void ring_send(batch *b, int fd, const uint16_t *ids, unsigned count) {
    for (unsigned done = 0; done < count;) {
        int sent = sendmmsg(fd, b->heads + done, count - done, 0);
        done += sent > 0 ? (unsigned)sent : 1;
    }
    for (unsigned i = 0; i < count; i++) {
        ring_give(ids[i]);
    }
    ring_publish();
}

/* Take the completions there are; returns whether the receive goes on. */
static bool ring_serve(batch *b, int fd) {
    nki_uring *r = &mshot.ring;
    uint32_t head = *r->cq_head, end = __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE);
    uint16_t ids[BATCH];
    unsigned count = 0;
    bool goes_on = true;
    for (; head != end; head++) {
        const nki_uring_cqe *cqe = &r->cqes[head & r->cq_mask];
        goes_on = (cqe->flags & NKI_URING_CQE_MORE) != 0;
        if (cqe->res >= 0) {
            ids[count] = (uint16_t)(cqe->flags >> 16);
            ring_answer(b, count, ids[count]);
            count++;
        }
        if (count == BATCH) {
            ring_send(b, fd, ids, count);
            count = 0;
        }
    }
    __atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
    ring_send(b, fd, ids, count);
    return goes_on;
}

static void serve_multishot(int fd) {
    static batch b;
    ring_open();
    fcntl(fd, F_SETFL, 0); /* the ring answers EAGAIN at once for sockets that do not block */
    ring_begin(fd);
    for (;;) {
        nki_uring_enter(&mshot.ring, NKI_NEVER);
        if (!ring_serve(&b, fd)) {
            ring_begin(fd);
        }
    }
}

#endif
