/* The public face of slots.c. An object stands behind its slot, at a multiple of 16. */

enum {
    NKI_SLOTMAP_KIND = 1,
    NKI_SLOTMAP_HEAD = 16,
    NKI_SLOTMAP_COUNT = 32768,
    NKI_SLOTMAP_OBJECT_MAX = 1024 * 1024
};

NKI_STATIC_ASSERT(slotmap_head, sizeof(nki_slot) <= NKI_SLOTMAP_HEAD);

struct netkit_slotmap {
    nki_slots slots;
    netkit_allocator allocator;
};

NETKIT_API int netkit_slotmap_create(netkit_slotmap **out, const netkit_slotmap_desc *desc) {
    netkit_allocator allocator;
    *out = NULL;
    if (desc->object_size > NKI_SLOTMAP_OBJECT_MAX || desc->count_max >= NKI_SLOT_MASK) {
        return NETKIT_E_INVALID;
    }
    int error = nki_allocator_init(&allocator, &desc->allocator);
    if (error != NETKIT_OK) {
        return error;
    }
    netkit_slotmap *map = (netkit_slotmap *)nki_alloc(&allocator, sizeof *map);
    if (map == NULL) {
        return NETKIT_E_NOMEM;
    }
    map->allocator = allocator;
    uint32_t size = ((uint32_t)desc->object_size + NKI_SLOTMAP_HEAD - 1) / NKI_SLOTMAP_HEAD + 1;
    uint32_t count = desc->count_max == 0 ? (uint32_t)NKI_SLOTMAP_COUNT : desc->count_max;
    /* Two maps begin elsewhere, so that a handle used with the wrong one is stale. */
    uint32_t generation = (uint32_t)(((uintptr_t)map >> 4) * 2654435761u);
    nki_slots_init(&map->slots, &map->allocator, size * NKI_SLOTMAP_HEAD, count, generation);
    *out = map;
    return NETKIT_OK;
}

NETKIT_API void netkit_slotmap_destroy(netkit_slotmap *map) {
    if (map != NULL) {
        netkit_allocator allocator = map->allocator;
        nki_slots_free_all(&map->slots);
        nki_free(&allocator, map, sizeof *map);
    }
}

NETKIT_API int netkit_slotmap_add(netkit_slotmap *map, uint64_t *handle, void **object) {
    void *slot;
    *handle = 0;
    if (object != NULL) {
        *object = NULL;
    }
    int error = nki_slots_take(&map->slots, NKI_SLOTMAP_KIND, &slot);
    if (error != NETKIT_OK) {
        return error;
    }
    *handle = ((const nki_slot *)slot)->id;
    if (object != NULL) {
        *object = (unsigned char *)slot + NKI_SLOTMAP_HEAD;
    }
    return NETKIT_OK;
}

NETKIT_API void *netkit_slotmap_find(const netkit_slotmap *map, uint64_t handle) {
    void *slot = nki_slots_find(&map->slots, handle, NKI_SLOTMAP_KIND);
    return slot == NULL ? NULL : (unsigned char *)slot + NKI_SLOTMAP_HEAD;
}

NETKIT_API int netkit_slotmap_remove(netkit_slotmap *map, uint64_t handle) {
    void *slot = nki_slots_find(&map->slots, handle, NKI_SLOTMAP_KIND);
    if (slot == NULL) {
        return NETKIT_E_STALE;
    }
    nki_slots_give(&map->slots, slot);
    return NETKIT_OK;
}

NETKIT_API uint32_t netkit_slotmap_count(const netkit_slotmap *map) {
    return map->slots.count;
}

NETKIT_API uint64_t netkit_slotmap_next(const netkit_slotmap *map, uint64_t after) {
    uint32_t slot = after == 0 ? 0 : nki_id_slot(after) + 1;
    for (; slot < map->slots.capacity; slot++) {
        const nki_slot *found = nki_slots_at(&map->slots, slot);
        if (nki_id_kind(found->id) == NKI_SLOTMAP_KIND) {
            return found->id;
        }
    }
    return 0;
}
