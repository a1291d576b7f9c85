/* Reads the applier's file. The table is put together at run time, because each target engine
 * brings its own options: a route's element in the list is the fixed part below, then one slot
 * {flag, options} for each engine. */
#include "applier/applier_config.h"

#include "sidespool/text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

const ss_target_ops *const ss_target_table[] = {&ss_target_postgres, NULL};

enum { TARGETS_MOST = 8 };

struct file_spool {
    const char *path;
    ss_place place;
    uint64_t max_size, retain_ms;
};

struct file_control {
    const char *socket;
    ss_place place;
};

struct file_root {
    struct file_spool spool;
    struct file_control control;
    ss_list routes;
    ss_place routes_place;
};

struct file_route {
    const char *source, *name;
    ss_place place, name_place, target_place;
    bool adopt;
    int on_gap, deletes;
};

/* What stands before the options of one engine in an element; a multiple of the strictest
 * alignment. */
#define SLOT_HEAD 16
#define ALIGN_UP(n) (((n) + 15u) & ~(size_t)15u)
#define TARGET_AT ALIGN_UP(sizeof(struct file_route))

struct table {
    ss_option root[8], route[16], target[TARGETS_MOST + 8];
    size_t slot[TARGETS_MOST]; /* offset of each engine's slot behind TARGET_AT */
    size_t element;            /* size of one route */
};

static const ss_option spool_options[] = {
    {.key = "path",
     .type = SS_OPT_STRING,
     .offset = offsetof(struct file_spool, path),
     .place_offset = offsetof(struct file_spool, place),
     .deflt = "/var/lib/sidespool/spool",
     .help = "Directory that holds one directory for each source; the agents of this host write "
             "there."},
    {.key = "max_size",
     .type = SS_OPT_SIZE,
     .offset = offsetof(struct file_spool, max_size),
     .deflt = "256GiB",
     .help = "Quota for sources received from another host; on one host the agent's own max_size "
             "counts."},
    {.key = "retain",
     .type = SS_OPT_DURATION,
     .offset = offsetof(struct file_spool, retain_ms),
     .deflt = "72h",
     .help = "How long applied data of received sources is kept; on one host the agent's own "
             "retain counts."},
    {0}};

static const ss_option control_options[] = {
    {.key = "socket",
     .type = SS_OPT_STRING,
     .offset = offsetof(struct file_control, socket),
     .place_offset = offsetof(struct file_control, place),
     .help = "Where the sidespool command reaches the applier. Default: "
             "/run/sidespool/applier.sock, and "
             "<spool.path>/applier.sock where /run/sidespool cannot be written."},
    {0}};

static const ss_option route_head[] = {
    {.key = "source",
     .type = SS_OPT_STRING,
     .offset = offsetof(struct file_route, source),
     .required = true,
     .place_offset = offsetof(struct file_route, place),
     .help =
         "The source: of an agent's file. Its directory may appear later: the route waits for it."},
    {.key = "name",
     .type = SS_OPT_STRING,
     .offset = offsetof(struct file_route, name),
     .place_offset = offsetof(struct file_route, name_place),
     .help = "The route's unique name in status and commands. Default: the source's name."},
    {.key = "adopt",
     .type = SS_OPT_BOOL,
     .offset = offsetof(struct file_route, adopt),
     .deflt = "false",
     .help = "Empty and copy target tables that hold rows of another origin; --check names them."},
    {.key = "on_gap",
     .type = SS_OPT_ENUM,
     .offset = offsetof(struct file_route, on_gap),
     .deflt = "halt",
     .choices = "halt|resync",
     .help = "What to do when the spool no longer holds what the target needs next: stop, or copy "
             "anew."},
    {.key = "deletes",
     .type = SS_OPT_ENUM,
     .offset = offsetof(struct file_route, deletes),
     .deflt = "apply",
     .choices = "apply|!ignore",
     .help = "Rows deleted at the source are deleted on the target."},
    {.key = "rename", .type = SS_OPT_UNSUPPORTED, .help = "Other names for tables on the target."},
    {.key = "ddl", .type = SS_OPT_UNSUPPORTED, .help = "A policy for each kind of schema change."},
    {.key = "quarantine",
     .type = SS_OPT_UNSUPPORTED,
     .help = "Set bad transactions aside and go on."},
};

static void build_targets(struct table *table) {
    size_t used = SLOT_HEAD, n = 0;
    for (; ss_target_table[n] && n < TARGETS_MOST; n++) {
        const ss_target_ops *ops = ss_target_table[n];
        table->slot[n] = used;
        table->target[n] =
            (ss_option){.key = ops->name,
                        .type = SS_OPT_BLOCK,
                        .offset = used + SLOT_HEAD,
                        .present_offset = used,
                        .children = ops->options,
                        .help = "Where the copy lives; exactly one engine for each route."};
        used += SLOT_HEAD + ALIGN_UP(ops->options_size);
    }
    static const char *const later[] = {"postgres", "mysql", "mongodb", "redis"};
    size_t known = n;
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        bool there = false;
        for (size_t k = 0; k < known; k++)
            there |= strcmp(ss_target_table[k]->name, later[i]) == 0;
        if (!there)
            table->target[n++] = (ss_option){
                .key = later[i], .type = SS_OPT_UNSUPPORTED, .help = "A target of this engine."};
    }
    table->element = TARGET_AT + used;
}

static void build_table(struct table *table) {
    *table = (struct table){0};
    build_targets(table);
    size_t n = sizeof(route_head) / sizeof(route_head[0]);
    _Static_assert(sizeof(route_head) + 2 * sizeof(ss_option) <= sizeof(((struct table *)0)->route),
                   "room");
    memcpy(table->route, route_head, sizeof(route_head));
    table->route[n] = (ss_option){.key = "target",
                                  .type = SS_OPT_BLOCK,
                                  .offset = TARGET_AT,
                                  .required = true,
                                  .place_offset = offsetof(struct file_route, target_place),
                                  .children = table->target,
                                  .help = "The database that this route writes to."};
    ss_option *o = table->root;
    *o++ = (ss_option){.key = "spool",
                       .type = SS_OPT_BLOCK,
                       .offset = offsetof(struct file_root, spool),
                       .children = spool_options,
                       .help = "Where captured changes wait to be applied."};
    *o++ = (ss_option){.key = "control",
                       .type = SS_OPT_BLOCK,
                       .offset = offsetof(struct file_root, control),
                       .children = control_options,
                       .help = "How the sidespool command reaches this applier."};
    *o++ = (ss_option){.key = "routes",
                       .type = SS_OPT_LIST,
                       .offset = offsetof(struct file_root, routes),
                       .required = true,
                       .place_offset = offsetof(struct file_root, routes_place),
                       .children = table->route,
                       .child_size = table->element,
                       .help =
                           "Each route applies one source to one target, in a process of its own."};
    *o++ = (ss_option){.key = "receive",
                       .type = SS_OPT_UNSUPPORTED,
                       .help = "Take spools from other hosts by TLS."};
    *o++ = (ss_option){
        .key = "http", .type = SS_OPT_UNSUPPORTED, .help = "Health, status and metrics by HTTP."};
}

static bool name_is_good(const char *name) {
    size_t len = strlen(name);
    if (len == 0 || len > SS_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("_-.", *c))
            return false;
    return true;
}

/* "routes[1].name": which route is told by its place in the list, its name may be what is wrong. */
static ss_status wrong_name(const ss_applier_config *config, ss_place place, size_t i, const char *key,
                            const char *name, const char *rule, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-APP-0001", "%s: `routes[%zu].%s` is %s, which cannot be a name; use %s",
                   ss_config_place(config->config, place), i, key, SS_SHOWN_NAME(name), rule);
}

/* Options that say which database is meant. Two blocks that agree in all of them write to one
 * place. */
static bool locates(const char *key) {
    static const char *const keys[] = {"dsn", "uri", "host", "port", "socket", "db"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

static bool same_option(const ss_option *option, const char *a, const char *b) {
    if (option->type == SS_OPT_STRING) {
        const char *x = *(const char *const *)(const void *)(a + option->offset);
        const char *y = *(const char *const *)(const void *)(b + option->offset);
        return x == y || (x && y && strcmp(x, y) == 0);
    }
    if (option->type == SS_OPT_INT)
        return *(const int64_t *)(const void *)(a + option->offset) ==
               *(const int64_t *)(const void *)(b + option->offset);
    if (option->type == SS_OPT_STRINGS) {
        const ss_strings *x = (const void *)(a + option->offset),
                         *y = (const void *)(b + option->offset);
        bool same = x->count == y->count;
        for (size_t i = 0; same && i < x->count; i++)
            same = strcmp(x->items[i], y->items[i]) == 0;
        return same;
    }
    return true;
}

static bool same_target(const ss_route_config *a, const ss_route_config *b) {
    if (a->target != b->target)
        return false;
    for (const ss_option *o = a->target->options; o->key; o++)
        if (locates(o->key) && !same_option(o, a->target_options, b->target_options))
            return false;
    return true;
}

static ss_status check_pairs(const ss_applier_config *config, ss_error *reterr) {
    for (size_t i = 1; i < config->route_count; i++) {
        const ss_route_config *b = &config->routes[i];
        for (size_t k = 0; k < i; k++) {
            const ss_route_config *a = &config->routes[k];
            if (strcmp(a->name, b->name) == 0)
                return ss_fail(reterr, SS_STOP, "SS-APP-0002",
                               "%s: a second route is called \"%s\", as the one at line %d; give one of "
                               "them another `name`",
                               ss_config_place(config->config, b->place), b->name, a->place.line);
            if (strcmp(a->source, b->source) == 0 && same_target(a, b))
                return ss_fail(reterr, SS_STOP, "SS-APP-0003",
                               "%s: route \"%s\" would write the tables of source \"%s\" to the same "
                               "target as route \"%s\" at line %d; remove one of them, or point it at another "
                               "database",
                               ss_config_place(config->config, b->place), b->name, b->source,
                               a->name, a->place.line);
        }
    }
    return SS_OK;
}

static ss_status take_target(const ss_applier_config *config, const struct table *table, size_t index,
                             const char *element, ss_route_config *out, ss_error *reterr) {
    const struct file_route *file = (const void *)element;
    size_t found = 0;
    for (size_t i = 0; ss_target_table[i]; i++) {
        const char *slot = element + TARGET_AT + table->slot[i];
        if (!*(const bool *)(const void *)slot)
            continue;
        found++;
        out->target = ss_target_table[i];
        out->target_options = slot + SLOT_HEAD;
    }
    if (found != 1)
        return ss_fail(reterr, SS_STOP, "SS-APP-0004",
                       "%s: `routes[%zu].target` names %s; a route writes to exactly one database, such as "
                       "target: {postgres: {dsn: …}}",
                       ss_config_place(config->config, file->target_place), index,
                       found == 0 ? "no engine" : "more than one engine");
    ss_place place = {0};
    ss_status status = out->target->configured != NULL
                           ? out->target->configured(out->target_options, &place, reterr)
                           : SS_OK;
    if (status != SS_OK)
        ss_error_prefix(reterr, "%s: route \"%s\"",
                        ss_config_place(config->config, place.line != 0 ? place : file->target_place), out->name);
    return status;
}

static ss_status take_route(const ss_applier_config *config, const struct table *table, size_t index,
                            const char *element, ss_route_config *out, ss_error *reterr) {
    const struct file_route *file = (const void *)element;
    out->source = file->source;
    out->name = file->name ? file->name : file->source;
    out->adopt = file->adopt;
    out->on_gap = (ss_on_gap)file->on_gap;
    out->place = file->place;
    if (!ss_source_name_good(out->source))
        return wrong_name(config, file->place, index, "source", out->source,
                          "1 to 63 of a-z, 0-9, _ and -, not beginning with -, as in the agent's file", reterr);
    if (!name_is_good(out->name))
        return wrong_name(config, file->name_place, index, "name", out->name,
                          "1 to 63 letters, digits, _, - and ., not beginning with - or .", reterr);
    return take_target(config, table, index, element, out, reterr);
}

/* A daemon's own folder is /, a command's is wherever it is typed: a relative path would be two places. */
static ss_status check_path(const ss_applier_config *config, ss_place place, const char *key, const char *path,
                            ss_error *reterr) {
    return path[0] == '/' ? SS_OK
                          : ss_fail(reterr, SS_STOP, "SS-APP-0005", "%s: `%s` is \"%s\", which is not absolute; begin it with /",
                                    ss_config_place(config->config, place), key, SS_SHOWN(path));
}

static ss_status take_paths(ss_applier_config *config, const struct file_root *root, ss_error *reterr) {
    config->spool_path = root->spool.path;
    config->control_socket = root->control.socket;
    ss_status status = check_path(config, root->spool.place, "spool.path", config->spool_path, reterr);
    if (status != SS_OK || !config->control_socket)
        return status;
    status = check_path(config, root->control.place, "control.socket", config->control_socket, reterr);
    if (status == SS_OK && strlen(config->control_socket) > SS_SOCKET_PATH_MAX)
        return ss_fail(reterr, SS_STOP, "SS-APP-0006",
                       "%s: `control.socket` has %zu bytes, and a socket's path may have %d; choose a shorter one",
                       ss_config_place(config->config, root->control.place), strlen(config->control_socket),
                       SS_SOCKET_PATH_MAX);
    return status;
}

static ss_status take_root(ss_applier_config *config, const struct table *table,
                           const struct file_root *root, ss_error *reterr) {
    ss_status paths = take_paths(config, root, reterr);
    if (paths != SS_OK)
        return paths;
    config->spool_max_size = root->spool.max_size;
    config->spool_retain_ms = root->spool.retain_ms;
    if (root->routes.count == 0)
        return ss_fail(
            reterr, SS_STOP, "SS-APP-0007",
            "%s: `routes` is an empty list; name at least one route, such as {source: orders, target: {…}}",
            ss_config_place(config->config, root->routes_place));
    ss_route_config *routes = calloc(root->routes.count, sizeof(*routes));
    if (!routes)
        return ss_fail(reterr, SS_RETRY, "SS-APP-0008", "Out of memory while reading %s.",
                       config->path);
    config->routes = routes;
    config->route_count = root->routes.count;
    for (size_t i = 0; i < root->routes.count; i++) {
        ss_status status =
            take_route(config, table, i, (const char *)root->routes.items + i * table->element,
                       &routes[i], reterr);
        if (status != SS_OK)
            return status;
    }
    return check_pairs(config, reterr);
}

ss_status ss_applier_config_load(const char *path, ss_applier_config **ret, ss_error *reterr) {
    struct table table;
    struct file_root root = {0};
    build_table(&table);
    ss_applier_config *config = calloc(1, sizeof(*config));
    char *copy = strdup(path);
    if (!config || !copy) {
        free(config);
        free(copy);
        return ss_fail(reterr, SS_RETRY, "SS-APP-0008", "Out of memory while reading %s.", path);
    }
    config->path = copy;
    ss_status status = ss_config_load(path, table.root, &root, &config->config, reterr);
    if (status == SS_OK)
        status = take_root(config, &table, &root, reterr);
    if (status != SS_OK) {
        ss_applier_config_free(config);
        return status;
    }
    *ret = config;
    return SS_OK;
}

void ss_applier_config_free(ss_applier_config *config) {
    if (!config)
        return;
    free((void *)(uintptr_t)config->routes);
    free((void *)(uintptr_t)config->path);
    ss_config_free(config->config);
    free(config);
}

const ss_route_config *ss_applier_config_route(const ss_applier_config *config, const char *name) {
    for (size_t i = 0; i < config->route_count; i++)
        if (strcmp(config->routes[i].name, name) == 0)
            return &config->routes[i];
    return NULL;
}

ss_status ss_applier_config_print(bool markdown, ss_buf *out, ss_error *reterr) {
    struct table table;
    build_table(&table);
    if (markdown)
        ss_option_print_markdown(table.root, "The applier's file", out);
    else
        ss_option_print_help(table.root, out);
    if (out->bad)
        return ss_fail(reterr, SS_RETRY, "SS-APP-0008",
                       "Out of memory while printing the reference.");
    return SS_OK;
}
