/* file_server: the files of a folder, sent by the system without a copy.
 *
 *     cc -O2 -o file_server examples/file_server.c
 *     ./file_server --listen 127.0.0.1:7070 FOLDER
 *     printf 'NAME\n' | nc -N 127.0.0.1 7070         answers "OK SIZE", then the bytes
 *
 * A request is a name and a newline; the answer is "OK SIZE\n" and the bytes, or
 * "NO reason\n". As many as one likes, pipelined too. netkit_frame_next cuts the
 * lines, netkit_conn_send_file puts a file behind its header: a gigabyte costs no
 * memory here. A name is a plain file of the folder itself: no '/', no leading '.',
 * no symbolic link. Of each connection only so many files wait; the requests after
 * them are read when these are gone. The system's part: files_posix.h, files_windows.h. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#if defined(_WIN32)
#include "files_windows.h"
#else
#include "files_posix.h"
#endif

enum {
    NAME_SIZE = 256,
    FILES_MAX = 64,      /* that wait in one connection */
    IDLE_TIME_MS = 30000 /* without a byte either way */
};

static const char *address = "127.0.0.1:7070";
static const char *folder_name;
static int backend = NETKIT_BACKEND_AUTO;
static netkit_loop *volatile running;

/* Lives in each conn's ext memory. */
typedef struct client {
    netkit_conn conn;
    int files;     /* that wait in its queue */
    bool is_ended; /* the peer has sent its last request */
} client;

/* The file of a name and its size; NULL, or why not. */
static const char *open_file(const char *name, size_t len, uintptr_t *file, uint64_t *size) {
    char path[NAME_SIZE];
    if (len == 0 || len >= NAME_SIZE || name[0] == '.' || memchr(name, '/', len) ||
        memchr(name, 0, len)) {
        return "no such file";
    }
    memcpy(path, name, len);
    path[len] = 0;
    switch (files_is_name(path) ? files_open_in(path, file, size) : FILES_ABSENT) {
    case FILES_OK: return NULL;
    case FILES_BUSY: return "busy, try again";
    default: return "no such file";
    }
}

/* The system has taken a file, or never will: requests that waited for that go on. */
static void file_sent(netkit_loop *loop, int status, void *user) {
    client *c = (client *)user;
    (void)status; /* on_close tells of failures */
    if (c->files-- == FILES_MAX) {
        netkit_conn_resume(loop, c->conn);
    }
    if (c->files == 0 && c->is_ended) {
        netkit_conn_close(loop, c->conn);
    }
}

/* Closing at once would put all that waits under close_deadline_ms. */
static void on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    client *c = (client *)netkit_conn_ext(loop, conn);
    (void)user;
    c->is_ended = true;
    if (c->files == 0) {
        netkit_conn_close(loop, conn);
    }
}

/* Answer one request. NETKIT_E_FULL: nothing was queued, the request comes again. */
static int answer(netkit_loop *loop, client *c, const char *name, size_t len) {
    char line[64];
    uintptr_t file = 0;
    uint64_t size = 0;
    const char *why = open_file(name, len, &file, &size);
    if (why) {
        int n = snprintf(line, sizeof line, "NO %s\n", why);
        return netkit_conn_send(loop, c->conn, line, (size_t)n);
    }
    int n = snprintf(line, sizeof line, "OK %lld\n", (long long)size);
    int code = netkit_conn_send(loop, c->conn, line, (size_t)n);
    if (code == NETKIT_OK) {
        /* Exactly what the header says, should the file grow meanwhile. */
        code = netkit_conn_send_file(loop, c->conn, file, 0, size, file_sent, c);
        c->files += code == NETKIT_OK;
        if (code != NETKIT_OK) { /* a header without its file: the stream makes no sense now */
            netkit_conn_abort(loop, c->conn);
        }
    }
    files_close(file); /* the queue has its own */
    return code;
}

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    netkit_framing lines = {0};
    netkit_frame frame;
    size_t used = 0;
    (void)user;
    client *c = (client *)netkit_conn_ext(loop, conn);
    c->conn = conn;
    lines.kind = NETKIT_FRAME_DELIMITER;
    lines.size_max = NAME_SIZE;
    while (c->files < FILES_MAX) {
        size_t next = used;
        int more = netkit_frame_next(&lines, data, len, &next, &frame);
        if (more < 0) {
            netkit_conn_abort(loop, conn);
        }
        if (more <= 0 || answer(loop, c, (const char *)frame.data, frame.len) != NETKIT_OK) {
            break;
        }
        used = next;
    }
    if (c->files >= FILES_MAX) {
        netkit_conn_pause(loop, conn); /* holds back the end too, behind what is left */
    }
    return used; /* what is left comes again */
}

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running); /* legal in a signal handler */
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "file_server: %s: %s\n", what, why);
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
        return refuse(name, "TLS is not built yet");
    }
    return refuse(name, "no such option");
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
    printf("listening on %s (%s)\n", text, netkit_loop_backend(loop, NULL));
    return fflush(stdout) ? NETKIT_E_IO : NETKIT_OK;
}

int main(int argc, char **argv) {
    netkit_loop *loop;
    netkit_listener listener;
    netkit_loop_desc loop_desc = {0};
    netkit_listen_desc desc = {0};
    for (int i = 1; i < argc; i += 2) {
        if (strncmp(argv[i], "--", 2) != 0 && folder_name == NULL) {
            folder_name = argv[i--];
            continue;
        }
        int refused = option(argv[i], argv[i + 1]); /* argv[argc] is NULL */
        if (refused) {
            return refused;
        }
    }
    if (folder_name == NULL) {
        return refuse("FOLDER", "which folder shall be served?");
    }
    if (files_enter(folder_name) != FILES_OK) {
        return refuse(folder_name, "no such folder, or not for us");
    }
    loop_desc.backend = backend;
    desc.address = address;
    desc.handler.on_data = on_data;
    desc.handler.on_eof = on_eof;
    desc.conn.ext_size = sizeof(client);
    desc.conn.idle_timeout_ms = IDLE_TIME_MS;

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
        fprintf(stderr, "file_server: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
