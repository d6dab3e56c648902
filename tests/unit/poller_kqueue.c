/* The kqueue backend by itself: what the tests of all pollers (poller.c) cannot ask. */

#if NKI_HAS_KQUEUE

static nki_kqueue *kqueue_of(netkit_poller *p) {
    return (nki_kqueue *)p->base.state;
}

static void kqueue_dial(netkit_socket s[2]) {
    netkit_addr at;
    netkit_socket listener;
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &at));
    CHECK_OK(netkit_socket_open(&s[0], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_connect(s[0], &at, 1000));
    CHECK(netkit_socket_wait(listener, NETKIT_POLL_READ, 1000) > 0);
    CHECK_OK(netkit_socket_accept(listener, &s[1], NULL));
    CHECK_OK(netkit_socket_close(&listener));
}

/* Wait until one event has come, for at most a second. */
static uint32_t kqueue_next(netkit_poller *p, uint64_t data) {
    netkit_poll_event events[4];
    CHECK_EQ(netkit_poller_wait(p, events, 4, 1000000), 1);
    CHECK_EQ(events[0].data, data);
    return events[0].events;
}

/* K-01: the end comes with the data before it, and does not stand for them. */
NKT_TEST(kqueue_end_comes_with_data) {
    const uint32_t modes[] = {0, NETKIT_POLL_EDGE, NETKIT_POLL_ONESHOT};
    for (int i = 0; i < 3; i++) {
        netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
        netkit_socket s[2];
        char bytes[8];
        kqueue_dial(s);
        CHECK_EQ(netkit_socket_send(s[1], "abcde", 5), 5);
        CHECK_OK(netkit_socket_shutdown(s[1], NETKIT_SHUT_WRITE));
        CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
        nkt_sleep_ms(2); /* the end is behind the data */
        uintptr_t fd = netkit_socket_native(s[0]);
        CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ | modes[i], 1));
        CHECK_EQ(kqueue_next(p, 1), NETKIT_POLL_READ | NETKIT_POLL_PEER_END);
        CHECK_EQ(netkit_socket_recv(s[0], bytes, sizeof(bytes)), 5);
        CHECK_ERR(netkit_socket_recv(s[0], bytes, sizeof(bytes)), NETKIT_E_EOF);
        CHECK_EQ(netkit_socket_send(s[0], "f", 1), 1); /* the other direction is open */
        CHECK_OK(netkit_poller_remove(p, fd));
        CHECK_OK(netkit_socket_close(&s[0]));
        CHECK_OK(netkit_socket_close(&s[1]));
        poller_done(p);
    }
}

/* K-01: an end on the write filter is a connect that failed, and its error is kept, once. */
NKT_TEST(kqueue_keeps_the_error_of_connect) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    netkit_addr at;
    netkit_socket closed, s;
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_listen_on(&closed, &at, 0, 0));
    CHECK_OK(netkit_socket_local(closed, &at));
    CHECK_OK(netkit_socket_close(&closed));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    int rc = netkit_socket_connect(s, &at, 0);
    CHECK(rc == NETKIT_E_AGAIN || rc == NETKIT_E_REFUSED);
    uintptr_t fd = netkit_socket_native(s);
    CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_WRITE, 7));
    if (rc == NETKIT_E_AGAIN) {
        uint32_t events = kqueue_next(p, 7);
        CHECK((events & NETKIT_POLL_WRITE) != 0 && (events & NETKIT_POLL_HANGUP) != 0);
        CHECK((events & NETKIT_POLL_ERROR) != 0);
        CHECK_EQ(p->base.ops->take_error(&p->base, fd), ECONNREFUSED);
        CHECK_EQ(p->base.ops->take_error(&p->base, fd), 0);
    }
    CHECK_OK(netkit_poller_remove(p, fd));
    CHECK_EQ(p->base.ops->take_error(&p->base, fd), 0);
    CHECK_OK(netkit_socket_close(&s));
    poller_done(p);
}

/* K-01: a reset is an error and a hang-up, with what came before it still there to be read. */
NKT_TEST(kqueue_keeps_the_error_of_a_reset) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    netkit_socket s[2];
    kqueue_dial(s);
    uintptr_t fd = netkit_socket_native(s[0]);
    CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ | NETKIT_POLL_EDGE, 1));
    CHECK_EQ(netkit_socket_send(s[1], "abc", 3), 3);
    CHECK_EQ(kqueue_next(p, 1), NETKIT_POLL_READ);
    CHECK_EQ(p->base.ops->held(&p->base, fd), 3);
    CHECK_OK(netkit_socket_reset(&s[1]));
    uint32_t events = kqueue_next(p, 1);
    CHECK((events & NETKIT_POLL_READ) != 0 && (events & NETKIT_POLL_PEER_END) != 0);
    CHECK((events & NETKIT_POLL_ERROR) != 0 && (events & NETKIT_POLL_HANGUP) != 0);
    CHECK_EQ(p->base.ops->take_error(&p->base, fd), ECONNRESET);
    CHECK_OK(netkit_poller_remove(p, fd));
    CHECK_OK(netkit_socket_close(&s[0]));
    poller_done(p);
}

/* K-02 PL15: a number that is closed and used again, with the data of its new life only. */
NKT_TEST(kqueue_numbers_live_again) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    uint64_t rounds = nkt_scale(20000, 1000);
    for (uint64_t n = 0; n < rounds; n++) {
        const uint32_t mode = n % 2 != 0 ? NETKIT_POLL_EDGE : 0;
        netkit_poll_event event;
        int fds[2];
        poller_pair(fds);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ | mode, n));
        CHECK_EQ(write(fds[1], "a", 1), 1); /* ready, and never looked at in every third life */
        if (n % 3 != 0) {
            CHECK_EQ(kqueue_next(p, n), NETKIT_POLL_READ);
        }
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
        poller_close(fds);
        CHECK_EQ(n % 100 == 0 ? netkit_poller_wait(p, &event, 1, 0) : 0, 0);
    }
    poller_done(p);
}

/* K-02: a filter of an earlier life, should the system keep one, speaks to nobody. */
NKT_TEST(kqueue_earlier_lives_are_silent) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    netkit_poll_event event;
    int fds[2];
    poller_pair(fds);
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
    nki_kq_slot *slot = &kqueue_of(p)->slots[fds[0]];
    CHECK_EQ(write(fds[1], "a", 1), 1);
    CHECK_EQ(kqueue_next(p, 1), NETKIT_POLL_READ);
    slot->life++; /* as if the registration were a later one */
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000000), 0);
    slot->life = 0; /* as if there were none */
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000000), 0);
    kqueue_of(p)->life = UINTPTR_MAX; /* 0 is never one */
    slot->life = 1;
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 2));
    CHECK(slot->life != 0);
    CHECK_EQ(kqueue_next(p, 2), NETKIT_POLL_READ);
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
    poller_close(fds);
    poller_done(p);
}

/* K-02 PL07: ONESHOT is of the descriptor and not of a filter: when one has reported the other
 * is silent too, until both are armed again. */
NKT_TEST(kqueue_oneshot_is_of_both_filters) {
    const uint32_t once = NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_ONESHOT;
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    netkit_poll_event event;
    int fds[2];
    poller_pair(fds);
    uintptr_t fd = (uintptr_t)fds[0];
    CHECK_OK(netkit_poller_add(p, fd, once, 1));
    for (uint64_t n = 1; n <= 20; n++) {
        CHECK_EQ(kqueue_next(p, n), NETKIT_POLL_WRITE);
        CHECK_EQ(write(fds[1], "a", 1), 1);
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
        CHECK_OK(netkit_poller_modify(p, fd, once, n));
        CHECK_EQ(kqueue_next(p, n), NETKIT_POLL_READ | NETKIT_POLL_WRITE);
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
        CHECK_EQ(read(fds[0], &event, 1), 1);
        CHECK_OK(netkit_poller_modify(p, fd, once, n + 1));
    }
    CHECK_OK(netkit_poller_remove(p, fd));
    poller_close(fds);
    poller_done(p);
}

/* PL13 PL11: who asks for the peer's end alone hears of no data, and the end once it is there. */
NKT_TEST(kqueue_peer_end_alone) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    netkit_poll_event event;
    int fds[2];
    poller_pair(fds);
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_PEER_END, 1));
    CHECK_EQ(write(fds[1], "a", 1), 1);
    nkt_calls_reset();
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
    CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    CHECK_EQ(kqueue_next(p, 1), NETKIT_POLL_PEER_END);
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
    poller_close(fds);
    poller_done(p);
}

/* PL10: what one wait brings is joined by descriptor, in waits of any size, and also when the
 * number of waits wraps. */
NKT_TEST(kqueue_joins_filters) {
    enum {
        COUNT = 300
    };
    static int fds[COUNT][2];
    static netkit_poll_event events[2 * COUNT];
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    for (int n = 0; n < COUNT; n++) {
        poller_pair(fds[n]);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[n][0], NETKIT_POLL_READ | NETKIT_POLL_WRITE,
                                   (uint64_t)n));
        CHECK_EQ(write(fds[n][1], "a", 1), 1);
    }
    kqueue_of(p)->batch = UINT32_MAX - 8;
    for (int max = 2 * COUNT; max > 0; max = max * 2 / 3) {
        uint32_t seen[COUNT] = {0};
        int all = 0;
        for (int wait = 0; all < COUNT && wait < 4000; wait++) {
            int got = netkit_poller_wait(p, events, max, 0);
            bool twice[COUNT] = {false};
            CHECK(got > 0 && got <= max);
            for (int i = 0; i < got; i++) {
                uint32_t *bits = &seen[events[i].data];
                CHECK(!twice[events[i].data]); /* one event for each in one wait */
                twice[events[i].data] = true;
                all += *bits != 5 && (*bits | events[i].events) == 5;
                *bits |= events[i].events;
            }
        }
        CHECK_EQ(all, COUNT);
    }
    for (int n = 0; n < COUNT; n++) {
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[n][0]));
        poller_close(fds[n]);
    }
    poller_done(p);
}

/* Z-02: a change that fails at any of its calls leaves what was, or, when that fails too, silence
 * and the error; what is there can be changed and removed afterwards. */
NKT_TEST(kqueue_failed_changes) {
    const uint32_t before = NETKIT_POLL_WRITE;
    const uint32_t after = NETKIT_POLL_READ | NETKIT_POLL_WRITE | NETKIT_POLL_EDGE;
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    int fds[2];
    poller_pair(fds);
    uintptr_t fd = (uintptr_t)fds[0];
    for (int is_sticky = 0; is_sticky < 2; is_sticky++) {
        for (uint64_t nth = 1; nth <= 12; nth++) {
            CHECK_OK(netkit_poller_add(p, fd, before, 1));
            nkt_fault_at("kevent_change", 1, ENOMEM, false); /* the short way */
            nkt_fault_at("kevent_change", 1 + nth, ENOMEM, is_sticky != 0);
            int rc = netkit_poller_modify(p, fd, after, 2);
            nkt_fault_clear();
            CHECK(rc == NETKIT_OK || rc == NETKIT_E_NOMEM);
            CHECK(rc == NETKIT_OK || nki_os_code() == ENOMEM);
            if (rc == NETKIT_OK) {
                CHECK_EQ(poller_look(p, 2), NETKIT_POLL_WRITE);
                CHECK_EQ(poller_look(p, 2), 0);
            } else if (is_sticky == 0) {
                CHECK_EQ(poller_look(p, 1), NETKIT_POLL_WRITE);
                CHECK_EQ(poller_look(p, 1), NETKIT_POLL_WRITE);
            }
            CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_WRITE, 3));
            CHECK_EQ(poller_look(p, 3), NETKIT_POLL_WRITE);
            CHECK_OK(netkit_poller_remove(p, fd));
            CHECK_EQ(poller_look(p, 3), 0);
        }
    }
    nkt_fault_at("kevent_change", 1, EINTR, false); /* asked again */
    CHECK_OK(netkit_poller_add(p, fd, after, 4));
    nkt_fault_at("kevent_change", 1, ENOENT, true); /* gone already is as good */
    CHECK_OK(netkit_poller_remove(p, fd));
    nkt_fault_clear();
    poller_close(fds);
    poller_done(p);
}

/* Kqueues are not inherited; a child that destroys the poller closes nobody's descriptor. */
NKT_TEST(kqueue_in_a_child) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_KQUEUE);
    int status = 0, fds[2];
    poller_pair(fds);
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
    pid_t pid = fork();
    if (pid == 0) {
        int number = (int)p->base.native;
        bool is_taken = dup2(fds[0], number) == number;
        netkit_poller_destroy(p);
        _exit(is_taken && fcntl(number, F_GETFD) != -1 ? 0 : 1);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(write(fds[1], "a", 1), 1);
    CHECK_EQ(kqueue_next(p, 1), NETKIT_POLL_READ);
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
    poller_close(fds);
    poller_done(p);
}

/* M-07: waits of any length are waits that the system takes. */
NKT_TEST(kqueue_time_is_cut) {
    struct timespec time;
    CHECK(nki_kqueue_time(&time, NKI_NEVER) == NULL);
    CHECK(nki_kqueue_time(&time, 0) == &time && time.tv_sec == 0 && time.tv_nsec == 0);
    CHECK(nki_kqueue_time(&time, 1500000000u) == &time);
    CHECK(time.tv_sec == 1 && time.tv_nsec == 500000000);
    CHECK(nki_kqueue_time(&time, NKI_NEVER - 1) == &time);
    CHECK(time.tv_sec == INT_MAX / 1000 && time.tv_nsec == 0);
}

/* SK08 SD44: options that cannot be set on an accepted socket mean that it was reset already. */
NKT_TEST(kqueue_accept_of_a_reset) {
    netkit_addr at;
    netkit_socket listener, s, accepted;
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &at));
    const char *calls[] = {"fcntl", "setsockopt"};
    for (int i = 0; i < 2; i++) {
        CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(s, &at, 1000));
        CHECK(netkit_socket_wait(listener, NETKIT_POLL_READ, 1000) > 0);
        nkt_fault_at(calls[i], 1, EINVAL, false);
        int rc = netkit_socket_accept(listener, &accepted, NULL);
        if (nkt_faults() != 0) {
            CHECK_ERR(rc, NETKIT_E_ABORTED);
            CHECK_EQ(accepted.value, 0);
        } else {
            CHECK_OK(rc);
            CHECK_OK(netkit_socket_close(&accepted));
        }
        nkt_fault_clear();
        CHECK_OK(netkit_socket_close(&s));
    }
    CHECK_OK(netkit_socket_close(&listener));
}

#endif /* NKI_HAS_KQUEUE */
