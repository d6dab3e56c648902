/* Arenas: chunks in a list, the first of which is being filled. A request larger than a chunk
 * gets one of its own size; such are given back at reset, the others are kept as spare. */

enum {
    NKI_ARENA_ALIGN = 16,
    NKI_ARENA_CHUNK = 10 * 1024,
    NKI_ARENA_MAX = 100 * 1024 * 1024
};

typedef struct netkit_arena_chunk {
    struct netkit_arena_chunk *next;
    size_t size;  /* as asked of the allocator */
    size_t start; /* of the first aligned byte, from the chunk's own start */
} nki_arena_chunk;

static size_t nki_arena_chunk_size(const netkit_arena *arena) {
    return arena->chunk_size == 0 ? (size_t)NKI_ARENA_CHUNK : arena->chunk_size;
}

/* What a chunk must have so that `size` aligned bytes fit; 0 when that is no size. */
static size_t nki_arena_bytes_for(size_t size) {
    size_t head = sizeof(nki_arena_chunk) + NKI_ARENA_ALIGN - 1;
    return size > SIZE_MAX - head ? 0 : size + head;
}

static bool nki_arena_may_hold(const netkit_arena *arena, size_t bytes) {
    size_t max = arena->size_max == 0 ? (size_t)NKI_ARENA_MAX : arena->size_max;
    return bytes <= max && arena->size <= max - bytes;
}

static nki_arena_chunk *nki_arena_chunk_new(netkit_arena *arena, size_t bytes) {
    netkit_allocator allocator;
    if (!nki_arena_may_hold(arena, bytes) ||
        nki_allocator_init(&allocator, &arena->allocator) != NETKIT_OK) {
        return NULL;
    }
    nki_arena_chunk *chunk = (nki_arena_chunk *)nki_alloc(&allocator, bytes);
    if (chunk == NULL) {
        return NULL;
    }
    uintptr_t begin = (uintptr_t)(void *)(chunk + 1);
    size_t skip = (NKI_ARENA_ALIGN - begin % NKI_ARENA_ALIGN) % NKI_ARENA_ALIGN;
    chunk->size = bytes;
    chunk->start = sizeof *chunk + skip;
    arena->allocator = allocator;
    arena->size += bytes;
    return chunk;
}

static void nki_arena_chunk_free(netkit_arena *arena, nki_arena_chunk *chunk) {
    arena->size -= chunk->size;
    nki_free(&arena->allocator, chunk, chunk->size);
}

static void nki_arena_free_spare(netkit_arena *arena) {
    while (arena->spare != NULL) {
        nki_arena_chunk *chunk = arena->spare;
        arena->spare = chunk->next;
        nki_arena_chunk_free(arena, chunk);
    }
}

/* A chunk with `size` bytes free goes in front: a spare one when it is large enough. */
static int nki_arena_extend(netkit_arena *arena, size_t size) {
    size_t usual = nki_arena_chunk_size(arena);
    size_t need = nki_arena_bytes_for(size);
    nki_arena_chunk *chunk = NULL;
    if (need == 0) {
        return NETKIT_E_TOOBIG;
    }
    if (need <= usual && arena->spare != NULL) {
        chunk = arena->spare;
        arena->spare = chunk->next;
    } else {
        size_t bytes = NKI_MAX(need, usual);
        if (!nki_arena_may_hold(arena,
                                bytes)) { /* without what is kept, and no larger than need be */
            nki_arena_free_spare(arena);
            bytes = need;
        }
        chunk = nki_arena_chunk_new(arena, bytes);
    }
    if (chunk == NULL) {
        return NETKIT_E_NOMEM;
    }
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->used = chunk->start;
    return NETKIT_OK;
}

NETKIT_API void *netkit_arena_alloc(netkit_arena *arena, size_t size) {
    size = NKI_MAX(size, 1);
    if (arena->chunks == NULL || size > arena->chunks->size - arena->used) {
        if (nki_arena_extend(arena, size) != NETKIT_OK) {
            return NULL;
        }
    }
    unsigned char *memory = (unsigned char *)(void *)arena->chunks + arena->used;
    size_t left = arena->chunks->size - arena->used - size;
    size_t pad = (NKI_ARENA_ALIGN - size % NKI_ARENA_ALIGN) % NKI_ARENA_ALIGN;
    arena->used += size + NKI_MIN(pad, left);
    return memory;
}

NETKIT_API void *netkit_arena_alloc_array(netkit_arena *arena, size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    void *memory = netkit_arena_alloc(arena, count * size);
    if (memory != NULL) {
        memset(memory, 0, count * size);
    }
    return memory;
}

NETKIT_API char *netkit_arena_copy(netkit_arena *arena, const void *data, size_t len) {
    char *text = len == SIZE_MAX ? NULL : (char *)netkit_arena_alloc(arena, len + 1);
    if (text == NULL) {
        return NULL;
    }
    if (len > 0) {
        memcpy(text, data, len);
    }
    text[len] = 0;
    return text;
}

NETKIT_API void netkit_arena_reset(netkit_arena *arena) {
    size_t usual = nki_arena_chunk_size(arena);
    while (arena->chunks != NULL) {
        nki_arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        if (chunk->size != usual) {
            nki_arena_chunk_free(arena, chunk);
            continue;
        }
        chunk->next = arena->spare;
        arena->spare = chunk;
    }
    arena->used = 0;
}

NETKIT_API void netkit_arena_free(netkit_arena *arena) {
    netkit_arena_reset(arena);
    nki_arena_free_spare(arena);
}
