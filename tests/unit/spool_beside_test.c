/* needs: spool */
/* Commits that fail, beside the log's owner or not: told once, kept, taken back as far as the mark, written again. */
#include "faults/spool_model_io.h"
#include "spool_testing.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

static void disk_fails(bool fails) {
    io_fail_errno = EIO;
    io_fail_calls = UINT64_MAX / 2;
    io_fail_at = fails ? io_calls + 1 : 0;
}

static void await_end(int wake_fd) {
    struct pollfd wake = {.fd = wake_fd, .events = POLLIN};
    uint64_t count;
    assert_int_equal(poll(&wake, 1, 30000), 1);
    assert_int_equal(read(wake_fd, &count, sizeof(count)), sizeof(count));
}

static ss_log_turn begin_commit(test_spool *t, int wake_fd) {
    ss_log_turn turn;
    must(ss_log_flush_beside(t->log, wake_fd, &turn, &t->err), t);
    return turn;
}

static void expect_told(test_spool *t, int wake_fd) {
    ss_log_turn turn;
    assert_int_equal(ss_log_flush_beside(t->log, wake_fd, &turn, &t->err), SS_RETRY);
    assert_string_equal(t->err.code, SS_SPOOL_IO);
    assert_int_equal(turn.now, SS_LOG_QUIET);
}

/* The flight that failed holds frames beyond its mark: their transaction is cut, and another stands in its place. */
static void writes_again_what_was_whole(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.frame_bytes = 4096});
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (uint64_t i = 1; i <= 30; i++) {
        append_random(&t, i, 1000);
        if (i == 10)
            mark(&t, "p10");
    }
    disk_fails(true);
    assert_int_equal(begin_commit(&t, wake_fd).now, SS_LOG_COMMITS);
    await_end(wake_fd);
    expect_told(&t, wake_fd);
    assert_int_equal(begin_commit(&t, wake_fd).now, SS_LOG_QUIET); /* told once, and begun by a flush alone */
    assert_int_equal(ss_log_get_state(t.log)->committed, 0);
    must(ss_log_rewind(t.log, &t.err), &t);
    disk_fails(false);
    for (uint64_t i = 11; i <= 20; i++)
        append_one(&t, i, 1000);
    mark(&t, "p20");
    flush_now(&t);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ss_log_get_state(t.log)->committed, 20);
        assert_string_equal(ss_log_get_state(t.log)->position, "p20");
        ss_reader *reader = open_reader(&t, 1);
        for (uint64_t n = 1; n <= 10; n++)
            expect_random(reader, n, 1000);
        for (uint64_t n = 11; n <= 20; n++)
            expect_next(reader, n, 1000);
        expect_busy(reader);
        ss_reader_close(reader);
        test_spool_reopen(&t);
    }
    test_spool_end(&t);
    close(wake_fd);
}

static void a_rewind_keeps_the_error_of_what_is_kept(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    append_one(&t, 1, 100);
    mark(&t, "p1");
    disk_fails(true);
    assert_int_equal(begin_commit(&t, wake_fd).now, SS_LOG_COMMITS);
    append_one(&t, 2, 100);
    await_end(wake_fd);
    must(ss_log_rewind(t.log, &t.err), &t);
    expect_told(&t, wake_fd);
    disk_fails(false);
    flush_now(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, 1);

    /* of a transaction that is taken back whole nothing is left to be told */
    disk_fails(true);
    for (uint64_t i = 0; i <= (4 << 20) / 5000 + 1; i++)
        append_random(&t, 2 + i, 5000);
    await_end(wake_fd);
    must(ss_log_rewind(t.log, &t.err), &t);
    assert_int_equal(begin_commit(&t, wake_fd).now, SS_LOG_QUIET);
    disk_fails(false);
    append_one(&t, 2, 100);
    mark(&t, "p2");
    flush_now(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, 2);
    test_spool_end(&t);
    close(wake_fd);
}

/* 3 MiB have failed; more is taken until 8 MiB wait. */
static void memory_is_bounded_while_the_disk_fails(bool beside) {
    const size_t most = (size_t)8 << 20, len = 8000;
    test_spool t = test_spool_begin(NULL);
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t n = 0;
    while (ss_log_pending(t.log) < (size_t)3 << 20)
        append_random(&t, ++n, len);
    mark(&t, "3 MiB");
    disk_fails(true);
    if (beside) {
        assert_int_equal(begin_commit(&t, wake_fd).now, SS_LOG_COMMITS);
        await_end(wake_fd);
        expect_told(&t, wake_fd);
    } else {
        assert_int_equal(ss_log_flush(t.log, true, NULL, &t.err), SS_RETRY);
    }
    while (ss_log_pending(t.log) < most)
        append_random(&t, ++n, len);
    uint8_t record[1] = {0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ss_log_append(t.log, ss_bytes_of(record, 1), 0, NULL, &t.err), SS_RETRY);
        assert_string_equal(t.err.code, SS_SPOOL_IO);
    }
    disk_fails(false);
    append_random(&t, ++n, len);
    mark(&t, "all");
    flush_now(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, n);
    ss_reader *reader = open_reader(&t, 1);
    for (uint64_t i = 1; i <= n; i++)
        expect_random(reader, i, len);
    expect_busy(reader);
    ss_reader_close(reader);
    test_spool_end(&t);
    close(wake_fd);
}

static void takes_8_mib_beside_a_failed_commit(void **state) {
    (void)state;
    memory_is_bounded_while_the_disk_fails(true);
}

static void takes_8_mib_after_a_failed_commit(void **state) {
    (void)state;
    memory_is_bounded_while_the_disk_fails(false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_again_what_was_whole),
        cmocka_unit_test(a_rewind_keeps_the_error_of_what_is_kept),
        cmocka_unit_test(takes_8_mib_beside_a_failed_commit),
        cmocka_unit_test(takes_8_mib_after_a_failed_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
