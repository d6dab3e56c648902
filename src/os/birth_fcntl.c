/* How descriptors are born, where the call that makes them takes no flags (macOS): they are set
 * afterwards. A descriptor leaks into a program started by another thread between the two calls;
 * there is no way around it there. */

#if NKI_POSIX && !NKI_HAS_SOCK_FLAGS

static int nki_os_type(int type, bool is_blocking) {
    NKI_UNUSED(is_blocking);
    return type == NETKIT_SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM;
}

static int nki_os_finish_socket(int fd, bool is_blocking) {
    int rc = nki_os_set_fd_flags(fd, is_blocking);
    return rc == NETKIT_OK ? nki_os_no_sigpipe(fd) : rc;
}

#endif
