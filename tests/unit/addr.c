/* Addresses: parser, formatter, equality, hash, and the kernel's form of them. All text goes to
 * the parser against a page that must not be touched, so that reading one byte too many traps. */

enum {
    ADDR_TEXT = 8192,
    ADDR_PATH = (int)sizeof(((struct sockaddr_un *)0)->sun_path)
};

/* Any system's rules can be tested on any system. */
static const nki_addr_rules addr_linux = {107, true};
static const nki_addr_rules addr_macos = {103, false};

static const char *const addr_good[] = {
    "0.0.0.0:0",
    "1.2.3.4:5",
    "127.0.0.1:80",
    "192.0.2.199:8080",
    "255.255.255.255:65535",
    ":0",
    ":80",
    ":65535",
    "[::]:0",
    "[::1]:80",
    "[1::]:80",
    "[2001:db8::1]:80",
    "[2001:DB8:A:b:c:D:e:F]:80",
    "[1:2:3:4:5:6:7:8]:1",
    "[1:2:3:4:5:6:7::]:1",
    "[::2:3:4:5:6:7:8]:1",
    "[1:2:3::5:6:7:8]:1",
    "[0001:0:00:000:0000::1]:1",
    "[::1.2.3.4]:1",
    "[::ffff:192.0.2.33]:80",
    "[1:2:3:4:5:6:7.8.9.10]:1",
    "[1:2:3:4::7.8.9.10]:1",
    "[::2:3:4:5:6:7.8.9.10]:1",
    "[64:ff9b::192.0.2.33]:65535",
    "[fe80::1%2]:80",
    "[fe80::1%4294967295]:80",
    "[ff02::1%eth0.7-a_b]:80",
    "unix:/run/x",
    "unix:relative file",
    "unix:\xc3\xa9",
    "unix:a\\x4",
    "unix:@name",
    "unix:@a\\x00b\\xFf\\x5c",
};

/* Bring text to the end of readable memory. */
static const char *addr_guarded(const char *text, size_t len) {
    static char *memory;
    static size_t size = ADDR_TEXT;
    if (memory == NULL) {
        memory = nkt_guarded(&size);
        CHECK(memory != NULL);
    }
    CHECK(len <= size);
    memcpy(memory + size - len, text, len);
    return memory + size - len;
}

/* The pure core alone: a zone that is a name counts as interface 7. */
static int addr_scan(netkit_addr *out, const char *text, size_t len, const nki_addr_rules *rules,
                     size_t *at) {
    nki_addr_scanner s;
    int code;
    memset(&s, 0, sizeof(s));
    s.text = addr_guarded(text, len);
    s.len = len;
    code = nki_addr_scan(out, &s, rules);
    *at = s.at;
    if (s.zone_len > 0) {
        CHECK(code != NETKIT_OK || s.zone_at + s.zone_len < s.at);
        out->scope = code == NETKIT_OK ? 7 : out->scope;
    }
    return code;
}

static netkit_addr addr_of(const char *text) {
    netkit_addr addr;
    size_t at = 0;
    int code = netkit_addr_parse_n(&addr, addr_guarded(text, strlen(text)), strlen(text), &at);
    if (code != NETKIT_OK) {
        printf("%s: %s at %zu\n", text, netkit_error_name(code), at);
    }
    CHECK_OK(code);
    CHECK_EQ(at, strlen(text));
    return addr;
}

static void addr_check_zero(const netkit_addr *addr) {
    static const netkit_addr zero;
    CHECK_MEM(addr, &zero, sizeof(zero));
}

static void addr_check_round_trip(const netkit_addr *addr, const nki_addr_rules *rules) {
    char text[NETKIT_ADDR_TEXT_MAX];
    char again[NETKIT_ADDR_TEXT_MAX];
    netkit_addr back;
    size_t at;
    int len = netkit_addr_format(addr, text, sizeof(text));
    CHECK(len > 0);
    CHECK_EQ(len, strlen(text));
    CHECK_OK(addr_scan(&back, text, (size_t)len, rules, &at));
    CHECK(netkit_addr_equal(addr, &back));
    CHECK_EQ(netkit_addr_hash(addr, 1), netkit_addr_hash(&back, 1));
    CHECK_EQ(addr->family, back.family);
    CHECK_EQ(netkit_addr_format(&back, again, sizeof(again)), len);
    CHECK_STR(text, again);
}

/* Whether some address begins with this text. */
static bool addr_can_begin(const char *text, size_t len) {
    static const char *const ends[] = {
        "0:1",    ".1.1.1:1", "1.1.1:1", ".1.1:1", "1.1:1", ".1:1",   "1:1",
        ":1",     "1",        "::]:1",   ":]:1",   "]:1",   "1]:1",   ".1.1]:1",
        "1.1]:1", "1.1.1]:1", ".1]:1",   "unix:a", "nix:a", "ix:a",   "x:a",
        ":a",     "a",        "x41",     "41",     "",      "::1]:1",
    };
    char whole[ADDR_TEXT];
    netkit_addr addr;
    memcpy(whole, text, len);
    for (size_t i = 0; i < NKI_COUNT(ends); i++) {
        size_t at;
        memcpy(whole + len, ends[i], strlen(ends[i]));
        if (addr_scan(&addr, whole, len + strlen(ends[i]), &addr_linux, &at) == NETKIT_OK) {
            return true;
        }
    }
    return false;
}

/* Whatever the text: an address goes round, and an error stands at the first byte that no
 * address has after what is before it. */
static void addr_check_any(const char *text, size_t len) {
    netkit_addr addr;
    size_t at;
    int code = addr_scan(&addr, text, len, &addr_linux, &at);
    if (code == NETKIT_OK) {
        CHECK_EQ(at, len);
        addr_check_round_trip(&addr, &addr_linux);
        return;
    }
    CHECK_ERR(code, NETKIT_E_INVALID);
    CHECK(at <= len);
    addr_check_zero(&addr);
    if (!addr_can_begin(text, at) || (at < len && addr_can_begin(text, at + 1))) {
        printf("%.*s: wrong offset %zu\n", (int)len, text, at);
        FAIL("the error offset is not exact");
    }
}

/* A-01 SK30: what the fields of good addresses are. */
NKT_TEST(addr_parse_fields) {
    static const uint8_t mixed[16] = {0, 1, 0, 2, 0, 3, 0, 4, 0, 0, 0, 0, 7, 8, 9, 10};
    static const uint8_t upper[16] = {0x20, 1, 0xd, 0xb8, 0xab, 0xcd, 0xef, 0,
                                      0,    0, 0,   0,    0,    0,    0,    0};
    netkit_addr addr = addr_of("192.0.2.199:8080");
    CHECK_EQ(addr.family, NETKIT_AF_IPV4);
    CHECK_MEM(addr.ip, "\xc0\x00\x02\xc7\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    CHECK_EQ(addr.port, 8080);
    CHECK(!addr.is_any);
    addr = addr_of("[1:2:3:4::7.8.9.10]:65535");
    CHECK_EQ(addr.family, NETKIT_AF_IPV6);
    CHECK_MEM(addr.ip, mixed, 16);
    CHECK_EQ(addr.port, 65535);
    CHECK_EQ(addr.scope, 0);
    addr = addr_of("[2001:DB8:abCD:eF00::]:0");
    CHECK_MEM(addr.ip, upper, 16);
    addr = addr_of("[fe80::1%4294967295]:80");
    CHECK_EQ(addr.scope, UINT32_MAX);
    addr = addr_of("unix:/run/x");
    CHECK_EQ(addr.family, NETKIT_AF_UNIX);
    CHECK_EQ(addr.path_len, 6);
    CHECK_MEM(addr.path, "/run/x\0", 7);
    CHECK(!addr.is_abstract);
}

/* SK04: ":port" is every address; the wildcards of one family are just addresses. */
NKT_TEST(addr_wildcards) {
    netkit_addr any = addr_of(":80");
    netkit_addr v6 = addr_of("[::]:80");
    netkit_addr v4 = addr_of("0.0.0.0:80");
    struct sockaddr_storage sa;
    struct sockaddr_in6 in6;
    socklen_t len;
    CHECK_EQ(any.family, NETKIT_AF_IPV6);
    CHECK(any.is_any && !v6.is_any && !v4.is_any);
    CHECK_EQ(v6.family, NETKIT_AF_IPV6);
    CHECK_EQ(v4.family, NETKIT_AF_IPV4);
    CHECK(!netkit_addr_equal(&any, &v6));
    CHECK(!netkit_addr_equal(&v4, &v6));
    CHECK_OK(nki_sockaddr_from(&sa, &len, &any));
    memcpy(&in6, &sa, sizeof(in6));
    CHECK_EQ(len, sizeof(in6));
    CHECK_EQ(in6.sin6_family, AF_INET6);
    CHECK_EQ(in6.sin6_port, htons(80));
    CHECK_MEM(&in6.sin6_addr, &in6addr_any, 16);
}

typedef struct addr_bad_row {
    const char *text;
    int code;
    size_t at;
} addr_bad_row;

/* A-01 SK30: what is not an address, and where it stops being one. */
NKT_TEST(addr_parse_bad) {
    static const addr_bad_row rows[] = {
        {"", NETKIT_E_INVALID, 0},
        {" ", NETKIT_E_INVALID, 0},
        {":", NETKIT_E_INVALID, 1},
        {"localhost:80", NETKIT_E_INVALID, 0},
        {"example.com", NETKIT_E_INVALID, 0},
        {"-1", NETKIT_E_INVALID, 0},
        {"1.2.3.4", NETKIT_E_INVALID, 7},
        {"1.2.3.4:", NETKIT_E_INVALID, 8},
        {"1.2.3.4:-1", NETKIT_E_INVALID, 8},
        {"1.2.3.4:00080", NETKIT_E_INVALID, 9},
        {"1.2.3.4:00", NETKIT_E_INVALID, 9},
        {"1.2.3.4:65536", NETKIT_E_INVALID, 12},
        {"1.2.3.4:655350", NETKIT_E_INVALID, 13},
        {"1.2.3.4:4294967376", NETKIT_E_INVALID, 13},
        {"1.2.3.4:+80", NETKIT_E_INVALID, 8},
        {"1.2.3.4: 80", NETKIT_E_INVALID, 8},
        {"1.2.3.4:80 ", NETKIT_E_INVALID, 10},
        {"1.2.3.4:80\n", NETKIT_E_INVALID, 10},
        {"1.2.3.4:0x50", NETKIT_E_INVALID, 9},
        {" 1.2.3.4:80", NETKIT_E_INVALID, 0},
        {"1.2.3", NETKIT_E_INVALID, 5},
        {"1.2.3:80", NETKIT_E_INVALID, 5},
        {"1.2.3.4.5", NETKIT_E_INVALID, 7},
        {"01.2.3.4", NETKIT_E_INVALID, 1},
        {"1.2.3.04:1", NETKIT_E_INVALID, 7},
        {"0x7f.0.0.1:1", NETKIT_E_INVALID, 1},
        {"256.1.1.1:1", NETKIT_E_INVALID, 2},
        {"1.300.1.1:1", NETKIT_E_INVALID, 4},
        {"1..2.3:1", NETKIT_E_INVALID, 2},
        {"1.2.3.4%1:80", NETKIT_E_INVALID, 7},
        {"2130706433:80", NETKIT_E_INVALID, 3},
        {"[1.2.3.4]:80", NETKIT_E_INVALID, 2},
        {"::1:80", NETKIT_E_INVALID, 1},
        {"fe80::1", NETKIT_E_INVALID, 0},
        {"[", NETKIT_E_INVALID, 1},
        {"[]:80", NETKIT_E_INVALID, 1},
        {"[:]:80", NETKIT_E_INVALID, 2},
        {"[:1]:80", NETKIT_E_INVALID, 2},
        {"[::1", NETKIT_E_INVALID, 4},
        {"[::1]", NETKIT_E_INVALID, 5},
        {"[::1]80", NETKIT_E_INVALID, 5},
        {"[::1]:", NETKIT_E_INVALID, 6},
        {"[::1]:80]", NETKIT_E_INVALID, 8},
        {"[::1]:99999", NETKIT_E_INVALID, 10},
        {"[:::1]:80", NETKIT_E_INVALID, 3},
        {"[1::2::3]:80", NETKIT_E_INVALID, 6},
        {"[1:2:3:4:5:6:7:8:9]:1", NETKIT_E_INVALID, 16},
        {"[1:2:3:4:5:6:7]:1", NETKIT_E_INVALID, 14},
        {"[1:2:3:4:5:6:7::8]:1", NETKIT_E_INVALID, 16},
        {"[1:2:3:4:5:6:7:8::]:1", NETKIT_E_INVALID, 16},
        {"[::2:3:4:5:6:7:8:9]:1", NETKIT_E_INVALID, 16},
        {"[1:2:3:4:5:6:7:]:1", NETKIT_E_INVALID, 15},
        {"[12345::]:1", NETKIT_E_INVALID, 5},
        {"[00001::]:1", NETKIT_E_INVALID, 5},
        {"[g::]:1", NETKIT_E_INVALID, 1},
        {"[::1.2.3]:1", NETKIT_E_INVALID, 8},
        {"[::1.2.3.4.5]:1", NETKIT_E_INVALID, 10},
        {"[::1.2.3.4:5]:1", NETKIT_E_INVALID, 10},
        {"[::256.2.3.4]:1", NETKIT_E_INVALID, 6},
        {"[::01.2.3.4]:1", NETKIT_E_INVALID, 5},
        {"[::a.2.3.4]:1", NETKIT_E_INVALID, 4},
        {"[::1.2.300.4]:1", NETKIT_E_INVALID, 9},
        {"[1:2:3:4:5:6:7:8.9.10.11]:1", NETKIT_E_INVALID, 16},
        {"[1:2:3:4:5:1.2.3.4]:1", NETKIT_E_INVALID, 12},
        {"[::2:3:4:5:6:7:1.2.3.4]:1", NETKIT_E_INVALID, 16},
        {"[::1%]:80", NETKIT_E_INVALID, 5},
        {"[::1%", NETKIT_E_INVALID, 5},
        {"[::1%2", NETKIT_E_INVALID, 6},
        {"[::1%2:80", NETKIT_E_INVALID, 6},
        {"[fe80::1%e 0]:80", NETKIT_E_INVALID, 10},
        {"[fe80::1%a%b]:80", NETKIT_E_INVALID, 10},
        {"[fe80::1%lo:x]:80", NETKIT_E_INVALID, 11},
        {"[fe80::1%a/b]:80", NETKIT_E_INVALID, 10},
        {"[fe80::1%\xc3\xa9]:80", NETKIT_E_INVALID, 9},
        {"[::ffff:1.2.3.4%1]:80", NETKIT_E_INVALID, 15},
        {"[fe80::1%0]:80", NETKIT_E_NOTFOUND, 9},
        {"[fe80::1%00]:80", NETKIT_E_NOTFOUND, 9},
        {"[fe80::1%4294967296]:80", NETKIT_E_NOTFOUND, 9},
        {"[::1%1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]:80", NETKIT_E_NOTFOUND, 5},
        {"u", NETKIT_E_INVALID, 1},
        {"unix", NETKIT_E_INVALID, 4},
        {"unix:", NETKIT_E_INVALID, 5},
        {"unix/x", NETKIT_E_INVALID, 4},
        {"UNIX:/x", NETKIT_E_INVALID, 0},
        {"udp:/x", NETKIT_E_INVALID, 1},
        {"unix:/run/x\n", NETKIT_E_INVALID, 11},
        {"unix:/run\x7f/x", NETKIT_E_INVALID, 9},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        netkit_addr addr;
        size_t at = 99999;
        size_t len = strlen(rows[i].text);
        int code;
        memset(&addr, 0xff, sizeof(addr));
        code = netkit_addr_parse_n(&addr, addr_guarded(rows[i].text, len), len, &at);
        if (code != rows[i].code || at != rows[i].at) {
            printf("\"%s\": %s at %zu\n", rows[i].text, netkit_error_name(code), at);
        }
        CHECK_ERR(code, rows[i].code);
        CHECK_EQ(at, rows[i].at);
        addr_check_zero(&addr);
        at = 99999;
        CHECK_ERR(netkit_addr_parse(&addr, rows[i].text, &at), rows[i].code);
        CHECK_EQ(at, rows[i].at);
    }
}

/* A-01: arguments that are no text. */
NKT_TEST(addr_parse_arguments) {
    netkit_addr addr;
    size_t at = 99999;
    memset(&addr, 0xff, sizeof(addr));
    CHECK_ERR(netkit_addr_parse(&addr, NULL, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 0);
    addr_check_zero(&addr);
    CHECK_ERR(netkit_addr_parse_n(&addr, NULL, 5, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_parse(NULL, ":80", &at), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_parse(NULL, NULL, NULL), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_parse(&addr, "x", NULL), NETKIT_E_INVALID);
    CHECK_OK(netkit_addr_parse(&addr, addr_guarded(":80", 4), NULL));
    CHECK_EQ(addr.port, 80);
    CHECK_ERR(netkit_addr_parse_n(&addr, ":8\0", 3, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 2);
    CHECK_ERR(netkit_addr_parse_n(&addr, ":80\0", 4, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 3);
    CHECK_ERR(netkit_addr_parse_n(&addr, "[fe80::1%l\0]:1", 14, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 10);
}

/* A-01: every address cut short anywhere. */
NKT_TEST(addr_parse_truncated) {
    for (size_t i = 0; i < NKI_COUNT(addr_good); i++) {
        for (size_t len = 0; len < strlen(addr_good[i]); len++) {
            netkit_addr addr;
            size_t at;
            int code = addr_scan(&addr, addr_good[i], len, &addr_linux, &at);
            CHECK(code == NETKIT_OK || code == NETKIT_E_INVALID);
            CHECK_EQ(at, len);
            addr_check_any(addr_good[i], len);
        }
        addr_check_any(addr_good[i], strlen(addr_good[i]));
    }
}

/* A-01: every address with any one byte replaced, left out or put in. */
NKT_TEST(addr_parse_mutated) {
    NKT_TIME_LIMIT(60); /* under valgrind */
    for (size_t i = 0; i < NKI_COUNT(addr_good); i++) {
        size_t len = strlen(addr_good[i]);
        for (size_t at = 0; at <= len; at++) {
            char text[128];
            memcpy(text, addr_good[i], at);
            memcpy(text + at, addr_good[i] + at + 1, at < len ? len - at - 1 : 0);
            addr_check_any(text, at < len ? len - 1 : len);
            int first = (int)(nkt_random() % nkt_thrift()); /* each byte, or a few of them */
            for (int byte = first; byte < 256; byte += (int)nkt_thrift()) {
                text[at] = (char)byte;
                memcpy(text + at + 1, addr_good[i] + at, len - at);
                addr_check_any(text, len + 1);
                if (at < len) {
                    memcpy(text + at + 1, addr_good[i] + at + 1, len - at - 1);
                    addr_check_any(text, len);
                }
            }
        }
    }
}

/* A-01: random text of the letters that matter, and against the C library's opinion. */
NKT_TEST(addr_parse_random) {
    static const char letters[] = "0123456789abcfF::::....%[]ux\\";
    uint64_t agreed = 0;
    NKT_TIME_LIMIT(60);
    for (uint64_t n = nkt_scale(3000000, 150000) / nkt_thrift(); n > 0; n--) {
        char text[64] = "[";
        const char *from = addr_good[8 + nkt_random() % 16]; /* an IPv6 one */
        size_t len = strcspn(from, "]");
        uint8_t ip[16];
        netkit_addr addr;
        size_t at;
        memcpy(text, from, len);
        for (uint64_t edits = nkt_random() % 4; edits > 0; edits--) {
            text[1 + nkt_random() % (len - 1)] = letters[nkt_random() % (sizeof(letters) - 1)];
        }
        if (nkt_random() % 4 == 0) {
            len = 2 + nkt_random() % (len - 1);
        }
        memcpy(text + len, "]:1", 4);
        addr_check_any(text, len + 3);
#if defined(__GLIBC__)
        bool is_good = addr_scan(&addr, text, len + 3, &addr_linux, &at) == NETKIT_OK;
        if (memchr(text, '%', len) == NULL) {
            text[len] = 0;
            CHECK_EQ(inet_pton(AF_INET6, text + 1, ip), is_good);
            CHECK(!is_good || memcmp(ip, addr.ip, 16) == 0);
            agreed += is_good;
        }
#else
        (void)ip, (void)addr, (void)at;
        agreed++;
#endif
    }
    CHECK(agreed > 1000);
}

/* A-01: input far over any length. */
NKT_TEST(addr_parse_long) {
    static const char *const starts[] = {"", "1.2.3.4:", ":", "[", "[::", "[::1%1", "[::1%x"};
    static char text[4097];
    netkit_addr addr;
    size_t at;
    for (size_t i = 0; i < NKI_COUNT(starts); i++) {
        for (int byte = 0; byte < 256; byte++) {
            size_t len = strlen(starts[i]);
            memset(text, byte, 4096);
            memcpy(text, starts[i], len);
            CHECK_ERR(netkit_addr_parse_n(&addr, addr_guarded(text, 4096), 4096, &at),
                      NETKIT_E_INVALID);
            CHECK(at <= 4096);
            CHECK(i >= 5 || at <= len + 5);
        }
    }
    memset(text, 'x', 4096);
    memcpy(text, "[::1%", 5);
    memcpy(text + 4092, "]:80", 4);
    CHECK_ERR(netkit_addr_parse(&addr, text, &at), NETKIT_E_NOTFOUND);
    CHECK_EQ(at, 5);
    memset(text, 'x', 4096);
    memcpy(text, "unix:", 5);
    CHECK_ERR(netkit_addr_parse(&addr, text, &at), NETKIT_E_TOOBIG);
    CHECK_EQ(at, 5 + ADDR_PATH - 1);
    addr_check_zero(&addr);
}

/* A-02: a zone by name and by number; what names no interface; a lookup that fails. */
NKT_TEST(addr_zone) {
    char name[IF_NAMESIZE];
    char text[NETKIT_ADDR_TEXT_MAX];
    struct sockaddr_storage sa;
    struct sockaddr_in6 in6;
    socklen_t len;
    netkit_addr addr;
    netkit_addr back;
    size_t at;
    CHECK(if_indextoname(1, name) != NULL);
    snprintf(text, sizeof(text), "[fe80::1%%%s]:80", name);
    addr = addr_of(text);
    CHECK_EQ(addr.scope, 1);
    CHECK_EQ(netkit_addr_format(&addr, text, sizeof(text)), 14);
    CHECK_STR(text, "[fe80::1%1]:80");
    CHECK_EQ(netkit_addr_format_ip(&addr, text, sizeof(text)), 9);
    CHECK_STR(text, "fe80::1%1");
    CHECK_OK(nki_sockaddr_from(&sa, &len, &addr));
    memcpy(&in6, &sa, sizeof(in6));
    CHECK_EQ(in6.sin6_scope_id, 1);
    nki_sockaddr_to(&back, &sa, len);
    CHECK(netkit_addr_equal(&addr, &back));
    back = addr_of("[fe80::1%1]:80");
    CHECK(netkit_addr_equal(&addr, &back));
    back = addr_of("[fe80::1%2]:80");
    CHECK(!netkit_addr_equal(&addr, &back));
    CHECK_ERR(netkit_addr_parse(&addr, "[fe80::1%nosuch]:80", &at), NETKIT_E_NOTFOUND);
    CHECK_EQ(at, 9);
    addr_check_zero(&addr);
    snprintf(text, sizeof(text), "[fe80::1%%%s]:80", name);
    nkt_fault_at("if_nametoindex", 1, ENFILE, false);
    CHECK_ERR(netkit_addr_parse(&addr, text, &at), NETKIT_E_NOTFOUND);
    CHECK_EQ(nkt_faults(), 1);
    nkt_fault_clear();
    /* No look-up for a number, for text that is wrong elsewhere, or for a name too long. */
    nkt_calls_reset();
    addr = addr_of("[fe80::1%7]:80");
    CHECK_ERR(netkit_addr_parse(&addr, "[fe80::1%eth0]:x", &at), NETKIT_E_INVALID);
    char too_long[NKI_IF_NAMESIZE + 20];
    snprintf(too_long, sizeof(too_long), "[fe80::1%%x%0*d]:1", (int)NKI_IF_NAMESIZE, 7);
    CHECK_ERR(netkit_addr_parse(&addr, too_long, &at), NETKIT_E_NOTFOUND);
    CHECK_EQ(nkt_calls("if_nametoindex"), 0);
    CHECK_ERR(netkit_addr_parse(&addr, "[fe80::1%eth0eth0eth0eth]:1", &at), NETKIT_E_NOTFOUND);
    CHECK_EQ(nkt_calls("if_nametoindex"), 1);
}

/* X-01 UX02 SD30: paths at the limit, over it, and with a NUL; with another system's rules. */
NKT_TEST(addr_path_limit) {
    static char path[4096];
    char text[4200];
    netkit_addr addr;
    size_t at;
    size_t max = ADDR_PATH - 1;
    memset(path, 'p', sizeof(path));
    CHECK_OK(netkit_addr_from_path(&addr, path, max, false));
    CHECK_EQ(addr.path_len, max);
    addr_check_round_trip(&addr, &nki_os_addr_rules);
    snprintf(text, sizeof(text), "unix:%.*s", (int)max, path);
    CHECK_OK(netkit_addr_parse(&addr, text, &at));
    CHECK_EQ(addr.path_len, max);
    snprintf(text, sizeof(text), "unix:%.*s", (int)max + 1, path);
    CHECK_ERR(netkit_addr_parse(&addr, text, &at), NETKIT_E_TOOBIG);
    CHECK_EQ(at, 5 + max);
    CHECK_ERR(netkit_addr_from_path(&addr, path, max + 1, false), NETKIT_E_TOOBIG);
    addr_check_zero(&addr);
    CHECK_ERR(netkit_addr_from_path(&addr, path, sizeof(path), false), NETKIT_E_TOOBIG);
    CHECK_ERR(netkit_addr_from_path(&addr, path, SIZE_MAX, false), NETKIT_E_TOOBIG);
    CHECK_ERR(netkit_addr_from_path(&addr, path, 0, false), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_path(&addr, NULL, 3, false), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_path(NULL, path, 3, false), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_path(&addr, "a\0b", 3, false), NETKIT_E_INVALID);
    addr_check_zero(&addr);
    CHECK_ERR(netkit_addr_parse_n(&addr, "unix:a\0b", 8, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 6);
    snprintf(text, sizeof(text), "unix:%.*s", 104, path);
    CHECK_OK(addr_scan(&addr, text, 5 + 103, &addr_macos, &at));
    CHECK_ERR(addr_scan(&addr, text, 5 + 104, &addr_macos, &at), NETKIT_E_TOOBIG);
    CHECK_EQ(at, 5 + 103);
}

/* UX03 SD21: abstract names: any bytes, escaped in text; an error where there are none. */
NKT_TEST(addr_abstract) {
    char text[NETKIT_ADDR_TEXT_MAX];
    char name[108];
    netkit_addr addr;
    size_t at;
    CHECK_ERR(addr_scan(&addr, "unix:@x", 7, &addr_macos, &at), NETKIT_E_NOSYS);
    CHECK_EQ(at, 5);
    addr_check_zero(&addr);
    CHECK_ERR(nki_addr_set_path(&addr, "x", 1, true, &addr_macos), NETKIT_E_NOSYS);
    CHECK_ERR(addr_scan(&addr, "unix:@", 6, &addr_linux, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 6);
    CHECK_ERR(addr_scan(&addr, "unix:@\\", 7, &addr_linux, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 7);
    CHECK_ERR(addr_scan(&addr, "unix:@\\X41", 10, &addr_linux, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 7);
    CHECK_ERR(addr_scan(&addr, "unix:@\\x4", 9, &addr_linux, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 9);
    CHECK_ERR(addr_scan(&addr, "unix:@\\x4g", 10, &addr_linux, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 9);
    CHECK_ERR(addr_scan(&addr, "unix:@\xc3\xa9", 8, &addr_linux, &at), NETKIT_E_INVALID);
    CHECK_EQ(at, 6);
    CHECK_OK(addr_scan(&addr, "unix:@a\\x00B\\xfF\\x5c@", 21, &addr_linux, &at));
    CHECK(addr.is_abstract);
    CHECK_EQ(addr.path_len, 6);
    CHECK_MEM(addr.path, "a\0B\xff\\@", 6);
    CHECK_EQ(netkit_addr_format(&addr, text, sizeof(text)), 21);
    CHECK_STR(text, "unix:@a\\x00B\\xff\\x5c@");
    for (int i = 0; i < 256; i++) {
        memset(name, i, sizeof(name));
        CHECK_OK(nki_addr_set_path(&addr, name, 107, true, &addr_linux));
        addr_check_round_trip(&addr, &addr_linux);
        CHECK_ERR(nki_addr_set_path(&addr, name, 108, true, &addr_linux), NETKIT_E_TOOBIG);
    }
}

/* A-01 SK30: the canonical forms of RFC 5952, and of paths. */
NKT_TEST(addr_format_forms) {
    static const char *const rows[][2] = {
        {"[2001:0DB8:0:0:0:0:2:1]:1", "[2001:db8::2:1]:1"},
        {"[2001:db8:0:1:1:1:1:1]:1", "[2001:db8:0:1:1:1:1:1]:1"},
        {"[2001:0:0:1:0:0:0:1]:1", "[2001:0:0:1::1]:1"},
        {"[2001:db8:0:0:1:0:0:1]:1", "[2001:db8::1:0:0:1]:1"},
        {"[0:0:0:0:0:0:0:0]:0", "[::]:0"},
        {"[0:0:1:0:0:0:0:0]:0", "[0:0:1::]:0"},
        {"[1:2:3:4:5:6:0:0]:0", "[1:2:3:4:5:6::]:0"},
        {"[0:0:3:4:5:6:7:8]:0", "[::3:4:5:6:7:8]:0"},
        {"[::2:3:4:5:6:7:8]:0", "[0:2:3:4:5:6:7:8]:0"},
        {"[1:2:3:4:5:6:7::]:0", "[1:2:3:4:5:6:7:0]:0"},
        {"[::FFFF:c000:221]:80", "[::ffff:192.0.2.33]:80"},
        {"[::ffff:0:1]:80", "[::ffff:0.0.0.1]:80"},
        {"[::1.2.3.4]:80", "[::102:304]:80"},
        {"[64:ff9b::192.0.2.33]:80", "[64:ff9b::c000:221]:80"},
        {"[0abc:00f0:0:10::]:80", "[abc:f0:0:10::]:80"},
        {"255.0.10.1:65535", "255.0.10.1:65535"},
        {":80", ":80"},
        {"unix:/a b\\x41\xc3\xa9", "unix:/a b\\x41\xc3\xa9"},
    };
    char text[NETKIT_ADDR_TEXT_MAX];
    netkit_addr addr;
    size_t at;
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        addr = addr_of(rows[i][0]);
        CHECK_EQ(netkit_addr_format(&addr, text, sizeof(text)), strlen(rows[i][1]));
        CHECK_STR(text, rows[i][1]);
    }
    for (size_t i = 0; i < NKI_COUNT(addr_good); i++) {
        CHECK_OK(addr_scan(&addr, addr_good[i], strlen(addr_good[i]), &addr_linux, &at));
        addr_check_round_trip(&addr, &addr_linux);
    }
    CHECK_OK(netkit_addr_from_path(&addr, "@x", 2, false));
    CHECK_OK(netkit_addr_format(&addr, text, sizeof(text)));
    CHECK_STR(text, "unix:./@x");
    CHECK_OK(netkit_addr_from_path(&addr, "a\n\x1b[2J\x7f", 7, false));
    CHECK_OK(netkit_addr_format(&addr, text, sizeof(text)));
    CHECK_STR(text, "unix:a\\x0a\\x1b[2J\\x7f");
}

/* A-01: the IP alone. */
NKT_TEST(addr_format_ip_alone) {
    static const char *const rows[][2] = {
        {"192.0.2.1:80", "192.0.2.1"},
        {"[2001:db8::1]:80", "2001:db8::1"},
        {":80", "::"},
        {"[fe80::1%9]:80", "fe80::1%9"},
    };
    char text[NETKIT_ADDR_TEXT_MAX];
    netkit_addr addr;
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        addr = addr_of(rows[i][0]);
        CHECK_EQ(netkit_addr_format_ip(&addr, text, sizeof(text)), strlen(rows[i][1]));
        CHECK_STR(text, rows[i][1]);
    }
    addr = addr_of("unix:/x");
    CHECK_ERR(netkit_addr_format_ip(&addr, text, sizeof(text)), NETKIT_E_INVALID);
    CHECK_STR(text, "");
}

/* A-01: a buffer of any size is never written beyond, and "" when it is too small. */
NKT_TEST(addr_format_sizes) {
    char whole[NETKIT_ADDR_TEXT_MAX];
    netkit_addr addr;
    size_t at;
    for (size_t i = 0; i < NKI_COUNT(addr_good); i++) {
        int len;
        CHECK_OK(addr_scan(&addr, addr_good[i], strlen(addr_good[i]), &addr_linux, &at));
        len = netkit_addr_format(&addr, whole, sizeof(whole));
        CHECK(len > 0);
        for (size_t size = 0; size <= (size_t)len + 1; size++) {
            char text[NETKIT_ADDR_TEXT_MAX];
            memset(text, '#', sizeof(text));
            if (size > (size_t)len) {
                CHECK_EQ(netkit_addr_format(&addr, text, size), len);
                CHECK_STR(text, whole);
            } else {
                CHECK_ERR(netkit_addr_format(&addr, text, size), NETKIT_E_TOOBIG);
                CHECK(size == 0 || text[0] == 0);
            }
            CHECK_EQ(text[size], '#');
        }
    }
    memset(&addr, 0, sizeof(addr));
    addr.family = NETKIT_AF_UNIX;
    addr.is_abstract = true;
    addr.path_len = NETKIT_UNIX_PATH_MAX;
    CHECK(netkit_addr_format(&addr, whole, sizeof(whole)) > 400);
}

/* A-01: values that are no address. */
NKT_TEST(addr_format_bad) {
    char text[64] = "#";
    netkit_addr addr;
    memset(&addr, 0, sizeof(addr));
    CHECK_ERR(netkit_addr_format(&addr, text, sizeof(text)), NETKIT_E_INVALID);
    CHECK_STR(text, "");
    CHECK_ERR(netkit_addr_format(&addr, text, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_format(NULL, text, sizeof(text)), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_format_ip(NULL, text, sizeof(text)), NETKIT_E_INVALID);
    addr.family = 9;
    CHECK_ERR(netkit_addr_format(&addr, text, sizeof(text)), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_format_ip(&addr, text, sizeof(text)), NETKIT_E_INVALID);
    addr.family = NETKIT_AF_UNIX;
    addr.path_len = NETKIT_UNIX_PATH_MAX + 1;
    CHECK_ERR(netkit_addr_format(&addr, text, sizeof(text)), NETKIT_E_INVALID);
    addr.path_len = 0;
    CHECK_EQ(netkit_addr_format(&addr, text, sizeof(text)), 5);
    CHECK_STR(text, "unix:");
    CHECK_ERR(netkit_addr_format(&addr, NULL, 64), NETKIT_E_INVALID);
}

/* A-03: v4-mapped and IPv4 are one address, for equality, hash and text alone; all else differs. */
NKT_TEST(addr_equal_and_hash) {
    static const char *const all[] = {
        "1.2.3.4:80",     "1.2.3.4:81",      "1.2.3.5:80",
        "[::1.2.3.4]:80", "[102:304::]:80",  "[1::1]:80",
        "[1::1%1]:80",    "[1::1%256]:80",   ":80",
        "[::]:80",        "0.0.0.0:80",      "unix:a",
        "unix:ab",        "unix:1.2.3.4:80", "unix:@a",
        "unix:\x01",
    };
    netkit_addr values[NKI_COUNT(all) + 1];
    netkit_addr v4 = addr_of("1.2.3.4:80");
    netkit_addr mapped = addr_of("[::ffff:1.2.3.4]:80");
    netkit_addr other = addr_of("[::ffff:1.2.3.4]:81");
    size_t count = 0;
    CHECK_EQ(mapped.family, NETKIT_AF_IPV6);
    CHECK(netkit_addr_equal(&v4, &mapped) && netkit_addr_equal(&mapped, &v4));
    CHECK_EQ(netkit_addr_hash(&v4, 42), netkit_addr_hash(&mapped, 42));
    CHECK(!netkit_addr_equal(&v4, &other));
    for (size_t i = 0; i < NKI_COUNT(all); i++) {
        size_t at;
        if (addr_scan(&values[count], all[i], strlen(all[i]), &addr_linux, &at) == NETKIT_OK) {
            count++;
        }
    }
    CHECK_EQ(count, NKI_COUNT(all) - 1); /* but the control character */
    memset(&values[count++], 0, sizeof(values[0]));
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            CHECK_EQ(netkit_addr_equal(&values[i], &values[j]), i == j);
            CHECK_EQ(netkit_addr_hash(&values[i], 1) == netkit_addr_hash(&values[j], 1), i == j);
        }
        CHECK(netkit_addr_hash(&values[i], 1) != netkit_addr_hash(&values[i], 2));
    }
    /* What a family does not use does not count. */
    other = v4;
    other.scope = 3;
    other.is_any = true;
    other.ip[4] = 9;
    other.path[0] = 'x';
    CHECK(netkit_addr_equal(&v4, &other));
    CHECK_EQ(netkit_addr_hash(&v4, 7), netkit_addr_hash(&other, 7));
    mapped.scope = 3;
    CHECK(netkit_addr_equal(&v4, &mapped));
    addr_check_round_trip(&mapped, &addr_linux);
    CHECK(!netkit_addr_equal(&v4, NULL) && !netkit_addr_equal(NULL, &v4));
    CHECK(!netkit_addr_equal(NULL, NULL));
    CHECK_EQ(netkit_addr_hash(NULL, 5), 0);
    memset(&other, 'x', sizeof(other));
    other.family = NETKIT_AF_UNIX;
    other.is_abstract = false;
    other.path_len = 255;
    CHECK(netkit_addr_equal(&other, &other));
}

/* A-03: the hash is SipHash: the last row of the table in its authors' paper. */
NKT_TEST(addr_siphash) {
    uint8_t data[64];
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)i;
    }
    CHECK(nki_siphash(data, 15, UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908), 2, 4) ==
          UINT64_C(0xa129ca6149be45e5));
    CHECK(nki_siphash(data, 0, UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908), 2, 4) ==
          UINT64_C(0x726fdb47dd0e0e31));
    CHECK(nki_siphash(data, 8, UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908), 2, 4) ==
          UINT64_C(0x93f5f5799a932462));
}

/* A-02 SK04: addresses made of parts, also of their own bytes. */
NKT_TEST(addr_from_ip_parts) {
    static const uint8_t link_local[16] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    static const uint8_t mapped[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4};
    netkit_addr addr;
    netkit_addr want = addr_of("1.2.3.4:80");
    CHECK_OK(netkit_addr_from_ip(&addr, "\1\2\3\4", 4, 80, 0));
    CHECK_MEM(&addr, &want, sizeof(addr));
    CHECK_OK(netkit_addr_from_ip(&addr, addr.ip, 4, 81, 0));
    CHECK_MEM(addr.ip, "\1\2\3\4", 4);
    CHECK_EQ(addr.port, 81);
    CHECK_OK(netkit_addr_from_ip(&addr, link_local, 16, 80, 3));
    want = addr_of("[fe80::1%3]:80");
    CHECK_MEM(&addr, &want, sizeof(addr));
    CHECK_OK(netkit_addr_from_ip(&addr, mapped, 16, 80, 0));
    CHECK_EQ(addr.family, NETKIT_AF_IPV6);
    CHECK_ERR(netkit_addr_from_ip(&addr, mapped, 16, 80, 3), NETKIT_E_INVALID);
    addr_check_zero(&addr);
    CHECK_ERR(netkit_addr_from_ip(&addr, "\1\2\3\4", 4, 80, 1), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_ip(&addr, link_local, 15, 80, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_ip(&addr, link_local, 0, 80, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_ip(&addr, NULL, 4, 80, 0), NETKIT_E_INVALID);
    CHECK_ERR(netkit_addr_from_ip(NULL, link_local, 16, 80, 0), NETKIT_E_INVALID);
    CHECK_OK(netkit_addr_from_path(&addr, "/a/b", 4, false));
    CHECK_OK(netkit_addr_from_path(&addr, addr.path + 2, 2, false));
    CHECK_MEM(addr.path, "/b\0\0", 4);
}

/* A-02 A-03: to the kernel's form and back; what comes from it may be anything. */
NKT_TEST(addr_sockaddr) {
    struct sockaddr_storage sa;
    struct sockaddr_in6 in6;
    netkit_addr addr;
    netkit_addr back;
    socklen_t len;
    for (size_t i = 0; i < NKI_COUNT(addr_good); i++) {
        size_t at;
        int code = addr_scan(&addr, addr_good[i], strlen(addr_good[i]), &nki_os_addr_rules, &at);
        if (code == NETKIT_E_NOSYS || addr.is_any) {
            continue;
        }
        CHECK_OK(code);
        CHECK_OK(nki_sockaddr_from(&sa, &len, &addr));
        nki_sockaddr_to(&back, &sa, len);
        CHECK(netkit_addr_equal(&addr, &back));
        CHECK_EQ(back.family, nki_ip_is_mapped(addr.ip) ? NETKIT_AF_IPV4 : addr.family);
        /* Cut short, an IP is none, and a path or name ends sooner. */
        for (socklen_t cut = 0; cut < len; cut++) {
            nki_sockaddr_to(&back, &sa, cut);
            CHECK(back.family == NETKIT_AF_NONE || back.family == NETKIT_AF_UNIX);
            CHECK(back.path_len <= addr.path_len);
        }
    }
    memset(&in6, 0, sizeof(in6));
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(80);
    in6.sin6_scope_id = 5;
    memcpy(&in6.sin6_addr, "\0\0\0\0\0\0\0\0\0\0\xff\xff\1\2\3\4", 16);
    memset(&sa, 0xff, sizeof(sa));
    memcpy(&sa, &in6, sizeof(in6));
    nki_sockaddr_to(&back, &sa, sizeof(in6));
    addr = addr_of("1.2.3.4:80");
    CHECK_MEM(&addr, &back, sizeof(addr));
    sa.ss_family = 250;
    nki_sockaddr_to(&back, &sa, sizeof(sa));
    addr_check_zero(&back);
    memset(&addr, 0, sizeof(addr));
    CHECK_ERR(nki_sockaddr_from(&sa, &len, &addr), NETKIT_E_INVALID);
    CHECK_EQ(len, 0);
    addr.family = 77;
    CHECK_ERR(nki_sockaddr_from(&sa, &len, &addr), NETKIT_E_INVALID);
}

/* UX02 X-01 SD30: the lengths of unix addresses, and those that would name another socket. */
NKT_TEST(addr_sockaddr_unix) {
    enum {
        START = (int)offsetof(struct sockaddr_un, sun_path)
    };
    struct sockaddr_storage sa;
    netkit_addr addr;
    netkit_addr back;
    socklen_t len;
    addr = addr_of("unix:/x");
    CHECK_OK(nki_sockaddr_from(&sa, &len, &addr));
    CHECK_EQ(len, START + 3);
    memset((char *)&sa + len, 'z', sizeof(sa) - (size_t)len);
    nki_sockaddr_to(&back, &sa, len - 1); /* as from a program that counted no NUL */
    CHECK(netkit_addr_equal(&addr, &back));
    nki_sockaddr_to(&back, &sa, (socklen_t)sizeof(sa));
    CHECK(netkit_addr_equal(&addr, &back));
    nki_sockaddr_to(&back, &sa, START);
    CHECK_EQ(back.family, NETKIT_AF_UNIX);
    CHECK_EQ(back.path_len, 0);
    CHECK_ERR(nki_sockaddr_from(&sa, &len, &back), NETKIT_E_INVALID);
    /* A path that fills sun_path has no NUL there. */
    memset(&addr.path, 'p', sizeof(addr.path));
    addr.path_len = ADDR_PATH;
    CHECK_OK(nki_sockaddr_from(&sa, &len, &addr));
    CHECK_EQ(len, START + ADDR_PATH);
    nki_sockaddr_to(&back, &sa, len + 1);
    CHECK(netkit_addr_equal(&addr, &back));
    addr.path_len = ADDR_PATH + 1;
    CHECK_ERR(nki_sockaddr_from(&sa, &len, &addr), NETKIT_E_INVALID);
    addr.path_len = 255;
    CHECK_ERR(nki_sockaddr_from(&sa, &len, &addr), NETKIT_E_INVALID);
    addr.path_len = ADDR_PATH;
    addr.is_abstract = true;
    CHECK_ERR(nki_sockaddr_from(&sa, &len, &addr), NETKIT_E_INVALID);
    /* Longer than netkit_addr holds: no path rather than another's. */
    memset(&sa, 'p', sizeof(sa));
    sa.ss_family = AF_UNIX;
    nki_sockaddr_to(&back, &sa, (socklen_t)sizeof(sa) + 9);
    CHECK_EQ(back.family, NETKIT_AF_UNIX);
    CHECK_EQ(back.path_len, 0);
}

static int addr_bound(const netkit_addr *addr) {
    struct sockaddr_storage sa;
    socklen_t len;
    int fd;
    CHECK_OK(nki_sockaddr_from(&sa, &len, addr));
    fd = socket(sa.ss_family, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK(bind(fd, (struct sockaddr *)&sa, len) == 0);
    CHECK(listen(fd, 1) == 0);
    return fd;
}

static void addr_check_local(int fd, const netkit_addr *want) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    netkit_addr addr;
    CHECK(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    nki_sockaddr_to(&addr, &sa, len);
    CHECK_MEM(&addr, want, sizeof(addr));
}

/* X-01 UX02: the kernel makes exactly the file that was named, at the limit too. */
NKT_TEST(addr_kernel_path) {
    static char path[ADDR_PATH];
    netkit_addr addr;
    int fd;
    netkit_socket probe;
    if (netkit_socket_open(&probe, NETKIT_AF_UNIX, NETKIT_SOCK_STREAM, 0) == NETKIT_E_NOSYS) {
        SKIP("no unix sockets here");
    }
    CHECK_OK(netkit_socket_close(&probe));
    memset(path, 'p', sizeof(path));
    CHECK(chdir(nkt_folder) == 0);
    for (size_t len = 1; len < sizeof(path); len += sizeof(path) - 2) {
        CHECK_OK(netkit_addr_from_path(&addr, path, len, false));
        fd = addr_bound(&addr);
        addr_check_local(fd, &addr);
        path[len] = 0;
        CHECK(unlink(path) == 0);
        path[len] = 'p';
        close(fd);
    }
#if defined(__linux__)
    /* Full length: ours to talk to, though not to make from text. */
    memset(&addr, 'p', sizeof(addr));
    memset(&addr, 0, offsetof(netkit_addr, path));
    addr.family = NETKIT_AF_UNIX;
    addr.path_len = sizeof(path);
    fd = addr_bound(&addr);
    addr_check_local(fd, &addr);
    close(fd);
#endif
}

/* UX03 SD21: an abstract name has its exact length, as another program sees it. */
NKT_TEST(addr_kernel_abstract) {
#if defined(__linux__)
    struct sockaddr_un un;
    netkit_addr addr;
    char name[107];
    int fd;
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    memset(name, 0, sizeof(name));
    snprintf(name, 64, "netkit-%d-%" PRIx64, (int)getpid(), nkt_random());
    CHECK_OK(netkit_addr_from_path(&addr, name, strlen(name) + 2, true)); /* two NULs in it */
    fd = addr_bound(&addr);
    addr_check_local(fd, &addr);
    memset(&un, 0, sizeof(un));
    un.sun_family = AF_UNIX;
    memcpy(un.sun_path + 1, name, strlen(name));
    for (size_t extra = 0; extra < 5; extra++) {
        socklen_t len =
            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name) + extra);
        int got = connect(other, (struct sockaddr *)&un, len);
        CHECK_EQ(got, extra == 2 ? 0 : -1);
    }
    close(fd);
    CHECK_OK(netkit_addr_from_path(&addr, name, sizeof(name), true));
    fd = addr_bound(&addr);
    addr_check_local(fd, &addr);
    close(fd);
    close(other);
#else
    SKIP("abstract names are Linux's");
#endif
}

/* A-03 SK04: the IPv4 peer of a dual-stack listener is an IPv4 address, on both ends. */
NKT_TEST(addr_kernel_dual_stack) {
    netkit_addr addr = addr_of(":0");
    netkit_addr peer;
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    int off = 0;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    int server;
    if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) != 0) {
        SKIP("no dual-stack sockets here");
    }
    CHECK_OK(nki_sockaddr_from(&sa, &len, &addr));
    if (bind(fd, (struct sockaddr *)&sa, len) != 0) {
        SKIP("no IPv6 here");
    }
    CHECK(listen(fd, 1) == 0);
    len = sizeof(sa);
    CHECK(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    nki_sockaddr_to(&peer, &sa, len);
    CHECK_OK(netkit_addr_from_ip(&addr, "\x7f\0\0\1", 4, peer.port, 0));
    CHECK_OK(nki_sockaddr_from(&sa, &len, &addr));
    CHECK(connect(client, (struct sockaddr *)&sa, len) == 0);
    len = sizeof(sa);
    server = accept(fd, (struct sockaddr *)&sa, &len);
    CHECK(server >= 0);
    CHECK_EQ(sa.ss_family, AF_INET6);
    nki_sockaddr_to(&peer, &sa, len);
    CHECK_EQ(peer.family, NETKIT_AF_IPV4);
    CHECK_MEM(peer.ip, "\x7f\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    addr_check_local(client, &peer);
    addr_check_local(server, &addr);
    close(server);
    close(client);
    close(fd);
}
