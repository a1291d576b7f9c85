/* The agent's own file and what all its parts share.
 *
 * Nothing in this folder (its subfolders are the engines) knows which engine it serves:
 * agent_main.c is compiled once for each, with its ss_source_ops. */
#ifndef AGENTS_AGENT_H
#define AGENTS_AGENT_H

#include "sidespool/option.h"
#include "sidespool/source.h"
#include "sidespool/spool.h"

enum { SS_ON_GAP_HALT, SS_ON_GAP_RESYNC };

/* The agent's file, loaded. The engine's own struct follows it in the same allocation. */
typedef struct {
    const char *source;
    ss_place source_place;
    struct {
        ss_strings include, exclude;
        ss_place include_place; /* line 0: the key was not written */
    } tables;
    struct {
        const char *path;
        uint64_t max_size, retain, segment_size;
        ss_place place, max_place, segment_place; /* line 0: the key was not written */
    } spool;
    struct {
        int64_t readers;
    } copy;
    int on_gap;
    uint64_t max_message;
    bool engine_present;
} ss_agent_settings;

typedef struct ss_agent_config ss_agent_config;

/* Loads and validates `path` for the engine `ops`. SS_STOP with the place and the remedy. */
SS_MUST ss_status ss_agent_config_load(const char *path, const ss_source_ops *ops,
                                       ss_agent_config **ret, ss_error *reterr);
void ss_agent_config_free(ss_agent_config *config);
const ss_agent_settings *ss_agent_config_settings(const ss_agent_config *config);
/* What a source and the spool get from the file; both live as long as the config. */
const ss_source_env *ss_agent_config_env(const ss_agent_config *config);
ss_spool_options ss_agent_config_spool(const ss_agent_config *config);

/* The option table for `ops` as --help text or Markdown. */
SS_MUST ss_status ss_agent_options_print(const ss_source_ops *ops, bool markdown, ss_buf *out,
                                         ss_error *reterr);

/* --check: one line for each precondition on stdout. Returns the exit code, 0 or 78. */
int ss_agent_check(const ss_agent_config *config, const ss_source_ops *ops);

#endif
