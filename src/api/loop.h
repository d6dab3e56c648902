/* ---- loop -----------------------------------------------------------------
 *
 * One loop per thread does I/O, timers and posts, and calls back. It belongs to
 * the first thread that runs, polls or waits on it; before that to whoever holds
 * it. A desc is copied; what its pointers lead to is used during the call only,
 * unless a field says otherwise.
 *
 * A comment that ends in "Thread: the loop's." is of a call for that thread alone.
 * Beside what it lists such a call gives NETKIT_E_THREAD on any other one, where it
 * does nothing; NETKIT_E_INVALID for a NULL that is not said to be legal;
 * NETKIT_E_STALE for a handle whose object is gone; and, when it makes something,
 * NETKIT_E_CLOSED while the loop is being destroyed. One that returns a pointer
 * gives NULL instead. "Unchecked": it cannot tell the thread, and gives 0, NULL or
 * "" for a loop that is NULL. Calls for any thread need the loop alive until they
 * return. */

typedef struct netkit_loop netkit_loop;

/* Handles name what lives in a loop. They are plain values; {0} names nothing;
 * a handle whose object is gone gives NETKIT_E_STALE, never a crash. */
typedef struct netkit_conn {
    uint64_t id;
} netkit_conn;
typedef struct netkit_listener {
    uint64_t id;
} netkit_listener;
typedef struct netkit_timer {
    uint64_t id;
} netkit_timer;
typedef struct netkit_watch {
    uint64_t id;
} netkit_watch;

typedef void (*netkit_loop_hook_fn)(netkit_loop *loop, void *user);

/* Time limits of all conns of a loop: each is what 0 means in the desc of a conn,
 * where any other value comes first and NETKIT_TIMEOUT_NONE switches it off. */
typedef struct netkit_timeouts {
    uint32_t connect_ms; /* connecting, 0 = 30,000; cannot be switched off */
    uint32_t idle_ms;    /* no byte either way, 0 = never */
    uint32_t close_ms;   /* a whole graceful close, 0 = 5,000; cannot be switched off */
} netkit_timeouts;

#define NETKIT_TIMEOUT_NONE UINT32_MAX

typedef struct netkit_loop_desc {
    int backend;                /* NETKIT_BACKEND_*, 0 = AUTO */
    uint32_t objects_max;       /* listeners, conns, watches, udps together, 0 = 1,048,576 */
    uint32_t timers_max;        /* 0 = 4,194,304 */
    uint32_t events_max;        /* kernel events taken in one turn, 0 = 256 */
    uint32_t posts_max;         /* posts that may wait, 0 = 4,096; rounded up to a power of two */
    uint32_t conn_budget;       /* bytes a conn or udp may read in one turn, 0 = 262,144; a
                                   datagram counts 512 at least */
    uint32_t accept_budget;     /* connections a listener may accept in one turn, 0 = 64 */
    uint32_t post_budget;       /* posts run in one turn, 0 = 1,024 */
    uint32_t timer_budget;      /* timers fired in one turn, 0 = 4,096 */
    uint32_t keep_max;          /* bytes netkit_conn_keep may hold at a time, 0 = 16 MiB */
    uint32_t spin_us;           /* look this long before blocking: latency for CPU, 0 = off */
    uint32_t ext_size;          /* bytes of netkit_loop_ext, 0 = none */
    uint32_t slow_callback_ms;  /* debug: a callback slower than this is logged, 0 = 50 */
    bool pull;                  /* events are fetched with netkit_loop_next */
    bool debug;                 /* log mistakes with a hint */
    netkit_timeouts timeouts;   /* of its conns, unless theirs say otherwise */
    uint32_t ring_sqpoll_ms;    /* io_uring: a thread of the kernel submits, and sleeps when idle
                                   for so long; costs a processor, and what is flushed waits
                                   until it has sent what is before that; 0 = off */
    uint32_t ring_sqpoll_cpu;   /* the processor that thread is bound to, from 1; 0 = any */
    uint32_t ring_napi_us;      /* io_uring: waits poll the network device for so long, 0 = off */
    uint32_t ring_zerocopy_min; /* io_uring: lent memory of so many bytes or more goes out without
                                   a copy, where the kernel can, 0 = never */
    bool ring_incremental;      /* io_uring: receives share buffers, each taking only what it fills,
                                   where the kernel can; not with ring_sqpoll_ms */
    uint32_t ring_files;        /* io_uring: so many conns at most are known to the kernel by
                                   number, where it can, 0 = none */
    uint64_t seed;              /* first generations of handles, 0 = random */
    netkit_loop_hook_fn before_turn; /* called before a turn waits */
    netkit_loop_hook_fn after_turn;  /* called when a turn is done */
    void *user;                      /* for the two hooks, and netkit_loop_user */
    netkit_allocator allocator;
    netkit_logger logger;
    netkit_clock clock;
} netkit_loop_desc;

/* Make a loop; desc NULL or all zero = defaults. *out is NULL on failure.
 * Returns NETKIT_OK; NETKIT_E_NOSYS when the named backend is missing (never
 * another one instead); NETKIT_E_NOMEM, NETKIT_E_MFILE, NETKIT_E_INVALID.
 * Thread: any. */
NETKIT_API int netkit_loop_create(netkit_loop **out, const netkit_loop_desc *desc);

/* The loop's last turn: aborts what is open, runs waiting posts with
 * NETKIT_E_CANCELLED, delivers every release and on_close, then frees. NULL is
 * legal. In a forked child it leaves the parent's conns and sets alone.
 * Returns NETKIT_OK; NETKIT_E_BUSY inside a callback of this loop.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_destroy(netkit_loop *loop);

/* Run until netkit_loop_stop, or until nothing that counts is left: no
 * listener, conn, udp, watch, timer (but those unreferenced) and no post.
 * Returns NETKIT_OK; NETKIT_E_BUSY inside a callback of this loop or with
 * desc.pull; what the system said when waiting failed again and again.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_run(netkit_loop *loop);

/* One turn, waiting at most timeout_ms for something to do (negative: no
 * limit). With desc.pull: wait, then fetch with netkit_loop_next.
 * Returns 1 when work is left or, with pull, when events can be fetched, else 0;
 * NETKIT_E_BUSY inside a callback; what the system said when waiting failed again
 * and again. Thread: the loop's. */
NETKIT_API int netkit_loop_run_once(netkit_loop *loop, int timeout_ms);

/* Turns that never wait, for at most budget_us (the callback that is running
 * when it ends is finished): for a frame of a game. budget_us 0 is one callback
 * at most; negative: one whole turn. With desc.pull it begins a turn, and
 * netkit_loop_next gives events until the turn or the budget ends.
 * Returns 1 when work is left, 0 when all is done; NETKIT_E_BUSY inside a
 * callback; what the system said when waiting failed again and again.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_poll(netkit_loop *loop, int64_t budget_us);

/* Make the run that is under way return after its turn, or else the next one.
 * Thread: any, and signal handlers. */
NETKIT_API int netkit_loop_stop(netkit_loop *loop);

/* Send now what is queued on every conn and udp, calling nothing back. For between
 * turns: a turn does it by itself. Thread: the loop's. */
NETKIT_API int netkit_loop_flush(netkit_loop *loop);

/* Make the calling thread the owner of a loop that nobody is running: its owner
 * must be done with it, and stays away from it from then on.
 * Returns NETKIT_OK; NETKIT_E_BUSY while it is running, and with io_uring while
 * operations are in flight, that is, while it has a conn, listener or watch;
 * NETKIT_E_NOSYS in a forked child; NETKIT_E_NOMEM; NETKIT_E_INVALID.
 * Thread: the one that shall own it. */
NETKIT_API int netkit_loop_adopt(netkit_loop *loop);

/* Called on the loop's thread with NETKIT_OK, or NETKIT_E_CANCELLED when the
 * loop is being destroyed. */
typedef void (*netkit_post_fn)(netkit_loop *loop, int status, void *user);

/* Have `fn` called by the loop, once, in the order of one thread's posts. The
 * loop is woken, once for many. `user` is the caller's until fn has run.
 * Returns NETKIT_OK; NETKIT_E_FULL: desc.posts_max are waiting; NETKIT_E_CLOSED:
 * the loop is being destroyed; NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_loop_post(netkit_loop *loop, netkit_post_fn fn, void *user);

/* As netkit_loop_post, but runs fn at once when called on the thread that owns the
 * loop. Thread: any. */
NETKIT_API int netkit_loop_invoke(netkit_loop *loop, netkit_post_fn fn, void *user);

/* Whether the caller is the thread that owns the loop; nobody does before the first
 * run, poll or wait, or netkit_loop_adopt. Thread: any. */
NETKIT_API bool netkit_loop_is_owner(const netkit_loop *loop);

/* Whether a run, poll or turn is under way. Thread: the loop's, unchecked. */
NETKIT_API bool netkit_loop_is_running(const netkit_loop *loop);

/* The backend's name; *why (may be NULL) says in a sentence how it was chosen.
 * Both live as long as the loop. Thread: the loop's, unchecked. */
NETKIT_API const char *netkit_loop_backend(const netkit_loop *loop, const char **why);

/* desc.user. Thread: the loop's, unchecked. */
NETKIT_API void *netkit_loop_user(const netkit_loop *loop);

/* The loop's own ext_size bytes: zeroed at first, aligned to 16, there until the
 * loop is destroyed; NULL for ext_size 0. Thread: the loop's, unchecked. */
NETKIT_API void *netkit_loop_ext(netkit_loop *loop);

/* Time of the loop's clock in nanoseconds: fresh, or as of this turn's wait.
 * Thread: the loop's, unchecked. */
NETKIT_API uint64_t netkit_loop_now(netkit_loop *loop);
NETKIT_API uint64_t netkit_loop_turn_time(const netkit_loop *loop);

/* How many turns there have been. Thread: the loop's, unchecked. */
NETKIT_API uint64_t netkit_loop_turns(const netkit_loop *loop);

/* What is alive: all objects, and those that keep netkit_loop_run going.
 * Thread: the loop's, unchecked. */
NETKIT_API uint32_t netkit_loop_objects(const netkit_loop *loop);
NETKIT_API uint32_t netkit_loop_references(const netkit_loop *loop);

/* For a loop inside a foreign one: wait until *native can be read (a
 * descriptor; on Windows a HANDLE to wait for) or netkit_loop_timeout_ms is
 * over, then call netkit_loop_poll. Wait level-triggered, and do not read it. It
 * belongs to the loop and keeps its number, but is another file after
 * netkit_loop_adopt: add it to an epoll set again then.
 * With uring ask right after netkit_loop_create, as another kind of ring is made
 * for it; epoll_wait and other waits of this thread may end with EINTR from then.
 * Returns NETKIT_OK; NETKIT_E_NOSYS where the backend has none (poll, wsapoll);
 * with uring NETKIT_E_BUSY when operations are under way or in a callback, or the
 * system's error when that ring cannot be made. Thread: the loop's. */
NETKIT_API int netkit_loop_native(netkit_loop *loop, uintptr_t *native);

/* Milliseconds until the loop wants to be polled, rounded up: 0 now, -1 never
 * by itself. Ask before each wait. Thread: the loop's. */
NETKIT_API int netkit_loop_timeout_ms(netkit_loop *loop);

/* ---- watches: descriptors of one's own in the loop ------------------------ */

/* `events` are NETKIT_POLL_*. */
typedef void (*netkit_watch_fn)(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user);

/* Call fn when the descriptor (a pipe, an eventfd, a socket of another library)
 * is ready for NETKIT_POLL_READ and/or WRITE; level-triggered unless EDGE. The
 * descriptor stays the caller's: stop the watch before closing it. `out` may be
 * NULL; fn, too, with desc.pull.
 * Returns NETKIT_OK, NETKIT_E_EXISTS, NETKIT_E_INVALID, NETKIT_E_ACCESS,
 * NETKIT_E_NOSYS (EDGE, PRIORITY), NETKIT_E_FULL, NETKIT_E_NOMEM.
 * Thread: the loop's. */
NETKIT_API int netkit_watch_start(netkit_loop *loop, netkit_watch *out, uintptr_t native,
                                  uint32_t events, netkit_watch_fn fn, void *user);

/* Change what is watched for; 0 = nothing for now. Errors as for start.
 * Thread: the loop's. */
NETKIT_API int netkit_watch_set(netkit_loop *loop, netkit_watch watch, uint32_t events);

/* End the watch at once; its callback does not come again. Thread: the loop's. */
NETKIT_API int netkit_watch_stop(netkit_loop *loop, netkit_watch watch);

/* Whether the watch keeps netkit_loop_run going (at first it does).
 * Thread: the loop's. */
NETKIT_API int netkit_watch_set_referenced(netkit_loop *loop, netkit_watch watch, bool referenced);
