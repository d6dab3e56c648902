/* The queue of posts alone, without a loop: what goes in comes out, once, in order. */

enum {
    POSTS_PRODUCERS = 8
};

static netkit_allocator posts_allocator;

static void posts_fn(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    (void)user;
}

static void posts_other_fn(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    (void)user;
}

static void *posts_user(uintptr_t value) {
    return (void *)value;
}

static void posts_open(nki_posts *q, uint32_t capacity) {
    posts_allocator = nkt_allocator();
    CHECK_OK(nki_posts_init(q, &posts_allocator, capacity));
}

static void posts_expect(nki_posts *q, netkit_post_fn fn, uintptr_t value) {
    netkit_post_fn got = NULL;
    void *user = NULL;
    CHECK(!nki_posts_is_empty(q));
    CHECK(nki_posts_pop(q, &got, &user));
    CHECK(got == fn);
    CHECK(user == posts_user(value));
}

static void posts_expect_none(nki_posts *q) {
    netkit_post_fn got = NULL;
    void *user = NULL;
    CHECK(nki_posts_is_empty(q));
    CHECK(!nki_posts_pop(q, &got, &user));
}

/* TQ10 TQ06: first in, first out; exactly `capacity` fit; right after each wrap, at every
 * place in the ring, from one cell up. */
NKT_TEST(posts_are_fifo_and_bounded) {
    uint32_t capacity;
    for (capacity = 1; capacity <= 64; capacity *= 2) {
        nki_posts q;
        uintptr_t in = 0, out = 0;
        uint32_t round;
        posts_open(&q, capacity);
        posts_expect_none(&q);
        for (round = 0; round < 5 * capacity + 3; round++) {
            while (in - out < capacity) {
                CHECK_OK(
                    nki_posts_push(&q, in % 2 == 0 ? posts_fn : posts_other_fn, posts_user(in)));
                in++;
            }
            CHECK_ERR(nki_posts_push(&q, posts_fn, NULL), NETKIT_E_FULL);
            CHECK_ERR(nki_posts_push(&q, posts_fn, NULL), NETKIT_E_FULL);
            for (; out < in - (round % capacity == 0 ? 0 : capacity - 1); out++) {
                posts_expect(&q, out % 2 == 0 ? posts_fn : posts_other_fn, out);
            }
        }
        for (; out < in; out++) {
            posts_expect(&q, out % 2 == 0 ? posts_fn : posts_other_fn, out);
        }
        posts_expect_none(&q);
        nki_posts_free(&q);
    }
}

/* TQ10: capacities that are no power of two are refused, and so is having no memory. */
NKT_TEST(posts_refuse_bad_starts) {
    static const uint32_t bad[] = {0, 3, 5, 4095, 4097, UINT32_MAX};
    nki_posts q;
    size_t i;
    posts_allocator = nkt_allocator();
    for (i = 0; i < NKI_COUNT(bad); i++) {
        CHECK_ERR(nki_posts_init(&q, &posts_allocator, bad[i]), NETKIT_E_INVALID);
        nki_posts_free(&q);
    }
    nkt_alloc_fail_at(1, true);
    CHECK_ERR(nki_posts_init(&q, &posts_allocator, 16), NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    nki_posts_free(&q);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* SD35 TQ10: positions that pass the end of their integer, where the ring goes on. */
NKT_TEST(posts_pass_the_end_of_the_counter) {
    nki_posts q;
    size_t start, i;
    posts_open(&q, 8);
    for (start = SIZE_MAX / 2 - 15; start != 0;
         start = start == SIZE_MAX - 15 ? 0 : SIZE_MAX - 15) {
        size_t base = start - start % 8;
        q.head = base;
        q.tail = base;
        for (i = 0; i < 8; i++) {
            q.cells[i].turn = 2 * (base + i);
        }
        for (i = 0; i < 100; i++) {
            size_t k;
            for (k = 0; k < 8; k++) {
                CHECK_OK(nki_posts_push(&q, posts_fn, posts_user(i * 8 + k)));
            }
            CHECK_ERR(nki_posts_push(&q, posts_fn, NULL), NETKIT_E_FULL);
            for (k = 0; k < 8; k++) {
                posts_expect(&q, posts_fn, i * 8 + k);
            }
            posts_expect_none(&q);
        }
    }
    nki_posts_free(&q);
}

/* Q-03 TQ10: a producer that stands between claiming and publishing: what is behind it is
 * neither given out before it nor lost, and asking returns at once. This is each of its
 * steps by hand, with the others' whole pushes between them. */
NKT_TEST(posts_wait_behind_a_half_push) {
    nki_posts q;
    nki_post_cell *cell;
    posts_open(&q, 4);
    CHECK_OK(nki_posts_push(&q, posts_fn, posts_user(1)));
    cell = &q.cells[q.tail & q.mask];
    q.tail++; /* claimed */
    CHECK_OK(nki_posts_push(&q, posts_fn, posts_user(3)));
    CHECK_OK(nki_posts_push(&q, posts_fn, posts_user(4)));
    CHECK_ERR(nki_posts_push(&q, posts_fn, posts_user(9)), NETKIT_E_FULL);
    posts_expect(&q, posts_fn, 1);
    posts_expect_none(&q);
    CHECK_OK(nki_posts_push(&q, posts_fn, posts_user(5)));
    CHECK_ERR(nki_posts_push(&q, posts_fn, posts_user(9)), NETKIT_E_FULL);
    posts_expect_none(&q);
    cell->fn = posts_other_fn;
    cell->user = posts_user(2);
    nki_atomic_store(&cell->turn, 2 * (size_t)1 + 1); /* published */
    posts_expect(&q, posts_other_fn, 2);
    posts_expect(&q, posts_fn, 3);
    posts_expect(&q, posts_fn, 4);
    posts_expect(&q, posts_fn, 5);
    posts_expect_none(&q);
    nki_posts_free(&q);
}

#if NKI_HAS_THREADS
typedef struct posts_producer {
    nki_posts *queue;
    pthread_t thread;
    uint32_t index;
    uint64_t items;
    uint64_t full; /* how often it was refused */
    bool stops_when_full;
    bool is_told_to_stop; /* these two atomically */
    bool is_over;
} posts_producer;

/* Who and which in one pointer: nothing is read that could race. */
static void posts_produce_all(posts_producer *p) {
    uint64_t i;
    for (i = 0; i < p->items; i++) {
        void *user = posts_user((uintptr_t)(i * POSTS_PRODUCERS + p->index));
        int err;
        while ((err = nki_posts_push(p->queue, posts_fn, user)) == NETKIT_E_FULL) {
            p->full++;
            if (p->stops_when_full || __atomic_load_n(&p->is_told_to_stop, __ATOMIC_RELAXED)) {
                p->items = i;
                return;
            }
            sched_yield();
        }
        if (err != NETKIT_OK) {
            p->items = UINT64_MAX; /* the test fails on the count */
            return;
        }
    }
}

static void *posts_produce(void *argument) {
    posts_producer *p = (posts_producer *)argument;
    posts_produce_all(p);
    __atomic_store_n(&p->is_over, true, __ATOMIC_RELEASE);
    return NULL;
}

static void posts_producers_start(posts_producer *p, nki_posts *q, uint64_t items, bool stops) {
    uint32_t i;
    for (i = 0; i < POSTS_PRODUCERS; i++) {
        memset(&p[i], 0, sizeof(p[i]));
        p[i].queue = q;
        p[i].index = i;
        p[i].items = items;
        p[i].stops_when_full = stops;
        CHECK_EQ(pthread_create(&p[i].thread, NULL, posts_produce, &p[i]), 0);
    }
}

static void posts_producers_join(posts_producer *p) {
    uint32_t i;
    for (i = 0; i < POSTS_PRODUCERS; i++) {
        CHECK_EQ(pthread_join(p[i].thread, NULL), 0);
    }
}

/* Pop what is there; each producer's items come in its order, without a gap. */
static uint64_t posts_drain(nki_posts *q, uint64_t *next) {
    netkit_post_fn fn = NULL;
    void *user = NULL;
    uint64_t count = 0;
    while (nki_posts_pop(q, &fn, &user)) {
        uint64_t value = (uint64_t)(uintptr_t)user;
        if (fn != posts_fn || next[value % POSTS_PRODUCERS] != value / POSTS_PRODUCERS) {
            CHECK_EQ(value / POSTS_PRODUCERS, next[value % POSTS_PRODUCERS]);
            CHECK(fn == posts_fn);
        }
        next[value % POSTS_PRODUCERS]++;
        count++;
    }
    return count;
}

static bool posts_producers_are_over(posts_producer *p) {
    for (uint32_t i = 0; i < POSTS_PRODUCERS; i++) {
        if (!__atomic_load_n(&p[i].is_over, __ATOMIC_ACQUIRE)) {
            return false;
        }
    }
    return true;
}

/* On a busy machine each turn of nine threads may take many milliseconds: then after a while the
 * producers are told to stop, and the counts are of what they had sent by then. */
static void posts_many_producers(uint32_t capacity, uint64_t items) {
    posts_producer producers[POSTS_PRODUCERS];
    uint64_t next[POSTS_PRODUCERS] = {0};
    uint64_t count = 0, sent = 0, full = 0, began = nkt_now_ns();
    uint64_t allowed_ns = nkt_scale(20, 1) * 1000000000u;
    bool is_over = false;
    nki_posts q;
    uint32_t i;
    posts_open(&q, capacity);
    posts_producers_start(producers, &q, items, false);
    while (!is_over) {
        uint64_t got;
        is_over = posts_producers_are_over(producers); /* before what may be the last look */
        got = posts_drain(&q, next);
        count += got;
        for (i = 0; nkt_now_ns() - began > allowed_ns && i < POSTS_PRODUCERS; i++) {
            __atomic_store_n(&producers[i].is_told_to_stop, true, __ATOMIC_RELAXED);
        }
        if (got == 0) {
            sched_yield();
        }
    }
    posts_producers_join(producers);
    for (i = 0; i < POSTS_PRODUCERS; i++) {
        CHECK_EQ(next[i], producers[i].items);
        CHECK(producers[i].items <= items);
        sent += producers[i].items;
        full += producers[i].full;
    }
    CHECK_EQ(count, sent);
    CHECK(count > capacity && (count == POSTS_PRODUCERS * items || full > 0));
    CHECK(capacity > 64 || full > 0); /* a small ring was full now and then */
    posts_expect_none(&q);
    nki_posts_free(&q);
}

/* Q-01 Q-03 TQ06: eight producers, a ring that is often full: exact count, each one's order. */
NKT_TEST(posts_keep_each_producers_order) {
    uint64_t items = nkt_scale(1000000, 25000);
    posts_many_producers(4096, items);
    posts_many_producers(64, items);
    posts_many_producers(2, items / 20);
    posts_many_producers(1, items / 20);
}

/* TQ10: with room for all of them nobody is ever refused, however they meet. */
NKT_TEST(posts_are_not_refused_while_there_is_room) {
    uint64_t rounds = nkt_scale(500, 20);
    uint32_t capacity = 65536;
    uint64_t round;
    nki_posts q;
    posts_open(&q, capacity);
    for (round = 0; round < rounds; round++) {
        posts_producer producers[POSTS_PRODUCERS];
        uint64_t next[POSTS_PRODUCERS] = {0};
        uint32_t i;
        posts_producers_start(producers, &q, capacity / POSTS_PRODUCERS, true);
        posts_producers_join(producers);
        for (i = 0; i < POSTS_PRODUCERS; i++) {
            CHECK_EQ(producers[i].full, 0);
        }
        CHECK_EQ(posts_drain(&q, next), capacity);
    }
    nki_posts_free(&q);
}

/* SD35: filled by eight threads until each is refused, then drained, again and again:
 * exactly the capacity comes out each time and no cell stays stuck. */
NKT_TEST(posts_fill_and_drain_leaves_no_stuck_cell) {
    uint64_t rounds = nkt_scale(2000, 100);
    uint32_t capacity = 256;
    uint64_t round;
    nki_posts q;
    posts_open(&q, capacity);
    for (round = 0; round < rounds; round++) {
        posts_producer producers[POSTS_PRODUCERS];
        uint64_t next[POSTS_PRODUCERS] = {0};
        uint64_t sum = 0;
        uint32_t i;
        posts_producers_start(producers, &q, capacity + 1, true);
        posts_producers_join(producers);
        CHECK_EQ(posts_drain(&q, next), capacity);
        for (i = 0; i < POSTS_PRODUCERS; i++) {
            CHECK_EQ(next[i], producers[i].items);
            CHECK_EQ(producers[i].full, 1);
            sum += next[i];
        }
        CHECK_EQ(sum, capacity);
        posts_expect_none(&q);
    }
    nki_posts_free(&q);
}
#endif
