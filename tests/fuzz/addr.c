/* Fuzz target: text to an address, back to text, and again. The input ends where readable
 * memory does.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/addr.c -lpthread */
#define NETKIT_IMPLEMENTATION
#include "netkit.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_expect(bool holds) {
    if (!holds) {
        abort();
    }
}

static const char *fuzz_guarded(const uint8_t *data, size_t *size) {
    enum {
        ROOM = 65536
    }; /* a multiple of every page size */
    static char *memory;
    if (memory == NULL) {
        memory = (char *)mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                              -1, 0);
        fuzz_expect(memory != MAP_FAILED && mprotect(memory + ROOM, ROOM, PROT_NONE) == 0);
    }
    *size = *size < ROOM ? *size : ROOM;
    if (*size > 0) {
        memcpy(memory + ROOM - *size, data, *size);
    }
    return memory + ROOM - *size;
}

/* A zone that is a name counts as interface 7: the pure core asks no system. */
static int fuzz_scan(netkit_addr *out, const char *text, size_t len, size_t *at) {
    static const nki_addr_rules rules = {107, true};
    nki_addr_scanner s;
    int code;
    memset(&s, 0, sizeof(s));
    s.text = text;
    s.len = len;
    code = nki_addr_scan(out, &s, &rules);
    if (code == NETKIT_OK && s.zone_len > 0) {
        out->scope = 7;
    }
    *at = s.at;
    return code;
}

static void fuzz_round_trip(const netkit_addr *addr) {
    char text[NETKIT_ADDR_TEXT_MAX];
    char again[NETKIT_ADDR_TEXT_MAX];
    struct sockaddr_storage sa;
    socklen_t sa_len;
    netkit_addr back;
    size_t at;
    int len = netkit_addr_format(addr, text, sizeof(text));
    fuzz_expect(len > 0 && text[len] == 0);
    fuzz_expect(fuzz_scan(&back, text, (size_t)len, &at) == NETKIT_OK);
    fuzz_expect(netkit_addr_equal(addr, &back) && addr->is_any == back.is_any);
    fuzz_expect(netkit_addr_hash(addr, 1) == netkit_addr_hash(&back, 1));
    fuzz_expect(netkit_addr_format(&back, again, sizeof(again)) == len);
    fuzz_expect(strcmp(text, again) == 0);
    if (nki_sockaddr_from(&sa, &sa_len, addr) == NETKIT_OK && !addr->is_any) {
        nki_sockaddr_to(&back, &sa, sa_len);
        fuzz_expect(netkit_addr_equal(addr, &back));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = fuzz_guarded(data, &size);
    netkit_addr addr;
    size_t at;
    size_t cut_at;
    int code = fuzz_scan(&addr, text, size, &at);
    fuzz_expect(at <= size);
    if (code == NETKIT_OK) {
        fuzz_expect(at == size);
        fuzz_round_trip(&addr);
        return 0;
    }
    fuzz_expect(addr.family == NETKIT_AF_NONE);
    /* What is behind the error does not matter, what is before it is no error. */
    fuzz_expect(fuzz_scan(&addr, text, at, &cut_at) == NETKIT_OK || cut_at == at);
    if (at < size) {
        fuzz_expect(fuzz_scan(&addr, text, at + 1, &cut_at) == code && cut_at == at);
    }
    return 0;
}
