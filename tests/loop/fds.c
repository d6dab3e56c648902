/* Descriptors over conns. The far end is a raw descriptor of the test's, or another conn. */
#include "support.h"

#if NKI_POSIX /* Windows hands no descriptors over */

/* Files by which a descriptor can be told from another: the k-th is k bytes long. */
static uintptr_t fds_file(int k) {
    char path[160];
    nkt_temp_path(path, sizeof(path));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(ftruncate(fd, k), 0);
    return (uintptr_t)fd;
}

static int fds_which(uintptr_t fd) {
    struct stat st;
    CHECK_EQ(fstat((int)fd, &st), 0);
    CHECK((fcntl((int)fd, F_GETFD) & FD_CLOEXEC) != 0);
    return (int)st.st_size;
}

static void fds_close(uintptr_t fd) {
    CHECK_EQ(close((int)fd), 0);
}

static netkit_socket fds_wrap(int fd) {
    return netkit_socket_from_native((uintptr_t)fd);
}

/* Send from the raw end; all of it, as it is short. */
static void fds_raw_send(int to, const void *data, size_t len, const uintptr_t *fds, size_t count) {
    netkit_message_out out;
    netkit_span span;
    memset(&out, 0, sizeof(out));
    span.data = data;
    span.len = len;
    out.spans = &span;
    out.spans_count = 1;
    out.fds = fds;
    out.fds_count = count;
    CHECK_EQ(netkit_socket_send_msg(fds_wrap(to), &out), len);
}

/* Adopt one end of a pair. Returns the other, which does not block. */
static int fds_adopt(netkit_loop *loop, sup_end *end, const netkit_conn_options *options) {
    netkit_adopt_desc desc;
    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    sup_nonblocking(pair[1]);
    memset(&desc, 0, sizeof(desc));
    desc.socket = fds_wrap(pair[0]);
    desc.handler = sup_handler();
    desc.user = end;
    if (options != NULL) {
        desc.conn = *options;
    }
    CHECK_OK(netkit_adopt(loop, &desc, &end->conn));
    SUP_UNTIL(loop, end->opens == 1);
    return pair[1];
}

/* The reader of a raw end: bytes of the stream and files in order. */
typedef struct fds_reader {
    int fd;
    uint64_t bytes;
    int files;
    int end; /* 0, or the code that ended it */
} fds_reader;

static void fds_read(fds_reader *r) {
    static unsigned char data[65536];
    uintptr_t fds[NETKIT_FDS_MAX];
    for (int i = 0; i < 1000 && r->end == 0; i++) {
        netkit_message_in in;
        netkit_room room = {data, sizeof(data)};
        memset(&in, 0, sizeof(in));
        in.rooms = &room;
        in.rooms_count = 1;
        in.fds = fds;
        in.fds_max = NETKIT_FDS_MAX;
        int rc = netkit_socket_recv_msg(fds_wrap(r->fd), &in);
        if (rc == NETKIT_E_AGAIN) {
            return;
        }
        for (size_t k = 0; k < in.fds_count; k++) {
            CHECK_EQ(fds_which(fds[k]), r->files++ % 100);
            fds_close(fds[k]);
        }
        CHECK(!in.is_fds_cut);
        if (rc < 0) {
            r->end = rc;
        } else {
            sup_check_bytes(data, (size_t)rc, r->bytes);
            r->bytes += (uint64_t)rc;
        }
    }
}

static int fds_total(const netkit_loop *loop) {
    (void)loop;
    return nkt_open_fds();
}

/* ---- out ------------------------------------------------------------------------- */

/* What a conn sends: a stream of sup_byte, with files whose numbers go up. */
typedef struct fds_writer {
    uintptr_t files[100];
    uint64_t bytes;
    int sent; /* files */
} fds_writer;

static void fds_writer_init(fds_writer *w) {
    memset(w, 0, sizeof(*w));
    for (int k = 0; k < 100; k++) {
        w->files[k] = fds_file(k);
    }
}

static void fds_writer_done(fds_writer *w) {
    for (int k = 0; k < 100; k++) {
        fds_close(w->files[k]);
    }
}

/* Send `len` bytes, with the next `count` files. Returns the code. */
static int fds_write(netkit_loop *loop, netkit_conn conn, fds_writer *w, size_t len, int count) {
    static unsigned char data[300000];
    uintptr_t fds[NETKIT_FDS_MAX];
    int rc;
    sup_fill(data, len, w->bytes);
    for (int k = 0; k < count; k++) {
        fds[k] = w->files[(w->sent + k) % 100];
    }
    rc = count == 0 ? netkit_conn_send(loop, conn, data, len)
                    : netkit_conn_send_fds(loop, conn, data, len, fds, (size_t)count);
    if (rc == NETKIT_OK) {
        w->bytes += len;
        w->sent += count;
    }
    return rc;
}

/* IO11 X-04 I4: descriptors and bytes of a conn arrive in the order they were queued in, between
 * copied and large messages; they are duplicates, so the caller's may be closed at once. */
NKT_LOOP_TEST(fds_are_handed_over) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    fds_writer w;
    fds_reader r;
    memset(&r, 0, sizeof(r));
    fds_writer_init(&w);
    sup_end_init(&end);
    r.fd = fds_adopt(loop, &end, NULL);
    int fds = fds_total(loop);
    static const int counts[] = {1, 0, 2, 64, 0, 253, 1};
    static const size_t lens[] = {1, 1000, 500, 513, 30000, 100, 60000};
    for (int i = 0; i < 7; i++) {
        CHECK_OK(fds_write(loop, end.conn, &w, lens[i], counts[i]));
    }
    uintptr_t mine = fds_file(w.sent % 100); /* closed before it has gone */
    unsigned char byte = sup_byte(w.bytes);
    CHECK_OK(netkit_conn_send_fds(loop, end.conn, &byte, 1, &mine, 1));
    fds_close(mine);
    w.bytes++;
    w.sent++;
    SUP_UNTIL_DOING(loop, r.bytes == w.bytes) {
        fds_read(&r);
    }
    CHECK_EQ(r.files, w.sent);
    size_t left = 1;
    CHECK_OK(netkit_conn_queued(loop, end.conn, &left));
    CHECK_EQ(left, 0);
    sup_settle(loop);
    CHECK_EQ(fds_total(loop), fds);
    CHECK_OK(netkit_conn_close(loop, end.conn));
    CHECK_EQ(close(r.fd), 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_OK(end.info.code);
    fds_writer_done(&w);
    nkt_loop_done(loop);
}

/* IO11 C2 I4: to a peer that does not read descriptors wait as bytes do, while the conn is paused
 * with input waiting or is reading on; later all arrive in order, and the end behind them. */
NKT_LOOP_TEST(fds_wait_for_a_slow_reader) {
    for (int how = 0; how < 4; how++) {
        netkit_loop *loop = nkt_loop();
        netkit_conn_options options;
        sup_end end;
        fds_writer w;
        fds_reader r;
        uint64_t told = 0;
        memset(&r, 0, sizeof(r));
        memset(&options, 0, sizeof(options));
        options.send_max = 2 << 20;
        options.duplex = true;
        fds_writer_init(&w);
        sup_end_init(&end);
        r.fd = fds_adopt(loop, &end, &options);
        int fds = fds_total(loop);
        if (how % 2 == 1) {
            CHECK_OK(netkit_conn_pause(loop, end.conn));
            unsigned char bytes[100];
            sup_fill(bytes, 100, told);
            told += 100;
            CHECK_EQ(send(r.fd, bytes, 100, 0), 100);
            sup_settle(loop);
        }
        for (int i = 0; i < 300; i++) {
            CHECK_OK(fds_write(loop, end.conn, &w, 3000, i % 3 == 0 ? 1 + i % 4 : 0));
            if (i % 100 == 99) {
                sup_settle(loop);
            }
        }
        CHECK(sup_queued(&end) > 100000); /* it does wait */
        if (how >= 2) {
            for (int i = 0; i < 3; i++) { /* what comes in meanwhile does not disturb */
                unsigned char byte = sup_byte(told++);
                CHECK_EQ(send(r.fd, &byte, 1, 0), 1);
                sup_settle(loop);
            }
        }
        CHECK_OK(netkit_conn_shutdown(loop, end.conn));
        SUP_UNTIL_DOING(loop, r.end != 0) {
            fds_read(&r);
        }
        CHECK_ERR(r.end, NETKIT_E_EOF);
        CHECK_EQ(r.bytes, w.bytes);
        CHECK_EQ(r.files, w.sent);
        CHECK_OK(netkit_conn_resume(loop, end.conn));
        SUP_UNTIL(loop, end.bytes == told);
        CHECK_EQ(fds_total(loop), fds);
        CHECK_EQ(close(r.fd), 0);
        SUP_UNTIL(loop, end.eofs == 1);
        CHECK_OK(netkit_conn_close(loop, end.conn));
        SUP_UNTIL(loop, end.closes == 1);
        fds_writer_done(&w);
        nkt_loop_done(loop);
    }
}

/* IO11 I2 C2: what has not gone is closed with the conn, however it ends; a peer that goes away
 * ends a paused conn with descriptors waiting at once. */
NKT_LOOP_TEST(fds_unsent_are_closed) {
    for (int how = 0; how < 3; how++) {
        netkit_loop *loop = nkt_loop();
        netkit_conn_options options;
        sup_end end;
        fds_writer w;
        int peer, before;
        memset(&options, 0, sizeof(options));
        options.send_max = 1 << 20;
        fds_writer_init(&w);
        sup_end_init(&end);
        before = fds_total(loop);
        peer = fds_adopt(loop, &end, &options);
        CHECK_OK(netkit_conn_pause(loop, end.conn));
        for (int i = 0; i < 200; i++) {
            CHECK_OK(fds_write(loop, end.conn, &w, 4000, 2));
        }
        sup_settle(loop);
        CHECK(fds_total(loop) > before + 100);
        if (how == 0) {
            CHECK_OK(netkit_conn_abort(loop, end.conn));
        } else if (how == 1) {
            CHECK_EQ(close(peer), 0);
        }
        if (how < 2) {
            SUP_UNTIL(loop, end.closes == 1);
            CHECK(end.info.unsent > 0);
            CHECK_EQ(fds_total(loop), before + (how == 0));
        }
        CHECK_OK(netkit_loop_destroy(loop));
        nkt_loops--;
        CHECK_EQ(nkt_live_bytes(), 0);
        CHECK_EQ(end.closes, 1);
        if (how != 1) {
            CHECK_EQ(close(peer), 0);
        }
        fds_writer_done(&w);
    }
}

/* IO11 ER07 C2: what cannot be sent is refused as a whole, and the conn goes on. */
NKT_LOOP_TEST(fds_refusals) {
    netkit_loop *loop = nkt_loop();
    netkit_conn_options options;
    sup_end end, tcp;
    fds_writer w;
    fds_reader r;
    uintptr_t many[NETKIT_FDS_MAX + 1], bad = UINTPTR_MAX;
    memset(&options, 0, sizeof(options));
    memset(&r, 0, sizeof(r));
    options.send_max = 4000;
    options.chunks_max = 3;
    fds_writer_init(&w);
    sup_end_init(&end);
    r.fd = fds_adopt(loop, &end, &options);
    for (int k = 0; k <= NETKIT_FDS_MAX; k++) {
        many[k] = w.files[0];
    }
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, "", 0, many, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, NULL, 1, many, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, "a", 1, NULL, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, "a", 1, many, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, "a", 1, &bad, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, "a", 1, many, NETKIT_FDS_MAX + 1),
              NETKIT_E_TOOBIG);
    CHECK_ERR(fds_write(loop, end.conn, &w, 4001, 1), NETKIT_E_TOOBIG);
    int fds = fds_total(loop);
    for (int n = 1; n <= 3; n++) {
        nkt_fault_at("fcntl", (uint64_t)n, EMFILE, false);
        CHECK_ERR(fds_write(loop, end.conn, &w, 100, 3), NETKIT_E_MFILE);
        nkt_fault_clear();
        CHECK_EQ(fds_total(loop), fds);
    }
    for (uint64_t n = 1; n <= 2; n++) {
        nkt_alloc_fail_at(n, false);
        CHECK_ERR(fds_write(loop, end.conn, &w, 100, 3), NETKIT_E_NOMEM);
        nkt_alloc_fail_at(0, false);
        CHECK_EQ(fds_total(loop), fds);
    }
    CHECK_EQ(sup_queued(&end), 0);
    for (int n = 0; n < 3; n++) {
        CHECK_OK(fds_write(loop, end.conn, &w, 100, 2));
    }
    CHECK_ERR(fds_write(loop, end.conn, &w, 100, 1), NETKIT_E_FULL);
    SUP_UNTIL(loop, end.drains == 1);
    CHECK_OK(fds_write(loop, end.conn, &w, 4000, 1));
    SUP_UNTIL_DOING(loop, r.bytes == w.bytes) {
        fds_read(&r);
    }
    CHECK_EQ(r.files, w.sent);
    CHECK_OK(netkit_conn_shutdown(loop, end.conn));
    CHECK_ERR(fds_write(loop, end.conn, &w, 1, 1), NETKIT_E_CLOSED);
    CHECK_OK(netkit_conn_abort(loop, end.conn));
    SUP_UNTIL(loop, end.closes == 1);
    sup_settle(loop);
    CHECK_ERR(fds_write(loop, end.conn, &w, 1, 1), NETKIT_E_STALE);
    sup_peer peer = sup_open_default(loop, &tcp);
    CHECK_ERR(fds_write(loop, tcp.conn, &w, 1, 1), NETKIT_E_NOSYS);
    sup_peer_close(&peer);
    CHECK_EQ(close(r.fd), 0);
    fds_writer_done(&w);
    nkt_loop_done(loop);
}

/* ---- in -------------------------------------------------------------------------- */

/* A conn that takes: each '!' in its stream has one file with it. */
typedef struct fds_taker {
    netkit_conn conn;
    int opens, marks, files, eofs, closes;
    size_t at_most; /* bytes used of one span */
    netkit_close_info info;
} fds_taker;

static void fds_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    ((fds_taker *)user)->conn = conn;
    ((fds_taker *)user)->opens++;
}

static size_t fds_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                          void *user) {
    fds_taker *t = (fds_taker *)user;
    const char *text = (const char *)data;
    size_t used = len < t->at_most ? len : t->at_most;
    for (size_t i = 0; i < used; i++) {
        uintptr_t fd;
        if (text[i] == '!') {
            CHECK_OK(netkit_conn_take_fd(loop, conn, &fd));
            CHECK_EQ(fds_which(fd), t->files++ % 100);
            fds_close(fd);
            t->marks++;
        }
    }
    if (used < len) {
        CHECK_OK(netkit_conn_resume(loop, conn)); /* the rest in the next turn */
    }
    return used;
}

static void fds_on_eof(netkit_loop *loop, netkit_conn conn, void *user) {
    ((fds_taker *)user)->eofs++;
    CHECK_OK(netkit_conn_close(loop, conn));
}

static void fds_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                         void *user) {
    fds_taker *t = (fds_taker *)user;
    uintptr_t fd = 5;
    CHECK_ERR(netkit_conn_take_fd(loop, conn, &fd), NETKIT_E_CLOSED);
    CHECK_EQ(fd, UINTPTR_MAX);
    t->closes++;
    t->info = *info;
}

static int fds_take_from(netkit_loop *loop, fds_taker *t, uint32_t fds_max) {
    netkit_adopt_desc desc;
    int pair[2];
    memset(t, 0, sizeof(*t));
    t->at_most = SIZE_MAX;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    memset(&desc, 0, sizeof(desc));
    desc.socket = fds_wrap(pair[0]);
    desc.handler.on_open = fds_on_open;
    desc.handler.on_data = fds_on_data;
    desc.handler.on_eof = fds_on_eof;
    desc.handler.on_close = fds_on_close;
    desc.conn.fds_max = fds_max;
    desc.user = t;
    CHECK_OK(netkit_adopt(loop, &desc, NULL));
    SUP_UNTIL(loop, t->opens == 1);
    return pair[1];
}

/* IO11 X-04 C1: what comes is there when the first byte of its message is shown, however little
 * the handler uses at a time; then the end of the stream. */
NKT_LOOP_TEST(fds_are_received) {
    static const size_t at_most[] = {SIZE_MAX, 1, 7};
    for (int how = 0; how < 3; how++) {
        netkit_loop *loop = nkt_loop();
        fds_taker t;
        int fds = fds_total(loop), sent = 0;
        int peer = fds_take_from(loop, &t, 1000);
        t.at_most = at_most[how];
        for (int i = 0; i < 100; i++) {
            uintptr_t files[4];
            int count = i % 5;
            for (int k = 0; k < count; k++) {
                files[k] = fds_file((sent + k) % 100);
            }
            if (count == 0) {
                sup_say(peer, "..........");
            } else {
                fds_raw_send(peer, &"!!!!"[4 - count], (size_t)count, files, (size_t)count);
                sup_say(peer, "..");
            }
            for (int k = 0; k < count; k++) {
                fds_close(files[k]);
            }
            sent += count;
            if (i % 10 == 9) {
                sup_turn(loop);
            }
        }
        CHECK_EQ(close(peer), 0);
        SUP_UNTIL(loop, t.closes == 1);
        CHECK_OK(t.info.code);
        CHECK(t.eofs == 1 && t.marks == sent && t.files == sent);
        CHECK_EQ(fds_total(loop), fds);
        nkt_loop_done(loop);
    }
}

/* X-04 IO11: as many as one message can carry, message after message, reach a conn in order. */
NKT_LOOP_TEST(fds_many_are_received) {
    static const size_t counts[] = {1, 64, 253, 253, 2};
    netkit_loop *loop = nkt_loop();
    fds_taker t;
    int fds = fds_total(loop), sent = 0;
    int peer = fds_take_from(loop, &t, 1000);
    for (int i = 0; i < 5; i++) {
        uintptr_t files[NETKIT_FDS_MAX];
        char marks[NETKIT_FDS_MAX];
        memset(marks, '!', sizeof(marks));
        for (size_t k = 0; k < counts[i]; k++) {
            files[k] = fds_file((sent + (int)k) % 100);
        }
        fds_raw_send(peer, marks, counts[i], files, counts[i]);
        for (size_t k = 0; k < counts[i]; k++) {
            fds_close(files[k]);
        }
        sent += (int)counts[i];
        if (i % 2 == 0) {
            SUP_UNTIL(loop, t.marks == sent);
        }
    }
    SUP_UNTIL(loop, t.marks == sent);
    CHECK_EQ(close(peer), 0);
    SUP_UNTIL(loop, t.closes == 1);
    CHECK_OK(t.info.code);
    CHECK_EQ(t.files, sent);
    CHECK_EQ(fds_total(loop), fds);
    nkt_loop_done(loop);
}

/* X-04 IO11: unless it is switched on nothing is taken, and nothing leaks. */
NKT_LOOP_TEST(fds_are_off_by_default) {
    netkit_loop *loop = nkt_loop();
    sup_end end;
    uintptr_t mine = fds_file(1), fd = 7;
    sup_end_init(&end);
    end.is_text = true;
    int peer = fds_adopt(loop, &end, NULL);
    int fds = fds_total(loop);
    for (int i = 0; i < 10; i++) {
        fds_raw_send(peer, "abc", 3, &mine, 1);
    }
    SUP_UNTIL(loop, end.bytes == 30);
    CHECK_EQ(fds_total(loop), fds);
    CHECK_ERR(netkit_conn_take_fd(loop, end.conn, &fd), NETKIT_E_AGAIN);
    CHECK_EQ(fd, UINTPTR_MAX);
    CHECK_ERR(netkit_conn_take_fd(loop, end.conn, NULL), NETKIT_E_INVALID);
    CHECK_EQ(close(peer), 0);
    fds_close(mine);
    nkt_loop_done(loop);
}

/* X-04 IO11 R5: at most fds_max wait; one more ends the conn with a reason, and all are closed. */
NKT_LOOP_TEST(fds_too_many_wait) {
    netkit_loop *loop = nkt_loop();
    fds_taker t;
    uintptr_t mine = fds_file(0);
    int fds = fds_total(loop);
    int peer = fds_take_from(loop, &t, 4);
    for (int i = 0; i < 4; i++) {
        fds_raw_send(peer, ".", 1, &mine, 1);
    }
    SUP_UNTIL(loop, fds_total(loop) == fds + 6);
    sup_settle(loop);
    CHECK_EQ(t.closes, 0);
    fds_raw_send(peer, ".", 1, &mine, 1);
    SUP_UNTIL(loop, t.closes == 1);
    CHECK_ERR(t.info.code, NETKIT_E_TOOBIG);
    CHECK_EQ(t.info.op, NETKIT_OP_READ);
    CHECK(strstr(t.info.text, "descriptors") != NULL);
    CHECK_EQ(fds_total(loop), fds + 1);
    CHECK_EQ(close(peer), 0);
    peer = fds_take_from(loop, &t, 100);
    for (int i = 0; i < 50; i++) {
        fds_raw_send(peer, ".", 1, &mine, 1);
    }
    SUP_UNTIL(loop, fds_total(loop) == fds + 52);
    CHECK_OK(netkit_conn_abort(loop, t.conn)); /* what nobody took goes with the conn */
    SUP_UNTIL(loop, t.closes == 1);
    CHECK_EQ(fds_total(loop), fds + 1);
    CHECK_EQ(close(peer), 0);
    fds_close(mine);
    nkt_loop_done(loop);
}

/* X-04 Z-03: with a full table of descriptors the conn that loses some ends and says so; nothing
 * leaks, and others go on. */
NKT_LOOP_TEST(fds_are_lost) {
    netkit_loop *loop = nkt_loop();
    fds_taker t, other;
    uintptr_t mine[8];
    int peer = fds_take_from(loop, &t, 100);
    int second = fds_take_from(loop, &other, 100);
    for (int k = 0; k < 8; k++) {
        mine[k] = fds_file(k);
    }
    int fds = fds_total(loop);
    CHECK(nkt_spare_descriptors(3));
    fds_raw_send(peer, "!!!!!!!!", 8, mine, 8);
    SUP_UNTIL(loop, t.closes == 1);
    CHECK(nkt_spare_descriptors(-1));
    CHECK_ERR(t.info.code, NETKIT_E_TRUNCATED);
    CHECK(strstr(t.info.text, "descriptors") != NULL);
    CHECK_EQ(t.marks, 0);
    CHECK_EQ(fds_total(loop), fds - 1);
    fds_raw_send(second, "!!!!!!!!", 8, mine, 8);
    SUP_UNTIL(loop, other.marks == 8);
    CHECK_EQ(fds_total(loop), fds - 1);
    for (int k = 0; k < 8; k++) {
        fds_close(mine[k]);
    }
    CHECK_EQ(close(peer), 0);
    CHECK_EQ(close(second), 0);
    nkt_loop_done(loop);
}

/* X-04 MB04: no memory for the queue of those that came: the conn ends, and they are closed. */
NKT_LOOP_TEST(fds_without_memory) {
    netkit_loop *loop = nkt_loop();
    fds_taker t;
    uintptr_t mine = fds_file(0);
    int peer = fds_take_from(loop, &t, 100);
    int fds = fds_total(loop);
    fds_raw_send(peer, "!", 1, &mine, 1);
    nkt_alloc_fail_at(1, true);
    SUP_UNTIL(loop, t.closes == 1);
    nkt_alloc_fail_at(0, false);
    CHECK_ERR(t.info.code, NETKIT_E_NOMEM);
    CHECK_EQ(fds_total(loop), fds - 1);
    fds_close(mine);
    CHECK_EQ(close(peer), 0);
    nkt_loop_done(loop);
}

/* IO11 SK30 UX07: two conns of one loop over a path: descriptors sent before it is connected go
 * first; both know who the other is. */
NKT_LOOP_TEST(fds_between_conns) {
    netkit_loop *loop = nkt_loop();
    char path[160], address[200];
    netkit_listen_desc listen;
    netkit_connect_desc connect;
    netkit_credentials who;
    netkit_conn client;
    fds_taker t;
    sup_end end;
    uintptr_t file;
    nkt_temp_path(path, sizeof(path));
    snprintf(address, sizeof(address), "unix:%s", path);
    memset(&listen, 0, sizeof(listen));
    memset(&t, 0, sizeof(t));
    t.at_most = SIZE_MAX;
    listen.address = address;
    listen.handler.on_open = fds_on_open;
    listen.handler.on_data = fds_on_data;
    listen.handler.on_eof = fds_on_eof;
    listen.handler.on_close = fds_on_close;
    listen.conn.fds_max = 10;
    listen.user = &t;
    CHECK_OK(netkit_listen(loop, &listen, NULL));
    sup_end_init(&end);
    connect = sup_connect_desc(address, &end);
    int fds = fds_total(loop);
    CHECK_OK(netkit_connect(loop, &connect, &client));
    for (int k = 0; k < 5; k++) {
        file = fds_file(k);
        CHECK_OK(netkit_conn_send_fds(loop, client, "!", 1, &file, 1));
        fds_close(file);
    }
    SUP_UNTIL(loop, t.marks == 5);
    CHECK_OK(netkit_conn_credentials(loop, t.conn, &who));
    CHECK(who.pid == getpid() || who.pid == -1);
    CHECK_EQ(who.uid, geteuid());
    CHECK_OK(netkit_conn_credentials(loop, client, &who));
    CHECK_EQ(who.gid, getegid());
    CHECK_ERR(netkit_conn_credentials(loop, client, NULL), NETKIT_E_INVALID);
    CHECK_OK(netkit_conn_close(loop, client));
    SUP_UNTIL(loop, t.closes == 1 && end.closes == 1);
    sup_settle(loop);
    CHECK_ERR(netkit_conn_credentials(loop, client, &who), NETKIT_E_STALE);
    CHECK(who.pid == -1 && who.uid == -1 && who.gid == -1);
    CHECK_EQ(fds_total(loop), fds);
    sup_peer peer = sup_open_default(loop, &end);
    CHECK_ERR(netkit_conn_credentials(loop, end.conn, &who), NETKIT_E_NOSYS);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

/* IO11 C8: a puller takes descriptors when it has fetched the bytes. */
NKT_LOOP_TEST(fds_are_pulled) {
    netkit_loop_desc loop_desc;
    netkit_adopt_desc desc;
    netkit_event event;
    netkit_conn conn;
    uintptr_t file = fds_file(9), fd = 0;
    int pair[2], taken = 0;
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.pull = true;
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    memset(&desc, 0, sizeof(desc));
    desc.socket = fds_wrap(pair[0]);
    desc.conn.fds_max = 3;
    CHECK_OK(netkit_adopt(loop, &desc, &conn));
    fds_raw_send(pair[1], "a", 1, &file, 1);
    SUP_UNTIL_DOING(loop, taken == 1) {
        while (netkit_loop_next(loop, &event) > 0) {
            if (event.type == NETKIT_EVENT_DATA) {
                CHECK_OK(netkit_conn_take_fd(loop, event.conn, &fd));
                CHECK_EQ(fds_which(fd), 9);
                fds_close(fd);
                taken++;
            }
        }
    }
    fds_close(file);
    CHECK_EQ(close(pair[1]), 0);
    nkt_loop_done(loop);
}

#else

/* IO10 X-04: where descriptors cannot be handed over that is said, and nothing is sent. */
NKT_LOOP_TEST(fds_are_not_to_be_had) {
    netkit_loop *loop = nkt_loop();
    uintptr_t fd;
    sup_end end;
    sup_peer peer = sup_open_default(loop, &end);
    char byte;
    fd = (uintptr_t)peer.fd;
    CHECK_ERR(netkit_conn_send_fds(loop, end.conn, "x", 1, &fd, 1), NETKIT_E_NOSYS);
    CHECK(netkit_conn_take_fd(loop, end.conn, &fd) < 0);
    sup_settle(loop);
    CHECK(recv(peer.fd, &byte, 1, 0) < 0 && errno == EAGAIN);
    CHECK_EQ(end.closes, 0);
    sup_peer_close(&peer);
    nkt_loop_done(loop);
}

#endif /* NKI_POSIX */
