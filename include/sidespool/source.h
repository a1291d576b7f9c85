/* What an engine's agent side offers the pipeline (agents/pipeline.c), and what the pipeline offers it.
 *
 * The pipeline owns spool, commits, markers, copies, pausing and retrying; it never learns an engine's name. A source
 * connects, reads, decodes and hands rows over. A position is text that only its source understands.
 *
 * Threads: open, start, poll, release, close run in the capture thread. snapshot_* run in the copy thread (of a verify: in a worker),
 * copy_reader_* each in a reader thread of its own. check runs alone, before any thread. now_position, status and
 * tables_waiting may be called from the main thread's worker while capture runs: they use a connection of their own. */
#ifndef SIDESPOOL_SOURCE_H
#define SIDESPOOL_SOURCE_H

#include "sidespool/option.h"
#include "sidespool/record.h"

/* Given to a source at open; borrowed for its life. */
typedef struct {
    const char *name;            /* source: of the file */
    const void *options;         /* the struct that ops->options fills */
    const ss_strings *include, *exclude; /* tables: patterns "schema.table"; include NULL/empty: everything */
    const char *spool_path;
    uint64_t spool_max_size;
    uint64_t max_message;        /* bytes; a larger single message stops with its place */
    int stop_fd;                 /* readable once the agent is being stopped: what waits long for the source gives up then; 0: none */
    char *session;               /* SS_SESSION_MAX bytes, the engine's own, kept from one open to the next: what the server calls our
                                  * streaming session, so that the next can end one that the server still takes for alive. NULL: none */
} ss_source_env;
#define SS_SESSION_MAX 96

/* Calls into the pipeline, in the capture thread. All views are borrowed for the call. Any status but SS_OK is to be
 * returned from poll at once. SS_BUSY from change/commit means that the spool is full: the source keeps its place (the call
 * took nothing), answers keepalives without reading further, and offers the same call again at the next poll. */
typedef struct ss_sink {
    void *ctx;
    /* at: the position that decides on which side of a snapshot or mark this transaction stands. */
    ss_status (*begin)(void *ctx, const char *at, int64_t commit_time_us, uint64_t xid, ss_error *reterr);
    /* Registers a schema (sealed here). Same content, same id. */
    ss_status (*schema)(void *ctx, Sidespool__Schema *schema, uint64_t *ret_id, ss_error *reterr);
    ss_status (*change)(void *ctx, const ss_change *change, ss_error *reterr);
    ss_status (*truncate)(void *ctx, const uint64_t *schema_ids, size_t count, bool cascade, bool restart_identity,
                          ss_error *reterr);
    /* position: where to resume, and what release() may say when this is durable. */
    ss_status (*commit)(void *ctx, const char *position, int64_t commit_time_us, ss_error *reterr);
    /* Outside a transaction: the source has nothing for us up to `position`. The pipeline writes at most one a second. */
    ss_status (*idle)(void *ctx, const char *position, int64_t source_time_us, ss_error *reterr);
    /* What this table changed is not told whole from here on, or was not until now: routes that hold it copy it anew. Durable when it
     * returns. Inside a transaction the record stands behind that: the source says nothing more of the table until then. */
    ss_status (*table_gap)(void *ctx, const char *ns, const char *name, const char *reason, ss_error *reterr);
} ss_sink;

/* A table that the file selects. All in the caller's arena. */
typedef struct {
    const char *ns, *name;
    const char *id;  /* the engine's own of the relation: another one under the same name is another table */
    bool captured;   /* its changes come in the stream; false: they will once a copy has asked for it */
} ss_source_table;

typedef struct {
    bool gap;              /* resuming is impossible: answered by on_gap */
    char identity[256];    /* what identifies this source's history, to be kept in the spool's meta */
} ss_source_verdict;

/* Told about once a second, while a call waits, what the source makes it wait for (for people; borrowed for the call).
 * false: nobody wants it any more, the call gives up with SS_RETRY. */
typedef bool (*ss_say_fn)(void *ctx, const char *awaited);

/* --check: one call for each line. ok false: exit 78. remedy "" when ok. */
typedef void (*ss_check_line)(void *ctx, bool ok, const char *what, const char *found, const char *remedy);

typedef struct ss_source ss_source;
typedef struct ss_snapshot ss_snapshot;
typedef struct ss_copy_reader ss_copy_reader;

typedef struct {
    Sidespool__Schema *schema; /* sealed; lives as long as the snapshot */
    uint64_t schema_id;
    uint64_t rows_estimate, bytes_estimate;
    const char *id;            /* as ss_source_table.id; lives as long as the snapshot */
    size_t chunk_count;        /* the table is read as so many chunks, each by one reader */
} ss_snapshot_table;

/* Rows of a chunk, handed over as the cells of a CopyRows. Blocks while the copy log has no room. rows 0, no cells: asks
 * whether the copy is still wanted; the reader returns what is not SS_OK. */
typedef ss_status (*ss_copy_rows_fn)(void *ctx, ss_bytes cells, uint32_t rows, ss_error *reterr);

/* Order-free digest of a table for verify: buckets by hash of the key. */
#define SS_DIGEST_BUCKETS 4096
typedef struct { uint64_t rows, sum_lo, sum_hi; } ss_digest_bucket;
typedef struct { uint64_t key_hash, row_lo, row_hi; const char *key; } ss_digest_row; /* key: text for people, arena */

typedef struct {
    const char *name;                 /* the block's key in the configuration: "postgres" */
    const ss_option *options;         /* children of that block */
    size_t options_size;

    /* Whether the options can be meant at all, without connecting; asked when the file is read (SS_STOP: exit 78, with the place of
     * the wrong value in *ret_place, line 0: nowhere). NULL: always. */
    ss_status (*configured)(const ss_source_env *env, ss_place *ret_place, ss_error *reterr);
    ss_status (*check)(const ss_source_env *env, ss_check_line line, void *ctx, ss_error *reterr);

    /* Connects, compares identity and position with what the spool knows. identity/position "" at the very first start.
     * SS_STOP with verdict->gap: the history is broken; verdict->identity is that of the new one, and *ret may be set, for
     * reset, prepare, start and close (NULL: open again with identity and position ""). `intended`: a first start was cut short before its first commit,
     * so a slot of our name is ours to drop. */
    ss_status (*open)(const ss_source_env *env, const char *identity, const char *position, bool intended, ss_source **ret,
                      ss_source_verdict *verdict, ss_error *reterr);
    /* Makes what streaming needs when position is "" (publication, slot) and returns the first position. May wait long. */
    ss_status (*prepare)(ss_source *source, ss_say_fn say, void *ctx, char *ret_position, size_t size, ss_error *reterr);
    /* After prepare: the identity anew, with what prepare made (size as verdict's). NULL: that of open holds. */
    ss_status (*identity)(ss_source *source, char *ret, size_t size, ss_error *reterr);
    ss_status (*start)(ss_source *source, const char *position, ss_error *reterr);
    /* Reads and decodes what is there, at most about 1 MiB or 5 ms, waiting up to wait_ms for something; returns early
     * when wake_fd is readable. *ret_more: more is there at once. With `hold` it reads nothing, but keeps the link alive. */
    ss_status (*poll)(ss_source *source, const ss_sink *sink, int wait_ms, int wake_fd, bool hold, bool *ret_more,
                      ss_error *reterr);
    /* Everything up to position is durable with us: the server may discard it. Non-blocking; said again when idle. */
    ss_status (*release)(ss_source *source, const char *position, ss_error *reterr);
    /* Asks the server to say soon how far it has come, so that idle() moves on a quiet source (for marks). */
    ss_status (*nudge)(ss_source *source, ss_error *reterr);
    /* What keeps the source from being heard while poll goes on, for people: it does not answer, or its link is slow. False: nothing.
     * NULL: an engine that cannot tell. */
    bool (*trouble)(ss_source *source, ss_error *ret);
    /* After a gap that on_gap: resync answers: removes the old slot or its like, so that prepare starts afresh. */
    ss_status (*reset)(ss_source *source, ss_error *reterr);
    void (*close)(ss_source *source);

    /* <0, 0, >0. Both are positions of this source. */
    int (*position_compare)(const char *a, const char *b);

    /* The source's position now, by a connection of its own: all that is committed at the call is at or before it. */
    ss_status (*now_position)(const ss_source_env *env, char *ret, size_t size, ss_error *reterr);
    /* Fills `out` (a json_t object, jansson) with the engine's own status: retained bytes, slot state, source's lag, tables that
     * match but are not captured yet ("new_tables": ["a.b"]). */
    ss_status (*status)(const ss_source_env *env, void *json, ss_error *reterr);

    /* The tables that the file selects now, by a connection of its own. A pattern that matches none is no error here. Capture thread,
     * before each start and while streaming. NULL: an engine whose tables cannot come and go. */
    ss_status (*selected)(const ss_source_env *env, ss_arena *arena, ss_source_table **ret, size_t *ret_count, ss_error *reterr);

    /* Called before snapshot_open, while capture goes on: adds missing tables to what is captured, and waits for what
     * snapshot_open would else wait for (PostgreSQL: the transactions that run). NULL: there is nothing of that kind. */
    ss_status (*snapshot_await)(const ss_source_env *env, ss_say_fn say, void *ctx, ss_error *reterr);
    /* A copy: an exact snapshot of `tables` (NULL, 0: everything selected) at one position. Adds missing tables to what is captured first.
     * Capture is held meanwhile, so it waits for the source's transactions at most most_ms (0: as long as it takes), then SS_BUSY. */
    ss_status (*snapshot_open)(const ss_source_env *env, const char *const *tables, size_t count, size_t readers, int most_ms,
                               ss_snapshot **ret, ss_error *reterr);
    const char *(*snapshot_position)(const ss_snapshot *snapshot);
    size_t (*snapshot_tables)(const ss_snapshot *snapshot, const ss_snapshot_table **ret);
    /* Emits Object records (generation is filled in by the caller) in executable order. */
    ss_status (*snapshot_objects)(ss_snapshot *snapshot, ss_status (*emit)(void *ctx, Sidespool__Object *object, ss_error *reterr),
                                  void *ctx, ss_error *reterr);
    ss_status (*copy_reader_open)(ss_snapshot *snapshot, ss_copy_reader **ret, ss_error *reterr);
    ss_status (*copy_reader_read)(ss_copy_reader *reader, size_t table, size_t chunk, ss_copy_rows_fn rows, void *ctx,
                                  ss_error *reterr);
    /* Digests table (all rows, whole) for verify; buckets has SS_DIGEST_BUCKETS entries, zeroed by the caller. */
    ss_status (*copy_reader_digest)(ss_copy_reader *reader, size_t table, ss_digest_bucket *buckets, ss_error *reterr);
    /* Rows of the marked buckets (wanted[b] != 0), at most `most`. */
    ss_status (*copy_reader_digest_rows)(ss_copy_reader *reader, size_t table, const uint8_t *wanted, size_t most,
                                         ss_arena *arena, ss_digest_row **ret, size_t *ret_count, ss_error *reterr);
    void (*copy_reader_close)(ss_copy_reader *reader);
    void (*snapshot_close)(ss_snapshot *snapshot);
} ss_source_ops;

extern const ss_source_ops ss_source_postgres;

/* A row's digest is XXH3-128 over its cells as CopyRows writes them (text form), a key's XXH3-64 over the key's cells; both
 * sides use these, so that equal rows digest equally. key_columns 0: the row's own low hash serves as key hash. */
void ss_digest_row_hash(ss_bytes cells, const bool *is_key, uint32_t columns, ss_digest_row *ret);
void ss_digest_add(ss_digest_bucket *buckets, const ss_digest_row *row);

#endif
