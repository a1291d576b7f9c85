/* needs: applier */
/* The applier's file: defaults, and each way in which it is refused, by code and place. */
#include "applier/applier_config.h"
#include "unit/temp_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static ss_status load(const char *text, ss_applier_config **ret, ss_error *reterr) {
    char path[64];
    temp_name(path, sizeof path, "sidespool-config");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    *ret = NULL;
    ss_status status = ss_applier_config_load(path, ret, reterr);
    (void)unlink(path);
    return status;
}

#define PG "target: {postgres: {dsn: \"host=127.0.0.1 dbname=copy\"}}"

static void defaults(void **state) {
    ss_error err = {0};
    ss_applier_config *config;
    (void)state;
    if (load("routes:\n  - {source: orders, " PG "}\n", &config, &err) != SS_OK)
        fail_msg("%s", err.text);
    assert_string_equal(config->spool_path, "/var/lib/sidespool/spool");
    assert_null(config->control_socket);
    assert_int_equal(config->route_count, 1);
    const ss_route_config *route = ss_applier_config_route(config, "orders");
    assert_non_null(route);
    assert_string_equal(route->name, "orders");
    assert_ptr_equal(route->target, &ss_target_postgres);
    assert_false(route->adopt);
    assert_int_equal(route->on_gap, SS_ON_GAP_HALT);
    assert_null(ss_applier_config_route(config, "shop"));
    ss_applier_config_free(config);
}

static void two_routes(void **state) {
    ss_error err = {0};
    ss_applier_config *config;
    (void)state;
    const char *text =
        "spool: {path: /srv/spool}\ncontrol: {socket: /srv/a.sock}\nroutes:\n"
        "  - {source: orders, name: a, on_gap: resync, adopt: true, " PG "}\n"
        "  - {source: orders, name: b, target: {postgres: {dsn: \"host=127.0.0.2\"}}}\n";
    if (load(text, &config, &err) != SS_OK)
        fail_msg("%s", err.text);
    assert_string_equal(config->spool_path, "/srv/spool");
    assert_string_equal(config->control_socket, "/srv/a.sock");
    assert_int_equal(config->routes[0].on_gap, SS_ON_GAP_RESYNC);
    assert_true(config->routes[0].adopt);
    assert_false(config->routes[1].adopt);
    assert_ptr_not_equal(config->routes[0].target_options, config->routes[1].target_options);
    ss_applier_config_free(config);
}

static void refused(void **state) {
    static const struct {
        const char *text, *code, *says;
    } cases[] = {
        {"routes:\n  - {source: \"a/b\", " PG "}\n", "SS-APP-0001", ":2:"},
        {"routes:\n  - {source: a, name: \".x\", " PG "}\n", "SS-APP-0001", "name"},
        {"routes:\n  - {source: a, " PG "}\n  - {source: b, name: a, " PG "}\n", "SS-APP-0002",
         ":3:"},
        {"routes:\n  - {source: a, " PG "}\n  - {source: a, name: b, " PG "}\n", "SS-APP-0003",
         ":3:"},
        {"routes:\n  - {source: a, target: {}}\n", "SS-APP-0004", "exactly one"},
        {"routes: []\n", "SS-APP-0007", "at least one"},
        {"control: {socket: "
         "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaa"
         "aaaaaaaaaaaaaaaaaaaaaaaa}\nroutes:\n  - {source: a, " PG "}\n",
         "SS-APP-0006", "107"},
        {"routes:\n  - {source: a, rename: {x: y}, " PG "}\n", NULL, "not supported yet"},
        {"routes:\n  - {source: a, deletes: ignore, " PG "}\n", NULL, "not supported yet"},
        {"http: {listen: x}\nroutes:\n  - {source: a, " PG "}\n", NULL, "not supported yet"},
        {"routes:\n  - {source: a, target: {mysql: {host: x}}}\n", NULL, "not supported yet"},
        {"routes:\n  - {sourc: a, " PG "}\n", NULL, "source"},
        {"routes:\n  - {source: a}\n", NULL, "target"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ss_error err = {0};
        ss_applier_config *config;
        assert_int_equal(load(cases[i].text, &config, &err), SS_STOP);
        if (cases[i].code)
            assert_string_equal(err.code, cases[i].code);
        if (!strstr(err.text, cases[i].says))
            fail_msg("\"%s\" is not in: %s", cases[i].says, err.text);
    }
}

static void reference_names_every_key(void **state) {
    static const char *const keys[] = {"spool",  "max_size", "retain", "control",
                                       "routes", "adopt",    "on_gap", "dsn"};
    (void)state;
    for (int markdown = 0; markdown < 2; markdown++) {
        ss_error err = {0};
        ss_buf out;
        ss_buf_init(&out);
        assert_int_equal(ss_applier_config_print(markdown, &out, &err), SS_OK);
        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
            assert_non_null(strstr(ss_buf_cstr(&out), keys[i]));
        ss_buf_done(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(two_routes),
        cmocka_unit_test(refused),
        cmocka_unit_test(reference_names_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
