/* The same script on each backend: what each conn is told must be the same. */

#include "support.h"

enum {
    SAME_CONNS = 3,
    SAME_STEPS = 40
};

/* What a conn was told, the positions in its streams, and how it stands in the script. */
typedef struct same_side {
    sup_end end;
    sup_peer peer;
    uint64_t sent; /* by us */
    bool is_paused, has_ended, is_over;
} same_side;

typedef struct same_run {
    const char *backend;
    same_side sides[SAME_CONNS];
    uint64_t random;
} same_run;

static uint64_t same_random(same_run *run) {
    run->random = run->random * 6364136223846793005u + 1442695040888963407u;
    return run->random >> 33;
}

/* Turn until all that the peer has sent was used. */
static void same_catch_up(netkit_loop *loop, same_side *side) {
    if (side->is_paused || side->is_over) {
        return;
    }
    SUP_UNTIL_DOING(loop, side->end.bytes == side->peer.sent) {
        sup_peer_step(&side->peer);
        if (sup_unread(&side->end) != 0) {
            CHECK_OK(netkit_conn_resume(loop, side->end.conn));
        }
    }
    NKT_COUNT_CHECK();
}

static void same_hear(netkit_loop *loop, same_side *side) {
    SUP_UNTIL_DOING(loop, side->peer.received == side->sent) {
        sup_peer_step(&side->peer);
    }
}

static void same_say(netkit_loop *loop, same_run *run, same_side *side) {
    if (!side->has_ended) {
        side->end.used_at_most = same_random(run) % 3 == 0 ? 700 : SIZE_MAX;
        side->peer.to_send += 1 + same_random(run) % 30000;
        SUP_UNTIL_DOING(loop, side->peer.sent == side->peer.to_send) {
            sup_peer_step(&side->peer);
        }
        same_catch_up(loop, side);
    }
}

/* We send until it is refused; the peer reads, and the drain comes. */
static void same_flood(netkit_loop *loop, same_side *side) {
    static unsigned char bytes[30000];
    int drains = side->end.drains;
    int code = NETKIT_OK;
    while (code == NETKIT_OK) {
        sup_fill(bytes, sizeof(bytes), side->sent);
        code = netkit_conn_send(loop, side->end.conn, bytes, sizeof(bytes));
        side->sent += code == NETKIT_OK ? sizeof(bytes) : 0;
    }
    CHECK_ERR(code, NETKIT_E_FULL);
    same_hear(loop, side);
    SUP_UNTIL(loop, side->end.drains == drains + 1);
}

static void same_pause(netkit_loop *loop, same_side *side) {
    side->is_paused = !side->is_paused;
    if (side->is_paused) {
        CHECK_OK(netkit_conn_pause(loop, side->end.conn));
        return;
    }
    CHECK_OK(netkit_conn_resume(loop, side->end.conn));
    same_catch_up(loop, side);
    if (side->has_ended) {
        SUP_UNTIL(loop, side->end.eofs == 1);
    }
}

static void same_half_close(netkit_loop *loop, same_side *side) {
    if (!side->has_ended) {
        CHECK_EQ(shutdown(side->peer.fd, SHUT_WR), 0);
        side->has_ended = true;
        side->end.used_at_most = SIZE_MAX; /* a rest may be offered behind the end */
        if (!side->is_paused) {
            SUP_UNTIL(loop, side->end.eofs == 1);
        }
    }
}

static void same_end(netkit_loop *loop, same_run *run, same_side *side) {
    if (side->is_paused) {
        same_pause(loop, side);
    }
    uint64_t how = same_random(run) % 5;
    if (how == 0) {
        CHECK_OK(netkit_conn_abort(loop, side->end.conn));
    } else if (how == 1) {
        sup_raw_reset(side->peer.fd);
        side->peer.fd = -1;
    } else if (how <= 2) {
        CHECK_OK(netkit_conn_close(loop, side->end.conn));
        (void)shutdown(side->peer.fd, SHUT_WR); /* or it has */
    } else {
        if (how == 3) {
            CHECK_OK(netkit_conn_shutdown(loop, side->end.conn));
        }
        same_half_close(loop, side);
        CHECK_OK(netkit_conn_close(loop, side->end.conn));
    }
    SUP_UNTIL(loop, side->end.closes == 1);
    side->is_over = true;
    if (side->peer.fd >= 0) {
        sup_peer_close(&side->peer);
    }
}

static void same_step(netkit_loop *loop, same_run *run, same_side *side, bool is_last) {
    uint64_t what = same_random(run) % 8;
    if (side->is_over) {
        return;
    }
    if (is_last || what == 7) {
        same_end(loop, run, side);
    } else if (what < 4) {
        same_say(loop, run, side);
    } else if (what == 4) {
        same_flood(loop, side);
    } else if (what == 5) {
        same_pause(loop, side);
    } else if (same_random(run) % 3 == 0) {
        same_half_close(loop, side);
    }
}

typedef struct same_dial {
    same_side *side;
    uint16_t port;
} same_dial;

static void same_on_post(netkit_loop *loop, int status, void *user) {
    same_dial *dial = (same_dial *)user;
    unsigned char byte = sup_byte(0);
    CHECK_OK(status);
    sup_connect(loop, &dial->side->end, dial->port, NULL);
    CHECK_OK(netkit_conn_send(loop, dial->side->end.conn, &byte, 1)); /* goes out after on_open */
    dial->side->sent = 1;
}

/* A conn that a callback has dialled; its peer is what a raw listener accepts. */
static void same_open_dialled(netkit_loop *loop, same_side *side) {
    same_dial dial;
    int listener = sup_raw_listen(&dial.port, 10), fd;
    dial.side = side;
    sup_end_init(&side->end);
    CHECK_OK(netkit_loop_post(loop, same_on_post, &dial));
    SUP_UNTIL(loop, side->end.opens == 1);
    fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    sup_nonblocking(fd);
    side->peer = sup_peer_of(fd);
    CHECK_EQ(close(listener), 0);
}

static void same_play(same_run *run, int backend, uint64_t seed) {
    netkit_loop_desc desc;
    netkit_loop *loop;
    memset(&desc, 0, sizeof(desc));
    memset(run, 0, sizeof(*run));
    desc.backend = backend;
    loop = nkt_loop_with(&desc);
    run->backend = netkit_backend_name(backend);
    run->random = seed;
    for (int i = 0; i < SAME_CONNS; i++) {
        if (i % 2 == 0) {
            run->sides[i].peer = sup_open_default(loop, &run->sides[i].end);
        } else {
            same_open_dialled(loop, &run->sides[i]);
        }
    }
    for (int step = 0; step < SAME_STEPS; step++) {
        for (int i = 0; i < SAME_CONNS; i++) {
            same_step(loop, run, &run->sides[i], step == SAME_STEPS - 1);
        }
    }
    nkt_loop_done(loop);
}

static void same_compare(const same_run *a, const same_run *b) {
    for (int i = 0; i < SAME_CONNS; i++) {
        const sup_end *x = &a->sides[i].end, *y = &b->sides[i].end;
        if (strcmp(x->trace, y->trace) != 0 || x->info.op != y->info.op) {
            printf("%s: %s, %s\n%s: %s, %s\n", a->backend, x->trace, x->info.text, b->backend,
                   y->trace, y->info.text);
        }
        CHECK_STR(x->trace, y->trace);
        CHECK_EQ(x->bytes, y->bytes);
        CHECK_EQ(x->info.code, y->info.code);
        CHECK_EQ(x->info.op, y->info.op);
        CHECK_EQ(x->info.phase, y->info.phase);
    }
}

/* I13: the same script, drawn by lot, on each backend that there is: each conn is told the same
 * in the same order, adjacent data joined, and ends for the same reason. */
NKT_TEST(same_events_on_every_backend) {
    static same_run first, other;
    for (uint64_t round = 0; round < nkt_scale(200, 6); round++) {
        uint64_t seed = nkt_random();
        same_play(&first, NETKIT_BACKEND_AUTO, seed);
        for (int backend = NETKIT_BACKEND_FASTEST + 1; netkit_backend_name(backend) != NULL;
             backend++) {
            netkit_loop_desc desc;
            netkit_loop *loop;
            memset(&desc, 0, sizeof(desc));
            desc.backend = backend;
            if (netkit_loop_create(&loop, &desc) != NETKIT_OK) {
                continue;
            }
            CHECK_OK(netkit_loop_destroy(loop));
            same_play(&other, backend, seed);
            same_compare(&first, &other);
        }
    }
}
