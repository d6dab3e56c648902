/* A test's process on POSIX: a child of the runner, in a process group of its own.
 * tests/process_windows.h has the same functions. */

static bool nkt_set_option(const char *name, const char *value) {
    return setenv(name, value, 1) == 0;
}

/* Memory that the runner and its children share. */
static nkt_result *nkt_new_result(void) {
    void *memory =
        mmap(NULL, sizeof(nkt_result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return (nkt_result *)memory;
}

#ifndef NKT_NO_LOOP
/* Does this backend make a loop? Found out in a process of its own: libraries under a backend may
 * start threads, which the processes of the tests would not have. */
static int nkt_try_backend(int number) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        netkit_loop *loop = NULL;
        netkit_loop_desc desc;
        memset(&desc, 0, sizeof(desc));
        desc.backend = number;
        _exit(-netkit_loop_create(&loop, &desc));
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
        return NETKIT_E_IO;
    }
    return -WEXITSTATUS(status);
}
#endif

/* A file without a name for what the test prints. */
static void nkt_open_output(nkt_process *process) {
    char path[128];
    snprintf(path, sizeof(path), "%s/output.XXXXXX", nkt_root);
    process->output = mkstemp(path);
    if (process->output < 0) {
        perror(path);
        exit(2);
    }
    unlink(path);
}

static void nkt_child(const nkt_slot *slot, pid_t runner) {
    setpgid(0, 0);
#if defined(__linux__)
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    if (getppid() != runner) {
        _exit(1);
    }
    dup2(slot->process.output, STDOUT_FILENO);
    dup2(slot->process.output, STDERR_FILENO);
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (int i = 0; i < NKT_JOBS; i++) {
        if (nkt_slots[i].job != NULL && nkt_slots[i].process.output > STDERR_FILENO) {
            close(nkt_slots[i].process.output);
        }
    }
    nkt_now_running = slot->result;
    nkt_run_job(slot->job);
}

static void nkt_process_start(nkt_slot *slot) {
    nkt_process *process = &slot->process;
    pid_t runner = getpid();
    nkt_open_output(process);
    fflush(stdout);
    process->pid = fork();
    if (process->pid < 0) {
        perror("fork");
        exit(2);
    }
    if (process->pid == 0) {
        nkt_child(slot, runner);
    }
    setpgid(process->pid, process->pid);
}

static bool nkt_process_has_ended(nkt_process *process) {
    return waitpid(process->pid, &process->status, WNOHANG) == process->pid;
}

static void nkt_process_kill(nkt_process *process) {
    kill(-process->pid, SIGKILL);
    waitpid(process->pid, &process->status, 0);
}

/* The exit status of one that has ended; -1: it died, `why` says of what. */
static int nkt_process_status(const nkt_process *process, char *why, size_t size) {
    if (WIFSIGNALED(process->status)) {
        snprintf(why, size, "died of signal %d (%s)", WTERMSIG(process->status),
                 strsignal(WTERMSIG(process->status)));
        return -1;
    }
    return WEXITSTATUS(process->status);
}

static void nkt_process_show(const nkt_process *process) {
    char buf[4096];
    ssize_t got;
    off_t at = lseek(process->output, 0, SEEK_END);
    lseek(process->output, at > 65536 ? at - 65536 : 0, SEEK_SET);
    while ((got = read(process->output, buf, sizeof(buf))) > 0) {
        fwrite(buf, 1, (size_t)got, stdout);
    }
}

/* With what the test may have left behind. */
static void nkt_process_forget(nkt_process *process) {
    kill(-process->pid, SIGKILL);
    close(process->output);
}

/* The process of a test is a copy of the runner, which knows what to run. */
static void nkt_process_if_child(void) {}

/* A folder for temporary files, removed with what is in it when the run ends. */
static void nkt_make_root(void) {
    const char *parent = nkt_option("TMPDIR");
    snprintf(nkt_root, sizeof(nkt_root), "%s/nktXXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(nkt_root) == NULL) {
        perror(nkt_root);
        exit(2);
    }
}

static void nkt_remove_root(void) {
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", nkt_root, (char *)NULL);
        _exit(1);
    }
    waitpid(pid, NULL, 0);
}
