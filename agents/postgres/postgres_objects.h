/* Objects: what a fresh target is built from, as Object records in executable order.
 *
 * Every kind of object is one query that returns rows {phase, kind, ns, name, table, definition, note, optional}; the
 * driver (postgres_objects.c) runs them in order and emits each row. Parameters of all: $1 oid[] relations to rebuild,
 * $2 text[] parallel to it: the captured table each belongs to ('': none, a partitioned table published by leaf), $3 oid[] all relations that the source selects, $4 bool a
 * subset was asked for. The text is filled in for the server's version: see words[] in postgres_objects.c. */
#ifndef AGENTS_POSTGRES_OBJECTS_H
#define AGENTS_POSTGRES_OBJECTS_H

#include "agents/postgres/postgres_copy.h"

typedef struct {
    ss_snapshot *snapshot;
    PGconn *conn;
    ss_postgres_emit emit;
    void *ctx;
    ss_buf sql;
    const char *params[4];
} ss_postgres_objects;

/* All rows of one query. A NULL definition means that the object went away meanwhile (SS_RETRY SS-PG-0109). */
SS_MUST ss_status ss_postgres_objects_run(ss_postgres_objects *objects, const char *what, const char *sql,
                                          ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_emit(ss_postgres_objects *objects, const char *phase, const char *kind,
                                           const char *ns, const char *name, const char *definition, const char *note,
                                           bool optional, ss_error *reterr);
/* Fills the version's words into `sql` and runs it with the four parameters; the caller clears *ret. */
SS_MUST ss_status ss_postgres_objects_query(ss_postgres_objects *objects, const char *what, const char *sql,
                                            PGresult **ret, ss_error *reterr);

SS_MUST ss_status ss_postgres_objects_types(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_sequences(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_tables(ss_postgres_objects *objects, ss_error *reterr);
/* Published by leaf: the partitioned tables above the leaves ("final"), and each leaf's place in them ("table"). */
SS_MUST ss_status ss_postgres_objects_trees(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_leaves(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_keys(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_foreign_keys(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_setval(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_views(ss_postgres_objects *objects, ss_error *reterr);
SS_MUST ss_status ss_postgres_objects_left_out(ss_postgres_objects *objects, ss_error *reterr);

/* ---- words of the statements ------------------------------------------------------------------------------------ */
#define OBJ_USER "16384" /* FirstNormalObjectId: below are the server's own objects */
/* Common table expressions, replaced by their text (words[] in postgres_objects.c); WITH comes first. */
#define OBJ_WITH "@with@"     /* sel, every, asked, ext, foul */
#define OBJ_TYPES "@types@"   /* parts, uses, reach, types */
#define OBJ_SEQS "@seqs@"     /* seqs, seqopts */
#define OBJ_TABLES "@tables@" /* rel, inh, col, older, lvl; with OBJ_SEQS */
#define OBJ_COLUMN "@column@" /* one column `a` of col or older as it stands in CREATE TABLE */
#define OBJ_RANGES "@ranges@" /* a branch of the statement of the types */
#define OBJ_ROOT "@root@"     /* the definition of partitioned table `r` of rel */
#define OBJ_KEYS "@keys@"     /* a branch of the statement of the keys */
#define OBJ_UNUSED "@unused@" /* branches of the statement of what is left out */
/* A statement for targets from version 18 on, another for older ones. */
#define OBJ_FROM_18(now, before)                                                                                       \
    "'DO ' || quote_literal('BEGIN IF current_setting(''server_version_num'')::int >= 180000 THEN EXECUTE '"          \
    " || quote_literal(" now ") || '; ELSE EXECUTE ' || quote_literal(" before ") || '; END IF; END')"
/* An optional object of this definition makes nothing: it is refused by a target before 18, and so its note is told. */
#define OBJ_BEFORE_18                                                                                                  \
    "'DO ' || quote_literal('BEGIN IF current_setting(''server_version_num'')::int < 180000 THEN RAISE'"               \
    " || ' feature_not_supported USING MESSAGE = ''it came with PostgreSQL 18''; END IF; END')"
/* Old rows may break it: a resync, which writes all rows anew, would be refused by it. */
#define OBJ_UNPROVEN "' is NOT VALID at the source and not mirrored: VALIDATE CONSTRAINT there, then resync the table'"
#define OBJ_NAME(n, c) "quote_ident(" n ".nspname) || '.' || quote_ident(" c ".relname)"

#endif
