/* Timers of users: handles over the pure queue of src/base/timers.c. Keeps I7. */

enum {
    NKI_TIMER_SIZE_MAX = 32
};

NKI_STATIC_ASSERT(timer_size, sizeof(nki_timer) <= NKI_TIMER_SIZE_MAX);

/* A free slot does not write to what the queue still reads, see nki_timer_node. */
NKI_STATIC_ASSERT(timer_lasts, offsetof(nki_timer, node.at) >= sizeof(nki_slot));

static nki_timer *nki_timer_of_node(nki_timer_node *node) {
    return (nki_timer *)(void *)((char *)node - offsetof(nki_timer, node));
}

static nki_timer_call *nki_timer_call_of(const netkit_loop *loop, const nki_timer *t) {
    return (nki_timer_call *)nki_slots_beside(&loop->timer_slots, nki_id_slot(t->id));
}

static NKI_HOT int nki_timer_find(netkit_loop *loop, netkit_timer timer, nki_timer **out) {
    int error = nki_enter_now(loop);
    if (NKI_UNLIKELY(error != NETKIT_OK)) {
        return error;
    }
    *out = (nki_timer *)nki_slots_find(&loop->timer_slots, timer.id, NKI_KIND_TIMER);
    return NKI_LIKELY(*out != NULL) ? NETKIT_OK : NETKIT_E_STALE;
}

/* A fresh clock, not the turn's: relative to a time that is already over a timer would come
 * early. */
static uint64_t nki_timer_due(netkit_loop *loop, uint64_t delay_us) {
    const uint64_t delay_max = (uint64_t)1 << 62;
    uint64_t delay = delay_us > delay_max / NKI_NS_PER_US ? delay_max : delay_us * NKI_NS_PER_US;
    uint64_t now = loop->driver->now(loop);
    return now > NKI_NEVER - 1 - delay ? NKI_NEVER - 1 : now + delay;
}

NETKIT_API int netkit_timer_start(netkit_loop *loop, netkit_timer *out, uint64_t delay_us,
                                  uint64_t period_us, netkit_timer_fn fn, void *user) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (fn == NULL && !loop->desc.pull) {
        return NETKIT_E_INVALID;
    }
    if (loop->is_destroying) {
        return NETKIT_E_CLOSED;
    }
    void *object;
    error = nki_slots_take(&loop->timer_slots, NKI_KIND_TIMER, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_timer *t = (nki_timer *)object;
    t->node.kind = NKI_KIND_TIMER;
    t->node.is_lasting = 1; /* slots stay with the loop */
    nki_timer_call *call = nki_timer_call_of(loop, t);
    call->fn = fn;
    call->user = user;
    call->period_ns =
        period_us > (UINT64_MAX >> 2) / NKI_NS_PER_US ? UINT64_MAX >> 2 : period_us * NKI_NS_PER_US;
    error = nki_timers_start(&loop->timers, &t->node, nki_timer_due(loop, delay_us));
    if (error != NETKIT_OK) {
        nki_slots_give(&loop->timer_slots, t);
        return error;
    }
    loop->references++;
    if (out != NULL) {
        out->id = t->id;
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_timer_restart(netkit_loop *loop, netkit_timer timer, uint64_t delay_us) {
    nki_timer *t;
    int error = nki_timer_find(loop, timer, &t);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_timers_restart(&loop->timers, &t->node, nki_timer_due(loop, delay_us));
    return NETKIT_OK;
}

static void nki_timer_free(netkit_loop *loop, nki_timer *t) {
    nki_timers_stop(&loop->timers, &t->node);
    if (t->node.mark == 0) {
        loop->references--;
    }
    nki_slots_give(&loop->timer_slots, t);
}

NETKIT_API int netkit_timer_stop(netkit_loop *loop, netkit_timer timer) {
    nki_timer *t;
    int error = nki_timer_find(loop, timer, &t);
    if (error == NETKIT_OK) {
        nki_timer_free(loop, t);
    }
    return error;
}

NETKIT_API int netkit_timer_remaining(netkit_loop *loop, netkit_timer timer, uint64_t *out_us) {
    nki_timer *t;
    nki_no_answer(out_us, sizeof *out_us);
    int error = nki_timer_find(loop, timer, &t);
    if (error != NETKIT_OK || out_us == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    uint64_t now = loop->driver->now(loop);
    uint64_t left = t->node.due_ns == NKI_NEVER || t->node.due_ns <= now ? 0 : t->node.due_ns - now;
    *out_us = left / NKI_NS_PER_US + (left % NKI_NS_PER_US != 0);
    return NETKIT_OK;
}

NETKIT_API int netkit_timer_set_referenced(netkit_loop *loop, netkit_timer timer, bool referenced) {
    nki_timer *t;
    int error = nki_timer_find(loop, timer, &t);
    if (error == NETKIT_OK && referenced == (t->node.mark != 0)) {
        t->node.mark = referenced ? 0 : 1;
        loop->references = referenced ? loop->references + 1 : loop->references - 1;
    }
    return error;
}

/* After its callback: a one-shot that was not restarted is over. */
static void nki_timer_after(netkit_loop *loop, nki_timer *t) {
    if (t->node.due_ns == NKI_NEVER) {
        nki_timer_free(loop, t);
    }
}

/* The next time of a repeating timer keeps the phase and skips what was missed. */
static uint64_t nki_timer_next_due(const netkit_loop *loop, uint64_t period_ns, uint64_t was_due) {
    uint64_t missed = (loop->turn_ns - was_due) / period_ns;
    uint64_t due = was_due + (missed + 1) * period_ns;
    return due < was_due ? NKI_NEVER - 1 : due;
}

static void nki_timer_fire(netkit_loop *loop, nki_timer *t) {
    netkit_timer handle;
    handle.id = t->id;
    nki_timer_call *call = nki_timer_call_of(loop, t);
    uint64_t due = NKI_NEVER; /* keeps its place for a restart */
    if (call->period_ns != 0) {
        due = nki_timer_next_due(loop, call->period_ns, t->node.due_ns);
    }
    nki_timers_restart(&loop->timers, &t->node, due);
    if (call->fn == NULL) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_TIMER, t, call->user);
        ev->timer = handle;
        return;
    }
    uint64_t started = nki_call_begin(loop);
    call->fn(loop, handle, call->user);
    nki_call_end(loop, started);
    /* The slot may be another timer's by now. */
    t = (nki_timer *)nki_slots_find(&loop->timer_slots, handle.id, NKI_KIND_TIMER);
    if (t != NULL) {
        nki_timer_after(loop, t);
    }
}
