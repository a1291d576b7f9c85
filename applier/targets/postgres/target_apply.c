/* A batch in one target transaction: rows, counts, table states, progress, freshness, COMMIT.
 *
 * Two round trips: everything up to one sync, then, when every count is what the source's changes
 * say, COMMIT. (In between one more for each table that gets many INSERTs: target_bulk.c.) If we die or lose the link before the COMMIT arrives, the server rolls back and the
 * route reads the old progress; if only its answer is lost, the route reads the new one. It reads
 * it on a session that holds the route's lock (alone() in target_open.c), so the old session has
 * ended by then and cannot commit afterwards. Hence each batch is in exactly once.
 *
 * Fallback: when a group is refused or its count disagrees, the whole attempt is rolled back (to a
 * savepoint, inside a large transaction) and sent again with that table one by one. No table pays a
 * savepoint in the common case. */
#include "target_postgres.h"

#include "sidespool/log.h"
#include <stdio.h>

#define ORDERED_BATCHES 16 /* a table stays one by one for so many batches after a refusal */

ss_status ss_tgt_rollback(ss_target *t, ss_error *reterr) {
    t->open = t->copy_tx = false;
    if (t->copying != NULL) {
        /* The server forgets the rows when the COPY fails; its complaint is our own doing. */
        t->copying = NULL;
        if (PQputCopyEnd(t->conn, "given up") == 1)
            for (PGresult *res; (res = PQgetResult(t->conn)) != NULL;)
                PQclear(res);
    }
    if (PQpipelineStatus(t->conn) != PQ_PIPELINE_OFF)
        return ss_fail(
            reterr, SS_RETRY, "SS-TGT-0005",
            "The exchange with the target broke off in mid-batch; it is connected again.");
    if (PQtransactionStatus(t->conn) == PQTRANS_IDLE)
        return SS_OK;
    return ss_tgt_exec(t, "ROLLBACK", "ROLLBACK", reterr);
}

/* ---- TRUNCATE
 * ---------------------------------------------------------------------------------------------------------------
 */
/* The source lists every relation that it emptied, cascades and inheritance included: so each is
 * named, with ONLY, and never CASCADE. Where a foreign key of a table outside the list forbids it,
 * DELETE does the same (replica role: no trigger). */
static ss_status truncate_tables(ss_target *t, const ss_batch *batch, ss_error *reterr) {
    ss_buf sql, rows;
    ss_buf_init(&sql);
    ss_buf_init(&rows);
    ss_buf_put_str(&sql, "SAVEPOINT sidespool_truncate; TRUNCATE ");
    ss_status status = SS_OK;
    for (size_t i = 0; i < batch->truncated_count && status == SS_OK; i++) {
        ss_tgt_table *table = NULL;
        status = ss_tgt_table_get(t, batch->truncated[i], batch->beside != NULL, &table, reterr);
        if (status != SS_OK)
            break;
        ss_buf_printf(&sql, "%s%s%s", i > 0 ? ", " : "", table->only, table->name);
        ss_buf_printf(&rows, "; DELETE FROM %s%s", table->only, table->name);
    }
    ss_buf_put_str(&sql,
                   batch->truncate->restart_identity ? " RESTART IDENTITY" : " CONTINUE IDENTITY");
    const char *text = ss_buf_cstr(&sql);
    if (status == SS_OK && sql.bad)
        status = ss_tgt_nomem(reterr);
    PGresult *res = status == SS_OK && batch->truncated_count > 0 ? PQexec(t->conn, text) : NULL;
    if (res != NULL && PQresultStatus(res) != PGRES_COMMAND_OK) {
        const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
        if (t->replica && state != NULL && strcmp(state, "0A000") == 0) {
            ss_buf_clear(&sql);
            ss_buf_put_str(&sql, "ROLLBACK TO SAVEPOINT sidespool_truncate");
            ss_buf_put(&sql, rows.ptr, rows.len);
            text = ss_buf_cstr(&sql);
            status = sql.bad || rows.bad ? ss_tgt_nomem(reterr)
                                         : ss_tgt_exec(t, "TRUNCATE", text, reterr);
        } else {
            char what[200];
            snprintf(what, sizeof what, "TRUNCATE of %s.%s%s", batch->truncated[0]->ns,
                     batch->truncated[0]->name, batch->truncated_count > 1 ? " and others" : "");
            status = ss_tgt_error(t->conn, res, what, reterr);
        }
    }
    PQclear(res);
    ss_buf_done(&sql);
    ss_buf_done(&rows);
    return status;
}

/* ---- one attempt
 * --------------------------------------------------------------------------------------------------------------
 */
/* An INSERT's count cannot be made up for by another row. */
static bool finds_rows(const ss_batch_table *work) {
    for (size_t g = 0; g < work->group_count; g++)
        if (work->groups[g].op != SIDESPOOL__OP__OP_INSERT)
            return true;
    return false;
}

static bool one_by_one(const ss_tgt_table *table, const ss_batch_table *work) {
    return work->ordered || table->ordered_left > 0 || (!table->unique && finds_rows(work));
}

static ss_status send_tables(ss_target *t, const ss_batch *batch, ss_error *reterr) {
    ss_status status = SS_OK;
    for (size_t i = 0; i < batch->table_count && status == SS_OK; i++) {
        const ss_batch_table *work = &batch->tables[i];
        ss_tgt_table *table = NULL;
        status = ss_tgt_table_get(t, work->schema, batch->beside != NULL, &table,
                                  reterr); /* loaded before: no query here */
        if (status != SS_OK)
            break;
        if (one_by_one(table, work)) {
            status = ss_tgt_ordered(t, table, work->schema, work->first, reterr);
            continue;
        }
        for (size_t g = 0; g < work->group_count && status == SS_OK; g++)
            if (!ss_tgt_bulk_fits(&work->groups[g]))
                status = ss_tgt_group(t, table, work->schema, &work->groups[g], reterr);
    }
    return status;
}

/* What send_tables has left for COPY. */
static ss_status send_bulk(ss_target *t, const ss_batch *batch, ss_tgt_trouble *trouble,
                           ss_error *reterr) {
    ss_status status = SS_OK;
    for (size_t i = 0; i < batch->table_count && status == SS_OK; i++) {
        const ss_batch_table *work = &batch->tables[i];
        ss_tgt_table *table = NULL;
        status = ss_tgt_table_get(t, work->schema, batch->beside != NULL, &table, reterr);
        if (status != SS_OK || one_by_one(table, work))
            continue;
        for (size_t g = 0; g < work->group_count && status == SS_OK; g++)
            if (ss_tgt_bulk_fits(&work->groups[g]))
                status = ss_tgt_bulk(t, table, &work->groups[g], trouble, reterr);
    }
    return status;
}

static ss_status send_bookkeeping(ss_target *t, const ss_batch *batch, ss_error *reterr) {
    ss_status status = SS_OK;
    for (size_t i = 0; i < batch->state_count && status == SS_OK; i++)
        status = ss_tgt_put_state(t, &batch->states[i], reterr);
    if (status == SS_OK && !batch->partial)
        status = ss_tgt_put_progress(t, &batch->progress, reterr);
    if (status == SS_OK && !batch->partial)
        status = ss_tgt_put_freshness(t, batch->progress.as_of, batch->freshness, reterr);
    return status;
}

static ss_status attempt(ss_target *t, const ss_batch *batch, bool begun, ss_tgt_trouble *trouble,
                         ss_error *reterr) {
    ss_status status = ss_tgt_pipe_open(t, reterr);
    if (status != SS_OK)
        return status;
    if (!begun) {
        status = ss_tgt_control(t, "BEGIN", reterr);
        if (status == SS_OK)
            status = ss_tgt_control(t, "SET CONSTRAINTS ALL DEFERRED", reterr);
    } else if (t->open) {
        status = ss_tgt_control(t, "SAVEPOINT sidespool_batch", reterr);
    }
    if (status == SS_OK)
        status = send_tables(t, batch, reterr);
    if (status == SS_OK)
        status = send_bookkeeping(t, batch, reterr);
    /* Also after a failure of our own: the answers to what was sent have to be read off before
     * anything else is said. */
    ss_error other = {0};
    ss_status closed = ss_tgt_pipe_close(t, trouble, status == SS_OK ? reterr : &other);
    if (status == SS_OK)
        status = closed;
    return status == SS_OK ? send_bulk(t, batch, trouble, reterr) : status;
}

/* Takes back what the attempt did; inside a large transaction only that. */
static ss_status take_back(ss_target *t, ss_error *reterr) {
    if (t->open)
        return ss_tgt_exec(
            t, "ROLLBACK",
            "ROLLBACK TO SAVEPOINT sidespool_batch; RELEASE SAVEPOINT sidespool_batch", reterr);
    return ss_tgt_exec(t, "ROLLBACK", "ROLLBACK", reterr);
}

static void fall_back(const ss_target *t, const ss_tgt_trouble *trouble) {
    trouble->table->ordered_left = ORDERED_BATCHES;
    SS_LOG(SS_INFO, "table_one_by_one", SS_S("route", t->env->route),
           SS_S("table", trouble->table->shown),
           SS_S("reason", trouble->refused ? "a set-wise write was refused by a constraint"
                                           : "a set-wise write matched another number of rows"),
           SS_U("batches", ORDERED_BATCHES));
}

/* Plans are read before the pipeline opens: inside it nothing can be asked. */
static ss_status load_tables(ss_target *t, const ss_batch *batch, ss_error *reterr) {
    ss_status status = SS_OK;
    ss_tgt_table *table = NULL;
    for (size_t i = 0; i < batch->table_count && status == SS_OK; i++) {
        status =
            ss_tgt_table_get(t, batch->tables[i].schema, batch->beside != NULL, &table, reterr);
        if (status == SS_OK && !table->unique && table->key_count > 0 && !table->key_deferred &&
            !table->told) {
            table->told = true;
            SS_LOG(SS_WARN, "target_key_not_unique", SS_S("route", t->env->route),
                   SS_S("table", table->shown), SS_S("instead", "its rows are written one by one"),
                   SS_S("remedy", "a unique index on the source's key columns"));
        }
    }
    return status;
}

static void count_down(const ss_target *t, const ss_batch *batch) {
    for (size_t i = 0; i < batch->table_count; i++) {
        ss_tgt_table *table = ss_tgt_table_find(t, batch->tables[i].schema, batch->beside != NULL);
        if (table != NULL && table->ordered_left > 0)
            table->ordered_left--;
    }
}

static ss_status write_batch(ss_target *t, const ss_batch *batch, ss_error *reterr) {
    bool begun = t->open;
    ss_status status = load_tables(t, batch, reterr);
    if (status == SS_OK && batch->truncate != NULL) {
        if (!begun)
            status = ss_tgt_begin(t, reterr);
        begun = true;
        if (status == SS_OK)
            status = truncate_tables(t, batch, reterr);
    }
    /* Each round makes one more table one by one, so it ends. */
    for (size_t round = 0; status == SS_OK; round++) {
        ss_tgt_trouble trouble = {0};
        status = attempt(t, batch, begun, &trouble, reterr);
        if (status != SS_BUSY)
            break;
        status = take_back(t, reterr);
        if (status == SS_OK)
            fall_back(t, &trouble);
        if (round > batch->table_count)
            status =
                ss_fail(reterr, SS_STOP, "SS-TGT-0007",
                        "Table %s is refused again and again: resync it.", trouble.table->shown);
    }
    return status;
}

ss_status ss_tgt_apply(ss_target *t, const ss_batch *batch, ss_error *reterr) {
    ss_status status = SS_OK;
    if (t->copy_tx)
        return ss_fail(
            reterr, SS_STOP, "SS-TGT-0012",
            "A batch came while rows of a copy were not yet flushed: restart the route.");
    status = write_batch(t, batch, reterr);
    if (status == SS_OK && !batch->partial)
        status = ss_tgt_commit(t, reterr);
    else if (status == SS_OK && t->open)
        status = ss_tgt_exec(t, "RELEASE", "RELEASE SAVEPOINT sidespool_batch", reterr);
    if (status == SS_OK) {
        t->open = batch->partial;
        count_down(t, batch);
        return SS_OK;
    }
    ss_error other = {0};
    if (PQstatus(t->conn) == CONNECTION_OK && ss_tgt_rollback(t, &other) != SS_OK)
        ss_log_error(SS_WARN, "rollback_failed", &other);
    t->open = false;
    return status;
}
