/* The agent's file: one table of options for parser, --help and the reference, the engine's own
 * block put in by name. */
#include "agents/agent.h"

#include "sidespool/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define AT(field) .offset = offsetof(ss_agent_settings, field)

#define TABLES_AT(field) offsetof(ss_agent_settings, tables.field) - offsetof(ss_agent_settings, tables)
static const ss_option tables_options[] = {
    {.key = "include",
     .type = SS_OPT_STRINGS,
     .offset = TABLES_AT(include),
     .place_offset = TABLES_AT(include_place),
     .help = "Patterns of the tables to capture, \"schema.table\", `*` for any run of characters; "
             "none: all tables."},
    {.key = "exclude",
     .type = SS_OPT_STRINGS,
     .offset = TABLES_AT(exclude),
     .help = "Patterns of tables that are not captured, even when included."},
    {0},
};

#define SPOOL_AT(field)                                                                            \
    .offset = offsetof(ss_agent_settings, spool.field) - offsetof(ss_agent_settings, spool)
static const ss_option spool_options[] = {
    {.key = "path",
     .type = SS_OPT_STRING,
     SPOOL_AT(path),
     .deflt = "/var/lib/sidespool/spool",
     .help = "Folder of all spools; this source's own is a folder of its name in it.",
     .place_offset = offsetof(ss_agent_settings, spool.place) - offsetof(ss_agent_settings, spool)},
    {.key = "max_size",
     .type = SS_OPT_SIZE,
     SPOOL_AT(max_size),
     .deflt = "64GiB",
     .min = 4 << 20,
     .help = "What both logs of this source may take on disk; when it is reached, capture waits "
             "and the source keeps its own log.",
     .place_offset =
         offsetof(ss_agent_settings, spool.max_place) - offsetof(ss_agent_settings, spool)},
    {.key = "retain",
     .type = SS_OPT_DURATION,
     SPOOL_AT(retain),
     .deflt = "24h",
     .help = "How long applied changes are kept, as far as max_size allows."},
    {.key = "segment_size",
     .type = SS_OPT_SIZE,
     SPOOL_AT(segment_size),
     .deflt = "256MiB",
     .min = 1 << 20,
     .max = INT64_C(64) << 30,
     .help = "Size of one file of a log; old data goes a file at a time. At least 1MiB, at most a "
             "quarter of max_size, which also lowers the default.",
     .place_offset =
         offsetof(ss_agent_settings, spool.segment_place) - offsetof(ss_agent_settings, spool)},
    {0},
};

static const ss_option copy_options[] = {
    {.key = "readers",
     .type = SS_OPT_INT,
     .offset = 0,
     .deflt = "4",
     .min = 1,
     .max = 32,
     .help = "Connections that read tables side by side while a copy runs."},
    {0},
};

static const ss_option agent_options[] = {
    {.key = "source",
     .type = SS_OPT_STRING,
     AT(source),
     .required = true,
     .help = "Unique name of this source: 1 to 63 of a-z, 0-9, _ and -, not beginning with -.",
     .place_offset = offsetof(ss_agent_settings, source_place)},
    {.key = "tables",
     .type = SS_OPT_BLOCK,
     AT(tables),
     .children = tables_options,
     .help = "Which tables are captured."},
    {.key = "spool",
     .type = SS_OPT_BLOCK,
     AT(spool),
     .children = spool_options,
     .help = "Where changes wait until they are applied."},
    {.key = "on_gap",
     .type = SS_OPT_ENUM,
     AT(on_gap),
     .choices = "halt|resync",
     .deflt = "halt",
     .help = "What to do when the source's history is broken (its slot lost, another server): "
             "halt, or copy everything anew."},
    {.key = "max_message",
     .type = SS_OPT_SIZE,
     AT(max_message),
     .deflt = "1GiB",
     .min = 1 << 20,
     .help = "A larger single message of the source (a row) stops capture with its place."},
    {.key = "copy",
     .type = SS_OPT_BLOCK,
     AT(copy),
     .children = copy_options,
     .help = "How tables are copied."},
    {.key = "columns", .type = SS_OPT_UNSUPPORTED, .help = "Which columns are captured."},
    {.key = "where", .type = SS_OPT_UNSUPPORTED, .help = "Which rows are captured."},
    {.key = "mask",
     .type = SS_OPT_UNSUPPORTED,
     .help = "Which values are masked before they are written."},
    {.key = "ship",
     .type = SS_OPT_UNSUPPORTED,
     .help = "The applier on another host that changes are sent to."},
    {.key = "remote", .type = SS_OPT_UNSUPPORTED, .help = "What the other host may ask for."},
    {.key = "new_tables",
     .type = SS_OPT_UNSUPPORTED,
     .help = "What happens to a table that appears later."},
    {.key = "expiry_slack",
     .type = SS_OPT_UNSUPPORTED,
     .help = "How much longer keys live on the copy."},
    {.key = "collections", .type = SS_OPT_UNSUPPORTED, .help = "Which collections are captured."},
    {.key = "keys", .type = SS_OPT_UNSUPPORTED, .help = "Which keys are captured."},
};
#define AGENT_OPTIONS (sizeof agent_options / sizeof agent_options[0])

struct ss_agent_config {
    ss_config *file;
    ss_option table[AGENT_OPTIONS + 2]; /* and the engine's block, and the end */
    ss_source_env env;
    char session[SS_SESSION_MAX];
    ss_agent_settings *settings; /* the engine's struct behind it */
};

static size_t engine_offset(void) {
    return (sizeof(ss_agent_settings) + 15) & ~(size_t)15;
}

/* `source`, then the engine's block under its own name, then the rest. */
static void fill_table(ss_option *table, const ss_source_ops *ops) {
    table[0] = agent_options[0];
    table[1] = (ss_option){
        .key = ops->name,
        .type = SS_OPT_BLOCK,
        .offset = engine_offset(),
        .required = true,
        .children = ops->options,
        .help = "How the source is reached.",
    };
    memcpy(&table[2], &agent_options[1], sizeof agent_options - sizeof agent_options[0]);
    table[AGENT_OPTIONS + 1] = (ss_option){0};
}

static ss_status wrong(ss_error *reterr, const ss_agent_config *config, ss_place place, const char *fmt, ...) SS_PRINTF(4, 5);
static ss_status wrong(ss_error *reterr, const ss_agent_config *config, ss_place place, const char *fmt, ...) {
    char text[SS_ERROR_TEXT];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    return ss_fail(reterr, SS_STOP, "SS-AGENT-0020", "%s: %s", ss_config_place(config->file, place), text);
}

/* Names are "schema.table": without a dot or a * a pattern matches nothing, whatever the source holds. */
static ss_status validate_patterns(const ss_agent_config *config, const ss_strings *patterns,
                                   const char *key, ss_error *reterr) {
    for (size_t i = 0; i < patterns->count; i++) {
        const char *pattern = patterns->items[i];
        if (*pattern == '\0')
            return wrong(reterr, config, patterns->places[i],
                         "`tables.%s[%zu]` is empty; write \"schema.table\", with * for any run of characters", key, i);
        if (strlen(pattern) > 256)
            return wrong(reterr, config, patterns->places[i],
                         "`tables.%s[%zu]` has %zu bytes, which no table's name has; write \"schema.table\", with * for any "
                         "run of characters",
                         key, i, strlen(pattern));
        if (strpbrk(pattern, ".*") == NULL)
            return wrong(reterr, config, patterns->places[i],
                         "`tables.%s[%zu]` is \"%s\", which matches no table; write it with its schema, such as "
                         "\"public.%s\"",
                         key, i, SS_SHOWN(pattern), SS_SHOWN(pattern));
    }
    return SS_OK;
}

static ss_status validate_tables(const ss_agent_config *config, ss_error *reterr) {
    const ss_agent_settings *settings = config->settings;

    if (settings->tables.include.count == 0 && settings->tables.include_place.line != 0)
        return wrong(reterr, config, settings->tables.include_place,
                     "`tables.include` is an empty list; name patterns in it, or remove the key to capture all tables");
    ss_status status = validate_patterns(config, &settings->tables.include, "include", reterr);
    return status == SS_OK ? validate_patterns(config, &settings->tables.exclude, "exclude", reterr) : status;
}

/* Only a key that was written can be wrong: a default gives way. */
static ss_status validate_sizes(const ss_agent_config *config, ss_error *reterr) {
    ss_agent_settings *settings = config->settings;
    uint64_t most = settings->spool.max_size / 4;
    char size[3][32];

    if (settings->spool.segment_place.line == 0 && settings->spool.segment_size > most)
        settings->spool.segment_size = most;
    if (settings->spool.segment_size <= most)
        return SS_OK;
    return wrong(reterr, config, settings->spool.segment_place,
                 "`spool.segment_size` is %s, more than a quarter of `spool.max_size` (%s%s); at most %s is allowed",
                 ss_size_text(settings->spool.segment_size, size[0]), ss_size_text(settings->spool.max_size, size[1]),
                 settings->spool.max_place.line == 0 ? " by default" : "", ss_size_text(most, size[2]));
}

/* A socket's path has 107 bytes, and ours stands in the source's folder. */
#define SOCKET_NAME "agent.sock"
#define SOCKET_PATH_MOST 107

static ss_status validate_spool(const ss_agent_config *config, ss_error *reterr) {
    const ss_agent_settings *settings = config->settings;
    size_t len = strlen(settings->spool.path) + strlen(settings->source) + strlen("//" SOCKET_NAME);
    ss_place place = settings->spool.place.line != 0 ? settings->spool.place : settings->source_place;

    if (settings->spool.path[0] != '/')
        return wrong(reterr, config, place, "`spool.path` is \"%s\", which is not absolute; begin it with /", SS_SHOWN(settings->spool.path));
    if (len > SOCKET_PATH_MOST)
        return wrong(reterr, config, place,
                     "`spool.path` is too long: the agent's socket SPOOL/%.63s/" SOCKET_NAME
                     " would have %zu bytes, and a socket's path may have %d; choose a path of at most %zu bytes",
                     settings->source, len, SOCKET_PATH_MOST,
                     strlen(settings->spool.path) - (len - SOCKET_PATH_MOST));
    return SS_OK;
}

static ss_status validate(const ss_agent_config *config, ss_error *reterr) {
    const ss_agent_settings *settings = config->settings;

    if (!ss_source_name_good(settings->source))
        return wrong(reterr, config, settings->source_place,
                     "`source` is %s, which cannot be a name; use 1 to 63 of a-z, 0-9, _ and -, not beginning with -",
                     SS_SHOWN_NAME(settings->source));
    ss_status status = validate_spool(config, reterr);
    if (status == SS_OK)
        status = validate_sizes(config, reterr);
    return status == SS_OK ? validate_tables(config, reterr) : status;
}

/* What only the engine can judge. A value by default has no place of its own: then the name that it was made of is at fault. */
static ss_status validate_engine(const ss_agent_config *config, const ss_source_ops *ops, ss_error *reterr) {
    ss_place place = {0};
    ss_status status = ops->configured != NULL ? ops->configured(&config->env, &place, reterr) : SS_OK;

    if (status != SS_OK)
        ss_error_prefix(reterr, "%s",
                        ss_config_place(config->file, place.line != 0 ? place : config->settings->source_place));
    return status;
}

ss_status ss_agent_config_load(const char *path, const ss_source_ops *ops, ss_agent_config **ret,
                               ss_error *reterr) {
    ss_agent_config *config = calloc(1, sizeof *config);
    if (config != NULL)
        config->settings = calloc(1, engine_offset() + ops->options_size);
    if (config == NULL || config->settings == NULL) {
        ss_agent_config_free(config);
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "out of memory");
    }
    ss_agent_settings *settings = config->settings;
    fill_table(config->table, ops);
    ss_status status = ss_config_load(path, config->table, settings, &config->file, reterr);
    config->env = (ss_source_env){
        .name = settings->source,
        .options = (const char *)settings + engine_offset(),
        .include = &settings->tables.include,
        .exclude = &settings->tables.exclude,
        .spool_path = settings->spool.path,
        .spool_max_size = settings->spool.max_size,
        .max_message = settings->max_message,
        .session = config->session,
    };
    if (status == SS_OK)
        status = validate(config, reterr);
    if (status == SS_OK)
        status = validate_engine(config, ops, reterr);
    if (status != SS_OK) {
        ss_agent_config_free(config);
        return status;
    }
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    config->env.stop_fd = fd < 0 ? 0 : fcntl(fd, F_DUPFD_CLOEXEC, 3); /* 0 would mean none */
    if (fd >= 0)
        close(fd);
    if (config->env.stop_fd <= 0) {
        status = ss_fail_sys(reterr, SS_RETRY, "SS-AGENT-0001", errno, "cannot make an eventfd");
        config->env.stop_fd = 0;
        ss_agent_config_free(config);
        return status;
    }
    *ret = config;
    return SS_OK;
}

void ss_agent_config_free(ss_agent_config *config) {
    if (config == NULL)
        return;
    ss_config_free(config->file);
    free(config->settings);
    if (config->env.stop_fd > 0)
        close(config->env.stop_fd);
    free(config);
}

const ss_agent_settings *ss_agent_config_settings(const ss_agent_config *config) {
    return config->settings;
}

const ss_source_env *ss_agent_config_env(const ss_agent_config *config) {
    return &config->env;
}

ss_spool_options ss_agent_config_spool(const ss_agent_config *config) {
    return (ss_spool_options){
        .segment_size = config->settings->spool.segment_size,
        .max_size = config->settings->spool.max_size,
        .retain_ms = config->settings->spool.retain,
    };
}

ss_status ss_agent_options_print(const ss_source_ops *ops, bool markdown, ss_buf *out,
                                 ss_error *reterr) {
    ss_option table[AGENT_OPTIONS + 2];
    char title[64];

    fill_table(table, ops);
    snprintf(title, sizeof title, "sidespool-%s", ops->name);
    if (markdown)
        ss_option_print_markdown(table, title, out);
    else
        ss_option_print_help(table, out);
    return out->bad ? ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "out of memory") : SS_OK;
}

/* ---- --check
 * -------------------------------------------------------------------------------------------------------
 */

typedef struct {
    const char *of; /* the source's name */
    bool failed;
} check_result;

static void check_line(void *ctx, bool ok, const char *what, const char *found,
                       const char *remedy) {
    check_result *check = ctx;

    bool advice = remedy != NULL && *remedy != '\0';
    printf("%-4s  %s: %s: %s\n", !ok ? "FAIL" : advice ? "warn" : "ok", check->of, what, found);
    if (advice)
        printf("      -> %s\n", remedy);
    if (!ok)
        check->failed = true;
}

/* The nearest folder that is there: a spool not yet made can be made there or not. */
static void existing_parent(char *path) {
    struct stat st;

    while (stat(path, &st) != 0 && errno == ENOENT) {
        char *slash = strrchr(path, '/');
        if (slash == NULL || slash == path) {
            memcpy(path, "/", 2);
            return;
        }
        *slash = '\0';
    }
}

static void check_spool(const ss_agent_settings *settings, check_result *check) {
    char path[4096], found[512];
    struct statvfs fs;

    snprintf(path, sizeof path, "%s/%s", settings->spool.path, settings->source);
    struct stat st;
    bool there = stat(settings->spool.path, &st) == 0;
    existing_parent(path);
    bool usable = access(path, R_OK | W_OK | X_OK) == 0;
    if (there)
        snprintf(found, sizeof found, "%.300s %s", path,
                 usable ? "may be written" : "may not be written by this user");
    else
        snprintf(found, sizeof found, "%.200s is not there; it %s in %.200s", settings->spool.path,
                 usable ? "can be made" : "cannot be made by this user", path);
    check_line(check, usable, "spool.path", found,
               usable ? ""
                      : "create it, owned by the agent's user, group sidespool, mode 2770: install "
                        "-d -m 2770 -g sidespool DIR");
    if (statvfs(path, &fs) != 0) {
        check_line(check, false, "room for the spool", strerror(errno),
                   "look at the file system of spool.path");
        return;
    }
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    snprintf(found, sizeof found, "%llu MiB free, spool.max_size %llu MiB",
             (unsigned long long)(room >> 20),
             (unsigned long long)(settings->spool.max_size >> 20));
    /* A spool that is partly filled needs less; so this only refuses what cannot hold one file. */
    bool enough = room >= settings->spool.segment_size;
    check_line(check, enough, "room for the spool", found,
               !enough ? "free room on that file system, or lower spool.max_size and "
                         "spool.segment_size"
               : room < settings->spool.max_size
                   ? "a full file system stops capture as a full spool does: lower spool.max_size, "
                     "unless the spool holds the rest already"
                   : "");
}

int ss_agent_check(const ss_agent_config *config, const ss_source_ops *ops) {
    check_result check = {.of = config->settings->source};
    ss_error err = {0};

    char file[4096];
    snprintf(file, sizeof file, "%s", ss_config_place(config->file, config->settings->source_place));
    for (int i = 0; i < 2; i++) { /* line and column */
        char *colon = strrchr(file, ':');
        if (colon != NULL)
            *colon = '\0';
    }
    check_line(&check, true, "configuration", file, "");
    check_spool(config->settings, &check);
    ss_status status = ops->check(&config->env, check_line, &check, &err);
    if (status != SS_OK) {
        char what[64], found[SS_ERROR_TEXT + 32];
        const ss_error_entry *entry = ss_error_find(err.code);
        snprintf(what, sizeof what, "%s source", ops->name);
        snprintf(found, sizeof found, "%s%s%s%s", err.text, err.code != NULL ? " (" : "",
                 err.code != NULL ? err.code : "", err.code != NULL ? ")" : "");
        check_line(&check, false, what, found, entry != NULL ? entry->cure : "see the message");
    }
    if (fflush(stdout) != 0)
        return SS_EXIT_IO;
    return check.failed ? SS_EXIT_CONFIG : SS_EXIT_DONE;
}
