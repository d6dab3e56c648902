/* Everything private to one file: nothing is exported and nothing unused is warned about. */
#define NETKIT_STATIC
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

int probe(void);

int probe(void) {
    return netkit_version();
}
