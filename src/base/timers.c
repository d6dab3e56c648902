/* Timers: a hierarchical wheel that hands what is next to a small exact heap.
 *
 * Time is cut into ticks of 2^20 ns. Nodes whose tick is after `base` lie unsorted in
 * slots: on level n a slot is 64^n ticks wide, and a node lies on the level of the
 * highest digit (base 64) in which its tick differs from `base`. Nodes up to `base`
 * lie in `soon`, a 4-ary heap on the exact due time and the order of starting. So soon
 * holds what is earlier than all slots, and only when it is empty the earliest slot is
 * opened: `base` moves to its start, its nodes go to lower levels or to soon. A slot of
 * few nodes is not opened but looked through, so that a lonely timer an hour away does
 * not move `base` there, which would make a heap of all that is started meanwhile.
 *
 * A node may lie in a slot earlier than its due time asks for, never in a later one:
 * restarting to a later time, which is what idle timeouts do all the time, writes to
 * the node alone, and opening the slot moves it on, once.
 *
 * Slots are chains of chunks of pointers and not linked nodes, because opening one then
 * reads memory in sequence and fetches the nodes ahead: chasing a million links costs a
 * cache miss each. With a million timers the misses are the whole price, so leaving a slot
 * touches nothing but the node, if its memory lasts: its place is a hole from then on, as
 * the node says that it is elsewhere. (Else the place is emptied, which costs a third more.)
 * Holes stay until their slot is opened or looked through, until the queue is empty, or
 * until they are as many as the nodes may be: then all slots are swept.
 *
 * A million timers in random order against libev's heap, CPU time of insert, restart, cancel,
 * fire: 1.2, 1.1, 0.95, 0.44; with a whole cache line for each timer 1.2, 1.2, 1.1, 0.28, and
 * with due times in the slots and no holes besides 1.3, 1.5, 2.0, 0.29. What is left of a restart
 * or cancel is two misses, the user's handle and the node; a firing has one more, what to call.
 *
 * Memory is for `capacity` nodes and as many holes in the worst distribution, in one
 * block, so that nothing but a start can fail: see nki_timers_chunks_for.
 *
 * Nothing here reads a clock: `base` follows the due times that were asked for. */

#define NKI_TIMER_SOON 0x80000000u /* in `at`: the rest is an index into soon */

static void nki_timers_init(nki_timers *t, const netkit_allocator *a) {
    memset(t, 0, sizeof(*t));
    t->allocator = a;
}

/* Nodes that are still in are forgotten, not touched. */
static void nki_timers_free(nki_timers *t) {
    nki_free(t->allocator, t->memory, t->memory_size);
    nki_timers_init(t, t->allocator);
}

#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_ARM64))
static uint32_t nki_lowest_bit(uint64_t bits) {
    unsigned long at;
    (void)_BitScanForward64(&at, bits);
    return (uint32_t)at;
}
static uint32_t nki_highest_bit(uint64_t bits) {
    unsigned long at;
    (void)_BitScanReverse64(&at, bits);
    return (uint32_t)at;
}
#define NKI_PREFETCH(p) NKI_UNUSED(p)
#elif defined(__GNUC__)
static uint32_t nki_lowest_bit(uint64_t bits) {
    return (uint32_t)__builtin_ctzll(bits);
}
static uint32_t nki_highest_bit(uint64_t bits) {
    return 63 - (uint32_t)__builtin_clzll(bits);
}
#define NKI_PREFETCH(p) __builtin_prefetch((p), 1)
#else
static uint32_t nki_highest_bit(uint64_t bits) {
    uint32_t at = 0;
    uint32_t step;
    for (step = 32; step > 0; step /= 2) {
        if (bits >> step != 0) {
            bits >>= step;
            at += step;
        }
    }
    return at;
}
static uint32_t nki_lowest_bit(uint64_t bits) {
    return nki_highest_bit(bits & (~bits + 1));
}
#define NKI_PREFETCH(p) NKI_UNUSED(p)
#endif

/* ---- memory ---------------------------------------------------------------- */

/* The most chunks that so many places fill. Each slot may have one that is not full; the
 * others hold NKI_TIMER_CHUNK places each. (A slot that is being poured out gives back the one
 * that is not full first, and has only full ones from then on, so a new one may grow beside.) */
static uint64_t nki_timers_chunks_for(uint64_t places) {
    uint64_t partial = NKI_MIN(places, (uint64_t)NKI_TIMER_LEVELS * NKI_TIMER_SLOTS);
    return partial + (places - partial) / NKI_TIMER_CHUNK;
}

/* The most places that are filled, with nodes or holes. So a sweep, which leaves at most
 * `capacity`, comes after as many nodes have left slots, and each of them pays for one. */
static uint64_t nki_timers_places_max(uint64_t capacity) {
    return capacity * 2;
}

/* Go over to a larger block, cut into the three arrays. */
static void nki_timers_move(nki_timers *t, void *memory, uint32_t capacity, uint32_t chunks) {
    nki_timer_entry *soon = (nki_timer_entry *)memory;
    nki_timer_node **pool = (nki_timer_node **)(void *)(soon + capacity);
    uint32_t *before = (uint32_t *)(void *)(pool + (size_t)chunks * NKI_TIMER_CHUNK);
    if (t->memory != NULL) {
        memcpy(soon, t->soon, sizeof(*soon) * t->soon_count);
        memcpy(pool, t->pool, sizeof(void *) * NKI_TIMER_CHUNK * t->chunk_used);
        memcpy(before, t->before, sizeof(*before) * t->chunk_used);
        nki_free(t->allocator, t->memory, t->memory_size);
    }
    t->memory = memory;
    t->soon = soon;
    t->pool = pool;
    t->before = before;
    t->capacity = capacity;
}

/* Make room for `count` more nodes than are in now, so that starting them cannot
 * fail. Returns NETKIT_OK or NETKIT_E_NOMEM, which changes nothing. */
static int nki_timers_reserve(nki_timers *t, uint32_t count) {
    const uint64_t places_max = NKI_MIN(NKI_TIMER_SOON, SIZE_MAX / 32); /* of under 16 bytes */
    uint64_t need = (uint64_t)t->count + count;
    uint64_t capacity = NKI_MAX(t->capacity, 16);
    uint64_t chunks, size;
    void *memory;
    if (need <= t->capacity) {
        return NETKIT_OK;
    }
    while (capacity < need) {
        capacity *= 2;
    }
    chunks = nki_timers_chunks_for(nki_timers_places_max(capacity));
    size = capacity * sizeof(*t->soon) +
           chunks * (NKI_TIMER_CHUNK * sizeof(void *) + sizeof(*t->before));
    if (chunks >= places_max / NKI_TIMER_CHUNK) {
        return NETKIT_E_NOMEM;
    }
    memory = nki_alloc(t->allocator, (size_t)size);
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_timers_move(t, memory, (uint32_t)capacity, (uint32_t)chunks);
    t->memory_size = (size_t)size;
    return NETKIT_OK;
}

/* There always is one: see nki_timers_chunks_for. */
static uint32_t nki_timers_chunk_take(nki_timers *t) {
    uint32_t chunk = t->chunk_free;
    if (chunk == 0) {
        return t->chunk_used++;
    }
    t->chunk_free = t->before[chunk - 1];
    return chunk - 1;
}

/* Give back the chunk that is filled up to `end`. Returns the end of the one before it in
 * its slot, which is full; 0 = none. */
static uint32_t nki_timers_chunk_give(nki_timers *t, uint32_t end) {
    uint32_t chunk = (end - 1) / NKI_TIMER_CHUNK;
    uint32_t before = t->before[chunk];
    t->places -= end - chunk * NKI_TIMER_CHUNK;
    t->before[chunk] = t->chunk_free;
    t->chunk_free = chunk + 1;
    return before * NKI_TIMER_CHUNK;
}

/* ---- soon: the heap -------------------------------------------------------- */

static nki_timer_entry nki_timers_entry(nki_timer_node *n) {
    nki_timer_entry e;
    e.due_ns = n->due_ns;
    e.node = n;
    return e;
}

static bool nki_timers_before(nki_timer_entry a, nki_timer_entry b) {
    return a.due_ns < b.due_ns || (a.due_ns == b.due_ns && a.node->order < b.node->order);
}

static void nki_timers_soon_place(nki_timers *t, uint32_t index, nki_timer_entry e) {
    t->soon[index] = e;
    e.node->at = NKI_TIMER_SOON | index;
}

static void nki_timers_soon_up(nki_timers *t, uint32_t index, nki_timer_entry e) {
    while (index > 0) {
        uint32_t parent = (index - 1) / 4;
        if (!nki_timers_before(e, t->soon[parent])) {
            break;
        }
        nki_timers_soon_place(t, index, t->soon[parent]);
        index = parent;
    }
    nki_timers_soon_place(t, index, e);
}

static void nki_timers_soon_down(nki_timers *t, uint32_t index, nki_timer_entry e) {
    uint64_t child = (uint64_t)index * 4 + 1;
    while (child < t->soon_count) {
        uint64_t end = NKI_MIN(child + 4, t->soon_count);
        uint64_t best = child;
        for (child++; child < end; child++) {
            if (nki_timers_before(t->soon[child], t->soon[best])) {
                best = child;
            }
        }
        if (!nki_timers_before(t->soon[best], e)) {
            break;
        }
        nki_timers_soon_place(t, index, t->soon[best]);
        index = (uint32_t)best;
        child = best * 4 + 1;
    }
    nki_timers_soon_place(t, index, e);
}

/* Place an entry where there is a hole, or one that has changed. */
static void nki_timers_soon_settle(nki_timers *t, uint32_t index, nki_timer_entry e) {
    if (index > 0 && nki_timers_before(e, t->soon[(index - 1) / 4])) {
        nki_timers_soon_up(t, index, e);
    } else {
        nki_timers_soon_down(t, index, e);
    }
}

static void nki_timers_soon_remove(nki_timers *t, uint32_t index) {
    nki_timer_entry last = t->soon[--t->soon_count];
    if (index != t->soon_count) {
        nki_timers_soon_settle(t, index, last);
    }
}

/* ---- slots: the wheel ------------------------------------------------------ */

static uint64_t nki_timers_tick(uint64_t due_ns) {
    return due_ns >> NKI_TIMER_TICK_BITS;
}

/* The slot is one after base, so they share all digits above its level. */
static uint64_t nki_timers_slot_start(const nki_timers *t, uint32_t slot) {
    uint32_t shift = slot / NKI_TIMER_SLOTS * NKI_TIMER_SLOT_BITS;
    uint64_t above = t->base >> shift >> NKI_TIMER_SLOT_BITS;
    return (above << NKI_TIMER_SLOT_BITS | slot % NKI_TIMER_SLOTS) << shift;
}

/* Not a hole: the node in this place lies here, and has not gone elsewhere. */
static bool nki_timers_is_at(const nki_timers *t, uint32_t place) {
    return t->pool[place] != NULL && t->pool[place]->at == place + 1;
}

static void nki_timers_slot_add(nki_timers *t, uint32_t slot, nki_timer_node *n) {
    uint32_t end = t->slots[slot];
    if (end % NKI_TIMER_CHUNK == 0) {
        uint32_t chunk = nki_timers_chunk_take(t);
        t->before[chunk] = end / NKI_TIMER_CHUNK;
        end = chunk * NKI_TIMER_CHUNK;
    }
    t->pool[end] = n;
    t->places++;
    t->slots[slot] = end + 1;
    n->at = end + 1;
    n->slot = slot & 0xFFFFu;
}

/* Make the slot an empty one. Returns where its chain ended. */
static uint32_t nki_timers_slot_detach(nki_timers *t, uint32_t slot) {
    uint32_t end = t->slots[slot];
    t->slots[slot] = 0;
    t->filled[slot / NKI_TIMER_SLOTS] &= ~((uint64_t)1 << slot % NKI_TIMER_SLOTS);
    return end;
}

static void nki_timers_add(nki_timers *t, nki_timer_node *n) {
    uint64_t tick = nki_timers_tick(n->due_ns);
    uint32_t level, digit;
    if (tick <= t->base) {
        nki_timers_soon_up(t, t->soon_count++, nki_timers_entry(n));
        return;
    }
    level = nki_highest_bit(tick ^ t->base) / NKI_TIMER_SLOT_BITS;
    digit = (uint32_t)(tick >> level * NKI_TIMER_SLOT_BITS) % NKI_TIMER_SLOTS;
    t->filled[level] |= (uint64_t)1 << digit;
    nki_timers_slot_add(t, level * NKI_TIMER_SLOTS + digit, n);
}

/* Have the nodes of the chunk that is filled up to `end` on their way. */
static void nki_timers_fetch(const nki_timers *t, uint32_t end) {
    uint32_t first = (end - 1) / NKI_TIMER_CHUNK * NKI_TIMER_CHUNK;
    for (; end > first; end--) {
        NKI_PREFETCH(t->pool[end - 1]);
    }
}

/* Copy out the nodes of the chunk that is filled up to `end`. Returns how many there are. */
static uint32_t nki_timers_chunk_read(const nki_timers *t, uint32_t end, nki_timer_node **out) {
    uint32_t place = (end - 1) / NKI_TIMER_CHUNK * NKI_TIMER_CHUNK;
    uint32_t count = 0;
    for (; place < end; place++) {
        if (nki_timers_is_at(t, place)) {
            out[count++] = t->pool[place];
        }
    }
    return count;
}

/* Take all out of a slot and place it where it belongs now. A chunk is copied out and given
 * back before its nodes are placed, so there are always chunks enough. */
static void nki_timers_slot_pour(nki_timers *t, uint32_t slot) {
    uint32_t end = nki_timers_slot_detach(t, slot);
    nki_timers_fetch(t, end);
    while (end != 0) {
        nki_timer_node *nodes[NKI_TIMER_CHUNK];
        uint32_t count = nki_timers_chunk_read(t, end, nodes);
        uint32_t i;
        end = nki_timers_chunk_give(t, end);
        if (end != 0) {
            nki_timers_fetch(t, end);
        }
        for (i = 0; i < count; i++) {
            nki_timers_add(t, nodes[i]);
        }
    }
}

/* Rid all slots of holes. */
static NKI_OUTLINE void nki_timers_sweep(nki_timers *t) {
    uint32_t level;
    for (level = 0; level < NKI_TIMER_LEVELS; level++) {
        uint64_t filled = t->filled[level];
        for (; filled != 0; filled &= filled - 1) {
            nki_timers_slot_pour(t, level * NKI_TIMER_SLOTS + nki_lowest_bit(filled));
        }
    }
}

/* No node is in, only holes are left. */
static void nki_timers_clear(nki_timers *t) {
    uint32_t level;
    for (level = 0; level < NKI_TIMER_LEVELS; level++) {
        while (t->filled[level] != 0) {
            uint32_t slot = level * NKI_TIMER_SLOTS + nki_lowest_bit(t->filled[level]);
            (void)nki_timers_slot_detach(t, slot);
        }
    }
    t->places = 0;
    t->chunk_used = 0;
    t->chunk_free = 0;
}

/* More than a chunk of them. */
static bool nki_timers_slot_has_many(const nki_timers *t, uint32_t slot) {
    nki_timer_node *nodes[NKI_TIMER_CHUNK];
    uint32_t end = t->slots[slot];
    uint32_t count = 0;
    while (end != 0 && count <= NKI_TIMER_CHUNK) {
        count += nki_timers_chunk_read(t, end, nodes);
        end = t->before[(end - 1) / NKI_TIMER_CHUNK] * NKI_TIMER_CHUNK;
    }
    return count > NKI_TIMER_CHUNK;
}

/* The earliest of a slot of one chunk; NULL when there is none, or when it is due after the
 * slot, as all are then, and may not be the earliest of all. */
static nki_timer_node *nki_timers_slot_first(const nki_timers *t, uint32_t slot) {
    nki_timer_node *nodes[NKI_TIMER_CHUNK];
    uint32_t count = nki_timers_chunk_read(t, t->slots[slot], nodes);
    uint32_t shift = slot / NKI_TIMER_SLOTS * NKI_TIMER_SLOT_BITS;
    nki_timer_entry first;
    if (count == 0) {
        return NULL;
    }
    first = nki_timers_entry(nodes[0]);
    while (--count > 0) {
        if (nki_timers_before(nki_timers_entry(nodes[count]), first)) {
            first = nki_timers_entry(nodes[count]);
        }
    }
    if (nki_timers_tick(first.due_ns) >> shift != nki_timers_slot_start(t, slot) >> shift) {
        return NULL;
    }
    return first.node;
}

/* ---- the queue ------------------------------------------------------------- */

static uint32_t nki_timers_first_slot(const nki_timers *t) {
    uint32_t level = 0;
    while (t->filled[level] == 0) {
        level++;
    }
    return level * NKI_TIMER_SLOTS + nki_lowest_bit(t->filled[level]);
}

/* The earliest, NULL when there is none. Opens slots on the way to it. */
static nki_timer_node *nki_timers_find_first(nki_timers *t) {
    while (t->soon_count == 0 && t->count > 0) {
        uint32_t slot = nki_timers_first_slot(t);
        if (t->before[(t->slots[slot] - 1) / NKI_TIMER_CHUNK] == 0) {
            nki_timer_node *first = nki_timers_slot_first(t, slot);
            if (first != NULL) {
                return first;
            }
        } else if (nki_timers_slot_has_many(t, slot)) {
            t->base = nki_timers_slot_start(t, slot);
        }
        nki_timers_slot_pour(t, slot);
    }
    return t->soon_count == 0 ? NULL : t->soon[0].node;
}

/* The earliest node, or NULL. Remembered, as a loop asks several times a turn. */
static nki_timer_node *nki_timers_first(nki_timers *t) {
    if (t->first == NULL) {
        t->first = nki_timers_find_first(t);
    }
    return t->first;
}

/* `n` gets a new due time: is it the first now, or is the first unknown? */
static void nki_timers_first_changed(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    if (t->first == n) {
        t->first = NULL;
    } else if (t->first != NULL && due_ns < t->first->due_ns) {
        t->first = n;
    }
}

/* Place `n`, which lies nowhere. */
static void nki_timers_place(nki_timers *t, nki_timer_node *n) {
    if (NKI_UNLIKELY(t->places == nki_timers_places_max(t->capacity))) {
        nki_timers_sweep(t);
    }
    nki_timers_add(t, n);
}

/* `n` is not in. Returns NETKIT_OK or NETKIT_E_NOMEM, which changes nothing. */
static int nki_timers_start(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    NETKIT_ASSERT(n->at == 0);
    if (t->count == t->capacity && nki_timers_reserve(t, 1) < 0) {
        return NETKIT_E_NOMEM;
    }
    nki_timers_first_changed(t, n, due_ns);
    n->due_ns = due_ns;
    n->order = t->order++;
    t->count++;
    nki_timers_place(t, n);
    return NETKIT_OK;
}

/* A place in a slot becomes a hole: by `n` being elsewhere, if it lasts. */
static void nki_timers_remove(nki_timers *t, nki_timer_node *n) {
    if (NKI_UNLIKELY((n->at & NKI_TIMER_SOON) != 0)) {
        nki_timers_soon_remove(t, n->at & ~NKI_TIMER_SOON);
    } else if (!n->is_lasting) {
        t->pool[n->at - 1] = NULL;
    }
    n->at = 0;
}

/* Move `n`, which lies too late for its due time, or in `soon` and not in its order. */
static NKI_OUTLINE void nki_timers_replace(nki_timers *t, nki_timer_node *n) {
    if ((n->at & NKI_TIMER_SOON) != 0 && nki_timers_tick(n->due_ns) <= t->base) {
        nki_timers_soon_settle(t, n->at & ~NKI_TIMER_SOON, nki_timers_entry(n));
        return;
    }
    nki_timers_remove(t, n);
    nki_timers_place(t, n);
}

/* `n` is in. It comes behind those that are due at the same time. */
static void nki_timers_restart(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    NETKIT_ASSERT(n->at != 0);
    nki_timers_first_changed(t, n, due_ns);
    n->due_ns = due_ns;
    n->order = t->order++;
    if ((n->at & NKI_TIMER_SOON) != 0 ||
        nki_timers_tick(due_ns) < nki_timers_slot_start(t, n->slot)) {
        nki_timers_replace(t, n);
    }
}

/* Take out `n`, if it is in. Unless it lasts, its memory is not looked at any more. */
static void nki_timers_stop(nki_timers *t, nki_timer_node *n) {
    if (n->at == 0) {
        return;
    }
    if (t->first == n) {
        t->first = NULL;
    }
    nki_timers_remove(t, n);
    t->count--;
    if (t->count == 0) {
        nki_timers_clear(t);
    }
}
