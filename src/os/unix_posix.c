/* Unix sockets on POSIX: their files, and who is at the other end.
 *
 * Whether a socket's file is left over is asked by connecting a socket of another type, datagrams:
 * a file that no socket is bound to refuses (ECONNREFUSED), a socket of streams that is alive says
 * EPROTOTYPE, listening already or not yet, and one of datagrams takes it. So a server between
 * bind and listen is not taken for dead, and one that is alive finds no stranger in its backlog
 * (Linux unix_find_bsd, the BSDs' unp_connectat). Where it cannot be told nothing is removed.
 * Which file a socket made is known by device and inode. The system keeps a file's inode for as
 * long as the socket is bound to it, so until it is closed no other file can have that number.
 * No call here follows a symbolic link in the last place of a path. */

#if NKI_POSIX

#if NKI_APPLE
#define NKI_CHANGED(st) (st).st_ctimespec
#else
#define NKI_CHANGED(st) (st).st_ctim
#endif

/* The path of an address as the system's calls want it. */
typedef struct nki_path {
    char text[NETKIT_UNIX_PATH_MAX + 1];
} nki_path;

static bool nki_path_of(nki_path *out, const netkit_addr *addr) {
    memset(out, 0, sizeof *out);
    if (addr->family != NETKIT_AF_UNIX || addr->is_abstract || addr->path_len == 0 ||
        addr->path_len > NETKIT_UNIX_PATH_MAX) {
        return false;
    }
    memcpy(out->text, addr->path, addr->path_len);
    return true;
}

static int nki_path_look(const nki_path *path, struct stat *st) {
    int rc;
    do {
        rc = NKI_SYS_lstat(path->text, st);
    } while (rc != 0 && errno == EINTR);
    return rc != 0 ? nki_os_error() : NETKIT_OK;
}

static bool nki_path_is_same(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool nki_path_is_unchanged(const struct stat *a, const struct stat *b) {
    return nki_path_is_same(a, b) && NKI_CHANGED(*a).tv_sec == NKI_CHANGED(*b).tv_sec &&
           NKI_CHANGED(*a).tv_nsec == NKI_CHANGED(*b).tv_nsec;
}

/* ---- left over? ---- */

static int nki_unix_in_use(void) {
    errno = EADDRINUSE;
    return NETKIT_E_ADDRINUSE;
}

/* NETKIT_OK: a socket is bound there; NETKIT_E_REFUSED: none is; else it cannot be told. */
static int nki_unix_probe(const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    uintptr_t s;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc == NETKIT_OK) {
        rc = nki_os_socket(NETKIT_AF_UNIX, NETKIT_SOCK_DGRAM, false, &s);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    do {
        rc = NKI_SYS_connect(nki_os_fd(s), (const struct sockaddr *)(const void *)&sa, len);
    } while (rc != 0 && errno == EINTR);
    /* EPERM: one of datagrams that talks to another peer alone. */
    bool is_alive = rc == 0 || errno == EPROTOTYPE || errno == EPERM;
    rc = is_alive ? (int)NETKIT_OK : nki_os_error();
    nki_os_abandon(s);
    return rc;
}

/* Remove a socket's file that nobody has bound. NETKIT_OK: the path is free. */
static int nki_unix_clear(const nki_path *path, const netkit_addr *addr) {
    struct stat before;
    struct stat now;
    int rc = nki_path_look(path, &before);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    rc = S_ISSOCK(before.st_mode) ? nki_unix_probe(addr) : (int)NETKIT_OK;
    if (rc != NETKIT_E_REFUSED) {
        return rc == NETKIT_OK ? nki_unix_in_use() : rc;
    }
    rc = nki_path_look(path, &now);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    /* Somebody may have done the same meanwhile, and been given the same inode again. */
    if (!nki_path_is_unchanged(&before, &now)) {
        return nki_unix_in_use();
    }
    rc = NKI_SYS_unlink(path->text) != 0 ? nki_os_error() : (int)NETKIT_OK;
    return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
}

/* ---- mode ---- */

/* Permissions that the umask took away are given back. By way of a descriptor on Linux, as chmod
 * follows links; the BSDs have a call that does not. */
static int nki_unix_widen(const nki_path *path, const struct stat *st, uint32_t mode) {
#if NKI_LINUX
    struct stat opened;
    int fd;
    do {
        fd = NKI_SYS_open(path->text, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return nki_os_error();
    }
    int rc = NKI_SYS_fstat(fd, &opened) != 0 ? nki_os_error() : (int)NETKIT_OK;
    if (rc == NETKIT_OK && !nki_path_is_same(st, &opened)) {
        rc = NETKIT_E_STALE;
    }
    if (rc == NETKIT_OK) {
        char link[32];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        rc = NKI_SYS_chmod(link, (mode_t)mode) != 0 ? nki_os_error() : (int)NETKIT_OK;
        rc = rc == NETKIT_E_NOTFOUND ? (int)NETKIT_E_NOSYS : rc; /* no /proc here */
    }
    nki_os_abandon((uintptr_t)fd);
    return rc;
#else
    NKI_UNUSED(st);
    return NKI_SYS_lchmod(path->text, (mode_t)mode) != 0 ? nki_os_error() : NETKIT_OK;
#endif
}

/* Until listen nobody can connect, so what is granted late is granted in time; what is denied must
 * be denied from the start only where the file is made with more than that: Linux makes it with
 * the mode of the socket, less the umask (unix_bind_bsd). */
static int nki_unix_narrow(uintptr_t s, uint32_t mode) {
#if NKI_LINUX
    return NKI_SYS_fchmod(nki_os_fd(s), (mode_t)mode) != 0 ? nki_os_error() : NETKIT_OK;
#else
    NKI_UNUSED(s);
    NKI_UNUSED(mode);
    return NETKIT_OK;
#endif
}

/* ---- binding ---- */

static int nki_unix_bind(uintptr_t s, const netkit_addr *addr, const nki_path *path, int flags) {
    struct sockaddr_storage sa;
    socklen_t len;
    int rc = nki_sockaddr_from(&sa, &len, addr);
    if (rc != NETKIT_OK) {
        return rc;
    }
    const struct sockaddr *at = (const struct sockaddr *)(const void *)&sa;
    rc = NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : (int)NETKIT_OK;
    if (rc == NETKIT_E_ADDRINUSE && (flags & NETKIT_SOCKET_REPLACE) != 0) {
        rc = nki_unix_clear(path, addr);
        if (rc == NETKIT_OK) {
            rc = NKI_SYS_bind(nki_os_fd(s), at, len) != 0 ? nki_os_error() : (int)NETKIT_OK;
        }
    }
    return rc;
}

/* A socket bound to a path: which file that is, with the right mode. When the system does not say
 * which, its file is left alone for ever. */
static int nki_unix_made(const nki_path *path, const netkit_addr *addr, uint32_t mode,
                         netkit_unix_file *file) {
    struct stat st;
    int rc = nki_path_look(path, &st);
    if (rc != NETKIT_OK) {
        rc = nki_path_look(path, &st); /* so much depends on it that bad luck is tried twice */
    }
    bool is_known = rc == NETKIT_OK && S_ISSOCK(st.st_mode);
    if (is_known) {
        file->device = (uint64_t)st.st_dev;
        file->inode = (uint64_t)st.st_ino;
        file->addr = *addr;
    }
    if (mode == 0) {
        return NETKIT_OK;
    }
    if (is_known && (st.st_mode & 0777) != (mode_t)mode) {
        rc = nki_unix_widen(path, &st, mode);
    }
    return is_known || rc != NETKIT_OK ? rc : (int)NETKIT_E_STALE;
}

static int nki_os_bind_unix(uintptr_t s, const netkit_addr *addr, int flags, uint32_t mode,
                            netkit_unix_file *file) {
    nki_path path;
    memset(file, 0, sizeof *file);
    if (!nki_path_of(&path, addr)) {
        return nki_os_bind(s, addr, flags & ~NETKIT_SOCKET_REPLACE);
    }
    if ((flags & NETKIT_SOCKET_REUSE_PORT) != 0) {
        return NETKIT_E_NOSYS; /* Linux before 6.12 would say yes and mean nothing by it */
    }
    int rc = mode != 0 ? nki_unix_narrow(s, mode) : (int)NETKIT_OK;
    if (rc == NETKIT_OK) {
        rc = nki_unix_bind(s, addr, &path, flags);
    }
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = nki_unix_made(&path, addr, mode, file);
    if (rc != NETKIT_OK) {
        nki_os_undo_unix(file);
    }
    return rc;
}

static int nki_os_unlink_unix(const netkit_unix_file *file) {
    nki_path path;
    struct stat st;
    if ((file->device == 0 && file->inode == 0) || !nki_path_of(&path, &file->addr)) {
        return NETKIT_OK;
    }
    int rc = nki_path_look(&path, &st);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_ours = S_ISSOCK(st.st_mode) && (uint64_t)st.st_dev == file->device &&
                   (uint64_t)st.st_ino == file->inode;
    if (!is_ours) {
        return NETKIT_E_STALE;
    }
    return NKI_SYS_unlink(path.text) != 0 ? nki_os_error() : NETKIT_OK;
}

/* On the way out of a failure, whose code is kept. */
static void nki_os_undo_unix(netkit_unix_file *file) {
    int os_code = errno;
    (void)nki_os_unlink_unix(file);
    memset(file, 0, sizeof *file);
    errno = os_code;
}

static int nki_os_temp_folder(char *out, size_t size) {
    static const char folder[] = "/tmp";
    if (size < sizeof folder) {
        return NETKIT_E_TOOBIG;
    }
    memcpy(out, folder, sizeof folder);
    return NETKIT_OK;
}

/* ---- who ---- */

#if NKI_LINUX
/* A process in a namespace we cannot see has the number 0; without a peer the user is -1. */
static netkit_credentials nki_os_credentials_of(const struct ucred *who) {
    netkit_credentials c;
    c.pid = who->pid > 0 ? (int64_t)who->pid : -1;
    c.uid = who->uid != (uid_t)-1 ? (int64_t)who->uid : -1;
    c.gid = who->gid != (gid_t)-1 ? (int64_t)who->gid : -1;
    return c;
}

static int nki_os_ask_credentials(int fd, netkit_credentials *out) {
    struct ucred who;
    socklen_t len = (socklen_t)sizeof who;
    memset(&who, 0xFF, sizeof who);
    if (NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) != 0) {
        return nki_os_error();
    }
    *out = nki_os_credentials_of(&who);
    return out->uid < 0 && out->pid < 0 ? (int)NETKIT_E_NOTCONN : (int)NETKIT_OK;
}
#else
/* The process, where there is a way to ask for it. */
static int64_t nki_os_peer_process(int fd) {
#if defined(LOCAL_PEERPID)
    pid_t pid = -1;
    socklen_t len = (socklen_t)sizeof pid;
    int rc = NKI_SYS_getsockopt(fd, 0 /* SOL_LOCAL */, LOCAL_PEERPID, &pid, &len);
    return rc == 0 && pid > 0 ? (int64_t)pid : -1;
#elif defined(__OpenBSD__)
    struct sockpeercred who;
    socklen_t len = (socklen_t)sizeof who;
    int rc = NKI_SYS_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len);
    return rc == 0 ? (int64_t)who.pid : -1;
#else
    NKI_UNUSED(fd);
    return -1;
#endif
}

static int nki_os_ask_credentials(int fd, netkit_credentials *out) {
    uid_t uid;
    gid_t gid;
    if (NKI_SYS_getpeereid(fd, &uid, &gid) != 0) {
        return nki_os_error();
    }
    out->pid = nki_os_peer_process(fd);
    out->uid = (int64_t)uid;
    out->gid = (int64_t)gid;
    return NETKIT_OK;
}
#endif

static int nki_os_credentials(uintptr_t s, netkit_credentials *out) {
    netkit_addr self;
    out->pid = out->uid = out->gid = -1;
    int rc = nki_os_local(s, &self);
    if (rc == NETKIT_OK && self.family != NETKIT_AF_UNIX) {
        rc = NETKIT_E_NOSYS;
    }
    return rc != NETKIT_OK ? rc : nki_os_ask_credentials(nki_os_fd(s), out);
}

/* ---- duplicates ---- */

static int nki_os_dup(uintptr_t native, uintptr_t *out) {
    int fd = NKI_SYS_fcntl(nki_os_fd(native), F_DUPFD_CLOEXEC, 0);
    *out = fd < 0 ? UINTPTR_MAX : (uintptr_t)fd;
    return fd < 0 ? nki_os_error() : NETKIT_OK;
}

static int nki_os_dup_file(uintptr_t file, uintptr_t *out) {
    return nki_os_dup(file, out);
}

#endif /* NKI_POSIX */
