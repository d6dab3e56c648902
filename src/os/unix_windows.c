/* Unix sockets on Windows 10 and later: their files, and who is at the other end.
 *
 * Streams only, paths only. A system without them says so when a socket is opened
 * (WSAEAFNOSUPPORT). The file is a reparse point of a kind of its own; which one a socket made is
 * known by volume and index, and no call here follows it. Permissions are those of its folder.
 * Whether a file is left over is asked by connecting a stream: where nobody listens that is
 * refused. A server between bind and listen refuses, too, and one that is alive finds a stranger
 * that is gone in its backlog: there is no better question here. */

#if NKI_WINDOWS

#define NKI_SIO_AF_UNIX_GETPEERPID _WSAIOR(IOC_VENDOR, 256)
#define NKI_REPARSE_AF_UNIX 0x80000023u

/* The path of an address as the system's calls want it. */
typedef struct nki_path {
    wchar_t text[NETKIT_UNIX_PATH_MAX + 1];
} nki_path;

/* What is known of a file. */
typedef struct nki_path_info {
    uint64_t device;
    uint64_t inode;
    uint64_t created;
    bool is_socket;
} nki_path_info;

static bool nki_path_of(nki_path *out, const netkit_addr *addr) {
    memset(out, 0, sizeof *out);
    if (addr->family != NETKIT_AF_UNIX || addr->is_abstract || addr->path_len == 0 ||
        addr->path_len > NETKIT_UNIX_PATH_MAX) {
        return false;
    }
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, addr->path, addr->path_len, out->text,
                               NETKIT_UNIX_PATH_MAX) > 0;
}

static int nki_path_look(const nki_path *path, nki_path_info *out) {
    BY_HANDLE_FILE_INFORMATION info;
    FILE_ATTRIBUTE_TAG_INFO tag;
    memset(out, 0, sizeof *out);
    HANDLE file = NKI_SYS_open(path->text, FILE_READ_ATTRIBUTES,
                               FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS);
    if (file == INVALID_HANDLE_VALUE) {
        return nki_os_error();
    }
    bool is_known = NKI_SYS_file_id(file, &info) && NKI_SYS_file_tag(file, &tag);
    int rc = is_known ? (int)NETKIT_OK : nki_os_error();
    nki_os_abandon_file((uintptr_t)file);
    if (is_known) {
        out->device = info.dwVolumeSerialNumber;
        out->inode = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
        out->created =
            (uint64_t)info.ftCreationTime.dwHighDateTime << 32 | info.ftCreationTime.dwLowDateTime;
        out->is_socket = (tag.FileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0 &&
                         tag.ReparseTag == NKI_REPARSE_AF_UNIX;
    }
    return rc;
}

static int nki_path_remove(const nki_path *path) {
    return NKI_SYS_unlink(path->text) ? NETKIT_OK : nki_os_error();
}

/* ---- left over? ---- */

static int nki_unix_in_use(void) {
    return nki_os_fail(WSAEADDRINUSE);
}

/* NETKIT_OK: somebody listens there; NETKIT_E_REFUSED: nobody does; else it cannot be told. */
static int nki_unix_probe(const netkit_addr *addr) {
    uintptr_t s;
    int rc = nki_os_socket(NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, false, &s);
    if (rc == NETKIT_OK) {
        rc = nki_os_connect(s, addr);
        rc = rc == NETKIT_E_AGAIN ? (int)NETKIT_OK : rc;
        nki_os_abandon(s);
    }
    return rc;
}

/* Remove a socket's file that nobody has bound. NETKIT_OK: the path is free. */
static int nki_unix_clear(const nki_path *path, const netkit_addr *addr) {
    nki_path_info before;
    nki_path_info now;
    int rc = nki_path_look(path, &before);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    rc = before.is_socket ? nki_unix_probe(addr) : (int)NETKIT_OK;
    if (rc != NETKIT_E_REFUSED) {
        return rc == NETKIT_OK ? nki_unix_in_use() : rc;
    }
    rc = nki_path_look(path, &now);
    if (rc != NETKIT_OK) {
        return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
    }
    /* Somebody may have done the same meanwhile. */
    if (before.device != now.device || before.inode != now.inode || before.created != now.created) {
        return nki_unix_in_use();
    }
    rc = nki_path_remove(path);
    return rc == NETKIT_E_NOTFOUND ? (int)NETKIT_OK : rc;
}

/* ---- binding ---- */

/* When the system does not say which file was made, it is left alone for ever. */
static void nki_unix_made(const nki_path *path, const netkit_addr *addr, netkit_unix_file *file) {
    nki_path_info info;
    if (nki_path_look(path, &info) == NETKIT_OK && info.is_socket) {
        file->device = info.device;
        file->inode = info.inode;
        file->addr = *addr;
    }
}

static int nki_os_bind_unix(uintptr_t s, const netkit_addr *addr, int flags, uint32_t mode,
                            netkit_unix_file *file) {
    int plain = flags & ~NETKIT_SOCKET_REPLACE;
    nki_path path;
    memset(file, 0, sizeof *file);
    if (!nki_path_of(&path, addr)) {
        return nki_os_bind(s, addr, plain);
    }
    if (mode != 0) {
        return NETKIT_E_NOSYS;
    }
    int rc = nki_os_bind(s, addr, plain);
    if (rc == NETKIT_E_ADDRINUSE && plain != flags) {
        rc = nki_unix_clear(&path, addr);
        rc = rc == NETKIT_OK ? nki_os_bind(s, addr, plain) : rc;
    }
    if (rc == NETKIT_OK) {
        nki_unix_made(&path, addr, file);
    }
    return rc;
}

static int nki_os_unlink_unix(const netkit_unix_file *file) {
    nki_path path;
    nki_path_info info;
    if ((file->device == 0 && file->inode == 0) || !nki_path_of(&path, &file->addr)) {
        return NETKIT_OK;
    }
    int rc = nki_path_look(&path, &info);
    if (rc != NETKIT_OK) {
        return rc;
    }
    bool is_ours = info.is_socket && info.device == file->device && info.inode == file->inode;
    return is_ours ? nki_path_remove(&path) : (int)NETKIT_E_STALE;
}

/* On the way out of a failure, whose code is kept. */
static void nki_os_undo_unix(netkit_unix_file *file) {
    int os_code = nki_os_code();
    (void)nki_os_unlink_unix(file);
    memset(file, 0, sizeof *file);
    WSASetLastError(os_code);
}

/* The user's own. Its name ends in a backslash. */
static int nki_os_temp_folder(char *out, size_t size) {
    wchar_t wide[MAX_PATH + 2];
    DWORD len = NKI_SYS_temp_folder(wide, MAX_PATH + 1);
    if (len == 0) {
        return nki_os_error();
    }
    if (len > MAX_PATH ||
        WideCharToMultiByte(CP_UTF8, 0, wide, (int)len + 1, out, (int)size, NULL, NULL) == 0) {
        return NETKIT_E_TOOBIG;
    }
    return NETKIT_OK;
}

/* ---- who ---- */

/* The process alone: users are no numbers here. */
static int nki_os_credentials(uintptr_t s, netkit_credentials *out) {
    int family;
    ULONG pid = 0;
    DWORD got = 0;
    out->pid = out->uid = out->gid = -1;
    int rc = nki_os_family(s, &family);
    if (rc == NETKIT_OK && family != NETKIT_AF_UNIX) {
        rc = NETKIT_E_NOSYS;
    }
    if (rc == NETKIT_OK && NKI_SYS_control(nki_os_fd(s), NKI_SIO_AF_UNIX_GETPEERPID, NULL, 0, &pid,
                                           (DWORD)sizeof pid, &got) != 0) {
        rc = nki_os_error();
    }
    if (rc == NETKIT_OK) {
        out->pid = (int64_t)pid;
    }
    return rc;
}

#endif /* NKI_WINDOWS */
