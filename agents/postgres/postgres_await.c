/* Commands that wait for the source's transactions: making a slot ends only when all that run have
 * ended, and that can be hours. So nobody sleeps in libpq here: the answer is waited for beside the
 * agent's stop, and within a limit where somebody else waits meanwhile (a snapshot is opened while
 * capture is held).
 *
 * Given up means cancelled at the server: it does not notice a closed connection while it waits,
 * and would go on to hold WAL, a slot and a walsender. Any thread; the connection is its own. */
#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_link.h"
#include "agents/postgres/postgres_stream.h"
#include "sidespool/log.h"
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#define SAY_MS 1000 /* between two words about what is waited for */
#define LOG_FIRST_MS 2000
#define LOG_MS 30000

/* Writing transactions of all databases, and prepared ones. Whose age a role may not see has none.
 */
static const char oldest_sql[] =
    "SELECT count(*), (array_agg(who ORDER BY since))[1], extract(epoch FROM now() - "
    "min(since))::int8 FROM ("
    "SELECT 'pid ' || pid, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid "
    "<> pg_backend_pid()"
    " UNION ALL SELECT 'prepared transaction ' || quote_literal(left(gid, 60)), prepared FROM "
    "pg_prepared_xacts) a(who, since)";

/* What the command waits for, for people; false when the source does not say. */
static bool oldest(const ss_source_env *env, PGconn **conn, char *ret, size_t size) {
    ss_error err;
    PGresult *res;
    if (*conn == NULL && ss_postgres_connect(env, false, conn, &err) != SS_OK)
        return false;
    if (ss_postgres_query(*conn, "read what is waited for", oldest_sql, 0, NULL, PGRES_TUPLES_OK,
                          &res, &err) != SS_OK) {
        PQfinish(*conn);
        *conn = NULL;
        return false;
    }
    const char *count = ss_postgres_value(res, 0, 0), *age = ss_postgres_value(res, 0, 2);
    bool any = strcmp(count, "0") != 0;
    if (any)
        snprintf(
            ret, size,
            "the source's running transactions have to end first: %s, the oldest %s%s%s (%.80s)",
            count, *age ? "runs for " : "of unknown age", age, *age ? " s" : "",
            ss_postgres_value(res, 0, 1));
    PQclear(res);
    return any;
}

static void cancel(PGconn *conn) {
    char why[256];
    PGcancel *request = PQgetCancel(conn);
    if (request != NULL && PQcancel(request, why, sizeof why) != 1)
        SS_LOG(SS_WARN, "cancel_failed",
               SS_S("remedy", "the source's process ends by itself with what it waits for"));
    PQfreeCancel(request);
}

typedef struct {
    const ss_postgres_await *await;
    PGconn *asks; /* a session of its own for `oldest` */
    int64_t start_ms, said_ms, logged_ms, heard_ms;
    char waits_for[256];
} awaiting;

/* About once a second. False: nobody wants it any more. */
static bool say(awaiting *a, int64_t now) {
    const ss_postgres_await *await = a->await;
    if (now - a->said_ms < SAY_MS)
        return true;
    a->said_ms = now;
    if (!oldest(await->env, &a->asks, a->waits_for, sizeof a->waits_for))
        snprintf(a->waits_for, sizeof a->waits_for, "the source has not answered yet");
    if (now - a->logged_ms >= (a->logged_ms == a->start_ms ? LOG_FIRST_MS : LOG_MS)) {
        a->logged_ms = now;
        SS_LOG(SS_INFO, "source_waits", SS_S("step", await->what), SS_S("reason", a->waits_for),
               SS_I("seconds", (now - a->start_ms) / 1000));
    }
    return await->say == NULL || await->say(await->ctx, a->waits_for);
}

static ss_status wait_for(awaiting *a, PGconn *conn, ss_error *reterr) {
    const ss_postgres_await *await = a->await;
    while (PQisBusy(conn)) {
        struct pollfd fds[2] = {
            {.fd = PQsocket(conn), .events = POLLIN},
            {.fd = await->env->stop_fd > 0 ? await->env->stop_fd : -1, .events = POLLIN}};
        int64_t now = ss_postgres_now_ms();
        int64_t left = await->most_ms > 0 ? a->start_ms + await->most_ms - now : 500;
        if (left > 0 && poll(fds, 2, left < 500 ? (int)left : 500) > 0 && fds[0].revents != 0) {
            a->heard_ms = ss_postgres_now_ms();
            if (PQconsumeInput(conn) == 0)
                return ss_postgres_fail(reterr, await->code, __func__, conn, NULL, "cannot %s",
                                        await->what);
        }
        if (fds[1].revents != 0 || (await->say != NULL && !say(a, ss_postgres_now_ms()))) {
            cancel(conn);
            return ss_fail(reterr, SS_RETRY, "SS-PG-0110", "given up: %s is not wanted any more",
                           await->what);
        }
        if (await->most_ms > 0 && left <= 0) {
            cancel(conn);
            return ss_fail(reterr, SS_BUSY, "SS-PG-0110", "to %s took more than %" PRId64 " ms; %s",
                           await->what, await->most_ms,
                           "transactions that began since are waited for first");
        }
        /* The answer may have been lost on its way: then the server waits for us. What it is waited
         * for is said above already. */
        ss_status status = ss_postgres_link_look(conn, await->what, false, &a->heard_ms, reterr);
        if (status != SS_OK)
            return status;
    }
    return SS_OK;
}

ss_status ss_postgres_await_query(const ss_postgres_await *await, PGconn *conn, const char *sql,
                                  PGresult **ret, ss_error *reterr) {
    awaiting a = {.await = await, .start_ms = ss_postgres_now_ms()};
    a.said_ms = a.logged_ms = a.heard_ms = a.start_ms;
    if (PQsendQuery(conn, sql) != 1)
        return ss_postgres_fail(reterr, await->code, __func__, conn, NULL, "cannot %s",
                                await->what);
    ss_status status = wait_for(&a, conn, reterr);
    PQfinish(a.asks);
    if (status != SS_OK)
        return status;
    PGresult *res = PQgetResult(conn), *more;
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        status =
            ss_postgres_fail(reterr, await->code, __func__, conn, res, "cannot %s", await->what);
        PQclear(res);
        return status;
    }
    while ((more = PQgetResult(conn)) != NULL)
        PQclear(more);
    *ret = res;
    return SS_OK;
}
