/* Servers of the bench: what all of them share, so that they differ in nothing
 * but the library: options, the first line of output, the end by SIGTERM.
 * C99 and C++11. */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SERVER_READ_MAX = 64 * 1024
};

typedef struct server_options {
    const char *backend;
    const char *cc; /* congestion control of the connections, NULL = the system's */
    size_t pieces;  /* requests of so many bytes, each answered by its own send */
    uint32_t idle_timeout_ms;
    bool sink;  /* read and discard instead of echoing */
    bool look;  /* but look at every byte */
    bool plain; /* the library's idiomatic way instead of its fastest */
    bool fixed; /* what floor_ring.c can do */
    bool bundle;
    bool incremental;
    bool large;
} server_options;

static server_options server_opt;
static volatile uint64_t server_seen; /* by server_look() */

static void server_die(const char *what) {
    fprintf(stderr, "server: %s: %s\n", what, strerror(errno));
    exit(1);
}

static bool *server_switch(const char *name) {
    static const struct {
        const char *name;
        bool *is_on;
    } all[] = {{"--sink", &server_opt.sink},     {"--look", &server_opt.look},
               {"--plain", &server_opt.plain},   {"--fixed", &server_opt.fixed},
               {"--bundle", &server_opt.bundle}, {"--incremental", &server_opt.incremental},
               {"--large", &server_opt.large}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(name, all[i].name) == 0) {
            return all[i].is_on;
        }
    }
    return NULL;
}

/* What a server cannot do is refused with status 2; `can` lists what it can. */
static void server_parse(int argc, char **argv, const char *can) {
    unsigned life_s = 600; /* no server outlives its bench, whatever becomes of that */
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = strcmp(argv[i], "--life") == 0 || strcmp(argv[i], "--cc") == 0 ||
                     strcmp(argv[i], "--sink") == 0 || strstr(can, argv[i]) != NULL;
        bool *is_on = known ? server_switch(argv[i]) : NULL;
        if (is_on != NULL) {
            *is_on = true;
        } else if (known && value != NULL) {
            i++;
            if (strcmp(argv[i - 1], "--backend") == 0) {
                server_opt.backend = value;
            } else if (strcmp(argv[i - 1], "--cc") == 0) {
                server_opt.cc = value;
            } else if (strcmp(argv[i - 1], "--pieces") == 0) {
                server_opt.pieces = (size_t)strtoul(value, NULL, 10);
            } else if (strcmp(argv[i - 1], "--idle-timeout") == 0) {
                server_opt.idle_timeout_ms = (uint32_t)strtoul(value, NULL, 10);
            } else {
                life_s = (unsigned)strtoul(value, NULL, 10);
            }
        } else {
            fprintf(stderr, "server: cannot do %s (only --sink --cc NAME --life SECONDS %s)\n",
                    argv[i], can);
            exit(2);
        }
    }
    alarm(life_s);
    signal(SIGPIPE, SIG_IGN);
}

/* A listening socket on a free port of 127.0.0.1. What it accepts inherits
 * TCP_NODELAY and the congestion control (Linux). */
static int server_socket(void) {
    struct sockaddr_in addr;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        server_die("socket");
    }
    memset(&addr, 0, sizeof addr);
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
        server_die("TCP_NODELAY");
    }
    if (server_opt.cc != NULL && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, server_opt.cc,
                                            (socklen_t)strlen(server_opt.cc)) != 0) {
        fprintf(stderr, "server: no congestion control %s\n", server_opt.cc);
    }
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        server_die("bind");
    }
    if (listen(fd, SOMAXCONN) != 0) {
        server_die("listen");
    }
    return fd;
}

/* What a receiver does that reads what it gets. */
static inline void server_look(const char *data, size_t len) {
    uint64_t sum = 0;
    for (size_t i = 0; i + sizeof sum <= len; i += sizeof sum) {
        uint64_t word;
        memcpy(&word, data + i, sizeof word);
        sum += word;
    }
    server_seen = sum;
}

static void server_ready(unsigned port, const char *backend) {
    printf("listening on 127.0.0.1:%u (%s)\n", port, backend);
    fflush(stdout);
}

static inline void server_announce(int fd) {
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0) {
        server_die("getsockname");
    }
    server_ready(ntohs(addr.sin_port), server_opt.backend != NULL ? server_opt.backend : "epoll");
}

#endif
