/* Received bytes: the loop's shared receive buffer, what a handler leaves over (the carry), and
 * what it keeps.
 *
 * Nothing is parked for an idle conn: one block of 64 KiB serves all. Keeping a large span hands
 * that very block out and makes a new one; blocks come back through the keeper's stack, pushed
 * from any thread, and outlive the loop if need be. */

static nki_block *nki_block_new(nki_keeper *keeper, size_t capacity) {
    nki_block *block = (nki_block *)nki_alloc(&keeper->allocator, sizeof *block + capacity);
    if (block != NULL) {
        block->next = NULL;
        block->keeper = keeper;
        block->capacity = capacity;
    }
    return block;
}

static unsigned char *nki_block_data(nki_block *block) {
    return (unsigned char *)(block + 1);
}

static void nki_block_free(nki_block *block) {
    nki_keeper *keeper = block->keeper;
    nki_free(&keeper->allocator, block, sizeof *block + block->capacity);
}

static int nki_keeper_create(netkit_loop *loop) {
    nki_keeper *keeper = (nki_keeper *)nki_alloc_zero(&loop->allocator, sizeof *keeper);
    if (keeper == NULL) {
        return NETKIT_E_NOMEM;
    }
    keeper->allocator = loop->allocator;
    keeper->references = 1;
    loop->keeper = keeper;
    loop->recv = nki_block_new(keeper, NKI_RECV_SIZE);
    return loop->recv == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
}

static void nki_keeper_drop(nki_keeper *keeper) {
    if (nki_atomic_add(&keeper->references, UINT32_MAX) == 0) {
        netkit_allocator allocator = keeper->allocator;
        nki_free(&allocator, keeper, sizeof *keeper);
    }
}

/* Free what has been given back: between turns alone, as a span may be in such a block. */
static void nki_keeper_reap(netkit_loop *loop) {
    if (nki_atomic_load_ptr_relaxed(&loop->keeper->returned) == NULL) {
        return;
    }
    nki_block *block = (nki_block *)nki_atomic_exchange_ptr(&loop->keeper->returned, NULL);
    while (block != NULL) {
        nki_block *next = block->next;
        loop->kept_bytes -= block->capacity;
        nki_block_free(block);
        nki_keeper_drop(loop->keeper);
        block = next;
    }
}

/* What is still out with the user is freed by whoever gives it back; the mark on the stack tells
 * them, and what was pushed before it is freed here. */
static void nki_keeper_destroy(netkit_loop *loop) {
    nki_keeper *keeper = loop->keeper;
    if (keeper == NULL) {
        return;
    }
    if (loop->recv != NULL) {
        nki_block_free(loop->recv);
    }
    nki_block *block = (nki_block *)nki_atomic_exchange_ptr(&keeper->returned, keeper);
    while (block != NULL) {
        nki_block *next = block->next;
        nki_block_free(block);
        nki_keeper_drop(keeper);
        block = next;
    }
    nki_keeper_drop(keeper);
    loop->keeper = NULL;
}

NETKIT_API void netkit_buf_release(netkit_buf *buf) {
    if (buf == NULL || buf->owner == NULL) {
        return;
    }
    nki_block *block = (nki_block *)buf->owner;
    nki_keeper *keeper = block->keeper;
    memset(buf, 0, sizeof *buf);
    void *top = nki_atomic_load_ptr(&keeper->returned);
    do {
        if (top == (void *)keeper) { /* the loop is gone */
            nki_block_free(block);
            nki_keeper_drop(keeper);
            return;
        }
        block->next = (nki_block *)top;
    } while (!nki_atomic_cas_ptr(&keeper->returned, &top, block));
}

/* ---- the carry ---- */

static unsigned char *nki_carry_data(nki_carry *carry) {
    return (unsigned char *)(carry + 1);
}

static size_t nki_carry_len(const nki_conn *c) {
    return c->carry == NULL ? 0 : c->carry->end - c->carry->begin;
}

static NKI_OUTLINE void nki_carry_free(netkit_loop *loop, nki_conn *c) {
    if (c->carry != NULL) {
        nki_free(&loop->allocator, c->carry, sizeof *c->carry + c->carry->capacity);
        c->carry = NULL;
    }
}

/* Room for `more` bytes behind what is there. */
static NKI_OUTLINE int nki_carry_reserve(netkit_loop *loop, nki_conn *c, size_t more) {
    nki_carry *old = c->carry;
    size_t len = nki_carry_len(c);
    if (old != NULL && old->capacity - old->end >= more) {
        return NETKIT_OK;
    }
    if (old != NULL && old->capacity - len >= more && old->begin >= len) {
        memcpy(nki_carry_data(old), nki_carry_data(old) + old->begin, len);
        old->begin = 0;
        old->end = len;
        return NETKIT_OK;
    }
    /* Doubling makes a stream of single bytes linear; the first one is small as most are. */
    size_t capacity = NKI_MAX(len + more, len == 0 ? more : len * 2);
    capacity = NKI_MAX(capacity, (size_t)256);
    nki_carry *carry = (nki_carry *)nki_alloc(&loop->allocator, sizeof *carry + capacity);
    if (carry == NULL) {
        return NETKIT_E_NOMEM;
    }
    carry->begin = 0;
    carry->end = len;
    carry->capacity = capacity;
    if (len > 0) {
        memcpy(nki_carry_data(carry), nki_carry_data(old) + old->begin, len);
    }
    nki_carry_free(loop, c);
    c->carry = carry;
    return NETKIT_OK;
}

static NKI_OUTLINE int nki_carry_append(netkit_loop *loop, nki_conn *c, const void *data,
                                        size_t len) {
    if (nki_carry_reserve(loop, c, len) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    memcpy(nki_carry_data(c->carry) + c->carry->end, data, len);
    c->carry->end += len;
    return NETKIT_OK;
}

static void nki_carry_consume(netkit_loop *loop, nki_conn *c, size_t used) {
    c->carry->begin += used;
    if (c->carry->begin == c->carry->end) {
        nki_carry_free(loop, c);
    }
}

/* ---- keeping ---- */

static int nki_keep_copy(netkit_loop *loop, nki_block **out) {
    nki_block *block = nki_block_new(loop->keeper, loop->span.len);
    if (block == NULL) {
        return NETKIT_E_NOMEM;
    }
    memcpy(nki_block_data(block), loop->span.data, loop->span.len);
    *out = block;
    return NETKIT_OK;
}

/* For drivers whose spans are in the shared buffer: hand it out and put a new one in its place. */
static int nki_keep_shared(netkit_loop *loop, uint64_t room, nki_block **out) {
    const unsigned char *recv = nki_block_data(loop->recv);
    if (loop->span.data != (const void *)recv || loop->span.len <= NKI_KEEP_COPY) {
        return NETKIT_OK;
    }
    if (room < NKI_RECV_SIZE) {
        return NETKIT_E_FULL;
    }
    nki_block *fresh = nki_block_new(loop->keeper, NKI_RECV_SIZE);
    if (fresh == NULL) {
        return NETKIT_E_NOMEM;
    }
    *out = loop->recv;
    loop->recv = fresh;
    return NETKIT_OK;
}

/* The block goes to the user whole, or, where too little of it is used, a copy does. */
static int nki_keep(netkit_loop *loop, netkit_buf *out) {
    uint64_t room = loop->desc.keep_max - loop->kept_bytes;
    nki_block *block = NULL;
    if (room < loop->span.len) {
        return NETKIT_E_FULL;
    }
    int error = loop->driver->keep(loop, room, &block);
    const void *data = loop->span.data;
    if (error == NETKIT_OK && block == NULL) {
        error = nki_keep_copy(loop, &block);
        data = block == NULL ? NULL : nki_block_data(block);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    out->data = data;
    out->owner = block;
    out->len = loop->span.len;
    loop->kept_bytes += block->capacity;
    (void)nki_atomic_add(&loop->keeper->references, 1);
    return NETKIT_OK;
}
