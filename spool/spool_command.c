/* `sidespool spool ls | dump | verify | trim | forget`: which sources are meant, and the two short commands. Reads the files as
 * any reader does; needs neither agent nor applier. */
#include "spool/spool_command.h"

#include "sidespool/text.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* -1: go on; else the exit code. */
static int find_sources(ss_spool_args *args) {
    DIR *d = opendir(args->path);
    if (d == NULL) {
        int err = errno;
        fprintf(stderr, "sidespool: cannot look into %s, which %s names: %s\n", SS_SHOWN(args->path),
                args->config != NULL ? "spool.path" : "--spool", strerror(err));
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
    return -1;
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
        if (ss_spool_route_configured(args->config, source, want.name))
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
        fprintf(stderr, "sidespool: no consumer %s is registered in %s; `sidespool spool ls` lists them\n",
                SS_SHOWN(args->consumer), SS_SHOWN(args->path));
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

/* ---- the command ---- */

static int trim(const ss_spool_args *args) {
    int code = SS_EXIT_DONE;
    for (size_t i = 0; i < args->source_count; i++) {
        int one = trim_source(args, args->sources[i]);
        code = code == SS_EXIT_DONE ? one : code;
    }
    return code;
}

static int run(const ss_spool_args *args) {
    static const struct {
        const char *name;
        int (*fn)(const ss_spool_args *args);
    } commands[] = {{"ls", ss_spool_ls}, {"verify", ss_spool_verify}, {"dump", ss_spool_dump}, {"forget", forget}, {"trim", trim}};
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(args->command, commands[i].name) == 0)
            return commands[i].fn(args);
    return SS_EXIT_USAGE;
}

int ss_spool_command(int argc, char **argv) {
    ss_spool_args args = {.log = SS_LOG_STREAM, .to = UINT64_MAX};
    int code = ss_spool_parse(argc, argv, &args);
    if (code == -1 && args.source_count == 0)
        code = find_sources(&args);
    if (code == -1)
        code = run(&args);
    if (fflush(stdout) != 0 && code == SS_EXIT_DONE)
        code = SS_EXIT_IO;
    for (size_t i = 0; i < args.source_count; i++)
        free(args.sources[i]);
    free(args.sources);
    free(args.path);
    return code;
}
