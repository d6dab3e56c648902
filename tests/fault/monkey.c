/* A monkey at the keyboard: every call of the library from inside every callback and between
 * turns, on any object, dead ones too, while system calls and allocations fail at random and
 * transfers are cut. What comes out of it is nobody's protocol, but the promises hold: each conn
 * that was told of has exactly one on_close, last; each loan one release before that; each post
 * runs; nothing leaks; and no call gives a code that makes no sense for it. */

enum {
    MONKEY_CONNS = 8192,
    MONKEY_LOANS = 8192,
    MONKEY_HANDLES = 16,
    MONKEY_LENT = 70000,
    MONKEY_TAGS = 64
};

typedef struct monkey_conn {
    uint64_t id;
    int opens, eofs, closes, loans;
    unsigned char tag;  /* of all bytes it sends */
    unsigned char from; /* of all bytes it receives, once there are some */
} monkey_conn;

typedef struct monkey_loan {
    monkey_conn *conn;
    int releases;
} monkey_loan;

static struct {
    netkit_loop *loop;
    monkey_conn conns[MONKEY_CONNS];
    int conn_count;
    monkey_loan loans[MONKEY_LOANS];
    int loan_count;
    int posts_taken, posts_run;
    netkit_listener listeners[2];
    netkit_addr addr;
    netkit_conn some[MONKEY_HANDLES];
    netkit_timer timers[MONKEY_HANDLES];
    netkit_watch watches[2];
    netkit_buf bufs[4];
    netkit_handler handler;
    int pipe[2];
    int depth;
    bool is_ending;
    bool is_pull; /* no callbacks: what happens is fetched */
    int events;
} monkey;

static unsigned char monkey_bytes[MONKEY_TAGS][MONKEY_LENT];

static uint64_t monkey_pick(uint64_t count) {
    return nkt_random() % count;
}

static monkey_conn *monkey_find(netkit_conn conn) {
    for (int i = monkey.conn_count - 1; i >= 0; i--) {
        if (monkey.conns[i].id == conn.id) {
            return &monkey.conns[i];
        }
    }
    return NULL;
}

static monkey_conn *monkey_know(netkit_conn conn) {
    monkey_conn *c = monkey_find(conn);
    if (c == NULL) {
        CHECK(monkey.conn_count < MONKEY_CONNS);
        c = &monkey.conns[monkey.conn_count++];
        c->id = conn.id;
        c->tag = (unsigned char)(monkey.conn_count % MONKEY_TAGS);
        c->from = MONKEY_TAGS;
        monkey.some[monkey_pick(MONKEY_HANDLES)] = conn;
    }
    return c;
}

static void monkey_act(void);

static void monkey_acts(void) {
    if (!monkey.is_ending && monkey.depth == 0) {
        monkey.depth++;
        for (uint64_t i = monkey_pick(4); i > 0; i--) {
            monkey_act();
        }
        monkey.depth--;
    }
}

/* ---- callbacks ----------------------------------------------------------------- */

static void monkey_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    monkey_conn *c = monkey_know(conn);
    (void)loop;
    (void)user;
    CHECK_EQ(++c->opens, 1);
    CHECK_EQ(c->closes, 0);
    monkey_acts();
}

static monkey_conn *monkey_alive(netkit_conn conn) {
    monkey_conn *c = monkey_find(conn);
    CHECK(c != NULL && c->opens == 1 && c->closes == 0);
    return c;
}

static void monkey_compare(const unsigned char *bytes, size_t len, unsigned char tag) {
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != tag) {
            FAIL("bytes of two conns are mixed");
        }
    }
}

static size_t monkey_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    monkey_conn *c = monkey_alive(conn);
    const unsigned char *bytes = (const unsigned char *)data;
    (void)loop;
    (void)user;
    CHECK(len > 0);
    c->from = c->from == MONKEY_TAGS ? bytes[0] : c->from;
    monkey_compare(bytes, len, c->from); /* never a byte of another conn */
    monkey_acts();
    monkey_compare(bytes, len, c->from); /* and the span stays what it is meanwhile */
    return monkey_pick(3) == 0 ? (size_t)monkey_pick(len + 1) : len;
}

static void monkey_on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)user;
    monkey_alive(conn);
    monkey_acts();
}

static void monkey_on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)user;
    CHECK_EQ(++monkey_alive(conn)->eofs, 1);
    monkey_acts();
    if (monkey_pick(2) == 0) {
        (void)netkit_conn_close(loop, conn);
    }
}

static void monkey_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                            void *user) {
    monkey_conn *c = monkey_find(conn);
    (void)loop;
    (void)user;
    CHECK(c != NULL);
    CHECK_EQ(++c->closes, 1);
    CHECK_EQ(c->loans, 0);
    CHECK(info->code <= 0 && info->code > NETKIT_E_LAST_ - 1 && info->text != NULL);
    CHECK(info->phase >= NETKIT_PHASE_CONNECTING && info->phase <= NETKIT_PHASE_CLOSING);
    monkey_acts();
}

static void monkey_on_release(netkit_loop *loop, int status, void *user) {
    monkey_loan *loan = (monkey_loan *)user;
    (void)loop;
    CHECK(status <= 0);
    CHECK_EQ(++loan->releases, 1);
    CHECK_EQ(loan->conn->closes, 0);
    loan->conn->loans--;
    monkey_acts();
}

static int monkey_on_accept(netkit_loop *loop, netkit_listener l, const netkit_addr *peer,
                            void *user) {
    (void)loop;
    (void)l;
    (void)peer;
    (void)user;
    monkey_acts();
    return monkey_pick(10) == 0;
}

static void monkey_on_error(netkit_loop *loop, netkit_listener l, int code, int os_code,
                            void *user) {
    (void)loop;
    (void)l;
    (void)os_code;
    (void)user;
    CHECK(code < 0);
    monkey_acts();
}

static void monkey_on_listener_close(netkit_loop *loop, netkit_listener l, void *user) {
    (void)loop;
    (void)l;
    (void)user;
    monkey_acts();
}

static void monkey_on_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    (void)user;
    monkey_acts();
}

static void monkey_on_watch(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    char byte;
    (void)loop;
    (void)watch;
    (void)user;
    if ((events & NETKIT_POLL_READ) != 0 && monkey_pick(2) == 0) {
        CHECK(read(monkey.pipe[0], &byte, 1) <= 1);
    }
    monkey_acts();
}

static void monkey_on_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    (void)user;
    monkey.posts_run++;
    monkey_acts();
}

/* ---- acts ----------------------------------------------------------------------- */

static netkit_conn monkey_some(void) {
    return monkey.some[monkey_pick(MONKEY_HANDLES)];
}

static void monkey_listen(void) {
    netkit_listen_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.address = nkt_own_address(0); /* it dials ports that were closed */
    desc.handler = monkey.handler;
    desc.on_accept = monkey_pick(2) == 0 ? monkey_on_accept : NULL;
    desc.on_error = monkey.is_pull ? NULL : monkey_on_error;
    desc.on_close = monkey.is_pull ? NULL : monkey_on_listener_close;
    desc.conns_max = (uint32_t)monkey_pick(6);
    desc.conn.ext_size = 40;
    desc.conn.idle_timeout_ms = 30;
    desc.conn.send_max = 20000;
    desc.conn.recv_max = 20000;
    desc.conn.close_deadline_ms = 20;
    desc.conn.drain_max = 50000;
    desc.conn.chunks_max = 3;
    netkit_listener *l = &monkey.listeners[monkey_pick(2)];
    (void)netkit_listener_close(monkey.loop, *l);
    if (netkit_listen(monkey.loop, &desc, l) == NETKIT_OK) {
        netkit_addr addr;
        if (netkit_listener_local(monkey.loop, *l, &addr) == NETKIT_OK) {
            monkey.addr = addr;
        }
    }
}

static void monkey_dial(void) {
    netkit_connect_desc desc;
    netkit_conn conn;
    memset(&desc, 0, sizeof(desc));
    desc.addr = &monkey.addr;
    desc.handler = monkey.handler;
    desc.timeout_ms = 20;
    desc.conn.duplex = monkey_pick(3) == 0;
    desc.conn.close_deadline_ms = 20;
    desc.conn.idle_timeout_ms = 50;
    if (monkey.conn_count < MONKEY_CONNS - 64 &&
        netkit_connect(monkey.loop, &desc, &conn) == NETKIT_OK) {
        monkey_know(conn);
    }
}

static void monkey_adopt(void) {
    netkit_adopt_desc desc;
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    for (int i = 0; i < 2; i++) {
        netkit_conn conn;
        memset(&desc, 0, sizeof(desc));
        desc.socket = netkit_socket_from_native((uintptr_t)pair[i]);
        desc.handler = monkey.handler;
        desc.conn.idle_timeout_ms = 30;
        desc.conn.deadline_ms = 100;
        desc.conn.close_deadline_ms = 20;
        if (monkey.conn_count < MONKEY_CONNS - 64 &&
            netkit_adopt(monkey.loop, &desc, &conn) == NETKIT_OK) {
            monkey_know(conn);
        } else {
            close(pair[i]);
        }
    }
}

static void monkey_lend(netkit_conn conn) {
    monkey_conn *c = monkey_find(conn);
    if (c == NULL || monkey.loan_count == MONKEY_LOANS) {
        return;
    }
    monkey_loan *loan = &monkey.loans[monkey.loan_count];
    loan->conn = c;
    if (netkit_conn_send_borrowed(monkey.loop, conn, monkey_bytes[c->tag],
                                  (size_t)monkey_pick(MONKEY_LENT), monkey_on_release,
                                  loan) == NETKIT_OK) {
        monkey.loan_count++;
        c->loans++;
        CHECK_EQ(c->closes, 0);
    }
}

static void monkey_send(netkit_conn conn) {
    static const size_t sizes[] = {1, 100, 5000, 19000, 40000, 70000};
    netkit_span spans[2];
    size_t len = sizes[monkey_pick(6)];
    monkey_conn *c = monkey_find(conn);
    const unsigned char *bytes = monkey_bytes[c == NULL ? 0 : c->tag];
    int rc;
    spans[0].data = bytes;
    spans[0].len = len / 3;
    spans[1].data = bytes + len / 3;
    spans[1].len = len - len / 3;
    rc = monkey_pick(2) == 0 ? netkit_conn_send(monkey.loop, conn, bytes, len)
                             : netkit_conn_sendv(monkey.loop, conn, spans, 2);
    CHECK(rc <= 0);
    CHECK(rc != NETKIT_OK || (c != NULL && c->closes == 0));
}

static void monkey_keep(netkit_conn conn) {
    netkit_buf *buf = &monkey.bufs[monkey_pick(4)];
    netkit_buf_release(buf);
    if (netkit_conn_keep(monkey.loop, conn, buf) == NETKIT_OK) {
        CHECK(buf->len > 0 && buf->len <= 65536);
    }
}

static void monkey_look(netkit_conn conn) {
    size_t size;
    uintptr_t native;
    netkit_addr addr;
    int value;
    bool is_alive = netkit_conn_phase(monkey.loop, conn) >= 0;
    CHECK_EQ(netkit_conn_queued(monkey.loop, conn, &size) == NETKIT_OK, is_alive);
    CHECK_EQ(netkit_conn_unread(monkey.loop, conn, &size) == NETKIT_OK, is_alive);
    (void)netkit_conn_local(monkey.loop, conn, &addr);
    (void)netkit_conn_remote(monkey.loop, conn, &addr);
    (void)netkit_conn_native(monkey.loop, conn, &native);
    (void)netkit_conn_get_option(monkey.loop, conn, NETKIT_OPT_NODELAY, &value);
    (void)netkit_conn_set_option(monkey.loop, conn, NETKIT_OPT_KEEPALIVE, 1);
    (void)netkit_conn_ext(monkey.loop, conn);
    (void)netkit_conn_user(monkey.loop, conn);
    (void)netkit_loop_timeout_ms(monkey.loop);
}

static void monkey_act_timer(void) {
    netkit_timer *timer = &monkey.timers[monkey_pick(MONKEY_HANDLES)];
    switch (monkey_pick(4)) {
    case 0:
        (void)netkit_timer_stop(monkey.loop, *timer);
        (void)netkit_timer_start(monkey.loop, timer, monkey_pick(3000),
                                 monkey_pick(2) * (1 + monkey_pick(900)),
                                 monkey.is_pull ? NULL : monkey_on_timer, NULL);
        break;
    case 1:
        CHECK(netkit_timer_restart(monkey.loop, *timer, monkey_pick(2000)) != NETKIT_E_NOMEM);
        break;
    case 2: (void)netkit_timer_stop(monkey.loop, *timer); break;
    default: (void)netkit_timer_set_referenced(monkey.loop, *timer, monkey_pick(2) == 0); break;
    }
}

static void monkey_act_watch(void) {
    netkit_watch *watch = &monkey.watches[monkey_pick(2)];
    int end = monkey_pick(2) == 0;
    switch (monkey_pick(4)) {
    case 0:
        (void)netkit_watch_stop(monkey.loop, *watch);
        (void)netkit_watch_start(monkey.loop, watch, (uintptr_t)monkey.pipe[end],
                                 end == 0 ? NETKIT_POLL_READ : NETKIT_POLL_WRITE,
                                 monkey.is_pull ? NULL : monkey_on_watch, NULL);
        break;
    case 1: (void)netkit_watch_set(monkey.loop, *watch, 0); break;
    case 2: (void)netkit_watch_set(monkey.loop, *watch, NETKIT_POLL_READ); break;
    default: CHECK(write(monkey.pipe[1], "x", 1) <= 1); break;
    }
}

static void monkey_act_conn(void) {
    netkit_loop *loop = monkey.loop;
    netkit_conn conn = monkey_some();
    switch (monkey_pick(20)) {
    case 0: (void)netkit_conn_close(loop, conn); break;
    case 1: (void)netkit_conn_abort(loop, conn); break;
    case 2: (void)netkit_conn_pause(loop, conn); break;
    case 3:
    case 4: (void)netkit_conn_resume(loop, conn); break;
    case 5: (void)netkit_conn_shutdown(loop, conn); break;
    case 6: (void)netkit_conn_flush(loop, conn); break;
    case 7: (void)netkit_conn_set_handler(loop, conn, &monkey.handler, NULL); break;
    case 8: (void)netkit_conn_set_idle_timeout(loop, conn, (uint32_t)monkey_pick(40)); break;
    case 9: (void)netkit_conn_set_deadline(loop, conn, (uint32_t)monkey_pick(90)); break;
    case 10: (void)netkit_conn_set_referenced(loop, conn, monkey_pick(2) == 0); break;
    case 11: monkey_keep(conn); break;
    case 12: monkey_look(conn); break;
    case 13: (void)netkit_conn_want_drain(loop, conn, (size_t)monkey_pick(30000)); break;
    case 14:
    case 15: monkey_lend(conn); break;
    default: monkey_send(conn); break;
    }
}

static void monkey_act(void) {
    switch (monkey_pick(24)) {
    case 0: (void)netkit_loop_flush(monkey.loop); break;
    case 1: monkey.posts_taken += netkit_loop_post(monkey.loop, monkey_on_post, NULL) == 0; break;
    case 2: (void)netkit_loop_stop(monkey.loop); break;
    case 3:
        if (monkey_pick(4) == 0) {
            monkey_listen();
        }
        break;
    case 4:
    case 5: monkey_dial(); break;
    case 6: monkey_adopt(); break;
    case 7:
    case 8: monkey_act_timer(); break;
    case 9: monkey_act_watch(); break;
    case 10: (void)netkit_listener_set_referenced(monkey.loop, monkey.listeners[0], true); break;
    case 11:
        if (netkit_loop_is_running(monkey.loop)) {
            CHECK_ERR(netkit_loop_run_once(monkey.loop, 0), NETKIT_E_BUSY);
            CHECK_ERR(netkit_loop_destroy(monkey.loop), NETKIT_E_BUSY);
        }
        break;
    default: monkey_act_conn(); break;
    }
}

/* ---- the whole -------------------------------------------------------------------- */

static void monkey_faults(void) {
    static const int errors[] = {ECONNRESET, ENOBUFS, ENOMEM, EMFILE, EPIPE, ENETDOWN};
    static const char *const calls[] = {"recv",       "send",         "sendmsg",   "accept",
                                        "connect",    "setsockopt",   "epoll_ctl", "shutdown",
                                        "getsockopt", "kevent_change"};
    nkt_fault_clear();
    nkt_alloc_fail_at(1 + monkey_pick(400), false);
    for (int i = 0; i < 3; i++) {
        nkt_fault_prob(calls[monkey_pick(10)], 3, errors[monkey_pick(6)]);
    }
    nkt_clip_random("recv", 3000);
    nkt_clip_random("send", 3000);
}

/* What was fetched goes where a callback would have gone. */
static void monkey_event(const netkit_event *ev) {
    netkit_loop *loop = monkey.loop;
    monkey.events++;
    switch (ev->type) {
    case NETKIT_EVENT_OPEN: monkey_on_open(loop, ev->conn, ev->user); break;
    case NETKIT_EVENT_DATA: {
        size_t used = monkey_on_data(loop, ev->conn, ev->data, ev->len, ev->user);
        CHECK_OK(netkit_loop_consume(loop, used));
        CHECK_ERR(netkit_loop_consume(loop, ev->len + 1), NETKIT_E_INVALID);
        break;
    }
    case NETKIT_EVENT_DRAIN: monkey_on_drain(loop, ev->conn, ev->user); break;
    case NETKIT_EVENT_EOF: monkey_on_eof(loop, ev->conn, ev->user); break;
    case NETKIT_EVENT_CLOSE: monkey_on_close(loop, ev->conn, &ev->close, ev->user); break;
    case NETKIT_EVENT_LISTENER_ERROR:
        monkey_on_error(loop, ev->listener, ev->close.code, ev->close.os_code, ev->user);
        break;
    case NETKIT_EVENT_LISTENER_CLOSE: monkey_on_listener_close(loop, ev->listener, ev->user); break;
    case NETKIT_EVENT_TIMER: monkey_on_timer(loop, ev->timer, ev->user); break;
    case NETKIT_EVENT_WATCH: monkey_on_watch(loop, ev->watch, ev->poll_events, ev->user); break;
    case NETKIT_EVENT_DATAGRAM:
    case NETKIT_EVENT_UDP_DRAIN:
    case NETKIT_EVENT_UDP_ERROR:
    case NETKIT_EVENT_UDP_CLOSE: FAIL("an event of a udp, and there is none"); break;
    case NETKIT_EVENT_NONE: FAIL("an event of no type"); break;
    }
}

/* Not always to the end of the turn: the next poll goes on from there. */
static void monkey_pull(void) {
    netkit_event ev;
    uint64_t most = monkey_pick(100);
    for (uint64_t i = 0; monkey.is_pull && i < most; i++) {
        int rc = netkit_loop_next(monkey.loop, &ev);
        CHECK(rc == 0 || rc == 1);
        if (rc == 0) {
            break;
        }
        monkey_event(&ev);
    }
}

static void monkey_turn(void) {
    int rc = 0;
    switch (monkey_pick(4)) {
    case 0: rc = netkit_loop_poll(monkey.loop, (int64_t)monkey_pick(50)); break;
    case 1: rc = netkit_loop_poll(monkey.loop, 0); break;
    case 2: rc = netkit_loop_poll(monkey.loop, -1); break;
    default: rc = netkit_loop_run_once(monkey.loop, (int)monkey_pick(2)); break;
    }
    CHECK(rc == 0 || rc == 1);
    monkey_pull();
    monkey_acts();
}

static void monkey_setup(bool is_pull) {
    netkit_loop_desc desc;
    memset(&monkey, 0, sizeof(monkey));
    memset(&desc, 0, sizeof(desc));
    CHECK(pipe(monkey.pipe) == 0);
    CHECK(fcntl(monkey.pipe[0], F_SETFL, O_NONBLOCK) == 0);
    CHECK(fcntl(monkey.pipe[1], F_SETFL, O_NONBLOCK) == 0);
    monkey.is_pull = desc.pull = is_pull;
    if (!is_pull) {
        monkey.handler.on_open = monkey_on_open;
        monkey.handler.on_data = monkey_on_data;
        monkey.handler.on_drain = monkey_on_drain;
        monkey.handler.on_eof = monkey_on_eof;
        monkey.handler.on_close = monkey_on_close;
    }
    desc.objects_max = 24;
    desc.events_max = 8;
    desc.posts_max = 16;
    desc.conn_budget = 9000;
    desc.accept_budget = 2;
    desc.timer_budget = 3;
    desc.post_budget = 4;
    desc.keep_max = 200000;
    desc.backend = nkt_backend;
    desc.allocator = nkt_allocator();
    CHECK_OK(netkit_loop_create(&monkey.loop, &desc));
    monkey_listen();
}

static void monkey_judge(void) {
    nkt_fault_clear();
    nkt_alloc_fail_at(0, false);
    monkey.is_ending = true;
    CHECK_OK(netkit_loop_destroy(monkey.loop));
    for (int i = 0; i < 4; i++) {
        netkit_buf_release(&monkey.bufs[i]);
    }
    for (int i = 0; i < monkey.conn_count; i++) {
        bool was_told = monkey.conns[i].closes == 1;
        CHECK(was_told || monkey.is_pull); /* nobody fetches what destroy ends */
    }
    for (int i = 0; i < monkey.loan_count; i++) {
        CHECK_EQ(monkey.loans[i].releases, 1);
    }
    CHECK_EQ(monkey.posts_run, monkey.posts_taken);
    CHECK_EQ(nkt_live_bytes(), 0);
    close(monkey.pipe[0]);
    close(monkey.pipe[1]);
}

static void monkey_play(bool is_pull) {
    uint64_t end = nkt_now_ns() + nkt_scale(20000, 1200) * 1000000u;
    int rounds = 0, conns = 0, loans = 0, events = 0;
    for (int tag = 0; tag < MONKEY_TAGS; tag++) {
        memset(monkey_bytes[tag], tag, MONKEY_LENT);
    }
    while (nkt_now_ns() < end) {
        monkey_setup(is_pull);
        for (int turn = 0; turn < 1000; turn++) {
            if (turn % 20 == 0) {
                monkey_faults();
            }
            monkey_turn();
        }
        monkey_judge();
        rounds++;
        conns += monkey.conn_count;
        loans += monkey.loan_count;
        events += monkey.events;
    }
    printf("%d rounds, %d conns, %d loans, %d events fetched\n", rounds, conns, loans, events);
    CHECK(conns > 20);
    CHECK_EQ(events > 100, is_pull);
}

/* R4 I1 I2 G8: whatever is called from wherever, each promise is kept once. */
NKT_LOOP_TEST(monkey_calls_all_from_everywhere) {
    monkey_play(false);
}

/* C8 R4 I1 G8: the same between one fetched event and the next. */
NKT_LOOP_TEST(monkey_pulls) {
    monkey_play(true);
}
