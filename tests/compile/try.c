/* NETKIT_TRY as the compiler's own language has it: longjmp in C, exceptions in C++. A program:
 * ends with status 0 when all blocks ran in order. proves: ER06 */
#define NETKIT_WITH_TRY
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
#include <string.h>
#include "../try.h"

static int try_differs(int error, int expected_error, const try_notes *n, const char *expected) {
    return error != expected_error || strcmp(n->text, expected) != 0;
}

#ifdef __cplusplus
/* A foreign exception and one for another frame: FINALLY runs, then they go on. */
static int try_foreign(void) {
    try_notes n = {};
    netkit_try outer;
    int caught = 0;
    NETKIT_TRY(outer) {
        netkit_try inner;
        NETKIT_TRY(inner) {
            NETKIT_RAISE(outer, NETKIT_E_FULL);
        }
        NETKIT_EXCEPT(inner) {
            try_note(&n, 'e');
        }
        NETKIT_FINALLY(inner) {
            try_note(&n, 'f');
        }
        NETKIT_TRY_END(inner);
        try_note(&n, 'o');
    }
    NETKIT_EXCEPT(outer) {
        try_note(&n, 'E');
        try {
            netkit_try again;
            NETKIT_TRY(again) {
                throw 5;
            }
            NETKIT_EXCEPT(again) {
                try_note(&n, 'a');
            }
            NETKIT_FINALLY(again) {
                try_note(&n, 'A');
            }
            NETKIT_TRY_END(again);
        } catch (int five) {
            caught = five;
        }
    }
    NETKIT_FINALLY(outer) {
        try_note(&n, 'F');
    }
    NETKIT_TRY_END(outer);
    return caught != 5 || try_differs(outer.error, NETKIT_E_FULL, &n, "fEAF");
}
#else
static int try_foreign(void) {
    return 0;
}
#endif

int main(void) {
    try_notes n[4];
    int bad = 0;
    memset(n, 0, sizeof n);
    bad |= try_differs(try_once(&n[0], 0, 0), NETKIT_OK, &n[0], "bBf");
    bad |=
        try_differs(try_once(&n[1], NETKIT_E_RESET, NETKIT_E_NOMEM), NETKIT_E_NOMEM, &n[1], "bxf");
    bad |= try_differs(try_nested(&n[2], NETKIT_E_TIMEOUT), NETKIT_E_TIMEOUT, &n[2], "efEF");
    bad |= try_differs(try_raise_zero(&n[3]), NETKIT_E_IO, &n[3], "xf");
    return bad | try_foreign();
}
