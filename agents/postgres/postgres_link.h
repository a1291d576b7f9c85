/* Waiting for the source's answers, and finding out that none will come. Any thread. */
#ifndef AGENTS_POSTGRES_LINK_H
#define AGENTS_POSTGRES_LINK_H

#include "agents/postgres/postgres.h"

/* Once for each connection: what ss_postgres_link_lost needs to know of it. `env` outlives it. */
SS_MUST ss_status ss_postgres_link_begin(PGconn *conn, const ss_source_env *env, ss_error *reterr);

/* By which number the server knows the session. Another than libpq's: no process of it is ever judged by. */
void ss_postgres_link_known(PGconn *conn, int pid);

/* Asks the server, over a connection of its own, what its session behind `conn` does. True: it does nothing for us, or cannot be
 * reached. `ret_why` says what was found, as the end of a sentence. At most ten seconds. */
bool ss_postgres_link_lost(PGconn *conn, char *ret_why, size_t size);

/* The same for who waits: nothing before `heard` is long ago, which is set anew when the link is good. SS_RETRY, SS-PG-0115: it is
 * lost, and `conn` closed. `say`: logs what the server works on. */
SS_MUST ss_status ss_postgres_link_look(PGconn *conn, const char *what, bool say, int64_t *heard, ss_error *reterr);

/* Waits until PQgetResult does not block, as long as the server works for us. SS_RETRY, SS-PG-0115: the link is lost, and `conn`
 * closed. */
SS_MUST ss_status ss_postgres_await_result(PGconn *conn, const char *what, ss_error *reterr);
/* The same with a row of a COPY: what PQgetCopyData returns, but never 0. -2: also of a connection that broke. */
SS_MUST ss_status ss_postgres_await_row(PGconn *conn, const char *what, char **ret, int *ret_len, ss_error *reterr);
/* PQexec (nparams 0) and PQexecParams, waiting like that. *ret is NULL when libpq could not even send it, else the caller's. Of
 * several statements the last result, or the first error. */
SS_MUST ss_status ss_postgres_run(PGconn *conn, const char *what, const char *sql, int nparams,
                                  const char *const *params, PGresult **ret, ss_error *reterr);

/* ---- postgres_connect.c */
/* Connects with verbose errors, so that the SQLSTATE of a refusal can be read. expand: values may hold a dsn. */
PGconn *ss_postgres_connect_steps(const char *const *keys, const char *const *values, int expand, uint64_t timeout_ms,
                                  bool *ret_late);
/* Of a refused connection's message: the SQLSTATE ("": the server never spoke) and the first line. */
void ss_postgres_connect_said(const char *message, char ret_sqlstate[6], char *ret, size_t size);

#endif
