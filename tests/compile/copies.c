/* Two copies of the library in one process, each private to a shared object (copy.c): both have a
 * loop on this thread at a time, talk to each other, and one goes on when the other has ended. */
#include "copies.h"
#include <stdio.h>

/* Turns of both, or of the second alone, until each has so many echoes. 0 = they came. */
static int turn(int is_alone, int one, int two) {
    for (int i = 0; i < 2000; i++) {
        if (copy_one(COPY_HEARD, 0) == one && copy_two(COPY_HEARD, 0) == two) {
            return 0;
        }
        if ((!is_alone && copy_one(COPY_TURN, 0) < 0) || copy_two(COPY_TURN, 0) < 0) {
            return 1;
        }
    }
    return 1;
}

int main(void) {
    int one = copy_one(COPY_BEGIN, 0), two = copy_two(COPY_BEGIN, 0);
    int failed = one <= 0 || two <= 0;
    failed = failed || copy_one(COPY_DIAL, two) != 0 || copy_two(COPY_DIAL, one) != 0;
    failed = failed || turn(0, 1, 1) != 0 || copy_one(COPY_END, 0) != 0;
    failed = failed || copy_two(COPY_DIAL, two) != 0 || turn(1, 1, 2) != 0;
    failed = failed || copy_two(COPY_END, 0) != 0;
    printf("echoes: %d and %d\n", copy_one(COPY_HEARD, 0), copy_two(COPY_HEARD, 0));
    return failed;
}
