/* How long to wait before the next try: exponential, with full jitter, so that many processes that
 * lost one server do not come back in step. No global state: each user keeps its own, and a test
 * seeds it. Not thread-safe. */
#ifndef SIDESPOOL_BACKOFF_H
#define SIDESPOOL_BACKOFF_H

#include <stdint.h>

typedef struct {
    uint64_t min_ms, max_ms;
    uint64_t ceiling_ms; /* of the next delay */
    uint64_t prng;
} ss_backoff;

/* min_ms at least 1 (0 is taken as 1), max_ms at least min_ms. seed 0: a random one from the
 * kernel. */
void ss_backoff_init(ss_backoff *backoff, uint64_t min_ms, uint64_t max_ms, uint64_t seed);
/* Milliseconds to wait before the next try: anything from min_ms to a ceiling that doubles with
 * each call, up to max_ms. */
uint64_t ss_backoff_next(ss_backoff *backoff);
/* It worked: the next failure begins at the shortest delay again. */
void ss_backoff_reset(ss_backoff *backoff);

#endif
