/* How descriptors are born, where the system takes their flags with the call that makes them
 * (Linux, the BSDs): close-on-exec and non-blocking from the first moment. birth_fcntl.c is the
 * same for systems that do not. */

#if NKI_HAS_SOCK_FLAGS

/* The system's type of socket, with its flags. */
static int nki_os_type(int type, bool is_blocking) {
    int os_type = type == NETKIT_SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM;
    return os_type | SOCK_CLOEXEC | (is_blocking ? 0 : SOCK_NONBLOCK);
}

static int nki_os_finish_socket(int fd, bool is_blocking) {
    NKI_UNUSED(is_blocking);
    return nki_os_no_sigpipe(fd);
}

#endif /* NKI_HAS_SOCK_FLAGS */
