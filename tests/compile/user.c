/* A program that has the declarations alone, and the library from elsewhere: a static one, a shared
 * one, a DLL. Ends with status 0 when that is the library it was compiled for, and works. */
#include "netkit.h"
#include <string.h>

static void user_on_timer(netkit_loop *loop, netkit_timer timer, void *user) {
    (void)timer;
    ++*(int *)user;
    netkit_loop_stop(loop);
}

static int user_pair(void) {
    netkit_socket pair[2];
    char text[4];
    int rc = netkit_socket_pair(pair, NETKIT_SOCK_STREAM, 0);
    if (rc != NETKIT_OK) {
        return rc;
    }
    rc = netkit_socket_send_all(pair[0], "word", 4, 1000, NULL);
    rc = rc == NETKIT_OK ? netkit_socket_recv_all(pair[1], text, 4, 1000, NULL) : rc;
    (void)netkit_socket_close(&pair[0]);
    (void)netkit_socket_close(&pair[1]);
    return rc == NETKIT_OK && memcmp(text, "word", 4) != 0 ? (int)NETKIT_E_IO : rc;
}

int main(void) {
    netkit_loop *loop;
    int fired = 0;
    if (netkit_version() != NETKIT_VERSION_NUMBER || user_pair() != NETKIT_OK ||
        netkit_loop_create(&loop, NULL) != NETKIT_OK) {
        return 1;
    }
    int rc = netkit_timer_start(loop, NULL, 1000, 0, user_on_timer, &fired);
    rc = rc == NETKIT_OK ? netkit_loop_run(loop) : rc;
    return netkit_loop_destroy(loop) == NETKIT_OK && rc >= 0 && fired == 1 ? 0 : 1;
}
