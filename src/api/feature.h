/* Feature macros must come before the first system header of the file, so they
 * stand outside the include guard, in the implementing file only. */
#if defined(NETKIT_IMPLEMENTATION) && defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* NOLINT(bugprone-reserved-identifier): glibc's own name */
#endif
#if defined(NETKIT_IMPLEMENTATION) && defined(__APPLE__) && !defined(__APPLE_USE_RFC_3542)
#define __APPLE_USE_RFC_3542 1 /* NOLINT(bugprone-reserved-identifier): IPV6_HOPLIMIT and others */
#endif
#if defined(NETKIT_IMPLEMENTATION) && defined(_WIN32) && !defined(_WIN32_WINNT)
#define _WIN32_WINNT 0x0A00 /* NOLINT(bugprone-reserved-identifier): Windows 10, of its headers */
#endif
