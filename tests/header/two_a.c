#define NETKIT_IMPLEMENTATION
#include "netkit.h"
