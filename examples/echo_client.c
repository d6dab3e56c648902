/* echo_client: a ping for echo servers: sends one message after another, checks
 * that each comes back as it was, and shows how long that took.
 *
 *     cc -O2 -o echo_client examples/echo_client.c
 *     ./echo_client --connect 127.0.0.1:7000 --count 4
 *
 * Shows a client: connecting with a limit of time, consuming only whole
 * messages, a timer, a graceful close, and telling why a connection ended. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MESSAGE_LEN = 64,
    PAUSE_US = 200000
};

typedef struct pinger {
    const char *address;
    int backend;
    long count; /* messages to send */
    long done;  /* messages that came back right */
    uint64_t sent_ns;
    netkit_conn conn;
    char message[MESSAGE_LEN + 1];
} pinger;

static void send_next(netkit_loop *loop, netkit_timer timer, void *user) {
    pinger *ping = (pinger *)user;
    (void)timer;
    snprintf(ping->message, sizeof ping->message, "%*ld", MESSAGE_LEN, ping->done + 1);
    ping->sent_ns = netkit_loop_now(loop);
    netkit_conn_send(loop, ping->conn, ping->message, MESSAGE_LEN);
}

static void on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    pinger *ping = (pinger *)user;
    netkit_timer none = {0};
    ping->conn = conn;
    send_next(loop, none, ping);
}

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    pinger *ping = (pinger *)user;
    if (len < MESSAGE_LEN) {
        return 0; /* half a message: it comes again with more behind it */
    }
    uint64_t us = (netkit_loop_now(loop) - ping->sent_ns) / 1000;
    if (len > MESSAGE_LEN || memcmp(data, ping->message, MESSAGE_LEN) != 0) {
        fprintf(stderr, "echo_client: what came back is not what was sent\n");
        netkit_conn_abort(loop, conn);
        return len;
    }
    ping->done++;
    printf("%d bytes from %s: seq=%ld time=%" PRIu64 " us\n", MESSAGE_LEN, ping->address,
           ping->done, us);
    if (ping->done == ping->count ||
        netkit_timer_start(loop, NULL, PAUSE_US, 0, send_next, ping) != NETKIT_OK) {
        netkit_conn_close(loop, conn);
    }
    return len;
}

static void on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user) {
    pinger *ping = (pinger *)user;
    (void)conn;
    if (ping->done < ping->count) {
        char why[256];
        netkit_close_describe(info, why, sizeof why);
        fprintf(stderr, "echo_client: %s: %s\n", ping->address, why);
    }
    netkit_loop_stop(loop); /* a timer may still wait */
}

static int option(pinger *ping, const char *name, const char *value) {
    char *end = NULL;
    if (value && !strcmp(name, "--connect")) {
        ping->address = value;
        return 0;
    }
    if (value && !strcmp(name, "--backend")) {
        ping->backend = netkit_backend_from_name(value);
        return ping->backend < 0 ? 2 : 0;
    }
    if (value && !strcmp(name, "--count")) {
        ping->count = strtol(value, &end, 10);
        return end == value || *end != '\0' || ping->count < 1 ? 2 : 0;
    }
    return 2;
}

int main(int argc, char **argv) {
    static pinger ping = {"127.0.0.1:7000", NETKIT_BACKEND_AUTO, 4, 0, 0, {0}, ""};
    netkit_loop *loop;
    netkit_loop_desc loop_desc = {0};
    netkit_connect_desc desc = {0};
    for (int i = 1; i < argc; i += 2) {
        if (option(&ping, argv[i], argv[i + 1])) { /* argv[argc] is NULL */
            fprintf(stderr,
                    "echo_client: %s: not understood\n"
                    "usage: echo_client [--connect ADDR] [--backend NAME] [--count N]\n",
                    argv[i]);
            return 2;
        }
    }
    loop_desc.backend = ping.backend;
    desc.address = ping.address;
    desc.timeout_ms = 5000;
    desc.conn.idle_timeout_ms = 5000;
    desc.handler.on_open = on_open;
    desc.handler.on_data = on_data;
    desc.handler.on_close = on_close;
    desc.user = &ping;

    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        fprintf(stderr, "echo_client: %s: %s\n", netkit_backend_name(ping.backend),
                netkit_error_text(code));
        return 2;
    }
    code = netkit_connect(loop, &desc, NULL);
    if (code == NETKIT_OK) {
        code = netkit_loop_run(loop);
    }
    netkit_loop_destroy(loop);
    if (code != NETKIT_OK) {
        fprintf(stderr, "echo_client: %s: %s\n", ping.address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return ping.done == ping.count ? 0 : 1;
}
