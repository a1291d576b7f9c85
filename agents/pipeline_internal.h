/* The capture thread's own state, shared by pipeline.c (lifecycle), pipeline_session.c (connecting,
 * the loop) and pipeline_sink.c (what the source hands over). */
#ifndef AGENTS_PIPELINE_INTERNAL_H
#define AGENTS_PIPELINE_INTERNAL_H

#include "agents/pipeline.h"
#include "agents/agent.h"
#include "sidespool/backoff.h"

#define SS_MARKERS_MAX                                                                             \
    4096 /* a marker is a few hundred bytes, CopyBegin of 10,000 tables about 1 MiB */

typedef struct ss_marker {
    struct ss_marker *next;
    uint64_t id;
    char position[SS_POSITION_MAX];
    size_t len;
    uint8_t record[];
} ss_marker;

typedef struct {
    ss_marker *first, **last;
} ss_marker_list;

struct ss_pipeline {
    ss_pipeline_setup setup;
    pthread_t thread;
    bool started;
    int request_fd; /* eventfd: wakes the source's poll */

    /* Under the mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool stop, ended, paused, again; /* again: resume asked for another try after a halt */
    unsigned holds;
    uint64_t history; /* grows at each gap */
    bool taking;      /* the capture thread may be taking transactions */
    bool opened; /* the log */
    bool prepared;
    ss_marker_list incoming;
    size_t marker_count; /* of both lists */
    uint64_t marker_durable;
    uint64_t look_wanted, look_done; /* comparisons asked for by ss_pipeline_look; done: written by us alone */
    ss_status look_status;
    ss_error look_error;

    /* The capture thread's own. */
    ss_log *log;
    ss_source *source;
    ss_selected *selected; /* safe in any thread */
    int64_t look_again_ms;
    ss_marker_list markers;
    uint64_t marker_written, marker_sequence; /* newest id in the log, and where */
    uint64_t marker_noted, noted_sequence;    /* the same as of some commit ago: what is told when that is durable */
    char captured[SS_POSITION_MAX]; /* all up to here has been handed over */
    bool in_transaction;            /* begin came, commit not yet */
    bool begun;                     /* and its Begin record is in the log */
    char at[SS_POSITION_MAX];
    int64_t commit_time;
    uint64_t xid;
    size_t emitted, emit_skip; /* records of the change at hand that the log has already */
    ss_buf record, schema;     /* reused encoding buffers */
    bool whole_pending;        /* something was marked whole and is not durable yet */
    uint64_t sequence;         /* of the record appended last */
    uint64_t whole_sequence;   /* of the last mark */
    uint64_t told;             /* durable, and said so to those who wait for it */
    bool more;                 /* the last poll left something unread */
    uint64_t last_change;      /* of the last record that is no idle position */
    size_t schemas_most;       /* bytes of schemas before the source is connected anew */
    int64_t schemas_ms;        /* when it was connected last */
    bool full;                 /* no room: nothing is taken until there is */
    bool spool_failed;         /* the last failure was the spool's, not the source's */
    ss_error full_error;
    int64_t full_retry_ms, full_since_ms;
    char released[SS_POSITION_MAX];
    uint64_t records, records_polled; /* appended since start; before the last poll */
    int64_t source_time, idle_ms, heard_ms, nudged_ms, second_ms;
    ss_backoff backoff; /* of connections that failed in a row */
};

/* pipeline_sink.c */
extern const ss_sink ss_pipeline_sink; /* ctx to be filled in */
SS_MUST ss_status ss_pipeline_append(ss_pipeline *p, const Sidespool__Record *record,
                                     ss_error *reterr);
SS_MUST ss_status ss_pipeline_append_bytes(ss_pipeline *p, ss_bytes record, uint64_t schema_id,
                                           ss_error *reterr);
/* Writes the markers that are due when everything before `upto` has been captured. Only between
 * transactions. */
SS_MUST ss_status ss_pipeline_write_markers(ss_pipeline *p, const char *upto, ss_error *reterr);
/* Marks all that was appended as whole, up to the captured position. */
void ss_pipeline_whole(ss_pipeline *p);
void ss_pipeline_set_full(ss_pipeline *p, const ss_error *err);
bool ss_pipeline_marker_waits(const ss_pipeline *p);
/* pipeline_selected.c */
SS_MUST ss_status ss_pipeline_compare_at_start(ss_pipeline *p, bool adopt, ss_error *reterr);
SS_MUST ss_status ss_pipeline_compare_if_asked(ss_pipeline *p, ss_error *reterr);
SS_MUST ss_status ss_pipeline_table_gap(void *ctx, const char *ns, const char *name, const char *reason,
                                        ss_error *reterr);

/* pipeline.c: any thread. */
void ss_pipeline_wake(ss_pipeline *p);

void ss_markers_init(ss_marker_list *list);
uint64_t ss_markers_newest(const ss_marker_list *list); /* the highest id */
size_t ss_markers_clear(ss_marker_list *list);

/* pipeline_session.c: connects and streams until it is stopped (SS_OK) or something breaks. */
SS_MUST ss_status ss_pipeline_session(ss_pipeline *p, ss_error *reterr);
/* After a session: closes the source, drops the cut transaction, makes durable what is whole. */
SS_MUST ss_status ss_pipeline_settle(ss_pipeline *p, ss_error *reterr);
/* Asks the source once more whether its history is broken. True: the next session will answer the
 * gap. */
bool ss_pipeline_is_gap(ss_pipeline *p);
SS_MUST ss_status ss_pipeline_flush(ss_pipeline *p, bool now, ss_error *reterr);
/* Appends a packed record behind all that was captured, whole by itself, and makes it durable. Between
 * transactions. */
SS_MUST ss_status ss_pipeline_put_durable(ss_pipeline *p, ss_bytes record, ss_error *reterr);
bool ss_pipeline_stopping(ss_pipeline *p);
/* Waits `ms`, or until the pipeline is being stopped; the log is trimmed meanwhile. */
void ss_pipeline_wait(ss_pipeline *p, int64_t ms);

#endif
