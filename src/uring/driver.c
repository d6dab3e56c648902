/* The ring driver: the system does what it was told before, and completions say what came of it.
 *
 * Small messages are its gain: bytes arrive in provided buffers by one receive that goes on for
 * ever, small answers are sends told to the kernel together with the next wait, so that
 * at 50 conns a system call serves dozens of messages. What is large, and what somebody wants to
 * have happened when a call returns, is done by a call at once, as the readiness driver does it:
 * there the ring has nothing to win. Who reads slowly never holds a buffer beyond a turn. */

#if NKI_HAS_URING

static void nki_u_guard_open(nki_u *u) {
#if defined(MADV_WIPEONFORK)
    void *page = NKI_SYS_mmap((size_t)1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return;
    }
    if (NKI_SYS_madvise(page, (size_t)1, MADV_WIPEONFORK) != 0) {
        (void)NKI_SYS_munmap(page, (size_t)1);
        return;
    }
    u->guard = (unsigned char *)page;
    *u->guard = 1;
#else
    NKI_UNUSED(u);
#endif
}

/* ---- refusal ---- */

static const char *nki_u_errno_name(int os_code) {
    switch (os_code) {
    case EPERM: return "EPERM";
    case EACCES: return "EACCES";
    case ENOSYS: return "ENOSYS";
    case ENOMEM: return "ENOMEM";
    case EINVAL: return "EINVAL";
    case EOPNOTSUPP: return "EOPNOTSUPP";
    case EMFILE: return "EMFILE";
    case ENFILE: return "ENFILE";
    default: return "errno";
    }
}

/* kernel.io_uring_disabled: '0', '1', '2', or '?' where there is no such setting. */
static char nki_u_sysctl(void) {
    char value = '?';
    int fd = NKI_SYS_open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (NKI_SYS_read(fd, &value, 1) != 1) {
            value = '?';
        }
        nki_os_abandon((uintptr_t)fd);
    }
    return value;
}

/* Say why, and which code that is: a refusal means that there is no such backend here. */
static int nki_u_refused(netkit_loop *loop, const char *where, int os_code) {
    const char *hint = "";
    if (os_code == EPERM || os_code == EACCES) {
        char value = nki_u_sysctl();
        hint = value == '1'   ? " (kernel.io_uring_disabled is 1)"
               : value == '2' ? " (kernel.io_uring_disabled is 2)"
                              : " (seccomp?)";
    } else if (os_code == ENOSYS || os_code == EINVAL) {
        hint = " (kernel too old, or seccomp?)";
    } else if (os_code == ENOMEM) {
        hint = " (RLIMIT_MEMLOCK?)";
    }
    snprintf(loop->why, sizeof loop->why, "io_uring refused: %s (%d) at %s%s",
             nki_u_errno_name(os_code), os_code, where, hint);
    errno = os_code;
    bool is_missing = os_code == EPERM || os_code == EACCES || os_code == ENOSYS ||
                      os_code == EINVAL || os_code == EOPNOTSUPP;
    return is_missing ? (int)NETKIT_E_NOSYS : netkit_error_from_os(os_code);
}

/* ---- life ---- */

static void nki_u_setup(const netkit_loop *loop, nki_u *u) {
    bool is_sharing = loop->desc.ring_incremental && loop->desc.ring_sqpoll_ms == 0;
    nki_u_choose_pool(u, is_sharing && nki_shares_work());
    u->want_first = NKI_NO_SLOT;
    u->want_last = NKI_NO_SLOT;
    u->lent = NKI_POOL_NONE;
    u->shape.msg_namelen = NKI_U_NAME_SIZE;
    u->shape.msg_controllen = NKI_DGRAM_CONTROL;
    u->has_recv_multishot = nki_uring_has(&u->ring, NKI_URING_OP_6_0);
    u->has_accept_multishot = nki_uring_has(&u->ring, NKI_URING_OP_5_19);
    u->has_skip = (u->ring.features & NKI_URING_FEAT_CQE_SKIP) != 0;
    u->has_connect = nki_uring_has(&u->ring, NKI_URING_CONNECT);
    /* A ring that is not enabled says so, where messages are known. */
    bool has_message = nki_uring_message(u->ring.fd, NKI_U_IGNORED) == EBADFD;
    u->message_fd = has_message ? u->ring.fd : -1;
    u->has_zerocopy =
        loop->desc.ring_zerocopy_min != 0 && nki_uring_has(&u->ring, NKI_URING_SEND_ZC);
    if (loop->desc.ring_files != 0 && has_message) { /* both need 6.13, see files.c */
        uint32_t count = NKI_MIN(loop->desc.ring_files, loop->desc.objects_max);
        nki_files_open(&u->files, &u->ring, count, &loop->allocator);
    }
}

static int nki_u_open(netkit_loop *loop) {
    const char *where;
    nki_u *u = (nki_u *)nki_alloc_zero(&loop->allocator, sizeof *u);
    if (u == NULL) {
        return nki_u_refused(loop, "malloc", ENOMEM);
    }
#if !NKI_HAS_THREADS
    if (loop->desc.ring_sqpoll_ms != 0) { /* that thread is one more that shares memory with us */
        nki_free(&loop->allocator, u, sizeof *u);
        return nki_u_refused(loop, "a polling thread without threads", ENOSYS);
    }
#endif
    u->wish.sqpoll_ms = loop->desc.ring_sqpoll_ms;
    u->wish.sqpoll_cpu = loop->desc.ring_sqpoll_cpu;
    u->wish.napi_us = loop->desc.ring_napi_us;
    int os_code = nki_uring_open(&u->ring, &u->wish, &where);
    bool is_old = (u->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) == 0 && u->wish.sqpoll_ms == 0;
    if (os_code == 0 && is_old && loop->desc.backend == NETKIT_BACKEND_FASTEST) {
        nki_uring_close(&u->ring);
        where = "DEFER_TASKRUN";
        os_code = ENOSYS;
    }
    if (os_code == 0 && nki_os_wake_open(&loop->wake) != NETKIT_OK) {
        where = "eventfd";
        os_code = errno;
        nki_uring_close(&u->ring);
    }
    if (os_code != 0) {
        nki_free(&loop->allocator, u, sizeof *u);
        return nki_u_refused(loop, where, os_code);
    }
    nki_u_setup(loop, u);
    nki_u_guard_open(u);
    loop->driver_state = u;
    return NETKIT_OK;
}

static void nki_u_close(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    nki_u_reclaim(loop, u);
    if (nki_u_is_child(u)) {
        /* Its memory was not inherited; the descriptor was. */
        u->ring.map = NULL;
        u->ring.sqes = NULL;
        u->ring.enter_flags = 0;
    }
    nki_uring_close(&u->ring);
    nki_os_wake_close(&loop->wake);
    nki_pool_free(&u->pool, &loop->allocator);
    nki_files_free(&u->files, &loop->allocator);
    for (uint32_t i = 0; i < u->slabs_count; i++) {
        nki_free(&loop->allocator, u->slabs[i], sizeof(nki_u_slot) << NKI_SLAB_BITS);
    }
    nki_free(&loop->allocator, u->slabs, u->slabs_count * sizeof(void *));
    nki_fd_table_free(&u->watched, &loop->allocator);
    if (u->guard != NULL) {
        (void)NKI_SYS_munmap(u->guard, (size_t)1);
    }
    nki_free(&loop->allocator, u, sizeof *u);
    loop->driver_state = NULL;
}

/* Whether nothing is in flight, so that another ring can take this one's place. */
static bool nki_u_is_quiet(const netkit_loop *loop, const nki_u *u) {
    netkit_event_type out = loop->pulled.type;
    if (loop->udp_batch != NULL || out == NETKIT_EVENT_DATA || out == NETKIT_EVENT_DATAGRAM) {
        return false; /* lies in the buffers */
    }
    for (uint32_t i = 0; i < loop->sources.capacity && (i >> NKI_SLAB_BITS) < u->slabs_count; i++) {
        const nki_source *source = (const nki_source *)(void *)nki_slots_at(&loop->sources, i);
        if (source->token != 0 && nki_u_at(u, i)->busy != 0) {
            return false;
        }
    }
    /* Among it the end of a receive perhaps, of a conn that is gone. */
    return nki_uring_unsubmitted(&u->ring) == 0;
}

static int nki_u_renew(netkit_loop *loop, nki_u *u) {
    nki_uring fresh;
    const char *where;
    if (!nki_u_is_quiet(loop, u)) {
        return NETKIT_E_BUSY;
    }
    nki_u_reclaim(loop, u);
    nki_u_evict_all(loop, u); /* the buffers go with the ring */
    if (u->pool.held != 0) {
        return NETKIT_E_NOMEM;
    }
    int os_code = nki_uring_open(&fresh, &u->wish, &where);
    if (os_code == 0) {
        bool is_bare = nki_files_withdraw(&u->files, &u->ring);
        os_code = nki_uring_replace(&u->ring, &fresh);
        if (os_code == 0 || is_bare) {
            (void)nki_files_register(&u->files, &u->ring, &loop->allocator);
        }
    }
    if (os_code != 0) {
        errno = os_code;
        return nki_os_error();
    }
    nki_pool_free(&u->pool, &loop->allocator);
    u->begun = u->ring.sqe_tail;
    u->is_wake_armed = false;
    loop->is_unsubmitted = 1; /* and its arming is due, also for who waits elsewhere */
    u->next = 0;
    u->end = 0;
    return NETKIT_OK;
}

/* Another thread takes over. A ring that was enabled belongs to the first one for good. */
static int nki_u_rebind(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (nki_u_is_child(u)) {
        return NETKIT_E_NOSYS;
    }
    if (!u->ring.is_enabled || u->ring.thread == NKI_SYS_gettid()) {
        return NETKIT_OK;
    }
    /* Its table cannot be emptied from here, and that thread holds the ring until its own end. */
    return nki_files_is_used(&u->files) ? (int)NETKIT_E_BUSY : nki_u_renew(loop, u);
}

/* With DEFER_TASKRUN nothing becomes a completion before the ring's thread calls, and a poll(2) of
 * the ring sleeps on (seen on 6.18; an eventfd that is registered with it misses what comes through
 * other eventfds). So who is to be waited for like that has a ring without. */
static int nki_u_native(netkit_loop *loop, uintptr_t *out) {
    nki_u *u = nki_u_of(loop);
    if (u->is_lost || nki_u_is_child(u)) {
        return NETKIT_E_NOSYS;
    }
    if ((u->ring.flags & NKI_URING_SETUP_DEFER_TASKRUN) != 0) {
        u->wish.is_foreign = true;
        /* In a callback somebody may be looking at the buffers of the old one. */
        int error = loop->in_callback != 0 ? (int)NETKIT_E_BUSY : nki_u_renew(loop, u);
        if (error != NETKIT_OK) {
            u->wish.is_foreign = false;
            return error;
        }
    }
    if (!u->is_wake_armed) {
        loop->is_unsubmitted = 1;
    }
    *out = (uintptr_t)u->ring.fd;
    return NETKIT_OK;
}

/* ---- waiting ---- */

/* A message to the ring wakes a thread that waits there for two thirds of the processor time of an
 * eventfd: 9.9 us of both threads instead of 16 (Linux 6.18; make bench ROW=tried). The eventfd is
 * for kernels that cannot (before 6.13), a ring that is not enabled yet, and messages that fail. It
 * is also for wakes that may be many, since each message holds memory of the kernel's until it is
 * taken, and for those that a move to another ring must not lose. */
static int nki_u_wake(netkit_loop *loop, bool is_coalesced) {
    const nki_u *u = nki_u_of(loop);
    int fd = is_coalesced ? nki_atomic_load_relaxed(&u->message_fd) : -1;
    int os_code = errno;
    nki_atomic_fence(); /* what it is woken for comes first, whichever ring this meets */
    bool is_sent = fd >= 0 && !nki_u_is_child(u) && nki_uring_message(fd, NKI_U_IGNORED) == 0;
    errno = os_code;
    return is_sent ? (int)NETKIT_OK : nki_os_wake_signal(&loop->wake);
}

static void nki_u_arm_wake(netkit_loop *loop, nki_u *u) {
    nki_uring_sqe *sqe = nki_u_take(loop, u);
    if (sqe != NULL) {
        sqe->opcode = NKI_URING_POLL_ADD;
        sqe->fd = nki_os_fd(loop->wake.reader);
        sqe->len = NKI_URING_POLL_MULTISHOT;
        sqe->op_flags = nki_u_poll_bits(NETKIT_POLL_READ);
        sqe->user_data = NKI_U_WAKE;
        u->is_wake_armed = true;
    }
}

/* Everything that is wanted goes into the ring, and with it to the kernel. */
static int nki_u_enter(netkit_loop *loop, nki_u *u, uint64_t timeout_ns) {
    nki_pool_publish(&u->pool); /* first: a full ring is submitted on the way */
    nki_u_begin_all(loop, u);
    u->begun = u->ring.sqe_tail;
    loop->is_unsubmitted = u->want_first != NKI_NO_SLOT;
    if (loop->is_unsubmitted || !u->is_wake_armed || nki_uring_unread(&u->ring) != 0) {
        timeout_ns = 0;
    }
    int os_code = nki_uring_enter(&u->ring, timeout_ns);
    /* The kernel does 20 pieces of deferred work for one call (6.13 and later). Who does not wait
     * gets all there is, else "nothing more to do" could not be told from "more another time". */
    bool is_refused = nki_uring_unsubmitted(&u->ring) != 0; /* then it does none */
    for (int i = 0;
         os_code == 0 && timeout_ns == 0 && i < NKI_U_ENTERS_MAX && !is_refused &&
         nki_uring_has_work(&u->ring) && nki_uring_unread(&u->ring) < loop->desc.events_max;
         i++) {
        os_code = nki_uring_enter(&u->ring, 0);
    }
    if ((u->ring.flags & NKI_URING_SETUP_SQPOLL) != 0) {
        is_refused = false; /* the kernel's thread takes them later */
    }
    if (NKI_UNLIKELY(is_refused || !u->is_wake_armed)) {
        loop->is_unsubmitted = 1;
    }
    return os_code;
}

/* Few large messages at a time: taken up all at once, their bytes would be out of the caches when
 * their turn comes (make bench ROW="ring-64K-50c ring-4K-50c-16p"). But a quarter of what has
 * completed at least: more may with each wait, and would pile up. Who runs turn by turn, a game
 * once in a frame perhaps, has all in one. */
static void nki_u_limit_reads(const netkit_loop *loop, nki_u *u) {
    uint32_t most = NKI_MAX(nki_uring_unread(&u->ring) / 4, (uint32_t)NKI_U_READS_MIN);
    u->reads_max = loop->is_run ? most : UINT32_MAX;
    u->reads = 0;
}

/* Before a timer is due nothing is left for the next turn: what has come came before it. */
static bool nki_u_is_enough(netkit_loop *loop, const nki_u *u) {
    if (NKI_LIKELY(u->reads < u->reads_max)) {
        return false;
    }
    const nki_timer_node *first = nki_timers_first(&loop->timers);
    return first == NULL || first->due_ns > loop->turn_ns;
}

static nki_source *nki_u_next(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (NKI_UNLIKELY(nki_u_is_enough(loop, u) || nki_u_is_child(u))) {
        u->end = u->next; /* in a child: these are the parent's */
    }
    while (u->next != u->end) {
        nki_uring_cqe cqe = u->ring.cqes[u->next & u->ring.cq_mask];
        u->next++;
        nki_atomic_store(u->ring.cq_head, u->next);
        nki_source *source = nki_u_completed(loop, u, &cqe);
        if (source != NULL) {
            return source;
        }
    }
    return NULL;
}

/* A loop that is being destroyed cannot wait for completions that a failing ring never brings.
 * With the ring closed the kernel runs none of its operations any more: those that waited for
 * their descriptor are cancelled without touching memory. So all of them are over. */
static void nki_u_lose(netkit_loop *loop, nki_u *u) {
    u->next = *u->ring.cq_head;
    u->end = u->next + nki_uring_unread(&u->ring);
    nki_u_limit_reads(loop, u);
    while (nki_u_next(loop) != NULL) { /* accepted connections are among what has completed */
    }
    nki_atomic_store_relaxed(&u->message_fd, -1);
    (void)nki_files_withdraw(&u->files, &u->ring);
    nki_uring_close(&u->ring);
    u->is_lost = true;
    u->next = u->end;
    for (uint32_t i = 0; i < loop->sources.capacity && (i >> NKI_SLAB_BITS) < u->slabs_count; i++) {
        nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, i);
        nki_u_slot *s = nki_u_at(u, i);
        s->state |= s->is_lending ? NKI_U_RESET : 0; /* else lent memory waits in the socket */
        s->busy = 0;
        if (source->token != 0 && (s->state & NKI_U_CLOSING) != 0) {
            nki_u_finish(loop, source, s);
        }
    }
}

/* A loop that is being destroyed waits for its operations to end, but not without bounds: neither
 * for a kernel that says EAGAIN for ever nor for an end that never comes. */
static bool nki_u_is_overdue(nki_u *u) {
    uint64_t now = nki_os_now_ns();
    if (u->quiet_ns == 0 || nki_uring_unread(&u->ring) != 0) {
        u->quiet_ns = now;
    }
    return now - u->quiet_ns > NKI_U_DESTROY_NS;
}

static int nki_u_wait(netkit_loop *loop, uint64_t timeout_ns) {
    nki_u *u = nki_u_of(loop);
    if (NKI_UNLIKELY(u->is_lost)) {
        return 0;
    }
    if (NKI_UNLIKELY(loop->is_destroying && u->quiet_ns != 0 && u->batch == 0)) {
        timeout_ns = NKI_NS_PER_MS; /* it has looked already: no need to spin */
    }
    if (nki_u_is_child(u)) {
        errno = ENOSYS;
        return NETKIT_E_NOSYS;
    }
    int os_code = nki_uring_enable(&u->ring);
    if (os_code == 0) {
        if (NKI_LIKELY(loop->udp_batch == NULL)) { /* else a run was stopped in the middle of it */
            nki_u_reclaim(loop, u);
            if (NKI_UNLIKELY(u->pool.held != 0)) {
                nki_u_evict_all(loop, u);
            }
        }
        if (NKI_UNLIKELY(!u->is_wake_armed)) {
            nki_u_arm_wake(loop, u);
        }
        os_code = nki_u_enter(loop, u, timeout_ns);
    }
    if (NKI_UNLIKELY(loop->is_destroying) && (os_code != 0 || nki_u_is_overdue(u))) {
        nki_u_lose(loop, u);
        return 0;
    }
    if (NKI_UNLIKELY(u->ring.has_lost)) { /* completions; of receives into shares, perhaps */
        u->pool.is_broken = u->pool.is_sharing;
    }
    u->overflows += (nki_atomic_load(u->ring.sq_flags) & NKI_URING_SQ_CQ_OVERFLOW) != 0;
    u->next = *u->ring.cq_head;
    uint32_t count = NKI_MIN(nki_uring_unread(&u->ring), loop->desc.events_max);
    u->end = u->next + count;
    u->batch = count;
    nki_u_limit_reads(loop, u);
    errno = os_code != 0 ? os_code : errno;
    return os_code != 0 ? nki_os_error() : (int)count;
}

/* The end of a send that has completed: it is marked as nobody's. False: it is something else. */
static bool nki_u_take_sent(netkit_loop *loop, nki_u *u, nki_uring_cqe *cqe) {
    unsigned op = (unsigned)(cqe->user_data >> NKI_SLOT_BITS) & 15u;
    nki_source *source = op == NKI_U_SEND ? nki_token_find(loop, cqe->user_data) : NULL;
    nki_u_slot *s = source == NULL ? NULL : nki_u_slot_of(u, source);
    if (s == NULL || (s->state & NKI_U_CLOSING) != 0) {
        return false;
    }
    source = nki_u_sent(loop, u, source, s, cqe);
    if (source != NULL) { /* there is more to send, or somebody to be told, in the next turn */
        nki_enqueue_later(loop, source);
        nki_conn_mark_dirty(loop, (nki_conn *)(void *)source);
    }
    cqe->user_data = NKI_U_IGNORED;
    cqe->flags = 0;
    return true;
}

/* Whoever leaves the loop now, or flushes in the middle of a turn, finds gone what has gone, and
 * the conns free to send more: the next wait may be long in coming. */
static void nki_u_take_all_sent(netkit_loop *loop, nki_u *u) {
    const nki_uring *r = &u->ring;
    uint32_t head = *r->cq_head, tail = nki_atomic_load(r->cq_tail);
    for (uint32_t i = head; i != tail && u->sends != 0; i++) {
        bool is_taken = nki_u_take_sent(loop, u, &r->cqes[i & r->cq_mask]);
        head += is_taken && head == i;
    }
    if (loop->phase == NKI_TURN_NONE) { /* else the turn is on its way through them */
        nki_atomic_store(r->cq_head, head);
        u->next = head;
        u->end = head;
    }
}

/* Nobody is going to wait soon. */
static void nki_u_commit(netkit_loop *loop) {
    nki_u *u = nki_u_of(loop);
    if (!u->ring.is_enabled || nki_u_is_child(u)) {
        return;
    }
    if (u->want_first != NKI_NO_SLOT || nki_uring_unsubmitted(&u->ring) != 0) {
        (void)nki_u_enter(loop, u, 0);
    } else {
        loop->is_unsubmitted = !u->is_wake_armed; /* only a wait can arm it */
    }
    if (loop->reserved == NULL) { /* else it may lie behind what is being sent */
        nki_u_take_all_sent(loop, u);
    }
    /* A run that was stopped may have left some: who waits elsewhere is not told of them again. */
    if (loop->phase == NKI_TURN_NONE && nki_uring_unread(&u->ring) != 0) {
        loop->is_unsubmitted = 1;
    }
}

/* Whether the kernel is told soon of what is begun now, by a wait or a commit. Who pulls events may
 * do anything between two of them. */
static bool nki_u_is_soon(const netkit_loop *loop) {
    return loop->is_running && !loop->desc.pull;
}

/* ---- descriptors ---- */

/* A driver's half for this slot, cleared. */
static int nki_u_reserve(netkit_loop *loop, nki_u *u, uint32_t slot, nki_u_slot **out) {
    uint32_t count = (slot >> NKI_SLAB_BITS) + 1;
    while (u->slabs_count < count) {
        size_t size = sizeof(nki_u_slot) << NKI_SLAB_BITS;
        size_t table = u->slabs_count * sizeof(void *);
        nki_u_slot *slab = (nki_u_slot *)nki_alloc_zero(&loop->allocator, size);
        nki_u_slot **slabs = (nki_u_slot **)nki_alloc(&loop->allocator, table + sizeof(void *));
        if (slab == NULL || slabs == NULL) {
            nki_free(&loop->allocator, slab, size);
            nki_free(&loop->allocator, slabs, table + sizeof(void *));
            return NETKIT_E_NOMEM;
        }
        if (u->slabs != NULL) {
            memcpy(slabs, u->slabs, table);
        }
        nki_free(&loop->allocator, u->slabs, table);
        u->slabs = slabs;
        u->slabs[u->slabs_count++] = slab;
    }
    nki_u_slot *s = nki_u_at(u, slot);
    nki_u_slot old = *s;
    memset(s, 0, sizeof *s);
    s->next = old.next; /* it may be in the list still */
    s->want = old.want & NKI_U_PENDING;
    s->polls = old.polls;
    s->owed = old.owed;
    s->first = NKI_POOL_NONE;
    *out = s;
    return NETKIT_OK;
}

static int nki_u_attach(netkit_loop *loop, nki_source *source) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s;
    bool is_conn = nki_id_kind(source->id) == NKI_KIND_CONN;
    uint32_t flags = is_conn ? ((const nki_conn *)(const void *)source)->flags : 0;
    int error = nki_u_reserve(loop, u, nki_id_slot(source->id), &s);
    if (error == NETKIT_OK && (flags & NKI_C_CONNECTING) != 0 && u->to_len != 0) {
        error = nki_u_blob_push(&loop->allocator, &s->blob, &u->to, u->to_len);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    (void)nki_token_new(loop, source);
    if (is_conn && (flags & NKI_C_TCP) == 0) {
        s->state |= NKI_U_POLLED;
    }
    if (is_conn && !nki_u_is_child(u)) {
        nki_files_add(&u->files, &u->ring, nki_id_slot(source->id), nki_os_fd(source->socket));
    }
    s->events = NETKIT_POLL_READ; /* of a udp */
    nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    return NETKIT_OK;
}

/* Submit the cancelling and take the ends of these operations out of what has completed, so that
 * the descriptor is closed, and the peer knows, before the call returns. A ring that fails may
 * have accepted connections there, too. */
static void nki_u_settle(netkit_loop *loop, nki_u *u, nki_source *source, nki_u_slot *s) {
    nki_uring *r = &u->ring;
    nki_pool_publish(&u->pool);
    (void)nki_uring_enter(r, 0);
    uint32_t tail = nki_atomic_load(r->cq_tail);
    for (uint32_t i = *r->cq_head; i != tail && s->busy != 0; i++) {
        nki_uring_cqe *cqe = &r->cqes[i & r->cq_mask];
        if (nki_token_find(loop, cqe->user_data) == source) {
            nki_uring_cqe seen = *cqe;
            seen.flags &= ~NKI_URING_CQE_BUFFER; /* goes back when its turn comes: see buffers.c */
            nki_u_completed_closing(loop, u, source, s, &seen);
            cqe->user_data = NKI_U_IGNORED;
            cqe->flags &= ~NKI_URING_CQE_MORE;
        }
    }
}

/* What is in flight is being cancelled: may the descriptor be closed before its end? Within a turn
 * the next wait submits the cancelling, and then the peer knows; until then a receive or a poll
 * holds the connection, but no memory of the conn's, and it must not be one that the kernel has not
 * taken yet: that would begin on whatever has the descriptor's number by then. This spares a call
 * of `enter`: to abort one of many costs 5.6 us instead of 8.3 (Linux 6.18, loopback). Not so a
 * listener or a udp, which hold addresses that may be wanted again at once; and not where a polling
 * thread has the last hold of the connection: it was seen to fall asleep over letting go. */
static bool nki_u_may_leave(const netkit_loop *loop, const nki_u *u, const nki_source *source,
                            const nki_u_slot *s) {
    const uint8_t harmless = NKI_U_BIT(NKI_U_RECV) | NKI_U_BIT(NKI_U_POLL);
    bool is_taken = (int32_t)(nki_atomic_load(u->ring.sq_head) - u->begun) >= 0;
    bool is_polled = (u->ring.flags & NKI_URING_SETUP_SQPOLL) != 0;
    return nki_u_is_soon(loop) && !loop->is_destroying && is_taken && !is_polled &&
           nki_id_kind(source->id) == NKI_KIND_CONN && (s->busy & ~harmless) == 0;
}

static void nki_u_forget_sockets(netkit_loop *loop, nki_u_slot *s) {
    int fd;
    while (nki_u_blob_len(s->blob) != 0) {
        memcpy(&fd, nki_u_blob_data(s->blob), sizeof fd);
        s->blob->begin += sizeof fd;
        (void)nki_os_reset((uintptr_t)fd);
    }
    nki_u_drop_blob(loop, s);
}

static void nki_u_shut(netkit_loop *loop, nki_source *source, bool reset) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, source);
    bool is_child = nki_u_is_child(u);
    s->state |= NKI_U_CLOSING | (reset && !is_child ? NKI_U_RESET : 0); /* it is the parent's too */
    s->want &= NKI_U_PENDING;
    if (nki_id_kind(source->id) == NKI_KIND_LISTENER) {
        nki_u_forget_sockets(loop, s);
    } else if ((s->busy & NKI_U_BIT(NKI_U_CONNECT)) == 0) { /* whose address is read perhaps */
        nki_u_forget(loop, u, s);
    }
    if (s->busy != 0 && !is_child) {
        if (!nki_u_cancel_all(loop, u, source, s)) {
            nki_u_want(loop, u, source, s, 0);
        } else if (nki_u_may_leave(loop, u, source, s)) {
            s->busy = 0;
        }
        if (s->busy != 0 && !loop->is_destroying) {
            nki_u_settle(loop, u, source, s);
        }
    }
    if (s->busy == 0 || is_child) {
        nki_u_finish(loop, source, s);
    } else {
        nki_u_stop_lending(u, source, s);
    }
}

/* ---- watches ---- */

/* What epoll_ctl(2) would say of it. */
static int nki_u_watchable(uintptr_t native) {
    struct stat st;
    if (NKI_SYS_fstat(nki_os_fd(native), &st) != 0) {
        return nki_os_error();
    }
    return S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) ? (int)NETKIT_E_ACCESS : NETKIT_OK;
}

static int nki_u_watch_new(netkit_loop *loop, nki_u *u, nki_source *source, uint32_t events) {
    nki_u_slot *s;
    if (nki_fd_table_get(&u->watched, source->socket) != 0) {
        return NETKIT_E_EXISTS;
    }
    int error = nki_u_watchable(source->socket);
    if (error == NETKIT_OK) {
        error = nki_fd_table_reserve(&u->watched, source->socket, &loop->allocator);
    }
    if (error == NETKIT_OK) {
        error = nki_u_reserve(loop, u, nki_id_slot(source->id), &s);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    u->watched.places[source->socket] = 1;
    (void)nki_token_new(loop, source);
    s->events = events;
    nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    return NETKIT_OK;
}

static int nki_u_watch(netkit_loop *loop, nki_source *source, uint32_t events, bool is_new) {
    nki_u *u = nki_u_of(loop);
    if (is_new) {
        return nki_u_watch_new(loop, u, source, events);
    }
    nki_u_slot *s = nki_u_slot_of(u, source);
    s->events = events;
    nki_u_give_up_poll(loop, u, source, s);
    nki_u_want(loop, u, source, s, NKI_U_WANT_INPUT);
    return NETKIT_OK;
}

static void nki_u_unwatch(netkit_loop *loop, nki_source *source) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, source);
    u->watched.places[source->socket] = 0;
    if (!nki_u_is_child(u)) {
        nki_u_give_up_poll(loop, u, source, s);
        if (!loop->is_running) {
            nki_u_commit(loop); /* until then the descriptor would stay open after a close */
        }
    }
    s->want &= NKI_U_PENDING;
    source->token = 0;
}

/* ---- streams ---- */

/* Tests fail calls by name: one that a completion stands for fails where it would have been. */
static int nki_u_accept_parked(nki_u_slot *s, nki_listener *l, uintptr_t *out, netkit_addr *peer) {
    int fd;
    if (NKI_FAIL(accept) && !nki_u_is_passing(errno)) {
        return nki_os_accept_error(l->source.socket);
    }
    memcpy(&fd, nki_u_blob_data(s->blob), sizeof fd);
    int error = peer == NULL ? NETKIT_OK : nki_os_remote((uintptr_t)fd, peer);
    if (error != NETKIT_OK && error != NETKIT_E_NOTCONN) {
        return error; /* it stays for another time, as in the backlog */
    }
    s->blob->begin += sizeof fd;
    if (s->blob->begin == s->blob->end) {
        s->blob->begin = 0;
        s->blob->end = 0;
        if ((s->busy & NKI_U_BIT(NKI_U_ACCEPT)) != 0 && s->error == 0) {
            l->source.ready = 0;
        }
    }
    if (error != NETKIT_OK) {
        nki_os_abandon((uintptr_t)fd); /* gone again: an accept of its own would have said so */
        return NETKIT_E_ABORTED;
    }
    *out = (uintptr_t)fd;
    return NETKIT_OK;
}

static int nki_u_accept(netkit_loop *loop, nki_listener *l, uintptr_t *out, netkit_addr *peer) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &l->source);
    *out = UINTPTR_MAX;
    if (nki_u_blob_len(s->blob) != 0) {
        return nki_u_accept_parked(s, l, out, peer);
    }
    if (s->error != 0) {
        errno = s->error;
        s->error = 0;
        return nki_os_accept_error(l->source.socket);
    }
    if ((s->busy & NKI_U_BIT(NKI_U_ACCEPT)) != 0) {
        l->source.ready = 0;
        return NETKIT_E_AGAIN;
    }
    int error = nki_os_accept(l->source.socket, out, peer);
    if (error == NETKIT_E_AGAIN) {
        l->source.ready = 0;
        nki_u_want(loop, u, &l->source, s, NKI_U_WANT_INPUT);
    }
    return error;
}

/* Within a turn the next wait connects, which spares connect(2) and two of the three calls that ask
 * how it ended: a connection from dialling to aborting costs 27 us instead of 29.5 (Linux 6.18,
 * loopback, 50 at a time, both sides). What the system says of the address comes by on_close then.
 * Between turns the call connects, as who dials there may not run the loop soon; and to unix
 * sockets always, which answer at once. */
static int nki_u_connect(netkit_loop *loop, nki_conn *c, const netkit_addr *to,
                         const netkit_addr *source) {
    nki_u *u = nki_u_of(loop);
    bool is_later = u->has_connect && nki_u_is_soon(loop) && (c->flags & NKI_C_TCP) != 0;
    u->to_len = 0;
    if (source != NULL && source->port != 0) {
        nki_u_commit(loop); /* a conn that has just died may hold that port, see nki_u_may_leave */
    }
    if (!is_later || nki_u_is_child(u)) {
        return nki_r_connect(loop, c, to, source);
    }
    int error = nki_sockaddr_from(&u->to, &u->to_len, to);
    if (error == NETKIT_OK) {
        error = nki_r_connecting(c, to->family, source);
    }
    return error == NETKIT_OK ? NETKIT_E_AGAIN : error;
}

/* How the operation has ended; or the call would have, for tests that fail calls by name. */
static int nki_u_dial_result(netkit_loop *loop, const nki_conn *c, nki_u_slot *s) {
    struct sockaddr_in to; /* its port is where that of IPv6 is */
    netkit_addr self;
    memcpy(&to, nki_u_blob_data(s->blob), sizeof to);
    nki_u_drop_blob(loop, s);
    s->state = (uint16_t)(s->state & ~NKI_U_DIALLED);
    if (s->error != 0) {
        errno = s->error;
        return errno == EAGAIN ? (int)NETKIT_E_ADDRNOTAVAIL : nki_os_error();
    }
    if (NKI_FAIL(connect) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    /* Connected to itself, see nki_os_check_peer? Then the ports are the same. */
    int error = nki_os_local(c->source.socket, &self);
    return error == NETKIT_OK && self.port == ntohs(to.sin_port)
               ? nki_os_connect_result(c->source.socket)
               : error;
}

static int nki_u_connected(netkit_loop *loop, nki_conn *c) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    int error = (s->state & NKI_U_DIALLED) != 0 ? nki_u_dial_result(loop, c, s)
                                                : nki_os_connect_result(c->source.socket);
    if (error == NETKIT_OK) {
        nki_u_give_up_poll(loop, u, &c->source, s);
    }
    if (error == NETKIT_OK || error == NETKIT_E_AGAIN) {
        c->source.ready = 0;
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
    }
    return error;
}

static int nki_u_failed(netkit_loop *loop, nki_conn *c) {
    NKI_UNUSED(loop);
    return nki_os_connect_result(c->source.socket);
}

/* From the socket itself, while no receive is in flight. */
static int nki_u_read_now(netkit_loop *loop, nki_u *u, nki_conn *c, nki_u_slot *s, size_t max) {
    unsigned char *buffer = nki_block_data(loop->recv);
    loop->span.data = buffer;
    int n = nki_os_recv(c->source.socket, buffer, max);
    /* A poll that follows looks first, so what is left after a short read is not lost. */
    bool is_short = n > 0 && n < NKI_RECV_SIZE && max == NKI_RECV_SIZE;
    bool is_all = is_short && (s->busy & NKI_U_BIT(NKI_U_POLL)) == 0;
    if (n >= NKI_U_BULK_MIN) {
        u->reads++;
        s->bulk = NKI_U_BULK;
    } else if (n > 0 && s->bulk != 0) {
        s->bulk--;
    }
    if (n == NETKIT_E_EOF) { /* a reset behind it may be there already */
        s->state |= NKI_U_ENDED;
        nki_u_give_up_poll(loop, u, &c->source, s);
    }
    if (is_all || n == NETKIT_E_AGAIN || n == NETKIT_E_EOF) {
        c->source.ready = 0;
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
    }
    return n;
}

/* Unix conns are polled and read by calls, so here as well. */
static int nki_u_read_fds(netkit_loop *loop, nki_conn *c, size_t max, uintptr_t *fds,
                          size_t *count) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    nki_u_reclaim(loop, u);
    int n = nki_r_read_fds(loop, c, max, fds, count);
    if (n == NETKIT_E_EOF) {
        s->state |= NKI_U_ENDED;
    }
    if (n == NETKIT_E_AGAIN || n == NETKIT_E_EOF) {
        c->source.ready = 0;
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
    }
    return n;
}

static int nki_u_read_odd(netkit_loop *loop, nki_u *u, nki_conn *c, nki_u_slot *s, size_t max) {
    if (s->blob != NULL) {
        size_t len = nki_u_blob_len(s->blob);
        size_t most = NKI_CLIP(recv, max); /* once: the macro may draw lots */
        size_t n = NKI_MIN(len, most);
        bool is_last = len <= most;
        loop->span.data = nki_u_blob_data(s->blob);
        s->blob->begin += n;
        if (is_last) {
            u->lent_blob = s->blob;
            s->blob = NULL;
        } else {
            u->reading = s;
        }
        nki_u_update_ready(&c->source, s);
        return (int)n;
    }
    if ((s->state & NKI_U_EOF) != 0) {
        s->state = (uint16_t)((s->state & ~NKI_U_EOF) | NKI_U_ENDED);
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
        return NETKIT_E_EOF;
    }
    if (s->error != 0) {
        errno = s->error;
        s->error = 0;
        return nki_os_error();
    }
    if ((s->busy & NKI_U_BIT(NKI_U_RECV)) != 0) {
        c->source.ready = 0;
        return NETKIT_E_AGAIN;
    }
    return nki_u_read_now(loop, u, c, s, max);
}

static int nki_u_read(netkit_loop *loop, nki_conn *c, size_t max) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    nki_u_reclaim(loop, u);
    if (NKI_UNLIKELY(s->first == NKI_POOL_NONE || s->blob != NULL)) {
        return nki_u_read_odd(loop, u, c, s, max);
    }
    if (NKI_FAIL(recv) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    nki_pool_record *record = &u->pool.records[s->first];
    size_t len = record->end - record->begin;
    size_t most = NKI_CLIP(recv, max);
    size_t n = NKI_MIN(len, most);
    loop->span.data = nki_pool_data(&u->pool, s->first) + record->begin;
    if (NKI_LIKELY(n == len)) {
        (void)nki_u_lend(u, s);
    } else {
        record->begin += (uint32_t)n;
        u->reading = s;
    }
    nki_u_update_ready(&c->source, s);
    return (int)n;
}

/* A buffer whose only bytes are the span's goes to the user, unless it is nearly empty. */
static int nki_u_keep(netkit_loop *loop, uint64_t room, nki_block **out) {
    nki_u *u = nki_u_of(loop);
    const unsigned char *span = (const unsigned char *)loop->span.data;
    if (u->lent == NKI_POOL_NONE || loop->span.len <= u->pool.size / 4 || u->pool.is_sharing) {
        return nki_keep_shared(loop, room, out);
    }
    const unsigned char *data = nki_pool_data(&u->pool, u->lent);
    if ((uintptr_t)span < (uintptr_t)data || (uintptr_t)span >= (uintptr_t)data + u->pool.size) {
        return nki_keep_shared(loop, room, out);
    }
    if (room < u->pool.size) {
        return NETKIT_E_FULL;
    }
    *out = nki_pool_swap(&u->pool, u->lent, loop->keeper);
    return *out == NULL ? (int)NETKIT_E_NOMEM : NETKIT_OK;
}

static int nki_u_send_failed(nki_u_slot *s) {
    errno = s->send_error;
    s->send_error = 0;
    return nki_os_error();
}

/* Whether a send is left to the next wait: one that comes soon, and has more to tell the kernel
 * than this. Alone, a send by a call costs less than the second look for its completion. */
static bool nki_u_is_later(const netkit_loop *loop, const nki_u *u) {
    return u->batch > 2 && loop->is_running && !loop->is_flushing;
}

/* What stands before the first chunk that is lent to the kernel goes by calls, within the turn's
 * budget. Returns NETKIT_OK: that chunk is the first, or the conn is stalled; or an error. */
static int nki_u_flush_before(netkit_loop *loop, const nki_u *u, nki_conn *c, const nki_u_slot *s) {
    uint64_t sent = 0;
    while (c->out != NULL && !nki_u_is_lendable(loop, u, c, s, c->out)) {
        if (sent >= loop->desc.conn_budget) {
            c->flags |= NKI_C_STALLED;
            c->source.ready = (uint16_t)(c->source.ready | NETKIT_POLL_WRITE);
            nki_enqueue_later(loop, &c->source);
            return NETKIT_OK;
        }
        int n = nki_r_send_some(c, nki_u_lent_min(loop, u, c, s));
        if (n < 0) {
            c->flags |= n == NETKIT_E_AGAIN ? (uint32_t)NKI_C_STALLED : 0u;
            return n == NETKIT_E_AGAIN ? NETKIT_OK : n;
        }
        sent += (uint64_t)n;
        nki_out_sent(loop, c, (size_t)n);
    }
    return NETKIT_OK;
}

static int nki_u_flush_lending(netkit_loop *loop, const nki_u *u, nki_conn *c,
                               const nki_u_slot *s) {
    int error = nki_u_flush_before(loop, u, c, s);
    if (error == NETKIT_OK && c->out != NULL && (c->flags & NKI_C_STALLED) == 0) {
        if (NKI_FAIL(send) && !nki_u_is_passing(errno)) {
            return nki_os_error();
        }
        c->flags |= NKI_C_STALLED;
    }
    return error;
}

/* A lone chunk with little in it goes with the next wait; the rest, and between turns all, by
 * calls. */
static int nki_u_flush(netkit_loop *loop, nki_conn *c) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    const nki_chunk *first = c->out;
    if (NKI_UNLIKELY(s->send_error != 0)) {
        return nki_u_send_failed(s);
    }
    if ((s->busy & NKI_U_BIT(NKI_U_SEND)) != 0) {
        /* A hang-up looked like room. The send goes on and ends by its own completion: looked at
         * over and over until then, this would be a spin. */
        c->flags |= NKI_C_STALLED;
        if ((c->source.ready & NKI_POLL_ALWAYS) != 0) {
            c->source.ready = (uint16_t)(c->source.ready & ~NKI_POLL_ALWAYS);
            nki_u_want(loop, u, &c->source, s, NKI_U_WANT_INPUT);
        }
        return NETKIT_OK;
    }
    bool is_small = first->next == NULL && first->end - first->begin <= NKI_U_SEND_MAX &&
                    !nki_out_is_alone(first);
    int error = NETKIT_OK;
    if (is_small && nki_u_is_later(loop, u) && first->end != first->begin) {
        if (NKI_FAIL(send) && !nki_u_is_passing(errno)) {
            return nki_os_error();
        }
        c->flags |= NKI_C_STALLED;
    } else if (NKI_UNLIKELY(u->has_zerocopy)) {
        error = nki_u_flush_lending(loop, u, c, s);
    } else {
        error = nki_r_flush(loop, c);
    }
    if ((c->flags & NKI_C_STALLED) != 0 && !nki_u_begin_send(loop, u, c, s)) {
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_SEND);
    }
    return error;
}

/* Have at least one chunk: as many again as there are, so that conns which seldom all send at once
 * do not find one missing long after the start. NETKIT_E_NOMEM: none. */
static NKI_COLD int nki_u_stock_chunks(netkit_loop *loop, nki_spares *spares, size_t size) {
    uint32_t more = NKI_MIN(spares->made, (uint32_t)NKI_SMALL_CHUNKS_STOCK);
    for (uint32_t i = 0; i == 0 || i < more; i++) {
        nki_chunk *chunk = (nki_chunk *)nki_alloc(&loop->allocator, size);
        if (chunk == NULL) {
            break;
        }
        chunk->capacity = size - sizeof *chunk;
        chunk->next = spares->first;
        spares->first = chunk;
        spares->count++;
        spares->made++;
    }
    return spares->first == NULL ? (int)NETKIT_E_NOMEM : (int)NETKIT_OK;
}

/* One that holds so many bytes, NKI_U_SEND_MAX at most; NULL: no memory. */
static nki_chunk *nki_u_take_chunk(netkit_loop *loop, size_t len) {
    bool is_small = len <= NKI_SMALL_CHUNK_SIZE - sizeof(nki_chunk);
    nki_spares *spares = is_small ? &loop->small_chunks : &loop->middle_chunks;
    size_t size = is_small ? NKI_SMALL_CHUNK_SIZE : NKI_MIDDLE_CHUNK_SIZE;
    if (NKI_UNLIKELY(spares->first == NULL) &&
        nki_u_stock_chunks(loop, spares, size) != NETKIT_OK) {
        return NULL;
    }
    nki_chunk *chunk = spares->first;
    spares->first = chunk->next;
    spares->count--;
    return chunk;
}

/* A copy on an empty queue, in a chunk of its size. NETKIT_OK or NETKIT_E_NOMEM. */
static int nki_u_queue(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    nki_chunk *chunk = nki_u_take_chunk(loop, len);
    if (chunk == NULL) {
        return NETKIT_E_NOMEM;
    }
    chunk->next = NULL;
    chunk->last = chunk;
    chunk->data = (const unsigned char *)(chunk + 1);
    chunk->begin = 0;
    chunk->end = len;
    chunk->file = 0;
    chunk->release = NULL;
    memcpy(chunk + 1, data, len);
    c->out = chunk;
    c->queued += (uint32_t)len;
    return NETKIT_OK;
}

/* What is staged must be copied to last until the next wait: it becomes the queue's one chunk. */
static int nki_u_send_later(netkit_loop *loop, nki_u *u, nki_conn *c, nki_u_slot *s,
                            const void *data, size_t len) {
    if (NKI_FAIL(send) && !nki_u_is_passing(errno)) {
        return nki_os_error();
    }
    if (nki_u_queue(loop, c, data, len) != NETKIT_OK) {
        return 0; /* the caller finds out for itself */
    }
    c->flags |= NKI_C_STALLED;
    if (!nki_u_begin_send(loop, u, c, s)) {
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_SEND);
    }
    return (int)len;
}

static int nki_u_send(netkit_loop *loop, nki_conn *c, const void *data, size_t len) {
    nki_u *u = nki_u_of(loop);
    nki_u_slot *s = nki_u_slot_of(u, &c->source);
    if (NKI_UNLIKELY(s->send_error != 0)) {
        return nki_u_send_failed(s);
    }
    if (len <= NKI_U_SEND_MAX && nki_u_is_later(loop, u) && c->out == NULL) {
        return nki_u_send_later(loop, u, c, s, data, len);
    }
    int n = c->out == NULL ? nki_os_send(c->source.socket, data, len) : 0;
    if (n == NETKIT_E_AGAIN) {
        nki_u_want(loop, u, &c->source, s, NKI_U_WANT_SEND);
    }
    return n;
}

static const nki_driver *nki_uring_driver(void) {
    static const nki_driver driver = {
        nki_u_open,
        nki_u_close,
        nki_r_now,
        nki_r_random,
        nki_u_wait,
        nki_u_next,
        nki_u_wake,
        nki_u_native,
        nki_u_commit,
        nki_u_rebind,
        nki_u_attach,
        nki_u_shut,
        nki_r_discard,
        nki_u_arm,
        nki_u_watch,
        nki_u_unwatch,
        nki_r_listen,
        nki_u_accept,
        nki_r_adopt,
        nki_u_connect,
        nki_u_connected,
        nki_u_read,
        NULL,
        nki_u_keep,
        nki_u_flush,
        nki_u_send,
        nki_r_half_close,
        nki_r_file_open,
        nki_os_abandon,
        nki_r_udp_open,
        nki_u_udp_recv,
        nki_u_udp_send,
        nki_r_udp_failed,
        nki_r_udp_join,
        nki_r_local,
        nki_r_remote,
        nki_r_set_option,
        nki_r_get_option,
        nki_os_code,
        nki_u_read_fds,
        nki_r_dup,
        nki_r_credentials,
        nki_r_unlink,
        nki_r_process,
        nki_r_set_text,
        nki_r_get_text,
        nki_u_failed,
    };
    return &driver;
}

#endif /* NKI_HAS_URING */
