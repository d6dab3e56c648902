/* A test's process on Windows: this program again, told by its arguments which test to run and
 * where to put the result, in a job that is ended as a whole.
 * tests/process_posix.h has the same functions. */

static bool nkt_set_option(const char *name, const char *value) {
    return _putenv_s(name, value) == 0;
}

static void nkt_die(const char *what) {
    printf("%s: error %lu\n", what, (unsigned long)GetLastError());
    exit(2);
}

static nkt_result *nkt_map_result(HANDLE mapping) {
    void *memory = MapViewOfFile(mapping, FILE_MAP_ALL_ACCESS, 0, 0, sizeof(nkt_result));
    if (memory == NULL) {
        nkt_die("MapViewOfFile");
    }
    return (nkt_result *)memory;
}

/* Memory that a test's process maps too, by the name of its slot. */
static nkt_result *nkt_new_result(void) {
    static unsigned number;
    char name[64];
    HANDLE mapping;
    snprintf(name, sizeof(name), "nkt_%lu_%u", (unsigned long)GetCurrentProcessId(), number++);
    mapping =
        CreateFileMappingA(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE, 0, sizeof(nkt_result), name);
    if (mapping == NULL) {
        nkt_die("CreateFileMapping");
    }
    return nkt_map_result(mapping);
}

#ifndef NKT_NO_LOOP
/* Does this backend make a loop? */
static int nkt_try_backend(int number) {
    netkit_loop *loop = NULL;
    netkit_loop_desc desc;
    int code;
    memset(&desc, 0, sizeof(desc));
    desc.backend = number;
    code = netkit_loop_create(&loop, &desc);
    if (code == NETKIT_OK) {
        (void)netkit_loop_destroy(loop);
    }
    return code;
}
#endif

/* A file for what the test prints, which the child inherits. */
static void nkt_open_output(nkt_process *process) {
    static unsigned number;
    SECURITY_ATTRIBUTES inherited = {sizeof(inherited), NULL, TRUE};
    char path[160];
    snprintf(path, sizeof(path), "%s\\output%u", nkt_root, number++);
    process->output =
        CreateFileA(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE,
                    &inherited, CREATE_NEW, FILE_FLAG_DELETE_ON_CLOSE, NULL);
    if (process->output == INVALID_HANDLE_VALUE) {
        nkt_die(path);
    }
}

/* Which test, in which mood, and who waits for it. */
static void nkt_command(const nkt_slot *slot, char *buf, size_t size) {
    snprintf(buf, size,
             "\"%s\" NKT_CHILD=nkt_%lu_%d T=%s B=%s NKT_BACKEND=%d SEED=%" PRIu64 " NKT_ROOT=%s",
             nkt_program, (unsigned long)GetCurrentProcessId(), (int)(slot - nkt_slots),
             slot->job->test->name, slot->job->backend.name, slot->job->backend.number,
             nkt_run_seed, nkt_root);
}

/* Once in a thousand times or so a process dies before wine has begun to run it, which is called
 * an internal error. */
static bool nkt_process_create(char *command, STARTUPINFOA *how, PROCESS_INFORMATION *info) {
    for (int i = 0; i < 5; i++) {
        if (CreateProcessA(NULL, command, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, how,
                           info)) {
            return true;
        }
        if (GetLastError() != ERROR_INTERNAL_ERROR) {
            return false;
        }
        Sleep(100);
    }
    return false;
}

static void nkt_process_start(nkt_slot *slot) {
    nkt_process *process = &slot->process;
    PROCESS_INFORMATION info;
    STARTUPINFOA how;
    char command[1024];
    memset(&how, 0, sizeof(how));
    nkt_open_output(process);
    nkt_command(slot, command, sizeof(command));
    how.cb = sizeof(how);
    how.dwFlags = STARTF_USESTDHANDLES;
    how.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    how.hStdOutput = process->output;
    how.hStdError = process->output;
    fflush(stdout);
    /* Two handles, as the C library takes each for one of its numbers alone. */
    (void)DuplicateHandle(GetCurrentProcess(), process->output, GetCurrentProcess(), &how.hStdError,
                          0, TRUE, DUPLICATE_SAME_ACCESS);
    if (!nkt_process_create(command, &how, &info)) {
        nkt_die(command);
    }
    CloseHandle(how.hStdError);
    (void)SetHandleInformation(process->output, HANDLE_FLAG_INHERIT, 0);
    process->job = CreateJobObjectA(NULL, NULL);
    (void)AssignProcessToJobObject(process->job, info.hProcess);
    (void)ResumeThread(info.hThread);
    CloseHandle(info.hThread);
    process->handle = info.hProcess;
}

static bool nkt_process_has_ended(nkt_process *process) {
    return WaitForSingleObject(process->handle, 0) == WAIT_OBJECT_0;
}

static void nkt_process_kill(nkt_process *process) {
    (void)TerminateJobObject(process->job, 1);
    (void)TerminateProcess(process->handle, 1);
    (void)WaitForSingleObject(process->handle, INFINITE);
}

/* The exit status of one that has ended; -1: it died, `why` says of what. */
static int nkt_process_status(const nkt_process *process, char *why, size_t size) {
    DWORD status = 0;
    (void)GetExitCodeProcess(process->handle, &status);
    if (status >= 0x80000000u) {
        snprintf(why, size, "died of exception 0x%08lx", (unsigned long)status);
        return -1;
    }
    return (int)status;
}

static void nkt_process_show(const nkt_process *process) {
    char buf[4096];
    DWORD got = 0;
    LARGE_INTEGER at, zero;
    zero.QuadPart = 0;
    (void)SetFilePointerEx(process->output, zero, &at, FILE_END);
    at.QuadPart = at.QuadPart > 65536 ? at.QuadPart - 65536 : 0;
    (void)SetFilePointerEx(process->output, at, NULL, FILE_BEGIN);
    while (ReadFile(process->output, buf, sizeof(buf), &got, NULL) && got > 0) {
        fwrite(buf, 1, got, stdout);
    }
}

/* With what the test may have left behind. */
static void nkt_process_forget(nkt_process *process) {
    (void)TerminateJobObject(process->job, 1);
    CloseHandle(process->job);
    CloseHandle(process->handle);
    CloseHandle(process->output);
}

/* No window, and no debugger, asks what to do about a crash. */
static LONG WINAPI nkt_on_crash(EXCEPTION_POINTERS *info) {
    printf("exception 0x%08lx at %p\n", (unsigned long)info->ExceptionRecord->ExceptionCode,
           info->ExceptionRecord->ExceptionAddress);
    fflush(NULL);
    (void)TerminateProcess(GetCurrentProcess(), info->ExceptionRecord->ExceptionCode);
    return EXCEPTION_EXECUTE_HANDLER;
}

/* The process of a test: run what the arguments say. */
static void nkt_process_if_child(void) {
    const char *name = nkt_option("NKT_CHILD");
    nkt_job job;
    WSADATA data;
    (void)_setmode(1, _O_BINARY); /* lines end as elsewhere */
    if (name == NULL) {
        return;
    }
    (void)SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    (void)SetUnhandledExceptionFilter(nkt_on_crash);
    setvbuf(stdout, NULL, _IONBF, 0);
    nkt_low_handle = CreateEventA(NULL, TRUE, FALSE, NULL);
    if (WSAStartup(0x0202, &data) != 0) {
        nkt_die("WSAStartup"); /* for the sockets of the tests themselves */
    }
    nkt_now_running = nkt_map_result(OpenFileMappingA(FILE_MAP_ALL_ACCESS, FALSE, name));
    snprintf(nkt_root, sizeof(nkt_root), "%s", nkt_option("NKT_ROOT"));
    memset(&job, 0, sizeof(job));
    for (job.test = nkt_cases; strcmp(job.test->name, nkt_option("T")) != 0;) {
        job.test = job.test->next;
    }
    job.backend.number = (int)nkt_number("NKT_BACKEND", 0);
    job.backend.name = job.backend.number != 0 ? nkt_option("B") : "";
    nkt_run_job(&job);
}

/* A folder for temporary files, removed with what is in it when the run ends. */
static void nkt_make_root(void) {
    char parent[MAX_PATH];
    DWORD len = GetTempPathA(sizeof(parent), parent);
    if (len == 0 || len > sizeof(nkt_root) - 32) {
        nkt_die("GetTempPath");
    }
    for (int i = 0; i < 1000; i++) { /* a run of the same number may have been ended at once */
        snprintf(nkt_root, sizeof(nkt_root), "%snkt%lu_%d", parent,
                 (unsigned long)GetCurrentProcessId(), i);
        if (CreateDirectoryA(nkt_root, NULL)) {
            return;
        }
    }
    nkt_die(nkt_root);
}

static void nkt_remove_folder(const char *path) {
    char inside[MAX_PATH + 300];
    WIN32_FIND_DATAA found;
    HANDLE search;
    snprintf(inside, sizeof(inside), "%s\\*", path);
    search = FindFirstFileA(inside, &found);
    if (search == INVALID_HANDLE_VALUE) {
        return;
    }
    do {
        bool is_folder = (found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
        snprintf(inside, sizeof(inside), "%s\\%s", path, found.cFileName);
        if (is_folder && strcmp(found.cFileName, ".") != 0 && strcmp(found.cFileName, "..") != 0) {
            nkt_remove_folder(inside);
        } else if (!is_folder) {
            (void)DeleteFileA(inside);
        }
    } while (FindNextFileA(search, &found));
    FindClose(search);
    (void)RemoveDirectoryA(path);
}

static void nkt_remove_root(void) {
    nkt_remove_folder(nkt_root);
}
