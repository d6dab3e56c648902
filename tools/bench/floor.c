/* The floor: the least that an echo server over epoll can do.
 *
 * Level-triggered epoll, 256 events a wait, one static buffer of 64 KiB, one recv
 * an event, one send of what was read, EPOLLOUT only after a short send, whose
 * remainder is kept; connections in an array indexed by descriptor. It is sound
 * when callgrind counts 75 to 100 user instructions and strace 2.00 to 2.05
 * calls for each message of 64 bytes at 50 connections; the bench checks that. */
#include "server.h"

#include <sys/epoll.h>

enum {
    FD_MAX = 1 << 20,
    EVENTS_MAX = 256
};

typedef struct floor_conn {
    char *rest; /* what a short send left, or NULL */
    size_t len;
    size_t at;
} floor_conn;

static floor_conn conns[FD_MAX];
static char buffer[SERVER_READ_MAX];
static int epoll_fd;
static volatile sig_atomic_t stopping;

static void on_term(int sig) {
    (void)sig;
    stopping = 1;
}

static void watch(int op, int fd, uint32_t events) {
    struct epoll_event ev;
    memset(&ev, 0, sizeof ev);
    ev.events = events;
    ev.data.fd = fd;
    if (epoll_ctl(epoll_fd, op, fd, &ev) != 0) {
        server_die("epoll_ctl");
    }
}

static void drop(int fd) {
    free(conns[fd].rest);
    conns[fd].rest = NULL;
    close(fd);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN) {
                return;
            }
            server_die("accept4");
        }
        if (fd >= FD_MAX) {
            close(fd);
            continue;
        }
        watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

static void keep(int fd, const char *data, size_t len) {
    conns[fd].rest = (char *)malloc(len);
    if (conns[fd].rest == NULL) {
        server_die("malloc");
    }
    memcpy(conns[fd].rest, data, len);
    conns[fd].len = len;
    conns[fd].at = 0;
    watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void on_readable(int fd) {
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            drop(fd);
        }
        return;
    }
    if (server_opt.sink) {
        return;
    }
    ssize_t sent = send(fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n) {
        return;
    }
    if (sent < 0 && errno != EAGAIN) {
        drop(fd);
        return;
    }
    sent = sent < 0 ? 0 : sent;
    keep(fd, buffer + sent, (size_t)(n - sent));
}

static void on_writable(int fd) {
    floor_conn *c = &conns[fd];
    ssize_t n = send(fd, c->rest + c->at, c->len - c->at, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN) {
            drop(fd);
        }
        return;
    }
    c->at += (size_t)n;
    if (c->at == c->len) {
        free(c->rest);
        c->rest = NULL;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    }
}

static void run(int listener) {
    struct epoll_event events[EVENTS_MAX];
    while (!stopping) {
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(fd);
            } else if (conns[fd].rest != NULL) {
                on_writable(fd);
            } else {
                on_readable(fd);
            }
        }
    }
}

int main(int argc, char **argv) {
    struct sigaction action;
    server_parse(argc, argv, "");
    memset(&action, 0, sizeof action);
    action.sa_handler = on_term; /* without SA_RESTART: the wait ends */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        server_die("epoll_create1");
    }
    int listener = server_socket();
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    server_announce(listener);
    run(listener);
    return 0;
}
