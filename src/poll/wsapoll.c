/* The WSAPoll backend (Windows): the one that needs nothing but Winsock's documented calls.
 *
 * Owns two parallel arrays as poll.c does, the system's WSAPOLLFD and our slot beside it, and a
 * table from socket to place. Those that should be silent stand behind the others and are not
 * shown to the system: it may write into entries that it passes over, and hang-ups cannot be
 * masked. What differs from poll(2):
 * - POLLPRI is an error to ask for; urgent data are POLLRDBAND, and POLLIN is both.
 * - POLLHUP comes with the peer's end already, while the other direction is open, and may come to
 *   who has not asked to read. Who only wants to write then would be told nothing, again and again:
 *   so he is mute for some milliseconds, and looked at in between.
 * - An error is a connection that was refused or reset: both directions are over then, and
 *   neither blocks. (Before Windows 10 2004 a refused one is not told at all; who connects has
 *   his own time limit, and the afd backend knows.)
 * - An array of none is an error to it; a poller has its wake there at least. */

#if NKI_HAS_WSAPOLL

enum {
    NKI_WSAPOLL_MUTE_MS = 10
};

typedef struct nki_wsapoll_slot {
    uint64_t data;
    uint32_t events;
    bool is_mute; /* silent for a moment */
} nki_wsapoll_slot;

typedef struct nki_wsapoll {
    WSAPOLLFD *fds;
    nki_wsapoll_slot *slots;
    nki_socket_table table; /* place plus one */
    uint32_t count;
    uint32_t speaking; /* so many of them, the first */
    uint32_t mute;     /* and so many of the others are */
    uint32_t capacity;
    uint32_t next; /* where the next scan starts */
} nki_wsapoll;

static int nki_wsapoll_open(nki_poller *p) {
    p->state = nki_alloc_zero(&p->allocator, sizeof(nki_wsapoll));
    p->native = UINTPTR_MAX;
    return p->state == NULL ? NETKIT_E_NOMEM : NETKIT_OK;
}

static void nki_wsapoll_close(nki_poller *p) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    nki_free(&p->allocator, po->fds, po->capacity * sizeof(*po->fds));
    nki_free(&p->allocator, po->slots, po->capacity * sizeof(*po->slots));
    nki_socket_table_free(&po->table, &p->allocator);
    nki_free(&p->allocator, po, sizeof(*po));
}

static int nki_wsapoll_grow(nki_wsapoll *po, const netkit_allocator *a) {
    uint32_t capacity = po->capacity == 0 ? 16 : po->capacity * 2;
    if (po->count < po->capacity) {
        return NETKIT_OK;
    }
    WSAPOLLFD *fds = (WSAPOLLFD *)nki_alloc(a, capacity * sizeof(*fds));
    nki_wsapoll_slot *slots = (nki_wsapoll_slot *)nki_alloc(a, capacity * sizeof(*slots));
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

/* Who waits for the peer's end alone asks for nothing: it is told all the same. */
static short nki_wsapoll_from(uint32_t events) {
    int bits = (events & NETKIT_POLL_READ) != 0 ? POLLRDNORM : 0;
    bits |= (events & NETKIT_POLL_PRIORITY) != 0 ? POLLRDBAND : 0;
    bits |= (events & NETKIT_POLL_WRITE) != 0 ? POLLWRNORM : 0;
    return (short)bits;
}

static uint32_t nki_wsapoll_to(short bits) {
    int events = (bits & POLLRDNORM) != 0 ? NETKIT_POLL_READ : 0;
    events |= (bits & POLLRDBAND) != 0 ? NETKIT_POLL_PRIORITY : 0;
    events |= (bits & POLLWRNORM) != 0 ? NETKIT_POLL_WRITE : 0;
    events |= (bits & POLLHUP) != 0 ? NETKIT_POLL_READ | NETKIT_POLL_PEER_END : 0;
    if ((bits & POLLERR) != 0) {
        events |= NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PEER_END;
        events |= NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
    }
    return (uint32_t)events;
}

/* ---- the set ---- */

static void nki_wsapoll_place(nki_wsapoll *po, uint32_t at, WSAPOLLFD fd, nki_wsapoll_slot slot) {
    po->fds[at] = fd;
    po->slots[at] = slot;
    nki_socket_table_put(&po->table, (uintptr_t)fd.fd, at + 1);
}

static void nki_wsapoll_swap(nki_wsapoll *po, uint32_t a, uint32_t b) {
    WSAPOLLFD fd = po->fds[a];
    nki_wsapoll_slot slot = po->slots[a];
    nki_wsapoll_place(po, a, po->fds[b], po->slots[b]);
    nki_wsapoll_place(po, b, fd, slot);
}

/* Put it among those that speak, or behind them; returns its new place. */
static uint32_t nki_wsapoll_sort(nki_wsapoll *po, uint32_t at, bool is_speaking) {
    uint32_t to = at;
    if (is_speaking && at >= po->speaking) {
        to = po->speaking++;
    } else if (!is_speaking && at < po->speaking) {
        to = --po->speaking;
    }
    if (to != at) {
        nki_wsapoll_swap(po, at, to);
    }
    return to;
}

static void nki_wsapoll_set_mute(nki_wsapoll *po, uint32_t at, bool is_mute) {
    po->mute += is_mute ? 1u : 0u;
    po->mute -= po->slots[at].is_mute ? 1u : 0u;
    po->slots[at].is_mute = is_mute;
}

static void nki_wsapoll_set(nki_wsapoll *po, uint32_t at, uint32_t events, uint64_t data) {
    nki_wsapoll_set_mute(po, at, false);
    at = nki_wsapoll_sort(po, at, (events & NKI_POLL_SPEAKS) != 0);
    po->slots[at].data = data;
    po->slots[at].events = events;
    po->fds[at].events = nki_wsapoll_from(events);
    po->fds[at].revents = 0;
}

static int nki_wsapoll_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    int rc = nki_poller_check_level(events);
    if (rc != NETKIT_OK) {
        return rc;
    }
    if (nki_socket_table_get(&po->table, native) != 0) {
        return NETKIT_E_EXISTS;
    }
    rc = nki_poller_check_socket(native);
    if (rc == NETKIT_OK) {
        rc = nki_socket_table_reserve(&po->table, &p->allocator);
    }
    if (rc == NETKIT_OK) {
        rc = nki_wsapoll_grow(po, &p->allocator);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    uint32_t at = po->count++;
    memset(&po->slots[at], 0, sizeof(po->slots[at]));
    po->fds[at].fd = (SOCKET)native;
    nki_socket_table_put(&po->table, native, at + 1);
    nki_wsapoll_set(po, at, events, data);
    return NETKIT_OK;
}

static int nki_wsapoll_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    int rc = nki_poller_check_level(events);
    uint32_t place = nki_socket_table_get(&po->table, native);
    if (rc == NETKIT_OK && place == 0) {
        rc = NETKIT_E_NOTFOUND;
    }
    if (rc == NETKIT_OK) {
        nki_wsapoll_set(po, place - 1, events, data);
    }
    return rc;
}

static int nki_wsapoll_remove(nki_poller *p, uintptr_t native) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    uint32_t place = nki_socket_table_get(&po->table, native);
    if (place == 0) {
        return NETKIT_E_NOTFOUND;
    }
    nki_wsapoll_set_mute(po, place - 1, false);
    uint32_t at = nki_wsapoll_sort(po, place - 1, false);
    nki_wsapoll_swap(po, at, --po->count);
    nki_socket_table_drop(&po->table, native);
    return NETKIT_OK;
}

/* ---- waiting ---- */

/* Turn what the system said of one entry into an event; ends what must be said only once. Returns
 * how many events it is: one, or none when nothing of it was asked for. */
static int nki_wsapoll_report(nki_wsapoll *po, uint32_t at, netkit_poll_event *event) {
    nki_wsapoll_slot *slot = &po->slots[at];
    short said = po->fds[at].revents;
    bool is_gone = (said & POLLNVAL) != 0;
    po->fds[at].revents = 0;
    event->data = slot->data;
    event->events = is_gone ? (uint32_t)NETKIT_POLL_ERROR
                            : nki_wsapoll_to(said) & nki_poller_allowed(slot->events);
    if (event->events == 0) {
        nki_wsapoll_set_mute(po, at, true);
        return 0;
    }
    if (is_gone || (slot->events & NETKIT_POLL_ONESHOT) != 0) {
        slot->events = 0;
    }
    return 1;
}

/* Those that have become silent in this scan go behind the others after it. */
static void nki_wsapoll_silence(nki_wsapoll *po) {
    for (uint32_t at = po->speaking; at-- > 0;) {
        if (po->slots[at].events == 0 || po->slots[at].is_mute) {
            (void)nki_wsapoll_sort(po, at, false);
        }
    }
}

static int nki_wsapoll_scan(nki_wsapoll *po, netkit_poll_event *events, int most) {
    int n = 0;
    bool is_silenced = false;
    uint32_t at = po->next < po->speaking ? po->next : 0;
    for (uint32_t i = 0; i < po->speaking && n < most; i++) {
        if (po->fds[at].revents != 0) {
            n += nki_wsapoll_report(po, at, &events[n]);
            is_silenced = is_silenced || po->slots[at].events == 0 || po->slots[at].is_mute;
            po->next = at + 1;
        }
        at = at + 1 < po->speaking ? at + 1 : 0;
    }
    if (is_silenced) {
        nki_wsapoll_silence(po);
    }
    return n;
}

static void nki_wsapoll_unmute(nki_wsapoll *po) {
    for (uint32_t at = po->speaking; po->mute > 0 && at < po->count; at++) {
        if (po->slots[at].is_mute) {
            nki_wsapoll_set_mute(po, at, false);
            (void)nki_wsapoll_sort(po, at, true);
        }
    }
}

/* Wine does not count those that are closed: so all are looked at, whatever it says. */
static int nki_wsapoll_wait(nki_poller *p, netkit_poll_event *events, int max,
                            uint64_t timeout_ns) {
    nki_wsapoll *po = (nki_wsapoll *)p->state;
    uint64_t deadline_ns = nki_poller_deadline(timeout_ns);
    for (;;) {
        int ms = nki_poller_left_ms(deadline_ns);
        bool is_cut = po->mute > 0 && (ms < 0 || ms > NKI_WSAPOLL_MUTE_MS);
        int ready = NKI_SYS_poll(po->fds, (ULONG)po->speaking, is_cut ? NKI_WSAPOLL_MUTE_MS : ms);
        if (ready < 0) {
            return WSAGetLastError() == WSAEINTR ? 0 : nki_os_error();
        }
        nki_wsapoll_unmute(po);
        int n = nki_wsapoll_scan(po, events, max);
        if (n > 0 || ms == 0 || nki_poller_left_ms(deadline_ns) == 0) {
            return n;
        }
    }
}

static const nki_poller_ops *nki_wsapoll_ops(void) {
    static const nki_poller_ops ops = {
        "wsapoll",
        NETKIT_BACKEND_WSAPOLL,
        false,
        nki_wsapoll_open,
        nki_wsapoll_close,
        nki_wsapoll_add,
        nki_wsapoll_modify,
        nki_wsapoll_remove,
        nki_wsapoll_wait,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_WSAPOLL */
