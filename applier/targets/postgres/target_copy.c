/* Rows of a copy. A table that the route does not know yet is loaded where it belongs; one that
 * readers use is loaded beside (target_replace.c).
 *
 * Rows, table states and the place in the copy log are one transaction (copy_flush, copy_table): if
 * we die before its COMMIT, its rows are gone with it and the route reads them again from the place
 * that the target still says. */
#include "target_postgres.h"

#include "sidespool/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static ss_status given_up(ss_target *t, ss_status status) {
    ss_error other = {0};
    if (status != SS_OK && PQstatus(t->conn) == CONNECTION_OK &&
        ss_tgt_rollback(t, &other) != SS_OK)
        ss_log_error(SS_WARN, "rollback_failed", &other);
    return status;
}

ss_status ss_tgt_copy_tx(ss_target *t, ss_error *reterr) {
    if (t->copy_tx)
        return SS_OK;
    if (t->open)
        return ss_fail(
            reterr, SS_STOP, "SS-TGT-0012",
            "Rows of a copy came in the middle of a large transaction: restart the route.");
    ss_status status = ss_tgt_begin(t, reterr);
    if (status == SS_OK)
        t->copy_tx = true;
    return status;
}

/* ---- beginning
 * -------------------------------------------------------------------------------------------------------------
 */
/* The first column of the first row, which may be missing. */
static ss_status look_up(ss_target *t, const char *what, const char *text, int count,
                         const char *const *values, char *ret, size_t size, bool *ret_there,
                         ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_tgt_query(t, what, text, count, values, &res, reterr);
    if (status != SS_OK)
        return status;
    *ret_there = PQntuples(res) > 0;
    snprintf(ret, size, "%s", *ret_there ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return SS_OK;
}

static ss_status exists(ss_target *t, const char *ns, const char *name, bool *ret_there,
                        bool *ret_rows, ss_error *reterr) {
    const char *values[] = {ns, name};
    char kind[8], rows[8];
    bool answered = false;
    ss_status status = look_up(
        t, "looking for the table",
        "SELECT r.relkind FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace "
        "WHERE n.nspname = $1 AND r.relname = $2",
        2, values, kind, sizeof kind, ret_there, reterr);
    *ret_rows = false;
    if (status != SS_OK || !*ret_there)
        return status;
    if (kind[0] != 'r' && kind[0] != 'p')
        return ss_fail(reterr, SS_STOP, "SS-TGT-0009",
                       "%s.%s on the target is not a table (kind %s), and in the way of the copy: "
                       "rename or drop it.",
                       ns, name, kind);
    ss_buf sql;
    ss_buf_init(&sql);
    ss_buf_put_str(&sql, "SELECT EXISTS (SELECT FROM ");
    ss_buf_put_str(&sql, kind[0] == 'p' ? "" : "ONLY ");
    ss_tgt_put_ident(&sql, ns);
    ss_buf_put_byte(&sql, '.');
    ss_tgt_put_ident(&sql, name);
    ss_buf_put_str(&sql, ")");
    const char *text = ss_buf_cstr(&sql);
    status = sql.bad ? ss_tgt_nomem(reterr)
                     : look_up(t, "looking for rows", text, 0, NULL, rows, sizeof rows, &answered, reterr);
    ss_buf_done(&sql);
    *ret_rows = status == SS_OK && answered && rows[0] == 't';
    return status;
}

/* A table has one writer. Which route came first is all that counts: whether there are rows, and
 * what adopt says, is about tables of nobody. */
static ss_status refuse_second_writer(ss_target *t, const ss_table_state *s, ss_error *reterr) {
    const char *values[] = {t->env->route, s->ns, s->name};
    char other[64];
    bool there = false;
    ss_status status = look_up(
        t, "looking for another route of the table",
        "SELECT route FROM sidespool.table_state WHERE ns = $2 AND name = $3 AND route "
        "<> $1 LIMIT 1",
        3, values, other, sizeof other, &there, reterr);
    if (status != SS_OK || !there)
        return status;
    return ss_fail(
        reterr, SS_STOP, "SS-TGT-0021",
        "Table %s.%s on the target belongs to route %s: exclude it in one of them or copy into "
        "another database; if that route is gone for good, SELECT "
        "sidespool.forget_route('%s') on the target, then empty the table or set adopt: true.",
        s->ns, s->name, other, other);
}

/* Names every table in the way at once, so that a person mends them in one go. */
static ss_status refuse_strangers(ss_target *t, const ss_table_state *states, size_t count,
                                  ss_error *reterr) {
    char names[400] = "";
    size_t found = 0, len = 0;
    for (size_t i = 0; i < count; i++) {
        ss_tgt_beside was = {0};
        bool there = false, rows = false;
        ss_status status = refuse_second_writer(t, &states[i], reterr);
        if (status == SS_OK)
            status = ss_tgt_beside_get(t, states[i].ns, states[i].name, &was, reterr);
        if (status == SS_OK && !was.known)
            status = exists(t, states[i].ns, states[i].name, &there, &rows, reterr);
        if (status != SS_OK)
            return status;
        if (was.known || !rows)
            continue;
        found++;
        if (len + strlen(states[i].ns) + strlen(states[i].name) + 8 < sizeof names)
            len += (size_t)snprintf(names + len, sizeof names - len, "%s%s.%s",
                                    found > 1 ? ", " : "", states[i].ns, states[i].name);
        else if (strcmp(names + len - 3, "…") != 0 && len + 6 < sizeof names)
            len += (size_t)snprintf(names + len, sizeof names - len, ", …");
    }
    if (found == 0 || t->env->adopt)
        return SS_OK;
    return ss_fail(reterr, SS_STOP, "SS-TGT-0009",
                   "%zu target table%s hold rows that are not this route's: %s; empty or drop %s, "
                   "or set adopt: true in the "
                   "route, which empties exactly these.",
                   found, found == 1 ? "" : "s", names, found == 1 ? "it" : "them");
}

static ss_status empty(ss_target *t, const char *ns, const char *name, ss_error *reterr) {
    const char *only = "";
    ss_status status = ss_tgt_only(t, ns, name, &only, reterr);
    if (status != SS_OK)
        return status;
    ss_buf sql;
    ss_buf_init(&sql);
    ss_buf_put_str(&sql, only);
    ss_tgt_put_ident(&sql, ns);
    ss_buf_put_byte(&sql, '.');
    ss_tgt_put_ident(&sql, name);
    char *table = strdup(ss_buf_cstr(&sql));
    ss_buf_clear(&sql);
    ss_buf_printf(&sql, "SAVEPOINT sidespool_empty; TRUNCATE %s", table != NULL ? table : "");
    const char *text = ss_buf_cstr(&sql);
    if (table == NULL || sql.bad) {
        free(table);
        ss_buf_done(&sql);
        return ss_tgt_nomem(reterr);
    }
    PGresult *res = PQexec(t->conn, text);
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && state != NULL && strcmp(state, "0A000") == 0) {
        /* A foreign key of another table forbids TRUNCATE; DELETE (replica role: no trigger) does
         * the same. */
        ss_buf_clear(&sql);
        ss_buf_printf(&sql, "ROLLBACK TO SAVEPOINT sidespool_empty; DELETE FROM %s", table);
        text = ss_buf_cstr(&sql);
        status = sql.bad ? ss_tgt_nomem(reterr) : ss_tgt_exec(t, "emptying a table", text, reterr);
    } else if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        status = ss_tgt_error(t->conn, res, "emptying a table", reterr);
    }
    PQclear(res);
    free(table);
    ss_buf_done(&sql);
    return status;
}

/* Half loaded by an earlier attempt, and made by it: of no use to anybody. */
static ss_status is_half(ss_target *t, const ss_table_state *s, bool *ret, ss_error *reterr) {
    ss_tgt_beside was = {0};
    bool there = false, rows = false;
    *ret = false;
    if (s->beside)
        return SS_OK;
    ss_status status = ss_tgt_beside_get(t, s->ns, s->name, &was, reterr);
    if (status == SS_OK && was.known && !was.kept)
        status = exists(t, s->ns, s->name, &there, &rows, reterr);
    *ret = status == SS_OK && there;
    return status;
}

/* Whether each table that inherits from this one goes, too. */
static ss_status children_go(ss_target *t, const ss_table_state *states, size_t count,
                             const bool *half, size_t of, bool *ret, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_tgt_children(t, states[of].ns, states[of].name, &res, reterr);
    if (status != SS_OK)
        return status;
    *ret = true;
    for (int i = 0; i < PQntuples(res) && *ret; i++) {
        bool goes = false;
        for (size_t k = 0; k < count && !goes; k++)
            goes = half[k] && strcmp(states[k].ns, PQgetvalue(res, i, 0)) == 0 &&
                   strcmp(states[k].name, PQgetvalue(res, i, 1)) == 0;
        *ret = goes;
    }
    PQclear(res);
    return SS_OK;
}

/* Drops the half-loaded tables together, so that parents and children, and those that foreign keys
 * tie, need no order. A parent of a table that stays is left for begin_table to empty. */
static ss_status drop_halves(ss_target *t, const ss_table_state *states, size_t count,
                             ss_error *reterr) {
    bool *half = calloc(count + 1, sizeof *half);
    if (half == NULL)
        return ss_tgt_nomem(reterr);
    ss_buf sql;
    ss_buf_init(&sql);
    ss_status status = SS_OK;
    size_t found = 0, last = 0;
    for (size_t i = 0; i < count && status == SS_OK; i++)
        status = is_half(t, &states[i], &half[i], reterr);
    for (size_t i = 0; i < count && status == SS_OK; i++) {
        bool goes = false;
        if (half[i])
            status = children_go(t, states, count, half, i, &goes, reterr);
        if (status != SS_OK || !goes)
            continue;
        ss_buf_put_str(&sql, found++ > 0 ? ", " : "DROP TABLE ");
        ss_tgt_put_ident(&sql, states[i].ns);
        ss_buf_put_byte(&sql, '.');
        ss_tgt_put_ident(&sql, states[i].name);
        last = i;
    }
    if (status == SS_OK && found > 0) {
        char what[240];
        snprintf(what, sizeof what, "dropping the half-loaded table %s.%s%s", states[last].ns,
                 states[last].name, found > 1 ? " and others" : "");
        const char *text = ss_buf_cstr(&sql);
        status = sql.bad ? ss_tgt_nomem(reterr) : ss_tgt_exec(t, what, text, reterr);
        if (status == SS_STOP && reterr != NULL)
            reterr->code = "SS-TGT-0016";
    }
    ss_buf_done(&sql);
    free(half);
    return status;
}

static ss_status note_begin(ss_target *t, const ss_table_state *s, bool kept, ss_error *reterr) {
    const char *values[] = {t->env->route, s->ns, s->name, kept ? "t" : "f"};
    return ss_tgt_query(t, "writing a table's state",
                        "UPDATE sidespool.table_state SET kept = $4::text::boolean, copy_number = "
                        "NULL, copy_fresh = false "
                        "WHERE route = $1 AND ns = $2 AND name = $3",
                        4, values, NULL, reterr);
}

/* Makes room for one table: nothing of its own, the half-loaded one of before, one that was
 * adopted, or a place beside. */
static ss_status begin_table(ss_target *t, const ss_table_state *s, ss_error *reterr) {
    ss_tgt_beside was = {0};
    bool there = false, rows = false;
    ss_status status = ss_tgt_beside_get(t, s->ns, s->name, &was, reterr);
    if (status == SS_OK)
        status = ss_tgt_beside_drop(t, s->ns, s->name, reterr);
    if (status == SS_OK)
        status = exists(t, s->ns, s->name, &there, &rows, reterr);
    bool kept = there;
    if (status == SS_OK && there && !s->beside) {
        /* One that an earlier attempt made is only here still when others inherit from it. */
        kept = !was.known || was.kept;
        if (rows)
            status = empty(t, s->ns, s->name, reterr);
        if (rows && kept && status == SS_OK)
            SS_LOG(SS_INFO, "table_emptied", SS_S("route", t->env->route), SS_S("ns", s->ns),
                   SS_S("table", s->name));
    }
    ss_table_state state = *s;
    state.beside = s->beside && there; /* its old rows are gone: it is loaded in place */
    if (status == SS_OK)
        status = ss_tgt_put_state(t, &state, reterr);
    return status == SS_OK ? note_begin(t, s, kept, reterr) : status;
}

ss_status ss_tgt_copy_begin(ss_target *t, const Sidespool__CopyBegin *begin, ss_table_state *states,
                            size_t count, const ss_progress *progress, ss_error *reterr) {
    (void)begin;
    ss_status status = ss_tgt_copy_tx(t, reterr);
    if (status == SS_OK)
        status = refuse_strangers(t, states, count, reterr);
    if (status == SS_OK)
        status = drop_halves(t, states, count, reterr);
    for (size_t i = 0; i < count && status == SS_OK; i++)
        status = begin_table(t, &states[i], reterr);
    if (status == SS_OK)
        status = ss_tgt_put_progress(t, progress, reterr);
    if (status == SS_OK)
        status = ss_tgt_commit(t, reterr);
    ss_tgt_tables_forget(t);
    if (status == SS_OK)
        t->copy_tx = false;
    return given_up(t, status);
}

/* ---- rows
 * -------------------------------------------------------------------------------------------------------------------
 */
static ss_status start_rows(ss_target *t, const Sidespool__Schema *schema, ss_error *reterr) {
    ss_tgt_table *table = NULL;
    ss_status status = ss_tgt_copy_end_rows(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_copy_tx(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_beside_make(t, schema, reterr);
    if (status == SS_OK)
        status = ss_tgt_table_get(t, schema, true, &table, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "COPY %s", table->name);
    if (table->count > 0) {
        ss_buf_put_str(&t->sql, " (");
        ss_tgt_put_columns(&t->sql, table);
        ss_buf_put_str(&t->sql, ")");
    }
    ss_buf_put_str(&t->sql, " FROM STDIN");
    const char *sql = ss_buf_cstr(&t->sql);
    if (t->sql.bad)
        return ss_tgt_nomem(reterr);
    PGresult *res = PQsendQuery(t->conn, sql) == 1 ? ss_tgt_result(t->conn, 0) : NULL;
    if (PQresultStatus(res) != PGRES_COPY_IN) {
        char what[200];
        snprintf(what, sizeof what, "table %s, COPY", table->shown);
        status = ss_tgt_error(t->conn, res, what, reterr);
        for (PGresult *more; (more = PQgetResult(t->conn)) != NULL;)
            PQclear(more);
    }
    PQclear(res);
    if (status == SS_OK) {
        t->copying = table;
        ss_copytext_writer_init(&t->writer, table->count);
    }
    return status;
}

static ss_status end_rows(ss_target *t, ss_error *reterr) {
    ss_tgt_table *table = t->copying;
    if (!ss_copytext_writer_whole(&t->writer))
        return ss_fail(reterr, SS_STOP, "SS-TGT-0012",
                       "Table %s: the last row in the copy log is not whole.", table->shown);
    t->copying = NULL;
    char what[200];
    snprintf(what, sizeof what, "table %s, COPY", table->shown);
    if (PQputCopyEnd(t->conn, NULL) != 1)
        return ss_tgt_error(t->conn, NULL, what, reterr);
    ss_status status = SS_OK;
    PGresult *res = PQgetResult(t->conn);
    uint64_t rows = strtoull(PQcmdTuples(res), NULL, 10);
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        status = ss_tgt_error(t->conn, res, what, reterr);
    else if (rows != t->writer.rows)
        status = ss_fail(reterr, SS_STOP, "SS-TGT-0012",
                         "Table %s: of %" PRIu64 " rows the target took %" PRIu64 ".", table->shown,
                         t->writer.rows, rows);
    while (res != NULL) {
        PQclear(res);
        res = PQgetResult(t->conn);
    }
    return status;
}

ss_status ss_tgt_copy_end_rows(ss_target *t, ss_error *reterr) {
    return t->copying != NULL ? end_rows(t, reterr) : SS_OK;
}

static ss_status put_rows(ss_target *t, const Sidespool__Schema *schema, ss_bytes cells,
                          uint32_t rows, ss_error *reterr) {
    ss_status status = SS_OK;
    if (t->copying == NULL || t->copying->schema_id != schema->id)
        status = start_rows(t, schema, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&t->text);
    if (!ss_copytext_writer_put(&t->writer, cells, rows, &t->text))
        return ss_fail(reterr, SS_STOP, "SS-TGT-0012",
                       "Table %s: rows in the copy log are damaged.", t->copying->shown);
    if (t->text.bad)
        return ss_tgt_nomem(reterr);
    for (size_t at = 0; at < t->text.len;) {
        size_t n = t->text.len - at < (1u << 16) ? t->text.len - at : (1u << 16);
        if (PQputCopyData(t->conn, (const char *)t->text.ptr + at, (int)n) != 1)
            return ss_tgt_error(t->conn, NULL, "sending rows of a copy", reterr);
        at += n;
    }
    return SS_OK;
}

ss_status ss_tgt_copy_rows(ss_target *t, const Sidespool__Schema *schema, ss_bytes cells,
                           uint32_t rows, bool more, ss_error *reterr) {
    (void)more; /* the writer knows by itself whether it stands between two rows */
    return given_up(t, put_rows(t, schema, cells, rows, reterr));
}

/* Ends the transaction: rows, states and the place in the copy log are durable together. */
static ss_status flush(ss_target *t, const ss_progress *progress, const ss_table_state *states,
                       size_t count, ss_error *reterr) {
    ss_status status = ss_tgt_copy_end_rows(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_copy_tx(t, reterr);
    for (size_t i = 0; i < count && status == SS_OK; i++)
        status = ss_tgt_put_state(t, &states[i], reterr);
    if (status == SS_OK)
        status = ss_tgt_put_progress(t, progress, reterr);
    if (status == SS_OK)
        status = ss_tgt_commit(t, reterr);
    if (status == SS_OK)
        t->copy_tx = false;
    return status;
}

ss_status ss_tgt_copy_flush(ss_target *t, const ss_progress *progress, const ss_table_state *states,
                            size_t count, ss_error *reterr) {
    return given_up(t, flush(t, progress, states, count, reterr));
}

static ss_status analyze(ss_target *t, const ss_tgt_table *table, ss_error *reterr) {
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "ANALYZE %s", table->name);
    const char *sql = ss_buf_cstr(&t->sql);
    return t->sql.bad ? ss_tgt_nomem(reterr) : ss_tgt_exec(t, "ANALYZE", sql, reterr);
}

static ss_status end_table(ss_target *t, const Sidespool__Schema *schema,
                           const ss_progress *progress, ss_table_state *state, ss_error *reterr) {
    ss_tgt_beside how = {0};
    ss_tgt_table *table = NULL;
    ss_status status = ss_tgt_copy_end_rows(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_copy_tx(t, reterr);
    /* A table without rows never saw copy_rows. */
    if (status == SS_OK)
        status = ss_tgt_beside_make(t, schema, reterr);
    if (status == SS_OK)
        status = ss_tgt_beside_get(t, schema->ns, schema->name, &how, reterr);
    if (status == SS_OK)
        status = ss_tgt_table_get(t, schema, true, &table, reterr);
    /* One loaded beside has the indexes of the table it will replace (LIKE), or gets its own when
     * it is put in place. */
    if (status == SS_OK && !how.beside)
        status = ss_tgt_objects_of_table(t, schema->ns, schema->name, reterr);
    if (status == SS_OK && how.beside && (how.fresh || table->key_count > 0))
        status = ss_tgt_beside_index(t, schema, reterr);
    if (status == SS_OK)
        status = analyze(t, table, reterr);
    if (status == SS_OK)
        status = progress != NULL ? flush(t, progress, state, 1, reterr)
                                  : ss_tgt_put_state(t, state, reterr);
    ss_tgt_tables_forget(t); /* it has its keys now */
    return status;
}

ss_status ss_tgt_copy_table(ss_target *t, const Sidespool__Schema *schema,
                            const ss_progress *progress, ss_table_state *state, ss_error *reterr) {
    return given_up(t, end_table(t, schema, progress, state, reterr));
}
