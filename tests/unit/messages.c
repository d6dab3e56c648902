/* Messages of plain sockets: descriptors, addresses, credentials, other ancillary data; and
 * transfers of many pieces. */

static void message_pair(netkit_socket s[2], int type) {
    CHECK_OK(netkit_socket_pair(s, type, 0));
}

static void message_close(netkit_socket s[2]) {
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_OK(netkit_socket_close(&s[1]));
}

/* One with bytes alone; the span is the caller's. */
static netkit_message_out message_out(netkit_span *span, const void *data, size_t len) {
    netkit_message_out out;
    memset(&out, 0, sizeof(out));
    span->data = data;
    span->len = len;
    out.spans = span;
    out.spans_count = 1;
    return out;
}

static netkit_message_in message_in(netkit_room *room, void *data, size_t len) {
    netkit_message_in in;
    memset(&in, 0xAA, sizeof(in)); /* whatever was there before means nothing */
    room->data = data;
    room->len = len;
    in.rooms = room;
    in.rooms_count = 1;
    in.fds = NULL;
    in.fds_max = 0;
    in.control = NULL;
    in.control_max = 0;
    return in;
}

#if NKI_POSIX /* descriptors are handed over there alone */
static bool message_is_cloexec(uintptr_t fd) {
    return (fcntl((int)fd, F_GETFD) & FD_CLOEXEC) != 0;
}

static void message_close_all(const uintptr_t *fds, size_t count) {
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(close((int)fds[i]), 0);
    }
}

/* Files by which a descriptor can be told from another: the k-th one is k bytes long. */
static int message_file(int k) {
    char path[160];
    nkt_temp_path(path, sizeof(path));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(ftruncate(fd, k), 0);
    return fd;
}

static int message_which(uintptr_t fd) {
    struct stat st;
    CHECK_EQ(fstat((int)fd, &st), 0);
    return (int)st.st_size;
}

/* ---- descriptors ------------------------------------------------------------------- */

/* X-04 IO10 IO11: 1, 64 and 253 descriptors arrive with their bytes, in order, close-on-exec, and
 * the same open files; on streams and datagrams. */
NKT_TEST(message_descriptors_arrive) {
    static const size_t counts[] = {1, 2, 64, 253};
    const int types[] = {NETKIT_SOCK_STREAM, NETKIT_SOCK_DGRAM};
    uintptr_t mine[NETKIT_FDS_MAX], theirs[NETKIT_FDS_MAX];
    for (int k = 0; k < NETKIT_FDS_MAX; k++) {
        mine[k] = (uintptr_t)message_file(k);
    }
    for (int i = 0; i < 8; i++) {
        netkit_socket s[2];
        netkit_span span;
        netkit_room room;
        char text[8];
        size_t count = counts[i / 2];
        message_pair(s, types[i % 2]);
        netkit_message_out out = message_out(&span, "abc", 3);
        netkit_message_in in = message_in(&room, text, sizeof(text));
        out.fds = mine;
        out.fds_count = count;
        in.fds = theirs;
        in.fds_max = NETKIT_FDS_MAX;
        CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
        CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 3);
        CHECK_MEM(text, "abc", 3);
        CHECK_EQ(in.fds_count, count);
        CHECK(!in.is_cut && !in.is_fds_cut && !in.is_control_cut);
        CHECK_EQ(in.control_len, 0);
        for (size_t k = 0; k < count; k++) {
            CHECK(message_is_cloexec(theirs[k]));
            CHECK_EQ(message_which(theirs[k]), k);
        }
        message_close_all(theirs, count);
        message_close(s);
    }
    message_close_all(mine, NETKIT_FDS_MAX);
}

/* X-04 IO11: what there is no room for is closed and said; bytes and the next message are whole. */
NKT_TEST(message_excess_is_closed) {
    uintptr_t mine[64], theirs[64];
    netkit_socket s[2];
    netkit_span span;
    netkit_room room;
    char text[8];
    message_pair(s, NETKIT_SOCK_DGRAM);
    for (int k = 0; k < 64; k++) {
        mine[k] = (uintptr_t)message_file(k);
    }
    int fds = nkt_open_fds();
    for (size_t max = 0; max <= 64; max += 16) {
        netkit_message_out out = message_out(&span, "abc", 3);
        netkit_message_in in = message_in(&room, text, sizeof(text));
        out.fds = mine;
        out.fds_count = 64;
        in.fds = max != 0 ? theirs : NULL;
        in.fds_max = max;
        CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
        CHECK_EQ(netkit_socket_send(s[0], "next", 4), 4);
        CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 3);
        CHECK_EQ(in.fds_count, max);
        CHECK_EQ(in.is_fds_cut, max < 64);
        CHECK_EQ(nkt_open_fds(), fds + (int)max);
        for (size_t k = 0; k < max; k++) {
            CHECK_EQ(message_which(theirs[k]), k);
        }
        message_close_all(theirs, max);
        CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 4);
        CHECK(in.fds_count == 0 && !in.is_fds_cut);
        /* Plain receiving is no leak either. */
        CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
        CHECK_EQ(netkit_socket_recv(s[1], text, sizeof(text)), 3);
        CHECK_EQ(nkt_open_fds(), fds);
    }
    message_close_all(mine, 64);
    message_close(s);
}

/* X-04 IO11: with a full table of descriptors those that fit come, the loss is said, none leaks,
 * and when there is room again the next message is whole. */
NKT_TEST(message_full_table) {
    uintptr_t mine[64], theirs[64];
    netkit_socket s[2];
    netkit_span span;
    netkit_room room;
    char text[8];
    message_pair(s, NETKIT_SOCK_STREAM);
    for (int k = 0; k < 64; k++) {
        mine[k] = (uintptr_t)message_file(k);
    }
    int fds = nkt_open_fds();
    for (int spare = 0; spare <= 64; spare += 8) {
        netkit_message_out out = message_out(&span, "abc", 3);
        netkit_message_in in = message_in(&room, text, sizeof(text));
        out.fds = mine;
        out.fds_count = 64;
        in.fds = theirs;
        in.fds_max = 64;
        CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
        CHECK(nkt_spare_descriptors(spare));
        int rc = netkit_socket_recv_msg(s[1], &in);
        CHECK(nkt_spare_descriptors(-1));
        CHECK_EQ(rc, 3);
        CHECK_EQ(in.fds_count, spare);
        CHECK_EQ(in.is_fds_cut, spare < 64);
        CHECK_EQ(nkt_open_fds(), fds + spare);
        for (int k = 0; k < spare; k++) {
            CHECK_EQ(message_which(theirs[k]), k);
            CHECK(message_is_cloexec(theirs[k]));
        }
        message_close_all(theirs, (size_t)spare);
        CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
        CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 3);
        CHECK(in.fds_count == 64 && !in.is_fds_cut);
        message_close_all(theirs, 64);
        CHECK_EQ(nkt_open_fds(), fds);
    }
    message_close_all(mine, 64);
    message_close(s);
}

/* IO10 IO11 X-05: on a stream descriptors come no later than the first byte they were sent with,
 * each message's with its own, however small the reads are; the end is the end. */
NKT_TEST(message_descriptors_in_a_stream) {
    uintptr_t mine[3], theirs[8];
    netkit_socket s[2];
    netkit_span span;
    netkit_room room;
    char text[64];
    message_pair(s, NETKIT_SOCK_STREAM);
    for (int k = 0; k < 3; k++) {
        mine[k] = (uintptr_t)message_file(k);
        CHECK_EQ(netkit_socket_send(s[0], "....", 4), 4);
        netkit_message_out out = message_out(&span, "!+++", 4);
        out.fds = &mine[k];
        out.fds_count = 1;
        CHECK_EQ(netkit_socket_send_msg(s[0], &out), 4);
    }
    CHECK_OK(netkit_socket_shutdown(s[0], NETKIT_SHUT_WRITE));
    int taken = 0, marks = 0, bytes = 0;
    for (;;) {
        netkit_message_in in = message_in(&room, text, 3);
        in.fds = theirs;
        in.fds_max = 8;
        int rc = netkit_socket_recv_msg(s[1], &in);
        if (rc < 0) {
            CHECK_ERR(rc, NETKIT_E_EOF);
            CHECK_EQ(in.fds_count, 0);
            break;
        }
        for (size_t k = 0; k < in.fds_count; k++) {
            CHECK_EQ(message_which(theirs[k]), taken++);
        }
        message_close_all(theirs, in.fds_count);
        for (int k = 0; k < rc; k++) {
            marks += text[k] == '!';
        }
        CHECK(marks <= taken);
        CHECK_EQ(in.from.family == NETKIT_AF_IPV4, false);
        bytes += rc;
    }
    CHECK(taken == 3 && marks == 3 && bytes == 24);
    message_close_all(mine, 3);
    message_close(s);
}

/* IO10 ER07: what cannot be sent is refused before anything has gone. */
NKT_TEST(message_refusals) {
    uintptr_t fds[NETKIT_FDS_MAX + 1], wrong = UINTPTR_MAX, closed;
    char control[NETKIT_CONTROL_MAX + 1];
    netkit_socket s[2], none = {0}, tcp;
    netkit_span span, bad;
    netkit_room room;
    char text[8];
    memset(control, 0, sizeof(control));
    message_pair(s, NETKIT_SOCK_STREAM);
    for (int i = 0; i <= NETKIT_FDS_MAX; i++) {
        fds[i] = netkit_socket_native(s[0]);
    }
    netkit_message_out good = message_out(&span, "abc", 3), out;
    CHECK_ERR(netkit_socket_send_msg(none, &good), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_send_msg(s[0], NULL), NETKIT_E_INVALID);
    out = good;
    out.spans_count = NETKIT_SPANS_MAX + 1;
    out.spans = NULL;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_INVALID);
    out = message_out(&bad, NULL, 3);
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_INVALID);
    out = good;
    out.fds_count = 1;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_INVALID);
    out.fds = &wrong;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_INVALID);
    closed = (uintptr_t)message_file(0);
    CHECK_EQ(close((int)closed), 0);
    out.fds = &closed;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_INVALID);
    out.fds = fds;
    out.fds_count = NETKIT_FDS_MAX + 1;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_TOOBIG);
    out = good;
    out.control_len = sizeof(control);
    out.control = control;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_TOOBIG);
    out = message_out(&bad, "", 0); /* on a stream they would be lost */
    out.fds = fds;
    out.fds_count = 1;
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_INVALID);
    CHECK_OK(netkit_socket_open(&tcp, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK(netkit_socket_send_msg(tcp, &good) < 0);
    CHECK_OK(netkit_socket_close(&tcp));
    netkit_message_in in = message_in(&room, text, sizeof(text));
    CHECK_ERR(netkit_socket_recv_msg(s[1], &in), NETKIT_E_AGAIN); /* nothing of that has gone */
    CHECK(in.fds_count == 0 && in.control_len == 0 && !in.is_cut && !in.is_fds_cut);
    CHECK(in.sender.pid == -1 && in.sender.uid == -1 && in.from.family == NETKIT_AF_NONE);
    in.fds_max = 1;
    CHECK_ERR(netkit_socket_recv_msg(s[1], &in), NETKIT_E_INVALID);
    in = message_in(&room, NULL, 5);
    CHECK_ERR(netkit_socket_recv_msg(s[1], &in), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_msg(s[1], NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_msg(none, &in), NETKIT_E_INVALID);
    message_close(s);
}

/* IO11 ER01: too many descriptors on their way are the process being short of them, for now. */
NKT_TEST(message_too_many_references) {
    netkit_socket s[2];
    netkit_span span;
    message_pair(s, NETKIT_SOCK_STREAM);
    netkit_message_out out = message_out(&span, "abc", 3);
    nkt_fault_at("sendmsg", 1, ETOOMANYREFS, false);
    CHECK_ERR(netkit_socket_send_msg(s[0], &out), NETKIT_E_MFILE);
    nkt_fault_clear();
    CHECK(netkit_error_is_retryable(NETKIT_E_MFILE));
    message_close(s);
}

/* ---- datagrams ----------------------------------------------------------------------- */

/* X-05 IO10: unix datagrams keep their bounds, say who sent them, and can be answered; an
 * empty one is one, with descriptors too; a long one is cut and the next is whole. */
NKT_TEST(message_unix_datagrams) {
    netkit_socket server, client;
    netkit_addr at, from;
    netkit_span span;
    netkit_room room;
    char text[8];
    uintptr_t fd, got;
    CHECK_OK(netkit_unix_temp_path(&at, nkt_folder));
    CHECK_OK(netkit_unix_temp_path(&from, nkt_folder));
    CHECK_OK(netkit_socket_open(&server, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_open(&client, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(server, &at, 0));
    CHECK_OK(netkit_socket_bind(client, &from, 0));
    fd = (uintptr_t)message_file(7);
    static const char *const sent[] = {"abc", "", "0123456789", "de"};
    for (int i = 0; i < 4; i++) {
        netkit_message_out out = message_out(&span, sent[i], strlen(sent[i]));
        out.to = &at;
        out.fds = &fd;
        out.fds_count = i == 1;
        CHECK_EQ(netkit_socket_send_msg(client, &out), strlen(sent[i]));
    }
    for (int i = 0; i < 4; i++) {
        size_t len = strlen(sent[i]) < sizeof(text) ? strlen(sent[i]) : sizeof(text);
        netkit_message_in in = message_in(&room, text, sizeof(text));
        in.fds = &got;
        in.fds_max = 1;
        CHECK_EQ(netkit_socket_recv_msg(server, &in), len);
        CHECK_MEM(text, sent[i], len);
        CHECK_EQ(in.is_cut, i == 2);
        CHECK_EQ(in.fds_count, i == 1);
        CHECK(netkit_addr_equal(&in.from, &from));
        if (i == 1) {
            CHECK_EQ(message_which(got), 7);
            CHECK_EQ(close((int)got), 0);
        }
        netkit_message_out out = message_out(&span, "re", 2);
        out.to = &in.from;
        CHECK_EQ(netkit_socket_send_msg(server, &out), 2);
        CHECK_EQ(netkit_socket_recv(client, text, sizeof(text)), 2);
    }
    CHECK_OK(netkit_socket_connect(client, &at, 0));
    CHECK_EQ(netkit_socket_send(client, "x", 1), 1);
    CHECK_EQ(netkit_socket_recv(server, text, sizeof(text)), 1);
    CHECK_EQ(close((int)fd), 0);
    CHECK_OK(netkit_socket_close(&server));
    CHECK_ERR(netkit_socket_send(client, "x", 1), NETKIT_E_REFUSED);
    CHECK_OK(netkit_socket_close(&client));
}
#endif /* NKI_POSIX */

/* IO10: the address of a UDP datagram comes with it, and an empty one is one. */
NKT_TEST(message_udp_addresses) {
    netkit_socket a, b;
    netkit_addr at, from;
    netkit_span span;
    netkit_room room;
    char text[8];
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_open(&a, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_open(&b, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(a, &at, 0));
    CHECK_OK(netkit_socket_bind(b, &at, 0));
    CHECK_OK(netkit_socket_local(a, &at));
    CHECK_OK(netkit_socket_local(b, &from));
    for (size_t len = 0; len < 3; len++) {
        netkit_message_out out = message_out(&span, "ab", len);
        netkit_message_in in = message_in(&room, text, sizeof(text));
        out.to = &at;
        CHECK_EQ(netkit_socket_send_msg(b, &out), len);
        CHECK(netkit_socket_wait(a, NETKIT_POLL_READ, 5000) > 0);
        CHECK_EQ(netkit_socket_recv_msg(a, &in), len);
        CHECK(netkit_addr_equal(&in.from, &from));
    }
    CHECK_OK(netkit_socket_close(&a));
    CHECK_OK(netkit_socket_close(&b));
}

#if defined(__linux__)
/* IO10 UX07 X-05: each message tells who sent it, when that is asked for. */
NKT_TEST(message_credentials) {
    netkit_socket s[2];
    netkit_span span;
    netkit_room room;
    char text[8];
    uintptr_t fd = (uintptr_t)message_file(3), got;
    for (int type = 0; type < 2; type++) {
        message_pair(s, type);
        CHECK_OK(netkit_socket_set(s[1], NETKIT_OPT_CREDENTIALS, 1));
        for (int i = 0; i < 2; i++) {
            netkit_message_out out = message_out(&span, "abc", 3);
            netkit_message_in in = message_in(&room, text, sizeof(text));
            out.fds = &fd;
            out.fds_count = 1;
            in.fds = &got;
            in.fds_max = 1;
            CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
            CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 3);
            CHECK_EQ(in.fds_count, 1);
            CHECK_EQ(message_which(got), 3);
            CHECK_EQ(close((int)got), 0);
            CHECK_EQ(in.sender.pid, i == 0 ? getpid() : -1);
            CHECK_EQ(in.sender.uid, i == 0 ? (int64_t)geteuid() : -1);
            CHECK_EQ(in.sender.gid, i == 0 ? (int64_t)getegid() : -1);
            CHECK(!in.is_control_cut && in.control_len == 0);
            CHECK_OK(netkit_socket_set(s[1], NETKIT_OPT_CREDENTIALS, 0));
        }
        message_close(s);
    }
    CHECK_EQ(close((int)fd), 0);
}

/* IO10: other ancillary data passes as the system lays it out: a time stamp in, descriptors made
 * by hand out; without room for it that is said. */
NKT_TEST(message_other_control) {
    union {
        struct cmsghdr head;
        char bytes[256];
    } control;
    netkit_socket s[2];
    netkit_span span;
    netkit_room room;
    char text[8];
    int on = 1;
    uintptr_t got;
    message_pair(s, NETKIT_SOCK_DGRAM);
    CHECK_EQ(setsockopt((int)netkit_socket_native(s[1]), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)),
             0);
    for (int i = 0; i < 2; i++) {
        netkit_message_in in = message_in(&room, text, sizeof(text));
        in.control = &control;
        in.control_max = i == 0 ? sizeof(control) : 10;
        CHECK_EQ(netkit_socket_send(s[0], "abc", 3), 3);
        CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 3);
        CHECK_EQ(in.is_control_cut, i == 1);
        CHECK_EQ(in.control_len, i == 0 ? CMSG_SPACE(sizeof(struct timeval)) : 0);
        if (i == 0) {
            struct timeval time;
            CHECK_EQ(control.head.cmsg_level, SOL_SOCKET);
            CHECK_EQ(control.head.cmsg_type, SCM_TIMESTAMP);
            memcpy(&time, CMSG_DATA(&control.head), sizeof(time));
            CHECK(time.tv_sec > 1600000000);
        }
    }
    netkit_message_out out = message_out(&span, "abc", 3);
    netkit_message_in in = message_in(&room, text, sizeof(text));
    int fd = message_file(9);
    memset(&control, 0, sizeof(control));
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof(fd));
    memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    out.control = &control;
    out.control_len = CMSG_SPACE(sizeof(fd));
    in.fds = &got;
    in.fds_max = 1;
    CHECK_EQ(netkit_socket_send_msg(s[0], &out), 3);
    CHECK_EQ(netkit_socket_recv_msg(s[1], &in), 3);
    CHECK(in.fds_count == 1 && !in.is_fds_cut);
    CHECK_EQ(message_which(got), 9);
    CHECK_EQ(close((int)got), 0);
    CHECK_EQ(close(fd), 0);
    message_close(s);
}
#endif

#if NKI_POSIX
/* Z-02 Z-04 IO11: each call of a handing-over fails once: an error and no descriptor more, or all of
 * it; a signal has no effect. */
NKT_TEST(message_every_call_fails) {
    static const int errors[] = {ENOMEM, EINTR};
    uintptr_t mine[2], theirs[2];
    mine[0] = (uintptr_t)message_file(0);
    mine[1] = (uintptr_t)message_file(1);
    for (int i = 0; i < 2; i++) {
        for (int n = 1, hits = 1; hits > 0; n++) {
            netkit_socket s[2];
            netkit_span span;
            netkit_room room;
            char text[8];
            message_pair(s, NETKIT_SOCK_DGRAM);
            netkit_message_out out = message_out(&span, "abc", 3);
            netkit_message_in in = message_in(&room, text, sizeof(text));
            out.fds = mine;
            out.fds_count = 2;
            in.fds = theirs;
            in.fds_max = 2;
            int fds = nkt_open_fds();
            nkt_fault_at(NULL, (uint64_t)n, errors[i], false);
            int rc = netkit_socket_send_msg(s[0], &out);
            rc = rc < 0 ? rc : netkit_socket_recv_msg(s[1], &in);
            hits = (int)nkt_faults();
            nkt_fault_clear();
            CHECK(rc == 3 || (hits > 0 && errors[i] != EINTR));
            CHECK_EQ(nkt_open_fds(), fds + (rc == 3 ? 2 : 0));
            CHECK(rc < 0 || in.fds_count == 2);
            message_close_all(theirs, rc == 3 ? 2 : 0);
            message_close(s);
        }
    }
    message_close_all(mine, 2);
}
#endif /* NKI_POSIX */

/* ---- many pieces ---------------------------------------------------------------------- */

enum {
    MESSAGE_PIECES = 3000
};

typedef struct message_pieces {
    netkit_span spans[MESSAGE_PIECES];
    netkit_room rooms[MESSAGE_PIECES];
    unsigned char *sent, *got;
    size_t len;
} message_pieces;

/* Pieces of random lengths, every fifth one empty; the receiver's are cut elsewhere. */
static void message_cut(message_pieces *p) {
    p->len = 0;
    for (int i = 0; i < MESSAGE_PIECES; i++) {
        p->spans[i].len = i % 5 == 0 ? 0 : (size_t)(nkt_random() % 900);
        p->len += p->spans[i].len;
    }
    p->sent = (unsigned char *)malloc(p->len);
    p->got = (unsigned char *)calloc(1, p->len);
    CHECK(p->sent != NULL && p->got != NULL);
    size_t at = 0, to = 0;
    for (int i = 0; i < MESSAGE_PIECES; i++) {
        p->spans[i].data = p->spans[i].len != 0 ? p->sent + at : NULL;
        at += p->spans[i].len;
        size_t len = i == MESSAGE_PIECES - 1 ? p->len - to : (size_t)(nkt_random() % 700);
        p->rooms[i].len = len < p->len - to ? len : p->len - to;
        p->rooms[i].data = p->got + to;
        to += p->rooms[i].len;
    }
    CHECK(at == p->len && to == p->len);
    for (size_t i = 0; i < p->len; i++) {
        p->sent[i] = (unsigned char)(i * 31 + (i >> 9));
    }
}

static netkit_socket message_reader;

static void *message_receive(void *user) {
    message_pieces *p = (message_pieces *)user;
    size_t done = 0;
    CHECK_OK(netkit_socket_recvv_all(message_reader, p->rooms, MESSAGE_PIECES, 5000, &done));
    CHECK_EQ(done, p->len);
    return NULL;
}

/* IO06 IO02: 3,000 pieces go and come in order, far more than one call takes, blocking or not,
 * through a socket that holds a part of them, in transfers of any length. */
NKT_TEST(message_all_pieces) {
    for (int i = 0; i < 4; i++) {
        message_pieces *p = (message_pieces *)calloc(1, sizeof(*p));
        netkit_socket s[2];
        pthread_t reader;
        size_t done = 0;
        CHECK(p != NULL);
        message_cut(p);
        CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, i % 2 ? NETKIT_SOCKET_BLOCKING : 0));
        if (i >= 2) {
            nkt_clip_random("sendmsg", 5000);
        }
        message_reader = s[1];
        CHECK_EQ(pthread_create(&reader, NULL, message_receive, p), 0);
        CHECK_OK(netkit_socket_sendv_all(s[0], p->spans, MESSAGE_PIECES, 5000, &done));
        CHECK_EQ(done, p->len);
        CHECK_EQ(pthread_join(reader, NULL), 0);
        nkt_fault_clear();
        CHECK_MEM(p->got, p->sent, p->len);
        message_close(s);
        free(p->sent);
        free(p->got);
        free(p);
    }
}

/* IO06 IO02: a time limit ends both directions and tells how much moved; so does the end of the
 * stream; nothing to move is done at once. */
NKT_TEST(message_all_by_a_time) {
    static unsigned char data[2000000], back[2000000];
    netkit_socket s[2], none = {0};
    netkit_span spans[3] = {{data, 100}, {NULL, 0}, {data, sizeof(data)}};
    netkit_room rooms[3] = {{back, 100}, {NULL, 0}, {back, sizeof(back)}};
    netkit_room small[2] = {{back, 5}, {back + 5, 5}};
    size_t done = 77;
    message_pair(s, NETKIT_SOCK_STREAM);
    CHECK_OK(netkit_socket_set(s[0], NETKIT_OPT_SEND_BUFFER, 65536));
    CHECK_OK(netkit_socket_set(s[1], NETKIT_OPT_RECV_BUFFER, 65536));
    CHECK_OK(netkit_socket_sendv_all(s[0], spans, 2, 0, &done));
    CHECK_EQ(done, 100);
    CHECK_ERR(netkit_socket_recvv_all(s[1], rooms, 3, 20, &done), NETKIT_E_TIMEOUT);
    CHECK_EQ(done, 100);
    CHECK_ERR(netkit_socket_sendv_all(s[0], spans, 3, 20, &done), NETKIT_E_TIMEOUT);
    CHECK(done > 0 && done < 100 + sizeof(data));
    size_t sent = done;
    CHECK_OK(netkit_socket_shutdown(s[0], NETKIT_SHUT_WRITE));
    CHECK_ERR(netkit_socket_recvv_all(s[1], rooms, 3, 5000, &done), NETKIT_E_EOF);
    CHECK_EQ(done, sent);
    CHECK_ERR(netkit_socket_sendv_all(s[0], spans, 3, 20, NULL), NETKIT_E_RESET);
    CHECK_OK(netkit_socket_recvv_all(s[1], rooms, 0, 0, &done));
    CHECK_EQ(done, 0);
    CHECK_OK(netkit_socket_sendv_all(s[0], NULL, 0, 0, &done));
    CHECK_ERR(netkit_socket_sendv_all(s[0], NULL, 1, 0, &done), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recvv_all(none, rooms, 1, 0, &done), NETKIT_E_INVALID);
    CHECK_EQ(done, 0);
    rooms[0].data = NULL;
    CHECK_ERR(netkit_socket_recvv(s[1], rooms, 1), NETKIT_E_INVALID);
    netkit_room many[NETKIT_SPANS_MAX + 1];
    memset(many, 0, sizeof(many));
    many[0].data = back;
    many[0].len = 1;
    CHECK_ERR(netkit_socket_recvv(s[1], many, NETKIT_SPANS_MAX + 1), NETKIT_E_INVALID);
    message_close(s);
    message_pair(s, NETKIT_SOCK_DGRAM);
    CHECK_ERR(netkit_socket_recvv(s[1], small, 2), NETKIT_E_AGAIN);
    CHECK_EQ(netkit_socket_send(s[0], "0123456", 7), 7);
    CHECK_EQ(netkit_socket_recvv(s[1], small, 2), 7);
    CHECK_MEM(back, "0123456", 7);
    CHECK_EQ(netkit_socket_send(s[0], "", 0), 0);
    CHECK_EQ(netkit_socket_recvv(s[1], small, 2), 0);
    CHECK_EQ(netkit_socket_recvv(s[1], small, 0), 0);
    message_close(s);
}
