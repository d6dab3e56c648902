/* Pollers: one small interface, one file for each backend (epoll.c, poll.c; kqueue.c and afd.c
 * beside them). The loop's readiness driver and the public netkit_poller stand on it. */

typedef struct nki_poller nki_poller;

typedef struct nki_poller_ops {
    const char *name;
    int backend;   /* NETKIT_BACKEND_* */
    bool has_edge; /* NETKIT_POLL_EDGE works; else descriptors are taken out while unwanted */
    int (*open)(nki_poller *p);
    void (*close)(nki_poller *p);
    /* events 0 = present but silent, hang-up too: a level-triggered HUP would spin otherwise. */
    int (*add)(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data);
    int (*modify)(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data);
    int (*remove)(nki_poller *p, uintptr_t native);
    /* Returns the number of events, 0 also for EINTR. timeout_ns is rounded up, never down
     * (a wait cut to 0 would spin); NKI_NEVER waits without limit. */
    int (*wait)(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns);
} nki_poller_ops;

struct nki_poller {
    const nki_poller_ops *ops;
    netkit_allocator allocator;
    uintptr_t native; /* what a foreign loop can wait for, or UINTPTR_MAX */
    void *state;      /* the backend's own */
};

/* Choose and open a backend: AUTO takes the first that works, a named one is that or an error. */
static int nki_poller_open(nki_poller *p, int backend, const netkit_allocator *allocator);
static void nki_poller_close(nki_poller *p);
