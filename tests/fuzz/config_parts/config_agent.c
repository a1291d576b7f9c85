/* The agent's file. */
#include "agents/agent.h"
#include "tests/fuzz/config_parts/config_tables.h"

static void check(const ss_agent_config *config) {
    const ss_agent_settings *settings = ss_agent_config_settings(config);
    const ss_source_env *env = ss_agent_config_env(config);
    ss_spool_options spool = ss_agent_config_spool(config);
    FUZZ_CHECK(cfz_is_name(settings->source) && env->name == settings->source);
    FUZZ_CHECK(settings->spool.path[0] == '/');
    FUZZ_CHECK(settings->copy.readers >= 1 && settings->copy.readers <= 32);
    FUZZ_CHECK(settings->on_gap == SS_ON_GAP_HALT || settings->on_gap == SS_ON_GAP_RESYNC);
    FUZZ_CHECK(settings->max_message >= 1u << 20);
    FUZZ_CHECK(spool.segment_size >= 1u << 20 && spool.segment_size <= spool.max_size / 4);
    FUZZ_CHECK(env->options != NULL && env->stop_fd > 0);
    cfz_check_strings(&settings->tables.include);
    cfz_check_strings(&settings->tables.exclude);
}

ss_status cfz_agent(const char *path, ss_error *err) {
    ss_agent_config *config = NULL;
    ss_status status = ss_agent_config_load(path, &ss_source_postgres, &config, err);
    FUZZ_CHECK((status == SS_OK) == (config != NULL));
    if (status == SS_OK)
        check(config);
    ss_agent_config_free(config);
    return status;
}
