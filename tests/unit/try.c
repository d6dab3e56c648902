/* TRY, EXCEPT, FINALLY in C; tests/compile/try.c tells the same story in C++. */
#include "../try.h"

static int try_told(int (*tell)(try_notes *), const char *expected) {
    try_notes n;
    memset(&n, 0, sizeof n);
    int error = tell(&n);
    CHECK_STR(n.text, expected);
    return error;
}

static int try_good(try_notes *n) {
    return try_once(n, NETKIT_OK, NETKIT_OK);
}
static int try_count(try_notes *n) {
    return try_once(n, 7, NETKIT_OK);
}
static int try_bad(try_notes *n) {
    return try_once(n, NETKIT_E_RESET, NETKIT_OK);
}
static int try_worse(try_notes *n) {
    return try_once(n, NETKIT_E_RESET, NETKIT_E_NOMEM);
}
static int try_inner_good(try_notes *n) {
    return try_nested(n, NETKIT_OK);
}
static int try_inner_bad(try_notes *n) {
    return try_nested(n, NETKIT_E_TIMEOUT);
}

/* ER06: errors come by return code; who wants blocks gets them: EXCEPT runs on an error alone,
 * FINALLY always, the frame keeps what was raised last, and nothing is raised behind one's back. */
NKT_TEST(try_blocks_run_in_order) {
    CHECK_EQ(try_told(try_good, "bBf"), NETKIT_OK);
    CHECK_EQ(try_told(try_count, "bBf"), NETKIT_OK);
    CHECK_EQ(try_told(try_bad, "bxXf"), NETKIT_E_RESET);
    CHECK_EQ(try_told(try_worse, "bxf"), NETKIT_E_NOMEM);
    CHECK_EQ(try_told(try_inner_good, "ifoF"), NETKIT_OK);
    CHECK_EQ(try_told(try_inner_bad, "efEF"), NETKIT_E_TIMEOUT);
    CHECK_EQ(try_told(try_raise_zero, "xf"), NETKIT_E_IO);
}
