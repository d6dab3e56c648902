/* A crowd's large messages on the ring: how many of them a turn takes up, and what that does to the
 * others, to small conns and to timers. */

#if NKI_HAS_URING

#include "support.h"

/* A crowd of peers whose bytes come in large reads by now, who all say more, and are heard of turn
 * by turn. */
typedef struct large_crowd {
    sup_peer peers[TURING_PEERS];
    int turns, heard, heard_at_first;
} large_crowd;

static large_crowd large_now;

/* What any peer of any test may send, made once. */
static unsigned char large_stream[7000000];

static void large_send_one(sup_peer *peer) {
    while (peer->sent < peer->to_send) {
        size_t left = (size_t)(peer->to_send - peer->sent);
        CHECK(peer->to_send <= sizeof(large_stream));
        ssize_t put = send(peer->fd, large_stream + peer->sent, left, MSG_NOSIGNAL);
        if (put <= 0) {
            return;
        }
        peer->sent += (uint64_t)put;
    }
}

static void large_send(uint64_t more) {
    for (int i = 0; i < TURING_PEERS; i++) {
        large_now.peers[i].to_send += more;
        large_send_one(&large_now.peers[i]);
    }
}

static void large_count(netkit_loop *loop, void *user) {
    large_crowd *t = (large_crowd *)user;
    if (t->turns < 0) {
        return; /* not yet */
    }
    large_send(0);
    t->heard = 0;
    for (int i = 0; i < TURING_PEERS; i++) {
        t->heard += turing.ends[i].bytes > 200000;
    }
    t->heard_at_first = t->turns++ == 0 ? t->heard : t->heard_at_first;
    if (t->heard == TURING_PEERS || t->turns == 1000) {
        CHECK_OK(netkit_loop_stop(loop));
    }
}

static netkit_loop *large_loop(void) {
    netkit_loop *loop = turing_loop();
    uint16_t port = turing_listen(loop);
    if (large_stream[1] == 0) {
        sup_fill(large_stream, sizeof(large_stream), 0);
    }
    memset(&large_now, 0, sizeof(large_now));
    large_now.turns = -1;
    loop->desc.after_turn = large_count;
    loop->desc.user = &large_now;
    for (int i = 0; i < TURING_PEERS; i++) {
        large_now.peers[i] = sup_peer_of(sup_raw_dial(port, 0));
    }
    SUP_UNTIL(loop, turing.count == TURING_PEERS);
    for (int i = 0; i < TURING_PEERS; i++) {
        turing.ends[i].is_echo = false;
        large_now.peers[i].to_send = 200000;
        SUP_UNTIL_DOING(loop, turing.ends[i].bytes == 200000) {
            large_send_one(&large_now.peers[i]);
        }
    }
    sup_settle(loop);
    large_now.turns = 0;
    return loop;
}

static void large_done(netkit_loop *loop) {
    large_now.turns = -1;
    for (int i = 0; i < TURING_PEERS; i++) {
        sup_peer *peer = &large_now.peers[i];
        SUP_UNTIL_DOING(loop, turing.ends[i].bytes == peer->to_send) {
            large_send(0);
        }
        sup_peer_close(peer);
    }
    nkt_loop_done(loop);
}

/* L-10 R5: a crowd's large messages are taken up a few at a time, lest their bytes leave the caches
 * before they are served; and the last one waits for a few turns only, whether they say little or go
 * on. Nothing is lost. */
NKT_TEST(uring_few_large_at_a_time) {
    static const uint64_t more[] = {60000, 1000000};
    for (int round = 0; round < 2; round++) {
        netkit_loop *loop = large_loop();
        large_send(more[round]);
        CHECK_OK(netkit_loop_run(loop));
        printf("%d at first, %d turns\n", large_now.heard_at_first, large_now.turns);
        CHECK_EQ(large_now.heard, TURING_PEERS);
        CHECK(large_now.heard_at_first <= TURING_PEERS / 4 + 1);
        bool is_told_at_once = !nki_u_is_signalled(nki_u_of(loop));
        CHECK(!is_told_at_once || (round == 0 ? large_now.turns >= 6 : large_now.turns <= 11));
        large_done(loop);
    }
}

/* A crowd that says more with each turn, and one who says little and waits to be heard. */
typedef struct large_trickle {
    uint64_t more;
    int turns, waited, waited_most;
    uint32_t unread_most;
} large_trickle;

static large_trickle large_trickling;

static void large_trickle_on(netkit_loop *loop, void *user) {
    large_trickle *t = (large_trickle *)user;
    sup_peer *small = &large_now.peers[0];
    uint32_t unread = nki_uring_unread(&nki_u_of(loop)->ring);
    t->unread_most = NKI_MAX(t->unread_most, unread);
    for (int i = 1; i < TURING_PEERS; i++) {
        sup_peer *peer = &large_now.peers[i];
        peer->to_send += peer->sent == peer->to_send ? t->more : 0;
        large_send_one(peer);
    }
    t->waited++;
    if (turing.ends[0].bytes == small->sent) {
        t->waited_most = NKI_MAX(t->waited_most, t->waited);
        t->waited = 0;
        small->to_send += 4;
        large_send_one(small);
    }
    if (++t->turns == (t->more < 10000 ? 200 : 20)) {
        CHECK_OK(netkit_loop_stop(loop));
    }
}

/* L-10 R5: where a crowd goes on, with little or with more than can be read, what has completed does
 * not pile up, and a small conn is heard of soon. */
NKT_TEST(uring_crowd_that_goes_on) {
    static const uint64_t more[] = {8192, 300000};
    for (int round = 0; round < 2; round++) {
        netkit_loop *loop = large_loop();
        memset(&large_trickling, 0, sizeof(large_trickling));
        large_trickling.more = more[round];
        loop->desc.after_turn = large_trickle_on;
        loop->desc.user = &large_trickling;
        large_send(8192);
        CHECK_OK(netkit_loop_run(loop));
        printf("%u unread, %d turns waited\n", (unsigned)large_trickling.unread_most,
               large_trickling.waited_most);
        CHECK(large_trickling.unread_most <= 5 * TURING_PEERS);
        CHECK(large_trickling.waited_most > 0 && large_trickling.waited_most <= 30);
        loop->desc.after_turn = NULL;
        large_done(loop);
    }
}

/* R5 T-19: what has come before a timer was due is served before it, however much that is: nobody
 * is given up for silence whose bytes are there. */
NKT_TEST(uring_large_ones_before_timers) {
    netkit_loop *loop = large_loop();
    const uint32_t idle_ms = (uint32_t)nkt_slowness * 300;
    for (int i = 0; i < TURING_PEERS; i++) {
        CHECK_OK(netkit_conn_set_idle_timeout(loop, turing.ends[i].conn, idle_ms));
    }
    large_send(60000);
    nkt_sleep_ms(idle_ms + 100); /* somebody kept the loop from its work */
    CHECK_OK(netkit_loop_run(loop));
    for (int i = 0; i < TURING_PEERS; i++) {
        CHECK_EQ(turing.ends[i].closes, 0);
        CHECK_OK(netkit_conn_set_idle_timeout(loop, turing.ends[i].conn, 0));
    }
    large_done(loop);
}

/* C8: who runs single turns has all of it in one, as nobody says when the next one comes. */
NKT_TEST(uring_all_large_in_a_single_turn) {
    netkit_loop *loop = large_loop();
    bool is_told_at_once = !nki_u_is_signalled(nki_u_of(loop));
    large_send(60000);
    nkt_sleep_ms(5);
    CHECK(netkit_loop_poll(loop, -1) >= 0);
    CHECK(!is_told_at_once || large_now.heard_at_first == TURING_PEERS);
    large_done(loop);
}

static void large_stop(netkit_loop *loop, void *user) {
    NKI_UNUSED(user);
    large_now.turns++;
    CHECK_OK(netkit_loop_stop(loop));
}

/* C8 R5: a run that is stopped in the middle of a crowd's messages leaves the others to the next
 * turn, and says so to who waits elsewhere until then. */
NKT_TEST(uring_large_ones_after_a_stopped_run) {
    netkit_loop *loop = large_loop();
    bool is_told_at_once = !nki_u_is_signalled(nki_u_of(loop));
    loop->desc.after_turn = large_stop;
    large_send(60000);
    nkt_sleep_ms(5);
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(large_now.turns, 1);
    bool has_left = nki_uring_unread(&nki_u_of(loop)->ring) != 0;
    CHECK(has_left || !is_told_at_once);
    CHECK(!has_left || netkit_loop_timeout_ms(loop) == 0);
    loop->desc.after_turn = NULL;
    for (int i = 0; i < 1000 && netkit_loop_timeout_ms(loop) == 0; i++) {
        CHECK(netkit_loop_poll(loop, 0) >= 0);
    }
    CHECK_EQ(netkit_loop_timeout_ms(loop), -1);
    large_done(loop);
}

#endif /* NKI_HAS_URING */
