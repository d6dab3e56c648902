/* The ring when the kernel, a sandbox or a fork is against it, and what is had on request. */

#if NKI_HAS_URING

#include "../seccomp.h"
#include "support.h"
#include "support_loop.h"

static netkit_loop *safety_loop(netkit_loop_desc *desc) {
    netkit_loop *loop = NULL;
    int code;
    desc->backend = NETKIT_BACKEND_URING;
    desc->allocator = nkt_allocator();
    nkt_ring_options(desc);
    code = netkit_loop_create(&loop, desc);
    if (code == NETKIT_E_NOSYS || code == NETKIT_E_NOMEM) {
        SKIP("io_uring, or this part of it, is refused here");
    }
    CHECK_OK(code);
    nkt_loops++;
    return loop;
}

static nki_u_slot *safety_slot(netkit_loop *loop, netkit_conn conn) {
    nki_source *source = (nki_source *)nki_slots_find(&loop->sources, conn.id, NKI_KIND_CONN);
    return source == NULL ? NULL : nki_u_slot_of(nki_u_of(loop), source);
}

/* Many conns of turing_listen with a raw peer each. */
static void safety_dial_all(netkit_loop *loop, sup_peer *peers, int count) {
    uint16_t port = turing_listen(loop);
    for (int i = 0; i < count; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    SUP_UNTIL(loop, turing.count == count);
    sup_settle(loop);
}

/* Every descriptor that is left is the test's, and every conn has heard of its end once. */
static void safety_all_closed(sup_peer *peers, int count) {
    for (int i = 0; i < count; i++) {
        CHECK_EQ(turing.ends[i].closes, 1);
        CHECK_EQ(close(peers[i].fd), 0);
    }
}

/* ---- completions ------------------------------------------------------------------------- */

/* I-02 UR08 UR09: half of all receives and accepts end at their first completion, which comes with
 * data and without F_MORE, and completions come to light late or a part at a time: all is begun
 * again, and no byte is missing. (How often that happens in a round is the kernel's affair: one of
 * before 6.0 has no operation that goes on, and a fast peer makes for few looks.) */
NKT_TEST(uring_operations_that_end_by_themselves) {
    netkit_loop *loop = turing_loop();
    nkt_hide("io_uring_multishot", UINT64_MAX, 50);
    nkt_hide("io_uring_cqes", UINT64_MAX, 20);
    nkt_hide("io_uring_cqes", 1, 30);
    for (int round = 0; round < 5 || (round < 50 && nkt_faults() <= 100); round++) {
        turing_echo_all(loop, 20, 100000);
        turing_echo_all(loop, TURING_PEERS, 300);
    }
    CHECK(nkt_faults() > 100);
    nkt_fault_clear();
    turing_echo_all(loop, 20, 1000);
    nkt_loop_done(loop);
}

/* I-06 UR13: sends that the kernel takes a few bytes of go on with the rest, once. */
NKT_TEST(uring_short_sends) {
    netkit_loop *loop = turing_loop();
    nkt_clip_random("send", 50);
    for (int round = 0; round < 5; round++) {
        turing_echo_all(loop, 50, 2000);
    }
    CHECK(nkt_faults() > 100);
    nkt_fault_clear();
    nkt_loop_done(loop);
}

/* UR10 UR16 I9: buffers that come for the dead go back: after a hundred conns were aborted with
 * bytes on their way, the kernel has all buffers again, and the next conns in the same slots hear
 * nothing of it. */
NKT_TEST(uring_buffers_of_the_dead_come_back) {
    netkit_loop *loop = turing_loop();
    turing_need_own_buffers(loop);
    nki_u *u = nki_u_of(loop);
    sup_peer peers[TURING_PEERS];
    u->pool.wanted = u->pool.count;
    for (int round = 0; round < 5; round++) {
        safety_dial_all(loop, peers, TURING_PEERS);
        for (int i = 0; i < TURING_PEERS; i++) {
            CHECK_EQ(send(peers[i].fd, "late", 4, MSG_NOSIGNAL), 4);
        }
        CHECK_EQ(nki_uring_enter(&u->ring, 0), 0); /* received, and not looked at */
        for (int i = 0; i < TURING_PEERS; i++) {
            CHECK_OK(netkit_conn_abort(loop, turing.ends[i].conn));
        }
        sup_settle(loop);
        CHECK_EQ(u->pool.held, 0);
        SUP_UNTIL(loop, (uint16_t)(u->pool.tail - (uint16_t)u->pool.count) ==
                            (uint16_t)(round + 1) * TURING_PEERS);
        safety_all_closed(peers, TURING_PEERS);
    }
    turing_echo_all(loop, TURING_PEERS, 1000);
    nkt_loop_done(loop);
}

/* T-22 UR09: urgent bytes end no receive for good: what is around them comes whole, through the
 * provided buffers, and the one receive goes on afterwards. */
NKT_TEST(uring_urgent_bytes) {
    netkit_loop *loop = turing_loop();
    nki_u *u = nki_u_of(loop);
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    for (int i = 0; i < 50; i++) {
        peer.to_send += 1 + nkt_random() % 3000;
        sup_peer_send(&peer);
        CHECK_EQ(peer.sent, peer.to_send);
        CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
        peer.to_send += 10;
        sup_peer_send(&peer);
        SUP_UNTIL(loop, end.bytes == peer.sent);
    }
    sup_settle(loop);
    uint64_t arms = u->arms;
    for (int i = 0; i < 20; i++) {
        peer.to_send += 100;
        sup_peer_send(&peer);
        SUP_UNTIL(loop, end.bytes == peer.sent);
    }
    CHECK(u->arms - arms <= 2);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs == 1);
    nkt_loop_done(loop);
}

/* T-22 UR05 UR09: where work is announced by signals, to a polling thread or to ours, a receive is
 * put off at an urgent byte; what is behind it comes all the same, small and large, and the end. */
NKT_TEST(uring_urgent_bytes_and_signals) {
    for (int is_polled = 0; is_polled < 2; is_polled++) {
        netkit_loop_desc desc;
        uintptr_t native;
        sup_end end;
        memset(&desc, 0, sizeof(desc));
        desc.ring_sqpoll_ms = is_polled ? 10 : 0;
        netkit_loop *loop = safety_loop(&desc);
        CHECK_OK(netkit_loop_native(loop, &native));
        sup_peer peer = sup_open_default(loop, &end);
        for (int i = 0; i < 400; i++) {
            CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
            peer.to_send += 1 + nkt_random() % (i < 200 ? 300 : 20000);
            sup_peer_send(&peer);
            CHECK_EQ(peer.sent, peer.to_send);
            SUP_UNTIL(loop, end.bytes == peer.sent);
        }
        CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
        sup_peer_close(&peer);
        SUP_UNTIL(loop, end.eofs == 1);
        nkt_loop_done(loop);
    }
}

/* One message of a peer, all of it heard. */
static void safety_hear(netkit_loop *loop, sup_peer *peer, sup_end *end, size_t size) {
    peer->to_send += size;
    sup_peer_send(peer);
    CHECK_EQ(peer->sent, peer->to_send);
    SUP_UNTIL(loop, end->bytes == peer->sent);
}

/* UR09 T-22: while reads are large one poll tells of them all, and what stands behind an urgent
 * byte is not left; small ones come by a receive again, and the end is heard either way. */
NKT_TEST(uring_bulk_is_polled_once) {
    netkit_loop *loop = turing_loop();
    turing_need_buffers(loop);
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    const nki_u_slot *s = safety_slot(loop, end.conn);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++) {
            safety_hear(loop, &peer, &end, 20000);
        }
        sup_settle(loop);
        CHECK_EQ(s->busy, NKI_U_BIT(NKI_U_POLL));
        uint8_t polls = s->polls;
        for (int i = 0; i < 50; i++) {
            safety_hear(loop, &peer, &end, 5000 + nkt_random() % 20000);
        }
        CHECK_EQ(s->polls, polls);
        for (int i = 0; i < 20 && round == 1; i++) {
            peer.to_send += 10000;
            sup_peer_send(&peer);
            CHECK_EQ(send(peer.fd, "!", 1, MSG_OOB), 1);
            safety_hear(loop, &peer, &end, 5000);
        }
        CHECK_EQ(s->polls, polls);
        for (int i = 0; i < 20 && round != 2; i++) {
            safety_hear(loop, &peer, &end, 100);
        }
        sup_settle(loop);
        CHECK_EQ(s->busy, NKI_U_BIT(round != 2 ? NKI_U_RECV : NKI_U_POLL));
    }
    safety_hear(loop, &peer, &end, 20000);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs == 1);
    nkt_loop_done(loop);
}

/* ---- against us ------------------------------------------------------------------------------ */

/* UR23 I-05: `enter` fails for ever while the loop is destroyed: that ends soon all the same, and
 * every conn hears of its end. */
NKT_TEST(uring_destroyed_while_enter_fails) {
    static const int errors[] = {EAGAIN, EBUSY, EINTR, EBADF};
    for (int i = 0; i < 4; i++) {
        netkit_loop *loop = turing_loop();
        sup_peer peers[20];
        safety_dial_all(loop, peers, 20);
        uint64_t began = nkt_now_ns();
        nkt_fault_at("io_uring_enter", 1, errors[i], true);
        nkt_loop_done(loop);
        nkt_fault_clear();
        CHECK(nkt_now_ns() - began < 5 * (uint64_t)NKI_NS_PER_S * nkt_slowness);
        safety_all_closed(peers, 20);
    }
}

/* The same sandbox, put on when everything is running. */
static void safety_sandboxed(void) {
    netkit_loop *loop = turing_loop();
    sup_peer peers[20];
    uint64_t began = nkt_now_ns();
    safety_dial_all(loop, peers, 20);
    for (int i = 0; i < 20; i++) { /* read before the run gives up, where a poll comes first */
        peers[i].to_send = 1;
        sup_peer_step(&peers[i]);
    }
    if (!nkt_seccomp(SECCOMP_RET_ERRNO | EPERM, 425, 427)) {
        _exit(77);
    }
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_ACCESS);
    CHECK_OK(netkit_conn_abort(loop, turing.ends[0].conn));
    CHECK_OK(netkit_conn_close(loop, turing.ends[1].conn));
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_loop_done(loop);
    CHECK(nkt_now_ns() - began < 5 * (uint64_t)NKI_NS_PER_S * nkt_slowness);
    safety_all_closed(peers, 20);
}

/* I-08: io_uring's calls are refused from one moment on: a run gives up with that error, and the
 * loop can be destroyed. Where they kill, the process is dead at the next one, not stuck. */
NKT_TEST(uring_refused_after_the_start) {
    int status = 0;
    pid_t pid;
    nkt_loop_done(turing_loop());
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        safety_sandboxed();
        fflush(stdout);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        SKIP("no seccomp here");
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        netkit_loop *loop = turing_loop();
        (void)turing_listen(loop);
        sup_settle(loop);
        if (nkt_seccomp(SECCOMP_RET_KILL_PROCESS, 425, 427)) {
            (void)netkit_loop_run_once(loop, 10000);
        }
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

/* I-07 UR02 UR04: features and operations taken away one by one: without a needed one the ring is
 * refused in words, without any other it works. */
NKT_TEST(uring_features_one_by_one) {
    static const unsigned needed[] = {NKI_URING_POLL_ADD, NKI_URING_ACCEPT, NKI_URING_CANCEL,
                                      NKI_URING_SEND, NKI_URING_RECV};
    netkit_loop *loop = turing_loop();
    turing_echo_all(loop, 1, 100);
    bool has_multishot = nki_u_of(loop)->has_recv_multishot; /* of this kernel */
    nkt_loop_done(loop);
    for (unsigned bit = 0; bit < 16; bit++) {
        nkt_hide("io_uring_features", 1u << bit, 100);
        if ((NKI_URING_FEAT_NEEDED >> bit & 1u) != 0) {
            turing_check_refused(NETKIT_E_NOSYS, "ENOSYS");
        } else {
            loop = turing_loop();
            turing_echo_all(loop, 5, 20000);
            nkt_loop_done(loop);
        }
        nkt_fault_clear();
    }
    for (size_t i = 0; i < NKI_COUNT(needed); i++) {
        nkt_hide("io_uring_ops", (uint64_t)1 << needed[i], 100);
        turing_check_refused(NETKIT_E_NOSYS, "ENOSYS");
        nkt_fault_clear();
    }
    for (unsigned op = NKI_URING_OP_5_19; op <= NKI_URING_OP_6_0; op++) {
        nkt_hide("io_uring_ops", (uint64_t)1 << op, 100);
        loop = turing_loop();
        turing_echo_all(loop, 10, 20000);
        CHECK_EQ(nki_u_of(loop)->has_recv_multishot, has_multishot && op != NKI_URING_OP_6_0);
        nkt_loop_done(loop);
        nkt_fault_clear();
    }
}

/* What a forked child does with what it has inherited; none of it may be a call to the ring. */
static void safety_child(netkit_loop *loop, sup_end *ends, int pipe_fd) {
    netkit_watch watch;
    netkit_timer timer;
    nkt_calls_reset();
    (void)netkit_loop_run_once(loop, 0);
    (void)netkit_loop_poll(loop, 0);
    (void)netkit_conn_pause(loop, ends[0].conn);
    (void)netkit_conn_resume(loop, ends[0].conn);
    (void)netkit_conn_flush(loop, ends[0].conn);
    (void)netkit_loop_flush(loop);
    (void)netkit_timer_start(loop, &timer, 0, 0, NULL, NULL);
    if (netkit_watch_start(loop, &watch, (uintptr_t)pipe_fd, NETKIT_POLL_READ, NULL, NULL) ==
        NETKIT_OK) {
        (void)netkit_watch_set(loop, watch, NETKIT_POLL_WRITE);
        (void)netkit_watch_stop(loop, watch);
    }
    (void)netkit_conn_abort(loop, ends[1].conn);
    (void)netkit_loop_stop(loop);
    CHECK_ERR(netkit_loop_adopt(loop), NETKIT_E_NOSYS);
    uintptr_t native;
    CHECK_ERR(netkit_loop_native(loop, &native), NETKIT_E_NOSYS);
    CHECK_OK(netkit_loop_destroy(loop));
    CHECK_EQ(nkt_calls("io_uring_enter") + nkt_calls("io_uring_register"), 0);
    CHECK_EQ(nkt_calls("io_uring_message"), 0);
}

/* Z-06 UR23: a forked child may call what it likes on the loop it inherited and destroy it: it
 * makes no call to the ring, and the parent's traffic goes on. */
NKT_TEST(uring_child_never_touches_the_ring) {
    netkit_loop *loop = turing_loop();
    sup_peer peers[2];
    int fds[2], status = 0;
    pid_t pid;
    CHECK_EQ(pipe(fds), 0);
    safety_dial_all(loop, peers, 2);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        safety_child(loop, turing.ends, fds[0]);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    peers[0].to_send = 100000;
    SUP_UNTIL_DOING(loop, peers[0].received == 100000) {
        sup_peer_step(&peers[0]);
    }
    CHECK_EQ(close(fds[0]) + close(fds[1]) + close(peers[0].fd) + close(peers[1].fd), 0);
    sup_settle(loop);
    nkt_loop_done(loop);
}

static netkit_loop *safety_shared;
static int safety_adopt_code;

static void *safety_adopting(void *arg) {
    (void)arg;
    safety_adopt_code = netkit_loop_adopt(safety_shared);
    if (safety_adopt_code == NETKIT_OK) {
        turing_echo_all(safety_shared, 5, 50000);
        SUP_UNTIL(safety_shared, netkit_loop_objects(safety_shared) == 1); /* the listener */
        CHECK_OK(netkit_loop_destroy(safety_shared));
        nkt_loops--;
    }
    return NULL;
}

static void safety_adopt_elsewhere(void) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, safety_adopting, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* UR04: another thread cannot have a loop with operations in flight: BUSY, and it goes on here;
 * when they are over it gets it, with a ring of its own. */
NKT_TEST(uring_adopted_when_nothing_is_in_flight) {
    netkit_loop *loop = turing_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    safety_shared = loop;
    peer.to_send = 100;
    SUP_UNTIL_DOING(loop, end.bytes == 100) {
        sup_peer_step(&peer);
    }
    safety_adopt_elsewhere();
    CHECK_ERR(safety_adopt_code, NETKIT_E_BUSY);
    peer.to_send = 200;
    SUP_UNTIL_DOING(loop, end.bytes == 200) {
        sup_peer_step(&peer);
    }
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs == 1);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    safety_adopt_elsewhere();
    CHECK_OK(safety_adopt_code);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* UR10 IO13: an idle conn that has talked before costs 192 bytes at most, and no buffer. */
NKT_TEST(uring_idle_conns_are_small) {
    enum {
        CONNS = 512
    };
    static int fds[CONNS];
    netkit_loop *loop = turing_loop();
    netkit_handler handler;
    netkit_listen_desc desc;
    netkit_listener listener;
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    turing_echo_all(loop, 10, 100); /* what is made at first use */
    memset(&handler, 0, sizeof(handler));
    desc = sup_listen_desc(&handler, NULL);
    uint16_t port = sup_listen(loop, &desc, &listener);
    sup_settle(loop);
    /* Slots come 256 at a time, so what the first slab has left is used up first. */
    uint32_t spare = loop->sources.capacity - loop->sources.count;
    int64_t before = 0;
    for (uint32_t i = 0; i < spare + 256; i++) {
        CHECK(i < CONNS);
        if (i == spare) {
            sup_settle(loop);
            before = nkt_live_bytes();
        }
        fds[i] = sup_raw_dial(port, 0);
        CHECK_EQ(send(fds[i], "hello", 5, MSG_NOSIGNAL), 5);
        (void)netkit_loop_run_once(loop, 0);
    }
    sup_settle(loop);
    int64_t each = (nkt_live_bytes() - before) / 256;
    printf("%d bytes each\n", (int)each);
    CHECK_EQ(netkit_loop_objects(loop), spare + 256 + 2);
    CHECK(each <= 192);
    CHECK_EQ(nki_u_of(loop)->pool.held, 0);
    for (uint32_t i = 0; i < spare + 256; i++) {
        CHECK_EQ(close(fds[i]), 0);
    }
    sup_settle(loop);
    nkt_loop_done(loop);
}

typedef struct safety_keeper {
    sup_end end;
    netkit_buf bufs[64];
    int count, swapped, refused;
    int want; /* keeping is to give this */
} safety_keeper;

static size_t safety_keep(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                          void *user) {
    safety_keeper *k = (safety_keeper *)user;
    netkit_buf *buf = &k->bufs[k->count];
    uint64_t at = k->end.bytes;
    CHECK(k->count < 64);
    int code = netkit_conn_keep(loop, conn, buf);
    sup_on_data(loop, conn, data, len, user);
    if (code == NETKIT_OK) {
        CHECK_EQ(buf->len, len);
        sup_check_bytes(buf->data, buf->len, at);
        k->swapped += buf->data == data;
        k->count++;
    } else {
        CHECK_EQ(code, k->want);
        CHECK(buf->data == NULL && buf->owner == NULL);
        k->refused++;
    }
    return len;
}

static void safety_keep_one(netkit_loop *loop, sup_peer *peer, safety_keeper *k, uint64_t len) {
    uint64_t datas = (uint64_t)k->end.datas;
    peer->to_send += len;
    sup_peer_send(peer);
    CHECK_EQ(peer->sent, peer->to_send);
    SUP_UNTIL(loop, k->end.bytes == peer->sent);
    CHECK_EQ(k->end.datas, datas + 1);
}

static void *safety_give_back(void *arg) {
    safety_keeper *k = (safety_keeper *)arg;
    for (int i = 0; i < k->count; i++) {
        netkit_buf_release(&k->bufs[i]);
        CHECK(k->bufs[i].owner == NULL);
    }
    return NULL;
}

/* IO14 PO16: a pool of four buffers, and forty kept: each is the very memory the kernel wrote to,
 * reading never stops for them, the bound is told, and another thread gives them back, once. */
NKT_TEST(uring_keeps_buffers_without_a_copy) {
    netkit_loop_desc desc;
    sup_setup setup = sup_setup_default();
    safety_keeper k;
    pthread_t thread;
    memset(&desc, 0, sizeof(desc));
    memset(&k, 0, sizeof(k));
    desc.keep_max = 40 * NKI_POOL_SIZE;
    netkit_loop *loop = safety_loop(&desc);
    nki_u *u = nki_u_of(loop);
    u->pool.count = 4;
    setup.handler.on_data = safety_keep;
    sup_end_init(&k.end);
    k.want = NETKIT_E_FULL;
    sup_peer peer = sup_open(loop, &k.end, &setup);
    turing_need_own_buffers(loop);
    for (int round = 0; round < 3; round++) {
        k.count = 0;
        k.swapped = 0;
        k.refused = 0;
        for (int i = 0; i < 50; i++) {
            safety_keep_one(loop, &peer, &k, 3000);
        }
        CHECK_EQ(k.count, 40);
        CHECK_EQ(k.swapped, 40);
        CHECK_EQ(k.refused, 10);
        CHECK_EQ(loop->kept_bytes, 40 * NKI_POOL_SIZE);
        CHECK_EQ(pthread_create(&thread, NULL, safety_give_back, &k), 0);
        sup_settle(loop); /* while they come back */
        CHECK_EQ(pthread_join(thread, NULL), 0);
        sup_settle(loop);
        CHECK_EQ(loop->kept_bytes, 0);
        CHECK_EQ(u->pool.held, 0);
    }
    sup_peer_close(&peer);
    SUP_UNTIL(loop, k.end.eofs == 1);
    nkt_loop_done(loop);
}

static size_t safety_keep_twice(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                void *user) {
    safety_keeper *k = (safety_keeper *)user;
    uint64_t at = k->end.bytes;
    netkit_buf none;
    nkt_alloc_fail_at(1, false);
    CHECK_ERR(netkit_conn_keep(loop, conn, &none), NETKIT_E_NOMEM);
    CHECK(none.data == NULL && none.owner == NULL);
    nkt_alloc_fail_at(0, false);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(netkit_conn_keep(loop, conn, &k->bufs[k->count]));
        k->swapped += k->bufs[k->count].data == data;
        sup_check_bytes(k->bufs[k->count].data, len, at);
        k->count++;
    }
    CHECK(k->bufs[k->count - 1].data != k->bufs[k->count - 2].data);
    return sup_on_data(loop, conn, data, len, user);
}

/* IO14 C1: a small span is copied rather than taking a whole buffer along; kept twice, in two
 * places; without memory it is refused and nothing is lost; given back after the loop's end. */
NKT_TEST(uring_keeps_twice_and_beyond_the_loop) {
    netkit_loop *loop = turing_loop();
    sup_setup setup = sup_setup_default();
    safety_keeper k;
    memset(&k, 0, sizeof(k));
    setup.handler.on_data = safety_keep_twice;
    sup_end_init(&k.end);
    sup_peer peer = sup_open(loop, &k.end, &setup);
    const nki_u *u = nki_u_of(loop);
    bool has_own_buffers = u->has_recv_multishot && !u->pool.is_sharing;
    safety_keep_one(loop, &peer, &k, 5000);
    CHECK_EQ(k.swapped, has_own_buffers);
    safety_keep_one(loop, &peer, &k, 100);
    CHECK_EQ(k.swapped, has_own_buffers);
    CHECK_EQ(k.count, 4);
    sup_peer_close(&peer);
    CHECK_OK(netkit_loop_destroy(loop));
    nkt_loops--;
    CHECK(nkt_live_bytes() >= 5000);
    (void)safety_give_back(&k);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* ---- wakes --------------------------------------------------------------------------------- */

typedef struct safety_pong {
    netkit_loop *loops[2];
    int count;
} safety_pong;

static void safety_pong_post(netkit_loop *loop, int status, void *user) {
    safety_pong *p = (safety_pong *)user;
    if (status == NETKIT_OK && TL_ADD(&p->count, 1) < 4000) {
        CHECK_OK(netkit_loop_post(p->loops[loop == p->loops[0]], safety_pong_post, user));
    } else if (status == NETKIT_OK) {
        CHECK_OK(netkit_loop_stop(p->loops[0]));
        CHECK_OK(netkit_loop_stop(p->loops[1]));
    }
}

static void safety_on_never(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    (void)user;
}

static void *safety_run(void *arg) {
    netkit_loop *loop = (netkit_loop *)arg;
    netkit_timer timer;
    CHECK_OK(netkit_timer_start(loop, &timer, (uint64_t)3600 * 1000000, 0, safety_on_never, NULL));
    CHECK_OK(netkit_loop_run(loop));
    return NULL;
}

/* Two loops post to each other four thousand times, and none is lost. */
static void safety_pong_all(netkit_loop *one, netkit_loop *other, unsigned failing) {
    safety_pong p;
    pthread_t thread;
    memset(&p, 0, sizeof(p));
    p.loops[0] = one;
    p.loops[1] = other;
    nkt_calls_reset();
    CHECK_OK(netkit_loop_post(p.loops[0], safety_pong_post, &p));
    CHECK_EQ(pthread_create(&thread, NULL, safety_run, p.loops[1]), 0);
    nkt_fault_prob("io_uring_message", failing, ENOMEM); /* on this thread */
    (void)safety_run(p.loops[0]);
    nkt_fault_clear();
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(p.count, 4000);
    CHECK(nkt_calls("read") <= 10);
    CHECK_OK(netkit_loop_adopt(p.loops[1]));
    nkt_loop_done(p.loops[1]);
    nkt_loop_done(p.loops[0]);
}

/* UR18 I6: each wake is one message to the other's ring; one that fails is a write instead. */
NKT_TEST(uring_loops_wake_each_other) {
    netkit_loop *loop = turing_loop();
    if (nki_u_of(loop)->message_fd < 0) {
        nkt_loop_done(loop);
        SKIP("no messages to a ring by who has none: Linux 6.13");
    }
    safety_pong_all(loop, turing_loop(), 0);
    CHECK(nkt_calls("io_uring_message") >= 100);
    CHECK(nkt_calls("io_uring_message") <= 4010);
    CHECK(nkt_calls("write") <= 10);
    safety_pong_all(turing_loop(), turing_loop(), 33);
    CHECK(nkt_calls("write") >= 20);
}

/* UR18 I6: or, where there are no such messages, it is one write, and none is read back. */
NKT_TEST(uring_loops_wake_each_other_by_writes) {
    netkit_loop *loops[2];
    for (int i = 0; i < 2; i++) {
        nkt_fault_at("io_uring_message", 1, EINVAL, false); /* what an old kernel says */
        loops[i] = turing_loop();
        CHECK_EQ(nki_u_of(loops[i])->message_fd, -1);
        nkt_fault_clear();
    }
    safety_pong_all(loops[0], loops[1], 0);
    CHECK(nkt_calls("write") >= 100);
    CHECK(nkt_calls("write") <= 4010);
    CHECK_EQ(nkt_calls("io_uring_message"), 0);
}

enum {
    SAFETY_MOVES = 30
};

typedef struct safety_moving {
    netkit_loop *loop;
    int seen;           /* posts that were run */
    int turn;           /* of the threads: which one has the loop */
    bool stop, is_over; /* of the poster */
    uintptr_t native;
} safety_moving;

typedef struct safety_mover {
    safety_moving *all;
    int number;
} safety_mover;

static void safety_moving_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    CHECK_OK(status);
    TL_ADD(&((safety_moving *)user)->seen, 1);
}

/* Posts and waits for each to be run: with a wake lost, it and the loop would wait for ever. */
static void *safety_post_on(void *arg) {
    safety_moving *m = (safety_moving *)arg;
    for (int posted = 1; !TL_GET(&m->stop); posted++) {
        CHECK_OK(netkit_loop_post(m->loop, safety_moving_post, m));
        while (TL_GET(&m->seen) < posted) {
            sched_yield();
        }
    }
    TL_SET(&m->is_over, true);
    return NULL;
}

/* Threads that end only when all have had it: each is really another one. */
static void *safety_have_a_turn(void *arg) {
    const safety_mover *mover = (const safety_mover *)arg;
    safety_moving *m = mover->all;
    while (TL_GET(&m->turn) != mover->number) {
        nkt_sleep_ms(1);
    }
    CHECK_OK(netkit_loop_adopt(m->loop));
    for (int until = TL_GET(&m->seen) + 5; TL_GET(&m->seen) < until;) {
        CHECK_OK(netkit_loop_run_once(m->loop, 60000));
        CHECK_EQ(m->loop->wait_failures, 0);
    }
    TL_ADD(&m->turn, 1);
    while (TL_GET(&m->turn) < SAFETY_MOVES) {
        nkt_sleep_ms(1);
    }
    return NULL;
}

/* UR18 I6: a loop goes from thread to thread, each with a ring of its own, while another thread
 * posts to it. The ring's descriptor stays the same, so a wake never goes to a stranger's. */
NKT_TEST(uring_moves_while_others_post) {
    safety_moving m;
    safety_mover movers[SAFETY_MOVES];
    pthread_t poster, threads[SAFETY_MOVES];
    memset(&m, 0, sizeof(m));
    m.loop = turing_loop();
    int fd = nki_u_of(m.loop)->ring.fd;
    CHECK_OK(netkit_loop_run_once(m.loop, 0)); /* enables it */
    nkt_calls_reset();
    CHECK_EQ(pthread_create(&poster, NULL, safety_post_on, &m), 0);
    for (int i = 0; i < SAFETY_MOVES; i++) {
        movers[i].all = &m;
        movers[i].number = i;
        CHECK_EQ(pthread_create(&threads[i], NULL, safety_have_a_turn, &movers[i]), 0);
    }
    for (int i = 0; i < SAFETY_MOVES; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    CHECK_EQ(nkt_calls("dup3"), SAFETY_MOVES);
    CHECK_EQ(nki_u_of(m.loop)->ring.fd, fd);
    CHECK_OK(netkit_loop_adopt(m.loop));
    TL_SET(&m.stop, true);
    while (!TL_GET(&m.is_over)) {
        CHECK_OK(netkit_loop_run_once(m.loop, 10));
    }
    CHECK_EQ(pthread_join(poster, NULL), 0);
    nkt_loop_done(m.loop);
}

static void *safety_have_it_once(void *arg) {
    safety_moving *m = (safety_moving *)arg;
    CHECK_OK(netkit_loop_adopt(m->loop));
    CHECK_OK(netkit_loop_post(m->loop, safety_moving_post, m));
    CHECK_OK(netkit_loop_run_once(m->loop, 1000));
    CHECK_EQ(m->loop->wait_failures, 0);
    return NULL;
}

/* UR04 UR18: one after the other, each ended before the next begins: glibc then gives them the same
 * memory, and whoever takes that for a name takes the next one for the last. */
NKT_TEST(uring_moves_to_a_thread_of_the_same_address) {
    safety_moving m;
    pthread_t thread;
    memset(&m, 0, sizeof(m));
    m.loop = turing_loop();
    for (int i = 1; i <= 5; i++) {
        CHECK_EQ(pthread_create(&thread, NULL, safety_have_it_once, &m), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(m.seen, i);
    }
    CHECK_OK(netkit_loop_adopt(m.loop));
    nkt_loop_done(m.loop);
}

static void *safety_wait_elsewhere(void *arg) {
    safety_moving *m = (safety_moving *)arg;
    struct pollfd p;
    uintptr_t native;
    CHECK_OK(netkit_loop_adopt(m->loop));
    CHECK_OK(netkit_loop_native(m->loop, &native));
    CHECK_EQ(native, m->native);
    p.fd = (int)native;
    p.events = POLLIN;
    TL_SET(&m->turn, 1);
    while (TL_GET(&m->seen) == 0) {
        int timeout = netkit_loop_timeout_ms(m->loop);
        CHECK(poll(&p, 1, timeout < 0 ? 8000 : timeout) == 1 || timeout >= 0);
        CHECK_OK(netkit_loop_poll(m->loop, -1));
    }
    return NULL;
}

/* UR18 PL22: what a foreign loop waits for is the same behind a move, and wakes for the new ring;
 * by a write, too, where there are no messages. */
NKT_TEST(uring_moves_to_a_foreign_loop) {
    for (int by_write = 0; by_write < 2; by_write++) {
        safety_moving m;
        pthread_t thread;
        memset(&m, 0, sizeof(m));
        if (by_write == 1) {
            nkt_fault_at("io_uring_message", 1, EINVAL, false);
        }
        m.loop = turing_loop();
        nkt_fault_clear();
        CHECK_OK(netkit_loop_native(m.loop, &m.native));
        CHECK_OK(netkit_loop_run_once(m.loop, 0));
        CHECK_EQ(pthread_create(&thread, NULL, safety_wait_elsewhere, &m), 0);
        while (TL_GET(&m.turn) == 0) {
            nkt_sleep_ms(1);
        }
        nkt_sleep_ms(30); /* it sleeps by now */
        CHECK_OK(netkit_loop_post(m.loop, safety_moving_post, &m));
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_OK(netkit_loop_adopt(m.loop));
        nkt_loop_done(m.loop);
    }
}

static int safety_native_code;

static size_t safety_ask_native(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                void *user) {
    uintptr_t native;
    (void)conn;
    safety_native_code = netkit_loop_native(loop, &native);
    return sup_on_data(loop, conn, data, len, user); /* which looks at every byte */
}

/* UR04 PL22: asked for while a handler has bytes that were set aside for it: BUSY, and they stay. */
NKT_TEST(uring_native_in_a_callback) {
    netkit_loop *loop = turing_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    sup_end_init(&end);
    setup.handler.on_data = safety_ask_native;
    sup_peer peer = sup_open(loop, &end, &setup);
    bool is_deferring = (nki_u_of(loop)->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) != 0;
    CHECK_OK(netkit_conn_pause(loop, end.conn));
    peer.to_send = 3000;
    for (int i = 0; i < 20; i++) {
        sup_peer_step(&peer);
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    CHECK_EQ(end.bytes, 0);
    CHECK_OK(netkit_conn_resume(loop, end.conn));
    SUP_UNTIL(loop, end.bytes == 3000);
    CHECK_EQ(safety_native_code, is_deferring ? (int)NETKIT_E_BUSY : (int)NETKIT_OK);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs + end.closes > 0);
    nkt_loop_done(loop);
}

/* UR04 PL22: what was sent before the first turn is in nobody's way. */
NKT_TEST(uring_native_behind_a_send) {
    enum {
        SIZE = 4 << 20
    };
    static unsigned char data[SIZE];
    netkit_loop *loop = turing_loop();
    netkit_adopt_desc desc;
    netkit_conn conn;
    uintptr_t native;
    int fds[2];
    uint64_t got = 0;
    memset(&desc, 0, sizeof(desc));
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    desc.conn.send_max = 2 * SIZE;
    sup_fill(data, SIZE, 0);
    CHECK_OK(netkit_adopt(loop, &desc, &conn));
    CHECK_OK(netkit_conn_send(loop, conn, data, SIZE));
    CHECK_OK(netkit_loop_flush(loop));
    CHECK_OK(netkit_loop_native(loop, &native));
    while (got < SIZE) {
        static unsigned char in[65536];
        ssize_t n = recv(fds[1], in, sizeof(in), MSG_DONTWAIT);
        CHECK(n > 0 || (n < 0 && errno == EAGAIN));
        for (ssize_t i = 0; i < n; i++) {
            CHECK(in[i] == sup_byte(got + (uint64_t)i));
        }
        got += n > 0 ? (uint64_t)n : 0;
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    close(fds[1]);
    CHECK_OK(netkit_conn_abort(loop, conn));
    nkt_loop_done(loop);
}

/* UR04 PL22: asked for in time a foreign loop gets a ring that wakes it; too late it is told so, and
 * whatever call fails, the loop has the ring it had. */
NKT_TEST(uring_native_in_time_or_not) {
    static const char *const names[] = {"io_uring_setup", "mmap", "io_uring_register", "dup3"};
    netkit_loop *loop = turing_loop();
    uintptr_t native;
    sup_end end;
    if ((nki_u_of(loop)->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) == 0) {
        nkt_loop_done(loop);
        SKIP("every ring of this kernel wakes");
    }
    sup_peer peer = sup_open_default(loop, &end);
    CHECK_ERR(netkit_loop_native(loop, &native), NETKIT_E_BUSY);
    CHECK(native == UINTPTR_MAX);
    CHECK((nki_u_of(loop)->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) != 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
    loop = turing_loop(); /* late, but nothing is in flight: the kernel keeps nothing of the old */
    CHECK_OK(netkit_loop_run_once(loop, 0));
    int registered = nki_u_of(loop)->ring.enter_fd;
    CHECK_OK(netkit_loop_native(loop, &native));
    CHECK_OK(netkit_loop_run_once(loop, 0));
    CHECK_EQ(nki_u_of(loop)->ring.enter_fd, registered);
    turing_echo_all(loop, 3, 1000);
    nkt_loop_done(loop);
    for (size_t i = 0; i < NKI_COUNT(names); i++) {
        loop = turing_loop();
        nkt_fault_at(names[i], 1, ENOMEM, true);
        CHECK_ERR(netkit_loop_native(loop, &native), NETKIT_E_NOMEM);
        CHECK(native == UINTPTR_MAX);
        nkt_fault_clear();
        turing_echo_all(loop, 3, 1000);
        nkt_loop_done(loop);
        loop = turing_loop();
        CHECK_OK(netkit_loop_native(loop, &native));
        CHECK_EQ(nki_u_of(loop)->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN, 0);
        CHECK_EQ((int)native, nki_u_of(loop)->ring.fd);
        turing_echo_all(loop, TURING_PEERS, 1000);
        nkt_loop_done(loop);
    }
}

static void *safety_stop_it(void *arg) {
    CHECK_OK(netkit_loop_stop((netkit_loop *)arg));
    return NULL;
}

static void *safety_find_it_stopped(void *arg) {
    netkit_loop *loop = (netkit_loop *)arg;
    uint64_t began = nkt_now_ns();
    CHECK_OK(netkit_loop_adopt(loop));
    CHECK_OK(netkit_loop_run_once(loop, 20000));
    CHECK(nkt_now_ns() - began < 10 * (uint64_t)NKI_NS_PER_S);
    CHECK_OK(netkit_loop_destroy(loop));
    nkt_loops--;
    return NULL;
}

/* UR18: a stop before a move counts behind it. Stops hold nothing, however many they are. */
NKT_TEST(uring_stopped_and_moved) {
    netkit_loop *loop = turing_loop();
    pthread_t thread;
    CHECK_OK(netkit_loop_run_once(loop, 0));
    nkt_calls_reset();
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(netkit_loop_stop(loop));
    }
    CHECK_EQ(nkt_calls("io_uring_message"), 0);
    CHECK_EQ(pthread_create(&thread, NULL, safety_stop_it, loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, safety_find_it_stopped, loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static void *safety_adopt_in_vain(void *arg) {
    nkt_fault_at("dup3", 1, EMFILE, false);
    CHECK_ERR(netkit_loop_adopt((netkit_loop *)arg), NETKIT_E_MFILE);
    return NULL;
}

static void *safety_post_once(void *arg) {
    safety_moving *m = (safety_moving *)arg;
    CHECK_OK(netkit_loop_post(m->loop, safety_moving_post, m));
    return NULL;
}

/* UR18: a ring that cannot take the old one's place leaves that one as it was. */
NKT_TEST(uring_cannot_take_its_place) {
    safety_moving m;
    pthread_t thread;
    memset(&m, 0, sizeof(m));
    m.loop = turing_loop();
    CHECK_OK(netkit_loop_run_once(m.loop, 0));
    CHECK_EQ(pthread_create(&thread, NULL, safety_adopt_in_vain, m.loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    turing_echo_all(m.loop, 10, 10000);
    CHECK_EQ(pthread_create(&thread, NULL, safety_post_once, &m), 0);
    while (TL_GET(&m.seen) == 0) {
        CHECK_OK(netkit_loop_run_once(m.loop, 60000));
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
    nkt_loop_done(m.loop);
}

/* ---- on request ------------------------------------------------------------------------------ */

/* How many threads of this process are the kernel's own pollers. */
static int safety_pollers(void) {
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    CHECK(tasks != NULL);
    for (const struct dirent *d; (d = readdir(tasks)) != NULL;) {
        char path[300], name[64] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", d->d_name);
        FILE *f = fopen(path, "r");
        if (f != NULL) {
            count += fgets(name, sizeof(name), f) != NULL && strncmp(name, "iou-sqp", 7) == 0;
            fclose(f);
        }
    }
    closedir(tasks);
    return count;
}

/* UR05: on request a thread of the kernel submits, on the processor that was named, asleep and
 * awake; a loop that did not ask has none. */
NKT_TEST(uring_with_a_polling_thread) {
    netkit_loop_desc desc;
    netkit_loop *loop = turing_loop();
    turing_echo_all(loop, 2, 100);
    CHECK_EQ(safety_pollers(), 0);
    nkt_loop_done(loop);
    for (uint32_t cpu = 0; cpu < 2; cpu++) {
        memset(&desc, 0, sizeof(desc));
        desc.ring_sqpoll_ms = 1;
        desc.ring_sqpoll_cpu = cpu;
        loop = safety_loop(&desc);
        CHECK((nki_u_of(loop)->ring.flags & NKI_URING_SETUP_SQPOLL) != 0);
        turing_echo_all(loop, 20, 20000);
        for (int i = 0; i < 1000 && safety_pollers() != 1; i++) {
            nkt_sleep_ms(1); /* the one of the loop before ends later */
        }
        CHECK_EQ(safety_pollers(), 1);
        sup_turn_for_ms(loop, 50); /* it falls asleep */
        turing_echo_all(loop, TURING_PEERS, 1000);
        turing_echo_all(loop, 1, 1 << 20);
        nkt_loop_done(loop);
    }
}

/* UR05 PL06: a polling thread that the kernel does not give is a refusal with its reason, and with
 * `fastest` another backend. */
NKT_TEST(uring_without_a_polling_thread) {
    const char *reason = NKI_HAS_THREADS ? "EINVAL" : "ENOSYS"; /* of the kernel, or of ours */
    netkit_loop_desc desc;
    netkit_loop *loop = NULL;
    turing_log log;
    const char *why;
    nkt_loop_done(turing_loop());
    memset(&log, 0, sizeof(log));
    memset(&desc, 0, sizeof(desc));
    desc.backend = NETKIT_BACKEND_URING;
    desc.logger.user = &log;
    desc.logger.log = turing_log_line;
    desc.ring_sqpoll_ms = 1;
    desc.ring_sqpoll_cpu = 60000; /* no such processor */
    CHECK_ERR(netkit_loop_create(&loop, &desc), NETKIT_E_NOSYS);
    CHECK(strstr(log.text, "polling thread") != NULL && strstr(log.text, reason) != NULL);
    desc.ring_sqpoll_cpu = 0;
    nkt_fault_at("io_uring_setup", 1, EPERM, true);
    CHECK_ERR(netkit_loop_create(&loop, &desc), NETKIT_E_NOSYS);
    reason = NKI_HAS_THREADS ? "EPERM" : "ENOSYS";
    CHECK(strstr(log.text, "polling thread") != NULL && strstr(log.text, reason) != NULL);
    desc.backend = NETKIT_BACKEND_FASTEST;
    CHECK_OK(netkit_loop_create(&loop, &desc));
    CHECK_STR(netkit_loop_backend(loop, &why), "epoll");
    CHECK(strstr(why, "polling thread") != NULL);
    CHECK_OK(netkit_loop_destroy(loop));
}

/* UR05: on request waits poll the device; a kernel that cannot is a refusal with its reason. */
NKT_TEST(uring_busy_polling) {
    netkit_loop_desc desc;
    netkit_loop *loop = NULL;
    turing_log log;
    nkt_loop_done(turing_loop());
    memset(&log, 0, sizeof(log));
    memset(&desc, 0, sizeof(desc));
    desc.backend = NETKIT_BACKEND_URING;
    desc.logger.user = &log;
    desc.logger.log = turing_log_line;
    desc.ring_napi_us = 50;
    nkt_fault_at("io_uring_register", 2, EINVAL, false);
    CHECK_ERR(netkit_loop_create(&loop, &desc), NETKIT_E_NOSYS);
    CHECK(strstr(log.text, "busy polling") != NULL);
    nkt_fault_clear();
    loop = safety_loop(&desc);
    turing_echo_all(loop, 10, 10000);
    nkt_loop_done(loop);
}

/* ---- lent memory ------------------------------------------------------------------------------ */

enum {
    SAFETY_LENT = 1 << 20
};

static unsigned char safety_lent[SAFETY_LENT];

typedef struct safety_loan {
    sup_end *end;
    int releases, status;
} safety_loan;

static void safety_on_release(netkit_loop *loop, int status, void *user) {
    safety_loan *loan = (safety_loan *)user;
    (void)loop;
    CHECK_EQ(loan->releases, 0);
    CHECK_EQ(loan->end->closes, 0);
    loan->releases++;
    loan->status = status;
}

static void safety_lend(netkit_loop *loop, sup_end *end, safety_loan *loan, uint64_t at,
                        size_t len) {
    loan->end = end;
    sup_fill(safety_lent, len, at);
    CHECK_OK(netkit_conn_send_borrowed(loop, end->conn, safety_lent, len, safety_on_release, loan));
}

/* A loop that lends memory of 10,000 bytes or more to the kernel, one completion a turn. */
static netkit_loop *safety_lending_loop(void) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    memset(&desc, 0, sizeof(desc));
    desc.ring_zerocopy_min = 10000;
    desc.events_max = 1;
    loop = safety_loop(&desc);
    if (!nki_u_of(loop)->has_zerocopy) {
        nkt_loop_done(loop);
        SKIP("no zero-copy sends here");
    }
    return loop;
}

/* UR20 IO04: lent memory goes out without a copy between copied bytes, in order; it is released
 * when the kernel's second word has come, not at its first; and when that word says that it was
 * copied after all, as on loopback, this conn is spared the trouble from then on. */
NKT_TEST(uring_lends_memory) {
    netkit_loop *loop = safety_lending_loop();
    nki_u *u = nki_u_of(loop);
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    uint64_t at = 0, lendings = 0;
    int seen = 0;
    for (int round = 0; round < 20; round++) {
        unsigned char small[100];
        safety_loan loan;
        size_t len = 10000 + (size_t)(nkt_random() % (SAFETY_LENT - 10000));
        memset(&loan, 0, sizeof(loan));
        safety_slot(loop, end.conn)->state &= (uint8_t)~NKI_U_COPIED;
        sup_fill(small, 100, at);
        CHECK_OK(netkit_conn_send(loop, end.conn, small, 100));
        safety_lend(loop, &end, &loan, at + 100, len);
        sup_fill(small, 100, at + 100 + len);
        CHECK_OK(netkit_conn_send(loop, end.conn, small, 100));
        at += 200 + len;
        SUP_UNTIL_DOING(loop, peer.received == at && loan.releases == 1) {
            if ((safety_slot(loop, end.conn)->state & NKI_U_LENDING) != 0) {
                CHECK_EQ(loan.releases, 0);
                seen++;
            }
            sup_peer_step(&peer);
        }
        CHECK_OK(loan.status);
        CHECK_EQ(u->lendings, ++lendings);
        CHECK((safety_slot(loop, end.conn)->state & NKI_U_COPIED) != 0);
    }
    printf("seen %d times between the two\n", seen);
    CHECK(seen > 0);
    safety_loan copied;
    memset(&copied, 0, sizeof(copied));
    safety_lend(loop, &end, &copied, at, 50000);
    unsigned char behind[100];
    sup_fill(behind, 100, at + 50000);
    CHECK_OK(netkit_conn_send(loop, end.conn, behind, 100));
    SUP_UNTIL_DOING(loop, peer.received == at + 50100 && copied.releases == 1) {
        sup_peer_step(&peer);
    }
    CHECK_EQ(u->lendings, lendings);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.eofs == 1);
    nkt_loop_done(loop);
}

/* UR20 I9 I1: with lent memory in the kernel's hands and a peer that does not read, a conn is
 * aborted, its peer goes away, or the loop is destroyed: the memory comes back once, before the
 * close, and soon. */
NKT_TEST(uring_lent_memory_comes_back) {
    for (int round = 0; round < 12; round++) {
        netkit_loop *loop = safety_lending_loop();
        sup_setup setup = sup_setup_default();
        sup_end end;
        safety_loan loan;
        memset(&loan, 0, sizeof(loan));
        setup.rcvbuf = 4096;
        sup_end_init(&end);
        sup_peer peer = sup_open(loop, &end, &setup);
        bool is_stuck = round % 2 == 0; /* else the system takes all of it */
        if (is_stuck) {
            int size = 16384;
            uintptr_t fd;
            CHECK_OK(netkit_conn_native(loop, end.conn, &fd));
            CHECK_EQ(setsockopt((int)fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
        }
        safety_lend(loop, &end, &loan, 0, SAFETY_LENT);
        for (int i = 0; i < round; i++) {
            sup_turn(loop);
        }
        CHECK(!is_stuck || loan.releases == 0);
        uint64_t began = nkt_now_ns();
        if (round % 3 == 0) {
            CHECK_OK(netkit_conn_abort(loop, end.conn));
            SUP_UNTIL(loop, end.closes == 1);
        } else if (round % 3 == 1) {
            sup_raw_reset(peer.fd);
            SUP_UNTIL(loop, end.closes == 1);
        }
        nkt_loop_done(loop);
        CHECK_EQ(loan.releases, 1);
        CHECK(loan.status < 0 || !is_stuck);
        CHECK_EQ(end.closes, 1);
        CHECK(nkt_now_ns() - began < 5 * (uint64_t)NKI_NS_PER_S * nkt_slowness);
        if (round % 3 != 1) {
            sup_peer_close(&peer);
        }
    }
}

/* UR20: what the kernel will not lend it copies: errors of the zero-copy kind are nobody's but
 * ours, and every byte comes. */
NKT_TEST(uring_lending_is_refused) {
    int status = 0;
    nkt_loop_done(safety_lending_loop());
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit low;
        sup_end end;
        safety_loan loan;
        memset(&loan, 0, sizeof(loan));
        low.rlim_cur = low.rlim_max = 65536;
        CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &low), 0);
        if (getuid() == 0) {
            CHECK_EQ(setgid(65534) + setuid(65534), 0);
        }
        netkit_loop *loop = safety_lending_loop();
        sup_peer peer = sup_open_default(loop, &end);
        safety_lend(loop, &end, &loan, 0, SAFETY_LENT);
        SUP_UNTIL_DOING(loop, peer.received == SAFETY_LENT && loan.releases == 1) {
            sup_peer_step(&peer);
        }
        CHECK_OK(loan.status);
        CHECK_EQ(end.closes, 0);
        CHECK((safety_slot(loop, end.conn)->state & NKI_U_COPIED) != 0);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif /* NKI_HAS_URING */
