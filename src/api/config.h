/* ---- version and linkage ------------------------------------------------- */

#define NETKIT_VERSION_MAJOR 0
#define NETKIT_VERSION_MINOR 1
#define NETKIT_VERSION_PATCH 0
#define NETKIT_VERSION_STRING "0.1.0"
#define NETKIT_VERSION_NUMBER \
    (NETKIT_VERSION_MAJOR * 10000 + NETKIT_VERSION_MINOR * 100 + NETKIT_VERSION_PATCH)

#if defined(NETKIT_STATIC) && !defined(NETKIT_IMPLEMENTATION) && \
    !defined(NETKIT_IMPLEMENTATION_DONE)
#error "NETKIT_STATIC is for the file that defines NETKIT_IMPLEMENTATION"
#endif

#ifndef NETKIT_API
#if defined(_MSC_VER) && !defined(__clang__) && defined(NETKIT_STATIC)
#define NETKIT_API static
#elif defined(NETKIT_STATIC)
#define NETKIT_API static __attribute__((unused))
#elif defined(_WIN32) && defined(NETKIT_DLL) && defined(NETKIT_IMPLEMENTATION)
#define NETKIT_API __declspec(dllexport)
#elif defined(_WIN32) && defined(NETKIT_DLL)
#define NETKIT_API __declspec(dllimport)
#elif defined(NETKIT_DLL)
#define NETKIT_API __attribute__((visibility("default"))) extern
#else
#define NETKIT_API extern
#endif
#endif

/* The NETKIT_VERSION_NUMBER the implementation was compiled with.
 * Thread: any. */
NETKIT_API int netkit_version(void);
