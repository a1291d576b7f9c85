/* What requests.c (socket, peers, main thread) and requests_work.c (what asks the source, worker
 * threads) share. */
#ifndef AGENTS_REQUESTS_INTERNAL_H
#define AGENTS_REQUESTS_INTERNAL_H

#include "agents/requests.h"
#include <jansson.h>
#include <stdatomic.h>

#define SS_WORKERS_MAX 8
#define SS_VERIFIES_MAX 2 /* each holds a snapshot of the source open */

typedef struct ss_verify ss_verify; /* an open snapshot of verify; used by one worker at a time */
typedef struct ss_peer ss_peer;

typedef enum {
    SS_WORK_STATUS,
    SS_WORK_MARK,
    SS_WORK_VERIFY_OPEN,
    SS_WORK_DIGEST,
    SS_WORK_DIGEST_ROWS,
    SS_WORK_CLOSE
} ss_work_kind;

/* One thing to ask the source. Belongs to the main thread, except between start and its coming
 * back. */
typedef struct ss_work {
    struct ss_work *next;
    const ss_requests_setup *setup;
    struct ss_work_pool *pool;
    ss_work_kind kind;
    ss_peer *peer; /* who waits for the answer; NULL: nobody */
    atomic_bool abandoned; /* set by the main thread: who asked has gone */
    json_t *request;
    ss_verify *verify; /* in, and out of VERIFY_OPEN */
    ss_status status;
    ss_error err;
    json_t *answer; /* without "ok"; NULL on failure */
} ss_work;

typedef struct ss_work_pool {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    ss_work *done;
    size_t running;
    int done_fd; /* eventfd of the main loop */
} ss_work_pool;

SS_MUST ss_status ss_work_pool_init(ss_work_pool *pool, ss_error *reterr);
void ss_work_pool_done(ss_work_pool *pool);
/* Takes the work; it comes back through ss_work_pool_take. SS_BUSY: too many run (SS_WORK_CLOSE is
 * never refused). */
SS_MUST ss_status ss_work_start(ss_work_pool *pool, ss_work *work, ss_error *reterr);
ss_work *ss_work_pool_take(ss_work_pool *pool);          /* the list of what has come back */
bool ss_work_pool_wait(ss_work_pool *pool, int wait_ms); /* false: some still run */
void ss_work_free(ss_work *work);
void ss_verify_free(const ss_source_ops *ops, ss_verify *verify); /* asks the source: in a worker */

#endif
