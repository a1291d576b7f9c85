/* What every long-running program here does alike: its safety settings, its signals, and its word
 * with systemd. All of it runs in the main thread, around one libevent base that the program owns.
 */
#ifndef SIDESPOOL_DAEMON_H
#define SIDESPOOL_DAEMON_H

#include "sidespool/error.h"

#include <event2/event.h>
#include <stdbool.h>

/* Before anything else in main(), before threads: no core dumps and not dumpable (a core would hold
 * row values in the clear), umask 0007, SIGPIPE ignored, soft limit of open files raised to the
 * hard one. */
SS_MUST ss_status ss_daemon_process(ss_error *reterr);

typedef struct ss_daemon ss_daemon;
/* SIGTERM or SIGINT arrived (`signal`), in the loop. Called for each; the second may mean "at
 * once". */
typedef void (*ss_daemon_stop_fn)(void *ctx, int signal);
/* May the watchdog be fed? Called at half the interval that systemd wants. True only when there is
 * progress, or nothing waits, or the state says its reason. */
typedef bool (*ss_daemon_alive_fn)(void *ctx);

/* Signals as events of `base` (SIGHUP is ignored with a line in the log), and WATCHDOG=1 when
 * systemd asks for it. `alive` may be NULL: a loop that turns is enough. `base` outlives the
 * daemon. */
SS_MUST ss_status ss_daemon_new(struct event_base *base, ss_daemon_stop_fn stop,
                                ss_daemon_alive_fn alive, void *ctx, ss_daemon **ret,
                                ss_error *reterr);
void ss_daemon_free(ss_daemon *daemon); /* takes NULL; leaves the event base to its owner */
/* To systemd; nothing happens when it did not start us. */
void ss_daemon_ready(ss_daemon *daemon);
void ss_daemon_status(ss_daemon *daemon, const char *fmt, ...)
    SS_PRINTF(2, 3); /* one line for `systemctl status` */
void ss_daemon_stopping(ss_daemon *daemon);

#endif
