/* Conns: their life from the descriptor to on_close, and the one step a ready conn takes.
 *
 * A conn is alive, closing (netkit_conn_close was called: flush, FIN, discard until the peer's
 * FIN), or dead (its descriptor is shut; releases and on_close are due). Dying is a mark set at
 * once, anywhere; everything the user hears of it comes from the turn. Keeps I2, I3, I4, I9.
 *
 * A transport (TLS) has its place between conn and driver: received bytes pass
 * nki_conn_received() alone on their way up, queued ones nki_conn_flush() and
 * nki_conn_flush_stage() on their way down. */

static const char *const nki_why_texts[] = {
    "closed here, and the peer has ended its side",
    "the peer ended the stream and the connection was closed",
    "aborted by netkit_conn_abort",
    "the loop was destroyed",
    "connecting failed",
    "connecting took longer than its timeout",
    "receiving failed",
    "sending failed",
    "no byte moved for longer than the idle timeout",
    "the deadline of the connection is over",
    "the peer sent less than the minimum rate",
    "on_data used nothing of a full receive buffer",
    "the peer did not end its side within the close deadline",
    "the peer kept sending after the connection was closed here",
    "memory ran out while bytes were being queued",
    "memory ran out while bytes were being received",
    "memory ran out while the connection was being closed",
    "closed here before it was connected",
    "more descriptors came than may wait to be taken",
    "descriptors that came were lost, as the process had no room for them",
};

enum {
    NKI_WHY_CLOSED,
    NKI_WHY_PEER_END,
    NKI_WHY_ABORTED,
    NKI_WHY_DESTROYED,
    NKI_WHY_CONNECT,
    NKI_WHY_CONNECT_TIMEOUT,
    NKI_WHY_READ,
    NKI_WHY_WRITE,
    NKI_WHY_IDLE,
    NKI_WHY_DEADLINE,
    NKI_WHY_RATE,
    NKI_WHY_TOOBIG,
    NKI_WHY_CLOSE_DEADLINE,
    NKI_WHY_DRAIN_MAX,
    NKI_WHY_NOMEM_SEND,
    NKI_WHY_NOMEM_RECV,
    NKI_WHY_NOMEM_CLOSE,
    NKI_WHY_CANCELLED,
    NKI_WHY_FDS_MAX,
    NKI_WHY_FDS_LOST,
    NKI_WHY_COUNT_
};

NKI_STATIC_ASSERT(why_texts, NKI_COUNT(nki_why_texts) == NKI_WHY_COUNT_);

static NKI_HOT size_t nki_conn_room(const nki_conn *c);
static void nki_listener_room(netkit_loop *loop, uint64_t listener);
static void nki_fds_forget(netkit_loop *loop, nki_conn *c);
static void nki_udp_flush_dirty(netkit_loop *loop);

/* ---- behaviours ---- */

static int nki_options_init(netkit_conn_options *out, const netkit_conn_options *given,
                            const netkit_timeouts *timeouts) {
    *out = *given;
    uint32_t idle_ms = given->idle_timeout_ms == 0 ? timeouts->idle_ms : given->idle_timeout_ms;
    out->idle_timeout_ms = idle_ms == NETKIT_TIMEOUT_NONE ? 0 : idle_ms;
    out->send_max = given->send_max == 0 ? 262144 : given->send_max;
    out->recv_max = given->recv_max == 0 ? NKI_MIN(65536u, out->send_max) : given->recv_max;
    out->chunks_max = given->chunks_max == 0 ? 1024 : given->chunks_max;
    out->drain_max = given->drain_max == 0 ? 1048576 : given->drain_max;
    out->close_deadline_ms =
        given->close_deadline_ms == 0 ? timeouts->close_ms : given->close_deadline_ms;
    out->rate_period_ms = given->rate_period_ms == 0 ? 5000 : given->rate_period_ms;
    bool is_valid = out->send_max <= INT32_MAX && out->recv_max <= INT32_MAX &&
                    out->drain_max <= INT32_MAX && out->chunks_max <= UINT16_MAX &&
                    out->ext_size <= INT32_MAX && out->idle_timeout_ms <= INT32_MAX &&
                    out->keepalive_s <= INT16_MAX && out->user_timeout_ms <= INT32_MAX &&
                    out->recv_buffer <= INT32_MAX && out->send_buffer <= INT32_MAX &&
                    out->fds_max <= UINT16_MAX && out->close_deadline_ms != NETKIT_TIMEOUT_NONE &&
                    (out->duplex || out->recv_max <= out->send_max);
    return is_valid ? NETKIT_OK : NETKIT_E_INVALID;
}

static int nki_behaviour_create(netkit_loop *loop, const netkit_handler *handler,
                                const netkit_conn_options *options, nki_behaviour **out) {
    netkit_conn_options filled;
    int error = nki_options_init(&filled, options, &loop->desc.timeouts);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_behaviour *b = (nki_behaviour *)nki_alloc_zero(&loop->allocator, sizeof *b);
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    b->handler = *handler;
    b->is_plain = handler->on_data != NULL && loop->is_plain;
    b->options = filled;
    b->read_max = NKI_MIN((uint32_t)NKI_RECV_SIZE, filled.recv_max);
    b->stage_max = NKI_MIN((uint32_t)NKI_FLUSH_AT, filled.send_max);
    b->references = 1;
    b->origin = b;
    *out = b;
    return NETKIT_OK;
}

static void nki_behaviour_drop(netkit_loop *loop, nki_behaviour *b) {
    while (b != NULL && --b->references == 0) {
        nki_behaviour *origin = b->origin == b ? NULL : b->origin;
        if (origin != NULL && origin->derived == b) {
            origin->derived = NULL;
        }
        nki_free(&loop->allocator, b, sizeof *b);
        b = origin;
    }
}

/* The same conns with another table: shared with the last one made so, if it is equal. */
static nki_behaviour *nki_behaviour_derive(netkit_loop *loop, nki_behaviour *from,
                                           const netkit_handler *handler) {
    nki_behaviour *origin = from->origin;
    nki_behaviour *b = origin->derived;
    if (b != NULL && memcmp(&b->handler, handler, sizeof *handler) == 0) {
        b->references++;
        return b;
    }
    b = (nki_behaviour *)nki_alloc_zero(&loop->allocator, sizeof *b);
    if (b == NULL) {
        return NULL;
    }
    b->handler = *handler;
    b->is_plain = handler->on_data != NULL && loop->is_plain;
    b->options = origin->options;
    b->read_max = origin->read_max;
    b->stage_max = origin->stage_max;
    b->references = 1;
    b->origin = origin;
    origin->references++;
    origin->derived = b;
    return b;
}

/* ---- the cold part and its timer ---- */

static NKI_OUTLINE nki_cold *nki_conn_cold(netkit_loop *loop, nki_conn *c) {
    if (c->cold == NULL) {
        nki_cold *cold = (nki_cold *)nki_alloc_zero(&loop->allocator, sizeof *cold);
        if (cold == NULL) {
            return NULL;
        }
        cold->conn = c;
        cold->timer.kind = NKI_KIND_CONN;
        cold->connect_due_ns = NKI_NEVER;
        cold->close_due_ns = NKI_NEVER;
        cold->deadline_ns = NKI_NEVER;
        cold->rate_due_ns = NKI_NEVER;
        c->cold = cold;
    }
    return c->cold;
}

static void nki_cold_free(netkit_loop *loop, nki_conn *c) {
    if (c->cold != NULL) {
        nki_timers_stop(&loop->timers, &c->cold->timer);
        nki_free(&loop->allocator, c->cold, sizeof *c->cold);
        c->cold = NULL;
    }
}

/* Time without traffic. Milliseconds wrap after 49 days, so the difference is what counts; idle
 * timeouts are at most half of that and looked at more often. */
static uint32_t nki_conn_idle_ms(const netkit_loop *loop, const nki_conn *c) {
    return loop->turn_ms - c->u.live.active_ms;
}

/* Set the one timer to the earliest of its times. Traffic does not come here: when the timer
 * fires it looks at the time stamp of the last byte and goes on for the rest. */
static NKI_OUTLINE int nki_conn_set_timer(netkit_loop *loop, nki_conn *c) {
    nki_cold *cold = c->cold;
    uint64_t due = NKI_MIN(cold->connect_due_ns, cold->close_due_ns);
    due = NKI_MIN(due, NKI_MIN(cold->deadline_ns, cold->rate_due_ns));
    if (cold->idle_ms != 0) {
        uint32_t idle = nki_conn_idle_ms(loop, c);
        /* One more than asked: the time stamp was cut to milliseconds. */
        uint64_t left = idle > cold->idle_ms ? 0 : (uint64_t)cold->idle_ms + 1 - idle;
        due = NKI_MIN(due, loop->turn_ns + left * NKI_NS_PER_MS);
    }
    if (due == NKI_NEVER) {
        nki_timers_stop(&loop->timers, &cold->timer);
        return NETKIT_OK;
    }
    if (cold->timer.at != 0) {
        nki_timers_restart(&loop->timers, &cold->timer, due);
        return NETKIT_OK;
    }
    return nki_timers_start(&loop->timers, &cold->timer, due);
}

static uint64_t nki_after_ms(const netkit_loop *loop, uint64_t ms) {
    return loop->turn_ns + ms * NKI_NS_PER_MS;
}

/* ---- dying ---- */

static NKI_OUTLINE void nki_conn_reason(nki_conn *c, netkit_op op, int code, int why, int os_code) {
    c->u.end.op = (uint8_t)op;
    c->u.end.code = (int8_t)code;
    c->u.end.why = (uint8_t)why;
    c->u.end.os_code = os_code;
    c->u.end.phase = (uint8_t)((c->flags & NKI_C_CLOSING) != 0  ? NETKIT_PHASE_CLOSING
                               : (c->flags & NKI_C_OPENED) == 0 ? NETKIT_PHASE_CONNECTING
                                                                : NETKIT_PHASE_OPEN);
}

/* The end of a conn, from anywhere: nothing more is read, sent or told but its end. */
static NKI_OUTLINE void nki_conn_die(netkit_loop *loop, nki_conn *c, bool reset) {
    nki_stage_close(loop, c);
    c->flags |= NKI_C_DEAD;
    nki_cold_free(loop, c);
    nki_fds_forget(loop, c);
    loop->driver->shut(loop, &c->source, reset);
}

static NKI_OUTLINE void nki_conn_fail(netkit_loop *loop, nki_conn *c, netkit_op op, int code,
                                      int why, int os_code, bool reset) {
    if ((c->flags & NKI_C_DEAD) == 0) {
        nki_conn_reason(c, op, code, why, os_code);
        nki_conn_die(loop, c, reset);
    }
}

/* For drivers: no event or completion of this source can come any more. */
static void nki_gone(netkit_loop *loop, nki_source *source) {
    source->flags |= NKI_S_GONE;
    if (nki_id_kind(source->id) == NKI_KIND_CONN) {
        nki_conn *c = (nki_conn *)(void *)source;
        size_t unsent = nki_out_bytes(loop, c);
        c->tally = unsent > UINT32_MAX ? UINT32_MAX : (uint32_t)unsent;
        if ((c->flags & NKI_C_DIRTY) == 0) {
            nki_conn_queue_push(&loop->dead, c);
        } /* else the flush of the turn finds it and moves it */
    } else if (nki_id_kind(source->id) != 0) {
        nki_enqueue(loop, source);
    }
}

/* Give back what a conn owns besides its slot. */
static NKI_OUTLINE void nki_conn_dispose_parts(netkit_loop *loop, nki_conn *c) {
    nki_behaviour *b = c->behaviour;
    nki_carry_free(loop, c);
    nki_ext_free(&loop->allocator, c->ext, b->options.ext_size);
    c->ext = NULL;
    b->origin->conns--;
    if (b->origin->listener != 0) {
        nki_listener_room(loop, b->origin->listener);
    }
    nki_behaviour_drop(loop, b);
    c->behaviour = NULL;
}

static void nki_conn_dispose(netkit_loop *loop, nki_conn *c) {
    nki_conn_dispose_parts(loop, c);
    nki_bury(loop, &c->source);
}

static void nki_conn_close_info(const nki_conn *c, netkit_close_info *info) {
    info->code = c->u.end.code;
    info->os_code = c->u.end.os_code;
    info->op = (netkit_op)c->u.end.op;
    info->phase = (netkit_phase)c->u.end.phase;
    info->text = nki_why_texts[c->u.end.why];
    info->unsent = c->tally;
}

/* One callback of the first dead conn: a release of lent memory, or on_close. */
static void nki_conn_bury_step(netkit_loop *loop, nki_conn *c) {
    nki_chunk *lent = nki_out_drop(loop, c);
    if (lent != NULL) {
        nki_release(loop, lent,
                    c->u.end.code == NETKIT_OK ? (int)NETKIT_E_CANCELLED : c->u.end.code);
        return;
    }
    nki_conn_queue_pop(&loop->dead);
    if ((c->flags & NKI_C_UNTOLD) != 0) { /* destroyed between accept and on_open */
        nki_conn_dispose(loop, c);
        return;
    }
    netkit_close_info info;
    nki_conn_close_info(c, &info);
    if (c->behaviour->handler.on_close != NULL) {
        uint64_t started = nki_call_begin(loop);
        c->behaviour->handler.on_close(loop, nki_conn_handle(c), &info, c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_CLOSE, c, c->user);
        ev->conn = nki_conn_handle(c);
        ev->close = info;
        return; /* disposed of when the next event is fetched */
    }
    nki_conn_dispose(loop, c);
}

/* ---- sending ---- */

static void nki_conn_mark_dirty(netkit_loop *loop, nki_conn *c) {
    if (loop->current != c && (c->flags & NKI_C_DIRTY) == 0) {
        c->flags |= NKI_C_DIRTY;
        nki_conn_queue_push(&loop->dirty, c);
    }
}

/* The queue has shrunk: who waited for that? */
static void nki_conn_progress(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_REFUSED) != 0 && c->u.live.refused <= nki_out_room(loop, c) &&
        c->borrowed < c->behaviour->options.chunks_max) {
        c->flags = (c->flags & ~(uint32_t)NKI_C_REFUSED) | NKI_C_DRAIN_DUE;
        nki_enqueue_later(loop, &c->source); /* in turn with the others: it will send more */
    }
    if ((c->source.ready & NKI_READABLE) == 0 && (c->flags & NKI_C_REOFFER) == 0) {
        return;
    }
    if (loop->is_flushing) {
        nki_enqueue_later(loop, &c->source); /* else who flushes in on_drain never ends a turn */
    } else {
        nki_enqueue(loop, &c->source);
    }
}

static void nki_conn_flush_failed(netkit_loop *loop, nki_conn *c, int error) {
    nki_conn_fail(loop, c, NETKIT_OP_WRITE, error, NKI_WHY_WRITE, loop->driver->os_code(), false);
}

/* Part of what is staged did not go: it becomes the queue. */
static NKI_COLD void nki_conn_stage_rest(netkit_loop *loop, nki_conn *c, int n) {
    if (n == NETKIT_E_AGAIN) {
        c->flags |= NKI_C_STALLED;
        n = 0;
    }
    if (n < 0) {
        nki_conn_flush_failed(loop, c, n);
    }
    if ((c->flags & NKI_C_DEAD) != 0) {
        loop->stage_len = 0; /* counted as unsent when it died; the next conn starts afresh */
        return;
    }
    loop->stage_len -= (size_t)n;
    memmove(loop->stage, loop->stage + n, loop->stage_len);
    if (nki_stage_spill(loop, c) != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_WRITE, NETKIT_E_NOMEM, NKI_WHY_NOMEM_SEND, 0, true);
    }
    loop->stage_len = 0; /* of a dead conn too: else it would go out with the next conn's */
}

/* Send what the current conn has staged, in one call. Returns whether all of it went. */
static NKI_HOT bool nki_conn_flush_stage(netkit_loop *loop, nki_conn *c) {
    int n = 0;
    if (NKI_LIKELY((c->flags & NKI_C_HELD) == 0)) {
        n = loop->driver->send(loop, c, loop->stage, loop->stage_len);
    }
    if (NKI_UNLIKELY((size_t)n != loop->stage_len)) {
        nki_conn_stage_rest(loop, c, n);
        return false;
    }
    loop->stage_len = 0;
    return true;
}

/* What is staged is about to go: the idle time begins anew. */
static void nki_conn_touch(const netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_HELD) == 0) {
        c->u.live.active_ms = loop->turn_ms;
    }
}

/* Whether a stalled conn has been told of room; it is not stalled any more then. */
static bool nki_conn_unstall(nki_conn *c) {
    const uint32_t writable = NETKIT_POLL_WRITE | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    bool is_unstalled = (c->flags & NKI_C_STALLED) != 0 && (c->source.ready & writable) != 0;
    /* Before the flush: one that ends at its budget sets it again. */
    c->source.ready = (uint16_t)(c->source.ready & ~(uint32_t)NETKIT_POLL_WRITE);
    if (is_unstalled) {
        c->flags &= ~(uint32_t)NKI_C_STALLED;
    }
    return is_unstalled;
}

/* Send what is queued, as far as the system takes it. */
static NKI_OUTLINE void nki_conn_flush(netkit_loop *loop, nki_conn *c) {
    loop->reserved = NULL;
    if (loop->is_flushing && (c->flags & NKI_C_HELD) == NKI_C_STALLED) {
        (void)nki_conn_unstall(c); /* a turn does so when the conn is served */
    }
    if (nki_staged(loop, c) != 0) {
        nki_conn_touch(loop, c);
        (void)nki_conn_flush_stage(loop, c);
        nki_stage_reopen(loop, c);
    }
    c->unflushed = 0;
    if ((c->flags & NKI_C_CORKED) != 0) {
        c->flags |= NKI_C_FLUSHING;
    }
    if ((c->flags & NKI_C_HELD) != 0) {
        return;
    }
    int error = c->out == NULL ? NETKIT_OK : loop->driver->flush(loop, c);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        nki_conn_flush_failed(loop, c, error);
        return;
    }
    nki_conn_progress(loop, c);
}

static bool nki_conn_has_output(const netkit_loop *loop, const nki_conn *c) {
    return c->out != NULL || nki_staged(loop, c) != 0;
}

/* What follows from an empty queue: our FIN, and the end of a close. */
static void nki_conn_advance(netkit_loop *loop, nki_conn *c) {
    if (c->out != NULL || (c->flags & (NKI_C_DEAD | NKI_C_CONNECTING)) != 0) {
        return;
    }
    bool is_closing = (c->flags & NKI_C_CLOSING) != 0;
    if (is_closing && (c->flags & NKI_C_EOF) != 0) {
        int why = (c->flags & NKI_C_BY_PEER) != 0 ? NKI_WHY_PEER_END : NKI_WHY_CLOSED;
        nki_conn_fail(loop, c, why == NKI_WHY_PEER_END ? NETKIT_OP_READ : NETKIT_OP_CLOSE,
                      NETKIT_OK, why, 0, false);
        return;
    }
    if ((c->flags & (NKI_C_SHUT | NKI_C_FIN_SENT)) == NKI_C_SHUT) {
        int error = loop->driver->half_close(loop, c);
        if (error != NETKIT_OK) {
            nki_conn_fail(loop, c, NETKIT_OP_WRITE, error, NKI_WHY_WRITE, loop->driver->os_code(),
                          false);
            return;
        }
        c->flags |= NKI_C_FIN_SENT;
    }
}

/* Tell a driver that asks what we now want to hear of. */
static NKI_OUTLINE void nki_conn_arm(netkit_loop *loop, nki_conn *c) {
    if (!loop->is_arming || (c->flags & NKI_C_DEAD) != 0) {
        return;
    }
    uint32_t wanted = 0;
    if ((c->flags & (NKI_C_CONNECTING | NKI_C_STALLED)) != 0) {
        wanted |= NETKIT_POLL_WRITE;
    }
    if (nki_conn_room(c) > 0 && (c->flags & (NKI_C_CONNECTING | NKI_C_EOF)) == 0) {
        wanted |= NETKIT_POLL_READ;
    }
    const uint32_t ended = NKI_C_EOF | NKI_C_EOF_TOLD | NKI_C_TCP;
    if ((c->flags & (ended | NKI_C_FIN_SENT)) == ended) {
        wanted |=
            NETKIT_POLL_PRIORITY; /* nothing but a reset can come, and it is not to be missed */
    }
    loop->driver->arm(loop, &c->source, wanted);
}

/* A cork holds back what is small; never what the conn needs to go on reading, nor the rest of what
 * has begun to go. */
static bool nki_conn_is_corked(const nki_conn *c) {
    return (c->flags & (NKI_C_CORKED | NKI_C_FLUSHING | NKI_C_REFUSED)) == NKI_C_CORKED &&
           c->unflushed < NKI_FLUSH_AT && nki_conn_room(c) > 0;
}

static NKI_OUTLINE void nki_conn_after_slow(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_DEAD) != 0) {
        return;
    }
    if ((c->out != NULL || (c->flags & NKI_C_REFUSED) != 0) && !nki_conn_is_corked(c)) {
        nki_conn_flush(loop, c);
    }
    if ((c->flags & (NKI_C_SHUT | NKI_C_CLOSING)) != 0) {
        nki_conn_advance(loop, c);
    }
    const uint32_t eof = NKI_C_EOF | NKI_C_EOF_TOLD | NKI_C_CLOSING | NKI_C_PAUSED;
    if ((c->source.ready & NKI_READABLE) != 0 || (c->flags & NKI_C_DUE) != 0 ||
        (c->flags & eof) == NKI_C_EOF) {
        nki_enqueue(loop, &c->source);
    }
    nki_conn_arm(loop, c);
}

/* After each callback of a conn, and whenever its state has changed: what it queued goes out, and
 * it is served again if there is more to do. */
static NKI_OUTLINE void nki_conn_after(netkit_loop *loop, nki_conn *c) {
    if (NKI_LIKELY(loop->current == c)) {
        if (loop->stage_len != 0) {
            nki_conn_touch(loop, c);
            (void)nki_conn_flush_stage(loop, c);
        }
        loop->stage_len = 0;
        loop->stage_room = 0;
        loop->current = NULL;
    }
    bool is_plain = (c->flags & ~(uint32_t)NKI_C_PLAIN) == 0 && c->out == NULL &&
                    (c->source.ready & NKI_READABLE) == 0;
    if (NKI_UNLIKELY(!is_plain || loop->is_arming)) {
        nki_conn_after_slow(loop, c);
    }
}

/* Flush what was queued outside its own callback. */
static void nki_flush_dirty(netkit_loop *loop) {
    nki_conn *c;
    while ((c = nki_conn_queue_pop(&loop->dirty)) != NULL) {
        c->flags &= ~(uint32_t)NKI_C_DIRTY;
        if ((c->flags & NKI_C_DEAD) != 0) {
            if ((c->source.flags & NKI_S_GONE) != 0) {
                nki_conn_queue_push(&loop->dead, c);
            }
        } else if (c == loop->current) {
            if (!nki_conn_is_corked(c)) {
                nki_conn_flush(loop, c); /* its callback goes on */
            }
        } else {
            nki_conn_after(loop, c);
        }
    }
    if (NKI_UNLIKELY(loop->udp_dirty != NULL)) {
        nki_udp_flush_dirty(loop);
    }
}

/* Send all that is queued, now and by calls: what is on its way comes before what is behind it. */
static NKI_OUTLINE void nki_flush_all(netkit_loop *loop) {
    loop->reserved = NULL;
    nki_commit(loop);
    loop->is_flushing = 1;
    if (loop->current != NULL) {
        nki_conn_flush(loop, loop->current);
    }
    nki_flush_dirty(loop);
    loop->is_flushing = 0;
    nki_commit(loop);
}

/* ---- closing ---- */

/* Start a graceful close; nki_conn_after carries it on. */
static NKI_OUTLINE void nki_conn_begin_close(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_CONNECTING) != 0) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_CANCELLED, NKI_WHY_CANCELLED, 0, false);
        return;
    }
    nki_stage_close(loop, c);
    c->flags |= NKI_C_CLOSING | NKI_C_SHUT;
    c->flags &=
        ~(uint32_t)(NKI_C_PAUSED | NKI_C_REOFFER | NKI_C_DRAIN_DUE | NKI_C_REFUSED | NKI_C_CORKED);
    if (!nki_conn_has_output(loop, c) && (c->flags & NKI_C_EOF) != 0) {
        return; /* over at once: needs no deadline */
    }
    nki_cold *cold = nki_conn_cold(loop, c);
    if (cold != NULL) {
        cold->close_due_ns = nki_after_ms(loop, c->behaviour->options.close_deadline_ms);
        cold->deadline_ns = NKI_NEVER;
        cold->rate_due_ns = NKI_NEVER;
        cold->idle_ms = 0;
    }
    if (cold == NULL || nki_conn_set_timer(loop, c) != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_NOMEM, NKI_WHY_NOMEM_CLOSE, 0, true);
    }
}

/* ---- the timer ---- */

static void nki_conn_rate_check(netkit_loop *loop, nki_conn *c) {
    const netkit_conn_options *o = &c->behaviour->options;
    nki_cold *cold = c->cold;
    bool is_slow =
        cold->rate_bytes < o->rate_min && nki_conn_room(c) > 0 && (c->flags & NKI_C_EOF) == 0;
    if (is_slow) {
        nki_conn_fail(loop, c, NETKIT_OP_TIMER, NETKIT_E_TIMEOUT, NKI_WHY_RATE, 0, c->out != NULL);
        return;
    }
    cold->rate_bytes = 0;
    cold->rate_due_ns = nki_after_ms(loop, o->rate_period_ms);
}

static void nki_conn_timer_fired(netkit_loop *loop, nki_conn *c) {
    nki_cold *cold = c->cold;
    uint64_t now = loop->turn_ns;
    bool has_unsent = c->out != NULL;
    if (cold->connect_due_ns <= now) {
        nki_conn_fail(loop, c, NETKIT_OP_CONNECT, NETKIT_E_TIMEOUT, NKI_WHY_CONNECT_TIMEOUT, 0,
                      false);
    } else if (cold->close_due_ns <= now) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_TIMEOUT, NKI_WHY_CLOSE_DEADLINE, 0, true);
    } else if (cold->deadline_ns <= now) {
        nki_conn_fail(loop, c, NETKIT_OP_TIMER, NETKIT_E_TIMEOUT, NKI_WHY_DEADLINE, 0, has_unsent);
    } else if (cold->idle_ms != 0 && nki_conn_idle_ms(loop, c) > cold->idle_ms) {
        nki_conn_fail(loop, c, NETKIT_OP_TIMER, NETKIT_E_TIMEOUT, NKI_WHY_IDLE, 0, has_unsent);
    } else {
        if (cold->rate_due_ns <= now) {
            nki_conn_rate_check(loop, c);
        }
        if ((c->flags & NKI_C_DEAD) == 0) {
            (void)nki_conn_set_timer(loop, c); /* its place in the queue is still there */
        }
    }
}

/* ---- making one ---- */

/* Undo nki_conn_create before anybody heard of it. */
static void nki_conn_undo(netkit_loop *loop, nki_conn *c) {
    nki_cold_free(loop, c);
    nki_conn_dispose_parts(loop, c);
    nki_source_undo(loop, &c->source);
}

/* A conn around a socket, not yet with the driver. On failure the socket is still the caller's. */
static int nki_conn_create(netkit_loop *loop, nki_behaviour *b, void *user, uintptr_t socket,
                           nki_conn **out) {
    void *object;
    int error = nki_source_take(loop, NKI_KIND_CONN, socket, &object);
    nki_conn *c = (nki_conn *)object;
    *out = NULL;
    if (error != NETKIT_OK) {
        return error;
    }
    c->behaviour = b;
    c->user = user;
    c->u.live.active_ms = loop->turn_ms;
    b->references++;
    b->conns++;
    if (b->options.duplex) {
        c->flags |= NKI_C_DUPLEX;
    }
    error = nki_ext_create(&loop->allocator, b->options.ext_size, &c->ext);
    if (error != NETKIT_OK) {
        nki_conn_undo(loop, c);
        return error;
    }
    *out = c;
    return NETKIT_OK;
}

/* Timeouts that run from the start. */
static int nki_conn_start_timeouts(netkit_loop *loop, nki_conn *c, uint64_t connect_ms) {
    const netkit_conn_options *o = &c->behaviour->options;
    if (o->idle_timeout_ms == 0 && o->deadline_ms == 0 && o->rate_min == 0 && connect_ms == 0) {
        return NETKIT_OK;
    }
    nki_cold *cold = nki_conn_cold(loop, c);
    if (cold == NULL) {
        return NETKIT_E_NOMEM;
    }
    cold->idle_ms = o->idle_timeout_ms;
    cold->deadline_ns = o->deadline_ms == 0 ? NKI_NEVER : nki_after_ms(loop, o->deadline_ms);
    c->flags |= o->rate_min == 0 ? 0 : (uint32_t)NKI_C_COUNTED;
    cold->rate_due_ns = o->rate_min == 0 ? NKI_NEVER : nki_after_ms(loop, o->rate_period_ms);
    cold->connect_due_ns = connect_ms == 0 ? NKI_NEVER : nki_after_ms(loop, connect_ms);
    return nki_conn_set_timer(loop, c);
}

static int nki_option_wanted(netkit_loop *loop, uintptr_t socket, netkit_option option,
                             uint32_t value) {
    if (value == 0) {
        return NETKIT_OK;
    }
    int error = loop->driver->set_option(loop, socket, option, (int)value);
    return error == NETKIT_E_NOSYS ? NETKIT_OK : error;
}

static int nki_buffers_wanted(netkit_loop *loop, uintptr_t socket, const netkit_conn_options *o) {
    int error = nki_option_wanted(loop, socket, NETKIT_OPT_RECV_BUFFER, o->recv_buffer);
    return error != NETKIT_OK
               ? error
               : nki_option_wanted(loop, socket, NETKIT_OPT_SEND_BUFFER, o->send_buffer);
}

/* Options that an accepted socket did not inherit: those of unix sockets inherit none. */
static int nki_conn_set_options(netkit_loop *loop, nki_conn *c, bool is_accepted) {
    const netkit_conn_options *o = &c->behaviour->options;
    uintptr_t s = c->source.socket;
    bool is_tcp = (c->flags & NKI_C_TCP) != 0;
    int error = is_tcp && is_accepted ? NETKIT_OK : nki_buffers_wanted(loop, s, o);
    if (!is_tcp) {
        c->flags |= o->fds_max != 0 ? (uint32_t)NKI_C_FDS : 0;
        return error;
    }
    if (error == NETKIT_OK && !is_accepted && !o->no_nodelay) {
        error = nki_option_wanted(loop, s, NETKIT_OPT_NODELAY, 1);
    }
    if (error == NETKIT_OK && o->keepalive_s != 0) {
        error = nki_option_wanted(loop, s, NETKIT_OPT_KEEPALIVE_IDLE, o->keepalive_s);
        if (error == NETKIT_OK) {
            error = nki_option_wanted(loop, s, NETKIT_OPT_KEEPALIVE, 1);
        }
    }
    if (error == NETKIT_OK) {
        error = nki_option_wanted(loop, s, NETKIT_OPT_USER_TIMEOUT, o->user_timeout_ms);
    }
    return error;
}
