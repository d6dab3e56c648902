/* A program without threads. */
#ifndef NETKIT_NO_THREADS
#define NETKIT_NO_THREADS
#endif
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
