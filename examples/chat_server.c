/* chat_server: a room for everybody who connects with nc.
 *
 *     cc -O2 -o chat_server examples/chat_server.c
 *     ./chat_server --listen 127.0.0.1:7002         then: nc 127.0.0.1 7002
 *
 * The first line somebody sends is the name, every other one goes to all.
 * Shows per-connection memory (ext), lines of text out of a stream, a limit on
 * their length (recv_max), sending to many, and what to do with a member who
 * does not read: the room does not wait, and does not fill its memory for it. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
    NAME_MAX_LEN = 24,
    LINE_MAX_LEN = 1024
};

static const char *address = "127.0.0.1:7002";
static int backend = NETKIT_BACKEND_AUTO;
static netkit_loop *volatile running;

/* Lives in each conn's ext memory, linked into the room. */
typedef struct member {
    netkit_conn conn;
    struct member *next;
    char name[NAME_MAX_LEN + 1]; /* "" before the first line */
} member;

typedef struct room {
    member *members;
} room;

static void tell_all(netkit_loop *loop, room *r, const char *text, size_t len) {
    for (member *m = r->members; m; m = m->next) {
        if (m->name[0] && netkit_conn_send(loop, m->conn, text, len) == NETKIT_E_FULL) {
            netkit_conn_abort(loop, m->conn); /* reads too slowly; on_close takes it out */
        }
    }
}

/* What a terminal might take for a command becomes a dot. */
static void make_harmless(char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 32 || c == 127) {
            text[i] = '.';
        }
    }
}

static void on_line(netkit_loop *loop, room *r, member *m, const char *data, size_t len) {
    char line[LINE_MAX_LEN + 1];
    char text[NAME_MAX_LEN + LINE_MAX_LEN + 32];
    int n;
    if (len > 0 && data[len - 1] == '\r') {
        len--;
    }
    if (len > LINE_MAX_LEN) {
        len = LINE_MAX_LEN;
    }
    memcpy(line, data, len);
    line[len] = '\0';
    make_harmless(line, len);
    if (len == 0) {
        return;
    }
    if (m->name[0]) {
        n = snprintf(text, sizeof text, "%s: %s\n", m->name, line);
    } else {
        snprintf(m->name, sizeof m->name, "%.*s", NAME_MAX_LEN, line);
        n = snprintf(text, sizeof text, "* %s is here\n", m->name);
    }
    tell_all(loop, r, text, (size_t)n);
}

static void on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    static const char hello[] = "Your name?\n";
    room *r = (room *)user;
    member *m = (member *)netkit_conn_ext(loop, conn);
    m->conn = conn;
    m->next = r->members;
    r->members = m;
    netkit_conn_send(loop, conn, hello, sizeof hello - 1);
}

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    member *m = (member *)netkit_conn_ext(loop, conn);
    const char *text = (const char *)data;
    size_t used = 0;
    const char *end;
    while ((end = (const char *)memchr(text + used, '\n', len - used)) != NULL) {
        size_t line_len = (size_t)(end - text) - used;
        on_line(loop, (room *)user, m, text + used, line_len);
        used += line_len + 1;
    }
    return used; /* half a line comes again; one of recv_max bytes ends the conn */
}

static void on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user) {
    room *r = (room *)user;
    member *m = (member *)netkit_conn_ext(loop, conn);
    char text[NAME_MAX_LEN + 32];
    (void)info;
    for (member **at = &r->members; *at; at = &(*at)->next) {
        if (*at == m) {
            *at = m->next;
            break;
        }
    }
    if (m->name[0]) {
        int n = snprintf(text, sizeof text, "* %s is gone\n", m->name);
        tell_all(loop, r, text, (size_t)n);
    }
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running);
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "chat_server: %s: %s\n", what, why);
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
    static room the_room;
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
    desc.user = &the_room;
    desc.conn.ext_size = sizeof(member);
    desc.conn.recv_max = LINE_MAX_LEN;
    desc.conn.keepalive_s = 60; /* find members whose machine has vanished */
    desc.handler.on_open = on_open;
    desc.handler.on_data = on_data;
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
        fprintf(stderr, "chat_server: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
