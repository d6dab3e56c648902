/* What *_posix.c and *_windows.c have in common: the same on every system, and needed by them
 * before the parts of users' calls. */

static int nki_os_domain(int family) {
    switch (family) {
    case NETKIT_AF_IPV4: return AF_INET;
    case NETKIT_AF_IPV6: return AF_INET6;
    case NETKIT_AF_UNIX: return AF_UNIX;
    default: return -1;
    }
}

static uint64_t nki_os_process(void) {
    return (uint64_t)NKI_SYS_getpid();
}

/* A time limit in milliseconds as a time of the clock. Negative is no limit. */
static uint64_t nki_os_deadline(int timeout_ms) {
    if (timeout_ms < 0) {
        return NKI_NEVER;
    }
    return nki_os_now_ns() + (uint64_t)timeout_ms * NKI_NS_PER_MS;
}

/* Nanoseconds as poll's milliseconds: up, since down would end in waits of 0 until the time has
 * really come, and cut to what an int holds. */
static int nki_os_poll_ms(uint64_t timeout_ns) {
    if (timeout_ns == NKI_NEVER) {
        return -1;
    }
    uint64_t ms = timeout_ns / NKI_NS_PER_MS + (timeout_ns % NKI_NS_PER_MS != 0 ? 1u : 0u);
    return ms > (uint64_t)INT_MAX ? INT_MAX : (int)ms;
}

/* ---- options ---- */

/* What values an option takes. */
enum {
    NKI_OPTION_BOOL = 0,
    NKI_OPTION_POSITIVE = 1,
    NKI_OPTION_NATURAL = 2,
    NKI_OPTION_TIME = 3,  /* milliseconds that the system has as a struct */
    NKI_OPTION_LINGER = 4 /* seconds, or -1 */
};

typedef struct nki_option_row {
    int option;
    int level; /* -1 = the system has none such */
    int name;
    int values; /* NKI_OPTION_* */
} nki_option_row;

typedef struct nki_ip_option {
    int option;
    int level; /* of a plain one, 0 = a pair of IP's */
    int name;  /* or the one of IPv4 */
    int name6;
    int min;
    int max;
} nki_ip_option;

static bool nki_option_accepts(int values, int value) {
    if (values == NKI_OPTION_BOOL) {
        return value == 0 || value == 1;
    }
    if (values == NKI_OPTION_LINGER) {
        return value >= -1 && value <= INT16_MAX; /* macOS has 16 bits for it */
    }
    return value >= (values == NKI_OPTION_POSITIVE ? 1 : 0);
}

/* ---- messages and datagrams ---- */

static void nki_os_forget_in(netkit_message_in *in) {
    in->fds_count = 0;
    in->control_len = 0;
    memset(&in->from, 0, sizeof in->from);
    in->sender.pid = in->sender.uid = in->sender.gid = -1;
    in->is_cut = in->is_fds_cut = in->is_control_cut = false;
}

static void nki_dgram_ipv4(netkit_addr *out, const void *ip) {
    out->family = NETKIT_AF_IPV4;
    memset(out->ip, 0, sizeof(out->ip));
    out->scope = 0;
    memcpy(out->ip, ip, 4);
}

static void nki_dgram_ipv6(netkit_addr *out, const void *ip, uint32_t interface_index) {
    memcpy(out->ip, ip, 16);
    if (nki_ip_is_mapped(out->ip)) {
        nki_dgram_ipv4(out, (const char *)ip + 12);
        return;
    }
    out->family = NETKIT_AF_IPV6;
    bool is_link_local = out->ip[0] == 0xFE && (out->ip[1] & 0xC0) == 0x80;
    out->scope = is_link_local ? interface_index : 0;
}

static void nki_dgram_clear(netkit_datagram *out) {
    out->time_ns = 0;
    memset(&out->local, 0, offsetof(netkit_addr, path));
    out->interface_index = 0;
    out->segment_size = 0;
    out->mtu = 0;
    out->error = 0;
    out->os_code = 0;
    out->tos = 0;
    out->ttl = 0;
}
