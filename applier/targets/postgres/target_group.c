/* Set-wise work: one statement for many rows of one operation, its cells as text[] parameters in
 * the binary array format (so that nothing is quoted or escaped;
 * src/backend/utils/adt/arrayfuncs.c, array_recv). The key look-up is an index scan for each row of
 * unnest (see PLANNER in target_open.c). */
#include "target_postgres.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#define TEXT_OID 25
#define TEXTARRAY_OID 1009

const char *ss_tgt_op_name(Sidespool__Op op) {
    switch (op) {
    case SIDESPOOL__OP__OP_INSERT:
        return "INSERT";
    case SIDESPOOL__OP__OP_UPDATE:
        return "UPDATE";
    case SIDESPOOL__OP__OP_DELETE:
        return "DELETE";
    default:
        return "write";
    }
}

ss_status ss_tgt_too_large(const ss_tgt_table *table, uint64_t bytes, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-TGT-0011",
                   "Table %s: a row of %" PRIu64
                   " bytes in text form is more than PostgreSQL takes in one statement (%u).",
                   table->shown, bytes, SS_TGT_ROW_BYTES);
}

/* ---- SQL
 * -------------------------------------------------------------------------------------------------------------------
 */
/* Column i is written. */
static bool written(const ss_group *group, uint32_t i) {
    return group->kinds != NULL && group->kinds[i] == SS_CELL_VALUE;
}

static bool by_key(const ss_group *group, const Sidespool__Schema *schema, uint32_t i) {
    return group->op != SIDESPOOL__OP__OP_INSERT && schema->columns[i]->key;
}

static void put_unnest(ss_buf *sql, const ss_tgt_table *table, const Sidespool__Schema *schema,
                       const ss_group *group) {
    int n = 0;
    ss_buf_put_str(sql, "unnest(");
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i))
            ss_buf_printf(sql, "%s$%d", n > 0 ? ", " : "", n + 1), n++;
    for (uint32_t i = 0; i < table->count; i++)
        if (by_key(group, schema, i))
            ss_buf_printf(sql, "%s$%d", n > 0 ? ", " : "", n + 1), n++;
    n = 0;
    ss_buf_put_str(sql, ") u(");
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i))
            ss_buf_printf(sql, "%sc%u", n++ > 0 ? ", " : "", i);
    for (uint32_t i = 0; i < table->count; i++)
        if (by_key(group, schema, i))
            ss_buf_printf(sql, "%sk%u", n++ > 0 ? ", " : "", i);
    ss_buf_put_byte(sql, ')');
}

static void put_cast(ss_buf *sql, const ss_tgt_table *table, char letter, uint32_t i) {
    char source[24];
    snprintf(source, sizeof source, "u.%c%u", letter, i);
    ss_tgt_put_cast(sql, &table->columns[i], source);
}

static void put_match(ss_buf *sql, const ss_tgt_table *table, const Sidespool__Schema *schema) {
    bool first = true;
    ss_buf_put_str(sql, " WHERE ");
    for (uint32_t i = 0; i < table->count; i++) {
        if (!schema->columns[i]->key)
            continue;
        ss_buf_printf(sql, "%st.%s %s ", first ? "" : " AND ", table->columns[i].ident,
                      table->columns[i].equal);
        put_cast(sql, table, 'k', i);
        first = false;
    }
}

static void sql_insert(ss_buf *sql, const ss_tgt_table *table, const Sidespool__Schema *schema,
                       const ss_group *group) {
    bool first = true;
    ss_buf_printf(sql, "INSERT INTO %s (", table->name);
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i)) {
            ss_buf_printf(sql, "%s%s", first ? "" : ", ", table->columns[i].ident);
            first = false;
        }
    ss_buf_put_str(sql, ") OVERRIDING SYSTEM VALUE SELECT ");
    first = true;
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i)) {
            ss_buf_put_str(sql, first ? "" : ", ");
            put_cast(sql, table, 'c', i);
            first = false;
        }
    ss_buf_put_str(sql, " FROM ");
    put_unnest(sql, table, schema, group);
}

/* GENERATED ALWAYS AS IDENTITY cannot be SET: the row is taken out and put back in one statement.
 */
static void sql_replace(ss_buf *sql, const ss_tgt_table *table, const Sidespool__Schema *schema,
                        const ss_group *group) {
    ss_buf_printf(sql, "WITH d AS (DELETE FROM %s%s t USING ", table->only, table->name);
    put_unnest(sql, table, schema, group);
    put_match(sql, table, schema);
    ss_buf_put_str(sql, " RETURNING ");
    for (uint32_t i = 0; i < table->count; i++) {
        ss_buf_put_str(sql, i > 0 ? ", " : "");
        if (written(group, i))
            put_cast(sql, table, 'c', i);
        else
            ss_buf_printf(sql, "t.%s", table->columns[i].ident);
        ss_buf_printf(sql, " AS r%u", i);
    }
    ss_buf_printf(sql, ") INSERT INTO %s (", table->name);
    ss_tgt_put_columns(sql, table);
    ss_buf_put_str(sql, ") OVERRIDING SYSTEM VALUE SELECT ");
    for (uint32_t i = 0; i < table->count; i++)
        ss_buf_printf(sql, "%sd.r%u", i > 0 ? ", " : "", i);
    ss_buf_put_str(sql, " FROM d");
}

static void sql_update(ss_buf *sql, const ss_tgt_table *table, const Sidespool__Schema *schema,
                       const ss_group *group) {
    bool first = true;
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i) && table->columns[i].identity_always) {
            sql_replace(sql, table, schema, group);
            return;
        }
    ss_buf_printf(sql, "UPDATE %s%s t SET ", table->only, table->name);
    for (uint32_t i = 0; i < table->count; i++)
        if (written(group, i)) {
            ss_buf_printf(sql, "%s%s = ", first ? "" : ", ", table->columns[i].ident);
            put_cast(sql, table, 'c', i);
            first = false;
        }
    ss_buf_put_str(sql, " FROM ");
    put_unnest(sql, table, schema, group);
    put_match(sql, table, schema);
}

static ss_status statement(ss_target *t, const ss_tgt_table *table, const Sidespool__Schema *schema,
                           const ss_group *group, int params, ss_tgt_stmt **ret, ss_error *reterr) {
    ss_buf_clear(&t->key);
    ss_buf_put_byte(&t->key, 'G');
    ss_buf_put_byte(&t->key, (uint8_t)group->op);
    ss_buf_put(&t->key, &table->serial, sizeof table->serial);
    for (uint32_t i = 0; i < table->count; i++)
        ss_buf_put_byte(&t->key, written(group, i));
    if (t->key.bad)
        return ss_tgt_nomem(reterr);
    *ret = ss_tgt_stmt_find(t);
    if (*ret != NULL)
        return SS_OK;
    ss_buf_clear(&t->sql);
    if (group->op == SIDESPOOL__OP__OP_INSERT) {
        sql_insert(&t->sql, table, schema, group);
    } else if (group->op == SIDESPOOL__OP__OP_UPDATE) {
        sql_update(&t->sql, table, schema, group);
    } else {
        ss_buf_printf(&t->sql, "DELETE FROM %s%s t USING ", table->only, table->name);
        put_unnest(&t->sql, table, schema, group);
        put_match(&t->sql, table, schema);
    }
    return ss_tgt_stmt_make(t, params, TEXTARRAY_OID, ret, reterr);
}

/* ---- parameters
 * --------------------------------------------------------------------------------------------------------------
 */
static void put_i32(uint8_t **to, int32_t value) {
    uint32_t net = htonl((uint32_t)value);
    memcpy(*to, &net, 4);
    *to += 4;
}

static size_t row_bytes(const ss_row *row) {
    size_t bytes = 0;
    for (uint32_t i = 0; row != NULL && i < row->count; i++)
        bytes += 4 + (row->kinds[i] == SS_CELL_VALUE ? row->cells[i].len : 0);
    return bytes;
}

/* One column of the rows [from, to) as a text[]; false: a cell that the statement needs is not
 * there. */
static bool put_array(const ss_row *const *rows, size_t from, size_t to, uint32_t column,
                      uint8_t **at) {
    put_i32(at, 1);
    uint8_t *flags = *at;
    put_i32(at, 0);
    put_i32(at, TEXT_OID);
    put_i32(at, (int32_t)(to - from));
    put_i32(at, 1);
    bool nulls = false;
    for (size_t r = from; r < to; r++) {
        const ss_row *row = rows[r];
        if (column < row->count && row->kinds[column] == SS_CELL_VALUE) {
            put_i32(at, (int32_t)row->cells[column].len);
            if (row->cells[column].len > 0)
                memcpy(*at, row->cells[column].ptr, row->cells[column].len);
            *at += row->cells[column].len;
        } else if (column < row->count && row->kinds[column] == SS_CELL_NULL) {
            put_i32(at, -1);
            nulls = true;
        } else {
            return false;
        }
    }
    if (nulls)
        put_i32(&flags, 1);
    return true;
}

ss_status ss_tgt_no_image(const ss_tgt_table *table, Sidespool__Op op, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-TGT-0019",
                   "Table %s: an %s lacks a cell that is needed to write or to find its row; "
                   "resync the table.",
                   table->shown, ss_tgt_op_name(op));
}

static ss_status send_chunk(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                            const ss_group *group, size_t from, size_t to, size_t bytes, int params,
                            ss_error *reterr) {
    ss_tgt_stmt *stmt = NULL;
    ss_status status = statement(t, table, schema, group, params, &stmt, reterr);
    if (status == SS_OK)
        status = ss_tgt_values_room(t, (size_t)params, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&t->params);
    uint8_t *start = ss_buf_reserve(&t->params, bytes + 20 * (size_t)params), *at = start;
    if (start == NULL)
        return ss_tgt_nomem(reterr);
    int n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < table->count; i++) {
            if (pass == 0 ? !written(group, i) : !by_key(group, schema, i))
                continue;
            uint8_t *begin = at;
            if (!put_array(pass == 0 ? group->rows : group->keys, from, to, i, &at))
                return ss_tgt_no_image(table, group->op, reterr);
            t->values[n] = (const char *)begin;
            t->lengths[n] = (int)(at - begin);
            t->formats[n++] = 1;
        }
    status = ss_tgt_stmt_send(
        t, stmt, params,
        (ss_tgt_answer){
            .kind = SS_TGT_ROWS, .table = table, .op = group->op, .expected = to - from},
        reterr);
    if (t->params.cap > 2 * SS_TGT_CHUNK_BYTES)
        ss_buf_done(&t->params); /* one huge row does not keep its room */
    return status;
}

ss_status ss_tgt_group(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                       const ss_group *group, ss_error *reterr) {
    int params = 0;
    bool writes = group->op == SIDESPOOL__OP__OP_DELETE;
    for (uint32_t i = 0; i < table->count; i++) {
        params += written(group, i) ? 1 : 0;
        params += by_key(group, schema, i) ? 1 : 0;
        writes |= written(group, i);
    }
    ss_status status = SS_OK;
    /* One row, or no column to unnest: the plain statement is the shorter way. */
    if (group->count == 1 || !writes || params == 0) {
        for (size_t i = 0; i < group->count && status == SS_OK; i++)
            status = ss_tgt_one(
                t, table, schema, group->op, group->keys != NULL ? group->keys[i] : NULL,
                group->rows != NULL ? group->rows[i] : NULL, group->kinds, 0, false, reterr);
        return status;
    }
    for (size_t from = 0, to = 0; from < group->count && status == SS_OK; from = to) {
        size_t bytes = 0;
        while (to < group->count) {
            size_t row = row_bytes(group->rows != NULL ? group->rows[to] : NULL) +
                         row_bytes(group->keys != NULL ? group->keys[to] : NULL);
            if (row > SS_TGT_ROW_BYTES)
                return ss_tgt_too_large(table, row, reterr);
            if (to > from && bytes + row > SS_TGT_CHUNK_BYTES)
                break;
            bytes += row;
            to++;
        }
        status = send_chunk(t, table, schema, group, from, to, bytes, params, reterr);
    }
    return status;
}
