/* The supervisor: one event loop over the routes' processes, the control socket, signals and
 * systemd's watchdog. */
#include "applier/supervisor.h"

#include "sidespool/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_us(clockid_t clock) {
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t ss_wall_us(void) {
    return clock_us(CLOCK_REALTIME);
}

int64_t ss_steady_us(void) {
    return clock_us(CLOCK_MONOTONIC);
}

const char *ss_json_text(const json_t *object, const char *key, const char *otherwise) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : otherwise;
}

int64_t ss_json_int(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (int64_t)json_integer_value(value)
                                  : (int64_t)json_number_value(value);
}

/* ---- one supervisor for each control socket -------------------------------------------------- */

/* The flock, not the socket, says that somebody is there: a socket file outlives its process, a
 * lock does not. The file is never removed, because a lock on a removed name excludes nobody. */
static ss_status take_lock(ss_supervisor *sup, ss_error *reterr) {
    char path[SS_SOCKET_PATH_MAX + 8];
    (void)snprintf(path, sizeof(path), "%s.lock", sup->socket_path);
    sup->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0660);
    if (sup->lock_fd < 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-APP-0012", errno,
                           "%s cannot be opened; give the applier write rights in its directory, "
                           "or set control: {socket: …}",
                           path);
    if (flock(sup->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return SS_OK;
    int err = errno;
    if (err == EWOULDBLOCK)
        return ss_fail(reterr, SS_BUSY, "SS-APP-0013",
                       "Another sidespool-applier holds %s: stop it, or give this one its own "
                       "control: {socket: …}.",
                       path);
    return ss_fail_sys(reterr, SS_STOP, "SS-APP-0012", err, "%s cannot be locked", path);
}

/* ---- the loop's events ----------------------------------------------------------------------- */

static void on_child(evutil_socket_t signal, short what, void *ctx) {
    (void)signal;
    (void)what;
    ss_routes_reap(ctx);
}

static void on_stop(void *ctx, int signal) {
    ss_supervisor *sup = ctx;
    SS_LOG(SS_INFO, "stopping", SS_S("signal", sigabbrev_np(signal)),
           SS_S("how", sup->stopping ? "at once" : "in order"));
    ss_routes_stop(sup, sup->stopping);
    if (!sup->stopping) {
        sup->stopping = true;
        ss_daemon_stopping(sup->daemon);
        ss_control_close(sup);
    }
    if (!ss_routes_running(sup))
        ss_supervisor_stopped(sup);
}

void ss_supervisor_stopped(ss_supervisor *sup) {
    /* Not at once: clients that were just refused get their last line in this turn of the loop. */
    struct timeval soon = {0, 50000};
    (void)event_base_loopexit(sup->base, &soon);
}

/* That this loop turns is all that the watchdog is told: a route that hangs is ended by on_tick. */
static bool on_alive(void *ctx) {
    (void)ctx;
    return true;
}

/* Routes are looked after; and one line for `systemctl status`: how many routes are in which state. */
static void on_tick(evutil_socket_t fd, short what, void *ctx) {
    static const char *const states[] = {"streaming",      "copying",    "catching_up",
                                         "paused",         "starting",   "waiting_target",
                                         "waiting_source", "spool_full", "halted"};
    ss_supervisor *sup = ctx;
    char text[256];
    (void)fd;
    (void)what;
    ss_routes_look_after(sup, ss_steady_us());
    int len = snprintf(text, sizeof(text), "%zu route%s:", sup->route_count,
                       sup->route_count == 1 ? "" : "s");
    for (size_t k = 0; k < sizeof(states) / sizeof(states[0]); k++) {
        size_t count = 0;
        for (size_t i = 0; i < sup->route_count; i++) {
            char scratch[768];
            const char *reason;
            count += strcmp(ss_route_state(&sup->routes[i], scratch, sizeof(scratch), &reason),
                            states[k]) == 0;
        }
        if (count > 0 && len > 0 && (size_t)len < sizeof(text))
            len += snprintf(text + len, sizeof(text) - (size_t)len, " %zu %s", count, states[k]);
    }
    if (strcmp(text, sup->notified) == 0)
        return;
    memcpy(sup->notified, text, sizeof(text));
    ss_daemon_status(sup->daemon, "%s", text);
}

/* ---- life ------------------------------------------------------------------------------------ */

static ss_status open_all(ss_supervisor *sup, ss_error *reterr) {
    const struct timeval second = {1, 0};
    ss_status status = ss_control_path(sup->config, sup->socket_path, reterr);
    if (status == SS_OK)
        status = take_lock(sup, reterr);
    if (status != SS_OK)
        return status;
    sup->base = event_base_new();
    if (sup->base) {
        sup->child_ended = evsignal_new(sup->base, SIGCHLD, on_child, sup);
        sup->tick = event_new(sup->base, -1, EV_PERSIST, on_tick, sup);
    }
    if (!sup->base || !sup->child_ended || !sup->tick || event_add(sup->child_ended, NULL) < 0 ||
        event_add(sup->tick, &second) < 0)
        return ss_fail(reterr, SS_RETRY, "SS-APP-0008", "Out of memory while starting.");
    status = ss_daemon_new(sup->base, on_stop, on_alive, sup, &sup->daemon, reterr);
    if (status == SS_OK)
        status = ss_control_open(sup, reterr);
    if (status == SS_OK)
        status = ss_routes_start(sup, reterr);
    return status;
}

static void close_all(ss_supervisor *sup) {
    ss_control_close(sup);
    ss_control_free(sup);
    ss_routes_free(sup);
    ss_daemon_free(sup->daemon);
    if (sup->tick)
        event_free(sup->tick);
    if (sup->child_ended)
        event_free(sup->child_ended);
    if (sup->base)
        event_base_free(sup->base);
    json_decref(sup->consumers);
    if (sup->lock_fd >= 0)
        close(sup->lock_fd);
}

int ss_supervisor_run(const ss_applier_config *config) {
    ss_supervisor sup = {.config = config, .lock_fd = -1, .started_us = ss_wall_us()};
    ss_error err = {0};
    int exit_code = SS_EXIT_DONE;
    ss_status status = open_all(&sup, &err);
    if (status == SS_OK) {
        SS_LOG(SS_INFO, "started", SS_S("version", SS_VERSION), SS_S("control", sup.socket_path),
               SS_U("routes", sup.route_count));
        ss_daemon_ready(sup.daemon);
        if (event_base_dispatch(sup.base) < 0) {
            SS_LOG(SS_ERROR, "loop_failed", SS_S("code", "SS-APP-0015"));
            exit_code = SS_EXIT_IO;
        }
        SS_LOG(SS_INFO, "stopped", SS_I("exit", exit_code));
    } else {
        ss_log_error(SS_ERROR, "not_started", &err);
        exit_code = err.sys_errno ? SS_EXIT_IO : ss_exit_of_start(status);
    }
    /* Whatever still runs was started by us and must not outlive us; being killed loses nothing. */
    ss_routes_stop(&sup, true);
    close_all(&sup);
    return exit_code;
}
