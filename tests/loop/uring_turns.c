/* What the ring is told within a turn, to be done by the wait that follows: connects, and the end
 * of what was in flight for conns that have gone. */

#if NKI_HAS_URING

#include "support.h"
#include "support_loop.h"

enum {
    TURNS_CONNS = 50
};

/* A crowd that one callback dials, and what else that callback does. */
typedef struct turns_crowd {
    sup_end ends[TURNS_CONNS];
    char address[64];
    int count;
    uint32_t timeout_ms;
    bool closes, stops, is_done;
} turns_crowd;

static turns_crowd turns_now;

static void turns_dial(netkit_loop *loop, int status, void *user) {
    turns_crowd *t = (turns_crowd *)user;
    CHECK_OK(status);
    for (int i = 0; i < t->count; i++) {
        netkit_connect_desc desc = sup_connect_desc(t->address, &t->ends[i]);
        desc.timeout_ms = t->timeout_ms;
        sup_end_init(&t->ends[i]);
        t->ends[i].loop = loop;
        CHECK_OK(netkit_connect(loop, &desc, &t->ends[i].conn));
        if (t->closes) {
            CHECK_OK(netkit_conn_close(loop, t->ends[i].conn));
        }
    }
    if (t->stops) {
        CHECK_OK(netkit_loop_stop(loop));
    }
    t->is_done = true;
}

static int turns_opened(void) {
    int opens = 0;
    for (int i = 0; i < turns_now.count; i++) {
        opens += turns_now.ends[i].opens;
    }
    return opens;
}

static int turns_closed(void) {
    int closes = 0;
    for (int i = 0; i < turns_now.count; i++) {
        closes += turns_now.ends[i].closes;
    }
    return closes;
}

static void turns_init(int count, const char *host, uint16_t port) {
    memset(&turns_now, 0, sizeof(turns_now));
    turns_now.count = count;
    snprintf(turns_now.address, sizeof(turns_now.address), "%s:%u", host, port);
}

/* Whether the ring connects here. */
static netkit_loop *turns_loop(void) {
    netkit_loop *loop = turing_loop();
    if (!nki_u_of(loop)->has_connect) {
        nkt_loop_done(loop);
        SKIP("no connecting by an operation here");
    }
    return loop;
}

/* A backlog that is full: connects to it stay in flight. */
static void turns_hole(connect_hole *hole) {
    connect_hole_dig(hole);
    turns_init(20, "127.0.0.1", hole->port);
}

/* All that was dialled says a word and has it back, and ends. */
static void turns_talk(netkit_loop *loop) {
    SUP_UNTIL(loop, turns_opened() == turns_now.count);
    for (int i = 0; i < turns_now.count; i++) {
        unsigned char data[100];
        sup_fill(data, sizeof(data), 0);
        CHECK_OK(netkit_conn_send(loop, turns_now.ends[i].conn, data, sizeof(data)));
    }
    for (int i = 0; i < turns_now.count; i++) {
        SUP_UNTIL(loop, turns_now.ends[i].bytes == 100);
        CHECK_OK(netkit_conn_close(loop, turns_now.ends[i].conn));
    }
    SUP_UNTIL(loop, turns_closed() == turns_now.count);
    for (int i = 0; i < turns_now.count; i++) {
        CHECK_STR(turns_now.ends[i].trace, "odc");
        CHECK_OK(turns_now.ends[i].info.code);
    }
}

static void turns_dial_and_talk(netkit_loop *loop, const char *host, uint16_t port) {
    turns_init(TURNS_CONNS, host, port);
    CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
    turns_talk(loop);
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* UR14 UR06: fifty dials of one callback cost three calls each of the system and one of the ring
 * for all; over IPv4 and IPv6 each becomes a conn like any other. */
NKT_TEST(uring_connects_by_an_operation) {
    netkit_loop *loop = turns_loop();
    uint16_t port = turing_listen(loop);
    for (int round = 0; round < 2; round++) {
        netkit_addr addr;
        sup_settle(loop);
        turns_init(TURNS_CONNS, "127.0.0.1", port);
        nkt_calls_reset();
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        SUP_UNTIL(loop, turns_opened() == TURNS_CONNS);
        CHECK_EQ(nkt_calls("socket"), TURNS_CONNS);
        CHECK_EQ(nkt_calls("getsockopt") + nkt_calls("getpeername"), 0);
        CHECK_EQ(nkt_calls("getsockname"), TURNS_CONNS);
        CHECK(nkt_calls("io_uring_enter") < TURNS_CONNS);
        CHECK_OK(netkit_conn_remote(loop, turns_now.ends[0].conn, &addr));
        CHECK_EQ(addr.port, port);
        CHECK_OK(netkit_conn_local(loop, turns_now.ends[0].conn, &addr));
        CHECK(addr.port != 0 && addr.ip[0] == 127);
        turns_talk(loop);
        memset(&turing, 0, sizeof(turing)); /* room for the next fifty */
    }
    nkt_loop_done(loop);
}

/* UR14: and to an address of IPv6. */
NKT_TEST(uring_connects_over_ipv6) {
    netkit_loop *loop = turns_loop();
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    netkit_listener listener;
    memset(&turing, 0, sizeof(turing));
    handler.on_open = turing_on_open;
    desc = sup_listen_desc(&handler, &turing);
    desc.address = "[::1]:0";
    if (netkit_listen(loop, &desc, &listener) != NETKIT_OK) {
        nkt_loop_done(loop);
        SKIP("no IPv6 here");
    }
    turns_dial_and_talk(loop, "[::1]", sup_port(loop, listener));
    nkt_loop_done(loop);
}

/* UR14 UR04 I-07: without that operation a call connects, and a poll tells how it went. */
NKT_TEST(uring_connects_without_the_operation) {
    nkt_hide("io_uring_ops", (uint64_t)1 << NKI_URING_CONNECT, 100);
    netkit_loop *loop = turing_loop();
    nkt_fault_clear();
    CHECK(!nki_u_of(loop)->has_connect);
    nkt_calls_reset();
    turns_dial_and_talk(loop, "127.0.0.1", turing_listen(loop));
    CHECK(nkt_calls("getsockopt") >= TURNS_CONNS);
    nkt_loop_done(loop);
}

/* UR14 UR05: a thread of the kernel's reads the addresses when it likes. */
NKT_TEST(uring_connects_with_a_polling_thread) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.ring_sqpoll_ms = 1;
    netkit_loop *loop = safety_loop(&desc);
    for (int round = 0; round < 5; round++) {
        uint16_t port = turing_listen(loop);
        turns_dial_and_talk(loop, "127.0.0.1", port);
        turns_init(TURNS_CONNS, "127.0.0.1", port);
        turns_now.closes = true;
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        SUP_UNTIL(loop, turns_closed() == TURNS_CONNS);
    }
    nkt_loop_done(loop);
}

/* UR14 UR17: more dials than the ring has places: all are made, as it takes them. */
NKT_TEST(uring_connects_through_a_small_ring) {
    netkit_loop *loop = trouble_small_loop();
    turns_dial_and_talk(loop, "127.0.0.1", turing_listen(loop));
    nkt_loop_done(loop);
}

/* UR14 UR17: a ring that is full and takes nothing: dials wait for it, and can be ended. */
NKT_TEST(uring_connects_when_it_is_not_full) {
    netkit_loop *loop = trouble_small_loop();
    uint16_t port = turing_listen(loop);
    sup_settle(loop);
    for (int way = 0; way < 2; way++) {
        memset(&turing, 0, sizeof(turing));
        turns_init(TURNS_CONNS, "127.0.0.1", port);
        trouble_full(loop);
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        while (!turns_now.is_done) {
            CHECK_OK(netkit_loop_run_once(loop, 0));
        }
        CHECK_OK(netkit_loop_run_once(loop, 0));
        CHECK_EQ(turns_opened() + turns_closed(), 0);
        for (int i = 0; way == 1 && i < TURNS_CONNS; i++) {
            CHECK_OK(netkit_conn_abort(loop, turns_now.ends[i].conn));
        }
        nkt_fault_clear();
        if (way == 0) {
            turns_talk(loop);
        } else {
            SUP_UNTIL(loop, turns_closed() == TURNS_CONNS);
            CHECK_EQ(turns_opened(), 0);
        }
    }
    nkt_loop_done(loop);
}

/* UR14 I9: aborted while the kernel has not looked at the address yet: that stays until it has. */
NKT_TEST(uring_connects_keep_their_address) {
    netkit_loop *loop = turns_loop();
    connect_hole hole;
    turns_hole(&hole);
    sup_settle(loop);
    nkt_fault_at("io_uring_enter", 1, EAGAIN, true);
    CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
    while (!turns_now.is_done) {
        CHECK_OK(netkit_loop_run_once(loop, 0));
    }
    CHECK_OK(netkit_loop_run_once(loop, 0)); /* begun, and not submitted */
    for (int i = 0; i < turns_now.count; i++) {
        nki_u_slot *s = safety_slot(loop, turns_now.ends[i].conn);
        CHECK_EQ(s->busy, NKI_U_BIT(NKI_U_CONNECT));
        CHECK_OK(netkit_conn_abort(loop, turns_now.ends[i].conn));
        CHECK(s->blob != NULL);
    }
    CHECK_EQ(turns_closed(), 0);
    nkt_fault_clear();
    SUP_UNTIL(loop, turns_closed() == turns_now.count);
    connect_hole_fill(&hole);
    nkt_loop_done(loop);
}

static void turns_dial_unix(netkit_loop *loop, int status, void *user) {
    sup_end *end = (sup_end *)user;
    turns_dial(loop, status, &turns_now);
    char address[64];
    snprintf(address, sizeof(address), "unix:@netkit-turns-%d", (int)getpid());
    netkit_connect_desc desc = sup_connect_desc(address, end);
    nkt_calls_reset();
    CHECK_OK(netkit_connect(loop, &desc, &end->conn));
    CHECK_EQ(nkt_calls("connect"), 1);
}

/* UR14: beside those to an address of TCP, a dial to a unix socket is a call, answered at once. */
NKT_TEST(uring_connects_to_unix_by_a_call) {
    netkit_loop *loop = turns_loop();
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    char address[64];
    connect_hole hole;
    sup_end end;
    turns_hole(&hole);
    memset(&turing, 0, sizeof(turing));
    handler.on_open = turing_on_open;
    snprintf(address, sizeof(address), "unix:@netkit-turns-%d", (int)getpid());
    desc = sup_listen_desc(&handler, &turing);
    desc.address = address;
    CHECK_OK(netkit_listen(loop, &desc, NULL));
    sup_end_init(&end);
    CHECK_OK(netkit_loop_post(loop, turns_dial_unix, &end));
    SUP_UNTIL(loop, end.opens == 1);
    unsigned char data[1000];
    sup_fill(data, sizeof(data), 0);
    CHECK_OK(netkit_conn_send(loop, end.conn, data, sizeof(data)));
    SUP_UNTIL(loop, end.bytes == 1000);
    CHECK_EQ(turns_opened() + turns_closed(), 0);
    nkt_loop_done(loop);
    connect_hole_fill(&hole);
}

/* UR14 R2: a connect that fails by name is told by on_close, with the system's code. */
NKT_TEST(uring_connects_fail_by_name) {
    static const int errors[] = {ENETUNREACH, EACCES, EADDRNOTAVAIL, ETIMEDOUT, EIO, ENOMEM};
    netkit_loop *loop = turns_loop();
    uint16_t port = turing_listen(loop);
    int fds = nkt_open_fds();
    for (size_t i = 0; i < NKI_COUNT(errors); i++) {
        turns_init(1, "127.0.0.1", port);
        nkt_fault_at("connect", 1, errors[i], false);
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        SUP_UNTIL(loop, turns_closed() == 1);
        CHECK_EQ(nkt_faults(), 1);
        nkt_fault_clear();
        CHECK_STR(turns_now.ends[0].trace, "c");
        CHECK_EQ(turns_now.ends[0].info.os_code, errors[i]);
        CHECK_EQ(turns_now.ends[0].info.code, netkit_error_from_os(errors[i]));
        CHECK_EQ(turns_now.ends[0].info.op, NETKIT_OP_CONNECT);
    }
    sup_settle(loop);
    CHECK_EQ(nkt_open_fds(), fds);
    turns_init(1, "127.0.0.1", port); /* what passes is nobody's business */
    nkt_fault_at("connect", 1, EINTR, false);
    CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
    turns_talk(loop);
    nkt_fault_clear();
    nkt_loop_done(loop);
}

/* A dial in a callback with what fails there: memory, or a call by name. */
typedef struct turns_failing {
    const char *call;
    sup_end end;
    const char *address;
    int nth, code;
    bool is_done, was_hit;
} turns_failing;

static void turns_fail(netkit_loop *loop, int status, void *user) {
    turns_failing *f = (turns_failing *)user;
    netkit_connect_desc desc = sup_connect_desc(f->address, &f->end);
    CHECK_OK(status);
    sup_end_init(&f->end);
    uint64_t before = nkt_alloc_faults();
    if (f->call == NULL) {
        nkt_alloc_fail_at((uint64_t)f->nth, false);
    } else {
        nkt_fault_at(f->call, (uint64_t)f->nth, EIO, false);
    }
    f->code = netkit_connect(loop, &desc, &f->end.conn);
    f->was_hit = f->call == NULL ? nkt_alloc_faults() != before : nkt_faults() != 0;
    nkt_alloc_fail_at(0, false);
    nkt_fault_clear();
    f->is_done = true;
}

/* UR14 Z-01 Z-02 R2: whatever fails while a callback dials is told at once, and leaves no
 * descriptor, no memory and nothing that the next dial would take for its own. */
NKT_TEST(uring_connects_or_leaves_nothing) {
    static const char *const calls[] = {NULL, "socket", "setsockopt"};
    netkit_loop *loop = turns_loop();
    char address[32];
    connect_hole hole;
    turns_hole(&hole);
    snprintf(address, sizeof(address), "127.0.0.1:%u", turing_listen(loop));
    sup_settle(loop);
    for (size_t i = 0; i < NKI_COUNT(calls); i++) {
        turns_failing f;
        memset(&f, 0, sizeof(f));
        f.call = calls[i];
        f.was_hit = true;
        while (f.was_hit) {
            int fds = nkt_open_fds();
            int64_t objects = netkit_loop_objects(loop);
            f.nth++;
            f.is_done = false;
            f.address = turns_now.address; /* nothing is to come of that one */
            CHECK_OK(netkit_loop_post(loop, turns_fail, &f));
            SUP_UNTIL(loop, f.is_done);
            if (f.was_hit) {
                CHECK_ERR(f.code, calls[i] == NULL ? NETKIT_E_NOMEM : netkit_error_from_os(EIO));
                CHECK_EQ(f.end.closes, 0);
                CHECK_EQ(nkt_open_fds(), fds);
                CHECK_EQ(netkit_loop_objects(loop), objects);
            } else {
                CHECK_OK(netkit_conn_abort(loop, f.end.conn));
                SUP_UNTIL(loop, f.end.closes == 1);
            }
            sup_end end;
            netkit_connect_desc desc = sup_connect_desc(address, &end);
            sup_end_init(&end);
            CHECK_OK(netkit_connect(loop, &desc, &end.conn));
            SUP_UNTIL(loop, end.opens == 1);
            CHECK_OK(netkit_conn_abort(loop, end.conn));
            SUP_UNTIL(loop, end.closes == 1);
            memset(&turing, 0, sizeof(turing));
            sup_settle(loop);
        }
        printf("%d times %s\n", f.nth - 1, calls[i] == NULL ? "memory" : calls[i]);
        CHECK(f.nth > 1);
    }
    connect_hole_fill(&hole);
    nkt_loop_done(loop);
}

/* UR14 I14: where the kernel says that connecting is still under way, a poll tells how it ends. */
NKT_TEST(uring_connects_that_go_on) {
    static const int answers[] = {EINPROGRESS, EALREADY, EINTR};
    netkit_loop *loop = turns_loop();
    nki_u *u = nki_u_of(loop);
    uint16_t port = turing_listen(loop);
    for (size_t i = 0; i < NKI_COUNT(answers); i++) {
        turns_init(1, "127.0.0.1", port);
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        SUP_UNTIL(loop, turns_now.is_done);
        nki_source *source =
            (nki_source *)nki_slots_find(&loop->sources, turns_now.ends[0].conn.id, NKI_KIND_CONN);
        uint64_t name = nki_u_name(source, nki_u_slot_of(u, source), NKI_U_CONNECT);
        for (bool is_found = false; !is_found;) { /* its completion, before the loop reads it */
            CHECK_EQ(nki_uring_enter(&u->ring, 0), 0);
            for (uint32_t at = *u->ring.cq_head; at != nki_atomic_load(u->ring.cq_tail); at++) {
                nki_uring_cqe *cqe = &u->ring.cqes[at & u->ring.cq_mask];
                if (cqe->user_data == name) {
                    CHECK_EQ(cqe->res, 0);
                    cqe->res = -answers[i];
                    is_found = true;
                }
            }
        }
        turns_talk(loop);
    }
    nkt_loop_done(loop);
}

/* UR14 UR23 UR15: destroyed with connects in flight, not yet begun, timed out or closed at once, by
 * a ring that works or fails in any way: each conn hears of its end once, soon, and every descriptor
 * is closed. */
NKT_TEST(uring_destroyed_while_connecting) {
    static const int errors[] = {0, EAGAIN, EBUSY, EINTR, EBADF};
    connect_hole hole;
    nkt_loop_done(turns_loop());
    turns_hole(&hole);
    int fds = nkt_open_fds();
    for (int way = 0; way < 15; way++) {
        netkit_loop *loop = turns_loop();
        turns_init(20, "127.0.0.1", hole.port);
        turns_now.closes = way / 5 == 2;
        turns_now.stops = true;
        sup_settle(loop); /* the ring is this thread's */
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        if (way / 5 == 0) {
            CHECK_OK(netkit_loop_run(loop));
            sup_settle(loop);
        }
        if (errors[way % 5] != 0) {
            nkt_fault_at("io_uring_enter", 1, errors[way % 5], true);
        }
        while (!turns_now.is_done) {
            (void)netkit_loop_run_once(loop, 0); /* nothing of it is submitted, where that fails */
        }
        uint64_t began = nkt_now_ns();
        nkt_loop_done(loop);
        nkt_fault_clear();
        CHECK(nkt_now_ns() - began < 5 * (uint64_t)NKI_NS_PER_S * nkt_slowness);
        CHECK_EQ(turns_closed(), 20);
        CHECK_EQ(turns_opened(), 0);
        CHECK_EQ(nkt_open_fds(), fds);
    }
    connect_hole_fill(&hole);
}

/* UR14 UR15 SK12: fifty connects time out: each is cancelled, once, at its time. */
NKT_TEST(uring_connects_time_out) {
    netkit_loop *loop = turns_loop();
    connect_hole hole;
    turns_hole(&hole);
    int fds = nkt_open_fds();
    for (int round = 0; round < 3; round++) {
        turns_now.timeout_ms = 30;
        uint64_t began = nkt_now_ns();
        CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
        SUP_UNTIL(loop, turns_closed() == 20);
        CHECK(nkt_now_ns() - began >= 30000000);
        for (int i = 0; i < 20; i++) {
            CHECK_ERR(turns_now.ends[i].info.code, NETKIT_E_TIMEOUT);
        }
        CHECK_EQ(nkt_open_fds(), fds);
        turns_init(20, "127.0.0.1", hole.port);
    }
    connect_hole_fill(&hole);
    nkt_loop_done(loop);
}

static int turns_child;

static void turns_fork(netkit_loop *loop, int status, void *user) {
    turns_dial(loop, status, user);
    turns_child = (int)fork();
    CHECK(turns_child >= 0);
    if (turns_child == 0) {
        for (int i = 0; i < turns_now.count; i += 2) {
            CHECK_OK(netkit_conn_abort(loop, turns_now.ends[i].conn));
        }
        nkt_calls_reset();
        _exit(0);
    }
}

/* UR14 UR23 Z-06: a process is forked off between dialling and the wait that connects, and one while
 * that is in flight: what they do with their copies of the conns is nothing to ours. */
NKT_TEST(uring_connects_survive_a_fork) {
    netkit_loop *loop = turns_loop();
    uint16_t port = turing_listen(loop);
    int status = 0;
    turns_init(TURNS_CONNS, "127.0.0.1", port);
    CHECK_OK(netkit_loop_post(loop, turns_fork, &turns_now));
    SUP_UNTIL(loop, turns_now.is_done);
    CHECK_EQ(waitpid((pid_t)turns_child, &status, 0), turns_child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    turns_talk(loop);

    connect_hole hole;
    turns_hole(&hole);
    CHECK_OK(netkit_loop_post(loop, turns_dial, &turns_now));
    sup_settle(loop);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        sup_end end;
        netkit_connect_desc desc = sup_connect_desc(turns_now.address, &end);
        sup_end_init(&end);
        nkt_calls_reset();
        (void)netkit_connect(loop, &desc, NULL);
        CHECK_OK(netkit_conn_abort(loop, turns_now.ends[1].conn));
        CHECK_OK(netkit_loop_destroy(loop));
        CHECK_EQ(nkt_calls("io_uring_enter") + nkt_calls("io_uring_register"), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(turns_closed(), 0);
    nkt_loop_done(loop);
    CHECK_EQ(turns_closed(), 20);
    connect_hole_fill(&hole);
}

/* ---- ended with operations in flight --------------------------------------------------------- */

enum {
    TURNS_LEFT, /* the descriptor is closed at once */
    TURNS_KEPT, /* stays until the ring has taken what was begun on it */
    TURNS_LATER /* or until the polling thread has ended that */
};

typedef struct turns_end {
    const sup_peer *peers;
    int count;
    int expected;
    bool is_done;
} turns_end;

static turns_end turns_ended;

static void turns_ends(const sup_peer *peers, int count, int expected) {
    memset(&turns_ended, 0, sizeof(turns_ended));
    turns_ended.peers = peers;
    turns_ended.count = count;
    turns_ended.expected = expected;
}

/* Half of the conns are aborted. Where their descriptors are closed at once, no call of `enter` was
 * needed for that. */
static void turns_abort(netkit_loop *loop, int status, void *user) {
    turns_end *e = (turns_end *)user;
    uint64_t enters = nkt_calls("io_uring_enter");
    CHECK_OK(status);
    for (int i = 0; i < e->count; i += 2) {
        uintptr_t fd;
        CHECK_OK(netkit_conn_native(loop, turing.ends[i].conn, &fd));
        if (i % 4 == 0) { /* bytes on their way to the dead */
            CHECK_EQ(send(e->peers[i].fd, "late", 4, MSG_NOSIGNAL), 4);
        }
        CHECK_OK(netkit_conn_abort(loop, turing.ends[i].conn));
        bool is_left = fcntl((int)fd, F_GETFD) == -1;
        CHECK(e->expected == TURNS_LATER || is_left == (e->expected == TURNS_LEFT));
    }
    CHECK(e->expected != TURNS_LEFT || nkt_calls("io_uring_enter") == enters);
    e->is_done = true;
}

static bool turns_is_reset(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
}

static void turns_check_ends(netkit_loop *loop, sup_peer *peers, int count) {
    for (int i = 0; i < count; i++) {
        CHECK_EQ(turing.ends[i].closes, i % 2 == 0);
        if (i % 2 == 0) {
            sup_peer_recv(&peers[i]);
            CHECK_EQ(peers[i].end, ECONNRESET);
        } else {
            peers[i].to_send = 1000;
            SUP_UNTIL_DOING(loop, peers[i].received == 1000) {
                sup_peer_step(&peers[i]);
            }
        }
        sup_peer_close(&peers[i]);
    }
    for (int i = 0; i < count; i++) {
        SUP_UNTIL(loop, turing.ends[i].closes == 1);
    }
}

/* UR15 UR16 I-03 SK18: conns that are read for are aborted in a callback: their descriptors are
 * closed at once without a call of the ring's, their peers know when that turn ends, in whatever way
 * the loop goes on, who comes into their places hears nothing of them, and no buffer is lost. */
NKT_TEST(uring_abort_within_a_turn) {
    for (int way = 0; way < 5; way++) {
        netkit_loop_desc desc;
        memset(&desc, 0, sizeof(desc));
        bool is_polled = way == 4; /* last, as that may be refused; its thread needs a processor */
        desc.ring_sqpoll_ms = is_polled;
        netkit_loop *loop = safety_loop(&desc);
        sup_peer peers[40];
        safety_dial_all(loop, peers, 40);
        turns_ends(peers, 40, is_polled ? TURNS_LATER : TURNS_LEFT);
        CHECK_OK(netkit_loop_post(loop, turns_abort, &turns_ended));
        if (way == 0) {
            CHECK_OK(netkit_loop_run_once(loop, 100));
        } else if (way == 1) {
            CHECK(netkit_loop_poll(loop, 0) >= 0);
            while (!turns_ended.is_done) {
                CHECK(netkit_loop_poll(loop, 0) >= 0);
            }
        } else if (way == 2) {
            CHECK_OK(netkit_loop_stop(loop));
            CHECK_OK(netkit_loop_run(loop));
        }
        SUP_UNTIL(loop, way < 3 || turns_ended.is_done);
        uint64_t began = nkt_now_ns(),
                 limit = is_polled ? 5 * (uint64_t)NKI_NS_PER_S * nkt_slowness : 100000000;
        for (int i = 0; i < 40; i += 2) {
            do {
                CHECK_OK(is_polled ? netkit_loop_run_once(loop, 1) : NETKIT_OK);
                sup_peer_recv(&peers[i]);
            } while (peers[i].end == 0 && nkt_now_ns() - began < limit);
            CHECK_EQ(peers[i].end, ECONNRESET);
        }
        while (turing.ends[38].closes == 0) {
            CHECK(netkit_loop_poll(loop, 0) >= 0);
        }
        turns_check_ends(loop, peers, 40);
        CHECK_EQ(nki_u_of(loop)->pool.held, 0);
        turing_echo_all(loop, 40, 5000);
        nkt_loop_done(loop);
    }
}

/* I-03 SK18: who pulls events may do anything between two of them: a conn that ended on the way to
 * its close event has ended for its peer, too, and one that is dialled there is on its way. */
NKT_TEST(uring_pulling_leaves_nothing_for_later) {
    netkit_loop_desc loop_desc;
    netkit_event ev;
    uint16_t port;
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.pull = true;
    netkit_loop *loop = safety_loop(&loop_desc);
    netkit_listen_desc desc;
    netkit_connect_desc dial;
    netkit_listener listener;
    char address[32];
    memset(&desc, 0, sizeof(desc));
    memset(&dial, 0, sizeof(dial));
    desc.address = "127.0.0.1:0";
    desc.conn.idle_timeout_ms = 30;
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    sup_peer peer = sup_peer_of(sup_raw_dial(sup_port(loop, listener), 0));
    int raw = sup_raw_listen(&port, 10);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    dial.address = address;
    for (bool is_closed = false; !is_closed;) {
        CHECK(netkit_loop_run_once(loop, 5) >= 0);
        while (!is_closed && netkit_loop_next(loop, &ev) == 1) {
            is_closed = ev.type == NETKIT_EVENT_CLOSE;
        }
    }
    CHECK_ERR(ev.close.code, NETKIT_E_TIMEOUT);
    uint64_t began = nkt_now_ns();
    do {
        sup_peer_recv(&peer);
    } while (peer.end == 0 && nkt_now_ns() - began < 100000000);
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_OK(netkit_connect(loop, &dial, NULL));
    int fd = accept(raw, NULL, NULL);
    CHECK(fd >= 0);
    CHECK_EQ(close(fd) + close(raw), 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* I-03 I5 UR17: an abort in a callback, of conns whose receives the ring has not taken yet: their
 * descriptors stay until it has, for a receive that begins later would take another one's bytes. */
NKT_TEST(uring_abort_before_the_ring_has_taken) {
    netkit_loop *loop = turing_loop();
    sup_peer peers[20];
    uint16_t port = turing_listen(loop);
    sup_settle(loop);
    for (int i = 0; i < 20; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    for (int i = 0; i < 20; i++) { /* accepted, and not looked at */
        CHECK_EQ(nki_uring_enter(&nki_u_of(loop)->ring, 0), 0);
    }
    nkt_fault_at("io_uring_enter", 1, EAGAIN, true);
    for (int i = 0; i < 100 && turing.count < 20; i++) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
    }
    if (turing.count < 20) {
        nkt_fault_clear();
        nkt_loop_done(loop);
        SKIP("no multishot accept here");
    }
    turns_ends(peers, 20, TURNS_KEPT);
    CHECK_OK(netkit_loop_post(loop, turns_abort, &turns_ended));
    while (!turns_ended.is_done) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
    }
    CHECK_EQ(turing.ends[0].closes, 0);
    nkt_fault_clear();
    SUP_UNTIL(loop, turing.ends[0].closes == 1);
    sup_settle(loop);
    turns_check_ends(loop, peers, 20);
    nkt_loop_done(loop);
}

/* UR23 I-03: the ring fails before it is told of the ends of those who were aborted, and the loop is
 * destroyed: no descriptor is left, and every peer knows. */
NKT_TEST(uring_fails_behind_an_abort) {
    static const int errors[] = {EAGAIN, EBADF};
    nkt_loop_done(turing_loop());
    int fds = nkt_open_fds();
    for (int i = 0; i < 2; i++) {
        netkit_loop *loop = turing_loop();
        sup_peer peers[20];
        safety_dial_all(loop, peers, 20);
        turns_ends(peers, 20, TURNS_LEFT);
        nkt_fault_at("io_uring_enter", 1, errors[i], true);
        CHECK_OK(netkit_loop_post(loop, turns_abort, &turns_ended));
        while (!turns_ended.is_done) {
            (void)netkit_loop_run_once(loop, 0);
        }
        nkt_loop_done(loop);
        nkt_fault_clear();
        for (int k = 0; k < 20; k++) {
            uint64_t began = nkt_now_ns();
            bool is_reset = turns_is_reset(peers[k].fd);
            while (!is_reset && !sup_is_late(began, __FILE__, __LINE__, "reset")) {
                nkt_sleep_ms(1); /* the kernel takes a ring apart behind our back */
                is_reset = turns_is_reset(peers[k].fd);
            }
            CHECK_EQ(turing.ends[k].closes, 1);
            sup_peer_close(&peers[k]);
        }
        CHECK_EQ(nkt_open_fds(), fds);
    }
}

static void turns_abort_one(netkit_loop *loop, int status, void *user) {
    CHECK_OK(status);
    CHECK_OK(netkit_conn_abort(loop, ((sup_end *)user)->conn));
}

/* UR04 UR15: another thread does not get a loop whose ring has not heard of such an end yet. */
NKT_TEST(uring_adopted_behind_an_abort) {
    netkit_loop *loop = turing_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    sup_settle(loop);
    nkt_fault_at("io_uring_enter", 1, EAGAIN, true);
    CHECK_OK(netkit_loop_post(loop, turns_abort_one, &end));
    SUP_UNTIL(loop, end.closes == 1);
    safety_shared = loop;
    safety_adopt_elsewhere();
    CHECK_ERR(safety_adopt_code, NETKIT_E_BUSY);
    nkt_fault_clear();
    sup_settle(loop);
    CHECK(turns_is_reset(peer.fd));
    sup_peer_close(&peer);
    safety_adopt_elsewhere();
    CHECK_OK(safety_adopt_code);
    CHECK_EQ(nkt_live_bytes(), 0);
}

#endif /* NKI_HAS_URING */
