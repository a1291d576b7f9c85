/* Records to bytes and back (proto/record.proto).
 *
 * Between decode and append (agent) and between read and batch (applier). A Change is written in
 * wire form by hand: one pass over the cells for the sizes, one for the bytes, no message tree.
 * Reading trusts nothing: what this version does not know, or what does not fit together, is
 * refused with its place, because a cell in the wrong column is worse than a stop. Wire form:
 * https://protobuf.dev/programming-guides/encoding/ */
#include "sidespool/record.h"

#include <endian.h>
#include <stdlib.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

/* Tags are field << 3 | wire type; all numbers here are below 16, so each tag is one byte. */
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2 };
#define TAG(field, wire) ((uint8_t)((field) << 3 | (wire)))
enum { RECORD_BEGIN = 1, RECORD_CHANGE = 2, RECORD_COMMIT = 3, RECORD_PIECE = 5 };
enum { BEGIN_TIME = 1, BEGIN_XID = 2 };
enum { COMMIT_POSITION = 1, COMMIT_TIME = 2 };
enum { CHANGE_SCHEMA = 1, CHANGE_OP = 2, CHANGE_BEFORE = 3, CHANGE_AFTER = 4 };
enum { ROW_KINDS = 1, ROW_VALUES = 2 };
enum { PIECE_BEFORE = 1, PIECE_COLUMN = 2, PIECE_DATA = 3, PIECE_LAST = 4 };
#define SCHEMA_HEAD 9 /* tag and fixed64 of Schema.id, the first field */

static size_t varint_len(uint64_t value) {
    unsigned bits = 64u - (unsigned)__builtin_clzll(value | 1);
    return (bits + 6) / 7;
}

static uint8_t *put_varint(uint8_t *to, uint64_t value) {
    while (value >= 0x80) {
        *to++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *to++ = (uint8_t)value;
    return to;
}

static uint8_t *put_raw(uint8_t *to, const void *ptr, size_t len) {
    if (len != 0)
        memcpy(to, ptr, len);
    return to + len;
}

static size_t delimited_len(size_t len) {
    return 1 + varint_len(len) + len;
}

static bool in_pieces(const ss_row *row, uint32_t i) {
    return row->kinds[i] == SS_CELL_VALUE && row->cells[i].len > SS_PIECE_BYTES;
}

static size_t row_len(const ss_row *row) {
    if (row->count == 0)
        return 0;
    size_t len = delimited_len(row->count);
    for (uint32_t i = 0; i < row->count; i++)
        if (row->kinds[i] == SS_CELL_VALUE && row->cells[i].len <= SS_PIECE_BYTES)
            len += delimited_len(row->cells[i].len);
    return len;
}

static uint8_t *put_row(uint8_t *to, uint8_t tag, const ss_row *row, size_t len) {
    if (row->count == 0)
        return to;
    *to++ = tag;
    to = put_varint(to, len);
    *to++ = TAG(ROW_KINDS, WIRE_BYTES);
    to = put_varint(to, row->count);
    uint8_t *kinds = to;
    to = put_raw(to, row->kinds, row->count);
    for (uint32_t i = 0; i < row->count; i++) {
        if (row->kinds[i] != SS_CELL_VALUE)
            continue;
        if (in_pieces(row, i)) {
            kinds[i] = SS_CELL_PIECES;
            continue;
        }
        *to++ = TAG(ROW_VALUES, WIRE_BYTES);
        to = put_varint(to, row->cells[i].len);
        to = put_raw(to, row->cells[i].ptr, row->cells[i].len);
    }
    return to;
}

void ss_record_put_change(ss_buf *out, const ss_change *change) {
    size_t before = row_len(&change->before);
    size_t after = row_len(&change->after);
    size_t body = 9 + 1 + varint_len((uint64_t)change->op);

    if (change->before.count != 0)
        body += delimited_len(before);
    if (change->after.count != 0)
        body += delimited_len(after);
    size_t total = delimited_len(body);
    uint8_t *to = ss_buf_reserve(out, total);
    if (to == NULL)
        return;
    *to++ = TAG(RECORD_CHANGE, WIRE_BYTES);
    to = put_varint(to, body);
    *to++ = TAG(CHANGE_SCHEMA, WIRE_FIXED64);
    to = put_raw(to, &(uint64_t){htole64(change->schema_id)}, 8);
    *to++ = TAG(CHANGE_OP, WIRE_VARINT);
    to = put_varint(to, (uint64_t)change->op);
    to = put_row(to, TAG(CHANGE_BEFORE, WIRE_BYTES), &change->before, before);
    put_row(to, TAG(CHANGE_AFTER, WIRE_BYTES), &change->after, after);
    out->len += total;
}

/* A sint64 as protobuf counts it. */
static uint64_t zigzag(int64_t value) {
    return ((uint64_t)value << 1) ^ (uint64_t)(value < 0 ? -1 : 0);
}

/* A field that holds its default is not written. */
static size_t varint_field_len(uint64_t value) {
    return value == 0 ? 0 : 1 + varint_len(value);
}

static uint8_t *put_varint_field(uint8_t *to, uint8_t field, uint64_t value) {
    if (value == 0)
        return to;
    *to++ = TAG(field, WIRE_VARINT);
    return put_varint(to, value);
}

void ss_record_put_begin(ss_buf *out, int64_t commit_time_us, uint64_t xid) {
    uint64_t time = zigzag(commit_time_us);
    size_t body = varint_field_len(time) + varint_field_len(xid);
    uint8_t *to = ss_buf_reserve(out, delimited_len(body));
    if (to == NULL)
        return;
    *to++ = TAG(RECORD_BEGIN, WIRE_BYTES);
    to = put_varint(to, body);
    to = put_varint_field(to, BEGIN_TIME, time);
    put_varint_field(to, BEGIN_XID, xid);
    out->len += delimited_len(body);
}

void ss_record_put_commit(ss_buf *out, ss_bytes position, int64_t commit_time_us) {
    uint64_t time = zigzag(commit_time_us);
    size_t body = (position.len == 0 ? 0 : delimited_len(position.len)) + varint_field_len(time);
    uint8_t *to = ss_buf_reserve(out, delimited_len(body));
    if (to == NULL)
        return;
    *to++ = TAG(RECORD_COMMIT, WIRE_BYTES);
    to = put_varint(to, body);
    if (position.len != 0) {
        *to++ = TAG(COMMIT_POSITION, WIRE_BYTES);
        to = put_varint(to, position.len);
        to = put_raw(to, position.ptr, position.len);
    }
    put_varint_field(to, COMMIT_TIME, time);
    out->len += delimited_len(body);
}

static void put_piece(ss_buf *out, bool before, uint32_t column, ss_bytes data, bool last) {
    size_t body = 2 + 1 + varint_len(column) + delimited_len(data.len) + 2;
    size_t total = delimited_len(body);
    uint8_t *to = ss_buf_reserve(out, total);
    if (to == NULL)
        return;
    *to++ = TAG(RECORD_PIECE, WIRE_BYTES);
    to = put_varint(to, body);
    *to++ = TAG(PIECE_BEFORE, WIRE_VARINT);
    *to++ = before;
    *to++ = TAG(PIECE_COLUMN, WIRE_VARINT);
    to = put_varint(to, column);
    *to++ = TAG(PIECE_DATA, WIRE_BYTES);
    to = put_varint(to, data.len);
    to = put_raw(to, data.ptr, data.len);
    *to++ = TAG(PIECE_LAST, WIRE_VARINT);
    *to = last;
    out->len += total;
}

static ss_status emit_scratch(ss_buf *scratch, ss_record_emit emit, void *ctx, uint64_t schema_id,
                              ss_error *reterr) {
    if (scratch->bad)
        return ss_fail(reterr, SS_RETRY, "SS-REC-0009",
                       "there is no memory to encode a change of schema %016llx",
                       (unsigned long long)schema_id);
    return emit(ctx, ss_bytes_of(scratch->ptr, scratch->len), schema_id, reterr);
}

static ss_status emit_row_pieces(const ss_row *row, bool before, uint64_t schema_id,
                                 ss_buf *scratch, ss_record_emit emit, void *ctx,
                                 ss_error *reterr) {
    for (uint32_t i = 0; i < row->count; i++) {
        if (!in_pieces(row, i))
            continue;
        ss_bytes left = row->cells[i];
        while (left.len > 0) {
            size_t len = left.len < SS_PIECE_BYTES ? left.len : SS_PIECE_BYTES;
            ss_buf_clear(scratch);
            put_piece(scratch, before, i, ss_bytes_of(left.ptr, len), len == left.len);
            ss_status ret = emit_scratch(scratch, emit, ctx, schema_id, reterr);
            if (ret != SS_OK)
                return ret;
            left = ss_bytes_of(left.ptr + len, left.len - len);
        }
    }
    return SS_OK;
}

ss_status ss_record_pieces(const ss_change *change, ss_buf *scratch, ss_record_emit emit, void *ctx,
                           ss_error *reterr) {
    ss_status ret =
        emit_row_pieces(&change->before, true, change->schema_id, scratch, emit, ctx, reterr);

    if (ret == SS_OK)
        ret = emit_row_pieces(&change->after, false, change->schema_id, scratch, emit, ctx, reterr);
    if (ret != SS_OK)
        return ret;
    ss_buf_clear(scratch);
    ss_record_put_change(scratch, change);
    return emit_scratch(scratch, emit, ctx, change->schema_id, reterr);
}

void ss_record_put(ss_buf *out, const Sidespool__Record *record) {
    size_t len = sidespool__record__get_packed_size(record);
    uint8_t *to = ss_buf_reserve(out, len);
    if (to == NULL)
        return;
    out->len += sidespool__record__pack(record, to);
}

/* ---- reading
 * ---------------------------------------------------------------------------------------------------
 */

/* protobuf-c answers NULL for damage and for refused memory alike; the arena knows which it was. */
static ss_status unpack_failed(const ss_arena *arena, const char *what, size_t len,
                               const char *place, ss_error *reterr) {
    if (ss_arena_starved(arena))
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "%s: there is no memory to read this %s of %zu bytes",
                       place, what, len);
    if (ss_arena_refused(arena))
        return ss_fail(reterr, SS_STOP, "SS-REC-0002",
                       "%s: this %s of %zu bytes needs more memory than its reader may use", place,
                       what, len);
    return ss_fail(reterr, SS_STOP, "SS-REC-0001",
                   "%s: this %s of %zu bytes cannot be decoded; the spool is damaged here", place,
                   what, len);
}

static ss_status unknown_field(const ProtobufCMessage *message, const char *place,
                               ss_error *reterr) {
    return ss_fail(
        reterr, SS_STOP, "SS-REC-0003",
        "%s: its %s holds field %u, which this version does not know; use a newer sidespool", place,
        message->descriptor->short_name, message->unknown_fields[0].tag);
}

static ss_status check_message(const ProtobufCMessage *message, const char *place,
                               ss_error *reterr);

static ss_status check_value(const ProtobufCFieldDescriptor *field, const void *at,
                             const char *place, ss_error *reterr) {
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        const ProtobufCMessage *nested = *(ProtobufCMessage *const *)at;
        return nested == NULL ? SS_OK : check_message(nested, place, reterr);
    }
    int value = *(const int *)at;
    if (protobuf_c_enum_descriptor_get_value(field->descriptor, value) == NULL)
        return ss_fail(reterr, SS_STOP, "SS-REC-0005",
                       "%s: its field %s holds the value %d, which this version does not know; use "
                       "a newer sidespool",
                       place, field->name, value);
    return SS_OK;
}

/* Any message, with all that it holds: no unknown field, no unknown enum value. */
static ss_status check_message(const ProtobufCMessage *message, const char *place,
                               ss_error *reterr) {
    if (message->n_unknown_fields != 0)
        return unknown_field(message, place, reterr);
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        if (field->type != PROTOBUF_C_TYPE_MESSAGE && field->type != PROTOBUF_C_TYPE_ENUM)
            continue;
        const char *at = (const char *)message + field->offset;
        const char *quantifier = (const char *)message + field->quantifier_offset;
        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
            *(const uint32_t *)(const void *)quantifier != field->id)
            continue;
        size_t count = 1;
        size_t step = field->type == PROTOBUF_C_TYPE_MESSAGE ? sizeof(void *) : sizeof(int);
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            count = *(const size_t *)(const void *)quantifier;
            at = *(const char *const *)(const void *)at;
        }
        for (size_t k = 0; k < count; k++) {
            ss_status ret = check_value(field, at + k * step, place, reterr);
            if (ret != SS_OK)
                return ret;
        }
    }
    return SS_OK;
}

static ss_status check_row(const Sidespool__Row *row, const char *side, const char *place,
                           ss_error *reterr) {
    if (row == NULL)
        return SS_OK;
    if (row->base.n_unknown_fields != 0)
        return unknown_field(&row->base, place, reterr);
    size_t values = 0;
    for (size_t i = 0; i < row->kinds.len; i++) {
        uint8_t kind = row->kinds.data[i];
        if (kind < SS_CELL_VALUE || kind > SS_CELL_PIECES)
            return ss_fail(
                reterr, SS_STOP, "SS-REC-0006",
                "%s: cell %zu of its row %s is of kind %u, which this version does not know", place,
                i + 1, side, kind);
        values += kind == SS_CELL_VALUE;
    }
    if (values != row->n_values)
        return ss_fail(
            reterr, SS_STOP, "SS-REC-0006",
            "%s: its row %s announces %zu values but holds %zu; the spool is damaged here", place,
            side, values, row->n_values);
    return SS_OK;
}

/* A TableGap that names no table would let everything pass that it is there to stop. */
static ss_status check_table_gap(const Sidespool__TableGap *gap, const char *place,
                                 ss_error *reterr) {
    bool named = gap->n_tables > 0;

    for (size_t i = 0; i < gap->n_tables && named; i++)
        named = gap->tables[i]->name[0] != '\0';
    return named ? SS_OK
                 : ss_fail(reterr, SS_STOP, "SS-REC-0010",
                           "%s: this TableGap does not say of which tables it is", place);
}

static ss_status check_change(const Sidespool__Change *change, const char *place,
                              ss_error *reterr) {
    if (change->base.n_unknown_fields != 0)
        return unknown_field(&change->base, place, reterr);
    if (change->op < SIDESPOOL__OP__OP_INSERT || change->op > SIDESPOOL__OP__OP_DELETE)
        return ss_fail(reterr, SS_STOP, "SS-REC-0005",
                       "%s: its operation is number %d, which this version does not know; use a "
                       "newer sidespool",
                       place, (int)change->op);
    if (change->op == SIDESPOOL__OP__OP_INSERT && change->before != NULL)
        return ss_fail(reterr, SS_STOP, "SS-REC-0007", "%s: this INSERT has a row from before it",
                       place);
    if (change->op == SIDESPOOL__OP__OP_DELETE && change->after != NULL)
        return ss_fail(reterr, SS_STOP, "SS-REC-0007", "%s: this DELETE has a row from after it",
                       place);
    ss_status ret = check_row(change->before, "before", place, reterr);
    return ret != SS_OK ? ret : check_row(change->after, "after", place, reterr);
}

ss_status ss_record_get(ss_bytes bytes, ss_arena *arena, const char *place, Sidespool__Record **ret,
                        ss_error *reterr) {
    Sidespool__Record *record =
        sidespool__record__unpack(ss_arena_protobuf(arena), bytes.len, bytes.ptr);
    ss_status status;

    if (record == NULL)
        return unpack_failed(arena, "record", bytes.len, place, reterr);
    if (record->base.n_unknown_fields != 0)
        return unknown_field(&record->base, place, reterr);
    if (record->body_case == SIDESPOOL__RECORD__BODY__NOT_SET)
        return ss_fail(reterr, SS_STOP, "SS-REC-0004",
                       "%s: this record is of no kind; the spool is damaged here", place);
    if (record->body_case == SIDESPOOL__RECORD__BODY_CHANGE)
        status = check_change(record->change, place, reterr);
    else
        status = check_message(&record->base, place, reterr);
    if (status == SS_OK && record->body_case == SIDESPOOL__RECORD__BODY_TABLE_GAP)
        status = check_table_gap(record->table_gap, place, reterr);
    if (status == SS_OK)
        *ret = record;
    return status;
}

static ss_status view_row(const Sidespool__Row *message, ss_arena *arena, ss_row *ret,
                          ss_error *reterr) {
    *ret = (ss_row){0};
    if (message == NULL || message->kinds.len == 0)
        return SS_OK;
    if (message->kinds.len > UINT32_MAX)
        return ss_fail(reterr, SS_STOP, "SS-REC-0006", "a row of %zu cells cannot be",
                       message->kinds.len);
    ss_bytes *cells = ss_arena_alloc(arena, message->kinds.len * sizeof *cells);
    if (cells == NULL && ss_arena_starved(arena))
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "there is no memory for a row of %zu cells",
                       message->kinds.len);
    if (cells == NULL)
        return ss_fail(reterr, SS_STOP, ss_arena_refused(arena) ? "SS-REC-0002" : "SS-REC-0009",
                       "a row of %zu cells needs more memory than its reader may use",
                       message->kinds.len);
    size_t next = 0;
    for (size_t i = 0; i < message->kinds.len; i++) {
        cells[i] = SS_BYTES_NONE;
        if (message->kinds.data[i] != SS_CELL_VALUE)
            continue;
        if (next == message->n_values)
            return ss_fail(reterr, SS_STOP, "SS-REC-0006",
                           "a row announces more values than the %zu it holds", message->n_values);
        cells[i] = ss_bytes_of(message->values[next].data, message->values[next].len);
        next++;
    }
    *ret = (ss_row){(uint32_t)message->kinds.len, message->kinds.data, cells};
    return SS_OK;
}

ss_status ss_record_change(const Sidespool__Change *message, ss_arena *arena, ss_change *ret,
                           ss_error *reterr) {
    ss_change change = {.schema_id = message->schema_id, .op = message->op};
    ss_status status = view_row(message->before, arena, &change.before, reterr);

    if (status == SS_OK)
        status = view_row(message->after, arena, &change.after, reterr);
    if (status == SS_OK)
        *ret = change;
    return status;
}

/* ---- schemas
 * ---------------------------------------------------------------------------------------------------
 */

/* 0 means "no schema" everywhere, so no schema may have that id. */
static uint64_t schema_hash(const uint8_t *ptr, size_t len) {
    uint64_t hash = XXH3_64bits(ptr, len);
    return hash == 0 ? 1 : hash;
}

/* The id is the first field, so the rest is packed behind room for it, hashed, and the id put in
 * front. */
uint64_t ss_schema_seal(Sidespool__Schema *schema, ss_buf *out) {
    schema->id = 0;
    size_t len = sidespool__schema__get_packed_size(schema);
    uint8_t *to = ss_buf_reserve(out, SCHEMA_HEAD + len);
    if (to == NULL)
        return 0;
    sidespool__schema__pack(schema, to + SCHEMA_HEAD);
    schema->id = schema_hash(to + SCHEMA_HEAD, len);
    to[0] = TAG(1, WIRE_FIXED64);
    put_raw(to + 1, &(uint64_t){htole64(schema->id)}, 8);
    out->len += SCHEMA_HEAD + len;
    return schema->id;
}

bool ss_schema_is(ss_bytes packed, uint64_t id) {
    uint64_t says;
    if (packed.len < SCHEMA_HEAD || packed.ptr[0] != TAG(1, WIRE_FIXED64))
        return false;
    memcpy(&says, packed.ptr + 1, sizeof(says));
    return le64toh(says) == id && schema_hash(packed.ptr + SCHEMA_HEAD, packed.len - SCHEMA_HEAD) == id;
}

ss_status ss_schema_get(ss_bytes bytes, ss_arena *arena, const char *place, Sidespool__Schema **ret,
                        ss_error *reterr) {
    Sidespool__Schema *schema =
        sidespool__schema__unpack(ss_arena_protobuf(arena), bytes.len, bytes.ptr);

    if (schema == NULL)
        return unpack_failed(arena, "schema", bytes.len, place, reterr);
    ss_status status = check_message(&schema->base, place, reterr);
    if (status != SS_OK)
        return status;
    if (!ss_schema_is(bytes, schema->id))
        return ss_fail(reterr, SS_STOP, "SS-REC-0008",
                       "%s: the schema %016llx does not have the content of that id; the spool is "
                       "damaged here",
                       place, (unsigned long long)schema->id);
    *ret = schema;
    return SS_OK;
}

/* ---- cells of CopyRows
 * ----------------------------------------------------------------------------------------- */

void ss_cells_put_null(ss_buf *out) {
    ss_buf_put_byte(out, 0);
}

void ss_cells_put(ss_buf *out, ss_bytes value) {
    uint64_t announced = (uint64_t)value.len + 1;
    size_t total = varint_len(announced) + value.len;
    uint8_t *to = ss_buf_reserve(out, total);
    if (to == NULL)
        return;
    put_raw(put_varint(to, announced), value.ptr, value.len);
    out->len += total;
}

bool ss_cells_get(ss_bytes *in, bool *ret_null, ss_bytes *ret, bool *ret_bad) {
    uint64_t announced = 0;
    size_t used = 0;

    *ret_bad = false;
    if (in->len == 0)
        return false;
    for (unsigned shift = 0;; shift += 7) {
        if (used == in->len || shift > 63)
            goto damaged;
        uint8_t byte = in->ptr[used++];
        if (shift == 63 && byte > 1)
            goto damaged;
        announced |= (uint64_t)(byte & 0x7F) << shift;
        if ((byte & 0x80) == 0)
            break;
    }
    *ret_null = announced == 0;
    size_t len = announced == 0 ? 0 : (size_t)(announced - 1);
    if (len > in->len - used)
        goto damaged;
    *ret = ss_bytes_of(in->ptr + used, len);
    *in = ss_bytes_of(in->ptr + used + len, in->len - used - len);
    return true;
damaged:
    *ret_bad = true;
    return false;
}
