/* What a reading of the loop with an adversary's eyes turned up, each reduced to a test. */

static int review_closes, review_opens, review_count;
static netkit_conn review_conns[8];

static void review_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)user;
    review_conns[review_opens++ % 8] = conn;
}

static void review_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                            void *user) {
    (void)loop;
    (void)conn;
    (void)info;
    (void)user;
    review_closes++;
}

/* A conn of the loop around one end of a pair; returns the other end, blocking. */
static int review_adopt(netkit_loop *loop, const netkit_adopt_desc *like, netkit_conn *conn) {
    netkit_adopt_desc desc = *like;
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    desc.socket = netkit_socket_from_native((uintptr_t)pair[1]);
    desc.handler.on_open = desc.handler.on_open == NULL ? review_on_open : desc.handler.on_open;
    desc.handler.on_close = review_on_close;
    CHECK_OK(netkit_adopt(loop, &desc, conn));
    CHECK_OK(netkit_loop_poll(loop, -1));
    return pair[0];
}

static void review_turns(netkit_loop *loop, const int *counter, int wanted) {
    uint64_t end = nkt_now_ns() + 5000000000u * nkt_slowness;
    while (*counter < wanted && nkt_now_ns() < end) {
        CHECK_OK(netkit_loop_run_once(loop, 5));
    }
    CHECK_EQ(*counter, wanted);
}

/* A flush that fails, among others that die in the same turn: each is told of once. */
NKT_LOOP_TEST(review_flush_that_fails) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    netkit_conn conns[3];
    int peers[3];
    memset(&desc, 0, sizeof(desc));
    for (int i = 0; i < 3; i++) {
        peers[i] = review_adopt(loop, &desc, &conns[i]);
        CHECK_OK(netkit_conn_send(loop, conns[i], "x", 1));
    }
    CHECK_OK(netkit_loop_flush(loop));
    CHECK_OK(netkit_conn_abort(loop, conns[0]));
    nkt_fault_at("send", 1, ENOBUFS, false);
    CHECK_OK(netkit_conn_send_borrowed(loop, conns[1], "y", 1, NULL, NULL));
    CHECK_OK(netkit_conn_flush(loop, conns[1]));
    nkt_fault_clear();
    CHECK_OK(netkit_conn_abort(loop, conns[2]));
    review_turns(loop, &review_closes, 3);
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(review_closes, 3);
    for (int i = 0; i < 3; i++) {
        close(peers[i]);
    }
    nkt_loop_done(loop);
}

static size_t review_answer(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                            void *user) {
    (void)data;
    CHECK_OK(netkit_conn_send(loop, conn, user, strlen((const char *)user)));
    return len;
}

/* What a conn has queued when its send fails dies with it: the next one sends its own alone. */
NKT_LOOP_TEST(review_staged_bytes_die_with_their_conn) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    netkit_conn a, b;
    char in[64];
    char secret[] = "the secret of a", plain[] = "plain b";
    memset(&desc, 0, sizeof(desc));
    desc.handler.on_data = review_answer;
    desc.user = secret;
    int peer_a = review_adopt(loop, &desc, &a);
    desc.user = plain;
    int peer_b = review_adopt(loop, &desc, &b);
    for (int failure = 0; failure < 2; failure++) {
        if (failure == 1) { /* the system takes nothing, and there is no memory to keep it */
            close(peer_a);
            desc.user = secret;
            peer_a = review_adopt(loop, &desc, &a);
            nkt_alloc_fail_at(1, true);
        }
        CHECK(send(peer_a, "?", 1, 0) == 1);
        nkt_fault_at("send", 1, failure == 0 ? ENOBUFS : EAGAIN, false);
        review_turns(loop, &review_closes, failure + 1);
        nkt_fault_clear();
        nkt_alloc_fail_at(0, false);
        CHECK(send(peer_b, "?", 1, 0) == 1);
        CHECK_OK(netkit_loop_run_once(loop, 1000));
        CHECK_EQ(recv(peer_b, in, sizeof(in), MSG_DONTWAIT), (int)strlen(plain));
        CHECK_MEM(in, plain, strlen(plain));
    }
    close(peer_a);
    close(peer_b);
    nkt_loop_done(loop);
}

/* R5: a budget of nothing still gets through everything in the end, for pullers too. */
NKT_LOOP_TEST(review_pull_with_no_budget) {
    netkit_loop_desc desc;
    netkit_event ev;
    netkit_timer timer;
    int events = 0;
    memset(&desc, 0, sizeof(desc));
    desc.pull = true;
    netkit_loop *loop = nkt_loop_with(&desc);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(netkit_timer_start(loop, &timer, 0, 0, NULL, NULL));
    }
    for (int frame = 0; frame < 1000 && events < 3; frame++) {
        CHECK_OK(netkit_loop_poll(loop, 0));
        while (netkit_loop_next(loop, &ev) == 1) {
            events += ev.type == NETKIT_EVENT_TIMER;
        }
    }
    CHECK_EQ(events, 3);
    nkt_loop_done(loop);
}

static void review_crowd(netkit_loop *loop, netkit_timer timer, void *user) {
    netkit_timer more;
    review_count++;
    if (user == NULL || review_count > 1) {
        return;
    }
    nkt_alloc_fail_at(1, true);
    while (netkit_timer_start(loop, &more, 60000000, 0, review_crowd, NULL) == NETKIT_OK) {
    }
    CHECK_OK(netkit_timer_restart(loop, timer, 0));
    nkt_alloc_fail_at(0, false);
}

static netkit_timer review_timer;

static void review_stop_last(netkit_loop *loop, void *user) {
    (void)user;
    (void)netkit_timer_stop(loop, review_timer);
}

static void review_on_alarm(int signal) {
    (void)signal;
    nkt_stop(NKT_FAILED, "netkit_loop_run waits for nothing");
}

/* A run whose last reference goes before it waits, or which has but bytes to send, returns. */
NKT_LOOP_TEST(review_run_with_nothing_left) {
    netkit_loop_desc desc;
    netkit_adopt_desc adopt;
    netkit_conn conn;
    char in[4];
    memset(&desc, 0, sizeof(desc));
    memset(&adopt, 0, sizeof(adopt));
    CHECK(nkt_alarm(5000000, 0, review_on_alarm));
    netkit_loop *loop = nkt_loop();
    int peer = review_adopt(loop, &adopt, &conn);
    CHECK_OK(netkit_conn_set_referenced(loop, conn, false));
    CHECK_OK(netkit_conn_send(loop, conn, "bye", 3));
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(recv(peer, in, 4, MSG_DONTWAIT), 3);
    close(peer);
    nkt_loop_done(loop);
    desc.before_turn = review_stop_last;
    loop = nkt_loop_with(&desc);
    CHECK_OK(netkit_timer_start(loop, &review_timer, 60000000, 0, review_crowd, NULL));
    CHECK_OK(netkit_loop_run(loop));
    CHECK(nkt_alarm(0, 0, review_on_alarm));
    nkt_loop_done(loop);
}

static netkit_watch review_watches[2];

static void review_silence_other(netkit_loop *loop, netkit_watch watch, uint32_t events,
                                 void *user) {
    int other = watch.id == review_watches[0].id;
    (void)events;
    (void)user;
    review_count++;
    CHECK_OK(netkit_watch_set(loop, review_watches[other], 0));
    CHECK_OK(netkit_watch_set(loop, watch, 0));
}

/* An event of a watch that was silenced by an earlier one of the same batch does not come. */
NKT_LOOP_TEST(review_watch_silenced_in_its_batch) {
    netkit_loop *loop = nkt_loop();
    int pipes[2][2];
    for (int i = 0; i < 2; i++) {
        CHECK(pipe(pipes[i]) == 0 && write(pipes[i][1], "x", 1) == 1);
        CHECK_OK(netkit_watch_start(loop, &review_watches[i], (uintptr_t)pipes[i][0],
                                    NETKIT_POLL_READ, review_silence_other, NULL));
    }
    CHECK_OK(netkit_loop_run_once(loop, 1000));
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(review_count, 1);
    for (int i = 0; i < 2; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    nkt_loop_done(loop);
}

/* A live timer can always be restarted, from its callback too, however full the queue is. */
NKT_LOOP_TEST(review_restart_needs_no_memory) {
    netkit_loop *loop = nkt_loop();
    CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, review_crowd, &review_count));
    review_turns(loop, &review_count, 2);
    nkt_loop_done(loop);
}

enum {
    REVIEW_REPLY = 200000,
    REVIEW_REQUESTS = 64
};

/* A reply of 200,000 bytes for each byte; what finds the queue full is left for on_drain. */
static size_t review_big_answers(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    static char reply[REVIEW_REPLY];
    (void)data;
    (void)user;
    for (size_t i = 0; i < len; i++) {
        int rc = netkit_conn_send(loop, conn, reply, sizeof(reply));
        if (rc == NETKIT_E_FULL) {
            return i;
        }
        CHECK_OK(rc);
    }
    return len;
}

/* C1 I3: requests that wait for a drain are served before the peer's end is told. */
NKT_LOOP_TEST(review_end_comes_behind_the_rest) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    netkit_conn conn;
    static char in[100000];
    size_t got = 0;
    ssize_t n = 0;
    memset(&desc, 0, sizeof(desc));
    desc.handler.on_data = review_big_answers;
    int peer = review_adopt(loop, &desc, &conn);
    memset(in, '?', REVIEW_REQUESTS);
    CHECK(send(peer, in, REVIEW_REQUESTS, 0) == REVIEW_REQUESTS);
    CHECK(shutdown(peer, SHUT_WR) == 0);
    for (int i = 0; i < 20; i++) { /* the peer does not read yet */
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    for (int i = 0; i < 100000 && review_closes == 0; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 1));
        while ((n = recv(peer, in, sizeof(in), MSG_DONTWAIT)) > 0) {
            got += (size_t)n;
        }
    }
    while ((n = recv(peer, in, sizeof(in), MSG_DONTWAIT)) > 0) {
        got += (size_t)n;
    }
    CHECK_EQ(got, (size_t)REVIEW_REQUESTS * REVIEW_REPLY);
    close(peer);
    nkt_loop_done(loop);
}

static void review_on_post(netkit_loop *loop, int status, void *user) {
    (void)status;
    (void)user;
    if (++review_count == 2) {
        CHECK_OK(netkit_loop_stop(loop));
    }
}

/* Whether there are two ways to wake it, one after the other. */
static bool review_has_messages(const netkit_loop *loop) {
#if NKI_HAS_URING
    return nkt_backend == NETKIT_BACKEND_URING && nki_u_of(loop)->message_fd >= 0;
#else
    (void)loop;
    return false;
#endif
}

static void *review_poster(void *user) {
    netkit_loop *loop = (netkit_loop *)user;
    nkt_fault_wake(EIO);
    nkt_sleep_ms(20);
    CHECK_OK(netkit_loop_post(loop, review_on_post, NULL)); /* its wake is lost */
    CHECK_EQ(nkt_faults(), review_has_messages(loop) ? 2 : 1);
    CHECK_OK(netkit_loop_post(loop, review_on_post, NULL));
    nkt_fault_clear();
    return NULL;
}

/* I6: a wake that fails does not make the later ones silent. */
NKT_LOOP_TEST(review_lost_wake) {
    netkit_loop *loop = nkt_loop();
    netkit_timer timer;
    pthread_t thread;
    CHECK_OK(netkit_timer_start(loop, &timer, 60000000, 0, review_crowd, NULL));
    CHECK(pthread_create(&thread, NULL, review_poster, loop) == 0);
    CHECK_OK(netkit_loop_run_once(loop, 4000));
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(review_count, 2);
    pthread_join(thread, NULL);
    nkt_loop_done(loop);
}

static netkit_handler review_upgraded;

static size_t review_upgrade(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    CHECK(len > 1 && *(const char *)data == '1');
    CHECK_OK(netkit_conn_set_handler(loop, conn, &review_upgraded, user));
    return 1;
}

static size_t review_second(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                            void *user) {
    (void)loop;
    (void)conn;
    (void)user;
    CHECK_MEM(data, "second", 6);
    review_count++;
    return len;
}

/* C7: what the old table leaves is the new one's, even when nothing comes behind it. */
NKT_LOOP_TEST(review_rest_goes_to_the_new_handler) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    netkit_conn conn;
    memset(&desc, 0, sizeof(desc));
    desc.handler.on_data = review_upgrade;
    review_upgraded.on_data = review_second;
    review_upgraded.on_close = review_on_close;
    int peer = review_adopt(loop, &desc, &conn);
    CHECK(send(peer, "1second", 7, 0) == 7);
    review_turns(loop, &review_count, 1);
    close(peer);
    nkt_loop_done(loop);
}

static int review_errors;

static void review_on_error(netkit_loop *loop, netkit_listener l, int code, int os_code,
                            void *user) {
    (void)loop;
    (void)l;
    (void)os_code;
    (void)user;
    CHECK(code == NETKIT_E_FULL || code == NETKIT_E_NOMEM);
    review_errors++;
}

/* Connections beyond objects_max wait in the backlog and are served when there is room. */
NKT_LOOP_TEST(review_full_loop_lets_them_wait) {
    netkit_loop_desc desc;
    netkit_listen_desc listen;
    netkit_listener l;
    netkit_addr addr;
    netkit_socket peers[3];
    char in[1];
    memset(&desc, 0, sizeof(desc));
    memset(&listen, 0, sizeof(listen));
    desc.objects_max = 3;
    netkit_loop *loop = nkt_loop_with(&desc);
    listen.address = "127.0.0.1:0";
    listen.on_error = review_on_error;
    listen.handler.on_open = review_on_open;
    listen.handler.on_close = review_on_close;
    CHECK_OK(netkit_listen(loop, &listen, &l));
    CHECK_OK(netkit_listener_local(loop, l, &addr));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(netkit_socket_open(&peers[i], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(peers[i], &addr, 1000));
    }
    review_turns(loop, &review_opens, 2);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 2));
    }
    CHECK_EQ(review_errors, 1);                                     /* once for the burst */
    CHECK_ERR(netkit_socket_recv(peers[2], in, 1), NETKIT_E_AGAIN); /* no reset */
    CHECK_OK(netkit_socket_close(&peers[0]));
    review_turns(loop, &review_opens, 3);
    CHECK_OK(netkit_socket_close(&peers[1]));
    CHECK_OK(netkit_socket_close(&peers[2]));
    nkt_loop_done(loop);
}

/* I8: connections that cannot be admitted are one burst: one report, and the pause doubles. */
NKT_LOOP_TEST(review_admitting_fails_in_a_row) {
    netkit_loop *loop = nkt_loop();
    netkit_listen_desc listen;
    netkit_listener l;
    netkit_addr addr;
    netkit_socket peers[6];
    memset(&listen, 0, sizeof(listen));
    listen.address = "127.0.0.1:0";
    listen.on_error = review_on_error;
    listen.handler.on_open = review_on_open;
    listen.handler.on_close = review_on_close;
    listen.conn.ext_size = 1000;
    CHECK_OK(netkit_listen(loop, &listen, &l));
    CHECK_OK(netkit_listener_local(loop, l, &addr));
    for (int i = 0; i < 6; i++) {
        CHECK_OK(netkit_socket_open(&peers[i], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(peers[i], &addr, 1000));
    }
    nkt_alloc_fail_at(1, true);
    for (int i = 0; i < 30; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 2));
    }
    nkt_alloc_fail_at(0, false);
    CHECK_EQ(review_errors, 1);
    CHECK(review_opens < 6);
    for (int i = 0; i < 6; i++) {
        CHECK_OK(netkit_socket_close(&peers[i]));
    }
    nkt_loop_done(loop);
}

/* ---- states in which there is nothing to do --------------------------------------- */

static void review_keep_open(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)conn;
    (void)user;
}

static size_t review_use_nothing(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                 void *user) {
    (void)loop;
    (void)conn;
    (void)data;
    (void)len;
    (void)user;
    return 0;
}

static void review_fill(netkit_loop *loop, netkit_conn conn) {
    static char bytes[10000];
    int rc;
    do {
        rc = netkit_conn_send(loop, conn, bytes, sizeof(bytes));
        CHECK_OK(netkit_loop_poll(loop, -1));
    } while (rc == NETKIT_OK);
    CHECK_ERR(rc, NETKIT_E_FULL);
}

/* Bring a conn and its peer into a state with events that nobody wants now. */
static void review_idle_state(netkit_loop *loop, int state, netkit_conn conn, int peer) {
    switch (state) {
    case 0:
    case 1: /* paused, before data; and the end as well */
        CHECK_OK(netkit_conn_pause(loop, conn));
        CHECK(send(peer, "x", 1, 0) == 1);
        CHECK(state == 0 || shutdown(peer, SHUT_WR) == 0);
        break;
    case 2: /* the end has been told, and both directions are over */
        CHECK(shutdown(peer, SHUT_RDWR) == 0);
        break;
    case 3: /* a rest that waits for more */ CHECK(send(peer, "x", 1, 0) == 1); break;
    case 4: /* nothing can be sent, so nothing is read */
        review_fill(loop, conn);
        CHECK(send(peer, "x", 1, 0) == 1);
        break;
    case 5: /* closing: the peer does not end its side */
        CHECK_OK(netkit_conn_close(loop, conn));
        break;
    case 6: /* closing, and what is queued does not go */
        review_fill(loop, conn);
        CHECK_OK(netkit_conn_close(loop, conn));
        break;
    case 7: /* our end, then theirs, and nobody closes */
        CHECK_OK(netkit_conn_shutdown(loop, conn));
        CHECK(shutdown(peer, SHUT_WR) == 0);
        break;
    default: /* paused with the queue full */
        review_fill(loop, conn);
        CHECK_OK(netkit_conn_pause(loop, conn));
        CHECK(send(peer, "x", 1, 0) == 1);
        break;
    }
}

static void review_expect_rest(netkit_loop *loop) {
    for (int i = 0; i < 10; i++) {
        CHECK_OK(netkit_loop_poll(loop, -1));
    }
    uint64_t turns = netkit_loop_turns(loop);
    uint64_t end = nkt_now_ns() + 40000000u;
    while (nkt_now_ns() < end) {
        CHECK_OK(netkit_loop_run_once(loop, 20));
    }
    CHECK(netkit_loop_turns(loop) - turns <= 20); /* 2, tenfold */
}

/* With nothing to do the loop sleeps, whatever the system has to say about a conn. */
NKT_LOOP_TEST(review_idle_states_do_not_spin) {
    for (int state = 0; state <= 8; state++) {
        netkit_loop *loop = nkt_loop();
        netkit_adopt_desc desc;
        netkit_conn conn;
        memset(&desc, 0, sizeof(desc));
        desc.handler.on_eof = review_keep_open;
        desc.handler.on_data = review_use_nothing;
        int peer = review_adopt(loop, &desc, &conn);
        review_idle_state(loop, state, conn, peer);
        review_expect_rest(loop);
        CHECK_EQ(review_closes, state);
        close(peer);
        nkt_loop_done(loop);
        CHECK_EQ(review_closes, state + 1);
    }
}

/* Nor does a full listener spin, or a silenced watch of a pipe that has hung up. */
NKT_LOOP_TEST(review_idle_listener_and_watch) {
    netkit_loop *loop = nkt_loop();
    netkit_listen_desc listen;
    netkit_listener l;
    netkit_watch watch;
    netkit_addr addr;
    netkit_socket peers[2];
    int ends[2];
    memset(&listen, 0, sizeof(listen));
    listen.address = "127.0.0.1:0";
    listen.conns_max = 1;
    listen.handler.on_close = review_on_close;
    CHECK_OK(netkit_listen(loop, &listen, &l));
    CHECK_OK(netkit_listener_local(loop, l, &addr));
    for (int i = 0; i < 2; i++) {
        CHECK_OK(netkit_socket_open(&peers[i], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(peers[i], &addr, 1000));
    }
    CHECK(pipe(ends) == 0 && close(ends[1]) == 0);
    CHECK_OK(netkit_watch_start(loop, &watch, (uintptr_t)ends[0], NETKIT_POLL_READ,
                                review_silence_other, NULL));
    CHECK_OK(netkit_watch_set(loop, watch, 0));
    review_expect_rest(loop);
    CHECK_EQ(netkit_loop_objects(loop), 3);
    CHECK_OK(netkit_watch_stop(loop, watch));
    close(ends[0]);
    CHECK_OK(netkit_socket_close(&peers[0]));
    CHECK_OK(netkit_socket_close(&peers[1]));
    nkt_loop_done(loop);
}

static netkit_conn review_pair[2];

static size_t review_kill_other(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                void *user) {
    int other = conn.id == review_pair[0].id;
    (void)data;
    (void)user;
    review_count++;
    CHECK_OK(netkit_conn_send(loop, review_pair[other], "late", 4));
    CHECK_OK(netkit_conn_abort(loop, review_pair[other]));
    CHECK_ERR(netkit_conn_send(loop, review_pair[other], "x", 1), NETKIT_E_CLOSED);
    return len;
}

/* I5: two conns with an event in one batch, the first served ends the other: its event is dropped
 * and its end told once, although it had bytes queued from outside. */
NKT_LOOP_TEST(review_event_of_one_that_just_died) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    int peers[2];
    memset(&desc, 0, sizeof(desc));
    desc.handler.on_data = review_kill_other;
    for (int i = 0; i < 2; i++) {
        peers[i] = review_adopt(loop, &desc, &review_pair[i]);
    }
    CHECK(send(peers[0], "x", 1, 0) == 1 && send(peers[1], "x", 1, 0) == 1);
    review_turns(loop, &review_closes, 1);
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(review_count, 1);
    CHECK_EQ(review_closes, 1);
    close(peers[0]);
    close(peers[1]);
    nkt_loop_done(loop);
    CHECK_EQ(review_closes, 2);
}

static unsigned char review_lent[100];
static netkit_conn review_lender;

static void review_lend_again(netkit_loop *loop, int status, void *user) {
    (void)user;
    if (status == NETKIT_OK && ++review_count < 1000) {
        int rc = netkit_conn_send_borrowed(loop, review_lender, review_lent, sizeof(review_lent),
                                           review_lend_again, NULL);
        CHECK(rc == NETKIT_OK || rc == NETKIT_E_CLOSED); /* at the end the loop is destroyed */
    }
}

static void review_note_turns(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    *(int *)user = review_count;
}

/* A release that lends anew, for as long as the system takes it, does not hold up a timer. */
NKT_LOOP_TEST(review_release_lends_again) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    int at_timer = -1;
    memset(&desc, 0, sizeof(desc));
    int peer = review_adopt(loop, &desc, &review_lender);
    CHECK_OK(netkit_conn_send_borrowed(loop, review_lender, review_lent, sizeof(review_lent),
                                       review_lend_again, NULL));
    CHECK_OK(netkit_timer_start(loop, NULL, 0, 0, review_note_turns, &at_timer));
    while (review_count < 50) {
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
    CHECK(at_timer >= 0 && at_timer < 50);
    close(peer);
    nkt_loop_done(loop);
}
