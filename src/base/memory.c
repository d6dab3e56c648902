/* Memory: the front end of the allocator a program may have given. */

static void *nki_default_alloc(size_t size, void *user) {
    NKI_UNUSED(user);
    return NETKIT_MALLOC(size);
}

static void nki_default_free(void *memory, size_t size, void *user) {
    NKI_UNUSED(size);
    NKI_UNUSED(user);
    NETKIT_FREE(memory);
}

/* Fill in malloc and free; both or neither must have been given. */
static int nki_allocator_init(netkit_allocator *out, const netkit_allocator *given) {
    if ((given->alloc == NULL) != (given->free == NULL)) {
        return NETKIT_E_INVALID;
    }
    *out = *given;
    if (out->alloc == NULL) {
        out->alloc = nki_default_alloc;
        out->free = nki_default_free;
    }
    return NETKIT_OK;
}

static void *nki_alloc(const netkit_allocator *a, size_t size) {
    return a->alloc(size, a->user);
}

static void *nki_alloc_zero(const netkit_allocator *a, size_t size) {
    void *memory = a->alloc(size, a->user);
    if (memory != NULL) {
        memset(memory, 0, size);
    }
    return memory;
}

static void nki_free(const netkit_allocator *a, void *memory, size_t size) {
    if (memory != NULL) {
        a->free(memory, size, a->user);
    }
}

/* Extension memory: zeroed and aligned to 16 whatever the allocator's alignment. It stands behind
 * a head that says how far the start was moved. */
enum {
    NKI_EXT_ALIGN = 16
};

static size_t nki_ext_bytes(size_t size) {
    return size + 2 * (size_t)NKI_EXT_ALIGN;
}

static int nki_ext_create(const netkit_allocator *a, size_t size, void **out) {
    *out = NULL;
    if (size == 0) {
        return NETKIT_OK;
    }
    unsigned char *memory = (unsigned char *)nki_alloc_zero(a, nki_ext_bytes(size));
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    uintptr_t at = (uintptr_t)memory + sizeof(void *);
    size_t skip = sizeof(void *) + (NKI_EXT_ALIGN - at % NKI_EXT_ALIGN) % NKI_EXT_ALIGN;
    unsigned char *ext = memory + skip;
    memcpy(ext - sizeof memory, &memory, sizeof memory);
    *out = ext;
    return NETKIT_OK;
}

static void nki_ext_free(const netkit_allocator *a, void *ext, size_t size) {
    if (ext != NULL) {
        unsigned char *memory;
        memcpy(&memory, (unsigned char *)ext - sizeof memory, sizeof memory);
        nki_free(a, memory, nki_ext_bytes(size));
    }
}
