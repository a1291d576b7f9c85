/* needs: applier */
/* The supervisor against real processes: it spawns itself, so this program, called with --route,
 * plays a route. What the fake does is in its name: "good" obeys, "crash" dies at once, "deaf"
 * ignores SIGTERM, "halts" halts at a word in its file. An agent is played by a thread's worth of
 * forked process that answers status and mark. */
#include "applier/supervisor.h"
#include "unit/temp_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64], config_path[96], socket_path[96];

/* ---- the fake route -------------------------------------------------------------------------- */

static void tell(const char *fmt, ...) SS_PRINTF(1, 2);
static void tell(const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(line, sizeof(line) - 1, fmt, args);
    va_end(args);
    line[len++] = '\n';
    if (send(3, line, (size_t)len, MSG_NOSIGNAL) != len)
        _exit(9);
}

static void tell_status(const char *state, const char *reason) {
    tell("{\"status\":{\"state\":\"%s\",\"reason\":\"%s\",\"since\":1,\"sequence\":7,\"committed\":"
         "7,"
         "\"behind_records\":0,\"behind_bytes\":0,\"as_of\":1000000,\"rate\":2.5,\"tables\":{"
         "\"ready\":1,\"total\":1,"
         "\"list\":[{\"name\":\"public.t\",\"status\":\"ready\",\"rows\":3,\"rows_estimate\":3,"
         "\"bytes\":9}]},"
         "\"progress\":true}}",
         state, reason);
}

static bool marked(const char *name, char *id) {
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", getenv("FAKE_FOLDER"), name);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool got = fscanf(file, "%63s", id) == 1;
    (void)fclose(file);
    (void)unlink(path);
    return got;
}

static void obey(const json_t *command) {
    const char *cmd = ss_json_text(command, "cmd", "");
    long long n = (long long)ss_json_int(command, "n");
    if (strcmp(cmd, "verify") == 0) {
        const char *id = ss_json_text(command, "id", "");
        tell("{\"reply\":%lld,\"ok\":true}", n);
        tell("{\"verify\":\"%s\",\"progress\":{\"step\":\"digest\",\"table\":\"public.t\",\"done\":"
             "0,\"total\":1}}",
             id);
        tell("{\"verify\":\"%s\",\"result\":{\"equal\":false,\"tables\":[{\"table\":\"public.t\","
             "\"equal\":false,"
             "\"source_rows\":3,\"target_rows\":3,\"missing\":0,\"extra\":0,\"different\":1,"
             "\"rows\":["
             "{\"kind\":\"different\",\"key\":\"77\"}],\"note\":\"\"}]}}",
             id);
        return;
    }
    if (strcmp(cmd, "replay") == 0) {
        tell("{\"reply\":%lld,\"ok\":false,\"code\":\"SS-ROUTE-0006\",\"error\":\"the spool holds "
             "5 to 7\"}",
             n);
        return;
    }
    tell("{\"reply\":%lld,\"ok\":true}", n);
    if (strcmp(cmd, "pause") == 0)
        tell_status("paused", "asked to");
    if (strcmp(cmd, "resume") == 0)
        tell_status("streaming", "");
}

static int fake_route(const char *name) {
    char text[8192], id[64];
    size_t used = 0;
    if (strcmp(name, "crash") == 0)
        (void)raise(SIGKILL);
    if (strcmp(name, "deaf") == 0)
        (void)signal(SIGTERM, SIG_IGN);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)fcntl(3, F_SETFL, O_NONBLOCK);
    tell_status("streaming", "");
    for (;;) {
        ssize_t got = recv(3, text + used, sizeof(text) - used, 0);
        if (got == 0)
            return 0;
        if (got > 0)
            used += (size_t)got;
        for (char *end; used > 0 && (end = memchr(text, '\n', used)) != NULL;) {
            json_t *command = json_loadb(text, (size_t)(end - text), 0, NULL);
            obey(command);
            json_decref(command);
            used -= (size_t)(end + 1 - text);
            memmove(text, end + 1, used);
        }
        if (strcmp(name, "good") == 0 && marked("mark", id))
            tell("{\"mark\":\"%s\"}", id);
        if (strcmp(name, "halts") == 0 && marked("halt", id))
            tell_status("halted", "drift in public.t");
        (void)usleep(5000);
    }
}

/* ---- the fake agent -------------------------------------------------------------------------- */

static int listen_at(const char *path) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

static void answer_as_agent(const char *line) {
    json_t *request = json_loads(line, 0, NULL);
    char answer[512] = "{\"ok\":true,\"position\":\"0/1\"}";
    if (strcmp(ss_json_text(request, "op", ""), "status") == 0)
        (void)snprintf(
            answer, sizeof(answer),
            "{\"ok\":true,\"source\":\"shop\",\"state\":\"streaming\",\"reason\":\"\","
            "\"committed\":7,\"heard_ms\":1000,"
            "\"source_time\":%lld,\"source_status\":{\"new_tables\":[\"public.fresh\"]}}",
            (long long)ss_wall_us());
    if (strcmp(ss_json_text(request, "op", ""), "mark") == 0) {
        char path[256], temporary[300];
        (void)snprintf(path, sizeof(path), "%s/mark", folder);
        (void)snprintf(temporary, sizeof(temporary), "%s.new", path);
        FILE *file = fopen(temporary, "w");
        (void)fprintf(file, "%s\n", ss_json_text(request, "id", ""));
        (void)fclose(file);
        (void)rename(temporary, path);
    }
    json_decref(request);
    (void)printf("%s\n", answer);
    (void)fflush(stdout);
}

static pid_t start_agent(const char *source) {
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, source);
    (void)mkdir(path, 0770);
    (void)strncat(path, "/agent.sock", sizeof(path) - strlen(path) - 1);
    (void)unlink(path);
    int listener = listen_at(path);
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0 || fork() != 0) {
                close(fd);
                continue;
            }
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            (void)dup2(fd, 0);
            (void)dup2(fd, 1);
            char line[4096];
            while (fgets(line, sizeof(line), stdin))
                answer_as_agent(line);
            _exit(0);
        }
    }
    close(listener);
    return pid;
}

/* ---- helpers --------------------------------------------------------------------------------- */

static void write_config(const char *routes) {
    FILE *file = fopen(config_path, "w");
    assert_non_null(file);
    (void)fprintf(file, "spool: {path: %s}\ncontrol: {socket: %s}\nroutes:\n%s", folder,
                  socket_path, routes);
    (void)fclose(file);
}

#define ROUTE(source, name)                                                                        \
    "  - {source: " source ", name: " name                                                         \
    ", target: {postgres: {dsn: \"host=127.0.0.1 dbname=" name "\"}}}\n"

static pid_t start(void) {
    pid_t pid = fork();
    if (pid == 0) {
        ss_error err = {0};
        ss_applier_config *config;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ss_daemon_process(&err) != SS_OK ||
            ss_applier_config_load(config_path, &config, &err) != SS_OK) {
            (void)fprintf(stderr, "%s\n", err.text);
            _exit(SS_EXIT_CONFIG);
        }
        int exit_code = ss_supervisor_run(config);
        ss_applier_config_free(config);
        exit(exit_code);
    }
    return pid;
}

static int stop(pid_t pid, int signal) {
    int how;
    assert_int_equal(kill(pid, signal), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    return WIFEXITED(how) ? WEXITSTATUS(how) : -WTERMSIG(how);
}

/* Sends one request; returns the last line, and how many progress lines came before it. */
static json_t *ask(const char *request, int *ret_progress) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char line[65536];
    json_t *last = NULL;
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
    int fd = -1;
    for (int i = 0; i < 400; i++) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
            break;
        close(fd);
        fd = -1;
        (void)usleep(10000);
    }
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "r+");
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
    *ret_progress = 0;
    while (!last && fgets(line, sizeof(line), file)) {
        json_t *json = json_loads(line, 0, NULL);
        assert_non_null(json);
        if (json_object_get(json, "ok")) {
            last = json;
        } else {
            (*ret_progress)++;
            json_decref(json);
        }
    }
    (void)fclose(file);
    assert_non_null(last);
    return last;
}

static int exit_of(const char *request) {
    int progress;
    json_t *answer = ask(request, &progress);
    int exit_code = (int)ss_json_int(answer, "exit");
    json_decref(answer);
    return exit_code;
}

static json_t *route_of(const json_t *status, const char *name) {
    size_t i;
    json_t *route;
    json_array_foreach(json_object_get(status, "routes"), i,
                       route) if (strcmp(ss_json_text(route, "route", ""), name) == 0) return route;
    fail_msg("no route %s", name);
    return NULL;
}

/* Asks for the status until a route has reached `state`. The caller frees it. */
static json_t *until(const char *name, const char *state) {
    for (int i = 0; i < 500; i++) {
        int progress;
        json_t *status = ask("{\"cmd\":\"status\"}\n", &progress);
        if (strcmp(ss_json_text(route_of(status, name), "state", ""), state) == 0)
            return status;
        json_decref(status);
        (void)usleep(20000);
    }
    fail_msg("route %s never became %s", name, state);
    return NULL;
}

static bool has_trouble(const json_t *status, const char *kind) {
    size_t i;
    json_t *trouble;
    json_array_foreach(json_object_get(status, "troubles"), i,
                       trouble) if (strcmp(ss_json_text(trouble, "kind", ""), kind) ==
                                    0) return true;
    return false;
}

static void put_file(const char *name, const char *text) {
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void a_crashing_route_hurts_no_other(void **state) {
    (void)state;
    write_config(ROUTE("shop", "good") ROUTE("shop", "crash"));
    pid_t pid = start();
    json_t *status = until("good", "streaming");
    assert_int_equal(json_array_size(json_object_get(status, "routes")), 2);
    assert_true(has_trouble(status, "agent_absent"));
    json_decref(status);
    for (int i = 0; i < 500; i++) {
        int progress;
        status = ask("{\"cmd\":\"status\"}\n", &progress);
        int64_t restarts = ss_json_int(route_of(status, "crash"), "restarts");
        assert_int_equal(ss_json_int(route_of(status, "good"), "restarts"), 0);
        json_decref(status);
        if (restarts >= 2)
            break;
        (void)usleep(20000);
        assert_true(i < 499);
    }
    status = until("crash", "starting");
    assert_non_null(strstr(ss_json_text(route_of(status, "crash"), "reason", ""), "SIGKILL"));
    json_decref(status);
    assert_int_equal(stop(pid, SIGTERM), 0);
    assert_int_equal(access(socket_path, F_OK), -1);
}

static void commands_and_their_codes(void **state) {
    (void)state;
    write_config(ROUTE("shop", "good"));
    pid_t pid = start();
    json_decref(until("good", "streaming"));
    assert_int_equal(exit_of("{\"cmd\":\"pause\",\"route\":\"nobody\"}\n"), SS_EXIT_USAGE);
    assert_int_equal(exit_of("{\"cmd\":\"dance\",\"route\":\"good\"}\n"), SS_EXIT_USAGE);
    assert_int_equal(exit_of("no json\n"), SS_EXIT_USAGE);
    assert_int_equal(exit_of("{\"cmd\":\"status\",\"spool\":\"/elsewhere\"}\n"), SS_EXIT_ABSENT);
    for (int i = 0; i < 2; i++)
        assert_int_equal(exit_of("{\"cmd\":\"pause\",\"route\":\"good\"}\n"), SS_EXIT_DONE);
    json_decref(until("good", "paused"));
    /* The wish outlives the supervisor. */
    assert_int_equal(stop(pid, SIGTERM), 0);
    pid = start();
    json_t *status = until("good", "paused");
    assert_true(has_trouble(status, "route_paused"));
    json_decref(status);
    for (int i = 0; i < 2; i++)
        assert_int_equal(exit_of("{\"cmd\":\"resume\",\"route\":\"good\"}\n"), SS_EXIT_DONE);
    json_decref(until("good", "streaming"));
    assert_int_equal(exit_of("{\"cmd\":\"resync\",\"route\":\"good\",\"tables\":[\"public.t\"]}\n"),
                     SS_EXIT_DONE);
    assert_int_equal(exit_of("{\"cmd\":\"resync\",\"route\":\"good\",\"tables\":[1]}\n"),
                     SS_EXIT_USAGE);
    assert_int_equal(exit_of("{\"cmd\":\"replay\",\"route\":\"good\",\"from\":3}\n"),
                     SS_EXIT_NOT_SO);
    int progress;
    json_t *answer = ask("{\"cmd\":\"verify\",\"route\":\"good\"}\n", &progress);
    assert_int_equal(ss_json_int(answer, "exit"), SS_EXIT_NOT_SO);
    assert_int_equal(progress, 1);
    assert_int_equal(json_array_size(json_object_get(json_object_get(answer, "result"), "tables")),
                     1);
    json_decref(answer);
    assert_int_equal(stop(pid, SIGTERM), 0);
}

static void wait_for_a_mark(void **state) {
    (void)state;
    write_config(ROUTE("shop", "good") ROUTE("shop", "halts"));
    pid_t pid = start();
    json_decref(until("good", "streaming"));
    json_decref(until("halts", "streaming"));
    assert_int_equal(exit_of("{\"cmd\":\"wait\",\"route\":\"good\",\"timeout\":5}\n"),
                     SS_EXIT_ABSENT);
    pid_t agent = start_agent("shop");
    assert_int_equal(exit_of("{\"cmd\":\"wait\",\"route\":\"good\",\"timeout\":10}\n"),
                     SS_EXIT_DONE);
    json_t *status = until("good", "streaming");
    assert_true(has_trouble(status, "new_table"));
    assert_int_equal(json_real_value(json_object_get(route_of(status, "good"), "lag_seconds")), 0);
    json_decref(status);
    /* Nobody takes this mark, because the other fake does not look for one. */
    assert_int_equal(exit_of("{\"cmd\":\"pause\",\"route\":\"good\"}\n"), SS_EXIT_DONE);
    put_file("halt", "now\n");
    int code = exit_of("{\"cmd\":\"wait\",\"route\":\"halts\",\"timeout\":10}\n");
    assert_int_equal(code, SS_EXIT_NOT_SO);
    status = until("halts", "halted");
    assert_true(has_trouble(status, "route_halted"));
    json_decref(status);
    assert_int_equal(exit_of("{\"cmd\":\"wait\",\"route\":\"halts\",\"timeout\":1}\n"),
                     SS_EXIT_NOT_SO);
    assert_int_equal(exit_of("{\"cmd\":\"resume\",\"route\":\"halts\"}\n"), SS_EXIT_DONE);
    json_decref(until("halts", "streaming"));
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/mark", folder);
    assert_int_equal(exit_of("{\"cmd\":\"wait\",\"route\":\"halts\",\"timeout\":0.3}\n"),
                     SS_EXIT_AGAIN);
    assert_int_equal(exit_of("{\"cmd\":\"resume\",\"route\":\"good\"}\n"), SS_EXIT_DONE);
    (void)kill(agent, SIGKILL);
    (void)waitpid(agent, NULL, 0);
    assert_int_equal(stop(pid, SIGTERM), 0);
}

static void only_one_at_a_socket(void **state) {
    (void)state;
    int how;
    write_config(ROUTE("shop", "good"));
    pid_t first = start();
    json_t *status = until("good", "streaming");
    pid_t route = (pid_t)ss_json_int(route_of(status, "good"), "pid");
    json_decref(status);
    pid_t second = start();
    assert_int_equal(waitpid(second, &how, 0), second);
    assert_int_equal(WEXITSTATUS(how), SS_EXIT_AGAIN);
    /* A killed supervisor takes its routes along, and the next one takes over its socket. */
    assert_int_equal(stop(first, SIGKILL), -SIGKILL);
    for (int i = 0; kill(route, 0) == 0 && i < 200; i++)
        (void)usleep(10000);
    first = start();
    json_decref(until("good", "streaming"));
    assert_int_equal(stop(first, SIGINT), 0);
}

static void a_deaf_route_is_killed(void **state) {
    (void)state;
    write_config(ROUTE("shop", "deaf"));
    pid_t pid = start();
    json_decref(until("deaf", "streaming"));
    assert_int_equal(kill(pid, SIGTERM), 0);
    (void)usleep(200000);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* it is patient */
    assert_int_equal(stop(pid, SIGTERM), 0);          /* the second one means at once */
}

static void lag_is_zero_only_when_nothing_waits(void **state) {
    (void)state;
    const int64_t now = 1000000000LL;
    json_t *agent = json_pack("{s:s,s:I,s:I}", "state", "streaming", "committed", (json_int_t)7,
                              "heard_ms", (json_int_t)1000);
    json_t *route =
        json_pack("{s:s,s:I,s:I,s:I}", "state", "streaming", "sequence", (json_int_t)7,
                  "behind_records", (json_int_t)0, "as_of", (json_int_t)(now - 20000000));
    assert_int_equal(ss_status_lag(route, agent, now), 0);
    assert_int_equal(ss_status_lag(route, NULL, now), 20000000);
    json_object_set_new(agent, "committed", json_integer(8));
    assert_int_equal(ss_status_lag(route, agent, now), 20000000);
    json_object_set_new(agent, "last_change", json_integer(8));
    assert_int_equal(ss_status_lag(route, agent, now), 20000000);
    json_object_set_new(agent, "last_change", json_integer(7)); /* behind it only signs of life */
    assert_int_equal(ss_status_lag(route, agent, now), 0);
    json_object_set_new(route, "behind_records", json_integer(1));
    assert_int_equal(ss_status_lag(route, agent, now), 0);
    json_object_set_new(route, "committed", json_integer(9)); /* the route knows of more */
    assert_int_equal(ss_status_lag(route, agent, now), 20000000);
    json_object_set_new(route, "committed", json_integer(7));
    json_object_set_new(route, "behind_records", json_integer(0));
    json_object_del(agent, "last_change");
    json_object_set_new(agent, "committed", json_integer(7));
    /* An agent that has heard nothing for long cannot say that nothing waits; what the clocks say is no sign of that. */
    assert_int_equal(ss_status_lag(route, agent, now + 3600000000LL), 0);
    json_object_del(agent, "heard_ms"); /* an older agent */
    assert_int_equal(ss_status_lag(route, agent, now + 100000000), 120000000);
    json_object_set_new(agent, "heard_ms", json_integer(100000));
    assert_int_equal(ss_status_lag(route, agent, now + 100000000), 120000000);
    json_object_set_new(agent, "source_status", json_pack("{s:i}", "lag_bytes", 0));
    assert_int_equal(ss_status_lag(route, agent, now + 100000000), 0);
    json_object_set_new(route, "as_of", json_integer(0));
    assert_int_equal(ss_status_lag(route, agent, now), -1);
    json_decref(agent);
    json_decref(route);
}

/* A slow batch is no reason to end a route, nor is one route a reason to end the others. */
static void a_silent_route_is_ended_alone(void **state) {
    (void)state;
    const int64_t s = 1000000, now = 100000 * s;
    ss_route_config config = {.name = "r", .source = "shop"};
    ss_supervisor sup = {.route_count = 2};
    ss_route_proc routes[2] = {{.sup = &sup, .config = &config}, {.sup = &sup, .config = &config}};
    sup.routes = routes;
    for (int i = 0; i < 2; i++) {
        routes[i].status = json_pack("{s:s,s:s,s:i}", "state", "streaming", "reason", "",
                                     "behind_records", i ? 50 : 0);
        routes[i].seen_us = routes[i].progress_us = routes[i].standing_us = now;
        routes[i].pid = fork();
        if (routes[i].pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                (void)pause();
        }
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ss_route_is_well(&routes[i], now + 599 * s), SS_ROUTE_WELL);
        /* Also when nothing seemed to wait when it spoke last. */
        assert_int_equal(ss_route_is_well(&routes[i], now + 601 * s), SS_ROUTE_SILENT);
    }
    json_object_set_new(routes[0].status, "doing", json_string("building keys and indexes of t"));
    assert_int_equal(ss_route_is_well(&routes[0], now + 86400 * s), SS_ROUTE_WELL);
    /* It speaks, and says for a minute that nothing moves. */
    ss_route_proc standing = routes[1];
    standing.seen_us = standing.standing_us = now + 59 * s;
    assert_int_equal(ss_route_is_well(&standing, now + 59 * s), SS_ROUTE_WELL);
    standing.seen_us = standing.standing_us = now + 61 * s;
    assert_int_equal(ss_route_is_well(&standing, now + 61 * s), SS_ROUTE_STANDS);

    int how;
    ss_routes_look_after(&sup, now + 601 * s);
    assert_int_equal(waitpid(routes[1].pid, &how, 0), routes[1].pid);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    assert_int_equal(waitpid(routes[0].pid, &how, WNOHANG), 0);
    (void)kill(routes[0].pid, SIGKILL);
    (void)waitpid(routes[0].pid, &how, 0);
    for (int i = 0; i < 2; i++)
        json_decref(routes[i].status);
}

/* What it said last is not repeated for ever as what is so. */
static void a_silent_route_waits_for_its_target(void **state) {
    (void)state;
    ss_route_config config = {.name = "r", .source = "shop"};
    ss_route_proc route = {.config = &config, .pid = 1, .seen_us = ss_steady_us()};
    char scratch[768];
    const char *reason;
    route.status = json_pack("{s:s,s:s}", "state", "streaming", "reason", "");
    assert_string_equal(ss_route_state(&route, scratch, sizeof(scratch), &reason), "streaming");
    assert_string_equal(reason, "");
    route.seen_us -= 8 * 1000000;
    assert_string_equal(ss_route_state(&route, scratch, sizeof(scratch), &reason), "streaming");
    assert_non_null(strstr(reason, "no word from it for 8 s"));
    route.seen_us -= 12 * 1000000;
    assert_string_equal(ss_route_state(&route, scratch, sizeof(scratch), &reason), "waiting_target");
    assert_non_null(strstr(reason, "no word from it for 20 s"));
    /* A copy builds its indexes as part of it; nothing streams while one is built. */
    json_object_set_new(route.status, "doing", json_string("building keys and indexes of t"));
    json_object_set_new(route.status, "reason", json_string("building keys and indexes of t"));
    assert_string_equal(ss_route_state(&route, scratch, sizeof(scratch), &reason), "waiting_target");
    assert_non_null(strstr(reason, "building keys and indexes of t: no word"));
    json_object_set_new(route.status, "state", json_string("copying"));
    assert_string_equal(ss_route_state(&route, scratch, sizeof(scratch), &reason), "copying");
    assert_string_equal(reason, "building keys and indexes of t, for 20 s now");
    json_object_set_new(route.status, "doing", json_string(""));
    json_object_set_new(route.status, "state", json_string("paused"));
    assert_string_equal(ss_route_state(&route, scratch, sizeof(scratch), &reason), "paused");
    json_decref(route.status);
}

static int remove_folder(void **state) {
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--route") == 0)
            return fake_route(argv[i + 1]);
        if (strcmp(argv[i], "--consumers") == 0)
            return printf("[\"good\"]") > 0 ? 0 : 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crashing_route_hurts_no_other),
        cmocka_unit_test(commands_and_their_codes),
        cmocka_unit_test(wait_for_a_mark),
        cmocka_unit_test(only_one_at_a_socket),
        cmocka_unit_test(a_deaf_route_is_killed),
        cmocka_unit_test(lag_is_zero_only_when_nothing_waits),
        cmocka_unit_test(a_silent_route_is_ended_alone),
        cmocka_unit_test(a_silent_route_waits_for_its_target),
    };
    temp_name(folder, sizeof(folder), "sidespool-supervisor");
    if (!mkdtemp(folder))
        return 1;
    (void)snprintf(config_path, sizeof(config_path), "%s/applier.yaml", folder);
    (void)snprintf(socket_path, sizeof(socket_path), "%s/control.sock", folder);
    (void)setenv("FAKE_FOLDER", folder, 1);
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
