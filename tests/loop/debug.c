/* The debug mode that teaches: each mistake one log line with a hint. */

#include "support_loop.h"

static tl_log debug_log;

static netkit_loop *debug_loop(bool debug, uint32_t slow_ms) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    memset(&debug_log, 0, sizeof(debug_log));
    desc.debug = debug;
    desc.slow_callback_ms = slow_ms;
    desc.logger = tl_logger(&debug_log);
    return nkt_loop_with(&desc);
}

static void debug_nested(netkit_loop *loop, int status, void *user) {
    (void)status;
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_BUSY);
    CHECK_ERR(netkit_loop_poll(loop, 0), NETKIT_E_BUSY);
    ++*(int *)user;
}

static void *debug_stranger(void *user) {
    netkit_loop *loop = (netkit_loop *)user;
    netkit_timer timer = {0};
    CHECK_ERR(netkit_timer_stop(loop, timer), NETKIT_E_THREAD);
    CHECK_ERR(netkit_loop_run(loop), NETKIT_E_THREAD);
    return NULL;
}

static void debug_slow(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    (void)user;
    nkt_sleep_ms(40);
}

static void debug_quick(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)status;
    (void)user;
}

/* What a handler does that does not look at what send returns. */
static size_t debug_careless(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    static char big[3000];
    size_t used = tl_on_data(loop, conn, data, len, user);
    for (int i = 0; i < 100; i++) {
        (void)netkit_conn_send(loop, conn, big, sizeof(big));
    }
    return used;
}

/* Make each mistake once; returns how many lines of it are expected with debug on. */
static void debug_make_mistakes(bool debug) {
    static const netkit_handler careless = {tl_on_open, debug_careless, NULL, NULL, tl_on_close};
    netkit_loop *loop = debug_loop(debug, 20);
    netkit_conn_options options;
    tl_conn c, left;
    pthread_t thread;
    int nested = 0;
    memset(&c, 0, sizeof(c));
    memset(&left, 0, sizeof(left));
    CHECK_OK(netkit_loop_poll(loop, -1));
    CHECK_EQ(pthread_create(&thread, NULL, debug_stranger, loop), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(netkit_loop_post(loop, debug_nested, &nested));
    CHECK_OK(netkit_loop_post(loop, debug_slow, NULL));
    CHECK_OK(netkit_loop_run(loop));
    CHECK_EQ(nested, 1);
    memset(&options, 0, sizeof(options));
    options.duplex = true;
    options.send_max = 4096;
    tl_adopt_as(loop, &c, &careless, &options);
    tl_say(c.peer, "x");
    TL_UNTIL(loop, c.datas == 1);
    tl_say(c.peer, "y");
    for (int i = 0; i < 5; i++) {
        CHECK_OK(netkit_loop_run_once(loop, 1));
    }
    tl_drop(loop, &c);
    tl_open(loop, &left); /* and stays open */
    nkt_loop_done(loop);
    tl_hang_up(&left);
}

/* BX16: wrong thread, nested run, slow callback, refused send ignored, handle leaked: each is told,
 * at a level of a mistake, in a sentence that says what to do. */
NKT_LOOP_TEST(debug_teaches) {
    static const int ids[] = {NETKIT_LOGID_WRONG_THREAD, NETKIT_LOGID_NESTED_RUN,
                              NETKIT_LOGID_SLOW_CALLBACK, NETKIT_LOGID_IGNORED_SEND,
                              NETKIT_LOGID_LEAKED_HANDLE};
    debug_make_mistakes(true);
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        printf("%d, %u times: %s\n", ids[i], debug_log.lines[ids[i]], debug_log.text[ids[i]]);
        CHECK(debug_log.lines[ids[i]] >= 1);
        CHECK(debug_log.lines[ids[i]] <= 4);
        CHECK(debug_log.level[ids[i]] <= NETKIT_LOG_WARN);
        CHECK(strlen(debug_log.text[ids[i]]) > 25);
    }
    CHECK(debug_log.lines[NETKIT_LOGID_BACKEND] >= 1);
}

/* BX16: without debug none of it is said. */
NKT_LOOP_TEST(debug_is_off_by_default) {
    debug_make_mistakes(false);
    CHECK_EQ(debug_log.lines[NETKIT_LOGID_WRONG_THREAD], 0);
    CHECK_EQ(debug_log.lines[NETKIT_LOGID_NESTED_RUN], 0);
    CHECK_EQ(debug_log.lines[NETKIT_LOGID_SLOW_CALLBACK], 0);
    CHECK_EQ(debug_log.lines[NETKIT_LOGID_IGNORED_SEND], 0);
    CHECK_EQ(debug_log.lines[NETKIT_LOGID_LEAKED_HANDLE], 0);
}

/* BX16: nothing is said about a program without mistakes: all that it opened it closed, its
 * callbacks are quick, and it waits for on_drain. */
NKT_LOOP_TEST(debug_does_not_nag) {
    netkit_loop *loop = debug_loop(true, 1000);
    static tl_conn c;
    c.is_echo = true;
    tl_open(loop, &c);
    for (int i = 0; i < 50; i++) {
        tl_say(c.peer, "x");
        CHECK_OK(netkit_loop_post(loop, debug_quick, NULL));
        CHECK_OK(netkit_loop_run_once(loop, 100));
    }
    tl_drop(loop, &c);
    nkt_loop_done(loop);
    for (int id = NETKIT_LOGID_WRONG_THREAD; id <= NETKIT_LOGID_LAST_; id++) {
        CHECK_EQ(debug_log.lines[id], 0);
    }
}

/* R3 BX16: without a logger nothing is printed, whatever goes wrong. */
NKT_LOOP_TEST(debug_never_prints) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    static tl_conn c;
    char path[160];
    int nested = 0;
    nkt_temp_path(path, sizeof(path));
    CHECK(nkt_capture(path));
    memset(&desc, 0, sizeof(desc));
    desc.debug = true;
    desc.slow_callback_ms = 1;
    loop = nkt_loop_with(&desc);
    CHECK_OK(netkit_loop_post(loop, debug_nested, &nested));
    CHECK_OK(netkit_loop_post(loop, debug_slow, NULL));
    CHECK_OK(netkit_loop_run(loop));
    tl_open(loop, &c);
    nkt_loop_done(loop);
    CHECK_EQ(nkt_captured(), 0);
    tl_hang_up(&c);
}
