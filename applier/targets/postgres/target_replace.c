/* Tables loaded beside: a resync loads sidespool.copy_<n> while readers go on with the old rows,
 * and puts it in place in one transaction. With equal columns the old rows are deleted and the new
 * ones inserted (MVCC: a reader sees the old or the new, never an empty table; TRUNCATE would not
 * do that). With other columns the old table is dropped, RESTRICT, and the new one, made from the
 * source's definition, takes its name in the same transaction. */
#include "target_postgres.h"

#include "sidespool/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

ss_status ss_tgt_beside_get(ss_target *t, const char *ns, const char *name, ss_tgt_beside *ret,
                            ss_error *reterr) {
    const char *values[] = {t->env->route, ns, name};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "reading a table's state",
                     "SELECT true, beside, copy_fresh, kept, coalesce(copy_number, 0) "
                     "FROM sidespool.table_state WHERE route = $1 AND ns = $2 AND name = $3",
                     3, values, &res, reterr);
    if (status != SS_OK)
        return status;
    *ret = (ss_tgt_beside){0};
    if (PQntuples(res) == 1) {
        ret->known = PQgetvalue(res, 0, 0)[0] == 't';
        ret->beside = PQgetvalue(res, 0, 1)[0] == 't';
        ret->fresh = PQgetvalue(res, 0, 2)[0] == 't';
        ret->kept = PQgetvalue(res, 0, 3)[0] == 't';
        ret->number = strtoull(PQgetvalue(res, 0, 4), NULL, 10);
    }
    PQclear(res);
    return SS_OK;
}

static ss_status run(ss_target *t, const char *what, ss_error *reterr) {
    const char *sql = ss_buf_cstr(&t->sql);
    return t->sql.bad ? ss_tgt_nomem(reterr) : ss_tgt_exec(t, what, sql, reterr);
}

static void put_name(ss_buf *out, const char *ns, const char *name) {
    ss_tgt_put_ident(out, ns);
    ss_buf_put_byte(out, '.');
    ss_tgt_put_ident(out, name);
}

ss_status ss_tgt_beside_drop(ss_target *t, const char *ns, const char *name, ss_error *reterr) {
    ss_tgt_beside was = {0};
    ss_status status = ss_tgt_beside_get(t, ns, name, &was, reterr);
    if (status != SS_OK || was.number == 0)
        return status;
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "DROP TABLE IF EXISTS sidespool.copy_%" PRIu64, was.number);
    return run(t, "dropping a stale copy", reterr);
}

/* Runs what a query of $1 schema, $2 table, $3 wrote: statements in its only cell, or NULL. */
static ss_status run_written(ss_target *t, const char *what, const char *query, const char *ns,
                             const char *name, const char *third, ss_error *reterr) {
    const char *values[] = {ns, name, third};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(t, what, query, 3, values, &res, reterr);
    if (status == SS_OK && !PQgetisnull(res, 0, 0))
        status = ss_tgt_exec(t, what, PQgetvalue(res, 0, 0), reterr);
    PQclear(res);
    return status;
}

/* Names of sequences are a schema's, not a table's, and a definition says that of each identity column. So those of a table
 * step aside with it, to `prefix` and the column's number; "" takes them back. The comment holds the name meanwhile, and the
 * comment that was there. */
static ss_status sequences_rename(ss_target *t, const char *ns, const char *name,
                                  const char *prefix, ss_error *reterr) {
    return run_written(
        t, "renaming the sequences of identity columns",
        "SELECT string_agg(format('COMMENT ON SEQUENCE %1$I.%2$I IS %3$L; ALTER SEQUENCE %1$I.%2$I "
        "RENAME TO %4$I', n.nspname, s.relname, CASE $3 WHEN '' THEN kept.was ->> 1 ELSE "
        "json_build_array(s.relname, obj_description(s.oid, 'pg_class'))::text END, CASE $3 WHEN '' "
        "THEN kept.was ->> 0 ELSE $3 || d.refobjsubid END), '; ') FROM pg_class r JOIN pg_namespace "
        "rn ON rn.oid = r.relnamespace JOIN pg_depend d ON d.refobjid = r.oid AND d.refclassid = "
        "'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'i' JOIN "
        "pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = "
        "s.relnamespace CROSS JOIN LATERAL (SELECT CASE $3 WHEN '' THEN obj_description(s.oid, "
        "'pg_class')::json END AS was) kept WHERE rn.nspname = $1 AND r.relname = $2",
        ns, name, prefix, reterr);
}

/* The definition names the table itself. So the old one steps aside for a moment, inside this
 * transaction: nobody sees it. */
static ss_status make_fresh(ss_target *t, const Sidespool__Schema *schema, uint64_t number,
                            ss_error *reterr) {
    char of_table[300];
    snprintf(of_table, sizeof of_table, "%s.%s", schema->ns, schema->name);
    const char *values[] = {t->env->route, of_table, schema->ns, schema->name};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(
        t, "reading the table's definition",
        "SELECT definition FROM sidespool.objects o WHERE route = $1 AND phase = 'pre' "
        "AND of_table = $2 AND ns = $3 AND name = $4 AND kind IN ('table', 'column', 'default') "
        "AND definition <> '' AND NOT optional AND generation = "
        "(SELECT max(generation) FROM sidespool.objects WHERE route = $1 AND phase = 'pre' AND "
        "kind = 'table' AND ns = $3 AND name = $4) ORDER BY number",
        4, values, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQntuples(res) == 0)
        status = ss_fail(reterr, SS_STOP, "SS-TGT-0008",
                         "Table %s: its columns differ and the copy brought no definition of it; "
                         "drop the target's table and resync it.",
                         of_table);
    char what[360], old[64], copy[64], old_prefix[80], copy_prefix[80];
    snprintf(what, sizeof what, "making table %s beside the old one", of_table);
    snprintf(old, sizeof old, "sidespool_old_%" PRIu64, number);
    snprintf(old_prefix, sizeof old_prefix, "%s_", old);
    snprintf(copy, sizeof copy, "copy_%" PRIu64, number);
    snprintf(copy_prefix, sizeof copy_prefix, "%s_", copy);
    if (status == SS_OK)
        status = sequences_rename(t, schema->ns, schema->name, old_prefix, reterr);
    ss_buf_clear(&t->sql);
    ss_buf_put_str(&t->sql, "ALTER TABLE ");
    put_name(&t->sql, schema->ns, schema->name);
    ss_buf_printf(&t->sql, " RENAME TO %s", old);
    for (int i = 0; i < PQntuples(res); i++)
        ss_buf_printf(&t->sql, "; %s", PQgetvalue(res, i, 0));
    PQclear(res);
    ss_buf_put_str(&t->sql, "; ALTER TABLE ");
    put_name(&t->sql, schema->ns, schema->name);
    ss_buf_printf(&t->sql, " RENAME TO %s", copy);
    if (status == SS_OK)
        status = run(t, what, reterr);
    if (status == SS_OK)
        status = sequences_rename(t, schema->ns, copy, copy_prefix, reterr);
    ss_buf_clear(&t->sql);
    ss_buf_put_str(&t->sql, "ALTER TABLE ");
    put_name(&t->sql, schema->ns, copy);
    ss_buf_put_str(&t->sql, " SET SCHEMA sidespool; ALTER TABLE ");
    put_name(&t->sql, schema->ns, old);
    ss_buf_put_str(&t->sql, " RENAME TO ");
    ss_tgt_put_ident(&t->sql, schema->name);
    if (status == SS_OK)
        status = run(t, what, reterr);
    return status == SS_OK ? sequences_rename(t, schema->ns, schema->name, "", reterr) : status;
}

ss_status ss_tgt_beside_make(ss_target *t, const Sidespool__Schema *schema, ss_error *reterr) {
    ss_tgt_beside how = {0};
    ss_status status = ss_tgt_beside_get(t, schema->ns, schema->name, &how, reterr);
    if (status != SS_OK || !how.beside || how.number != 0)
        return status;
    ss_error difference = {0};
    status = ss_tgt_compare_with(t, schema, schema->ns, schema->name, &difference);
    if (status == SS_RETRY || (status != SS_OK && strcmp(difference.code, "SS-TGT-0008") != 0)) {
        *reterr = difference;
        return status;
    }
    bool fresh = status != SS_OK;
    const char *values[] = {t->env->route, schema->ns, schema->name, fresh ? "t" : "f"};
    PGresult *res = NULL;
    status = ss_tgt_query(
        t, "writing a table's state",
        "UPDATE sidespool.table_state SET copy_number = nextval('sidespool.copy_number'), "
        "copy_fresh = $4::text::boolean WHERE route = $1 AND ns = $2 AND name = $3 RETURNING "
        "copy_number",
        4, values, &res, reterr);
    if (status != SS_OK)
        return status;
    uint64_t number = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
    PQclear(res);
    ss_tgt_tables_forget(t);
    if (fresh) {
        SS_LOG(SS_INFO, "table_made_anew", SS_S("route", t->env->route),
               SS_S("difference", difference.text));
        return make_fresh(t, schema, number, reterr);
    }
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "CREATE TABLE sidespool.copy_%" PRIu64 " (LIKE ", number);
    put_name(&t->sql, schema->ns, schema->name);
    ss_buf_put_str(&t->sql, " INCLUDING ALL)");
    return run(t, "making the table of a resync", reterr);
}

/* The key that the copy brought, to be made when the table is in place. */
static ss_status key_deferrable(ss_target *t, const Sidespool__Schema *schema, bool *ret,
                                ss_error *reterr) {
    char of_table[300];
    snprintf(of_table, sizeof of_table, "%s.%s", schema->ns, schema->name);
    const char *values[] = {t->env->route, of_table};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(
        t, "reading the table's key",
        "SELECT EXISTS (SELECT FROM sidespool.objects WHERE route = $1 AND of_table = $2 AND phase "
        "= 'table' AND NOT done AND kind = 'constraint' AND definition ~ 'PRIMARY KEY .*\\) "
        "DEFERRABLE')",
        2, values, &res, reterr);
    if (status == SS_OK) {
        *ret = PQgetvalue(res, 0, 0)[0] == 't';
        PQclear(res);
    }
    return status;
}

/* Catching up finds rows by their key; a table that was empty of indexes needs one for that. It goes
 * when the table is put in place, and the source's own come. */
ss_status ss_tgt_beside_index(ss_target *t, const Sidespool__Schema *schema, ss_error *reterr) {
    ss_tgt_beside how = {0};
    ss_status status = ss_tgt_beside_get(t, schema->ns, schema->name, &how, reterr);
    if (status != SS_OK || !how.fresh)
        return status;
    bool deferrable = false;
    status = key_deferrable(t, schema, &deferrable, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "CREATE %sINDEX copy_%" PRIu64 "_key ON sidespool.copy_%" PRIu64 " (",
                  deferrable ? "" : "UNIQUE ", how.number, how.number);
    int keys = 0;
    for (size_t i = 0; i < schema->n_columns; i++)
        if (schema->columns[i]->key) {
            ss_buf_put_str(&t->sql, keys++ > 0 ? ", " : "");
            ss_tgt_put_ident(&t->sql, schema->columns[i]->name);
        }
    ss_buf_put_str(&t->sql, ")");
    return keys > 0 && keys <= 32 ? run(t, "indexing the table of a resync", reterr) : SS_OK;
}

/* ---- putting in place
 * ---------------------------------------------------------------------------------------------------------
 */
static ss_status insert_columns(ss_target *t, const ss_table_state *s, ss_buf *out,
                                ss_error *reterr) {
    const char *values[] = {s->ns, s->name};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "reading the table's columns",
                     "SELECT a.attname FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid "
                     "JOIN pg_namespace n ON n.oid = r.relnamespace WHERE n.nspname = $1 AND "
                     "r.relname = $2 AND a.attnum > 0 "
                     "AND NOT a.attisdropped AND " SS_TGT_GENERATED " = '' ORDER BY a.attnum",
                     2, values, &res, reterr);
    if (status != SS_OK)
        return status;
    for (int i = 0; i < PQntuples(res); i++) {
        ss_buf_put_str(out, i > 0 ? ", " : "");
        ss_tgt_put_ident(out, PQgetvalue(res, i, 0));
    }
    PQclear(res);
    return out->bad ? ss_tgt_nomem(reterr) : SS_OK;
}

static ss_status replace_rows(ss_target *t, const ss_table_state *s, uint64_t number,
                              ss_error *reterr) {
    ss_buf columns;
    ss_buf_init(&columns);
    ss_status status = insert_columns(t, s, &columns, reterr);
    const char *only = "";
    if (status == SS_OK)
        status = ss_tgt_only(t, s->ns, s->name, &only, reterr);
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "DELETE FROM %s", only);
    put_name(&t->sql, s->ns, s->name);
    ss_buf_put_str(&t->sql, "; INSERT INTO ");
    put_name(&t->sql, s->ns, s->name);
    if (columns.len > 0)
        ss_buf_printf(&t->sql, " (%s) OVERRIDING SYSTEM VALUE", ss_buf_cstr(&columns));
    ss_buf_printf(&t->sql,
                  " SELECT %s FROM sidespool.copy_%" PRIu64 "; DROP TABLE sidespool.copy_%" PRIu64,
                  columns.len > 0 ? ss_buf_cstr(&columns) : "", number, number);
    ss_buf_done(&columns);
    char what[200];
    snprintf(what, sizeof what, "replacing the rows of %s.%s", s->ns, s->name);
    return status == SS_OK ? run(t, what, reterr) : status;
}

/* Inheritance children cannot pass to another parent without being made anew themselves. */
static ss_status childless(ss_target *t, const ss_table_state *s, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_tgt_children(t, s->ns, s->name, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQntuples(res) > 0)
        status =
            ss_fail(reterr, SS_STOP, "SS-TGT-0016",
                    "Table %s.%s has other columns than its source and tables that inherit from it "
                    "on the target (%s.%s%s): ALTER it, which alters them too, and resync it, or "
                    "drop them all and resync them.",
                    s->ns, s->name, PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1),
                    PQntuples(res) > 1 ? " and others" : "");
    PQclear(res);
    return status;
}

/* Sequences that the old table's columns own, and the new one's defaults use, belong to nobody while the old one is dropped. */
static ss_status sequences_free(ss_target *t, const ss_table_state *s, const char *copy, ss_buf *ret_own, ss_error *reterr) {
    const char *values[] = {s->ns, s->name, copy};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(
        t, "reading the table's sequences",
        "SELECT string_agg(format('ALTER SEQUENCE %I.%I OWNED BY NONE', n.nspname, s.relname), '; "
        "'), string_agg(format('; ALTER SEQUENCE %I.%I OWNED BY %I.%I.%I', n.nspname, s.relname, "
        "$1::text, $2::text, a.attname), '') FROM pg_class r JOIN pg_namespace rn ON rn.oid = "
        "r.relnamespace JOIN pg_depend d ON d.refobjid = r.oid AND d.refclassid = "
        "'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'a' JOIN "
        "pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = "
        "s.relnamespace JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = d.refobjsubid "
        "WHERE rn.nspname = $1 AND r.relname = $2 AND EXISTS (SELECT FROM pg_attribute b WHERE "
        "b.attrelid = to_regclass('sidespool.' || $3::text) AND b.attname = a.attname AND NOT "
        "b.attisdropped)",
        3, values, &res, reterr);
    if (status == SS_OK && !PQgetisnull(res, 0, 0)) {
        ss_buf_put_str(ret_own, PQgetvalue(res, 0, 1));
        status = ss_tgt_exec(t, "freeing the table's sequences", PQgetvalue(res, 0, 0), reterr);
    }
    PQclear(res);
    return status;
}

static ss_status replace_table(ss_target *t, const ss_table_state *s, uint64_t number,
                               ss_error *reterr) {
    char copy[64], what[200];
    ss_buf own;
    ss_buf_init(&own);
    snprintf(copy, sizeof copy, "copy_%" PRIu64, number);
    ss_status status = childless(t, s, reterr);
    if (status == SS_OK)
        status = sequences_free(t, s, copy, &own, reterr);
    if (status != SS_OK)
        goto out;
    ss_buf_clear(&t->sql);
    ss_buf_put_str(&t->sql, "DROP TABLE ");
    put_name(&t->sql, s->ns, s->name);
    /* Before the source's indexes are made: a partition's would else be taken to be this one. */
    ss_buf_printf(&t->sql,
                  " RESTRICT; DROP INDEX IF EXISTS sidespool.copy_%" PRIu64
                  "_key; ALTER TABLE sidespool.copy_%" PRIu64 " SET SCHEMA ",
                  number, number);
    ss_tgt_put_ident(&t->sql, s->ns);
    ss_buf_put_str(&t->sql, "; ALTER TABLE ");
    ss_tgt_put_ident(&t->sql, s->ns);
    ss_buf_printf(&t->sql, ".copy_%" PRIu64 " RENAME TO ", number);
    ss_tgt_put_ident(&t->sql, s->name);
    ss_buf_put(&t->sql, own.ptr, own.len);
    t->sql.bad |= own.bad;
    snprintf(what, sizeof what, "replacing table %s.%s by one with other columns", s->ns, s->name);
    status = run(t, what, reterr);
    if (status == SS_STOP && reterr != NULL)
        reterr->code = "SS-TGT-0016";
    if (status == SS_OK)
        status = sequences_rename(t, s->ns, s->name, "", reterr);
    if (status == SS_OK)
        status = ss_tgt_objects_of_table(t, s->ns, s->name, reterr);
out:
    ss_buf_done(&own);
    return status;
}

static ss_status replace(ss_target *t, const ss_table_state *s, ss_error *reterr) {
    ss_tgt_beside how = {0};
    ss_status status = ss_tgt_beside_get(t, s->ns, s->name, &how, reterr);
    if (status == SS_OK && s->beside && how.beside && how.number != 0) {
        status = how.fresh ? replace_table(t, s, how.number, reterr)
                           : replace_rows(t, s, how.number, reterr);
        const char *values[] = {t->env->route, s->ns, s->name};
        if (status == SS_OK)
            status = ss_tgt_query(
                t, "writing a table's state",
                "UPDATE sidespool.table_state SET copy_number = NULL, copy_fresh = false "
                "WHERE route = $1 AND ns = $2 AND name = $3",
                3, values, NULL, reterr);
    }
    ss_table_state state = *s;
    state.beside = false;
    return status == SS_OK ? ss_tgt_put_state(t, &state, reterr) : status;
}

ss_status ss_tgt_copy_replace(ss_target *t, const ss_table_state *states, size_t count,
                              const ss_progress *progress, ss_error *reterr) {
    ss_status status = ss_tgt_copy_end_rows(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_copy_tx(t, reterr);
    for (size_t i = 0; i < count && status == SS_OK; i++)
        status = replace(t, &states[i], reterr);
    if (status == SS_OK)
        status = ss_tgt_put_progress(t, progress, reterr);
    if (status == SS_OK)
        status = ss_tgt_commit(t, reterr);
    ss_tgt_tables_forget(t);
    if (status == SS_OK) {
        t->copy_tx = false;
        return SS_OK;
    }
    ss_error other = {0};
    if (PQstatus(t->conn) == CONNECTION_OK && ss_tgt_rollback(t, &other) != SS_OK)
        ss_log_error(SS_WARN, "rollback_failed", &other);
    return status;
}
