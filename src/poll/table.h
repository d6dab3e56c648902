/* From a socket to the backend's place for it where sockets are no small numbers (a SOCKET is a
 * handle of the system's, any multiple of four). A hash table with open addressing: the cell of a
 * number is the first free one from where its hash points, at most three of four are in use, and
 * what is taken out leaves no mark, as those behind it that may move up do. Place 0 is no place.
 * All zero is an empty table. */

#ifndef NKI_HAS_SOCKET_TABLE
#define NKI_HAS_SOCKET_TABLE NKI_WINDOWS
#endif

#if NKI_HAS_SOCKET_TABLE

typedef struct nki_socket_cell {
    uintptr_t socket;
    uint32_t place; /* 0 = a free cell */
} nki_socket_cell;

typedef struct nki_socket_table {
    nki_socket_cell *cells;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
} nki_socket_table;

/* Neighbours' hashes are far apart: the upper bits of a product with 2^64 divided by the golden
 * ratio (Knuth, The Art of Computer Programming 3, 6.4). */
static uint32_t nki_socket_table_home(const nki_socket_table *t, uintptr_t socket) {
    uint64_t hash = (uint64_t)socket * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(hash >> 32) & (t->capacity - 1);
}

/* Where a socket is, or where it would be put. There is a free cell. */
static uint32_t nki_socket_table_at(const nki_socket_table *t, uintptr_t socket) {
    uint32_t at = nki_socket_table_home(t, socket);
    while (t->cells[at].place != 0 && t->cells[at].socket != socket) {
        at = (at + 1) & (t->capacity - 1);
    }
    return at;
}

static uint32_t nki_socket_table_get(const nki_socket_table *t, uintptr_t socket) {
    return t->capacity == 0 ? 0 : t->cells[nki_socket_table_at(t, socket)].place;
}

/* Room for one more has been reserved. */
static void nki_socket_table_put(nki_socket_table *t, uintptr_t socket, uint32_t place) {
    nki_socket_cell *cell = &t->cells[nki_socket_table_at(t, socket)];
    t->count += cell->place == 0 ? 1 : 0;
    cell->socket = socket;
    cell->place = place;
}

/* Make sure that putting one more cannot fail. */
static int nki_socket_table_reserve(nki_socket_table *t, const netkit_allocator *a) {
    nki_socket_table grown;
    if (t->count < t->capacity / 4 * 3) {
        return NETKIT_OK;
    }
    grown.capacity = t->capacity == 0 ? 64 : t->capacity * 2;
    grown.count = 0;
    if (grown.capacity > 1u << 26) { /* more than there can be slots */
        return NETKIT_E_NOMEM;
    }
    grown.cells = (nki_socket_cell *)nki_alloc_zero(a, grown.capacity * sizeof(*grown.cells));
    if (grown.cells == NULL) {
        return NETKIT_E_NOMEM;
    }
    for (uint32_t i = 0; i < t->capacity; i++) {
        if (t->cells[i].place != 0) {
            nki_socket_table_put(&grown, t->cells[i].socket, t->cells[i].place);
        }
    }
    nki_free(a, t->cells, t->capacity * sizeof(*t->cells));
    *t = grown;
    return NETKIT_OK;
}

/* Take a socket out; it may be absent. Those behind it up to the next free cell move up when the
 * gap lies between their home and them: so none is ever cut off from its home. */
static void nki_socket_table_drop(nki_socket_table *t, uintptr_t socket) {
    uint32_t mask = t->capacity - 1;
    if (nki_socket_table_get(t, socket) == 0) {
        return;
    }
    uint32_t gap = nki_socket_table_at(t, socket);
    for (uint32_t at = (gap + 1) & mask; t->cells[at].place != 0; at = (at + 1) & mask) {
        uint32_t home = nki_socket_table_home(t, t->cells[at].socket);
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            t->cells[gap] = t->cells[at];
            gap = at;
        }
    }
    t->cells[gap].place = 0;
    t->count--;
}

static void nki_socket_table_free(nki_socket_table *t, const netkit_allocator *a) {
    nki_free(a, t->cells, t->capacity * sizeof(*t->cells));
    memset(t, 0, sizeof(*t));
}

#endif /* NKI_HAS_SOCKET_TABLE */
