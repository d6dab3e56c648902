/* The implementation after a first, plain include, and asked for twice. On glibc that needs
 * _GNU_SOURCE for the file, since the plain include brings the first system headers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "netkit.h"
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
#include "netkit.h"
