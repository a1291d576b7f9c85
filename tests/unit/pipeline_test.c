/* needs: agent spool proto common
 * The capture thread against a fake source: order, markers, cut links, a full spool, release, gaps,
 * copies cut short. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "pipeline_fake.h"
#include "agents/agent.h"
#include "agents/generation.h"
#include "sidespool/log.h"
#include "unit/temp_testing.h"

static const ss_source_ops fake_ops = {
    .name = "fake",
    .open = fake_open,
    .prepare = fake_prepare,
    .identity = fake_identity,
    .start = fake_start,
    .poll = fake_poll,
    .release = fake_release,
    .nudge = fake_nudge,
    .reset = fake_reset,
    .close = fake_close,
    .position_compare = fake_compare,
};

static struct {
    char path[64];
    ss_source_env env;
    ss_spool *spool;
    ss_agent_status status;
    ss_pipeline *pipeline;
    ss_copies *copies;
    ss_error err;
} world;

static void check_ok(ss_status status) {
    if (status != SS_OK)
        fail_msg("%s: %s", world.err.code != NULL ? world.err.code : "", world.err.text);
}

static void history_broke(void *ctx, const char *reason) {
    (void)ctx;
    (void)reason;
}

static void boot(int on_gap, const ss_spool_options *options, bool with_copies) {
    check_ok(ss_agent_status_init(&world.status, &world.err));
    fake.status = &world.status;
    check_ok(ss_spool_open(world.path, "fake", options, &world.spool, &world.err));
    ss_pipeline_setup setup = {&fake_ops, &world.env,    world.spool, &world.status,
                               on_gap,    history_broke, NULL};
    check_ok(ss_pipeline_new(&setup, &world.pipeline, &world.err));
    world.copies = NULL;
    if (with_copies) {
        ss_copies_setup copies = {&fake_ops,     &world.env,     world.spool,
                                  &world.status, world.pipeline, 2};
        check_ok(ss_copies_new(&copies, &world.copies, &world.err));
    }
    check_ok(ss_pipeline_start(world.pipeline, &world.err));
    if (with_copies)
        check_ok(ss_copies_start(world.copies, &world.err));
}

static void halt_world(void) {
    if (world.copies != NULL)
        check_ok(ss_copies_stop(world.copies, 5000, &world.err));
    check_ok(ss_pipeline_stop(world.pipeline, 5000, &world.err));
    ss_copies_free(world.copies);
    ss_pipeline_free(world.pipeline);
    ss_spool_close(world.spool);
    ss_agent_status_done(&world.status);
}

static void wait_position(int64_t at_least) {
    ss_agent_snapshot now = {0};
    for (int i = 0; i < 1500; i++) {
        ss_agent_status_get(&world.status, &now);
        if (strtoll(now.position, NULL, 10) >= at_least)
            return;
        usleep(10000);
    }
    fail_msg("stands at %s in state %s (%s)", now.position, ss_agent_state_name(now.state),
             now.reason);
}

static void wait_state(ss_agent_state state) {
    for (int i = 0; i < 1500 && ss_agent_state_get(&world.status) != state; i++)
        usleep(10000);
    assert_int_equal(ss_agent_state_get(&world.status), state);
}

static void wait_durable(uint64_t id) {
    for (int i = 0; i < 500 && ss_pipeline_marker_durable(world.pipeline) < id; i++)
        usleep(10000);
    assert_true(ss_pipeline_marker_durable(world.pipeline) >= id);
}

/* The stream as one line: "B1 1.1 1.2 C15 M:id G2 …", without idle records. */
static void read_stream(ss_buf *out) {
    ss_reader *reader;
    ss_bytes bytes;
    uint64_t sequence, expected = 0;
    ss_arena *arena = ss_arena_new(0);

    ss_buf_init(out);
    check_ok(ss_reader_open(world.path, "fake", SS_LOG_STREAM, 0, &reader, &world.err));
    while (ss_reader_next(reader, &bytes, &sequence, &world.err) == SS_OK) {
        Sidespool__Record *record;
        assert_true(expected == 0 || sequence == expected);
        expected = sequence + 1;
        check_ok(ss_record_get(bytes, arena, "test", &record, &world.err));
        if (record->body_case == SIDESPOOL__RECORD__BODY_BEGIN)
            ss_buf_printf(out, "B%d ", (int)record->begin->xid);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_CHANGE)
            ss_buf_printf(out, "%.*s ", (int)record->change->after->values[0].len,
                          (const char *)record->change->after->values[0].data);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_COMMIT)
            ss_buf_printf(out, "C%s ", record->commit->position);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_MARK)
            ss_buf_printf(out, "M:%s ", record->mark->id);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_GAP)
            ss_buf_printf(out, "G%d ", (int)record->gap->epoch);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_COPY_BEGIN)
            ss_buf_printf(out, "<%d ", (int)record->copy_begin->generation);
        else if (record->body_case == SIDESPOOL__RECORD__BODY_COPY_END)
            ss_buf_printf(out, "%s%d> ", record->copy_end->aborted ? "!" : "",
                          (int)record->copy_end->generation);
        ss_arena_reset(arena);
    }
    ss_reader_close(reader);
    ss_arena_free(arena);
}

static void put_transactions(ss_buf *out, int from, int to) {
    for (int n = from; n <= to; n++)
        ss_buf_printf(out, "B%d %d.1 %d.2 %d.3 C%d5 ", n, n, n, n, n);
}

static void assert_stream(ss_buf *expected) {
    ss_buf got;
    read_stream(&got);
    assert_string_equal(ss_buf_cstr(&got), ss_buf_cstr(expected));
    ss_buf_done(&got);
    ss_buf_done(expected);
}

static void add_marker(const char *position, const char *id, uint64_t number) {
    Sidespool__Mark mark = SIDESPOOL__MARK__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    ss_buf packed;

    mark.id = (char *)(uintptr_t)id;
    mark.kind = (char *)(uintptr_t) "wait";
    mark.position = (char *)(uintptr_t)position;
    record.body_case = SIDESPOOL__RECORD__BODY_MARK;
    record.mark = &mark;
    ss_buf_init(&packed);
    ss_record_put(&packed, &record);
    check_ok(ss_pipeline_add_marker(world.pipeline, position, 0, ss_bytes_of(packed.ptr, packed.len),
                                    number, &world.err));
    ss_buf_done(&packed);
}

static int setup(void **state) {
    (void)state;
    memset(&world, 0, sizeof world);
    temp_name(world.path, sizeof world.path, "sidespool-pipeline");
    assert_non_null(mkdtemp(world.path));
    world.env = (ss_source_env){.name = "fake",
                                .spool_path = world.path,
                                .spool_max_size = 1 << 30,
                                .max_message = 1 << 30};
    FAKE(fake.available = 0; fake.changes = 3; fake.cell = 8; fake.cut_at = 0; fake.gap = false;
         fake.released = 0; fake.released_early = false;
         fake.opens = fake.prepares = fake.resets = 0; fake.prepare_at = 0;
         fake.made[0] = '\0'; fake.stall_at = 0; fake.die_after_prepare = false;
         fake.taken = fake.sync_brings = 0; fake.syncs_wait = fake.sync_cuts = fake.cut_at_release = false;
         fake.cut_released = 0;
         memcpy(fake.identity, "one", 4));
    return 0;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", world.path);
    return system(command);
}

static const ss_spool_options large = {
    .segment_size = 4u << 20, .max_size = 64u << 20, .retain_ms = 3600000};

static void test_order_once_and_restart(void **state) {
    ss_buf expected;
    (void)state;

    FAKE(fake.available = 40; fake.cut_at = 17);
    boot(SS_ON_GAP_HALT, &large, false);
    wait_position(405);
    halt_world();
    FAKE(fake.available = 80);
    boot(SS_ON_GAP_HALT, &large, false);
    wait_position(805);
    halt_world();
    assert_int_equal(fake.prepares, 1);
    assert_false(fake.released_early);
    assert_int_equal(fake.released, 805);
    ss_buf_init(&expected);
    put_transactions(&expected, 1, 80);
    assert_stream(&expected);
}

static void test_markers_stand_exactly(void **state) {
    ss_buf expected;
    (void)state;

    boot(SS_ON_GAP_HALT, &large, false);
    check_ok(ss_pipeline_wait_prepared(world.pipeline, 5000, &world.err));
    check_ok(ss_pipeline_hold(world.pipeline, &world.err));
    FAKE(fake.available = 60; fake.cut_at = 31);
    add_marker("310", "at-31", 7);  /* transaction 31 lies at it: behind */
    add_marker("305", "end-30", 0); /* 30 ends there: before */
    add_marker("457", "gap", 0);    /* between 45 and 46 */
    add_marker("", "soon", 0);
    usleep(20000);
    ss_pipeline_unhold(world.pipeline);
    wait_position(605);
    assert_int_equal(ss_pipeline_marker_durable(world.pipeline), 7);
    add_marker("300", "late", 0); /* long passed: now */
    for (int i = 0; i < 100; i++)
        usleep(5000);
    halt_world();
    ss_buf_init(&expected);
    ss_buf_put_str(&expected, "M:soon ");
    put_transactions(&expected, 1, 30);
    ss_buf_put_str(&expected, "M:end-30 M:at-31 ");
    put_transactions(&expected, 31, 45);
    ss_buf_put_str(&expected, "M:gap ");
    put_transactions(&expected, 46, 60);
    ss_buf_put_str(&expected, "M:late ");
    assert_stream(&expected);
}

static void test_full_spool_goes_on(void **state) {
    const ss_spool_options small = {.segment_size = 1u << 20, .max_size = 8u << 20, .retain_ms = 0};
    ss_cursors *cursors;
    ss_agent_snapshot now;
    ss_buf got;
    (void)state;

    FAKE(fake.available = 200; fake.cell = 30000);
    boot(SS_ON_GAP_HALT, &small, false);
    wait_state(SS_AGENT_SPOOL_FULL);
    usleep(300000);
    ss_agent_status_get(&world.status, &now);
    int64_t stood = strtoll(now.position, NULL, 10);
    assert_true(stood > 0 && stood < 2005);
    assert_false(fake.released_early);
    check_ok(ss_cursors_open(world.path, "fake", &cursors, &world.err));
    for (int i = 0; i < 200 && strtoll(now.position, NULL, 10) < 2005; i++) {
        ss_agent_status_get(&world.status, &now);
        check_ok(ss_cursors_set(cursors, "route", SS_LOG_STREAM, now.committed, true, &world.err));
        check_ok(ss_cursors_set(cursors, "route", SS_LOG_COPY, 0, true, &world.err));
        usleep(100000);
    }
    wait_position(2005);
    ss_cursors_close(cursors);
    halt_world();
    read_stream(&got); /* what is left of it: whole transactions to the last one, each once */
    const char *tail = "B200 200.1 200.2 200.3 C2005 ";
    assert_true(got.len > strlen(tail));
    assert_string_equal(ss_buf_cstr(&got) + got.len - strlen(tail), tail);
    int last = 0;
    for (const char *at = strstr(ss_buf_cstr(&got), "B"); at != NULL; at = strstr(at + 1, "B")) {
        int n = atoi(at + 1);
        assert_true(last == 0 || n == last + 1);
        last = n;
    }
    ss_buf_done(&got);
}

static void test_gap_halts(void **state) {
    ss_buf expected;
    (void)state;

    FAKE(fake.available = 5);
    boot(SS_ON_GAP_HALT, &large, false);
    wait_position(55);
    halt_world();
    FAKE(memcpy(fake.identity, "two", 4); fake.available = 9; fake.opens = 0);
    boot(SS_ON_GAP_HALT, &large, false);
    wait_state(SS_AGENT_HALTED);
    usleep(200000);
    assert_int_equal(fake.opens, 1); /* no restart loop */
    FAKE(memcpy(fake.identity, "one", 4));
    ss_pipeline_resume(world.pipeline);
    wait_position(95);
    halt_world();
    ss_buf_init(&expected);
    put_transactions(&expected, 1, 9);
    assert_stream(&expected);
}

static void test_gap_resyncs(void **state) {
    ss_buf expected;
    ss_agent_snapshot now;
    (void)state;

    FAKE(fake.available = 5);
    boot(SS_ON_GAP_RESYNC, &large, false);
    wait_position(55);
    halt_world();
    FAKE(fake.gap = true; fake.available = 12; fake.prepare_at = 90);
    boot(SS_ON_GAP_RESYNC, &large, false);
    wait_position(125);
    ss_agent_status_get(&world.status, &now);
    assert_int_equal(now.epoch, 2);
    /* A position that was asked of the old history stands nowhere in the new one. */
    uint64_t history = ss_pipeline_history(world.pipeline);
    assert_int_equal(ss_pipeline_add_marker(world.pipeline, "20", history - 1, ss_bytes_str("x"), 1,
                                            &world.err),
                     SS_RETRY);
    assert_string_equal(world.err.code, "SS-AGENT-0004");
    assert_int_equal(fake.resets, 1);
    halt_world();
    ss_buf_init(&expected);
    put_transactions(&expected, 1, 5);
    ss_buf_put_str(&expected, "G2 ");
    put_transactions(&expected, 10, 12);
    assert_stream(&expected);
}

/* The new slot is there, at a place below ours, and its Gap is not: the next life must not take the
 * old position for one of the new history. */
static void test_gap_survives_a_death(void **state) {
    ss_buf expected;
    (void)state;

    FAKE(fake.available = 5);
    boot(SS_ON_GAP_RESYNC, &large, false);
    wait_position(55);
    halt_world();
    FAKE(fake.gap = true; fake.available = 12; fake.prepare_at = 10; fake.die_after_prepare = true);
    boot(SS_ON_GAP_RESYNC, &large, false);
    wait_state(SS_AGENT_WAITING_SOURCE);
    halt_world();
    boot(SS_ON_GAP_HALT, &large, false); /* the gap has been answered already */
    wait_position(125);
    assert_true(fake.was_intended);
    halt_world();
    ss_buf_init(&expected);
    put_transactions(&expected, 1, 5);
    ss_buf_put_str(&expected, "G2 ");
    put_transactions(&expected, 2, 12);
    assert_stream(&expected);
}

static void test_identity_is_of_what_was_prepared(void **state) {
    const ss_log_state *seen;
    ss_reader *reader;
    (void)state;

    FAKE(fake.available = 2; memcpy(fake.made, "slot", 5));
    boot(SS_ON_GAP_HALT, &large, false);
    wait_position(25);
    halt_world();
    check_ok(ss_reader_open(world.path, "fake", SS_LOG_STREAM, 0, &reader, &world.err));
    check_ok(ss_reader_state(reader, &seen, &world.err));
    assert_string_equal(seen->identity, "slot");
    ss_reader_close(reader);
}

/* Whole transactions are in memory when the link breaks: they are made durable without a word over
 * the dead link, and nobody is told that the spool is full. */
static void test_cut_link_is_not_a_full_spool(void **state) {
    ss_agent_snapshot now = {0};
    (void)state;

    FAKE(fake.available = 40; fake.cut_at = 17);
    boot(SS_ON_GAP_HALT, &large, false);
    for (int i = 0; i < 15000 && strtoll(now.position, NULL, 10) < 405; i++) {
        ss_agent_status_get(&world.status, &now);
        assert_int_not_equal(now.state, SS_AGENT_SPOOL_FULL);
        usleep(1000);
    }
    wait_position(405);
    halt_world();
}

/* The trim of each second waits for the commit that is made, and nothing is taken meanwhile: the first one is over. */
static void wait_trimmed(void) {
    ss_agent_snapshot now = {0};
    for (int i = 0; i < 1500 && now.spool_quota == 0; i++) {
        usleep(10000);
        ss_agent_status_get(&world.status, &now);
    }
    assert_true(now.spool_quota > 0);
}

/* One commit has become durable, what was taken while it was made has not, and the link breaks before the next one is begun:
 * that must be durable before the source is asked from where it goes on, or it comes twice. */
static void test_cut_link_behind_a_commit(void **state) {
    bool met = false;
    int last = 0;
    ss_buf expected;
    (void)state;

    boot(SS_ON_GAP_HALT, &large, false);
    wait_trimmed();
    for (int round = 0; round < 5 && !met; round++) { /* a trim, or an idle position, may come in between */
        int first = last + 1;
        last += 20;
        FAKE(fake.available = first; fake.sync_brings = last; fake.sync_cuts = true; fake.cut_released = 0);
        wait_position(last * 10 + 5);
        FAKE(met = fake.cut_released > 0 && fake.cut_released < last * 10 + 5;
             fake.sync_cuts = fake.cut_at_release = false);
    }
    halt_world();
    assert_true(met);
    assert_false(fake.released_early);
    ss_buf_init(&expected);
    put_transactions(&expected, 1, last);
    assert_stream(&expected);
}

/* A marker that was written while a commit was made is not in that commit. */
static void test_marker_is_told_when_it_is_durable(void **state) {
    int waiting = 0, taken = 0;
    (void)state;

    boot(SS_ON_GAP_HALT, &large, false);
    wait_trimmed();
    add_marker("155", "between", 7);
    FAKE(fake.available = 1; fake.syncs_wait = true; fake.sync_brings = 20);
    for (int i = 0; i < 1500 && (waiting == 0 || taken < 20); i++) {
        usleep(10000);
        FAKE(waiting = fake.syncs_waiting; taken = fake.taken);
    }
    assert_true(waiting == 1 && taken == 20);
    usleep(50000); /* the commit before has been told meanwhile */
    assert_int_equal(ss_pipeline_marker_durable(world.pipeline), 0);
    FAKE(fake.syncs_wait = false);
    wait_durable(7);
    wait_position(205);
    halt_world();
}

/* What an append makes durable by itself in the middle of a long transaction is released too. */
static void test_long_transaction_releases_what_lies_before(void **state) {
    int64_t released = 0;
    (void)state;

    FAKE(fake.available = 2; fake.changes = 6; fake.cell = 3 << 20; fake.stall_at = 2);
    boot(SS_ON_GAP_HALT, &large, false);
    for (int i = 0; i < 1500 && released < 15; i++) {
        FAKE(released = fake.released);
        usleep(10000);
    }
    assert_int_equal(released, 15);
    FAKE(fake.stall_at = 0);
    wait_position(25);
    halt_world();
}

static void test_pause(void **state) {
    ss_agent_snapshot now;
    (void)state;

    boot(SS_ON_GAP_HALT, &large, false);
    wait_state(SS_AGENT_STREAMING);
    ss_pipeline_pause(world.pipeline);
    wait_state(SS_AGENT_PAUSED);
    FAKE(fake.available = 5);
    usleep(100000);
    ss_agent_status_get(&world.status, &now);
    assert_true(strtoll(now.position, NULL, 10) < 15);
    ss_pipeline_resume(world.pipeline);
    wait_position(55);
    halt_world();
}

static void begin_copy(uint64_t generation) {
    Sidespool__CopyBegin begin = SIDESPOOL__COPY_BEGIN__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    ss_buf packed;

    begin.generation = generation;
    begin.route = (char *)(uintptr_t) "r";
    begin.position = (char *)(uintptr_t) "0";
    record.body_case = SIDESPOOL__RECORD__BODY_COPY_BEGIN;
    record.copy_begin = &begin;
    ss_buf_init(&packed);
    ss_record_put(&packed, &record);
    check_ok(ss_pipeline_add_marker(world.pipeline, "", 0, ss_bytes_of(packed.ptr, packed.len),
                                    generation, &world.err));
    ss_buf_done(&packed);
}

static void test_cut_copy_is_ended(void **state) {
    ss_generation generation = {.number = 5, .open = true, .route = "r"}, read = {0};
    char dir[128];
    ss_buf expected;
    (void)state;

    boot(SS_ON_GAP_HALT, &large, false);
    check_ok(ss_pipeline_wait_prepared(world.pipeline, 5000, &world.err));
    begin_copy(5);
    wait_durable(5);
    halt_world();
    snprintf(dir, sizeof dir, "%s/fake", world.path);
    check_ok(ss_generation_save(dir, &generation, &world.err));
    for (int i = 0; i < 2; i++) { /* a second start finds nothing more to end */
        boot(SS_ON_GAP_HALT, &large, true);
        if (i == 0)
            wait_durable(5);
        else
            wait_state(SS_AGENT_STREAMING);
        usleep(300000);
        halt_world();
        check_ok(ss_generation_load(world.path, "fake", &read, &world.err));
        assert_false(read.open);
        assert_int_equal(read.number, 5);
        if (i == 0) /* as if the crash had come before the file said so: the stream tells */
            check_ok(ss_generation_save(dir, &generation, &world.err));
        if (i == 0) {
            bool unfinished = true;
            check_ok(
                ss_generation_unfinished(world.path, "fake", &generation, &unfinished, &world.err));
            assert_false(unfinished);
            generation.open = false;
            check_ok(ss_generation_save(dir, &generation, &world.err));
        }
    }
    ss_buf_init(&expected);
    ss_buf_put_str(&expected, "<5 !5> ");
    assert_stream(&expected);
}

static void test_half_made_start(void **state) {
    ss_log *log;
    (void)state;

    /* Identity without position: the last life died between the two. */
    check_ok(ss_spool_open(world.path, "fake", &large, &world.spool, &world.err));
    check_ok(ss_log_open(world.spool, SS_LOG_STREAM, &log, &world.err));
    check_ok(ss_log_set_identity(log, "one", false, &world.err));
    ss_log_close(log);
    ss_spool_close(world.spool);
    FAKE(fake.available = 2);
    boot(SS_ON_GAP_HALT, &large, false);
    wait_position(25);
    halt_world();
    assert_true(fake.was_intended);
    assert_int_equal(fake.prepares, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order_once_and_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_markers_stand_exactly, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_spool_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_halts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_resyncs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_survives_a_death, setup, teardown),
        cmocka_unit_test_setup_teardown(test_identity_is_of_what_was_prepared, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_link_is_not_a_full_spool, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_link_behind_a_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_marker_is_told_when_it_is_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_transaction_releases_what_lies_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_copy_is_ended, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_made_start, setup, teardown),
    };
    ss_log_threshold(SS_WARN);
    return cmocka_run_group_tests_name("pipeline", tests, NULL, NULL);
}
