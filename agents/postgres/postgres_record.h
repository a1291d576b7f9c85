/* `<spool.path>/<source>/publication`: what was published how when it was copied.
 *
 * PostgreSQL tells a stream's reader nothing of what was not published to it: a table that was taken out of the publication
 * and put back, renamed and renamed back, or filtered for a while, leaves no trace in the stream, only a hole. But the
 * catalogue keeps one: another oid in pg_publication_rel, another version of the publication's row. So those are written
 * down before a copy says that it is whole, and compared at each start and every few seconds.
 *
 * A file of lines, appended and fsynced; the last line about a thing counts, one that a crash cut short (no " ;") does not:
 *   P OID FLAGS XMIN OWNER ;        the publication, at prepare
 *   T RELID TOKENS TREE AT ns.name ;   a table: oids of its entries in the publication; its partitions; the position from
 *                                   which on it is watched: what the stream brings from before is in its copy
 *   L RELID AT ns.name ;            no longer selected by the agent's file, or no partition any more: its changes are missing
 *                                   from that position on
 *   B TEXT ;                        a hole was met: open answers it as a gap, until prepare begins a new file
 * A table that is not in it was never copied, so whatever happened to it, nobody misses anything.
 *
 * Threads: any. Each append is one write of whole lines. */
#ifndef AGENTS_POSTGRES_RECORD_H
#define AGENTS_POSTGRES_RECORD_H

#include "agents/postgres/postgres.h"

#include <sys/stat.h>
#include <time.h>

typedef struct {
    uint32_t relid;
    bool left;          /* L: taken before `at`, not behind it */
    const char *tokens; /* "oid,oid" or "-" */
    const char *tree;   /* "oid:xmin:how,…" or "-"; how: c made as a partition, a attached */
    uint64_t at;        /* LSN */
    const char *name;   /* escaped as in the file */
} ss_postgres_member;

typedef struct {
    bool exists;
    uint32_t publication; /* oid, 0: no line */
    const char *flags, *xmin, *owner;
    const char *broken; /* NULL: no hole known */
    ss_postgres_member *members;
    size_t count;
    uint32_t *slots; /* open addressing by relid: index + 1; mask + 1 of them */
    size_t mask;
} ss_postgres_record;

/* The record as a thread that asks often keeps it: read again when the file is another one or has grown. All zero at first. */
typedef struct {
    ss_arena *arena;
    ss_postgres_record record;
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec changed;
} ss_postgres_record_kept;

SS_MUST ss_status ss_postgres_record_load(const ss_source_env *env, ss_arena *arena, ss_postgres_record *ret,
                                          ss_error *reterr);
/* *ret lives until the next call or ss_postgres_record_kept_done. */
SS_MUST ss_status ss_postgres_record_look(const ss_source_env *env, ss_postgres_record_kept *kept, const ss_postgres_record **ret,
                                          ss_error *reterr);
void ss_postgres_record_kept_done(ss_postgres_record_kept *kept);
const ss_postgres_member *ss_postgres_record_find(const ss_postgres_record *record, uint32_t relid);
/* Appends the tables as the connection's snapshot sees them; anew: begins a new file, with the publication. */
SS_MUST ss_status ss_postgres_record_write(PGconn *conn, const ss_source_env *env, const uint32_t *relids, size_t count,
                                           bool anew, ss_error *reterr);
/* What a snapshot is going to copy: tables that are not in the record are added. Of those that are, nothing but the
 * partitions changes, and that with `partitions`, when the copy brings their rows: another way of being published is a hole
 * for every other copy of the table, and stays one. */
SS_MUST ss_status ss_postgres_record_add(PGconn *conn, const ss_source_env *env, const uint32_t *relids, size_t count,
                                         const char *at, bool partitions, ss_error *reterr);
/* The same as write, for all that is selected and published. */
SS_MUST ss_status ss_postgres_record_write_all(PGconn *conn, const ss_source_env *env, ss_error *reterr);
/* Says SS_STOP with `text`, once that is durable, so that the next open answers it as a gap. SS_RETRY: it is not. */
SS_MUST ss_status ss_postgres_record_break(const ss_source_env *env, const char *text, ss_error *reterr);
/* What the catalogue says now against the record: SS_STOP SS-PG-0057 with the first difference. Whose partitions were
 * attached or taken away since, so that rows came or went without a record in the stream, is told to `stale` (name and
 * the partitions now, borrowed for the call; NULL: nobody). */
typedef void (*ss_postgres_stale_fn)(void *ctx, const char *name, const char *tree);
SS_MUST ss_status ss_postgres_record_compare(PGconn *conn, const ss_source_env *env, const ss_postgres_record *record,
                                             ss_postgres_stale_fn stale, void *ctx, ss_error *reterr);
/* At open: which tables does the agent's file select no more (written down; at: how far the WAL reaches), and which again (watched anew)? */
SS_MUST ss_status ss_postgres_record_selection(PGconn *conn, const ss_source_env *env, const ss_postgres_record *record,
                                               uint64_t at, ss_error *reterr);
/* Does `name` ("ns.name", unescaped) stand in the member? */
bool ss_postgres_record_named(const ss_postgres_member *member, const char *name);

#endif
