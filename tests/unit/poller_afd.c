/* The pollers of Windows by themselves: what the tests of all pollers (poller.c) cannot ask. */

#if NKI_HAS_AFD

static nki_afd *afd_of(netkit_poller *p) {
    return (nki_afd *)p->base.state;
}

/* The one event that comes within a second. */
static uint32_t afd_next(netkit_poller *p, uint64_t data) {
    netkit_poll_event events[4];
    CHECK_EQ(netkit_poller_wait(p, events, 4, 1000000), 1);
    CHECK_EQ(events[0].data, data);
    return events[0].events;
}

static uint32_t afd_handles(void) {
    DWORD count = 0;
    CHECK(GetProcessHandleCount(GetCurrentProcess(), &count));
    return count;
}

/* A datagram socket on 127.0.0.host, and its address; or -1. Not on 127.0.0.1: some tests send to a
 * port there that nobody has, and thousands of sockets may well have it. */
static int afd_udp(struct sockaddr_in *at, int host) {
    socklen_t len = (socklen_t)sizeof(*at);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    *at = nkt_loopback();
    at->sin_addr.s_addr = htonl(0x7F000000u + (uint32_t)host);
    bool is_well = fd >= 0 && bind(fd, (const struct sockaddr *)at, len) == 0 &&
                   getsockname(fd, (struct sockaddr *)at, &len) == 0;
    return is_well ? fd : -1;
}

static bool afd_tell(int fd, const struct sockaddr_in *at) {
    return sendto(fd, "x", 1, 0, (const struct sockaddr *)at, (socklen_t)sizeof(*at)) == 1;
}

static int afd_watched;

static void afd_on_watch(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    char byte;
    (void)loop;
    (void)watch;
    CHECK((events & NETKIT_POLL_READ) != 0);
    CHECK_EQ(read(*(const int *)user, &byte, 1), 1);
    afd_watched++;
}

/* ---- requests ------------------------------------------------------------------ */

/* W-02 PL15: taken out and put in again while a request is out, a socket has one at a time; what
 * the old one says is told to nobody, and the new one loses nothing. */
NKT_TEST(afd_one_request_at_a_time) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    int fds[2];
    poller_pair(fds);
    uintptr_t fd = (uintptr_t)fds[0];
    CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ, 1));
    CHECK_EQ(poller_look(p, 1), 0);
    CHECK_EQ(afd_of(p)->out, 1);
    for (uint64_t n = 2; n < 100; n++) {
        char byte;
        CHECK_OK(netkit_poller_remove(p, fd));
        if (n % 3 != 0) { /* its packet is there, or still to come */
            CHECK_EQ(write(fds[1], "a", 1), 1);
        }
        CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ, n));
        CHECK_EQ(afd_of(p)->out, 1);
        if (n % 3 == 0) {
            CHECK_EQ(poller_look(p, n), 0);
            CHECK_EQ(afd_of(p)->out, 1);
            CHECK_EQ(write(fds[1], "b", 1), 1);
        }
        CHECK_EQ(afd_next(p, n), NETKIT_POLL_READ);
        CHECK_EQ(read(fds[0], &byte, 1), 1);
        CHECK_EQ(poller_look(p, n), 0);
        CHECK_EQ(afd_of(p)->out, 1);
        CHECK_EQ(afd_of(p)->slots.count, 1);
    }
    CHECK_OK(netkit_poller_remove(p, fd));
    CHECK_EQ(poller_look(p, 0), 0);
    CHECK_EQ(afd_of(p)->out, 0);
    CHECK_EQ(afd_of(p)->slots.count, 0);
    CHECK_EQ(afd_of(p)->table.count, 0);
    poller_close(fds);
    poller_done(p);
}

/* W-02 PL15: packets of tokens that are nobody's: of a slot given back, of none, of another
 * generation, of one that is not waited for. */
NKT_TEST(afd_strange_packets) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    nki_afd *afd = afd_of(p);
    int fds[2];
    poller_pair(fds);
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
    nki_afd_slot *s = nki_afd_find(afd, (uintptr_t)fds[0]);
    OVERLAPPED *token = (OVERLAPPED *)nki_afd_token(s);
    CHECK(PostQueuedCompletionStatus(afd->port, 0, NKI_AFD_KEY_DEVICE, token)); /* not yet asked */
    CHECK(nki_afd_of_token(afd, token) == NULL);
    netkit_poll_event event;
    ULONG got = 0;
    CHECK(GetQueuedCompletionStatusEx(afd->port, afd->packets, 1, &got, 0, FALSE));
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
    CHECK(nki_afd_of_token(afd, token) == s);
    const uintptr_t strangers[] = {0, (uintptr_t)token + ((uintptr_t)1 << NKI_SLOT_BITS),
                                   (uintptr_t)token + 1, UINTPTR_MAX, NKI_SLOT_MASK};
    for (size_t i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++) {
        OVERLAPPED *stranger = (OVERLAPPED *)strangers[i];
        CHECK(nki_afd_of_token(afd, stranger) == NULL);
        CHECK(PostQueuedCompletionStatus(afd->port, 0, NKI_AFD_KEY_DEVICE, stranger));
        CHECK(PostQueuedCompletionStatus(afd->port, 0, 99, token));
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000), 0);
        CHECK_EQ(afd->out, 1);
    }
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
    CHECK(PostQueuedCompletionStatus(afd->port, 0, NKI_AFD_KEY_DEVICE, token));
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000), 0);
    CHECK_EQ(afd->out, 0);
    poller_close(fds);
    poller_done(p);
}

static void *afd_ask_and_end(void *user) {
    netkit_poll_event event;
    int n = netkit_poller_wait((netkit_poller *)user, &event, 1, 0);
    return n == 0 ? NULL : user;
}

/* PL09 R12: a poller that was waited on by a thread that is over: its requests still tell, or are
 * asked again. */
NKT_TEST(afd_outlives_its_thread) {
    for (int n = 0; n < 20; n++) {
        netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
        pthread_t thread;
        void *failed = p;
        int fds[2];
        poller_pair(fds);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
        CHECK_EQ(pthread_create(&thread, NULL, afd_ask_and_end, p), 0);
        CHECK_EQ(pthread_join(thread, &failed), 0);
        CHECK(failed == NULL);
        CHECK_EQ(write(fds[1], "a", 1), 1);
        CHECK_EQ(afd_next(p, 1), NETKIT_POLL_READ);
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
        poller_close(fds);
        poller_done(p);
    }
}

/* ---- numbers that live again ---------------------------------------------------- */

typedef struct afd_life {
    int backend;
    uint32_t rounds;
    uint32_t repeats; /* how often a number came again */
    bool is_failed;
} afd_life;

/* One socket after the other, each with data of its own. In two of three lives it is ready, in one
 * of these nobody looks. Checks nothing itself: it may not be the test's thread. */
static void *afd_live(void *user) {
    afd_life *life = (afd_life *)user;
    netkit_poller_desc desc;
    netkit_poller *p = NULL;
    int last = -1;
    memset(&desc, 0, sizeof(desc));
    desc.backend = life->backend;
    bool is_well = netkit_poller_create(&p, &desc) == NETKIT_OK;
    for (uint32_t n = 1; n <= life->rounds && is_well; n++) {
        netkit_poll_event event;
        struct sockaddr_in at;
        int fd = afd_udp(&at, 2);
        life->repeats += fd == last;
        last = fd;
        is_well = fd >= 0 && netkit_poller_add(p, (uintptr_t)fd, NETKIT_POLL_READ, n) == NETKIT_OK;
        if (n % 3 != 0) {
            is_well = is_well && netkit_poller_wait(p, &event, 1, 0) == 0 && afd_tell(fd, &at);
        }
        if (n % 3 == 1) {
            is_well = is_well && netkit_poller_wait(p, &event, 1, 2000000) == 1 &&
                      event.data == n && event.events == NETKIT_POLL_READ;
        }
        is_well = is_well && netkit_poller_remove(p, (uintptr_t)fd) == NETKIT_OK && close(fd) == 0;
        if (n % 50 == 0) {
            is_well = is_well && netkit_poller_wait(p, &event, 1, 0) == 0;
        }
    }
    netkit_poller_destroy(p);
    life->is_failed = !is_well;
    return NULL;
}

/* W-02 WN12 PL15: two threads close and make sockets whose numbers repeat, each in a poller of its
 * own: nothing is lost and nothing is told of an earlier life. */
NKT_SLOW_TEST(afd_numbers_live_again) {
    uint32_t handles = 0;
    NKT_TIME_LIMIT(nkt_long ? 1800 : 60);
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        uint32_t rounds = (uint32_t)nkt_scale(100000, 500);
        afd_life lives[2] = {{poller_backends[i], rounds, 0, true},
                             {poller_backends[i], rounds, 0, true}};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, afd_live, &lives[0]), 0);
        afd_live(&lives[1]);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK(!lives[0].is_failed && !lives[1].is_failed);
        CHECK(lives[0].repeats + lives[1].repeats > rounds / 4);
        if (i > 0) {
            CHECK(afd_handles() <= handles + 8);
        }
        handles = afd_handles();
    }
}

/* ---- many, and the end ------------------------------------------------------------ */

/* W-03 PL10: five thousand sockets: each is told of once in a round, in batches. Their address is
 * nobody else's: under load a datagram may come when its port is another socket's already. */
NKT_SLOW_TEST(afd_five_thousand) {
    enum {
        COUNT = 5000
    };
    static int fds[COUNT];
    static struct sockaddr_in at[COUNT];
    static uint8_t seen[COUNT];
    static netkit_poll_event events[COUNT];
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    NKT_TIME_LIMIT(nkt_long ? 600 : 120);
    for (uint64_t n = 0; n < COUNT; n++) {
        fds[n] = afd_udp(&at[n], 3);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[n], NETKIT_POLL_READ, n));
    }
    CHECK_EQ(netkit_poller_wait(p, events, COUNT, 0), 0);
    CHECK_EQ(afd_of(p)->out, COUNT);
    for (uint64_t round = 0; round < nkt_scale(10, 1); round++) {
        int all = 0;
        memset(seen, 0, sizeof(seen));
        for (int n = 0; n < COUNT; n++) {
            CHECK(afd_tell(fds[0], &at[n]));
        }
        while (all < COUNT) {
            int got = netkit_poller_wait(p, events, COUNT, 5000000);
            CHECK(got > 0);
            for (int i = 0; i < got; i++) {
                char byte;
                CHECK_EQ(events[i].events, NETKIT_POLL_READ);
                CHECK_EQ(read(fds[events[i].data], &byte, 1), 1);
                CHECK_EQ(seen[events[i].data]++, 0);
            }
            all += got;
        }
        CHECK_EQ(netkit_poller_wait(p, events, COUNT, 0), 0);
    }
    for (int n = 0; n < COUNT; n++) {
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[n]));
        close(fds[n]);
    }
    CHECK_EQ(netkit_poller_wait(p, events, COUNT, 0), 0);
    CHECK_EQ(afd_of(p)->slots.count, 0);
    poller_done(p);
}

/* W-03 WN10 I9: a poller that ends while the driver has requests, some called off, some done, gives
 * all memory and every handle back. */
NKT_TEST(afd_ends_in_flight) {
    enum {
        COUNT = 70 /* more than one device's */
    };
    uint32_t handles = 0;
    for (int round = 0; round < 12; round++) {
        netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
        netkit_poll_event event;
        int fds[COUNT][2];
        for (int n = 0; n < COUNT; n++) {
            poller_pair(fds[n]);
            CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[n][0], NETKIT_POLL_READ, (uint64_t)n));
        }
        CHECK_EQ(netkit_poller_wait(p, &event, 1, 0), 0);
        CHECK_EQ(afd_of(p)->out, COUNT);
        for (int n = 0; n < COUNT; n += 3) {
            CHECK_EQ(write(fds[n][1], "a", 1), 1);
            CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[n + 1 < COUNT ? n + 1 : n][0]));
        }
        if (round % 2 == 0) { /* closed before the poller ends, or after it */
            poller_done(p);
        }
        for (int n = 0; n < COUNT; n++) {
            poller_close(fds[n]);
        }
        if (round % 2 != 0) {
            poller_done(p);
        }
        if (round == 3) {
            handles = afd_handles();
        }
    }
    CHECK(afd_handles() <= handles);
}

/* W-03 I9: the same of a loop with conns that wait. */
NKT_TEST(afd_loop_ends_in_flight) {
    uint32_t handles = 0;
    for (int round = 0; round < 8; round++) {
        netkit_loop *loop;
        netkit_loop_desc desc;
        netkit_listen_desc listen_desc;
        int fds[20][2];
        memset(&desc, 0, sizeof(desc));
        memset(&listen_desc, 0, sizeof(listen_desc));
        desc.backend = NETKIT_BACKEND_AFD;
        desc.allocator = nkt_allocator();
        CHECK_OK(netkit_loop_create(&loop, &desc));
        listen_desc.address = "127.0.0.1:0";
        CHECK_OK(netkit_listen(loop, &listen_desc, NULL));
        for (int n = 0; n < 20; n++) {
            netkit_watch watch;
            poller_pair(fds[n]);
            CHECK_OK(netkit_watch_start(loop, &watch, (uintptr_t)fds[n][0], NETKIT_POLL_READ,
                                        afd_on_watch, NULL));
        }
        CHECK_OK(netkit_loop_run_once(loop, 0));
        CHECK_OK(netkit_loop_destroy(loop));
        CHECK_EQ(nkt_live_bytes(), 0);
        for (int n = 0; n < 20; n++) {
            poller_close(fds[n]);
        }
        if (round == 3) {
            handles = afd_handles();
        }
    }
    CHECK(afd_handles() <= handles);
}

/* ---- failures ------------------------------------------------------------------------ */

/* Z-02: a request that cannot be sent is an error of the wait, tried again with the next one, and
 * keeps nobody else from being told. */
NKT_TEST(afd_failed_requests) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    netkit_poll_event events[4];
    int fds[4];
    poller_pair(fds);
    poller_pair(fds + 2);
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, 1));
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[2], NETKIT_POLL_WRITE, 2));
    nkt_fault_at("nt_control", 1, ENOMEM, true);
    CHECK_ERR(netkit_poller_wait(p, events, 4, -1), NETKIT_E_NOMEM);
    nkt_fault_clear();
    nkt_fault_at("nt_control", 1, ENOMEM, false);
    CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 1);
    nkt_fault_clear();
    CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 2);
    nkt_fault_at("port_wait", 1, ENOMEM, false);
    CHECK_ERR(netkit_poller_wait(p, events, 4, -1), NETKIT_E_NOMEM);
    CHECK_EQ(nki_os_code(), ENOMEM);
    nkt_fault_clear();
    CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 2);
    CHECK_EQ(netkit_poller_wait(p, events, 4, -1), 2);
    poller_close(fds);
    poller_close(fds + 2);
    poller_done(p);
}

/* Z-02 W-02: a request that cannot be called off: what it asks too little is an error of the wait
 * until it can, and a socket taken out and put in again waits for the old packet. */
NKT_TEST(afd_failed_cancel) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    netkit_poll_event event;
    int fds[2];
    poller_pair(fds);
    uintptr_t fd = (uintptr_t)fds[0];
    CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ, 1));
    CHECK_EQ(poller_look(p, 1), 0);
    nkt_fault_at("nt_cancel", 1, ENOMEM, true);
    CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_WRITE, 2));
    CHECK_ERR(netkit_poller_wait(p, &event, 1, 0), NETKIT_E_NOMEM);
    CHECK_ERR(netkit_poller_wait(p, &event, 1, 0), NETKIT_E_NOMEM);
    nkt_fault_clear();
    CHECK_EQ(afd_next(p, 2), NETKIT_POLL_WRITE);
    CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_READ, 3));
    CHECK_EQ(poller_look(p, 3), 0);
    nkt_fault_at("nt_cancel", 1, ENOMEM, true);
    CHECK_OK(netkit_poller_remove(p, fd));
    CHECK_OK(netkit_poller_add(p, fd, NETKIT_POLL_READ, 4));
    CHECK_ERR(netkit_poller_wait(p, &event, 1, 0), NETKIT_E_NOMEM);
    nkt_fault_clear();
    CHECK_EQ(write(fds[1], "a", 1), 1);
    CHECK_EQ(afd_next(p, 4), NETKIT_POLL_READ);
    CHECK_EQ(poller_look(p, 4), NETKIT_POLL_READ);
    nkt_fault_at("nt_cancel", 1, ENOMEM, true); /* closing it ends it all the same */
    CHECK_OK(netkit_poller_modify(p, fd, NETKIT_POLL_PRIORITY, 5));
    CHECK_EQ(poller_look(p, 5), 0);
    CHECK_OK(netkit_poller_remove(p, fd));
    CHECK_EQ(afd_of(p)->out, 1);
    poller_close(fds);
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000), 0);
    CHECK_EQ(afd_of(p)->out, 0);
    poller_done(p);
}

/* Z-02 WN10: a poller that ends while calls fail has patience, and closes the device at last, which
 * ends what cannot be called off. */
NKT_TEST(afd_failed_end) {
    const char *calls[] = {"nt_cancel", "port_wait"};
    for (int i = 0; i < 2; i++) {
        netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
        int fds[2];
        poller_pair(fds);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
        CHECK_EQ(poller_look(p, 1), 0);
        for (uint64_t n = 1; n <= 3; n++) {
            nkt_fault_at(calls[i], n, ENOMEM, false);
        }
        poller_done(p);
        nkt_fault_clear();
        p = poller_open(NETKIT_BACKEND_AFD);
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
        CHECK_EQ(poller_look(p, 1), 0);
        nkt_fault_at(calls[i], 1, ENOMEM, true); /* for good */
        poller_done(p);
        nkt_fault_clear();
        poller_close(fds);
    }
}

/* Z-02 L-09: a socket that is closed while it is not asked for is told of by a packet of our own;
 * where that cannot be sent, the next wait tries. */
NKT_TEST(afd_closed_before_asked) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    netkit_poll_event event;
    int fds[2];
    poller_pair(fds);
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1));
    close(fds[0]);
    nkt_fault_at("port_post", 1, ENOMEM, false);
    CHECK_ERR(netkit_poller_wait(p, &event, 1, 0), NETKIT_E_NOMEM);
    nkt_fault_clear();
    CHECK_EQ(afd_next(p, 1), NETKIT_POLL_ERROR);
    CHECK_EQ(netkit_poller_wait(p, &event, 1, 1000), 0);
    CHECK_EQ(afd_of(p)->out, 0);
    CHECK_ERR(netkit_poller_add(p, (uintptr_t)fds[0], NETKIT_POLL_READ, 1), NETKIT_E_EXISTS);
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
    close(fds[1]);
    poller_done(p);
}

/* WN04 Z-02 L-11: what opening needs and does not get: AUTO takes the next one, a named one is an
 * error; nothing leaks. */
NKT_TEST(afd_failed_open) {
    const char *calls[] = {"ntdll", "port_create", "nt_open", "port_add"};
    netkit_poller_desc desc;
    netkit_poller *p;
    memset(&desc, 0, sizeof(desc));
    desc.backend = NETKIT_BACKEND_AFD;
    desc.allocator = nkt_allocator();
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        nkt_fault_at(calls[i], 1, EACCES, true);
        int rc = netkit_poller_create(&p, &desc);
        CHECK(rc == NETKIT_E_ACCESS || rc == NETKIT_E_NOMEM || rc == NETKIT_E_NOSYS);
        CHECK(p == NULL);
        CHECK_OK(netkit_poller_create(&p, NULL));
        CHECK_STR(netkit_poller_backend(p), "wsapoll");
        netkit_poller_destroy(p);
        nkt_fault_clear();
        CHECK_EQ(nkt_live_bytes(), 0);
    }
    nkt_fault_at("port_modes", 1, EACCES, true); /* that is only for speed */
    p = poller_open(NETKIT_BACKEND_AFD);
    poller_done(p);
}

/* WN11: what is no socket, and a socket whose layers do not answer: the system's own code. */
NKT_TEST(afd_only_sockets) {
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    HANDLE reader, writer;
    CHECK(event != NULL && CreatePipe(&reader, &writer, NULL, 0));
    for (int i = 0; i < POLLER_BACKENDS; i++) {
        netkit_poller *p = poller_open(poller_backends[i]);
        const uintptr_t others[] = {(uintptr_t)event, (uintptr_t)reader, 1, UINTPTR_MAX - 1};
        for (int n = 0; n < 4; n++) {
            CHECK_ERR(netkit_poller_add(p, others[n], NETKIT_POLL_READ, 1), NETKIT_E_INVALID);
            CHECK_EQ(nki_os_code(), WSAENOTSOCK);
            CHECK_ERR(netkit_poller_remove(p, others[n]), NETKIT_E_NOTFOUND);
        }
        poller_done(p);
    }
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    struct sockaddr_in at;
    int fd = afd_udp(&at, 2);
    nkt_fault_at("control", 1, WSAEOPNOTSUPP, true);
    CHECK_ERR(netkit_poller_add(p, (uintptr_t)fd, NETKIT_POLL_READ, 1), NETKIT_E_NOSYS);
    CHECK_EQ(nki_os_code(), WSAEOPNOTSUPP);
    nkt_fault_clear();
    CHECK_OK(netkit_poller_add(p, (uintptr_t)fd, NETKIT_POLL_WRITE, 1));
    CHECK_EQ(afd_next(p, 1), NETKIT_POLL_WRITE);
    CHECK_OK(netkit_poller_remove(p, (uintptr_t)fd));
    close(fd);
    poller_done(p);
    CloseHandle(event);
    CloseHandle(reader);
    CloseHandle(writer);
}

/* ---- WSAPoll ------------------------------------------------------------------------------- */

/* PL11 PL13: a hang-up told to who only wants to write tells him nothing, does not spin, and does
 * not keep him from being told what he wants. */
NKT_TEST(wsapoll_hangup_is_not_for_writers) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_WSAPOLL);
    nki_wsapoll *po = (nki_wsapoll *)p->base.state;
    netkit_poll_event events[4];
    int fds[4];
    poller_pair(fds);
    poller_pair(fds + 2);
    for (uint64_t n = 0; n < 4; n++) {
        CHECK_OK(netkit_poller_add(p, (uintptr_t)fds[n], NETKIT_POLL_WRITE, n));
    }
    CHECK_EQ(po->speaking, 5); /* with the wake */
    for (int round = 0; round < 3; round++) {
        for (int n = 0; n < 2; n++) {
            po->fds[nki_socket_table_get(&po->table, (uintptr_t)fds[n]) - 1].revents = POLLHUP;
        }
        CHECK_EQ(nki_wsapoll_scan(po, events, 4), 0);
        CHECK(po->speaking == 3 && po->mute == 2 && po->count == 5);
        if (round == 1) {
            CHECK_OK(netkit_poller_modify(p, (uintptr_t)fds[0], NETKIT_POLL_WRITE, 0));
            CHECK(po->speaking == 4 && po->mute == 1);
        } else if (round == 2) {
            CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[0]));
            CHECK_OK(netkit_poller_modify(p, (uintptr_t)fds[1], 0, 1));
            CHECK(po->speaking == 3 && po->mute == 0);
        }
        int told = 0;
        for (int n = 0; n < 2; n++) {
            told |= netkit_poller_wait(p, events, 4, 0);
        }
        CHECK_EQ(told, round == 0 ? (2 | 4) : round == 1 ? (3 | 4) : 2);
        CHECK(po->mute == 0);
    }
    for (int n = 1; n < 4; n++) {
        CHECK_OK(netkit_poller_remove(p, (uintptr_t)fds[n]));
    }
    poller_close(fds);
    poller_close(fds + 2);
    poller_done(p);
}

/* ---- what a message costs -------------------------------------------------------------------- */

static size_t afd_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                          void *user) {
    (void)user;
    CHECK_OK(netkit_conn_send(loop, conn, data, len));
    return len;
}

/* PL17: in the steady state a message is one wait, one request, one recv and one send, and nothing
 * is called off. */
NKT_TEST(afd_calls_of_an_echo) {
    enum {
        COUNT = 200
    };
    netkit_loop *loop;
    netkit_loop_desc desc;
    netkit_adopt_desc conn;
    int fds[2];
    memset(&desc, 0, sizeof(desc));
    memset(&conn, 0, sizeof(conn));
    desc.backend = NETKIT_BACKEND_AFD;
    CHECK_OK(netkit_loop_create(&loop, &desc));
    poller_pair(fds);
    conn.handler.on_data = afd_on_data;
    conn.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    CHECK_OK(netkit_adopt(loop, &conn, NULL));
    for (int n = -2; n < COUNT; n++) {
        char byte;
        if (n == 0) {
            nkt_calls_reset();
        }
        CHECK_EQ(write(fds[1], "a", 1), 1);
        CHECK_OK(netkit_loop_run_once(loop, 1000));
        CHECK_EQ(read(fds[1], &byte, 1), 1);
    }
    CHECK_EQ(nkt_calls("port_wait"), COUNT);
    CHECK_EQ(nkt_calls("nt_control"), COUNT);
    CHECK_EQ(nkt_calls("recv"), COUNT);
    CHECK_EQ(nkt_calls("send"), COUNT);
    CHECK_EQ(nkt_calls("nt_cancel"), 0);
    CHECK_EQ(nkt_calls(NULL) - nkt_calls("clock_gettime"), 4 * COUNT);
    CHECK_OK(netkit_loop_destroy(loop));
    close(fds[1]);
}

/* ---- waking, and waiting elsewhere ------------------------------------------------------ */

/* WN08 WN04 PL14: the wake is a packet: afd has no socket for it, wsapoll has. */
NKT_TEST(afd_wake_is_a_packet) {
    netkit_poller *p = poller_open(NETKIT_BACKEND_AFD);
    netkit_poll_event event;
    CHECK(p->wake.reader == UINTPTR_MAX && p->wake.writer == UINTPTR_MAX);
    nkt_calls_reset();
    CHECK_OK(netkit_poller_wake(p));
    CHECK_EQ(nkt_calls("port_post"), 1);
    CHECK_EQ(nkt_calls("send"), 0);
    CHECK_EQ(netkit_poller_wait(p, &event, 1, -1), 0);
    poller_done(p);
    p = poller_open(NETKIT_BACKEND_WSAPOLL);
    CHECK(p->wake.reader != UINTPTR_MAX && p->wake.writer != UINTPTR_MAX);
    poller_done(p);
}

/* PL08: a loop within a foreign one, which waits for its handle: told of what is ready, of changes
 * between turns, of posts; and asleep when there is nothing. */
NKT_TEST(afd_handle_to_wait_for) {
    netkit_loop *loop;
    netkit_loop_desc desc;
    netkit_watch watch;
    uintptr_t native;
    int fds[2];
    memset(&desc, 0, sizeof(desc));
    desc.backend = NETKIT_BACKEND_AFD;
    desc.allocator = nkt_allocator();
    CHECK_OK(netkit_loop_create(&loop, &desc));
    CHECK_OK(netkit_loop_native(loop, &native));
    HANDLE handle = (HANDLE)native;
    CHECK_EQ(WaitForSingleObject(handle, 0), WAIT_TIMEOUT);
    CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
    poller_pair(fds);
    CHECK_OK(netkit_watch_start(loop, &watch, (uintptr_t)fds[0], NETKIT_POLL_READ, afd_on_watch,
                                &fds[0]));
    CHECK_EQ(netkit_loop_timeout_ms(loop), 0); /* to be polled before somebody waits */
    CHECK_OK(netkit_loop_poll(loop, -1));
    for (int n = 1; n <= 100; n++) {
        CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
        CHECK_EQ(WaitForSingleObject(handle, 0), WAIT_TIMEOUT);
        CHECK_EQ(write(fds[1], "a", 1), 1);
        CHECK_EQ(WaitForSingleObject(handle, 1000), WAIT_OBJECT_0);
        CHECK_OK(netkit_loop_poll(loop, -1));
        CHECK_EQ(afd_watched, n);
    }
    CHECK_OK(netkit_watch_stop(loop, watch));
    CHECK_OK(netkit_loop_destroy(loop));
    CHECK_EQ(nkt_live_bytes(), 0);
    poller_close(fds);
    desc.backend = NETKIT_BACKEND_WSAPOLL;
    CHECK_OK(netkit_loop_create(&loop, &desc));
    CHECK_ERR(netkit_loop_native(loop, &native), NETKIT_E_NOSYS);
    CHECK_OK(netkit_loop_destroy(loop));
}

#endif /* NKI_HAS_AFD */
