/* needs: proto common */
/* Records: what is written comes back the same, and whatever does not fit is refused by its code.
 */
#include "sidespool/source.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#define MOST_COLUMNS 40

static uint64_t seed;

static uint64_t rnd(uint64_t below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

typedef struct {
    uint8_t kinds[MOST_COLUMNS];
    ss_bytes cells[MOST_COLUMNS];
    uint8_t data[MOST_COLUMNS][300];
} random_row;

static ss_row make_row(random_row *to, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        to->kinds[i] = (uint8_t)(1 + rnd(4));
        to->cells[i] = SS_BYTES_NONE;
        if (to->kinds[i] != SS_CELL_VALUE)
            continue;
        size_t len = rnd(5) == 0 ? 0 : rnd(sizeof to->data[i]);
        for (size_t k = 0; k < len; k++)
            to->data[i][k] = (uint8_t)rnd(256);
        to->cells[i] = ss_bytes_of(to->data[i], len);
    }
    return (ss_row){count, to->kinds, to->cells};
}

static void same_row(const ss_row *a, const ss_row *b) {
    assert_int_equal(a->count, b->count);
    for (uint32_t i = 0; i < a->count; i++) {
        assert_int_equal(a->kinds[i], b->kinds[i]);
        if (a->kinds[i] == SS_CELL_VALUE)
            assert_true(ss_bytes_eq(a->cells[i], b->cells[i]));
    }
}

static void changes_come_back(void **state) {
    ss_arena *arena = ss_arena_new(0);
    random_row *before = malloc(sizeof *before), *after = malloc(sizeof *after);
    ss_buf out;

    (void)state;
    ss_buf_init(&out);
    for (int round = 0; round < 3000; round++) {
        ss_change change = {.schema_id = rnd(UINT64_MAX), .op = (Sidespool__Op)(1 + rnd(3))};
        uint32_t columns = (uint32_t)(1 + rnd(MOST_COLUMNS));
        if (change.op != SIDESPOOL__OP__OP_INSERT &&
            (change.op == SIDESPOOL__OP__OP_DELETE || rnd(2) == 0))
            change.before = make_row(before, columns);
        if (change.op != SIDESPOOL__OP__OP_DELETE)
            change.after = make_row(after, columns);
        ss_buf_clear(&out);
        ss_buf_put_str(&out, "xy"); /* encoders append */
        ss_record_put_change(&out, &change);
        assert_false(out.bad);
        Sidespool__Record *record = NULL;
        ss_error err = {0};
        ss_change got;
        ss_arena_reset(arena);
        if (ss_record_get(ss_bytes_of(out.ptr + 2, out.len - 2), arena, "here", &record, &err) !=
            SS_OK)
            fail_msg("round %d: %s", round, err.text);
        /* By hand and by protobuf-c: the same bytes. */
        ss_buf again;
        ss_buf_init(&again);
        ss_record_put(&again, record);
        assert_true(
            ss_bytes_eq(ss_bytes_of(again.ptr, again.len), ss_bytes_of(out.ptr + 2, out.len - 2)) ||
            change.schema_id == 0);
        ss_buf_done(&again);
        assert_int_equal(ss_record_change(record->change, arena, &got, &err), SS_OK);
        assert_true(got.schema_id == change.schema_id);
        assert_int_equal(got.op, change.op);
        same_row(&change.before, &got.before);
        same_row(&change.after, &got.after);
        /* What we write is read in the short way. */
        ss_change view;
        assert_true(ss_record_view_change(ss_bytes_of(out.ptr + 2, out.len - 2), arena, &view));
        assert_true(view.schema_id == change.schema_id);
        assert_int_equal(view.op, change.op);
        same_row(&change.before, &view.before);
        same_row(&change.after, &view.after);
    }
    ss_buf_done(&out);
    ss_arena_free(arena);
    free(before);
    free(after);
}

/* ---- pieces
 * ----------------------------------------------------------------------------------------------------
 */

typedef struct {
    ss_arena *arena;
    ss_buf cell[2];
    bool last[2];
    size_t pieces, changes;
    ss_status answer;
} gathered;

static ss_status gather(void *ctx, ss_bytes bytes, uint64_t schema_id, ss_error *reterr) {
    gathered *g = ctx;
    Sidespool__Record *record = NULL;

    assert_int_equal(schema_id, 77);
    if (g->answer != SS_OK)
        return g->answer;
    assert_int_equal(ss_record_get(bytes, g->arena, "piece", &record, reterr), SS_OK);
    if (record->body_case == SIDESPOOL__RECORD__BODY_CHANGE) {
        ss_change change;
        assert_int_equal(ss_record_change(record->change, g->arena, &change, reterr), SS_OK);
        assert_int_equal(change.before.kinds[1], SS_CELL_PIECES);
        assert_int_equal(change.after.kinds[0], SS_CELL_VALUE);
        assert_int_equal(change.after.cells[0].len, SS_PIECE_BYTES); /* at the bound: not cut */
        assert_int_equal(change.after.kinds[1], SS_CELL_PIECES);
        assert_int_equal(change.after.kinds[2], SS_CELL_NULL);
        g->changes++;
        return SS_OK;
    }
    assert_int_equal(record->body_case, SIDESPOOL__RECORD__BODY_PIECE);
    assert_int_equal(g->changes, 0);
    const Sidespool__Piece *piece = record->piece;
    assert_int_equal(piece->column, 1);
    int side = piece->before ? 0 : 1;
    assert_false(g->last[side]);
    assert_in_range(piece->data.len, 1, SS_PIECE_BYTES);
    ss_buf_put(&g->cell[side], piece->data.data, piece->data.len);
    g->last[side] = piece->last;
    g->pieces++;
    ss_arena_reset(g->arena);
    return SS_OK;
}

/* Want of memory passes: the change is offered again, nobody has to do anything. */
static void no_memory_is_tried_again(void **state) {
    enum { COLUMNS = 4 << 20 }; /* 4 TiB, all of one cell */
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* ends the process instead of refusing */
#endif
    uint8_t *value = calloc(1, SS_PIECE_BYTES), *kinds = malloc(COLUMNS);
    ss_bytes *cells = malloc(COLUMNS * sizeof *cells);
    assert_true(value != NULL && kinds != NULL && cells != NULL);
    memset(kinds, SS_CELL_VALUE, COLUMNS);
    for (size_t i = 0; i < COLUMNS; i++)
        cells[i] = ss_bytes_of(value, SS_PIECE_BYTES);
    ss_change change = {
        .op = SIDESPOOL__OP__OP_INSERT, .schema_id = 1, .after = {COLUMNS, kinds, cells}};
    ss_buf scratch;
    ss_error err = {0};
    ss_buf_init(&scratch);
    gathered g = {0};
    assert_int_equal(ss_record_pieces(&change, &scratch, gather, &g, &err), SS_RETRY);
    assert_string_equal(err.code, "SS-REC-0009");
    ss_buf_done(&scratch);
    free(value);
    free(kinds);
    free(cells);
}

static void large_cells_travel_in_pieces(void **state) {
    size_t len = 3 * (size_t)SS_PIECE_BYTES + 5;
    uint8_t *large = malloc(len);
    const uint8_t kinds[] = {SS_CELL_VALUE, SS_CELL_VALUE, SS_CELL_NULL};
    gathered g = {.arena = ss_arena_new(8u << 20), .answer = SS_OK};
    ss_error err = {0};
    ss_buf scratch;

    (void)state;
    for (size_t i = 0; i < len; i++)
        large[i] = (uint8_t)(i * 31 + i / 999);
    const ss_bytes cells[] = {ss_bytes_of(large, SS_PIECE_BYTES), ss_bytes_of(large, len),
                              SS_BYTES_NONE};
    const ss_bytes olds[] = {ss_bytes_str("k"), ss_bytes_of(large, SS_PIECE_BYTES + 1),
                             SS_BYTES_NONE};
    ss_change change = {77, SIDESPOOL__OP__OP_UPDATE, {3, kinds, olds}, {3, kinds, cells}};
    ss_buf_init(&scratch);
    assert_int_equal(ss_record_pieces(&change, &scratch, gather, &g, &err), SS_OK);
    assert_int_equal(g.pieces, 6);
    assert_int_equal(g.changes, 1);
    assert_true(g.last[0] && g.last[1]);
    assert_true(ss_bytes_eq(ss_bytes_of(g.cell[0].ptr, g.cell[0].len), olds[1]));
    assert_true(ss_bytes_eq(ss_bytes_of(g.cell[1].ptr, g.cell[1].len), cells[1]));
    g.answer = SS_BUSY; /* what emit says is handed on at once */
    assert_int_equal(ss_record_pieces(&change, &scratch, gather, &g, &err), SS_BUSY);
    ss_buf_done(&scratch);
    ss_buf_done(&g.cell[0]);
    ss_buf_done(&g.cell[1]);
    ss_arena_free(g.arena);
    free(large);
}

/* ---- refusals
 * --------------------------------------------------------------------------------------------------
 */

static void refuses(const char *what, const void *ptr, size_t len, size_t limit, const char *code) {
    ss_arena *arena = ss_arena_new(limit);
    Sidespool__Record *record = NULL;
    ss_error err = {0};

    ss_status status =
        ss_record_get(ss_bytes_of(ptr, len), arena, "orders/stream record 7", &record, &err);
    if (status != SS_STOP)
        fail_msg("%s: not refused", what);
    if (strcmp(err.code, code) != 0)
        fail_msg("%s: wanted %s, got %s: %s", what, code, err.code, err.text);
    assert_memory_equal(err.text, "orders/stream record 7: ", 24);
    assert_null(record);
    ss_change view;
    if (limit == 0 && ss_record_view_change(ss_bytes_of(ptr, len), arena, &view))
        fail_msg("%s: the short way lets it pass", what);
    ss_arena_free(arena);
}

static const uint8_t a_insert[] = {0x12, 19, 0x09, 1, 2,    3, 4, 5,    6, 7,  8,
                                   0x10, 1,  0x22, 6, 0x0A, 1, 1, 0x12, 1, 'x'};
/* record.change{schema, op INSERT, after{kinds [1], values ["x"]}} */

static void refuses_bytes(const char *what, size_t at, uint8_t value, const char *code) {
    uint8_t bytes[sizeof a_insert];
    memcpy(bytes, a_insert, sizeof bytes);
    bytes[at] = value;
    refuses(what, bytes, sizeof bytes, 0, code);
}

static void refuses_damaged_changes(void **state) {
    ss_arena *arena = ss_arena_new(0);
    Sidespool__Record *record = NULL;
    ss_error err = {0};

    (void)state;
    if (ss_record_get(ss_bytes_of(a_insert, sizeof a_insert), arena, "x", &record, &err) != SS_OK)
        fail_msg("the sample itself: %s", err.text);
    ss_arena_free(arena);
    for (size_t len = 1; len < sizeof a_insert; len++)
        refuses("cut short", a_insert, len, 0, "SS-REC-0001");
    refuses("nothing", a_insert, 0, 0, "SS-REC-0004");
    refuses_bytes("op none", 12, 0, "SS-REC-0005");
    refuses_bytes("op unknown", 12, 4, "SS-REC-0005");
    refuses_bytes("kind 0", 17, 0, "SS-REC-0006");
    refuses_bytes("kind 6", 17, 6, "SS-REC-0006");
    refuses_bytes("NULL with a value", 17, SS_CELL_NULL, "SS-REC-0006");
    refuses_bytes("INSERT with a row before", 13, 0x1A, "SS-REC-0007");
    refuses_bytes("DELETE with a row after", 12, 3, "SS-REC-0007");
    refuses_bytes("unknown field of the row", 18, 0x1A, "SS-REC-0003");
    refuses_bytes("unknown field of the change", 13, 0x2A, "SS-REC-0003");
    refuses_bytes("unknown kind of record", 0, 0x7a, "SS-REC-0003");
    refuses("a small limit", a_insert, sizeof a_insert, 100, "SS-REC-0002");
    uint8_t lacking[] = {0x12, 7, 0x10, 1, 0x22, 3, 0x0A, 1, 1};
    refuses("a value announced, none there", lacking, sizeof lacking, 0, "SS-REC-0006");
}

static void refuses_what_is_new(void **state) {
    /* record.copy_begin{tables[{9: varint 1}]}: an unknown field three levels down */
    const uint8_t nested[] = {0x42, 4, 0x1A, 2, 0x48, 1};
    const uint8_t begin[] = {0x0A, 2, 0x50, 1};
    const uint8_t beside[] = {0x0A, 2,    0x10,
                              1,    0x78, 1}; /* a known body and an unknown field of Record */

    (void)state;
    refuses("nested", nested, sizeof nested, 0, "SS-REC-0003");
    refuses("begin", begin, sizeof begin, 0, "SS-REC-0003");
    refuses("beside", beside, sizeof beside, 0, "SS-REC-0003");
}

static void random_damage_never_crashes(void **state) {
    random_row *row = malloc(sizeof *row);
    ss_buf out;

    (void)state;
    ss_buf_init(&out);
    for (int round = 0; round < 20000; round++) {
        ss_change change = {.schema_id = rnd(UINT64_MAX), .op = SIDESPOOL__OP__OP_INSERT};
        change.after = make_row(row, (uint32_t)(1 + rnd(6)));
        ss_buf_clear(&out);
        ss_record_put_change(&out, &change);
        size_t len = out.len;
        for (uint64_t flips = rnd(4) + 1; flips > 0; flips--)
            out.ptr[rnd(len)] = (uint8_t)rnd(256);
        if (rnd(3) == 0)
            len = rnd(len + 1);
        ss_arena *arena = ss_arena_new(1u << 20);
        Sidespool__Record *record = NULL;
        ss_error err = {0};
        ss_change got, view;
        bool viewed = ss_record_view_change(ss_bytes_of(out.ptr, len), arena, &view);
        bool taken =
            ss_record_get(ss_bytes_of(out.ptr, len), arena, "x", &record, &err) == SS_OK &&
            record->body_case == SIDESPOOL__RECORD__BODY_CHANGE;
        if (taken)
            assert_int_equal(ss_record_change(record->change, arena, &got, &err), SS_OK);
        /* The short way takes nothing that the careful one refuses, and takes it for the same. */
        assert_true(taken || !viewed);
        if (viewed) {
            assert_true(view.schema_id == got.schema_id && view.op == got.op);
            same_row(&got.before, &view.before);
            same_row(&got.after, &view.after);
        }
        ss_arena_free(arena);
    }
    ss_buf_done(&out);
    free(row);
}

static void rows_that_lie_are_refused_twice(void **state) {
    uint8_t kinds[] = {SS_CELL_VALUE, SS_CELL_VALUE};
    ProtobufCBinaryData value = {1, kinds};
    Sidespool__Row row = SIDESPOOL__ROW__INIT;
    Sidespool__Change change = SIDESPOOL__CHANGE__INIT;
    ss_arena *arena = ss_arena_new(0);
    ss_error err = {0};
    ss_change got;

    (void)state;
    row.kinds = (ProtobufCBinaryData){2, kinds};
    row.n_values = 1;
    row.values = &value;
    change.after = &row;
    assert_int_equal(ss_record_change(&change, arena, &got, &err), SS_STOP);
    assert_string_equal(err.code, "SS-REC-0006");
    ss_arena_free(arena);
    arena = ss_arena_new(16);
    row.n_values = 2;
    assert_int_equal(ss_record_change(&change, arena, &got, &err), SS_STOP);
    assert_string_equal(err.code, "SS-REC-0002");
    ss_arena_free(arena);
}

/* ---- schemas
 * ---------------------------------------------------------------------------------------------------
 */

static Sidespool__Column columns[2];
static Sidespool__Column *column_list[2];

static Sidespool__Schema sample_schema(void) {
    Sidespool__Schema schema = SIDESPOOL__SCHEMA__INIT;

    for (size_t i = 0; i < 2; i++) {
        sidespool__column__init(&columns[i]);
        column_list[i] = &columns[i];
    }
    columns[0].name = "id";
    columns[0].native_type = "bigint";
    columns[0].key = 1;
    columns[1].name = "note";
    columns[1].native_type = "text";
    columns[1].nullable = 1;
    schema.engine = "postgres";
    schema.ns = "public";
    schema.name = "users";
    schema.columns = column_list;
    schema.n_columns = 2;
    schema.identity = SIDESPOOL__IDENTITY__IDENTITY_KEY;
    return schema;
}

static void schemas_are_sealed_by_content(void **state) {
    Sidespool__Schema schema = sample_schema();
    ss_arena *arena = ss_arena_new(0);
    Sidespool__Schema *got = NULL;
    ss_error err = {0};
    ss_buf out;

    (void)state;
    ss_buf_init(&out);
    ss_buf_put_str(&out, "xyz");
    uint64_t id = ss_schema_seal(&schema, &out);
    assert_true(id != 0 && schema.id == id);
    assert_int_equal(out.len - 3, sidespool__schema__get_packed_size(&schema));
    ss_bytes packed = ss_bytes_of(out.ptr + 3, out.len - 3);
    assert_int_equal(ss_schema_get(packed, arena, "here", &got, &err), SS_OK);
    assert_true(got->id == id);
    assert_string_equal(got->columns[1]->native_type, "text");
    ss_buf again;
    ss_buf_init(&again);
    assert_true(ss_schema_seal(&schema, &again) == id); /* sealed twice: the same */
    assert_true(ss_bytes_eq(packed, ss_bytes_of(again.ptr, again.len)));
    ss_buf_clear(&again);
    columns[1].nullable = 0;
    assert_true(ss_schema_seal(&schema, &again) != id);
    ss_buf_done(&again);

    got = NULL;
    for (size_t i = 0; i < packed.len; i++) {
        out.ptr[3 + i] ^= 0x01; /* a damaged byte anywhere is noticed */
        assert_int_equal(ss_schema_get(packed, arena, "here", &got, &err), SS_STOP);
        out.ptr[3 + i] ^= 0x01;
    }
    assert_null(got);
    assert_int_equal(
        ss_schema_get(ss_bytes_of(packed.ptr + 9, packed.len - 9), arena, "here", &got, &err),
        SS_STOP);
    assert_string_equal(err.code, "SS-REC-0008");
    schema.identity = (Sidespool__Identity)9;
    ss_buf_clear(&out);
    ss_schema_seal(&schema, &out);
    assert_int_equal(ss_schema_get(ss_bytes_of(out.ptr, out.len), arena, "here", &got, &err),
                     SS_STOP);
    assert_string_equal(err.code, "SS-REC-0005");
    ss_buf_done(&out);
    ss_arena_free(arena);
}

/* ---- cells and digests
 * ----------------------------------------------------------------------------------------- */

static void cells_come_back(void **state) {
    ss_buf out;
    uint8_t data[40000];
    const size_t lens[] = {0, 1, 126, 127, 128, 16382, 16383, 16384, 40000};
    bool null, bad;
    ss_bytes value;

    (void)state;
    memset(data, 'q', sizeof data);
    ss_buf_init(&out);
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        ss_cells_put(&out, ss_bytes_of(data, lens[i]));
        ss_cells_put_null(&out);
    }
    ss_bytes in = ss_bytes_of(out.ptr, out.len);
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        assert_true(ss_cells_get(&in, &null, &value, &bad));
        assert_false(null);
        assert_true(ss_bytes_eq(value, ss_bytes_of(data, lens[i])));
        assert_true(ss_cells_get(&in, &null, &value, &bad));
        assert_true(null);
    }
    assert_false(ss_cells_get(&in, &null, &value, &bad));
    assert_false(bad);
    ss_buf_done(&out);

    const struct {
        uint8_t bytes[11];
        size_t len;
    } damaged[] = {{{0x03, 'x'}, 2},
                   {{0x80}, 1},
                   {{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, 10},
                   {{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 10},
                   {{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, 11}};
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        in = ss_bytes_of(damaged[i].bytes, damaged[i].len);
        assert_false(ss_cells_get(&in, &null, &value, &bad));
        assert_true(bad);
    }
}

static ss_digest_row digest(const char *const *cells, size_t count, const bool *is_key) {
    ss_digest_row ret;
    ss_buf out;

    ss_buf_init(&out);
    for (size_t i = 0; i < count; i++) {
        if (cells[i] == NULL)
            ss_cells_put_null(&out);
        else
            ss_cells_put(&out, ss_bytes_str(cells[i]));
    }
    ss_digest_row_hash(ss_bytes_of(out.ptr, out.len), is_key, (uint32_t)count, &ret);
    ss_buf_done(&out);
    return ret;
}
#define DIGEST(keys, ...)                                                                          \
    digest((const char *const[]){__VA_ARGS__},                                                     \
           sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), keys)

static void digests_find_rows(void **state) {
    const bool first[] = {true, false, false};
    const bool outer[] = {true, false, true};
    const bool none[] = {false, false, false};

    (void)state;
    ss_digest_row a = DIGEST(first, "1", "x", NULL);
    ss_digest_row b = DIGEST(first, "1", "y", NULL);
    assert_true(a.key_hash == b.key_hash && a.row_lo != b.row_lo && a.row_hi != b.row_hi);
    assert_true(DIGEST(first, "1", "x", "").row_lo != a.row_lo); /* NULL is not the empty text */
    assert_true(DIGEST(first, "1x", "", NULL).row_lo != a.row_lo);
    /* A key that is spread hashes like the same cells side by side. */
    const bool both[] = {true, true};
    assert_true(DIGEST(outer, "1", "between", "2").key_hash == DIGEST(both, "1", "2").key_hash);
    assert_true(DIGEST(outer, "1", "a", "2").key_hash != DIGEST(outer, "12", "a", "").key_hash);
    assert_true(DIGEST(none, "1", "x", NULL).key_hash == a.row_lo);
    assert_true(DIGEST(NULL, "1", "x", NULL).key_hash == a.row_lo);

    ss_digest_bucket *one = calloc(SS_DIGEST_BUCKETS, sizeof *one),
                     *two = calloc(SS_DIGEST_BUCKETS, sizeof *two);
    ss_digest_row rows[200];
    for (int i = 0; i < 200; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d", i / 2); /* each twice: they must not cancel out */
        rows[i] = DIGEST(first, text, "v", NULL);
        ss_digest_add(one, &rows[i]);
    }
    for (int i = 199; i >= 0; i--)
        ss_digest_add(two, &rows[i]);
    assert_memory_equal(one, two, SS_DIGEST_BUCKETS * sizeof *one);
    assert_true(one[rows[0].key_hash % SS_DIGEST_BUCKETS].sum_lo != 0);
    ss_digest_bucket carry = {1, UINT64_MAX, UINT64_MAX};
    memset(two, 0, SS_DIGEST_BUCKETS * sizeof *two);
    two[5] = carry;
    ss_digest_add(two, &(ss_digest_row){5, 1, 0, NULL});
    assert_true(two[5].rows == 2 && two[5].sum_lo == 0 && two[5].sum_hi == 0);
    free(one);
    free(two);
}

/* ---- JSON
 * ------------------------------------------------------------------------------------------------------
 */

static void dumps(const Sidespool__Record *record, const Sidespool__Schema *schema,
                  const char *want) {
    ss_buf out;

    ss_buf_init(&out);
    ss_record_json(record, 12, schema, &out);
    assert_string_equal(ss_buf_cstr(&out), want);
    json_t *parsed = json_loadb((const char *)out.ptr, out.len, JSON_ALLOW_NUL, NULL);
    assert_non_null(parsed);
    json_decref(parsed);
    ss_buf_done(&out);
}

static void records_are_dumped(void **state) {
    Sidespool__Schema schema = sample_schema();
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    Sidespool__Change change = SIDESPOOL__CHANGE__INIT;
    Sidespool__Row before = SIDESPOOL__ROW__INIT, after = SIDESPOOL__ROW__INIT;
    uint8_t old_kinds[] = {SS_CELL_ABSENT, SS_CELL_UNCHANGED};
    uint8_t new_kinds[] = {SS_CELL_VALUE, SS_CELL_VALUE};
    ProtobufCBinaryData values[] = {{4, (uint8_t *)"a\"\n\0"}, {2, (uint8_t *)"\xff\x01"}};

    (void)state;
    before.kinds = (ProtobufCBinaryData){2, old_kinds};
    after.kinds = (ProtobufCBinaryData){2, new_kinds};
    after.n_values = 2;
    after.values = values;
    change.schema_id = 0xabc;
    change.op = SIDESPOOL__OP__OP_UPDATE;
    change.before = &before;
    change.after = &after;
    record.body_case = SIDESPOOL__RECORD__BODY_CHANGE;
    record.change = &change;
    dumps(&record, &schema,
          "{\"sequence\":12,\"kind\":\"change\",\"op\":\"update\",\"schema\":\"0000000000000abc\","
          "\"ns\":\"public\","
          "\"name\":\"users\",\"before\":{\"id\":{\"absent\":true},\"note\":{\"unchanged\":true}},"
          "\"after\":{\"id\":\"a\\\"\\n\\u0000\",\"note\":{\"hex\":\"ff01\"}}}");
    new_kinds[0] = SS_CELL_NULL;
    new_kinds[1] = SS_CELL_PIECES;
    after.n_values = 0;
    change.before = NULL;
    dumps(&record, NULL,
          "{\"sequence\":12,\"kind\":\"change\",\"op\":\"update\",\"schema\":\"0000000000000abc\","
          "\"after\":{\"0\":null,\"1\":{\"pieces\":true}}}");

    Sidespool__CopyRows rows = SIDESPOOL__COPY_ROWS__INIT;
    uint8_t cells[] = {2, '1', 0, 2, '2', 3, 'a', 'b'};
    rows.generation = 3;
    rows.count = 2;
    rows.cells = (ProtobufCBinaryData){sizeof cells, cells};
    record.body_case = SIDESPOOL__RECORD__BODY_COPY_ROWS;
    record.copy_rows = &rows;
    dumps(&record, &schema,
          "{\"sequence\":12,\"kind\":\"copy_rows\",\"generation\":3,\"schema\":"
          "\"0000000000000000\",\"ns\":\"public\","
          "\"name\":\"users\",\"count\":2,\"more\":false,\"rows\":[{\"id\":\"1\",\"note\":null},"
          "{\"id\":\"2\",\"note\":\"ab\"}]}");
    Sidespool__Column made = SIDESPOOL__COLUMN__INIT;
    Sidespool__Column *three[] = {&columns[0], &made, &columns[1]};
    made.name = "made";
    made.generated = 1;
    schema.columns = three;
    schema.n_columns = 3;
    dumps(&record, &schema,
          "{\"sequence\":12,\"kind\":\"copy_rows\",\"generation\":3,\"schema\":"
          "\"0000000000000000\",\"ns\":\"public\",\"name\":\"users\",\"count\":2,\"more\":false,"
          "\"rows\":[{\"id\":\"1\",\"note\":null},{\"id\":\"2\",\"note\":\"ab\"}]}");
    rows.more = 1;
    rows.count = 0;
    rows.cells.len = 3;
    dumps(&record, NULL,
          "{\"sequence\":12,\"kind\":\"copy_rows\",\"generation\":3,\"schema\":"
          "\"0000000000000000\",\"count\":0,\"more\":true,\"part\":{\"hex\":\"023100\"}}");
    rows.more = 0;
    rows.count = 1;
    rows.cells =
        (ProtobufCBinaryData){2, cells + 6}; /* the end of a row: too short for its schema */
    dumps(&record, &schema,
          "{\"sequence\":12,\"kind\":\"copy_rows\",\"generation\":3,\"schema\":"
          "\"0000000000000000\",\"ns\":\"public\",\"name\":\"users\",\"count\":1,\"more\":false,"
          "\"part\":{\"hex\":\"6162\"}}");

    Sidespool__Commit commit = SIDESPOOL__COMMIT__INIT;
    commit.position = "0/16B3748";
    commit.commit_time = -5;
    record.body_case = SIDESPOOL__RECORD__BODY_COMMIT;
    record.commit = &commit;
    dumps(&record, NULL,
          "{\"sequence\":12,\"kind\":\"commit\",\"position\":\"0/16B3748\",\"commit_time\":-5}");
}

static void every_kind_comes_back_and_is_dumped(void **state) {
    static const ProtobufCMessageDescriptor *const kinds[] = {NULL,
                                                              &sidespool__begin__descriptor,
                                                              &sidespool__change__descriptor,
                                                              &sidespool__commit__descriptor,
                                                              &sidespool__truncate__descriptor,
                                                              &sidespool__piece__descriptor,
                                                              &sidespool__idle__descriptor,
                                                              &sidespool__mark__descriptor,
                                                              &sidespool__copy_begin__descriptor,
                                                              &sidespool__copy_end__descriptor,
                                                              &sidespool__copy_rows__descriptor,
                                                              &sidespool__copy_table__descriptor,
                                                              &sidespool__object__descriptor,
                                                              &sidespool__gap__descriptor,
                                                              &sidespool__table_gap__descriptor};
    ss_buf out, json;

    (void)state;
    ss_buf_init(&out);
    ss_buf_init(&json);
    /* A new kind of record must be added to the dump, and here. */
    assert_int_equal(sidespool__record__descriptor.n_fields, sizeof kinds / sizeof kinds[0] - 1);
    for (unsigned kind = 1; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        ss_arena *arena = ss_arena_new(0);
        Sidespool__Record record = SIDESPOOL__RECORD__INIT, *got = NULL;
        ss_error err = {0};
        void *body = ss_arena_zalloc(arena, kinds[kind]->sizeof_message);
        kinds[kind]->message_init(body);
        record.body_case = (Sidespool__Record__BodyCase)kind;
        record.begin = body; /* all members of the union are pointers */
        if (kind == SIDESPOOL__RECORD__BODY_CHANGE)
            record.change->op = SIDESPOOL__OP__OP_DELETE;
        Sidespool__Table table = SIDESPOOL__TABLE__INIT, *tables[] = {&table};
        if (kind == SIDESPOOL__RECORD__BODY_TABLE_GAP) { /* it must say of which tables it is */
            ss_buf_clear(&out);
            ss_record_put(&out, &record);
            assert_int_equal(ss_record_get(ss_bytes_of(out.ptr, out.len), arena, "x", &got, &err), SS_STOP);
            assert_string_equal(err.code, "SS-REC-0010");
            table.name = (char *)(uintptr_t) "t";
            record.table_gap->n_tables = 1;
            record.table_gap->tables = tables;
        }
        ss_buf_clear(&out);
        ss_record_put(&out, &record);
        if (ss_record_get(ss_bytes_of(out.ptr, out.len), arena, "x", &got, &err) != SS_OK)
            fail_msg("kind %u: %s", kind, err.text);
        assert_int_equal(got->body_case, kind);
        ss_buf_clear(&json);
        ss_record_json(got, kind, NULL, &json);
        assert_null(strstr(ss_buf_cstr(&json), "unknown"));
        ss_arena_free(arena);
    }
    ss_buf_done(&out);
    ss_buf_done(&json);
}

/* What is written by hand is byte for byte what protobuf-c writes. */
static void begins_and_commits_are_protobuf(void **state) {
    static const int64_t times[] = {0, 1, -1, 63, 64, -64, -65, 1763726277000000, INT64_MAX, INT64_MIN};
    static const uint64_t xids[] = {0, 1, 127, 128, 4294967295, UINT64_MAX};
    char lengthy[200];
    const char *positions[] = {"", "0/1", "FFFFFFFF/FFFFFFFF", lengthy};
    ss_buf wanted, got;

    (void)state;
    memset(lengthy, 'p', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    ss_buf_init(&wanted);
    ss_buf_init(&got);
    for (size_t t = 0; t < sizeof times / sizeof times[0]; t++) {
        for (size_t x = 0; x < sizeof xids / sizeof xids[0]; x++) {
            Sidespool__Begin begin = SIDESPOOL__BEGIN__INIT;
            Sidespool__Record record = SIDESPOOL__RECORD__INIT;
            begin.commit_time = times[t];
            begin.xid = xids[x];
            record.body_case = SIDESPOOL__RECORD__BODY_BEGIN;
            record.begin = &begin;
            ss_record_put(&wanted, &record);
            ss_record_put_begin(&got, times[t], xids[x]);
        }
        for (size_t k = 0; k < sizeof positions / sizeof positions[0]; k++) {
            Sidespool__Commit commit = SIDESPOOL__COMMIT__INIT;
            Sidespool__Record record = SIDESPOOL__RECORD__INIT;
            commit.position = (char *)(uintptr_t)positions[k];
            commit.commit_time = times[t];
            record.body_case = SIDESPOOL__RECORD__BODY_COMMIT;
            record.commit = &commit;
            ss_record_put(&wanted, &record);
            ss_record_put_commit(&got, ss_bytes_str(positions[k]), times[t]);
        }
    }
    assert_false(wanted.bad || got.bad);
    assert_int_equal(got.len, wanted.len);
    assert_memory_equal(got.ptr, wanted.ptr, wanted.len);
    ss_buf_done(&wanted);
    ss_buf_done(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_come_back),
        cmocka_unit_test(large_cells_travel_in_pieces),
        cmocka_unit_test(no_memory_is_tried_again),
        cmocka_unit_test(refuses_damaged_changes),
        cmocka_unit_test(refuses_what_is_new),
        cmocka_unit_test(random_damage_never_crashes),
        cmocka_unit_test(rows_that_lie_are_refused_twice),
        cmocka_unit_test(schemas_are_sealed_by_content),
        cmocka_unit_test(cells_come_back),
        cmocka_unit_test(digests_find_rows),
        cmocka_unit_test(records_are_dumped),
        cmocka_unit_test(every_kind_comes_back_and_is_dumped),
        cmocka_unit_test(begins_and_commits_are_protobuf),
    };
    const char *given = getenv("SIDESPOOL_TEST_SEED");
    seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)time(NULL) * 2654435761u + 1;
    seed |= 1;
    printf("seed %llu (SIDESPOOL_TEST_SEED repeats it)\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
