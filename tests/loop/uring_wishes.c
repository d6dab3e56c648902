/* What the ring does on request only: buffers that receives share, files it knows by number. */

#if NKI_HAS_URING

#include "support.h"
#include "support_loop.h"

/* The one that a test is about, and no other. */
static void wishes_only(void) {
    CHECK_EQ(unsetenv("NKT_RING_OPTIONS"), 0);
}

/* ---- shared buffers ---------------------------------------------------------------------- */

static netkit_loop *wishes_sharing_loop(uint32_t buffers) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.ring_incremental = true;
    wishes_only();
    netkit_loop *loop = safety_loop(&desc);
    if (!nki_u_of(loop)->pool.is_sharing) {
        nkt_loop_done(loop);
        SKIP("no incremental buffers here");
    }
    nki_u_of(loop)->pool.count = buffers;
    return loop;
}

/* How many times a buffer has gone back to the kernel. */
static uint32_t wishes_given(const netkit_loop *loop) {
    const nki_pool *p = &nki_u_of(loop)->pool;
    return (uint16_t)(p->tail - (uint16_t)p->count);
}

/* UR11 UR10: a hundred conns with something to say at once fit into two buffers of 8 KiB, where
 * each would need one of its own; a buffer goes back to the kernel once for 8,192 bytes. */
NKT_TEST(uring_shares_buffers) {
    netkit_loop *loop = wishes_sharing_loop(2);
    nki_u *u = nki_u_of(loop);
    uint64_t total = 0;
    for (int round = 0; round < 50; round++) {
        uint64_t each = 1 + nkt_random() % 80;
        turing_echo_all(loop, TURING_PEERS, each);
        total += each * TURING_PEERS;
        CHECK_EQ(u->pool.held, 0);
        CHECK_EQ(wishes_given(loop), total / NKI_POOL_SIZE);
    }
    CHECK_EQ(u->starved, 0);
    nkt_loop_done(loop);
}

/* UR11 UR12 I-01: what is larger than all buffers together comes through whole, in order, with
 * others at the same time, and then all of them are with the kernel. */
NKT_TEST(uring_shares_buffers_with_a_lot) {
    netkit_loop *loop = wishes_sharing_loop(4);
    nki_u *u = nki_u_of(loop);
    nki_pool *p = &u->pool;
    turing_echo_all(loop, TURING_PEERS, nkt_scale(1 << 20, 1 << 16));
    turing_echo_all(loop, 1, 1 << 20);
    CHECK_EQ(p->held, 0);
    for (uint32_t i = 0; i < p->count; i++) {
        CHECK_EQ(p->shares[i].records, 0);
        CHECK(p->shares[i].filled < p->size);
    }
    nkt_loop_done(loop);
}

/* UR11 UR09: the same with completions that come to light a part at a time. */
NKT_TEST(uring_shares_buffers_out_of_step) {
    netkit_loop *loop = wishes_sharing_loop(4);
    nkt_hide("io_uring_cqes", UINT32_MAX, 30);
    for (int round = 0; round < 5; round++) {
        turing_echo_all(loop, TURING_PEERS, 1 + nkt_random() % 20000);
    }
    CHECK(nkt_faults() > 0);
    nkt_fault_clear();
    nkt_loop_done(loop);
}

/* UR11 C4: one that pauses has its bytes taken out of the buffer it shares, which the others need;
 * they are there when it reads again, and others' beside them were never mixed up with them. */
NKT_TEST(uring_paused_conns_hold_no_share) {
    netkit_loop *loop = wishes_sharing_loop(2);
    nki_u *u = nki_u_of(loop);
    sup_peer peers[TURING_PEERS];
    safety_dial_all(loop, peers, TURING_PEERS);
    for (int i = 0; i < TURING_PEERS / 2; i++) {
        CHECK_OK(netkit_conn_pause(loop, turing.ends[i].conn));
    }
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < TURING_PEERS; i++) {
            peers[i].to_send += 500;
            sup_peer_step(&peers[i]);
        }
        for (int i = TURING_PEERS / 2; i < TURING_PEERS; i++) {
            SUP_UNTIL(loop, turing.ends[i].bytes == peers[i].to_send);
        }
        sup_settle(loop);
        SUP_UNTIL(loop, u->pool.held == 0);
    }
    for (int i = 0; i < TURING_PEERS; i++) {
        bool is_paused = i < TURING_PEERS / 2;
        CHECK_EQ(turing.ends[i].bytes, is_paused ? 0 : 10000);
        CHECK(!is_paused || netkit_conn_resume(loop, turing.ends[i].conn) == NETKIT_OK);
    }
    for (int i = 0; i < TURING_PEERS; i++) {
        SUP_UNTIL_DOING(loop, peers[i].received == 10000) {
            sup_peer_step(&peers[i]);
        }
        sup_peer_close(&peers[i]);
        SUP_UNTIL(loop, turing.ends[i].closes == 1);
    }
    nkt_loop_done(loop);
}

/* UR11: conns that die with bytes in a shared buffer give their part of it back, received after
 * their end or before. */
NKT_TEST(uring_shares_of_the_dead_come_back) {
    netkit_loop *loop = wishes_sharing_loop(2);
    nki_u *u = nki_u_of(loop);
    sup_peer peers[TURING_PEERS];
    uint32_t bytes = 0;
    for (int round = 0; round < 20; round++) {
        safety_dial_all(loop, peers, TURING_PEERS);
        for (int i = 0; i < TURING_PEERS; i++) {
            CHECK_EQ(send(peers[i].fd, "late", 4, MSG_NOSIGNAL), 4);
        }
        CHECK_EQ(nki_uring_enter(&u->ring, 0), 0); /* received, and not looked at */
        bytes += 4 * TURING_PEERS;
        for (int i = 0; i < TURING_PEERS; i++) {
            CHECK_OK(netkit_conn_abort(loop, turing.ends[i].conn));
        }
        sup_settle(loop);
        CHECK_EQ(u->pool.held, 0);
        CHECK_EQ(u->pool.shares[0].filled + u->pool.shares[1].filled +
                     wishes_given(loop) * NKI_POOL_SIZE,
                 bytes);
        safety_all_closed(peers, TURING_PEERS);
    }
    turing_echo_all(loop, TURING_PEERS, 1000);
    nkt_loop_done(loop);
}

/* Bytes of one conn, behind which lie those of another, which ends before either is looked at. */
typedef struct wishes_pair {
    netkit_loop *loop;
    sup_peer peers[2];
    int datas;   /* of the other one, when it has a handler of its own */
    int sending; /* times that it ended with a send in flight */
    int ahead;   /* and before all completions of its turn were looked at */
} wishes_pair;

static void wishes_pair_open(wishes_pair *pair) {
    safety_dial_all(pair->loop, pair->peers, 2);
}

/* Both have spoken, the second one after the first, and the kernel has received it all. */
static void wishes_pair_speak(wishes_pair *pair) {
    unsigned char noise[300];
    memset(noise, 0xEE, sizeof(noise));
    pair->peers[0].to_send = 1 + nkt_random() % 200;
    sup_peer_step(&pair->peers[0]);
    CHECK_EQ(nki_uring_enter(&nki_u_of(pair->loop)->ring, 0), 0);
    CHECK(send(pair->peers[1].fd, noise, 1 + nkt_random() % sizeof(noise), MSG_NOSIGNAL) > 0);
    CHECK_EQ(nki_uring_enter(&nki_u_of(pair->loop)->ring, 0), 0);
}

static void wishes_pair_done(wishes_pair *pair) {
    SUP_UNTIL_DOING(pair->loop, pair->peers[0].received == pair->peers[0].to_send) {
        sup_peer_step(&pair->peers[0]);
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(close(pair->peers[i].fd), 0);
        SUP_UNTIL(pair->loop, turing.ends[i].closes == 1);
    }
    CHECK_EQ(nki_u_of(pair->loop)->pool.held, 0);
}

/* UR11 UR15: one that is aborted between turns has its completions taken out of their turn; what
 * lies before its bytes in the same buffer is the other's all the same. */
NKT_TEST(uring_shares_stay_apart_when_one_is_aborted) {
    wishes_pair pair;
    pair.loop = wishes_sharing_loop(2);
    for (int round = 0; round < 50; round++) {
        wishes_pair_open(&pair);
        wishes_pair_speak(&pair);
        CHECK_OK(netkit_conn_abort(pair.loop, turing.ends[1].conn));
        wishes_pair_done(&pair);
    }
    nkt_loop_done(pair.loop);
}

/* Answers, and, when it is called again and its answer is in flight, ends. */
static size_t wishes_answer_and_end(netkit_loop *loop, netkit_conn conn, const void *data,
                                    size_t len, void *user) {
    wishes_pair *pair = (wishes_pair *)user;
    nki_u *u = nki_u_of(loop);
    if (++pair->datas == 1) {
        CHECK_OK(netkit_conn_send(loop, conn, data, 1));
    } else {
        pair->sending += (safety_slot(loop, conn)->busy & NKI_U_BIT(NKI_U_SEND)) != 0;
        pair->ahead += u->next != u->end;
        CHECK_OK(netkit_conn_abort(loop, conn));
    }
    return len;
}

/* UR11 UR15: the same within a turn, by one that has a send in flight and more bytes behind those
 * of the other. */
NKT_TEST(uring_shares_stay_apart_within_a_turn) {
    wishes_pair pair;
    netkit_handler handler;
    memset(&pair, 0, sizeof(pair));
    pair.loop = wishes_sharing_loop(2);
    memset(&handler, 0, sizeof(handler));
    handler.on_data = wishes_answer_and_end;
    for (int round = 0; round < 50; round++) {
        wishes_pair_open(&pair);
        netkit_conn conn = turing.ends[1].conn;
        CHECK_OK(netkit_conn_set_handler(pair.loop, conn, &handler, &pair));
        pair.datas = 0;
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(send(pair.peers[1].fd, "first", 5, MSG_NOSIGNAL), 5);
            CHECK_EQ(nki_uring_enter(&nki_u_of(pair.loop)->ring, 0), 0);
        }
        wishes_pair_speak(&pair);
        SUP_UNTIL(pair.loop, pair.datas == 2);
        turing.ends[1].closes = 1;
        wishes_pair_done(&pair);
    }
    printf("%d with a send, %d before the rest was looked at\n", pair.sending, pair.ahead);
    CHECK(pair.sending > 0 && pair.ahead > 0);
    nkt_loop_done(pair.loop);
}

/* UR11: kept bytes are copied, as the buffer is others' too. */
NKT_TEST(uring_keeps_a_copy_of_a_share) {
    netkit_loop *loop = wishes_sharing_loop(2);
    sup_setup setup = sup_setup_default();
    safety_keeper k;
    memset(&k, 0, sizeof(k));
    setup.handler.on_data = safety_keep;
    sup_end_init(&k.end);
    sup_peer peer = sup_open(loop, &k.end, &setup);
    for (uint64_t i = 0; i < 20; i++) {
        safety_keep_one(loop, &peer, &k, 4096);
    }
    CHECK_EQ(k.count, 20);
    CHECK_EQ(k.swapped, 0);
    for (uint64_t i = 0; i < 20; i++) {
        sup_check_bytes(k.bufs[i].data, k.bufs[i].len, i * 4096);
        netkit_buf_release(&k.bufs[i]);
    }
    sup_peer_close(&peer);
    SUP_UNTIL(loop, k.end.eofs == 1);
    nkt_loop_done(loop);
}

/* UR11: where no record is left, as memory is short, the conn ends with that as its reason; its
 * bytes are accounted for, and the others go on. */
NKT_TEST(uring_share_without_a_record) {
    netkit_loop *loop = wishes_sharing_loop(2);
    nki_u *u = nki_u_of(loop);
    sup_peer peers[2];
    safety_dial_all(loop, peers, 2);
    uint16_t had = u->pool.free;
    u->pool.free = NKI_POOL_NONE;
    CHECK_EQ(send(peers[0].fd, "lost", 4, MSG_NOSIGNAL), 4);
    SUP_UNTIL(loop, turing.ends[0].closes == 1);
    CHECK_ERR(turing.ends[0].info.code, NETKIT_E_NOMEM);
    CHECK_EQ(u->pool.shares[0].filled, 4);
    u->pool.free = had;
    peers[1].to_send = 50000;
    SUP_UNTIL_DOING(loop, peers[1].received == 50000) {
        sup_peer_step(&peers[1]);
    }
    CHECK_EQ(u->pool.held, 0);
    sup_peer_close(&peers[0]);
    sup_peer_close(&peers[1]);
    SUP_UNTIL(loop, turing.ends[1].closes == 1);
    nkt_loop_done(loop);
}

/* UR11: bytes that are lost are the last that is told of, though more of them come, and an end,
 * before the conn is read. */
NKT_TEST(uring_share_without_a_record_while_paused) {
    netkit_loop *loop = wishes_sharing_loop(2);
    nki_u *u = nki_u_of(loop);
    sup_peer peer;
    safety_dial_all(loop, &peer, 1);
    sup_end *end = &turing.ends[0];
    CHECK_EQ(send(peer.fd, "lost", 4, MSG_NOSIGNAL), 4);
    CHECK_EQ(nki_uring_enter(&u->ring, 0), 0);
    CHECK_EQ(send(peer.fd, "more", 4, MSG_NOSIGNAL), 4);
    CHECK_EQ(nki_uring_enter(&u->ring, 0), 0);
    CHECK_EQ(nki_uring_unread(&u->ring), 2);
    CHECK_OK(netkit_conn_pause(loop, end->conn));
    uint16_t had = u->pool.free;
    u->pool.free = NKI_POOL_NONE;
    loop->desc.events_max = 1;
    sup_turn(loop);
    u->pool.free = had;
    loop->desc.events_max = 256;
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    sup_settle(loop);
    CHECK_EQ(end->closes, 0);
    CHECK_OK(netkit_conn_resume(loop, end->conn));
    SUP_UNTIL(loop, end->closes == 1);
    CHECK_EQ(end->bytes, 0);
    CHECK_EQ(end->eofs, 0);
    CHECK_ERR(end->info.code, NETKIT_E_NOMEM);
    CHECK_EQ(u->pool.held, 0);
    CHECK_EQ(u->pool.shares[0].filled, 8);
    CHECK_EQ(close(peer.fd), 0);
    nkt_loop_done(loop);
}

/* The one that speaks ends with an error and hears nothing, and who comes later is read by calls. */
static void wishes_end_broken(netkit_loop *loop, sup_peer *peer) {
    nki_u *u = nki_u_of(loop);
    CHECK_EQ(send(peer->fd, "whose?", 6, MSG_NOSIGNAL), 6);
    SUP_UNTIL(loop, turing.ends[0].closes == 1);
    CHECK_EQ(turing.ends[0].bytes, 0);
    CHECK_ERR(turing.ends[0].info.code, NETKIT_E_IO);
    CHECK_EQ(close(peer->fd), 0);
    turing_echo_all(loop, 20, 5000);
    CHECK(u->pool.is_broken && !u->has_recv_multishot);
    CHECK_EQ(u->pool.held, 0);
    nkt_loop_done(loop);
}

/* UR11: where the kernel's word on a buffer and the count of it do not agree, no byte is handed over
 * that may be another's. */
NKT_TEST(uring_shares_that_were_miscounted) {
    for (int round = 0; round < 2; round++) {
        netkit_loop *loop = wishes_sharing_loop(2);
        nki_u *u = nki_u_of(loop);
        sup_peer peer;
        safety_dial_all(loop, &peer, 1);
        u->pool.shares[0].filled = NKI_POOL_SIZE - (round == 0 ? 5 : 6); /* too full, just full */
        wishes_end_broken(loop, &peer);
    }
}

/* UR11 I-04: the kernel says (EBADR, once) that it had to drop completions: then nothing that is in
 * a shared buffer can be told apart any more. */
NKT_TEST(uring_shares_after_lost_completions) {
    netkit_loop *loop = wishes_sharing_loop(2);
    sup_peer peer;
    safety_dial_all(loop, &peer, 1);
    nkt_fault_at("io_uring_enter", 1, EBADR, false);
    (void)netkit_loop_run_once(loop, 0);
    CHECK(nkt_faults() > 0);
    nkt_fault_clear();
    wishes_end_broken(loop, &peer);
}

/* UR11 UR02 Q-01: where the trial cannot be made or does not come out right, and where the kernel
 * takes no such buffers after all, each receive has a buffer of its own, and nobody notices. */
NKT_TEST(uring_without_shared_buffers) {
    static const struct {
        const char *call;
        uint64_t nth;
        int os_error;
    } troubles[] = {
        {"io_uring_setup", 2, EMFILE}, {"socketpair", 1, EMFILE}, {"io_uring_register", 5, EINVAL},
        {"io_uring_enter", 3, EIO},    {"send", 2, EPIPE},        {"mmap", 5, ENOMEM}};
    nkt_loop_done(wishes_sharing_loop(2));
    for (size_t i = 0; i < sizeof(troubles) / sizeof(troubles[0]); i++) {
        netkit_loop_desc desc;
        memset(&desc, 0, sizeof(desc));
        desc.ring_incremental = true;
        nkt_fault_at(troubles[i].call, troubles[i].nth, troubles[i].os_error, false);
        netkit_loop *loop = safety_loop(&desc);
        CHECK(nkt_faults() > 0);
        nkt_fault_clear();
        printf("%s\n", troubles[i].call);
        CHECK(!nki_u_of(loop)->pool.is_sharing);
        turing_echo_all(loop, 10, 10000);
        nkt_loop_done(loop);
    }
    netkit_loop *loop = wishes_sharing_loop(2);
    sup_settle(loop);
    nkt_fault_at("io_uring_register", 1, EINVAL, false);
    turing_echo_all(loop, 10, 10000);
    CHECK(nkt_faults() > 0);
    CHECK(!nki_u_of(loop)->pool.is_sharing && nki_u_of(loop)->pool.count == NKI_POOL_COUNT);
    nkt_loop_done(loop);
}

/* UR11: what makes the trial fail: bytes in the wrong place or buffer, wrong bytes, a buffer that
 * is said to be full and is not, or the other way about. */
NKT_TEST(uring_trial_sees_what_is_wrong) {
    static nki_trial t;
    nki_uring_cqe right = {0, 20, NKI_URING_CQE_BUFFER | NKI_URING_CQE_BUFFER_MORE};
    for (uint32_t i = 0; i < 2 * NKI_TRIAL_SIZE; i++) {
        t.memory[i / NKI_TRIAL_SIZE][i % NKI_TRIAL_SIZE] = (unsigned char)(i + 1);
    }
    CHECK(nki_trial_check(&t, &right));
    nki_uring_cqe wrong = right;
    wrong.flags = NKI_URING_CQE_BUFFER;
    CHECK(!nki_trial_check(&t, &wrong));
    wrong.flags = NKI_URING_CQE_BUFFER_MORE;
    CHECK(!nki_trial_check(&t, &wrong));
    wrong = right;
    wrong.flags |= 1u << 16;
    CHECK(!nki_trial_check(&t, &wrong));
    for (int res = -1; res < 1; res++) {
        wrong = right;
        wrong.res = res;
        CHECK(!nki_trial_check(&t, &wrong));
    }
    t.memory[0][19]++;
    CHECK(!nki_trial_check(&t, &right));
    t.memory[0][19]--;
    t.got = NKI_TRIAL_SIZE - 4;
    CHECK(!nki_trial_check(&t, &right)); /* more than there is room for */
    right.res = 4;
    CHECK(!nki_trial_check(&t, &right)); /* full, and is not said to be */
    right.flags = NKI_URING_CQE_BUFFER;
    CHECK(nki_trial_check(&t, &right));
}

/* ---- files known by number ---------------------------------------------------------------- */

static netkit_loop *wishes_files_loop(uint32_t files) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.ring_files = files;
    wishes_only();
    netkit_loop *loop = safety_loop(&desc);
    if (nki_u_of(loop)->files.fds == NULL) {
        nkt_loop_done(loop);
        SKIP("no files by number here");
    }
    return loop;
}

static uint32_t wishes_known(const netkit_loop *loop) {
    const nki_files *f = &nki_u_of(loop)->files;
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        count += f->fds[i] >= 0;
    }
    return count;
}

static void wishes_talk(uint32_t files, uint32_t known_least) {
    netkit_loop *loop = wishes_files_loop(files);
    sup_peer peers[TURING_PEERS];
    for (int round = 0; round < 3; round++) {
        safety_dial_all(loop, peers, TURING_PEERS);
        CHECK(wishes_known(loop) >= (round == 0 || files >= 1000 ? known_least : 0));
        for (int i = 0; i < TURING_PEERS; i++) {
            peers[i].to_send = 3000;
        }
        for (int i = 0; i < TURING_PEERS; i++) {
            SUP_UNTIL_DOING(loop, peers[i].received == 3000) {
                sup_peer_step(&peers[i]);
            }
            sup_peer_close(&peers[i]);
        }
        for (int i = 0; i < TURING_PEERS; i++) {
            SUP_UNTIL(loop, turing.ends[i].closes == 1);
        }
        CHECK_EQ(wishes_known(loop), 0);
    }
    nkt_loop_done(loop);
}

/* UR19: conns are known by number as far as the table goes, those beyond it by descriptor; all talk
 * alike, and when they have gone the table is empty. */
NKT_TEST(uring_knows_files_by_number) {
    wishes_talk(1000, TURING_PEERS);
    wishes_talk(60, 59); /* a place is the listener's, and later ones are beyond them */
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 900;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.ring_files = UINT32_MAX; /* that is, as many as objects_max: halved until they fit */
    netkit_loop *loop = safety_loop(&desc);
    CHECK_EQ(nki_u_of(loop)->files.count, 512);
    nkt_loop_done(loop);
}

/* UR19 UR14: so are those that dial. */
NKT_TEST(uring_dials_files_by_number) {
    netkit_loop *loop = wishes_files_loop(200);
    uint16_t port = turing_listen(loop);
    turns_dial_and_talk(loop, "127.0.0.1", port);
    sup_settle(loop);
    CHECK_EQ(wishes_known(loop), 0);
    nkt_loop_done(loop);
}

/* UR19 C2: the table holds no connection open: the peer sees the end within 100 ms of a close, and
 * a reset after an abort, at a place that was emptied and at one that cannot be (of which it hears
 * an end at least). */
NKT_TEST(uring_files_by_number_end) {
    netkit_loop *loop = wishes_files_loop(100);
    sup_peer peers[4];
    char byte;
    safety_dial_all(loop, peers, 4);
    CHECK_EQ(wishes_known(loop), 4);
    CHECK_OK(netkit_conn_close(loop, turing.ends[0].conn));
    CHECK_OK(netkit_conn_abort(loop, turing.ends[1].conn));
    sup_turn_for_ms(loop, 100);
    CHECK_EQ(recv(peers[0].fd, &byte, 1, MSG_DONTWAIT), 0);
    CHECK_EQ(recv(peers[1].fd, &byte, 1, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, ECONNRESET);
    CHECK_EQ(close(peers[0].fd), 0);
    SUP_UNTIL(loop, turing.ends[0].closes == 1);
    nkt_fault_at("io_uring_register", 1, ENOMEM, true);
    CHECK_OK(netkit_conn_abort(loop, turing.ends[2].conn));
    CHECK(nkt_faults() > 0);
    nkt_fault_clear();
    sup_turn_for_ms(loop, 100);
    ssize_t n = recv(peers[2].fd, &byte, 1, MSG_DONTWAIT);
    CHECK(n == 0 || (n < 0 && errno == ECONNRESET));
    CHECK_EQ(turing.ends[2].closes, 1);
    CHECK_EQ(wishes_known(loop), 1);
    peers[3].to_send = 100000;
    SUP_UNTIL_DOING(loop, peers[3].received == 100000) {
        sup_peer_step(&peers[3]);
    }
    turing.ends[3].closes_at_eof = true;
    sup_peer_close(&peers[3]);
    SUP_UNTIL(loop, turing.ends[3].closes == 1);
    CHECK_EQ(close(peers[1].fd) + close(peers[2].fd), 0);
    nkt_loop_done(loop);
}

/* UR19 Q-01: a kernel that takes no table, or not this file: descriptors, as ever. */
NKT_TEST(uring_without_files_by_number) {
    nkt_loop_done(wishes_files_loop(100));
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.ring_files = 100;
    nkt_fault_at("io_uring_register", 2, EINVAL, false);
    netkit_loop *loop = safety_loop(&desc);
    CHECK(nki_u_of(loop)->files.fds == NULL);
    turing_echo_all(loop, 10, 5000);
    nkt_loop_done(loop);
    nkt_fault_clear();
    loop = wishes_files_loop(100);
    turing_echo_all(loop, 5, 5000); /* the rest that is registered, at first use */
    uint64_t faults = 0;
    for (unsigned percent = 20; percent <= 100; percent += 20) {
        nkt_fault_prob("io_uring_register", percent, ENOMEM);
        turing_echo_all(loop, 20, 5000);
        CHECK_EQ(wishes_known(loop), 0);
        faults += nkt_faults();
        nkt_fault_clear();
    }
    CHECK(faults > 0);
    nkt_loop_done(loop);
}

static netkit_loop *wishes_moved;

static void *wishes_go_on(void *arg) {
    sup_peer *peers = (sup_peer *)arg;
    CHECK_OK(netkit_loop_adopt(wishes_moved));
    CHECK(nki_u_of(wishes_moved)->files.fds != NULL);
    safety_dial_all(wishes_moved, peers, 2);
    CHECK_EQ(wishes_known(wishes_moved), 2);
    for (int i = 0; i < 2; i++) {
        peers[i].to_send = 5000;
        SUP_UNTIL_DOING(wishes_moved, peers[i].received == 5000) {
            sup_peer_step(&peers[i]);
        }
        sup_peer_close(&peers[i]);
        SUP_UNTIL(wishes_moved, turing.ends[i].closes == 1);
    }
    CHECK_OK(netkit_loop_destroy(wishes_moved));
    return NULL;
}

/* UR19 UR04: a loop that moves to another thread has a table in its new ring, too. */
NKT_TEST(uring_files_by_number_move) {
    sup_peer peers[2];
    pthread_t thread;
    wishes_moved = wishes_files_loop(300);
    sup_settle(wishes_moved); /* the ring is this thread's now */
    CHECK_EQ(pthread_create(&thread, NULL, wishes_go_on, peers), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    nkt_loops--;
    CHECK_EQ(nkt_live_bytes(), 0);
}

static void *wishes_refused(void *arg) {
    CHECK_ERR(netkit_loop_adopt((netkit_loop *)arg), NETKIT_E_BUSY);
    return NULL;
}

/* UR19 UR04: a conn that is known by its number stays in the table of the old ring, which is another
 * thread's: there is no moving with it, even when nothing is under way. */
NKT_TEST(uring_files_by_number_do_not_move) {
    netkit_loop *loop = wishes_files_loop(300);
    tl_conn conn;
    pthread_t thread;
    char byte;
    memset(&conn, 0, sizeof(conn));
    tl_adopt(loop, &conn);
    sup_settle(loop);
    CHECK_OK(netkit_conn_pause(loop, conn.handle));
    tl_say(conn.peer, "hello");
    sup_settle(loop);
    CHECK_EQ(wishes_known(loop), 1);
    CHECK_EQ(pthread_create(&thread, NULL, wishes_refused, loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(netkit_conn_resume(loop, conn.handle));
    SUP_UNTIL(loop, conn.bytes == 5);
    CHECK_OK(netkit_conn_abort(loop, conn.handle));
    SUP_UNTIL(loop, conn.closes == 1);
    CHECK_EQ(recv(conn.peer, &byte, 1, MSG_DONTWAIT), 0);
    tl_hang_up(&conn);
    nkt_loop_done(loop);
}

/* UR19: conns that are there already when the ring is replaced are known to the new one by their
 * numbers, and the old one holds none of them. */
NKT_TEST(uring_files_by_number_in_another_ring) {
    netkit_loop *loop = wishes_files_loop(300);
    tl_conn conn;
    uintptr_t native;
    char byte;
    memset(&conn, 0, sizeof(conn));
    conn.is_echo = true;
    tl_adopt(loop, &conn);
    CHECK_EQ(wishes_known(loop), 1);
    CHECK_OK(netkit_loop_native(loop, &native));
    CHECK_EQ(wishes_known(loop), 1);
    for (int i = 0; i < 100; i++) { /* its polls are operations on that number */
        tl_say(conn.peer, "hello");
        sup_turn(loop);
    }
    SUP_UNTIL(loop, conn.bytes == 500);
    CHECK_OK(netkit_conn_abort(loop, conn.handle));
    SUP_UNTIL(loop, conn.closes == 1);
    CHECK_EQ(wishes_known(loop), 0);
    for (int got = 0; got < 500; got++) {
        CHECK_EQ(recv(conn.peer, &byte, 1, MSG_DONTWAIT), 1);
    }
    CHECK_EQ(recv(conn.peer, &byte, 1, MSG_DONTWAIT), 0);
    tl_hang_up(&conn);
    nkt_loop_done(loop);
}

/* UR19 Z-06: a forked child that destroys the loop leaves the parent's table and conns alone. */
NKT_TEST(uring_files_by_number_and_a_child) {
    netkit_loop *loop = wishes_files_loop(100);
    sup_peer peers[2];
    int status = 0;
    safety_dial_all(loop, peers, 2);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        nkt_calls_reset();
        CHECK_OK(netkit_conn_abort(loop, turing.ends[0].conn));
        CHECK_OK(netkit_loop_destroy(loop));
        CHECK_EQ(nkt_calls("io_uring_enter") + nkt_calls("io_uring_register"), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(wishes_known(loop), 2);
    for (int i = 0; i < 2; i++) {
        peers[i].to_send = 50000;
        SUP_UNTIL_DOING(loop, peers[i].received == 50000) {
            sup_peer_step(&peers[i]);
        }
        sup_peer_close(&peers[i]);
        SUP_UNTIL(loop, turing.ends[i].closes == 1);
    }
    nkt_loop_done(loop);
}

#endif /* NKI_HAS_URING */
