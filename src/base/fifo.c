/* The circular buffer. Byte i of the content stands at (front + i) mod capacity. */

enum {
    NKI_FIFO_FIRST = 1024,
    NKI_FIFO_MAX = 16 * 1024 * 1024
};

/* Through a volatile pointer: a store that the compiler must make. */
NETKIT_API void netkit_wipe(void *memory, size_t len) {
    volatile unsigned char *byte = (volatile unsigned char *)memory;
    while (len-- > 0) {
        *byte++ = 0;
    }
}

static size_t nki_fifo_max(const netkit_fifo *fifo) {
    return fifo->capacity_max == 0 ? (size_t)NKI_FIFO_MAX : fifo->capacity_max;
}

static size_t nki_fifo_at(const netkit_fifo *fifo, size_t offset) {
    return (fifo->front + offset) & (fifo->capacity - 1);
}

NETKIT_API size_t netkit_fifo_len(const netkit_fifo *fifo) {
    return fifo->len;
}

NETKIT_API size_t netkit_fifo_peek(const netkit_fifo *fifo, size_t offset, void *out, size_t len) {
    if (offset >= fifo->len || len == 0) {
        return 0;
    }
    len = NKI_MIN(len, fifo->len - offset);
    size_t at = nki_fifo_at(fifo, offset);
    size_t first = NKI_MIN(len, fifo->capacity - at);
    memcpy(out, fifo->memory + at, first);
    memcpy((unsigned char *)out + first, fifo->memory, len - first);
    return len;
}

/* Over to a memory of `capacity` bytes, in one piece from its start. */
static int nki_fifo_move(netkit_fifo *fifo, size_t capacity) {
    netkit_allocator allocator;
    int error = nki_allocator_init(&allocator, &fifo->allocator);
    if (error != NETKIT_OK) {
        return error;
    }
    unsigned char *memory = (unsigned char *)nki_alloc(&allocator, capacity);
    if (memory == NULL) {
        return NETKIT_E_NOMEM;
    }
    (void)netkit_fifo_peek(fifo, 0, memory, fifo->len);
    if (fifo->is_secret) {
        netkit_wipe(fifo->memory, fifo->capacity);
    }
    nki_free(&allocator, fifo->memory, fifo->capacity);
    fifo->allocator = allocator;
    fifo->memory = memory;
    fifo->capacity = capacity;
    fifo->front = 0;
    return NETKIT_OK;
}

NETKIT_API int netkit_fifo_reserve(netkit_fifo *fifo, size_t len) {
    size_t max = nki_fifo_max(fifo);
    if (len > max) {
        return NETKIT_E_TOOBIG;
    }
    if (fifo->len > max - len) {
        return NETKIT_E_FULL;
    }
    if (len <= fifo->capacity - fifo->len) {
        return NETKIT_OK;
    }
    size_t capacity = NKI_MAX(fifo->capacity, (size_t)NKI_FIFO_FIRST);
    while (capacity < fifo->len + len) {
        if (capacity > SIZE_MAX / 2) {
            return NETKIT_E_NOMEM;
        }
        capacity *= 2;
    }
    return nki_fifo_move(fifo, capacity);
}

NETKIT_API int netkit_fifo_write(netkit_fifo *fifo, const void *data, size_t len) {
    int error = netkit_fifo_reserve(fifo, len);
    if (error != NETKIT_OK || len == 0) {
        return error;
    }
    size_t at = nki_fifo_at(fifo, fifo->len);
    size_t first = NKI_MIN(len, fifo->capacity - at);
    memcpy(fifo->memory + at, data, first);
    memcpy(fifo->memory, (const unsigned char *)data + first, len - first);
    fifo->len += len;
    return NETKIT_OK;
}

NETKIT_API size_t netkit_fifo_consume(netkit_fifo *fifo, size_t len) {
    len = NKI_MIN(len, fifo->len);
    if (len == 0) {
        return 0;
    }
    if (fifo->is_secret) {
        size_t first = NKI_MIN(len, fifo->capacity - fifo->front);
        netkit_wipe(fifo->memory + fifo->front, first);
        netkit_wipe(fifo->memory, len - first);
    }
    fifo->len -= len;
    fifo->front = fifo->len == 0 ? 0 : nki_fifo_at(fifo, len);
    return len;
}

NETKIT_API size_t netkit_fifo_read(netkit_fifo *fifo, void *out, size_t len) {
    return netkit_fifo_consume(fifo, netkit_fifo_peek(fifo, 0, out, len));
}

NETKIT_API netkit_span netkit_fifo_front(const netkit_fifo *fifo) {
    netkit_span span = {NULL, 0};
    if (fifo->len > 0) {
        span.data = fifo->memory + fifo->front;
        span.len = NKI_MIN(fifo->len, fifo->capacity - fifo->front);
    }
    return span;
}

static void nki_fifo_reverse(unsigned char *memory, size_t from, size_t to) {
    while (from + 1 < to) {
        unsigned char byte = memory[from];
        memory[from++] = memory[--to];
        memory[to] = byte;
    }
}

/* Turn the memory so that the content begins at its start: by three reversals, in place. */
static void nki_fifo_rotate(netkit_fifo *fifo) {
    nki_fifo_reverse(fifo->memory, 0, fifo->front);
    nki_fifo_reverse(fifo->memory, fifo->front, fifo->capacity);
    nki_fifo_reverse(fifo->memory, 0, fifo->capacity);
    fifo->front = 0;
}

NETKIT_API const void *netkit_fifo_straighten(netkit_fifo *fifo, size_t len) {
    if (fifo->len < len || fifo->len == 0) {
        return NULL;
    }
    if (len > fifo->capacity - fifo->front) {
        nki_fifo_rotate(fifo);
    }
    return fifo->memory + fifo->front;
}

NETKIT_API void *netkit_fifo_space(netkit_fifo *fifo, size_t len, size_t *room) {
    *room = 0;
    if (netkit_fifo_reserve(fifo, NKI_MAX(len, 1)) != NETKIT_OK) {
        return NULL;
    }
    size_t at = nki_fifo_at(fifo, fifo->len);
    size_t piece = NKI_MIN(fifo->capacity - fifo->len, fifo->capacity - at);
    if (piece < len) {
        nki_fifo_rotate(fifo);
        at = fifo->len;
        piece = fifo->capacity - at;
    }
    *room = NKI_MIN(piece, nki_fifo_max(fifo) - fifo->len);
    return fifo->memory + at;
}

NETKIT_API int netkit_fifo_commit(netkit_fifo *fifo, size_t len) {
    size_t room = NKI_MIN(fifo->capacity, nki_fifo_max(fifo)) - fifo->len;
    if (len > 0 && room > 0) {
        room = NKI_MIN(room, fifo->capacity - nki_fifo_at(fifo, fifo->len));
    }
    if (len > room) {
        return NETKIT_E_INVALID;
    }
    fifo->len += len;
    return NETKIT_OK;
}

NETKIT_API void netkit_fifo_clear(netkit_fifo *fifo) {
    (void)netkit_fifo_consume(fifo, fifo->len);
}

NETKIT_API void netkit_fifo_free(netkit_fifo *fifo) {
    netkit_fifo_clear(fifo);
    if (fifo->is_secret) {
        netkit_wipe(fifo->memory, fifo->capacity);
    }
    nki_free(&fifo->allocator, fifo->memory, fifo->capacity);
    fifo->memory = NULL;
    fifo->capacity = 0;
    fifo->front = 0;
}
