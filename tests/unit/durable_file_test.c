/* needs: agent */
/* Small durable files: what stands there afterwards, and that a failure leaves the old content whole. */
#include "agents/durable_file.h"
#include "unit/temp_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define CODE "SS-AGENT-0010"

static char dir[200];

static int make_dir(void **state) {
    (void)state;
    temp_name(dir, sizeof dir, "sidespool-durable");
    return mkdtemp(dir) == NULL;
}

static const char *path_of(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int remove_dir(void **state) {
    static const char *const names[] = {"a", "a.new"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)(rmdir(path_of(names[i])) == 0 || unlink(path_of(names[i])) == 0);
    return rmdir(dir);
}

static void holds(const char *want) {
    char got[64] = "";
    FILE *in = fopen(path_of("a"), "r");
    assert_non_null(in);
    got[fread(got, 1, sizeof got - 1, in)] = '\0';
    fclose(in);
    assert_string_equal(got, want);
}

static ss_bytes text(const char *content) {
    return ss_bytes_str(content);
}

static void replaces_and_appends(void **state) {
    ss_error err = {0};
    struct stat st;
    (void)state;
    assert_int_equal(ss_durable_replace(dir, "a", text("a longer line\n"), CODE, &err), SS_OK);
    holds("a longer line\n");
    assert_int_equal(ss_durable_replace(dir, "a", text("short\n"), CODE, &err), SS_OK);
    holds("short\n");
    assert_int_equal(ss_durable_append(dir, "a", text("more\n"), CODE, &err), SS_OK);
    holds("short\nmore\n");
    assert_int_equal(ss_durable_replace(dir, "a", SS_BYTES_NONE, CODE, &err), SS_OK);
    holds("");
    assert_int_equal(unlink(path_of("a")), 0);
    assert_int_equal(ss_durable_append(dir, "a", text("first\n"), CODE, &err), SS_OK);
    holds("first\n");
    assert_int_equal(stat(path_of("a"), &st), 0);
    assert_int_equal(st.st_mode & 0117, 0); /* the group of agent and applier, nobody else */
    assert_int_equal(stat(path_of("a.new"), &st), -1);
}

/* What a crash left under the other name is in nobody's way. */
static void writes_over_what_a_crash_left(void **state) {
    ss_error err = {0};
    FILE *left = fopen(path_of("a.new"), "w");
    (void)state;
    assert_non_null(left);
    assert_true(fputs("half of something that was much longer", left) >= 0);
    assert_int_equal(fclose(left), 0);
    assert_int_equal(ss_durable_replace(dir, "a", text("whole\n"), CODE, &err), SS_OK);
    holds("whole\n");
}

static void keeps_the_old_content_when_it_fails(void **state) {
    static const rlim_t most[] = {0, 3}; /* nothing can be written; only a part */
    ss_error err = {0};
    struct rlimit before;
    char large[8] = "1234567";
    (void)state;
    assert_int_equal(ss_durable_replace(dir, "a", text("old\n"), CODE, &err), SS_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    for (size_t i = 0; i < sizeof most / sizeof most[0]; i++) {
        struct rlimit limit = {most[i], before.rlim_max};
        err = (ss_error){0};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ss_status status = ss_durable_replace(dir, "a", text(large), CODE, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, SS_RETRY);
        assert_string_equal(err.code, CODE);
        assert_non_null(strstr(err.text, "a.new"));
        holds("old\n");
    }
    assert_int_equal(unlink(path_of("a")), 0);
    assert_int_equal(mkdir(path_of("a"), 0700), 0); /* rename refuses to put a file in a folder's place */
    assert_int_equal(ss_durable_replace(dir, "a", text("new\n"), CODE, &err), SS_RETRY);
    assert_non_null(strstr(err.text, "rename to"));
    assert_int_equal(ss_durable_append(path_of("nowhere"), "a", text("new\n"), CODE, &err), SS_RETRY);
    assert_int_equal(err.sys_errno, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(replaces_and_appends, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(writes_over_what_a_crash_left, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(keeps_the_old_content_when_it_fails, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
