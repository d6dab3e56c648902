/* Floor 2 under the sockets: error codes, clock, randomness, the wake descriptor. */

/* ER03: each code of the system that matters has one of ours, and text and code never disagree. */
NKT_TEST(os_errors_are_mapped) {
    CHECK_EQ(netkit_error_from_os(0), NETKIT_OK);
    CHECK_EQ(netkit_error_from_os(EAGAIN), NETKIT_E_AGAIN);
    CHECK_EQ(netkit_error_from_os(EWOULDBLOCK), NETKIT_E_AGAIN);
    CHECK_EQ(netkit_error_from_os(ECONNRESET), NETKIT_E_RESET);
    CHECK_EQ(netkit_error_from_os(EPIPE), NETKIT_E_RESET);
    CHECK_EQ(netkit_error_from_os(ECONNREFUSED), NETKIT_E_REFUSED);
    CHECK_EQ(netkit_error_from_os(ETIMEDOUT), NETKIT_E_TIMEOUT);
    CHECK_EQ(netkit_error_from_os(EMFILE), NETKIT_E_MFILE);
    CHECK_EQ(netkit_error_from_os(ENFILE), NETKIT_E_MFILE);
    CHECK_EQ(netkit_error_from_os(ENOBUFS), NETKIT_E_NOMEM);
    CHECK_EQ(netkit_error_from_os(EADDRINUSE), NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_error_from_os(EADDRNOTAVAIL), NETKIT_E_ADDRNOTAVAIL);
    CHECK_EQ(netkit_error_from_os(EHOSTUNREACH), NETKIT_E_UNREACHABLE);
    CHECK_EQ(netkit_error_from_os(EACCES), NETKIT_E_ACCESS);
    CHECK_EQ(netkit_error_from_os(ENOTCONN), NETKIT_E_NOTCONN);
    CHECK_EQ(netkit_error_from_os(EOPNOTSUPP), NETKIT_E_NOSYS);
    CHECK_EQ(netkit_error_from_os(EINTR), NETKIT_E_INTERRUPTED);
    CHECK_EQ(netkit_error_from_os(EMSGSIZE), NETKIT_E_TOOBIG);
    CHECK_EQ(netkit_error_from_os(-1), NETKIT_E_IO);
    CHECK_EQ(netkit_error_from_os(INT_MAX), NETKIT_E_IO);
    for (int code = -10; code < 4096; code++) {
        int mapped = netkit_error_from_os(code);
        CHECK(mapped <= 0 && mapped >= NETKIT_E_LAST_);
        CHECK(strcmp(netkit_error_name(mapped), "NETKIT_E_UNKNOWN") != 0);
    }
}

/* The clock goes on, and its failure has a value of its own. */
NKT_TEST(os_clock_goes_on) {
    uint64_t before = nki_os_now_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = nki_os_now_ns();
        CHECK(now >= before);
        before = now;
    }
    nkt_sleep_ms(2);
    CHECK(nki_os_now_ns() - before >= 2000000);
    nkt_fault_at("clock_gettime", 1, EINVAL, false);
    CHECK_EQ(nki_os_now_ns(), 0);
    CHECK(nki_os_now_ns() >= before);
}

static bool os_is_blank(const unsigned char *bytes, size_t len) {
    size_t zeros = 0;
    for (size_t i = 0; i < len; i++) {
        zeros += bytes[i] == 0;
    }
    return zeros > len / 4;
}

/* Random bytes fill the whole, from the call or, without it, from the device; with neither there
 * is an error and no guess. */
NKT_TEST(os_random_fills_all) {
    unsigned char a[1000], b[1000];
    memset(a, 0, sizeof(a));
    CHECK_OK(nki_os_random(a, sizeof(a)));
    CHECK_OK(nki_os_random(b, sizeof(b)));
    CHECK(!os_is_blank(a, sizeof(a)));
    CHECK(memcmp(a, b, sizeof(a)) != 0);

#if NKI_WINDOWS
    nkt_fault_at("getrandom", 1, EIO, false);
    CHECK_ERR(nki_os_random(a, sizeof(a)), NETKIT_E_IO);
    CHECK_EQ(nki_os_code(), EIO);
#else
    nkt_fault_at("getrandom", 1, EINTR, false);
    nkt_fault_at("getrandom", 2, ENOSYS, true);
    nkt_fault_at("read", 1, EINTR, false);
    memset(a, 0, sizeof(a));
    CHECK_OK(nki_os_random(a, sizeof(a)));
    CHECK(!os_is_blank(a, sizeof(a)));

    nkt_fault_at("read", 1, EIO, false);
    CHECK_ERR(nki_os_random(a, sizeof(a)), NETKIT_E_IO);
    CHECK_EQ(nki_os_code(), EIO);
    nkt_fault_clear();
    nkt_fault_at("getrandom", 1, EPERM, true);
    nkt_fault_at("open", 1, EMFILE, false);
    CHECK_ERR(nki_os_random(a, sizeof(a)), NETKIT_E_MFILE);
#endif
    CHECK_OK(nki_os_random(a, 0));
}

static void *os_thread_id(void *out) {
    *(uintptr_t *)out = nki_os_thread_id();
    return NULL;
}

/* Threads that live at the same time have different ids, and one keeps its own. */
NKT_TEST(os_thread_ids_differ) {
    pthread_t thread;
    uintptr_t other = 0;
    CHECK_EQ(pthread_create(&thread, NULL, os_thread_id, &other), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(other != 0 && other != nki_os_thread_id());
    CHECK(nki_os_thread_id() != 0 && nki_os_thread_id() == nki_os_thread_id());
}

/* A name that is no interface is 0. */
NKT_TEST(os_interface_by_name) {
    CHECK_EQ(nki_os_interface("no such if"), 0);
#if defined(__linux__)
    CHECK(nki_os_interface("lo") > 0);
    nkt_fault_at("if_nametoindex", 1, EMFILE, false);
    CHECK_EQ(nki_os_interface("lo"), 0);
#endif
}

/* a wake on a full descriptor neither blocks nor is lost, and one drain empties it. */
NKT_TEST(os_wake_when_full) {
    nki_wake wake;
    CHECK_OK(nki_os_wake_open(&wake));
    CHECK((fcntl((int)wake.reader, F_GETFL) & O_NONBLOCK) != 0);
    CHECK((fcntl((int)wake.reader, F_GETFD) & FD_CLOEXEC) != 0);
    if (wake.reader == wake.writer) {
        uint64_t almost = UINT64_MAX - 1;
        CHECK_EQ(write((int)wake.writer, &almost, sizeof(almost)), (ssize_t)sizeof(almost));
    } else {
        while (write((int)wake.writer, "x", 1) == 1) {
        }
    }
    errno = 77;
    CHECK_OK(nki_os_wake_signal(&wake));
    CHECK_EQ(errno, 77);
    CHECK_EQ(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_POLL_READ);
    nki_os_wake_drain(&wake);
    CHECK_ERR(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_E_TIMEOUT);
    CHECK_OK(nki_os_wake_signal(&wake));
    CHECK_EQ(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_POLL_READ);
    nki_os_wake_close(&wake);
}

/* Z-04: signals during a wake or its drain are not seen; real errors are. */
NKT_TEST(os_wake_interrupted) {
    nki_wake wake;
    nkt_fault_at("eventfd", 1, EMFILE, false);
    nkt_fault_at("pipe", 1, EMFILE, false);
    nkt_fault_at(NKI_WINDOWS ? "accept" : "none", 1, EMFILE, false);
    CHECK_ERR(nki_os_wake_open(&wake), NETKIT_E_MFILE);
    CHECK(wake.reader == UINTPTR_MAX);
    nki_os_wake_close(&wake);
    nkt_fault_clear();

    CHECK_OK(nki_os_wake_open(&wake));
#if NKI_WINDOWS /* nothing interrupts, but a full one is as good */
    nkt_fault_at("send", 1, EAGAIN, false);
    CHECK_OK(nki_os_wake_signal(&wake));
    CHECK_OK(nki_os_wake_signal(&wake));
    CHECK_EQ(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_POLL_READ);
    nki_os_wake_drain(&wake);
    CHECK_ERR(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_E_TIMEOUT);
    nkt_fault_at("send", 1, EBADF, false);
#else
    nkt_fault_at("write", 1, EINTR, false);
    nkt_fault_at("write", 1, EINTR, false);
    nkt_fault_at("read", 1, EINTR, false);
    CHECK_OK(nki_os_wake_signal(&wake));
    CHECK_EQ(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_POLL_READ);
    nki_os_wake_drain(&wake);
    CHECK_ERR(nki_os_wait(wake.reader, NETKIT_POLL_READ, 0), NETKIT_E_TIMEOUT);
    CHECK_EQ(nkt_faults(), 3);
    nkt_fault_at("write", 1, EBADF, false);
#endif
    CHECK_ERR(nki_os_wake_signal(&wake), NETKIT_E_INVALID);
    nki_os_wake_close(&wake);
}

#if NKI_POSIX
/* A number too large for a descriptor is none: its upper half is not cut off. */
NKT_TEST(os_no_descriptor) {
    netkit_addr addr;
    CHECK_EQ(nki_os_fd(UINTPTR_MAX), -1);
    CHECK_EQ(nki_os_fd((uintptr_t)INT_MAX + 1), -1);
    CHECK_ERR(nki_os_wait(UINTPTR_MAX, NETKIT_POLL_READ, NKI_NEVER), NETKIT_E_INVALID);
    CHECK_ERR(nki_os_local(UINTPTR_MAX, &addr), NETKIT_E_INVALID);
    CHECK_ERR(nki_os_close(UINTPTR_MAX), NETKIT_E_INVALID);
}

/* M-06: waits are rounded up, never to a wait of nothing, and cut to what an int holds. */
NKT_TEST(os_poll_ms_rounds_up) {
    CHECK_EQ(nki_os_poll_ms(0), 0);
    CHECK_EQ(nki_os_poll_ms(1), 1);
    CHECK_EQ(nki_os_poll_ms(NKI_NS_PER_MS), 1);
    CHECK_EQ(nki_os_poll_ms(NKI_NS_PER_MS + 1), 2);
    CHECK_EQ(nki_os_poll_ms(NKI_NEVER), -1);
    CHECK_EQ(nki_os_poll_ms(NKI_NEVER - 1), INT_MAX);
    CHECK_EQ(nki_os_poll_ms((uint64_t)INT_MAX * NKI_NS_PER_MS + 1), INT_MAX);
}
#endif /* NKI_POSIX */
