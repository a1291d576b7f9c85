/* Whether anybody is still there: the answers of the source are waited for here, and when none comes, the question is asked of the
 * server itself, over a connection of its own.
 *
 * TCP finds most dead links (sidespool/link.h), but not one whose near side is well: a tunnel, a proxy or a balancer that has lost the
 * server behind it, or a server that has given our session up without our hearing of it. Silence alone proves nothing either: a
 * walsender says nothing for minutes while it decodes a long transaction of tables that we do not take, a query may wait for a lock.
 * To end those would be to begin them again for ever. So a link is given up only when the server says that its session does not work
 * for us, or when it cannot be reached at all.
 *
 * Any thread; a connection is its own. */
#include "agents/postgres/postgres_link.h"
#include "agents/postgres/postgres_stream.h"
#include "sidespool/link.h"
#include "sidespool/log.h"
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define REACH_MS 5000 /* to connect, and to answer */
#define TLS_LOOK_MS 200

/* ---- asking the server --------------------------------------------------------------------------------------------------- */

/* Connects where `conn` is connected, with all that it was given. NULL: not reached, unless *ret_spoke (it refused). */
static PGconn *connect_beside(PGconn *conn, bool *ret_spoke) {
    const char *keys[80], *values[80];
    char sqlstate[6] = "";
    bool late = false;
    size_t n = 0;
    PQconninfoOption *given = PQconninfo(conn);
    for (const PQconninfoOption *p = given; p != NULL && p->keyword != NULL && n < 74; p++)
        if (p->val != NULL && strcmp(p->keyword, "replication") != 0) {
            keys[n] = p->keyword; /* of several servers the one that we have */
            values[n++] = strcmp(p->keyword, "hostaddr") == 0 ? PQhostaddr(conn) : p->val;
        }
    keys[n] = "host";
    values[n++] = PQhost(conn);
    keys[n] = "port";
    values[n++] = PQport(conn);
    keys[n] = values[n] = NULL;
    PGconn *beside = ss_postgres_connect_steps(keys, values, 0, REACH_MS, &late);
    PQconninfoFree(given);
    if (beside != NULL && !late && PQstatus(beside) == CONNECTION_OK)
        return beside;
    if (beside != NULL && !late) {
        char said[400];
        ss_postgres_connect_said(PQerrorMessage(beside), sqlstate, said, sizeof said);
    }
    *ret_spoke = sqlstate[0] != '\0';
    PQfinish(beside);
    return NULL;
}

/* The result that has come within REACH_MS, or NULL. */
static PGresult *ask(PGconn *beside, const char *sql, const char *pid) {
    const char *params[1] = {pid};
    int64_t until = ss_postgres_now_ms() + REACH_MS;
    if (PQsendQueryParams(beside, sql, 1, NULL, params, NULL, NULL, 0) != 1)
        return NULL;
    while (PQisBusy(beside)) {
        struct pollfd fd = {.fd = PQsocket(beside), .events = POLLIN};
        int64_t left = until - ss_postgres_now_ms();
        if (left <= 0 || (poll(&fd, 1, (int)left) > 0 && PQconsumeInput(beside) == 0))
            return NULL;
    }
    PGresult *res = PQgetResult(beside);
    if (PQresultStatus(res) == PGRES_TUPLES_OK)
        return res;
    PQclear(res);
    return NULL;
}

/* A session that works for us is active and waits neither for us (Client: it reads from us, or writes to us and we do not hear it)
 * nor for something to do (Activity). */
static const char working_sql[] =
    "SELECT state = 'active' AND coalesce(wait_event_type, '') NOT IN ('Client', 'Activity'), "
    "coalesce(wait_event_type || ' ' || wait_event, state, 'unknown') FROM pg_catalog.pg_stat_activity WHERE pid = $1::int4";

bool ss_postgres_link_lost(PGconn *conn, char *ret_why, size_t size) {
    char pid[16];
    bool spoke = false;
    PGconn *beside = connect_beside(conn, &spoke);
    if (beside == NULL) {
        snprintf(ret_why, size, "%s", spoke ? "the server is there, but refuses to be asked why" : "the server cannot be reached");
        return !spoke;
    }
    snprintf(pid, sizeof pid, "%d", PQbackendPID(conn));
    PGresult *res = ask(beside, working_sql, pid);
    bool lost = true;
    if (res == NULL)
        snprintf(ret_why, size, "the server cannot be reached");
    else if (PQntuples(res) == 0)
        snprintf(ret_why, size, "the server has ended our session (process %s)", pid);
    else if (*ss_postgres_value(res, 0, 0) != 't')
        snprintf(ret_why, size, "the server's process %s does not hear us (%.60s)", pid, ss_postgres_value(res, 0, 1));
    else {
        snprintf(ret_why, size, "the server's process %s works (%.60s)", pid, ss_postgres_value(res, 0, 1));
        lost = false;
    }
    PQclear(res);
    PQfinish(beside);
    /* What came while we asked is an answer. */
    struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
    return lost && poll(&fd, 1, 0) <= 0;
}

/* ---- waiting for an answer ----------------------------------------------------------------------------------------------- */

/* Waits for more. `heard` is when something came last, or was asked. What TLS has read already shows at no socket: so it is looked
 * for in turns. */
static ss_status idle(PGconn *conn, const char *what, int64_t *heard, ss_error *reterr) {
    struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
    int n = poll(&fd, 1, PQsslInUse(conn) ? TLS_LOOK_MS : SS_LINK_DEAD_MS);
    int64_t now = ss_postgres_now_ms();
    (void)PQconsumeInput(conn); /* what failed is said by the result that the caller takes */
    if (n > 0)
        *heard = now;
    if (now - *heard < SS_LINK_DEAD_MS)
        return SS_OK;
    char why[200];
    int seconds = (int)((now - *heard) / 1000);
    if (!ss_postgres_link_lost(conn, why, sizeof why)) {
        SS_LOG(SS_INFO, "source_takes_long", SS_S("step", what), SS_I("seconds", seconds), SS_S("found", why));
        *heard = ss_postgres_now_ms();
        return SS_OK;
    }
    /* Nobody uses it again by mistake: to libpq it is closed now. */
    (void)shutdown(PQsocket(conn), SHUT_RDWR);
    (void)PQconsumeInput(conn);
    return ss_fail(reterr, SS_RETRY, "SS-PG-0115", "cannot %s: the source has said nothing for %d s, and %s", what, seconds, why);
}

ss_status ss_postgres_await_result(PGconn *conn, const char *what, ss_error *reterr) {
    int64_t heard = ss_postgres_now_ms();
    ss_status status = SS_OK;
    while (status == SS_OK && PQisBusy(conn))
        status = idle(conn, what, &heard, reterr);
    return status;
}

ss_status ss_postgres_await_row(PGconn *conn, const char *what, char **ret, int *ret_len, ss_error *reterr) {
    int64_t heard = 0;
    ss_status status = SS_OK;
    while (status == SS_OK && (*ret_len = PQgetCopyData(conn, ret, 1)) == 0) {
        heard = heard == 0 ? ss_postgres_now_ms() : heard;
        status = idle(conn, what, &heard, reterr);
    }
    return status;
}

ss_status ss_postgres_run(PGconn *conn, const char *what, const char *sql, int nparams, const char *const *params,
                          PGresult **ret, ss_error *reterr) {
    int sent = nparams == 0 ? PQsendQuery(conn, sql) : PQsendQueryParams(conn, sql, nparams, NULL, params, NULL, NULL, 0);
    PGresult *last = NULL;
    *ret = NULL;
    while (sent == 1) {
        ss_status status = ss_postgres_await_result(conn, what, reterr);
        if (status != SS_OK) {
            PQclear(last);
            return status;
        }
        PGresult *res = PQgetResult(conn);
        if (res == NULL)
            break;
        bool failed = PQresultStatus(last) == PGRES_FATAL_ERROR && last != NULL;
        PQclear(failed ? res : last); /* the first error is the one to tell */
        last = failed ? last : res;
        ExecStatusType got = PQresultStatus(last);
        if (got == PGRES_COPY_OUT || got == PGRES_COPY_IN || got == PGRES_COPY_BOTH || PQstatus(conn) == CONNECTION_BAD)
            break;
    }
    *ret = last;
    return SS_OK;
}
