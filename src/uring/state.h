/* The ring driver's own things. */

#if NKI_HAS_URING

/* Kinds of operations: the low half of the eight bits between token and slot in user_data; the
 * upper half counts polls, since a poll may be given up before its end has come. */
enum {
    NKI_U_RECV = 0,
    NKI_U_SEND = 1,
    NKI_U_ACCEPT = 2,
    NKI_U_POLL = 3,
    NKI_U_CONNECT = 4
};

#define NKI_U_BIT(op) ((uint8_t)(1u << (op)))
#define NKI_U_WAKE UINT64_MAX                /* user_data of the poll for wakes */
#define NKI_U_IGNORED ((uint64_t)0x00FFFFFF) /* of what nobody asks about: a slot nobody has */

/* nki_u_slot.want: what is to be begun at the next chance. */
enum {
    NKI_U_WANT_INPUT = 1, /* hear of bytes, connections, or what a watch asks for */
    NKI_U_WANT_SEND = 2,
    NKI_U_PENDING = 128 /* in the list of those who want */
};

/* nki_u_slot.state */
enum {
    NKI_U_CLOSING = 1,      /* shut: gone when nothing is busy */
    NKI_U_RESET = 2,        /* and then closed with a reset */
    NKI_U_EOF = 4,          /* the end has come, and waits behind what is parked */
    NKI_U_ENDED = 8,        /* and has been read: only an error can follow */
    NKI_U_LENDING = 16,     /* a zero-copy send is done but for the release of its memory */
    NKI_U_TURNED_AWAY = 32, /* its receive is being cancelled */
    NKI_U_POLLED = 64,      /* never by a multishot receive */
    NKI_U_COPIED = 128,     /* no zero-copy sends: the kernel copied, or has refused */
    NKI_U_ROOM = 256,       /* there is room to send: the poll for that is to be cancelled */
    NKI_U_DEAF = 512,    /* a watch that is told of a peer's end alone, and does not ask for it */
    NKI_U_DIALLED = 1024 /* the operation that connects has ended, and `error` says how */
};

/* Bytes taken out of the buffers, or accepted sockets, that wait: first in, first out. */
typedef struct nki_u_blob {
    size_t begin;
    size_t end;
    size_t capacity;
} nki_u_blob;

/* Beside each slot of the loop, so that conns stay small. */
typedef struct nki_u_slot {
    uint32_t next; /* who wants: the slot behind this one */
    uint8_t want;
    uint8_t busy;    /* operations in flight, NKI_U_BIT of each */
    uint8_t polls;   /* counted, 4 bits */
    bool is_lending; /* the send in flight, or the last one, is a zero-copy one */
    uint16_t state;
    uint16_t first; /* buffers that are parked */
    uint16_t last;
    uint16_t error;      /* errno that reading, accepting or connecting will say, 0 = none */
    uint16_t send_error; /* and sending */
    uint32_t events;     /* of a watch */
    uint32_t bulk;       /* reads that go past the buffers because the last ones were large */
    uint32_t turn;       /* of the loop, in which */
    uint32_t taken;      /* bytes have come in by completions */
    int32_t sent;        /* what a zero-copy send has said, whose memory is still out */
    uint64_t owed;       /* a poll that the ring, being full, has not been told to cancel; or 0 */
    nki_u_blob *blob;    /* older than what is parked; while connecting, the address */
} nki_u_slot;

NKI_STATIC_ASSERT(u_slot_size, sizeof(nki_u_slot) <= 64); /* with the conn: 192 bytes */

/* A datagram in a buffer: its head, room for the sender, room for control messages, its bytes. */
enum {
    NKI_U_NAME_SIZE = sizeof(struct sockaddr_storage),
    NKI_U_CAME_SIZE = sizeof(nki_uring_came) + NKI_U_NAME_SIZE + NKI_DGRAM_CONTROL
};

typedef struct nki_u {
    nki_uring ring;
    nki_pool pool;
    nki_files files;
    nki_u_slot **slabs;
    uint32_t slabs_count;
    uint32_t want_first; /* slots that want, NKI_NO_SLOT = none */
    uint32_t want_last;
    uint32_t next; /* completions of this turn */
    uint32_t end;
    uint32_t batch;        /* how many they are */
    uint32_t reads;        /* large ones by calls in this turn */
    uint32_t reads_max;    /* after so many the other completions are left to the next one */
    uint32_t sends;        /* in flight */
    uint32_t begun;        /* up to here the ring holds receives, polls and connects */
    uint16_t lent;         /* buffers that a handler has, the first, or NKI_POOL_NONE */
    nki_u_blob *lent_blob; /* or blob */
    nki_u_slot *reading;   /* whose bytes a handler has, the rest of them still being parked */
    int message_fd;        /* the ring's, the same number with each ring; -1: no messages to it */
    bool is_wake_armed;
    bool is_lost; /* the ring failed while the loop was being destroyed, and is closed */
    bool has_recv_multishot;
    bool has_accept_multishot;
    bool has_skip;
    bool has_connect;
    bool has_zerocopy; /* and it is wished for */
    uint64_t quiet_ns; /* being destroyed: since when no completion has come, 0 = not yet */
    nki_uring_wish wish;
    struct msghdr shape;  /* of received datagrams: the room in front of their bytes */
    unsigned char *guard; /* a page that reads 0 in a forked child */
    nki_fd_table watched;
    struct sockaddr_storage to; /* of the connect that is being begun: attach takes it */
    socklen_t to_len;           /* 0 = it was a call */
    uint64_t overflows;         /* times the kernel had more completions than places */
    uint64_t starved;           /* receives that found no buffer */
    uint64_t arms;              /* receives begun */
    uint64_t lendings;          /* zero-copy sends that kept their memory for a while */
} nki_u;

static nki_u *nki_u_of(const netkit_loop *loop) {
    return (nki_u *)loop->driver_state;
}

/* Whether this process is not the one that made the ring. */
static bool nki_u_is_child(const nki_u *u) {
    return u->guard != NULL && *(const volatile unsigned char *)u->guard == 0;
}

/* Whether work for the thread that runs this ring's operations is announced as a signal. While one
 * is pending, a receive that stands before an urgent byte says that there is nothing, whatever is
 * behind it (Linux, net/ipv4/tcp.c: "or have SIGURG pending"), and one that goes on would wait for
 * bytes that are there. So nothing goes on there but what begins anew, which looks first. */
static bool nki_u_is_signalled(const nki_u *u) {
    return (u->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) == 0;
}

/* The driver's half of a slot that was attached. */
static nki_u_slot *nki_u_at(const nki_u *u, uint32_t slot) {
    return &u->slabs[slot >> NKI_SLAB_BITS][slot & (NKI_SLAB_SLOTS - 1)];
}

static nki_u_slot *nki_u_slot_of(const nki_u *u, const nki_source *source) {
    return nki_u_at(u, nki_id_slot(source->id));
}

/* Which file an operation is about: by number where the ring has it. */
static void nki_u_aim(const nki_u *u, nki_uring_sqe *sqe, const nki_source *source) {
    uint32_t slot = nki_id_slot(source->id);
    if (NKI_UNLIKELY(nki_files_has(&u->files, slot))) {
        sqe->flags |= NKI_URING_SQE_FIXED_FILE;
        sqe->fd = (int32_t)slot;
    } else {
        sqe->fd = nki_os_fd(source->socket);
    }
}

static uint64_t nki_u_name(const nki_source *source, const nki_u_slot *s, unsigned op) {
    uint64_t kind = op == NKI_U_POLL ? op | (uint64_t)s->polls << 4 : op;
    return nki_token_of(source) | kind << NKI_SLOT_BITS;
}

/* ---- blobs ---- */

static unsigned char *nki_u_blob_data(nki_u_blob *b) {
    return (unsigned char *)(b + 1) + b->begin;
}

static size_t nki_u_blob_len(const nki_u_blob *b) {
    return b == NULL ? 0 : b->end - b->begin;
}

static void nki_u_blob_free(const netkit_allocator *a, nki_u_blob *b) {
    if (b != NULL) {
        nki_free(a, b, sizeof *b + b->capacity);
    }
}

/* Have room for `len` bytes at the end. */
static int nki_u_blob_reserve(const netkit_allocator *a, nki_u_blob **at, size_t len) {
    nki_u_blob *b = *at;
    if (b != NULL && b->capacity - b->end >= len) {
        return NETKIT_OK;
    }
    size_t had = nki_u_blob_len(b);
    size_t capacity = NKI_MAX(had + len, had * 2);
    nki_u_blob *more = (nki_u_blob *)nki_alloc(a, sizeof *more + capacity);
    if (more == NULL) {
        return NETKIT_E_NOMEM;
    }
    more->begin = 0;
    more->end = had;
    more->capacity = capacity;
    if (b != NULL) {
        memcpy(more + 1, nki_u_blob_data(b), had);
    }
    nki_u_blob_free(a, b);
    *at = more;
    return NETKIT_OK;
}

/* Append; what was there stays first. */
static int nki_u_blob_push(const netkit_allocator *a, nki_u_blob **at, const void *data,
                           size_t len) {
    if (nki_u_blob_reserve(a, at, len) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    memcpy((unsigned char *)(*at + 1) + (*at)->end, data, len);
    (*at)->end += len;
    return NETKIT_OK;
}

/* A buffer with a datagram: how long, and then so much, the next one being aligned again. */
static int nki_u_blob_push_dgram(const netkit_allocator *a, nki_u_blob **at, const void *data,
                                 size_t len) {
    uint64_t framed = (len + 7) & ~(uint64_t)7;
    if (nki_u_blob_reserve(a, at, sizeof framed + (size_t)framed) != NETKIT_OK) {
        return NETKIT_E_NOMEM;
    }
    unsigned char *end = (unsigned char *)(*at + 1) + (*at)->end;
    memcpy(end, &framed, sizeof framed);
    memcpy(end + sizeof framed, data, len);
    (*at)->end += sizeof framed + (size_t)framed;
    return NETKIT_OK;
}

/* ---- who wants something ---- */

static void nki_u_want(netkit_loop *loop, nki_u *u, const nki_source *source, nki_u_slot *s,
                       unsigned what) {
    loop->is_unsubmitted = 1;
    s->want = (uint8_t)(s->want | what);
    if ((s->want & NKI_U_PENDING) != 0) {
        return;
    }
    uint32_t slot = nki_id_slot(source->id);
    s->want |= NKI_U_PENDING;
    s->next = NKI_NO_SLOT;
    if (u->want_last == NKI_NO_SLOT) {
        u->want_first = slot;
    } else {
        nki_u_at(u, u->want_last)->next = slot;
    }
    u->want_last = slot;
}

#endif /* NKI_HAS_URING */
