/* Bookkeeping in the target's schema `sidespool`: what of the spool is in, per route, in the same
 * transaction as the rows.
 *
 * If we die before a COMMIT, rows and progress are both gone and the spool still holds the records;
 * if we die after it, both are there, and the route goes on behind them. There is no third case,
 * because nothing of a batch is written outside. */
#include "target_postgres.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char MAKE[] =
    "CREATE SCHEMA sidespool;"
    "COMMENT ON SCHEMA sidespool IS 'bookkeeping of sidespool: do not write here';"
    "CREATE TABLE sidespool.version (version integer NOT NULL);"
    "INSERT INTO sidespool.version VALUES (1);"
    "CREATE TABLE sidespool.progress (route text PRIMARY KEY, source text NOT NULL, spool_id text "
    "NOT NULL, epoch bigint NOT NULL,"
    " sequence bigint NOT NULL, copy_sequence bigint NOT NULL, position text NOT NULL, as_of "
    "timestamptz);"
    "CREATE TABLE sidespool.table_state (route text, ns text, name text, status text NOT NULL, "
    "generation bigint NOT NULL,"
    " from_sequence bigint NOT NULL, schema_id bigint NOT NULL, rows bigint NOT NULL, bytes bigint "
    "NOT NULL,"
    " rows_estimate bigint NOT NULL, bytes_estimate bigint NOT NULL, loaded boolean NOT NULL, "
    "beside boolean NOT NULL,"
    " copy_number bigint, copy_fresh boolean NOT NULL DEFAULT false, kept boolean NOT NULL DEFAULT "
    "false, PRIMARY KEY (route, ns, name));"
    /* One route a table, whatever races: the second one's COMMIT cannot be. */
    "CREATE UNIQUE INDEX table_state_one_route ON sidespool.table_state (ns, name);"
    "CREATE SEQUENCE sidespool.copy_number;"
    "CREATE TABLE sidespool.objects (route text, generation bigint, number bigint, phase text NOT "
    "NULL, kind text NOT NULL,"
    " ns text NOT NULL, name text NOT NULL, of_table text NOT NULL, definition text NOT NULL, note "
    "text NOT NULL,"
    " optional boolean NOT NULL, done boolean NOT NULL DEFAULT false, refused text, PRIMARY KEY "
    "(route, generation, number));"
    "CREATE TABLE sidespool.freshness (route text PRIMARY KEY, as_of timestamptz, state text NOT "
    "NULL);"
    "COMMENT ON TABLE sidespool.freshness IS 'as_of: the copy holds all that the source had "
    "committed by then';"
    /* The lock is the one that an applier holds for its session (alone() in target_open.c): so a
     * route is only forgotten when nothing applies it. */
    "CREATE FUNCTION sidespool.forget_route(name text) RETURNS void LANGUAGE sql SET search_path = "
    "pg_catalog AS $$"
    " SELECT pg_advisory_xact_lock(('x' || substr(md5('sidespool.' || $1), 1, "
    "16))::bit(64)::bigint);"
    " DELETE FROM sidespool.progress WHERE route = $1; DELETE FROM sidespool.table_state WHERE "
    "route = $1;"
    " DELETE FROM sidespool.objects WHERE route = $1; DELETE FROM sidespool.freshness WHERE route "
    "= $1 $$;"
    "REVOKE ALL ON FUNCTION sidespool.forget_route(text) FROM public;"
    "COMMENT ON FUNCTION sidespool.forget_route(text) IS 'gives up a route that is gone for good; "
    "its tables and rows stay';"
    "GRANT USAGE ON SCHEMA sidespool TO public; GRANT SELECT ON sidespool.freshness TO public";

static ss_status known_version(ss_target *t, bool *ret_there, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(t, "bookkeeping",
                                    "SELECT to_regclass('sidespool.version') IS NOT NULL, "
                                    "EXISTS (SELECT FROM pg_namespace WHERE nspname = 'sidespool')",
                                    0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    bool version = PQgetvalue(res, 0, 0)[0] == 't', schema = PQgetvalue(res, 0, 1)[0] == 't';
    PQclear(res);
    *ret_there = version;
    if (!version && schema)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0004",
                       "The target has a schema sidespool without sidespool.version: it is not "
                       "this program's; rename it.");
    if (!version)
        return SS_OK;
    status = ss_tgt_query(t, "bookkeeping", "SELECT max(version), count(*) FROM sidespool.version",
                          0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    int found = atoi(PQgetvalue(res, 0, 0));
    PQclear(res);
    if (found != SS_TGT_BOOKKEEPING)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0004",
                       "The target's bookkeeping has version %d, this program knows %d: run the "
                       "version that made it, or a later one.",
                       found, SS_TGT_BOOKKEEPING);
    return SS_OK;
}

/* Made whole or not at all: one transaction, under a lock, because several routes may start on one
 * database at once. */
ss_status ss_tgt_bookkeeping(ss_target *t, ss_error *reterr) {
    bool there = false;
    ss_status status = known_version(t, &there, reterr);
    if (status != SS_OK || there)
        return status;
    status =
        ss_tgt_exec(t, "bookkeeping", "BEGIN; SELECT pg_advisory_xact_lock(7236555302)", reterr);
    if (status == SS_OK)
        status = known_version(t, &there, reterr);
    if (status == SS_OK && !there)
        status = ss_tgt_exec(t, "making the bookkeeping (schema sidespool)", MAKE, reterr);
    if (status == SS_OK)
        return ss_tgt_commit(t, reterr);
    PQclear(PQexec(t->conn, "ROLLBACK")); /* the error that led here is the one to tell */
    return status;
}

static uint64_t u64(PGresult *res, int row, int column) {
    return (uint64_t)strtoll(PQgetvalue(res, row, column), NULL, 10);
}

ss_status ss_tgt_progress(ss_target *t, ss_progress *ret, ss_error *reterr) {
    const char *values[] = {t->env->route};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "reading the progress",
                     "SELECT spool_id, epoch, sequence, copy_sequence, position, "
                     "coalesce((extract(epoch FROM as_of)::numeric * 1000000)::bigint, 0), source "
                     "FROM sidespool.progress WHERE route = $1",
                     1, values, &res, reterr);
    if (status != SS_OK)
        return status;
    ss_progress p = {0};
    p.exists = PQntuples(res) == 1;
    if (p.exists) {
        snprintf(p.spool_id, sizeof p.spool_id, "%s", PQgetvalue(res, 0, 0));
        p.epoch = u64(res, 0, 1);
        p.sequence = u64(res, 0, 2);
        p.copy_sequence = u64(res, 0, 3);
        snprintf(p.position, sizeof p.position, "%s", PQgetvalue(res, 0, 4));
        p.as_of = strtoll(PQgetvalue(res, 0, 5), NULL, 10);
        bool same = strcmp(PQgetvalue(res, 0, 6), t->env->source) == 0;
        if (!same)
            status = ss_fail(
                reterr, SS_STOP, "SS-TGT-0004",
                "On the target, route %s copies source %s, not %s: give one of them another name.",
                t->env->route, PQgetvalue(res, 0, 6), t->env->source);
        PQclear(res);
        if (status == SS_OK)
            *ret = p;
        return status;
    }
    PQclear(res);
    status = ss_tgt_query(t, "reading the progress",
                          "SELECT EXISTS (SELECT FROM sidespool.table_state WHERE route = $1) OR "
                          "EXISTS (SELECT FROM sidespool.freshness WHERE route = $1)",
                          1, values, &res, reterr);
    if (status != SS_OK)
        return status;
    p.ours_before = PQgetvalue(res, 0, 0)[0] == 't';
    PQclear(res);
    *ret = p;
    return SS_OK;
}

/* As they stand in the table: a stored format, so spelled here and not taken from what is shown to
 * people. */
static const char *const STATUS[] = {[SS_TABLE_ABSENT] = "absent",
                                     [SS_TABLE_COPYING] = "copying",
                                     [SS_TABLE_CATCHING_UP] = "catching_up",
                                     [SS_TABLE_READY] = "ready"};

static bool status_of(const char *name, ss_table_status *ret) {
    for (int s = SS_TABLE_ABSENT; s <= SS_TABLE_READY; s++)
        if (strcmp(STATUS[s], name) == 0) {
            *ret = (ss_table_status)s;
            return true;
        }
    return false;
}

static ss_status read_state(PGresult *res, int row, ss_arena *arena, ss_table_state *s,
                            ss_error *reterr) {
    *s = (ss_table_state){0};
    s->ns = ss_arena_strndup(arena, PQgetvalue(res, row, 0), (size_t)PQgetlength(res, row, 0));
    s->name = ss_arena_strndup(arena, PQgetvalue(res, row, 1), (size_t)PQgetlength(res, row, 1));
    if (s->ns == NULL || s->name == NULL)
        return ss_tgt_nomem(reterr);
    if (!status_of(PQgetvalue(res, row, 2), &s->status))
        return ss_fail(reterr, SS_STOP, "SS-TGT-0004",
                       "sidespool.table_state on the target says %s of %s.%s, which this program "
                       "does not know.",
                       PQgetvalue(res, row, 2), s->ns, s->name);
    s->generation = u64(res, row, 3);
    s->from_sequence = u64(res, row, 4);
    s->schema_id = u64(res, row, 5);
    s->rows = u64(res, row, 6);
    s->bytes = u64(res, row, 7);
    s->rows_estimate = u64(res, row, 8);
    s->bytes_estimate = u64(res, row, 9);
    s->loaded = PQgetvalue(res, row, 10)[0] == 't';
    s->beside = PQgetvalue(res, row, 11)[0] == 't';
    return SS_OK;
}

ss_status ss_tgt_states(ss_target *t, ss_arena *arena, ss_table_state **ret, size_t *ret_count,
                        ss_error *reterr) {
    const char *values[] = {t->env->route};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(
        t, "reading the table states",
        "SELECT ns, name, status, generation, from_sequence, schema_id, rows, bytes, "
        "rows_estimate, bytes_estimate, loaded, beside "
        "FROM sidespool.table_state WHERE route = $1 ORDER BY ns COLLATE \"C\", name COLLATE \"C\"",
        1, values, &res, reterr);
    if (status != SS_OK)
        return status;
    size_t count = (size_t)PQntuples(res);
    ss_table_state *states = ss_arena_zalloc(arena, (count + 1) * sizeof *states);
    if (states == NULL)
        status = ss_tgt_nomem(reterr);
    for (size_t i = 0; i < count && status == SS_OK; i++)
        status = read_state(res, (int)i, arena, &states[i], reterr);
    PQclear(res);
    if (status == SS_OK) {
        *ret = states;
        *ret_count = count;
    }
    return status;
}

/* ---- writing
 * -----------------------------------------------------------------------------------------------------------
 */
/* In a batch the statement is prepared and queued, in a copy it is executed at once. */
static ss_status put(ss_target *t, const char *what, const char *sql, int count,
                     const char *const *values, ss_error *reterr) {
    if (PQpipelineStatus(t->conn) == PQ_PIPELINE_OFF)
        return ss_tgt_query(t, what, sql, count, values, NULL, reterr);
    ss_buf_clear(&t->key);
    ss_buf_put_str(&t->key, sql);
    ss_tgt_stmt *stmt = ss_tgt_stmt_find(t);
    ss_status status = SS_OK;
    if (stmt == NULL) {
        ss_buf_clear(&t->sql);
        ss_buf_put_str(&t->sql, sql);
        status = ss_tgt_stmt_make(t, count, 25, &stmt, reterr);
    }
    if (status == SS_OK)
        status = ss_tgt_values_room(t, (size_t)count, reterr);
    if (status != SS_OK)
        return status;
    for (int i = 0; i < count; i++) {
        t->values[i] = values[i];
        t->lengths[i] = 0;
        t->formats[i] = 0;
    }
    return ss_tgt_stmt_send(t, stmt, count, (ss_tgt_answer){.kind = SS_TGT_CONTROL}, reterr);
}

typedef struct {
    char text[24];
} number;
static const char *num(number *n, uint64_t value) {
    snprintf(n->text, sizeof n->text, "%" PRId64, (int64_t)value);
    return n->text;
}

ss_status ss_tgt_put_progress(ss_target *t, const ss_progress *p, ss_error *reterr) {
    number n[4];
    char as_of[24];
    snprintf(as_of, sizeof as_of, "%" PRId64, p->as_of);
    const char *values[] = {t->env->route,
                            t->env->source,
                            p->spool_id,
                            num(&n[0], p->epoch),
                            num(&n[1], p->sequence),
                            num(&n[2], p->copy_sequence),
                            p->position,
                            p->as_of != 0 ? as_of : NULL};
    return put(
        t, "writing the progress",
        "INSERT INTO sidespool.progress AS p (route, source, spool_id, epoch, sequence, "
        "copy_sequence, position, as_of) "
        "VALUES ($1::text, $2::text, $3::text, $4::text::bigint, $5::text::bigint, "
        "$6::text::bigint, $7::text, "
        "timestamptz '1970-01-01 00:00:00+00' + $8::text::bigint * interval '1 microsecond') "
        "ON CONFLICT (route) DO UPDATE SET source = excluded.source, spool_id = excluded.spool_id, "
        "epoch = excluded.epoch, "
        "sequence = excluded.sequence, copy_sequence = excluded.copy_sequence, position = "
        "excluded.position, as_of = excluded.as_of",
        8, values, reterr);
}

ss_status ss_tgt_put_state(ss_target *t, const ss_table_state *s, ss_error *reterr) {
    number n[7];
    const char *values[] = {t->env->route,
                            s->ns,
                            s->name,
                            STATUS[s->status],
                            num(&n[0], s->generation),
                            num(&n[1], s->from_sequence),
                            num(&n[2], s->schema_id),
                            num(&n[3], s->rows),
                            num(&n[4], s->bytes),
                            num(&n[5], s->rows_estimate),
                            num(&n[6], s->bytes_estimate),
                            s->loaded ? "t" : "f",
                            s->beside ? "t" : "f"};
    return put(t, "writing a table's state",
               "INSERT INTO sidespool.table_state AS s (route, ns, name, status, generation, "
               "from_sequence, schema_id, rows, bytes, "
               "rows_estimate, bytes_estimate, loaded, beside) VALUES ($1::text, $2::text, "
               "$3::text, $4::text, $5::text::bigint, "
               "$6::text::bigint, $7::text::bigint, $8::text::bigint, $9::text::bigint, "
               "$10::text::bigint, $11::text::bigint, "
               "$12::text::boolean, $13::text::boolean) ON CONFLICT (route, ns, name) DO UPDATE "
               "SET status = excluded.status, "
               "generation = excluded.generation, from_sequence = excluded.from_sequence, "
               "schema_id = excluded.schema_id, rows = excluded.rows, "
               "bytes = excluded.bytes, rows_estimate = excluded.rows_estimate, bytes_estimate = "
               "excluded.bytes_estimate, "
               "loaded = excluded.loaded, beside = excluded.beside",
               13, values, reterr);
}

ss_status ss_tgt_put_freshness(ss_target *t, int64_t as_of, const char *state, ss_error *reterr) {
    number n;
    const char *values[] = {t->env->route, as_of != 0 ? num(&n, (uint64_t)as_of) : NULL,
                            state != NULL ? state : "unknown"};
    return put(t, "writing the freshness",
               "INSERT INTO sidespool.freshness (route, as_of, state) VALUES ($1::text, "
               "timestamptz '1970-01-01 00:00:00+00' + "
               "$2::text::bigint * interval '1 microsecond', $3::text) ON CONFLICT (route) DO "
               "UPDATE SET as_of = excluded.as_of, state = excluded.state",
               3, values, reterr);
}
