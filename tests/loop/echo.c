/* Whole ways: the echo of the manual's first page, by the byte and by the megabyte, fairness, and
 * what it costs. */
#include "support.h"

/* The handler of the README's echo server, word for word. */
static size_t echo(netkit_loop *loop, netkit_conn conn, const void *data, size_t len, void *user) {
    (void)user;
    netkit_conn_send(loop, conn, data, len);
    return len;
}

static uint16_t echo_listen(netkit_loop *loop, const netkit_conn_options *options) {
    netkit_handler handler;
    netkit_listen_desc desc;
    memset(&handler, 0, sizeof(handler));
    handler.on_data = echo;
    desc = sup_listen_desc(&handler, NULL);
    if (options != NULL) {
        desc.conn = *options;
    }
    return sup_listen(loop, &desc, NULL);
}

typedef struct echo_client {
    sup_end end;
    uint64_t sent, to_send;
} echo_client;

/* Send until the queue is full; on_drain goes on. */
static void echo_client_send(netkit_loop *loop, netkit_conn conn, void *user) {
    static unsigned char data[50000];
    echo_client *c = (echo_client *)user;
    while (c->sent < c->to_send) {
        uint64_t left = c->to_send - c->sent;
        size_t len = left < sizeof(data) ? (size_t)left : sizeof(data);
        int code;
        sup_fill(data, len, c->sent);
        code = netkit_conn_send(loop, conn, data, len);
        if (code == NETKIT_E_FULL) {
            return;
        }
        CHECK_OK(code);
        c->sent += len;
    }
    CHECK_OK(netkit_conn_shutdown(loop, conn));
}

static void echo_client_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_open(loop, conn, user);
    echo_client_send(loop, conn, user);
}

/* T-01 IO03 SK13: echoes of 0 to 16 MiB through two conns of one loop, both directions at once:
 * the same bytes in the same order, then a clean end on both sides */
NKT_LOOP_TEST(echo_of_every_size) {
    static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 16 << 20};
    netkit_loop *loop = nkt_loop();
    uint16_t port = echo_listen(loop, NULL);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        netkit_connect_desc desc;
        echo_client c;
        char address[32];
        memset(&c, 0, sizeof(c));
        sup_end_init(&c.end);
        c.to_send = sizes[i];
        snprintf(address, sizeof(address), "127.0.0.1:%u", port);
        desc = sup_connect_desc(address, &c.end);
        desc.handler.on_open = echo_client_open;
        desc.handler.on_drain = echo_client_send;
        desc.handler.on_eof = NULL;
        desc.conn.duplex = true;
        CHECK_OK(netkit_connect(loop, &desc, &c.end.conn));
        SUP_UNTIL(loop, c.end.closes == 1);
        CHECK_EQ(c.end.bytes, sizes[i]);
        CHECK_EQ(c.sent, sizes[i]);
        CHECK_OK(c.end.info.code);
    }
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 1);
    nkt_loop_done(loop);
}

typedef struct echo_framer {
    sup_end end;
    uint64_t frames;
} echo_framer;

/* Frames of a length in two bytes and so many bytes; answers each whole one. */
static size_t echo_frames(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                          void *user) {
    const unsigned char *at = (const unsigned char *)data;
    echo_framer *f = (echo_framer *)user;
    size_t used = 0;
    while (len - used >= 2) {
        size_t frame = 2 + ((size_t)at[used] << 8) + at[used + 1];
        if (len - used < frame) {
            break;
        }
        CHECK_OK(netkit_conn_send(loop, conn, at + used, frame));
        used += frame;
        f->frames++;
    }
    return used;
}

/* T-02 C1 IO16: frames that arrive a byte at a time are whole */
NKT_LOOP_TEST(echo_of_frames_byte_by_byte) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    size_t len = (size_t)nkt_count(1 << 20, 20000), at = 0, back = 0;
    unsigned char *data = (unsigned char *)malloc(len + 70000);
    unsigned char *got = (unsigned char *)malloc(len + 70000);
    uint64_t frames = 0;
    echo_framer f;
    sup_peer peer;
    memset(&f, 0, sizeof(f));
    sup_end_init(&f.end);
    for (size_t end = 0; at < len; at = end, frames++) {
        size_t body = (size_t)(nkt_random() % 300);
        end = at + 2 + body;
        data[at] = (unsigned char)(body >> 8);
        data[at + 1] = (unsigned char)body;
        sup_fill(data + at + 2, body, at);
    }
    len = at;
    setup.handler.on_data = echo_frames;
    peer = sup_open(loop, &f.end, &setup);
    for (at = 0; at < len; at++) {
        ssize_t n;
        CHECK_EQ(send(peer.fd, data + at, 1, 0), 1);
        CHECK_OK(netkit_loop_poll(loop, -1));
        n = recv(peer.fd, got + back, len - back, 0);
        back += n > 0 ? (size_t)n : 0;
    }
    SUP_UNTIL_DOING(loop, back == len) {
        ssize_t n = recv(peer.fd, got + back, len - back, 0);
        back += n > 0 ? (size_t)n : 0;
    }
    CHECK_EQ(f.frames, frames);
    CHECK_MEM(data, got, len);
    CHECK_EQ(sup_unread(&f.end), 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
    free(data);
    free(got);
}

/* C3 PO15 R5 I11 SD38 BX06: the echo of the first page against a peer that sends all it can, up to
 * 64 MiB, before it reads a byte: the loop rests, memory stays within the cap, and then every byte
 * comes back */
NKT_SLOW_LOOP_TEST(echo_against_a_peer_that_does_not_read) {
    netkit_loop *loop = nkt_loop();
    sup_peer peer = sup_peer_of(sup_raw_dial(echo_listen(loop, NULL), 0));
    uint64_t rss, turns, most = 0, cpu;
    int64_t live;
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 2);
    live = nkt_live_bytes();
    rss = nkt_rss_bytes();
    peer.to_send = 64 << 20;
    sup_send_until_stuck(loop, &peer);
    CHECK(peer.sent < peer.to_send);
    CHECK_EQ(peer.received, 0);
    CHECK(nkt_live_bytes() - live <= 262144 + (128 << 10));
    CHECK(nkt_slowness > 1 || nkt_rss_bytes() < rss + 262144 + (2 << 20));
    turns = netkit_loop_turns(loop);
    cpu = nkt_cpu_ns();
    for (int i = 0; i < 4; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
    CHECK(netkit_loop_turns(loop) - turns <= 8);
    CHECK(nkt_cpu_ns() - cpu < 100000000);
    SUP_UNTIL_DOING(loop, peer.received == peer.to_send) {
        sup_peer_step(&peer);
        most = nkt_live_bytes() > (int64_t)most ? (uint64_t)nkt_live_bytes() : most;
    }
    CHECK((int64_t)most - live <= 262144 + (128 << 10));
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_step(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_EQ(peer.received, 64 << 20);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* C3: duplex switches back-pressure off: on_data goes on while the queue is full, sends see FULL */
NKT_LOOP_TEST(echo_duplex_sees_full) {
    for (int is_duplex = 0; is_duplex < 2; is_duplex++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        end.is_echo = true;
        setup.options.duplex = is_duplex != 0;
        peer = sup_open(loop, &end, &setup);
        peer.to_send = 24 << 20;
        if (is_duplex) {
            SUP_UNTIL_DOING(loop, end.bytes == peer.to_send) {
                sup_peer_send(&peer);
            }
        } else {
            sup_send_until_stuck(loop, &peer);
            sup_settle(loop);
            CHECK(end.bytes < peer.to_send);
        }
        CHECK_ERR(end.echo_code, is_duplex ? NETKIT_E_FULL : NETKIT_OK);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* T-01 T-04 I4: an echo through a system that moves a few bytes at a time, both ways */
NKT_LOOP_TEST(echo_through_short_transfers) {
    netkit_loop *loop = nkt_loop();
    uint64_t len = nkt_scale(4 << 20, 300000);
    sup_peer peer = sup_peer_of(sup_raw_dial(echo_listen(loop, NULL), 0));
    nkt_clip_random("send", 1000);
    nkt_clip_random("sendmsg", 1000);
    if (nkt_is_level()) { /* a clipped recv looks like an edge used up */
        nkt_clip_random("recv", 1000);
        nkt_fault_prob("recv", 10, EAGAIN);
        nkt_fault_prob("send", 10, EAGAIN);
        nkt_fault_prob("recv", 5, NKI_WINDOWS ? EAGAIN : EINTR); /* nothing interrupts there */
        nkt_fault_prob("send", 5, NKI_WINDOWS ? EAGAIN : EINTR);
    }
    peer.to_send = len;
    SUP_UNTIL_DOING(loop, peer.received == len) {
        sup_peer_step(&peer);
    }
    CHECK(nkt_faults() > 100);
    nkt_fault_clear();
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* MB05 BX06 IO13: a steady echo allocates nothing, and asks nothing of the system but to wait,
 * receive and send */
NKT_SLOW_LOOP_TEST(echo_allocates_nothing) {
    netkit_loop *loop = nkt_loop();
    sup_peer peer = sup_peer_of(sup_raw_dial(echo_listen(loop, NULL), 0));
    uint64_t messages = nkt_count(1000000, 20000), allocs = 0, frees = 0, calls;
    char data[64] = {0};
    for (uint64_t i = 0; i < messages + 100; i++) {
        ssize_t got = 0;
        if (i == 100) {
            allocs = nkt_allocs();
            frees = nkt_frees();
            nkt_calls_reset();
        }
        CHECK_EQ(send(peer.fd, data, sizeof(data), 0), sizeof(data));
        for (int turn = 0; got <= 0 && turn < 1000; turn++) {
            sup_turn(loop);
            got = recv(peer.fd, data, sizeof(data), 0);
        }
        CHECK_EQ(got, sizeof(data));
    }
    calls = nkt_calls("recv") + nkt_calls("send") + nkt_calls("sendmsg");
    CHECK_EQ(nkt_allocs(), allocs);
    CHECK_EQ(nkt_frees(), frees);
    CHECK_EQ(nkt_calls("epoll_ctl") + nkt_calls("kevent_change") + nkt_calls("poll"),
             nkt_backend == NETKIT_BACKEND_POLL || NKI_WINDOWS ? nkt_calls("poll") : 0);
    CHECK(calls >= 2 * messages && calls <= 2 * messages + messages / 10);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* SD42 PO17 IO13: an idle conn costs little memory, and no receive buffer; after traffic too */
NKT_SLOW_LOOP_TEST(echo_idle_conns_are_small) {
    enum {
        ECHO_IDLE_MAX = 5000
    };
    static int fds[ECHO_IDLE_MAX];
    netkit_loop *loop = nkt_loop();
    int count = (int)nkt_scale(ECHO_IDLE_MAX, 1000);
    uint16_t port = echo_listen(loop, NULL);
    int64_t live = nkt_live_bytes(), before;
    char data[64] = {0};
    CHECK_EQ(send(fds[0] = sup_raw_dial(port, 0), data, 64, 0), 64);
    SUP_UNTIL(loop, recv(fds[0], data, 64, MSG_DONTWAIT) == 64);
    before = nkt_live_bytes() - live;
    live = nkt_live_bytes();
    for (int i = 1; i < count; i++) {
        fds[i] = sup_raw_dial(port, 0);
        CHECK_EQ(send(fds[i], data, 64, 0), 64);
        if (i % 50 == 0) {
            CHECK_OK(netkit_loop_poll(loop, -1));
        }
    }
    for (int i = 1; i < count; i++) {
        SUP_UNTIL(loop, recv(fds[i], data, 64, MSG_DONTWAIT) == 64);
    }
    sup_settle(loop);
    printf("first %d bytes, then %d per conn\n", (int)before,
           (int)((nkt_live_bytes() - live) / (count - 1)));
    CHECK(nkt_live_bytes() - live <= 256 * (int64_t)count + (64 << 10));
    for (int i = 0; i < count; i++) {
        CHECK_EQ(close(fds[i]), 0);
    }
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 1);
    nkt_loop_done(loop);
}

/* PL23 L-10 I11: a flooder does not starve the others: while it streams, a hundred small echoes
 * each get their turn; within one turn it reads no more than its budget */
NKT_LOOP_TEST(echo_is_fair_to_small_ones) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    sup_setup setup = sup_setup_default();
    sup_end flood, small;
    sup_peer flooder, pinger;
    memset(&desc, 0, sizeof(desc));
    desc.conn_budget = 100000;
    loop = nkt_loop_with(&desc);
    sup_end_init(&flood);
    flooder = sup_open(loop, &flood, &setup);
    sup_end_init(&small);
    small.is_echo = true;
    pinger = sup_open(loop, &small, &setup);
    flooder.to_send = 1u << 30;
    for (int ping = 0; ping < 100; ping++) {
        int turns = 0;
        pinger.to_send++;
        sup_peer_send(&pinger);
        while (pinger.received < pinger.to_send) {
            uint64_t before = flood.bytes;
            sup_peer_send(&flooder);
            CHECK_OK(netkit_loop_run_once(loop, 0));
            CHECK(flood.bytes - before <= 100000 + 65536);
            sup_peer_recv(&pinger);
            CHECK(++turns < 10);
        }
    }
    CHECK(flood.bytes > 100 * 65536);
    CHECK_OK(netkit_conn_abort(loop, flood.conn));
    sup_peer_close(&flooder);
    sup_peer_close(&pinger);
    nkt_loop_done(loop);
}

/* T-01 I4: several echoes at once, some ending in the middle: nobody else is touched */
NKT_LOOP_TEST(echo_of_many_at_once) {
    enum {
        ECHO_MANY = 50
    };
    netkit_loop *loop = nkt_loop();
    uint16_t port = echo_listen(loop, NULL);
    sup_peer peers[ECHO_MANY];
    int left = ECHO_MANY;
    for (int i = 0; i < ECHO_MANY; i++) {
        peers[i] = sup_peer_of(sup_raw_dial(port, 0));
        peers[i].to_send = 1000 + (uint64_t)i * 4000;
    }
    SUP_UNTIL_DOING(loop, left == 0) {
        for (int i = 0; i < ECHO_MANY; i++) {
            if (peers[i].fd < 0) {
                continue;
            }
            sup_peer_step(&peers[i]);
            if (i % 5 == 0 && peers[i].received > 500) {
                sup_raw_reset(peers[i].fd);
            } else if (peers[i].received == peers[i].to_send) {
                CHECK_EQ(peers[i].end, 0);
                sup_peer_close(&peers[i]);
            } else {
                continue;
            }
            peers[i].fd = -1;
            left--;
        }
    }
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 1);
    nkt_loop_done(loop);
}

/* C3 C2: queues smaller than a span: the echo is still whole, whatever send_max and recv_max are */
NKT_LOOP_TEST(echo_with_small_queues) {
    static const uint32_t limits[] = {1, 1000, 65535, 65536, 65537, 100000};
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        netkit_loop *loop = nkt_loop();
        sup_setup setup = sup_setup_default();
        sup_end end;
        sup_peer peer;
        sup_end_init(&end);
        end.is_echo = true;
        setup.options.send_max = limits[i];
        setup.options.recv_max = i % 2 == 0 ? 0 : limits[i];
        peer = sup_open(loop, &end, &setup);
        peer.to_send = limits[i] == 1 ? 300 : 2 << 20;
        SUP_UNTIL_DOING(loop, peer.received == peer.to_send || end.closes == 1) {
            sup_peer_step(&peer);
        }
        CHECK_OK(end.echo_code);
        CHECK_EQ(end.closes, 0);
        sup_peer_close(&peer);
        nkt_loop_done(loop);
    }
}

/* C3 I3 I4 SK22: a peer that sends 1.5 MiB and its end before it reads anything gets all of it back,
 * then our end: the default on_eof waits behind the data, its close behind the queue */
NKT_LOOP_TEST(echo_of_a_peer_that_ends_first) {
    netkit_loop *loop = nkt_loop();
    sup_peer peer = sup_peer_of(sup_raw_dial(echo_listen(loop, NULL), 16384));
    uint64_t all = 3 << 19;
    peer.to_send = all;
    SUP_UNTIL_DOING(loop, peer.sent == all) {
        sup_peer_send(&peer);
    }
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    sup_turn_for_ms(loop, 50);
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_EQ(peer.received, all);
    sup_peer_close(&peer);
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 1);
    nkt_loop_done(loop);
}
