/* The readiness driver: the system says what is ready, and the call is made at that moment.
 *
 * Where the poller has edges a descriptor is registered once, for both directions, and never
 * again: in the steady state a message costs one wait, one recv, one send. A short read ends
 * reading without asking for EAGAIN, but only on TCP, when the whole buffer was offered and the
 * event carried nothing special: unix sockets and urgent data split reads, and epoll then stays
 * silent about the rest (measured on Linux 6.18). Without edges, what the loop does not want is
 * taken out of the poller, as a level-triggered hang-up would spin. */

#define NKI_WAKE_TOKEN UINT64_MAX

/* nki_source.driver */
enum {
    NKI_R_TO_AGAIN = 1,   /* not TCP, or an event carried more than READ and WRITE */
    NKI_R_REGISTERED = 2, /* in the poller */
    NKI_R_COUNTED = 4,    /* to AGAIN only if less came than the poller has counted */
    NKI_R_WRITES = 8      /* a udp that waits until it can be written */
};

static uint64_t nki_r_now(netkit_loop *loop) {
    const netkit_clock *clock = &loop->desc.clock;
    return clock->now_ns != NULL ? clock->now_ns(clock->user) : nki_os_now_ns();
}

static int nki_r_random(netkit_loop *loop, void *out, size_t size) {
    NKI_UNUSED(loop);
    return nki_os_random(out, size);
}

static int nki_r_open_poller(netkit_loop *loop) {
    int error = nki_poller_open(&loop->poller, loop->desc.backend, &loop->allocator);
    if (error != NETKIT_OK) {
        return error;
    }
    loop->is_arming = !loop->poller.ops->has_edge;
    error = nki_poller_wake_open(&loop->poller, &loop->wake, NKI_WAKE_TOKEN);
    if (error != NETKIT_OK) {
        nki_poller_close(&loop->poller);
    }
    return error;
}

static int nki_r_open(netkit_loop *loop) {
    size_t size = loop->desc.events_max * sizeof *loop->events;
    loop->events = (netkit_poll_event *)nki_alloc(&loop->allocator, size);
    int error = loop->events == NULL ? (int)NETKIT_E_NOMEM : nki_os_begin();
    if (error == NETKIT_OK) {
        error = nki_r_open_poller(loop);
        if (error == NETKIT_OK) {
            return NETKIT_OK;
        }
        nki_os_end();
    }
    nki_free(&loop->allocator, loop->events, size);
    return error;
}

static void nki_r_close(netkit_loop *loop) {
    nki_free(&loop->allocator, loop->events, loop->desc.events_max * sizeof *loop->events);
    nki_os_wake_close(&loop->wake);
    nki_poller_close(&loop->poller);
    nki_os_end();
}

/* The kernel's set is shared with a process that was forked off (epoll(7)): its events are the
 * parent's, and so is what is registered. */
static int nki_r_wait(netkit_loop *loop, uint64_t timeout_ns) {
    int count = NKI_UNLIKELY(loop->is_inherited)
                    ? 0
                    : loop->poller.ops->wait(&loop->poller, loop->events,
                                             (int)loop->desc.events_max, timeout_ns);
    loop->events_next = loop->events;
    loop->events_end = loop->events + NKI_MAX(count, 0);
    return count;
}

static nki_source *nki_r_next(netkit_loop *loop) {
    const uint32_t plain = NETKIT_POLL_READ | NETKIT_POLL_WRITE;
    while (loop->events_next != loop->events_end) {
        const netkit_poll_event *event = loop->events_next++;
        nki_source *source = nki_token_find(loop, event->data);
        if (NKI_LIKELY(source != NULL)) {
            if (NKI_UNLIKELY((event->events & ~plain) != 0)) {
                source->driver = (uint8_t)((source->driver | NKI_R_TO_AGAIN) & ~NKI_R_COUNTED);
            }
            source->ready = (uint16_t)(source->ready | event->events);
            return source;
        }
        if (event->data == NKI_WAKE_TOKEN) {
            nki_poller_wake_drain(&loop->poller, &loop->wake);
        }
    }
    return NULL;
}

static int nki_r_wake(netkit_loop *loop, bool is_coalesced) {
    NKI_UNUSED(is_coalesced);
    return nki_poller_wake_signal(&loop->poller, &loop->wake);
}

/* Before a foreign loop waits: where the poller itself tells the system of changes with its next
 * wait only, and asks again for what it has reported. Within a turn nobody is going to wait, and
 * what was reported may not have been served yet. */
static void nki_r_commit(netkit_loop *loop) {
    if (loop->poller.ops->commit != NULL && loop->phase == NKI_TURN_NONE) {
        loop->poller.ops->commit(&loop->poller);
        loop->is_unsubmitted = 0;
    }
}

/* Something has changed that only a wait, or that, commits. */
static void nki_r_changed(netkit_loop *loop) {
    if (loop->poller.ops->commit != NULL) {
        loop->is_unsubmitted = 1;
    }
}

static int nki_r_native(netkit_loop *loop, uintptr_t *out) {
    *out = loop->poller.native;
    return loop->poller.native == UINTPTR_MAX ? NETKIT_E_NOSYS : NETKIT_OK;
}

/* ---- descriptors ---- */

static int nki_r_register(netkit_loop *loop, nki_source *source, uint32_t events) {
    int error =
        loop->poller.ops->add(&loop->poller, source->socket, events, nki_token_new(loop, source));
    if (error == NETKIT_OK) {
        source->driver |= NKI_R_REGISTERED;
        nki_r_changed(loop);
    } else {
        source->token = 0;
    }
    return error;
}

static void nki_r_unregister(netkit_loop *loop, nki_source *source) {
    if ((source->driver & NKI_R_REGISTERED) != 0 && !loop->is_inherited) {
        (void)loop->poller.ops->remove(&loop->poller, source->socket);
        source->driver = (uint8_t)(source->driver & ~NKI_R_REGISTERED);
    }
    source->token = 0;
}

static int nki_r_attach(netkit_loop *loop, nki_source *source) {
    uint32_t events = NETKIT_POLL_READ;
    if (loop->poller.ops->has_edge) {
        events |= NETKIT_POLL_EDGE;
        if (nki_id_kind(source->id) == NKI_KIND_CONN) {
            bool is_tcp = (((nki_conn *)(void *)source)->flags & NKI_C_TCP) != 0;
            events |= NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END;
            if (!is_tcp) {
                source->driver |= NKI_R_TO_AGAIN;
            } else if (loop->poller.ops->held != NULL) {
                source->driver |= NKI_R_TO_AGAIN | NKI_R_COUNTED;
            } else {
                events |= NETKIT_POLL_PRIORITY;
            }
        }
    }
    return nki_r_register(loop, source, events);
}

/* Removed before it is closed: the descriptor may be open in another process still, and then
 * the kernel would go on reporting it (epoll(7), questions and answers). */
static void nki_r_shut(netkit_loop *loop, nki_source *source, bool reset) {
    nki_r_unregister(loop, source);
    bool is_reset = reset && !loop->is_inherited; /* it would be the parent's that is reset */
    (void)(is_reset ? nki_os_reset(source->socket) : nki_os_close(source->socket));
    nki_gone(loop, source);
}

static void nki_r_discard(netkit_loop *loop, uintptr_t socket, bool reset) {
    NKI_UNUSED(loop);
    (void)(reset ? nki_os_reset(socket) : nki_os_close(socket));
}

/* Level-triggered pollers: only what is wanted is in the set. The poller makes no system call
 * for what does not change. With edges a udp alone changes: the system calls it writable after
 * every datagram that left, so that is asked for only when it matters. */
static void nki_r_arm(netkit_loop *loop, nki_source *source, uint32_t wanted) {
    bool was_writing = (source->driver & NKI_R_WRITES) != 0;
    bool is_writing = (wanted & NETKIT_POLL_WRITE) != 0;
    bool is_udp = nki_id_kind(source->id) == NKI_KIND_UDP;
    if (is_udp && loop->poller.ops->has_edge && is_writing != was_writing) {
        uint32_t events = NETKIT_POLL_READ | (wanted & NETKIT_POLL_WRITE) | NETKIT_POLL_EDGE;
        source->driver = (uint8_t)(source->driver ^ NKI_R_WRITES);
        (void)loop->poller.ops->modify(&loop->poller, source->socket, events, nki_token_of(source));
    }
    if (!loop->poller.ops->has_edge && (source->driver & NKI_R_REGISTERED) != 0) {
        uint32_t events = (wanted & NETKIT_POLL_READ) != 0 ? wanted | NETKIT_POLL_PEER_END : wanted;
        (void)loop->poller.ops->modify(&loop->poller, source->socket, events, nki_token_of(source));
        nki_r_changed(loop);
    }
}

static int nki_r_watch(netkit_loop *loop, nki_source *source, uint32_t events, bool is_new) {
    if (is_new) {
        return nki_r_register(loop, source, events);
    }
    nki_r_changed(loop);
    return loop->poller.ops->modify(&loop->poller, source->socket, events, nki_token_of(source));
}

static void nki_r_unwatch(netkit_loop *loop, nki_source *source) {
    nki_r_unregister(loop, source);
}

/* ---- streams ---- */

/* Before connecting or listening: TCP tells the peer then how much there can ever be. */
static int nki_r_buffers(uintptr_t s, const netkit_conn_options *o) {
    int error = NETKIT_OK;
    if (o->recv_buffer != 0) {
        error = nki_os_set_option(s, NETKIT_OPT_RECV_BUFFER, (int)o->recv_buffer);
    }
    if (error == NETKIT_OK && o->send_buffer != 0) {
        error = nki_os_set_option(s, NETKIT_OPT_SEND_BUFFER, (int)o->send_buffer);
    }
    return error;
}

static int nki_r_listen_one(const nki_listen_how *how, const netkit_addr *addr, uintptr_t *out,
                            netkit_unix_file *file) {
    memset(file, 0, sizeof *file);
    int error = nki_os_socket(addr->family, NETKIT_SOCK_STREAM, false, out);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_r_buffers(*out, how->options);
    if (error == NETKIT_OK) {
        error = nki_os_bind_unix(*out, addr, how->flags, how->mode, file);
    }
    if (error == NETKIT_OK) {
        error = nki_os_listen(*out, how->backlog);
    }
    if (error != NETKIT_OK) {
        nki_os_undo_unix(file);
        (void)nki_os_close(*out);
    }
    return error;
}

/* ":port" is one IPv6 socket that takes IPv4 too; where the machine has no IPv6, an IPv4 one. */
static int nki_r_listen(netkit_loop *loop, const nki_listen_how *how, uintptr_t *out,
                        netkit_unix_file *file) {
    NKI_UNUSED(loop);
    int error = nki_r_listen_one(how, how->addr, out, file);
    bool is_missing = error == NETKIT_E_NOSYS || error == NETKIT_E_ADDRNOTAVAIL;
    if (is_missing && how->addr->is_any && how->addr->family == NETKIT_AF_IPV6) {
        netkit_addr v4 = *how->addr;
        v4.family = NETKIT_AF_IPV4;
        error = nki_r_listen_one(how, &v4, out, file);
    }
    return error;
}

static int nki_r_accept(netkit_loop *loop, nki_listener *l, uintptr_t *out, netkit_addr *peer) {
    NKI_UNUSED(loop);
    int error = nki_os_accept(l->source.socket, out, peer);
    if (error == NETKIT_E_AGAIN) {
        l->source.ready = 0;
    }
    return error;
}

static int nki_r_adopt(netkit_loop *loop, uintptr_t socket, bool *is_tcp) {
    NKI_UNUSED(loop);
    netkit_addr peer;
    int error = nki_os_remote(socket, &peer);
    if (error == NETKIT_OK && nki_os_is_datagram(socket)) {
        error = NETKIT_E_INVALID;
    }
    if (error == NETKIT_OK) {
        *is_tcp = peer.family == NETKIT_AF_IPV4 || peer.family == NETKIT_AF_IPV6;
        error = nki_os_set_option(socket, NETKIT_OPT_BLOCKING, 0);
    }
    return error;
}

/* A socket to connect with. */
static int nki_r_connecting(nki_conn *c, int family, const netkit_addr *source) {
    uintptr_t s;
    int error = nki_os_socket(family, NETKIT_SOCK_STREAM, false, &s);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_r_buffers(s, &c->behaviour->options);
    if (error == NETKIT_OK && source != NULL) {
        error = nki_os_bind(s, source, 0);
    }
    if (error != NETKIT_OK) {
        (void)nki_os_close(s);
        return error;
    }
    c->source.socket = s;
    return NETKIT_OK;
}

static int nki_r_connect(netkit_loop *loop, nki_conn *c, const netkit_addr *to,
                         const netkit_addr *source) {
    NKI_UNUSED(loop);
    int error = nki_r_connecting(c, to->family, source);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_os_connect(c->source.socket, to);
    if (error != NETKIT_OK && error != NETKIT_E_AGAIN) {
        (void)nki_os_close(c->source.socket);
    }
    return error;
}

/* The error that the poller's event took out of the socket, where pollers do that. */
static NKI_COLD int nki_r_taken_error(netkit_loop *loop, nki_conn *c, int otherwise) {
    int os_code = 0;
    if (loop->poller.ops->take_error != NULL) {
        os_code = loop->poller.ops->take_error(&loop->poller, c->source.socket);
    }
    if (os_code == 0) {
        return otherwise;
    }
    return nki_os_fail(os_code);
}

static int nki_r_connected(netkit_loop *loop, nki_conn *c) {
    int error = nki_os_connect_result(c->source.socket);
    return error == NETKIT_E_NOTCONN ? nki_r_taken_error(loop, c, error) : error;
}

/* A receive that stands before an urgent byte says AGAIN while a signal is pending, whatever is
 * behind it (Linux, net/ipv4/tcp.c: "or have SIGURG pending"), and no edge tells of that again. To
 * a poll a conn that stands there is readable when there is more than the urgent byte, or when the
 * kernel is short of memory for TCP: then one receive too many passes the byte. (That it has one is
 * no sign: it may lie behind a gap that the peer never fills.) */
static NKI_COLD bool nki_r_is_put_off(const nki_conn *c) {
#if defined(__linux__)
    int events = nki_os_wait(c->source.socket, NETKIT_POLL_READ, 0);
    return events > 0 && (events & NETKIT_POLL_READ) != 0;
#else
    NKI_UNUSED(c);
    return false;
#endif
}

/* After a read that was not just a short one of a plain conn: is there more to read? */
static NKI_OUTLINE int nki_r_read_odd(netkit_loop *loop, nki_conn *c, int n, size_t max) {
    bool is_short = n < NKI_RECV_SIZE && max == NKI_RECV_SIZE;
    bool is_all = is_short && (c->source.driver & NKI_R_TO_AGAIN) == 0;
    if (is_short && n > 0 && (c->source.driver & NKI_R_COUNTED) != 0) {
        is_all = n >= loop->poller.ops->held(&loop->poller, c->source.socket);
    }
    bool is_urgent = (c->source.ready & NETKIT_POLL_PRIORITY) != 0;
    if (NKI_UNLIKELY(n == NETKIT_E_AGAIN && is_urgent) && nki_r_is_put_off(c)) {
        nki_enqueue_later(loop, &c->source);
    } else if (is_all || n == NETKIT_E_AGAIN) {
        c->source.ready &= NETKIT_POLL_WRITE; /* what a flush that ended at its budget has set */
    }
    return n == NETKIT_E_EOF ? nki_r_taken_error(loop, c, n) : n;
}

static int nki_r_read(netkit_loop *loop, nki_conn *c, size_t max) {
    unsigned char *buffer = nki_block_data(loop->recv);
    loop->span.data = buffer;
    int n = nki_os_recv(c->source.socket, buffer, max);
    bool is_plain = n > 0 && n < NKI_RECV_SIZE && max == NKI_RECV_SIZE &&
                    (c->source.driver & NKI_R_TO_AGAIN) == 0;
    if (NKI_LIKELY(is_plain)) {
        c->source.ready &= NETKIT_POLL_WRITE; /* what a flush that ended at its budget has set */
        return n;
    }
    return nki_r_read_odd(loop, c, n, max);
}

static int nki_r_send_file(nki_conn *c) {
    const nki_chunk *chunk = c->out;
    return nki_os_send_file(c->source.socket, chunk->file - 1, chunk->offset + chunk->begin,
                            chunk->end - chunk->begin, false);
}

/* What stands before lent memory of lent_min bytes or more, or a part of it. */
static int nki_r_send_some(nki_conn *c, size_t lent_min) {
    const nki_chunk *first = c->out;
    if (NKI_UNLIKELY(first->file != 0)) {
        return nki_r_send_file(c);
    }
    const nki_batch *batch = nki_fds_of(first);
    if (NKI_UNLIKELY(batch != NULL)) {
        return nki_os_send_fds(c->source.socket, first->data, first->end, batch->fds, batch->count);
    }
    if (NKI_LIKELY(first->next == NULL && first->end > first->begin)) {
        return nki_os_send(c->source.socket, first->data + first->begin, first->end - first->begin);
    }
    netkit_span spans[NKI_SPANS_MAX];
    size_t count = nki_out_spans(c, spans, NKI_SPANS_MAX, lent_min);
    if (count == 0) {
        return 0; /* empty ones, to be taken off */
    }
    int flags = nki_out_file_follows(c, count) ? NKI_MSG_MORE : 0;
    return nki_os_sendv(c->source.socket, spans, count, flags);
}

/* Within the turn's budget, as reading: a fast peer and a long queue must not hold the others. */
static int nki_r_flush(netkit_loop *loop, nki_conn *c) {
    uint64_t sent = 0;
    while (c->out != NULL && sent < loop->desc.conn_budget) {
        int n = nki_r_send_some(c, SIZE_MAX);
        if (n < 0) {
            if (n == NETKIT_E_AGAIN) {
                c->flags |= NKI_C_STALLED;
                return NETKIT_OK;
            }
            return n;
        }
        sent += (uint64_t)n;
        nki_out_sent(loop, c, (size_t)n);
    }
    if (c->out != NULL) { /* stalled by us, and writable in the next turn */
        c->flags |= NKI_C_STALLED;
        c->source.ready = (uint16_t)(c->source.ready | NETKIT_POLL_WRITE);
        nki_enqueue_later(loop, &c->source);
    }
    return NETKIT_OK;
}

static int nki_r_send(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    NKI_UNUSED(loop);
    return nki_os_send(c->source.socket, data, len);
}

static int nki_r_file_open(uintptr_t file, uint64_t offset, uint64_t *len, uintptr_t *out) {
    int error = nki_file_range(file, offset, len);
    return error != NETKIT_OK ? error : nki_os_dup_file(file, out);
}

static int nki_r_half_close(netkit_loop *loop, nki_conn *c) {
    NKI_UNUSED(loop);
    int error = nki_os_shutdown(c->source.socket, NETKIT_SHUT_WRITE);
    return error == NETKIT_E_NOTCONN ? NETKIT_E_RESET : error;
}

/* ---- datagrams ---- */

static int nki_r_udp_setup(uintptr_t s, const nki_udp_how *how, const netkit_addr *addr) {
    int error = nki_os_set_buffers(s, how->recv_buffer, how->send_buffer);
    if (error == NETKIT_OK && how->is_shared) {
        error = nki_os_set_option(s, NETKIT_OPT_REUSE_ADDR, 1);
    }
    if (error == NETKIT_OK && addr != NULL) {
        error = nki_os_bind(s, addr, how->flags);
    }
    if (error == NETKIT_OK && how->peer != NULL) {
        error = nki_os_connect(s, how->peer);
    }
    return error;
}

static int nki_r_udp_one(const nki_udp_how *how, const netkit_addr *addr, uintptr_t *out) {
    int family = addr != NULL ? addr->family : how->peer->family;
    int error = nki_os_socket(family, NETKIT_SOCK_DGRAM, false, out);
    if (error == NETKIT_OK) {
        error = nki_r_udp_setup(*out, how, addr);
        if (error != NETKIT_OK) {
            nki_os_abandon(*out);
        }
    }
    return error;
}

static int nki_r_udp_adopt(const nki_udp_how *how, uintptr_t *out) {
    *out = how->adopted;
    int error = nki_os_is_datagram(how->adopted) ? NETKIT_OK : NETKIT_E_INVALID;
    if (error == NETKIT_OK) {
        error = nki_os_set_option(how->adopted, NETKIT_OPT_BLOCKING, 0);
    }
    return error != NETKIT_OK
               ? error
               : nki_os_set_buffers(how->adopted, how->recv_buffer, how->send_buffer);
}

static int nki_r_udp_open(netkit_loop *loop, const nki_udp_how *how, uintptr_t *out,
                          uint32_t *caps) {
    NKI_UNUSED(loop);
    const netkit_addr *addr = how->addr;
    int error =
        how->adopted != UINTPTR_MAX ? nki_r_udp_adopt(how, out) : nki_r_udp_one(how, addr, out);
    bool is_missing = error == NETKIT_E_NOSYS || error == NETKIT_E_ADDRNOTAVAIL;
    if (is_missing && addr != NULL && addr->is_any && addr->family == NETKIT_AF_IPV6) {
        netkit_addr v4 = *addr;
        v4.family = NETKIT_AF_IPV4;
        error = nki_r_udp_one(how, &v4, out);
    }
    *caps = error == NETKIT_OK ? nki_os_dgram_caps(*out) : 0;
    return error;
}

/* Fewer than asked for: there were no more, and what comes from now on is told anew; but with an
 * error among what was told, fewer may be what came before that. */
static int nki_r_udp_recv(netkit_loop *loop, nki_udp *u) {
    const nki_dgram_room *room = &u->more->room;
    int n =
        nki_os_recv_dgrams(u->source.socket, loop->dgrams->recv_scratch, loop->dgrams->in, room);
    bool is_all = n > 0 && (unsigned)n < room->count;
    if (n == NETKIT_E_AGAIN || (is_all && (u->source.driver & NKI_R_TO_AGAIN) == 0)) {
        u->source.ready = (uint16_t)(u->source.ready & ~NKI_READABLE);
        u->source.driver = (uint8_t)(u->source.driver & ~NKI_R_TO_AGAIN);
    }
    return n;
}

static int nki_r_udp_send(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, unsigned count) {
    bool is_ipv6 = (u->flags & NKI_D_IPV6) != 0;
    return nki_os_send_dgrams(u->source.socket, is_ipv6, loop->dgrams->send_scratch, out, count);
}

static int nki_r_udp_failed(netkit_loop *loop, nki_udp *u, netkit_datagram *out) {
    return nki_os_recv_failed(u->source.socket, out, loop->dgrams->report, NKI_UDP_REPORT_SIZE);
}

static int nki_r_udp_join(netkit_loop *loop, uintptr_t socket, bool is_join,
                          const netkit_addr *group, uint32_t interface_index,
                          const netkit_addr *source) {
    NKI_UNUSED(loop);
    return nki_os_join(socket, is_join, group, interface_index, source);
}

static int nki_r_local(netkit_loop *loop, uintptr_t socket, netkit_addr *out) {
    NKI_UNUSED(loop);
    return nki_os_local(socket, out);
}

static int nki_r_remote(netkit_loop *loop, uintptr_t socket, netkit_addr *out) {
    NKI_UNUSED(loop);
    return nki_os_remote(socket, out);
}

static int nki_r_set_option(netkit_loop *loop, uintptr_t socket, netkit_option option, int value) {
    NKI_UNUSED(loop);
    return nki_os_set_option(socket, option, value);
}

static int nki_r_get_option(netkit_loop *loop, uintptr_t socket, netkit_option option, int *value) {
    NKI_UNUSED(loop);
    return nki_os_get_option(socket, option, value);
}

static int nki_r_read_fds(netkit_loop *loop, nki_conn *c, size_t max, uintptr_t *fds,
                          size_t *count) {
    unsigned char *buffer = nki_block_data(loop->recv);
    loop->span.data = buffer;
    int n = nki_os_recv_fds(c->source.socket, buffer, max, fds, count);
    if (n == NETKIT_E_AGAIN) {
        c->source.ready &= NETKIT_POLL_WRITE; /* what a flush that ended at its budget has set */
    }
    return n;
}

static int nki_r_dup(netkit_loop *loop, uintptr_t native, uintptr_t *out) {
    NKI_UNUSED(loop);
    return nki_os_dup(native, out);
}

static int nki_r_credentials(netkit_loop *loop, uintptr_t socket, netkit_credentials *out) {
    NKI_UNUSED(loop);
    return nki_os_credentials(socket, out);
}

static int nki_r_unlink(netkit_loop *loop, const netkit_unix_file *file) {
    NKI_UNUSED(loop);
    return nki_os_unlink_unix(file);
}

static uint64_t nki_r_process(netkit_loop *loop) {
    NKI_UNUSED(loop);
    return nki_os_process();
}

static int nki_r_set_text(netkit_loop *loop, uintptr_t socket, netkit_option option,
                          const char *value) {
    NKI_UNUSED(loop);
    return nki_os_set_text(socket, option, value);
}

static int nki_r_get_text(netkit_loop *loop, uintptr_t socket, netkit_option option, char *text,
                          size_t size) {
    NKI_UNUSED(loop);
    return nki_os_get_text(socket, option, text, size);
}

static const nki_driver *nki_readiness_driver(void) {
    static const nki_driver driver = {
        nki_r_open,
        nki_r_close,
        nki_r_now,
        nki_r_random,
        nki_r_wait,
        nki_r_next,
        nki_r_wake,
        nki_r_native,
        nki_r_commit,
        NULL,
        nki_r_attach,
        nki_r_shut,
        nki_r_discard,
        nki_r_arm,
        nki_r_watch,
        nki_r_unwatch,
        nki_r_listen,
        nki_r_accept,
        nki_r_adopt,
        nki_r_connect,
        nki_r_connected,
        nki_r_read,
        NULL,
        nki_keep_shared,
        nki_r_flush,
        nki_r_send,
        nki_r_half_close,
        nki_r_file_open,
        nki_os_abandon_file,
        nki_r_udp_open,
        nki_r_udp_recv,
        nki_r_udp_send,
        nki_r_udp_failed,
        nki_r_udp_join,
        nki_r_local,
        nki_r_remote,
        nki_r_set_option,
        nki_r_get_option,
        nki_os_code,
        nki_r_read_fds,
        nki_r_dup,
        nki_r_credentials,
        nki_r_unlink,
        nki_r_process,
        nki_r_set_text,
        nki_r_get_text,
        nki_r_connected,
    };
    return &driver;
}
