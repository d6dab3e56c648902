/* embed: a netkit loop inside a program that has a loop already: foreign_posix.h or
 * foreign_windows.h.
 *
 *     cc -O2 -o embed examples/embed.c
 *     ./embed --listen 127.0.0.1:7004               then: nc 127.0.0.1 7004
 *
 * The foreign loop waits for its own descriptors (a signal, standard input) and
 * for netkit's; what each line typed here says goes to everybody who is
 * connected. Shows netkit_loop_native, netkit_loop_timeout_ms and
 * netkit_loop_poll. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <stdio.h>
#include <string.h>

#if defined(_WIN32)
#include "foreign_windows.h"
#else
#include "foreign_posix.h"
#endif

enum {
    GUESTS_MAX = 100
};

static const char *address = "127.0.0.1:7004";
static int backend = NETKIT_BACKEND_AUTO;
static netkit_conn guests[GUESTS_MAX];
static int guest_count;

/* ---- the part that knows netkit ------------------------------------------- */

static void on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)user;
    guests[guest_count++] = conn; /* conns_max keeps it within the array */
}

static void on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user) {
    (void)loop;
    (void)info;
    (void)user;
    for (int i = 0; i < guest_count; i++) {
        if (guests[i].id == conn.id) {
            guests[i] = guests[--guest_count];
            break;
        }
    }
}

static void tell_all(netkit_loop *loop, const char *text, size_t len) {
    for (int i = 0; i < guest_count; i++) {
        netkit_conn_send(loop, guests[i], text, len); /* who does not read misses a line */
    }
    netkit_loop_flush(loop); /* we are between turns */
}

/* ---- the program ---------------------------------------------------------- */

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "embed: %s: %s\n", what, why);
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
    loop_desc.backend = backend;
    desc.address = address;
    desc.conns_max = GUESTS_MAX;
    desc.handler.on_open = on_open;
    desc.handler.on_close = on_close;

    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    if (!foreign_open()) {
        fprintf(stderr, "embed: no foreign loop\n");
        netkit_loop_destroy(loop);
        return 1;
    }
    code = netkit_listen(loop, &desc, &listener);
    if (code == NETKIT_OK) {
        code = announce(loop, listener);
    }
    if (code == NETKIT_OK) {
        code = foreign_run(loop, tell_all);
    }
    netkit_loop_destroy(loop);
    foreign_close();
    if (code < 0) {
        fprintf(stderr, "embed: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
