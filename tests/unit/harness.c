/* The harness's tests of itself: each way in which a test can fail is reported as a failure. */

NKT_HIDDEN_TEST(hidden_passes) {
    CHECK(true);
}

NKT_HIDDEN_TEST(hidden_check) {
    CHECK_EQ(1 + 1, 3);
}

NKT_HIDDEN_TEST(hidden_crash) {
    CHECK(true);
    nkt_crash();
}

NKT_HIDDEN_TEST(hidden_abort) {
    CHECK(true);
    nkt_kill_oneself();
}

NKT_HIDDEN_TEST(hidden_exit) {
    CHECK(true);
    exit(0);
}

NKT_HIDDEN_TEST(hidden_hang) {
    NKT_TIME_LIMIT(1);
    CHECK(true);
    for (;;) {
        nkt_sleep_ms(1000);
    }
}

NKT_HIDDEN_TEST(hidden_memory) {
    netkit_allocator a = nkt_allocator();
    CHECK(a.alloc(123, a.user) != NULL);
}

NKT_HIDDEN_TEST(hidden_size) {
    netkit_allocator a = nkt_allocator();
    void *memory = a.alloc(123, a.user);
    CHECK(memory != NULL);
    a.free(memory, 124, a.user);
}

NKT_HIDDEN_TEST(hidden_descriptor) {
    CHECK(dup(STDOUT_FILENO) >= 0);
}

NKT_HIDDEN_TEST(hidden_nothing) {}

NKT_HIDDEN_TEST(hidden_skip) {
    SKIP("no such thing here");
}

/* Run one hidden test with this program; its output and exit status come back. */
static int harness_run(const char *test, char *out, size_t size) {
    char arguments[256];
#if NKI_POSIX
    if (access("/bin/sh", X_OK) != 0) {
        SKIP("no shell here");
    }
#endif
    snprintf(arguments, sizeof(arguments),
             "NKT_TALLY= NKT_SLOWNESS= NKT_CHILD= B= V= LONG= NKT_SHOW_HIDDEN=1 T=%s SEED=7", test);
    return nkt_run_program(nkt_program, arguments, out, size);
}

static void harness_expect(const char *test, const char *text, const char *closing, int status) {
    char out[4096];
    int got = harness_run(test, out, sizeof(out));
    size_t len = strlen(closing);
    printf("%s", out);
    CHECK(strstr(out, text) != NULL);
    CHECK(strlen(out) > len && strcmp(out + strlen(out) - len, closing) == 0);
    CHECK_EQ(got, status);
}

NKT_TEST(harness_reports_each_kind_of_failure) {
    static const char *const failures[][2] = {
        {"hidden_check", "tests/unit/harness.c:8: 2 != 3"},
        {"hidden_crash", NKT_CRASH_TEXT},
        {"hidden_abort", NKT_KILL_TEXT},
        {"hidden_exit", "left by exit(0)"},
        {"hidden_hang", "still running after 1 s"},
        {"hidden_memory", "leaks 123 bytes"},
        {"hidden_size", "freed with size 124"},
        {"hidden_descriptor", "leaks 1 descriptors"},
        {"hidden_nothing", "asserts nothing"},
    };
    for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
        harness_expect(failures[i][0], failures[i][1], "\n0 passed, 1 failed, 0 skipped\n", 1);
    }
}

NKT_TEST(harness_reports_passes_and_skips) {
    harness_expect("hidden_passes", "SEED=7", "\n1 passed, 0 failed, 0 skipped\n", 0);
    harness_expect("hidden_skip", "skipped hidden_skip: no such thing here",
                   "\n0 passed, 0 failed, 1 skipped\n", 0);
    harness_expect("hidden_absent", "no test is selected", "\n0 passed, 1 failed, 0 skipped\n", 1);
}

NKT_TEST(harness_fails_the_nth_call) {
    nkt_calls_reset(); /* the harness has looked at the backends */
    nkt_fault_at("made_up", 2, EMFILE, false);
    CHECK(!nkt_fail("made_up"));
    CHECK(!nkt_fail("another"));
    CHECK(nkt_fail("made_up") && errno == EMFILE);
    CHECK(!nkt_fail("made_up"));
    CHECK_EQ(nkt_calls("made_up"), 3);
    CHECK_EQ(nkt_calls(NULL), 4);
    CHECK_EQ(nkt_faults(), 1);
    nkt_fault_clear();
    nkt_calls_reset();
    nkt_fault_at(NULL, 2, EIO, true);
    CHECK(!nkt_fail("made_up") && nkt_fail("another") && nkt_fail("made_up"));
    CHECK_EQ(nkt_calls("made_up"), 2);
    nkt_fault_clear();
    nkt_clip_random("made_up", 5);
    for (int i = 0; i < 100; i++) {
        size_t len = nkt_clip("made_up", 1000);
        CHECK(len >= 1 && len <= 5 && nkt_clip("another", 1000) == 1000);
        CHECK(nkt_clip("made_up", 0) == 0);
    }
}

static void *harness_other_thread(void *arg) {
    *(bool *)arg = nkt_fail("made_up");
    return NULL;
}

NKT_TEST(harness_fails_calls_on_its_own_thread_only) {
    pthread_t thread;
    bool did_fail = true;
    nkt_fault_prob("made_up", 100, EIO);
    CHECK_EQ(pthread_create(&thread, NULL, harness_other_thread, &did_fail), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(!did_fail);
    CHECK(nkt_fail("made_up"));
    CHECK_EQ(nkt_calls("made_up"), 2);
}

NKT_TEST(harness_fails_the_nth_allocation) {
    netkit_allocator a = nkt_allocator();
    void *memory[2];
    nkt_alloc_fail_at(2, true);
    memory[0] = a.alloc(10, a.user);
    CHECK(memory[0] != NULL);
    CHECK(a.alloc(10, a.user) == NULL && a.alloc(10, a.user) == NULL);
    CHECK_EQ(nkt_alloc_faults(), 2);
    nkt_alloc_fail_at(0, false);
    memory[1] = a.alloc(20, a.user);
    CHECK(memory[1] != NULL && ((uintptr_t)memory[1] & (2 * sizeof(void *) - 1)) == 0);
    CHECK_EQ(nkt_live_bytes(), 30);
    a.free(memory[0], 10, a.user);
    a.free(memory[1], 20, a.user);
    CHECK_EQ(nkt_live_bytes(), 0);
}

/* MB12: paths are a test's own, each of them, so runs side by side do not meet. */
NKT_TEST(harness_gives_paths_of_its_own) {
    char paths[3][256];
    for (int i = 0; i < 3; i++) {
        nkt_temp_path(paths[i], sizeof(paths[i]));
        CHECK(access(paths[i], F_OK) != 0);
    }
    CHECK(strcmp(paths[0], paths[1]) != 0);
    CHECK(strcmp(paths[1], paths[2]) != 0);
    CHECK(strcmp(paths[0], paths[2]) != 0);
}
