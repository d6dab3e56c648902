/* Files the ring knows by number, so that an operation need not look its descriptor up: on request
 * only, as it costs a conn two calls, and spares a bare ring 0.7 to 0.9 % of a small message, but
 * netkit's nothing that shows (0.98 to 1.01 of the rate, Linux 6.18, loopback; make bench
 * ROW=tried).
 *
 * The table holds each file as a descriptor does: close(2) ends a connection only when its place
 * here is empty, too. Before Linux 6.13 a place that was emptied kept its file until all operations
 * on other files that were older had ended, which those that go on never do; so no table there. */

#if NKI_HAS_URING

typedef struct nki_files {
    int32_t *fds; /* of each slot, -1 = none; NULL = no table */
    uint32_t count;
} nki_files;

static void nki_files_free(nki_files *f, const netkit_allocator *a) {
    nki_free(a, f->fds, f->count * sizeof *f->fds);
    f->fds = NULL;
    f->count = 0;
}

/* Hand the table to a ring that has none. Returns 0, or an errno and there is no table any more. */
static int nki_files_register(nki_files *f, const nki_uring *r, const netkit_allocator *a) {
    if (f->fds == NULL ||
        NKI_SYS_io_uring_register(r->fd, NKI_URING_REGISTER_FILES, f->fds, f->count) == 0) {
        return 0;
    }
    int os_code = errno;
    nki_files_free(f, a);
    return os_code;
}

/* Before its ring is closed: that, and with it the table, ends only with the last descriptor of it,
 * which a forked child may have. False: there is none, or the ring is another thread's. */
static bool nki_files_withdraw(const nki_files *f, const nki_uring *r) {
    return f->fds != NULL &&
           NKI_SYS_io_uring_register(r->fd, NKI_URING_UNREGISTER_FILES, NULL, 0u) == 0;
}

/* The kernel takes no more places than the process may have descriptors: EMFILE. */
static void nki_files_open(nki_files *f, const nki_uring *r, uint32_t count,
                           const netkit_allocator *a) {
    int os_code = EMFILE;
    for (; count != 0 && os_code == EMFILE; count /= 2) {
        f->fds = (int32_t *)nki_alloc(a, count * sizeof *f->fds);
        if (f->fds == NULL) {
            return;
        }
        f->count = count;
        memset(f->fds, 0xFF, count * sizeof *f->fds);
        os_code = nki_files_register(f, r, a);
    }
}

static bool nki_files_has(const nki_files *f, uint32_t slot) {
    return slot < f->count && f->fds[slot] >= 0;
}

static bool nki_files_is_used(const nki_files *f) {
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->fds[i] >= 0) {
            return true;
        }
    }
    return false;
}

static bool nki_files_set(const nki_files *f, const nki_uring *r, uint32_t slot, int32_t fd) {
    nki_uring_update update;
    f->fds[slot] = fd;
    update.offset = slot;
    update.reserved = 0;
    update.data = (uint64_t)(uintptr_t)&f->fds[slot];
    return NKI_SYS_io_uring_register(r->fd, NKI_URING_UPDATE_FILES, &update, 1u) == 1;
}

static void nki_files_add(const nki_files *f, const nki_uring *r, uint32_t slot, int32_t fd) {
    if (slot < f->count && !nki_files_set(f, r, slot, fd)) {
        f->fds[slot] = -1;
    }
}

/* Before its descriptor is closed. A place that cannot be emptied holds the file until another one
 * takes it, or the ring ends; the peer is told at least. */
static void nki_files_drop(const nki_files *f, const nki_uring *r, uint32_t slot) {
    if (nki_files_has(f, slot)) {
        int fd = f->fds[slot];
        if (r->fd >= 0 && !nki_files_set(f, r, slot, -1)) {
            (void)NKI_SYS_shutdown(fd, SHUT_RDWR);
        }
    }
}

#endif /* NKI_HAS_URING */
