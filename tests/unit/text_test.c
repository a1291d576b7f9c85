/* needs: common */
/* Foreign text in our sentences, command lines, password files. Their sentences stand in tests/golden. */
#include "sidespool/args.h"
#include "sidespool/password.h"
#include "sidespool/text.h"
#include "unit/temp_testing.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static void shows_text_that_harms_no_terminal(void **state) {
    static const struct {
        const char *text, *shown;
    } cases[] = {{"", ""},
                 {"plain größe €", "plain größe €"},
                 {"\033[31mred\n\t\x7f", "\\x1b[31mred\\x0a\\x09\\x7f"},
                 {"\xff\xc3", "\\xff\\xc3"},
                 {"\xc2\x9b"
                  "31m",
                  "\\xc2\\x9b31m"},
                 {"\xed\xa0\x80", "\\xed\\xa0\\x80"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(SS_SHOWN(cases[i].text), cases[i].shown);
}

/* Whatever the length, no character is torn and nothing is written past the end. */
static void cuts_between_characters(void **state) {
    static const char *const units[] = {"a", "ö", "€", "\xf0\x9f\x90\x98", "\n"};
    (void)state;
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++)
        for (size_t count = 1; count < 300; count++) {
            char text[1300] = "", short_form[SS_SHOWN_BYTES], path[SS_SHOWN_PATH_BYTES];
            for (size_t i = 0; i < count; i++)
                memcpy(text + i * strlen(units[u]), units[u], strlen(units[u]) + 1);
            size_t width = strlen(units[u]) == 1 && units[u][0] == '\n' ? 4 : strlen(units[u]);
            assert_true(ss_utf8_good(ss_shown(text, short_form)));
            assert_true(ss_utf8_good(ss_shown_path(text, path)));
            assert_true(strlen(short_form) < SS_SHOWN_BYTES && strlen(path) < SS_SHOWN_PATH_BYTES);
            bool cut = width * count >= SS_SHOWN_BYTES, path_cut = width * count >= SS_SHOWN_PATH_BYTES;
            assert_int_equal(cut, strlen(short_form) > 3 && strcmp(short_form + strlen(short_form) - 3, "…") == 0);
            assert_int_equal(path_cut, strncmp(path, "…", 3) == 0);
        }
    char path[SS_SHOWN_PATH_BYTES], text[1000];
    memset(text, 'd', sizeof text);
    snprintf(text + 900, 100, "/orders.yaml");
    ss_shown_path(text, path);
    assert_string_equal(path + strlen(path) - 12, "/orders.yaml");
}

static void knows_what_was_meant(void **state) {
    static const struct {
        const char *word, *known;
        bool near;
    } cases[] = {{"statsu", "status", true},  {"STATUS", "status", true}, {"frobnicate", "status", false},
                 {"x", "ls", false},          {"", "ls", false},          {"maxsize", "max_size", true},
                 {"verbose", "version", false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t least = SIZE_MAX;
        assert_int_equal(ss_nearer(cases[i].word, cases[i].known, &least), cases[i].near);
    }
}

static void reads_options_between_words(void **state) {
    static const ss_arg_option options[] = {
        {"--route", 1, true, false}, {"--json", 2, false, false}, {"-h", 3, false, true}, {NULL, 0, false, false}};
    char *argv[] = {(char *)"p",     (char *)"a",     (char *)"--route", (char *)"-5", (char *)"--json",
                    (char *)"-",     (char *)"-h",    (char *)"--",      (char *)"--json", NULL};
    static const struct {
        int got;
        const char *value;
    } want[] = {{SS_ARG_WORD, "a"}, {1, "-5"}, {2, NULL}, {SS_ARG_WORD, "-"}, {3, NULL}, {SS_ARG_WORD, "--json"}};
    ss_args args;
    (void)state;
    ss_args_init(&args, 9, argv, 1, options);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_int_equal(ss_args_next(&args), want[i].got);
        assert_int_equal(args.value == NULL, want[i].value == NULL);
        if (want[i].value != NULL)
            assert_string_equal(args.value, want[i].value);
    }
    assert_int_equal(ss_args_next(&args), SS_ARG_END);
    assert_int_equal(args.seen, 1 << 1 | 1 << 2 | 1 << 3);
}

static void write_file(const char *path, const void *data, size_t len, mode_t mode) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

/* The first line, whatever ends it; nothing of a refused file stays in memory. */
static void takes_the_first_line_of_a_password_file(void **state) {
    static const struct {
        const char *text, *password; /* NULL: refused, for good unless empty */
    } cases[] = {{"geheim", "geheim"}, {"geheim\n", "geheim"}, {"geheim\r\nmore\n", "geheim"}, {" a b \n", " a b "},
                 {"123456789012345\n", "123456789012345"}, {"1234567890123456", NULL}, {"", NULL}, {"\ngeheim\n", NULL}};
    char path[200], got[16];
    (void)state;
    temp_name(path, sizeof path, "sidespool-password");
    assert_int_equal(close(mkstemp(path)), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ss_error err = {0};
        write_file(path, cases[i].text, strlen(cases[i].text), 0600);
        memset(got, 'x', sizeof got);
        ss_status wanted = cases[i].password != NULL ? SS_OK : cases[i].text[0] == '\0' ? SS_RETRY : SS_STOP;
        assert_int_equal(ss_password_read(path, "SS-PG-0002", got, sizeof got, &err), wanted);
        if (wanted == SS_OK)
            assert_string_equal(got, cases[i].password);
        else
            assert_memory_equal(got, ((char[16]){0}), sizeof got);
    }
    ss_error err = {0};
    assert_int_equal(chmod(path, 0604), 0);
    assert_int_equal(ss_password_read(path, "SS-PG-0002", got, sizeof got, &err), SS_STOP);
    assert_string_equal(err.code, "SS-PG-0002");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ss_password_read(path, "SS-PG-0002", got, sizeof got, &err), SS_STOP);
    assert_int_equal(err.sys_errno, ENOENT);
}

/* A program that is out of descriptors is not stopped for it. */
static void tries_a_password_file_again_that_could_not_be_opened(void **state) {
    char path[200], got[16];
    struct rlimit before, none;
    (void)state;
    temp_name(path, sizeof path, "sidespool-password");
    assert_int_equal(close(mkstemp(path)), 0);
    write_file(path, "geheim\n", 7, 0600);
    ss_error err = {0};
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    ss_status status = ss_password_read(path, "SS-PG-0002", got, sizeof got, &err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, SS_RETRY);
    assert_int_equal(err.sys_errno, EMFILE);
    assert_int_equal(unlink(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_text_that_harms_no_terminal), cmocka_unit_test(cuts_between_characters),
        cmocka_unit_test(knows_what_was_meant),              cmocka_unit_test(reads_options_between_words),
        cmocka_unit_test(takes_the_first_line_of_a_password_file),
        cmocka_unit_test(tries_a_password_file_again_that_could_not_be_opened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
