/* Load generator: churn, bulk one way, and idle connections. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static int epoll_fd;

static void watch(conn *c, int op, uint32_t events) {
    struct epoll_event ev;
    memset(&ev, 0, sizeof ev);
    ev.events = events;
    ev.data.ptr = c;
    if (epoll_ctl(epoll_fd, op, c->fd, &ev) != 0) {
        fail("epoll_ctl: %s", strerror(errno));
    }
}

static void open_epoll(void) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        fail("epoll_create1: %s", strerror(errno));
    }
}

static conn *new_conns(size_t count) {
    conn *list = (conn *)calloc(count, sizeof *list);
    if (list == NULL) {
        fail("out of memory");
    }
    return list;
}

/* ---- churn: connect, one echo, close ---------------------------------------
 *
 * The closing side keeps the port in TIME_WAIT for a minute, and a second of
 * churn uses up a whole range of ports: so each connection takes the next of
 * 250 source addresses of the loopback net. Connecting over loopback is done
 * within the call, so sending at once works nearly always. */

static uint64_t churn_started;

static void churn_send(conn *c, int op) {
    ssize_t n = send(c->fd, pattern, opt.size, MSG_NOSIGNAL);
    if (n == (ssize_t)opt.size) {
        watch(c, op, EPOLLIN);
        c->out = false;
        return;
    }
    if (n >= 0 || errno != EAGAIN) {
        fail("churn: send: %s", n >= 0 ? "short" : strerror(errno));
    }
    watch(c, op, EPOLLOUT);
    c->out = true;
}

static void churn_start(conn *c) {
    struct sockaddr_in addr;
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    c->partial = 0;
    c->recv_at = 0;
    if (c->fd < 0) {
        fail("socket: %s", strerror(errno));
    }
    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(churn_started++ % 250));
    (void)setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        fail("bind: %s", strerror(errno));
    }
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons((uint16_t)opt.port);
    c->times[0] = now_ns();
    if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) != 0 && errno != EINPROGRESS) {
        fail("connect: %s", strerror(errno));
    }
    churn_send(c, EPOLL_CTL_ADD);
}

static void churn_receive(conn *c) {
    ssize_t n = recv(c->fd, recv_buf, sizeof recv_buf, 0);
    if (n <= 0) {
        fail("churn: recv: %s", n == 0 ? "end of file" : strerror(errno));
    }
    verify(c, recv_buf, (size_t)n, true);
    c->partial += (size_t)n;
    if (c->partial < opt.size) {
        return;
    }
    if (opt.reset) {
        struct linger hard = {1, 0};
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    close(c->fd);
    c->fd = -1;
    hist_add(now_ns() - c->times[0]);
    res.messages++;
    res.total++;
    if (opt.count == 0 || churn_started < opt.count) {
        churn_start(c);
    }
}

static bool churn_goes_on(void) {
    if (opt.count > 0) {
        return res.total < opt.count;
    }
    return phase_goes_on(now_ns());
}

void run_churn(void) {
    struct epoll_event events[EVENTS_MAX];
    uint64_t *times = (uint64_t *)calloc(opt.conns, sizeof *times);
    conn *list = new_conns(opt.conns);
    if (times == NULL) {
        fail("out of memory");
    }
    open_epoll();
    if (opt.count > 0) {
        opt.conns = opt.conns < opt.count ? opt.conns : (uint32_t)opt.count;
        take_snapshot(&res.start);
    }
    for (uint32_t i = 0; i < opt.conns; i++) {
        list[i].times = &times[i];
        churn_start(&list[i]);
    }
    while (churn_goes_on()) {
        int n = epoll_wait(epoll_fd, events, EVENTS_MAX, 10000);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            fail("churn: %s", n == 0 ? "the server was silent for 10 s" : strerror(errno));
        }
        for (int i = 0; i < n; i++) {
            conn *c = (conn *)events[i].data.ptr;
            if (c->out) {
                churn_send(c, EPOLL_CTL_MOD);
            } else {
                churn_receive(c);
            }
        }
    }
    if (opt.count > 0) {
        take_snapshot(&res.end);
    }
    for (uint32_t i = 0; i < opt.conns; i++) {
        if (list[i].fd >= 0) {
            close(list[i].fd);
        }
    }
}

/* ---- bulk: as many bytes as the server takes --------------------------------- */

void run_bulk(void) {
    struct epoll_event events[EVENTS_MAX];
    conn *list = new_conns(opt.conns);
    open_epoll();
    for (uint32_t i = 0; i < opt.conns; i++) {
        list[i].fd = open_conn();
        watch(&list[i], EPOLL_CTL_ADD, EPOLLOUT);
    }
    while (phase_goes_on(now_ns())) {
        int n = epoll_wait(epoll_fd, events, EVENTS_MAX, 10000);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            fail("bulk: %s", n == 0 ? "the server took nothing for 10 s" : strerror(errno));
        }
        for (int i = 0; i < n; i++) {
            conn *c = (conn *)events[i].data.ptr;
            ssize_t sent = send(c->fd, pattern, opt.size, MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN) {
                fail("bulk: send: %s", strerror(errno));
            }
            if (sent > 0) {
                res.bytes += (uint64_t)sent;
                res.messages++;
            }
        }
    }
    for (uint32_t i = 0; i < opt.conns; i++) {
        close(list[i].fd);
    }
}

/* ---- idle: N connections, one echo each, then silence -------------------------
 *
 * Each line of standard input is a number of connections to grow to; its end
 * ends the program. */

void run_idle(void) {
    char line[64];
    uint32_t have = 0;
    uint32_t wanted = opt.conns;
    for (;;) {
        for (; have < wanted; have++) {
            conn c;
            memset(&c, 0, sizeof c);
            c.fd = open_conn();
            echo_once(&c);
        }
        printf("ready %u\n", have);
        fflush(stdout);
        if (res.wrong != 0) {
            fail("%llu bytes came back wrong", (unsigned long long)res.wrong);
        }
        if (fgets(line, sizeof line, stdin) == NULL) {
            return;
        }
        wanted = (uint32_t)strtoul(line, NULL, 10);
    }
}
