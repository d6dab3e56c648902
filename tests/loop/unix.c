/* Conns over paths and abstract names. */
#include "support.h"
#include "support_loop.h"

static void unix_skip_without(void) {
    if (!nkt_has_unix()) {
        SKIP("this system has no unix sockets");
    }
}

/* A path as long as the system takes: "unix:" and 107 bytes. */
static void unix_long_path(char *out, size_t size, size_t len) {
    size_t at;
    nkt_temp_path(out, size);
    at = strlen(out);
    CHECK(at + 2 < len && len < size);
    out[at++] = '-';
    memset(out + at, 'p', len - at);
    out[len] = '\0';
}

static void unix_check_echo(netkit_loop *loop, const char *address, uint64_t len) {
    sup_end server, client;
    netkit_listen_desc listen_desc;
    netkit_connect_desc desc;
    netkit_listener listener;
    netkit_handler handler = sup_handler();
    netkit_addr want, got;
    unsigned char *data = (unsigned char *)malloc((size_t)len);
    sup_end_init(&server);
    sup_end_init(&client);
    server.is_echo = true;
    server.closes_at_eof = true;
    listen_desc = sup_listen_desc(&handler, &server);
    listen_desc.address = address;
    CHECK_OK(netkit_listen(loop, &listen_desc, &listener));
    CHECK_OK(netkit_addr_parse(&want, address, NULL));
    CHECK_OK(netkit_listener_local(loop, listener, &got));
    CHECK(netkit_addr_equal(&want, &got));
    CHECK_EQ(got.path_len, want.path_len);
    desc = sup_connect_desc(address, &client);
    desc.conn.send_max = (uint32_t)len;
    CHECK_OK(netkit_connect(loop, &desc, &client.conn));
    SUP_UNTIL(loop, client.opens == 1 && server.opens == 1);
    CHECK_OK(netkit_conn_remote(loop, client.conn, &got));
    CHECK(netkit_addr_equal(&want, &got));
    CHECK_OK(netkit_conn_local(loop, server.conn, &got));
    CHECK(netkit_addr_equal(&want, &got));
    CHECK_OK(netkit_conn_remote(loop, server.conn, &got));
    CHECK_EQ(got.family, NETKIT_AF_UNIX);
    CHECK_EQ(got.path_len, 0);
    sup_fill(data, (size_t)len, 0);
    CHECK_OK(netkit_conn_send(loop, client.conn, data, (size_t)len));
    CHECK_OK(netkit_conn_shutdown(loop, client.conn));
    SUP_UNTIL(loop, client.eofs == 1);
    CHECK_EQ(client.bytes, len);
    CHECK_OK(netkit_conn_close(loop, client.conn));
    SUP_UNTIL(loop, client.closes == 1 && server.closes == 1);
    CHECK_OK(client.info.code);
    CHECK_OK(server.info.code);
    CHECK_OK(netkit_listener_close(loop, listener));
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 0);
    free(data);
}

/* UX01 T-01 SK30: an echo of 4 MiB over a path, both ends in one loop; addresses tell the path */
NKT_LOOP_TEST(unix_echo_over_a_path) {
    unix_skip_without();
    netkit_loop *loop = nkt_loop();
    char path[160], address[200];
    nkt_temp_path(path, sizeof(path));
    snprintf(address, sizeof(address), "unix:%s", path);
    unix_check_echo(loop, address, 4 << 20);
    nkt_loop_done(loop);
}

/* UX02 SD30 X-01: the longest path works, one byte more is TOOBIG and creates nothing */
NKT_LOOP_TEST(unix_path_lengths) {
    unix_skip_without();
    netkit_loop *loop = nkt_loop();
    char path[200], address[5000];
    sup_end end;
    netkit_handler handler = sup_handler();
    netkit_listen_desc listen_desc;
    netkit_connect_desc connect_desc;
    netkit_conn conn;
    static const size_t lengths[] = {108, 109, 190};
    unix_long_path(path, sizeof(path), 107);
    snprintf(address, sizeof(address), "unix:%s", path);
    unix_check_echo(loop, address, 1000);
    sup_end_init(&end);
    for (int i = 0; i < 4; i++) {
        int fds = nkt_open_fds();
        if (i < 3) {
            unix_long_path(path, sizeof(path), lengths[i]);
            snprintf(address, sizeof(address), "unix:%s", path);
        } else {
            memset(address, 'x', 4100);
            memcpy(address, "unix:/tmp/", 10);
            address[4100] = '\0';
        }
        listen_desc = sup_listen_desc(&handler, &end);
        listen_desc.address = address;
        CHECK_ERR(netkit_listen(loop, &listen_desc, NULL), NETKIT_E_TOOBIG);
        connect_desc = sup_connect_desc(address, &end);
        CHECK_ERR(netkit_connect(loop, &connect_desc, &conn), NETKIT_E_TOOBIG);
        CHECK_EQ(nkt_open_fds(), fds);
        CHECK_EQ(netkit_loop_objects(loop), 0);
        CHECK(i == 3 || access(path, F_OK) != 0);
    }
    sup_settle(loop);
    CHECK_EQ(end.closes, 0);
    nkt_loop_done(loop);
}

#if defined(__linux__)
/* UX03 X-02 SD21: abstract names, with bytes that are no text and with NULs, byte for byte; another
 * program reaches the same name */
NKT_LOOP_TEST(unix_abstract_names) {
    netkit_loop *loop = nkt_loop();
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    struct sockaddr_un un;
    netkit_listener listener;
    char address[100], name[64];
    netkit_addr addr;
    sup_end end;
    int len, fd;
    snprintf(address, sizeof(address), "unix:@netkit-test-%d", (int)getpid());
    unix_check_echo(loop, address, 100000);
    snprintf(address, sizeof(address), "unix:@netkit\\x00\\xff-%d", (int)getpid());
    unix_check_echo(loop, address, 1000);
    len = snprintf(name, sizeof(name), "netkit%cz-%d", 0, (int)getpid());
    CHECK_OK(netkit_addr_from_path(&addr, name, (size_t)len, true));
    sup_end_init(&end);
    end.is_echo = true;
    desc = sup_listen_desc(&handler, &end);
    desc.address = NULL;
    desc.addr = &addr;
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    memset(&un, 0, sizeof(un));
    un.sun_family = AF_UNIX;
    memcpy(un.sun_path + 1, name, (size_t)len);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK_EQ(connect(fd, (const struct sockaddr *)&un,
                     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len)),
             0);
    SUP_UNTIL(loop, end.opens == 1);
    struct sockaddr_un seen;
    socklen_t seen_len = sizeof(seen);
    CHECK_EQ(getpeername(fd, (struct sockaddr *)&seen, &seen_len), 0);
    CHECK_EQ(seen_len, offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    CHECK_MEM(seen.sun_path, un.sun_path, 1 + (size_t)len);
    CHECK_EQ(close(fd), 0);
    SUP_UNTIL(loop, end.eofs == 1);
    nkt_loop_done(loop);
}
#endif

/* T-16 UX01 SD22: a path somebody listens on is in use; a missing folder is an error that creates
 * nothing; a regular file is not taken over, and connecting to it is refused */
NKT_LOOP_TEST(unix_paths_that_cannot_be) {
    unix_skip_without();
    netkit_loop *loop = nkt_loop();
    char path[160], address[200];
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    netkit_connect_desc connect_desc;
    netkit_listener listener;
    sup_end end;
    int fd, code;
    sup_end_init(&end);
    nkt_temp_path(path, sizeof(path));
    snprintf(address, sizeof(address), "unix:%s", path);
    desc = sup_listen_desc(&handler, &end);
    desc.address = address;
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_ADDRINUSE);
    CHECK_EQ(netkit_loop_objects(loop), 1);
    snprintf(address, sizeof(address), "unix:%s-missing/socket", path);
    CHECK(netkit_listen(loop, &desc, NULL) < 0);
    nkt_temp_path(path, sizeof(path));
    snprintf(address, sizeof(address), "unix:%s", path);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, "precious", 8), 8);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_ADDRINUSE);
    CHECK_EQ(access(path, R_OK), 0);
    connect_desc = sup_connect_desc(address, &end);
    code = netkit_connect(loop, &connect_desc, &end.conn);
    if (code == NETKIT_OK) {
        SUP_UNTIL(loop, end.closes == 1);
        code = end.info.code;
    }
    CHECK_ERR(code, NETKIT_E_REFUSED);
    nkt_loop_done(loop);
}

/* UX01 SK22 I3: data split by the system on unix sockets arrives whole: many small sends that wait
 * in it, then the end */
NKT_LOOP_TEST(unix_data_in_pieces) {
    netkit_loop *loop = nkt_loop();
    netkit_adopt_desc desc;
    sup_end end;
    uint64_t at = 0;
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    sup_end_init(&end);
    end.closes_at_eof = true;
    memset(&desc, 0, sizeof(desc));
    desc.handler = sup_handler();
    desc.user = &end;
    desc.socket = netkit_socket_from_native((uintptr_t)fds[0]);
    for (int i = 0; i < 100; i++) {
        unsigned char data[300];
        sup_fill(data, 300, at);
        CHECK_EQ(send(fds[1], data, 1 + (size_t)i * 3 % 300, 0), 1 + i * 3 % 300);
        at += 1 + (uint64_t)i * 3 % 300;
    }
    CHECK_OK(netkit_adopt(loop, &desc, NULL));
    SUP_UNTIL(loop, end.bytes == at);
    CHECK_EQ(close(fds[1]), 0);
    SUP_UNTIL(loop, end.closes == 1);
    CHECK_STR(end.trace, "odec");
    nkt_loop_done(loop);
}

/* ---- the file of a listener ------------------------------------------------------- */

static bool unix_is_there(const char *path) {
    return access(path, F_OK) == 0;
}

/* An address on a fresh path, and a desc for it. */
static netkit_listen_desc unix_listen_desc(char *path, size_t size, char *address, sup_end *end) {
    netkit_handler handler = sup_handler();
    netkit_listen_desc desc;
    nkt_temp_path(path, size);
    snprintf(address, size + 5, "unix:%s", path);
    sup_end_init(end);
    desc = sup_listen_desc(&handler, end);
    desc.address = address;
    return desc;
}

/* A socket's file with nobody behind it. */
static void unix_leave(const char *path) {
    struct sockaddr_un un;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(&un, 0, sizeof(un));
    un.sun_family = AF_UNIX;
    snprintf(un.sun_path, sizeof(un.sun_path), "%.100s", path);
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (const struct sockaddr *)&un, sizeof(un)), 0);
    CHECK_EQ(close(fd), 0);
}

/* UX04 SD22 X-03: a left over file gives way when it is asked for; a listener that is alive does
 * not, and goes on serving. */
NKT_LOOP_TEST(unix_listener_replaces) {
    unix_skip_without();
    netkit_loop *loop = nkt_loop();
    char path[160], address[170];
    netkit_listen_desc desc;
    netkit_connect_desc connect_desc;
    netkit_listener listener;
    sup_end end, client;
    desc = unix_listen_desc(path, sizeof(path), address, &end);
    unix_leave(path);
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_ADDRINUSE);
    desc.unix_replace = true;
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_ADDRINUSE);
    }
    sup_settle(loop);
    CHECK_EQ(end.opens, 0); /* the question whether it is alive is no connection */
    sup_end_init(&client);
    connect_desc = sup_connect_desc(address, &client);
    CHECK_OK(netkit_connect(loop, &connect_desc, NULL));
    SUP_UNTIL(loop, client.opens == 1 && end.opens == 1);
    CHECK_OK(netkit_listener_close(loop, listener));
    CHECK(!unix_is_there(path));
    nkt_loop_done(loop);
}

/* UX06 X-03: the file goes when the listener closes or its loop ends; not when it is to be kept,
 * nor when another has come to its place; no port or abstract name minds. */
NKT_LOOP_TEST(unix_listener_unlinks) {
    unix_skip_without();
    for (int how = 0; how < 5; how++) {
        netkit_loop *loop = nkt_loop();
        char path[160], address[170], aside[170];
        netkit_listen_desc desc;
        netkit_listener listener;
        sup_end end;
        desc = unix_listen_desc(path, sizeof(path), address, &end);
        desc.unix_keep = how == 1;
        desc.unix_replace = true;
        CHECK_OK(netkit_listen(loop, &desc, &listener));
        CHECK(unix_is_there(path));
        snprintf(aside, sizeof(aside), "%s-aside", path);
        if (how >= 2 && how < 4) {
            CHECK_EQ(rename(path, aside), 0);
            unix_leave(path);
        }
        if (how == 3) { /* a successor in its place */
            CHECK_OK(netkit_listen(loop, &desc, NULL));
        }
        if (how != 4) {
            CHECK_OK(netkit_listener_close(loop, listener));
            CHECK_EQ(unix_is_there(path), how != 0);
        }
        CHECK_OK(netkit_listener_close(loop, listener));
        CHECK_EQ(unix_is_there(path), how >= 1 && how < 4);
        nkt_loop_done(loop);
        CHECK_EQ(unix_is_there(path), how == 1 || how == 2);
        CHECK_EQ(unix_is_there(aside), how == 2 || how == 3);
    }
    netkit_loop *loop = nkt_loop();
    char path[160], address[170];
    netkit_listen_desc desc;
    sup_end end;
    desc = unix_listen_desc(path, sizeof(path), address, &end);
    CHECK_OK(netkit_listen(loop, &desc, NULL));
    nkt_loop_done(loop); /* never closed by hand */
    CHECK(!unix_is_there(path));
}

#if NKI_POSIX /* forks, and files with a mode */
/* UX06: a process that was forked off takes nothing away, whatever it does with its copy. */
NKT_LOOP_TEST(unix_listener_of_the_parent) {
    netkit_loop *loop = nkt_loop();
    char path[160], address[170];
    netkit_listen_desc desc;
    netkit_listener listener;
    sup_end end;
    int status;
    desc = unix_listen_desc(path, sizeof(path), address, &end);
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(netkit_listener_close(loop, listener) == NETKIT_OK ? 0 : 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(unix_is_there(path));
    CHECK_OK(netkit_listener_close(loop, listener));
    CHECK(!unix_is_there(path));
    nkt_loop_done(loop);
}

/* UX05 UX06: mode as asked for; a listener that does not come to be leaves no file. */
NKT_LOOP_TEST(unix_listener_mode_and_failure) {
    netkit_loop *loop = nkt_loop();
    char path[160], address[170];
    netkit_listen_desc desc;
    sup_end end;
    struct stat st;
    desc = unix_listen_desc(path, sizeof(path), address, &end);
    desc.unix_mode = 01660;
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_INVALID);
    CHECK(!unix_is_there(path));
    desc.unix_mode = 0626;
    int fds = nkt_open_fds();
    for (int n = 1, fails = 1; fails; n++) {
        nkt_alloc_fail_at((uint64_t)n, false);
        int rc = netkit_listen(loop, &desc, NULL);
        fails = nkt_alloc_faults() != 0;
        nkt_alloc_fail_at(0, false);
        CHECK(!fails || rc == NETKIT_E_NOMEM);
        CHECK_EQ(unix_is_there(path), rc == NETKIT_OK);
        CHECK(rc == NETKIT_OK || nkt_open_fds() == fds);
    }
    CHECK_EQ(lstat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0626);
    desc = unix_listen_desc(path, sizeof(path), address, &end);
    nkt_fault_at("listen", 1, ENOBUFS, false);
    CHECK_ERR(netkit_listen(loop, &desc, NULL), NETKIT_E_NOMEM);
    nkt_fault_clear();
    CHECK(!unix_is_there(path));
    nkt_loop_done(loop);
}
#endif

/* UX06: a file that cannot be removed is logged, and the listener closes all the same. */
NKT_LOOP_TEST(unix_listener_cannot_unlink) {
    unix_skip_without();
    netkit_loop_desc loop_desc;
    char path[160], address[170];
    netkit_listen_desc desc;
    netkit_listener listener;
    sup_end end;
    tl_log log;
    memset(&log, 0, sizeof(log));
    memset(&loop_desc, 0, sizeof(loop_desc));
    loop_desc.logger = tl_logger(&log);
    netkit_loop *loop = nkt_loop_with(&loop_desc);
    desc = unix_listen_desc(path, sizeof(path), address, &end);
    CHECK_OK(netkit_listen(loop, &desc, &listener));
    nkt_fault_at("unlink", 1, EROFS, false);
    CHECK_OK(netkit_listener_close(loop, listener));
    nkt_fault_clear();
    CHECK_EQ(log.lines[NETKIT_LOGID_OS_ERROR], 1);
    CHECK_EQ(log.os_code[NETKIT_LOGID_OS_ERROR], EROFS);
    CHECK(unix_is_there(path));
    SUP_UNTIL(loop, netkit_loop_objects(loop) == 0);
    nkt_loop_done(loop);
}
