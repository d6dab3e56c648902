/* Udps, as users call them: find the udp, check what is asked, do the least that is right now. */

static int nki_udp_find(netkit_loop *loop, netkit_udp udp, nki_udp **out) {
    int error = nki_enter(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    *out = (nki_udp *)nki_slots_find(&loop->sources, udp.id, NKI_KIND_UDP);
    return NKI_LIKELY(*out != NULL) ? NETKIT_OK : NETKIT_E_STALE;
}

static int nki_udp_find_open(netkit_loop *loop, netkit_udp udp, nki_udp **out) {
    int error = nki_udp_find(loop, udp, out);
    if (NKI_LIKELY(error == NETKIT_OK) && NKI_UNLIKELY(((*out)->flags & NKI_D_CLOSING) != 0)) {
        return NETKIT_E_CLOSED;
    }
    return error;
}

/* ---- sending ---- */

static NKI_COLD int nki_udp_refuse(nki_udp *u, size_t len) {
    u->refused = (uint32_t)len;
    u->flags = (u->flags & ~(uint32_t)NKI_D_DRAIN_DUE) | NKI_D_REFUSED;
    return NETKIT_E_FULL;
}

/* Whether this socket can send there at all. */
static int nki_udp_check_route(const nki_udp *u, const nki_route *r) {
    bool is_ipv6 = (u->flags & NKI_D_IPV6) != 0;
    if (r->family == NETKIT_AF_NONE) {
        return u->more->level == NETKIT_AF_NONE ? NETKIT_E_NOTCONN : NETKIT_OK;
    }
    return r->family == NETKIT_AF_IPV6 && !is_ipv6 ? NETKIT_E_INVALID : NETKIT_OK;
}

/* A large one on an empty queue goes from the caller's memory. Whether it went. */
static bool nki_udp_send_direct(netkit_loop *loop, nki_udp *u, const nki_route *route,
                                const void *data, size_t len, uint32_t segment) {
    nki_dgram_out out;
    bool is_cut = segment != 0 && segment < len;
    if (u->out != NULL || (u->flags & NKI_D_HELD) != 0 || len > NETKIT_DATAGRAM_MAX ||
        (is_cut &&
         ((u->flags & NKI_D_GSO) == 0 || len > (size_t)segment * (size_t)NKI_DGRAM_SEGMENTS))) {
        return false;
    }
    out.data = data;
    out.len = len;
    out.segment = is_cut ? segment : 0;
    out.route = route;
    out.path = NULL;
    return loop->driver->udp_send(loop, u, &out, 1) == 1;
}

static int nki_udp_put(netkit_loop *loop, nki_udp *u, const nki_route *route, const void *data,
                       size_t len, uint32_t segment) {
    int error = nki_udp_check_route(u, route);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    size_t most = route->level == NETKIT_AF_IPV6 ? NETKIT_DATAGRAM_MAX + 20 : NETKIT_DATAGRAM_MAX;
    if (NKI_UNLIKELY(len > most || len > u->more->send_max)) {
        return NETKIT_E_TOOBIG;
    }
    if (len >= NKI_UDP_DIRECT_MIN && nki_udp_send_direct(loop, u, route, data, len, segment)) {
        return NETKIT_OK;
    }
    if (NKI_UNLIKELY(!nki_udp_fits(u, len))) {
        nki_udp_flush(loop, u);
        if (!nki_udp_fits(u, len)) {
            return nki_udp_refuse(u, len);
        }
    }
    error = nki_udp_queue(loop, u, route, data, len, segment);
    if (NKI_LIKELY(error == NETKIT_OK)) {
        nki_udp_mark_dirty(loop, u);
        if (u->records >= NKI_DGRAM_BATCH || u->queued >= NKI_FLUSH_AT) {
            nki_udp_flush(loop, u);
        }
    }
    return error;
}

NETKIT_API int netkit_udp_send(netkit_loop *loop, netkit_udp udp, const netkit_addr *to,
                               const void *data, size_t len) {
    nki_udp *u;
    nki_route route;
    int error = nki_udp_find_open(loop, udp, &u);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (NKI_UNLIKELY(data == NULL && len != 0)) {
        return NETKIT_E_INVALID;
    }
    error = nki_route_to(&route, to, u->more->level);
    return error != NETKIT_OK ? error : nki_udp_put(loop, u, &route, data, len, 0);
}

/* From the address that was asked; by the interface only where an address alone does not tell
 * which network is meant. */
NETKIT_API int netkit_udp_reply(netkit_loop *loop, netkit_udp udp, const netkit_datagram *received,
                                const void *data, size_t len) {
    nki_udp *u;
    nki_route route;
    int error = nki_udp_find_open(loop, udp, &u);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (NKI_UNLIKELY(received == NULL || (data == NULL && len != 0))) {
        return NETKIT_E_INVALID;
    }
    bool is_connected = u->more->level != NETKIT_AF_NONE;
    error = nki_route_to(&route, is_connected ? NULL : &received->peer, u->more->level);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    if (u->more->is_wildcard && received->local.family == route.level &&
        nki_addr_is_source(&received->local)) {
        route.local_family = received->local.family;
        memcpy(route.local, received->local.ip, sizeof route.local);
        route.interface_index = route.scope != 0 ? received->interface_index : 0;
    }
    return nki_udp_put(loop, u, &route, data, len, 0);
}

static int nki_udp_put_datagram(netkit_loop *loop, nki_udp *u, const netkit_datagram *d) {
    nki_route route;
    int error = nki_datagram_is_valid(d) ? nki_route_to(&route, &d->peer, u->more->level)
                                         : NETKIT_E_INVALID;
    if (error == NETKIT_OK) {
        error = nki_route_ask(&route, d);
    }
    return error != NETKIT_OK ? error
                              : nki_udp_put(loop, u, &route, d->data, d->len, d->segment_size);
}

NETKIT_API int netkit_udp_send_batch(netkit_loop *loop, netkit_udp udp,
                                     const netkit_datagram *datagrams, size_t count) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((datagrams == NULL && count != 0) || count > INT_MAX) {
        return NETKIT_E_INVALID;
    }
    for (size_t i = 0; i < count; i++) {
        error = nki_udp_put_datagram(loop, u, &datagrams[i]);
        if (error != NETKIT_OK) {
            return i == 0 ? error : (int)i;
        }
    }
    return (int)count;
}

NETKIT_API int netkit_udp_flush(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        nki_udp_flush(loop, u);
        nki_commit(loop);
    }
    return error;
}

NETKIT_API int netkit_udp_close(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find(loop, udp, &u);
    if (error == NETKIT_OK) {
        nki_udp_close(loop, u);
    }
    return error;
}

/* ---- flow, groups ---- */

NETKIT_API int netkit_udp_pause(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        u->flags |= NKI_D_PAUSED;
        if (loop->udp_batch == u) {
            nki_udp_park(loop, u);
        }
        nki_udp_arm(loop, u);
    }
    return error;
}

NETKIT_API int netkit_udp_resume(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        u->flags &= ~(uint32_t)NKI_D_PAUSED;
        nki_enqueue(loop, &u->source);
        nki_udp_arm(loop, u);
    }
    return error;
}

static int nki_udp_join(netkit_loop *loop, netkit_udp udp, bool is_join, const netkit_addr *group,
                        uint32_t interface_index, const netkit_addr *source) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error != NETKIT_OK || group == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return loop->driver->udp_join(loop, u->source.socket, is_join, group, interface_index, source);
}

NETKIT_API int netkit_udp_join(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                               uint32_t interface_index, const netkit_addr *source) {
    return nki_udp_join(loop, udp, true, group, interface_index, source);
}

NETKIT_API int netkit_udp_leave(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                                uint32_t interface_index, const netkit_addr *source) {
    return nki_udp_join(loop, udp, false, group, interface_index, source);
}

/* ---- looking ---- */

/* One whose descriptor is still there, for what needs a place for the answer. */
static int nki_udp_find_socket(netkit_loop *loop, netkit_udp udp, const void *out,
                               nki_udp **found) {
    int error = nki_udp_find_open(loop, udp, found);
    return error == NETKIT_OK && out == NULL ? (int)NETKIT_E_INVALID : error;
}

NETKIT_API int netkit_udp_caps(netkit_loop *loop, netkit_udp udp, uint32_t *caps) {
    nki_udp *u;
    nki_no_answer(caps, sizeof *caps);
    int error = nki_udp_find_socket(loop, udp, caps, &u);
    if (error == NETKIT_OK) {
        bool lacks_gso = (u->flags & NKI_D_GSO) == 0;
        *caps = u->more->caps & ~(lacks_gso ? (uint32_t)NETKIT_UDP_CAP_GSO : 0u);
    }
    return error;
}

NETKIT_API int netkit_udp_local(netkit_loop *loop, netkit_udp udp, netkit_addr *out) {
    nki_udp *u;
    nki_no_answer(out, sizeof *out);
    int error = nki_udp_find_socket(loop, udp, out, &u);
    return error != NETKIT_OK ? error : loop->driver->local(loop, u->source.socket, out);
}

NETKIT_API int netkit_udp_remote(netkit_loop *loop, netkit_udp udp, netkit_addr *out) {
    nki_udp *u;
    nki_no_answer(out, sizeof *out);
    int error = nki_udp_find_socket(loop, udp, out, &u);
    return error != NETKIT_OK ? error : loop->driver->remote(loop, u->source.socket, out);
}

NETKIT_API int netkit_udp_queued(netkit_loop *loop, netkit_udp udp, size_t *out) {
    nki_udp *u;
    nki_no_answer(out, sizeof *out);
    int error = nki_udp_find(loop, udp, &u);
    if (error != NETKIT_OK || out == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    *out = u->queued;
    return NETKIT_OK;
}

NETKIT_API int netkit_udp_native(netkit_loop *loop, netkit_udp udp, uintptr_t *native) {
    nki_udp *u;
    nki_no_native(native);
    int error = nki_udp_find_socket(loop, udp, native, &u);
    if (error == NETKIT_OK) {
        *native = u->source.socket;
    }
    return error;
}

NETKIT_API int netkit_udp_set_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int value) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    bool is_ours = option == NETKIT_OPT_BLOCKING || option == NETKIT_OPT_GRO ||
                   option == NETKIT_OPT_TELL_ERRORS;
    if (error == NETKIT_OK && is_ours) {
        return NETKIT_E_INVALID;
    }
    return error != NETKIT_OK ? error
                              : loop->driver->set_option(loop, u->source.socket, option, value);
}

NETKIT_API int netkit_udp_get_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int *value) {
    nki_udp *u;
    nki_no_answer(value, sizeof *value);
    int error = nki_udp_find_socket(loop, udp, value, &u);
    return error != NETKIT_OK ? error
                              : loop->driver->get_option(loop, u->source.socket, option, value);
}

NETKIT_API void *netkit_udp_user(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    return nki_udp_find(loop, udp, &u) == NETKIT_OK ? u->user : NULL;
}

NETKIT_API int netkit_udp_set_user(netkit_loop *loop, netkit_udp udp, void *user) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    if (error == NETKIT_OK) {
        u->user = user;
    }
    return error;
}

NETKIT_API void *netkit_udp_ext(netkit_loop *loop, netkit_udp udp) {
    nki_udp *u;
    return nki_udp_find(loop, udp, &u) == NETKIT_OK ? u->ext : NULL;
}

NETKIT_API int netkit_udp_set_referenced(netkit_loop *loop, netkit_udp udp, bool referenced) {
    nki_udp *u;
    int error = nki_udp_find_open(loop, udp, &u);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &u->source, referenced);
}

/* ---- opening ---- */

/* One of two ways to say an address, or none. */
static int nki_udp_desc_addr(const char *text, const netkit_addr *addr, netkit_addr *out,
                             const netkit_addr **given) {
    *given = NULL;
    if (text == NULL && addr == NULL) {
        return NETKIT_OK;
    }
    int error = nki_desc_addr(text, addr, out);
    if (error != NETKIT_OK) {
        return error;
    }
    if (out->family != NETKIT_AF_IPV4 && out->family != NETKIT_AF_IPV6) {
        return NETKIT_E_INVALID;
    }
    *given = out;
    return NETKIT_OK;
}

static int nki_udp_socket(netkit_loop *loop, const netkit_udp_desc *desc, uintptr_t *socket,
                          uint32_t *caps) {
    nki_udp_how how;
    netkit_addr addr;
    netkit_addr peer;
    int error = nki_udp_desc_addr(desc->address, desc->addr, &addr, &how.addr);
    if (error == NETKIT_OK) {
        error = nki_udp_desc_addr(desc->peer, desc->peer_addr, &peer, &how.peer);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    bool has_any = how.addr != NULL || how.peer != NULL;
    bool is_adopted = desc->socket.value != 0;
    how.adopted = is_adopted ? netkit_socket_native(desc->socket) : UINTPTR_MAX;
    how.flags = (desc->reuse_port ? NETKIT_SOCKET_REUSE_PORT : 0) |
                (desc->v6only ? NETKIT_SOCKET_V6ONLY : 0);
    how.is_shared = desc->share;
    how.recv_buffer = desc->recv_buffer;
    how.send_buffer = desc->send_buffer;
    return has_any == is_adopted ? (int)NETKIT_E_INVALID
                                 : loop->driver->udp_open(loop, &how, socket, caps);
}

/* What is wished, as far as the system has it. */
static int nki_udp_wish(netkit_loop *loop, const nki_udp *u, netkit_option option, bool is_wished,
                        bool *has) {
    int error = !is_wished ? (int)NETKIT_E_NOSYS
                           : loop->driver->set_option(loop, u->source.socket, option, 1);
    *has = error == NETKIT_OK;
    return error == NETKIT_E_NOSYS ? NETKIT_OK : error;
}

static int nki_udp_set_options(netkit_loop *loop, nki_udp *u, const netkit_udp_desc *desc,
                               bool *has_gro) {
    bool has;
    bool is_merged = desc->gro || desc->gro_whole;
    int error = nki_udp_wish(loop, u, NETKIT_OPT_BROADCAST, desc->broadcast, &has);
    if (error == NETKIT_OK) {
        bool is_told = desc->tell_local || u->more->is_wildcard;
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_LOCAL, is_told, &has);
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_TOS, desc->tell_tos, &has);
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_TTL, desc->tell_ttl, &has);
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_TIME, desc->tell_time, &has);
    }
    if (error == NETKIT_OK) {
        /* Where the system does not tell about whom, it can only be a connected one's peer. */
        bool has_reports = (u->more->caps & NETKIT_UDP_CAP_ERRORS) != 0;
        bool is_told =
            nki_udp_tells_errors(loop, u) && (has_reports || u->more->level != NETKIT_AF_NONE);
        error = nki_udp_wish(loop, u, NETKIT_OPT_TELL_ERRORS, is_told, &has);
        u->flags |= has && has_reports ? (uint32_t)NKI_D_TELL_ERRORS : 0u;
    }
    if (error == NETKIT_OK) {
        error = nki_udp_wish(loop, u, NETKIT_OPT_GRO, is_merged, has_gro);
    }
    return error;
}

/* Where its datagrams are put. Neighbours are not a multiple of 4 KiB apart, else their beginnings
 * would fall on the same few lines of the cache. */
static void nki_udp_set_room(netkit_loop *loop, nki_udp *u, size_t size) {
    nki_dgram_room *room = &u->more->room;
    size_t lines = ((size + NKI_CACHE_LINE - 1) / NKI_CACHE_LINE) | 1u;
    size_t count = (size_t)NKI_UDP_AREA / (lines * NKI_CACHE_LINE);
    room->memory = loop->dgrams->memory;
    room->stride = lines * NKI_CACHE_LINE;
    room->size = size;
    room->count = (unsigned)NKI_MIN(count, (size_t)NKI_DGRAM_BATCH);
}

static bool nki_addr_is_wildcard(const netkit_addr *addr) {
    static const uint8_t none[16] = {0};
    bool is_ip = addr->family == NETKIT_AF_IPV4 || addr->family == NETKIT_AF_IPV6;
    return is_ip && memcmp(addr->ip, none, sizeof none) == 0;
}

/* Learn what the socket is, and have it tell what is asked for. */
static int nki_udp_setup(netkit_loop *loop, nki_udp *u, const netkit_udp_desc *desc) {
    nki_udp_more *m = u->more;
    netkit_addr peer;
    bool has_gro = false;
    int error = loop->driver->local(loop, u->source.socket, &m->bound);
    if (error != NETKIT_OK) {
        return error;
    }
    m->is_wildcard = nki_addr_is_wildcard(&m->bound);
    u->flags |= m->bound.family == NETKIT_AF_IPV6 ? (uint32_t)NKI_D_IPV6 : 0u;
    u->flags |= (m->caps & NETKIT_UDP_CAP_GSO) != 0 ? (uint32_t)NKI_D_GSO : 0u;
    u->flags |= desc->gro_whole ? (uint32_t)NKI_D_WHOLE : 0u;
    error = loop->driver->remote(loop, u->source.socket, &peer);
    if (error == NETKIT_OK) {
        m->level = peer.family;
    } else if (error != NETKIT_E_NOTCONN) {
        return error;
    }
    error = nki_udp_set_options(loop, u, desc, &has_gro);
    nki_udp_set_room(loop, u, has_gro || desc->recv_size == 0 ? 65535u : desc->recv_size);
    return error;
}

static int nki_udp_begin(netkit_loop *loop, nki_udp *u, const netkit_udp_desc *desc) {
    int error = nki_udp_setup(loop, u, desc);
    if (error == NETKIT_OK) {
        error = nki_ext_create(&loop->allocator, desc->ext_size, &u->ext);
    }
    if (error == NETKIT_OK) {
        error = nki_timers_start(&loop->timers, &u->more->timer, NKI_NEVER);
    }
    if (error == NETKIT_OK) {
        error = loop->driver->attach(loop, &u->source);
    }
    return error;
}

static int nki_udp_create(netkit_loop *loop, const netkit_udp_desc *desc, uintptr_t socket,
                          uint32_t caps, nki_udp **out) {
    void *object;
    int error = nki_source_take(loop, NKI_KIND_UDP, socket, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_udp *u = (nki_udp *)object;
    nki_udp_more *m = (nki_udp_more *)nki_alloc_zero(&loop->allocator, sizeof *m);
    if (m == NULL) {
        nki_source_undo(loop, &u->source);
        return NETKIT_E_NOMEM;
    }
    u->more = m;
    u->user = desc->user;
    m->handler = desc->handler;
    m->udp = u;
    m->timer.kind = NKI_KIND_UDP;
    m->send_due_ns = NKI_NEVER;
    m->recv_due_ns = NKI_NEVER;
    m->ext_size = desc->ext_size;
    m->send_max = nki_or(desc->send_max, 262144);
    m->caps = caps;
    m->armed = NETKIT_POLL_READ;
    error = nki_udp_begin(loop, u, desc);
    if (error != NETKIT_OK) {
        nki_timers_stop(&loop->timers, &m->timer);
        nki_ext_free(&loop->allocator, u->ext, m->ext_size);
        nki_free(&loop->allocator, m, sizeof *m);
        nki_source_undo(loop, &u->source);
        return error;
    }
    *out = u;
    return NETKIT_OK;
}

NETKIT_API int netkit_udp_open(netkit_loop *loop, const netkit_udp_desc *desc, netkit_udp *out) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (desc == NULL || desc->recv_size > 65535 || desc->send_max > INT32_MAX ||
        desc->ext_size > INT32_MAX || desc->recv_buffer > INT32_MAX ||
        desc->send_buffer > INT32_MAX) {
        return NETKIT_E_INVALID;
    }
    nki_udp *u;
    uintptr_t socket;
    uint32_t caps;
    error = nki_dgrams_create(loop);
    if (error == NETKIT_OK) {
        error = nki_udp_socket(loop, desc, &socket, &caps);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_udp_create(loop, desc, socket, caps, &u);
    if (error != NETKIT_OK) {
        if (desc->socket.value == 0) {
            loop->driver->discard(loop, socket, false);
        }
        return error;
    }
    if (out != NULL) {
        *out = nki_udp_handle(u);
    }
    return NETKIT_OK;
}
