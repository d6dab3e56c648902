/* ---- fifo: a circular buffer of bytes --------------------------------------
 *
 * Bytes go in at the back and come out at the front. It grows by doubling up to
 * capacity_max and never shrinks before free.
 *
 *     netkit_fifo fifo = {0};                    (C++: = {})
 *     netkit_fifo_write(&fifo, data, len);
 *     n = netkit_fifo_read(&fifo, out, sizeof out);
 *     netkit_fifo_free(&fifo);
 *
 * A zeroed fifo is ready. Pointers into it live until the next call that takes a
 * netkit_fifo * without const. No argument may be NULL, but data of 0 bytes.
 * "Thread: one at a time." is for each fifo. */
typedef struct netkit_fifo {
    size_t capacity_max;        /* bytes held at most, 0 = 16 MiB */
    netkit_allocator allocator; /* all zero = malloc */
    bool is_secret;             /* overwrite bytes as soon as they are not needed any more */
    /* netkit's own from here; the above may change while `capacity` is 0. */
    unsigned char *memory;
    size_t capacity; /* a power of two, or 0 */
    size_t front;
    size_t len;
} netkit_fifo;

/* Bytes that wait. Thread: one at a time. */
NETKIT_API size_t netkit_fifo_len(const netkit_fifo *fifo);

/* Append all or nothing: NETKIT_OK, NETKIT_E_FULL (not until some is read),
 * NETKIT_E_TOOBIG (never), NETKIT_E_NOMEM. Thread: one at a time. */
NETKIT_API int netkit_fifo_write(netkit_fifo *fifo, const void *data, size_t len);

/* Take up to `len` bytes off the front into `out`; returns how many.
 * Thread: one at a time. */
NETKIT_API size_t netkit_fifo_read(netkit_fifo *fifo, void *out, size_t len);

/* Copy up to `len` bytes that stand `offset` behind the front, which stay; returns how many.
 * Thread: one at a time. */
NETKIT_API size_t netkit_fifo_peek(const netkit_fifo *fifo, size_t offset, void *out, size_t len);

/* Drop up to `len` bytes off the front; returns how many. Thread: one at a time. */
NETKIT_API size_t netkit_fifo_consume(netkit_fifo *fifo, size_t len);

/* Make room, so that writing `len` more bytes cannot fail. Errors as for write.
 * Thread: one at a time. */
NETKIT_API int netkit_fifo_reserve(netkit_fifo *fifo, size_t len);

/* The bytes at the front that lie in one piece: all of them, or those up to the
 * end of the memory. {NULL, 0} when there are none. Thread: one at a time. */
NETKIT_API netkit_span netkit_fifo_front(const netkit_fifo *fifo);

/* The first `len` bytes in one piece (moving them together when they are not), or
 * NULL when there are fewer. Allocates nothing. Thread: one at a time. */
NETKIT_API const void *netkit_fifo_straighten(netkit_fifo *fifo, size_t len);

/* A place for at least `len` bytes in one piece to write to, for example by recv;
 * *room gets how many fit. Then say with commit how many were written. NULL on the
 * errors of write. Thread: one at a time. */
NETKIT_API void *netkit_fifo_space(netkit_fifo *fifo, size_t len, size_t *room);

/* `len` bytes were written to what space returned. NETKIT_E_INVALID when that is
 * more than there was room for. Thread: one at a time. */
NETKIT_API int netkit_fifo_commit(netkit_fifo *fifo, size_t len);

/* Drop all bytes; the memory is kept. Thread: one at a time. */
NETKIT_API void netkit_fifo_clear(netkit_fifo *fifo);

/* Drop all bytes and give the memory back; the fifo is as new.
 * Thread: one at a time. */
NETKIT_API void netkit_fifo_free(netkit_fifo *fifo);

/* Overwrite memory that held a secret, in a way that no compiler leaves out.
 * Thread: any. */
NETKIT_API void netkit_wipe(void *memory, size_t len);
