/* Echo on netkit, as its manual has it: netkit_conn_send of what came.
 *
 * Every allocation of the loop goes through a counting hook; the end prints the
 * counts, and SIGUSR1 prints them at once. --pieces BYTES answers each request
 * of so many bytes by its own send. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#include "server.h"

typedef struct memory_count {
    unsigned long long allocs; /* calls, in all */
    size_t live;               /* bytes held now */
    size_t most;
} memory_count;

static memory_count memory_use;
static unsigned long long send_errors;
static netkit_loop *the_loop; /* for the signal handler */
static int report_pipe[2];

static void *count_alloc(size_t size, void *user) {
    memory_count *m = (memory_count *)user;
    void *memory = malloc(size);
    if (memory != NULL) {
        m->allocs++;
        m->live += size;
        m->most = m->live > m->most ? m->live : m->most;
    }
    return memory;
}

static void count_free(void *memory, size_t size, void *user) {
    memory_count *m = (memory_count *)user;
    m->live -= memory != NULL ? size : 0;
    free(memory);
}

static void report(void) {
    printf("memory live=%llu most=%llu allocs=%llu send_errors=%llu\n",
           (unsigned long long)memory_use.live, (unsigned long long)memory_use.most,
           memory_use.allocs, send_errors);
    fflush(stdout);
}

static void on_term(int sig) {
    (void)sig;
    (void)netkit_loop_stop(the_loop);
}

static void on_usr1(int sig) {
    int saved = errno;
    ssize_t n = write(report_pipe[1], "r", 1);
    (void)sig;
    (void)n;
    errno = saved;
}

static void on_report(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    char byte;
    (void)loop;
    (void)watch;
    (void)events;
    (void)user;
    if (read(report_pipe[0], &byte, 1) == 1) {
        report();
    }
}

static size_t on_echo(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    (void)user;
    if (netkit_conn_send(loop, conn, data, len) != NETKIT_OK) {
        send_errors++;
    }
    return len;
}

static size_t on_requests(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                          void *user) {
    const char *bytes = (const char *)data;
    size_t size = server_opt.pieces;
    size_t at = 0;
    (void)user;
    for (; at + size <= len; at += size) {
        if (netkit_conn_send(loop, conn, bytes + at, size) != NETKIT_OK) {
            send_errors++;
        }
    }
    return at;
}

static size_t on_sink(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    (void)loop;
    (void)conn;
    (void)data;
    (void)user;
    return len;
}

static int fail(const char *what, int code) {
    fprintf(stderr, "server: %s: %s\n", what, netkit_error_name(code));
    return 1;
}

static int open_loop(void) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof desc);
    if (server_opt.backend != NULL) {
        desc.backend = netkit_backend_from_name(server_opt.backend);
        if (desc.backend < 0) {
            return desc.backend;
        }
    }
    desc.ring_incremental = server_opt.incremental;
    desc.ring_files = server_opt.fixed ? 8192 : 0;
    desc.allocator.user = &memory_use;
    desc.allocator.alloc = count_alloc;
    desc.allocator.free = count_free;
    return netkit_loop_create(&the_loop, &desc);
}

/* With --cc the socket is made here, as netkit has no option for that. */
static int open_listener(netkit_listener *listener) {
    netkit_listen_desc desc;
    memset(&desc, 0, sizeof desc);
    if (server_opt.cc != NULL) {
        desc.socket = netkit_socket_from_native((uintptr_t)server_socket());
    } else {
        desc.address = "127.0.0.1:0";
    }
    desc.handler.on_data = on_echo;
    if (server_opt.sink) {
        desc.handler.on_data = on_sink;
    } else if (server_opt.pieces > 0) {
        desc.handler.on_data = on_requests;
    }
    desc.conn.idle_timeout_ms = server_opt.idle_timeout_ms;
    return netkit_listen(the_loop, &desc, listener);
}

static int open_signals(void) {
    struct sigaction action;
    netkit_watch watch;
    memset(&action, 0, sizeof action);
    if (pipe(report_pipe) != 0) {
        server_die("pipe");
    }
    int code = netkit_watch_start(the_loop, &watch, (uintptr_t)report_pipe[0], NETKIT_POLL_READ,
                                  on_report, NULL);
    action.sa_handler = on_term;
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_usr1;
    sigaction(SIGUSR1, &action, NULL);
    return code;
}

int main(int argc, char **argv) {
    netkit_listener listener;
    netkit_addr addr;
    int code;
    server_parse(argc, argv, "--backend --pieces --idle-timeout --fixed --incremental");
    if ((code = open_loop()) != NETKIT_OK) {
        return fail("loop", code);
    }
    if ((code = open_listener(&listener)) != NETKIT_OK ||
        (code = netkit_listener_local(the_loop, listener, &addr)) != NETKIT_OK) {
        return fail("listen", code);
    }
    if ((code = open_signals()) != NETKIT_OK) {
        return fail("watch", code);
    }
    server_ready(addr.port, netkit_loop_backend(the_loop, NULL));
    if ((code = netkit_loop_run(the_loop)) != NETKIT_OK) {
        return fail("run", code);
    }
    report();
    if ((code = netkit_loop_destroy(the_loop)) != NETKIT_OK) {
        return fail("destroy", code);
    }
    return memory_use.live == 0 ? 0 : fail("memory is left after destroy", NETKIT_OK);
}
