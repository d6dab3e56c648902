/* Datagrams that the ring receives into its buffers: those of udps that take no long ones. */

#if NKI_HAS_URING

#include "support.h"
#include "support_udp.h"

/* A loop on the ring, with so many buffers, and a udp that takes 1,500 bytes. */
static netkit_loop *udp_ring_loop_with(ud_end *end, netkit_addr *addr, uint32_t buffers) {
    netkit_loop *loop = turing_loop();
    netkit_udp_desc desc = ud_desc(end, "127.0.0.1:0");
    if (!nki_u_of(loop)->has_recv_multishot) {
        netkit_loop_destroy(loop);
        SKIP("this kernel receives once for each call");
    }
    nki_u_of(loop)->pool.count = buffers;
    desc.recv_size = 1500;
    desc.recv_buffer = 1 << 20;
    *addr = ud_open_with(loop, end, &desc);
    sup_settle(loop);
    return loop;
}

static netkit_loop *udp_ring_loop(ud_end *end, netkit_addr *addr) {
    return udp_ring_loop_with(end, addr, NKI_POOL_COUNT);
}

/* How many of its buffers the kernel does not have. */
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

#endif
