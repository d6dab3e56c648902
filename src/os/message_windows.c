/* Messages on Windows: gathered and scattered, with a datagram's address, and beside it what
 * control messages there are. Descriptors and credentials do not go with messages here:
 * NETKIT_E_NOSYS. WSARecvMsg is for datagrams; of streams WSARecv tells all that there is. */

#if NKI_WINDOWS

/* As WSA_CMSG_LEN and WSA_CMSG_SPACE, which do not compile everywhere without a warning. */
#define NKI_CMSG_LEN(len) (sizeof(WSACMSGHDR) + (size_t)(len))
#define NKI_CMSG_SPACE(len) \
    ((NKI_CMSG_LEN(len) + sizeof(size_t) - 1) / sizeof(size_t) * sizeof(size_t))

/* Aligned for a head. */
typedef union nki_control {
    WSACMSGHDR align;
    CHAR bytes[NETKIT_CONTROL_MAX];
} nki_control;

/* Pieces of `most` bytes together. Returns how many. */
static DWORD nki_os_bufs(WSABUF *bufs, const netkit_span *spans, size_t count, size_t most) {
    DWORD used = 0;
    for (; used < count && most > 0; used++) {
        size_t len = NKI_MIN(spans[used].len, most);
        /* Of spans the system only reads, but WSABUF has no const. */
        memcpy(&bufs[used].buf, &spans[used].data, sizeof bufs[used].buf);
        bufs[used].len = (ULONG)len;
        most -= len;
    }
    return used;
}

static DWORD nki_os_bufs_rooms(WSABUF *bufs, const netkit_room *rooms, size_t count, size_t *room) {
    size_t most = NKI_CLIP(recvmsg, (size_t)INT_MAX);
    DWORD used = 0;
    *room = 0;
    for (; used < count && most > 0; used++) {
        size_t len = NKI_MIN(rooms[used].len, most);
        bufs[used].buf = (CHAR *)rooms[used].data;
        bufs[used].len = (ULONG)len;
        most -= len;
        *room += len;
    }
    return used;
}

static int nki_os_sendv_most(uintptr_t s, const netkit_span *spans, size_t count, size_t most) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    DWORD sent = 0;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    DWORD used = nki_os_bufs(bufs, spans, count, NKI_CLIP(sendmsg, most));
    return NKI_SYS_sendv(nki_os_fd(s), bufs, used, &sent) != 0 ? nki_os_send_error(s) : (int)sent;
}

static int nki_os_sendv(uintptr_t s, const netkit_span *spans, size_t count, int flags) {
    NKI_UNUSED(flags);
    return nki_os_sendv_most(s, spans, count, (size_t)INT_MAX);
}

static int nki_os_sendv_now(uintptr_t s, const netkit_span *spans, size_t count) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_WRITE);
    return rc != NETKIT_OK ? rc : nki_os_sendv_most(s, spans, count, nki_os_now_most(s, INT_MAX));
}

static int nki_os_recvv(uintptr_t s, const netkit_room *rooms, size_t count, int flags) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    DWORD got = 0;
    DWORD in_out = (DWORD)flags;
    size_t room;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    DWORD used = nki_os_bufs_rooms(bufs, rooms, count, &room);
    int rc = NKI_SYS_recvv(nki_os_fd(s), bufs, used, &got, &in_out);
    return nki_os_recv_result(s, rc != 0 ? -1 : (int)got, room);
}

static int nki_os_recvv_now(uintptr_t s, const netkit_room *rooms, size_t count) {
    int rc = nki_os_would_wait(s, NETKIT_POLL_READ);
    return rc != NETKIT_OK ? rc : nki_os_recvv(s, rooms, count, 0);
}

/* ---- out ---- */

/* What can be known to be wrong without asking the system. */
static int nki_os_check_out(uintptr_t s, const netkit_message_out *out) {
    if (out->spans_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    if (out->fds_count > NETKIT_FDS_MAX || out->control_len > NETKIT_CONTROL_MAX) {
        return NETKIT_E_TOOBIG;
    }
    if (out->fds_count != 0) {
        return NETKIT_E_NOSYS;
    }
    return out->control_len != 0 && !nki_os_is_datagram(s) ? NETKIT_E_NOSYS : NETKIT_OK;
}

static int nki_os_send_msg(uintptr_t s, const netkit_message_out *out) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    struct sockaddr *to = (struct sockaddr *)(void *)&sa;
    WSAMSG msg;
    nki_control control;
    socklen_t len = 0;
    DWORD sent = 0;
    int rc = nki_os_check_out(s, out);
    if (rc == NETKIT_OK && out->to != NULL) {
        rc = nki_sockaddr_from(&sa, &len, out->to);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    size_t most = NKI_CLIP(sendmsg, (size_t)INT_MAX);
    memset(&msg, 0, sizeof msg);
    msg.lpBuffers = bufs;
    msg.dwBufferCount = nki_os_bufs(bufs, out->spans, out->spans_count, most);
    if (out->control_len == 0 && out->to == NULL) {
        rc = NKI_SYS_sendv(nki_os_fd(s), bufs, msg.dwBufferCount, &sent);
    } else if (out->control_len == 0) {
        rc = NKI_SYS_sendto(nki_os_fd(s), bufs, msg.dwBufferCount, &sent, to, len);
    } else {
        memcpy(control.bytes, out->control, out->control_len);
        msg.name = out->to != NULL ? to : NULL;
        msg.namelen = len;
        msg.Control.buf = control.bytes;
        msg.Control.len = (ULONG)out->control_len;
        rc = NKI_SYS_sendmsg(nki_os_fd(s), &msg, &sent);
    }
    return rc != 0 ? nki_os_send_error(s) : (int)sent;
}

static int nki_os_send_fds(uintptr_t s, const void *data, size_t len, const uintptr_t *fds,
                           size_t count) {
    NKI_UNUSED(fds);
    return count != 0 ? (int)NETKIT_E_NOSYS : nki_os_send_flags(s, data, len, 0);
}

/* ---- in ---- */

/* Of this provider; the pointer is looked up for each call, since nothing is kept here. */
static int nki_os_recvmsg_call(SOCKET s, LPFN_WSARECVMSG *call) {
    GUID guid = WSAID_WSARECVMSG;
    DWORD got = 0;
    *call = NULL;
    return NKI_SYS_extension(s, &guid, call, (DWORD)sizeof *call, &got) != 0 ? nki_os_error()
                                                                             : NETKIT_OK;
}

/* The caller's: as the system wrote them, heads and all, as many as there is room for. */
static void nki_os_take_control(netkit_message_in *in, const WSABUF *control) {
    size_t at = 0;
    while (at + sizeof(WSACMSGHDR) <= control->len) {
        WSACMSGHDR head;
        memcpy(&head, control->buf + at, sizeof head);
        size_t space = NKI_CMSG_SPACE(head.cmsg_len - NKI_CMSG_LEN(0));
        size_t len = NKI_MIN(space, control->len - at);
        if (head.cmsg_len < sizeof head || len > in->control_max - in->control_len) {
            in->is_control_cut = true;
            return;
        }
        memcpy((char *)in->control + in->control_len, control->buf + at, len);
        in->control_len += len;
        at += space;
    }
}

/* A datagram that is longer than the room is an error here, which is told when all is written. */
static int nki_os_recv_datagram(uintptr_t s, netkit_message_in *in, WSAMSG *msg, size_t room) {
    LPFN_WSARECVMSG call;
    DWORD got = 0;
    int rc = nki_os_recvmsg_call(nki_os_fd(s), &call);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (NKI_SYS_recvmsg(call, nki_os_fd(s), msg, &got) != 0) {
        in->is_cut = nki_os_code() == WSAEMSGSIZE;
        if (!in->is_cut) {
            return nki_os_recv_error(s, room);
        }
        got = (DWORD)room;
    }
    nki_sockaddr_to(&in->from, (const struct sockaddr_storage *)(const void *)msg->name,
                    msg->namelen);
    nki_os_take_control(in, &msg->Control);
    in->is_cut = in->is_cut || (msg->dwFlags & MSG_TRUNC) != 0;
    in->is_control_cut = in->is_control_cut || (msg->dwFlags & MSG_CTRUNC) != 0;
    return (int)got;
}

static int nki_os_recv_msg(uintptr_t s, netkit_message_in *in) {
    WSABUF bufs[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    WSAMSG msg;
    nki_control control;
    size_t room;
    nki_os_forget_in(in);
    if (in->rooms_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    if (!nki_os_is_datagram(s)) {
        return nki_os_recvv(s, in->rooms, in->rooms_count, 0);
    }
    memset(&msg, 0, sizeof msg);
    memset(&sa, 0, sizeof sa);
    msg.name = (struct sockaddr *)(void *)&sa;
    msg.namelen = (int)sizeof sa;
    msg.lpBuffers = bufs;
    msg.dwBufferCount = nki_os_bufs_rooms(bufs, in->rooms, in->rooms_count, &room);
    msg.Control.buf = control.bytes;
    msg.Control.len = (ULONG)sizeof control.bytes;
    return nki_os_recv_datagram(s, in, &msg, room);
}

static int nki_os_recv_fds(uintptr_t s, void *data, size_t len, uintptr_t *fds, size_t *count) {
    NKI_UNUSED(fds);
    *count = 0;
    return nki_os_recv_flags(s, data, len, 0);
}

#endif /* NKI_WINDOWS */
