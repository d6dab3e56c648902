/* Descriptors over unix conns.
 *
 * Out: duplicates, in the send queue as a lent chunk of ours that owns them and the first of the
 * bytes they go with. In: a queue of its own beside the carry, since the system tells no more than
 * that they come with, or before, the first byte they were sent with. Each descriptor has one
 * owner at any time: the batch, the queue, or the user. */

typedef struct nki_fds {
    size_t begin; /* the oldest */
    size_t end;
    size_t capacity;
} nki_fds;

enum {
    NKI_BATCH_BYTES =
        512 /* of a message are kept with its descriptors, the rest is copied as ever */
};

/* ---- in ---- */

static uintptr_t *nki_fds_at(nki_fds *fds) {
    return (uintptr_t *)(void *)(fds + 1);
}

static size_t nki_fds_size(size_t capacity) {
    return sizeof(nki_fds) + capacity * sizeof(uintptr_t);
}

static void nki_fds_forget(netkit_loop *loop, nki_conn *c) {
    nki_fds *fds = c->fds;
    if (fds != NULL) {
        c->fds = NULL;
        while (fds->begin != fds->end) {
            loop->driver->discard(loop, nki_fds_at(fds)[fds->begin++], false);
        }
        nki_free(&loop->allocator, fds, nki_fds_size(fds->capacity));
    }
}

/* Append. On failure nothing is taken. */
static int nki_fds_push(netkit_loop *loop, nki_conn *c, const uintptr_t *from, size_t count) {
    nki_fds *old = c->fds;
    size_t had = old == NULL ? 0 : old->end - old->begin;
    if (had + count > c->behaviour->options.fds_max) {
        return NETKIT_E_TOOBIG;
    }
    if (old == NULL || old->capacity - old->end < count) {
        size_t capacity = NKI_MAX((had + count) * 2, (size_t)8);
        nki_fds *fds = (nki_fds *)nki_alloc(&loop->allocator, nki_fds_size(capacity));
        if (fds == NULL) {
            return NETKIT_E_NOMEM;
        }
        fds->begin = 0;
        fds->end = had;
        fds->capacity = capacity;
        if (had != 0) {
            memcpy(nki_fds_at(fds), nki_fds_at(old) + old->begin, had * sizeof *from);
        }
        if (old != NULL) {
            nki_free(&loop->allocator, old, nki_fds_size(old->capacity));
        }
        c->fds = fds;
    }
    memcpy(nki_fds_at(c->fds) + c->fds->end, from, count * sizeof *from);
    c->fds->end += count;
    return NETKIT_OK;
}

static void nki_fds_fail(netkit_loop *loop, nki_conn *c, int error) {
    int why = error == NETKIT_E_TOOBIG      ? NKI_WHY_FDS_MAX
              : error == NETKIT_E_TRUNCATED ? NKI_WHY_FDS_LOST
                                            : NKI_WHY_NOMEM_RECV;
    nki_conn_fail(loop, c, NETKIT_OP_READ, error, why, 0, true);
}

/* Read bytes and descriptors. As the driver's read, and 0: that was the end of the conn. */
static int nki_conn_read_fds(netkit_loop *loop, nki_conn *c, size_t max) {
    uintptr_t fds[NETKIT_FDS_MAX];
    size_t count = 0;
    int n = loop->driver->read_fds(loop, c, max, fds, &count);
    if (n == NETKIT_E_TRUNCATED) {
        nki_fds_fail(loop, c, n);
        return 0;
    }
    int error = count == 0 ? (int)NETKIT_OK : nki_fds_push(loop, c, fds, count);
    if (error != NETKIT_OK) {
        while (count > 0) {
            loop->driver->discard(loop, fds[--count], false);
        }
        nki_fds_fail(loop, c, error);
        return 0;
    }
    return n;
}

/* ---- out ---- */

/* Sent, or never to be sent. */
static void nki_batch_done(netkit_loop *loop, int status, void *user) {
    nki_batch *b = (nki_batch *)user;
    NKI_UNUSED(status);
    while (b->count > 0) {
        loop->driver->discard(loop, b->fds[--b->count], false);
    }
    nki_free(&loop->allocator, b, b->size);
}

/* Duplicates, and a copy of the bytes behind them. */
static int nki_batch_create(netkit_loop *loop, const void *data, size_t len, const uintptr_t *fds,
                            size_t count, nki_batch **out) {
    size_t size = sizeof(nki_batch) + count * sizeof(uintptr_t) + len;
    nki_batch *b = (nki_batch *)nki_alloc(&loop->allocator, size);
    *out = NULL;
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    b->count = 0;
    b->len = len;
    b->size = size;
    for (size_t i = 0; i < count; i++) {
        int error = loop->driver->dup(loop, fds[i], &b->fds[i]);
        if (error != NETKIT_OK) {
            nki_batch_done(loop, error, b);
            return error;
        }
        b->count++;
    }
    memcpy(b->fds + count, data, len);
    *out = b;
    return NETKIT_OK;
}
