/* Order-free digests for verify: equal rows digest equally on both sides, whatever order the
 * databases return them in. Sums, not XOR: two equal rows would cancel each other out. */
#include "sidespool/source.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

/* Hash of the key's cells as they stand in the row, their lengths included, so that ("a","bc") and
 * ("ab","c") differ. */
static uint64_t key_hash(ss_bytes cells, const bool *is_key, uint32_t columns, bool *ret_any) {
    const uint8_t *from = NULL;
    const uint8_t *to = NULL;
    bool spread = false;
    ss_bytes rest = cells;
    XXH3_state_t state;

    *ret_any = false;
    for (uint32_t i = 0; i < columns; i++) {
        const uint8_t *start = rest.ptr;
        bool null, bad;
        ss_bytes value;
        if (!ss_cells_get(&rest, &null, &value, &bad))
            break;
        if (is_key == NULL || !is_key[i])
            continue;
        *ret_any = true;
        if (from != NULL && start != to) {
            /* Not one span: what was gathered goes into a running hash, which equals the hash of
             * the whole. */
            if (!spread)
                XXH3_64bits_reset(&state);
            spread = true;
            XXH3_64bits_update(&state, from, (size_t)(to - from));
            from = NULL;
        }
        if (from == NULL)
            from = start;
        to = rest.ptr;
    }
    if (from == NULL)
        return 0;
    if (!spread)
        return XXH3_64bits(from, (size_t)(to - from));
    XXH3_64bits_update(&state, from, (size_t)(to - from));
    return XXH3_64bits_digest(&state);
}

void ss_digest_row_hash(ss_bytes cells, const bool *is_key, uint32_t columns, ss_digest_row *ret) {
    XXH128_hash_t row = XXH3_128bits(cells.ptr, cells.len);
    bool any;
    uint64_t key = key_hash(cells, is_key, columns, &any);

    *ret = (ss_digest_row){
        .key_hash = any ? key : row.low64, .row_lo = row.low64, .row_hi = row.high64, .key = NULL};
}

void ss_digest_add(ss_digest_bucket *buckets, const ss_digest_row *row) {
    ss_digest_bucket *bucket = &buckets[row->key_hash % SS_DIGEST_BUCKETS];
    uint64_t lo = bucket->sum_lo + row->row_lo;

    bucket->sum_hi += row->row_hi + (lo < row->row_lo);
    bucket->sum_lo = lo;
    bucket->rows++;
}
