/* The timer queue alone, on times of the test's own, against a sorted array. */

enum {
    TIMERS_MODEL_MAX = 512
};

/* What the queue should be: the nodes in it, in order. */
typedef struct timers_model {
    nki_timers queue;
    nki_timer_node nodes[TIMERS_MODEL_MAX];
    uint64_t due[TIMERS_MODEL_MAX];   /* of each node: the queue's copy is not believed */
    uint64_t order[TIMERS_MODEL_MAX]; /* of its last start */
    uint32_t sorted[TIMERS_MODEL_MAX];
    uint32_t count;
    uint64_t starts;
    uint64_t now;
} timers_model;

static netkit_allocator timers_allocator;

static timers_model *timers_model_new(uint64_t now) {
    timers_model *m = (timers_model *)calloc(1, sizeof(*m));
    uint32_t i;
    timers_allocator = nkt_allocator();
    nki_timers_init(&m->queue, &timers_allocator);
    m->now = now;
    for (i = 0; i < TIMERS_MODEL_MAX; i++) {
        m->nodes[i].is_lasting = nkt_random() % 2 == 0;
    }
    return m;
}

static void timers_model_free(timers_model *m) {
    nki_timers_free(&m->queue);
    free(m);
}

static void timers_model_take(timers_model *m, uint32_t node) {
    uint32_t i = 0;
    while (m->sorted[i] != node) {
        i++;
    }
    m->count--;
    memmove(&m->sorted[i], &m->sorted[i + 1], sizeof(m->sorted[0]) * (m->count - i));
}

/* Equals come behind each other, so the place is before the first later one. */
static void timers_model_put(timers_model *m, uint32_t node, uint64_t due) {
    uint32_t low = 0, high = m->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (m->due[m->sorted[middle]] <= due) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    memmove(&m->sorted[low + 1], &m->sorted[low], sizeof(m->sorted[0]) * (m->count - low));
    m->sorted[low] = node;
    m->due[node] = due;
    m->order[node] = m->starts++;
    m->count++;
}

static void timers_model_start(timers_model *m, uint32_t node, uint64_t due) {
    if (m->nodes[node].at == 0) {
        CHECK_OK(nki_timers_start(&m->queue, &m->nodes[node], due));
    } else {
        nki_timers_restart(&m->queue, &m->nodes[node], due);
        timers_model_take(m, node);
    }
    timers_model_put(m, node, due);
}

static void timers_model_stop(timers_model *m, uint32_t node) {
    if (m->nodes[node].at != 0) {
        timers_model_take(m, node);
    }
    nki_timers_stop(&m->queue, &m->nodes[node]);
    CHECK(m->nodes[node].at == 0);
}

/* The queue's first is the model's; false when both are empty. */
static bool timers_model_check(timers_model *m) {
    nki_timer_node *first = nki_timers_first(&m->queue);
    CHECK_EQ(m->queue.count, m->count);
    if (m->count == 0) {
        CHECK(first == NULL);
        return false;
    }
    CHECK(first == &m->nodes[m->sorted[0]]);
    CHECK(first->due_ns == m->due[m->sorted[0]]);
    return true;
}

/* Fire the first: time moves to it. */
static void timers_model_fire(timers_model *m) {
    if (timers_model_check(m)) {
        uint32_t node = m->sorted[0];
        m->now = NKI_MAX(m->now, m->due[node]);
        timers_model_stop(m, node);
    }
}

/* A due time near and far, on equal ones, at the edges of ticks and digits, in the past. */
static uint64_t timers_random_due(uint64_t now) {
    uint64_t delay = nkt_random() >> (nkt_random() % 64);
    switch (nkt_random() % 8) {
    case 0: return now + nkt_random() % 4;
    case 1: return now + 1000000 * (nkt_random() % 100);
    case 2: return ((now >> 26) + nkt_random() % 70) << 26;
    case 3: return (((now >> 32) + 1) << 32) - nkt_random() % 3;
    case 4: return now - NKI_MIN(now, delay);
    case 5: return nkt_random() % 16 == 0 ? NKI_NEVER - nkt_random() % 2 : now + 60000000000u;
    case 6: return now + delay >= now ? now + delay : NKI_NEVER;
    default: return now + nkt_random() % 5000000000u;
    }
}

/* One random operation on the first `live` nodes; filling, time stands still. */
static void timers_random_op(timers_model *m, uint32_t live, bool filling) {
    uint32_t node = (uint32_t)(nkt_random() % live);
    switch (nkt_random() % 8) {
    case 0:
    case 1:
    case 2: timers_model_start(m, node, timers_random_due(m->now)); break;
    case 3:
        if (m->nodes[node].at != 0) { /* push an idle timeout out */
            timers_model_start(m, node, NKI_MAX(m->due[node], m->now + 60000000000u));
        }
        break;
    case 4: timers_model_stop(m, node); break;
    case 5: (void)timers_model_check(m); break;
    default:
        if (filling) {
            timers_model_start(m, node, timers_random_due(m->now));
        } else {
            timers_model_fire(m);
        }
        break;
    }
}

static void timers_random_run(uint64_t now, uint64_t ops) {
    static const uint32_t lives[] = {1, 3, 17, 64, TIMERS_MODEL_MAX};
    uint64_t i;
    for (i = 0; i < ops;) {
        timers_model *m = timers_model_new(now);
        uint32_t live = lives[nkt_random() % NKI_COUNT(lives)];
        uint64_t end = NKI_MIN(ops, i + 1000 + nkt_random() % 50000);
        for (; i < end; i++) {
            timers_random_op(m, live, i / 2048 % 2 == 0);
        }
        while (m->count > 0) {
            timers_model_fire(m);
        }
        CHECK(!timers_model_check(m));
        timers_model_free(m);
    }
}

/* M-04: random operations give the firing sequence of a sorted array. */
NKT_TEST(timers_match_a_sorted_list) {
    timers_random_run(123456789012345u, nkt_scale(10000000, 1000000));
}

/* M-08: so they do when the clock is about to pass 2^31 s, 2^32 s, 2^63 - 1 ns and 0. */
NKT_TEST(timers_pass_clock_limits) {
    uint64_t early = 2 * (uint64_t)NKI_NS_PER_S;
    timers_random_run(0x7fffffffu * (uint64_t)NKI_NS_PER_S - early, 50000);
    timers_random_run(0xffffffffu * (uint64_t)NKI_NS_PER_S - early, 50000);
    timers_random_run((uint64_t)INT64_MAX - early, 50000);
    timers_random_run(UINT64_MAX - early, 50000);
    timers_random_run(0, 50000);
}

/* M-08: a timer over the edge is exact to the nanosecond, and those behind wait. */
NKT_TEST(timers_are_exact_over_an_edge) {
    static const uint64_t edges[] = {(uint64_t)1 << 20,
                                     (uint64_t)1 << 26,
                                     (uint64_t)1 << 32,
                                     2147483648u * (uint64_t)1000000000,
                                     4294967296u * (uint64_t)1000000000,
                                     (uint64_t)1 << 62,
                                     (uint64_t)1 << 63};
    size_t i;
    for (i = 0; i < NKI_COUNT(edges); i++) {
        timers_model *m = timers_model_new(edges[i] - 5);
        uint32_t node;
        for (node = 0; node < 100; node++) {
            timers_model_start(m, node, edges[i] - 5 + (node * 7) % 10);
        }
        while (m->count > 0) {
            timers_model_fire(m);
        }
        CHECK(m->now == edges[i] + 4);
        timers_model_free(m);
    }
}

typedef struct timers_many {
    nki_timers queue;
    nki_timer_node *nodes;
    uint32_t count;
} timers_many;

static timers_many timers_many_new(uint32_t count) {
    timers_many many;
    memset(&many, 0, sizeof(many));
    many.nodes = (nki_timer_node *)calloc(count, sizeof(*many.nodes));
    many.count = count;
    timers_allocator = nkt_allocator();
    nki_timers_init(&many.queue, &timers_allocator);
    return many;
}

static void timers_many_free(timers_many *many) {
    nki_timers_free(&many->queue);
    free(many->nodes);
}

/* Fire all, checking due time, then order of start. */
static void timers_many_fire(timers_many *many) {
    uint64_t due = 0, order = 0;
    uint32_t fired = 0;
    nki_timer_node *n;
    while ((n = nki_timers_first(&many->queue)) != NULL) {
        CHECK(n->due_ns >= due);
        CHECK(n->due_ns > due || n->order >= order);
        due = n->due_ns;
        order = n->order + 1;
        nki_timers_stop(&many->queue, n);
        fired++;
    }
    CHECK_EQ(fired, many->count);
}

/* M-02: a hundred thousand at random, many of them due together. */
NKT_TEST(timers_fire_by_due_then_start) {
    timers_many many = timers_many_new(100000);
    uint32_t i, spread;
    for (spread = 1; spread <= 1000000; spread *= 100) {
        for (i = 0; i < many.count; i++) {
            CHECK_OK(nki_timers_start(&many.queue, &many.nodes[i],
                                      1000000000000u + nkt_random() % 1000 * spread));
        }
        timers_many_fire(&many);
    }
    timers_many_free(&many);
}

/* M-07: zero, the ends of 32 and 64 bits and "never" keep their order. */
NKT_TEST(timers_take_extreme_due_times) {
    static const uint64_t dues[] = {NKI_NEVER,
                                    0,
                                    1,
                                    (uint64_t)INT32_MAX * 1000000,
                                    ((uint64_t)INT32_MAX + 1) * 1000000,
                                    UINT32_MAX,
                                    (uint64_t)UINT32_MAX + 1,
                                    INT64_MAX,
                                    (uint64_t)INT64_MAX + 1,
                                    NKI_NEVER - 1,
                                    (uint64_t)1 << 62,
                                    NKI_NEVER};
    timers_model *m = timers_model_new(0);
    uint32_t i;
    for (i = 0; i < NKI_COUNT(dues); i++) {
        timers_model_start(m, i, dues[i]);
        (void)timers_model_check(m);
    }
    timers_model_fire(m);
    timers_model_start(m, 100, 5); /* with base where the wheel stood, and it turning on */
    for (i = 0; i < NKI_COUNT(dues) - 2; i++) {
        timers_model_fire(m);
    }
    CHECK_EQ(m->count, 2);
    CHECK(nki_timers_first(&m->queue)->due_ns == NKI_NEVER);
    timers_model_start(m, 100, 7); /* nothing is too early, however far base has gone */
    timers_model_fire(m);
    CHECK_EQ(m->count, 2);
    timers_model_free(m);
}

/* M-01: the queue's part: stop when idle, twice, and start again at once. */
NKT_TEST(timers_stop_is_legal_when_idle) {
    timers_model *m = timers_model_new(0);
    uint32_t i;
    timers_model_stop(m, 0);
    CHECK(!timers_model_check(m));
    for (i = 0; i < 3; i++) {
        timers_model_start(m, 0, 10);
        timers_model_start(m, 1, 10);
        timers_model_start(m, 0, 10); /* last started, so behind the other */
        timers_model_fire(m);
        CHECK(m->nodes[1].at == 0);
        timers_model_stop(m, 0);
        timers_model_stop(m, 0);
        CHECK(!timers_model_check(m));
    }
    timers_model_free(m);
}

/* SD18: a million starts and stops with what lives at a time bounded: no block is
 * asked for after the first ones, and restart and stop ask for none ever. */
NKT_TEST(timers_memory_is_flat) {
    timers_many many = timers_many_new(10000);
    uint64_t allocs, now = 0;
    uint32_t i;
    CHECK_OK(nki_timers_reserve(&many.queue, many.count));
    allocs = nkt_allocs();
    for (i = 0; i < 1000000; i++) {
        nki_timer_node *n = &many.nodes[nkt_random() % many.count];
        now += nkt_random() % 1000000;
        if (n->at == 0) {
            CHECK_OK(nki_timers_start(&many.queue, n, timers_random_due(now)));
        } else if (nkt_random() % 2 == 0) {
            nki_timers_restart(&many.queue, n, timers_random_due(now));
        } else {
            nki_timers_stop(&many.queue, n);
        }
    }
    CHECK_EQ(nkt_allocs(), allocs);
    timers_many_free(&many);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* M-04: the memory is enough for the worst way to lie: each slot with one chunk that
 * has room, then all in one, and the same again from there. */
NKT_TEST(timers_memory_suffices_in_any_distribution) {
    timers_many many = timers_many_new(4096);
    uint64_t allocs;
    uint32_t i, round;
    CHECK_OK(nki_timers_reserve(&many.queue, many.count));
    allocs = nkt_allocs();
    for (round = 0; round < 4; round++) {
        for (i = 0; i < many.count; i++) {
            uint32_t slot = i % (NKI_TIMER_LEVELS * NKI_TIMER_SLOTS);
            uint32_t shift = slot / NKI_TIMER_SLOTS * NKI_TIMER_SLOT_BITS + NKI_TIMER_TICK_BITS;
            uint64_t due = (uint64_t)(slot % NKI_TIMER_SLOTS) << shift;
            nki_timer_node *n = &many.nodes[(i * 7 + round) % many.count];
            if (n->at == 0) {
                CHECK_OK(nki_timers_start(&many.queue, n, due));
            } else {
                nki_timers_restart(&many.queue, n, round % 2 == 1 ? (uint64_t)1 << 40 : due);
            }
        }
        if (round == 2) {
            CHECK(nki_timers_first(&many.queue) != NULL);
        }
    }
    CHECK_EQ(nkt_allocs(), allocs);
    timers_many_fire(&many);
    timers_many_free(&many);
}

/* M-04: a start that gets no memory changes nothing, at whichever allocation. */
NKT_TEST(timers_survive_allocation_failure) {
    timers_model *m = timers_model_new(1000);
    uint32_t failed = 0;
    uint32_t i;
    for (i = 0; i < TIMERS_MODEL_MAX; i++) {
        uint64_t due = timers_random_due(m->now);
        nki_timer_node before = m->nodes[i];
        int err;
        nkt_alloc_fail_at(1, true);
        err = nki_timers_start(&m->queue, &m->nodes[i], due);
        nkt_alloc_fail_at(0, false);
        if (err == NETKIT_OK) {
            timers_model_put(m, i, due);
        } else {
            failed++;
            CHECK_ERR(err, NETKIT_E_NOMEM);
            CHECK_MEM(&before, &m->nodes[i], sizeof(before));
            (void)timers_model_check(m);
            timers_model_start(m, i, due);
        }
    }
    CHECK(failed >= 5);
    nkt_alloc_fail_at(1, true);
    CHECK_ERR(nki_timers_reserve(&m->queue, 1000000), NETKIT_E_NOMEM);
    CHECK_ERR(nki_timers_reserve(&m->queue, UINT32_MAX), NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    while (m->count > 0) {
        timers_model_fire(m);
    }
    timers_model_free(m);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* M-04: a timer far away that is asked for must not cost those started meanwhile. */
NKT_TEST(timers_keep_the_wheel_when_one_is_far) {
    timers_model *m = timers_model_new(1000000000000u);
    uint32_t i;
    timers_model_start(m, 0, m->now + 3600 * (uint64_t)NKI_NS_PER_S);
    (void)timers_model_check(m);
    for (i = 1; i < 500; i++) {
        timers_model_start(m, i, m->now + i * (uint64_t)NKI_NS_PER_MS * 10);
    }
    CHECK_EQ(m->queue.soon_count, 0);
    while (m->count > 0) {
        timers_model_fire(m);
    }
    timers_model_free(m);
}

/* ---- what the queue looks like inside ---- */

/* The chain of a slot: no node lies after its time. Returns how many chunks it has. */
static uint32_t timers_check_slot(nki_timers *t, uint32_t slot, uint32_t *places, uint32_t *nodes) {
    uint32_t end = t->slots[slot], chunks = 0;
    bool filled = (t->filled[slot / NKI_TIMER_SLOTS] >> slot % NKI_TIMER_SLOTS & 1) != 0;
    CHECK(filled == (end != 0));
    while (end != 0) {
        uint32_t chunk = (end - 1) / NKI_TIMER_CHUNK;
        uint32_t i;
        for (i = chunk * NKI_TIMER_CHUNK; i < end; i++) {
            *places += 1;
            if (nki_timers_is_at(t, i)) {
                nki_timer_node *n = t->pool[i];
                CHECK(n->slot == slot);
                CHECK(nki_timers_tick(n->due_ns) >= nki_timers_slot_start(t, slot));
                *nodes += 1;
            }
        }
        chunks++;
        end = t->before[chunk] * NKI_TIMER_CHUNK;
    }
    return chunks;
}

/* All adds up, and no chunk is lost or in two chains. */
static void timers_check_inside(nki_timers *t) {
    uint32_t slot, places = 0, nodes = t->soon_count, chunks = 0, chunk;
    for (slot = 0; slot < NKI_TIMER_LEVELS * NKI_TIMER_SLOTS; slot++) {
        chunks += timers_check_slot(t, slot, &places, &nodes);
    }
    for (chunk = t->chunk_free; chunk != 0; chunk = t->before[chunk - 1]) {
        chunks++;
        CHECK(chunks <= t->chunk_used);
    }
    CHECK_EQ(nodes, t->count);
    CHECK_EQ(places, t->places);
    CHECK_EQ(chunks, t->chunk_used);
    CHECK(places <= nki_timers_places_max(t->capacity));
    CHECK(chunks <= nki_timers_chunks_for(nki_timers_places_max(t->capacity)));
}

/* A due time in any slot there is, as the wheel stands. */
static uint64_t timers_due_in_any_slot(const nki_timers *t) {
    uint32_t slot = (uint32_t)(nkt_random() % (NKI_TIMER_LEVELS * NKI_TIMER_SLOTS));
    uint64_t tick = nki_timers_slot_start(t, slot);
    return (tick << NKI_TIMER_TICK_BITS) + nkt_random() % (1 << NKI_TIMER_TICK_BITS);
}

/* Restart or stop and start one, with luck to an earlier slot. Returns whether that swept. */
static bool timers_make_hole(timers_model *m, uint32_t node) {
    uint32_t places = m->queue.places;
    if (nkt_random() % 4 == 0) {
        timers_model_stop(m, node);
    }
    if (nkt_random() % 3 == 0) {
        timers_model_start(m, node, m->now + 3600 * (uint64_t)NKI_NS_PER_S);
    } else {
        timers_model_start(m, node, timers_due_in_any_slot(&m->queue));
    }
    return places >= nki_timers_places_max(m->queue.capacity) - 1 && m->queue.places < places - 1;
}

/* M-04: with more nodes leaving slots than there are places, holes are swept away, seldom and
 * with nothing lost, and what fires is what a sorted array says. */
NKT_TEST(timers_sweep_up_holes) {
    static const uint32_t lives[] = {5, 16, 100, TIMERS_MODEL_MAX};
    uint64_t ops = nkt_scale(1000000, 100000), i;
    uint32_t k;
    for (k = 0; k < NKI_COUNT(lives); k++) {
        timers_model *m = timers_model_new(nkt_random() >> 4);
        uint32_t sweeps = 0, far = 0;
        for (i = 0; i < ops; i++) {
            sweeps += timers_make_hole(m, (uint32_t)(nkt_random() % lives[k]));
            if (i % 1024 == 0) {
                timers_check_inside(&m->queue);
            }
            if (i % (16 * lives[k]) == 0) {
                timers_model_fire(m);
                far++;
            }
        }
        CHECK(far > 0 && sweeps <= ops / m->queue.capacity);
        CHECK(lives[k] < m->queue.capacity || sweeps > 10);
        while (m->count > 0) {
            timers_model_fire(m);
            timers_check_inside(&m->queue);
        }
        timers_model_free(m);
    }
}

/* M-04: a stopped node's memory is its owner's at once, whatever it has left behind. */
NKT_TEST(timers_forget_a_stopped_node) {
    nki_timer_node *nodes[64];
    nki_timers queue;
    uint32_t i, k;
    memset(nodes, 0, sizeof(nodes));
    timers_allocator = nkt_allocator();
    nki_timers_init(&queue, &timers_allocator);
    for (i = 0; i < 100000; i++) {
        nki_timer_node **n = &nodes[nkt_random() % NKI_COUNT(nodes)];
        if (*n == NULL) {
            *n = (nki_timer_node *)calloc(1, sizeof(**n));
            CHECK_OK(nki_timers_start(&queue, *n, timers_due_in_any_slot(&queue)));
            nki_timers_restart(&queue, *n, timers_due_in_any_slot(&queue));
        } else {
            nki_timers_stop(&queue, *n);
            memset(*n, 0xA5, sizeof(**n));
            free(*n);
            *n = NULL;
        }
        if (i % 64 == 0 && nki_timers_first(&queue) != NULL) {
            timers_check_inside(&queue);
        }
    }
    for (k = 0; k < NKI_COUNT(nodes); k++) {
        if (nodes[k] != NULL) {
            nki_timers_stop(&queue, nodes[k]);
            free(nodes[k]);
        }
    }
    CHECK(nki_timers_first(&queue) == NULL && queue.places == 0);
    nki_timers_free(&queue);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* M-04: the queue grows while its slots have holes; and a slot that many have left and few have
 * stayed in is looked through without moving the wheel there. */
NKT_TEST(timers_grow_and_look_with_holes) {
    timers_model *m = timers_model_new(1000000000000u);
    uint64_t far = m->now + 3600 * (uint64_t)NKI_NS_PER_S;
    uint32_t i, round;
    for (round = 0; round < 6; round++) {
        uint32_t count = (uint32_t)16 << round;
        for (i = 0; i < count; i++) {
            timers_model_start(m, i, far + i);
        }
        for (i = 0; i + 3 < count; i++) {
            timers_model_stop(m, (i * 7) % (count - 3));
        }
        CHECK(m->queue.capacity == count && m->queue.places > 3);
        CHECK_OK(nki_timers_reserve(&m->queue, count - 3)); /* there is room for those */
        CHECK_EQ(m->queue.capacity, count);
        CHECK(round != 0 || m->queue.places == count);
        timers_check_inside(&m->queue);
    }
    CHECK(timers_model_check(m));
    CHECK(m->queue.base == 0 && m->queue.places <= NKI_TIMER_CHUNK);
    timers_check_inside(&m->queue);
    for (i = 0; i < 400; i++) {
        timers_model_start(m, i, m->now + i * (uint64_t)NKI_NS_PER_MS * 10);
    }
    while (m->count > 0) {
        timers_model_fire(m);
        timers_check_inside(&m->queue);
    }
    timers_model_free(m);
}
