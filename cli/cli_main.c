/* sidespool: the command that a person types. */
#include "cli/cli.h"
#include "sidespool/spool.h"
#include "sidespool/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static bool terminal(int fd) {
    const char *term = getenv("TERM");
    return isatty(fd) == 1 && !getenv("NO_COLOR") && term && strcmp(term, "dumb") != 0;
}

/* Prints `text` to `file` and ends it. Returns exit_code, or 74 when it could not be written. */
static int print_out(FILE *file, ss_buf *text, int exit_code) {
    bool bad = text->bad;
    if (!bad && text->len > 0 && fwrite(text->ptr, 1, text->len, file) != text->len)
        bad = true;
    if (fflush(file) != 0)
        bad = true;
    ss_buf_clear(text);
    return bad ? SS_EXIT_IO : exit_code;
}

static void say_refused(const json_t *answer, ss_buf *out) {
    const char *code = json_string_value(json_object_get(answer, "code"));
    const char *error = json_string_value(json_object_get(answer, "error"));
    ss_buf_printf(out, "sidespool: %s%s%s%s\n",
                  error ? error : "The applier refused without saying why.", code ? " (" : "",
                  code ? code : "", code ? ")" : "");
}

/* ---- status ---------------------------------------------------------------------------------- */

static void put_json(const json_t *document, ss_buf *out) {
    char *text = json_dumps(document, JSON_COMPACT | JSON_REAL_PRECISION(15));
    if (!text)
        out->bad = true;
    else
        ss_buf_printf(out, "%s\n", text);
    free(text);
}

static int status_once(const ss_cli_args *args, bool fancy, ss_buf *out, ss_buf *errors) {
    json_t *answer;
    int exit_code =
        ss_cli_ask(args, json_pack("{s:s}", "cmd", "status"), NULL, NULL, &answer, errors);
    if (answer && exit_code != SS_EXIT_DONE) {
        say_refused(answer, errors);
    } else if (answer) {
        (void)json_object_del(answer, "ok");
        (void)json_object_del(answer, "exit");
        if (args->json)
            put_json(answer, out);
        else
            ss_view_status(answer, fancy, out);
    }
    json_decref(answer);
    return exit_code;
}

/* Draws over the last picture, line by line, so that nothing flickers. */
static void redraw(ss_buf *picture, ss_buf *out) {
    char now[32];
    time_t seconds = time(NULL);
    struct tm tm;
    ss_buf_put_str(out, "\033[H");
    if (localtime_r(&seconds, &tm) && strftime(now, sizeof(now), "%H:%M:%S", &tm) > 0)
        ss_buf_printf(out, "sidespool status, %s, ^C ends it\033[K\n\033[K\n", now);
    const char *text = ss_buf_cstr(picture);
    for (const char *end; (end = strchr(text, '\n')) != NULL; text = end + 1) {
        ss_buf_put(out, text, (size_t)(end - text));
        ss_buf_put_str(out, "\033[K\n");
    }
    ss_buf_put_str(out, "\033[J");
}

static int watch(const ss_cli_args *args, bool fancy) {
    ss_buf picture, out;
    const struct timespec second = {1, 0};
    int exit_code = SS_EXIT_DONE;
    ss_buf_init(&picture);
    ss_buf_init(&out);
    bool draws = fancy && !args->json;
    if (draws)
        ss_buf_put_str(&out, "\033[2J");
    do {
        /* An applier that is away shows in the picture: it may come back. */
        exit_code = status_once(args, fancy, &picture, &picture);
        if (exit_code == SS_EXIT_CONFIG || exit_code == SS_EXIT_REFUSED ||
            exit_code == SS_EXIT_USAGE)
            break;
        if (draws)
            redraw(&picture, &out);
        else
            ss_buf_printf(&out, "%s%s", ss_buf_cstr(&picture), args->json ? "" : "\n");
        out.bad |= picture.bad;
        ss_buf_clear(&picture);
        exit_code = print_out(stdout, &out, exit_code);
    } while (exit_code != SS_EXIT_IO && nanosleep(&second, NULL) == 0);
    if (picture.len > 0)
        exit_code = print_out(stderr, &picture, exit_code);
    ss_buf_done(&picture);
    ss_buf_done(&out);
    return exit_code;
}

/* ---- the other commands ---------------------------------------------------------------------- */

/* One line on stderr, only on a terminal, drawn over itself. */
static void show_progress(void *ctx, const json_t *progress) {
    const char *verb = ctx;
    const char *table = json_string_value(json_object_get(progress, "table"));
    const char *step = json_string_value(json_object_get(progress, "step"));
    const char *state = json_string_value(json_object_get(progress, "state"));
    const char *reason = json_string_value(json_object_get(progress, "reason"));
    const json_t *behind = json_object_get(progress, "behind_records");
    const json_t *done = json_object_get(progress, "done"),
                 *total = json_object_get(progress, "total");
    (void)fprintf(stderr, "\r\033[K%s", verb);
    if (state)
        (void)fprintf(stderr, ": %s%s%.80s", state, reason && *reason ? ": " : "",
                      reason ? reason : "");
    if (json_is_integer(behind))
        (void)fprintf(stderr, ", %s records behind",
                      ss_format_count(json_integer_value(behind)).text);
    if (step)
        (void)fprintf(stderr, ": %.80s", step);
    if (table)
        (void)fprintf(stderr, " %.80s", table);
    if (json_is_integer(total))
        (void)fprintf(stderr, " (%s of %s)", ss_format_count(json_integer_value(done)).text,
                      ss_format_count(json_integer_value(total)).text);
    (void)fflush(stderr);
}

static json_t *request_of(const ss_cli_args *args) {
    json_t *request = json_pack("{s:s,s:s}", "cmd", args->command, "route", args->route);
    if (strcmp(args->command, "resync") == 0 || strcmp(args->command, "verify") == 0) {
        json_t *tables = json_array();
        for (int i = 0; i < args->word_count; i++)
            (void)json_array_append_new(tables, json_string(args->words[i]));
        (void)json_object_set_new(request, "tables", tables);
    }
    if (args->timeout >= 0)
        (void)json_object_set_new(request, "timeout", json_real(args->timeout));
    if (args->force)
        (void)json_object_set_new(request, "force", json_true());
    if (args->from > 0)
        (void)json_object_set_new(request, "from", json_integer((json_int_t)args->from));
    return request;
}

static int route_command(const ss_cli_args *args) {
    ss_buf out, errors;
    json_t *answer;
    bool shows = terminal(STDERR_FILENO);
    ss_buf_init(&out);
    ss_buf_init(&errors);
    int exit_code = ss_cli_ask(args, request_of(args), shows ? show_progress : NULL,
                               (void *)(uintptr_t)args->command, &answer, &errors);
    if (shows)
        (void)fputs("\r\033[K", stderr);
    const json_t *result = json_object_get(answer, "result");
    if (result) {
        json_t *document = ss_verify_document(result);
        if (args->json)
            put_json(document, &out);
        else
            ss_view_verify(document, args, terminal(STDOUT_FILENO), &out);
        json_decref(document);
    } else if (answer && exit_code != SS_EXIT_DONE) {
        say_refused(answer, &errors);
    }
    json_decref(answer);
    exit_code = print_out(stdout, &out, exit_code);
    exit_code = print_out(stderr, &errors, exit_code);
    ss_buf_done(&out);
    ss_buf_done(&errors);
    return exit_code;
}

static void put_catalogue(ss_buf *out) {
    size_t count;
    const ss_error_entry *entries = ss_error_table(&count);
    ss_buf_put_str(out,
                   "# Error codes\n\nEvery code, what it means, and its cure. `sidespool explain "
                   "CODE` prints the same. "
                   "Codes are stable.\nThis file is generated: `sidespool explain --markdown`.\n");
    for (size_t i = 0; i < count; i++)
        ss_buf_printf(out, "\n## %s\n\n%s\n\n**Cure:** %s\n", entries[i].code, entries[i].meaning,
                      entries[i].cure);
}

static int explain(const ss_cli_args *args, ss_buf *out) {
    char code[64];
    if (args->markdown) {
        put_catalogue(out);
        return print_out(stdout, out, SS_EXIT_DONE);
    }
    (void)snprintf(code, sizeof(code), "%s", args->words[0]);
    for (char *c = code; *c; c++)
        if (*c >= 'a' && *c <= 'z')
            *c = (char)(*c - 'a' + 'A');
    const ss_error_entry *entry = ss_error_find(code);
    if (!entry) {
        ss_cli_say(out, "SS-CLI-0006", "There is no code \"%s\"; codes look like SS-PG-0012, and docs/errors.md lists them.",
                   SS_SHOWN(args->words[0]));
        return print_out(stderr, out, SS_EXIT_NOT_SO);
    }
    ss_buf_printf(out, "%s\n  %s\n  Cure: %s\n", entry->code, entry->meaning, entry->cure);
    return print_out(stdout, out, SS_EXIT_DONE);
}

/* `spool` reads its own options (spool/spool_command.c), --config among them; one that stands
 * before the word is put behind. */
static int spool(int argc, char **argv, int at) {
    char **words = calloc((size_t)argc + 1, sizeof(*words));
    int count = 0;
    if (!words)
        return SS_EXIT_IO;
    for (int i = at + 1; i < argc; i++)
        words[count++] = argv[i];
    for (int i = 1; i < at; i++)
        words[count++] = argv[i];
    int exit_code = ss_spool_command(count, words);
    free(words);
    return exit_code;
}

static int run(const ss_cli_args *args, ss_buf *out) {
    if (args->help) {
        ss_cli_usage(args->command, out);
        return print_out(stdout, out, SS_EXIT_DONE);
    }
    if (args->version) {
        ss_buf_printf(out, "sidespool %s\n", SS_VERSION);
        return print_out(stdout, out, SS_EXIT_DONE);
    }
    if (strcmp(args->command, "explain") == 0)
        return explain(args, out);
    if (strcmp(args->command, "status") != 0)
        return route_command(args);
    bool fancy = terminal(STDOUT_FILENO);
    if (args->watch)
        return watch(args, fancy);
    ss_buf errors;
    ss_buf_init(&errors);
    int exit_code = status_once(args, fancy, out, &errors);
    exit_code = print_out(stdout, out, exit_code);
    exit_code = print_out(stderr, &errors, exit_code);
    ss_buf_done(&errors);
    return exit_code;
}

int main(int argc, char **argv) {
    ss_cli_args args;
    ss_buf out;
    ss_buf_init(&out);
    int exit_code, at = ss_cli_find_spool(argc, argv);
    if (at > 0)
        exit_code = spool(argc, argv, at);
    else if (ss_cli_parse(argc, argv, &args, &out))
        exit_code = run(&args, &out);
    else
        exit_code = print_out(stderr, &out, SS_EXIT_USAGE);
    ss_buf_done(&out);
    return exit_code;
}
