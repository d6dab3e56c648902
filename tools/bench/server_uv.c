/* Echo on libuv. At its best: one static read buffer, uv_try_write at once, and a
 * queued uv_write with reading stopped only for what that left. --plain is the
 * way of its manual: a buffer from malloc for each read, uv_write, free. */
#include "server.h"

#include <uv.h>

typedef struct uv_rest {
    uv_write_t req; /* first: a request is its rest */
    char *data;
} uv_rest;

static char buffer[SERVER_READ_MAX];

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)handle;
    if (server_opt.plain) {
        char *memory = (char *)malloc(suggested);
        *buf = uv_buf_init(memory, memory == NULL ? 0 : (unsigned)suggested);
    } else {
        *buf = uv_buf_init(buffer, sizeof buffer);
    }
}

static void on_closed(uv_handle_t *handle) {
    free(handle);
}

static void drop(uv_stream_t *s) {
    if (!uv_is_closing((uv_handle_t *)s)) {
        uv_close((uv_handle_t *)s, on_closed);
    }
}

static void on_written(uv_write_t *req, int status) {
    uv_rest *rest = (uv_rest *)(void *)req;
    uv_stream_t *s = req->handle;
    free(rest->data);
    free(rest);
    if (status < 0) {
        drop(s);
    } else if (!server_opt.plain && !uv_is_closing((uv_handle_t *)s)) {
        uv_read_start(s, on_alloc, on_read);
    }
}

/* Takes over `data`, which is freed when it is written. */
static void queue(uv_stream_t *s, char *data, size_t len) {
    uv_rest *rest = (uv_rest *)malloc(sizeof *rest);
    if (rest == NULL || data == NULL) {
        server_die("malloc");
    }
    uv_buf_t buf = uv_buf_init(data, (unsigned)len);
    rest->data = data;
    if (uv_write(&rest->req, s, &buf, 1, on_written) != 0) {
        free(data);
        free(rest);
        drop(s);
    }
}

static void answer(uv_stream_t *s, char *data, size_t len) {
    size_t step = server_opt.pieces > 0 ? server_opt.pieces : len;
    size_t at = 0;
    while (at < len) {
        size_t want = len - at < step ? len - at : step;
        uv_buf_t buf = uv_buf_init(data + at, (unsigned)want);
        int n = uv_try_write(s, &buf, 1);
        if (n < 0 && n != UV_EAGAIN) {
            drop(s);
            return;
        }
        at += n > 0 ? (size_t)n : 0;
        if (n < (int)want) {
            break;
        }
    }
    if (at < len) {
        char *copy = (char *)malloc(len - at);
        if (copy == NULL) {
            server_die("malloc");
        }
        memcpy(copy, data + at, len - at);
        uv_read_stop(s);
        queue(s, copy, len - at);
    }
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
    if (n > 0 && server_opt.plain && !server_opt.sink) {
        queue(s, buf->base, (size_t)n);
        return;
    }
    if (n > 0 && !server_opt.sink) {
        answer(s, buf->base, (size_t)n);
    }
    if (server_opt.plain) {
        free(buf->base);
    }
    if (n < 0) {
        drop(s);
    }
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0) {
        return;
    }
    uv_tcp_t *tcp = (uv_tcp_t *)malloc(sizeof *tcp);
    if (tcp == NULL || uv_tcp_init(listener->loop, tcp) != 0) {
        server_die("uv_tcp_init");
    }
    if (uv_accept(listener, (uv_stream_t *)tcp) != 0) {
        drop((uv_stream_t *)tcp);
        return;
    }
    uv_read_start((uv_stream_t *)tcp, on_alloc, on_read);
}

static void on_signal(uv_signal_t *handle, int sig) {
    (void)sig;
    uv_stop(handle->loop);
}

int main(int argc, char **argv) {
    uv_tcp_t listener;
    uv_signal_t term;
    uv_loop_t *loop = uv_default_loop();
    server_parse(argc, argv, "--plain --pieces");
    int fd = server_socket();
    if (uv_tcp_init(loop, &listener) != 0 || uv_tcp_open(&listener, fd) != 0 ||
        uv_listen((uv_stream_t *)&listener, SOMAXCONN, on_connection) != 0) {
        server_die("uv_listen");
    }
    uv_signal_init(loop, &term);
    uv_signal_start(&term, on_signal, SIGTERM);
    server_announce(fd);
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
