/* The kqueue backend (macOS, FreeBSD, DragonFly; Linux over libkqueue with NETKIT_FORCE_KQUEUE).
 *
 * A kqueue has one filter for reading and another for writing, and reports each by itself; we
 * report a descriptor once, so what one wait brings is joined. For that, and because udata has no
 * 64 bits on 32-bit systems, each descriptor has a slot here, found by its number. What udata
 * carries is the slot's `life`, a number that no other registration had: a filter that outlived
 * its descriptor cannot speak for the next one with the same number (K-02). Facts behind the rest:
 * - kqueue(2): "Calling close() on a file descriptor will remove any kevents that reference the
 *   descriptor", but not while a duplicate is open elsewhere; so filters are deleted before, and
 *   one that is gone already (ENOENT, EBADF) is as good as deleted.
 * - Adding a filter that exists keeps its EV_CLEAR as it was made, so change is delete and add.
 * - Without room for events a list of changes ends at the first that fails, and nothing says
 *   which: then all is deleted and added one by one.
 * - EV_EOF comes with data still unread: it never replaces READ. Whether both directions are over
 *   the filters do not say; poll(2) does, asked only then.
 * - fflags of an EV_EOF has the socket's error. It is kept: libkqueue has taken it out of the
 *   socket, which says EOF then to who reads and "not connected" to who asks how connect ended.
 * - data of EVFILT_READ counts the bytes beyond an urgent mark too. A read that brought less
 *   stopped at the mark, and no edge will tell of the rest.
 * - data of EVFILT_WRITE differs between systems and is not used.
 * - A trigger of EVFILT_USER may overwrite its udata (FreeBSD does): it is the same each time. */

#if NKI_HAS_KQUEUE

enum {
    NKI_KQ_BATCH = 256, /* events in one call; nki_kq_slot.at holds one less */
    NKI_KQ_FILTERS = 3,
    NKI_KQ_READ = 1, /* nki_kq_slot.armed */
    NKI_KQ_WRITE = 2,
    NKI_KQ_URGENT = 4
};

#if defined(EVFILT_EXCEPT) && defined(NOTE_OOB)
#define NKI_KQ_HAS_URGENT 1
#define NKI_KQ_EXCEPT EVFILT_EXCEPT
#define NKI_KQ_OOB NOTE_OOB
#else
#define NKI_KQ_HAS_URGENT 0
#define NKI_KQ_EXCEPT 0
#define NKI_KQ_OOB 0
#endif

typedef struct nki_kq_slot {
    uint64_t data;
    uintptr_t life;  /* what its filters carry; 0 = the descriptor is not watched */
    uint32_t events; /* as asked; a ONESHOT that has reported asks for nothing */
    uint32_t batch;  /* the wait that reported it last, */
    uint32_t held;   /* how many bytes there were to read then, */
    uint16_t error;  /* the system's error that came with it, */
    uint8_t at;      /* and which of the events it is */
    uint8_t armed;   /* filters in the kernel */
} nki_kq_slot;

typedef struct nki_kqueue {
    int fd;
    int pid; /* children do not inherit it: there the number is nobody's, or another's */
    struct kevent *events;
    nki_kq_slot *slots; /* by descriptor */
    size_t count;
    uintptr_t life;
    uint32_t batch;
    uint64_t wake_data;
    bool has_wake;
} nki_kqueue;

static int nki_kqueue_open(nki_poller *p) {
    nki_kqueue *kq = (nki_kqueue *)nki_alloc_zero(&p->allocator, sizeof(*kq));
    if (kq == NULL) {
        return NETKIT_E_NOMEM;
    }
    kq->fd = -1;
    kq->events = (struct kevent *)nki_alloc(&p->allocator, NKI_KQ_BATCH * sizeof(*kq->events));
    int rc = kq->events == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
    if (rc == NETKIT_OK) {
        kq->fd = NKI_SYS_kqueue();
        rc = kq->fd < 0 ? nki_os_error() : NETKIT_OK;
    }
    if (rc == NETKIT_OK && NKI_SYS_fcntl(kq->fd, F_SETFD, FD_CLOEXEC) != 0) {
        rc = nki_os_error();
        nki_os_abandon((uintptr_t)kq->fd);
    }
    if (rc != NETKIT_OK) {
        nki_free(&p->allocator, kq->events, NKI_KQ_BATCH * sizeof(*kq->events));
        nki_free(&p->allocator, kq, sizeof(*kq));
        return rc;
    }
    kq->pid = NKI_SYS_getpid();
    p->state = kq;
    p->native = (uintptr_t)kq->fd;
    return NETKIT_OK;
}

static void nki_kqueue_close(nki_poller *p) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    if (kq->pid == NKI_SYS_getpid()) {
        (void)NKI_SYS_close(kq->fd);
    }
    nki_free(&p->allocator, kq->slots, kq->count * sizeof(*kq->slots));
    nki_free(&p->allocator, kq->events, NKI_KQ_BATCH * sizeof(*kq->events));
    nki_free(&p->allocator, kq, sizeof(*kq));
}

/* ---- slots ---- */

static nki_kq_slot *nki_kqueue_slot(const nki_kqueue *kq, uintptr_t native) {
    return native < kq->count && kq->slots[native].life != 0 ? &kq->slots[native] : NULL;
}

/* Make room for `native`, which is a descriptor: their numbers are low on POSIX. */
static int nki_kqueue_reserve(nki_kqueue *kq, uintptr_t native, const netkit_allocator *a) {
    size_t count = kq->count == 0 ? 64 : kq->count;
    if (native < kq->count) {
        return NETKIT_OK;
    }
    while (count <= native) {
        count *= 2;
    }
    if (count > SIZE_MAX / sizeof(*kq->slots)) {
        return NETKIT_E_NOMEM;
    }
    nki_kq_slot *slots = (nki_kq_slot *)nki_alloc_zero(a, count * sizeof(*slots));
    if (slots == NULL) {
        return NETKIT_E_NOMEM;
    }
    if (kq->count > 0) {
        memcpy(slots, kq->slots, kq->count * sizeof(*slots));
    }
    nki_free(a, kq->slots, kq->count * sizeof(*slots));
    kq->slots = slots;
    kq->count = count;
    return NETKIT_OK;
}

/* ---- filters ---- */

static int nki_kqueue_check_events(uint32_t events) {
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    bool is_missing = (events & NETKIT_POLL_PRIORITY) != 0 && !NKI_KQ_HAS_URGENT;
    return is_missing ? NETKIT_E_NOSYS : NETKIT_OK;
}

/* Which filters the events take. The peer's end is seen by the reading one. */
static uint8_t nki_kqueue_filters(uint32_t events) {
    int filters = (events & (NETKIT_POLL_READ | NETKIT_POLL_PEER_END)) != 0 ? NKI_KQ_READ : 0;
    filters |= (events & NETKIT_POLL_WRITE) != 0 ? NKI_KQ_WRITE : 0;
    filters |= (events & NETKIT_POLL_PRIORITY) != 0 ? NKI_KQ_URGENT : 0;
    return (uint8_t)filters;
}

/* Who waits for the peer's end alone is not told of data: level-triggered, that would spin. */
static unsigned nki_kqueue_flags(uint32_t events, int filter) {
    bool is_quiet = filter == NKI_KQ_READ && (events & NETKIT_POLL_READ) == 0;
    if (is_quiet || (events & NETKIT_POLL_EDGE) != 0) {
        return EV_ADD | EV_CLEAR | (!is_quiet && (events & NETKIT_POLL_ONESHOT) ? EV_ONESHOT : 0);
    }
    return EV_ADD | ((events & NETKIT_POLL_ONESHOT) != 0 ? EV_ONESHOT : 0);
}

/* One change. What has no fixed type among the systems is copied. */
static void nki_kqueue_fill(struct kevent *ev, uintptr_t native, int filter, unsigned flags,
                            uintptr_t life) {
    memset(ev, 0, sizeof(*ev));
    ev->ident = native;
    ev->flags = (unsigned short)flags;
    memcpy(&ev->udata, &life, sizeof(life));
    switch (filter) {
    case NKI_KQ_READ: ev->filter = EVFILT_READ; break;
    case NKI_KQ_WRITE: ev->filter = EVFILT_WRITE; break;
    default:
        ev->filter = NKI_KQ_EXCEPT;
        ev->fflags = NKI_KQ_OOB;
        break;
    }
}

static int nki_kqueue_apply(nki_kqueue *kq, const struct kevent *changes, int count) {
    while (count > 0 && NKI_SYS_kevent_change(kq->fd, changes, count) < 0) {
        if (errno != EINTR) {
            return nki_os_error();
        }
    }
    return NETKIT_OK;
}

/* Delete filters one by one: those that are gone already do not keep the others. */
static int nki_kqueue_delete_each(nki_kqueue *kq, uintptr_t native, nki_kq_slot *slot, int armed) {
    int result = NETKIT_OK;
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        struct kevent change;
        if ((armed & filter) == 0) {
            continue;
        }
        nki_kqueue_fill(&change, native, filter, EV_DELETE, slot->life);
        int rc = nki_kqueue_apply(kq, &change, 1);
        bool is_gone = rc == NETKIT_OK || errno == ENOENT || errno == EBADF;
        if (is_gone) {
            slot->armed = (uint8_t)(slot->armed & ~filter);
        } else {
            result = rc;
        }
    }
    return result;
}

/* The long way round to `events`, after a failure that may have left anything. */
static int nki_kqueue_rebuild(nki_kqueue *kq, uintptr_t native, nki_kq_slot *slot,
                              uint32_t events) {
    const int all = NKI_KQ_READ | NKI_KQ_WRITE | (NKI_KQ_HAS_URGENT ? NKI_KQ_URGENT : 0);
    int wanted = nki_kqueue_filters(events);
    slot->armed = (uint8_t)all;
    int rc = nki_kqueue_delete_each(kq, native, slot, all);
    for (int filter = 1; rc == NETKIT_OK && filter <= wanted; filter <<= 1) {
        struct kevent change;
        if ((wanted & filter) == 0) {
            continue;
        }
        nki_kqueue_fill(&change, native, filter, nki_kqueue_flags(events, filter), slot->life);
        rc = nki_kqueue_apply(kq, &change, 1);
        if (rc == NETKIT_OK) {
            slot->armed = (uint8_t)(slot->armed | filter);
        }
    }
    return rc;
}

/* From what is armed to what `events` takes, in one call; nothing is asked when nothing changes.
 * Edges and ONESHOT are always made anew: asking again shows what is ready again. So is what was
 * silent: after a failure `armed` may be too much. */
static int nki_kqueue_arm(nki_kqueue *kq, uintptr_t native, nki_kq_slot *slot, uint32_t events) {
    const uint32_t fresh = NETKIT_POLL_EDGE | NETKIT_POLL_ONESHOT | NETKIT_POLL_PEER_END;
    struct kevent changes[2 * NKI_KQ_FILTERS];
    int wanted = nki_kqueue_filters(events);
    bool is_fresh = slot->events == 0 || ((events | slot->events) & fresh) != 0;
    int kept = is_fresh ? 0 : slot->armed & wanted;
    int count = 0;
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        if ((slot->armed & ~kept & filter) != 0) {
            nki_kqueue_fill(&changes[count++], native, filter, EV_DELETE, slot->life);
        }
    }
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        if ((wanted & ~kept & filter) != 0) {
            nki_kqueue_fill(&changes[count++], native, filter, nki_kqueue_flags(events, filter),
                            slot->life);
        }
    }
    if (nki_kqueue_apply(kq, changes, count) == NETKIT_OK) {
        slot->armed = (uint8_t)wanted;
        return NETKIT_OK;
    }
    return nki_kqueue_rebuild(kq, native, slot, events);
}

/* ---- the set ---- */

static int nki_kqueue_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    int rc = nki_kqueue_check_events(events);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (nki_kqueue_slot(kq, native) != NULL) {
        return NETKIT_E_EXISTS;
    }
    rc = nki_poller_check_file(native);
    if (rc == NETKIT_OK) {
        rc = nki_kqueue_reserve(kq, native, &p->allocator);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    nki_kq_slot *slot = &kq->slots[native];
    memset(slot, 0, sizeof(*slot));
    kq->life += kq->life == UINTPTR_MAX ? 2 : 1; /* never 0 */
    slot->life = kq->life;
    slot->data = data;
    rc = nki_kqueue_arm(kq, native, slot, events);
    slot->events = events;
    if (rc != NETKIT_OK) {
        int os_code = errno;
        (void)nki_kqueue_delete_each(kq, native, slot, slot->armed);
        slot->life = 0;
        errno = os_code;
    }
    return rc;
}

/* A change that fails leaves what was before; should that fail as well, silence. */
static int nki_kqueue_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    nki_kq_slot *slot = nki_kqueue_slot(kq, native);
    int rc = nki_kqueue_check_events(events);
    if (rc == NETKIT_OK && slot == NULL) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_kqueue_arm(kq, native, slot, events);
    if (rc == NETKIT_OK) {
        slot->events = events;
        slot->data = data;
        return NETKIT_OK;
    }
    int os_code = errno;
    if (nki_kqueue_rebuild(kq, native, slot, slot->events) != NETKIT_OK) {
        (void)nki_kqueue_delete_each(kq, native, slot, slot->armed);
        slot->events = 0;
    }
    errno = os_code;
    return rc;
}

/* Whatever the kernel says, it is forgotten here, and its filters speak to nobody. */
static int nki_kqueue_remove(nki_poller *p, uintptr_t native) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    nki_kq_slot *slot = nki_kqueue_slot(kq, native);
    struct kevent changes[NKI_KQ_FILTERS];
    int count = 0;
    if (slot == NULL) {
        return NETKIT_E_NOTFOUND;
    }
    for (int filter = 1; filter < 1 << NKI_KQ_FILTERS; filter <<= 1) {
        if ((slot->armed & filter) != 0) {
            nki_kqueue_fill(&changes[count++], native, filter, EV_DELETE, slot->life);
        }
    }
    int rc = nki_kqueue_apply(kq, changes, count);
    if (rc != NETKIT_OK) {
        rc = nki_kqueue_delete_each(kq, native, slot, slot->armed);
    }
    slot->life = 0;
    return rc;
}

/* ---- waiting ---- */

/* What one filter says. What was not asked for is left out, but trouble. */
static uint32_t nki_kqueue_bits(nki_kq_slot *slot, const struct kevent *ev) {
    uint32_t bits = NETKIT_POLL_PRIORITY;
    if (ev->filter == EVFILT_WRITE) {
        bits = NETKIT_POLL_WRITE;
    } else if (ev->filter == EVFILT_READ) {
        bits = NETKIT_POLL_READ;
        slot->held = ev->data > (intptr_t)INT_MAX ? (uint32_t)INT_MAX : (uint32_t)ev->data;
    }
    bits &= slot->events;
    if (ev->fflags != 0 && ev->filter != NKI_KQ_EXCEPT) {
        bits |= NETKIT_POLL_ERROR;
        slot->error = (uint16_t)ev->fflags;
    }
    if ((ev->flags & EV_EOF) != 0) {
        int held = nki_os_wait(ev->ident, 0, 0);
        bits |= held > 0 ? (uint32_t)held & NKI_POLL_ALWAYS : 0u;
        bits |= ev->filter == EVFILT_READ ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
    }
    return bits;
}

static int nki_kqueue_filter_of(const struct kevent *ev) {
    return ev->filter == EVFILT_READ    ? NKI_KQ_READ
           : ev->filter == EVFILT_WRITE ? NKI_KQ_WRITE
                                        : NKI_KQ_URGENT;
}

/* Add what a filter says to the `n` events there are; returns how many there are then. */
static int nki_kqueue_report(nki_kqueue *kq, const struct kevent *ev, netkit_poll_event *events,
                             int n) {
    uintptr_t life;
    nki_kq_slot *slot = nki_kqueue_slot(kq, ev->ident);
    memcpy(&life, &ev->udata, sizeof(life));
    if (slot == NULL || slot->life != life || slot->events == 0) {
        return n;
    }
    int filter = nki_kqueue_filter_of(ev);
    uint32_t bits = nki_kqueue_bits(slot, ev);
    if ((nki_kqueue_flags(slot->events, filter) & EV_ONESHOT) != 0) {
        slot->armed = (uint8_t)(slot->armed & ~filter); /* the kernel has deleted it */
    }
    if (bits == 0) {
        return n;
    }
    if (slot->batch == kq->batch) {
        events[slot->at].events |= bits;
        return n;
    }
    slot->batch = kq->batch;
    slot->at = (uint8_t)n;
    events[n].data = slot->data;
    events[n].events = bits;
    return n + 1;
}

/* A ONESHOT that has reported is silent in all its filters. */
static void nki_kqueue_silence(nki_kqueue *kq, uintptr_t native) {
    nki_kq_slot *slot = nki_kqueue_slot(kq, native);
    if (slot != NULL && slot->batch == kq->batch && (slot->events & NETKIT_POLL_ONESHOT) != 0) {
        (void)nki_kqueue_delete_each(kq, native, slot, slot->armed);
        slot->events = 0;
    }
}

/* A new number for this wait. After 2^32 of them it could be an old one's. */
static void nki_kqueue_begin(nki_kqueue *kq) {
    if (++kq->batch == 0) {
        for (size_t i = 0; i < kq->count; i++) {
            kq->slots[i].batch = 0;
        }
        kq->batch = 1;
    }
}

/* Some systems refuse long times (macOS: above 100,000,000 s); cut, as poll's are. */
static struct timespec *nki_kqueue_time(struct timespec *out, uint64_t timeout_ns) {
    const uint64_t most_s = (uint64_t)INT_MAX / 1000u;
    if (timeout_ns == NKI_NEVER) {
        return NULL;
    }
    bool is_long = timeout_ns / NKI_NS_PER_S >= most_s;
    memset(out, 0, sizeof(*out));
    out->tv_sec = (time_t)(is_long ? most_s : timeout_ns / NKI_NS_PER_S);
    out->tv_nsec = (long)(is_long ? 0u : timeout_ns % NKI_NS_PER_S);
    return out;
}

static int nki_kqueue_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    struct timespec time;
    int most = NKI_MIN(max, (int)NKI_KQ_BATCH);
    int got = NKI_SYS_kevent(kq->fd, kq->events, most, nki_kqueue_time(&time, timeout_ns));
    if (NKI_UNLIKELY(got < 0)) {
        return errno == EINTR ? 0 : nki_os_error();
    }
    int n = 0;
    nki_kqueue_begin(kq);
    for (int i = 0; i < got; i++) {
        const struct kevent *ev = &kq->events[i];
        if (ev->filter == EVFILT_USER) {
            events[n].data = kq->wake_data;
            events[n++].events = NETKIT_POLL_READ;
        } else {
            n = nki_kqueue_report(kq, ev, events, n);
        }
    }
    for (int i = 0; i < got; i++) {
        if (kq->events[i].filter != EVFILT_USER) {
            nki_kqueue_silence(kq, kq->events[i].ident);
        }
    }
    return n;
}

static int64_t nki_kqueue_held(nki_poller *p, uintptr_t native) {
    const nki_kq_slot *slot = nki_kqueue_slot((const nki_kqueue *)p->state, native);
    return slot != NULL ? (int64_t)slot->held : INT64_MAX;
}

static int nki_kqueue_take_error(nki_poller *p, uintptr_t native) {
    nki_kq_slot *slot = nki_kqueue_slot((nki_kqueue *)p->state, native);
    int os_code = slot != NULL ? slot->error : 0;
    if (os_code != 0) {
        slot->error = 0;
    }
    return os_code;
}

/* ---- waking ---- */

/* The filter is of its own kind, so any ident and udata will do; the wait knows the data. */
static int nki_kqueue_wake_set(nki_poller *p, uint64_t data) {
    nki_kqueue *kq = (nki_kqueue *)p->state;
    struct kevent change;
    memset(&change, 0, sizeof(change));
    change.filter = EVFILT_USER;
    change.flags = EV_ADD | EV_CLEAR;
    int rc = nki_kqueue_apply(kq, &change, kq->has_wake ? 0 : 1);
    kq->has_wake = kq->has_wake || rc == NETKIT_OK;
    kq->wake_data = data;
    return rc;
}

static int nki_kqueue_wake(const nki_poller *p) {
    const nki_kqueue *kq = (const nki_kqueue *)p->state;
    struct kevent change;
    int os_code = errno;
    memset(&change, 0, sizeof(change));
    change.filter = EVFILT_USER;
    change.fflags = NOTE_TRIGGER;
    while (NKI_SYS_kevent_trigger(kq->fd, &change) < 0) {
        if (errno != EINTR) {
            return nki_os_error();
        }
    }
    errno = os_code;
    return NETKIT_OK;
}

static const nki_poller_ops *nki_kqueue_ops(void) {
    static const nki_poller_ops ops = {
        "kqueue",
        NETKIT_BACKEND_KQUEUE,
        true,
        nki_kqueue_open,
        nki_kqueue_close,
        nki_kqueue_add,
        nki_kqueue_modify,
        nki_kqueue_remove,
        nki_kqueue_wait,
        nki_kqueue_wake_set,
        nki_kqueue_wake,
        nki_kqueue_held,
        nki_kqueue_take_error,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_KQUEUE */
