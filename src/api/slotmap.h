/* ---- slot map: objects behind handles ---------------------------------------
 *
 * What netkit's own handles are made of, for a program's players, sessions and
 * requests: objects that never move, named by 64-bit handles, where the handle of
 * one that is gone is never the handle of another. Memory is taken for 256 objects at
 * a time. No argument may be NULL that is not said to be. "Thread: one at a time." is
 * for each map. */
typedef struct netkit_slotmap netkit_slotmap;

typedef struct netkit_slotmap_desc {
    size_t object_size;         /* bytes of each object, up to 1 MiB */
    uint32_t count_max;         /* objects at most, 0 = 32,768; up to 16,777,214 */
    netkit_allocator allocator; /* all zero = malloc */
} netkit_slotmap_desc;

/* Make one. NETKIT_E_INVALID, NETKIT_E_NOMEM; *out is NULL then. Thread: any. */
NETKIT_API int netkit_slotmap_create(netkit_slotmap **out, const netkit_slotmap_desc *desc);

/* Free it with all objects. NULL is legal. Thread: one at a time. */
NETKIT_API void netkit_slotmap_destroy(netkit_slotmap *map);

/* A new object, zeroed, aligned to 16: *handle names it until it is removed, never 0.
 * `object` may be NULL. NETKIT_E_FULL at count_max, NETKIT_E_NOMEM.
 * Thread: one at a time. */
NETKIT_API int netkit_slotmap_add(netkit_slotmap *map, uint64_t *handle, void **object);

/* The object of a handle; NULL when it is gone, or never was of this map.
 * Thread: one at a time. */
NETKIT_API void *netkit_slotmap_find(const netkit_slotmap *map, uint64_t handle);

/* Remove an object; NETKIT_E_STALE when the handle names none.
 * Thread: one at a time. */
NETKIT_API int netkit_slotmap_remove(netkit_slotmap *map, uint64_t handle);

/* Objects there are. Thread: one at a time. */
NETKIT_API uint32_t netkit_slotmap_count(const netkit_slotmap *map);

/* The object behind that of `after` in the order of slots (0 = the first), for loops
 * that may remove what they meet; its handle, or 0 at the end.
 * Thread: one at a time. */
NETKIT_API uint64_t netkit_slotmap_next(const netkit_slotmap *map, uint64_t after);
