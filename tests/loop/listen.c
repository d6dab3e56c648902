/* Listeners: addresses and options, who is taken, and accepting in bad weather. */
#include "support.h"

typedef struct listen_server {
    int opens, closes, errors, refused, asked;
    int last_error, last_os_code;
    netkit_addr last_peer;
    netkit_conn last;
    int listener_closes;
    bool refuses;
} listen_server;

static void listen_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    listen_server *s = (listen_server *)user;
    (void)loop;
    s->opens++;
    s->last = conn;
}

static size_t listen_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    (void)user;
    CHECK_OK(netkit_conn_send(loop, conn, data, len));
    return len;
}

static void listen_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                            void *user) {
    (void)loop;
    (void)conn;
    (void)info;
    ((listen_server *)user)->closes++;
}

static int listen_on_accept(netkit_loop *loop, netkit_listener listener, const netkit_addr *peer,
                            void *user) {
    listen_server *s = (listen_server *)user;
    (void)loop;
    (void)listener;
    s->asked++;
    s->last_peer = *peer;
    s->refused += s->refuses;
    return s->refuses ? -1 : 0;
}

static void listen_on_error(netkit_loop *loop, netkit_listener listener, int code, int os_code,
                            void *user) {
    listen_server *s = (listen_server *)user;
    netkit_addr addr;
    s->errors++;
    s->last_error = code;
    s->last_os_code = os_code;
    CHECK_OK(netkit_listener_local(loop, listener, &addr));
}

static void listen_on_end(netkit_loop *loop, netkit_listener listener, void *user) {
    (void)loop;
    (void)listener;
    ((listen_server *)user)->listener_closes++;
}

/* An echo server that counts. */
static netkit_listen_desc listen_desc(listen_server *s) {
    netkit_handler handler;
    netkit_listen_desc desc;
    memset(s, 0, sizeof(*s));
    memset(&handler, 0, sizeof(handler));
    handler.on_open = listen_on_open;
    handler.on_data = listen_on_data;
    handler.on_close = listen_on_close;
    desc = sup_listen_desc(&handler, s);
    desc.on_accept = listen_on_accept;
    desc.on_error = listen_on_error;
    desc.on_close = listen_on_end;
    return desc;
}

static bool listen_has_ipv6(void) {
    struct sockaddr_in6 in6;
    bool has;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    memset(&in6, 0, sizeof(in6));
    in6.sin6_family = AF_INET6;
    in6.sin6_addr.s6_addr[15] = 1;
    has = fd >= 0 && bind(fd, (const struct sockaddr *)&in6, sizeof(in6)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return has;
}

/* A raw connection to ::1, or -errno. */
static int listen_dial6(uint16_t port) {
    struct sockaddr_in6 in6;
    int fd = socket(AF_INET6, SOCK_STREAM, 0), error;
    memset(&in6, 0, sizeof(in6));
    in6.sin6_family = AF_INET6;
    in6.sin6_addr.s6_addr[15] = 1;
    in6.sin6_port = htons(port);
    CHECK(fd >= 0);
    if (connect(fd, (const struct sockaddr *)&in6, sizeof(in6)) == 0) {
        return fd;
    }
    error = errno;
    close(fd);
    return -error;
}

static int listen_dial4(uint16_t port) {
    struct sockaddr_in in = sup_loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0), error;
    CHECK(fd >= 0);
    if (connect(fd, (const struct sockaddr *)&in, sizeof(in)) == 0) {
        return fd;
    }
    error = errno;
    close(fd);
    return -error;
}

/* Listen on IPv6 alone, at a port that no other program has of IPv4, or can get while the descriptor
 * that is returned holds it. */
static int listen_v6only(netkit_loop *loop, netkit_listen_desc *desc, uint16_t *port) {
    int holder = -1;
    for (int tries = 0; tries < 20 && holder < 0; tries++) {
        netkit_listener listener;
        *port = sup_listen(loop, desc, &listener);
        struct sockaddr_in in = sup_loopback(*port);
        holder = socket(AF_INET, SOCK_STREAM, 0);
        if (bind(holder, (const struct sockaddr *)&in, sizeof(in)) != 0) {
            CHECK_EQ(close(holder), 0);
            CHECK_OK(netkit_listener_close(loop, listener));
            holder = -1;
        }
    }
    CHECK(holder >= 0);
    return holder;
}

/* Send a byte and get it back. */
static void listen_check_echo(netkit_loop *loop, int fd) {
    char byte = '?';
    CHECK_EQ(send(fd, "e", 1, MSG_NOSIGNAL), 1);
    SUP_UNTIL(loop, recv(fd, &byte, 1, MSG_DONTWAIT) == 1);
    CHECK_EQ(byte, 'e');
}

/* SK04 SK05 SK06 SK25 OP06 T-16: port 0 gives a real port; ":0" takes IPv4 and IPv6 and shows an
 * IPv4 peer as IPv4; v6only refuses IPv4 */
NKT_LOOP_TEST(listen_on_every_address) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    netkit_addr addr;
    uint16_t port;
    int fd4, fd6;
    desc.address = ":0";
    port = sup_listen(loop, &desc, NULL);
    fd4 = listen_dial4(port);
    CHECK(fd4 >= 0);
    SUP_UNTIL(loop, s.opens == 1);
    CHECK_EQ(s.last_peer.family, NETKIT_AF_IPV4);
    CHECK_OK(netkit_conn_remote(loop, s.last, &addr));
    CHECK(netkit_addr_equal(&addr, &s.last_peer));
    CHECK_OK(netkit_conn_local(loop, s.last, &addr));
    CHECK_EQ(addr.family, NETKIT_AF_IPV4);
    CHECK_EQ(addr.port, port);
    listen_check_echo(loop, fd4);
    CHECK_EQ(close(fd4), 0);
    if (listen_has_ipv6()) {
        fd6 = listen_dial6(port);
        CHECK(fd6 >= 0);
        SUP_UNTIL(loop, s.opens == 2);
        CHECK_EQ(s.last_peer.family, NETKIT_AF_IPV6);
        listen_check_echo(loop, fd6);
        CHECK_EQ(close(fd6), 0);
        desc.address = "[::]:0";
        desc.v6only = true;
        int holder = listen_v6only(loop, &desc, &port);
        CHECK_EQ(listen_dial4(port), -ECONNREFUSED);
        CHECK_EQ(close(holder), 0);
        fd6 = listen_dial6(port);
        CHECK(fd6 >= 0);
        SUP_UNTIL(loop, s.opens == 3);
        CHECK_EQ(close(fd6), 0);
    }
    nkt_loop_done(loop);
    CHECK_EQ(s.closes, s.opens);
}

/* T-16 SK06 OP03 OP04 R2: each mistake gives its code at the call and creates nothing; sharing a
 * port wants reuse_port on both */
NKT_LOOP_TEST(listen_refuses_what_cannot_be) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    netkit_listener listener, other;
    netkit_addr addr;
    char address[32];
    int fd, fds = nkt_open_fds();
    desc.address = NULL;
    CHECK_ERR(netkit_listen(loop, &desc, &listener), NETKIT_E_INVALID);
    desc.address = "127.0.0.1";
    CHECK_ERR(netkit_listen(loop, &desc, &listener), NETKIT_E_INVALID);
    desc.address = "192.0.2.1:0";
    CHECK_ERR(netkit_listen(loop, &desc, &listener), NETKIT_E_ADDRNOTAVAIL);
    CHECK_OK(netkit_addr_parse(&addr, "127.0.0.1:0", NULL));
    desc.addr = &addr;
    desc.address = "127.0.0.1:0";
    CHECK_ERR(netkit_listen(loop, &desc, &listener), NETKIT_E_INVALID);
    desc.addr = NULL;
    desc.backlog = -1;
    CHECK_ERR(netkit_listen(loop, &desc, &listener), NETKIT_E_INVALID);
    desc.backlog = 0;
    CHECK_ERR(netkit_listen(loop, NULL, &listener), NETKIT_E_INVALID);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    CHECK_EQ(nkt_open_fds(), fds);
    snprintf(address, sizeof(address), "127.0.0.1:%u", sup_listen(loop, &desc, &listener));
    desc.address = address;
    CHECK_ERR(netkit_listen(loop, &desc, &other), NETKIT_E_ADDRINUSE);
    desc.reuse_port = true;
    CHECK_ERR(netkit_listen(loop, &desc, &other),
              NKI_WINDOWS ? NETKIT_E_NOSYS : NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_loop_objects(loop), 1);
    CHECK_EQ(nkt_open_fds(), fds + 1);
    CHECK_OK(netkit_listener_close(loop, listener));
    SUP_UNTIL(loop, s.listener_closes == 1);
    desc.reuse_port = !NKI_WINDOWS;
    CHECK_OK(netkit_listen(loop, &desc, &listener)); /* the port is free again at once */
    desc.address = NKI_WINDOWS ? "127.0.0.1:0" : address;
    CHECK_OK(netkit_listen(loop, &desc, &other));
    fd = listen_dial4(sup_port(loop, other));
    CHECK(fd >= 0);
    SUP_UNTIL(loop, s.opens == 1);
    CHECK_EQ(close(fd), 0);
    nkt_loop_done(loop);
    CHECK_EQ(s.listener_closes, 3);
}

/* OP03: a server that is started again over connections in TIME_WAIT gets its port */
NKT_LOOP_TEST(listen_again_on_the_same_port) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    netkit_listener listener;
    char address[32], byte;
    int fd;
    snprintf(address, sizeof(address), "127.0.0.1:%u", sup_listen(loop, &desc, &listener));
    fd = listen_dial4((uint16_t)atoi(strchr(address, ':') + 1));
    SUP_UNTIL(loop, s.opens == 1);
    CHECK_OK(netkit_conn_close(loop, s.last)); /* our end closes first: TIME_WAIT is ours */
    SUP_UNTIL(loop, recv(fd, &byte, 1, MSG_DONTWAIT) == 0);
    CHECK_EQ(close(fd), 0);
    SUP_UNTIL(loop, s.closes == 1);
    CHECK_OK(netkit_listener_close(loop, listener));
    SUP_UNTIL(loop, s.listener_closes == 1);
    desc.address = address;
    CHECK_OK(netkit_listen(loop, &desc, NULL));
    nkt_loop_done(loop);
}

/* C6 SK08: on_accept sees the peer and may refuse: the peer gets a reset, no conn comes to be, and
 * the next is served */
NKT_LOOP_TEST(listen_on_accept_may_refuse) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    uint16_t port = sup_listen(loop, &desc, NULL);
    struct sockaddr_in in;
    socklen_t len = sizeof(in);
    sup_peer peer;
    s.refuses = true;
    peer = sup_peer_of(sup_raw_dial(port, 0));
    CHECK_EQ(getsockname(peer.fd, (struct sockaddr *)&in, &len), 0);
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_recv(&peer);
    }
    CHECK_EQ(peer.end, ECONNRESET);
    CHECK_EQ(s.asked, 1);
    CHECK_EQ(s.refused, 1);
    CHECK_EQ(s.last_peer.port, ntohs(in.sin_port));
    CHECK_EQ(s.last_peer.ip[0], 127);
    CHECK_EQ(s.opens + s.closes + s.errors, 0);
    CHECK_EQ(netkit_loop_objects(loop), 1);
    sup_peer_close(&peer);
    s.refuses = false;
    peer = sup_peer_of(sup_raw_dial(port, 0));
    SUP_UNTIL(loop, s.opens == 1);
    listen_check_echo(loop, peer.fd);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* SK02 SK07 OP01 OP02 OP11 SK27: accepted sockets are non-blocking, close-on-exec, without Nagle's
 * delay, with the options of the desc; a listening socket can be adopted */
NKT_LOOP_TEST(listen_sets_options_on_conns) {
    for (int way = 0; way < 2; way++) {
        netkit_loop *loop = nkt_loop();
        listen_server s;
        netkit_listen_desc desc = listen_desc(&s);
        netkit_listener listener;
        uintptr_t native = 0;
        uint16_t port = 0;
        int fd, value = -1;
        desc.conn.no_nodelay = way == 1;
        desc.conn.keepalive_s = way == 1 ? 77 : 0;
        desc.conn.user_timeout_ms = way == 1 ? 4321 : 0;
        if (way == 1) {
            desc.address = NULL;
            desc.socket = netkit_socket_from_native((uintptr_t)sup_raw_listen(&port, 10));
        }
        CHECK_EQ(sup_listen(loop, &desc, &listener) == port, way == 1);
        fd = listen_dial4(sup_port(loop, listener));
        CHECK(fd >= 0);
        SUP_UNTIL(loop, s.opens == 1);
        CHECK_OK(netkit_conn_native(loop, s.last, &native));
        CHECK((fcntl((int)native, F_GETFL) & O_NONBLOCK) != 0);
        CHECK((fcntl((int)native, F_GETFD) & FD_CLOEXEC) != 0);
        CHECK_OK(netkit_conn_get_option(loop, s.last, NETKIT_OPT_NODELAY, &value));
        CHECK_EQ(value != 0, way == 0);
        CHECK_OK(netkit_conn_get_option(loop, s.last, NETKIT_OPT_KEEPALIVE, &value));
        CHECK_EQ(value != 0, way == 1);
        int rc = netkit_conn_get_option(loop, s.last, NETKIT_OPT_USER_TIMEOUT, &value);
        CHECK(rc == NETKIT_OK || (NKI_WINDOWS && rc == NETKIT_E_NOSYS));
        CHECK_EQ(value, way == 1 && rc == NETKIT_OK ? 4321 : 0);
        if (way == 1) {
            rc = netkit_conn_get_option(loop, s.last, NETKIT_OPT_KEEPALIVE_IDLE, &value);
            CHECK(rc == NETKIT_OK || (NKI_WINDOWS && rc == NETKIT_E_NOSYS)); /* wine 8 */
            CHECK_EQ(value, rc == NETKIT_OK ? 77 : 0);
        }
        CHECK_OK(netkit_conn_set_option(loop, s.last, NETKIT_OPT_NODELAY, way));
        CHECK_OK(netkit_conn_get_option(loop, s.last, NETKIT_OPT_NODELAY, &value));
        CHECK_EQ(value != 0, way == 1);
        listen_check_echo(loop, fd);
        CHECK_EQ(close(fd), 0);
        nkt_loop_done(loop);
    }
}

/* C6 SK17: closing a listener leaves its conns alone; its on_close comes once, last, later */
NKT_LOOP_TEST(listen_close_leaves_conns_alone) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    netkit_listener listener;
    netkit_addr addr;
    uint16_t port = sup_listen(loop, &desc, &listener);
    int fd = listen_dial4(port);
    SUP_UNTIL(loop, s.opens == 1);
    CHECK_OK(netkit_listener_close(loop, listener));
    CHECK_EQ(s.listener_closes, 0);
    SUP_UNTIL(loop, s.listener_closes == 1);
    CHECK_ERR(netkit_listener_local(loop, listener, &addr), NETKIT_E_STALE);
    CHECK_ERR(netkit_listener_close(loop, listener), NETKIT_E_STALE);
    CHECK_EQ(listen_dial4(port), -ECONNREFUSED);
    listen_check_echo(loop, fd);
    CHECK_EQ(close(fd), 0);
    CHECK_OK(netkit_loop_run(loop)); /* until the conn is gone: nothing is left */
    CHECK_EQ(s.closes, 1);
    nkt_loop_done(loop);
    CHECK_EQ(s.listener_closes, 1);
}

/* C5 R5: at conns_max connections wait in the backlog; a closing conn counts; when it is gone the
 * next is taken, with what it has sent meanwhile */
NKT_LOOP_TEST(listen_conns_max_counts_closing_ones) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    uint64_t turns;
    uint16_t port;
    int first, second;
    char byte;
    desc.conns_max = 1;
    port = sup_listen(loop, &desc, NULL);
    first = listen_dial4(port);
    SUP_UNTIL(loop, s.opens == 1);
    second = listen_dial4(port);
    CHECK(second >= 0);
    CHECK_EQ(send(second, "e", 1, 0), 1);
    turns = netkit_loop_turns(loop);
    sup_turn_for_ms(loop, 100);
    CHECK(netkit_loop_turns(loop) - turns < 60); /* it does not spin on the backlog */
    CHECK_EQ(s.opens, 1);
    CHECK_OK(netkit_conn_close(loop, s.last));
    sup_settle(loop);
    CHECK_EQ(s.opens, 1);
    CHECK_EQ(close(first), 0);
    SUP_UNTIL(loop, s.opens == 2);
    CHECK_EQ(s.closes, 1);
    SUP_UNTIL(loop, recv(second, &byte, 1, MSG_DONTWAIT) == 1);
    CHECK_EQ(s.errors, 0);
    CHECK_EQ(close(second), 0);
    nkt_loop_done(loop);
}

/* ---- bad weather ------------------------------------------------------------------- */

/* T-11 I8 SK08: errors of single connections are passed over, shortages paused for: whatever
 * accept gives, the listener lives, and every connection is taken in the end */
NKT_LOOP_TEST(listen_survives_errors_of_accept) {
#if NKI_WINDOWS /* where nothing is interrupted */
    static const int passing[] = {ECONNABORTED, ECONNRESET, ENETDOWN, ECONNRESET};
#else
    static const int passing[] = {ECONNABORTED, EPROTO, ENETDOWN, EINTR};
#endif
    static const int shortage[] = {ENOBUFS, ENFILE, EMFILE, ENOMEM};
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    uint16_t port = sup_listen(loop, &desc, NULL);
    int each = (int)nkt_scale(100, 20), errors;
    for (int i = 0; i < 4; i++) {
        int opens = s.opens;
        nkt_fault_prob("accept", 60, passing[i]);
        for (int k = 0; k < each; k++) {
            int fd = listen_dial4(port);
            CHECK(fd >= 0);
            SUP_UNTIL(loop, s.opens == opens + k + 1);
            listen_check_echo(loop, fd);
            CHECK_EQ(close(fd), 0);
        }
        CHECK(nkt_faults() > 0);
        nkt_fault_clear();
    }
    for (int i = 0; i < 4; i++) {
        int opens = s.opens, fd;
        uint64_t began;
        errors = s.errors;
        nkt_fault_at("accept", 1, shortage[i], true);
        fd = listen_dial4(port);
        SUP_UNTIL(loop, s.errors == errors + 1);
        CHECK_EQ(s.last_os_code, shortage[i]);
        CHECK(netkit_error_is_retryable(s.last_error));
        sup_turn_for_ms(loop, 50);
        CHECK_EQ(s.errors, errors + 1); /* one report for the burst */
        CHECK_EQ(s.opens, opens);
        nkt_fault_clear();
        began = nkt_now_ns();
        SUP_UNTIL(loop, s.opens == opens + 1);
        CHECK(nkt_now_ns() - began < 1500000000);
        listen_check_echo(loop, fd);
        CHECK_EQ(close(fd), 0);
    }
    nkt_loop_done(loop);
}

enum {
    LISTEN_LIVE = 20,
    LISTEN_WAITING = 50
};

/* T-10 SD23 I8 SK08: no descriptor is left while 50 connections wait: the 20 that are there are
 * served, the loop rests, one report; when descriptors come back, all are taken within a second */
NKT_SLOW_LOOP_TEST(listen_without_descriptors) {
    if (nkt_backend == NETKIT_BACKEND_URING) {
        SKIP("the kernel takes the limit when an accept is begun: uring_without_descriptors");
    }
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    uint16_t port = sup_listen(loop, &desc, NULL);
    int live[LISTEN_LIVE], waiting[LISTEN_WAITING];
    uint64_t cpu, began, ms = nkt_scale(5000, 600);
    for (int i = 0; i < LISTEN_LIVE; i++) {
        live[i] = listen_dial4(port);
    }
    SUP_UNTIL(loop, s.opens == LISTEN_LIVE);
    for (int i = 0; i < LISTEN_WAITING; i++) {
        waiting[i] = listen_dial4(port);
        CHECK(waiting[i] >= 0);
    }
    CHECK(nkt_spare_descriptors(0));
    nkt_calls_reset();
    SUP_UNTIL(loop, s.errors == 1);
    CHECK_ERR(s.last_error, NETKIT_E_MFILE);
    CHECK_EQ(s.last_os_code, EMFILE);
    began = nkt_now_ns();
    cpu = nkt_cpu_ns();
    while (nkt_now_ns() - began < ms * 1000000) {
        CHECK_OK(netkit_loop_run_once(loop, 50));
    }
    cpu = nkt_cpu_ns() - cpu;
    CHECK(cpu < ms * 1000000 / 5);
    CHECK(nkt_calls("accept") < 100);
    CHECK_EQ(s.errors, 1);
    for (int i = 0; i < LISTEN_LIVE; i++) {
        listen_check_echo(loop, live[i]);
    }
    CHECK(nkt_spare_descriptors(-1));
    began = nkt_now_ns();
    SUP_UNTIL(loop, s.opens == LISTEN_LIVE + LISTEN_WAITING);
    CHECK(nkt_now_ns() - began < (uint64_t)nkt_slowness * 2000000000);
    for (int i = 0; i < LISTEN_WAITING; i++) {
        listen_check_echo(loop, waiting[i]);
        CHECK_EQ(close(waiting[i]), 0);
    }
    for (int i = 0; i < LISTEN_LIVE; i++) {
        CHECK_EQ(close(live[i]), 0);
    }
    nkt_loop_done(loop);
}

/* T-21 SK09: a burst of connections: all taken, none lost, while an echo goes on between */
NKT_SLOW_LOOP_TEST(listen_takes_a_burst) {
    enum {
        LISTEN_BURST = 2000
    };
    static int fds[LISTEN_BURST];
    netkit_loop_desc loop_desc;
    netkit_loop *loop;
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    int count = (int)nkt_scale(LISTEN_BURST, 600), somaxconn = 0, before;
    char byte;
    uint16_t port;
    FILE *f = fopen("/proc/sys/net/core/somaxconn", "r");
    if (f != NULL) {
        if (fscanf(f, "%d", &somaxconn) != 1) {
            somaxconn = 0;
        }
        fclose(f);
    }
    if (somaxconn < count) {
        SKIP("the system's backlog is too short (somaxconn)");
    }
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.accept_budget = 16;
    loop = nkt_loop_with(&loop_desc);
    port = sup_listen(loop, &desc, NULL);
    fds[0] = listen_dial4(port);
    SUP_UNTIL(loop, s.opens == 1);
    for (int i = 1; i < count; i++) {
        fds[i] = listen_dial4(port);
        CHECK(fds[i] >= 0);
    }
    CHECK_EQ(send(fds[0], "e", 1, 0), 1);
    do {
        before = s.opens;
        CHECK_OK(netkit_loop_run_once(loop, 0));
        CHECK(s.opens - before <= 16);
    } while (recv(fds[0], &byte, 1, MSG_DONTWAIT) != 1);
    CHECK(s.opens < count / 2); /* the echo did not wait for the whole burst */
    SUP_UNTIL(loop, s.opens == count);
    for (int i = 0; i < count; i++) {
        if (i % 50 == 0) {
            listen_check_echo(loop, fds[i]);
        }
        CHECK_EQ(close(fds[i]), 0);
    }
    SUP_UNTIL(loop, s.closes == count);
    CHECK_EQ(s.errors, 0);
    nkt_loop_done(loop);
}

/* SD03: descriptors of 1 024 and more work */
NKT_LOOP_TEST(listen_above_descriptor_1024) {
    enum {
        LISTEN_FILLERS = 1100
    };
    static int fillers[LISTEN_FILLERS];
    netkit_loop *loop;
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    netkit_listener listener;
    uintptr_t native = 0;
    sup_end end;
    int fd;
    if (nkt_want_descriptors(1200) < 1200) {
        SKIP("not enough descriptors (ulimit -n)");
    }
    for (int i = 0; i < LISTEN_FILLERS; i++) {
        fillers[i] = dup(0);
        CHECK(fillers[i] >= 0);
    }
    loop = nkt_loop();
    sup_listen(loop, &desc, &listener);
    fd = listen_dial4(sup_port(loop, listener));
    SUP_UNTIL(loop, s.opens == 1);
    CHECK_OK(netkit_conn_native(loop, s.last, &native));
    CHECK(native >= 1024);
    listen_check_echo(loop, fd);
    CHECK_EQ(close(fd), 0);
    sup_end_init(&end);
    sup_connect(loop, &end, sup_port(loop, listener), NULL);
    SUP_UNTIL(loop, end.opens == 1);
    sup_end_init(&end);
    CHECK_OK(netkit_listener_close(loop, listener));
    nkt_loop_done(loop);
    for (int i = 0; i < LISTEN_FILLERS; i++) {
        CHECK_EQ(close(fillers[i]), 0);
    }
}

/* PL20 SK05: an unreferenced listener does not keep the loop running */
NKT_LOOP_TEST(listen_unreferenced) {
    netkit_loop *loop = nkt_loop();
    listen_server s;
    netkit_listen_desc desc = listen_desc(&s);
    netkit_listener listener;
    uint64_t began = nkt_now_ns();
    sup_listen(loop, &desc, &listener);
    CHECK_EQ(netkit_loop_references(loop), 1);
    CHECK_OK(netkit_listener_set_referenced(loop, listener, false));
    CHECK_OK(netkit_listener_set_referenced(loop, listener, false));
    CHECK_EQ(netkit_loop_references(loop), 0);
    CHECK_OK(netkit_loop_run(loop));
    CHECK(nkt_now_ns() - began < 5000000000u);
    CHECK_EQ(netkit_loop_objects(loop), 1);
    nkt_loop_done(loop);
    CHECK_EQ(s.listener_closes, 1);
}
