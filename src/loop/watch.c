/* Watches: readiness of descriptors that belong to somebody else. They are never closed here. */

static int nki_watch_find(netkit_loop *loop, netkit_watch watch, nki_watch **out) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    *out = (nki_watch *)nki_slots_find(&loop->sources, watch.id, NKI_KIND_WATCH);
    return *out == NULL ? NETKIT_E_STALE : NETKIT_OK;
}

static bool nki_watch_events_valid(uint32_t events) {
    const uint32_t known = NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_PRIORITY |
                           NETKIT_POLL_PEER_END | NETKIT_POLL_EDGE;
    return (events & ~known) == 0;
}

NETKIT_API int netkit_watch_start(netkit_loop *loop, netkit_watch *out, uintptr_t native,
                                  uint32_t events, netkit_watch_fn fn, void *user) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((fn == NULL && !loop->desc.pull) || !nki_watch_events_valid(events)) {
        return NETKIT_E_INVALID;
    }
    void *object;
    error = nki_source_take(loop, NKI_KIND_WATCH, native, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_watch *w = (nki_watch *)object;
    w->fn = fn;
    w->user = user;
    w->events = events;
    error = loop->driver->watch(loop, &w->source, events, true);
    if (error != NETKIT_OK) {
        nki_source_undo(loop, &w->source);
        return error;
    }
    if (out != NULL) {
        out->id = w->source.id;
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_watch_set(netkit_loop *loop, netkit_watch watch, uint32_t events) {
    nki_watch *w;
    int error = nki_watch_find(loop, watch, &w);
    if (error != NETKIT_OK || !nki_watch_events_valid(events)) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    error = loop->driver->watch(loop, &w->source, events, false);
    if (error == NETKIT_OK) {
        w->events = events;
        w->source.ready = (uint16_t)(w->source.ready & events);
    }
    return error;
}

static void nki_watch_stop(netkit_loop *loop, nki_watch *w) {
    loop->driver->unwatch(loop, &w->source);
    nki_bury(loop, &w->source);
}

NETKIT_API int netkit_watch_stop(netkit_loop *loop, netkit_watch watch) {
    nki_watch *w;
    int error = nki_watch_find(loop, watch, &w);
    if (error == NETKIT_OK) {
        nki_watch_stop(loop, w);
    }
    return error;
}

NETKIT_API int netkit_watch_set_referenced(netkit_loop *loop, netkit_watch watch, bool referenced) {
    nki_watch *w;
    int error = nki_watch_find(loop, watch, &w);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &w->source, referenced);
}

static void nki_watch_step(netkit_loop *loop, nki_watch *w) {
    /* What was seen before the last netkit_watch_set may not be wanted any more. */
    uint32_t mask = w->events == 0
                        ? 0u
                        : w->events | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP | NETKIT_POLL_PEER_END;
    uint32_t events = w->source.ready & mask;
    netkit_watch handle;
    handle.id = w->source.id;
    w->source.ready = 0;
    if (events == 0) {
        return;
    }
    if (w->fn == NULL) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_WATCH, w, w->user);
        ev->watch = handle;
        ev->poll_events = events;
        return;
    }
    uint64_t started = nki_call_begin(loop);
    w->fn(loop, handle, events, w->user);
    nki_call_end(loop, started);
}
