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
