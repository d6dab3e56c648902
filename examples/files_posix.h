/* What the servers of files need of a system: POSIX. files_windows.h is the same for Windows. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FILES_PATH = PATH_MAX
};

typedef enum files_code {
    FILES_OK,
    FILES_ABSENT,
    FILES_REFUSED,
    FILES_FOLDER,
    FILES_BUSY, /* no descriptor or memory now */
    FILES_TROUBLE
} files_code;

static files_code files_code_of(int error) {
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG: return FILES_ABSENT;
    case EACCES:
    case EPERM:
    case ELOOP: return FILES_REFUSED;
    case EMFILE:
    case ENFILE:
    case ENOMEM: return FILES_BUSY;
    default: return FILES_TROUBLE;
    }
}

/* Can this be a name in a path, as far as the system is concerned? */
static inline bool files_is_name(const char *name) {
    (void)name;
    return true;
}

/* Where a path leads, without links in it. */
static inline files_code files_resolve(const char *path, char real[FILES_PATH]) {
    return realpath(path, real) ? FILES_OK : files_code_of(errno);
}

static inline bool files_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* A plain file; what else there is under the name is refused, and so is a link. */
static files_code files_open_at(int folder, const char *path, uintptr_t *file, uint64_t *size) {
    struct stat info;
    /* Without O_NONBLOCK a pipe would hold us in open. */
    int fd = openat(folder, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return files_code_of(errno);
    }
    files_code code = fstat(fd, &info) ? files_code_of(errno) : FILES_OK;
    if (code == FILES_OK && !S_ISREG(info.st_mode)) {
        code = S_ISDIR(info.st_mode) ? FILES_FOLDER : FILES_REFUSED;
    }
    if (code != FILES_OK) {
        close(fd);
        return code;
    }
    *file = (uintptr_t)fd;
    *size = (uint64_t)info.st_size;
    return FILES_OK;
}

static inline files_code files_open(const char *path, uintptr_t *file, uint64_t *size) {
    return files_open_at(AT_FDCWD, path, file, size);
}

/* The folder that files_open_in's names are of, whatever becomes of its own name. */
static int files_folder = -1;

static inline files_code files_enter(const char *folder) {
    files_folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return files_folder >= 0 ? FILES_OK : files_code_of(errno);
}

static inline files_code files_open_in(const char *name, uintptr_t *file, uint64_t *size) {
    return files_open_at(files_folder, name, file, size);
}

/* The bytes read, 0 at the end, -1. */
static inline int files_read(uintptr_t file, void *data, int len, uint64_t offset) {
    return (int)pread((int)file, data, (size_t)len, (off_t)offset);
}

static inline void files_close(uintptr_t file) {
    close((int)file);
}
