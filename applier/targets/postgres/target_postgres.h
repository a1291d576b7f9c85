/* What the parts of the PostgreSQL target share (step "apply" of the flow).
 *
 *   target_open.c      connection, session, options, vtable     target_copy.c     rows of a copy,
 * by COPY target_error.c     a server's answer -> status and sentence target_replace.c  tables
 * loaded beside, put in place target_progress.c  bookkeeping: progress, states, freshness
 * target_objects.c  objects of a copy, by phase target_schema.c    a table's columns, casts and
 * names       target_check.c    --check target_stmt.c      prepared statements, the pipeline
 * target_digest.c   verify target_apply.c     a batch in one transaction, from target_group.c
 * (set-wise SQL), target_bulk.c (many INSERTs) and target_ordered.c (one by one)
 *
 * One thread at a time (the route's, or its worker while a batch is away), blocking. libpq keeps reading while a send is blocked (also in pipeline mode), so
 * neither side can wait for the other for ever. */
#ifndef TARGET_POSTGRES_H
#define TARGET_POSTGRES_H

#include "sidespool/copytext.h"
#include "sidespool/target.h"
#include <libpq-fe.h>

typedef struct {
    const char *dsn;
    const char *password_file;
    uint64_t connect_timeout; /* ms */
    uint64_t lock_timeout;    /* ms */
    ss_place dsn_place;
} ss_tgt_options;
extern const ss_option ss_tgt_option_table[];

/* Of a pg_attribute `a`: '' or how it is generated; before 12 no column is, and the catalogue has no such field. */
#define SS_TGT_GENERATED "coalesce(to_jsonb(a) ->> 'attgenerated', '')"
#define SS_TGT_BOOKKEEPING 1 /* version of the tables in schema sidespool */

/* ---- a table as it stands in the target (target_schema.c)
 * ------------------------------------------------------- */
typedef struct {
    const char *ident; /* quoted name */
    const char *type;  /* format_type of the target's column: valid in a cast */
    const char *input; /* NULL: a cast from text is the type's input function; else "fn(%textout,
                          …)" pieces: */
    const char *input_tail; /* what follows textout(x) in the call of the input function */
    const char *equal;      /* operator for a key look-up */
    bool identity_always;
    bool
        same_by_equal; /* = is identity for this type (so an index can serve a table without key) */
    bool also_equal;   /* = is weaker than identity, but an index may serve it: = and text */
} ss_tgt_column;

typedef struct ss_tgt_table {
    struct ss_tgt_table *next; /* of its bucket */
    ss_arena *arena;
    uint64_t schema_id;
    uint64_t serial;  /* of this reading of the table: statements made for an earlier one, such as a
                         copy_<n> that is gone, are not found again */
    bool beside;      /* sidespool.copy_<n> */
    const char *name; /* quoted, qualified: what statements say */
    const char *shown; /* ns.name, for people */
    const char *only;  /* "ONLY ", or "" for a partitioned table */
    bool partitioned;
    bool unique; /* a valid unique index, checked at once, covers exactly the key's columns: only
                    then does a statement's sum of matched rows tell drift. Without it, two rows
                    for one key make up for none of another */
    bool key_deferred; /* its primary key is DEFERRABLE: within a transaction two rows may share a
                          key */
    uint32_t count;
    ss_tgt_column *columns; /* parallel to the schema's */
    uint32_t key_count;
    bool told;              /* that its key is not unique */
    unsigned ordered_left;  /* batches for which it stays one by one after a refusal */
} ss_tgt_table;

/* ---- prepared statements and the pipeline (target_stmt.c)
 * -------------------------------------------------------- */
typedef struct ss_tgt_stmt ss_tgt_stmt;

/* One answer that the pipeline owes us, in sending order. */
typedef struct {
    enum { SS_TGT_PREPARE, SS_TGT_DEALLOCATE, SS_TGT_CONTROL, SS_TGT_ROWS } kind;
    ss_tgt_stmt *stmt;   /* PREPARE, DEALLOCATE */
    ss_tgt_table *table; /* ROWS */
    Sidespool__Op op;    /* ROWS */
    bool ordered;        /* ROWS: a refusal or another count is final */
    uint64_t expected;   /* ROWS */
    uint64_t sequence;   /* ROWS: first stream sequence concerned; 0: a group */
} ss_tgt_answer;

#define SS_TGT_STMT_MOST 512
#define SS_TGT_STMT_SLOTS 1024
#define SS_TGT_QUERIES 64
#define SS_TGT_TABLE_BUCKETS 4096

typedef struct ss_tgt_link ss_tgt_link;
struct ss_target {
    const ss_target_env *env;
    const ss_tgt_options *options;
    PGconn *conn;
    ss_tgt_link *link; /* NULL: a Unix socket */
    int version;
    bool replica;     /* session_replication_role = replica was granted */
    bool open;        /* a transaction of partial batches is open */
    bool savepoint;   /* inside it, this apply has its savepoint */
    uint64_t attempt; /* counts apply attempts */

    ss_tgt_table *tables[SS_TGT_TABLE_BUCKETS]; /* by schema id, which is a hash: a batch looks each of its tables up, of ten thousand */
    uint64_t table_serial;

    ss_tgt_stmt *slots[SS_TGT_STMT_SLOTS];
    ss_tgt_stmt *newest, *oldest;
    size_t stmt_count;
    uint64_t stmt_serial;

    ss_tgt_answer *answers;
    size_t answer_count, answer_cap;

    char *queries[SS_TGT_QUERIES]; /* prepared by ss_tgt_query as q0, q1… */
    size_t query_count;

    ss_buf sql, key, params; /* scratch */
    const char **values;
    int *lengths, *formats;
    size_t value_cap;

    /* copying */
    bool copy_tx;          /* a transaction of the copy is open */
    ss_tgt_table *copying; /* COPY … FROM STDIN runs for it */
    ss_copytext_writer writer;
    ss_buf text;
    uint64_t object_number;
};

/* ---- target_error.c
 * ------------------------------------------------------------------------------------------------
 */
/* A failed result (or NULL: the connection's own trouble) as status and sentence. `what`: "table
 * a.b: INSERT". */
SS_MUST ss_status ss_tgt_error(PGconn *conn, const PGresult *res, const char *what,
                               ss_error *reterr);
/* The same kind of decision for a SQLSTATE alone; "" is a lost connection. */
bool ss_tgt_sqlstate_retry(const char *sqlstate);
/* A refusal by a constraint: what one-by-one order may heal. */
bool ss_tgt_sqlstate_refusal(const char *sqlstate);
/* Raised by a function of the target's: all of its fields may hold a row's value. */
bool ss_tgt_from_user_code(const PGresult *res);
/* The primary message on one line, with what may be a row's value cut; a fixed sentence for what a
 * function of the target raised. */
void ss_tgt_message(const PGresult *res, char *ret, size_t size);
SS_MUST ss_status ss_tgt_nomem(ss_error *reterr);

/* ---- plain statements (target_open.c)
 * ------------------------------------------------------------------------------ */
SS_MUST ss_status ss_tgt_exec(ss_target *t, const char *what, const char *sql, ss_error *reterr);
/* With parameters `sql` is one of our own fixed texts: it is prepared at its first use, since planning takes longer than
 * running it. */
SS_MUST ss_status ss_tgt_query(ss_target *t, const char *what, const char *sql, int count,
                               const char *const *values, PGresult **ret, ss_error *reterr);
void ss_tgt_queries_forget(ss_target *t); /* of a connection that is being closed */
SS_MUST ss_status ss_tgt_begin(ss_target *t, ss_error *reterr);
SS_MUST ss_status ss_tgt_commit(ss_target *t, ss_error *reterr);
SS_MUST ss_status ss_tgt_connect(const ss_tgt_options *options, const char *purpose, PGconn **ret,
                                 ss_error *reterr);
/* The dsn can be parsed. Its text is in no error: it may hold a password. */
SS_MUST ss_status ss_tgt_configured(const void *options, ss_place *ret_place, ss_error *reterr);
/* ---- the link (target_link.c) */
/* Shuts the socket of `conn` down when the target's host is gone while something is sent to it. *ret is NULL for a Unix socket. It is freed
 * before PQfinish. `route` lives as long. */
SS_MUST ss_status ss_tgt_link_watch(PGconn *conn, const char *route, ss_tgt_link **ret, ss_error *reterr);
void ss_tgt_link_free(ss_tgt_link *link); /* takes NULL */
bool ss_tgt_link_is_dead(const PGconn *conn);
/* What the watch decides by, once a second; `since` begins as 0. For tests. */
struct tcp_info;
bool ss_tgt_link_silent(const struct tcp_info *info, int64_t now_ms, int64_t *since);
bool ss_tgt_pin(PGconn *conn, uint64_t lock_timeout, PGresult **ret_refused); /* session settings */
void ss_tgt_put_ident(ss_buf *out, const char *name);
void ss_tgt_put_literal(ss_buf *out, const char *value);

/* ---- target_progress.c
 * --------------------------------------------------------------------------------------------- */
SS_MUST ss_status ss_tgt_bookkeeping(ss_target *t, ss_error *reterr);
SS_MUST ss_status ss_tgt_progress(ss_target *t, ss_progress *ret, ss_error *reterr);
SS_MUST ss_status ss_tgt_states(ss_target *t, ss_arena *arena, ss_table_state **ret,
                                size_t *ret_count, ss_error *reterr);
/* Inside the current transaction; queued when the pipeline is open. */
SS_MUST ss_status ss_tgt_put_progress(ss_target *t, const ss_progress *progress, ss_error *reterr);
SS_MUST ss_status ss_tgt_put_state(ss_target *t, const ss_table_state *state, ss_error *reterr);
SS_MUST ss_status ss_tgt_put_freshness(ss_target *t, int64_t as_of, const char *state,
                                       ss_error *reterr);

/* ---- target_schema.c
 * -----------------------------------------------------------------------------------------------
 */
/* The plan for a schema's table; `beside`: where a resync loads it, if its state says so. Cached.
 * SS_STOP when it differs. */
SS_MUST ss_status ss_tgt_table_get(ss_target *t, const Sidespool__Schema *schema, bool beside,
                                   ss_tgt_table **ret, ss_error *reterr);
SS_MUST ss_status ss_tgt_table_load(ss_target *t, const Sidespool__Schema *schema, const char *ns,
                                    const char *name, ss_tgt_table **ret, ss_error *reterr);
/* *ret: "ONLY ", or "" for a partitioned table. */
SS_MUST ss_status ss_tgt_only(ss_target *t, const char *ns, const char *name, const char **ret,
                              ss_error *reterr);
/* Rows (schema, name): every table that inherits from a plain one, however deep. */
SS_MUST ss_status ss_tgt_children(ss_target *t, const char *ns, const char *name, PGresult **ret,
                                  ss_error *reterr);
/* The one that ss_tgt_table_get has read; NULL: it has not. */
ss_tgt_table *ss_tgt_table_find(const ss_target *t, const Sidespool__Schema *schema, bool beside);
void ss_tgt_table_free(ss_tgt_table *table);
void ss_tgt_tables_forget(ss_target *t);
/* The columns of the relation ns.name against the schema; and of the one that its changes go to. */
SS_MUST ss_status ss_tgt_compare_with(ss_target *t, const Sidespool__Schema *schema, const char *ns,
                                      const char *name, ss_error *reterr);
SS_MUST ss_status ss_tgt_compare(ss_target *t, const Sidespool__Schema *schema, ss_error *reterr);
/* Appends the expression that reads `source` (of type text) as the column's type. */
void ss_tgt_put_cast(ss_buf *out, const ss_tgt_column *column, const char *source);
void ss_tgt_put_columns(ss_buf *out, const ss_tgt_table *table); /* "a", "b" */

/* ---- target_stmt.c
 * -------------------------------------------------------------------------------------------------
 */
/* Looks the statement of t->key up; NULL: make its SQL and call ss_tgt_stmt_make. */
ss_tgt_stmt *ss_tgt_stmt_find(ss_target *t);
/* Queues the preparation of t->sql under t->key. All parameters are `type` (OID). */
SS_MUST ss_status ss_tgt_stmt_make(ss_target *t, int params, Oid type, ss_tgt_stmt **ret,
                                   ss_error *reterr);
/* Sends t->values/lengths/formats. */
SS_MUST ss_status ss_tgt_stmt_send(ss_target *t, ss_tgt_stmt *stmt, int params,
                                   ss_tgt_answer answer, ss_error *reterr);
SS_MUST ss_status ss_tgt_control(ss_target *t, const char *sql, ss_error *reterr);
SS_MUST ss_status ss_tgt_values_room(ss_target *t, size_t count, ss_error *reterr);
SS_MUST ss_status ss_tgt_pipe_open(ss_target *t, ss_error *reterr);
typedef struct {
    ss_tgt_table *table; /* NULL: none */
    bool refused;        /* by a constraint; else another count */
} ss_tgt_trouble;
/* The next answer to what was sent; NULL as PQgetResult, or when it does not come. */
PGresult *ss_tgt_result(PGconn *conn, int most_ms);
/* Sends the sync and reads every answer. SS_BUSY: *trouble names a table whose groups are to be
 * done one by one. */
SS_MUST ss_status ss_tgt_pipe_close(ss_target *t, ss_tgt_trouble *trouble, ss_error *reterr);
void ss_tgt_stmts_forget(
    ss_target *t); /* of a connection that is gone or whose tables were made anew */

/* ---- target_apply.c, target_group.c, target_ordered.c
 * -------------------------------------------------------------- */
SS_MUST ss_status ss_tgt_apply(ss_target *t, const ss_batch *batch, ss_error *reterr);
SS_MUST ss_status ss_tgt_rollback(ss_target *t, ss_error *reterr);
SS_MUST ss_status ss_tgt_group(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                               const ss_group *group, ss_error *reterr);
SS_MUST ss_status ss_tgt_ordered(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                                 const ss_batch_change *first, ss_error *reterr);
/* One row of a group, as an ordered change (batches of one row). */
SS_MUST ss_status ss_tgt_one(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                             Sidespool__Op op, const ss_row *key, const ss_row *row,
                             const uint8_t *kinds, uint64_t sequence, bool final, ss_error *reterr);
SS_MUST ss_status ss_tgt_too_large(const ss_tgt_table *table, uint64_t bytes, ss_error *reterr);
/* A group's row lacks a cell. */
SS_MUST ss_status ss_tgt_no_image(const ss_tgt_table *table, Sidespool__Op op, ss_error *reterr);
/* INSERTs by COPY, behind the pipeline of the same transaction. (target_bulk.c) SS_BUSY: as ss_tgt_pipe_close. */
bool ss_tgt_bulk_fits(const ss_group *group);
SS_MUST ss_status ss_tgt_bulk(ss_target *t, ss_tgt_table *table, const ss_group *group,
                              ss_tgt_trouble *trouble, ss_error *reterr);
#define SS_TGT_BULK_ROWS 1000 /* fewer are not worth the round trip */
#define SS_TGT_CHUNK_BYTES (8u << 20) /* of parameters in one statement */
#define SS_TGT_ROW_BYTES 1000000000u   /* PostgreSQL takes no message of 1 GiB or more */
const char *ss_tgt_op_name(Sidespool__Op op);

/* ---- copying
 * -------------------------------------------------------------------------------------------------------
 */
SS_MUST ss_status ss_tgt_copy_begin(ss_target *t, const Sidespool__CopyBegin *begin,
                                    ss_table_state *states, size_t count,
                                    const ss_progress *progress, ss_error *reterr);
SS_MUST ss_status ss_tgt_copy_object(ss_target *t, const Sidespool__Object *object,
                                     ss_error *reterr);
SS_MUST ss_status ss_tgt_copy_rows(ss_target *t, const Sidespool__Schema *schema, ss_bytes cells,
                                   uint32_t rows, bool more, ss_error *reterr);
SS_MUST ss_status ss_tgt_copy_flush(ss_target *t, const ss_progress *progress,
                                    const ss_table_state *states, size_t count, ss_error *reterr);
SS_MUST ss_status ss_tgt_copy_table(ss_target *t, const Sidespool__Schema *schema,
                                    const ss_progress *progress, ss_table_state *state,
                                    ss_error *reterr);
SS_MUST ss_status ss_tgt_copy_replace(ss_target *t, const ss_table_state *states, size_t count,
                                      const ss_progress *progress, ss_error *reterr);
SS_MUST ss_status ss_tgt_copy_tx(ss_target *t,
                                 ss_error *reterr); /* opens the copy's transaction when none is */
SS_MUST ss_status ss_tgt_copy_end_rows(ss_target *t, ss_error *reterr); /* ends a running COPY */
/* Makes sidespool.copy_<n> for a table whose state has `beside`, when it is not there yet.
 * (target_replace.c) */
SS_MUST ss_status ss_tgt_beside_make(ss_target *t, const Sidespool__Schema *schema,
                                     ss_error *reterr);
/* How the copy of a table stands: sidespool.table_state. */
typedef struct {
    bool known;  /* a copy of it was begun before (generation > 0) */
    bool beside; /* rows are loaded into sidespool.copy_<number> */
    bool fresh;  /* that one was made from the source's definition, because the columns differ */
    bool kept;   /* the table itself was there before the copy: its definition stays */
    uint64_t number; /* 0: not made yet */
} ss_tgt_beside;
SS_MUST ss_status ss_tgt_beside_get(ss_target *t, const char *ns, const char *name,
                                    ss_tgt_beside *ret, ss_error *reterr);
SS_MUST ss_status ss_tgt_beside_drop(ss_target *t, const char *ns, const char *name,
                                     ss_error *reterr);
/* A copy's key index while it has no other. */
SS_MUST ss_status ss_tgt_beside_index(ss_target *t, const Sidespool__Schema *schema,
                                      ss_error *reterr);
/* Runs one definition under a savepoint. *ret_refused: 0 done or there already; else why not
 * (static per target). */
SS_MUST ss_status ss_tgt_object_run(ss_target *t, const char *kind, const char *ns,
                                    const char *name, const char *table, const char *definition,
                                    bool optional, char *ret_refused, size_t size,
                                    ss_error *reterr);
/* Carries out the table's pending "table" objects, marking them done in the same transaction. */
SS_MUST ss_status ss_tgt_objects_of_table(ss_target *t, const char *ns, const char *name,
                                          ss_error *reterr);
SS_MUST ss_status ss_tgt_finish(ss_target *t, ss_check_line line, void *ctx, ss_error *reterr);

/* ---- target_check.c, target_digest.c
 * ------------------------------------------------------------------------------- */
void ss_tgt_server(const ss_target *t, char *ret, size_t size);
SS_MUST ss_status ss_tgt_check(const ss_target_env *env, ss_check_line line, void *ctx,
                               ss_error *reterr);
SS_MUST ss_status ss_tgt_digest_open(const ss_target_env *env, ss_target *live, void **ret,
                                     ss_error *reterr);
SS_MUST ss_status ss_tgt_digest(void *digest, const Sidespool__Schema *schema,
                                ss_digest_bucket *buckets, ss_error *reterr);
SS_MUST ss_status ss_tgt_digest_rows(void *digest, const Sidespool__Schema *schema,
                                     const uint8_t *wanted, size_t most, ss_arena *arena,
                                     ss_digest_row **ret, size_t *ret_count, ss_error *reterr);
void ss_tgt_digest_close(void *digest);

#endif
