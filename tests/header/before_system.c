/* First of all headers, before what a program needs besides. */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
