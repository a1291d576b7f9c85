/* What the agent is doing, shared under one mutex. Nothing here blocks longer than a copy of the
 * struct. */
#include "agents/state.h"

#include "sidespool/log.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* A capture thread that has not gone round for so long hangs; every wait inside its loop is far
 * shorter. */
#define TURN_LIMIT_MS 60000

int64_t ss_now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t ss_monotonic_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

ss_status ss_waiter_init(pthread_mutex_t *mutex, pthread_cond_t *cond, ss_error *reterr) {
    pthread_condattr_t attr;
    int rc = pthread_mutex_init(mutex, NULL);
    if (rc != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", rc, "cannot make a mutex");
    rc = pthread_condattr_init(&attr);
    if (rc == 0) {
        rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        if (rc == 0)
            rc = pthread_cond_init(cond, &attr);
        pthread_condattr_destroy(&attr);
    }
    if (rc == 0)
        return SS_OK;
    pthread_mutex_destroy(mutex);
    return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", rc, "cannot make a condition variable");
}

void ss_waiter_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(cond, mutex, &until);
}

const char *ss_agent_state_name(ss_agent_state state) {
    static const char *const names[] = {
        [SS_AGENT_STARTING] = "starting",     [SS_AGENT_STREAMING] = "streaming",
        [SS_AGENT_PAUSED] = "paused",         [SS_AGENT_WAITING_SOURCE] = "waiting_source",
        [SS_AGENT_SPOOL_FULL] = "spool_full", [SS_AGENT_HALTED] = "halted",
        [SS_AGENT_FINISHED] = "finished",
    };
    return names[state];
}

ss_status ss_agent_status_init(ss_agent_status *status, ss_error *reterr) {
    memset(status, 0, sizeof *status);
    status->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (status->wake_fd < 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", errno, "cannot make an eventfd");
    int rc = pthread_mutex_init(&status->mutex, NULL);
    if (rc != 0) {
        close(status->wake_fd);
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", rc, "cannot make a mutex");
    }
    status->now.since_us = ss_now_us();
    status->turned_ms = ss_monotonic_ms();
    return SS_OK;
}

void ss_agent_status_done(ss_agent_status *status) {
    close(status->wake_fd);
    pthread_mutex_destroy(&status->mutex);
}

/* The counter of an eventfd cannot overflow in practice; a write that would block means that it is
 * readable already. */
static void wake_main(ss_agent_status *status) {
    uint64_t one = 1;
    ssize_t n = write(status->wake_fd, &one, sizeof one);
    (void)n;
}

void ss_agent_state_set(ss_agent_status *status, ss_agent_state state, const char *reason,
                        const ss_error *err) {
    const char *text = err != NULL ? err->text : reason != NULL ? reason : "";
    const char *code = err != NULL && err->code != NULL ? err->code : "";

    pthread_mutex_lock(&status->mutex);
    bool reworded = strcmp(status->now.reason, text) != 0;
    /* The same error again with other numbers in it is not another state. */
    bool changed = status->now.state != state || strcmp(status->now.code, code) != 0 ||
                   (reworded && code[0] == '\0');
    if (reworded)
        snprintf(status->now.reason, sizeof status->now.reason, "%s", text);
    if (changed) {
        status->now.state = state;
        snprintf(status->now.code, sizeof status->now.code, "%s", code);
        status->now.since_us = ss_now_us();
    }
    pthread_mutex_unlock(&status->mutex);
    if (!changed)
        return;
    ss_level level = state == SS_AGENT_HALTED                                           ? SS_ERROR
                     : state == SS_AGENT_WAITING_SOURCE || state == SS_AGENT_SPOOL_FULL ? SS_WARN
                                                                                        : SS_INFO;
    if (code[0] != '\0')
        SS_LOG(level, "state", SS_S("state", ss_agent_state_name(state)), SS_S("code", code),
               SS_S("reason", text));
    else
        SS_LOG(level, "state", SS_S("state", ss_agent_state_name(state)), SS_S("reason", text));
    wake_main(status);
}

ss_agent_state ss_agent_state_get(ss_agent_status *status) {
    pthread_mutex_lock(&status->mutex);
    ss_agent_state state = status->now.state;
    pthread_mutex_unlock(&status->mutex);
    return state;
}

void ss_agent_status_get(ss_agent_status *status, ss_agent_snapshot *ret) {
    pthread_mutex_lock(&status->mutex);
    *ret = status->now;
    ret->heard_ms = status->heard_at_ms != 0 ? ss_monotonic_ms() - status->heard_at_ms : SS_NEVER_HEARD_MS;
    pthread_mutex_unlock(&status->mutex);
}

void ss_agent_status_turned(ss_agent_status *status) {
    int64_t now = ss_monotonic_ms();
    pthread_mutex_lock(&status->mutex);
    status->turned_ms = now;
    pthread_mutex_unlock(&status->mutex);
}

bool ss_agent_status_alive(ss_agent_status *status) {
    int64_t now = ss_monotonic_ms();
    pthread_mutex_lock(&status->mutex);
    bool turning = now - status->turned_ms < TURN_LIMIT_MS;
    bool says_why = status->now.state != SS_AGENT_STREAMING && status->now.reason[0] != '\0';
    pthread_mutex_unlock(&status->mutex);
    return turning || says_why;
}

void ss_agent_status_committed(ss_agent_status *status, const ss_log_state *stream,
                               const ss_log_state *copy) {
    pthread_mutex_lock(&status->mutex);
    if (stream != NULL) {
        snprintf(status->now.position, sizeof status->now.position, "%s", stream->position);
        memcpy(status->now.spool_id, stream->spool_id, sizeof status->now.spool_id);
        status->now.epoch = stream->epoch;
        status->now.committed = stream->committed;
        status->now.first = stream->first;
    }
    if (copy != NULL)
        status->now.copy_committed = copy->committed;
    status->committed_new = true;
    pthread_mutex_unlock(&status->mutex);
    wake_main(status);
}

void ss_agent_status_usage(ss_agent_status *status, uint64_t used, uint64_t quota) {
    pthread_mutex_lock(&status->mutex);
    status->now.spool_used = used;
    status->now.spool_quota = quota;
    pthread_mutex_unlock(&status->mutex);
}

void ss_agent_status_released(ss_agent_status *status, const char *position) {
    pthread_mutex_lock(&status->mutex);
    snprintf(status->now.released, sizeof status->now.released, "%s", position);
    pthread_mutex_unlock(&status->mutex);
}

void ss_agent_status_last_change(ss_agent_status *status, uint64_t sequence) {
    pthread_mutex_lock(&status->mutex);
    status->now.last_change = sequence;
    pthread_mutex_unlock(&status->mutex);
}

void ss_agent_status_source_time(ss_agent_status *status, int64_t source_time_us,
                                 uint64_t records) {
    pthread_mutex_lock(&status->mutex);
    if (source_time_us != status->now.source_time_us)
        status->heard_at_ms = ss_monotonic_ms();
    status->now.source_time_us = source_time_us;
    status->now.records = records;
    pthread_mutex_unlock(&status->mutex);
}

void ss_agent_status_copy(ss_agent_status *status, const ss_copy_progress *progress) {
    pthread_mutex_lock(&status->mutex);
    status->now.copy = *progress;
    pthread_mutex_unlock(&status->mutex);
}

bool ss_agent_status_woken(ss_agent_status *status) {
    uint64_t count;
    ssize_t n = read(status->wake_fd, &count, sizeof count);
    (void)n; /* nothing to read: somebody drained it for us */
    pthread_mutex_lock(&status->mutex);
    bool committed = status->committed_new;
    status->committed_new = false;
    pthread_mutex_unlock(&status->mutex);
    return committed;
}
