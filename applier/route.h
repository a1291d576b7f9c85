/* One route: one source's spool into one target (DESIGN 5, 6). Internal to route_*.c and progress.c.
 *
 * The flow: intake (read, decode, select what this route applies) -> batch (net effect) -> the target's apply -> progress, cursors.
 * Beside it: copies (route_copy.c), the catch-up of copied tables (route_catchup.c), verify (route_verify.c).
 *
 * One thread runs all of it, blocking. Two things have threads of their own: verify, which touches nothing but its ss_verify, and the
 * target's apply while the stream is behind (route_worker.c), so that the next batch is ready when the one before is in.
 * The truth is what the target keeps: whenever anything fails, the session is closed, opened again and read anew, and the
 * stream goes on behind the target's own progress. So nothing here has to be undone after a failure. */
#ifndef SIDESPOOL_ROUTE_H
#define SIDESPOOL_ROUTE_H

#include "applier/applier_config.h"
#include "applier/batch.h"
#include "applier/route_worker.h"
#include "sidespool/log.h"
#include "sidespool/spool.h"
#include "sidespool/target.h"
#include <jansson.h>
#include <stdatomic.h>

#define SS_BATCH_BYTES ((size_t)64 << 20) /* of decoded changes; there are two batches, one being filled and one being applied */
#define SS_BATCH_RECORDS 200000u
#define SS_BATCH_LONG_MS 2000u /* a batch that takes the target longer makes the next ones smaller */
#define SS_BATCH_LEAST 1000u /* so few are handed over to a target that has nothing to do */
#define SS_BATCH_AGE_MS 200u /* a batch is not filled for longer, unless the target is busy with the one before */
#define SS_AHEAD_MS 2000u /* so long batches follow each other, each prepared while the one before is applied; then the loop turns */
#define SS_ROUTE_MAX_MESSAGE ((size_t)1 << 30)
#define SS_ROUTE_SCHEMAS ((size_t)32768) /* that one source transaction may change tables by, and what they may take */
#define SS_ROUTE_SCHEMA_MEMORY ((size_t)64 << 20)
#define SS_ROUTE_SCHEMAS_KEPT ((size_t)4096) /* between batches; beyond either they are let go, and read again from the spool */
#define SS_ROUTE_SCHEMA_MEMORY_KEPT ((size_t)16 << 20)
#define SS_ROUTE_BATCH_MEMORY (((size_t)4 << 30) + ((size_t)64 << 20)) /* a batch and one largest message, decoded */

typedef enum {
    SS_ROUTE_STARTING, SS_ROUTE_COPYING, SS_ROUTE_CATCHING_UP, SS_ROUTE_STREAMING, SS_ROUTE_PAUSED,
    SS_ROUTE_WAITING_SOURCE, SS_ROUTE_WAITING_TARGET, SS_ROUTE_HALTED,
} ss_route_state;

/* A table of the route. st.ns and st.name are heap memory of the route. Indices stay while a session lasts. */
typedef struct {
    ss_table_state st;
    const Sidespool__Schema *in_batch; /* the schema by which the batch at hand has changes of it, when batch is that batch's number */
    uint64_t batch;
    bool catches_up;                   /* by ss_route_tally: it belongs to the group that catches up */
    size_t next;                       /* + 1: the next table of its bucket in the index; 0: none */
    bool dirty;                        /* st goes with the next write of progress */
    unsigned restarts;                 /* copies given up because of a schema change since it was last ready */
} ss_route_table;

/* What is asked of all tables at each step, counted anew after a state has changed and not at each question: with ten thousand
 * tables a question that looks at all of them, for each of them, is a minute. */
typedef struct {
    bool fresh;
    size_t in[4];                        /* by status */
    uint64_t loading, loading_from;      /* the oldest generation with rows yet to come, and its place; 0: none */
    uint64_t catchup_from, catchup_members; /* lowest place of the group that catches up, and a number that changes with its members */
    bool any_catches_up;
    bool ours, ours_asked;               /* memory of the copy's question whether ours_generation has tables of this route */
    uint64_t ours_generation;
} ss_route_counts;

typedef struct {
    uint64_t id;
    const Sidespool__Schema *schema; /* in the route's schema arena */
    size_t table;                    /* index; SIZE_MAX: a table that this route does not hold */
    bool compared;                   /* the target's table fits it */
} ss_route_schema;

typedef struct { bool before, last; uint32_t column; uint8_t *ptr; size_t len, cap; } ss_route_piece;

/* One reading of the stream: the route's own, or that of the catch-up. */
typedef struct {
    bool catchup;
    ss_reader *reader;
    uint64_t limit;            /* nothing behind this sequence is read; 0: none */
    bool held;                 /* `record` was read and is yet to be dealt with */
    ss_bytes record;
    uint64_t sequence;         /* of `record` */
    uint64_t whole;            /* everything up to here has been read; progress may say so once it is applied */
    uint64_t transactions;     /* in the batch at hand */
    bool in_transaction;
    uint64_t began;            /* sequence of the Begin */
    bool partial_open;         /* sub-batches of the transaction at hand lie in an open target transaction */
    bool failed_apply;
    struct {
        bool open;             /* a batch is with the worker: nobody else uses the target before ss_intake_settle */
        bool failed;           /* it was refused */
        bool partial;
        size_t changes;
        ss_progress progress;
    } sent;
    char position[512];
    int64_t as_of;
    ss_route_piece *pieces;
    size_t piece_count, piece_cap, piece_bytes;
} ss_intake;

typedef struct {
    ss_reader *reader;
    bool held;                 /* a record of a generation whose CopyBegin the stream has not reached yet */
    ss_bytes record;
    uint64_t sequence;
    uint64_t read_to;          /* dealt with up to here */
    bool dirty;                /* rows or objects since the last flush */
    size_t bytes, objects;     /* since the last flush */
    uint64_t passed;           /* the stream is past all of this generation and older ones */
    ss_reader *ahead;          /* looks for the CopyEnd of ahead_generation */
    uint64_t ahead_generation;
    uint64_t ended;            /* this generation's CopyEnd has been seen */
    bool ended_aborted;
    char ended_reason[160];
    uint64_t next_ask_ms;
    unsigned asks_failed;
    bool ask_all;              /* the route holds no table yet: ask for all that the agent selects */
    size_t ask_single;         /* the agent refused the list: tables are asked for one by one, this one next */
    bool one_by_one;
    char ask_trouble[512];     /* why a copy could not be asked for; "": no trouble */
} ss_route_copy;

typedef struct ss_verify ss_verify;

typedef struct ss_route {
    const ss_applier_config *config;
    const ss_route_config *conf;
    const ss_target_ops *ops;
    ss_target_env env;
    int control;               /* descriptor 3 */
    int stop_fd;               /* signalfd */
    bool stopping;

    /* what a person asked for */
    bool paused, halted;
    bool resync_all;
    json_t *resync;            /* array of names yet to be set absent, or NULL */

    /* the session: what is open, all or nothing */
    bool open;
    ss_target *target;
    char target_server[64];    /* what the last open one said it is; "": none was open yet */
    ss_cursors *cursors;
    ss_batcher *batcher;
    size_t batch_most;         /* changes in one batch, as fast as the target is */
    ss_batcher *spare;         /* that of the batch which is with the worker */
    ss_worker *worker;
    ss_arena *scratch;         /* one record at a time */
    ss_arena *schema_arena;
    ss_progress progress;      /* as the target has it */
    bool progress_dirty;
    uint64_t wrote_ms;         /* when progress was last written */
    uint64_t cursor_said_ms;   /* when it was last said that the trim cursor finds no room; 0: never */
    uint64_t look_ms, copy_look_ms; /* when to look at the logs' states again */
    uint64_t applied_seen;
    ss_intake stream, catchup;
    uint64_t catchup_members;  /* whom the catch-up's reading began for */
    ss_route_copy copy;
    bool finish_due;

    ss_route_table *tables;
    size_t table_count, table_cap;
    size_t *table_index;       /* heads of the buckets by name, + 1; table_cap of them */
    uint64_t batch;            /* number of the batch at hand, from 1 */
    ss_route_counts counts;    /* ask ss_route_tally */
    uint64_t *generations;     /* those that load, for ss_route_tally */
    size_t generation_cap;
    ss_table_state *states;    /* for ss_route_states_dirty */
    size_t state_cap;
    ss_route_schema *schemas;  /* open addressing by id; id 0: free */
    size_t schema_count, schema_cap;
    uint64_t careful_until;    /* up to this sequence each source transaction is applied alone, to name a bad one */
    bool again;                /* the failure at hand is answered by reading again at once, carefully */

    bool blame_target;         /* the failure at hand came from the target */
    unsigned failures;         /* in a row, for the backoff */
    uint64_t retry_ms;         /* not before this time */

    int wake_fd;               /* agent.sock, -1: not connected */
    uint64_t wake_retry_ms;
    bool wake_said; /* that it cannot be made: once until it can */

    /* what status says */
    ss_route_state state;
    char reason[SS_ERROR_TEXT + 64];
    int64_t since_us;
    char doing[160];           /* a long step at hand ("building keys and indexes of a.b"); "": none */
    bool status_due;
    uint64_t status_ms;
    uint64_t committed, behind_records, behind_bytes;
    uint64_t applied_total, copied_total, moved_seen;
    struct { uint64_t ms, total; } samples[8];
    size_t sample_at;
    ss_buf in, out;            /* bytes from and to the supervisor */
    ss_verify *verify;
} ss_route;

/* Milliseconds of the monotonic clock; microseconds since 1970. */
uint64_t ss_route_now_ms(void);
int64_t ss_route_now_us(void);

/* ---- route.c */
int ss_route_run(ss_route *r);
/* Marks a failure as the target's, so that the state names the right side. Returns `status`. */
ss_status ss_route_target(ss_route *r, ss_status status);
/* Between two steps of something long: reads commands into the queue, sends status when due. true: end soon. */
bool ss_route_tick(ss_route *r);
/* The state that the tables are in, and says it with its reason. */
ss_route_state ss_route_state_now(ss_route *r);
void ss_route_show_state(ss_route *r);
void ss_route_doing(ss_route *r, const char *what, const char *table); /* NULL: done */
ss_status ss_route_session_open(ss_route *r, ss_error *reterr) SS_MUST;
void ss_route_session_close(ss_route *r);

/* ---- route_tables.c */
ss_route_table *ss_route_table_find(ss_route *r, const char *ns, const char *name);
ss_route_table *ss_route_table_named(ss_route *r, const char *text); /* "schema.table" */
ss_status ss_route_table_add(ss_route *r, const char *ns, const char *name, ss_route_table **ret, ss_error *reterr) SS_MUST;
ss_status ss_route_tables_load(ss_route *r, ss_error *reterr) SS_MUST;
void ss_route_tables_clear(ss_route *r);
/* To be called after any change of a table's status, generation, place or loaded. */
void ss_route_states_changed(ss_route *r);
const ss_route_counts *ss_route_tally(ss_route *r);
size_t ss_route_tables_in(ss_route *r, ss_table_status status);
bool ss_route_all_ready(ss_route *r);
/* Back to absent, keeping what readers see: its copy is asked for anew. */
void ss_route_table_absent(ss_route *r, ss_route_table *t);
/* "a.b", "a.b, c.d and 3 more": tables that are not ready. */
void ss_route_tables_waiting(ss_route *r, char *text, size_t size);
/* Looks a schema up, reading it from `reader` the first time. What it returns lives until ss_route_schemas_clear; the slot only until
 * the next call. */
ss_status ss_route_schema_get(ss_route *r, ss_reader *reader, uint64_t id, ss_route_schema **ret, ss_error *reterr) SS_MUST;
void ss_route_schemas_clear(ss_route *r);
/* So many that they are to go before the next transaction: it then finds room for as many as one may use, whatever came before it. */
bool ss_route_schemas_many(const ss_route *r);
/* Between batches, when nothing points into them: lets schemas go when there are many. */
void ss_route_schemas_trim(ss_route *r);
/* States that changed, for a batch; clears nothing. The array lives until the next call. */
ss_status ss_route_states_dirty(ss_route *r, const ss_table_state **ret, size_t *ret_count, ss_error *reterr) SS_MUST;
void ss_route_states_clean(ss_route *r);

/* ---- progress.c */
/* Whether the stream can go on from `progress`. SS_STOP: a gap, with its reason. */
ss_status ss_progress_judge(const ss_progress *progress, const ss_log_state *log, const char *route, ss_error *reterr) SS_MUST;
/* Writes progress, dirty states and freshness without rows. */
ss_status ss_progress_write(ss_route *r, const ss_progress *progress, ss_error *reterr) SS_MUST;
/* Moves the trim cursors to what the target holds durable. */
ss_status ss_progress_cursors(ss_route *r, bool now, ss_error *reterr) SS_MUST;
/* All tables absent, progress at the spool's end: after a gap, when on_gap or a person says resync. */
ss_status ss_progress_rebuild(ss_route *r, const ss_log_state *log, ss_error *reterr) SS_MUST;

/* ---- route_intake.c */
ss_status ss_intake_open(ss_route *r, ss_intake *in, bool catchup, uint64_t from, ss_error *reterr) SS_MUST;
void ss_intake_close(ss_intake *in);
/* Reads and applies one batch. SS_BUSY: nothing to do now. */
ss_status ss_intake_run(ss_route *r, ss_intake *in, ss_error *reterr) SS_MUST;
/* Between runs: progress says what the stream has read, which it else follows once a second while nothing in it is for a ready table. */
ss_status ss_intake_keep_place(ss_route *r, ss_intake *in, ss_error *reterr) SS_MUST;
/* Waits for the batch that is with the worker, if there is one, and takes note of it. None is left when ss_intake_run returns. */
ss_status ss_intake_settle(ss_route *r, ss_intake *in, ss_error *reterr) SS_MUST;
/* The kind of an encoded record without decoding it: its field number in Record; 0: none. */
unsigned ss_record_kind(ss_bytes record);

/* ---- route_copy.c */
ss_status ss_route_copy_begin(ss_route *r, const Sidespool__CopyBegin *begin, uint64_t sequence, ss_error *reterr) SS_MUST;
void ss_route_copy_end(ss_route *r, const Sidespool__CopyEnd *end);
ss_status ss_route_copy_step(ss_route *r, ss_error *reterr) SS_MUST;
ss_status ss_route_copy_ask(ss_route *r, ss_error *reterr) SS_MUST;
void ss_route_copy_close(ss_route *r);

/* ---- route_catchup.c */
ss_status ss_route_catchup_step(ss_route *r, ss_error *reterr) SS_MUST;
bool ss_route_catchup_has(ss_route *r, const ss_route_table *t); /* t belongs to the group that catches up */
bool ss_route_stream_waits(ss_route *r);
ss_status ss_route_finish(ss_route *r, ss_error *reterr) SS_MUST;

/* ---- route_agent.c: a client of agent.sock */
ss_status ss_agent_connect(const char *spool_path, const char *source, int *ret_fd, ss_error *reterr) SS_MUST;
/* Sends `request` (stolen) and reads its answer. An answer with ok false is SS_STOP with the agent's code in the text. `cancel` may be NULL. */
ss_status ss_agent_ask(int fd, json_t *request, int timeout_ms, const atomic_bool *cancel, json_t **ret, ss_error *reterr) SS_MUST;
void ss_agent_wake_connect(ss_route *r); /* when it is due; not being able to is no failure: the route looks every second as well */
void ss_agent_wake_drain(ss_route *r);

/* ---- route_report.c: lines to and from the supervisor */
void ss_report_state(ss_route *r, ss_route_state state, const char *reason);
const char *ss_route_state_name(ss_route_state state);
void ss_report_doing(ss_route *r); /* a long step begins, or is done */
void ss_report_status(ss_route *r, bool now);
void ss_report_line(ss_route *r, json_t *line); /* stolen */
void ss_report_mark(ss_route *r, const char *id);
void ss_report_flush(ss_route *r);
/* Reads what the supervisor sent. false: it is gone. */
bool ss_report_read(ss_route *r);
/* The next whole command, or NULL. The caller owns it. */
json_t *ss_report_command(ss_route *r);
void ss_report_reply(ss_route *r, const json_t *command, const ss_error *err); /* err NULL: ok */

/* ---- route_command.c */
void ss_route_command(ss_route *r, json_t *command);
/* Sets tables absent that a resync named. */
ss_status ss_route_resync_pending(ss_route *r, ss_error *reterr) SS_MUST;

/* ---- route_verify.c */
void ss_verify_start(ss_route *r, const json_t *command);
void ss_verify_mark(ss_route *r, const char *id); /* the stream has reached a verify mark and everything before is applied */
void ss_verify_poll(ss_route *r);                 /* hands progress and the result on */
int ss_verify_fd(const ss_route *r);              /* readable when there is something to hand on; -1: none */
const char *ss_verify_id(const ss_route *r); /* "": none runs */
void ss_verify_cancel(ss_route *r, const char *why);

#endif
