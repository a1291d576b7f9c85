/* agent.sock: JSON lines from routes and from the supervisor. Main thread. See
 * docs/architecture.md. */
#ifndef AGENTS_REQUESTS_H
#define AGENTS_REQUESTS_H

#include "agents/copy.h"
#include <event2/event.h>

typedef struct ss_requests ss_requests;

typedef struct {
    const ss_source_ops *ops;
    const ss_source_env *env;
    ss_spool *spool;
    ss_agent_status *status;
    ss_pipeline *pipeline;
    ss_copies *copies;
    struct event_base *base;
} ss_requests_setup;

/* Listens on <source>/agent.sock. The caller holds the spool's lock: a socket that is there belongs
 * to nobody. */
SS_MUST ss_status ss_requests_new(const ss_requests_setup *setup, ss_requests **ret,
                                  ss_error *reterr);
/* A byte to each peer that asked to be woken. Never blocks: a peer that does not read misses bytes,
 * and looks by itself. */
void ss_requests_wake(ss_requests *requests);
/* Once a second from the main loop: deadlines, and what the source holds back while the spool is
 * full. */
void ss_requests_tick(ss_requests *requests);
/* Closes peers and the socket. Waits at most wait_ms for workers; false: one is still asking the
 * source, and what it uses is not freed. */
bool ss_requests_free(ss_requests *requests, int wait_ms);

#endif
