/* Timers: a hierarchical wheel that hands what is next to a small exact heap.
 *
 * Time is cut into ticks of 2^20 ns. Entries whose tick is after `base` lie
 * unsorted in slots: on level n a slot is 64^n ticks wide, and an entry lies on
 * the level of the highest digit (base 64) in which its tick differs from `base`.
 * Entries up to `base` lie in `soon`, a 4-ary heap on the exact due time and the
 * order of starting. So soon holds what is earlier than all slots, and only when
 * it is empty the earliest slot is opened: `base` moves to its start, its entries
 * go to lower levels or to soon. A slot with one chunk of entries is not opened
 * but looked through, so that a lonely timer an hour away does not move `base`
 * there, which would make a heap of all that is started meanwhile.
 *
 * An entry may lie in a slot earlier than its due time asks for, never in a later
 * one: restarting to a later time, which is what idle timeouts do all the time,
 * changes the due time in place, and opening the slot moves it on, once.
 *
 * Slots are chains of chunks of {due, node} and not linked nodes, because opening
 * one then reads memory in sequence and only writes to the nodes: chasing a
 * million links costs a cache miss each. A million timers against libev's heap, time
 * of insert, restart, cancel, fire: this 1.3, 0.44, 0.58, 0.36; linked slots 0.7,
 * 0.7, 0.5, 0.8; a 4-ary heap alone 1.8, 0.83, 0.9, 0.55. All memory is for
 * `capacity` nodes in the worst distribution, in one block, so that nothing but a
 * start can fail.
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

#if defined(__GNUC__)
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

/* Every slot may have one chunk that is not full. */
static uint64_t nki_timers_chunks_for(uint64_t nodes) {
    uint64_t partial = NKI_MIN(nodes, (uint64_t)NKI_TIMER_LEVELS * NKI_TIMER_SLOTS);
    return partial + (nodes - partial) / NKI_TIMER_CHUNK;
}

/* Go over to a larger block, cut into the three arrays. */
static void nki_timers_move(nki_timers *t, void *memory, uint32_t capacity, uint32_t places) {
    nki_timer_entry *pool = (nki_timer_entry *)memory;
    nki_timer_entry *soon = pool + places;
    nki_timer_chunk *chunks = (nki_timer_chunk *)(void *)(soon + capacity);
    if (t->memory != NULL) {
        memcpy(pool, t->pool, sizeof(*pool) * NKI_TIMER_CHUNK * t->chunk_used);
        memcpy(soon, t->soon, sizeof(*soon) * t->soon_count);
        memcpy(chunks, t->chunks, sizeof(*chunks) * t->chunk_used);
        nki_free(t->allocator, t->memory, t->memory_size);
    }
    t->memory = memory;
    t->pool = pool;
    t->soon = soon;
    t->chunks = chunks;
    t->capacity = capacity;
}

/* Make room for `count` more nodes than are in now, so that starting them cannot
 * fail. Returns NETKIT_OK or NETKIT_E_NOMEM, which changes nothing. */
static int nki_timers_reserve(nki_timers *t, uint32_t count) {
    uint64_t need = (uint64_t)t->count + count;
    uint64_t capacity = NKI_MAX(t->capacity, 16);
    uint64_t chunks, places, size;
    void *memory;
    if (need <= t->capacity) {
        return NETKIT_OK;
    }
    while (capacity < need) {
        capacity *= 2;
    }
    chunks = nki_timers_chunks_for(capacity);
    places = chunks * NKI_TIMER_CHUNK;
    size = (places + capacity) * sizeof(nki_timer_entry) + chunks * sizeof(nki_timer_chunk);
    if (places >= NKI_TIMER_SOON || size > SIZE_MAX / 2) {
        return NETKIT_E_NOMEM;
    }
    memory = nki_alloc(t->allocator, (size_t)size);
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    nki_timers_move(t, memory, (uint32_t)capacity, (uint32_t)places);
    t->memory_size = (size_t)size;
    return NETKIT_OK;
}

/* There always is one: see nki_timers_chunks_for. */
static uint32_t nki_timers_chunk_take(nki_timers *t) {
    uint32_t chunk = t->chunk_free;
    if (chunk == 0) {
        return t->chunk_used++;
    }
    t->chunk_free = t->chunks[chunk - 1].before;
    return chunk - 1;
}

static void nki_timers_chunk_give(nki_timers *t, uint32_t chunk) {
    t->chunks[chunk].before = t->chunk_free;
    t->chunk_free = chunk + 1;
}

/* ---- soon: the heap -------------------------------------------------------- */

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

static void nki_timers_slot_add(nki_timers *t, uint32_t slot, nki_timer_entry e) {
    uint32_t end = t->slots[slot];
    if (end % NKI_TIMER_CHUNK == 0) {
        uint32_t chunk = nki_timers_chunk_take(t);
        t->chunks[chunk].before = end / NKI_TIMER_CHUNK;
        t->chunks[chunk].slot = slot;
        end = chunk * NKI_TIMER_CHUNK;
    }
    t->pool[end] = e;
    e.node->at = end + 1;
    t->slots[slot] = end + 1;
}

static void nki_timers_slot_remove(nki_timers *t, uint32_t place) {
    uint32_t slot = t->chunks[place / NKI_TIMER_CHUNK].slot;
    uint32_t last = t->slots[slot] - 1;
    if (place != last) {
        t->pool[place] = t->pool[last];
        t->pool[place].node->at = place + 1;
    }
    if (last % NKI_TIMER_CHUNK == 0) {
        uint32_t before = t->chunks[last / NKI_TIMER_CHUNK].before;
        nki_timers_chunk_give(t, last / NKI_TIMER_CHUNK);
        last = before * NKI_TIMER_CHUNK;
        if (before == 0) {
            t->filled[slot / NKI_TIMER_SLOTS] &= ~((uint64_t)1 << slot % NKI_TIMER_SLOTS);
        }
    }
    t->slots[slot] = last;
}

static void nki_timers_add(nki_timers *t, nki_timer_entry e) {
    uint64_t tick = nki_timers_tick(e.due_ns);
    uint32_t level, digit;
    if (tick <= t->base) {
        nki_timers_soon_up(t, t->soon_count++, e);
        return;
    }
    level = nki_highest_bit(tick ^ t->base) / NKI_TIMER_SLOT_BITS;
    digit = (uint32_t)(tick >> level * NKI_TIMER_SLOT_BITS) % NKI_TIMER_SLOTS;
    t->filled[level] |= (uint64_t)1 << digit;
    nki_timers_slot_add(t, level * NKI_TIMER_SLOTS + digit, e);
}

/* Move on all that is in the earliest slot. A chunk is copied out and given back
 * before its entries are placed, so there are always chunks enough. */
static void nki_timers_slot_open(nki_timers *t, uint32_t slot) {
    uint32_t end = t->slots[slot];
    t->base = nki_timers_slot_start(t, slot);
    t->slots[slot] = 0;
    t->filled[slot / NKI_TIMER_SLOTS] &= ~((uint64_t)1 << slot % NKI_TIMER_SLOTS);
    while (end != 0) {
        nki_timer_entry entries[NKI_TIMER_CHUNK];
        uint32_t chunk = (end - 1) / NKI_TIMER_CHUNK;
        uint32_t count = end - chunk * NKI_TIMER_CHUNK;
        uint32_t i;
        memcpy(entries, &t->pool[(size_t)chunk * NKI_TIMER_CHUNK], sizeof(*entries) * count);
        for (i = 0; i < count; i++) {
            NKI_PREFETCH(entries[i].node);
        }
        end = t->chunks[chunk].before * NKI_TIMER_CHUNK;
        nki_timers_chunk_give(t, chunk);
        for (i = 0; i < count; i++) {
            nki_timers_add(t, entries[i]);
        }
    }
}

/* The earliest in a slot of one chunk; NULL when there are more, or when it is
 * due after the slot and may not be the earliest of all. */
static nki_timer_node *nki_timers_slot_first(const nki_timers *t, uint32_t slot) {
    uint32_t end = t->slots[slot];
    uint32_t chunk = (end - 1) / NKI_TIMER_CHUNK;
    uint32_t shift = slot / NKI_TIMER_SLOTS * NKI_TIMER_SLOT_BITS;
    uint32_t i = chunk * NKI_TIMER_CHUNK;
    nki_timer_entry first = t->pool[i];
    if (t->chunks[chunk].before != 0) {
        return NULL;
    }
    for (i++; i < end; i++) {
        if (nki_timers_before(t->pool[i], first)) {
            first = t->pool[i];
        }
    }
    if (nki_timers_tick(first.due_ns) >> shift != nki_timers_slot_start(t, slot) >> shift) {
        return NULL;
    }
    return first.node;
}

/* ---- the queue ------------------------------------------------------------- */

/* The earliest, NULL when there is none. Opens slots on the way to it. */
static nki_timer_node *nki_timers_find_first(nki_timers *t) {
    while (t->soon_count == 0 && t->count > 0) {
        uint32_t level = 0;
        uint32_t slot;
        nki_timer_node *node;
        while (t->filled[level] == 0) {
            level++;
        }
        slot = level * NKI_TIMER_SLOTS + nki_lowest_bit(t->filled[level]);
        node = nki_timers_slot_first(t, slot);
        if (node != NULL) {
            return node;
        }
        nki_timers_slot_open(t, slot);
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

/* `n` is not in. Returns NETKIT_OK or NETKIT_E_NOMEM, which changes nothing. */
/* `n` gets a new due time: is it the first now, or is the first unknown? */
static void nki_timers_first_changed(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    if (t->first == n) {
        t->first = NULL;
    } else if (t->first != NULL && due_ns < t->first->due_ns) {
        t->first = n;
    }
}

static int nki_timers_start(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    nki_timer_entry e;
    NETKIT_ASSERT(n->at == 0);
    if (t->count == t->capacity && nki_timers_reserve(t, 1) < 0) {
        return NETKIT_E_NOMEM;
    }
    n->due_ns = due_ns;
    n->order = t->order++;
    e.due_ns = due_ns;
    e.node = n;
    t->count++;
    nki_timers_first_changed(t, n, due_ns);
    nki_timers_add(t, e);
    return NETKIT_OK;
}

static void nki_timers_remove(nki_timers *t, const nki_timer_node *n) {
    if ((n->at & NKI_TIMER_SOON) != 0) {
        nki_timers_soon_remove(t, n->at & ~NKI_TIMER_SOON);
    } else {
        nki_timers_slot_remove(t, n->at - 1);
    }
}

/* `n` is in. It comes behind those that are due at the same time. */
static void nki_timers_restart(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    nki_timer_entry e;
    NETKIT_ASSERT(n->at != 0);
    nki_timers_first_changed(t, n, due_ns);
    n->due_ns = due_ns;
    n->order = t->order++;
    e.due_ns = due_ns;
    e.node = n;
    if ((n->at & NKI_TIMER_SOON) == 0) {
        uint32_t slot = t->chunks[(n->at - 1) / NKI_TIMER_CHUNK].slot;
        if (nki_timers_tick(due_ns) >= nki_timers_slot_start(t, slot)) {
            t->pool[n->at - 1].due_ns = due_ns;
            return;
        }
    } else if (nki_timers_tick(due_ns) <= t->base) {
        nki_timers_soon_settle(t, n->at & ~NKI_TIMER_SOON, e);
        return;
    }
    nki_timers_remove(t, n);
    nki_timers_add(t, e);
}

/* Take out `n`, if it is in. */
static void nki_timers_stop(nki_timers *t, nki_timer_node *n) {
    if (n->at == 0) {
        return;
    }
    if (t->first == n) {
        t->first = NULL;
    }
    nki_timers_remove(t, n);
    n->at = 0;
    t->count--;
}
