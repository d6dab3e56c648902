/* ---- connections ----------------------------------------------------------
 *
 * A conn is a stream in a loop: accepted, dialled or adopted. Its handle stays
 * valid until on_close has returned. NETKIT_E_STALE, _THREAD, _INVALID and _CLOSED
 * of the calls whose thread is the loop's: see the head of "loop". */

/* What was being done when a conn ended. */
typedef enum netkit_op {
    NETKIT_OP_NONE = 0,
    NETKIT_OP_OPEN,    /* making the socket */
    NETKIT_OP_CONNECT, /* connecting */
    NETKIT_OP_ACCEPT,  /* accepting, by a listener */
    NETKIT_OP_READ,    /* receiving */
    NETKIT_OP_WRITE,   /* sending */
    NETKIT_OP_CLOSE,   /* an end that was asked for: close, abort, destroy */
    NETKIT_OP_TIMER    /* a timeout, deadline or minimum rate */
} netkit_op;

/* How far a conn had come. */
typedef enum netkit_phase {
    NETKIT_PHASE_CONNECTING = 1, /* no on_open yet */
    NETKIT_PHASE_OPEN = 2,
    NETKIT_PHASE_CLOSING = 3 /* netkit_conn_close was called */
} netkit_phase;

/* Why a conn ended: "op failed with code (os_code) in phase". */
typedef struct netkit_close_info {
    int code;     /* NETKIT_OK: a graceful close that reached its end on both sides */
    int os_code;  /* the system's code behind it, or 0 */
    netkit_op op; /* what ended it */
    netkit_phase phase;
    const char *text; /* a sentence in static memory */
    size_t unsent;    /* bytes that send took and that never left this machine's process */
} netkit_close_info;

/* The whole reason as one sentence with its numbers. Returns its length as
 * snprintf does, or NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_close_describe(const netkit_close_info *info, char *text, size_t size);

/* One table of callbacks for each behaviour; conns share it. NULL = default. */
typedef struct netkit_handler {
    /* Ready for application data. */
    void (*on_open)(netkit_loop *loop, netkit_conn conn, void *user);

    /* Bytes have come; `data` lives until the return. Returns how many were
     * used: the rest is kept and comes again with more behind it.
     * NULL: bytes are discarded. */
    size_t (*on_data)(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user);

    /* After a send that gave NETKIT_E_FULL, or netkit_conn_want_drain: as much fits
     * now. */
    void (*on_drain)(netkit_loop *loop, netkit_conn conn, void *user);

    /* The peer will send no more; sending still works. Closing is up to you.
     * NULL: the conn is closed gracefully. */
    void (*on_eof)(netkit_loop *loop, netkit_conn conn, void *user);

    /* The end, exactly once, last. The handle dies when it returns. */
    void (*on_close)(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user);
} netkit_handler;

/* Limits and switches of a conn; all zero = defaults. */
typedef struct netkit_conn_options {
    uint32_t ext_size;          /* bytes of netkit_conn_ext, 0 = none */
    uint32_t recv_max;          /* bytes on_data may leave unused, 0 = 65,536 or send_max if that
                                   is less; more than send_max with duplex only */
    uint32_t send_max;          /* bytes the queue takes, 0 = 262,144 */
    uint32_t chunks_max;        /* borrowed chunks the queue takes, 0 = 1,024 */
    uint32_t drain_max;         /* input discarded by a graceful close, 0 = 1 MiB */
    uint32_t close_deadline_ms; /* for a whole graceful close, 0 = the loop's, 5,000 */
    uint32_t idle_timeout_ms;   /* no byte either way for so long ends it, 0 = the loop's, never */
    uint32_t deadline_ms;       /* end it so long after its start, 0 = never */
    uint32_t rate_min;          /* bytes to be received in each rate_period_ms, 0 = any */
    uint32_t rate_period_ms;    /* 0 = 5,000 */
    uint32_t user_timeout_ms;   /* sent data unacknowledged for so long ends it (Linux), 0 = off */
    uint32_t keepalive_s;       /* probe after so many silent seconds, 0 = off */
    uint32_t recv_buffer;       /* NETKIT_OPT_RECV_BUFFER, 0 = the system's; in time for TCP to
                                   tell the peer. For accepted and dialled ones */
    uint32_t send_buffer;       /* NETKIT_OPT_SEND_BUFFER, 0 = the system's */
    uint32_t fds_max;           /* unix: descriptors that may have come and wait for
                                   netkit_conn_take_fd, 0 = what comes is closed */
    bool duplex;                /* on_data comes even while the queue could not take an answer */
    bool no_nodelay;            /* leave Nagle's algorithm on */
} netkit_conn_options;

/* ---- listeners ------------------------------------------------------------ */

typedef struct netkit_listen_desc {
    const char *address;      /* as netkit_addr_parse; used during the call */
    const netkit_addr *addr;  /* or an address; used during the call */
    netkit_socket socket;     /* or a listening socket to adopt; owned from success on */
    int backlog;              /* 0 = the most the system takes */
    uint32_t conns_max;       /* conns alive at a time, closing ones too; 0 = no limit but the
                                 loop's. At the limit connections wait in the backlog */
    bool reuse_port;          /* several listeners share the port, the kernel balances */
    bool exclusive;           /* the port must be all free: no connection in TIME_WAIT either */
    bool v6only;              /* an IPv6 wildcard takes no IPv4 */
    bool unix_replace;        /* unix: take the place of a socket's file that is left over, that is,
                                 nobody has it bound; never of anything else */
    bool unix_keep;           /* unix: leave the file when the listener closes; else it is removed,
                                 if it is the one made here, by the process that made it */
    uint32_t unix_mode;       /* unix: permissions of the file (0660, ...), 0 = as umask leaves */
    netkit_handler handler;   /* of the conns */
    netkit_conn_options conn; /* of the conns */
    void *user;               /* for the callbacks below and, at first, of each conn */

    /* A connection waits, from `peer`. Return 0 to take it; anything else
     * resets it, and no conn comes to be. NULL: take all. */
    int (*on_accept)(netkit_loop *loop, netkit_listener listener, const netkit_addr *peer,
                     void *user);

    /* Accepting failed; it goes on by itself (after a pause when the machine
     * is short of descriptors or memory: then one report for the burst). */
    void (*on_error)(netkit_loop *loop, netkit_listener listener, int code, int os_code,
                     void *user);

    /* The listener is closed; last. */
    void (*on_close)(netkit_loop *loop, netkit_listener listener, void *user);
} netkit_listen_desc;

/* Listen and accept. `out` may be NULL. When it fails nothing was created.
 * Returns NETKIT_OK, NETKIT_E_INVALID (also for a value no field can have),
 * NETKIT_E_ADDRINUSE, NETKIT_E_ACCESS, NETKIT_E_ADDRNOTAVAIL, NETKIT_E_NOSYS,
 * NETKIT_E_FULL, NETKIT_E_NOMEM, NETKIT_E_MFILE. Thread: the loop's. */
NETKIT_API int netkit_listen(netkit_loop *loop, const netkit_listen_desc *desc,
                             netkit_listener *out);

/* Stop listening; accepted conns live on. on_close comes from the loop.
 * A second close is NETKIT_OK. Thread: the loop's. */
NETKIT_API int netkit_listener_close(netkit_loop *loop, netkit_listener listener);

/* The address it is bound to, to *out: the real port after port 0.
 * NETKIT_E_CLOSED when it is closing. Thread: the loop's. */
NETKIT_API int netkit_listener_local(netkit_loop *loop, netkit_listener listener, netkit_addr *out);

/* Options of its socket, as netkit_socket_set, _get, _set_text and _get_text. Most
 * pass to the conns it accepts from then on. NETKIT_E_CLOSED when it is closing.
 * Thread: the loop's. */
NETKIT_API int netkit_listener_set_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int value);
NETKIT_API int netkit_listener_get_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int *value);
NETKIT_API int netkit_listener_set_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, const char *value);
NETKIT_API int netkit_listener_get_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, char *text, size_t size);

/* Whether it keeps netkit_loop_run going (at first it does). Thread: the loop's. */
NETKIT_API int netkit_listener_set_referenced(netkit_loop *loop, netkit_listener listener,
                                              bool referenced);

/* ---- making conns ---------------------------------------------------------- */

typedef struct netkit_connect_desc {
    const char *address;       /* a literal, as netkit_addr_parse; used during the call */
    const netkit_addr *addr;   /* or an address; used during the call */
    const netkit_addr *source; /* bind to this first, NULL = the system chooses */
    uint32_t timeout_ms;       /* for connecting, 0 = the loop's, 30,000 */
    netkit_handler handler;
    netkit_conn_options conn;
    void *user;
} netkit_connect_desc;

/* Start connecting. Sending is legal at once and goes out after on_open. From
 * success on on_close comes exactly once, whatever happens; before on_open it
 * says why connecting failed.
 * Returns NETKIT_OK, or an error that could be told at once and then nothing is
 * called: NETKIT_E_INVALID, NETKIT_E_FULL, NETKIT_E_NOMEM, NETKIT_E_MFILE, what the
 * system says of `source`, ... What it says of the address itself may come in either
 * way: NETKIT_E_UNREACHABLE, NETKIT_E_ADDRNOTAVAIL, NETKIT_E_ACCESS, ... `out` may be
 * NULL. Thread: the loop's. */
NETKIT_API int netkit_connect(netkit_loop *loop, const netkit_connect_desc *desc, netkit_conn *out);

typedef struct netkit_adopt_desc {
    netkit_socket socket; /* a connected stream; owned from success on */
    netkit_handler handler;
    netkit_conn_options conn;
    void *user;
} netkit_adopt_desc;

/* Take a connected socket into the loop; on_open comes from the loop. `out` may be
 * NULL. On failure the socket stays the caller's.
 * Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_FULL, NETKIT_E_NOMEM, ...
 * Thread: the loop's. */
NETKIT_API int netkit_adopt(netkit_loop *loop, const netkit_adopt_desc *desc, netkit_conn *out);

/* ---- using conns ------------------------------------------------------------
 *
 * All of these give NETKIT_E_CLOSED once the conn is closing; then only what looks,
 * close and abort are left. When it has ended, in on_close too, its socket is gone:
 * addresses, descriptor, options and credentials give NETKIT_E_CLOSED as well. */

/* Queue bytes; they are copied and go out together when the callback returns.
 * Takes all or nothing.
 * Returns NETKIT_OK; NETKIT_E_FULL: nothing was taken, on_drain comes once when
 * this size fits; NETKIT_E_TOOBIG: it can never fit; NETKIT_E_NOMEM: the conn
 * ends, as a stream must not lose its middle (the peer may have got the beginning
 * of these bytes, and sees no orderly end); NETKIT_E_CLOSED after
 * netkit_conn_shutdown. Thread: the loop's. */
NETKIT_API int netkit_conn_send(netkit_loop *loop, netkit_conn conn, const void *data, size_t len);

/* The same for the spans of an array, as one. The array is used during the call.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_sendv(netkit_loop *loop, netkit_conn conn, const netkit_span *spans,
                                 size_t count);

/* Called from the loop exactly once for memory that was lent: NETKIT_OK when the
 * system has taken it all, else why not. In order, before on_close. */
typedef void (*netkit_release_fn)(netkit_loop *loop, int status, void *user);

/* Queue bytes without copying: `data` is lent until release is called. When the
 * call fails release is not called and the memory is the caller's. Borrowed
 * bytes do not count against send_max, but their number against chunks_max
 * (then NETKIT_E_FULL and on_drain). NETKIT_E_NOMEM: not lent; the conn may end.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_send_borrowed(netkit_loop *loop, netkit_conn conn, const void *data,
                                         size_t len, netkit_release_fn release, void *user);

/* Queue part of a plain file (a native descriptor, duplicated: it may be closed
 * after the call): `len` bytes from `offset`, NETKIT_FILE_END = up to its end. The
 * system moves them by itself where it can; reading from a slow disk holds the loop.
 * Counts against chunks_max and not send_max; `release` (may be NULL) as for borrowed
 * memory. NETKIT_E_TRUNCATED: the file has fewer bytes; when it is cut later, the conn
 * ends with that code. NETKIT_E_INVALID: not a plain file. Thread: the loop's. */
NETKIT_API int netkit_conn_send_file(netkit_loop *loop, netkit_conn conn, uintptr_t file,
                                     uint64_t offset, uint64_t len, netkit_release_fn release,
                                     void *user);

/* Write a message where it will be sent from, without a copy: reserve gives a place
 * for at least `len` bytes in one piece (*room says how many fit; NETKIT_RESERVE_MAX
 * can be had), commit queues the first `len` that were written. The place lives until
 * commit, any other call for a conn, the callback's return, or a turn. reserve:
 * NETKIT_E_FULL and NETKIT_E_TOOBIG as send, NETKIT_E_NOMEM (nothing is lost). commit:
 * NETKIT_E_INVALID for more than was reserved, or when the place is gone;
 * NETKIT_E_NOMEM: the conn ends.
 * Thread: the loop's. */
enum {
    NETKIT_RESERVE_MAX = 16000
};
NETKIT_API int netkit_conn_reserve(netkit_loop *loop, netkit_conn conn, size_t len, void **out,
                                   size_t *room);
NETKIT_API int netkit_conn_commit(netkit_loop *loop, netkit_conn conn, size_t len);

/* More is to come: hold back what is queued over callbacks and turns until 64 KiB are
 * together (or a small send_max is short of room), or netkit_conn_flush, shutdown,
 * close, or the cork is taken out. NETKIT_E_NOMEM: the conn ends. Thread: the loop's. */
NETKIT_API int netkit_conn_cork(netkit_loop *loop, netkit_conn conn, bool corked);

/* Queue bytes together with open descriptors, for the other end of a unix conn:
 * they come no later than the first of the bytes, of which there must be one. The
 * descriptors are duplicated: close your own whenever you like. Takes all or
 * nothing; counts as a borrowed chunk, and its bytes do not count.
 * Returns what netkit_conn_send does, and NETKIT_E_MFILE: no descriptor left for
 * the duplicates; NETKIT_E_NOSYS: not a unix conn; NETKIT_E_TOOBIG: more than
 * NETKIT_FDS_MAX of them, or more than send_max bytes. Thread: the loop's. */
NETKIT_API int netkit_conn_send_fds(netkit_loop *loop, netkit_conn conn, const void *data,
                                    size_t len, const uintptr_t *fds, size_t count);

/* Take the oldest descriptor that has come and was not taken: it is yours to close
 * from then on, and close-on-exec. Descriptors are a queue of their own, beside the
 * bytes: when on_data is shown the first byte of a message, all that were sent with
 * it are there, and perhaps those of later ones; so have messages tell how many
 * belong to them. A peer that makes more than fds_max wait ends the conn
 * (NETKIT_E_TOOBIG), and so does losing some because the process had no room for
 * them (NETKIT_E_TRUNCATED). What nobody took is closed with the conn.
 * Returns NETKIT_OK; NETKIT_E_AGAIN: none waits, *out is UINTPTR_MAX.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_take_fd(netkit_loop *loop, netkit_conn conn, uintptr_t *out);

/* Who is at the other end of a unix conn, as netkit_socket_credentials.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_credentials(netkit_loop *loop, netkit_conn conn,
                                       netkit_credentials *out);

/* Have on_drain called once, in a later turn, when `room` bytes fit into the queue:
 * for those who send a lot piece by piece and let others have their turn between.
 * NETKIT_E_TOOBIG: so much never fits. Thread: the loop's. */
NETKIT_API int netkit_conn_want_drain(netkit_loop *loop, netkit_conn conn, size_t room);

/* Send what is queued now instead of when the callback returns. Calls nothing
 * back. Thread: the loop's. */
NETKIT_API int netkit_conn_flush(netkit_loop *loop, netkit_conn conn);

/* Stop and restart on_data; pausing in the callback is legal. End of file and
 * reset are held back behind data that is not delivered. Resuming offers what
 * was left unused again (one that was not paused too). Thread: the loop's. */
NETKIT_API int netkit_conn_pause(netkit_loop *loop, netkit_conn conn);
NETKIT_API int netkit_conn_resume(netkit_loop *loop, netkit_conn conn);

/* End our direction after what is queued; receiving goes on. Thread: the loop's. */
NETKIT_API int netkit_conn_shutdown(netkit_loop *loop, netkit_conn conn);

/* Close gracefully: send what is queued, end our direction, discard input until
 * the peer ends its own, then on_close. Bounded by close_deadline_ms and
 * drain_max. A second close is NETKIT_OK. Thread: the loop's. */
NETKIT_API int netkit_conn_close(netkit_loop *loop, netkit_conn conn);

/* End at once with a reset; what is queued is dropped, releases and on_close
 * follow from the loop. Thread: the loop's. */
NETKIT_API int netkit_conn_abort(netkit_loop *loop, netkit_conn conn);

/* Bytes queued and not yet taken by the system; bytes received and not used. Both to
 * *out. Thread: the loop's. */
NETKIT_API int netkit_conn_queued(netkit_loop *loop, netkit_conn conn, size_t *out);
NETKIT_API int netkit_conn_unread(netkit_loop *loop, netkit_conn conn, size_t *out);

/* Returns NETKIT_PHASE_* of a conn, or an error. Thread: the loop's. */
NETKIT_API int netkit_conn_phase(netkit_loop *loop, netkit_conn conn);

/* Addresses of both ends, written to the caller's *out. Before on_open the system may
 * not have chosen ours: then its port is 0. Thread: the loop's. */
NETKIT_API int netkit_conn_local(netkit_loop *loop, netkit_conn conn, netkit_addr *out);
NETKIT_API int netkit_conn_remote(netkit_loop *loop, netkit_conn conn, netkit_addr *out);

/* The system's descriptor to *native: look, set options; never close it.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_native(netkit_loop *loop, netkit_conn conn, uintptr_t *native);

/* Options of its socket, as netkit_socket_set, _get, _set_text and _get_text; what
 * would make the loop wait is NETKIT_E_INVALID. Thread: the loop's. */
NETKIT_API int netkit_conn_set_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int value);
NETKIT_API int netkit_conn_get_option(netkit_loop *loop, netkit_conn conn, netkit_option option,
                                      int *value);
NETKIT_API int netkit_conn_set_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, const char *value);
NETKIT_API int netkit_conn_get_option_text(netkit_loop *loop, netkit_conn conn,
                                           netkit_option option, char *text, size_t size);

/* Get and set the pointer given to callbacks; NULL for a stale handle.
 * Thread: the loop's. */
NETKIT_API void *netkit_conn_user(netkit_loop *loop, netkit_conn conn);
NETKIT_API int netkit_conn_set_user(netkit_loop *loop, netkit_conn conn, void *user);

/* The conn's own ext_size bytes: zeroed at first, aligned to 16, in place until
 * on_close has returned; NULL for a stale handle or ext_size 0. Thread: the loop's. */
NETKIT_API void *netkit_conn_ext(netkit_loop *loop, netkit_conn conn);

/* Replace table and user (a change of protocol); the table is copied. The new one
 * is offered what the old one leaves unused. NETKIT_E_NOMEM: nothing has changed.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_set_handler(netkit_loop *loop, netkit_conn conn,
                                       const netkit_handler *handler, void *user);

/* Change a timeout; 0 = none. The deadline counts from now. NETKIT_E_INVALID for an
 * idle timeout over INT32_MAX; NETKIT_E_NOMEM. Thread: the loop's. */
NETKIT_API int netkit_conn_set_idle_timeout(netkit_loop *loop, netkit_conn conn,
                                            uint32_t timeout_ms);
NETKIT_API int netkit_conn_set_deadline(netkit_loop *loop, netkit_conn conn, uint32_t deadline_ms);

/* Whether it keeps netkit_loop_run going (at first it does). Thread: the loop's. */
NETKIT_API int netkit_conn_set_referenced(netkit_loop *loop, netkit_conn conn, bool referenced);

/* Received bytes kept beyond the callback. */
typedef struct netkit_buf {
    const void *data;
    size_t len;
    void *owner; /* netkit's */
} netkit_buf;

/* Keep the whole span that on_data was called with (only there): large spans
 * without copying. *out is for netkit_buf_release. NETKIT_E_FULL when desc.keep_max
 * bytes would be exceeded, NETKIT_E_BUSY outside on_data, NETKIT_E_NOMEM.
 * Thread: the loop's. */
NETKIT_API int netkit_conn_keep(netkit_loop *loop, netkit_conn conn, netkit_buf *out);

/* Give it back, before or after the loop is destroyed (then the allocator's
 * free is called here). *buf becomes {0}. Thread: any. */
NETKIT_API void netkit_buf_release(netkit_buf *buf);
