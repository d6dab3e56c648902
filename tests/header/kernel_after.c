#define NETKIT_IMPLEMENTATION
#include "netkit.h"
/* one file a line, so that the order stays */
#include "kernel_enums.h"
