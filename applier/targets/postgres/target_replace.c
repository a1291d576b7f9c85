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
    ss_buf_clear(&t->sql);
    ss_buf_put_str(&t->sql, "ALTER TABLE ");
    put_name(&t->sql, schema->ns, schema->name);
    ss_buf_printf(&t->sql, " RENAME TO sidespool_old_%" PRIu64, number);
    for (int i = 0; i < PQntuples(res); i++)
        ss_buf_printf(&t->sql, "; %s", PQgetvalue(res, i, 0));
    PQclear(res);
    ss_buf_put_str(&t->sql, "; ALTER TABLE ");
    put_name(&t->sql, schema->ns, schema->name);
    ss_buf_printf(&t->sql, " RENAME TO copy_%" PRIu64 "; ALTER TABLE ", number);
    ss_tgt_put_ident(&t->sql, schema->ns);
    ss_buf_printf(&t->sql, ".copy_%" PRIu64 " SET SCHEMA sidespool; ALTER TABLE ", number);
    ss_tgt_put_ident(&t->sql, schema->ns);
    ss_buf_printf(&t->sql, ".sidespool_old_%" PRIu64 " RENAME TO ", number);
    ss_tgt_put_ident(&t->sql, schema->name);
    char what[360];
    snprintf(what, sizeof what, "making table %s beside the old one", of_table);
    return status == SS_OK ? run(t, what, reterr) : status;
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

/* Catching up finds rows by their key; a table that was empty of indexes needs one for that. */
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
    ss_buf_printf(&t->sql, "CREATE %sINDEX ON sidespool.copy_%" PRIu64 " (",
                  deferrable ? "" : "UNIQUE ", how.number);
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
                     "AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
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

static ss_status replace_table(ss_target *t, const ss_table_state *s, uint64_t number,
                               ss_error *reterr) {
    ss_status status = childless(t, s, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&t->sql);
    ss_buf_put_str(&t->sql, "DROP TABLE ");
    put_name(&t->sql, s->ns, s->name);
    ss_buf_printf(&t->sql, " RESTRICT; ALTER TABLE sidespool.copy_%" PRIu64 " SET SCHEMA ", number);
    ss_tgt_put_ident(&t->sql, s->ns);
    ss_buf_put_str(&t->sql, "; ALTER TABLE ");
    ss_tgt_put_ident(&t->sql, s->ns);
    ss_buf_printf(&t->sql, ".copy_%" PRIu64 " RENAME TO ", number);
    ss_tgt_put_ident(&t->sql, s->name);
    char what[200];
    snprintf(what, sizeof what, "replacing table %s.%s by one with other columns", s->ns, s->name);
    status = run(t, what, reterr);
    if (status == SS_STOP && reterr != NULL)
        reterr->code = "SS-TGT-0016";
    return status == SS_OK ? ss_tgt_objects_of_table(t, s->ns, s->name, reterr) : status;
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
