/* sidespool-applier: the supervisor, its --check, and (by --route, which it alone uses) one route.
 */
#include "applier/supervisor.h"

#include "sidespool/args.h"
#include "sidespool/log.h"
#include "sidespool/patient.h"
#include "sidespool/text.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *config, *route, *consumers;
    bool check, help, version, markdown;
} arguments;

static const char usage_text[] =
    "Usage: sidespool-applier [--config FILE] [--check]\n"
    "\n"
    "Applies what the agents have captured: one process for each route of FILE.\n"
    "\n"
    "  --config FILE   the applier's file (default " SS_APPLIER_CONFIG_DEFAULT ")\n"
    "  --check         look at every precondition, a line each: ok, warn (it works, but see the\n"
    "                  advice) or FAIL; exit 0, or 78 when one fails; changes nothing\n"
    "  --help          this text and every key of FILE\n"
    "  --version       the version\n"
    "\n"
    "Exit codes: 0 done, 2 usage, 74 I/O, 75 another applier runs, 78 configuration.\n";

/* ---- --check --------------------------------------------------------------------------------- */

typedef struct {
    const char *of; /* route or "applier" */
    bool bad;
} check_state;

static void check_line(void *ctx, bool ok, const char *what, const char *found,
                       const char *remedy) {
    check_state *state = ctx;
    static const char again[] = "; it is tried again."; /* by a route, not by a check */
    bool advice = remedy && *remedy;
    size_t len = found ? strlen(found) : 0;
    state->bad |= !ok;
    if (len >= sizeof(again) - 1 && strcmp(found + len - (sizeof(again) - 1), again) == 0)
        len -= sizeof(again) - 1;
    (void)printf("%-4s  %s: %s%s%.*s", !ok ? "FAIL" : advice ? "warn" : "ok", state->of, what,
                 len > 0 ? ": " : "", (int)len, found ? found : "");
    if (advice)
        (void)printf("\n      -> %s", remedy);
    (void)printf("\n");
}

static void check_error(check_state *state, const char *what, const ss_error *err) {
    const ss_error_entry *entry = err->code ? ss_error_find(err->code) : NULL;
    char found[SS_ERROR_TEXT + 32];
    (void)snprintf(found, sizeof(found), "%s%s%s%s", err->text, err->code ? " (" : "",
                   err->code ? err->code : "", err->code ? ")" : "");
    check_line(state, false, what, found, entry ? entry->cure : "");
}

static void check_directory(check_state *state, const char *what, const char *path,
                            const char *remedy) {
    struct stat st;
    char found[512];
    bool ok = stat(path, &st) == 0 && S_ISDIR(st.st_mode) && access(path, R_OK | W_OK | X_OK) == 0;
    (void)snprintf(found, sizeof(found), "%s%s%s", path, ok ? "" : ": ",
                   ok                                             ? ""
                   : stat(path, &st) == 0 && !S_ISDIR(st.st_mode) ? "not a directory"
                                                                  : strerror(errno));
    check_line(state, ok, what, found, ok ? "" : remedy);
}

static void check_socket(check_state *state, const ss_applier_config *config) {
    ss_error err = {0};
    char path[SS_SOCKET_PATH_MAX + 1];
    if (ss_control_path(config, path, &err) != SS_OK) {
        check_error(state, "control socket", &err);
        return;
    }
    char *slash = strrchr(path, '/');
    if (slash == path)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    check_directory(state, "directory of the control socket", slash ? path : ".",
                    "create it, writable for the applier, or set control: {socket: …}");
}

static void check_source(check_state *state, const ss_applier_config *config,
                         const ss_route_config *route) {
    char path[4096], remedy[300];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/%s", config->spool_path, route->source);
    if (stat(path, &st) != 0 && errno == ENOENT) {
        (void)snprintf(remedy, sizeof(remedy),
                       "the route waits until sidespool-postgres@%s has made it", route->source);
        check_line(state, true, "spool of its source", "not there yet", remedy);
        return;
    }
    check_directory(state, "spool of its source", path,
                    "add the applier's user to the group that owns it (sidespool), mode 2770");
}

static int check(const ss_applier_config *config) {
    check_state state = {.of = "applier"};
    check_line(&state, true, "configuration", config->path, "");
    check_directory(
        &state, "spool.path", config->spool_path,
        "create it: install -d -m 2770 -g sidespool DIR, with the applier's user in that group");
    check_socket(&state, config);
    for (size_t i = 0; i < config->route_count; i++) {
        const ss_route_config *route = &config->routes[i];
        ss_target_env env = {route->name, route->source, route->target_options, route->adopt};
        ss_error err = {0};
        state.of = route->name;
        check_source(&state, config, route);
        if (route->target->check(&env, check_line, &state, &err) != SS_OK)
            check_error(&state, route->target->name, &err);
    }
    if (fflush(stdout) != 0)
        return SS_EXIT_IO;
    return state.bad ? SS_EXIT_CONFIG : SS_EXIT_DONE;
}

/* ---- --route --------------------------------------------------------------------------------- */

static int run_route(const ss_applier_config *config, const char *name) {
    const ss_route_config *route = ss_applier_config_route(config, name);
    struct stat st;
    struct pollfd supervisor = {.fd = 3, .events = 0};
    if (fstat(3, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        (void)fprintf(stderr, "sidespool-applier: --route is for the applier itself: leave it out, "
                              "and pause routes with "
                              "`sidespool pause`.\n");
        return SS_EXIT_USAGE;
    }
    if (!route) {
        SS_LOG(SS_ERROR, "route_unknown", SS_S("route", name), SS_S("code", "SS-APP-0024"));
        return SS_EXIT_CONFIG;
    }
    /* No route may write beside the one that a next supervisor starts. If ours died before this
     * call, descriptor 3 shows it; if it dies later, the kernel ends us. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || poll(&supervisor, 1, 0) < 0 ||
        (supervisor.revents & POLLHUP))
        return SS_EXIT_AGAIN;
    /* systemd's word is the supervisor's. */
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
    ss_log_common((const ss_kv[]){SS_S("route", route->name), SS_S("source", route->source)}, 2);
    return ss_route_main(config, route, 3);
}

/* ---- arguments ------------------------------------------------------------------------------- */

enum { OPT_CONFIG = 1, OPT_CHECK, OPT_ROUTE, OPT_CONSUMERS, OPT_HELP, OPT_VERSION, OPT_MARKDOWN };

static const ss_arg_option options[] = {
    {"--config", OPT_CONFIG, true, false},   {"--check", OPT_CHECK, false, false},
    {"--route", OPT_ROUTE, true, true},      {"--consumers", OPT_CONSUMERS, true, true},
    {"--help", OPT_HELP, false, false},      {"-h", OPT_HELP, false, true},
    {"--version", OPT_VERSION, false, false}, {"--help-markdown", OPT_MARKDOWN, false, true},
    {NULL, 0, false, false}};

static bool parse(int argc, char **argv, arguments *args) {
    ss_args line;
    int got;
    *args = (arguments){.config = SS_APPLIER_CONFIG_DEFAULT};
    ss_args_init(&line, argc, argv, 1, options);
    while ((got = ss_args_next(&line)) != SS_ARG_END) {
        switch (got) {
        case OPT_CONFIG:
            args->config = line.value;
            break;
        case OPT_CHECK:
            args->check = true;
            break;
        case OPT_ROUTE:
            args->route = line.value;
            break;
        case OPT_CONSUMERS:
            args->consumers = line.value;
            break;
        case OPT_HELP:
            args->help = true;
            break;
        case OPT_VERSION:
            args->version = true;
            break;
        case OPT_MARKDOWN:
            args->markdown = true;
            break;
        case SS_ARG_WORD:
            (void)fprintf(stderr,
                          "sidespool-applier: \"%s\" is one word too many; the file is named by --config FILE.\n",
                          SS_SHOWN(line.value));
            return false;
        default:
            (void)fprintf(stderr, "sidespool-applier: %s\n", line.problem);
            return false;
        }
    }
    return true;
}

static int print_reference(bool markdown) {
    ss_buf text;
    ss_error err = {0};
    ss_buf_init(&text);
    ss_status status = ss_applier_config_print(markdown, &text, &err);
    if (status == SS_OK) {
        if (!markdown)
            (void)printf("%s\nKeys of FILE:\n\n", usage_text);
        (void)fputs(ss_buf_cstr(&text), stdout);
    } else {
        (void)fprintf(stderr, "sidespool-applier: %s (%s)\n", err.text, err.code);
    }
    ss_buf_done(&text);
    return status == SS_OK && fflush(stdout) == 0 ? SS_EXIT_DONE : SS_EXIT_IO;
}

int main(int argc, char **argv) {
    arguments args;
    ss_error err = {0};
    ss_applier_config *config = NULL;
    ss_patient_json();
    if (!parse(argc, argv, &args)) {
        (void)fputs("Try: sidespool-applier --help\n", stderr);
        return SS_EXIT_USAGE;
    }
    if (args.help || args.markdown)
        return print_reference(args.markdown);
    if (args.version)
        return printf("sidespool-applier %s\n", SS_VERSION) > 0 ? SS_EXIT_DONE : SS_EXIT_IO;
    if (ss_daemon_process(&err) != SS_OK) {
        ss_log_error(SS_ERROR, "not_started", &err);
        return SS_EXIT_IO;
    }
    ss_status status = ss_applier_config_load(args.config, &config, &err);
    if (status != SS_OK) {
        if (args.check)
            (void)printf("FAIL  configuration: %s (%s)\n", err.text, err.code ? err.code : "");
        else
            ss_log_error(SS_ERROR, "configuration_refused", &err);
        return ss_exit_of_start(status);
    }
    int exit_code;
    if (args.check)
        exit_code = check(config);
    else if (args.consumers)
        exit_code = ss_status_print_consumers(config->spool_path, args.consumers);
    else if (args.route)
        exit_code = run_route(config, args.route);
    else
        exit_code = ss_supervisor_run(config);
    ss_applier_config_free(config);
    return exit_code;
}
