/* Frames over conns. */
#include "support.h"

typedef struct frames_seen {
    const netkit_framing *framing;
    uint32_t count;
    int closes;
} frames_seen;

/* Frame i has i * 7 mod 900 bytes of i. */
static size_t frames_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                             void *user) {
    frames_seen *s = (frames_seen *)user;
    netkit_frame frame;
    size_t used = 0;
    int more;
    (void)loop;
    (void)conn;
    while ((more = netkit_frame_next(s->framing, data, len, &used, &frame)) > 0) {
        CHECK_EQ(frame.len, s->count * 7 % 900);
        for (size_t i = 0; i < frame.len; i++) {
            CHECK(((const unsigned char *)frame.data)[i] == (unsigned char)(s->count | 128));
        }
        s->count++;
    }
    CHECK_EQ(more, 0);
    return used;
}

static void frames_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                            void *user) {
    (void)loop;
    (void)conn;
    CHECK_OK(info->code);
    ((frames_seen *)user)->closes++;
}

static uint32_t frames_sent;

static void frames_send(netkit_loop *loop, netkit_conn conn, void *user) {
    const netkit_framing *framing = ((frames_seen *)user)->framing;
    unsigned char data[900];
    while (frames_sent < 2000) {
        size_t len = frames_sent * 7 % 900;
        memset(data, (int)(frames_sent | 128), len);
        int code = netkit_frame_send(loop, conn, framing, data, len);
        if (code == NETKIT_E_FULL) {
            return;
        }
        CHECK_OK(code);
        frames_sent++;
    }
    CHECK_ERR(netkit_frame_send(loop, conn, framing, data, 1u << 20), NETKIT_E_TOOBIG);
    if (framing->kind == NETKIT_FRAME_DELIMITER) {
        CHECK_ERR(netkit_frame_send(loop, conn, framing, "a\nb", 3), NETKIT_E_INVALID);
    }
    CHECK_OK(netkit_conn_close(loop, conn));
}

/* MS01 MS02 T-02: frames sent are the frames received, with the system's sends cut short at random;
 * what is refused sends nothing. */
NKT_LOOP_TEST(frame_over_a_conn) {
    static const netkit_framing framings[] = {{0, 0, 0, 0, 0, 0, false, false, 0, {0}},
                                              {0, 0, 0, 16, 4, 2, true, true, 0, {0}},
                                              {1, 0, 0, 0, 0, 0, false, false, 0, {0}}};
    for (size_t i = 0; i < sizeof framings / sizeof *framings; i++) {
        netkit_loop *loop = nkt_loop();
        frames_seen in, out;
        netkit_handler handler;
        netkit_listen_desc listen;
        netkit_connect_desc connect;
        char address[32];
        memset(&in, 0, sizeof in);
        memset(&handler, 0, sizeof handler);
        in.framing = &framings[i];
        out = in;
        frames_sent = 0;
        handler.on_data = frames_on_data;
        handler.on_close = frames_on_close;
        listen = sup_listen_desc(&handler, &in);
        snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
        memset(&connect, 0, sizeof connect);
        connect.address = address;
        connect.handler.on_open = frames_send;
        connect.handler.on_drain = frames_send;
        connect.handler.on_close = frames_on_close;
        connect.user = &out;
        nkt_clip_random("send", 700);
        CHECK_OK(netkit_connect(loop, &connect, NULL));
        SUP_UNTIL(loop, in.closes == 1 && out.closes == 1);
        CHECK_EQ(in.count, 2000);
        nkt_fault_clear();
        nkt_loop_done(loop);
    }
}

/* ---- delimiters that reach over the end of a frame ---------------------------------- */

typedef struct seams {
    netkit_framing framing;
    char texts[3000][8]; /* frames that were taken, in order; their lengths */
    unsigned char lens[3000];
    int sent, came, opens, closes;
} seams;

static void seams_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)loop;
    (void)conn;
    ((seams *)user)->opens++;
}

static size_t seams_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                            void *user) {
    seams *s = (seams *)user;
    netkit_frame frame;
    size_t used = 0;
    (void)loop;
    (void)conn;
    while (netkit_frame_next(&s->framing, data, len, &used, &frame) > 0) {
        CHECK(s->came < s->sent);
        CHECK_EQ(frame.len, s->lens[s->came]);
        CHECK_MEM(frame.data, s->texts[s->came], frame.len);
        s->came++;
    }
    return used;
}

static void seams_on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                           void *user) {
    (void)loop;
    (void)conn;
    (void)info;
    ((seams *)user)->closes++;
}

/* Where the delimiter is found first once the frame has been sent. */
static size_t seams_end(const netkit_framing *f, const char *text, size_t len) {
    char all[16];
    size_t at = 0;
    memcpy(all, text, len);
    memcpy(all + len, f->delimiter, f->delimiter_bytes);
    while (memcmp(all + at, f->delimiter, f->delimiter_bytes) != 0) {
        at++;
    }
    return at;
}

/* Every text of up to 6 letters of three. */
static void seams_send_all(netkit_loop *loop, netkit_conn conn, seams *s) {
    static const char letters[] = {'\r', '\n', 'a'};
    for (size_t len = 0, count = 1; len <= 6; len++, count *= 3) {
        for (size_t n = 0; n < count; n++) {
            char text[8];
            for (size_t i = 0, rest = n; i < len; i++, rest /= 3) {
                text[i] = letters[rest % 3];
            }
            int code = netkit_frame_send(loop, conn, &s->framing, text, len);
            CHECK_ERR(code,
                      seams_end(&s->framing, text, len) == len ? NETKIT_OK : NETKIT_E_INVALID);
            if (code == NETKIT_OK) {
                memcpy(s->texts[s->sent], text, sizeof text);
                s->lens[s->sent++] = (unsigned char)len;
            }
        }
    }
}

/* MS01: data that would end too early together with its delimiter, as "a\r\n" with "\r\n\r\n", is
 * refused, and no other: what is taken arrives as it was. */
NKT_LOOP_TEST(frame_delimiter_across_the_end) {
    static const char *const delimiters[] = {"\r\n\r\n", "\r\n", "\n", "\r\r\r", "aXa", "\n\n\ra"};
    for (size_t i = 0; i < sizeof delimiters / sizeof *delimiters; i++) {
        netkit_loop *loop = nkt_loop();
        static seams in, out;
        netkit_handler handler;
        netkit_listen_desc listen;
        netkit_connect_desc connect;
        netkit_conn conn;
        char address[32];
        memset(&in, 0, sizeof in);
        memset(&out, 0, sizeof out);
        memset(&handler, 0, sizeof handler);
        in.framing.kind = NETKIT_FRAME_DELIMITER;
        in.framing.delimiter_bytes = (uint8_t)strlen(delimiters[i]);
        memcpy(in.framing.delimiter, delimiters[i], strlen(delimiters[i]));
        handler.on_data = seams_on_data;
        handler.on_close = seams_on_close;
        listen = sup_listen_desc(&handler, &in);
        snprintf(address, sizeof address, "127.0.0.1:%u", sup_listen(loop, &listen, NULL));
        memset(&connect, 0, sizeof connect);
        connect.address = address;
        connect.handler.on_open = seams_on_open;
        connect.handler.on_close = seams_on_close;
        connect.user = &out;
        CHECK_OK(netkit_connect(loop, &connect, &conn));
        SUP_UNTIL(loop, out.opens == 1);
        seams_send_all(loop, conn, &in);
        CHECK_OK(netkit_conn_close(loop, conn));
        SUP_UNTIL(loop, in.closes == 1 && out.closes == 1);
        CHECK_EQ(in.came, in.sent);
        CHECK(in.sent > 100);
        nkt_loop_done(loop);
    }
}
