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
#include "sidespool/password.h"
#include <libpq-events.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REACH_MS 5000 /* to connect, and to answer */
#define TLS_LOOK_MS 200
#define REFUSALS_MOST 3

/* ---- what a connection knows of itself ----------------------------------------------------------------------------------- */

/* It hangs on the connection, because who waits for an answer has nothing else. */
typedef struct {
    const ss_source_env *env;
    bool hidden;  /* the server knows our session by another number than we do: a pooler stands between */
    int refusals; /* in a row, of those who wanted to ask */
} session;

static int session_event(PGEventId event, void *about, void *ctx) {
    (void)ctx;
    if (event == PGEVT_CONNDESTROY) {
        PGconn *conn = ((PGEventConnDestroy *)about)->conn;
        free(PQinstanceData(conn, session_event));
    }
    return 1;
}

ss_status ss_postgres_link_begin(PGconn *conn, const ss_source_env *env, ss_error *reterr) {
    session *own = calloc(1, sizeof *own);
    if (own == NULL || PQregisterEventProc(conn, session_event, "sidespool", NULL) == 0 ||
        PQsetInstanceData(conn, session_event, own) == 0) {
        free(own);
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for a connection to source %s", env->name);
    }
    own->env = env;
    return SS_OK;
}

/* ---- asking the server --------------------------------------------------------------------------------------------------- */

/* Connects where `conn` is connected, with all that it was given, but with the password as it is now: it may have been changed
 * since. NULL: not reached, or refused with this SQLSTATE. */
static PGconn *connect_beside(PGconn *conn, const session *own, char ret_sqlstate[6]) {
    const char *keys[80], *values[80];
    const char *file = ss_postgres_opt(own->env)->password_file;
    char password[1024] = "";
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
    keys[n] = "password"; /* of a file that cannot be read now the password that we had */
    if (file != NULL && ss_password_read(file, "SS-PG-0002", password, sizeof password, NULL) == SS_OK)
        values[n++] = password;
    keys[n] = values[n] = NULL;
    PGconn *beside = ss_postgres_connect_steps(keys, values, 0, REACH_MS, &late);
    PQconninfoFree(given);
    explicit_bzero(password, sizeof password);
    ret_sqlstate[0] = '\0';
    if (beside != NULL && !late && PQstatus(beside) == CONNECTION_OK)
        return beside;
    if (beside != NULL && !late) {
        char said[400];
        ss_postgres_connect_said(PQerrorMessage(beside), ret_sqlstate, said, sizeof said);
    }
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
 * nor for something to do (Activity). But one that makes a slot may wait for WAL, which counts as Client too: on a standby until the
 * primary says which transactions run, again and again. */
static const char working_sql[] =
    "SELECT state = 'active' AND (coalesce(wait_event_type, '') NOT IN ('Client', 'Activity')"
    " OR lower(wait_event) = 'walsenderwaitforwal' AND query LIKE 'CREATE_REPLICATION_SLOT %'), "
    "coalesce(wait_event_type || ' ' || wait_event, state, 'unknown') FROM pg_catalog.pg_stat_activity WHERE pid = $1::int4";

void ss_postgres_link_known(PGconn *conn, int pid) {
    session *own = PQinstanceData(conn, session_event);
    own->hidden = pid != PQbackendPID(conn);
}

/* A server that refuses us proves nothing of the session that we have, and to end a good one would help nobody: we should be
 * refused as well. But it is no sign of life either. Only one that is full is waited for: it lets us ask when there is room. */
static bool refused(session *own, const char *sqlstate, char *ret_why, size_t size) {
    if (sqlstate[0] == '\0') {
        snprintf(ret_why, size, "the server cannot be reached");
        return true;
    }
    snprintf(ret_why, size, "the server is there, but refuses to be asked why (SQLSTATE %s)", sqlstate);
    own->refusals += strncmp(sqlstate, "53", 2) != 0;
    return own->refusals >= REFUSALS_MOST;
}

bool ss_postgres_link_lost(PGconn *conn, char *ret_why, size_t size) {
    session *own = PQinstanceData(conn, session_event);
    char pid[16], sqlstate[6];
    PGconn *beside = connect_beside(conn, own, sqlstate);
    if (beside == NULL)
        return refused(own, sqlstate, ret_why, size);
    own->refusals = 0;
    if (own->hidden) {
        PQfinish(beside);
        snprintf(ret_why, size, "the server is there, but a pooler hides which of its processes is ours");
        return false;
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

ss_status ss_postgres_link_look(PGconn *conn, const char *what, bool say, int64_t *heard, ss_error *reterr) {
    char why[200];
    int64_t now = ss_postgres_now_ms();
    if (now - *heard < SS_LINK_DEAD_MS)
        return SS_OK;
    int seconds = (int)((now - *heard) / 1000);
    if (!ss_postgres_link_lost(conn, why, sizeof why)) {
        if (say)
            SS_LOG(SS_INFO, "source_takes_long", SS_S("step", what), SS_I("seconds", seconds), SS_S("found", why));
        *heard = ss_postgres_now_ms();
        return SS_OK;
    }
    /* Nobody uses it again by mistake: to libpq it is closed now. */
    (void)shutdown(PQsocket(conn), SHUT_RDWR);
    (void)PQconsumeInput(conn);
    return ss_fail(reterr, SS_RETRY, "SS-PG-0115", "cannot %s: the source has said nothing for %d s, and %s", what, seconds, why);
}

/* Waits for more. `heard` is when something came last, or was asked. What TLS has read already shows at no socket: so it is looked
 * for in turns. *ret_broken: no more will come, and libpq knows why. It has no socket then, so nothing would ever wake us. */
static ss_status idle(PGconn *conn, const char *what, int64_t *heard, bool *ret_broken, ss_error *reterr) {
    struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
    if (PQstatus(conn) != CONNECTION_BAD && poll(&fd, 1, PQsslInUse(conn) ? TLS_LOOK_MS : SS_LINK_DEAD_MS) > 0)
        *heard = ss_postgres_now_ms();
    *ret_broken = PQstatus(conn) == CONNECTION_BAD || PQconsumeInput(conn) == 0;
    return *ret_broken ? SS_OK : ss_postgres_link_look(conn, what, true, heard, reterr);
}

ss_status ss_postgres_await_result(PGconn *conn, const char *what, ss_error *reterr) {
    int64_t heard = ss_postgres_now_ms();
    ss_status status = SS_OK;
    bool broken = false;
    while (status == SS_OK && !broken && PQisBusy(conn))
        status = idle(conn, what, &heard, &broken, reterr);
    return status;
}

/* PQgetCopyData does not look at the connection: of a broken one it says for ever that no row has come yet. */
ss_status ss_postgres_await_row(PGconn *conn, const char *what, char **ret, int *ret_len, ss_error *reterr) {
    int64_t heard = 0;
    ss_status status = SS_OK;
    bool broken = false;
    while (status == SS_OK && (*ret_len = PQgetCopyData(conn, ret, 1)) == 0) {
        if (broken) {
            *ret_len = -2;
            break;
        }
        heard = heard == 0 ? ss_postgres_now_ms() : heard;
        status = idle(conn, what, &heard, &broken, reterr);
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
