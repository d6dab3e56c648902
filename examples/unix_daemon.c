/* unix_daemon: counts the lines of files that its clients have open.
 *
 *     cc -O2 -o unix_daemon examples/unix_daemon.c
 *     ./unix_daemon --listen unix:counter.sock
 *     ./unix_daemon --ask unix:counter.sock FILE       (counts FILE's lines)
 *     echo whoami | nc -U counter.sock
 *
 * A client opens a file with its own rights and hands the open descriptor over;
 * the daemon need not be allowed to open it, and never sees its name. It passes
 * the descriptor on to a worker process, so that reading a slow disk holds up
 * nobody. It knows by the kernel's word who is calling, and counts for its own
 * user and for root alone.
 *
 * Shows a listener on a path (mode 0666 from the start, a left over file replaced,
 * removed at the end), credentials, descriptors received and sent on conns, the
 * same on plain sockets (the worker and the client), and handles as names: the
 * worker gives back the one it was given, and if that client is gone no harm is
 * done. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *address = "unix:counter.sock";
static const char *ask, *file;
static int backend = NETKIT_BACKEND_AUTO;
static netkit_loop *volatile running;
static netkit_conn worker;

/* Lives in each client's ext memory. */
typedef struct session {
    int jobs; /* with the worker */
    bool has_ended;
} session;

/* To the worker with a descriptor, and back with the count. */
typedef struct job {
    netkit_conn client;
    int64_t lines; /* -1: not a file that can be read */
} job;

/* ---- the worker: a process of its own, on a blocking socket ------------------- */

static int64_t count_lines(int fd) {
    char data[65536];
    int64_t lines = 0;
    ssize_t got;
    off_t at = 0; /* the position belongs to the client, who has the file open too */
    while ((got = pread(fd, data, sizeof data, at)) > 0) {
        for (const char *c = data; (c = (const char *)memchr(c, '\n', (size_t)(data + got - c)));
             c++) {
            lines++;
        }
        at += got;
    }
    return got < 0 ? -1 : lines;
}

static int work(netkit_socket s) {
    for (;;) {
        job j;
        uintptr_t fd;
        size_t rest;
        netkit_room room = {&j, sizeof j};
        netkit_message_in in = {0};
        in.rooms = &room;
        in.rooms_count = 1;
        in.fds = &fd;
        in.fds_max = 1;
        int got = netkit_socket_recv_msg(s, &in);
        if (got < 0) {
            return got == NETKIT_E_EOF ? 0 : 1;
        }
        rest = sizeof j - (size_t)got;
        if (netkit_socket_recv_all(s, (char *)&j + got, rest, -1, NULL) != NETKIT_OK) {
            return 1;
        }
        j.lines = in.fds_count == 1 ? count_lines((int)fd) : -1;
        if (in.fds_count == 1) {
            close((int)fd);
        }
        if (netkit_socket_send_all(s, &j, sizeof j, -1, NULL) != NETKIT_OK) {
            return 1;
        }
    }
}

/* ---- the daemon ------------------------------------------------------------------ */

static void say(netkit_loop *loop, netkit_conn conn, const char *text) {
    netkit_conn_send(loop, conn, text, strlen(text));
}

static void whoami(netkit_loop *loop, netkit_conn conn) {
    char text[100];
    netkit_credentials who;
    netkit_conn_credentials(loop, conn, &who); /* each -1 if it cannot be known */
    snprintf(text, sizeof text, "pid %ld uid %ld gid %ld\n", (long)who.pid, (long)who.uid,
             (long)who.gid);
    say(loop, conn, text);
}

/* The client's descriptor goes to the worker; the answer comes from on_counted. */
static void count(netkit_loop *loop, netkit_conn conn) {
    uintptr_t fd;
    netkit_credentials who;
    job j = {conn, 0};
    if (netkit_conn_take_fd(loop, conn, &fd) != NETKIT_OK) {
        say(loop, conn, "error: no descriptor came with that\n");
        return;
    }
    netkit_conn_credentials(loop, conn, &who);
    if (who.uid != 0 && who.uid != (int64_t)geteuid()) {
        say(loop, conn, "error: not for you\n");
    } else if (netkit_conn_send_fds(loop, worker, &j, sizeof j, &fd, 1) != NETKIT_OK) {
        say(loop, conn, "error: too busy\n");
    } else {
        ((session *)netkit_conn_ext(loop, conn))->jobs++;
    }
    close((int)fd); /* what is on its way is a duplicate */
}

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    const char *text = (const char *)data, *end;
    size_t used = 0;
    (void)user;
    while ((end = (const char *)memchr(text + used, '\n', len - used))) {
        size_t line = (size_t)(end - text) - used;
        if (line == 6 && !memcmp(text + used, "whoami", 6)) {
            whoami(loop, conn);
        } else if (line == 5 && !memcmp(text + used, "count", 5)) {
            count(loop, conn);
        } else {
            say(loop, conn, "error: say whoami or count\n");
        }
        used += line + 1;
    }
    return used;
}

/* A client that has said all it has to say may still wait for answers. */
static void on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    session *self = (session *)netkit_conn_ext(loop, conn);
    (void)user;
    self->has_ended = true;
    if (self->jobs == 0) {
        netkit_conn_close(loop, conn);
    }
}

static void answer(netkit_loop *loop, const job *j) {
    char text[64];
    session *to = (session *)netkit_conn_ext(loop, j->client);
    if (!to) {
        return; /* gone meanwhile */
    }
    snprintf(text, sizeof text, "%ld\n", (long)j->lines);
    say(loop, j->client, j->lines < 0 ? "error: that cannot be read\n" : text);
    if (--to->jobs == 0 && to->has_ended) {
        netkit_conn_close(loop, j->client);
    }
}

static size_t on_counted(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                         void *user) {
    size_t used = 0;
    (void)conn;
    (void)user;
    for (; len - used >= sizeof(job); used += sizeof(job)) {
        job j;
        memcpy(&j, (const char *)data + used, sizeof j);
        answer(loop, &j);
    }
    return used;
}

static void on_worker_gone(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                           void *user) {
    char text[200];
    (void)conn;
    (void)user;
    if (running) {
        netkit_close_describe(info, text, sizeof text);
        fprintf(stderr, "unix_daemon: the worker is gone: %s\n", text);
        netkit_loop_stop(loop);
    }
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running);
    }
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

static int serve(netkit_loop *loop, netkit_socket s) {
    netkit_adopt_desc to_worker = {0};
    netkit_listen_desc desc = {0};
    netkit_listener listener;
    to_worker.socket = s;
    to_worker.handler.on_data = on_counted;
    to_worker.handler.on_close = on_worker_gone;
    to_worker.conn.duplex = true;
    desc.address = address;
    desc.unix_replace = true; /* a file that a crash left behind; never one that is alive */
    desc.unix_mode = 0666;    /* all may call, and are told apart by their credentials */
    desc.handler.on_data = on_data;
    desc.handler.on_eof = on_eof;
    desc.conn.fds_max = 64;
    desc.conn.ext_size = sizeof(session);
    desc.conn.idle_timeout_ms = 60000;
    int code = netkit_adopt(loop, &to_worker, &worker);
    if (code != NETKIT_OK) {
        netkit_socket_close(&s);
        return code;
    }
    code = netkit_listen(loop, &desc, &listener);
    if (code == NETKIT_OK) {
        code = announce(loop, listener);
    }
    return code == NETKIT_OK ? netkit_loop_run(loop) : code;
}

/* ---- the client ------------------------------------------------------------------- */

static int client(void) {
    netkit_addr addr;
    netkit_socket s = {0};
    netkit_span span = {"count\n", 6};
    netkit_message_out out = {0};
    char text[100];
    size_t len = 0;
    uintptr_t fd;
    int code = netkit_addr_parse(&addr, ask, NULL);
    int native = open(file, O_RDONLY);
    if (native < 0) {
        perror(file);
        return 1;
    }
    fd = (uintptr_t)native;
    out.spans = &span;
    out.spans_count = 1;
    out.fds = &fd;
    out.fds_count = 1;
    if (code == NETKIT_OK) {
        code = netkit_socket_open(&s, addr.family, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING);
    }
    if (code == NETKIT_OK) {
        code = netkit_socket_connect(s, &addr, 5000);
    }
    if (code == NETKIT_OK) {
        code = netkit_socket_send_msg(s, &out);
    }
    if (code >= 0) {
        code = netkit_socket_shutdown(s, NETKIT_SHUT_WRITE);
    }
    if (code == NETKIT_OK) {
        code = netkit_socket_recv_all(s, text, sizeof text, 60000, &len); /* up to the end */
    }
    netkit_socket_close(&s);
    close(native);
    if (len == 0) {
        fprintf(stderr, "unix_daemon: %s: %s\n", ask, netkit_error_text(code));
        return 1;
    }
    printf("%.*s", (int)len, text);
    return len < 5 || memcmp(text, "error", 5) ? 0 : 1;
}

/* ---- options ------------------------------------------------------------------------ */

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "unix_daemon: %s: %s\n", what, why);
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
    if (!strcmp(name, "--ask")) {
        ask = value;
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
        return refuse(name, "unix sockets need no TLS");
    }
    return refuse(name, "no such option");
}

static int options(int argc, char **argv) {
    for (int i = 1; i < argc; i += 2) {
        if (ask && !file && argv[i][0] != '-') {
            file = argv[i--];
            continue;
        }
        int refused = option(argv[i], argv[i + 1]); /* argv[argc] is NULL */
        if (refused) {
            return refused;
        }
    }
    return ask && !file ? refuse("--ask", "which file is missing") : 0;
}

int main(int argc, char **argv) {
    netkit_loop *loop;
    netkit_loop_desc loop_desc = {0};
    netkit_socket pair[2];
    int code = options(argc, argv), status;
    if (code != 0 || ask) {
        return code != 0 ? code : client();
    }
    code = netkit_socket_pair(pair, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING);
    if (code != NETKIT_OK) {
        return refuse("the worker", netkit_error_text(code));
    }
    pid_t child = fork();
    if (child == 0) {
        signal(SIGINT, SIG_IGN); /* it ends when the daemon does */
        netkit_socket_close(&pair[0]);
        _exit(work(pair[1]));
    }
    netkit_socket_close(&pair[1]);
    loop_desc.backend = backend;
    code = child < 0 ? NETKIT_E_NOMEM : netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    running = loop;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    code = serve(loop, pair[0]);
    running = NULL;
    netkit_loop_destroy(loop);
    waitpid(child, &status, 0);
    if (code != NETKIT_OK) {
        fprintf(stderr, "unix_daemon: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
