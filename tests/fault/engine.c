/* The engine of the fault tests: runs a scenario again and again, each time failing another
 * system call or allocation of the library, and judges each run.
 *
 * A scenario makes its objects through the torture_ functions below, which note every handle,
 * loan and post that the library has taken, and drives the loop until its end or until nothing
 * moves any more. It never insists on success. The verdict is the same for all: every conn that
 * was told of has had exactly one on_close, last; every loan its release before that; every post
 * has run; nothing is left allocated or open; no run takes longer than 5 s; and unless the
 * scenario was completed in spite of the fault, somebody was told of it, with the right code.
 * Then, faults cleared, the same loop still serves a fresh echo. */

enum {
    TORTURE_CONNS = 32,
    TORTURE_LOANS = 64,
    TORTURE_FDS = 16,
    TORTURE_BUFS = 16,
    TORTURE_IDLE_TURNS = 12, /* sticky faults: so long without an event, and the run is given up */
    TORTURE_LIMIT_MS = 5000
};

typedef struct torture_fault {
    const char *call; /* NULL = allocations */
    uint64_t nth;     /* 0 = none */
    int os_error;
    bool is_sticky;
    int times;       /* so often in a row, 0 = once */
    bool is_lenient; /* what is told, and with which code, does not matter */
} torture_fault;

typedef struct torture_scenario {
    const char *name;
    void (*run)(void);
    bool uses_test_fds; /* the test opens descriptors in it too */
} torture_scenario;

typedef struct torture_conn {
    uint64_t id;
    int opens, eofs, closes;
    int loans; /* not yet released */
    netkit_close_info info;
} torture_conn;

typedef struct torture_client {
    uint64_t sent, got, total;
    size_t piece; /* sent at a time, the next when all has come back */
} torture_client;

typedef struct torture_loan {
    torture_conn *conn;
    int releases;
} torture_loan;

static struct {
    torture_fault fault;
    netkit_loop *loop;
    torture_conn conns[TORTURE_CONNS];
    int conn_count;
    torture_loan loans[TORTURE_LOANS];
    int loan_count;
    int posts_taken, posts_run;
    int fds[TORTURE_FDS];
    int fd_count;
    torture_client client; /* outlives the scenario, as its conns may */
    netkit_buf bufs[TORTURE_BUFS];
    int buf_count;
    int want;         /* the code that the fault is to be told with */
    int reports;      /* how often it was */
    bool is_complete; /* the scenario did all it is made of */
    uint64_t events;  /* callbacks so far */
    bool is_pull;
    bool is_starved;    /* no call is failed: the system itself is short of descriptors */
    void (*peer)(void); /* what the world outside the loop does between two turns */
} torture;

static uint64_t torture_seen(void) {
    if (torture.is_starved) {
        return 1;
    }
    return torture.fault.call == NULL ? nkt_alloc_faults() : nkt_faults();
}

/* A code that somebody was told. What follows from an earlier failure is legal too. */
static bool torture_told(int code) {
    if (code >= 0) {
        return true;
    }
    torture.reports += code == torture.want;
    if (code != torture.want && !torture.fault.is_lenient) {
        bool follows = code == NETKIT_E_STALE || code == NETKIT_E_CLOSED || code == NETKIT_E_FULL ||
                       code == NETKIT_E_RESET;
        if (!follows || torture_seen() == 0) {
            printf("told %s, wanted %s\n", netkit_error_name(code),
                   netkit_error_name(torture.want));
        }
        CHECK(follows);
        CHECK(torture_seen() > 0 || code == NETKIT_E_FULL);
    }
    return false;
}

/* ---- what is told of conns ---------------------------------------------------- */

static torture_conn *torture_find(netkit_conn conn) {
    for (int i = 0; i < torture.conn_count; i++) {
        if (torture.conns[i].id == conn.id) {
            return &torture.conns[i];
        }
    }
    return NULL;
}

static torture_conn *torture_know(netkit_conn conn) {
    torture_conn *c = torture_find(conn);
    if (c == NULL) {
        CHECK(torture.conn_count < TORTURE_CONNS);
        c = &torture.conns[torture.conn_count++];
        c->id = conn.id;
    }
    return c;
}

static torture_conn *torture_alive(netkit_conn conn) {
    torture_conn *c = torture_find(conn);
    torture.events++;
    CHECK(c != NULL);
    CHECK_EQ(c->opens, 1);
    CHECK_EQ(c->closes, 0);
    return c;
}

static void torture_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    torture_conn *c = torture_know(conn);
    (void)loop;
    (void)user;
    torture.events++;
    CHECK_EQ(c->closes, 0);
    CHECK_EQ(++c->opens, 1);
}

static void torture_on_eof(netkit_conn conn) {
    CHECK_EQ(++torture_alive(conn)->eofs, 1);
}

static void torture_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                             void *user) {
    torture_conn *c = torture_find(conn);
    char text[256];
    size_t left;
    (void)user;
    torture.events++;
    CHECK(c != NULL); /* a conn that was never told of has no end either */
    CHECK_EQ(++c->closes, 1);
    CHECK_EQ(c->loans, 0);
    CHECK(info->text != NULL && netkit_close_describe(info, text, sizeof(text)) > 0);
    if (info->os_code != 0 && info->os_code != ENOTCONN) {
        CHECK_EQ(info->code, netkit_error_from_os(info->os_code));
    }
    CHECK_OK(netkit_conn_queued(loop, conn, &left));
    c->info = *info;
    torture.reports += info->code != NETKIT_OK && info->code == torture.want;
}

static void torture_on_listener_error(netkit_loop *loop, netkit_listener l, int code, int os_code,
                                      void *user) {
    (void)loop;
    (void)l;
    (void)os_code;
    (void)user;
    torture.events++;
    torture_told(code);
}

static bool torture_all_closed(void) {
    for (int i = 0; i < torture.conn_count; i++) {
        if (torture.conns[i].closes == 0) {
            return false;
        }
    }
    return torture.conn_count > 0;
}

/* All conns have come to a graceful end, `count` of them. */
static bool torture_all_well(int count) {
    for (int i = 0; i < torture.conn_count; i++) {
        if (torture.conns[i].closes == 0 || torture.conns[i].info.code != NETKIT_OK) {
            return false;
        }
    }
    return torture.conn_count == count;
}

/* ---- loans and posts ----------------------------------------------------------- */

static void torture_on_release(netkit_loop *loop, int status, void *user) {
    torture_loan *loan = (torture_loan *)user;
    (void)loop;
    torture.events++;
    CHECK(status <= 0);
    CHECK_EQ(++loan->releases, 1);
    CHECK_EQ(loan->conn->closes, 0);
    loan->conn->loans--;
}

static int torture_lend(netkit_conn conn, const void *data, size_t len) {
    torture_loan *loan = &torture.loans[torture.loan_count];
    int rc;
    CHECK(torture.loan_count < TORTURE_LOANS);
    loan->conn = torture_find(conn);
    loan->conn->loans++;
    rc = netkit_conn_send_borrowed(torture.loop, conn, data, len, torture_on_release, loan);
    if (torture_told(rc)) {
        torture.loan_count++;
    } else {
        CHECK_EQ(loan->releases, 0);
        loan->conn->loans--;
    }
    return rc;
}

static void torture_on_post(netkit_loop *loop, int status, void *user) {
    (void)loop;
    (void)user;
    torture.events++;
    CHECK(status == NETKIT_OK || status == NETKIT_E_CANCELLED);
    torture.posts_run++;
}

static int torture_post(void) {
    int rc = netkit_loop_post(torture.loop, torture_on_post, NULL);
    torture.posts_taken += torture_told(rc);
    return rc;
}

/* ---- driving ------------------------------------------------------------------- */

static bool torture_loop_with(netkit_loop_desc *desc) {
    desc->backend = nkt_backend;
    desc->allocator = nkt_allocator();
    return torture_told(netkit_loop_create(&torture.loop, desc));
}

static bool torture_loop(void) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    return torture_loop_with(&desc);
}

/* A descriptor of the test's own, closed when the run is over. */
static int torture_own(int fd) {
    CHECK(fd >= 0 && torture.fd_count < TORTURE_FDS);
    return torture.fds[torture.fd_count++] = fd;
}

static void torture_pull(void);

/* Turns until `is_done`. False: given up, as nothing moves while everything fails. */
static bool torture_drive(bool (*is_done)(void)) {
    uint64_t began = nkt_now_ns();
    int idle = 0;
    while (!is_done()) {
        uint64_t before = torture.events;
        int rc = netkit_loop_run_once(torture.loop, 1);
        bool is_failing = torture.fault.is_sticky && torture_seen() > 0; /* waits, too, perhaps */
        CHECK(rc == 0 || rc == 1 || (rc < 0 && is_failing));
        torture_pull();
        if (torture.peer != NULL) {
            torture.peer();
        }
        idle = torture.events == before ? idle + 1 : 0;
        if (torture.fault.is_sticky && torture_seen() > 0 && idle > TORTURE_IDLE_TURNS) {
            return false;
        }
        if (nkt_now_ns() - began > TORTURE_LIMIT_MS * nkt_slowness * 1000000ull) {
            FAIL("the scenario hangs");
        }
    }
    return true;
}

static bool torture_listen(netkit_listen_desc *desc, netkit_addr *addr) {
    netkit_listener l;
    desc->on_error = torture_on_listener_error;
    return torture_told(netkit_listen(torture.loop, desc, &l)) &&
           torture_told(netkit_listener_local(torture.loop, l, addr));
}

static bool torture_connect(netkit_connect_desc *desc, netkit_conn *out) {
    netkit_conn conn;
    if (!torture_told(netkit_connect(torture.loop, desc, &conn))) {
        return false;
    }
    torture_know(conn);
    if (out != NULL) {
        *out = conn;
    }
    return true;
}

/* ---- echo: the server, and a client that checks what comes back ------------------- */

static unsigned char torture_byte(uint64_t at) {
    return (unsigned char)(at * 7 + (at >> 8));
}

static void torture_fill(unsigned char *out, uint64_t from, size_t len) {
    for (size_t i = 0; i < len; i++) {
        out[i] = torture_byte(from + i);
    }
}

static void torture_compare(const void *data, uint64_t from, size_t len) {
    const unsigned char *bytes = (const unsigned char *)data;
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != torture_byte(from + i)) {
            FAIL("received bytes are not those that were sent");
        }
    }
    CHECK(true);
}

static size_t torture_echo(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                           void *user) {
    int rc;
    (void)user;
    torture_alive(conn);
    rc = netkit_conn_send(loop, conn, data, len);
    torture_told(rc);
    return rc == NETKIT_E_FULL ? 0 : len;
}

static void torture_client_send(netkit_loop *loop, netkit_conn conn, torture_client *client) {
    unsigned char piece[4096];
    size_t left = (size_t)(client->total - client->sent);
    size_t len = client->piece < left ? client->piece : left;
    CHECK(len <= sizeof(piece));
    torture_fill(piece, client->sent, len);
    if (torture_told(netkit_conn_send(loop, conn, piece, len))) {
        client->sent += len;
    }
}

static void torture_client_open(netkit_loop *loop, netkit_conn conn, void *user) {
    torture_on_open(loop, conn, user);
    torture_client_send(loop, conn, (torture_client *)user);
}

static size_t torture_client_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                                  void *user) {
    torture_client *client = (torture_client *)user;
    torture_alive(conn);
    torture_compare(data, client->got, len);
    client->got += len;
    CHECK(client->got <= client->sent);
    if (client->got == client->total) {
        torture_told(netkit_conn_close(loop, conn));
    } else if (client->got == client->sent) {
        torture_client_send(loop, conn, client);
    }
    return len;
}

static netkit_handler torture_server_handler(void) {
    netkit_handler h;
    memset(&h, 0, sizeof(h));
    h.on_open = torture_on_open;
    h.on_data = torture_echo;
    h.on_close = torture_on_close;
    return h;
}

static netkit_handler torture_client_handler(void) {
    netkit_handler h = torture_server_handler();
    h.on_open = torture_client_open;
    h.on_data = torture_client_data;
    return h;
}

/* An echo server and a client, to be driven. */
static bool torture_echo_pair(const char *address, torture_client *client) {
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_addr addr;
    memset(&listen, 0, sizeof(listen));
    memset(&connect, 0, sizeof(connect));
    listen.address = address;
    listen.handler = torture_server_handler();
    if (!torture_listen(&listen, &addr)) {
        return false;
    }
    connect.addr = &addr;
    connect.handler = torture_client_handler();
    connect.user = client;
    return torture_connect(&connect, NULL);
}

/* Pull: what was fetched goes where the callbacks would have gone. */
static void torture_event(const netkit_event *ev) {
    switch (ev->type) {
    case NETKIT_EVENT_OPEN:
        if (ev->user != NULL) {
            torture_client_open(torture.loop, ev->conn, ev->user);
        } else {
            torture_on_open(torture.loop, ev->conn, ev->user);
        }
        break;
    case NETKIT_EVENT_DATA: {
        size_t used = ev->user != NULL
                          ? torture_client_data(torture.loop, ev->conn, ev->data, ev->len, ev->user)
                          : torture_echo(torture.loop, ev->conn, ev->data, ev->len, NULL);
        CHECK_OK(netkit_loop_consume(torture.loop, used));
        break;
    }
    case NETKIT_EVENT_EOF:
        torture_on_eof(ev->conn);
        torture_told(netkit_conn_close(torture.loop, ev->conn));
        break;
    case NETKIT_EVENT_CLOSE: torture_on_close(torture.loop, ev->conn, &ev->close, ev->user); break;
    case NETKIT_EVENT_LISTENER_ERROR:
        torture_on_listener_error(torture.loop, ev->listener, ev->close.code, ev->close.os_code,
                                  NULL);
        break;
    default: torture.events++; break;
    }
}

static void torture_pull(void) {
    netkit_event ev;
    int rc;
    while (torture.is_pull && (rc = netkit_loop_next(torture.loop, &ev)) != 0) {
        CHECK_EQ(rc, 1);
        torture_event(&ev);
    }
}

/* ---- one run ------------------------------------------------------------------- */

static int torture_fresh; /* index of the fresh client */

static bool torture_fresh_done(void) {
    return torture.conns[torture_fresh].closes != 0;
}

/* With the faults gone the loop works as if nothing had been. */
static void torture_fresh_echo(void) {
    torture_client client = {0, 0, 3000, 1000};
    if (torture.loop == NULL) {
        return;
    }
    torture.peer = NULL;
    torture.fault.is_sticky = false;
    torture_fresh = torture.conn_count;
    CHECK(torture_echo_pair("127.0.0.1:0", &client));
    CHECK(torture_drive(torture_fresh_done));
    CHECK_EQ(client.got, client.total);
    CHECK_EQ(torture.conns[torture_fresh].info.code, NETKIT_OK);
}

/* The last turn, and what must hold after it. */
static void torture_end(void) {
    bool is_late = torture.fault.nth % 2 == 0; /* kept bytes may be given back later, too */
    for (int i = 0; !is_late && i < torture.buf_count; i++) {
        netkit_buf_release(&torture.bufs[i]);
    }
    CHECK_OK(netkit_loop_destroy(torture.loop));
    for (int i = 0; i < torture.buf_count; i++) {
        netkit_buf_release(&torture.bufs[i]);
    }
    for (int i = 0; i < torture.fd_count; i++) {
        close(torture.fds[i]);
    }
    for (int i = 0; i < torture.conn_count; i++) {
        CHECK_EQ(torture.conns[i].closes, 1);
    }
    for (int i = 0; i < torture.loan_count; i++) {
        CHECK_EQ(torture.loans[i].releases, 1);
    }
    CHECK_EQ(torture.posts_run, torture.posts_taken);
    CHECK_EQ(nkt_live_bytes(), 0);
}

static void torture_arm(const torture_fault *fault) {
    nkt_fault_clear();
    nkt_alloc_fail_at(fault->call == NULL ? fault->nth : 0, fault->is_sticky);
    for (int i = 0; fault->call != NULL && i < NKI_MAX(fault->times, 1); i++) {
        nkt_fault_at(fault->call, fault->nth, fault->os_error, fault->is_sticky);
    }
}

static void torture_disarm(void) {
    nkt_alloc_fail_at(0, false);
    nkt_fault_clear();
}

/* What is being tried stands in the output while it is, so that it is there when the run fails. */
static void torture_say(const torture_scenario *s, const torture_fault *f, int64_t *at) {
    fflush(stdout);
    *at = lseek(STDOUT_FILENO, 0, SEEK_CUR);
    printf("%s: failing %s number %" PRIu64 "%s with %s\n", s->name,
           f->call == NULL ? "allocation" : f->call, f->nth, f->is_sticky ? " and all later" : "",
           f->call == NULL ? "NULL" : strerror(f->os_error));
    fflush(stdout);
}

static void torture_unsay(int64_t at) {
    if (at >= 0 && ftruncate(STDOUT_FILENO, at) == 0) {
        lseek(STDOUT_FILENO, at, SEEK_SET);
    }
}

/* The fault is gone, and then the loop is. */
static void torture_judge(bool was_hit, bool ends_in_faults) {
    const torture_fault *fault = &torture.fault;
    bool was_sticky = fault->is_sticky;
    if (ends_in_faults) {
        torture_end();
        torture_disarm();
        return;
    }
    CHECK(torture.is_complete ||
          (was_hit && (torture.reports > 0 || was_sticky || fault->is_lenient)));
    torture_disarm();
    torture_fresh_echo();
    torture_end();
}

/* Calls that tell a code of their own kind when they fail, whatever was asked for. */
static bool torture_has_own_code(const char *call) {
    static const char *const calls[] = {"startup", "ntdll",      "library",
                                        "nt_open", "nt_control", "nt_cancel"};
    for (size_t i = 0; call != NULL && i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (strcmp(calls[i], call) == 0) {
            return true;
        }
    }
    return false;
}

static void torture_begin(const torture_fault *fault) {
    memset(&torture, 0, sizeof(torture));
    torture.fault = *fault;
    torture.fault.is_lenient = fault->is_lenient || torture_has_own_code(fault->call);
    torture.want =
        fault->call == NULL ? (int)NETKIT_E_NOMEM : netkit_error_from_os(fault->os_error);
}

/* Returns whether the fault came to pass: there is an nth call. */
static bool torture_run(const torture_scenario *s, const torture_fault *fault) {
    int fds = nkt_open_fds();
    uint64_t began = nkt_now_ns();
    bool was_hit;
    int64_t at;
    torture_begin(fault);
    torture_say(s, fault, &at);
    torture_arm(fault);
    s->run();
    was_hit = torture_seen() > 0;
    torture_judge(was_hit, fault->is_sticky && fault->nth % 2 == 1);
    CHECK_EQ(nkt_open_fds(), fds);
    CHECK(nkt_now_ns() - began < TORTURE_LIMIT_MS * nkt_slowness * 1000000ull);
    torture_unsay(at);
    return was_hit;
}

/* The process may open `spare` descriptors more, and no other. */
static void torture_starve(const torture_scenario *s, int spare) {
    static const torture_fault shortage = {"descriptors", 0, EMFILE, true, 0, false};
    int fds = nkt_open_fds();
    int64_t at;
    torture_begin(&shortage);
    torture.is_starved = true;
    torture_say(s, &shortage, &at);
    CHECK(nkt_spare_descriptors(spare));
    s->run();
    CHECK(nkt_spare_descriptors(-1));
    torture_judge(true, false);
    CHECK_EQ(nkt_open_fds(), fds);
    torture_unsay(at);
}
