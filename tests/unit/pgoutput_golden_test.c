/* needs: agent_postgres */
/* Messages that a real server sent (tests/golden/pgoutput/NAME.hex, made from NAME.sql) against the
 * records that are expected of them (NAME.jsonl). SS_GOLDEN_WRITE=1 writes those anew, for a person
 * to read. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agents/postgres/postgres_decode.h"
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>

#define RELATIONS 16
struct relation {
    uint32_t relid;
    char name[130];
    bool keys[64];
    ss_pgoutput_shape shape;
};
struct golden {
    ss_pgoutput decoder;
    struct relation relations[RELATIONS];
    size_t count;
};

static struct relation *find(struct golden *g, uint32_t relid) {
    for (size_t i = 0; i < g->count; i++)
        if (g->relations[i].relid == relid)
            return &g->relations[i];
    return NULL;
}

static json_t *text(ss_bytes bytes) {
    json_t *s = json_stringn((const char *)bytes.ptr, bytes.len);
    assert_non_null(s);
    return s;
}

static json_t *row_json(const ss_row *row) {
    json_t *cells = json_array();
    for (uint32_t i = 0; i < row->count; i++) {
        json_t *cell = NULL;
        if (row->kinds[i] == SS_CELL_VALUE)
            cell = row->cells[i].len > 200 ? json_pack("{s:i}", "bytes", (int)row->cells[i].len)
                                           : text(row->cells[i]);
        else if (row->kinds[i] == SS_CELL_NULL)
            cell = json_null();
        else
            cell = json_pack("{s:b}", row->kinds[i] == SS_CELL_ABSENT ? "absent" : "unchanged", 1);
        json_array_append_new(cells, cell);
    }
    return cells;
}

static json_t *relation_json(struct golden *g, const ss_pgoutput_relation *wire) {
    struct relation *rel = find(g, wire->relid);
    if (!rel) {
        assert_in_range(g->count, 0, RELATIONS - 1);
        rel = &g->relations[g->count++];
    }
    assert_in_range(wire->count, 0, 63);
    rel->relid = wire->relid;
    snprintf(rel->name, sizeof rel->name, "%.*s.%.*s", (int)wire->ns.len,
             (const char *)wire->ns.ptr, (int)wire->name.len, (const char *)wire->name.ptr);
    json_t *columns = json_array();
    for (uint32_t i = 0; i < wire->count; i++) {
        rel->keys[i] = wire->columns[i].key;
        /* Types of the database's own (oid >= 16384) have another oid on each server. */
        json_array_append_new(
            columns,
            json_pack("{s:o, s:i, s:i, s:b}", "name", text(wire->columns[i].name), "type",
                      wire->columns[i].type < 16384 ? (int)wire->columns[i].type : 0, "typmod",
                      (int)wire->columns[i].typmod, "key", (int)wire->columns[i].key));
    }
    rel->shape = (ss_pgoutput_shape){1, rel->name, wire->count, rel->keys, wire->identity == 'f'};
    char identity[2] = {wire->identity, 0};
    return json_pack("{s:s, s:s, s:o}", "relation", rel->name, "identity", identity, "columns",
                     columns);
}

static json_t *change_json(struct golden *g, ss_pgoutput_message *message) {
    static const char *const ops[] = {"none", "insert", "update", "delete"};
    struct relation *rel = find(g, message->u.change.relid);
    ss_change change;
    ss_error err;
    assert_non_null(rel);
    assert_int_equal(ss_pgoutput_change(&g->decoder, &rel->shape, message, &change, &err), SS_OK);
    json_t *out = json_pack("{s:s}", ops[change.op], rel->name);
    if (change.before.count)
        json_object_set_new(out, "before", row_json(&change.before));
    if (change.after.count)
        json_object_set_new(out, "after", row_json(&change.after));
    return out;
}

static json_t *truncate_json(struct golden *g, const ss_pgoutput_message *message) {
    json_t *names = json_array();
    for (uint32_t i = 0; i < message->u.truncate.count; i++) {
        struct relation *rel = find(g, message->u.truncate.relids[i]);
        assert_non_null(rel);
        json_array_append_new(names, json_string(rel->name));
    }
    return json_pack("{s:o, s:b, s:b}", "truncate", names, "cascade",
                     (int)message->u.truncate.cascade, "restart_identity",
                     (int)message->u.truncate.restart_identity);
}

/* What is the same on every server: no LSN, no time, no transaction number. */
static json_t *message_json(struct golden *g, ss_pgoutput_message *message) {
    switch (message->type) {
    case 'B':
        return json_pack("{s:b}", "begin", message->u.begin.final_lsn != 0);
    case 'C':
        return json_pack("{s:b}", "commit",
                         message->u.commit.end_lsn > message->u.commit.commit_lsn);
    case 'R':
        return relation_json(g, &message->u.relation);
    case 'Y':
        return json_pack("{s:o}", "type", text(message->u.type.name));
    case 'I':
    case 'U':
    case 'D':
        return change_json(g, message);
    case 'T':
        return truncate_json(g, message);
    case 'M':
        return json_pack("{s:b}", "message", 1);
    default:
        fail_msg("unexpected message '%c'", message->type);
        return NULL;
    }
}

static size_t unhex(char *line) {
    size_t n = strcspn(line, "\r\n") / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(line + 2 * i, "%2x", &byte), 1);
        line[i] = (char)byte;
    }
    return n;
}

static void check(const char *name) {
    char here[] = __FILE__, path[4096];
    snprintf(path, sizeof path, "%s/../golden/pgoutput/%s.hex", dirname(here), name);
    FILE *hex = fopen(path, "r");
    assert_non_null(hex);
    memcpy(strrchr(path, '.'), ".jsonl", 7);
    bool write = getenv("SS_GOLDEN_WRITE") != NULL;
    FILE *expected = fopen(path, write ? "w" : "r");
    assert_non_null(expected);
    struct golden g = {0};
    ss_pgoutput_init(&g.decoder);
    char *line = NULL, *want = NULL;
    size_t line_cap = 0, want_cap = 0;
    unsigned number = 0;
    while (getline(&line, &line_cap, hex) > 0) {
        ss_pgoutput_message message;
        ss_error err;
        size_t len = unhex(line);
        assert_int_equal(ss_pgoutput_decode(&g.decoder, ss_bytes_of(line, len), &message, &err),
                         SS_OK);
        json_t *json = message_json(&g, &message);
        char *got = json_dumps(json, JSON_COMPACT);
        json_decref(json);
        number++;
        if (write) {
            fprintf(expected, "%s\n", got);
        } else {
            if (getline(&want, &want_cap, expected) <= 0)
                fail_msg("%s: no line %u is expected: %s", name, number, got);
            want[strcspn(want, "\n")] = '\0';
            if (strcmp(want, got) != 0)
                fail_msg("%s:%u: expected %s, got %s", name, number, want, got);
        }
        free(got);
    }
    assert_true(number > 20);
    if (!write)
        assert_true(getline(&want, &want_cap, expected) <= 0);
    free(line);
    free(want);
    fclose(hex);
    fclose(expected);
    ss_pgoutput_done(&g.decoder);
}

static void test_identities(void **state) {
    (void)state;
    check("identities");
}

static void test_tables(void **state) {
    (void)state;
    check("tables");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_identities),
                                       cmocka_unit_test(test_tables)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
