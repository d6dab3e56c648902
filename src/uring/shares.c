/* Whether incremental buffers work here: a trial at creation, for who asks for them, since kernels
 * have had them wrong, in ways that no version tells (axboe/liburing#1433). Six messages through
 * two buffers, on a small ring of its own. */

#if NKI_HAS_URING

enum {
    NKI_TRIAL_SIZE = 64, /* of a buffer */
    NKI_TRIAL_LEN = 20,
    NKI_TRIAL_MESSAGES = 6
};

typedef struct nki_trial {
    nki_uring ring;
    nki_pool pool;
    uintptr_t ends[2];
    unsigned char memory[2][NKI_TRIAL_SIZE];
    uint32_t got;
} nki_trial;

/* The n-th byte has come where it should: behind the one before it. */
static bool nki_trial_check(const nki_trial *t, const nki_uring_cqe *cqe) {
    const uint32_t buffer = t->got / NKI_TRIAL_SIZE;
    const uint32_t begin = t->got % NKI_TRIAL_SIZE;
    bool is_full = cqe->res > 0 && begin + (uint32_t)cqe->res == NKI_TRIAL_SIZE;
    bool is_right = cqe->res > 0 && begin + (uint32_t)cqe->res <= NKI_TRIAL_SIZE &&
                    (cqe->flags & NKI_URING_CQE_BUFFER) != 0 && cqe->flags >> 16 == buffer &&
                    ((cqe->flags & NKI_URING_CQE_BUFFER_MORE) == 0) == is_full;
    for (uint32_t i = 0; is_right && i < (uint32_t)cqe->res; i++) {
        is_right = t->memory[buffer][begin + i] == (unsigned char)(t->got + i + 1);
    }
    return is_right;
}

static bool nki_trial_take(nki_trial *t, uint32_t wanted) {
    nki_uring *r = &t->ring;
    for (int i = 0; t->got < wanted && i < NKI_TRIAL_MESSAGES; i++) {
        if (nki_uring_enter(r, 10 * (uint64_t)NKI_NS_PER_MS) != 0) {
            return false;
        }
        while (nki_uring_unread(r) != 0) {
            const nki_uring_cqe *cqe = &r->cqes[*r->cq_head & r->cq_mask];
            if (!nki_trial_check(t, cqe)) {
                return false;
            }
            t->got += (uint32_t)cqe->res;
            nki_atomic_store(r->cq_head, *r->cq_head + 1);
        }
    }
    return t->got == wanted;
}

static bool nki_trial_talk(nki_trial *t) {
    unsigned char message[NKI_TRIAL_LEN];
    for (uint32_t n = 0; n < NKI_TRIAL_MESSAGES; n++) {
        for (uint32_t i = 0; i < NKI_TRIAL_LEN; i++) {
            message[i] = (unsigned char)(n * NKI_TRIAL_LEN + i + 1);
        }
        if (nki_os_send(t->ends[0], message, sizeof message) != NKI_TRIAL_LEN ||
            !nki_trial_take(t, (n + 1) * NKI_TRIAL_LEN)) {
            return false;
        }
    }
    return true;
}

static bool nki_trial_begin(nki_trial *t) {
    t->pool.count = 2;
    t->pool.is_sharing = true;
    if (nki_uring_enable(&t->ring) != 0 || nki_pool_register(&t->pool, &t->ring) != 0) {
        return false;
    }
    for (uint16_t i = 0; i < 2; i++) {
        t->pool.ring[i].addr = (uint64_t)(uintptr_t)t->memory[i];
        t->pool.ring[i].len = NKI_TRIAL_SIZE;
        t->pool.ring[i].id = i;
    }
    t->pool.tail = 2;
    nki_pool_publish(&t->pool);
    nki_uring_sqe *sqe = nki_uring_take(&t->ring);
    if (sqe != NULL) {
        sqe->opcode = NKI_URING_RECV;
        sqe->flags = NKI_URING_SQE_BUFFER_SELECT;
        sqe->ioprio = NKI_SYS_io_uring_multishot(NKI_URING_RECV_MULTISHOT);
        sqe->fd = nki_os_fd(t->ends[1]);
        sqe->buffer_group = NKI_POOL_GROUP;
    }
    return sqe != NULL;
}

static bool nki_shares_work(void) {
    nki_trial t;
    nki_uring_wish wish;
    const char *where;
    memset(&t, 0, sizeof t);
    memset(&wish, 0, sizeof wish);
    wish.is_small = true;
    if (nki_uring_open(&t.ring, &wish, &where) != 0) {
        return false;
    }
    bool is_right = nki_os_pair(NETKIT_SOCK_STREAM, false, t.ends) == NETKIT_OK;
    if (is_right) {
        is_right = nki_trial_begin(&t) && nki_trial_talk(&t);
        nki_os_abandon(t.ends[0]);
        nki_os_abandon(t.ends[1]);
    }
    nki_uring_close(&t.ring);
    if (t.pool.ring != NULL) {
        (void)NKI_SYS_munmap(t.pool.ring, nki_pool_ring_size(&t.pool));
    }
    return is_right;
}

#endif /* NKI_HAS_URING */
