/* ---- plain sockets --------------------------------------------------------
 *
 * A socket of the operating system without hidden state, for blocking programs
 * and for loops of one's own. Close-on-exec always, SIGPIPE never. A socket is
 * non-blocking unless opened with NETKIT_SOCKET_BLOCKING; the calls below that
 * take a timeout wait by themselves either way.
 * "Thread: the socket's." means any thread, one at a time for each socket, but that
 * one may send while another receives. Calls that wait must not be made inside a
 * loop's callback: they would stop everything else on that loop.
 * All give NETKIT_E_INVALID for {0} (but close and reset) and for a NULL that is not
 * said to be legal, and pass on what the system says as NETKIT_E_*, of which their
 * comments list what is to be expected. Pointers are used during the call only. */

typedef struct netkit_socket {
    uintptr_t value; /* the system's descriptor plus one: {0} is no socket */
} netkit_socket;

enum {
    NETKIT_SOCK_STREAM = 0,
    NETKIT_SOCK_DGRAM = 1
};

enum {
    NETKIT_SOCKET_BLOCKING = 1,   /* open: leave the socket blocking */
    NETKIT_SOCKET_REUSE_PORT = 2, /* bind: several sockets share the port; NOSYS where it cannot
                                     balance */
    NETKIT_SOCKET_V6ONLY = 4,     /* bind: an IPv6 wildcard takes no IPv4 */
    NETKIT_SOCKET_NO_REUSE = 8,   /* bind: not even over connections in TIME_WAIT */
    NETKIT_SOCKET_REPLACE = 16    /* bind, unix: in place of a socket's file that nobody has bound
                                     any more; what is alive or no socket stays */
};

enum {
    NETKIT_SPANS_MAX = 64 /* pieces in one gathered send or scattered receive */
};

enum {
    NETKIT_SHUT_READ = 1,
    NETKIT_SHUT_WRITE = 2,
    NETKIT_SHUT_BOTH = 3
};

/* Options of a socket: integers, booleans as 0 and 1, one of them a text. What
 * the system has not, or not for this kind of socket, is NETKIT_E_NOSYS. */
typedef enum netkit_option {
    NETKIT_OPT_NODELAY = 1,      /* TCP: send small segments at once */
    NETKIT_OPT_KEEPALIVE,        /* probe a silent peer */
    NETKIT_OPT_KEEPALIVE_IDLE,   /* seconds of silence before the first probe */
    NETKIT_OPT_KEEPALIVE_PERIOD, /* seconds between probes */
    NETKIT_OPT_KEEPALIVE_COUNT,  /* probes lost before the connection is */
    NETKIT_OPT_USER_TIMEOUT,     /* ms that sent data may stay unacknowledged (Linux) */
    NETKIT_OPT_REUSE_ADDR,       /* POSIX: bind over TIME_WAIT. Windows: of datagrams alone, which
                                    then share a port */
    NETKIT_OPT_EXCLUSIVE_ADDR,   /* Windows: nobody else binds the port */
    NETKIT_OPT_REUSE_PORT,       /* several sockets share a port */
    NETKIT_OPT_V6ONLY,           /* an IPv6 socket takes no IPv4 */
    NETKIT_OPT_BLOCKING,         /* calls wait; on Windows it can be set, not asked */
    NETKIT_OPT_CLOSE_ON_EXEC,    /* not inherited by a program that is started */
    NETKIT_OPT_ERROR,            /* read only: pending error as a netkit code, cleared by reading */
    NETKIT_OPT_RECV_BUFFER,      /* bytes the system holds until they are received: it has limits,
                                    and Linux doubles the number. Before listening or connecting */
    NETKIT_OPT_SEND_BUFFER,      /* the same for bytes to be sent */
    NETKIT_OPT_RECV_TIMEOUT,     /* ms until a blocking call that receives or accepts gives up with
                                    NETKIT_E_AGAIN, 0 = never; rounded up to ticks */
    NETKIT_OPT_SEND_TIMEOUT,     /* the same for one that sends */
    NETKIT_OPT_LINGER,           /* seconds that close waits until all is sent; 0 = it resets;
                                    -1 = it does not wait, and sending goes on (the default) */
    NETKIT_OPT_FAST_OPEN,        /* TCP, listening: how many may wait whose first segment brought
                                    data, 0 = none */
    NETKIT_OPT_FAST_OPEN_CONNECT, /* TCP, before connecting: the first data goes with the first
                                     segment; it is sending that then says what is wrong (Linux) */
    NETKIT_OPT_CREDENTIALS,       /* unix: messages tell who sent them (Linux) */
    NETKIT_OPT_CONGESTION,        /* text. TCP: the congestion control, "cubic", "bbr" (Linux) */

    /* Of IP, most of them for datagrams. On an IPv6 socket that takes IPv4 they hold for both. */
    NETKIT_OPT_BROADCAST = 100,     /* may send to broadcast addresses */
    NETKIT_OPT_TTL,                 /* time to live, hop limit: 1 to 255 */
    NETKIT_OPT_TOS,                 /* type of service, traffic class: 0 to 255, ECN in the low
                                       two bits */
    NETKIT_OPT_DONT_FRAGMENT,       /* 1: never cut, too large is TOOBIG; 2: nor mind the known
                                       path MTU; 0: the system's way */
    NETKIT_OPT_PATH_MTU,            /* read only: to the connected peer */
    NETKIT_OPT_MULTICAST_TTL,       /* how far multicasts go: 0 this machine, 1 (the default) this
                                       network, ... 255 */
    NETKIT_OPT_MULTICAST_LOOP,      /* multicasts we send come to this machine, too (at first on) */
    NETKIT_OPT_MULTICAST_INTERFACE, /* index of the interface they leave by, 0 = any; of
                                       IPv4 it cannot be read */
    NETKIT_OPT_GRO,                 /* received datagrams are merged: segment_size */
    NETKIT_OPT_TELL_LOCAL,          /* what netkit_datagram tells of those received: local, ... */
    NETKIT_OPT_TELL_TOS,
    NETKIT_OPT_TELL_TTL,
    NETKIT_OPT_TELL_TIME,
    NETKIT_OPT_TELL_ERRORS
} netkit_option;

/* Open a socket. `family` is NETKIT_AF_*, `type` NETKIT_SOCK_*, `flags` 0 or
 * NETKIT_SOCKET_BLOCKING. *out is {0} on failure.
 * Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_NOSYS, NETKIT_E_MFILE,
 * NETKIT_E_NOMEM, NETKIT_E_ACCESS. Thread: any. */
NETKIT_API int netkit_socket_open(netkit_socket *out, int family, int type, int flags);

/* Two connected sockets (unix where there are, IP over loopback elsewhere). `type`,
 * `flags` and errors as for open; both are {0} on failure. Thread: any. */
NETKIT_API int netkit_socket_pair(netkit_socket out[2], int type, int flags);

/* Wrap a descriptor of the system, or give it out. Ownership does not change:
 * whoever closes it last loses. UINTPTR_MAX and {0} are each other.
 * Thread: any. */
NETKIT_API netkit_socket netkit_socket_from_native(uintptr_t native);
NETKIT_API uintptr_t netkit_socket_native(netkit_socket s);

/* Bind to an address; `flags` are NETKIT_SOCKET_REUSE_PORT, _V6ONLY, _NO_REUSE,
 * _REPLACE. A unix address without a path takes a name of the system's choice
 * (Linux).
 * SO_REUSEADDR is set for streams (exclusive use on Windows): restarting a
 * server works, stealing its port does not. Port 0 takes a free one: read it
 * back with netkit_socket_local.
 * Returns NETKIT_OK, NETKIT_E_ADDRINUSE, NETKIT_E_ADDRNOTAVAIL, NETKIT_E_ACCESS,
 * NETKIT_E_NOSYS (also for another family), NETKIT_E_INVALID (bound already), ...
 * Thread: the socket's. */
NETKIT_API int netkit_socket_bind(netkit_socket s, const netkit_addr *addr, int flags);

/* Listen; backlog 0 = the most the system takes. NETKIT_E_ADDRINUSE; NETKIT_E_NOSYS
 * for datagrams. Thread: the socket's. */
NETKIT_API int netkit_socket_listen(netkit_socket s, int backlog);

/* Open, bind and listen in one call: a stream socket for `addr` (an address
 * made from ":port" gives one IPv6 socket that takes IPv4 too, or an IPv4 one
 * where there is no IPv6). `flags` as for bind, and NETKIT_SOCKET_BLOCKING. When
 * it fails no file of a unix path is left either, and *out is {0}.
 * Thread: any. */
NETKIT_API int netkit_socket_listen_on(netkit_socket *out, const netkit_addr *addr, int flags,
                                       int backlog);

/* Take one waiting connection; *peer (may be NULL) is its address. The new
 * socket is non-blocking and close-on-exec, and the caller's to close.
 * Returns NETKIT_OK; NETKIT_E_AGAIN: none waits; NETKIT_E_ABORTED: that one is
 * gone, try the next; NETKIT_E_MFILE or NETKIT_E_NOMEM: back off; others are
 * final. Thread: the socket's. */
NETKIT_API int netkit_socket_accept(netkit_socket s, netkit_socket *out, netkit_addr *peer);

/* Connect within timeout_ms (negative: no limit; 0: start, and NETKIT_E_AGAIN
 * means under way: wait until it can be written, then ask
 * netkit_socket_connect_result, which gives the same codes). After a failure the
 * socket is only good for closing. Returns NETKIT_OK, NETKIT_E_REFUSED,
 * NETKIT_E_TIMEOUT, NETKIT_E_UNREACHABLE, NETKIT_E_FULL (the backlog of a unix listener, which no
 * waiting shows: try again later), ... While a blocking socket connects with a
 * timeout it is non-blocking, for others who hold it too; on Windows it stays so
 * after a timeout of 0, and is not touched by another. Thread: the socket's. */
NETKIT_API int netkit_socket_connect(netkit_socket s, const netkit_addr *addr, int timeout_ms);
NETKIT_API int netkit_socket_connect_result(netkit_socket s);

/* Send or receive what can be moved now. Return the count (1 or more, 0 only
 * for len 0 or an empty datagram), NETKIT_E_AGAIN, NETKIT_E_EOF (recv of a
 * stream), NETKIT_E_RESET (also for sending after the end of our direction), ...
 * Counts are at most INT_MAX. Thread: the socket's. */
NETKIT_API int netkit_socket_send(netkit_socket s, const void *data, size_t len);
NETKIT_API int netkit_socket_recv(netkit_socket s, void *data, size_t len);

/* Gathered send, scattered receive: at most NETKIT_SPANS_MAX pieces,
 * NETKIT_E_INVALID for more. Thread: the socket's. */
NETKIT_API int netkit_socket_sendv(netkit_socket s, const netkit_span *spans, size_t count);
NETKIT_API int netkit_socket_recvv(netkit_socket s, const netkit_room *rooms, size_t count);

/* Move all of `len` bytes within timeout_ms (negative: no limit). *done (may be
 * NULL) is what was moved, on failure too.
 * Returns NETKIT_OK, NETKIT_E_TIMEOUT, NETKIT_E_EOF, NETKIT_E_RESET, ...
 * Thread: the socket's. */
NETKIT_API int netkit_socket_send_all(netkit_socket s, const void *data, size_t len, int timeout_ms,
                                      size_t *done);
NETKIT_API int netkit_socket_recv_all(netkit_socket s, void *data, size_t len, int timeout_ms,
                                      size_t *done);

/* Send part of a plain file (a native descriptor; a HANDLE on Windows) without
 * copying it through the program, where the system can: `len` bytes from `offset`,
 * NETKIT_FILE_END = up to its end. The file's own position is neither used nor
 * changed. send_file sends what can be sent now and returns the count, as
 * netkit_socket_send; the other all of it within timeout_ms, *done (may be NULL)
 * being what was sent, on failure too.
 * NETKIT_E_TRUNCATED: the file has fewer bytes. Thread: the socket's. */
#define NETKIT_FILE_END UINT64_MAX
NETKIT_API int netkit_socket_send_file(netkit_socket s, uintptr_t file, uint64_t offset,
                                       uint64_t len);
NETKIT_API int netkit_socket_send_file_all(netkit_socket s, uintptr_t file, uint64_t offset,
                                           uint64_t len, int timeout_ms, uint64_t *done);

/* netkit_socket_send_all and _recv_all for any number of pieces. Streams only: a
 * datagram of so many parts is netkit_socket_sendv's. Thread: the socket's. */
NETKIT_API int netkit_socket_sendv_all(netkit_socket s, const netkit_span *spans, size_t count,
                                       int timeout_ms, size_t *done);
NETKIT_API int netkit_socket_recvv_all(netkit_socket s, const netkit_room *rooms, size_t count,
                                       int timeout_ms, size_t *done);

/* Wait until the socket can be read and/or written (NETKIT_POLL_READ,
 * NETKIT_POLL_WRITE) or timeout_ms is over (negative: no limit; 0: only look).
 * Returns the NETKIT_POLL_* that hold, or NETKIT_E_TIMEOUT. Thread: the socket's. */
NETKIT_API int netkit_socket_wait(netkit_socket s, int events, int timeout_ms);

/* End one direction or both (NETKIT_SHUT_*). NETKIT_E_NOTCONN. Thread: the socket's. */
NETKIT_API int netkit_socket_shutdown(netkit_socket s, int how);

/* Close. *s becomes {0}; closing {0} is NETKIT_OK. Never repeated on EINTR: the
 * descriptor is gone even then (close(2)). Thread: the socket's. */
NETKIT_API int netkit_socket_close(netkit_socket *s);

/* Close with a reset instead of an orderly end (SO_LINGER 0). Otherwise as close.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_reset(netkit_socket *s);

/* Addresses of both ends, written to the caller's *out, which is zeroed on failure.
 * NETKIT_E_NOTCONN: there is no other end. Thread: the socket's. */
NETKIT_API int netkit_socket_local(netkit_socket s, netkit_addr *out);
NETKIT_API int netkit_socket_remote(netkit_socket s, netkit_addr *out);

/* Set and get an option that is a number. NETKIT_E_NOSYS where the system has
 * none such, NETKIT_E_INVALID for a value out of its range; *value is 0 on failure.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_set(netkit_socket s, netkit_option option, int value);
NETKIT_API int netkit_socket_get(netkit_socket s, netkit_option option, int *value);

/* The same for one that is a text (NETKIT_OPT_CONGESTION). Setting gives
 * NETKIT_E_NOTFOUND for a name that the system does not know, NETKIT_E_ACCESS for
 * one that is not for everybody. Getting writes the text with its NUL and returns
 * its length, or NETKIT_E_TOOBIG (text is then ""). Thread: the socket's. */
NETKIT_API int netkit_socket_set_text(netkit_socket s, netkit_option option, const char *value);
NETKIT_API int netkit_socket_get_text(netkit_socket s, netkit_option option, char *text,
                                      size_t size);

/* The code of the operating system behind the last failure of a socket call on
 * this thread (errno, WSAGetLastError): ask at once, any other call may change
 * it. Thread: any; each has its own. */
NETKIT_API int netkit_socket_os_code(void);
