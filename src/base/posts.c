/* Posts: calls that other threads want made on the loop's thread.
 *
 * A bounded ring for many producers and one consumer, after Dmitry Vyukov's
 * bounded queue: every cell carries a sequence number that says whose turn it
 * is. For position p in the endless row of posts the cell's number is 2p while
 * it waits to be filled and 2p + 1 when it is filled; emptying it makes it
 * 2(p + capacity). (The doubling, against the usual p and p + 1, lets a ring of
 * one cell work.)
 *
 * A producer claims a position by advancing `tail`, writes, then publishes the
 * number. One that is stopped between the two hides what later producers have
 * published behind it: the consumer is then told "nothing yet" and must neither
 * wait for it nor skip it. Nothing is lost, because every producer wakes the loop
 * after its own publishing, and that wake finds all that has become visible.
 *
 * Cells are not spread over cache lines: with 1 to 8 producers that measured the
 * same. Nothing is allocated after nki_posts_init. */

typedef struct nki_post_cell {
    size_t turn;
    netkit_post_fn fn;
    void *user;
} nki_post_cell;

/* Producers fight over `tail`, the consumer keeps `head` to itself; a cache line
 * between them and the rest keeps one from slowing the other. */
typedef struct nki_posts {
    nki_post_cell *cells;
    size_t mask;
    const netkit_allocator *allocator;
    char pad_a[64];
    size_t tail;
    char pad_b[64];
    size_t head;
    char pad_c[64];
} nki_posts;

/* `capacity` is a power of two. Returns NETKIT_OK, NETKIT_E_INVALID,
 * NETKIT_E_NOMEM; the queue can be freed after all of these. */
static int nki_posts_init(nki_posts *q, const netkit_allocator *a, uint32_t capacity) {
    size_t i;
    memset(q, 0, sizeof(*q));
    q->allocator = a;
    if (capacity == 0 || (capacity & (capacity - 1)) != 0) {
        return NETKIT_E_INVALID;
    }
    if ((uint64_t)capacity * sizeof(nki_post_cell) > SIZE_MAX / 2) {
        return NETKIT_E_NOMEM;
    }
    q->cells = (nki_post_cell *)nki_alloc(a, sizeof(nki_post_cell) * capacity);
    if (q->cells == NULL) {
        return NETKIT_E_NOMEM;
    }
    q->mask = (size_t)capacity - 1;
    for (i = 0; i < capacity; i++) {
        q->cells[i].turn = 2 * i;
    }
    return NETKIT_OK;
}

/* No producer may be inside nki_posts_push any more. */
static void nki_posts_free(nki_posts *q) {
    nki_free(q->allocator, q->cells, sizeof(nki_post_cell) * (q->mask + 1));
    q->cells = NULL;
}

/* Any thread. Returns NETKIT_OK or NETKIT_E_FULL. Wake the loop after it. */
static int nki_posts_push(nki_posts *q, netkit_post_fn fn, void *user) {
    size_t at = nki_atomic_load_relaxed(&q->tail);
    nki_post_cell *cell;
    for (;;) {
        size_t turn;
        cell = &q->cells[at & q->mask];
        turn = nki_atomic_load(&cell->turn);
        if (turn == 2 * at) {
            if (nki_atomic_cas_size(&q->tail, &at, at + 1)) {
                break;
            }
        } else if (turn - 2 * at > SIZE_MAX / 2) {
            return NETKIT_E_FULL; /* still holds the post of a lap ago */
        } else {
            at = nki_atomic_load_relaxed(&q->tail);
        }
    }
    cell->fn = fn;
    cell->user = user;
    nki_atomic_store(&cell->turn, 2 * at + 1);
    return NETKIT_OK;
}

/* The consumer alone: whether a pop would give nothing now. */
static bool nki_posts_is_empty(const nki_posts *q) {
    return nki_atomic_load(&q->cells[q->head & q->mask].turn) != 2 * q->head + 1;
}

/* The consumer alone. False when nothing is there, or not yet. */
static bool nki_posts_pop(nki_posts *q, netkit_post_fn *fn, void **user) {
    nki_post_cell *cell = &q->cells[q->head & q->mask];
    if (nki_posts_is_empty(q)) {
        return false;
    }
    *fn = cell->fn;
    *user = cell->user;
    nki_atomic_store(&cell->turn, 2 * (q->head + q->mask + 1));
    q->head++;
    return true;
}
