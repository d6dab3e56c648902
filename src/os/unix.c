/* Messages and unix sockets, as users call them: arguments are checked, the system does it. */

NETKIT_API int netkit_socket_send_msg(netkit_socket s, const netkit_message_out *msg) {
    bool is_valid = s.value != 0 && msg != NULL &&
                    nki_spans_are_valid(msg->spans, msg->spans_count) &&
                    (msg->fds != NULL || msg->fds_count == 0) &&
                    (msg->control != NULL || msg->control_len == 0);
    return is_valid ? nki_os_send_msg(nki_socket_native(s), msg) : NETKIT_E_INVALID;
}

NETKIT_API int netkit_socket_recv_msg(netkit_socket s, netkit_message_in *msg) {
    if (msg == NULL) {
        return NETKIT_E_INVALID;
    }
    bool is_valid = s.value != 0 && nki_rooms_are_valid(msg->rooms, msg->rooms_count) &&
                    (msg->fds != NULL || msg->fds_max == 0) &&
                    (msg->control != NULL || msg->control_max == 0);
    if (!is_valid) {
        nki_os_forget_in(msg);
        return NETKIT_E_INVALID;
    }
    return nki_os_recv_msg(nki_socket_native(s), msg);
}

NETKIT_API int netkit_socket_credentials(netkit_socket s, netkit_credentials *out) {
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    out->pid = out->uid = out->gid = -1;
    return s.value == 0 ? (int)NETKIT_E_INVALID : nki_os_credentials(nki_socket_native(s), out);
}

NETKIT_API int netkit_socket_bind_unix(netkit_socket s, const netkit_addr *addr, int flags,
                                       uint32_t mode, netkit_unix_file *file) {
    netkit_unix_file made;
    memset(&made, 0, sizeof made);
    bool is_valid = s.value != 0 && addr != NULL && addr->family == NETKIT_AF_UNIX &&
                    (flags & ~NETKIT_SOCKET_REPLACE) == 0 && mode <= 0777;
    int rc = is_valid ? nki_os_bind_unix(nki_socket_native(s), addr, flags, mode, &made)
                      : NETKIT_E_INVALID;
    if (file != NULL) {
        *file = made;
    }
    return rc;
}

NETKIT_API int netkit_unix_unlink(netkit_unix_file *file) {
    if (file == NULL) {
        return NETKIT_E_INVALID;
    }
    int rc = nki_os_unlink_unix(file);
    if (rc == NETKIT_OK || rc == NETKIT_E_NOTFOUND || rc == NETKIT_E_STALE) {
        memset(file, 0, sizeof *file);
    }
    return rc;
}

NETKIT_API int netkit_unix_temp_path(netkit_addr *out, const char *folder) {
    static const char digits[] = "0123456789abcdef";
    char path[NETKIT_UNIX_PATH_MAX];
    char usual[NETKIT_UNIX_PATH_MAX];
    unsigned char random[8];
    if (out == NULL) {
        return NETKIT_E_INVALID;
    }
    memset(out, 0, sizeof *out);
    if (folder == NULL) {
        int error = nki_os_temp_folder(usual, sizeof usual);
        if (error != NETKIT_OK) {
            return error;
        }
        folder = usual;
    }
    size_t len = strlen(folder);
    bool has_slash =
        len > 0 && (folder[len - 1] == '/' || (NKI_WINDOWS && folder[len - 1] == '\\'));
    if (len + 1 + 7 + 2 * sizeof random > sizeof path) {
        return NETKIT_E_TOOBIG;
    }
    int rc = nki_os_random(random, sizeof random);
    if (rc != NETKIT_OK) {
        return rc;
    }
    for (size_t i = 0; i < len; i++) {
        path[i] = folder[i];
    }
    if (len > 0 && !has_slash) {
        path[len++] = '/';
    }
    for (const char *name = "netkit-"; *name != 0; name++) {
        path[len++] = *name;
    }
    for (size_t i = 0; i < sizeof random; i++) {
        path[len++] = digits[random[i] >> 4];
        path[len++] = digits[random[i] & 15];
    }
    return netkit_addr_from_path(out, path, len, false);
}
