/* Atomics: the few operations the library needs, each with the order it needs.
 *
 * `__atomic` builtins exist in gcc and clang for C99 and C++11 alike, where
 * <stdatomic.h> does not. Without threads, loads and stores keep their order where the compiler
 * can say it, for signal handlers and the kernel's side of a ring; the rest are plain accesses,
 * so that a processor without such instructions needs no library for them. */

#if defined(_MSC_VER)
#define nki_atomic_load(p) nki_msvc_load((p), sizeof *(p))
#define nki_atomic_load_relaxed(p) nki_msvc_peek((p), sizeof *(p))
#define nki_atomic_store(p, v) nki_msvc_store((p), sizeof *(p), (v))
#define nki_atomic_store_relaxed(p, v) nki_msvc_store((p), sizeof *(p), (v))
#define nki_atomic_load_ptr(p) InterlockedCompareExchangePointer((PVOID volatile *)(p), NULL, NULL)
#define nki_atomic_load_ptr_relaxed(p) nki_atomic_load_ptr(p)
#elif defined(__GNUC__)
#define nki_atomic_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define nki_atomic_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define nki_atomic_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define nki_atomic_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define nki_atomic_load_ptr(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define nki_atomic_load_ptr_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define nki_atomic_fence() __sync_synchronize()
#elif !NKI_HAS_THREADS
#define nki_atomic_load(p) (*(p))
#define nki_atomic_load_relaxed(p) (*(p))
#define nki_atomic_store(p, v) ((void)(*(p) = (v)))
#define nki_atomic_store_relaxed(p, v) ((void)(*(p) = (v)))
#define nki_atomic_load_ptr(p) (*(p))
#define nki_atomic_load_ptr_relaxed(p) (*(p))
#define nki_atomic_fence() ((void)0)
#endif

/* Where there are no builtins without a type: a number of 32 bits or one as wide as a pointer. The
 * calls are fences, too, on every processor of Windows. */
#if defined(_MSC_VER)
static size_t nki_msvc_load(const void *p, size_t size) {
    void *at;
    memcpy(&at, &p, sizeof at); /* without its const: nothing is changed */
    if (size == sizeof(LONG)) {
        return (size_t)(ULONG)InterlockedCompareExchange((volatile LONG *)at, 0, 0);
    }
    return (size_t)InterlockedCompareExchangePointer((PVOID volatile *)at, NULL, NULL);
}
/* One access, and no fence: every call of the loop begins with it. */
static size_t nki_msvc_peek(const void *p, size_t size) {
    return size == sizeof(LONG) ? (size_t) * (const volatile ULONG *)p
                                : *(const volatile size_t *)p;
}
static void nki_msvc_store(void *p, size_t size, size_t v) {
    if (size == sizeof(LONG)) {
        (void)InterlockedExchange((volatile LONG *)p, (LONG)(ULONG)v);
    } else {
        void *value;
        memcpy(&value, &v, sizeof value);
        (void)InterlockedExchangePointer((PVOID volatile *)p, value);
    }
}
#endif

#if !NKI_HAS_THREADS
static uint32_t nki_atomic_exchange(uint32_t *p, uint32_t v) {
    uint32_t old = *p;
    *p = v;
    return old;
}
static uint32_t nki_atomic_add(uint32_t *p, uint32_t v) {
    return *p += v;
}
static bool nki_atomic_cas_size(size_t *p, size_t *expected, size_t v) {
    NKI_UNUSED(expected);
    *p = v;
    return true;
}
static bool nki_atomic_cas_ptr(void **p, void **expected, void *v) {
    NKI_UNUSED(expected);
    *p = v;
    return true;
}
static void *nki_atomic_exchange_ptr(void **p, void *v) {
    void *old = *p;
    *p = v;
    return old;
}
#elif defined(_MSC_VER)
static uint32_t nki_atomic_exchange(uint32_t *p, uint32_t v) {
    return (uint32_t)InterlockedExchange((volatile LONG *)(void *)p, (LONG)v);
}
/* Returns the new value. */
static uint32_t nki_atomic_add(uint32_t *p, uint32_t v) {
    return (uint32_t)InterlockedExchangeAdd((volatile LONG *)(void *)p, (LONG)v) + v;
}
static bool nki_atomic_cas_ptr(void **p, void **expected, void *v) {
    void *was = *expected;
    *expected = InterlockedCompareExchangePointer((PVOID volatile *)p, v, was);
    return *expected == was;
}
static bool nki_atomic_cas_size(size_t *p, size_t *expected, size_t v) {
    void *was;
    void *value;
    memcpy(&was, expected, sizeof was);
    memcpy(&value, &v, sizeof value);
    bool is_done = nki_atomic_cas_ptr((void **)(void *)p, &was, value);
    memcpy(expected, &was, sizeof was);
    return is_done;
}
static void *nki_atomic_exchange_ptr(void **p, void *v) {
    return InterlockedExchangePointer((PVOID volatile *)p, v);
}
#elif defined(__GNUC__)
/* Sequentially consistent: the wake flag is a store that must not pass the loads behind it. */
static uint32_t nki_atomic_exchange(uint32_t *p, uint32_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
/* Returns the new value. */
static uint32_t nki_atomic_add(uint32_t *p, uint32_t v) {
    return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL);
}
static bool nki_atomic_cas_size(size_t *p, size_t *expected, size_t v) {
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
static bool nki_atomic_cas_ptr(void **p, void **expected, void *v) {
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static void *nki_atomic_exchange_ptr(void **p, void *v) {
    return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);
}
#else
#error "no atomics for this compiler yet: define NETKIT_NO_THREADS"
#endif
