/* Receiving: what a ready conn does, one user event a step, so that a turn can stop after each.
 *
 * Order within a step is the order of contract C1 and invariant I3: connected, writable again,
 * drained, data, end of file. A conn that may not read now (paused, or its own queue could not
 * take an answer) simply keeps its ready bits: resume and progress bring it back. */

static bool nki_conn_is_reading(const nki_conn *c) {
    return (c->flags & NKI_C_CLOSING) != 0 || (c->flags & NKI_C_PAUSED) == 0;
}

/* How many bytes may be read now. 0: the handler could not answer them, or holds enough. While a
 * conn is not duplex its queue must be able to take all that the handler is given (C3). */
static size_t nki_conn_room_slow(const nki_conn *c) {
    const netkit_conn_options *o = &c->behaviour->options;
    if ((c->flags & NKI_C_CLOSING) != 0) {
        return NKI_RECV_SIZE;
    }
    if ((c->flags & NKI_C_PAUSED) != 0) {
        return 0;
    }
    size_t carried = nki_carry_len(c);
    size_t room = NKI_MIN((size_t)NKI_RECV_SIZE, o->recv_max > carried ? o->recv_max - carried : 0);
    if ((c->flags & NKI_C_DUPLEX) != 0) {
        return room;
    }
    size_t free_bytes = o->send_max > c->queued ? o->send_max - c->queued : 0;
    if (c->queued > 0 && free_bytes < NKI_MIN((size_t)NKI_RECV_SIZE, (size_t)o->send_max)) {
        return 0;
    }
    return NKI_MIN(room, free_bytes > carried ? free_bytes - carried : 0);
}

static NKI_HOT size_t nki_conn_room(const nki_conn *c) {
    bool is_plain =
        (c->flags & (NKI_C_PAUSED | NKI_C_CLOSING)) == 0 && c->queued == 0 && c->carry == NULL;
    return NKI_LIKELY(is_plain) ? c->behaviour->read_max : nki_conn_room_slow(c);
}

/* Whether the handler could answer what is carried. */
static bool nki_conn_may_offer(const nki_conn *c) {
    uint32_t send_max = c->behaviour->options.send_max;
    return (c->flags & NKI_C_DUPLEX) != 0 || c->queued == 0 ||
           (c->queued < send_max && send_max - c->queued >= nki_carry_len(c));
}

static void nki_conn_toobig(netkit_loop *loop, nki_conn *c) {
    nki_conn_fail(loop, c, NETKIT_OP_READ, NETKIT_E_TOOBIG, NKI_WHY_TOOBIG, 0, true);
}

static NKI_COLD void nki_conn_check_ignored(netkit_loop *loop, nki_conn *c, bool used_all) {
    loop->ignored = NULL;
    if (used_all && (c->flags & (NKI_C_PAUSED | NKI_C_DEAD | NKI_C_CLOSING)) == 0) {
        nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_IGNORED_SEND,
                "a send was refused with NETKIT_E_FULL, yet on_data used up all it was given: "
                "with duplex, pause or use less until on_drain",
                0);
    }
}

/* Nothing is out of the ordinary: open, nothing queued, nothing carried. */
static NKI_HOT bool nki_conn_is_plain(const nki_conn *c) {
    return (c->flags & ~(uint32_t)NKI_C_PLAIN) == 0 && c->out == NULL && c->carry == NULL;
}

/* The driver may have its buffer back. */
static NKI_HOT void nki_read_done(netkit_loop *loop, nki_conn *c) {
    if (loop->driver->read_done != NULL) {
        loop->driver->read_done(loop, c);
    }
}

/* Not all was used, or it was carried before: keep the rest. */
static void nki_conn_keep_rest(netkit_loop *loop, nki_conn *c, size_t used) {
    netkit_span span = loop->span;
    bool is_dead = (c->flags & NKI_C_DEAD) != 0;
    if (loop->span_is_carry) {
        nki_carry_consume(loop, c, used);
    } else if (!is_dead && nki_carry_append(loop, c, (const char *)span.data + used,
                                            span.len - used) != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_READ, NETKIT_E_NOMEM, NKI_WHY_NOMEM_RECV, 0, true);
    }
    if (used == 0 && nki_carry_len(c) >= c->behaviour->options.recv_max &&
        (c->flags & (NKI_C_CLOSING | NKI_C_PAUSED | NKI_C_REFUSED | NKI_C_DRAIN_DUE)) == 0) {
        nki_conn_toobig(loop, c);
    }
}

/* The handler has returned: keep what it left, send what it queued. */
static NKI_OUTLINE void nki_conn_after_data(netkit_loop *loop, nki_conn *c, size_t used) {
    size_t len = loop->span.len;
    used = NKI_MIN(used, len);
    if (NKI_UNLIKELY(loop->ignored == c)) {
        nki_conn_check_ignored(loop, c, used == len);
    }
    if (NKI_UNLIKELY(used != len || loop->span_is_carry)) {
        nki_conn_keep_rest(loop, c, used);
    }
    if (!loop->span_is_carry) {
        nki_read_done(loop, c);
    }
    nki_conn_after(loop, c);
}

/* Give a span to the handler (or hand it out to a puller). */
static NKI_OUTLINE void nki_conn_offer(netkit_loop *loop, nki_conn *c, const void *data, size_t len,
                                       bool is_carry) {
    nki_stage_open(loop, c);
    loop->span.data = data;
    loop->span.len = len;
    loop->span_is_carry = is_carry;
    const netkit_handler *h = &c->behaviour->handler;
    size_t used = len;
    if (NKI_LIKELY(h->on_data != NULL)) {
        uint64_t started = nki_call_begin(loop);
        used = h->on_data(loop, nki_conn_handle(c), data, len, c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_DATA, c, c->user);
        ev->conn = nki_conn_handle(c);
        ev->data = data;
        ev->len = len;
        loop->pulled_used = len;
        return;
    }
    nki_conn_after_data(loop, c, used);
}

static void nki_conn_offer_carry(netkit_loop *loop, nki_conn *c) {
    nki_conn_offer(loop, c, nki_carry_data(c->carry) + c->carry->begin, nki_carry_len(c), true);
}

/* A closing conn reads only to find the peer's end. */
static void nki_conn_discard(netkit_loop *loop, nki_conn *c, size_t len) {
    nki_read_done(loop, c);
    nki_cold *cold = c->cold;
    cold->drained += (uint32_t)len;
    if (cold->drained > c->behaviour->options.drain_max) {
        nki_conn_fail(loop, c, NETKIT_OP_CLOSE, NETKIT_E_TOOBIG, NKI_WHY_DRAIN_MAX, 0, true);
        return;
    }
    nki_conn_after(loop, c);
}

static NKI_OUTLINE void nki_conn_received(netkit_loop *loop, nki_conn *c, const void *data,
                                          size_t len) {
    c->u.live.active_ms = loop->turn_ms;
    if ((c->flags & NKI_C_COUNTED) != 0) {
        c->cold->rate_bytes += len;
    }
    if (NKI_UNLIKELY((c->flags & NKI_C_CLOSING) != 0)) {
        nki_conn_discard(loop, c, len);
    } else if (NKI_LIKELY(c->carry == NULL)) {
        nki_conn_offer(loop, c, data, len, false);
    } else {
        int error = nki_carry_append(loop, c, data, len);
        nki_read_done(loop, c);
        if (error != NETKIT_OK) {
            nki_conn_fail(loop, c, NETKIT_OP_READ, error, NKI_WHY_NOMEM_RECV, 0, true);
            return;
        }
        nki_conn_offer_carry(loop, c);
    }
}

/* Tell the end of file, or act on it. */
static void nki_conn_tell_eof(netkit_loop *loop, nki_conn *c) {
    c->flags |= NKI_C_EOF_TOLD;
    const netkit_handler *h = &c->behaviour->handler;
    if (h->on_eof != NULL) {
        nki_stage_open(loop, c);
        uint64_t started = nki_call_begin(loop);
        h->on_eof(loop, nki_conn_handle(c), c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_EOF, c, c->user);
        ev->conn = nki_conn_handle(c);
        nki_stage_open(loop, c);
        return;
    } else {
        c->flags |= NKI_C_BY_PEER;
        nki_conn_begin_close(loop, c);
    }
    nki_conn_after(loop, c);
}

static void nki_conn_tell_drain(netkit_loop *loop, nki_conn *c) {
    c->flags &= ~(uint32_t)NKI_C_DRAIN_DUE;
    if (c->carry != NULL) {
        c->flags |= NKI_C_REOFFER;
    }
    const netkit_handler *h = &c->behaviour->handler;
    if (h->on_drain != NULL) {
        nki_stage_open(loop, c);
        uint64_t started = nki_call_begin(loop);
        h->on_drain(loop, nki_conn_handle(c), c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_DRAIN, c, c->user);
        ev->conn = nki_conn_handle(c);
        nki_stage_open(loop, c);
        return;
    }
    nki_conn_after(loop, c);
}

static void nki_conn_tell_open(netkit_loop *loop, nki_conn *c) {
    c->flags = (c->flags & ~(uint32_t)(NKI_C_OPEN_DUE | NKI_C_UNTOLD)) | NKI_C_OPENED;
    const netkit_handler *h = &c->behaviour->handler;
    if (h->on_open != NULL) {
        nki_stage_open(loop, c);
        uint64_t started = nki_call_begin(loop);
        h->on_open(loop, nki_conn_handle(c), c->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_OPEN, c, c->user);
        ev->conn = nki_conn_handle(c);
        nki_stage_open(loop, c);
        return;
    }
    nki_conn_after(loop, c);
}

static void nki_conn_read_failed(netkit_loop *loop, nki_conn *c, int error) {
    if (error == NETKIT_E_AGAIN) {
        c->tally = 0;
        nki_conn_arm(loop, c);
    } else if (error == NETKIT_E_EOF) {
        bool is_news = (c->flags & NKI_C_EOF) == 0;
        c->flags |= NKI_C_EOF;
        c->source.ready = (uint16_t)(c->source.ready & (NKI_POLL_ALWAYS | ~(uint32_t)NKI_READABLE));
        if ((c->flags & NKI_C_CLOSING) != 0) {
            nki_conn_after(loop, c);
        } else if (is_news) {
            nki_enqueue(loop, &c->source);
        }
    } else {
        nki_conn_fail(loop, c, NETKIT_OP_READ, error, NKI_WHY_READ, loop->driver->os_code(), false);
    }
}

static int nki_conn_read_fds(netkit_loop *loop, nki_conn *c, size_t max);

/* Read one span of at most `max` bytes. */
static NKI_OUTLINE void nki_conn_read_span(netkit_loop *loop, nki_conn *c, size_t max) {
    if (NKI_UNLIKELY(c->tally >= loop->desc.conn_budget)) {
        c->tally = 0;
        nki_enqueue_later(loop, &c->source);
        return;
    }
    bool has_fds = (c->flags & (NKI_C_FDS | NKI_C_CLOSING)) == NKI_C_FDS;
    int n = has_fds ? nki_conn_read_fds(loop, c, max) : loop->driver->read(loop, c, max);
    if (NKI_UNLIKELY(n == 0)) {
        return; /* it has died of its descriptors */
    }
    if (NKI_LIKELY(n > 0)) {
        c->tally = (c->source.ready & NKI_READABLE) == 0 ? 0 : c->tally + (uint32_t)n;
        nki_conn_received(loop, c, loop->span.data, (size_t)n);
    } else {
        nki_conn_read_failed(loop, c, n);
    }
}

/* After the peer's end only a reset can still come. Reading would go on to say that it has ended
 * (Linux), and nobody may be going to send. */
static NKI_COLD void nki_conn_after_end(netkit_loop *loop, nki_conn *c) {
    bool is_over = (c->flags & NKI_C_FIN_SENT) != 0 || (c->flags & NKI_C_TCP) == 0;
    uint32_t trouble = c->source.ready & (is_over ? (uint32_t)NETKIT_POLL_ERROR : NKI_POLL_ALWAYS);
    c->source.ready = (uint16_t)(c->source.ready & ~NKI_READABLE);
    int error = trouble == 0 ? NETKIT_OK : loop->driver->failed(loop, c);
    if (error == NETKIT_E_NOTCONN) { /* the error itself was read before, or there was none */
        error = is_over ? NETKIT_OK : NETKIT_E_RESET;
    }
    if (error != NETKIT_OK && error != NETKIT_E_AGAIN) {
        nki_conn_fail(loop, c, NETKIT_OP_READ, error, NKI_WHY_READ, loop->driver->os_code(), false);
    }
}

static void nki_conn_read(netkit_loop *loop, nki_conn *c) {
    if ((c->flags & NKI_C_EOF) != 0) {
        nki_conn_after_end(loop, c);
        return;
    }
    size_t max = nki_conn_room(c);
    if (max != 0) {
        nki_conn_read_span(loop, c, max);
    } else {
        nki_conn_arm(loop, c);
    }
}

/* The system says that connecting has ended. */
static void nki_conn_connected(netkit_loop *loop, nki_conn *c) {
    int error = loop->driver->connected(loop, c);
    if (error == NETKIT_E_AGAIN) {
        return;
    }
    if (error != NETKIT_OK) {
        nki_conn_fail(loop, c, NETKIT_OP_CONNECT, error, NKI_WHY_CONNECT, loop->driver->os_code(),
                      false);
        return;
    }
    c->flags &= ~(uint32_t)NKI_C_CONNECTING;
    c->u.live.active_ms = loop->turn_ms;
    c->cold->connect_due_ns = NKI_NEVER;
    (void)nki_conn_set_timer(loop, c); /* it is in the queue: moving it cannot fail */
    nki_conn_tell_open(loop, c);
}

/* The handler waits for a drain with bytes left over: they come before the end of file. */
static bool nki_conn_owes_rest(const nki_conn *c) {
    const uint32_t waits = NKI_C_REFUSED | NKI_C_DRAIN_DUE | NKI_C_REOFFER;
    return c->carry != NULL && (c->flags & waits) != 0;
}

/* A step of a conn that is not just open and readable. */
static void nki_conn_step_slow(netkit_loop *loop, nki_conn *c) {
    const uint32_t writable = NETKIT_POLL_WRITE | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    if ((c->flags & NKI_C_DEAD) != 0) {
        return;
    }
    if ((c->flags & NKI_C_CONNECTING) != 0) {
        if ((c->source.ready & writable) != 0) {
            nki_conn_connected(loop, c);
        }
        return;
    }
    if ((c->flags & NKI_C_OPEN_DUE) != 0) {
        nki_conn_tell_open(loop, c);
        return;
    }
    if (nki_conn_unstall(c)) {
        nki_conn_after(loop, c);
        if ((c->flags & NKI_C_DEAD) != 0) {
            return;
        }
    }
    if ((c->flags & NKI_C_DRAIN_DUE) != 0) {
        nki_conn_tell_drain(loop, c);
        return;
    }
    bool is_reading = nki_conn_is_reading(c);
    if ((c->flags & NKI_C_REOFFER) != 0 && is_reading && nki_conn_may_offer(c)) {
        c->flags &= ~(uint32_t)NKI_C_REOFFER;
        if (c->carry != NULL && (c->flags & NKI_C_CLOSING) == 0) {
            nki_conn_offer_carry(loop, c);
            return;
        }
    }
    if ((c->flags & (NKI_C_EOF | NKI_C_EOF_TOLD | NKI_C_CLOSING)) == NKI_C_EOF) {
        if (is_reading && !nki_conn_owes_rest(c)) {
            nki_conn_tell_eof(loop, c); /* a reset behind it comes after it */
        }
    } else if ((c->source.ready & NKI_READABLE) != 0) {
        nki_conn_read(loop, c);
    }
}

/* The same as reading, offering and what follows, for the state nearly every message finds: an
 * open conn with nothing queued or carried, all used up, the answer sent in one call. Whatever is
 * otherwise goes the long way from that point on. */
static NKI_HOT void nki_conn_serve_plain(netkit_loop *loop, nki_conn *c) {
    const nki_behaviour *b = c->behaviour;
    int n = loop->driver->read(loop, c, b->read_max);
    if (NKI_UNLIKELY(n <= 0)) {
        nki_conn_read_failed(loop, c, n);
        return;
    }
    size_t len = (size_t)n;
    const void *data = loop->span.data;
    c->u.live.active_ms = loop->turn_ms;
    loop->current = c;
    loop->stage_id = c->source.id;
    loop->stage_room = b->stage_max;
    loop->span.len = len;
    loop->span_is_carry = false;
    loop->in_callback++;
    loop->calls++;
    size_t used = b->handler.on_data(loop, nki_conn_handle(c), data, len, c->user);
    loop->in_callback--;
    if (NKI_UNLIKELY(used != len || !nki_conn_is_plain(c))) {
        nki_conn_after_data(loop, c, used);
        return;
    }
    bool is_sent = loop->stage_len == 0 || nki_conn_flush_stage(loop, c);
    loop->stage_room = 0;
    loop->current = NULL;
    if (NKI_UNLIKELY(!is_sent || (c->source.ready & NKI_READABLE) != 0)) {
        if ((c->flags & NKI_C_DEAD) == 0) { /* else the tally is what is unsent */
            c->tally += (uint32_t)len;
        }
        nki_conn_after_slow(loop, c);
    }
}

/* One step of a ready conn: at most one user event. */
static NKI_HOT void nki_conn_step(netkit_loop *loop, nki_conn *c) {
    if (NKI_LIKELY(nki_conn_is_plain(c) && c->tally == 0 && (c->source.ready & NKI_READABLE) != 0 &&
                   c->behaviour->is_plain)) {
        nki_conn_serve_plain(loop, c);
    } else {
        nki_conn_step_slow(loop, c);
    }
}
