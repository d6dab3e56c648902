/* Objects: handles, tokens, the ready list, and what keeps a loop running.
 *
 * A source is in at most one list at a time, so one link serves: `ready` for this turn, `later`
 * for the next, `graves` at its end. */

static uint32_t nki_or(uint32_t value, uint32_t fallback) {
    return value == 0 ? fallback : value;
}

/* Places for an answer are safe to read when there is none. */
static NKI_OUTLINE void nki_no_answer(void *out, size_t size) {
    if (out != NULL) {
        memset(out, 0, size);
    }
}

static void nki_no_native(uintptr_t *out) {
    if (out != NULL) {
        *out = UINTPTR_MAX;
    }
}

static netkit_conn nki_conn_handle(const nki_conn *c) {
    netkit_conn handle;
    handle.id = c->source.id;
    return handle;
}

static netkit_listener nki_listener_handle(const nki_listener *l) {
    netkit_listener handle;
    handle.id = l->source.id;
    return handle;
}

/* Gate of every call but those for any thread. */
static NKI_COLD int nki_wrong_thread(netkit_loop *loop);

static NKI_HOT int nki_enter_now(netkit_loop *loop) {
    if (NKI_UNLIKELY(loop == NULL)) {
        return NETKIT_E_INVALID;
    }
    uintptr_t owner = nki_atomic_load_relaxed(&loop->owner); /* who is wrong here may come early */
    if (NKI_UNLIKELY(owner != nki_os_thread_id() && owner != 0)) {
        return nki_wrong_thread(loop);
    }
    return NETKIT_OK;
}

static NKI_OUTLINE int nki_enter(netkit_loop *loop) {
    return nki_enter_now(loop);
}

static NKI_OUTLINE void nki_log(netkit_loop *loop, int level, int id, const char *text,
                                int os_code) {
    if (loop->desc.logger.log != NULL) {
        int before = nki_os_code();
        loop->desc.logger.log(level, id, text, os_code, loop->desc.logger.user);
        (void)nki_os_fail(before);
    }
}

static NKI_COLD int nki_wrong_thread(netkit_loop *loop) {
    if (loop->desc.debug) {
        nki_log(loop, NETKIT_LOG_ERROR, NETKIT_LOGID_WRONG_THREAD,
                "called on a thread that does not own the loop: only netkit_loop_post and "
                "netkit_loop_stop may be; post the call, or netkit_loop_adopt an idle loop",
                0);
    }
    return NETKIT_E_THREAD;
}

static NKI_OUTLINE void nki_refresh_time(netkit_loop *loop) {
    loop->turn_ns = loop->driver->now(loop);
    loop->turn_ms = (uint32_t)(loop->turn_ns / NKI_NS_PER_MS);
}

/* Whether a span of received bytes of this conn is with the user right now. */
static bool nki_is_in_data(const netkit_loop *loop, const nki_conn *c) {
    return loop->current == c && loop->span.data != NULL;
}

/* Before the loop is left: the system must know of everything that was begun. */
static void nki_commit(netkit_loop *loop) {
    if (loop->driver->commit != NULL) {
        loop->driver->commit(loop);
    }
}

/* ---- lists ---- */

static NKI_OUTLINE void nki_queue_push(nki_queue *q, nki_source *source) {
    source->next = NULL;
    if (q->last == NULL) {
        q->first = source;
    } else {
        q->last->next = source;
    }
    q->last = source;
}

static nki_source *nki_queue_pop(nki_queue *q) {
    nki_source *source = q->first;
    if (source != NULL) {
        q->first = source->next;
        if (q->first == NULL) {
            q->last = NULL;
        }
    }
    return source;
}

static void nki_queue_splice(nki_queue *to, nki_queue *from) {
    if (from->first == NULL) {
        return;
    }
    if (to->last == NULL) {
        to->first = from->first;
    } else {
        to->last->next = from->first;
    }
    to->last = from->last;
    from->first = NULL;
    from->last = NULL;
}

static void nki_conn_queue_push(nki_conn_queue *q, nki_conn *c) {
    c->next = NULL;
    if (q->last == NULL) {
        q->first = c;
    } else {
        q->last->next = c;
    }
    q->last = c;
}

static nki_conn *nki_conn_queue_pop(nki_conn_queue *q) {
    nki_conn *c = q->first;
    if (c != NULL) {
        q->first = c->next;
        if (q->first == NULL) {
            q->last = NULL;
        }
    }
    return c;
}

/* ---- the ready list ---- */

/* Serve a source in this turn (or the next, between turns). */
static NKI_OUTLINE void nki_enqueue(netkit_loop *loop, nki_source *source) {
    if ((source->flags & NKI_S_QUEUED) == 0) {
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->ready, source);
    }
}

/* Its budget of this turn is used up: serve it in the next. */
static NKI_OUTLINE void nki_enqueue_later(netkit_loop *loop, nki_source *source) {
    if ((source->flags & NKI_S_QUEUED) == 0) {
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->later, source);
    }
}

/* For drivers: these NETKIT_POLL_* were seen on the source. */
static void nki_ready(netkit_loop *loop, nki_source *source, uint32_t events) {
    source->ready = (uint16_t)(source->ready | (events & 0xFFFFu));
    nki_enqueue(loop, source);
}

/* ---- tokens ---- */

static uint64_t nki_token_of(const nki_source *source) {
    return (uint64_t)source->token << 32 | nki_id_slot(source->id);
}

/* For drivers: name a descriptor that is to be registered. Its token has the slot in the low bits
 * and a number nobody had before; 0 is no number, so without a descriptor nothing is found. */
static uint64_t nki_token_new(netkit_loop *loop, nki_source *source) {
    loop->token += loop->token == UINT32_MAX ? 2 : 1;
    source->token = loop->token;
    return nki_token_of(source);
}

/* For drivers: what a token names, or NULL for the dead. */
static NKI_HOT nki_source *nki_token_find(netkit_loop *loop, uint64_t token) {
    uint32_t slot = nki_id_slot(token);
    if (NKI_UNLIKELY(slot >= loop->sources.capacity)) {
        return NULL;
    }
    nki_source *source = (nki_source *)(void *)nki_slots_at(&loop->sources, slot);
    return source->token == (uint32_t)(token >> 32) ? source : NULL;
}

/* ---- references ---- */

static void nki_reference(netkit_loop *loop, nki_source *source) {
    NKI_UNUSED(source);
    loop->references++;
}

static void nki_unreference(netkit_loop *loop, nki_source *source) {
    if ((source->flags & NKI_S_UNREFERENCED) == 0) {
        source->flags |= NKI_S_UNREFERENCED;
        loop->references--;
    }
}

static int nki_set_referenced(netkit_loop *loop, nki_source *source, bool referenced) {
    bool is_now = (source->flags & NKI_S_UNREFERENCED) == 0;
    if (referenced && !is_now) {
        source->flags = (uint8_t)(source->flags & ~NKI_S_UNREFERENCED);
        loop->references++;
    } else if (!referenced) {
        nki_unreference(loop, source);
    }
    return NETKIT_OK;
}

/* ---- life ---- */

/* Make a source of a kind with a socket; nothing is delivered for it yet. */
static NKI_OUTLINE int nki_source_take(netkit_loop *loop, uint32_t kind, uintptr_t socket,
                                       void **out) {
    if (loop->is_destroying) {
        *out = NULL;
        return NETKIT_E_CLOSED;
    }
    int error = nki_slots_take(&loop->sources, kind, out);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_source *source = (nki_source *)*out;
    source->socket = socket;
    nki_reference(loop, source);
    return NETKIT_OK;
}

/* The slot is freed when the turn ends: a list of this turn may still lead to it. */
static NKI_OUTLINE void nki_bury(netkit_loop *loop, nki_source *source) {
    nki_unreference(loop, source);
    loop->buried++;
    source->ready = 0;
    source->token = 0;
    if ((source->flags & NKI_S_QUEUED) == 0) {
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->graves, source);
    }
    source->flags |= NKI_S_GONE;
    source->id &= ~((uint64_t)0xFF << NKI_SLOT_BITS); /* the handle is stale from here on */
}

static void nki_free_graves(netkit_loop *loop) {
    nki_source *source;
    while ((source = nki_queue_pop(&loop->graves)) != NULL) {
        loop->buried--;
        nki_slots_give(&loop->sources, source);
    }
}

/* Undo nki_source_take before anybody heard of it: no list and no event leads to the slot. */
static void nki_source_undo(netkit_loop *loop, nki_source *source) {
    nki_unreference(loop, source);
    nki_slots_give(&loop->sources, source);
}

/* ---- calling the user ---- */

/* Around every callback: no run may start inside, and debug mode looks at the time. */
static NKI_OUTLINE uint64_t nki_call_begin(netkit_loop *loop) {
    loop->in_callback++;
    loop->calls++;
    return NKI_UNLIKELY(loop->desc.debug) ? nki_os_now_ns() : 0;
}

static NKI_COLD void nki_slow_callback(netkit_loop *loop, uint64_t ns) {
    char text[128];
    snprintf(text, sizeof text,
             "a callback ran for %lu ms and everything else waited: move slow work to a thread "
             "and post the result",
             (unsigned long)(ns / NKI_NS_PER_MS));
    nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_SLOW_CALLBACK, text, 0);
}

static NKI_OUTLINE void nki_call_end(netkit_loop *loop, uint64_t started_ns) {
    loop->in_callback--;
    if (NKI_UNLIKELY(loop->desc.debug)) {
        uint64_t ns = nki_os_now_ns() - started_ns;
        if (ns > (uint64_t)loop->desc.slow_callback_ms * NKI_NS_PER_MS) {
            nki_slow_callback(loop, ns);
        }
    }
}

/* Pull: hand this event out. Returns the place to fill; the turn stops here until the next
 * call of netkit_loop_next. */
static NKI_OUTLINE netkit_event *nki_pull(netkit_loop *loop, netkit_event_type type, void *object,
                                          void *user) {
    memset(&loop->pulled, 0, sizeof loop->pulled);
    loop->pulled_object = object;
    loop->pulled.type = type;
    loop->calls++;
    loop->pulled.user = user;
    return &loop->pulled;
}
