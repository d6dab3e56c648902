/* Watches: descriptors of one's own in the loop. */

#include "support_loop.h"
#if defined(__linux__)
#include <sys/eventfd.h>
#endif

typedef struct lwatch {
    netkit_watch handle;
    int fd;
    int called;
    uint32_t events, all_events;
    bool drains;
    struct lwatch *stops; /* ends this one */
    netkit_loop *loop;
} lwatch;

static void lwatch_fn(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    lwatch *w = (lwatch *)user;
    char data[64];
    CHECK(watch.id == w->handle.id);
    CHECK(events != 0);
    w->called++;
    w->events = events;
    w->all_events |= events;
    if (w->drains) {
        CHECK(read(w->fd, data, sizeof(data)) > 0);
    }
    if (w->stops != NULL && w->stops->handle.id != 0) {
        CHECK_OK(netkit_watch_stop(loop, w->stops->handle));
        w->stops->handle.id = 0;
    }
}

static void lwatch_start(netkit_loop *loop, lwatch *w, int fd, uint32_t events) {
    memset(w, 0, sizeof(*w));
    w->fd = fd;
    CHECK_OK(netkit_watch_start(loop, &w->handle, (uintptr_t)fd, events, lwatch_fn, w));
    CHECK(w->handle.id != 0);
}

static void lwatch_pair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
}

static void lwatch_close(int fds[2]) {
    CHECK_EQ(close(fds[0]), 0);
    CHECK_EQ(close(fds[1]), 0);
}

/* Turns without anything to wait for. */
static void lwatch_turns(netkit_loop *loop, int turns) {
    for (int i = 0; i < turns; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
}

/* Until not one more byte goes. */
static void lwatch_fill(int fd) {
    static const char bytes[65536];
    for (size_t size = sizeof(bytes); size > 0; size /= 2) {
        while (send(fd, bytes, size, MSG_NOSIGNAL) > 0) {
        }
    }
}

/* PL11 T-17: who waits for room alone is not told of the other side's end, over and over or at all,
 * and hears of room when there is some. */
NKT_LOOP_TEST(watch_for_room_at_a_half_closed_peer) {
    netkit_loop *loop = nkt_loop();
    static char bytes[65536];
    int pair[2];
    lwatch w;
    lwatch_pair(pair);
    lwatch_fill(pair[0]);
    CHECK_EQ(shutdown(pair[1], SHUT_WR), 0);
    lwatch_start(loop, &w, pair[0], NETKIT_POLL_WRITE);
    lwatch_turns(loop, 3);
    CHECK_EQ(w.called, 0);
    uint64_t turns = netkit_loop_turns(loop), began = nkt_now_ns();
    while (nkt_now_ns() - began < 200000000) {
        CHECK_OK(netkit_loop_run_once(loop, 50));
    }
    CHECK(netkit_loop_turns(loop) - turns < 20);
    for (int round = 1; round <= 3; round++) {
        while (recv(pair[1], bytes, sizeof(bytes), 0) > 0) {
        }
        lwatch_turns(loop, 4);
        CHECK(w.called >= 3); /* for as long as there is room */
        CHECK_EQ(w.all_events & (NETKIT_POLL_READ | NETKIT_POLL_PEER_END), 0);
        lwatch_fill(pair[0]);
        lwatch_turns(loop, 2);
        w.called = 0;
        lwatch_turns(loop, 4);
        CHECK_EQ(w.called, 0);
    }
    CHECK_OK(netkit_watch_stop(loop, w.handle));
    lwatch_close(pair);
    nkt_loop_done(loop);
}

/* PL08 PL11: pipes, event counters and sockets, called for as long as there is something. */
NKT_LOOP_TEST(watch_any_descriptor) {
    netkit_loop *loop = nkt_loop();
    int pair[2], tube[2];
    lwatch a, b;
    lwatch_pair(pair);
    CHECK_EQ(pipe(tube), 0);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ);
    lwatch_start(loop, &b, tube[0], NETKIT_POLL_READ);
    CHECK_EQ(netkit_loop_objects(loop), 2);
    lwatch_turns(loop, 3);
    CHECK_EQ(a.called + b.called, 0);
    tl_say(pair[1], "x");
    CHECK_EQ(write(tube[1], "y", 1), 1);
    lwatch_turns(loop, 4);
    CHECK(a.called >= 3 && b.called >= 3); /* nobody has read */
    CHECK_EQ(a.events & ~(uint32_t)NETKIT_POLL_PEER_END, NETKIT_POLL_READ);
    CHECK_EQ(b.events, NETKIT_POLL_READ);
    a.drains = b.drains = true;
    lwatch_turns(loop, 4);
    a.called = b.called = 0;
    lwatch_turns(loop, 4);
    CHECK_EQ(a.called + b.called, 0);
#if defined(__linux__)
    if (nkt_backend != NETKIT_BACKEND_KQUEUE) { /* what has kqueues has no eventfds */
        int counter = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        uint64_t one = 1;
        lwatch c;
        CHECK(counter >= 0);
        lwatch_start(loop, &c, counter, NETKIT_POLL_READ);
        c.drains = true;
        lwatch_turns(loop, 2);
        CHECK_EQ(c.called, 0);
        CHECK_EQ(write(counter, &one, sizeof(one)), sizeof(one));
        TL_UNTIL(loop, c.called == 1);
        CHECK_OK(netkit_watch_stop(loop, c.handle));
        CHECK_EQ(close(counter), 0);
    }
#endif
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    CHECK_OK(netkit_watch_stop(loop, b.handle));
    lwatch_close(pair);
    lwatch_close(tube);
    nkt_loop_done(loop);
}

/* PL07 ER07: what is there twice, not there, no descriptor or without a function is refused, and
 * what was there stays. */
NKT_LOOP_TEST(watch_refuses_bad_arguments) {
    netkit_loop *loop = nkt_loop();
    int pair[2];
    lwatch a;
    netkit_watch none = {1};
    char path[160];
    int file, code;
    lwatch_pair(pair);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ);
    CHECK_ERR(netkit_watch_start(loop, &none, (uintptr_t)pair[0], NETKIT_POLL_WRITE, lwatch_fn, &a),
              NETKIT_E_EXISTS);
    CHECK_EQ(none.id, 0);
    none.id = 1;
    CHECK_ERR(netkit_watch_start(loop, &none, (uintptr_t)pair[1], NETKIT_POLL_READ, NULL, NULL),
              NETKIT_E_INVALID);
    CHECK_EQ(none.id, 0);
    CHECK_ERR(netkit_watch_start(loop, &none, (uintptr_t)100000, NETKIT_POLL_READ, lwatch_fn, &a),
              NETKIT_E_INVALID);
    CHECK_ERR(netkit_watch_start(loop, &none, UINTPTR_MAX, NETKIT_POLL_READ, lwatch_fn, &a),
              NETKIT_E_INVALID);
    CHECK_ERR(netkit_watch_start(loop, &none, UINTPTR_MAX / 2, NETKIT_POLL_READ, lwatch_fn, &a),
              NETKIT_E_INVALID);
    CHECK_ERR(netkit_watch_start(loop, &none, (uintptr_t)pair[1], 0x40000000u, lwatch_fn, &a),
              NETKIT_E_INVALID);
    CHECK_EQ(netkit_loop_objects(loop), 1);
    nkt_temp_path(path, sizeof(path));
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0);
    code = netkit_watch_start(loop, &none, (uintptr_t)file, NETKIT_POLL_READ, lwatch_fn, &a);
    /* Poll can, epoll cannot, Windows takes no file for a socket. */
    CHECK(code == NETKIT_E_ACCESS || code == NETKIT_OK ||
          (NKI_WINDOWS && code == NETKIT_E_INVALID));
    if (code == NETKIT_OK) {
        CHECK_OK(netkit_watch_stop(loop, none));
    }
    CHECK_EQ(close(file), 0);
    tl_say(pair[1], "x");
    TL_UNTIL(loop, a.called == 1);
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    CHECK_ERR(netkit_watch_stop(loop, a.handle), NETKIT_E_STALE);
    CHECK_ERR(netkit_watch_set(loop, a.handle, NETKIT_POLL_READ), NETKIT_E_STALE);
    CHECK_ERR(netkit_watch_set_referenced(loop, a.handle, true), NETKIT_E_STALE);
    CHECK_EQ(netkit_loop_objects(loop), 0);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ); /* and it can come back */
    TL_UNTIL(loop, a.called == 1);
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    lwatch_close(pair);
    nkt_loop_done(loop);
}

/* PL13 PL17 PL07: read, write, the peer's end, hang-up and error; what is not asked for does not
 * come, and 0 silences readiness of both kinds. */
NKT_LOOP_TEST(watch_tells_what_happened) {
    netkit_loop *loop = nkt_loop();
    int pair[2], tube[2];
    struct linger at_once = {1, 0};
    lwatch a;
#if NKI_WINDOWS
    char byte;
#endif
    lwatch_pair(pair);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ | NETKIT_POLL_WRITE);
    TL_UNTIL(loop, a.called > 0);
    CHECK_EQ(a.events, NETKIT_POLL_WRITE);
    tl_say(pair[1], "x");
    TL_UNTIL(loop, (a.events & NETKIT_POLL_READ) != 0);
    CHECK_EQ(a.events, NETKIT_POLL_READ | NETKIT_POLL_WRITE);
    CHECK_OK(netkit_watch_set(loop, a.handle, NETKIT_POLL_READ));
    lwatch_turns(loop, 2);
    CHECK_EQ(a.events, NETKIT_POLL_READ);
    CHECK_OK(netkit_watch_set(loop, a.handle, 0));
    a.called = 0;
    lwatch_turns(loop, 5);
    CHECK_EQ(a.called, 0);
    CHECK_ERR(netkit_watch_set(loop, a.handle, 0x40000000u), NETKIT_E_INVALID);
    CHECK_OK(netkit_watch_set(loop, a.handle, NETKIT_POLL_READ));
    TL_UNTIL(loop, a.called > 0); /* it was there all the time */
    CHECK_EQ(shutdown(pair[1], SHUT_WR), 0);
#if NKI_WINDOWS /* wine tells of the end when what came before it has been read */
    CHECK_EQ(read(pair[0], &byte, 1), 1);
#endif
    TL_UNTIL(loop, (a.events & NETKIT_POLL_PEER_END) != 0);
    CHECK((a.events & NETKIT_POLL_READ) != 0);
    (void)setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)); /* if it is TCP */
    CHECK_EQ(close(pair[1]), 0);
    TL_UNTIL(loop, (a.events & NETKIT_POLL_HANGUP) != 0);
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    CHECK_EQ(close(pair[0]), 0);
    CHECK_EQ(pipe(tube), 0); /* a pipe that nobody reads any more is an error for the writer */
    lwatch_start(loop, &a, tube[1], NETKIT_POLL_WRITE);
    (void)setsockopt(tube[0], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    CHECK_EQ(close(tube[0]), 0);
    TL_UNTIL(loop, (a.events & NETKIT_POLL_ERROR) != 0);
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    CHECK_EQ(close(tube[1]), 0);
    nkt_loop_done(loop);
}

/* PL12: edges: one call for each change; where the backend has none, NOSYS and nothing made. */
NKT_LOOP_TEST(watch_edges) {
    netkit_loop *loop = nkt_loop();
    int pair[2];
    lwatch a;
    int code;
    memset(&a, 0, sizeof(a));
    lwatch_pair(pair);
    code = netkit_watch_start(loop, &a.handle, (uintptr_t)pair[0],
                              NETKIT_POLL_READ | NETKIT_POLL_EDGE, lwatch_fn, &a);
    if (nkt_backend == NETKIT_BACKEND_POLL || NKI_WINDOWS) {
        CHECK_ERR(code, NETKIT_E_NOSYS);
        CHECK_EQ(a.handle.id, 0);
        CHECK_EQ(netkit_loop_objects(loop), 0);
    } else {
        CHECK_OK(code);
        for (int i = 1; i <= 3; i++) {
            tl_say(pair[1], "x");
            lwatch_turns(loop, 4);
            CHECK_EQ(a.called, i);
            CHECK_EQ(a.events, NETKIT_POLL_READ);
        }
        CHECK_OK(netkit_watch_stop(loop, a.handle));
    }
    lwatch_close(pair);
    nkt_loop_done(loop);
}

/* SD19 PL16 L-06: two that are ready in one turn, and the first stops the other or itself: the
 * stopped one is never called again. */
NKT_LOOP_TEST(watch_is_stopped_in_callbacks) {
    for (int round = 0; round < 20; round++) {
        netkit_loop *loop = nkt_loop();
        enum {
            COUNT = 8
        };
        int pairs[COUNT][2];
        lwatch all[COUNT];
        int called = 0;
        for (int i = 0; i < COUNT; i++) {
            lwatch_pair(pairs[i]);
            lwatch_start(loop, &all[i], pairs[i][0], NETKIT_POLL_READ);
            all[i].drains = true;
            all[i].stops = round % 2 == 0 ? &all[i] : &all[i ^ 1];
            tl_say(pairs[i][1], "x");
        }
        lwatch_turns(loop, 3);
        for (int i = 0; i < COUNT; i++) {
            CHECK(all[i].called <= 1);
            called += all[i].called;
        }
        CHECK_EQ(called, round % 2 == 0 ? COUNT : COUNT / 2);
        CHECK_EQ(netkit_loop_objects(loop), round % 2 == 0 ? 0 : COUNT / 2);
        for (int i = 0; i < COUNT; i++) {
            lwatch_close(pairs[i]);
        }
        nkt_loop_done(loop);
    }
}

typedef struct lwatch_swap {
    lwatch old, fresh;
    int fds[2], pair[2];
    bool is_done;
} lwatch_swap;

static void lwatch_swap_fn(netkit_loop *loop, netkit_watch watch, uint32_t events, void *user) {
    lwatch_swap *all = (lwatch_swap *)user; /* of 64 */
    (void)watch;
    (void)events;
    if (all[0].is_done) {
        return;
    }
    all[0].is_done = true;
    for (int i = 1; i < 64; i++) { /* each gets a successor with the same number, and no data */
        int number = all[i].pair[0];
        CHECK_OK(netkit_watch_stop(loop, all[i].old.handle));
        lwatch_close(all[i].pair);
        lwatch_pair(all[i].fds);
        if (all[i].fds[0] != number) {
            CHECK_EQ(dup2(all[i].fds[0], number), number);
            CHECK_EQ(close(all[i].fds[0]), 0);
            if (all[i].fds[1] == number) {
                nkt_fail_check(__FILE__, __LINE__, "numbers are given out lowest first");
            }
            all[i].fds[0] = number;
        }
        lwatch_start(loop, &all[i].fresh, number, NETKIT_POLL_READ);
    }
}

/* L-05 BX01 PL15 I5: all are ready; the first callback replaces every other one under the same
 * descriptor number: the successors hear nothing of it, then what is theirs. */
NKT_LOOP_TEST(watch_numbers_are_reused_in_a_batch) {
    netkit_loop *loop = nkt_loop();
    static lwatch_swap all[64];
    for (int i = 0; i < 64; i++) {
        lwatch_pair(all[i].pair);
        all[i].old.fd = all[i].pair[0];
        CHECK_OK(netkit_watch_start(loop, &all[i].old.handle, (uintptr_t)all[i].pair[0],
                                    NETKIT_POLL_READ, i == 0 ? lwatch_swap_fn : lwatch_fn,
                                    i == 0 ? (void *)all : (void *)&all[i].old));
    }
    tl_say(all[0].pair[1], "first");
    for (int i = 1; i < 64; i++) {
        tl_say(all[i].pair[1], "x");
    }
    TL_UNTIL(loop, all[0].is_done);
    lwatch_turns(loop, 3);
    for (int i = 1; i < 64; i++) {
        CHECK_EQ(all[i].fresh.called, 0);
        CHECK(all[i].old.called <= 1); /* before the swap, or never */
    }
    for (int i = 1; i < 64; i++) {
        all[i].fresh.drains = true;
        tl_say(all[i].fds[1], "y");
        TL_UNTIL(loop, all[i].fresh.called == 1);
        CHECK_OK(netkit_watch_stop(loop, all[i].fresh.handle));
        lwatch_close(all[i].fds);
    }
    CHECK_OK(netkit_watch_stop(loop, all[0].old.handle));
    lwatch_close(all[0].pair);
    nkt_loop_done(loop);
}

/* SD18 PL07: a million entries and exits in flat memory. */
NKT_LOOP_TEST(watch_comes_and_goes_in_flat_memory) {
    netkit_loop *loop = nkt_loop();
    uint64_t steps = nkt_count(1000000, 50000), allocs = 0;
    int64_t live = 0;
    int pairs[4][2];
    lwatch all[4];
    for (int i = 0; i < 4; i++) {
        lwatch_pair(pairs[i]);
        lwatch_start(loop, &all[i], pairs[i][0], NETKIT_POLL_READ);
    }
    for (uint64_t step = 0; step < steps; step++) {
        int i = (int)(nkt_random() % 4);
        CHECK_OK(netkit_watch_stop(loop, all[i].handle));
        lwatch_start(loop, &all[i], pairs[i][0], NETKIT_POLL_READ | NETKIT_POLL_WRITE);
        if (step % 16 == 0) {
            CHECK_OK(netkit_loop_run_once(loop, 0));
        }
        if (step == steps / 10) {
            live = nkt_live_bytes();
            allocs = nkt_allocs();
        }
    }
    CHECK(nkt_live_bytes() <= live);
    CHECK(nkt_allocs() - allocs <= 8);
    for (int i = 0; i < 4; i++) {
        CHECK_OK(netkit_watch_stop(loop, all[i].handle));
        lwatch_close(pairs[i]);
    }
    nkt_loop_done(loop);
}

/* PL20 PL21: an unreferenced watch works and keeps nothing going; a referenced one does. */
NKT_LOOP_TEST(watch_may_be_unreferenced) {
    netkit_loop *loop = nkt_loop();
    int pair[2], other[2];
    lwatch a, b;
    lwatch_pair(pair);
    lwatch_pair(other);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ);
    CHECK_OK(netkit_watch_set_referenced(loop, a.handle, false));
    CHECK_EQ(netkit_loop_references(loop), 0);
    CHECK_OK(netkit_loop_run(loop));
    lwatch_start(loop, &b, other[0], NETKIT_POLL_READ);
    a.drains = b.drains = true;
    b.stops = &b;
    tl_say(pair[1], "x");
    tl_say(other[1], "x");
    CHECK_OK(netkit_loop_run(loop)); /* ends when b has ended itself */
    CHECK_EQ(b.called, 1);
    TL_UNTIL(loop, a.called == 1);
    nkt_loop_done(loop); /* which ends a watch without a word */
    lwatch_close(pair);
    lwatch_close(other);
}

/* L-07: a duplicate of a stopped watch's descriptor wakes nobody. */
NKT_LOOP_TEST(watch_leaves_nothing_behind_in_a_duplicate) {
    netkit_loop *loop = nkt_loop();
    int pair[2], copy;
    uint64_t cpu = nkt_thread_cpu_ns(), turns, end;
    lwatch a;
    lwatch_pair(pair);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ);
    lwatch_turns(loop, 1);
    copy = dup(pair[0]);
    CHECK(copy >= 0);
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    CHECK_EQ(close(pair[0]), 0);
    turns = netkit_loop_turns(loop);
    end = nkt_now_ns() + nkt_scale(2000, 200) * 1000000u;
    tl_say(pair[1], "x");
    while (nkt_now_ns() < end) {
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
    CHECK(netkit_loop_turns(loop) - turns <= nkt_scale(25, 5));
    CHECK(nkt_thread_cpu_ns() - cpu < 50000000u * nkt_slowness);
    CHECK_EQ(a.called, 0);
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(close(pair[1]), 0);
    nkt_loop_done(loop);
}

/* L-09: a descriptor that is closed under a watch does not make the loop spin, and stopping the
 * watch closes nobody else's. */
NKT_LOOP_TEST(watch_of_a_closed_descriptor_does_not_spin) {
    netkit_loop *loop = nkt_loop();
    int pair[2], sentry[2];
    uint64_t turns, end;
    lwatch a;
    char text[8];
    lwatch_pair(pair);
    lwatch_start(loop, &a, pair[0], NETKIT_POLL_READ);
    lwatch_turns(loop, 1);
    CHECK_EQ(close(pair[0]), 0);
    turns = netkit_loop_turns(loop);
    end = nkt_now_ns() + 200000000u;
    while (nkt_now_ns() < end) {
        CHECK_OK(netkit_loop_run_once(loop, 50));
    }
    printf("%" PRIu64 " turns, called %d times with %x\n", netkit_loop_turns(loop) - turns,
           a.called, (unsigned)a.all_events);
    CHECK(netkit_loop_turns(loop) - turns <= 20);
    lwatch_pair(sentry); /* takes the number */
    CHECK_OK(netkit_watch_stop(loop, a.handle));
    lwatch_turns(loop, 2);
    tl_say(sentry[0], "ok");
    CHECK_STR(tl_hear(sentry[1], text, sizeof(text)), "ok");
    lwatch_close(sentry);
    CHECK_EQ(close(pair[1]), 0);
    nkt_loop_done(loop);
}

/* R5: objects_max counts watches; the place of one that is stopped is free by the next turn. */
NKT_LOOP_TEST(watch_is_bounded) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    int pairs[4][2];
    lwatch all[4];
    netkit_watch none = {1};
    memset(&desc, 0, sizeof(desc));
    desc.objects_max = 3;
    loop = nkt_loop_with(&desc);
    for (int i = 0; i < 4; i++) {
        lwatch_pair(pairs[i]);
        if (i < 3) {
            lwatch_start(loop, &all[i], pairs[i][0], NETKIT_POLL_READ);
        }
    }
    CHECK_ERR(netkit_watch_start(loop, &none, (uintptr_t)pairs[3][0], NETKIT_POLL_READ, lwatch_fn,
                                 &all[3]),
              NETKIT_E_FULL);
    CHECK_EQ(none.id, 0);
    CHECK_OK(netkit_watch_stop(loop, all[0].handle));
    lwatch_turns(loop, 1);
    lwatch_start(loop, &all[3], pairs[3][0], NETKIT_POLL_READ);
    tl_say(pairs[3][1], "x");
    TL_UNTIL(loop, all[3].called > 0);
    nkt_loop_done(loop);
    for (int i = 0; i < 4; i++) {
        lwatch_close(pairs[i]);
    }
}
