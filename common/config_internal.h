/* Shared by the files that read configuration; nobody else includes it. */
#ifndef SS_COMMON_CONFIG_INTERNAL_H
#define SS_COMMON_CONFIG_INTERNAL_H

#include "sidespool/arena.h"
#include "sidespool/option.h"
#include "sidespool/text.h"

#include <yaml.h>

struct ss_config {
    ss_arena *arena; /* every string and list of the loaded file */
    const char *path;
    char shown[SS_SHOWN_PATH_BYTES]; /* the path as messages show it */
    ss_buf text; /* the file; only while it is read */
};

/* Reads config->path into config->text: a regular file, at most 1 MiB, UTF-8. */
SS_MUST ss_status cfg_read_file(ss_config *config, ss_error *reterr);
/* Line and column of a byte of the text. */
ss_place cfg_place_at(const ss_config *config, size_t offset);
/* The byte there; '\n' past the end. */
uint8_t cfg_byte_at(const ss_config *config, ss_place place);

typedef struct {
    ss_config *config;
    yaml_parser_t yaml;
    ss_error *reterr;
    bool peeks; /* keys that the table does not know are passed over */
} cfg_reader;

SS_MUST ss_status cfg_next_event(cfg_reader *r, yaml_event_t *event);
ss_place cfg_place_of(const yaml_mark_t *mark);
const char *cfg_event_form(const yaml_event_t *event); /* "a list" */
/* "FILE:LINE:COLUMN: sentence" */
ss_status cfg_fail(cfg_reader *r, ss_place place, const char *code, const char *fmt, ...) SS_PRINTF(4, 5);
ss_status cfg_no_memory(cfg_reader *r);

/* Reads one value's text by the option's type into `to`. On false *ret_code and `why` ("wants …,
 * not …") say what is wrong. */
bool cfg_value(const ss_option *opt, const char *text, void *to, const char **ret_code, char *why,
               size_t size);
/* Sets every default of the table and of its blocks. */
SS_MUST ss_status cfg_defaults(ss_config *config, const ss_option *table, void *out,
                               ss_error *reterr);
/* The known key nearest to `key`, NULL when none is near. */
const char *cfg_nearest(const ss_option *table, const char *key);
/* "spool.max_size" of a frame of config.c. */
const char *cfg_path(const void *at, char *out, size_t size);

#endif
