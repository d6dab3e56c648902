/* Framing: every way to cut a stream gives the same frames. */

static netkit_framing frame_random_framing(void) {
    static const uint32_t lengths[] = {0, 1, 2, 4};
    netkit_framing f;
    memset(&f, 0, sizeof f);
    f.kind = (int)(nkt_random() % 3);
    f.size_max = 200;
    f.size = 1 + (uint32_t)(nkt_random() % 50);
    f.length_bytes = lengths[nkt_random() % 4];
    f.length_offset = (uint32_t)(nkt_random() % 8);
    if (nkt_random() % 2 == 0) {
        uint32_t bytes = f.length_bytes == 0 ? 4 : f.length_bytes;
        f.header_bytes = f.length_offset + bytes + (uint32_t)(nkt_random() % 9);
    }
    f.is_little_endian = nkt_random() % 2 == 0;
    f.length_counts_header = nkt_random() % 2 == 0;
    f.delimiter_bytes = (uint8_t)(nkt_random() % 5);
    memcpy(f.delimiter, "\r\n\r\n", 4);
    if (f.delimiter_bytes == 3) {
        memcpy(f.delimiter, "aab", 3); /* found only behind a false start */
    }
    return f;
}

/* Append a frame to `stream`; its data holds no delimiter. */
static size_t frame_append(const netkit_framing *f, unsigned char *stream, size_t at, size_t len,
                           unsigned char fill) {
    int header = netkit_frame_header(f, len, stream + at);
    CHECK(header >= 0);
    at += (size_t)header;
    memset(stream + at, fill, len);
    at += len;
    if (f->kind == NETKIT_FRAME_DELIMITER) {
        size_t bytes = f->delimiter_bytes == 0 ? 1 : f->delimiter_bytes;
        memcpy(stream + at, f->delimiter_bytes == 0 ? "\n" : f->delimiter, bytes);
        at += bytes;
    }
    return at;
}

/* MS01 MS02 T-02: frames of every kind, length and byte order come out as they went in, however
 * the stream is cut; 8, 16 and 32 bit lengths, both ends first. */
NKT_TEST(frame_streams_cut_anywhere) {
    for (int round = 0; round < 3000; round++) {
        netkit_framing f = frame_random_framing();
        unsigned char stream[4096] = {0};
        size_t lens[12], end = 0, begin = 0, have = 0;
        unsigned char fill = f.delimiter_bytes == 3 ? 'a' : 'x';
        for (int i = 0; i < 12; i++) {
            lens[i] = f.kind == NETKIT_FRAME_FIXED ? f.size : (size_t)(nkt_random() % 200);
            end = frame_append(&f, stream, end, lens[i], fill);
        }
        int frames = 0;
        while (have < end) {
            netkit_frame frame;
            size_t used = 0;
            int more;
            have += 1 + (size_t)(nkt_random() % (end - have));
            while ((more = netkit_frame_next(&f, stream + begin, have - begin, &used, &frame)) >
                   0) {
                CHECK_EQ(frame.len, lens[frames]);
                CHECK(frame.len == 0 || *(const unsigned char *)frame.data == fill);
                CHECK((frame.header != NULL) == (f.kind == NETKIT_FRAME_LENGTH));
                frames++;
            }
            CHECK_EQ(more, 0);
            begin += used;
        }
        CHECK_EQ(frames, 12);
        CHECK_EQ(begin, end);
    }
}

static int frame_one(const netkit_framing *f, const void *data, size_t len) {
    netkit_frame frame;
    size_t used = 0;
    int found = netkit_frame_next(f, data, len, &used, &frame);
    CHECK(found > 0 || used == 0);
    return found;
}

/* MS02: a frame beyond the maximum is refused as soon as its length can be known, not when it has
 * come; one exactly as long passes. */
NKT_TEST(frame_too_long_is_refused_early) {
    netkit_framing f;
    char line[70];
    memset(&f, 0, sizeof f);
    CHECK_EQ(frame_one(&f, "\0\0\xF0\0", 4), 0); /* 60 KiB */
    CHECK_ERR(frame_one(&f, "\0\0\xF0\1", 4), NETKIT_E_TOOBIG);
    CHECK_ERR(frame_one(&f, "\xFF\xFF\xFF\xFF", 4), NETKIT_E_TOOBIG);
    CHECK_EQ(frame_one(&f, "\xFF\xFF\xFF", 3), 0);
    f.length_counts_header = true;
    CHECK_ERR(frame_one(&f, "\0\0\0\3", 4), NETKIT_E_INVALID);
    CHECK_EQ(frame_one(&f, "\0\0\0\4", 4), 1);
    f.kind = NETKIT_FRAME_DELIMITER;
    f.size_max = 64;
    f.delimiter_bytes = 2;
    memcpy(f.delimiter, "\r\n", 2);
    memset(line, 'x', sizeof line);
    CHECK_EQ(frame_one(&f, line, 65), 0);
    CHECK_ERR(frame_one(&f, line, 66), NETKIT_E_TOOBIG);
    line[64] = '\r';
    CHECK_EQ(frame_one(&f, line, 65), 0);
    line[65] = '\n';
    CHECK_EQ(frame_one(&f, line, 66), 1);
    memcpy(line + 64, "x\r\n", 3);
    CHECK_ERR(frame_one(&f, line, 67), NETKIT_E_TOOBIG);
}

/* MS01: a header says what next reads; lengths that it cannot say and framings that make no sense
 * are refused. */
NKT_TEST(frame_headers) {
    netkit_framing f;
    unsigned char header[NETKIT_FRAME_HEADER_MAX];
    memset(&f, 0, sizeof f);
    memset(header, 0x77, sizeof header);
    f.length_offset = 2;
    f.length_bytes = 2;
    f.header_bytes = 6;
    f.size_max = 1 << 20;
    CHECK_EQ(netkit_frame_header(&f, 0x1234, header), 6);
    CHECK_MEM(header, "\x77\x77\x12\x34\x77\x77\x77", 7);
    f.is_little_endian = true;
    CHECK_EQ(netkit_frame_header(&f, 65535, header), 6);
    f.length_counts_header = true;
    CHECK_EQ(netkit_frame_header(&f, 0x1234 - 6, header), 6);
    CHECK_MEM(header, "\x77\x77\x34\x12\x77\x77\x77", 7);
    CHECK_ERR(netkit_frame_header(&f, 65530, header), NETKIT_E_TOOBIG);
    CHECK_ERR(netkit_frame_header(&f, (1 << 20) + 1, header), NETKIT_E_TOOBIG);
    f.length_bytes = 3;
    CHECK_ERR(netkit_frame_header(&f, 1, header), NETKIT_E_INVALID);
    f.length_bytes = 4;
    f.header_bytes = 5;
    CHECK_ERR(netkit_frame_header(&f, 1, header), NETKIT_E_INVALID);
    f.header_bytes = 65;
    CHECK_ERR(netkit_frame_header(&f, 1, header), NETKIT_E_INVALID);
    f.header_bytes = 0;
    f.length_offset = UINT32_MAX;
    CHECK_ERR(frame_one(&f, "abc", 3), NETKIT_E_INVALID);
    f.kind = NETKIT_FRAME_FIXED;
    CHECK_ERR(frame_one(&f, "abc", 3), NETKIT_E_INVALID); /* of 0 bytes */
    f.size = 3;
    CHECK_EQ(frame_one(&f, "abc", 3), 1);
    CHECK_ERR(netkit_frame_header(&f, 4, header), NETKIT_E_INVALID);
    f.kind = 3;
    CHECK_ERR(frame_one(&f, "abc", 3), NETKIT_E_INVALID);
    f.kind = NETKIT_FRAME_DELIMITER;
    f.delimiter_bytes = 5;
    CHECK_ERR(frame_one(&f, "abc", 3), NETKIT_E_INVALID);
}
