/* The seam on Windows: every system call the library makes, by name, as seam_posix.h.
 *
 * NKI_FAIL(name) is 0, or in tests a function that counts the call, may set WSAGetLastError and
 * returns true to have it fail. Where a call of POSIX does the same the name is the same, so that
 * a test need not know the system. close and cleanup are special: they must really be made.
 * Functions that only a socket can give (WSARecvMsg, ...) and those of ntdll come as a pointer, by
 * NKI_SYS_extension and NKI_SYS_ntdll: nothing is linked but ws2_32 and what every program has.
 * Counts are ints and ULONGs here; whoever calls has cut them. */

#if NKI_WINDOWS

/* Not in every SDK. */
#ifndef WSA_FLAG_NO_HANDLE_INHERIT
#define WSA_FLAG_NO_HANDLE_INHERIT 0x80
#endif

#define NKI_SYS_startup(version, data) \
    (NKI_FAIL(startup) ? WSAGetLastError() : WSAStartup((version), (data)))
#define NKI_SYS_cleanup() (WSACleanup() != 0 || NKI_FAIL(cleanup) ? -1 : 0)

/* Overlapped, which costs nothing and lets a socket be used in every way there is. */
#define NKI_SYS_socket(f, t, p) \
    (NKI_FAIL(socket)           \
         ? INVALID_SOCKET       \
         : WSASocketW((f), (t), (p), NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT))
#define NKI_SYS_bind(s, a, n) (NKI_FAIL(bind) ? -1 : bind((s), (a), (n)))
#define NKI_SYS_listen(s, n) (NKI_FAIL(listen) ? -1 : listen((s), (n)))
#define NKI_SYS_connect(s, a, n) (NKI_FAIL(connect) ? -1 : connect((s), (a), (n)))
#define NKI_SYS_connect_ex(call, s, a, n, overlapped) \
    (NKI_FAIL(connect) ? FALSE : (call)((s), (a), (n), NULL, 0, NULL, (overlapped)))
#define NKI_SYS_accept(s, a, n) (NKI_FAIL(accept) ? INVALID_SOCKET : accept((s), (a), (n)))
#define NKI_SYS_recv(s, b, n, f) \
    (NKI_FAIL(recv) ? -1 : recv((s), (char *)(b), (int)NKI_CLIP(recv, n), (f)))
#define NKI_SYS_send(s, b, n, f) \
    (NKI_FAIL(send) ? -1 : send((s), (const char *)(b), (int)NKI_CLIP(send, n), (f)))
/* Gathered and scattered; the callers ask NKI_CLIP for their total, as those of sendmsg do. */
#define NKI_SYS_sendv(s, bufs, count, sent) \
    (NKI_FAIL(sendmsg) ? -1 : WSASend((s), (bufs), (count), (sent), 0, NULL, NULL))
#define NKI_SYS_sendto(s, bufs, count, sent, to, to_len) \
    (NKI_FAIL(sendmsg) ? -1                              \
                       : WSASendTo((s), (bufs), (count), (sent), 0, (to), (to_len), NULL, NULL))
#define NKI_SYS_recvv(s, bufs, count, got, flags) \
    (NKI_FAIL(recvmsg) ? -1 : WSARecv((s), (bufs), (count), (got), (flags), NULL, NULL))
#define NKI_SYS_sendmsg(s, msg, sent) \
    (NKI_FAIL(sendmsg) ? -1 : WSASendMsg((s), (msg), 0, (sent), NULL, NULL))
#define NKI_SYS_recvmsg(call, s, msg, got) \
    (NKI_FAIL(recvmsg) ? -1 : (call)((s), (msg), (got), NULL, NULL))
#define NKI_SYS_shutdown(s, how) (NKI_FAIL(shutdown) ? -1 : shutdown((s), (how)))
#define NKI_SYS_close(s) (closesocket(s) != 0 || NKI_FAIL(close) ? -1 : 0)
#define NKI_SYS_getsockopt(s, l, o, v, n) \
    (NKI_FAIL(getsockopt) ? -1 : getsockopt((s), (l), (o), (char *)(v), (n)))
#define NKI_SYS_setsockopt(s, l, o, v, n) \
    (NKI_FAIL(setsockopt) ? -1 : setsockopt((s), (l), (o), (const char *)(v), (n)))
#define NKI_SYS_getsockname(s, a, n) (NKI_FAIL(getsockname) ? -1 : getsockname((s), (a), (n)))
#define NKI_SYS_getpeername(s, a, n) (NKI_FAIL(getpeername) ? -1 : getpeername((s), (a), (n)))
#define NKI_SYS_ioctl(s, code, value) (NKI_FAIL(ioctl) ? -1 : ioctlsocket((s), (code), (value)))
#define NKI_SYS_control(s, code, in, in_size, out, out_size, got) \
    (NKI_FAIL(control)                                            \
         ? -1                                                     \
         : WSAIoctl((s), (code), (in), (in_size), (out), (out_size), (got), NULL, NULL))
/* A function of the socket's provider, by its number. */
#define NKI_SYS_extension(s, guid, call, size, got)                                  \
    (NKI_FAIL(extension) ? -1                                                        \
                         : WSAIoctl((s), SIO_GET_EXTENSION_FUNCTION_POINTER, (guid), \
                                    (DWORD)sizeof *(guid), (call), (size), (got), NULL, NULL))
#define NKI_SYS_select(r, w, x, time) (NKI_FAIL(poll) ? -1 : select(0, (r), (w), (x), (time)))
#define NKI_SYS_poll(p, n, ms) (NKI_FAIL(poll) ? -1 : WSAPoll((p), (n), (ms)))

/* Handles. */
#define NKI_SYS_close_handle(h) CloseHandle(h)
#define NKI_SYS_set_handle(h, mask, flags) \
    (NKI_FAIL(set_handle) ? FALSE : SetHandleInformation((h), (mask), (flags)))
#define NKI_SYS_get_handle(h, flags) \
    (NKI_FAIL(get_handle) ? FALSE : GetHandleInformation((h), (flags)))
#define NKI_SYS_dup(h, out)                                                                   \
    (NKI_FAIL(dup) ? FALSE                                                                    \
                   : DuplicateHandle(GetCurrentProcess(), (h), GetCurrentProcess(), (out), 0, \
                                     FALSE, DUPLICATE_SAME_ACCESS))
#define NKI_SYS_file_type(h) (NKI_FAIL(file_type) ? (DWORD)FILE_TYPE_UNKNOWN : GetFileType(h))
#define NKI_SYS_pread(h, b, n, got, at) \
    (NKI_FAIL(pread) ? FALSE : ReadFile((h), (b), (DWORD)NKI_CLIP(pread, n), (got), (at)))
#define NKI_SYS_pread_result(h, at, got) GetOverlappedResult((h), (at), (got), TRUE)
#define NKI_SYS_seek(h, to, out, from) \
    (NKI_FAIL(seek) ? FALSE : SetFilePointerEx((h), (to), (out), (from)))
#define NKI_SYS_reopen(h)                             \
    (NKI_FAIL(reopen) ? INVALID_HANDLE_VALUE          \
                      : ReOpenFile((h), GENERIC_READ, \
                                   FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, 0))
#define NKI_SYS_open(path, access, flags)                                                        \
    (NKI_FAIL(open)                                                                              \
         ? INVALID_HANDLE_VALUE                                                                  \
         : CreateFileW((path), (access), FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, \
                       NULL, OPEN_EXISTING, (flags), NULL))
#define NKI_SYS_file_id(h, out) (NKI_FAIL(file_id) ? FALSE : GetFileInformationByHandle((h), (out)))
#define NKI_SYS_file_tag(h, out) \
    (NKI_FAIL(file_tag)          \
         ? FALSE                 \
         : GetFileInformationByHandleEx((h), FileAttributeTagInfo, (out), (DWORD)sizeof *(out)))
#define NKI_SYS_unlink(path) (NKI_FAIL(unlink) ? FALSE : DeleteFileW(path))

/* Events, for the few calls that are waited for. */
#define NKI_SYS_event() (NKI_FAIL(event) ? NULL : CreateEventW(NULL, TRUE, FALSE, NULL))
#define NKI_SYS_wait_handle(h, ms) \
    (NKI_FAIL(wait_handle) ? WAIT_FAILED : WaitForSingleObject((h), (ms)))
#define NKI_SYS_cancel(h, overlapped) CancelIoEx((h), (overlapped))
#define NKI_SYS_result(s, overlapped, got, wait, flags) \
    WSAGetOverlappedResult((s), (overlapped), (got), (wait), (flags))

/* The system. */
#define NKI_SYS_clock(out) (NKI_FAIL(clock_gettime) ? FALSE : QueryPerformanceCounter(out))
#define NKI_SYS_clock_rate(out) QueryPerformanceFrequency(out)
#define NKI_SYS_getrandom(b, n) (NKI_FAIL(getrandom) ? FALSE : RtlGenRandom((b), (n)))
#define NKI_SYS_thread_id() GetCurrentThreadId()
#define NKI_SYS_temp_folder(out, n) (NKI_FAIL(temp_folder) ? 0u : GetTempPathW((n), (out)))
#define NKI_SYS_getpid() ((int)GetCurrentProcessId())
#define NKI_SYS_library(name) \
    (NKI_FAIL(library) ? NULL : LoadLibraryExW((name), NULL, LOAD_LIBRARY_SEARCH_SYSTEM32))
#define NKI_SYS_free_library(library) FreeLibrary(library)
#define NKI_SYS_symbol(library, name) GetProcAddress((library), (name))
#define NKI_SYS_if_nametoindex(call, name) (NKI_FAIL(if_nametoindex) ? 0u : (call)(name))

/* ---- completion ports and the device of Winsock's driver --------------------- */

#define NKI_SYS_port_create() \
    (NKI_FAIL(port_create) ? NULL : CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0))
#define NKI_SYS_port_add(port, h, key) \
    (NKI_FAIL(port_add) ? NULL : CreateIoCompletionPort((h), (port), (key), 0))
#define NKI_SYS_port_wait(port, entries, most, count, ms) \
    (NKI_FAIL(port_wait)                                  \
         ? FALSE                                          \
         : GetQueuedCompletionStatusEx((port), (entries), (most), (count), (ms), FALSE))
/* The last resort of who closes a port is not failed, as little as closing is. */
#define NKI_SYS_port_drain(port, entries, most, count, ms) \
    GetQueuedCompletionStatusEx((port), (entries), (most), (count), (ms), FALSE)
#define NKI_SYS_port_post(port, key, overlapped) \
    (NKI_FAIL(port_post) ? FALSE : PostQueuedCompletionStatus((port), 0, (key), (overlapped)))
#define NKI_SYS_port_modes(h, modes) \
    (NKI_FAIL(port_modes) ? FALSE : SetFileCompletionNotificationModes((h), (modes)))

/* Of ntdll, which every process has: NKI_SYS_ntdll(name) is a FARPROC or NULL. They return an
 * NTSTATUS; one that is failed by a test has the test's code in it, as those of facility 1 have. */
#define NKI_NT_FAILED() ((LONG)(0xC0010000u | (GetLastError() & 0xFFFFu)))
#define NKI_SYS_ntdll(name) \
    (NKI_FAIL(ntdll) ? NULL : GetProcAddress(GetModuleHandleW(L"ntdll.dll"), (name)))
#define NKI_SYS_nt_open(call, out, access, attributes, status, share, how) \
    (NKI_FAIL(nt_open)                                                     \
         ? NKI_NT_FAILED()                                                 \
         : (call)((out), (access), (attributes), (status), NULL, 0, (share), (how), 0, NULL, 0))
#define NKI_SYS_nt_control(call, h, context, status, code, in, in_size, out, out_size)            \
    (NKI_FAIL(nt_control) ? NKI_NT_FAILED()                                                       \
                          : (call)((h), NULL, NULL, (context), (status), (code), (in), (in_size), \
                                   (out), (out_size)))
#define NKI_SYS_nt_cancel(call, h, which, status) \
    (NKI_FAIL(nt_cancel) ? NKI_NT_FAILED() : (call)((h), (which), (status)))

#endif /* NKI_WINDOWS */
