/* The loop's inner types.
 *
 * Whatever owns a descriptor starts with an nki_source and lives in a slot of 120 bytes; what is
 * rarely needed hangs off it. A source has two identities: the handle names the object to the
 * user, the token names its descriptor to the kernel, so that a late event of a dead descriptor
 * fails the token's check even when number and slot are in use again. */

enum {
    NKI_RECV_SIZE = 65536,       /* one read; smaller costs factors in bulk, larger gains nothing */
    NKI_FLUSH_AT = 65535,        /* queued bytes that are not left for the end of the callback */
    NKI_DIRECT_MIN = 32768,      /* a send of so much on an empty queue skips the queue */
    NKI_CHUNK_SIZE = 16384,      /* one allocation of queue memory, its head included */
    NKI_CHUNKS_SPARE = 64,       /* free chunks a loop keeps */
    NKI_SMALL_CHUNK_SIZE = 1024, /* the same for small messages that are in flight one by one */
    NKI_MIDDLE_CHUNK_SIZE = 4352, /* and for those of 4 KiB */
    NKI_SMALL_CHUNKS_SPARE = 512, /* free ones of each of the two that a loop keeps */
    NKI_SMALL_CHUNKS_STOCK = 64,  /* made at once, at most */
    NKI_SPANS_MAX = 64,           /* spans in one gathered send */
    NKI_KEEP_COPY = 16384,        /* a span of the shared buffer up to this is kept by copying */
    NKI_DEFER_MS_MIN = 10,        /* pause of a listener that is short of resources ... */
    NKI_DEFER_MS_MAX = 1000,      /* ... doubling up to this */
    NKI_WAIT_FAILURES_MAX = 16,   /* in a row: then a run gives up instead of spinning */
    NKI_NAME_MAX = 160            /* text of "why this backend" */
};

enum {
    NKI_KIND_CONN = 1,
    NKI_KIND_LISTENER = 2,
    NKI_KIND_WATCH = 3,
    NKI_KIND_TIMER = 4,
    NKI_KIND_UDP = 5
};

/* nki_source.flags */
enum {
    NKI_S_QUEUED = 1, /* in the ready list, or the one for the next turn */
    NKI_S_UNREFERENCED = 4,
    NKI_S_GONE = 8 /* its descriptor is closed and no event of it can come */
};

typedef struct nki_source {
    uint64_t id;             /* the handle; first, as nki_slot says */
    uintptr_t socket;        /* nobody above the drivers looks inside */
    struct nki_source *next; /* in the ready list */
    uint32_t token;          /* number of the descriptor, 0 = not with the driver */
    uint16_t ready;          /* NETKIT_POLL_* the driver has seen, low bits */
    uint8_t flags;           /* NKI_S_* */
    uint8_t driver;          /* the driver's own bits */
} nki_source;

/* What conns of one listener (or one call) share. */
typedef struct nki_behaviour {
    netkit_handler handler;
    netkit_conn_options options; /* with the defaults filled in */
    uint32_t references;
    uint32_t conns;     /* alive, of this origin */
    uint64_t listener;  /* handle of the listener, or 0 */
    uint32_t read_max;  /* the most on_data is given at once while nothing is queued or carried */
    uint32_t stage_max; /* the most that is staged in a callback */
    bool is_plain;      /* has on_data, and its loop is plain */
    struct nki_behaviour *origin;  /* set_handler made this one from that one */
    struct nki_behaviour *derived; /* the last made from this one, to be shared */
} nki_behaviour;

/* A piece of the send queue: own memory behind the head, or lent: memory or part of a file. */
typedef struct nki_chunk {
    struct nki_chunk *next;
    struct nki_chunk *last; /* in the first chunk of a queue only */
    const unsigned char *data;
    size_t begin; /* first byte not yet sent */
    size_t end;
    size_t capacity; /* of own memory, 0 = lent */
    uintptr_t file;  /* own descriptor of a file that was lent, +1; 0 = memory */
    uint64_t offset; /* in the file, of byte 0 */
    netkit_release_fn release;
    void *user;
} nki_chunk;

/* By its capacity a chunk is given back to those of its size. */
NKI_STATIC_ASSERT(chunk_sizes, NKI_SMALL_CHUNK_SIZE < NKI_MIDDLE_CHUNK_SIZE - sizeof(nki_chunk) &&
                                   NKI_MIDDLE_CHUNK_SIZE < NKI_CHUNK_SIZE - sizeof(nki_chunk));

/* Chunks of one size. */
typedef struct nki_spares {
    nki_chunk *first;
    uint32_t count;
    uint32_t made; /* that there are, spare or not */
} nki_spares;

/* Received bytes that on_data left. */
typedef struct nki_carry {
    size_t begin;
    size_t end;
    size_t capacity;
} nki_carry;

/* What most conns never need. */
typedef struct nki_cold {
    nki_timer_node timer; /* one for all: set to the earliest of the times below */
    struct nki_conn *conn;
    uint64_t connect_due_ns; /* NKI_NEVER = none, as the others */
    uint64_t close_due_ns;
    uint64_t deadline_ns;
    uint64_t rate_due_ns;
    uint64_t rate_bytes; /* received in this period */
    uint32_t idle_ms;    /* 0 = none */
    uint32_t drained;    /* discarded while closing */
} nki_cold;

/* nki_conn.flags */
enum {
    NKI_C_CONNECTING = 1 << 0,
    NKI_C_OPENED = 1 << 1,   /* on_open was delivered */
    NKI_C_PAUSED = 1 << 2,   /* by the user */
    NKI_C_REOFFER = 1 << 3,  /* offer the carry again even with nothing new */
    NKI_C_EOF = 1 << 4,      /* the peer has ended */
    NKI_C_EOF_TOLD = 1 << 5, /* and the user knows */
    NKI_C_SHUT = 1 << 6,     /* end our direction when the queue is empty */
    NKI_C_FIN_SENT = 1 << 7, /* done */
    NKI_C_CLOSING = 1 << 8,  /* netkit_conn_close */
    NKI_C_DEAD = 1 << 9,     /* only releases and on_close are left */
    NKI_C_STALLED = 1 << 10, /* the system takes no more for now */
    NKI_C_DIRTY = 1 << 11,   /* in the dirty list */
    NKI_C_DRAIN_DUE = 1 << 12,
    NKI_C_DUPLEX = 1 << 13,
    NKI_C_OPEN_DUE = 1 << 14, /* on_open is to be delivered */
    NKI_C_BY_PEER = 1 << 15,  /* the close follows from the peer's end */
    NKI_C_TCP = 1 << 16,
    NKI_C_COUNTED = 1 << 18,  /* rate_min: bytes received are counted */
    NKI_C_REFUSED = 1 << 17,  /* on_drain is owed for a send of `refused` bytes */
    NKI_C_FLUSHING = 1 << 22, /* corked, but what is queued is on its way */
    NKI_C_CORKED = 1 << 21,   /* what is queued waits for more */
    NKI_C_UNTOLD = 1 << 19,   /* accepted, and nobody has heard of it before on_open */
    NKI_C_FDS = 1 << 20,      /* descriptors are received too */
    NKI_C_DUE = NKI_C_REOFFER | NKI_C_DRAIN_DUE | NKI_C_OPEN_DUE,
    NKI_C_PLAIN = NKI_C_OPENED | NKI_C_TCP | NKI_C_DUPLEX, /* nothing is out of the ordinary */
    NKI_C_ENDING = NKI_C_SHUT | NKI_C_CLOSING | NKI_C_DEAD,
    NKI_C_UNSTAGED = NKI_C_ENDING | NKI_C_CORKED,              /* sends go to the queue */
    NKI_C_HELD = NKI_C_STALLED | NKI_C_CONNECTING | NKI_C_DEAD /* nothing can be sent now */
};

/* Ready bits that make it worth while to read. */
enum {
    NKI_READABLE = NETKIT_POLL_READ | NETKIT_POLL_PRIORITY | NETKIT_POLL_ERROR |
                   NETKIT_POLL_HANGUP | NETKIT_POLL_PEER_END
};

/* What only the living need stands where the reason of the dead is kept: every byte counts here,
 * as this is what an idle connection costs. */
typedef struct nki_conn_live {
    uint32_t refused;   /* bytes that on_drain is owed for */
    uint32_t active_ms; /* when bytes last moved; wraps, see nki_conn_idle_ms */
} nki_conn_live;

typedef struct nki_conn_end {
    int32_t os_code;
    int8_t code;
    uint8_t op;
    uint8_t phase;
    uint8_t why;
} nki_conn_end;

typedef struct nki_conn {
    nki_source source;
    nki_behaviour *behaviour;
    void *user;
    void *ext;
    nki_chunk *out; /* what is to be sent */
    nki_carry *carry;
    nki_cold *cold;
    struct nki_conn *next; /* in the dirty list, later in that of the dead */
    struct nki_fds *fds;   /* descriptors that have come and nobody took */
    uint32_t flags;
    uint32_t queued;    /* copied bytes in `out` */
    uint32_t tally;     /* alive: read so far out of the turn's budget; dead: bytes unsent */
    uint16_t borrowed;  /* chunks in `out` that are borrowed */
    uint16_t unflushed; /* bytes queued since the last flush, up to NKI_FLUSH_AT */
    union {
        nki_conn_live live;
        nki_conn_end end; /* NKI_C_DEAD */
    } u;
} nki_conn;

/* Slots of listeners, conns and watches are of one size. */
enum {
    NKI_SOURCE_SIZE = 120
};

NKI_STATIC_ASSERT(conn_size, sizeof(nki_conn) <= NKI_SOURCE_SIZE);

typedef struct nki_listener {
    nki_source source;
    nki_behaviour *behaviour;
    void *user;
    int (*on_accept)(netkit_loop *, netkit_listener, const netkit_addr *, void *);
    void (*on_error)(netkit_loop *, netkit_listener, int, int, void *);
    void (*on_close)(netkit_loop *, netkit_listener, void *);
    nki_timer_node timer; /* goes on after a shortage */
    uint32_t defer_ms;
    uint32_t accepted; /* in this turn */
    uint32_t conns_max;
    uint8_t is_closing;
    uint8_t is_deferred;
    uint8_t is_full; /* at conns_max: woken by the end of a conn */
    uint8_t is_tcp;
    struct nki_listener_file *file; /* of a unix path that was bound here, to be removed */
} nki_listener;

NKI_STATIC_ASSERT(listener_size, sizeof(nki_listener) <= NKI_SOURCE_SIZE);

typedef struct nki_listener_file {
    netkit_unix_file file;
    uint64_t process; /* that bound it: a forked one must not take it away */
} nki_listener_file;

typedef struct nki_watch {
    nki_source source;
    netkit_watch_fn fn;
    void *user;
    uint32_t events; /* NETKIT_POLL_* wanted */
} nki_watch;

/* ---- datagrams ---- */

enum {
    NKI_UDP_BLOCK_ROOM = 69632 - 16, /* takes the longest datagram and its record */
    NKI_UDP_BLOCKS_SPARE = 8,
    NKI_UDP_FAILED_MAX = 16,    /* sends that failed and are not told yet */
    NKI_UDP_COST = 64,          /* of a datagram beside its bytes */
    NKI_UDP_DIRECT_MIN = 16384, /* one so large on an empty queue is not copied */
    NKI_UDP_READ_COST = 512,    /* the least that one counts in a turn's budget */
    NKI_UDP_AREA = 16 * 65600,  /* memory one call receives into */
    NKI_UDP_RETRIES = 3,        /* of a send that may have got another one's error */
    NKI_UDP_RETRIES_MAX = 100,  /* of one that has certainly */
    NKI_UDP_FAILURES_MAX = 64,  /* of receiving, in a row: then it pauses */
    NKI_UDP_SHORT_MS = 1,       /* pause when the system is short of buffers ... */
    NKI_UDP_SHORT_MS_MAX = 32,  /* ... doubling up to this */
    NKI_UDP_REPORT_SIZE = 2048  /* of a failed datagram that came back */
};

/* nki_udp.flags */
enum {
    NKI_D_PAUSED = 1 << 0,
    NKI_D_STALLED = 1 << 1, /* the system takes no more and says when it does */
    NKI_D_SHORT = 1 << 2,   /* it takes no more and does not say: a timer tries again */
    NKI_D_REFUSED = 1 << 3, /* on_drain is owed for `refused` bytes */
    NKI_D_DRAIN_DUE = 1 << 4,
    NKI_D_DIRTY = 1 << 5, /* in the dirty list */
    NKI_D_CLOSING = 1 << 6,
    NKI_D_ERRORS = 1 << 7,  /* reports may wait in the system */
    NKI_D_STARVED = 1 << 8, /* receiving failed and waits for the timer */
    NKI_D_IPV6 = 1 << 9,
    NKI_D_GSO = 1 << 10,
    NKI_D_WHOLE = 1 << 11,
    NKI_D_TELL_ERRORS = 1 << 12,
    NKI_D_DESTROYED = 1 << 13, /* closed by the end of the loop */
    NKI_D_HELD = NKI_D_STALLED | NKI_D_SHORT
};

/* A queued datagram; its bytes follow, padded to 8. */
typedef struct nki_udp_record {
    nki_route route;
    uint32_t len;
    uint32_t sent; /* segments of it, in bytes */
    uint32_t segment;
    uint8_t is_single; /* not to be cut by the system */
    uint8_t tries;
    uint16_t unused;
} nki_udp_record;

NKI_STATIC_ASSERT(record_size, sizeof(nki_udp_record) % 8 == 0);

typedef struct nki_udp_block {
    struct nki_udp_block *next;
    uint32_t begin; /* the first record not yet sent */
    uint32_t end;
} nki_udp_block;

/* Received and not delivered when its udp was paused. Items and their bytes follow. */
typedef struct nki_udp_parked {
    size_t size;
    unsigned at;
    unsigned count;
    size_t offset;
} nki_udp_parked;

typedef struct nki_udp_failed {
    nki_route route;
    uint32_t len;
    int code;
    int os_code;
} nki_udp_failed;

/* What does not fit the slot. */
typedef struct nki_udp_more {
    netkit_udp_handler handler;
    struct nki_udp *udp;
    nki_timer_node timer;
    uint64_t send_due_ns; /* NKI_NEVER = none */
    uint64_t recv_due_ns;
    uint32_t send_ms; /* the last pause, 0 = all is well */
    uint32_t recv_ms;
    uint32_t ext_size;
    uint32_t send_max;
    uint32_t failures; /* of receiving, in a row */
    uint32_t armed;    /* NETKIT_POLL_* the driver was told last */
    uint32_t caps;
    unsigned failed_count;
    size_t lost;   /* bytes of sends that failed without anybody being told */
    uint8_t level; /* of a connected one: family of the peer */
    bool is_wildcard;
    netkit_addr bound;
    nki_dgram_room room;
    nki_udp_failed failed[NKI_UDP_FAILED_MAX];
} nki_udp_more;

typedef struct nki_udp {
    nki_source source;
    nki_udp_more *more;
    void *user;
    void *ext;
    nki_udp_block *out; /* first and last: what is to be sent */
    nki_udp_block *out_last;
    nki_udp_parked *parked;
    struct nki_udp *next; /* in the dirty list */
    uint32_t flags;
    uint32_t queued;  /* bytes of the datagrams in `out`; closed: unsent */
    uint32_t records; /* how many they are */
    uint32_t refused;
    uint32_t tally; /* of the turn's budget */
} nki_udp;

NKI_STATIC_ASSERT(udp_size, sizeof(nki_udp) <= NKI_SOURCE_SIZE);

/* What a loop with udps has once: where one of them receives, and spare blocks. */
typedef struct nki_dgrams {
    void *recv_scratch; /* the system's */
    void *send_scratch;
    unsigned char *memory;
    const netkit_datagram *items; /* the batch that is being delivered */
    unsigned at;
    unsigned count;
    size_t offset;          /* in a row of segments */
    nki_udp_parked *parked; /* whose items they are, or NULL */
    nki_udp_parked *dead;   /* to be freed when the callback has returned */
    nki_udp_parked *in_use; /* what the last batch began with, NULL = not parked ones */
    nki_udp_block *spare;
    uint32_t spare_count;
    uint32_t blocks;     /* that exist */
    netkit_datagram one; /* a segment, or a report */
    netkit_datagram in[NKI_DGRAM_BATCH];
    unsigned char report[NKI_UDP_REPORT_SIZE];
} nki_dgrams;

/* A user's timer: its slot, which is all that starting again and stopping look at. With a
 * million of them the cache misses are the price, so it is half a cache line. */
typedef struct nki_timer {
    uint64_t id;         /* the handle */
    nki_timer_node node; /* its mark: the timer does not keep the loop running */
} nki_timer;

/* What firing it needs: beside the slot. */
typedef struct nki_timer_call {
    netkit_timer_fn fn;
    void *user;
    uint64_t period_ns;
} nki_timer_call;

/* A block of received bytes, refcounted by being in one place: the loop's, or a user's who has
 * kept it. It goes back through the keeper, which outlives the loop. */
typedef struct nki_block {
    struct nki_block *next;
    struct nki_keeper *keeper;
    size_t capacity;
} nki_block;

typedef struct nki_keeper {
    netkit_allocator allocator;
    void *returned;      /* stack of blocks given back, pushed from any thread */
    uint32_t references; /* kept blocks, and one of the loop */
    uint32_t is_orphan;  /* the loop is gone */
} nki_keeper;

/* Where a turn is. It can stop between any two callbacks and go on later. */
typedef enum nki_turn_phase {
    NKI_TURN_NONE = 0,
    NKI_TURN_READY,
    NKI_TURN_POSTS,
    NKI_TURN_TIMERS,
    NKI_TURN_CLOSES
} nki_turn_phase;

typedef struct nki_queue {
    nki_source *first;
    nki_source *last;
} nki_queue;

typedef struct nki_conn_queue {
    nki_conn *first;
    nki_conn *last;
} nki_conn_queue;

struct netkit_loop {
    const struct nki_driver *driver;
    nki_slots sources;
    uintptr_t owner;   /* thread id, 0 = nobody yet */
    nki_conn *current; /* its callback is running: it is flushed when that returns */
    nki_conn *ignored; /* debug: a send of it was refused in this callback */
    uint64_t turn_ns;  /* clock at the end of the wait */
    uint32_t turn_ms;  /* the same in milliseconds, wrapping */
    uint8_t in_callback;
    uint8_t is_arming;  /* the driver wants to hear of wishes */
    uint8_t is_plain;   /* no debug mode, no driver that wants wishes or its buffers back */
    uint8_t is_running; /* inside run, run_once or poll */
    uint8_t is_run;     /* inside netkit_loop_run: it must not wait with nothing left to wait for */
    uint8_t is_flushing;    /* the user wants what is queued to be sent now */
    uint8_t is_unsubmitted; /* what only a turn, or commit, submits, or only a turn takes up */
    uint8_t phase;          /* nki_turn_phase */
    nki_queue ready;        /* to be served in this turn */
    nki_queue later;        /* in the next one */
    nki_conn_queue dirty;
    nki_conn_queue dead;
    nki_udp *udp_dirty; /* udps to be flushed */
    nki_udp *udp_dirty_last;
    nki_udp *udp_batch;      /* what it has received is being delivered */
    nki_dgrams *dgrams;      /* from the first udp on */
    nki_queue graves;        /* slots to be freed at the end of the turn */
    nki_chunk *releases;     /* lent chunks the system has taken, in order; first->last */
    unsigned char *reserved; /* given out by netkit_conn_reserve, for this conn: */
    uint64_t reserved_id;
    unsigned char *stage; /* what the current conn queues on an empty queue: NKI_FLUSH_AT bytes */
    size_t stage_len;
    size_t stage_room; /* more bytes it takes of the conn of stage_id; 0 = closed */
    uint64_t stage_id; /* the conn whose sends are staged */
    nki_chunk *chunks; /* spare chunks */
    uint32_t chunks_count;
    nki_spares small_chunks; /* the same, for drivers that send later */
    nki_spares middle_chunks;
    uint32_t token;   /* last token given out */
    nki_block *recv;  /* the shared receive buffer */
    netkit_span span; /* what on_data was called with */
    uint8_t span_is_carry;
    uint8_t is_inherited; /* being destroyed by a forked process: what is shared is not touched */
    netkit_event pulled;  /* pull: the event that is out */
    void *pulled_object;  /* whose it is */
    size_t pulled_used;   /* DATA: as netkit_loop_consume said */
    uint64_t calls;       /* callbacks made */
    uint8_t is_pulled_fresh; /* it has not been fetched yet */
    uint64_t pull_until_ns;  /* the puller's time is up; not before one event has been given */
    uint64_t pull_calls;     /* `calls` when its time began */
    nki_keeper *keeper;
    uint64_t kept_bytes;
    nki_timers timers;
    nki_slots timer_slots;
    uint64_t timer_order;  /* timers started later than this wait for the next turn */
    uint32_t timers_fired; /* in this turn */
    uint32_t posts_run;
    nki_posts posts;
    uint32_t wake_pending;  /* atomic: a wake is under way */
    uint32_t stop;          /* atomic */
    uint32_t is_destroying; /* atomic: posts are refused */
    uint32_t references;
    uint32_t wait_failures; /* in a row */
    int wait_error;         /* the last of them */
    uint32_t buried;        /* slots that wait for the end of the turn */
    uint64_t turns;
    uint64_t process;  /* that made it */
    nki_poller poller; /* the readiness driver's */
    nki_wake wake;
    netkit_poll_event *events;
    const netkit_poll_event *events_next; /* seen by wait, not yet served */
    const netkit_poll_event *events_end;
    void *driver_state;
    const char *backend; /* its name */
    void *ext;
    netkit_loop_desc desc; /* with the defaults filled in */
    netkit_allocator allocator;
    char why[NKI_NAME_MAX];
};
