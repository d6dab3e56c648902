/* Datagrams on POSIX: many in one call where there is recvmmsg, one by one elsewhere, and what
 * goes beside them in control messages.
 *
 * Owns what the messages mean. A report of ICMP comes twice: by the next call on the socket, which
 * it fails without having done anything, and, if asked for, in the socket's error queue with the
 * address it is about (Linux ip(7), IP_RECVERR). A control buffer that is too small loses the
 * messages at its end (MSG_CTRUNC): where one datagram of a merged row ends is then not known, so
 * such a row is marked as cut. */

#if NKI_POSIX

enum {
    NKI_DGRAM_CONTROL = 256, /* all that can be asked for at once takes 176 bytes */
    NKI_DGRAM_REPORTS = 4096 /* more than a queue of the usual size can hold */
};

#if NKI_HAS_MMSG
typedef struct mmsghdr nki_mmsg;
#else
typedef struct nki_mmsg {
    struct msghdr msg_hdr;
    unsigned int msg_len;
} nki_mmsg;
#endif

typedef struct nki_dgram_side {
    union {
        struct sockaddr_storage name;
        char bytes[sizeof(struct sockaddr_storage)];
    } at;
    union {
        size_t align;
        unsigned char bytes[NKI_DGRAM_CONTROL];
    } control;
    struct iovec iov;
} nki_dgram_side;

/* What the heads in front of `sides` were last made for: those that a receive did not use are
 * as they were. */
typedef struct nki_dgram_made {
    const unsigned char *memory; /* NULL = for nothing */
    size_t stride;
    size_t size;
    unsigned count;
    unsigned used;
} nki_dgram_made;

NKI_STATIC_ASSERT(plain_scratch,
                  sizeof(nki_dgram_made) + 32 * (sizeof(nki_mmsg) + sizeof(nki_dgram_side)) <=
                      16384);

static size_t nki_os_dgram_scratch(unsigned count) {
    return sizeof(nki_dgram_made) + count * (sizeof(nki_mmsg) + sizeof(nki_dgram_side));
}

static nki_dgram_side *nki_dgram_sides(void *scratch) {
    return (nki_dgram_side *)(void *)((nki_dgram_made *)scratch + 1);
}

static nki_mmsg *nki_dgram_heads(void *scratch, unsigned count) {
    return (nki_mmsg *)(void *)(nki_dgram_sides(scratch) + count);
}

/* ---- receiving ---- */

/* The last message may be cut, too: what is not there whole is not there. */
static bool nki_control_get(const struct cmsghdr *c, void *out, size_t size) {
    if ((size_t)c->cmsg_len < (size_t)(CMSG_LEN(size))) {
        return false;
    }
    /* CMSG_DATA takes the const away on macOS. */
    memcpy(out, (const unsigned char *)(const void *)c + CMSG_LEN(0), size);
    return true;
}

/* Numbers come as an int or, from some systems, as one byte. */
static uint8_t nki_control_byte(const struct cmsghdr *c) {
    int number;
    uint8_t byte = 0;
    if (nki_control_get(c, &number, sizeof(number))) {
        return (uint8_t)number;
    }
    (void)((size_t)c->cmsg_len == (size_t)(CMSG_LEN(1)) && nki_control_get(c, &byte, 1));
    return byte;
}

/* The address of a broadcast cannot be sent from, so it is the interface's own that is told; that
 * of a multicast is the group's. */
static void nki_dgram_note_ipv4(netkit_datagram *out, const struct cmsghdr *c) {
    switch (c->cmsg_type) {
#if defined(IP_PKTINFO)
    case IP_PKTINFO: {
        struct in_pktinfo info;
        if (!nki_control_get(c, &info, sizeof(info))) {
            break;
        }
        bool is_group = (ntohl(info.ipi_addr.s_addr) >> 28) == 14;
        out->interface_index = (uint32_t)info.ipi_ifindex;
        nki_dgram_ipv4(&out->local, is_group ? &info.ipi_addr : &info.ipi_spec_dst);
        break;
    }
#elif defined(IP_RECVDSTADDR)
    case IP_RECVDSTADDR: nki_dgram_ipv4(&out->local, CMSG_DATA(c)); break;
#endif
#if !NKI_LINUX && defined(IP_RECVTTL)
    case IP_RECVTTL: out->ttl = nki_control_byte(c); break;
#endif
#if !NKI_LINUX && defined(IP_RECVTOS)
    case IP_RECVTOS: out->tos = nki_control_byte(c); break;
#endif
    case IP_TTL: out->ttl = nki_control_byte(c); break;
    case IP_TOS: out->tos = nki_control_byte(c); break;
    default: break;
    }
}

static void nki_dgram_note_ipv6(netkit_datagram *out, const struct cmsghdr *c) {
    switch (c->cmsg_type) {
#if defined(IPV6_PKTINFO)
    case IPV6_PKTINFO: {
        struct in6_pktinfo info;
        if (!nki_control_get(c, &info, sizeof(info))) {
            break;
        }
        out->interface_index = (uint32_t)info.ipi6_ifindex;
        nki_dgram_ipv6(&out->local, &info.ipi6_addr, out->interface_index);
        break;
    }
#endif
#if defined(IPV6_HOPLIMIT)
    case IPV6_HOPLIMIT: out->ttl = nki_control_byte(c); break;
#endif
#if defined(IPV6_TCLASS)
    case IPV6_TCLASS: out->tos = nki_control_byte(c); break;
#endif
    default: break;
    }
}

static void nki_dgram_note(netkit_datagram *out, const struct cmsghdr *c) {
    if (c->cmsg_level == IPPROTO_IP) {
        nki_dgram_note_ipv4(out, c);
    } else if (c->cmsg_level == IPPROTO_IPV6) {
        nki_dgram_note_ipv6(out, c);
    } else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == NKI_UDP_GRO) {
        int size;
        bool has_size = nki_control_get(c, &size, sizeof(size));
        out->segment_size = has_size && size > 0 && (size_t)size < out->len ? (uint32_t)size : 0;
#if defined(SCM_TIMESTAMPNS)
    } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec time;
        if (nki_control_get(c, &time, sizeof(time))) {
            out->time_ns = (uint64_t)time.tv_sec * NKI_NS_PER_S + (uint64_t)time.tv_nsec;
        }
#endif
    }
}

/* Without the path, which is of unix alone: it is what costs. */
static void nki_dgram_peer(netkit_addr *out, const struct sockaddr_storage *name, socklen_t len) {
    if (NKI_UNLIKELY(name->ss_family != AF_INET || len < (socklen_t)sizeof(struct sockaddr_in))) {
        nki_sockaddr_to(out, name, len);
        return;
    }
    struct sockaddr_in in;
    memcpy(&in, (const void *)name, sizeof(in));
    memset(out, 0, offsetof(netkit_addr, path));
    out->family = NETKIT_AF_IPV4;
    out->port = ntohs(in.sin_port);
    memcpy(out->ip, &in.sin_addr, 4);
}

/* By hand, since CMSG_NXTHDR does not compile everywhere without a warning (musl). */
static struct cmsghdr *nki_cmsg_at(const struct msghdr *msg, size_t at) {
    size_t len = (size_t)msg->msg_controllen;
    bool is_there = at <= len && len - at >= sizeof(struct cmsghdr);
    return is_there ? (struct cmsghdr *)(void *)((char *)msg->msg_control + at) : NULL;
}

static struct cmsghdr *nki_cmsg_next(const struct msghdr *msg, const struct cmsghdr *c) {
    size_t at = (size_t)((const char *)(const void *)c - (const char *)msg->msg_control);
    size_t len = (size_t)c->cmsg_len;
    if (len < CMSG_LEN(0) || len > (size_t)msg->msg_controllen - at) {
        return NULL;
    }
    return nki_cmsg_at(msg, at + CMSG_SPACE(len - CMSG_LEN(0)));
}

static void nki_dgram_read(netkit_datagram *out, const struct msghdr *msg, const void *data,
                           size_t len) {
    nki_dgram_clear(out);
    out->data = data;
    out->len = len;
    out->is_truncated = (msg->msg_flags & MSG_TRUNC) != 0;
    nki_dgram_peer(&out->peer, (const struct sockaddr_storage *)msg->msg_name, msg->msg_namelen);
    if (msg->msg_controllen != 0) {
        for (struct cmsghdr *c = nki_cmsg_at(msg, 0); c != NULL; c = nki_cmsg_next(msg, c)) {
            nki_dgram_note(out, c);
        }
    }
    if (NKI_UNLIKELY((msg->msg_flags & MSG_CTRUNC) != 0) && out->segment_size == 0) {
        out->is_truncated = true;
    }
}

/* What the system changes in a head. */
static void nki_dgram_reset(nki_mmsg *head) {
    struct msghdr *msg = &head->msg_hdr;
    msg->msg_namelen = (socklen_t)sizeof(struct sockaddr_storage);
    msg->msg_flags = 0;
    /* Tests make it smaller than what comes. */
    msg->msg_controllen = (socklen_t)NKI_CLIP(dgram_control, NKI_DGRAM_CONTROL);
}

static void nki_dgram_head(nki_mmsg *head, nki_dgram_side *side, void *memory, size_t size) {
    struct msghdr *msg = &head->msg_hdr;
    memset(head, 0, sizeof(*head));
    side->iov.iov_base = memory;
    side->iov.iov_len = size;
    msg->msg_name = &side->at;
    msg->msg_iov = &side->iov;
    msg->msg_iovlen = 1;
    msg->msg_control = &side->control;
    nki_dgram_reset(head);
}

/* The heads of a receive: the same udp's again, most of the time. */
static void nki_dgram_make(void *scratch, const nki_dgram_room *room) {
    nki_dgram_made *made = (nki_dgram_made *)scratch;
    nki_dgram_side *sides = nki_dgram_sides(scratch);
    nki_mmsg *heads = nki_dgram_heads(scratch, room->count);
    bool is_same = made->memory == room->memory && made->stride == room->stride &&
                   made->size == room->size && made->count == room->count;
    for (unsigned i = 0; is_same && i < made->used; i++) {
        nki_dgram_reset(&heads[i]);
    }
    for (unsigned i = 0; !is_same && i < room->count; i++) {
        nki_dgram_head(&heads[i], &sides[i], room->memory + i * room->stride, room->size);
    }
    made->memory = room->memory;
    made->stride = room->stride;
    made->size = room->size;
    made->count = room->count;
}

#if NKI_HAS_MMSG
static int nki_os_recv_heads(int fd, nki_mmsg *heads, unsigned count) {
    return NKI_SYS_recvmmsg(fd, heads, count, MSG_DONTWAIT);
}

static int nki_os_send_heads(int fd, nki_mmsg *heads, unsigned count) {
    return NKI_SYS_sendmmsg(fd, heads, count, NKI_MSG_NOSIGNAL | MSG_DONTWAIT);
}
#else
static int nki_os_recv_heads(int fd, nki_mmsg *heads, unsigned count) {
    unsigned done = 0;
    for (; done < count; done++) {
        ssize_t n = NKI_SYS_recvmsg(fd, &heads[done].msg_hdr, MSG_DONTWAIT);
        if (n < 0) {
            /* An error that is not told now would be lost: fewer are received than could be. */
            return done != 0 ? (int)done : -1;
        }
        heads[done].msg_len = (unsigned)n;
        if (done + 1 < count && nki_os_wait((uintptr_t)fd, NETKIT_POLL_READ, 0) <= 0) {
            return (int)done + 1;
        }
    }
    return (int)done;
}

static int nki_os_send_heads(int fd, nki_mmsg *heads, unsigned count) {
    unsigned done = 0;
    while (done < count &&
           NKI_SYS_sendmsg(fd, &heads[done].msg_hdr, NKI_MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
        done++;
    }
    return done != 0 ? (int)done : -1;
}
#endif

static int nki_os_recv_dgrams(uintptr_t s, void *scratch, netkit_datagram *out,
                              const nki_dgram_room *room) {
    nki_dgram_made *made = (nki_dgram_made *)scratch;
    const nki_dgram_side *sides = nki_dgram_sides(scratch);
    nki_mmsg *heads = nki_dgram_heads(scratch, room->count);
    int n;
    nki_dgram_make(scratch, room);
    do {
        n = nki_os_recv_heads(nki_os_fd(s), heads, room->count);
    } while (n < 0 && errno == EINTR);
    /* The system may have begun with one more. */
    made->used = NKI_MIN((unsigned)NKI_MAX(n, 0) + 1, room->count);
    if (n <= 0) {
        return n == 0 || errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
    }
    for (int i = 0; i < n; i++) {
        nki_dgram_read(&out[i], &heads[i].msg_hdr, sides[i].iov.iov_base, heads[i].msg_len);
    }
    return n;
}

/* ---- sending ---- */

static void nki_control_put(struct msghdr *msg, int level, int type, const void *data,
                            size_t size) {
    size_t at = (size_t)msg->msg_controllen;
    struct cmsghdr *c = (struct cmsghdr *)(void *)((char *)msg->msg_control + at);
    size_t len = (size_t)(CMSG_LEN(size));
    size_t end = at + (size_t)(CMSG_SPACE(size));
    memset(c, 0, end - at);
    c->cmsg_level = level;
    c->cmsg_type = type;
    /* Both are a size_t here and a socklen_t there. */
    c->cmsg_len = (socklen_t)len;
    msg->msg_controllen = (socklen_t)end;
    memcpy(CMSG_DATA(c), data, size);
}

static void nki_control_local_ipv4(struct msghdr *msg, const nki_route *route) {
#if defined(IP_PKTINFO)
    struct in_pktinfo info;
    memset(&info, 0, sizeof(info));
    /* An int on Linux, unsigned on macOS. */
    memcpy(&info.ipi_ifindex, &route->interface_index, sizeof(info.ipi_ifindex));
    if (route->local_family == NETKIT_AF_IPV4) {
        memcpy(&info.ipi_spec_dst, route->local, 4);
    }
    nki_control_put(msg, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
#elif defined(IP_SENDSRCADDR)
    if (route->local_family == NETKIT_AF_IPV4) {
        nki_control_put(msg, IPPROTO_IP, IP_SENDSRCADDR, route->local, 4);
    }
#else
    NKI_UNUSED(msg);
    NKI_UNUSED(route);
#endif
}

static void nki_control_local_ipv6(struct msghdr *msg, const nki_route *route) {
#if defined(IPV6_PKTINFO)
    struct in6_pktinfo info;
    memset(&info, 0, sizeof(info));
    info.ipi6_ifindex = route->interface_index;
    if (route->local_family == NETKIT_AF_IPV6) {
        memcpy(&info.ipi6_addr, route->local, 16);
    }
    nki_control_put(msg, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
#else
    NKI_UNUSED(msg);
    NKI_UNUSED(route);
#endif
}

static void nki_control_numbers(struct msghdr *msg, const nki_route *route) {
    bool is_ipv6 = route->level == NETKIT_AF_IPV6;
    if (route->ttl != 0) {
        int ttl = route->ttl;
        nki_control_put(msg, is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, is_ipv6 ? IPV6_HOPLIMIT : IP_TTL,
                        &ttl, sizeof(ttl));
    }
    if (route->tos != 0) {
        int tos = route->tos;
        nki_control_put(msg, is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, is_ipv6 ? IPV6_TCLASS : IP_TOS,
                        &tos, sizeof(tos));
    }
}

static void nki_dgram_control(struct msghdr *msg, const nki_dgram_out *out) {
    const nki_route *route = out->route;
    if (route->local_family != NETKIT_AF_NONE || route->interface_index != 0) {
        if (route->level == NETKIT_AF_IPV6) {
            nki_control_local_ipv6(msg, route);
        } else {
            nki_control_local_ipv4(msg, route);
        }
    }
    if ((route->ttl | route->tos) != 0) {
        nki_control_numbers(msg, route);
    }
    if (out->segment != 0) {
        uint16_t size = (uint16_t)out->segment;
        nki_control_put(msg, IPPROTO_UDP, NKI_UDP_SEGMENT, &size, sizeof(size));
    }
}

/* Linux sends to an address of IPv4 on an IPv6 socket; elsewhere it must be mapped. */
static void nki_dgram_name(struct msghdr *msg, nki_dgram_side *side, const nki_dgram_out *out,
                           bool is_ipv6) {
    const nki_route *route = out->route;
    socklen_t len = 0;
    if (route->family == NETKIT_AF_IPV4 && (NKI_LINUX || !is_ipv6)) {
        struct sockaddr_in sa;
        memset(&sa, 0, sizeof(sa));
        sa.sin_family = AF_INET;
        sa.sin_port = htons(route->port);
        memcpy(&sa.sin_addr, route->ip, 4);
        memcpy(side->at.bytes, &sa, sizeof(sa));
        len = (socklen_t)sizeof(sa);
    } else if (route->family == NETKIT_AF_IPV4 || route->family == NETKIT_AF_IPV6) {
        static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
        struct sockaddr_in6 sa;
        bool is_mapped = route->family == NETKIT_AF_IPV4;
        memset(&sa, 0, sizeof(sa));
        sa.sin6_family = AF_INET6;
        sa.sin6_port = htons(route->port);
        sa.sin6_scope_id = route->scope;
        if (is_mapped) {
            memcpy(&sa.sin6_addr, mapped, 12);
        }
        memcpy((char *)&sa.sin6_addr + (is_mapped ? 12 : 0), route->ip, is_mapped ? 4 : 16);
        memcpy(side->at.bytes, &sa, sizeof(sa));
        len = (socklen_t)sizeof(sa);
    } else if (out->path != NULL) {
        (void)nki_sockaddr_from(&side->at.name, &len, out->path);
    }
#if NKI_BSD
    side->at.name.ss_len = (uint8_t)len;
#endif
    msg->msg_name = len == 0 ? NULL : (void *)&side->at;
    msg->msg_namelen = len;
}

static int nki_os_send_dgrams(uintptr_t s, bool is_ipv6, void *scratch, const nki_dgram_out *out,
                              unsigned count) {
    nki_dgram_side *sides = nki_dgram_sides(scratch);
    nki_mmsg *heads = nki_dgram_heads(scratch, count);
    int n;
    for (unsigned i = 0; i < count; i++) {
        struct msghdr *msg = &heads[i].msg_hdr;
        memset(&heads[i], 0, sizeof(heads[i]));
        /* The system only reads, but iovec has no const. */
        memcpy(&sides[i].iov.iov_base, &out[i].data, sizeof(out[i].data));
        sides[i].iov.iov_len = out[i].len;
        msg->msg_iov = &sides[i].iov;
        msg->msg_iovlen = 1;
        nki_dgram_name(msg, &sides[i], &out[i], is_ipv6);
        msg->msg_control = &sides[i].control;
        nki_dgram_control(msg, &out[i]);
        if (msg->msg_controllen == 0) {
            msg->msg_control = NULL;
        }
    }
    do {
        n = nki_os_send_heads(nki_os_fd(s), heads, count);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        return n;
    }
    return n == 0 || errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
}

/* ---- failures ---- */

#if NKI_LINUX
/* struct sock_extended_err of <linux/errqueue.h>. */
typedef struct nki_dgram_report {
    uint32_t os_code;
    uint8_t origin; /* 1 local, 2 ICMP, 3 ICMPv6 */
    uint8_t type;
    uint8_t code;
    uint8_t pad;
    uint32_t info;
    uint32_t data;
} nki_dgram_report;

static bool nki_dgram_reported(struct msghdr *msg, netkit_datagram *out) {
    for (struct cmsghdr *c = nki_cmsg_at(msg, 0); c != NULL; c = nki_cmsg_next(msg, c)) {
        nki_dgram_report report;
        bool is_report = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
                         (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);
        if (!is_report || !nki_control_get(c, &report, sizeof(report))) {
            continue;
        }
        out->os_code = (int)report.os_code;
        out->error = netkit_error_from_os(out->os_code);
        out->mtu = report.os_code == EMSGSIZE ? report.info : 0;
        return report.origin == 2 || report.origin == 3; /* the call itself tells local ones */
    }
    return false;
}

/* Those that a call has told itself are passed over, however many: what is behind them may wake
 * nobody a second time. */
static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size) {
    for (int i = 0; i < NKI_DGRAM_REPORTS; i++) {
        nki_dgram_side side;
        nki_mmsg head;
        ssize_t n;
        nki_dgram_head(&head, &side, memory, size);
        do {
            n = NKI_SYS_recvmsg(nki_os_fd(s), &head.msg_hdr, MSG_ERRQUEUE | MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        if (n < 0) {
            return errno == EAGAIN ? (int)NETKIT_E_AGAIN : nki_os_error();
        }
        memset(out, 0, sizeof(*out));
        if (nki_dgram_reported(&head.msg_hdr, out)) {
            nki_sockaddr_to(&out->peer, &side.at.name, head.msg_hdr.msg_namelen);
            out->data = memory;
            out->len = (size_t)n;
            return NETKIT_OK;
        }
    }
    return NETKIT_E_AGAIN;
}
#else
static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size) {
    NKI_UNUSED(s);
    NKI_UNUSED(out);
    NKI_UNUSED(memory);
    NKI_UNUSED(size);
    return NETKIT_E_AGAIN;
}
#endif

/* ---- groups, buffers, abilities ---- */

#if defined(MCAST_JOIN_GROUP) && defined(MCAST_JOIN_SOURCE_GROUP)
/* Of a group with a source Linux says otherwise than of one without that it was joined already, or
 * not at all. (Others use the first of these for interfaces that are not there, too.) */
static int nki_os_join_error(bool is_join, bool has_source) {
    int error = nki_os_error();
    if (NKI_LINUX && has_source && is_join && error == NETKIT_E_ADDRNOTAVAIL) {
        return NETKIT_E_ADDRINUSE;
    }
    if (NKI_LINUX && has_source && !is_join && error == NETKIT_E_INVALID) {
        return NETKIT_E_ADDRNOTAVAIL;
    }
    return error;
}

static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source) {
    struct group_source_req request;
    struct group_req any;
    socklen_t len;
    int level = group->family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    bool is_group = group->family == NETKIT_AF_IPV6   ? group->ip[0] == 0xFF
                    : group->family == NETKIT_AF_IPV4 ? group->ip[0] >> 4 == 14
                                                      : false;
    memset(&request, 0, sizeof(request));
    memset(&any, 0, sizeof(any));
    if (!is_group || nki_sockaddr_from(&request.gsr_group, &len, group) != NETKIT_OK) {
        return NETKIT_E_INVALID;
    }
    int rc;
    if (source == NULL) {
        any.gr_interface = interface_index;
        any.gr_group = request.gsr_group;
        rc = NKI_SYS_setsockopt(nki_os_fd(s), level, is_join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP,
                                &any, (socklen_t)sizeof(any));
    } else {
        if (source->family != group->family ||
            nki_sockaddr_from(&request.gsr_source, &len, source) != NETKIT_OK) {
            return NETKIT_E_INVALID;
        }
        request.gsr_interface = interface_index;
        rc = NKI_SYS_setsockopt(nki_os_fd(s), level,
                                is_join ? MCAST_JOIN_SOURCE_GROUP : MCAST_LEAVE_SOURCE_GROUP,
                                &request, (socklen_t)sizeof(request));
    }
    return rc != 0 ? nki_os_join_error(is_join, source != NULL) : (int)NETKIT_OK;
}
#else
static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source) {
    NKI_UNUSED(s);
    NKI_UNUSED(is_join);
    NKI_UNUSED(group);
    NKI_UNUSED(interface_index);
    NKI_UNUSED(source);
    return NETKIT_E_NOSYS;
}
#endif

static bool nki_os_knows_udp_option(int fd, int name) {
    int value = 0;
    socklen_t len = (socklen_t)sizeof(value);
    return name != NKI_NO_NAME && NKI_SYS_getsockopt(fd, IPPROTO_UDP, name, &value, &len) == 0;
}

static uint32_t nki_os_dgram_caps(uintptr_t s) {
    int fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    uint32_t caps = NKI_HAS_MMSG ? NETKIT_UDP_CAP_BATCH : 0;
    if (nki_os_family(s, &family) != NETKIT_OK ||
        (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return caps;
    }
    caps |= nki_os_knows_udp_option(fd, NKI_UDP_SEGMENT) ? (uint32_t)NETKIT_UDP_CAP_GSO : 0u;
    caps |= nki_os_knows_udp_option(fd, NKI_UDP_GRO) ? (uint32_t)NETKIT_UDP_CAP_GRO : 0u;
    caps |= NKI_IP_TELL_LOCAL != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_LOCAL : 0u;
    caps |= NKI_IP_TELL_TOS != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_TOS : 0u;
    caps |= NKI_IP_TELL_TTL != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_TTL : 0u;
    caps |= NKI_SO_TELL_TIME != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_TIME : 0u;
    caps |= NKI_IP_TELL_ERRORS != NKI_NO_NAME ? (uint32_t)NETKIT_UDP_CAP_ERRORS : 0u;
    return caps;
}

#endif /* NKI_POSIX */
