/* ---- pulling events ----------------------------------------------------------
 *
 * For those who would rather fetch than be called: games, other languages. With
 * desc.pull what has no callback comes as an event: conns, listeners and udps
 * whose handler leaves it NULL, timers and watches without a function. For
 * NETKIT_E_THREAD and NETKIT_E_INVALID see the head of "loop". */

typedef enum netkit_event_type {
    NETKIT_EVENT_NONE = 0,
    NETKIT_EVENT_OPEN,           /* conn */
    NETKIT_EVENT_DATA,           /* conn, data, len: used up unless netkit_loop_consume says less */
    NETKIT_EVENT_DRAIN,          /* conn */
    NETKIT_EVENT_EOF,            /* conn: closing it is up to you */
    NETKIT_EVENT_CLOSE,          /* conn, close */
    NETKIT_EVENT_LISTENER_ERROR, /* listener, close.code, close.os_code */
    NETKIT_EVENT_LISTENER_CLOSE, /* listener */
    NETKIT_EVENT_TIMER,          /* timer */
    NETKIT_EVENT_WATCH,          /* watch, poll_events */
    NETKIT_EVENT_DATAGRAM,       /* udp, datagram */
    NETKIT_EVENT_UDP_DRAIN,      /* udp */
    NETKIT_EVENT_UDP_ERROR,      /* udp, datagram: as on_error */
    NETKIT_EVENT_UDP_CLOSE       /* udp, close */
} netkit_event_type;

typedef struct netkit_event {
    netkit_event_type type;
    uint32_t poll_events; /* NETKIT_POLL_* */
    netkit_conn conn;
    netkit_listener listener;
    netkit_timer timer;
    netkit_watch watch;
    netkit_udp udp;
    const netkit_datagram *datagram; /* lives as long as data */
    const void *data; /* lives until the next call of netkit_loop_next, run_once or poll */
    size_t len;
    netkit_close_info close;
    void *user; /* the object's */
} netkit_event;

/* Fetch the next event of the turn that netkit_loop_run_once or netkit_loop_poll
 * has begun, or begin one that does not wait. Nothing is queued or copied: each
 * call does the next piece of the turn's work.
 * Returns 1 with *out filled; 0 at the end of the turn, or of the budget that
 * netkit_loop_poll has given it (all sent, *out zeroed); NETKIT_E_BUSY in a
 * callback; NETKIT_E_INVALID without desc.pull.
 * Thread: the loop's. */
NETKIT_API int netkit_loop_next(netkit_loop *loop, netkit_event *out);

/* Say how many bytes of the DATA event just fetched were used; the rest comes
 * again with more behind it. NETKIT_E_INVALID when that was no DATA event or had
 * fewer bytes. Thread: the loop's. */
NETKIT_API int netkit_loop_consume(netkit_loop *loop, size_t used);
