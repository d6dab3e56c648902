/* Udps: receiving, reports of failures, and the end.
 *
 * What one call has received is a batch in memory that the loop has once. It is delivered one
 * datagram a step, before any other source is served; who is paused in the middle takes the rest
 * with it in memory of its own. Answers go out together at the end of a batch. Errors of receiving
 * are news about datagrams sent before, or a shortage of the machine: neither ends a udp (I8). */

static netkit_udp nki_udp_handle(const nki_udp *u) {
    netkit_udp handle;
    handle.id = u->source.id;
    return handle;
}

static nki_udp *nki_udp_of_node(nki_timer_node *node) {
    return ((nki_udp_more *)(void *)((char *)node - offsetof(nki_udp_more, timer)))->udp;
}

/* ---- the loop's half ---- */

static void nki_dgrams_free(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    if (d == NULL) {
        return;
    }
    while (d->spare != NULL) {
        nki_udp_block *b = d->spare;
        d->spare = b->next;
        nki_udp_block_free(loop, b);
    }
    if (d->dead != NULL) {
        nki_free(&loop->allocator, d->dead, d->dead->size);
    }
    nki_free(&loop->allocator, d->recv_scratch, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    nki_free(&loop->allocator, d->send_scratch, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    nki_free(&loop->allocator, d->memory, NKI_UDP_AREA);
    nki_free(&loop->allocator, d, sizeof *d);
    loop->dgrams = NULL;
}

/* With the first udp. */
static int nki_dgrams_create(netkit_loop *loop) {
    if (loop->dgrams != NULL) {
        return NETKIT_OK;
    }
    nki_dgrams *d = (nki_dgrams *)nki_alloc_zero(&loop->allocator, sizeof *d);
    if (d == NULL) {
        return NETKIT_E_NOMEM;
    }
    loop->dgrams = d;
    d->recv_scratch = nki_alloc_zero(&loop->allocator, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    d->send_scratch = nki_alloc(&loop->allocator, nki_os_dgram_scratch(NKI_DGRAM_BATCH));
    d->memory = (unsigned char *)nki_alloc(&loop->allocator, NKI_UDP_AREA);
    if (d->recv_scratch == NULL || d->send_scratch == NULL || d->memory == NULL) {
        nki_dgrams_free(loop);
        return NETKIT_E_NOMEM;
    }
    return NETKIT_OK;
}

/* Nobody looks at it any more. */
static void nki_dgrams_bury(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    if (d->dead != NULL) {
        nki_free(&loop->allocator, d->dead, d->dead->size);
        d->dead = NULL;
    }
}

/* ---- after a callback ---- */

static bool nki_udp_has_more(const nki_udp *u) {
    if ((u->flags & NKI_D_DRAIN_DUE) != 0) {
        return true;
    }
    bool may_read = (u->source.ready & NKI_READABLE) != 0 && (u->flags & NKI_D_STARVED) == 0;
    return (u->flags & NKI_D_PAUSED) == 0 && (u->more->failed_count != 0 || u->parked != NULL ||
                                              (u->flags & NKI_D_ERRORS) != 0 || may_read);
}

static void nki_udp_after(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_CLOSING) != 0) {
        return;
    }
    if ((u->flags & NKI_D_DIRTY) != 0 || u->out != NULL) {
        nki_udp_flush(loop, u);
    }
    if (nki_udp_has_more(u)) {
        nki_enqueue(loop, &u->source);
    } else {
        u->tally = 0;
    }
}

/* ---- the batch ---- */

static void nki_udp_batch_begin(netkit_loop *loop, nki_udp *u, const netkit_datagram *items,
                                unsigned count) {
    nki_dgrams *d = loop->dgrams;
    d->items = items;
    d->at = 0;
    d->count = count;
    d->offset = 0;
    d->in_use = NULL;
    loop->udp_batch = u;
}

/* No more of the batch is delivered. What its udp's callback has in hands stays until the next
 * batch begins. */
static void nki_udp_batch_end(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    loop->udp_batch = NULL;
    if (d->parked != NULL) {
        d->dead = d->parked;
        d->parked = NULL;
    }
}

/* The next datagram to be delivered, or NULL. */
static const netkit_datagram *nki_udp_batch_next(const nki_udp *u, nki_dgrams *d) {
    if (d->at == d->count) {
        return NULL;
    }
    const netkit_datagram *item = &d->items[d->at];
    if (item->segment_size == 0 || (u->flags & NKI_D_WHOLE) != 0) {
        d->at++;
        return item;
    }
    d->one = *item; /* each time: another udp's may have been told in between */
    d->one.segment_size = 0;
    size_t left = item->len - d->offset;
    d->one.data = (const char *)item->data + d->offset;
    d->one.len = NKI_MIN(left, (size_t)item->segment_size);
    d->one.is_truncated = item->is_truncated && d->one.len == left;
    d->offset += d->one.len;
    if (d->offset == item->len) {
        d->offset = 0;
        d->at++;
    }
    return &d->one;
}

/* One step of a batch. */
static void nki_udp_deliver(netkit_loop *loop) {
    nki_udp *u = loop->udp_batch;
    const netkit_datagram *datagram = nki_udp_batch_next(u, loop->dgrams);
    if (datagram == NULL) {
        nki_udp_batch_end(loop);
        nki_udp_after(loop, u);
        return;
    }
    if (NKI_LIKELY(u->more->handler.on_datagram != NULL)) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_datagram(loop, nki_udp_handle(u), datagram, u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_DATAGRAM, u, u->user);
        ev->udp = nki_udp_handle(u);
        ev->datagram = datagram;
    }
}

/* ---- parking ---- */

static const netkit_datagram *nki_udp_parked_items(const nki_udp_parked *p) {
    return (const netkit_datagram *)(const void *)(p + 1);
}

/* The rest of the batch in memory of its own; NULL when there is none. */
static nki_udp_parked *nki_udp_copy_rest(netkit_loop *loop, const nki_dgrams *d) {
    unsigned count = d->count - d->at;
    size_t size = sizeof(nki_udp_parked) + count * sizeof(netkit_datagram);
    for (unsigned i = d->at; i < d->count; i++) {
        size += d->items[i].len;
    }
    nki_udp_parked *p = (nki_udp_parked *)nki_alloc(&loop->allocator, size);
    if (p == NULL) {
        return NULL;
    }
    netkit_datagram *items = (netkit_datagram *)(void *)(p + 1);
    unsigned char *bytes = (unsigned char *)(items + count);
    p->size = size;
    p->at = 0;
    p->count = count;
    p->offset = d->offset;
    for (unsigned i = 0; i < count; i++) {
        items[i] = d->items[d->at + i];
        if (items[i].len != 0) {
            memcpy(bytes, items[i].data, items[i].len);
        }
        items[i].data = bytes;
        bytes += items[i].len;
    }
    return p;
}

/* The udp whose batch it is was paused. */
static void nki_udp_park(netkit_loop *loop, nki_udp *u) {
    nki_dgrams *d = loop->dgrams;
    loop->udp_batch = NULL;
    if (d->parked != NULL && d->at != d->count) {
        u->parked = d->parked;
        u->parked->at = d->at;
        u->parked->offset = d->offset;
        d->parked = NULL;
    } else if (d->at != d->count) {
        u->parked = nki_udp_copy_rest(loop, d);
        if (u->parked == NULL) { /* as if the socket's buffer had been full, but told */
            nki_udp_record none;
            memset(&none, 0, sizeof none);
            nki_udp_note_failed(loop, u, &none, NETKIT_E_NOMEM, 0);
        }
    }
    nki_udp_batch_end(loop);
    nki_enqueue(loop, &u->source); /* what was answered goes out */
}

static void nki_udp_unpark(netkit_loop *loop, nki_udp *u) {
    nki_dgrams *d = loop->dgrams;
    nki_udp_parked *p = u->parked;
    u->parked = NULL;
    nki_udp_batch_begin(loop, u, nki_udp_parked_items(p), p->count);
    d->parked = p;
    d->in_use = p;
    d->at = p->at;
    d->offset = p->offset;
}

/* ---- receiving ---- */

/* Where a datagram came to is the address of the socket, when that has a single one. */
static void nki_udp_fill_local(const nki_udp *u, netkit_datagram *items, unsigned count) {
    const nki_udp_more *m = u->more;
    for (unsigned i = 0; i < count; i++) {
        if (items[i].local.family != NETKIT_AF_NONE) {
            items[i].local.port = m->bound.port;
        } else if (m->bound.family == NETKIT_AF_UNIX) {
            items[i].local = m->bound;
        } else if (!m->is_wildcard) {
            memcpy(&items[i].local, &m->bound, offsetof(netkit_addr, path));
        }
    }
}

static uint32_t nki_udp_cost(const netkit_datagram *items, unsigned count) {
    uint32_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        sum += NKI_MAX((uint32_t)items[i].len, (uint32_t)NKI_UDP_READ_COST);
    }
    return sum;
}

/* The machine is short of something: pause, and report the first time. */
static void nki_udp_starve(netkit_loop *loop, nki_udp *u, int code) {
    nki_udp_more *m = u->more;
    bool is_first = m->recv_ms == 0;
    m->recv_ms =
        is_first ? (uint32_t)NKI_DEFER_MS_MIN : NKI_MIN(m->recv_ms * 2, (uint32_t)NKI_DEFER_MS_MAX);
    u->flags |= NKI_D_STARVED;
    m->recv_due_ns = nki_after_ms(loop, m->recv_ms);
    nki_udp_set_timer(loop, u);
    if (is_first) {
        nki_udp_record none;
        memset(&none, 0, sizeof none);
        nki_udp_note_failed(loop, u, &none, code, loop->driver->os_code());
    }
    nki_udp_arm(loop, u);
}

static void nki_udp_recv_failed(netkit_loop *loop, nki_udp *u, int code) {
    u->tally += NKI_UDP_READ_COST;
    if (!nki_udp_is_news(code) || ++u->more->failures > NKI_UDP_FAILURES_MAX) {
        nki_udp_starve(loop, u, code);
    } else {
        nki_udp_heard(loop, u, code, loop->driver->os_code());
    }
}

static void nki_udp_receive(netkit_loop *loop, nki_udp *u) {
    nki_dgrams_bury(loop);
    int n = loop->driver->udp_recv(loop, u);
    if (n > 0) {
        u->tally += nki_udp_cost(loop->dgrams->in, (unsigned)n);
        u->more->recv_ms = 0;
        u->more->failures = 0;
        nki_udp_fill_local(u, loop->dgrams->in, (unsigned)n);
        nki_udp_batch_begin(loop, u, loop->dgrams->in, (unsigned)n);
        return;
    }
    if (n == NETKIT_E_AGAIN) {
        u->more->recv_ms = 0;
        u->more->failures = 0;
    } else {
        nki_udp_recv_failed(loop, u, n);
    }
    nki_udp_after(loop, u);
}

/* ---- failures ---- */

static void nki_udp_tell_error(netkit_loop *loop, nki_udp *u, const netkit_datagram *failed) {
    if (u->more->handler.on_error != NULL) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_error(loop, nki_udp_handle(u), failed, u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_UDP_ERROR, u, u->user);
        ev->udp = nki_udp_handle(u);
        ev->datagram = failed;
        return;
    }
    nki_udp_after(loop, u);
}

/* A send that failed, the oldest. */
static void nki_udp_tell_failed(netkit_loop *loop, nki_udp *u) {
    nki_udp_more *m = u->more;
    netkit_datagram *d = &loop->dgrams->one;
    nki_udp_failed f = m->failed[0];
    u->tally += NKI_UDP_READ_COST; /* who sends it again at once must not keep the turn for ever */
    m->failed_count--;
    memmove(m->failed, m->failed + 1, m->failed_count * sizeof m->failed[0]);
    memset(d, 0, sizeof *d);
    d->peer.family = f.route.family;
    d->peer.port = f.route.port;
    d->peer.scope = f.route.scope;
    memcpy(d->peer.ip, f.route.ip, sizeof d->peer.ip);
    if (f.route.family == NETKIT_AF_NONE && f.route.level != NETKIT_AF_NONE) {
        (void)loop->driver->remote(loop, u->source.socket, &d->peer);
    }
    d->local.family = f.route.local_family;
    memcpy(d->local.ip, f.route.local, sizeof d->local.ip);
    d->interface_index = f.route.interface_index;
    d->tos = f.route.tos;
    d->ttl = f.route.ttl;
    d->len = f.len;
    d->error = f.code;
    d->os_code = f.os_code;
    nki_udp_tell_error(loop, u, d);
}

/* A report out of the system. When there is no more, one receive clears what may still make the
 * socket look ready. */
static void nki_udp_report(netkit_loop *loop, nki_udp *u) {
    netkit_datagram *d = &loop->dgrams->one;
    if (loop->driver->udp_failed(loop, u, d) == NETKIT_OK) {
        u->tally += NKI_UDP_READ_COST;
        u->flags |= NKI_D_ERRORS;
        nki_udp_tell_error(loop, u, d);
        return;
    }
    u->flags &= ~(uint32_t)NKI_D_ERRORS;
    u->source.ready = (uint16_t)((u->source.ready & ~NETKIT_POLL_ERROR) | NETKIT_POLL_READ);
    nki_udp_after(loop, u);
}

/* Paused, and waiting for room: as long as reports are there, they wake us instead. They are taken
 * out and told later, as far as there is place for them. */
static void nki_udp_keep_reports(netkit_loop *loop, nki_udp *u) {
    netkit_datagram *d = &loop->dgrams->one;
    for (int i = 0; i < NKI_DGRAM_BATCH; i++) {
        nki_udp_record r;
        if (loop->driver->udp_failed(loop, u, d) != NETKIT_OK) {
            break;
        }
        memset(&r, 0, sizeof r);
        (void)nki_route_to(&r.route, &d->peer, u->more->level);
        r.len = (uint32_t)d->len;
        if (u->more->failed_count < NKI_UDP_FAILED_MAX) {
            nki_udp_note_failed(loop, u, &r, d->error, d->os_code);
        }
    }
    u->flags &= ~(uint32_t)NKI_D_ERRORS;
    u->source.ready = (uint16_t)(u->source.ready & ~NETKIT_POLL_ERROR);
}

static void nki_udp_tell_drain(netkit_loop *loop, nki_udp *u) {
    u->flags &= ~(uint32_t)NKI_D_DRAIN_DUE;
    if (u->more->handler.on_drain != NULL) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_drain(loop, nki_udp_handle(u), u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_UDP_DRAIN, u, u->user);
        ev->udp = nki_udp_handle(u);
        return;
    }
    nki_udp_after(loop, u);
}

/* ---- a step ---- */

static void nki_udp_closed(netkit_loop *loop, nki_udp *u);

static bool nki_udp_has_reports(const nki_udp *u) {
    return (u->flags & NKI_D_TELL_ERRORS) != 0 &&
           ((u->flags & NKI_D_ERRORS) != 0 || (u->source.ready & NETKIT_POLL_ERROR) != 0);
}

/* What is to be read, in the order of news: at most one thing. */
static void nki_udp_step_input(netkit_loop *loop, nki_udp *u) {
    bool has_reports = nki_udp_has_reports(u);
    bool may_read = (u->source.ready & NKI_READABLE) != 0 && (u->flags & NKI_D_STARVED) == 0;
    bool has_failed = u->more->failed_count != 0;
    if (u->tally >= loop->desc.conn_budget && (has_failed || has_reports || may_read)) {
        u->tally = 0;
        nki_enqueue_later(loop, &u->source);
    } else if (has_failed) {
        nki_udp_tell_failed(loop, u);
    } else if (u->parked != NULL) {
        nki_dgrams_bury(loop);
        nki_udp_unpark(loop, u);
    } else if (has_reports) {
        nki_udp_report(loop, u);
    } else if (may_read) {
        nki_udp_receive(loop, u);
    }
}

static void nki_udp_step(netkit_loop *loop, nki_udp *u) {
    const uint32_t writable = NETKIT_POLL_WRITE | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    const uint32_t waits = NKI_D_STALLED | NKI_D_PAUSED;
    if ((u->flags & NKI_D_CLOSING) != 0) {
        if ((u->source.flags & NKI_S_GONE) != 0) {
            nki_udp_closed(loop, u);
        }
        return;
    }
    if ((u->flags & waits) == waits && nki_udp_has_reports(u)) {
        nki_udp_keep_reports(loop, u);
        u->source.ready = (uint16_t)(u->source.ready | NETKIT_POLL_WRITE); /* to wait anew */
    }
    if ((u->flags & NKI_D_STALLED) != 0 && (u->source.ready & writable) != 0) {
        u->flags &= ~(uint32_t)NKI_D_STALLED;
        nki_udp_flush(loop, u);
        nki_udp_arm(loop, u);
    }
    u->source.ready = (uint16_t)(u->source.ready & ~(uint32_t)NETKIT_POLL_WRITE);
    if ((u->flags & NKI_D_DRAIN_DUE) != 0) {
        nki_udp_tell_drain(loop, u);
    } else if ((u->flags & NKI_D_PAUSED) == 0) {
        nki_udp_step_input(loop, u);
    } else {
        nki_udp_after(loop, u);
    }
}

static void nki_udp_timer_fired(netkit_loop *loop, nki_udp *u) {
    nki_udp_more *m = u->more;
    if (m->send_due_ns <= loop->turn_ns) {
        m->send_due_ns = NKI_NEVER;
        u->flags &= ~(uint32_t)NKI_D_SHORT;
        nki_udp_flush(loop, u);
    }
    if (m->recv_due_ns <= loop->turn_ns) {
        m->recv_due_ns = NKI_NEVER;
        u->flags &= ~(uint32_t)NKI_D_STARVED;
        u->source.ready = (uint16_t)(u->source.ready | NETKIT_POLL_READ);
        nki_enqueue(loop, &u->source);
        nki_udp_arm(loop, u);
    }
    nki_udp_set_timer(loop, u);
}

/* ---- the end ---- */

static void nki_udp_dispose(netkit_loop *loop, nki_udp *u) {
    nki_udp_more *m = u->more;
    nki_timers_stop(&loop->timers, &m->timer);
    nki_ext_free(&loop->allocator, u->ext, m->ext_size);
    nki_free(&loop->allocator, m, sizeof *m);
    u->more = NULL;
    u->ext = NULL;
    nki_bury(loop, &u->source);
}

static void nki_udp_closed(netkit_loop *loop, nki_udp *u) {
    netkit_close_info info;
    bool is_destroyed = (u->flags & NKI_D_DESTROYED) != 0;
    memset(&info, 0, sizeof info);
    info.code = is_destroyed ? (int)NETKIT_E_CANCELLED : (int)NETKIT_OK;
    info.op = NETKIT_OP_CLOSE;
    info.phase = NETKIT_PHASE_OPEN;
    info.text = is_destroyed ? "the loop was destroyed" : "closed here";
    info.unsent = u->queued + u->more->lost;
    if (u->more->handler.on_close != NULL) {
        uint64_t started = nki_call_begin(loop);
        u->more->handler.on_close(loop, nki_udp_handle(u), &info, u->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_UDP_CLOSE, u, u->user);
        ev->udp = nki_udp_handle(u);
        ev->close = info;
        return; /* disposed of when the next event is fetched */
    }
    nki_udp_dispose(loop, u);
}

/* A callback that has paused its udp may still look at them. */
static void nki_udp_drop_parked(netkit_loop *loop, nki_udp *u) {
    nki_dgrams *d = loop->dgrams;
    nki_udp_parked *p = u->parked;
    u->parked = NULL;
    if (p != NULL && p == d->in_use) {
        nki_dgrams_bury(loop);
        d->dead = p;
    } else if (p != NULL) {
        nki_free(&loop->allocator, p, p->size);
    }
}

/* Failures that have not been told never will be. */
static void nki_udp_drop_failed(nki_udp_more *m) {
    for (unsigned i = 0; i < m->failed_count; i++) {
        m->lost += m->failed[i].len;
    }
    m->failed_count = 0;
}

/* From anywhere: nothing more is received or told but the end. */
static void nki_udp_close(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_CLOSING) != 0) {
        return;
    }
    nki_udp_drop_failed(u->more);
    u->flags |= NKI_D_CLOSING;
    nki_udp_flush(loop, u);
    if (u->out != NULL) {
        u->queued -= nki_udp_record_at(u->out, u->out->begin)->sent;
    }
    nki_udp_drop_out(loop, u);
    if (loop->udp_batch == u) {
        nki_udp_batch_end(loop);
    }
    nki_udp_drop_parked(loop, u);
    nki_timers_stop(&loop->timers, &u->more->timer);
    loop->driver->shut(loop, &u->source, false);
}
