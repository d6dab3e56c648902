/* The poll backend (every POSIX system): the one that always works.
 *
 * Owns two parallel arrays, the kernel's pollfd and our slot beside it, dense, and a table from
 * descriptor to place: add, modify and remove are O(1), a wait is O(n) as poll(2) itself is.
 * A descriptor that should be silent stands in the array as its complement, which is negative:
 * poll(2) ignores such entries, hang-up included. That is how events of 0, a ONESHOT that has
 * fired, and a descriptor that was closed (POLLNVAL, reported once as an error: it would be
 * reported for ever) are kept from spinning.
 * Reporting starts behind the entry reported last, so that a small `max` starves nobody. */

#if NKI_HAS_POLL

typedef struct nki_poll_slot {
    uint64_t data;
    uint32_t events;
    uint32_t fd; /* pollfd may hold its complement */
} nki_poll_slot;

typedef struct nki_poll {
    struct pollfd *fds;
    nki_poll_slot *slots;
    nki_fd_table table; /* place plus one */
    uint32_t count;
    uint32_t capacity;
    uint32_t next; /* where the next scan starts */
} nki_poll;

static int nki_poll_open(nki_poller *p) {
    p->state = nki_alloc_zero(&p->allocator, sizeof(nki_poll));
    p->native = UINTPTR_MAX;
    return p->state == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
}

static void nki_poll_close(nki_poller *p) {
    nki_poll *po = (nki_poll *)p->state;
    nki_free(&p->allocator, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(&p->allocator, po->slots, po->capacity * sizeof(*po->slots));
    nki_fd_table_free(&po->table, &p->allocator);
    nki_free(&p->allocator, po, sizeof(*po));
}

static int nki_poll_grow(nki_poll *po, const netkit_allocator *a) {
    uint32_t capacity = po->capacity == 0 ? 16 : po->capacity * 2;
    if (po->count < po->capacity) {
        return NETKIT_OK;
    }
    struct pollfd *fds = (struct pollfd *)nki_alloc(a, capacity * sizeof(*fds));
    nki_poll_slot *slots = (nki_poll_slot *)nki_alloc(a, capacity * sizeof(*slots));
    if (fds == NULL || slots == NULL) {
        nki_free(a, fds, capacity * sizeof(*fds));
        nki_free(a, slots, capacity * sizeof(*slots));
        return NETKIT_E_NOMEM;
    }
    if (po->count > 0) {
        memcpy(fds, po->fds, po->count * sizeof(*fds));
        memcpy(slots, po->slots, po->count * sizeof(*slots));
    }
    nki_free(a, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(a, po->slots, po->capacity * sizeof(*po->slots));
    po->fds = fds;
    po->slots = slots;
    po->capacity = capacity;
    return NETKIT_OK;
}

static void nki_poll_set(nki_poll *po, uint32_t at, uint32_t events, uint64_t data) {
    nki_poll_slot *slot = &po->slots[at];
    int fd = (int)slot->fd;
    slot->data = data;
    slot->events = events;
    po->fds[at].fd = (events & NKI_POLL_SPEAKS) == 0 ? ~fd : fd;
    po->fds[at].events = nki_os_poll_from(events);
    po->fds[at].revents = 0;
}

static int nki_poll_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_poll *po = (nki_poll *)p->state;
    int rc = nki_poller_check_level(events);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (nki_fd_table_get(&po->table, native) != 0) {
        return NETKIT_E_EXISTS;
    }
    rc = nki_poller_check_file(native);
    if (rc == NETKIT_OK) {
        rc = nki_fd_table_reserve(&po->table, native, &p->allocator);
    }
    if (rc == NETKIT_OK) {
        rc = nki_poll_grow(po, &p->allocator);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    po->slots[po->count].fd = (uint32_t)native;
    nki_poll_set(po, po->count, events, data);
    po->table.places[native] = ++po->count;
    return NETKIT_OK;
}

static int nki_poll_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_poll *po = (nki_poll *)p->state;
    int rc = nki_poller_check_level(events);
    uint32_t place = nki_fd_table_get(&po->table, native);
    if (rc == NETKIT_OK && place == 0) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc == NETKIT_OK) {
        nki_poll_set(po, place - 1, events, data);
    }
    return rc;
}

static int nki_poll_remove(nki_poller *p, uintptr_t native) {
    nki_poll *po = (nki_poll *)p->state;
    uint32_t place = nki_fd_table_get(&po->table, native);
    if (place == 0) {
        return NETKIT_E_NOTFOUND;
    }
    uint32_t last = --po->count;
    po->fds[place - 1] = po->fds[last];
    po->slots[place - 1] = po->slots[last];
    po->table.places[po->slots[last].fd] = place;
    po->table.places[native] = 0; /* in this order: the last may be the one removed */
    return NETKIT_OK;
}

/* Turn what poll said of one entry into an event; ends what must be said only once. */
static void nki_poll_report(nki_poll *po, uint32_t at, netkit_poll_event *event) {
    struct pollfd *fd = &po->fds[at];
    bool is_gone = (fd->revents & POLLNVAL) != 0;
    event->data = po->slots[at].data;
    event->events = is_gone ? (uint32_t)NETKIT_POLL_ERROR : nki_os_poll_to(fd->revents);
    if (is_gone || (po->slots[at].events & NETKIT_POLL_ONESHOT) != 0) {
        fd->fd = ~fd->fd;
    }
}

static int nki_poll_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_poll *po = (nki_poll *)p->state;
    int ready = NKI_SYS_poll(po->fds, (nfds_t)po->count, nki_os_poll_ms(timeout_ns));
    if (ready < 0) {
        /* Some systems say EAGAIN when they have no memory for the call. */
        return errno == EINTR ? 0 : errno == EAGAIN ? (int)NETKIT_E_NOMEM : nki_os_error();
    }
    int most = NKI_MIN(ready, max);
    int n = 0;
    uint32_t at = po->next < po->count ? po->next : 0;
    for (uint32_t i = 0; i < po->count && n < most; i++) {
        if (po->fds[at].revents != 0) {
            nki_poll_report(po, at, &events[n++]);
            po->next = at + 1;
        }
        at = at + 1 < po->count ? at + 1 : 0;
    }
    return n;
}

static const nki_poller_ops *nki_poll_ops(void) {
    static const nki_poller_ops ops = {
        "poll",
        NETKIT_BACKEND_POLL,
        false,
        nki_poll_open,
        nki_poll_close,
        nki_poll_add,
        nki_poll_modify,
        nki_poll_remove,
        nki_poll_wait,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_POLL */
