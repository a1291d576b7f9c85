/* Commits beside the log's owner: a thread of its own makes the flight durable while the owner goes on appending, so that a
 * source is read while the disk syncs. One flight at a time, in order, by the same code as ss_log_commit: what a death or a
 * failed write leaves behind is the same, and nothing is acknowledged before the owner has seen the flight land.
 *
 * An LMDB write transaction begins and ends inside one call of commit.c, so it never changes threads. What belongs to the
 * thread while it flies is listed in spool_internal.h. */
#include "spool/spool_internal.h"

#include "sidespool/log.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

/* Between two commits the disk, and the processor, rest so many times as long as the last one took: what gathers meanwhile
 * shares the next one. A commit that comes out of quiet does not wait. */
#define REST_TIMES 3
#define REST_MOST_US (SS_LOG_COMMIT_MS * 1000)

static int64_t now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void *beside_main(void *arg) {
    ss_log *log = arg;
    ss_beside *b = &log->beside;
    pthread_mutex_lock(&b->mutex);
    for (;;) {
        while (!b->asked && !b->quit)
            pthread_cond_wait(&b->cond, &b->mutex);
        if (!b->asked)
            break;
        b->asked = false;
        pthread_mutex_unlock(&b->mutex);
        int64_t began = now_us();
        ss_error err = {0};
        ss_status status = ss_log_fly(log, &err);
        int64_t took = now_us() - began;
        pthread_mutex_lock(&b->mutex);
        b->status = status;
        b->error = err;
        b->took_us = took;
        b->ended = true;
        pthread_cond_broadcast(&b->cond);
        if (b->wake_fd >= 0) {
            uint64_t one = 1;
            (void)!write(b->wake_fd, &one, sizeof(one)); /* would block: it is readable already */
        }
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

static bool start(ss_log *log) {
    ss_beside *b = &log->beside;
    if (b->started)
        return true;
    if (!b->made && pthread_mutex_init(&b->mutex, NULL) == 0) {
        b->made = pthread_cond_init(&b->cond, NULL) == 0;
        if (!b->made)
            pthread_mutex_destroy(&b->mutex);
    }
    int rc = b->made ? pthread_create(&b->thread, NULL, beside_main, log) : ENOMEM;
    b->started = rc == 0;
    if (rc != 0 && !b->said)
        SS_LOG(SS_WARN, "commit_thread_missing", SS_S("log", ss_kind_name(log->kind)), SS_S("spool", log->spool->dir),
               SS_I("errno", rc), SS_S("instead", "the source is not read while a commit is made"));
    b->said = rc != 0;
    return b->started;
}

static void landed(ss_log *log) {
    ss_beside *b = &log->beside;
    int64_t rest = b->took_us * REST_TIMES;
    b->under_way = false;
    b->due_us = now_us() + (rest < REST_MOST_US ? rest : REST_MOST_US);
    ss_log_landed(log);
}

void ss_log_land(ss_log *log) {
    ss_beside *b = &log->beside;
    if (!b->under_way)
        return;
    pthread_mutex_lock(&b->mutex);
    while (!b->ended)
        pthread_cond_wait(&b->cond, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
    landed(log);
}

/* Without a thread (the system has no room for one now) the owner commits itself: slower, and as right. */
ss_status ss_log_commit_beside(ss_log *log, ss_error *reterr) {
    ss_beside *b = &log->beside;
    ss_log_land(log);
    if (ss_log_has_flight(log) || !start(log))
        return ss_log_commit(log, reterr);
    ss_status status = ss_log_take_off(log, reterr);
    if (status != SS_OK)
        return status;
    b->under_way = true;
    pthread_mutex_lock(&b->mutex);
    b->asked = true;
    b->ended = false;
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->mutex);
    return SS_OK;
}

static bool still_flies(ss_beside *b) {
    pthread_mutex_lock(&b->mutex);
    bool flies = !b->ended;
    pthread_mutex_unlock(&b->mutex);
    return flies;
}

ss_status ss_log_flush_beside(ss_log *log, int wake_fd, ss_log_turn *ret, ss_error *reterr) {
    ss_beside *b = &log->beside;
    *ret = (ss_log_turn){.now = SS_LOG_COMMITS};
    if (b->under_way && still_flies(b))
        return SS_OK;
    ret->now = SS_LOG_QUIET;
    ss_log_land(log);
    b->wake_fd = wake_fd;
    ss_status status = b->status;
    if (status != SS_OK) {
        *reterr = b->error;
        b->status = SS_OK;
        return status;
    }
    bool much = ss_log_pending(log) >= SPOOL_BESIDE_BYTES;
    if (ss_log_has_flight(log) || (!log->gather.marked && !much))
        return SS_OK;
    int64_t left = b->due_us - now_us();
    if (left > 0 && !much) {
        *ret = (ss_log_turn){.now = SS_LOG_RESTS, .wait_us = (int)left};
        return SS_OK;
    }
    status = ss_log_commit_beside(log, reterr);
    if (b->under_way)
        ret->now = SS_LOG_COMMITS;
    return status;
}

void ss_beside_done(ss_log *log) {
    ss_beside *b = &log->beside;
    ss_log_land(log);
    if (b->started) {
        pthread_mutex_lock(&b->mutex);
        b->quit = true;
        pthread_cond_broadcast(&b->cond);
        pthread_mutex_unlock(&b->mutex);
        pthread_join(b->thread, NULL);
    }
    if (b->made) {
        pthread_cond_destroy(&b->cond);
        pthread_mutex_destroy(&b->mutex);
    }
    b->started = b->made = false;
}
