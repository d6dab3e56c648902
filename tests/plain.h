/* What the tests need of a compiler and some lack (tcc): then the library has no threads either,
 * and tests that would start one are skipped. */
#ifndef NKT_PLAIN_H
#define NKT_PLAIN_H

#if defined(__MINGW32__)
#define NKT_PRINTF gnu_printf
#else
#define NKT_PRINTF printf
#endif

#if defined(__GNUC__)
#define NKT_THREAD_LOCAL __thread
#else
#undef __attribute__ /* glibc's headers hide it, and what starts before main needs it */
#define NKT_THREAD_LOCAL
#define __ATOMIC_RELAXED 0
#define __ATOMIC_ACQUIRE 2
#define __ATOMIC_RELEASE 3
#define __ATOMIC_ACQ_REL 4
#define __ATOMIC_SEQ_CST 5
#define __atomic_load_n(at, order) (*(at))
#define __atomic_store_n(at, value, order) ((void)(*(at) = (value)))
#define __atomic_add_fetch(at, value, order) (*(at) += (value))
#define __atomic_sub_fetch(at, value, order) (*(at) -= (value))
#define __atomic_fetch_add(at, value, order) ((*(at) += (value)) - (value))
#define __atomic_compare_exchange_n(at, expected, value, weak, order, otherwise) \
    (*(at) == *(expected) ? (*(at) = (value), true) : (*(expected) = *(at), false))
#endif

#endif /* NKT_PLAIN_H */
