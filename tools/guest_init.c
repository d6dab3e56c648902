/* The first and only program of a guest that runs the tests under another kernel (tools/guest):
 * it sets up what they need, runs /suite once for each line of /runs, says how each ended, and
 * switches the machine off. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum {
    GUEST_WORDS = 32,
    GUEST_LINE = 1024
};

static void guest_write(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) {
        perror(path);
    }
}

static void guest_mount(const char *type, const char *place) {
    mkdir(place, 0755);
    if (mount(type, place, type, 0, NULL) != 0) {
        perror(place);
    }
}

/* The loopback interface is there, and down. */
static void guest_loopback(void) {
    struct ifreq request;
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    memset(&request, 0, sizeof(request));
    memcpy(request.ifr_name, "lo", 3);
    if (s < 0 || ioctl(s, SIOCGIFFLAGS, &request) != 0) {
        perror("lo");
        return;
    }
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP | IFF_RUNNING);
    if (ioctl(s, SIOCSIFFLAGS, &request) != 0) {
        perror("lo");
    }
    close(s);
}

/* Open for good: when the first socket asks for times of arrival, and when the last of them goes, the
 * kernel patches its own code (net_timestamp_check), and with several emulated processors one that
 * is just there now and then stumbles over it: a panic at an "int3". */
static void guest_keep_times(void) {
    int on = 1;
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0 || setsockopt(s, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) != 0) {
        perror("times");
    }
}

static void guest_set_up(void) {
    struct rlimit files;
    int console;
    guest_mount("proc", "/proc");
    guest_mount("sysfs", "/sys");
    guest_mount("devtmpfs", "/dev");
    guest_mount("tmpfs", "/tmp");
    console = open("/dev/console", O_RDWR);
    if (console >= 0) {
        dup2(console, STDIN_FILENO);
        dup2(console, STDOUT_FILENO);
        dup2(console, STDERR_FILENO);
    }
    files.rlim_cur = files.rlim_max = 16384;
    setrlimit(RLIMIT_NOFILE, &files);
    /* By default as many as little memory is worth: beyond them TIME_WAIT is left out. */
    guest_write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "65536");
    guest_loopback();
    guest_keep_times();
}

/* Run the suite with the words of one line; returns its exit status, or -1. */
static int guest_run(char *line) {
    char name[] = "/suite";
    char *words[GUEST_WORDS + 2];
    int count = 0, status = 0;
    pid_t pid;
    words[count++] = name;
    for (char *word = strtok(line, " \n"); word != NULL && count <= GUEST_WORDS;
         word = strtok(NULL, " \n")) {
        words[count++] = word;
    }
    words[count] = NULL;
    pid = fork();
    if (pid == 0) {
        execv(name, words);
        perror(name);
        _exit(127);
    }
    /* Orphans of the tests are this process's to bury. */
    for (pid_t ended = 0; ended != pid && pid > 0;) {
        ended = waitpid(-1, &status, 0);
        if (ended < 0) {
            return -1;
        }
    }
    return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(void) {
    struct utsname system;
    char line[GUEST_LINE];
    FILE *runs;
    if (getpid() != 1) {
        fputs("this is the init of a guest: tools/guest\n", stderr);
        return 2;
    }
    guest_set_up();
    uname(&system);
    printf("guest: Linux %s %s\n", system.release, system.machine);
    runs = fopen("/runs", "r");
    while (runs != NULL && fgets(line, sizeof(line), runs) != NULL) {
        printf("guest: exit %d\n", guest_run(line));
        fflush(stdout);
    }
    printf("guest: done\n");
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
    reboot(RB_POWER_OFF);
    return 0;
}
