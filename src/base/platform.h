/* Platform: what system this is, its headers, and the seam to the world.
 *
 * Every call that leaves the process goes through one NKI_SYS_ macro (src/os/seam_*.h),
 * and each of those asks NKI_FAIL(name) first, which is 0 unless a test says otherwise:
 * so a test can fail the n-th call of any kind, and see every one of them.
 * NKI_CLIP(name, len) lets it shorten transfers, NKI_MASK(name, bits) hide what the kernel can. */

#if defined(_MSC_VER)
#pragma warning(push)
#pragma warning(disable : 4127) /* do {} while (0) has a constant condition by design */
#pragma warning(disable : 4505) /* with NETKIT_STATIC not every function is used */
#endif

#if defined(_WIN32)
#define NKI_WINDOWS 1
#else
#define NKI_WINDOWS 0
#endif
#define NKI_POSIX (!NKI_WINDOWS)

#if defined(__linux__)
#define NKI_LINUX 1
#else
#define NKI_LINUX 0
#endif

#if defined(__APPLE__)
#define NKI_APPLE 1
#else
#define NKI_APPLE 0
#endif

#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__) || \
    defined(__DragonFly__)
#define NKI_BSD 1
#else
#define NKI_BSD 0
#endif

#define NKI_HAS_EPOLL NKI_LINUX
#define NKI_HAS_POLL NKI_POSIX
#define NKI_HAS_AFD NKI_WINDOWS
#define NKI_HAS_WSAPOLL NKI_WINDOWS

/* Kqueues that have EVFILT_USER in every version; OpenBSD and NetBSD have poll. And by
 * NETKIT_FORCE_KQUEUE on Linux, over libkqueue and without what macOS has not, so that the code for
 * there can be tested here. */
#if NKI_APPLE || defined(__FreeBSD__) || defined(__DragonFly__) || defined(NETKIT_FORCE_KQUEUE)
#define NKI_HAS_KQUEUE 1
#else
#define NKI_HAS_KQUEUE 0
#endif

#if NKI_LINUX && !defined(NETKIT_FORCE_KQUEUE)
#define NKI_HAS_EVENTFD 1
#else
#define NKI_HAS_EVENTFD 0
#endif

/* SOCK_NONBLOCK, SOCK_CLOEXEC and accept4: a socket is born as it should be. */
#if NKI_POSIX && !NKI_APPLE && !defined(NETKIT_FORCE_KQUEUE)
#define NKI_HAS_SOCK_FLAGS 1
#else
#define NKI_HAS_SOCK_FLAGS 0
#endif

/* The ring is shared with the kernel, which needs atomics. */
#if NKI_LINUX && defined(__GNUC__) && !defined(NETKIT_NO_URING)
#define NKI_HAS_URING 1
#else
#define NKI_HAS_URING 0
#endif

#ifndef NKI_HAS_MMSG /* recvmmsg, sendmmsg */
#define NKI_HAS_MMSG NKI_LINUX
#endif

#ifdef NETKIT_NO_THREADS
#define NKI_HAS_THREADS 0
#else
#define NKI_HAS_THREADS 1
#endif

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if NKI_POSIX
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#if NKI_HAS_THREADS
#include <pthread.h>
#endif
#endif

/* Winsock 2 must come before windows.h, which otherwise brings Winsock 1. */
#if NKI_WINDOWS
#if defined(_WINSOCKAPI_) && !defined(_WINSOCK2API_)
#error "include netkit.h, or winsock2.h, before windows.h in the file with NETKIT_IMPLEMENTATION"
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <windows.h>
#include <ntsecapi.h>
#if defined(_MSC_VER)
#pragma comment(lib, "ws2_32")
#pragma comment(lib, "advapi32") /* random numbers */
#endif
#endif

#if NKI_HAS_KQUEUE
#include <sys/event.h>
#endif

#if NKI_LINUX
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#if defined(__GLIBC__) && !defined(__USE_GNU)
#error "include netkit.h before any system header in the file with NETKIT_IMPLEMENTATION"
#endif
#endif

#ifndef NKI_FAIL
#define NKI_FAIL(name) 0
#endif
#ifndef NKI_CLIP
#define NKI_CLIP(name, len) (len)
#endif
#ifndef NKI_MASK
#define NKI_MASK(name, bits) (bits)
#endif

#ifndef NETKIT_ASSERT
#include <assert.h>
#define NETKIT_ASSERT(cond) assert(cond)
#endif

#if defined(NETKIT_MALLOC) != defined(NETKIT_FREE)
#error "define both NETKIT_MALLOC and NETKIT_FREE, or neither"
#endif
#ifndef NETKIT_MALLOC
#define NETKIT_MALLOC(size) malloc(size)
#define NETKIT_FREE(memory) free(memory)
#endif

#define NKI_UNUSED(x) ((void)(x))
#define NKI_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NKI_MIN(a, b) ((a) < (b) ? (a) : (b))
#define NKI_MAX(a, b) ((a) > (b) ? (a) : (b))
#define NKI_STATIC_ASSERT(name, cond) typedef char nki_assert_##name[(cond) ? 1 : -1]

#if defined(_MSC_VER)
#define NKI_LIKELY(x) (x)
#define NKI_UNLIKELY(x) (x)
#define NKI_COLD
#define NKI_HOT __inline
#define NKI_OUTLINE __declspec(noinline)
#elif defined(__GNUC__)
#define NKI_LIKELY(x) __builtin_expect(!!(x), 1)
#define NKI_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NKI_COLD __attribute__((cold, noinline))
#define NKI_HOT __attribute__((always_inline)) __inline__
#define NKI_OUTLINE __attribute__((noinline))
#else
#define NKI_LIKELY(x) (x)
#define NKI_UNLIKELY(x) (x)
#define NKI_COLD
#define NKI_HOT
#define NKI_OUTLINE
#endif

#define NKI_NS_PER_US 1000u
#define NKI_NS_PER_MS 1000000u
#define NKI_NS_PER_S 1000000000u
#define NKI_NEVER UINT64_MAX /* as a due time */
