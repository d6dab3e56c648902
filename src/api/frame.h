/* ---- frames: messages in a stream of bytes -----------------------------------
 *
 * TCP carries bytes, not messages: what was sent in one piece may arrive in ten, or
 * three in one. A framing says where a message ends; netkit_frame_next cuts what
 * on_data got. It allocates nothing and refuses what is too long as soon as the
 * length is known.
 *
 *     static const netkit_framing framing = {0};       (C++: {}) 4 bytes of length
 *
 *     size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len, ...) {
 *         netkit_frame frame;
 *         size_t used = 0;
 *         int more;
 *         while ((more = netkit_frame_next(&framing, data, len, &used, &frame)) > 0)
 *             handle(frame.data, frame.len);
 *         if (more < 0) netkit_conn_abort(loop, conn);
 *         return used;                                 the cut one at the end comes again
 *     }
 *
 * What waits for its end counts against the conn's recv_max (64 KiB): raise it when
 * size_max is raised. */
enum {
    NETKIT_FRAME_LENGTH = 0,    /* a header with the length, then that many bytes */
    NETKIT_FRAME_DELIMITER = 1, /* bytes up to a delimiter, as in lines of text */
    NETKIT_FRAME_FIXED = 2,     /* always the same number of bytes */
    NETKIT_FRAME_HEADER_MAX = 64,
    NETKIT_FRAME_DELIMITER_MAX = 4
};

typedef struct netkit_framing {
    int kind;                  /* NETKIT_FRAME_* */
    uint32_t size_max;         /* bytes of data in a frame at most, 0 = 60 KiB */
    uint32_t size;             /* FIXED: bytes of every frame */
    uint32_t header_bytes;     /* LENGTH: of the whole header, up to NETKIT_FRAME_HEADER_MAX;
                                    0 = up to the end of the length */
    uint32_t length_offset;    /* LENGTH: where in the header the length stands */
    uint32_t length_bytes;     /* LENGTH: 1, 2 or 4; 0 = 4 */
    bool is_little_endian;     /* LENGTH: else big-endian, as the Internet has it */
    bool length_counts_header; /* LENGTH: it counts the header too, else the data alone */
    uint8_t delimiter_bytes;   /* DELIMITER: 1 to NETKIT_FRAME_DELIMITER_MAX; 0 = "\n" */
    char delimiter[NETKIT_FRAME_DELIMITER_MAX];
} netkit_framing;

typedef struct netkit_frame {
    size_t len;         /* of data */
    const void *data;   /* without header or delimiter; lives as long as the bytes cut from */
    const void *header; /* LENGTH: its header_bytes; else NULL */
} netkit_frame;

/* Cut the frame that begins *used bytes into `data`. Returns 1 with *out filled and
 * *used behind the frame; 0 when its end has not come yet, NETKIT_E_TOOBIG when it is
 * longer than size_max, NETKIT_E_INVALID when its length is less than its header's or
 * the framing makes no sense; *used is unchanged then. Thread: any. */
NETKIT_API int netkit_frame_next(const netkit_framing *framing, const void *data, size_t len,
                                 size_t *used, netkit_frame *out);

/* Write the header that announces `len` bytes of data to `out`, which has room for
 * header_bytes: the length is put in its place, other bytes stay as they are. Returns
 * the bytes of the header (0 for the other kinds), NETKIT_E_TOOBIG for more than
 * size_max or than the length can say, NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_frame_header(const netkit_framing *framing, size_t len, void *out);

/* Send `len` bytes as one frame: header before or delimiter behind, all or nothing, as
 * netkit_conn_send (whose errors these are too). NETKIT_E_TOOBIG beyond size_max;
 * NETKIT_E_INVALID when the data holds the delimiter or has not the FIXED size. Other
 * bytes of a larger header are 0: to fill them use netkit_frame_header and
 * netkit_conn_sendv. Thread: the loop's. */
NETKIT_API int netkit_frame_send(netkit_loop *loop, netkit_conn conn, const netkit_framing *framing,
                                 const void *data, size_t len);
