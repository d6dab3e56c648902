/* Operations: begun for those who want them, cancelled, and what their completions mean.
 *
 * There is at most one receive, send and accept of a descriptor at a time, and the next one is
 * begun only after the terminal completion (the one without F_MORE) of the one before. A cancelled
 * operation completes all the same, so memory and descriptor wait for that: close(2) alone would
 * neither end it nor send a FIN. (What may go before: nki_u_may_leave.)
 *
 * Tried and left out (Linux 6.18, loopback, 50 at a time, time of both sides). To close by an
 * operation with the next wait spares 0.5 to 0.8 of 3 to 6 us; but the descriptor would be there
 * still in on_close, in the way of who is at the limit of open files and dials anew, and a process
 * forked off before the wait would hold the connection as long as it lives. To shut down by one
 * costs 4.8 us instead of 3.5, as a thread of the kernel's does it. To cancel by descriptor makes
 * the kernel look through all that waits: 2.0 us instead of 0.8 with 50 conns, 230 instead of 10
 * with 8000. */

#if NKI_HAS_URING

enum {
    NKI_U_SEND_MAX = NKI_MIDDLE_CHUNK_SIZE - (int)sizeof(nki_chunk), /* larger ones are calls */
    NKI_U_BULK = 8,             /* reads by recv after a filled buffer */
    NKI_U_BULK_MIN = 4096,      /* one that is larger starts them anew */
    NKI_U_READS_MIN = 8,        /* large ones that a turn takes up at least */
    NKI_U_PARKED_SOCKETS = 256, /* accepted ahead of the listener */
    NKI_U_ENTERS_MAX = 64       /* of a wait that does not block */
};

/* For so long destroying a loop waits for a kernel that says nothing. */
#define NKI_U_DESTROY_NS (500 * (uint64_t)NKI_NS_PER_MS)

/* A place in the ring. None before it is enabled, so that another ring can take its place, none
 * when it is lost, and never in a forked child, to which its memory is not mapped. */
static nki_uring_sqe *nki_u_take(netkit_loop *loop, nki_u *u) {
    loop->is_unsubmitted = 1;
    return NKI_UNLIKELY(!u->ring.is_enabled || nki_u_is_child(u)) ? NULL : nki_uring_take(&u->ring);
}

/* ---- beginning ---- */

static bool nki_u_cancel(netkit_loop *loop, nki_u *u, uint64_t name) {
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    sqe->opcode = NKI_URING_CANCEL;
    sqe->flags = u->has_skip ? (uint8_t)NKI_URING_SQE_SKIP_SUCCESS : 0;
    sqe->fd = -1;
    sqe->addr = name;
    sqe->user_data = NKI_U_IGNORED;
    return true;
}

static bool nki_u_cancel_all(netkit_loop *loop, nki_u *u, const nki_source *source,
                             const nki_u_slot *s) {
    for (unsigned op = NKI_U_RECV; op <= NKI_U_CONNECT; op++) {
        if ((s->busy & NKI_U_BIT(op)) != 0 && !nki_u_cancel(loop, u, nki_u_name(source, s, op))) {
            return false;
        }
    }
    return true;
}

/* A poll of which nothing more may come. One that cannot be cancelled now, as the ring is full, is
 * owed, and nothing else is begun in its slot before, whoever has that by then: at most one is. */
static void nki_u_give_up_poll(netkit_loop *loop, nki_u *u, const nki_source *source,
                               nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_POLL)) != 0) {
        uint64_t name = nki_u_name(source, s, NKI_U_POLL);
        if (!nki_u_cancel(loop, u, name)) {
            s->owed = name;
            nki_u_want(loop, u, source, s, 0);
        }
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
        s->polls = (uint8_t)((s->polls + 1) & 15);
    }
}

/* End a receive whose bytes are not wanted this way; what comes before its end is still parked. */
static void nki_u_turn_away(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0 && (s->state & NKI_U_TURNED_AWAY) == 0 &&
        nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_RECV))) {
        s->state |= NKI_U_TURNED_AWAY;
    }
}

static uint32_t nki_u_poll_bits(uint32_t events) {
    events &= 0xFFFF;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16; /* the kernel's poll32_events has its halves swapped there */
#endif
    return events;
}

/* Errors, hang-ups and, unlike by poll(2), the peer's end are reported always: a single poll that
 * does not ask for that last one would complete at once, again and again. A poll that is there is
 * given up, not waited for. */
static bool nki_u_begin_poll(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s,
                             uint32_t events, bool is_multishot) {
    if ((s->busy & NKI_U_BIT(NKI_U_POLL)) != 0) {
        if (!nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_POLL))) {
            return false;
        }
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    s->polls = (uint8_t)((s->polls + 1) & 15);
    sqe->opcode = NKI_URING_POLL_ADD;
    nki_u_aim(u, sqe, source);
    sqe->len = is_multishot ? NKI_URING_POLL_MULTISHOT : 0;
    sqe->op_flags = nki_u_poll_bits(events);
    sqe->user_data = nki_u_name(source, s, NKI_U_POLL);
    s->busy |= NKI_U_BIT(NKI_U_POLL);
    return true;
}

/* To poll first: else an empty pool would end it at once, although nothing has come. A conn's else
 * receives first: bytes and a reset that a poll finds together are one event to it, and after the
 * bytes nobody would look for the reset (seen on 6.18). */
static uint32_t nki_u_poll_first(const nki_u *u, const nki_source *source) {
    bool is_empty = u->pool.held >= u->pool.count;
    bool is_conn = nki_id_kind(source->id) == NKI_KIND_CONN;
    return is_conn && !is_empty ? 0u : (uint32_t)NKI_URING_RECV_POLL_FIRST;
}

static bool nki_u_begin_recv(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_POLL)) != 0) {
        if (!nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_POLL))) {
            return false;
        }
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
        s->polls = (uint8_t)((s->polls + 1) & 15);
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    uint32_t multishot = NKI_URING_RECV_MULTISHOT;
    if (nki_id_kind(source->id) == NKI_KIND_UDP) { /* always multishot: else no head is written */
        sqe->opcode = NKI_URING_RECVMSG;
        sqe->addr = (uint64_t)(uintptr_t)&u->shape;
        sqe->len = 1;
    } else {
        sqe->opcode = NKI_URING_RECV;
        multishot = nki_u_is_signalled(u) ? 0u : NKI_SYS_io_uring_multishot(multishot);
    }
    sqe->flags |= NKI_URING_SQE_BUFFER_SELECT;
    sqe->ioprio = (uint16_t)(multishot | nki_u_poll_first(u, source));
    nki_u_aim(u, sqe, source);
    sqe->buffer_group = NKI_POOL_GROUP;
    sqe->user_data = nki_u_name(source, s, NKI_U_RECV);
    s->busy |= NKI_U_BIT(NKI_U_RECV);
    u->arms++;
    return true;
}

/* The address stays where it is until this has ended, as a polling thread may read it late. */
static bool nki_u_begin_connect(netkit_loop *loop, nki_u *u, const nki_source *source,
                                nki_u_slot *s) {
    if ((s->busy & NKI_U_BIT(NKI_U_CONNECT)) != 0 || (s->state & NKI_U_DIALLED) != 0) {
        return true;
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    sqe->opcode = NKI_URING_CONNECT;
    nki_u_aim(u, sqe, source);
    sqe->addr = (uint64_t)(uintptr_t)nki_u_blob_data(s->blob);
    sqe->off = nki_u_blob_len(s->blob);
    sqe->user_data = nki_u_name(source, s, NKI_U_CONNECT);
    s->busy |= NKI_U_BIT(NKI_U_CONNECT);
    return true;
}

static void nki_u_choose_pool(nki_u *u, bool is_sharing) {
    u->pool.is_sharing = is_sharing;
    u->pool.count = is_sharing ? NKI_POOL_SHARED_COUNT : NKI_POOL_COUNT;
    u->pool.size = NKI_POOL_SIZE;
    u->pool.wanted = NKI_POOL_WANTED;
}

/* The pool, made at first use: smaller where memory is short, never where the kernel cannot. */
static bool nki_u_has_pool(netkit_loop *loop, nki_u *u) {
    u->has_recv_multishot = u->has_recv_multishot && !u->pool.is_broken;
    while (u->has_recv_multishot && u->pool.ring == NULL) {
        int error = nki_pool_open(&u->pool, &u->ring, loop->keeper);
        if (error == ENOMEM && u->pool.count > 16) {
            u->pool.count /= 4;
        } else if (error == EINVAL && u->pool.is_sharing) {
            nki_u_choose_pool(u, false);
        } else {
            u->has_recv_multishot = error == 0;
        }
    }
    return u->has_recv_multishot;
}

/* Hear of bytes: have them received, or, where buffers are not the way, be told and read then.
 * Unix sockets are always read so: of bytes and an end that come together a multishot receive
 * reports only the bytes there, and never the end (seen on 6.18; liburing#1549). */
static bool nki_u_begin_reading(netkit_loop *loop, nki_u *u, const nki_conn *c, nki_u_slot *s) {
    if (NKI_UNLIKELY((c->flags & NKI_C_CONNECTING) != 0)) {
        return s->blob != NULL ? nki_u_begin_connect(loop, u, &c->source, s)
                               : nki_u_begin_poll(loop, u, &c->source, s, NETKIT_POLL_WRITE, false);
    }
    if ((s->state & NKI_U_ENDED) != 0) { /* PEER_END is always told: by one that goes on, once */
        return (s->busy & NKI_U_BIT(NKI_U_POLL)) != 0 ||
               nki_u_begin_poll(loop, u, &c->source, s, 0, true);
    }
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        return true;
    }
    if (s->bulk == 0 && (s->state & NKI_U_POLLED) == 0 && nki_u_has_pool(loop, u)) {
        return nki_u_begin_recv(loop, u, &c->source, s);
    }
    /* While reads are large one poll goes on, which tells of changes alone, so that what is there
     * is read to its end: a poll for each read costs bulk 2 % more of its processor. */
    bool goes_on =
        u->has_recv_multishot && (s->state & NKI_U_POLLED) == 0 && !nki_u_is_signalled(u);
    /* Who looks first needs no word of an urgent byte: behind a gap it would be told for ever. */
    uint32_t events = NETKIT_POLL_READ | NETKIT_POLL_PEER_END;
    events |= goes_on ? (uint32_t)NETKIT_POLL_PRIORITY : 0u;
    return (s->busy & NKI_U_BIT(NKI_U_POLL)) != 0 ||
           nki_u_begin_poll(loop, u, &c->source, s, events, goes_on);
}

static bool nki_u_begin_accept(netkit_loop *loop, nki_u *u, const nki_listener *l, nki_u_slot *s) {
    if ((s->busy & (NKI_U_BIT(NKI_U_ACCEPT) | NKI_U_BIT(NKI_U_POLL))) != 0) {
        return true;
    }
    if (!u->has_accept_multishot) {
        return nki_u_begin_poll(loop, u, &l->source, s, NETKIT_POLL_READ, true);
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    sqe->opcode = NKI_URING_ACCEPT;
    sqe->ioprio = NKI_SYS_io_uring_multishot(NKI_URING_ACCEPT_MULTISHOT);
    sqe->fd = nki_os_fd(l->source.socket);
    sqe->op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    sqe->user_data = nki_u_name(&l->source, s, NKI_U_ACCEPT);
    s->busy |= NKI_U_BIT(NKI_U_ACCEPT);
    return true;
}

/* A datagram that fits a buffer is received into one; longer ones, and rows of merged ones, which
 * are 64 KiB long, are read when a poll says so. In a shared buffer a head would begin anywhere. */
static bool nki_u_is_received(netkit_loop *loop, nki_u *u, const nki_udp *udp) {
    return udp->more->room.size + NKI_U_CAME_SIZE <= NKI_POOL_SIZE && !u->pool.is_sharing &&
           nki_u_has_pool(loop, u);
}

static bool nki_u_begin_udp(netkit_loop *loop, nki_u *u, nki_udp *udp, nki_u_slot *s) {
    uint32_t events = s->events;
    bool is_busy = (s->busy & NKI_U_BIT(NKI_U_RECV)) != 0;
    if ((events & NETKIT_POLL_READ) == 0 && is_busy) {
        nki_u_turn_away(loop, u, &udp->source, s);
        if ((s->state & NKI_U_TURNED_AWAY) == 0) {
            return false;
        }
    }
    /* What it has to read comes first, else one that often pauses would gather ever more; so does
     * an error, as what comes behind one is not told (nki_u_received). */
    bool is_full = s->first != NKI_POOL_NONE || s->blob != NULL || s->error != 0;
    bool is_waiting = is_busy || is_full;
    if ((events & NETKIT_POLL_READ) != 0 && (is_waiting || nki_u_is_received(loop, u, udp))) {
        events &= ~(uint32_t)NETKIT_POLL_READ;
        if (!is_waiting && !nki_u_begin_recv(loop, u, &udp->source, s)) {
            return false;
        }
    }
    /* One for room to send may be there from when it was received for: it would not tell. */
    bool is_polled = events == NETKIT_POLL_WRITE && (s->busy & NKI_U_BIT(NKI_U_POLL)) != 0;
    return events == 0 || is_polled || nki_u_begin_poll(loop, u, &udp->source, s, events, false);
}

static bool nki_u_begin_input(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s) {
    switch (nki_id_kind(source->id)) {
    case NKI_KIND_CONN: return nki_u_begin_reading(loop, u, (nki_conn *)(void *)source, s);
    case NKI_KIND_LISTENER: return nki_u_begin_accept(loop, u, (nki_listener *)(void *)source, s);
    case NKI_KIND_WATCH:
        if ((s->events & NKI_POLL_SPEAKS) != 0 && (s->busy & NKI_U_BIT(NKI_U_POLL)) == 0) {
            uint32_t events = s->events & NKI_POLL_SPEAKS;
            events |= (events & NETKIT_POLL_READ) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
            bool is_edge = (s->events & NETKIT_POLL_EDGE) != 0 || (s->state & NKI_U_DEAF) != 0;
            return nki_u_begin_poll(loop, u, source, s, events, is_edge);
        }
        return true;
    case NKI_KIND_UDP: return nki_u_begin_udp(loop, u, (nki_udp *)(void *)source, s);
    default: return true;
    }
}

/* Lent memory of so many bytes the kernel should take without copying it; SIZE_MAX: none. */
static size_t nki_u_lent_min(const netkit_loop *loop, const nki_u *u, const nki_conn *c,
                             const nki_u_slot *s) {
    bool is_lending =
        u->has_zerocopy && (c->flags & NKI_C_TCP) != 0 && (s->state & NKI_U_COPIED) == 0;
    return is_lending ? loop->desc.ring_zerocopy_min : SIZE_MAX;
}

static bool nki_u_is_lendable(const netkit_loop *loop, const nki_u *u, const nki_conn *c,
                              const nki_u_slot *s, const nki_chunk *chunk) {
    return chunk->capacity == 0 && chunk->file == 0 &&
           chunk->end - chunk->begin >= nki_u_lent_min(loop, u, c, s);
}

/* The first chunk that holds something. */
static const nki_chunk *nki_u_sending(const nki_conn *c) {
    const nki_chunk *chunk = c->out;
    while (chunk != NULL && chunk->begin == chunk->end) {
        chunk = chunk->next;
    }
    return chunk;
}

/* The first chunk alone: what is behind it goes out when this is known to have gone. A file is
 * sent by calls, and so are descriptors, which kernels before 6.13 forget when a send has to wait:
 * for them the operation is to wait until there is room. */
static bool nki_u_begin_send(netkit_loop *loop, nki_u *u, const nki_conn *c, nki_u_slot *s) {
    const nki_chunk *chunk = nki_u_sending(c);
    if (chunk == NULL || (s->busy & NKI_U_BIT(NKI_U_SEND)) != 0) {
        return true;
    }
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe == NULL) {
        return false;
    }
    size_t len = NKI_MIN(chunk->end - chunk->begin, (size_t)INT_MAX);
    nki_u_aim(u, sqe, &c->source);
    s->is_lending = nki_u_is_lendable(loop, u, c, s, chunk);
    if (nki_out_is_alone(chunk)) {
        sqe->opcode = NKI_URING_POLL_ADD;
        sqe->len = NKI_URING_POLL_MULTISHOT;
        sqe->op_flags = nki_u_poll_bits(NETKIT_POLL_WRITE);
    } else {
        sqe->opcode = NKI_URING_SEND;
        sqe->addr = (uint64_t)(uintptr_t)(chunk->data + chunk->begin);
        sqe->len = (uint32_t)NKI_CLIP(send, len);
        sqe->op_flags = NKI_MSG_NOSIGNAL;
    }
    if (NKI_UNLIKELY(s->is_lending)) {
        sqe->opcode = NKI_URING_SEND_ZC;
        sqe->ioprio = NKI_URING_SEND_ZC_REPORT;
        sqe->op_flags |= MSG_WAITALL; /* one notification for all of it */
    }
    sqe->user_data = nki_u_name(&c->source, s, NKI_U_SEND);
    s->busy |= NKI_U_BIT(NKI_U_SEND);
    u->sends++;
    return true;
}

static bool nki_u_begin(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s) {
    if (NKI_UNLIKELY(s->owed != 0)) {
        if (!nki_u_cancel(loop, u, s->owed)) {
            return false;
        }
        s->owed = 0;
    }
    if (source->token == 0) {
        return true; /* it has died meanwhile */
    }
    if ((s->state & NKI_U_CLOSING) != 0) {
        return nki_u_cancel_all(loop, u, source, s);
    }
    if ((s->state & NKI_U_ROOM) != 0) {
        if (!nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_SEND))) {
            return false;
        }
        s->state = (uint16_t)(s->state & ~NKI_U_ROOM);
    }
    if ((s->want & NKI_U_WANT_SEND) != 0) {
        if (!nki_u_begin_send(loop, u, (nki_conn *)(void *)source, s)) {
            return false;
        }
        s->want = (uint8_t)(s->want & ~NKI_U_WANT_SEND);
    }
    return (s->want & NKI_U_WANT_INPUT) == 0 || nki_u_begin_input(loop, u, source, s);
}

/* Begin all that is wanted, first come first served, as far as the ring takes it. */
static void nki_u_begin_all(netkit_loop *loop, nki_u *u) {
    while (u->want_first != NKI_NO_SLOT) {
        uint32_t slot = u->want_first;
        nki_u_slot *s = nki_u_at(u, slot);
        nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, slot);
        if (!nki_u_begin(loop, u, source, s)) {
            return;
        }
        u->want_first = s->next;
        if (u->want_first == NKI_NO_SLOT) {
            u->want_last = NKI_NO_SLOT;
        }
        s->want = 0;
    }
}

/* ---- what a conn has received ---- */

/* The handler is done with what it had. */
static void nki_u_reclaim(netkit_loop *loop, nki_u *u) {
    while (u->lent != NKI_POOL_NONE) {
        uint16_t id = u->lent;
        u->lent = u->pool.records[id].next;
        nki_pool_give(&u->pool, id);
    }
    if (NKI_UNLIKELY(u->lent_blob != NULL)) {
        nki_u_blob_free(&loop->allocator, u->lent_blob);
        u->lent_blob = NULL;
    }
    u->reading = NULL;
}

static void nki_u_park(nki_u *u, nki_u_slot *s, uint32_t slot, uint16_t id) {
    nki_pool_record *record = &u->pool.records[id];
    record->slot = slot;
    record->next = NKI_POOL_NONE;
    if (s->first == NKI_POOL_NONE) {
        s->first = id;
    } else {
        u->pool.records[s->last].next = id;
    }
    s->last = id;
}

static uint16_t nki_u_unpark(nki_u *u, nki_u_slot *s) {
    uint16_t id = s->first;
    s->first = u->pool.records[id].next;
    return id;
}

static void nki_u_drop_blob(netkit_loop *loop, nki_u_slot *s) {
    nki_u_blob_free(&loop->allocator, s->blob);
    s->blob = NULL;
}

/* The first of what is parked goes to a handler. */
static uint16_t nki_u_lend(nki_u *u, nki_u_slot *s) {
    uint16_t id = nki_u_unpark(u, s);
    u->pool.records[id].next = u->lent;
    u->lent = id;
    return id;
}

/* Forget what was received. What the handler is looking at stays until it is done. */
static void nki_u_forget(netkit_loop *loop, nki_u *u, nki_u_slot *s) {
    bool is_reading = u->reading == s;
    if (s->blob != NULL) {
        if (is_reading) {
            u->lent_blob = s->blob;
            s->blob = NULL;
            is_reading = false;
        }
        nki_u_drop_blob(loop, s);
    }
    while (s->first != NKI_POOL_NONE) {
        if (is_reading) {
            (void)nki_u_lend(u, s);
            is_reading = false;
        } else {
            nki_pool_give(&u->pool, nki_u_unpark(u, s));
        }
    }
    u->reading = u->reading == s ? NULL : u->reading;
}

/* Between turns: buffers of a conn that does not read now are copied out and given back, so that
 * those who pause never starve the others, and it is received for no more until it reads. Where
 * memory is short it keeps them. */
static void nki_u_evict(netkit_loop *loop, nki_u *u, uint32_t slot) {
    nki_u_slot *s = nki_u_at(u, slot);
    nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, slot);
    bool is_udp = nki_id_kind(source->id) == NKI_KIND_UDP;
    nki_u_turn_away(loop, u, source, s);
    while (s->first != NKI_POOL_NONE) {
        const nki_pool_record *record = &u->pool.records[s->first];
        const unsigned char *data = nki_pool_data(&u->pool, s->first) + record->begin;
        size_t len = record->end - record->begin;
        int error = is_udp ? nki_u_blob_push_dgram(&loop->allocator, &s->blob, data, len)
                           : nki_u_blob_push(&loop->allocator, &s->blob, data, len);
        if (error != NETKIT_OK) {
            return;
        }
        nki_pool_give(&u->pool, nki_u_unpark(u, s));
    }
}

static void nki_u_evict_all(netkit_loop *loop, nki_u *u) {
    for (uint32_t i = 0; i < u->pool.records_count && u->pool.held != 0; i++) {
        uint32_t slot = u->pool.records[i].slot;
        if (slot != NKI_POOL_FREE) {
            nki_u_evict(loop, u, slot);
        }
    }
}

/* ---- completions ---- */

static void nki_u_drop_file(nki_u *u, const nki_source *source) {
    if (NKI_UNLIKELY(u->files.fds != NULL) && !nki_u_is_child(u)) { /* it is the parent's table */
        nki_files_drop(&u->files, &u->ring, nki_id_slot(source->id));
    }
}

/* Nothing is in flight any more. */
static void nki_u_finish(netkit_loop *loop, nki_source *source, nki_u_slot *s) {
    source->token = 0;        /* a poll that was given up may still say something */
    nki_u_drop_blob(loop, s); /* the address of a connect that was in flight */
    nki_u_drop_file(nki_u_of(loop), source);
    if (source->socket != UINTPTR_MAX) {
        (void)((s->state & NKI_U_RESET) != 0 ? nki_os_reset(source->socket)
                                             : nki_os_close(source->socket));
    }
    nki_gone(loop, source);
}

/* It is closed, and all it still waits for is memory that the kernel holds until the peer has it.
 * A reset makes it let go. */
static void nki_u_stop_lending(nki_u *u, nki_source *source, const nki_u_slot *s) {
    if (s->busy == NKI_U_BIT(NKI_U_SEND) && (s->state & NKI_U_LENDING) != 0 &&
        source->socket != UINTPTR_MAX) {
        nki_u_drop_file(u, source);
        (void)nki_os_reset(source->socket);
        source->socket = UINTPTR_MAX;
    }
}

/* A buffer that came with nothing for anybody. A shared one that nothing was put into is with the
 * kernel still. */
static void nki_u_return(nki_u *u, const nki_uring_cqe *cqe) {
    bool has_buffer = (cqe->flags & NKI_URING_CQE_BUFFER) != 0;
    if (has_buffer && (cqe->res > 0 || u->pool.shares == NULL)) {
        uint16_t id = nki_pool_take(&u->pool, cqe);
        if (id != NKI_POOL_NONE) {
            nki_pool_give(&u->pool, id);
        }
    }
}

static bool nki_u_is_passing(int os_code) {
    return os_code == EAGAIN || os_code == EINTR;
}

static nki_source *nki_u_received_odd(netkit_loop *loop, nki_u *u, nki_source *source,
                                      nki_u_slot *s, int res) {
    NKI_UNUSED(loop);
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_READ);
    if (s->error != 0) {
        return source; /* bytes are missing: what comes behind them is not told */
    }
    if (res == 0) {
        s->state |= NKI_U_EOF;
    } else if (res == -ENOBUFS) {
        u->pool.is_short = true;
        u->starved++; /* its bytes wait in the socket: the next read takes them from there */
    } else if (res == -EINVAL || res == -EOPNOTSUPP) {
        u->has_recv_multishot = false;
    } else if (res != -ECANCELED && !nki_u_is_passing(-res)) {
        s->error = (uint16_t)-res;
        source->ready = (uint16_t)(source->ready | NETKIT_POLL_ERROR);
    }
    return source;
}

static NKI_HOT nki_source *nki_u_received(netkit_loop *loop, nki_u *u, nki_source *source,
                                          nki_u_slot *s, const nki_uring_cqe *cqe) {
    int res = cqe->res;
    if ((cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_RECV));
        s->state = (uint16_t)(s->state & ~NKI_U_TURNED_AWAY);
    }
    if (NKI_UNLIKELY(res <= 0 || s->error != 0)) {
        nki_u_return(u, cqe);
        return nki_u_received_odd(loop, u, source, s, res);
    }
    uint16_t id = nki_pool_take(&u->pool, cqe);
    if (NKI_UNLIKELY(id == NKI_POOL_NONE)) {
        nki_u_turn_away(loop, u, source, s);
        return nki_u_received_odd(loop, u, source, s, u->pool.is_broken ? -EIO : -ENOMEM);
    }
    nki_u_park(u, s, nki_id_slot(source->id), id);
    if (nki_id_kind(source->id) == NKI_KIND_UDP) { /* its answers go out together */
        nki_ready(loop, source, NETKIT_POLL_READ);
        return NULL;
    }
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_READ);
    if (NKI_UNLIKELY((uint32_t)res == u->pool.size)) {
        s->bulk = NKI_U_BULK;
        nki_u_turn_away(loop, u, source, s);
    }
    if (NKI_LIKELY(s->turn != (uint32_t)loop->turns)) {
        s->turn = (uint32_t)loop->turns;
        s->taken = (uint32_t)res;
        return source;
    }
    /* Others come first once it has had its part of this turn. */
    bool is_over = s->taken >= loop->desc.conn_budget;
    s->taken += (uint32_t)res;
    if (is_over) {
        nki_enqueue_later(loop, source);
    }
    return is_over ? NULL : source;
}

/* A zero-copy send says twice: how much of it went, and later that the memory is free again. Only
 * then it is over. Returns whether it is, and then *res is how much went; refusals are no errors,
 * but reasons to copy from now on. */
static bool nki_u_lent(nki_u *u, nki_u_slot *s, const nki_uring_cqe *cqe, int *res) {
    if ((cqe->flags & NKI_URING_CQE_MORE) != 0) {
        s->sent = cqe->res;
        s->state |= NKI_U_LENDING;
        u->lendings++;
        return false;
    }
    *res = cqe->res;
    if ((cqe->flags & NKI_URING_CQE_NOTIF) != 0) {
        *res = s->sent;
        s->state = (uint16_t)(s->state & ~NKI_U_LENDING);
        if (((uint32_t)cqe->res & NKI_URING_NOTIF_COPIED) != 0) {
            s->state |= NKI_U_COPIED;
        }
    }
    if (*res == -EINVAL || *res == -EOPNOTSUPP || *res == -ENOMEM || *res == -ENOBUFS) {
        s->state |= NKI_U_COPIED;
        *res = 0;
    }
    return true;
}

static nki_source *nki_u_sent(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                              const nki_uring_cqe *cqe) {
    nki_conn *c = (nki_conn *)(void *)source;
    int res = cqe->res;
    if (NKI_UNLIKELY(s->is_lending) && !nki_u_lent(u, s, cqe, &res)) {
        return NULL;
    }
    if (NKI_UNLIKELY((cqe->flags & NKI_URING_CQE_MORE) != 0)) { /* the poll for room */
        if (((uint32_t)res & (NETKIT_POLL_WRITE | NKI_POLL_ALWAYS)) != 0) {
            s->state |= NKI_U_ROOM;
            nki_u_want(loop, u, source, s, 0);
        }
        return NULL;
    }
    s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_SEND));
    s->state = (uint16_t)(s->state & ~NKI_U_ROOM);
    u->sends--;
    const nki_chunk *chunk = nki_u_sending(c);
    if (NKI_LIKELY(res >= 0)) {
        if (NKI_LIKELY(chunk == NULL || !nki_out_is_alone(chunk))) { /* else the events of a poll */
            nki_out_sent(loop, c, (size_t)res);
        }
    } else if (res != -ECANCELED && !nki_u_is_passing(-res)) {
        s->send_error = (uint16_t)-res;
    }
    bool is_plain = (c->flags & ~(uint32_t)NKI_C_PLAIN) == NKI_C_STALLED && c->out == NULL &&
                    (source->ready & NKI_READABLE) == 0;
    if (NKI_LIKELY(is_plain && s->send_error == 0)) {
        c->flags &= ~(uint32_t)NKI_C_STALLED;
        return NULL;
    }
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_WRITE);
    return source;
}

static void nki_u_accepted(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                           const nki_uring_cqe *cqe) {
    int fd = cqe->res;
    if ((cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_ACCEPT));
        s->state = (uint16_t)(s->state & ~NKI_U_TURNED_AWAY);
    }
    if (fd >= 0) {
        if (nki_u_blob_push(&loop->allocator, &s->blob, &fd, sizeof fd) != NETKIT_OK) {
            s->error = ENOMEM;
            nki_os_abandon((uintptr_t)fd);
        }
    } else if (fd == -EINVAL && u->has_accept_multishot) {
        u->has_accept_multishot = false; /* or it is not listening: accept itself will say so */
    } else if (fd != -ECANCELED && !nki_u_is_passing(-fd)) {
        s->error = (uint16_t)-fd;
    }
    bool is_full = nki_u_blob_len(s->blob) >= NKI_U_PARKED_SOCKETS * sizeof fd;
    if (is_full && (s->busy & NKI_U_BIT(NKI_U_ACCEPT)) != 0 &&
        (s->state & NKI_U_TURNED_AWAY) == 0 &&
        nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_ACCEPT))) {
        s->state |= NKI_U_TURNED_AWAY;
    }
    nki_ready(loop, source, NETKIT_POLL_READ); /* served when all are known, for its budget */
}

/* What is still under way after all is waited for as after a call. */
static nki_source *nki_u_dialled(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                 int res) {
    s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_CONNECT));
    if (res == -EINPROGRESS || res == -EALREADY || res == -EINTR) {
        nki_u_drop_blob(loop, s);
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
        return NULL;
    }
    s->state |= NKI_U_DIALLED;
    s->error = (uint16_t)(res < 0 ? -res : 0);
    source->ready = (uint16_t)(source->ready | NETKIT_POLL_WRITE);
    return source;
}

/* Of a conn whose peer has ended: only a reset is news. */
static nki_source *nki_u_polled_end(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                    const nki_uring_cqe *cqe) {
    uint32_t said = cqe->res < 0 ? (uint32_t)NETKIT_POLL_ERROR : (uint32_t)cqe->res;
    uint32_t events = said & NKI_POLL_ALWAYS;
    if (events == 0 && (cqe->flags & NKI_URING_CQE_MORE) == 0) {
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    }
    source->ready = (uint16_t)(source->ready | events);
    return events == 0 ? NULL : source;
}

/* What a watch is told. With nothing but an end that it does not ask for, it waits for a change. */
static uint32_t nki_u_watched(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s,
                              const nki_uring_cqe *cqe, uint32_t events) {
    const uint32_t reading = NETKIT_POLL_READ | NETKIT_POLL_PEER_END;
    uint32_t end = (s->events & reading) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
    events &= s->events | NKI_POLL_ALWAYS | end;
    if ((s->events & NETKIT_POLL_EDGE) != 0) {
        return events;
    }
    if (events == 0) {
        s->state |= NKI_U_DEAF;
    } else if ((cqe->flags & NKI_URING_CQE_MORE) != 0) { /* and is then level-triggered again */
        s->state = (uint16_t)(s->state & ~NKI_U_DEAF);
        nki_u_give_up_poll(loop, u, source, s);
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    }
    return events;
}

static nki_source *nki_u_polled(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                const nki_uring_cqe *cqe) {
    if ((cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(NKI_U_POLL));
        if (nki_id_kind(source->id) == NKI_KIND_WATCH && cqe->res >= 0) {
            nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT); /* looked at again when served */
        }
    }
    if (cqe->res == -ECANCELED) {
        return NULL;
    }
    if ((s->state & NKI_U_ENDED) != 0) {
        return nki_u_polled_end(loop, u, source, s, cqe);
    }
    uint32_t events = cqe->res < 0 ? NETKIT_POLL_READ | NETKIT_POLL_ERROR : (uint32_t)cqe->res;
    if (nki_id_kind(source->id) == NKI_KIND_CONN &&
        (((const nki_conn *)(const void *)source)->flags & NKI_C_CONNECTING) == 0 &&
        (events & NKI_POLL_ALWAYS) != 0) {
        /* Reading will tell. A send that is in flight ends by its own completion: taken for room
         * to send, a hang-up would be looked at over and over until then. */
        events = (events & ~NKI_POLL_ALWAYS) | NETKIT_POLL_READ;
    }
    if (nki_id_kind(source->id) == NKI_KIND_WATCH) {
        events = nki_u_watched(loop, u, source, s, cqe, events);
    }
    source->ready = (uint16_t)(source->ready | events);
    return events == 0 ? NULL : source;
}

/* Of an operation that nobody waits for any more: its memory and descriptors. */
static void nki_u_orphan(nki_u *u, const nki_uring_cqe *cqe) {
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    nki_u_return(u, cqe);
    if (op == NKI_U_ACCEPT && cqe->res >= 0 && cqe->user_data != NKI_U_IGNORED) {
        nki_os_abandon((uintptr_t)cqe->res);
    }
}

/* Of one that is being closed. */
static void nki_u_completed_closing(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s,
                                    const nki_uring_cqe *cqe) {
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    bool is_current = op != NKI_U_POLL || cqe->user_data == nki_u_name(source, s, op);
    nki_conn *c = (nki_conn *)(void *)source;
    int sent = cqe->res;
    bool is_sent = op == NKI_U_SEND && (!s->is_lending || nki_u_lent(u, s, cqe, &sent));
    const nki_chunk *chunk = is_sent && sent > 0 ? nki_u_sending(c) : NULL;
    if (chunk != NULL && !nki_out_is_alone(chunk)) {
        uint32_t kept = c->u.live.active_ms; /* of the dead it is a part of the reason */
        nki_out_sent(loop, c, (size_t)sent);
        c->u.live.active_ms = kept;
    }
    nki_u_orphan(u, cqe);
    if (is_current && (cqe->flags & NKI_URING_CQE_MORE) == 0) {
        s->busy = (uint8_t)(s->busy & ~NKI_U_BIT(op));
        u->sends -= op == NKI_U_SEND;
    }
}

static NKI_HOT nki_source *nki_u_completed(netkit_loop *loop, nki_u *u, const nki_uring_cqe *cqe) {
    nki_source *source = nki_token_find(loop, cqe->user_data);
    if (NKI_UNLIKELY(source == NULL)) {
        if (cqe->user_data == NKI_U_WAKE) {
            /* Each write to the eventfd ends in a completion, whether the ones before it were read
             * or not; only a poll that begins looks at what has been there before. */
            u->is_wake_armed = (cqe->flags & NKI_URING_CQE_MORE) != 0;
            if (!u->is_wake_armed) {
                loop->is_unsubmitted = 1; /* who waits elsewhere comes back before that */
                nki_os_wake_drain(&loop->wake);
            }
        } else {
            nki_u_orphan(u, cqe);
        }
        return NULL;
    }
    nki_u_slot *s = nki_u_at(u, nki_id_slot(cqe->user_data));
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    if (NKI_UNLIKELY((s->state & NKI_U_CLOSING) != 0)) {
        nki_u_completed_closing(loop, u, source, s, cqe);
        if (s->busy == 0) {
            nki_u_finish(loop, source, s);
        } else {
            nki_u_stop_lending(u, source, s);
        }
        return NULL;
    }
    switch (op) {
    case NKI_U_RECV: return nki_u_received(loop, u, source, s, cqe);
    case NKI_U_SEND: return nki_u_sent(loop, u, source, s, cqe);
    case NKI_U_ACCEPT: nki_u_accepted(loop, u, source, s, cqe); return NULL;
    case NKI_U_CONNECT: return nki_u_dialled(loop, u, source, s, cqe->res);
    default: break;
    }
    bool is_current = cqe->user_data == nki_u_name(source, s, NKI_U_POLL);
    return is_current ? nki_u_polled(loop, u, source, s, cqe) : NULL;
}

#endif /* NKI_HAS_URING */
