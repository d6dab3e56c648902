/* Loops: making one, running it, its last turn; posts and stop from other threads. */

static uint32_t nki_power_of_two(uint32_t value) {
    uint32_t power = 1;
    while (power < value) {
        power <<= 1;
    }
    return power;
}

static int nki_loop_desc_init(netkit_loop_desc *out, const netkit_loop_desc *given) {
    if (given != NULL) {
        *out = *given;
    } else {
        memset(out, 0, sizeof *out);
    }
    out->objects_max = nki_or(out->objects_max, 1048576);
    out->timers_max = nki_or(out->timers_max, 4194304);
    out->events_max = nki_or(out->events_max, 256);
    out->posts_max = nki_or(out->posts_max, 4096);
    out->conn_budget = nki_or(out->conn_budget, 262144);
    out->accept_budget = nki_or(out->accept_budget, 64);
    out->post_budget = nki_or(out->post_budget, 1024);
    out->timer_budget = nki_or(out->timer_budget, 4096);
    out->keep_max = nki_or(out->keep_max, 16777216);
    out->slow_callback_ms = nki_or(out->slow_callback_ms, 50);
    netkit_timeouts *t = &out->timeouts;
    t->connect_ms = nki_or(t->connect_ms, 30000);
    t->close_ms = nki_or(t->close_ms, 5000);
    t->idle_ms = t->idle_ms == NETKIT_TIMEOUT_NONE ? 0 : t->idle_ms;
    bool is_valid = out->objects_max <= NKI_SLOT_MASK && out->timers_max <= NKI_SLOT_MASK &&
                    out->events_max <= 65536 && out->posts_max <= 16777216 &&
                    t->connect_ms <= INT32_MAX && t->idle_ms <= INT32_MAX &&
                    t->close_ms != NETKIT_TIMEOUT_NONE && netkit_backend_name(out->backend) != NULL;
    if (!is_valid) {
        return NETKIT_E_INVALID;
    }
    out->posts_max = nki_power_of_two(out->posts_max);
    return NETKIT_OK;
}

/* ---- life ---- */

/* Free whatever there is: a loop half made, or one after its last turn. */
static void nki_loop_free(netkit_loop *loop) {
    netkit_allocator allocator = loop->allocator;
    if (loop->driver != NULL) {
        loop->driver->close(loop);
    }
    nki_chunks_free(loop);
    nki_dgrams_free(loop);
    nki_free(&loop->allocator, loop->stage, NKI_FLUSH_AT);
    nki_ext_free(&loop->allocator, loop->ext, loop->desc.ext_size);
    nki_keeper_destroy(loop);
    nki_slots_free_all(&loop->sources);
    nki_slots_free_all(&loop->timer_slots);
    nki_timers_free(&loop->timers);
    if (loop->posts.cells != NULL) {
        nki_posts_free(&loop->posts);
    }
    nki_free(&allocator, loop, sizeof *loop);
}

/* io_uring, or why not: in loop->why and the error. */
static int nki_loop_open_uring(netkit_loop *loop) {
#if NKI_HAS_URING
    int error = nki_uring_driver()->open(loop);
    if (error == NETKIT_OK) {
        loop->driver = nki_uring_driver();
        loop->backend = "uring";
    }
    return error;
#else
    snprintf(loop->why, sizeof loop->why, "io_uring is not part of this build");
    return NETKIT_E_NOSYS;
#endif
}

static int nki_loop_open_readiness(netkit_loop *loop) {
    const nki_driver *driver = nki_readiness_driver();
    int error = driver->open(loop);
    if (error == NETKIT_OK) {
        loop->driver = driver;
        loop->backend = loop->poller.ops->name;
    }
    return error;
}

static int nki_loop_open(netkit_loop *loop, int asked) {
    char *why = loop->why;
    bool is_tried = asked == NETKIT_BACKEND_URING || asked == NETKIT_BACKEND_FASTEST;
    int error = is_tried ? nki_loop_open_uring(loop) : (int)NETKIT_E_NOSYS;
    if (loop->driver == NULL && asked != NETKIT_BACKEND_URING) {
        loop->desc.backend = is_tried ? (int)NETKIT_BACKEND_AUTO : asked;
        error = nki_loop_open_readiness(loop);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    if (is_tried && loop->driver == nki_readiness_driver()) {
        size_t len = strlen(why);
        snprintf(why + len, sizeof loop->why - len, ", using %s", loop->backend);
    } else if (asked == NETKIT_BACKEND_FASTEST) {
        snprintf(why, sizeof loop->why, "fastest: %s works here", loop->backend);
    } else if (asked == NETKIT_BACKEND_AUTO) {
        snprintf(why, sizeof loop->why, "auto: %s is the first that works here", loop->backend);
    } else {
        snprintf(why, sizeof loop->why, "%s was asked for", loop->backend);
    }
    return NETKIT_OK;
}

/* The backend asked for, or why not. */
static int nki_loop_choose(netkit_loop *loop) {
    int error = nki_loop_open(loop, loop->desc.backend);
    int os_code = error == NETKIT_OK ? 0 : nki_os_code();
    int level = error == NETKIT_OK ? (int)NETKIT_LOG_INFO : (int)NETKIT_LOG_ERROR;
    if (loop->why[0] != '\0') {
        nki_log(loop, level, NETKIT_LOGID_BACKEND, loop->why, os_code);
    }
    return error;
}

/* Handles of this loop start where those of another one do not. */
static int nki_loop_seed(netkit_loop *loop, uint32_t generations[2]) {
    uint64_t seed = loop->desc.seed;
    if (seed == 0) {
        int error = loop->driver->random(loop, &seed, sizeof seed);
        if (error != NETKIT_OK) {
            return error;
        }
    }
    seed = (seed ^ seed >> 31) * 0x9E3779B97F4A7C15u;
    generations[0] = (uint32_t)(seed >> 32);
    generations[1] = (uint32_t)seed;
    loop->token = (uint32_t)(seed >> 17);
    return NETKIT_OK;
}

static int nki_loop_init(netkit_loop *loop) {
    uint32_t generations[2];
    nki_timers_init(&loop->timers, &loop->allocator);
    int error = nki_loop_choose(loop);
    if (error == NETKIT_OK) {
        error = nki_loop_seed(loop, generations);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    nki_slots_init(&loop->sources, &loop->allocator, NKI_SOURCE_SIZE, loop->desc.objects_max,
                   generations[0]);
    nki_slots_init(&loop->timer_slots, &loop->allocator, sizeof(nki_timer), loop->desc.timers_max,
                   generations[1]);
    loop->timer_slots.beside_size = sizeof(nki_timer_call);
    loop->stage = (unsigned char *)nki_alloc(&loop->allocator, NKI_FLUSH_AT);
    error = nki_ext_create(&loop->allocator, loop->desc.ext_size, &loop->ext);
    if (error == NETKIT_OK) {
        error = loop->stage == NULL ? NETKIT_E_NOMEM : nki_keeper_create(loop);
    }
    if (error == NETKIT_OK) {
        error = nki_posts_init(&loop->posts, &loop->allocator, loop->desc.posts_max);
    }
    loop->process = loop->driver->process(loop);
    loop->is_plain = !loop->desc.debug && !loop->is_arming && loop->driver->read_done == NULL;
    nki_refresh_time(loop);
    return error;
}

NETKIT_API int netkit_loop_create(netkit_loop **out, const netkit_loop_desc *desc) {
    netkit_loop_desc filled;
    netkit_allocator allocator;
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    *out = NULL;
    int error = nki_loop_desc_init(&filled, desc);
    if (error == NETKIT_OK) {
        error = nki_allocator_init(&allocator, &filled.allocator);
    }
    if (error != NETKIT_OK) {
        return error;
    }
    netkit_loop *loop = (netkit_loop *)nki_alloc_zero(&allocator, sizeof *loop);
    if (loop == NULL) {
        return NETKIT_E_NOMEM;
    }
    loop->desc = filled;
    loop->allocator = allocator;
    error = nki_loop_init(loop);
    if (error != NETKIT_OK) {
        nki_loop_free(loop);
        return error;
    }
    *out = loop;
    return NETKIT_OK;
}

static NKI_COLD void nki_log_leak(netkit_loop *loop, const char *what, uint64_t id) {
    char text[160];
    snprintf(text, sizeof text,
             "a %s (handle %08lx%08lx) was still open at netkit_loop_destroy: close it first, or "
             "leave this to destroy if that is meant",
             what, (unsigned long)(id >> 32), (unsigned long)(id & UINT32_MAX));
    nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_LEAKED_HANDLE, text, 0);
}

/* Closed already, and only not told yet. */
static bool nki_source_is_ending(const nki_source *source) {
    switch (nki_id_kind(source->id)) {
    case NKI_KIND_CONN:
        return (((const nki_conn *)(const void *)source)->flags & (NKI_C_DEAD | NKI_C_CLOSING)) !=
               0;
    case NKI_KIND_LISTENER: return ((const nki_listener *)(const void *)source)->is_closing != 0;
    case NKI_KIND_UDP: return (((const nki_udp *)(const void *)source)->flags & NKI_D_CLOSING) != 0;
    default: return false;
    }
}

static void nki_abort_source(netkit_loop *loop, nki_source *source) {
    static const char *const names[] = {"free slot", "conn", "listener", "watch", "timer", "udp"};
    uint32_t kind = nki_id_kind(source->id);
    if (kind == 0) {
        return;
    }
    if (loop->desc.debug && !nki_source_is_ending(source)) {
        nki_log_leak(loop, names[kind], source->id);
    }
    if (kind == NKI_KIND_CONN) {
        nki_conn_fail(loop, (nki_conn *)(void *)source, NETKIT_OP_CLOSE, NETKIT_E_CANCELLED,
                      NKI_WHY_DESTROYED, 0, true);
    } else if (kind == NKI_KIND_LISTENER) {
        nki_listener_close(loop, (nki_listener *)(void *)source);
    } else if (kind == NKI_KIND_UDP) {
        if (!nki_source_is_ending(source)) {
            ((nki_udp *)(void *)source)->flags |= NKI_D_DESTROYED;
        }
        nki_udp_close(loop, (nki_udp *)(void *)source);
    } else {
        nki_watch_stop(loop, (nki_watch *)(void *)source);
    }
}

static void nki_abort_all(netkit_loop *loop) {
    for (uint32_t i = 0; i < loop->sources.capacity; i++) {
        nki_abort_source(loop, (nki_source *)(void *)nki_slots_at(&loop->sources, i));
    }
    for (uint32_t i = 0; i < loop->timer_slots.capacity; i++) {
        nki_timer *t = (nki_timer *)(void *)nki_slots_at(&loop->timer_slots, i);
        if (nki_id_kind(t->id) != 0) {
            if (loop->desc.debug) {
                nki_log_leak(loop, "timer", t->id);
            }
            nki_timer_free(loop, t);
        }
    }
}

/* A call that runs the loop: by its owner, and not from inside a callback. */
static int nki_enter_run(netkit_loop *loop) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (loop->in_callback != 0 || loop->is_running) {
        if (loop->desc.debug) {
            nki_log(loop, NETKIT_LOG_ERROR, NETKIT_LOGID_NESTED_RUN,
                    "the loop cannot be run, polled or destroyed from inside one of its "
                    "callbacks: return, or netkit_loop_stop and do it after the run",
                    0);
        }
        return NETKIT_E_BUSY;
    }
    if (loop->owner == 0) {
        nki_atomic_store_relaxed(&loop->owner, nki_os_thread_id()); /* others may ask just now */
    }
    return NETKIT_OK;
}

NETKIT_API int netkit_loop_destroy(netkit_loop *loop) {
    if (loop == NULL) {
        return NETKIT_OK;
    }
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_atomic_store(&loop->is_destroying, 1u);
    loop->is_inherited = loop->driver->process(loop) != loop->process;
    loop->is_running = 1;
    nki_pulled_done(loop);
    loop->desc.pull = false;
    loop->desc.post_budget = UINT32_MAX;
    nki_abort_all(loop);
    do {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, 0);
        }
        nki_turn_finish(loop);
    } while (loop->sources.count != 0 || nki_has_work(loop));
    nki_loop_free(loop);
    return NETKIT_OK;
}

/* ---- running ---- */

/* What a call that runs turns returns: that its waiting has failed, as that of the calls `before`
 * it, unless there is an event that can be fetched. */
static int nki_run_result(const netkit_loop *loop, uint32_t before, int result) {
    bool has_failed = loop->wait_failures > before && loop->wait_failures >= NKI_WAIT_FAILURES_MAX;
    return has_failed && !loop->is_pulled_fresh ? loop->wait_error : result;
}

NETKIT_API int netkit_loop_run(netkit_loop *loop) {
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK || loop->desc.pull) {
        return error != NETKIT_OK ? error : NETKIT_E_BUSY;
    }
    loop->is_running = 1;
    loop->is_run = 1;
    loop->wait_failures = 0; /* those of run_once and poll have been told */
    while (loop->references != 0 || nki_has_work(loop)) {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, NKI_NEVER);
        }
        nki_turn_finish(loop);
        if (nki_atomic_load(&loop->stop) != 0 || loop->wait_failures >= NKI_WAIT_FAILURES_MAX) {
            break;
        }
    }
    nki_flush_all(loop);
    error = nki_run_result(loop, 0, NETKIT_OK);
    loop->wait_failures = 0; /* told */
    nki_atomic_store(&loop->stop, 0u);
    loop->is_run = 0;
    loop->is_running = 0;
    return error;
}

/* Pull: bring the turn to its next event. Returns whether one can be fetched. */
static int nki_loop_prepare(netkit_loop *loop, uint64_t timeout_ns, uint64_t until_ns) {
    loop->pull_until_ns = until_ns;
    loop->pull_calls = loop->calls;
    if (loop->is_pulled_fresh) {
        return 1;
    }
    nki_pulled_done(loop);
    if (loop->phase == NKI_TURN_NONE) {
        nki_turn_begin(loop, timeout_ns);
    }
    loop->is_pulled_fresh = nki_turn_pull(loop);
    return loop->is_pulled_fresh || nki_wants_turn(loop);
}

NETKIT_API int netkit_loop_run_once(netkit_loop *loop, int timeout_ms) {
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    uint64_t timeout_ns = timeout_ms < 0 ? NKI_NEVER : (uint64_t)timeout_ms * NKI_NS_PER_MS;
    uint32_t before = loop->wait_failures;
    int has_more;
    loop->is_running = 1;
    if (loop->desc.pull) {
        has_more = nki_loop_prepare(loop, timeout_ns, NKI_NEVER);
    } else {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, timeout_ns);
        }
        nki_turn_finish(loop);
        nki_flush_all(loop);
        has_more = nki_wants_turn(loop);
    }
    nki_atomic_store(&loop->stop, 0u);
    loop->is_running = 0;
    return nki_run_result(loop, before, has_more);
}

/* Turns without waiting until the time is up. At least one callback is made if one is due, so a
 * budget of 0 still gets through everything in the end. */
static void nki_loop_poll_turns(netkit_loop *loop, uint64_t until_ns) {
    uint64_t calls = loop->calls;
    do {
        if (loop->phase == NKI_TURN_NONE) {
            nki_turn_begin(loop, 0);
        }
        while (nki_turn_step(loop)) {
            if (until_ns != NKI_NEVER && loop->calls != calls &&
                loop->driver->now(loop) >= until_ns) {
                return;
            }
        }
    } while (until_ns != NKI_NEVER && nki_wants_turn(loop) && loop->driver->now(loop) < until_ns);
}

NETKIT_API int netkit_loop_poll(netkit_loop *loop, int64_t budget_us) {
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    uint64_t until_ns = NKI_NEVER;
    if (budget_us >= 0 && budget_us < INT64_MAX / 1000) {
        until_ns = loop->driver->now(loop) + (uint64_t)budget_us * NKI_NS_PER_US;
    }
    uint32_t before = loop->wait_failures;
    int has_more;
    loop->is_running = 1;
    if (loop->desc.pull) {
        has_more = nki_loop_prepare(loop, 0, until_ns);
    } else {
        nki_loop_poll_turns(loop, until_ns);
        nki_flush_all(loop);
        has_more = nki_wants_turn(loop);
    }
    nki_atomic_store(&loop->stop, 0u);
    loop->is_running = 0;
    return nki_run_result(loop, before, has_more);
}

NETKIT_API int netkit_loop_next(netkit_loop *loop, netkit_event *out) {
    nki_no_answer(out, sizeof *out);
    int error = nki_enter_run(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (out == NULL || !loop->desc.pull) {
        return NETKIT_E_INVALID;
    }
    loop->is_running = 1;
    if (!loop->is_pulled_fresh) {
        bool is_new = loop->phase == NKI_TURN_NONE && loop->pulled.type == NETKIT_EVENT_NONE;
        if (is_new) {
            loop->pull_until_ns = NKI_NEVER;
            nki_turn_begin(loop, 0);
        }
        loop->is_pulled_fresh = nki_turn_pull(loop);
    }
    loop->is_running = 0;
    if (!loop->is_pulled_fresh) {
        return 0;
    }
    loop->is_pulled_fresh = 0;
    *out = loop->pulled;
    return 1;
}

NETKIT_API int netkit_loop_consume(netkit_loop *loop, size_t used) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (loop->pulled.type != NETKIT_EVENT_DATA || loop->is_pulled_fresh ||
        used > loop->pulled.len) {
        return NETKIT_E_INVALID;
    }
    loop->pulled_used = used;
    return NETKIT_OK;
}

NETKIT_API int netkit_loop_flush(netkit_loop *loop) {
    int error = nki_enter(loop);
    if (error == NETKIT_OK) {
        nki_flush_all(loop);
    }
    return error;
}

NETKIT_API int netkit_loop_adopt(netkit_loop *loop) {
    if (loop == NULL) {
        return NETKIT_E_INVALID;
    }
    if (loop->is_running || loop->in_callback != 0) {
        return NETKIT_E_BUSY;
    }
    int error = loop->driver->rebind == NULL ? NETKIT_OK : loop->driver->rebind(loop);
    if (error == NETKIT_OK) {
        nki_atomic_store_relaxed(&loop->owner, nki_os_thread_id());
    }
    return error;
}

/* ---- from any thread ---- */

/* One wake for many: whoever finds the flag down raises it and wakes. */
static int nki_loop_wake(netkit_loop *loop) {
    if (nki_atomic_exchange(&loop->wake_pending, 1) != 0) {
        return NETKIT_OK;
    }
    int error = loop->driver->wake(loop, true);
    if (error != NETKIT_OK) {
        (void)nki_atomic_exchange(&loop->wake_pending, 0); /* the next post tries again */
    }
    return error;
}

NETKIT_API int netkit_loop_post(netkit_loop *loop, netkit_post_fn fn, void *user) {
    if (loop == NULL || fn == NULL) {
        return NETKIT_E_INVALID;
    }
    if (nki_atomic_load(&loop->is_destroying) != 0) {
        return NETKIT_E_CLOSED;
    }
    int error = nki_posts_push(&loop->posts, fn, user);
    if (error == NETKIT_OK) {
        (void)nki_loop_wake(loop); /* one that fails leaves it to the next post */
    }
    return error;
}

NETKIT_API int netkit_loop_invoke(netkit_loop *loop, netkit_post_fn fn, void *user) {
    if (loop == NULL || fn == NULL) {
        return NETKIT_E_INVALID;
    }
    if (netkit_loop_is_owner(loop)) {
        fn(loop, NETKIT_OK, user);
        return NETKIT_OK;
    }
    return netkit_loop_post(loop, fn, user);
}

NETKIT_API int netkit_loop_stop(netkit_loop *loop) {
    if (loop == NULL) {
        return NETKIT_E_INVALID;
    }
    nki_atomic_store(&loop->stop, 1u);
    /* Not through the flag of the posts: a signal may come between its raising and the wake. */
    return loop->driver->wake(loop, false);
}

NETKIT_API bool netkit_loop_is_owner(const netkit_loop *loop) {
    return loop != NULL && nki_atomic_load_relaxed(&loop->owner) == nki_os_thread_id();
}

/* ---- looking ---- */

NETKIT_API bool netkit_loop_is_running(const netkit_loop *loop) {
    return loop != NULL && loop->is_running;
}

NETKIT_API const char *netkit_loop_backend(const netkit_loop *loop, const char **why) {
    if (why != NULL) {
        *why = loop == NULL ? "" : loop->why;
    }
    return loop == NULL ? "" : loop->backend;
}

NETKIT_API void *netkit_loop_user(const netkit_loop *loop) {
    return loop == NULL ? NULL : loop->desc.user;
}

NETKIT_API void *netkit_loop_ext(netkit_loop *loop) {
    return loop == NULL ? NULL : loop->ext;
}

NETKIT_API uint64_t netkit_loop_now(netkit_loop *loop) {
    return loop == NULL ? 0 : loop->driver->now(loop);
}

NETKIT_API uint64_t netkit_loop_turn_time(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->turn_ns;
}

NETKIT_API uint64_t netkit_loop_turns(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->turns;
}

NETKIT_API uint32_t netkit_loop_objects(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->sources.count - loop->buried + loop->timer_slots.count;
}

NETKIT_API uint32_t netkit_loop_references(const netkit_loop *loop) {
    return loop == NULL ? 0 : loop->references;
}

NETKIT_API int netkit_loop_native(netkit_loop *loop, uintptr_t *native) {
    nki_no_native(native);
    int error = nki_enter(loop);
    if (error != NETKIT_OK || native == NULL) {
        return error != NETKIT_OK ? error : NETKIT_E_INVALID;
    }
    return loop->driver->native(loop, native);
}

NETKIT_API int netkit_loop_timeout_ms(netkit_loop *loop) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (nki_has_work(loop) || loop->is_unsubmitted) {
        return 0;
    }
    uint64_t wait = nki_timer_wait(loop);
    if (wait == NKI_NEVER) {
        return -1;
    }
    uint64_t ms = wait / NKI_NS_PER_MS + (wait % NKI_NS_PER_MS != 0);
    return ms > INT_MAX ? INT_MAX : (int)ms;
}
