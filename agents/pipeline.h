/* The capture thread: source -> stream log, in order, each change once. See docs/architecture.md.
 *
 * new, start and stop are called by main; add_marker, hold, unhold, pause, resume and the queries
 * are safe in any thread. */
#ifndef AGENTS_PIPELINE_H
#define AGENTS_PIPELINE_H

#include "agents/selected.h"
#include "agents/state.h"
#include "sidespool/source.h"
#include "sidespool/spool.h"

typedef struct ss_pipeline ss_pipeline;

typedef struct {
    const ss_source_ops *ops;
    const ss_source_env *env;
    ss_spool *spool;
    ss_agent_status *status;
    int on_gap;
    /* The source's history broke and a new epoch begins: what was copied of the old one is void.
     * Capture thread. */
    void (*history_broke)(void *ctx, const char *reason);
    void *ctx;
} ss_pipeline_setup;

/* The setup is copied; what it points to lives longer than the pipeline. */
SS_MUST ss_status ss_pipeline_new(const ss_pipeline_setup *setup, ss_pipeline **ret,
                                  ss_error *reterr);
SS_MUST ss_status ss_pipeline_start(ss_pipeline *pipeline, ss_error *reterr);
/* Asks the thread to finish its flush, close orderly and end. Waits at most `wait_ms`: SS_BUSY when
 * it has not ended by then (a source that does not answer; what is durable is durable, the process
 * may just exit). */
SS_MUST ss_status ss_pipeline_stop(ss_pipeline *pipeline, int wait_ms, ss_error *reterr);
void ss_pipeline_free(ss_pipeline *pipeline); /* after a stop that ended, or before start */

/* Writes `record` (packed, copied) between two transactions: behind all that lies before `position`
 * and before all that lies at or beyond it; position "" means as soon as possible. Markers of one
 * position keep their order. `id` (0: none) can be asked for by ss_pipeline_marker_durable.
 * `history`: what ss_pipeline_history said before the position was asked of the source; 0: it may
 * stand in any.
 * SS_BUSY: too many wait already. SS_RETRY with SS-AGENT-0004: the history broke since. */
SS_MUST ss_status ss_pipeline_add_marker(ss_pipeline *pipeline, const char *position,
                                         uint64_t history, ss_bytes record, uint64_t id,
                                         ss_error *reterr);
/* Moves on at each gap: a position of one history means nothing in another. Never 0. */
uint64_t ss_pipeline_history(ss_pipeline *pipeline);
/* The last id (of those in rising order) whose marker an fsync holds. */
uint64_t ss_pipeline_marker_durable(ss_pipeline *pipeline);

/* Between hold and unhold no transaction is taken from the source, so that a marker for a snapshot
 * that is opened meanwhile lands exactly: nothing beyond it can have been captured before it is
 * known. hold returns when the capture thread has stopped taking (SS_RETRY: the pipeline is being
 * stopped). Holds nest. */
SS_MUST ss_status ss_pipeline_hold(ss_pipeline *pipeline, ss_error *reterr);
void ss_pipeline_unhold(ss_pipeline *pipeline);
/* How long snapshot_open may wait under hold: at first, and after a try that was not enough. It grows
 * without end, so that a source whose long transactions overlap for ever is copied all the same. */
#define SS_HOLD_FIRST_MS 2000
static inline int ss_hold_longer(int most_ms) {
    return most_ms < 3600 * 1000 ? most_ms + most_ms / 2 : most_ms;
}
/* Waits up to wait_ms until the stream log is open for writing: until then a reader may miss what a
 * writer that was killed made durable last. SS_BUSY: not yet. */
SS_MUST ss_status ss_pipeline_wait_opened(ss_pipeline *pipeline, int wait_ms, ss_error *reterr);
/* Waits up to wait_ms until the source has been prepared and its first position is durable: a
 * snapshot taken from then on has nothing between it and the stream. SS_BUSY: not yet. */
SS_MUST ss_status ss_pipeline_wait_prepared(ss_pipeline *pipeline, int wait_ms, ss_error *reterr);

/* Compares the tables that the source selects with those that were captured, and writes a TableGap for
 * each that broke; waits for it up to wait_ms. SS_BUSY: not yet. A copy does so before its snapshot. */
SS_MUST ss_status ss_pipeline_look(ss_pipeline *pipeline, int wait_ms, ss_error *reterr);
ss_selected *ss_pipeline_selected(ss_pipeline *pipeline); /* borrowed */

/* Stops taking from the source until resume; answered keepalives go on. resume also tries again
 * after a halt. */
void ss_pipeline_pause(ss_pipeline *pipeline);
void ss_pipeline_resume(ss_pipeline *pipeline);

#endif
