/* Copying from PostgreSQL: a snapshot at one position, its readers, its digests and its objects.
 *
 * postgres_copy.c opens the snapshot and reads chunks, postgres_chunk.c plans them, postgres_digest.c digests tables for
 * verify, postgres_objects*.c describe what a fresh target is built from. The functions stand in ss_source_postgres.
 *
 * Threads: the snapshot belongs to the copy thread (or to the worker of a verify); a reader, once opened, to its own
 * reader thread. Readers only read the snapshot's fields, which do not change after snapshot_open. */
#ifndef AGENTS_POSTGRES_COPY_H
#define AGENTS_POSTGRES_COPY_H

#include "agents/postgres/postgres.h"

/* ---- the vtable's functions (contracts: include/sidespool/source.h) --------------------------------------------- */
SS_MUST ss_status ss_postgres_check(const ss_source_env *env, ss_check_line line, void *ctx, ss_error *reterr);
SS_MUST ss_status ss_postgres_snapshot_await(const ss_source_env *env, ss_say_fn say, void *ctx, ss_error *reterr);
SS_MUST ss_status ss_postgres_snapshot_open(const ss_source_env *env, const char *const *tables, size_t count,
                                            size_t readers, int most_ms, ss_snapshot **ret, ss_error *reterr);
const char *ss_postgres_snapshot_position(const ss_snapshot *snapshot);
size_t ss_postgres_snapshot_tables(const ss_snapshot *snapshot, const ss_snapshot_table **ret);
typedef ss_status (*ss_postgres_emit)(void *ctx, Sidespool__Object *object, ss_error *reterr);
SS_MUST ss_status ss_postgres_snapshot_objects(ss_snapshot *snapshot, ss_postgres_emit emit, void *ctx,
                                               ss_error *reterr);
SS_MUST ss_status ss_postgres_copy_reader_open(ss_snapshot *snapshot, ss_copy_reader **ret, ss_error *reterr);
SS_MUST ss_status ss_postgres_copy_reader_read(ss_copy_reader *reader, size_t table, size_t chunk,
                                               ss_copy_rows_fn rows, void *ctx, ss_error *reterr);
SS_MUST ss_status ss_postgres_copy_reader_digest(ss_copy_reader *reader, size_t table, ss_digest_bucket *buckets,
                                                 ss_error *reterr);
SS_MUST ss_status ss_postgres_copy_reader_digest_rows(ss_copy_reader *reader, size_t table, const uint8_t *wanted,
                                                      size_t most, ss_arena *arena, ss_digest_row **ret,
                                                      size_t *ret_count, ss_error *reterr);
void ss_postgres_copy_reader_close(ss_copy_reader *reader);
void ss_postgres_snapshot_close(ss_snapshot *snapshot);

/* ---- shared by the files of the copy ----------------------------------------------------------------------------- */
/* A heap that rows are read from: the table itself, or a leaf of a partitioned one. */
typedef struct {
    uint32_t relid;
    uint32_t filenode;      /* pg_class.relfilenode as the snapshot sees it: another one later means "rewritten" */
    const char *from;       /* quoted "ns"."name" */
    uint32_t natts;         /* highest attnum as the snapshot sees it */
    const char *versions;   /* xmin of its pg_attribute rows as the snapshot sees them, by attnum: another list later means "altered" */
    const char *key;        /* quoted single integer primary key column; NULL: none */
    bool heap;              /* its access method is heap: ctid ranges name blocks */
    uint64_t pages;
    uint64_t bytes;         /* with TOAST */
} ss_postgres_leaf;

/* What one reader reads at a time: a leaf, whole or a range of it. */
typedef struct {
    const ss_postgres_leaf *leaf;
    enum { SS_CHUNK_WHOLE, SS_CHUNK_CTID, SS_CHUNK_KEY } by;
    bool has_low, has_high; /* an absent bound is open: rows beyond what was measured belong to the outer chunks */
    int64_t low, high;      /* low <= block or key < high */
} ss_postgres_chunk;

typedef struct {
    uint32_t relid;
    const char *columns;    /* "a", "b": the Schema's columns, quoted */
    uint32_t column_count;
    const char *place;      /* ns.name, for messages */
    ss_postgres_leaf *leaves;
    size_t leaf_count;
    ss_postgres_chunk *chunks;
    size_t chunk_count;
} ss_postgres_source_table;

struct ss_snapshot {
    const ss_source_env *env;
    ss_arena *arena;
    PGconn *holder;         /* idle in the transaction whose snapshot the readers import */
    int version;            /* PQserverVersion */
    char id[64];            /* of the exported snapshot */
    char position[24];
    bool by_leaf;           /* the publication names leaves: each is a table of its own */
    bool subset;            /* some of the selected tables were asked for, not all */
    size_t count;
    ss_snapshot_table *tables;
    ss_postgres_source_table *sources; /* parallel to tables */
    size_t selected_count;  /* all that env selects */
    uint32_t *selected;
};

struct ss_copy_reader {
    ss_snapshot *snapshot;
    PGconn *conn;           /* NULL: not connected (yet, or thrown away after a failure) */
    ss_buf cells, sql;
};

/* Has its tables watched from its position on (postgres_record.h); partitions: also as they are parted now, because the copy
 * brings their rows. */
SS_MUST ss_status ss_postgres_snapshot_record(ss_snapshot *snapshot, bool partitions, ss_error *reterr);

/* Plans leaves and chunks of all tables with one query, inside the holder's snapshot. */
SS_MUST ss_status ss_postgres_chunks_plan(ss_snapshot *snapshot, ss_error *reterr);

/* Reads one chunk, calling `row` with each line of COPY text (borrowed for the call). The connection is thrown away when
 * this fails. */
typedef ss_status (*ss_postgres_row_fn)(void *ctx, ss_bytes line, ss_error *reterr);
/* Asked while somebody's lock is in the way: anything but SS_OK ends the reading. NULL: it is given up after a minute. */
typedef ss_status (*ss_postgres_still_fn)(void *ctx, ss_error *reterr);
SS_MUST ss_status ss_postgres_chunk_read(ss_copy_reader *reader, const ss_postgres_source_table *table,
                                         const ss_postgres_chunk *chunk, ss_postgres_row_fn row,
                                         ss_postgres_still_fn still, void *ctx, ss_error *reterr);

#endif
