/* A second file of the same program: declarations alone. */
#include "netkit.h"

int main(void) {
    return netkit_version() == NETKIT_VERSION_NUMBER ? 0 : 1;
}
