/* Digests of a table for verify: the same COPY as the copy itself, hashed instead of handed over.
 *
 * The cells are built exactly as CopyRows has them, so that both sides hash the same bytes (proto/digest.c); buckets are
 * sums, so the order in which a database returns its rows does not matter. Memory: one row. Runs in a reader's thread. */
#include "agents/postgres/postgres_copy.h"
#include "sidespool/copytext.h"

#include <stdlib.h>

#define WIDE_ROW_BYTES (8u << 20)
#define KEY_TEXT_BYTES 256u /* of one key column; what follows is cut */

typedef struct {
    const ss_postgres_source_table *table;
    const bool *is_key;
    ss_buf *cells;
    ss_digest_bucket *buckets; /* copy_reader_digest */
    const uint8_t *wanted;     /* copy_reader_digest_rows */
    size_t most, count, cap;
    ss_digest_row *rows;
    ss_arena *arena;
    ss_buf text;
} ss_digesting;

static ss_status no_memory(const ss_postgres_source_table *table, ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to digest table %s", table->place);
}

static ss_status hash_row(ss_digesting *digesting, ss_bytes line, ss_digest_row *ret, ss_error *reterr) {
    ss_buf *cells = digesting->cells;
    uint32_t columns = digesting->table->column_count;
    if (cells->cap > WIDE_ROW_BYTES && line.len < WIDE_ROW_BYTES)
        ss_buf_done(cells);
    ss_buf_clear(cells);
    if (ss_buf_reserve(cells, line.len + 10 * (size_t)columns + 1) == NULL)
        return no_memory(digesting->table, reterr);
    if (!ss_copytext_row_to_cells(line, columns, cells))
        return ss_fail(reterr, SS_STOP, "SS-PG-0105", "a row of table %s is not COPY text of %u columns",
                       digesting->table->place, columns);
    if (cells->bad)
        return no_memory(digesting->table, reterr);
    ss_digest_row_hash(ss_bytes_of(cells->ptr, cells->len), digesting->is_key, columns, ret);
    return SS_OK;
}

static ss_status add_row(void *ctx, ss_bytes line, ss_error *reterr) {
    ss_digesting *digesting = ctx;
    ss_digest_row row;
    ss_status status = hash_row(digesting, line, &row, reterr);
    if (status == SS_OK)
        ss_digest_add(digesting->buckets, &row);
    return status;
}

/* The key's values, for the people who asked which rows differ; "" without a key. */
static const char *key_text(ss_digesting *digesting) {
    ss_bytes rest = ss_bytes_of(digesting->cells->ptr, digesting->cells->len), value;
    bool null = false, bad = false, first = true;
    ss_buf_clear(&digesting->text);
    for (uint32_t i = 0; i < digesting->table->column_count && ss_cells_get(&rest, &null, &value, &bad); i++) {
        if (!digesting->is_key[i])
            continue;
        if (!first)
            ss_buf_put_str(&digesting->text, ", ");
        first = false;
        if (null)
            ss_buf_put_str(&digesting->text, "NULL");
        else
            ss_buf_put(&digesting->text, value.ptr, value.len < KEY_TEXT_BYTES ? value.len : KEY_TEXT_BYTES);
    }
    const char *text = ss_buf_cstr(&digesting->text);
    return digesting->text.bad ? NULL : ss_arena_strndup(digesting->arena, text, digesting->text.len);
}

static ss_status keep_row(void *ctx, ss_bytes line, ss_error *reterr) {
    ss_digesting *digesting = ctx;
    ss_digest_row row;
    ss_status status = hash_row(digesting, line, &row, reterr);
    if (status != SS_OK || !digesting->wanted[row.key_hash % SS_DIGEST_BUCKETS] || digesting->count == digesting->most)
        return status;
    if (digesting->count == digesting->cap) {
        size_t cap = digesting->cap == 0 ? 256 : digesting->cap * 2;
        ss_digest_row *grown = ss_arena_alloc(digesting->arena, cap * sizeof *grown);
        if (grown == NULL)
            return no_memory(digesting->table, reterr);
        if (digesting->count > 0)
            memcpy(grown, digesting->rows, digesting->count * sizeof *grown);
        digesting->rows = grown;
        digesting->cap = cap;
    }
    row.key = key_text(digesting);
    if (row.key == NULL)
        return no_memory(digesting->table, reterr);
    digesting->rows[digesting->count++] = row;
    return SS_OK;
}

/* Which of a row's cells make its key. NULL: no memory. The caller frees. */
static bool *key_cells(const ss_snapshot *snapshot, size_t table) {
    const Sidespool__Schema *schema = snapshot->tables[table].schema;
    bool *is_key = calloc(schema->n_columns + 1, sizeof *is_key);
    size_t cell = 0;
    for (size_t i = 0; is_key != NULL && i < schema->n_columns; i++)
        if (!schema->columns[i]->generated)
            is_key[cell++] = schema->columns[i]->key != 0;
    return is_key;
}

static ss_status digest_table(ss_copy_reader *reader, size_t table, ss_digesting *digesting, ss_postgres_row_fn row,
                              ss_error *reterr) {
    const ss_postgres_source_table *source = &reader->snapshot->sources[table];
    bool *is_key = key_cells(reader->snapshot, table);
    ss_status status = SS_OK;
    digesting->table = source;
    digesting->is_key = is_key;
    digesting->cells = &reader->cells;
    if (is_key == NULL)
        return no_memory(source, reterr);
    for (size_t i = 0; status == SS_OK && i < source->leaf_count; i++) {
        ss_postgres_chunk whole = {.leaf = &source->leaves[i], .by = SS_CHUNK_WHOLE};
        status = ss_postgres_chunk_read(reader, source, &whole, row, NULL, digesting, reterr);
    }
    ss_buf_clear(&reader->cells);
    free(is_key);
    return status;
}

ss_status ss_postgres_copy_reader_digest(ss_copy_reader *reader, size_t table, ss_digest_bucket *buckets,
                                         ss_error *reterr) {
    ss_digesting digesting = {.buckets = buckets};
    return digest_table(reader, table, &digesting, add_row, reterr);
}

ss_status ss_postgres_copy_reader_digest_rows(ss_copy_reader *reader, size_t table, const uint8_t *wanted, size_t most,
                                              ss_arena *arena, ss_digest_row **ret, size_t *ret_count,
                                              ss_error *reterr) {
    ss_digesting digesting = {.wanted = wanted, .most = most, .arena = arena};
    ss_buf_init(&digesting.text);
    ss_status status = digest_table(reader, table, &digesting, keep_row, reterr);
    ss_buf_done(&digesting.text);
    if (status != SS_OK)
        return status;
    *ret = digesting.rows;
    *ret_count = digesting.count;
    return SS_OK;
}
