/* Safety settings, signals as events, sd_notify. The main programs of agents and applier call this,
 * routes the first part. */
#include "sidespool/daemon.h"

#include "sidespool/log.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

struct ss_daemon {
    struct event *term, *interrupt, *hangup, *watchdog;
    ss_daemon_stop_fn stop;
    ss_daemon_alive_fn alive;
    void *ctx;
    bool starved; /* the watchdog was last left unfed: said once, not each time */
};

/* What libevent has to say is a line of our log, not words beside it. */
static void on_libevent(int severity, const char *text) {
    ss_level level = severity >= EVENT_LOG_ERR ? SS_ERROR : severity == EVENT_LOG_WARN ? SS_WARN : SS_DEBUG;
    SS_LOG(level, "event_loop", SS_S("error", text));
}

ss_status ss_daemon_process(ss_error *reterr) {
    const struct rlimit none = {0, 0};
    struct rlimit files;

    umask(0007);
    event_set_log_callback(on_libevent);
    /* Both: the limit does not bind a core that is piped to a handler, and not being dumpable does.
     */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-SYS-0003", errno,
                           "core dumps cannot be switched off (PR_SET_DUMPABLE)");
    if (setrlimit(RLIMIT_CORE, &none) != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-SYS-0003", errno,
                           "core dumps cannot be switched off (RLIMIT_CORE)");
    /* A peer that went away is an EPIPE where we write, not the end of the process. */
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return ss_fail_sys(reterr, SS_STOP, "SS-SYS-0003", errno, "SIGPIPE cannot be ignored");
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            SS_LOG(SS_WARN, "open_files_limit_kept", SS_I("errno", errno));
    }
    return SS_OK;
}

static void on_stop(evutil_socket_t signal_number, short what, void *data) {
    ss_daemon *daemon = data;

    (void)what;
    daemon->stop(daemon->ctx, (int)signal_number);
}

static void on_hangup(evutil_socket_t signal_number, short what, void *data) {
    (void)signal_number;
    (void)what;
    (void)data;
    SS_LOG(SS_WARN, "hangup_ignored",
           SS_S("reason", "the configuration is read at start only; restart to change it"));
}

/* systemd kills and restarts us when this falls silent; so it does when the loop turns but the work
 * stands still without a reason. Nothing acknowledged is lost by that: it is one more kill -9. */
static void on_watchdog(evutil_socket_t fd, short what, void *data) {
    ss_daemon *daemon = data;

    (void)fd;
    (void)what;
    bool alive = daemon->alive == NULL || daemon->alive(daemon->ctx);
    if (alive)
        sd_notify(0, "WATCHDOG=1");
    else if (!daemon->starved)
        SS_LOG(SS_ERROR, "watchdog_not_fed",
               SS_S("reason", "work waits, but there is no progress and no known reason"));
    daemon->starved = !alive;
}

static struct event *add(struct event_base *base, evutil_socket_t fd, short what,
                         event_callback_fn fn, void *data, const struct timeval *each) {
    struct event *event = event_new(base, fd, what, fn, data);

    if (event != NULL && event_add(event, each) != 0) {
        event_free(event);
        return NULL;
    }
    return event;
}

ss_status ss_daemon_new(struct event_base *base, ss_daemon_stop_fn stop, ss_daemon_alive_fn alive,
                        void *ctx, ss_daemon **ret, ss_error *reterr) {
    uint64_t interval_us = 0;
    ss_daemon *daemon = calloc(1, sizeof *daemon);

    if (daemon == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001",
                       "there is no memory to set up signal handling");
    daemon->stop = stop;
    daemon->alive = alive;
    daemon->ctx = ctx;
    daemon->term = add(base, SIGTERM, EV_SIGNAL | EV_PERSIST, on_stop, daemon, NULL);
    daemon->interrupt = add(base, SIGINT, EV_SIGNAL | EV_PERSIST, on_stop, daemon, NULL);
    daemon->hangup = add(base, SIGHUP, EV_SIGNAL | EV_PERSIST, on_hangup, daemon, NULL);
    bool failed = daemon->term == NULL || daemon->interrupt == NULL || daemon->hangup == NULL;
    if (sd_watchdog_enabled(0, &interval_us) > 0 && interval_us > 0) {
        uint64_t half = interval_us / 2 > 0 ? interval_us / 2 : 1;
        struct timeval each = {(time_t)(half / 1000000), (suseconds_t)(half % 1000000)};
        daemon->watchdog = add(base, -1, EV_PERSIST, on_watchdog, daemon, &each);
        failed = failed || daemon->watchdog == NULL;
    }
    if (failed) {
        ss_daemon_free(daemon);
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0002",
                       "signals and the watchdog's timer cannot be set up in the event loop");
    }
    *ret = daemon;
    return SS_OK;
}

void ss_daemon_free(ss_daemon *daemon) {
    if (daemon == NULL)
        return;
    struct event *const events[] = {daemon->term, daemon->interrupt, daemon->hangup,
                                    daemon->watchdog};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
        if (events[i] != NULL)
            event_free(events[i]);
    free(daemon);
}

/* sd_notify's result is not looked at: without systemd there is nobody to tell, and with it a lost
 * word costs a restart at worst. */
void ss_daemon_ready(ss_daemon *daemon) {
    (void)daemon;
    sd_notify(0, "READY=1");
}

void ss_daemon_status(ss_daemon *daemon, const char *fmt, ...) {
    char text[512];
    va_list args;

    (void)daemon;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\n')
            *p = ' '; /* a line of its own would be a command to systemd */
    sd_notifyf(0, "STATUS=%s", text);
}

void ss_daemon_stopping(ss_daemon *daemon) {
    (void)daemon;
    sd_notify(0, "STOPPING=1");
}
