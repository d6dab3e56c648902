/* Sending frames: header, data and delimiter in one vectored send, so all of a frame or nothing. */

/* In the data, or across its end: behind "a\r\n" the delimiter "\r\n\r\n" would come too early. */
static bool nki_frame_has_delimiter(const netkit_framing *framing, const void *data, size_t len) {
    const char *delimiter = framing->delimiter_bytes == 0 ? "\n" : framing->delimiter;
    size_t bytes = framing->delimiter_bytes == 0 ? 1 : framing->delimiter_bytes;
    size_t tail = NKI_MIN(len, bytes - 1);
    char seam[2 * NETKIT_FRAME_DELIMITER_MAX];
    netkit_frame none;
    size_t used = 0;
    if (len > 0 && netkit_frame_next(framing, data, len, &used, &none) != 0) {
        return true;
    }
    if (tail > 0) {
        memcpy(seam, (const char *)data + len - tail, tail);
    }
    memcpy(seam + tail, delimiter, bytes);
    for (size_t i = 0; i < tail; i++) {
        if (memcmp(seam + i, delimiter, bytes) == 0) {
            return true;
        }
    }
    return false;
}

NETKIT_API int netkit_frame_send(netkit_loop *loop, netkit_conn conn, const netkit_framing *framing,
                                 const void *data, size_t len) {
    unsigned char header[NETKIT_FRAME_HEADER_MAX];
    netkit_span spans[3];
    memset(header, 0, sizeof header);
    int bytes = netkit_frame_header(framing, len, header);
    if (bytes < 0) {
        return bytes;
    }
    spans[0].data = header;
    spans[0].len = (size_t)bytes;
    spans[1].data = data;
    spans[1].len = len;
    spans[2].data = NULL;
    spans[2].len = 0;
    if (framing->kind == NETKIT_FRAME_DELIMITER) {
        if (nki_frame_has_delimiter(framing, data, len)) {
            return NETKIT_E_INVALID;
        }
        spans[2].data = framing->delimiter_bytes == 0 ? "\n" : framing->delimiter;
        spans[2].len = framing->delimiter_bytes == 0 ? 1 : framing->delimiter_bytes;
    }
    return netkit_conn_sendv(loop, conn, spans, 3);
}
