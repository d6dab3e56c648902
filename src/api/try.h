/* ---- TRY, EXCEPT, FINALLY: opt-in by #define NETKIT_WITH_TRY -----------------
 *
 * A layer over the error codes for code with many calls and one way out:
 *
 *     netkit_try t;
 *     NETKIT_TRY(t) {
 *         NETKIT_CHECK(t, netkit_loop_create(&loop, NULL));
 *         NETKIT_CHECK(t, netkit_listen(loop, &desc, NULL));
 *     }
 *     NETKIT_EXCEPT(t) { printf("%s\n", netkit_error_text(t.error)); }
 *     NETKIT_FINALLY(t) { netkit_loop_destroy(loop); }
 *     NETKIT_TRY_END(t);
 *
 * All four stand in this order in one function. NETKIT_CHECK leaves the block when its
 * value is negative, NETKIT_RAISE always; EXCEPT runs only then, FINALLY always
 * (also when EXCEPT raises again). Afterwards t.error is what was raised last, or 0, to
 * be returned or raised with the frame of an outer TRY. There is no hidden stack of
 * frames: a function that may raise is given the frame, as a netkit_try *.
 *
 * In C++ these are exceptions (netkit_exception): destructors run, and one that is not
 * this frame's passes through, on from NETKIT_TRY_END, after FINALLY.
 *
 * Traps in C, those of setjmp (C11 7.13.2.1): a local variable that is changed inside
 * TRY and read after an error must be volatile (`loop` above); never leave a block by
 * return, break or goto; raise only while the function that holds the frame has not
 * returned; and never raise across a callback of netkit's: a callback returns. */
#if defined(NETKIT_WITH_TRY) && !defined(NETKIT_TRY)
enum {
    NETKIT_TRY_BODY = 0,
    NETKIT_TRY_ERROR = 1,
    NETKIT_TRY_FINAL = 2,
    NETKIT_TRY_OVER = 3
};

#ifdef __cplusplus
#include <exception>

struct netkit_try {
    int error; /* what was raised last, or 0 */
    std::exception_ptr pending;
};

/* What NETKIT_RAISE throws. */
struct netkit_exception : public std::exception {
    int error;
    const netkit_try *frame;
    netkit_exception(int e, const netkit_try *f) : error(e), frame(f) {}
    const char *what() const noexcept override {
        return netkit_error_text(error);
    }
};

#define NETKIT_RAISE_TO(the_try, code) throw netkit_exception((code), (the_try))
#define NETKIT_TRY(the_try)      \
    (the_try).error = 0;         \
    (the_try).pending = nullptr; \
    try {                        \
        try
#define NETKIT_EXCEPT(the_try)                      \
    catch (const netkit_exception &netkit_raised) { \
        if (netkit_raised.frame != &(the_try)) {    \
            throw;                                  \
        }                                           \
        (the_try).error = netkit_raised.error;      \
    }                                               \
    if ((the_try).error != 0)
#define NETKIT_TRY_REMEMBER(the_try)                      \
    catch (const netkit_exception &netkit_raised) {       \
        if (netkit_raised.frame == &(the_try)) {          \
            (the_try).error = netkit_raised.error;        \
        } else {                                          \
            (the_try).pending = std::current_exception(); \
        }                                                 \
    }                                                     \
    catch (...) {                                         \
        (the_try).pending = std::current_exception();     \
    }
#define NETKIT_FINALLY(the_try)  \
    }                            \
    NETKIT_TRY_REMEMBER(the_try) \
    try
#define NETKIT_TRY_END(the_try)                        \
    NETKIT_TRY_REMEMBER(the_try)                       \
    do {                                               \
        if ((the_try).pending) {                       \
            std::rethrow_exception((the_try).pending); \
        }                                              \
    } while (0)

#else
#include <setjmp.h>

typedef struct netkit_try {
    volatile int error; /* what was raised last, or 0 */
    volatile int phase;
    jmp_buf place;
} netkit_try;

/* From one block to the next that has to run. */
#define NETKIT_RAISE_TO(the_try, code)                                   \
    ((the_try)->error = (code), (the_try)->phase = (the_try)->phase + 1, \
     longjmp((the_try)->place, 1))
#define NETKIT_TRY(the_try)            \
    (the_try).error = 0;               \
    (the_try).phase = NETKIT_TRY_BODY; \
    (void)setjmp((the_try).place);     \
    if ((the_try).phase == NETKIT_TRY_BODY)
#define NETKIT_EXCEPT(the_try) if ((the_try).phase == NETKIT_TRY_ERROR)
#define NETKIT_FINALLY(the_try)               \
    if ((the_try).phase < NETKIT_TRY_FINAL) { \
        (the_try).phase = NETKIT_TRY_FINAL;   \
    }                                         \
    if ((the_try).phase == NETKIT_TRY_FINAL)
#define NETKIT_TRY_END(the_try) ((void)((the_try).phase = NETKIT_TRY_OVER))
#endif

/* Leave the block with an error; 0 is raised as NETKIT_E_INVALID. */
#define NETKIT_RAISE(the_try, code) \
    NETKIT_RAISE_TO(&(the_try), (code) == 0 ? (int)NETKIT_E_INVALID : (code))

/* Leave the block when a call failed. */
#define NETKIT_CHECK(the_try, call)                      \
    do {                                                 \
        int netkit_checked = (call);                     \
        if (netkit_checked < 0) {                        \
            NETKIT_RAISE_TO(&(the_try), netkit_checked); \
        }                                                \
    } while (0)
#endif /* NETKIT_WITH_TRY */
