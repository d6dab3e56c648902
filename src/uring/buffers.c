/* Provided buffers: memory the kernel picks from when bytes have come, so that a conn that is
 * silent owns none.
 *
 * A buffer is with the kernel, or spare, or holds bytes that a conn has not read (parked), or is
 * lent to a handler. The last two have an owner in their record; a count of them tells cheaply
 * whether there is anything to look after. Kernel side: io_uring_register_buf_ring(3);
 * an empty ring ends a multishot receive at once with ENOBUFS.
 *
 * The kernel takes them in turn, so all it has pass through the caches one after the other. It is
 * given no more than it needs, the others being spare: 64 at first, which stay in a processor's own
 * cache (make bench ROW=echo-4K-50c), and twice as many after a receive that found none.
 *
 * Each buffer is a block of its own, as the shared receive buffer is: one that a handler keeps goes
 * with it, and a new one takes its place, so what is kept never takes from what the kernel has.
 *
 * On request buffers are incremental (Linux 6.12): fewer ones, of which each receive takes what it
 * fills, so that the bytes of many conns lie in one. A record is of one receive then, and the
 * buffer goes back when it is full and all of it was read. Completions do not say where their bytes
 * begin: they follow each other, as the kernel fills a buffer in the order of its completions, so
 * these must be taken in that order, always. (Not so for a polling thread, which works while we
 * read: it may end a receive late for want of a place, and post another's completion before.)
 *
 * Tried and left out (Linux 6.18, loopback; make bench ROW=tried): bundles spare a bare ring a
 * quarter of its processor in bulk and a tenth with pipelined messages of 4 KiB; recv into 64 KiB
 * spares as much in bulk, and gains no less there (ROW=echo-4K-50c-16p). They were out of order in
 * some kernels. */

#if NKI_HAS_URING

enum {
    NKI_POOL_COUNT = 256, /* at most 500 conns answered at once need more, and read by recv then */
    NKI_POOL_WANTED = 64, /* with the kernel at first */
    NKI_POOL_SHARED_COUNT = 64, /* of shared ones: each holds a hundred small messages */
    NKI_POOL_SIZE = 8192,       /* who fills one reads by recv into 64 KiB instead */
    NKI_POOL_GROUP = 0,
    NKI_POOL_RECORDS = 4096 /* of shared ones: as many as a turn may have completions */
};

#define NKI_POOL_NONE UINT16_MAX
#define NKI_POOL_FREE UINT32_MAX /* as the slot of a buffer's owner: nobody */

/* What one receive has brought. */
typedef struct nki_pool_record {
    nki_block *block;
    uint32_t slot;   /* of the owner */
    uint16_t next;   /* parked behind it, or free */
    uint16_t buffer; /* the same as the record's number, unless buffers are shared */
    uint32_t begin;
    uint32_t end;
} nki_pool_record;

/* A buffer that many receives share. */
typedef struct nki_pool_share {
    nki_block *block;
    uint32_t filled;
    uint32_t records; /* of it that are held */
} nki_pool_share;

typedef struct nki_pool {
    uint32_t count; /* a power of two */
    uint32_t size;
    nki_uring_buffer *ring; /* NULL = not there */
    nki_pool_record *records;
    nki_pool_share *shares; /* NULL = each receive has a buffer for itself */
    uint32_t records_count;
    uint32_t held;   /* records in use */
    uint32_t wanted; /* buffers that the kernel is to have; not of shared ones */
    uint32_t spare;  /* that it does not have, listed in `free` */
    uint16_t tail;   /* of the ring; the kernel sees it when it is published */
    uint16_t free;   /* record of a share, or spare, or NKI_POOL_NONE */
    bool is_short;   /* a receive has found no buffer */
    bool is_sharing; /* what nki_pool_open is to make */
    bool is_broken;  /* the kernel and our count do not agree: nothing more is taken from shares */
} nki_pool;

static unsigned char *nki_pool_data(const nki_pool *p, uint16_t id) {
    return nki_block_data(p->records[id].block);
}

/* To the kernel, from nki_pool_publish on. */
static void nki_pool_place(nki_pool *p, uint16_t buffer, nki_block *block) {
    nki_uring_buffer *place = &p->ring[p->tail++ & (p->count - 1)];
    place->addr = (uint64_t)(uintptr_t)nki_block_data(block);
    place->len = p->size;
    place->id = buffer;
}

/* Back to the kernel, when the kernel has no more room there and nobody looks at it. */
static void nki_pool_place_share(nki_pool *p, uint16_t buffer) {
    nki_pool_share *share = &p->shares[buffer];
    if (share->records == 0 && share->filled == p->size) {
        share->filled = 0;
        nki_pool_place(p, buffer, share->block);
    }
}

static NKI_COLD uint16_t nki_pool_take_share(nki_pool *p, const nki_uring_cqe *cqe) {
    uint16_t buffer = (uint16_t)(cqe->flags >> 16);
    nki_pool_share *share = &p->shares[buffer];
    uint32_t len = (uint32_t)cqe->res;
    uint32_t begin = share->filled;
    bool is_full = (cqe->flags & NKI_URING_CQE_BUFFER_MORE) == 0;
    if (len > p->size - begin || is_full != (begin + len == p->size)) {
        p->is_broken = true;
    }
    if (p->is_broken) {
        return NKI_POOL_NONE;
    }
    uint16_t id = p->free;
    share->filled += len;
    if (id == NKI_POOL_NONE) {
        nki_pool_place_share(p, buffer);
        return NKI_POOL_NONE;
    }
    nki_pool_record *record = &p->records[id];
    p->free = record->next;
    share->records++;
    record->block = share->block;
    record->buffer = buffer;
    record->begin = begin;
    record->end = begin + len;
    p->held++;
    return id;
}

/* The record of what the kernel has put there. NKI_POOL_NONE, of shared buffers alone: there is
 * none left, since memory is so short that nothing can be parked elsewhere; or is_broken. */
static uint16_t nki_pool_take(nki_pool *p, const nki_uring_cqe *cqe) {
    if (NKI_UNLIKELY(p->shares != NULL)) {
        return nki_pool_take_share(p, cqe);
    }
    uint16_t buffer = (uint16_t)(cqe->flags >> 16);
    p->records[buffer].begin = 0;
    p->records[buffer].end = cqe->res > 0 ? (uint32_t)cqe->res : 0;
    p->held++;
    return buffer;
}

/* How many buffers the kernel has, those that are not shared. */
static uint32_t nki_pool_out(const nki_pool *p) {
    return p->count - p->held - p->spare;
}

static void nki_pool_give(nki_pool *p, uint16_t id) {
    nki_pool_record *record = &p->records[id];
    record->slot = NKI_POOL_FREE;
    p->held--;
    if (NKI_UNLIKELY(p->shares != NULL)) {
        record->next = p->free;
        p->free = id;
        p->shares[record->buffer].records--;
        nki_pool_place_share(p, record->buffer);
    } else if (nki_pool_out(p) > p->wanted) {
        record->next = p->free;
        p->free = id;
        p->spare++;
    } else {
        nki_pool_place(p, id, record->block);
    }
}

/* Let the kernel have what it was given, and as many buffers as are wanted. */
static void nki_pool_publish(nki_pool *p) {
    if (p->ring == NULL) {
        return;
    }
    if (NKI_UNLIKELY(p->is_short)) {
        p->wanted = NKI_MIN(p->wanted * 2, p->count);
        p->is_short = false;
    }
    while (NKI_UNLIKELY(p->spare != 0 && nki_pool_out(p) < p->wanted)) {
        uint16_t id = p->free;
        p->free = p->records[id].next;
        p->spare--;
        nki_pool_place(p, id, p->records[id].block);
    }
    nki_atomic_store(&p->ring[0].tail, p->tail);
}

static size_t nki_pool_ring_size(const nki_pool *p) {
    return p->count * sizeof(nki_uring_buffer);
}

static void nki_pool_free(nki_pool *p, const netkit_allocator *a) {
    if (p->ring != NULL) {
        (void)NKI_SYS_munmap(p->ring, nki_pool_ring_size(p));
    }
    for (uint32_t i = 0; p->records != NULL && i < p->count; i++) {
        nki_block *block = p->shares != NULL ? p->shares[i].block : p->records[i].block;
        if (block != NULL) {
            nki_block_free(block);
        }
    }
    nki_free(a, p->shares, p->count * sizeof *p->shares);
    nki_free(a, p->records, p->records_count * sizeof *p->records);
    p->ring = NULL;
    p->shares = NULL;
    p->records = NULL;
    p->held = 0;
    p->spare = 0;
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
    reg.flags = p->is_sharing ? NKI_URING_BUFFERS_SHARED : 0;
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_BUFFERS, &reg, 1u) != 0 ? errno : 0;
}

/* Memory and ring, or an errno. */
static int nki_pool_make(nki_pool *p, const nki_uring *r, nki_keeper *keeper) {
    if (p->records == NULL || (p->is_sharing && p->shares == NULL)) {
        return ENOMEM;
    }
    for (uint32_t i = 0; i < p->count; i++) {
        nki_block *block = nki_block_new(keeper, p->size);
        *(p->is_sharing ? &p->shares[i].block : &p->records[i].block) = block;
        if (block == NULL) {
            return ENOMEM;
        }
    }
    int error = nki_pool_register(p, r);
    return error == 0 && p->ring == NULL ? ENOMEM : error;
}

/* No record in use: shared buffers are with the kernel, others are spare. */
static void nki_pool_fill(nki_pool *p) {
    for (uint32_t i = 0; i < p->records_count; i++) {
        p->records[i].slot = NKI_POOL_FREE;
        p->records[i].buffer = (uint16_t)i;
        p->records[i].next = (uint16_t)(i + 1);
    }
    p->records[p->records_count - 1].next = NKI_POOL_NONE;
    p->free = 0;
    for (uint32_t i = 0; p->is_sharing && i < p->count; i++) {
        nki_pool_place(p, (uint16_t)i, p->shares[i].block);
    }
    p->spare = p->is_sharing ? 0 : p->count;
    p->wanted = NKI_MIN(p->wanted, p->count);
    p->is_short = false;
}

/* Make the buffers and hand the kernel those it is to have. Returns 0 or an errno, nothing left. */
static int nki_pool_open(nki_pool *p, const nki_uring *r, nki_keeper *keeper) {
    const netkit_allocator *a = &keeper->allocator;
    p->records_count = p->is_sharing ? (uint32_t)NKI_POOL_RECORDS : p->count;
    p->records = (nki_pool_record *)nki_alloc_zero(a, p->records_count * sizeof *p->records);
    if (p->is_sharing) {
        p->shares = (nki_pool_share *)nki_alloc_zero(a, p->count * sizeof *p->shares);
    }
    int error = nki_pool_make(p, r, keeper);
    if (error != 0 || p->ring == NULL) {
        nki_pool_free(p, a);
        return error != 0 ? error : ENOMEM;
    }
    nki_pool_fill(p);
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
