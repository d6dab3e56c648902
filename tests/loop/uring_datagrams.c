/* Datagrams that the ring receives into its buffers: those of udps that take no long ones. */

#if NKI_HAS_URING

#include "support.h"
#include "support_udp.h"

/* A loop on the ring, with so many buffers, and a udp that takes 1,500 bytes. */
static netkit_loop *udp_ring_loop_with(ud_end *end, netkit_addr *addr, uint32_t buffers) {
    netkit_loop *loop = turing_loop();
    netkit_udp_desc desc = ud_desc(end, "127.0.0.1:0");
    turing_need_own_buffers(loop);
    nki_u_of(loop)->pool.count = buffers;
    nki_u_of(loop)->pool.wanted = buffers;
    desc.recv_size = 1500;
    desc.recv_buffer = 1 << 20;
    *addr = ud_open_with(loop, end, &desc);
    sup_settle(loop);
    return loop;
}

static netkit_loop *udp_ring_loop(ud_end *end, netkit_addr *addr) {
    return udp_ring_loop_with(end, addr, NKI_POOL_COUNT);
}

/* How many of its buffers hold what was not read yet. */
static uint32_t udp_ring_held(const netkit_loop *loop) {
    return nki_u_of(loop)->pool.held;
}

static nki_u_slot *udp_ring_slot(netkit_loop *loop, const ud_end *end) {
    nki_source *source = (nki_source *)nki_slots_find(&loop->sources, end->udp.id, NKI_KIND_UDP);
    return nki_u_slot_of(nki_u_of(loop), source);
}

static bool udp_ring_is_receiving(netkit_loop *loop, const ud_end *end) {
    return (udp_ring_slot(loop, end)->busy & NKI_U_BIT(NKI_U_RECV)) != 0;
}

/* `count` numbered datagrams, the i-th one being 4 + i % 60 bytes long. */
static void udp_ring_send(int fd, uint32_t first, uint32_t count) {
    unsigned char bytes[64];
    memset(bytes, 7, sizeof bytes);
    for (uint32_t i = first; i < first + count; i++) {
        memcpy(bytes, &i, sizeof i);
        ud_say(fd, bytes, 4 + i % 60);
    }
}

/* UR10 UD05 UD06: one receive takes them all, empty ones and cut ones too, and goes on: who sent
 * it, where it came to, how long it was. Their buffers are with the kernel again afterwards. */
NKT_TEST(udp_ring_receives) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&end, &addr);
    uint64_t arms = nki_u_of(loop)->arms;
    static unsigned char bytes[60000];
    uint16_t port;
    int fd = ud_raw(addr.port, &port);
    sup_fill(bytes, sizeof bytes, 0);
    static const size_t lens[] = {1, 1500, 1501, 9000, sizeof bytes, 17};
    CHECK(udp_ring_is_receiving(loop, &end));
    for (int i = 0; i < 6; i++) {
        ud_say(fd, bytes, lens[i]);
        SUP_UNTIL(loop, end.datagrams == i + 1);
        CHECK_EQ(end.last.len, NKI_MIN(lens[i], (size_t)1500));
        CHECK_EQ(end.last.is_truncated, lens[i] > 1500);
        CHECK_MEM(end.bytes, bytes, end.last.len);
        CHECK_EQ(end.last.peer.port, port);
        CHECK_EQ(end.last.local.port, addr.port);
        CHECK_MEM(end.last.local.ip, addr.ip, 4);
    }
    CHECK_EQ(nki_u_of(loop)->arms, arms);
    ud_say(fd, bytes, 0); /* the kernel ends a receive by it */
    SUP_UNTIL(loop, end.datagrams == 7);
    CHECK(end.last.len == 0 && !end.last.is_truncated);
    ud_say(fd, bytes, 5);
    SUP_UNTIL(loop, end.datagrams == 8);
    sup_settle(loop);
    CHECK_EQ(udp_ring_held(loop), 0);
    CHECK(udp_ring_is_receiving(loop, &end));
    close(fd);
    nkt_loop_done(loop);
}

/* UR12 I-03: more at once than there are buffers: all come, in order, and none twice. */
NKT_TEST(udp_ring_runs_out_of_buffers) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop_with(&end, &addr, 16);
    int fd = ud_raw(addr.port, NULL);
    const uint32_t count = 200;
    end.is_numbered = true;
    for (uint32_t round = 0; round < 5; round++) {
        udp_ring_send(fd, round * count, count);
        SUP_UNTIL(loop, end.datagrams == (int)((round + 1) * count));
        sup_settle(loop);
        CHECK_EQ(udp_ring_held(loop), 0);
        CHECK(udp_ring_is_receiving(loop, &end));
    }
    CHECK(nki_u_of(loop)->starved >= 1);
    close(fd);
    nkt_loop_done(loop);
}

static void udp_ring_pause(ud_end *end, const netkit_datagram *d) {
    (void)d;
    if (end->datagrams == end->limit) {
        CHECK_OK(netkit_udp_pause(end->loop, end->udp));
    }
}

/* UR12 L-10: who pauses in the middle of what has come keeps no buffer, and nothing more is
 * received for him; what was received before is told first when he goes on. */
NKT_TEST(udp_ring_pause_gives_buffers_back) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&end, &addr);
    int fd = ud_raw(addr.port, NULL);
    end.is_numbered = true;
    end.also = udp_ring_pause;
    for (uint32_t round = 0; round < 3; round++) {
        end.limit = (int)(round * 220 + 5);
        udp_ring_send(fd, round * 220, 200); /* some are delivered, some have just come */
        SUP_UNTIL(loop, end.datagrams == end.limit);
        sup_settle(loop);
        CHECK_EQ(udp_ring_held(loop), 0);
        CHECK(!udp_ring_is_receiving(loop, &end));
        udp_ring_send(fd, round * 220 + 200, 20);
        sup_settle(loop);
        CHECK_EQ(end.datagrams, end.limit);
        CHECK_OK(netkit_udp_resume(loop, end.udp));
        SUP_UNTIL(loop, end.datagrams == (int)((round + 1) * 220));
        sup_settle(loop);
        CHECK(udp_ring_is_receiving(loop, &end));
    }
    close(fd);
    nkt_loop_done(loop);
}

static void udp_ring_stop(ud_end *end, const netkit_datagram *d) {
    (void)d;
    CHECK_OK(netkit_loop_stop(end->loop));
}

/* UR10 I1: a run that ends after each datagram leaves the others where they are, whatever comes
 * meanwhile. */
NKT_TEST(udp_ring_stopped_in_the_middle) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&end, &addr);
    int fd = ud_raw(addr.port, NULL);
    end.is_numbered = true;
    end.also = udp_ring_stop;
    for (uint32_t i = 0; i < 400; i++) {
        udp_ring_send(fd, i, 1);
        if (i % 4 == 3) {
            CHECK_OK(netkit_loop_run(loop));
        }
    }
    SUP_UNTIL(loop, end.datagrams == 400);
    close(fd);
    nkt_loop_done(loop);
}

static void udp_ring_close(ud_end *end, const netkit_datagram *d) {
    (void)d;
    if (end->datagrams == 2) {
        CHECK_OK(netkit_udp_close(end->loop, end->udp));
    }
}

/* UR10 UR23: closed in the middle of what has come: it hears no more, and its buffers go back. */
NKT_TEST(udp_ring_closed_in_the_middle) {
    static ud_end ends[5], other;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&other, &addr);
    for (int i = 0; i < 5; i++) {
        netkit_udp_desc desc = ud_desc(&ends[i], "127.0.0.1:0");
        desc.recv_size = 1500;
        addr = ud_open_with(loop, &ends[i], &desc);
        ends[i].also = udp_ring_close;
        int fd = ud_raw(addr.port, NULL);
        udp_ring_send(fd, 0, 150); /* more than a batch */
        SUP_UNTIL(loop, ends[i].closes == 1);
        CHECK_EQ(ends[i].datagrams, 2);
        sup_settle(loop);
        CHECK_EQ(udp_ring_held(loop), 0);
        close(fd);
    }
    nkt_loop_done(loop);
}

/* I5 UR12: memory is short while what has come waits: nothing is lost or told twice. */
NKT_TEST(udp_ring_without_memory) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&end, &addr);
    int fd = ud_raw(addr.port, NULL);
    end.is_numbered = true;
    end.also = udp_ring_pause;
    end.limit = 64; /* the first batch as a whole */
    udp_ring_send(fd, 0, 200);
    nkt_alloc_fail_at(1, true);
    for (int i = 0; i < 500 && end.datagrams < 64; i++) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
    }
    for (int i = 0; i < 100 && nkt_alloc_faults() == 0; i++) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
    }
    CHECK_EQ(end.datagrams, 64);
    CHECK(nkt_alloc_faults() > 0 && udp_ring_held(loop) > 0);
    nkt_alloc_fail_at(0, false);
    CHECK_OK(netkit_udp_resume(loop, end.udp));
    SUP_UNTIL(loop, end.datagrams == 200);
    sup_settle(loop);
    CHECK_EQ(udp_ring_held(loop), 0);
    close(fd);
    nkt_loop_done(loop);
}

/* UR09: a kernel that cannot is served as by a poll; and so are those who want long datagrams. */
NKT_TEST(udp_ring_on_an_old_kernel) {
    static ud_end end, large;
    netkit_loop *loop = turing_loop();
    nki_u_of(loop)->has_recv_multishot = false;
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    desc.recv_size = 1500;
    desc.recv_buffer = 1 << 20; /* a datagram takes a kilobyte and more of it on s390x */
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    desc = ud_desc(&large, "127.0.0.1:0");
    desc.recv_size = 65535;
    ud_open_with(loop, &large, &desc);
    int fd = ud_raw(addr.port, NULL);
    end.is_numbered = true;
    sup_settle(loop);
    CHECK(!udp_ring_is_receiving(loop, &end) && !udp_ring_is_receiving(loop, &large));
    udp_ring_send(fd, 0, 200);
    SUP_UNTIL(loop, end.datagrams == 200);
    close(fd);
    nkt_loop_done(loop);
}

/* U-03 I8: a report whose error another send has taken is told all the same: by one that went with
 * it, and by a large one that goes at once. Then the loop sleeps. */
NKT_TEST(udp_ring_tells_what_a_send_took) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&end, &addr);
    netkit_addr deaf = ud_deaf();
    uint16_t port;
    int fd = ud_raw(addr.port, &port);
    netkit_addr alive = addr;
    alive.port = port;
    static char large[20000];
    for (int round = 1; round <= 4; round++) {
        size_t len = round % 2 != 0 ? 1 : sizeof large;
        CHECK_OK(netkit_udp_send(loop, end.udp, &deaf, large, len));
        CHECK_OK(netkit_udp_send(loop, end.udp, &alive, large, len));
        CHECK_OK(netkit_udp_flush(loop, end.udp));
        SUP_UNTIL(loop, end.errors == round);
        CHECK_ERR(end.failed.error, NETKIT_E_REFUSED);
        sup_settle(loop);
        uint64_t arms = nki_u_of(loop)->arms;
        for (int i = 0; i < 20; i++) {
            CHECK_EQ(netkit_loop_run_once(loop, 1), 0);
        }
        CHECK_EQ(nki_u_of(loop)->arms, arms);
        CHECK(udp_ring_is_receiving(loop, &end));
    }
    close(fd);
    nkt_loop_done(loop);
}

/* UR09 U-08: while it waits for room to send, the kernel is found to receive once for each call:
 * what comes is heard of all the same. */
NKT_TEST(udp_ring_old_kernel_and_no_room) {
    static ud_end end;
    netkit_loop *loop = turing_loop();
    int fds[2], code;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    netkit_udp_desc desc = ud_desc(&end, NULL);
    desc.recv_size = 1500;
    desc.send_max = 50000;
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    end.loop = loop;
    CHECK_OK(netkit_udp_open(loop, &desc, &end.udp));
    while ((code = netkit_udp_send(loop, end.udp, NULL, end.bytes, 1000)) == NETKIT_OK) {
    }
    CHECK_ERR(code, NETKIT_E_FULL);
    sup_settle(loop);
    nki_u_of(loop)->has_recv_multishot = false;
    CHECK_EQ(send(fds[1], "", 0, 0), 0); /* ends the receive */
    SUP_UNTIL(loop, end.datagrams == 1);
    sup_settle(loop);
    ud_say(fds[1], "more", 4);
    SUP_UNTIL(loop, end.datagrams == 2);
    CHECK_EQ(end.drains, 0);
    close(fds[1]);
    nkt_loop_done(loop);
}

static void udp_ring_pause_each(ud_end *end, const netkit_datagram *d) {
    (void)d;
    if (end->limit != 0) {
        CHECK_OK(netkit_udp_pause(end->loop, end->udp));
    }
}

/* UR12 L-10: who pauses after each datagram, and has much to read still, takes no more out of the
 * socket: there the system bounds it. */
NKT_TEST(udp_ring_pauses_are_bounded) {
    static ud_end end;
    netkit_addr addr;
    netkit_loop *loop = udp_ring_loop(&end, &addr);
    int fd = ud_raw(addr.port, NULL);
    int64_t live = 0;
    end.also = udp_ring_pause_each;
    end.limit = 1;
    for (int round = 1; round <= 12; round++) {
        udp_ring_send(fd, 0, 100);
        CHECK_OK(netkit_udp_resume(loop, end.udp));
        SUP_UNTIL(loop, end.datagrams >= round);
        sup_settle(loop);
        CHECK_EQ(end.datagrams, round);
        if (round == 4) {
            live = (int64_t)nkt_live_bytes();
        }
    }
    CHECK((int64_t)nkt_live_bytes() <= live);
    end.limit = 0;
    CHECK_OK(netkit_udp_resume(loop, end.udp));
    SUP_UNTIL(loop, udp_ring_is_receiving(loop, &end));
    sup_settle(loop);
    int had = end.datagrams;
    CHECK(had >= 400);
    udp_ring_send(fd, 0, 1);
    SUP_UNTIL(loop, end.datagrams == had + 1);
    close(fd);
    nkt_loop_done(loop);
}

/* ---- pulled ---------------------------------------------------------------------------------- */

/* A loop on the ring whose events are fetched, and a udp with `count` numbered datagrams that wait,
 * behind them an empty one, which ends the receive. */
static netkit_loop *udp_ring_pulled(netkit_udp *udp, uint32_t count, int *fd) {
    netkit_loop_desc desc;
    netkit_udp_desc udp_desc;
    netkit_loop *loop = NULL;
    netkit_addr addr;
    memset(&desc, 0, sizeof desc);
    memset(&udp_desc, 0, sizeof udp_desc);
    desc.backend = NETKIT_BACKEND_URING;
    desc.allocator = nkt_allocator();
    desc.pull = true;
    if (netkit_loop_create(&loop, &desc) != NETKIT_OK) {
        SKIP("io_uring is refused here");
    }
    nkt_loops++;
    turing_need_own_buffers(loop);
    nki_u_of(loop)->pool.wanted = NKI_POOL_COUNT;
    udp_desc.address = "127.0.0.1:0";
    udp_desc.recv_size = 1500;
    udp_desc.recv_buffer = 1 << 20;
    CHECK_OK(netkit_udp_open(loop, &udp_desc, udp));
    CHECK_OK(netkit_udp_local(loop, *udp, &addr));
    sup_settle(loop);
    *fd = ud_raw(addr.port, NULL);
    udp_ring_send(*fd, 0, count);
    ud_say(*fd, "", 0);
    return loop;
}

/* The next event is the i-th of them. */
static netkit_event udp_ring_next(netkit_loop *loop, uint32_t i) {
    netkit_event ev;
    uint32_t number;
    while (netkit_loop_next(loop, &ev) == 0) {
        CHECK(netkit_loop_run_once(loop, 1000) > 0);
    }
    CHECK_EQ(ev.type, NETKIT_EVENT_DATAGRAM);
    CHECK_EQ(ev.datagram->len, 4 + i % 60);
    memcpy(&number, ev.datagram->data, sizeof number);
    CHECK_EQ(number, i);
    return ev;
}

static void *udp_ring_adopting(void *arg) {
    CHECK_ERR(netkit_loop_adopt((netkit_loop *)arg), NETKIT_E_BUSY);
    return NULL;
}

/* UR04 UR10: a datagram that is out lies in a buffer of the ring: as long as it is, no other thread
 * gets the loop, with a ring and buffers of its own. */
NKT_TEST(udp_ring_not_adopted_while_one_is_out) {
    netkit_udp udp;
    int fd;
    netkit_loop *loop = udp_ring_pulled(&udp, 3, &fd);
    pthread_t thread;
    netkit_event ev = udp_ring_next(loop, 0);
    CHECK_OK(netkit_udp_pause(loop, udp));
    CHECK_EQ(pthread_create(&thread, NULL, udp_ring_adopting, loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(((const unsigned char *)ev.datagram->data)[0], 0);
    CHECK_OK(netkit_udp_resume(loop, udp));
    udp_ring_next(loop, 1);
    udp_ring_next(loop, 2);
    close(fd);
    nkt_loop_done(loop);
}

/* Z-06 I5: a forked child that destroys the loop while a datagram is out frees all its memory. */
NKT_TEST(udp_ring_child_frees_what_is_out) {
    netkit_udp udp;
    int fd, status = 0;
    netkit_loop *loop = udp_ring_pulled(&udp, 100, &fd);
    udp_ring_next(loop, 0);
    CHECK_OK(
        netkit_udp_pause(loop, udp)); /* what was not in the batch is taken out of the buffers */
    for (int i = 0; i < 3; i++) {
        CHECK(netkit_loop_run_once(loop, 1) >= 0);
    }
    CHECK_OK(netkit_udp_resume(loop, udp));
    for (uint32_t i = 1; i < 100; i++) {
        udp_ring_next(loop, i);
    }
    if (nki_u_of(loop)->lent_blob == NULL) { /* they still were in the socket then */
        SKIP("the last ones did not come by way of a buffer this time");
    }
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_OK(netkit_loop_destroy(loop));
        CHECK_EQ(nkt_live_bytes(), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fd);
    nkt_loop_done(loop);
}

#endif
