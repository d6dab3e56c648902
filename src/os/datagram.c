/* Datagrams on plain sockets, and the short form of where one goes that plain sockets and udps
 * share. */

enum {
    NKI_PLAIN_BATCH = 32 /* their scratch stands on the stack: 15 KiB */
};

/* The kernel cuts what is over its limit, and says yes. */
static int nki_os_set_buffers(uintptr_t s, uint32_t recv_size, uint32_t send_size) {
    int rc = NETKIT_OK;
    if (recv_size != 0) {
        rc = nki_os_set_int(nki_os_fd(s), SOL_SOCKET, SO_RCVBUF, (int)recv_size);
    }
    if (rc == NETKIT_OK && send_size != 0) {
        rc = nki_os_set_int(nki_os_fd(s), SOL_SOCKET, SO_SNDBUF, (int)send_size);
    }
    return rc;
}

/* An address that can be sent from: of one host, and not the unspecified one. */
static bool nki_addr_is_source(const netkit_addr *addr) {
    static const uint8_t none[16] = {0};
    if (addr->family == NETKIT_AF_IPV4) {
        return addr->ip[0] >> 4 != 14 && memcmp(addr->ip, none, 4) != 0 && addr->ip[0] != 255;
    }
    return addr->family == NETKIT_AF_IPV6 && addr->ip[0] != 0xFF && memcmp(addr->ip, none, 16) != 0;
}

/* To an address of IP, or (NULL, or {0}) the connected peer, whose family is `level`. */
static int nki_route_to(nki_route *out, const netkit_addr *to, int level) {
    memset(out, 0, sizeof(*out));
    out->level = (uint8_t)level;
    if (to == NULL || to->family == NETKIT_AF_NONE) {
        return NETKIT_OK;
    }
    if (to->family != NETKIT_AF_IPV4 && to->family != NETKIT_AF_IPV6) {
        return NETKIT_E_INVALID;
    }
    out->family = to->family;
    out->level = nki_ip_is_mapped(to->ip) && to->family == NETKIT_AF_IPV6 ? (uint8_t)NETKIT_AF_IPV4
                                                                          : to->family;
    out->port = to->port;
    out->scope = to->scope;
    memcpy(out->ip, to->ip, sizeof(out->ip));
    return NETKIT_OK;
}

/* The rest of what a datagram asks for. */
static int nki_route_ask(nki_route *out, const netkit_datagram *d) {
    out->tos = d->tos;
    out->ttl = d->ttl;
    out->interface_index = d->interface_index;
    if (!nki_addr_is_source(&d->local)) {
        return NETKIT_OK;
    }
    if (out->level == NETKIT_AF_NONE) {
        out->level = d->local.family;
    }
    out->local_family = d->local.family;
    memcpy(out->local, d->local.ip, sizeof(out->local));
    return d->local.family == out->level ? NETKIT_OK : NETKIT_E_INVALID;
}

static bool nki_datagram_is_valid(const netkit_datagram *d) {
    return (d->data != NULL || d->len == 0) && d->segment_size <= NETKIT_DATAGRAM_MAX;
}

NETKIT_API int netkit_socket_recv_datagrams(netkit_socket s, netkit_datagram *datagrams,
                                            size_t count, void *memory, size_t size) {
    union {
        uint64_t align;
        void *pointer;
        unsigned char bytes[16384];
    } scratch;
    nki_dgram_room room;
    uintptr_t native = nki_socket_native(s);
    if (s.value == 0 || datagrams == NULL || count == 0 || memory == NULL || size / count == 0) {
        return NETKIT_E_INVALID;
    }
    room.count = (unsigned)NKI_MIN(count, (size_t)NKI_PLAIN_BATCH);
    room.memory = (unsigned char *)memory;
    room.stride = size / count;
    room.size = room.stride;
    room.may_block = true;
    memset(datagrams, 0, room.count * sizeof(*datagrams));
    memset(scratch.bytes, 0, 64); /* no heads were made yet */
    int rc = nki_os_recv_dgrams(native, scratch.bytes, datagrams, &room);
    /* What failed is told by the error queue, if that was asked for; after the error itself. */
    int family = NETKIT_AF_NONE;
    if (rc < 0) { /* unix sockets have no such queue: there Linux would receive a datagram */
        int os_code = nki_os_code();
        (void)nki_os_family(native, &family);
        (void)nki_os_fail(os_code);
    }
    bool has_reports = family == NETKIT_AF_IPV4 || family == NETKIT_AF_IPV6;
    if (has_reports && nki_os_recv_failed(native, datagrams, memory, room.size) == NETKIT_OK) {
        return 1;
    }
    return rc;
}

/* Whose options go with those to the connected peer: of the peer, whatever the socket. */
static int nki_socket_levels(uintptr_t native, nki_route *routes, unsigned count) {
    netkit_addr peer;
    peer.family = NETKIT_AF_NONE;
    for (unsigned i = 0; i < count; i++) {
        nki_route *r = &routes[i];
        bool is_plain = (r->tos | r->ttl) == 0 && r->interface_index == 0;
        if (r->level != NETKIT_AF_NONE || is_plain) {
            continue;
        }
        int rc = peer.family != NETKIT_AF_NONE ? NETKIT_OK : nki_os_remote(native, &peer);
        if (rc != NETKIT_OK) {
            return rc;
        }
        r->level = peer.family;
    }
    return NETKIT_OK;
}

/* The first ones that make sense, or what is wrong with the very first. */
static int nki_socket_gather(const netkit_datagram *datagrams, unsigned count, nki_route *routes,
                             nki_dgram_out *out) {
    for (unsigned i = 0; i < count; i++) {
        const netkit_datagram *d = &datagrams[i];
        bool is_unix = d->peer.family == NETKIT_AF_UNIX;
        int rc = nki_datagram_is_valid(d) ? NETKIT_OK : NETKIT_E_INVALID;
        if (rc == NETKIT_OK) {
            rc = nki_route_to(&routes[i], is_unix ? NULL : &d->peer, NETKIT_AF_NONE);
        }
        if (rc == NETKIT_OK) {
            rc = nki_route_ask(&routes[i], d);
        }
        if (rc != NETKIT_OK) {
            return i == 0 ? rc : (int)i;
        }
        out[i].data = d->data;
        out[i].len = d->len;
        out[i].segment = d->segment_size < d->len ? d->segment_size : 0;
        out[i].route = &routes[i];
        out[i].path = is_unix ? &d->peer : NULL;
    }
    return (int)count;
}

NETKIT_API int netkit_socket_send_datagrams(netkit_socket s, const netkit_datagram *datagrams,
                                            size_t count) {
    union {
        uint64_t align;
        void *pointer;
        unsigned char bytes[16384];
    } scratch;
    nki_route routes[NKI_PLAIN_BATCH];
    nki_dgram_out out[NKI_PLAIN_BATCH];
    int family = NETKIT_AF_NONE;
    if (s.value == 0 || (datagrams == NULL && count != 0)) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_socket_gather(datagrams, (unsigned)NKI_MIN(count, (size_t)NKI_PLAIN_BATCH), routes,
                               out);
    if (rc <= 0) {
        return rc;
    }
    uintptr_t native = nki_socket_native(s);
    unsigned ready = (unsigned)rc;
    rc = nki_socket_levels(native, routes, ready);
    if (rc == NETKIT_OK && !NKI_LINUX) {
        rc = nki_os_family(native, &family);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_send_dgrams(native, family == NETKIT_AF_IPV6, scratch.bytes, out, ready);
    bool is_cut = rc < 0 && rc != NETKIT_E_AGAIN && out[0].segment != 0;
    return is_cut && (nki_os_dgram_caps(native) & NETKIT_UDP_CAP_GSO) == 0 ? (int)NETKIT_E_NOSYS
                                                                           : rc;
}

static int nki_socket_join(netkit_socket s, bool is_join, const netkit_addr *group,
                           uint32_t interface_index, const netkit_addr *source) {
    if (s.value == 0 || group == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_join(nki_socket_native(s), is_join, group, interface_index, source);
}

NETKIT_API int netkit_socket_join(netkit_socket s, const netkit_addr *group,
                                  uint32_t interface_index, const netkit_addr *source) {
    return nki_socket_join(s, true, group, interface_index, source);
}

NETKIT_API int netkit_socket_leave(netkit_socket s, const netkit_addr *group,
                                   uint32_t interface_index, const netkit_addr *source) {
    return nki_socket_join(s, false, group, interface_index, source);
}

NETKIT_API int netkit_socket_datagram_caps(netkit_socket s, uint32_t *caps) {
    if (caps == NULL) {
        return NETKIT_E_INVALID;
    }
    *caps = 0;
    if (s.value == 0) {
        return NETKIT_E_INVALID;
    }
    *caps = nki_os_dgram_caps(nki_socket_native(s));
    return NETKIT_OK;
}
