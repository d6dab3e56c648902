/* Datagrams. Short ones come by one receive that goes on, into provided buffers, and are handed
 * over where they lie, which spares a bare server 5 % of its processor time (tools/bench/udp.c).
 * The others, and those that find no buffer, are told by a poll and taken by recvmmsg. All are sent
 * by sendmmsg: an operation for each would cost more. */

#if NKI_HAS_URING

/* All that has come by completions was read. */
static void nki_u_update_ready(nki_source *source, const nki_u_slot *s) {
    if (s->first == NKI_POOL_NONE && s->blob == NULL && s->error == 0 &&
        (s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        source->ready = 0;
    }
}

/* What is there already completes at once. */
static void nki_u_arm(netkit_loop *loop, nki_source *source, uint32_t wanted) {
    nki_u *u = nki_u_of(loop);
    if (nki_id_kind(source->id) == NKI_KIND_UDP) {
        nki_u_slot *s = nki_u_slot_of(u, source);
        s->events = wanted;
        nki_u_give_up_poll(loop, u, source, s);
        nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    }
}

/* One of at most size_max bytes out of a buffer. */
static void nki_u_read_dgram(netkit_datagram *out, unsigned char *at, size_t size_max) {
    nki_uring_came came;
    struct msghdr msg;
    memcpy(&came, at, sizeof came);
    memset(&msg, 0, sizeof msg);
    msg.msg_name = at + sizeof came;
    msg.msg_namelen = NKI_MIN(came.name_len, (uint32_t)NKI_U_NAME_SIZE);
    msg.msg_control = at + sizeof came + NKI_U_NAME_SIZE;
    msg.msg_controllen = came.control_len;
    msg.msg_flags = (int)came.flags;
    nki_dgram_read(out, &msg, at + NKI_U_CAME_SIZE, NKI_MIN((size_t)came.len, size_max));
    out->is_truncated = out->is_truncated || came.len > size_max;
}

/* Those that were taken out of their buffers, as the udp was not read. */
static unsigned nki_u_take_kept(nki_u *u, nki_u_slot *s, netkit_datagram *out,
                                const nki_dgram_room *room) {
    unsigned count = 0;
    while (nki_u_blob_len(s->blob) != 0 && count < room->count) {
        uint64_t framed;
        unsigned char *at = nki_u_blob_data(s->blob);
        memcpy(&framed, at, sizeof framed);
        nki_u_read_dgram(&out[count++], at + sizeof framed, room->size);
        s->blob->begin += sizeof framed + (size_t)framed;
    }
    if (nki_u_blob_len(s->blob) == 0) {
        u->lent_blob = s->blob;
        s->blob = NULL;
    } else {
        u->reading = s;
    }
    return count;
}

static int nki_u_take_dgrams(netkit_loop *loop, nki_u *u, nki_udp *udp, nki_u_slot *s) {
    const nki_dgram_room *room = &udp->more->room;
    netkit_datagram *out = loop->dgrams->in;
    unsigned count = 0;
    if (NKI_FAIL(recvmmsg) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    if (NKI_UNLIKELY(s->blob != NULL)) {
        count = nki_u_take_kept(u, s, out, room);
    } else {
        while (s->first != NKI_POOL_NONE && count < room->count) {
            uint16_t id = nki_u_lend(u, s);
            nki_u_read_dgram(&out[count++], nki_pool_data(&u->pool, id), room->size);
        }
    }
    nki_u_update_ready(&udp->source, s);
    return (int)count;
}

static int nki_u_udp_recv(netkit_loop *loop, nki_udp *udp) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &udp->source);
    nki_u_reclaim(loop, u);
    if (s->first != NKI_POOL_NONE || s->blob != NULL) {
        return nki_u_take_dgrams(loop, u, udp, s);
    }
    if (s->error != 0) {
        errno = s->error;
        s->error = 0;
        return nki_os_error();
    }
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        udp->source.ready = (uint16_t)(udp->source.ready & ~NKI_READABLE);
        return NETKIT_E_AGAIN;
    }
    int n = nki_os_recv_dgrams(udp->source.socket, loop->dgrams->recv_scratch, loop->dgrams->in,
                               &udp->more->room);
    if (n == NETKIT_E_AGAIN || (n > 0 && (unsigned)n < udp->more->room.count)) {
        udp->source.ready = (uint16_t)(udp->source.ready & ~NKI_READABLE);
        nki_u_want(loop, u, &udp->source, s, NKI_U_WANT_INPUT);
    }
    return n;
}

#endif /* NKI_HAS_URING */
