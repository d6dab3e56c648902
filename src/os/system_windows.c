/* The system on Windows: Winsock's beginning and end, codes of errors, clock, randomness, thread
 * identity, interfaces.
 *
 * Winsock counts how often it was begun, and the last end closes every socket there still is. So a
 * loop, whose sockets end with it, pairs the two, and a plain socket, which must outlive every
 * loop, begins it once more and for good.
 * The code of an error is the thread's own, one for Winsock and the rest of the system
 * (WSAGetLastError is GetLastError), whose numbers do not overlap. No state is kept here. */

#if NKI_WINDOWS

typedef struct nki_os_row {
    int os_code;
    int code;
} nki_os_row;

static int nki_os_begin(void) {
    WSADATA data;
    int os_code = NKI_SYS_startup(MAKEWORD(2, 2), &data);
    if (os_code != 0) {
        return nki_os_fail(os_code);
    }
    if (data.wVersion != MAKEWORD(2, 2)) {
        nki_os_end();
        return nki_os_fail(WSAVERNOTSUPPORTED);
    }
    return NETKIT_OK;
}

static void nki_os_end(void) {
    int os_code = nki_os_code();
    (void)NKI_SYS_cleanup();
    WSASetLastError(os_code);
}

static int nki_os_code(void) {
    return WSAGetLastError();
}

/* The row's code, or 0. */
static int nki_os_find(const nki_os_row *rows, size_t count, int os_code) {
    for (size_t i = 0; i < count; i++) {
        if (rows[i].os_code == os_code) {
            return rows[i].code;
        }
    }
    return 0;
}

/* Of Winsock; the first is the only one that steady traffic meets. */
static int nki_os_from_winsock(int os_code) {
    static const nki_os_row rows[] = {
        {WSAEWOULDBLOCK, NETKIT_E_AGAIN},
        {WSAEINPROGRESS, NETKIT_E_AGAIN},
        {WSAEALREADY, NETKIT_E_AGAIN},
        {WSA_IO_PENDING, NETKIT_E_AGAIN},
        {WSAECONNRESET, NETKIT_E_RESET},
        {WSAENETRESET, NETKIT_E_RESET},
        {WSAEDISCON, NETKIT_E_RESET},
        {WSAECONNREFUSED, NETKIT_E_REFUSED},
        {WSAETIMEDOUT, NETKIT_E_TIMEOUT},
        {WSAECONNABORTED, NETKIT_E_ABORTED},
        {WSAENOTCONN, NETKIT_E_NOTCONN},
        {WSAEDESTADDRREQ, NETKIT_E_NOTCONN},
        {WSAEINTR, NETKIT_E_INTERRUPTED},
        {WSAENETUNREACH, NETKIT_E_UNREACHABLE},
        {WSAEHOSTUNREACH, NETKIT_E_UNREACHABLE},
        {WSAENETDOWN, NETKIT_E_UNREACHABLE},
        {WSAEHOSTDOWN, NETKIT_E_UNREACHABLE},
        {WSAEADDRINUSE, NETKIT_E_ADDRINUSE},
        {WSAEADDRNOTAVAIL, NETKIT_E_ADDRNOTAVAIL},
        {WSAEMFILE, NETKIT_E_MFILE},
        {WSAEPROCLIM, NETKIT_E_MFILE},
        {WSAETOOMANYREFS, NETKIT_E_MFILE},
        {WSAENOBUFS, NETKIT_E_NOMEM},
        {WSAEDQUOT, NETKIT_E_FULL},
        {WSAEMSGSIZE, NETKIT_E_TOOBIG},
        {WSAENAMETOOLONG, NETKIT_E_TOOBIG},
        {WSAEACCES, NETKIT_E_ACCESS},
        {WSAEISCONN, NETKIT_E_EXISTS},
        {WSAEINVAL, NETKIT_E_INVALID},
        {WSAEBADF, NETKIT_E_INVALID},
        {WSAEFAULT, NETKIT_E_INVALID},
        {WSAENOTSOCK, NETKIT_E_INVALID},
        {WSAELOOP, NETKIT_E_INVALID},
        {WSAEOPNOTSUPP, NETKIT_E_NOSYS},
        {WSAEAFNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEPFNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEPROTONOSUPPORT, NETKIT_E_NOSYS},
        {WSAESOCKTNOSUPPORT, NETKIT_E_NOSYS},
        {WSAEPROTOTYPE, NETKIT_E_NOSYS},
        {WSAENOPROTOOPT, NETKIT_E_NOSYS},
        {WSAVERNOTSUPPORTED, NETKIT_E_NOSYS},
        {WSASYSNOTREADY, NETKIT_E_NOSYS},
        {WSAESHUTDOWN, NETKIT_E_CLOSED},
        {WSAECANCELLED, NETKIT_E_CANCELLED},
        {WSA_E_CANCELLED, NETKIT_E_CANCELLED},
        {WSA_OPERATION_ABORTED, NETKIT_E_CANCELLED},
    };
    return nki_os_find(rows, NKI_COUNT(rows), os_code);
}

/* Of files and handles, and what overlapped calls give for Winsock's. */
static int nki_os_from_system(int os_code) {
    static const nki_os_row rows[] = {
        {ERROR_NETNAME_DELETED, NETKIT_E_RESET},
        {ERROR_CONNECTION_REFUSED, NETKIT_E_REFUSED},
        {ERROR_PORT_UNREACHABLE, NETKIT_E_REFUSED},
        {ERROR_SEM_TIMEOUT, NETKIT_E_TIMEOUT},
        {ERROR_CONNECTION_ABORTED, NETKIT_E_ABORTED},
        {ERROR_NETWORK_UNREACHABLE, NETKIT_E_UNREACHABLE},
        {ERROR_HOST_UNREACHABLE, NETKIT_E_UNREACHABLE},
        {ERROR_TOO_MANY_OPEN_FILES, NETKIT_E_MFILE},
        {ERROR_NO_SYSTEM_RESOURCES, NETKIT_E_NOMEM},
        {ERROR_NOT_ENOUGH_MEMORY, NETKIT_E_NOMEM},
        {ERROR_OUTOFMEMORY, NETKIT_E_NOMEM},
        {ERROR_COMMITMENT_LIMIT, NETKIT_E_NOMEM},
        {ERROR_DISK_FULL, NETKIT_E_FULL},
        {ERROR_MORE_DATA, NETKIT_E_TOOBIG},
        {ERROR_FILENAME_EXCED_RANGE, NETKIT_E_TOOBIG},
        {ERROR_ACCESS_DENIED, NETKIT_E_ACCESS},
        {ERROR_SHARING_VIOLATION, NETKIT_E_ACCESS},
        {ERROR_WRITE_PROTECT, NETKIT_E_ACCESS},
        {ERROR_FILE_EXISTS, NETKIT_E_EXISTS},
        {ERROR_ALREADY_EXISTS, NETKIT_E_EXISTS},
        {ERROR_FILE_NOT_FOUND, NETKIT_E_NOTFOUND},
        {ERROR_PATH_NOT_FOUND, NETKIT_E_NOTFOUND},
        {ERROR_NOT_FOUND, NETKIT_E_NOTFOUND},
        {ERROR_INVALID_HANDLE, NETKIT_E_INVALID},
        {ERROR_INVALID_PARAMETER, NETKIT_E_INVALID},
        {ERROR_NOACCESS, NETKIT_E_INVALID},
        {ERROR_INVALID_FUNCTION, NETKIT_E_NOSYS},
        {ERROR_NOT_SUPPORTED, NETKIT_E_NOSYS},
        {ERROR_CALL_NOT_IMPLEMENTED, NETKIT_E_NOSYS},
        {ERROR_PROC_NOT_FOUND, NETKIT_E_NOSYS},
        {ERROR_BUSY, NETKIT_E_BUSY},
    };
    return nki_os_find(rows, NKI_COUNT(rows), os_code);
}

NETKIT_API int netkit_error_from_os(int os_code) {
    if (os_code == 0) {
        return NETKIT_OK;
    }
    int code = nki_os_from_winsock(os_code);
    code = code != 0 ? code : nki_os_from_system(os_code);
    return code != 0 ? code : (int)NETKIT_E_IO;
}

/* The netkit code of the failure just seen. */
static NKI_OUTLINE int nki_os_error(void) {
    return netkit_error_from_os(nki_os_code());
}

static int nki_os_fail(int os_code) {
    WSASetLastError(os_code);
    return netkit_error_from_os(os_code);
}

static SOCKET nki_os_fd(uintptr_t s) {
    return (SOCKET)s;
}

/* A file, or any other thing that is no socket. */
static HANDLE nki_os_handle(uintptr_t native) {
    HANDLE handle;
    memcpy(&handle, &native, sizeof handle);
    return handle;
}

static int nki_os_timed_out(void) {
    return nki_os_fail(WSAETIMEDOUT);
}

static void nki_os_abandon(uintptr_t s) {
    int os_code = nki_os_code();
    (void)NKI_SYS_close(nki_os_fd(s));
    WSASetLastError(os_code);
}

static void nki_os_abandon_file(uintptr_t file) {
    int os_code = nki_os_code();
    (void)NKI_SYS_close_handle(nki_os_handle(file));
    WSASetLastError(os_code);
}

/* Neither call fails since Windows XP. 0 stands for a failure all the same. In two steps, as the
 * counter times a thousand million is more than 64 bits hold. */
static uint64_t nki_os_now_ns(void) {
    LARGE_INTEGER count;
    LARGE_INTEGER rate;
    if (!NKI_SYS_clock(&count) || !NKI_SYS_clock_rate(&rate)) {
        return 0;
    }
    uint64_t ticks = (uint64_t)count.QuadPart;
    uint64_t per_second = (uint64_t)rate.QuadPart;
    return ticks / per_second * NKI_NS_PER_S + ticks % per_second * NKI_NS_PER_S / per_second;
}

static int nki_os_random(void *out, size_t size) {
    unsigned char *at = (unsigned char *)out;
    while (size > 0) {
        ULONG want = (ULONG)NKI_MIN(size, (size_t)INT_MAX);
        if (!NKI_SYS_getrandom(at, want)) {
            return nki_os_error() == NETKIT_OK ? (int)NETKIT_E_IO : nki_os_error();
        }
        at += want;
        size -= want;
    }
    return NETKIT_OK;
}

static NKI_HOT uintptr_t nki_os_thread_id(void) {
#if NKI_HAS_THREADS
    return (uintptr_t)NKI_SYS_thread_id();
#else
    return 1;
#endif
}

/* Names ("ethernet_32769", "loopback_0") are known to another library, which is looked up here so
 * that programs need not link it. */
static uint32_t nki_os_interface(const char *name) {
    typedef ULONG(WINAPI * nki_by_name)(const char *name);
    nki_by_name call;
    uint32_t index = 0;
    HMODULE library = NKI_SYS_library(L"iphlpapi.dll");
    if (library == NULL) {
        return 0;
    }
    FARPROC symbol = NKI_SYS_symbol(library, "if_nametoindex");
    if (symbol != NULL) {
        memcpy(&call, &symbol, sizeof call);
        index = (uint32_t)NKI_SYS_if_nametoindex(call, name);
    }
    (void)NKI_SYS_free_library(library);
    return index;
}

#endif /* NKI_WINDOWS */
