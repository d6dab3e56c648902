/* The send queue of a conn: chunks of copied bytes, of borrowed memory and of files, in order.
 *
 * What a conn queues in its own callback is staged in one buffer of the loop and goes out from
 * there when the callback returns; only what the system does not take, and what others queue, is
 * put into chunks. Chunks never move, and a chunk's progress is an offset, so a driver may have
 * the system read from them while more is appended. Copied bytes are bounded by send_max, borrowed
 * chunks by chunks_max. Empty queues own nothing: a chunk goes back to the loop, which keeps
 * some. */

/* Descriptors to be sent, and the bytes they go with: lent memory of our own, so it is released as
 * such, once it was sent or the conn has died. */
typedef struct nki_batch {
    size_t count;
    size_t len;
    size_t size; /* of this block */
    uintptr_t fds[1];
} nki_batch;

static void nki_batch_done(netkit_loop *loop, int status, void *user);

/* A chunk out of the reserve. */
static nki_chunk *nki_chunk_take(netkit_loop *loop) {
    nki_chunk *chunk = loop->chunks;
    loop->chunks = chunk->next;
    loop->chunks_count--;
    chunk->next = NULL;
    chunk->last = chunk;
    chunk->data = (const unsigned char *)(chunk + 1);
    chunk->begin = 0;
    chunk->end = 0;
    chunk->capacity = NKI_CHUNK_SIZE - sizeof *chunk;
    chunk->file = 0;
    chunk->release = NULL;
    return chunk;
}

static void nki_spares_give(netkit_loop *loop, nki_spares *spares, nki_chunk *chunk) {
    if (spares->count < NKI_SMALL_CHUNKS_SPARE) {
        chunk->next = spares->first;
        spares->first = chunk;
        spares->count++;
    } else {
        nki_free(&loop->allocator, chunk, sizeof *chunk + chunk->capacity);
        spares->made--;
    }
}

static void nki_spares_free(netkit_loop *loop, nki_spares *spares) {
    while (spares->first != NULL) {
        nki_chunk *chunk = spares->first;
        spares->first = chunk->next;
        nki_free(&loop->allocator, chunk, sizeof *chunk + chunk->capacity);
    }
    spares->count = 0;
}

static void nki_chunk_give(netkit_loop *loop, nki_chunk *chunk) {
    if (chunk->capacity == 0) {
        nki_free(&loop->allocator, chunk, sizeof *chunk);
    } else if (chunk->capacity < NKI_SMALL_CHUNK_SIZE) {
        nki_spares_give(loop, &loop->small_chunks, chunk);
    } else if (chunk->capacity < NKI_MIDDLE_CHUNK_SIZE) {
        nki_spares_give(loop, &loop->middle_chunks, chunk);
    } else if (loop->chunks_count < NKI_CHUNKS_SPARE) {
        chunk->next = loop->chunks;
        loop->chunks = chunk;
        loop->chunks_count++;
    } else {
        nki_free(&loop->allocator, chunk, NKI_CHUNK_SIZE);
    }
}

static void nki_chunks_free(netkit_loop *loop) {
    while (loop->chunks != NULL) {
        nki_chunk *chunk = loop->chunks;
        loop->chunks = chunk->next;
        nki_free(&loop->allocator, chunk, NKI_CHUNK_SIZE);
    }
    loop->chunks_count = 0;
    nki_spares_free(loop, &loop->small_chunks);
    nki_spares_free(loop, &loop->middle_chunks);
}

static void nki_out_append(nki_conn *c, nki_chunk *chunk) {
    if (c->out == NULL) {
        c->out = chunk;
        c->flags &= ~(uint32_t)NKI_C_FLUSHING;
    } else {
        c->out->last->next = chunk;
        c->out->last = chunk;
    }
}

/* Count bytes for the flush that comes at 64 KiB; borrowed ones may be many. */
static void nki_out_count(nki_conn *c, size_t len) {
    size_t sum = (size_t)c->unflushed + len;
    c->unflushed = (uint16_t)NKI_MIN(sum, (size_t)NKI_FLUSH_AT);
}

/* The last chunk, if bytes can be copied to its end. */
static nki_chunk *nki_out_open(const nki_conn *c) {
    if (c->out == NULL) {
        return NULL;
    }
    nki_chunk *last = c->out->last;
    return last->end < last->capacity ? last : NULL; /* a borrowed one has no capacity */
}

/* Have so many chunks in reserve. */
static int nki_chunk_stock(netkit_loop *loop, size_t wanted) {
    while (loop->chunks_count < wanted) {
        nki_chunk *chunk = (nki_chunk *)nki_alloc(&loop->allocator, NKI_CHUNK_SIZE);
        if (chunk == NULL) {
            return NETKIT_E_NOMEM;
        }
        chunk->next = loop->chunks;
        loop->chunks = chunk;
        loop->chunks_count++;
    }
    return NETKIT_OK;
}

/* Have chunks enough at hand to append `len` bytes, so that appending cannot fail half way. */
static int nki_out_reserve(netkit_loop *loop, const nki_conn *c, size_t len) {
    const size_t each = NKI_CHUNK_SIZE - sizeof(nki_chunk);
    const nki_chunk *last = nki_out_open(c);
    size_t room = last == NULL ? 0 : last->capacity - last->end;
    size_t wanted = len <= room ? 0 : (len - room + each - 1) / each;
    return nki_chunk_stock(loop, wanted);
}

/* Copy bytes into chunks at the end: all, or on NETKIT_E_NOMEM nothing. */
static NKI_OUTLINE int nki_out_chunks(netkit_loop *loop, nki_conn *c, const void *data,
                                      size_t len) {
    const unsigned char *from = (const unsigned char *)data;
    loop->reserved = NULL;
    if (nki_out_reserve(loop, c, len) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    c->queued += (uint32_t)len;
    nki_out_count(c, len);
    while (len > 0) {
        nki_chunk *chunk = nki_out_open(c);
        if (chunk == NULL) {
            chunk = nki_chunk_take(loop);
            nki_out_append(c, chunk);
        }
        size_t n = NKI_MIN(len, chunk->capacity - chunk->end);
        memcpy((unsigned char *)(chunk + 1) + chunk->end, from, n);
        chunk->end += n;
        from += n;
        len -= n;
    }
    return NETKIT_OK;
}

/* ---- the stage ---- */

/* A callback of a conn begins: while nothing waits before them its sends are staged. */
static NKI_HOT void nki_stage_open(netkit_loop *loop, nki_conn *c) {
    loop->current = c;
    loop->span.data = NULL;
    if (NKI_LIKELY(c->out == NULL && (c->flags & NKI_C_UNSTAGED) == 0)) {
        loop->stage_id = c->source.id;
        loop->stage_room = c->behaviour->stage_max;
    }
}

/* No more is staged for this conn; what is staged stays. */
static void nki_stage_close(netkit_loop *loop, const nki_conn *c) {
    if (loop->current == c) {
        loop->stage_room = 0;
    }
}

/* Everything staged has gone: there is room again, unless the stage was closed. */
static void nki_stage_reopen(netkit_loop *loop, nki_conn *c) {
    if (loop->stage_len == 0 && c->out == NULL && (c->flags & NKI_C_UNSTAGED) == 0) {
        loop->stage_room = c->behaviour->stage_max;
    }
}

static size_t nki_staged(const netkit_loop *loop, const nki_conn *c) {
    return loop->current == c ? loop->stage_len : 0;
}

/* Move what is staged into chunks: it has to wait, or something must stand behind it. */
static NKI_OUTLINE int nki_stage_spill(netkit_loop *loop, nki_conn *c) {
    size_t len = nki_staged(loop, c);
    nki_stage_close(loop, c);
    if (len == 0) {
        return NETKIT_OK;
    }
    int error = nki_out_chunks(loop, c, loop->stage, len);
    if (error == NETKIT_OK) {
        loop->stage_len = 0;
    }
    return error;
}

static NKI_HOT void nki_stage_copy(netkit_loop *loop, const void *data, size_t len) {
    unsigned char *at = loop->stage + loop->stage_len;
    loop->stage_len += len;
    loop->stage_room -= len;
    memcpy(at, data, len);
}

/* Queue a copy of bytes. On NETKIT_E_NOMEM the caller dooms the conn. */
static int nki_out_copy(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    if (loop->stage_id == c->source.id && len <= loop->stage_room) {
        nki_stage_copy(loop, data, len);
        return NETKIT_OK;
    }
    int error = nki_stage_spill(loop, c);
    return error != NETKIT_OK ? error : nki_out_chunks(loop, c, data, len);
}

/* Copied bytes that the queue still takes. */
static size_t nki_out_room(const netkit_loop *loop, const nki_conn *c) {
    return c->behaviour->options.send_max - c->queued - nki_staged(loop, c);
}

/* A chunk for what is lent; not in the queue yet. */
static nki_chunk *nki_chunk_lent(netkit_loop *loop, size_t len, netkit_release_fn release,
                                 void *user) {
    nki_chunk *chunk = (nki_chunk *)nki_alloc_zero(&loop->allocator, sizeof *chunk);
    if (chunk != NULL) {
        chunk->last = chunk;
        chunk->end = len;
        chunk->release = release;
        chunk->user = user;
    }
    return chunk;
}

static void nki_out_lend_chunk(nki_conn *c, nki_chunk *chunk) {
    nki_out_append(c, chunk);
    c->borrowed++;
    nki_out_count(c, chunk->end);
}

static int nki_out_lend(netkit_loop *loop, nki_conn *c, const void *data, size_t len,
                        netkit_release_fn release, void *user) {
    nki_chunk *chunk = nki_chunk_lent(loop, len, release, user);
    if (chunk == NULL) {
        return NETKIT_E_NOMEM;
    }
    chunk->data = (const unsigned char *)data;
    nki_out_lend_chunk(c, chunk);
    return NETKIT_OK;
}

/* Bytes waiting, borrowed ones too. */
static NKI_OUTLINE size_t nki_out_bytes(const netkit_loop *loop, const nki_conn *c) {
    size_t sum = nki_staged(loop, c);
    for (const nki_chunk *chunk = c->out; chunk != NULL; chunk = chunk->next) {
        sum += chunk->end - chunk->begin;
    }
    return sum;
}

/* For drivers: the descriptors that must go with the first byte of this chunk, or NULL. */
static nki_batch *nki_fds_of(const nki_chunk *chunk) {
    bool has = chunk->release == nki_batch_done && chunk->begin == 0;
    return has ? (nki_batch *)chunk->user : NULL;
}

/* For drivers: what goes by a call of its own, a file or bytes that have descriptors with them. */
static bool nki_out_is_alone(const nki_chunk *chunk) {
    return chunk->file != 0 || nki_fds_of(chunk) != NULL;
}

/* For drivers: the first spans of what waits, up to a file, or lent memory of lent_min bytes;
 * returns their number. Bytes that have descriptors with them are not among them, as those go with
 * the first byte of a send. */
static size_t nki_out_spans(const nki_conn *c, netkit_span *spans, size_t count_max,
                            size_t lent_min) {
    size_t count = 0;
    for (const nki_chunk *chunk = c->out; chunk != NULL && count < count_max; chunk = chunk->next) {
        bool is_large = chunk->capacity == 0 && chunk->end - chunk->begin >= lent_min;
        if (NKI_UNLIKELY(is_large || nki_out_is_alone(chunk))) {
            break;
        }
        if (chunk->end > chunk->begin) {
            spans[count].data = chunk->data + chunk->begin;
            spans[count].len = chunk->end - chunk->begin;
            count++;
        }
    }
    return count;
}

/* For drivers: whether a file stands right behind the first `count` spans. */
static bool nki_out_file_follows(const nki_conn *c, size_t count) {
    const nki_chunk *chunk = c->out;
    for (; chunk != NULL && chunk->file == 0 && count > 0; chunk = chunk->next) {
        count -= chunk->end > chunk->begin;
    }
    return chunk != NULL && chunk->file != 0 && chunk->end > chunk->begin;
}

/* Take the first chunk off. */
static nki_chunk *nki_out_pop(nki_conn *c) {
    nki_chunk *chunk = c->out;
    c->out = chunk->next;
    if (c->out != NULL) {
        c->out->last = chunk->last;
    }
    return chunk;
}

/* The descriptor of a file is not needed any more. */
static void nki_chunk_close_file(netkit_loop *loop, nki_chunk *chunk) {
    if (chunk->file != 0) {
        loop->driver->file_close(chunk->file - 1);
        chunk->file = 0;
    }
}

static void nki_release_later(netkit_loop *loop, nki_chunk *chunk) {
    nki_chunk_close_file(loop, chunk);
    chunk->next = NULL;
    chunk->last = chunk;
    if (loop->releases == NULL) {
        loop->releases = chunk;
    } else {
        loop->releases->last->next = chunk;
        loop->releases->last = chunk;
    }
}

/* Tell the owner of what was lent, and forget it. */
static NKI_OUTLINE void nki_release(netkit_loop *loop, nki_chunk *chunk, int status) {
    nki_chunk_close_file(loop, chunk);
    if (chunk->release != NULL) {
        uint64_t started = nki_call_begin(loop);
        chunk->release(loop, status, chunk->user);
        nki_call_end(loop, started);
    }
    nki_free(&loop->allocator, chunk, sizeof *chunk);
}

/* Run one release that is due. Returns false when there was none. */
static bool nki_release_next(netkit_loop *loop) {
    nki_chunk *chunk = loop->releases;
    if (chunk == NULL) {
        return false;
    }
    loop->releases = chunk->next;
    if (loop->releases != NULL) {
        loop->releases->last = chunk->last;
    }
    nki_release(loop, chunk, NETKIT_OK);
    return true;
}

/* For drivers: so many bytes were taken by the system. A lent chunk that is done moves to the
 * loop's list of releases: they are called back by the turn alone. */
static void nki_out_sent(netkit_loop *loop, nki_conn *c, size_t len) {
    c->u.live.active_ms = loop->turn_ms;
    while (c->out != NULL) {
        nki_chunk *chunk = c->out;
        size_t n = NKI_MIN(len, chunk->end - chunk->begin);
        chunk->begin += n;
        len -= n;
        if (chunk->capacity != 0) {
            c->queued -= (uint32_t)n;
        }
        if (chunk->begin < chunk->end) {
            return;
        }
        nki_out_pop(c);
        if (chunk->capacity == 0) {
            c->borrowed--;
            nki_release_later(loop, chunk);
        } else {
            nki_chunk_give(loop, chunk);
        }
    }
}

/* After the end: the next lent chunk whose release is due, the rest being freed; or NULL. */
static NKI_OUTLINE nki_chunk *nki_out_drop(netkit_loop *loop, nki_conn *c) {
    while (c->out != NULL) {
        nki_chunk *chunk = nki_out_pop(c);
        if (chunk->capacity == 0) {
            return chunk;
        }
        nki_chunk_give(loop, chunk);
    }
    c->queued = 0;
    return NULL;
}
