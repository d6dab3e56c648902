/* What the emulators of processors (qemu-user 7.2) do not hand on to the system as it was meant,
 * each found out by asking, in a few lines without the library.
 *
 * Only a run that says what it is emulated by (NKT_EMULATOR) asks: elsewhere nothing is missing,
 * and no test is left out because a system has begun to lack something. A test that is about
 * what is missing is skipped with the reason; one that is so in a part leaves that part out. */
#ifndef NKT_EMULATOR_H
#define NKT_EMULATOR_H

#if defined(__linux__)

static bool nkt_lack_of_option(int type, int level, int name, const void *value, socklen_t size) {
    int fd = socket(AF_INET, type, 0);
    int rc = setsockopt(fd, level, name, value, size);
    bool is_missing = rc != 0 && errno == ENOPROTOOPT;
    close(fd);
    return is_missing;
}

static bool nkt_lack_of_groups(void) {
    struct group_req request;
    struct sockaddr_in group;
    memset(&request, 0, sizeof(request));
    memset(&group, 0, sizeof(group));
    group.sin_family = AF_INET;
    group.sin_addr.s_addr = htonl(0xEFFF4604u); /* 239.255.70.4 */
    request.gr_interface = 1;
    memcpy(&request.gr_group, &group, sizeof(group));
    return nkt_lack_of_option(SOCK_DGRAM, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof(request));
}

static bool nkt_lack_of_group_interface(void) {
    struct ip_mreqn request;
    memset(&request, 0, sizeof(request));
    request.imr_ifindex = 1;
    return nkt_lack_of_option(SOCK_DGRAM, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof(request));
}

static bool nkt_lack_of_time(void) {
    int one = 1;
    return nkt_lack_of_option(SOCK_DGRAM, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
}

static bool nkt_lack_of_answer(int name) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), value = 0;
    socklen_t len = sizeof(value);
    int rc = getsockopt(fd, IPPROTO_IP, name, &value, &len);
    bool is_missing = rc != 0 && errno == ENOPROTOOPT; /* not ENOTCONN, which is the system's */
    close(fd);
    return is_missing;
}

static bool nkt_lack_of_ttl_asked(void) {
    return nkt_lack_of_answer(IP_RECVTTL);
}

static bool nkt_lack_of_path_mtu(void) {
    return nkt_lack_of_answer(IP_MTU);
}

/* A name is taken for a number: four bytes of it at most, in the order of numbers. */
static bool nkt_lack_of_names(size_t size) {
    char name[64] = "reno", got[64] = "";
    socklen_t len = sizeof(got);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int rc = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
    rc |= getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, got, &len);
    close(fd);
    return rc != 0 || len < size || memcmp(name, got, 4) != 0;
}

static bool nkt_lack_of_long_names(void) {
    return nkt_lack_of_names(5);
}

static bool nkt_lack_of_any_names(void) {
    return nkt_lack_of_names(4);
}

/* Beside the data a number goes out and comes in: is it the same one? */
static bool nkt_lack_of_numbers(void) {
    union {
        struct cmsghdr head;
        unsigned char bytes[256];
    } control;
    struct sockaddr_in addr;
    struct msghdr msg;
    struct iovec iov;
    char data[4] = "abc";
    int one = 1, ttl = 77;
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    memset(&addr, 0, sizeof(addr));
    memset(&msg, 0, sizeof(msg));
    memset(&control, 0, sizeof(control));
    addr.sin_family = AF_INET;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    iov.iov_base = data;
    iov.iov_len = sizeof(data);
    msg.msg_name = &addr;
    msg.msg_namelen = sizeof(addr);
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE(sizeof(ttl));
    control.head.cmsg_level = IPPROTO_IP;
    control.head.cmsg_type = IP_TTL;
    control.head.cmsg_len = CMSG_LEN(sizeof(ttl));
    memcpy(CMSG_DATA(&control.head), &ttl, sizeof(ttl));
    int rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
    rc |= getsockname(fd, (struct sockaddr *)&addr, &len);
    rc |= setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &one, sizeof(one));
    bool is_missing = rc != 0 || sendmsg(fd, &msg, 0) != (ssize_t)sizeof(data);
    msg.msg_controllen = sizeof(control);
    is_missing = is_missing || recvmsg(fd, &msg, 0) != (ssize_t)sizeof(data);
    ttl = 0;
    memcpy(&ttl, CMSG_DATA(&control.head), sizeof(ttl));
    close(fd);
    return is_missing || ttl != 77;
}

typedef struct nkt_lack {
    const char *name;
    bool (*is_missing)(void);
    const char *why;
    const char *tests; /* that are about it, and parts of others */
} nkt_lack;

static const nkt_lack nkt_lack_rows[] = {
    {"groups", nkt_lack_of_groups, "the emulator knows no MCAST_JOIN_GROUP",
     " datagram_groups udp_groups udp_group_shared "},
    {"group interface", nkt_lack_of_group_interface,
     "the emulator knows no IP_MULTICAST_IF by a number", " udp_groups udp_group_shared "},
    {"time", nkt_lack_of_time, "the emulator knows no SO_TIMESTAMPNS", ""},
    {"ttl asked", nkt_lack_of_ttl_asked, "the emulator refuses to say IP_RECVTTL", ""},
    {"path mtu", nkt_lack_of_path_mtu, "the emulator refuses to say IP_MTU", ""},
    {"long names", nkt_lack_of_long_names,
     "the emulator takes the name in TCP_CONGESTION for a number", " option_congestion "},
    {"names", nkt_lack_of_any_names, "the emulator turns the name in TCP_CONGESTION round",
     " settings_by_name "},
    {"numbers", nkt_lack_of_numbers,
     "the emulator does not turn numbers beside the data to the system's order of bytes",
     " datagram_told udp_segments udp_many_segments udp_small_control_buffer"
     " udp_pause_between_segments udp_ttl_and_ecn udp_parked_rows_keep_their_sender"
     " udp_longest_of_each_family udp_without_options monkey_udp_calls monkey_udp_pulls "
     "scenario:datagrams "},
    {NULL, NULL, NULL, NULL}};

/* Is what this row names missing here? */
static inline bool nkt_lacks(const char *name) {
    for (const nkt_lack *row = nkt_lack_rows; nkt_emulator()[0] != '\0' && row->name != NULL;
         row++) {
        if (strcmp(row->name, name) == 0) {
            return row->is_missing();
        }
    }
    return false;
}

/* Why this test, or this part of one, cannot run here, or NULL. */
static inline const char *nkt_lack_why(const char *test) {
    for (const nkt_lack *row = nkt_lack_rows; nkt_emulator()[0] != '\0' && row->name != NULL;
         row++) {
        const char *at = strstr(row->tests, test);
        size_t len = strlen(test);
        if (at != NULL && at[-1] == ' ' && at[len] == ' ' && row->is_missing()) {
            return row->why;
        }
    }
    return NULL;
}

#else

static inline bool nkt_lacks(const char *name) {
    (void)name;
    return false;
}

static inline const char *nkt_lack_why(const char *test) {
    (void)test;
    return NULL;
}

#endif

#endif /* NKT_EMULATOR_H */
