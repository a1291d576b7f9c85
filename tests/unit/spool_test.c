/* needs: spool */
/* The spool's main way: append, commit, read, roll, recover, rewind, trim, quota, consumers. */
#include "sidespool/record.h"
#include "spool_testing.h"

#include <poll.h>
#include <sys/eventfd.h>

static void appends_and_reads(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    for (uint64_t i = 1; i <= 20000; i++)
        append_one(&t, i, 100);
    mark(&t, "p20000");
    flush_now(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, 20000);
    assert_string_equal(ss_log_get_state(t.log)->position, "p20000");

    ss_reader *reader = open_reader(&t, 1);
    for (uint64_t i = 1; i <= 20000; i++)
        expect_next(reader, i, 100);
    expect_busy(reader);
    append_one(&t, 20001, 5);
    flush_now(&t);
    expect_busy(reader); /* not whole */
    mark(&t, "p20001");
    flush_now(&t);
    expect_next(reader, 20001, 5);
    expect_busy(reader);
    must(ss_reader_seek(reader, 777, &t.err), &t);
    expect_next(reader, 777, 100);
    expect_next(reader, 778, 100);
    uint64_t records, bytes;
    must(ss_reader_behind(reader, &records, &bytes, &t.err), &t);
    assert_int_equal(records, 20001 - 778);
    assert_true(bytes > 0);
    const ss_log_state *seen;
    must(ss_reader_state(reader, &seen, &t.err), &t);
    assert_string_equal(seen->position, "p20001");
    assert_int_equal(seen->first, 1);
    assert_int_equal(ss_reader_seek(reader, 20003, &t.err), SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_GAP);
    must(ss_reader_seek(reader, 20002, &t.err), &t);
    expect_busy(reader);
    ss_reader_close(reader);
    test_spool_end(&t);
}

/* Turns the loop of an owner that commits beside, until `upto` is durable. */
static void until_durable(test_spool *t, int wake_fd, uint64_t upto) {
    ss_log_turn turn;
    uint64_t count;
    for (;;) {
        must(ss_log_flush_beside(t->log, wake_fd, &turn, &t->err), t);
        if (ss_log_get_state(t->log)->committed >= upto)
            return;
        assert_true(turn.now != SS_LOG_QUIET);
        struct pollfd wake = {.fd = wake_fd, .events = POLLIN};
        int wait_ms = turn.now == SS_LOG_RESTS ? turn.wait_us / 1000 + 1 : 10000; /* its end is told, else this hangs */
        int n = poll(&wake, 1, wait_ms);
        assert_true(n == 1 || turn.now == SS_LOG_RESTS);
        if (n == 1)
            assert_int_equal(read(wake_fd, &count, sizeof(count)), sizeof(count));
    }
}

static void commits_beside(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20});
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t n = 0;
    ss_log_turn turn;
    must(ss_log_flush_beside(t.log, wake_fd, &turn, &t.err), &t);
    assert_int_equal(turn.now, SS_LOG_QUIET);
    append_one(&t, ++n, 100);
    must(ss_log_flush_beside(t.log, wake_fd, &turn, &t.err), &t);
    assert_int_equal(turn.now, SS_LOG_QUIET); /* not whole */

    /* what comes while a commit is under way is not of it, and waits for the next */
    for (int round = 0; round < 30; round++) {
        mark(&t, "whole");
        must(ss_log_flush_beside(t.log, wake_fd, &turn, &t.err), &t);
        assert_true(ss_log_get_state(t.log)->committed <= n);
        for (int i = 0; i < 40; i++)
            append_random(&t, ++n, 5000);
    }
    mark(&t, "p1201");
    until_durable(&t, wake_fd, n);
    assert_int_equal(ss_log_get_state(t.log)->committed, n);
    assert_string_equal(ss_log_get_state(t.log)->position, "p1201");
    assert_true(count_files(&t, "stream-") > 3); /* it rolls there too */

    /* a rewind takes back what is not whole, and leaves what is on its way */
    append_one(&t, n + 1, 100);
    mark(&t, "one more");
    must(ss_log_flush_beside(t.log, wake_fd, &turn, &t.err), &t);
    append_one(&t, n + 2, 100);
    must(ss_log_rewind(t.log, &t.err), &t);
    append_one(&t, n + 2, 7);
    mark(&t, "again");
    until_durable(&t, wake_fd, n + 2);

    /* 4 MiB of one transaction go to disk beside, and are not seen */
    for (uint64_t i = 0; i < 2000; i++)
        append_random(&t, n + 3 + i, 5000);
    assert_true(ss_log_pending(t.log) < (size_t)2000 * 5000);
    ss_reader *reader = open_reader(&t, n + 1);
    expect_next(reader, n + 1, 100);
    expect_next(reader, n + 2, 7);
    expect_busy(reader);
    ss_reader_close(reader);
    test_spool_reopen(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, n + 2);
    assert_string_equal(ss_log_get_state(t.log)->position, "again");

    /* closed in flight: it lands, or never was */
    append_one(&t, n + 3, 100);
    mark(&t, "last");
    must(ss_log_flush_beside(t.log, wake_fd, &turn, &t.err), &t);
    test_spool_reopen(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, n + 3);
    test_spool_end(&t);
    close(wake_fd);
}

static void reopens_where_it_was_whole(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20});
    uint64_t n = 0;
    for (int i = 0; i < 10; i++)
        append_random(&t, ++n, 1000);
    mark(&t, "ten");
    /* an unfinished transaction over several segments, on disk because more than 8 MiB gathered */
    while (n < 10000)
        append_random(&t, ++n, 1500);
    assert_true(count_files(&t, "stream-") > 3);
    assert_int_equal(ss_log_get_state(t.log)->committed, 10);
    test_spool_reopen(&t);
    assert_int_equal(ss_log_get_state(t.log)->committed, 10);
    assert_string_equal(ss_log_get_state(t.log)->position, "ten");
    assert_int_equal(count_files(&t, "stream-"), 1);
    ss_reader *reader = open_reader(&t, 1);
    for (uint64_t i = 1; i <= 10; i++)
        expect_random(reader, i, 1000);
    expect_busy(reader);
    for (n = 10; n < 3000;)
        append_random(&t, ++n, 1500);
    mark(&t, "three thousand");
    flush_now(&t);
    for (uint64_t i = 11; i <= 3000; i++)
        expect_random(reader, i, 1500);
    expect_busy(reader);
    ss_reader_close(reader);
    test_spool_end(&t);
}

static void rewinds_in_memory_and_on_disk(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20});
    append_one(&t, 1, 10);
    mark(&t, "one");
    append_one(&t, 2, 10);
    append_one(&t, 3, 10);
    must(ss_log_rewind(t.log, &t.err), &t); /* the mark itself has not been flushed */
    append_one(&t, 2, 20);
    mark(&t, "two");
    flush_now(&t);
    ss_reader *reader = open_reader(&t, 1);
    expect_next(reader, 1, 10);
    expect_next(reader, 2, 20);
    for (uint64_t n = 3; n < 12000; n++) /* far over 8 MiB: on disk, in many segments */
        append_random(&t, n, 1500);
    expect_busy(reader);
    assert_true(count_files(&t, "stream-") > 3);
    must(ss_log_rewind(t.log, &t.err), &t);
    assert_int_equal(count_files(&t, "stream-"), 1);
    expect_busy(reader);
    for (uint64_t n = 3; n < 9000; n++)
        append_random(&t, n, 1200);
    mark(&t, "nine thousand");
    flush_now(&t);
    for (uint64_t n = 3; n < 9000; n++)
        expect_random(reader, n, 1200);
    expect_busy(reader);
    ss_reader_close(reader);
    test_spool_end(&t);
}

static void holds_records_larger_than_a_segment(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20});
    append_random(&t, 1, 3 << 20); /* the first segment is empty and too small: replaced */
    append_random(&t, 2, 100);
    append_random(&t, 3, 5 << 20);
    append_random(&t, 4, 12 << 20);
    mark(&t, "four");
    flush_now(&t);
    test_spool_reopen(&t);
    ss_reader *reader = open_reader(&t, 1);
    expect_random(reader, 1, 3 << 20);
    expect_random(reader, 2, 100);
    expect_random(reader, 3, 5 << 20);
    expect_random(reader, 4, 12 << 20);
    expect_busy(reader);
    ss_reader_close(reader);
    test_spool_end(&t);
}

static uint64_t sealed(const char *name, ss_buf *out) {
    Sidespool__Schema schema = SIDESPOOL__SCHEMA__INIT;
    schema.ns = schema.name = (char *)(uintptr_t)name;
    ss_buf_init(out);
    return ss_schema_seal(&schema, out);
}

static void keeps_a_schema_in_every_segment_that_uses_it(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20});
    ss_buf seven, eight;
    uint64_t id7 = sealed("seven", &seven), id8 = sealed("eight", &eight);
    must(ss_log_put_schema(t.log, id7, ss_bytes_of(seven.ptr, seven.len), &t.err), &t);
    must(ss_log_put_schema(t.log, id8, ss_bytes_of(eight.ptr, eight.len), &t.err), &t);
    uint8_t record[4000];
    for (uint64_t n = 1; n <= 2000; n++) {
        fill_random(record, sizeof(record), n);
        if (n % 500 == 0)
            must(ss_log_use_schema(t.log, id8, &t.err), &t);
        must(ss_log_append(t.log, ss_bytes_of(record, sizeof(record)), id7, NULL, &t.err), &t);
    }
    assert_int_equal(ss_log_append(t.log, ss_bytes_str("x"), 9, NULL, &t.err), SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_SCHEMA);
    mark(&t, "p");
    flush_now(&t);
    assert_true(count_files(&t, "stream-") > 5);
    ss_reader *reader = open_reader(&t, 1);
    for (uint64_t n = 1; n <= 2000; n++) {
        ss_bytes schema;
        expect_random(reader, n, sizeof(record));
        must(ss_reader_schema(reader, id7, &schema, &t.err), &t);
        assert_true(ss_bytes_eq(schema, ss_bytes_of(seven.ptr, seven.len)));
        if (n % 500 == 0) {
            must(ss_reader_schema(reader, id8, &schema, &t.err), &t);
            assert_true(ss_bytes_eq(schema, ss_bytes_of(eight.ptr, eight.len)));
        }
    }
    ss_bytes none;
    assert_int_equal(ss_reader_schema(reader, 99, &none, &t.err), SS_STOP);
    ss_reader_close(reader);
    ss_buf_done(&seven);
    ss_buf_done(&eight);
    test_spool_end(&t);
}

static void trims_what_every_consumer_has_passed(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .retain_ms = 300});
    for (uint64_t n = 1; n <= 6000; n++) {
        append_random(&t, n, 1000);
        if (n % 100 == 0) {
            mark(&t, "p");
            flush_now(&t);
        }
    }
    int files = count_files(&t, "stream-");
    uint64_t removed;
    assert_true(files > 4);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_int_equal(removed, 0); /* no consumer: nothing goes */
    ss_cursors *cursors;
    must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
    must(ss_cursors_set(cursors, "slow", SS_LOG_STREAM, 0, true, &t.err), &t);
    must(ss_cursors_set(cursors, "fast", SS_LOG_STREAM, 6000, true, &t.err), &t);
    usleep(400000);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_int_equal(removed, 0);
    ss_reader *reader = open_reader(&t, 1);
    expect_random(reader, 1, 1000);
    bool was_there;
    must(ss_cursors_forget(cursors, "slow", &was_there, &t.err), &t);
    assert_true(was_there);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_int_equal(removed, files - 1);
    assert_int_equal(count_files(&t, "stream-"), 1);
    assert_true(ss_log_get_state(t.log)->first > 1);
    /* a reader that was too slow comes to the gap, and is told */
    ss_status status;
    ss_bytes record;
    uint64_t sequence;
    while ((status = ss_reader_next(reader, &record, &sequence, &t.err)) == SS_OK)
        ;
    assert_int_equal(status, SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_GAP);
    ss_reader_close(reader);
    assert_int_equal(ss_reader_open(t.path, "s", SS_LOG_STREAM, 1, &reader, &t.err), SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_GAP);
    ss_cursors_close(cursors);
    test_spool_end(&t);
}

static void retain_holds_and_yields(void **state) {
    (void)state;
    test_spool t =
        test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .retain_ms = 3600000, .max_size = 16 << 20});
    ss_cursors *cursors;
    uint64_t removed, n = 0;
    must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
    for (int i = 0; i < 5000; i++)
        append_random(&t, ++n, 1000);
    mark(&t, "p");
    flush_now(&t);
    must(ss_cursors_set(cursors, "r", SS_LOG_STREAM, n, true, &t.err), &t);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_int_equal(removed, 0);
    for (int i = 0; i < 8400; i++)
        append_random(&t, ++n, 1000);
    mark(&t, "p");
    flush_now(&t);
    must(ss_cursors_set(cursors, "r", SS_LOG_STREAM, n, true, &t.err), &t);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_true(removed > 0);
    ss_cursors_close(cursors);
    test_spool_end(&t);
}

static ss_status fill(test_spool *t, uint64_t *n, uint64_t records_a_transaction) {
    static uint8_t record[1000];
    for (;;) {
        fill_random(record, sizeof(record), *n + 1);
        ss_status status = ss_log_append(t->log, ss_bytes_of(record, sizeof(record)), 0, NULL, &t->err);
        if (status != SS_OK)
            return status;
        ++*n;
        if (records_a_transaction != 0 && *n % records_a_transaction == 0) {
            mark(t, "p");
            flush_now(t);
        }
    }
}

static void stops_at_the_quota_and_goes_on(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .max_size = 8 << 20});
    uint64_t n = 0, used, quota, removed;
    assert_int_equal(fill(&t, &n, 10), SS_BUSY);
    assert_string_equal(t.err.code, SS_SPOOL_FULL);
    must(ss_spool_usage(t.spool, &used, &quota, &t.err), &t);
    assert_true(used <= quota && used > quota * 3 / 4);
    n -= n % 10;
    must(ss_log_rewind(t.log, &t.err), &t);
    assert_int_equal(ss_log_get_state(t.log)->committed, n);
    ss_cursors *cursors;
    must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
    must(ss_cursors_set(cursors, "r", SS_LOG_STREAM, n, true, &t.err), &t);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_true(removed > 0);
    uint64_t before = n;
    assert_int_equal(fill(&t, &n, 10), SS_BUSY);
    assert_true(n > before + 4000);
    ss_cursors_close(cursors);
    test_spool_end(&t);

    /* one transaction that alone is larger than everything */
    t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .max_size = 20 << 20});
    n = 0;
    assert_int_equal(fill(&t, &n, 0), SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_TOO_LARGE);
    must(ss_log_rewind(t.log, &t.err), &t);
    assert_int_equal(count_files(&t, "stream-"), 1);
    test_spool_end(&t);
}

/* While tables are copied nothing of the stream can be trimmed: however full it is, the copy finds room. */
static void a_full_stream_leaves_a_copy_room(void **state) {
    (void)state;
    for (uint64_t quota = (uint64_t)4 << 20; quota <= (uint64_t)32 << 20; quota *= 2) {
        test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .max_size = quota});
        uint64_t n = 0, used, removed, sequence;
        ss_log *copy;
        ss_cursors *cursors;
        size_t len = ((size_t)1 << 20) + 4096;
        uint8_t *record = malloc(len);
        assert_non_null(record);
        assert_int_equal(fill(&t, &n, 10), SS_BUSY);
        assert_string_equal(t.err.code, SS_SPOOL_FULL);
        assert_non_null(strstr(t.err.text, "capture waits"));
        must(ss_log_open(t.spool, SS_LOG_COPY, &copy, &t.err), &t);
        must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
        ss_status status = SS_OK;
        for (uint64_t i = 1; i <= 12; i++) { /* the route loads each piece as soon as the log is full */
            fill_random(record, len, i);
            while ((status = ss_log_append(copy, ss_bytes_of(record, len), 0, &sequence, &t.err)) == SS_BUSY) {
                uint64_t before = ss_log_get_state(copy)->first;
                assert_string_equal(t.err.code, SS_SPOOL_FULL);
                assert_non_null(strstr(t.err.text, "the copy waits"));
                must(ss_cursors_set(cursors, "r", SS_LOG_COPY, i - 1, true, &t.err), &t);
                must(ss_log_trim(copy, &removed, &t.err), &t);
                assert_true(ss_log_get_state(copy)->first > before); /* else it would stand still for ever */
            }
            assert_int_equal(status, SS_OK);
            ss_log_mark_whole(copy, ss_bytes_str(""));
            must(ss_log_flush(copy, true, NULL, &t.err), &t);
        }
        must(ss_spool_usage(t.spool, &used, &sequence, &t.err), &t);
        assert_true(used <= quota);
        ss_cursors_close(cursors);
        ss_log_close(copy);
        free(record);
        test_spool_end(&t);
    }
}

/* What waits in memory counts for the quota, so it counts for `retain` too. */
static void retain_yields_to_what_waits_in_memory(void **state) {
    (void)state;
    test_spool t =
        test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .retain_ms = 3600000, .max_size = 8 << 20});
    ss_cursors *cursors;
    uint64_t removed, n = 0;
    for (int i = 0; i < 3000; i++)
        append_random(&t, ++n, 1000);
    mark(&t, "p");
    flush_now(&t);
    must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
    must(ss_cursors_set(cursors, "r", SS_LOG_STREAM, n, true, &t.err), &t);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_int_equal(removed, 0);
    assert_int_equal(fill(&t, &n, 0), SS_BUSY);
    must(ss_log_trim(t.log, &removed, &t.err), &t);
    assert_true(removed >= 2);
    assert_int_equal(fill(&t, &n, 0), SS_STOP); /* and now it is a transaction that never fits */
    ss_cursors_close(cursors);
    test_spool_end(&t);
}

/* A TRUNCATE of several tables that is offered again and again while the log is full says its schemas once. */
static void says_a_schema_once(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    must(ss_log_put_schema(t.log, 7, ss_bytes_str("seven"), &t.err), &t);
    must(ss_log_put_schema(t.log, 8, ss_bytes_str("eight"), &t.err), &t);
    for (int i = 0; i < 1000; i++) {
        must(ss_log_use_schema(t.log, 7, &t.err), &t);
        must(ss_log_use_schema(t.log, 8, &t.err), &t);
    }
    assert_int_equal(t.log->next_ids_count, 2);
    ss_log_forget_schemas(t.log); /* not while a record to come uses them */
    assert_true(ss_log_schema_bytes(t.log) > 10);
    append_one(&t, 1, 10);
    assert_int_equal(t.log->next_ids_count, 0);
    must(ss_log_use_schema(t.log, 7, &t.err), &t); /* the next record says it anew */
    assert_int_equal(t.log->next_ids_count, 1);
    must(ss_log_rewind(t.log, &t.err), &t);
    must(ss_log_use_schema(t.log, 7, &t.err), &t);
    assert_int_equal(t.log->next_ids_count, 1);
    append_one(&t, 1, 10);
    ss_log_forget_schemas(t.log); /* nor before what uses them is on disk */
    assert_true(ss_log_schema_bytes(t.log) > 10);
    mark(&t, "p");
    flush_now(&t);
    ss_log_forget_schemas(t.log);
    assert_int_equal(ss_log_schema_bytes(t.log), 0);
    assert_int_equal(ss_log_use_schema(t.log, 7, &t.err), SS_STOP);
    must(ss_log_put_schema(t.log, 7, ss_bytes_str("seven"), &t.err), &t);
    assert_int_equal(ss_log_append(t.log, ss_bytes_str("x"), 7, NULL, &t.err), SS_OK);
    mark(&t, "q");
    flush_now(&t);
    test_spool_end(&t);
}

static void one_writer(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    ss_spool *second;
    assert_int_equal(ss_spool_open(t.path, "s", &(ss_spool_options){0}, &second, &t.err), SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_LOCKED);
    test_spool_end(&t);
}

static void keeps_identity_and_epoch(void **state) {
    (void)state;
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20});
    assert_string_equal(ss_log_get_state(t.log)->identity, "");
    assert_int_equal(ss_log_get_state(t.log)->epoch, 1);
    must(ss_log_set_identity(t.log, "pg 123", false, &t.err), &t);
    append_random(&t, 1, 3 << 20);
    assert_int_equal(ss_log_set_identity(t.log, "pg 124", true, &t.err), SS_STOP);
    mark(&t, "p");
    flush_now(&t);
    must(ss_log_set_identity(t.log, "pg 123b", false, &t.err), &t);
    assert_string_equal(ss_log_get_state(t.log)->position, "p");
    must(ss_log_set_identity(t.log, "pg 124", true, &t.err), &t);
    assert_string_equal(ss_log_get_state(t.log)->position, ""); /* it was one of the old history */
    test_spool_reopen(&t);
    assert_string_equal(ss_log_get_state(t.log)->position, "");
    assert_int_equal(ss_log_get_state(t.log)->epoch, 2);
    assert_int_equal(ss_log_get_state(t.log)->committed, 1);
    for (uint64_t n = 2; n < 3000; n++)
        append_random(&t, n, 1000);
    mark(&t, "q");
    flush_now(&t);
    char id[33];
    memcpy(id, ss_log_get_state(t.log)->spool_id, 33);
    test_spool_reopen(&t);
    assert_string_equal(ss_log_get_state(t.log)->identity, "pg 124");
    assert_int_equal(ss_log_get_state(t.log)->epoch, 2);
    assert_string_equal(ss_log_get_state(t.log)->spool_id, id);
    assert_int_equal(strlen(id), 32);
    test_spool_end(&t);
}

static void moves_a_position_without_records(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    mark(&t, "start");
    flush_now(&t);
    test_spool_reopen(&t);
    assert_string_equal(ss_log_get_state(t.log)->position, "start");
    assert_int_equal(ss_log_get_state(t.log)->committed, 0);
    assert_int_equal(ss_log_get_state(t.log)->first, 1);
    test_spool_end(&t);
}

static void crc_is_castagnoli(void **state) {
    (void)state;
    assert_int_equal(ss_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(ss_crc32c(ss_crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_is_castagnoli),
        cmocka_unit_test(appends_and_reads),
        cmocka_unit_test(commits_beside),
        cmocka_unit_test(reopens_where_it_was_whole),
        cmocka_unit_test(rewinds_in_memory_and_on_disk),
        cmocka_unit_test(holds_records_larger_than_a_segment),
        cmocka_unit_test(keeps_a_schema_in_every_segment_that_uses_it),
        cmocka_unit_test(trims_what_every_consumer_has_passed),
        cmocka_unit_test(retain_holds_and_yields),
        cmocka_unit_test(stops_at_the_quota_and_goes_on),
        cmocka_unit_test(a_full_stream_leaves_a_copy_room),
        cmocka_unit_test(retain_yields_to_what_waits_in_memory),
        cmocka_unit_test(says_a_schema_once),
        cmocka_unit_test(one_writer),
        cmocka_unit_test(keeps_identity_and_epoch),
        cmocka_unit_test(moves_a_position_without_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
