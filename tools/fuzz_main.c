/* A driver for the targets of tests/fuzz where libFuzzer is not: replays the files it is given,
 * then feeds COUNT inputs that it makes itself: random bytes, and mutations of those files.
 *
 *     cc -I. -o build/fuzz_addr tests/fuzz/addr.c tools/fuzz_main.c
 *     build/fuzz_addr [COUNT [SEED [FILE...]]] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    INPUT_MAX = 4096,
    FILES_MAX = 4096
};

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

static input files[FILES_MAX];
static size_t file_count;
static uint64_t state;

static uint64_t next_random(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Each input in a block of its own size, so that a sanitizer sees a read past its end. */
static void feed(const uint8_t *data, size_t size) {
    uint8_t *exact = (uint8_t *)malloc(size > 0 ? size : 1);
    if (exact == NULL) {
        abort();
    }
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void load(const char *path) {
    uint8_t buf[INPUT_MAX];
    FILE *f = fopen(path, "rb");
    size_t size;
    if (f == NULL || file_count == FILES_MAX) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    size = fread(buf, 1, sizeof(buf), f);
    fclose(f);
    files[file_count].data = (uint8_t *)malloc(size > 0 ? size : 1);
    if (files[file_count].data == NULL) {
        abort();
    }
    memcpy(files[file_count].data, buf, size);
    files[file_count++].size = size;
    feed(buf, size);
}

/* Mostly the characters that addresses, heads and numbers are made of. */
static uint8_t random_byte(void) {
    static const char likely[] = "0123456789abcdefABCDEF:.[]%/@-_ ,;=\r\n\t\0\xff\x7f\x80";
    uint64_t r = next_random();
    return r % 4 == 0 ? (uint8_t)(r >> 8) : (uint8_t)likely[(r >> 8) % (sizeof(likely) - 1)];
}

static void mutate(uint8_t *data, size_t *size) {
    size_t at = *size > 0 ? next_random() % *size : 0;
    switch (next_random() % 4) {
    case 0:
        if (*size > 0) {
            data[at] = random_byte();
        }
        break;
    case 1:
        if (*size < INPUT_MAX) {
            memmove(data + at + 1, data + at, *size - at);
            data[at] = random_byte();
            (*size)++;
        }
        break;
    case 2:
        if (*size > 0) {
            memmove(data + at, data + at + 1, *size - at - 1);
            (*size)--;
        }
        break;
    default: *size = at; break;
    }
}

static void feed_one(void) {
    uint8_t data[INPUT_MAX];
    size_t size = 0;
    if (file_count > 0 && next_random() % 4 != 0) {
        const input *from = &files[next_random() % file_count];
        size = from->size;
        memcpy(data, from->data, size);
        for (uint64_t n = 1 + next_random() % 4; n > 0; n--) {
            mutate(data, &size);
        }
    } else {
        size_t max = next_random() % 8 == 0 ? INPUT_MAX : 64;
        for (size = 0; size < next_random() % max; size++) {
            data[size] = random_byte();
        }
    }
    feed(data, size);
}

int main(int argc, char **argv) {
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    state = seed * 0x9e3779b97f4a7c15u | 1;
    for (int i = 3; i < argc; i++) {
        load(argv[i]);
    }
    for (uint64_t i = 0; i < count; i++) {
        feed_one();
    }
    printf("%zu files replayed, %llu inputs made from seed %llu\n", file_count,
           (unsigned long long)count, (unsigned long long)seed);
    for (size_t i = 0; i < file_count; i++) {
        free(files[i].data);
    }
    return 0;
}
