/* ---- messages and unix sockets ----------------------------------------------
 *
 * What plain sockets move beside bytes: the address of a datagram, open
 * descriptors and the sender's credentials (unix sockets), other ancillary data
 * of the system. And what unix sockets have beside their messages: a file, and a
 * peer on the same machine. Windows 10 and later has unix sockets of streams with
 * a path (NETKIT_E_NOSYS where it has not), and no descriptors or credentials in
 * messages. See the head of "plain sockets" for threads and NETKIT_E_INVALID. */

enum {
    NETKIT_FDS_MAX = 253,    /* descriptors in one message: the most that Linux takes */
    NETKIT_CONTROL_MAX = 512 /* bytes of other ancillary data in one message */
};

/* Who somebody is; each is -1 where the system does not tell. */
typedef struct netkit_credentials {
    int64_t pid;
    int64_t uid;
    int64_t gid;
} netkit_credentials;

/* A message to send; all zero but what is wanted. */
typedef struct netkit_message_out {
    const netkit_span *spans; /* its bytes, at most NETKIT_SPANS_MAX pieces */
    size_t spans_count;
    const netkit_addr *to; /* a datagram's destination, NULL = the connected peer */
    const uintptr_t *fds;  /* descriptors to hand over; they stay open here as well */
    size_t fds_count;      /* at most NETKIT_FDS_MAX */
    const void *control;   /* other ancillary data, laid out as CMSG_DATA(3) says */
    size_t control_len;    /* at most NETKIT_CONTROL_MAX */
} netkit_message_out;

/* Send a message. A stream may take less than all of the bytes: what comes beside
 * them went with the first one, so send the rest as plain bytes. With descriptors
 * a stream needs one byte at least.
 * Returns the bytes taken; NETKIT_E_AGAIN; NETKIT_E_TOOBIG: a larger datagram, or
 * more beside it, than there can be; NETKIT_E_MFILE: too many descriptors are on
 * their way already; NETKIT_E_NOSYS: not on this kind of socket or
 * system; NETKIT_E_INVALID; ... as netkit_socket_send. Thread: the socket's. */
NETKIT_API int netkit_socket_send_msg(netkit_socket s, const netkit_message_out *msg);

/* Room for a message, and what came. */
typedef struct netkit_message_in {
    const netkit_room *rooms; /* for its bytes, at most NETKIT_SPANS_MAX pieces */
    size_t rooms_count;
    uintptr_t *fds; /* room for descriptors; those that come are the caller's to close,
                                 and close-on-exec */
    size_t fds_max;
    void *control; /* room for other ancillary data */
    size_t control_max;
    /* Written by the call: */
    size_t fds_count;
    size_t control_len;
    netkit_addr from;          /* who sent a datagram; NETKIT_AF_NONE on a stream */
    netkit_credentials sender; /* with NETKIT_OPT_CREDENTIALS, else all -1 */
    bool is_cut;               /* the datagram was longer than the room; the rest is gone */
    bool is_fds_cut;           /* descriptors came that are closed again: there was no room in fds,
                                 or none in the process (NETKIT_E_MFILE) */
    bool is_control_cut;       /* other ancillary data came that is gone */
} netkit_message_in;

/* Receive a message, or what there is of a stream; on a stream descriptors come no
 * later than the first byte they were sent with. What does not fit is closed or
 * dropped and said, it never leaks, and the next message is whole.
 * Returns the bytes received (0 for an empty datagram), NETKIT_E_AGAIN,
 * NETKIT_E_EOF, ... as netkit_socket_recv; on failure nothing has come.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_recv_msg(netkit_socket s, netkit_message_in *msg);

/* Who is at the other end of a unix stream: who they were when they connected, or
 * listened, whatever they are now; Windows tells the process alone. *out is all -1
 * on failure.
 * Returns NETKIT_OK; NETKIT_E_NOTCONN; NETKIT_E_NOSYS: not a unix socket, or the
 * system does not tell. Thread: the socket's. */
NETKIT_API int netkit_socket_credentials(netkit_socket s, netkit_credentials *out);

/* The file that binding to a unix path has made, for taking it away again. */
typedef struct netkit_unix_file {
    uint64_t device; /* of the system: which file it is, whatever is at its path later */
    uint64_t inode;  /* both 0: none */
    netkit_addr addr;
} netkit_unix_file;

/* Bind to a unix path as netkit_socket_bind, with the file's permissions: `mode`
 * (0660, ...; 0 = what the umask leaves) holds from the moment there is a file, so
 * nobody slips in; NETKIT_E_NOSYS on Windows, where they are the folder's. `flags`
 * is 0 or NETKIT_SOCKET_REPLACE. *file (may be NULL) is for netkit_unix_unlink; for
 * an abstract name it is none, and the rest means nothing.
 * When it fails no file is left. Errors as for netkit_socket_bind.
 * Thread: the socket's. */
NETKIT_API int netkit_socket_bind_unix(netkit_socket s, const netkit_addr *addr, int flags,
                                       uint32_t mode, netkit_unix_file *file);

/* Remove that file if it is still there, before its socket is closed (until then no
 * other file can be mistaken for it). Whatever else has come to its path stays.
 * *file becomes all zero then, and doing it again is NETKIT_OK.
 * Returns NETKIT_OK; NETKIT_E_NOTFOUND: nothing is there; NETKIT_E_STALE: something
 * else is; NETKIT_E_ACCESS, ... Thread: any, one at a time for each file. */
NETKIT_API int netkit_unix_unlink(netkit_unix_file *file);

/* An address for a socket nobody has: a random name in `folder`, NULL = "/tmp", or
 * the user's own for such files on Windows. Nothing is created. *out is zeroed on
 * failure.
 * Returns NETKIT_OK; NETKIT_E_TOOBIG: no path so long; what the system's random
 * numbers failed with. Thread: any. */
NETKIT_API int netkit_unix_temp_path(netkit_addr *out, const char *folder);
