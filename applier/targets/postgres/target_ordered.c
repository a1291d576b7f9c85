/* One by one, in order, without waiting: tables without a key, key chains, and what a set-wise
 * write was refused for.
 *
 * A row without a key is found by all cells of its old image and taken by ctid, one of several
 * equal rows: equal in text, not only by =, because 1.0 and 1.00, or '1 day' and '24:00:00', are
 * equal and yet other values. A deferrable primary key does not tell rows apart before the
 * transaction's end; such a table is REPLICA IDENTITY FULL, so its rows are found the same way. */
#include "target_postgres.h"

#include <stdio.h>

enum { SET = 1, MATCH = 2, MATCH_NULL = 4 };

typedef struct {
    ss_tgt_table *table;
    const Sidespool__Schema *schema;
    Sidespool__Op op;
    const ss_row *key, *row;
    uint8_t *what; /* per column: SET, MATCH… ; lies in t->key */
    bool whole;    /* in order: the key row is the row's whole old image */
    bool replace;  /* a GENERATED ALWAYS AS IDENTITY column changes */
    uint32_t sets, matches;
} one;

static bool has_cell(const ss_row *row, uint32_t i) {
    return row != NULL && i < row->count &&
           (row->kinds[i] == SS_CELL_VALUE || row->kinds[i] == SS_CELL_NULL);
}

static bool same_cell(const ss_row *a, const ss_row *b, uint32_t i) {
    return has_cell(a, i) && has_cell(b, i) && a->kinds[i] == b->kinds[i] &&
           (a->kinds[i] == SS_CELL_NULL || ss_bytes_eq(a->cells[i], b->cells[i]));
}

/* What each column is there for. `kinds` (of a group) decides when given; else what the row holds.
 */
static ss_status plan(ss_target *t, one *o, const uint8_t *kinds, uint64_t sequence,
                      ss_error *reterr) {
    ss_buf_clear(&t->key);
    ss_buf_put_byte(&t->key, 'O');
    ss_buf_put_byte(&t->key, (uint8_t)o->op);
    ss_buf_put(&t->key, &o->table->serial, sizeof o->table->serial);
    size_t at = t->key.len;
    for (uint32_t i = 0; i < o->table->count; i++)
        ss_buf_put_byte(&t->key, 0);
    if (t->key.bad)
        return ss_tgt_nomem(reterr);
    o->what = t->key.ptr + at;
    bool keyed = o->table->key_count > 0, find = o->op != SIDESPOOL__OP__OP_INSERT;
    for (uint32_t i = 0; i < o->table->count; i++) {
        bool key = o->schema->columns[i]->key;
        if (o->op != SIDESPOOL__OP__OP_DELETE && has_cell(o->row, i) &&
            (kinds == NULL || kinds[i] == SS_CELL_VALUE)) {
            /* Without a mask, a key cell is only written when it changes: an always-identity could
             * not be SET. */
            if (kinds != NULL || !find || !key ||
                (o->key != o->row && !same_cell(o->key, o->row, i))) {
                o->what[i] |= SET;
                o->sets++;
                o->replace |= find && o->table->columns[i].identity_always;
            }
        }
        if (!find || (keyed && !key && !(o->table->key_deferred && o->whole)) ||
            !has_cell(o->key, i))
            continue;
        o->what[i] |= o->key->kinds[i] == SS_CELL_NULL ? MATCH_NULL : MATCH;
        o->matches++;
    }
    if (find && o->matches < (keyed ? o->table->key_count : o->table->count > 0))
        return ss_fail(reterr, SS_STOP, "SS-TGT-0019",
                       "Table %s, record %llu: an %s lacks the cells by which its row would be "
                       "found (REPLICA IDENTITY of "
                       "the source table); resync the table.",
                       o->table->shown, (unsigned long long)sequence, ss_tgt_op_name(o->op));
    return SS_OK;
}

/* ---- SQL: parameters are the MATCH cells, then the SET cells, each in column order
 * ------------------------------------------ */
static void put_match(ss_buf *sql, const one *o, const char *alias) {
    const ss_tgt_table *table = o->table;
    int n = 0;
    bool first = true;
    for (uint32_t i = 0; i < table->count; i++) {
        const ss_tgt_column *c = &table->columns[i];
        if ((o->what[i] & (MATCH | MATCH_NULL)) == 0)
            continue;
        ss_buf_printf(sql, "%s%s.%s ", first ? " WHERE " : " AND ", alias, c->ident);
        first = false;
        if ((o->what[i] & MATCH_NULL) != 0) {
            ss_buf_put_str(sql, "IS NOT DISTINCT FROM NULL");
            continue;
        }
        char source[16];
        snprintf(source, sizeof source, "$%d", ++n);
        bool keyed = o->schema->columns[i]->key;
        if (keyed || c->same_by_equal || c->also_equal) {
            ss_buf_printf(sql, "%s ", keyed ? c->equal : "=");
            ss_tgt_put_cast(sql, c, source);
        }
        if (keyed || c->same_by_equal)
            continue;
        if (c->also_equal)
            ss_buf_printf(sql, " AND %s.%s", alias, c->ident);
        ss_buf_put_str(sql, "::text COLLATE \"C\" = (");
        ss_tgt_put_cast(sql, c, source);
        ss_buf_put_str(sql, ")::text");
    }
}

/* With a key: by it. Without: the place of one such row. */
static void put_where(ss_buf *sql, const one *o) {
    const ss_tgt_table *table = o->table;
    if (table->key_count > 0 && !table->key_deferred) {
        put_match(sql, o, "t");
        return;
    }
    if (table->partitioned)
        ss_buf_printf(sql, " WHERE (t.tableoid, t.ctid) = (SELECT s.tableoid, s.ctid FROM %s s",
                      table->name);
    else
        ss_buf_printf(sql, " WHERE t.ctid = (SELECT s.ctid FROM ONLY %s s", table->name);
    put_match(sql, o, "s");
    ss_buf_put_str(sql, " LIMIT 1)");
}

/* "a" = $3::int, or only the expression. */
static void put_sets(ss_buf *sql, const one *o, bool names, bool values) {
    uint32_t n = 0;
    bool first = true;
    for (uint32_t i = 0; i < o->table->count; i++)
        n += (o->what[i] & MATCH) != 0 ? 1 : 0;
    for (uint32_t i = 0; i < o->table->count; i++) {
        if ((o->what[i] & SET) == 0)
            continue;
        char source[16];
        snprintf(source, sizeof source, "$%u", ++n);
        ss_buf_put_str(sql, first ? "" : ", ");
        first = false;
        if (names)
            ss_buf_put_str(sql, o->table->columns[i].ident);
        if (names && values)
            ss_buf_put_str(sql, " = ");
        if (values)
            ss_tgt_put_cast(sql, &o->table->columns[i], source);
    }
}

static void sql_insert(ss_buf *sql, const one *o) {
    if (o->sets == 0) {
        ss_buf_printf(sql, "INSERT INTO %s DEFAULT VALUES", o->table->name);
        return;
    }
    ss_buf_printf(sql, "INSERT INTO %s (", o->table->name);
    put_sets(sql, o, true, false);
    ss_buf_put_str(sql, ") OVERRIDING SYSTEM VALUE VALUES (");
    put_sets(sql, o, false, true);
    ss_buf_put_byte(sql, ')');
}

static void sql_replace(ss_buf *sql, const one *o) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < o->table->count; i++)
        n += (o->what[i] & MATCH) != 0 ? 1 : 0;
    ss_buf_printf(sql, "WITH d AS (DELETE FROM %s%s t", o->table->only, o->table->name);
    put_where(sql, o);
    ss_buf_put_str(sql, " RETURNING ");
    for (uint32_t i = 0; i < o->table->count; i++) {
        char source[16];
        ss_buf_put_str(sql, i > 0 ? ", " : "");
        if ((o->what[i] & SET) != 0) {
            snprintf(source, sizeof source, "$%u", ++n);
            ss_tgt_put_cast(sql, &o->table->columns[i], source);
        } else {
            ss_buf_printf(sql, "t.%s", o->table->columns[i].ident);
        }
        ss_buf_printf(sql, " AS r%u", i);
    }
    ss_buf_printf(sql, ") INSERT INTO %s (", o->table->name);
    ss_tgt_put_columns(sql, o->table);
    ss_buf_put_str(sql, ") OVERRIDING SYSTEM VALUE SELECT ");
    for (uint32_t i = 0; i < o->table->count; i++)
        ss_buf_printf(sql, "%sd.r%u", i > 0 ? ", " : "", i);
    ss_buf_put_str(sql, " FROM d");
}

static void put_sql(ss_buf *sql, const one *o) {
    const ss_tgt_table *table = o->table;
    if (o->op == SIDESPOOL__OP__OP_INSERT) {
        sql_insert(sql, o);
    } else if (o->op == SIDESPOOL__OP__OP_DELETE) {
        ss_buf_printf(sql, "DELETE FROM %s%s t", table->only, table->name);
        put_where(sql, o);
    } else if (o->sets == 0) {
        /* Nothing changes; that the row is there is still checked. */
        ss_buf_printf(sql, "SELECT 1 FROM %s%s t", table->only, table->name);
        put_where(sql, o);
    } else if (o->replace) {
        sql_replace(sql, o);
    } else {
        ss_buf_printf(sql, "UPDATE %s%s t SET ", table->only, table->name);
        put_sets(sql, o, true, true);
        put_where(sql, o);
    }
}

static void value(ss_target *t, int n, const ss_row *row, uint32_t i) {
    bool null = row->kinds[i] == SS_CELL_NULL;
    t->values[n] = null ? NULL : row->cells[i].len > 0 ? (const char *)row->cells[i].ptr : "";
    t->lengths[n] = null ? 0 : (int)row->cells[i].len;
    t->formats[n] = 1; /* text's binary form is its bytes; no terminator needed */
}

ss_status ss_tgt_one(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                     Sidespool__Op op, const ss_row *key, const ss_row *row, const uint8_t *kinds,
                     uint64_t sequence, bool final, ss_error *reterr) {
    one o = {.table = table,
             .schema = schema,
             .op = op,
             .key = key,
             .row = row,
             .whole = final && key != row};
    ss_status status = plan(t, &o, kinds, sequence, reterr);
    if (status == SS_OK)
        status = ss_tgt_values_room(t, 2 * (size_t)table->count + 1, reterr);
    if (status != SS_OK)
        return status;
    int n = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < table->count; i++)
        if ((o.what[i] & MATCH) != 0)
            value(t, n++, key, i);
    for (uint32_t i = 0; i < table->count; i++)
        if ((o.what[i] & SET) != 0)
            value(t, n++, row, i);
    for (uint32_t i = 0; i < table->count; i++) {
        bytes += (o.what[i] & MATCH) != 0 ? key->cells[i].len : 0;
        bytes += (o.what[i] & SET) != 0 && row->kinds[i] == SS_CELL_VALUE ? row->cells[i].len : 0;
    }
    if (bytes > SS_TGT_ROW_BYTES)
        return ss_tgt_too_large(table, bytes, reterr);
    ss_tgt_stmt *stmt = ss_tgt_stmt_find(t);
    if (stmt == NULL) {
        ss_buf_clear(&t->sql);
        put_sql(&t->sql, &o);
        status = ss_tgt_stmt_make(t, n, 25, &stmt, reterr);
    }
    if (status != SS_OK)
        return status;
    return ss_tgt_stmt_send(t, stmt, n,
                            (ss_tgt_answer){.kind = SS_TGT_ROWS,
                                            .table = table,
                                            .op = op,
                                            .expected = 1,
                                            .ordered = final,
                                            .sequence = sequence},
                            reterr);
}

/* ---- the table's changes in order
 * ----------------------------------------------------------------------------------------- */
/* The image that finds the row: the old one where the source sent it, else the new one, whose key
 * is the old. */
static const ss_row *finder(const ss_tgt_table *table, const Sidespool__Schema *schema,
                            const ss_change *change) {
    if (change->op != SIDESPOOL__OP__OP_UPDATE || table->key_count == 0)
        return &change->before;
    for (uint32_t i = 0; i < table->count; i++)
        if (schema->columns[i]->key && !has_cell(&change->before, i))
            return &change->after;
    return &change->before;
}

/* Consecutive INSERTs that write the same columns go set-wise in pieces of this many. */
#define RUN_MOST 512

static bool same_columns(const ss_row *a, const ss_row *b) {
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (has_cell(a, i) != has_cell(b, i))
            return false;
    return true;
}

/* Only where no constraint can refuse them: a table without a key. So a refusal still names its
 * record elsewhere. */
static ss_status insert_run(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                            const ss_batch_change **at, ss_error *reterr) {
    const ss_row *rows[RUN_MOST];
    const ss_batch_change *c = *at, *first = *at;
    size_t n = 0;
    for (; c != NULL && n < RUN_MOST && c->change.op == SIDESPOOL__OP__OP_INSERT &&
           same_columns(&first->change.after, &c->change.after);
         c = c->next)
        rows[n++] = &c->change.after;
    *at = c;
    ss_buf kinds;
    ss_buf_init(&kinds);
    for (uint32_t i = 0; i < table->count; i++)
        ss_buf_put_byte(&kinds, has_cell(rows[0], i) ? SS_CELL_VALUE : SS_CELL_UNCHANGED);
    ss_group group = {.op = SIDESPOOL__OP__OP_INSERT, .kinds = kinds.ptr, .count = n, .rows = rows};
    size_t before = t->answer_count;
    ss_status status =
        kinds.bad ? ss_tgt_nomem(reterr) : ss_tgt_group(t, table, schema, &group, reterr);
    for (size_t i = before; i < t->answer_count; i++) {
        t->answers[i].ordered = true;
        t->answers[i].sequence = first->sequence;
    }
    ss_buf_done(&kinds);
    return status;
}

ss_status ss_tgt_ordered(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                         const ss_batch_change *first, ss_error *reterr) {
    ss_status status = SS_OK;
    for (const ss_batch_change *c = first; c != NULL && status == SS_OK;) {
        const ss_change *change = &c->change;
        if (change->op == SIDESPOOL__OP__OP_INSERT && table->key_count == 0 && c->next != NULL &&
            c->next->change.op == change->op) {
            status = insert_run(t, table, schema, &c, reterr);
            continue;
        }
        status = ss_tgt_one(t, table, schema, change->op,
                            change->op == SIDESPOOL__OP__OP_INSERT ? NULL
                                                                   : finder(table, schema, change),
                            &change->after, NULL, c->sequence, true, reterr);
        c = c->next;
    }
    return status;
}
