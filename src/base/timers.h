/* Timers: a pure priority queue of due times, ordered by due time, then by start. */

typedef struct nki_timer_node {
    uint64_t due_ns;
    uint64_t order; /* of starting: breaks ties */
    uint32_t at;    /* place in the queue plus one, 0 = not in it */
    uint32_t kind;  /* whose node this is: the queue does not look */
} nki_timer_node;

typedef struct nki_timers nki_timers; /* defined in timers.c */
