/* What the spool's tests share: a spool in a directory of its own, records whose bytes follow from their number. */
#ifndef SPOOL_TESTING_H
#define SPOOL_TESTING_H

#include "spool/spool_internal.h"
#include "unit/temp_testing.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define UNUSED_FN __attribute__((unused))

typedef struct {
    char path[64], dir[80];
    ss_spool_options options;
    ss_spool *spool;
    ss_log *log;
    ss_error err;
} test_spool;

static UNUSED_FN void must(ss_status status, const test_spool *t) {
    if (status != SS_OK)
        fail_msg("status %d: %s %s", status, t->err.code != NULL ? t->err.code : "", t->err.text);
}

static UNUSED_FN void open_log(test_spool *t) {
    must(ss_spool_open(t->path, "s", &t->options, &t->spool, &t->err), t);
    must(ss_log_open(t->spool, SS_LOG_STREAM, &t->log, &t->err), t);
}

static UNUSED_FN test_spool test_spool_begin(const ss_spool_options *options) {
    test_spool t = {0};
    temp_name(t.path, sizeof(t.path), "spool_test");
    assert_non_null(mkdtemp(t.path));
    (void)snprintf(t.dir, sizeof(t.dir), "%s/s", t.path);
    if (options != NULL)
        t.options = *options;
    open_log(&t);
    return t;
}

static UNUSED_FN void test_spool_close(test_spool *t) {
    ss_log_close(t->log);
    ss_spool_close(t->spool);
    t->log = NULL;
    t->spool = NULL;
}

static UNUSED_FN void test_spool_reopen(test_spool *t) {
    test_spool_close(t);
    open_log(t);
}

static UNUSED_FN void remove_dir(const char *dir) {
    DIR *d = opendir(dir);
    struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL)
        if (entry->d_name[0] != '.')
            (void)!unlinkat(dirfd(d), entry->d_name, 0);
    if (d != NULL)
        closedir(d);
    (void)!rmdir(dir);
}

static UNUSED_FN void test_spool_end(test_spool *t) {
    test_spool_close(t);
    remove_dir(t->dir);
    remove_dir(t->path);
}

/* Segments whose name begins so; lock files are not counted. */
static UNUSED_FN int count_files(const test_spool *t, const char *prefix) {
    DIR *d = opendir(t->dir);
    struct dirent *entry;
    int count = 0;
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        size_t len = strlen(entry->d_name);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && len > 4 && strcmp(entry->d_name + len - 4, ".mdb") == 0)
            count++;
    }
    closedir(d);
    return count;
}

static UNUSED_FN uint64_t mix(uint64_t *seed) {
    uint64_t z = (*seed += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Bytes that zstd cannot make smaller. */
static UNUSED_FN void fill_random(uint8_t *to, size_t len, uint64_t seed) {
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t v = mix(&seed);
        memcpy(to + i, &v, 8);
    }
    for (; i < len; i++)
        to[i] = (uint8_t)mix(&seed);
}

static UNUSED_FN void append_one(test_spool *t, uint64_t sequence, size_t len) {
    uint8_t *record = malloc(len + 1);
    assert_non_null(record);
    memset(record, (int)(sequence % 251), len);
    uint64_t got = 0;
    must(ss_log_append(t->log, ss_bytes_of(record, len), 0, &got, &t->err), t);
    assert_int_equal(got, sequence);
    free(record);
}

static UNUSED_FN void append_random(test_spool *t, uint64_t sequence, size_t len) {
    uint8_t *record = malloc(len + 1);
    assert_non_null(record);
    fill_random(record, len, sequence);
    uint64_t got = 0;
    must(ss_log_append(t->log, ss_bytes_of(record, len), 0, &got, &t->err), t);
    assert_int_equal(got, sequence);
    free(record);
}

static UNUSED_FN void mark(test_spool *t, const char *position) {
    ss_log_mark_whole(t->log, ss_bytes_str(position));
}

static UNUSED_FN void flush_now(test_spool *t) {
    must(ss_log_flush(t->log, true, NULL, &t->err), t);
}

static UNUSED_FN ss_reader *open_reader(test_spool *t, uint64_t from) {
    ss_reader *reader = NULL;
    must(ss_reader_open(t->path, "s", SS_LOG_STREAM, from, &reader, &t->err), t);
    return reader;
}

static UNUSED_FN ss_bytes expect_record(ss_reader *reader, uint64_t sequence) {
    ss_bytes record = SS_BYTES_NONE;
    uint64_t got = 0;
    test_spool t = {0};
    must(ss_reader_next(reader, &record, &got, &t.err), &t);
    assert_int_equal(got, sequence);
    return record;
}

static UNUSED_FN void expect_next(ss_reader *reader, uint64_t sequence, size_t len) {
    ss_bytes record = expect_record(reader, sequence);
    assert_int_equal(record.len, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(record.ptr[i], sequence % 251);
}

static UNUSED_FN void expect_random(ss_reader *reader, uint64_t sequence, size_t len) {
    ss_bytes record = expect_record(reader, sequence);
    uint8_t *wanted = malloc(len + 1);
    assert_non_null(wanted);
    assert_int_equal(record.len, len);
    fill_random(wanted, len, sequence);
    assert_memory_equal(record.ptr, wanted, len);
    free(wanted);
}

static UNUSED_FN void expect_busy(ss_reader *reader) {
    ss_bytes record;
    uint64_t got;
    ss_error err = {0};
    ss_status status = ss_reader_next(reader, &record, &got, &err);
    if (status != SS_BUSY)
        fail_msg("not BUSY but %d: %s", status, err.text);
}

#endif
