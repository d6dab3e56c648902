/* game_frame: networking inside a game's own loop: 60 frames a second, each
 * giving the network at most 2 ms, and events fetched instead of called back.
 *
 *     cc -O2 -o game_frame examples/game_frame.c
 *     ./game_frame --listen 127.0.0.1:7003          then: nc 127.0.0.1 7003
 *
 * Every player steers a letter over a small field with w, a, s, d and Return.
 * Shows desc.pull, netkit_loop_poll with a budget of time, netkit_loop_next,
 * and netkit_loop_flush, so that what a frame says leaves within the frame. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    FRAME_US = 1000000 / 60,
    NET_BUDGET_US = 2000,
    PLAYERS_MAX = 26,
    WIDTH = 40,
    HEIGHT = 8
};

typedef struct player {
    netkit_conn conn; /* {0}: a free place */
    int x, y;
} player;

static const char *address = "127.0.0.1:7003";
static int backend = NETKIT_BACKEND_AUTO;
static long frames_max; /* 0: until a signal */
static volatile sig_atomic_t is_over;
static player players[PLAYERS_MAX];
static bool has_changed;

static player *find(netkit_conn conn) {
    for (int i = 0; i < PLAYERS_MAX; i++) {
        if (players[i].conn.id == conn.id) {
            return &players[i];
        }
    }
    return NULL;
}

static void steer(player *p, const char *keys, size_t len) {
    for (size_t i = 0; i < len; i++) {
        p->x += keys[i] == 'd' ? 1 : keys[i] == 'a' ? -1 : 0;
        p->y += keys[i] == 's' ? 1 : keys[i] == 'w' ? -1 : 0;
        p->x = p->x < 0 ? 0 : p->x < WIDTH ? p->x : WIDTH - 1;
        p->y = p->y < 0 ? 0 : p->y < HEIGHT ? p->y : HEIGHT - 1;
    }
    has_changed = true;
}

static void on_event(netkit_loop *loop, const netkit_event *event) {
    static const netkit_conn nobody = {0};
    player *p;
    switch (event->type) {
    case NETKIT_EVENT_OPEN:
        p = find(nobody);
        if (!p) {
            netkit_conn_close(loop, event->conn); /* the game is full */
            break;
        }
        p->conn = event->conn;
        p->x = WIDTH / 2;
        p->y = HEIGHT / 2;
        has_changed = true;
        break;
    case NETKIT_EVENT_DATA:
        p = find(event->conn);
        if (p) {
            steer(p, (const char *)event->data, event->len);
        }
        break;
    case NETKIT_EVENT_EOF: netkit_conn_close(loop, event->conn); break;
    case NETKIT_EVENT_CLOSE:
        p = find(event->conn);
        if (p) {
            p->conn = nobody;
            has_changed = true;
        }
        break;
    default: break;
    }
}

/* Draw the field for everybody. A player whose queue is full misses a picture:
 * a newer one comes soon. */
static void send_picture(netkit_loop *loop) {
    char picture[HEIGHT * (WIDTH + 1) + 1];
    size_t len = sizeof picture;
    memset(picture, '.', len);
    for (int y = 0; y < HEIGHT; y++) {
        picture[y * (WIDTH + 1) + WIDTH] = '\n';
    }
    picture[len - 1] = '\n';
    for (int i = 0; i < PLAYERS_MAX; i++) {
        if (players[i].conn.id) {
            picture[players[i].y * (WIDTH + 1) + players[i].x] = (char)('A' + i);
        }
    }
    for (int i = 0; i < PLAYERS_MAX; i++) {
        if (players[i].conn.id) {
            netkit_conn_send(loop, players[i].conn, picture, len);
        }
    }
}

static void sleep_until(netkit_loop *loop, uint64_t due_ns) {
    uint64_t now = netkit_loop_now(loop);
    if (now < due_ns) {
        struct timespec rest;
        rest.tv_sec = (time_t)((due_ns - now) / 1000000000u);
        rest.tv_nsec = (long)((due_ns - now) % 1000000000u);
        nanosleep(&rest, NULL); /* a signal may cut it short: one frame comes early */
    }
}

static int play(netkit_loop *loop) {
    uint64_t due = netkit_loop_now(loop), worst = 0;
    long frame = 0;
    int code = NETKIT_OK;
    while (!is_over && (frames_max == 0 || frame < frames_max) && code >= 0) {
        netkit_event event;
        uint64_t start = netkit_loop_now(loop);
        code = netkit_loop_poll(loop, NET_BUDGET_US);
        while (code >= 0 && (code = netkit_loop_next(loop, &event)) > 0) {
            on_event(loop, &event);
        }
        if (has_changed) { /* here a game would move its world */
            send_picture(loop);
            has_changed = false;
            netkit_loop_flush(loop);
        }
        uint64_t spent = netkit_loop_now(loop) - start;
        worst = spent > worst ? spent : worst;
        frame++;
        due += (uint64_t)FRAME_US * 1000;
        sleep_until(loop, due);
    }
    printf("%ld frames; the network took at most %lu us of one\n", frame,
           (unsigned long)(worst / 1000));
    return code;
}

static void on_signal(int number) {
    (void)number;
    is_over = 1;
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "game_frame: %s: %s\n", what, why);
    return 2;
}

static int option(const char *name, const char *value) {
    char *end;
    if (!value) {
        return refuse(name, "an option that needs a value, or is unknown");
    }
    if (!strcmp(name, "--listen")) {
        address = value;
        return 0;
    }
    if (!strcmp(name, "--frames")) {
        frames_max = strtol(value, &end, 10);
        return end == value || *end || frames_max < 0 ? refuse(value, "not a number of frames") : 0;
    }
    if (!strcmp(name, "--backend")) {
        backend = netkit_backend_from_name(value);
        return backend < 0 ? refuse(value, "no such backend") : 0;
    }
    if (!strcmp(name, "--threads")) {
        return strcmp(value, "1") ? refuse(name, "a game's loop has one thread") : 0;
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
    loop_desc.pull = true;
    desc.address = address; /* no callbacks: everything comes as an event */

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
        code = play(loop);
    }
    netkit_loop_destroy(loop);
    if (code < 0) {
        fprintf(stderr, "game_frame: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
