/* `sidespool spool ls | dump | verify | trim | forget`: arguments, and the two short commands. Reads the files as any
 * reader does; needs neither agent nor applier. */
#include "spool/spool_command.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <yaml.h>

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

int ss_spool_say(const char *source, ss_status status, const ss_error *err) {
    fprintf(stderr, "sidespool: %s%s%s%s%s%s\n", source != NULL ? source : "", source != NULL ? ": " : "", err->text,
            err->code != NULL ? " (" : "", err->code != NULL ? err->code : "", err->code != NULL ? ")" : "");
    if (err->code != NULL && strcmp(err->code, SS_SPOOL_ACCESS) == 0)
        return SS_EXIT_REFUSED;
    if (err->code != NULL && strcmp(err->code, SS_SPOOL_ABSENT) == 0)
        return SS_EXIT_NOT_SO;
    if (err->code != NULL && (strcmp(err->code, SS_SPOOL_IO) == 0 || strcmp(err->code, SS_SPOOL_NOSPACE) == 0))
        return SS_EXIT_IO;
    if (err->code != NULL && strcmp(err->code, SS_SPOOL_LOCKED) == 0)
        return SS_EXIT_AGAIN;
    return status == SS_STOP ? SS_EXIT_NOT_SO : SS_EXIT_AGAIN;
}

const char *ss_spool_bytes_text(uint64_t bytes, char buf[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(buf, 32, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buf;
}

/* ---- spool.path ---- */

static yaml_node_t *value_of(yaml_document_t *doc, yaml_node_t *map, const char *key) {
    if (map == NULL || map->type != YAML_MAPPING_NODE)
        return NULL;
    for (yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top; pair++) {
        yaml_node_t *k = yaml_document_get_node(doc, pair->key);
        if (k != NULL && k->type == YAML_SCALAR_NODE && strcmp((const char *)k->data.scalar.value, key) == 0)
            return yaml_document_get_node(doc, pair->value);
    }
    return NULL;
}

/* Only spool.path is wanted: the daemons judge the rest of their file, and this command works for either's. */
ss_status ss_spool_config_path(const char *file, char **ret, ss_error *reterr) {
    yaml_parser_t parser;
    yaml_document_t doc;
    FILE *in = fopen(file, "re");
    if (in == NULL)
        return ss_fail_sys(reterr, SS_STOP, SS_SPOOL_CONFIG, errno, "cannot read %s; name the spool by --spool DIR", file);
    if (yaml_parser_initialize(&parser) == 0) {
        (void)fclose(in);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory reading %s", file);
    }
    yaml_parser_set_input_file(&parser, in);
    ss_status status = SS_OK;
    if (yaml_parser_load(&parser, &doc) == 0) {
        status = ss_fail(reterr, SS_STOP, SS_SPOOL_CONFIG, "%s:%zu:%zu: %s", file, parser.problem_mark.line + 1,
                         parser.problem_mark.column + 1, parser.problem != NULL ? parser.problem : "not YAML");
    } else {
        yaml_node_t *spool = value_of(&doc, yaml_document_get_root_node(&doc), "spool");
        yaml_node_t *path = value_of(&doc, spool, "path");
        const char *text = path != NULL && path->type == YAML_SCALAR_NODE ? (const char *)path->data.scalar.value
                                                                          : DEFAULT_SPOOL;
        char *copy = strdup(text);
        if (copy == NULL)
            status = ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory reading %s", file);
        else
            *ret = copy;
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    (void)fclose(in);
    return status;
}

/* Does the applier's file still have a route of that name? (Its name is its source's when it has none.) A file that cannot
 * be read as one says no: this only words a question. */
static bool route_configured(const char *file, const char *source, const char *consumer) {
    yaml_parser_t parser;
    yaml_document_t doc;
    bool found = false;
    FILE *in = file != NULL ? fopen(file, "re") : NULL;
    if (in == NULL || yaml_parser_initialize(&parser) == 0) {
        if (in != NULL)
            (void)fclose(in);
        return false;
    }
    yaml_parser_set_input_file(&parser, in);
    if (yaml_parser_load(&parser, &doc) != 0) {
        yaml_node_t *routes = value_of(&doc, yaml_document_get_root_node(&doc), "routes");
        bool list = routes != NULL && routes->type == YAML_SEQUENCE_NODE;
        for (yaml_node_item_t *item = list ? routes->data.sequence.items.start : NULL;
             list && item < routes->data.sequence.items.top; item++) {
            yaml_node_t *route = yaml_document_get_node(&doc, *item);
            yaml_node_t *of = value_of(&doc, route, "source"), *name = value_of(&doc, route, "name");
            name = name != NULL ? name : of;
            if (of != NULL && of->type == YAML_SCALAR_NODE && name->type == YAML_SCALAR_NODE)
                found = found || (strcmp((const char *)of->data.scalar.value, source) == 0 &&
                                  strcmp((const char *)name->data.scalar.value, consumer) == 0);
        }
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    (void)fclose(in);
    return found;
}

/* ---- which sources ---- */

static bool holds_a_log(const char *path, const char *name) {
    for (int kind = SS_LOG_COPY; kind <= SS_LOG_STREAM; kind++) {
        char *dir = NULL;
        ss_segment_names names = {0};
        ss_error err;
        if (asprintf(&dir, "%s/%s", path, name) < 0)
            return false;
        bool found = ss_segment_list(dir, (ss_log_kind)kind, &names, &err) == SS_OK && names.count > 0;
        ss_segment_names_done(&names);
        free(dir);
        if (found)
            return true;
    }
    return false;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int find_sources(ss_spool_args *args) {
    DIR *d = opendir(args->path);
    if (d == NULL) {
        int err = errno;
        fprintf(stderr, "sidespool: cannot look into %s: %s\n", args->path, strerror(err));
        return err == EACCES ? SS_EXIT_REFUSED : err == ENOENT ? SS_EXIT_NOT_SO : SS_EXIT_IO;
    }
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        if (entry->d_name[0] == '.' || !holds_a_log(args->path, entry->d_name))
            continue;
        char **grown = realloc(args->sources, (args->source_count + 1) * sizeof(*grown));
        char *name = strdup(entry->d_name);
        if (grown != NULL)
            args->sources = grown;
        if (grown == NULL || name == NULL) {
            free(name);
            closedir(d);
            fprintf(stderr, "sidespool: out of memory\n");
            return SS_EXIT_AGAIN;
        }
        args->sources[args->source_count++] = name;
    }
    closedir(d);
    if (args->source_count > 1)
        qsort(args->sources, args->source_count, sizeof(*args->sources), by_text);
    return SS_EXIT_DONE;
}

/* ---- trim, forget ---- */

static int trim_source(const ss_spool_args *args, const char *source) {
    ss_spool_options options = {.retain_ms = args->retain_ms};
    ss_spool *spool = NULL;
    ss_error err = {0};
    char *dir = NULL;
    struct stat st;
    /* opening a spool makes its directory: a mistyped name must not */
    if (asprintf(&dir, "%s/%s", args->path, source) < 0 || stat(dir, &st) != 0) {
        fprintf(stderr, "sidespool: there is no spool of %s in %s\n", source, args->path);
        free(dir);
        return SS_EXIT_NOT_SO;
    }
    free(dir);
    ss_status status = ss_spool_open(args->path, source, &options, &spool, &err);
    if (status != SS_OK && err.code != NULL && strcmp(err.code, SS_SPOOL_LOCKED) == 0) {
        fprintf(stderr, "sidespool: %s: its agent runs and trims by itself once a second\n", source);
        return SS_EXIT_AGAIN;
    }
    for (int kind = SS_LOG_COPY; status == SS_OK && kind <= SS_LOG_STREAM; kind++) {
        ss_segment_names names = {0};
        ss_log *log = NULL;
        uint64_t removed = 0;
        status = ss_segment_list(ss_spool_dir(spool), (ss_log_kind)kind, &names, &err);
        bool there = names.count > 0;
        ss_segment_names_done(&names);
        if (status != SS_OK || !there)
            continue;
        status = ss_log_open(spool, (ss_log_kind)kind, &log, &err);
        if (status == SS_OK)
            status = ss_log_trim(log, &removed, &err);
        if (status == SS_OK)
            printf("%s/%s: %" PRIu64 " segments removed\n", source, ss_kind_name((ss_log_kind)kind), removed);
        ss_log_close(log);
    }
    ss_spool_close(spool);
    return status == SS_OK ? SS_EXIT_DONE : ss_spool_say(source, status, &err);
}

typedef struct {
    const char *name;
    bool there;
    uint64_t copy, stream;
} wanted;

static void look_for(void *ctx, const char *consumer, uint64_t copy, uint64_t stream) {
    wanted *want = ctx;
    if (strcmp(consumer, want->name) == 0)
        *want = (wanted){want->name, true, copy, stream};
}

static int forget_in(const ss_spool_args *args, const char *source, size_t *found) {
    ss_cursors *cursors = NULL;
    ss_error err = {0};
    char *file = NULL;
    struct stat st;
    if (asprintf(&file, "%s/%s/cursors.mdb", args->path, source) < 0)
        return SS_EXIT_AGAIN;
    bool there = stat(file, &st) == 0;
    free(file);
    if (!there)
        return SS_EXIT_DONE; /* nobody ever registered */
    wanted want = {.name = args->consumer};
    ss_status status = ss_cursors_open(args->path, source, &cursors, &err);
    if (status == SS_OK)
        status = ss_cursors_each(cursors, look_for, &want, &err);
    int code = SS_EXIT_DONE;
    if (status == SS_OK && want.there) {
        ++*found;
        printf("%s: consumer %s has applied stream %" PRIu64 " and copy %" PRIu64 "\n", source, want.name, want.stream,
               want.copy);
        if (route_configured(args->config, source, want.name))
            printf("%s: route %s is still configured in %s: once forgotten, it may meet a gap and then needs a resync\n", source,
                   want.name, args->config);
        bool go = args->yes;
        if (!go && isatty(STDIN_FILENO)) {
            printf("Forget it? What waits only for it will be removed. [y/N] ");
            (void)fflush(stdout);
            int answer = getchar();
            go = answer == 'y' || answer == 'Y';
        } else if (!go) {
            fprintf(stderr, "sidespool: say --yes to forget it; what waits only for it will be removed\n");
        }
        code = go ? SS_EXIT_DONE : SS_EXIT_USAGE;
        if (go)
            status = ss_cursors_forget(cursors, args->consumer, NULL, &err);
        if (go && status == SS_OK)
            printf("%s: forgotten\n", source);
    }
    ss_cursors_close(cursors);
    return status == SS_OK ? code : ss_spool_say(source, status, &err);
}

static int forget(const ss_spool_args *args) {
    size_t found = 0;
    int code = SS_EXIT_DONE;
    for (size_t i = 0; i < args->source_count; i++) {
        int one = forget_in(args, args->sources[i], &found);
        code = code == SS_EXIT_DONE ? one : code;
    }
    if (found == 0 && code == SS_EXIT_DONE) {
        fprintf(stderr, "sidespool: no consumer %s is registered in %s; `sidespool spool ls` lists them\n", args->consumer, args->path);
        code = SS_EXIT_NOT_SO;
    }
    return code;
}

/* ---- a child ---- */

int ss_spool_in_child(void (*fn)(void *ctx, int fd), void *ctx, ss_buf *out, size_t most, int *ret_signal) {
    int fds[2];
    *ret_signal = 0;
    (void)fflush(NULL);
    if (pipe(fds) != 0)
        return SS_EXIT_AGAIN;
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        fn(ctx, fds[1]);
        (void)fflush(NULL);
        _exit(SS_EXIT_DONE);
    }
    close(fds[1]);
    uint8_t part[4096];
    ssize_t n;
    while (pid > 0 && ((n = read(fds[0], part, sizeof(part))) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0 && out->len + (size_t)n <= most)
            ss_buf_put(out, part, (size_t)n);
    close(fds[0]);
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return SS_EXIT_AGAIN;
    if (pid < 0)
        return SS_EXIT_AGAIN;
    if (WIFSIGNALED(status)) {
        *ret_signal = WTERMSIG(status);
        return SS_EXIT_NOT_SO;
    }
    return WEXITSTATUS(status);
}

/* ---- arguments ---- */

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
        if (strcmp(end, units[i].unit) == 0 && value <= UINT64_MAX / units[i].ms) {
            *ret = value * units[i].ms;
            return true;
        }
    if (value == 0 && *end == '\0') {
        *ret = 0;
        return true;
    }
    return false;
}

enum { OPT_CONFIG = 256, OPT_SPOOL, OPT_JSON, OPT_LOG, OPT_FROM, OPT_TO, OPT_RETAIN, OPT_CONSUMER, OPT_YES, OPT_HELP };

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG}, {"spool", required_argument, NULL, OPT_SPOOL},
    {"json", no_argument, NULL, OPT_JSON},           {"log", required_argument, NULL, OPT_LOG},
    {"from", required_argument, NULL, OPT_FROM},     {"to", required_argument, NULL, OPT_TO},
    {"retain", required_argument, NULL, OPT_RETAIN}, {"consumer", required_argument, NULL, OPT_CONSUMER},
    {"yes", no_argument, NULL, OPT_YES},             {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* -1: go on; else the exit code. */
static int parse_option(ss_spool_args *args, int option, const char *value, const char **config, const char **spool) {
    bool good = true;
    switch (option) {
    case OPT_CONFIG:
        *config = value;
        break;
    case OPT_SPOOL:
        *spool = value;
        break;
    case OPT_JSON:
        args->json = true;
        break;
    case OPT_LOG:
        good = strcmp(value, "copy") == 0 || strcmp(value, "stream") == 0;
        args->log = strcmp(value, "copy") == 0 ? SS_LOG_COPY : SS_LOG_STREAM;
        args->log_given = true;
        break;
    case OPT_FROM:
        good = number(value, &args->from);
        break;
    case OPT_TO:
        good = number(value, &args->to);
        break;
    case OPT_RETAIN:
        good = duration(value, &args->retain_ms);
        break;
    case OPT_CONSUMER:
        args->consumer = value;
        break;
    case OPT_YES:
        args->yes = true;
        break;
    case OPT_HELP:
        (void)fputs(usage, stdout);
        return SS_EXIT_DONE;
    default:
        (void)fputs(usage, stderr);
        return SS_EXIT_USAGE;
    }
    if (good)
        return -1;
    fprintf(stderr, "sidespool: spool: \"%s\" is not a value for that option\n%s", value, usage);
    return SS_EXIT_USAGE;
}

static int misuse(const char *what) {
    fprintf(stderr, "sidespool: spool: %s\n%s", what, usage);
    return SS_EXIT_USAGE;
}

static int resolve(ss_spool_args *args, int count, char **words, const char *config, const char *spool) {
    ss_error err = {0};
    if (config != NULL && spool != NULL)
        return misuse("--config and --spool exclude each other");
    if (spool != NULL) {
        args->path = strdup(spool);
        if (args->path == NULL)
            return SS_EXIT_AGAIN;
    } else {
        args->config = config != NULL ? config : DEFAULT_CONFIG;
        if (ss_spool_config_path(args->config, &args->path, &err) != SS_OK) {
            (void)ss_spool_say(NULL, SS_STOP, &err);
            return SS_EXIT_CONFIG;
        }
    }
    if (count == 0)
        return find_sources(args);
    args->sources = calloc((size_t)count, sizeof(*args->sources));
    for (int i = 0; args->sources != NULL && i < count; i++) {
        if (strchr(words[i], '/') != NULL || words[i][0] == '.')
            return misuse("a source's name has no slash and does not begin with a dot");
        char *name = strdup(words[i]);
        if (name == NULL)
            return SS_EXIT_AGAIN;
        args->sources[args->source_count++] = name;
    }
    return args->sources == NULL ? SS_EXIT_AGAIN : SS_EXIT_DONE;
}

static int run(const char *command, const ss_spool_args *args) {
    if (strcmp(command, "ls") == 0)
        return ss_spool_ls(args);
    if (strcmp(command, "verify") == 0)
        return ss_spool_verify(args);
    if (strcmp(command, "dump") == 0)
        return args->source_count == 1 ? ss_spool_dump(args) : misuse("dump wants the name of one source");
    if (strcmp(command, "forget") == 0)
        return args->consumer != NULL ? forget(args) : misuse("forget wants --consumer NAME");
    int code = SS_EXIT_DONE;
    for (size_t i = 0; i < args->source_count; i++) {
        int one = trim_source(args, args->sources[i]);
        code = code == SS_EXIT_DONE ? one : code;
    }
    return code;
}

int ss_spool_command(int argc, char **argv) {
    static const char *const commands[] = {"ls", "dump", "verify", "trim", "forget"};
    ss_spool_args args = {.log = SS_LOG_STREAM, .to = UINT64_MAX};
    const char *config = NULL, *spool = NULL, *command = argc > 0 ? argv[0] : "";
    if (strcmp(command, "--help") == 0 || strcmp(command, "help") == 0) {
        (void)fputs(usage, stdout);
        return SS_EXIT_DONE;
    }
    bool known = false;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        known = known || strcmp(command, commands[i]) == 0;
    if (!known)
        return misuse(command[0] == '\0' ? "a command is missing" : "there is no such command");
    int option, code = -1;
    optind = 0; /* glibc: scan anew, whatever was scanned before */
    while (code == -1 && (option = getopt_long(argc, argv, "", options, NULL)) != -1)
        code = parse_option(&args, option, optarg, &config, &spool);
    if (code == -1) {
        code = resolve(&args, argc - optind, argv + optind, config, spool);
        if (code == SS_EXIT_DONE)
            code = run(command, &args);
    }
    if (fflush(stdout) != 0 && code == SS_EXIT_DONE)
        code = SS_EXIT_IO;
    for (size_t i = 0; i < args.source_count; i++)
        free(args.sources[i]);
    free(args.sources);
    free(args.path);
    return code;
}
