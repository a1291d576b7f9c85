/* The processes of the routes: spawn, listen, restart, stop. One route's end never touches another.
 * Runs in the supervisor's loop.
 *
 * Why a killed supervisor leaves no route behind that writes beside its successor's: a route asks
 * the kernel for SIGKILL at its parent's death (PR_SET_PDEATHSIG, applier_main.c) and ends at EOF
 * of descriptor 3. Being killed at any instant loses nothing (promise 1), because progress and rows
 * are one target transaction. */
#include "applier/supervisor.h"

#include "sidespool/log.h"
#include "sidespool/patient.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { RESTART_LEAST_MS = 200, RESTART_MOST_MS = 30000, RUN_IS_GOOD_S = 60, SAID_LATELY_S = 5, WAITS_S = 15 };

static void start_route(ss_route_proc *route);

/* ---- what a route says ----------------------------------------------------------------------- */

/* Rows loaded a second, smoothed over some ten seconds, for the copy's ETA: a route tells counts
 * alone. */
static void measure_copy(ss_route_proc *route) {
    double rows = 0, bytes = 0;
    size_t i;
    json_t *table;
    json_array_foreach(json_object_get(json_object_get(route->status, "tables"), "list"), i,
                       table) {
        rows += (double)ss_json_int(table, "rows");
        bytes += (double)ss_json_int(table, "bytes");
    }
    double seconds = (double)(route->seen_us - route->sample_us) / 1e6;
    if (route->sample_us == 0 || rows < route->sample_rows || bytes < route->sample_bytes) {
        route->copy_rows_s = route->copy_bytes_s = 0;
    } else if (seconds >= 1) {
        double weight = seconds > 10 ? 1 : seconds / 10;
        if (route->copy_rows_s <= 0 && route->copy_bytes_s <= 0)
            weight = 1;
        route->copy_rows_s += weight * ((rows - route->sample_rows) / seconds - route->copy_rows_s);
        route->copy_bytes_s +=
            weight * ((bytes - route->sample_bytes) / seconds - route->copy_bytes_s);
    } else {
        return;
    }
    route->sample_rows = rows;
    route->sample_bytes = bytes;
    route->sample_us = route->seen_us;
}

static void on_status(ss_route_proc *route, json_t *status) {
    json_decref(route->status);
    route->status = json_incref(status);
    if (!json_is_false(json_object_get(status, "progress")))
        route->progress_us = route->seen_us;
    else
        route->standing_us = route->seen_us;
    measure_copy(route);
    ss_control_route_status(route);
}

static void on_line(ss_route_proc *route, const char *line, size_t len) {
    json_t *message = json_loadb(line, len, 0, NULL);
    if (!json_is_object(message)) {
        SS_LOG(SS_WARN, "route_line_unreadable", SS_S("route", route->config->name),
               SS_U("bytes", len));
        ss_control_route_unheard(route);
    } else {
        route->seen_us = ss_steady_us();
        json_t *status = json_object_get(message, "status"), *doing = json_object_get(message, "doing");
        if (json_is_object(status))
            on_status(route, status);
        else if (json_is_string(doing) && route->status) {
            (void)json_object_set(route->status, "doing", doing);
            (void)json_object_set(route->status, "reason", json_object_get(message, "reason"));
        } else
            ss_control_route_said(route, message);
    }
    json_decref(message);
}

static void on_read(struct bufferevent *link, void *ctx) {
    ss_route_proc *route = ctx;
    struct evbuffer *in = bufferevent_get_input(link);
    size_t len;
    char *line;
    while ((line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF)) != NULL) {
        on_line(route, line, len);
        free(line);
    }
    if (evbuffer_get_length(in) > SS_LINE_MAX) {
        SS_LOG(SS_ERROR, "route_line_too_long", SS_S("route", route->config->name));
        (void)kill(route->pid, SIGKILL);
    }
}

static void drop_link(ss_route_proc *route) {
    if (route->link)
        bufferevent_free(route->link);
    route->link = NULL;
}

static void arm(ss_route_proc *route, int64_t ms) {
    struct timeval wait = {ms / 1000, ms % 1000 * 1000};
    if (evtimer_add(route->timer, &wait) != 0) /* ss_routes_look_after starts it then */
        SS_LOG(SS_WARN, "timer_lost", SS_S("route", route->config->name), SS_S("reason", "out of memory"));
}

/* It closed its descriptor. It has ended, or is about to; if not, on_timer ends it. */
static void on_event(struct bufferevent *link, short what, void *ctx) {
    ss_route_proc *route = ctx;
    int err = errno; /* libevent leaves what broke the line there */
    (void)link;
    if (what & BEV_EVENT_ERROR)
        SS_LOG(SS_WARN, "route_line_broke", SS_S("route", route->config->name), SS_I("pid", route->pid),
               SS_S("error", strerror(err)));
    drop_link(route);
    if (route->pid > 0 && !route->sup->stopping)
        arm(route, SS_STOP_PATIENCE_S * 1000);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx) {
    ss_route_proc *route = ctx;
    (void)fd;
    (void)what;
    if (route->pid == 0) {
        if (!route->sup->stopping)
            start_route(route);
        return;
    }
    SS_LOG(SS_WARN, "route_killed", SS_S("route", route->config->name), SS_I("pid", route->pid),
           SS_S("reason", route->sup->stopping ? "it did not end when asked to"
                                               : "it closed its line to us"));
    (void)kill(route->pid, SIGKILL);
}

/* ---- spawning -------------------------------------------------------------------------------- */

/* A process group of its own, so that ^C at a terminal reaches the supervisor alone, which then
 * stops the routes in order. */
static int spawn_process(ss_route_proc *route, int fd, pid_t *ret) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char *argv[] = {(char *)"sidespool-applier",
                    (char *)"--config",
                    (char *)(uintptr_t)route->sup->config->path,
                    (char *)"--route",
                    (char *)(uintptr_t)route->config->name,
                    NULL};
    int err = posix_spawn_file_actions_init(&actions);
    if (err != 0)
        return err;
    err = posix_spawnattr_init(&attr);
    if (err != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return err;
    }
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    err = posix_spawn_file_actions_adddup2(&actions, fd, 3);
    if (err == 0)
        err = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                                  POSIX_SPAWN_SETSIGDEF);
    if (err == 0)
        err = posix_spawnattr_setpgroup(&attr, 0);
    if (err == 0)
        err = posix_spawnattr_setsigmask(&attr, &none);
    if (err == 0)
        err = posix_spawnattr_setsigdefault(&attr, &all);
    if (err == 0)
        err = posix_spawn(ret, "/proc/self/exe", &actions, &attr, argv, environ);
    (void)posix_spawnattr_destroy(&attr);
    (void)posix_spawn_file_actions_destroy(&actions);
    return err;
}

static void start_later(ss_route_proc *route) {
    int64_t ms = (int64_t)ss_backoff_next(&route->backoff);
    route->next_start_us = ss_steady_us() + ms * 1000;
    arm(route, ms);
}

static void start_failed(ss_route_proc *route, int err) {
    (void)snprintf(route->ended, sizeof(route->ended), "could not be started: %s", strerror(err));
    route->ended_us = ss_wall_us();
    SS_LOG(SS_ERROR, "route_not_started", SS_S("route", route->config->name),
           SS_S("code", "SS-APP-0010"), SS_S("error", strerror(err)));
    start_later(route);
}

static void start_route(ss_route_proc *route) {
    int pair[2];
    drop_link(route);
    json_decref(route->status);
    route->status = NULL;
    route->sample_us = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        start_failed(route, errno);
        return;
    }
    (void)evutil_make_socket_nonblocking(pair[0]);
    route->link = bufferevent_socket_new(route->sup->base, pair[0], BEV_OPT_CLOSE_ON_FREE);
    if (route->link)
        bufferevent_setcb(route->link, on_read, NULL, on_event, route);
    /* Before it runs: a route that nobody hears would be there for nothing. */
    bool heard = route->link && bufferevent_enable(route->link, EV_READ | EV_WRITE) == 0;
    int err = heard ? spawn_process(route, pair[1], &route->pid) : ENOMEM;
    close(pair[1]);
    if (err != 0) {
        if (!route->link)
            close(pair[0]);
        drop_link(route);
        route->pid = 0;
        start_failed(route, err);
        return;
    }
    route->started_us = ss_wall_us();
    route->began_us = route->seen_us = route->progress_us = route->standing_us = ss_steady_us();
    SS_LOG(SS_INFO, "route_started", SS_S("route", route->config->name),
           SS_S("source", route->config->source), SS_I("pid", route->pid));
    if (route->paused)
        (void)ss_route_send(route, json_pack("{s:s}", "cmd", "pause"));
    ss_control_route_started(route);
}

static const char *signal_name(int number) {
    const char *name = sigabbrev_np(number);
    return name ? name : "?";
}

static void on_ended(ss_route_proc *route, int how) {
    if (WIFSIGNALED(how))
        (void)snprintf(route->ended, sizeof(route->ended), "was killed by SIG%s",
                       signal_name(WTERMSIG(how)));
    else
        (void)snprintf(route->ended, sizeof(route->ended), "ended with exit code %d",
                       WEXITSTATUS(how));
    route->ended_us = ss_wall_us();
    SS_LOG(route->sup->stopping ? SS_INFO : SS_WARN, "route_ended",
           SS_S("route", route->config->name), SS_I("pid", route->pid), SS_S("how", route->ended));
    route->pid = 0;
    (void)evtimer_del(route->timer);
    if (route->sup->stopping) {
        if (!ss_routes_running(route->sup))
            ss_supervisor_stopped(route->sup);
        return;
    }
    if (ss_steady_us() - route->began_us > (int64_t)RUN_IS_GOOD_S * 1000000)
        ss_backoff_reset(&route->backoff);
    route->restarts++;
    start_later(route);
    ss_control_route_ended(route);
}

void ss_routes_reap(ss_supervisor *sup) {
    /* By pid, because other children (see ss_status_print_consumers) are waited for elsewhere. */
    for (size_t i = 0; i < sup->route_count; i++) {
        ss_route_proc *route = &sup->routes[i];
        int how;
        if (route->pid > 0 && waitpid(route->pid, &how, WNOHANG) == route->pid)
            on_ended(route, how);
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static int paused_path(const ss_route_proc *route, char *out, size_t size) {
    /* A leading dot: no source's directory can have this name. */
    int len =
        snprintf(out, size, "%s/.paused-%s", route->sup->config->spool_path, route->config->name);
    return len > 0 && (size_t)len < size ? 0 : ENAMETOOLONG;
}

ss_status ss_route_set_paused(ss_route_proc *route, bool paused, ss_error *reterr) {
    char path[4096];
    int err = paused_path(route, path, sizeof(path));
    if (err == 0 && paused) {
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
        err = fd < 0 || fsync(fd) < 0 ? errno : 0;
        if (fd >= 0)
            close(fd);
    } else if (err == 0 && unlink(path) < 0 && errno != ENOENT) {
        err = errno;
    }
    if (err == 0) {
        /* The name must outlive a crash too, or a reboot would resume what a person has paused. */
        int dir = open(route->sup->config->spool_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        err = dir < 0 || fsync(dir) < 0 ? errno : 0;
        if (dir >= 0)
            close(dir);
    }
    if (err != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-APP-0011", err,
                           "Whether route %s is paused cannot be remembered in %s: give the "
                           "applier write rights there",
                           route->config->name, route->sup->config->spool_path);
    route->paused = paused;
    return SS_OK;
}

ss_status ss_routes_start(ss_supervisor *sup, ss_error *reterr) {
    sup->routes = calloc(sup->config->route_count, sizeof(*sup->routes));
    if (!sup->routes)
        return ss_fail(reterr, SS_RETRY, "SS-APP-0008", "Out of memory while starting the routes.");
    sup->route_count = sup->config->route_count;
    for (size_t i = 0; i < sup->route_count; i++) {
        ss_route_proc *route = &sup->routes[i];
        char path[4096];
        route->sup = sup;
        route->config = &sup->config->routes[i];
        ss_backoff_init(&route->backoff, RESTART_LEAST_MS, RESTART_MOST_MS, 0);
        route->timer = evtimer_new(sup->base, on_timer, route);
        if (!route->timer)
            return ss_fail(reterr, SS_RETRY, "SS-APP-0008",
                           "Out of memory while starting the routes.");
        route->paused = paused_path(route, path, sizeof(path)) == 0 && access(path, F_OK) == 0;
    }
    for (size_t i = 0; i < sup->route_count; i++)
        start_route(&sup->routes[i]);
    return SS_OK;
}

void ss_routes_stop(ss_supervisor *sup, bool kill_now) {
    for (size_t i = 0; i < sup->route_count; i++) {
        ss_route_proc *route = &sup->routes[i];
        if (route->pid > 0) {
            (void)kill(route->pid, kill_now ? SIGKILL : SIGTERM);
            arm(route, SS_STOP_PATIENCE_S * 1000);
        } else if (route->timer) {
            (void)evtimer_del(route->timer);
        }
    }
}

bool ss_routes_running(const ss_supervisor *sup) {
    for (size_t i = 0; i < sup->route_count; i++)
        if (sup->routes[i].pid > 0)
            return true;
    return false;
}

void ss_routes_free(ss_supervisor *sup) {
    for (size_t i = 0; i < sup->route_count; i++) {
        ss_route_proc *route = &sup->routes[i];
        drop_link(route);
        if (route->timer)
            event_free(route->timer);
        json_decref(route->status);
    }
    free(sup->routes);
    sup->routes = NULL;
    sup->route_count = 0;
}

ss_route_proc *ss_routes_find(ss_supervisor *sup, const char *name) {
    for (size_t i = 0; i < sup->route_count; i++)
        if (strcmp(sup->routes[i].config->name, name) == 0)
            return &sup->routes[i];
    return NULL;
}

uint64_t ss_route_send(ss_route_proc *route, json_t *command_take) {
    uint64_t number = 0;
    if (command_take && route->link && route->pid > 0) {
        uint64_t next = ++route->sup->next_number;
        char *line = NULL;
        if (json_object_set_new(command_take, "n", json_integer((json_int_t)next)) == 0)
            line = json_dumps(command_take, JSON_COMPACT);
        if (line && ss_link_line(route->link, line))
            number = next;
        free(line);
    }
    json_decref(command_take);
    return number;
}

/* ---- looking at it --------------------------------------------------------------------------- */

const char *ss_route_state(const ss_route_proc *route, char *scratch, size_t size,
                           const char **ret_reason) {
    if (route->pid == 0 && route->ended_us > 0) {
        int64_t left = (route->next_start_us - ss_steady_us() + 999999) / 1000000;
        (void)snprintf(scratch, size, "its process %s; it starts again in %lld s", route->ended,
                       (long long)(left < 0 ? 0 : left));
        *ret_reason = scratch;
        return "starting";
    }
    if (!route->status) {
        if (route->ended_us)
            (void)snprintf(scratch, size, "its process %s and was started again", route->ended);
        else
            (void)snprintf(scratch, size, "its process has not spoken yet");
        *ret_reason = scratch;
        return "starting";
    }
    *ret_reason = ss_json_text(route->status, "reason", "");
    int64_t silent = (ss_steady_us() - route->seen_us) / 1000000;
    if (silent > SAID_LATELY_S && !**ret_reason) {
        (void)snprintf(scratch, size,
                       "no word from it for %lld s: it waits for a statement or COMMIT on the target",
                       (long long)silent);
        *ret_reason = scratch;
    }
    /* What it said last is no longer so: nothing streams or is copied while it waits. A copy says itself that long work begins,
     * and goes on with it. */
    const char *state = ss_json_text(route->status, "state", "starting");
    bool flows = strcmp(state, "streaming") == 0 || strcmp(state, "copying") == 0 || strcmp(state, "catching_up") == 0;
    const char *doing = ss_json_text(route->status, "doing", "");
    if (silent > WAITS_S && flows && (!*doing || strcmp(state, "streaming") == 0)) {
        (void)snprintf(scratch, size,
                       "%s%sno word from it for %lld s: it waits for a statement or COMMIT on the target, which is slow or cannot be reached",
                       doing, *doing ? ": " : "", (long long)silent);
        *ret_reason = scratch;
        return "waiting_target";
    }
    if (silent > WAITS_S && *doing) {
        (void)snprintf(scratch, size, "%s, for %lld s now", doing, (long long)silent);
        *ret_reason = scratch;
    }
    return state;
}

ss_route_health ss_route_is_well(const ss_route_proc *route, int64_t now_us) {
    if (route->pid == 0)
        return SS_ROUTE_WELL; /* its end is the reason, and the next start is due */
    if (*ss_json_text(route->status, "doing", ""))
        return SS_ROUTE_WELL; /* it said that something long begins: an index, a table put in place */
    /* A route speaks each second, whatever its state, unless it is in a statement or a COMMIT. */
    if (now_us - route->seen_us > SS_ROUTE_SILENCE_US)
        return SS_ROUTE_SILENT;
    /* While it is silent it cannot say that it moves either: what it said last is not held against it. */
    if (!route->status || route->standing_us <= route->progress_us)
        return SS_ROUTE_WELL;
    return route->standing_us - route->progress_us < SS_ROUTE_STANDSTILL_US ? SS_ROUTE_WELL
                                                                            : SS_ROUTE_STANDS;
}

/* A route that hangs is ended and started again by itself: withholding the watchdog's food would
 * end all of them. Nothing is lost by it, see the head of this file. */
void ss_routes_look_after(ss_supervisor *sup, int64_t now_us) {
    for (size_t i = 0; i < sup->route_count && !sup->stopping; i++) {
        ss_route_proc *route = &sup->routes[i];
        if (route->pid == 0 && now_us >= route->next_start_us && !evtimer_pending(route->timer, NULL)) {
            start_route(route);
            continue;
        }
        ss_route_health health = ss_route_is_well(route, now_us);
        if (health == SS_ROUTE_WELL)
            continue;
        SS_LOG(SS_ERROR, "route_stalled", SS_S("route", route->config->name),
               SS_S("code", "SS-APP-0014"),
               SS_S("how", health == SS_ROUTE_SILENT ? "it is silent" : "nothing moves"),
               SS_I("silent_s", (now_us - route->seen_us) / 1000000), SS_I("pid", route->pid));
        (void)kill(route->pid, SIGKILL);
        route->seen_us = route->progress_us = route->standing_us = now_us; /* once each time */
    }
}
