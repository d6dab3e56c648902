/* The implementation, as a user's two-line file has it. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
