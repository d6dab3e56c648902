/* Listeners: accept until nothing waits, within a budget, and never stop or spin (I8).
 *
 * accept(2) reports errors of the connection that waited: those are passed over. When the
 * process or machine is short (EMFILE, ENFILE, ENOBUFS, ENOMEM) the backlog stays readable, so
 * trying again at once would spin: the listener pauses for 10 ms, doubling to a second, and
 * reports once. At conns_max it rests until a conn ends. */

static void nki_listener_arm(netkit_loop *loop, nki_listener *l) {
    if (loop->driver->arm != NULL && !l->is_closing) {
        bool is_waiting = l->is_deferred || l->is_full;
        loop->driver->arm(loop, &l->source, is_waiting ? 0 : NETKIT_POLL_READ);
    }
}

static void nki_listener_room(netkit_loop *loop, uint64_t listener) {
    nki_listener *l = (nki_listener *)nki_slots_find(&loop->sources, listener, NKI_KIND_LISTENER);
    if (l != NULL && l->is_full) {
        l->is_full = 0;
        nki_enqueue(loop, &l->source);
        nki_listener_arm(loop, l);
    }
}

static void nki_listener_report(netkit_loop *loop, nki_listener *l, int code, int os_code) {
    nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_ACCEPT, netkit_error_text(code), os_code);
    if (l->on_error != NULL) {
        uint64_t started = nki_call_begin(loop);
        l->on_error(loop, nki_listener_handle(l), code, os_code, l->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_LISTENER_ERROR, l, l->user);
        ev->listener = nki_listener_handle(l);
        ev->close.code = code;
        ev->close.os_code = os_code;
        ev->close.op = NETKIT_OP_ACCEPT;
        ev->close.text = netkit_error_text(code);
    }
}

/* Short of something: pause, and report the first time of a burst. */
static void nki_listener_defer(netkit_loop *loop, nki_listener *l, int code, int os_code) {
    bool is_first = l->defer_ms == 0;
    l->defer_ms = is_first ? (uint32_t)NKI_DEFER_MS_MIN
                           : NKI_MIN(l->defer_ms * 2, (uint32_t)NKI_DEFER_MS_MAX);
    uint64_t due = nki_after_ms(loop, l->defer_ms);
    /* Its place in the timers was reserved when the listener was made. */
    l->is_deferred = 1;
    nki_timers_restart(&loop->timers, &l->timer, due);
    nki_listener_arm(loop, l);
    if (is_first) {
        nki_listener_report(loop, l, code, os_code);
    }
}

static void nki_listener_timer_fired(netkit_loop *loop, nki_listener *l) {
    l->is_deferred = 0;
    nki_enqueue(loop, &l->source);
    nki_listener_arm(loop, l);
}

/* Whether the user's on_accept takes this one. */
static bool nki_listener_wants(netkit_loop *loop, nki_listener *l, const netkit_addr *peer) {
    if (l->on_accept == NULL) {
        return true;
    }
    uint64_t started = nki_call_begin(loop);
    int refused = l->on_accept(loop, nki_listener_handle(l), peer, l->user);
    nki_call_end(loop, started);
    return refused == 0;
}

/* Make a conn of an accepted socket. On failure the socket is closed. */
static int nki_listener_admit(netkit_loop *loop, nki_listener *l, uintptr_t socket, int *os_code) {
    nki_conn *c;
    *os_code = 0;
    int error = nki_conn_create(loop, l->behaviour, l->user, socket, &c);
    if (error == NETKIT_OK) {
        if (l->is_tcp) {
            c->flags |= NKI_C_TCP;
        }
        error = nki_conn_set_options(loop, c, true);
        if (error == NETKIT_OK) {
            error = nki_conn_start_timeouts(loop, c, 0);
        }
        if (error == NETKIT_OK) {
            error = loop->driver->attach(loop, &c->source);
        }
        if (error == NETKIT_OK) {
            c->flags |= NKI_C_OPEN_DUE | NKI_C_UNTOLD;
            nki_enqueue(loop, &c->source);
            return NETKIT_OK;
        }
        *os_code = loop->driver->os_code();
        nki_conn_undo(loop, c);
    }
    loop->driver->discard(loop, socket, true);
    return error;
}

static void nki_listener_accepted(netkit_loop *loop, nki_listener *l, uintptr_t socket,
                                  const netkit_addr *peer) {
    l->accepted++;
    bool is_wanted = nki_listener_wants(loop, l, peer);
    if (!is_wanted || l->is_closing || loop->is_destroying) {
        loop->driver->discard(loop, socket, true);
        l->defer_ms = 0;
        return;
    }
    int os_code;
    int error = nki_listener_admit(loop, l, socket, &os_code);
    if (error != NETKIT_OK) {
        nki_listener_defer(loop, l, error, os_code);
    } else {
        l->defer_ms = 0;
    }
}

/* Accept one. */
static void nki_listener_accept(netkit_loop *loop, nki_listener *l) {
    netkit_addr peer;
    uintptr_t socket;
    int error = loop->driver->accept(loop, l, &socket, l->on_accept == NULL ? NULL : &peer);
    if (error == NETKIT_OK) {
        nki_listener_accepted(loop, l, socket, &peer);
    } else if (error == NETKIT_E_ABORTED) {
        l->accepted++; /* counts against the budget: an endless row of these must not hold us */
    } else if (error != NETKIT_E_AGAIN) {
        nki_listener_defer(loop, l, error, loop->driver->os_code());
    }
}

static void nki_listener_closed(netkit_loop *loop, nki_listener *l);

/* One step of a ready listener: at most one connection. */
static void nki_listener_step(netkit_loop *loop, nki_listener *l) {
    if (l->is_closing) {
        if ((l->source.flags & NKI_S_GONE) != 0) {
            nki_listener_closed(loop, l);
        }
        return;
    }
    if ((l->source.ready & NKI_READABLE) == 0 || l->is_deferred) {
        return;
    }
    if (l->conns_max != 0 && l->behaviour->conns >= l->conns_max) {
        l->is_full = 1;
        nki_listener_arm(loop, l);
        return;
    }
    if (loop->sources.count >= loop->sources.count_max) {
        nki_listener_defer(loop, l, NETKIT_E_FULL, 0); /* they wait in the backlog */
        return;
    }
    if (l->accepted >= loop->desc.accept_budget) {
        l->accepted = 0;
        nki_enqueue_later(loop, &l->source);
        return;
    }
    nki_listener_accept(loop, l);
    if ((l->source.ready & NKI_READABLE) != 0 && !l->is_deferred) {
        nki_enqueue(loop, &l->source);
    } else {
        l->accepted = 0;
    }
}

/* ---- the end ---- */

static void nki_listener_dispose(netkit_loop *loop, nki_listener *l) {
    nki_timers_stop(&loop->timers, &l->timer);
    l->behaviour->listener = 0;
    nki_behaviour_drop(loop, l->behaviour);
    nki_bury(loop, &l->source);
}

static void nki_listener_closed(netkit_loop *loop, nki_listener *l) {
    if (l->on_close != NULL) {
        uint64_t started = nki_call_begin(loop);
        l->on_close(loop, nki_listener_handle(l), l->user);
        nki_call_end(loop, started);
    } else if (loop->desc.pull) {
        netkit_event *ev = nki_pull(loop, NETKIT_EVENT_LISTENER_CLOSE, l, l->user);
        ev->listener = nki_listener_handle(l);
        return; /* disposed of when the next event is fetched */
    }
    nki_listener_dispose(loop, l);
}

static int nki_listener_find(netkit_loop *loop, netkit_listener listener, nki_listener **out) {
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    *out = (nki_listener *)nki_slots_find(&loop->sources, listener.id, NKI_KIND_LISTENER);
    return *out == NULL ? NETKIT_E_STALE : NETKIT_OK;
}

/* Remove the file, while the socket is still bound to it: nobody can have its inode. */
static void nki_listener_unlink(netkit_loop *loop, nki_listener_file *f) {
    if (f == NULL) {
        return;
    }
    int error = NETKIT_OK;
    if (f->process == loop->driver->process(loop)) {
        error = loop->driver->unlink(loop, &f->file);
    }
    if (error != NETKIT_OK && error != NETKIT_E_NOTFOUND && error != NETKIT_E_STALE) {
        nki_log(loop, NETKIT_LOG_WARN, NETKIT_LOGID_OS_ERROR,
                "the file of a unix listener could not be removed", loop->driver->os_code());
    }
    nki_free(&loop->allocator, f, sizeof *f);
}

static void nki_listener_close(netkit_loop *loop, nki_listener *l) {
    if (!l->is_closing) {
        l->is_closing = 1;
        nki_timers_stop(&loop->timers, &l->timer);
        nki_listener_unlink(loop, l->file);
        l->file = NULL;
        loop->driver->shut(loop, &l->source, false);
    }
}

NETKIT_API int netkit_listener_close(netkit_loop *loop, netkit_listener listener) {
    nki_listener *l;
    int error = nki_listener_find(loop, listener, &l);
    if (error == NETKIT_OK) {
        nki_listener_close(loop, l);
    }
    return error;
}

NETKIT_API int netkit_listener_local(netkit_loop *loop, netkit_listener listener,
                                     netkit_addr *out) {
    nki_listener *l;
    nki_no_answer(out, sizeof *out);
    int error = nki_listener_find(loop, listener, &l);
    if (error != NETKIT_OK) {
        return error;
    }
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    return l->is_closing ? NETKIT_E_CLOSED : loop->driver->local(loop, l->source.socket, out);
}

/* A listener whose descriptor is still there. */
static int nki_listener_find_socket(netkit_loop *loop, netkit_listener listener, const void *out,
                                    nki_listener **found) {
    int error = nki_listener_find(loop, listener, found);
    if (error != NETKIT_OK) {
        return error;
    }
    if ((*found)->is_closing) {
        return NETKIT_E_CLOSED;
    }
    return out == NULL ? NETKIT_E_INVALID : NETKIT_OK;
}

NETKIT_API int netkit_listener_set_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int value) {
    nki_listener *l;
    int error = nki_listener_find_socket(loop, listener, &value, &l);
    if (error == NETKIT_OK && option == NETKIT_OPT_BLOCKING) {
        return NETKIT_E_INVALID;
    }
    return error != NETKIT_OK ? error
                              : loop->driver->set_option(loop, l->source.socket, option, value);
}

NETKIT_API int netkit_listener_get_option(netkit_loop *loop, netkit_listener listener,
                                          netkit_option option, int *value) {
    nki_listener *l;
    nki_no_answer(value, sizeof *value);
    int error = nki_listener_find_socket(loop, listener, value, &l);
    return error != NETKIT_OK ? error
                              : loop->driver->get_option(loop, l->source.socket, option, value);
}

NETKIT_API int netkit_listener_set_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, const char *value) {
    nki_listener *l;
    int error = nki_listener_find_socket(loop, listener, value, &l);
    return error != NETKIT_OK ? error
                              : loop->driver->set_text(loop, l->source.socket, option, value);
}

NETKIT_API int netkit_listener_get_option_text(netkit_loop *loop, netkit_listener listener,
                                               netkit_option option, char *text, size_t size) {
    nki_listener *l;
    if (text != NULL && size != 0) {
        text[0] = 0;
    }
    int error = nki_listener_find_socket(loop, listener, size == 0 ? NULL : text, &l);
    return error != NETKIT_OK ? error
                              : loop->driver->get_text(loop, l->source.socket, option, text, size);
}

NETKIT_API int netkit_listener_set_referenced(netkit_loop *loop, netkit_listener listener,
                                              bool referenced) {
    nki_listener *l;
    int error = nki_listener_find(loop, listener, &l);
    return error != NETKIT_OK ? error : nki_set_referenced(loop, &l->source, referenced);
}

/* ---- the beginning ---- */

/* The address a desc names, by text or by value. */
static int nki_desc_addr(const char *text, const netkit_addr *addr, netkit_addr *out) {
    if ((text == NULL) == (addr == NULL)) {
        return NETKIT_E_INVALID;
    }
    if (text != NULL) {
        return netkit_addr_parse(out, text, NULL);
    }
    *out = *addr;
    return NETKIT_OK;
}

/* A listening socket as the desc says, or the one it brings. */
static int nki_listener_socket(netkit_loop *loop, const netkit_listen_desc *desc,
                               const nki_behaviour *b, uintptr_t *socket, netkit_unix_file *file) {
    memset(file, 0, sizeof *file);
    if (desc->socket.value != 0) {
        *socket = netkit_socket_native(desc->socket);
        bool is_alone = desc->address == NULL && desc->addr == NULL;
        return is_alone ? loop->driver->set_option(loop, *socket, NETKIT_OPT_BLOCKING, 0)
                        : NETKIT_E_INVALID;
    }
    netkit_addr addr;
    int error = nki_desc_addr(desc->address, desc->addr, &addr);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_listen_how how;
    how.addr = &addr;
    how.backlog = desc->backlog;
    how.flags = (desc->reuse_port ? NETKIT_SOCKET_REUSE_PORT : 0) |
                (desc->v6only ? NETKIT_SOCKET_V6ONLY : 0) |
                (desc->exclusive ? NETKIT_SOCKET_NO_REUSE : 0) |
                (desc->unix_replace ? NETKIT_SOCKET_REPLACE : 0);
    how.mode = desc->unix_mode;
    how.options = &b->options;
    return loop->driver->listen(loop, &how, socket, file);
}

static bool nki_is_tcp(netkit_loop *loop, uintptr_t socket) {
    netkit_addr addr;
    return loop->driver->local(loop, socket, &addr) == NETKIT_OK &&
           (addr.family == NETKIT_AF_IPV4 || addr.family == NETKIT_AF_IPV6);
}

static int nki_listener_create(netkit_loop *loop, const netkit_listen_desc *desc, nki_behaviour *b,
                               uintptr_t socket, nki_listener **out) {
    void *object;
    int error = nki_source_take(loop, NKI_KIND_LISTENER, socket, &object);
    if (error != NETKIT_OK) {
        return error;
    }
    nki_listener *l = (nki_listener *)object;
    l->behaviour = b;
    l->user = desc->user;
    l->on_accept = desc->on_accept;
    l->on_error = desc->on_error;
    l->on_close = desc->on_close;
    l->conns_max = desc->conns_max;
    l->timer.kind = NKI_KIND_LISTENER;
    l->is_tcp = nki_is_tcp(loop, socket);
    if (l->is_tcp && !desc->conn.no_nodelay) {
        /* Accepted sockets inherit it where accept does not set it (Linux, BSD). */
        error = nki_option_wanted(loop, socket, NETKIT_OPT_NODELAY, 1);
    }
    if (error == NETKIT_OK) {
        error = nki_timers_start(&loop->timers, &l->timer, NKI_NEVER);
    }
    if (error == NETKIT_OK) {
        error = loop->driver->attach(loop, &l->source);
    }
    if (error != NETKIT_OK) {
        nki_timers_stop(&loop->timers, &l->timer);
        nki_source_undo(loop, &l->source);
        return error;
    }
    b->listener = l->source.id;
    *out = l;
    return NETKIT_OK;
}

static int nki_listener_file_create(netkit_loop *loop, const netkit_unix_file *file,
                                    nki_listener_file **out) {
    *out = (nki_listener_file *)nki_alloc_zero(&loop->allocator, sizeof **out);
    if (*out == NULL) {
        return NETKIT_E_NOMEM;
    }
    (*out)->file = *file;
    (*out)->process = loop->driver->process(loop);
    return NETKIT_OK;
}

NETKIT_API int netkit_listen(netkit_loop *loop, const netkit_listen_desc *desc,
                             netkit_listener *out) {
    if (out != NULL) {
        out->id = 0;
    }
    int error = nki_enter(loop);
    if (error != NETKIT_OK) {
        return error;
    }
    if (desc == NULL || desc->backlog < 0 || desc->unix_mode > 0777) {
        return NETKIT_E_INVALID;
    }
    nki_behaviour *b;
    uintptr_t socket;
    netkit_unix_file file;
    error = nki_behaviour_create(loop, &desc->handler, &desc->conn, &b);
    if (error != NETKIT_OK) {
        return error;
    }
    error = nki_listener_socket(loop, desc, b, &socket, &file);
    if (error == NETKIT_OK) {
        nki_listener *l = NULL;
        nki_listener_file *kept = NULL;
        if (file.inode != 0 && !desc->unix_keep) {
            error = nki_listener_file_create(loop, &file, &kept);
        }
        if (error == NETKIT_OK) {
            error = nki_listener_create(loop, desc, b, socket, &l);
        }
        if (l != NULL) {
            l->file = kept;
            if (out != NULL) {
                *out = nki_listener_handle(l);
            }
            nki_listener_arm(loop, l);
            return NETKIT_OK;
        }
        nki_free(&loop->allocator, kept, sizeof *kept);
        (void)loop->driver->unlink(loop, &file);
        if (desc->socket.value == 0) {
            loop->driver->discard(loop, socket, false);
        }
    }
    nki_behaviour_drop(loop, b);
    return error;
}
