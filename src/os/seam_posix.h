/* The seam on POSIX: every system call the library makes, by name.
 *
 * NKI_FAIL(name) is 0, or in tests a function that counts the call, may set errno
 * and returns true to have it fail. close is special: it must really close.
 * NKI_CLIP(name, len) shortens transfers; sendmsg's caller asks it for its total. */

#if NKI_POSIX

#define NKI_SYS_socket(f, t, p) (NKI_FAIL(socket) ? -1 : socket((f), (t), (p)))
#define NKI_SYS_socketpair(f, t, p, out) \
    (NKI_FAIL(socketpair) ? -1 : socketpair((f), (t), (p), (out)))
#define NKI_SYS_bind(s, a, n) (NKI_FAIL(bind) ? -1 : bind((s), (a), (n)))
#define NKI_SYS_listen(s, n) (NKI_FAIL(listen) ? -1 : listen((s), (n)))
#define NKI_SYS_connect(s, a, n) (NKI_FAIL(connect) ? -1 : connect((s), (a), (n)))
#if NKI_APPLE
#define NKI_SYS_accept(s, a, n) (NKI_FAIL(accept) ? -1 : accept((s), (a), (n)))
#else
#define NKI_SYS_accept(s, a, n) \
    (NKI_FAIL(accept) ? -1 : accept4((s), (a), (n), SOCK_NONBLOCK | SOCK_CLOEXEC))
#endif
#define NKI_SYS_recv(s, b, n, f) (NKI_FAIL(recv) ? -1 : recv((s), (b), NKI_CLIP(recv, n), (f)))
#define NKI_SYS_send(s, b, n, f) (NKI_FAIL(send) ? -1 : send((s), (b), NKI_CLIP(send, n), (f)))
#define NKI_SYS_sendmsg(s, m, f) (NKI_FAIL(sendmsg) ? -1 : sendmsg((s), (m), (f)))
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
#define NKI_SYS_pipe(fds) (NKI_FAIL(pipe) ? -1 : pipe(fds))
#define NKI_SYS_unlink(path) (NKI_FAIL(unlink) ? -1 : unlink(path))
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
    (NKI_FAIL(epoll_ctl) ? -1 : epoll_ctl((ep), (op), (fd), (ev)))
#define NKI_SYS_epoll_wait(ep, evs, n, ms) \
    (NKI_FAIL(epoll_wait) ? -1 : epoll_wait((ep), (evs), (n), (ms)))
#define NKI_SYS_epoll_pwait2(ep, evs, n, ts) \
    (NKI_FAIL(epoll_pwait2)                  \
         ? -1                                \
         : (int)syscall(NKI_NR_EPOLL_PWAIT2, (ep), (evs), (n), (ts), NULL, (size_t)8))
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
#define NKI_SYS_mmap(size, flags, fd, offset) \
    (NKI_FAIL(mmap) ? MAP_FAILED              \
                    : mmap(NULL, (size), PROT_READ | PROT_WRITE, (flags), (fd), (offset)))
#define NKI_SYS_munmap(p, size) munmap((p), (size))
#define NKI_SYS_madvise(p, size, what) (NKI_FAIL(madvise) ? -1 : madvise((p), (size), (what)))
#endif

#endif /* NKI_POSIX */
