/* Datagrams: an echo server of netkit, or a bare recvmmsg/sendmmsg epoll loop, and its load.
 *
 * usage: udp bare|multishot|BACKEND plain|segments SIZE INFLIGHT MILLISECONDS
 *
 * plain: datagrams of SIZE one by one. segments: GSO and GRO at both ends, 64 KiB of datagrams of
 * SIZE at a time. The server is a process on core 0, the generator on core 1: raw, closed loop,
 * INFLIGHT datagrams (or rows of segments) under way; what is lost is sent again after 50 ms.
 * Prints {"rate", "server_us", "server_load", "lost"}: datagrams come back a second, CPU time of
 * the server for one of them, its part of a core, and how many did not come back. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum {
    BATCH = 64,
    ROW_MAX = 65000,
    WARM_NS = 200000000,
    PATIENCE_MS = 50
};

static bool is_segmented;
static size_t size;
static unsigned window;
static uint64_t time_ns;

static void die(const char *what) {
    fprintf(stderr, "udp: %s: %s\n", what, strerror(errno));
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
        fprintf(stderr, "udp: not pinned to core %u\n", core);
    }
}

static int open_socket(struct sockaddr_in *at) {
    int room = 1 << 22;
    socklen_t len = sizeof *at;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    memset(at, 0, sizeof *at);
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)at, sizeof *at) != 0 ||
        getsockname(fd, (struct sockaddr *)at, &len) != 0) {
        die("socket");
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    return fd;
}

/* ---- batches of messages, for the bare server and the generator ---- */

typedef struct batch {
    struct mmsghdr heads[BATCH];
    struct iovec iov[BATCH];
    struct sockaddr_in names[BATCH];
    union {
        size_t align;
        char bytes[64];
    } control[BATCH];
    unsigned char *memory;
    size_t stride;
} batch;

static void batch_init(batch *b, size_t stride) {
    b->stride = stride;
    b->memory = (unsigned char *)calloc(BATCH, stride);
    if (b->memory == NULL) {
        die("calloc");
    }
}

static int batch_recv(batch *b, int fd, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        struct msghdr *m = &b->heads[i].msg_hdr;
        b->iov[i].iov_base = b->memory + i * b->stride;
        b->iov[i].iov_len = b->stride;
        m->msg_name = &b->names[i];
        m->msg_namelen = sizeof b->names[i];
        m->msg_iov = &b->iov[i];
        m->msg_iovlen = 1;
        m->msg_control = is_segmented ? &b->control[i] : NULL;
        m->msg_controllen = is_segmented ? sizeof b->control[i] : 0;
    }
    return recvmmsg(fd, b->heads, count, MSG_DONTWAIT, NULL);
}

static void segment(struct msghdr *m, void *control) {
    uint16_t each = (uint16_t)size;
    m->msg_control = control;
    m->msg_controllen = CMSG_SPACE(sizeof each);
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    memset(c, 0, m->msg_controllen);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = 103; /* UDP_SEGMENT */
    c->cmsg_len = CMSG_LEN(sizeof each);
    memcpy(CMSG_DATA(c), &each, sizeof each);
}

/* ---- servers ---- */

static void serve_bare(int fd) {
    static batch b;
    struct epoll_event ev;
    int ep = epoll_create1(EPOLL_CLOEXEC);
    memset(&ev, 0, sizeof ev);
    ev.events = EPOLLIN;
    if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) != 0) {
        die("epoll");
    }
    batch_init(&b, is_segmented ? 65536 : 2112);
    for (;;) {
        if (epoll_wait(ep, &ev, 1, -1) < 1) {
            continue;
        }
        int n = batch_recv(&b, fd, BATCH);
        for (int i = 0; i < n; i++) {
            b.iov[i].iov_len = b.heads[i].msg_len;
            b.heads[i].msg_hdr.msg_control = NULL;
            b.heads[i].msg_hdr.msg_controllen = 0;
            if (is_segmented) {
                segment(&b.heads[i].msg_hdr, &b.control[i]);
            }
        }
        for (int done = 0; done < n;) {
            int sent = sendmmsg(fd, b.heads + done, (unsigned)(n - done), 0);
            done += sent > 0 ? sent : 1;
        }
    }
}

static void on_datagram(netkit_loop *loop, netkit_udp udp, const netkit_datagram *d, void *user) {
    (void)user;
    if (is_segmented) {
        netkit_udp_send_batch(loop, udp, d, 1); /* as it came: its segments, too */
    } else {
        netkit_udp_send(loop, udp, &d->peer, d->data, d->len);
    }
}

static void serve_netkit(int fd, const char *backend) {
    netkit_loop *loop;
    netkit_loop_desc loop_desc;
    netkit_udp_desc desc;
    memset(&loop_desc, 0, sizeof loop_desc);
    memset(&desc, 0, sizeof desc);
    loop_desc.backend = netkit_backend_from_name(backend);
    desc.socket = netkit_socket_from_native((uintptr_t)fd);
    desc.recv_size = is_segmented ? 0 : 2048;
    desc.gro_whole = is_segmented;
    desc.handler.on_datagram = on_datagram;
    if (loop_desc.backend < 0 || netkit_loop_create(&loop, &loop_desc) != NETKIT_OK ||
        netkit_udp_open(loop, &desc, NULL) != NETKIT_OK) {
        die(backend);
    }
    netkit_loop_run(loop);
}

#include "udp_ring.h"

/* ---- the generator ---- */

static struct {
    uint64_t came, lost; /* datagrams */
    unsigned under_way;  /* messages */
} load;

static size_t row_size(void) {
    return is_segmented ? ROW_MAX / size * size : size;
}

static void pump(int fd, batch *out) {
    while (load.under_way < window) {
        unsigned count = window - load.under_way < BATCH ? window - load.under_way : BATCH;
        for (unsigned i = 0; i < count; i++) {
            struct msghdr *m = &out->heads[i].msg_hdr;
            out->iov[i].iov_base = out->memory;
            out->iov[i].iov_len = row_size();
            memset(m, 0, sizeof *m);
            m->msg_iov = &out->iov[i];
            m->msg_iovlen = 1;
            if (is_segmented) {
                segment(m, &out->control[i]);
            }
        }
        int n = sendmmsg(fd, out->heads, count, 0);
        if (n <= 0) {
            return;
        }
        load.under_way += (unsigned)n;
    }
}

static void collect(int fd, batch *in) {
    static uint64_t bytes;
    int n;
    do {
        n = batch_recv(in, fd, is_segmented ? 16 : BATCH);
        for (int i = 0; i < n; i++) {
            uint64_t rows = bytes / row_size();
            bytes += in->heads[i].msg_len;
            rows = bytes / row_size() - rows;
            load.came += in->heads[i].msg_len / size;
            load.under_way -= rows < load.under_way ? (unsigned)rows : load.under_way;
        }
    } while (n == (is_segmented ? 16 : BATCH));
}

static void generate(int fd, pid_t server) {
    static batch in, out;
    clockid_t id;
    uint64_t began = clock_ns(CLOCK_MONOTONIC), from_wall = 0, from_cpu = 0, from_came = 0;
    if (clock_getcpuclockid(server, &id) != 0) {
        die("clock");
    }
    batch_init(&in, is_segmented ? 65536 : 2112);
    batch_init(&out, ROW_MAX);
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        if (from_wall == 0 && now - began > WARM_NS) {
            from_wall = now;
            from_cpu = clock_ns(id);
            from_came = load.came;
            load.lost = 0;
        } else if (from_wall != 0 && now - from_wall > time_ns) {
            uint64_t came = load.came - from_came;
            double s = (double)(now - from_wall) / 1e9,
                   cpu = (double)(clock_ns(id) - from_cpu) / 1e9;
            printf("{\"rate\":%.0f,\"server_us\":%.4f,\"server_load\":%.3f,\"lost\":%llu}\n",
                   (double)came / s, came ? cpu * 1e6 / (double)came : 0, cpu / s,
                   (unsigned long long)load.lost);
            return;
        }
        pump(fd, &out);
        if (poll(&p, 1, PATIENCE_MS) == 0) {
            load.lost += load.under_way * (row_size() / size);
            load.under_way = 0;
        }
        collect(fd, &in);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in at, own;
    int on = 1;
    if (argc != 6) {
        fputs("usage: udp bare|multishot|BACKEND plain|segments SIZE INFLIGHT MILLISECONDS\n",
              stderr);
        return 2;
    }
    is_segmented = strcmp(argv[2], "segments") == 0;
    size = (size_t)strtoul(argv[3], NULL, 10);
    window = (unsigned)strtoul(argv[4], NULL, 10);
    time_ns = (uint64_t)strtoul(argv[5], NULL, 10) * 1000000u;
    if (size == 0 || size > 2000 || window == 0) {
        return 2;
    }
    alarm(60);
    int server_fd = open_socket(&at), fd = open_socket(&own);
    if (is_segmented) {
        setsockopt(fd, IPPROTO_UDP, 104 /* UDP_GRO */, &on, sizeof on);
        setsockopt(server_fd, IPPROTO_UDP, 104, &on, sizeof on);
    }
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(60);
        pin(0);
        close(fd);
        if (strcmp(argv[1], "bare") == 0) {
            serve_bare(server_fd);
#if NKI_HAS_URING
        } else if (strcmp(argv[1], "multishot") == 0) {
            serve_multishot(server_fd);
#endif
        } else {
            serve_netkit(server_fd, argv[1]);
        }
        return 1;
    }
    close(server_fd);
    pin(1);
    if (server < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        die("server");
    }
    generate(fd, server);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return 0;
}
