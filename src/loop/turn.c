/* One turn: wait, serve what is ready, posts, timers, flush, ends.
 *
 * A turn is a row of small steps with at most one user event each, and its place is kept in the
 * loop, so it can stop after any step, for a puller or a game's budget, and go on later. */

/* Something to do without waiting. */
static NKI_OUTLINE bool nki_has_work(const netkit_loop *loop) {
    return loop->phase != NKI_TURN_NONE || loop->ready.first != NULL || loop->later.first != NULL ||
           loop->dirty.first != NULL || loop->dead.first != NULL || loop->releases != NULL ||
           loop->udp_dirty != NULL || loop->pulled.type != NETKIT_EVENT_NONE ||
           nki_atomic_load(&loop->wake_pending) != 0 || !nki_posts_is_empty(&loop->posts);
}

/* Nanoseconds until the first timer, NKI_NEVER without one. */
static uint64_t nki_timer_wait(netkit_loop *loop) {
    const nki_timer_node *first = nki_timers_first(&loop->timers);
    if (first == NULL || first->due_ns == NKI_NEVER) {
        return NKI_NEVER;
    }
    uint64_t now = loop->driver->now(loop);
    return first->due_ns <= now ? 0 : first->due_ns - now;
}

/* Something to do now, due timers too. */
static bool nki_wants_turn(netkit_loop *loop) {
    return nki_has_work(loop) || nki_timer_wait(loop) == 0;
}

/* Look without blocking for desc.spin_us first: saves the wake-up at the price of a busy core. */
static int nki_wait_spinning(netkit_loop *loop, uint64_t timeout_ns) {
    uint64_t spin_ns = (uint64_t)loop->desc.spin_us * NKI_NS_PER_US;
    uint64_t start = loop->driver->now(loop);
    uint64_t spent = 0;
    while (spent < spin_ns && spent < timeout_ns) {
        int count = loop->driver->wait(loop, 0);
        if (count != 0) {
            return count;
        }
        spent = loop->driver->now(loop) - start;
    }
    return loop->driver->wait(loop, timeout_ns > spent ? timeout_ns - spent : 0);
}

static void nki_turn_wait(netkit_loop *loop, uint64_t timeout_ns) {
    bool is_over = loop->is_run && (loop->references == 0 || nki_atomic_load(&loop->stop) != 0);
    if (is_over || nki_has_work(loop)) {
        timeout_ns = 0;
    } else if (timeout_ns != 0) {
        uint64_t timer_ns = nki_timer_wait(loop);
        timeout_ns = NKI_MIN(timeout_ns, timer_ns);
    }
    int count = timeout_ns != 0 && loop->desc.spin_us != 0 ? nki_wait_spinning(loop, timeout_ns)
                                                           : loop->driver->wait(loop, timeout_ns);
    loop->wait_failures = count < 0 ? loop->wait_failures + 1 : 0;
    if (count < 0) {
        loop->wait_error = count;
        nki_log(loop, NETKIT_LOG_ERROR, NETKIT_LOGID_OS_ERROR, "waiting for events failed",
                loop->driver->os_code());
    }
    nki_refresh_time(loop);
}

static NKI_OUTLINE void nki_turn_begin(netkit_loop *loop, uint64_t timeout_ns) {
    if (loop->desc.before_turn != NULL) {
        uint64_t started = nki_call_begin(loop);
        loop->desc.before_turn(loop, loop->desc.user);
        nki_call_end(loop, started);
    }
    nki_flush_dirty(loop); /* what was queued between turns must not wait for the wait */
    nki_queue_splice(&loop->ready, &loop->later);
    nki_keeper_reap(loop);
    nki_turn_wait(loop, timeout_ns);
    loop->turns++;
    loop->timers_fired = 0;
    loop->posts_run = 0;
    loop->phase = NKI_TURN_READY;
}

static void nki_turn_end(netkit_loop *loop) {
    nki_flush_dirty(loop);
    nki_free_graves(loop);
    loop->reserved = NULL; /* of a callback that has not used it */
    loop->phase = NKI_TURN_NONE;
    if (loop->desc.pull) {
        nki_flush_all(loop);
    }
    if (loop->desc.after_turn != NULL) {
        uint64_t started = nki_call_begin(loop);
        loop->desc.after_turn(loop, loop->desc.user);
        nki_call_end(loop, started);
    }
}

static void nki_step_other(netkit_loop *loop, nki_source *source) {
    switch (nki_id_kind(source->id)) {
    case NKI_KIND_LISTENER: nki_listener_step(loop, (nki_listener *)(void *)source); break;
    case NKI_KIND_WATCH: nki_watch_step(loop, (nki_watch *)(void *)source); break;
    case NKI_KIND_UDP: nki_udp_step(loop, (nki_udp *)(void *)source); break;
    default: /* buried while it was in this list: now its slot can go */
        source->flags |= NKI_S_QUEUED;
        nki_queue_push(&loop->graves, source);
        break;
    }
}

/* Serve one ready source. */
static NKI_HOT bool nki_step_ready(netkit_loop *loop) {
    if (NKI_UNLIKELY(loop->udp_batch != NULL)) {
        nki_udp_deliver(loop); /* first: its memory is there once */
        return true;
    }
    nki_source *source = loop->driver->next(loop);
    if (source == NULL) {
        source = nki_queue_pop(&loop->ready);
        if (source == NULL) {
            return false;
        }
        source->flags = (uint8_t)(source->flags & ~NKI_S_QUEUED);
    }
    if (NKI_LIKELY(nki_id_kind(source->id) == NKI_KIND_CONN)) {
        nki_conn_step(loop, (nki_conn *)(void *)source);
    } else {
        nki_step_other(loop, source);
    }
    return true;
}

/* Run one post. The wake flag is cleared before the queue is looked at: a post that comes later
 * wakes anew, one that came before is seen. */
static bool nki_step_post(netkit_loop *loop) {
    netkit_post_fn fn;
    void *user;
    if (loop->posts_run == 0 && nki_atomic_load(&loop->wake_pending) != 0) {
        (void)nki_atomic_exchange(&loop->wake_pending, 0);
    }
    if (loop->posts_run >= loop->desc.post_budget || !nki_posts_pop(&loop->posts, &fn, &user)) {
        return false;
    }
    loop->posts_run++;
    uint64_t started = nki_call_begin(loop);
    fn(loop, loop->is_destroying ? NETKIT_E_CANCELLED : NETKIT_OK, user);
    nki_call_end(loop, started);
    return true;
}

/* Fire one timer. Those started in this phase have later order numbers and wait for the next
 * turn, else a timer of 0 us that starts itself again would keep the loop from its sockets. */
static bool nki_step_timer(netkit_loop *loop) {
    nki_timer_node *node = nki_timers_first(&loop->timers);
    if (node == NULL || node->due_ns > loop->turn_ns || node->order >= loop->timer_order ||
        loop->timers_fired >= loop->desc.timer_budget) {
        return false;
    }
    loop->timers_fired++;
    if (node->kind == NKI_KIND_TIMER) {
        nki_timer_fire(loop, nki_timer_of_node(node));
    } else if (node->kind == NKI_KIND_CONN) {
        nki_cold *cold = (nki_cold *)(void *)((char *)node - offsetof(nki_cold, timer));
        nki_timers_stop(&loop->timers, node);
        nki_conn_timer_fired(loop, cold->conn);
    } else if (node->kind == NKI_KIND_UDP) {
        nki_timers_restart(&loop->timers, node, NKI_NEVER);
        nki_udp_timer_fired(loop, nki_udp_of_node(node));
    } else {
        nki_listener *l = (nki_listener *)(void *)((char *)node - offsetof(nki_listener, timer));
        nki_timers_restart(&loop->timers, node, NKI_NEVER);
        nki_listener_timer_fired(loop, l);
    }
    return true;
}

static bool nki_step_close(netkit_loop *loop) {
    if (nki_release_next(loop)) {
        return true;
    }
    if (loop->dead.first == NULL) {
        return false;
    }
    nki_conn_bury_step(loop, loop->dead.first);
    return true;
}

/* The next piece of the turn. Returns false when the turn is over. */
static NKI_OUTLINE bool nki_turn_step(netkit_loop *loop) {
    switch ((nki_turn_phase)loop->phase) {
    case NKI_TURN_READY:
        if (!nki_step_ready(loop)) {
            loop->phase = NKI_TURN_POSTS;
        }
        return true;
    case NKI_TURN_POSTS:
        if (!nki_step_post(loop)) {
            loop->timer_order = loop->timers.order;
            loop->phase = NKI_TURN_TIMERS;
        }
        return true;
    case NKI_TURN_TIMERS:
        if (!nki_step_timer(loop)) {
            nki_flush_dirty(loop);
            loop->phase = NKI_TURN_CLOSES;
        }
        return true;
    case NKI_TURN_CLOSES:
        if (!nki_step_close(loop)) {
            nki_turn_end(loop);
        }
        return true;
    case NKI_TURN_NONE: break;
    }
    return false;
}

/* All that is left of the turn, where nothing can stop it on the way. */
static void nki_turn_finish(netkit_loop *loop) {
    if (loop->phase == NKI_TURN_READY) {
        while (nki_step_ready(loop)) {
        }
    }
    while (nki_turn_step(loop)) {
    }
}

/* ---- pulling ---- */

/* The puller is done with the event that was out: what follows a callback's return. */
static NKI_OUTLINE void nki_pulled_done(netkit_loop *loop) {
    netkit_event_type type = loop->pulled.type;
    void *object = loop->pulled_object;
    loop->pulled.type = NETKIT_EVENT_NONE;
    switch (type) {
    case NETKIT_EVENT_DATA: nki_conn_after_data(loop, (nki_conn *)object, loop->pulled_used); break;
    case NETKIT_EVENT_OPEN:
    case NETKIT_EVENT_DRAIN:
    case NETKIT_EVENT_EOF: nki_conn_after(loop, (nki_conn *)object); break;
    case NETKIT_EVENT_CLOSE: nki_conn_dispose(loop, (nki_conn *)object); break;
    case NETKIT_EVENT_LISTENER_CLOSE: nki_listener_dispose(loop, (nki_listener *)object); break;
    case NETKIT_EVENT_TIMER:
        if (nki_slots_find(&loop->timer_slots, loop->pulled.timer.id, NKI_KIND_TIMER) != NULL) {
            nki_timer_after(loop, (nki_timer *)object);
        }
        break;
    case NETKIT_EVENT_DATAGRAM: break; /* the batch goes on by itself */
    case NETKIT_EVENT_UDP_DRAIN:
    case NETKIT_EVENT_UDP_ERROR: nki_udp_after(loop, (nki_udp *)object); break;
    case NETKIT_EVENT_UDP_CLOSE: nki_udp_dispose(loop, (nki_udp *)object); break;
    case NETKIT_EVENT_LISTENER_ERROR:
    case NETKIT_EVENT_WATCH:
    case NETKIT_EVENT_NONE: break;
    }
}

/* Steps until one hands an event out, the turn ends, or the time is up. Returns whether an event
 * is out. */
static bool nki_turn_pull(netkit_loop *loop) {
    nki_pulled_done(loop);
    while (loop->pulled.type == NETKIT_EVENT_NONE) {
        if (loop->pull_until_ns != NKI_NEVER && loop->calls != loop->pull_calls &&
            loop->driver->now(loop) >= loop->pull_until_ns) {
            nki_flush_all(loop); /* the turn's end, which does so, may be frames away */
            return false;
        }
        if (!nki_turn_step(loop)) {
            return false;
        }
    }
    return true;
}
