/* needs: spool */
/* Damage is refused by place, in a process that may die of it, and `verify` names the file. No record is ever wrong. */
#include "spool_testing.h"

#include <fcntl.h>
#include <signal.h>

#define RECORDS 3000
#define RECORD_BYTES 1000

static test_spool make(void) {
    test_spool t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .frame_bytes = 32 << 10});
    for (uint64_t n = 1; n <= RECORDS; n++) {
        append_random(&t, n, RECORD_BYTES);
        if (n % 100 == 0) {
            mark(&t, "p");
            flush_now(&t);
        }
    }
    test_spool_close(&t);
    return t;
}

static void finish(test_spool *t) {
    remove_dir(t->dir);
    remove_dir(t->path);
}

static void first_file(const test_spool *t, char out[200]) {
    (void)snprintf(out, 200, "%s/stream-%020d.mdb", t->dir, 1);
    assert_int_equal(chmod(out, 0640), 0);
}

static uint8_t *load(const char *path, size_t *ret_len) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    struct stat st;
    assert_int_equal(fstat(fileno(f), &st), 0);
    uint8_t *bytes = malloc((size_t)st.st_size);
    assert_non_null(bytes);
    *ret_len = fread(bytes, 1, (size_t)st.st_size, f);
    assert_int_equal(*ret_len, st.st_size);
    (void)fclose(f);
    return bytes;
}

static void flip(const char *path, size_t at, uint8_t with) {
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= with;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* What the child said: exit 0 all read, 1 refused with the text, 2 a wrong record; or its signal. */
static int read_in_child(const test_spool *t, char text[SS_ERROR_TEXT], int *ret_signal) {
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)!freopen("/dev/null", "w", stderr); /* LMDB's own assertion */
        ss_error err = {0};
        ss_reader *reader = NULL;
        ss_bytes record;
        uint64_t sequence = 0, expected = 1;
        static uint8_t wanted[RECORD_BYTES];
        ss_status status = ss_reader_open(t->path, "s", SS_LOG_STREAM, 1, &reader, &err);
        while (status == SS_OK && (status = ss_reader_next(reader, &record, &sequence, &err)) == SS_OK) {
            fill_random(wanted, sizeof(wanted), expected);
            if (sequence != expected || !ss_bytes_eq(record, ss_bytes_of(wanted, sizeof(wanted))))
                _exit(2);
            expected++;
        }
        if (status == SS_BUSY)
            _exit(expected == RECORDS + 1 ? 0 : 2);
        (void)!write(fds[1], err.text, strlen(err.text));
        _exit(1);
    }
    close(fds[1]);
    ssize_t n = read(fds[0], text, SS_ERROR_TEXT - 1);
    text[n > 0 ? n : 0] = '\0';
    close(fds[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    *ret_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int verify(const test_spool *t) {
    char *argv[] = {(char *)(uintptr_t) "verify", (char *)(uintptr_t) "--json", (char *)(uintptr_t) "--spool",
                    (char *)(uintptr_t)t->path, NULL};
    (void)fflush(NULL);
    int saved = dup(STDOUT_FILENO), none = open("/dev/null", O_WRONLY);
    int saved_err = dup(STDERR_FILENO);
    assert_true(dup2(none, STDOUT_FILENO) >= 0 && dup2(none, STDERR_FILENO) >= 0);
    int code = ss_spool_command(4, argv);
    (void)fflush(NULL);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0 && dup2(saved_err, STDERR_FILENO) >= 0);
    close(saved);
    close(saved_err);
    close(none);
    return code;
}

static size_t find_frame_at(const uint8_t *bytes, size_t len, uint64_t sequence) {
    uint8_t head[16] = {'S', 'S', 'F', 'R', 1, 0, 1, 0};
    ss_put_u64(head + 8, sequence);
    void *at = memmem(bytes, len, head, sizeof(head));
    assert_non_null(at);
    return (size_t)((uint8_t *)at - bytes);
}

static void a_damaged_frame_is_named(void **state) {
    (void)state;
    static const struct {
        size_t at;
        const char *said;
    } places[] = {{0, "magic"}, {8, "crc"}, {16, "crc"}, {20, "crc"}, {24, "length"}, {32, "crc"}, {36, "crc"}, {40, "crc"},
                  {5000, "crc"}};
    test_spool t = make();
    char path[200], text[SS_ERROR_TEXT];
    size_t len;
    int signal_;
    first_file(&t, path);
    uint8_t *bytes = load(path, &len);
    size_t frame = find_frame_at(bytes, len, 301);
    free(bytes);
    assert_int_equal(read_in_child(&t, text, &signal_), 0);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        flip(path, frame + places[i].at, 0x10);
        assert_int_equal(read_in_child(&t, text, &signal_), 1);
        if (strstr(text, places[i].said) == NULL || strstr(text, "sequence 301") == NULL || strstr(text, path) == NULL)
            fail_msg("place %zu: %s", places[i].at, text);
        assert_int_equal(verify(&t), SS_EXIT_NOT_SO);
        flip(path, frame + places[i].at, 0x10);
    }
    assert_int_equal(read_in_child(&t, text, &signal_), 0);
    finish(&t);
}

static void a_frame_of_another_history_is_refused(void **state) {
    (void)state;
    test_spool t = make();
    char path[200], text[SS_ERROR_TEXT];
    size_t len;
    int signal_;
    first_file(&t, path);
    uint8_t *bytes = load(path, &len);
    size_t frame = find_frame_at(bytes, len, 301);
    uint8_t *p = bytes + frame;
    p[32] ^= 1; /* another predecessor, with a CRC that agrees */
    uint32_t packed = ss_get_u32(p + 24);
    ss_put_u32(p + 36, ss_crc32c(ss_crc32c(0, p, 36), p + 40, packed));
    FILE *f = fopen(path, "w");
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    (void)fclose(f);
    free(bytes);
    assert_int_equal(read_in_child(&t, text, &signal_), 1);
    assert_non_null(strstr(text, "chain"));
    finish(&t);
}

/* Both ways out of a changed `committed` or `position` would lose changes: what was released at the source would be deleted,
 * or the source be asked for a later place. */
static void a_changed_place_is_refused(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    char path[200];
    append_random(&t, 1, 100);
    mark(&t, "position-one");
    flush_now(&t);
    test_spool_close(&t);
    first_file(&t, path);
    size_t len, found = 0;
    uint8_t *bytes = load(path, &len);
    for (size_t at = 0; at + 12 <= len; at++)
        if (memcmp(bytes + at, "position-one", 12) == 0) {
            flip(path, at + 9, 1); /* every copy that LMDB's pages hold */
            found++;
        }
    free(bytes);
    assert_true(found > 0);
    must(ss_spool_open(t.path, "s", &t.options, &t.spool, &t.err), &t);
    assert_int_equal(ss_log_open(t.spool, SS_LOG_STREAM, &t.log, &t.err), SS_STOP);
    assert_string_equal(t.err.code, SS_SPOOL_DAMAGED);
    assert_non_null(strstr(t.err.text, "crc"));
    assert_non_null(strstr(t.err.text, path));
    ss_spool_close(t.spool);
    finish(&t);
}

/* The writer dies while it makes the lock file, and a reader has waited for it: it finds a head of zeros. */
static void a_lock_file_half_made_is_made_anew(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    char path[200], text[SS_ERROR_TEXT];
    append_random(&t, 1, 100);
    mark(&t, "p");
    flush_now(&t);
    test_spool_close(&t);
    first_file(&t, path);
    strcat(path, "-lock");
    int ready[2], status, signal_;
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t holder = fork();
    if (holder == 0) {
        struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0660);
        if (fd < 0 || ftruncate(fd, 8192) != 0 || fcntl(fd, F_SETLK, &whole) != 0 || write(ready[1], &byte, 1) != 1)
            _exit(1);
        for (;;)
            (void)pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    pid_t killer = fork(); /* when the reader waits for the lock */
    if (killer == 0) {
        (void)usleep(300000);
        _exit(kill(holder, SIGKILL) == 0 ? 0 : 1);
    }
    int code = read_in_child(&t, text, &signal_);
    if (code != 2 || signal_ != 0) /* the child counts on 3,000 records and finds one; a refusal would be 1 */
        fail_msg("exit %d, signal %d: %s", code, signal_, text);
    assert_int_equal(waitpid(killer, &status, 0), killer);
    assert_int_equal(status, 0);
    assert_int_equal(waitpid(holder, &status, 0), holder);
    close(ready[0]);
    close(ready[1]);
    finish(&t);
}

static void see_cursor(void *ctx, const char *consumer, uint64_t copy, uint64_t stream) {
    assert_string_equal(consumer, "route");
    ((uint64_t *)ctx)[0] = copy;
    ((uint64_t *)ctx)[1] = stream;
}

static void a_damaged_cursor_keeps_everything(void **state) {
    (void)state;
    test_spool t = test_spool_begin(NULL);
    char path[200];
    ss_cursors *cursors;
    uint64_t seen[2] = {0, 0};
    must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
    must(ss_cursors_set(cursors, "route", SS_LOG_STREAM, 0x1122334455, true, &t.err), &t);
    must(ss_cursors_each(cursors, see_cursor, seen, &t.err), &t);
    assert_int_equal(seen[1], 0x1122334455);
    ss_cursors_close(cursors);
    (void)snprintf(path, sizeof(path), "%s/cursors.mdb", t.dir);
    size_t len;
    uint8_t *bytes = load(path, &len), value[5] = {0x55, 0x44, 0x33, 0x22, 0x11}, *at = memmem(bytes, len, value, sizeof(value));
    assert_non_null(at);
    flip(path, (size_t)(at - bytes) + 5, 0x40); /* much further on */
    free(bytes);
    must(ss_cursors_open(t.path, "s", &cursors, &t.err), &t);
    must(ss_cursors_each(cursors, see_cursor, seen, &t.err), &t);
    assert_int_equal(seen[1], 0);
    ss_cursors_close(cursors);
    test_spool_end(&t);
}

static void a_truncated_file_is_refused(void **state) {
    (void)state;
    test_spool t = make();
    char path[200], text[SS_ERROR_TEXT];
    int signal_;
    first_file(&t, path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    static const int parts[] = {99, 50, 2, 0};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        assert_int_equal(truncate(path, st.st_size * parts[i] / 100), 0);
        assert_int_equal(read_in_child(&t, text, &signal_), 1);
        assert_non_null(strstr(text, "truncated"));
        assert_non_null(strstr(text, path));
        assert_int_equal(verify(&t), SS_EXIT_NOT_SO);
    }
    finish(&t);
}

static void a_missing_segment_is_a_gap_or_damage(void **state) {
    (void)state;
    test_spool t = make();
    char path[200], text[SS_ERROR_TEXT];
    int signal_;
    ss_segment_names names = {0};
    ss_error err;
    assert_int_equal(ss_segment_list(t.dir, SS_LOG_STREAM, &names, &err), SS_OK);
    assert_true(names.count >= 3);
    char *middle = ss_segment_path(t.dir, SS_LOG_STREAM, names.items[1].first, names.items[1].generation);
    assert_int_equal(unlink(middle), 0);
    assert_int_equal(read_in_child(&t, text, &signal_), 1);
    assert_int_equal(verify(&t), SS_EXIT_NOT_SO);
    free(middle);
    char *newest = ss_segment_path(t.dir, SS_LOG_STREAM, names.items[names.count - 1].first, 0);
    assert_int_equal(unlink(newest), 0);
    free(newest);
    assert_int_equal(verify(&t), SS_EXIT_NOT_SO);
    assert_int_equal(ss_spool_open(t.path, "s", &t.options, &t.spool, &t.err), SS_OK);
    assert_int_equal(ss_log_open(t.spool, SS_LOG_STREAM, &t.log, &t.err), SS_STOP); /* never silently from an older state */
    assert_string_equal(t.err.code, SS_SPOOL_DAMAGED);
    ss_spool_close(t.spool);
    ss_segment_names_done(&names);
    first_file(&t, path);
    finish(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_damaged_frame_is_named),
        cmocka_unit_test(a_frame_of_another_history_is_refused),
        cmocka_unit_test(a_changed_place_is_refused),
        cmocka_unit_test(a_damaged_cursor_keeps_everything),
        cmocka_unit_test(a_lock_file_half_made_is_made_anew),
        cmocka_unit_test(a_truncated_file_is_refused),
        cmocka_unit_test(a_missing_segment_is_a_gap_or_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
