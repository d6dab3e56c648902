/* Timers: a pure priority queue of due times, ordered by due time, then by start. */

typedef struct nki_timer_node {
    uint64_t due_ns;
    uint64_t order; /* of starting: breaks ties */
    uint32_t at;    /* place in the queue plus one, 0 = not in it */
    uint32_t kind;  /* whose node this is: the queue does not look */
} nki_timer_node;

typedef struct nki_timer_entry {
    uint64_t due_ns;
    nki_timer_node *node;
} nki_timer_entry;

typedef struct nki_timers {
    nki_timer_entry *entries;
    uint32_t count;
    uint32_t capacity;
    uint64_t order; /* of the next start */
    const netkit_allocator *allocator;
} nki_timers;
