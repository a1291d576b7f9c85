/* The applier's file. */
#include "applier/applier_config.h"
#include "tests/fuzz/config_parts/config_tables.h"

static void check(const ss_applier_config *config) {
    FUZZ_CHECK(config->route_count > 0 && config->spool_path != NULL);
    FUZZ_CHECK(config->control_socket == NULL ||
               strlen(config->control_socket) <= SS_SOCKET_PATH_MAX);
    for (size_t i = 0; i < config->route_count; i++) {
        const ss_route_config *route = &config->routes[i];
        FUZZ_CHECK(cfz_is_name(route->name) && cfz_is_name(route->source));
        FUZZ_CHECK(route->target != NULL && route->target_options != NULL);
        FUZZ_CHECK(route->on_gap == SS_ON_GAP_HALT || route->on_gap == SS_ON_GAP_RESYNC);
        FUZZ_CHECK(ss_applier_config_route(config, route->name) == route); /* names are unique */
    }
}

ss_status cfz_applier(const char *path, ss_error *err) {
    ss_applier_config *config = NULL;
    ss_status status = ss_applier_config_load(path, &config, err);
    FUZZ_CHECK((status == SS_OK) == (config != NULL));
    if (status == SS_OK)
        check(config);
    ss_applier_config_free(config);
    return status;
}
