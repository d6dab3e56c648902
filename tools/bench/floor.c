/* The floor: the least that a sound echo server over epoll does.
 *
 * Level-triggered epoll, 256 events a wait, one static buffer of 64 KiB, one
 * recv an event, one send of what was read, EPOLLOUT only after a short send,
 * whose remainder is kept; connections in an array indexed by descriptor. Sound
 * means that the duties nobody may skip are done: an event of a descriptor that
 * was closed earlier in the batch is passed over, flags are looked at, EINTR is
 * retried, and the bytes of each connection are counted, so that the end can
 * say whether all that came went back. The bench holds it to 75 to 100 user
 * instructions and 2.00 to 2.05 system calls for each message of 64 bytes at 50
 * connections: less would be no server, more would be no floor. */
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
    uint64_t received;
    uint64_t sent;
    bool open;
} floor_conn;

static floor_conn conns[FD_MAX];
static char buffer[SERVER_READ_MAX];
static int epoll_fd;
static int fd_top;        /* the highest descriptor there has been */
static uint64_t received; /* by connections that have ended */
static uint64_t sent_back;
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
    floor_conn *c = &conns[fd];
    received += c->received;
    sent_back += c->sent;
    free(c->rest);
    memset(c, 0, sizeof *c);
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
        conns[fd].open = true;
        fd_top = fd > fd_top ? fd : fd_top;
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

/* What went out, 0 when nothing fits, or -1: the connection is gone. */
static ssize_t send_some(int fd, const char *data, size_t len) {
    ssize_t n;
    do {
        n = send(fd, data, len, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        conns[fd].sent += (uint64_t)n;
        return n;
    }
    if (errno == EAGAIN) {
        return 0;
    }
    drop(fd);
    return -1;
}

static void on_readable(int fd) {
    ssize_t n;
    do {
        n = recv(fd, buffer, sizeof buffer, 0);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            drop(fd);
        }
        return;
    }
    conns[fd].received += (uint64_t)n;
    if (server_opt.sink) {
        if (server_opt.look) {
            server_look(buffer, (size_t)n);
        }
        return;
    }
    ssize_t sent = send_some(fd, buffer, (size_t)n);
    if (sent >= 0 && sent < n) {
        keep(fd, buffer + sent, (size_t)(n - sent));
    }
}

static void on_writable(int fd) {
    floor_conn *c = &conns[fd];
    ssize_t n = send_some(fd, c->rest + c->at, c->len - c->at);
    if (n < 0) {
        return;
    }
    c->at += (size_t)n;
    if (c->at == c->len) {
        free(c->rest);
        c->rest = NULL;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    }
}

static void on_event(int fd, uint32_t events) {
    if (!conns[fd].open) {
        return;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && conns[fd].rest == NULL) {
        on_readable(fd);
    } else if (conns[fd].rest != NULL) {
        on_writable(fd);
    }
}

static void run(int listener) {
    struct epoll_event events[EVENTS_MAX];
    while (!stopping) {
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener) {
                accept_all(listener);
            } else {
                on_event(events[i].data.fd, events[i].events);
            }
        }
    }
}

int main(int argc, char **argv) {
    struct sigaction action;
    server_parse(argc, argv, "--look");
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
    for (int fd = 0; fd <= fd_top; fd++) {
        received += conns[fd].received;
        sent_back += conns[fd].sent;
    }
    printf("bytes received=%llu sent=%llu\n", (unsigned long long)received,
           (unsigned long long)sent_back);
    return 0;
}
