/* ---- errors --------------------------------------------------------------
 *
 * A call returns NETKIT_OK (0), a count of 0 or more, or one of these negative
 * codes. They are the same on every system; the code of the operating system is
 * kept beside them where there is one. X(name, value, text, retryable): a
 * retryable failure may go away by itself, so trying again later can help. */
/* clang-format off */
#define NETKIT_ERRORS(X)                                                               \
    X(NETKIT_E_INVALID,       -1,  "an argument is not valid",                      0) \
    X(NETKIT_E_NOMEM,         -2,  "out of memory or kernel buffers",               1) \
    X(NETKIT_E_AGAIN,         -3,  "nothing to do now, try again when ready",       1) \
    X(NETKIT_E_FULL,          -4,  "a queue or table is full for now",              1) \
    X(NETKIT_E_TOOBIG,        -5,  "larger than the limit can ever take",           0) \
    X(NETKIT_E_EOF,           -6,  "the peer ended the stream",                     0) \
    X(NETKIT_E_RESET,         -7,  "the peer reset the connection",                 1) \
    X(NETKIT_E_REFUSED,       -8,  "the connection was refused",                    1) \
    X(NETKIT_E_TIMEOUT,       -9,  "the time allowed is over",                      1) \
    X(NETKIT_E_CANCELLED,     -10, "cancelled before it was done",                  0) \
    X(NETKIT_E_STALE,         -11, "the handle names nothing that is alive",        0) \
    X(NETKIT_E_CLOSED,        -12, "already closed or closing",                     0) \
    X(NETKIT_E_BUSY,          -13, "not allowed at this moment",                    0) \
    X(NETKIT_E_THREAD,        -14, "called on the wrong thread",                    0) \
    X(NETKIT_E_TRUNCATED,     -15, "cut short before its end",                      0) \
    X(NETKIT_E_NOSYS,         -16, "not available on this system or build",         0) \
    X(NETKIT_E_EXISTS,        -17, "already there",                                 0) \
    X(NETKIT_E_NOTFOUND,      -18, "not there",                                     0) \
    X(NETKIT_E_ADDRINUSE,     -19, "the address is in use",                         1) \
    X(NETKIT_E_ADDRNOTAVAIL,  -20, "the address is not one of this machine's",      0) \
    X(NETKIT_E_UNREACHABLE,   -21, "no route to the host or network",               1) \
    X(NETKIT_E_ACCESS,        -22, "permission denied",                             0) \
    X(NETKIT_E_MFILE,         -23, "no descriptor left in the process or system",   1) \
    X(NETKIT_E_NOTCONN,       -24, "the socket is not connected",                   0) \
    X(NETKIT_E_ABORTED,       -25, "the connection was aborted on this machine",    1) \
    X(NETKIT_E_INTERRUPTED,   -26, "interrupted by a signal",                       1) \
    X(NETKIT_E_IO,            -27, "an error of the system without a code of ours", 0)
/* clang-format on */

typedef enum netkit_error {
    NETKIT_OK = 0,
#define NETKIT_ERRORS_ENUM(name, value, text, retryable) name = value,
    NETKIT_ERRORS(NETKIT_ERRORS_ENUM)
#undef NETKIT_ERRORS_ENUM
    NETKIT_E_LAST_ = -27
} netkit_error;

/* Name of a code ("NETKIT_E_TIMEOUT"); "NETKIT_OK" for 0 and every count,
 * "NETKIT_E_UNKNOWN" for a number that is no code. Static memory.
 * Thread: any. */
NETKIT_API const char *netkit_error_name(int code);

/* One phrase in English for a code. Static memory. Thread: any. */
NETKIT_API const char *netkit_error_text(int code);

/* Whether trying the same again later can help. Thread: any. */
NETKIT_API bool netkit_error_is_retryable(int code);

/* Map a code of the operating system (errno, or WSAGetLastError on Windows) to
 * a netkit code; 0 gives NETKIT_OK, an unknown one NETKIT_E_IO.
 * Thread: any. */
NETKIT_API int netkit_error_from_os(int os_code);
