/* ---- arena ----------------------------------------------------------------
 *
 * Many allocations, one release: what a request, a frame or a level needs is
 * taken piece by piece and given back all at once.
 *
 *     netkit_arena arena = {0};                  (C++: = {})
 *     name = netkit_arena_copy(&arena, text, len);
 *     netkit_arena_reset(&arena);                all gone, memory kept for the next
 *     netkit_arena_free(&arena);
 *
 * A zeroed arena is ready. Pointers into it live until reset or free. No argument may
 * be NULL. "Thread: one at a time." is for each arena. */
typedef struct netkit_arena {
    size_t chunk_size;          /* asked of the allocator at a time, 0 = 10 KiB */
    size_t size_max;            /* bytes held at most, 0 = 100 MiB */
    netkit_allocator allocator; /* all zero = malloc */
    /* netkit's own from here; the above may change while `size` is 0. */
    size_t size; /* held from the allocator */
    size_t used; /* of the first chunk */
    struct netkit_arena_chunk *chunks;
    struct netkit_arena_chunk *spare;
} netkit_arena;

/* `size` bytes aligned to 16, not cleared; 0 bytes is one byte. NULL when size_max
 * would be exceeded or there is no memory: what was taken before stays.
 * Thread: one at a time. */
NETKIT_API void *netkit_arena_alloc(netkit_arena *arena, size_t size);

/* Room for `count` elements of `size` bytes, cleared. NULL also when the product
 * does not fit a size_t. Thread: one at a time. */
NETKIT_API void *netkit_arena_alloc_array(netkit_arena *arena, size_t count, size_t size);

/* A copy of `len` bytes with a 0 behind it, or NULL. Thread: one at a time. */
NETKIT_API char *netkit_arena_copy(netkit_arena *arena, const void *data, size_t len);

/* Take everything back. Chunks of the usual size are kept for what comes next.
 * Thread: one at a time. */
NETKIT_API void netkit_arena_reset(netkit_arena *arena);

/* Take everything back and give all memory away; the arena is as new.
 * Thread: one at a time. */
NETKIT_API void netkit_arena_free(netkit_arena *arena);
