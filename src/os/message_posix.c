/* Messages on POSIX: sendmsg and recvmsg with all that can go beside bytes.
 *
 * Descriptors in a message that was received are open in this process whether or not anybody looks
 * at them: so the room for them is always the most that can come, and what the caller has no room
 * for is closed here. Then only the system itself can lose some (MSG_CTRUNC: the process's table
 * is full), and it closes those. They are close-on-exec from the start where the system can say
 * so (MSG_CMSG_CLOEXEC; not on macOS, where another thread's program may inherit one).
 * A stream carries descriptors with the first byte of a send, so one of 0 bytes would lose them in
 * silence (seen on Linux): it is refused. */

#if NKI_POSIX

#if defined(MSG_CMSG_CLOEXEC)
#define NKI_MSG_CMSG_CLOEXEC MSG_CMSG_CLOEXEC
#else
#define NKI_MSG_CMSG_CLOEXEC 0
#endif

#if NKI_LINUX && defined(SCM_CREDENTIALS)
#define NKI_HAS_SCM_CREDENTIALS 1
#else
#define NKI_HAS_SCM_CREDENTIALS 0
#endif

/* Room for the most descriptors, credentials, and what else may come; aligned for cmsghdr. */
typedef union nki_control {
    struct cmsghdr align;
    unsigned char
        bytes[CMSG_SPACE(NETKIT_FDS_MAX * sizeof(int)) + CMSG_SPACE(64) + NETKIT_CONTROL_MAX];
} nki_control;

/* More than INT_MAX bytes at once is EINVAL to the BSDs: what is beyond is left for the next
 * call, as after any short transfer. Returns the pieces used, which fit msg_iovlen whatever its
 * type. */
static uint8_t nki_os_iov(struct iovec *iov, const netkit_span *spans, size_t count, size_t most) {
    uint8_t used = 0;
    for (; used < count && most > 0; used++) {
        size_t len = NKI_MIN(spans[used].len, most);
        /* Of spans the system only reads, but iovec has no const. */
        memcpy(&iov[used].iov_base, &spans[used].data, sizeof iov[used].iov_base);
        iov[used].iov_len = len;
        most -= len;
    }
    return used;
}

static uint8_t nki_os_iov_rooms(struct iovec *iov, const netkit_room *rooms, size_t count) {
    size_t most = NKI_CLIP(recvmsg, (size_t)INT_MAX);
    uint8_t used = 0;
    for (; used < count && most > 0; used++) {
        iov[used].iov_base = rooms[used].data;
        iov[used].iov_len = NKI_MIN(rooms[used].len, most);
        most -= iov[used].iov_len;
    }
    return used;
}

static int nki_os_sendmsg(uintptr_t s, const struct msghdr *msg, int flags) {
    ssize_t sent;
    do {
        sent = NKI_SYS_sendmsg(nki_os_fd(s), msg, flags | NKI_MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0 ? (int)sent : nki_os_send_error();
}

static ssize_t nki_os_recvmsg(uintptr_t s, struct msghdr *msg, int flags) {
    ssize_t got;
    do {
        got = NKI_SYS_recvmsg(nki_os_fd(s), msg, flags | NKI_MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    return got;
}

static int nki_os_sendv(uintptr_t s, const netkit_span *spans, size_t count, int flags) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct msghdr msg;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = iov;
    msg.msg_iovlen = nki_os_iov(iov, spans, count, NKI_CLIP(sendmsg, (size_t)INT_MAX));
    return nki_os_sendmsg(s, &msg, flags);
}

static int nki_os_sendv_now(uintptr_t s, const netkit_span *spans, size_t count) {
    return nki_os_sendv(s, spans, count, MSG_DONTWAIT);
}

static int nki_os_recvv(uintptr_t s, const netkit_room *rooms, size_t count, int flags) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct msghdr msg;
    size_t room = 0;
    if (count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = iov;
    msg.msg_iovlen = nki_os_iov_rooms(iov, rooms, count);
    for (size_t i = 0; i < count && room == 0; i++) {
        room = rooms[i].len;
    }
    return nki_os_recv_result(nki_os_recvmsg(s, &msg, flags), room);
}

static int nki_os_recvv_now(uintptr_t s, const netkit_room *rooms, size_t count) {
    return nki_os_recvv(s, rooms, count, MSG_DONTWAIT);
}

/* ---- out ---- */

/* Put descriptors into the control buffer. Returns its length. */
static int nki_control_fds(nki_control *control, const uintptr_t *fds, size_t count, size_t *len) {
    struct cmsghdr *head = &control->align;
    size_t size = count * sizeof(int);
    *len = 0;
    if (count == 0) {
        return NETKIT_OK;
    }
    memset(control->bytes, 0, CMSG_SPACE(size));
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = (socklen_t)CMSG_LEN(size);
    for (size_t i = 0; i < count; i++) {
        int fd = nki_os_fd(fds[i]);
        if (fd < 0) {
            errno = EBADF;
            return NETKIT_E_INVALID;
        }
        memcpy(CMSG_DATA(head) + i * sizeof fd, &fd, sizeof fd);
    }
    *len = CMSG_SPACE(size);
    return NETKIT_OK;
}

static bool nki_os_is_empty(const netkit_span *spans, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (spans[i].len != 0) {
            return false;
        }
    }
    return true;
}

/* What can be known to be wrong without asking the system. */
static int nki_os_check_out(uintptr_t s, const netkit_message_out *out) {
    if (out->spans_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    if (out->fds_count > NETKIT_FDS_MAX || out->control_len > NETKIT_CONTROL_MAX) {
        return NETKIT_E_TOOBIG;
    }
    bool is_lost = out->fds_count + out->control_len != 0 &&
                   nki_os_is_empty(out->spans, out->spans_count) && !nki_os_is_datagram(s);
    return is_lost ? NETKIT_E_INVALID : NETKIT_OK;
}

static int nki_os_send_msg(uintptr_t s, const netkit_message_out *out) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    struct msghdr msg;
    nki_control control;
    socklen_t sa_len = 0;
    size_t len = 0;
    int rc = nki_os_check_out(s, out);
    if (rc == NETKIT_OK && out->to != NULL) {
        rc = nki_sockaddr_from(&sa, &sa_len, out->to);
    }
    if (rc == NETKIT_OK) {
        rc = nki_control_fds(&control, out->fds, out->fds_count, &len);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (out->control_len != 0) {
        memcpy(control.bytes + len, out->control, out->control_len);
        len += out->control_len;
    }
    memset(&msg, 0, sizeof(msg));
    msg.msg_name = out->to != NULL ? &sa : NULL;
    msg.msg_namelen = sa_len;
    msg.msg_iov = iov;
    msg.msg_iovlen =
        nki_os_iov(iov, out->spans, out->spans_count, NKI_CLIP(sendmsg, (size_t)INT_MAX));
    msg.msg_control = len != 0 ? control.bytes : NULL;
    msg.msg_controllen = (socklen_t)len;
    return nki_os_sendmsg(s, &msg, 0);
}

/* One span with descriptors, for drivers. */
static int nki_os_send_fds(uintptr_t s, const void *data, size_t len, const uintptr_t *fds,
                           size_t count) {
    netkit_message_out out;
    netkit_span span;
    memset(&out, 0, sizeof(out));
    span.data = data;
    span.len = len;
    out.spans = &span;
    out.spans_count = 1;
    out.fds = fds;
    out.fds_count = count;
    return nki_os_send_msg(s, &out);
}

/* ---- in ---- */

/* Keep a descriptor that came, or close it when there is no room. */
static void nki_os_take_fd(netkit_message_in *in, int fd) {
    bool is_room = in->fds_count < in->fds_max;
#if !defined(MSG_CMSG_CLOEXEC)
    is_room = is_room && NKI_SYS_fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
#endif
    if (is_room) {
        in->fds[in->fds_count++] = (uintptr_t)fd;
    } else {
        in->is_fds_cut = true;
        nki_os_abandon((uintptr_t)fd);
    }
}

/* What is behind a head, as CMSG_DATA says, which takes the const away. */
static const unsigned char *nki_cmsg_data(const struct cmsghdr *head) {
    return (const unsigned char *)head + CMSG_LEN(0);
}

#if NKI_HAS_SCM_CREDENTIALS
static void nki_os_take_credentials(netkit_message_in *in, const struct cmsghdr *head) {
    struct ucred who;
    memcpy(&who, nki_cmsg_data(head), sizeof who);
    in->sender = nki_os_credentials_of(&who);
}
#endif

/* The caller's: as the system wrote it, head and all, with the room that keeps the next in line. */
static void nki_os_take_other(netkit_message_in *in, const struct cmsghdr *head, size_t len) {
    size_t space = CMSG_SPACE(len);
    if (space > in->control_max - in->control_len) {
        in->is_control_cut = true;
        return;
    }
    memset((char *)in->control + in->control_len, 0, space);
    memcpy((char *)in->control + in->control_len, head, CMSG_LEN(len));
    in->control_len += space;
}

static void nki_os_take_one(netkit_message_in *in, const struct cmsghdr *head, size_t len) {
    bool is_socket = head->cmsg_level == SOL_SOCKET;
    if (is_socket && head->cmsg_type == SCM_RIGHTS) {
        for (size_t at = 0; at + sizeof(int) <= len; at += sizeof(int)) {
            int fd;
            memcpy(&fd, nki_cmsg_data(head) + at, sizeof fd);
            nki_os_take_fd(in, fd);
        }
        return;
    }
#if NKI_HAS_SCM_CREDENTIALS
    if (is_socket && head->cmsg_type == SCM_CREDENTIALS && len >= sizeof(struct ucred)) {
        nki_os_take_credentials(in, head);
        return;
    }
#endif
    nki_os_take_other(in, head, len);
}

/* By hand, since CMSG_NXTHDR does not compile everywhere without a warning (musl), and what was cut
 * may claim to be longer than it is (the BSDs). */
static void nki_os_take_control(netkit_message_in *in, const nki_control *control,
                                size_t control_len) {
    size_t at = 0;
    while (at + sizeof(struct cmsghdr) <= control_len) {
        const struct cmsghdr *head = (const struct cmsghdr *)(const void *)(control->bytes + at);
        size_t len = NKI_MIN((size_t)head->cmsg_len, control_len - at);
        if (len < CMSG_LEN(0)) {
            return;
        }
        nki_os_take_one(in, head, len - CMSG_LEN(0));
        at += CMSG_SPACE(len - CMSG_LEN(0));
    }
}

static bool nki_os_has_room(const netkit_room *rooms, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (rooms[i].len != 0) {
            return true;
        }
    }
    return false;
}

static int nki_os_recv_msg(uintptr_t s, netkit_message_in *in) {
    struct iovec iov[NETKIT_SPANS_MAX];
    struct sockaddr_storage sa;
    struct msghdr msg;
    nki_control control;
    nki_os_forget_in(in);
    if (in->rooms_count > NETKIT_SPANS_MAX) {
        return NETKIT_E_INVALID;
    }
    memset(&msg, 0, sizeof(msg));
    memset(&sa, 0, sizeof(sa));
    msg.msg_name = &sa;
    msg.msg_namelen = (socklen_t)sizeof(sa);
    msg.msg_iov = iov;
    msg.msg_iovlen = nki_os_iov_rooms(iov, in->rooms, in->rooms_count);
    msg.msg_control = control.bytes;
    msg.msg_controllen = (socklen_t)sizeof(control.bytes);
    ssize_t got = nki_os_recvmsg(s, &msg, 0);
    if (got < 0) {
        return nki_os_recv_result(got, 0);
    }
    nki_sockaddr_to(&in->from, &sa, msg.msg_namelen);
    nki_os_take_control(in, &control, (size_t)msg.msg_controllen);
    in->is_cut = (msg.msg_flags & MSG_TRUNC) != 0;
    if ((msg.msg_flags & MSG_CTRUNC) != 0) {
        in->is_fds_cut = true; /* there was room here for all of them: the process had none */
    }
    bool is_end = got == 0 && nki_os_has_room(in->rooms, in->rooms_count) && !nki_os_is_datagram(s);
    return is_end ? (int)NETKIT_E_EOF : (int)got;
}

/* For drivers: one span, with room for all descriptors that can come. NETKIT_E_TRUNCATED when some
 * are lost; those that came are closed then. */
static int nki_os_recv_fds(uintptr_t s, void *data, size_t len, uintptr_t *fds, size_t *count) {
    netkit_message_in in;
    netkit_room room;
    memset(&in, 0, sizeof(in));
    room.data = data;
    room.len = len;
    in.rooms = &room;
    in.rooms_count = 1;
    in.fds = fds;
    in.fds_max = NETKIT_FDS_MAX;
    int rc = nki_os_recv_msg(s, &in);
    if (rc >= 0 && in.is_fds_cut) {
        while (in.fds_count > 0) {
            nki_os_abandon(fds[--in.fds_count]);
        }
        rc = NETKIT_E_TRUNCATED;
    }
    *count = in.fds_count;
    return rc;
}

#endif /* NKI_POSIX */
