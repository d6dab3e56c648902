/* Unix sockets and their files: what may be replaced, permissions, removal, who is at the other
 * end, addresses nobody has. */

#if NKI_POSIX

static netkit_addr path_addr(const char *path) {
    netkit_addr addr;
    CHECK_OK(netkit_addr_from_path(&addr, path, strlen(path), false));
    return addr;
}

static netkit_addr path_fresh(char *path, size_t size) {
    nkt_temp_path(path, size);
    return path_addr(path);
}

static netkit_socket path_open(int type) {
    netkit_socket s;
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_UNIX, type, 0));
    return s;
}

/* What is at a path: its inode, 0 = nothing. */
static uint64_t path_inode(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static unsigned path_mode(const char *path) {
    struct stat st;
    CHECK_EQ(lstat(path, &st), 0);
    return (unsigned)st.st_mode & 0777u;
}

/* A socket's file with nobody behind it. */
static void path_leave(const char *path, int type) {
    netkit_addr at = path_addr(path);
    netkit_socket s = path_open(type);
    CHECK_OK(netkit_socket_bind(s, &at, 0));
    CHECK_OK(netkit_socket_close(&s));
    CHECK(path_inode(path) != 0);
}

static int path_try_listen(const char *path, int flags) {
    netkit_addr at = path_addr(path);
    netkit_socket s;
    int rc = netkit_socket_listen_on(&s, &at, flags, 0);
    CHECK_OK(netkit_socket_close(&s));
    return rc;
}

/* ---- replacing --------------------------------------------------------------- */

/* UX04 X-03 SD22: a file that a socket left behind is replaced when asked for, and only then,
 * whatever the type of the socket was and is. */
NKT_TEST(path_left_over_is_replaced) {
    char path[160];
    const int types[] = {NETKIT_SOCK_STREAM, NETKIT_SOCK_DGRAM};
    for (int i = 0; i < 4; i++) {
        netkit_addr at = path_fresh(path, sizeof(path)), real;
        path_leave(path, types[i % 2]);
        netkit_socket s = path_open(types[i / 2]);
        CHECK_ERR(netkit_socket_bind(s, &at, 0), NETKIT_E_ADDRINUSE);
        CHECK_OK(netkit_socket_bind(s, &at, NETKIT_SOCKET_REPLACE));
        CHECK_OK(netkit_socket_local(s, &real));
        CHECK(netkit_addr_equal(&real, &at));
        CHECK_OK(netkit_socket_close(&s));
    }
    path_fresh(path, sizeof(path));
    CHECK_OK(path_try_listen(path, NETKIT_SOCKET_REPLACE)); /* nothing there: as ever */
    CHECK_ERR(path_try_listen(path, 0), NETKIT_E_ADDRINUSE);
    CHECK_OK(path_try_listen(path, NETKIT_SOCKET_REPLACE));
}

/* UX04 X-03 SD22: who is alive stays, listening, bound and not yet listening, or taking datagrams,
 * and finds no stranger waiting. */
NKT_TEST(path_alive_is_not_replaced) {
    char path[160];
    for (int i = 0; i < 4; i++) {
        netkit_addr at = path_fresh(path, sizeof(path));
        netkit_socket s = path_open(i == 2 ? NETKIT_SOCK_DGRAM : NETKIT_SOCK_STREAM), other;
        CHECK_OK(netkit_socket_bind(s, &at, 0));
        if (i == 0 || i == 3) {
            CHECK_OK(netkit_socket_listen(s, i == 3 ? 1 : 0));
        }
        uint64_t inode = path_inode(path);
        for (int n = 0; n < 5; n++) {
            CHECK_ERR(path_try_listen(path, NETKIT_SOCKET_REPLACE), NETKIT_E_ADDRINUSE);
            CHECK_EQ(netkit_socket_os_code(), EADDRINUSE);
        }
        CHECK_EQ(path_inode(path), inode);
        if (i == 2) {
            CHECK_ERR(netkit_socket_wait(s, NETKIT_POLL_READ, 0), NETKIT_E_TIMEOUT);
        } else if (i != 1) {
            CHECK_ERR(netkit_socket_accept(s, &other, NULL), NETKIT_E_AGAIN);
        }
        CHECK_OK(netkit_socket_close(&s));
    }
}

/* X-03 UX04: what is no socket stays: files, folders, links to sockets and to nothing. */
NKT_TEST(path_of_others_is_not_replaced) {
    char path[160], target[160];
    int fd;
    path_fresh(path, sizeof(path));
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, "precious", 8), 8);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(path_try_listen(path, NETKIT_SOCKET_REPLACE), NETKIT_E_ADDRINUSE);
    CHECK_EQ(access(path, R_OK), 0);
    path_fresh(path, sizeof(path));
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_ERR(path_try_listen(path, NETKIT_SOCKET_REPLACE), NETKIT_E_ADDRINUSE);
    CHECK_EQ(rmdir(path), 0);
    path_fresh(path, sizeof(path));
    path_fresh(target, sizeof(target));
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(symlink(target, path), 0);
        uint64_t inode = path_inode(path);
        CHECK_ERR(path_try_listen(path, NETKIT_SOCKET_REPLACE), NETKIT_E_ADDRINUSE);
        CHECK_EQ(path_inode(path), inode);
        CHECK_EQ(unlink(path), 0);
        if (i == 0) {
            path_leave(target, NETKIT_SOCK_STREAM); /* the second time it leads to a stale socket */
        }
    }
    CHECK(path_inode(target) != 0);
}

/* UX04: the flag does nothing where there is no file, and is refused by nobody. */
NKT_TEST(path_replace_elsewhere) {
    netkit_addr at;
    netkit_socket s;
    CHECK_OK(netkit_addr_parse(&at, "127.0.0.1:0", NULL));
    CHECK_OK(netkit_socket_listen_on(&s, &at, NETKIT_SOCKET_REPLACE, 0));
    CHECK_OK(netkit_socket_close(&s));
#if defined(__linux__)
    netkit_socket other;
    char name[64];
    int len = snprintf(name, sizeof(name), "nkt-paths-%d", (int)getpid());
    CHECK_OK(netkit_addr_from_path(&at, name, (size_t)len, true));
    CHECK_OK(netkit_socket_listen_on(&s, &at, NETKIT_SOCKET_REPLACE, 0));
    CHECK_ERR(netkit_socket_listen_on(&other, &at, NETKIT_SOCKET_REPLACE, 0), NETKIT_E_ADDRINUSE);
    CHECK_OK(netkit_socket_close(&s));
#endif
}

/* X-03 UX06: listening that fails after binding leaves no file, and takes nothing else away. */
NKT_TEST(path_failure_leaves_nothing) {
    char path[160];
    path_fresh(path, sizeof(path));
    nkt_fault_at("listen", 1, ENOBUFS, false);
    CHECK_ERR(path_try_listen(path, 0), NETKIT_E_NOMEM);
    nkt_fault_clear();
    CHECK_EQ(path_inode(path), 0);
    path_leave(path, NETKIT_SOCK_STREAM);
    nkt_fault_at("unlink", 1, EACCES, false);
    CHECK_ERR(path_try_listen(path, NETKIT_SOCKET_REPLACE), NETKIT_E_ACCESS);
    nkt_fault_clear();
    CHECK(path_inode(path) != 0);
    nkt_fault_at("socket", 2, EMFILE, false); /* that of the question whether it is alive */
    CHECK_ERR(path_try_listen(path, NETKIT_SOCKET_REPLACE), NETKIT_E_MFILE);
    nkt_fault_clear();
    CHECK(path_inode(path) != 0);
    CHECK_OK(path_try_listen(path, NETKIT_SOCKET_REPLACE));
}

/* ---- permissions and removal ---------------------------------------------------- */

/* UX05: the file has the mode asked for, whatever the umask; without one the umask decides. */
NKT_TEST(path_mode_is_set) {
    static const unsigned masks[] = {0, 022, 077, 0777}, modes[] = {0600, 0660, 0777, 0700, 0};
    char path[160];
    for (size_t i = 0; i < 20; i++) {
        netkit_addr at = path_fresh(path, sizeof(path));
        netkit_socket s = path_open(NETKIT_SOCK_STREAM);
        unsigned mask = masks[i / 5], mode = modes[i % 5];
        mode_t old = umask((mode_t)mask);
        CHECK_OK(netkit_socket_bind_unix(s, &at, 0, mode, NULL));
        CHECK_EQ(umask(old), mask); /* it is the process's, and was left alone */
        CHECK_EQ(path_mode(path), mode != 0 ? mode : 0777u & ~mask);
        CHECK_OK(netkit_socket_close(&s));
    }
    netkit_addr at = path_fresh(path, sizeof(path));
    netkit_socket s = path_open(NETKIT_SOCK_STREAM);
    CHECK_ERR(netkit_socket_bind_unix(s, &at, 0, 01777, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_bind_unix(s, &at, NETKIT_SOCKET_V6ONLY, 0, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_socket_bind_unix(s, NULL, 0, 0, NULL), NETKIT_E_INVALID);
    CHECK_EQ(path_inode(path), 0);
    CHECK_OK(netkit_socket_close(&s));
}

#if defined(__linux__)
/* UX05: there is no moment at which the file grants more than asked for: the system makes it so. */
NKT_TEST(path_mode_from_the_start) {
    char path[160];
    netkit_addr at = path_fresh(path, sizeof(path));
    netkit_socket s = path_open(NETKIT_SOCK_STREAM);
    mode_t old = umask(0);
    nkt_calls_reset();
    CHECK_OK(netkit_socket_bind_unix(s, &at, 0, 0640, NULL));
    umask(old);
    CHECK_EQ(path_mode(path), 0640);
    CHECK_EQ(nkt_calls("chmod"), 0);
    CHECK_EQ(nkt_calls("fchmod"), 1);
    CHECK_OK(netkit_socket_close(&s));
}
#endif

/* UX06 X-03: what binding made is removed, and nothing that came to its path since. */
NKT_TEST(path_unlink_own_alone) {
    char path[160], aside[200];
    for (int i = 0; i < 4; i++) {
        netkit_addr at = path_fresh(path, sizeof(path));
        netkit_socket s = path_open(NETKIT_SOCK_STREAM);
        netkit_unix_file file, copy;
        CHECK_OK(netkit_socket_bind_unix(s, &at, 0, 0600, &file));
        CHECK(file.inode == path_inode(path) && netkit_addr_equal(&file.addr, &at));
        copy = file;
        snprintf(aside, sizeof(aside), "%s-aside", path);
        if (i > 0) {
            CHECK_EQ(rename(path, aside), 0);
        }
        if (i == 2) {
            path_leave(path, NETKIT_SOCK_STREAM);
        } else if (i == 3) {
            CHECK_EQ(symlink(aside, path), 0);
        }
        int want = i == 0 ? NETKIT_OK : i == 1 ? NETKIT_E_NOTFOUND : NETKIT_E_STALE;
        CHECK_ERR(netkit_unix_unlink(&file), want);
        CHECK_EQ(path_inode(path) != 0, i > 1);
        CHECK_EQ(path_inode(aside) != 0, i > 0);
        CHECK(file.inode == 0 && file.addr.family == NETKIT_AF_NONE);
        CHECK_OK(netkit_unix_unlink(&file));
        CHECK_EQ(copy.inode != 0, true);
        CHECK_OK(netkit_socket_close(&s));
    }
    CHECK_ERR(netkit_unix_unlink(NULL), NETKIT_E_INVALID);
}

/* UX06: a removal that failed for now can be repeated. */
NKT_TEST(path_unlink_again) {
    char path[160];
    netkit_addr at = path_fresh(path, sizeof(path));
    netkit_socket s = path_open(NETKIT_SOCK_STREAM);
    netkit_unix_file file;
    CHECK_OK(netkit_socket_bind_unix(s, &at, 0, 0, &file));
    nkt_fault_at("unlink", 1, EBUSY, false);
    CHECK_ERR(netkit_unix_unlink(&file), NETKIT_E_BUSY);
    nkt_fault_clear();
    CHECK(path_inode(path) != 0);
    CHECK_OK(netkit_unix_unlink(&file));
    CHECK_EQ(path_inode(path), 0);
    CHECK_OK(netkit_socket_close(&s));
}

/* Z-02 UX04 UX05: each call of replacing, with a mode, fails once and from then on: an error, and
 * then no file of ours is there, nor a descriptor; or all is well. */
NKT_TEST(path_every_call_fails) {
    static const int errors[] = {ENOMEM, EINTR, EACCES};
    char path[160];
    for (int i = 0; i < 6; i++) {
        for (int n = 1, hits = 1; hits > 0; n++) {
            netkit_addr at = path_fresh(path, sizeof(path));
            netkit_unix_file file;
            path_leave(path, NETKIT_SOCK_STREAM);
            uint64_t inode = path_inode(path);
            int fds = nkt_open_fds();
            netkit_socket s = path_open(NETKIT_SOCK_STREAM);
            mode_t old = umask(077);
            nkt_fault_at(NULL, (uint64_t)n, errors[i % 3], i >= 3 && errors[i % 3] != EINTR);
            int rc = netkit_socket_bind_unix(s, &at, NETKIT_SOCKET_REPLACE, 0666, &file);
            hits = (int)nkt_faults();
            nkt_fault_clear();
            umask(old);
            if (rc == NETKIT_OK) {
                CHECK_EQ(path_mode(path), 0666);
                CHECK_EQ(path_inode(path), file.inode);
            } else {
                CHECK(hits > 0 && file.inode == 0);
                CHECK(path_inode(path) == inode || path_inode(path) == 0 || i >= 3);
            }
            CHECK(hits > 0 || rc == NETKIT_OK);
            CHECK_OK(netkit_socket_close(&s));
            CHECK_EQ(nkt_open_fds(), fds);
        }
    }
}

/* ---- who ------------------------------------------------------------------------- */

/* UX07 X-05: both ends of a pair are this process, and know it. */
NKT_TEST(path_credentials_of_a_pair) {
    netkit_socket s[2];
    netkit_credentials c;
    CHECK_OK(netkit_socket_pair(s, NETKIT_SOCK_STREAM, 0));
    for (int i = 0; i < 2; i++) {
        memset(&c, 0, sizeof(c));
        CHECK_OK(netkit_socket_credentials(s[i], &c));
        CHECK(c.pid == getpid() || c.pid == -1);
        CHECK_EQ(c.uid, geteuid());
        CHECK_EQ(c.gid, getegid());
        CHECK_OK(netkit_socket_close(&s[i]));
    }
}

/* What a child sends so that its parent can tell who it is. */
typedef struct path_who {
    pid_t pid;
    uid_t uid;
    gid_t gid;
} path_who;

static void path_child(const netkit_addr *at, bool drops) {
    netkit_socket s;
    path_who who;
    char end;
    if (drops && (setgid(54321) != 0 || setuid(54321) != 0)) {
        _exit(3);
    }
    who.pid = getpid();
    who.uid = geteuid();
    who.gid = getegid();
    bool is_well = netkit_socket_open(&s, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0) == NETKIT_OK &&
                   netkit_socket_connect(s, at, 1000) == NETKIT_OK &&
                   netkit_socket_send_all(s, &who, sizeof(who), 1000, NULL) == NETKIT_OK;
    int rc = is_well ? netkit_socket_recv_all(s, &end, 1, 5000, NULL) : NETKIT_E_IO;
    _exit(rc == NETKIT_E_EOF ? 0 : 2);
}

/* UX07 X-05: a server knows process, user and group of another process that has connected, with
 * other rights than its own. */
NKT_TEST(path_credentials_of_a_process) {
    for (int i = 0; i < 2; i++) {
        netkit_addr at;
        netkit_unix_file file;
        bool drops = i == 1 && geteuid() == 0;
        netkit_socket listener, s;
        netkit_credentials c;
        path_who who;
        int status;
        CHECK_OK(netkit_socket_open(&listener, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0));
        CHECK_OK(netkit_unix_temp_path(&at, NULL)); /* where others may go, too */
        CHECK_OK(netkit_socket_bind_unix(listener, &at, 0, 0666, &file));
        CHECK_OK(netkit_socket_listen(listener, 0));
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            path_child(&at, drops);
        }
        CHECK(netkit_socket_wait(listener, NETKIT_POLL_READ, 5000) > 0);
        CHECK_OK(netkit_socket_accept(listener, &s, NULL));
        CHECK_OK(netkit_socket_recv_all(s, &who, sizeof(who), 5000, NULL));
        CHECK_OK(netkit_socket_credentials(s, &c));
        CHECK_EQ(who.pid, child);
        CHECK(c.pid == child || c.pid == -1);
        CHECK_EQ(c.uid, who.uid);
        CHECK_EQ(c.gid, who.gid);
        CHECK(!drops || c.uid == 54321);
        CHECK_OK(netkit_socket_close(&s));
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK_OK(netkit_unix_unlink(&file));
        CHECK_OK(netkit_socket_close(&listener));
    }
}

/* UX07: who cannot be known is -1 throughout, with a code that says why. */
NKT_TEST(path_credentials_unknown) {
    netkit_socket s, none = {0};
    netkit_credentials c = {1, 2, 3};
    CHECK_ERR(netkit_socket_credentials(none, &c), NETKIT_E_INVALID);
    CHECK(c.pid == -1 && c.uid == -1 && c.gid == -1);
    CHECK_ERR(netkit_socket_credentials(none, NULL), NETKIT_E_INVALID);
    s = path_open(NETKIT_SOCK_STREAM);
    c.pid = 5;
    CHECK_ERR(netkit_socket_credentials(s, &c), NETKIT_E_NOTCONN);
    CHECK(c.pid == -1 && c.uid == -1 && c.gid == -1);
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_open(&s, NETKIT_AF_IPV4, NETKIT_SOCK_STREAM, 0));
    c.uid = 5;
    CHECK_ERR(netkit_socket_credentials(s, &c), NETKIT_E_NOSYS);
    CHECK(c.pid == -1 && c.uid == -1 && c.gid == -1);
    CHECK_OK(netkit_socket_close(&s));
}

/* ---- addresses nobody has --------------------------------------------------------- */

/* UX08: each one is new, in the folder, fits and can be bound; nothing is created. */
NKT_TEST(path_temporary) {
    enum {
        COUNT = 200
    };
    netkit_addr at[COUNT];
    char text[NETKIT_ADDR_TEXT_MAX], want[200], folder[200];
    netkit_socket s;
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(netkit_unix_temp_path(&at[i], nkt_folder));
        for (int k = 0; k < i; k++) {
            CHECK(!netkit_addr_equal(&at[i], &at[k]));
        }
    }
    CHECK(netkit_addr_format(&at[0], text, sizeof(text)) > 0);
    snprintf(want, sizeof(want), "unix:%s/netkit-", nkt_folder);
    CHECK(strncmp(text, want, strlen(want)) == 0);
    CHECK_EQ(path_inode(text + 5), 0);
    CHECK_OK(netkit_socket_listen_on(&s, &at[0], 0, 0));
    CHECK(path_inode(text + 5) != 0);
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_unix_temp_path(&at[0], NULL));
    CHECK_OK(netkit_addr_format(&at[0], text, sizeof(text)));
    CHECK(strncmp(text, "unix:/tmp/netkit-", 17) == 0);
    CHECK_OK(netkit_unix_temp_path(&at[0], "/x/"));
    CHECK_OK(netkit_addr_format(&at[0], text, sizeof(text)));
    CHECK(strncmp(text, "unix:/x/netkit-", 15) == 0);
    for (size_t len = 60; len < 190; len++) {
        memset(folder, 'f', len);
        folder[len] = '\0';
        int rc = netkit_unix_temp_path(&at[0], folder);
        CHECK(rc == NETKIT_OK || rc == NETKIT_E_TOOBIG);
        CHECK_EQ(rc == NETKIT_OK, len + 24 <= sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
        CHECK_EQ(at[0].family, rc == NETKIT_OK ? NETKIT_AF_UNIX : NETKIT_AF_NONE);
    }
    nkt_fault_at("getrandom", 1, ENOSYS, true);
    nkt_fault_at("open", 1, ENOENT, true);
    CHECK_ERR(netkit_unix_temp_path(&at[0], NULL), NETKIT_E_NOTFOUND);
    nkt_fault_clear();
    CHECK_EQ(at[0].family, NETKIT_AF_NONE);
    CHECK_ERR(netkit_unix_temp_path(NULL, NULL), NETKIT_E_INVALID);
}

#if defined(__linux__)
/* X-02 UX03 SD21: binding without a name takes one of the system's choice, which others reach. */
NKT_TEST(path_chosen_by_the_system) {
    netkit_addr none, at;
    netkit_socket listener, s, accepted;
    memset(&none, 0, sizeof(none));
    none.family = NETKIT_AF_UNIX;
    CHECK_OK(netkit_socket_listen_on(&listener, &none, 0, 0));
    CHECK_OK(netkit_socket_local(listener, &at));
    CHECK(at.is_abstract && at.path_len == 5);
    s = path_open(NETKIT_SOCK_STREAM);
    CHECK_OK(netkit_socket_connect(s, &at, 1000));
    CHECK_OK(netkit_socket_accept(listener, &accepted, NULL));
    CHECK_OK(netkit_socket_close(&s));
    CHECK_OK(netkit_socket_close(&accepted));
    CHECK_OK(netkit_socket_close(&listener));
}
#endif

#endif /* NKI_POSIX */
