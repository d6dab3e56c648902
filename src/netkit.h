#include "api/manual.h"
#include "api/feature.h"
#ifndef NETKIT_H
#define NETKIT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#include "api/config.h"
#include "api/error.h"
#include "api/memory.h"
#include "api/addr.h"
#include "api/socket.h"
#include "api/poller.h"
#include "api/loop.h"
#include "api/timer.h"
#include "api/conn.h"
#include "api/udp.h"
#include "api/event.h"
#ifdef __cplusplus
}
#endif
#endif /* NETKIT_H */

#if defined(NETKIT_IMPLEMENTATION) && !defined(NETKIT_IMPLEMENTATION_DONE)
#define NETKIT_IMPLEMENTATION_DONE
#include "base/platform.h"
#include "base/atomic.h"
#include "base/error.c"
#include "base/memory.c"
#include "base/addr.c"
#include "base/slots.c"
#include "base/timers.h"
#include "base/timers.c"
#include "base/posts.c"
#include "os/seam_posix.h"
#include "os/os.h"
#include "os/sockaddr_posix.c"
#include "os/addr.c"
#include "os/system_posix.c"
#include "os/socket_posix.c"
#include "os/option_posix.c"
#include "os/option_ip_posix.c"
#include "os/datagram_posix.c"
#include "os/socket.c"
#include "os/datagram.c"
#include "poll/poll.h"
#include "poll/epoll.c"
#include "poll/poll.c"
#include "poll/poller.c"
#include "uring/ring.h"
#include "uring/ring.c"
#include "uring/buffers.c"
#include "loop/types.h"
#include "loop/driver.h"
#include "loop/objects.c"
#include "loop/queue.c"
#include "loop/input.c"
#include "loop/conn.c"
#include "loop/receive.c"
#include "loop/listener.c"
#include "loop/conn_api.c"
#include "loop/udp_out.c"
#include "loop/udp.c"
#include "loop/udp_api.c"
#include "loop/watch.c"
#include "loop/timer.c"
#include "loop/turn.c"
#include "loop/readiness.c"
#include "uring/state.h"
#include "uring/operations.c"
#include "uring/driver.c"
#include "loop/loop.c"
#include "base/end.h"
#endif /* NETKIT_IMPLEMENTATION */
#include "api/license.h"
