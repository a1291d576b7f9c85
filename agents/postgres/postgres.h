/* What the parts of the PostgreSQL agent share: options, connections, errors, the selected tables
 * and their Schemas.
 *
 * connect -> stream -> decode are postgres_connect.c, postgres_stream.c and postgres_decode.c;
 * postgres_source.c is the vtable. The catalogue is read by postgres_catalog.c (tables,
 * publication) and postgres_relation.c (Schemas), for the stream and for the copy alike, so that
 * both make the same Schema, with the same id, of the same table.
 *
 * A PGconn belongs to one thread. Nothing here keeps state outside its arguments. */
#ifndef AGENTS_POSTGRES_H
#define AGENTS_POSTGRES_H

#include "sidespool/source.h"
#include <libpq-fe.h>

/* The block `postgres:` of an agent's file. */
struct ss_postgres_options {
    const char *dsn;
    const char *publication;   /* NULL: sidespool_<source> */
    const char *slot;          /* NULL: sidespool_<source> */
    const char *password_file; /* NULL: .pgpass, the dsn or the server's own means */
    uint64_t connect_timeout;  /* ms */
    ss_place dsn_place, publication_place, slot_place; /* line 0: not written */
};
extern const ss_option ss_postgres_options_table[];

static inline const struct ss_postgres_options *ss_postgres_opt(const ss_source_env *env) {
    return env->options;
}
/* Names with their defaults filled in, NUL-terminated in `ret` (64 bytes, PostgreSQL's own limit).
 * SS_STOP when a name is too long, or when a slot's name holds what PostgreSQL does not allow
 * there. */
typedef struct {
    char publication[64];
    char slot[64];
} ss_postgres_names;
SS_MUST ss_status ss_postgres_configured(const ss_source_env *env, ss_place *ret_place, ss_error *reterr);
SS_MUST ss_status ss_postgres_names_get(const ss_source_env *env, ss_postgres_names *ret,
                                        ss_error *reterr);

/* ---- connections (postgres_connect.c)
 * --------------------------------------------------------------------------- */
/* Connects with pinned session settings: DateStyle ISO, IntervalStyle postgres, bytea_output hex,
 * TimeZone UTC, extra_float_digits 3, client_encoding UTF8, xmloption content, lc_monetary C,
 * search_path pg_catalog (so that format_type and pg_get_*def qualify every other name), no
 * statement, lock or idle timeouts, no synchronous commit trouble. application_name is
 * sidespool-<source>. replication: a walsender of the database (simple queries only). Blocking, at
 * most connect_timeout for each address. */
SS_MUST ss_status ss_postgres_connect(const ss_source_env *env, bool replication, PGconn **ret,
                                      ss_error *reterr);

/* Runs one statement; `expect` is PGRES_TUPLES_OK or PGRES_COMMAND_OK. The caller clears *ret.
 * `what` names the step for the message ("read the publication"). params NULL with nparams 0:
 * simple protocol (what a replication connection needs). */
SS_MUST ss_status ss_postgres_query(PGconn *conn, const char *what, const char *sql, int nparams,
                                    const char *const *params, ExecStatusType expect,
                                    PGresult **ret, ss_error *reterr);
/* The same, with the result thrown away. */
SS_MUST ss_status ss_postgres_exec(PGconn *conn, const char *what, const char *sql,
                                   ss_error *reterr);

/* Fills *reterr from a failed result (or, with res NULL, from the connection): SQLSTATE, primary
 * message as far as it holds no values (sidespool/server_message.h), table, column, constraint. Never DETAIL, CONTEXT, HINT or statement text. Returns SS_RETRY or
 * SS_STOP by SQLSTATE class (ss_postgres_classify). `code` is SS-PG-NNNN. */
SS_MUST ss_status ss_postgres_fail(ss_error *reterr, const char *code, const char *where,
                                   PGconn *conn, const PGresult *res, const char *fmt, ...)
    SS_PRINTF(6, 7);
/* SQLSTATE (NULL or "": the link broke) -> SS_RETRY or SS_STOP. */
ss_status ss_postgres_classify(const char *sqlstate);
/* LSN text "%X/%X" <-> number; parse is false when it is not one. ret has 18 bytes at least. */
bool ss_postgres_lsn_parse(const char *text, uint64_t *ret);
void ss_postgres_lsn_text(uint64_t lsn, char *ret, size_t size);

/* PQgetvalue with NULL as "". Lives as long as the result. */
const char *ss_postgres_value(const PGresult *res, int row, int column);

/* ---- commands that wait for the source's transactions (postgres_await.c)
 * -------------------------------------------------------------------------------------------- */
typedef struct {
    const ss_source_env *env; /* its stop_fd ends the wait: SS_RETRY */
    const char *what;         /* "make slot shop": for messages */
    const char *code;         /* of a failure */
    int64_t most_ms;          /* then SS_BUSY; 0: as long as it takes */
    ss_say_fn say;            /* NULL: nobody is told */
    void *ctx;
} ss_postgres_await;
/* Runs one statement that returns rows. What is given up is cancelled at the server; the caller closes the
 * connection whenever this is not SS_OK. */
SS_MUST ss_status ss_postgres_await_query(const ss_postgres_await *await, PGconn *conn,
                                          const char *sql, PGresult **ret, ss_error *reterr);

/* ---- selected tables (postgres_catalog.c)
 * ----------------------------------------------------------------------- */
typedef struct {
    uint32_t relid;
    const char *ns, *name;
    char relkind;      /* 'r' table, 'p' partitioned table; with `all` also 'f' foreign table */
    char identity;     /* relreplident: 'd' default, 'n' nothing, 'f' full, 'i' index */
    bool has_identity; /* its UPDATEs and DELETEs can be published (all leaves of a partitioned one)
                        */
    bool publishable;  /* false (only with `all`): unlogged or foreign; `why_not` says which */
    const char *why_not; /* one short reason when !publishable or !has_identity, else "" */
    const char *owner;
    bool owned;     /* the connected role may alter it (member of its owner) */
    bool readable;  /* SELECT right */
    bool published; /* in the publication, under this very name */
    uint64_t rows_estimate, bytes_estimate; /* of all leaves together for a partitioned one */
} ss_postgres_table;

/* The tables that env's patterns select, by (ns, name). Never system schemas, never schema
 * sidespool, no temporary tables. A partitioned table stands as its root when the publication
 * publishes by root (or, while there is none, on 13+, where we make it so), else as its leaves
 * (10-12: always); an ancestor's name selects its leaves. all: also what cannot be published
 * (unlogged, foreign), marked so, for --check. SS_STOP SS-PG-0020 for a pattern that matches
 * nothing, SS-PG-0021 for an excluded partition of a root published whole. */
SS_MUST ss_status ss_postgres_tables_select(PGconn *conn, const ss_source_env *env, bool all,
                                            ss_arena *arena, ss_postgres_table **ret,
                                            size_t *ret_count, ss_error *reterr);

typedef struct {
    bool exists;
    bool all_tables; /* FOR ALL TABLES */
    bool via_root;   /* of an existing one; of one not yet made: what we will make */
    bool owned;      /* the connected role may alter it */
    bool inserts, updates, deletes,
        truncates;  /* what it publishes; one that leaves something out is refused */
    bool generated; /* 18+: publishes generated columns; refused */
    const char *owner;
    uint32_t oid; /* another oid is another publication: what was written before it cannot be
                     decoded with it */
} ss_postgres_publication;
SS_MUST ss_status ss_postgres_publication_get(PGconn *conn, const ss_source_env *env,
                                              ss_arena *arena, ss_postgres_publication *ret,
                                              ss_error *reterr);
/* Makes the publication for `tables`, or adds those of them that are not published yet. A table
 * without identity is never added (SS_STOP), one that is not ours to add neither: then the error
 * holds the SQL for its owner, whole. Autocommitted before it returns, so that WAL written from now
 * on is decoded with it. (postgres_publication.c) */
SS_MUST ss_status ss_postgres_publication_ensure(PGconn *conn, const ss_source_env *env,
                                                 const ss_postgres_table *tables, size_t count,
                                                 ss_error *reterr);

/* ---- Schemas (postgres_relation.c)
 * ------------------------------------------------------------------------------ */
/* The table as it stands in the connection's current snapshot. Sealed by nobody yet (id 0). Columns
 * in attnum order, without dropped and without generated ones (the target computes those; they are
 * in no row and no CopyRows): so a column here is exactly a cell of a row, in a Change as in
 * CopyRows. key: the columns by which UPDATE and DELETE find their row: default: primary key;
 * index: that index; full: the primary key if there is one; nothing: the primary key too (inserts
 * only, identity NONE), for digests and chunks. Lives as long as the arena. SS_STOP SS-PG-0030 when
 * the relation is gone. */
SS_MUST ss_status ss_postgres_schemas_load(PGconn *conn, const uint32_t *relids, size_t count,
                                           ss_arena *arena, Sidespool__Schema **ret,
                                           ss_error *reterr);

#endif
