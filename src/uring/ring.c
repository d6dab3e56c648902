/* The ring itself: set up, told what to do, waited for, read.
 *
 * It is made disabled and enabled by the thread that first waits on it: with SINGLE_ISSUER the
 * kernel binds it to that thread, and with DEFER_TASKRUN completions are made nowhere but in
 * that thread's own calls that ask for events, so every wait asks, even one that does not block.
 * Each step of the ladder below is what one more kernel can do. Ring memory is charged to
 * RLIMIT_MEMLOCK (seen on 6.18: 64 KiB allows 512 entries), so ENOMEM means: try smaller.
 * A forked child must not touch a ring: its memory is not inherited. */

#if NKI_HAS_URING

enum {
    NKI_URING_SQ_ENTRIES = 256,
    NKI_URING_CQ_ENTRIES = 4096,
    NKI_URING_SQ_LEAST = 16
};

static void nki_uring_init(nki_uring *r) {
    memset(r, 0, sizeof *r);
    r->fd = -1;
    r->enter_fd = -1;
}

/* The kernel holds the ring for the thread that registered it until told otherwise, or its end. */
static void nki_uring_unregister(nki_uring *r) {
    if ((r->enter_flags & NKI_URING_ENTER_REGISTERED) != 0 && r->thread == NKI_SYS_gettid()) {
        nki_uring_update update;
        memset(&update, 0, sizeof update);
        update.offset = (uint32_t)r->enter_fd;
        (void)NKI_SYS_io_uring_register(r->fd, NKI_URING_UNREGISTER_RING, &update, 1u);
        r->enter_flags = 0;
        r->enter_fd = r->fd;
    }
}

static void nki_uring_close(nki_uring *r) {
    if (r->sqes != NULL) {
        (void)NKI_SYS_munmap(r->sqes, r->sqes_size);
    }
    if (r->map != NULL) {
        (void)NKI_SYS_munmap(r->map, r->map_size);
    }
    nki_uring_unregister(r);
    if (r->fd >= 0) {
        nki_os_abandon((uintptr_t)r->fd);
    }
    nki_uring_init(r);
}

/* ---- setting up ---- */

/* The same with a thread of the kernel that submits: it refuses the flags for deferring work. */
static uint32_t nki_uring_step_polled(unsigned step) {
    const uint32_t least =
        NKI_URING_SETUP_CQSIZE | NKI_URING_SETUP_DISABLED | NKI_URING_SETUP_SQPOLL;
    const uint32_t best = least | NKI_URING_SETUP_SUBMIT_ALL | NKI_URING_SETUP_SINGLE_ISSUER;
    switch (step) {
    case 0: return best | NKI_URING_SETUP_NO_SQARRAY;
    case 1: return best;
    case 2: return least;
    default: return 0;
    }
}

enum {
    NKI_URING_STEP_FOREIGN = 2 /* the first without DEFER_TASKRUN */
};

/* Flags, best first. Returns 0 beyond the last step. */
static uint32_t nki_uring_step(unsigned step) {
    const uint32_t least = NKI_URING_SETUP_CQSIZE | NKI_URING_SETUP_DISABLED;
    const uint32_t coop = least | NKI_URING_SETUP_SUBMIT_ALL | NKI_URING_SETUP_COOP_TASKRUN;
    const uint32_t best = least | NKI_URING_SETUP_SUBMIT_ALL | NKI_URING_SETUP_SINGLE_ISSUER |
                          NKI_URING_SETUP_DEFER_TASKRUN | NKI_URING_SETUP_TASKRUN_FLAG;
    switch (step) {
    case 0: return best | NKI_URING_SETUP_NO_SQARRAY;
    case 1: return best;
    case 2: return coop | NKI_URING_SETUP_SINGLE_ISSUER;
    case 3: return coop;
    case 4: return least | NKI_URING_SETUP_SUBMIT_ALL;
    case 5: return least;
    default: return 0;
    }
}

/* Down the ladder while the kernel does not know a flag, and then in size while it has no memory.
 * Returns 0 or an errno. */
static int nki_uring_setup(nki_uring *r, nki_uring_params *p, const nki_uring_wish *wish) {
    uint32_t (*flags_of)(unsigned) = wish->sqpoll_ms != 0 ? nki_uring_step_polled : nki_uring_step;
    uint32_t entries = wish->is_small ? NKI_URING_SQ_LEAST : NKI_URING_SQ_ENTRIES;
    unsigned step = wish->is_foreign ? NKI_URING_STEP_FOREIGN : 0;
    while (entries >= NKI_URING_SQ_LEAST) {
        memset(p, 0, sizeof *p);
        p->flags = flags_of(step);
        p->sq_thread_idle = wish->sqpoll_ms;
        if (wish->sqpoll_ms != 0 && wish->sqpoll_cpu != 0) {
            p->flags |= NKI_URING_SETUP_SQ_AFF;
            p->sq_thread_cpu = wish->sqpoll_cpu - 1;
        }
        p->cq_entries = entries * (NKI_URING_CQ_ENTRIES / NKI_URING_SQ_ENTRIES);
        r->fd = NKI_SYS_io_uring_setup(entries, p);
        if (r->fd >= 0) {
            r->flags = p->flags;
            r->features = (uint32_t)NKI_MASK(io_uring_features, p->features);
            return 0;
        }
        if (errno == EINVAL && flags_of(step + 1) != 0) {
            step++;
        } else if (errno == ENOMEM) {
            entries /= 4;
        } else {
            break;
        }
    }
    return errno;
}

static uint32_t *nki_uring_word(nki_uring *r, uint32_t offset) {
    return (uint32_t *)(void *)(r->map + offset);
}

static void nki_uring_place(nki_uring *r, const nki_uring_params *p) {
    r->sq_entries = p->sq_entries;
    r->sq_mask = p->sq_entries - 1;
    r->cq_mask = p->cq_entries - 1;
    r->sq_head = nki_uring_word(r, p->sq.head);
    r->sq_tail = nki_uring_word(r, p->sq.tail);
    r->sq_flags = nki_uring_word(r, p->sq.a);
    r->cq_head = nki_uring_word(r, p->cq.head);
    r->cq_tail = nki_uring_word(r, p->cq.tail);
    r->cqes = (nki_uring_cqe *)(void *)(r->map + p->cq.b);
    r->sqe_tail = *r->sq_tail;
    if ((r->flags & NKI_URING_SETUP_NO_SQARRAY) == 0) {
        uint32_t *array = nki_uring_word(r, p->sq.c);
        for (uint32_t i = 0; i < p->sq_entries; i++) {
            array[i] = i;
        }
    }
}

static int nki_uring_map(nki_uring *r, const nki_uring_params *p) {
    bool has_array = (p->flags & NKI_URING_SETUP_NO_SQARRAY) == 0;
    size_t sq_size = has_array ? p->sq.c + p->sq_entries * sizeof(uint32_t) : 0;
    size_t cq_size = p->cq.b + p->cq_entries * sizeof(nki_uring_cqe);
    size_t size = NKI_MAX(sq_size, cq_size);
    void *map = NKI_SYS_mmap(size, MAP_SHARED | MAP_POPULATE, r->fd, 0);
    if (map == MAP_FAILED) {
        return errno;
    }
    r->map = (unsigned char *)map;
    r->map_size = size;
    size = p->sq_entries * sizeof(nki_uring_sqe);
    map = NKI_SYS_mmap(size, MAP_SHARED | MAP_POPULATE, r->fd, NKI_URING_SQES_OFFSET);
    if (map == MAP_FAILED) {
        return errno;
    }
    r->sqes = (nki_uring_sqe *)map;
    r->sqes_size = size;
    (void)NKI_SYS_madvise(r->map, r->map_size, MADV_DONTFORK);
    (void)NKI_SYS_madvise(r->sqes, r->sqes_size, MADV_DONTFORK);
    nki_uring_place(r, p);
    return 0;
}

/* Ask what it can do; also finds a sandbox that allows setting up and nothing more. */
static int nki_uring_ask(nki_uring *r) {
    static const uint8_t needed[] = {NKI_URING_POLL_ADD, NKI_URING_ACCEPT, NKI_URING_CANCEL,
                                     NKI_URING_SEND, NKI_URING_RECV};
    nki_uring_probe probe;
    uint64_t ops = 0;
    memset(&probe, 0, sizeof probe);
    if (NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_PROBE, &probe,
                                  (unsigned)NKI_COUNT(probe.ops)) != 0) {
        return errno;
    }
    for (size_t i = 0; i < NKI_COUNT(probe.ops) && i <= probe.last_op; i++) {
        ops |= (uint64_t)(probe.ops[i].flags & 1u) << i;
    }
    r->ops = NKI_MASK(io_uring_ops, ops);
    for (size_t i = 0; i < NKI_COUNT(needed); i++) {
        if (!nki_uring_has(r, needed[i])) {
            return ENOSYS;
        }
    }
    /* A disabled ring says EBADFD: any other trouble is a sandbox's. */
    if (NKI_SYS_io_uring_enter(r->fd, 0u, 0u, 0u, NULL, (size_t)0) < 0 && errno != EBADFD) {
        return errno;
    }
    return 0;
}

/* Poll the device while waiting. Only a kernel with that built in knows the call. */
static int nki_uring_set_napi(const nki_uring *r, uint32_t busy_poll_us) {
    nki_uring_napi napi;
    memset(&napi, 0, sizeof napi);
    napi.busy_poll_us = busy_poll_us;
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_NAPI, &napi, 1u) != 0 ? errno : 0;
}

/* Make one. Returns 0 or an errno, and then *where names the call that failed. */
static int nki_uring_open(nki_uring *r, const nki_uring_wish *wish, const char **where) {
    nki_uring_params params;
    nki_uring_init(r);
    *where = wish->sqpoll_ms != 0 ? "io_uring_setup with a polling thread" : "io_uring_setup";
    int error = nki_uring_setup(r, &params, wish);
    if (error == 0 && (r->features & NKI_URING_FEAT_NEEDED) != NKI_URING_FEAT_NEEDED) {
        error = ENOSYS;
    }
    if (error == 0) {
        *where = "mmap of the ring";
        error = nki_uring_map(r, &params);
    }
    if (error == 0) {
        *where = "io_uring_register or io_uring_enter";
        error = nki_uring_ask(r);
    }
    if (error == 0 && wish->napi_us != 0) {
        *where = "busy polling of the network device";
        error = nki_uring_set_napi(r, wish->napi_us);
    }
    if (error != 0) {
        nki_uring_close(r);
    }
    return error;
}

/* Bind it to this thread. Registering the ring saves each call a look-up of its descriptor. */
static int nki_uring_enable(nki_uring *r) {
    if (r->is_enabled) {
        return 0;
    }
    if (NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_ENABLE, NULL, 0u) != 0) {
        return errno;
    }
    r->is_enabled = true;
    r->thread = NKI_SYS_gettid();
    nki_uring_update update;
    update.offset = UINT32_MAX;
    update.reserved = 0;
    update.data = (uint64_t)r->fd;
    r->enter_fd = r->fd;
    if (NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_RING, &update, 1u) == 1) {
        r->enter_fd = (int)update.offset;
        r->enter_flags = NKI_URING_ENTER_REGISTERED;
    }
    return 0;
}

/* ---- using ---- */

/* From any thread: have a completion with that user_data appear in the ring of this descriptor.
 * Returns 0 or an errno; EBADFD says that it is not enabled yet. */
static int nki_uring_message(int fd, uint64_t user_data) {
    nki_uring_sqe sqe;
    memset(&sqe, 0, sizeof sqe);
    sqe.opcode = NKI_URING_MESSAGE;
    sqe.fd = fd;
    sqe.off = user_data;
    return NKI_SYS_io_uring_message(NKI_URING_REGISTER_MESSAGE, &sqe) != 0 ? errno : 0;
}

/* A fresh ring takes the place and the descriptor of the old one, so that who sends it a message
 * meanwhile never meets a stranger's. Returns 0, or an errno and has closed the fresh one. */
static int nki_uring_replace(nki_uring *old, nki_uring *fresh) {
    int fd = old->fd;
    nki_uring_unregister(old);
    if (NKI_SYS_dup3(fresh->fd, fd, O_CLOEXEC) < 0) {
        int os_code = errno;
        nki_uring_close(fresh);
        return os_code;
    }
    nki_os_abandon((uintptr_t)fresh->fd);
    old->fd = -1;
    nki_uring_close(old);
    *old = *fresh;
    old->fd = fd;
    return 0;
}

static uint32_t nki_uring_unsubmitted(const nki_uring *r) {
    return r->sqe_tail - nki_atomic_load(r->sq_head);
}

static uint32_t nki_uring_unread(const nki_uring *r) {
    uint32_t count = nki_atomic_load(r->cq_tail) - *r->cq_head;
    return NKI_SYS_io_uring_cqes(count);
}

/* Whether there is deferred work that the kernel has not done for want of a call. */
static bool nki_uring_has_work(const nki_uring *r) {
    return (nki_atomic_load(r->sq_flags) & NKI_URING_SQ_TASKRUN) != 0;
}

/* The kernel's thread takes what is filled in by itself, unless it has gone to sleep. Who has no
 * place left waits until it has taken something. */
static uint32_t nki_uring_poke(const nki_uring *r) {
    if ((r->flags & NKI_URING_SETUP_SQPOLL) == 0) {
        return 0;
    }
    nki_atomic_fence(); /* between our tail and its flag, as io_uring_setup(2) asks for */
    bool is_asleep = (nki_atomic_load(r->sq_flags) & NKI_URING_SQ_NEED_WAKEUP) != 0;
    bool is_full = nki_uring_unsubmitted(r) == r->sq_entries;
    return (is_asleep ? NKI_URING_ENTER_SQ_WAKEUP : 0) | (is_full ? NKI_URING_ENTER_SQ_WAIT : 0);
}

/* Submit what is filled in, and wait for an event up to timeout_ns (0: only look). Returns 0, or
 * the errno of a failure that is none of the everyday: those mean "look at what there is". */
static int nki_uring_enter(nki_uring *r, uint64_t timeout_ns) {
    nki_uring_wait_arg arg;
    nki_uring_time time;
    uint32_t flags = NKI_URING_ENTER_GETEVENTS | NKI_URING_ENTER_EXT_ARG | r->enter_flags;
    memset(&arg, 0, sizeof arg);
    if ((r->features & NKI_URING_FEAT_NO_IOWAIT) != 0) { /* else it waits for a disk, says top(1) */
        flags |= NKI_URING_ENTER_NO_IOWAIT;
    }
    if (timeout_ns != 0 && timeout_ns != NKI_NEVER) {
        time.seconds = (int64_t)(timeout_ns / NKI_NS_PER_S);
        time.nanoseconds = (int64_t)(timeout_ns % NKI_NS_PER_S);
        arg.time = (uint64_t)(uintptr_t)&time;
    }
    nki_atomic_store(r->sq_tail, r->sqe_tail);
    flags |= nki_uring_poke(r);
    if (NKI_SYS_io_uring_enter(r->enter_fd, nki_uring_unsubmitted(r), timeout_ns != 0 ? 1u : 0u,
                               flags, &arg, sizeof arg) >= 0) {
        return 0;
    }
    /* ETIME: the time is up. EBUSY: completions have overflown, read them first. EAGAIN: no
     * memory for a request right now. */
    r->has_lost = r->has_lost || errno == EBADR;
    bool is_everyday = errno == ETIME || errno == EINTR || errno == EBUSY || errno == EAGAIN;
    return is_everyday ? 0 : errno;
}

/* A place for an operation, cleared; NULL when all are taken and the kernel takes none. */
static nki_uring_sqe *nki_uring_take(nki_uring *r) {
    if (NKI_UNLIKELY(r->sqe_tail - nki_atomic_load(r->sq_head) == r->sq_entries)) {
        if (!r->is_enabled || nki_uring_enter(r, 0) != 0 ||
            r->sqe_tail - nki_atomic_load(r->sq_head) == r->sq_entries) {
            return NULL;
        }
    }
    nki_uring_sqe *sqe = &r->sqes[r->sqe_tail++ & r->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

#endif /* NKI_HAS_URING */
