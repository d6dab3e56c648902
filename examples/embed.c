/* embed: a netkit loop inside a program that has a loop already, here poll(2).
 *
 *     cc -O2 -o embed examples/embed.c
 *     ./embed --listen 127.0.0.1:7004               then: nc 127.0.0.1 7004
 *
 * The foreign loop waits for its own descriptors (a pipe for signals, standard
 * input) and for netkit's; what each line typed here says goes to everybody who
 * is connected. Shows netkit_loop_native, netkit_loop_timeout_ms and
 * netkit_loop_poll. POSIX only: poll(2). */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    GUESTS_MAX = 100,
    LOOK_MS = 10
};

static const char *address = "127.0.0.1:7004";
static int backend = NETKIT_BACKEND_AUTO;
static int signal_pipe[2];
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

/* ---- the foreign loop ------------------------------------------------------- */

static void on_signal(int number) {
    char byte = (char)number;
    if (write(signal_pipe[1], &byte, 1) < 0) {
        return; /* nothing can be done about it here */
    }
}

static int foreign_loop(netkit_loop *loop) {
    struct pollfd fds[3] = {{0, POLLIN, 0}, {0, POLLIN, 0}, {0, POLLIN, 0}};
    uintptr_t native = 0;
    bool has_native = netkit_loop_native(loop, &native) == NETKIT_OK;
    fds[0].fd = signal_pipe[0];
    fds[1].fd = STDIN_FILENO;
    fds[2].fd = has_native ? (int)native : -1; /* poll(2) passes over -1 */
    for (;;) {
        int timeout_ms = netkit_loop_timeout_ms(loop);
        if (!has_native && (timeout_ms < 0 || timeout_ms > LOOK_MS)) {
            timeout_ms = LOOK_MS; /* a backend with nothing to wait for: look now and then */
        }
        if (poll(fds, 3, timeout_ms) < 0) {
            if (errno == EINTR) {
                continue; /* the signal is in the pipe */
            }
            return NETKIT_E_IO;
        }
        if (fds[0].revents) {
            return NETKIT_OK;
        }
        if (fds[1].revents) {
            char line[512];
            ssize_t n = read(STDIN_FILENO, line, sizeof line);
            if (n > 0) {
                tell_all(loop, line, (size_t)n);
            } else {
                fds[1].fd = -1; /* the end of our input is not the end of the server */
            }
        }
        int code = netkit_loop_poll(loop, -1);
        if (code < 0) {
            return code;
        }
    }
}

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

    if (pipe(signal_pipe)) {
        perror("embed: pipe");
        return 1;
    }
    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    code = netkit_listen(loop, &desc, &listener);
    if (code == NETKIT_OK) {
        code = announce(loop, listener);
    }
    if (code == NETKIT_OK) {
        code = foreign_loop(loop);
    }
    netkit_loop_destroy(loop);
    close(signal_pipe[0]);
    close(signal_pipe[1]);
    if (code < 0) {
        fprintf(stderr, "embed: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
