/* What the tests use of POSIX, out of Windows' own calls (tests/posix.h is the other one).
 *
 * A descriptor is a handle, of a socket or of a file: Windows' sockets are handles as well. A
 * pipe, and what is a pair of unix sockets elsewhere, is a pair of connected sockets. The names
 * of errors are the system's codes, those that the library sees, and so is errno after a call of
 * these; so a test can say ECONNRESET for a fault, in errno and as what a close was told. */
#ifndef NKT_POSIX_ON_WINDOWS_H
#define NKT_POSIX_ON_WINDOWS_H

#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <afunix.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <iphlpapi.h>
#include <tlhelp32.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* Of old compilers, and in the way. */
#undef far
#undef near
#undef interface

/* ---- errors ------------------------------------------------------------------ */

#undef EACCES
#undef EADDRINUSE
#undef EADDRNOTAVAIL
#undef EAFNOSUPPORT
#undef EAGAIN
#undef EBADF
#undef EBUSY
#undef ECONNABORTED
#undef ECONNREFUSED
#undef ECONNRESET
#undef EEXIST
#undef EFAULT
#undef EHOSTUNREACH
#undef EINPROGRESS
#undef EINTR
#undef EINVAL
#undef EIO
#undef EISCONN
#undef EMFILE
#undef EMSGSIZE
#undef ENETDOWN
#undef ENETUNREACH
#undef ENFILE
#undef ENOBUFS
#undef ENOENT
#undef ENOMEM
#undef ENOPROTOOPT
#undef ENOSYS
#undef ENOTCONN
#undef EOPNOTSUPP
#undef EPERM
#undef EPIPE
#undef EPROTOTYPE
#undef EROFS
#undef ETIMEDOUT
#undef EWOULDBLOCK
#define EACCES WSAEACCES
#define EADDRINUSE WSAEADDRINUSE
#define EADDRNOTAVAIL WSAEADDRNOTAVAIL
#define EAFNOSUPPORT WSAEAFNOSUPPORT
#define EAGAIN WSAEWOULDBLOCK
#define EBADF WSAENOTSOCK
#define EBUSY ERROR_BUSY
#define ECONNABORTED WSAECONNABORTED
#define ECONNREFUSED WSAECONNREFUSED
#define ECONNRESET WSAECONNRESET
#define EEXIST ERROR_FILE_EXISTS
#define EFAULT WSAEFAULT
#define EHOSTDOWN WSAEHOSTDOWN
#define EHOSTUNREACH WSAEHOSTUNREACH
#define EINPROGRESS WSAEWOULDBLOCK
#define EINTR WSAEINTR
#define EINVAL WSAEINVAL
#define EIO ERROR_IO_DEVICE
#define EISCONN WSAEISCONN
#define EMFILE WSAEMFILE
#define EMSGSIZE WSAEMSGSIZE
#define ENETDOWN WSAENETDOWN
#define ENETUNREACH WSAENETUNREACH
#define ENFILE ERROR_TOO_MANY_OPEN_FILES
#define ENOBUFS WSAENOBUFS
#define ENOENT ERROR_FILE_NOT_FOUND
#define ENOMEM ERROR_NOT_ENOUGH_MEMORY
#define ENOPROTOOPT WSAENOPROTOOPT
#define ENOSYS ERROR_CALL_NOT_IMPLEMENTED
#define ENOTCONN WSAENOTCONN
#define EOPNOTSUPP WSAEOPNOTSUPP
#define EPERM ERROR_ACCESS_DENIED
#define EPIPE WSAECONNRESET
#define EPROTOTYPE WSAEPROTOTYPE
#define EROFS ERROR_WRITE_PROTECT
#define ETIMEDOUT WSAETIMEDOUT
#define EWOULDBLOCK WSAEWOULDBLOCK

/* What a fault leaves for the library to see: the system's code is one for sockets and all. */
static inline void nkt_set_os_error(int os_error) {
    errno = os_error;
    SetLastError((DWORD)os_error);
}

static inline int nkt_failed(void) {
    errno = (int)GetLastError();
    return -1;
}

/* The same for calls of which 0 means well. */
static inline int nkt_said(int rc) {
    return rc == 0 ? 0 : nkt_failed();
}

/* ---- descriptors --------------------------------------------------------------- */

enum {
    NKT_MOST = 0x40000000 /* of bytes at a time */
};

static inline HANDLE nkt_handle(int fd) {
    return (HANDLE)(intptr_t)fd;
}

static inline SOCKET nkt_native(int fd) {
    return (SOCKET)(intptr_t)fd;
}

static inline int nkt_native_fd(uintptr_t native) {
    return native <= (uintptr_t)INT_MAX ? (int)native : -1;
}

static inline bool nkt_is_socket(int fd) {
    int type = 0, len = sizeof(type);
    return getsockopt(nkt_native(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &len) == 0;
}

static inline int nkt_close(int fd) {
    if (closesocket(nkt_native(fd)) == 0) {
        return 0;
    }
    return WSAGetLastError() == WSAENOTSOCK && CloseHandle(nkt_handle(fd)) ? 0 : nkt_failed();
}

static inline int nkt_dup(int fd) {
    WSAPROTOCOL_INFOW info;
    HANDLE copy, own = GetCurrentProcess();
    SOCKET s;
    if (fd >= 0 && fd <= 2) { /* the standard ones have numbers of the C library's */
        fd = (int)_get_osfhandle(fd);
    }
    if (!nkt_is_socket(fd)) {
        bool is_copied =
            DuplicateHandle(own, nkt_handle(fd), own, &copy, 0, FALSE, DUPLICATE_SAME_ACCESS);
        return is_copied ? (int)(intptr_t)copy : nkt_failed();
    }
    if (WSADuplicateSocketW(nkt_native(fd), GetCurrentProcessId(), &info) != 0) {
        return nkt_failed();
    }
    s = WSASocketW(FROM_PROTOCOL_INFO, FROM_PROTOCOL_INFO, FROM_PROTOCOL_INFO, &info, 0,
                   WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    return s == INVALID_SOCKET ? nkt_failed() : nkt_native_fd((uintptr_t)s);
}

static HANDLE nkt_low_handle; /* made when the process begins */

/* The same under a number that is given up for it: numbers go out again soon, so it comes. */
static inline int nkt_dup2(int fd, int number) {
    int missed[64], count = 0, got = -1;
    if (fd == number) {
        return number;
    }
    (void)nkt_close(number);
    CloseHandle(nkt_low_handle); /* the system takes the lowest for a moment, then the next */
    while (got != number && count < 64) {
        got = nkt_dup(fd);
        if (got != number) {
            missed[count++] = got;
        }
    }
    nkt_low_handle = CreateEventA(NULL, TRUE, FALSE, NULL);
    while (count > 0) {
        (void)nkt_close(missed[--count]);
    }
    return got == number ? number : -1;
}

/* A duplicate with a number that is not below another one, or -1. */
static inline int nkt_dup_above(int fd, int number) {
    static int below[65536];
    int count = 0, got = nkt_dup(fd);
    while (got >= 0 && got < number && count < 65536) {
        below[count++] = got;
        got = nkt_dup(fd);
    }
    while (count > 0) {
        (void)nkt_close(below[--count]);
    }
    return got;
}

#define F_GETFD 1
#define F_GETFL 3
#define F_SETFL 4
#define FD_CLOEXEC 1
#define O_NONBLOCK 0x4000

/* Nobody tells whether a socket waits: a look at what it has, which is to be nothing, tells. */
static inline bool nkt_is_nonblocking(int fd) {
    DWORD ms = 1, before = 0;
    int len = sizeof(before), rc, code;
    char byte;
    (void)getsockopt(nkt_native(fd), SOL_SOCKET, SO_RCVTIMEO, (char *)&before, &len);
    (void)setsockopt(nkt_native(fd), SOL_SOCKET, SO_RCVTIMEO, (const char *)&ms, sizeof(ms));
    rc = recv(nkt_native(fd), &byte, 1, MSG_PEEK);
    code = WSAGetLastError();
    (void)setsockopt(nkt_native(fd), SOL_SOCKET, SO_RCVTIMEO, (const char *)&before, len);
    return rc < 0 && code == WSAEWOULDBLOCK;
}

/* Whether a handle is there and stays with this process; not to wait, from now on, or whether. */
static inline int nkt_fcntl(int fd, int what, ...) {
    DWORD now = 0;
    if (what == F_SETFL) {
        u_long is_nonblocking;
        va_list args;
        va_start(args, what);
        is_nonblocking = (va_arg(args, int) & O_NONBLOCK) != 0;
        va_end(args);
        return nkt_said(ioctlsocket(nkt_native(fd), (int)FIONBIO, &is_nonblocking));
    }
    if (what == F_GETFL) {
        return nkt_is_nonblocking(fd) ? O_NONBLOCK : 0;
    }
    if (!GetHandleInformation(nkt_handle(fd), &now)) {
        return nkt_failed();
    }
    return (now & HANDLE_FLAG_INHERIT) != 0 ? 0 : FD_CLOEXEC;
}

/* ---- sockets ------------------------------------------------------------------- */

#define SOCK_CLOEXEC 0x10000
#define SOCK_NONBLOCK 0x20000
#define SHUT_RD SD_RECEIVE
#define SHUT_WR SD_SEND
#define SHUT_RDWR SD_BOTH
#define MSG_NOSIGNAL 0
#define MSG_DONTWAIT 0x1000000

typedef struct nkt_pollfd {
    int fd;
    short events;
    short revents;
} nkt_pollfd;

/* Handles that are no sockets are waited for alone. */
static inline int nkt_poll(nkt_pollfd *fds, unsigned count, int timeout_ms) {
    WSAPOLLFD all[16];
    int rc;
    if (count == 0 || (count == 1 && !nkt_is_socket(fds[0].fd))) {
        DWORD ms = timeout_ms < 0 ? INFINITE : (DWORD)timeout_ms;
        bool is_there = count == 1 && WaitForSingleObject(nkt_handle(fds[0].fd), ms) == 0;
        if (count == 0) {
            Sleep(ms);
        } else {
            fds[0].revents = is_there ? POLLIN : 0;
        }
        return is_there ? 1 : 0;
    }
    if (count > 16) {
        SetLastError(WSAEINVAL);
        return nkt_failed();
    }
    for (unsigned i = 0; i < count; i++) {
        all[i].fd = nkt_native(fds[i].fd);
        all[i].events = (short)(fds[i].events & (POLLRDNORM | POLLRDBAND | POLLWRNORM));
        all[i].revents = 0;
    }
    rc = WSAPoll(all, count, timeout_ms);
    for (unsigned i = 0; i < count; i++) {
        fds[i].revents = all[i].revents;
    }
    return rc < 0 ? nkt_failed() : rc;
}

/* Whether a call that says MSG_DONTWAIT may be made. */
static inline bool nkt_may_now(int fd, int flags, short events) {
    nkt_pollfd p = {fd, events, 0};
    if ((flags & MSG_DONTWAIT) != 0 && nkt_poll(&p, 1, 0) == 0) {
        SetLastError(WSAEWOULDBLOCK);
        return false;
    }
    return true;
}

static inline int nkt_socket(int family, int type, int protocol) {
    u_long one = 1;
    SOCKET s = WSASocketW(family, type & 0xFFFF, protocol, NULL, 0,
                          WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    if (s != INVALID_SOCKET && (type & SOCK_NONBLOCK) != 0) {
        (void)ioctlsocket(s, (int)FIONBIO, &one);
    }
    return s == INVALID_SOCKET ? nkt_failed() : nkt_native_fd((uintptr_t)s);
}

/* Windows has unix sockets since 10, wine none. */
static inline bool nkt_has_unix(void) {
    int fd = nkt_socket(AF_UNIX, SOCK_STREAM, 0);
    return fd >= 0 && nkt_close(fd) == 0;
}

static inline int nkt_bind(int fd, const struct sockaddr *addr, socklen_t len) {
    return nkt_said(bind(nkt_native(fd), addr, len));
}

static inline int nkt_listen(int fd, int backlog) {
    return nkt_said(listen(nkt_native(fd), backlog));
}

static inline int nkt_connect(int fd, const struct sockaddr *addr, socklen_t len) {
    return nkt_said(connect(nkt_native(fd), addr, len));
}

static inline int nkt_accept(int fd, struct sockaddr *addr, socklen_t *len) {
    SOCKET s = accept(nkt_native(fd), addr, len);
    if (s == INVALID_SOCKET) {
        return nkt_failed();
    }
    (void)SetHandleInformation((HANDLE)s, HANDLE_FLAG_INHERIT, 0);
    return nkt_native_fd((uintptr_t)s);
}

static inline int nkt_shutdown(int fd, int how) {
    return nkt_said(shutdown(nkt_native(fd), how));
}

static inline int nkt_getsockname(int fd, struct sockaddr *addr, socklen_t *len) {
    return nkt_said(getsockname(nkt_native(fd), addr, len));
}

static inline int nkt_getpeername(int fd, struct sockaddr *addr, socklen_t *len) {
    return nkt_said(getpeername(nkt_native(fd), addr, len));
}

/* A time is milliseconds here. */
static inline int nkt_setsockopt(int fd, int level, int option, const void *value, socklen_t len) {
    DWORD ms;
    if (level == SOL_SOCKET && (option == SO_RCVTIMEO || option == SO_SNDTIMEO) &&
        len == (socklen_t)sizeof(struct timeval)) {
        const struct timeval *t = (const struct timeval *)value;
        ms = (DWORD)(t->tv_sec * 1000 + t->tv_usec / 1000);
        value = &ms;
        len = sizeof(ms);
    }
    return nkt_said(setsockopt(nkt_native(fd), level, option, (const char *)value, len));
}

static inline int nkt_getsockopt(int fd, int level, int option, void *value, socklen_t *len) {
    return nkt_said(getsockopt(nkt_native(fd), level, option, (char *)value, len));
}

/* Wine takes a reset for an end when it receives, and for what it is when it polls. */
static inline bool nkt_is_reset(int fd) {
    WSAPOLLFD p = {nkt_native(fd), POLLIN, 0};
    int type = 0, len = sizeof(type);
    (void)getsockopt(nkt_native(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &len);
    return type == SOCK_STREAM && WSAPoll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0;
}

static inline ssize_t nkt_recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from,
                                   socklen_t *from_len) {
    int most = len < NKT_MOST ? (int)len : NKT_MOST;
    int got = -1;
    if (nkt_may_now(fd, flags, POLLIN)) {
        got = recvfrom(nkt_native(fd), (char *)data, most, flags & ~MSG_DONTWAIT, from, from_len);
    }
    if (got == 0 && most > 0 && nkt_is_reset(fd)) {
        SetLastError(WSAECONNRESET);
        got = -1;
    }
    return got < 0 ? nkt_failed() : got;
}

static inline ssize_t nkt_sendto(int fd, const void *data, size_t len, int flags,
                                 const struct sockaddr *to, socklen_t to_len) {
    int most = len < NKT_MOST ? (int)len : NKT_MOST;
    int put = -1;
    if (nkt_may_now(fd, flags, POLLOUT)) {
        put = sendto(nkt_native(fd), (const char *)data, most, flags & ~MSG_DONTWAIT, to, to_len);
    }
    return put < 0 ? nkt_failed() : put;
}

static inline ssize_t nkt_recv(int fd, void *data, size_t len, int flags) {
    return nkt_recvfrom(fd, data, len, flags, NULL, NULL);
}

static inline ssize_t nkt_send(int fd, const void *data, size_t len, int flags) {
    return nkt_sendto(fd, data, len, flags, NULL, 0);
}

static inline struct sockaddr_in nkt_loopback(void) {
    struct sockaddr_in in;
    memset(&in, 0, sizeof(in));
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return in;
}

static inline bool nkt_pair_streams(SOCKET out[2]) {
    struct sockaddr_in in = nkt_loopback();
    int len = sizeof(in);
    BOOL one = TRUE;
    SOCKET door = WSASocketW(AF_INET, SOCK_STREAM, 0, NULL, 0,
                             WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
    bool is_well = bind(door, (const struct sockaddr *)&in, len) == 0 && listen(door, 1) == 0 &&
                   getsockname(door, (struct sockaddr *)&in, &len) == 0 &&
                   connect(out[0], (const struct sockaddr *)&in, len) == 0;
    closesocket(out[1]);
    out[1] = is_well ? accept(door, NULL, NULL) : INVALID_SOCKET;
    closesocket(door);
    for (int i = 0; i < 2; i++) {
        (void)setsockopt(out[i], IPPROTO_TCP, TCP_NODELAY, (const char *)&one, sizeof(one));
        (void)SetHandleInformation((HANDLE)out[i], HANDLE_FLAG_INHERIT, 0);
    }
    return out[1] != INVALID_SOCKET;
}

static inline bool nkt_pair_datagrams(const SOCKET out[2]) {
    struct sockaddr_in in[2] = {nkt_loopback(), nkt_loopback()};
    int len = sizeof(in[0]);
    for (int i = 0; i < 2; i++) {
        if (bind(out[i], (const struct sockaddr *)&in[i], len) != 0 ||
            getsockname(out[i], (struct sockaddr *)&in[i], &len) != 0) {
            return false;
        }
    }
    return connect(out[0], (const struct sockaddr *)&in[1], len) == 0 &&
           connect(out[1], (const struct sockaddr *)&in[0], len) == 0;
}

/* Connected sockets of the internet, whatever the family says. */
static inline int nkt_socketpair(int family, int type, int protocol, int fds[2]) {
    SOCKET out[2] = {INVALID_SOCKET, INVALID_SOCKET};
    bool is_well;
    (void)family;
    for (int i = 0; i < 2; i++) {
        fds[i] = nkt_socket(AF_INET, type, protocol);
        out[i] = nkt_native(fds[i]);
    }
    is_well = (type & 0xFFFF) == SOCK_STREAM ? nkt_pair_streams(out) : nkt_pair_datagrams(out);
    for (int i = 0; i < 2; i++) {
        u_long is_nonblocking = (type & SOCK_NONBLOCK) != 0;
        fds[i] = nkt_native_fd((uintptr_t)out[i]);
        (void)ioctlsocket(out[i], (int)FIONBIO, &is_nonblocking);
    }
    return is_well ? 0 : nkt_failed();
}

static inline int nkt_pipe(int fds[2]) {
    return nkt_socketpair(AF_INET, SOCK_STREAM, 0, fds);
}

/* ---- files ---------------------------------------------------------------------- */

#undef O_RDONLY
#undef O_WRONLY
#undef O_RDWR
#undef O_CREAT
#undef O_EXCL
#undef O_TRUNC
#define O_RDONLY 0
#define O_WRONLY 1
#define O_RDWR 2
#define O_CREAT 0x100
#define O_EXCL 0x400
#define O_TRUNC 0x200
#define O_CLOEXEC 0

/* Others may use, and remove, what is open. */
static inline int nkt_open(const char *path, int flags, ...) {
    DWORD access = (flags & O_RDWR) != 0     ? GENERIC_READ | GENERIC_WRITE
                   : (flags & O_WRONLY) != 0 ? GENERIC_WRITE
                                             : GENERIC_READ;
    DWORD how = (flags & O_EXCL) != 0    ? CREATE_NEW
                : (flags & O_TRUNC) != 0 ? CREATE_ALWAYS
                : (flags & O_CREAT) != 0 ? OPEN_ALWAYS
                                         : OPEN_EXISTING;
    HANDLE file = CreateFileA(path, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                              NULL, how, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    return file == INVALID_HANDLE_VALUE ? nkt_failed() : (int)(intptr_t)file;
}

static inline ssize_t nkt_read(int fd, void *data, size_t len) {
    DWORD most = len < NKT_MOST ? (DWORD)len : NKT_MOST, got = 0;
    if (nkt_is_socket(fd)) {
        return nkt_recv(fd, data, len, 0);
    }
    return ReadFile(nkt_handle(fd), data, most, &got, NULL) ? (ssize_t)got : nkt_failed();
}

static inline ssize_t nkt_write(int fd, const void *data, size_t len) {
    DWORD most = len < NKT_MOST ? (DWORD)len : NKT_MOST, put = 0;
    if (nkt_is_socket(fd)) {
        return nkt_send(fd, data, len, 0);
    }
    return WriteFile(nkt_handle(fd), data, most, &put, NULL) ? (ssize_t)put : nkt_failed();
}

/* Where the file is read and written next stays what it was. */
static inline ssize_t nkt_pwrite(int fd, const void *data, size_t len, uint64_t offset) {
    OVERLAPPED at;
    DWORD put = 0;
    LARGE_INTEGER zero, now;
    zero.QuadPart = 0;
    memset(&at, 0, sizeof(at));
    at.Offset = (DWORD)offset;
    at.OffsetHigh = (DWORD)(offset >> 32);
    if (!SetFilePointerEx(nkt_handle(fd), zero, &now, FILE_CURRENT) ||
        !WriteFile(nkt_handle(fd), data, (DWORD)len, &put, &at)) {
        return nkt_failed();
    }
    return SetFilePointerEx(nkt_handle(fd), now, NULL, FILE_BEGIN) ? (ssize_t)put : nkt_failed();
}

static inline int64_t nkt_lseek(int fd, int64_t offset, int whence) {
    LARGE_INTEGER by, at;
    by.QuadPart = offset;
    return SetFilePointerEx(nkt_handle(fd), by, &at, (DWORD)whence) ? at.QuadPart : nkt_failed();
}

static inline int nkt_ftruncate(int fd, int64_t size) {
    LARGE_INTEGER zero, old, by, at;
    bool is_well;
    zero.QuadPart = 0;
    by.QuadPart = size;
    is_well = SetFilePointerEx(nkt_handle(fd), zero, &old, FILE_CURRENT) &&
              SetFilePointerEx(nkt_handle(fd), by, &at, FILE_BEGIN) &&
              SetEndOfFile(nkt_handle(fd)) &&
              SetFilePointerEx(nkt_handle(fd), old, &at, FILE_BEGIN);
    return is_well ? 0 : nkt_failed();
}

static inline int nkt_unlink(const char *path) {
    return DeleteFileA(path) ? 0 : nkt_failed();
}

static inline int nkt_access(const char *path, int mode) {
    (void)mode;
    return GetFileAttributesA(path) != INVALID_FILE_ATTRIBUTES ? 0 : nkt_failed();
}

static inline int nkt_mkdir(const char *path, unsigned mode) {
    (void)mode;
    return CreateDirectoryA(path, NULL) ? 0 : nkt_failed();
}

/* Wine says that it is, to who asks. */
static inline bool nkt_is_wine(void) {
    return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

/* ---- the process ------------------------------------------------------------------- */

/* The library may have no names of ntdll's: the harness asks for its own. */
typedef struct nkt_handle_row {
    void *object;
    ULONG_PTR process;
    ULONG_PTR handle;
    ULONG access;
    USHORT unused;
    USHORT type;
    ULONG flags;
    ULONG unused_too;
} nkt_handle_row;

typedef struct nkt_handle_table {
    ULONG_PTR count;
    ULONG_PTR unused;
    nkt_handle_row rows[1];
} nkt_handle_table;

typedef struct nkt_type_name {
    USHORT len;
    USHORT size;
    WCHAR *text;
    WCHAR room[256];
} nkt_type_name;

typedef LONG(WINAPI *nkt_query_system_fn)(int what, void *out, ULONG size, ULONG *got);
typedef LONG(WINAPI *nkt_query_object_fn)(HANDLE h, int what, void *out, ULONG size, ULONG *got);

static FARPROC nkt_ntdll(const char *name) {
    FARPROC fn = GetProcAddress(GetModuleHandleA("ntdll.dll"), name);
    if (fn == NULL) {
        fprintf(stderr, "harness: ntdll has no %s\n", name);
        abort();
    }
    return fn;
}

/* All handles of the system; to be freed. */
static nkt_handle_table *nkt_handles(void) {
    nkt_query_system_fn query =
        (nkt_query_system_fn)(void (*)(void))nkt_ntdll("NtQuerySystemInformation");
    ULONG size = 1 << 18, got = 0;
    void *table = NULL;
    LONG rc;
    do {
        size *= 2;
        free(table);
        table = malloc(size);
        rc = table != NULL ? query(64 /* extended handles */, table, size, &got) : -1;
    } while (table != NULL && rc == (LONG)0xC0000004 /* too small */ && size < 1 << 28);
    if (rc != 0) {
        fprintf(stderr, "harness: no list of handles: %lx\n", (unsigned long)rc);
        abort();
    }
    return (nkt_handle_table *)table;
}

/* How many sockets, files and completion ports are open: what a library may leak. Threads, keys
 * and events are the system's libraries' too, which keep them. */
static int nkt_open_fds(void) {
    nkt_query_object_fn query = (nkt_query_object_fn)(void (*)(void))nkt_ntdll("NtQueryObject");
    nkt_handle_table *table = nkt_handles();
    int count = 0;
    for (ULONG_PTR i = 0; i < table->count; i++) {
        nkt_type_name type;
        ULONG got = 0;
        if (table->rows[i].process == GetCurrentProcessId() &&
            query((HANDLE)table->rows[i].handle, 2 /* its type */, &type, sizeof(type), &got) ==
                0) {
            count += wcscmp(type.text, L"File") == 0 || wcscmp(type.text, L"IoCompletion") == 0;
        }
    }
    free(table);
    return count;
}

/* Memory of this process that is its own, in use or not. */
static inline uint64_t nkt_rss_bytes(void) {
    typedef struct counters {
        DWORD size;
        DWORD faults;
        SIZE_T peak_set, set, unused[4], paged, peak_paged, private_bytes;
    } counters;
    typedef BOOL(WINAPI * memory_fn)(HANDLE process, counters * out, DWORD size);
    memory_fn ask = (memory_fn)(void (*)(void))GetProcAddress(GetModuleHandleA("kernel32.dll"),
                                                              "K32GetProcessMemoryInfo");
    counters now;
    memset(&now, 0, sizeof(now));
    now.size = sizeof(now);
    return ask != NULL && ask(GetCurrentProcess(), &now, sizeof(now)) ? now.set : 0;
}

/* Memory that ends where nothing may be read any more; `size` is made that of whole pages. */
static inline char *nkt_guarded(size_t *size) {
    const size_t page = 65536;
    char *memory;
    DWORD before;
    *size = (*size + page - 1) / page * page;
    memory = (char *)VirtualAlloc(NULL, *size + page, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    return memory != NULL && VirtualProtect(memory + *size, page, PAGE_NOACCESS, &before) ? memory
                                                                                          : NULL;
}

/* How many threads this process has. */
static inline int nkt_threads(void) {
    HANDLE all = CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0);
    THREADENTRY32 thread;
    int count = 0;
    thread.dwSize = sizeof(thread);
    for (BOOL is_one = Thread32First(all, &thread); is_one; is_one = Thread32Next(all, &thread)) {
        count += thread.th32OwnerProcessID == GetCurrentProcessId();
    }
    CloseHandle(all);
    return count;
}

/* This program again: its output, and its exit status or -1. */
static inline int nkt_run_program(const char *program, const char *arguments, char *out,
                                  size_t size) {
    SECURITY_ATTRIBUTES inherited = {sizeof(inherited), NULL, TRUE};
    PROCESS_INFORMATION info;
    STARTUPINFOA how;
    HANDLE reader, writer;
    DWORD got = 0, status = 0;
    char command[600];
    size_t len = 0;
    snprintf(command, sizeof(command), "\"%s\" %s", program, arguments);
    if (!CreatePipe(&reader, &writer, &inherited, 0)) {
        return -1;
    }
    memset(&how, 0, sizeof(how));
    how.cb = sizeof(how);
    how.dwFlags = STARTF_USESTDHANDLES;
    how.hStdOutput = how.hStdError = writer;
    if (!CreateProcessA(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &how, &info)) {
        return -1;
    }
    CloseHandle(writer);
    CloseHandle(info.hThread);
    while (len + 1 < size && ReadFile(reader, out + len, (DWORD)(size - 1 - len), &got, NULL)) {
        len += got;
    }
    out[len] = '\0';
    CloseHandle(reader);
    (void)WaitForSingleObject(info.hProcess, INFINITE);
    (void)GetExitCodeProcess(info.hProcess, &status);
    CloseHandle(info.hProcess);
    return (int)status;
}

/* Ways to die, and what the runner is to say of them. */
#define NKT_CRASH_TEXT "died of exception 0xc0000005"
#define NKT_KILL_TEXT "died of exception 0xc000013a"

static inline void nkt_crash(void) {
    RaiseException(EXCEPTION_ACCESS_VIOLATION, EXCEPTION_NONCONTINUABLE, 0, NULL);
}

static inline void nkt_kill_oneself(void) {
    (void)TerminateProcess(GetCurrentProcess(), 0xC000013Au);
}

/* Send what is printed to a file, and back: then how much it was. These numbers are the C
 * library's. */
static int nkt_printed_to[3];

static inline bool nkt_capture(const char *path) {
    int *saved = nkt_printed_to;
    fflush(NULL);
    saved[0] = _open(path, _O_RDWR | _O_CREAT | _O_BINARY, 0600);
    saved[1] = _dup(1);
    saved[2] = _dup(2);
    return _dup2(saved[0], 1) == 0 && _dup2(saved[0], 2) == 0;
}

static inline int64_t nkt_captured(void) {
    const int *saved = nkt_printed_to;
    int64_t size;
    fflush(NULL);
    size = _lseeki64(saved[0], 0, SEEK_END);
    if (_dup2(saved[1], 1) != 0 || _dup2(saved[2], 2) != 0) {
        return -1;
    }
    return _close(saved[0]) + _close(saved[1]) + _close(saved[2]) == 0 ? size : -1;
}

/* ---- signals ------------------------------------------------------------------------ */

/* Call a function of signal handlers after so long, and again every so often; 0 and 0 = no more.
 * From a thread, as the system does with those of the console. */
typedef struct nkt_alarm_clock {
    pthread_t thread;
    unsigned first_us, every_us;
    void (*handler)(int);
    HANDLE over;
} nkt_alarm_clock;

static nkt_alarm_clock nkt_alarms;

static void *nkt_alarm_run(void *user) {
    nkt_alarm_clock *a = (nkt_alarm_clock *)user;
    unsigned us = a->first_us;
    while (us != 0 && WaitForSingleObject(a->over, us / 1000) == WAIT_TIMEOUT) {
        a->handler(SIGINT);
        us = a->every_us;
    }
    return NULL;
}

static inline bool nkt_alarm(unsigned first_us, unsigned every_us, void (*handler)(int)) {
    nkt_alarm_clock *a = &nkt_alarms;
    if (a->over != NULL) {
        SetEvent(a->over);
        pthread_join(a->thread, NULL);
        CloseHandle(a->over);
    }
    memset(a, 0, sizeof(*a));
    a->first_us = first_us;
    a->every_us = every_us;
    a->handler = handler;
    a->over = first_us != 0 ? CreateEventA(NULL, TRUE, FALSE, NULL) : NULL;
    return a->over == NULL || pthread_create(&a->thread, NULL, nkt_alarm_run, a) == 0;
}

static inline void nkt_alarm_mask(bool is_blocked) {
    (void)is_blocked;
}

/* There is no SIGPIPE. */
static inline bool nkt_sigpipe_reset(void) {
    return true;
}

static inline bool nkt_sigpipe_is_default(void) {
    return true;
}

/* ---- a shortage of descriptors --------------------------------------------------------
 *
 * A process has no limit of its own here. What the library asks of the system fails instead, as
 * it would, for as long as there are as many handles as were allowed. */
static int nkt_handles_most = -1;

static inline bool nkt_spare_descriptors(int count) {
    nkt_handles_most = count < 0 ? -1 : nkt_open_fds() + count;
    return true;
}

static inline bool nkt_is_starved(const char *call) {
    static const char *const takers[] = {"socket", "accept",      "dup",    "open",
                                         "reopen", "port_create", "nt_open"};
    for (size_t i = 0; nkt_handles_most >= 0 && i < sizeof(takers) / sizeof(takers[0]); i++) {
        if (strcmp(call, takers[i]) == 0 && nkt_open_fds() >= nkt_handles_most) {
            nkt_set_os_error(EMFILE);
            return true;
        }
    }
    return false;
}

/* There is no limit but memory. */
static inline uint64_t nkt_want_descriptors(uint64_t count) {
    return count;
}

#define accept(fd, addr, len) nkt_accept((fd), (addr), (len))
#define access(path, mode) nkt_access((path), (mode))
#define bind(fd, addr, len) nkt_bind((fd), (addr), (len))
#define close(fd) nkt_close(fd)
#define connect(fd, addr, len) nkt_connect((fd), (addr), (len))
#define dup(fd) nkt_dup(fd)
#define dup2(fd, number) nkt_dup2((fd), (number))
#define fcntl(...) nkt_fcntl(__VA_ARGS__)
#undef ftruncate
#undef lseek
#define ftruncate(fd, size) nkt_ftruncate((fd), (size))
#define getpeername(fd, addr, len) nkt_getpeername((fd), (addr), (len))
#define getsockname(fd, addr, len) nkt_getsockname((fd), (addr), (len))
#define getsockopt(fd, level, option, out, len) \
    nkt_getsockopt((fd), (level), (option), (out), (len))
#define listen(fd, backlog) nkt_listen((fd), (backlog))
#define lseek(fd, offset, whence) nkt_lseek((fd), (offset), (whence))
#define mkdir(path, mode) nkt_mkdir((path), (mode))
#define open(...) nkt_open(__VA_ARGS__)
#define pipe(fds) nkt_pipe(fds)
#define poll(fds, count, timeout) nkt_poll((fds), (count), (timeout))
#define pollfd nkt_pollfd
#define pwrite(fd, data, len, offset) nkt_pwrite((fd), (data), (len), (offset))
#define read(fd, data, len) nkt_read((fd), (data), (len))
#define recv(fd, data, len, flags) nkt_recv((fd), (data), (len), (flags))
#define recvfrom(fd, data, len, flags, addr, addr_len) \
    nkt_recvfrom((fd), (data), (len), (flags), (addr), (addr_len))
#define send(fd, data, len, flags) nkt_send((fd), (data), (len), (flags))
#define sendto(fd, data, len, flags, addr, addr_len) \
    nkt_sendto((fd), (data), (len), (flags), (addr), (addr_len))
#define setsockopt(fd, level, option, value, len) \
    nkt_setsockopt((fd), (level), (option), (value), (len))
#define shutdown(fd, how) nkt_shutdown((fd), (how))
#define socket(family, type, protocol) nkt_socket((family), (type), (protocol))
#define socketpair(family, type, protocol, fds) nkt_socketpair((family), (type), (protocol), (fds))
#define unlink(path) nkt_unlink(path)
#define write(fd, data, len) nkt_write((fd), (data), (len))

#endif /* NKT_POSIX_ON_WINDOWS_H */
