/* needs: agent spool proto common
 * Tables that leave the selection and come back, against a fake source: what stands in the stream, and what is saved when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "pipeline_fake.h"
#include "agents/agent.h"
#include "sidespool/log.h"
#include "unit/temp_testing.h"

static struct {
    const char *id;    /* of s.t; NULL: not selected */
    bool captured;
    int gap_in;        /* the source finds s.u broken inside this transaction */
} selection;

static struct {
    char path[64], dir[80];
    ss_source_env env;
    ss_spool *spool;
    ss_agent_status status;
    ss_pipeline *pipeline;
    ss_error err;
} world;

static void check_ok(ss_status status) {
    if (status != SS_OK)
        fail_msg("%s: %s", world.err.code != NULL ? world.err.code : "", world.err.text);
}

static ss_status fake_selected(const ss_source_env *env, ss_arena *arena, ss_source_table **ret,
                               size_t *ret_count, ss_error *reterr) {
    ss_source_table *list = ss_arena_zalloc(arena, 2 * sizeof *list);
    (void)env;
    (void)reterr;

    if (list == NULL)
        abort();
    *ret_count = 0;
    pthread_mutex_lock(&fake.mutex);
    if (selection.id != NULL)
        list[(*ret_count)++] = (ss_source_table){"s", "t", selection.id, selection.captured};
    pthread_mutex_unlock(&fake.mutex);
    list[(*ret_count)++] = (ss_source_table){"s", "u", "7", true};
    *ret = list;
    return SS_OK;
}

static ss_status poll_and_break(ss_source *source, const ss_sink *sink, int wait_ms, int wake_fd,
                                bool hold, bool *ret_more, ss_error *reterr) {
    if (!hold && selection.gap_in != 0 && source->next == selection.gap_in && source->step > 1) {
        selection.gap_in = 0;
        ss_status status = sink->table_gap(sink->ctx, "s", "u", "renamed", reterr);
        if (status != SS_OK)
            return status;
    }
    return fake_poll(source, sink, wait_ms, wake_fd, hold, ret_more, reterr);
}

static const ss_source_ops ops = {
    .name = "fake",
    .open = fake_open,
    .prepare = fake_prepare,
    .identity = fake_identity,
    .start = fake_start,
    .poll = poll_and_break,
    .release = fake_release,
    .nudge = fake_nudge,
    .reset = fake_reset,
    .close = fake_close,
    .position_compare = fake_compare,
    .selected = fake_selected,
};

static void history_broke(void *ctx, const char *reason) {
    (void)ctx;
    (void)reason;
}

static void boot(void) {
    static const ss_spool_options options = {
        .segment_size = 4u << 20, .max_size = 64u << 20, .retain_ms = 3600000};

    check_ok(ss_agent_status_init(&world.status, &world.err));
    fake.status = &world.status;
    check_ok(ss_spool_open(world.path, "fake", &options, &world.spool, &world.err));
    ss_pipeline_setup setup = {&ops, &world.env, world.spool, &world.status, SS_ON_GAP_HALT, history_broke,
                               NULL};
    check_ok(ss_pipeline_new(&setup, &world.pipeline, &world.err));
    check_ok(ss_pipeline_start(world.pipeline, &world.err));
    check_ok(ss_pipeline_wait_prepared(world.pipeline, 10000, &world.err));
}

static void halt_world(void) {
    check_ok(ss_pipeline_stop(world.pipeline, 5000, &world.err));
    ss_pipeline_free(world.pipeline);
    ss_spool_close(world.spool);
    ss_agent_status_done(&world.status);
}

static void life(const char *id, bool captured) {
    FAKE(selection.id = id; selection.captured = captured);
    boot();
    halt_world();
}

/* The stream as "T:s.t T:s.u C15", without all that is not of interest here. */
static void assert_stream(const char *expected) {
    ss_reader *reader;
    ss_bytes bytes;
    uint64_t sequence;
    ss_arena *arena = ss_arena_new(0);
    ss_buf out;

    ss_buf_init(&out);
    check_ok(ss_reader_open(world.path, "fake", SS_LOG_STREAM, 0, &reader, &world.err));
    while (ss_reader_next(reader, &bytes, &sequence, &world.err) == SS_OK) {
        Sidespool__Record *record;
        check_ok(ss_record_get(bytes, arena, "test", &record, &world.err));
        if (record->body_case == SIDESPOOL__RECORD__BODY_TABLE_GAP)
            for (size_t i = 0; i < record->table_gap->n_tables; i++)
                ss_buf_printf(&out, "T:%s.%s ", record->table_gap->tables[i]->ns,
                              record->table_gap->tables[i]->name);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_COMMIT)
            ss_buf_printf(&out, "C%s ", record->commit->position);
        ss_arena_reset(arena);
    }
    assert_string_equal(ss_buf_cstr(&out), expected);
    ss_buf_done(&out);
    ss_reader_close(reader);
    ss_arena_free(arena);
}

static int setup(void **state) {
    (void)state;
    memset(&world, 0, sizeof world);
    temp_name(world.path, sizeof world.path, "sidespool-selected");
    assert_non_null(mkdtemp(world.path));
    snprintf(world.dir, sizeof world.dir, "%s/fake", world.path);
    world.env = (ss_source_env){
        .name = "fake", .spool_path = world.path, .spool_max_size = 1 << 30, .max_message = 1 << 30};
    FAKE(fake.available = 0; fake.gap = false; fake.released = 0; fake.prepare_at = 0; fake.cut_at = 0);
    selection.id = "1";
    selection.captured = true;
    selection.gap_in = 0;
    return 0;
}

static int run(const char *fmt, const char *path) {
    char command[256];
    snprintf(command, sizeof command, fmt, path, path);
    return system(command);
}

static int teardown(void **state) {
    (void)state;
    return run("rm -rf %s", world.path);
}

static void comes_back(void **state) {
    (void)state;
    life("1", true);
    life("1", true);
    assert_stream("");
    life(NULL, false);
    life(NULL, false);
    assert_stream("");
    life("1", true);
    assert_stream("T:s.t ");
    life("1", true);
    assert_stream("T:s.t ");
}

/* kill -9 behind the TableGap, before the set was saved: it is told once more, and then it is saved. */
static void told_again_after_a_crash(void **state) {
    (void)state;
    life("1", true);
    life(NULL, false);
    assert_int_equal(run("cp %s/selected %s/before", world.dir), 0);
    life("1", true);
    assert_int_equal(run("cp %s/before %s/selected", world.dir), 0);
    life("1", true);
    life("1", true);
    assert_stream("T:s.t T:s.t ");
}

static void another_one_or_unpublished(void **state) {
    (void)state;
    life("1", true);
    life("2", true);
    assert_stream("T:s.t ");
    life("2", false); /* said once, and not again until a copy has it published */
    life("2", false);
    assert_stream("T:s.t T:s.t ");
}

/* A table that was never captured is new, and no gap; one that nobody can tell of is. */
static void new_and_unknown(void **state) {
    (void)state;
    life(NULL, false);
    life("1", false);
    life("1", true);
    assert_stream("");
    assert_int_equal(run("rm %s/selected", world.dir), 0);
    life("1", true);
    assert_stream("T:s.t T:s.u ");
}

static void damaged_file_stops(void **state) {
    (void)state;
    life("1", true);
    assert_int_equal(run("echo '{\"sidespool_selected\":1}' > %s/selected", world.dir), 0);
    check_ok(ss_agent_status_init(&world.status, &world.err));
    ss_selected *selected;
    ss_selected_plan plan;
    check_ok(ss_selected_new(world.dir, &selected, &world.err));
    assert_int_equal(ss_selected_compare(selected, NULL, 0, false, &plan, &world.err), SS_STOP);
    assert_string_equal(world.err.code, "SS-AGENT-0015");
    ss_selected_free(selected);
    ss_agent_status_done(&world.status);
}

/* By the source, inside a transaction: the record stands behind it, and the set says so from the first moment on. */
static void broken_while_streaming(void **state) {
    (void)state;
    FAKE(fake.available = 3);
    selection.gap_in = 2;
    boot();
    for (int i = 0; i < 500 && fake.released < 35; i++)
        usleep(10000);
    halt_world();
    assert_stream("C15 C25 T:s.u C35 ");
    life("1", true); /* nobody has copied it since: told again, which finds it absent */
    assert_stream("C15 C25 T:s.u C35 T:s.u ");
}

/* A copy compares first, then notes what it copies before its CopyBegin. */
static void copies_note_their_tables(void **state) {
    Sidespool__Schema schema = SIDESPOOL__SCHEMA__INIT;
    ss_snapshot_table table = {.schema = &schema, .id = "1"};
    (void)state;

    schema.ns = (char *)(uintptr_t) "s";
    schema.name = (char *)(uintptr_t) "t";
    FAKE(selection.id = "1"; selection.captured = false);
    boot();
    check_ok(ss_pipeline_look(world.pipeline, 5000, &world.err));
    check_ok(ss_selected_copied(ss_pipeline_selected(world.pipeline), &table, 1, &world.err));
    FAKE(selection.captured = true);
    check_ok(ss_pipeline_look(world.pipeline, 5000, &world.err));
    assert_stream("");
    table.id = "2"; /* replaced under the copy's feet */
    assert_int_equal(ss_selected_copied(ss_pipeline_selected(world.pipeline), &table, 1, &world.err), SS_RETRY);
    FAKE(selection.id = "2");
    check_ok(ss_pipeline_look(world.pipeline, 5000, &world.err));
    check_ok(ss_selected_copied(ss_pipeline_selected(world.pipeline), &table, 1, &world.err));
    halt_world();
    assert_stream("T:s.t ");
    life(NULL, false);
    life("2", true);
    assert_stream("T:s.t T:s.t ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(told_again_after_a_crash, setup, teardown),
        cmocka_unit_test_setup_teardown(another_one_or_unpublished, setup, teardown),
        cmocka_unit_test_setup_teardown(new_and_unknown, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_file_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(broken_while_streaming, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_note_their_tables, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
