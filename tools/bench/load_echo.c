/* Load generator: echo in a closed loop.
 *
 * Each connection keeps `inflight` messages under way. As many as came back go
 * out again in one send; with --batch the next group waits until all are in,
 * which is what a client that pipelines requests does. By time: a warm-up, then
 * the measured part, then no more is sent and what is under way must come home.
 * By count: exactly so many messages, all measured. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int epoll_fd;
static conn *conns;
static uint64_t issued;
static uint64_t inflight_all;
static bool stopped;

static void arm(conn *c, bool out) {
    struct epoll_event ev;
    memset(&ev, 0, sizeof ev);
    ev.events = EPOLLIN | (out ? (uint32_t)EPOLLOUT : 0u);
    ev.data.ptr = c;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev) != 0) {
        fail("epoll_ctl: %s", strerror(errno));
    }
    c->out = out;
}

static void pump(conn *c) {
    while (c->unsent > 0) {
        size_t want = c->unsent < SEND_MAX ? c->unsent : SEND_MAX;
        ssize_t n = send(c->fd, pattern + c->send_at, want, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                break;
            }
            fail("send: %s", strerror(errno));
        }
        c->send_at = (uint32_t)((c->send_at + (size_t)n) % PATTERN_PERIOD);
        c->unsent -= (size_t)n;
        if ((size_t)n < want) {
            break;
        }
    }
    if (c->out != (c->unsent > 0)) {
        arm(c, c->unsent > 0);
    }
}

static void issue(conn *c, uint32_t wanted, uint64_t now) {
    if (stopped) {
        return;
    }
    if (opt.count > 0 && wanted > opt.count - issued) {
        wanted = (uint32_t)(opt.count - issued);
    }
    for (uint32_t i = 0; i < wanted; i++) {
        c->times[(c->first + c->inflight + i) % opt.inflight] = now;
    }
    c->inflight += wanted;
    c->unsent += (size_t)wanted * opt.size;
    issued += wanted;
    inflight_all += wanted;
    pump(c);
}

static void receive(conn *c) {
    ssize_t n = recv(c->fd, recv_buf, sizeof recv_buf, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        fail("recv: %s", n == 0 ? "the server closed" : strerror(errno));
    }
    /* Comparing every large block would measure memcmp: the warm-up compares all,
     * then one of sixteen, and both ends of each. */
    verify(c, recv_buf, (size_t)n, res.start.wall_ns == 0 || c->reads++ % 16 == 0);
    uint64_t now = now_ns();
    c->partial += (size_t)n;
    uint32_t done = (uint32_t)(c->partial / opt.size);
    c->partial %= opt.size;
    if (done > c->inflight) {
        fail("more came back than was sent");
    }
    for (uint32_t i = 0; i < done; i++) {
        hist_add(now - c->times[c->first]);
        c->first = (c->first + 1) % opt.inflight;
    }
    c->inflight -= done;
    inflight_all -= done;
    res.messages += done;
    res.total += done;
    res.bytes += (uint64_t)n;
    if (!opt.batch) {
        issue(c, done, now);
    } else if (c->inflight == 0) {
        issue(c, opt.inflight, now);
    }
}

static void open_all(void) {
    conns = (conn *)calloc(opt.conns, sizeof *conns);
    uint64_t *times = (uint64_t *)calloc((size_t)opt.conns * opt.inflight, sizeof *times);
    if (conns == NULL || times == NULL) {
        fail("out of memory");
    }
    for (uint32_t i = 0; i < opt.conns; i++) {
        struct epoll_event ev;
        conn *c = &conns[i];
        c->fd = open_conn();
        c->send_at = c->recv_at = (uint32_t)(i * 7u % PATTERN_PERIOD);
        c->times = times + (size_t)i * opt.inflight;
        if (i % 64 == 63 || i + 1 == opt.conns) {
            echo_once(c); /* keeps the queue of connections not yet accepted short */
        }
        memset(&ev, 0, sizeof ev);
        ev.events = EPOLLIN;
        ev.data.ptr = c;
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) != 0) {
            fail("epoll_ctl: %s", strerror(errno));
        }
    }
}

static void turn(void) {
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(epoll_fd, events, EVENTS_MAX, 10000);
    if (n < 0 && errno != EINTR) {
        fail("epoll_wait: %s", strerror(errno));
    }
    if (n == 0) {
        fail("nothing came back for 10 s (%llu messages under way)",
             (unsigned long long)inflight_all);
    }
    for (int i = 0; i < n; i++) {
        conn *c = (conn *)events[i].data.ptr;
        if (events[i].events & EPOLLOUT) {
            pump(c);
        }
        if (events[i].events & ~(uint32_t)EPOLLOUT) {
            receive(c);
        }
    }
}

void run_echo(void) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        fail("epoll_create1: %s", strerror(errno));
    }
    open_all();
    if (opt.count > 0) {
        take_snapshot(&res.start);
    }
    for (uint32_t i = 0; i < opt.conns; i++) {
        issue(&conns[i], opt.inflight, now_ns());
    }
    while (inflight_all > 0) {
        turn();
        if (opt.count == 0 && !stopped && !phase_goes_on(now_ns())) {
            uint64_t messages = res.messages, bytes = res.bytes;
            stopped = true;
            while (inflight_all > 0) {
                turn();
            }
            res.messages = messages;
            res.bytes = bytes;
        }
    }
    if (opt.count > 0) {
        take_snapshot(&res.end);
        if (res.total != opt.count) {
            fail("%llu messages of %llu came back", (unsigned long long)res.total,
                 (unsigned long long)opt.count);
        }
    }
    for (uint32_t i = 0; i < opt.conns; i++) {
        if (conns[i].partial != 0) {
            fail("a message came back cut short");
        }
        close(conns[i].fd);
    }
}
