/* NETKIT_STATIC without the implementation must be an #error that says so. */
#define NETKIT_STATIC
#include "netkit.h"
