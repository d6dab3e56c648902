/* Legal when _GNU_SOURCE is defined for the file, on glibc else an #error that says what to do. */
#include <stdio.h>
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
