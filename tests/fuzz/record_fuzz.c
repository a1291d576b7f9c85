/* needs: proto */
/* Records and schemas as a spool holds them (proto/record_codec.c, record_json.c): an applier reads
 * them from files that may be damaged or written by another version.
 *
 * Held to: what is read, written and read again is the same; the arena's limit is kept; a refusal
 * names the place; a JSON line is JSON. */
#include "sidespool/record.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>
#include <stdlib.h>

/* The input: a byte of settings, then a record (or a schema, or cells, or a change to be cut in pieces). */
enum { AS_RECORD, AS_SCHEMA, AS_SEALED, AS_CELLS, AS_MODES }; /* settings % AS_MODES, but for this: */
#define AS_PIECES 0x3Fu /* rarely: it moves megabytes */
#define SMALL_ARENA 0x80u
#define WITH_SCHEMA 0x40u
#define SMALL_BYTES ((size_t)2048)
#define LARGE_BYTES ((size_t)16 << 20)

static const char place[] = "fuzz/stream record 7";

static void check_refusal(ss_status status, const ss_error *err, const ss_arena *arena) {
    fuzz_check_error(status, err);
    FUZZ_CHECK_SAY(status == SS_STOP, err->text); /* memory beyond the limit is no passing trouble */
    FUZZ_CHECK_SAY(strncmp(err->text, place, sizeof place - 1) == 0, err->text);
    FUZZ_CHECK(!ss_arena_refused(arena) || strcmp(err->code, "SS-REC-0002") == 0);
}

static void check_same_row(const ss_row *a, const ss_row *b) {
    FUZZ_CHECK(a->count == b->count);
    for (uint32_t i = 0; i < a->count; i++)
        FUZZ_CHECK(a->kinds[i] == b->kinds[i] && ss_bytes_eq(a->cells[i], b->cells[i]));
}

/* The hand-made encoder of changes against protobuf-c's decoder. */
static void check_change(const Sidespool__Change *message, ss_arena *arena) {
    ss_change change, again;
    Sidespool__Record *record = NULL;
    ss_error err = {0};
    ss_buf wire;
    ss_status status = ss_record_change(message, arena, &change, &err);
    if (status != SS_OK) {
        fuzz_check_error(status, &err);
        FUZZ_CHECK_SAY(ss_arena_refused(arena), err.text); /* all else was checked while reading */
        return;
    }
    ss_buf_init(&wire);
    ss_record_put_change(&wire, &change);
    FUZZ_CHECK(!wire.bad);
    ss_arena *fresh = ss_arena_new(0);
    FUZZ_CHECK(fresh != NULL);
    status = ss_record_get(ss_bytes_of(wire.ptr, wire.len), fresh, place, &record, &err);
    FUZZ_CHECK_SAY(status == SS_OK, err.text);
    FUZZ_CHECK(ss_record_change(record->change, fresh, &again, &err) == SS_OK);
    FUZZ_CHECK(again.schema_id == change.schema_id && again.op == change.op);
    check_same_row(&change.before, &again.before);
    check_same_row(&change.after, &again.after);
    ss_arena_free(fresh);
    ss_buf_done(&wire);
}

/* Written, read and written again: the same bytes. */
static void check_again(const Sidespool__Record *record) {
    Sidespool__Record *again = NULL;
    ss_error err = {0};
    ss_buf first, second;
    ss_arena *arena = ss_arena_new(0);
    FUZZ_CHECK(arena != NULL);
    ss_buf_init(&first);
    ss_buf_init(&second);
    ss_record_put(&first, record);
    FUZZ_CHECK(!first.bad);
    ss_status status =
        ss_record_get(ss_bytes_of(first.ptr, first.len), arena, place, &again, &err);
    FUZZ_CHECK_SAY(status == SS_OK, err.text);
    ss_record_put(&second, again);
    FUZZ_CHECK(ss_bytes_eq(ss_bytes_of(first.ptr, first.len), ss_bytes_of(second.ptr, second.len)));
    ss_buf_done(&first);
    ss_buf_done(&second);
    ss_arena_free(arena);
}

/* Three columns, one of them generated, one with a name that is not UTF-8. */
static Sidespool__Schema *some_schema(void) {
    static Sidespool__Column columns[3];
    static Sidespool__Column *list[3];
    static Sidespool__Schema schema;
    static char names[3][8] = {"id", "\xE4\xF6", "made"};
    sidespool__schema__init(&schema);
    for (size_t i = 0; i < 3; i++) {
        sidespool__column__init(&columns[i]);
        columns[i].name = names[i];
        columns[i].generated = i == 2;
        list[i] = &columns[i];
    }
    schema.columns = list;
    schema.n_columns = 3;
    return &schema;
}

static void check_json(const Sidespool__Record *record, bool with_schema) {
    json_error_t why;
    ss_buf line;
    ss_buf_init(&line);
    ss_record_json(record, 4711, with_schema ? some_schema() : NULL, &line);
    FUZZ_CHECK(!line.bad && memchr(line.ptr, '\n', line.len) == NULL);
    json_t *json = json_loadb((const char *)line.ptr, line.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    FUZZ_CHECK_SAY(json != NULL, why.text);
    FUZZ_CHECK(json_integer_value(json_object_get(json, "sequence")) == 4711);
    const char *kind = json_string_value(json_object_get(json, "kind"));
    FUZZ_CHECK(kind != NULL && strcmp(kind, "unknown") != 0);
    json_decref(json);
    ss_buf_done(&line);
}

static void fuzz_record(ss_bytes bytes, ss_arena *arena, bool with_schema) {
    Sidespool__Record *record = NULL;
    ss_error err = {0};
    ss_status status = ss_record_get(bytes, arena, place, &record, &err);
    if (status != SS_OK) {
        FUZZ_CHECK(record == NULL);
        check_refusal(status, &err, arena);
        return;
    }
    check_again(record);
    check_json(record, with_schema);
    if (record->body_case == SIDESPOOL__RECORD__BODY_CHANGE)
        check_change(record->change, arena);
}

static void fuzz_schema(ss_bytes bytes, ss_arena *arena) {
    Sidespool__Schema *schema = NULL;
    ss_error err = {0};
    ss_status status = ss_schema_get(bytes, arena, place, &schema, &err);
    if (status != SS_OK) {
        FUZZ_CHECK(schema == NULL);
        check_refusal(status, &err, arena);
        return;
    }
    FUZZ_CHECK(schema->id != 0);
}

/* With the id that belongs to it, a schema is refused for what it holds alone. One flipped bit shows. */
static void fuzz_sealed(ss_bytes bytes, ss_arena *arena) {
    Sidespool__Schema *schema =
        sidespool__schema__unpack(ss_arena_protobuf(arena), bytes.len, bytes.ptr);
    Sidespool__Schema *again = NULL;
    ss_error err = {0};
    ss_buf packed;
    if (schema == NULL)
        return;
    ss_buf_init(&packed);
    uint64_t id = ss_schema_seal(schema, &packed);
    FUZZ_CHECK(id != 0 && id == schema->id && !packed.bad);
    ss_bytes whole = ss_bytes_of(packed.ptr, packed.len);
    ss_status status = ss_schema_get(whole, arena, place, &again, &err);
    if (status == SS_OK) {
        size_t before = packed.len;
        FUZZ_CHECK(again->id == id && again->n_columns == schema->n_columns);
        FUZZ_CHECK(ss_schema_seal(again, &packed) == id && packed.len == 2 * before);
        FUZZ_CHECK(memcmp(packed.ptr, packed.ptr + before, before) == 0);
        packed.ptr[bytes.len % before] ^= (uint8_t)(1u << bytes.len % 8);
        status = ss_schema_get(ss_bytes_of(packed.ptr, before), arena, place, &again, &err);
        FUZZ_CHECK(status == SS_STOP);
    }
    check_refusal(status, &err, arena);
    ss_buf_done(&packed);
}

/* Cells read, written and read again are the same cells. */
static void fuzz_cells(ss_bytes bytes) {
    ss_bytes in = bytes, value;
    bool null, bad;
    ss_buf out;
    size_t count = 0;
    ss_buf_init(&out);
    while (ss_cells_get(&in, &null, &value, &bad)) {
        FUZZ_CHECK(value.len <= bytes.len && (!null || value.len == 0));
        if (null)
            ss_cells_put_null(&out);
        else
            ss_cells_put(&out, value);
        count++;
    }
    FUZZ_CHECK(bad == (in.len > 0));
    FUZZ_CHECK(!out.bad && out.len <= bytes.len);
    in = ss_bytes_of(out.ptr, out.len);
    while (ss_cells_get(&in, &null, &value, &bad))
        count--;
    FUZZ_CHECK(!bad && count == 0);
    ss_buf_done(&out);
}

/* ---- pieces ---- */

typedef struct {
    const ss_change *change;
    ss_arena *arena;
    ss_buf joined[2][4]; /* by side and column */
    size_t changes;
    size_t left; /* calls until the sink refuses */
} pieces;

static ss_status take_piece(void *ctx, ss_bytes bytes, uint64_t schema_id, ss_error *reterr) {
    pieces *p = ctx;
    Sidespool__Record *record = NULL;
    FUZZ_CHECK(schema_id == p->change->schema_id);
    if (p->left-- == 0)
        return ss_fail(reterr, SS_BUSY, "SS-SPOOL-0001", "the spool is full");
    ss_status status = ss_record_get(bytes, p->arena, place, &record, reterr);
    FUZZ_CHECK_SAY(status == SS_OK, reterr->text);
    if (record->body_case == SIDESPOOL__RECORD__BODY_CHANGE) {
        const ss_row *rows[2] = {&p->change->after, &p->change->before};
        ss_change again;
        FUZZ_CHECK(ss_record_change(record->change, p->arena, &again, reterr) == SS_OK);
        const ss_row *got[2] = {&again.after, &again.before};
        p->changes++;
        for (size_t side = 0; side < 2; side++)
            for (uint32_t i = 0; i < rows[side]->count; i++) {
                ss_buf *joined = &p->joined[side][i];
                bool cut = got[side]->kinds[i] == SS_CELL_PIECES;
                FUZZ_CHECK(cut == (rows[side]->kinds[i] == SS_CELL_VALUE &&
                                   rows[side]->cells[i].len > SS_PIECE_BYTES));
                FUZZ_CHECK(cut || joined->len == 0);
                if (cut)
                    FUZZ_CHECK(ss_bytes_eq(rows[side]->cells[i], ss_bytes_of(joined->ptr, joined->len)));
            }
        return SS_OK;
    }
    FUZZ_CHECK(record->body_case == SIDESPOOL__RECORD__BODY_PIECE && p->changes == 0);
    const Sidespool__Piece *piece = record->piece;
    FUZZ_CHECK(piece->column < 4 && piece->data.len > 0 && piece->data.len <= SS_PIECE_BYTES);
    ss_buf_put(&p->joined[piece->before][piece->column], piece->data.data, piece->data.len);
    ss_arena_reset(p->arena);
    return SS_OK;
}

/* At most four cells a row, each as long as the input says. */
static void fuzz_pieces(ss_bytes bytes) {
    static uint8_t content[3 * SS_PIECE_BYTES + 512];
    fuzz_input in = {bytes};
    uint8_t kinds[2][4];
    ss_bytes cells[2][4];
    ss_error err = {0};
    ss_change change = {.schema_id = 5, .op = SIDESPOOL__OP__OP_UPDATE};
    pieces p = {.change = &change, .arena = ss_arena_new(0)};
    ss_buf scratch;
    int large = 2; /* more would only take longer */
    FUZZ_CHECK(p.arena != NULL);
    if (content[1] == 0)
        for (size_t i = 0; i < sizeof content; i++)
            content[i] = (uint8_t)(i * 31 + i / 251);
    p.left = fuzz_u8(&in) % 16;
    uint32_t counts[2] = {fuzz_u8(&in) % 5u, fuzz_u8(&in) % 5u};
    for (size_t side = 0; side < 2; side++)
        for (uint32_t i = 0; i < counts[side]; i++) {
            uint8_t kind = fuzz_u8(&in);
            uint8_t half_pieces = fuzz_u8(&in); /* above 249: up to three pieces, else none */
            size_t len = fuzz_u8(&in);
            if (half_pieces > 249 && large-- > 0)
                len += (half_pieces - 249u) * (SS_PIECE_BYTES / 2);
            kinds[side][i] = (uint8_t)(kind % 8 < 4 ? SS_CELL_VALUE : SS_CELL_NULL + kind % 3);
            cells[side][i] = kinds[side][i] == SS_CELL_VALUE
                                 ? ss_bytes_of(content + kind, len)
                                 : SS_BYTES_NONE;
        }
    change.after = (ss_row){counts[0], kinds[0], cells[0]};
    change.before = (ss_row){counts[1], kinds[1], cells[1]};
    ss_buf_init(&scratch);
    ss_status status = ss_record_pieces(&change, &scratch, take_piece, &p, &err);
    FUZZ_CHECK(status == (p.changes == 1 ? SS_OK : SS_BUSY));
    fuzz_check_error(status, &err);
    for (size_t side = 0; side < 2; side++)
        for (size_t i = 0; i < 4; i++)
            ss_buf_done(&p.joined[side][i]);
    ss_buf_done(&scratch);
    ss_arena_free(p.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {ss_bytes_of(data, size)};
    uint8_t settings = fuzz_u8(&in);
    size_t limit = (settings & SMALL_ARENA) != 0 ? SMALL_BYTES : LARGE_BYTES;
    ss_arena *arena = ss_arena_new(limit);
    uint8_t *exact = fuzz_exact(in.rest);
    ss_bytes bytes = ss_bytes_of(exact, in.rest.len);

    FUZZ_CHECK(arena != NULL);
    unsigned mode = settings & 0x3Fu;
    if (mode == AS_PIECES)
        fuzz_pieces(bytes);
    else if (mode % AS_MODES == AS_RECORD)
        fuzz_record(bytes, arena, (settings & WITH_SCHEMA) != 0);
    else if (mode % AS_MODES == AS_SCHEMA)
        fuzz_schema(bytes, arena);
    else if (mode % AS_MODES == AS_SEALED)
        fuzz_sealed(bytes, arena);
    else
        fuzz_cells(bytes);
    FUZZ_CHECK(ss_arena_used(arena) <= limit);
    free(exact);
    ss_arena_free(arena);
    return 0;
}
