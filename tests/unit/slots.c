/* The slot table alone: handles that die, slots that come back, memory that does not. */

enum {
    SLOTS_KIND = 5,
    SLOTS_OTHER = 6,
    SLOTS_SLAB = 256 /* slots that one allocation brings */
};

typedef struct slots_object {
    nki_slot slot;
    uint64_t value;
    unsigned char rest[40];
} slots_object;

static netkit_allocator slots_allocator;

static void slots_open(nki_slots *s, uint32_t count_max, uint32_t generation) {
    slots_allocator = nkt_allocator();
    nki_slots_init(s, &slots_allocator, (uint32_t)sizeof(slots_object), count_max, generation);
}

static slots_object *slots_take(nki_slots *s, uint32_t kind) {
    void *object = NULL;
    CHECK_OK(nki_slots_take(s, kind, &object));
    CHECK(object != NULL);
    return (slots_object *)object;
}

static void slots_close(nki_slots *s) {
    nki_slots_free_all(s);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* PL15 L-04: a handle finds its object alone: not after its end, not as another kind, not from a
 * slot that never was, and nothing is found by 0. */
NKT_TEST(slots_find_only_what_lives) {
    nki_slots s;
    slots_open(&s, 1000, 7);
    CHECK(nki_slots_find(&s, 0, SLOTS_KIND) == NULL); /* nothing is allocated yet */
    CHECK_EQ(nkt_live_bytes(), 0);
    slots_object *a = slots_take(&s, SLOTS_KIND);
    slots_object *b = slots_take(&s, SLOTS_OTHER);
    uint64_t id_a = a->slot.id, id_b = b->slot.id;
    CHECK(a != b && id_a != id_b && id_a != 0 && id_b != 0);
    CHECK_EQ(nki_id_kind(id_a), SLOTS_KIND);
    CHECK_EQ(nki_id_kind(id_b), SLOTS_OTHER);
    CHECK(nki_id_slot(id_a) != nki_id_slot(id_b));
    CHECK(nki_slots_find(&s, id_a, SLOTS_KIND) == a);
    CHECK(nki_slots_find(&s, id_b, SLOTS_OTHER) == b);
    CHECK(nki_slots_find(&s, id_a, SLOTS_OTHER) == NULL);
    CHECK(nki_slots_find(&s, id_b, SLOTS_KIND) == NULL);
    CHECK(nki_slots_find(&s, id_a ^ (uint64_t)1 << 32, SLOTS_KIND) == NULL);
    CHECK(nki_slots_find(&s, id_a ^ (uint64_t)1 << 63, SLOTS_KIND) == NULL);
    CHECK(nki_slots_find(&s, id_a | NKI_SLOT_MASK, SLOTS_KIND) == NULL);
    CHECK(nki_slots_find(&s, id_a + SLOTS_SLAB, SLOTS_KIND) == NULL); /* the slot behind the last */
    CHECK(nki_slots_find(&s, 0, SLOTS_KIND) == NULL);
    CHECK_EQ(s.count, 2);
    nki_slots_give(&s, a);
    CHECK_EQ(s.count, 1);
    CHECK(nki_slots_find(&s, id_a, SLOTS_KIND) == NULL);
    CHECK(nki_slots_find(&s, id_b, SLOTS_OTHER) == b);
    nki_slots_give(&s, b);
    CHECK_EQ(s.count, 0);
    slots_close(&s);
}

/* PL15 BX01: a slot that is used again is empty and has another handle, also when the generation
 * passes the end of its 32 bits; the slot that was freed first is used again first. */
NKT_TEST(slots_come_back_empty_and_with_a_new_handle) {
    nki_slots s;
    slots_object *all[SLOTS_SLAB];
    uint64_t old[SLOTS_SLAB];
    static const slots_object zero;
    slots_open(&s, SLOTS_SLAB, UINT32_MAX - 3);
    for (int i = 0; i < SLOTS_SLAB; i++) {
        all[i] = slots_take(&s, SLOTS_KIND);
    }
    for (int life = 0; life < 8; life++) {
        for (int i = 0; i < SLOTS_SLAB; i++) {
            old[i] = all[i]->slot.id;
            all[i]->value = 99;
            memset(all[i]->rest, 0xAB, sizeof(all[i]->rest));
        }
        for (int i = SLOTS_SLAB - 1; i >= 0; i--) {
            nki_slots_give(&s, all[i]);
        }
        for (int i = SLOTS_SLAB - 1; i >= 0; i--) {
            slots_object *again = slots_take(&s, SLOTS_KIND);
            CHECK(again == all[i]);
            CHECK(again->slot.id != old[i]);
            CHECK_EQ(again->value, 0);
            CHECK_MEM(again->rest, zero.rest, sizeof(zero.rest));
            CHECK(nki_slots_find(&s, old[i], SLOTS_KIND) == NULL);
            CHECK(nki_slots_find(&s, again->slot.id, SLOTS_KIND) == again);
        }
    }
    slots_close(&s);
}

/* PL15: two tables with different first generations do not take each other's handles. */
NKT_TEST(slots_of_another_table_are_stale) {
    nki_slots s, t;
    slots_open(&s, 10, 1000);
    slots_open(&t, 10, 2000000);
    slots_object *a = slots_take(&s, SLOTS_KIND);
    slots_object *b = slots_take(&t, SLOTS_KIND);
    CHECK_EQ(nki_id_slot(a->slot.id), nki_id_slot(b->slot.id));
    CHECK(nki_slots_find(&t, a->slot.id, SLOTS_KIND) == NULL);
    CHECK(nki_slots_find(&s, b->slot.id, SLOTS_KIND) == NULL);
    nki_slots_free_all(&s);
    slots_close(&t);
}

/* SD41: what lies beside a slot is its own, stays in place, and is freed with the table. */
NKT_TEST(slots_have_memory_beside_them) {
    nki_slots s;
    enum {
        COUNT = 3 * SLOTS_SLAB
    };
    slots_open(&s, COUNT, 1);
    s.beside_size = 24;
    for (uint32_t i = 0; i < COUNT; i++) {
        slots_object *o = slots_take(&s, SLOTS_KIND);
        memset(nki_slots_beside(&s, nki_id_slot(o->slot.id)), (int)(i % 251), s.beside_size);
        memset(o->rest, 0xAB, sizeof(o->rest));
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        unsigned char want[24];
        memset(want, (int)(i % 251), sizeof(want));
        CHECK_MEM(nki_slots_beside(&s, i), want, sizeof(want));
        CHECK_EQ(nki_id_slot(nki_slots_at(&s, i)->id), i);
    }
    slots_close(&s);
}

/* SD41: exactly count_max fit, the next one is FULL; nothing moves while the table grows. */
NKT_TEST(slots_are_bounded_and_stay_in_place) {
    nki_slots s;
    enum {
        COUNT = 5 * SLOTS_SLAB + 3
    };
    static slots_object *all[COUNT];
    void *none = &s;
    slots_open(&s, COUNT, 1);
    for (uint32_t i = 0; i < COUNT; i++) {
        all[i] = slots_take(&s, SLOTS_KIND);
        all[i]->value = i;
    }
    CHECK_ERR(nki_slots_take(&s, SLOTS_KIND, &none), NETKIT_E_FULL);
    CHECK(none == NULL);
    CHECK_EQ(s.count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(nki_slots_find(&s, all[i]->slot.id, SLOTS_KIND) == all[i]);
        CHECK_EQ(all[i]->value, i);
    }
    nki_slots_give(&s, all[COUNT / 2]);
    CHECK(slots_take(&s, SLOTS_KIND) == all[COUNT / 2] || s.count == COUNT);
    CHECK_ERR(nki_slots_take(&s, SLOTS_KIND, &none), NETKIT_E_FULL);
    slots_close(&s);
    slots_open(&s, 0, 1);
    CHECK_ERR(nki_slots_take(&s, SLOTS_KIND, &none), NETKIT_E_FULL);
    slots_close(&s);
    slots_open(&s, UINT32_MAX, 1); /* more than 24 bits can name */
    CHECK(s.count_max <= NKI_SLOT_MASK);
    slots_close(&s);
}

/* MB04: whichever allocation fails, what is there stays, nothing leaks and the next try works. */
NKT_TEST(slots_survive_each_failed_allocation) {
    for (uint64_t nth = 1;; nth++) {
        nki_slots s;
        slots_object *first = NULL, *last = NULL;
        uint32_t failed = 0;
        slots_open(&s, 10000, 1);
        nkt_alloc_fail_at(nth, false);
        for (uint32_t i = 0; i < 9 * SLOTS_SLAB; i++) {
            void *object = NULL;
            int code = nki_slots_take(&s, SLOTS_KIND, &object);
            if (code != NETKIT_OK) {
                CHECK_ERR(code, NETKIT_E_NOMEM);
                CHECK(object == NULL);
                CHECK_EQ(s.count, i - failed);
                failed++;
                continue;
            }
            last = (slots_object *)object;
            last->value = i;
            first = first == NULL ? last : first;
        }
        CHECK(failed <= 1);
        CHECK(nki_slots_find(&s, first->slot.id, SLOTS_KIND) == first);
        CHECK(nki_slots_find(&s, last->slot.id, SLOTS_KIND) == last);
        CHECK_EQ(last->value, 9 * SLOTS_SLAB - 1);
        nkt_alloc_fail_at(0, false);
        slots_close(&s);
        if (failed == 0) {
            CHECK(nth > 9); /* each of nine slabs, and the array of slabs as it grew */
            return;
        }
    }
}

/* PL15 SD18: a million takes and gives in random order against a list, in bounded memory. */
NKT_TEST(slots_agree_with_a_list) {
    enum {
        MOST = 700
    };
    static struct {
        slots_object *object;
        uint64_t id, value;
    } live[MOST], dead[64];
    nki_slots s;
    uint32_t count = 0, deaths = 0;
    int64_t most = 0;
    slots_open(&s, MOST, (uint32_t)nkt_random());
    for (uint64_t step = 0; step < nkt_scale(10000000, 1000000); step++) {
        uint64_t roll = nkt_random();
        bool is_growing = (step >> 12) % 2 == 0;
        if (count < MOST && (count == 0 || (roll % 8 < 5) == is_growing)) {
            live[count].object = slots_take(&s, 1 + (uint32_t)(roll >> 8) % 255);
            live[count].id = live[count].object->slot.id;
            live[count].value = live[count].object->value = roll;
            count++;
        } else if (count > 0) {
            uint32_t i = (uint32_t)(roll >> 8) % count;
            uint64_t id = live[i].id;
            CHECK(nki_slots_find(&s, id, nki_id_kind(id)) == live[i].object);
            CHECK(live[i].object->value == live[i].value);
            nki_slots_give(&s, live[i].object);
            dead[deaths++ % 64] = live[i];
            live[i] = live[--count];
        }
        if (deaths > 64) {
            uint64_t id = dead[(roll >> 20) % 64].id;
            CHECK(nki_slots_find(&s, id, nki_id_kind(id)) == NULL);
        }
        most = nkt_live_bytes() > most ? nkt_live_bytes() : most;
        if (s.count != count) {
            CHECK_EQ(s.count, count);
        }
    }
    CHECK(most <= (int64_t)(3 * SLOTS_SLAB * sizeof(slots_object) + 1024));
    slots_close(&s);
}
