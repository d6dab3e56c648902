/* Addresses: the parser, the formatter, equality and the hash. All of it is pure:
 * bytes in, a value out, no system call, no locale, no allocation. What only the
 * system knows (an interface's number, how long a unix path may be) comes in as
 * nki_addr_rules or is left to the caller as the span of a zone's name.
 *
 * The scanner never reads a byte at or beyond `len`, and it accepts a byte only while
 * some address begins with everything up to it. So where it stops is the error offset,
 * exactly: the text up to there can be the start of an address, one byte more cannot.
 *
 * IPv6 text follows RFC 4291 section 2.2, written back as RFC 5952 section 4 wants it
 * (lower case, no leading zeros, "::" for the first of the longest runs of two or more
 * zero groups) and 5 (v4-mapped addresses end in dotted decimal). A leading zero in a
 * decimal part is refused because some parsers read it as octal: "010.0.0.1" would be
 * a different machine to a filter and to the connect behind it.
 *
 * A ':' in a zone is refused: Linux cuts a name there when it looks it up, so that
 * "eth0:typo" would be eth0 (SIOCGIFINDEX, net/core/dev_ioctl.c). */

/* What a system can take. */
typedef struct nki_addr_rules {
    size_t path_max;   /* bytes of a unix path or abstract name */
    bool has_abstract; /* whether there are abstract names */
} nki_addr_rules;

/* Where the scanner is: at the first byte it has not accepted. */
typedef struct nki_addr_scanner {
    const char *text;
    size_t len;
    size_t at;
    size_t zone_at; /* a zone that is a name and not a number; zone_len 0: none */
    size_t zone_len;
} nki_addr_scanner;

static const uint8_t nki_addr_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool nki_ip_is_mapped(const uint8_t ip[16]) {
    return memcmp(ip, nki_addr_mapped, sizeof(nki_addr_mapped)) == 0;
}

/* The byte here, or -1 at the end. */
static int nki_scan_peek(const nki_addr_scanner *s) {
    return s->at < s->len ? (unsigned char)s->text[s->at] : -1;
}

static bool nki_scan_take(nki_addr_scanner *s, char c) {
    if (nki_scan_peek(s) != c) {
        return false;
    }
    s->at++;
    return true;
}

static bool nki_scan_word(nki_addr_scanner *s, const char *word) {
    while (*word != 0) {
        if (!nki_scan_take(s, *word++)) {
            return false;
        }
    }
    return true;
}

/* Take a decimal number up to `max` (9 or more). Stops before the digit after a
 * leading zero or that would pass `max`: what the caller expects next is not there,
 * and the offset is that digit's. */
static bool nki_scan_decimal(nki_addr_scanner *s, uint32_t max, uint32_t *out) {
    size_t start = s->at;
    uint32_t value = 0;
    for (;;) {
        int c = nki_scan_peek(s);
        if (c < '0' || c > '9' || (value == 0 && s->at > start)) {
            break;
        }
        uint32_t digit = (uint32_t)c - '0';
        if (value > (max - digit) / 10) {
            break;
        }
        value = value * 10 + digit;
        s->at++;
    }
    *out = value;
    return s->at > start;
}

static int nki_hex_digit(int c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Take at most `digits_max` hexadecimal digits; how many there were. */
static int nki_scan_hex(nki_addr_scanner *s, int digits_max, uint32_t *out) {
    int digits = 0;
    *out = 0;
    while (digits < digits_max) {
        int digit = nki_hex_digit(nki_scan_peek(s));
        if (digit < 0) {
            break;
        }
        *out = *out * 16 + (uint32_t)digit;
        s->at++;
        digits++;
    }
    return digits;
}

static bool nki_scan_ipv4(nki_addr_scanner *s, uint8_t *ip) {
    for (int i = 0; i < 4; i++) {
        uint32_t part;
        if ((i > 0 && !nki_scan_take(s, '.')) || !nki_scan_decimal(s, 255, &part)) {
            return false;
        }
        ip[i] = (uint8_t)part;
    }
    return true;
}

/* The groups of an IPv6 address were read to a '.': read the last one again as the
 * first part of an IPv4 address. Until the dot it was a good group of hexadecimal
 * digits, so an error is never before the dot. */
static bool nki_scan_ipv4_tail(nki_addr_scanner *s, size_t group_at, uint8_t *ip) {
    size_t dot_at = s->at;
    s->at = group_at;
    bool is_good = nki_scan_ipv4(s, ip);
    s->at = NKI_MAX(s->at, dot_at);
    return is_good;
}

/* Read groups until something else stands there. `*gap` is where "::" stands in `ip`,
 * or 16 when there is none yet; `*used` counts the bytes written. A gap stands for at
 * least one group, which leaves room for seven. */
static bool nki_scan_groups(nki_addr_scanner *s, uint8_t ip[16], size_t *used, size_t *gap) {
    while (*used < (*gap < 16 ? 14u : 16u)) {
        size_t group_at = s->at;
        uint32_t group;
        if (nki_scan_hex(s, 4, &group) == 0) {
            return *used == *gap; /* an end is fine right behind the gap alone */
        }
        if (nki_scan_peek(s) == '.') {
            if (*gap < 16 ? *used > 10 : *used != 12) {
                return false;
            }
            *used += 4;
            return nki_scan_ipv4_tail(s, group_at, ip + *used - 4);
        }
        ip[*used] = (uint8_t)(group >> 8);
        ip[*used + 1] = (uint8_t)(group & 0xff);
        *used += 2;
        if (*used >= (*gap < 16 ? 14u : 16u) || !nki_scan_take(s, ':')) {
            break;
        }
        if (*gap == 16 && nki_scan_take(s, ':')) {
            *gap = *used;
        }
    }
    return true;
}

static bool nki_scan_ipv6(nki_addr_scanner *s, uint8_t ip[16]) {
    size_t used = 0;
    size_t gap = 16;
    if (nki_scan_take(s, ':')) {
        if (!nki_scan_take(s, ':')) {
            return false;
        }
        gap = 0;
    }
    if (!nki_scan_groups(s, ip, &used, &gap) || (gap == 16 && used < 16)) {
        return false;
    }
    if (gap < 16) {
        size_t tail = used - gap;
        memmove(ip + 16 - tail, ip + gap, tail);
        memset(ip + gap, 0, 16 - used);
    }
    return true;
}

/* A zone that reads as a number from 1 in plain digits is that number; everything else
 * is a name, even "0" and "007", which Linux allows. */
static bool nki_scan_zone(nki_addr_scanner *s, uint32_t *scope) {
    nki_addr_scanner number;
    size_t start = s->at;
    for (;;) {
        int c = nki_scan_peek(s);
        if (c <= ' ' || c > '~' || strchr("%:/[]", c) != NULL) {
            break;
        }
        s->at++;
    }
    if (s->at == start) {
        return false;
    }
    memset(&number, 0, sizeof(number));
    number.text = s->text;
    number.len = s->at;
    number.at = start;
    if (!nki_scan_decimal(&number, UINT32_MAX, scope) || number.at < number.len || *scope == 0) {
        *scope = 0;
        s->zone_at = start;
        s->zone_len = s->at - start;
    }
    return true;
}

static bool nki_scan_ip(nki_addr_scanner *s, netkit_addr *out) {
    int first = nki_scan_peek(s);
    uint32_t port;
    out->family = first == '[' || first == ':' ? NETKIT_AF_IPV6 : NETKIT_AF_IPV4;
    out->is_any = first == ':';
    if (nki_scan_take(s, '[')) {
        if (!nki_scan_ipv6(s, out->ip)) {
            return false;
        }
        /* An IPv4 address has no zone, whatever it is dressed as. */
        if (!nki_ip_is_mapped(out->ip) && nki_scan_take(s, '%') && !nki_scan_zone(s, &out->scope)) {
            return false;
        }
        if (!nki_scan_take(s, ']')) {
            return false;
        }
    } else if (first != ':' && !nki_scan_ipv4(s, out->ip)) {
        return false;
    }
    if (!nki_scan_take(s, ':') || !nki_scan_decimal(s, 65535, &port)) {
        return false;
    }
    out->port = (uint16_t)port;
    return s->at == s->len;
}

/* Take one byte of a unix path, or of an abstract name, where "\xHH" is any byte. A
 * control character is refused: it is a line end left on a setting far more often than
 * a name, and netkit_addr_from_path takes it from those who mean it. */
static bool nki_scan_path_byte(nki_addr_scanner *s, bool is_abstract, char *out) {
    int c = nki_scan_peek(s);
    if (c < ' ' || c == 127 || (is_abstract && c > '~')) {
        return false;
    }
    *out = s->text[s->at++];
    if (is_abstract && c == '\\') {
        uint32_t byte;
        if (!nki_scan_take(s, 'x') || nki_scan_hex(s, 2, &byte) < 2) {
            return false;
        }
        *out = (char)(unsigned char)byte;
    }
    return true;
}

static int nki_scan_unix(nki_addr_scanner *s, const nki_addr_rules *rules, netkit_addr *out) {
    size_t used = 0;
    out->family = NETKIT_AF_UNIX;
    if (!nki_scan_word(s, "unix:")) {
        return NETKIT_E_INVALID;
    }
    if (nki_scan_peek(s) == '@') {
        if (!rules->has_abstract) {
            return NETKIT_E_NOSYS;
        }
        s->at++;
        out->is_abstract = true;
    }
    while (s->at < s->len) {
        if (used == rules->path_max) {
            return NETKIT_E_TOOBIG;
        }
        if (!nki_scan_path_byte(s, out->is_abstract, &out->path[used])) {
            return NETKIT_E_INVALID;
        }
        used++;
    }
    out->path_len = (uint8_t)used;
    return used == 0 ? NETKIT_E_INVALID : NETKIT_OK;
}

/* Read an address whole. On success a zone that is a name may be left in the scanner
 * for the caller to look up; on failure *out is zero and s->at is the offset. */
static int nki_addr_scan(netkit_addr *out, nki_addr_scanner *s, const nki_addr_rules *rules) {
    int code;
    memset(out, 0, sizeof(*out));
    if (nki_scan_peek(s) == 'u') {
        code = nki_scan_unix(s, rules, out);
    } else {
        code = nki_scan_ip(s, out) ? NETKIT_OK : NETKIT_E_INVALID;
    }
    if (code != NETKIT_OK) {
        memset(out, 0, sizeof(*out));
    }
    return code;
}

/* Text on its way out; what does not fit is counted, not written. */
typedef struct nki_addr_writer {
    char *text;
    size_t size;
    size_t len;
} nki_addr_writer;

static void nki_write_char(nki_addr_writer *w, char c) {
    if (w->len < w->size) {
        w->text[w->len] = c;
    }
    w->len++;
}

static void nki_write_text(nki_addr_writer *w, const char *text) {
    while (*text != 0) {
        nki_write_char(w, *text++);
    }
}

static void nki_write_number(nki_addr_writer *w, uint32_t value, uint32_t base) {
    char digits[10];
    int count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (count > 0) {
        nki_write_char(w, digits[--count]);
    }
}

static void nki_write_ipv4(nki_addr_writer *w, const uint8_t *ip) {
    for (int i = 0; i < 4; i++) {
        if (i > 0) {
            nki_write_char(w, '.');
        }
        nki_write_number(w, ip[i], 10);
    }
}

static uint32_t nki_ip_group(const uint8_t ip[16], int index) {
    size_t at = 2 * (size_t)index;
    return ((uint32_t)ip[at] << 8) | ip[at + 1];
}

/* The first of the longest runs of zero groups; its length is 0 when none has two. */
static int nki_ip_zero_run(const uint8_t ip[16], int *len) {
    int best = 8;
    *len = 1;
    for (int i = 0; i < 8; i++) {
        int end = i;
        while (end < 8 && nki_ip_group(ip, end) == 0) {
            end++;
        }
        if (end - i > *len) {
            best = i;
            *len = end - i;
        }
    }
    return best;
}

static void nki_write_ipv6(nki_addr_writer *w, const uint8_t ip[16]) {
    int run_len;
    int run = nki_ip_zero_run(ip, &run_len);
    if (nki_ip_is_mapped(ip)) {
        nki_write_text(w, "::ffff:");
        nki_write_ipv4(w, ip + 12);
        return;
    }
    for (int i = 0; i < 8; i++) {
        if (i == run) {
            nki_write_text(w, "::");
            i += run_len - 1;
            continue;
        }
        if (i > 0 && i != run + run_len) {
            nki_write_char(w, ':');
        }
        nki_write_number(w, nki_ip_group(ip, i), 16);
    }
}

static void nki_write_path(nki_addr_writer *w, const netkit_addr *addr) {
    nki_write_text(w, "unix:");
    if (addr->is_abstract) {
        nki_write_char(w, '@');
    } else if (addr->path_len > 0 && addr->path[0] == '@') {
        nki_write_text(w, "./"); /* the same file, and not an abstract name */
    }
    for (size_t i = 0; i < addr->path_len; i++) {
        unsigned char c = (unsigned char)addr->path[i];
        if (c < ' ' || c == 127 || (addr->is_abstract && (c > '~' || c == '\\'))) {
            nki_write_text(w, c < 16 ? "\\x0" : "\\x");
            nki_write_number(w, c, 16);
        } else {
            nki_write_char(w, addr->path[i]);
        }
    }
}

static void nki_write_ip(nki_addr_writer *w, const netkit_addr *addr) {
    if (addr->family == NETKIT_AF_IPV4) {
        nki_write_ipv4(w, addr->ip);
        return;
    }
    nki_write_ipv6(w, addr->ip);
    if (addr->scope != 0 && !nki_ip_is_mapped(addr->ip)) {
        nki_write_char(w, '%');
        nki_write_number(w, addr->scope, 10);
    }
}

static void nki_write_endpoint(nki_addr_writer *w, const netkit_addr *addr) {
    bool is_ipv6 = addr->family == NETKIT_AF_IPV6;
    if (!is_ipv6 || !addr->is_any) {
        nki_write_text(w, is_ipv6 ? "[" : "");
        nki_write_ip(w, addr);
        nki_write_text(w, is_ipv6 ? "]" : "");
    }
    nki_write_char(w, ':');
    nki_write_number(w, addr->port, 10);
}

static bool nki_addr_is_ip(const netkit_addr *addr) {
    return addr->family == NETKIT_AF_IPV4 || addr->family == NETKIT_AF_IPV6;
}

/* Format with or without the port. A caller's size is a limit, never a promise that
 * the bytes are there: nothing is written behind the end of the text. */
static int nki_addr_write(const netkit_addr *addr, char *text, size_t size, bool is_ip_alone) {
    nki_addr_writer w;
    if (text == NULL) {
        return NETKIT_E_INVALID;
    }
    w.text = text;
    w.size = size;
    w.len = 0;
    if (addr != NULL && nki_addr_is_ip(addr)) {
        if (is_ip_alone) {
            nki_write_ip(&w, addr);
        } else {
            nki_write_endpoint(&w, addr);
        }
    } else if (addr != NULL && addr->family == NETKIT_AF_UNIX && !is_ip_alone &&
               addr->path_len <= NETKIT_UNIX_PATH_MAX) {
        nki_write_path(&w, addr);
    }
    if (w.len == 0 || w.len >= size) {
        if (size > 0) {
            text[0] = 0;
        }
        return w.len == 0 ? NETKIT_E_INVALID : NETKIT_E_TOOBIG;
    }
    text[w.len] = 0;
    return (int)w.len;
}

NETKIT_API int netkit_addr_format(const netkit_addr *addr, char *text, size_t size) {
    return nki_addr_write(addr, text, size, false);
}

NETKIT_API int netkit_addr_format_ip(const netkit_addr *addr, char *text, size_t size) {
    return nki_addr_write(addr, text, size, true);
}

enum {
    NKI_ADDR_KEY_MAX = 2 + NETKIT_UNIX_PATH_MAX
};

/* Write what makes an address what it is as bytes, the same on every machine. Equality
 * and the hash both work on these, so they cannot disagree. Returns how many. */
static size_t nki_addr_key(const netkit_addr *addr, uint8_t key[NKI_ADDR_KEY_MAX]) {
    bool is_ipv4 = addr->family == NETKIT_AF_IPV4 ||
                   (addr->family == NETKIT_AF_IPV6 && nki_ip_is_mapped(addr->ip));
    uint32_t scope = is_ipv4 ? 0 : addr->scope;
    size_t len;
    key[0] = is_ipv4 ? (uint8_t)NETKIT_AF_IPV4 : addr->family;
    if (addr->family == NETKIT_AF_UNIX) {
        len = NKI_MIN(addr->path_len, (size_t)NETKIT_UNIX_PATH_MAX);
        key[1] = addr->is_abstract;
        memcpy(key + 2, addr->path, len);
        return 2 + len;
    }
    if (!nki_addr_is_ip(addr)) {
        return 1;
    }
    key[1] = !is_ipv4 && addr->is_any;
    key[2] = (uint8_t)(addr->port >> 8);
    key[3] = (uint8_t)(addr->port & 0xff);
    for (int i = 0; i < 4; i++) {
        key[4 + i] = (uint8_t)((scope >> (8 * i)) & 0xff);
    }
    len = is_ipv4 ? 4 : 16;
    memcpy(key + 8, addr->family == NETKIT_AF_IPV4 ? addr->ip : addr->ip + 16 - len, len);
    return 8 + len;
}

NETKIT_API bool netkit_addr_equal(const netkit_addr *a, const netkit_addr *b) {
    uint8_t key_a[NKI_ADDR_KEY_MAX];
    uint8_t key_b[NKI_ADDR_KEY_MAX];
    size_t len;
    if (a == NULL || b == NULL) {
        return false;
    }
    len = nki_addr_key(a, key_a);
    return nki_addr_key(b, key_b) == len && memcmp(key_a, key_b, len) == 0;
}

static uint64_t nki_rotate(uint64_t x, int bits) {
    return (x << bits) | (x >> (64 - bits));
}

static void nki_sip_rounds(uint64_t v[4], int rounds) {
    while (rounds-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = nki_rotate(v[1], 13) ^ v[0];
        v[3] = nki_rotate(v[3], 16) ^ v[2];
        v[0] = nki_rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = nki_rotate(v[1], 17) ^ v[2];
        v[3] = nki_rotate(v[3], 21) ^ v[0];
        v[2] = nki_rotate(v[2], 32);
    }
}

/* SipHash (Aumasson and Bernstein, 2012) with the given rounds: strangers who do not
 * know the key cannot make addresses meet in one row of a table. */
static uint64_t nki_siphash(const uint8_t *data, size_t len, uint64_t k0, uint64_t k1, int rounds,
                            int last_rounds) {
    uint64_t v[4];
    v[0] = k0 ^ UINT64_C(0x736f6d6570736575);
    v[1] = k1 ^ UINT64_C(0x646f72616e646f6d);
    v[2] = k0 ^ UINT64_C(0x6c7967656e657261);
    v[3] = k1 ^ UINT64_C(0x7465646279746573);
    for (size_t i = 0; i <= len; i += 8) {
        uint64_t word = i + 8 > len ? (uint64_t)len << 56 : 0;
        for (size_t j = 0; j < 8 && i + j < len; j++) {
            word |= (uint64_t)data[i + j] << (8 * j);
        }
        v[3] ^= word;
        nki_sip_rounds(v, rounds);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    nki_sip_rounds(v, last_rounds);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

NETKIT_API uint64_t netkit_addr_hash(const netkit_addr *addr, uint64_t seed) {
    uint8_t key[NKI_ADDR_KEY_MAX];
    if (addr == NULL) {
        return 0;
    }
    return nki_siphash(key, nki_addr_key(addr, key), seed, ~seed, 1, 3);
}

/* Both makers finish before they write *out: the bytes given may lie in it. */
NETKIT_API int netkit_addr_from_ip(netkit_addr *out, const void *ip, size_t ip_len, uint16_t port,
                                   uint32_t scope) {
    netkit_addr addr;
    int code = NETKIT_E_INVALID;
    if (out == NULL) {
        return code;
    }
    memset(&addr, 0, sizeof(addr));
    if (ip != NULL && (ip_len == 4 || ip_len == 16)) {
        memcpy(addr.ip, ip, ip_len);
        if (scope == 0 || (ip_len == 16 && !nki_ip_is_mapped(addr.ip))) {
            code = NETKIT_OK;
        }
    }
    if (code == NETKIT_OK) {
        addr.family = ip_len == 4 ? NETKIT_AF_IPV4 : NETKIT_AF_IPV6;
        addr.port = port;
        addr.scope = scope;
    } else {
        memset(&addr, 0, sizeof(addr));
    }
    *out = addr;
    return code;
}

/* Check the bytes of a unix address against a system's rules. */
static int nki_addr_check_path(const char *path, size_t len, bool is_abstract,
                               const nki_addr_rules *rules) {
    if (is_abstract && !rules->has_abstract) {
        return NETKIT_E_NOSYS;
    }
    if (path == NULL || len == 0) {
        return NETKIT_E_INVALID;
    }
    if (len > rules->path_max) {
        return NETKIT_E_TOOBIG;
    }
    return !is_abstract && memchr(path, 0, len) != NULL ? NETKIT_E_INVALID : NETKIT_OK;
}

static int nki_addr_set_path(netkit_addr *out, const char *path, size_t len, bool is_abstract,
                             const nki_addr_rules *rules) {
    netkit_addr addr;
    int code = nki_addr_check_path(path, len, is_abstract, rules);
    memset(&addr, 0, sizeof(addr));
    if (code == NETKIT_OK) {
        memcpy(addr.path, path, len);
        addr.family = NETKIT_AF_UNIX;
        addr.path_len = (uint8_t)len;
        addr.is_abstract = is_abstract;
    }
    *out = addr;
    return code;
}
