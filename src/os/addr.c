/* The addresses that need the system: reading one (a zone may name an interface) and
 * making one of a path (its limit is the system's). The work is in src/base/addr.c. */

/* Look up the zone a scanner left. The length is checked here because an overlong name
 * cut to fit could match another interface (musl's if_nametoindex cuts). */
static uint32_t nki_addr_zone(const nki_addr_scanner *s) {
    char name[NKI_IF_NAMESIZE];
    if (s->zone_len >= sizeof(name)) {
        return 0;
    }
    memcpy(name, s->text + s->zone_at, s->zone_len);
    name[s->zone_len] = 0;
    return nki_os_interface(name);
}

NETKIT_API int netkit_addr_parse_n(netkit_addr *out, const char *text, size_t len,
                                   size_t *error_at) {
    netkit_addr addr;
    nki_addr_scanner s;
    int code = NETKIT_E_INVALID;
    memset(&addr, 0, sizeof(addr));
    memset(&s, 0, sizeof(s));
    s.text = text;
    s.len = len;
    if (out != NULL && text != NULL) {
        code = nki_addr_scan(&addr, &s, &nki_os_addr_rules);
    }
    if (code == NETKIT_OK && s.zone_len > 0) {
        addr.scope = nki_addr_zone(&s);
        if (addr.scope == 0) {
            memset(&addr, 0, sizeof(addr));
            s.at = s.zone_at;
            code = NETKIT_E_NOTFOUND;
        }
    }
    if (out != NULL) {
        *out = addr;
    }
    if (error_at != NULL) {
        *error_at = s.at;
    }
    return code;
}

NETKIT_API int netkit_addr_parse(netkit_addr *out, const char *text, size_t *error_at) {
    return netkit_addr_parse_n(out, text, text != NULL ? strlen(text) : 0, error_at);
}

NETKIT_API int netkit_addr_from_path(netkit_addr *out, const char *path, size_t len,
                                     bool is_abstract) {
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    return nki_addr_set_path(out, path, len, is_abstract, &nki_os_addr_rules);
}
