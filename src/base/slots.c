/* Slots: where everything that has a handle lives.
 *
 * Slots stand in fixed slabs, so an object never moves. A slot's first word is the handle of
 * what lives in it: generation 32 bits, kind 8, slot 24, so that one comparison tells whether a
 * handle is alive, of this loop and of the right kind. A free slot has kind 0, which no handle
 * has. Generations start at a random number and grow when a slot is freed; free slots are
 * reused first in, first out, to put as long as possible between two lives of one. Slabs are
 * aligned to a cache line: a small object is in one line, not two. What of an object is seldom
 * looked at may lie beside its slot, behind the slots of the slab (beside_size). */

enum {
    NKI_SLOT_BITS = 24,
    NKI_SLAB_BITS = 8,
    NKI_SLAB_SLOTS = 1 << NKI_SLAB_BITS,
    NKI_CACHE_LINE = 64
};

#define NKI_SLOT_MASK 0xFFFFFFu
#define NKI_NO_SLOT UINT32_MAX

typedef struct nki_slot {
    uint64_t id;   /* generation 32 | kind 8 | slot 24 */
    uint32_t next; /* while free: the next free slot */
} nki_slot;

typedef struct nki_slots {
    const netkit_allocator *allocator;
    unsigned char **slabs;
    uint32_t slabs_capacity; /* room in the array of slabs */
    uint32_t capacity;       /* slots that exist */
    uint32_t count_max;
    uint32_t count; /* slots in use */
    uint32_t slot_size;
    uint32_t beside_size; /* bytes of each slot behind all slots of its slab */
    uint32_t free_first;  /* first to be reused */
    uint32_t free_last;
    uint32_t first_generation;
} nki_slots;

static uint32_t nki_id_slot(uint64_t id) {
    return (uint32_t)id & NKI_SLOT_MASK;
}

static uint32_t nki_id_kind(uint64_t id) {
    return (uint32_t)id >> NKI_SLOT_BITS;
}

static void nki_slots_init(nki_slots *s, const netkit_allocator *allocator, uint32_t slot_size,
                           uint32_t count_max, uint32_t first_generation) {
    memset(s, 0, sizeof *s);
    s->allocator = allocator;
    s->slot_size = slot_size;
    s->count_max = NKI_MIN(count_max, NKI_SLOT_MASK);
    s->first_generation = first_generation;
    s->free_first = NKI_NO_SLOT;
    s->free_last = NKI_NO_SLOT;
}

static size_t nki_slab_used(const nki_slots *s) {
    return (size_t)(s->slot_size + s->beside_size) << NKI_SLAB_BITS;
}

/* A slab has room for its alignment, and at its end the address it was allocated at. */
static size_t nki_slab_bytes(const nki_slots *s) {
    return nki_slab_used(s) + NKI_CACHE_LINE;
}

static unsigned char *nki_slab_alloc(nki_slots *s) {
    unsigned char *memory = (unsigned char *)nki_alloc(s->allocator, nki_slab_bytes(s));
    if (memory == NULL) {
        return NULL;
    }
    size_t skip = (NKI_CACHE_LINE - (uintptr_t)memory % NKI_CACHE_LINE) % NKI_CACHE_LINE;
    unsigned char *slab = memory + skip;
    memcpy(slab + nki_slab_used(s), &memory, sizeof memory);
    return slab;
}

static void nki_slab_free(nki_slots *s, const unsigned char *slab) {
    unsigned char *memory;
    memcpy(&memory, slab + nki_slab_used(s), sizeof memory);
    nki_free(s->allocator, memory, nki_slab_bytes(s));
}

static void nki_slots_free_all(nki_slots *s) {
    uint32_t slabs = s->capacity >> NKI_SLAB_BITS;
    for (uint32_t i = 0; i < slabs; i++) {
        nki_slab_free(s, s->slabs[i]);
    }
    nki_free(s->allocator, s->slabs, s->slabs_capacity * sizeof *s->slabs);
    s->slabs = NULL;
    s->capacity = 0;
}

/* The slot of a number that exists. */
static nki_slot *nki_slots_at(const nki_slots *s, uint32_t slot) {
    size_t offset = (size_t)(slot & (NKI_SLAB_SLOTS - 1)) * s->slot_size;
    return (nki_slot *)(void *)(s->slabs[slot >> NKI_SLAB_BITS] + offset);
}

/* The beside_size bytes of a slot: not zeroed when the slot is taken. */
static void *nki_slots_beside(const nki_slots *s, uint32_t slot) {
    size_t offset = (size_t)(slot & (NKI_SLAB_SLOTS - 1)) * s->beside_size;
    return s->slabs[slot >> NKI_SLAB_BITS] + ((size_t)s->slot_size << NKI_SLAB_BITS) + offset;
}

/* What a handle names, or NULL. */
static void *nki_slots_find(const nki_slots *s, uint64_t id, uint32_t kind) {
    uint32_t slot = nki_id_slot(id);
    if (NKI_UNLIKELY(slot >= s->capacity || nki_id_kind(id) != kind)) {
        return NULL;
    }
    nki_slot *found = nki_slots_at(s, slot);
    return found->id == id ? found : NULL;
}

static void nki_slots_append_free(nki_slots *s, nki_slot *slot) {
    slot->next = NKI_NO_SLOT;
    if (s->free_last == NKI_NO_SLOT) {
        s->free_first = nki_id_slot(slot->id);
    } else {
        nki_slots_at(s, s->free_last)->next = nki_id_slot(slot->id);
    }
    s->free_last = nki_id_slot(slot->id);
}

static int nki_slots_grow_table(nki_slots *s) {
    uint32_t capacity = s->slabs_capacity == 0 ? 4 : s->slabs_capacity * 2;
    unsigned char **slabs =
        (unsigned char **)nki_alloc(s->allocator, capacity * sizeof(unsigned char *));
    if (slabs == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (s->slabs != NULL) {
        memcpy(slabs, s->slabs, s->slabs_capacity * sizeof *slabs);
        nki_free(s->allocator, s->slabs, s->slabs_capacity * sizeof *slabs);
    }
    s->slabs = slabs;
    s->slabs_capacity = capacity;
    return NETKIT_OK;
}

static int nki_slots_grow(nki_slots *s) {
    uint32_t slab = s->capacity >> NKI_SLAB_BITS;
    if (slab == s->slabs_capacity && nki_slots_grow_table(s) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    s->slabs[slab] = nki_slab_alloc(s);
    if (s->slabs[slab] == NULL) {
        return NETKIT_E_NOMEM;
    }
    uint32_t first = s->capacity;
    s->capacity += NKI_SLAB_SLOTS;
    for (uint32_t i = first; i < s->capacity; i++) {
        nki_slot *slot = nki_slots_at(s, i);
        slot->id = (uint64_t)(s->first_generation + i) << 32 | i;
        nki_slots_append_free(s, slot);
    }
    return NETKIT_OK;
}

/* Take a slot, zeroed but for its id. Returns NETKIT_OK, NETKIT_E_FULL or NETKIT_E_NOMEM. */
static int nki_slots_take(nki_slots *s, uint32_t kind, void **out) {
    *out = NULL;
    if (s->count >= s->count_max) {
        return NETKIT_E_FULL;
    }
    if (s->free_first == NKI_NO_SLOT && nki_slots_grow(s) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    nki_slot *slot = nki_slots_at(s, s->free_first);
    s->free_first = slot->next;
    if (s->free_first == NKI_NO_SLOT) {
        s->free_last = NKI_NO_SLOT;
    }
    uint64_t id = slot->id | (uint64_t)kind << NKI_SLOT_BITS;
    memset(slot, 0, s->slot_size);
    slot->id = id;
    s->count++;
    *out = slot;
    return NETKIT_OK;
}

/* Give a slot back: its handle is stale from here on. */
static void nki_slots_give(nki_slots *s, void *object) {
    nki_slot *slot = (nki_slot *)object;
    uint32_t generation = (uint32_t)(slot->id >> 32) + 1;
    slot->id = (uint64_t)generation << 32 | nki_id_slot(slot->id);
    s->count--;
    nki_slots_append_free(s, slot);
}
