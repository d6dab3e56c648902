/* ---- memory, log, clock: what a program may replace ----------------------- */

/* Memory for one loop or object. Leave all zero for malloc and free (or what
 * NETKIT_MALLOC and NETKIT_FREE say). `alloc` returns memory aligned for any
 * type, or NULL; `free` gets the size that was asked for. Both are called on the
 * thread of the loop only; free also where netkit_buf_release says so. */
typedef struct netkit_allocator {
    void *user;
    void *(*alloc)(size_t size, void *user);
    void (*free)(void *memory, size_t size, void *user);
} netkit_allocator;

enum {
    NETKIT_LOG_ERROR = 1,
    NETKIT_LOG_WARN = 2,
    NETKIT_LOG_INFO = 3,
    NETKIT_LOG_DEBUG = 4
};

/* A log line: level, a stable id (NETKIT_LOGID_*), a sentence valid during the
 * call, and the code of the operating system or 0. Called on the thread of the
 * loop (the hint about a wrong thread: on that one); must not call the loop back.
 * NULL = silence: netkit never prints. */
typedef struct netkit_logger {
    void *user;
    void (*log)(int level, int id, const char *text, int os_code, void *user);
} netkit_logger;

/* Ids of log lines. */
/* clang-format off */
#define NETKIT_LOGIDS(X)                                                                       \
    X(NETKIT_LOGID_BACKEND,         1,  "the backend chosen and why")                          \
    X(NETKIT_LOGID_ACCEPT,          2,  "accepting failed and backs off")                      \
    X(NETKIT_LOGID_WRONG_THREAD,    3,  "a call came from a thread the loop is not owned by")  \
    X(NETKIT_LOGID_NESTED_RUN,      4,  "the loop was run from inside one of its callbacks")   \
    X(NETKIT_LOGID_LEAKED_HANDLE,   5,  "an object was still open at netkit_loop_destroy")     \
    X(NETKIT_LOGID_SLOW_CALLBACK,   6,  "a callback held the loop for too long")               \
    X(NETKIT_LOGID_IGNORED_SEND,    7,  "a refused send was ignored by a duplex connection")   \
    X(NETKIT_LOGID_OS_ERROR,        8,  "a system call failed that should not")
/* clang-format on */

enum {
#define NETKIT_LOGIDS_ENUM(name, value, text) name = value,
    NETKIT_LOGIDS(NETKIT_LOGIDS_ENUM)
#undef NETKIT_LOGIDS_ENUM
    NETKIT_LOGID_LAST_ = 8
};

/* A clock of one's own, for tests: nanoseconds that never go back. All zero =
 * the monotonic clock of the system. */
typedef struct netkit_clock {
    void *user;
    uint64_t (*now_ns)(void *user);
} netkit_clock;

/* A span of bytes that somebody else owns. */
typedef struct netkit_span {
    const void *data;
    size_t len;
} netkit_span;

/* Room for bytes that a call fills. */
typedef struct netkit_room {
    void *data;
    size_t len;
} netkit_room;
