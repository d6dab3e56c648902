/* The choice of a backend, and netkit_poller: the pollers for programs with a loop of their own.
 *
 * A netkit_poller adds one thing to its backend, a wake that any thread or signal handler may
 * send. It comes as an event like the user's, and must be told from them although their data may
 * be any 64-bit number: it carries a random number drawn from the kernel, unknown outside, and
 * should a user's data ever be equal to it, another is drawn.
 * Wakes are coalesced: `is_woken` is set by the first and cleared by the wait that swallows it.
 * That wait first takes the wake in and only then clears the flag: the other way round, a
 * wake in between would be emptied away with the flag left set, and every later one be lost. */

static const nki_poller_ops *nki_poller_find(int backend) {
#if NKI_HAS_EPOLL
    if (backend == NETKIT_BACKEND_EPOLL) {
        return nki_epoll_ops();
    }
#endif
#if NKI_HAS_KQUEUE
    if (backend == NETKIT_BACKEND_KQUEUE) {
        return nki_kqueue_ops();
    }
#endif
#if NKI_HAS_POLL
    if (backend == NETKIT_BACKEND_POLL) {
        return nki_poll_ops();
    }
#endif
#if NKI_HAS_AFD
    if (backend == NETKIT_BACKEND_AFD) {
        return nki_afd_ops();
    }
#endif
#if NKI_HAS_WSAPOLL
    if (backend == NETKIT_BACKEND_WSAPOLL) {
        return nki_wsapoll_ops();
    }
#endif
    return NULL;
}

static int nki_poller_open_as(nki_poller *p, int backend) {
    p->ops = nki_poller_find(backend);
    return p->ops == NULL ? (int)NETKIT_E_NOSYS : p->ops->open(p);
}

static int nki_poller_open(nki_poller *p, int backend, const netkit_allocator *allocator) {
    static const int automatic[] = {NETKIT_BACKEND_EPOLL, NETKIT_BACKEND_KQUEUE, NETKIT_BACKEND_AFD,
                                    NETKIT_BACKEND_POLL, NETKIT_BACKEND_WSAPOLL};
    memset(p, 0, sizeof(*p));
    p->allocator = *allocator;
    p->native = UINTPTR_MAX;
    if (netkit_backend_name(backend) == NULL) {
        return NETKIT_E_INVALID;
    }
    if (backend != NETKIT_BACKEND_AUTO && backend != NETKIT_BACKEND_FASTEST) {
        return nki_poller_open_as(p, backend);
    }
    int rc = NETKIT_E_NOSYS;
    for (size_t i = 0; i < NKI_COUNT(automatic) && rc != NETKIT_OK; i++) {
        /* What is not in this build says nothing about why the others failed. */
        int one = nki_poller_open_as(p, automatic[i]);
        rc = one == NETKIT_OK || p->ops != NULL ? one : rc;
    }
    return rc;
}

static void nki_poller_close(nki_poller *p) {
    if (p->ops != NULL && p->state != NULL) {
        p->ops->close(p);
    }
    p->ops = NULL;
    p->state = NULL;
    p->native = UINTPTR_MAX;
}

static int nki_poller_wake_open(nki_poller *p, nki_wake *wake, uint64_t data) {
    if (p->ops->wake_set != NULL) {
        wake->reader = wake->writer = UINTPTR_MAX;
        return p->ops->wake_set(p, data);
    }
    int rc = nki_os_wake_open(wake);
    if (rc == NETKIT_OK) {
        rc = p->ops->add(p, wake->reader, NETKIT_POLL_READ, data);
        if (rc != NETKIT_OK) {
            nki_os_wake_close(wake);
        }
    }
    return rc;
}

static int nki_poller_wake_move(nki_poller *p, const nki_wake *wake, uint64_t data) {
    if (p->ops->wake_set != NULL) {
        return p->ops->wake_set(p, data);
    }
    return p->ops->modify(p, wake->reader, NETKIT_POLL_READ, data);
}

/* A loop without a poller has a descriptor. */
static int nki_poller_wake_signal(const nki_poller *p, const nki_wake *wake) {
    return p->ops != NULL && p->ops->wake != NULL ? p->ops->wake(p) : nki_os_wake_signal(wake);
}

static void nki_poller_wake_drain(const nki_poller *p, const nki_wake *wake) {
    if (p->ops->wake == NULL) {
        nki_os_wake_drain(wake);
    }
}

static const char *const *nki_backend_names(void) {
    static const char *const names[NETKIT_BACKEND_SIM + 1] = {
        "auto", "fastest", "epoll", "uring", "poll", "kqueue", "afd", "wsapoll", "sim",
    };
    return names;
}

NETKIT_API const char *netkit_backend_name(int backend) {
    bool is_one = backend >= 0 && backend <= (int)NETKIT_BACKEND_SIM;
    return is_one ? nki_backend_names()[backend] : NULL;
}

NETKIT_API int netkit_backend_from_name(const char *name) {
    for (int i = 0; name != NULL && i <= (int)NETKIT_BACKEND_SIM; i++) {
        if (strcmp(nki_backend_names()[i], name) == 0) {
            return i;
        }
    }
    return NETKIT_E_NOTFOUND;
}

struct netkit_poller {
    nki_poller base;
    nki_wake wake;
    uint64_t wake_data;
    uint32_t is_woken; /* atomic */
};

/* Everything that can fail, in order; on failure the poller holds nothing but itself. */
static int nki_poller_setup(netkit_poller *poller, int backend, const netkit_allocator *allocator) {
    int rc = nki_os_random(&poller->wake_data, sizeof(poller->wake_data));
    if (rc == NETKIT_OK) {
        rc = nki_os_begin();
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_poller_open(&poller->base, backend, allocator);
    if (rc == NETKIT_OK) {
        rc = nki_poller_wake_open(&poller->base, &poller->wake, poller->wake_data);
        if (rc != NETKIT_OK) {
            nki_poller_close(&poller->base);
        }
    }
    if (rc != NETKIT_OK) {
        nki_os_end();
    }
    return rc;
}

NETKIT_API int netkit_poller_create(netkit_poller **out, const netkit_poller_desc *desc) {
    netkit_poller_desc defaults;
    netkit_allocator allocator;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    *out = NULL;
    memset(&defaults, 0, sizeof(defaults));
    desc = desc != NULL ? desc : &defaults;
    int rc = nki_allocator_init(&allocator, &desc->allocator);
    if (rc != NETKIT_OK) {
        return rc;
    }
    netkit_poller *poller = (netkit_poller *)nki_alloc_zero(&allocator, sizeof(*poller));
    if (poller == NULL) {
        return NETKIT_E_NOMEM;
    }
    rc = nki_poller_setup(poller, desc->backend, &allocator);
    if (rc != NETKIT_OK) {
        nki_free(&allocator, poller, sizeof(*poller));
        return rc;
    }
    *out = poller;
    return NETKIT_OK;
}

NETKIT_API void netkit_poller_destroy(netkit_poller *poller) {
    if (poller != NULL) {
        netkit_allocator allocator = poller->base.allocator;
        nki_poller_close(&poller->base);
        nki_os_wake_close(&poller->wake);
        nki_os_end();
        nki_free(&allocator, poller, sizeof(*poller));
    }
}

/* Give way to a user whose data is the wake's. */
static int nki_poller_yield_data(netkit_poller *poller, uint64_t data) {
    uint64_t other = data;
    while (other == data) {
        int rc = nki_os_random(&other, sizeof(other));
        if (rc != NETKIT_OK) {
            return rc;
        }
    }
    int rc = nki_poller_wake_move(&poller->base, &poller->wake, other);
    if (rc == NETKIT_OK) {
        poller->wake_data = other;
    }
    return rc;
}

static int nki_poller_check(netkit_poller *poller, uintptr_t native) {
    /* The wake's own descriptor is not the user's to touch. */
    return poller == NULL || native == poller->wake.reader ? NETKIT_E_INVALID : NETKIT_OK;
}

NETKIT_API int netkit_poller_add(netkit_poller *poller, uintptr_t native, uint32_t events,
                                 uint64_t data) {
    int rc = nki_poller_check(poller, native);
    if (rc == NETKIT_OK && data == poller->wake_data) {
        rc = nki_poller_yield_data(poller, data);
    }
    return rc == NETKIT_OK ? poller->base.ops->add(&poller->base, native, events, data) : rc;
}

NETKIT_API int netkit_poller_modify(netkit_poller *poller, uintptr_t native, uint32_t events,
                                    uint64_t data) {
    int rc = nki_poller_check(poller, native);
    if (rc == NETKIT_OK && data == poller->wake_data) {
        rc = nki_poller_yield_data(poller, data);
    }
    return rc == NETKIT_OK ? poller->base.ops->modify(&poller->base, native, events, data) : rc;
}

NETKIT_API int netkit_poller_remove(netkit_poller *poller, uintptr_t native) {
    int rc = nki_poller_check(poller, native);
    return rc == NETKIT_OK ? poller->base.ops->remove(&poller->base, native) : rc;
}

/* Take the wake out of what a wait returned. */
static int nki_poller_swallow(netkit_poller *poller, netkit_poll_event *events, int n) {
    for (int i = 0; i < n; i++) {
        if (events[i].data == poller->wake_data) {
            nki_poller_wake_drain(&poller->base, &poller->wake);
            (void)nki_atomic_exchange(&poller->is_woken, 0);
            memmove(&events[i], &events[i + 1], (size_t)(n - i - 1) * sizeof(events[0]));
            return n - 1;
        }
    }
    return n;
}

NETKIT_API int netkit_poller_wait(netkit_poller *poller, netkit_poll_event *events, int max,
                                  int64_t timeout_us) {
    uint64_t timeout_ns = NKI_NEVER;
    if (poller == NULL || events == NULL || max < 1) {
        return NETKIT_E_INVALID;
    }
    if (timeout_us >= 0 && (uint64_t)timeout_us < NKI_NEVER / NKI_NS_PER_US) {
        timeout_ns = (uint64_t)timeout_us * NKI_NS_PER_US;
    }
    int n = poller->base.ops->wait(&poller->base, events, max, timeout_ns);
    return n > 0 ? nki_poller_swallow(poller, events, n) : n;
}

NETKIT_API int netkit_poller_wake(netkit_poller *poller) {
    if (poller == NULL) {
        return NETKIT_E_INVALID;
    }
    if (nki_atomic_exchange(&poller->is_woken, 1) != 0) {
        return NETKIT_OK;
    }
    int rc = nki_poller_wake_signal(&poller->base, &poller->wake);
    if (rc != NETKIT_OK) {
        (void)nki_atomic_exchange(&poller->is_woken, 0);
    }
    return rc;
}

NETKIT_API const char *netkit_poller_backend(const netkit_poller *poller) {
    return poller != NULL ? poller->base.ops->name : NULL;
}
