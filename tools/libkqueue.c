/* How libkqueue 2.3.1 on Linux differs from kqueue(2), shown without netkit.
 *
 * usage: libkqueue [WORD...]      all differences, or those of these words
 *
 * Each line is a word, "differs" or "as kqueue(2)", and the sentence. tests/libkqueue.h makes
 * good the differences both, timeout and urgent; tests that meet one of the others are skipped
 * there by name with its word. Exit 0 when all that were looked at differ still, 1 when one does
 * not: then its skips can go. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int change(int kq, int ident, int filter, int flags, unsigned fflags) {
    struct kevent ev;
    memset(&ev, 0, sizeof(ev));
    ev.ident = (uintptr_t)ident;
    ev.filter = (short)filter;
    ev.flags = (unsigned short)flags;
    ev.fflags = fflags;
    return kevent(kq, &ev, 1, NULL, 0, NULL);
}

static int wait_for(int kq, struct kevent *ev, long ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    return kevent(kq, NULL, 0, ev, 1, &t);
}

/* Two connected sockets of TCP on the loopback. */
static void dial(int s[2]) {
    struct sockaddr_in at;
    socklen_t len = sizeof(at);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    memset(&at, 0, sizeof(at));
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, len) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&at, &len) != 0 ||
        connect(s[0], (struct sockaddr *)&at, len) != 0) {
        perror("dial");
        exit(2);
    }
    s[1] = accept(listener, NULL, NULL);
    close(listener);
}

/* ---- the differences: true = libkqueue differs ---------------------------------- */

static bool both(void) {
    int s[2], kq = kqueue();
    dial(s);
    return change(kq, s[0], EVFILT_READ, EV_ADD, 0) == 0 &&
           change(kq, s[0], EVFILT_WRITE, EV_ADD, 0) != 0;
}

/* On a machine with other work the wait may last long enough by chance: one of many that is
 * over too early tells. */
static bool timeout(void) {
    struct kevent ev;
    struct timespec began, ended;
    int kq = kqueue();
    for (int i = 0; i < 100; i++) {
        clock_gettime(CLOCK_MONOTONIC, &began);
        wait_for(kq, &ev, 1999999);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        if ((ended.tv_sec - began.tv_sec) * 1000000000 + ended.tv_nsec - began.tv_nsec < 1999999) {
            return true;
        }
    }
    return false;
}

static bool urgent(void) {
    struct kevent ev;
    int s[2], kq = kqueue();
    dial(s);
    if (write(s[1], "abc", 3) != 3 || send(s[1], "!", 1, MSG_OOB) != 1 ||
        write(s[1], "def", 3) != 3) {
        return false;
    }
    usleep(20000);
    change(kq, s[0], EVFILT_READ, EV_ADD, 0);
    return wait_for(kq, &ev, 1000000000) == 1 && ev.data == 3;
}

static bool codes(void) {
    int s[2], kq = kqueue();
    dial(s);
    close(s[0]);
    return change(kq, s[0], EVFILT_READ, EV_ADD, 0) != 0 && errno != EBADF;
}

static bool native(void) {
    struct kevent ev;
    int s[2], kq = kqueue();
    struct pollfd p = {kq, POLLIN, 0};
    dial(s);
    if (write(s[1], "a", 1) != 1 || change(kq, s[0], EVFILT_READ, EV_ADD, 0) != 0 ||
        wait_for(kq, &ev, 1000000000) != 1) {
        return false;
    }
    return poll(&p, 1, 100) == 0 || (p.revents & POLLIN) == 0;
}

static bool error(void) {
    struct kevent ev;
    struct linger now = {1, 0};
    int left = 0, s[2], kq = kqueue();
    socklen_t len = sizeof(left);
    dial(s);
    change(kq, s[0], EVFILT_READ, EV_ADD, 0);
    setsockopt(s[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(s[1]);
    if (wait_for(kq, &ev, 1000000000) != 1 || ev.fflags != ECONNRESET) {
        return false;
    }
    return getsockopt(s[0], SOL_SOCKET, SO_ERROR, &left, &len) == 0 && left == 0;
}

static int count(const char *folder) {
    DIR *d = opendir(folder);
    int n = 0;
    while (d != NULL && readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

static bool thread(void) {
    int before = count("/proc/self/task");
    return kqueue() >= 0 && count("/proc/self/task") > before;
}

static bool descriptors(void) {
    int before = count("/proc/self/fd");
    return kqueue() >= 0 && count("/proc/self/fd") > before + 1;
}

static int signal_kq;

static void on_alarm(int number) {
    (void)number;
    change(signal_kq, 1, EVFILT_USER, 0, NOTE_TRIGGER);
}

/* A trigger is a system call on BSD, and so legal in a signal handler; here it takes a lock that
 * the thread it interrupts may hold. Runs until it hangs, which ends the process by SIGKILL. */
static bool signals(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        struct itimerval often = {{0, 50}, {0, 50}};
        struct kevent ev;
        signal_kq = kqueue();
        change(signal_kq, 1, EVFILT_USER, EV_ADD | EV_CLEAR, 0);
        signal(SIGALRM, on_alarm);
        setitimer(ITIMER_REAL, &often, NULL);
        for (int i = 0; i < 200000; i++) {
            wait_for(signal_kq, &ev, 0);
            change(signal_kq, 1, EVFILT_USER, 0, 0);
        }
        _exit(0);
    }
    for (int i = 0; i < 500; i++) {
        usleep(10000);
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return false;
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return true;
}

typedef struct difference {
    const char *word;
    bool (*differs)(void);
    const char *what;
} difference;

static const difference differences[] = {
    {"both", both, "EVFILT_READ and EVFILT_WRITE of one descriptor cannot be held together"},
    {"timeout", timeout, "a wait of 1.999999 ms is over after 1 ms"},
    {"urgent", urgent, "data of EVFILT_READ ends at the urgent mark"},
    {"codes", codes, "what EV_ADD fails with is not the system's code (EFAULT for EBADF)"},
    {"native", native, "a kqueue with a pending event does not poll as readable"},
    {"error", error, "the error in fflags has been taken out of the socket"},
    {"thread", thread, "a kqueue starts a thread"},
    {"descriptors", descriptors, "a kqueue takes several descriptors"},
    {"signal", signals, "NOTE_TRIGGER in a signal handler can hang for ever"},
};

/* Each in a process of its own: a kqueue that was closed is cleaned up by a thread, later. */
static int show(const difference *d) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        _exit(d->differs() ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 2;
    printf("%-12s%s: %s\n", d->word, status == 0 ? "differs" : "AS kqueue(2)", d->what);
    return status;
}

int main(int argc, char **argv) {
    int same = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof(differences) / sizeof(differences[0]); i++) {
        bool is_wanted = argc < 2;
        for (int a = 1; a < argc; a++) {
            is_wanted = is_wanted || strcmp(argv[a], differences[i].word) == 0;
        }
        same += is_wanted && show(&differences[i]) != 0;
    }
    return same == 0 ? 0 : 1;
}
