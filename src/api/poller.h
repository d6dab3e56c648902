/* ---- poller ---------------------------------------------------------------
 *
 * Readiness of descriptors of one's own: sockets, pipes, eventfds. Usable
 * without a loop. "Thread: the poller's." means any thread, one at a time for each
 * poller. A NULL that is not said to be legal is NETKIT_E_INVALID. */

/* The first six are Linux's own numbers, so that its backends translate nothing. */
enum {
    NETKIT_POLL_READ = 1,          /* can be read, or a listener can accept */
    NETKIT_POLL_PRIORITY = 2,      /* urgent data */
    NETKIT_POLL_WRITE = 4,         /* can be written, or connect has ended */
    NETKIT_POLL_ERROR = 8,         /* reported always: an error waits */
    NETKIT_POLL_HANGUP = 16,       /* reported always: both directions are over */
    NETKIT_POLL_PEER_END = 0x2000, /* with READ: the peer will send no more */
    NETKIT_POLL_EDGE = 0x10000,    /* ask: report changes only (NETKIT_E_NOSYS where it cannot) */
    NETKIT_POLL_ONESHOT = 0x20000  /* ask: report once, then keep silent until modified */
};

/* Backends, the same names everywhere; which exist depends on the system. */
typedef enum netkit_backend {
    NETKIT_BACKEND_AUTO = 0,    /* epoll, kqueue or afd; else poll or wsapoll */
    NETKIT_BACKEND_FASTEST = 1, /* io_uring where it works, else as AUTO */
    NETKIT_BACKEND_EPOLL = 2,
    NETKIT_BACKEND_URING = 3,
    NETKIT_BACKEND_POLL = 4,
    NETKIT_BACKEND_KQUEUE = 5,
    NETKIT_BACKEND_AFD = 6,
    NETKIT_BACKEND_WSAPOLL = 7,
    NETKIT_BACKEND_SIM = 8 /* a simulated network: not in this version */
} netkit_backend;

/* "auto", "fastest", "epoll", "uring", "poll", "kqueue", "afd", "wsapoll",
 * "sim"; NULL for any other number. Static memory. Thread: any. */
NETKIT_API const char *netkit_backend_name(int backend);

/* The other way; NETKIT_E_NOTFOUND for an unknown name. Thread: any. */
NETKIT_API int netkit_backend_from_name(const char *name);

typedef struct netkit_poller netkit_poller;

typedef struct netkit_poller_desc {
    int backend;                /* a readiness backend, 0 = AUTO */
    netkit_allocator allocator; /* all zero = malloc */
} netkit_poller_desc;

typedef struct netkit_poll_event {
    uint64_t data;   /* as given to add or modify */
    uint32_t events; /* NETKIT_POLL_* */
} netkit_poll_event;

/* Make a poller; desc NULL = defaults. A backend that is named and missing is
 * NETKIT_E_NOSYS, never another one. *out is NULL on failure.
 * Returns NETKIT_OK, NETKIT_E_NOSYS, NETKIT_E_NOMEM, NETKIT_E_MFILE, NETKIT_E_INVALID.
 * Thread: any. */
NETKIT_API int netkit_poller_create(netkit_poller **out, const netkit_poller_desc *desc);

/* Free it. The descriptors stay open. NULL is legal. Thread: the poller's. */
NETKIT_API void netkit_poller_destroy(netkit_poller *poller);

/* Watch a descriptor (a native one: netkit_socket_native gives a socket's) for
 * NETKIT_POLL_READ and WRITE, plus EDGE or ONESHOT. Level-triggered unless EDGE.
 * NETKIT_E_EXISTS when it is there already, NETKIT_E_INVALID when it is no
 * descriptor (on Windows, no socket: nothing else can be watched there),
 * NETKIT_E_ACCESS when the backend cannot watch that kind of file,
 * NETKIT_E_NOSYS for PRIORITY with kqueue where the system does not tell it.
 * Thread: the poller's. */
NETKIT_API int netkit_poller_add(netkit_poller *poller, uintptr_t native, uint32_t events,
                                 uint64_t data);

/* Change what is watched, and the data. NETKIT_E_NOTFOUND when it is not there; else
 * as add. Thread: the poller's. */
NETKIT_API int netkit_poller_modify(netkit_poller *poller, uintptr_t native, uint32_t events,
                                    uint64_t data);

/* Stop watching: before closing the descriptor. NETKIT_E_NOTFOUND when it is
 * not there. Thread: the poller's. */
NETKIT_API int netkit_poller_remove(netkit_poller *poller, uintptr_t native);

/* Wait up to timeout_us (negative: for ever; 0: only look) and write at most
 * `max` events. Returns how many; 0 after the time, a wake or a signal.
 * Thread: the poller's. */
NETKIT_API int netkit_poller_wait(netkit_poller *poller, netkit_poll_event *events, int max,
                                  int64_t timeout_us);

/* Make a wait that is under way, or else the next one, return. Wakes that come
 * before it does are one. Thread: any, and signal handlers. */
NETKIT_API int netkit_poller_wake(netkit_poller *poller);

/* The name of the backend. Static memory. NULL for NULL. Thread: any. */
NETKIT_API const char *netkit_poller_backend(const netkit_poller *poller);
