/* A loop that a program may have, here WaitForMultipleObjects: of embed.c. It waits for an event
 * of Ctrl-C, for a thread that reads standard input, and for netkit's handle. foreign_posix.h is
 * the same for POSIX. */
#include <winsock2.h>
#include <windows.h>

#include <stdio.h>

enum {
    FOREIGN_LOOK_MS = 10
};

static HANDLE foreign_stop, foreign_has_line, foreign_wants_line;
static char foreign_line[512];
static DWORD foreign_len;

static BOOL WINAPI foreign_on_signal(DWORD number) {
    (void)number;
    return SetEvent(foreign_stop);
}

/* Standard input may be what cannot be waited for. */
static DWORD WINAPI foreign_reader(void *user) {
    HANDLE input = GetStdHandle(STD_INPUT_HANDLE);
    (void)user;
    while (WaitForSingleObject(foreign_wants_line, INFINITE) == WAIT_OBJECT_0 &&
           ReadFile(input, foreign_line, sizeof foreign_line, &foreign_len, NULL) &&
           foreign_len > 0) {
        SetEvent(foreign_has_line);
    }
    return 0; /* the end of our input is not the end of the server */
}

static bool foreign_open(void) {
    foreign_stop = CreateEventW(NULL, TRUE, FALSE, NULL);
    foreign_has_line = CreateEventW(NULL, FALSE, FALSE, NULL);
    foreign_wants_line = CreateEventW(NULL, FALSE, TRUE, NULL);
    HANDLE thread = CreateThread(NULL, 0, foreign_reader, NULL, 0, NULL);
    if (!foreign_stop || !foreign_has_line || !foreign_wants_line || !thread) {
        return false;
    }
    CloseHandle(thread); /* it ends with the program */
    return SetConsoleCtrlHandler(foreign_on_signal, TRUE) != 0;
}

static void foreign_close(void) {
    SetConsoleCtrlHandler(foreign_on_signal, FALSE);
    CloseHandle(foreign_stop);
}

/* Until Ctrl-C comes; on_line gets what is typed. */
static int foreign_run(netkit_loop *loop,
                       void (*on_line)(netkit_loop *loop, const char *text, size_t len)) {
    HANDLE all[3] = {foreign_stop, foreign_has_line, NULL};
    uintptr_t native = 0;
    bool has_native = netkit_loop_native(loop, &native) == NETKIT_OK;
    all[2] = (HANDLE)native;
    for (;;) {
        int timeout_ms = netkit_loop_timeout_ms(loop);
        if (!has_native && (timeout_ms < 0 || timeout_ms > FOREIGN_LOOK_MS)) {
            timeout_ms = FOREIGN_LOOK_MS; /* a backend with nothing to wait for: look often */
        }
        DWORD got = WaitForMultipleObjects(has_native ? 3 : 2, all, FALSE,
                                           timeout_ms < 0 ? INFINITE : (DWORD)timeout_ms);
        if (got == WAIT_OBJECT_0) {
            return NETKIT_OK;
        }
        if (got == WAIT_OBJECT_0 + 1) {
            on_line(loop, foreign_line, foreign_len);
            SetEvent(foreign_wants_line);
        }
        int code = got == WAIT_FAILED ? NETKIT_E_IO : netkit_loop_poll(loop, -1);
        if (code < 0) {
            return code;
        }
    }
}
