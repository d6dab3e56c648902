/* The table from a socket to its place, where sockets are no small numbers (Windows). */

static nki_socket_table table_empty(void) {
    nki_socket_table table;
    memset(&table, 0, sizeof(table));
    return table;
}

/* Each socket that is in it is found from where it belongs, and they are as many as it counts. */
static void table_check(const nki_socket_table *t) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < t->capacity; i++) {
        count += t->cells[i].place != 0;
        CHECK(t->cells[i].place == 0 || nki_socket_table_at(t, t->cells[i].socket) == i);
    }
    CHECK_EQ(count, t->count);
    CHECK(t->capacity == 0 || count < t->capacity);
}

/* WN02 PL07: handles of the full width, with a place each, found and gone again. */
NKT_TEST(table_finds_what_was_put) {
    const uintptr_t sockets[] = {0, 4, UINTPTR_MAX, UINTPTR_MAX - 3, UINTPTR_MAX / 2, 0x7FFFFFFC};
    const uint32_t count = (uint32_t)(sizeof(sockets) / sizeof(sockets[0]));
    netkit_allocator a = nkt_allocator();
    nki_socket_table table = table_empty();
    CHECK_EQ(nki_socket_table_get(&table, 4), 0);
    nki_socket_table_drop(&table, 4);
    for (uint32_t i = 0; i < count; i++) {
        CHECK_OK(nki_socket_table_reserve(&table, &a));
        nki_socket_table_put(&table, sockets[i], i + 1);
    }
    for (uint32_t i = 0; i < count; i++) {
        CHECK_EQ(nki_socket_table_get(&table, sockets[i]), i + 1);
        CHECK_EQ(nki_socket_table_get(&table, sockets[i] ^ 8), 0);
    }
    nki_socket_table_put(&table, 4, 77); /* put again is moved */
    CHECK_EQ(nki_socket_table_get(&table, 4), 77);
    CHECK_EQ(table.count, count);
    for (uint32_t i = 0; i < count; i++) {
        nki_socket_table_drop(&table, sockets[i]);
        nki_socket_table_drop(&table, sockets[i]);
        CHECK_EQ(nki_socket_table_get(&table, sockets[i]), 0);
        table_check(&table);
    }
    CHECK_EQ(table.count, 0);
    nki_socket_table_free(&table, &a);
    CHECK_EQ(table.capacity, 0);
}

/* WN02 PL07: sockets that all want the same cell, which goes round the table's end: whichever is
 * taken out, the others stay to be found. */
NKT_TEST(table_survives_collisions) {
    enum {
        COUNT = 12
    };
    netkit_allocator a = nkt_allocator();
    for (int gone = 0; gone < COUNT; gone++) {
        nki_socket_table table = table_empty();
        uintptr_t sockets[COUNT];
        uint32_t found = 0;
        CHECK_OK(nki_socket_table_reserve(&table, &a));
        for (uintptr_t s = 4; found < COUNT; s += 4) {
            if (nki_socket_table_home(&table, s) >= table.capacity - 2) {
                sockets[found++] = s;
                nki_socket_table_put(&table, s, found);
            }
        }
        nki_socket_table_drop(&table, sockets[gone]);
        table_check(&table);
        for (int i = 0; i < COUNT; i++) {
            CHECK_EQ(nki_socket_table_get(&table, sockets[i]), i == gone ? 0 : i + 1);
        }
        nki_socket_table_free(&table, &a);
    }
}

/* WN02 PL07: ten thousand steps at random agree with a list of what ought to be there. */
NKT_TEST(table_agrees_with_a_model) {
    enum {
        COUNT = 700
    };
    static uint32_t places[COUNT];
    netkit_allocator a = nkt_allocator();
    nki_socket_table table = table_empty();
    memset(places, 0, sizeof(places));
    for (uint32_t step = 1; step <= 10000; step++) {
        uint32_t which = (uint32_t)(nkt_random() % COUNT);
        if (nkt_random() % 5 < 3) {
            CHECK_OK(nki_socket_table_reserve(&table, &a));
            nki_socket_table_put(&table, which * 4u, step);
            places[which] = step;
        } else {
            nki_socket_table_drop(&table, which * 4u);
            places[which] = 0;
        }
        if (step % 500 == 0) {
            table_check(&table);
        }
        which = (uint32_t)(nkt_random() % COUNT);
        CHECK_EQ(nki_socket_table_get(&table, which * 4u), places[which]);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_EQ(nki_socket_table_get(&table, i * 4u), places[i]);
    }
    nki_socket_table_free(&table, &a);
}

/* Z-01: without memory to grow it stays as it was, and goes on. */
NKT_TEST(table_without_memory) {
    netkit_allocator a = nkt_allocator();
    nki_socket_table table = table_empty();
    nkt_alloc_fail_at(1, true);
    CHECK_ERR(nki_socket_table_reserve(&table, &a), NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    uint32_t count = 0;
    CHECK_OK(nki_socket_table_reserve(&table, &a));
    nkt_alloc_fail_at(1, true);
    while (nki_socket_table_reserve(&table, &a) == NETKIT_OK) {
        count++;
        nki_socket_table_put(&table, count * 4u, count);
    }
    nkt_alloc_fail_at(0, false);
    CHECK(count >= 32 && count < table.capacity);
    for (uint32_t i = 1; i <= count; i++) {
        CHECK_EQ(nki_socket_table_get(&table, i * 4u), i);
    }
    CHECK_OK(nki_socket_table_reserve(&table, &a));
    table_check(&table);
    CHECK_EQ(nki_socket_table_get(&table, 4), 1);
    nki_socket_table_free(&table, &a);
}
