/* The copy's snapshot and its readers.
 *
 * publication -> temporary slot -> its snapshot -> holder -> readers. The publication comes first, because WAL is decoded
 * with the publication as it stood when that WAL was written. The slot's consistent point L is the copy's position:
 * what the snapshot sees was committed before L, what it does not see comes in the stream behind L.
 *
 * The slot itself is not kept: it would hold back the source's WAL for as long as the copy takes. Its exported snapshot
 * dies at that connection's next command, so the holder imports it first and exports it again; the holder then stays
 * idle in its transaction until snapshot_close, and a reader can be opened (or opened again) at any time until then.
 *
 * A chunk is a transaction of its own: no lock outlives it, so that no schema change of the source waits for more than one
 * chunk. The price is that a heap may be rewritten between two chunks, and a rewrite is not seen through an old snapshot
 * (ALTER TABLE … TYPE, TRUNCATE) or moves rows to other blocks (VACUUM FULL, CLUSTER); and COPY finds tables and columns by
 * the names that they have by then. Behind each chunk, while COPY's own lock is still held, the heap's filenode and the oid
 * that its name stands for are compared with those that the snapshot's pg_class names; and behind its transaction, by a
 * snapshot of now, the versions of the columns' catalogue rows (a column that was renamed and renamed back has another one).
 * A difference ends the copy of this table with SS_RETRY.
 *
 * Threads: snapshot_* in the copy thread, a reader in its own. */
#include "agents/postgres/postgres_copy.h"
#include "agents/postgres/postgres_link.h"
#include "agents/postgres/postgres_record.h"
#include "sidespool/copytext.h"
#include "sidespool/log.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define HAND_OVER_BYTES (256u << 10)
#define SCHEMAS_AT_ONCE 100
#define LOCK_MS "2000"
#define LOCK_TRIES_MOST 30 /* of a digest, which has nobody to ask whether it is still wanted */
#define WIDE_ROW_BYTES (8u << 20) /* above this, buffers are given back after the row */

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-PG-0107", "no memory for the copy");
}

/* ---- snapshot ---------------------------------------------------------------------------------------------------- */

/* Publication first; autocommitted, so that all WAL from here on is decoded with it. */
static ss_status publish(const ss_source_env *env, ss_error *reterr) {
    PGconn *conn = NULL;
    ss_postgres_table *tables = NULL;
    size_t count = 0;
    ss_arena *arena = ss_arena_new(0);
    if (arena == NULL)
        return no_memory(reterr);
    ss_status status = ss_postgres_connect(env, false, &conn, reterr);
    if (status == SS_OK)
        status = ss_postgres_tables_select(conn, env, false, arena, &tables, &count, reterr);
    if (status == SS_OK)
        status = ss_postgres_publication_ensure(conn, env, tables, count, reterr);
    PQfinish(conn);
    ss_arena_free(arena);
    return status;
}

/* A copy's session. No parallel workers: it must not take more of the source than its readers. No JIT: compiling the
 * catalogue's statements takes ten times as long as running them. (row_security is off on every connection: a policy that
 * would hide rows is an error, never a silent gap.) */
static ss_status copy_connect(const ss_source_env *env, PGconn **ret, ss_error *reterr) {
    PGconn *conn = NULL;
    ss_status status = ss_postgres_connect(env, false, &conn, reterr);
    if (status == SS_OK)
        status = ss_postgres_exec(conn, "prepare a copy's session",
                                  PQserverVersion(conn) >= 110000
                                      ? "SET max_parallel_workers_per_gather = 0; SET jit = off"
                                      : "SET max_parallel_workers_per_gather = 0",
                                  reterr);
    if (status != SS_OK) {
        PQfinish(conn);
        return status;
    }
    *ret = conn;
    return SS_OK;
}

/* A temporary slot; making it waits until every transaction that runs now has ended. */
static ss_status slot_command(const ss_postgres_await *await, PGconn *conn, const char *snapshot, PGresult **ret,
                              ss_error *reterr) {
    uint64_t unique = 0;
    char sql[160];
    if (getrandom(&unique, sizeof unique, 0) != (ssize_t)sizeof unique)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0100", "no random number for the name of the copy's slot");
    snprintf(sql, sizeof sql, "CREATE_REPLICATION_SLOT sidespool_copy_%016" PRIx64 " TEMPORARY LOGICAL pgoutput %s", unique,
             snapshot);
    return ss_postgres_await_query(await, conn, sql, ret, reterr);
}

/* A slot that nobody uses: once it is made, all transactions that ran at the call have ended, so that the slot of
 * snapshot_open, under hold, waits for those alone that began since. The publication first: what runs now and knows nothing
 * of it has ended, too. */
ss_status ss_postgres_snapshot_await(const ss_source_env *env, ss_say_fn say, void *ctx, ss_error *reterr) {
    ss_postgres_await await = {.env = env, .what = "wait for the source's transactions before a snapshot",
                               .code = "SS-PG-0100", .say = say, .ctx = ctx};
    PGconn *conn = NULL;
    PGresult *res = NULL;
    ss_status status = publish(env, reterr);
    if (status == SS_OK)
        status = ss_postgres_connect(env, true, &conn, reterr);
    if (status == SS_OK)
        status = slot_command(&await, conn, "NOEXPORT_SNAPSHOT", &res, reterr);
    PQclear(res);
    PQfinish(conn); /* drops the slot */
    return status;
}

static ss_status slot_make(const ss_source_env *env, PGconn *conn, int most_ms, char *ret_position, size_t size,
                           char *ret_snapshot, size_t snapshot_size, ss_error *reterr) {
    ss_postgres_await await = {.env = env, .what = "make the temporary slot of the copy", .code = "SS-PG-0100",
                               .most_ms = most_ms};
    PGresult *res = NULL;
    ss_status status = slot_command(&await, conn, "EXPORT_SNAPSHOT", &res, reterr);
    if (status != SS_OK)
        return status;
    const char *position = PQnfields(res) > 2 && PQntuples(res) == 1 ? PQgetvalue(res, 0, 1) : "";
    const char *exported = *position != '\0' ? PQgetvalue(res, 0, 2) : "";
    uint64_t lsn = 0;
    if (!ss_postgres_lsn_parse(position, &lsn) || *exported == '\0' || strlen(exported) >= snapshot_size ||
        strspn(exported, "0123456789ABCDEFabcdef-") != strlen(exported)) {
        PQclear(res);
        return ss_fail(reterr, SS_STOP, "SS-PG-0100", "the source answered CREATE_REPLICATION_SLOT of %s without a snapshot",
                       env->name);
    }
    ss_postgres_lsn_text(lsn, ret_position, size);
    snprintf(ret_snapshot, snapshot_size, "%s", exported);
    PQclear(res);
    return SS_OK;
}

/* The holder imports the slot's snapshot and exports it anew. */
static ss_status snapshot_hold(ss_snapshot *snapshot, const char *slot_snapshot, ss_error *reterr) {
    char sql[256];
    PGresult *res = NULL;
    snprintf(sql, sizeof sql, "SET TRANSACTION SNAPSHOT '%s'", slot_snapshot);
    ss_status status = ss_postgres_exec(snapshot->holder, "begin the copy's transaction",
                                        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", reterr);
    if (status == SS_OK)
        status = ss_postgres_exec(snapshot->holder, "import the slot's snapshot", sql, reterr);
    if (status == SS_OK)
        status = ss_postgres_query(snapshot->holder, "export the copy's snapshot", "SELECT pg_export_snapshot()", 0,
                                   NULL, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    const char *id = ss_postgres_value(res, 0, 0);
    bool fits = strlen(id) < sizeof snapshot->id && strspn(id, "0123456789ABCDEFabcdef-") == strlen(id);
    if (fits)
        snprintf(snapshot->id, sizeof snapshot->id, "%s", id);
    PQclear(res);
    return fits ? SS_OK : ss_fail(reterr, SS_STOP, "SS-PG-0100", "the source's snapshot has an unknown form of name");
}

/* The Schema's columns, quoted, in its order: what a reader selects, and what a row's cells are. */
static ss_status columns_text(ss_snapshot *snapshot, const Sidespool__Schema *schema, ss_postgres_source_table *table,
                              ss_error *reterr) {
    ss_status status = SS_OK;
    ss_buf text;
    ss_buf_init(&text);
    for (size_t i = 0; i < schema->n_columns; i++) {
        const Sidespool__Column *column = schema->columns[i];
        if (column->generated)
            continue;
        char *quoted = PQescapeIdentifier(snapshot->holder, column->name, strlen(column->name));
        if (quoted == NULL)
            text.bad = true;
        else
            ss_buf_printf(&text, "%s%s", table->column_count == 0 ? "" : ", ", quoted);
        PQfreemem(quoted);
        table->column_count++;
    }
    table->columns = ss_arena_strndup(snapshot->arena, ss_buf_cstr(&text), text.len);
    if (text.bad || table->columns == NULL)
        status = no_memory(reterr);
    ss_buf_done(&text);
    return status;
}

static ss_status table_take(ss_snapshot *snapshot, const ss_postgres_table *from, ss_error *reterr) {
    ss_snapshot_table *to = &snapshot->tables[snapshot->count];
    ss_postgres_source_table *table = &snapshot->sources[snapshot->count];
    to->rows_estimate = from->rows_estimate;
    to->bytes_estimate = from->bytes_estimate;
    table->relid = from->relid;
    table->place = ss_arena_printf(snapshot->arena, "%s.%s", from->ns, from->name);
    to->id = ss_arena_printf(snapshot->arena, "%" PRIu32, from->relid);
    if (table->place == NULL || to->id == NULL)
        return no_memory(reterr);
    snapshot->count++;
    return SS_OK;
}

/* Many at once, for the round trips; not all, for the memory that the answer takes. */
static ss_status schemas_load(ss_snapshot *snapshot, ss_error *reterr) {
    uint32_t relids[SCHEMAS_AT_ONCE];
    Sidespool__Schema *schemas[SCHEMAS_AT_ONCE];
    ss_status status = SS_OK;
    ss_buf packed;
    ss_buf_init(&packed);
    for (size_t from = 0; from < snapshot->count && status == SS_OK; from += SCHEMAS_AT_ONCE) {
        size_t count = snapshot->count - from < SCHEMAS_AT_ONCE ? snapshot->count - from : SCHEMAS_AT_ONCE;
        for (size_t i = 0; i < count; i++)
            relids[i] = snapshot->sources[from + i].relid;
        status = ss_postgres_schemas_load(snapshot->holder, relids, count, snapshot->arena, schemas, reterr);
        for (size_t i = 0; i < count && status == SS_OK; i++) {
            ss_snapshot_table *to = &snapshot->tables[from + i];
            ss_buf_clear(&packed);
            to->schema = schemas[i];
            to->schema_id = ss_schema_seal(to->schema, &packed);
            status = packed.bad ? no_memory(reterr)
                                : columns_text(snapshot, to->schema, &snapshot->sources[from + i], reterr);
        }
    }
    ss_buf_done(&packed);
    return status;
}

static bool asked_for(const ss_postgres_table *table, const char *name) {
    size_t ns = strlen(table->ns);
    return strncmp(name, table->ns, ns) == 0 && name[ns] == '.' && strcmp(name + ns + 1, table->name) == 0;
}

static bool wanted(const ss_postgres_table *table, const char *const *tables, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (asked_for(table, tables[i]))
            return true;
    return count == 0;
}

static ss_status all_selected(const ss_source_env *env, const ss_postgres_table *selected, size_t selected_count,
                              const char *const *tables, size_t count, ss_error *reterr) {
    for (size_t i = 0; i < count; i++) {
        size_t at = 0;
        while (at < selected_count && !asked_for(&selected[at], tables[i]))
            at++;
        if (at == selected_count)
            return ss_fail(reterr, SS_STOP, "SS-PG-0101",
                           "table %s is not among the tables that source %s captures: name it as schema.table, or add it "
                           "to `tables:` of its agent",
                           tables[i], env->name);
    }
    return SS_OK;
}

/* Tables and Schemas as the snapshot sees them. It may see a table that was committed behind publish(), while the slot
 * waited for that very transaction: what is written to that table then comes in no stream, so its copy would not be whole.
 * The next try publishes it first. */
static ss_status tables_load(ss_snapshot *snapshot, const char *const *tables, size_t count, ss_error *reterr) {
    ss_postgres_table *selected = NULL;
    size_t selected_count = 0;
    ss_postgres_publication publication;
    ss_status status = ss_postgres_tables_select(snapshot->holder, snapshot->env, false, snapshot->arena, &selected,
                                                 &selected_count, reterr);
    if (status == SS_OK)
        status = ss_postgres_publication_get(snapshot->holder, snapshot->env, snapshot->arena, &publication, reterr);
    if (status == SS_OK) {
        snapshot->by_leaf = !publication.via_root;
        status = all_selected(snapshot->env, selected, selected_count, tables, count, reterr);
    }
    if (status != SS_OK)
        return status;
    snapshot->tables = ss_arena_zalloc(snapshot->arena, (selected_count + 1) * sizeof *snapshot->tables);
    snapshot->sources = ss_arena_zalloc(snapshot->arena, (selected_count + 1) * sizeof *snapshot->sources);
    snapshot->selected = ss_arena_zalloc(snapshot->arena, (selected_count + 1) * sizeof *snapshot->selected);
    if (snapshot->tables == NULL || snapshot->sources == NULL || snapshot->selected == NULL)
        return no_memory(reterr);
    for (size_t i = 0; status == SS_OK && i < selected_count; i++) {
        snapshot->selected[snapshot->selected_count++] = selected[i].relid;
        if (!wanted(&selected[i], tables, count))
            continue;
        status = selected[i].published
                     ? table_take(snapshot, &selected[i], reterr)
                     : ss_fail(reterr, SS_RETRY, "SS-PG-0111",
                               "table %s.%s was made while the snapshot was taken and is not published yet: it is "
                               "published, and a new snapshot taken",
                               selected[i].ns, selected[i].name);
    }
    snapshot->subset = snapshot->count < selected_count;
    return status == SS_OK ? schemas_load(snapshot, reterr) : status;
}

/* Durable before anybody hears of the snapshot, and so before any copy says that it is whole. If we die here, tables are
 * watched that nobody has copied. */
ss_status ss_postgres_snapshot_record(ss_snapshot *snapshot, bool partitions, ss_error *reterr) {
    uint32_t *relids = ss_arena_alloc(snapshot->arena, (snapshot->count + 1) * sizeof *relids);
    if (relids == NULL)
        return no_memory(reterr);
    for (size_t i = 0; i < snapshot->count; i++)
        relids[i] = snapshot->sources[i].relid;
    return ss_postgres_record_add(snapshot->holder, snapshot->env, relids, snapshot->count,
                                  snapshot->position, partitions, reterr);
}

/* Loads all there is to know before the first reader. Locks that catalogue functions took are released again. */
static ss_status snapshot_fill(ss_snapshot *snapshot, const char *const *tables, size_t count, ss_error *reterr) {
    ss_status status = ss_postgres_exec(snapshot->holder, "set a savepoint", "SAVEPOINT loading", reterr);
    if (status == SS_OK)
        status = tables_load(snapshot, tables, count, reterr);
    if (status == SS_OK)
        status = ss_postgres_snapshot_record(snapshot, false, reterr);
    if (status == SS_OK)
        status = ss_postgres_chunks_plan(snapshot, reterr);
    if (status == SS_OK)
        status = ss_postgres_exec(snapshot->holder, "release the catalogue's locks", "ROLLBACK TO SAVEPOINT loading",
                                  reterr);
    return status;
}

ss_status ss_postgres_snapshot_open(const ss_source_env *env, const char *const *tables, size_t count, size_t readers,
                                    int most_ms, ss_snapshot **ret, ss_error *reterr) {
    (void)readers; /* each connects when it is opened */
    PGconn *slot = NULL;
    char exported[64];
    ss_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL)
        return no_memory(reterr);
    snapshot->env = env;
    snapshot->arena = ss_arena_new(0);
    ss_status status = snapshot->arena == NULL ? no_memory(reterr) : publish(env, reterr);
    if (status == SS_OK)
        status = copy_connect(env, &snapshot->holder, reterr);
    if (status == SS_OK)
        status = ss_postgres_connect(env, true, &slot, reterr);
    if (status == SS_OK)
        status = slot_make(env, slot, most_ms, snapshot->position, sizeof snapshot->position, exported, sizeof exported, reterr);
    if (status == SS_OK)
        status = snapshot_hold(snapshot, exported, reterr);
    PQfinish(slot); /* drops the temporary slot: from here on the copy holds back no WAL */
    if (status == SS_OK) {
        snapshot->version = PQserverVersion(snapshot->holder);
        status = snapshot_fill(snapshot, tables, count, reterr);
    }
    if (status != SS_OK) {
        ss_postgres_snapshot_close(snapshot);
        return status;
    }
    *ret = snapshot;
    return SS_OK;
}

const char *ss_postgres_snapshot_position(const ss_snapshot *snapshot) {
    return snapshot->position;
}

size_t ss_postgres_snapshot_tables(const ss_snapshot *snapshot, const ss_snapshot_table **ret) {
    *ret = snapshot->tables;
    return snapshot->count;
}

void ss_postgres_snapshot_close(ss_snapshot *snapshot) {
    if (snapshot == NULL)
        return;
    PQfinish(snapshot->holder);
    ss_arena_free(snapshot->arena);
    free(snapshot);
}

/* ---- readers ----------------------------------------------------------------------------------------------------- */

static ss_status reader_connect(ss_copy_reader *reader, ss_error *reterr) {
    if (reader->conn != NULL)
        return SS_OK;
    return copy_connect(reader->snapshot->env, &reader->conn, reterr);
}

ss_status ss_postgres_copy_reader_open(ss_snapshot *snapshot, ss_copy_reader **ret, ss_error *reterr) {
    ss_copy_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return no_memory(reterr);
    reader->snapshot = snapshot;
    ss_buf_init(&reader->cells);
    ss_buf_init(&reader->sql);
    ss_status status = reader_connect(reader, reterr);
    if (status != SS_OK) {
        ss_postgres_copy_reader_close(reader);
        return status;
    }
    *ret = reader;
    return SS_OK;
}

void ss_postgres_copy_reader_close(ss_copy_reader *reader) {
    if (reader == NULL)
        return;
    PQfinish(reader->conn);
    ss_buf_done(&reader->cells);
    ss_buf_done(&reader->sql);
    free(reader);
}

static void put_bound(ss_buf *sql, const ss_postgres_chunk *chunk, const char *op, int64_t bound, bool second) {
    const char *and = second ? " AND" : " WHERE";
    if (chunk->by == SS_CHUNK_CTID)
        ss_buf_printf(sql, "%s ctid %s '(%" PRId64 ",0)'::tid", and, op, bound);
    else
        ss_buf_printf(sql, "%s %s %s '%" PRId64 "'::int8", and, chunk->leaf->key, op, bound);
}

/* One string, one round trip. The first check comes behind the COPY, whose lock is held until COMMIT: functions that look
 * into the catalogue's cache see it as it is now, so an unchanged filenode proves that the heap was never rewritten since
 * the snapshot, and an unchanged oid that the COPY read this table. The columns have no such function; but every change of
 * one leaves another version of its row for ever, so they can be compared behind the lock, by a statement with a snapshot of
 * its own. Columns that were added since are beyond natts: the Schema does not name them. */
static const char *chunk_sql(ss_copy_reader *reader, const ss_postgres_source_table *table,
                             const ss_postgres_chunk *chunk) {
    const ss_postgres_leaf *leaf = chunk->leaf;
    ss_buf *sql = &reader->sql;
    ss_buf_clear(sql);
    char *name = PQescapeLiteral(reader->conn, leaf->from, strlen(leaf->from));
    if (name == NULL) {
        sql->bad = true;
        return "";
    }
    ss_buf_printf(sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = " LOCK_MS
                  "; SET TRANSACTION SNAPSHOT '%s'; COPY (SELECT ",
                  reader->snapshot->id);
    ss_buf_put_str(sql, table->columns);
    ss_buf_printf(sql, " FROM ONLY %s", leaf->from);
    if (chunk->has_low)
        put_bound(sql, chunk, ">=", chunk->low, false);
    if (chunk->has_high)
        put_bound(sql, chunk, "<", chunk->high, chunk->has_low);
    ss_buf_printf(sql,
                  ") TO STDOUT; SELECT pg_catalog.pg_relation_filenode(%" PRIu32 ") IS NOT DISTINCT FROM %" PRIu32
                  "::oid AND pg_catalog.to_regclass(",
                  leaf->relid, leaf->filenode);
    ss_buf_put_str(sql, name);
    ss_buf_printf(sql,
                  ")::oid IS NOT DISTINCT FROM %" PRIu32 "::oid; COMMIT; SELECT coalesce(pg_catalog.string_agg("
                  "v.xmin::text, ',' ORDER BY v.attnum), '') = '%s' FROM pg_catalog.pg_attribute v"
                  " WHERE v.attrelid = %" PRIu32 " AND v.attnum > 0 AND v.attnum <= %" PRIu32 " AND NOT v.attisdropped",
                  leaf->relid, leaf->versions, leaf->relid, leaf->natts);
    PQfreemem(name);
    return ss_buf_cstr(sql);
}

/* Somebody holds the table locked (ALTER TABLE, LOCK): nothing of the chunk was read yet, so it is tried again. In between
 * nobody queues behind us, and we can be told to end. */
static ss_status chunk_locked(const ss_postgres_source_table *table, ss_error *reterr) {
    return ss_fail(reterr, SS_BUSY, "SS-PG-0112", "table %s is locked at the source: its copy goes on when the lock is gone",
                   table->place);
}

/* A table that was dropped or altered under us is asked for again; anything else keeps the class of its SQLSTATE. */
static ss_status chunk_failed(ss_copy_reader *reader, const ss_postgres_source_table *table, const PGresult *res,
                              ss_error *reterr) {
    const char *state = res == NULL ? NULL : PQresultErrorField(res, PG_DIAG_SQLSTATE);
    bool altered = state != NULL && (strcmp(state, "42P01") == 0 || strcmp(state, "42703") == 0 ||
                                     strcmp(state, "3F000") == 0);
    bool expired = state != NULL && strcmp(state, "22023") == 0;
    if (state != NULL && strcmp(state, "55P03") == 0)
        return chunk_locked(table, reterr);
    if (altered)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0102",
                       "table %s was altered or dropped while it was copied: its copy starts again", table->place);
    if (expired)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0108",
                       "the snapshot of the copy is gone (its connection broke): the copy goes on with a new one at table %s",
                       table->place);
    return ss_postgres_fail(reterr, "SS-PG-0103", __func__, reader->conn, res, "cannot read table %s", table->place);
}

static ss_status rows_take(ss_copy_reader *reader, const ss_postgres_source_table *table, ss_postgres_row_fn row,
                           void *ctx, bool *ret_wide, ss_error *reterr) {
    uint64_t most = reader->snapshot->env->max_message;
    for (;;) {
        char *line = NULL;
        int len = 0;
        ss_status status = ss_postgres_await_row(reader->conn, "read a table", &line, &len, reterr);
        if (status != SS_OK)
            return status;
        if (len == -1)
            return SS_OK; /* the command's result says whether it ended well */
        if (len < 0)
            return ss_postgres_fail(reterr, "SS-PG-0103", __func__, reader->conn, NULL, "cannot read table %s",
                                    table->place);
        if (most > 0 && (uint64_t)len > most)
            status = ss_fail(reterr, SS_STOP, "SS-PG-0104",
                             "a row of table %s has %d bytes, more than max_message (%" PRIu64
                             "): raise max_message or exclude the table",
                             table->place, len, most);
        else
            status = row(ctx, ss_bytes_of(line, (size_t)len), reterr);
        *ret_wide |= (size_t)len > WIDE_ROW_BYTES;
        PQfreemem(line);
        if (status != SS_OK)
            return status;
    }
}

/* Takes the results of the seven statements; the COPY and both checks among them must have been there. */
static ss_status results_take(ss_copy_reader *reader, const ss_postgres_source_table *table, ss_postgres_row_fn row,
                              void *ctx, bool *ret_wide, ss_error *reterr) {
    bool copied = false;
    int checked = 0, unchanged = 0;
    ss_status status = SS_OK;
    PGresult *res;
    for (;;) {
        if (status == SS_OK)
            status = ss_postgres_await_result(reader->conn, "read a table", reterr);
        if (status != SS_OK || (res = PQgetResult(reader->conn)) == NULL)
            break;
        switch (PQresultStatus(res)) {
        case PGRES_COMMAND_OK:
            break;
        case PGRES_COPY_OUT:
            copied = true;
            status = rows_take(reader, table, row, ctx, ret_wide, reterr);
            break;
        case PGRES_TUPLES_OK:
            checked += PQntuples(res) == 1;
            unchanged += PQntuples(res) == 1 && PQgetvalue(res, 0, 0)[0] == 't';
            break;
        default:
            status = chunk_failed(reader, table, res, reterr);
        }
        PQclear(res);
    }
    if (status == SS_OK && (!copied || checked != 2))
        status = chunk_failed(reader, table, NULL, reterr);
    if (status == SS_OK && unchanged != 2)
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0102",
                         "table %s was rewritten, renamed or altered while it was copied (VACUUM FULL, CLUSTER, TRUNCATE or "
                         "ALTER TABLE): its copy starts again",
                         table->place);
    return status;
}

static ss_status chunk_try(ss_copy_reader *reader, const ss_postgres_source_table *table,
                           const ss_postgres_chunk *chunk, ss_postgres_row_fn row, void *ctx, ss_error *reterr) {
    if (chunk->leaf == NULL)
        return SS_OK;
    bool wide = false;
    ss_status status = reader_connect(reader, reterr);
    if (status != SS_OK)
        return status;
    const char *sql = chunk_sql(reader, table, chunk);
    if (reader->sql.bad)
        return no_memory(reterr);
    if (PQsendQuery(reader->conn, sql) == 0)
        status = chunk_failed(reader, table, NULL, reterr);
    else
        status = results_take(reader, table, row, ctx, &wide, reterr);
    /* Given up in mid-COPY: the rest would have to be read to the end. And libpq never gives its input buffer back, so a
     * connection that a wide row passed through is not kept. */
    if (status != SS_OK || wide) {
        PQfinish(reader->conn);
        reader->conn = NULL;
    }
    return status;
}

ss_status ss_postgres_chunk_read(ss_copy_reader *reader, const ss_postgres_source_table *table,
                                 const ss_postgres_chunk *chunk, ss_postgres_row_fn row, ss_postgres_still_fn still,
                                 void *ctx, ss_error *reterr) {
    const ss_source_env *env = reader->snapshot->env;
    for (int tries = 1;; tries++) {
        ss_status status = chunk_try(reader, table, chunk, row, ctx, reterr);
        if (status != SS_BUSY)
            return status;
        struct pollfd stop = {.fd = env->stop_fd > 0 ? env->stop_fd : -1, .events = POLLIN};
        if (tries == 1)
            SS_LOG(SS_INFO, "copy_waits_for_lock", SS_S("table", table->place));
        if (poll(&stop, 1, 100) > 0 || (still == NULL && tries == LOCK_TRIES_MOST))
            return SS_RETRY;
        status = still != NULL ? still(ctx, reterr) : SS_OK;
        if (status != SS_OK)
            return status;
    }
}

/* ---- copy_reader_read -------------------------------------------------------------------------------------------- */

typedef struct {
    ss_buf *cells;
    uint32_t rows;
    const ss_postgres_source_table *table;
    ss_copy_rows_fn hand;
    void *ctx;
} ss_gather;

static ss_status gather_hand(ss_gather *gather, ss_error *reterr) {
    if (gather->rows == 0)
        return SS_OK;
    ss_status status =
        gather->hand(gather->ctx, ss_bytes_of(gather->cells->ptr, gather->cells->len), gather->rows, reterr);
    if (gather->cells->cap > WIDE_ROW_BYTES)
        ss_buf_done(gather->cells);
    ss_buf_clear(gather->cells);
    gather->rows = 0;
    return status;
}

/* A row that does not fit beside what is gathered goes alone: its cells are then the only copy that we hold, beside
 * libpq's own two (its input buffer and this line). */
static ss_status gather_row(void *ctx, ss_bytes line, ss_error *reterr) {
    ss_gather *gather = ctx;
    ss_status status = SS_OK;
    if (gather->cells->len + line.len > HAND_OVER_BYTES)
        status = gather_hand(gather, reterr);
    if (status != SS_OK)
        return status;
    /* At once what the row can need: cells are shorter than their text, but for up to a byte a cell and long lengths. */
    if (ss_buf_reserve(gather->cells, line.len + 10 * (size_t)gather->table->column_count + 1) == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory for a row of %zu bytes of table %s", line.len,
                       gather->table->place);
    if (!ss_copytext_row_to_cells(line, gather->table->column_count, gather->cells))
        return ss_fail(reterr, SS_STOP, "SS-PG-0105", "a row of table %s is not COPY text of %" PRIu32 " columns",
                       gather->table->place, gather->table->column_count);
    if (gather->cells->bad)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory for a row of %zu bytes of table %s", line.len,
                       gather->table->place);
    gather->rows++;
    return gather->cells->len >= HAND_OVER_BYTES || gather->rows == UINT32_MAX ? gather_hand(gather, reterr) : SS_OK;
}

/* No rows: whoever takes them says whether they are still wanted. */
static ss_status gather_still(void *ctx, ss_error *reterr) {
    ss_gather *gather = ctx;
    return gather->hand(gather->ctx, SS_BYTES_NONE, 0, reterr);
}

ss_status ss_postgres_copy_reader_read(ss_copy_reader *reader, size_t table, size_t chunk, ss_copy_rows_fn rows,
                                       void *ctx, ss_error *reterr) {
    const ss_postgres_source_table *source = &reader->snapshot->sources[table];
    ss_gather gather = {.cells = &reader->cells, .table = source, .hand = rows, .ctx = ctx};
    ss_buf_clear(&reader->cells);
    ss_status status = ss_postgres_chunk_read(reader, source, &source->chunks[chunk], gather_row, gather_still,
                                              &gather, reterr);
    return status == SS_OK ? gather_hand(&gather, reterr) : status;
}
