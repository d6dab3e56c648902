/* Conns, as users call them: find the conn, check its state, do the least that is right now, and
 * leave the rest to the turn, as nothing may be called back from inside a call. */

static NKI_OUTLINE int nki_conn_find(netkit_loop *loop, netkit_conn conn, nki_conn **out) {
    int error = nki_enter(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    *out = (nki_conn *)nki_slots_find(&loop->sources, conn.id, NKI_KIND_CONN);
    return NKI_LIKELY(*out != NULL) ? NETKIT_OK : NETKIT_E_STALE;
}

/* The same for calls that a closing conn refuses. */
static int nki_conn_find_open(netkit_loop *loop, netkit_conn conn, nki_conn **out) {
    int error = nki_conn_find(loop, conn, out);
    if (NKI_LIKELY(error == NETKIT_OK) &&
        NKI_UNLIKELY(((*out)->flags & (NKI_C_CLOSING | NKI_C_DEAD)) != 0)) {
        return NETKIT_E_CLOSED;
    }
    return error;
}

/* ---- sending ---- */

static NKI_OUTLINE int nki_send_check(netkit_loop *loop, netkit_conn conn, nki_conn **out) {
    int error = nki_conn_find(loop, conn, out);
    if (NKI_LIKELY(error == NETKIT_OK) && NKI_UNLIKELY(((*out)->flags & NKI_C_ENDING) != 0)) {
        return NETKIT_E_CLOSED;
    }
    return error;
}

static NKI_COLD int nki_send_refuse(netkit_loop *loop, nki_conn *c, size_t len) {
    if (len > c->behaviour->options.send_max) {
        return NETKIT_E_TOOBIG;
    }
    c->u.live.refused = (uint32_t)len;
    c->flags = (c->flags & ~(uint32_t)NKI_C_DRAIN_DUE) | NKI_C_REFUSED;
    if (loop->desc.debug && (c->flags & NKI_C_DUPLEX) != 0 && nki_is_in_data(loop, c)) {
        loop->ignored = c;
    }
    return NETKIT_E_FULL;
}

static NKI_COLD int nki_send_nomem(netkit_loop *loop, nki_conn *c) {
    nki_conn_fail(loop, c, NETKIT_OP_WRITE, NETKIT_E_NOMEM, NKI_WHY_NOMEM_SEND, 0, true);
    return NETKIT_E_NOMEM;
}

/* After bytes were queued: now at 64 KiB, else when the callback returns or the turn ends. */
static int nki_send_queued(netkit_loop *loop, nki_conn *c) {
    if (NKI_LIKELY(loop->current != c)) {
        nki_conn_mark_dirty(loop, c);
    }
    if (NKI_UNLIKELY(c->unflushed >= NKI_FLUSH_AT)) {
        nki_conn_flush(loop, c);
    }
    return NETKIT_OK;
}

/* A large send on an empty queue goes to the system from the caller's memory. Returns the count
 * that went, or an error that has ended the conn. */
static int nki_send_direct(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    if (nki_conn_has_output(loop, c) || (c->flags & (NKI_C_HELD | NKI_C_CORKED)) != 0) {
        return 0;
    }
    int n = loop->driver->send(loop, c, data, len);
    if (n == NETKIT_E_AGAIN) {
        c->flags |= NKI_C_STALLED;
        return 0;
    }
    if (n < 0) {
        nki_conn_fail(loop, c, NETKIT_OP_WRITE, n, NKI_WHY_WRITE, loop->driver->os_code(), false);
    }
    return n;
}

static NKI_OUTLINE int nki_conn_send_slow(netkit_loop *loop, netkit_conn conn, const void *data,
                                          size_t len) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (NKI_UNLIKELY(data == NULL || len == 0)) {
        return len == 0 ? NETKIT_OK : NETKIT_E_INVALID;
    }
    if (NKI_UNLIKELY(len > nki_out_room(loop, c))) {
        return nki_send_refuse(loop, c, len);
    }
    if (len >= NKI_DIRECT_MIN) {
        int n = nki_send_direct(loop, c, data, len);
        if (n < 0) {
            return n;
        }
        c->u.live.active_ms = n > 0 ? loop->turn_ms : c->u.live.active_ms;
        if ((size_t)n == len) {
            return NETKIT_OK;
        }
        data = (const char *)data + n;
        len -= (size_t)n;
    }
    if (NKI_UNLIKELY(nki_out_copy(loop, c, data, len) != NETKIT_OK)) {
        return nki_send_nomem(loop, c);
    }
    return nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_send(netkit_loop *loop, netkit_conn conn, const void *data, size_t len) {
    int error = nki_enter_now(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    /* What nearly every send is: a small answer in the conn's own callback. */
    if (NKI_LIKELY(conn.id == loop->stage_id && len < NKI_DIRECT_MIN &&
                   len - 1 < loop->stage_room && data != NULL)) {
        nki_stage_copy(loop, data, len);
        return NETKIT_OK;
    }
    return nki_conn_send_slow(loop, conn, data, len);
}

NETKIT_API int netkit_conn_sendv(netkit_loop *loop, netkit_conn conn, const netkit_span *spans,
                                 size_t count) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (spans == NULL && count != 0) {
        return NETKIT_E_INVALID;
    }
    uint32_t send_max = c->behaviour->options.send_max;
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (spans[i].data == NULL && spans[i].len != 0) {
            return NETKIT_E_INVALID;
        }
        if (spans[i].len > send_max || sum + spans[i].len > send_max) {
            return NETKIT_E_TOOBIG;
        }
        sum += spans[i].len;
    }
    if (sum > nki_out_room(loop, c)) {
        return nki_send_refuse(loop, c, sum);
    }
    for (size_t i = 0; i < count; i++) {
        if (spans[i].len != 0 && nki_out_copy(loop, c, spans[i].data, spans[i].len) != NETKIT_OK) {
            return nki_send_nomem(loop, c);
        }
    }
    return nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_send_borrowed(netkit_loop *loop, netkit_conn conn, const void *data,
                                         size_t len, netkit_release_fn release, void *user) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (data == NULL && len != 0) {
        return NETKIT_E_INVALID;
    }
    if (c->borrowed >= c->behaviour->options.chunks_max) {
        return nki_send_refuse(loop, c, 1);
    }
    /* Failing to note the loan takes nothing from the stream: the memory is the caller's still. */
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    error = nki_out_lend(loop, c, data, len, release, user);
    return error != NETKIT_OK ? error : nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_send_file(netkit_loop *loop, netkit_conn conn, uintptr_t file,
                                     uint64_t offset, uint64_t len, netkit_release_fn release,
                                     void *user) {
    nki_conn *c;
    uintptr_t own;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (c->borrowed >= c->behaviour->options.chunks_max) {
        return nki_send_refuse(loop, c, 1);
    }
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    error = loop->driver->file_open(file, offset, &len, &own);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_chunk *chunk = len > SIZE_MAX / 2 ? NULL : nki_chunk_lent(loop, (size_t)len, release, user);
    if (chunk == NULL) {
        loop->driver->file_close(own);
        return len > SIZE_MAX / 2 ? NETKIT_E_TOOBIG : NETKIT_E_NOMEM;
    }
    chunk->file = own + 1;
    chunk->offset = offset;
    nki_out_lend_chunk(c, chunk);
    return nki_send_queued(loop, c);
}

/* ---- writing in place ---- */

NKI_STATIC_ASSERT(reserve_max, NETKIT_RESERVE_MAX <= NKI_CHUNK_SIZE - (int)sizeof(nki_chunk));

/* Where `len` bytes in one piece would go: into the stage, behind the last chunk, or into a chunk
 * of the reserve. NULL when there is no memory. */
static unsigned char *nki_out_place(netkit_loop *loop, const nki_conn *c, size_t len,
                                    size_t *room) {
    if (loop->stage_id == c->source.id && len <= loop->stage_room) {
        *room = loop->stage_room;
        return loop->stage + loop->stage_len;
    }
    nki_chunk *last = nki_out_open(c);
    if (last != NULL && len <= last->capacity - last->end && nki_staged(loop, c) == 0) {
        *room = last->capacity - last->end;
        return (unsigned char *)(last + 1) + last->end;
    }
    if (loop->chunks == NULL && nki_chunk_stock(loop, 1) != NETKIT_OK) {
        return NULL;
    }
    *room = NKI_CHUNK_SIZE - sizeof(nki_chunk);
    return (unsigned char *)(loop->chunks + 1);
}

NETKIT_API int netkit_conn_reserve(netkit_loop *loop, netkit_conn conn, size_t len, void **out,
                                   size_t *room) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    nki_no_answer(room, sizeof *room);
    int error = nki_send_check(loop, conn, &c);
    if (error == NETKIT_OK && (out == NULL || room == NULL)) {
        error = NETKIT_E_INVALID;
    }
    if (error != NETKIT_OK) {
        return error;
    }
    len = NKI_MAX(len, (size_t)1);
    if (len > NETKIT_RESERVE_MAX) {
        return NETKIT_E_TOOBIG;
    }
    if (len > nki_out_room(loop, c)) {
        return nki_send_refuse(loop, c, len);
    }
    size_t piece;
    loop->reserved = nki_out_place(loop, c, len, &piece);
    loop->reserved_id = conn.id;
    if (loop->reserved == NULL) {
        return NETKIT_E_NOMEM;
    }
    *out = loop->reserved;
    *room = NKI_MIN(piece, nki_out_room(loop, c));
    return NETKIT_OK;
}

/* How much fits at a place that was reserved; 0 when it is not free any more. */
static size_t nki_out_place_room(const netkit_loop *loop, const nki_conn *c,
                                 const unsigned char *at) {
    if (loop->stage_id == c->source.id && at == loop->stage + loop->stage_len) {
        return loop->stage_room;
    }
    const nki_chunk *last = nki_out_open(c);
    if (last != NULL && at == (const unsigned char *)(last + 1) + last->end) {
        return nki_staged(loop, c) == 0 ? last->capacity - last->end : 0;
    }
    bool is_spare = loop->chunks != NULL && at == (const unsigned char *)(loop->chunks + 1);
    return is_spare ? NKI_CHUNK_SIZE - sizeof(nki_chunk) : 0;
}

/* What was written to the reserve becomes part of the queue. NETKIT_E_NOMEM: the conn is doomed. */
static int nki_out_commit(netkit_loop *loop, nki_conn *c, const unsigned char *at, size_t len) {
    if (at == loop->stage + loop->stage_len) {
        loop->stage_len += len;
        loop->stage_room -= len;
        return NETKIT_OK;
    }
    nki_chunk *last = nki_out_open(c);
    if (last == NULL || at != (unsigned char *)(last + 1) + last->end) {
        last = nki_chunk_take(loop);
        if (nki_stage_spill(loop, c) != NETKIT_OK) {
            nki_chunk_give(loop, last);
            return NETKIT_E_NOMEM;
        }
        nki_out_append(c, last);
    }
    last->end += len;
    c->queued += (uint32_t)len;
    nki_out_count(c, len);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_commit(netkit_loop *loop, netkit_conn conn, size_t len) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    const unsigned char *at = loop->reserved; /* now that the thread is known to be the loop's */
    if (at == NULL || loop->reserved_id != conn.id || len > nki_out_room(loop, c)) {
        return NETKIT_E_INVALID;
    }
    loop->reserved = NULL;
    if (len == 0) {
        return NETKIT_OK;
    }
    if (len > nki_out_place_room(loop, c, at)) {
        return NETKIT_E_INVALID;
    }
    if (nki_out_commit(loop, c, at, len) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    return nki_send_queued(loop, c);
}

/* ---- corking ---- */

NETKIT_API int netkit_conn_cork(netkit_loop *loop, netkit_conn conn, bool corked) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (!corked) {
        c->flags &= ~(uint32_t)(NKI_C_CORKED | NKI_C_FLUSHING);
        nki_conn_mark_dirty(loop, c);
        return NETKIT_OK;
    }
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    c->flags |= NKI_C_CORKED;
    return NETKIT_OK;
}

/* What stands between a caller's descriptors and the queue, in the order of the codes. */
static int nki_send_fds_check(netkit_loop *loop, nki_conn *c, size_t len, size_t count) {
    if ((c->flags & NKI_C_TCP) != 0) {
        return NETKIT_E_NOSYS;
    }
    if (count > NETKIT_FDS_MAX) {
        return NETKIT_E_TOOBIG;
    }
    if (len > nki_out_room(loop, c)) {
        return nki_send_refuse(loop, c, len);
    }
    return c->borrowed >= c->behaviour->options.chunks_max ? nki_send_refuse(loop, c, len)
                                                           : (int)NETKIT_OK;
}

NETKIT_API int netkit_conn_send_fds(netkit_loop *loop, netkit_conn conn, const void *data,
                                    size_t len, const uintptr_t *fds, size_t count) {
    nki_conn *c;
    nki_batch *b;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (data == NULL || len == 0 || fds == NULL || count == 0) {
        return NETKIT_E_INVALID;
    }
    error = nki_send_fds_check(loop, c, len, count);
    size_t first = NKI_MIN(len, (size_t)NKI_BATCH_BYTES);
    if (error == NETKIT_OK) {
        error = nki_batch_create(loop, data, first, fds, count, &b);
    }
    if (error != NETKIT_OK) {
        return error; /* nothing was taken */
    }
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        nki_batch_done(loop, NETKIT_E_NOMEM, b);
        return nki_send_nomem(loop, c);
    }
    error = nki_out_lend(loop, c, b->fds + count, first, nki_batch_done, b);
    if (error != NETKIT_OK) {
        nki_batch_done(loop, error, b);
        return error;
    }
    if (len > first &&
        nki_out_copy(loop, c, (const char *)data + first, len - first) != NETKIT_OK) {
        return nki_send_nomem(loop, c);
    }
    return nki_send_queued(loop, c);
}

NETKIT_API int netkit_conn_want_drain(netkit_loop *loop, netkit_conn conn, size_t room) {
    nki_conn *c;
    int error = nki_send_check(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (room > c->behaviour->options.send_max) {
        return NETKIT_E_TOOBIG;
    }
    c->u.live.refused = (uint32_t)room;
    c->flags |= NKI_C_REFUSED;
    nki_conn_mark_dirty(loop, c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_flush(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        nki_conn_mark_dirty(loop, c); /* first: a conn that dies in the flush is in one list then */
        if ((c->flags & NKI_C_STALLED) != 0) {
            loop->reserved = NULL;
            nki_commit(loop); /* what is on its way comes before what is behind it */
        }
        loop->is_flushing = 1;
        nki_conn_flush(loop, c);
        loop->is_flushing = 0;
        nki_commit(loop);
    }
    return error;
}

/* ---- flow ---- */

NETKIT_API int netkit_conn_pause(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        c->flags = (c->flags | NKI_C_PAUSED) & ~(uint32_t)NKI_C_REOFFER;
        nki_conn_arm(loop, c);
    }
    return error;
}

/* Offer what is unused again even when nothing comes behind it. From inside on_data that is done
 * in the next turn: a handler that always asks for it must not hold us. */
static void nki_conn_reoffer(netkit_loop *loop, nki_conn *c) {
    bool is_in_data = nki_is_in_data(loop, c);
    if (c->carry != NULL || is_in_data) {
        c->flags |= NKI_C_REOFFER;
    }
    if (is_in_data) {
        nki_enqueue_later(loop, &c->source);
    } else {
        nki_enqueue(loop, &c->source);
    }
}

NETKIT_API int netkit_conn_resume(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    c->flags &= ~(uint32_t)NKI_C_PAUSED;
    nki_conn_reoffer(loop, c);
    nki_conn_arm(loop, c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_shutdown(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        nki_stage_close(loop, c);
        c->flags = (c->flags | NKI_C_SHUT) & ~(uint32_t)NKI_C_CORKED;
        nki_conn_mark_dirty(loop, c);
    }
    return error;
}

NETKIT_API int netkit_conn_close(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find(loop, conn, &c);
    if (error == NETKIT_OK && (c->flags & (NKI_C_CLOSING | NKI_C_DEAD)) == 0) {
        nki_refresh_time(loop); /* the deadline counts from now, not from the last turn */
        nki_conn_begin_close(loop, c);
        if ((c->flags & NKI_C_DEAD) == 0) {
            nki_conn_mark_dirty(loop, c);
        }
    }
    return error;
}

NETKIT_API int netkit_conn_abort(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find(loop, conn, &c);
    if (error == NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_ABORTED, NKI_WHY_ABORTED, 0, true);
    }
    return error;
}

/* ---- looking ---- */

NETKIT_API int netkit_conn_queued(netkit_loop *loop, netkit_conn conn, size_t *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    *out = nki_out_bytes(loop, c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_unread(netkit_loop *loop, netkit_conn conn, size_t *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    *out = nki_carry_len(c);
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_phase(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((c->flags & (NKI_C_CLOSING | NKI_C_DEAD)) != 0) {
        return NETKIT_PHASE_CLOSING;
    }
    return (c->flags & NKI_C_OPENED) != 0 ? NETKIT_PHASE_OPEN : NETKIT_PHASE_CONNECTING;
}

/* A conn whose descriptor is still there. */
static int nki_conn_find_socket(netkit_loop *loop, netkit_conn conn, const void *out,
                                nki_conn **found) {
    int error = nki_conn_find(loop, conn, found);
    if (error != NETKIT_OK) {
        return error;
    }
    if (((*found)->flags & NKI_C_DEAD) != 0) {
        return NETKIT_E_CLOSED;
    }
    return out == NULL ? NETKIT_E_INVALID : NETKIT_OK;
}

NETKIT_API int netkit_conn_local(netkit_loop *loop, netkit_conn conn, netkit_addr *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find_socket(loop, conn, out, &c);
    return error != NETKIT_OK ? error : loop->driver->local(loop, c->source.socket, out);
}

NETKIT_API int netkit_conn_remote(netkit_loop *loop, netkit_conn conn, netkit_addr *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find_socket(loop, conn, out, &c);
    return error != NETKIT_OK ? error : loop->driver->remote(loop, c->source.socket, out);
}

NETKIT_API int netkit_conn_native(netkit_loop *loop, netkit_conn conn, uintptr_t *native) {
    nki_conn *c;
    nki_no_native(native);
    int error = nki_conn_find_socket(loop, conn, native, &c);
    if (error == NETKIT_OK) {
        *native = c->source.socket;
    }
    return error;
}

NETKIT_API int netkit_conn_set_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int value) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    bool would_wait = option == NETKIT_OPT_BLOCKING || (option == NETKIT_OPT_LINGER && value > 0);
    if (error == NETKIT_OK && would_wait) {
        return NETKIT_E_INVALID;
    }
    return error != NETKIT_OK ? error
                              : loop->driver->set_option(loop, c->source.socket, option, value);
}

NETKIT_API int netkit_conn_get_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int *value) {
    nki_conn *c;
    nki_no_answer(value, sizeof *value);
    int error = nki_conn_find_socket(loop, conn, value, &c);
    return error != NETKIT_OK ? error
                              : loop->driver->get_option(loop, c->source.socket, option, value);
}

NETKIT_API int netkit_conn_set_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, const char *value) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || value == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return loop->driver->set_text(loop, c->source.socket, option, value);
}

NETKIT_API int netkit_conn_get_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, char *text, size_t size) {
    nki_conn *c;
    if (text != NULL && size != 0) {
        text[0] = 0;
    }
    int error = nki_conn_find_socket(loop, conn, size == 0 ? NULL : text, &c);
    return error != NETKIT_OK ? error
                              : loop->driver->get_text(loop, c->source.socket, option, text, size);
}

NETKIT_API int netkit_conn_credentials(netkit_loop *loop, netkit_conn conn,
                                       netkit_credentials *out) {
    nki_conn *c;
    if (out != NULL) {
        out->pid = out->uid = out->gid = -1;
    }
    int error = nki_conn_find_socket(loop, conn, out, &c);
    return error != NETKIT_OK ? error : loop->driver->credentials(loop, c->source.socket, out);
}

NETKIT_API int netkit_conn_take_fd(netkit_loop *loop, netkit_conn conn, uintptr_t *out) {
    nki_conn *c;
    if (out != NULL) {
        *out = UINTPTR_MAX;
    }
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    if (c->fds == NULL) {
        return NETKIT_E_AGAIN;
    }
    *out = nki_fds_at(c->fds)[c->fds->begin++];
    if (c->fds->begin == c->fds->end) {
        nki_fds_forget(loop, c);
    }
    return NETKIT_OK;
}

NETKIT_API void *netkit_conn_user(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    return nki_conn_find(loop, conn, &c) == NETKIT_OK ? c->user : NULL;
}

NETKIT_API int netkit_conn_set_user(netkit_loop *loop, netkit_conn conn, void *user) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error == NETKIT_OK) {
        c->user = user;
    }
    return error;
}

NETKIT_API void *netkit_conn_ext(netkit_loop *loop, netkit_conn conn) {
    nki_conn *c;
    return nki_conn_find(loop, conn, &c) == NETKIT_OK ? c->ext : NULL;
}

/* ---- changing ---- */

NETKIT_API int netkit_conn_set_handler(netkit_loop *loop, netkit_conn conn,
                                       const netkit_handler *handler, void *user) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || handler == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    nki_behaviour *b = nki_behaviour_derive(loop, c->behaviour, handler);
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_behaviour_drop(loop, c->behaviour);
    c->behaviour = b;
    c->user = user;
    if ((c->flags & NKI_C_PAUSED) == 0) {
        nki_conn_reoffer(loop, c); /* what the old table leaves may be all that comes for now */
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_conn_set_idle_timeout(netkit_loop *loop, netkit_conn conn,
                                            uint32_t timeout_ms) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK || timeout_ms > INT32_MAX) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    if (nki_conn_cold(loop, c) == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_refresh_time(loop);
    c->u.live.active_ms = loop->turn_ms;
    c->cold->idle_ms = timeout_ms;
    return nki_conn_set_timer(loop, c);
}

NETKIT_API int netkit_conn_set_deadline(netkit_loop *loop, netkit_conn conn, uint32_t deadline_ms) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    if (error != NETKIT_OK) {
        return error;
    }
    if (nki_conn_cold(loop, c) == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_refresh_time(loop);
    c->cold->deadline_ns = deadline_ms == 0 ? NKI_NEVER : nki_after_ms(loop, deadline_ms);
    return nki_conn_set_timer(loop, c);
}

NETKIT_API int netkit_conn_set_referenced(netkit_loop *loop, netkit_conn conn, bool referenced) {
    nki_conn *c;
    int error = nki_conn_find_open(loop, conn, &c);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &c->source, referenced);
}

NETKIT_API int netkit_conn_keep(netkit_loop *loop, netkit_conn conn, netkit_buf *out) {
    nki_conn *c;
    nki_no_answer(out, sizeof *out);
    int error = nki_conn_find(loop, conn, &c);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return nki_is_in_data(loop, c) ? nki_keep(loop, out) : NETKIT_E_BUSY;
}

NETKIT_API int netkit_close_describe(const netkit_close_info *info, char *text, size_t size) {
    static const char *const ops[] = {"ending",    "opening", "connecting", "accepting",
                                      "receiving", "sending", "closing",    "a timer"};
    static const char *const phases[] = {"", "connecting", "open", "closing"};
    if (info == NULL || (text == NULL && size != 0)) {
        return NETKIT_E_INVALID;
    }
    const char *op = (unsigned)info->op < NKI_COUNT(ops) ? ops[info->op] : ops[0];
    const char *phase = (unsigned)info->phase < NKI_COUNT(phases) ? phases[info->phase] : "";
    return snprintf(text, size, "%s: %s (%s, system code %d) by %s while %s, %lu bytes unsent",
                    info->text == NULL ? "" : info->text, netkit_error_text(info->code),
                    netkit_error_name(info->code), info->os_code, op, phase,
                    (unsigned long)info->unsent);
}

/* ---- dialling and adopting ---- */

/* Connecting has begun, or has ended at once; on_open comes from the loop either way. */
static int nki_conn_dial(netkit_loop *loop, nki_conn *c, const netkit_connect_desc *desc,
                         const netkit_addr *to) {
    if (to->family == NETKIT_AF_IPV4 || to->family == NETKIT_AF_IPV6) {
        c->flags |= NKI_C_TCP;
    }
    int error = loop->driver->connect(loop, c, to, desc->source);
    if (error != NETKIT_OK && error != NETKIT_E_AGAIN) {
        return error;
    }
    bool is_done = error == NETKIT_OK;
    c->flags |= NKI_C_CONNECTING;
    error = nki_conn_set_options(loop, c, false);
    if (error == NETKIT_OK) {
        error = nki_conn_start_timeouts(
            loop, c, desc->timeout_ms == 0 ? loop->desc.timeouts.connect_ms : desc->timeout_ms);
    }
    if (error == NETKIT_OK) {
        error = loop->driver->attach(loop, &c->source);
    }
    if (error != NETKIT_OK) {
        loop->driver->discard(loop, c->source.socket, true);
    } else if (is_done) {
        nki_ready(loop, &c->source, NETKIT_POLL_WRITE);
    }
    return error;
}

NETKIT_API int netkit_connect(netkit_loop *loop, const netkit_connect_desc *desc,
                              netkit_conn *out) {
    netkit_addr to;
    nki_behaviour *b;
    nki_conn *c;
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error == NETKIT_OK) {
        error = desc == NULL || desc->timeout_ms > INT32_MAX
                    ? NETKIT_E_INVALID
                    : nki_desc_addr(desc->address, desc->addr, &to);
    }
    if (error == NETKIT_OK) {
        error = nki_behaviour_create(loop, &desc->handler, &desc->conn, &b);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    nki_refresh_time(loop);
    error = nki_conn_create(loop, b, desc->user, 0, &c);
    nki_behaviour_drop(loop, b); /* the conn holds it */
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_conn_dial(loop, c, desc, &to);
    if (error != NETKIT_OK) {
        nki_conn_undo(loop, c);
        return error;
    }
    nki_conn_arm(loop, c);
    if (out != NULL) {
        *out = nki_conn_handle(c);
    }
    return NETKIT_OK;
}

static int nki_conn_take_over(netkit_loop *loop, nki_conn *c) {
    bool is_tcp = false;
    int error = loop->driver->adopt(loop, c->source.socket, &is_tcp);
    if (is_tcp) {
        c->flags |= NKI_C_TCP;
    }
    if (error == NETKIT_OK) {
        error = nki_conn_set_options(loop, c, false);
    }
    if (error == NETKIT_OK) {
        error = nki_conn_start_timeouts(loop, c, 0);
    }
    return error != NETKIT_OK ? error : loop->driver->attach(loop, &c->source);
}

NETKIT_API int netkit_adopt(netkit_loop *loop, const netkit_adopt_desc *desc, netkit_conn *out) {
    nki_behaviour *b;
    nki_conn *c;
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error == NETKIT_OK) {
        error = desc == NULL || desc->socket.value == 0
                    ? NETKIT_E_INVALID
                    : nki_behaviour_create(loop, &desc->handler, &desc->conn, &b);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    nki_refresh_time(loop);
    error = nki_conn_create(loop, b, desc->user, netkit_socket_native(desc->socket), &c);
    nki_behaviour_drop(loop, b);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_conn_take_over(loop, c);
    if (error != NETKIT_OK) {
        nki_conn_undo(loop, c);
        return error;
    }
    c->flags |= NKI_C_OPEN_DUE;
    nki_enqueue(loop, &c->source);
    nki_conn_arm(loop, c);
    if (out != NULL) {
        *out = nki_conn_handle(c);
    }
    return NETKIT_OK;
}
