/* netkit_socket: plain sockets for programs that wait by themselves.
 *
 * Owns nothing: a socket is the system's descriptor plus one, so that {0} is none, and all
 * state is the kernel's. What stands here is the same on every system: arguments are checked,
 * calls with a time limit are loops of "try without waiting, then wait for readiness" against
 * one deadline, so that a signal, or a peer that trickles, never makes the whole longer; and
 * that a socket is blocking changes nothing for them. */

static uintptr_t nki_socket_native(netkit_socket s) {
    return s.value - 1; /* {0} becomes UINTPTR_MAX, which is none */
}

static netkit_socket nki_socket_wrap(uintptr_t native) {
    netkit_socket s;
    s.value = native + 1;
    return s;
}

NETKIT_API netkit_socket netkit_socket_from_native(uintptr_t native) {
    return nki_socket_wrap(native);
}

NETKIT_API uintptr_t netkit_socket_native(netkit_socket s) {
    return nki_socket_native(s);
}

NETKIT_API int netkit_socket_open(netkit_socket *out, int family, int type, int flags) {
    uintptr_t native;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->value = 0;
    if ((flags & ~NETKIT_SOCKET_BLOCKING) != 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_plain_socket(family, type, (flags & NETKIT_SOCKET_BLOCKING) != 0, &native);
    *out = nki_socket_wrap(native);
    return rc;
}

NETKIT_API int netkit_socket_pair(netkit_socket out[2], int type, int flags) {
    uintptr_t natives[2];
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out[0].value = out[1].value = 0;
    if ((flags & ~NETKIT_SOCKET_BLOCKING) != 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_plain_pair(type, (flags & NETKIT_SOCKET_BLOCKING) != 0, natives);
    out[0] = nki_socket_wrap(natives[0]);
    out[1] = nki_socket_wrap(natives[1]);
    return rc;
}

NETKIT_API int netkit_socket_bind(netkit_socket s, const netkit_addr *addr, int flags) {
    if (s.value == 0 || addr == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_bind(nki_socket_native(s), addr, flags);
}

NETKIT_API int netkit_socket_listen(netkit_socket s, int backlog) {
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_listen(nki_socket_native(s), backlog);
}

/* What the way out of a failure does must not change the code of the system behind it, so the
 * socket is closed by the caller's netkit_socket_close, or quietly here. */
static int nki_socket_listen_one(uintptr_t *out, const netkit_addr *addr, int flags, int backlog) {
    bool is_blocking = (flags & NETKIT_SOCKET_BLOCKING) != 0;
    netkit_unix_file file;
    memset(&file, 0, sizeof file);
    int rc = nki_os_plain_socket(addr->family, NETKIT_SOCK_STREAM, is_blocking, out);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_os_bind_unix(*out, addr, flags & ~NETKIT_SOCKET_BLOCKING, 0, &file);
    if (rc == NETKIT_OK) {
        rc = nki_os_listen(*out, backlog);
    }
    if (rc != NETKIT_OK) {
        nki_os_undo_unix(&file);
        nki_os_abandon(*out);
        *out = UINTPTR_MAX;
    }
    return rc;
}

/* IPv6 is missing in one of three ways: no such sockets (ipv6.disable=1), no such address
 * (disable_ipv6=1), or none that takes IPv4 as well (OpenBSD). */
static bool nki_socket_lacks_ipv6(int rc) {
    return rc == NETKIT_E_NOSYS || rc == NETKIT_E_ADDRNOTAVAIL || rc == NETKIT_E_INVALID;
}

NETKIT_API int netkit_socket_listen_on(netkit_socket *out, const netkit_addr *addr, int flags,
                                       int backlog) {
    const int known = NETKIT_SOCKET_BLOCKING | NETKIT_SOCKET_REUSE_PORT | NETKIT_SOCKET_V6ONLY |
                      NETKIT_SOCKET_NO_REUSE | NETKIT_SOCKET_REPLACE;
    uintptr_t native = UINTPTR_MAX;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->value = 0;
    if (addr == NULL || (flags & ~known) != 0 || backlog < 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_socket_listen_one(&native, addr, flags, backlog);
    bool may_fall_back = addr->is_any && (flags & NETKIT_SOCKET_V6ONLY) == 0;
    if (may_fall_back && nki_socket_lacks_ipv6(rc)) {
        netkit_addr ipv4;
        memset(&ipv4, 0, sizeof(ipv4));
        ipv4.family = NETKIT_AF_IPV4;
        ipv4.port = addr->port;
        rc = nki_socket_listen_one(&native, &ipv4, flags, backlog);
    }
    *out = nki_socket_wrap(native);
    return rc;
}

NETKIT_API int netkit_socket_accept(netkit_socket s, netkit_socket *out, netkit_addr *peer) {
    uintptr_t native = UINTPTR_MAX;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->value = 0;
    if (s.value == 0) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_accept(nki_socket_native(s), &native, peer);
    *out = nki_socket_wrap(native);
    return rc;
}

NETKIT_API int netkit_socket_connect(netkit_socket s, const netkit_addr *addr, int timeout_ms) {
    if (s.value == 0 || addr == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_connect_within(nki_socket_native(s), addr, timeout_ms);
}

NETKIT_API int netkit_socket_connect_result(netkit_socket s) {
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_connect_result(nki_socket_native(s));
}

static bool nki_spans_are_valid(const netkit_span *spans, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (spans == NULL || (spans[i].data == NULL && spans[i].len > 0)) {
            return false;
        }
    }
    return true;
}

static bool nki_rooms_are_valid(const netkit_room *rooms, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (rooms == NULL || (rooms[i].data == NULL && rooms[i].len > 0)) {
            return false;
        }
    }
    return true;
}

/* Pieces of memory that exist side by side cannot add up to more than a size_t holds. */
static size_t nki_spans_len(const netkit_span *spans, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += spans[i].len;
    }
    return sum;
}

static size_t nki_rooms_len(const netkit_room *rooms, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += rooms[i].len;
    }
    return sum;
}

NETKIT_API int netkit_socket_send(netkit_socket s, const void *data, size_t len) {
    if (s.value == 0 || (data == NULL && len > 0)) {
        return NETKIT_E_INVALID;
    }
    return nki_os_send_flags(nki_socket_native(s), data, len, 0);
}

NETKIT_API int netkit_socket_recv(netkit_socket s, void *data, size_t len) {
    uintptr_t native = nki_socket_native(s);
    if (s.value == 0 || (data == NULL && len > 0)) {
        return NETKIT_E_INVALID;
    }
    if (len == 0) {
        return 0; /* asking the system would throw a datagram away, or wait for data */
    }
    int rc = nki_os_recv_flags(native, data, len, 0);
    return rc == NETKIT_E_EOF && nki_os_is_datagram(native) ? 0 : rc;
}

NETKIT_API int netkit_socket_sendv(netkit_socket s, const netkit_span *spans, size_t count) {
    if (s.value == 0 || !nki_spans_are_valid(spans, count)) {
        return NETKIT_E_INVALID;
    }
    return nki_os_sendv(nki_socket_native(s), spans, count, 0);
}

NETKIT_API int netkit_socket_recvv(netkit_socket s, const netkit_room *rooms, size_t count) {
    uintptr_t native = nki_socket_native(s);
    if (s.value == 0 || !nki_rooms_are_valid(rooms, count)) {
        return NETKIT_E_INVALID;
    }
    if (nki_rooms_len(rooms, count) == 0) {
        return 0; /* as netkit_socket_recv */
    }
    int rc = nki_os_recvv(native, rooms, count, 0);
    return rc == NETKIT_E_EOF && nki_os_is_datagram(native) ? 0 : rc;
}

/* After a step of a _all call that moved `rc` bytes or failed with it: NETKIT_OK to go on. The
 * clock is asked after progress too, else a peer that is just fast enough would stretch it. */
static int nki_socket_after_step(uintptr_t native, int rc, uint32_t events, uint64_t deadline_ns) {
    if (rc == NETKIT_E_AGAIN) {
        rc = nki_os_wait(native, events, deadline_ns);
    } else if (rc >= 0 && deadline_ns != NKI_NEVER && nki_os_now_ns() >= deadline_ns) {
        rc = nki_os_timed_out();
    }
    return rc < 0 ? rc : (int)NETKIT_OK;
}

NETKIT_API int netkit_socket_send_all(netkit_socket s, const void *data, size_t len, int timeout_ms,
                                      size_t *done) {
    uintptr_t native = nki_socket_native(s);
    const char *at = (const char *)data;
    size_t moved = 0;
    int rc = s.value == 0 || (data == NULL && len > 0) ? NETKIT_E_INVALID : NETKIT_OK;
    uint64_t deadline = rc == NETKIT_OK ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        rc = nki_os_send_now(native, at + moved, len - moved);
        moved += rc > 0 ? (size_t)rc : 0u;
        if (moved == len) {
            rc = NETKIT_OK;
            break;
        }
        rc = nki_socket_after_step(native, rc, NETKIT_POLL_WRITE, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

/* The range within the file that is meant; NETKIT_E_TRUNCATED when the file does not have it. */
static int nki_file_range(uintptr_t file, uint64_t offset, uint64_t *len) {
    uint64_t size;
    int error = nki_os_file_size(file, &size);
    if (error != NETKIT_OK) {
        return error;
    }
    if (offset > size || (*len != NETKIT_FILE_END && *len > size - offset)) {
        return NETKIT_E_TRUNCATED;
    }
    *len = NKI_MIN(*len, size - offset);
    return NETKIT_OK;
}

NETKIT_API int netkit_socket_send_file(netkit_socket s, uintptr_t file, uint64_t offset,
                                       uint64_t len) {
    int error = s.value == 0 ? NETKIT_E_INVALID : nki_file_range(file, offset, &len);
    if (error != NETKIT_OK) {
        return error;
    }
    return nki_os_send_file(nki_socket_native(s), file, offset, len, true);
}

NETKIT_API int netkit_socket_send_file_all(netkit_socket s, uintptr_t file, uint64_t offset,
                                           uint64_t len, int timeout_ms, uint64_t *done) {
    uintptr_t native = nki_socket_native(s);
    uint64_t moved = 0;
    bool was_blocking = false;
    int rc = s.value == 0 ? NETKIT_E_INVALID : nki_file_range(file, offset, &len);
    uint64_t deadline = rc == NETKIT_OK ? nki_os_deadline(timeout_ms) : 0;
    /* sendfile knows no MSG_DONTWAIT: a blocking socket would hold it past the deadline. */
    if (rc == NETKIT_OK) {
        rc = nki_os_unblock(native, &was_blocking);
    }
    while (rc == NETKIT_OK && moved < len) {
        rc = nki_os_wait(native, NETKIT_POLL_WRITE, deadline);
        if (rc >= 0) {
            rc = nki_os_send_file(native, file, offset + moved, len - moved, false);
        }
        moved += rc > 0 ? (uint64_t)rc : 0u;
        rc = rc < 0 && rc != NETKIT_E_AGAIN ? rc : NETKIT_OK;
    }
    if (was_blocking) {
        int os_code = nki_os_code();
        int error = nki_os_reblock(native, true);
        if (rc == NETKIT_OK) {
            rc = error;
        } else {
            (void)nki_os_fail(os_code);
        }
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

NETKIT_API int netkit_socket_recv_all(netkit_socket s, void *data, size_t len, int timeout_ms,
                                      size_t *done) {
    uintptr_t native = nki_socket_native(s);
    char *at = (char *)data;
    size_t moved = 0;
    int rc = s.value == 0 || (data == NULL && len > 0) ? NETKIT_E_INVALID : NETKIT_OK;
    uint64_t deadline = rc == NETKIT_OK ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        rc = nki_os_recv_now(native, at + moved, len - moved);
        moved += rc > 0 ? (size_t)rc : 0u;
        if (moved == len) {
            rc = NETKIT_OK;
            break;
        }
        if (rc == NETKIT_E_EOF && nki_os_is_datagram(native)) {
            rc = 0;
        }
        rc = nki_socket_after_step(native, rc, NETKIT_POLL_READ, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

/* Where a _all call over pieces is: each step moves a window of those not yet done. */
typedef struct nki_vector {
    size_t next;  /* the first piece that is not done */
    size_t begin; /* bytes of it that are */
} nki_vector;

static size_t nki_vector_spans(const nki_vector *v, const netkit_span *spans, size_t count,
                               netkit_span *out) {
    size_t used = NKI_MIN(count - v->next, (size_t)NETKIT_SPANS_MAX);
    memcpy(out, spans + v->next, used * sizeof *out);
    out[0].data = (const char *)out[0].data + v->begin;
    out[0].len -= v->begin;
    return used;
}

static size_t nki_vector_rooms(const nki_vector *v, const netkit_room *rooms, size_t count,
                               netkit_room *out) {
    size_t used = NKI_MIN(count - v->next, (size_t)NETKIT_SPANS_MAX);
    memcpy(out, rooms + v->next, used * sizeof *out);
    out[0].data = (char *)out[0].data + v->begin;
    out[0].len -= v->begin;
    return used;
}

NETKIT_API int netkit_socket_sendv_all(netkit_socket s, const netkit_span *spans, size_t count,
                                       int timeout_ms, size_t *done) {
    uintptr_t native = nki_socket_native(s);
    netkit_span window[NETKIT_SPANS_MAX];
    nki_vector v = {0, 0};
    size_t moved = 0;
    bool is_valid = s.value != 0 && nki_spans_are_valid(spans, count);
    int rc = is_valid ? NETKIT_OK : NETKIT_E_INVALID;
    size_t len = is_valid ? nki_spans_len(spans, count) : 0;
    uint64_t deadline = is_valid ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        while (spans[v.next].len == v.begin) {
            v.next++;
            v.begin = 0;
        }
        rc = nki_os_sendv_now(native, window, nki_vector_spans(&v, spans, count, window));
        size_t step = rc > 0 ? (size_t)rc : 0u;
        moved += step;
        for (; step > 0 && step >= spans[v.next].len - v.begin; v.begin = 0) {
            step -= spans[v.next++].len - v.begin;
        }
        v.begin += step;
        rc = moved == len ? (int)NETKIT_OK
                          : nki_socket_after_step(native, rc, NETKIT_POLL_WRITE, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

NETKIT_API int netkit_socket_recvv_all(netkit_socket s, const netkit_room *rooms, size_t count,
                                       int timeout_ms, size_t *done) {
    uintptr_t native = nki_socket_native(s);
    netkit_room window[NETKIT_SPANS_MAX];
    nki_vector v = {0, 0};
    size_t moved = 0;
    bool is_valid = s.value != 0 && nki_rooms_are_valid(rooms, count);
    int rc = is_valid ? NETKIT_OK : NETKIT_E_INVALID;
    size_t len = is_valid ? nki_rooms_len(rooms, count) : 0;
    uint64_t deadline = is_valid ? nki_os_deadline(timeout_ms) : 0;
    while (rc == NETKIT_OK && moved < len) {
        while (rooms[v.next].len == v.begin) {
            v.next++;
            v.begin = 0;
        }
        rc = nki_os_recvv_now(native, window, nki_vector_rooms(&v, rooms, count, window));
        size_t step = rc > 0 ? (size_t)rc : 0u;
        moved += step;
        for (; step > 0 && step >= rooms[v.next].len - v.begin; v.begin = 0) {
            step -= rooms[v.next++].len - v.begin;
        }
        v.begin += step;
        rc = rc == NETKIT_E_EOF && nki_os_is_datagram(native) ? 0 : rc;
        rc = moved == len ? (int)NETKIT_OK
                          : nki_socket_after_step(native, rc, NETKIT_POLL_READ, deadline);
    }
    if (done != NULL) {
        *done = moved;
    }
    return rc;
}

NETKIT_API int netkit_socket_wait(netkit_socket s, int events, int timeout_ms) {
    const int known = NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY;
    if (s.value == 0 || events == 0 || (events & ~known) != 0) {
        return NETKIT_E_INVALID;
    }
    return nki_os_wait(nki_socket_native(s), (uint32_t)events, nki_os_deadline(timeout_ms));
}

NETKIT_API int netkit_socket_shutdown(netkit_socket s, int how) {
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_shutdown(nki_socket_native(s), how);
}

NETKIT_API int netkit_socket_close(netkit_socket *s) {
    if (s == NULL || s->value == 0) {
        return s == NULL ? NETKIT_E_INVALID : NETKIT_OK;
    }
    uintptr_t native = nki_socket_native(*s);
    s->value = 0;
    return nki_os_close(native);
}

NETKIT_API int netkit_socket_reset(netkit_socket *s) {
    if (s == NULL || s->value == 0) {
        return s == NULL ? NETKIT_E_INVALID : NETKIT_OK;
    }
    uintptr_t native = nki_socket_native(*s);
    s->value = 0;
    return nki_os_reset(native);
}

static int nki_socket_name(netkit_socket s, netkit_addr *out, bool is_peer) {
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    if (s.value == 0) {
        memset(out, 0, sizeof(*out));
        return NETKIT_E_INVALID;
    }
    uintptr_t native = nki_socket_native(s);
    return is_peer ? nki_os_remote(native, out) : nki_os_local(native, out);
}

NETKIT_API int netkit_socket_local(netkit_socket s, netkit_addr *out) {
    return nki_socket_name(s, out, false);
}

NETKIT_API int netkit_socket_remote(netkit_socket s, netkit_addr *out) {
    return nki_socket_name(s, out, true);
}

NETKIT_API int netkit_socket_set(netkit_socket s, netkit_option option, int value) {
    if (s.value == 0) {
        return NETKIT_E_INVALID;
    }
    return nki_os_set_option(nki_socket_native(s), option, value);
}

NETKIT_API int netkit_socket_get(netkit_socket s, netkit_option option, int *value) {
    if (value == NULL) {
        return NETKIT_E_INVALID;
    }
    *value = 0;
    return s.value == 0 ? (int)NETKIT_E_INVALID
                        : nki_os_get_option(nki_socket_native(s), option, value);
}

NETKIT_API int netkit_socket_set_text(netkit_socket s, netkit_option option, const char *value) {
    if (s.value == 0 || value == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_os_set_text(nki_socket_native(s), option, value);
}

NETKIT_API int netkit_socket_get_text(netkit_socket s, netkit_option option, char *text,
                                      size_t size) {
    if (text == NULL || size == 0) {
        return NETKIT_E_INVALID;
    }
    text[0] = 0;
    return s.value == 0 ? (int)NETKIT_E_INVALID
                        : nki_os_get_text(nki_socket_native(s), option, text, size);
}

NETKIT_API int netkit_socket_os_code(void) {
    return nki_os_code();
}
