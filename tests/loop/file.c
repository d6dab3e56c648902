/* Files, places in the queue, and corks. */
#include "support.h"

enum {
    FILE_SIZE = 3 * 1024 * 1024 + 321
};

/* A file with the pattern of sup_fill, open; its name is gone already. */
static int file_make(size_t size) {
    static unsigned char data[FILE_SIZE];
    char path[200];
    nkt_temp_path(path, sizeof path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(path), 0);
    sup_fill(data, size, 0);
    CHECK_EQ(pwrite(fd, data, size, 0), (int64_t)size);
    return fd;
}

typedef struct file_sender {
    sup_end end;
    int fd;
    int files; /* how often it is sent */
    uint64_t offset, len;
    int released, status;
} file_sender;

static void file_released(netkit_loop *loop, int status, void *user) {
    file_sender *s = (file_sender *)user;
    (void)loop;
    s->released++;
    s->status = status;
}

/* "head", the file, "tail", as often as wanted; then the end. */
static void file_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    file_sender *s = (file_sender *)user;
    sup_on_open(loop, conn, user);
    for (int i = 0; i < s->files; i++) {
        CHECK_OK(netkit_conn_send(loop, conn, "head", 4));
        CHECK_OK(netkit_conn_send_file(loop, conn, (uintptr_t)s->fd, s->offset, s->len,
                                       file_released, s));
        CHECK_OK(netkit_conn_send(loop, conn, "tail", 4));
    }
    CHECK_OK(netkit_conn_shutdown(loop, conn));
}

typedef struct file_receiver {
    sup_end end;
    unsigned char *data;
    size_t len, max;
} file_receiver;

static size_t file_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                           void *user) {
    file_receiver *r = (file_receiver *)user;
    (void)loop;
    (void)conn;
    CHECK(len <= r->max - r->len);
    memcpy(r->data + r->len, data, len);
    r->len += len;
    return len;
}

static void file_run(netkit_loop *loop, file_sender *s, file_receiver *r) {
    netkit_handler handler;
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    char address[32];
    sup_end_init(&s->end);
    memset(r, 0, sizeof *r);
    sup_end_init(&r->end);
    r->max = 8u * 1024 * 1024;
    r->data = (unsigned char *)malloc(r->max);
    handler = sup_handler();
    handler.on_data = file_on_data;
    handler.on_eof = NULL;
    listen = sup_listen_desc(&handler, r);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    connect = sup_connect_desc(address, &s->end);
    connect.handler.on_open = file_on_open;
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &s->end.conn));
    SUP_UNTIL(loop, s->end.closes == 1 && r->end.closes == 1);
}

/* IO09 C4: a peer that has ended its side reads a file slowly: waiting for it to do so is no spin,
 * and all of the file comes. */
NKT_LOOP_TEST(file_to_a_half_closed_peer) {
    netkit_loop *loop = nkt_loop();
    sup_setup setup = sup_setup_default();
    sup_end end;
    int fd = file_make(FILE_SIZE);
    setup.rcvbuf = 4096;
    sup_end_init(&end);
    sup_peer peer = sup_open(loop, &end, &setup);
    CHECK_EQ(shutdown(peer.fd, SHUT_WR), 0);
    SUP_UNTIL(loop, end.eofs == 1);
    CHECK_OK(netkit_conn_send_file(loop, end.conn, (uintptr_t)fd, 0, NETKIT_FILE_END, NULL, NULL));
    CHECK_OK(netkit_conn_shutdown(loop, end.conn));
    sup_settle(loop);
    uint64_t turns = netkit_loop_turns(loop), began = nkt_now_ns();
    while (nkt_now_ns() - began < 300000000) {
        CHECK_OK(netkit_loop_run_once(loop, 50));
    }
    CHECK(netkit_loop_turns(loop) - turns < 30);
    SUP_UNTIL_DOING(loop, peer.end != 0) {
        sup_peer_step(&peer);
    }
    CHECK_EQ(peer.end, SUP_EOF);
    CHECK_EQ(peer.received, FILE_SIZE);
    CHECK_EQ(end.closes, 0);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_OK(end.info.code);
    CHECK_EQ(close(fd) + close(peer.fd), 0);
    nkt_loop_done(loop);
}

/* IO09 C2: files stand in the queue between bytes and arrive in order, whole or in part, with the
 * descriptor closed by its owner meanwhile; the release comes once for each; no descriptor stays. */
NKT_LOOP_TEST(file_goes_between_bytes) {
    static unsigned char pattern[FILE_SIZE];
    netkit_loop *loop = nkt_loop();
    file_sender s;
    file_receiver r;
    sup_fill(pattern, sizeof pattern, 0);
    memset(&s, 0, sizeof s);
    s.files = 2;
    s.offset = 1000;
    s.len = NETKIT_FILE_END;
    s.fd = file_make(FILE_SIZE);
    int fds = nkt_open_fds();
    file_run(loop, &s, &r);
    size_t part = FILE_SIZE - 1000;
    CHECK_EQ(r.len, 2 * (part + 8));
    for (int i = 0; i < 2; i++) {
        const unsigned char *at = r.data + (size_t)i * (part + 8);
        CHECK_MEM(at, "head", 4);
        CHECK_MEM(at + 4, pattern + 1000, part);
        CHECK_MEM(at + 4 + part, "tail", 4);
    }
    CHECK_EQ(s.released, 2);
    CHECK_OK(s.status);
    free(r.data);
    CHECK_EQ(lseek(s.fd, 0, SEEK_CUR), 0); /* its own position is as before */
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 1);
    CHECK_EQ(nkt_open_fds(), fds + 1); /* the listener */
    close(s.fd);
    nkt_loop_done(loop);
}

/* IO09: where the system cannot do it, or does it piece by piece, the same bytes come; what each
 * piece returns is counted once. */
NKT_LOOP_TEST(file_in_pieces_and_by_copy) {
    static unsigned char pattern[200000];
    sup_fill(pattern, sizeof pattern, 0);
    for (int by_copy = 0; by_copy < 2; by_copy++) {
        netkit_loop *loop = nkt_loop();
        file_sender s;
        file_receiver r;
        memset(&s, 0, sizeof s);
        s.files = 1;
        s.len = sizeof pattern;
        s.fd = file_make(sizeof pattern + 10);
        if (by_copy) {
            nkt_fault_at("sendfile", 1, EINVAL, true);
        }
        nkt_clip_random("sendfile", 3000);
        nkt_clip_random("pread", 3000);
        file_run(loop, &s, &r);
        nkt_fault_clear();
        CHECK_EQ(r.len, sizeof pattern + 8);
        CHECK_MEM(r.data + 4, pattern, sizeof pattern);
        CHECK_EQ(s.released, 1);
        free(r.data);
        close(s.fd);
        nkt_loop_done(loop);
    }
}

static void file_refused(netkit_loop *loop, netkit_conn conn, file_sender *s, int fd,
                         uint64_t offset, uint64_t len, int expected) {
    CHECK_ERR(netkit_conn_send_file(loop, conn, (uintptr_t)fd, offset, len, file_released, s),
              expected);
}

static void file_refuses_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    file_sender *s = (file_sender *)user;
    int pair[2];
    CHECK_EQ(pipe(pair), 0);
    file_refused(loop, conn, s, s->fd, 1000, 1, NETKIT_E_TRUNCATED);
    file_refused(loop, conn, s, s->fd, 1001, NETKIT_FILE_END, NETKIT_E_TRUNCATED);
    file_refused(loop, conn, s, s->fd, UINT64_MAX - 5, 10, NETKIT_E_TRUNCATED);
    file_refused(loop, conn, s, pair[0], 0, 1, NETKIT_E_INVALID);
    close(pair[0]);
    close(pair[1]);
    file_refused(loop, conn, s, pair[0], 0, 1, NETKIT_E_INVALID);
    nkt_fault_at(NKI_WINDOWS ? "dup" : "fcntl", 1, EMFILE, false);
    nkt_fault_at("reopen", 1, EMFILE, false); /* which Windows tries first */
    file_refused(loop, conn, s, s->fd, 0, 10, NETKIT_E_MFILE);
    nkt_fault_clear();
    nkt_alloc_fail_at(1, false);
    file_refused(loop, conn, s, s->fd, 0, 10, NETKIT_E_NOMEM);
    nkt_alloc_fail_at(0, false);
    CHECK_EQ(s->released, 0);
    file_on_open(loop, conn, user);
}

/* IO09 R5: what cannot be sent is refused at the call, takes nothing and calls no release. */
NKT_LOOP_TEST(file_refused) {
    netkit_loop *loop = nkt_loop();
    file_sender s;
    netkit_connect_desc connect;
    netkit_handler handler = sup_handler();
    sup_end peer;
    char address[32];
    memset(&s, 0, sizeof s);
    sup_end_init(&s.end);
    sup_end_init(&peer);
    handler.on_eof = NULL;
    handler.on_data = NULL;
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    connect = sup_connect_desc(address, &s.end);
    s.fd = file_make(1000);
    s.files = 1;
    s.offset = 1000; /* nothing: legal */
    s.len = NETKIT_FILE_END;
    int fds = nkt_open_fds();
    connect.handler.on_open = file_refuses_on_open;
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &s.end.conn));
    SUP_UNTIL(loop, s.end.closes == 1 && peer.closes == 1);
    CHECK_EQ(s.released, 1);
    CHECK_EQ(nkt_open_fds(), fds);
    close(s.fd);
    nkt_loop_done(loop);
}

static void file_cut_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    file_sender *s = (file_sender *)user;
    sup_on_open(loop, conn, user);
    CHECK_OK(
        netkit_conn_send_file(loop, conn, (uintptr_t)s->fd, 0, NETKIT_FILE_END, file_released, s));
    CHECK_EQ(ftruncate(s->fd, 1234), 0);
}

/* IO09 I4: a file that becomes shorter while it waits ends the conn with TRUNCATED: the stream must
 * not go on as if nothing were missing. The release says so too. */
NKT_LOOP_TEST(file_cut_meanwhile) {
    netkit_loop *loop = nkt_loop();
    file_sender s;
    sup_end peer;
    netkit_handler handler = sup_handler();
    char address[32];
    memset(&s, 0, sizeof s);
    sup_end_init(&s.end);
    sup_end_init(&peer);
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &s.end);
    s.fd = file_make(60000); /* less than is sent at once */
    connect.handler.on_open = file_cut_on_open;
    CHECK_OK(netkit_connect(loop, &connect, &s.end.conn));
    SUP_UNTIL(loop, s.end.closes == 1);
    CHECK_EQ(s.end.info.code, NETKIT_E_TRUNCATED);
    CHECK_EQ(s.released, 1);
    CHECK_EQ(s.status, NETKIT_E_TRUNCATED);
    close(s.fd);
    nkt_loop_done(loop);
}

static void file_send_to_dead_peers(int fd) {
    for (int i = 0; i < 200; i++) {
        netkit_socket pair[2];
        uint64_t done;
        CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_STREAM, 0));
#if NKI_WINDOWS /* the pair is one of TCP: a close alone would be told by the second send */
        CHECK_OK(netkit_socket_reset(&pair[1]));
        CHECK(netkit_socket_wait(pair[0], NETKIT_POLL_READ, 1000) > 0);
#else
        CHECK_OK(netkit_socket_close(&pair[1]));
#endif
        CHECK_ERR(netkit_socket_send_file(pair[0], (uintptr_t)fd, 0, 100000), NETKIT_E_RESET);
        CHECK_ERR(netkit_socket_send_file_all(pair[0], (uintptr_t)fd, 0, 100000, 1000, &done),
                  NETKIT_E_RESET);
        CHECK_EQ(done, 0);
        CHECK_OK(netkit_socket_close(&pair[0]));
    }
}

#if NKI_WINDOWS
/* T-13 IO09: files sent to peers that have reset are errors. */
NKT_LOOP_TEST(file_to_a_dead_peer) {
    int fd = file_make(100000);
    file_send_to_dead_peers(fd);
    close(fd);
}
#else
static int file_sigpipes;

static void file_on_sigpipe(int sig) {
    (void)sig;
    file_sigpipes++;
}

/* T-13 IO09 SD22 IO12: files sent to peers that have reset raise no SIGPIPE that anybody sees; the
 * mask and the disposition are as before, a SIGPIPE that was pending stays. */
NKT_LOOP_TEST(file_to_a_dead_peer_without_a_signal) {
    struct sigaction act, after;
    sigset_t mask, pipe_only, pending;
    memset(&act, 0, sizeof act);
    act.sa_handler = file_on_sigpipe;
    CHECK_EQ(sigaction(SIGPIPE, &act, NULL), 0);
    int fd = file_make(100000);
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    for (int blocked = 0; blocked < 2; blocked++) {
        if (blocked) {
            CHECK_EQ(pthread_sigmask(SIG_BLOCK, &pipe_only, NULL), 0);
            CHECK_EQ(raise(SIGPIPE), 0);
        }
        file_send_to_dead_peers(fd);
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
        CHECK_EQ(sigismember(&mask, SIGPIPE), blocked);
        CHECK_EQ(sigpending(&pending), 0);
        CHECK_EQ(sigismember(&pending, SIGPIPE), blocked);
    }
    CHECK_EQ(file_sigpipes, 0);
    CHECK_EQ(sigaction(SIGPIPE, NULL, &after), 0);
    CHECK(after.sa_handler == file_on_sigpipe);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &pipe_only, NULL), 0);
    CHECK_EQ(file_sigpipes, 1); /* the one that was raised here */
    close(fd);
}
#endif

/* IO09: a plain socket sends a file as a whole within a deadline, and says how far it came. */
NKT_TEST(file_all_with_a_deadline) {
    netkit_socket pair[2];
    uint64_t done;
    int fd = file_make(2000000);
    CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_STREAM, 0));
    CHECK_OK(netkit_socket_set(pair[0], NETKIT_OPT_SEND_BUFFER, 65536));
    CHECK_OK(netkit_socket_set(pair[1], NETKIT_OPT_RECV_BUFFER, 65536));
    CHECK_ERR(netkit_socket_send_file_all(pair[0], (uintptr_t)fd, 0, NETKIT_FILE_END, 50, &done),
              NETKIT_E_TIMEOUT);
    CHECK(done > 0 && done < 2000000);
#if NKI_POSIX /* a pair of TCP takes a little more than it says */
    CHECK_ERR(netkit_socket_send_file(pair[0], (uintptr_t)fd, 0, 10), NETKIT_E_AGAIN);
#endif
    static unsigned char got[2000000], want[2000000];
    CHECK_OK(netkit_socket_recv_all(pair[1], got, (size_t)done, 1000, NULL));
    sup_fill(want, sizeof want, 0);
    CHECK_MEM(got, want, (size_t)done);
    CHECK_OK(netkit_socket_send_file_all(pair[0], (uintptr_t)fd, 1999990, 10, 1000, &done));
    CHECK_EQ(done, 10);
    CHECK_OK(netkit_socket_recv_all(pair[1], got, 10, 1000, NULL));
    CHECK_MEM(got, want + 1999990, 10);
    netkit_socket none = {0};
    CHECK_ERR(netkit_socket_send_file(none, (uintptr_t)fd, 0, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_send_file_all(none, (uintptr_t)fd, 0, 1, 0, NULL), NETKIT_E_INVALID);
    CHECK_EQ(netkit_socket_send_file(pair[0], (uintptr_t)fd, 5, 0), 0);
    CHECK_OK(netkit_socket_close(&pair[0]));
    CHECK_OK(netkit_socket_close(&pair[1]));
    close(fd);
}

/* Asked of the socket, or of a call that finds nothing where no socket tells (Windows). */
static bool file_is_blocking(netkit_socket s) {
    int is_blocking = 0;
    char byte;
    int code = netkit_socket_get(s, NETKIT_OPT_BLOCKING, &is_blocking);
    if (code == NETKIT_OK) {
        return is_blocking == 1;
    }
    CHECK_ERR(code, NETKIT_E_NOSYS);
    CHECK_OK(netkit_socket_set(s, NETKIT_OPT_RECV_TIMEOUT, 30));
    uint64_t began = nkt_now_ns();
    CHECK_ERR(netkit_socket_recv(s, &byte, 1), NETKIT_E_AGAIN);
    return nkt_now_ns() - began >= 10000000u;
}

/* IO09 IO19 OP13: so it does on a socket that blocks, whose mode is as before then; a peer that
 * reads gets all of it. */
NKT_TEST(file_all_on_a_blocking_socket) {
    static unsigned char got[2000000], want[2000000];
    netkit_socket pair[2];
    uint64_t done;
    int fd = file_make(2000000);
    sup_fill(want, sizeof want, 0);
    for (int i = 0; i < 3; i++) {
        int timeout = i == 0 ? 50 : 0;
        CHECK_OK(netkit_socket_pair(pair, NETKIT_SOCK_STREAM, NETKIT_SOCKET_BLOCKING));
        CHECK_OK(netkit_socket_set(pair[0], NETKIT_OPT_SEND_BUFFER, 65536));
        CHECK_OK(netkit_socket_set(pair[1], NETKIT_OPT_RECV_BUFFER, 65536));
        uint64_t began = nkt_now_ns();
        if (i == 2) { /* an error is no reason to forget the mode */
            nkt_fault_at("sendfile", 2, EIO, false);
        }
        int code =
            netkit_socket_send_file_all(pair[0], (uintptr_t)fd, 0, NETKIT_FILE_END, timeout, &done);
        CHECK_ERR(code, i == 2 && nkt_faults() != 0 ? NETKIT_E_IO : NETKIT_E_TIMEOUT);
        nkt_fault_clear();
        CHECK(nkt_now_ns() - began < 3000000000u * nkt_slowness);
        CHECK(done > 0 && done < 2000000);
        CHECK(file_is_blocking(pair[0]));
        CHECK_OK(netkit_socket_recv_all(pair[1], got, (size_t)done, 1000, NULL));
        CHECK_MEM(got, want, (size_t)done);
        CHECK_OK(netkit_socket_send_file_all(pair[0], (uintptr_t)fd, 1000, 10, 1000, &done));
        CHECK_EQ(done, 10);
        CHECK(file_is_blocking(pair[0]));
        CHECK_OK(netkit_socket_close(&pair[0]));
        CHECK_OK(netkit_socket_close(&pair[1]));
    }
    close(fd);
}

/* ---- places in the queue ---- */

typedef struct place_sender {
    sup_end end;
    uint64_t at; /* bytes committed or sent so far */
    uint64_t want;
} place_sender;

/* Fill the queue through reserve and commit, with sends between, until it is full. */
static void place_send(netkit_loop *loop, netkit_conn conn, void *user) {
    place_sender *s = (place_sender *)user;
    unsigned char small[300];
    while (s->at < s->want) {
        size_t len = 1 + (size_t)(nkt_random() % NETKIT_RESERVE_MAX), room = 0;
        void *place = NULL;
        len = NKI_MIN(len, (size_t)(s->want - s->at));
        int code = netkit_conn_reserve(loop, conn, len, &place, &room);
        if (code == NETKIT_E_FULL) {
            return;
        }
        CHECK_OK(code);
        CHECK(place != NULL && room >= len);
        size_t used = (size_t)(nkt_random() % (len + 1));
        sup_fill((unsigned char *)place, used, s->at);
        CHECK_OK(netkit_conn_commit(loop, conn, used));
        s->at += used;
        len = (size_t)(nkt_random() % sizeof small);
        len = NKI_MIN(len, (size_t)(s->want - s->at));
        sup_fill(small, len, s->at);
        code = netkit_conn_send(loop, conn, small, len);
        if (code == NETKIT_E_FULL) {
            return;
        }
        CHECK_OK(code);
        s->at += len;
    }
    CHECK_OK(netkit_conn_shutdown(loop, conn));
}

static void place_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_open(loop, conn, user);
    place_send(loop, conn, user);
}

/* IO15: bytes written in place and bytes copied make one stream, inside callbacks and outside, at
 * any size, through full queues. */
NKT_LOOP_TEST(place_in_the_queue) {
    netkit_loop *loop = nkt_loop();
    place_sender s;
    sup_end peer;
    char address[32];
    netkit_handler handler = sup_handler();
    memset(&s, 0, sizeof s);
    sup_end_init(&s.end);
    sup_end_init(&peer);
    s.want = 4u << 20;
    handler.on_eof = NULL;
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &s.end);
    connect.handler.on_open = place_on_open;
    connect.handler.on_drain = place_send;
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &s.end.conn));
    while (peer.closes == 0) {
        CHECK(netkit_loop_run_once(loop, 1000) >= 0);
        if (s.at > 0 && s.at < s.want && nkt_random() % 3 == 0) {
            place_send(loop, s.end.conn, &s); /* between turns */
        }
    }
    CHECK_EQ(peer.bytes, s.want);
    SUP_UNTIL(loop, s.end.closes == 1);
    nkt_loop_done(loop);
}

static void place_misuse(netkit_loop *loop, netkit_conn conn, void *user) {
    void *place, *other;
    size_t room;
    sup_on_open(loop, conn, user);
    for (int staged = 0; staged < 2; staged++) {
        CHECK_ERR(netkit_conn_commit(loop, conn, 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_conn_reserve(loop, conn, 10, NULL, &room), NETKIT_E_INVALID);
        CHECK_ERR(netkit_conn_reserve(loop, conn, NETKIT_RESERVE_MAX + 1, &place, &room),
                  NETKIT_E_TOOBIG);
        CHECK(place == NULL && room == 0);
        CHECK_OK(netkit_conn_reserve(loop, conn, 0, &place, &room));
        CHECK(room >= 1);
        CHECK_ERR(netkit_conn_commit(loop, conn, room + 1), NETKIT_E_INVALID);
        CHECK_ERR(netkit_conn_commit(loop, conn, 1), NETKIT_E_INVALID); /* one try */
        CHECK_OK(netkit_conn_reserve(loop, conn, 3, &place, &room));
        CHECK_OK(netkit_conn_send(loop, conn, "x", 1)); /* takes that place */
        CHECK_ERR(netkit_conn_commit(loop, conn, 3), NETKIT_E_INVALID);
        CHECK_OK(netkit_conn_reserve(loop, conn, 3, &place, &room));
        memcpy(place, "abc", 3);
        CHECK_OK(netkit_conn_commit(loop, conn, 3));
        CHECK_OK(netkit_conn_reserve(loop, conn, 3, &place, &room));
        CHECK_OK(netkit_conn_reserve(loop, conn, 5000, &other, &room)); /* the last one counts */
        CHECK_OK(netkit_conn_commit(loop, conn, 0));
        CHECK_OK(netkit_conn_cork(loop, conn, true)); /* now not in the stage but in chunks */
    }
    CHECK_OK(netkit_conn_shutdown(loop, conn));
    CHECK_ERR(netkit_conn_reserve(loop, conn, 1, &place, &room), NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_commit(loop, conn, 1), NETKIT_E_CLOSED);
    CHECK_ERR(netkit_conn_cork(loop, conn, true), NETKIT_E_CLOSED);
}

/* IO15 R5: a place is one conn's, for one commit of at most what was reserved, and only as long as
 * nothing else was queued. */
NKT_LOOP_TEST(place_misused) {
    netkit_loop *loop = nkt_loop();
    sup_end end, peer;
    char address[32];
    netkit_handler handler = sup_handler();
    handler.on_eof = NULL;
    handler.on_data = NULL;
    sup_end_init(&end);
    sup_end_init(&peer);
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &end);
    connect.handler.on_open = place_misuse;
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &end.conn));
    SUP_UNTIL(loop, end.closes == 1 && peer.closes == 1);
    nkt_loop_done(loop);
}

/* ---- corks ---- */

typedef struct cork_sender {
    sup_end end;
    int step;
} cork_sender;

static void cork_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_open(loop, conn, user);
    CHECK_OK(netkit_conn_send(loop, conn, "a", 1)); /* staged: goes nowhere either */
    CHECK_OK(netkit_conn_cork(loop, conn, true));
    CHECK_OK(netkit_conn_send(loop, conn, "b", 1));
}

static void cork_turns(netkit_loop *loop) {
    for (int i = 0; i < 5; i++) {
        CHECK(netkit_loop_run_once(loop, 1) >= 0);
        CHECK_OK(netkit_loop_flush(loop));
    }
}

/* IO08 C4: what a corked conn queues waits over callbacks, turns and flushes of the loop, and goes
 * out together at the flush of the conn, at 64 KiB, when the cork is out, and at the end. */
NKT_LOOP_TEST(cork_holds_back) {
    static unsigned char big[70000];
    netkit_loop *loop = nkt_loop();
    cork_sender s;
    sup_end peer;
    size_t queued;
    char address[32];
    netkit_handler handler = sup_handler();
    handler.on_eof = NULL;
    handler.on_data = NULL;
    memset(&s, 0, sizeof s);
    sup_end_init(&s.end);
    sup_end_init(&peer);
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &s.end);
    connect.handler.on_open = cork_on_open;
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &s.end.conn));
    SUP_UNTIL(loop, s.end.opens == 1);
    cork_turns(loop);
    CHECK_OK(netkit_conn_queued(loop, s.end.conn, &queued));
    CHECK_EQ(queued, 2);
    CHECK_OK(netkit_conn_flush(loop, s.end.conn));
    CHECK_OK(netkit_conn_send(loop, s.end.conn, "c", 1));
    cork_turns(loop);
    CHECK_OK(netkit_conn_queued(loop, s.end.conn, &queued));
    CHECK_EQ(queued, 1);
    CHECK_OK(netkit_conn_cork(loop, s.end.conn, false));
    cork_turns(loop);
    CHECK_OK(netkit_conn_queued(loop, s.end.conn, &queued));
    CHECK_EQ(queued, 0);
    CHECK_OK(netkit_conn_cork(loop, s.end.conn, true));
    CHECK_OK(netkit_conn_send(loop, s.end.conn, big, sizeof big)); /* more than it holds back */
    SUP_UNTIL(loop, netkit_conn_queued(loop, s.end.conn, &queued) == NETKIT_OK && queued == 0);
    CHECK_OK(netkit_conn_send(loop, s.end.conn, "d", 1));
    CHECK_OK(netkit_conn_close(loop, s.end.conn));
    SUP_UNTIL(loop, s.end.closes == 1 && peer.closes == 1);
    CHECK_OK(s.end.info.code);
    CHECK_EQ(s.end.info.unsent, 0);
    nkt_loop_done(loop);
}

static size_t cork_echo(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                        void *user) {
    (void)user;
    CHECK_OK(netkit_conn_cork(loop, conn, true)); /* and it never comes out */
    CHECK_OK(netkit_conn_send(loop, conn, data, len));
    return len;
}

/* IO08 C3: a cork that is never taken out cannot stall a conn whose queue is small. */
NKT_LOOP_TEST(cork_never_stalls) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    char address[32];
    netkit_handler handler;
    static unsigned char data[100000];
    memset(&handler, 0, sizeof handler);
    handler.on_data = cork_echo;
    sup_end_init(&end);
    netkit_listen_desc listen = sup_listen_desc(&handler, NULL);
    listen.conn.send_max = 4096;
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &end);
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &end.conn));
    SUP_UNTIL(loop, end.opens == 1);
    sup_fill(data, sizeof data, 0);
    CHECK_OK(netkit_conn_send(loop, end.conn, data, sizeof data));
    CHECK_OK(netkit_conn_shutdown(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_EQ(end.bytes, sizeof data);
    nkt_loop_done(loop);
}

/* ---- a long queue ---- */

static unsigned char lent_piece[1024];

static void lent_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    sup_on_open(loop, conn, user);
    for (int i = 0; i < 250; i++) {
        CHECK_OK(netkit_conn_send_borrowed(loop, conn, lent_piece, sizeof lent_piece, NULL, NULL));
    }
    CHECK_OK(netkit_conn_shutdown(loop, conn));
}

/* C4 I4: a queue that takes several turns' budgets, with a system that would take it all, goes
 * out to its end although no event comes. */
NKT_LOOP_TEST(file_long_queue_goes_on) {
    netkit_loop_desc loop_desc;
    memset(&loop_desc, 0, sizeof loop_desc);
    loop_desc.conn_budget = 4096;
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    sup_end end, peer;
    char address[32];
    netkit_handler handler = sup_handler();
    handler.on_eof = NULL;
    handler.on_data = NULL;
    sup_end_init(&end);
    sup_end_init(&peer);
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &end);
    connect.handler.on_open = lent_on_open;
    connect.handler.on_eof = NULL;
    CHECK_OK(netkit_connect(loop, &connect, &end.conn));
    SUP_UNTIL(loop, end.closes == 1 && peer.closes == 1);
    CHECK_OK(end.info.code);
    nkt_loop_done(loop);
}

/* IO08 IO09: a corked conn that has begun to send goes on, whatever the system takes at a time. */
NKT_LOOP_TEST(cork_goes_on_with_a_file) {
    netkit_loop *loop = nkt_loop();
    file_sender s;
    sup_end peer;
    char address[32];
    netkit_handler handler = sup_handler();
    handler.on_eof = NULL;
    handler.on_data = NULL;
    memset(&s, 0, sizeof s);
    sup_end_init(&s.end);
    sup_end_init(&peer);
    netkit_listen_desc listen = sup_listen_desc(&handler, &peer);
    snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
    netkit_connect_desc connect = sup_connect_desc(address, &s.end);
    connect.handler.on_eof = NULL;
    s.fd = file_make(FILE_SIZE);
    CHECK_OK(netkit_connect(loop, &connect, &s.end.conn));
    SUP_UNTIL(loop, s.end.opens == 1);
    CHECK_OK(netkit_conn_cork(loop, s.end.conn, true));
    for (int i = 0; i < 4; i++) {
        CHECK_OK(netkit_conn_send_file(loop, s.end.conn, (uintptr_t)s.fd, 0, NETKIT_FILE_END,
                                       file_released, &s));
    }
    SUP_UNTIL(loop, s.released == 4);
    CHECK_OK(s.status);
    CHECK_OK(netkit_conn_close(loop, s.end.conn));
    SUP_UNTIL(loop, s.end.closes == 1 && peer.closes == 1);
    close(s.fd);
    nkt_loop_done(loop);
}

static void *file_reader_leaves(void *user) {
    int fd = *(const int *)user;
    char byte[4096];
    nkt_sleep_ms(50); /* the sender is in the middle of its file */
    (void)!read(fd, byte, sizeof byte);
    close(fd);
    return NULL;
}

/* T-13 IO09: the peer that leaves while the system sends raises no SIGPIPE either, although the
 * call says how much went. */
NKT_TEST(file_to_a_peer_that_leaves) {
    int fd = file_make(FILE_SIZE);
    for (int i = 0; i < 5; i++) {
        netkit_socket listener, s, taken;
        netkit_addr at;
        pthread_t thread;
        CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
        CHECK_OK(netkit_socket_listen_on(&listener, &at, NETKIT_SOCKET_BLOCKING, 1));
        CHECK_OK(netkit_socket_local(listener, &at));
        CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_socket_set(s, NETKIT_OPT_RECV_BUFFER, 65536));
        CHECK_OK(netkit_socket_connect(s, &at, 1000));
        CHECK_OK(netkit_socket_accept(listener, &taken, NULL));
        CHECK_OK(netkit_socket_set(taken, NETKIT_OPT_SEND_BUFFER, 65536));
        CHECK_OK(netkit_socket_set(taken, NETKIT_OPT_BLOCKING, 1));
        int reader = (int)netkit_socket_native(s);
        CHECK_EQ(pthread_create(&thread, NULL, file_reader_leaves, &reader), 0);
        int sent = netkit_socket_send_file(taken, (uintptr_t)fd, 0, NETKIT_FILE_END);
        CHECK(sent > 0 || sent == NETKIT_E_RESET);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_OK(netkit_socket_close(&taken));
        CHECK_OK(netkit_socket_close(&listener));
    }
    close(fd);
}

/* Two raw ends of a connection over the loopback. */
static void file_tcp_pair(int pair[2]) {
    struct sockaddr_in in = sup_loopback(0);
    socklen_t len = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(fd, (const struct sockaddr *)&in, len), 0);
    CHECK_EQ(listen(fd, 1), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(pair[0], (const struct sockaddr *)&in, len), 0);
    pair[1] = accept(fd, NULL, NULL);
    CHECK(pair[1] >= 0);
    CHECK_EQ(close(fd), 0);
}

static void *file_reader_closes(void *user) {
    nkt_sleep_ms(20);
    CHECK_EQ(close(*(int *)user), 0); /* with much unread: it resets */
    return NULL;
}

/* T-13 IO09: nor when the peer has ended its side before, so that the system raises the signal at
 * once, having taken a part: then the call tells the part. */
NKT_TEST(file_to_a_peer_that_closes_late) {
    int fd = file_make(FILE_SIZE);
    for (int i = 0; i < 20; i++) {
        int pair[2], size = 4608 + i * 5000;
        pthread_t thread;
        file_tcp_pair(pair);
        CHECK_EQ(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
        CHECK_EQ(shutdown(pair[1], SHUT_WR), 0);
        CHECK_EQ(pthread_create(&thread, NULL, file_reader_closes, &pair[1]), 0);
        netkit_socket s = netkit_socket_from_native((uintptr_t)pair[0]);
        int sent = netkit_socket_send_file(s, (uintptr_t)fd, 0, NETKIT_FILE_END);
        CHECK(sent > 0 || sent == NETKIT_E_RESET);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_OK(netkit_socket_close(&s));
    }
    close(fd);
}

#if NKI_POSIX
/* T-13 IO09 I2 I4: a conn whose file is on its way to a peer that resets, or just closes: it ends with
 * RESET, each release comes once, before that, and nobody sees a SIGPIPE. */
NKT_LOOP_TEST(file_to_a_peer_that_resets) {
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = file_on_sigpipe;
    CHECK_EQ(sigaction(SIGPIPE, &act, NULL), 0);
    int fd = file_make(FILE_SIZE);
    for (int i = 0; i < 12; i++) {
        int fds = nkt_open_fds();
        netkit_loop *loop = nkt_loop();
        netkit_adopt_desc desc;
        file_sender s;
        int pair[2];
        bool is_unix = i % 2 == 0, is_early = i % 4 < 2;
        memset(&s, 0, sizeof s);
        sup_end_init(&s.end);
        if (is_unix) {
            CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        } else {
            file_tcp_pair(pair);
        }
        memset(&desc, 0, sizeof desc);
        desc.socket = netkit_socket_from_native((uintptr_t)pair[0]);
        desc.handler = sup_handler();
        desc.user = &s.end;
        CHECK_OK(netkit_adopt(loop, &desc, &s.end.conn));
        SUP_UNTIL(loop, s.end.opens == 1);
        for (int k = 0; k < 3; k++) {
            CHECK_OK(netkit_conn_send_file(loop, s.end.conn, (uintptr_t)fd, 0, NETKIT_FILE_END,
                                           file_released, &s));
        }
        if (!is_early) {
            sup_turn(loop); /* some of it is in the peer's buffer, and resets with it */
        }
        if (!is_unix) {
            struct linger now = {1, 0};
            CHECK_EQ(setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
        }
        CHECK_EQ(close(pair[1]), 0);
        SUP_UNTIL(loop, s.end.closes == 1);
        CHECK_ERR(s.end.info.code, NETKIT_E_RESET);
        CHECK_EQ(s.released, 3);
        CHECK(s.status < 0);
        nkt_loop_done(loop);
        CHECK_EQ(nkt_open_fds(), fds);
    }
    CHECK_EQ(file_sigpipes, 0);
    close(fd);
}

#endif

/* IO09 C4: bytes in front of an empty file need not wait for what would follow. */
NKT_LOOP_TEST(file_of_nothing) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    int fd = file_make(1), quick = 0;
    char text[8];
    for (int i = 0; i < 20 && quick < 3; i++) {
        uint64_t began = nkt_now_ns();
        CHECK_OK(netkit_conn_send(loop, end.conn, "head", 4));
        CHECK_OK(netkit_conn_send_file(loop, end.conn, (uintptr_t)fd, 1, 0, NULL, NULL));
        SUP_UNTIL(loop, recv(peer.fd, text, sizeof text, MSG_DONTWAIT) == 4);
        quick += nkt_now_ns() - began < 100000000; /* the system would hold it for 200 ms */
    }
    CHECK_EQ(quick, 3);
    sup_peer_close(&peer);
    close(fd);
    nkt_loop_done(loop);
}
