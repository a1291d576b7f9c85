/* What the fuzz targets share. A target is one file NAME_fuzz.c with LLVMFuzzerTestOneInput; built
 * with SS_FUZZ it is linked with libFuzzer's or AFL++'s main, else with replay_main.c, which feeds
 * it the corpus.
 *
 * A target holds the code under test to its contract, and stops by abort() where it is broken: then
 * a fuzzer keeps the input. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "sidespool/bytes.h"
#include "sidespool/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_broken(__FILE__, __LINE__, #condition, NULL);                                     \
    } while (0)
/* The same, with words that help to find out why. */
#define FUZZ_CHECK_SAY(condition, words)                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_broken(__FILE__, __LINE__, #condition, (words));                                  \
    } while (0)
#define FUZZ_NEVER(words) fuzz_broken(__FILE__, __LINE__, "never here", (words))
_Noreturn void fuzz_broken(const char *file, int line, const char *condition, const char *words);

/* What every failure owes its caller: a code of the catalogue and one sentence that can go into a
 * log line, a terminal and JSON. For SS_OK nothing is asked. */
void fuzz_check_error(ss_status status, const ss_error *err);
bool fuzz_is_utf8(ss_bytes text);

/* The input is eaten from the front; past its end come zeros. */
typedef struct {
    ss_bytes rest;
} fuzz_input;
uint8_t fuzz_u8(fuzz_input *in);
uint16_t fuzz_u16(fuzz_input *in); /* big-endian */
ss_bytes fuzz_bytes(fuzz_input *in, size_t most);

/* A copy in a block of exactly this size, so that a sanitizer sees each byte read beyond it. The
 * caller frees ptr. */
uint8_t *fuzz_exact(ss_bytes bytes);

#endif
