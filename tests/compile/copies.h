/* What two copies of the library in one process are told to do, by tests/compile/copies.c. */
#ifndef COPIES_H
#define COPIES_H

enum {
    COPY_BEGIN, /* makes a loop and listens; tells its port */
    COPY_DIAL,  /* connects to that port and says a word */
    COPY_TURN,  /* one turn */
    COPY_HEARD, /* tells how many echoes came back */
    COPY_END
};

/* 0, or what was told; less than 0 when it failed. */
int copy_one(int step, int port);
int copy_two(int step, int port);

#endif
