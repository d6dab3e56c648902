/* What the servers of files need of a system: Windows. files_posix.h is the same for POSIX.
 * Names are in the system's code page. */
#include <winsock2.h>
#include <windows.h>

#include <stdint.h>
#include <string.h>

enum {
    FILES_PATH = 4096
};

typedef enum files_code {
    FILES_OK,
    FILES_ABSENT,
    FILES_REFUSED,
    FILES_FOLDER,
    FILES_BUSY, /* no handle or memory now */
    FILES_TROUBLE
} files_code;

static files_code files_code_of(DWORD error) {
    switch (error) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_FILENAME_EXCED_RANGE: return FILES_ABSENT;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION: return FILES_REFUSED;
    case ERROR_TOO_MANY_OPEN_FILES:
    case ERROR_NOT_ENOUGH_MEMORY: return FILES_BUSY;
    default: return FILES_TROUBLE;
    }
}

/* Can this be a name in a path? Backslashes are no part of one, nor are drives and streams. */
static inline bool files_is_name(const char *name) {
    return strpbrk(name, "\\:*?\"<>|") == NULL;
}

/* Others may use what is open, and take it away. */
static HANDLE files_handle(const char *path, DWORD access, DWORD flags) {
    return CreateFileA(path, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                       OPEN_EXISTING, flags, NULL);
}

/* Where a path leads, without links in it, with slashes. */
static inline files_code files_resolve(const char *path, char real[FILES_PATH]) {
    HANDLE h = files_handle(path, 0, FILE_FLAG_BACKUP_SEMANTICS);
    if (h == INVALID_HANDLE_VALUE) {
        return files_code_of(GetLastError());
    }
    DWORD len = GetFinalPathNameByHandleA(h, real, FILES_PATH, FILE_NAME_NORMALIZED);
    files_code code = len == 0 ? files_code_of(GetLastError()) : FILES_OK;
    CloseHandle(h);
    if (code != FILES_OK || len >= FILES_PATH) {
        return code != FILES_OK ? code : FILES_ABSENT;
    }
    if (strncmp(real, "\\\\?\\", 4) == 0) {
        memmove(real, real + 4, len + 1 - 4);
    }
    for (char *at = real; *at; at++) {
        *at = *at == '\\' ? '/' : *at;
    }
    return FILES_OK;
}

static inline bool files_is_folder(const char *path) {
    DWORD attributes = GetFileAttributesA(path);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
}

/* A plain file; what else there is under the name is refused, and so is a link. */
static files_code files_open(const char *path, uintptr_t *file, uint64_t *size) {
    BY_HANDLE_FILE_INFORMATION info;
    HANDLE h =
        files_handle(path, GENERIC_READ, FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT);
    if (h == INVALID_HANDLE_VALUE) {
        return files_code_of(GetLastError());
    }
    files_code code = FILES_OK;
    if (GetFileType(h) != FILE_TYPE_DISK || !GetFileInformationByHandle(h, &info) ||
        (info.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0) {
        code = FILES_REFUSED;
    } else if ((info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0) {
        code = FILES_FOLDER;
    }
    if (code != FILES_OK) {
        CloseHandle(h);
        return code;
    }
    *file = (uintptr_t)h;
    *size = ((uint64_t)info.nFileSizeHigh << 32) | info.nFileSizeLow;
    return FILES_OK;
}

/* The folder that files_open_in's names are of. */
static char files_folder[FILES_PATH];

static inline files_code files_enter(const char *folder) {
    files_code code = files_resolve(folder, files_folder);
    return code != FILES_OK || files_is_folder(files_folder) ? code : FILES_ABSENT;
}

static inline files_code files_open_in(const char *name, uintptr_t *file, uint64_t *size) {
    char path[FILES_PATH];
    size_t folder_len = strlen(files_folder), len = strlen(name);
    if (folder_len + len + 2 > sizeof path) {
        return FILES_ABSENT;
    }
    memcpy(path, files_folder, folder_len);
    path[folder_len] = '/';
    memcpy(path + folder_len + 1, name, len + 1);
    return files_open(path, file, size);
}

/* The bytes read, 0 at the end, -1. */
static inline int files_read(uintptr_t file, void *data, int len, uint64_t offset) {
    OVERLAPPED at;
    DWORD got = 0;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)offset;
    at.OffsetHigh = (DWORD)(offset >> 32);
    if (!ReadFile((HANDLE)file, data, (DWORD)len, &got, &at)) {
        return GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
    }
    return (int)got;
}

static inline void files_close(uintptr_t file) {
    CloseHandle((HANDLE)file);
}
