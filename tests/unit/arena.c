/* Arenas: pieces that do not overlap, limits that hold, memory that comes back. */

static netkit_arena arena_new(size_t chunk_size, size_t size_max) {
    netkit_arena arena;
    memset(&arena, 0, sizeof arena);
    arena.chunk_size = chunk_size;
    arena.size_max = size_max;
    arena.allocator = nkt_allocator();
    return arena;
}

/* MB02: pieces of every size are aligned, apart from each other and stay as written until reset;
 * after reset and free nothing is held. */
NKT_TEST(arena_pieces_keep_apart) {
    enum {
        PIECES = 400
    };
    netkit_arena arena = arena_new(1000, 0);
    for (int round = 0; round < 20; round++) {
        unsigned char *piece[PIECES];
        size_t len[PIECES];
        for (int i = 0; i < PIECES; i++) {
            len[i] = (size_t)(nkt_random() % (i % 50 == 0 ? 5000 : 60));
            piece[i] = (unsigned char *)netkit_arena_alloc(&arena, len[i]);
            CHECK(piece[i] != NULL);
            CHECK_EQ((uintptr_t)piece[i] % 16, 0);
            memset(piece[i], i & 255, len[i]);
        }
        for (int i = 0; i < PIECES; i++) {
            for (size_t k = 0; k < len[i]; k++) {
                CHECK(piece[i][k] == (i & 255));
            }
        }
        netkit_arena_reset(&arena);
    }
    CHECK(nkt_live_bytes() > 0);
    netkit_arena_free(&arena);
    CHECK_EQ(nkt_live_bytes(), 0);
    CHECK_EQ(arena.size, 0);
    CHECK(netkit_arena_alloc(&arena, 5) != NULL); /* as new */
    netkit_arena_free(&arena);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* MB02: after a reset the chunks of the usual size serve again, and larger ones are given back. */
NKT_TEST(arena_reset_keeps_chunks) {
    netkit_arena arena = arena_new(1024, 0);
    for (int i = 0; i < 10; i++) {
        CHECK(netkit_arena_alloc(&arena, 900) != NULL);
    }
    uint64_t allocs = nkt_allocs();
    int64_t live = nkt_live_bytes();
    CHECK_EQ(live, 10 * 1024);
    CHECK(netkit_arena_alloc(&arena, 100000) != NULL);
    netkit_arena_reset(&arena);
    CHECK_EQ(nkt_live_bytes(), live);
    for (int i = 0; i < 10; i++) {
        CHECK(netkit_arena_alloc(&arena, 900) != NULL);
    }
    CHECK_EQ(nkt_allocs(), allocs + 1); /* the large one */
    netkit_arena_free(&arena);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* MB02: sizes that overflow and what goes beyond size_max are refused; what was there stays. */
NKT_TEST(arena_refuses_what_is_too_large) {
    netkit_arena arena = arena_new(0, 64 * 1024);
    char *text = netkit_arena_copy(&arena, "netkit", 6);
    CHECK_STR(text, "netkit");
    CHECK(netkit_arena_alloc(&arena, SIZE_MAX) == NULL);
    CHECK(netkit_arena_alloc(&arena, SIZE_MAX - 30) == NULL);
    CHECK(netkit_arena_alloc_array(&arena, SIZE_MAX / 2, 3) == NULL);
    CHECK(netkit_arena_copy(&arena, "x", SIZE_MAX) == NULL);
    CHECK(netkit_arena_alloc(&arena, 64 * 1024) == NULL);
    uint32_t *numbers = (uint32_t *)netkit_arena_alloc_array(&arena, 1000, sizeof *numbers);
    CHECK(numbers != NULL && numbers[0] == 0 && numbers[999] == 0);
    int taken = 0;
    while (netkit_arena_alloc(&arena, 1000) != NULL) {
        taken++;
    }
    CHECK(taken > 40 && taken < 64);
    CHECK(arena.size <= 64 * 1024);
    CHECK_STR(text, "netkit");
    CHECK_STR(netkit_arena_copy(&arena, NULL, 0), "");
    netkit_arena_free(&arena);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* MB02 MB04: an allocation that fails gives NULL, and the next try works. */
NKT_TEST(arena_out_of_memory) {
    netkit_arena arena = arena_new(0, 0);
    arena.allocator.free = NULL; /* half an allocator is none */
    CHECK(netkit_arena_alloc(&arena, 1) == NULL);
    arena.allocator = nkt_allocator();
    for (uint64_t nth = 1; nth <= 3; nth++) {
        nkt_alloc_fail_at(nth, false);
        int failed = 0;
        for (int i = 0; i < 5; i++) {
            failed += netkit_arena_alloc(&arena, 9000) == NULL;
        }
        CHECK_EQ(failed, 1);
        nkt_alloc_fail_at(0, false);
        netkit_arena_free(&arena);
        CHECK_EQ(nkt_live_bytes(), 0);
    }
}

/* MB02: what is kept over a reset does not stand in the way of a larger request, nor does the usual
 * size of a chunk in that of a smaller one. */
NKT_TEST(arena_spends_what_is_kept) {
    netkit_arena arena = arena_new(0, 64 * 1024);
    for (int i = 0; i < 6; i++) {
        CHECK(netkit_arena_alloc(&arena, 9000) != NULL);
    }
    CHECK(netkit_arena_alloc(&arena, 9000) == NULL || arena.size > 60000);
    netkit_arena_reset(&arena);
    CHECK(arena.size > 50000); /* kept */
    CHECK(netkit_arena_alloc(&arena, 40000) != NULL);
    CHECK(arena.size <= 64 * 1024);
    netkit_arena_free(&arena);
    CHECK_EQ(nkt_live_bytes(), 0);
    arena = arena_new(0, 15 * 1024);
    CHECK(netkit_arena_alloc(&arena, 9000) != NULL);
    CHECK(netkit_arena_alloc(&arena, 4000) != NULL);
    CHECK(netkit_arena_alloc(&arena, 4000) == NULL);
    netkit_arena_free(&arena);
    CHECK_EQ(nkt_live_bytes(), 0);
}
