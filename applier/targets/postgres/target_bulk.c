/* Many INSERTs into one table: by COPY, which writes whole pages at a time and parses no parameters.
 *
 * It cannot go through libpq's pipeline, so it runs behind everything else of the batch, in the same transaction. That is in order:
 * of a table INSERTs come last, and between tables order does not matter. The rows are counted and a refusal is healed as for
 * any other set-wise write. */
#include "target_postgres.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PART_BYTES ((size_t)64 << 10)

static bool written(const ss_group *group, uint32_t i) {
    return group->kinds[i] == SS_CELL_VALUE;
}

bool ss_tgt_bulk_fits(const ss_group *group) {
    if (group->op != SIDESPOOL__OP__OP_INSERT || group->count < SS_TGT_BULK_ROWS)
        return false;
    /* A line of COPY is held whole by the server, escaped: large rows go as parameters. */
    for (size_t r = 0; r < group->count; r++) {
        size_t bytes = 0;
        for (uint32_t i = 0; i < group->rows[r]->count; i++)
            bytes += group->rows[r]->kinds[i] == SS_CELL_VALUE ? group->rows[r]->cells[i].len : 0;
        if (bytes > SS_TGT_CHUNK_BYTES)
            return false;
    }
    for (uint32_t i = 0; i < group->rows[0]->count; i++)
        if (written(group, i))
            return true;
    return false;
}

static ss_status begin_copy(ss_target *t, const ss_tgt_table *table, const ss_group *group,
                            const char *what, ss_error *reterr) {
    bool first = true;
    ss_buf_clear(&t->sql);
    ss_buf_printf(&t->sql, "COPY %s (", table->name);
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i)) {
            ss_buf_printf(&t->sql, "%s%s", first ? "" : ", ", table->columns[i].ident);
            first = false;
        }
    ss_buf_put_str(&t->sql, ") FROM STDIN");
    const char *sql = ss_buf_cstr(&t->sql);
    if (t->sql.bad)
        return ss_tgt_nomem(reterr);
    PGresult *res = PQexec(t->conn, sql);
    ss_status status =
        PQresultStatus(res) == PGRES_COPY_IN ? SS_OK : ss_tgt_error(t->conn, res, what, reterr);
    PQclear(res);
    return status;
}

/* false: a cell that is to be written is not there. */
static bool put_row(ss_buf *text, const ss_tgt_table *table, const ss_group *group,
                    const ss_row *row) {
    bool first = true;
    for (uint32_t i = 0; i < table->count; i++) {
        if (!written(group, i))
            continue;
        if (!first)
            ss_buf_put_byte(text, '\t');
        first = false;
        if (i < row->count && row->kinds[i] == SS_CELL_VALUE)
            ss_copytext_escape(text, row->cells[i].ptr, row->cells[i].len);
        else if (i < row->count && row->kinds[i] == SS_CELL_NULL)
            ss_buf_put_str(text, "\\N");
        else
            return false;
    }
    ss_buf_put_byte(text, '\n');
    return true;
}

static ss_status put_rows(ss_target *t, const ss_tgt_table *table, const ss_group *group,
                          const char *what, ss_error *reterr) {
    ss_buf_clear(&t->text);
    for (size_t r = 0; r < group->count; r++) {
        if (!put_row(&t->text, table, group, group->rows[r]))
            return ss_tgt_no_image(table, group->op, reterr);
        if (t->text.len < PART_BYTES && r + 1 < group->count)
            continue;
        if (t->text.bad)
            return ss_tgt_nomem(reterr);
        if (PQputCopyData(t->conn, (const char *)t->text.ptr, (int)t->text.len) != 1)
            return ss_tgt_error(t->conn, NULL, what, reterr);
        ss_buf_clear(&t->text);
    }
    return SS_OK;
}

/* Ends the COPY, reads its answer and judges it. `given_up`: the rows did not all go out, so it is to fail. */
static ss_status end_copy(ss_target *t, ss_tgt_table *table, const ss_group *group,
                          const char *what, bool given_up, ss_tgt_trouble *trouble,
                          ss_error *reterr) {
    if (PQputCopyEnd(t->conn, given_up ? "given up" : NULL) != 1)
        return ss_tgt_error(t->conn, NULL, what, reterr);
    PGresult *res = PQgetResult(t->conn);
    ss_status status = SS_OK;
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
        if (state != NULL && ss_tgt_sqlstate_refusal(state)) {
            *trouble = (ss_tgt_trouble){.table = table, .refused = true};
            status = SS_BUSY;
        } else {
            status = ss_tgt_error(t->conn, res, what, reterr);
        }
    } else if (strtoull(PQcmdTuples(res), NULL, 10) != group->count) {
        *trouble = (ss_tgt_trouble){.table = table};
        status = SS_BUSY;
    }
    while (res != NULL) {
        PQclear(res);
        res = PQgetResult(t->conn);
    }
    return status;
}

ss_status ss_tgt_bulk(ss_target *t, ss_tgt_table *table, const ss_group *group,
                      ss_tgt_trouble *trouble, ss_error *reterr) {
    char what[256];
    snprintf(what, sizeof what, "table %s, %s", table->shown, ss_tgt_op_name(group->op));
    ss_status status = begin_copy(t, table, group, what, reterr);
    if (status != SS_OK)
        return status;
    status = put_rows(t, table, group, what, reterr);
    if (PQstatus(t->conn) != CONNECTION_OK)
        return status;
    ss_error other = {0};
    ss_status ended =
        end_copy(t, table, group, what, status != SS_OK, trouble, status == SS_OK ? reterr : &other);
    return status != SS_OK ? status : ended;
}
