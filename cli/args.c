/* Arguments: each command knows which options it takes; every error says what is wrong and shows
 * the right usage. */
#include "cli/cli.h"
#include "sidespool/args.h"
#include "sidespool/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TAKES_ROUTE = 1,
    TAKES_JSON = 2,
    TAKES_WATCH = 4,
    TAKES_TIMEOUT = 8,
    TAKES_FROM = 16,
    TAKES_WORDS = 32,
    TAKES_MARKDOWN = 64,
    TAKES_FORCE = 128
};

static const struct command {
    const char *name, *usage, *help;
    unsigned takes;
} commands[] = {
    {"status", "sidespool status [--json] [--watch]",
     "every route and its agent, and a line for each trouble", TAKES_JSON | TAKES_WATCH},
    {"wait", "sidespool wait --route R [--timeout S]",
     "until the target holds all that the source had committed at the call",
     TAKES_ROUTE | TAKES_TIMEOUT},
    {"pause", "sidespool pause --route R", "stop applying; changes wait in the spool", TAKES_ROUTE},
    {"resume", "sidespool resume --route R", "go on after a pause or a halt", TAKES_ROUTE},
    {"resync", "sidespool resync --route R [TABLE…]",
     "copy tables anew; readers see the old rows until then", TAKES_ROUTE | TAKES_WORDS},
    {"verify", "sidespool verify --route R [--json] [TABLE…]",
     "compare every cell of source and target", TAKES_ROUTE | TAKES_JSON | TAKES_WORDS},
    {"replay", "sidespool replay --route R --from SEQ [--force]",
     "for a target whose tables were put back without their bookkeeping: apply from SEQ again; "
     "--force says that they are as they were just before SEQ",
     TAKES_ROUTE | TAKES_FROM | TAKES_FORCE},
    {"spool", "sidespool spool ls | dump | verify | trim | forget …",
     "look into the spool; see `sidespool spool --help`", TAKES_WORDS},
    {"explain", "sidespool explain CODE", "what an error code means, and its cure",
     TAKES_WORDS | TAKES_MARKDOWN},
};

static const struct command *find_command(const char *name) {
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* What a command's own --help adds: units, defaults, and what silence means. docs/commands.md says the same. */
static const struct {
    const char *name, *text;
} details[] = {
    {"status", "  --json    one JSON object on one line (docs/status-json.md): times in microseconds since 1970\n"
               "            UTC, *_seconds in seconds, sizes in bytes; null: unknown\n"
               "  --watch   again each second, until ^C\n"
               "LAG is 0 only when nothing waits and the agent is there to say so. No line with `!`: no trouble.\n"},
    {"wait", "  --timeout T   seconds, or 500ms, 90s, 5m, 2h; then 75. Without it: as long as it takes\n"
             "It prints nothing when the target holds it all (0). 1: the route or its agent is halted; 69: the\n"
             "agent is not running.\n"},
    {"pause", "Silence and 0: nothing is being applied any more. It holds over restarts, until `resume`.\n"},
    {"resume", "Silence and 0: the route has taken it; `status` shows how it goes on.\n"},
    {"resync", "Without TABLE (schema.table): all tables of the route. Silence and 0: it is taken; `wait` waits for\n"
               "the end. A halted route goes on with it.\n"},
    {"verify", "  --json    docs/status-json.md\n"
               "Without TABLE (schema.table): all tables of the route. 0: every cell is equal; 1: rows differ, or the\n"
               "route is halted; 75: not now (a table is being copied, the route is paused).\n"},
    {"replay", "  --from SEQ   1 or more; `sidespool spool ls` shows what is held. No default\n"
               "Only for a route that is paused or halted, whose target was put back to that place by hand.\n"},
    {"explain", "  --markdown   all codes, as in docs/errors.md\n"},
};

static bool put_command(const char *name, ss_buf *out) {
    const struct command *command = name ? find_command(name) : NULL;
    if (!command)
        return false;
    ss_buf_printf(out, "Usage: %s\n%s\n\n", command->usage, command->help);
    for (size_t i = 0; i < sizeof(details) / sizeof(details[0]); i++)
        if (strcmp(details[i].name, name) == 0)
            ss_buf_put_str(out, details[i].text);
    if (command->takes & TAKES_ROUTE)
        ss_buf_put_str(out, "  --route R       a name that `sidespool status` shows\n");
    ss_buf_put_str(out,
                   "  --config FILE   the applier's file (default /etc/sidespool/applier.yaml)\n");
    return true;
}

void ss_cli_usage(const char *name, ss_buf *out) {
    if (put_command(name, out))
        return;
    ss_buf_put_str(out, "Usage: sidespool COMMAND [--config FILE] …\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        ss_buf_printf(out, "  %s\n      %s\n", commands[i].usage, commands[i].help);
    ss_buf_put_str(out,
                   "\n  --config FILE   the applier's file (default /etc/sidespool/applier.yaml)\n"
                   "  --help          this text; sidespool COMMAND --help says more\n"
                   "  --version       the version\n"
                   "\nExit codes: 0 done, 1 the thing asked about is not so, 2 usage, 69 daemon "
                   "absent, 74 I/O,\n"
                   "75 try again, 77 refused, 78 configuration.\n");
}

static bool wrong(ss_buf *out, const struct command *command, const char *fmt, ...) SS_PRINTF(3, 4);
static bool wrong(ss_buf *out, const struct command *command, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    ss_buf_printf(out, "sidespool: %s%s%s\n", command ? command->name : "", command ? ": " : "",
                  text);
    if (command)
        ss_buf_printf(out, "Usage: %s\n", command->usage);
    else
        ss_buf_put_str(out, "Try: sidespool --help\n");
    return false;
}

static const char *nearest(const char *name) {
    const char *best = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (ss_nearer(name, commands[i].name, &least))
            best = commands[i].name;
    return best;
}

enum {
    OPT_CONFIG = 1,
    OPT_ROUTE,
    OPT_JSON,
    OPT_WATCH,
    OPT_TIMEOUT,
    OPT_FROM,
    OPT_HELP,
    OPT_VERSION,
    OPT_MARKDOWN,
    OPT_FORCE
};

static const ss_arg_option options[] = {
    {"--config", OPT_CONFIG, true, false},   {"--route", OPT_ROUTE, true, false},
    {"--json", OPT_JSON, false, false},      {"--watch", OPT_WATCH, false, false},
    {"--timeout", OPT_TIMEOUT, true, false}, {"--from", OPT_FROM, true, false},
    {"--help", OPT_HELP, false, false},      {"-h", OPT_HELP, false, true},
    {"--version", OPT_VERSION, false, false}, {"--markdown", OPT_MARKDOWN, false, false},
    {"--force", OPT_FORCE, false, false},    {NULL, 0, false, false}};

static bool take_from(const char *text, uint64_t *ret) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end || text[0] < '0' || text[0] > '9' || number == 0 || number > INT64_MAX)
        return false;
    *ret = number;
    return true;
}

/* false: a value that cannot be read; the sentence is in out. */
static bool take_option(int option, const char *value, ss_cli_args *args, unsigned *given,
                        ss_buf *out) {
    switch (option) {
    case OPT_CONFIG:
        args->config = value;
        args->config_given = true;
        return true;
    case OPT_ROUTE:
        args->route = value;
        *given |= TAKES_ROUTE;
        return true;
    case OPT_JSON:
        args->json = true;
        *given |= TAKES_JSON;
        return true;
    case OPT_WATCH:
        args->watch = true;
        *given |= TAKES_WATCH;
        return true;
    case OPT_MARKDOWN:
        args->markdown = true;
        *given |= TAKES_MARKDOWN;
        return true;
    case OPT_FORCE:
        args->force = true;
        *given |= TAKES_FORCE;
        return true;
    case OPT_HELP:
        args->help = true;
        return true;
    case OPT_VERSION:
        args->version = true;
        return true;
    case OPT_TIMEOUT:
        *given |= TAKES_TIMEOUT;
        if (ss_parse_seconds(value, &args->timeout))
            return true;
        return wrong(out, NULL,
                     "--timeout wants seconds or a duration such as 30, 90s or 5m, up to 1000d, not \"%s\".",
                     SS_SHOWN(value));
    default:
        *given |= TAKES_FROM;
        if (take_from(value, &args->from))
            return true;
        return wrong(out, NULL, "--from wants a sequence, 1 or more, not \"%s\".", SS_SHOWN(value));
    }
}

/* They go to the applier in JSON. A name that cannot would be left out there, and no table at all means every table. */
static bool check_names(const struct command *command, const ss_cli_args *args, ss_buf *out) {
    if (args->route && !ss_utf8_good(args->route))
        return wrong(out, command, "--route \"%s\" is not UTF-8, as every route's name is.", SS_SHOWN(args->route));
    for (int i = 0; i < args->word_count; i++) {
        const char *word = args->words[i];
        if (*word == '\0')
            return wrong(out, command, "An empty TABLE was given; write schema.table.");
        if (!ss_utf8_good(word))
            return wrong(out, command, "TABLE \"%s\" is not UTF-8, as every table's name is here.", SS_SHOWN(word));
        for (int k = 0; k < i; k++)
            if (strcmp(word, args->words[k]) == 0)
                return wrong(out, command, "TABLE \"%s\" stands twice; say it once.", SS_SHOWN(word));
    }
    return true;
}

static bool check_command(const struct command *command, const ss_cli_args *args, unsigned given,
                          ss_buf *out) {
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{TAKES_ROUTE, "--route"}, {TAKES_JSON, "--json"},
                 {TAKES_WATCH, "--watch"}, {TAKES_TIMEOUT, "--timeout"},
                 {TAKES_FROM, "--from"},   {TAKES_MARKDOWN, "--markdown"},
                 {TAKES_FORCE, "--force"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if ((given & names[i].bit) && !(command->takes & names[i].bit))
            return wrong(out, command, "takes no %s.", names[i].name);
    if (args->word_count > 0 && !(command->takes & TAKES_WORDS))
        return wrong(out, command, "\"%s\" is one word too many.", SS_SHOWN(args->words[0]));
    if (strcmp(command->name, "explain") == 0)
        return args->word_count == !args->markdown ||
               wrong(out, command, args->word_count == 0 ? "CODE is missing."
                                   : args->markdown      ? "--markdown prints all codes and takes none."
                                                         : "takes one code.");
    if ((command->takes & TAKES_ROUTE) && !args->route)
        return wrong(out, command, "--route is missing.");
    if ((command->takes & TAKES_FROM) && !args->from)
        return wrong(out, command, "--from is missing.");
    return check_names(command, args, out);
}

/* The first word is the command, the others are put together behind argv[0]. */
static bool take_line(ss_args *line, ss_cli_args *ret, unsigned *given, ss_buf *out) {
    int got;
    ret->words = line->argv + 1;
    while ((got = ss_args_next(line)) != SS_ARG_END) {
        if (got == SS_ARG_WRONG)
            return wrong(out, NULL, "%s", line->problem);
        if (got == SS_ARG_WORD && !ret->command)
            ret->command = line->value;
        else if (got == SS_ARG_WORD)
            ret->words[ret->word_count++] = (char *)(uintptr_t)line->value;
        else if (!take_option(got, line->value, ret, given, out))
            return false;
    }
    return true;
}

bool ss_cli_parse(int argc, char **argv, ss_cli_args *ret, ss_buf *out) {
    unsigned given = 0;
    ss_args line;
    *ret = (ss_cli_args){.config = "/etc/sidespool/applier.yaml", .timeout = -1};
    ss_args_init(&line, argc, argv, 1, options);
    if (!take_line(&line, ret, &given, out))
        return false;
    const struct command *command = ret->command ? find_command(ret->command) : NULL;
    if (!ret->command && !ret->help && !ret->version)
        return wrong(out, NULL, "A command is missing.");
    if (ret->command && !command) {
        const char *near = nearest(ret->command);
        return near ? wrong(out, NULL, "There is no command \"%s\"; did you mean \"%s\"?",
                            SS_SHOWN(ret->command), near)
                    : wrong(out, NULL, "There is no command \"%s\".", SS_SHOWN(ret->command));
    }
    return ret->help || ret->version || check_command(command, ret, given, out);
}

int ss_cli_find_spool(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0)
            continue;
        if (strcmp(argv[i], "--config") == 0)
            i++;
        else if (strncmp(argv[i], "--config=", 9) != 0)
            return strcmp(argv[i], "spool") == 0 ? i : 0;
    }
    return 0;
}
