/* The story of netkit_try, told the same as C and as C++: each block notes that it ran. */

typedef struct try_notes {
    char text[64];
    unsigned len;
} try_notes;

static void try_note(try_notes *n, char what) {
    if (n->len + 1 < sizeof n->text) {
        n->text[n->len++] = what;
        n->text[n->len] = 0;
    }
}

static void try_deep(netkit_try *t, int code) {
    NETKIT_CHECK(*t, code);
}

/* b: body began, B: ended; x: except; f: finally. Raises `body` in the body, `except` in the
 * except block; 0 = does not. */
static int try_once(try_notes *n, int body, int except) {
    netkit_try t;
    NETKIT_TRY(t) {
        try_note(n, 'b');
        try_deep(&t, body);
        try_note(n, 'B');
    }
    NETKIT_EXCEPT(t) {
        try_note(n, 'x');
        try_deep(&t, except);
        try_note(n, 'X');
    }
    NETKIT_FINALLY(t) {
        try_note(n, 'f');
    }
    NETKIT_TRY_END(t);
    return t.error;
}

/* An inner block that raises with its own frame and hands on to the outer one. */
static int try_nested(try_notes *n, int inner_code) {
    netkit_try outer;
    NETKIT_TRY(outer) {
        netkit_try inner;
        NETKIT_TRY(inner) {
            NETKIT_CHECK(inner, inner_code);
            try_note(n, 'i');
        }
        NETKIT_EXCEPT(inner) {
            try_note(n, 'e');
        }
        NETKIT_FINALLY(inner) {
            try_note(n, 'f');
        }
        NETKIT_TRY_END(inner);
        NETKIT_CHECK(outer, inner.error);
        try_note(n, 'o');
    }
    NETKIT_EXCEPT(outer) {
        try_note(n, 'E');
    }
    NETKIT_FINALLY(outer) {
        try_note(n, 'F');
    }
    NETKIT_TRY_END(outer);
    return outer.error;
}

static int try_raise_zero(try_notes *n) {
    netkit_try t;
    NETKIT_TRY(t) {
        NETKIT_RAISE(t, 0);
    }
    NETKIT_EXCEPT(t) {
        try_note(n, 'x');
    }
    NETKIT_FINALLY(t) {
        try_note(n, 'f');
        NETKIT_RAISE(t, NETKIT_E_IO); /* ends the block, not the program */
    }
    NETKIT_TRY_END(t);
    return t.error;
}
