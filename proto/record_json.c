/* One record as one line of JSON, for `sidespool spool dump`. For people and their tools, never
 * read back by us. Whatever is a number of 64 bits without a sign, and not a count, stands as
 * hexadecimal text, because JSON's readers round it. */
#include "sidespool/record.h"

#include <jansson.h>
#include <stdio.h>

static bool is_utf8(ss_bytes value) {
    json_t *probe = json_stringn(value.len == 0 ? "" : (const char *)value.ptr, value.len);
    bool ret = probe != NULL;
    json_decref(probe);
    return ret;
}

static json_t *hex_json(ss_bytes value) {
    static const char digits[] = "0123456789abcdef";
    ss_buf text;

    ss_buf_init(&text);
    uint8_t *to = ss_buf_reserve(&text, value.len * 2 + 1);
    if (to != NULL)
        for (size_t i = 0; i < value.len; i++) {
            *to++ = (uint8_t)digits[value.ptr[i] >> 4];
            *to++ = (uint8_t)digits[value.ptr[i] & 15];
            text.len += 2;
        }
    json_t *ret = json_pack("{s:o}", "hex", json_stringn(ss_buf_cstr(&text), text.len));
    ss_buf_done(&text);
    return ret;
}

static json_t *bytes_json(ss_bytes value) {
    json_t *ret = json_stringn(value.len == 0 ? "" : (const char *)value.ptr, value.len);
    return ret != NULL ? ret : hex_json(value); /* NULL: not UTF-8 */
}

static json_t *text_json(const char *text) {
    return bytes_json(ss_bytes_str(text == NULL ? "" : text));
}

static json_t *id_json(uint64_t id) {
    return json_sprintf("%016llx", (unsigned long long)id);
}

static json_t *count_json(uint64_t count) {
    return json_integer((json_int_t)count);
}

static void set(json_t *object, const char *key, json_t *value) {
    json_object_set_new(object, key, value == NULL ? json_null() : value);
}

/* A column's name, or its number (from 0) when the schema is not at hand. */
static void set_cell(json_t *object, const Sidespool__Schema *schema, size_t i, json_t *value) {
    char number[24];

    if (schema != NULL && i < schema->n_columns &&
        is_utf8(ss_bytes_str(schema->columns[i]->name))) {
        set(object, schema->columns[i]->name, value);
        return;
    }
    snprintf(number, sizeof number, "%zu", i);
    set(object, number, value);
}

static json_t *row_json(const Sidespool__Row *row, const Sidespool__Schema *schema) {
    json_t *object = json_object();
    size_t next = 0;

    for (size_t i = 0; i < row->kinds.len; i++) {
        json_t *value = NULL;
        switch (row->kinds.data[i]) {
        case SS_CELL_VALUE:
            if (next < row->n_values)
                value = bytes_json(ss_bytes_of(row->values[next].data, row->values[next].len));
            next++;
            break;
        case SS_CELL_NULL:
            value = json_null();
            break;
        case SS_CELL_ABSENT:
            value = json_pack("{s:b}", "absent", 1);
            break;
        case SS_CELL_UNCHANGED:
            value = json_pack("{s:b}", "unchanged", 1);
            break;
        case SS_CELL_PIECES:
            value = json_pack("{s:b}", "pieces", 1);
            break;
        default:
            value = json_pack("{s:i}", "unknown_kind", row->kinds.data[i]);
            break;
        }
        set_cell(object, schema, i, value);
    }
    return object;
}

static void set_schema(json_t *object, uint64_t id, const Sidespool__Schema *schema) {
    set(object, "schema", id_json(id));
    if (schema != NULL) {
        set(object, "ns", text_json(schema->ns));
        set(object, "name", text_json(schema->name));
    }
}

static void change_json(json_t *object, const Sidespool__Change *change,
                        const Sidespool__Schema *schema) {
    const char *op = change->op == SIDESPOOL__OP__OP_INSERT   ? "insert"
                     : change->op == SIDESPOOL__OP__OP_UPDATE ? "update"
                     : change->op == SIDESPOOL__OP__OP_DELETE ? "delete"
                                                              : "unknown";
    set(object, "kind", json_string("change"));
    set(object, "op", json_string(op));
    set_schema(object, change->schema_id, schema);
    if (change->before != NULL)
        set(object, "before", row_json(change->before, schema));
    if (change->after != NULL)
        set(object, "after", row_json(change->after, schema));
}

static void truncate_json(json_t *object, const Sidespool__Truncate *truncate) {
    json_t *ids = json_array();

    for (size_t i = 0; i < truncate->n_schema_ids; i++)
        json_array_append_new(ids, id_json(truncate->schema_ids[i]));
    set(object, "kind", json_string("truncate"));
    set(object, "schemas", ids);
    set(object, "cascade", json_boolean(truncate->cascade));
    set(object, "restart_identity", json_boolean(truncate->restart_identity));
}

static void table_gap_json(json_t *object, const Sidespool__TableGap *gap) {
    json_t *tables = json_array();

    for (size_t i = 0; i < gap->n_tables; i++) {
        json_t *table = json_object();
        set(table, "ns", text_json(gap->tables[i]->ns));
        set(table, "name", text_json(gap->tables[i]->name));
        json_array_append_new(tables, table);
    }
    set(object, "kind", json_string("table_gap"));
    set(object, "reason", text_json(gap->reason));
    set(object, "tables", tables);
}

static void copy_begin_json(json_t *object, const Sidespool__CopyBegin *begin) {
    json_t *tables = json_array();

    for (size_t i = 0; i < begin->n_tables; i++) {
        json_t *table = json_object();
        set(table, "ns", text_json(begin->tables[i]->ns));
        set(table, "name", text_json(begin->tables[i]->name));
        set(table, "rows_estimate", count_json(begin->tables[i]->rows_estimate));
        set(table, "bytes_estimate", count_json(begin->tables[i]->bytes_estimate));
        json_array_append_new(tables, table);
    }
    set(object, "kind", json_string("copy_begin"));
    set(object, "generation", count_json(begin->generation));
    set(object, "route", text_json(begin->route));
    set(object, "position", text_json(begin->position));
    set(object, "copy_sequence", count_json(begin->copy_sequence));
    set(object, "rows_estimate", count_json(begin->rows_estimate));
    set(object, "bytes_estimate", count_json(begin->bytes_estimate));
    set(object, "tables", tables);
}

/* How many cells a row of this schema has in a CopyRows: generated columns are not copied. */
static size_t copied_columns(const Sidespool__Schema *schema) {
    size_t count = 0;

    for (size_t i = 0; i < schema->n_columns; i++)
        count += !schema->columns[i]->generated;
    return count;
}

static json_t *copied_row_json(json_t *cells, size_t first, size_t width,
                               const Sidespool__Schema *schema) {
    json_t *row = json_object();
    size_t column = 0;

    for (size_t k = 0; k < width; k++, column++) {
        while (schema != NULL && width != schema->n_columns && schema->columns[column]->generated)
            column++;
        set_cell(row, schema, column, json_incref(json_array_get(cells, first + k)));
    }
    return row;
}

/* Rows do not say how many cells they have: it is cells / count, or what the schema says. A large
 * row is cut at any byte, and a record does not know whether it begins in the midst of one: what
 * does not come out as whole rows is shown as the bytes that it is. */
static void copy_rows_json(json_t *object, const Sidespool__CopyRows *rows,
                           const Sidespool__Schema *schema) {
    ss_bytes in = ss_bytes_of(rows->cells.data, rows->cells.len);
    json_t *cells = json_array();
    ss_bytes value;
    bool null;
    bool bad = false;

    while (!rows->more && ss_cells_get(&in, &null, &value, &bad))
        json_array_append_new(cells, null ? json_null() : bytes_json(value));
    set(object, "kind", json_string("copy_rows"));
    set(object, "generation", count_json(rows->generation));
    set_schema(object, rows->schema_id, schema);
    set(object, "count", count_json(rows->count));
    set(object, "more", json_boolean(rows->more));
    size_t total = json_array_size(cells);
    size_t width = rows->count == 0 ? 0 : total / rows->count;
    bool whole = !rows->more && !bad && total == width * rows->count;
    if (whole && schema != NULL)
        whole = width == schema->n_columns || width == copied_columns(schema);
    if (whole) {
        json_t *list = json_array();
        for (size_t i = 0; i < rows->count; i++)
            json_array_append_new(list, copied_row_json(cells, i * width, width, schema));
        set(object, "rows", list);
    } else {
        set(object, "part", hex_json(ss_bytes_of(rows->cells.data, rows->cells.len)));
    }
    json_decref(cells);
}

static void object_json(json_t *object, const Sidespool__Object *it) {
    set(object, "kind", json_string("object"));
    set(object, "generation", count_json(it->generation));
    set(object, "phase", text_json(it->phase));
    set(object, "object", text_json(it->kind));
    set(object, "ns", text_json(it->ns));
    set(object, "name", text_json(it->name));
    set(object, "table", text_json(it->table));
    set(object, "definition", text_json(it->definition));
    set(object, "note", text_json(it->note));
    set(object, "optional", json_boolean(it->optional));
}

static void copy_end_json(json_t *object, const Sidespool__CopyEnd *end) {
    set(object, "kind", json_string("copy_end"));
    set(object, "generation", count_json(end->generation));
    set(object, "route", text_json(end->route));
    set(object, "aborted", json_boolean(end->aborted));
    set(object, "reason", text_json(end->reason));
}

static void copy_table_json(json_t *object, const Sidespool__CopyTable *table) {
    set(object, "kind", json_string("copy_table"));
    set(object, "generation", count_json(table->generation));
    set(object, "schema", id_json(table->schema_id));
    set(object, "ns", text_json(table->ns));
    set(object, "name", text_json(table->name));
    set(object, "rows", count_json(table->rows));
    set(object, "bytes", count_json(table->bytes));
}

static void body_json(json_t *object, const Sidespool__Record *record,
                      const Sidespool__Schema *schema) {
    switch (record->body_case) {
    case SIDESPOOL__RECORD__BODY_BEGIN:
        set(object, "kind", json_string("begin"));
        set(object, "commit_time", json_integer(record->begin->commit_time));
        set(object, "xid", count_json(record->begin->xid));
        break;
    case SIDESPOOL__RECORD__BODY_CHANGE:
        change_json(object, record->change, schema);
        break;
    case SIDESPOOL__RECORD__BODY_COMMIT:
        set(object, "kind", json_string("commit"));
        set(object, "position", text_json(record->commit->position));
        set(object, "commit_time", json_integer(record->commit->commit_time));
        break;
    case SIDESPOOL__RECORD__BODY_TRUNCATE:
        truncate_json(object, record->truncate);
        break;
    case SIDESPOOL__RECORD__BODY_PIECE:
        set(object, "kind", json_string("piece"));
        set(object, "before", json_boolean(record->piece->before));
        set(object, "column", count_json(record->piece->column));
        set(object, "last", json_boolean(record->piece->last));
        set(object, "data",
            bytes_json(ss_bytes_of(record->piece->data.data, record->piece->data.len)));
        break;
    case SIDESPOOL__RECORD__BODY_IDLE:
        set(object, "kind", json_string("idle"));
        set(object, "position", text_json(record->idle->position));
        set(object, "time", json_integer(record->idle->time));
        break;
    case SIDESPOOL__RECORD__BODY_MARK:
        set(object, "kind", json_string("mark"));
        set(object, "id", text_json(record->mark->id));
        set(object, "mark", text_json(record->mark->kind));
        set(object, "position", text_json(record->mark->position));
        break;
    case SIDESPOOL__RECORD__BODY_COPY_BEGIN:
        copy_begin_json(object, record->copy_begin);
        break;
    case SIDESPOOL__RECORD__BODY_COPY_END:
        copy_end_json(object, record->copy_end);
        break;
    case SIDESPOOL__RECORD__BODY_COPY_ROWS:
        copy_rows_json(object, record->copy_rows, schema);
        break;
    case SIDESPOOL__RECORD__BODY_COPY_TABLE:
        copy_table_json(object, record->copy_table);
        break;
    case SIDESPOOL__RECORD__BODY_OBJECT:
        object_json(object, record->object);
        break;
    case SIDESPOOL__RECORD__BODY_GAP:
        set(object, "kind", json_string("gap"));
        set(object, "epoch", count_json(record->gap->epoch));
        set(object, "reason", text_json(record->gap->reason));
        set(object, "position", text_json(record->gap->position));
        break;
    case SIDESPOOL__RECORD__BODY_TABLE_GAP:
        table_gap_json(object, record->table_gap);
        break;
    default:
        set(object, "kind", json_string("unknown"));
        break;
    }
}

static int to_buf(const char *text, size_t len, void *out) {
    ss_buf_put(out, text, len);
    return ((ss_buf *)out)->bad ? -1 : 0;
}

void ss_record_json(const Sidespool__Record *record, uint64_t sequence,
                    const Sidespool__Schema *schema, ss_buf *out) {
    json_t *object = json_object();

    set(object, "sequence", count_json(sequence));
    body_json(object, record, schema);
    if (object == NULL || json_dump_callback(object, to_buf, out, JSON_COMPACT) != 0)
        out->bad = true;
    json_decref(object);
}
