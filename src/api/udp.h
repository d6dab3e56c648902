/* ---- datagrams: UDP -----------------------------------------------------------
 *
 * A udp is a datagram socket in a loop. One struct describes a datagram on its
 * way in and out, so that what has come can be sent on as it is. Its handle stays
 * valid until on_close has returned. Once it is closing all calls but close, queued,
 * user and ext give NETKIT_E_CLOSED; NETKIT_E_STALE, _THREAD and _INVALID: see the
 * head of "loop". */

typedef struct netkit_udp {
    uint64_t id;
} netkit_udp;

/* A datagram. Received: what is not known, or was not asked for, is 0. To send:
 * what is 0 is left to the socket and the system. */
typedef struct netkit_datagram {
    uint64_t time_ns;         /* received: the system's wall clock (tell_time) */
    const void *data;         /* received: lives until the callback returns; to send: copied */
    size_t len;               /* 0 is a datagram like any other */
    netkit_addr peer;         /* who sent it | where it goes; {0} = the connected peer */
    netkit_addr local;        /* the address of ours it came to | to send it from */
    uint32_t interface_index; /* where it came in (tell_local) | is to go out */
    uint32_t segment_size;    /* `data` is datagrams of this size, the last may be shorter;
                                 0 = one datagram */
    uint32_t mtu;             /* in on_error: what the path takes at most */
    int error;                /* in on_error: why it failed, else 0 */
    int os_code;              /* and the system's code for it */
    uint8_t tos;              /* type of service or traffic class; the low two bits are ECN */
    uint8_t ttl;              /* time to live or hop limit */
    bool is_truncated;        /* its end is missing: longer than there was room for */
} netkit_datagram;

enum {
    NETKIT_ECN_NONE = 0, /* netkit_datagram.tos & NETKIT_ECN_MASK */
    NETKIT_ECN_ECT1 = 1,
    NETKIT_ECN_ECT0 = 2,
    NETKIT_ECN_CE = 3, /* congestion was met on the way */
    NETKIT_ECN_MASK = 3,
    NETKIT_DATAGRAM_MAX = 65507 /* bytes of one datagram over IPv4; IPv6 takes 20 more */
};

/* Callbacks of a udp. NULL = default. */
typedef struct netkit_udp_handler {
    /* A datagram has come; it lives until the return. NULL: it is discarded. */
    void (*on_datagram)(netkit_loop *loop, netkit_udp udp, const netkit_datagram *datagram,
                        void *user);

    /* After a send that gave NETKIT_E_FULL: as much fits now. */
    void (*on_drain)(netkit_loop *loop, netkit_udp udp, void *user);

    /* A datagram to failed->peer did not arrive or could not be sent (->error:
     * NETKIT_E_REFUSED: nobody listens there, NETKIT_E_UNREACHABLE, ...), as far as
     * the network tells; ->data is its beginning if that came back. With peer {0}
     * receiving failed, and goes on by itself. The udp stays open.
     * NULL: errors are not asked for, and passed over. */
    void (*on_error)(netkit_loop *loop, netkit_udp udp, const netkit_datagram *failed, void *user);

    /* The end, exactly once, last; info->unsent bytes were never sent, of which nobody
     * was told. */
    void (*on_close)(netkit_loop *loop, netkit_udp udp, const netkit_close_info *info, void *user);
} netkit_udp_handler;

typedef struct netkit_udp_desc {
    const char *address;          /* to bind to, as netkit_addr_parse, port 0 = a free one; may be
                                     NULL with a peer. Used during the call, as the next three */
    const netkit_addr *addr;      /* or an address */
    const char *peer;             /* connect: only its datagrams come, sends need no address */
    const netkit_addr *peer_addr; /* or an address */
    netkit_socket socket;         /* or a datagram socket to adopt; owned from success on */
    uint32_t recv_size;           /* longest datagram taken whole, 0 = 65,535: none is cut; up to
                                     7,792 without gro come uncopied on io_uring */
    uint32_t send_max;            /* bytes that may wait to be sent, each datagram counting 64
                                     more, 0 = 262,144 */
    uint32_t recv_buffer;         /* of the system, in bytes, 0 = its default */
    uint32_t send_buffer;         /* the same */
    uint32_t ext_size;            /* bytes of netkit_udp_ext, 0 = none */
    bool reuse_port; /* several udps share the port, the kernel spreads the senders over them */
    bool share;      /* other programs may bind the same port, for multicast: all get each one */
    bool v6only;     /* an IPv6 wildcard takes no IPv4 */
    bool broadcast;  /* may send to broadcast addresses */
    bool tell_local; /* fill in local and interface_index; a wildcard address always does */
    bool tell_tos;   /* fill in tos */
    bool tell_ttl;   /* fill in ttl */
    bool tell_time;  /* fill in time_ns */
    bool gro;        /* let the kernel merge what arrives in a row: cheaper by factors in bulk;
                         on_datagram still comes for each */
    bool gro_whole;  /* the same, but merged ones are handed over whole, with segment_size */
    netkit_udp_handler handler;
    void *user;
} netkit_udp_desc;

/* Open a datagram socket in a loop. `out` may be NULL. When it fails nothing was
 * created. Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_ADDRINUSE,
 * NETKIT_E_ADDRNOTAVAIL, NETKIT_E_ACCESS, NETKIT_E_UNREACHABLE (the peer),
 * NETKIT_E_NOSYS, NETKIT_E_FULL, NETKIT_E_NOMEM, NETKIT_E_MFILE. Thread: the loop's. */
NETKIT_API int netkit_udp_open(netkit_loop *loop, const netkit_udp_desc *desc, netkit_udp *out);

/* Send what is queued as far as the system takes it at once, and close. on_close
 * comes from the loop; no other callback does. A second close is NETKIT_OK.
 * Thread: the loop's. */
NETKIT_API int netkit_udp_close(netkit_loop *loop, netkit_udp udp);

/* ---- sending -------------------------------------------------------------------
 *
 * A datagram is copied and goes out with the others when all that was received
 * together has been handled, at the end of the turn, or when 64 have gathered. In
 * order. What fails later is told to on_error.
 * All of these return NETKIT_OK (or a count); NETKIT_E_FULL: nothing was taken, as
 * send_max bytes wait for the system; on_drain comes once when there is room;
 * NETKIT_E_TOOBIG: longer than a datagram can be, or than send_max;
 * NETKIT_E_NOTCONN: no address and no peer; NETKIT_E_INVALID: an address that this
 * socket cannot send to; NETKIT_E_NOMEM. */

/* Send one datagram. `to` NULL: to the connected peer. Thread: the loop's. */
NETKIT_API int netkit_udp_send(netkit_loop *loop, netkit_udp udp, const netkit_addr *to,
                               const void *data, size_t len);

/* Answer a datagram: to its sender, from the address that it came to. `received` may
 * be a copy kept for later: its data is not looked at. Thread: the loop's. */
NETKIT_API int netkit_udp_reply(netkit_loop *loop, netkit_udp udp, const netkit_datagram *received,
                                const void *data, size_t len);

/* Send datagrams with all that the struct can say. With segment_size one of them
 * stands for many to the same peer, cut by the kernel or the network card where
 * they can, by netkit elsewhere; together at most NETKIT_DATAGRAM_MAX bytes.
 * Returns how many were taken, the first ones of the array, or why the first one
 * was not. Thread: the loop's. */
NETKIT_API int netkit_udp_send_batch(netkit_loop *loop, netkit_udp udp,
                                     const netkit_datagram *datagrams, size_t count);

/* Send what is queued now. Calls nothing back. Thread: the loop's. */
NETKIT_API int netkit_udp_flush(netkit_loop *loop, netkit_udp udp);

/* ---- receiving, groups --------------------------------------------------------- */

/* Stop and restart on_datagram and on_error; pausing in the callback is legal.
 * Meanwhile datagrams wait in the socket, as far as its buffer goes, and of the sends
 * that fail 16 are told later. Thread: the loop's. */
NETKIT_API int netkit_udp_pause(netkit_loop *loop, netkit_udp udp);
NETKIT_API int netkit_udp_resume(netkit_loop *loop, netkit_udp udp);

/* Join and leave a multicast group, on an interface (its index, 0 = the system's
 * choice), from any source or (`source` not NULL) from this one. Joining twice is
 * NETKIT_E_ADDRINUSE, leaving what was not joined NETKIT_E_ADDRNOTAVAIL. A udp bound
 * to a wildcard address gets what other sockets of the machine have joined, too:
 * look at `local`. Thread: the loop's. */
NETKIT_API int netkit_udp_join(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                               uint32_t interface_index, const netkit_addr *source);
NETKIT_API int netkit_udp_leave(netkit_loop *loop, netkit_udp udp, const netkit_addr *group,
                                uint32_t interface_index, const netkit_addr *source);

/* ---- looking ------------------------------------------------------------------- */

/* What the system does for a datagram socket. What is missing is done without: GSO
 * by sending one by one, GRO by receiving one by one, the rest is left 0. */
enum {
    NETKIT_UDP_CAP_BATCH = 1,   /* many datagrams in one system call */
    NETKIT_UDP_CAP_GSO = 2,     /* cuts segments */
    NETKIT_UDP_CAP_GRO = 4,     /* merges segments */
    NETKIT_UDP_CAP_LOCAL = 8,   /* tells and takes the local address */
    NETKIT_UDP_CAP_TOS = 16,    /* tells and takes tos */
    NETKIT_UDP_CAP_TTL = 32,    /* tells and takes ttl */
    NETKIT_UDP_CAP_TIME = 64,   /* tells the time */
    NETKIT_UDP_CAP_ERRORS = 128 /* tells who could not be reached */
};

/* NETKIT_UDP_CAP_* of this udp to *caps. Thread: the loop's. */
NETKIT_API int netkit_udp_caps(netkit_loop *loop, netkit_udp udp, uint32_t *caps);

/* To *out its address, the real port after port 0; and the peer it is connected to
 * (NETKIT_E_NOTCONN). Thread: the loop's. */
NETKIT_API int netkit_udp_local(netkit_loop *loop, netkit_udp udp, netkit_addr *out);
NETKIT_API int netkit_udp_remote(netkit_loop *loop, netkit_udp udp, netkit_addr *out);

/* Bytes that wait to be sent, to *out, each datagram counting 64 more.
 * Thread: the loop's. */
NETKIT_API int netkit_udp_queued(netkit_loop *loop, netkit_udp udp, size_t *out);

/* The system's descriptor to *native: look, set options; never close it.
 * Thread: the loop's. */
NETKIT_API int netkit_udp_native(netkit_loop *loop, netkit_udp udp, uintptr_t *native);

/* Options of its socket (NETKIT_OPT_TTL, NETKIT_OPT_MULTICAST_LOOP, ...), as
 * netkit_socket_set and _get. NETKIT_OPT_GRO and NETKIT_OPT_TELL_ERRORS are set by
 * the desc alone (NETKIT_E_INVALID, as is NETKIT_OPT_BLOCKING). Thread: the loop's. */
NETKIT_API int netkit_udp_set_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int value);
NETKIT_API int netkit_udp_get_option(netkit_loop *loop, netkit_udp udp, netkit_option option,
                                     int *value);

/* Get and set the pointer given to callbacks; NULL for a stale handle.
 * Thread: the loop's. */
NETKIT_API void *netkit_udp_user(netkit_loop *loop, netkit_udp udp);
NETKIT_API int netkit_udp_set_user(netkit_loop *loop, netkit_udp udp, void *user);

/* Its own ext_size bytes: zeroed at first, aligned to 16, in place until on_close
 * has returned; NULL for a stale handle or ext_size 0. Thread: the loop's. */
NETKIT_API void *netkit_udp_ext(netkit_loop *loop, netkit_udp udp);

/* Whether it keeps netkit_loop_run going (at first it does). Thread: the loop's. */
NETKIT_API int netkit_udp_set_referenced(netkit_loop *loop, netkit_udp udp, bool referenced);

/* ---- datagrams on plain sockets -------------------------------------------------- */

/* Receive up to `count` datagrams that are there now (32 at most in one call).
 * `memory` is cut into `count` equal parts, one for each: what is longer is cut
 * (is_truncated). What is told beside data and peer is asked for by
 * NETKIT_OPT_TELL_* and NETKIT_OPT_GRO. One whose `error` is set is no datagram but
 * the news that one of ours failed (NETKIT_OPT_TELL_ERRORS).
 * Returns how many, at least 1; NETKIT_E_AGAIN; NETKIT_E_REFUSED and the like: an
 * earlier send of this connected socket has failed, go on receiving.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_recv_datagrams(netkit_socket s, netkit_datagram *datagrams,
                                            size_t count, void *memory, size_t size);

/* Send datagrams now, 32 at most in one call. Returns how many were sent, at least
 * 1 (or 0 for count 0), or why the first one was not: NETKIT_E_AGAIN,
 * NETKIT_E_TOOBIG, NETKIT_E_ACCESS, NETKIT_E_REFUSED (an earlier one was: send it
 * again), ... Where the system cannot cut segments (NETKIT_UDP_CAP_GSO), segment_size
 * is NETKIT_E_NOSYS: only a udp, which has a queue, can do that for it.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_send_datagrams(netkit_socket s, const netkit_datagram *datagrams,
                                            size_t count);

/* netkit_udp_join, _leave and _caps for a plain socket. Thread: the socket's. */
NETKIT_API int netkit_socket_join(netkit_socket s, const netkit_addr *group,
                                  uint32_t interface_index, const netkit_addr *source);
NETKIT_API int netkit_socket_leave(netkit_socket s, const netkit_addr *group,
                                   uint32_t interface_index, const netkit_addr *source);
NETKIT_API int netkit_socket_datagram_caps(netkit_socket s, uint32_t *caps);
