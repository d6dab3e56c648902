/* A loop inside a foreign one: a descriptor to wait for and a time, then a poll. */

#include "support.h"
#include "support_loop.h"

/* One round of a foreign loop: wait as the loop says, then let it work. */
static void embed_round(netkit_loop *loop) {
    uintptr_t native = 0;
    int timeout = netkit_loop_timeout_ms(loop);
    int code = netkit_loop_native(loop, &native);
    struct pollfd p;
    CHECK(timeout >= -1);
    if (nkt_backend == NETKIT_BACKEND_POLL || nkt_backend == NETKIT_BACKEND_WSAPOLL) {
        CHECK_ERR(code, NETKIT_E_NOSYS);
        timeout = timeout < 0 || timeout > 1 ? 1 : timeout; /* nothing to wait for: look often */
        CHECK(poll(NULL, 0, timeout) >= 0);
    } else {
        CHECK_OK(code);
        p.fd = (int)native;
        p.events = POLLIN;
        p.revents = 0;
        CHECK(poll(&p, 1, timeout < 0 || timeout > 5000 ? 5000 : timeout) >= 0);
    }
    CHECK_OK(netkit_loop_poll(loop, -1));
}

static void embed_tick(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)loop;
    (void)timer;
    ++*(int *)user;
}

static void embed_posted(netkit_loop *loop, int status, void *user) {
    (void)loop;
    CHECK_OK(status);
    TL_ADD((int *)user, 1);
}

typedef struct embed_far {
    netkit_loop *loop;
    int fd, posted;
    bool is_right;
} embed_far;

static void *embed_far_thread(void *user) {
    embed_far *other = (embed_far *)user;
    for (int i = 0; i < 100; i++) {
        char data[8] = "message";
        CHECK_EQ(send(other->fd, data, sizeof(data), MSG_NOSIGNAL), sizeof(data));
        CHECK_EQ(recv(other->fd, data, sizeof(data), MSG_WAITALL), sizeof(data));
        CHECK_STR(data, "message");
        CHECK_OK(netkit_loop_post(other->loop, embed_posted, &other->posted));
        for (uint64_t end = tl_deadline(); TL_GET(&other->posted) <= i;) {
            CHECK(nkt_now_ns() < end);
            sched_yield();
        }
    }
    TL_SET(&other->is_right, true);
    return NULL;
}

/* BX10 PL22 TM04: echo, timers and posts of another thread, all driven by a foreign poll(). */
NKT_LOOP_TEST(embed_in_a_foreign_loop) {
    static tl_conn c;
    netkit_loop *loop = nkt_loop();
    embed_far other = {loop, -1, 0, false};
    pthread_t thread;
    int ticks = 0;
    uint64_t began = nkt_now_ns(), rounds = 0;
    uintptr_t native;
    (void)netkit_loop_native(loop, &native); /* before the first turn */
    c.is_echo = true;
    tl_adopt(loop, &c);
    other.fd = c.peer;
    CHECK_OK(netkit_timer_start(loop, NULL, 5000, 5000, embed_tick, &ticks));
    CHECK_EQ(pthread_create(&thread, NULL, embed_far_thread, &other), 0);
    while (!TL_GET(&other.is_right) || ticks < 5) {
        embed_round(loop);
        rounds++;
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK((uint64_t)ticks <= (nkt_now_ns() - began) / 5000000);
    CHECK_EQ(c.bytes, 800);
    printf("%" PRIu64 " rounds\n", rounds);
    tl_drop(loop, &c);
    nkt_loop_done(loop);
}

/* PL22 TM04 M-06: how long the loop may be left alone: never by itself, until a timer rounded up,
 * not at all when something waits. */
NKT_LOOP_TEST(embed_tells_its_time) {
    static tl_conn c;
    netkit_loop *loop = nkt_loop();
    netkit_timer timer = {0};
    int ticks = 0, posted = 0, ms;
    char text[8];
    CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
    CHECK_OK(netkit_timer_start(loop, &timer, 50500, 0, embed_tick, &ticks));
    ms = netkit_loop_timeout_ms(loop);
    CHECK(ms > 0 && ms <= 51);
    CHECK_OK(netkit_timer_restart(loop, timer, 300));
    ms = netkit_loop_timeout_ms(loop);
    CHECK(ms == 0 || ms == 1);
    nkt_sleep_ms(2);
    CHECK_EQ(netkit_loop_timeout_ms(loop), 0);
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(ticks, 1);
    CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
    CHECK_OK(netkit_loop_post(loop, embed_posted, &posted));
    CHECK_EQ(netkit_loop_timeout_ms(loop), 0);
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(posted, 1);
    tl_open(loop, &c);
    tl_settle(loop);
    CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
    CHECK_OK(netkit_conn_send(loop, c.handle, "x", 1)); /* queued: it must not wait */
    if (netkit_loop_timeout_ms(loop) == 0) {            /* else asking has sent it */
        CHECK_OK(netkit_loop_poll(loop, -1));
    }
    CHECK_STR(tl_hear(c.peer, text, sizeof(text)), "x");
    CHECK_OK(netkit_conn_abort(loop, c.handle)); /* its on_close is due */
    CHECK_EQ(netkit_loop_timeout_ms(loop), 0);
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(c.closes, 1);
    CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
    CHECK_OK(netkit_timer_start(loop, &timer, UINT64_MAX, 0, embed_tick, &ticks));
    ms = netkit_loop_timeout_ms(loop);
    CHECK(ms == -1 || ms > 1000000000);
    tl_hang_up(&c);
    nkt_loop_done(loop);
}

/* PL22 BX10: with work left by a budget the descriptor may be silent, so the time says now. */
NKT_LOOP_TEST(embed_forgets_no_work) {
    enum {
        COUNT = 10
    };
    static tl_conn all[COUNT];
    static char data[5000];
    netkit_loop_desc desc;
    netkit_loop *loop;
    uintptr_t native;
    uint64_t got = 0;
    memset(&desc, 0, sizeof(desc));
    desc.conn_budget = 500;
    desc.events_max = 2;
    loop = nkt_loop_with(&desc);
    (void)netkit_loop_native(loop, &native); /* before the first turn */
    for (int i = 0; i < COUNT; i++) {
        tl_open(loop, &all[i]);
    }
    tl_settle(loop);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(send(all[i].peer, data, sizeof(data), 0), sizeof(data));
    }
    for (uint64_t end = tl_deadline(); got < COUNT * sizeof(data);) {
        uint64_t began = nkt_now_ns();
        embed_round(loop);
        CHECK(nkt_now_ns() - began < 4000000000u * nkt_slowness); /* never asleep on unread bytes */
        CHECK(nkt_now_ns() < end);
        got = 0;
        for (int i = 0; i < COUNT; i++) {
            got += all[i].bytes;
        }
    }
    for (int i = 0; i < COUNT; i++) {
        tl_drop(loop, &all[i]);
    }
    nkt_loop_done(loop);
}

#if NKI_POSIX
/* A round of a foreign poll with nothing that keeps time: what happens must wake it. */
static void embed_sleep(netkit_loop *loop) {
    uintptr_t native;
    struct pollfd p;
    int timeout = netkit_loop_timeout_ms(loop);
    CHECK_OK(netkit_loop_native(loop, &native));
    p.fd = (int)native;
    p.events = POLLIN;
    p.revents = 0;
    CHECK(poll(&p, 1, timeout < 0 ? 8000 : timeout) > 0 || timeout >= 0);
    CHECK_OK(netkit_loop_poll(loop, -1));
}

enum {
    EMBED_ROUNDS = 5,
    EMBED_HALVES = 45
};

typedef struct embed_slow {
    netkit_loop *loop;
    int pair, tcp, pipe[2], event; /* to write to, and of the pipe to read from */
    int posted, piped, signalled;
} embed_slow;

/* One thing after the other, each long after the loop has fallen asleep again. */
static void *embed_slow_thread(void *user) {
    embed_slow *other = (embed_slow *)user;
    for (int i = 0; i < EMBED_ROUNDS; i++) {
        nkt_sleep_ms(20);
        CHECK_OK(netkit_loop_post(other->loop, embed_posted, &other->posted));
        nkt_sleep_ms(20);
        CHECK_EQ(write(other->pipe[1], "x", 1), 1);
        nkt_sleep_ms(20);
        CHECK_EQ(send(other->pair, "data", 4, MSG_NOSIGNAL), 4);
        nkt_sleep_ms(20);
        CHECK_EQ(send(other->tcp, "d", 1, MSG_NOSIGNAL), 1);
#if NKI_HAS_EVENTFD
        uint64_t one = 1;
        nkt_sleep_ms(20);
        CHECK_EQ(write(other->event, &one, sizeof(one)), sizeof(one));
#endif
    }
    return NULL;
}

static void embed_on_pipe(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    embed_slow *other = (embed_slow *)user;
    char c;
    (void)loop;
    (void)watch;
    CHECK((events & NETKIT_POLL_READ) != 0);
    CHECK_EQ(read(other->pipe[0], &c, 1), 1);
    other->piped++;
}

#if NKI_HAS_EVENTFD
static void embed_on_event(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    embed_slow *other = (embed_slow *)user;
    uint64_t count;
    (void)loop;
    (void)watch;
    CHECK((events & NETKIT_POLL_READ) != 0);
    CHECK_EQ(read(other->event, &count, sizeof(count)), sizeof(count));
    other->signalled += (int)count;
}
#endif

/* Whether this backend has a descriptor to wait for; asked before the first turn. */
static bool embed_has_native(netkit_loop *loop) {
    uintptr_t native;
    int code = netkit_loop_native(loop, &native);
    CHECK(code == NETKIT_OK || code == NETKIT_E_NOSYS);
    return code == NETKIT_OK;
}

static void embed_until_all(netkit_loop *loop, const embed_slow *other, const tl_conn *pair,
                            const sup_end *tcp) {
    int signals = NKI_HAS_EVENTFD ? EMBED_ROUNDS : 0, rounds = 0;
    uint64_t end = tl_deadline();
    while (pair->bytes < 4 * EMBED_ROUNDS || tcp->bytes < EMBED_ROUNDS ||
           other->piped < EMBED_ROUNDS || other->signalled < signals ||
           TL_GET(&other->posted) < EMBED_ROUNDS) {
        CHECK(nkt_now_ns() < end);
        embed_sleep(loop);
        rounds++;
    }
    CHECK(rounds < 10 * 5 * EMBED_ROUNDS); /* in between it sleeps */
}

/* PL22 BX10 UR18: without a timer, each post of another thread, byte of a connection, readable pipe
 * and eventfd wakes the foreign loop, and not only the first of them. */
NKT_LOOP_TEST(embed_wakes_for_everything) {
    static tl_conn pair;
    netkit_loop *loop = nkt_loop();
    sup_end tcp;
    embed_slow other;
    pthread_t thread;
    netkit_watch watches[2];
    memset(&other, 0, sizeof(other));
    if (!embed_has_native(loop)) {
        nkt_loop_done(loop);
        return;
    }
    tl_adopt(loop, &pair);
    sup_peer peer = sup_open_default(loop, &tcp);
    tcp.is_text = true;
    other.loop = loop;
    other.pair = pair.peer;
    other.tcp = peer.fd;
    CHECK_EQ(pipe(other.pipe), 0);
    CHECK_OK(netkit_watch_start(loop, &watches[0], (uintptr_t)other.pipe[0], NETKIT_POLL_READ,
                                embed_on_pipe, &other));
#if NKI_HAS_EVENTFD
    other.event = eventfd(0, EFD_CLOEXEC);
    CHECK(other.event >= 0);
    CHECK_OK(netkit_watch_start(loop, &watches[1], (uintptr_t)other.event, NETKIT_POLL_READ,
                                embed_on_event, &other));
#endif
    CHECK_EQ(pthread_create(&thread, NULL, embed_slow_thread, &other), 0);
    embed_until_all(loop, &other, &pair, &tcp);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(netkit_watch_stop(loop, watches[0]));
#if NKI_HAS_EVENTFD
    CHECK_OK(netkit_watch_stop(loop, watches[1]));
    close(other.event);
#endif
    close(other.pipe[0]);
    close(other.pipe[1]);
    sup_peer_close(&peer);
    tl_drop(loop, &pair);
    SUP_UNTIL(loop, tcp.eofs + tcp.closes > 0);
    nkt_loop_done(loop);
}

/* PL22 BX10 UR06: what the system does for conns that hear of nothing (here the acknowledgements of
 * their ends) keeps neither a foreign loop nor a game's frame from what has come for others. */
NKT_LOOP_TEST(embed_behind_much_ado_about_nothing) {
    static sup_end ends[EMBED_HALVES + 1];
    static sup_peer peers[EMBED_HALVES + 1];
    for (int is_foreign = 0; is_foreign < 2; is_foreign++) {
        netkit_loop *loop = nkt_loop();
        if (is_foreign == 1 && !embed_has_native(loop)) {
            nkt_loop_done(loop);
            return;
        }
        for (int i = 0; i <= EMBED_HALVES; i++) {
            peers[i] = sup_open_default(loop, &ends[i]);
        }
        for (int i = 0; i < EMBED_HALVES; i++) {
            CHECK_OK(netkit_conn_shutdown(loop, ends[i].conn));
        }
        CHECK_OK(netkit_loop_poll(loop, -1));
        nkt_sleep_ms(120);
        peers[EMBED_HALVES].to_send = 1;
        sup_peer_step(&peers[EMBED_HALVES]);
        if (is_foreign == 1) {
            for (uint64_t end = tl_deadline(); ends[EMBED_HALVES].bytes == 0;) {
                CHECK(nkt_now_ns() < end);
                embed_sleep(loop);
            }
        } else {
            nkt_sleep_ms(20);
            CHECK_OK(netkit_loop_poll(loop, -1));
            CHECK_EQ(ends[EMBED_HALVES].bytes, 1);
        }
        for (int i = 0; i <= EMBED_HALVES; i++) {
            sup_peer_close(&peers[i]);
        }
        nkt_loop_done(loop);
    }
}
#endif
