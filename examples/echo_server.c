/* echo_server: sends back what it receives.
 *
 *     cc -O2 -o echo_server examples/echo_server.c
 *     ./echo_server --listen 127.0.0.1:7000         then: nc 127.0.0.1 7000
 *
 * The server is the callback `echo` and three calls in main: create, listen,
 * run. All else reads options and ends well on Ctrl-C. It is right even against
 * a peer that sends and never reads: while the answer to one more span would
 * not fit the queue, on_data does not come, and TCP slows the peer down. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char *address = "127.0.0.1:7000";
static int backend = NETKIT_BACKEND_AUTO;
static bool has_backend; /* it was named: then it is said why it came to be this one */
static netkit_loop *volatile running;

static size_t echo(netkit_loop *loop, netkit_conn conn, const void *data, size_t len, void *user) {
    (void)user;
    netkit_conn_send(loop, conn, data, len);
    return len; /* bytes consumed; what is left comes again with more behind it */
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running); /* legal in a signal handler */
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "echo_server: %s: %s\n", what, why);
    return 2;
}

/* One option of the command line; the exit code when it is refused. */
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
        has_backend = true;
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

/* A loop that cannot be made says why in its log. */
static void log_line(int level, int id, const char *text, int os_code, void *user) {
    (void)id;
    (void)os_code;
    (void)user;
    if (level == NETKIT_LOG_ERROR) {
        fprintf(stderr, "echo_server: %s\n", text);
    }
}

static int announce(netkit_loop *loop, netkit_listener listener) {
    netkit_addr addr;
    char text[NETKIT_ADDR_TEXT_MAX];
    int code = netkit_listener_local(loop, listener, &addr); /* the real port after port 0 */
    if (code == NETKIT_OK) {
        code = netkit_addr_format(&addr, text, sizeof text);
    }
    if (code < 0) {
        return code;
    }
    const char *why;
    printf("listening on %s (%s)\n", text, netkit_loop_backend(loop, &why));
    if (has_backend) {
        printf("%s\n", why);
    }
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
    loop_desc.logger.log = log_line;
    desc.address = address;
    desc.handler.on_data = echo;

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
        fprintf(stderr, "echo_server: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
