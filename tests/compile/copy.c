/* One of two copies of the library in a process, private to its shared object: an echo server and
 * its clients, on a loop of this copy. */
#define NETKIT_STATIC
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
#include "copies.h"
#include <string.h>

#ifndef COPY
#define COPY copy_one
#endif

static netkit_loop *copy_loop;
static int copy_echoes;
static int copy_is_client; /* what a conn's user points to when it is one that dialled */

static void copy_on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    if (user != NULL) {
        (void)netkit_conn_send(loop, conn, "word", 4);
    }
}

static size_t copy_on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                           void *user) {
    if (user == NULL) {
        (void)netkit_conn_send(loop, conn, data, len);
    } else if (len < 4) {
        return 0;
    } else {
        copy_echoes += memcmp(data, "word", 4) == 0;
        (void)netkit_conn_close(loop, conn);
    }
    return len;
}

static netkit_handler copy_handler(void) {
    netkit_handler handler;
    memset(&handler, 0, sizeof handler);
    handler.on_open = copy_on_open;
    handler.on_data = copy_on_data;
    return handler;
}

static int copy_begin(void) {
    netkit_listen_desc desc;
    netkit_listener listener;
    netkit_addr addr;
    int rc = netkit_loop_create(&copy_loop, NULL);
    memset(&desc, 0, sizeof desc);
    desc.address = "127.0.0.1:0";
    desc.handler = copy_handler();
    rc = rc == NETKIT_OK ? netkit_listen(copy_loop, &desc, &listener) : rc;
    rc = rc == NETKIT_OK ? netkit_listener_local(copy_loop, listener, &addr) : rc;
    return rc == NETKIT_OK ? addr.port : rc;
}

static int copy_dial(int port) {
    netkit_connect_desc desc;
    netkit_conn conn;
    netkit_addr addr;
    int rc = netkit_addr_parse(&addr, "127.0.0.1:0", NULL);
    addr.port = (uint16_t)port;
    memset(&desc, 0, sizeof desc);
    desc.addr = &addr;
    desc.handler = copy_handler();
    desc.user = &copy_is_client;
    return rc == NETKIT_OK ? netkit_connect(copy_loop, &desc, &conn) : rc;
}

int COPY(int step, int port) {
    switch (step) {
    case COPY_BEGIN: return copy_begin();
    case COPY_DIAL: return copy_dial(port);
    case COPY_TURN: return netkit_loop_run_once(copy_loop, 5);
    case COPY_HEARD: return copy_echoes;
    default: return netkit_loop_destroy(copy_loop);
    }
}
