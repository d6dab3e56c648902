/* A file over loopback: sent by a server of netkit out of a conn's queue, or by a bare sendfile
 * loop, to a client that reads and discards.
 *
 * usage: file bare|BACKEND FILE MIB
 *
 * The server is a process on core 0, the client on core 1. The first MIB of FILE are sent to one
 * connection, cubic on both ends; the client lets the kernel drop what came (MSG_TRUNC), so that
 * it is not what is measured. Prints {"rate", "bytes_per_s", "server_us", "server_load",
 * "grown_kib"}: MiB and bytes a second, CPU time of the server for a MiB, its part of a core, and
 * by how much its memory has grown at its peak since it began to send. Growing by more than 1 MiB
 * is a failure, as is a byte too few or too many. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/wait.h>

enum {
    MIB = 1 << 20,
    GROWN_MAX_KIB = 1024,
    READ_SIZE = 1 << 20
};

static uint64_t bytes;

static void die(const char *what) {
    fprintf(stderr, "file: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pin(unsigned core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        fprintf(stderr, "file: not pinned to core %u\n", core);
    }
}

static void cubic(int fd) {
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5) != 0) {
        fputs("file: no cubic here\n", stderr);
    }
}

/* A line of a process's status, in KiB. */
static long status_kib(pid_t pid, const char *key) {
    char path[64], line[256];
    long found = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            found = strtol(line + strlen(key), NULL, 10);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    if (found < 0) {
        die(path);
    }
    return found;
}

/* Memory touched until now does not count: the peak is set back to what is held. */
static void forget_peak(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/clear_refs", (int)pid);
    FILE *f = fopen(path, "w");
    if (f == NULL || fputs("5", f) == EOF || fclose(f) != 0) {
        die(path);
    }
}

/* ---- servers ---- */

static void serve_bare(int listener, int file) {
    int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    off_t at = 0;
    char go;
    if (s < 0 || recv(s, &go, 1, 0) != 1) {
        die("accept");
    }
    while ((uint64_t)at < bytes) {
        if (sendfile(s, file, &at, (size_t)(bytes - (uint64_t)at)) <= 0) {
            die("sendfile");
        }
    }
    shutdown(s, SHUT_WR);
    pause();
}

/* The byte that says go has come: the file and the end behind it are queued. */
static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    (void)data;
    if (netkit_conn_send_file(loop, conn, (uintptr_t) * (const int *)user, 0, bytes, NULL, NULL) !=
            NETKIT_OK ||
        netkit_conn_shutdown(loop, conn) != NETKIT_OK) {
        die("netkit_conn_send_file");
    }
    return len;
}

static void on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)conn;
    (void)user; /* the client's; the server is ended by a signal */
}

static void serve_netkit(int listener, int file, const char *backend) {
    netkit_loop *loop;
    netkit_loop_desc loop_desc;
    netkit_listen_desc desc;
    memset(&loop_desc, 0, sizeof loop_desc);
    memset(&desc, 0, sizeof desc);
    loop_desc.backend = netkit_backend_from_name(backend);
    desc.socket = netkit_socket_from_native((uintptr_t)listener);
    desc.handler.on_data = on_data;
    desc.handler.on_eof = on_eof;
    desc.user = &file;
    if (loop_desc.backend < 0 || netkit_loop_create(&loop, &loop_desc) != NETKIT_OK ||
        netkit_listen(loop, &desc, NULL) != NETKIT_OK) {
        die(backend);
    }
    netkit_loop_run(loop);
}

/* ---- the client ---- */

static int fetch(int fd, pid_t server) {
    static char room[READ_SIZE];
    clockid_t id;
    uint64_t got = 0;
    ssize_t n;
    if (clock_getcpuclockid(server, &id) != 0) {
        die("clock");
    }
    forget_peak(server);
    long had = status_kib(server, "VmHWM:");
    uint64_t cpu = clock_ns(id), began = clock_ns(CLOCK_MONOTONIC);
    if (send(fd, "g", 1, 0) != 1) {
        die("send");
    }
    while ((n = recv(fd, room, sizeof room, MSG_TRUNC)) > 0) {
        got += (uint64_t)n;
    }
    double s = (double)(clock_ns(CLOCK_MONOTONIC) - began) / 1e9;
    double spent = (double)(clock_ns(id) - cpu) / 1e9, mib = (double)bytes / MIB;
    long grown = status_kib(server, "VmHWM:") - had;
    if (n < 0 || got != bytes) {
        fprintf(stderr, "file: %llu bytes came, not %llu\n", (unsigned long long)got,
                (unsigned long long)bytes);
        return 1;
    }
    if (grown > GROWN_MAX_KIB) {
        fprintf(stderr, "file: the server's memory has grown by %ld KiB\n", grown);
        return 1;
    }
    printf("{\"rate\":%.1f,\"bytes_per_s\":%.0f,\"server_us\":%.3f,\"server_load\":%.3f,"
           "\"grown_kib\":%ld}\n",
           mib / s, (double)bytes / s, spent * 1e6 / mib, spent / s, grown);
    return 0;
}

int main(int argc, char **argv) {
    struct sockaddr_in at;
    struct stat st;
    socklen_t len = sizeof at;
    if (argc != 4) {
        fputs("usage: file bare|BACKEND FILE MIB\n", stderr);
        return 2;
    }
    alarm(60);
    int file = open(argv[2], O_RDONLY | O_CLOEXEC);
    bytes = (uint64_t)strtoul(argv[3], NULL, 10) * MIB;
    if (file < 0 || fstat(file, &st) != 0 || bytes == 0 || (uint64_t)st.st_size < bytes) {
        die(argv[2]);
    }
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cubic(listener);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&at, &len) != 0) {
        die("listen");
    }
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(60);
        pin(0);
        if (strcmp(argv[1], "bare") == 0) {
            serve_bare(listener, file);
        } else {
            serve_netkit(listener, file, argv[1]);
        }
        return 1;
    }
    pin(1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cubic(fd);
    if (server < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        die("connect");
    }
    usleep(50000); /* accepted, and at rest */
    int rc = fetch(fd, server);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return rc;
}
