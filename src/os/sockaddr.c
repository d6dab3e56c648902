/* Addresses as the kernel takes and gives them: netkit_addr to and from struct sockaddr_*.
 *
 * For unix sockets the length is part of the address, and the two kinds count it
 * differently (unix(7)): an abstract name is every byte up to the length, so one byte
 * too many names another socket; a path ends at its NUL, which Linux leaves out when
 * the path fills sun_path whole, and then counts in the length it reports, one more
 * than the structure has.
 *
 * An IPv4 peer of a dual-stack socket comes as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). It
 * reads as plain IPv4, because that is what it is: logs, limits by address and
 * netkit_addr.family then do not depend on how the listener was opened. The way back
 * is nki_sockaddr_from with the IPv6 form: macOS and the BSDs take no AF_INET address
 * on an AF_INET6 socket. */

#if NKI_WINDOWS
/* Of <afunix.h>, which not every SDK has. */
typedef struct nki_sockaddr_un {
    unsigned short sun_family;
    char sun_path[108];
} nki_sockaddr_un;
#else
typedef struct sockaddr_un nki_sockaddr_un;
#endif

/* The limit of a path leaves room for the NUL that other programs need to reach it, the
 * limit of an abstract name room for the NUL in front. Windows takes abstract names, and lets
 * nobody connect to them. */
static const nki_addr_rules nki_os_addr_rules = {
    sizeof(((nki_sockaddr_un *)NULL)->sun_path) - 1,
    NKI_LINUX != 0,
};
NKI_STATIC_ASSERT(unix_path, sizeof(((nki_sockaddr_un *)NULL)->sun_path) <= NETKIT_UNIX_PATH_MAX);

static socklen_t nki_sockaddr_from_ipv4(struct sockaddr_storage *out, const netkit_addr *addr) {
    struct sockaddr_in sa;
    memset(&sa, 0, sizeof(sa));
    sa.sin_family = AF_INET;
    sa.sin_port = htons(addr->port);
    memcpy(&sa.sin_addr, addr->ip, 4);
    memcpy(out, &sa, sizeof(sa));
    return (socklen_t)sizeof(sa);
}

static socklen_t nki_sockaddr_from_ipv6(struct sockaddr_storage *out, const netkit_addr *addr) {
    struct sockaddr_in6 sa;
    memset(&sa, 0, sizeof(sa));
    sa.sin6_family = AF_INET6;
    sa.sin6_port = htons(addr->port);
    sa.sin6_scope_id = addr->scope;
    memcpy(&sa.sin6_addr, addr->ip, 16);
    memcpy(out, &sa, sizeof(sa));
    return (socklen_t)sizeof(sa);
}

/* The length of an address, or 0 for one the system cannot take exactly. A path that
 * fills sun_path whole can only have come from the kernel, and goes back as it came. */
static socklen_t nki_sockaddr_from_unix(struct sockaddr_storage *out, const netkit_addr *addr) {
    nki_sockaddr_un sa;
    size_t len = addr->path_len;
    size_t skip = addr->is_abstract ? 1 : 0;
    if (skip + len > sizeof(sa.sun_path) ||
        (skip != 0 ? !nki_os_addr_rules.has_abstract : len == 0)) {
        return 0;
    }
    memset(&sa, 0, sizeof(sa));
    sa.sun_family = AF_UNIX;
    memcpy(sa.sun_path + skip, addr->path, len);
    memcpy(out, &sa, sizeof(sa));
    if (skip == 0 && len < sizeof(sa.sun_path)) {
        len++; /* the NUL */
    }
    return (socklen_t)(offsetof(nki_sockaddr_un, sun_path) + skip + len);
}

/* Returns NETKIT_OK or NETKIT_E_INVALID, and then *len is 0. An address of ":port" gives
 * the IPv6 wildcard. */
static int nki_sockaddr_from(struct sockaddr_storage *out, socklen_t *len,
                             const netkit_addr *addr) {
    memset(out, 0, sizeof(*out));
    *len = 0;
    switch (addr->family) {
    case NETKIT_AF_IPV4: *len = nki_sockaddr_from_ipv4(out, addr); break;
    case NETKIT_AF_IPV6: *len = nki_sockaddr_from_ipv6(out, addr); break;
    case NETKIT_AF_UNIX: *len = nki_sockaddr_from_unix(out, addr); break;
    default: break;
    }
#if NKI_BSD
    out->ss_len = (uint8_t)*len;
#endif
    return *len == 0 ? NETKIT_E_INVALID : NETKIT_OK;
}

static void nki_sockaddr_to_ipv6(netkit_addr *out, const struct sockaddr_storage *sa) {
    struct sockaddr_in6 in6;
    memcpy(&in6, sa, sizeof(in6));
    out->port = ntohs(in6.sin6_port);
    memcpy(out->ip, &in6.sin6_addr, 16);
    if (nki_ip_is_mapped(out->ip)) {
        out->family = NETKIT_AF_IPV4;
        memmove(out->ip, out->ip + 12, 4);
        memset(out->ip + 4, 0, 12);
    } else {
        out->family = NETKIT_AF_IPV6;
        out->scope = in6.sin6_scope_id;
    }
}

/* No path at all is a socket that was never bound; so reads, too, a path longer than
 * netkit_addr has room for (the BSDs take up to 253 bytes): cut, it would name another. */
static void nki_sockaddr_to_unix(netkit_addr *out, const struct sockaddr_storage *sa, size_t len) {
    const char *path = (const char *)sa + offsetof(nki_sockaddr_un, sun_path);
    out->family = NETKIT_AF_UNIX;
    len -= NKI_MIN(len, offsetof(nki_sockaddr_un, sun_path));
    if (len > 0 && path[0] == 0 && nki_os_addr_rules.has_abstract) {
        out->is_abstract = true;
        path++;
        len--;
    } else {
        const char *end = (const char *)memchr(path, 0, len);
        len = end != NULL ? (size_t)(end - path) : len;
    }
    if (len <= NETKIT_UNIX_PATH_MAX) {
        memcpy(out->path, path, len);
        out->path_len = (uint8_t)len;
    }
}

/* Read what the kernel wrote; `len` is the length it reported, which may be beyond the
 * structure. What is no address of ours (or none at all: an unbound peer's datagram)
 * reads as NETKIT_AF_NONE. */
static void nki_sockaddr_to(netkit_addr *out, const struct sockaddr_storage *sa, socklen_t len) {
    size_t size = NKI_MIN((size_t)len, sizeof(*sa));
    memset(out, 0, sizeof(*out));
    if (size < offsetof(nki_sockaddr_un, sun_path)) {
        return;
    }
    if (sa->ss_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        out->family = NETKIT_AF_IPV4;
        out->port = ntohs(in.sin_port);
        memcpy(out->ip, &in.sin_addr, 4);
    } else if (sa->ss_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
        nki_sockaddr_to_ipv6(out, sa);
    } else if (sa->ss_family == AF_UNIX) {
        nki_sockaddr_to_unix(out, sa, size);
    }
}
