/* Datagrams on Windows: one by one, with what goes beside them in control messages.
 *
 * A datagram that is longer than its room is an error of the call, which has filled everything in
 * by then (WSAEMSGSIZE). A report of ICMP, where it was asked for, makes a call fail
 * (WSAECONNRESET) without saying about whom. */

#if NKI_WINDOWS

enum {
    NKI_DGRAM_CONTROL = 256 /* all that can be asked for at once takes less */
};

typedef struct nki_dgram_side {
    struct sockaddr_storage name;
    nki_control control;
    WSABUF buf;
} nki_dgram_side;

/* Nothing is kept between calls. */
static size_t nki_os_dgram_scratch(unsigned count) {
    NKI_UNUSED(count);
    return 64;
}

/* ---- receiving ---- */

/* One control message: what is behind its head, `len` bytes. */
typedef struct nki_note {
    int level;
    int type;
    const CHAR *data;
    size_t len;
} nki_note;

static bool nki_note_get(const nki_note *note, void *out, size_t size) {
    if (note->len < size) {
        return false;
    }
    memcpy(out, note->data, size);
    return true;
}

static uint32_t nki_note_number(const nki_note *note) {
    uint32_t number = 0;
    uint8_t byte = 0;
    if (!nki_note_get(note, &number, sizeof number) && nki_note_get(note, &byte, sizeof byte)) {
        number = byte;
    }
    return number;
}

/* The asked-for and the told are numbered alike or not, from one Windows to the next. */
static void nki_dgram_note_ip(netkit_datagram *out, const nki_note *note) {
    bool is_ipv6 = note->level == IPPROTO_IPV6;
    if (note->type == NKI_IP_PKTINFO && is_ipv6) {
        struct in6_pktinfo info;
        if (nki_note_get(note, &info, sizeof info)) {
            out->interface_index = (uint32_t)info.ipi6_ifindex;
            nki_dgram_ipv6(&out->local, &info.ipi6_addr, out->interface_index);
        }
    } else if (note->type == NKI_IP_PKTINFO) {
        struct in_pktinfo info;
        if (nki_note_get(note, &info, sizeof info)) {
            out->interface_index = (uint32_t)info.ipi_ifindex;
            nki_dgram_ipv4(&out->local, &info.ipi_addr);
        }
    } else if (note->type == NKI_IP_HOPLIMIT || (note->type == NKI_IP_TTL && !is_ipv6)) {
        out->ttl = (uint8_t)nki_note_number(note);
    } else if (note->type == (is_ipv6 ? NKI_IPV6_TCLASS : NKI_IP_TOS) ||
               note->type == NKI_IP_RECVTOS) {
        out->tos = (uint8_t)nki_note_number(note);
    }
}

static void nki_dgram_note(netkit_datagram *out, const nki_note *note) {
    if (note->level == IPPROTO_IP || note->level == IPPROTO_IPV6) {
        nki_dgram_note_ip(out, note);
    } else if (note->level == IPPROTO_UDP && note->type == NKI_UDP_COALESCED_INFO) {
        uint32_t size = nki_note_number(note);
        out->segment_size = size > 0 && size < out->len ? size : 0;
    }
}

static void nki_dgram_notes(netkit_datagram *out, const WSABUF *control) {
    size_t at = 0;
    while (at + sizeof(WSACMSGHDR) <= control->len) {
        WSACMSGHDR head;
        nki_note note;
        memcpy(&head, control->buf + at, sizeof head);
        if (head.cmsg_len < NKI_CMSG_LEN(0) || head.cmsg_len > control->len - at) {
            return;
        }
        note.level = head.cmsg_level;
        note.type = head.cmsg_type;
        note.data = control->buf + at + NKI_CMSG_LEN(0);
        note.len = head.cmsg_len - NKI_CMSG_LEN(0);
        nki_dgram_note(out, &note);
        at += NKI_CMSG_SPACE(note.len);
    }
}

/* NETKIT_OK, or why there is none. */
static int nki_dgram_recv(SOCKET s, LPFN_WSARECVMSG call, netkit_datagram *out, void *memory,
                          size_t size) {
    nki_dgram_side side;
    WSAMSG msg;
    DWORD got = (DWORD)size; /* wine leaves it alone when something was cut */
    memset(&msg, 0, sizeof msg);
    memset(&side.name, 0, sizeof side.name);
    side.buf.buf = (CHAR *)memory;
    side.buf.len = (ULONG)size;
    msg.name = (struct sockaddr *)(void *)&side.name;
    msg.namelen = (int)sizeof side.name;
    msg.lpBuffers = &side.buf;
    msg.dwBufferCount = 1;
    msg.Control.buf = side.control.bytes;
    msg.Control.len = (ULONG)NKI_CLIP(dgram_control, NKI_DGRAM_CONTROL);
    bool is_cut = false;
    if (NKI_SYS_recvmsg(call, s, &msg, &got) != 0) {
        is_cut = nki_os_code() == WSAEMSGSIZE;
        if (!is_cut) {
            return nki_os_recv_error((uintptr_t)s, size);
        }
    }
    nki_dgram_clear(out);
    out->data = memory;
    out->len = got;
    out->is_truncated = is_cut || (msg.dwFlags & MSG_TRUNC) != 0;
    nki_sockaddr_to(&out->peer, &side.name, msg.namelen);
    nki_dgram_notes(out, &msg.Control);
    if ((msg.dwFlags & MSG_CTRUNC) != 0 && out->segment_size == 0) {
        out->is_truncated = true; /* where one datagram of a row ends is then not known */
    }
    return NETKIT_OK;
}

static int nki_os_recv_dgrams(uintptr_t s, void *scratch, netkit_datagram *out,
                              const nki_dgram_room *room) {
    LPFN_WSARECVMSG call;
    NKI_UNUSED(scratch);
    int rc = nki_os_recvmsg_call(nki_os_fd(s), &call);
    unsigned done = 0;
    for (; done < room->count && rc == NETKIT_OK; done++) {
        rc = room->may_block ? nki_os_would_wait(s, NETKIT_POLL_READ) : (int)NETKIT_OK;
        if (rc == NETKIT_OK) {
            rc = nki_dgram_recv(nki_os_fd(s), call, &out[done], room->memory + done * room->stride,
                                room->size);
        }
        if (rc != NETKIT_OK) {
            break;
        }
    }
    return done != 0 ? (int)done : rc;
}

/* ---- sending ---- */

static void nki_control_put(WSAMSG *msg, int level, int type, const void *data, size_t size) {
    WSACMSGHDR head;
    CHAR *at = msg->Control.buf + msg->Control.len;
    size_t space = NKI_CMSG_SPACE(size);
    memset(at, 0, space);
    head.cmsg_len = NKI_CMSG_LEN(size);
    head.cmsg_level = level;
    head.cmsg_type = type;
    memcpy(at, &head, sizeof head);
    memcpy(at + NKI_CMSG_LEN(0), data, size);
    msg->Control.len += (ULONG)space;
}

static void nki_control_local(WSAMSG *msg, const nki_route *route) {
    if (route->level == NETKIT_AF_IPV6) {
        struct in6_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi6_ifindex = route->interface_index;
        if (route->local_family == NETKIT_AF_IPV6) {
            memcpy(&info.ipi6_addr, route->local, 16);
        }
        nki_control_put(msg, IPPROTO_IPV6, NKI_IP_PKTINFO, &info, sizeof info);
    } else {
        struct in_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi_ifindex = route->interface_index;
        if (route->local_family == NETKIT_AF_IPV4) {
            memcpy(&info.ipi_addr, route->local, 4);
        }
        nki_control_put(msg, IPPROTO_IP, NKI_IP_PKTINFO, &info, sizeof info);
    }
}

static void nki_control_numbers(WSAMSG *msg, const nki_route *route) {
    bool is_ipv6 = route->level == NETKIT_AF_IPV6;
    int level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (route->ttl != 0) {
        int ttl = route->ttl;
        nki_control_put(msg, level, is_ipv6 ? NKI_IP_HOPLIMIT : NKI_IP_TTL, &ttl, sizeof ttl);
    }
    if (route->tos != 0) {
        int tos = route->tos;
        nki_control_put(msg, level, is_ipv6 ? NKI_IPV6_TCLASS : NKI_IP_TOS, &tos, sizeof tos);
    }
}

static void nki_dgram_control(WSAMSG *msg, const nki_dgram_out *out, bool has_numbers) {
    const nki_route *route = out->route;
    msg->Control.len = 0;
    if (route->local_family != NETKIT_AF_NONE || route->interface_index != 0) {
        nki_control_local(msg, route);
    }
    if (has_numbers) {
        nki_control_numbers(msg, route);
    }
    if (out->segment != 0) {
        DWORD size = out->segment;
        nki_control_put(msg, IPPROTO_UDP, NKI_UDP_SEND_MSG_SIZE, &size, sizeof size);
    }
}

/* An address of IPv4 is mapped on an IPv6 socket. Returns its length, 0 = the connected peer. */
static int nki_dgram_name(struct sockaddr_storage *name, const nki_dgram_out *out, bool is_ipv6) {
    const nki_route *route = out->route;
    netkit_addr to;
    socklen_t len = 0;
    if (out->path != NULL) {
        (void)nki_sockaddr_from(name, &len, out->path);
        return len;
    }
    if (route->family == NETKIT_AF_NONE) {
        return 0;
    }
    memset(&to, 0, offsetof(netkit_addr, path));
    to.family = route->family;
    to.port = route->port;
    to.scope = route->scope;
    memcpy(to.ip, route->ip, sizeof to.ip);
    if (is_ipv6 && route->family == NETKIT_AF_IPV4) {
        to.family = NETKIT_AF_IPV6;
        memset(to.ip, 0, 10);
        to.ip[10] = to.ip[11] = 0xFF;
        memcpy(to.ip + 12, route->ip, 4);
    }
    (void)nki_sockaddr_from(name, &len, &to);
    return len;
}

static int nki_dgram_call(SOCKET s, WSAMSG *msg) {
    DWORD sent = 0;
    if (msg->Control.len != 0) {
        return NKI_SYS_sendmsg(s, msg, &sent);
    }
    return msg->name != NULL ? NKI_SYS_sendto(s, msg->lpBuffers, 1, &sent, msg->name, msg->namelen)
                             : NKI_SYS_sendv(s, msg->lpBuffers, 1, &sent);
}

static uint32_t nki_dgram_cap(SOCKET s, int level, int name, uint32_t cap) {
    int value;
    return nki_os_get_int(s, level, name, &value) == NETKIT_OK ? cap : 0;
}

/* Not every Windows takes a time to live and a type of service with a datagram, and one that does
 * not refuses it: then it goes without them. */
static int nki_dgram_send(SOCKET s, bool is_ipv6, const nki_dgram_out *out) {
    nki_dgram_side side;
    WSAMSG msg;
    /* Wine would send one that is to be cut as a whole. */
    if (out->segment != 0 && nki_dgram_cap(s, IPPROTO_UDP, NKI_UDP_SEND_MSG_SIZE, 1) == 0) {
        return nki_os_fail(WSAEOPNOTSUPP);
    }
    memset(&msg, 0, sizeof msg);
    /* The system only reads, but WSABUF has no const. */
    memcpy(&side.buf.buf, &out->data, sizeof side.buf.buf);
    side.buf.len = (ULONG)out->len;
    msg.namelen = nki_dgram_name(&side.name, out, is_ipv6);
    msg.name = msg.namelen != 0 ? (struct sockaddr *)(void *)&side.name : NULL;
    msg.lpBuffers = &side.buf;
    msg.dwBufferCount = 1;
    msg.Control.buf = side.control.bytes;
    nki_dgram_control(&msg, out, true);
    int rc = nki_dgram_call(s, &msg);
    bool has_numbers = (out->route->ttl | out->route->tos) != 0;
    if (rc != 0 && nki_os_code() == WSAEINVAL && has_numbers) {
        nki_dgram_control(&msg, out, false);
        rc = nki_dgram_call(s, &msg);
    }
    if (rc != 0 && msg.name == NULL && nki_os_code() == WSAEINVAL) {
        return nki_os_fail(WSAENOTCONN); /* wine's word for it */
    }
    return rc != 0 ? nki_os_send_error((uintptr_t)s) : (int)NETKIT_OK;
}

static int nki_os_send_dgrams(uintptr_t s, bool is_ipv6, void *scratch, const nki_dgram_out *out,
                              unsigned count) {
    int rc = NETKIT_OK;
    unsigned done = 0;
    NKI_UNUSED(scratch);
    for (; done < count && rc == NETKIT_OK; done += rc == NETKIT_OK) {
        rc = nki_dgram_send(nki_os_fd(s), is_ipv6, &out[done]);
    }
    return done != 0 ? (int)done : rc;
}

/* ---- failures, groups, buffers, abilities ---- */

static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(out);
    NKI_UNUSED(memory);
    NKI_UNUSED(size);
    return NETKIT_E_AGAIN;
}

/* An index stands for an interface's address as one of 0.0.0.0/8. */
static int nki_os_join_ipv4(SOCKET s, bool is_join, const netkit_addr *group,
                            uint32_t interface_index) {
    struct ip_mreq request;
    memcpy(&request.imr_multiaddr, group->ip, 4);
    request.imr_interface.s_addr = htonl(interface_index);
    int name = is_join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP;
    return NKI_SYS_setsockopt(s, IPPROTO_IP, name, &request, (int)sizeof request) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_os_join_ipv6(SOCKET s, bool is_join, const netkit_addr *group,
                            uint32_t interface_index) {
    struct ipv6_mreq request;
    memcpy(&request.ipv6mr_multiaddr, group->ip, 16);
    request.ipv6mr_interface = interface_index;
    int name = is_join ? IPV6_ADD_MEMBERSHIP : IPV6_DROP_MEMBERSHIP;
    return NKI_SYS_setsockopt(s, IPPROTO_IPV6, name, &request, (int)sizeof request) != 0
               ? nki_os_error()
               : NETKIT_OK;
}

static int nki_os_join_source(SOCKET s, int level, bool is_join, const netkit_addr *group,
                              uint32_t interface_index, const netkit_addr *source) {
    struct group_source_req request;
    socklen_t len;
    memset(&request, 0, sizeof request);
    request.gsr_interface = interface_index;
    if (source->family != group->family ||
        nki_sockaddr_from(&request.gsr_group, &len, group) != NETKIT_OK ||
        nki_sockaddr_from(&request.gsr_source, &len, source) != NETKIT_OK) {
        return NETKIT_E_INVALID;
    }
    int name = is_join ? MCAST_JOIN_SOURCE_GROUP : MCAST_LEAVE_SOURCE_GROUP;
    return NKI_SYS_setsockopt(s, level, name, &request, (int)sizeof request) != 0 ? nki_os_error()
                                                                                  : NETKIT_OK;
}

static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source) {
    SOCKET fd = nki_os_fd(s);
    bool is_ipv6 = group->family == NETKIT_AF_IPV6;
    bool is_group = group->family == NETKIT_AF_IPV6   ? group->ip[0] == 0xFF
                    : group->family == NETKIT_AF_IPV4 ? group->ip[0] >> 4 == 14
                                                      : false;
    if (!is_group) {
        return NETKIT_E_INVALID;
    }
    if (source != NULL) {
        int level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
        return nki_os_join_source(fd, level, is_join, group, interface_index, source);
    }
    return is_ipv6 ? nki_os_join_ipv6(fd, is_join, group, interface_index)
                   : nki_os_join_ipv4(fd, is_join, group, interface_index);
}

static uint32_t nki_os_dgram_caps(uintptr_t s) {
    SOCKET fd = nki_os_fd(s);
    int family;
    if (nki_os_family(s, &family) != NETKIT_OK ||
        (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return 0;
    }
    int level = family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    uint32_t caps = nki_dgram_cap(fd, IPPROTO_UDP, NKI_UDP_SEND_MSG_SIZE, NETKIT_UDP_CAP_GSO);
    caps |= nki_dgram_cap(fd, IPPROTO_UDP, NKI_UDP_RECV_MAX_COALESCED_SIZE, NETKIT_UDP_CAP_GRO);
    caps |= nki_dgram_cap(fd, level, NKI_IP_PKTINFO, NETKIT_UDP_CAP_LOCAL);
    caps |= nki_dgram_cap(fd, level, NKI_IP_RECVTOS, NETKIT_UDP_CAP_TOS);
    caps |= nki_dgram_cap(fd, level, NKI_IP_HOPLIMIT, NETKIT_UDP_CAP_TTL);
    return caps;
}

#endif /* NKI_WINDOWS */
