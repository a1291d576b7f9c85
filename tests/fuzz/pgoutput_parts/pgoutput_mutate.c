/* A mutator that knows the frame of the target `pgoutput`: a change of one message leaves the others
 * where they are, and whole messages come, go and change places. For libFuzzer
 * (LLVMFuzzerCustomMutator) and for AFL++ (scripts/fuzz builds this file alone as the shared object
 * of AFL_CUSTOM_MUTATOR_LIBRARY); beside it both still mutate bytes as they like. */
#if defined(SS_FUZZ)
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MOST 256
#define HEAD 3 /* how, length */

struct message {
    const uint8_t *at; /* with its head */
    size_t len;
};

static size_t split(const uint8_t *data, size_t size, struct message ret[MESSAGES_MOST]) {
    size_t count = 0;
    for (size_t at = 1; at + HEAD <= size && count < MESSAGES_MOST;) {
        size_t len = HEAD + ((size_t)data[at + 1] << 8 | data[at + 2]);
        if (len > size - at)
            len = size - at;
        ret[count++] = (struct message){data + at, len};
        at += len;
    }
    return count;
}

/* A counter whose bits are well mixed (the finalizer of MurmurHash3): neighbouring seeds give unlike throws. */
static uint32_t dice(uint32_t *seed, size_t sides) {
    uint32_t x = *seed += UINT32_C(0x9E3779B9);
    x = (x ^ x >> 16) * UINT32_C(0x85EBCA6B);
    x = (x ^ x >> 13) * UINT32_C(0xC2B2AE35);
    return (uint32_t)((uint64_t)(x ^ x >> 16) * sides >> 32);
}

/* Messages that a transaction is made of, of the relation 100 (two columns, the first its key). */
static const struct {
    size_t len;
    const char *bytes;
} templates[] = {
#define T(text) {sizeof(text) - 1, text}
    T("B\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\0\1\0\0\0\7"),
    T("C\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x20\x30\0\0\0\0\0\0\0\1"),
    T("C\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x20\x30\0\0\0\0\0\0\0\1"),
    T("R\0\0\0\x64public\0t\0d\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\0v\0\0\0\0\x19\xff\xff\xff\xff"),
    T("R\0\0\0\x64public\0t\0f\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\1v\0\0\0\0\x19\xff\xff\xff\xff"),
    T("R\0\0\0\x0apublic\0t\0d\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\0v\0\0\0\0\x19\xff\xff\xff\xff"),
    T("I\0\0\0\x64N\0\2t\0\0\0\1" "1t\0\0\0\1x"),
    T("U\0\0\0\x64N\0\2t\0\0\0\1" "1u"),
    T("U\0\0\0\x64K\0\2t\0\0\0\1" "1nN\0\2t\0\0\0\1" "2u"),
    T("U\0\0\0\x64O\0\2t\0\0\0\1" "1nN\0\2t\0\0\0\1" "2u"),
    T("D\0\0\0\x64K\0\2t\0\0\0\1" "1n"),
    T("D\0\0\0\x64O\0\2t\0\0\0\1" "1t\0\0\0\1x"),
    T("T\0\0\0\1\3\0\0\0\x64"),
    T("Y\0\0\x40\0public\0mood\0"),
    T("O\0\0\0\0\0\0\0\1origin\0"),
    T("M\1\0\0\0\0\0\0\0\1prefix\0\0\0\0\1x"),
    T("S\0\0\0\7\1"), /* of protocol 2 and later: refused */
    T("k\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\1\1"),
#undef T
};
#define TEMPLATES (sizeof templates / sizeof *templates)

static size_t put(uint8_t *out, size_t at, size_t most, const uint8_t *bytes, size_t len) {
    if (len > most - at)
        return at;
    memcpy(out + at, bytes, len);
    return at + len;
}

static size_t put_template(uint8_t *out, size_t at, size_t most, uint32_t *seed) {
    static const uint8_t hows[] = {0, 0, 0, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 192};
    size_t i = dice(seed, TEMPLATES);
    uint8_t message[HEAD + 128];
    message[0] = (uint8_t)(hows[dice(seed, sizeof hows)] | (templates[i].bytes[0] == 'k'));
    message[1] = 0;
    message[2] = (uint8_t)templates[i].len;
    memcpy(message + HEAD, templates[i].bytes, templates[i].len);
    return put(out, at, most, message, HEAD + templates[i].len);
}

typedef size_t (*mutate_bytes)(uint8_t *data, size_t size, size_t most);

/* One message with its body changed by `bytes`, and its length set anew. */
static size_t put_changed(uint8_t *out, size_t at, size_t most, const struct message *message,
                          mutate_bytes bytes, uint32_t *seed) {
    size_t room = most - at, len = message->len - HEAD;
    if (message->len > room)
        return at;
    memcpy(out + at, message->at, message->len);
    if (dice(seed, 8) == 0) {
        out[at] = (uint8_t)dice(seed, 256);
        return at + message->len;
    }
    size_t grown = len + 32 < room - HEAD ? len + 32 : room - HEAD;
    if (grown > 0 && grown >= len)
        len = bytes(out + at + HEAD, len, grown < 0xFFFF ? grown : 0xFFFF);
    out[at + 1] = (uint8_t)(len >> 8);
    out[at + 2] = (uint8_t)len;
    return at + HEAD + len;
}

static size_t mutate(const uint8_t *data, size_t size, uint8_t *out, size_t most,
                     mutate_bytes bytes, uint32_t seed) {
    struct message messages[MESSAGES_MOST];
    size_t count = split(data, size, messages);
    size_t spot = dice(&seed, count + 1), other = dice(&seed, count + 1);
    uint32_t what = dice(&seed, 8);
    size_t at = 1;
    if (most < 1 + HEAD)
        return 0;
    out[0] = size == 0 || dice(&seed, 16) == 0 ? (uint8_t)dice(&seed, 16) : data[0];
    for (size_t i = 0; i <= count; i++) {
        if (i == spot && (what == 0 || count == 0))
            at = put_template(out, at, most, &seed);
        if (i == spot && what == 1 && other < count) /* again, or earlier, or later */
            at = put(out, at, most, messages[other].at, messages[other].len);
        if (i == count || (i == spot && what == 2)) /* gone */
            continue;
        at = i == spot && what > 2 ? put_changed(out, at, most, &messages[i], bytes, &seed)
                                   : put(out, at, most, messages[i].at, messages[i].len);
    }
    return at;
}

#if defined(SS_FUZZ_AFL_MUTATOR)
/* The interface of AFL++'s custom mutators (its docs/custom_mutators.md). */
struct afl_mutator {
    uint32_t seed;
    uint8_t *out;
    size_t cap;
};
void *afl_custom_init(void *afl, unsigned seed);
size_t afl_custom_fuzz(void *data, uint8_t *buf, size_t buf_size, uint8_t **out_buf,
                       uint8_t *add_buf, size_t add_buf_size, size_t max_size);
void afl_custom_deinit(void *data);

static uint32_t byte_seed;

static size_t few_bytes(uint8_t *data, size_t size, size_t most) {
    size_t spot = dice(&byte_seed, size + 1);
    uint32_t what = dice(&byte_seed, 4);
    if (what == 0 && size < most) { /* one more */
        memmove(data + spot + 1, data + spot, size - spot);
        data[spot] = (uint8_t)dice(&byte_seed, 256);
        return size + 1;
    }
    if (spot == size)
        return size;
    if (what == 1) { /* one less */
        memmove(data + spot, data + spot + 1, size - spot - 1);
        return size - 1;
    }
    data[spot] = what == 2 ? (uint8_t)dice(&byte_seed, 256)
                           : data[spot] ^ (uint8_t)(1u << dice(&byte_seed, 8));
    return size;
}

void *afl_custom_init(void *afl, unsigned seed) {
    struct afl_mutator *mutator = calloc(1, sizeof *mutator);
    (void)afl;
    if (mutator != NULL)
        mutator->seed = seed;
    return mutator;
}

size_t afl_custom_fuzz(void *data, uint8_t *buf, size_t buf_size, uint8_t **out_buf,
                       uint8_t *add_buf, size_t add_buf_size, size_t max_size) {
    struct afl_mutator *mutator = data;
    (void)add_buf;
    (void)add_buf_size;
    if (mutator->cap < max_size) {
        uint8_t *more = realloc(mutator->out, max_size);
        if (more == NULL) {
            *out_buf = buf;
            return buf_size;
        }
        mutator->out = more;
        mutator->cap = max_size;
    }
    byte_seed = dice(&mutator->seed, UINT32_MAX); /* apart from what chooses the message */
    *out_buf = mutator->out;
    return mutate(buf, buf_size, mutator->out, max_size, few_bytes,
                  dice(&mutator->seed, UINT32_MAX));
}

void afl_custom_deinit(void *data) {
    struct afl_mutator *mutator = data;
    free(mutator->out);
    free(mutator);
}
#else
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    if (LLVMFuzzerMutate == NULL) /* AFL++'s main: it never asks */
        return size;
    uint8_t *out = malloc(most);
    if (out == NULL || seed % 10 == 0) { /* as if the frame were not known */
        free(out);
        return LLVMFuzzerMutate(data, size, most);
    }
    size_t len = mutate(data, size, out, most, LLVMFuzzerMutate, (uint32_t)seed);
    if (len > 0)
        memcpy(data, out, len);
    free(out);
    return len;
}
#endif
#else
typedef int pgo_no_mutator; /* a file of C holds something */
#endif
