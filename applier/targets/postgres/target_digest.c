/* verify on the target's side: every cell of a table, digested on a connection and a snapshot of
 * its own, so that applying goes on. The snapshot is taken when digest_open is called: between two
 * batches, so it holds exactly what is applied.
 *
 * TRUNCATE and a replacement by a table with other columns are not of any snapshot: whoever reads
 * the table afterwards sees it empty, or without its rows. Locking every table for the whole of
 * verify would keep the route waiting for as long; so a table is locked only while it is read, and
 * one that has other storage by then than in the snapshot is not compared: verify says so and is
 * run again. */
#include "target_postgres.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    ss_target target; /* only the connection and scratch of it */
    ss_buf cells, text;
} digesting;

void ss_tgt_digest_close(void *digest) {
    digesting *d = digest;
    if (d == NULL)
        return;
    ss_tgt_queries_forget(&d->target);
    PQfinish(d->target.conn);
    ss_buf_done(&d->target.sql);
    ss_buf_done(&d->cells);
    ss_buf_done(&d->text);
    free(d);
}

ss_status ss_tgt_digest_open(const ss_target_env *env, ss_target *live, void **ret,
                             ss_error *reterr) {
    (void)live;
    digesting *d = calloc(1, sizeof *d);
    if (d == NULL)
        return ss_tgt_nomem(reterr);
    d->target.env = env;
    d->target.options = env->options;
    d->target.replica = true; /* reads only: triggers are no concern */
    ss_status status = ss_tgt_connect(env->options, env->route, &d->target.conn, reterr);
    PGresult *refused = NULL;
    if (status == SS_OK && !ss_tgt_pin(d->target.conn, d->target.options->lock_timeout, &refused)) {
        status = ss_tgt_error(d->target.conn, refused, "session settings", reterr);
        PQclear(refused);
    }
    /* The first query takes the snapshot. */
    if (status == SS_OK)
        status = ss_tgt_exec(&d->target, "verify",
                             "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) "
                             "FROM pg_class WHERE oid = 0",
                             reterr);
    if (status != SS_OK) {
        ss_tgt_digest_close(d);
        return status;
    }
    *ret = d;
    return SS_OK;
}

/* ---- rows
 * -------------------------------------------------------------------------------------------------------------------
 */
typedef ss_status (*row_fn)(void *ctx, digesting *d, const ss_digest_row *row, ss_error *reterr);

static ss_status start(digesting *d, const ss_tgt_table *table, ss_error *reterr) {
    ss_buf *sql = &d->target.sql;
    ss_buf_clear(sql);
    ss_buf_put_str(sql, "COPY (SELECT ");
    ss_tgt_put_columns(sql, table);
    ss_buf_printf(sql, " FROM %s%s) TO STDOUT", table->only, table->name);
    const char *text = ss_buf_cstr(sql);
    if (sql->bad)
        return ss_tgt_nomem(reterr);
    PGresult *res = PQexec(d->target.conn, text);
    ss_status status = PQresultStatus(res) == PGRES_COPY_OUT
                           ? SS_OK
                           : ss_tgt_error(d->target.conn, res, table->shown, reterr);
    PQclear(res);
    return status;
}

static ss_status one_row(digesting *d, const ss_tgt_table *table, const bool *is_key, ss_bytes line,
                         row_fn fn, void *ctx, ss_error *reterr) {
    ss_digest_row row = {0};
    ss_buf_clear(&d->cells);
    if (!ss_copytext_row_to_cells(line, table->count, &d->cells))
        return ss_fail(reterr, SS_STOP, "SS-TGT-0012",
                       "Table %s: the target sent a row that is not COPY text.", table->shown);
    if (d->cells.bad)
        return ss_tgt_nomem(reterr);
    ss_digest_row_hash(ss_bytes_of(d->cells.ptr, d->cells.len), is_key, table->count, &row);
    return fn(ctx, d, &row, reterr);
}

/* After a failure of ours the connection is in the middle of a COPY: the caller closes the digest.
 */
static ss_status rows(digesting *d, const ss_tgt_table *table, const bool *is_key, row_fn fn,
                      void *ctx, ss_error *reterr) {
    ss_status status = start(d, table, reterr);
    char *line = NULL;
    int len = 0;
    while (status == SS_OK && (len = PQgetCopyData(d->target.conn, &line, 0)) > 0) {
        status = one_row(d, table, is_key, ss_bytes_of(line, (size_t)len), fn, ctx, reterr);
        PQfreemem(line);
    }
    if (status != SS_OK)
        return status;
    PGresult *res = len == -1 ? PQgetResult(d->target.conn) : NULL;
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        status = ss_tgt_error(d->target.conn, res, table->shown, reterr);
    while (res != NULL) {
        PQclear(res);
        res = PQgetResult(d->target.conn);
    }
    return status;
}

/* pg_class is read by the snapshot, pg_relation_filenode() looks at the present. */
static const char REWRITTEN[] =
    "WITH RECURSIVE c(oid) AS (SELECT r.oid FROM pg_class r JOIN pg_namespace n ON n.oid = "
    "r.relnamespace WHERE n.nspname = $1 AND r.relname = $2 UNION SELECT i.inhrelid FROM "
    "pg_inherits i JOIN c ON c.oid = i.inhparent JOIN pg_class p ON p.oid = c.oid AND p.relkind = "
    "'p') SELECT EXISTS (SELECT FROM c JOIN pg_class r ON r.oid = c.oid WHERE r.relkind = 'r' AND "
    "r.relfilenode IS DISTINCT FROM pg_relation_filenode(r.oid))";

/* From here on nothing empties the table until let_go(). */
static ss_status hold(digesting *d, const Sidespool__Schema *schema, ss_error *reterr) {
    ss_buf *sql = &d->target.sql;
    ss_buf_clear(sql);
    ss_buf_put_str(sql, "SAVEPOINT sidespool_table; LOCK TABLE ");
    ss_tgt_put_ident(sql, schema->ns);
    ss_buf_put_byte(sql, '.');
    ss_tgt_put_ident(sql, schema->name);
    ss_buf_put_str(sql, " IN ACCESS SHARE MODE");
    const char *text = ss_buf_cstr(sql);
    char what[200];
    snprintf(what, sizeof what, "verify of table %s.%s", schema->ns, schema->name);
    ss_status status =
        sql->bad ? ss_tgt_nomem(reterr) : ss_tgt_exec(&d->target, what, text, reterr);
    const char *values[] = {schema->ns, schema->name};
    PGresult *res = NULL;
    if (status == SS_OK)
        status = ss_tgt_query(&d->target, what, REWRITTEN, 2, values, &res, reterr);
    if (status == SS_OK && PQgetvalue(res, 0, 0)[0] == 't')
        status =
            ss_fail(reterr, SS_RETRY, "SS-TGT-0022",
                    "Table %s.%s was emptied or replaced on the target after verify had begun, "
                    "so it cannot be compared as it was; run verify again.",
                    schema->ns, schema->name);
    PQclear(res);
    return status;
}

/* Rolling back to the savepoint gives the lock back; the snapshot is the transaction's and stays.
 */
static ss_status let_go(digesting *d, ss_error *reterr) {
    return ss_tgt_exec(&d->target, "verify",
                       "ROLLBACK TO SAVEPOINT sidespool_table; RELEASE SAVEPOINT sidespool_table",
                       reterr);
}

/* After a failure the transaction is of no more use: the caller closes the digest. */
static ss_status each(digesting *d, const Sidespool__Schema *schema, row_fn fn, void *ctx,
                      ss_error *reterr) {
    ss_tgt_table *table = NULL;
    ss_status status = hold(d, schema, reterr);
    if (status == SS_OK)
        status = ss_tgt_table_load(&d->target, schema, schema->ns, schema->name, &table, reterr);
    if (status != SS_OK)
        return status;
    bool *is_key = calloc(table->count + 1, sizeof *is_key);
    for (uint32_t i = 0; is_key != NULL && i < table->count; i++)
        is_key[i] = schema->columns[i]->key;
    status = is_key != NULL ? rows(d, table, is_key, fn, ctx, reterr) : ss_tgt_nomem(reterr);
    free(is_key);
    ss_tgt_table_free(table);
    return status == SS_OK ? let_go(d, reterr) : status;
}

static ss_status add(void *ctx, digesting *d, const ss_digest_row *row, ss_error *reterr) {
    (void)d;
    (void)reterr;
    ss_digest_add(ctx, row);
    return SS_OK;
}

ss_status ss_tgt_digest(void *digest, const Sidespool__Schema *schema, ss_digest_bucket *buckets,
                        ss_error *reterr) {
    return each(digest, schema, add, buckets, reterr);
}

/* ---- the rows of some buckets
 * --------------------------------------------------------------------------------------------------
 */
typedef struct {
    const Sidespool__Schema *schema;
    const uint8_t *wanted;
    size_t most, count, cap;
    ss_digest_row *rows;
    ss_arena *arena;
} keeping;

#define KEY_TEXT_MOST 256

static const char *key_text(keeping *k, digesting *d) {
    ss_bytes rest = ss_bytes_of(d->cells.ptr, d->cells.len), cell;
    bool null = false, bad = false;
    ss_buf_clear(&d->text);
    for (size_t i = 0; i < k->schema->n_columns && ss_cells_get(&rest, &null, &cell, &bad); i++) {
        if (!k->schema->columns[i]->key)
            continue;
        if (d->text.len > 0)
            ss_buf_put_str(&d->text, ", ");
        if (null)
            ss_buf_put_str(&d->text, "NULL");
        else
            ss_buf_put(&d->text, cell.ptr, cell.len < KEY_TEXT_MOST ? cell.len : KEY_TEXT_MOST);
    }
    return d->text.bad
               ? NULL
               : ss_arena_strndup(k->arena, d->text.len > 0 ? (const char *)d->text.ptr : "",
                                  d->text.len);
}

static ss_status keep(void *ctx, digesting *d, const ss_digest_row *row, ss_error *reterr) {
    keeping *k = ctx;
    if (k->wanted[row->key_hash % SS_DIGEST_BUCKETS] == 0 || k->count == k->most)
        return SS_OK;
    if (k->count == k->cap) {
        size_t cap = k->cap == 0 ? 256 : k->cap * 2;
        ss_digest_row *more = ss_arena_alloc(k->arena, cap * sizeof *more);
        if (more == NULL)
            return ss_tgt_nomem(reterr);
        if (k->count > 0)
            memcpy(more, k->rows, k->count * sizeof *more);
        k->rows = more;
        k->cap = cap;
    }
    ss_digest_row *to = &k->rows[k->count];
    *to = *row;
    to->key = key_text(k, d);
    if (to->key == NULL)
        return ss_tgt_nomem(reterr);
    k->count++;
    return SS_OK;
}

ss_status ss_tgt_digest_rows(void *digest, const Sidespool__Schema *schema, const uint8_t *wanted,
                             size_t most, ss_arena *arena, ss_digest_row **ret, size_t *ret_count,
                             ss_error *reterr) {
    keeping k = {.schema = schema, .wanted = wanted, .most = most, .arena = arena};
    ss_status status = each(digest, schema, keep, &k, reterr);
    if (status == SS_OK) {
        *ret = k.rows;
        *ret_count = k.count;
    }
    return status;
}
