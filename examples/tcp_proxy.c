/* tcp_proxy: passes connections on to another address, both ways at once.
 *
 *     cc -O2 -o tcp_proxy examples/tcp_proxy.c
 *     ./tcp_proxy --listen 127.0.0.1:7001 --to 127.0.0.1:7000
 *
 * Shows two conns tied together by their handles; back-pressure both ways (a
 * send that is refused pauses the side it came from, and on_drain resumes it);
 * half-close kept (the end of one direction is passed on, the other goes on);
 * and that a handle whose conn is gone does no harm. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char *address = "127.0.0.1:7001";
static const char *target;
static int backend = NETKIT_BACKEND_AUTO;
static netkit_loop *volatile running;

/* Lives in each conn's ext memory. */
typedef struct side {
    netkit_conn other;
    bool has_ended; /* this side will send no more */
} side;

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    side *self = (side *)netkit_conn_ext(loop, conn);
    (void)user;
    if (netkit_conn_send(loop, self->other, data, len) == NETKIT_E_FULL) {
        netkit_conn_pause(loop, conn); /* until the other side has drained */
        return 0;
    }
    return len; /* other refusals mean that the other side is ending, and so will this one */
}

static void on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    side *self = (side *)netkit_conn_ext(loop, conn);
    (void)user;
    netkit_conn_resume(loop, self->other);
}

static void on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    side *self = (side *)netkit_conn_ext(loop, conn);
    side *other = (side *)netkit_conn_ext(loop, self->other);
    (void)user;
    self->has_ended = true;
    netkit_conn_shutdown(loop, self->other);
    if (!other || other->has_ended) {
        netkit_conn_close(loop, conn); /* sends what is queued first */
        netkit_conn_close(loop, self->other);
    }
}

static void on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user) {
    side *self = (side *)netkit_conn_ext(loop, conn);
    (void)user;
    if (info->code == NETKIT_OK) {
        netkit_conn_close(loop, self->other); /* nothing happens when it is gone already */
    } else {
        netkit_conn_abort(loop, self->other); /* a reset stays a reset */
    }
}

/* A client is here: dial for it. What it sends meanwhile is queued. */
static void on_client(netkit_loop *loop, netkit_conn client, void *user) {
    side *self = (side *)netkit_conn_ext(loop, client);
    netkit_connect_desc desc = {0};
    (void)user;
    desc.address = target;
    desc.timeout_ms = 10000;
    desc.conn.duplex = true;
    desc.conn.ext_size = sizeof(side);
    desc.handler.on_data = on_data;
    desc.handler.on_drain = on_drain;
    desc.handler.on_eof = on_eof;
    desc.handler.on_close = on_close;
    if (netkit_connect(loop, &desc, &self->other) != NETKIT_OK) {
        netkit_conn_abort(loop, client);
        return;
    }
    ((side *)netkit_conn_ext(loop, self->other))->other = client;
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running);
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "tcp_proxy: %s: %s\n", what, why);
    return 2;
}

static int option(const char *name, const char *value) {
    if (!value) {
        return refuse(name, "an option that needs a value, or is unknown");
    }
    if (!strcmp(name, "--listen")) {
        address = value;
        return 0;
    }
    if (!strcmp(name, "--to")) {
        netkit_addr addr;
        target = value;
        return netkit_addr_parse(&addr, value, NULL) ? refuse(value, "not an address") : 0;
    }
    if (!strcmp(name, "--backend")) {
        backend = netkit_backend_from_name(value);
        return backend < 0 ? refuse(value, "no such backend") : 0;
    }
    if (!strcmp(name, "--threads")) {
        return strcmp(value, "1") ? refuse(name, "more than 1 is not built yet") : 0;
    }
    if (!strcmp(name, "--tls-cert") || !strcmp(name, "--tls-key")) {
        return refuse(name, "TLS is not built yet");
    }
    return refuse(name, "no such option");
}

static int announce(netkit_loop *loop, netkit_listener listener) {
    netkit_addr addr;
    char text[NETKIT_ADDR_TEXT_MAX];
    int code = netkit_listener_local(loop, listener, &addr);
    if (code == NETKIT_OK) {
        code = netkit_addr_format(&addr, text, sizeof text);
    }
    if (code < 0) {
        return code;
    }
    printf("listening on %s (%s)\n", text, netkit_loop_backend(loop, NULL));
    return fflush(stdout) ? NETKIT_E_IO : NETKIT_OK;
}

int main(int argc, char **argv) {
    netkit_loop *loop;
    netkit_listener listener;
    netkit_loop_desc loop_desc = {0};
    netkit_listen_desc desc = {0};
    for (int i = 1; i < argc; i += 2) {
        int refused = option(argv[i], argv[i + 1]); /* argv[argc] is NULL */
        if (refused) {
            return refused;
        }
    }
    if (!target) {
        return refuse("--to", "where to is missing");
    }
    loop_desc.backend = backend;
    desc.address = address;
    desc.conn.duplex = true; /* we pause and resume by hand */
    desc.conn.ext_size = sizeof(side);
    desc.handler.on_open = on_client;
    desc.handler.on_data = on_data;
    desc.handler.on_drain = on_drain;
    desc.handler.on_eof = on_eof;
    desc.handler.on_close = on_close;

    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    running = loop;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    code = netkit_listen(loop, &desc, &listener);
    if (code == NETKIT_OK) {
        code = announce(loop, listener);
    }
    if (code == NETKIT_OK) {
        code = netkit_loop_run(loop);
    }
    running = NULL;
    netkit_loop_destroy(loop);
    if (code != NETKIT_OK) {
        fprintf(stderr, "tcp_proxy: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
