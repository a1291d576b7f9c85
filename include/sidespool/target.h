/* What an engine's applier side offers a route (applier/route_main.c).
 *
 * The route owns reading, batching, net effect, table states, retrying; a target owns connections and statements, and keeps
 * route progress, table states and pending objects in its own database, in the same transaction as the rows.
 * One thread at a time: a batch may be applied by another one than opened the target. SS_RETRY: reconnect or wait (target down, read-only, out of disk, deadlock). SS_STOP: drift, refusal, gap. */
#ifndef SIDESPOOL_TARGET_H
#define SIDESPOOL_TARGET_H

#include "sidespool/option.h"
#include "sidespool/record.h"
#include "sidespool/source.h"

typedef struct {
    const char *route;      /* its name */
    const char *source;
    const void *options;    /* the struct that ops->options fills */
    bool adopt;
} ss_target_env;

typedef struct {
    bool exists;             /* false: no row for this route */
    bool ours_before;        /* a missing row, but our bookkeeping or our tables are there: a gap */
    char spool_id[33];
    uint64_t epoch;
    uint64_t sequence;       /* of the stream: applied up to here */
    uint64_t copy_sequence;  /* of the copy log: loaded up to here */
    char position[512];
    int64_t as_of;           /* microseconds since 1970 UTC; 0: none */
} ss_progress;

typedef enum { SS_TABLE_ABSENT, SS_TABLE_COPYING, SS_TABLE_CATCHING_UP, SS_TABLE_READY } ss_table_status;
const char *ss_table_status_name(ss_table_status status); /* "absent" … */

typedef struct {
    const char *ns, *name;
    ss_table_status status;
    uint64_t generation;     /* of its last copy */
    uint64_t from_sequence;  /* stream changes at or before this one are in the copy */
    uint64_t schema_id;      /* what the target table was built for */
    uint64_t rows, bytes;    /* loaded by the copy */
    uint64_t rows_estimate, bytes_estimate;
    bool loaded;             /* all rows of the generation are in */
    bool beside;             /* rows are loaded beside an existing table (resync), replaced at the end. An absent table with
                              * beside set has old rows in the target, which readers see until copy_replace */
} ss_table_state;

/* Who sets what: the route hands whole states in, the target stores them as they are, with one exception: copy_replace stores
 * beside = false. copy_begin meets a table whose state (before the call) exists: without beside it is ours and half loaded, and is dropped and
 * made anew; with beside a stale sidespool.copy_<n> of it is dropped. A table without a state that is there and not empty is refused unless adopt. */

/* ---- a batch --------------------------------------------------------------------------------------------------- */
/* One change as the batch keeps it; views live in the batch's arena. */
typedef struct ss_batch_change {
    ss_change change;
    uint64_t sequence;
    struct ss_batch_change *next; /* next change of the same table, in order */
} ss_batch_change;

/* Set-wise work on one table: rows of one operation that write the same set of columns. */
typedef struct {
    Sidespool__Op op;
    const uint8_t *kinds;      /* one per column of the schema: VALUE: written (from the row's cell, which is VALUE or NULL), UNCHANGED: not
                                * written, whatever the row holds (key columns whose value stays are UNCHANGED in an UPDATE). INSERT: likewise. NULL for DELETE */
    size_t count;
    const ss_row **keys;       /* UPDATE, DELETE: row that holds the key to look for (key cells set) */
    const ss_row **rows;       /* INSERT, UPDATE: the new cells; NULL for DELETE */
} ss_group;

typedef struct {
    const Sidespool__Schema *schema;
    size_t group_count;        /* in the order to execute: DELETEs, UPDATEs, INSERTs */
    const ss_group *groups;    /* a group whose statement is refused or whose count disagrees: the table falls back to `first`; only
                                * when that disagrees too it is drift */
    bool ordered;              /* the net effect does not hold (no key…): execute `first` one by one, in order */
    const ss_batch_change *first; /* always there, for ordered work and for the fallback */
    size_t change_count;
} ss_batch_table;

typedef struct {
    size_t table_count;
    const ss_batch_table *tables;   /* order does not matter between tables */
    const Sidespool__Truncate *truncate; /* a batch with a truncate holds nothing else */
    const Sidespool__Schema *const *truncated;
    size_t truncated_count;
    bool partial;               /* a sub-batch of one large transaction: stays in the open target transaction */
    ss_progress progress;       /* written in the same transaction (ignored when partial) */
    const ss_table_state *states; /* table states that change with this batch */
    size_t state_count;
    const char *freshness;      /* the route's state for sidespool.freshness */
    const char *beside;         /* non-NULL: a catch-up of tables that are not ready: a table whose state has beside set is changed where it was
                                 * loaded (sidespool.copy_<n>), the others in place. progress is as before (its sequence has not moved) */
} ss_batch;

typedef struct ss_target ss_target;

typedef struct {
    const char *name;
    const ss_option *options;
    size_t options_size;

    /* Whether the options can be meant at all, without connecting; asked when the file is read (SS_STOP: exit 78, with the
     * place of the wrong value in *ret_place). NULL: always. */
    ss_status (*configured)(const void *options, ss_place *ret_place, ss_error *reterr);
    ss_status (*check)(const ss_target_env *env, ss_check_line line, void *ctx, ss_error *reterr);
    ss_status (*open)(const ss_target_env *env, ss_target **ret, ss_error *reterr);
    void (*close)(ss_target *target);
    /* Product and version as people call them ("PostgreSQL 15.18"), of an open target. NULL: nothing to tell. */
    void (*server)(const ss_target *target, char *ret, size_t size);
    /* Makes the bookkeeping when missing. */
    ss_status (*progress)(ss_target *target, ss_progress *ret, ss_error *reterr);
    ss_status (*states)(ss_target *target, ss_arena *arena, ss_table_state **ret, size_t *ret_count, ss_error *reterr);

    /* All or nothing: rows, progress, table states, freshness in one target transaction. A batch without tables only writes
     * progress, states and freshness. States of tables that it does not know yet are added. After SS_RETRY the route closes and opens again. */
    ss_status (*apply)(ss_target *target, const ss_batch *batch, ss_error *reterr);
    ss_status (*rollback)(ss_target *target, ss_error *reterr); /* leaves an open transaction of partial batches */

    /* Copying. Each is one target transaction together with `progress` (copy_sequence moves) and the state. */
    ss_status (*copy_begin)(ss_target *target, const Sidespool__CopyBegin *begin, ss_table_state *states, size_t count,
                            const ss_progress *progress, ss_error *reterr);
    ss_status (*copy_object)(ss_target *target, const Sidespool__Object *object, ss_error *reterr); /* kept until its phase; the transaction ends with the next call of another kind or copy_flush */
    ss_status (*copy_rows)(ss_target *target, const Sidespool__Schema *schema, ss_bytes cells, uint32_t rows, bool more, ss_error *reterr);
    ss_status (*copy_flush)(ss_target *target, const ss_progress *progress, const ss_table_state *states, size_t count, ss_error *reterr);
    /* All rows of the table are in: keys, indexes, constraints of the table ("table" objects). progress NULL: in the transaction that is
     * open, together with its rows and with the tables before and behind it; copy_flush ends it. */
    ss_status (*copy_table)(ss_target *target, const Sidespool__Schema *schema, const ss_progress *progress, ss_table_state *state, ss_error *reterr);
    /* Puts tables loaded beside in place (those whose state has beside set; the others stay as they are) and sets states, in one transaction. */
    ss_status (*copy_replace)(ss_target *target, const ss_table_state *states, size_t count, const ss_progress *progress, ss_error *reterr);
    /* Every table is ready: foreign keys, views, sequences ("final" objects). Lists what was left out to `line`. Called whenever all
     * tables have become ready and at each start with all ready: does nothing when nothing is pending. */
    ss_status (*finish)(ss_target *target, ss_check_line line, void *ctx, ss_error *reterr);

    /* The target table's own columns against `schema`: SS_OK, or SS_STOP with the difference and what to do. Of a table that is not
     * ready and has beside set: those of the table being loaded beside. May be called while partial batches are open. */
    ss_status (*compare_schema)(ss_target *target, const Sidespool__Schema *schema, ss_error *reterr);

    /* verify: a snapshot of what is applied now, on a connection of its own, so that applying goes on. A table that was truncated or replaced
     * since is not compared: SS_RETRY with the table's name. */
    ss_status (*digest_open)(const ss_target_env *env, ss_target *live, void **ret, ss_error *reterr);
    ss_status (*digest)(void *digest, const Sidespool__Schema *schema, ss_digest_bucket *buckets, ss_error *reterr);
    ss_status (*digest_rows)(void *digest, const Sidespool__Schema *schema, const uint8_t *wanted, size_t most, ss_arena *arena,
                             ss_digest_row **ret, size_t *ret_count, ss_error *reterr);
    void (*digest_close)(void *digest);
} ss_target_ops;

extern const ss_target_ops ss_target_postgres;

#endif
