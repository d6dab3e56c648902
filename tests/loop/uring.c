/* The ring driver: what only it could do wrong. */

#if NKI_HAS_URING

#include "../seccomp.h"
#include "support.h"

static netkit_loop *turing_loop_of(int backend) {
    netkit_loop_desc desc;
    netkit_loop *loop = NULL;
    memset(&desc, 0, sizeof(desc));
    desc.backend = backend;
    desc.allocator = nkt_allocator();
    nkt_ring_options(&desc);
    if (netkit_loop_create(&loop, &desc) != NETKIT_OK) {
        SKIP("io_uring is refused here");
    }
    nkt_loops++;
    return loop;
}

static netkit_loop *turing_loop(void) {
    return turing_loop_of(NETKIT_BACKEND_URING);
}

/* For what only receives that go on can show (Linux 6.0). */
static void turing_need_buffers(const netkit_loop *loop) {
    if (!nki_u_of(loop)->has_recv_multishot) {
        SKIP("no provided buffers here");
    }
}

/* And into a buffer for each. */
static void turing_need_own_buffers(const netkit_loop *loop) {
    turing_need_buffers(loop);
    if (nki_u_of(loop)->pool.is_sharing) {
        SKIP("buffers are shared here");
    }
}

enum {
    TURING_PEERS = 100
};

typedef struct turing_server {
    sup_end ends[TURING_PEERS];
    int count;
} turing_server;

static turing_server turing;

static void turing_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    turing_server *server = (turing_server *)user;
    sup_end *end = &server->ends[server->count++];
    sup_end_init(end);
    end->is_echo = true;
    end->closes_at_eof = true;
    CHECK_OK(netkit_conn_set_user(loop, conn, end));
    sup_on_open(loop, conn, end);
}

static uint16_t turing_listen(netkit_loop *loop) {
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    handler.on_open = turing_on_open;
    memset(&turing, 0, sizeof(turing));
    desc = sup_listen_desc(&handler, &turing);
    return sup_listen(loop, &desc, NULL);
}

/* Each of the peers has `each` bytes echoed, all at once, and checks them. */
static void turing_echo_all(netkit_loop *loop, int count, uint64_t each) {
    static sup_peer peers[TURING_PEERS];
    uint16_t port = turing_listen(loop);
    int done = 0;
    for (int i = 0; i < count; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
        peers[i].to_send = each;
    }
    SUP_UNTIL_DOING(loop, done == count) {
        done = 0;
        for (int i = 0; i < count; i++) {
            sup_peer_step(&peers[i]);
            CHECK_EQ(peers[i].end, 0);
            done += peers[i].received == each;
        }
    }
    for (int i = 0; i < count; i++) {
        sup_peer_close(&peers[i]);
    }
    for (int i = 0; i < count; i++) {
        SUP_UNTIL(loop, turing.ends[i].closes == 1);
        CHECK_OK(turing.ends[i].info.code);
        CHECK_EQ(turing.ends[i].bytes, each);
    }
}

/* I-01 SD33 UR12: 100 peers on 2 buffers: all get on, nobody hears of ENOBUFS, and receives are
 * begun about as often as there is something to receive, not in a storm. */
NKT_TEST(uring_two_buffers_for_a_hundred) {
    netkit_loop *loop = turing_loop();
    nki_u *u = nki_u_of(loop);
    u->pool.count = 2;
    u->pool.size = 4096;
    for (int round = 0; round < 20; round++) {
        turing_echo_all(loop, TURING_PEERS, 100);
    }
    turing_echo_all(loop, TURING_PEERS, 30000);
    printf("%" PRIu64 " starved, %" PRIu64 " begun\n", u->starved, u->arms);
    bool has_buffers = u->has_recv_multishot; /* Linux 6.0 */
    CHECK(u->starved > 0 || !has_buffers);
    CHECK(u->arms < 21 * TURING_PEERS * 20);
    nkt_loop_done(loop);
    if (!has_buffers) {
        SKIP("no provided buffers here");
    }
}

/* I-01 SD33: the kernel has few buffers, in turn, while those are enough; a crowd that finds none
 * makes them more, once for each time, and all of it is served. */
NKT_TEST(uring_buffers_as_needed) {
    netkit_loop *loop = turing_loop();
    turing_need_own_buffers(loop);
    nki_u *u = nki_u_of(loop);
    u->pool.wanted = 16;
    turing_echo_all(loop, 8, 100); /* older kernels want one to find that nothing is there (6.1) */
    CHECK(u->pool.wanted == 16 && u->starved == 0);
    for (int round = 0; round < 20; round++) {
        sup_settle(loop);
        uint64_t starved = u->starved;
        uint32_t wanted = u->pool.wanted;
        CHECK_EQ(u->pool.held, 0);
        CHECK_EQ(nki_pool_out(&u->pool), wanted);
        turing_echo_all(loop, TURING_PEERS, 100);
        CHECK(wanted == u->pool.count || (u->pool.wanted > wanted) == (u->starved > starved));
    }
    printf("%" PRIu64 " starved, %u wanted\n", u->starved, (unsigned)u->pool.wanted);
    CHECK(u->starved > 0 && u->pool.wanted > 16 && u->pool.wanted <= u->pool.count);
    nkt_loop_done(loop);
}

/* I-01 UR12: four buffers of 4 KiB for a hundred peers with a mebibyte each: all of it, in order. */
NKT_TEST(uring_four_buffers_for_a_lot) {
    netkit_loop *loop = turing_loop();
    nki_u *u = nki_u_of(loop);
    u->pool.count = 4;
    u->pool.size = 4096;
    turing_echo_all(loop, TURING_PEERS, nkt_scale(1 << 20, 1 << 16));
    CHECK_EQ(u->pool.held, 0);
    nkt_loop_done(loop);
}

/* SD37: a message of a mebibyte comes through whole, and many at once do. */
NKT_TEST(uring_a_mebibyte) {
    netkit_loop *loop = turing_loop();
    turing_echo_all(loop, 1, 1 << 20);
    turing_echo_all(loop, 10, 1 << 20);
    nkt_loop_done(loop);
}

/* I-04 UR07 UR17: a completion ring of 256 places and far more completions than that between two
 * looks: nothing is lost. */
NKT_TEST(uring_completions_overflow) {
    netkit_loop *loop;
    nki_u *u;
    sup_peer peers[TURING_PEERS];
    uint64_t sent = 0;
    uint16_t port;
    nkt_fault_at("io_uring_setup", 1, ENOMEM, false);
    nkt_fault_at("io_uring_setup", 1, ENOMEM, false);
    loop = turing_loop();
    nkt_fault_clear();
    turing_need_buffers(loop);
    u = nki_u_of(loop);
    CHECK_EQ(u->ring.cq_mask, 255);
    u->pool.wanted = u->pool.count;
    port = turing_listen(loop);
    for (int i = 0; i < TURING_PEERS; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    SUP_UNTIL(loop, turing.count == TURING_PEERS);
    sup_settle(loop);
    for (int round = 0; round < 10; round++) {
        sent += 64;
        for (int i = 0; i < TURING_PEERS; i++) {
            peers[i].to_send = sent;
            sup_peer_step(&peers[i]);
        }
        for (int i = 0; i < 10; i++) {                 /* 20 receives a call */
            CHECK_EQ(nki_uring_enter(&u->ring, 0), 0); /* made, and not read */
        }
    }
    CHECK((nki_atomic_load(u->ring.sq_flags) & NKI_URING_SQ_CQ_OVERFLOW) != 0);
    for (int i = 0; i < TURING_PEERS; i++) {
        SUP_UNTIL_DOING(loop, peers[i].received == sent) {
            sup_peer_step(&peers[i]);
        }
        CHECK_EQ(close(peers[i].fd), 0);
    }
    sup_settle(loop);
    printf("%" PRIu64 " overflows\n", u->overflows);
    CHECK(u->overflows > 0);
    CHECK_EQ(nki_atomic_load(u->ring.sq_flags) & NKI_URING_SQ_CQ_OVERFLOW, 0);
    nkt_loop_done(loop);
}

/* I-02 I-05 UR09 UR15: receives that are cancelled at random, so that they end at any moment and
 * without an error, are begun again, and no byte is lost or out of its place. */
NKT_TEST(uring_receives_that_end_at_random) {
    netkit_loop *loop = turing_loop();
    turing_need_buffers(loop);
    nki_u *u = nki_u_of(loop);
    uint16_t port = turing_listen(loop);
    sup_peer peers[20];
    uint64_t cancelled = 0, each = nkt_scale(1 << 22, 1 << 18);
    for (int i = 0; i < 20; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    for (int i = 0; i < 20; i++) {
        SUP_UNTIL_DOING(loop, peers[i].received == each) {
            for (int k = 0; k < 20; k++) {
                uint64_t to_send = peers[k].sent + 1 + nkt_random() % 3000;
                peers[k].to_send = to_send < each ? to_send : each;
                sup_peer_step(&peers[k]);
            }
            for (int k = 0; k < turing.count; k++) {
                nki_source *source = (nki_source *)nki_slots_find(
                    &loop->sources, turing.ends[k].conn.id, NKI_KIND_CONN);
                nki_u_slot *s = source == NULL ? NULL : nki_u_slot_of(u, source);
                if (s != NULL && (s->busy & NKI_U_BIT(NKI_U_RECV)) != 0 && nkt_random() % 4 == 0) {
                    CHECK(nki_u_cancel(loop, u, nki_u_name(source, s, NKI_U_RECV)));
                    cancelled++;
                }
            }
        }
    }
    for (int i = 0; i < 20; i++) {
        sup_peer_close(&peers[i]);
    }
    sup_settle(loop);
    CHECK(cancelled > 20);
    nkt_loop_done(loop);
}

/* I-03 SD32 SK18: ended with a receive and a stuck send in flight, a conn's descriptor is closed
 * at once, the peer knows within 100 ms, and who gets the number next hears nothing of it. */
NKT_TEST(uring_close_with_operations_in_flight) {
    static char big[8 << 20];
    netkit_loop *loop = turing_loop();
    for (int round = 0; round < 20; round++) {
        sup_end end, next;
        sup_setup setup = sup_setup_default();
        uintptr_t number = 0, again;
        uint64_t began;
        char byte;
        ssize_t got;
        sup_end_init(&end);
        setup.options.send_max = sizeof(big);
        setup.rcvbuf = 4096;
        sup_peer peer = sup_open(loop, &end, &setup), other;
        CHECK_OK(netkit_conn_send(loop, end.conn, big, sizeof(big)));
        sup_settle(loop);
        CHECK(sup_queued(&end) > 0);
        CHECK_OK(netkit_conn_native(loop, end.conn, &number));
        CHECK_EQ(send(peer.fd, "late", 4, MSG_NOSIGNAL), 4);
        began = nkt_now_ns();
        CHECK_OK(netkit_conn_abort(loop, end.conn));
        do {
            got = recv(peer.fd, &byte, 1, 0);
        } while (got == 1 || (got < 0 && errno == EAGAIN && nkt_now_ns() - began < 100000000));
        CHECK(got < 0 && errno == ECONNRESET);
        CHECK(fcntl((int)number, F_GETFD) == -1);
        SUP_UNTIL(loop, end.closes == 1);
        other = sup_open_default(loop, &next);
        CHECK_OK(netkit_conn_native(loop, next.conn, &again));
        sup_settle(loop);
        CHECK_EQ(next.datas + next.eofs + next.closes, 0);
        other.to_send = 5000;
        SUP_UNTIL_DOING(loop, next.bytes == 5000) {
            sup_peer_step(&other);
        }
        CHECK_OK(netkit_conn_abort(loop, next.conn));
        SUP_UNTIL(loop, next.closes == 1);
        CHECK_EQ(close(peer.fd) + close(other.fd), 0);
    }
    nkt_loop_done(loop);
}

/* SD36 I-03: after a graceful close the peer sees the end within 100 ms, though a receive was in
 * flight. */
NKT_TEST(uring_fin_is_prompt) {
    netkit_loop *loop = turing_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    sup_settle(loop);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    uint64_t began = nkt_now_ns();
    while (peer.end == 0 && nkt_now_ns() - began < (uint64_t)100000000 * nkt_slowness) {
        CHECK_OK(netkit_loop_poll(loop, -1));
        sup_peer_step(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, end.closes == 1);
    nkt_loop_done(loop);
}

/* PO16 I-01 IO13: those who pause with bytes waiting hold no buffer, however many they are. */
NKT_TEST(uring_paused_conns_hold_no_buffer) {
    netkit_loop *loop = turing_loop();
    nki_u *u = nki_u_of(loop);
    sup_end paused[20], end;
    sup_peer peers[20], peer;
    u->pool.count = 4;
    for (int i = 0; i < 20; i++) {
        peers[i] = sup_open_default(loop, &paused[i]);
        CHECK_OK(netkit_conn_pause(loop, paused[i].conn));
        peers[i].to_send = 3000;
        sup_peer_step(&peers[i]);
    }
    sup_settle(loop);
    CHECK_EQ(u->pool.held, 0);
    peer = sup_open_default(loop, &end);
    for (int k = 1; k <= 50; k++) {
        peer.to_send = (uint64_t)k * 100;
        SUP_UNTIL_DOING(loop, end.bytes == peer.to_send) {
            sup_peer_step(&peer);
        }
    }
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(paused[i].datas, 0);
        CHECK_OK(netkit_conn_resume(loop, paused[i].conn));
        SUP_UNTIL(loop, paused[i].bytes == 3000);
        sup_peer_close(&peers[i]);
    }
    sup_peer_close(&peer);
    sup_settle(loop);
    nkt_loop_done(loop);
}

/* T-10 I8 SK08 UR08: no descriptor is left: the listener reports once, rests, and takes all that
 * wait when there are some again. */
NKT_TEST(uring_without_descriptors) {
    struct rlimit limit, low;
    int fds[20], spare = dup(0);
    netkit_loop *loop = turing_loop();
    uint16_t port;
    CHECK(spare >= 0);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = 64;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    port = turing_listen(loop);
    sup_settle(loop);
    int filled = 0, filler[64];
    while ((filler[filled] = dup(0)) >= 0) {
        filled++;
    }
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(close(filler[--filled]), 0);
        fds[i] = sup_raw_dial(port, 0);
    }
    sup_turn_for_ms(loop, 100);
    CHECK_EQ(turing.count, 0);
    nkt_calls_reset();
    sup_turn_for_ms(loop, 300);
    CHECK(nkt_calls("io_uring_enter") < 300); /* 60 turns of 5 ms: it rests */
    while (filled > 0) {
        CHECK_EQ(close(filler[--filled]), 0);
    }
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    SUP_UNTIL(loop, turing.count == 20);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(close(fds[i]), 0);
    }
    CHECK_EQ(close(spare), 0);
    sup_settle(loop);
    nkt_loop_done(loop);
}

/* ---- the choice -------------------------------------------------------------------------- */

typedef struct turing_log {
    char text[256];
    int level;
} turing_log;

static void turing_log_line(int level, int id, const char *text, int os_code, void *user) {
    turing_log *log = (turing_log *)user;
    (void)os_code;
    if (id == NETKIT_LOGID_BACKEND) {
        snprintf(log->text, sizeof(log->text), "%s", text);
        log->level = level;
    }
}

static int turing_create(int backend, netkit_loop **loop, turing_log *log) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    memset(log, 0, sizeof(*log));
    desc.backend = backend;
    desc.allocator = nkt_allocator();
    desc.logger.user = log;
    desc.logger.log = turing_log_line;
    return netkit_loop_create(loop, &desc);
}

/* With the ring refused: named it is an error in words, `fastest` falls back in words and works,
 * `auto` never tried it. */
static void turing_check_refused(int code, const char *word) {
    netkit_loop *loop = NULL;
    turing_log log;
    const char *why;
    CHECK_ERR(turing_create(NETKIT_BACKEND_URING, &loop, &log), code);
    CHECK(loop == NULL && log.level == NETKIT_LOG_ERROR);
    CHECK(strstr(log.text, "io_uring refused") != NULL && strstr(log.text, word) != NULL);
    CHECK_OK(turing_create(NETKIT_BACKEND_FASTEST, &loop, &log));
    CHECK_STR(netkit_loop_backend(loop, &why), "epoll");
    printf("%s\n", why);
    CHECK(strstr(why, word) != NULL && strstr(why, "using epoll") != NULL);
    CHECK_STR(log.text, why);
    nkt_loops++;
    turing_echo_all(loop, 3, 1000);
    nkt_loop_done(loop);
    CHECK_OK(turing_create(NETKIT_BACKEND_AUTO, &loop, &log));
    CHECK_STR(netkit_loop_backend(loop, &why), "epoll");
    CHECK(strstr(why, "auto") != NULL);
    CHECK_OK(netkit_loop_destroy(loop));
}

/* SD36 I-07 UR02 PL06 I14: each refusal of the kernel, by name. */
NKT_TEST(uring_refused_by_the_kernel) {
    static const int errors[] = {EPERM, ENOSYS, ENOMEM};
    static const int codes[] = {NETKIT_E_NOSYS, NETKIT_E_NOSYS, NETKIT_E_NOMEM};
    static const char *const words[] = {"EPERM", "ENOSYS", "ENOMEM"};
    for (int i = 0; i < 3; i++) {
        nkt_fault_at("io_uring_setup", 1, errors[i], true);
        turing_check_refused(codes[i], words[i]);
        nkt_fault_clear();
    }
}

/* Run it in a process of its own, sandboxed. */
static void turing_in_sandbox(const char *what, int code, const char *word) {
    pid_t pid = fork();
    int status = 0;
    CHECK(pid >= 0);
    if (pid == 0) {
        if (!nkt_seccomp_named(what)) {
            _exit(77);
        }
        turing_check_refused(code, word);
        fflush(stdout);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        SKIP("no seccomp here");
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* SD36 I-07 UR02 I14: sandboxes that refuse all of it, or only a part of it. */
NKT_TEST(uring_refused_by_a_sandbox) {
    nkt_loop_done(turing_loop());
    turing_in_sandbox("eperm:all", NETKIT_E_NOSYS, "EPERM");
    turing_in_sandbox("enosys:all", NETKIT_E_NOSYS, "ENOSYS");
    turing_in_sandbox("enomem:setup", NETKIT_E_NOMEM, "ENOMEM");
    turing_in_sandbox("eperm:register", NETKIT_E_NOSYS, "EPERM");
    turing_in_sandbox("eperm:enter", NETKIT_E_NOSYS, "EPERM");
}

/* I-07 UR04: the same echo on every step of the ladder, and without provided buffers. */
NKT_TEST(uring_every_step_works) {
    for (unsigned step = 0; step < 6; step++) {
        netkit_loop *loop;
        for (unsigned i = 0; i < step; i++) {
            nkt_fault_at("io_uring_setup", 1, EINVAL, false);
        }
        loop = turing_loop();
        nkt_fault_clear();
        turing_echo_all(loop, 20, 20000);
        if (step >= 4) {
            nki_u_of(loop)->has_accept_multishot = false;
            nki_u_of(loop)->has_recv_multishot = false;
            nki_u_of(loop)->has_skip = false;
            turing_echo_all(loop, 20, 20000);
        }
        nkt_loop_done(loop);
    }
}

/* I-07 PL06: `fastest` takes the ring where it is good enough, says so, and an old one is not:
 * then the reason is said as well, and epoll works. */
NKT_TEST(uring_is_fastest) {
    netkit_loop *loop = turing_loop(), *fastest = NULL;
    const char *why;
    turing_log log;
    bool is_good = (nki_u_of(loop)->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) != 0;
    nkt_loop_done(loop);
    CHECK_OK(turing_create(NETKIT_BACKEND_FASTEST, &fastest, &log));
    CHECK_STR(netkit_loop_backend(fastest, &why), is_good ? "uring" : "epoll");
    printf("fastest is %s: %s\n", is_good ? "uring" : "epoll", why);
    CHECK(is_good || (strstr(why, "DEFER_TASKRUN") != NULL && strstr(why, "using epoll") != NULL));
    nkt_loops++;
    turing_echo_all(fastest, 3, 1000);
    nkt_loop_done(fastest);
    nkt_fault_at("io_uring_setup", 1, EINVAL, false);
    nkt_fault_at("io_uring_setup", 1, EINVAL, false);
    CHECK_OK(turing_create(NETKIT_BACKEND_FASTEST, &fastest, &log));
    nkt_fault_clear();
    CHECK_STR(netkit_loop_backend(fastest, NULL), "epoll");
    CHECK(strstr(log.text, "DEFER_TASKRUN") != NULL);
    CHECK_OK(netkit_loop_destroy(fastest));
}

/* I-09 UR05: an ordinary user with 64 KiB of locked memory, who became one after the loop was made:
 * it works, smaller; and no thread of the kernel polls for it. */
NKT_TEST(uring_of_an_ordinary_user) {
    netkit_loop *loop = turing_loop();
    pid_t pid;
    int status = 0;
    nkt_loop_done(loop);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit low;
        netkit_loop *before = turing_loop(), *after;
        low.rlim_cur = low.rlim_max = 65536;
        CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &low), 0);
        if (getuid() == 0) {
            CHECK_EQ(setgid(65534) + setuid(65534), 0);
        }
        turing_echo_all(before, 10, 10000);
        after = turing_loop();
        turing_echo_all(after, 10, 10000);
        DIR *tasks = opendir("/proc/self/task");
        int count = 0;
        for (const struct dirent *d; tasks != NULL && (d = readdir(tasks)) != NULL;) {
            count += d->d_name[0] != '.';
        }
        CHECK_EQ(count, 1);
        CHECK_EQ(closedir(tasks), 0);
        nkt_loop_done(after);
        nkt_loop_done(before);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* UR23 I9: a forked child may destroy the loop it inherited, and the parent's goes on. */
NKT_TEST(uring_after_a_fork) {
    netkit_loop *loop = turing_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    pid_t pid;
    int status = 0;
    peer.to_send = 100;
    SUP_UNTIL_DOING(loop, end.bytes == 100) {
        sup_peer_step(&peer);
    }
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)netkit_loop_run_once(loop, 0);
        CHECK_OK(netkit_loop_destroy(loop));
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    sup_peer_close(&peer);
    sup_settle(loop);
    nkt_loop_done(loop);
}

/* UR23 I9: so may one that was forked off in the middle of a turn, with completions that nobody has
 * looked at, which are the parent's. */
NKT_TEST(uring_fork_within_a_turn) {
    netkit_loop *loop = turing_loop();
    const nki_u *u = nki_u_of(loop);
    uint16_t port = turing_listen(loop);
    sup_peer peers[10];
    int status = 0;
    for (int i = 0; i < 10; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
        SUP_UNTIL(loop, turing.count == i + 1);
    }
    sup_settle(loop);
    for (int i = 0; i < 10; i++) {
        peers[i].to_send = 100;
        sup_peer_step(&peers[i]);
    }
    for (int i = 0; i < 1000 && u->next == u->end; i++) {
        nkt_sleep_ms(1);
        CHECK(netkit_loop_poll(loop, 0) >= 0); /* a callback and no more */
    }
    CHECK(u->next != u->end);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_OK(netkit_loop_destroy(loop));
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < 10; i++) {
        SUP_UNTIL_DOING(loop, peers[i].received == 100) {
            sup_peer_step(&peers[i]);
        }
        CHECK_EQ(peers[i].end, 0);
        sup_peer_close(&peers[i]);
    }
    nkt_loop_done(loop);
}

/* UR23: a loop that is destroyed with everything in flight cancels all of it, at once. */
NKT_TEST(uring_destroyed_in_flight) {
    netkit_loop *loop = turing_loop();
    uint16_t port = turing_listen(loop);
    int fds[TURING_PEERS];
    for (int i = 0; i < TURING_PEERS; i++) {
        fds[i] = sup_raw_dial(port, 0);
    }
    SUP_UNTIL(loop, turing.count == TURING_PEERS);
    sup_settle(loop);
    for (int i = 0; i < TURING_PEERS; i++) {
        CHECK_EQ(send(fds[i], "x", 1, MSG_NOSIGNAL), 1);
    }
    uint64_t began = nkt_now_ns();
    nkt_loop_done(loop);
    CHECK(nkt_now_ns() - began < 2 * nkt_slowness * NKI_NS_PER_S);
    for (int i = 0; i < TURING_PEERS; i++) {
        CHECK_EQ(turing.ends[i].closes, 1);
        CHECK_EQ(close(fds[i]), 0);
    }
}

/* How many processes the system takes for waiting for a disk, the least that was seen in a while. */
static int turing_blocked(void) {
    int least = INT_MAX;
    for (int i = 0; i < 20; i++) {
        static char text[65536]; /* of one thread at a time */
        int fd = open("/proc/stat", O_RDONLY);
        ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (fd >= 0) {
            close(fd);
        }
        text[len < 0 ? 0 : len] = '\0';
        const char *at = strstr(text, "procs_blocked ");
        int now = at == NULL ? 0 : atoi(at + strlen("procs_blocked "));
        least = now < least ? now : least;
        nkt_sleep_ms(2);
    }
    return least;
}

static int turing_blocked_meanwhile;

static void *turing_watching(void *user) {
    nkt_sleep_ms(20); /* it waits by then */
    turing_blocked_meanwhile = turing_blocked();
    CHECK_OK(netkit_loop_stop((netkit_loop *)user));
    return NULL;
}

/* BX06: a loop that waits is idle, and is not counted as waiting for a disk, in the system's load
 * average and elsewhere (Linux 6.15). */
NKT_TEST(uring_waits_in_idleness) {
    netkit_loop *loop = turing_loop();
    bool is_counted = true;
    if ((nki_u_of(loop)->ring.features & NKI_URING_FEAT_NO_IOWAIT) == 0) {
        nkt_loop_done(loop);
        SKIP("the kernel cannot");
    }
    (void)turing_listen(loop);                   /* something in flight: else nothing is counted */
    for (int i = 0; i < 10 && is_counted; i++) { /* others may begin to wait for one meanwhile */
        pthread_t thread;
        int before = turing_blocked();
        CHECK_EQ(pthread_create(&thread, NULL, turing_watching, loop), 0);
        CHECK_OK(netkit_loop_run(loop));
        CHECK_EQ(pthread_join(thread, NULL), 0);
        is_counted = turing_blocked_meanwhile > before;
    }
    CHECK(!is_counted);
    nkt_loop_done(loop);
}

/* UR06 BX06: fifty peers in step, with small and with middle messages: a system call serves many of
 * them, and nothing is allocated. */
static void turing_in_step(uint64_t size, int rounds) {
    enum {
        PEERS = 50
    };
    netkit_loop *loop = turing_loop();
    uint16_t port = turing_listen(loop);
    sup_peer peers[PEERS];
    uint64_t calls = 0, allocs = 0;
    uint32_t before = 0;
    for (int i = 0; i < PEERS; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    for (uint64_t round = 1; round <= (uint64_t)rounds; round++) {
        if (round == 10) {
            nkt_calls_reset();
            allocs = nkt_allocs();
            before = *nki_u_of(loop)->ring.cq_tail;
        }
        int done = 0;
        for (int i = 0; i < PEERS; i++) {
            peers[i].to_send = round * size;
            sup_peer_step(&peers[i]);
        }
        SUP_UNTIL_DOING(loop, done == PEERS) {
            done = 0;
            for (int i = 0; i < PEERS; i++) {
                sup_peer_step(&peers[i]);
                done += peers[i].received == round * size;
            }
        }
    }
    calls = nkt_calls("io_uring_enter") + nkt_calls("sendmsg");
    printf("%" PRIu64 " calls for %d messages\n", calls, PEERS * (rounds - 9));
    CHECK(calls < (uint64_t)(PEERS * (rounds - 9) / 4));
    /* Two a message: most have been sent by an operation, too. */
    CHECK(*nki_u_of(loop)->ring.cq_tail - before > (uint32_t)(PEERS * (rounds - 9)) * 3 / 2);
    CHECK((size == 64 ? &loop->small_chunks : &loop->middle_chunks)->made > 0);
    CHECK_EQ(nkt_allocs(), allocs);
    for (int i = 0; i < PEERS; i++) {
        sup_peer_close(&peers[i]);
    }
    sup_settle(loop);
    nkt_loop_done(loop);
}

NKT_TEST(uring_few_calls) {
    turing_in_step(64, 120);
    turing_in_step(4096, 30);
}

#endif /* NKI_HAS_URING */
