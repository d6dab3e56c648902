/* Framing: pure functions over bytes and lengths that a stranger sent. Nothing is added to a
 * length before it was compared with the limit. */

enum {
    NKI_FRAME_SIZE_MAX = 60 * 1024
};

static uint32_t nki_frame_size_max(const netkit_framing *f) {
    return f->size_max == 0 ? (uint32_t)NKI_FRAME_SIZE_MAX : f->size_max;
}

static uint32_t nki_frame_length_bytes(const netkit_framing *f) {
    return f->length_bytes == 0 ? 4 : f->length_bytes;
}

static uint32_t nki_frame_header_bytes(const netkit_framing *f) {
    return f->header_bytes == 0 ? f->length_offset + nki_frame_length_bytes(f) : f->header_bytes;
}

static bool nki_framing_is_valid(const netkit_framing *f) {
    uint32_t bytes = nki_frame_length_bytes(f);
    switch (f->kind) {
    case NETKIT_FRAME_LENGTH:
        return (bytes == 1 || bytes == 2 || bytes == 4) &&
               f->length_offset <= NETKIT_FRAME_HEADER_MAX - bytes &&
               nki_frame_header_bytes(f) >= f->length_offset + bytes &&
               nki_frame_header_bytes(f) <= NETKIT_FRAME_HEADER_MAX;
    case NETKIT_FRAME_DELIMITER: return f->delimiter_bytes <= NETKIT_FRAME_DELIMITER_MAX;
    case NETKIT_FRAME_FIXED: return f->size > 0 && f->size <= nki_frame_size_max(f);
    default: return false;
    }
}

/* Place of byte i, counted from the most significant. */
static uint32_t nki_frame_byte(const netkit_framing *f, uint32_t i) {
    return f->length_offset + (f->is_little_endian ? nki_frame_length_bytes(f) - 1 - i : i);
}

static int nki_frame_next_length(const netkit_framing *f, const unsigned char *at, size_t len,
                                 netkit_frame *out) {
    uint32_t header = nki_frame_header_bytes(f);
    uint32_t size = 0;
    if (len < f->length_offset + nki_frame_length_bytes(f)) {
        return 0;
    }
    for (uint32_t i = 0; i < nki_frame_length_bytes(f); i++) {
        size = size << 8 | at[nki_frame_byte(f, i)];
    }
    if (f->length_counts_header) {
        if (size < header) {
            return NETKIT_E_INVALID;
        }
        size -= header;
    }
    if (size > nki_frame_size_max(f)) {
        return NETKIT_E_TOOBIG;
    }
    if (len < header || len - header < size) {
        return 0;
    }
    out->len = size;
    out->data = at + header;
    out->header = at;
    return 1;
}

static int nki_frame_next_delimiter(const netkit_framing *f, const unsigned char *at, size_t len,
                                    netkit_frame *out) {
    const char *delimiter = f->delimiter_bytes == 0 ? "\n" : f->delimiter;
    size_t bytes = f->delimiter_bytes == 0 ? 1 : f->delimiter_bytes;
    size_t max = nki_frame_size_max(f);
    size_t from = 0;
    while (from <= max && len - from >= bytes) {
        size_t range = NKI_MIN(len - bytes, max) - from + 1;
        const void *found = memchr(at + from, (unsigned char)delimiter[0], range);
        if (found == NULL) {
            break;
        }
        from = (size_t)((const unsigned char *)found - at);
        if (memcmp(found, delimiter, bytes) == 0) {
            out->len = from;
            out->data = at;
            out->header = NULL;
            return 1;
        }
        from++;
    }
    /* Were it no longer than max, its delimiter would end within these. */
    return len >= max + bytes ? NETKIT_E_TOOBIG : 0;
}

static size_t nki_frame_bytes(const netkit_framing *f, const netkit_frame *frame) {
    switch (f->kind) {
    case NETKIT_FRAME_LENGTH: return frame->len + nki_frame_header_bytes(f);
    case NETKIT_FRAME_DELIMITER:
        return frame->len + (f->delimiter_bytes == 0 ? 1u : f->delimiter_bytes);
    default: return frame->len;
    }
}

NETKIT_API int netkit_frame_next(const netkit_framing *framing, const void *data, size_t len,
                                 size_t *used, netkit_frame *out) {
    int found = 0;
    if (!nki_framing_is_valid(framing) || *used > len) {
        return NETKIT_E_INVALID;
    }
    len -= *used;
    if (len == 0) {
        return 0;
    }
    const unsigned char *at = (const unsigned char *)data + *used;
    if (framing->kind == NETKIT_FRAME_LENGTH) {
        found = nki_frame_next_length(framing, at, len, out);
    } else if (framing->kind == NETKIT_FRAME_DELIMITER) {
        found = nki_frame_next_delimiter(framing, at, len, out);
    } else if (len >= framing->size) {
        out->len = framing->size;
        out->data = at;
        out->header = NULL;
        found = 1;
    }
    if (found > 0) {
        *used += nki_frame_bytes(framing, out);
    }
    return found;
}

NETKIT_API int netkit_frame_header(const netkit_framing *framing, size_t len, void *out) {
    if (!nki_framing_is_valid(framing)) {
        return NETKIT_E_INVALID;
    }
    if (len > nki_frame_size_max(framing)) {
        return NETKIT_E_TOOBIG;
    }
    if (framing->kind != NETKIT_FRAME_LENGTH) {
        return framing->kind == NETKIT_FRAME_FIXED && len != framing->size ? NETKIT_E_INVALID : 0;
    }
    uint32_t header = nki_frame_header_bytes(framing);
    uint32_t bytes = nki_frame_length_bytes(framing);
    uint64_t size = (uint64_t)len + (framing->length_counts_header ? header : 0);
    if (size >> (8 * bytes) != 0) {
        return NETKIT_E_TOOBIG;
    }
    for (uint32_t i = bytes; i-- > 0; size >>= 8) {
        ((unsigned char *)out)[nki_frame_byte(framing, i)] = (unsigned char)size;
    }
    return (int)header;
}
