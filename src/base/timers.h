/* Timers: a pure priority queue of due times, ordered by due time, then by start.
 * Whoever has a timer embeds a node; see timers.c for how the queue works. */

typedef struct nki_timer_node {
    uint64_t due_ns;
    uint64_t order; /* of the last start: breaks ties */
    uint32_t at;    /* where the queue keeps it, 0 = not in it */
    /* Bits of one word, so that a user's timer is half a cache line. */
    unsigned slot : 16; /* the slot of that place */
    unsigned kind : 8;  /* whose node this is: the queue does not look */
    unsigned mark : 1;  /* its owner's: the queue does not look */
    /* Its memory stays until the queue is freed, and whatever lives there meanwhile, nobody but
     * the queue writes to `at` (but a 0): then leaving a slot need not touch the slot. */
    unsigned is_lasting : 1;
} nki_timer_node;

/* What the heap moves about: comparing seldom touches the node. */
typedef struct nki_timer_entry {
    uint64_t due_ns;
    nki_timer_node *node;
} nki_timer_entry;

enum {
    NKI_TIMER_TICK_BITS = 20, /* a tick is about a millisecond */
    NKI_TIMER_SLOT_BITS = 6,  /* so that a level's slots fit the bits of a word */
    NKI_TIMER_SLOTS = 1 << NKI_TIMER_SLOT_BITS,
    NKI_TIMER_LEVELS = 8, /* 20 + 8 * 6 bits hold every due time */
    NKI_TIMER_CHUNK = 16  /* places in a chunk */
};

typedef struct nki_timers {
    const netkit_allocator *allocator;
    void *memory; /* of soon, pool and before */
    size_t memory_size;
    nki_timer_entry *soon;
    nki_timer_node **pool; /* the places of the slots, in chunks */
    uint32_t *before;      /* of each chunk: the one filled before it, or the next free one; +1 */
    nki_timer_node *first; /* as last found, or NULL: not known */
    uint32_t capacity;     /* nodes there is memory for */
    uint32_t count;
    uint32_t soon_count;
    uint32_t places;     /* filled ones, holes too */
    uint32_t chunk_free; /* first of the free chunks, +1 */
    uint32_t chunk_used; /* chunks that were ever taken */
    uint64_t order;      /* of the next start */
    uint64_t base;       /* all up to this tick is in `soon`, all after in slots */
    uint64_t filled[NKI_TIMER_LEVELS];
    uint32_t slots[NKI_TIMER_LEVELS * NKI_TIMER_SLOTS]; /* the place after the last one filled */
} nki_timers;
