/* Provided buffers: memory the kernel picks from when bytes have come, so that a conn that is
 * silent owns none.
 *
 * A buffer is with the kernel, or holds bytes that a conn has not read (parked), or is lent to a
 * handler. The three are told apart by its record; a count of those not with the kernel tells
 * cheaply whether there is anything to look after. Kernel side: io_uring_register_buf_ring(3);
 * an empty ring ends a multishot receive at once with ENOBUFS.
 *
 * Tried and left out (Linux 6.18, loopback; make bench ROW=tried): bundles spare a bare ring a
 * quarter of its processor in bulk and a tenth with pipelined messages of 4 KiB; recv into 64 KiB
 * spares as much in bulk, and gains no less there (ROW=echo-4K-50c-16p). Incremental buffers gain
 * nothing that this does not, and both were out of order in some kernels. A table of files of the
 * ring's own spares 0.7 to 0.9 % of a message or a connection, and close(2) would not end a socket
 * then.
 *
 * Each buffer is a block of its own, as the shared receive buffer is: one that a handler keeps goes
 * with it, and a new one takes its place, so what is kept never takes from what the kernel has. */

#if NKI_HAS_URING

enum {
    NKI_POOL_COUNT = 256, /* at most 500 conns answered at once need more, and read by recv then */
    NKI_POOL_SIZE = 8192, /* who fills one reads by recv into 64 KiB instead */
    NKI_POOL_GROUP = 0
};

#define NKI_POOL_NONE UINT16_MAX
#define NKI_POOL_FREE UINT32_MAX /* as the slot of a buffer's owner: with the kernel */

typedef struct nki_pool_record {
    nki_block *block;
    uint32_t slot; /* of the owner */
    uint16_t next; /* parked behind it */
    uint16_t unused;
    uint32_t begin;
    uint32_t end;
} nki_pool_record;

typedef struct nki_pool {
    uint32_t count; /* a power of two */
    uint32_t size;
    nki_uring_buffer *ring; /* NULL = not there */
    nki_pool_record *records;
    uint32_t held; /* not with the kernel */
    uint16_t tail; /* of the ring; the kernel sees it when it is published */
} nki_pool;

static unsigned char *nki_pool_data(const nki_pool *p, uint16_t id) {
    return nki_block_data(p->records[id].block);
}

/* Back to the kernel, from nki_pool_publish on. */
static void nki_pool_give(nki_pool *p, uint16_t id) {
    nki_uring_buffer *place = &p->ring[p->tail++ & (p->count - 1)];
    place->addr = (uint64_t)(uintptr_t)nki_pool_data(p, id);
    place->len = p->size;
    place->id = id;
    p->records[id].slot = NKI_POOL_FREE;
    p->held--;
}

static void nki_pool_publish(nki_pool *p) {
    if (p->ring != NULL) {
        nki_atomic_store(&p->ring[0].tail, p->tail);
    }
}

static size_t nki_pool_ring_size(const nki_pool *p) {
    return p->count * sizeof(nki_uring_buffer);
}

static void nki_pool_free(nki_pool *p, const netkit_allocator *a) {
    if (p->ring != NULL) {
        (void)NKI_SYS_munmap(p->ring, nki_pool_ring_size(p));
    }
    for (uint32_t i = 0; p->records != NULL && i < p->count; i++) {
        if (p->records[i].block != NULL) {
            nki_block_free(p->records[i].block);
        }
    }
    nki_free(a, p->records, p->count * sizeof *p->records);
    p->ring = NULL;
    p->records = NULL;
    p->held = 0;
    p->tail = 0;
}

static int nki_pool_register(nki_pool *p, const nki_uring *r) {
    nki_uring_buffers_reg reg;
    void *ring = NKI_SYS_mmap(nki_pool_ring_size(p), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) {
        return errno;
    }
    p->ring = (nki_uring_buffer *)ring;
    memset(&reg, 0, sizeof reg);
    reg.addr = (uint64_t)(uintptr_t)ring;
    reg.entries = p->count;
    reg.group = NKI_POOL_GROUP;
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_BUFFERS, &reg, 1u) != 0 ? errno : 0;
}

/* Memory and ring, or an errno. */
static int nki_pool_make(nki_pool *p, const nki_uring *r, nki_keeper *keeper) {
    for (uint32_t i = 0; p->records != NULL && i < p->count; i++) {
        p->records[i].block = nki_block_new(keeper, p->size);
        if (p->records[i].block == NULL) {
            return ENOMEM;
        }
    }
    int error = p->records == NULL ? ENOMEM : nki_pool_register(p, r);
    return error == 0 && p->ring == NULL ? ENOMEM : error;
}

/* Make the buffers and hand all of them to the kernel. Returns 0 or an errno, nothing left. */
static int nki_pool_open(nki_pool *p, const nki_uring *r, nki_keeper *keeper) {
    const netkit_allocator *a = &keeper->allocator;
    p->records = (nki_pool_record *)nki_alloc_zero(a, p->count * sizeof *p->records);
    int error = nki_pool_make(p, r, keeper);
    if (error != 0 || p->ring == NULL) {
        nki_pool_free(p, a);
        return error != 0 ? error : ENOMEM;
    }
    p->held = p->count;
    for (uint32_t i = 0; i < p->count; i++) {
        nki_pool_give(p, (uint16_t)i);
    }
    nki_pool_publish(p);
    return 0;
}

/* The user takes this buffer's memory for good; another one comes into its place. */
static nki_block *nki_pool_swap(nki_pool *p, uint16_t id, nki_keeper *keeper) {
    nki_block *fresh = nki_block_new(keeper, p->size);
    nki_block *kept = p->records[id].block;
    if (fresh == NULL) {
        return NULL;
    }
    p->records[id].block = fresh;
    return kept;
}

#endif /* NKI_HAS_URING */
