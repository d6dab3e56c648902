/* A program without threads. */
#define NETKIT_NO_THREADS
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
