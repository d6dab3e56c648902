/* http_server: the files of a folder over HTTP/1.1.
 *
 *     cc -O2 -o http_server examples/http_server.c
 *     ./http_server --listen 127.0.0.1:8080 FOLDER  then: curl http://127.0.0.1:8080/
 *
 * GET and HEAD, keep-alive, pipelining, index.html. What a server on the open
 * net needs and this one shows: nothing outside the folder is served (the path
 * is decoded, then resolved, then compared); a head has a limit of size and of
 * time; what is ambiguous about the length of a request is refused (RFC 9112,
 * section 6); no byte of a request is ever copied into a response's head; a big
 * file is read in pieces as the peer takes them, so that a thousand slow
 * readers cost no more memory than their queues. The system's part is in
 * files_posix.h and files_windows.h. */
#define NETKIT_IMPLEMENTATION
#include "../netkit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#if defined(_WIN32)
#include "files_windows.h"
#else
#include "files_posix.h"
#endif

enum {
    HEAD_MAX = 8192,       /* bytes of a request's head */
    TARGET_MAX = 2048,     /* bytes of what is asked for */
    BODY_MAX = 1 << 20,    /* bytes behind a head that we skip, as GET takes no body */
    HEAD_TIME_MS = 15000,  /* for a whole head to come: slow ones end here */
    STALL_TIME_MS = 30000, /* without a byte either way, also in the middle of a file */
    RATE_MIN = 4,          /* bytes of a file each ms, on the average: slower readers end */
    PIECE = 65536,         /* bytes of a file read at a time */
    SHARE = 4              /* pieces one conn may have before others get their turn */
};

static const char *address = "127.0.0.1:8080";
static int backend = NETKIT_BACKEND_AUTO;
static char root[FILES_PATH]; /* as it is, without links */
static netkit_loop *volatile running;

/* Lives in each conn's ext memory. */
typedef struct client {
    netkit_conn conn;
    uintptr_t file;        /* valid while is_sending */
    uint64_t offset, left; /* of the file */
    size_t skip;           /* bytes of a body to pass over */
    bool is_sending, is_last;
} client;

typedef struct request {
    char path[TARGET_MAX + 16]; /* decoded, "/..." */
    size_t body;
    bool is_head, is_http10, keep_alive;
    int hosts, lengths, encodings; /* how many of each header */
} request;

/* ---- reading a request (pure: bytes in, a status out) ----------------------- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool is_token(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c <= ' ' || c >= 127 || strchr("\"(),/:;<=>?@[\\]{}", c)) {
            return false;
        }
    }
    return len > 0;
}

/* Decode the target into a path; 0 or the status to refuse it with. */
static int read_target(request *req, const char *at, size_t len) {
    size_t n = 0;
    if (len > 7 && !strncasecmp(at, "http://", 7)) { /* absolute form: RFC 9112, 3.2.2 */
        for (at += 7, len -= 7; len > 0 && *at != '/'; at++, len--) {
        }
        at = len > 0 ? at : "/";
        len = len > 0 ? len : 1;
    }
    if (len > TARGET_MAX) {
        return 414;
    }
    if (len == 0 || *at != '/') {
        return 400;
    }
    bool is_query = false;
    for (size_t i = 0; i < len; i++) {
        char c = at[i];
        is_query = is_query || c == '?';
        if (c <= ' ' || c == 127) {
            return 400;
        }
        if (c == '%' && !is_query) {
            int high = i + 2 < len ? hex_digit(at[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(at[i + 2]) : -1;
            if (high < 0 || low < 0 || high + low == 0) {
                return 400; /* not hex, or a NUL, which would end the path early */
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (!is_query) {
            req->path[n++] = c;
        }
    }
    req->path[n] = '\0';
    for (const char *dots = req->path; (dots = strstr(dots, "/..")) != NULL; dots += 3) {
        if (dots[3] == '/' || dots[3] == '\0') {
            return 403; /* however it was encoded */
        }
    }
    return 0;
}

static int read_request_line(request *req, const char *line, size_t len) {
    const char *target = (const char *)memchr(line, ' ', len);
    size_t method_len = target ? (size_t)(target - line) : 0;
    const char *version = len > 9 ? line + len - 9 : line; /* " HTTP/1.1" */
    if (!target || !is_token(line, method_len) || version <= target ||
        memcmp(version, " HTTP/", 6) != 0 || version[7] != '.' || version[8] < '0' ||
        version[8] > '9') {
        return 400;
    }
    if (version[6] != '1') {
        return 505;
    }
    req->is_http10 = version[8] == '0';
    req->keep_alive = !req->is_http10;
    req->is_head = method_len == 4 && !memcmp(line, "HEAD", 4);
    if (!req->is_head && !(method_len == 3 && !memcmp(line, "GET", 3))) {
        return 405;
    }
    return read_target(req, target + 1, (size_t)(version - target) - 1);
}

/* Whether a list ("close, TE") names `token`. */
static bool list_has(const char *list, size_t len, const char *token) {
    size_t token_len = strlen(token);
    while (len > 0) {
        const char *comma = (const char *)memchr(list, ',', len);
        size_t item = comma ? (size_t)(comma - list) : len, next = item + (comma != NULL);
        size_t a = 0, b = item;
        while (a < b && (list[a] == ' ' || list[a] == '\t')) {
            a++;
        }
        while (b > a && (list[b - 1] == ' ' || list[b - 1] == '\t')) {
            b--;
        }
        if (b - a == token_len && !strncasecmp(list + a, token, token_len)) {
            return true;
        }
        list += next;
        len -= next;
    }
    return false;
}

static int read_header(request *req, const char *line, size_t len) {
    const char *colon = (const char *)memchr(line, ':', len);
    size_t name_len = colon ? (size_t)(colon - line) : 0;
    if (!colon || !is_token(line, name_len)) {
        return 400; /* also a folded line and a blank before the colon: RFC 9112, 5 */
    }
    const char *value = colon + 1;
    size_t value_len = len - name_len - 1;
    for (; value_len > 0 && (*value == ' ' || *value == '\t'); value++, value_len--) {
    }
    for (; value_len > 0 && strchr(" \t", value[value_len - 1]); value_len--) {
    }
    if (name_len == 4 && !strncasecmp(line, "Host", 4)) {
        req->hosts++;
    } else if (name_len == 17 && !strncasecmp(line, "Transfer-Encoding", 17)) {
        req->encodings++;
    } else if (name_len == 10 && !strncasecmp(line, "Connection", 10)) {
        if (list_has(value, value_len, "close")) {
            req->keep_alive = false;
        } else if (req->is_http10 && list_has(value, value_len, "keep-alive")) {
            req->keep_alive = true;
        }
    } else if (name_len == 14 && !strncasecmp(line, "Content-Length", 14)) {
        req->lengths++;
        req->body = 0;
        for (size_t i = 0; i < value_len; i++) {
            if (value[i] < '0' || value[i] > '9') {
                return 400;
            }
            req->body =
                req->body > BODY_MAX ? req->body : req->body * 10 + (size_t)(value[i] - '0');
        }
        return value_len == 0 ? 400 : 0;
    }
    return 0;
}

/* Read a whole head, which ends in an empty line; 0 or the status to refuse it
 * with. A refusal that leaves the length of the request in doubt ends the conn. */
static int read_head(request *req, const char *head, size_t len) {
    int first_error = 0, is_first = 1;
    memset(req, 0, sizeof *req);
    for (const char *at = head, *end; at < head + len; at = end + 2, is_first = 0) {
        end = (const char *)memchr(at, '\r', (size_t)(head + len - at));
        if (!end || end[1] != '\n' || memchr(at, '\n', (size_t)(end - at)) ||
            memchr(at, '\0', (size_t)(end - at))) {
            req->keep_alive = false;
            return 400;
        }
        if (end == at) {
            break;
        }
        int status = is_first ? read_request_line(req, at, (size_t)(end - at))
                              : read_header(req, at, (size_t)(end - at));
        if (status == 400 || status == 505) {
            req->keep_alive = false;
            return status;
        }
        first_error = first_error ? first_error : status;
    }
    if (req->lengths > 1 || req->hosts > 1 || (req->hosts == 0 && !req->is_http10) ||
        req->encodings > 0 || req->body > BODY_MAX) {
        req->keep_alive = false;
        return req->encodings && !req->lengths ? 501 : req->body > BODY_MAX ? 413 : 400;
    }
    return first_error;
}

/* Length of the head at the start of `data`, its empty line with it, or 0. */
static size_t head_length(const char *data, size_t len) {
    const char *at = data, *end = data + len;
    while ((at = (const char *)memchr(at, '\n', (size_t)(end - at))) != NULL) {
        at++;
        if (end - at >= 2 && at[0] == '\r' && at[1] == '\n') {
            return (size_t)(at - data) + 2;
        }
    }
    return 0;
}

/* ---- finding the file -------------------------------------------------------- */

static int status_of(files_code code) {
    switch (code) {
    case FILES_OK: return 200;
    case FILES_FOLDER: return 301;
    case FILES_ABSENT: return 404;
    case FILES_REFUSED: return 403;
    case FILES_BUSY: return 503;
    default: return 500;
    }
}

/* Where a path of the request is on the disk; the status is 403 when a symbolic
 * link leads out of the folder. */
static int resolve(const char *path, const char *name, char real[FILES_PATH]) {
    char joined[FILES_PATH + TARGET_MAX + 32];
    size_t root_len = strlen(root);
    snprintf(joined, sizeof joined, "%s%s%s", root, path, name);
    if (!files_is_name(path)) {
        return 404;
    }
    files_code code = files_resolve(joined, real);
    if (code != FILES_OK) {
        return status_of(code);
    }
    if (root_len > 1 &&
        (strncmp(real, root, root_len) != 0 || (real[root_len] != '/' && real[root_len] != '\0'))) {
        return 403;
    }
    return 200;
}

/* Open what a path names; *file and *size are set when the status is 200. */
static int open_file(const char *path, uintptr_t *file, uint64_t *size) {
    char real[FILES_PATH];
    bool is_folder = path[strlen(path) - 1] == '/';
    int status = resolve(path, is_folder ? "index.html" : "", real);
    if (status != 200) {
        return status == 404 && is_folder && resolve(path, "", real) == 200 ? 403 : status;
    }
    return status_of(files_open(real, file, size));
}

static const char *content_type(const char *path) {
    static const char *const types[][2] = {
        {".html", "text/html; charset=utf-8"},
        {".htm", "text/html; charset=utf-8"},
        {".txt", "text/plain; charset=utf-8"},
        {".md", "text/plain; charset=utf-8"},
        {".css", "text/css; charset=utf-8"},
        {".js", "text/javascript; charset=utf-8"},
        {".json", "application/json"},
        {".svg", "image/svg+xml"},
        {".png", "image/png"},
        {".jpg", "image/jpeg"},
        {".jpeg", "image/jpeg"},
        {".gif", "image/gif"},
        {".webp", "image/webp"},
        {".ico", "image/x-icon"},
        {".woff2", "font/woff2"},
        {".wasm", "application/wasm"},
        {".pdf", "application/pdf"},
        {".mp4", "video/mp4"},
    };
    const char *dot = strrchr(path, '.');
    if (path[strlen(path) - 1] == '/') {
        return types[0][1]; /* index.html */
    }
    for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++) {
        if (!strcasecmp(dot, types[i][0])) {
            return types[i][1];
        }
    }
    return "application/octet-stream";
}

/* ---- answering ---------------------------------------------------------------- */

static const char *reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 301: return "Moved Permanently";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Internal Server Error";
    }
}

/* Write a response's head; `more` is whole header lines. */
static int write_head(char *out, size_t size, int status, long long length, const char *type,
                      const request *req, const char *more) {
    char date[64];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    return snprintf(out, size,
                    "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Length: %lld\r\nContent-Type: %s\r\n"
                    "X-Content-Type-Options: nosniff\r\n%s%s\r\n",
                    status, reason(status), date, length, type, more,
                    !req->keep_alive ? "Connection: close\r\n"
                    : req->is_http10 ? "Connection: keep-alive\r\n"
                                     : "");
}

/* "Location: ./name/": relative, so that no path can name another host, and
 * encoded, so that no byte of a name can end the line. */
static void write_location(char *out, size_t size, const char *path) {
    const char *name = strrchr(path, '/') + 1;
    int n = snprintf(out, size, "Location: ./");
    for (; *name; name++) {
        bool is_plain = strchr("-._~", *name) || (*name >= '0' && *name <= '9') ||
                        ((*name | 32) >= 'a' && (*name | 32) <= 'z');
        n += snprintf(out + n, size - (size_t)n, is_plain ? "%c" : "%%%02X", (unsigned char)*name);
    }
    snprintf(out + n, size - (size_t)n, "/\r\n");
}

/* Answer with a status alone. When the queue is full nothing was done. */
static int answer_status(netkit_loop *loop, client *c, const request *req, int status) {
    char body[64], more[3 * TARGET_MAX + 64] = "", head[sizeof more + 512];
    int body_len = snprintf(body, sizeof body, "%d %s\n", status, reason(status));
    if (status == 405) {
        snprintf(more, sizeof more, "Allow: GET, HEAD\r\n");
    } else if (status == 301) {
        write_location(more, sizeof more, req->path);
    }
    int n = write_head(head, sizeof head, status, body_len, "text/plain; charset=utf-8", req, more);
    netkit_span spans[2] = {{head, (size_t)n}, {body, req->is_head ? 0 : (size_t)body_len}};
    return netkit_conn_sendv(loop, c->conn, spans, 2);
}

static int answer(netkit_loop *loop, client *c, const request *req, int status) {
    char head[1024];
    uint64_t size = 0;
    if (status == 0) {
        status = open_file(req->path, &c->file, &size);
    }
    if (status != 200) {
        return answer_status(loop, c, req, status);
    }
    int n = write_head(head, sizeof head, 200, (long long)size, content_type(req->path), req, "");
    int code = netkit_conn_send(loop, c->conn, head, (size_t)n);
    if (code != NETKIT_OK || req->is_head) {
        files_close(c->file);
        return code;
    }
    c->is_sending = true;
    c->offset = 0;
    c->left = size;
    return NETKIT_OK;
}

/* Send pieces of the file until it ends, or the queue is full, or the conn has
 * had its share of this turn: in both cases on_drain goes on. */
static void send_file(netkit_loop *loop, client *c) {
    char piece[PIECE];
    int code = NETKIT_OK;
    for (int share = 0; c->left > 0; share++) {
        if (share == SHARE) {
            code = netkit_conn_want_drain(loop, c->conn, PIECE);
            break;
        }
        int want = c->left < PIECE ? (int)c->left : PIECE;
        int n = files_read(c->file, piece, want, c->offset);
        code = n > 0 ? netkit_conn_send(loop, c->conn, piece, (size_t)n) : NETKIT_E_TRUNCATED;
        if (code != NETKIT_OK) {
            break;
        }
        c->offset += (uint64_t)n;
        c->left -= (uint64_t)n;
    }
    if (code != NETKIT_OK && code != NETKIT_E_FULL) {
        netkit_conn_abort(loop, c->conn); /* the length we promised cannot be kept */
    } else if (c->left == 0) {
        files_close(c->file);
        c->is_sending = false;
    }
}

/* One request from the front of what has come: the bytes used, 0 to wait. */
static size_t serve(netkit_loop *loop, client *c, const char *data, size_t len) {
    request req;
    int status;
    size_t used = head_length(data, len);
    if (used == 0 && len < HEAD_MAX) {
        return 0;
    }
    if (used == 0 || used > HEAD_MAX) {
        memset(&req, 0, sizeof req); /* and so no keep-alive */
        status = memchr(data, '\n', HEAD_MAX) ? 431 : 414;
        used = len;
    } else {
        status = read_head(&req, data, used);
    }
    if (answer(loop, c, &req, status) != NETKIT_OK) {
        return 0; /* the queue is full: the same bytes come again after a drain */
    }
    c->skip = req.body;
    c->is_last = !req.keep_alive;
    if (c->is_sending) {
        send_file(loop, c);
    }
    return used;
}

static uint32_t time_for(uint64_t bytes) {
    uint64_t ms = STALL_TIME_MS + bytes / RATE_MIN;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static size_t on_data(netkit_loop *loop, netkit_conn conn, const void *data, size_t len,
                      void *user) {
    client *c = (client *)netkit_conn_ext(loop, conn);
    const char *bytes = (const char *)data;
    size_t used = 0, step = 1;
    bool has_answered = false;
    (void)user;
    while (used < len && step > 0 && !c->is_sending && !c->is_last) {
        if (c->skip > 0) {
            step = c->skip < len - used ? c->skip : len - used;
            c->skip -= step;
        } else if (len - used >= 2 && !memcmp(bytes + used, "\r\n", 2)) {
            step = 2; /* empty lines before a request: RFC 9112, 2.2 */
        } else {
            step = serve(loop, c, bytes + used, len - used);
            has_answered = has_answered || step > 0;
        }
        used += step;
    }
    if (c->is_sending) {
        netkit_conn_pause(loop, conn); /* the next request waits for the end of the file */
        netkit_conn_set_deadline(loop, conn, time_for(c->left));
    } else if (c->is_last) {
        netkit_conn_close(loop, conn); /* sends what is queued first */
    } else if (has_answered) {
        netkit_conn_set_deadline(loop, conn, HEAD_TIME_MS); /* for the next one, whole */
    }
    return used;
}

static void go_on(netkit_loop *loop, client *c) {
    if (c->is_sending) {
        send_file(loop, c);
    }
    if (!c->is_sending && c->is_last) {
        netkit_conn_close(loop, c->conn);
    } else if (!c->is_sending) {
        netkit_conn_set_deadline(loop, c->conn, HEAD_TIME_MS);
        netkit_conn_resume(loop, c->conn);
    }
}

static void on_drain(netkit_loop *loop, netkit_conn conn, void *user) {
    (void)user;
    go_on(loop, (client *)netkit_conn_ext(loop, conn));
}

static void on_open(netkit_loop *loop, netkit_conn conn, void *user) {
    client *c = (client *)netkit_conn_ext(loop, conn);
    (void)user;
    c->conn = conn;
    netkit_conn_set_deadline(loop, conn, HEAD_TIME_MS);
}

static void on_close(netkit_loop *loop, netkit_conn conn, const netkit_close_info *info,
                     void *user) {
    client *c = (client *)netkit_conn_ext(loop, conn);
    (void)info;
    (void)user;
    if (c->is_sending) {
        files_close(c->file);
    }
}

static void on_error(netkit_loop *loop, netkit_listener listener, int code, int os_code,
                     void *user) {
    (void)loop;
    (void)listener;
    (void)user;
    fprintf(stderr, "http_server: accepting: %s (%d)\n", netkit_error_text(code), os_code);
}

/* ---- the program --------------------------------------------------------------- */

static void on_signal(int number) {
    (void)number;
    if (running) {
        netkit_loop_stop(running);
    }
}

static int refuse(const char *what, const char *why) {
    fprintf(stderr, "http_server: %s: %s\n", what, why);
    return 2;
}

static int option(const char *name, const char *value) {
    if (!value) {
        return refuse(name, "an option that needs a value, or is unknown");
    }
    if (!strcmp(name, "--listen")) {
        address = value;
        return 0;
    }
    if (!strcmp(name, "--backend")) {
        backend = netkit_backend_from_name(value);
        return backend < 0 ? refuse(value, "no such backend") : 0;
    }
    if (!strcmp(name, "--threads")) {
        return strcmp(value, "1") ? refuse(name, "more than 1 is not built yet") : 0;
    }
    if (!strcmp(name, "--tls-cert") || !strcmp(name, "--tls-key")) {
        return refuse(name, "TLS is not built yet");
    }
    return refuse(name, "no such option");
}

/* Options and the folder; the exit code when they are refused. */
static int read_arguments(int argc, char **argv) {
    const char *folder = NULL;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            folder = argv[i];
            continue;
        }
        int refused = option(argv[i], argv[i + 1]); /* argv[argc] is NULL */
        if (refused) {
            return refused;
        }
        i++;
    }
    if (!folder) {
        return refuse("FOLDER", "which one to serve is missing");
    }
    if (files_resolve(folder, root) != FILES_OK || !files_is_folder(root)) {
        return refuse(folder, "not a folder");
    }
    return 0;
}

static int announce(netkit_loop *loop, netkit_listener listener) {
    netkit_addr addr;
    char text[NETKIT_ADDR_TEXT_MAX];
    int code = netkit_listener_local(loop, listener, &addr);
    if (code == NETKIT_OK) {
        code = netkit_addr_format(&addr, text, sizeof text);
    }
    if (code < 0) {
        return code;
    }
    printf("listening on %s (%s)\n", text, netkit_loop_backend(loop, NULL));
    return fflush(stdout) ? NETKIT_E_IO : NETKIT_OK;
}

int main(int argc, char **argv) {
    netkit_loop *loop;
    netkit_listener listener;
    netkit_loop_desc loop_desc = {0};
    netkit_listen_desc desc = {0};
    int refused = read_arguments(argc, argv);
    if (refused) {
        return refused;
    }
    loop_desc.backend = backend;
    desc.address = address;
    desc.conn.ext_size = sizeof(client);
    desc.conn.idle_timeout_ms = STALL_TIME_MS;
    desc.handler.on_open = on_open;
    desc.handler.on_data = on_data;
    desc.handler.on_drain = on_drain;
    desc.handler.on_close = on_close; /* no on_eof: the default closes after the last answer */
    desc.on_error = on_error;

    int code = netkit_loop_create(&loop, &loop_desc);
    if (code != NETKIT_OK) {
        return refuse(netkit_backend_name(backend), netkit_error_text(code));
    }
    running = loop;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    code = netkit_listen(loop, &desc, &listener);
    if (code == NETKIT_OK) {
        code = announce(loop, listener);
    }
    if (code == NETKIT_OK) {
        code = netkit_loop_run(loop);
    }
    running = NULL;
    netkit_loop_destroy(loop);
    if (code != NETKIT_OK) {
        fprintf(stderr, "http_server: %s: %s\n", address, netkit_error_text(code));
        return code == NETKIT_E_INVALID ? 2 : 1;
    }
    return 0;
}
