/* One of two memory macros must be an #error that says so. */
#define NETKIT_MALLOC(size) NULL
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
