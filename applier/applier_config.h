/* The applier's file (DESIGN 12) as the program sees it after loading and checking.
 *
 * Strings, lists and option structs live as long as the ss_applier_config. Nothing here changes
 * after loading, so that the supervisor and each route process may read it freely. */
#ifndef SIDESPOOL_APPLIER_CONFIG_H
#define SIDESPOOL_APPLIER_CONFIG_H

#include "sidespool/option.h"
#include "sidespool/target.h"

#define SS_APPLIER_CONFIG_DEFAULT "/etc/sidespool/applier.yaml"
#define SS_NAME_MAX 63         /* bytes in a route's or a source's name */
#define SS_SOCKET_PATH_MAX 107 /* sun_path without its NUL */

typedef enum { SS_ON_GAP_HALT, SS_ON_GAP_RESYNC } ss_on_gap;

typedef struct {
    const char *source;          /* the directory <spool.path>/<source>; it may not be there yet */
    const char *name;            /* unique; default: source */
    const ss_target_ops *target; /* the engine of the one target block */
    const void *target_options;  /* the struct that target->options filled */
    bool adopt;
    ss_on_gap on_gap;
    size_t batch_records; /* changes in one batch; 0: SS_BATCH_RECORDS. Not in the file: tests set it */
    ss_place place; /* of the route in the file */
} ss_route_config;

typedef struct {
    const char *path; /* of the file, as given */
    const char *spool_path;
    uint64_t
        spool_max_size; /* bytes; both are for received sources: on one host the agent's count */
    uint64_t spool_retain_ms;
    const char *control_socket; /* NULL: not set in the file; see ss_applier_socket_path */
    const ss_route_config *routes;
    size_t route_count;
    ss_config *config; /* for ss_config_place */
} ss_applier_config;

/* Reads and checks the file. SS_STOP with file:line:column, the key and the remedy. Free with
 * ss_applier_config_free. */
SS_MUST ss_status ss_applier_config_load(const char *path, ss_applier_config **ret,
                                         ss_error *reterr);
void ss_applier_config_free(ss_applier_config *config);
/* NULL when there is no route of that name. */
const ss_route_config *ss_applier_config_route(const ss_applier_config *config, const char *name);
/* The reference of all keys, every target's among them: Markdown (docs/configuration.md) or --help
 * text. SS_STOP: out of memory. */
SS_MUST ss_status ss_applier_config_print(bool markdown, ss_buf *out, ss_error *reterr);

/* Every engine that a route may write to, NULL at the end. */
extern const ss_target_ops *const ss_target_table[];

/* One route, in a process of its own (applier/route_main.c): blocks until SIGTERM or until the
 * supervisor is gone (EOF on `fd`, a socketpair that carries the JSON lines of
 * docs/architecture.md). Returns the exit code. */
int ss_route_main(const ss_applier_config *config, const ss_route_config *route, int fd);

#endif
