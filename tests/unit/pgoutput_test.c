/* needs: agent_postgres */
/* Hand-built bytes of every pgoutput message, cut at every byte, and the rules from tuples to
 * changes. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agents/postgres/postgres_decode.h"
#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_status.h"
#include <stdlib.h>

static ss_buf out;

static void u8(unsigned v) {
    ss_buf_put_byte(&out, (uint8_t)v);
}
static void u16(unsigned v) {
    u8(v >> 8);
    u8(v & 255);
}
static void u32(uint32_t v) {
    u16(v >> 16);
    u16(v & 65535);
}
static void u64(uint64_t v) {
    u32((uint32_t)(v >> 32));
    u32((uint32_t)v);
}
static void str(const char *s) {
    ss_buf_put(&out, s, strlen(s) + 1);
}
static void cell(const char *value) { /* "u" and NULL are special: (char *)1 is unchanged */
    if (!value) {
        u8('n');
    } else if (value == (const char *)1) {
        u8('u');
    } else {
        u8('t');
        u32((uint32_t)strlen(value));
        ss_buf_put(&out, value, strlen(value));
    }
}
#define UNCHANGED ((const char *)1)
static void tuple2(const char *a, const char *b) {
    u16(2);
    cell(a);
    cell(b);
}
static ss_bytes fresh(void) {
    return ss_bytes_of(out.ptr, out.len);
}

/* The bytes as a whole decode, every shorter run does not, nor does one byte more. An exact copy
 * lets ASan see each overread. */
static void check_cuts(void) {
    ss_pgoutput decoder;
    ss_pgoutput_message message;
    ss_error err;
    ss_pgoutput_init(&decoder);
    for (size_t len = 0; len <= out.len + 1; len++) {
        uint8_t *copy = malloc(len + 1);
        assert_non_null(copy);
        memcpy(copy, out.ptr, len < out.len ? len : out.len);
        if (len > out.len)
            copy[len - 1] = 0;
        uint8_t *exact = len ? realloc(copy, len) : copy;
        assert_non_null(exact);
        ss_status status = ss_pgoutput_decode(&decoder, ss_bytes_of(exact, len), &message, &err);
        assert_int_equal(status, len == out.len ? SS_OK : SS_STOP);
        if (status != SS_OK)
            assert_string_equal(err.code, "SS-PG-0010");
        free(exact);
    }
    ss_pgoutput_done(&decoder);
}

static void decode(ss_pgoutput *decoder, ss_pgoutput_message *message) {
    ss_error err;
    assert_int_equal(ss_pgoutput_decode(decoder, fresh(), message, &err), SS_OK);
}

static int setup(void **state) {
    (void)state;
    ss_buf_init(&out);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    ss_buf_done(&out);
    return 0;
}

static void test_begin_commit(void **state) {
    (void)state;
    ss_pgoutput decoder;
    ss_pgoutput_message message;
    ss_pgoutput_init(&decoder);
    u8('B');
    u64(0x16B3748);
    u64(1);
    u32(77);
    check_cuts();
    decode(&decoder, &message);
    assert_int_equal(message.u.begin.final_lsn, 0x16B3748);
    assert_int_equal(message.u.begin.time_us, SS_PG_EPOCH_US + 1);
    assert_int_equal(message.u.begin.xid, 77);
    ss_buf_clear(&out);
    u8('C');
    u8(0);
    u64(5);
    u64(9);
    u64((uint64_t)-SS_PG_EPOCH_US);
    check_cuts();
    decode(&decoder, &message);
    assert_int_equal(message.u.commit.commit_lsn, 5);
    assert_int_equal(message.u.commit.end_lsn, 9);
    assert_int_equal(message.u.commit.time_us, 0);
    ss_pgoutput_done(&decoder);
}

static void test_origin_type_message(void **state) {
    (void)state;
    ss_pgoutput decoder;
    ss_pgoutput_message message;
    ss_pgoutput_init(&decoder);
    u8('O');
    u64(3);
    str("origin");
    check_cuts();
    ss_buf_clear(&out);
    u8('Y');
    u32(16400);
    str("public");
    str("mood");
    check_cuts();
    decode(&decoder, &message);
    assert_int_equal(message.u.type.oid, 16400);
    assert_true(ss_bytes_eq(message.u.type.name, ss_bytes_str("mood")));
    ss_buf_clear(&out);
    u8('M');
    u8(1);
    u64(3);
    str("prefix");
    u32(3);
    ss_buf_put(&out, "abc", 3);
    check_cuts();
    ss_pgoutput_done(&decoder);
}

static void put_relation(unsigned identity) {
    u8('R');
    u32(42);
    str("public");
    str("t");
    u8(identity);
    u16(2);
    u8(1);
    str("id");
    u32(23);
    u32(UINT32_MAX);
    u8(identity == 'f');
    str("v");
    u32(25);
    u32(UINT32_MAX);
}

static void test_relation(void **state) {
    (void)state;
    ss_pgoutput decoder;
    ss_pgoutput_message message;
    ss_error err;
    ss_pgoutput_init(&decoder);
    put_relation('d');
    check_cuts();
    decode(&decoder, &message);
    assert_int_equal(message.u.relation.relid, 42);
    assert_int_equal(message.u.relation.count, 2);
    assert_true(message.u.relation.columns[0].key);
    assert_false(message.u.relation.columns[1].key);
    assert_int_equal(message.u.relation.columns[1].type, 25);
    assert_int_equal(message.u.relation.columns[1].typmod, -1);
    out.ptr[out.len - 1 - 4 - 4 - 2] = 2; /* a column flag that nobody knows */
    assert_int_equal(ss_pgoutput_decode(&decoder, fresh(), &message, &err), SS_STOP);
    ss_buf_clear(&out);
    u8('R'); /* a count that the message cannot hold */
    u32(42);
    str("");
    str("t");
    u8('d');
    u16(65535);
    assert_int_equal(ss_pgoutput_decode(&decoder, fresh(), &message, &err), SS_STOP);
    assert_int_equal(decoder.column_cap, 64);
    ss_pgoutput_done(&decoder);
}

static void test_changes(void **state) {
    (void)state;
    u8('I');
    u32(42);
    u8('N');
    tuple2("1", NULL);
    check_cuts();
    for (int kind = 0; kind < 3; kind++) {
        ss_buf_clear(&out);
        u8('U');
        u32(42);
        if (kind > 0) {
            u8(kind == 1 ? 'K' : 'O');
            tuple2("1", NULL);
        }
        u8('N');
        tuple2("2", UNCHANGED);
        check_cuts();
    }
    ss_buf_clear(&out);
    u8('D');
    u32(42);
    u8('K');
    tuple2("1", NULL);
    check_cuts();
    ss_buf_clear(&out);
    u8('T');
    u32(2);
    u8(3);
    u32(42);
    u32(43);
    check_cuts();
}

static void test_truncate(void **state) {
    (void)state;
    ss_pgoutput decoder;
    ss_pgoutput_message message;
    ss_pgoutput_init(&decoder);
    u8('T');
    u32(2);
    u8(2);
    u32(42);
    u32(43);
    decode(&decoder, &message);
    assert_false(message.u.truncate.cascade);
    assert_true(message.u.truncate.restart_identity);
    assert_int_equal(message.u.truncate.count, 2);
    assert_int_equal(message.u.truncate.relids[1], 43);
    ss_pgoutput_done(&decoder);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *code;
    } cases[] = {
        {"S\0\0\0\1\1", 6, "SS-PG-0011"},              /* Stream Start: protocol 2 */
        {"b", 1, "SS-PG-0011"},                        /* Begin Prepare: protocol 3 */
        {"I\0\0\0\1K\0\0", 8, "SS-PG-0010"},           /* an insert with a key */
        {"D\0\0\0\1N\0\0", 8, "SS-PG-0010"},           /* a delete with a new row */
        {"I\0\0\0\1N\0\1b\0\0\0\0", 13, "SS-PG-0010"}, /* a binary cell */
        {"I\0\0\0\1N\0\1t\xff\xff\xff\xff", 13, "SS-PG-0010"},
        {"T\xff\xff\xff\xff\0", 6, "SS-PG-0010"},
    };
    ss_pgoutput decoder;
    ss_pgoutput_message message;
    ss_error err;
    ss_pgoutput_init(&decoder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(
            ss_pgoutput_decode(&decoder, ss_bytes_of(cases[i].bytes, cases[i].len), &message, &err),
            SS_STOP);
        assert_string_equal(err.code, cases[i].code);
    }
    ss_pgoutput_done(&decoder);
}

static const bool key_first[2] = {true, false}, key_all[2] = {true, true},
                  key_none[2] = {false, false};

/* Decodes what is in `out` and shapes it. */
static ss_status shape(ss_pgoutput *decoder, const bool *keys, uint32_t count, ss_change *change,
                       ss_error *err) {
    ss_pgoutput_message message;
    ss_pgoutput_shape as = {7, "public.t", count, keys, keys == key_all};
    decode(decoder, &message);
    return ss_pgoutput_change(decoder, &as, &message, change, err);
}

static void put_update(unsigned old_kind, const char *a, const char *b, const char *c,
                       const char *d) {
    ss_buf_clear(&out);
    u8('U');
    u32(42);
    u8(old_kind);
    tuple2(a, b);
    u8('N');
    tuple2(c, d);
}

static void test_rules(void **state) {
    (void)state;
    ss_pgoutput decoder;
    ss_change change;
    ss_error err;
    ss_pgoutput_init(&decoder);
    /* K: `n` outside the key is absent; an unchanged cell stays unchanged. */
    put_update('K', "1", NULL, "2", UNCHANGED);
    assert_int_equal(shape(&decoder, key_first, 2, &change, &err), SS_OK);
    assert_int_equal(change.op, SIDESPOOL__OP__OP_UPDATE);
    assert_int_equal(change.schema_id, 7);
    assert_int_equal(change.before.kinds[0], SS_CELL_VALUE);
    assert_int_equal(change.before.kinds[1], SS_CELL_ABSENT);
    assert_int_equal(change.after.kinds[1], SS_CELL_UNCHANGED);
    /* O: `n` is NULL, and the value of an unchanged cell stands in the old row. */
    put_update('O', "1", "big", "2", UNCHANGED);
    assert_int_equal(shape(&decoder, key_all, 2, &change, &err), SS_OK);
    assert_int_equal(change.after.kinds[1], SS_CELL_VALUE);
    assert_true(ss_bytes_eq(change.after.cells[1], ss_bytes_str("big")));
    put_update('O', "1", NULL, "2", NULL);
    assert_int_equal(shape(&decoder, key_all, 2, &change, &err), SS_OK);
    assert_int_equal(change.before.kinds[1], SS_CELL_NULL);
    assert_int_equal(change.after.kinds[1], SS_CELL_NULL);
    /* A key cell that was not touched (TOAST) has its value in the key. */
    put_update('K', "key", NULL, UNCHANGED, "v");
    assert_int_equal(shape(&decoder, key_first, 2, &change, &err), SS_OK);
    assert_true(ss_bytes_eq(change.after.cells[0], ss_bytes_str("key")));
    /* A key without its value, or no key at all, cannot find a row. */
    put_update('K', NULL, NULL, "2", "v");
    assert_int_equal(shape(&decoder, key_first, 2, &change, &err), SS_STOP);
    assert_string_equal(err.code, "SS-PG-0015");
    put_update('K', "1", "2", "2", "v");
    assert_int_equal(shape(&decoder, key_none, 2, &change, &err), SS_STOP);
    /* Another number of columns than the relation has. */
    put_update('O', "1", "2", "2", "v");
    assert_int_equal(shape(&decoder, key_all, 1, &change, &err), SS_STOP);
    assert_string_equal(err.code, "SS-PG-0013");
    ss_pgoutput_done(&decoder);
}

static void test_insert_delete(void **state) {
    (void)state;
    ss_pgoutput decoder;
    ss_change change;
    ss_error err;
    ss_pgoutput_init(&decoder);
    u8('I');
    u32(42);
    u8('N');
    tuple2("1", NULL);
    assert_int_equal(shape(&decoder, key_first, 2, &change, &err), SS_OK);
    assert_int_equal(change.op, SIDESPOOL__OP__OP_INSERT);
    assert_int_equal(change.before.count, 0);
    assert_int_equal(change.after.kinds[1], SS_CELL_NULL);
    ss_buf_clear(&out);
    u8('D');
    u32(42);
    u8('O');
    tuple2("1", "");
    assert_int_equal(shape(&decoder, key_all, 2, &change, &err), SS_OK);
    assert_int_equal(change.op, SIDESPOOL__OP__OP_DELETE);
    assert_int_equal(change.after.count, 0);
    assert_int_equal(change.before.kinds[1], SS_CELL_VALUE);
    assert_int_equal(change.before.cells[1].len, 0);
    ss_pgoutput_done(&decoder);
}

static void test_envelope(void **state) {
    (void)state;
    ss_walsender_message message;
    ss_error err;
    u8('k');
    u64(0x10);
    u64(2);
    u8(1);
    for (size_t len = 0; len <= out.len; len++)
        assert_int_equal(ss_walsender_decode(ss_bytes_of(out.ptr, len), &message, &err),
                         len == out.len ? SS_OK : SS_STOP);
    assert_int_equal(message.wal_end, 0x10);
    assert_true(message.reply);
    assert_int_equal(message.sent_us, SS_PG_EPOCH_US + 2);
    ss_buf_clear(&out);
    u8('w');
    u64(1);
    u64(2);
    u64(3);
    ss_buf_put_str(&out, "B");
    assert_int_equal(ss_walsender_decode(fresh(), &message, &err), SS_OK);
    assert_int_equal(message.payload.len, 1);
    assert_int_equal(ss_walsender_decode(ss_bytes_of(out.ptr, 24), &message, &err), SS_STOP);
    assert_int_equal(ss_walsender_decode(ss_bytes_str("x"), &message, &err), SS_STOP);
    uint8_t status[SS_WALSENDER_STATUS_BYTES];
    ss_walsender_status(status, 0x0102030405060708, SS_PG_EPOCH_US + 1, true);
    assert_int_equal(status[0], 'r');
    assert_int_equal(status[8], 8);
    assert_int_equal(status[16], 8);
    assert_int_equal(status[24], 8);
    assert_int_equal(status[32], 1);
    assert_int_equal(status[33], 1);
}

static void test_positions(void **state) {
    (void)state;
    uint64_t lsn;
    char text[24];
    assert_true(ss_postgres_lsn_parse("16/B374D848", &lsn));
    assert_int_equal(lsn, 0x16B374D848);
    ss_postgres_lsn_text(lsn, text, sizeof text);
    assert_string_equal(text, "16/B374D848");
    ss_postgres_lsn_text(0, text, sizeof text);
    assert_string_equal(text, "0/0");
    ss_postgres_lsn_text(UINT64_C(0x1000000000), text, sizeof text);
    assert_string_equal(text, "10/0");
    ss_postgres_lsn_text(UINT64_MAX, text, sizeof text);
    assert_string_equal(text, "FFFFFFFF/FFFFFFFF");
    static const char *const bad[] = {
        "", "/", "1", "1/", "/1", "1/2/3", "1/123456789", "123456789/1", "x/1", "1/ 2", "0/1 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(ss_postgres_lsn_parse(bad[i], &lsn));
    assert_true(ss_source_postgres.position_compare("0/FFFFFFFF", "1/0") < 0);
    assert_true(ss_source_postgres.position_compare("0/a", "0/A") == 0);
    assert_true(ss_source_postgres.position_compare("", "0/0") < 0);
    assert_true(ss_source_postgres.position_compare("10/0", "9/0") > 0);
    /* Behind a header is before it: a segment's first page has the long one. */
    assert_int_equal(ss_postgres_lsn_before_header(0x1000028, 8192, 1 << 24), 0x1000000);
    assert_int_equal(ss_postgres_lsn_before_header(0x1002018, 8192, 1 << 24), 0x1002000);
    assert_int_equal(ss_postgres_lsn_before_header(0x1000018, 8192, 1 << 24), 0x1000018);
    assert_int_equal(ss_postgres_lsn_before_header(0x1002028, 8192, 1 << 24), 0x1002028);
}

static void test_errors(void **state) {
    (void)state;
    assert_int_equal(ss_postgres_classify(NULL), SS_RETRY);
    assert_int_equal(ss_postgres_classify("57P03"), SS_RETRY);
    assert_int_equal(ss_postgres_classify("57P04"), SS_STOP);
    assert_int_equal(ss_postgres_classify("53300"), SS_RETRY);
    assert_int_equal(ss_postgres_classify("28P01"), SS_STOP);
    assert_int_equal(ss_postgres_classify("42501"), SS_STOP);
    assert_int_equal(ss_postgres_classify("55006"), SS_RETRY);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_begin_commit), TEST(test_origin_type_message),
        TEST(test_relation),     TEST(test_changes),
        TEST(test_truncate),     TEST(test_refused),
        TEST(test_rules),        TEST(test_insert_delete),
        TEST(test_envelope),     TEST(test_positions),
        TEST(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
