/* multicast_chat: everybody in a group hears what anybody says; there is no server.
 *
 *     cc -O2 -o multicast_chat examples/multicast_chat.c
 *     ./multicast_chat --name ann                    and in another terminal: --name bob
 *     ./multicast_chat --group "[ff02::4242]:7012" --interface 2
 *
 * Lines typed become datagrams to the group. Multicasts go no further than this
 * network (their TTL is 1) and come back to this machine, so that several chats
 * on it hear each other: `share` lets them all have the port. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 1000
};

typedef struct chat {
    netkit_udp udp;
    netkit_addr group;
    uint32_t interface_index;
    char line[LINE_MAX_BYTES]; /* "name: " and what was typed of a line */
    size_t prefix, len;
} chat;

static const char *group_text = "239.255.70.12:7012";
static const char *name = "somebody";
static int backend = NETKIT_BACKEND_AUTO;
static netkit_loop *volatile running;

static void on_datagram(netkit_loop *loop, netkit_udp udp, const netkit_datagram *datagram,
                        void *user) {
    char from[NETKIT_ADDR_TEXT_MAX];
    const char *text = (const char *)datagram->data;
    const chat *c = (const chat *)user;
    (void)loop;
    (void)udp;
    netkit_addr to = datagram->local;
    to.port = c->group.port;
    to.scope = c->group.scope;
    if (!netkit_addr_equal(&to, &c->group)) {
        return; /* to this port, but not to our group */
    }
    netkit_addr_format(&datagram->peer, from, sizeof from);
    printf("[%s] ", from);
    for (size_t i = 0; i < datagram->len; i++) {
        putchar((unsigned char)text[i] < ' ' ? '.' : text[i]);
    }
    printf("\n");
    fflush(stdout);
}

static void on_error(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed, void *user) {
    (void)loop;
    (void)udp;
    (void)user;
    fprintf(stderr, "multicast_chat: %s\n", netkit_error_text(failed->error));
}

static void say(netkit_loop *loop, chat *c) {
    int code = netkit_udp_send(loop, c->udp, &c->group, c->line, c->len);
    if (code != NETKIT_OK) {
        fprintf(stderr, "multicast_chat: %s\n", netkit_error_text(code));
    }
    c->len = c->prefix;
}

/* Something was typed, perhaps half a line, or the input has ended. Read as it is: stdio would wait
 * here for the rest of a line, and nobody would be heard meanwhile. */
static void on_input(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    chat *c = (chat *)user;
    char bytes[256];
    (void)events;
    ssize_t len = read(STDIN_FILENO, bytes, sizeof bytes);
    if (len < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    for (ssize_t i = 0; i < len; i++) {
        if (bytes[i] != '\n') {
            c->line[c->len++] = bytes[i];
        }
        if (bytes[i] == '\n' || c->len == sizeof c->line) {
            say(loop, c);
        }
    }
    if (len <= 0) {
        if (c->len != c->prefix) {
            say(loop, c); /* a last line without an end */
        }
        netkit_watch_stop(loop, watch);
        netkit_udp_close(loop, c->udp); /* then nothing is left, and the loop ends */
    }
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running);
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "multicast_chat: %s: %s\n", what, why);
    return 2;
}

static int option(chat *c, const char *key, const char *value) {
    char *end;
    if (!value) {
        return refuse(key, "an option that needs a value, or is unknown");
    }
    if (!strcmp(key, "--group") || !strcmp(key, "--listen")) {
        group_text = value;
        return 0;
    }
    if (!strcmp(key, "--name")) {
        name = value;
        return 0;
    }
    if (!strcmp(key, "--interface")) {
        c->interface_index = (uint32_t)strtoul(value, &end, 10);
        return end == value || *end ? refuse(value, "not the number of an interface") : 0;
    }
    if (!strcmp(key, "--backend")) {
        backend = netkit_backend_from_name(value);
        return backend < 0 ? refuse(value, "no such backend") : 0;
    }
    return refuse(key, "no such option");
}

/* The port on every address, and the group on the interface. */
static int enter(netkit_loop *loop, chat *c) {
    netkit_udp_desc desc = {0};
    netkit_addr any = {0};
    netkit_watch watch;
    int code = netkit_addr_parse(&c->group, group_text, NULL);
    any.family = c->group.family;
    any.port = c->group.port;
    desc.addr = &any;
    desc.share = true;
    desc.handler.on_datagram = on_datagram;
    desc.handler.on_error = on_error;
    desc.user = c;
    if (code == NETKIT_OK) {
        code = netkit_udp_open(loop, &desc, &c->udp);
    }
    if (code == NETKIT_OK) {
        code = netkit_udp_join(loop, c->udp, &c->group, c->interface_index, NULL);
    }
    if (code == NETKIT_OK && c->interface_index) {
        code = netkit_udp_set_option(loop, c->udp, NETKIT_OPT_MULTICAST_INTERFACE,
                                     (int)c->interface_index);
    }
    if (code == NETKIT_OK) {
        code = netkit_watch_start(loop, &watch, STDIN_FILENO, NETKIT_POLL_READ, on_input, c);
        code = code == NETKIT_E_ACCESS ? NETKIT_OK : code; /* a file: nothing to say */
    }
    return code;
}

int main(int argc, char **argv) {
    netkit_loop *loop;
    netkit_loop_desc loop_desc = {0};
    static chat c;
    for (int i = 1; i < argc; i += 2) {
        int refused = option(&c, argv[i], argv[i + 1]);
        if (refused) {
            return refused;
        }
    }
    int len = snprintf(c.line, sizeof c.line / 2, "%s: ", name);
    c.prefix = c.len = (size_t)len < sizeof c.line / 2 ? (size_t)len : sizeof c.line / 2 - 1;
    loop_desc.backend = backend;
    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    running = loop;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    code = enter(loop, &c);
    if (code == NETKIT_OK) {
        printf("listening on %s (%s)\n", group_text, netkit_loop_backend(loop, NULL));
        fflush(stdout);
        code = netkit_loop_run(loop);
    }
    running = NULL;
    netkit_loop_destroy(loop);
    if (code != NETKIT_OK) {
        fprintf(stderr, "multicast_chat: %s: %s\n", group_text, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
