/* needs: cli_view */
/* The command: numbers for people, tables that line up, and every usage error word for word. */
#include "cli/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

static void durations(void **state) {
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0 s"},          {0.04, "<0.1 s"}, {0.46, "0.4 s"},     {9.99, "9.9 s"},
                 {12, "12 s"},        {59.9, "59 s"},   {200, "3 min 20 s"}, {7500, "2 h 5 min"},
                 {273600, "3 d 4 h"}, {-1, "-"}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(ss_format_duration(cases[i].seconds).text, cases[i].text);
}

static void sizes_and_counts(void **state) {
    (void)state;
    assert_string_equal(ss_format_bytes(0).text, "0 B");
    assert_string_equal(ss_format_bytes(1023).text, "1023 B");
    assert_string_equal(ss_format_bytes(1280).text, "1.2 KiB");
    assert_string_equal(ss_format_bytes(3.5 * 1024 * 1024 * 1024).text, "3.5 GiB");
    assert_string_equal(ss_format_bytes(200.0 * 1024 * 1024).text, "200 MiB");
    assert_string_equal(ss_format_count(0).text, "0");
    assert_string_equal(ss_format_count(999).text, "999");
    assert_string_equal(ss_format_count(1234567).text, "1,234,567");
    assert_string_equal(ss_format_count(-1234).text, "-1,234");
    assert_string_equal(ss_format_short(950).text, "950");
    assert_string_equal(ss_format_short(1250).text, "1.2k");
    assert_string_equal(ss_format_short(34999).text, "34k");
    assert_string_equal(ss_format_short(5600000).text, "5.6M");
}

static void times(void **state) {
    (void)state;
    (void)setenv("TZ", "UTC", 1);
    tzset();
    const int64_t noon = 1795176000LL * 1000000; /* 2026-11-20 12:00:00 */
    assert_string_equal(ss_format_time(noon - 5000000, noon).text, "11:59:55");
    assert_string_equal(ss_format_time(noon - 86400LL * 1000000, noon).text, "2026-11-19 12:00:00");
    assert_string_equal(ss_format_time(0, noon).text, "-");
}

static void seconds(void **state) {
    double got = -1;
    (void)state;
    assert_true(ss_parse_seconds("30", &got) && got == 30);
    assert_true(ss_parse_seconds("1.5", &got) && got == 1.5);
    assert_true(ss_parse_seconds("500ms", &got) && got == 0.5);
    assert_true(ss_parse_seconds("5m", &got) && got == 300);
    assert_true(ss_parse_seconds("2h", &got) && got == 7200);
    static const char *const bad[] = {
        "", "x", "-1", "1x", "1e9", "1 s", "1.2.3", "s", "1111111111111111111111"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(ss_parse_seconds(bad[i], &got));
}

static void tables_line_up(void **state) {
    ss_table table;
    ss_buf out;
    (void)state;
    ss_buf_init(&out);
    ss_table_init(&table, 3);
    table.right[1] = true;
    ss_table_row(&table);
    ss_table_set(&table, 0, SS_DIM, "NAME");
    ss_table_set(&table, 1, SS_DIM, "N");
    ss_table_set(&table, 2, SS_DIM, "LAST");
    ss_table_row(&table);
    ss_table_set(&table, 0, SS_PLAIN, "größer");
    ss_table_set(&table, 1, SS_PLAIN, "%d", 1234);
    ss_table_set(&table, 2, SS_PLAIN, "x");
    ss_table_print(&table, "", false, &out);
    assert_string_equal(ss_buf_cstr(&out), "NAME       N  LAST\n"
                                           "größer  1234  x\n");
    ss_buf_clear(&out);
    ss_table_print(&table, "", true, &out);
    assert_non_null(strstr(ss_buf_cstr(&out), "\033[2mNAME\033[0m"));
    ss_table_done(&table);
    ss_buf_done(&out);
}

/* Word for word: people and scripts meet these first. */
static void usage_errors(void **state) {
    static const struct {
        const char *words[6];
        const char *text;
    } cases[] = {
        {{NULL}, "sidespool: A command is missing.\nTry: sidespool --help\n"},
        {{"statsu"},
         "sidespool: There is no command \"statsu\"; did you mean \"status\"?\nTry: sidespool "
         "--help\n"},
        {{"nonsense"}, "sidespool: There is no command \"nonsense\".\nTry: sidespool --help\n"},
        {{"status", "--rote", "x"},
         "sidespool: There is no option \"--rote\"; did you mean --route?\nTry: sidespool --help\n"},
        {{"status", "--config"}, "sidespool: --config wants a value.\nTry: sidespool --help\n"},
        {{"status", "extra"},
         "sidespool: status: \"extra\" is one word too many.\nUsage: sidespool status [--json] "
         "[--watch]\n"},
        {{"wait"},
         "sidespool: wait: --route is missing.\nUsage: sidespool wait --route R [--timeout S]\n"},
        {{"wait", "--route", "r", "--timeout", "soon"},
         "sidespool: --timeout wants seconds or a duration such as 30, 90s or 5m, up to 1000d, not \"soon\".\n"
         "Try: sidespool --help\n"},
        {{"pause", "--route", "r", "--json"},
         "sidespool: pause: takes no --json.\nUsage: sidespool pause --route R\n"},
        {{"replay", "--route", "r"},
         "sidespool: replay: --from is missing.\nUsage: sidespool replay --route R --from SEQ [--force]\n"},
        {{"replay", "--route", "r", "--from", "0"},
         "sidespool: --from wants a sequence, 1 or more, not \"0\".\nTry: sidespool --help\n"},
        {{"explain"}, "sidespool: explain: CODE is missing.\nUsage: sidespool explain CODE\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *argv[8] = {(char *)"sidespool"};
        int argc = 1;
        for (; argc <= 6 && cases[i].words[argc - 1]; argc++)
            argv[argc] = (char *)(uintptr_t)cases[i].words[argc - 1];
        ss_cli_args args;
        ss_buf out;
        ss_buf_init(&out);
        assert_false(ss_cli_parse(argc, argv, &args, &out));
        assert_string_equal(ss_buf_cstr(&out), cases[i].text);
        ss_buf_done(&out);
    }
}

static void options_before_or_after(void **state) {
    char *after[] = {(char *)"sidespool", (char *)"verify",   (char *)"public.a",
                     (char *)"--config",  (char *)"f.yaml",   (char *)"--route",
                     (char *)"r",         (char *)"public.b", NULL};
    char *before[] = {
        (char *)"sidespool", (char *)"--config=f.yaml", (char *)"--route",  (char *)"r",
        (char *)"verify",    (char *)"public.a",        (char *)"public.b", NULL};
    char *spool[] = {(char *)"sidespool", (char *)"--config", (char *)"spool",
                     (char *)"spool",     (char *)"ls",       NULL};
    ss_cli_args args;
    ss_buf out;
    (void)state;
    ss_buf_init(&out);
    for (int i = 0; i < 2; i++) {
        assert_true(ss_cli_parse(i ? 7 : 8, i ? before : after, &args, &out));
        assert_string_equal(args.command, "verify");
        assert_string_equal(args.config, "f.yaml");
        assert_string_equal(args.route, "r");
        assert_int_equal(args.word_count, 2);
        assert_string_equal(args.words[1], "public.b");
    }
    assert_int_equal(ss_cli_find_spool(5, spool), 3);
    assert_int_equal(ss_cli_find_spool(7, before), 0);
    ss_buf_done(&out);
}

static void each_command_has_a_help_of_its_own(void **state) {
    static const char *const names[] = {"status", "wait",   "pause",  "resume",
                                        "resync", "verify", "replay", "explain"};
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *argv[] = {(char *)"sidespool", (char *)(uintptr_t)names[i], (char *)"--help", NULL};
        char usage[64];
        ss_cli_args args;
        ss_buf out;
        ss_buf_init(&out);
        assert_true(ss_cli_parse(3, argv, &args, &out));
        assert_true(args.help);
        ss_cli_usage(args.command, &out);
        (void)snprintf(usage, sizeof(usage), "Usage: sidespool %s", names[i]);
        assert_memory_equal(ss_buf_cstr(&out), usage, strlen(usage));
        assert_non_null(strstr(ss_buf_cstr(&out), "--config FILE"));
        ss_buf_done(&out);
    }
}

static void a_route_without_its_agent_is_not_green(void **state) {
    (void)state;
    json_t *status = json_loads(
        "{\"now\":1,\"routes\":[{\"route\":\"r\",\"state\":\"streaming\",\"tables\":{\"ready\":1,"
        "\"total\":1},\"agent\":{\"state\":\"halted\"}}],\"troubles\":[]}",
        0, NULL);
    ss_buf out;
    ss_buf_init(&out);
    ss_view_status(status, true, &out);
    assert_non_null(strstr(ss_buf_cstr(&out), "\033[33mstreaming (no news)\033[0m"));
    assert_non_null(strstr(ss_buf_cstr(&out), "\033[31mhalted\033[0m"));
    ss_buf_done(&out);
    json_decref(status);
}

static void status_for_people(void **state) {
    (void)state;
    json_t *status = json_loads(
        "{\"now\":1795176000000000,\"routes\":[{\"route\":\"orders-copy\",\"source\":\"orders\","
        "\"state\":\"streaming\","
        "\"reason\":\"\",\"tables\":{\"ready\":12,\"total\":12},\"lag_seconds\":0.0,\"as_of\":"
        "1795175995000000,"
        "\"behind_records\":0,\"behind_bytes\":0,\"rate\":1250.0,\"eta_seconds\":0.0,\"copy\":null,"
        "\"agent\":{\"state\":\"streaming\"}},"
        "{\"route\":\"shop\",\"source\":\"shop\",\"state\":\"copying\",\"reason\":\"\",\"tables\":{"
        "\"ready\":1,\"total\":4},"
        "\"lag_seconds\":null,\"as_of\":null,\"behind_records\":5000,\"behind_bytes\":2048,"
        "\"rate\":0.0,"
        "\"eta_seconds\":90.0,\"copy\":{\"rows\":420,\"rows_estimate\":1000,\"bytes\":2048,\"rows_"
        "per_second\":7.0,"
        "\"eta_seconds\":82.0},\"agent\":{\"state\":\"absent\"}}],"
        "\"troubles\":[{\"kind\":\"agent_absent\",\"text\":\"No agent is "
        "running.\",\"remedy\":\"start it\"}]}",
        0, NULL);
    ss_buf out;
    assert_non_null(status);
    ss_buf_init(&out);
    (void)setenv("TZ", "UTC", 1);
    tzset();
    ss_view_status(status, false, &out);
    assert_string_equal(
        ss_buf_cstr(&out),
        "ROUTE        STATE      TABLES  LAG     AS-OF           BEHIND    RATE         ETA  "
        "AGENT\n"
        "orders-copy  streaming   12/12  0 s  11:59:55                0  1.2k/s           -  "
        "streaming\n"
        "shop         copying       1/4    -         -  5,000 (2.0 KiB)     0/s  1 min 30 s  "
        "absent\n"
        "shop: copy 42 %, 420 of about 1.0k rows, 2.0 KiB, 7 rows/s, about 1 min 22 s left\n"
        "\n"
        "! No agent is running. -> start it\n");
    ss_buf_clear(&out);
    ss_view_status(status, true, &out);
    assert_non_null(strstr(ss_buf_cstr(&out), "[##########..............] 42 %"));
    ss_buf_done(&out);
    json_decref(status);
}

static void verify_for_people_and_programs(void **state) {
    (void)state;
    json_t *result = json_loads("{\"equal\":false,\"tables\":[{\"table\":\"public.t\",\"equal\":"
                                "false,\"source_rows\":5000,\"target_rows\":4999,"
                                "\"missing\":1,\"extra\":0,\"different\":1,\"rows\":[{\"kind\":"
                                "\"missing\",\"key\":\"id=4321\"},"
                                "{\"kind\":\"different\",\"key\":\"id=77\"}],\"note\":\"\"},"
                                "{\"table\":\"public.log\",\"equal\":true,\"source_rows\":10,"
                                "\"target_rows\":10,\"missing\":0,\"extra\":0,"
                                "\"different\":0,\"rows\":[],\"note\":\"\"}]}",
                                0, NULL);
    ss_buf out;
    ss_buf_init(&out);
    json_t *document = ss_verify_document(result);
    json_t *table = json_array_get(json_object_get(document, "tables"), 0);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(table, "different"), "count")), 1);
    assert_string_equal(json_string_value(json_array_get(
                            json_object_get(json_object_get(table, "missing"), "keys"), 0)),
                        "id=4321");
    ss_cli_args args = {.route = "orders", .config = "a.yaml", .config_given = true};
    ss_view_verify(document, &args, false, &out);
    assert_string_equal(
        ss_buf_cstr(&out),
        "TABLE       SOURCE  TARGET  MISSING  EXTRA  DIFFERENT  RESULT\n"
        "public.t     5,000   4,999        1      0          1  DIFFERS\n"
        "public.log      10      10        0      0          0  equal\n"
        "public.t: missing: id=4321\n"
        "public.t: different: id=77\n"
        "1 of 2 tables differs; copy it anew with: sidespool resync --route orders public.t --config "
        "a.yaml\n");
    json_t *one = json_loads("{\"equal\":true,\"tables\":[{\"table\":\"public.t\",\"equal\":true}]}",
                             0, NULL);
    json_t *equal = ss_verify_document(one);
    ss_buf_clear(&out);
    ss_view_verify(equal, &args, false, &out);
    assert_non_null(strstr(ss_buf_cstr(&out), "1 table is equal in every cell.\n"));
    json_decref(equal);
    json_decref(one);
    ss_buf_done(&out);
    json_decref(document);
    json_decref(result);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes_and_counts),
        cmocka_unit_test(times),
        cmocka_unit_test(seconds),
        cmocka_unit_test(tables_line_up),
        cmocka_unit_test(usage_errors),
        cmocka_unit_test(options_before_or_after),
        cmocka_unit_test(each_command_has_a_help_of_its_own),
        cmocka_unit_test(a_route_without_its_agent_is_not_green),
        cmocka_unit_test(status_for_people),
        cmocka_unit_test(verify_for_people_and_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
