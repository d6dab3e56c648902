/* What the rooms above may ask of the operating system: one set of functions, implemented by
 * *_posix.c and *_windows.c side by side. Each returns 0 or a count, or a negative NETKIT_E_*,
 * and then nki_os_code() is the system's own code. A socket is a uintptr_t nobody interprets;
 * UINTPTR_MAX is none, and every out-parameter is that, or zeroed, on failure. */

/* The longest name of an interface, with its NUL. */
#if NKI_WINDOWS
#define NKI_IF_NAMESIZE 257
#else
#define NKI_IF_NAMESIZE IF_NAMESIZE
#endif

/* What must be begun before sockets exist, and ended after the last of them: each loop and poller
 * pairs the two. */
static int nki_os_begin(void);
static void nki_os_end(void);

static int nki_os_code(void);
static int nki_os_fail(int os_code); /* what the system's code is to us; kept as nki_os_code */

static uint64_t nki_os_now_ns(void);                /* monotonic */
static int nki_os_random(void *out, size_t size);   /* from the kernel */
static NKI_HOT uintptr_t nki_os_thread_id(void);    /* never 0 */
static uint32_t nki_os_interface(const char *name); /* index, or 0 */

/* A descriptor that another thread, or a signal handler, can make readable. */
typedef struct nki_wake {
    uintptr_t reader;
    uintptr_t writer; /* the same as reader for an eventfd */
} nki_wake;
static int nki_os_wake_open(nki_wake *out);
static void nki_os_wake_close(nki_wake *wake);
static int nki_os_wake_signal(const nki_wake *wake); /* a full one is as good as signalled */
static void nki_os_wake_drain(const nki_wake *wake);

/* `type` is NETKIT_SOCK_*, `flags` of bind NETKIT_SOCKET_*. Accepted sockets are non-blocking. */
static int nki_os_socket(int family, int type, bool is_blocking, uintptr_t *out);
static int nki_os_pair(int type, bool is_blocking, uintptr_t out[2]);
/* The same for sockets that no loop owns, and that outlive all of them. */
static int nki_os_plain_socket(int family, int type, bool is_blocking, uintptr_t *out);
static int nki_os_plain_pair(int type, bool is_blocking, uintptr_t out[2]);
static int nki_os_bind(uintptr_t s, const netkit_addr *addr, int flags);
static int nki_os_listen(uintptr_t s, int backlog);                       /* 0 = the most */
static int nki_os_accept(uintptr_t s, uintptr_t *out, netkit_addr *peer); /* peer may be NULL */
/* NETKIT_E_AGAIN: under way; NETKIT_E_FULL: the backlog of a unix listener is, try later. */
static int nki_os_connect(uintptr_t s, const netkit_addr *addr);
/* NETKIT_E_AGAIN while under way, NETKIT_E_NOTCONN when it never was. */
static int nki_os_connect_result(uintptr_t s);
/* Connect within a time (0: only begin), on a blocking socket, too, which stays one. */
static int nki_os_connect_within(uintptr_t s, const netkit_addr *addr, int timeout_ms);
/* Have a blocking socket not wait, where single calls cannot be told so; and as it was. */
static int nki_os_unblock(uintptr_t s, bool *was_blocking);
static int nki_os_reblock(uintptr_t s, bool was_blocking);

/* recv takes 0 bytes for the end of a stream: NETKIT_E_EOF. Only who may hold a datagram socket,
 * where it is an empty datagram, needs to ask nki_os_is_datagram then. The _now forms do not
 * wait on a blocking socket either. Sending to a peer that is gone is NETKIT_E_RESET. */
static NKI_HOT int nki_os_recv(uintptr_t s, void *data, size_t len); /* len up to INT_MAX */
static int nki_os_recv_flags(uintptr_t s, void *data, size_t len, int flags);
static int nki_os_recv_now(uintptr_t s, void *data, size_t len);
static NKI_HOT int nki_os_send(uintptr_t s, const void *data, size_t len); /* len up to INT_MAX */
static int nki_os_send_flags(uintptr_t s, const void *data, size_t len, int flags);
static int nki_os_send_now(uintptr_t s, const void *data, size_t len);
static int nki_os_sendv(uintptr_t s, const netkit_span *spans, size_t count, int flags);
static int nki_os_sendv_now(uintptr_t s, const netkit_span *spans, size_t count);
static int nki_os_recvv(uintptr_t s, const netkit_room *rooms, size_t count, int flags);
static int nki_os_recvv_now(uintptr_t s, const netkit_room *rooms, size_t count);
static bool nki_os_is_datagram(uintptr_t s);
/* Up to a part of a file, 2 MiB at most; NETKIT_E_TRUNCATED: the file has no more. */
static int nki_os_send_file(uintptr_t s, uintptr_t file, uint64_t offset, uint64_t len,
                            bool is_waiting);
static int nki_os_file_size(uintptr_t file, uint64_t *out); /* NETKIT_E_INVALID: not a plain file */
static int nki_os_dup_file(uintptr_t file, uintptr_t *out);
static void nki_os_abandon_file(uintptr_t file); /* close it, keep the code of a failure */

/* Wait for NETKIT_POLL_* until the clock says deadline_ns (NKI_NEVER: no limit). Returns those
 * that hold or NETKIT_E_TIMEOUT. */
static int nki_os_wait(uintptr_t s, uint32_t events, uint64_t deadline_ns);
static int nki_os_timed_out(void); /* NETKIT_E_TIMEOUT, with the system's code for it */

static int nki_os_shutdown(uintptr_t s, int how); /* NETKIT_SHUT_* */
static int nki_os_close(uintptr_t s);             /* whatever it returns, s is closed */
static int nki_os_reset(uintptr_t s);             /* close with RST */
static void nki_os_abandon(uintptr_t s); /* close on the way out of a failure, keep its code */
static int nki_os_local(uintptr_t s, netkit_addr *out);
static int nki_os_remote(uintptr_t s, netkit_addr *out);
static int nki_os_set_option(uintptr_t s, netkit_option option, int value);
static int nki_os_get_option(uintptr_t s, netkit_option option, int *value);
static int nki_os_set_text(uintptr_t s, netkit_option option, const char *value);
static int nki_os_get_text(uintptr_t s, netkit_option option, char *text, size_t size);

/* Messages. The forms with fds are for streams in drivers: send as the bytes they begin with,
 * receive as recv, NETKIT_E_TRUNCATED when descriptors were lost (fds: room for NETKIT_FDS_MAX). */
static int nki_os_send_msg(uintptr_t s, const netkit_message_out *out);
static int nki_os_recv_msg(uintptr_t s, netkit_message_in *in);
static void nki_os_forget_in(netkit_message_in *in); /* nothing has come */
static int nki_os_send_fds(uintptr_t s, const void *data, size_t len, const uintptr_t *fds,
                           size_t count);
static int nki_os_recv_fds(uintptr_t s, void *data, size_t len, uintptr_t *fds, size_t *count);
static int nki_os_dup(uintptr_t native, uintptr_t *out);

/* Unix sockets. bind_unix binds whatever address: *file is none for those without a file. */
static int nki_os_bind_unix(uintptr_t s, const netkit_addr *addr, int flags, uint32_t mode,
                            netkit_unix_file *file);
static int nki_os_unlink_unix(const netkit_unix_file *file);
static void nki_os_undo_unix(netkit_unix_file *file); /* keeps the code, as nki_os_abandon */
static int nki_os_credentials(uintptr_t s, netkit_credentials *out);
static uint64_t nki_os_process(void);
static int nki_os_temp_folder(char *out, size_t size); /* where anybody may make files */

/* ---- datagrams ---- */

/* Where a datagram goes, and how: what a send needs of a netkit_datagram, in 48 bytes. */
typedef struct nki_route {
    uint8_t family;       /* NETKIT_AF_*, NONE = the connected peer */
    uint8_t level;        /* IPV4 or IPV6: whose options go with it */
    uint8_t local_family; /* NONE = any address */
    uint8_t tos;
    uint8_t ttl; /* 0 = the socket's */
    uint8_t unused;
    uint16_t port;
    uint32_t scope;
    uint32_t interface_index;
    uint8_t ip[16];
    uint8_t local[16];
} nki_route;

/* One message for the system. */
typedef struct nki_dgram_out {
    const void *data;
    size_t len;
    uint32_t segment; /* cut it so, 0 = not */
    const nki_route *route;
    const netkit_addr *path; /* unix: instead of the route's address */
} nki_dgram_out;

/* Where datagrams are received: `count` parts of `size` bytes, `stride` apart. */
typedef struct nki_dgram_room {
    unsigned char *memory;
    size_t stride;
    size_t size;
    unsigned count; /* at most NKI_DGRAM_BATCH, and what the scratch was made for */
    bool may_block; /* the socket is somebody else's */
} nki_dgram_room;

enum {
    NKI_DGRAM_BATCH = 64,
    NKI_DGRAM_SEGMENTS = 64 /* the most that every kernel with GSO cuts (UDP_MAX_SEGMENTS) */
};

/* `scratch` is memory of nki_os_dgram_scratch(count) bytes, aligned as by malloc, one for each
 * direction; that for receiving zeroed at first, as `out` is. Both return a
 * count of 1 or more, NETKIT_E_AGAIN or an error; a datagram that failed leaves those behind it
 * alone. `is_ipv6`: the family of the socket. */
static size_t nki_os_dgram_scratch(unsigned count);
static int nki_os_recv_dgrams(uintptr_t s, void *scratch, netkit_datagram *out,
                              const nki_dgram_room *room);
static int nki_os_send_dgrams(uintptr_t s, bool is_ipv6, void *scratch, const nki_dgram_out *out,
                              unsigned count);
/* The next report of a datagram that failed: NETKIT_OK, NETKIT_E_AGAIN: there is none. */
static int nki_os_recv_failed(uintptr_t s, netkit_datagram *out, void *memory, size_t size);
static int nki_os_join(uintptr_t s, bool is_join, const netkit_addr *group,
                       uint32_t interface_index, const netkit_addr *source);
static uint32_t nki_os_dgram_caps(uintptr_t s);
static int nki_os_set_buffers(uintptr_t s, uint32_t recv_size, uint32_t send_size);
static int nki_os_family(uintptr_t s, int *family); /* NETKIT_AF_* */
static int nki_os_set_ip_option(uintptr_t s, netkit_option option, int value);
static int nki_os_get_ip_option(uintptr_t s, netkit_option option, int *value);
