/* The capture thread's lifecycle: open the log, keep a session running, answer what breaks it; and
 * the calls that other threads make. See pipeline_session.c for the loop and pipeline_sink.c for
 * what is written. */
#include "agents/pipeline_internal.h"

#include "sidespool/log.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BACKOFF_FIRST_MS 250
#define BACKOFF_MOST_MS 5000 /* a link that is well again is used within ten seconds */

/* ---- called by any thread
 * ------------------------------------------------------------------------------------------ */

void ss_pipeline_wake(ss_pipeline *p) {
    uint64_t one = 1;
    ssize_t n = write(p->request_fd, &one, sizeof one);
    (void)n; /* would block: it is readable already */
}

ss_status ss_pipeline_new(const ss_pipeline_setup *setup, ss_pipeline **ret, ss_error *reterr) {
    ss_pipeline *p = calloc(1, sizeof *p);
    if (p == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "out of memory");
    p->setup = *setup;
    p->history = 1;
    p->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->request_fd < 0) {
        int err = errno;
        free(p);
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", err, "cannot make an eventfd");
    }
    ss_status status = ss_selected_new(ss_spool_dir(setup->spool), &p->selected, reterr);
    if (status == SS_OK)
        status = ss_waiter_init(&p->mutex, &p->cond, reterr);
    if (status != SS_OK) {
        ss_selected_free(p->selected);
        close(p->request_fd);
        free(p);
        return status;
    }
    ss_markers_init(&p->incoming);
    ss_markers_init(&p->markers);
    ss_buf_init(&p->record);
    ss_buf_init(&p->schema);
    ss_backoff_init(&p->backoff, BACKOFF_FIRST_MS, BACKOFF_MOST_MS, 0);
    *ret = p;
    return SS_OK;
}

void ss_pipeline_free(ss_pipeline *p) {
    if (p == NULL)
        return;
    ss_markers_clear(&p->incoming);
    ss_markers_clear(&p->markers);
    ss_buf_done(&p->record);
    ss_buf_done(&p->schema);
    ss_selected_free(p->selected);
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->mutex);
    close(p->request_fd);
    free(p);
}

ss_status ss_pipeline_add_marker(ss_pipeline *p, const char *position, uint64_t history,
                                 ss_bytes record, uint64_t id, ss_error *reterr) {
    ss_marker *marker;
    ss_status status = SS_OK;
    size_t len = strlen(position);

    if (len >= sizeof marker->position)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003", "a position longer than %zu bytes",
                       sizeof marker->position - 1);
    marker = malloc(sizeof *marker + record.len);
    if (marker == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a marker");
    marker->next = NULL;
    marker->id = id;
    memcpy(marker->position, position, len + 1);
    marker->len = record.len;
    memcpy(marker->record, record.ptr, record.len);

    pthread_mutex_lock(&p->mutex);
    if (p->marker_count >= SS_MARKERS_MAX) {
        status =
            ss_fail(reterr, SS_BUSY, "SS-AGENT-0005",
                    "%d marks wait already for the source to be captured so far", SS_MARKERS_MAX);
    } else if (history != 0 && history != p->history) {
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0004",
                         "the source's history broke meanwhile");
    } else {
        *p->incoming.last = marker;
        p->incoming.last = &marker->next;
        p->marker_count++;
        marker = NULL;
    }
    pthread_mutex_unlock(&p->mutex);
    free(marker);
    ss_pipeline_wake(p);
    return status;
}

uint64_t ss_pipeline_history(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    uint64_t history = p->history;
    pthread_mutex_unlock(&p->mutex);
    return history;
}

uint64_t ss_pipeline_marker_durable(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    uint64_t id = p->marker_durable;
    pthread_mutex_unlock(&p->mutex);
    return id;
}

ss_status ss_pipeline_hold(ss_pipeline *p, ss_error *reterr) {
    ss_status status = SS_OK;

    pthread_mutex_lock(&p->mutex);
    p->holds++;
    ss_pipeline_wake(p);
    while (p->taking && !p->stop)
        ss_waiter_wait(&p->cond, &p->mutex, 1000);
    if (p->stop) {
        p->holds--;
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping");
    }
    pthread_mutex_unlock(&p->mutex);
    return status;
}

void ss_pipeline_unhold(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    p->holds--;
    pthread_mutex_unlock(&p->mutex);
    ss_pipeline_wake(p);
}

static ss_status wait_for(ss_pipeline *p, const bool *what, int wait_ms, ss_error *reterr) {
    int64_t until = ss_monotonic_ms() + wait_ms;
    ss_status status;

    pthread_mutex_lock(&p->mutex);
    while (!*what && !p->stop && ss_monotonic_ms() < until)
        ss_waiter_wait(&p->cond, &p->mutex, until - ss_monotonic_ms());
    if (p->stop)
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping");
    else
        status = *what ? SS_OK
                             : ss_fail(reterr, SS_BUSY, "SS-AGENT-0007",
                                       "the source is not being captured yet");
    pthread_mutex_unlock(&p->mutex);
    return status;
}

ss_status ss_pipeline_wait_opened(ss_pipeline *p, int wait_ms, ss_error *reterr) {
    return wait_for(p, &p->opened, wait_ms, reterr);
}

ss_status ss_pipeline_wait_prepared(ss_pipeline *p, int wait_ms, ss_error *reterr) {
    return wait_for(p, &p->prepared, wait_ms, reterr);
}

void ss_pipeline_pause(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    p->paused = true;
    pthread_mutex_unlock(&p->mutex);
    ss_pipeline_wake(p);
}

void ss_pipeline_resume(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    p->paused = false;
    p->again = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->mutex);
    ss_pipeline_wake(p);
}

/* ---- the capture thread
 * -------------------------------------------------------------------------------------------- */

/* A log goes on being trimmed whatever keeps its source away: routes go on too, and a copy may wait
 * for the room. */
static void trim_beside(ss_pipeline *p) {
    int64_t now = ss_monotonic_ms();
    uint64_t removed = 0;
    ss_error err = {0};

    if (p->log == NULL || now - p->second_ms < 1000)
        return;
    p->second_ms = now;
    if (ss_log_trim(p->log, &removed, &err) != SS_OK)
        ss_log_error(SS_DEBUG, "trim_failed", &err); /* what keeps us here says it by itself */
    if (removed > 0)
        ss_agent_status_committed(p->setup.status, ss_log_get_state(p->log), NULL);
}

/* Waits outside a session; the loop "turns" here too, for the watchdog. */
static void wait_or_stop(ss_pipeline *p, int64_t ms, bool until_again) {
    int64_t until = ss_monotonic_ms() + ms;

    pthread_mutex_lock(&p->mutex);
    if (until_again)
        p->again = false;
    for (;;) {
        int64_t now = ss_monotonic_ms();
        if (p->stop || (until_again ? p->again : now >= until))
            break;
        ss_waiter_wait(&p->cond, &p->mutex, until_again || until - now > 1000 ? 1000 : until - now);
        pthread_mutex_unlock(&p->mutex);
        ss_agent_status_turned(p->setup.status);
        trim_beside(p);
        pthread_mutex_lock(&p->mutex);
    }
    pthread_mutex_unlock(&p->mutex);
}

void ss_pipeline_wait(ss_pipeline *p, int64_t ms) {
    wait_or_stop(p, ms, false);
}

static void back_off(ss_pipeline *p) {
    wait_or_stop(p, (int64_t)ss_backoff_next(&p->backoff), false);
}

static void halt(ss_pipeline *p, const ss_error *err) {
    ss_agent_state_set(p->setup.status, SS_AGENT_HALTED, NULL, err);
    wait_or_stop(p, 0, true);
    if (!ss_pipeline_stopping(p))
        ss_agent_state_set(p->setup.status, SS_AGENT_STARTING, "trying again by request", NULL);
}

static bool open_log(ss_pipeline *p) {
    while (!ss_pipeline_stopping(p)) {
        ss_error err = {0};
        ss_status status = ss_log_open(p->setup.spool, SS_LOG_STREAM, &p->log, &err);
        if (status == SS_OK) {
            p->last_change = ss_log_get_state(p->log)->committed;
            ss_agent_status_last_change(p->setup.status, p->last_change);
            ss_agent_status_committed(p->setup.status, ss_log_get_state(p->log), NULL);
            pthread_mutex_lock(&p->mutex);
            p->opened = true;
            pthread_cond_broadcast(&p->cond);
            pthread_mutex_unlock(&p->mutex);
            return true;
        }
        p->log = NULL;
        if (status == SS_STOP) {
            halt(p, &err);
        } else {
            ss_agent_state_set(p->setup.status, SS_AGENT_SPOOL_FULL, NULL, &err);
            back_off(p);
        }
    }
    return false;
}

/* After a session has broken: nothing goes on before the log is at a whole, durable place. */
static void settle(ss_pipeline *p) {
    for (;;) {
        ss_error err = {0};
        ss_status status = ss_pipeline_settle(p, &err);
        if (status == SS_OK) {
            p->full = false;
            return;
        }
        if (ss_pipeline_stopping(p))
            break; /* what is not durable the source sends again */
        if (status == SS_STOP) {
            halt(p, &err);
            continue;
        }
        ss_agent_state_set(p->setup.status, SS_AGENT_SPOOL_FULL, NULL, &err);
        wait_or_stop(p, 1000, false);
    }
}

static void *capture_main(void *arg) {
    ss_pipeline *p = arg;

    bool opened = open_log(p);
    while (opened && !ss_pipeline_stopping(p)) {
        ss_error err = {0};
        p->spool_failed = false;
        ss_status status = ss_pipeline_session(p, &err);
        bool streamed = status == SS_STOP && p->source != NULL && !p->spool_failed;
        bool spool_failed = p->spool_failed;
        settle(p);
        if (status == SS_OK || ss_pipeline_stopping(p))
            break;
        if (status == SS_STOP) {
            /* A history that breaks under a running stream shows as an error of the stream first.
             */
            if (streamed && !spool_failed && p->setup.on_gap == SS_ON_GAP_RESYNC &&
                ss_pipeline_is_gap(p))
                continue;
            halt(p, &err);
            continue;
        }
        ss_agent_state_set(p->setup.status, SS_AGENT_WAITING_SOURCE, NULL, &err);
        back_off(p);
    }
    if (p->log != NULL)
        ss_log_close(p->log);
    p->log = NULL;
    ss_agent_state_set(p->setup.status, SS_AGENT_FINISHED, "stopped by request", NULL);
    pthread_mutex_lock(&p->mutex);
    p->ended = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

ss_status ss_pipeline_start(ss_pipeline *p, ss_error *reterr) {
    int rc = pthread_create(&p->thread, NULL, capture_main, p);
    if (rc != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", rc, "cannot start the capture thread");
    p->started = true;
    return SS_OK;
}

/* Ends what waits for the source in any thread. Never read: it stays readable for all of them. */
static void stop_waiting(const ss_pipeline *p) {
    uint64_t one = 1;

    if (p->setup.env->stop_fd > 0) {
        ssize_t n = write(p->setup.env->stop_fd, &one, sizeof one);
        (void)n; /* would block: it is readable already */
    }
}

ss_status ss_pipeline_stop(ss_pipeline *p, int wait_ms, ss_error *reterr) {
    int64_t until = ss_monotonic_ms() + wait_ms;

    if (!p->started)
        return SS_OK;
    stop_waiting(p);
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_broadcast(&p->cond);
    ss_pipeline_wake(p);
    while (!p->ended && ss_monotonic_ms() < until)
        ss_waiter_wait(&p->cond, &p->mutex, until - ss_monotonic_ms());
    bool ended = p->ended;
    pthread_mutex_unlock(&p->mutex);
    if (!ended)
        return ss_fail(reterr, SS_BUSY, "SS-AGENT-0006",
                       "the source does not answer while the agent stops");
    pthread_join(p->thread, NULL);
    p->started = false;
    return SS_OK;
}
