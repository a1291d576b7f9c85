/* Copies: a queue of what routes asked for, one copy at a time, its rows into the copy log. See
 * docs/architecture.md.
 *
 * The copy thread is the only one that touches the copy log. Everything declared here is safe in
 * any thread. */
#ifndef AGENTS_COPY_H
#define AGENTS_COPY_H

#include "agents/pipeline.h"

typedef struct ss_copies ss_copies;

typedef struct {
    const ss_source_ops *ops;
    const ss_source_env *env;
    ss_spool *spool;
    ss_agent_status *status;
    ss_pipeline *pipeline;
    size_t readers;
} ss_copies_setup;

/* Reads the generation file. Once started and once the pipeline has opened the stream, the copy
 * thread hands CopyEnd{aborted} to the pipeline for a copy that the last life of this agent left
 * open; requests before that are asked to come again. */
SS_MUST ss_status ss_copies_new(const ss_copies_setup *setup, ss_copies **ret, ss_error *reterr);
SS_MUST ss_status ss_copies_start(ss_copies *copies, ss_error *reterr);
SS_MUST ss_status ss_copies_stop(ss_copies *copies, int wait_ms, ss_error *reterr);
void ss_copies_free(ss_copies *copies);

/* Queues a copy of `tables` ("ns.name"; count 0: all that is selected) for `route`, or finds the
 * one that runs or waits. */
SS_MUST ss_status ss_copies_request(ss_copies *copies, const char *route, const char *const *tables,
                                    size_t count, uint64_t *ret_generation, bool *ret_running,
                                    ss_error *reterr);
/* Ends the copy that runs as aborted. */
void ss_copies_abort(ss_copies *copies, const char *reason);

#endif
