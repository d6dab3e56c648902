/* Udps that are paused, closed or refused at a bad moment. */

#include "support_loop.h"
#include "support_udp.h"

/* ---- failures that nobody is told --------------------------------------------------- */

static void ud_send_to(ud_end *end, const netkit_addr *to, int count) {
    for (int i = 0; i < count; i++) {
        CHECK_OK(netkit_udp_send(end->loop, end->udp, to, "bad", 3));
    }
}

/* U-04 U-08: paused with more failures than are kept to be told: what is behind them goes out all
 * the same. Afterwards those that were kept are told, in order. */
NKT_LOOP_TEST(udp_paused_with_failures) {
    netkit_addr all = ud_addr("255.255.255.255:9");
    for (int how = 0; how < 2; how++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end, good;
        netkit_addr to_good = ud_open(loop, &good);
        ud_open(loop, &end);
        if (how == 0) {
            CHECK_OK(netkit_udp_pause(loop, end.udp));
        }
        ud_send_to(&end, &all, 40);
        CHECK_OK(netkit_udp_send(loop, end.udp, &to_good, "good", 4));
        CHECK_OK(netkit_udp_flush(loop, end.udp)); /* stops at the 16th when they can be told */
        CHECK_OK(netkit_udp_pause(loop, end.udp));
        SUP_UNTIL(loop, good.datagrams == 1);
        CHECK_EQ(end.errors, 0);
        CHECK_OK(netkit_udp_resume(loop, end.udp));
        SUP_UNTIL(loop, end.errors == 16);
        sup_settle(loop);
        CHECK_EQ(end.errors, 16);
        CHECK(end.failed.error == NETKIT_E_ACCESS && netkit_addr_equal(&end.failed.peer, &all));
        ud_send_to(&end, &all, 20); /* and all is as before */
        SUP_UNTIL(loop, end.errors == 36);
        ud_close(&end);
        CHECK_EQ(end.info.unsent, 24 * 3); /* those of which it has not heard */
        nkt_loop_done(loop);
    }
}

/* I4 U-04: closed with many that fail in front of one that does not: that one is sent, and the
 * others count as unsent, whether failures are told or not, paused or not. */
NKT_LOOP_TEST(udp_closed_with_failures) {
    netkit_addr all = ud_addr("255.255.255.255:9");
    for (int how = 0; how < 4; how++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end, good;
        netkit_addr to_good = ud_open(loop, &good);
        netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
        desc.handler.on_error = how % 2 == 0 ? ud_on_error : NULL;
        ud_open_with(loop, &end, &desc);
        if (how >= 2) {
            CHECK_OK(netkit_udp_pause(loop, end.udp));
        }
        ud_send_to(&end, &all, 40);
        CHECK_OK(netkit_udp_send(loop, end.udp, &to_good, "good", 4));
        CHECK_OK(netkit_udp_close(loop, end.udp));
        SUP_UNTIL(loop, end.closes == 1 && good.datagrams == 1);
        CHECK_EQ(end.errors, 0);
        CHECK_EQ(end.info.code, NETKIT_OK);
        CHECK_EQ(end.info.unsent, 40 * 3);
        nkt_loop_done(loop);
    }
}

/* The first refusal of a round is followed by a pause. */
static void ud_pause_at_error(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed,
                              void *user) {
    ud_end *end = (ud_end *)user;
    ud_on_error(loop, udp, failed, user);
    if (end->errors == end->limit) {
        CHECK_OK(netkit_udp_pause(loop, udp));
    }
}

/* U-03 UR12 L-10: paused when it is told of a refusal, perhaps with more of them to tell. What comes
 * meanwhile waits, and is told when it goes on, from the first one on. */
NKT_LOOP_TEST(udp_paused_by_a_refusal) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    netkit_addr deaf = ud_deaf();
    uint32_t number = 0;
    desc.recv_size = 1500;
    desc.handler.on_error = ud_pause_at_error;
    netkit_addr addr = ud_open_with(loop, &end, &desc);
    if (!ud_can(&end, NETKIT_UDP_CAP_ERRORS)) {
        nkt_loop_done(loop);
        SKIP("no reports of what was refused");
    }
    int fd = ud_raw(addr.port, NULL);
    end.is_numbered = true;
    for (int round = 1, had = 0; round <= 8; round++) {
        int knocks = round % 4 == 0 ? 3 : 1;
        sup_settle(loop);
        end.limit = had + 1;
        for (int i = 0; i < knocks; i++) {
            CHECK_OK(netkit_udp_send(loop, end.udp, &deaf, "knock", 5));
        }
        SUP_UNTIL(loop, end.errors == end.limit);
        sup_settle(loop);
        for (int i = 0; i < 5; i++, number++) {
            ud_say(fd, &number, sizeof(number));
        }
        sup_settle(loop);
        CHECK_EQ(end.datagrams, 5 * (round - 1));
        CHECK_OK(netkit_udp_resume(loop, end.udp));
        had += knocks;
        SUP_UNTIL(loop, end.datagrams == 5 * round && end.errors == had);
    }
    close(fd);
    nkt_loop_done(loop);
}

enum {
    UD_CLOSES,
    UD_PAUSES,
    UD_PAUSES_AND_GOES_ON
};

static void ud_end_at_error(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed,
                            void *user) {
    ud_end *end = (ud_end *)user;
    ud_on_error(loop, udp, failed, user);
    if (end->limit == UD_CLOSES) {
        CHECK_OK(netkit_udp_close(loop, udp));
        return;
    }
    CHECK_OK(netkit_udp_pause(loop, udp));
    if (end->limit == UD_PAUSES_AND_GOES_ON) {
        CHECK_OK(netkit_udp_resume(loop, udp));
    }
}

/* U-03 UR12: closed when it is told of a refusal, or later in the pause that began there, or it goes on
 * at once. */
NKT_LOOP_TEST(udp_ends_behind_a_refusal) {
    for (int how = UD_CLOSES; how <= UD_PAUSES_AND_GOES_ON; how++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end;
        netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
        netkit_addr deaf = ud_deaf();
        desc.recv_size = 1500;
        desc.handler.on_error = ud_end_at_error;
        netkit_addr addr = ud_open_with(loop, &end, &desc);
        if (!ud_can(&end, NETKIT_UDP_CAP_ERRORS)) {
            nkt_loop_done(loop);
            SKIP("no reports of what was refused");
        }
        int fd = ud_raw(addr.port, NULL);
        sup_settle(loop);
        end.limit = how;
        end.is_numbered = true;
        CHECK_OK(netkit_udp_send(loop, end.udp, &deaf, "knock", 5));
        SUP_UNTIL(loop, end.errors == 1);
        for (uint32_t number = 0; number < 5; number++) { /* its port may be closed by now */
            (void)send(fd, &number, sizeof(number), 0);
        }
        if (how == UD_PAUSES_AND_GOES_ON) {
            SUP_UNTIL(loop, end.datagrams == 5);
        }
        if (how != UD_CLOSES) {
            sup_settle(loop);
            CHECK_OK(netkit_udp_close(loop, end.udp));
        }
        SUP_UNTIL(loop, end.closes == 1);
        CHECK_EQ(end.datagrams, how == UD_PAUSES_AND_GOES_ON ? 5 : 0);
        CHECK_EQ(end.info.code, NETKIT_OK);
        close(fd);
        nkt_loop_done(loop);
    }
}

static void ud_retry(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed, void *user) {
    ud_on_error(loop, udp, failed, user);
    CHECK_OK(netkit_udp_send(loop, udp, &failed->peer, "again", 5));
}

static void ud_count(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    ++*(int *)user;
}

/* U-08 PL23: who sends again whatever failed does so as often as its share of a turn goes; timers
 * fire meanwhile. */
NKT_LOOP_TEST(udp_retries_for_ever) {
    netkit_loop_desc loop_desc;
    netkit_addr all = ud_addr("255.255.255.255:9");
    static ud_end end;
    int fired = 0;
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.conn_budget = 8192;
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    netkit_udp_desc desc = ud_desc(&end, "127.0.0.1:0");
    desc.handler.on_error = ud_retry;
    ud_open_with(loop, &end, &desc);
    CHECK_OK(netkit_timer_start(loop, NULL, 1000, 0, ud_count, &fired));
    CHECK_OK(netkit_udp_send(loop, end.udp, &all, "x", 1));
    SUP_UNTIL(loop, fired == 1);
    int had = end.errors;
    CHECK_OK(netkit_loop_run_once(loop, 0));
    CHECK(end.errors - had <= 20); /* 8,192 bytes, at 512 each, and a few */
    CHECK_OK(netkit_udp_close(loop, end.udp));
    SUP_UNTIL(loop, end.closes == 1);
    nkt_loop_done(loop);
}

/* U-03 UD03: where a system keeps no reports (IP_RECVERR), a connected udp still hears that its peer
 * is not there, by the error of the next call. */
NKT_LOOP_TEST(udp_refused_without_reports) {
#if NKI_WINDOWS
    if (nkt_is_wine()) {
        SKIP("wine takes the error out of a datagram socket that was refused");
    }
#endif
    for (uint64_t n = 1; n < 12; n++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end;
        netkit_udp_desc desc = ud_desc(&end, NULL);
        netkit_addr deaf = ud_deaf();
        uint32_t caps = 0;
        int value = 0;
        desc.peer_addr = &deaf;
        nkt_fault_at("setsockopt", n, ENOPROTOOPT, false);
        int code = netkit_udp_open(loop, &desc, &end.udp);
        nkt_fault_clear();
        end.loop = loop;
        if (code == NETKIT_OK) {
            CHECK_OK(netkit_udp_caps(loop, end.udp, &caps));
            int got = netkit_udp_get_option(loop, end.udp, NETKIT_OPT_TELL_ERRORS, &value);
            CHECK_ERR(got, (caps & NETKIT_UDP_CAP_ERRORS) != 0 ? NETKIT_OK : NETKIT_E_NOSYS);
            for (int i = 0; i < 10; i++) {
                int had = end.errors;
                CHECK_OK(netkit_udp_send(loop, end.udp, NULL, "knock", 5));
                SUP_UNTIL(loop, end.errors > had);
                CHECK_EQ(end.failed.error, NETKIT_E_REFUSED);
                CHECK(netkit_addr_equal(&end.failed.peer, &deaf));
            }
            ud_close(&end);
        }
        nkt_loop_done(loop);
        if (code == NETKIT_OK && value == 0) {
            return;
        }
    }
    FAIL("the option was never refused");
}

/* ---- the end ------------------------------------------------------------------------ */

/* BX16 I2: what was closed before the loop is destroyed is no leak, and its reason is that it was
 * closed; what was not is one. */
NKT_LOOP_TEST(udp_closed_before_destroy) {
    for (int closes = 0; closes < 2; closes++) {
        netkit_loop_desc loop_desc;
        netkit_listen_desc listen_desc;
        netkit_listener listener;
        netkit_handler handler = sup_handler();
        tl_log log;
        static ud_end end;
        sup_end other;
        memset(&log, 0, sizeof(log));
        memset(&loop_desc, 0, sizeof(loop_desc));
        loop_desc.debug = true;
        loop_desc.logger = tl_logger(&log);
        netkit_loop *loop = nkt_loop_with(&loop_desc);
        ud_open(loop, &end);
        sup_end_init(&other);
        listen_desc = sup_listen_desc(&handler, &other);
        (void)sup_listen(loop, &listen_desc, &listener);
        if (closes) {
            CHECK_OK(netkit_udp_close(loop, end.udp));
            CHECK_OK(netkit_listener_close(loop, listener));
        }
        nkt_loop_done(loop);
        CHECK_EQ(log.lines[NETKIT_LOGID_LEAKED_HANDLE], closes ? 0 : 2);
        CHECK_EQ(end.closes, 1);
        CHECK_ERR(end.info.code, closes ? NETKIT_OK : NETKIT_E_CANCELLED);
    }
}

/* What a callback has in its hands stays as it is until it returns. */
static void ud_pause_and_close(ud_end *end, const netkit_datagram *datagram) {
    static unsigned char before[100];
    CHECK(datagram->len <= sizeof(before));
    memcpy(before, datagram->data, datagram->len);
    CHECK_OK(netkit_udp_pause(end->loop, end->udp));
    if (end->datagrams >= end->limit) {
        CHECK_OK(netkit_udp_close(end->loop, end->udp));
        CHECK_MEM(datagram->data, before, datagram->len);
        CHECK_EQ(datagram->peer.family, NETKIT_AF_IPV4);
        CHECK(netkit_addr_equal(&datagram->peer, &end->last.peer));
    }
}

/* I9 U-05: paused and then closed in the callback, with the rest of a batch behind it, that was
 * parked before or not. */
NKT_LOOP_TEST(udp_paused_and_closed) {
    for (int limit = 1; limit <= 5; limit++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end;
        netkit_addr addr = ud_open(loop, &end);
        int fd = ud_raw(addr.port, NULL);
        end.limit = limit;
        end.also = ud_pause_and_close;
        for (int i = 0; i < 5; i++) {
            ud_say(fd, "0123456789", 10);
        }
        SUP_UNTIL_DOING(loop, end.closes == 1) {
            if (end.datagrams < limit) {
                CHECK_OK(netkit_udp_resume(loop, end.udp));
            }
        }
        CHECK_EQ(end.datagrams, limit);
        close(fd);
        nkt_loop_done(loop);
    }
}

/* ---- merged rows that are parked --------------------------------------------------------- */

static void ud_pause_each(ud_end *end, const netkit_datagram *datagram) {
    CHECK_EQ(datagram->peer.port, end->limit);
    CHECK_OK(netkit_udp_pause(end->loop, end->udp));
}

/* One row of `count` datagrams, each with its number. */
static void ud_send_row(ud_end *from, const netkit_addr *to, uint32_t first, uint32_t count) {
    static unsigned char data[40 * 1000];
    netkit_datagram d;
    memset(&d, 0, sizeof(d));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = first + i;
        memcpy(data + i * 1000, &number, sizeof(number));
    }
    d.data = data;
    d.len = count * 1000 - 500; /* the last one is shorter */
    d.segment_size = 1000;
    d.peer = *to;
    CHECK_EQ(netkit_udp_send_batch(from->loop, from->udp, &d, 1), 1);
}

/* BX11 U-06: two that merge are paused in the middle of their rows, in turn: each goes on where it
 * was, and every datagram has its own sender. */
NKT_LOOP_TEST(udp_parked_rows_keep_their_sender) {
    netkit_loop *loop = nkt_loop();
    static ud_end from[2], to[2];
    netkit_addr addr[2];
    for (int i = 0; i < 2; i++) {
        netkit_udp_desc desc = ud_desc(&to[i], "127.0.0.1:0");
        desc.gro = true;
        addr[i] = ud_open_with(loop, &to[i], &desc);
        to[i].limit = ud_open(loop, &from[i]).port;
        to[i].is_numbered = true;
        to[i].also = ud_pause_each;
        ud_send_row(&from[i], &addr[i], 0, 10);
        ud_send_row(&from[i], &addr[i], 10, 10);
    }
    for (int n = 1; n <= 20; n++) {
        for (int i = 0; i < 2; i++) {
            SUP_UNTIL(loop, to[i].datagrams == n);
            CHECK_EQ(to[i].last.len, n % 10 == 0 ? 500 : 1000);
            CHECK(!to[i].last.is_truncated && to[i].last.segment_size == 0);
        }
        sup_turn(loop);
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(to[i].datagrams, n);
            CHECK_OK(netkit_udp_resume(loop, to[i].udp));
        }
    }
    nkt_loop_done(loop);
}

/* BX11 U-06: rows that are handed over whole are parked whole. */
NKT_LOOP_TEST(udp_parked_rows_are_whole) {
    netkit_loop *loop = nkt_loop();
    static ud_end from, to;
    netkit_udp_desc desc = ud_desc(&to, "127.0.0.1:0");
    desc.gro_whole = true;
    netkit_addr addr = ud_open_with(loop, &to, &desc);
    to.limit = ud_open(loop, &from).port;
    /* Whether the system hands them over whole at all: over loopback 5.10 does not. */
    ud_send_row(&from, &addr, 0, 10);
    SUP_UNTIL(loop, to.sum == 9500);
    bool is_whole = to.datagrams == 1;
    to.datagrams = 0;
    to.also = ud_pause_each;
    for (uint32_t i = 0; i < 5; i++) {
        ud_send_row(&from, &addr, i * 10, 10);
    }
    uint32_t next = 0;
    while (next < 50) {
        int had = to.datagrams;
        SUP_UNTIL(loop, to.datagrams > had);
        CHECK_EQ(to.datagrams, had + 1);
        size_t each = to.last.segment_size != 0 ? to.last.segment_size : 1000;
        for (size_t at = 0; at < to.last.len; at += each, next++) {
            uint32_t number;
            memcpy(&number, to.bytes + at, sizeof(number));
            CHECK_EQ(number, next);
        }
        CHECK_OK(netkit_udp_resume(loop, to.udp));
    }
    CHECK(to.datagrams < 50 || !is_whole);
    nkt_loop_done(loop);
}

/* ---- bounds ---------------------------------------------------------------------------------- */

/* R5 U-08: datagrams without a byte are bounded in number; full is told, room is told, all come. */
NKT_LOOP_TEST(udp_empty_datagrams_are_bounded) {
    netkit_loop *loop = nkt_loop();
    static ud_end from, to;
    netkit_addr addr = ud_open(loop, &to);
    netkit_udp_desc desc = ud_desc(&from, "127.0.0.1:0");
    int sent = 0, code;
    desc.send_max = 6400;
    ud_open_with(loop, &from, &desc);
    nkt_fault_at(NKT_SEND_DATAGRAMS, 1, ENOBUFS, true);
    while ((code = netkit_udp_send(loop, from.udp, &addr, NULL, 0)) == NETKIT_OK && sent < 1000) {
        sent++;
    }
    CHECK_ERR(code, NETKIT_E_FULL);
    CHECK_EQ(sent, 100); /* 64 each */
    CHECK_ERR(netkit_udp_send(loop, from.udp, &addr, NULL, 0), NETKIT_E_FULL);
    nkt_fault_clear();
    SUP_UNTIL(loop, from.drains == 1 && to.datagrams == 100);
    CHECK_EQ(to.sum, 0);
    nkt_loop_done(loop);
}

/* R5 PL23: so are those that come: a flood of them leaves others their turns. */
NKT_LOOP_TEST(udp_empty_datagrams_are_fair) {
    netkit_loop_desc loop_desc;
    static ud_end loud, quiet;
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.conn_budget = 8192; /* 16 datagrams */
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    netkit_addr to_loud = ud_open_roomy(loop, &loud), to_quiet = ud_open(loop, &quiet);
    int a = ud_raw(to_loud.port, NULL), b = ud_raw(to_quiet.port, NULL);
    for (int i = 0; i < 200; i++) {
        ud_say(a, "", 0);
    }
    ud_say(b, "", 0);
    SUP_UNTIL(loop, quiet.datagrams == 1);
    CHECK(loud.datagrams < 150);
    SUP_UNTIL(loop, loud.datagrams == 200);
    close(a);
    close(b);
    nkt_loop_done(loop);
}

/* ---- unix ------------------------------------------------------------------------------------ */

#if NKI_POSIX /* Windows' unix sockets are of streams */
/* UD01 X-05: a unix datagram socket that is adopted tells its own path with each datagram. */
NKT_LOOP_TEST(udp_adopted_path) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    char path[160];
    netkit_addr at, from;
    netkit_socket s, client;
    netkit_udp_desc desc = ud_desc(&end, NULL);
    nkt_temp_path(path, sizeof(path));
    CHECK_OK(netkit_addr_from_path(&at, path, strlen(path), false));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(s, &at, 0));
    nkt_temp_path(path, sizeof(path));
    CHECK_OK(netkit_addr_from_path(&from, path, strlen(path), false));
    CHECK_OK(netkit_socket_open(&client, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(client, &from, 0));
    CHECK_OK(netkit_socket_connect(client, &at, 0));
    desc.socket = s;
    end.loop = loop;
    CHECK_OK(netkit_udp_open(loop, &desc, &end.udp));
    for (int i = 1; i <= 3; i++) {
        CHECK_EQ(netkit_socket_send(client, "unix", 4), 4);
        SUP_UNTIL(loop, end.datagrams == i);
        CHECK(netkit_addr_equal(&end.last.local, &at));
        CHECK(netkit_addr_equal(&end.last.peer, &from));
    }
    CHECK_OK(netkit_socket_close(&client));
    nkt_loop_done(loop);
}

/* ---- back-pressure of a peer that does not read ------------------------------------------- */

/* A udp on a unix socket that is connected to a raw one: of a pair, whose buffer fills, or with a
 * path, whose queue of datagrams does. */
static int ud_unix_peer(netkit_loop *loop, ud_end *end, bool is_pair) {
    netkit_udp_desc desc = ud_desc(end, NULL);
    int fds[2];
    desc.send_max = 50000;
    if (is_pair) {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
    } else {
        struct sockaddr_un un;
        char path[100];
        memset(&un, 0, sizeof(un));
        un.sun_family = AF_UNIX;
        nkt_temp_path(path, sizeof(path));
        snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
        fds[0] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        fds[1] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(fds[1], (const struct sockaddr *)&un, sizeof(un)), 0);
        CHECK_EQ(connect(fds[0], (const struct sockaddr *)&un, sizeof(un)), 0);
    }
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    end->loop = loop;
    CHECK_OK(netkit_udp_open(loop, &desc, &end->udp));
    return fds[1];
}

/* Read what is there; each must have its number. */
static void ud_unix_read(int fd, uint32_t *next) {
    unsigned char data[600];
    ssize_t len;
    while ((len = recv(fd, data, sizeof(data), MSG_DONTWAIT)) > 0) {
        uint32_t number;
        CHECK_EQ(len, 500);
        memcpy(&number, data, sizeof(number));
        CHECK_EQ(number, *next);
        ++*next;
    }
}

/* U-08 UD12: the system's own back-pressure: full is told, nothing spins while the peer does not
 * read, paused or not, room is told once each time, and all come in order. */
NKT_LOOP_TEST(udp_peer_that_does_not_read) {
    for (int how = 0; how < 4; how++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end;
        unsigned char data[500];
        uint32_t sent = 0, next = 0;
        int peer = ud_unix_peer(loop, &end, how % 2 == 0);
        memset(data, 7, sizeof(data));
        if (how >= 2) {
            CHECK_OK(netkit_udp_pause(loop, end.udp));
        }
        for (int round = 1; round <= 5; round++) {
            int code = NETKIT_OK;
            while (code == NETKIT_OK) {
                memcpy(data, &sent, sizeof(sent));
                code = netkit_udp_send(loop, end.udp, NULL, data, sizeof(data));
                sent += code == NETKIT_OK;
            }
            CHECK_ERR(code, NETKIT_E_FULL);
            sup_settle(loop);
            nkt_calls_reset();
            uint64_t cpu = nkt_thread_cpu_ns();
            sup_turn_for_ms(loop, 60);
            CHECK(nkt_thread_cpu_ns() - cpu < 30000000u * nkt_slowness);
            CHECK(nkt_calls(NKT_SEND_DATAGRAMS) <= 2);
            CHECK_EQ(end.drains, round - 1);
            SUP_UNTIL_DOING(loop, end.drains == round) {
                ud_unix_read(peer, &next);
            }
        }
        SUP_UNTIL_DOING(loop, next == sent) {
            ud_unix_read(peer, &next);
        }
        sup_settle(loop);
        CHECK(end.drains == 5 && end.errors == 0);
        ud_close(&end);
        CHECK_EQ(end.info.unsent, 0);
        CHECK_EQ(close(peer), 0);
        nkt_loop_done(loop);
    }
}
#endif /* NKI_POSIX */

/* ---- limits ---------------------------------------------------------------------------------- */

/* UD02 U-04: the longest datagrams of each family, merged receivers or not; one byte more, alone, in
 * a batch or in segments, is refused at once and leaves nothing behind. */
NKT_LOOP_TEST(udp_longest_of_each_family) {
    static const char *const addresses[] = {"127.0.0.1:0", "[::1]:0"};
    static unsigned char data[65536];
    sup_fill(data, sizeof(data), 0);
    for (int i = 0; i < (ud_has_ipv6() ? 2 : 1); i++) {
        netkit_loop *loop = nkt_loop();
        static ud_end a, b;
        netkit_datagram d;
        size_t most = i == 0 ? 65507 : 65527, queued = 1;
        netkit_udp_desc desc = ud_desc(&b, addresses[i]);
        desc.gro = true;
        netkit_addr to_b = ud_open_with(loop, &b, &desc);
        desc = ud_desc(&a, addresses[i]);
        desc.recv_size = 0;
        ud_open_with(loop, &a, &desc);
        b.is_echo = true;
        memset(&d, 0, sizeof(d));
        d.data = data;
        d.len = most + 1;
        d.peer = to_b;
        CHECK_ERR(netkit_udp_send(loop, a.udp, &to_b, data, most + 1), NETKIT_E_TOOBIG);
        CHECK_ERR(netkit_udp_send_batch(loop, a.udp, &d, 1), NETKIT_E_TOOBIG);
        d.segment_size = 1000;
        CHECK_ERR(netkit_udp_send_batch(loop, a.udp, &d, 1), NETKIT_E_TOOBIG);
        CHECK_OK(netkit_udp_queued(loop, a.udp, &queued));
        CHECK_EQ(queued, 0);
        CHECK_OK(netkit_udp_send(loop, a.udp, &to_b, data, most));
        SUP_UNTIL(loop, a.datagrams == 1);
        CHECK(a.last.len == most && !a.last.is_truncated && b.last.len == most);
        CHECK_MEM(a.bytes, data, most);
        d.len = 65507; /* together at most so many, whatever the family */
        CHECK_EQ(netkit_udp_send_batch(loop, a.udp, &d, 1), 1);
        SUP_UNTIL(loop, a.sum == most + 65507);
        CHECK(b.datagrams == 67 && a.last.len == 507 && a.errors == 0 && b.errors == 0);
        nkt_loop_done(loop);
    }
}

/* UD04 UD06 R5: nothing at all is a number like any other, for each call that takes one. */
NKT_LOOP_TEST(udp_nothing) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr addr = ud_open(loop, &end);
    netkit_datagram d;
    unsigned char memory[16];
    size_t queued = 1;
    memset(&d, 0, sizeof(d));
    CHECK_EQ(netkit_udp_send_batch(loop, end.udp, NULL, 0), 0);
    CHECK_EQ(netkit_udp_send_batch(loop, end.udp, &d, 0), 0);
    CHECK_ERR(netkit_udp_send_batch(loop, end.udp, NULL, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_udp_send_batch(loop, end.udp, &d, 1), NETKIT_E_NOTCONN);
    CHECK_OK(netkit_udp_flush(loop, end.udp));
    CHECK_OK(netkit_udp_queued(loop, end.udp, &queued));
    CHECK_EQ(queued, 0);
    d.peer = addr;
    d.segment_size = 10; /* segments of nothing are one empty datagram */
    CHECK_EQ(netkit_udp_send_batch(loop, end.udp, &d, 1), 1);
    CHECK_OK(netkit_udp_send(loop, end.udp, &addr, NULL, 0));
    SUP_UNTIL(loop, end.datagrams == 2);
    CHECK(end.sum == 0 && end.last.len == 0 && !end.last.is_truncated);
    sup_settle(loop);
    CHECK_EQ(end.datagrams, 2);
    int fd = ud_raw(addr.port, NULL);
    netkit_socket s = netkit_socket_from_native((uintptr_t)fd);
    CHECK_EQ(netkit_socket_send_datagrams(s, NULL, 0), 0);
    CHECK_ERR(netkit_socket_recv_datagrams(s, &d, 0, memory, sizeof(memory)), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_recv_datagrams(s, &d, 1, memory, 0), NETKIT_E_INVALID);
    close(fd);
    nkt_loop_done(loop);
}

/* UD13 U-04: an IPv4 address written as one of IPv6 is that of IPv4 on a socket for both, and cannot
 * be reached from one for IPv6 alone; nothing stalls. */
NKT_LOOP_TEST(udp_mapped_addresses) {
    netkit_loop *loop = nkt_loop();
    static ud_end four, both, six, connected;
    netkit_addr mapped = ud_addr("[::ffff:127.0.0.1]:9");
    if (!ud_has_ipv6()) {
        SKIP("no IPv6 here");
    }
    netkit_addr to_four = ud_open(loop, &four);
    mapped.port = to_four.port;
    netkit_udp_desc desc = ud_desc(&both, ":0");
    desc.tell_ttl = desc.tell_tos = true;
    netkit_addr at = ud_open_with(loop, &both, &desc);
    four.is_echo = true;
    CHECK_OK(netkit_udp_send(loop, both.udp, &mapped, "both", 4));
    SUP_UNTIL(loop, both.datagrams == 1);
    CHECK(four.last.peer.family == NETKIT_AF_IPV4 && four.last.peer.port == at.port);
    CHECK(netkit_addr_equal(&both.last.peer, &to_four)); /* reads as what it is */
    CHECK(both.last.local.family == NETKIT_AF_IPV4 && both.last.ttl != 0);
    desc = ud_desc(&six, "[::]:0");
    desc.v6only = true;
    netkit_addr to_six = ud_open_with(loop, &six, &desc);
    CHECK_OK(netkit_udp_send(loop, six.udp, &mapped, "six", 3));
    SUP_UNTIL(loop, six.errors == 1);
    CHECK(six.failed.error == NETKIT_E_UNREACHABLE || six.failed.error == NETKIT_E_INVALID);
    netkit_addr self = ud_addr("[::1]:0");
    self.port = to_six.port;
    CHECK_OK(netkit_udp_send(loop, six.udp, &self, "six", 3));
    SUP_UNTIL(loop, six.datagrams == 1);
    CHECK_EQ(four.datagrams, 1);
    desc = ud_desc(&connected, NULL);
    desc.peer_addr = &mapped;
    netkit_addr local = ud_open_with(loop, &connected, &desc);
    CHECK_OK(netkit_udp_send(loop, connected.udp, NULL, "mapped", 6));
    SUP_UNTIL(loop, connected.datagrams == 1);
    CHECK(netkit_addr_equal(&connected.last.peer, &to_four));
    CHECK_EQ(four.last.peer.port, local.port);
    nkt_loop_done(loop);
}

#if defined(__linux__)
/* U-03: many sends that failed here, whose reports the call itself has told already, do not hide
 * the report of one that failed out there. */
NKT_LOOP_TEST(udp_report_behind_many) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    static char data[65508];
    netkit_addr deaf = ud_deaf();
    struct sockaddr_in to = sup_loopback(deaf.port);
    memcpy(&to.sin_addr, deaf.ip, 4);
    uintptr_t native = 0;
    ud_open_roomy(loop, &end);
    CHECK_OK(netkit_udp_native(loop, end.udp, &native));
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 200; k++) { /* each leaves a report of its own making */
            CHECK(sendto((int)native, data, sizeof(data), 0, (const struct sockaddr *)&to,
                         sizeof(to)) < 0);
        }
        CHECK_OK(netkit_udp_send(loop, end.udp, &deaf, "knock", 5));
        SUP_UNTIL(loop, end.errors == i + 1);
        CHECK_EQ(end.failed.error, NETKIT_E_REFUSED);
        CHECK(netkit_addr_equal(&end.failed.peer, &deaf));
    }
    nkt_loop_done(loop);
}
#endif

/* U-03 U-08: what comes back while a udp is paused waits without a spin; afterwards it is told,
 * where the system tells who it was about, and all goes on. */
NKT_LOOP_TEST(udp_paused_with_reports) {
    netkit_loop *loop = nkt_loop();
    static ud_end end;
    netkit_addr deaf = ud_deaf();
    netkit_addr self = ud_open(loop, &end);
    CHECK_OK(netkit_udp_pause(loop, end.udp));
    for (int i = 0; i < 5; i++) {
        CHECK_OK(netkit_udp_send(loop, end.udp, &deaf, "knock", 5));
    }
    sup_settle(loop);
    nkt_calls_reset();
    uint64_t cpu = nkt_thread_cpu_ns();
    sup_turn_for_ms(loop, 60);
    CHECK(nkt_calls(NULL) < 100);
    CHECK(nkt_thread_cpu_ns() - cpu < 30000000u * nkt_slowness);
    CHECK_EQ(end.errors, 0);
    CHECK_OK(netkit_udp_resume(loop, end.udp));
    if (ud_can(&end, NETKIT_UDP_CAP_ERRORS)) {
        SUP_UNTIL(loop, end.errors == 5);
        CHECK_EQ(end.failed.error, NETKIT_E_REFUSED);
        CHECK(netkit_addr_equal(&end.failed.peer, &deaf));
    }
    CHECK_OK(netkit_udp_send(loop, end.udp, &self, "self", 4));
    SUP_UNTIL(loop, end.datagrams == 1);
    CHECK_EQ(end.last.len, 4);
    nkt_loop_done(loop);
}

/* ---- a queue that is really full ---------------------------------------------------------------- */

#if defined(__linux__)
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

/* A network of this process with a card of which this is the other end: 10.9.8.1 is ours. What is
 * sent to a neighbour waits in its socket's account until somebody says where that is. -1: none. */
static int ud_own_card(void) {
    struct ifreq request;
    struct sockaddr_in in = sup_loopback(0);
    int card = unshare(CLONE_NEWNET) == 0 ? open("/dev/net/tun", O_RDWR | O_CLOEXEC) : -1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memset(&request, 0, sizeof(request));
    memcpy(request.ifr_name, "nkt0", 4);
    request.ifr_flags = 0x1002; /* IFF_TAP | IFF_NO_PI */
    bool is_there = card >= 0 && fd >= 0 && ioctl(card, _IOW('T', 202, int), &request) == 0;
    in.sin_addr.s_addr = htonl(0x0A090801);
    memcpy(&request.ifr_addr, &in, sizeof(in));
    is_there = is_there && ioctl(fd, SIOCSIFADDR, &request) == 0;
    in.sin_addr.s_addr = htonl(0xFFFFFF00);
    memcpy(&request.ifr_netmask, &in, sizeof(in));
    is_there = is_there && ioctl(fd, SIOCSIFNETMASK, &request) == 0;
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    is_there = is_there && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    memcpy(request.ifr_name, "lo\0", 4);
    is_there = is_there && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    close(fd);
    if (!is_there && card >= 0) {
        close(card);
    }
    return is_there ? card : -1;
}

/* Whoever was asked for is here. */
static void ud_answer_arp(int card) {
    unsigned char frame[200], answer[42];
    ssize_t len;
    int answered = 0;
    sup_nonblocking(card);
    while ((len = read(card, frame, sizeof(frame))) > 0) {
        if (len < 42 || frame[12] != 8 || frame[13] != 6) {
            continue; /* no ARP */
        }
        memcpy(answer, frame, sizeof(answer));
        memcpy(answer, frame + 6, 6);        /* to who asks */
        memcpy(answer + 6, "\x02nktud", 6);  /* from us */
        answer[21] = 2;                      /* a reply: */
        memcpy(answer + 22, "\x02nktud", 6); /* we are */
        memcpy(answer + 28, frame + 38, 4);  /* the address that was asked for */
        memcpy(answer + 32, frame + 22, 10); /* says to who asked */
        CHECK_EQ(write(card, answer, sizeof(answer)), sizeof(answer));
        answered++;
    }
    CHECK(answered > 0);
}

/* U-08 U-03 UD12: the system's queue is full and it says when there is room. Meanwhile nothing
 * spins, also with reports of other datagrams waiting, paused or not; then the drain is told, the
 * queue leaves, and so are the reports. */
NKT_LOOP_TEST(udp_queue_is_full) {
    netkit_addr away = ud_addr("10.9.8.2:9"), deaf = ud_addr("127.0.0.1:9");
    int card = ud_own_card();
    if (card < 0) {
        SKIP("no network of one's own, or no card for it: not root, or no /dev/net/tun");
    }
    for (int how = 0; how < 3; how++) {
        netkit_loop *loop = nkt_loop();
        static ud_end end;
        netkit_udp_desc desc = ud_desc(&end, "0.0.0.0:0");
        static unsigned char data[500];
        size_t queued = 1;
        int code, reports = how == 0 ? 0 : 5;
        away.ip[3] = (uint8_t)(2 + how); /* nobody has been asked for this one */
        desc.send_buffer = 4608;
        desc.send_max = 20000;
        ud_open_with(loop, &end, &desc);
        if (how == 2) {
            CHECK_OK(netkit_udp_pause(loop, end.udp));
        }
        for (int i = 0; i < reports; i++) {
            CHECK_OK(netkit_udp_send(loop, end.udp, &deaf, "knock", 5));
        }
        while ((code = netkit_udp_send(loop, end.udp, &away, data, sizeof(data))) == NETKIT_OK) {
        }
        CHECK_ERR(code, NETKIT_E_FULL);
        sup_settle(loop);
        nkt_calls_reset();
        uint64_t cpu = nkt_thread_cpu_ns();
        sup_turn_for_ms(loop, 100);
        CHECK(nkt_calls(NULL) < 100);
        CHECK(nkt_thread_cpu_ns() - cpu < 50000000u * nkt_slowness);
        CHECK_EQ(end.errors, how == 2 ? 0 : reports);
        CHECK_EQ(end.drains, 0);
        ud_answer_arp(card);
        SUP_UNTIL(loop, end.drains == 1);
        SUP_UNTIL_DOING(loop, queued == 0) {
            CHECK_OK(netkit_udp_queued(loop, end.udp, &queued));
        }
        CHECK_OK(netkit_udp_resume(loop, end.udp));
        SUP_UNTIL(loop, end.errors == reports);
        CHECK(reports == 0 ||
              (end.failed.error == NETKIT_E_REFUSED && netkit_addr_equal(&end.failed.peer, &deaf)));
        sup_settle(loop);
        CHECK(end.drains == 1 && end.errors == reports);
        ud_close(&end);
        CHECK_EQ(end.info.unsent, 0);
        nkt_loop_done(loop);
    }
    close(card);
}
#endif

/* BX11 U-06 ER01: each option that the system may not know is done without: what can be is told,
 * segments keep their bounds, answers arrive; or opening fails as a whole. */
NKT_LOOP_TEST(udp_without_options) {
    static const int errors[] = {ENOPROTOOPT, EOPNOTSUPP, EACCES};
    for (int i = 0; i < 9; i++) {
        netkit_loop *loop = nkt_loop();
        static ud_end from, to;
        static unsigned char data[2500];
        netkit_datagram d;
        for (uint64_t n = 1, hits = 1; hits != 0 && n < 30; n++) {
            netkit_udp_desc desc = ud_desc(&to, i % 3 == 2 ? ":0" : "127.0.0.1:0");
            int fds = nkt_open_fds();
            desc.gro = i % 3 == 0;
            desc.gro_whole = i % 3 == 1;
            desc.recv_size = 1000;
            desc.tell_local = desc.tell_tos = desc.tell_ttl = desc.tell_time = true;
            to.loop = loop;
            nkt_fault_at("setsockopt", n, errors[i / 3], false);
            int code = netkit_udp_open(loop, &desc, &to.udp);
            hits = nkt_faults();
            nkt_fault_clear();
            if (code != NETKIT_OK) {
                CHECK(hits != 0 && to.udp.id == 0);
                CHECK_EQ(nkt_open_fds(), fds);
                CHECK_EQ(netkit_loop_objects(loop), 0);
                continue;
            }
            memset(&d, 0, sizeof(d));
            netkit_addr at, back = ud_open(loop, &from);
            CHECK_OK(netkit_udp_local(loop, to.udp, &at));
            d.peer = ud_addr("127.0.0.1:0");
            d.peer.port = at.port;
            d.data = data;
            d.len = sizeof(data);
            d.segment_size = 1000;
            CHECK_EQ(netkit_udp_send_batch(loop, from.udp, &d, 1), 1);
            SUP_UNTIL(loop, to.sum == sizeof(data));
            CHECK(to.datagrams == 3 || (to.datagrams == 1 && to.last.segment_size == 1000));
            CHECK(!to.last.is_truncated && netkit_addr_equal(&to.last.peer, &back));
            CHECK_OK(netkit_udp_reply(loop, to.udp, &to.last, "back", 4));
            SUP_UNTIL(loop, from.datagrams == 1);
            ud_close(&from);
            ud_close(&to);
        }
        nkt_loop_done(loop);
    }
}

/* UD13: on a machine without IPv6 every address means every one of IPv4. */
NKT_LOOP_TEST(udp_without_ipv6) {
    static const int errors[] = {EAFNOSUPPORT, EADDRNOTAVAIL};
    netkit_loop *loop = nkt_loop();
    for (int i = 0; i < 2; i++) {
        static ud_end end, from;
        netkit_udp_desc desc = ud_desc(&end, ":0");
        netkit_addr to = ud_addr("127.0.0.1:0");
        nkt_fault_at(i == 0 ? "socket" : "bind", 1, errors[i], false);
        netkit_addr at = ud_open_with(loop, &end, &desc);
        CHECK_EQ(nkt_faults(), 1);
        nkt_fault_clear();
        CHECK_EQ(at.family, NETKIT_AF_IPV4);
        end.is_echo = true;
        to.port = at.port;
        ud_open(loop, &from);
        CHECK_OK(netkit_udp_send(loop, from.udp, &to, "four", 4));
        SUP_UNTIL(loop, from.datagrams == 1);
        CHECK(netkit_addr_equal(&from.last.peer, &to));
        ud_close(&end);
        ud_close(&from);
        desc = ud_desc(&end, "[::]:0"); /* but who says IPv6 means it */
        nkt_fault_at(i == 0 ? "socket" : "bind", 1, errors[i], false);
        CHECK(netkit_udp_open(loop, &desc, NULL) < 0);
        nkt_fault_clear();
    }
    nkt_loop_done(loop);
}
