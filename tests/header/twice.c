#define NETKIT_IMPLEMENTATION
#include "netkit.h"
#include "netkit.h"
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
