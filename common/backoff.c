/* Exponential backoff with full jitter. The generator is SplitMix64 (Steele, Lea, Flood 2014): one
 * word of state. */
#include "sidespool/backoff.h"

#include <sys/random.h>
#include <time.h>

static uint64_t next_random(uint64_t *state) {
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void ss_backoff_init(ss_backoff *backoff, uint64_t min_ms, uint64_t max_ms, uint64_t seed) {
    if (seed == 0 && getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        seed = (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 32 ^ (uint64_t)(uintptr_t)backoff;
    }
    backoff->min_ms = min_ms == 0 ? 1 : min_ms;
    backoff->max_ms = max_ms < backoff->min_ms ? backoff->min_ms : max_ms;
    backoff->prng = seed;
    ss_backoff_reset(backoff);
}

uint64_t ss_backoff_next(ss_backoff *backoff) {
    uint64_t span = backoff->ceiling_ms - backoff->min_ms;
    /* The bias of a remainder is far below what a delay in milliseconds can show. */
    uint64_t random = next_random(&backoff->prng);
    uint64_t delay = backoff->min_ms + (span == UINT64_MAX ? random : random % (span + 1));

    backoff->ceiling_ms =
        backoff->ceiling_ms > backoff->max_ms / 2 ? backoff->max_ms : backoff->ceiling_ms * 2;
    return delay;
}

void ss_backoff_reset(ss_backoff *backoff) {
    /* Twice the least, so that the very first delay is spread as well. */
    backoff->ceiling_ms =
        backoff->min_ms > backoff->max_ms / 2 ? backoff->max_ms : backoff->min_ms * 2;
}
