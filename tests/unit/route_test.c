/* needs: applier spool */
/* A route over a real spool and a target in memory that is strict, transactional and loses its connection at random: whatever
 * happens in between, target and source are equal at each mark. The test writes the spool as an agent would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "applier/applier_config.h"
#include "applier/route.h"
#include "sidespool/log.h"
#include "sidespool/spool.h"
#include "unit/route_fake.h"
#include "unit/temp_testing.h"

static uint64_t state;
static unsigned roll(unsigned most) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((state >> 33) % most);
}

/* ---- the agent's side ------------------------------------------------------------------------------------------ */

typedef struct {
    char dir[64];
    ss_spool *spool;
    ss_log *stream, *copy;
    int rows[TABLES][KEYS];
    uint64_t schema_ids[TABLES];
    uint64_t generation, marks;
    ss_buf record;
    unsigned position;
    pthread_t thread;
    int fd;
    ss_buf lines;
    ss_applier_config config;
    ss_route_config route;
    char last_state[32], last_reason[400];
    int last_exit;
} world;

#define OK(call) \
    do { \
        ss_error e_ = {0}; \
        ss_error *err = &e_; \
        if ((call) != SS_OK) \
            fail_msg("%s: %s", #call, e_.text); \
    } while (0)

static uint64_t append(world *w, ss_log *log, const Sidespool__Record *record, uint64_t schema) {
    ss_buf_clear(&w->record);
    ss_record_put(&w->record, record);
    assert_false(w->record.bad);
    uint64_t sequence;
    OK(ss_log_append(log, ss_bytes_of(w->record.ptr, w->record.len), schema, &sequence, err));
    return sequence;
}

static void put_whole(world *w, ss_log *log) {
    char position[32];
    snprintf(position, sizeof position, "%08u", ++w->position);
    ss_log_mark_whole(log, ss_bytes_str(position));
    OK(ss_log_flush(log, true, NULL, err));
}

/* A key and values, of which only the first is ever written. */
static uint64_t put_wide_schema(world *w, const char *name, size_t values) {
    Sidespool__Column k = SIDESPOOL__COLUMN__INIT, v = SIDESPOOL__COLUMN__INIT;
    k.name = (char *)"k";
    k.key = true;
    v.name = (char *)"v";
    Sidespool__Column *columns[64] = {&k};
    assert_true(values < 64);
    for (size_t i = 1; i <= values; i++)
        columns[i] = &v;
    Sidespool__Schema s = SIDESPOOL__SCHEMA__INIT;
    s.engine = (char *)"fake";
    s.ns = (char *)"a";
    s.name = (char *)(uintptr_t)name;
    s.columns = columns;
    s.n_columns = 1 + values;
    s.identity = SIDESPOOL__IDENTITY__IDENTITY_KEY;
    ss_buf packed;
    ss_buf_init(&packed);
    uint64_t id = ss_schema_seal(&s, &packed);
    OK(ss_log_put_schema(w->stream, id, ss_bytes_of(packed.ptr, packed.len), err));
    OK(ss_log_put_schema(w->copy, id, ss_bytes_of(packed.ptr, packed.len), err));
    ss_buf_done(&packed);
    return id;
}

static uint64_t put_schema(world *w, const char *name) { return put_wide_schema(w, name, 1); }

static void make_schemas(world *w) {
    for (int t = 0; t < TABLES; t++)
        w->schema_ids[t] = put_schema(w, names[t]);
}

static void put_begin(world *w) {
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__Begin b = SIDESPOOL__BEGIN__INIT;
    b.commit_time = 1000000 + w->position;
    r.body_case = SIDESPOOL__RECORD__BODY_BEGIN;
    r.begin = &b;
    append(w, w->stream, &r, 0);
}

static void put_commit(world *w) {
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__Commit c = SIDESPOOL__COMMIT__INIT;
    c.position = (char *)"p";
    c.commit_time = 1000000 + w->position;
    r.body_case = SIDESPOOL__RECORD__BODY_COMMIT;
    r.commit = &c;
    append(w, w->stream, &r, 0);
    put_whole(w, w->stream);
}

static void put_change(world *w, int t, Sidespool__Op op, int key, int value) {
    char k[16], v[16];
    snprintf(k, sizeof k, "%d", key);
    snprintf(v, sizeof v, "%d", value);
    static const uint8_t both[2] = {SS_CELL_VALUE, SS_CELL_VALUE}, only_key[2] = {SS_CELL_VALUE, SS_CELL_ABSENT};
    ss_bytes cells[2] = {{(uint8_t *)k, strlen(k) + 1}, {(uint8_t *)v, strlen(v) + 1}};
    ss_change c = {.schema_id = w->schema_ids[t], .op = op};
    if (op == SIDESPOOL__OP__OP_DELETE)
        c.before = (ss_row){2, only_key, cells};
    else
        c.after = (ss_row){2, both, cells};
    ss_buf_clear(&w->record);
    ss_record_put_change(&w->record, &c);
    uint64_t sequence;
    OK(ss_log_append(w->stream, ss_bytes_of(w->record.ptr, w->record.len), c.schema_id, &sequence, err));
    w->rows[t][key] = op == SIDESPOOL__OP__OP_DELETE ? NONE : value;
}

/* A change of a table that the route does not hold. */
static void put_other_change(world *w, uint64_t schema) {
    static const uint8_t both[2] = {SS_CELL_VALUE, SS_CELL_VALUE};
    ss_bytes cells[2] = {{(const uint8_t *)"1", 2}, {(const uint8_t *)"2", 2}};
    ss_change c = {.schema_id = schema, .op = SIDESPOOL__OP__OP_INSERT, .after = {2, both, cells}};
    ss_buf_clear(&w->record);
    ss_record_put_change(&w->record, &c);
    uint64_t sequence;
    OK(ss_log_append(w->stream, ss_bytes_of(w->record.ptr, w->record.len), schema, &sequence, err));
}

static void random_change(world *w) {
    int t = (int)roll(TABLES), key = (int)roll(KEYS);
    if (w->rows[t][key] == NONE)
        put_change(w, t, SIDESPOOL__OP__OP_INSERT, key, (int)roll(1000));
    else
        put_change(w, t, roll(3) ? SIDESPOOL__OP__OP_UPDATE : SIDESPOOL__OP__OP_DELETE, key, (int)roll(1000));
}

static void put_truncate(world *w, int t) {
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__Truncate tr = SIDESPOOL__TRUNCATE__INIT;
    tr.schema_ids = &w->schema_ids[t];
    tr.n_schema_ids = 1;
    r.body_case = SIDESPOOL__RECORD__BODY_TRUNCATE;
    r.truncate = &tr;
    append(w, w->stream, &r, w->schema_ids[t]);
    for (int k = 0; k < KEYS; k++)
        w->rows[t][k] = NONE;
}

static void put_transaction(world *w, unsigned changes) {
    put_begin(w);
    for (unsigned i = 0; i < changes; i++)
        random_change(w);
    if (roll(40) == 0)
        put_truncate(w, (int)roll(TABLES));
    put_commit(w);
}

typedef struct { uint64_t generation; unsigned tables; int rows[TABLES][KEYS]; } snapshot;

static void put_copy_begin(world *w, const char *route, unsigned tables, snapshot *snap) {
    Sidespool__Table list[TABLES];
    Sidespool__Table *ptr[TABLES];
    size_t n = 0;
    for (unsigned t = 0; t < TABLES; t++)
        if (tables & (1u << t)) {
            sidespool__table__init(&list[n]);
            list[n].ns = (char *)"a";
            list[n].name = (char *)(uintptr_t)names[t];
            ptr[n] = &list[n];
            n++;
        }
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__CopyBegin b = SIDESPOOL__COPY_BEGIN__INIT;
    b.generation = ++w->generation;
    b.route = (char *)(uintptr_t)route;
    b.tables = ptr;
    b.n_tables = n;
    b.position = (char *)"p";
    b.copy_sequence = ss_log_get_state(w->copy)->committed + 1;
    r.body_case = SIDESPOOL__RECORD__BODY_COPY_BEGIN;
    r.copy_begin = &b;
    append(w, w->stream, &r, 0);
    put_whole(w, w->stream);
    snap->generation = b.generation;
    snap->tables = tables;
    memcpy(snap->rows, w->rows, sizeof snap->rows);
}

static void put_copy_rows(world *w, const snapshot *snap, int t, int from, int to) {
    ss_buf cells;
    ss_buf_init(&cells);
    uint32_t count = 0;
    for (int k = from; k < to; k++) {
        if (snap->rows[t][k] == NONE)
            continue;
        char text[16];
        snprintf(text, sizeof text, "%d", k);
        ss_cells_put(&cells, ss_bytes_of(text, strlen(text) + 1));
        snprintf(text, sizeof text, "%d", snap->rows[t][k]);
        ss_cells_put(&cells, ss_bytes_of(text, strlen(text) + 1));
        count++;
    }
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__CopyRows rows = SIDESPOOL__COPY_ROWS__INIT;
    rows.generation = snap->generation;
    rows.schema_id = w->schema_ids[t];
    rows.count = count;
    rows.cells = (ProtobufCBinaryData){cells.len, cells.ptr};
    r.body_case = SIDESPOOL__RECORD__BODY_COPY_ROWS;
    r.copy_rows = &rows;
    if (count)
        append(w, w->copy, &r, rows.schema_id);
    ss_buf_done(&cells);
}

static void put_copy_table(world *w, const snapshot *snap, int t) {
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__CopyTable end = SIDESPOOL__COPY_TABLE__INIT;
    end.generation = snap->generation;
    end.schema_id = w->schema_ids[t];
    end.ns = (char *)"a";
    end.name = (char *)(uintptr_t)names[t];
    r.body_case = SIDESPOOL__RECORD__BODY_COPY_TABLE;
    r.copy_table = &end;
    append(w, w->copy, &r, end.schema_id);
}

static void put_copy_end(world *w, const char *route, uint64_t generation, bool aborted) {
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__CopyEnd end = SIDESPOOL__COPY_END__INIT;
    end.generation = generation;
    end.route = (char *)(uintptr_t)route;
    end.aborted = aborted;
    end.reason = (char *)(uintptr_t)(aborted ? "test" : "");
    r.body_case = SIDESPOOL__RECORD__BODY_COPY_END;
    r.copy_end = &end;
    append(w, w->stream, &r, 0);
    put_whole(w, w->stream);
}

/* The rest of a copy, with transactions going on; aborted: it stops somewhere. */
static void put_copy(world *w, const char *route, unsigned tables, unsigned transactions, bool aborted) {
    snapshot snap;
    put_copy_begin(w, route, tables, &snap);
    unsigned stop = aborted ? roll(TABLES * 2) : TABLES * 2;
    for (unsigned step = 0; step < stop; step++) {
        int t = (int)step / 2;
        if (!(tables & (1u << t)))
            continue;
        put_copy_rows(w, &snap, t, step % 2 ? KEYS / 2 : 0, step % 2 ? KEYS : KEYS / 2);
        if (step % 2)
            put_copy_table(w, &snap, t);
        put_whole(w, w->copy);
        for (unsigned i = 0; i < transactions; i++)
            put_transaction(w, 1 + roll(5));
    }
    put_copy_end(w, route, snap.generation, aborted);
}

/* ---- the supervisor's side ------------------------------------------------------------------------------------- */

static void *route_thread(void *arg) {
    world *w = arg;
    w->last_exit = ss_route_main(&w->config, &w->route, w->fd);
    return NULL;
}

static int control_fd;

static void route_start(world *w) {
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    control_fd = pair[0];
    w->fd = pair[1];
    assert_int_equal(pthread_create(&w->thread, NULL, route_thread, w), 0);
}

static void route_end(world *w) {
    shutdown(control_fd, SHUT_RDWR);
    pthread_join(w->thread, NULL);
    close(control_fd);
    close(w->fd);
    ss_buf_clear(&w->lines);
    assert_int_equal(w->last_exit, 0);
}

static void say(const char *line) { assert_int_equal(write(control_fd, line, strlen(line)), (ssize_t)strlen(line)); }

/* Reads lines until one of a mark `id`, or of a status in `state`. */
static bool await_line(world *w, const char *id, const char *wanted, int seconds) {
    for (int i = 0; i < seconds * 10; i++) {
        uint8_t *end;
        while (w->lines.len && (end = memchr(w->lines.ptr, '\n', w->lines.len)) != NULL) {
            size_t len = (size_t)(end - w->lines.ptr) + 1;
            json_t *line = json_loadb((const char *)w->lines.ptr, len, 0, NULL);
            memmove(w->lines.ptr, w->lines.ptr + len, w->lines.len - len);
            w->lines.len -= len;
            const char *mark = json_string_value(json_object_get(line, "mark"));
            json_t *status = json_object_get(line, "status");
            const char *s = json_string_value(json_object_get(status, "state"));
            if (s)
                snprintf(w->last_state, sizeof w->last_state, "%s", s);
            const char *reason = json_string_value(json_object_get(status, "reason"));
            if (reason)
                snprintf(w->last_reason, sizeof w->last_reason, "%s", reason);
            bool found = (id && mark && strcmp(mark, id) == 0) || (wanted && s && strcmp(s, wanted) == 0);
            json_decref(line);
            if (found)
                return true;
        }
        struct pollfd p = {.fd = control_fd, .events = POLLIN};
        if (poll(&p, 1, 100) > 0) {
            char part[8192];
            ssize_t n = recv(control_fd, part, sizeof part, 0);
            if (n <= 0)
                return false;
            ss_buf_put(&w->lines, part, (size_t)n);
        }
    }
    return false;
}

static void put_mark(world *w, char *id, size_t size) {
    snprintf(id, size, "m%llu", (unsigned long long)++w->marks);
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__Mark m = SIDESPOOL__MARK__INIT;
    m.id = id;
    m.kind = (char *)"wait";
    m.position = (char *)"p";
    r.body_case = SIDESPOOL__RECORD__BODY_MARK;
    r.mark = &m;
    append(w, w->stream, &r, 0);
    put_whole(w, w->stream);
}

/* Until the target holds all that stands in the spool now. */
static void reach_mark(world *w) {
    char id[32];
    put_mark(w, id, sizeof id);
    assert_true(await_line(w, id, NULL, 10));
}

static void expect_equal(world *w, uint64_t seed) {
    const database saved = fake_saved();
    for (int t = 0; t < TABLES; t++) {
        if (saved.states[t].status != SS_TABLE_READY)
            fail_msg("seed %llu: table %s is %s", (unsigned long long)seed, names[t], ss_table_status_name(saved.states[t].status));
        for (int k = 0; k < KEYS; k++)
            if (saved.rows[t][k] != w->rows[t][k])
                fail_msg("seed %llu: %s %d is %d, at the source %d", (unsigned long long)seed, names[t], k, saved.rows[t][k], w->rows[t][k]);
    }
}

static world *world_new(uint64_t seed, unsigned fault_percent) {
    state = seed * UINT64_C(0x9E3779B97F4A7C15);
    fake_reset(fault_percent, state ^ 99);
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    for (int t = 0; t < TABLES; t++)
        for (int k = 0; k < KEYS; k++)
            w->rows[t][k] = NONE;
    temp_name(w->dir, sizeof w->dir, "route_test");
    assert_non_null(mkdtemp(w->dir));
    ss_spool_options options = {.segment_size = 4u << 20, .max_size = (uint64_t)1 << 30};
    OK(ss_spool_open(w->dir, "s", &options, &w->spool, err));
    OK(ss_log_open(w->spool, SS_LOG_STREAM, &w->stream, err));
    OK(ss_log_open(w->spool, SS_LOG_COPY, &w->copy, err));
    OK(ss_log_set_identity(w->stream, "test", false, err));
    OK(ss_log_set_identity(w->copy, "test", false, err));
    ss_buf_init(&w->record);
    ss_buf_init(&w->lines);
    make_schemas(w);
    w->config.spool_path = w->dir;
    w->route = (ss_route_config){.source = "s", .name = "r", .target = &fake_ops, .batch_records = 40};
    return w;
}

static void world_free(world *w) {
    ss_log_close(w->stream);
    ss_log_close(w->copy);
    ss_spool_close(w->spool);
    ss_buf_done(&w->record);
    ss_buf_done(&w->lines);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    free(w);
}

/* A route that runs, and has its copy. */
static world *world_copied(uint64_t seed, unsigned transactions) {
    world *w = world_new(seed, 0);
    route_start(w);
    assert_true(await_line(w, NULL, "waiting_source", 10)); /* no agent answers */
    put_copy(w, "r", 7, transactions, false);
    reach_mark(w);
    return w;
}

/* ---- stories --------------------------------------------------------------------------------------------------- */

static void test_copy_then_stream(void **unused) {
    (void)unused;
    world *w = world_new(1, 0);
    for (int i = 0; i < 30; i++)
        put_transaction(w, 5); /* before the route exists: in the copy */
    route_start(w);
    assert_true(await_line(w, NULL, "waiting_source", 10)); /* no agent answers */
    put_copy(w, "r", 7, 3, false);
    reach_mark(w);
    put_transaction(w, 25000); /* larger than a batch: parts of one target transaction */
    reach_mark(w);
    route_end(w);
    expect_equal(w, 1);
    assert_true(fake.partials >= 2);
    assert_int_equal(fake.saved.finished, 1);
    world_free(w);
}

static void test_resync_of_one_table_beside(void **unused) {
    (void)unused;
    world *w = world_copied(2, 2);
    say("{\"cmd\":\"resync\",\"n\":1,\"tables\":[\"a.two\"]}\n");
    put_copy(w, "other", 7, 2, false); /* another route's copy is passed over */
    put_copy(w, "r", 2, 30, false);
    reach_mark(w);
    for (int i = 0; i < 50 && fake_replaced() == 0; i++)
        await_line(w, NULL, "nothing", 1);
    put_transaction(w, 3);
    reach_mark(w);
    route_end(w);
    expect_equal(w, 2);
    assert_int_equal(fake.replaced, 1);
    world_free(w);
}

/* While a table is copied the stream is read past changes of it alone. Nothing of them is applied, so the progress does not say so
 * yet; the table catches up to where the stream has been read all the same. */
static void test_only_the_copied_table_changes(void **unused) {
    (void)unused;
    world *w = world_copied(6, 2);
    say("{\"cmd\":\"resync\",\"n\":1,\"tables\":[\"a.two\"]}\n");
    put_transaction(w, 3); /* applied now: for a second no progress is written without changes */
    snapshot snap;
    put_copy_begin(w, "r", 2, &snap);
    for (int k = 0; k < 5; k++) {
        put_begin(w);
        put_change(w, 1, w->rows[1][k] == NONE ? SIDESPOOL__OP__OP_INSERT : SIDESPOOL__OP__OP_UPDATE, k, 5000 + k);
        put_commit(w);
    }
    usleep(300000); /* the route looks five times a second; it has read them now, or else proves nothing */
    put_copy_rows(w, &snap, 1, 0, KEYS);
    put_copy_table(w, &snap, 1);
    put_whole(w, w->copy);
    for (int i = 0; i < 100 && fake_replaced() == 0; i++)
        await_line(w, NULL, "nothing", 1);
    put_copy_end(w, "r", snap.generation, false);
    reach_mark(w);
    route_end(w);
    expect_equal(w, 6);
    world_free(w);
}

static void test_gap_when_progress_is_gone(void **unused) {
    (void)unused;
    world *w = world_new(3, 0);
    fake.saved.progress.ours_before = true;
    put_copy(w, "other", 7, 1, false);
    route_start(w);
    assert_true(await_line(w, NULL, "halted", 10));
    say("{\"cmd\":\"resync\",\"n\":1,\"tables\":[\"*\"]}\n");
    assert_true(await_line(w, NULL, "waiting_source", 10));
    put_copy(w, "r", 7, 2, false);
    reach_mark(w);
    route_end(w);
    expect_equal(w, 3);
    assert_true(fake.first_copy_sequence > 0); /* the old rows in the copy log are not kept for the route any more */
    world_free(w);
}

static void test_target_restored_is_replayed(void **unused) {
    (void)unused;
    world *w = world_copied(4, 2);
    route_end(w);
    database backup = fake.saved;
    route_start(w);
    for (int i = 0; i < 40; i++)
        put_transaction(w, 4);
    reach_mark(w);
    route_end(w);
    expect_equal(w, 4);
    fake.saved = backup;
    route_start(w);
    for (int i = 0; i < 100 && fake_saved().progress.sequence < ss_log_get_state(w->stream)->committed; i++)
        await_line(w, NULL, "nothing", 1);
    route_end(w);
    expect_equal(w, 4);
    world_free(w);
}

/* One TRUNCATE that names more tables than schemas are kept between batches: those found first must still be there at its end. */
static void test_truncate_of_very_many_tables(void **unused) {
    (void)unused;
    enum { MANY = 5000 };
    world *w = world_new(5, 0);
    route_start(w);
    assert_true(await_line(w, NULL, "waiting_source", 10));
    put_transaction(w, 60);
    put_copy(w, "r", 7, 0, false);
    reach_mark(w);
    put_begin(w);
    static uint64_t ids[MANY + 2];
    for (int i = 0; i < MANY; i++) {
        char name[32];
        snprintf(name, sizeof name, "other_table_%d", i);
        ids[1 + i] = put_schema(w, name);
        put_other_change(w, ids[1 + i]); /* the spool keeps a schema with the first record that uses it */
    }
    ids[0] = w->schema_ids[0];
    ids[MANY + 1] = w->schema_ids[1];
    Sidespool__Record r = SIDESPOOL__RECORD__INIT;
    Sidespool__Truncate tr = SIDESPOOL__TRUNCATE__INIT;
    tr.schema_ids = ids;
    tr.n_schema_ids = MANY + 2;
    r.body_case = SIDESPOOL__RECORD__BODY_TRUNCATE;
    r.truncate = &tr;
    append(w, w->stream, &r, ids[0]);
    for (int t = 0; t < 2; t++)
        for (int k = 0; k < KEYS; k++)
            w->rows[t][k] = NONE;
    put_commit(w);
    put_transaction(w, 3);
    reach_mark(w);
    route_end(w);
    expect_equal(w, 5);
    assert_true(fake.truncated >= 2);
    world_free(w);
}

/* A backlog of transactions which each change some tables of the route, and other tables than all before: far more in all than one
 * transaction may use schemas of, in their number or in their memory. */
static void many_tables_story(uint64_t seed, size_t batch_records, unsigned slow_ms, unsigned transactions, unsigned tables, size_t values) {
    world *w = world_copied(seed, 2);
    route_end(w);
    w->route.batch_records = batch_records;
    put_transaction(w, 2 * SS_BATCH_LEAST); /* enough to be handed over at once */
    for (unsigned i = 0; i < transactions; i++) {
        put_begin(w);
        for (unsigned k = 0; k < 40; k++)
            random_change(w);
        for (unsigned k = 0; k < tables; k++) {
            char name[32];
            snprintf(name, sizeof name, "other_table_%u", i * tables + k);
            put_other_change(w, put_wide_schema(w, name, values));
        }
        put_commit(w);
    }
    fake.ahead = fake.opens = 0;
    fake.slow_ms = slow_ms;
    route_start(w);
    char id[32];
    put_mark(w, id, sizeof id);
    if (!await_line(w, id, NULL, 30))
        fail_msg("the mark did not come: %s: %s", w->last_state, w->last_reason);
    route_end(w);
    expect_equal(w, seed);
    assert_true(fake.ahead > 0);
    assert_int_equal(fake.opens, 1); /* nothing was given up, to be read again carefully */
    world_free(w);
}

/* While the target is busy a batch grows to the bounds that production has. */
static void test_very_many_tables_in_one_batch(void **unused) {
    (void)unused;
    many_tables_story(7, 0, 1500, 100, 400, 1);
}

static void test_wide_tables_in_one_batch(void **unused) {
    (void)unused;
    many_tables_story(8, 0, 1500, 40, 400, 39);
}

/* Batches that follow each other, each prepared while the one before is applied. */
static void test_very_many_tables_in_batches_in_a_row(void **unused) {
    (void)unused;
    many_tables_story(9, 40, 0, 100, 400, 1);
}

/* A transaction that a batch has room for is not cut into parts, however small batches are to be. */
static void test_smallest_batches_hold_whole_transactions(void **unused) {
    (void)unused;
    world *w = world_copied(10, 0);
    route_end(w);
    w->route.batch_records = 3;
    fake.partials = 0;
    for (int i = 0; i < 10; i++) {
        put_begin(w);
        for (int k = 0; k < 3; k++)
            random_change(w);
        put_commit(w);
    }
    route_start(w);
    reach_mark(w);
    route_end(w);
    expect_equal(w, 10);
    assert_int_equal(fake.partials, 0);
    world_free(w);
}

/* A bad transaction in the middle of a backlog: all before it is applied, it is named, nothing of what follows is. */
static void test_bad_transaction_in_a_backlog_is_named(void **unused) {
    (void)unused;
    world *w = world_copied(6, 2);
    route_end(w);
    for (int i = 0; i < 100; i++)
        put_transaction(w, 5);
    uint64_t good = ss_log_get_state(w->stream)->committed;
    static int rows[TABLES][KEYS];
    memcpy(rows, w->rows, sizeof rows);
    int key = 0;
    while (w->rows[0][key] != NONE)
        key++;
    put_begin(w);
    put_change(w, 0, SIDESPOOL__OP__OP_UPDATE, key, 5); /* of a row that is not there */
    put_commit(w);
    for (int i = 0; i < 60; i++)
        put_transaction(w, 5);
    fake.ahead = 0;
    route_start(w);
    assert_true(await_line(w, NULL, "halted", 10));
    route_end(w);
    assert_true(fake.ahead > 1);
    char named[80];
    snprintf(named, sizeof named, "source transaction at record %llu: drift at one %d (test)", (unsigned long long)good + 1, key);
    assert_non_null(strstr(w->last_reason, named));
    assert_true(fake.saved.progress.sequence == good);
    assert_memory_equal(fake.saved.rows, rows, sizeof rows);
    world_free(w);
}

/* Random transactions, copies (whole, aborted, of other routes) and resyncs, with connections that break. */
static void random_story(uint64_t seed) {
    world *w = world_new(seed, 12);
    for (unsigned i = roll(20); i > 0; i--)
        put_transaction(w, 1 + roll(6));
    route_start(w);
    while (!fake_saved().progress.exists)
        assert_false(await_line(w, NULL, "halted", 1));
    if (roll(2))
        put_copy(w, "r", 7, roll(4), true);
    put_copy(w, roll(2) ? "other" : "r", 7, roll(6), roll(2));
    put_copy(w, "r", 7, roll(6), false);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 20; i++)
            put_transaction(w, 1 + roll(20));
        if (roll(3) == 0) {
            route_end(w);
            route_start(w);
        }
        unsigned some = 1 + roll(7);
        if (roll(2))
            put_copy(w, "r", some, roll(10), true);
        put_copy(w, "r", roll(2) ? 7 : some, roll(10), false);
    }
    put_copy(w, "r", 7, 2, false);
    for (int i = 0; i < 60; i++) {
        const database saved = fake_saved();
        bool ready = true;
        for (int t = 0; t < TABLES; t++)
            ready = ready && saved.states[t].status == SS_TABLE_READY && saved.states[t].generation == w->generation;
        if (ready)
            break;
        if (await_line(w, NULL, "halted", 1))
            fail_msg("seed %llu: halted", (unsigned long long)seed);
    }
    char id[32];
    put_mark(w, id, sizeof id);
    if (!await_line(w, id, NULL, 60))
        fail_msg("seed %llu: the mark did not come, state %s", (unsigned long long)seed, w->last_state);
    route_end(w);
    expect_equal(w, seed);
    print_message("seed %llu: %u faults, %u commits, %u catch-up batches, %u replaced\n", (unsigned long long)seed, fake.faults, fake.commits,
                  fake.catch_ups, fake.replaced);
    world_free(w);
}

static void test_random(void **unused) {
    (void)unused;
    const char *one = getenv("SEED"), *many = getenv("SEEDS");
    if (one) {
        random_story(strtoull(one, NULL, 10));
        return;
    }
    uint64_t count = many ? strtoull(many, NULL, 10) : 2;
    for (uint64_t seed = 1; seed <= count; seed++)
        random_story(seed);
}

int main(void) {
    if (!getenv("SIDESPOOL_LOG"))
        ss_log_threshold(SS_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy_then_stream),
        cmocka_unit_test(test_resync_of_one_table_beside),
        cmocka_unit_test(test_only_the_copied_table_changes),
        cmocka_unit_test(test_gap_when_progress_is_gone),
        cmocka_unit_test(test_target_restored_is_replayed),
        cmocka_unit_test(test_truncate_of_very_many_tables),
        cmocka_unit_test(test_very_many_tables_in_one_batch),
        cmocka_unit_test(test_wide_tables_in_one_batch),
        cmocka_unit_test(test_very_many_tables_in_batches_in_a_row),
        cmocka_unit_test(test_smallest_batches_hold_whole_transactions),
        cmocka_unit_test(test_bad_transaction_in_a_backlog_is_named),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
