/* Drivers: how bytes move. Above this table nothing knows, and nothing touches the world.
 *
 * The driver tells which sources are ready; the loop then asks for what there is piece by piece,
 * as far as budgets, pauses and full queues let it. So a driver on completions parks what has come
 * and gives it out in order, a driver on readiness asks the system at that moment. */

typedef struct nki_listen_how {
    const netkit_addr *addr;
    int backlog;
    int flags;                          /* NETKIT_SOCKET_* */
    uint32_t mode;                      /* of a unix path's file, 0 = as umask leaves it */
    const netkit_conn_options *options; /* of the conns to be: buffers */
} nki_listen_how;

typedef struct nki_udp_how {
    const netkit_addr *addr; /* to bind to, or NULL */
    const netkit_addr *peer; /* to connect to, or NULL */
    uintptr_t adopted;       /* instead, or UINTPTR_MAX */
    int flags;               /* NETKIT_SOCKET_* */
    bool is_shared;
    uint32_t recv_buffer; /* 0 = the system's */
    uint32_t send_buffer;
} nki_udp_how;

typedef struct nki_driver {
    /* The driver itself. open takes or refuses desc.backend. */
    int (*open)(netkit_loop *loop);
    void (*close)(netkit_loop *loop);
    uint64_t (*now)(netkit_loop *loop);
    int (*random)(netkit_loop *loop, void *out, size_t size);
    /* Wait for events; next gives one source after the other, its ready bits set, or NULL at the
     * end. Between them the loop serves what it was given, so an event of a source that has died
     * meanwhile is dropped. wait returns how many events there are, or an error. */
    int (*wait)(netkit_loop *loop, uint64_t timeout_ns);
    nki_source *(*next)(netkit_loop *loop);
    /* From any thread and signal handlers. Coalesced: no other comes before its turn has begun. */
    int (*wake)(netkit_loop *loop, bool is_coalesced);
    int (*native)(netkit_loop *loop, uintptr_t *out);
    /* What was begun goes to the system now: nobody is going to wait soon. NULL = it went. */
    void (*commit)(netkit_loop *loop);
    /* Another thread, the caller, takes the loop over. NULL = that changes nothing. */
    int (*rebind)(netkit_loop *loop);

    /* Descriptors. shut stops events, closes (with a reset or not) and calls nki_gone() when no
     * completion can come any more: at once, or later. discard closes one never attached. */
    int (*attach)(netkit_loop *loop, nki_source *source);
    void (*shut)(netkit_loop *loop, nki_source *source, bool reset);
    void (*discard)(netkit_loop *loop, uintptr_t socket, bool reset);
    /* The loop's wishes have changed: NETKIT_POLL_READ, _WRITE. NULL = not interested. */
    void (*arm)(netkit_loop *loop, nki_source *source, uint32_t wanted);
    int (*watch)(netkit_loop *loop, nki_source *source, uint32_t events, bool is_new);
    void (*unwatch)(netkit_loop *loop, nki_source *source);

    /* Streams. */
    int (*listen)(netkit_loop *loop, const nki_listen_how *how, uintptr_t *out,
                  netkit_unix_file *file); /* made with it, or none */
    int (*accept)(netkit_loop *loop, nki_listener *l, uintptr_t *out, netkit_addr *peer);
    /* Whether a socket is a connected stream, made non-blocking; and of TCP. */
    int (*adopt)(netkit_loop *loop, uintptr_t socket, bool *is_tcp);
    int (*connect)(netkit_loop *loop, nki_conn *c, const netkit_addr *to,
                   const netkit_addr *source);        /* NETKIT_E_AGAIN: under way */
    int (*connected)(netkit_loop *loop, nki_conn *c); /* how it ended */
    /* Up to `max` bytes: count and loop->span.data, valid until read_done; NETKIT_E_AGAIN (then
     * READ is no longer ready), NETKIT_E_EOF, or an error. */
    int (*read)(netkit_loop *loop, nki_conn *c, size_t max);
    void (*read_done)(netkit_loop *loop, nki_conn *c); /* NULL = not interested */
    /* The span that is out is to be kept: its block, if it has one of at most `room` bytes for
     * itself, goes to the user for good; or *block stays NULL, and it is copied. */
    int (*keep)(netkit_loop *loop, uint64_t room, nki_block **block);
    /* Move the queue by nki_out_sent(); NETKIT_OK: as far as it went; or an error. */
    int (*flush)(netkit_loop *loop, nki_conn *c);
    /* Bytes straight from memory that is only lent for the call: count (0: this driver does not
     * do that now), NETKIT_E_AGAIN: the system takes none, or an error. */
    int (*send)(netkit_loop *loop, nki_conn *c, const void *data, size_t len);
    int (*half_close)(netkit_loop *loop, nki_conn *c);
    /* Files to be sent: an own descriptor for `len` bytes (NETKIT_FILE_END: all there are) from
     * `offset`, and its end. */
    int (*file_open)(uintptr_t file, uint64_t offset, uint64_t *len, uintptr_t *out);
    void (*file_close)(uintptr_t file);

    /* Datagrams: the pair, and what it needs. open tells NETKIT_UDP_CAP_*. recv fills
     * loop->dgrams->in: a count of at most u->more->room.count, NETKIT_E_AGAIN, or an error (READ
     * is no longer ready when all has been taken); send takes a count of the messages, or gives
     * NETKIT_E_AGAIN: then `arm` with WRITE and ready say when to go on; NETKIT_E_NOMEM: nobody
     * will say. failed gives the next report of one that did not arrive, or NETKIT_E_AGAIN. */
    int (*udp_open)(netkit_loop *loop, const nki_udp_how *how, uintptr_t *out, uint32_t *caps);
    int (*udp_recv)(netkit_loop *loop, nki_udp *u);
    int (*udp_send)(netkit_loop *loop, nki_udp *u, const nki_dgram_out *out, unsigned count);
    int (*udp_failed)(netkit_loop *loop, nki_udp *u, netkit_datagram *out);
    int (*udp_join)(netkit_loop *loop, uintptr_t socket, bool is_join, const netkit_addr *group,
                    uint32_t interface_index, const netkit_addr *source);

    int (*local)(netkit_loop *loop, uintptr_t socket, netkit_addr *out);
    int (*remote)(netkit_loop *loop, uintptr_t socket, netkit_addr *out);
    int (*set_option)(netkit_loop *loop, uintptr_t socket, netkit_option option, int value);
    int (*get_option)(netkit_loop *loop, uintptr_t socket, netkit_option option, int *value);
    int (*os_code)(void); /* behind the error just returned */

    /* Unix sockets. read_fds is read with room for NETKIT_FDS_MAX descriptors; NETKIT_E_TRUNCATED:
     * some that came were lost. Queued ones go out with the chunk that nki_fds_of() knows. */
    int (*read_fds)(netkit_loop *loop, nki_conn *c, size_t max, uintptr_t *fds, size_t *count);
    int (*dup)(netkit_loop *loop, uintptr_t native, uintptr_t *out);
    int (*credentials)(netkit_loop *loop, uintptr_t socket, netkit_credentials *out);
    int (*unlink)(netkit_loop *loop, const netkit_unix_file *file);
    uint64_t (*process)(netkit_loop *loop); /* the number of this one */

    int (*set_text)(netkit_loop *loop, uintptr_t socket, netkit_option option, const char *value);
    int (*get_text)(netkit_loop *loop, uintptr_t socket, netkit_option option, char *text,
                    size_t size);

    /* How a stream fares whose peer has ended: NETKIT_OK, NETKIT_E_NOTCONN: it is no more, or the
     * error that came behind the end. */
    int (*failed)(netkit_loop *loop, nki_conn *c);
} nki_driver;
