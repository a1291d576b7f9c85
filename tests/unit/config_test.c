/* needs: common */
/* The configuration reader: what it takes, and the exact sentence for each thing that it does not.
 */
#include "sidespool/option.h"
#include "unit/temp_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct {
    const char *dsn, *publication;
    int64_t port;
    bool present;
} pg;
typedef struct {
    const char *source, *name;
    struct {
        bool present;
        pg postgres;
    } target;
    int deletes;
} route;
typedef struct {
    const char *source;
    pg postgres;
    ss_strings include;
    uint64_t max_size, retain;
    bool adopt;
    int on_gap;
    ss_list routes;
    ss_place retain_place;
} conf;

static const ss_option pg_options[] = {{.key = "dsn",
                                        .type = SS_OPT_STRING,
                                        .offset = offsetof(pg, dsn),
                                        .required = true,
                                        .help = "how to connect"},
                                       {.key = "publication",
                                        .type = SS_OPT_STRING,
                                        .offset = offsetof(pg, publication),
                                        .deflt = "sidespool"},
                                       {.key = "port",
                                        .type = SS_OPT_INT,
                                        .offset = offsetof(pg, port),
                                        .min = 1,
                                        .max = 65535,
                                        .deflt = "5432"},
                                       {0}};
static const ss_option target_options[] = {
    {.key = "postgres",
     .type = SS_OPT_BLOCK,
     .offset = offsetof(route, target.postgres) - offsetof(route, target),
     .children = pg_options,
     .present_offset = offsetof(route, target.postgres.present) - offsetof(route, target)},
    {0}};
static const ss_option route_options[] = {
    {.key = "source", .type = SS_OPT_STRING, .offset = offsetof(route, source), .required = true},
    {.key = "name", .type = SS_OPT_STRING, .offset = offsetof(route, name), .help = "unique name"},
    {.key = "target",
     .type = SS_OPT_BLOCK,
     .offset = offsetof(route, target),
     .required = true,
     .children = target_options},
    {.key = "deletes",
     .type = SS_OPT_ENUM,
     .offset = offsetof(route, deletes),
     .choices = "apply|!ignore",
     .deflt = "apply"},
    {0}};
static const ss_option options[] = {
    {.key = "source",
     .type = SS_OPT_STRING,
     .offset = offsetof(conf, source),
     .required = true,
     .help = "unique name"},
    {.key = "postgres",
     .type = SS_OPT_BLOCK,
     .offset = offsetof(conf, postgres),
     .children = pg_options,
     .present_offset = offsetof(conf, postgres.present)},
    {.key = "include",
     .type = SS_OPT_STRINGS,
     .offset = offsetof(conf, include),
     .deflt = "[\"public.*\", b]"},
    {.key = "max_size",
     .type = SS_OPT_SIZE,
     .offset = offsetof(conf, max_size),
     .deflt = "64GiB",
     .min = 1024},
    {.key = "retain",
     .type = SS_OPT_DURATION,
     .offset = offsetof(conf, retain),
     .deflt = "24h",
     .place_offset = offsetof(conf, retain_place)},
    {.key = "adopt", .type = SS_OPT_BOOL, .offset = offsetof(conf, adopt)},
    {.key = "on_gap",
     .type = SS_OPT_ENUM,
     .offset = offsetof(conf, on_gap),
     .choices = "halt|resync",
     .deflt = "halt",
     .help = "what a gap is answered by"},
    {.key = "routes",
     .type = SS_OPT_LIST,
     .offset = offsetof(conf, routes),
     .children = route_options,
     .child_size = sizeof(route)},
    {.key = "mask", .type = SS_OPT_UNSUPPORTED},
    {0}};

static char path[64];

static void write_file(const void *text, size_t len) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static ss_config *load(const char *text, conf *ret) {
    ss_config *config = NULL;
    ss_error err = {0};

    memset(ret, 0, sizeof *ret);
    write_file(text, strlen(text));
    if (ss_config_load(path, options, ret, &config, &err) != SS_OK)
        fail_msg("%s: refused: %s", text, err.text);
    return config;
}

static int mismatches;

/* `want` is what follows "FILE:" or, without a place, the sentence with FILE as @. */
static void refuses(const char *text, size_t len, const char *code, const char *want) {
    ss_config *config = NULL;
    ss_error err = {0};
    conf c = {0};
    char full[1024];

    write_file(text, len);
    ss_status status = ss_config_load(path, options, &c, &config, &err);
    if (status != SS_STOP)
        fail_msg("not refused: %s", text);
    const char *at = strchr(want, '@');
    if (at != NULL)
        snprintf(full, sizeof full, "%.*s%s%s", (int)(at - want), want, path, at + 1);
    else
        snprintf(full, sizeof full, "%s:%s", path, want);
    if (strcmp(err.text, full) != 0 || strcmp(err.code, code) != 0) {
        print_error("said:   %s %s\nwanted: %s %s\n", err.code, err.text, code, full);
        mismatches++;
    }
    assert_null(config);
}

static void takes_everything(void **state) {
    static const char *const forms[] = {
        "source: orders\n"
        "postgres:\n  dsn: \"host=/run dbname=o\"\n  port: 6000\n"
        "include:\n  - public.*\n  - \"crm.*\"\n"
        "max_size: 3MiB\nretain: 90m\nadopt: true\non_gap: resync\n"
        "routes:\n  - source: a\n    target:\n      postgres:\n        dsn: x\n  - {source: b, "
        "name: bb, target: {}}\n",
        "{source: orders, postgres: {dsn: 'host=/run dbname=o', port: 6000}, include: [public.*, "
        "\"crm.*\"], max_size: 3MiB,\n"
        "retain: 90m, adopt: true, on_gap: resync, routes: [{source: a, target: {postgres: {dsn: "
        "x}}},\n"
        "{source: b, name: bb, target: {}}]}\n"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        conf c;
        ss_config *config = load(forms[i], &c);
        assert_string_equal(c.source, "orders");
        assert_true(c.postgres.present);
        assert_string_equal(c.postgres.dsn, "host=/run dbname=o");
        assert_string_equal(c.postgres.publication, "sidespool");
        assert_int_equal(c.postgres.port, 6000);
        assert_int_equal(c.include.count, 2);
        assert_string_equal(c.include.items[0], "public.*");
        assert_string_equal(c.include.items[1], "crm.*");
        assert_int_equal(c.max_size, 3u << 20);
        assert_int_equal(c.retain, 90 * 60000);
        assert_true(c.adopt);
        assert_int_equal(c.on_gap, 1);
        assert_int_equal(c.routes.count, 2);
        const route *r = c.routes.items;
        assert_string_equal(r[0].source, "a");
        assert_null(r[0].name);
        assert_true(r[0].target.postgres.present);
        assert_string_equal(r[0].target.postgres.dsn, "x");
        assert_int_equal(r[0].target.postgres.port, 5432);
        assert_string_equal(r[1].name, "bb");
        assert_false(r[1].target.postgres.present);
        char want[256];
        snprintf(want, sizeof want, "%s:%d:%d", path, i == 0 ? 9 : 2, 9);
        assert_string_equal(ss_config_place(config, c.retain_place), want);
        ss_config_free(config);
    }
    ss_config_free(NULL);
}

static void sets_defaults(void **state) {
    conf c;
    ss_config *config = load("# a comment\nsource: 17\n", &c);

    (void)state;
    assert_string_equal(c.source, "17");
    assert_false(c.postgres.present);
    assert_null(c.postgres.dsn); /* required inside a block that is not there */
    assert_int_equal(c.postgres.port, 5432);
    assert_int_equal(c.include.count, 2);
    assert_string_equal(c.include.items[0], "public.*");
    assert_string_equal(c.include.items[1], "b");
    assert_int_equal(c.max_size, 64ull << 30);
    assert_int_equal(c.retain, 86400000);
    assert_int_equal(c.on_gap, 0);
    assert_int_equal(c.routes.count, 0);
    assert_string_equal(ss_config_place(config, c.retain_place), path);
    ss_config_free(config);
    config = load("source: a\ninclude: []\nroutes: []\n", &c);
    assert_int_equal(c.include.count, 0);
    assert_int_equal(c.routes.count, 0);
    ss_config_free(config);
}

static void takes_sizes_and_durations(void **state) {
    static const struct {
        const char *text;
        uint64_t size;
    } sizes[] = {{"1024", 1024},
                 {"2048B", 2048},
                 {"100KiB", 102400},
                 {"1TiB", 1ull << 40},
                 {"8388607TiB", 8388607ull << 40}};
    static const struct {
        const char *text;
        uint64_t ms;
    } durations[] = {{"0", 0},       {"200ms", 200},    {"30s", 30000},
                     {"5m", 300000}, {"24h", 86400000}, {"2d", 172800000}};
    char text[128];
    conf c;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(text, sizeof text, "source: a\nmax_size: %s\n", sizes[i].text);
        ss_config_free(load(text, &c));
        assert_int_equal(c.max_size, sizes[i].size);
    }
    for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++) {
        snprintf(text, sizeof text, "source: a\nretain: \"%s\"\n", durations[i].text);
        ss_config_free(load(text, &c));
        assert_int_equal(c.retain, durations[i].ms);
    }
}

#define SIZE_FORM                                                                                  \
    "wants a size such as 64GiB, 256MiB, 100KiB or 512B (whole numbers, these units), not "
#define TIME_FORM                                                                                  \
    "wants a duration such as 24h, 5m, 30s, 200ms or 2d (a whole number and its unit), not "

static const struct {
    const char *text, *code, *want;
} refused[] = {
    {"sorce: a\n", "SS-CFG-0009", "1:1: the key `sorce` is not known; did you mean `source`?"},
    {"source: a\npostgres:\n  dsn: x\n  publicaton: p\n", "SS-CFG-0009",
     "4:3: the key `postgres.publicaton` is not known; did you mean `publication`?"},
    {"source: a\nroutes:\n- source: b\n- {taget: {}}\n", "SS-CFG-0014",
     "3:3: the block `routes[0]` lacks its required key `target`; add it"},
    {"source: a\nroutes:\n- {taget: {}}\n", "SS-CFG-0009",
     "3:4: the key `routes[0].taget` is not known; did you mean `target`?"},
    {"source: a\nMAX_SIZE: 1\n", "SS-CFG-0009",
     "2:1: the key `MAX_SIZE` is not known; did you mean `max_size`?"},
    {"source: a\npostgres: {dns: x}\n", "SS-CFG-0009",
     "2:12: the key `postgres.dns` is not known; did you mean `dsn`?"},
    {"source: a\npostgres: {quorum: x}\n", "SS-CFG-0009",
     "2:12: the key `postgres.quorum` is not known; known here are `dsn`, `publication`, `port`"},
    {"source: a\n<<: {}\n", "SS-CFG-0009",
     "2:1: the key `<<` is not known; known here are `source`, `postgres`, `include`, `max_size`, "
     "`retain`, `adopt`, `on_gap`, "
     "`routes`"},
    {"source: a\nmask: {key_file: k}\n", "SS-CFG-0010",
     "2:1: `mask` is not supported yet by this version; remove the key"},
    {"source: a\nroutes: [{source: b, target: {}, deletes: ignore}]\n", "SS-CFG-0010",
     "2:43: `routes[0].deletes` is `ignore`, which is not supported yet by this version; choose "
     "another value"},
    {"source: a\nadopt: true\nsource: b\n", "SS-CFG-0008",
     "3:1: the key `source` stands twice, first at line 1 column 1; remove one"},
    {"source: a\npostgres: {dsn: x, dsn: y}\n", "SS-CFG-0008",
     "2:20: the key `postgres.dsn` stands twice, first at line 2 column 12; remove one"},
    {"adopt: true\n", "SS-CFG-0014", "1:1: the required key `source` is missing; add it (unique name)"},
    {"source: a\npostgres:\n  port: 5\n", "SS-CFG-0014",
     "3:3: the block `postgres` lacks its required key `dsn`; add it (how to connect)"},
    {"source:\n", "SS-CFG-0011", "1:8: `source` has no value; give it one or remove the key"},
    {"source: ~\n", "SS-CFG-0011", "1:9: `source` has no value; give it one or remove the key"},
    {"source: ''\n", "SS-CFG-0012", "1:9: `source` is empty; give it a value"},
    {"source: \"a\\0b\"\n", "SS-CFG-0012",
     "1:9: `source` holds a NUL byte, which no value here can have"},
    {"source: [a]\n", "SS-CFG-0011", "1:9: `source` wants a single value, but here stands a list"},
    {"source: {a: b}\n", "SS-CFG-0011",
     "1:9: `source` wants a single value, but here stands a block of keys"},
    {"source: a\ninclude: public.*\n", "SS-CFG-0011",
     "2:10: `include` wants a list, such as [a, b], but here stands a single value"},
    {"source: a\ninclude:\n", "SS-CFG-0011",
     "2:9: `include` wants a list, such as [a, b], but here stands nothing"},
    {"source: a\ninclude: [a, [b]]\n", "SS-CFG-0011",
     "2:14: `include[1]` wants a single value, but here stands a list"},
    {"source: a\ninclude: [a, ]\npostgres: x\n", "SS-CFG-0011",
     "3:11: `postgres` wants a block of keys, but here stands a single value; it needs `dsn`"},
    {"source: a\npostgres:\n", "SS-CFG-0011",
     "2:10: `postgres` wants a block of keys, but here stands nothing; it needs `dsn`"},
    {"source: a\nroutes: {source: b}\n", "SS-CFG-0011",
     "2:9: `routes` wants a list of blocks (each begins with `- `), but here stands a block of "
     "keys"},
    {"source: a\nroutes: [b]\n", "SS-CFG-0011",
     "2:10: `routes[0]` wants a block of keys, but here stands a single value"},
    {"source: a\n[b]: c\n", "SS-CFG-0011",
     "2:1: a key must be a single word, but here stands a list"},
    {"source: a\nadopt: yes\n", "SS-CFG-0012", "2:8: `adopt` wants true or false, not `yes`"},
    {"source: a\non_gap: skip\n", "SS-CFG-0012",
     "2:9: `on_gap` wants one of `halt`, `resync`, not `skip`"},
    {"source: a\nroutes: [{source: b, target: {}, deletes: keep}]\n", "SS-CFG-0012",
     "2:43: `routes[0].deletes` wants one of `apply`, not `keep`"},
    {"source: a\npostgres: {dsn: x, port: 70000}\n", "SS-CFG-0013",
     "2:26: `postgres.port` is 70000, but must lie between 1 and 65535"},
    {"source: a\npostgres: {dsn: x, port: -1}\n", "SS-CFG-0013",
     "2:26: `postgres.port` is -1, but must lie between 1 and 65535"},
    {"source: a\npostgres: {dsn: x, port: 99999999999999999999}\n", "SS-CFG-0013",
     "2:26: `postgres.port` is 99999999999999999999, but must lie between 1 and 65535"},
    {"source: a\npostgres: {dsn: x, port: 0x10}\n", "SS-CFG-0012",
     "2:26: `postgres.port` wants a whole number, not `0x10`"},
    {"source: a\npostgres: {dsn: x, port: 5432.0}\n", "SS-CFG-0012",
     "2:26: `postgres.port` wants a whole number, not `5432.0`"},
    {"source: a\nmax_size: 64GB\n", "SS-CFG-0012", "2:11: `max_size` " SIZE_FORM "`64GB`"},
    {"source: a\nmax_size: 1.5GiB\n", "SS-CFG-0012", "2:11: `max_size` " SIZE_FORM "`1.5GiB`"},
    {"source: a\nmax_size: -1\n", "SS-CFG-0012", "2:11: `max_size` " SIZE_FORM "`-1`"},
    {"source: a\nmax_size: 16777216TiB\n", "SS-CFG-0013",
     "2:11: `max_size` is 16777216TiB, which is more than can be counted; choose a smaller size"},
    {"source: a\nmax_size: 18446744073709551616\n", "SS-CFG-0013",
     "2:11: `max_size` is 18446744073709551616, which is more than can be counted; choose a "
     "smaller size"},
    {"source: a\nmax_size: 12B\n", "SS-CFG-0013",
     "2:11: `max_size` is 12B, but must be at least 1KiB"},
    {"source: a\nretain: 24\n", "SS-CFG-0012", "2:9: `retain` " TIME_FORM "`24`"},
    {"source: a\nretain: 1h30m\n", "SS-CFG-0012", "2:9: `retain` " TIME_FORM "`1h30m`"},
    {"source: a\nretain: 999999999999999d\n", "SS-CFG-0013",
     "2:9: `retain` is 999999999999999d, which is more than can be counted; choose a smaller "
     "duration"},
    {"source: &x a\n", "SS-CFG-0007",
     "1:9: anchors and aliases (`&x`) are not taken here; write the value out, or put a text that "
     "begins with & or * in quotes"},
    {"source: a\ninclude: [*x]\n", "SS-CFG-0007",
     "2:11: anchors and aliases (`*x`) are not taken here; write the value out, or put a text that "
     "begins with & or * in quotes"},
    {"source: !!str a\n", "SS-CFG-0007",
     "1:9: YAML tags (`tag:yaml.org,2002:str`) are not taken here; remove the tag, or put a text that "
     "begins with ! in quotes"},
    {"source: a\n---\nsource: b\n", "SS-CFG-0007",
     "2:1: a second document begins here; keep one document in a file"},
    {"source: a\npostgres: {dsn: x\n", "SS-CFG-0006",
     "2:11: the block that begins here with { lacks its } or a comma; what stands at line 3 column 1 does "
     "not belong in it"},
    {"source: a\n\tadopt: true\n", "SS-CFG-0006",
     "2:1: a tab stands here; indent with spaces, YAML takes no tabs"},
    {"source: \"a\n", "SS-CFG-0006",
     "1:9: the quote that begins here is not closed"},
    {"source: a\nadopt: \x01\n", "SS-CFG-0006",
     "2:8: the control character 0x01 stands here; remove it, or write it as an escape in double quotes"},
    {"- a\n", "SS-CFG-0011",
     "1:1: the file wants `key: value` lines at its top, with a space behind the colon, but here stands a list"},
    {"orders\n", "SS-CFG-0011",
     "1:1: the file wants `key: value` lines at its top, with a space behind the colon, but here stands a "
     "single value"},
    {"source: gr\xc3\xb6\xc3\x9f\x65\nadopt: \xff\n", "SS-CFG-0005",
     "2:8: the byte 0xff here is not UTF-8; save the file as UTF-8"},
    {"source: gr\xc3\xb6 \xed\xa0\x80\n", "SS-CFG-0005",
     "1:13: the byte 0xed here is not UTF-8; save the file as UTF-8"},
    {"# nothing\n\n", "SS-CFG-0003",
     "the configuration file @ holds no keys; it needs `source`"},
    {"---\n", "SS-CFG-0003",
     "the configuration file @ holds no keys; it needs `source`"},
    {"", "SS-CFG-0003", "the configuration file @ holds no keys; it needs `source`"},
};

static void refuses_with_place_and_remedy(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        refuses(refused[i].text, strlen(refused[i].text), refused[i].code, refused[i].want);
    char *big = malloc((1 << 20) + 2);
    memset(big, '#', (1 << 20) + 2);
    refuses(big, (1 << 20) + 1, "SS-CFG-0004",
            "the configuration file @ is larger than 1 MiB; check that it is the right file");
    free(big);
    assert_int_equal(mismatches, 0);
}

static void loads_failing(const char *file, const char *code, const char *want) {
    ss_config *config = NULL;
    ss_error err = {0};
    conf c = {0};

    assert_int_equal(ss_config_load(file, options, &c, &config, &err), SS_STOP);
    assert_string_equal(err.code, code);
    if (strstr(err.text, want) == NULL)
        fail_msg("%s", err.text);
}

static void refuses_what_is_no_file(void **state) {
    char fifo[80];

    (void)state;
    loads_failing("/nonexistent/x.yaml", "SS-CFG-0001",
                  "there is no configuration file /nonexistent/x.yaml");
    loads_failing("/tmp", "SS-CFG-0002", "/tmp is a directory; name the configuration file in it");
    loads_failing("/dev/null", "SS-CFG-0002", "/dev/null is not a regular file");
    snprintf(fifo, sizeof fifo, "%s.fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    loads_failing(fifo, "SS-CFG-0002", "is not a regular file");
    unlink(fifo);
    write_file("source: a\n", 10);
    chmod(path, 0);
    if (geteuid() != 0)
        loads_failing(path, "SS-CFG-0001", "may not be read by this user");
    chmod(path, 0600);
}

static void refuses_a_bad_default(void **state) {
    static const ss_option wrong[] = {
        {.key = "n", .type = SS_OPT_INT, .offset = 0, .deflt = "many"}, {0}};
    ss_config *config = NULL;
    ss_error err = {0};
    int64_t n = 0;

    (void)state;
    write_file("n: 1\n", 5);
    assert_int_equal(ss_config_load(path, wrong, &n, &config, &err), SS_STOP);
    assert_string_equal(err.code, "SS-CFG-0015");
}

static void deep_nesting_ends(void **state) {
    char text[5000];

    (void)state;
    memcpy(text, "include: ", 9);
    memset(text + 9, '[', sizeof text - 10);
    text[sizeof text - 1] = '\0';
    refuses(text, strlen(text), "SS-CFG-0011",
            "1:11: `include[0]` wants a single value, but here stands a list");
    assert_int_equal(mismatches, 0);
}

/* Whatever stands in the file, the answer is a whole configuration or one sentence. */
static void random_damage_is_answered(void **state) {
    static const char sample[] =
        "source: orders\npostgres: {dsn: \"a b\", port: 60}\ninclude: [\"p.*\", x]\n"
        "max_size: 3MiB\nretain: 90m\nroutes:\n  - source: a\n    target: {postgres: {dsn: x}}\n";
    static const char pieces[] = "{}[]:,-&*!|>'\"%@`#~\n \t\\xa9";
    const char *given = getenv("SIDESPOOL_TEST_SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);

    (void)state;
    printf("seed %u (SIDESPOOL_TEST_SEED repeats it)\n", seed);
    srandom(seed);
    for (int round = 0; round < 4000; round++) {
        char text[sizeof sample];
        memcpy(text, sample, sizeof text);
        for (long changes = random() % 4 + 1; changes > 0; changes--)
            text[(size_t)random() % (sizeof text - 1)] =
                pieces[(size_t)random() % (sizeof pieces - 1)];
        ss_config *config = NULL;
        ss_error err = {0};
        conf c = {0};
        write_file(text, (size_t)random() % sizeof text);
        if (ss_config_load(path, options, &c, &config, &err) == SS_OK) {
            assert_non_null(c.source);
            ss_config_free(config);
        } else {
            assert_true(err.text[0] != '\0' && ss_error_find(err.code) != NULL);
        }
    }
}

static void prints_its_reference(void **state) {
    ss_buf out;

    (void)state;
    ss_buf_init(&out);
    ss_option_print_markdown(options, "Agent", &out);
    const char *text = ss_buf_cstr(&out);
    assert_non_null(strstr(text, "## Agent\n\n| Key | Value | Default | Meaning |\n"));
    assert_non_null(strstr(text, "| `source` | text | required | unique name |\n"));
    assert_non_null(strstr(text, "| `postgres.port` | number 1 to 65535 | `5432` |  |\n"));
    assert_non_null(
        strstr(text, "| `on_gap` | halt, resync | `halt` | what a gap is answered by |\n"));
    assert_non_null(
        strstr(text, "| `routes[].target.postgres.dsn` | text | required | how to connect |\n"));
    assert_non_null(strstr(text, "| `routes[].deletes` | apply | `apply` |  |\n"));
    assert_non_null(strstr(text, "this version does not carry them out yet: `mask`.\n"));
    ss_buf_clear(&out);
    ss_option_print_help(options, &out);
    text = ss_buf_cstr(&out);
    assert_non_null(strstr(text, "  source: text (required)"));
    assert_non_null(strstr(text, "    port: number 1 to 65535 (default 5432)\n"));
    assert_null(strstr(text, "mask"));
    ss_buf_done(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_everything),
        cmocka_unit_test(sets_defaults),
        cmocka_unit_test(takes_sizes_and_durations),
        cmocka_unit_test(refuses_with_place_and_remedy),
        cmocka_unit_test(refuses_what_is_no_file),
        cmocka_unit_test(refuses_a_bad_default),
        cmocka_unit_test(deep_nesting_ends),
        cmocka_unit_test(random_damage_is_answered),
        cmocka_unit_test(prints_its_reference),
    };
    temp_name(path, sizeof path, "sidespool-config");
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
