/* ---- addresses -----------------------------------------------------------
 *
 * netkit_addr is a plain value: copy it, keep it, compare it with
 * netkit_addr_equal (not memcmp). Never a struct sockaddr. The IPv4 peer of a
 * socket that takes IPv6 and IPv4 reads as plain IPv4. */

enum {
    NETKIT_AF_NONE = 0, /* the zero value: no address */
    NETKIT_AF_IPV4 = 1,
    NETKIT_AF_IPV6 = 2,
    NETKIT_AF_UNIX = 3
};

enum {
    NETKIT_UNIX_PATH_MAX = 108, /* bytes of storage; the limit of the system may be lower */
    NETKIT_ADDR_TEXT_MAX = 512  /* enough for any address netkit_addr_format writes, with its NUL */
};

typedef struct netkit_addr {
    uint8_t family;   /* NETKIT_AF_* */
    uint8_t path_len; /* unix: bytes used of path; an abstract name counts no '@' */
    bool is_abstract; /* unix: a name in Linux's abstract space, not a file */
    bool is_any;      /* made from ":port": every address, IPv6 and IPv4 where the system can */
    uint16_t port;    /* IP: host byte order */
    uint32_t scope;   /* IPv6: interface index for link-local addresses, or 0 */
    uint8_t ip[16];   /* IPv4 uses the first four */
    char path[NETKIT_UNIX_PATH_MAX]; /* unix: not NUL-terminated */
} netkit_addr;

/* Read an address from text:
 *   "192.0.2.1:80"  "[2001:db8::1]:80"  "[fe80::1%eth0]:80"  "[fe80::1%2]:80"
 *   ":80"           every address of the machine, IPv4 and IPv6
 *   "unix:/run/x"   a path      "unix:@name"   an abstract name (Linux)
 * Strict: four decimal parts without leading zeros, ports 0 to 65535 in plain
 * digits, no white space, no names of hosts (those need a resolver). A path has
 * no control characters; in an abstract name "\xHH" is any byte. A zone in plain
 * digits from 1 is an interface's number, any other its name.
 * On failure *out is zeroed, and *error_at (may be NULL) is the offset of the
 * first character that cannot be part of an address (the length when it is too
 * short); for NOTFOUND that of the zone. On success it is the length.
 * Returns NETKIT_OK; NETKIT_E_INVALID; NETKIT_E_TOOBIG for a path over the limit
 * of the system (Linux 107 bytes, macOS and BSD 103); NETKIT_E_NOTFOUND for a
 * zone that names no interface; NETKIT_E_NOSYS for an abstract name where there
 * are none.
 * Pointers are used during the call only. Thread: any. */
NETKIT_API int netkit_addr_parse(netkit_addr *out, const char *text, size_t *error_at);

/* The same for `len` bytes that need no NUL at their end; a NUL among them is
 * NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_addr_parse_n(netkit_addr *out, const char *text, size_t len,
                                   size_t *error_at);

/* Write an address as the text netkit_addr_parse reads back to an equal value
 * (RFC 5952 for IPv6; a zone as its number). What is not plain text in an
 * abstract name, and a control character in a path, appears as "\xHH"; the
 * latter alone does not read back. A path that begins with '@' gets "./" in
 * front; the unnamed end of a unix connection is "unix:", which parse refuses.
 * Returns the length without the NUL, NETKIT_E_TOOBIG (text is then ""), or
 * NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_addr_format(const netkit_addr *addr, char *text, size_t size);

/* The IP of an address alone, without brackets and port, with its zone; a unix
 * address has none (NETKIT_E_INVALID). Otherwise as netkit_addr_format.
 * Thread: any. */
NETKIT_API int netkit_addr_format_ip(const netkit_addr *addr, char *text, size_t size);

/* Whether two addresses are the same place: an IPv4 address equals its
 * v4-mapped IPv6 form; ports and scopes count, and ":80" is not "[::]:80".
 * Nothing equals NULL. Thread: any. */
NETKIT_API bool netkit_addr_equal(const netkit_addr *a, const netkit_addr *b);

/* A hash that agrees with netkit_addr_equal, keyed by `seed` (use a random one
 * for tables that strangers can fill). Thread: any. */
NETKIT_API uint64_t netkit_addr_hash(const netkit_addr *addr, uint64_t seed);

/* Make an address from parts. `ip` is 4 or 16 bytes in network order, copied;
 * `scope` is 0 for IPv4, v4-mapped too. On failure *out is zeroed.
 * Returns NETKIT_OK or NETKIT_E_INVALID. Thread: any. */
NETKIT_API int netkit_addr_from_ip(netkit_addr *out, const void *ip, size_t ip_len, uint16_t port,
                                   uint32_t scope);

/* Make a unix address from `len` bytes of path (no NUL among them) or of an
 * abstract name (any bytes). On failure *out is zeroed.
 * Returns NETKIT_OK, NETKIT_E_INVALID, NETKIT_E_TOOBIG or NETKIT_E_NOSYS.
 * Thread: any. */
NETKIT_API int netkit_addr_from_path(netkit_addr *out, const char *path, size_t len,
                                     bool is_abstract);
