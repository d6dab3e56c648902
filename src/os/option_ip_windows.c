/* Options of IP on Windows: IPv4 and IPv6 have each their own, and an IPv6 socket that takes IPv4
 * obeys both, each for its own datagrams. So there both are set, the second as far as it goes. The
 * names are the system's numbers, which are the same for IPv4 and IPv6 where both exist; not every
 * SDK has all of them. */

#if NKI_WINDOWS

#define NKI_NO_NAME (-1)
#define NKI_IP_TOS 3
#define NKI_IPV6_TCLASS 39
#define NKI_IP_TTL 4 /* and IPV6_UNICAST_HOPS */
#define NKI_IP_MULTICAST_IF 9
#define NKI_IP_MULTICAST_TTL 10
#define NKI_IP_MULTICAST_LOOP 11
#define NKI_IP_DONTFRAGMENT 14
#define NKI_IP_PKTINFO 19
#define NKI_IP_HOPLIMIT 21 /* asks for the time to live, too */
#define NKI_IP_RECVTOS 40  /* and IPV6_RECVTCLASS */
#define NKI_IP_MTU_DISCOVER 71
#define NKI_IPV6_MTU 72
#define NKI_IP_MTU 73
#define NKI_UDP_SEND_MSG_SIZE 2
#define NKI_UDP_RECV_MAX_COALESCED_SIZE 3
#define NKI_UDP_COALESCED_INFO 3

enum {
    NKI_COALESCED_MOST = 65535
};

static const nki_ip_option *nki_ip_option_find(netkit_option option) {
    static const nki_ip_option rows[] = {
        {NETKIT_OPT_BROADCAST, SOL_SOCKET, SO_BROADCAST, 0, 0, 1},
        {NETKIT_OPT_TTL, 0, NKI_IP_TTL, NKI_IP_TTL, 1, 255},
        {NETKIT_OPT_TOS, 0, NKI_IP_TOS, NKI_IPV6_TCLASS, 0, 255},
        {NETKIT_OPT_DONT_FRAGMENT, 0, NKI_IP_MTU_DISCOVER, NKI_IP_MTU_DISCOVER, 0, 2},
        {NETKIT_OPT_PATH_MTU, 0, NKI_IP_MTU, NKI_IPV6_MTU, 1, 0},
        {NETKIT_OPT_MULTICAST_TTL, 0, NKI_IP_MULTICAST_TTL, NKI_IP_MULTICAST_TTL, 0, 255},
        {NETKIT_OPT_MULTICAST_LOOP, 0, NKI_IP_MULTICAST_LOOP, NKI_IP_MULTICAST_LOOP, 0, 1},
        {NETKIT_OPT_MULTICAST_INTERFACE, 0, NKI_IP_MULTICAST_IF, NKI_IP_MULTICAST_IF, 0, INT_MAX},
        {NETKIT_OPT_GRO, IPPROTO_UDP, NKI_UDP_RECV_MAX_COALESCED_SIZE, 0, 0, 1},
        {NETKIT_OPT_TELL_LOCAL, 0, NKI_IP_PKTINFO, NKI_IP_PKTINFO, 0, 1},
        {NETKIT_OPT_TELL_TOS, 0, NKI_IP_RECVTOS, NKI_IP_RECVTOS, 0, 1},
        {NETKIT_OPT_TELL_TTL, 0, NKI_IP_HOPLIMIT, NKI_IP_HOPLIMIT, 0, 1},
        {NETKIT_OPT_TELL_TIME, SOL_SOCKET, NKI_NO_NAME, 0, 0, 1},
        {NETKIT_OPT_TELL_ERRORS, SOL_SOCKET, NKI_NO_NAME, 0, 0, 1},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

/* In three ways where the system knows the three, else in two. */
static int nki_ip_set_fragment(SOCKET s, int level, int value) {
    static const int ways[] = {0, 1, 3}; /* not set, do, probe */
    int rc = nki_os_set_int(s, level, NKI_IP_MTU_DISCOVER, ways[value]);
    return rc == NETKIT_E_NOSYS && value < 2 ? nki_os_set_int(s, level, NKI_IP_DONTFRAGMENT, value)
                                             : rc;
}

static int nki_ip_get_fragment(SOCKET s, int level, int *value) {
    int raw;
    int rc = nki_os_get_int(s, level, NKI_IP_MTU_DISCOVER, &raw);
    if (rc == NETKIT_OK) {
        *value = raw == 1 ? 1 : raw == 3 ? 2 : 0;
    } else if (rc == NETKIT_E_NOSYS) {
        rc = nki_os_get_int(s, level, NKI_IP_DONTFRAGMENT, &raw);
        *value = raw != 0;
    }
    return rc;
}

static int nki_ip_set_one(SOCKET s, const nki_ip_option *row, int value, bool is_ipv6) {
    int level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (row->option == NETKIT_OPT_DONT_FRAGMENT) {
        return nki_ip_set_fragment(s, level, value);
    }
    if (row->option == NETKIT_OPT_MULTICAST_INTERFACE && !is_ipv6) {
        value = (int)htonl((u_long)value); /* an index looks like an address of 0.0.0.0/8 */
    }
    return nki_os_set_int(s, level, is_ipv6 ? row->name6 : row->name, value);
}

static int nki_ip_set_plain(SOCKET s, const nki_ip_option *row, int value) {
    if (row->option == NETKIT_OPT_TELL_ERRORS) {
        return nki_os_set_reports(s, value != 0);
    }
    if (row->name == NKI_NO_NAME) {
        return NETKIT_E_NOSYS;
    }
    if (row->option != NETKIT_OPT_GRO) {
        return nki_os_set_int(s, row->level, row->name, value);
    }
    /* Who knows no options of UDP takes the level for wrong (wine). */
    int rc = nki_os_set_int(s, row->level, row->name, value != 0 ? NKI_COALESCED_MOST : 0);
    return rc == NETKIT_E_INVALID ? (int)NETKIT_E_NOSYS : rc;
}

static int nki_os_set_ip_option(uintptr_t s, netkit_option option, int value) {
    SOCKET fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    const nki_ip_option *row = nki_ip_option_find(option);
    if (row == NULL || value < row->min || value > row->max) {
        return NETKIT_E_INVALID;
    }
    if (row->level != 0) {
        return nki_ip_set_plain(fd, row, value);
    }
    int rc = nki_os_family(s, &family);
    if (rc != NETKIT_OK || (family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6)) {
        return rc != NETKIT_OK ? rc : (int)NETKIT_E_NOSYS;
    }
    rc = nki_ip_set_one(fd, row, value, family == NETKIT_AF_IPV6);
    if (rc == NETKIT_OK && family == NETKIT_AF_IPV6) {
        (void)nki_ip_set_one(fd, row, value, false);
    }
    return rc;
}

static int nki_os_get_ip_option(uintptr_t s, netkit_option option, int *value) {
    SOCKET fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    int raw;
    const nki_ip_option *row = nki_ip_option_find(option);
    *value = 0;
    if (row == NULL) {
        return NETKIT_E_INVALID;
    }
    int rc = row->level != 0 ? NETKIT_OK : nki_os_family(s, &family);
    if (rc != NETKIT_OK) {
        return rc;
    }
    int level = row->level != 0 ? row->level : family == NETKIT_AF_IPV6 ? IPPROTO_IPV6 : IPPROTO_IP;
    int name = level == IPPROTO_IPV6 ? row->name6 : row->name;
    bool is_foreign = row->level == 0 && family != NETKIT_AF_IPV4 && family != NETKIT_AF_IPV6;
    bool is_hidden = option == NETKIT_OPT_MULTICAST_INTERFACE && family == NETKIT_AF_IPV4;
    if (name == NKI_NO_NAME || is_foreign || is_hidden) {
        return NETKIT_E_NOSYS; /* the last: as elsewhere, where it comes back as an address */
    }
    if (option == NETKIT_OPT_DONT_FRAGMENT) {
        return nki_ip_get_fragment(fd, level, value);
    }
    rc = nki_os_get_int(fd, level, name, &raw);
    *value = row->max == 1 ? raw != 0 : raw;
    return rc;
}

#endif /* NKI_WINDOWS */
