/* What is Windows' own in plain sockets: Winsock's beginning and end, ports that are nobody else's,
 * pairs out of TCP, codes by their names. */

#if NKI_WINDOWS

static netkit_addr win_addr(const char *text) {
    netkit_addr addr;
    CHECK_OK(netkit_addr_parse(&addr, text, NULL));
    return addr;
}

static void win_count(uint64_t begun) {
    CHECK_EQ(nkt_calls("startup"), begun);
    CHECK_EQ(nkt_calls("cleanup"), begun);
    nkt_calls_reset();
}

/* WN01 W-04: a loop and a poller begin Winsock and end it, also when they come to nothing; where
 * it cannot be begun there is none of them, and the system's code says why. */
NKT_TEST(windows_begin_and_end) {
    netkit_loop *loop;
    netkit_poller *poller;
    netkit_socket s;
    nkt_calls_reset();
    CHECK_OK(netkit_loop_create(&loop, NULL));
    CHECK_EQ(nkt_calls("startup"), 1);
    CHECK_OK(netkit_loop_destroy(loop));
    win_count(1);
    CHECK_OK(netkit_poller_create(&poller, NULL));
    netkit_poller_destroy(poller);
    win_count(1);
    netkit_loop_desc loop_desc;
    netkit_poller_desc poller_desc;
    memset(&loop_desc, 0, sizeof(loop_desc));
    memset(&poller_desc, 0, sizeof(poller_desc));
    loop_desc.allocator = poller_desc.allocator = nkt_allocator();
    for (uint64_t nth = 1; nth < 8; nth++) {
        nkt_alloc_fail_at(nth, true);
        if (netkit_loop_create(&loop, &loop_desc) == NETKIT_OK) {
            CHECK_OK(netkit_loop_destroy(loop));
        }
        nkt_alloc_fail_at(nth, true);
        if (netkit_poller_create(&poller, &poller_desc) == NETKIT_OK) {
            netkit_poller_destroy(poller);
        }
    }
    nkt_alloc_fail_at(0, false);
    CHECK(nkt_calls("startup") > 0);
    CHECK_EQ(nkt_calls("startup"), nkt_calls("cleanup"));
    nkt_fault_at("startup", 1, WSASYSNOTREADY, true);
    CHECK_ERR(netkit_loop_create(&loop, NULL), NETKIT_E_NOSYS);
    CHECK_ERR(netkit_poller_create(&poller, NULL), NETKIT_E_NOSYS);
    CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0), NETKIT_E_NOSYS);
    CHECK_EQ(netkit_socket_os_code(), WSASYSNOTREADY);
    CHECK_EQ(s.value, 0);
    nkt_fault_clear();
}

/* WN01 W-04: a plain socket made while a loop lives outlives it. */
NKT_TEST(windows_sockets_outlive_loops) {
    netkit_loop *loop;
    netkit_socket s[2];
    char text[4];
    CHECK_OK(netkit_loop_create(&loop, NULL));
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_loop_destroy(loop));
    CHECK_EQ(netkit_socket_send(s[0], "abc", 3), 3);
    CHECK_OK(netkit_socket_recv_all(s[1], text, 3, 1000, NULL));
    CHECK_MEM(text, "abc", 3);
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_OK(netkit_socket_close(&s[1]));
}

static void win_log(int level, int id, const char *text, int os_code, void *user) {
    (void)level;
    (void)id;
    (void)text;
    (void)os_code;
    WSASetLastError(WSAEINTR);
    (*(int *)user)++;
}

/* W-04: what a logger does to the thread's code is undone. */
NKT_TEST(windows_code_survives_the_logger) {
    netkit_loop *loop;
    netkit_loop_desc desc;
    int lines = 0;
    memset(&desc, 0, sizeof(desc));
    desc.logger.log = win_log;
    desc.logger.user = &lines;
    WSASetLastError(WSAEACCES);
    CHECK_OK(netkit_loop_create(&loop, &desc));
    CHECK(lines > 0);
    CHECK(WSAGetLastError() != WSAEINTR);
    CHECK_OK(netkit_loop_destroy(loop));
}

/* WN09 OP05: a port that is bound cannot be taken over, not even by who asks for it with
 * SO_REUSEADDR; and that is not among what a stream can be told. */
NKT_TEST(windows_nobody_steals_a_port) {
    for (int type = 0; type < 2; type++) {
        netkit_addr at = win_addr("127.0.0.1:0");
        netkit_socket s;
        int value = 0;
        BOOL yes = TRUE;
        CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, type, 0));
        CHECK_OK(netkit_socket_bind(s, &at, 0));
        CHECK_OK(netkit_socket_local(s, &at));
        CHECK_OK(netkit_socket_get(s, NETKIT_OPT_EXCLUSIVE_ADDR, &value));
        CHECK_EQ(value, 1);
        int thief = socket(AF_INET, type == 0 ? SOCK_STREAM : SOCK_DGRAM, 0);
        CHECK_EQ(setsockopt(thief, SOL_SOCKET, SO_REUSEADDR, (const char *)&yes, sizeof(yes)), 0);
        struct sockaddr_storage sa;
        socklen_t len;
        CHECK_OK(nki_sockaddr_from(&sa, &len, &at));
        CHECK(bind(thief, (const struct sockaddr *)(const void *)&sa, len) != 0);
        CHECK_EQ(close(thief), 0);
        CHECK_OK(netkit_socket_close(&s));
    }
}

/* The other process of the next test: the port is not to be had, however it asks. */
NKT_HIDDEN_TEST(hidden_second_process) {
    netkit_addr at = win_addr("127.0.0.1:0");
    const char *given_port = getenv("NKT_PORT"), *given_type = getenv("NKT_TYPE");
    CHECK(given_port != NULL && given_type != NULL);
    int type = atoi(given_type);
    BOOL yes = TRUE;
    netkit_socket s;
    struct sockaddr_storage sa;
    socklen_t len;
    at.port = (uint16_t)atoi(given_port);
    CHECK(at.port != 0);
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, type, 0));
    CHECK_ERR(netkit_socket_bind(s, &at, 0), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_socket_close(&s));
    int thief = socket(AF_INET, type == NETKIT_SOCK_STREAM ? SOCK_STREAM : SOCK_DGRAM, 0);
    CHECK_EQ(setsockopt(thief, SOL_SOCKET, SO_REUSEADDR, (const char *)&yes, sizeof(yes)), 0);
    CHECK_OK(nki_sockaddr_from(&sa, &len, &at));
    CHECK(bind(thief, (const struct sockaddr *)(const void *)&sa, len) != 0);
    CHECK_EQ(close(thief), 0);
}

/* SD43 WN09: a second process that binds the port of the first is refused. */
NKT_TEST(windows_second_process) {
    static const int types[] = {NETKIT_SOCK_STREAM, NETKIT_SOCK_DGRAM};
    for (int i = 0; i < 2; i++) {
        netkit_addr at = win_addr("127.0.0.1:0");
        netkit_socket s;
        char text[16], out[4096];
        CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, types[i], 0));
        CHECK_OK(netkit_socket_bind(s, &at, 0));
        CHECK_OK(netkit_socket_local(s, &at));
        snprintf(text, sizeof(text), "%d", at.port);
        CHECK(SetEnvironmentVariableA("NKT_PORT", text));
        snprintf(text, sizeof(text), "%d", types[i]);
        CHECK(SetEnvironmentVariableA("NKT_TYPE", text));
        int status = harness_run("hidden_second_process", out, sizeof(out));
        printf("%s", out);
        CHECK_EQ(status, 0);
        CHECK(strstr(out, "1 passed, 0 failed") != NULL);
        CHECK_OK(netkit_socket_close(&s));
    }
}

/* WN03: a socket is closed by closesocket, once; what is none is refused and stays open. */
NKT_TEST(windows_closesocket_alone) {
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    netkit_socket s[2], none = netkit_socket_from_native((uintptr_t)event);
    int type = 0, len = sizeof(type);
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    SOCKET native = (SOCKET)netkit_socket_native(s[0]);
    nkt_calls_reset();
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_EQ(nkt_calls("close"), 1);
    CHECK((getsockopt)(native, SOL_SOCKET, SO_TYPE, (char *)&type, &len) != 0);
    CHECK_EQ(WSAGetLastError(), WSAENOTSOCK);
    CHECK_OK(netkit_socket_close(&s[1]));
    CHECK(netkit_socket_close(&none) < 0);
    CHECK(SetEvent(event) && WaitForSingleObject(event, 0) == WAIT_OBJECT_0);
    CHECK(CloseHandle(event));
}

/* WN13 SK07: what a blocking listener of anybody accepts does not wait, and is not inherited. */
NKT_TEST(windows_accepted_mode) {
    netkit_addr at = win_addr("127.0.0.1:0");
    netkit_socket listener, dialled, accepted;
    DWORD flags = HANDLE_FLAG_INHERIT;
    char byte;
    CHECK_OK(netkit_socket_listen_on(&listener, &at, NETKIT_SOCKET_BLOCKING, 0));
    CHECK_OK(netkit_socket_local(listener, &at));
    CHECK_OK(netkit_socket_open(&dialled, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_connect(dialled, &at, 1000));
    CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
    CHECK_ERR(netkit_socket_recv(accepted, &byte, 1), NETKIT_E_AGAIN);
    CHECK(GetHandleInformation((HANDLE)netkit_socket_native(accepted), &flags));
    CHECK_EQ(flags & HANDLE_FLAG_INHERIT, 0);
    CHECK_OK(netkit_socket_close(&accepted));
    CHECK_OK(netkit_socket_close(&dialled));
    CHECK_OK(netkit_socket_close(&listener));
}

/* WN14 U-03: what ICMP says of one datagram does not spoil receiving the next. */
NKT_TEST(windows_unreachable_is_no_end) {
    netkit_addr deaf = win_addr("127.0.0.1:0"), at = deaf;
    netkit_socket s, other;
    netkit_datagram out, in;
    char memory[16];
    CHECK_OK(netkit_socket_open(&other, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(other, &deaf, 0));
    CHECK_OK(netkit_socket_local(other, &deaf));
    CHECK_OK(netkit_socket_close(&other));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_DGRAM, 0));
    CHECK_OK(netkit_socket_bind(s, &at, 0));
    CHECK_OK(netkit_socket_local(s, &at));
    memset(&out, 0, sizeof(out));
    out.data = "x";
    out.len = 1;
    for (int i = 0; i < 10; i++) {
        out.peer = deaf;
        CHECK_EQ(netkit_socket_send_datagrams(s, &out, 1), 1);
        CHECK_ERR(netkit_socket_recv_datagrams(s, &in, 1, memory, sizeof(memory)), NETKIT_E_AGAIN);
        out.peer = at;
        CHECK_EQ(netkit_socket_send_datagrams(s, &out, 1), 1);
        CHECK(netkit_socket_wait(s, NETKIT_POLL_READ, 1000) > 0);
        CHECK_EQ(netkit_socket_recv_datagrams(s, &in, 1, memory, sizeof(memory)), 1);
    }
    CHECK_OK(netkit_socket_close(&s));
}

/* WN15: the system is asked whether it has unix sockets; where not, nothing is left behind and the
 * answer is NOSYS; where it has, a path is one of streams. */
NKT_TEST(windows_unix_is_asked_for) {
    char path[160];
    netkit_addr at;
    netkit_socket s;
    nkt_temp_path(path, sizeof(path));
    CHECK_OK(netkit_addr_from_path(&at, path, strlen(path), false));
    CHECK_ERR(netkit_addr_from_path(&at, "name", 4, true), NETKIT_E_NOSYS);
    CHECK_OK(netkit_addr_from_path(&at, path, strlen(path), false));
    CHECK_ERR(netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, 0), NETKIT_E_NOSYS);
    int rc = netkit_socket_listen_on(&s, &at, 0, 0);
    if (rc == NETKIT_E_NOSYS) {
        CHECK_EQ(s.value, 0);
        CHECK_EQ(netkit_socket_os_code(), WSAEAFNOSUPPORT);
        CHECK_EQ(GetFileAttributesA(path), INVALID_FILE_ATTRIBUTES);
        return;
    }
    CHECK_OK(rc);
    CHECK(GetFileAttributesA(path) != INVALID_FILE_ATTRIBUTES);
    CHECK_OK(netkit_socket_close(&s));
}

/* WN17 SK17: closing with all of it unsent delivers it, and then the end. */
NKT_TEST(windows_close_is_graceful) {
    static char data[300000], got[sizeof(data)];
    netkit_socket s[2];
    size_t done, sum = 0;
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (char)(i * 7);
    }
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    int rc = netkit_socket_send_all(s[0], data, sizeof(data), 100, &done);
    CHECK(rc == NETKIT_OK || rc == NETKIT_E_TIMEOUT);
    CHECK(done > 0);
    CHECK_OK(netkit_socket_close(&s[0]));
    rc = netkit_socket_recv_all(s[1], got, sizeof(got), 2000, &sum);
    CHECK(rc == NETKIT_OK || rc == NETKIT_E_EOF);
    CHECK_EQ(sum, done);
    CHECK_MEM(got, data, done);
    CHECK(netkit_socket_wait(s[1], NETKIT_POLL_READ, 1000) > 0);
    CHECK_ERR(netkit_socket_recv(s[1], got, 1), NETKIT_E_EOF);
    CHECK_OK(netkit_socket_close(&s[1]));
}

/* WN19: select's limit of 64 sockets is nobody's: each is waited for alone. */
NKT_TEST(windows_more_than_64_sockets) {
    enum {
        PAIRS = 100
    };
    static netkit_socket s[PAIRS][2];
    char byte;
    for (int i = 0; i < PAIRS; i++) {
        CHECK_OK(netkit_socket_pair(s[i], NETKIT_SOCK_DGRAM, 0));
        CHECK_EQ(netkit_socket_send(s[i][0], "x", 1), 1);
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK_EQ(netkit_socket_wait(s[i][1], NETKIT_POLL_READ, 1000), NETKIT_POLL_READ);
        CHECK_EQ(netkit_socket_recv(s[i][1], &byte, 1), 1);
        CHECK_ERR(netkit_socket_wait(s[i][1], NETKIT_POLL_READ, 0), NETKIT_E_TIMEOUT);
        CHECK_OK(netkit_socket_close(&s[i][0]));
        CHECK_OK(netkit_socket_close(&s[i][1]));
    }
}

/* WN20 ER01: codes of Winsock and of the system have their meaning by name. */
NKT_TEST(windows_codes) {
    static const int rows[][2] = {
        {0, NETKIT_OK},
        {WSAEWOULDBLOCK, NETKIT_E_AGAIN},
        {WSAECONNRESET, NETKIT_E_RESET},
        {ERROR_NETNAME_DELETED, NETKIT_E_RESET},
        {WSAECONNREFUSED, NETKIT_E_REFUSED},
        {ERROR_CONNECTION_REFUSED, NETKIT_E_REFUSED},
        {WSAETIMEDOUT, NETKIT_E_TIMEOUT},
        {ERROR_SEM_TIMEOUT, NETKIT_E_TIMEOUT},
        {WSAECONNABORTED, NETKIT_E_ABORTED},
        {WSAEADDRINUSE, NETKIT_E_ADDRINUSE},
        {WSAEADDRNOTAVAIL, NETKIT_E_ADDRNOTAVAIL},
        {WSAEMFILE, NETKIT_E_MFILE},
        {WSAENOBUFS, NETKIT_E_NOMEM},
        {ERROR_NOT_ENOUGH_MEMORY, NETKIT_E_NOMEM},
        {WSAEMSGSIZE, NETKIT_E_TOOBIG},
        {WSAEACCES, NETKIT_E_ACCESS},
        {ERROR_ACCESS_DENIED, NETKIT_E_ACCESS},
        {WSAENOTSOCK, NETKIT_E_INVALID},
        {ERROR_INVALID_HANDLE, NETKIT_E_INVALID},
        {WSAEAFNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEOPNOTSUPP, NETKIT_E_NOSYS},
        {ERROR_FILE_NOT_FOUND, NETKIT_E_NOTFOUND},
        {WSA_OPERATION_ABORTED, NETKIT_E_CANCELLED},
        {12345, NETKIT_E_IO},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        CHECK_ERR(netkit_error_from_os(rows[i][0]), rows[i][1]);
    }
}

/* SK03: a stranger who connects between listen and accept is not taken for the other end. */
NKT_TEST(windows_pair_knows_its_own) {
    uintptr_t listener, ours, taken;
    netkit_addr at, self, peer;
    netkit_socket strangers[3];
    CHECK_OK(nki_os_begin());
    CHECK_OK(nki_pair_end(NETKIT_SOCK_STREAM, true, &listener, &at));
    CHECK_OK(nki_os_listen(listener, 64));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(netkit_socket_open(&strangers[i], NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_connect(strangers[i], &at, 1000));
    }
    CHECK_OK(nki_pair_end(NETKIT_SOCK_STREAM, true, &ours, &self));
    CHECK_OK(nki_os_connect(ours, &at));
    CHECK_OK(nki_pair_accept(listener, &self, &taken));
    CHECK_OK(nki_os_remote(taken, &peer));
    CHECK(netkit_addr_equal(&peer, &self));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(netkit_socket_close(&strangers[i]));
    }
    nki_os_abandon(taken);
    nki_os_abandon(ours);
    nki_os_abandon(listener);
    nki_os_end();
}

/* SK11: a call with a time limit keeps it on a blocking socket, which is blocking before and
 * after it. */
NKT_TEST(windows_limits_on_blocking_sockets) {
    static char data[1 << 20];
    netkit_socket s[2];
    size_t done;
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING));
    CHECK_OK(netkit_socket_set(s[0], NETKIT_OPT_SEND_BUFFER, 65536));
    CHECK_OK(netkit_socket_set(s[1], NETKIT_OPT_RECV_BUFFER, 65536));
    uint64_t start = nkt_now_ns();
    CHECK_ERR(netkit_socket_recv_all(s[0], data, 1, 30, &done), NETKIT_E_TIMEOUT);
    CHECK_ERR(netkit_socket_send_all(s[0], data, sizeof(data), 30, &done), NETKIT_E_TIMEOUT);
    CHECK(done > 0 && done < sizeof(data));
    CHECK(nkt_now_ns() - start < 2000000000u);
    CHECK_OK(netkit_socket_set(s[1], NETKIT_OPT_RECV_TIMEOUT, 40));
    CHECK_OK(netkit_socket_recv_all(s[1], data, done, 1000, NULL));
    start = nkt_now_ns();
    CHECK_ERR(netkit_socket_recv(s[1], data, 1), NETKIT_E_AGAIN); /* after its own limit */
    CHECK(nkt_now_ns() - start >= 30000000);
    CHECK_OK(netkit_socket_close(&s[0]));
    CHECK_OK(netkit_socket_close(&s[1]));
}

#endif /* NKI_WINDOWS */
