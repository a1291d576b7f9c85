/* A thread that applies one batch while the route prepares the next (route_intake.c hands over and waits). */
#ifndef SIDESPOOL_ROUTE_WORKER_H
#define SIDESPOOL_ROUTE_WORKER_H

#include "sidespool/target.h"

typedef struct ss_worker ss_worker;

ss_worker *ss_worker_new(void); /* NULL: no memory or no thread */
void ss_worker_free(ss_worker *worker); /* ends the batch at hand first */
/* Hands a batch over; the one before has been waited for. All that it points to stays as it is until ss_worker_wait has returned,
 * and nobody else uses the target. */
void ss_worker_apply(ss_worker *worker, const ss_target_ops *ops, ss_target *target, const ss_batch *batch);
bool ss_worker_busy(ss_worker *worker);
/* Waits for it and returns what ops->apply did, and how long it took. */
SS_MUST ss_status ss_worker_wait(ss_worker *worker, uint64_t *ret_took_ms, ss_error *reterr);

#endif
