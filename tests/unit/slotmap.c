/* The public slot map; slots.c tests the table below it. */

static netkit_slotmap *slotmap_new(size_t object_size, uint32_t count_max) {
    netkit_slotmap_desc desc;
    netkit_slotmap *map;
    memset(&desc, 0, sizeof desc);
    desc.object_size = object_size;
    desc.count_max = count_max;
    desc.allocator = nkt_allocator();
    CHECK_OK(netkit_slotmap_create(&map, &desc));
    return map;
}

/* PO12: objects are zeroed, aligned and stay where they are; a handle finds its own object until
 * it is removed, and never another one after; a foreign map's handle finds nothing. */
NKT_TEST(slotmap_handles_name_objects) {
    enum {
        COUNT = 1000
    };
    netkit_slotmap *map = slotmap_new(20, COUNT);
    netkit_slotmap *other = slotmap_new(20, COUNT);
    uint64_t handle[COUNT], old[COUNT], stranger;
    void *object[COUNT];
    CHECK_OK(netkit_slotmap_add(other, &stranger, NULL));
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(netkit_slotmap_add(map, &handle[i], &object[i]));
        CHECK(handle[i] != 0 && (uintptr_t)object[i] % 16 == 0);
        CHECK_MEM(object[i], "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
        memset(object[i], 0xA5, 20);
    }
    CHECK_ERR(netkit_slotmap_add(map, &stranger, &object[0]), NETKIT_E_FULL);
    CHECK(stranger == 0 && object[0] == NULL);
    for (int i = 0; i < COUNT; i++) {
        CHECK(i == 0 || netkit_slotmap_find(map, handle[i]) == object[i]);
        old[i] = handle[i];
        CHECK_OK(netkit_slotmap_remove(map, handle[i]));
        CHECK_ERR(netkit_slotmap_remove(map, handle[i]), NETKIT_E_STALE);
        CHECK_OK(netkit_slotmap_add(map, &handle[i], &object[i]));
        CHECK(handle[i] != old[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK(netkit_slotmap_find(map, old[i]) == NULL);
        CHECK(netkit_slotmap_find(other, handle[i]) == NULL);
        CHECK(netkit_slotmap_find(map, handle[i]) == object[i]);
    }
    CHECK(netkit_slotmap_find(map, 0) == NULL);
    netkit_slotmap_destroy(map);
    netkit_slotmap_destroy(other);
    netkit_slotmap_destroy(NULL);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* PO12: going through all of them meets each once, also while removing. */
NKT_TEST(slotmap_walk) {
    netkit_slotmap *map = slotmap_new(sizeof(int), 0);
    uint64_t handle;
    void *object;
    CHECK_EQ(netkit_slotmap_next(map, 0), 0);
    for (int i = 0; i < 700; i++) {
        CHECK_OK(netkit_slotmap_add(map, &handle, &object));
        *(int *)object = i;
    }
    int met = 0;
    for (handle = netkit_slotmap_next(map, 0); handle != 0;
         handle = netkit_slotmap_next(map, handle)) {
        CHECK_EQ(*(int *)netkit_slotmap_find(map, handle), met++);
        if (met % 2 == 0) {
            CHECK_OK(netkit_slotmap_remove(map, handle));
        }
    }
    CHECK_EQ(met, 700);
    CHECK_EQ(netkit_slotmap_count(map), 350);
    netkit_slotmap_destroy(map);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* PO12 MB04: descs that make no sense and allocations that fail create nothing. */
NKT_TEST(slotmap_refuses) {
    netkit_slotmap_desc desc;
    netkit_slotmap *map;
    uint64_t handle;
    memset(&desc, 0, sizeof desc);
    desc.allocator = nkt_allocator();
    desc.object_size = SIZE_MAX;
    CHECK_ERR(netkit_slotmap_create(&map, &desc), NETKIT_E_INVALID);
    desc.object_size = 8;
    desc.count_max = UINT32_MAX;
    CHECK_ERR(netkit_slotmap_create(&map, &desc), NETKIT_E_INVALID);
    desc.count_max = 0;
    desc.allocator.free = NULL;
    CHECK_ERR(netkit_slotmap_create(&map, &desc), NETKIT_E_INVALID);
    desc.allocator = nkt_allocator();
    nkt_alloc_fail_at(1, false);
    CHECK_ERR(netkit_slotmap_create(&map, &desc), NETKIT_E_NOMEM);
    CHECK(map == NULL);
    for (uint64_t nth = 2; nth <= 3; nth++) {
        nkt_alloc_fail_at(nth, false);
        CHECK_OK(netkit_slotmap_create(&map, &desc));
        CHECK_ERR(netkit_slotmap_add(map, &handle, NULL), NETKIT_E_NOMEM);
        CHECK_OK(netkit_slotmap_add(map, &handle, NULL));
        CHECK(netkit_slotmap_find(map, handle) != NULL);
        netkit_slotmap_destroy(map);
        CHECK_EQ(nkt_live_bytes(), 0);
    }
}
