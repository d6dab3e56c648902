/* The send queue of a udp: datagrams in blocks, in order, and how they leave.
 *
 * What is sent is copied behind a short record of where it goes. Blocks belong to the loop and
 * come back when their datagrams have gone, so that in the steady state none is allocated and idle
 * udps own nothing. A flush gives the system up to 64 at a time. It stops when the system takes no
 * more: it says when there is room (STALLED), or does not (SHORT: buffers of the machine), and
 * then a timer tries again. A datagram that cannot be sent is told to on_error and dropped; the
 * next one goes on. An error may be another's, of one sent long ago: so it is tried again. */

static size_t nki_udp_record_size(size_t len) {
    return sizeof(nki_udp_record) + ((len + 7) & ~(size_t)7);
}

static unsigned char *nki_udp_block_bytes(nki_udp_block *b) {
    return (unsigned char *)(b + 1);
}

static nki_udp_record *nki_udp_record_at(nki_udp_block *b, uint32_t at) {
    return (nki_udp_record *)(void *)(nki_udp_block_bytes(b) + at);
}

/* ---- blocks ---- */

static void nki_udp_block_free(netkit_loop *loop, nki_udp_block *b) {
    nki_free(&loop->allocator, b, sizeof *b + NKI_UDP_BLOCK_ROOM);
}

static void nki_udp_block_give(netkit_loop *loop, nki_udp_block *b) {
    nki_dgrams *d = loop->dgrams;
    if (d->spare_count < NKI_UDP_BLOCKS_SPARE) {
        b->next = d->spare;
        d->spare = b;
        d->spare_count++;
    } else {
        d->blocks--;
        nki_udp_block_free(loop, b);
    }
}

/* Rather than more than a few blocks, what other udps have queued goes out sooner. */
static nki_udp_block *nki_udp_block_take(netkit_loop *loop) {
    nki_dgrams *d = loop->dgrams;
    if (d->spare == NULL && d->blocks >= NKI_UDP_BLOCKS_SPARE) {
        nki_udp_flush_dirty(loop);
    }
    nki_udp_block *b = d->spare;
    if (b != NULL) {
        d->spare = b->next;
        d->spare_count--;
    } else {
        b = (nki_udp_block *)nki_alloc(&loop->allocator, sizeof *b + NKI_UDP_BLOCK_ROOM);
        if (b == NULL) {
            return NULL;
        }
        d->blocks++;
    }
    b->next = NULL;
    b->begin = 0;
    b->end = 0;
    return b;
}

static nki_udp_block *nki_udp_block_for(netkit_loop *loop, nki_udp *u, size_t size) {
    nki_udp_block *b = u->out_last;
    if (b != NULL && NKI_UDP_BLOCK_ROOM - b->end >= size) {
        return b;
    }
    b = nki_udp_block_take(loop); /* may have emptied the queue */
    if (b == NULL) {
        return NULL;
    }
    *(u->out_last == NULL ? &u->out : &u->out_last->next) = b;
    u->out_last = b;
    return b;
}

/* NETKIT_OK or NETKIT_E_NOMEM. */
static int nki_udp_queue(netkit_loop *loop, nki_udp *u, const nki_route *route, const void *data,
                         size_t len, uint32_t segment) {
    size_t size = nki_udp_record_size(len);
    nki_udp_block *b = nki_udp_block_for(loop, u, size);
    if (b == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_udp_record *r = nki_udp_record_at(b, b->end);
    r->route = *route;
    r->len = (uint32_t)len;
    r->sent = 0;
    r->segment = segment;
    r->is_single = 0;
    r->tries = 0;
    if (len != 0) {
        memcpy(r + 1, data, len);
    }
    b->end += (uint32_t)size;
    u->queued += (uint32_t)len;
    u->records++;
    return NETKIT_OK;
}

/* The first datagram is done with. */
static void nki_udp_pop(netkit_loop *loop, nki_udp *u) {
    nki_udp_block *b = u->out;
    const nki_udp_record *r = nki_udp_record_at(b, b->begin);
    u->queued -= r->len;
    u->records--;
    b->begin += (uint32_t)nki_udp_record_size(r->len);
    if (b->begin == b->end) {
        u->out = b->next;
        if (u->out == NULL) {
            u->out_last = NULL;
        }
        nki_udp_block_give(loop, b);
    }
}

static void nki_udp_drop_out(netkit_loop *loop, nki_udp *u) {
    while (u->out != NULL) {
        nki_udp_block *b = u->out;
        u->out = b->next;
        nki_udp_block_give(loop, b);
    }
    u->out_last = NULL;
    u->records = 0;
}

/* Bytes that one more datagram may have. */
static size_t nki_udp_room(const nki_udp *u) {
    size_t used = (size_t)u->queued + (size_t)u->records * NKI_UDP_COST;
    return u->more->send_max > used ? u->more->send_max - used : 0;
}

/* ---- flushing ---- */

static bool nki_udp_tells_errors(const netkit_loop *loop, const nki_udp *u) {
    return u->more->handler.on_error != NULL || loop->desc.pull;
}

/* What the driver shall wait for. */
static void nki_udp_arm(netkit_loop *loop, nki_udp *u) {
    uint32_t wanted = (u->flags & NKI_D_STALLED) != 0 ? (uint32_t)NETKIT_POLL_WRITE : 0u;
    if ((u->flags & (NKI_D_PAUSED | NKI_D_STARVED)) == 0) {
        wanted |= NETKIT_POLL_READ;
    }
    if (wanted != u->more->armed && (u->flags & NKI_D_CLOSING) == 0) {
        u->more->armed = wanted;
        loop->driver->arm(loop, &u->source, wanted);
    }
}

/* Its place in the timers was reserved when the udp was made. */
static void nki_udp_set_timer(netkit_loop *loop, nki_udp *u) {
    const nki_udp_more *m = u->more;
    nki_timers_restart(&loop->timers, &u->more->timer, NKI_MIN(m->send_due_ns, m->recv_due_ns));
}

/* The longest part of a datagram that goes in one message. */
static size_t nki_udp_piece(const nki_udp *u, const nki_udp_record *r, size_t left) {
    if (r->segment == 0 || left <= r->segment) {
        return left;
    }
    if (r->is_single || (u->flags & NKI_D_GSO) == 0) {
        return r->segment;
    }
    size_t most = NKI_MIN((size_t)NKI_DGRAM_SEGMENTS, NETKIT_DATAGRAM_MAX / r->segment);
    return NKI_MIN(left, most * r->segment);
}

/* Add the messages of one datagram. */
static unsigned nki_udp_gather_one(const nki_udp *u, const nki_udp_record *r, nki_dgram_out *out,
                                   unsigned count) {
    const unsigned char *data = (const unsigned char *)(r + 1);
    size_t at = r->sent;
    do {
        nki_dgram_out *o = &out[count++];
        o->data = data + at;
        o->len = nki_udp_piece(u, r, r->len - at);
        o->segment = o->len > r->segment ? r->segment : 0;
        o->route = &r->route;
        o->path = NULL;
        at += o->len;
    } while (at < r->len && count < NKI_DGRAM_BATCH);
    return count;
}

static unsigned nki_udp_gather(const nki_udp *u, nki_dgram_out *out) {
    unsigned count = 0;
    for (nki_udp_block *b = u->out; b != NULL && count < NKI_DGRAM_BATCH; b = b->next) {
        uint32_t at = b->begin;
        while (at < b->end && count < NKI_DGRAM_BATCH) {
            const nki_udp_record *r = nki_udp_record_at(b, at);
            count = nki_udp_gather_one(u, r, out, count);
            at += (uint32_t)nki_udp_record_size(r->len);
        }
    }
    return count;
}

static void nki_udp_sent(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        nki_udp_record *r = nki_udp_record_at(u->out, u->out->begin);
        r->sent += (uint32_t)out[i].len;
        r->tries = 0;
        if (r->sent >= r->len) {
            nki_udp_pop(loop, u);
        }
    }
    u->more->send_ms = 0;
}

/* Of more than there is place for, nobody is told, nor after the end. */
static void nki_udp_note_failed(netkit_loop *loop, nki_udp *u, const nki_udp_record *r, int code,
                                int os_code) {
    nki_udp_more *m = u->more;
    bool is_closing = (u->flags & NKI_D_CLOSING) != 0;
    bool is_told = nki_udp_tells_errors(loop, u) && !is_closing;
    if (is_closing || (is_told && m->failed_count == NKI_UDP_FAILED_MAX)) {
        m->lost += r->len - r->sent;
    } else if (is_told) {
        nki_udp_failed *f = &m->failed[m->failed_count++];
        f->route = r->route;
        f->len = r->len - r->sent;
        f->code = code;
        f->os_code = os_code;
        nki_enqueue(loop, &u->source);
    }
}

/* Codes that tell of a datagram sent before. */
static bool nki_udp_is_news(int code) {
    return code == NETKIT_E_REFUSED || code == NETKIT_E_UNREACHABLE || code == NETKIT_E_RESET ||
           code == NETKIT_E_TIMEOUT || code == NETKIT_E_TOOBIG || code == NETKIT_E_ACCESS ||
           code == NETKIT_E_NOSYS;
}

/* A call failed by news. Who it is about stands in the system's reports; where there are none it
 * can only be the peer of a connected one. */
static void nki_udp_heard(netkit_loop *loop, nki_udp *u, int code, int os_code) {
    if ((u->flags & NKI_D_TELL_ERRORS) != 0) {
        u->flags |= NKI_D_ERRORS;
        nki_enqueue(loop, &u->source);
    } else if (u->more->level != NETKIT_AF_NONE && nki_udp_is_news(code)) {
        nki_udp_record none;
        memset(&none, 0, sizeof none);
        none.route.level = u->more->level;
        nki_udp_note_failed(loop, u, &none, code, os_code);
    }
}

static void nki_udp_stall(netkit_loop *loop, nki_udp *u, bool is_told) {
    nki_udp_more *m = u->more;
    if (is_told) {
        u->flags |= NKI_D_STALLED;
        m->armed = UINT32_MAX; /* anew: a driver may have told of room once, and that is over */
        nki_udp_arm(loop, u);
        return;
    }
    m->send_ms = m->send_ms == 0 ? (uint32_t)NKI_UDP_SHORT_MS
                                 : NKI_MIN(m->send_ms * 2, (uint32_t)NKI_UDP_SHORT_MS_MAX);
    u->flags |= NKI_D_SHORT;
    m->send_due_ns = nki_after_ms(loop, m->send_ms);
    nki_udp_set_timer(loop, u);
}

/* The first message was not taken. Whether to go on now. */
static bool nki_udp_send_failed(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, int code) {
    int os_code = loop->driver->os_code();
    nki_udp_record *r = nki_udp_record_at(u->out, u->out->begin);
    if (code == NETKIT_E_AGAIN || code == NETKIT_E_NOMEM) {
        r->tries = 0; /* what it was refused with before was not its own */
        nki_udp_stall(loop, u, code == NETKIT_E_AGAIN);
        return false;
    }
    bool is_final = code == NETKIT_E_INVALID || code == NETKIT_E_TOOBIG ||
                    code == NETKIT_E_ACCESS || code == NETKIT_E_ADDRNOTAVAIL;
    /* Of IP a refusal is always another's, told once for each: as many may be waiting. */
    bool is_others = code == NETKIT_E_REFUSED && (u->flags & NKI_D_TELL_ERRORS) != 0;
    uint8_t most = is_others ? (uint8_t)NKI_UDP_RETRIES_MAX : (uint8_t)NKI_UDP_RETRIES;
    bool is_retried = !is_final && r->tries < most;
    if (is_retried || (u->flags & NKI_D_TELL_ERRORS) != 0) {
        nki_udp_heard(loop, u, code, os_code);
    }
    if (is_retried) {
        r->tries++;
        return true;
    }
    if (out->segment != 0 && code != NETKIT_E_ACCESS) {
        /* A card that cannot, or segments longer than the way takes whole: one by one then. */
        u->flags &= code == NETKIT_E_IO || code == NETKIT_E_NOSYS ? ~(uint32_t)NKI_D_GSO : ~0u;
        r->is_single = 1;
        r->tries = 0;
        return true;
    }
    nki_udp_note_failed(loop, u, r, code, os_code);
    nki_udp_pop(loop, u);
    return true;
}

/* Whether one more datagram fits: an empty queue takes any that may be sent at all. */
static bool nki_udp_fits(const nki_udp *u, size_t len) {
    return u->records == 0 || len + NKI_UDP_COST <= nki_udp_room(u);
}

/* The queue has shrunk: who waited for that? */
static void nki_udp_progress(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_REFUSED) != 0 && nki_udp_fits(u, u->refused)) {
        u->flags = (u->flags & ~(uint32_t)NKI_D_REFUSED) | NKI_D_DRAIN_DUE;
        nki_enqueue_later(loop, &u->source);
    }
}

/* When there is no place to note more failures, the rest waits until they have been told; but not
 * for the end of a pause. */
static bool nki_udp_may_fail(const nki_udp *u) {
    return u->more->failed_count < NKI_UDP_FAILED_MAX ||
           (u->flags & (NKI_D_PAUSED | NKI_D_CLOSING)) != 0;
}

/* Send what is queued as far as the system takes it. Calls nobody back. */
static void nki_udp_flush(netkit_loop *loop, nki_udp *u) {
    nki_dgram_out out[NKI_DGRAM_BATCH];
    while (u->out != NULL && (u->flags & NKI_D_HELD) == 0 && nki_udp_may_fail(u)) {
        unsigned count = nki_udp_gather(u, out);
        int n = loop->driver->udp_send(loop, u, out, count);
        if (n > 0) {
            nki_udp_sent(loop, u, out, (unsigned)n);
        } else if (!nki_udp_send_failed(loop, u, out, n)) {
            break;
        }
    }
    nki_udp_progress(loop, u);
}

static void nki_udp_mark_dirty(netkit_loop *loop, nki_udp *u) {
    if ((u->flags & NKI_D_DIRTY) == 0) {
        u->flags |= NKI_D_DIRTY;
        u->next = NULL;
        if (loop->udp_dirty == NULL) {
            loop->udp_dirty = u;
        } else {
            loop->udp_dirty_last->next = u;
        }
        loop->udp_dirty_last = u;
    }
}

static void nki_udp_flush_dirty(netkit_loop *loop) {
    nki_udp *u;
    while ((u = loop->udp_dirty) != NULL) {
        loop->udp_dirty = u->next;
        u->flags &= ~(uint32_t)NKI_D_DIRTY;
        if ((u->flags & NKI_D_CLOSING) == 0) {
            nki_udp_flush(loop, u);
        }
    }
}
