/* The circular buffer against a plain array, and what it does with secrets. */

enum {
    FIFO_MAX = 5000
};

/* What the fifo should hold. */
static unsigned char fifo_model[FIFO_MAX];
static size_t fifo_model_len;
static unsigned char fifo_next;

static size_t fifo_make(unsigned char *out, size_t len) {
    for (size_t i = 0; i < len; i++) {
        out[i] = fifo_next++;
    }
    return len;
}

static void fifo_model_drop(size_t len) {
    fifo_model_len -= len;
    memmove(fifo_model, fifo_model + len, fifo_model_len);
}

static void fifo_step_write(netkit_fifo *f) {
    unsigned char data[1500];
    size_t len =
        fifo_make(data, (size_t)(nkt_random() % (nkt_random() % 4 == 0 ? sizeof data : 40)));
    int code = netkit_fifo_write(f, data, len);
    if (fifo_model_len + len > FIFO_MAX) {
        CHECK_ERR(code, NETKIT_E_FULL);
        return;
    }
    CHECK_OK(code);
    memcpy(fifo_model + fifo_model_len, data, len);
    fifo_model_len += len;
}

static void fifo_step_space(netkit_fifo *f) {
    size_t want = (size_t)(nkt_random() % 900), room = 7;
    unsigned char *at = (unsigned char *)netkit_fifo_space(f, want, &room);
    if (fifo_model_len + NKI_MAX(want, 1) > FIFO_MAX) {
        CHECK(at == NULL && room == 0);
        return;
    }
    CHECK(at != NULL && room >= want && room >= 1);
    CHECK(fifo_model_len + room <= FIFO_MAX);
    size_t len = fifo_make(at, (size_t)(nkt_random() % (room + 1)));
    memcpy(fifo_model + fifo_model_len, at, len);
    CHECK_OK(netkit_fifo_commit(f, len));
    fifo_model_len += len;
    CHECK_ERR(netkit_fifo_commit(f, FIFO_MAX - fifo_model_len + 1), NETKIT_E_INVALID);
}

static void fifo_step_read(netkit_fifo *f) {
    unsigned char out[1500];
    size_t len = (size_t)(nkt_random() % sizeof out);
    size_t got = netkit_fifo_read(f, out, len);
    CHECK_EQ(got, NKI_MIN(len, fifo_model_len));
    CHECK_MEM(out, fifo_model, got);
    fifo_model_drop(got);
}

static void fifo_step_peek(netkit_fifo *f) {
    unsigned char out[FIFO_MAX];
    size_t offset = (size_t)(nkt_random() % (FIFO_MAX + 100)),
           len = (size_t)(nkt_random() % FIFO_MAX);
    size_t left = offset < fifo_model_len ? fifo_model_len - offset : 0;
    size_t got = netkit_fifo_peek(f, offset, out, len);
    CHECK_EQ(got, NKI_MIN(len, left));
    CHECK_MEM(out, fifo_model + (got > 0 ? offset : 0), got);
}

static void fifo_step_straighten(netkit_fifo *f) {
    size_t len = (size_t)(nkt_random() % FIFO_MAX);
    const void *at = netkit_fifo_straighten(f, len);
    CHECK((at != NULL) == (len <= fifo_model_len && fifo_model_len > 0));
    if (at != NULL) {
        CHECK_MEM(at, fifo_model, len);
    }
}

static void fifo_step_consume(netkit_fifo *f) {
    netkit_span front = netkit_fifo_front(f);
    CHECK((front.len > 0) == (fifo_model_len > 0) && front.len <= fifo_model_len);
    if (front.len > 0) {
        CHECK_MEM(front.data, fifo_model, front.len);
    }
    size_t got = netkit_fifo_consume(f, front.len);
    CHECK_EQ(got, front.len);
    fifo_model_drop(got);
}

static void fifo_random_life(netkit_fifo *f) {
    static void (*const steps[])(netkit_fifo *) = {
        fifo_step_write, fifo_step_write, fifo_step_write,   fifo_step_space,
        fifo_step_read,  fifo_step_peek,  fifo_step_consume, fifo_step_straighten};
    fifo_model_len = 0;
    for (int i = 0; i < 20000; i++) {
        steps[nkt_random() % (sizeof steps / sizeof *steps)](f);
        CHECK_EQ(netkit_fifo_len(f), fifo_model_len);
        if (nkt_random() % 500 == 0) {
            netkit_fifo_clear(f);
            fifo_model_len = 0;
        }
    }
    netkit_fifo_free(f);
    CHECK_EQ(nkt_live_bytes(), 0);
}

static netkit_fifo fifo_new(size_t capacity_max) {
    netkit_fifo f;
    memset(&f, 0, sizeof f);
    f.capacity_max = capacity_max;
    f.allocator = nkt_allocator();
    return f;
}

/* PO10 PO11: whatever is written, read, peeked, moved and dropped in any order, it holds the same
 * bytes as a plain array would, and never more than its maximum. */
NKT_TEST(fifo_is_a_queue_of_bytes) {
    netkit_fifo f = fifo_new(FIFO_MAX);
    fifo_random_life(&f);
    f.is_secret = true;
    fifo_random_life(&f);
}

/* PO11: it grows by doubling from 1 KiB, refuses what can never fit apart from what does not fit
 * now, and an allocation that fails changes nothing. */
NKT_TEST(fifo_limits) {
    netkit_fifo f = fifo_new(3000);
    unsigned char data[3001] = {1, 2, 3};
    unsigned char out[3];
    CHECK_EQ(netkit_fifo_read(&f, out, 3), 0);
    CHECK(netkit_fifo_straighten(&f, 0) == NULL);
    netkit_fifo_free(&f);
    CHECK_OK(netkit_fifo_write(&f, data, 0));
    CHECK_EQ(nkt_allocs(), 0);
    CHECK_OK(netkit_fifo_write(&f, data, 3));
    CHECK_EQ(nkt_live_bytes(), 1024);
    CHECK_ERR(netkit_fifo_write(&f, data, 3001), NETKIT_E_TOOBIG);
    CHECK_ERR(netkit_fifo_write(&f, data, 2998), NETKIT_E_FULL);
    nkt_alloc_fail_at(1, true);
    CHECK_ERR(netkit_fifo_write(&f, data, 2000), NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    CHECK_EQ(netkit_fifo_len(&f), 3);
    CHECK_OK(netkit_fifo_reserve(&f, 2997));
    nkt_alloc_fail_at(1, true);
    CHECK_OK(netkit_fifo_write(&f, data, 2997)); /* as reserved */
    nkt_alloc_fail_at(0, false);
    CHECK_EQ(netkit_fifo_peek(&f, 0, out, 3), 3);
    CHECK_MEM(out, data, 3);
    CHECK_EQ(nkt_live_bytes(), 4096);
    netkit_fifo_free(&f);
    CHECK_EQ(nkt_live_bytes(), 0);
}

static bool fifo_memory_has(const netkit_fifo *f, const char *secret, size_t len) {
    for (size_t i = 0; i + len <= f->capacity; i++) {
        if (memcmp(f->memory + i, secret, len) == 0) {
            return true;
        }
    }
    return false;
}

/* What an allocator is given back: is the secret in it? */
static int fifo_spilled;

static void *fifo_spy_alloc(size_t size, void *user) {
    (void)user;
    return calloc(1, size);
}

static void fifo_spy_free(void *memory, size_t size, void *user) {
    for (size_t i = 0; i + 8 <= size; i++) {
        fifo_spilled += memcmp((unsigned char *)memory + i, "password", 8) == 0;
    }
    (void)user;
    free(memory);
}

/* MB03 PO10: a fifo of secrets overwrites what was read, cleared, moved and freed; netkit_wipe
 * overwrites what it is given and nothing beside. */
NKT_TEST(fifo_wipes_secrets) {
    for (int is_secret = 0; is_secret < 2; is_secret++) {
        netkit_fifo f = fifo_new(0);
        char out[8], filler[1100] = {0};
        f.allocator.alloc = fifo_spy_alloc;
        f.allocator.free = fifo_spy_free;
        f.is_secret = is_secret != 0;
        CHECK_OK(netkit_fifo_write(&f, "password", 8));
        CHECK_EQ(netkit_fifo_read(&f, out, 8), 8);
        CHECK(fifo_memory_has(&f, "password", 8) == !is_secret);
        CHECK_OK(netkit_fifo_write(&f, "password", 8));
        netkit_fifo_clear(&f);
        CHECK(fifo_memory_has(&f, "password", 8) == !is_secret);
        CHECK_OK(netkit_fifo_write(&f, "password", 8));
        CHECK_OK(netkit_fifo_write(&f, filler, sizeof filler)); /* grows: the old memory goes */
        CHECK((fifo_spilled > 0) == !is_secret);
        fifo_spilled = 0;
        netkit_fifo_free(&f);
        CHECK((fifo_spilled > 0) == !is_secret);
        fifo_spilled = 0;
    }
    char text[] = "abcdef";
    netkit_wipe(text + 2, 2);
    CHECK_MEM(text, "ab\0\0ef", 7);
    netkit_wipe(NULL, 0);
}

/* PO10: no more is committed than the place in one piece had room for, wherever it lies. */
NKT_TEST(fifo_commits_one_piece) {
    netkit_fifo f;
    static unsigned char data[1024];
    size_t room;
    memset(&f, 0, sizeof f);
    f.allocator = nkt_allocator();
    CHECK_OK(netkit_fifo_write(&f, data, 1000));
    CHECK_EQ(netkit_fifo_consume(&f, 990), 990);
    CHECK(netkit_fifo_space(&f, 1, &room) != NULL); /* 24 bytes up to the end of the ring */
    CHECK_EQ(room, 24);
    CHECK_ERR(netkit_fifo_commit(&f, 25), NETKIT_E_INVALID);
    CHECK_EQ(f.len, 10);
    CHECK_OK(netkit_fifo_commit(&f, 24));
    CHECK_EQ(f.len, 34);
    CHECK(netkit_fifo_space(&f, 1, &room) != NULL); /* from its beginning up to what waits */
    CHECK_EQ(room, 990);
    CHECK_ERR(netkit_fifo_commit(&f, 991), NETKIT_E_INVALID);
    CHECK_OK(netkit_fifo_commit(&f, 990));
    CHECK_ERR(netkit_fifo_commit(&f, 1), NETKIT_E_INVALID);
    CHECK_OK(netkit_fifo_commit(&f, 0));
    netkit_fifo_free(&f);
    CHECK_EQ(nkt_live_bytes(), 0);
}
