/* Pollers: one small interface, one file for each backend (epoll.c, poll.c, kqueue.c,
 * afd.c, wsapoll.c). The loop's readiness driver and the public netkit_poller stand on it. */

typedef struct nki_poller nki_poller;

typedef struct nki_poller_ops {
    const char *name;
    int backend;   /* NETKIT_BACKEND_* */
    bool has_edge; /* NETKIT_POLL_EDGE works; else descriptors are taken out while unwanted */
    int (*open)(nki_poller *p);
    void (*close)(nki_poller *p);
    /* Nothing of READ, WRITE, PRIORITY and PEER_END asked for = present but silent, hang-up too:
     * a level-triggered HUP would spin otherwise. ONESHOT leaves a descriptor so once it has
     * reported. EXISTS, NOTFOUND, INVALID (no descriptor, or bits that mean nothing), ACCESS (a
     * file that is always ready), NOSYS (EDGE where there is none) are the same everywhere. */
    int (*add)(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data);
    int (*modify)(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data);
    int (*remove)(nki_poller *p, uintptr_t native);
    /* Returns the number of events, 0 also for EINTR. timeout_ns is rounded up, never down
     * (a wait cut to 0 would spin); NKI_NEVER waits without limit. */
    int (*wait)(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns);

    /* A wake of the backend's own, an event with `data` and READ; wake_set again gives it other
     * data. wake is for any thread and signal handlers, and leaves errno alone when it succeeds.
     * NULL = it has none: a descriptor is watched for it, see nki_poller_wake_open. */
    int (*wake_set)(nki_poller *p, uint64_t data);
    int (*wake)(const nki_poller *p);
    /* Where edges do not tell of urgent data (PRIORITY), which ends a read early: how many bytes
     * there were to read when READ was reported last. NULL = they do. */
    int64_t (*held)(nki_poller *p, uintptr_t native);
    /* The system's error that an event took out of a socket, once; 0 = none. NULL = it takes none,
     * the socket still has it. */
    int (*take_error)(nki_poller *p, uintptr_t native);
    /* Tell the system what add, modify and wait left to the next wait: somebody is going to wait
     * for `native` without us. NULL = it knows at once. */
    void (*commit)(nki_poller *p);
} nki_poller_ops;

struct nki_poller {
    const nki_poller_ops *ops;
    netkit_allocator allocator;
    uintptr_t native; /* what a foreign loop can wait for, or UINTPTR_MAX */
    void *state;      /* the backend's own */
};

/* What may be asked for, and which of that makes a descriptor speak at all. */
#define NKI_POLL_SPEAKS \
    ((uint32_t)(NETKIT_POLL_READ | NETKIT_POLL_PRIORITY | NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END))
#define NKI_POLL_ALWAYS ((uint32_t)(NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP))
#define NKI_POLL_KNOWN \
    (NKI_POLL_SPEAKS | NKI_POLL_ALWAYS | (uint32_t)(NETKIT_POLL_EDGE | NETKIT_POLL_ONESHOT))

/* May this be asked of a poller without edges? */
static int nki_poller_check_level(uint32_t events) {
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    return (events & NETKIT_POLL_EDGE) != 0 ? NETKIT_E_NOSYS : NETKIT_OK;
}

/* The wake of a poller: the backend's own, and then `wake` stays empty, or a descriptor among those
 * it watches. drain is for the wait that has seen the wake's event; signal for any thread. */
static int nki_poller_wake_open(nki_poller *p, nki_wake *wake, uint64_t data);
static int nki_poller_wake_move(nki_poller *p, const nki_wake *wake, uint64_t data);
static int nki_poller_wake_signal(const nki_poller *p, const nki_wake *wake);
static void nki_poller_wake_drain(const nki_poller *p, const nki_wake *wake);

/* Choose and open a backend: AUTO takes the first that works, a named one is that or an error. */
static int nki_poller_open(nki_poller *p, int backend, const netkit_allocator *allocator);
static void nki_poller_close(nki_poller *p);

#if NKI_POSIX
/* From a descriptor to the backend's place for it, in constant time: a table as long as the
 * highest descriptor seen, which POSIX keeps low (the lowest free one is always the next; for
 * Windows see table.h). 0 is no place. All zero is an empty table. */
typedef struct nki_fd_table {
    uint32_t *places;
    size_t count;
} nki_fd_table;

static uint32_t nki_fd_table_get(const nki_fd_table *table, uintptr_t native) {
    return native < table->count ? table->places[native] : 0;
}

/* Make sure that setting `native` cannot fail. */
static int nki_fd_table_reserve(nki_fd_table *table, uintptr_t native, const netkit_allocator *a) {
    size_t count = table->count == 0 ? 64 : table->count;
    if (native < table->count) {
        return NETKIT_OK;
    }
    if (native > (uintptr_t)INT_MAX) {
        return NETKIT_E_INVALID;
    }
    while (count <= native) {
        count *= 2;
    }
    if (count > SIZE_MAX / sizeof(uint32_t)) {
        return NETKIT_E_NOMEM;
    }
    uint32_t *places = (uint32_t *)nki_alloc_zero(a, count * sizeof(*places));
    if (places == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (table->count > 0) {
        memcpy(places, table->places, table->count * sizeof(*places));
    }
    nki_free(a, table->places, table->count * sizeof(*places));
    table->places = places;
    table->count = count;
    return NETKIT_OK;
}

static void nki_fd_table_free(nki_fd_table *table, const netkit_allocator *a) {
    nki_free(a, table->places, table->count * sizeof(*table->places));
    table->places = NULL;
    table->count = 0;
}

/* What epoll refuses is refused here too, so that programs behave alike on both: plain files and
 * folders are always ready, watching them would only spin. */
static int nki_poller_check_file(uintptr_t native) {
    struct stat st;
    if (NKI_SYS_fstat(nki_os_fd(native), &st) != 0) {
        return nki_os_error();
    }
    return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) ? NETKIT_E_ACCESS : NETKIT_OK;
}
#endif

#if NKI_WINDOWS
/* Nothing but sockets can be watched, and what other handles get an answer from them is chance. */
static int nki_poller_check_socket(uintptr_t native) {
    int type = 0;
    int size = (int)sizeof(type);
    int rc = NKI_SYS_getsockopt((SOCKET)native, SOL_SOCKET, SO_TYPE, &type, &size);
    return rc != 0 ? nki_os_error() : NETKIT_OK;
}

/* What was asked for, and what is told without. */
static uint32_t nki_poller_allowed(uint32_t events) {
    uint32_t allowed = (events & NKI_POLL_SPEAKS) | NKI_POLL_ALWAYS;
    return allowed | ((events & NETKIT_POLL_READ) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u);
}

/* Waits on Windows may end a little before their time, so the clock decides. */
static uint64_t nki_poller_deadline(uint64_t timeout_ns) {
    if (timeout_ns == 0 || timeout_ns == NKI_NEVER) {
        return timeout_ns;
    }
    uint64_t now = nki_os_now_ns();
    return timeout_ns < NKI_NEVER - now ? now + timeout_ns : NKI_NEVER;
}

/* Milliseconds until then, rounded up and cut to what an int holds; -1 for NKI_NEVER. */
static int nki_poller_left_ms(uint64_t deadline_ns) {
    if (deadline_ns == 0 || deadline_ns == NKI_NEVER) {
        return deadline_ns == 0 ? 0 : -1;
    }
    uint64_t now = nki_os_now_ns();
    return nki_os_poll_ms(now != 0 && now < deadline_ns ? deadline_ns - now : 0);
}
#endif
