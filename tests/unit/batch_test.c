/* needs: applier */
/* Net effect of a batch against the same changes one after another, on a small model of a table with a unique key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "applier/batch.h"

#define KEYS 14
#define COLUMNS 5 /* two of the key, three others */
#define SEEDS 6000

typedef struct { bool there; int cells[COLUMNS]; } model_row; /* cell -1: NULL */
typedef struct { model_row rows[KEYS * KEYS]; } model;

static uint64_t state;
static unsigned roll(unsigned most) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((state >> 33) % most);
}

static Sidespool__Column columns[COLUMNS];
static Sidespool__Column *column_list[COLUMNS];
static Sidespool__Schema schema_of(const char *name, bool keyed) {
    Sidespool__Schema s = SIDESPOOL__SCHEMA__INIT;
    for (int i = 0; i < COLUMNS; i++) {
        sidespool__column__init(&columns[i]);
        columns[i].key = keyed && i < 2;
        column_list[i] = &columns[i];
    }
    s.ns = (char *)"a";
    s.name = (char *)(uintptr_t)name;
    s.columns = column_list;
    s.n_columns = COLUMNS;
    return s;
}

/* A row in the batch's arena; `kinds` gives cells that are not said. */
static ss_row row_of(ss_batcher *b, const int *cells, const uint8_t *kinds) {
    ss_arena *arena = ss_batcher_arena(b);
    uint8_t *k = ss_arena_alloc(arena, COLUMNS);
    ss_bytes *c = ss_arena_zalloc(arena, sizeof *c * COLUMNS);
    for (int i = 0; i < COLUMNS; i++) {
        k[i] = kinds && kinds[i] != SS_CELL_VALUE ? kinds[i] : cells[i] < 0 ? SS_CELL_NULL : SS_CELL_VALUE;
        if (k[i] == SS_CELL_VALUE)
            c[i] = ss_bytes_str(ss_arena_printf(arena, "%d", cells[i]));
    }
    return (ss_row){COLUMNS, k, c};
}

static int cell_of(const ss_row *row, int i) {
    return row->kinds[i] == SS_CELL_VALUE ? atoi((const char *)row->cells[i].ptr) : -1;
}
static int place_of(const ss_row *row) { return cell_of(row, 0) * KEYS + cell_of(row, 1); }

static void write_cells(model_row *to, const ss_row *row, const uint8_t *kinds) {
    for (int i = 0; i < COLUMNS; i++)
        if ((!kinds || kinds[i] == SS_CELL_VALUE) && (row->kinds[i] == SS_CELL_VALUE || row->kinds[i] == SS_CELL_NULL))
            to->cells[i] = cell_of(row, i);
}

/* One statement: rows are found as they were before it; afterwards keys are unique. */
static void apply_group(model *m, const ss_group *g) {
    static model next;
    static bool taken[KEYS * KEYS];
    next = *m;
    memset(taken, 0, sizeof taken);
    for (size_t i = 0; i < g->count && g->op != SIDESPOOL__OP__OP_INSERT; i++) {
        int at = place_of(g->keys[i]);
        assert_true(m->rows[at].there);
        assert_false(taken[at]);
        taken[at] = true;
        next.rows[at].there = false;
    }
    for (size_t i = 0; i < g->count && g->op != SIDESPOOL__OP__OP_DELETE; i++) {
        model_row row = {.there = true};
        if (g->op == SIDESPOOL__OP__OP_UPDATE)
            row = m->rows[place_of(g->keys[i])];
        write_cells(&row, g->rows[i], g->kinds);
        int at = row.cells[0] * KEYS + row.cells[1];
        assert_false(next.rows[at].there);
        next.rows[at] = row;
    }
    *m = next;
}

static void apply_change(model *m, const ss_change *c) {
    model_row row = {.there = true};
    if (c->op != SIDESPOOL__OP__OP_INSERT) {
        const ss_row *by = c->before.count ? &c->before : &c->after;
        model_row *old = &m->rows[place_of(by)];
        assert_true(old->there);
        row = *old;
        old->there = false;
    }
    if (c->op == SIDESPOOL__OP__OP_DELETE)
        return;
    write_cells(&row, &c->after, NULL);
    int at = row.cells[0] * KEYS + row.cells[1];
    assert_false(m->rows[at].there);
    m->rows[at] = row;
}

static int pick(const model *m, bool there) {
    for (int tries = 0; tries < 2000; tries++) {
        int at = (int)roll(KEYS) * KEYS + (int)roll(3);
        if (m->rows[at].there == there)
            return at;
    }
    return -1;
}

/* A change that the source could make on `m`, made there and described to the batch. */
static bool random_change(ss_batcher *b, model *m, bool full, unsigned moves, ss_change *ret) {
    unsigned what = roll(10);
    *ret = (ss_change){0};
    if (what < 4) {
        int at = pick(m, false);
        if (at < 0)
            return false;
        int cells[COLUMNS] = {at / KEYS, at % KEYS, (int)roll(50), (int)roll(50) - 1, (int)roll(3)};
        ret->op = SIDESPOOL__OP__OP_INSERT;
        ret->after = row_of(b, cells, NULL);
    } else {
        int at = pick(m, true);
        if (at < 0)
            return false;
        int cells[COLUMNS];
        memcpy(cells, m->rows[at].cells, sizeof cells);
        static const uint8_t only_key[COLUMNS] = {SS_CELL_VALUE, SS_CELL_VALUE, SS_CELL_ABSENT, SS_CELL_ABSENT, SS_CELL_ABSENT};
        ss_row before = row_of(b, cells, full ? NULL : only_key);
        ret->op = what < 6 ? SIDESPOOL__OP__OP_DELETE : SIDESPOOL__OP__OP_UPDATE;
        ret->before = before;
        if (ret->op == SIDESPOOL__OP__OP_UPDATE) {
            uint8_t kinds[COLUMNS] = {SS_CELL_VALUE, SS_CELL_VALUE, SS_CELL_VALUE, SS_CELL_VALUE, SS_CELL_VALUE};
            bool move = roll(100) < moves;
            int to = move ? pick(m, false) : at;
            if (to < 0)
                return false;
            cells[0] = to / KEYS;
            cells[1] = to % KEYS;
            for (int i = 2; i < COLUMNS; i++) {
                if (roll(3))
                    cells[i] = (int)roll(50) - 1;
                else if (roll(2))
                    kinds[i] = SS_CELL_UNCHANGED;
            }
            ret->after = row_of(b, cells, kinds);
            if (!full && to == at)
                ret->before = (ss_row){0};
        }
    }
    apply_change(m, ret);
    return true;
}

static void test_net_effect(void **unused) {
    (void)unused;
    size_t set_wise = 0, in_order = 0;
    Sidespool__Schema one = schema_of("one", true), two = schema_of("two", true);
    ss_batcher *b = ss_batcher_new(0);
    assert_non_null(b);
    static model start[2], source[2], target[2];
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        state = seed * UINT64_C(0x9E3779B97F4A7C15);
        memset(start, 0, sizeof start);
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < KEYS * KEYS; i++)
                if (i % KEYS < 3 && roll(2))
                    start[t].rows[i] = (model_row){true, {i / KEYS, i % KEYS, (int)roll(50), (int)roll(50), (int)roll(3)}};
        memcpy(source, start, sizeof start);
        memcpy(target, start, sizeof start);
        ss_batcher_reset(b);
        unsigned count = 1 + roll(60), moves = roll(4) ? 0 : 20;
        bool full = roll(2);
        ss_error err = {0};
        for (unsigned i = 0; i < count; i++) {
            int t = (int)roll(2);
            ss_change c;
            if (random_change(b, &source[t], full, moves, &c))
                assert_int_equal(ss_batcher_add(b, t ? &two : &one, &c, i + 1, &err), SS_OK);
        }
        const ss_batch_table *tables;
        size_t table_count;
        assert_int_equal(ss_batcher_tables(b, &tables, &table_count, &err), SS_OK);
        for (size_t t = 0; t < table_count; t++) {
            model *m = &target[tables[t].schema == &two];
            if (tables[t].ordered) {
                in_order++;
                assert_int_equal(tables[t].group_count, 0);
                for (const ss_batch_change *c = tables[t].first; c; c = c->next)
                    apply_change(m, &c->change);
            } else {
                set_wise++;
                for (size_t g = 0; g < tables[t].group_count; g++)
                    apply_group(m, &tables[t].groups[g]);
            }
        }
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < KEYS * KEYS; i++)
                if (source[t].rows[i].there != target[t].rows[i].there ||
                    (source[t].rows[i].there && memcmp(source[t].rows[i].cells, target[t].rows[i].cells, sizeof source[t].rows[i].cells) != 0))
                    fail_msg("seed %llu: table %d, key %d differs", (unsigned long long)seed, t, i);
    }
    print_message("%zu tables set-wise, %zu in order\n", set_wise, in_order);
    assert_true(set_wise > in_order);
    assert_true(in_order > 0);
    ss_batcher_free(b);
}

static void add(ss_batcher *b, const Sidespool__Schema *s, Sidespool__Op op, int before, int after, int value) {
    ss_change c = {.op = op};
    int old[COLUMNS] = {before, 0, -1, -1, -1}, new[COLUMNS] = {after, 0, value, value, value};
    static const uint8_t only_key[COLUMNS] = {SS_CELL_VALUE, SS_CELL_VALUE, SS_CELL_ABSENT, SS_CELL_ABSENT, SS_CELL_ABSENT};
    if (before >= 0)
        c.before = row_of(b, old, only_key);
    if (after >= 0)
        c.after = row_of(b, new, NULL);
    ss_error err = {0};
    assert_int_equal(ss_batcher_add(b, s, &c, 1, &err), SS_OK);
}

static const ss_batch_table *only_table(ss_batcher *b) {
    const ss_batch_table *tables;
    size_t count;
    ss_error err = {0};
    assert_int_equal(ss_batcher_tables(b, &tables, &count, &err), SS_OK);
    assert_int_equal(count, 1);
    return tables;
}

static void test_swapped_and_chained_keys_go_in_order(void **unused) {
    (void)unused;
    Sidespool__Schema s = schema_of("one", true);
    ss_batcher *b = ss_batcher_new(0);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 2, 3, 1); /* 2 -> 3, then 1 -> 2 */
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 1, 2, 1);
    assert_true(only_table(b)->ordered);
    ss_batcher_reset(b);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 1, 9, 1);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 2, 1, 1);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 9, 2, 1);
    assert_true(only_table(b)->ordered);
    ss_batcher_reset(b);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 1, 9, 1); /* one row that moves twice stays one UPDATE by its first key */
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, 9, 10, 2);
    const ss_batch_table *t = only_table(b);
    assert_false(t->ordered);
    assert_int_equal(t->group_count, 1);
    assert_int_equal(place_of(t->groups[0].keys[0]), 1 * KEYS);
    assert_int_equal(cell_of(t->groups[0].rows[0], 0), 10);
    assert_int_equal(t->groups[0].kinds[0], SS_CELL_VALUE);
    ss_batcher_free(b);
}

static void test_groups_say_which_columns(void **unused) {
    (void)unused;
    Sidespool__Schema s = schema_of("one", true);
    ss_batcher *b = ss_batcher_new(0);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 1, 1);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, -1, 2, 1);
    add(b, &s, SIDESPOOL__OP__OP_DELETE, 3, -1, 1);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 4, 1);
    add(b, &s, SIDESPOOL__OP__OP_DELETE, 4, -1, 1);
    const ss_batch_table *t = only_table(b);
    assert_int_equal(t->group_count, 3);
    assert_int_equal(t->groups[0].op, SIDESPOOL__OP__OP_DELETE);
    assert_int_equal(t->groups[1].op, SIDESPOOL__OP__OP_UPDATE);
    assert_int_equal(t->groups[1].kinds[0], SS_CELL_UNCHANGED); /* the key stays */
    assert_int_equal(t->groups[1].kinds[2], SS_CELL_VALUE);
    assert_int_equal(t->groups[2].op, SIDESPOOL__OP__OP_INSERT);
    assert_int_equal(t->groups[2].count, 1);
    assert_int_equal(t->change_count, 5);
    ss_batcher_free(b);
}

/* UPDATEs and DELETEs meet the target's index in its order; INSERTs stay as the source made them. */
static void test_work_is_in_the_order_of_keys(void **unused) {
    (void)unused;
    static const int keys[] = {7, 100, 9, 12, 1, 1000};
    static const int sorted[] = {1, 7, 9, 12, 100, 1000};
    enum { N = sizeof keys / sizeof *keys };
    Sidespool__Schema s = schema_of("one", true);
    ss_batcher *b = ss_batcher_new(0);
    for (int number = 1; number >= 0; number--) {
        for (int i = 0; i < 2; i++)
            columns[i].canonical = (char *)(uintptr_t)(number ? "int" : "text");
        for (int i = 0; i < N; i++) {
            add(b, &s, SIDESPOOL__OP__OP_UPDATE, -1, keys[i], 1);
            add(b, &s, SIDESPOOL__OP__OP_DELETE, 2000 + keys[i], -1, 2);
            add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 5000 + keys[i], 3);
        }
        const ss_batch_table *t = only_table(b);
        assert_int_equal(t->group_count, 3);
        for (int i = 0; i < N; i++) {
            const ss_row *deleted = t->groups[0].keys[i], *updated = t->groups[1].keys[i];
            if (number) {
                assert_int_equal(cell_of(deleted, 0), 2000 + sorted[i]);
                assert_int_equal(cell_of(updated, 0), sorted[i]);
            } else if (i > 0) {
                assert_true(strcmp((const char *)t->groups[1].keys[i - 1]->cells[0].ptr, (const char *)updated->cells[0].ptr) < 0);
            }
            assert_int_equal(cell_of(t->groups[1].rows[i], 0), cell_of(updated, 0));
            assert_int_equal(cell_of(t->groups[2].rows[i], 0), 5000 + keys[i]);
        }
        ss_batcher_reset(b);
    }
    ss_batcher_free(b);
}

static void test_tables_without_key(void **unused) {
    (void)unused;
    ss_batcher *b = ss_batcher_new(0);
    Sidespool__Schema s = schema_of("one", false);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 1, 1);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 1, 1);
    const ss_batch_table *t = only_table(b);
    assert_false(t->ordered);
    assert_int_equal(t->group_count, 1);
    assert_int_equal(t->groups[0].count, 2);
    ss_batcher_reset(b);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 1, 1);
    add(b, &s, SIDESPOOL__OP__OP_DELETE, 1, -1, 1);
    assert_true(only_table(b)->ordered);
    ss_batcher_free(b);
}

static void test_what_a_source_would_not_send_goes_in_order(void **unused) {
    (void)unused;
    ss_batcher *b = ss_batcher_new(0);
    Sidespool__Schema s = schema_of("one", true);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 1, 1);
    add(b, &s, SIDESPOOL__OP__OP_INSERT, -1, 1, 1);
    assert_true(only_table(b)->ordered);
    ss_batcher_reset(b);
    add(b, &s, SIDESPOOL__OP__OP_DELETE, 1, -1, 1);
    add(b, &s, SIDESPOOL__OP__OP_UPDATE, -1, 1, 1);
    assert_true(only_table(b)->ordered);
    ss_batcher_free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_effect),
        cmocka_unit_test(test_swapped_and_chained_keys_go_in_order),
        cmocka_unit_test(test_groups_say_which_columns),
        cmocka_unit_test(test_work_is_in_the_order_of_keys),
        cmocka_unit_test(test_tables_without_key),
        cmocka_unit_test(test_what_a_source_would_not_send_goes_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
