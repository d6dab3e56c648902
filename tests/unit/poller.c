/* The pollers by themselves, each test on every backend there is. */

/* ---- helpers --------------------------------------------------------------- */

static const int poller_backends[] = {
#if NKI_WINDOWS
    NETKIT_BACKEND_AFD,    NETKIT_BACKEND_WSAPOLL,
#endif
#if NKI_HAS_EPOLL
    NETKIT_BACKEND_EPOLL,
#endif
#if NKI_HAS_KQUEUE
    NETKIT_BACKEND_KQUEUE,
#endif
#if NKI_HAS_POLL
    NETKIT_BACKEND_POLL,
#endif
};
enum {
    POLLER_BACKENDS = (int)(sizeof(poller_backends) / sizeof(poller_backends[0]))
};

static netkit_poller *poller_open(int backend) {
    netkit_poller_desc desc;
    netkit_poller *poller;
    memset(&desc, 0, sizeof(desc));
    desc.backend = backend;
    desc.allocator = nkt_allocator();
    CHECK_OK(netkit_poller_create(&poller, &desc));
    return poller;
}

static void poller_done(netkit_poller *poller) {
    netkit_poller_destroy(poller);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* What a pair's end tells of a peer that is closed, once all is read: pairs are of TCP on Windows,
 * where the other direction may go on. */
#define POLLER_GONE ((uint32_t)(NKI_WINDOWS ? NETKIT_POLL_PEER_END : NETKIT_POLL_HANGUP))

static bool poller_has_edge(int backend) {
    return nki_poller_find(backend)->has_edge;
}

static void poller_pair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
}

static void poller_close(int fds[2]) {
    close(fds[0]);
    close(fds[1]);
}

/* The events of one wait for the one descriptor that is expected to have any; 0 for none. */
static uint32_t poller_look(netkit_poller *poller, uint64_t data) {
    netkit_poll_event events[4];
    int n = netkit_poller_wait(poller, events, 4, 0);
    CHECK(n == 0 || n == 1);
    CHECK(n == 0 || events[0].data == data);
    return n == 0 ? 0 : events[0].events;
}

/* ---- backends --------------------------------------------------------------- */

/* PL05: names go both ways, and nothing else is one. */
NKT_TEST(poller_backend_names) {
    const char *names[] = {"auto",   "fastest", "epoll",   "uring", "poll",
                           "kqueue", "afd",     "wsapoll", "sim"};
    for (int i = 0; i < 9; i++) {
        CHECK_STR(netkit_backend_name(i), names[i]);
        CHECK_EQ(netkit_backend_from_name(names[i]), i);
    }
    CHECK(netkit_backend_name(9) == NULL && netkit_backend_name(-1) == NULL);
    CHECK_ERR(netkit_backend_from_name("Epoll"), NETKIT_E_NOTFOUND);
    CHECK_ERR(netkit_backend_from_name(""), NETKIT_E_NOTFOUND);
    CHECK_ERR(netkit_backend_from_name(NULL), NETKIT_E_NOTFOUND);
}

/* PL01 PL03 PL05: the backend asked for is the one that runs, or an error: never another. */
NKT_TEST(poller_backend_choice) {
    netkit_poller_desc desc;
    netkit_poller *poller;
    memset(&desc, 0, sizeof(desc));
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        poller = poller_open(poller_backends[i]);
        CHECK_STR(netkit_poller_backend(poller), netkit_backend_name(poller_backends[i]));
        poller_done(poller);
    }
    for (int number = NETKIT_BACKEND_EPOLL; number <= NETKIT_BACKEND_SIM; number++) {
        bool is_there = false;
        for (int i = 0; i < POLLER_BACKENDS; i++) {
            is_there = is_there || poller_backends[i] == number;
        }
        if (is_there) {
            continue;
        }
        desc.backend = number;
        CHECK_ERR(netkit_poller_create(&poller, &desc), NETKIT_E_NOSYS);
        CHECK(poller == NULL);
    }
    desc.backend = 9;
    CHECK_ERR(netkit_poller_create(&poller, &desc), NETKIT_E_INVALID);
    desc.backend = -1;
    CHECK_ERR(netkit_poller_create(&poller, &desc), NETKIT_E_INVALID);
    CHECK_ERR(netkit_poller_create(NULL, NULL), NETKIT_E_INVALID);
    desc.backend = 0;
    desc.allocator.alloc = nkt_allocate; /* one half of an allocator */
    CHECK_ERR(netkit_poller_create(&poller, &desc), NETKIT_E_INVALID);
    netkit_poller_destroy(NULL);
}

/* PL05: AUTO takes the first that works. */
NKT_TEST(poller_backend_auto) {
    netkit_poller *poller;
    CHECK_OK(netkit_poller_create(&poller, NULL));
    CHECK_STR(netkit_poller_backend(poller), netkit_backend_name(poller_backends[0]));
    netkit_poller_destroy(poller);
    nkt_fault_at("epoll_create", 1, ENOSYS, true);
    nkt_fault_at("kqueue", 1, ENOSYS, true);
    nkt_fault_at("port_create", 1, ENOSYS, true);
    CHECK_OK(netkit_poller_create(&poller, NULL));
    CHECK_STR(netkit_poller_backend(poller), NKI_WINDOWS ? "wsapoll" : "poll");
    netkit_poller_destroy(poller);
    for (int i = 0; i < POLLER_BACKENDS - 1; i++) {
        netkit_poller_desc desc;
        memset(&desc, 0, sizeof(desc));
        desc.backend = poller_backends[i];
        CHECK_ERR(netkit_poller_create(&poller, &desc), NETKIT_E_NOSYS);
    }
}

/* ---- interest ----------------------------------------------------------------- */

/* PL07: duplicates, strangers, and what is no descriptor have the same results everywhere. */
NKT_TEST(poller_defined_results) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event event;
        int fds[2];
        poller_pair(fds);
        uintptr_t fd = (uintptr_t)fds[0];
        for (uint32_t events = 0; events <= NETKIT_POLL_READ; events++) { /* silent ones too */
            CHECK_ERR(netkit_poller_modify(p, fd, events, 1), NETKIT_E_NOTFOUND);
            CHECK_ERR(netkit_poller_remove(p, fd), NETKIT_E_NOTFOUND);
            CHECK_OK(netkit_poller_add(p, fd, events, 1));
            CHECK_ERR(netkit_poller_add(p, fd, NETKIT_POLL_READ, 2), NETKIT_E_EXISTS);
            CHECK_ERR(netkit_poller_add(p, fd, 0, 2), NETKIT_E_EXISTS);
            CHECK_OK(netkit_poller_modify(p, fd, 0, 3));
            CHECK_OK(netkit_poller_modify(p, fd, 0, 3));
            CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_WRITE, 4));
            CHECK_EQ(poller_look(p, 4), NETKIT_POLL_WRITE);
            CHECK_OK(netkit_poller_modify(p, fd, events, 5));
            CHECK_OK(netkit_poller_remove(p, fd));
            CHECK_ERR(netkit_poller_remove(p, fd), NETKIT_E_NOTFOUND);
        }
        CHECK_ERR(netkit_poller_add(p, fd, 0x40000000u, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_modify(p, fd, 0x40000000u, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_add(p, UINTPTR_MAX, NETKIT_POLL_READ, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_add(p, UINTPTR_MAX, 0, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_add(NULL, fd, NETKIT_POLL_READ, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_modify(NULL, fd, NETKIT_POLL_READ, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_remove(NULL, fd), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_wait(NULL, &event, 1, 0), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_wait(p, NULL, 1, 0), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_wait(p, &event, 0, 0), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_wake(NULL), NETKIT_E_INVALID);
        poller_close(fds);
        CHECK_ERR(netkit_poller_add(p, fd, NETKIT_POLL_READ, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_add(p, fd, 0, 1), NETKIT_E_INVALID);
        CHECK_EQ(poller_look(p, 0), 0);
        poller_done(p);
    }
}

#if NKI_POSIX
/* PL08 PL07: pipes are watched like sockets; files that are always ready are refused. */
NKT_TEST(poller_any_descriptor) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        char path[160];
        int fds[2];
        CHECK_EQ(pipe(fds), 0);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 7));
        CHECK_EQ(poller_look(p, 7), 0);
        CHECK_EQ(write(fds[1], "x", 1), 1);
        CHECK_EQ(poller_look(p, 7), NETKIT_POLL_READ);
        close(fds[1]);
        uint32_t events = poller_look(p, 7);
        CHECK((events & NETKIT_POLL_READ) != 0 && (events & NETKIT_POLL_HANGUP) != 0);
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
        close(fds[0]);
        nkt_temp_path(path, sizeof(path));
        int file = open(path, O_CREAT | O_RDWR, 0600);
        CHECK(file >= 0);
        CHECK_ERR(netkit_poller_add(p, (uintptr_t)file, NETKIT_POLL_READ, 1), NETKIT_E_ACCESS);
        CHECK_ERR(netkit_poller_add(p, (uintptr_t)file, 0, 1), NETKIT_E_ACCESS);
        close(file);
        unlink(path);
        int folder = open("/", O_RDONLY);
        CHECK_ERR(netkit_poller_add(p, (uintptr_t)folder, NETKIT_POLL_READ, 1), NETKIT_E_ACCESS);
        close(folder);
        poller_done(p);
    }
}
#endif

/* PL11: level-triggered: what is ready is said again until it is not. */
NKT_TEST(poller_level) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        char byte;
        int fds[2];
        poller_pair(fds);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
        CHECK_EQ(write(fds[1], "ab", 2), 2);
        for (int n = 0; n < 3; n++) {
            CHECK_EQ(poller_look(p, 1), NETKIT_POLL_READ);
        }
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        CHECK_EQ(poller_look(p, 1), NETKIT_POLL_READ);
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        CHECK_EQ(poller_look(p, 1), 0);
        poller_close(fds);
        poller_done(p);
    }
}

/* PL12: edge-triggered: changes only; where there is none, it says so. */
NKT_TEST(poller_edge) {
    const uint32_t edge = NETKIT_POLL_READ | NETKIT_POLL_EDGE;
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        int fds[2];
        poller_pair(fds);
        uintptr_t fd = (uintptr_t)fds[0];
        if (!poller_has_edge(poller_backends[i])) {
            CHECK_ERR(netkit_poller_add(p, fd, edge, 1), NETKIT_E_NOSYS);
            CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ, 1));
            CHECK_ERR(netkit_poller_modify(p, fd, edge, 1), NETKIT_E_NOSYS);
        } else {
            CHECK_OK(netkit_poller_add(p, fd, edge | NETKIT_POLL_WRITE, 1));
            CHECK_EQ(poller_look(p, 1), NETKIT_POLL_WRITE);
            CHECK_EQ(poller_look(p, 1), 0);
            CHECK_EQ(write(fds[1], "a", 1), 1);
            /* One edge may bring up what else is ready, but never needs to. */
            CHECK_EQ(poller_look(p, 1) & ~(uint32_t)NETKIT_POLL_WRITE, NETKIT_POLL_READ);
            CHECK_EQ(poller_look(p, 1), 0);
            CHECK_EQ(write(fds[1], "b", 1), 1);
            CHECK((poller_look(p, 1) & NETKIT_POLL_READ) != 0);
            CHECK_OK(netkit_poller_modify(p, fd, edge, 2)); /* asking again shows it again */
            CHECK_EQ(poller_look(p, 2), NETKIT_POLL_READ);
        }
        poller_close(fds);
        poller_done(p);
    }
}

/* PL07: ONESHOT reports once and is silent, hang-up too, until asked again. */
NKT_TEST(poller_oneshot) {
    const uint32_t once = NETKIT_POLL_READ | NETKIT_POLL_ONESHOT;
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        char byte;
        int fds[2];
        poller_pair(fds);
        uintptr_t fd = (uintptr_t)fds[0];
        CHECK_OK(netkit_poller_add(p, fd, once, 1));
        CHECK_EQ(poller_look(p, 1), 0);
        CHECK_EQ(write(fds[1], "a", 1), 1);
        CHECK_EQ(poller_look(p, 1), NETKIT_POLL_READ);
        CHECK_EQ(poller_look(p, 1), 0);
        CHECK_ERR(netkit_poller_add(p, fd, once, 1), NETKIT_E_EXISTS);
        CHECK_OK(netkit_poller_modify(p, fd, once, 2));
        CHECK_EQ(poller_look(p, 2), NETKIT_POLL_READ);
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        close(fds[1]);
        nkt_sleep_ms(2);
        CHECK_EQ(poller_look(p, 2), 0);
        CHECK_OK(netkit_poller_modify(p, fd, once, 3));
        CHECK((poller_look(p, 3) & POLLER_GONE) != 0);
        CHECK_EQ(poller_look(p, 3), 0);
        CHECK_OK(netkit_poller_remove(p, fd));
        close(fds[0]);
        poller_done(p);
    }
}

/* PL13: read, write, error, hang-up and the peer's end are told apart. */
NKT_TEST(poller_event_kinds) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_socket s[2];
        netkit_addr at;
        netkit_socket listener;
        CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
        CHECK_OK(netkit_socket_listen_on(&listener, &at, 0, 0));
        CHECK_OK(netkit_socket_local(listener, &at));
        CHECK_OK(netkit_socket_open(&s[0], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_poller_add(p, netkit_socket_native(listener), NETKIT_POLL_READ, 1));
        CHECK_OK(netkit_socket_connect(s[0], &at, 1000));
        CHECK_EQ(poller_look(p, 1), NETKIT_POLL_READ);
        CHECK_OK(netkit_socket_accept(listener, &s[1], NULL));
        CHECK_OK(netkit_poller_remove(p, netkit_socket_native(listener)));
        CHECK_OK(netkit_socket_close(&listener));

        uintptr_t fd = netkit_socket_native(s[0]);
        CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_WRITE, 2));
        CHECK_EQ(poller_look(p, 2), NETKIT_POLL_WRITE);
        CHECK_EQ(netkit_socket_send(s[1], "ab", 2), 2);
        CHECK(netkit_socket_wait(s[0], NETKIT_POLL_READ, 1000) > 0);
        CHECK_EQ(poller_look(p, 2), NETKIT_POLL_WRITE);
        CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_READ, 2));
        CHECK_EQ(poller_look(p, 2), NETKIT_POLL_READ);
        CHECK_EQ(send((int)netkit_socket_native(s[1]), "!", 1, MSG_OOB), 1);
        int rc = netkit_poller_modify(p, fd, NETKIT_POLL_PRIORITY, 2);
        if (rc == NETKIT_E_NOSYS && poller_backends[i] == NETKIT_BACKEND_KQUEUE) {
            CHECK_EQ(poller_look(p, 2), NETKIT_POLL_READ); /* as before */
        } else {
            CHECK_OK(rc);
            nkt_sleep_ms(2);
            CHECK_EQ(poller_look(p, 2), NETKIT_POLL_PRIORITY);
        }
        CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_READ, 2));
        CHECK_OK(netkit_socket_shutdown(s[1], NETKIT_SHUT_WRITE));
        nkt_sleep_ms(2);
#if defined(__linux__)
        CHECK_EQ(poller_look(p, 2), NETKIT_POLL_READ | NETKIT_POLL_PEER_END);
#endif
        CHECK_OK(netkit_socket_reset(&s[1]));
        nkt_sleep_ms(2);
        uint32_t events = poller_look(p, 2);
        CHECK((events & NETKIT_POLL_ERROR) != 0 && (events & NETKIT_POLL_HANGUP) != 0);
        CHECK_OK(netkit_poller_remove(p, fd));
        CHECK_OK(netkit_socket_close(&s[0]));
        poller_done(p);
    }
}

/* W-01 WN06 PL13: a connect that is refused, as Linux tells it, and the code with it. */
NKT_TEST(poller_refused_connect) {
    const uint32_t asked[] = {NETKIT_POLL_WRITE, NETKIT_POLL_READ | NETKIT_POLL_WRITE,
                              NETKIT_POLL_READ};
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_addr at;
        netkit_socket closed, s;
        CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
        CHECK_OK(netkit_socket_listen_on(&closed, &at, 0, 0));
        CHECK_OK(netkit_socket_local(closed, &at));
        CHECK_OK(netkit_socket_close(&closed));
        for (int n = 0; n < 3; n++) {
            netkit_poll_event event;
            uint32_t all = asked[n] | NETKIT_POLL_ERROR | NETKIT_POLL_HANGUP;
            all |= (asked[n] & NETKIT_POLL_READ) != 0 ? (uint32_t)NETKIT_POLL_PEER_END : 0u;
            CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
            CHECK_ERR(netkit_socket_connect(s, &at, 0), NETKIT_E_AGAIN);
            uintptr_t fd = netkit_socket_native(s);
            CHECK_OK(netkit_poller_add(p, fd, asked[n], 7));
            CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000000), 1);
            if (poller_backends[i] != NETKIT_BACKEND_KQUEUE) { /* of single filters */
                CHECK_EQ(event.events, all);
                CHECK_EQ(poller_look(p, 7), all); /* until somebody takes the error */
                CHECK_ERR(netkit_socket_connect_result(s), NETKIT_E_REFUSED);
                CHECK_EQ(netkit_socket_os_code(), ECONNREFUSED);
            }
            CHECK((event.events & NETKIT_POLL_ERROR) != 0);
            if (poller_backends[i] == NETKIT_BACKEND_AFD) {
                CHECK_EQ(p->base.ops->take_error(&p->base, fd), ECONNREFUSED);
                CHECK_EQ(p->base.ops->take_error(&p->base, fd), 0);
            }
            CHECK_OK(netkit_poller_remove(p, fd));
            CHECK_OK(netkit_socket_close(&s));
        }
        poller_done(p);
    }
}

/* PL11: an interest of nothing is silence, even after hang-up, and costs no time. */
NKT_TEST(poller_silent) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event event;
        char byte;
        int fds[2];
        poller_pair(fds);
        uintptr_t fd = (uintptr_t)fds[0];
        CHECK_OK(netkit_poller_add(p, fd, 0, 1));
        CHECK_EQ(write(fds[1], "a", 1), 1);
        close(fds[1]);
        uint64_t start = nkt_now_ns();
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 20000), 0);
        CHECK(nkt_now_ns() - start >= 20000000);
        CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_READ, 2));
        CHECK((poller_look(p, 2) & NETKIT_POLL_READ) != 0);
        nkt_calls_reset();
        CHECK_OK(netkit_poller_modify(p, fd, 0, 3));
        CHECK_OK(netkit_poller_modify(p, fd, 0, 4)); /* nothing changes: no call */
        CHECK(nkt_calls(NULL) <= 1);
        CHECK_EQ(poller_look(p, 4), 0);
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_READ, 5));
        CHECK((poller_look(p, 5) & POLLER_GONE) != 0);
        CHECK_OK(netkit_poller_modify(p, fd, 0, 6));
        CHECK_OK(netkit_poller_remove(p, fd));
        close(fds[0]);
        poller_done(p);
    }
}

/* L-09: a descriptor closed behind the poller's back does not spin, and its number can be used
 * again once removed. */
NKT_TEST(poller_closed_descriptor) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event event;
        int fds[2];
        int seen = 0;
        poller_pair(fds);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
        close(fds[0]);
        for (int n = 0; n < 10; n++) {
            int got = netkit_poller_wait(p, &event, 1, 1000);
            CHECK_OK(got);
            CHECK(got == 0 || event.events == NETKIT_POLL_ERROR);
            seen += got;
        }
        CHECK_EQ(seen, poller_has_edge(poller_backends[i]) ? 0 : 1);
        int rc = netkit_poller_remove(p, (uintptr_t)fds[0]);
        CHECK(rc == NETKIT_OK || rc == NETKIT_E_INVALID || rc == NETKIT_E_NOTFOUND);
#if NKI_POSIX /* a number can be had at will */
        CHECK_EQ(dup2(fds[1], fds[0]), fds[0]);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, 2));
        CHECK((poller_look(p, 2) & NETKIT_POLL_WRITE) != 0);
        close(fds[0]);
#endif
        close(fds[1]);
        poller_done(p);
    }
}

/* SD03: descriptors beyond 1024 and with gaps between them. */
NKT_TEST(poller_high_descriptor) {
    (void)nkt_want_descriptors(3000);
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        int fds[2];
        poller_pair(fds);
        int high = nkt_dup_above(fds[0], 2500);
        if (high < 0) {
            SKIP("no descriptor above 1024 allowed");
        }
        CHECK_OK(netkit_poller_add(p, (uintptr_t)high, 0, 1));
        CHECK_OK(netkit_poller_modify(p, (uintptr_t)high, NETKIT_POLL_WRITE, 2));
        CHECK_EQ(poller_look(p, 2), NETKIT_POLL_WRITE);
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)high));
        close(high);
        poller_close(fds);
        poller_done(p);
    }
}

/* PL07: many descriptors added, changed and removed at random agree with a simple model. */
NKT_TEST(poller_random_model) {
    enum {
        COUNT = 60,
        STEPS = 4000
    };
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        int fds[COUNT][2];
        int state[COUNT]; /* -1 = not there, else the events asked for */
        uint64_t data[COUNT];
        netkit_poll_event events[COUNT];
        for (int n = 0; n < COUNT; n++) {
            poller_pair(fds[n]);
            state[n] = -1;
            data[n] = 0;
        }
        for (int step = 0; step < STEPS; step++) {
            int n = (int)(nkt_random() % COUNT);
            int want = (int)(nkt_random() % 2) * NETKIT_POLL_WRITE;
            uintptr_t fd = (uintptr_t)fds[n][0];
            uint64_t tag = ((uint64_t)step << 32) | (uint64_t)n;
            int rc;
            switch (nkt_random() % 3) {
            case 0:
                rc = netkit_poller_add(p, fd, (uint32_t)want, tag);
                CHECK_ERR(rc, state[n] >= 0 ? NETKIT_E_EXISTS : NETKIT_OK);
                break;
            case 1:
                rc = netkit_poller_modify(p, fd, (uint32_t)want, tag);
                CHECK_ERR(rc, state[n] >= 0 ? NETKIT_OK : NETKIT_E_NOTFOUND);
                break;
            default:
                rc = netkit_poller_remove(p, fd);
                CHECK_ERR(rc, state[n] >= 0 ? NETKIT_OK : NETKIT_E_NOTFOUND);
                want = -1;
                break;
            }
            if (rc == NETKIT_OK) {
                state[n] = want;
                data[n] = tag;
            }
            if (step % 50 == 0) {
                int expected = 0;
                for (int m = 0; m < COUNT; m++) {
                    expected += state[m] > 0;
                }
                CHECK_EQ(netkit_poller_wait(p, events, COUNT, 0), expected);
                for (int m = 0; m < expected; m++) {
                    size_t at = (size_t)(events[m].data & 0xFFFFFFFF);
                    CHECK(at < COUNT && state[at] > 0 && events[m].data == data[at]);
                }
            }
        }
        for (int n = 0; n < COUNT; n++) {
            poller_close(fds[n]);
        }
        poller_done(p);
    }
}

/* ---- waiting ------------------------------------------------------------------ */

/* PL10: a small batch starves nobody: in as many waits as it takes, each one comes up. */
NKT_TEST(poller_small_batches) {
    enum {
        COUNT = 50
    };
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event events[7];
        int fds[COUNT][2];
        int seen[COUNT];
        memset(seen, 0, sizeof(seen));
        for (int n = 0; n < COUNT; n++) {
            poller_pair(fds[n]);
            CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[n][0], NETKIT_POLL_WRITE, (uint64_t)n));
        }
        for (int n = 0; n < 2 * COUNT / 7 + 1; n++) {
            int got = netkit_poller_wait(p, events, 7, 0);
            CHECK_EQ(got, 7);
            for (int m = 0; m < got; m++) {
                seen[events[m].data]++;
            }
        }
        for (int n = 0; n < COUNT; n++) {
            CHECK(seen[n] >= 1 && seen[n] <= 4);
            poller_close(fds[n]);
        }
        poller_done(p);
    }
}

/* PL15 PL07: data is 64 bits of the user's, each value of them, and so are events' order and
 * number: nothing of another descriptor's gets in. */
NKT_TEST(poller_data_is_free) {
    const uint64_t values[] = {
        0, 1, UINT64_MAX, UINT64_C(1) << 63, UINT32_MAX, UINT64_C(0x0123456789ABCDEF)};
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event events[8];
        int fds[2];
        poller_pair(fds);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, 5));
        for (size_t n = 0; n < sizeof(values) / sizeof(values[0]); n++) {
            CHECK_OK(netkit_poller_modify(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, values[n]));
            CHECK_EQ(poller_look(p, values[n]), NETKIT_POLL_WRITE);
        }
        /* Even the number that the wake has at this moment. */
        for (int n = 0; n < 3; n++) {
            uint64_t same = p->wake_data;
            CHECK_OK(netkit_poller_modify(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, same));
            CHECK(p->wake_data != same);
            CHECK_OK(netkit_poller_wake(p));
            CHECK_EQ(poller_look(p, same), NETKIT_POLL_WRITE);
            CHECK_OK(netkit_poller_wake(p));
            CHECK_EQ(netkit_poller_wait(p, events, 8, 0), 1);
        }
        nkt_fault_at("getrandom", 1, NKI_WINDOWS ? EMFILE : ENOSYS, true);
        nkt_fault_at("open", 1, EMFILE, true);
        uint64_t before = p->wake_data;
        CHECK_ERR(netkit_poller_add(p, (uintptr_t)fds[1], NETKIT_POLL_WRITE, before),
                  NETKIT_E_MFILE);
        CHECK(p->wake_data == before);
        nkt_fault_clear();
        CHECK_OK(netkit_poller_wake(p));
        CHECK_EQ(netkit_poller_wait(p, events, 8, 0), 1);
        CHECK_ERR(netkit_poller_add(p, p->wake.reader, NETKIT_POLL_READ, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_poller_remove(p, p->wake.reader), NETKIT_E_INVALID);
        poller_close(fds);
        poller_done(p);
    }
}

/* PL09 M-06: no wait is early, and none is a burst of empty ones. */
NKT_TEST(poller_timeouts) {
    const int64_t times_us[] = {1, 300, 900, 1000, 1100, 5000};
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event event;
        uint64_t start = nkt_now_ns();
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
        CHECK(nkt_now_ns() - start < 1000000000);
        for (size_t n = 0; n < sizeof(times_us) / sizeof(times_us[0]); n++) {
            nkt_calls_reset();
            start = nkt_now_ns();
            CHECK_EQ(netkit_poller_wait(p, &event, 1, times_us[n]), 0);
            CHECK(nkt_now_ns() - start >= (uint64_t)times_us[n] * 1000);
            CHECK(nkt_calls(NULL) - nkt_calls("clock_gettime") <= 2);
        }
        CHECK_OK(netkit_poller_wake(p)); /* the longest times there are do not wrap */
        CHECK_EQ(netkit_poller_wait(p, &event, 1, INT64_MAX), 0);
        CHECK_OK(netkit_poller_wake(p));
        CHECK_EQ(netkit_poller_wait(p, &event, 1, INT64_MAX / 1000 + 1), 0);
        CHECK_OK(netkit_poller_wake(p));
        CHECK_EQ(netkit_poller_wait(p, &event, 1, INT64_MIN), 0);
        poller_done(p);
    }
}

#if defined(__linux__)
/* M-06: a kernel or a sandbox without epoll_pwait2 is asked once, then waits are rounded up. */
NKT_TEST(poller_without_pwait2) {
    const int codes[] = {ENOSYS, EPERM};
    for (int i = 0; i < 2; i++) {
        netkit_poller *p = poller_open(NETKIT_BACKEND_EPOLL);
        netkit_poll_event event;
        nkt_fault_at("epoll_pwait2", 1, codes[i], true);
        nkt_calls_reset();
        for (int n = 0; n < 3; n++) {
            uint64_t start = nkt_now_ns();
            CHECK_EQ(netkit_poller_wait(p, &event, 1, 300), 0);
            CHECK(nkt_now_ns() - start >= 300000);
        }
        CHECK_EQ(nkt_calls("epoll_pwait2"), 1);
        CHECK_EQ(nkt_calls("epoll_wait"), 3);
        nkt_fault_clear();
        poller_done(p);
    }
}
#endif

/* Z-04 PL09: a signal ends a wait with 0, never with an error; other failures are told. */
NKT_TEST(poller_wait_interrupted) {
    const char *calls[] = {"epoll_wait", "epoll_pwait2", "poll", "kevent", "port_wait"};
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event event;
        for (int n = 0; n < 5; n++) {
            nkt_fault_at(calls[n], 1, EINTR, true);
        }
        CHECK_EQ(netkit_poller_wait(p, &event, 1, -1), 0);
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 1500), 0);
        nkt_fault_clear();
        for (int n = 0; n < 5; n++) {
            nkt_fault_at(calls[n], 1, ENOMEM, false);
        }
        CHECK_ERR(netkit_poller_wait(p, &event, 1, -1), NETKIT_E_NOMEM);
        nkt_fault_clear();
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
        poller_done(p);
    }
}

/* ---- waking -------------------------------------------------------------------- */

/* PL14 Q-06: wakes before a wait are one, cost one call, are never an event, and leave the next
 * wait alone. */
NKT_TEST(poller_wake_coalesced) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event events[4];
        int fds[2];
        poller_pair(fds);
        nkt_calls_reset();
        for (int n = 0; n < 1000; n++) {
            CHECK_OK(netkit_poller_wake(p));
        }
        CHECK_EQ(nkt_calls(NULL), 1);
        CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 0);
        uint64_t start = nkt_now_ns();
        CHECK_EQ(netkit_poller_wait(p, events, 4, 5000), 0);
        CHECK(nkt_now_ns() - start >= 5000000);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, 9));
        for (int n = 0; n < 5; n++) {
            CHECK_OK(netkit_poller_wake(p));
            CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 1);
            CHECK_EQ(events[0].data, 9);
            CHECK_EQ(events[0].events, NETKIT_POLL_WRITE);
        }
        nkt_fault_wake(EIO);
        CHECK_ERR(netkit_poller_wake(p), NETKIT_E_IO);
        nkt_fault_clear();
        CHECK_OK(netkit_poller_wake(p)); /* the failed one does not stand for it */
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
        CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 0);
        poller_close(fds);
        poller_done(p);
    }
}

typedef struct poller_waker {
    netkit_poller *poller;
    uint32_t target; /* how many rounds were asked for */
    uint32_t done;   /* how many the waiter has seen */
    uint32_t rounds;
} poller_waker;

static void *poller_wake_thread(void *user) {
    poller_waker *w = (poller_waker *)user;
    for (uint32_t n = 1; n <= w->rounds; n++) {
        __atomic_store_n(&w->target, n, __ATOMIC_RELAXED);
        if (netkit_poller_wake(w->poller) != NETKIT_OK) {
            return w;
        }
        while (n % 8 == 0 && __atomic_load_n(&w->done, __ATOMIC_ACQUIRE) < n) {
            sched_yield();
        }
    }
    return NULL;
}

/* PL14: ten thousand wakes from another thread: what was written before a wake is seen after
 * it, and none is lost (a lost one hangs the test). */
NKT_TEST(poller_wake_from_thread) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        netkit_poll_event event;
        poller_waker w = {p, 0, 0, (uint32_t)nkt_scale(100000, NKI_WINDOWS ? 1000 : 10000)};
        pthread_t thread;
        void *failed;
        CHECK_EQ(pthread_create(&thread, NULL, poller_wake_thread, &w), 0);
        while (w.done < w.rounds) {
            CHECK_EQ(netkit_poller_wait(p, &event, 1, -1), 0);
            __atomic_store_n(&w.done, __atomic_load_n(&w.target, __ATOMIC_RELAXED),
                             __ATOMIC_RELEASE);
        }
        CHECK_EQ(pthread_join(thread, &failed), 0);
        CHECK(failed == NULL);
        poller_done(p);
    }
}

static netkit_poller *poller_of_signal;

static void poller_on_signal(int number) {
    (void)number;
    netkit_poller_wake(poller_of_signal);
}

/* PL14 Q-06: a wake from a signal handler ends the wait, and leaves errno alone. */
NKT_TEST(poller_wake_from_signal) {
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poll_event event;
        poller_of_signal = poller_open(poller_backends[i]);
        CHECK(nkt_alarm(5000, 0, poller_on_signal));
        CHECK_EQ(netkit_poller_wait(poller_of_signal, &event, 1, -1), 0);
        CHECK(nkt_alarm(0, 0, poller_on_signal));
        errno = 123;
        poller_on_signal(0);
        CHECK_EQ(errno, 123);
        CHECK_EQ(netkit_poller_wait(poller_of_signal, &event, 1, -1), 0);
        poller_done(poller_of_signal);
    }
}

/* ---- failures -------------------------------------------------------------------- */

/* Make, use and free a poller; the first failure, or NETKIT_OK. */
static int poller_life(int backend, int fds[80]) {
    netkit_poller_desc desc;
    netkit_poller *p;
    netkit_poll_event event;
    memset(&desc, 0, sizeof(desc));
    desc.backend = backend;
    desc.allocator = nkt_allocator();
    int rc = netkit_poller_create(&p, &desc);
    for (int n = 0; n < 80 && rc == NETKIT_OK; n++) {
        rc = netkit_poller_add(p, (uintptr_t)fds[n], NETKIT_POLL_WRITE, (uint64_t)n);
        if (rc == NETKIT_OK) {
            rc = netkit_poller_modify(p, (uintptr_t)fds[n], 0, (uint64_t)n);
        }
    }
    if (rc == NETKIT_OK) {
        rc = netkit_poller_wake(p);
    }
    if (rc == NETKIT_OK) {
        rc = netkit_poller_wait(p, &event, 1, 1000);
    }
    netkit_poller_destroy(p);
    return rc;
}

/* Z-01 Z-02: the nth allocation, and the nth call, fails for each n: an error, and nothing
 * leaks. */
NKT_TEST(poller_every_failure) {
    int fds[80];
    if (NKI_WINDOWS) {
        NKT_TIME_LIMIT(60);
    }
    for (int n = 0; n < 80; n += 2) {
        poller_pair(&fds[n]);
    }
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        uint64_t n = 1;
        for (bool is_hit = true; is_hit; n++) {
            nkt_alloc_fail_at(n, false);
            int rc = poller_life(poller_backends[i], fds);
            is_hit = nkt_alloc_faults() > 0;
            CHECK_ERR(rc, is_hit ? NETKIT_E_NOMEM : NETKIT_OK);
            CHECK_EQ(nkt_live_bytes(), 0);
        }
        CHECK(n > 3);
        nkt_alloc_fail_at(0, false);
        n = 1;
        for (bool is_hit = true; is_hit; n++) {
            int open_fds = nkt_open_fds();
            nkt_fault_at(NULL, n, ENFILE, false);
            int rc = poller_life(poller_backends[i], fds);
            is_hit = nkt_faults() > 0;
            nkt_fault_clear();
            /* Calls of ntdll come with codes of their own, or with none. */
            bool is_told = rc == NETKIT_E_MFILE ||
                           (NKI_WINDOWS && (rc == NETKIT_E_NOMEM || rc == NETKIT_E_NOSYS));
            CHECK(rc == NETKIT_OK || is_told);
            CHECK_EQ(nkt_live_bytes(), 0);
            CHECK_EQ(nkt_open_fds(), open_fds);
        }
        CHECK(n > 80);
    }
    for (int n = 0; n < 80; n += 2) {
        poller_close(&fds[n]);
    }
}
