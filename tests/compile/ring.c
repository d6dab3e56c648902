/* Our words for io_uring are the kernel's, wherever its own header is at hand: on each processor
 * and word size, whatever the order of bytes. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#if defined(__has_include)
#if NKI_HAS_URING && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#if defined(IORING_RECV_MULTISHOT) /* 6.0 or later */

#define SAME(name, ours, theirs) NKI_STATIC_ASSERT(name, (uint64_t)(ours) == (uint64_t)(theirs))
#define SAME_PLACE(name, ours, a, theirs, b)                        \
    SAME(name##_at, offsetof(ours, a), offsetof(struct theirs, b)); \
    SAME(name##_size, sizeof(((const ours *)0)->a), sizeof(((const struct theirs *)0)->b))
#define SQE(a, b) SAME_PLACE(sqe_##a, nki_uring_sqe, a, io_uring_sqe, b)

SAME(sqe, sizeof(nki_uring_sqe), sizeof(struct io_uring_sqe));
SQE(opcode, opcode);
SQE(flags, flags);
SQE(ioprio, ioprio);
SQE(fd, fd);
SQE(off, off);
SQE(addr, addr);
SQE(len, len);
SQE(op_flags, msg_flags);
SQE(user_data, user_data);
SQE(buffer_group, buf_group);
SQE(personality, personality);
SQE(file_index, file_index);
SQE(addr3, addr3);
SAME(poll_bits, offsetof(nki_uring_sqe, op_flags), offsetof(struct io_uring_sqe, poll32_events));
SAME(accept_bits, offsetof(nki_uring_sqe, op_flags), offsetof(struct io_uring_sqe, accept_flags));

SAME(cqe, sizeof(nki_uring_cqe), sizeof(struct io_uring_cqe));
SAME_PLACE(cqe_user_data, nki_uring_cqe, user_data, io_uring_cqe, user_data);
SAME_PLACE(cqe_res, nki_uring_cqe, res, io_uring_cqe, res);
SAME_PLACE(cqe_flags, nki_uring_cqe, flags, io_uring_cqe, flags);

SAME(params, sizeof(nki_uring_params), sizeof(struct io_uring_params));
SAME_PLACE(params_sq, nki_uring_params, sq_entries, io_uring_params, sq_entries);
SAME_PLACE(params_cq, nki_uring_params, cq_entries, io_uring_params, cq_entries);
SAME_PLACE(params_flags, nki_uring_params, flags, io_uring_params, flags);
SAME_PLACE(params_features, nki_uring_params, features, io_uring_params, features);
SAME_PLACE(params_sq_off, nki_uring_params, sq, io_uring_params, sq_off);
SAME_PLACE(params_cq_off, nki_uring_params, cq, io_uring_params, cq_off);
SAME_PLACE(sq_flags, nki_uring_offsets, a, io_sqring_offsets, flags);
SAME_PLACE(sq_array, nki_uring_offsets, c, io_sqring_offsets, array);
SAME_PLACE(cq_tail, nki_uring_offsets, tail, io_cqring_offsets, tail);
SAME_PLACE(cq_cqes, nki_uring_offsets, b, io_cqring_offsets, cqes);

SAME(wait_arg, sizeof(nki_uring_wait_arg), sizeof(struct io_uring_getevents_arg));
SAME_PLACE(wait_mask, nki_uring_wait_arg, sigmask_size, io_uring_getevents_arg, sigmask_sz);
SAME_PLACE(wait_time, nki_uring_wait_arg, time, io_uring_getevents_arg, ts);
SAME(probe_op, sizeof(((nki_uring_probe *)0)->ops[0]), sizeof(struct io_uring_probe_op));
SAME(probe_ops, offsetof(nki_uring_probe, ops), sizeof(struct io_uring_probe));
SAME_PLACE(probe_last, nki_uring_probe, last_op, io_uring_probe, last_op);
SAME(update, sizeof(nki_uring_update), sizeof(struct io_uring_rsrc_update));
SAME_PLACE(update_data, nki_uring_update, data, io_uring_rsrc_update, data);
SAME(buffer, sizeof(nki_uring_buffer), sizeof(struct io_uring_buf));
SAME_PLACE(buffer_id, nki_uring_buffer, id, io_uring_buf, bid);
SAME(buffers_tail, offsetof(nki_uring_buffer, tail), offsetof(struct io_uring_buf_ring, tail));
SAME(buffers, sizeof(nki_uring_buffers_reg), sizeof(struct io_uring_buf_reg));
SAME_PLACE(buffers_entries, nki_uring_buffers_reg, entries, io_uring_buf_reg, ring_entries);
SAME_PLACE(buffers_group, nki_uring_buffers_reg, group, io_uring_buf_reg, bgid);

SAME(op_poll_add, NKI_URING_POLL_ADD, IORING_OP_POLL_ADD);
SAME(op_accept, NKI_URING_ACCEPT, IORING_OP_ACCEPT);
SAME(op_cancel, NKI_URING_CANCEL, IORING_OP_ASYNC_CANCEL);
SAME(op_connect, NKI_URING_CONNECT, IORING_OP_CONNECT);
SAME(op_send, NKI_URING_SEND, IORING_OP_SEND);
SAME(op_recvmsg, NKI_URING_RECVMSG, IORING_OP_RECVMSG);
SAME(op_recv, NKI_URING_RECV, IORING_OP_RECV);
SAME(op_message, NKI_URING_MESSAGE, IORING_OP_MSG_RING);
SAME(op_5_19, NKI_URING_OP_5_19, IORING_OP_SOCKET);
SAME(op_6_0, NKI_URING_OP_6_0, IORING_OP_SEND_ZC);
SAME(probe, NKI_URING_REGISTER_PROBE, IORING_REGISTER_PROBE);
SAME(enable, NKI_URING_REGISTER_ENABLE, IORING_REGISTER_ENABLE_RINGS);
SAME(ring, NKI_URING_REGISTER_RING, IORING_REGISTER_RING_FDS);
SAME(unring, NKI_URING_UNREGISTER_RING, IORING_UNREGISTER_RING_FDS);
SAME(pbuf, NKI_URING_REGISTER_BUFFERS, IORING_REGISTER_PBUF_RING);
SAME(unpbuf, NKI_URING_UNREGISTER_BUFFERS, IORING_UNREGISTER_PBUF_RING);
SAME(sqes, NKI_URING_SQES_OFFSET, IORING_OFF_SQES);
SAME(setup_cqsize, NKI_URING_SETUP_CQSIZE, IORING_SETUP_CQSIZE);
SAME(setup_disabled, NKI_URING_SETUP_DISABLED, IORING_SETUP_R_DISABLED);
SAME(setup_all, NKI_URING_SETUP_SUBMIT_ALL, IORING_SETUP_SUBMIT_ALL);
SAME(setup_coop, NKI_URING_SETUP_COOP_TASKRUN, IORING_SETUP_COOP_TASKRUN);
SAME(setup_taskrun, NKI_URING_SETUP_TASKRUN_FLAG, IORING_SETUP_TASKRUN_FLAG);
SAME(setup_single, NKI_URING_SETUP_SINGLE_ISSUER, IORING_SETUP_SINGLE_ISSUER);
#if defined(IORING_SETUP_DEFER_TASKRUN) /* 6.1 */
SAME(setup_defer, NKI_URING_SETUP_DEFER_TASKRUN, IORING_SETUP_DEFER_TASKRUN);
#endif
SAME(ext_arg, NKI_URING_FEAT_EXT_ARG, IORING_FEAT_EXT_ARG);
SAME(skip, NKI_URING_FEAT_CQE_SKIP, IORING_FEAT_CQE_SKIP);
SAME(registered, NKI_URING_ENTER_REGISTERED, IORING_ENTER_REGISTERED_RING);
SAME(select, NKI_URING_SQE_BUFFER_SELECT, IOSQE_BUFFER_SELECT);
SAME(skip_success, NKI_URING_SQE_SKIP_SUCCESS, IOSQE_CQE_SKIP_SUCCESS);
SAME(accept_multi, NKI_URING_ACCEPT_MULTISHOT, IORING_ACCEPT_MULTISHOT);
SAME(recv_multi, NKI_URING_RECV_MULTISHOT, IORING_RECV_MULTISHOT);
SAME(poll_first, NKI_URING_RECV_POLL_FIRST, IORING_RECVSEND_POLL_FIRST);
SAME(poll_multi, NKI_URING_POLL_MULTISHOT, IORING_POLL_ADD_MULTI);
SAME(taskrun, NKI_URING_SQ_TASKRUN, IORING_SQ_TASKRUN);
SAME(overflow, NKI_URING_SQ_CQ_OVERFLOW, IORING_SQ_CQ_OVERFLOW);
SAME(cqe_buffer, NKI_URING_CQE_BUFFER, IORING_CQE_F_BUFFER);
SAME(cqe_more, NKI_URING_CQE_MORE, IORING_CQE_F_MORE);

#endif
#endif
#endif
