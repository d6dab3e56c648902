/* The declarations alone, twice; each kind of public type can be used. */
#include "netkit.h"
#include "netkit.h"

typedef struct user_state {
    netkit_addr addr;
    netkit_conn conn;
    netkit_loop *loop;
    netkit_loop_desc desc;
} user_state;

int user_check(const user_state *state);

int user_check(const user_state *state) {
    return state->loop == NULL ? NETKIT_E_INVALID : (int)state->conn.id;
}
