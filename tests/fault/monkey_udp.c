/* The monkey among datagrams: udps are opened, sent from, paused and closed from inside every
 * callback and between turns, while system calls and allocations fail at random. Who is paused or
 * closed hears nothing; a drain comes once for each refusal; what arrives is whole and in order;
 * each udp ends once; nothing leaks. */
#include "../loop/support_udp.h"

enum {
    MU_EVER = 1000, /* udps that are opened in a run */
    MU_OPEN = 6,    /* at a time */
    MU_HEAD = 16,
    MU_LONG = 24000
};

typedef struct mu_udp {
    netkit_udp udp;
    netkit_addr addr;
    int number, closes;
    bool is_paused, is_closed, is_owed, is_connected, is_ipv6, is_whole;
    uint32_t sent;              /* datagrams taken from it */
    uint32_t came[MU_EVER + 1]; /* of each sender, the highest number */
} mu_udp;

static struct {
    netkit_loop *loop;
    mu_udp *all[MU_EVER];
    int count;
    netkit_addr deaf, everybody;
    uint32_t run; /* other tests may send to a port that was another's a moment ago */
    int depth, callbacks;
    bool is_ending, is_pull;
} mu;

static uint32_t mu_pick(uint32_t count) {
    return (uint32_t)(nkt_random() % count);
}

/* One of the last opened, closed ones among them; NULL when there is none. */
static mu_udp *mu_any(void) {
    int recent = mu.count < 2 * MU_OPEN ? mu.count : 2 * MU_OPEN;
    return recent == 0 ? NULL : mu.all[mu.count - 1 - (int)mu_pick((uint32_t)recent)];
}

static int mu_open_count(void) {
    int open = 0;
    for (int i = 0; i < mu.count; i++) {
        open += mu.all[i]->closes == 0;
    }
    return open;
}

/* ---- what is sent: who, which one, how long, and bytes that follow from these ---- */

static void mu_fill(unsigned char *to, const mu_udp *from, uint32_t number, uint32_t len) {
    const uint32_t head[4] = {(uint32_t)from->number, number, len, mu.run};
    memcpy(to, head, MU_HEAD);
    memset(to + MU_HEAD, (int)(number & 255), len - MU_HEAD);
}

static void mu_check(mu_udp *at, const unsigned char *data, size_t len, bool is_cut) {
    uint32_t head[4];
    memcpy(head, data, len < MU_HEAD ? 0 : MU_HEAD);
    if (len < MU_HEAD || head[3] != mu.run) {
        return;
    }
    CHECK(head[0] < (uint32_t)mu.count);
    CHECK(is_cut ? head[2] > len : head[2] == len);
    CHECK(head[1] > at->came[head[0]]); /* never twice, never overtaken */
    at->came[head[0]] = head[1];
    for (size_t i = MU_HEAD; i < len; i++) {
        CHECK(data[i] == (head[1] & 255));
    }
}

static void mu_sent(mu_udp *u, int code, uint32_t datagrams) {
    CHECK(code == NETKIT_OK || code == 1 || code == NETKIT_E_FULL || code == NETKIT_E_NOMEM ||
          code == NETKIT_E_TOOBIG || code == NETKIT_E_NOTCONN || code == NETKIT_E_INVALID ||
          ((code == NETKIT_E_CLOSED || code == NETKIT_E_STALE) && u->is_closed));
    u->sent += code >= 0 ? datagrams : 0;
    u->is_owed |= code == NETKIT_E_FULL;
}

static const netkit_addr *mu_target(const mu_udp *u, const mu_udp *to) {
    uint32_t how = mu_pick(20);
    return u->is_connected && how < 15 ? NULL
           : how == 16                 ? &mu.deaf
           : how == 17                 ? &mu.everybody
                                       : &to->addr;
}

static void mu_send(mu_udp *u, const mu_udp *to) {
    static unsigned char data[MU_LONG];
    uint32_t how = mu_pick(10);
    uint32_t len = how == 0 ? MU_LONG : how == 1 ? 3000 : MU_HEAD + mu_pick(80);
    mu_fill(data, u, u->sent + 1, len);
    if (how == 2) {
        mu_sent(u, netkit_udp_send(mu.loop, u->udp, mu_target(u, to), NULL, 0), 0);
    } else {
        mu_sent(u, netkit_udp_send(mu.loop, u->udp, mu_target(u, to), data, len), 1);
    }
}

static void mu_send_segments(mu_udp *u, const mu_udp *to) {
    static unsigned char data[80 * 200];
    netkit_datagram d;
    uint32_t count = 1 + mu_pick(80), size = MU_HEAD + mu_pick(180), len = 0;
    const netkit_addr *target = mu_target(u, to);
    memset(&d, 0, sizeof(d));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t each = i + 1 < count ? size : MU_HEAD + mu_pick(size - MU_HEAD + 1);
        mu_fill(data + len, u, u->sent + 1 + i, each);
        len += each;
    }
    d.data = data;
    d.len = len;
    d.segment_size = size;
    if (target != NULL) {
        d.peer = *target;
    }
    mu_sent(u, netkit_udp_send_batch(mu.loop, u->udp, &d, 1), count);
}

/* ---- what is done ---- */

static void mu_close(mu_udp *u) {
    int code = netkit_udp_close(mu.loop, u->udp);
    CHECK(code == NETKIT_OK || (code == NETKIT_E_STALE && u->closes == 1));
    u->is_closed = true;
}

static void mu_pause(mu_udp *u, bool pauses) {
    int code = pauses ? netkit_udp_pause(mu.loop, u->udp) : netkit_udp_resume(mu.loop, u->udp);
    CHECK(u->is_closed ? code == NETKIT_E_CLOSED || code == NETKIT_E_STALE : code == NETKIT_OK);
    u->is_paused = code == NETKIT_OK ? pauses : u->is_paused;
}

static void mu_look(mu_udp *u) {
    netkit_addr addr;
    size_t queued;
    uint32_t caps;
    CHECK(netkit_udp_queued(mu.loop, u->udp, &queued) == NETKIT_OK || u->closes == 1);
    CHECK_EQ(netkit_udp_local(mu.loop, u->udp, &addr) == NETKIT_OK, !u->is_closed);
    CHECK_EQ(netkit_udp_caps(mu.loop, u->udp, &caps) == NETKIT_OK, !u->is_closed);
    CHECK(netkit_udp_user(mu.loop, u->udp) == u || u->closes == 1);
    (void)netkit_udp_flush(mu.loop, u->udp);
}

static void mu_open(void);

static void mu_act(void) {
    mu_udp *u = mu_any(), *to = mu_any();
    uint32_t what = mu_pick(40);
    if (u == NULL || what == 0) {
        mu_open();
    } else if (what < 20) {
        mu_send(u, to);
    } else if (what < 25) {
        mu_send_segments(u, to);
    } else if (what < 31) {
        mu_pause(u, what < 27);
    } else if (what == 31) {
        mu_close(u);
    } else {
        mu_look(u);
    }
}

static void mu_acts(uint32_t most) {
    if (mu.is_ending || mu.depth > 0) {
        return;
    }
    mu.depth++;
    for (uint32_t n = mu_pick(most + 1); n > 0; n--) {
        mu_act();
    }
    mu.depth--;
}

/* ---- what is told ---- */

static void mu_datagram(mu_udp *u, const netkit_datagram *d) {
    const unsigned char *bytes = (const unsigned char *)d->data;
    size_t each = d->segment_size != 0 ? d->segment_size : d->len;
    mu.callbacks++;
    CHECK(!u->is_closed && !u->is_paused && u->closes == 0);
    CHECK(d->segment_size == 0 || u->is_whole);
    CHECK(d->error == 0 && d->peer.port != 0);
    for (size_t at = 0; at < d->len; at += each) {
        size_t len = d->len - at < each ? d->len - at : each;
        mu_check(u, bytes + at, len, d->is_truncated);
    }
    mu_acts(3);
    if (mu_pick(4) == 0 && !mu.is_ending) {
        unsigned char head[MU_HEAD];
        mu_fill(head, u, u->sent + 1, MU_HEAD);
        mu_sent(u, netkit_udp_reply(mu.loop, u->udp, d, head, MU_HEAD), 1);
    }
}

static void mu_error(mu_udp *u, const netkit_datagram *failed) {
    mu.callbacks++;
    CHECK(!u->is_closed && !u->is_paused && u->closes == 0);
    CHECK(failed->error < 0);
    mu_acts(2);
}

static void mu_drain(mu_udp *u) {
    mu.callbacks++;
    CHECK(!u->is_closed && u->is_owed);
    u->is_owed = false;
    mu_acts(2);
}

static void mu_closed(mu_udp *u) {
    CHECK(u->is_closed || mu.is_ending);
    u->is_closed = true;
    CHECK_EQ(u->closes, 0);
    u->closes++;
    mu_acts(2);
}

static void mu_on_datagram(netkit_loop *loop, netkit_udp udp, const netkit_datagram *d,
                           void *user) {
    (void)loop;
    CHECK(udp.id == ((mu_udp *)user)->udp.id);
    mu_datagram((mu_udp *)user, d);
}

static void mu_on_error(netkit_loop *loop, netkit_udp udp, const netkit_datagram *d, void *user) {
    (void)loop;
    (void)udp;
    mu_error((mu_udp *)user, d);
}

static void mu_on_drain(netkit_loop *loop, netkit_udp udp, void *user) {
    (void)loop;
    (void)udp;
    mu_drain((mu_udp *)user);
}

static void mu_on_close(netkit_loop *loop, netkit_udp udp, const netkit_close_info *info,
                        void *user) {
    (void)loop;
    (void)udp;
    CHECK(info->text != NULL);
    mu_closed((mu_udp *)user);
}

static void mu_open(void) {
    static const char *const addresses[] = {NULL, "0.0.0.0:0", ":0", NULL};
    netkit_udp_desc desc;
    uint32_t how = mu_pick(4);
    const mu_udp *peer = mu_any();
    if (mu.count == MU_EVER || mu_open_count() >= MU_OPEN) {
        return;
    }
    mu_udp *u = (mu_udp *)calloc(1, sizeof(*u));
    CHECK(u != NULL);
    memset(&desc, 0, sizeof(desc));
    desc.address = addresses[how] != NULL ? addresses[how] : nkt_own_address(0);
    if (how == 3 && peer != NULL && peer->addr.family == NETKIT_AF_IPV4) {
        desc.peer_addr = &peer->addr;
        u->is_connected = true;
    }
    desc.recv_size = mu_pick(2) * 2000; /* some are cut */
    desc.send_max = mu_pick(2) * 30000;
    desc.ext_size = mu_pick(2) * 100;
    desc.gro = mu_pick(2) != 0;
    desc.gro_whole = mu_pick(4) == 0;
    desc.tell_local = mu_pick(2) != 0;
    desc.tell_tos = desc.tell_ttl = desc.tell_time = mu_pick(3) == 0;
    if (!mu.is_pull) {
        desc.handler.on_datagram = mu_pick(10) != 0 ? mu_on_datagram : NULL;
        desc.handler.on_error = mu_pick(2) != 0 ? mu_on_error : NULL;
        desc.handler.on_drain = mu_on_drain;
        desc.handler.on_close = mu_on_close;
    }
    desc.user = u;
    u->number = mu.count;
    u->is_whole = desc.gro_whole;
    if (netkit_udp_open(mu.loop, &desc, &u->udp) != NETKIT_OK ||
        netkit_udp_local(mu.loop, u->udp, &u->addr) != NETKIT_OK) {
        CHECK(u->udp.id == 0 || netkit_udp_close(mu.loop, u->udp) == NETKIT_OK);
        if (u->udp.id == 0) {
            free(u);
            return;
        }
        u->is_closed = true;
        (void)netkit_addr_parse(&u->addr, nkt_own_address(9), NULL);
    }
    if (u->addr.family == NETKIT_AF_IPV6 || u->addr.ip[0] == 0) { /* where others reach it */
        uint16_t port = u->addr.port;
        CHECK_OK(netkit_addr_parse(&u->addr, nkt_own_address(port), NULL));
    }
    mu.all[mu.count++] = u;
}

/* ---- a run ---- */

static void mu_faults(void) {
    bool has_edges = mu.loop->driver == nki_readiness_driver() && mu.loop->poller.ops->has_edge;
    nkt_fault_clear();
    nkt_alloc_fail_at(mu_pick(4) == 0 ? 1 + mu_pick(20) : 0, mu_pick(2) == 0);
    if (mu_pick(2) == 0) {
        nkt_fault_prob(NKT_SEND_DATAGRAMS, 20, ENOBUFS);
        nkt_fault_prob(NKT_SEND_DATAGRAMS, 10, ECONNREFUSED);
        nkt_fault_prob(NKT_SEND_DATAGRAMS, 5, EIO);
        nkt_fault_prob(NKT_RECV_DATAGRAMS, 10, ENOMEM);
        nkt_fault_prob(NKT_RECV_DATAGRAMS, 10, EHOSTUNREACH);
        nkt_fault_prob(NKT_RECV_DATAGRAMS, 5, EINTR);
        if (!has_edges) { /* an edge tells only of what was really full */
            nkt_fault_prob(NKT_SEND_DATAGRAMS, 20, EAGAIN);
        }
    }
}

static void mu_pull_all(void) {
    netkit_event ev;
    while (netkit_loop_next(mu.loop, &ev) == 1) {
        mu_udp *u = (mu_udp *)ev.user;
        switch (ev.type) {
        case NETKIT_EVENT_DATAGRAM: mu_datagram(u, ev.datagram); break;
        case NETKIT_EVENT_UDP_ERROR: mu_error(u, ev.datagram); break;
        case NETKIT_EVENT_UDP_DRAIN: mu_drain(u); break;
        case NETKIT_EVENT_UDP_CLOSE: mu_closed(u); break;
        default: FAIL("an event that nobody can have"); break;
        }
        mu_acts(2);
    }
}

static void mu_turn(void) {
    (void)netkit_loop_run_once(mu.loop, 1);
    if (mu.is_pull) {
        mu_pull_all();
    } else if (mu_pick(3) == 0) {
        (void)netkit_loop_poll(mu.loop, 0); /* stops between any two callbacks */
    }
}

/* All that was taken leaves, all drains are told, and all end. */
static void mu_end(void) {
    mu.is_ending = true;
    nkt_fault_clear();
    nkt_alloc_fail_at(0, false);
    uint64_t began = nkt_now_ns();
    for (bool is_empty = false; !is_empty; mu_turn()) {
        is_empty = true;
        for (int i = 0; i < mu.count; i++) {
            size_t queued = 0;
            if (!mu.all[i]->is_closed) {
                mu_pause(mu.all[i], false);
                CHECK_OK(netkit_udp_queued(mu.loop, mu.all[i]->udp, &queued));
            }
            is_empty &= queued == 0 && (mu.all[i]->is_closed || !mu.all[i]->is_owed);
        }
        (void)sup_is_late(began, __FILE__, __LINE__, "all queues are empty");
    }
    for (int i = 0; i < mu.count; i += 2) {
        mu_close(mu.all[i]);
    }
    for (int n = 0; n < 3; n++) {
        mu_turn();
    }
}

static void mu_run(bool is_pull) {
    netkit_loop_desc desc;
    memset(&desc, 0, sizeof(desc));
    memset(&mu, 0, sizeof(mu));
    desc.pull = mu.is_pull = is_pull;
    desc.conn_budget = 1000 + mu_pick(100000);
    mu.loop = nkt_loop_with(&desc);
    mu.run = (uint32_t)nkt_random() ^ (uint32_t)getpid();
    mu.deaf = ud_deaf();
    mu.everybody = ud_addr("255.255.255.255:9");
    int turns = nkt_long ? 20000 : 600;
    for (int i = 0; i < turns; i++) {
        if (i % 10 == 0) {
            mu_faults();
        }
        mu_acts(12);
        mu_turn();
    }
    mu_end();
    CHECK(mu.callbacks > turns / 4);
    if (is_pull) { /* destroying tells nobody who does not fetch */
        CHECK_OK(netkit_loop_destroy(mu.loop));
        nkt_loops--;
        CHECK_EQ(nkt_live_bytes(), 0);
    } else {
        nkt_loop_done(mu.loop);
    }
    for (int i = 0; i < mu.count; i++) {
        CHECK(is_pull || mu.all[i]->closes <= 1);
        free(mu.all[i]);
    }
}

/* I1 I2 U-05 U-08 Z-01 Z-02: by callbacks. */
NKT_LOOP_TEST(monkey_udp_calls) {
    mu_run(false);
}

/* The same by events that are fetched: C8 I2 U-05. */
NKT_LOOP_TEST(monkey_udp_pulls) {
    mu_run(true);
}
