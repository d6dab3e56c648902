/* Udps: datagrams in the loop. Peers are raw sockets of the system, or other udps. */

#include "support_udp.h"

/* ---- what is a datagram ---------------------------------------------------------- */

/* U-01 UD02 UD06 SD17: an empty datagram is one like any other, with its sender; a thousand of all
 * lengths come in order and one by one. */
NKT_LOOP_TEST(udp_empty_datagrams) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    static unsigned char data[2000];
    uint16_t port;
    netkit_addr addr = ud_open(loop, &end);
    int fd = ud_raw(addr.port, &port);
    ud_say(fd, "hello", 5);
    ud_say(fd, "", 0);
    ud_say(fd, "bye", 3);
    SUP_UNTIL(loop, end.datagrams == 3);
    CHECK(end.lens[0] == 5 && end.lens[1] == 0 && end.lens[2] == 3);
    CHECK_MEM(end.bytes, "bye", 3);
    ud_say(fd, "", 0);
    SUP_UNTIL(loop, end.datagrams == 4);
    CHECK_EQ(end.last.len, 0);
    CHECK(end.last.peer.family == NETKIT_AF_IPV4 && end.last.peer.port == port);
    CHECK(netkit_addr_equal(&end.last.local, &addr));
    end.datagrams = 0;
    for (int i = 0; i < 1000; i++) {
        ud_say(fd, data, (size_t)(i * 7 % 1500) * (i % 3 != 0));
        if (i % 20 == 19) {
            SUP_UNTIL(loop, end.datagrams == i + 1);
        }
    }
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(end.lens[i], i * 7 % 1500 * (i % 3 != 0));
    }
    ud_close(&end);
    close(fd);
    nkt_loop_done(loop);
}

/* U-02 UD06 SD17: what is longer than asked for is cut and says so; the next one is intact. */
NKT_LOOP_TEST(udp_truncated) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    static unsigned char data[5000];
    uint16_t port;
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    desc.recv_size = 100;
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    int fd = ud_raw(addr.port, &port);
    static const size_t lens[] = {101, 100, 5000, 3, 99};
    sup_fill(data, sizeof(data), 0);
    for (int i = 0; i < 5; i++) {
        ud_say(fd, data, lens[i]);
        SUP_UNTIL(loop, end.datagrams == i + 1);
        CHECK_EQ(end.last.len, lens[i] < 100 ? lens[i] : 100);
        CHECK_EQ(end.last.is_truncated, lens[i] > 100);
        CHECK_EQ(end.last.peer.port, port);
        CHECK_MEM(end.bytes, data, end.last.len);
    }
    for (int i = 0; i < 5; i++) { /* in one batch, too */
        ud_say(fd, data, lens[i]);
    }
    SUP_UNTIL(loop, end.datagrams == 10);
    CHECK(end.lens[5] == 100 && end.lens[6] == 100 && end.lens[7] == 100 && end.lens[8] == 3);
    CHECK(end.last.len == 99 && !end.last.is_truncated);
    close(fd);
    nkt_loop_done(loop);
    CHECK(end.closes == 1 && end.info.code == NETKIT_E_CANCELLED);
}

/* UD02: the longest datagram there is, both ways; one byte more is refused at once. */
NKT_LOOP_TEST(udp_longest) {
    netkit_loop *loop = nkt_loop();
    static ud_end a, b;
    static unsigned char data[65508];
    netkit_udp_desc desc = ud_desc(&a, "127.0.0.1:0");
    desc.recv_size = 0;
    netkit_addr to_a = ud_open_with(loop, &a, &desc);
    desc = ud_desc(&b, "127.0.0.1:0");
    desc.recv_size = 0;
    netkit_addr to_b = ud_open_with(loop, &b, &desc);
    sup_fill(data, sizeof(data), 0);
    b.is_echo = true;
    CHECK_ERR(netkit_udp_send(loop, a.udp, &to_b, data, 65508), NETKIT_E_TOOBIG);
    CHECK_OK(netkit_udp_send(loop, a.udp, &to_b, data, 65507));
    SUP_UNTIL(loop, a.datagrams == 1);
    CHECK(b.datagrams == 1 && a.last.len == 65507 && !a.last.is_truncated);
    CHECK_MEM(a.bytes, data, 65507);
    CHECK(netkit_addr_equal(&b.last.peer, &to_a));
    nkt_loop_done(loop);
}

/* ---- errors of the network --------------------------------------------------------- */

static void ud_deaf_then_good(netkit_loop *loop, ud_end *end, const netkit_addr *deaf,
                              uint16_t port, int count) {
    int fd = ud_raw(port, NULL);
    for (int i = 0; i < 100; i++) {
        CHECK_OK(netkit_udp_send(loop, end->udp, deaf, "knock", 5));
        if (i % 10 == 9) {
            CHECK_OK(netkit_loop_flush(loop));
        }
    }
    for (int i = 0; i < count; i++) {
        ud_say(fd, "good", 4);
    }
    SUP_UNTIL(loop, end->datagrams == count);
    close(fd);
}

/* U-03 UD03 BX11: a port nobody listens on. Each refusal is told with its peer and what came back
 * of the datagram; what others send is received all the same. */
NKT_LOOP_TEST(udp_refusals_are_told) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    netkit_addr deaf = ud_deaf();
    desc.recv_buffer = 1 << 20; /* refusals wait in it too: where a packet takes much, it is full */
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    ud_deaf_then_good(loop, &end, &deaf, addr.port, 100);
    if (!ud_can(&end, NETKIT_UDP_CAP_ERRORS)) {
        sup_settle(loop);
        CHECK_EQ(end.errors + end.closes, 0);
        nkt_loop_done(loop);
        return;
    }
    SUP_UNTIL(loop, end.errors == 100);
    CHECK_EQ(end.failed.error, NETKIT_E_REFUSED);
    CHECK_EQ(end.failed.os_code, ECONNREFUSED);
    CHECK(netkit_addr_equal(&end.failed.peer, &deaf));
    CHECK_EQ(end.failed.len, 5);
    CHECK_EQ(end.closes, 0);
    ud_close(&end);
    nkt_loop_done(loop);
}

/* U-03: nobody asked for errors: they are passed over. */
NKT_LOOP_TEST(udp_refusals_are_passed_over) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    netkit_addr deaf = ud_deaf();
    desc.handler.on_error = NULL;
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    ud_deaf_then_good(loop, &end, &deaf, addr.port, 100);
    nkt_loop_done(loop);
}

/* U-03 UD03: a connected one is refused in each of its calls, and lives on until the peer is there;
 * then all arrives. */
NKT_LOOP_TEST(udp_connected_refused) {
#if NKI_WINDOWS
    if (nkt_backend == NETKIT_BACKEND_AFD && nkt_is_wine()) {
        SKIP("wine forgets a poll of a connected datagram socket that was refused");
    }
#endif
    for (int told = 0; told < 2; told++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end;
        netkit_udp_desc desc = ud_desc(&end, NULL);
        netkit_addr deaf = ud_deaf();
        struct sockaddr_in in = sup_loopback(deaf.port);
        memcpy(&in.sin_addr, deaf.ip, 4);
        char text[8];
        desc.peer_addr = &deaf;
        desc.handler.on_error = told ? ud_on_error : NULL;
        netkit_addr addr = ud_open_with(loop, &end, &desc);
        for (int i = 0; i < 100; i++) {
            CHECK_OK(netkit_udp_send(loop, end.udp, NULL, "knock", 5));
            CHECK_OK(netkit_udp_flush(loop, end.udp));
        }
        if (told) {
            SUP_UNTIL(loop, end.errors > 0);
            CHECK_EQ(end.failed.error, NETKIT_E_REFUSED);
            CHECK(netkit_addr_equal(&end.failed.peer, &deaf));
        }
        sup_settle(loop);
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK_EQ(bind(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
        in = sup_loopback(addr.port);
        CHECK_EQ(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
        CHECK_OK(netkit_udp_send(loop, end.udp, NULL, "knock", 5));
        SUP_UNTIL(loop, recv(fd, text, sizeof(text), 0) == 5);
        for (int i = 0; i < 100; i++) {
            ud_say(fd, "good", 4);
        }
        SUP_UNTIL(loop, end.datagrams == 100);
        close(fd);
        nkt_loop_done(loop);
    }
}

/* U-04: what cannot be sent is told, each one with its address, and holds nothing up. */
NKT_LOOP_TEST(udp_sends_that_fail) {
    netkit_loop *loop = nkt_loop();
    static ud_end end, good, six;
    netkit_addr to_good = ud_open(loop, &good);
    netkit_addr all = ud_addr("255.255.255.255:9");
    ud_open(loop, &end);
    CHECK_OK(netkit_udp_send(loop, end.udp, &to_good, "1", 1));
    CHECK_OK(netkit_udp_send(loop, end.udp, &all, "everybody", 9));
    CHECK_OK(netkit_udp_send(loop, end.udp, &to_good, "2", 1));
    SUP_UNTIL(loop, good.datagrams == 2 && end.errors == 1);
    CHECK_EQ(end.failed.error, NETKIT_E_ACCESS);
    CHECK_EQ(end.failed.os_code, EACCES);
    CHECK(netkit_addr_equal(&end.failed.peer, &all) && end.failed.len == 9);
    /* Far more than there is place to note at a time. */
    for (int i = 0; i < 200; i++) {
        CHECK_OK(netkit_udp_send(loop, end.udp, i % 2 ? &all : &to_good, "x", 1));
    }
    SUP_UNTIL(loop, good.datagrams == 102 && end.errors == 101);
    netkit_addr v6 = ud_addr("[::1]:9");
    CHECK_ERR(netkit_udp_send(loop, end.udp, &v6, "x", 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_udp_send(loop, end.udp, NULL, "x", 1), NETKIT_E_NOTCONN);
    CHECK_ERR(netkit_udp_send(loop, end.udp, &to_good, NULL, 1), NETKIT_E_INVALID);
    netkit_addr path = ud_addr("unix:/x");
    CHECK_ERR(netkit_udp_send(loop, end.udp, &path, "x", 1), NETKIT_E_INVALID);
    if (ud_has_ipv6()) {
        netkit_udp_desc desc = ud_desc(&six, "[::]:0");
        desc.v6only = true;
        ud_open_with(loop, &six, &desc);
        CHECK_OK(netkit_udp_send(loop, six.udp, &to_good, "x", 1)); /* no IPv4 from there */
        SUP_UNTIL(loop, six.errors == 1);
        CHECK(six.failed.error == NETKIT_E_UNREACHABLE || six.failed.error == NETKIT_E_INVALID ||
              six.failed.error == NETKIT_E_NOSYS);
        ud_close(&six);
    }
    CHECK_EQ(good.datagrams, 102);
    nkt_loop_done(loop);
}

/* ---- batches, closing in the middle -------------------------------------------------- */

static void ud_close_at_limit(ud_end *end, const netkit_datagram *datagram) {
    (void)datagram;
    CHECK(end->datagrams <= end->limit);
    if (end->datagrams == end->limit) {
        CHECK_OK(netkit_udp_send(end->loop, end->udp, &datagram->peer, "last", 4));
        CHECK_OK(netkit_udp_close(end->loop, end->udp));
        CHECK_OK(netkit_udp_close(end->loop, end->udp));
        CHECK_ERR(netkit_udp_send(end->loop, end->udp, &datagram->peer, "x", 1), NETKIT_E_CLOSED);
        CHECK_MEM(datagram->data, "0123456789", 10); /* it lives until the return */
    }
}

/* U-05 I2: closed in the middle of a flood: no more callbacks but the close, once, and what was
 * sent before leaves. */
NKT_LOOP_TEST(udp_close_in_a_flood) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    char text[8];
    netkit_addr addr = ud_open(loop, &end);
    int fd = ud_raw(addr.port, NULL);
    end.limit = 500;
    end.also = ud_close_at_limit;
    for (int i = 0, after = 0; i < 10000 && after < 200; i++, after += end.closes) {
        if (send(fd, "0123456789", 10, 0) < 0) {
            CHECK_EQ(errno, ECONNREFUSED); /* it is closed by now */
        }
        if (i % 50 == 49) {
            CHECK_OK(netkit_loop_run_once(loop, 0));
        }
    }
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(end.datagrams, 500);
    CHECK_EQ(end.info.code, NETKIT_OK);
    CHECK_EQ(end.info.unsent, 0);
    sup_settle(loop);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    ssize_t got;
    while ((got = recv(fd, text, sizeof(text), 0)) < 0 && errno == ECONNREFUSED) {
    }
    CHECK_EQ(got, 4);
    close(fd);
    nkt_loop_done(loop);
}

static void ud_close_other(ud_end *end, const netkit_datagram *datagram) {
    (void)datagram;
    if (end->other != NULL) {
        CHECK_OK(netkit_udp_close(end->loop, end->other->udp));
        end->other = NULL;
    }
}

/* U-05 I5: a handler closes another udp that has datagrams waiting in the same turn: that one
 * hears of none. Then a new one in its place. */
NKT_LOOP_TEST(udp_close_another) {
    netkit_loop *loop = nkt_loop();
    static ud_end ends[8], fresh;
    for (int round = 0; round < 20; round++) {
        int fds[8], heard = 0, closed = 0;
        for (int i = 0; i < 8; i++) {
            netkit_addr addr = ud_open(loop, &ends[i]);
            ends[i].also = ud_close_other;
            fds[i] = ud_raw(addr.port, NULL);
        }
        for (int i = 0; i < 8; i++) {
            ends[i].other = &ends[(i + 1) % 8];
            ud_say(fds[i], "a", 1);
            ud_say(fds[i], "b", 1);
        }
        SUP_UNTIL_DOING(loop, closed >= 4 && heard + closed * 2 >= 16) {
            heard = closed = 0;
            for (int i = 0; i < 8; i++) {
                heard += ends[i].datagrams;
                closed += ends[i].closes;
            }
        }
        for (int i = 0; i < 8; i++) {
            CHECK(ends[i].datagrams == 2 || ends[i].closes == 1);
            if (ends[i].closes == 0) {
                ud_close(&ends[i]);
            }
            close(fds[i]);
        }
        ud_open(loop, &fresh);
        sup_turn(loop);
        CHECK_EQ(fresh.datagrams + fresh.errors, 0);
        ud_close(&fresh);
    }
    nkt_loop_done(loop);
}

static void ud_send_many(ud_end *end, const netkit_datagram *datagram) {
    for (uint32_t i = 0; i < 40; i++) {
        CHECK_OK(netkit_udp_send(end->loop, end->udp, &datagram->peer, &i, sizeof(i)));
    }
}

/* UD05 BX11: what comes together is received by one call, and what is sent in a callback leaves in
 * one call. */
NKT_LOOP_TEST(udp_batches) {
    netkit_loop *loop = nkt_loop();
    static ud_end a, b;
    netkit_addr to_a = ud_open(loop, &a);
    netkit_udp_desc desc = ud_desc(&b, "127.0.0.1:0");
    desc.recv_size = 1500;
    ud_open_with(loop, &b, &desc);
    a.also = ud_send_many;
    b.is_numbered = true;
    sup_settle(loop);
    CHECK_OK(netkit_udp_send(loop, b.udp, &to_a, "go", 2));
    CHECK_OK(netkit_loop_flush(loop));
    nkt_calls_reset();
    SUP_UNTIL(loop, b.datagrams == 40);
    if (NKI_HAS_MMSG) {
        CHECK_EQ(nkt_calls(NKT_SEND_DATAGRAMS), 1);
        CHECK(nkt_calls(NKT_RECV_DATAGRAMS) <= 5);
    }
    CHECK_EQ(nkt_calls("epoll_ctl"), 0);
    nkt_loop_done(loop);
}

static void ud_pass_on(ud_end *end, const netkit_datagram *d) {
    CHECK_EQ(netkit_udp_send_batch(end->loop, end->udp, d, 1), 1);
}

/* BX06 F3: in the steady state nothing is allocated. */
NKT_LOOP_TEST(udp_allocates_nothing) {
    netkit_loop *loop = nkt_loop();
    static ud_end a, b;
    netkit_addr to_a = ud_open(loop, &a);
    ud_open(loop, &b);
    a.also = ud_pass_on; /* what has come can be sent back as it is */
    uint64_t before = 0;
    for (int i = 0; i < (int)nkt_count(2000, 2000); i++) {
        before = i == 20 ? nkt_allocs() : before;
        for (int k = 0; k < 10; k++) {
            CHECK_OK(netkit_udp_send(loop, b.udp, &to_a, "0123456789", (size_t)k));
        }
        SUP_UNTIL(loop, b.datagrams == (i + 1) * 10);
    }
    CHECK_EQ(nkt_allocs(), before);
    nkt_loop_done(loop);
}

/* ---- segments -------------------------------------------------------------------- */

/* One datagram of many segments, to a receiver that merges, merges whole, or does not. */
static void ud_segments(netkit_loop *loop, ud_end *from, ud_end *to, const netkit_addr *addr,
                        bool is_whole) {
    static unsigned char data[63333];
    netkit_datagram d;
    sup_fill(data, sizeof(data), 0);
    memset(&d, 0, sizeof(d));
    d.data = data;
    d.len = sizeof(data); /* 63 of 1,000 and an odd one */
    d.segment_size = 1000;
    d.peer = *addr;
    to->datagrams = 0;
    to->sum = 0;
    CHECK_EQ(netkit_udp_send_batch(loop, from->udp, &d, 1), 1);
    SUP_UNTIL(loop, to->sum == sizeof(data));
    if (!is_whole) {
        CHECK_EQ(to->datagrams, 64);
        for (int i = 0; i < 64; i++) {
            CHECK_EQ(to->lens[i], i < 63 ? 1000 : 333);
        }
        CHECK_EQ(to->last.segment_size, 0);
    } else if (to->datagrams == 1) {
        CHECK(to->last.segment_size == 1000 && to->last.len == sizeof(data));
        CHECK_MEM(to->bytes, data, sizeof(data));
    }
    CHECK(!to->last.is_truncated);
    CHECK_EQ(to->last.peer.port,
             from->last.local.port != 0 ? from->last.local.port : to->last.peer.port);
}

/* U-06 BX11: 64 segments with an odd last one keep their bounds, merged or not, with all else that
 * can be told, and when the system cannot cut them. */
NKT_LOOP_TEST(udp_segments) {
    netkit_loop *loop = nkt_loop();
    static ud_end from, to[3];
    uint32_t caps;
    netkit_addr addr[3];
    ud_open(loop, &from);
    for (int i = 0; i < 3; i++) {
        netkit_udp_desc desc = ud_desc(&to[i], "127.0.0.1:0");
        desc.gro = i == 1;
        desc.gro_whole = i == 2;
        desc.recv_size = 2000; /* of one datagram: merged ones are as long as they are */
        desc.recv_buffer = 1 << 20;
        desc.tell_local = desc.tell_tos = desc.tell_ttl = desc.tell_time = true;
        addr[i] = ud_open_with(loop, &to[i], &desc);
    }
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++) {
            ud_segments(loop, &from, &to[i], &addr[i], i == 2);
            CHECK(to[i].last.ttl != 0);
            CHECK_EQ(to[i].last.time_ns != 0, ud_tells_time(&to[i]));
            CHECK(netkit_addr_equal(&to[i].last.local, &addr[i]));
            CHECK(to[i].last.interface_index != 0);
        }
    }
    CHECK_OK(netkit_udp_caps(loop, from.udp, &caps));
    int faults = (caps & NETKIT_UDP_CAP_GSO) != 0 ? 5 : 0;
    for (int i = 0; i < faults; i++) { /* as a card that cannot do it: tried again, then given up */
        nkt_fault_at(NKT_SEND_DATAGRAMS, 1, EIO, false);
    }
    ud_segments(loop, &from, &to[0], &addr[0], false);
    CHECK_EQ(nkt_faults(), faults);
    nkt_fault_clear();
    CHECK_OK(netkit_udp_caps(loop, from.udp, &caps));
    CHECK((caps & NETKIT_UDP_CAP_GSO) == 0);
    CHECK_EQ((caps & NETKIT_UDP_CAP_BATCH) != 0, NKI_HAS_MMSG);
    for (int i = 0; i < 3; i++) {
        ud_segments(loop, &from, &to[i], &addr[i], i == 2);
    }
    nkt_loop_done(loop);
}

/* U-06: more segments than the system cuts at once, and segments of one byte. */
NKT_LOOP_TEST(udp_many_segments) {
    netkit_loop *loop = nkt_loop();
    static ud_end from, to;
    static unsigned char data[700];
    netkit_datagram d;
    netkit_udp_desc desc = ud_desc(&to, "127.0.0.1:0");
    desc.gro = true;
    memset(&d, 0, sizeof(d));
    ud_open(loop, &from);
    d.peer = ud_open_with(loop, &to, &desc);
    d.data = data;
    d.len = sizeof(data);
    d.segment_size = 7; /* 100 of them */
    CHECK_EQ(netkit_udp_send_batch(loop, from.udp, &d, 1), 1);
    SUP_UNTIL(loop, to.datagrams == 100);
    d.segment_size = 700; /* one that is none */
    CHECK_EQ(netkit_udp_send_batch(loop, from.udp, &d, 1), 1);
    SUP_UNTIL(loop, to.datagrams == 101);
    CHECK_EQ(to.last.len, 700);
    d.segment_size = 65508;
    CHECK_ERR(netkit_udp_send_batch(loop, from.udp, &d, 1), NETKIT_E_INVALID);
    nkt_loop_done(loop);
}

/* U-06: the room for what is told beside the data was too small: a row whose bounds are lost is
 * marked as cut, and nothing is read that is not there. */
NKT_LOOP_TEST(udp_small_control_buffer) {
    netkit_loop *loop = nkt_loop();
    static ud_end from, to;
    static unsigned char data[3000];
    netkit_datagram d;
    netkit_udp_desc desc = ud_desc(&to, "127.0.0.1:0");
    desc.gro = true;
    desc.tell_local = desc.tell_tos = desc.tell_ttl = desc.tell_time = true;
    memset(&d, 0, sizeof(d));
    ud_open(loop, &from);
    d.peer = ud_open_with(loop, &to, &desc);
    if (NKI_WINDOWS && !ud_can(&to, NETKIT_UDP_CAP_GRO)) {
        SKIP("wine does not say how long a datagram is then");
    }
    d.data = data;
    d.len = sizeof(data);
    d.segment_size = 1000;
    for (size_t most = 1; most < 200; most += 7) {
        to.sum = 0;
        nkt_clip_random("dgram_control", most);
        CHECK_EQ(netkit_udp_send_batch(loop, from.udp, &d, 1), 1);
        SUP_UNTIL(loop, to.sum == sizeof(data));
        nkt_fault_clear();
        CHECK(to.last.len == 1000 || to.last.is_truncated);
    }
    to.datagrams = 0;
    CHECK_EQ(netkit_udp_send_batch(loop, from.udp, &d, 1), 1);
    SUP_UNTIL(loop, to.datagrams == 3);
    CHECK(!to.last.is_truncated);
    nkt_loop_done(loop);
}

/* ---- groups, broadcast, options ---------------------------------------------------- */

static void ud_group(netkit_loop *loop, const char *any, const char *group_text,
                     const char *source_text) {
    static ud_end end, from;
    netkit_addr group = ud_addr(group_text), source = ud_addr(source_text), other = source;
    netkit_addr wrong = ud_addr(group.family == NETKIT_AF_IPV6 ? "127.0.0.1:0" : "[::1]:0");
    other.ip[group.family == NETKIT_AF_IPV6 ? 15 : 3] = 77;
    netkit_udp_desc desc = ud_desc(&end, any);
    int value;
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    desc = ud_desc(&from, source_text);
    ud_open_with(loop, &from, &desc);
    group.port = addr.port;
    CHECK_OK(netkit_udp_join(loop, end.udp, &group, 1, NULL));
    CHECK_ERR(netkit_udp_join(loop, end.udp, &group, 1, NULL), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_udp_set_option(loop, from.udp, NETKIT_OPT_MULTICAST_INTERFACE, 1));
    int code = netkit_udp_get_option(loop, from.udp, NETKIT_OPT_MULTICAST_INTERFACE, &value);
    CHECK(group.family == NETKIT_AF_IPV6 ? code == NETKIT_OK && value == 1
                                         : code == NETKIT_E_NOSYS);
    CHECK_OK(netkit_udp_set_option(loop, from.udp, NETKIT_OPT_MULTICAST_TTL, 0));
    CHECK_OK(netkit_udp_get_option(loop, from.udp, NETKIT_OPT_MULTICAST_TTL, &value));
    CHECK_EQ(value, 0);
    CHECK_OK(netkit_udp_get_option(loop, from.udp, NETKIT_OPT_MULTICAST_LOOP, &value));
    CHECK_EQ(value, 1);
    CHECK_OK(netkit_udp_send(loop, from.udp, &group, "to all", 6));
    SUP_UNTIL(loop, end.datagrams == 1 || from.errors == 1);
    if (from.errors != 0) { /* no way for groups over the loopback of this machine */
        CHECK_EQ(from.failed.error, NETKIT_E_UNREACHABLE);
    } else {
        netkit_addr to = end.last.local;
        to.scope = group.scope;
        CHECK(netkit_addr_equal(&to, &group)); /* the group is what it came to */
        CHECK_EQ(end.last.interface_index, 1);
    }
    CHECK_OK(netkit_udp_leave(loop, end.udp, &group, 1, NULL));
    CHECK_ERR(netkit_udp_leave(loop, end.udp, &group, 1, NULL), NETKIT_E_ADDRNOTAVAIL);
    CHECK_OK(netkit_udp_join(loop, end.udp, &group, 1, &source));
    CHECK_ERR(netkit_udp_join(loop, end.udp, &group, 1, &source), NETKIT_E_ADDRINUSE);
    from.errors = 0;
    CHECK_OK(netkit_udp_send(loop, from.udp, &group, "from the source", 15));
    SUP_UNTIL(loop, end.last.len == 15 || from.errors == 1);
    CHECK_OK(netkit_udp_leave(loop, end.udp, &group, 1, &source));
    CHECK_ERR(netkit_udp_leave(loop, end.udp, &group, 1, &source), NETKIT_E_ADDRNOTAVAIL);
    CHECK_OK(netkit_udp_join(loop, end.udp, &group, 1, &other));
    CHECK_ERR(netkit_udp_leave(loop, end.udp, &group, 1, &source), NETKIT_E_ADDRNOTAVAIL);
    int had = end.datagrams;
    CHECK_OK(netkit_udp_send(loop, from.udp, &group, "x", 1)); /* from the wrong one */
    sup_settle(loop);
    CHECK_EQ(end.datagrams, had);
    CHECK_ERR(netkit_udp_join(loop, end.udp, &group, 1, &wrong), NETKIT_E_INVALID);
    CHECK(netkit_udp_join(loop, end.udp, &group, 9999, NULL) < 0);
    CHECK_ERR(netkit_udp_join(loop, end.udp, &source, 1, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_udp_join(loop, end.udp, NULL, 1, NULL), NETKIT_E_INVALID);
    ud_close(&end);
    ud_close(&from);
}

/* Wine does not know interfaces of IPv4 by their index. */
static bool ud_knows_interfaces(void) {
    netkit_socket s;
    netkit_addr group = ud_addr("239.255.70.1:0");
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    int rc = netkit_socket_join(s, &group, 1, NULL);
    CHECK_OK(netkit_socket_close(&s));
    return !NKI_WINDOWS || rc != NETKIT_E_INVALID;
}

/* U-07 UD08 UD09: joining, joining twice, leaving; by source; what is sent to a group arrives. */
NKT_LOOP_TEST(udp_groups) {
    netkit_loop *loop = nkt_loop();
    if (!ud_knows_interfaces()) {
        SKIP("no groups by an interface's index here");
    }
    ud_group(loop, "0.0.0.0:0", "239.255.70.1:0", "127.0.0.1:0");
    if (ud_has_ipv6()) {
        ud_group(loop, "[::]:0", "[ff01::4242]:0", "[::1]:0");
    }
    nkt_loop_done(loop);
}

/* U-07: a multicast that is not to come back does not; UD08: several share a port, and each gets
 * what is sent to the group. */
NKT_LOOP_TEST(udp_group_shared) {
    netkit_loop *loop = nkt_loop();
    if (!ud_knows_interfaces()) {
        SKIP("no groups by an interface's index here");
    }
    static ud_end a, b, from;
    netkit_addr group = ud_addr("239.255.70.2:0");
    netkit_udp_desc desc = ud_desc(&a, "0.0.0.0:0");
    char text[32];
    desc.share = true;
    group.port = ud_open_with(loop, &a, &desc).port;
    snprintf(text, sizeof(text), "0.0.0.0:%u", group.port);
    desc = ud_desc(&b, text);
    CHECK_ERR(netkit_udp_open(loop, &desc, &b.udp), NETKIT_E_ADDRINUSE);
    desc.share = true;
    ud_open_with(loop, &b, &desc);
    desc = ud_desc(&from, "127.0.0.1:0");
    ud_open_with(loop, &from, &desc);
    CHECK_OK(netkit_udp_set_option(loop, from.udp, NETKIT_OPT_MULTICAST_INTERFACE, 1));
    CHECK_OK(netkit_udp_join(loop, a.udp, &group, 1, NULL));
    CHECK_OK(netkit_udp_join(loop, b.udp, &group, 1, NULL));
    CHECK_OK(netkit_udp_send(loop, from.udp, &group, "x", 1));
    SUP_UNTIL(loop, (a.datagrams == 1 && b.datagrams == 1) || from.errors != 0);
    /* What leaves over the loopback comes back as itself: the second copy is what this is about. */
    CHECK_OK(netkit_udp_set_option(loop, from.udp, NETKIT_OPT_MULTICAST_LOOP, 0));
    int value = 1;
    CHECK_OK(netkit_udp_get_option(loop, from.udp, NETKIT_OPT_MULTICAST_LOOP, &value));
    CHECK_EQ(value, 0);
    nkt_loop_done(loop);
}

/* UD07: a broadcast needs permission, and then reaches who is bound to any address. */
NKT_LOOP_TEST(udp_broadcast) {
    netkit_loop *loop = nkt_loop();
    static ud_end end, from;
    netkit_udp_desc desc = ud_desc(&end, "0.0.0.0:0");
    netkit_addr all = ud_addr("127.255.255.255:0");
    all.port = ud_open_with(loop, &end, &desc).port;
    ud_open(loop, &from);
    CHECK_OK(netkit_udp_send(loop, from.udp, &all, "x", 1));
    SUP_UNTIL(loop, from.errors == 1);
    CHECK_EQ(from.failed.error, NETKIT_E_ACCESS);
    ud_close(&from);
    desc = ud_desc(&from, "127.0.0.1:0");
    desc.broadcast = true;
    netkit_addr back = ud_open_with(loop, &from, &desc);
    end.is_echo = true;
    CHECK_OK(netkit_udp_send(loop, from.udp, &all, "hello", 5));
    SUP_UNTIL(loop, from.datagrams == 1);
    CHECK(netkit_addr_equal(&end.last.peer, &back));
#if !NKI_WINDOWS /* there it is what the datagram was sent to */
    CHECK(end.last.local.ip[0] == 127 && end.last.local.ip[3] != 255); /* can be answered from */
#endif
    nkt_loop_done(loop);
}

/* UD09 UD11 BX11: TTL and TOS with its ECN bits, of the socket and of single datagrams. */
static void ud_numbers(netkit_loop *loop, const char *address) {
    static ud_end a, b;
    netkit_datagram d;
    int value;
    netkit_udp_desc desc = ud_desc(&b, address);
    desc.tell_tos = desc.tell_ttl = desc.tell_time = true;
    netkit_addr to_b = ud_open_with(loop, &b, &desc);
    desc = ud_desc(&a, address);
    ud_open_with(loop, &a, &desc);
    CHECK_OK(netkit_udp_set_option(loop, a.udp, NETKIT_OPT_TTL, 42));
    CHECK_OK(netkit_udp_get_option(loop, a.udp, NETKIT_OPT_TTL, &value));
    CHECK_EQ(value, 42);
    int rc = netkit_udp_set_option(loop, a.udp, NETKIT_OPT_TOS, 0x20);
    int tos = rc == NETKIT_E_NOSYS && NKI_WINDOWS ? 0 : 0x20; /* wine has none of IPv6 */
    CHECK(rc == NETKIT_OK || tos == 0);
    rc = netkit_udp_get_option(loop, a.udp, NETKIT_OPT_TOS, &value);
    CHECK(rc == (tos != 0 ? NETKIT_OK : NETKIT_E_NOSYS) && value == tos);
    CHECK_OK(netkit_udp_set_option(loop, a.udp, NETKIT_OPT_DONT_FRAGMENT, 1));
    CHECK_OK(netkit_udp_get_option(loop, a.udp, NETKIT_OPT_DONT_FRAGMENT, &value));
    CHECK_EQ(value, 1);
    CHECK_OK(netkit_udp_send(loop, a.udp, &to_b, "x", 1));
    SUP_UNTIL(loop, b.datagrams == 1);
    CHECK(b.last.ttl == 42 && b.last.tos == tos);
    CHECK(!ud_tells_time(&b) || b.last.time_ns / 1000000000u >= (uint64_t)time(NULL) - 5);
    memset(&d, 0, sizeof(d));
    d.data = "y";
    d.len = 1;
    d.peer = to_b;
    d.tos = NETKIT_ECN_CE;
    d.ttl = 7;
    CHECK_EQ(netkit_udp_send_batch(loop, a.udp, &d, 1), 1);
    SUP_UNTIL(loop, b.datagrams == 2);
    bool is_taken = b.last.ttl == 7 && (b.last.tos & NETKIT_ECN_MASK) == NETKIT_ECN_CE;
    CHECK(is_taken || (NKI_WINDOWS && b.last.ttl == 42)); /* wine sends without them */
    CHECK_ERR(netkit_udp_set_option(loop, a.udp, NETKIT_OPT_TTL, 256), NETKIT_E_INVALID);
    CHECK_ERR(netkit_udp_set_option(loop, a.udp, NETKIT_OPT_TTL, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_udp_set_option(loop, a.udp, NETKIT_OPT_BLOCKING, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_udp_set_option(loop, a.udp, NETKIT_OPT_GRO, 1), NETKIT_E_INVALID);
    ud_close(&a);
    ud_close(&b);
}

/* UD09 UD11 BX11: TTL and TOS with its ECN bits, of the socket and of single datagrams; the time. */
NKT_LOOP_TEST(udp_ttl_and_ecn) {
    netkit_loop *loop = nkt_loop();
    ud_numbers(loop, "127.0.0.1:0");
    if (ud_has_ipv6()) {
        ud_numbers(loop, "[::1]:0");
    }
    nkt_loop_done(loop);
}

/* UD13 UD10 BX11: one socket for both families: peers read as what they are, the address they came
 * to is told, answers come from it. */
NKT_LOOP_TEST(udp_dual_stack) {
    netkit_loop *loop = nkt_loop();
    static ud_end end, four, six;
    char text[48];
    netkit_udp_desc desc = ud_desc(&end, ":0");
    desc.tell_ttl = desc.tell_tos = true;
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    end.is_echo = true;
    int last =
        ud_can(&end, NETKIT_UDP_CAP_LOCAL) && !NKI_WINDOWS ? 2 : 1; /* wine tells, not takes */
    snprintf(text, sizeof(text), "127.0.0.%d:%u", last, addr.port);
    desc = ud_desc(&four, NULL);
    desc.peer = text; /* connected: hears of nobody else */
    netkit_addr to_four = ud_open_with(loop, &four, &desc);
    CHECK_OK(netkit_udp_send(loop, four.udp, NULL, "four", 4));
    SUP_UNTIL(loop, four.datagrams == 1);
    CHECK(netkit_addr_equal(&end.last.peer, &to_four));
    CHECK_EQ(end.last.local.family, NETKIT_AF_IPV4);
    CHECK(end.last.local.ip[3] == last && end.last.local.port == addr.port);
    CHECK(end.last.interface_index != 0 && end.last.ttl != 0);
    if (addr.family == NETKIT_AF_IPV6 && ud_has_ipv6()) {
        snprintf(text, sizeof(text), "[::1]:%u", addr.port);
        desc = ud_desc(&six, NULL);
        desc.peer = text;
        netkit_addr to_six = ud_open_with(loop, &six, &desc);
        CHECK_OK(netkit_udp_send(loop, six.udp, NULL, "six", 3));
        SUP_UNTIL(loop, six.datagrams == 1);
        CHECK(netkit_addr_equal(&end.last.peer, &to_six));
        CHECK_EQ(end.last.local.family, NETKIT_AF_IPV6);
        CHECK(end.last.local.ip[15] == 1 && end.last.ttl != 0);
    }
    nkt_loop_done(loop);
}

/* UD01 UD03: bound, connected, or neither is refused; a connected one hears its peer alone. */
NKT_LOOP_TEST(udp_open_and_connect) {
    netkit_loop *loop = nkt_loop();
    static ud_end a, b, c, unused;
    netkit_addr addr;
    netkit_udp_desc desc = ud_desc(&a, NULL);
    netkit_udp none;
    CHECK_ERR(netkit_udp_open(loop, &desc, &none), NETKIT_E_INVALID);
    CHECK_EQ(none.id, 0);
    CHECK_ERR(netkit_udp_open(loop, NULL, &none), NETKIT_E_INVALID);
    desc.address = "unix:/x";
    CHECK_ERR(netkit_udp_open(loop, &desc, &none), NETKIT_E_INVALID);
    desc.address = "nonsense";
    CHECK_ERR(netkit_udp_open(loop, &desc, &none), NETKIT_E_INVALID);
    desc.address = "127.0.0.1:0";
    desc.recv_size = 65536;
    CHECK_ERR(netkit_udp_open(loop, &desc, &none), NETKIT_E_INVALID);
    desc.recv_size = 0;
    desc.ext_size = 40;
    netkit_addr to_a = ud_open_with(loop, &a, &desc);
    CHECK_ERR(netkit_udp_remote(loop, a.udp, &addr), NETKIT_E_NOTCONN);
    unsigned char *ext = (unsigned char *)netkit_udp_ext(loop, a.udp);
    CHECK(ext != NULL && ext[39] == 0 && (uintptr_t)ext % 16 == 0);
    CHECK(netkit_udp_user(loop, a.udp) == &a);
    desc = ud_desc(&b, "127.0.0.1:0");
    desc.peer_addr = &to_a;
    netkit_addr to_b = ud_open_with(loop, &b, &desc);
    CHECK_OK(netkit_udp_remote(loop, b.udp, &addr));
    CHECK(netkit_addr_equal(&addr, &to_a));
    ud_open(loop, &c);
    CHECK_OK(netkit_udp_send(loop, c.udp, &to_b, "stranger", 8));
    CHECK_OK(netkit_udp_send(loop, a.udp, &to_b, "friend", 6));
    CHECK_OK(netkit_udp_send(loop, b.udp, NULL, "hello", 5));
    SUP_UNTIL(loop, b.datagrams == 1 && a.datagrams == 1);
    CHECK_EQ(b.last.len, 6);
    CHECK(netkit_addr_equal(&a.last.peer, &to_b));
    desc = ud_desc(&unused, NULL);
    desc.addr = &to_a;
    CHECK_ERR(netkit_udp_open(loop, &desc, &none), NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_loop_objects(loop), 3);
    ud_close(&a);
    CHECK_ERR(netkit_udp_send(loop, a.udp, &to_b, "x", 1), NETKIT_E_STALE);
    CHECK_ERR(netkit_udp_pause(loop, a.udp), NETKIT_E_STALE);
    CHECK(netkit_udp_user(loop, a.udp) == NULL && netkit_udp_ext(loop, a.udp) == NULL);
    nkt_loop_done(loop);
}

/* UD01 SK02: a datagram socket made elsewhere is taken over; a stream is not. PL20: an unreferenced
 * udp does not keep a loop running. */
NKT_LOOP_TEST(udp_adopts) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_udp_desc desc = ud_desc(&end, NULL);
    int pair[2];
    char text[8];
    netkit_udp none;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    desc.socket = netkit_socket_from_native((uintptr_t)pair[0]);
    CHECK_ERR(netkit_udp_open(loop, &desc, &none), NETKIT_E_INVALID);
    close(pair[0]);
    close(pair[1]);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
    desc.socket = netkit_socket_from_native((uintptr_t)pair[0]);
    end.loop = loop;
    CHECK_OK(netkit_udp_open(loop, &desc, &end.udp));
    CHECK_EQ(send(pair[1], "unix", 4, 0), 4);
    CHECK_EQ(send(pair[1], "", 0, 0), 0);
    SUP_UNTIL(loop, end.datagrams == 2);
    CHECK_EQ(end.lens[0], 4);
    CHECK_OK(netkit_udp_send(loop, end.udp, NULL, "back", 4));
    SUP_UNTIL(loop, recv(pair[1], text, sizeof(text), MSG_DONTWAIT) == 4);
    CHECK_OK(netkit_udp_set_referenced(loop, end.udp, false));
    CHECK_OK(netkit_loop_run(loop)); /* returns at once */
    CHECK_EQ(end.closes, 0);
    close(pair[1]);
    nkt_loop_done(loop);
    CHECK_EQ(end.closes, 1);
}

/* ---- back-pressure ------------------------------------------------------------------ */

/* The system takes nothing for a while, in one of two ways. */
static void ud_back_pressure(netkit_loop *loop, int os_error) {
    static ud_end from, to;
    unsigned char data[500];
    uint32_t sent = 0;
    int code;
    netkit_addr addr = ud_open(loop, &to);
    netkit_udp_desc desc = ud_desc(&from, "127.0.0.1:0");
    desc.send_max = 50000;
    ud_open_with(loop, &from, &desc);
    to.is_numbered = true;
    memset(data, 7, sizeof(data));
    nkt_calls_reset();
    nkt_fault_at(NKT_SEND_DATAGRAMS, 1, os_error, true);
    for (;; sent++) {
        memcpy(data, &sent, sizeof(sent));
        code = netkit_udp_send(loop, from.udp, &addr, data, sizeof(data));
        if (code != NETKIT_OK) {
            break;
        }
    }
    CHECK_ERR(code, NETKIT_E_FULL);
    CHECK(sent > 80 && sent < 100);
    CHECK_ERR(netkit_udp_send(loop, from.udp, &addr, data, 50001), NETKIT_E_TOOBIG);
    if (os_error == ENOBUFS) { /* no spin: the pauses double */
        sup_turn_for_ms(loop, 50);
        CHECK(nkt_calls(NKT_SEND_DATAGRAMS) < 20);
    }
    CHECK_EQ(from.drains, 0);
    CHECK_EQ(to.datagrams, 0);
    nkt_fault_clear();
    SUP_UNTIL(loop, from.drains == 1);
    SUP_UNTIL(loop, to.datagrams == (int)sent); /* all, in order */
    CHECK_OK(netkit_udp_send(loop, from.udp, &addr, &sent, sizeof(sent)));
    SUP_UNTIL(loop, to.datagrams == (int)sent + 1);
    sup_settle(loop);
    CHECK(from.drains == 1 && from.errors == 0);
    ud_close(&from);
    ud_close(&to);
}

/* U-08 UD12: full is told, room is told once, nothing is lost or out of order, and nobody spins. */
NKT_LOOP_TEST(udp_back_pressure) {
    netkit_loop *loop = nkt_loop();
    for (int i = 0; i < 3; i++) {
        ud_back_pressure(loop, EAGAIN);
        ud_back_pressure(loop, ENOBUFS);
    }
    nkt_loop_done(loop);
}

/* U-08: told that there is room, and then there is none again, a few times. (Edges tell only of a
 * socket that was really full: there the buffers of the machine are what is short.) */
NKT_LOOP_TEST(udp_stalls_again) {
    static ud_end end;
    netkit_loop *loop = nkt_loop();
    bool has_edges = loop->driver == nki_readiness_driver() && loop->poller.ops->has_edge;
    netkit_addr addr = ud_open(loop, &end);
    int fd = ud_raw(addr.port, NULL);
    for (int i = 0; i < 5; i++) {
        nkt_fault_at(NKT_SEND_DATAGRAMS, 1, has_edges ? ENOBUFS : EAGAIN, false);
    }
    for (int i = 0; i < 10; i++) {
        CHECK_OK(netkit_udp_send(loop, end.udp, &addr, "x", 1));
        ud_say(fd, "y", 1); /* what is to be read tells, too */
    }
    SUP_UNTIL(loop, end.datagrams == 20);
    CHECK_EQ(nkt_faults(), 5);
    nkt_fault_clear();
    ud_say(fd, "y", 1);
    SUP_UNTIL(loop, end.datagrams == 21);
    close(fd);
    nkt_loop_done(loop);
}

/* I4: what the system never took is counted when it is closed. */
NKT_LOOP_TEST(udp_unsent) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr addr = ud_open(loop, &end);
    size_t queued = 0;
    nkt_fault_at(NKT_SEND_DATAGRAMS, 1, EAGAIN, true);
    for (int i = 0; i < 300; i++) {
        CHECK_OK(netkit_udp_send(loop, end.udp, &addr, "0123456789", 10));
    }
    CHECK_OK(netkit_udp_queued(loop, end.udp, &queued));
    CHECK_EQ(queued, 3000);
    CHECK_OK(netkit_udp_close(loop, end.udp));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(end.info.unsent, 3000);
    nkt_fault_clear();
    nkt_loop_done(loop);
}

/* U-08 PL23: one that is flooded leaves the others their turns. */
NKT_LOOP_TEST(udp_fairness) {
    netkit_loop_desc loop_desc;
    static ud_end loud, quiet;
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.conn_budget = 8192; /* 16 datagrams */
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    netkit_addr to_loud = ud_open(loop, &loud), to_quiet = ud_open(loop, &quiet);
    int a = ud_raw(to_loud.port, NULL), b = ud_raw(to_quiet.port, NULL);
    for (int i = 0; i < 150; i++) {
        ud_say(a, "x", 1);
    }
    ud_say(b, "x", 1);
    SUP_UNTIL(loop, quiet.datagrams == 1);
    CHECK(loud.datagrams < 100);
    SUP_UNTIL(loop, loud.datagrams == 150);
    close(a);
    close(b);
    nkt_loop_done(loop);
}

/* ---- pausing ----------------------------------------------------------------------- */

static void ud_pause_each_fifth(ud_end *end, const netkit_datagram *datagram) {
    (void)datagram;
    if (end->datagrams % 5 == 0) {
        CHECK_OK(netkit_udp_pause(end->loop, end->udp));
        end->limit = 1;
    }
}

/* C1 BX11: paused in the middle of what came together: nothing more is told, and nothing lost. */
NKT_LOOP_TEST(udp_pause) {
    netkit_loop *loop = nkt_loop();
    static ud_end end, other;
    netkit_addr addr = ud_open(loop, &end), to_other = ud_open(loop, &other);
    int fd = ud_raw(addr.port, NULL), fd2 = ud_raw(to_other.port, NULL);
    end.is_numbered = true;
    end.also = ud_pause_each_fifth;
    for (uint32_t i = 0; i < 103; i++) {
        ud_say(fd, &i, sizeof(i));
    }
    for (int i = 1; i <= 20; i++) {
        SUP_UNTIL(loop, end.limit == 1);
        ud_say(fd2, "x", 1); /* others go on */
        SUP_UNTIL(loop, other.datagrams == i);
        CHECK_EQ(end.datagrams, i * 5);
        end.limit = 0;
        CHECK_OK(netkit_udp_resume(loop, end.udp));
    }
    SUP_UNTIL(loop, end.datagrams == 103);
    CHECK_OK(netkit_udp_pause(loop, end.udp));
    uint32_t number = 103;
    ud_say(fd, &number, sizeof(number));
    sup_settle(loop);
    CHECK_EQ(end.datagrams, 103);
    uint64_t cpu = nkt_thread_cpu_ns();
    sup_turn_for_ms(loop, 50); /* without a spin */
    CHECK(nkt_thread_cpu_ns() - cpu < 40000000u * nkt_slowness);
    CHECK_OK(netkit_udp_resume(loop, end.udp));
    SUP_UNTIL(loop, end.datagrams == 104);
    /* Closed with a part of a batch still parked. */
    for (uint32_t i = 104; i < 111; i++) {
        ud_say(fd, &i, sizeof(i));
    }
    end.limit = 0;
    SUP_UNTIL(loop, end.limit == 1);
    ud_close(&end);
    close(fd);
    close(fd2);
    nkt_loop_done(loop);
}

/* Merged datagrams, paused between the segments of one. */
NKT_LOOP_TEST(udp_pause_between_segments) {
    netkit_loop *loop = nkt_loop();
    static ud_end end, from;
    static unsigned char data[12000];
    netkit_datagram d;
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    desc.gro = true;
    memset(&d, 0, sizeof(d));
    d.peer = ud_open_with(loop, &end, &desc);
    ud_open(loop, &from);
    end.is_numbered = true;
    end.also = ud_pause_each_fifth;
    for (uint32_t i = 0; i < 12; i++) {
        memcpy(data + i * 1000, &i, sizeof(i));
    }
    d.data = data;
    d.len = sizeof(data);
    d.segment_size = 1000;
    CHECK_EQ(netkit_udp_send_batch(loop, from.udp, &d, 1), 1);
    for (int i = 1; i <= 2; i++) {
        SUP_UNTIL(loop, end.limit == 1);
        sup_settle(loop);
        CHECK_EQ(end.datagrams, i * 5);
        end.limit = 0;
        CHECK_OK(netkit_udp_resume(loop, end.udp));
    }
    SUP_UNTIL(loop, end.datagrams == 12);
    nkt_loop_done(loop);
}

/* Without memory for what a pause leaves, that is lost, and told. */
NKT_LOOP_TEST(udp_pause_without_memory) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr addr = ud_open(loop, &end);
    int fd = ud_raw(addr.port, NULL);
    end.also = ud_pause_each_fifth;
    for (int i = 0; i < 8; i++) {
        ud_say(fd, "x", 1);
    }
    nkt_alloc_fail_at(1, true);
    SUP_UNTIL(loop, end.limit == 1);
    nkt_alloc_fail_at(0, false);
    CHECK_OK(netkit_udp_resume(loop, end.udp));
    SUP_UNTIL(loop, end.errors == 1);
    CHECK_EQ(end.failed.error, NETKIT_E_NOMEM);
    CHECK_EQ(end.failed.peer.family, NETKIT_AF_NONE);
    CHECK_EQ(end.datagrams, 5);
    ud_say(fd, "x", 1);
    SUP_UNTIL(loop, end.datagrams == 6);
    close(fd);
    nkt_loop_done(loop);
}

/* ---- bad luck ----------------------------------------------------------------------- */

/* I8 U-03: receiving that fails is told once and goes on by itself, without a spin. */
NKT_LOOP_TEST(udp_receiving_fails) {
    const int passing = NKI_WINDOWS ? ECONNREFUSED : EINTR; /* nothing interrupts there */
    const int errors[] = {ENOMEM, EIO, ENOBUFS, passing, ECONNREFUSED, EHOSTUNREACH};
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr addr = ud_open(loop, &end);
    int fd = ud_raw(addr.port, NULL);
    for (int i = 0; i < 6; i++) {
        int had = end.errors;
        bool is_shortage = i < 3;
        nkt_fault_at(NKT_RECV_DATAGRAMS, 1, errors[i], false);
        ud_say(fd, "x", 1);
        SUP_UNTIL(loop, end.datagrams == i + 1);
        CHECK_EQ(nkt_faults(), 1);
        nkt_fault_clear();
        CHECK_EQ(end.errors - had, is_shortage ? 1 : 0);
    }
    nkt_calls_reset();
    nkt_fault_at(NKT_RECV_DATAGRAMS, 1, EIO, true);
    ud_say(fd, "x", 1);
    sup_turn_for_ms(loop, 100);
    CHECK(nkt_calls(NKT_RECV_DATAGRAMS) < 20);
    nkt_fault_clear();
    SUP_UNTIL(loop, end.datagrams == 7);
    nkt_calls_reset();
    nkt_fault_at(NKT_RECV_DATAGRAMS, 1, ECONNREFUSED, true); /* for ever */
    ud_say(fd, "x", 1);
    sup_turn_for_ms(loop, 100);
    CHECK(nkt_calls(NKT_RECV_DATAGRAMS) < 200);
    nkt_fault_clear();
    SUP_UNTIL(loop, end.datagrams == 8);
    close(fd);
    nkt_loop_done(loop);
}

/* Z-01: without memory a send says so and nothing is half taken. */
NKT_LOOP_TEST(udp_send_without_memory) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr addr = ud_open(loop, &end);
    nkt_alloc_fail_at(1, true);
    CHECK_ERR(netkit_udp_send(loop, end.udp, &addr, "x", 1), NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    CHECK_OK(netkit_udp_send(loop, end.udp, &addr, "y", 1));
    SUP_UNTIL(loop, end.datagrams == 1);
    CHECK_MEM(end.bytes, "y", 1);
    nkt_loop_done(loop);
}

enum {
    UD_MANY = 100
};

static netkit_addr ud_many[UD_MANY];

/* It says who has sent it. What another test sends to a port that was its own once does not count. */
static void ud_many_count(ud_end *end, const netkit_datagram *d) {
    uint32_t sender = UD_MANY;
    if (d->len == sizeof(sender)) {
        memcpy(&sender, d->data, sizeof(sender));
    }
    end->limit += sender < UD_MANY && netkit_addr_equal(&d->peer, &ud_many[sender]);
}

/* SK28 I2: many udps, all their datagrams, ends in any order; slots are used again. */
NKT_LOOP_TEST(udp_many) {
    netkit_loop *loop = nkt_loop();
    ud_end *ends = (ud_end *)calloc(UD_MANY, sizeof(*ends));
    CHECK(ends != NULL);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < UD_MANY; i++) {
            ud_many[i] = ud_open(loop, &ends[i]);
            ends[i].also = ud_many_count;
        }
        for (int i = 0; i < UD_MANY; i++) {
            for (int k = 0; k < 3; k++) { /* interleaved: nobody's are mixed up */
                CHECK_OK(
                    netkit_udp_send(loop, ends[i].udp, &ud_many[(i + k) % UD_MANY], &i, sizeof(i)));
            }
        }
        for (int i = 0; i < UD_MANY; i++) {
            SUP_UNTIL(loop, ends[i].limit == 3);
        }
        for (int i = 0; i < UD_MANY; i++) {
            CHECK_OK(netkit_udp_close(loop, ends[(i * 37) % UD_MANY].udp));
        }
        for (int i = 0; i < UD_MANY; i++) {
            SUP_UNTIL(loop, ends[i].closes == 1);
        }
    }
    nkt_loop_done(loop);
    free(ends);
}

/* ---- pulling -------------------------------------------------------------------------- */

static netkit_event ud_pull(netkit_loop *loop, netkit_event_type type) {
    netkit_event ev;
    uint64_t began = nkt_now_ns();
    for (;;) {
        int code = netkit_loop_next(loop, &ev);
        CHECK_OK(code);
        if (code == 1) {
            CHECK_EQ(ev.type, type);
            return ev;
        }
        (void)sup_is_late(began, __FILE__, __LINE__, "an event");
        CHECK_OK(netkit_loop_run_once(loop, 20));
    }
}

/* BX09 BX11: all that can be told comes as events, too. */
NKT_LOOP_TEST(udp_pull) {
    netkit_loop_desc loop_desc;
    netkit_udp_desc desc;
    netkit_udp udp;
    netkit_event ev;
    netkit_addr addr, deaf = ud_deaf();
    char text[64];
    uint32_t caps;
    int user;
    memset(&loop_desc, 0, sizeof(loop_desc));
    memset(&desc, 0, sizeof(desc));
    loop_desc.pull = true;
    desc.address = "127.0.0.1:0";
    desc.user = &user;
    desc.send_max = 1000;
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    CHECK_OK(netkit_udp_open(loop, &desc, &udp));
    CHECK_OK(netkit_udp_local(loop, udp, &addr));
    int fd = ud_raw(addr.port, NULL);
    ud_say(fd, "one", 3);
    ud_say(fd, "", 0);
    ud_say(fd, "three", 5);
    for (int i = 0; i < 3; i++) {
        static const char *const texts[] = {"one", "", "three"};
        ev = ud_pull(loop, NETKIT_EVENT_DATAGRAM);
        CHECK(ev.udp.id == udp.id && ev.user == &user);
        CHECK_EQ(ev.datagram->len, strlen(texts[i]));
        CHECK_MEM(ev.datagram->data, texts[i], ev.datagram->len);
        CHECK_OK(netkit_udp_reply(loop, udp, ev.datagram, texts[i], strlen(texts[i])));
    }
    CHECK_EQ(netkit_loop_next(loop, &ev), 0);
    CHECK_EQ(recv(fd, text, sizeof(text), 0), 3); /* at the end of the turn all is sent */
    CHECK_EQ(recv(fd, text, sizeof(text), 0), 0);
    CHECK_EQ(recv(fd, text, sizeof(text), 0), 5);
    CHECK_OK(netkit_udp_caps(loop, udp, &caps));
    if ((caps & NETKIT_UDP_CAP_ERRORS) != 0) {
        CHECK_OK(netkit_udp_send(loop, udp, &deaf, "x", 1));
        ev = ud_pull(loop, NETKIT_EVENT_UDP_ERROR);
        CHECK_EQ(ev.datagram->error, NETKIT_E_REFUSED);
        CHECK(netkit_addr_equal(&ev.datagram->peer, &deaf));
    }
    nkt_fault_at(NKT_SEND_DATAGRAMS, 1, EAGAIN, true);
    while (netkit_udp_send(loop, udp, &addr, text, 60) == NETKIT_OK) {
    }
    nkt_fault_clear();
    /* It sends to itself: the datagrams come before or after the drain. */
    bool has_drained = false;
    int came = 0;
    for (uint64_t began = nkt_now_ns(); !has_drained || came < 8;) {
        int code = netkit_loop_next(loop, &ev);
        CHECK_OK(code);
        came += code == 1 && ev.type == NETKIT_EVENT_DATAGRAM;
        CHECK(!(has_drained && code == 1 && ev.type == NETKIT_EVENT_UDP_DRAIN));
        has_drained |= code == 1 && ev.type == NETKIT_EVENT_UDP_DRAIN;
        if (code == 0) {
            CHECK_OK(netkit_loop_run_once(loop, 20));
        }
        (void)sup_is_late(began, __FILE__, __LINE__, "drained");
    }
    CHECK_OK(netkit_udp_close(loop, udp));
    ev = ud_pull(loop, NETKIT_EVENT_UDP_CLOSE);
    CHECK(ev.udp.id == udp.id && ev.close.code == NETKIT_OK);
    close(fd);
    nkt_loop_done(loop);
}

/* BX09: a budget ends between two datagrams of a batch, and the rest comes later. */
NKT_LOOP_TEST(udp_in_a_frame) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr addr = ud_open(loop, &end);
    int fd = ud_raw(addr.port, NULL);
    end.is_numbered = true;
    for (uint32_t i = 0; i < 50; i++) {
        ud_say(fd, &i, sizeof(i));
    }
    for (int frame = 0; frame < 100 && end.datagrams < 50; frame++) {
        int had = end.datagrams;
        CHECK_OK(netkit_loop_poll(loop, 0)); /* one callback at most */
        CHECK(end.datagrams - had <= 1);
    }
    SUP_UNTIL(loop, end.datagrams == 50);
    close(fd);
    nkt_loop_done(loop);
}
