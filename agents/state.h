/* What the agent is doing, for `status`, the watchdog and systemd: one struct under one mutex.
 *
 * Written by the capture thread and the copy thread, read by the main thread. Every setter is safe
 * in any thread. */
#ifndef AGENTS_STATE_H
#define AGENTS_STATE_H

#include "sidespool/error.h"
#include "sidespool/spool.h"
#include <pthread.h>

/* DESIGN 9. An agent is never waiting for a target. */
typedef enum {
    SS_AGENT_STARTING,
    SS_AGENT_STREAMING,
    SS_AGENT_PAUSED,
    SS_AGENT_WAITING_SOURCE,
    SS_AGENT_SPOOL_FULL,
    SS_AGENT_HALTED,
    SS_AGENT_FINISHED,
} ss_agent_state;
const char *ss_agent_state_name(ss_agent_state state);

#define SS_POSITION_MAX 512 /* as ss_progress.position */

/* The progress of the copy that runs. */
typedef struct {
    bool running;
    uint64_t generation;
    char route[64];
    uint64_t tables, tables_done, rows, bytes, rows_estimate, bytes_estimate;
    int64_t started_us;
    char reason[SS_ERROR_TEXT]; /* what it waits for; "" while rows flow */
} ss_copy_progress;

#define SS_NEVER_HEARD_MS 1000000000 /* more than any source is quiet */
typedef struct {
    ss_agent_state state;
    char reason[SS_ERROR_TEXT];     /* "" when there is nothing to say */
    char code[24];                  /* of the error behind the reason, or "" */
    int64_t since_us;               /* of the state and reason, microseconds since 1970 UTC */
    char position[SS_POSITION_MAX]; /* durable */
    char released[SS_POSITION_MAX];
    char spool_id[33];
    uint64_t epoch, committed, first, copy_committed, spool_used, spool_quota, records;
    uint64_t last_change;   /* the last record that is no sign of life; after a start: what was there */
    int64_t source_time_us; /* of the last commit or idle, by the source's clock */
    int64_t heard_ms;       /* how long ago that was heard, by the steady clock; SS_NEVER_HEARD_MS: not yet */
    ss_copy_progress copy;
} ss_agent_snapshot;

typedef struct {
    pthread_mutex_t mutex;
    ss_agent_snapshot now;
    int64_t heard_at_ms; /* when now.source_time_us moved last; 0: never */
    int64_t turned_ms;  /* monotonic: when the capture thread last went round its loop */
    int wake_fd;        /* eventfd of the main thread: new commits, a new state */
    bool committed_new; /* a commit since the main thread last looked */
} ss_agent_status;

SS_MUST ss_status ss_agent_status_init(ss_agent_status *status, ss_error *reterr);
void ss_agent_status_done(ss_agent_status *status);

/* Sets the state; logs a line when state or reason changed. `err` (may be NULL) gives reason and
 * code, else `reason`. */
void ss_agent_state_set(ss_agent_status *status, ss_agent_state state, const char *reason,
                        const ss_error *err);
ss_agent_state ss_agent_state_get(ss_agent_status *status);
void ss_agent_status_get(ss_agent_status *status, ss_agent_snapshot *ret);
/* The capture thread turned its loop. */
void ss_agent_status_turned(ss_agent_status *status);
/* For the watchdog: the capture thread turns, or the state itself says why it does not. */
bool ss_agent_status_alive(ss_agent_status *status);
/* After a commit of either log: the stream's state (NULL: not the stream), then the main thread
 * wakes the readers. */
void ss_agent_status_committed(ss_agent_status *status, const ss_log_state *stream,
                               const ss_log_state *copy);
void ss_agent_status_usage(ss_agent_status *status, uint64_t used, uint64_t quota);
void ss_agent_status_released(ss_agent_status *status, const char *position);
void ss_agent_status_last_change(ss_agent_status *status, uint64_t sequence);
void ss_agent_status_source_time(ss_agent_status *status, int64_t source_time_us, uint64_t records);
void ss_agent_status_copy(ss_agent_status *status, const ss_copy_progress *progress);
/* Main thread, when wake_fd is readable: drains it and tells whether there was a commit. */
bool ss_agent_status_woken(ss_agent_status *status);

/* Condition variables on the monotonic clock, so that a clock that is set does not stretch a wait.
 */
SS_MUST ss_status ss_waiter_init(pthread_mutex_t *mutex, pthread_cond_t *cond, ss_error *reterr);
/* Waits for the condition at most `ms`; the mutex is held. The caller looks again at what it waits
 * for. */
void ss_waiter_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t ms);

int64_t ss_now_us(void); /* microseconds since 1970 UTC */
int64_t ss_monotonic_ms(void);

#endif
