/* Echo on libev: one ev_io a connection, otherwise what the floor does. */
#include "server.h"

#include <ev.h>

typedef struct ev_conn {
    ev_io io; /* first: a watcher is its connection */
    char *rest;
    size_t len;
    size_t at;
} ev_conn;

static char buffer[SERVER_READ_MAX];

static void on_event(EV_P_ ev_io *io, int revents);

static void drop(EV_P_ ev_conn *c) {
    ev_io_stop(EV_A_ & c->io);
    close(c->io.fd);
    free(c->rest);
    free(c);
}

static void want(EV_P_ ev_conn *c, int events) {
    ev_io_stop(EV_A_ & c->io);
    ev_io_set(&c->io, c->io.fd, events);
    ev_io_start(EV_A_ & c->io);
}

static void on_writable(EV_P_ ev_conn *c) {
    ssize_t n = send(c->io.fd, c->rest + c->at, c->len - c->at, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN) {
            drop(EV_A_ c);
        }
        return;
    }
    c->at += (size_t)n;
    if (c->at == c->len) {
        free(c->rest);
        c->rest = NULL;
        want(EV_A_ c, EV_READ);
    }
}

static void keep(EV_P_ ev_conn *c, const char *data, size_t len) {
    c->rest = (char *)malloc(len);
    if (c->rest == NULL) {
        server_die("malloc");
    }
    memcpy(c->rest, data, len);
    c->len = len;
    c->at = 0;
    want(EV_A_ c, EV_WRITE);
}

static void on_event(EV_P_ ev_io *io, int revents) {
    ev_conn *c = (ev_conn *)io;
    (void)revents;
    if (c->rest != NULL) {
        on_writable(EV_A_ c);
        return;
    }
    ssize_t n = recv(io->fd, buffer, sizeof buffer, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            drop(EV_A_ c);
        }
        return;
    }
    if (server_opt.sink) {
        return;
    }
    ssize_t sent = send(io->fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n) {
        return;
    }
    if (sent < 0 && errno != EAGAIN) {
        drop(EV_A_ c);
        return;
    }
    sent = sent < 0 ? 0 : sent;
    keep(EV_A_ c, buffer + sent, (size_t)(n - sent));
}

static void on_accept(EV_P_ ev_io *io, int revents) {
    (void)revents;
    for (;;) {
        int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN) {
                return;
            }
            server_die("accept4");
        }
        ev_conn *c = (ev_conn *)calloc(1, sizeof *c);
        if (c == NULL) {
            server_die("calloc");
        }
        ev_io_init(&c->io, on_event, fd, EV_READ);
        ev_io_start(EV_A_ & c->io);
    }
}

static void on_signal(EV_P_ ev_signal *watcher, int revents) {
    (void)watcher;
    (void)revents;
    ev_break(EV_A_ EVBREAK_ALL);
}

int main(int argc, char **argv) {
    ev_io listener;
    ev_signal term;
    server_parse(argc, argv, "");
    struct ev_loop *loop = ev_default_loop(EVBACKEND_EPOLL);
    if (loop == NULL) {
        server_die("ev_default_loop");
    }
    int fd = server_socket();
    ev_io_init(&listener, on_accept, fd, EV_READ);
    ev_io_start(loop, &listener);
    ev_signal_init(&term, on_signal, SIGTERM);
    ev_signal_start(loop, &term);
    server_announce(fd);
    ev_run(loop, 0);
    return 0;
}
