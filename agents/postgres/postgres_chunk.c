/* Planning of a copy: which heaps a table's rows lie in, and the ranges in which readers take them.
 *
 * One query for all tables: a thousand small ones cost a round trip, not a thousand. Sizes are asked of the files
 * (pg_relation_size), not of pg_class, whose relpages may be old. Rows that the snapshot sees lie in blocks that existed when
 * it was made, and so before the sizes were read; the last range is open all the same, the first one too. A heap that
 * is rewritten after the snapshot (VACUUM FULL, CLUSTER, ALTER TABLE, TRUNCATE) gets another relfilenode: the snapshot's
 * pg_class still names the old one, and postgres_copy.c compares the two behind every chunk.
 *
 * Ranges: by ctid where the server can scan them (TID range scan, PostgreSQL 14), else by a primary key that is one integer
 * column, else the heap is read whole. Runs in the copy thread, inside the holder's snapshot. */
#include "agents/postgres/postgres_copy.h"

#include <inttypes.h>
#include <stdlib.h>

#define CHUNK_BYTES (64u << 20)
#define CHUNK_BYTES_LEAST (4u << 20)
#define CHUNKS_OF_SPOOL 32u /* a small spool gets small chunks: one that stands half read keeps its table locked */
#define CHUNKS_MOST 65536u /* of one heap; above that chunks grow */
#define TID_RANGE_VERSION 140000

/* $1: relids of the tables that are published. `ord` keeps their order. */
static const char leaves_sql[] =
    "WITH RECURSIVE tree(ord, oid) AS ("
    " SELECT u.ord, u.oid FROM unnest($1::oid[]) WITH ORDINALITY u(oid, ord)"
    " UNION ALL"
    " SELECT t.ord, i.inhrelid FROM tree t"
    " JOIN pg_inherits i ON i.inhparent = t.oid"
    " JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p')"
    " SELECT t.ord, c.oid, c.relfilenode, c.relkind,"
    "  quote_ident(n.nspname) || '.' || quote_ident(c.relname),"
    "  coalesce(a.amname = 'heap', true),"
    "  pg_relation_size(c.oid) / current_setting('block_size')::int8, pg_table_size(c.oid),"
    "  k.key, n.nspname || '.' || c.relname, c.relnatts,"
    "  (SELECT coalesce(string_agg(v.xmin::text, ',' ORDER BY v.attnum), '') FROM pg_attribute v"
    "   WHERE v.attrelid = c.oid AND v.attnum > 0 AND NOT v.attisdropped)"
    " FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_am a ON a.oid = c.relam AND c.relam <> 0"
    " LEFT JOIN LATERAL (SELECT quote_ident(x.attname) AS key FROM pg_index i"
    "  JOIN pg_attribute x ON x.attrelid = i.indrelid AND x.attnum = i.indkey[0]"
    "  WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1"
    "  AND x.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)) k ON true"
    " WHERE c.relkind <> 'p' ORDER BY t.ord, c.oid";

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-PG-0107", "no memory for the plan of the copy");
}

static const char *copied(ss_snapshot *snapshot, const PGresult *res, int row, int column) {
    return ss_arena_strndup(snapshot->arena, PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column));
}

/* PostgreSQL 10 knows no INCLUDE columns and so no indnkeyatts. */
static char *leaves_statement(const ss_snapshot *snapshot) {
    if (snapshot->version >= 110000)
        return ss_arena_strndup(snapshot->arena, leaves_sql, sizeof leaves_sql - 1);
    const char *name = strstr(leaves_sql, "indnkeyatts");
    return ss_arena_printf(snapshot->arena, "%.*sindnatts%s", (int)(name - leaves_sql), leaves_sql,
                           name + strlen("indnkeyatts"));
}

static ss_status leaf_fill(ss_snapshot *snapshot, const PGresult *res, int row, ss_postgres_leaf *ret,
                           ss_error *reterr) {
    const char *name = PQgetvalue(res, row, 9);
    if (PQgetvalue(res, row, 3)[0] != 'r')
        return ss_fail(reterr, SS_STOP, "SS-PG-0106",
                       "partition %s of %s is no plain table (foreign tables are not streamed): exclude the partitioned "
                       "table, or detach that partition",
                       name, snapshot->sources[atoi(PQgetvalue(res, row, 0)) - 1].place);
    if (PQgetisnull(res, row, 6))
        return ss_fail(reterr, SS_RETRY, "SS-PG-0102", "table %s was dropped while its copy was planned", name);
    *ret = (ss_postgres_leaf){
        .relid = (uint32_t)strtoul(PQgetvalue(res, row, 1), NULL, 10),
        .filenode = (uint32_t)strtoul(PQgetvalue(res, row, 2), NULL, 10),
        .from = copied(snapshot, res, row, 4),
        .heap = PQgetvalue(res, row, 5)[0] == 't',
        .pages = strtoull(PQgetvalue(res, row, 6), NULL, 10),
        .bytes = strtoull(PQgetvalue(res, row, 7), NULL, 10),
        .key = PQgetisnull(res, row, 8) ? NULL : copied(snapshot, res, row, 8),
        .natts = (uint32_t)strtoul(PQgetvalue(res, row, 10), NULL, 10),
        .versions = copied(snapshot, res, row, 11),
    };
    return ret->from == NULL || ret->versions == NULL ? no_memory(reterr) : SS_OK;
}

/* Lowest and highest key of a heap too large for one chunk; *ret_some false when it is empty. */
static ss_status key_bounds(ss_snapshot *snapshot, const ss_postgres_leaf *leaf, int64_t *ret_low, int64_t *ret_high,
                            bool *ret_some, ss_error *reterr) {
    PGresult *res = NULL;
    char *sql = ss_arena_printf(snapshot->arena, "SELECT min(%s)::int8, max(%s)::int8 FROM ONLY %s", leaf->key,
                                leaf->key, leaf->from);
    if (sql == NULL)
        return no_memory(reterr);
    ss_status status = ss_postgres_query(snapshot->holder, "read the range of a table's key", sql, 0, NULL,
                                         PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    *ret_some = !PQgetisnull(res, 0, 0);
    *ret_low = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    *ret_high = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
    PQclear(res);
    return SS_OK;
}

static uint64_t wanted_chunks(const ss_snapshot *snapshot, const ss_postgres_leaf *leaf) {
    uint64_t bytes = CHUNK_BYTES, share = snapshot->env->spool_max_size / CHUNKS_OF_SPOOL;
    if (share > 0 && share < bytes)
        bytes = share > CHUNK_BYTES_LEAST ? share : CHUNK_BYTES_LEAST;
    uint64_t count = leaf->bytes / bytes + (leaf->bytes % bytes != 0);
    return count > CHUNKS_MOST ? CHUNKS_MOST : count;
}

/* Cuts [low, low + span) into `count` ranges of equal width; the outer two are open. Unsigned arithmetic throughout: a
 * key may span the whole of int8. */
static size_t cut(const ss_postgres_leaf *leaf, int by, uint64_t low, uint64_t span, uint64_t count,
                  ss_postgres_chunk *ret) {
    uint64_t width = span / count + (span % count != 0);
    size_t made = 0;
    for (uint64_t from = 0; from < span; from += width) {
        bool last = span - from <= width;
        ret[made++] = (ss_postgres_chunk){
            .leaf = leaf,
            .by = (by == SS_CHUNK_CTID) ? SS_CHUNK_CTID : SS_CHUNK_KEY,
            .has_low = from > 0,
            .low = (int64_t)(low + from),
            .has_high = !last,
            .high = (int64_t)(low + from + width),
        };
        if (last)
            break;
    }
    return made;
}

static ss_status leaf_cut(ss_snapshot *snapshot, const ss_postgres_leaf *leaf, ss_postgres_chunk *chunks,
                          size_t *ret_made, ss_error *reterr) {
    uint64_t count = wanted_chunks(snapshot, leaf);
    if (count > 1 && leaf->heap && snapshot->version >= TID_RANGE_VERSION && leaf->pages > 1) {
        *ret_made = cut(leaf, SS_CHUNK_CTID, 0, leaf->pages, count < leaf->pages ? count : leaf->pages, chunks);
        return SS_OK;
    }
    if (count > 1 && leaf->key != NULL) {
        int64_t low = 0, high = 0;
        bool some = false;
        ss_status status = key_bounds(snapshot, leaf, &low, &high, &some, reterr);
        if (status != SS_OK)
            return status;
        uint64_t span = (uint64_t)high - (uint64_t)low;
        if (some && span >= count) {
            *ret_made = cut(leaf, SS_CHUNK_KEY, (uint64_t)low, span, count, chunks);
            return SS_OK;
        }
    }
    chunks[0] = (ss_postgres_chunk){.leaf = leaf, .by = SS_CHUNK_WHOLE};
    *ret_made = 1;
    return SS_OK;
}

/* Leaves and chunks of one table from rows [row, end) of the result. */
static ss_status table_plan(ss_snapshot *snapshot, size_t at, const PGresult *res, int row, int end, ss_error *reterr) {
    ss_postgres_source_table *table = &snapshot->sources[at];
    size_t leaves = (size_t)(end - row), most = 0;
    table->leaves = ss_arena_zalloc(snapshot->arena, (leaves + 1) * sizeof *table->leaves);
    if (table->leaves == NULL)
        return no_memory(reterr);
    for (; row < end; row++) {
        ss_postgres_leaf *leaf = &table->leaves[table->leaf_count++];
        ss_status status = leaf_fill(snapshot, res, row, leaf, reterr);
        if (status != SS_OK)
            return status;
        most += 1 + (size_t)wanted_chunks(snapshot, leaf);
    }
    table->chunks = ss_arena_zalloc(snapshot->arena, (most + 1) * sizeof *table->chunks);
    if (table->chunks == NULL)
        return no_memory(reterr);
    for (size_t i = 0; i < leaves; i++) {
        size_t made = 0;
        ss_status status =
            leaf_cut(snapshot, &table->leaves[i], table->chunks + table->chunk_count, &made, reterr);
        if (status != SS_OK)
            return status;
        table->chunk_count += made;
    }
    if (table->chunk_count == 0) /* a partitioned table without partitions: one chunk that holds nothing */
        table->chunk_count = 1;
    snapshot->tables[at].chunk_count = table->chunk_count;
    return SS_OK;
}

ss_status ss_postgres_chunks_plan(ss_snapshot *snapshot, ss_error *reterr) {
    ss_status status = SS_OK;
    PGresult *res = NULL;
    ss_buf oids;
    ss_buf_init(&oids);
    ss_buf_put_byte(&oids, '{');
    for (size_t i = 0; i < snapshot->count; i++)
        ss_buf_printf(&oids, "%s%" PRIu32, i == 0 ? "" : ",", snapshot->sources[i].relid);
    ss_buf_put_byte(&oids, '}');
    const char *param = ss_buf_cstr(&oids);
    char *sql = leaves_statement(snapshot);
    if (oids.bad || sql == NULL) {
        status = no_memory(reterr);
        goto out;
    }
    status = ss_postgres_query(snapshot->holder, "plan the copy", sql, 1, &param, PGRES_TUPLES_OK, &res, reterr);
    int row = 0;
    for (size_t i = 0; status == SS_OK && i < snapshot->count; i++) {
        int end = row;
        while (end < PQntuples(res) && strtoull(PQgetvalue(res, end, 0), NULL, 10) == i + 1)
            end++;
        status = table_plan(snapshot, i, res, row, end, reterr);
        row = end;
    }
out:
    PQclear(res);
    ss_buf_done(&oids);
    return status;
}
