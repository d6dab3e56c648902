/* The ring when it is full or fails at the wrong moment: nothing is kept that should have gone. */

#if NKI_HAS_URING

#include "support.h"
#include "support_loop.h"

static uint32_t trouble_fill(nki_uring *r) {
    uint32_t count = 0;
    while (r->sqe_tail - nki_atomic_load(r->sq_head) != r->sq_entries) {
        nki_uring_sqe *sqe = nki_uring_take(r);
        sqe->opcode = NKI_URING_NOP;
        sqe->flags = NKI_URING_SQE_SKIP_SUCCESS; /* and no completion that would end a wait */
        sqe->user_data = NKI_U_IGNORED;
        count++;
    }
    return count;
}

/* A ring whose places are all taken, and that the kernel takes nothing of until nkt_fault_clear. */
static void trouble_full(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (!u->has_skip) {
        SKIP("this kernel completes all it does");
    }
    CHECK(trouble_fill(&u->ring) > 0);
    nkt_fault_at("io_uring_enter", 1, EAGAIN, true);
}

static netkit_loop *trouble_small_loop(void) {
    netkit_loop *loop;
    nkt_fault_at("io_uring_setup", 1, ENOMEM, false);
    nkt_fault_at("io_uring_setup", 1, ENOMEM, false);
    loop = turing_loop();
    nkt_fault_clear();
    CHECK_EQ(nki_u_of(loop)->ring.sq_entries, 16);
    return loop;
}

static void trouble_on_watch(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    int *count = (int *)user;
    (void)loop;
    (void)watch;
    CHECK(events != 0);
    ++*count;
}

static bool trouble_is_ended(int fd) {
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno == ECONNRESET); /* it had not read all */
}

/* UR17 UR15: a watch is stopped while the ring is full and takes nothing: its poll is cancelled as
 * soon as it does, so a descriptor that its owner has closed is closed for the peer too, and the
 * next watch in its place is one like any other. */
NKT_TEST(uring_full_when_a_watch_stops) {
    netkit_loop *loop = trouble_small_loop();
    int count = 0, others = 0;
    for (int round = 0; round < 20; round++) {
        int fds[2], next[2];
        netkit_watch watch, other;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, next), 0);
        CHECK_OK(netkit_watch_start(loop, &watch, (uintptr_t)fds[0], NETKIT_POLL_READ,
                                    trouble_on_watch, &count));
        sup_settle(loop);
        trouble_full(loop);
        CHECK_OK(netkit_watch_stop(loop, watch));
        CHECK_EQ(close(fds[0]), 0);
        CHECK_OK(netkit_loop_run_once(loop, 0));
        CHECK(!trouble_is_ended(fds[1]));
        CHECK_OK(netkit_watch_start(loop, &other, (uintptr_t)next[0], NETKIT_POLL_READ,
                                    trouble_on_watch, &others));
        nkt_fault_clear();
        SUP_UNTIL(loop, trouble_is_ended(fds[1]));
        sup_say(next[1], "x");
        SUP_UNTIL(loop, others > round);
        CHECK_OK(netkit_watch_stop(loop, other));
        sup_settle(loop);
        others = round + 1;
        CHECK_EQ(close(fds[1]) + close(next[0]) + close(next[1]), 0);
    }
    CHECK_EQ(count, 0);
    nkt_loop_done(loop);
}

/* UR17: what a watch asks for is changed while the ring is full: it hears of the new, and no more
 * of the old. */
NKT_TEST(uring_full_when_a_watch_changes) {
    netkit_loop *loop = trouble_small_loop();
    int fds[2], count = 0;
    netkit_watch watch;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_OK(netkit_watch_start(loop, &watch, (uintptr_t)fds[0], NETKIT_POLL_READ, trouble_on_watch,
                                &count));
    sup_settle(loop);
    trouble_full(loop);
    CHECK_OK(netkit_watch_set(loop, watch, NETKIT_POLL_WRITE));
    CHECK_OK(netkit_watch_set(loop, watch, 0));
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_fault_clear();
    sup_say(fds[1], "x");
    sup_settle(loop);
    CHECK_EQ(count, 0);
    CHECK_OK(netkit_watch_set(loop, watch, NETKIT_POLL_READ));
    SUP_UNTIL(loop, count > 0);
    CHECK_OK(netkit_watch_stop(loop, watch));
    sup_settle(loop);
    CHECK_EQ(close(fds[0]), 0);
    CHECK(trouble_is_ended(fds[1]));
    CHECK_EQ(close(fds[1]), 0);
    nkt_loop_done(loop);
}

/* UR17 SD36: conns are closed while the ring is full and takes nothing: their peers see the end
 * when it does again, each conn hears of its end once, and others never noticed. */
NKT_TEST(uring_full_when_conns_close) {
    enum {
        PEERS = 40
    };
    netkit_loop *loop = trouble_small_loop();
    sup_peer peers[PEERS];
    uint16_t port = turing_listen(loop);
    for (int i = 0; i < PEERS; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    SUP_UNTIL(loop, turing.count == PEERS);
    sup_settle(loop);
    trouble_full(loop);
    for (int i = 0; i < PEERS; i += 2) {
        CHECK_OK(netkit_conn_abort(loop, turing.ends[i].conn));
    }
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_fault_clear();
    sup_settle(loop);
    for (int i = 0; i < PEERS; i++) {
        sup_peer_step(&peers[i]);
        CHECK_EQ(turing.ends[i].closes, i % 2 == 0);
        CHECK_EQ(peers[i].end != 0, i % 2 == 0);
        if (i % 2 != 0) {
            peers[i].to_send = 1000;
            SUP_UNTIL_DOING(loop, peers[i].received == 1000) {
                sup_peer_step(&peers[i]);
            }
        }
        CHECK_EQ(close(peers[i].fd), 0);
    }
    sup_settle(loop);
    nkt_loop_done(loop);
}

/* Connections that the kernel has accepted, and nobody has looked at. */
static void trouble_accepted(netkit_loop *loop, uint16_t port, int *fds, int count) {
    nki_u *u = nki_u_of(loop);
    sup_settle(loop);
    for (int i = 0; i < count; i++) {
        fds[i] = sup_raw_dial(port, 0);
    }
    for (int i = 0; i < count; i++) {
        CHECK_EQ(nki_uring_enter(&u->ring, 0), 0);
    }
    CHECK(nki_uring_unread(&u->ring) >= (uint32_t)count);
}

/* Which of them our side has ended. */
static int trouble_ended(const int *fds, int count) {
    int ended = 0;
    for (int i = 0; i < count; i++) {
        ended += trouble_is_ended(fds[i]);
    }
    return ended;
}

/* UR23 UR17: a ring fails with accepted connections among its completions: closing the listener
 * closes them, and so does destroying the loop. */
NKT_TEST(uring_fails_with_accepted_connections) {
    for (int way = 0; way < 2; way++) {
        netkit_loop *loop = turing_loop();
        netkit_handler handler = sup_handler();
        netkit_listen_desc desc;
        netkit_listener listener;
        int fds[20];
        if (!nki_u_of(loop)->has_accept_multishot) {
            SKIP("no multishot accept here");
        }
        handler.on_open = turing_on_open;
        memset(&turing, 0, sizeof(turing));
        desc = sup_listen_desc(&handler, &turing);
        uint16_t port = sup_listen(loop, &desc, &listener);
        trouble_accepted(loop, port, fds, 20);
        nkt_fault_at("io_uring_enter", 1, EBADF, true);
        if (way == 0) {
            CHECK_OK(netkit_listener_close(loop, listener));
            CHECK_EQ(trouble_ended(fds, 20), 20);
        }
        nkt_loop_done(loop);
        nkt_fault_clear();
        CHECK_EQ(trouble_ended(fds, 20), 20);
        CHECK_EQ(turing.count, 0);
        for (int i = 0; i < 20; i++) {
            CHECK_EQ(close(fds[i]), 0);
        }
    }
}

static int trouble_posts;

static void trouble_on_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)user;
    CHECK_OK(status);
    trouble_posts++;
}

static void *trouble_post_later(void *arg) {
    nkt_sleep_ms(50);
    CHECK_OK(netkit_loop_post((netkit_loop *)arg, trouble_on_post, NULL));
    return NULL;
}

/* UR18 UR17: the ring has no place for the poll of wakes at first: no wait begins without it. */
NKT_TEST(uring_full_when_wakes_are_armed) {
    netkit_loop *loop = turing_loop();
    nki_u *u = nki_u_of(loop);
    pthread_t thread;
    if (!u->has_skip) {
        SKIP("this kernel completes all it does");
    }
    CHECK(trouble_fill(&u->ring) > 0);
    nkt_fault_at("io_uring_enter", 1, EAGAIN, false);
    CHECK_EQ(pthread_create(&thread, NULL, trouble_post_later, loop), 0);
    uint64_t began = nkt_now_ns();
    while (trouble_posts == 0) {
        CHECK_OK(netkit_loop_run_once(loop, 5000 * (int)nkt_slowness));
    }
    CHECK(nkt_now_ns() - began < 4 * nkt_slowness * NKI_NS_PER_S);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    nkt_loop_done(loop);
}

/* I-04 UR06: what enter(2) says in passing is nobody's business: every byte comes, in order, though
 * a third of all calls are refused. */
NKT_TEST(uring_enter_fails_in_passing) {
    static const int errors[] = {EAGAIN, EBUSY, EINTR, ETIME};
    for (size_t i = 0; i < NKI_COUNT(errors); i++) {
        netkit_loop *loop = turing_loop();
        nkt_fault_prob("io_uring_enter", 33, errors[i]);
        for (int round = 0; round < 5; round++) {
            turing_echo_all(loop, 20, 50000);
            turing_echo_all(loop, TURING_PEERS, 200);
        }
        CHECK(nkt_faults() > 5);
        nkt_fault_clear();
        nkt_loop_done(loop);
    }
}

/* I-08 UR23: what it does not get over ends a run with that error, soon: among it that the kernel
 * has lost a completion (EBADR) and that its polling thread is dead (EOWNERDEAD). Once is not for
 * ever: the next run goes on where that one ended (but see uring_shares_after_lost_completions). */
NKT_TEST(uring_enter_fails_for_good) {
    static const int errors[] = {EBADR, ENXIO, EEXIST, EOWNERDEAD, EBADF, EFAULT};
    for (size_t i = 0; i < NKI_COUNT(errors); i++) {
        netkit_loop *loop = turing_loop();
        if (errors[i] == EBADR && nki_u_of(loop)->pool.is_sharing) {
            nkt_loop_done(loop);
            continue;
        }
        sup_peer peers[5];
        safety_dial_all(loop, peers, 5);
        uint64_t began = nkt_now_ns();
        nkt_fault_at("io_uring_enter", 1, errors[i], true);
        CHECK(netkit_loop_run(loop) < 0);
        nkt_fault_clear();
        CHECK(nkt_now_ns() - began < (uint64_t)NKI_NS_PER_S * nkt_slowness);
        peers[0].to_send = 1000;
        SUP_UNTIL_DOING(loop, peers[0].received == 1000) {
            sup_peer_step(&peers[0]);
        }
        nkt_fault_at("io_uring_enter", 1, errors[i], true);
        nkt_loop_done(loop);
        nkt_fault_clear();
        CHECK(nkt_now_ns() - began < 5 * (uint64_t)NKI_NS_PER_S * nkt_slowness);
        safety_all_closed(peers, 5);
    }
}

/* UR06 UR07: who never waits hears of everything all the same: polls without any budget, as in a
 * game's frame, accept, receive and answer, a hundred conns in a few calls. */
NKT_TEST(uring_polls_without_a_budget) {
    netkit_loop *loop = turing_loop();
    uint16_t port = turing_listen(loop);
    static sup_peer peers[TURING_PEERS];
    int polls = 0, done = 0;
    for (int i = 0; i < TURING_PEERS; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
        peers[i].to_send = 100;
        sup_peer_step(&peers[i]);
    }
    for (; done < TURING_PEERS && polls < 10000; polls++) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
        done = 0;
        for (int i = 0; i < TURING_PEERS; i++) {
            sup_peer_step(&peers[i]);
            done += peers[i].received == 100;
        }
    }
    printf("%d polls\n", polls);
    CHECK_EQ(done, TURING_PEERS);
    for (int i = 0; i < TURING_PEERS; i++) {
        sup_peer_close(&peers[i]);
    }
    for (polls = 0; netkit_loop_objects(loop) > 1 && polls < 10000; polls++) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
    }
    CHECK_EQ(netkit_loop_objects(loop), 1);
    nkt_loop_done(loop);
}

/* Z-06 UR23: what a forked child does to its copy of a conn is nothing to the parent's: closed
 * there, the peer sees an end and no reset. */
NKT_TEST(uring_child_leaves_no_reset_behind) {
    netkit_loop *loop = turing_loop();
    sup_peer peers[3];
    int status = 0;
    safety_dial_all(loop, peers, 3);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_OK(netkit_conn_abort(loop, turing.ends[0].conn));
        CHECK_OK(netkit_loop_destroy(loop));
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < 3; i++) {
        struct linger linger;
        socklen_t len = sizeof(linger);
        uintptr_t fd;
        CHECK_OK(netkit_conn_native(loop, turing.ends[i].conn, &fd));
        CHECK_EQ(getsockopt((int)fd, SOL_SOCKET, SO_LINGER, &linger, &len), 0);
        CHECK_EQ(linger.l_onoff, 0);
        CHECK_OK(netkit_conn_close(loop, turing.ends[i].conn));
        SUP_UNTIL_DOING(loop, peers[i].end != 0) {
            sup_peer_step(&peers[i]);
        }
        CHECK_EQ(peers[i].end, SUP_EOF);
        sup_peer_close(&peers[i]);
        SUP_UNTIL(loop, turing.ends[i].closes == 1);
    }
    nkt_loop_done(loop);
}

#endif /* NKI_HAS_URING */
