/* The tests' own sandbox: io_uring's calls fail in this process and its children, as they do in
 * containers. NKT_SECCOMP="eperm:all" (eperm, enosys, enomem; setup, enter, register, all) puts
 * the whole run into it. */
#ifndef NKT_SECCOMP_H
#define NKT_SECCOMP_H

#if defined(__linux__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

/* io_uring_setup, enter and register are calls 425 to 427. `what` is SECCOMP_RET_. */
static inline bool nkt_seccomp(uint32_t what, unsigned first, unsigned last) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, last, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, what),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program;
    program.len = sizeof(code) / sizeof(code[0]);
    program.filter = code;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static inline bool nkt_seccomp_named(const char *what) {
    int os_error = strncmp(what, "enosys", 6) == 0   ? ENOSYS
                   : strncmp(what, "enomem", 6) == 0 ? ENOMEM
                                                     : EPERM;
    uint32_t refuse = SECCOMP_RET_ERRNO | (uint32_t)os_error;
    if (strstr(what, ":setup") != NULL) {
        return nkt_seccomp(refuse, 425, 425);
    }
    if (strstr(what, ":enter") != NULL) {
        return nkt_seccomp(refuse, 426, 426);
    }
    return nkt_seccomp(refuse, strstr(what, ":register") != NULL ? 427 : 425, 427);
}
#else
static inline bool nkt_seccomp_named(const char *what) {
    (void)what;
    return false;
}
#endif

#endif /* NKT_SECCOMP_H */
