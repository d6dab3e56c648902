/* The scenarios of the fault tests: what a program does with the library, in small. Each is
 * complete when everything came out as it does without a fault. */

static void scenario_create(void) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.ext_size = 100;
    torture.is_complete = torture_loop_with(&desc);
}

/* Listen, accept, dial, echo, graceful close on both sides. */
static void scenario_echo_at(const char *address) {
    torture.client.total = 3000;
    torture.client.piece = 1000;
    if (torture_echo_pair(address, &torture.client)) {
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_well(2) && torture.client.got == 3000;
    }
}

static void scenario_echo(void) {
    if (torture_loop()) {
        scenario_echo_at("127.0.0.1:0");
    }
}

static void scenario_pull(void) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.pull = true;
    torture.is_pull = true;
    if (torture_loop_with(&desc)) {
        scenario_echo_at("127.0.0.1:0");
    }
}

#if NKI_POSIX
static void scenario_unix(void) {
    char address[160] = "unix:";
    nkt_temp_path(address + 5, sizeof(address) - 5);
    if (torture_loop()) {
        scenario_echo_at(address);
    }
    unlink(address + 5);
}

/* ---- descriptors over a unix conn ---------------------------------------------------- */

static struct { int taken, answers; } scenario_pass_count;

static size_t scenario_pass_take(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    (void)data;
    (void)user;
    torture_alive(conn);
    for (size_t i = 0; i < 2 * len; i++) {
        uintptr_t fd;
        CHECK_OK(netkit_conn_take_fd(loop, conn, &fd)); /* before their byte is shown */
        CHECK_EQ(close((int)fd), 0);
        scenario_pass_count.taken++;
    }
    torture_told(netkit_conn_send(loop, conn, "yyyy", len));
    return len;
}

static void scenario_pass_open(netkit_loop *loop, netkit_conn conn, void *user) {
    uintptr_t fds[2] = {STDOUT_FILENO, STDOUT_FILENO};
    torture_on_open(loop, conn, user);
    for (int i = 0; i < 3; i++) {
        if (!torture_told(netkit_conn_send_fds(loop, conn, "x", 1, fds, 2))) {
            CHECK_OK(netkit_conn_abort(loop, conn)); /* it would wait for ever */
            return;
        }
    }
}

static size_t scenario_pass_answer(netkit_loop *loop, netkit_conn conn, const void *data,
                                   size_t len, void *user) {
    (void)data;
    (void)user;
    torture_alive(conn);
    scenario_pass_count.answers += (int)len;
    if (scenario_pass_count.answers == 3) {
        torture_told(netkit_conn_close(loop, conn));
    }
    return len;
}

/* A stale file is replaced, with a mode; each byte brings two descriptors. */
static void scenario_pass(void) {
    char address[160] = "unix:";
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_addr addr;
    nkt_temp_path(address + 5, sizeof(address) - 5);
    CHECK_EQ(mknod(address + 5, S_IFSOCK | 0600, 0), 0);
    memset(&scenario_pass_count, 0, sizeof(scenario_pass_count));
    memset(&listen, 0, sizeof(listen));
    memset(&connect, 0, sizeof(connect));
    listen.address = address;
    listen.unix_replace = true;
    listen.unix_mode = 0666;
    listen.handler = torture_server_handler();
    listen.handler.on_data = scenario_pass_take;
    listen.conn.fds_max = 8;
    listen.conn.recv_buffer = 20000;
    connect.address = address;
    connect.handler = torture_server_handler();
    connect.handler.on_open = scenario_pass_open;
    connect.handler.on_data = scenario_pass_answer;
    if (torture_loop() && torture_listen(&listen, &addr) && torture_connect(&connect, NULL)) {
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_well(2) && scenario_pass_count.taken == 6 &&
                              scenario_pass_count.answers == 3;
    }
    unlink(address + 5);
}
#endif /* NKI_POSIX */

/* ---- dialling that fails --------------------------------------------------------- */

/* A port nobody listens on: bound, so that nobody else gets it. */
static void scenario_refused(void) {
    struct sockaddr_in in;
    socklen_t len = sizeof(in);
    netkit_connect_desc desc;
    char address[64];
    int fd = torture_own(socket(AF_INET, SOCK_STREAM, 0));
    memset(&in, 0, sizeof(in));
    memset(&desc, 0, sizeof(desc));
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(fd, (struct sockaddr *)(void *)&in, len) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)(void *)&in, &len) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%d", ntohs(in.sin_port));
    desc.address = address;
    desc.handler = torture_client_handler();
    desc.user = &torture.client;
    if (torture_loop() && torture_connect(&desc, NULL)) {
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_closed() &&
                              torture.conns[0].info.code == NETKIT_E_REFUSED &&
                              torture.conns[0].info.op == NETKIT_OP_CONNECT;
    }
}

/* A listener whose backlog is full lets further dials wait: Linux drops their SYN. */
static void scenario_timeout(void) {
    struct sockaddr_in in;
    socklen_t len = sizeof(in);
    netkit_connect_desc desc;
    char address[64];
    int fd = torture_own(socket(AF_INET, SOCK_STREAM, 0));
    memset(&in, 0, sizeof(in));
    memset(&desc, 0, sizeof(desc));
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(fd, (struct sockaddr *)(void *)&in, len) == 0 && listen(fd, 0) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)(void *)&in, &len) == 0);
    for (int i = 0; i < 3; i++) {
        int filler = torture_own(socket(AF_INET, SOCK_STREAM, 0));
        CHECK(fcntl(filler, F_SETFL, O_NONBLOCK) == 0);
        CHECK(connect(filler, (struct sockaddr *)(void *)&in, len) == 0 || errno == EINPROGRESS);
    }
    snprintf(address, sizeof(address), "127.0.0.1:%d", ntohs(in.sin_port));
    desc.address = address;
    desc.timeout_ms = 5;
    desc.handler = torture_client_handler();
    desc.user = &torture.client;
    if (torture_loop() && torture_connect(&desc, NULL)) {
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_closed() &&
                              torture.conns[0].info.code == NETKIT_E_TIMEOUT &&
                              torture.conns[0].info.op == NETKIT_OP_CONNECT;
    }
}

/* ---- a lot to a slow reader -------------------------------------------------------- */

static struct {
    uint64_t total, sent, read;
    int reader;
} scenario_slow;

/* As a program does it: as much as fits, the rest when on_drain says so. */
static void scenario_slow_more(netkit_loop *loop, netkit_conn conn, void *user) {
    static unsigned char piece[50000];
    torture_alive(conn);
    while (scenario_slow.sent < scenario_slow.total) {
        uint64_t left = scenario_slow.total - scenario_slow.sent;
        size_t len = left < sizeof(piece) ? (size_t)left : sizeof(piece);
        torture_fill(piece, scenario_slow.sent, len);
        int rc = netkit_conn_send(loop, conn, piece, len);
        if (!torture_told(rc)) {
            return;
        }
        scenario_slow.sent += len;
    }
    torture_told(netkit_conn_close(loop, conn));
    (void)user;
}

static void scenario_slow_open(netkit_loop *loop, netkit_conn conn, void *user) {
    torture_on_open(loop, conn, user);
    scenario_slow_more(loop, conn, user);
}

static void scenario_slow_read(void) {
    static unsigned char bytes[100000];
    ssize_t got = recv(scenario_slow.reader, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got > 0) {
        torture.events++;
        torture_compare(bytes, scenario_slow.read, (size_t)got);
        scenario_slow.read += (uint64_t)got;
    } else if (got == 0 || errno != EAGAIN) {
        shutdown(scenario_slow.reader, SHUT_WR);
    }
}

static void scenario_big_write(void) {
    netkit_adopt_desc desc;
    netkit_conn conn;
    int pair[2];
    memset(&desc, 0, sizeof(desc));
    memset(&scenario_slow, 0, sizeof(scenario_slow));
    scenario_slow.total = nkt_scale(8u << 20, 2u << 20);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    scenario_slow.reader = torture_own(pair[0]);
    desc.socket = netkit_socket_from_native((uintptr_t)pair[1]);
    desc.handler = torture_server_handler();
    desc.handler.on_open = scenario_slow_open;
    desc.handler.on_drain = scenario_slow_more;
    if (!torture_loop() || !torture_told(netkit_adopt(torture.loop, &desc, &conn))) {
        torture_own(pair[1]);
        return;
    }
    torture_know(conn);
    torture.peer = scenario_slow_read;
    torture_drive(torture_all_closed);
    torture.is_complete = torture_all_well(1) && scenario_slow.read == scenario_slow.total;
}

/* ---- lent and gathered ---------------------------------------------------------------- */

static unsigned char scenario_lent[300000];

/* Copied, lent, gathered and lent again, in the order of one stream. */
static void scenario_lend_open(netkit_loop *loop, netkit_conn conn, void *user) {
    torture_client *client = (torture_client *)user;
    netkit_span spans[3];
    size_t at = 1000;
    torture_on_open(loop, conn, user);
    if (!torture_told(netkit_conn_send(loop, conn, scenario_lent, at))) {
        return;
    }
    for (int i = 0; i < 20; i++, at += 10000) {
        if (torture_lend(conn, scenario_lent + at, 10000) != NETKIT_OK) {
            CHECK_OK(netkit_conn_abort(loop, conn)); /* the conn would live on */
            return;
        }
    }
    for (size_t i = 0; i < 3; i++, at += 20000) {
        spans[i].data = scenario_lent + at;
        spans[i].len = 20000;
    }
    if (torture_told(netkit_conn_sendv(loop, conn, spans, 3)) &&
        torture_lend(conn, scenario_lent + at, sizeof(scenario_lent) - at) == NETKIT_OK) {
        client->sent = sizeof(scenario_lent);
        torture_told(netkit_conn_shutdown(loop, conn));
    } else {
        CHECK_OK(netkit_conn_abort(loop, conn));
    }
}

static size_t scenario_lend_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    torture_client *client = (torture_client *)user;
    (void)loop;
    torture_alive(conn);
    torture_compare(data, client->got, len);
    client->got += len;
    return len;
}

static void scenario_borrowed(void) {
    netkit_loop_desc desc;
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_addr addr;
    memset(&listen, 0, sizeof(listen));
    memset(&connect, 0, sizeof(connect));
    torture_fill(scenario_lent, 0, sizeof(scenario_lent));
    memset(&desc, 0, sizeof(desc));
    desc.ring_zerocopy_min = 10000;
    listen.address = "127.0.0.1:0";
    listen.handler = torture_server_handler();
    if (!torture_loop_with(&desc) || !torture_listen(&listen, &addr)) {
        return;
    }
    connect.addr = &addr;
    connect.user = &torture.client;
    connect.handler = torture_server_handler();
    connect.handler.on_open = scenario_lend_open;
    connect.handler.on_data = scenario_lend_data;
    if (torture_connect(&connect, NULL)) {
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_well(2) && torture.loan_count == 21 &&
                              torture.client.got == sizeof(scenario_lent);
    }
}

/* ---- rests, keeping, pausing -------------------------------------------------------------- */

/* Frames of 700 bytes: what is no whole frame stays unread; every third span is kept. */
static size_t scenario_frames(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                              void *user) {
    size_t used = len - len % 700;
    torture_alive(conn);
    if (torture.events % 3 == 0 && torture.buf_count < TORTURE_BUFS) {
        netkit_buf *buf = &torture.bufs[torture.buf_count];
        int rc = netkit_conn_keep(loop, conn, buf);
        if (torture_told(rc)) {
            CHECK_EQ(buf->len, len);
            CHECK_MEM(buf->data, data, len);
            torture.buf_count++;
        }
        if (torture.buf_count % 2 == 1) {
            netkit_buf_release(&torture.bufs[torture.buf_count - 1]);
        }
    }
    if (torture.events % 2 == 0) {
        torture_told(netkit_conn_pause(loop, conn));
        torture_told(netkit_conn_resume(loop, conn));
    }
    (void)user;
    if (used == 0 || !torture_told(netkit_conn_send(loop, conn, data, used))) {
        return 0;
    }
    return used;
}

static void scenario_rests(void) {
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_addr addr;
    memset(&listen, 0, sizeof(listen));
    memset(&connect, 0, sizeof(connect));
    listen.address = "127.0.0.1:0";
    listen.handler = torture_server_handler();
    listen.handler.on_data = scenario_frames;
    torture.client.total = 28000;
    torture.client.piece = 4000;
    if (!torture_loop() || !torture_listen(&listen, &addr)) {
        return;
    }
    connect.addr = &addr;
    connect.user = &torture.client;
    connect.handler = torture_client_handler();
    connect.handler.on_open = torture_on_open; /* the client writes all at once: see below */
    netkit_conn conn;
    if (torture_connect(&connect, &conn)) {
        for (int i = 0; i < 7; i++) {
            torture_client_send(torture.loop, conn, &torture.client);
        }
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_well(2) && torture.client.got == 28000;
    }
}

/* ---- timers, posts, watches ------------------------------------------------------------ */

static int scenario_fired, scenario_started;
static netkit_timer scenario_timer;

static void scenario_on_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    torture.events++;
    scenario_fired++;
    if (user != NULL) { /* the repeating one */
        if (scenario_fired > 20) {
            CHECK_OK(netkit_timer_stop(loop, timer));
        }
    } else if (scenario_fired < 10) {
        CHECK_OK(netkit_timer_restart(loop, timer, 100)); /* cannot fail */
    }
}

static bool scenario_timers_over(void) {
    return netkit_loop_references(torture.loop) == 0;
}

static void scenario_timers(void) {
    netkit_timer timer;
    uint64_t left;
    scenario_fired = scenario_started = 0;
    if (!torture_loop()) {
        return;
    }
    for (int i = 0; i < 40; i++) {
        int rc = netkit_timer_start(torture.loop, &timer, (uint64_t)i * 20, i == 39 ? 50 : 0,
                                    scenario_on_timer, i == 39 ? &scenario_timer : NULL);
        if (torture_told(rc)) {
            scenario_started++;
            CHECK_OK(netkit_timer_remaining(torture.loop, timer, &left));
        }
        if (rc == NETKIT_OK && i == 20) {
            CHECK_OK(netkit_timer_stop(torture.loop, timer));
        }
    }
    torture_drive(scenario_timers_over);
    CHECK(scenario_fired >= scenario_started - 1 || torture_seen() > 0);
    torture.is_complete = scenario_started == 40 && scenario_timers_over();
}

static void scenario_post_more(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    (void)user;
    torture.events++;
    for (int i = 0; i < 3; i++) {
        torture_post();
    }
}

static bool scenario_posts_over(void) {
    return torture.posts_run == torture.posts_taken && netkit_loop_references(torture.loop) == 0;
}

static void scenario_posts(void) {
    netkit_timer timer;
    if (!torture_loop()) {
        return;
    }
    for (int i = 0; i < 5; i++) {
        torture_post();
    }
    if (torture_told(netkit_timer_start(torture.loop, &timer, 100, 0, scenario_post_more, NULL))) {
        torture_drive(scenario_posts_over);
        torture.is_complete = torture.posts_run == 8;
    }
}

static int scenario_pipe[2], scenario_seen;
static bool scenario_is_stopped;

static void scenario_on_watch(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    char bytes[16];
    torture.events++;
    (void)user;
    if ((events & NETKIT_POLL_READ) != 0) {
        ssize_t got = read(scenario_pipe[0], bytes, 2);
        CHECK(got == 2);
        scenario_seen += 2;
        bool goes_on = scenario_seen < 10 && torture_told(netkit_watch_set(loop, watch, 0)) &&
                       torture_told(netkit_watch_set(loop, watch, NETKIT_POLL_READ));
        if (!goes_on) {
            CHECK_OK(netkit_watch_stop(loop, watch));
            scenario_is_stopped = true;
        }
    }
}

static bool scenario_watch_over(void) {
    return scenario_is_stopped;
}

static void scenario_watches(void) {
    netkit_watch watch;
    scenario_seen = 0;
    scenario_is_stopped = false;
    CHECK(pipe(scenario_pipe) == 0);
    torture_own(scenario_pipe[0]);
    torture_own(scenario_pipe[1]);
    CHECK(write(scenario_pipe[1], "0123456789", 10) == 10);
    if (!torture_loop() ||
        !torture_told(netkit_watch_start(torture.loop, &watch, (uintptr_t)scenario_pipe[0],
                                         NETKIT_POLL_READ, scenario_on_watch, NULL))) {
        return;
    }
    torture_drive(scenario_watch_over);
    torture.is_complete = scenario_seen == 10;
}

/* ---- adopting; changing conns as they run ---------------------------------------------- */

static netkit_handler scenario_second;

/* The first message is the old protocol's, and asks for the new one. */
static size_t scenario_upgrade(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                               void *user) {
    unsigned char *ext = (unsigned char *)netkit_conn_ext(loop, conn);
    torture_alive(conn);
    (void)data;
    CHECK(ext != NULL && ext[0] == 0 && ext[99] == 0);
    memset(ext, 1, 100);
    torture_told(netkit_conn_set_idle_timeout(loop, conn, 3000));
    torture_told(netkit_conn_set_deadline(loop, conn, 4000));
    if (!torture_told(netkit_conn_set_handler(loop, conn, &scenario_second, user))) {
        torture_told(netkit_conn_close(loop, conn));
        return len;
    }
    return 0; /* the new one gets it */
}

static void scenario_changes(void) {
    netkit_adopt_desc desc;
    netkit_conn conn;
    int pair[2];
    char bytes[700];
    memset(&desc, 0, sizeof(desc));
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    torture_own(pair[0]);
    torture_fill((unsigned char *)bytes, 0, sizeof(bytes));
    CHECK(send(pair[0], bytes, sizeof(bytes), 0) == (ssize_t)sizeof(bytes));
    shutdown(pair[0], SHUT_WR);
    scenario_second = torture_server_handler();
    desc.socket = netkit_socket_from_native((uintptr_t)pair[1]);
    desc.handler = torture_server_handler();
    desc.handler.on_data = scenario_upgrade;
    desc.conn.ext_size = 100;
    desc.conn.idle_timeout_ms = 4000;
    desc.conn.deadline_ms = 4500;
    desc.conn.rate_min = 1;
    if (!torture_loop() || !torture_told(netkit_adopt(torture.loop, &desc, &conn))) {
        torture_own(pair[1]);
        return;
    }
    torture_know(conn);
    torture_drive(torture_all_closed);
    torture.is_complete =
        torture_all_well(1) && recv(pair[0], bytes, sizeof(bytes), MSG_DONTWAIT) == sizeof(bytes);
}

/* ---- ends of all kinds ------------------------------------------------------------------ */

static int scenario_asked;

static int scenario_on_accept(netkit_loop *loop, netkit_listener l, const netkit_addr *peer,
                              void *user) {
    (void)user;
    torture.events++;
    CHECK_EQ(peer->family, NETKIT_AF_IPV4);
    if (++scenario_asked == 3) {
        CHECK_OK(netkit_listener_close(loop, l));
    }
    return scenario_asked == 2; /* the second is refused */
}

/* The server lends more than fits and is aborted by its client's first word. */
static size_t scenario_lend_and_abort(netkit_loop *loop, netkit_conn conn, const void *data,
                                      size_t len, void *user) {
    torture_alive(conn);
    (void)data;
    (void)user;
    for (int i = 0; i < 5; i++) {
        if (torture_lend(conn, scenario_lent, sizeof(scenario_lent)) != NETKIT_OK) {
            break;
        }
    }
    CHECK_OK(netkit_conn_abort(loop, conn));
    return len;
}

static void scenario_ends(void) {
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_addr addr;
    memset(&listen, 0, sizeof(listen));
    memset(&connect, 0, sizeof(connect));
    scenario_asked = 0;
    listen.address = "127.0.0.1:0";
    listen.on_accept = scenario_on_accept;
    listen.conns_max = 2;
    listen.handler = torture_server_handler();
    listen.handler.on_data = scenario_lend_and_abort;
    torture.client.total = 1000;
    torture.client.piece = 10;
    if (!torture_loop() || !torture_listen(&listen, &addr)) {
        return;
    }
    connect.addr = &addr;
    connect.user = &torture.client;
    connect.timeout_ms = 200;
    connect.conn.idle_timeout_ms = 200;
    connect.handler = torture_client_handler();
    connect.handler.on_data = NULL; /* what is lent is thrown away */
    if (torture_connect(&connect, NULL) && torture_connect(&connect, NULL) &&
        torture_connect(&connect, NULL)) {
        torture_drive(torture_all_closed);
        torture.is_complete = torture_all_closed() && scenario_asked == 3;
    }
}

/* ---- datagrams ------------------------------------------------------------------------- */

enum {
    SCENARIO_DATAGRAMS = 30,
    SCENARIO_SEGMENTS = 20
};

static struct {
    netkit_udp client, server;
    int opens, closes, came, echoed, quiet;
    uint64_t events;
} scenario_udp;

static void scenario_udp_error(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed,
                               void *user) {
    (void)loop;
    (void)udp;
    (void)user;
    torture.events++;
    CHECK(failed->error < 0);
    torture_told(failed->error);
}

static void scenario_udp_close(netkit_loop *loop, netkit_udp udp, const netkit_close_info *info,
                               void *user) {
    (void)loop;
    (void)udp;
    (void)user;
    torture.events++;
    CHECK(info->text != NULL);
    scenario_udp.closes++;
}

static void scenario_udp_serve(netkit_loop *loop, netkit_udp udp, const netkit_datagram *d,
                               void *user) {
    (void)user;
    torture.events++;
    scenario_udp.came++;
    torture_told(netkit_udp_reply(loop, udp, d, d->data, d->len));
    if (scenario_udp.came % 7 == 3) {
        CHECK_OK(netkit_udp_pause(loop, udp));
        CHECK_OK(netkit_udp_resume(loop, udp));
    }
}

static void scenario_udp_answer(netkit_loop *loop, netkit_udp udp, const netkit_datagram *d,
                                void *user) {
    (void)loop;
    (void)udp;
    (void)user;
    (void)d;
    torture.events++;
    scenario_udp.echoed++;
}

static bool scenario_udp_all(void) {
    return scenario_udp.echoed == SCENARIO_DATAGRAMS + SCENARIO_SEGMENTS;
}

/* When somebody was told of a loss, what is lost does not come: it is over when all is quiet. */
static bool scenario_udp_over(void) {
    bool is_quiet = torture.reports > 0 && torture.events == scenario_udp.events;
    scenario_udp.quiet = is_quiet ? scenario_udp.quiet + 1 : 0;
    scenario_udp.events = torture.events;
    return scenario_udp_all() || scenario_udp.quiet > 50;
}

static bool scenario_udp_closed(void) {
    return scenario_udp.closes == scenario_udp.opens;
}

static void scenario_udp_send(void) {
    static unsigned char data[1000 * SCENARIO_SEGMENTS];
    netkit_datagram d;
    memset(&d, 0, sizeof(d));
    for (size_t i = 0; i < SCENARIO_DATAGRAMS; i++) {
        torture_told(netkit_udp_send(torture.loop, scenario_udp.client, NULL, data, i * 10));
    }
    d.data = data;
    d.len = sizeof(data);
    d.segment_size = 1000;
    torture_told(netkit_udp_send_batch(torture.loop, scenario_udp.client, &d, 1));
}

static void scenario_datagrams(void) {
    netkit_udp_desc desc;
    netkit_addr addr;
    CHECK_EQ(scenario_udp.closes, scenario_udp.opens); /* of the run before, ended since then */
    memset(&scenario_udp, 0, sizeof(scenario_udp));
    memset(&desc, 0, sizeof(desc));
    desc.address = "127.0.0.1:0";
    desc.ext_size = 20;
    desc.gro = true;
    desc.tell_local = desc.tell_tos = desc.tell_ttl = desc.tell_time = true;
    desc.handler.on_datagram = scenario_udp_serve;
    desc.handler.on_error = scenario_udp_error;
    desc.handler.on_close = scenario_udp_close;
    if (!torture_loop() ||
        !torture_told(netkit_udp_open(torture.loop, &desc, &scenario_udp.server))) {
        return;
    }
    scenario_udp.opens++;
    if (!torture_told(netkit_udp_local(torture.loop, scenario_udp.server, &addr))) {
        return;
    }
    desc.address = NULL;
    desc.peer_addr = &addr;
    desc.handler.on_datagram = scenario_udp_answer;
    if (!torture_told(netkit_udp_open(torture.loop, &desc, &scenario_udp.client))) {
        return;
    }
    scenario_udp.opens++;
    scenario_udp_send();
    torture_drive(scenario_udp_over);
    CHECK_OK(netkit_udp_close(torture.loop, scenario_udp.client));
    CHECK_OK(netkit_udp_close(torture.loop, scenario_udp.server));
    torture_drive(scenario_udp_closed);
    torture.is_complete = scenario_udp_all() && scenario_udp_closed();
}

/* ---- without a loop -------------------------------------------------------------------- */

/* Both ends by hand, over a poller. */
static bool scenario_plain_talk(netkit_poller *poller, netkit_socket a, netkit_socket b) {
    netkit_poll_event events[4];
    char out[100], in[100];
    netkit_span spans[2];
    memset(out, 7, sizeof(out));
    if (!torture_told(netkit_poller_add(poller, netkit_socket_native(b), NETKIT_POLL_READ, 1))) {
        return false;
    }
    spans[0].data = out;
    spans[0].len = 40;
    spans[1].data = out + 40;
    spans[1].len = 60;
    if (!torture_told(netkit_socket_sendv(a, spans, 2)) ||
        !torture_told(netkit_poller_wait(poller, events, 4, 1000000)) ||
        !torture_told(netkit_socket_recv_all(b, in, 100, 1000, NULL)) ||
        !torture_told(netkit_socket_send_all(b, in, 100, 1000, NULL)) ||
        !torture_told(netkit_socket_wait(a, NETKIT_POLL_READ, 1000)) ||
        !torture_told(netkit_socket_recv_all(a, in, 100, 1000, NULL)) ||
        !torture_told(netkit_poller_remove(poller, netkit_socket_native(b))) ||
        !torture_told(netkit_socket_shutdown(a, NETKIT_SHUT_WRITE))) {
        return false;
    }
    CHECK_MEM(in, out, 100);
    return true;
}

static void scenario_plain(void) {
    netkit_poller_desc desc;
    netkit_poller *poller;
    netkit_socket listener, a, b;
    netkit_addr addr;
    memset(&desc, 0, sizeof(desc));
    /* The ring is no poller. */
    desc.backend = nkt_backend == NETKIT_BACKEND_URING ? NETKIT_BACKEND_EPOLL : nkt_backend;
    desc.allocator = nkt_allocator();
    listener.value = a.value = b.value = 0;
    CHECK_OK(netkit_addr_parse(&addr, "127.0.0.1:0", NULL));
    if (!torture_told(netkit_poller_create(&poller, &desc))) {
        return;
    }
    if (torture_told(netkit_poller_wake(poller)) &&
        torture_told(netkit_socket_listen_on(&listener, &addr, 0, 0)) &&
        torture_told(netkit_socket_local(listener, &addr)) &&
        torture_told(netkit_socket_open(&a, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0)) &&
        torture_told(netkit_socket_set(a, NETKIT_OPT_NODELAY, 1)) &&
        torture_told(netkit_socket_connect(a, &addr, 1000)) &&
        torture_told(netkit_socket_wait(listener, NETKIT_POLL_READ, 1000)) &&
        torture_told(netkit_socket_accept(listener, &b, NULL))) {
        torture.is_complete = scenario_plain_talk(poller, a, b);
    }
    torture_told(netkit_socket_close(&listener));
    torture_told(netkit_socket_close(&a));
    torture_told(netkit_socket_reset(&b));
    netkit_poller_destroy(poller);
}

static const torture_scenario scenarios[] = {
    {"create and destroy", scenario_create, false},
    {"listen, accept, echo, close", scenario_echo, false},
    {"dial a closed port", scenario_refused, true},
    {"dial in vain", scenario_timeout, true},
    {"much to a slow reader", scenario_big_write, true},
    {"lent and gathered sends", scenario_borrowed, false},
    {"rests, keep, pause", scenario_rests, false},
    {"timers", scenario_timers, false},
    {"posts", scenario_posts, false},
    {"watches", scenario_watches, true},
#if NKI_POSIX
    {"unix stream", scenario_unix, false},
    {"descriptors over a unix conn", scenario_pass, false},
#endif
    {"adopt, handler, ext, timeouts", scenario_changes, true},
    {"refusals and aborts", scenario_ends, false},
    {"pull", scenario_pull, false},
    {"plain sockets, poller", scenario_plain, false},
    {"datagrams", scenario_datagrams, false},
};
