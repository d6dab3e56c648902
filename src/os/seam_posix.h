/* The seam on POSIX: every system call the library makes, by name.
 *
 * NKI_FAIL(name) is 0, or in tests a function that counts the call, may set errno
 * and returns true to have it fail. close is special: it must really close.
 * NKI_CLIP(name, len) shortens transfers; the callers of sendmsg and recvmsg ask it for their
 * total.
 * NKI_MASK(name, bits) takes features away that the kernel says it has. */

#if NKI_POSIX

#define NKI_SYS_socket(f, t, p) (NKI_FAIL(socket) ? -1 : socket((f), (t), (p)))
#define NKI_SYS_socketpair(f, t, p, out) \
    (NKI_FAIL(socketpair) ? -1 : socketpair((f), (t), (p), (out)))
#define NKI_SYS_bind(s, a, n) (NKI_FAIL(bind) ? -1 : bind((s), (a), (n)))
#define NKI_SYS_listen(s, n) (NKI_FAIL(listen) ? -1 : listen((s), (n)))
#define NKI_SYS_connect(s, a, n) (NKI_FAIL(connect) ? -1 : connect((s), (a), (n)))
#if NKI_HAS_SOCK_FLAGS
#define NKI_SYS_accept(s, a, n) \
    (NKI_FAIL(accept) ? -1 : accept4((s), (a), (n), SOCK_NONBLOCK | SOCK_CLOEXEC))
#else
#define NKI_SYS_accept(s, a, n) (NKI_FAIL(accept) ? -1 : accept((s), (a), (n)))
#endif
#define NKI_SYS_recv(s, b, n, f) (NKI_FAIL(recv) ? -1 : recv((s), (b), NKI_CLIP(recv, n), (f)))
#define NKI_SYS_send(s, b, n, f) (NKI_FAIL(send) ? -1 : send((s), (b), NKI_CLIP(send, n), (f)))
/* musl's sendmsg takes 1,024 bytes of control data and no more: 252 descriptors. */
#if NKI_LINUX && !defined(__GLIBC__) && defined(SYS_sendmsg)
#define NKI_SYS_sendmsg(s, m, f) \
    (NKI_FAIL(sendmsg) ? -1 : (ssize_t)syscall(SYS_sendmsg, (s), (m), (f)))
#else
#define NKI_SYS_sendmsg(s, m, f) (NKI_FAIL(sendmsg) ? -1 : sendmsg((s), (m), (f)))
#endif
#define NKI_SYS_recvmsg(s, m, f) (NKI_FAIL(recvmsg) ? -1 : recvmsg((s), (m), (f)))
#if NKI_HAS_MMSG
#define NKI_SYS_recvmmsg(s, m, n, f) \
    (NKI_FAIL(recvmmsg) ? -1 : recvmmsg((s), (m), (unsigned)NKI_CLIP(recvmmsg, n), (f), NULL))
#define NKI_SYS_sendmmsg(s, m, n, f) \
    (NKI_FAIL(sendmmsg) ? -1 : sendmmsg((s), (m), (unsigned)NKI_CLIP(sendmmsg, n), (f)))
#endif
#define NKI_SYS_shutdown(s, how) (NKI_FAIL(shutdown) ? -1 : shutdown((s), (how)))
#define NKI_SYS_close(fd) (close(fd) != 0 || NKI_FAIL(close) ? -1 : 0)
#define NKI_SYS_getsockopt(s, l, o, v, n) \
    (NKI_FAIL(getsockopt) ? -1 : getsockopt((s), (l), (o), (v), (n)))
#define NKI_SYS_setsockopt(s, l, o, v, n) \
    (NKI_FAIL(setsockopt) ? -1 : setsockopt((s), (l), (o), (v), (n)))
#define NKI_SYS_getsockname(s, a, n) (NKI_FAIL(getsockname) ? -1 : getsockname((s), (a), (n)))
#define NKI_SYS_getpeername(s, a, n) (NKI_FAIL(getpeername) ? -1 : getpeername((s), (a), (n)))
#define NKI_SYS_fcntl(fd, cmd, v) (NKI_FAIL(fcntl) ? -1 : fcntl((fd), (cmd), (v)))
#define NKI_SYS_fstat(fd, st) (NKI_FAIL(fstat) ? -1 : fstat((fd), (st)))
#define NKI_SYS_read(fd, b, n) (NKI_FAIL(read) ? -1 : read((fd), (b), (n)))
#define NKI_SYS_write(fd, b, n) (NKI_FAIL(write) ? -1 : write((fd), (b), (n)))
#define NKI_SYS_sigmask(how, set, old) pthread_sigmask((how), (set), (old))
#define NKI_SYS_sigpending(set) sigpending(set)
#define NKI_SYS_sigtimedwait(set, info, time) sigtimedwait((set), (info), (time))
#define NKI_SYS_pread(fd, b, n, at) \
    (NKI_FAIL(pread) ? -1 : NKI_PREAD((fd), (b), NKI_CLIP(pread, n), (at)))
#define NKI_SYS_pipe(fds) (NKI_FAIL(pipe) ? -1 : pipe(fds))
#define NKI_SYS_unlink(path) (NKI_FAIL(unlink) ? -1 : unlink(path))
#define NKI_SYS_lstat(path, st) (NKI_FAIL(lstat) ? -1 : lstat((path), (st)))
#define NKI_SYS_chmod(path, mode) (NKI_FAIL(chmod) ? -1 : chmod((path), (mode)))
#define NKI_SYS_lchmod(path, mode) \
    (NKI_FAIL(lchmod) ? -1 : fchmodat(AT_FDCWD, (path), (mode), AT_SYMLINK_NOFOLLOW))
#define NKI_SYS_fchmod(fd, mode) (NKI_FAIL(fchmod) ? -1 : fchmod((fd), (mode)))
#define NKI_SYS_getpeereid(s, u, g) (NKI_FAIL(getpeereid) ? -1 : getpeereid((s), (u), (g)))
#define NKI_SYS_getpid() ((int)getpid())
#define NKI_SYS_open(path, flags) (NKI_FAIL(open) ? -1 : open((path), (flags)))
#define NKI_SYS_poll(p, n, ms) (NKI_FAIL(poll) ? -1 : poll((p), (n), (ms)))
#define NKI_SYS_clock_gettime(id, t) (NKI_FAIL(clock_gettime) ? -1 : clock_gettime((id), (t)))
#define NKI_SYS_if_nametoindex(name) (NKI_FAIL(if_nametoindex) ? 0u : if_nametoindex(name))

#if NKI_BSD
#define NKI_SYS_getrandom(b, n) (NKI_FAIL(getrandom) ? -1 : (arc4random_buf((b), (n)), (long)(n)))
#elif NKI_LINUX
#define NKI_SYS_getrandom(b, n) \
    (NKI_FAIL(getrandom) ? -1 : syscall(SYS_getrandom, (b), (size_t)(n), 0u))
#endif

/* Offsets of 64 bits also where off_t has 32. */
#if NKI_LINUX && defined(__USE_LARGEFILE64)
#define NKI_PREAD(fd, b, n, at) pread64((fd), (b), (n), (off64_t)(at))
#else
#define NKI_PREAD(fd, b, n, at) pread((fd), (b), (n), (off_t)(at))
#endif
#if NKI_LINUX && defined(SYS_sendfile64)
#define NKI_NR_SENDFILE SYS_sendfile64
#elif NKI_LINUX
#define NKI_NR_SENDFILE SYS_sendfile
#endif
#if NKI_LINUX
#define NKI_SYS_sendfile(s, file, at, n) \
    (NKI_FAIL(sendfile)                  \
         ? -1                            \
         : (ssize_t)syscall(NKI_NR_SENDFILE, (s), (file), (at), (size_t)NKI_CLIP(sendfile, n)))
#elif NKI_APPLE
#define NKI_SYS_sendfile(s, file, at, n, sent) \
    (NKI_FAIL(sendfile)                        \
         ? -1                                  \
         : (*(sent) = (off_t)(n), sendfile((file), (s), (at), (sent), (struct sf_hdtr *)NULL, 0)))
#elif defined(__FreeBSD__)
#define NKI_SYS_sendfile(s, file, at, n, sent) \
    (NKI_FAIL(sendfile) ? -1 : sendfile((file), (s), (at), (n), NULL, (sent), 0))
#endif

#if NKI_LINUX
/* By number, for libcs without the function; -1 is ENOSYS to every kernel. */
#if defined(SYS_epoll_pwait2)
#define NKI_NR_EPOLL_PWAIT2 SYS_epoll_pwait2
#elif defined(__alpha__) || defined(__mips__) || (defined(__x86_64__) && defined(__ILP32__))
#define NKI_NR_EPOLL_PWAIT2 (-1)
#else
#define NKI_NR_EPOLL_PWAIT2 441
#endif
#define NKI_SYS_eventfd(v, f) (NKI_FAIL(eventfd) ? -1 : eventfd((v), (f)))
#define NKI_SYS_epoll_create() (NKI_FAIL(epoll_create) ? -1 : epoll_create1(EPOLL_CLOEXEC))
#define NKI_SYS_epoll_ctl(ep, op, fd, ev) \
    (NKI_FAIL(epoll_ctl) ? -1 : epoll_ctl((ep), (op), (fd), (struct epoll_event *)(void *)(ev)))
#define NKI_SYS_epoll_wait(ep, evs, n, ms) \
    (NKI_FAIL(epoll_wait) ? -1 : epoll_wait((ep), (struct epoll_event *)(evs), (n), (ms)))
#define NKI_SYS_epoll_pwait2(ep, evs, n, ts) \
    (NKI_FAIL(epoll_pwait2)                  \
         ? -1                                \
         : (int)syscall(NKI_NR_EPOLL_PWAIT2, (ep), (evs), (n), (ts), NULL, (size_t)8))
#endif

#if NKI_HAS_KQUEUE
#define NKI_SYS_kqueue() (NKI_FAIL(kqueue) ? -1 : kqueue())
#define NKI_SYS_kevent(kq, evs, n, t) \
    (NKI_FAIL(kevent) ? -1 : kevent((kq), NULL, 0, (evs), (n), (t)))
#define NKI_SYS_kevent_change(kq, evs, n) \
    (NKI_FAIL(kevent_change) ? -1 : kevent((kq), (evs), (n), NULL, 0, NULL))
#define NKI_SYS_kevent_trigger(kq, ev) \
    (NKI_FAIL(kevent_trigger) ? -1 : kevent((kq), (ev), 1, NULL, 0, NULL))
#endif

#if NKI_HAS_URING
/* One number on all architectures but one. */
#if defined(__alpha__)
#define NKI_NR_IO_URING 535
#else
#define NKI_NR_IO_URING 425
#endif
#define NKI_SYS_io_uring_setup(n, p) \
    (NKI_FAIL(io_uring_setup) ? -1 : (int)syscall(NKI_NR_IO_URING, (n), (p)))
#define NKI_SYS_io_uring_enter(fd, submit, wait, flags, arg, size) \
    (NKI_FAIL(io_uring_enter)                                      \
         ? -1                                                      \
         : (int)syscall(NKI_NR_IO_URING + 1, (fd), (submit), (wait), (flags), (arg), (size)))
#define NKI_SYS_io_uring_register(fd, op, arg, n) \
    (NKI_FAIL(io_uring_register) ? -1 : (int)syscall(NKI_NR_IO_URING + 2, (fd), (op), (arg), (n)))
/* A message to the ring of another, by who needs none to send it. */
#define NKI_SYS_io_uring_message(op, sqe) \
    (NKI_FAIL(io_uring_message) ? -1 : (int)syscall(NKI_NR_IO_URING + 2, -1, (op), (sqe), 1u))
/* The reader of completions: how many are there. In tests they sometimes come to light later. */
#define NKI_SYS_io_uring_cqes(count) ((uint32_t)NKI_MASK(io_uring_cqes, (count)))
/* The flag by which an operation goes on. In tests some are begun without it, so that the kernel
 * itself ends them at their first completion, which then comes without F_MORE. (To clear F_MORE in
 * what is read would be a lie: that operation would go on taking bytes out of the socket.) */
#define NKI_SYS_io_uring_multishot(flag) ((uint16_t)NKI_MASK(io_uring_multishot, (flag)))
#define NKI_SYS_gettid() ((uintptr_t)syscall(SYS_gettid)) /* which cannot fail */
#define NKI_SYS_dup3(from, to, flags) (NKI_FAIL(dup3) ? -1 : dup3((from), (to), (flags)))
#define NKI_SYS_mmap(size, flags, fd, offset) \
    (NKI_FAIL(mmap) ? MAP_FAILED              \
                    : mmap(NULL, (size), PROT_READ | PROT_WRITE, (flags), (fd), (offset)))
#define NKI_SYS_munmap(p, size) munmap((p), (size))
#define NKI_SYS_madvise(p, size, what) (NKI_FAIL(madvise) ? -1 : madvise((p), (size), (what)))
#endif

#endif /* NKI_POSIX */
