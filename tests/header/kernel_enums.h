/* What <linux/if_link.h> of newer kernels defines for its netkit devices (Linux 6.7 on; the
 * headers of older systems lack it, so that a stand-in is needed). */
enum netkit_action {
    NETKIT_NEXT = -1,
    NETKIT_PASS = 0,
    NETKIT_DROP = 2,
    NETKIT_REDIRECT = 7
};
enum netkit_mode {
    NETKIT_L2,
    NETKIT_L3
};
enum netkit_scrub {
    NETKIT_SCRUB_NONE,
    NETKIT_SCRUB_DEFAULT
};
enum netkit_pairing {
    NETKIT_DEVICE_PAIR,
    NETKIT_DEVICE_SINGLE
};
