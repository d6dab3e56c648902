/* What the tests of udps share: a udp that keeps what it was told, and raw sockets as its peers. */
#ifndef NKT_LOOP_SUPPORT_UDP_H
#define NKT_LOOP_SUPPORT_UDP_H

#include "support.h"

/* ---- a udp and what it was told ------------------------------------------------ */

enum {
    UD_KEPT = 1024
};

typedef struct ud_end {
    netkit_loop *loop;
    netkit_udp udp;
    int datagrams, errors, drains, closes;
    netkit_datagram last, failed;
    unsigned char bytes[65536]; /* of the last */
    uint32_t lens[UD_KEPT];     /* of the first ones */
    uint64_t sum;               /* of all lengths */
    uint32_t next;              /* number that the next datagram must have */
    bool is_numbered;
    bool is_echo;
    netkit_close_info info;
    void (*also)(struct ud_end *end, const netkit_datagram *datagram);
    struct ud_end *other;
    int limit;
} ud_end;

static inline void ud_on_datagram(netkit_loop *loop, netkit_udp udp, const netkit_datagram *d,
                                  void *user) {
    ud_end *end = (ud_end *)user;
    CHECK_EQ(end->closes, 0);
    CHECK(end->udp.id == udp.id && d->error == 0);
    if (end->datagrams < UD_KEPT) {
        end->lens[end->datagrams] = (uint32_t)d->len;
    }
    if (end->is_numbered) {
        uint32_t number;
        CHECK(d->len >= sizeof(number));
        memcpy(&number, d->data, sizeof(number));
        CHECK_EQ(number, end->next);
        end->next = number + 1;
    }
    end->datagrams++;
    end->sum += d->len;
    end->last = *d;
    memcpy(end->bytes, d->data, d->len);
    if (end->is_echo) {
        CHECK_OK(netkit_udp_reply(loop, udp, d, d->data, d->len));
    }
    if (end->also != NULL) {
        end->also(end, d);
    }
}

static inline void ud_on_drain(netkit_loop *loop, netkit_udp udp, void *user) {
    ud_end *end = (ud_end *)user;
    (void)loop;
    CHECK_EQ(end->closes, 0);
    CHECK(end->udp.id == udp.id);
    end->drains++;
}

static inline void ud_on_error(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed,
                               void *user) {
    ud_end *end = (ud_end *)user;
    (void)loop;
    CHECK_EQ(end->closes, 0);
    CHECK(end->udp.id == udp.id && failed->error < 0);
    end->errors++;
    end->failed = *failed;
}

static inline void ud_on_close(netkit_loop *loop, netkit_udp udp, const netkit_close_info *info,
                               void *user) {
    ud_end *end = (ud_end *)user;
    (void)loop;
    CHECK_EQ(end->closes, 0);
    CHECK(end->udp.id == udp.id && info->text != NULL);
    end->closes++;
    end->info = *info;
}

static inline netkit_udp_desc ud_desc(ud_end *end, const char *address) {
    netkit_udp_desc desc;
    memset(&desc, 0, sizeof(desc));
    memset(end, 0, sizeof(*end));
    desc.address = address;
    desc.handler.on_datagram = ud_on_datagram;
    desc.handler.on_drain = ud_on_drain;
    desc.handler.on_error = ud_on_error;
    desc.handler.on_close = ud_on_close;
    desc.user = end;
    /* Short ones the ring receives in another way: `make check` has them run so, too. */
    const char *size = getenv("NKT_RECV_SIZE");
    desc.recv_size = size != NULL ? (uint32_t)strtoul(size, NULL, 10) : 0;
    return desc;
}

static inline netkit_addr ud_open_with(netkit_loop *loop, ud_end *end,
                                       const netkit_udp_desc *desc) {
    netkit_addr addr;
    end->loop = loop;
    CHECK_OK(netkit_udp_open(loop, desc, &end->udp));
    CHECK_OK(netkit_udp_local(loop, end->udp, &addr));
    CHECK(addr.port != 0);
    return addr;
}

/* Whether the system can do all that: NETKIT_UDP_CAP_*. */
static inline bool ud_can(const ud_end *end, uint32_t what) {
    uint32_t caps = 0;
    CHECK_OK(netkit_udp_caps(end->loop, end->udp, &caps));
    return (caps & what) == what;
}

static inline bool ud_tells_time(const ud_end *end) {
    return ud_can(end, NETKIT_UDP_CAP_TIME) && !nkt_lacks("time");
}

static inline netkit_addr ud_open(netkit_loop *loop, ud_end *end) {
    netkit_udp_desc desc = ud_desc(end, "127.0.0.1:0");
    return ud_open_with(loop, end, &desc);
}

/* One that hundreds of datagrams or reports can wait in, where each takes a kilobyte and more. */
static inline netkit_addr ud_open_roomy(netkit_loop *loop, ud_end *end) {
    netkit_udp_desc desc = ud_desc(end, "127.0.0.1:0");
    desc.recv_buffer = 1 << 20;
    return ud_open_with(loop, end, &desc);
}

static inline void ud_close(ud_end *end) {
    CHECK_OK(netkit_udp_close(end->loop, end->udp));
    SUP_UNTIL(end->loop, end->closes == 1);
    CHECK_ERR(netkit_udp_close(end->loop, end->udp), NETKIT_E_STALE);
}

/* A raw socket on 127.0.0.1 that sends to a port; non-blocking. */
static inline int ud_raw(uint16_t to, uint16_t *port) {
    struct sockaddr_in in = sup_loopback(0);
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    if (port != NULL) {
        *port = ntohs(in.sin_port);
    }
    in = sup_loopback(to);
    CHECK_EQ(connect(fd, (const struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

static inline void ud_say(int fd, const void *data, size_t len) {
    CHECK_EQ(send(fd, data, len, 0), len);
}

/* A port of 127.0.0.1 on which nobody listens. */
static inline netkit_addr ud_deaf(void) {
    uint16_t port = 20009;
    netkit_addr addr;
    if (!NKT_HAS_OWN_ADDRESS) {
        close(ud_raw(1, &port));
    }
    CHECK_OK(netkit_addr_parse(&addr, nkt_own_address(port), NULL));
    return addr;
}

static inline netkit_addr ud_addr(const char *text) {
    netkit_addr addr;
    CHECK_OK(netkit_addr_parse(&addr, text, NULL));
    return addr;
}

static inline bool ud_has_ipv6(void) {
    struct sockaddr_in6 in6;
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memset(&in6, 0, sizeof(in6));
    in6.sin6_family = AF_INET6;
    in6.sin6_addr.s6_addr[15] = 1;
    bool has = fd >= 0 && bind(fd, (const struct sockaddr *)&in6, sizeof(in6)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return has;
}

#endif /* NKT_LOOP_SUPPORT_UDP_H */
