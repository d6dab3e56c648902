/* udp_echo: sends back each datagram that it receives.
 *
 *     cc -O2 -o udp_echo examples/udp_echo.c
 *     ./udp_echo --listen 127.0.0.1:7010            then: nc -u 127.0.0.1 7010
 *
 * The server is the callback `echo` and three calls in main: create, open, run.
 * netkit_udp_reply answers from the address that was asked, also on a machine
 * with several of them. The answers to all that was received together go out in
 * one system call. When the network takes no more, an answer is dropped: that is
 * what UDP is. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char *address = "127.0.0.1:7010";
static int backend = NETKIT_BACKEND_AUTO;
static netkit_loop *volatile running;

static void echo(netkit_loop *loop, netkit_udp udp, const netkit_datagram *datagram, void *user) {
    (void)user;
    netkit_udp_reply(loop, udp, datagram, datagram->data, datagram->len);
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running); /* legal in a signal handler */
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "udp_echo: %s: %s\n", what, why);
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
        return backend < 0 ? refuse(value, "no such backend") : 0;
    }
    if (!strcmp(name, "--threads")) {
        return strcmp(value, "1") ? refuse(name, "more than 1 is not built yet") : 0;
    }
    if (!strcmp(name, "--tls-cert") || !strcmp(name, "--tls-key")) {
        return refuse(name, "TLS is for streams");
    }
    return refuse(name, "no such option");
}

static int announce(netkit_loop *loop, netkit_udp udp) {
    netkit_addr addr;
    char text[NETKIT_ADDR_TEXT_MAX];
    int code = netkit_udp_local(loop, udp, &addr); /* the real port after port 0 */
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
    netkit_udp udp;
    netkit_loop_desc loop_desc = {0};
    netkit_udp_desc desc = {0};
    for (int i = 1; i < argc; i += 2) {
        int refused = option(argv[i], argv[i + 1]); /* argv[argc] is NULL */
        if (refused) {
            return refused;
        }
    }
    loop_desc.backend = backend;
    desc.address = address;
    desc.handler.on_datagram = echo;

    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    running = loop;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    code = netkit_udp_open(loop, &desc, &udp);
    if (code == NETKIT_OK) {
        code = announce(loop, udp);
    }
    if (code == NETKIT_OK) {
        code = netkit_loop_run(loop);
    }
    running = NULL;
    netkit_loop_destroy(loop);
    if (code != NETKIT_OK) {
        fprintf(stderr, "udp_echo: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
