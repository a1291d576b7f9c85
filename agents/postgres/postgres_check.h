/* What the two files of --check share. */
#ifndef AGENTS_POSTGRES_CHECK_H
#define AGENTS_POSTGRES_CHECK_H

#include "agents/postgres/postgres_copy.h"

typedef struct {
    const ss_source_env *env;
    ss_check_line line;
    void *ctx;
    ss_arena *arena; /* for the lines' texts */
    PGconn *conn;
    ss_postgres_names names;
    bool captured; /* the spool holds a position of this source */
} ss_postgres_checker;

/* One line. found and remedy may be NULL: no memory for them. */
void ss_postgres_check_say(ss_postgres_checker *check, bool ok, const char *what, const char *found, const char *remedy);
/* What works and should be otherwise: advice, and nobody is stopped. */
void ss_postgres_check_warn(ss_postgres_checker *check, const char *what, const char *found, const char *advice);
/* param NULL: a statement without $1. The caller clears *ret. */
SS_MUST ss_status ss_postgres_check_query(ss_postgres_checker *check, const char *what, const char *sql, const char *param,
                                          PGresult **ret, ss_error *reterr);
/* Patterns, tables, identities, publication (postgres_check_tables.c). */
SS_MUST ss_status ss_postgres_check_tables(ss_postgres_checker *check, ss_error *reterr);

#endif
