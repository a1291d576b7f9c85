/* A target in memory for route_test.c: strict, transactional, and at random it loses its connection, before or after what was
 * asked of it was done. */
#ifndef ROUTE_FAKE_H
#define ROUTE_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>
#include <unistd.h>

#include "sidespool/target.h"

#define TABLES 3
#define KEYS 60
#define NONE (-1)

static const char *const names[TABLES] = {"one", "two", "three"};

typedef struct {
    int rows[TABLES][KEYS], beside[TABLES][KEYS];
    ss_table_state states[TABLES];
    bool known[TABLES];
    ss_progress progress;
    unsigned finished;
} database;

/* The route writes in its thread, the story looks on from its own: each function of the target holds the lock, and so does what
 * the story asks while the route runs. */
static struct {
    pthread_mutex_t lock;
    database saved, open;
    bool in_transaction;
    unsigned fault_percent, faults, commits, catch_ups, replaced, partials, truncated;
    unsigned ahead;   /* batches applied while the route prepared the next */
    unsigned slow_ms; /* the next of these takes so long */
    unsigned opens;
    pthread_t opener;
    bool wrote_progress;
    uint64_t first_copy_sequence; /* of the first progress written */
    uint64_t dice;
} fake = {.lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP}; /* copy_table goes on in copy_flush */

static void unlock(bool *held) {
    (void)held;
    pthread_mutex_unlock(&fake.lock);
}
#define LOCKED __attribute__((cleanup(unlock))) bool held = pthread_mutex_lock(&fake.lock) == 0

static database fake_saved(void) {
    LOCKED;
    return fake.saved;
}

static unsigned fake_replaced(void) {
    LOCKED;
    return fake.replaced;
}

/* Empty again; no route runs. */
static void fake_reset(unsigned fault_percent, uint64_t dice) {
    LOCKED;
    pthread_mutex_t lock = fake.lock;
    memset(&fake, 0, sizeof fake);
    fake.lock = lock;
    fake.fault_percent = fault_percent;
    fake.dice = dice;
    for (int t = 0; t < TABLES; t++)
        for (int k = 0; k < KEYS; k++)
            fake.saved.rows[t][k] = fake.saved.beside[t][k] = NONE;
}

static unsigned fault_roll(void) {
    fake.dice = fake.dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((fake.dice >> 33) % 100);
}

static int table_index(const char *name) {
    for (int i = 0; i < TABLES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return NONE;
}

static ss_status lost(ss_error *reterr) {
    fake.in_transaction = false;
    fake.faults++;
    return ss_fail(reterr, SS_RETRY, "SS-TGT-0001", "connection lost (test)");
}

static void begin(void) {
    if (!fake.in_transaction)
        fake.open = fake.saved;
    fake.in_transaction = true;
}

/* A commit whose answer is lost as often as one that does not happen. */
static ss_status commit(ss_error *reterr) {
    unsigned dice = fault_roll();
    if (dice < fake.fault_percent / 2)
        return lost(reterr);
    fake.saved = fake.open;
    fake.in_transaction = false;
    fake.commits++;
    return dice < fake.fault_percent ? lost(reterr) : SS_OK;
}

static void put_states(const ss_table_state *states, size_t count) {
    for (size_t i = 0; i < count; i++) {
        int t = table_index(states[i].name);
        fake.open.states[t] = states[i];
        fake.open.states[t].ns = "a";
        fake.open.states[t].name = names[t];
        fake.open.known[t] = true;
    }
}

static void put_progress(const ss_progress *p) {
    if (!fake.wrote_progress)
        fake.first_copy_sequence = p->copy_sequence;
    fake.wrote_progress = true;
    fake.open.progress = *p;
    fake.open.progress.exists = true;
}

static ss_status fake_open(const ss_target_env *env, ss_target **ret, ss_error *reterr) {
    LOCKED;
    (void)env;
    if (fault_roll() < fake.fault_percent)
        return lost(reterr);
    fake.in_transaction = false;
    fake.opens++;
    fake.opener = pthread_self();
    *ret = (ss_target *)&fake;
    return SS_OK;
}
static void fake_close(ss_target *target) {
    LOCKED;
    (void)target;
    fake.in_transaction = false;
}
static ss_status fake_progress(ss_target *target, ss_progress *ret, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)reterr;
    *ret = fake.saved.progress;
    return SS_OK;
}
static ss_status fake_states(ss_target *target, ss_arena *arena, ss_table_state **ret, size_t *ret_count, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)reterr;
    *ret = ss_arena_alloc(arena, sizeof **ret * TABLES);
    *ret_count = 0;
    for (int t = 0; t < TABLES; t++)
        if (fake.saved.known[t])
            (*ret)[(*ret_count)++] = fake.saved.states[t];
    return SS_OK;
}

static int cell(const ss_row *row, int i) { return row->kinds[i] == SS_CELL_VALUE ? atoi((const char *)row->cells[i].ptr) : NONE; }

static ss_status drift(ss_error *reterr, const char *table, int key) {
    return ss_fail(reterr, SS_STOP, "SS-TGT-0002", "drift at %s %d (test)", table, key);
}

static ss_status write_row(int *rows, Sidespool__Op op, const ss_row *key, const ss_row *row, const char *table, ss_error *reterr) {
    int at = cell(key ? key : row, 0);
    if ((rows[at] == NONE) != (op == SIDESPOOL__OP__OP_INSERT))
        return drift(reterr, table, at);
    if (op == SIDESPOOL__OP__OP_DELETE)
        rows[at] = NONE;
    else if (row->kinds[1] == SS_CELL_VALUE)
        rows[at] = cell(row, 1);
    return SS_OK;
}

static ss_status apply_table(const ss_batch *batch, const ss_batch_table *t, ss_error *reterr) {
    int i = table_index(t->schema->name);
    bool beside = batch->beside && fake.open.states[i].beside;
    int *rows = beside ? fake.open.beside[i] : fake.open.rows[i];
    if (t->ordered) {
        for (const ss_batch_change *c = t->first; c; c = c->next) {
            const ss_row *key = c->change.before.count ? &c->change.before : &c->change.after;
            ss_status st = write_row(rows, c->change.op, key, &c->change.after, t->schema->name, reterr);
            if (st != SS_OK)
                return st;
        }
        return SS_OK;
    }
    for (size_t g = 0; g < t->group_count; g++)
        for (size_t k = 0; k < t->groups[g].count; k++) {
            const ss_group *group = &t->groups[g];
            ss_status st = write_row(rows, group->op, group->keys ? group->keys[k] : NULL, group->rows ? group->rows[k] : NULL,
                                     t->schema->name, reterr);
            if (st != SS_OK)
                return st;
        }
    return SS_OK;
}

static ss_status fake_apply(ss_target *target, const ss_batch *batch, ss_error *reterr) {
    LOCKED;
    (void)target;
    if (!pthread_equal(fake.opener, pthread_self())) {
        fake.ahead++;
        usleep(fake.slow_ms * 1000);
        fake.slow_ms = 0;
    }
    if (fault_roll() < fake.fault_percent)
        return lost(reterr);
    begin();
    for (size_t i = 0; i < batch->table_count; i++) {
        ss_status st = apply_table(batch, &batch->tables[i], reterr);
        if (st != SS_OK) {
            fake.in_transaction = false;
            return st;
        }
    }
    for (size_t i = 0; i < batch->truncated_count; i++) {
        int t = table_index(batch->truncated[i]->name);
        if (t == NONE)
            return ss_fail(reterr, SS_STOP, "SS-TGT-0001", "a truncate of a table that was never copied (test)");
        fake.truncated++;
        int *rows = batch->beside && fake.open.states[t].beside ? fake.open.beside[t] : fake.open.rows[t];
        for (int k = 0; k < KEYS; k++)
            rows[k] = NONE;
    }
    if (batch->partial) {
        fake.partials++;
        return SS_OK;
    }
    fake.catch_ups += batch->beside != NULL;
    put_progress(&batch->progress);
    put_states(batch->states, batch->state_count);
    return commit(reterr);
}
static ss_status fake_rollback(ss_target *target, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)reterr;
    fake.in_transaction = false;
    return SS_OK;
}
static ss_status fake_copy_begin(ss_target *target, const Sidespool__CopyBegin *copy, ss_table_state *states, size_t count,
                                 const ss_progress *progress, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)copy;
    begin();
    for (size_t i = 0; i < count; i++) {
        int t = table_index(states[i].name);
        for (int k = 0; k < KEYS; k++) {
            fake.open.beside[t][k] = NONE;
            if (!states[i].beside)
                fake.open.rows[t][k] = NONE;
        }
    }
    put_states(states, count);
    put_progress(progress);
    return commit(reterr);
}
static ss_status fake_copy_object(ss_target *target, const Sidespool__Object *object, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)object;
    (void)reterr;
    begin();
    return SS_OK;
}
static ss_status fake_copy_rows(ss_target *target, const Sidespool__Schema *schema, ss_bytes cells, uint32_t rows, bool more, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)more;
    if (fault_roll() < fake.fault_percent)
        return lost(reterr);
    begin();
    int t = table_index(schema->name);
    int *to = fake.open.states[t].beside ? fake.open.beside[t] : fake.open.rows[t];
    for (uint32_t i = 0; i < rows; i++) {
        int value[2];
        for (int c = 0; c < 2; c++) {
            bool null, bad;
            ss_bytes bytes;
            assert_true(ss_cells_get(&cells, &null, &bytes, &bad));
            value[c] = atoi((const char *)bytes.ptr);
        }
        if (to[value[0]] != NONE)
            return drift(reterr, schema->name, value[0]);
        to[value[0]] = value[1];
    }
    return SS_OK;
}
static ss_status fake_copy_flush(ss_target *target, const ss_progress *progress, const ss_table_state *states, size_t count, ss_error *reterr) {
    LOCKED;
    (void)target;
    begin();
    put_states(states, count);
    put_progress(progress);
    return commit(reterr);
}
static ss_status fake_copy_table(ss_target *target, const Sidespool__Schema *schema, const ss_progress *progress, ss_table_state *st, ss_error *reterr) {
    LOCKED;
    (void)schema;
    if (progress)
        return fake_copy_flush(target, progress, st, 1, reterr);
    begin();
    put_states(st, 1);
    return SS_OK;
}
static ss_status fake_copy_replace(ss_target *target, const ss_table_state *states, size_t count, const ss_progress *progress, ss_error *reterr) {
    LOCKED;
    (void)target;
    begin();
    put_states(states, count);
    for (size_t i = 0; i < count; i++) {
        int t = table_index(states[i].name);
        if (!states[i].beside)
            continue;
        fake.replaced++;
        memcpy(fake.open.rows[t], fake.open.beside[t], sizeof fake.open.rows[t]);
        fake.open.states[t].beside = false;
    }
    put_progress(progress);
    return commit(reterr);
}
static ss_status fake_finish(ss_target *target, ss_check_line line, void *ctx, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)line;
    (void)ctx;
    begin();
    fake.open.finished++;
    return commit(reterr);
}
static ss_status fake_compare(ss_target *target, const Sidespool__Schema *schema, ss_error *reterr) {
    LOCKED;
    (void)target;
    (void)schema;
    (void)reterr;
    return SS_OK;
}

static const ss_target_ops fake_ops = {
    .name = "fake", .open = fake_open, .close = fake_close, .progress = fake_progress, .states = fake_states, .apply = fake_apply,
    .rollback = fake_rollback, .copy_begin = fake_copy_begin, .copy_object = fake_copy_object, .copy_rows = fake_copy_rows,
    .copy_flush = fake_copy_flush, .copy_table = fake_copy_table, .copy_replace = fake_copy_replace, .finish = fake_finish,
    .compare_schema = fake_compare,
};

#endif
