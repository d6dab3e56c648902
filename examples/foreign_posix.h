/* A loop that a program may have, here poll(2): of embed.c. It waits for a pipe for signals, for
 * standard input, and for netkit's descriptor. foreign_windows.h is the same for Windows. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

enum {
    FOREIGN_LOOK_MS = 10
};

static int foreign_pipe[2];

static void foreign_on_signal(int number) {
    char byte = (char)number;
    if (write(foreign_pipe[1], &byte, 1) < 0) {
        return; /* nothing can be done about it here */
    }
}

static bool foreign_open(void) {
    if (pipe(foreign_pipe)) {
        return false;
    }
    signal(SIGINT, foreign_on_signal);
    signal(SIGTERM, foreign_on_signal);
    return true;
}

static void foreign_close(void) {
    close(foreign_pipe[0]);
    close(foreign_pipe[1]);
}

/* Until a signal comes; on_line gets what is typed. */
static int foreign_run(netkit_loop *loop,
                       void (*on_line)(netkit_loop *loop, const char *text, size_t len)) {
    struct pollfd fds[3] = {{0, POLLIN, 0}, {0, POLLIN, 0}, {0, POLLIN, 0}};
    uintptr_t native = 0;
    bool has_native = netkit_loop_native(loop, &native) == NETKIT_OK;
    fds[0].fd = foreign_pipe[0];
    fds[1].fd = STDIN_FILENO;
    fds[2].fd = has_native ? (int)native : -1; /* poll(2) passes over -1 */
    for (;;) {
        int timeout_ms = netkit_loop_timeout_ms(loop);
        if (!has_native && (timeout_ms < 0 || timeout_ms > FOREIGN_LOOK_MS)) {
            timeout_ms = FOREIGN_LOOK_MS; /* a backend with nothing to wait for: look often */
        }
        if (poll(fds, 3, timeout_ms) < 0) {
            if (errno == EINTR) {
                continue; /* the signal is in the pipe */
            }
            return NETKIT_E_IO;
        }
        if (fds[0].revents) {
            return NETKIT_OK;
        }
        if (fds[1].revents) {
            char line[512];
            ssize_t n = read(STDIN_FILENO, line, sizeof line);
            if (n > 0) {
                on_line(loop, line, (size_t)n);
            } else {
                fds[1].fd = -1; /* the end of our input is not the end of the server */
            }
        }
        int code = netkit_loop_poll(loop, -1);
        if (code < 0) {
            return code;
        }
    }
}
