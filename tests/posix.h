/* What the tests use of POSIX: its headers, and what one system of the kind lacks.
 * tests/posix_on_windows.h is the same for Windows. */
#ifndef NKT_POSIX_H
#define NKT_POSIX_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Where sockets are not born with flags (macOS), tests may say them all the same. */
#if !defined(SOCK_CLOEXEC)
#define SOCK_CLOEXEC 0x10000
#define SOCK_NONBLOCK 0x20000

static inline int nkt_born(int fd, int type) {
    bool is_set = fcntl(fd, F_SETFD, (type & SOCK_CLOEXEC) != 0 ? FD_CLOEXEC : 0) == 0 &&
                  fcntl(fd, F_SETFL, (type & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0) == 0;
    return is_set ? 0 : -1;
}

static inline int nkt_socket(int family, int type, int protocol) {
    int fd = socket(family, type & 0xFFFF, protocol);
    return fd < 0 || nkt_born(fd, type) == 0 ? fd : -1;
}

static inline int nkt_socketpair(int family, int type, int protocol, int out[2]) {
    int rc = socketpair(family, type & 0xFFFF, protocol, out);
    return rc != 0 || nkt_born(out[0], type) != 0 ? -1 : nkt_born(out[1], type);
}

#define socket(family, type, protocol) nkt_socket((family), (type), (protocol))
#define socketpair(family, type, protocol, out) nkt_socketpair((family), (type), (protocol), (out))
#endif

/* What a fault leaves for the library to see. */
static inline void nkt_set_os_error(int os_error) {
    errno = os_error;
}

#if defined(NETKIT_FORCE_KQUEUE)
#define NKT_IS_COUNTED(name) (name[0] == '.' || !nkt_kq_owns(atoi(name)))
#else
#define NKT_IS_COUNTED(name) (name[0] != '\0')
#endif

/* How many descriptors are open. */
static int nkt_open_fds(void) {
    int count = 0;
    const int own = 3; /* ".", ".." and the folder itself */
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    if (folder == NULL) {
        for (int fd = 0; fd < 4096; fd++) {
            count += fcntl(fd, F_GETFD) != -1;
        }
        return count;
    }
    while ((entry = readdir(folder)) != NULL) {
        count += NKT_IS_COUNTED(entry->d_name);
    }
    closedir(folder);
    return count - own;
}

/* Resident memory of this process, now on Linux, at its highest elsewhere. */
static inline uint64_t nkt_rss_bytes(void) {
    struct rusage usage;
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f != NULL) {
        int got = fscanf(f, "%*s %lu", &pages);
        fclose(f);
        if (got == 1) {
            return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
        }
    }
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss * 1024;
}

/* Room for so many descriptors, or as many as may be had; returns the limit. */
static inline uint64_t nkt_want_descriptors(uint64_t count) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 0;
    }
    if (limit.rlim_cur < count) {
        limit.rlim_cur = limit.rlim_max < count ? limit.rlim_max : (rlim_t)count;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
    }
    return (uint64_t)limit.rlim_cur;
}

#endif /* NKT_POSIX_H */
