#include "kernel_enums.h"
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
