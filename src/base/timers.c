/* Timers: a 4-ary heap of {due, node}, exact to the nanosecond and FIFO among
 * equals. */

static void nki_timers_init(nki_timers *t, const netkit_allocator *a) {
    memset(t, 0, sizeof(*t));
    t->allocator = a;
}

static void nki_timers_free(nki_timers *t) {
    nki_free(t->allocator, t->entries, sizeof(*t->entries) * t->capacity);
    t->entries = NULL;
    t->capacity = 0;
    t->count = 0;
}

static uint32_t nki_timers_count(const nki_timers *t) {
    return t->count;
}

static nki_timer_node *nki_timers_first(const nki_timers *t) {
    return t->count == 0 ? NULL : t->entries[0].node;
}

/* Make room for `count` more nodes than are in now. */
static int nki_timers_reserve(nki_timers *t, uint32_t count) {
    uint64_t need = (uint64_t)t->count + count;
    uint64_t capacity = t->capacity == 0 ? 16 : t->capacity;
    nki_timer_entry *entries;
    if (need <= t->capacity) {
        return NETKIT_OK;
    }
    while (capacity < need) {
        capacity *= 2;
    }
    if (capacity > UINT32_MAX / 2 || capacity * sizeof(*entries) > SIZE_MAX / 2) {
        return NETKIT_E_NOMEM;
    }
    entries = (nki_timer_entry *)nki_alloc(t->allocator, sizeof(*entries) * (size_t)capacity);
    if (entries == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (t->count > 0) {
        memcpy(entries, t->entries, sizeof(*entries) * t->count);
    }
    nki_free(t->allocator, t->entries, sizeof(*entries) * t->capacity);
    t->entries = entries;
    t->capacity = (uint32_t)capacity;
    return NETKIT_OK;
}

static bool nki_timers_before(nki_timer_entry a, nki_timer_entry b) {
    return a.due_ns < b.due_ns || (a.due_ns == b.due_ns && a.node->order < b.node->order);
}

static void nki_timers_place(nki_timers *t, uint32_t index, nki_timer_entry e) {
    t->entries[index] = e;
    e.node->at = index + 1;
}

static void nki_timers_up(nki_timers *t, uint32_t index, nki_timer_entry e) {
    while (index > 0) {
        uint32_t parent = (index - 1) / 4;
        if (!nki_timers_before(e, t->entries[parent])) {
            break;
        }
        nki_timers_place(t, index, t->entries[parent]);
        index = parent;
    }
    nki_timers_place(t, index, e);
}

static void nki_timers_down(nki_timers *t, uint32_t index, nki_timer_entry e) {
    for (;;) {
        uint64_t child = (uint64_t)index * 4 + 1;
        uint64_t end = NKI_MIN(child + 4, t->count);
        uint64_t best = child;
        if (child >= t->count) {
            break;
        }
        for (child++; child < end; child++) {
            if (nki_timers_before(t->entries[child], t->entries[best])) {
                best = child;
            }
        }
        if (!nki_timers_before(t->entries[best], e)) {
            break;
        }
        nki_timers_place(t, index, t->entries[best]);
        index = (uint32_t)best;
    }
    nki_timers_place(t, index, e);
}

static void nki_timers_settle(nki_timers *t, uint32_t index, nki_timer_entry e) {
    if (index > 0 && nki_timers_before(e, t->entries[(index - 1) / 4])) {
        nki_timers_up(t, index, e);
    } else {
        nki_timers_down(t, index, e);
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
    nki_timers_up(t, t->count++, e);
    return NETKIT_OK;
}

static void nki_timers_restart(nki_timers *t, nki_timer_node *n, uint64_t due_ns) {
    nki_timer_entry e;
    NETKIT_ASSERT(n->at != 0);
    n->due_ns = due_ns;
    n->order = t->order++;
    e.due_ns = due_ns;
    e.node = n;
    nki_timers_settle(t, n->at - 1, e);
}

static void nki_timers_stop(nki_timers *t, nki_timer_node *n) {
    uint32_t index = n->at - 1;
    nki_timer_entry last;
    if (n->at == 0) {
        return;
    }
    n->at = 0;
    last = t->entries[--t->count];
    if (last.node != n) {
        nki_timers_settle(t, index, last);
    }
}
