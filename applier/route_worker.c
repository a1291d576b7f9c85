/* The thread that applies. While the target carries out a batch, the route reads, decodes and reduces the next one.
 *
 * It has one batch at a time and owns the target while it is busy: nobody else speaks to the target before ss_worker_wait has
 * returned. What the batch points into (its batcher, the states, the schemas) stays as it is until then. */
#include "applier/route_worker.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct ss_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending;
    bool busy;              /* a batch was handed over and is not done */
    const ss_target_ops *ops;
    ss_target *target;
    ss_batch batch;
    ss_status status;       /* of the last batch */
    uint64_t took_ms;
    ss_error error;
};

static uint64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void *work(void *ctx) {
    ss_worker *w = ctx;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->busy && !w->ending)
            pthread_cond_wait(&w->changed, &w->lock);
        if (!w->busy)
            break;
        pthread_mutex_unlock(&w->lock);
        ss_error err = {0};
        uint64_t began = now_ms();
        ss_status st = w->ops->apply(w->target, &w->batch, &err);
        pthread_mutex_lock(&w->lock);
        w->took_ms = now_ms() - began;
        w->status = st;
        w->error = err;
        w->busy = false;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

ss_worker *ss_worker_new(void) {
    ss_worker *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (pthread_create(&w->thread, NULL, work, w) != 0) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return NULL;
    }
    return w;
}

void ss_worker_free(ss_worker *w) {
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void ss_worker_apply(ss_worker *w, const ss_target_ops *ops, ss_target *target, const ss_batch *batch) {
    pthread_mutex_lock(&w->lock);
    w->ops = ops;
    w->target = target;
    w->batch = *batch;
    w->busy = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

bool ss_worker_busy(ss_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool busy = w->busy;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

ss_status ss_worker_wait(ss_worker *w, uint64_t *ret_took_ms, ss_error *reterr) {
    pthread_mutex_lock(&w->lock);
    while (w->busy)
        pthread_cond_wait(&w->changed, &w->lock);
    ss_status st = w->status;
    *ret_took_ms = w->took_ms;
    if (st != SS_OK)
        *reterr = w->error;
    pthread_mutex_unlock(&w->lock);
    return st;
}
