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

/* Call a function of signal handlers after so long, and again every so often; 0 and 0 = no more.
 * By a signal without SA_RESTART. */
static inline bool nkt_alarm(unsigned first_us, unsigned every_us, void (*handler)(int)) {
    struct sigaction action;
    struct itimerval timer;
    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    memset(&timer, 0, sizeof(timer));
    timer.it_value.tv_sec = (time_t)(first_us / 1000000);
    timer.it_value.tv_usec = (suseconds_t)(first_us % 1000000);
    timer.it_interval.tv_sec = (time_t)(every_us / 1000000);
    timer.it_interval.tv_usec = (suseconds_t)(every_us % 1000000);
    return sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &timer, NULL) == 0;
}

/* Not on this thread, or again. */
static inline void nkt_alarm_mask(bool is_blocked) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    (void)pthread_sigmask(is_blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

/* SIGPIPE does what it does in a program that has not asked, from now on; and does it still? */
static inline bool nkt_sigpipe_reset(void) {
    return signal(SIGPIPE, SIG_DFL) != SIG_ERR;
}

static inline bool nkt_sigpipe_is_default(void) {
    struct sigaction action;
    return sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL;
}

/* Only so many descriptors more can be had, when all numbers below the lowest free one are
 * taken; a negative count: as many as before. */
static inline bool nkt_spare_descriptors(int count) {
    static struct rlimit before;
    struct rlimit limit;
    int lowest = dup(STDOUT_FILENO);
    if (count < 0) {
        return (lowest < 0 || close(lowest) == 0) && setrlimit(RLIMIT_NOFILE, &before) == 0;
    }
    if (lowest < 0 || close(lowest) != 0 || getrlimit(RLIMIT_NOFILE, &before) != 0) {
        return false;
    }
    limit = before;
    limit.rlim_cur = (rlim_t)(lowest + count);
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* Whether a call fails for want of descriptors: the system sees to it. */
static inline bool nkt_is_starved(const char *call) {
    (void)call;
    return false;
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

/* Send what is printed to a file, and back: then how much it was. */
static int nkt_printed_to[3];

static inline bool nkt_capture(const char *path) {
    int *saved = nkt_printed_to;
    fflush(NULL);
    saved[0] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    saved[1] = dup(STDOUT_FILENO);
    saved[2] = dup(STDERR_FILENO);
    return dup2(saved[0], STDOUT_FILENO) >= 0 && dup2(saved[0], STDERR_FILENO) >= 0;
}

static inline int64_t nkt_captured(void) {
    const int *saved = nkt_printed_to;
    int64_t size;
    fflush(NULL);
    size = lseek(saved[0], 0, SEEK_END);
    if (dup2(saved[1], STDOUT_FILENO) < 0 || dup2(saved[2], STDERR_FILENO) < 0) {
        return -1;
    }
    return close(saved[0]) + close(saved[1]) + close(saved[2]) == 0 ? size : -1;
}

/* Memory that ends where nothing may be read any more; `size` is made that of whole pages. */
static inline char *nkt_guarded(size_t *size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *memory;
    *size = (*size + page - 1) / page * page;
    memory = (char *)mmap(NULL, *size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                          -1, 0);
    return memory != MAP_FAILED && mprotect(memory + *size, page, PROT_NONE) == 0 ? memory : NULL;
}

static inline bool nkt_has_unix(void) {
    return true;
}

/* A duplicate with a number that is not below another one, or -1. */
static inline int nkt_dup_above(int fd, int number) {
    return fcntl(fd, F_DUPFD_CLOEXEC, number);
}

/* What a program made for another machine is started with (NKT_EMULATOR), or nothing. */
static inline const char *nkt_emulator(void) {
    const char *named = getenv("NKT_EMULATOR");
    return named != NULL ? named : "";
}

/* This program again: its output, and its exit status or -1. */
static inline int nkt_run_program(const char *program, const char *arguments, char *out,
                                  size_t size) {
    char command[600];
    size_t len;
    int status;
    FILE *f;
    snprintf(command, sizeof(command), "%s '%s' %s 2>&1", nkt_emulator(), program, arguments);
    f = popen(command, "r");
    if (f == NULL) {
        return -1;
    }
    len = fread(out, 1, size - 1, f);
    out[len] = '\0';
    status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Ways to die, and what the runner is to say of them. */
#define NKT_CRASH_TEXT "died of signal 11"
#define NKT_KILL_TEXT "died of signal 9"

static inline void nkt_crash(void) {
    signal(SIGSEGV, SIG_DFL); /* a sanitizer has its own handler */
    raise(SIGSEGV);
}

static inline void nkt_kill_oneself(void) {
    raise(SIGKILL);
}

/* How many threads this process has, where that is known. */
static inline int nkt_threads(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return count;
}

#endif /* NKT_POSIX_H */
