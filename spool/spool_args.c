/* The arguments of `sidespool spool …`: each command knows which options it takes, and nothing is accepted and ignored. */
#include "spool/spool_command.h"

#include "sidespool/args.h"
#include "sidespool/option.h"
#include "sidespool/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_CONFIG "/etc/sidespool/applier.yaml"
#define DEFAULT_SPOOL "/var/lib/sidespool/spool"

static const char usage[] =
    "Usage: sidespool spool COMMAND [--config APPLIER | --spool DIR] [SOURCE…]\n\n"
    "  ls      [--json]                        logs, segments, positions, consumers and what waits for them\n"
    "  dump    [--log stream|copy] [--from SEQ] [--to SEQ]   records as JSON lines (they hold row values)\n"
    "  verify  [--json]                        read every frame of every segment; exit 1 when one is damaged\n"
    "  trim    [--retain DURATION]             remove what every consumer has applied; only while no agent runs\n"
    "  forget  --consumer NAME [--yes]         a consumer that will not come back; what waits for it may then go\n\n"
    "  --config FILE   whose spool.path to use (default " DEFAULT_CONFIG ")\n"
    "  --spool DIR     the spool itself, instead of --config\n"
    "  --json          for programs\n"
    "  --help          this text\n\n"
    "Without SOURCE: every source in the spool.\n";

enum { OPT_CONFIG = 1, OPT_SPOOL, OPT_JSON, OPT_LOG, OPT_FROM, OPT_TO, OPT_RETAIN, OPT_CONSUMER, OPT_YES, OPT_HELP, OPT_MOST };

static const ss_arg_option options[] = {
    {"--config", OPT_CONFIG, true, false}, {"--spool", OPT_SPOOL, true, false},
    {"--json", OPT_JSON, false, false},    {"--log", OPT_LOG, true, false},
    {"--from", OPT_FROM, true, false},     {"--to", OPT_TO, true, false},
    {"--retain", OPT_RETAIN, true, false}, {"--consumer", OPT_CONSUMER, true, false},
    {"--yes", OPT_YES, false, false},      {"--help", OPT_HELP, false, false},
    {"-h", OPT_HELP, false, true},         {NULL, 0, false, false},
};

#define TAKES(option) (UINT64_C(1) << (option))
#define TAKEN_BY_ALL (TAKES(OPT_CONFIG) | TAKES(OPT_SPOOL) | TAKES(OPT_HELP))

static const struct command {
    const char *name;
    uint64_t takes;
} commands[] = {
    {"ls", TAKES(OPT_JSON)},
    {"dump", TAKES(OPT_LOG) | TAKES(OPT_FROM) | TAKES(OPT_TO)},
    {"verify", TAKES(OPT_JSON)},
    {"trim", TAKES(OPT_RETAIN)},
    {"forget", TAKES(OPT_CONSUMER) | TAKES(OPT_YES)},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

SS_PRINTF(1, 2) static int misuse(const char *fmt, ...) {
    va_list list;
    fprintf(stderr, "sidespool: spool: ");
    va_start(list, fmt);
    vfprintf(stderr, fmt, list);
    va_end(list);
    fprintf(stderr, "\nTry: sidespool spool --help\n");
    return SS_EXIT_USAGE;
}

static bool number(const char *text, uint64_t *ret) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)
        return false;
    *ret = value;
    return true;
}

static bool duration(const char *text, uint64_t *ret) {
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || errno != 0)
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(end, units[i].unit) == 0 && value <= INT64_MAX / units[i].ms) {
            *ret = value * units[i].ms;
            return true;
        }
    if (value == 0 && *end == '\0') {
        *ret = 0;
        return true;
    }
    return false;
}

/* -1: go on; else the exit code. */
static int take_option(ss_spool_args *args, int option, const char *value, const char **spool) {
    switch (option) {
    case OPT_CONFIG:
        args->config = value;
        return -1;
    case OPT_SPOOL:
        *spool = value;
        return -1;
    case OPT_JSON:
        args->json = true;
        return -1;
    case OPT_YES:
        args->yes = true;
        return -1;
    case OPT_CONSUMER:
        args->consumer = value;
        return -1;
    case OPT_LOG:
        args->log = strcmp(value, "copy") == 0 ? SS_LOG_COPY : SS_LOG_STREAM;
        return args->log == SS_LOG_COPY || strcmp(value, "stream") == 0
                   ? -1
                   : misuse("--log wants stream or copy, not \"%s\".", SS_SHOWN(value));
    case OPT_FROM:
        return number(value, &args->from) ? -1 : misuse("--from wants a sequence, 0 or more, not \"%s\".", SS_SHOWN(value));
    case OPT_TO:
        return number(value, &args->to) ? -1 : misuse("--to wants a sequence, 0 or more, not \"%s\".", SS_SHOWN(value));
    case OPT_RETAIN:
        return duration(value, &args->retain_ms)
                   ? -1
                   : misuse("--retain wants a duration such as 24h, 30m or 0, not \"%s\".", SS_SHOWN(value));
    case OPT_HELP:
    default:
        (void)fputs(usage, stdout);
        return SS_EXIT_DONE;
    }
}

/* ---- the file: whosever it is, of its keys only these are wanted ---- */

struct peeked_route {
    const char *source, *name;
};

struct peeked {
    const char *path;
    ss_list routes;
};

static const ss_option peeked_spool[] = {{.key = "path", .type = SS_OPT_STRING, .offset = 0, .deflt = DEFAULT_SPOOL}, {0}};
static const ss_option peeked_route[] = {
    {.key = "source", .type = SS_OPT_STRING, .offset = offsetof(struct peeked_route, source)},
    {.key = "name", .type = SS_OPT_STRING, .offset = offsetof(struct peeked_route, name)},
    {0}};
static const ss_option peeked_keys[] = {
    {.key = "spool", .type = SS_OPT_BLOCK, .offset = offsetof(struct peeked, path), .children = peeked_spool},
    {.key = "routes",
     .type = SS_OPT_LIST,
     .offset = offsetof(struct peeked, routes),
     .children = peeked_route,
     .child_size = sizeof(struct peeked_route)},
    {0}};

bool ss_spool_route_configured(const char *file, const char *source, const char *consumer) {
    struct peeked peeked = {0};
    ss_config *config = NULL;
    ss_error err = {0};
    if (file == NULL || ss_config_peek(file, peeked_keys, &peeked, &config, &err) != SS_OK)
        return false;
    bool found = false;
    for (size_t i = 0; i < peeked.routes.count; i++) {
        const struct peeked_route *route = (const struct peeked_route *)peeked.routes.items + i;
        const char *name = route->name != NULL ? route->name : route->source;
        found = found || (route->source != NULL && strcmp(route->source, source) == 0 && strcmp(name, consumer) == 0);
    }
    ss_config_free(config);
    return found;
}

/* -1: args->path is there; else the exit code. */
static int find_path(ss_spool_args *args, const char *spool) {
    struct peeked peeked = {0};
    ss_config *config = NULL;
    ss_error err = {0};
    if (spool == NULL) {
        args->config = args->config != NULL ? args->config : DEFAULT_CONFIG;
        if (ss_config_peek(args->config, peeked_keys, &peeked, &config, &err) != SS_OK) {
            fprintf(stderr, "sidespool: %s; or name the spool itself by --spool DIR (%s)\n", err.text, err.code);
            return SS_EXIT_CONFIG;
        }
    }
    args->path = strdup(spool != NULL ? spool : peeked.path);
    ss_config_free(config);
    if (args->path != NULL)
        return -1;
    fprintf(stderr, "sidespool: out of memory\n");
    return SS_EXIT_AGAIN;
}

/* ---- all together ---- */

static int find_command(const char *name, const struct command **ret) {
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            *ret = &commands[i];
            return -1;
        }
        if (ss_nearer(name, commands[i].name, &least))
            best = commands[i].name;
    }
    return best != NULL ? misuse("There is no command \"%s\"; did you mean \"%s\"?", SS_SHOWN(name), best)
                        : misuse("There is no command \"%s\"; there are ls, dump, verify, trim and forget.", SS_SHOWN(name));
}

static int add_source(ss_spool_args *args, const char *name) {
    if (!ss_source_name_good(name))
        return misuse("\"%s\" cannot be a source's name, which is 1 to 63 of a-z, 0-9, _ and -.", SS_SHOWN(name));
    for (size_t i = 0; i < args->source_count; i++)
        if (strcmp(args->sources[i], name) == 0)
            return misuse("The source %s stands twice; say it once.", name);
    char **grown = realloc(args->sources, (args->source_count + 1) * sizeof(*grown));
    if (grown != NULL)
        args->sources = grown;
    char *copy = grown != NULL ? strdup(name) : NULL;
    if (copy == NULL) {
        fprintf(stderr, "sidespool: out of memory\n");
        return SS_EXIT_AGAIN;
    }
    args->sources[args->source_count++] = copy;
    return -1;
}

/* What only the whole line shows. */
static int check_line(const ss_spool_args *args, const struct command *command, uint64_t seen) {
    if (command == NULL)
        return misuse("A command is missing: ls, dump, verify, trim or forget.");
    for (const ss_arg_option *each = options; each->name != NULL; each++)
        if (seen & TAKES(each->id) && !((command->takes | TAKEN_BY_ALL) & TAKES(each->id)))
            return misuse("%s takes no %s.", command->name, each->name);
    if (seen & TAKES(OPT_CONFIG) && seen & TAKES(OPT_SPOOL))
        return misuse("--config and --spool exclude each other: both say where the spool is.");
    if (strcmp(command->name, "dump") == 0 && args->source_count != 1)
        return misuse("dump wants the name of one source.");
    if (args->from > args->to)
        return misuse("--from %" PRIu64 " lies behind --to %" PRIu64 ".", args->from, args->to);
    if (strcmp(command->name, "forget") == 0 && args->consumer == NULL)
        return misuse("forget wants --consumer NAME.");
    return -1;
}

int ss_spool_parse(int argc, char **argv, ss_spool_args *ret) {
    const struct command *command = NULL;
    const char *spool = NULL;
    ss_args line;
    int code = -1, got;
    ss_args_init(&line, argc, argv, 0, options);
    while (code == -1 && (got = ss_args_next(&line)) != SS_ARG_END) {
        if (got == SS_ARG_WRONG)
            code = misuse("%s", line.problem);
        else if (got != SS_ARG_WORD)
            code = take_option(ret, got, line.value, &spool);
        else if (command == NULL)
            code = find_command(line.value, &command);
        else
            code = add_source(ret, line.value);
    }
    if (code == -1)
        code = check_line(ret, command, line.seen);
    if (code == -1) {
        ret->command = command->name;
        code = find_path(ret, spool);
    }
    return code;
}
