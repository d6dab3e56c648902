/* What it costs to wake a loop that waits in its ring: two threads post to each other in turn, and
 * the CPU time of both is divided by the posts.
 *
 * usage: wake MEANS POSTS MILLISECONDS
 *
 * MEANS  eventfd   a write to an eventfd, for which a poll that goes on waits: netkit's way where
 *                  the kernel has no other
 *        read      the same, and it is read empty each time
 *        message   MSG_RING from the sender's own ring, submitted at once
 *        register  the same by IORING_REGISTER_SEND_MSG_RING, which needs no ring to send from:
 *                  netkit's way
 * POSTS  a turn: 1, and each finds the other thread asleep; more, and most find it at work; 0, and
 *        one thread posts and receives by turns: the calls alone, without sleep and other cores
 *
 * A post is a count in memory, as netkit's is an entry in a queue: a wake may stand for several.
 * Prints {"rate", "server_us"}: posts a second, CPU time of both threads for one of them. */
#include "bare_ring.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>

enum {
    WARM_TURNS = 2000,
    TURNS = 100, /* between looks at the clock */
    DATA_WAKE = 1
};

typedef struct side {
    bare_ring ring;
    int event_fd;
    int core;
    bool is_armed;
    uint64_t due;    /* so many posts have been asked for */
    uint64_t posted; /* so many have come: written by the other side */
    struct side *other;
    char apart[64]; /* each side in lines of its own */
} side;

static enum {
    BY_EVENTFD,
    BY_READ,
    BY_MESSAGE,
    BY_REGISTER
} means;
static uint64_t posts_a_turn;
static uint64_t time_ns;
static bool is_alone; /* there is one thread */
static bool is_over;
static side sides[2];
static pthread_barrier_t ready;

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- sending ---- */

static void fill_message(ring_sqe *sqe, const side *to) {
    sqe->opcode = OP_MSG_RING;
    sqe->fd = to->ring.fd;
    sqe->off = DATA_WAKE; /* its user_data there */
}

static void wake(side *from, const side *to) {
    static const uint64_t one = 1;
    ring_sqe sqe;
    switch (means) {
    case BY_MESSAGE:
        fill_message(bare_take(&from->ring, OP_MSG_RING, -1), to);
        from->ring.sqes[(from->ring.sqe_tail - 1) & from->ring.sq_mask].flags = SQE_SKIP_SUCCESS;
        bare_enter(&from->ring, 0, 0);
        break;
    case BY_REGISTER:
        memset(&sqe, 0, sizeof sqe);
        fill_message(&sqe, to);
        if (syscall(NR_REGISTER, -1, REGISTER_SEND_MSG_RING, &sqe, 1) != 0) {
            bare_die("needs Linux 6.13: IORING_REGISTER_SEND_MSG_RING");
        }
        break;
    default:
        if (write(to->event_fd, &one, sizeof one) != (ssize_t)sizeof one) {
            bare_die("eventfd");
        }
    }
}

static void post_all(side *from) {
    for (uint64_t i = 0; i < posts_a_turn; i++) {
        __atomic_add_fetch(&from->other->posted, 1, __ATOMIC_RELEASE);
        wake(from, from->other);
    }
}

/* ---- receiving ---- */

static void arm(side *s) {
    ring_sqe *sqe = bare_take(&s->ring, OP_POLL, s->event_fd);
    sqe->len = POLL_MULTISHOT;
    sqe->op_flags = POLLIN;
    sqe->user_data = DATA_WAKE;
    s->is_armed = true;
}

static void drain(side *s) {
    uint64_t count;
    if (read(s->event_fd, &count, sizeof count) < 0 && errno != EAGAIN) {
        bare_die("eventfd");
    }
}

static void on_completed(side *s, const ring_cqe *cqe) {
    if (cqe->user_data != DATA_WAKE) { /* of a message that failed */
        errno = -cqe->res;
        bare_die("needs Linux 5.18: MSG_RING");
    }
    if (means == BY_EVENTFD || means == BY_READ) {
        s->is_armed = (cqe->flags & CQE_MORE) != 0;
        if (means == BY_READ || !s->is_armed) {
            drain(s);
        }
    }
}

static void wait_turn(side *s) {
    s->due += posts_a_turn;
    do {
        if (!s->is_armed && (means == BY_EVENTFD || means == BY_READ)) {
            arm(s);
        }
        bare_enter(&s->ring, 1, ENTER_GETEVENTS);
        uint32_t head = *s->ring.cq_head;
        uint32_t tail = __atomic_load_n(s->ring.cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            on_completed(s, &s->ring.cqes[head & s->ring.cq_mask]);
        }
        __atomic_store_n(s->ring.cq_head, head, __ATOMIC_RELEASE);
    } while (__atomic_load_n(&s->posted, __ATOMIC_ACQUIRE) < s->due);
}

/* ---- the two threads ---- */

static void side_open(side *s) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)s->core, &set);
    (void)sched_setaffinity(0, sizeof set, &set); /* with one core both share it */
    s->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->event_fd < 0) {
        bare_die("eventfd");
    }
    bare_open(&s->ring);
}

static void *answer(void *arg) {
    side *s = (side *)arg;
    side_open(s);
    pthread_barrier_wait(&ready);
    for (;;) {
        wait_turn(s);
        if (__atomic_load_n(&is_over, __ATOMIC_ACQUIRE)) {
            return NULL;
        }
        post_all(s);
    }
}

static void take_turns(side *s, uint64_t turns) {
    for (uint64_t i = 0; i < turns; i++) {
        post_all(s);
        wait_turn(is_alone ? s->other : s);
    }
}

static void measure(side *s) {
    uint64_t turns = 0;
    take_turns(s, WARM_TURNS);
    uint64_t began = clock_ns(CLOCK_MONOTONIC), cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t end = began;
    for (; end - began < time_ns; end = clock_ns(CLOCK_MONOTONIC)) {
        take_turns(s, TURNS);
        turns += TURNS;
    }
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    double posts = (is_alone ? 1.0 : 2.0) * (double)turns * (double)posts_a_turn;
    printf("{\"rate\":%.0f,\"server_us\":%.4f}\n", posts * 1e9 / (double)(end - began),
           (double)cpu / 1e3 / posts);
}

static void parse(int argc, char **argv) {
    static const char *const names[] = {"eventfd", "read", "message", "register"};
    for (unsigned i = 0; argc == 4 && i < 4; i++) {
        if (strcmp(argv[1], names[i]) == 0) {
            means = i;
            posts_a_turn = strtoull(argv[2], NULL, 10);
            time_ns = strtoull(argv[3], NULL, 10) * 1000000u;
        }
    }
    if (time_ns == 0 || posts_a_turn > CQ_ENTRIES / 2) {
        fputs("usage: wake eventfd|read|message|register POSTS MILLISECONDS\n", stderr);
        exit(2);
    }
    is_alone = posts_a_turn == 0;
    posts_a_turn += is_alone ? 1 : 0;
}

int main(int argc, char **argv) {
    pthread_t thread;
    parse(argc, argv);
    alarm(60);
    sides[0].other = &sides[1];
    sides[1].other = &sides[0];
    sides[1].core = is_alone ? 0 : 1;
    side_open(&sides[0]);
    if (is_alone) {
        side_open(&sides[1]);
        measure(&sides[0]);
        return 0;
    }
    pthread_barrier_init(&ready, NULL, 2);
    if (pthread_create(&thread, NULL, answer, &sides[1]) != 0) {
        bare_die("pthread_create");
    }
    pthread_barrier_wait(&ready);
    measure(&sides[0]);
    __atomic_store_n(&is_over, true, __ATOMIC_RELEASE);
    post_all(&sides[0]);
    pthread_join(thread, NULL);
    return 0;
}
