/* Options of IP on POSIX: IPv4 and IPv6 have each their own, and an IPv6 socket that takes IPv4
 * obeys both, each for its own datagrams. So there both are set, the second as far as the system
 * has it (Linux takes options of IPv4 on IPv6 sockets; the BSDs do not). */

#if NKI_POSIX

#define NKI_NO_NAME (-1)

/* Names that a libc may lack. The numbers are Linux's own, which do not change. */
#if NKI_LINUX
#define NKI_UDP_SEGMENT 103
#define NKI_UDP_GRO 104
#else
#define NKI_UDP_SEGMENT NKI_NO_NAME
#define NKI_UDP_GRO NKI_NO_NAME
#endif
#if defined(IP_MTU_DISCOVER) && defined(IPV6_MTU_DISCOVER)
#define NKI_IP_MTU_DISCOVER IP_MTU_DISCOVER
#define NKI_IPV6_MTU_DISCOVER IPV6_MTU_DISCOVER
#else
#define NKI_IP_MTU_DISCOVER NKI_NO_NAME
#define NKI_IPV6_MTU_DISCOVER NKI_NO_NAME
#endif
#if defined(IP_MTU) && defined(IPV6_MTU)
#define NKI_IP_MTU IP_MTU
#define NKI_IPV6_MTU IPV6_MTU
#else
#define NKI_IP_MTU NKI_NO_NAME
#define NKI_IPV6_MTU NKI_NO_NAME
#endif
#if defined(IP_PKTINFO)
#define NKI_IP_TELL_LOCAL IP_PKTINFO
#elif defined(IP_RECVDSTADDR)
#define NKI_IP_TELL_LOCAL IP_RECVDSTADDR
#else
#define NKI_IP_TELL_LOCAL NKI_NO_NAME
#endif
#if defined(IPV6_RECVPKTINFO)
#define NKI_IPV6_TELL_LOCAL IPV6_RECVPKTINFO
#else
#define NKI_IPV6_TELL_LOCAL NKI_NO_NAME
#endif
#if defined(IP_RECVTOS) && defined(IPV6_RECVTCLASS) && defined(IPV6_TCLASS)
#define NKI_IP_TELL_TOS IP_RECVTOS
#define NKI_IPV6_TELL_TOS IPV6_RECVTCLASS
#define NKI_IPV6_TOS IPV6_TCLASS
#else
#define NKI_IP_TELL_TOS NKI_NO_NAME
#define NKI_IPV6_TELL_TOS NKI_NO_NAME
#define NKI_IPV6_TOS NKI_NO_NAME
#endif
#if defined(IP_RECVTTL) && defined(IPV6_RECVHOPLIMIT)
#define NKI_IP_TELL_TTL IP_RECVTTL
#define NKI_IPV6_TELL_TTL IPV6_RECVHOPLIMIT
#else
#define NKI_IP_TELL_TTL NKI_NO_NAME
#define NKI_IPV6_TELL_TTL NKI_NO_NAME
#endif
#if defined(IP_RECVERR) && defined(IPV6_RECVERR)
#define NKI_IP_TELL_ERRORS IP_RECVERR
#define NKI_IPV6_TELL_ERRORS IPV6_RECVERR
#else
#define NKI_IP_TELL_ERRORS NKI_NO_NAME
#define NKI_IPV6_TELL_ERRORS NKI_NO_NAME
#endif
#if defined(SO_TIMESTAMPNS)
#define NKI_SO_TELL_TIME SO_TIMESTAMPNS
#else
#define NKI_SO_TELL_TIME NKI_NO_NAME
#endif

static const nki_ip_option *nki_ip_option_find(netkit_option option) {
    static const nki_ip_option rows[] = {
        {NETKIT_OPT_BROADCAST, SOL_SOCKET, SO_BROADCAST, 0, 0, 1},
        {NETKIT_OPT_TTL, 0, IP_TTL, IPV6_UNICAST_HOPS, 1, 255},
        {NETKIT_OPT_TOS, 0, IP_TOS, NKI_IPV6_TOS, 0, 255},
        {NETKIT_OPT_DONT_FRAGMENT, 0, NKI_IP_MTU_DISCOVER, NKI_IPV6_MTU_DISCOVER, 0, 2},
        {NETKIT_OPT_PATH_MTU, 0, NKI_IP_MTU, NKI_IPV6_MTU, 1, 0},
        {NETKIT_OPT_MULTICAST_TTL, 0, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, 0, 255},
        {NETKIT_OPT_MULTICAST_LOOP, 0, IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, 0, 1},
        {NETKIT_OPT_MULTICAST_INTERFACE, 0, IP_MULTICAST_IF, IPV6_MULTICAST_IF, 0, INT_MAX},
        {NETKIT_OPT_GRO, IPPROTO_UDP, NKI_UDP_GRO, 0, 0, 1},
        {NETKIT_OPT_TELL_LOCAL, 0, NKI_IP_TELL_LOCAL, NKI_IPV6_TELL_LOCAL, 0, 1},
        {NETKIT_OPT_TELL_TOS, 0, NKI_IP_TELL_TOS, NKI_IPV6_TELL_TOS, 0, 1},
        {NETKIT_OPT_TELL_TTL, 0, NKI_IP_TELL_TTL, NKI_IPV6_TELL_TTL, 0, 1},
        {NETKIT_OPT_TELL_TIME, SOL_SOCKET, NKI_SO_TELL_TIME, 0, 0, 1},
        {NETKIT_OPT_TELL_ERRORS, 0, NKI_IP_TELL_ERRORS, NKI_IPV6_TELL_ERRORS, 0, 1},
    };
    for (size_t i = 0; i < NKI_COUNT(rows); i++) {
        if (rows[i].option == (int)option) {
            return &rows[i];
        }
    }
    return NULL;
}

/* NETKIT_AF_* of a socket. */
static int nki_os_family(uintptr_t s, int *family) {
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)sizeof(sa);
    memset(&sa, 0, sizeof(sa));
    if (NKI_SYS_getsockname(nki_os_fd(s), (struct sockaddr *)(void *)&sa, &len) != 0) {
        return nki_os_error();
    }
    *family = sa.ss_family == AF_INET    ? NETKIT_AF_IPV4
              : sa.ss_family == AF_INET6 ? NETKIT_AF_IPV6
              : sa.ss_family == AF_UNIX  ? NETKIT_AF_UNIX
                                         : NETKIT_AF_NONE;
    return NETKIT_OK;
}

/* IPv4 names the interface by its address, or where there is ip_mreqn, by its index. */
static int nki_os_set_multicast_if(int fd, int index) {
#if NKI_LINUX
    struct ip_mreqn request;
    memset(&request, 0, sizeof(request));
    request.imr_ifindex = index;
    return NKI_SYS_setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request,
                              (socklen_t)sizeof(request)) != 0
               ? nki_os_error()
               : NETKIT_OK;
#else
    NKI_UNUSED(fd);
    return index == 0 ? NETKIT_OK : NETKIT_E_NOSYS;
#endif
}

static int nki_ip_set_one(int fd, const nki_ip_option *row, int value, bool is_ipv6) {
    int name = is_ipv6 ? row->name6 : row->name;
#if NKI_LINUX
    if (row->option == NETKIT_OPT_DONT_FRAGMENT) {
        static const int ways[] = {IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE};
        value = ways[value];
    }
#endif
    if (name == NKI_NO_NAME) {
        return NETKIT_E_NOSYS;
    }
    if (row->option == NETKIT_OPT_MULTICAST_INTERFACE && !is_ipv6) {
        return nki_os_set_multicast_if(fd, value);
    }
    return nki_os_set_int(fd, is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, name, value);
}

static int nki_os_set_ip_option(uintptr_t s, netkit_option option, int value) {
    int fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    const nki_ip_option *row = nki_ip_option_find(option);
    if (row == NULL || value < row->min || value > row->max) {
        return NETKIT_E_INVALID;
    }
    if (row->level != 0) {
        return row->name == NKI_NO_NAME ? (int)NETKIT_E_NOSYS
                                        : nki_os_set_int(fd, row->level, row->name, value);
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

static int nki_ip_get_value(int option, int raw) {
    switch (option) {
#if NKI_LINUX
    case NETKIT_OPT_DONT_FRAGMENT:
        return raw == IP_PMTUDISC_DO ? 1 : raw == IP_PMTUDISC_PROBE ? 2 : 0;
#endif
    case NETKIT_OPT_BROADCAST:
    case NETKIT_OPT_MULTICAST_LOOP: return raw != 0;
    default: return raw;
    }
}

static int nki_os_get_ip_option(uintptr_t s, netkit_option option, int *value) {
    int fd = nki_os_fd(s);
    int family = NETKIT_AF_NONE;
    int raw = 0;
    socklen_t len = (socklen_t)sizeof(raw);
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
    if (name == NKI_NO_NAME || (row->level == 0 && family == NETKIT_AF_UNIX)) {
        return NETKIT_E_NOSYS;
    }
    if (option == NETKIT_OPT_MULTICAST_INTERFACE && family == NETKIT_AF_IPV4) {
        return NETKIT_E_NOSYS; /* no system gives back the index, Linux an address at best */
    }
    if (NKI_SYS_getsockopt(fd, level, name, &raw, &len) != 0) {
        return nki_os_error();
    }
    *value = nki_ip_get_value((int)option, raw);
    return NETKIT_OK;
}

#endif /* NKI_POSIX */
