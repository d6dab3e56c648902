/* io_uring by raw system calls: the kernel's interface in our own words, and the ring on it.
 *
 * The numbers and layouts are those of <linux/io_uring.h>, which never change, but which old
 * systems' headers have only in part (Debian 12: 6.1). What each kernel knows is found out by
 * asking it, at run time. */

#if NKI_HAS_URING

/* Operations. */
enum {
    NKI_URING_NOP = 0,
    NKI_URING_POLL_ADD = 6,
    NKI_URING_RECVMSG = 10,
    NKI_URING_ACCEPT = 13,
    NKI_URING_CANCEL = 14,
    NKI_URING_CONNECT = 16,
    NKI_URING_SEND = 26,
    NKI_URING_RECV = 27,
    NKI_URING_OP_5_19 = 45, /* SOCKET: multishot accept is there */
    NKI_URING_SEND_ZC = 47,
    NKI_URING_OP_6_0 = 47, /* SEND_ZC: multishot receive is there */
    NKI_URING_MESSAGE = 40
};

/* io_uring_params.flags */
#define NKI_URING_SETUP_SQPOLL (1u << 1)
#define NKI_URING_SETUP_SQ_AFF (1u << 2)
#define NKI_URING_SETUP_CQSIZE (1u << 3)
#define NKI_URING_SETUP_DISABLED (1u << 6)
#define NKI_URING_SETUP_SUBMIT_ALL (1u << 7)     /* 5.18 */
#define NKI_URING_SETUP_COOP_TASKRUN (1u << 8)   /* 5.19 */
#define NKI_URING_SETUP_TASKRUN_FLAG (1u << 9)   /* 5.19 */
#define NKI_URING_SETUP_SINGLE_ISSUER (1u << 12) /* 6.0 */
#define NKI_URING_SETUP_DEFER_TASKRUN (1u << 13) /* 6.1 */
#define NKI_URING_SETUP_NO_SQARRAY (1u << 16)    /* 6.6 */

/* io_uring_params.features */
#define NKI_URING_FEAT_SINGLE_MMAP (1u << 0)
#define NKI_URING_FEAT_NODROP (1u << 1)
#define NKI_URING_FEAT_SUBMIT_STABLE (1u << 2)
#define NKI_URING_FEAT_FAST_POLL (1u << 5)
#define NKI_URING_FEAT_EXT_ARG (1u << 8)
#define NKI_URING_FEAT_RSRC_TAGS (1u << 10) /* 5.13: polls that go on are there */
#define NKI_URING_FEAT_CQE_SKIP (1u << 11)
#define NKI_URING_FEAT_NO_IOWAIT (1u << 17) /* 6.15 */
#define NKI_URING_FEAT_NEEDED                                                            \
    (NKI_URING_FEAT_SINGLE_MMAP | NKI_URING_FEAT_NODROP | NKI_URING_FEAT_SUBMIT_STABLE | \
     NKI_URING_FEAT_FAST_POLL | NKI_URING_FEAT_EXT_ARG | NKI_URING_FEAT_RSRC_TAGS)

#define NKI_URING_ENTER_GETEVENTS (1u << 0)
#define NKI_URING_ENTER_SQ_WAKEUP (1u << 1)
#define NKI_URING_ENTER_SQ_WAIT (1u << 2)
#define NKI_URING_ENTER_EXT_ARG (1u << 3)
#define NKI_URING_ENTER_REGISTERED (1u << 4)
#define NKI_URING_ENTER_NO_IOWAIT (1u << 7)

enum {
    NKI_URING_REGISTER_FILES = 2,
    NKI_URING_UNREGISTER_FILES = 3,
    NKI_URING_UPDATE_FILES = 6,
    NKI_URING_REGISTER_PROBE = 8,
    NKI_URING_REGISTER_ENABLE = 12,
    NKI_URING_REGISTER_RING = 20,
    NKI_URING_UNREGISTER_RING = 21,
    NKI_URING_REGISTER_BUFFERS = 22,
    NKI_URING_UNREGISTER_BUFFERS = 23,
    NKI_URING_REGISTER_NAPI = 27,   /* 6.9 */
    NKI_URING_REGISTER_MESSAGE = 31 /* 6.13: a message to a ring by who has none */
};

#define NKI_URING_SQES_OFFSET 0x10000000
#define NKI_URING_SQ_NEED_WAKEUP (1u << 0) /* in the flags of the submission side */
#define NKI_URING_SQ_CQ_OVERFLOW (1u << 1)
#define NKI_URING_SQ_TASKRUN (1u << 2)

/* io_uring_sqe.flags, .ioprio and .len of single operations */
#define NKI_URING_SQE_FIXED_FILE (1u << 0)
#define NKI_URING_SQE_BUFFER_SELECT (1u << 5)
#define NKI_URING_SQE_SKIP_SUCCESS (1u << 6)
#define NKI_URING_ACCEPT_MULTISHOT (1u << 0)
#define NKI_URING_RECV_POLL_FIRST (1u << 0)
#define NKI_URING_RECV_MULTISHOT (1u << 1)
#define NKI_URING_POLL_MULTISHOT (1u << 0)
#define NKI_URING_SEND_ZC_REPORT (1u << 3) /* say in the notification whether it was a copy */

/* io_uring_cqe.flags */
#define NKI_URING_CQE_BUFFER (1u << 0)      /* a buffer's number is in the upper half */
#define NKI_URING_CQE_MORE (1u << 1)        /* the operation goes on */
#define NKI_URING_CQE_BUFFER_MORE (1u << 4) /* the kernel goes on filling this buffer */
#define NKI_URING_CQE_NOTIF (1u << 3)       /* the memory of a zero-copy send is free */
#define NKI_URING_NOTIF_COPIED (1u << 31)   /* and was copied after all */

typedef struct nki_uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buffer_group;
    uint16_t personality;
    uint32_t file_index;
    uint64_t addr3;
    uint64_t pad;
} nki_uring_sqe;

typedef struct nki_uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
} nki_uring_cqe;

/* What a receive of messages that goes on puts in front of each, before the sender and the control
 * messages (struct io_uring_recvmsg_out). */
typedef struct nki_uring_came {
    uint32_t name_len;
    uint32_t control_len;
    uint32_t len;
    uint32_t flags; /* MSG_TRUNC, MSG_CTRUNC */
} nki_uring_came;

typedef struct nki_uring_offsets {
    uint32_t head, tail, mask, entries, a, b, c, d;
    uint64_t user_addr;
} nki_uring_offsets;

typedef struct nki_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t reserved[3];
    nki_uring_offsets sq; /* a flags, b dropped, c array */
    nki_uring_offsets cq; /* a overflow, b cqes, c flags */
} nki_uring_params;

typedef struct nki_uring_wait_arg {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait_us;
    uint64_t time;
} nki_uring_wait_arg;

typedef struct nki_uring_time {
    int64_t seconds;
    int64_t nanoseconds;
} nki_uring_time;

typedef struct nki_uring_probe {
    uint8_t last_op;
    uint8_t count;
    uint16_t reserved[7];
    struct {
        uint8_t op;
        uint8_t reserved;
        uint16_t flags; /* bit 0: supported */
        uint32_t reserved2;
    } ops[64];
} nki_uring_probe;

typedef struct nki_uring_update {
    uint32_t offset;
    uint32_t reserved;
    uint64_t data;
} nki_uring_update;

/* One place of a ring of provided buffers. In the first one `tail` is the ring's own. */
typedef struct nki_uring_buffer {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t tail;
} nki_uring_buffer;

#define NKI_URING_BUFFERS_SHARED 2u /* incremental, 6.12 */

typedef struct nki_uring_buffers_reg {
    uint64_t addr;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
} nki_uring_buffers_reg;

typedef struct nki_uring_napi {
    uint32_t busy_poll_us;
    uint8_t is_preferred;
    uint8_t opcode;
    uint8_t reserved[2];
    uint32_t op_param;
    uint32_t reserved2;
} nki_uring_napi;

NKI_STATIC_ASSERT(napi_size, sizeof(nki_uring_napi) == 16);
NKI_STATIC_ASSERT(sqe_size, sizeof(nki_uring_sqe) == 64);
NKI_STATIC_ASSERT(cqe_size, sizeof(nki_uring_cqe) == 16);
NKI_STATIC_ASSERT(params_size, sizeof(nki_uring_params) == 120);
NKI_STATIC_ASSERT(buffer_size, sizeof(nki_uring_buffer) == 16);
NKI_STATIC_ASSERT(buffers_reg_size, sizeof(nki_uring_buffers_reg) == 40);

/* What is had on request only. */
typedef struct nki_uring_wish {
    uint32_t sqpoll_ms; /* a thread of the kernel submits, sleeping when idle for so long; 0 = no */
    uint32_t sqpoll_cpu; /* on this processor, from 1; 0 = any */
    uint32_t napi_us;    /* waits poll the network device for so long; 0 = no */
    bool is_foreign;     /* poll(2) of the ring must wake */
    bool is_small;       /* for a few operations */
} nki_uring_wish;

typedef struct nki_uring {
    int fd;       /* -1 = none */
    int enter_fd; /* the same, or its registered number */
    uint32_t enter_flags;
    uintptr_t thread; /* that enabled it */
    uint32_t flags;   /* NKI_URING_SETUP_* it was made with */
    uint32_t features;
    uint32_t sq_entries;
    uint32_t sq_mask;
    uint32_t cq_mask;
    uint32_t sqe_tail; /* filled up to here; the kernel has been told up to *sq_tail */
    uint32_t *sq_head;
    uint32_t *sq_tail;
    uint32_t *sq_flags;
    uint32_t *cq_head;
    uint32_t *cq_tail;
    nki_uring_sqe *sqes;
    nki_uring_cqe *cqes;
    unsigned char *map; /* both rings */
    size_t map_size;
    size_t sqes_size;
    bool is_enabled;
    bool has_lost; /* completions, as the kernel had no memory to keep them beyond its places */
    uint64_t ops;  /* NKI_URING_OP bits of those it knows */
} nki_uring;

static bool nki_uring_has(const nki_uring *r, unsigned op) {
    return (r->ops >> op & 1u) != 0;
}

#endif /* NKI_HAS_URING */
