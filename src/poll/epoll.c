/* The epoll backend (Linux).
 *
 * The kernel's own set is the only record of what is watched, so a descriptor costs nothing here
 * and cannot be out of step. Two facts shape the rest:
 * - epoll_ctl(2): EPOLLERR and EPOLLHUP cannot be masked. A descriptor that should be silent is
 *   therefore taken out of the kernel's set and remembered as parked.
 * - The wait path is one system call and one copy for each event. The kernel writes into the
 *   caller's array, and each record is widened in place from the last to the first: the kernel's
 *   are never larger, so no record is overwritten before it was read. NETKIT_POLL_* are Linux's
 *   own bits, asserted below, so nothing is translated.
 * epoll_wait counts in milliseconds. epoll_pwait2 (Linux 5.11) takes nanoseconds; where it is
 * missing (ENOSYS), or a sandbox forbids it (EPERM), waits are rounded up instead. */

#if NKI_HAS_EPOLL

NKI_STATIC_ASSERT(epoll_in, NETKIT_POLL_READ == (int)EPOLLIN);
NKI_STATIC_ASSERT(epoll_pri, NETKIT_POLL_PRIORITY == (int)EPOLLPRI);
NKI_STATIC_ASSERT(epoll_out, NETKIT_POLL_WRITE == (int)EPOLLOUT);
NKI_STATIC_ASSERT(epoll_err, NETKIT_POLL_ERROR == (int)EPOLLERR);
NKI_STATIC_ASSERT(epoll_hup, NETKIT_POLL_HANGUP == (int)EPOLLHUP);
NKI_STATIC_ASSERT(epoll_rdhup, NETKIT_POLL_PEER_END == (int)EPOLLRDHUP);

/* The kernel's record, in our own words: it is packed on x86-64 alone, and libc's headers say so by
 * an attribute that not every compiler is shown (glibc hides it from those that are not GCC). */
#if defined(__x86_64__)
#pragma pack(push, 1)
#endif
typedef struct nki_epoll_event {
    uint32_t events;
    uint64_t data;
} nki_epoll_event;
#if defined(__x86_64__)
#pragma pack(pop)
NKI_STATIC_ASSERT(epoll_packed, sizeof(nki_epoll_event) == 12);
#endif
#if defined(__GNUC__)
NKI_STATIC_ASSERT(epoll_same, sizeof(nki_epoll_event) == sizeof(struct epoll_event));
#endif
NKI_STATIC_ASSERT(epoll_record, sizeof(nki_epoll_event) <= sizeof(netkit_poll_event));

/* The kernel's timespec of epoll_pwait2, 64 bits wide on 32-bit systems too. */
typedef struct nki_epoll_time {
    int64_t seconds;
    int64_t nanoseconds;
} nki_epoll_time;

typedef struct nki_epoll {
    int fd;
    bool has_pwait2;     /* until the kernel says otherwise */
    nki_fd_table parked; /* 1 = present but silent */
} nki_epoll;

static int nki_epoll_open(nki_poller *p) {
    nki_epoll *ep = (nki_epoll *)nki_alloc_zero(&p->allocator, sizeof(*ep));
    if (ep == NULL) {
        return NETKIT_E_NOMEM;
    }
    ep->fd = NKI_SYS_epoll_create();
    if (ep->fd < 0) {
        int rc = nki_os_error();
        nki_free(&p->allocator, ep, sizeof(*ep));
        return rc;
    }
    ep->has_pwait2 = true;
    p->state = ep;
    p->native = (uintptr_t)ep->fd;
    return NETKIT_OK;
}

static void nki_epoll_close(nki_poller *p) {
    nki_epoll *ep = (nki_epoll *)p->state;
    (void)NKI_SYS_close(ep->fd);
    nki_fd_table_free(&ep->parked, &p->allocator);
    nki_free(&p->allocator, ep, sizeof(*ep));
}

/* RDHUP always goes with READ: who reads wants to know of the end. */
static uint32_t nki_epoll_bits(uint32_t events) {
    uint32_t bits = events & NKI_POLL_SPEAKS;
    if ((events & NETKIT_POLL_READ) != 0) {
        bits |= EPOLLRDHUP;
    }
    if ((events & NETKIT_POLL_EDGE) != 0) {
        bits |= (uint32_t)EPOLLET;
    }
    if ((events & NETKIT_POLL_ONESHOT) != 0) {
        bits |= (uint32_t)EPOLLONESHOT;
    }
    return bits;
}

static int nki_epoll_ctl(nki_epoll *ep, int op, uintptr_t native, uint32_t events, uint64_t data) {
    nki_epoll_event ev;
    memset(&ev, 0, sizeof(ev));
    ev.events = nki_epoll_bits(events);
    ev.data = data;
    if (NKI_SYS_epoll_ctl(ep->fd, op, nki_os_fd(native), &ev) != 0) {
        return nki_os_error();
    }
    return NETKIT_OK;
}

static int nki_epoll_add(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_epoll *ep = (nki_epoll *)p->state;
    bool is_silent = (events & NKI_POLL_SPEAKS) == 0;
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    if (nki_fd_table_get(&ep->parked, native) != 0) {
        return NETKIT_E_EXISTS;
    }
    /* Parking adds and takes out again: only so does the kernel tell what is wrong with it. */
    int rc = is_silent ? nki_fd_table_reserve(&ep->parked, native, &p->allocator) : NETKIT_OK;
    if (rc == NETKIT_OK) {
        rc = nki_epoll_ctl(ep, EPOLL_CTL_ADD, native, events, data);
    }
    if (rc == NETKIT_OK && is_silent) {
        rc = nki_epoll_ctl(ep, EPOLL_CTL_DEL, native, 0, 0);
        ep->parked.places[native] = rc == NETKIT_OK;
    }
    return rc;
}

static int nki_epoll_modify(nki_poller *p, uintptr_t native, uint32_t events, uint64_t data) {
    nki_epoll *ep = (nki_epoll *)p->state;
    bool is_silent = (events & NKI_POLL_SPEAKS) == 0;
    bool was_silent = nki_fd_table_get(&ep->parked, native) != 0;
    int rc;
    if ((events & ~NKI_POLL_KNOWN) != 0) {
        return NETKIT_E_INVALID;
    }
    if (!is_silent) {
        rc = nki_epoll_ctl(ep, was_silent ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, native, events, data);
        if (rc == NETKIT_OK && was_silent) {
            ep->parked.places[native] = 0;
        }
        return rc;
    }
    if (was_silent) {
        return NETKIT_OK;
    }
    rc = nki_fd_table_reserve(&ep->parked, native, &p->allocator);
    if (rc == NETKIT_OK) {
        rc = nki_epoll_ctl(ep, EPOLL_CTL_DEL, native, 0, 0);
    }
    if (rc == NETKIT_OK) {
        ep->parked.places[native] = 1;
    }
    return rc;
}

static int nki_epoll_remove(nki_poller *p, uintptr_t native) {
    nki_epoll *ep = (nki_epoll *)p->state;
    if (nki_fd_table_get(&ep->parked, native) != 0) {
        ep->parked.places[native] = 0;
        return NETKIT_OK;
    }
    return nki_epoll_ctl(ep, EPOLL_CTL_DEL, native, 0, 0);
}

/* Milliseconds are exact for most waits and for all without end; the rest needs pwait2. */
static int nki_epoll_sleep(nki_epoll *ep, void *evs, int max, uint64_t timeout_ns) {
    bool is_exact = timeout_ns == NKI_NEVER || timeout_ns % NKI_NS_PER_MS == 0;
    if (!is_exact && ep->has_pwait2) {
        nki_epoll_time time;
        time.seconds = (int64_t)(timeout_ns / NKI_NS_PER_S);
        time.nanoseconds = (int64_t)(timeout_ns % NKI_NS_PER_S);
        int n = NKI_SYS_epoll_pwait2(ep->fd, evs, max, &time);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return n;
        }
        ep->has_pwait2 = false;
    }
    return NKI_SYS_epoll_wait(ep->fd, evs, max, nki_os_poll_ms(timeout_ns));
}

static int nki_epoll_wait(nki_poller *p, netkit_poll_event *events, int max, uint64_t timeout_ns) {
    nki_epoll *ep = (nki_epoll *)p->state;
    /* More than the kernel's EP_MAX_EVENTS is EINVAL to it. */
    int most = NKI_MIN(max, INT_MAX / (int)sizeof(netkit_poll_event));
    int n = nki_epoll_sleep(ep, events, most, timeout_ns);
    if (NKI_UNLIKELY(n < 0)) {
        return errno == EINTR ? 0 : nki_os_error();
    }
    const char *bytes = (const char *)(const void *)events;
    for (size_t i = (size_t)n; i-- > 0;) {
        nki_epoll_event ev;
        memcpy(&ev, bytes + i * sizeof(ev), sizeof(ev));
        events[i].data = ev.data;
        events[i].events = ev.events;
    }
    return n;
}

static const nki_poller_ops *nki_epoll_ops(void) {
    static const nki_poller_ops ops = {
        "epoll",
        NETKIT_BACKEND_EPOLL,
        true,
        nki_epoll_open,
        nki_epoll_close,
        nki_epoll_add,
        nki_epoll_modify,
        nki_epoll_remove,
        nki_epoll_wait,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
    };
    return &ops;
}

#endif /* NKI_HAS_EPOLL */
