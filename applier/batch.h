/* Batches: changes of whole source transactions, reduced to their net effect (DESIGN 6).
 *
 * Step "batch" of the flow: route_intake.c adds decoded changes in stream order, the target gets tables with groups of
 * rows. The in-order list is always kept, for tables whose net effect does not hold and for the target's fallback.
 * One thread. Everything handed out lives until ss_batcher_reset. */
#ifndef SIDESPOOL_BATCH_H
#define SIDESPOOL_BATCH_H

#include "sidespool/target.h"

typedef struct ss_batcher ss_batcher;

/* limit_bytes: the hard limit of one batch's memory, far above what a batch is cut at (a single huge row must fit). */
ss_batcher *ss_batcher_new(size_t limit_bytes); /* NULL: out of memory */
void ss_batcher_free(ss_batcher *batcher);
void ss_batcher_reset(ss_batcher *batcher);

/* Records are decoded into it, so that their views live as long as the batch. */
ss_arena *ss_batcher_arena(ss_batcher *batcher);
/* Takes over heap memory that cells of added changes point into (values put together from pieces). SS_RETRY: out of memory, not taken. */
SS_MUST ss_status ss_batcher_adopt(ss_batcher *batcher, void *heap, size_t len, ss_error *reterr);
size_t ss_batcher_bytes(const ss_batcher *batcher);   /* decoded bytes in the batch */
size_t ss_batcher_changes(const ss_batcher *batcher);

/* change's views and schema live at least until reset; the same schema is always the same pointer. */
SS_MUST ss_status ss_batcher_add(ss_batcher *batcher, const Sidespool__Schema *schema, const ss_change *change,
                                 uint64_t sequence, ss_error *reterr);
/* The net effect of all that was added. Nothing may be added afterwards before reset. */
SS_MUST ss_status ss_batcher_tables(ss_batcher *batcher, const ss_batch_table **ret, size_t *ret_count, ss_error *reterr);

#endif
