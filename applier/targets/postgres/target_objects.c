/* Objects of a copy: what a fresh target is built from. They are kept in sidespool.objects until
 * their phase: "pre" is carried out as it comes (before rows), "table" when the table's rows are
 * in, "final" when every table is ready.
 *
 * An object is marked done in the transaction that makes it, so a crash leaves both or neither. One
 * that is there already is fine: a second generation and a resync bring the same definitions again.
 */
#include "target_postgres.h"

#include "sidespool/log.h"
#include <inttypes.h>
#include <stdio.h>

static bool among(const char *word, const char *const *list) {
    for (size_t i = 0; list[i] != NULL; i++)
        if (strcmp(word, list[i]) == 0)
            return true;
    return false;
}

static bool there_already(const char *state) {
    static const char *const codes[] = {"42P06", "42P07", "42710", "42723", "42701", NULL};
    return among(state, codes);
}

/* The source's server wrote the definition, so nothing is wrong with it: a target that does not
 * understand it, or lacks a function or type of the system that it names, is older. */
static bool not_known(const char *state) {
    static const char *const codes[] = {"42601", "0A000", "22023", "42883", "42704", NULL};
    return among(state, codes);
}

/* The rows are the same without it. */
static bool dispensable(const char *kind, const char *state) {
    static const char *const kinds[] = {
        "constraint", "foreign_key", "check", "not_null", "index", "index_partition",
        "statistics", "replica_identity", "view", "materialized_view", NULL};
    bool above = strcmp(state, "42P01") == 0 && strstr(kind, "view") != NULL; /* one left out */
    return among(kind, kinds) && (not_known(state) || above);
}

/* The table was there with a primary key: it is the source's when its columns are. They are spelled
 * as pg_get_constraintdef spells them, with which the source made the definition. A constraint of a
 * partition tree belongs to no table of the copy: it is looked for by its own name. */
static ss_status same_key(ss_target *t, const char *table, const char *ns, const char *name,
                          const char *definition, bool *ret, ss_error *reterr) {
    const char *values[] = {table, definition, ns, name};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(
        t, "reading the table's primary key",
        "SELECT strpos($2, 'PRIMARY KEY (' || string_agg(quote_ident(a.attname), ', ' ORDER BY "
        "k.at) || ')') > 0 FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN "
        "pg_namespace n ON n.oid = r.relnamespace CROSS JOIN LATERAL unnest(c.conkey) WITH "
        "ORDINALITY k(attnum, at) JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = "
        "k.attnum WHERE c.contype = 'p' AND n.nspname || '.' || CASE $1 WHEN '' THEN c.conname "
        "ELSE r.relname END = "
        "CASE $1 WHEN '' THEN $3 || '.' || $4 ELSE $1 END GROUP BY c.oid",
        4, values, &res, reterr);
    if (status == SS_OK) {
        *ret = PQntuples(res) == 1 && PQgetvalue(res, 0, 0)[0] == 't';
        PQclear(res);
    }
    return status;
}

static void left_out(ss_target *t, const PGresult *res, const char *state, bool without, char *ret,
                     size_t size) {
    char said[300], server[64];
    ss_tgt_message(res, said, sizeof said);
    ss_tgt_server(t, server, sizeof server);
    if (!without && strcmp(state, "42601") != 0 && strcmp(state, "0A000") != 0)
        snprintf(ret, size, "%s", said);
    else if (ss_tgt_from_user_code(res)) /* the definition's own words, and the note says them */
        snprintf(ret, size, "%s of the target cannot have it", server);
    else
        snprintf(ret, size, "%s of the target cannot have it: %s", server, said);
}

static ss_status cannot_make(ss_target *t, const PGresult *res, const char *what, const char *state,
                             ss_error *reterr) {
    if (not_known(state)) {
        char said[300], server[64];
        ss_tgt_message(res, said, sizeof said);
        ss_tgt_server(t, server, sizeof server);
        return ss_fail(reterr, SS_STOP, "SS-TGT-0013",
                       "%s cannot be made by %s of the target: %s; make there what it "
                       "needs, or make it by hand and set adopt: true, or exclude it.",
                       what, server, said);
    }
    ss_status status = ss_tgt_error(t->conn, res, what, reterr);
    if (status == SS_STOP && reterr != NULL)
        reterr->code = "SS-TGT-0013";
    return status;
}

ss_status ss_tgt_object_run(ss_target *t, const char *kind, const char *ns, const char *name,
                            const char *table, const char *definition, bool optional,
                            char *ret_refused, size_t size, ss_error *reterr) {
    ret_refused[0] = '\0';
    /* Not in one message with the definition: of a message that cannot be parsed, nothing is run. */
    ss_status status = ss_tgt_exec(t, "a savepoint", "SAVEPOINT sidespool_object", reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "%s\n; RELEASE SAVEPOINT sidespool_object", definition);
    const char *sql = ss_buf_cstr(&t->sql);
    if (t->sql.bad)
        return ss_tgt_nomem(reterr);
    PGresult *res = PQexec(t->conn, sql);
    ExecStatusType got = PQresultStatus(res);
    if (got == PGRES_COMMAND_OK || got == PGRES_TUPLES_OK) {
        PQclear(res);
        return SS_OK;
    }
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    bool there = state != NULL && there_already(state), second_key = false;
    if (state != NULL && strcmp(state, "42P16") == 0 && strcmp(kind, "constraint") == 0)
        second_key = true;
    bool without = state != NULL && dispensable(kind, state);
    bool leave = state != NULL && !ss_tgt_sqlstate_retry(state) &&
                 (there || optional || second_key || without);
    if (leave) {
        status = ss_tgt_exec(
            t, "leaving an object out",
            "ROLLBACK TO SAVEPOINT sidespool_object; RELEASE SAVEPOINT sidespool_object", reterr);
        if (status == SS_OK && second_key)
            status = same_key(t, table, ns, name, definition, &there, reterr);
        if (status == SS_OK && !there && (optional || without))
            left_out(t, res, state, without, ret_refused, size);
        else if (status == SS_OK && !there)
            status = ss_fail(reterr, SS_STOP, "SS-TGT-0013",
                             "constraint %s.%s: the target's table%s%s has a primary key of other "
                             "columns than the source's; drop it and resume.",
                             ns, name, table[0] != '\0' ? " " : "", table);
    } else {
        char what[200];
        snprintf(what, sizeof what, "%s %s.%s", kind, ns, name);
        status = cannot_make(t, res, what, state != NULL ? state : "", reterr);
    }
    PQclear(res);
    return status;
}

/* ---- arriving
 * ---------------------------------------------------------------------------------------------------------------
 */
static bool is_type(const char *kind) {
    static const char *const kinds[] = {"type", "enum", "domain", "composite", "range", NULL};
    for (size_t i = 0; kinds[i] != NULL; i++)
        if (strcmp(kinds[i], kind) == 0)
            return true;
    return false;
}

/* A type that an earlier generation made must still be the same: nothing here alters types. */
static ss_status same_as_before(ss_target *t, const Sidespool__Object *o, const char *generation,
                                ss_error *reterr) {
    if (!is_type(o->kind))
        return SS_OK;
    const char *values[] = {t->env->route, generation, o->kind, o->ns, o->name, o->definition};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "looking for an earlier definition",
                     "SELECT definition = $6 FROM sidespool.objects o WHERE route = $1 AND "
                     "generation < $2::text::bigint AND kind = $3 AND ns = $4 AND name = $5 AND "
                     "phase = 'pre' AND done AND refused IS NULL AND EXISTS (SELECT FROM pg_type y "
                     "JOIN pg_namespace n ON n.oid = y.typnamespace WHERE n.nspname = $4 AND "
                     "y.typname = $5) ORDER BY generation DESC, number DESC LIMIT 1",
                     6, values, &res, reterr);
    if (status != SS_OK)
        return status;
    bool differs = PQntuples(res) == 1 && PQgetvalue(res, 0, 0)[0] == 'f';
    PQclear(res);
    if (differs)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0013",
                       "%s %s.%s has changed at the source since it was made here: ALTER it on the "
                       "target like the source's and "
                       "delete its row from sidespool.objects, or drop it, then resume.",
                       o->kind, o->ns, o->name);
    return SS_OK;
}

static ss_status keep(ss_target *t, const Sidespool__Object *o, const char *generation, bool done,
                      const char *refused, ss_error *reterr) {
    const char *older[] = {t->env->route, generation, o->phase, o->kind, o->ns, o->name, o->table};
    ss_status status = ss_tgt_query(t, "keeping an object",
                                    "DELETE FROM sidespool.objects WHERE route = $1 AND generation "
                                    "< $2::text::bigint AND phase = $3 AND "
                                    "kind = $4 AND ns = $5 AND name = $6 AND of_table = $7",
                                    7, older, NULL, reterr);
    if (status != SS_OK)
        return status;
    const char *values[] = {t->env->route,
                            generation,
                            o->phase,
                            o->kind,
                            o->ns,
                            o->name,
                            o->table,
                            o->definition,
                            o->note,
                            o->optional ? "t" : "f",
                            done ? "t" : "f",
                            refused[0] != '\0' ? refused : NULL};
    return ss_tgt_query(
        t, "keeping an object",
        "INSERT INTO sidespool.objects (route, generation, number, phase, kind, ns, name, "
        "of_table, definition, note, "
        "optional, done, refused) SELECT $1::text, $2::text::bigint, coalesce(max(number), 0) + 1, "
        "$3::text, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text, "
        "$10::text::boolean, $11::text::boolean, $12::text FROM sidespool.objects WHERE route = "
        "$1::text AND generation = $2::text::bigint",
        12, values, NULL, reterr);
}

/* The table was there before this copy, so nothing of its making is carried out. */
static ss_status table_kept(ss_target *t, const char *table, bool *ret, ss_error *reterr) {
    const char *values[] = {t->env->route, table};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(t, "reading a table's state",
                                    "SELECT EXISTS (SELECT FROM sidespool.table_state WHERE route "
                                    "= $1 AND ns || '.' || name = $2 AND kept)",
                                    2, values, &res, reterr);
    if (status == SS_OK) {
        *ret = PQgetvalue(res, 0, 0)[0] == 't';
        PQclear(res);
    }
    return status;
}

static ss_status object(ss_target *t, const Sidespool__Object *o, ss_error *reterr) {
    char generation[24], refused[300] = "";
    snprintf(generation, sizeof generation, "%" PRIu64, o->generation);
    bool pre = strcmp(o->phase, "pre") == 0, kept = false, done = false;
    if (!pre && strcmp(o->phase, "table") != 0 && strcmp(o->phase, "final") != 0)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0013",
                       "%s %s.%s has a phase (%s) that this version does not know.", o->kind, o->ns,
                       o->name, o->phase);
    ss_status status = ss_tgt_copy_end_rows(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_copy_tx(t, reterr);
    if (status == SS_OK && pre && o->table[0] != '\0')
        status = table_kept(t, o->table, &kept, reterr);
    if (status == SS_OK && pre && !kept && o->definition[0] != '\0') {
        status = same_as_before(t, o, generation, reterr);
        if (status == SS_OK)
            status = ss_tgt_object_run(t, o->kind, o->ns, o->name, o->table, o->definition,
                                       o->optional, refused, sizeof refused, reterr);
        done = true;
    }
    /* What was left out, and what the source could not describe, is listed once, by finish. */
    if (refused[0] != '\0' || o->definition[0] == '\0')
        done = false;
    else if (kept)
        done = true;
    return status == SS_OK ? keep(t, o, generation, done, refused, reterr) : status;
}

ss_status ss_tgt_copy_object(ss_target *t, const Sidespool__Object *o, ss_error *reterr) {
    ss_status status = object(t, o, reterr);
    ss_error other = {0};
    if (status != SS_OK && PQstatus(t->conn) == CONNECTION_OK &&
        ss_tgt_rollback(t, &other) != SS_OK)
        ss_log_error(SS_WARN, "rollback_failed", &other);
    return status;
}

/* ---- carrying out
 * -------------------------------------------------------------------------------------------------------------
 */
enum {
    O_GENERATION,
    O_NUMBER,
    O_KIND,
    O_NS,
    O_NAME,
    O_DEFINITION,
    O_NOTE,
    O_OPTIONAL,
    O_REFUSED,
    O_PHASE,
    O_TABLE
};
#define O_COLUMNS                                                                                  \
    "generation, number, kind, ns, name, definition, note, optional, coalesce(refused, ''), "      \
    "phase, "                                                                                      \
    "of_table"

static ss_status mark(ss_target *t, PGresult *res, int row, bool done, const char *refused,
                      ss_error *reterr) {
    const char *values[] = {t->env->route, PQgetvalue(res, row, O_GENERATION),
                            PQgetvalue(res, row, O_NUMBER), refused[0] != '\0' ? refused : NULL,
                            done ? "t" : "f"};
    return ss_tgt_query(t, "marking an object",
                        "UPDATE sidespool.objects SET done = $5::text::boolean, refused = $4 WHERE "
                        "route = $1 AND generation = $2::text::bigint "
                        "AND number = $3::text::bigint",
                        5, values, NULL, reterr);
}

ss_status ss_tgt_objects_of_table(ss_target *t, const char *ns, const char *name,
                                  ss_error *reterr) {
    char table[300], refused[300];
    snprintf(table, sizeof table, "%s.%s", ns, name);
    const char *values[] = {t->env->route, table};
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(
        t, "reading the table's objects",
        "SELECT " O_COLUMNS
        " FROM sidespool.objects WHERE route = $1 AND of_table = $2 AND phase = 'table' "
        "AND NOT done AND definition <> '' AND refused IS NULL ORDER BY generation, number",
        2, values, &res, reterr);
    if (status != SS_OK)
        return status;
    for (int i = 0; i < PQntuples(res) && status == SS_OK; i++) {
        status = ss_tgt_object_run(
            t, PQgetvalue(res, i, O_KIND), PQgetvalue(res, i, O_NS), PQgetvalue(res, i, O_NAME),
            PQgetvalue(res, i, O_TABLE), PQgetvalue(res, i, O_DEFINITION),
            PQgetvalue(res, i, O_OPTIONAL)[0] == 't', refused, sizeof refused, reterr);
        /* A refused one stays open until finish has named it. */
        if (status == SS_OK)
            status = mark(t, res, i, refused[0] == '\0', refused, reterr);
    }
    PQclear(res);
    return status;
}

static void tell(PGresult *res, int row, const char *refused, ss_check_line line, void *ctx) {
    char what[300];
    const char *ns = PQgetvalue(res, row, O_NS);
    if (ns[0] != '\0')
        snprintf(what, sizeof what, "%s %s.%s", PQgetvalue(res, row, O_KIND), ns,
                 PQgetvalue(res, row, O_NAME));
    else
        snprintf(what, sizeof what, "%s",
                 PQgetvalue(res, row, O_KIND)); /* a list of many: the note names them */
    const char *note = PQgetvalue(res, row, O_NOTE);
    line(ctx, false, what, refused[0] != '\0' ? refused : note, refused[0] != '\0' ? note : "");
}

/* One final object in a transaction of its own. It may run long (a foreign key, a materialized
 * view): joins are wanted here. */
static ss_status finish_one(ss_target *t, PGresult *res, int i, ss_check_line line, void *ctx,
                            ss_error *reterr) {
    char refused[300];
    snprintf(refused, sizeof refused, "%s", PQgetvalue(res, i, O_REFUSED));
    bool run = strcmp(PQgetvalue(res, i, O_PHASE), "final") == 0 &&
               PQgetvalue(res, i, O_DEFINITION)[0] != '\0';
    ss_status status = ss_tgt_exec(t, "BEGIN",
                                   "BEGIN; SET LOCAL enable_hashjoin = on; SET LOCAL "
                                   "enable_mergejoin = on; SET LOCAL enable_seqscan = on",
                                   reterr);
    if (status == SS_OK && run)
        status = ss_tgt_object_run(
            t, PQgetvalue(res, i, O_KIND), PQgetvalue(res, i, O_NS), PQgetvalue(res, i, O_NAME),
            PQgetvalue(res, i, O_TABLE), PQgetvalue(res, i, O_DEFINITION),
            PQgetvalue(res, i, O_OPTIONAL)[0] == 't', refused, sizeof refused, reterr);
    if (status == SS_OK)
        status = mark(t, res, i, true, refused, reterr);
    if (status == SS_OK)
        status = ss_tgt_commit(t, reterr);
    if (status == SS_OK && (refused[0] != '\0' || PQgetvalue(res, i, O_DEFINITION)[0] == '\0'))
        tell(res, i, refused, line, ctx);
    return status;
}

ss_status ss_tgt_finish(ss_target *t, ss_check_line line, void *ctx, ss_error *reterr) {
    const char *values[] = {t->env->route};
    PGresult *res = NULL;
    if (t->copy_tx || t->open)
        return ss_fail(
            reterr, SS_STOP, "SS-TGT-0012",
            "The copy was to be finished while a transaction was open: restart the route.");
    ss_status status = ss_tgt_query(
        t, "reading the pending objects",
        "SELECT " O_COLUMNS " FROM sidespool.objects WHERE route = $1 AND NOT done AND "
        "(phase = 'final' OR definition = '' OR refused IS NOT NULL) ORDER BY generation, number",
        1, values, &res, reterr);
    if (status != SS_OK)
        return status;
    for (int i = 0; i < PQntuples(res) && status == SS_OK; i++)
        status = finish_one(t, res, i, line, ctx, reterr);
    if (PQntuples(res) > 0)
        ss_tgt_tables_forget(t); /* triggers and foreign keys may have come */
    PQclear(res);
    ss_error other = {0};
    if (status != SS_OK && PQstatus(t->conn) == CONNECTION_OK &&
        ss_tgt_rollback(t, &other) != SS_OK)
        ss_log_error(SS_WARN, "rollback_failed", &other);
    return status;
}
