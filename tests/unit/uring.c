/* The ring itself: its ladder, its places, its buffers. */

#if NKI_HAS_URING

static const nki_uring_wish uring_plain = {0, 0, 0, false, false};

static void uring_open(nki_uring *r) {
    const char *where;
    int error = nki_uring_open(r, &uring_plain, &where);
    if (error == EPERM || error == ENOSYS || (error == ENOMEM && getenv("NKT_SECCOMP") != NULL)) {
        SKIP("io_uring is refused here");
    }
    CHECK_EQ(error, 0);
}

/* UR01 UR03 UR17: five times as many operations as there are places complete, each once, without
 * any library: a full ring is submitted and filled again. */
NKT_TEST(uring_more_operations_than_places) {
    static bool seen[1280];
    nki_uring r;
    uint32_t got = 0;
    uring_open(&r);
    CHECK_EQ(nki_uring_enable(&r), 0);
    for (uint32_t i = 0; i < 1280; i++) {
        nki_uring_sqe *sqe = nki_uring_take(&r);
        CHECK(sqe != NULL);
        sqe->opcode = NKI_URING_NOP;
        sqe->user_data = i;
    }
    while (got < 1280) {
        CHECK_EQ(nki_uring_enter(&r, NKI_NS_PER_S), 0);
        CHECK(nki_uring_unread(&r) > 0);
        while (nki_uring_unread(&r) > 0) {
            const nki_uring_cqe *cqe = &r.cqes[*r.cq_head & r.cq_mask];
            CHECK(cqe->user_data < 1280 && !seen[cqe->user_data]);
            seen[cqe->user_data] = true;
            got++;
            nki_atomic_store(r.cq_head, *r.cq_head + 1);
        }
    }
    nki_uring_close(&r);
}

/* UR04 I-07: each flag the kernel does not know takes the ring one step down, and every step gives
 * a ring that works. An older kernel begins further down by itself. */
NKT_TEST(uring_ladder) {
    unsigned own = 0;
    for (unsigned step = 0; step < 6; step++) {
        nki_uring r;
        nkt_fault_clear();
        for (unsigned i = 0; i < step; i++) {
            nkt_fault_at("io_uring_setup", 1, EINVAL, false);
        }
        uring_open(&r);
        while (step == 0 && nki_uring_step(own) != r.flags) {
            CHECK(nki_uring_step(++own) != 0);
        }
        CHECK_EQ(r.flags, nki_uring_step(NKI_MAX(step, own)));
        CHECK_EQ(nki_uring_enable(&r), 0);
        nki_uring_sqe *sqe = nki_uring_take(&r);
        sqe->user_data = 77;
        CHECK_EQ(nki_uring_enter(&r, NKI_NS_PER_S), 0);
        CHECK_EQ(nki_uring_unread(&r), 1);
        CHECK_EQ(r.cqes[*r.cq_head & r.cq_mask].user_data, 77);
        nki_uring_close(&r);
    }
    nkt_fault_clear();
}

/* UR03 I-07: where memory is short the ring is smaller, and where there is none it says so. */
NKT_TEST(uring_gets_smaller) {
    nki_uring r;
    const char *where;
    nkt_fault_at("io_uring_setup", 1, ENOMEM, false);
    uring_open(&r);
    CHECK(r.sq_entries < NKI_URING_SQ_ENTRIES);
    nki_uring_close(&r);
    nkt_fault_clear();
    nkt_fault_at("io_uring_setup", 1, ENOMEM, true);
    CHECK_EQ(nki_uring_open(&r, &uring_plain, &where), ENOMEM);
    CHECK_STR(where, "io_uring_setup");
    nkt_fault_clear();
}

/* UR02 I-07: whatever call of its making fails, with whatever error: an error, and nothing left. */
NKT_TEST(uring_open_fails_cleanly) {
    static const char *const names[] = {"io_uring_setup", "mmap", "io_uring_register",
                                        "io_uring_enter"};
    nki_uring r;
    const char *where;
    uring_open(&r);
    nki_uring_close(&r);
    for (size_t i = 0; i < NKI_COUNT(names); i++) {
        for (uint64_t nth = 1; nth <= 2; nth++) {
            nkt_fault_at(names[i], nth, EPERM, false);
            int error = nki_uring_open(&r, &uring_plain, &where);
            CHECK_EQ(error, nkt_faults() == 1 ? EPERM : 0);
            nki_uring_close(&r);
            nkt_fault_clear();
        }
    }
}

/* UR06: a wait ends by its time, not earlier and not much later, and at once when it is 0. */
NKT_TEST(uring_waits_its_time) {
    nki_uring r;
    uring_open(&r);
    CHECK_EQ(nki_uring_enable(&r), 0);
    uint64_t began = nkt_now_ns();
    CHECK_EQ(nki_uring_enter(&r, 20 * NKI_NS_PER_MS), 0);
    uint64_t took = nkt_now_ns() - began;
    CHECK(took >= 20 * NKI_NS_PER_MS && took < 2 * (uint64_t)NKI_NS_PER_S);
    began = nkt_now_ns();
    CHECK_EQ(nki_uring_enter(&r, 0), 0);
    CHECK(nkt_now_ns() - began < NKI_NS_PER_S);
    CHECK_EQ(nki_uring_unread(&r), 0);
    nki_uring_close(&r);
}

/* UR01: events of a poll lie where kernels before 5.9 read 16 bits of them, on either order of
 * bytes; tests/compile/ring.c compares everything else with the kernel's header. */
NKT_TEST(uring_poll_bits) {
    nki_uring_sqe sqe;
    uint16_t seen;
    memset(&sqe, 0, sizeof(sqe));
    sqe.op_flags = nki_u_poll_bits(NETKIT_POLL_READ | NETKIT_POLL_PEER_END);
    memcpy(&seen, (const char *)&sqe + offsetof(nki_uring_sqe, op_flags), sizeof(seen));
    CHECK_EQ(seen, NETKIT_POLL_READ | NETKIT_POLL_PEER_END);
    CHECK_EQ((sqe.op_flags & 0xFFFF) + (sqe.op_flags >> 16), seen);
}

/* UR02: looking whether there is a ring costs a loop's creation at most half a millisecond. */
NKT_TEST(uring_open_is_quick) {
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        nki_uring r;
        uint64_t began = nkt_now_ns();
        uring_open(&r);
        best = NKI_MIN(best, nkt_now_ns() - began);
        nki_uring_close(&r);
    }
    printf("%" PRIu64 " us\n", best / 1000);
    CHECK(best < 10 * 500000 * nkt_slowness);
}

#endif /* NKI_HAS_URING */
