/* Options of conns and listeners, sizes of buffers, and the loop's record of timeouts. */
#include "support.h"
#include "support_loop.h"

static int settings_conn(netkit_loop *loop, netkit_conn conn, netkit_option option) {
    int value = -77;
    CHECK_OK(netkit_conn_get_option(loop, conn, option, &value));
    return value;
}

static int settings_listener(netkit_loop *loop, netkit_listener listener, netkit_option option) {
    int value = -77;
    CHECK_OK(netkit_listener_get_option(loop, listener, option, &value));
    return value;
}

/* OP07 OP09 OP14 OP10: what plain sockets know conns and listeners know, by the same names. */
NKT_LOOP_TEST(settings_by_name) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    netkit_listener listener;
    sup_end end;
    char name[32];
    int value = 5;
    sup_end_init(&end);
    desc = sup_listen_desc(&handler, &end);
    uint16_t port = sup_listen(loop, &desc, &listener);
    /* Wine has not all of them; any that is inherited will do. */
    netkit_option inherited = NKI_WINDOWS ? NETKIT_OPT_KEEPALIVE : NETKIT_OPT_KEEPALIVE_IDLE;
    int inherited_value = NKI_WINDOWS ? 1 : 77;
    CHECK_OK(netkit_listener_set_option(loop, listener, inherited, inherited_value));
    CHECK_EQ(settings_listener(loop, listener, inherited), inherited_value);
    CHECK_ERR(netkit_listener_set_option(loop, listener, NETKIT_OPT_BLOCKING, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_listener_get_option(loop, listener, NETKIT_OPT_NODELAY, NULL),
              NETKIT_E_INVALID);
#if NKI_POSIX
    CHECK_EQ(settings_listener(loop, listener, NETKIT_OPT_FAST_OPEN), 0);
    CHECK_OK(netkit_listener_set_option(loop, listener, NETKIT_OPT_FAST_OPEN, 5));
#endif
#if defined(__linux__)
    CHECK_EQ(settings_listener(loop, listener, NETKIT_OPT_FAST_OPEN), 5);
    CHECK_OK(netkit_listener_set_option_text(loop, listener, NETKIT_OPT_CONGESTION, "reno"));
    CHECK_EQ(netkit_listener_get_option_text(loop, listener, NETKIT_OPT_CONGESTION, name, 32), 4);
    CHECK_STR(name, "reno");
#endif
    CHECK_ERR(netkit_listener_set_option_text(loop, listener, NETKIT_OPT_CONGESTION, NULL),
              NETKIT_E_INVALID);
    sup_peer peer = sup_peer_of(sup_raw_dial(port, 0));
    SUP_UNTIL(loop, end.opens == 1);
    CHECK_EQ(settings_conn(loop, end.conn, inherited), inherited_value);
    CHECK_OK(netkit_conn_set_option(loop, end.conn, NETKIT_OPT_SEND_BUFFER, 30000));
    CHECK(settings_conn(loop, end.conn, NETKIT_OPT_SEND_BUFFER) >= 30000);
    CHECK_OK(netkit_conn_set_option(loop, end.conn, NETKIT_OPT_LINGER, 0));
    CHECK_EQ(settings_conn(loop, end.conn, NETKIT_OPT_LINGER), 0);
    CHECK_ERR(netkit_conn_set_option(loop, end.conn, NETKIT_OPT_LINGER, 1), NETKIT_E_INVALID);
    CHECK_OK(netkit_conn_set_option(loop, end.conn, NETKIT_OPT_LINGER, -1));
    CHECK_ERR(netkit_conn_set_option(loop, end.conn, NETKIT_OPT_BLOCKING, 1), NETKIT_E_INVALID);
#if defined(__linux__)
    CHECK_EQ(netkit_conn_get_option_text(loop, end.conn, NETKIT_OPT_CONGESTION, name, 32), 4);
    CHECK_STR(name, "reno"); /* from its listener */
    CHECK_ERR(netkit_conn_set_option_text(loop, end.conn, NETKIT_OPT_CONGESTION, "nosuch"),
              NETKIT_E_NOTFOUND);
#endif
    CHECK_ERR(netkit_conn_get_option_text(loop, end.conn, NETKIT_OPT_CONGESTION, name, 0),
              NETKIT_E_INVALID);
    CHECK_OK(netkit_listener_close(loop, listener));
    CHECK_ERR(netkit_listener_set_option(loop, listener, NETKIT_OPT_KEEPALIVE, 1), NETKIT_E_CLOSED);
    sup_settle(loop);
    CHECK_ERR(netkit_listener_get_option(loop, listener, NETKIT_OPT_KEEPALIVE, &value),
              NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_get_option_text(loop, listener, NETKIT_OPT_CONGESTION, name, 9),
              NETKIT_E_STALE);
    CHECK_OK(netkit_conn_abort(loop, end.conn));
    CHECK_ERR(netkit_conn_set_option_text(loop, end.conn, NETKIT_OPT_CONGESTION, "reno"),
              NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_get_option_text(loop, end.conn, NETKIT_OPT_CONGESTION, name, 9),
              NETKIT_E_CLOSED);
    CHECK_STR(name, "");
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* OP07: buffers of the desc are those of accepted, dialled and adopted conns, over TCP and over
 * paths; set in time, so that the listener has them too. */
NKT_LOOP_TEST(settings_buffers) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = sup_handler();
    char path[160], address[170];
    for (int i = 0; i < (nkt_has_unix() ? 2 : 1); i++) {
        netkit_listen_desc desc;
        netkit_connect_desc connect;
        netkit_listener listener;
        netkit_conn client;
        netkit_addr at;
        sup_end server, end;
        sup_end_init(&server);
        sup_end_init(&end);
        desc = sup_listen_desc(&handler, &server);
        nkt_temp_path(path, sizeof(path));
        snprintf(address, sizeof(address), "unix:%s", path);
        desc.address = i == 0 ? "127.0.0.1:0" : address;
        desc.conn.recv_buffer = 23000;
        desc.conn.send_buffer = 29000;
        CHECK_OK(netkit_listen(loop, &desc, &listener));
        int recv = settings_listener(loop, listener, NETKIT_OPT_RECV_BUFFER);
        int send = settings_listener(loop, listener, NETKIT_OPT_SEND_BUFFER);
        CHECK(recv == 23000 || recv == 46000);
        CHECK(send == 29000 || send == 58000);
        CHECK_OK(netkit_listener_local(loop, listener, &at));
        connect = sup_connect_desc(NULL, &end);
        connect.addr = &at;
        connect.conn = desc.conn;
        CHECK_OK(netkit_connect(loop, &connect, &client));
        CHECK_EQ(settings_conn(loop, client, NETKIT_OPT_RECV_BUFFER), recv);
        SUP_UNTIL(loop, server.opens == 1 && end.opens == 1);
        CHECK_EQ(settings_conn(loop, client, NETKIT_OPT_SEND_BUFFER), send);
        CHECK_EQ(settings_conn(loop, server.conn, NETKIT_OPT_RECV_BUFFER), recv);
        CHECK_EQ(settings_conn(loop, server.conn, NETKIT_OPT_SEND_BUFFER), send);
        desc.conn.recv_buffer = (uint32_t)INT32_MAX + 1;
        CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_INVALID);
        CHECK_OK(netkit_listener_close(loop, listener));
        CHECK_OK(netkit_conn_close(loop, client));
        SUP_UNTIL(loop, server.eofs == 1);
        CHECK_OK(netkit_conn_close(loop, server.conn));
        SUP_UNTIL(loop, server.closes == 1 && end.closes == 1);
    }
    nkt_loop_done(loop);
}

/* OP05 OP03: exclusive means not even over connections in TIME_WAIT; without it those do not
 * matter. */
NKT_LOOP_TEST(settings_exclusive) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    netkit_listener listener;
    sup_end end;
    char address[40], byte;
    sup_end_init(&end);
    desc = sup_listen_desc(&handler, &end);
    uint16_t port = sup_listen(loop, &desc, &listener);
    int fd = sup_raw_dial(port, 0);
    SUP_UNTIL(loop, end.opens == 1);
    CHECK_OK(netkit_conn_close(loop, end.conn)); /* ours ends first: TIME_WAIT is on our side */
    ssize_t got = -1;
    SUP_UNTIL_DOING(loop, got == 0) {
        got = recv(fd, &byte, 1, 0);
    }
    CHECK_EQ(close(fd), 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_OK(netkit_listener_close(loop, listener));
    sup_settle(loop);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    desc.address = address;
#if NKI_POSIX /* Windows never minds connections that have ended */
    desc.exclusive = true;
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_ADDRINUSE);
    desc.exclusive = false;
#endif
    CHECK_OK(netkit_listen(loop, &desc, NULL));
    nkt_loop_done(loop);
}

/* ---- timeouts --------------------------------------------------------------------- */

/* OP15 IO19: the loop's idle time ends conns that say nothing of it; one of its own, or none, comes
 * first, and can be changed later. */
NKT_LOOP_TEST(settings_idle_of_the_loop) {
    static const uint32_t own[] = {0, 5000, NETKIT_TIMEOUT_NONE, 20000};
    netkit_loop_desc loop_desc;
    netkit_conn_options options;
    tl_clock clock;
    tl_conn c[4];
    netkit_handler handler = tl_handler();
    memset(&loop_desc, 0, sizeof(loop_desc));
    memset(&options, 0, sizeof(options));
    memset(c, 0, sizeof(c));
    loop_desc.timeouts.idle_ms = 10000;
    netkit_loop *loop = tl_loop_on(&clock, 1000000000, &loop_desc);
    for (int i = 0; i < 4; i++) {
        options.idle_timeout_ms = own[i];
        tl_adopt_as(loop, &c[i], &handler, &options);
    }
    TL_UNTIL(loop, c[0].opens + c[1].opens + c[2].opens + c[3].opens == 4);
    tl_pass(loop, &clock, 6000000000u);
    CHECK(c[1].closes == 1 && c[0].closes + c[2].closes + c[3].closes == 0);
    CHECK_ERR(c[1].info.code, NETKIT_E_TIMEOUT);
    tl_pass(loop, &clock, 5000000000u);
    CHECK(c[0].closes == 1 && c[2].closes + c[3].closes == 0);
    CHECK_ERR(c[0].info.code, NETKIT_E_TIMEOUT);
    tl_pass(loop, &clock, 10000000000u);
    CHECK(c[3].closes == 1 && c[2].closes == 0);
    tl_pass(loop, &clock, 1000000000000u);
    CHECK_EQ(c[2].closes, 0);
    for (int i = 0; i < 4; i++) {
        tl_drop(loop, &c[i]);
    }
    nkt_loop_done(loop);
}

/* OP15 IO19: so does its time for a graceful close; the default is 5 s. */
NKT_LOOP_TEST(settings_close_of_the_loop) {
    static const uint32_t of_loop[] = {2000, 0, 2000}, own[] = {0, 0, 3000};
    static const uint32_t want[] = {2000, 5000, 3000};
    for (int i = 0; i < 3; i++) {
        netkit_loop_desc loop_desc;
        netkit_conn_options options;
        netkit_handler handler = tl_handler();
        tl_clock clock;
        tl_conn c;
        memset(&loop_desc, 0, sizeof(loop_desc));
        memset(&options, 0, sizeof(options));
        memset(&c, 0, sizeof(c));
        loop_desc.timeouts.close_ms = of_loop[i];
        options.close_deadline_ms = own[i];
        netkit_loop *loop = tl_loop_on(&clock, 1000000000, &loop_desc);
        tl_adopt_as(loop, &c, &handler, &options);
        TL_UNTIL(loop, c.opens == 1);
        CHECK_OK(netkit_conn_close(loop, c.handle)); /* the peer never ends its side */
        tl_settle(loop);
        tl_pass(loop, &clock, ((uint64_t)want[i] - 500) * 1000000u);
        CHECK_EQ(c.closes, 0);
        tl_pass(loop, &clock, 501u * 1000000u);
        CHECK_EQ(c.closes, 1);
        CHECK_ERR(c.info.code, NETKIT_E_TIMEOUT);
        tl_hang_up(&c);
        nkt_loop_done(loop);
    }
}

/* OP15 SK12: and its time for connecting, to somebody who does not answer. */
NKT_LOOP_TEST(settings_connect_of_the_loop) {
    static const uint32_t of_loop[] = {2000, 0, 2000}, own[] = {0, 0, 7000};
    static const uint32_t want[] = {2000, 30000, 7000};
    struct sockaddr_in in = sup_loopback(0);
    socklen_t len = sizeof(in);
    int filler[4];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (const struct sockaddr *)&in, len), 0);
    CHECK_EQ(listen(fd, 0), 0); /* full at once: further ones are dropped */
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    for (int i = 0; i < 4; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK(connect(filler[i], (const struct sockaddr *)&in, len) == 0 || errno == EINPROGRESS);
    }
    for (int i = 0; i < 3; i++) {
        netkit_loop_desc loop_desc;
        netkit_connect_desc desc;
        tl_clock clock;
        sup_end end;
        char address[32];
        memset(&loop_desc, 0, sizeof(loop_desc));
        loop_desc.timeouts.connect_ms = of_loop[i];
        netkit_loop *loop = tl_loop_on(&clock, 1000000000, &loop_desc);
        sup_end_init(&end);
        snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(in.sin_port));
        desc = sup_connect_desc(address, &end);
        desc.timeout_ms = own[i];
        CHECK_OK(netkit_connect(loop, &desc, NULL));
        tl_pass(loop, &clock, ((uint64_t)want[i] - 500) * 1000000u);
        CHECK_EQ(end.closes, 0);
        tl_pass(loop, &clock, 501u * 1000000u);
        CHECK_EQ(end.closes, 1);
        CHECK_ERR(end.info.code, NETKIT_E_TIMEOUT);
        CHECK_EQ(end.info.op, NETKIT_OP_CONNECT);
        desc.timeout_ms = NETKIT_TIMEOUT_NONE;
        CHECK_ERR(netkit_connect(loop, &desc, NULL), NETKIT_E_INVALID);
        nkt_loop_done(loop);
    }
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(close(filler[i]), 0);
    }
    CHECK_EQ(close(fd), 0);
}

/* OP15 ER07: what cannot be switched off is refused. */
NKT_LOOP_TEST(settings_impossible) {
    netkit_loop_desc desc;
    netkit_loop *loop = NULL;
    for (int i = 0; i < 3; i++) {
        memset(&desc, 0, sizeof(desc));
        desc.backend = nkt_backend;
        desc.timeouts.connect_ms = i == 0 ? NETKIT_TIMEOUT_NONE : 0;
        desc.timeouts.close_ms = i == 1 ? NETKIT_TIMEOUT_NONE : 0;
        desc.timeouts.idle_ms = i == 2 ? (uint32_t)INT32_MAX + 1 : 0;
        CHECK_ERR(netkit_loop_create(&loop, &desc), NETKIT_E_INVALID);
        CHECK(loop == NULL);
    }
    memset(&desc, 0, sizeof(desc));
    desc.timeouts.idle_ms = NETKIT_TIMEOUT_NONE;
    loop = nkt_loop_with(&desc);
    nkt_loop_done(loop);
}
