/* The target's connection: options, session settings, the lock that keeps a route alone, plain
 * statements, the vtable. */
#include "target_postgres.h"

#include "sidespool/dsn.h"
#include "sidespool/link.h"
#include "sidespool/log.h"
#include "sidespool/password.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

const ss_option ss_tgt_option_table[] = {
    {.key = "dsn",
     .type = SS_OPT_STRING,
     .offset = offsetof(ss_tgt_options, dsn),
     .required = true,
     .place_offset = offsetof(ss_tgt_options, dsn_place),
     .help =
         "Connection string of the target database (libpq keywords or URI), without the password."},
    {.key = "password_file",
     .type = SS_OPT_STRING,
     .offset = offsetof(ss_tgt_options, password_file),
     .help = "File with the password in its first line; a name without a slash is looked up in "
             "systemd's credentials. Otherwise libpq's own means (.pgpass) are used."},
    {.key = "connect_timeout",
     .type = SS_OPT_DURATION,
     .offset = offsetof(ss_tgt_options, connect_timeout),
     .deflt = "10s",
     .min = 1000,
     .max = 3600000,
     .help = "How long connecting to one address may take."},
    {.key = "lock_timeout",
     .type = SS_OPT_DURATION,
     .offset = offsetof(ss_tgt_options, lock_timeout),
     .deflt = "60s",
     .min = 100,
     .max = 86400000,
     .help = "How long a statement waits for another session's lock before the batch is rolled "
             "back and tried again."},
    {0},
};

/* ---- connecting
 * ----------------------------------------------------------------------------------------------------
 */
ss_status ss_tgt_configured(const void *options, ss_place *ret_place, ss_error *reterr) {
    const ss_tgt_options *mine = options;
    const char *complaint = ss_dsn_complaint(mine->dsn, mine->password_file != NULL);
    *ret_place = mine->dsn_place;
    return complaint == NULL ? SS_OK
                             : ss_fail(reterr, SS_STOP, "SS-TGT-0020", "`postgres.dsn` %s", complaint);
}

ss_status ss_tgt_connect(const ss_tgt_options *options, const char *purpose, PGconn **ret,
                         ss_error *reterr) {
    /* Here too, because libpq's complaint about it would hold the password. */
    ss_place unused;
    ss_status parsed = ss_tgt_configured(options, &unused, reterr);
    if (parsed != SS_OK)
        return parsed;
    char password[1024] = "", timeout[24], application[64];
    snprintf(timeout, sizeof timeout, "%llu",
             (unsigned long long)(options->connect_timeout + 999) / 1000);
    snprintf(application, sizeof application, "sidespool-%s", purpose);
    const char *keys[SS_LINK_PARAMS + 8], *values[SS_LINK_PARAMS + 8];
    size_t n = ss_link_params(keys, values);
#define PARAM(k, v) (keys[n] = (k), values[n++] = (v))
    PARAM("dbname", options->dsn);
    if (options->password_file != NULL) {
        ss_status status = ss_password_read(options->password_file, "SS-TGT-0015", password,
                                            sizeof password, reterr);
        if (status != SS_OK)
            return status;
        PARAM("password", password);
    }
    PARAM("client_encoding", "UTF8");
    PARAM("application_name", application);
    PARAM("connect_timeout", timeout);
#undef PARAM
    keys[n] = values[n] = NULL;
    PGconn *conn = PQconnectdbParams(keys, values, 1);
    explicit_bzero(password, sizeof password);
    if (conn == NULL)
        return ss_tgt_nomem(reterr);
    if (PQstatus(conn) != CONNECTION_OK) {
        char text[300];
        snprintf(text, sizeof text, "%s", PQerrorMessage(conn));
        text[strcspn(text, "\n")] = '\0';
        PQfinish(conn);
        return ss_fail(reterr, SS_RETRY, "SS-TGT-0001",
                       "The target cannot be connected to (%s); it is tried again.", text);
    }
    *ret = conn;
    return SS_OK;
}

/* Values travel as text between two servers, so everything that text depends on is pinned. Plans:
 * parameters are arrays of any length, and a custom plan for each length would cost more than it
 * finds; keys are always looked up by their index. */
bool ss_tgt_pin(PGconn *conn, uint64_t lock_timeout, PGresult **ret_refused) {
    char sql[1800];
    int version = PQserverVersion(conn);
    snprintf(
        sql, sizeof sql,
        "SET client_encoding = 'UTF8'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = "
        "'postgres'; SET TimeZone = 'UTC';"
        "SET extra_float_digits = 3; SET bytea_output = 'hex'; SET search_path = pg_catalog; "
        "SET lc_monetary = 'C';"
        "SET xmloption = 'content'; SET row_security = off; SET standard_conforming_strings = "
        "on; SET statement_timeout = 0;"
        "SET idle_in_transaction_session_timeout = 0; SET lock_timeout = %llu;"
        "SET synchronous_commit = on; SET default_transaction_isolation = 'read committed';"
        "SET check_function_bodies = off; SET client_min_messages = warning;"
        "SET quote_all_identifiers = off; SET array_nulls = on; SET transform_null_equals = off;"
        "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 2; SET "
        "tcp_keepalives_count = 5;%s%s%s%s",
        (unsigned long long)lock_timeout, version >= 110000 ? "SET jit = off;" : "",
        version >= 120000
            ? "SET tcp_user_timeout = 20000; SET plan_cache_mode = force_generic_plan;"
            : "",
        version >= 140000
            ? "SET client_connection_check_interval = 5000; SET idle_session_timeout = 0;"
            : "",
        version >= 170000 ? "SET transaction_timeout = 0;" : "");
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) == PGRES_COMMAND_OK) {
        PQclear(res);
        return true;
    }
    *ret_refused = res;
    return false;
}

/* Key look-ups go by the index, whatever the planner thinks of a table that was never analyzed. For
 * the time of the set-wise statements only those connections exist on which nothing else runs, so
 * it is set for the session. */
static const char PLANNER[] =
    "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off";

/* A lock for the session's life. It does two things. Two appliers of one route exclude each other.
 * And after a COMMIT whose answer was lost, the old session may still be committing when we are
 * back: only when it has gone, and with it its lock, is the progress row that we read the final
 * word. So a batch is applied exactly once: if the row says that it is in, it is; if not, the old
 * session has ended without it, and nothing can bring it in later. */
static ss_status alone(ss_target *t, ss_error *reterr) {
    const char *values[] = {t->env->route};
    for (int attempt = 0; attempt < 40; attempt++) {
        PGresult *res = NULL;
        ss_status status = ss_tgt_query(t, "lock of the route",
                                        "SELECT pg_try_advisory_lock(('x' || "
                                        "substr(md5('sidespool.' || $1), 1, 16))::bit(64)::bigint)",
                                        1, values, &res, reterr);
        if (status != SS_OK)
            return status;
        bool got = PQgetvalue(res, 0, 0)[0] == 't';
        PQclear(res);
        if (got)
            return SS_OK;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return ss_fail(
        reterr, SS_RETRY, "SS-TGT-0002",
        "Another session on the target still holds route %s (an applier that runs elsewhere, or a "
        "connection that the server has not yet found dead); it is tried again.",
        t->env->route);
}

static ss_status fit(ss_target *t, ss_error *reterr) {
    t->version = PQserverVersion(t->conn);
    if (t->version < 100000)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0003",
                       "The target is PostgreSQL %s; 10 or later is needed.",
                       PQparameterStatus(t->conn, "server_version"));
    PGresult *res = NULL;
    if (!ss_tgt_pin(t->conn, t->options->lock_timeout, &res)) {
        ss_status status = ss_tgt_error(t->conn, res, "session settings", reterr);
        PQclear(res);
        return status;
    }
    const char *encoding = PQparameterStatus(t->conn, "server_encoding");
    if (encoding == NULL || strcmp(encoding, "UTF8") != 0)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0003",
                       "The target database has encoding %s; UTF8 is needed (CREATE DATABASE … "
                       "ENCODING 'UTF8' TEMPLATE template0).",
                       encoding != NULL ? encoding : "unknown");
    ss_status status = ss_tgt_exec(t, "session settings", PLANNER, reterr);
    if (status != SS_OK)
        return status;
    res = PQexec(t->conn, "SET session_replication_role = replica");
    t->replica = PQresultStatus(res) == PGRES_COMMAND_OK;
    bool lost = PQstatus(t->conn) != CONNECTION_OK;
    if (lost)
        status = ss_tgt_error(t->conn, res, "session settings", reterr);
    PQclear(res);
    /* So that messages are the documented ones. A superuser's right: nothing depends on it. */
    if (!lost)
        PQclear(PQexec(t->conn, "SET lc_messages = 'C'"));
    /* A larger one makes index builds faster; a refusal would be a server with a lower limit. */
    return status != SS_OK
               ? status
               : ss_tgt_exec(t, "session settings", "SET maintenance_work_mem = '128MB'", reterr);
}

static void tgt_close(ss_target *t) {
    if (t == NULL)
        return;
    ss_tgt_stmts_forget(t);
    ss_tgt_tables_forget(t);
    ss_tgt_queries_forget(t);
    ss_tgt_link_free(t->link);
    PQfinish(t->conn);
    ss_buf_done(&t->sql);
    ss_buf_done(&t->key);
    ss_buf_done(&t->params);
    ss_buf_done(&t->text);
    free(t->values);
    free(t->lengths);
    free(t->formats);
    free(t->answers);
    free(t);
}

/* Notices go nowhere: "relation already exists, skipping" and the like are of no use in a log. */
static void quiet(void *ctx, const PGresult *res) {
    (void)ctx;
    (void)res;
}

static ss_status tgt_open(const ss_target_env *env, ss_target **ret, ss_error *reterr) {
    ss_target *t = calloc(1, sizeof *t);
    if (t == NULL)
        return ss_tgt_nomem(reterr);
    t->env = env;
    t->options = env->options;
    ss_status status = ss_tgt_connect(t->options, env->route, &t->conn, reterr);
    if (status == SS_OK) {
        PQsetNoticeReceiver(t->conn, quiet, NULL);
        status = ss_tgt_link_watch(t->conn, env->route, &t->link, reterr);
    }
    if (status == SS_OK)
        status = fit(t, reterr);
    if (status == SS_OK)
        status = alone(t, reterr);
    if (status == SS_OK)
        status = ss_tgt_bookkeeping(t, reterr);
    if (status != SS_OK) {
        tgt_close(t);
        return status;
    }
    if (!t->replica)
        SS_LOG(SS_WARN, "target_without_replica_role", SS_S("route", env->route),
               SS_S("remedy", "GRANT SET ON PARAMETER session_replication_role TO the route's role "
                              "(15+); tables with triggers are refused"));
    *ret = t;
    return SS_OK;
}

/* ---- plain statements
 * ------------------------------------------------------------------------------------------------
 */
ss_status ss_tgt_exec(ss_target *t, const char *what, const char *sql, ss_error *reterr) {
    PGresult *res = PQexec(t->conn, sql);
    ExecStatusType got = PQresultStatus(res);
    ss_status status = SS_OK;
    if (got != PGRES_COMMAND_OK && got != PGRES_TUPLES_OK && got != PGRES_EMPTY_QUERY)
        status = ss_tgt_error(t->conn, res, what, reterr);
    PQclear(res);
    return status;
}

void ss_tgt_queries_forget(ss_target *t) {
    for (size_t i = 0; i < t->query_count; i++)
        free(t->queries[i]);
    t->query_count = 0;
}

/* The answer to a fixed text with parameters, which the server holds from its first use on. */
static PGresult *ask_prepared(ss_target *t, const char *sql, int count, const char *const *values) {
    char name[24];
    size_t at = 0;
    while (at < t->query_count && strcmp(t->queries[at], sql) != 0)
        at++;
    snprintf(name, sizeof name, "q%zu", at);
    if (at == t->query_count) {
        char *own = at < SS_TGT_QUERIES ? strdup(sql) : NULL;
        if (own == NULL)
            return PQexecParams(t->conn, sql, count, NULL, values, NULL, NULL, 0);
        PGresult *res = PQprepare(t->conn, name, sql, count, NULL);
        if (PQresultStatus(res) != PGRES_COMMAND_OK) {
            free(own);
            return res;
        }
        PQclear(res);
        t->queries[t->query_count++] = own;
    }
    return PQexecPrepared(t->conn, name, count, values, NULL, NULL, 0);
}

ss_status ss_tgt_query(ss_target *t, const char *what, const char *sql, int count,
                       const char *const *values, PGresult **ret, ss_error *reterr) {
    PGresult *res = count > 0 ? ask_prepared(t, sql, count, values)
                              : PQexecParams(t->conn, sql, 0, NULL, NULL, NULL, NULL, 0);
    ExecStatusType got = PQresultStatus(res);
    if (got != PGRES_COMMAND_OK && got != PGRES_TUPLES_OK) {
        ss_status status = ss_tgt_error(t->conn, res, what, reterr);
        PQclear(res);
        return status;
    }
    if (ret != NULL)
        *ret = res;
    else
        PQclear(res);
    return SS_OK;
}

ss_status ss_tgt_begin(ss_target *t, ss_error *reterr) {
    return ss_tgt_exec(t, "BEGIN", "BEGIN; SET CONSTRAINTS ALL DEFERRED", reterr);
}

/* When the answer is lost, whether it was committed is read from the progress row after connecting
 * again (see alone()). */
ss_status ss_tgt_commit(ss_target *t, ss_error *reterr) {
    PGresult *res = PQexec(t->conn, "COMMIT");
    ss_status status = SS_OK;
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        const char *constraint = PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME);
        if (constraint != NULL && !ss_tgt_from_user_code(res))
            status = ss_fail(
                reterr, SS_STOP, "SS-TGT-0017",
                "COMMIT: constraint %s on %s, deferred to the end, is not satisfied: the copy was "
                "written by somebody else or has a constraint that the source has not.",
                constraint,
                PQresultErrorField(res, PG_DIAG_TABLE_NAME) != NULL
                    ? PQresultErrorField(res, PG_DIAG_TABLE_NAME)
                    : "a table");
        else
            status = ss_tgt_error(t->conn, res, "COMMIT", reterr);
    } else if (strcmp(PQcmdStatus(res), "COMMIT") != 0) {
        status = ss_fail(reterr, SS_RETRY, "SS-TGT-0005",
                         "The target rolled the transaction back at COMMIT; it is tried again.");
    }
    PQclear(res);
    return status;
}

void ss_tgt_put_ident(ss_buf *out, const char *name) {
    ss_buf_put_byte(out, '"');
    for (const char *p = name; *p != '\0'; p++) {
        if (*p == '"')
            ss_buf_put_byte(out, '"');
        ss_buf_put_byte(out, (uint8_t)*p);
    }
    ss_buf_put_byte(out, '"');
}

void ss_tgt_put_literal(ss_buf *out, const char *value) {
    ss_buf_put_byte(out, '\'');
    for (const char *p = value; *p != '\0'; p++) {
        if (*p == '\'')
            ss_buf_put_byte(out, '\'');
        ss_buf_put_byte(out, (uint8_t)*p);
    }
    ss_buf_put_byte(out, '\'');
}

const ss_target_ops ss_target_postgres = {
    .name = "postgres",
    .options = ss_tgt_option_table,
    .options_size = sizeof(ss_tgt_options),
    .configured = ss_tgt_configured,
    .check = ss_tgt_check,
    .open = tgt_open,
    .close = tgt_close,
    .server = ss_tgt_server,
    .progress = ss_tgt_progress,
    .states = ss_tgt_states,
    .apply = ss_tgt_apply,
    .rollback = ss_tgt_rollback,
    .copy_begin = ss_tgt_copy_begin,
    .copy_object = ss_tgt_copy_object,
    .copy_rows = ss_tgt_copy_rows,
    .copy_flush = ss_tgt_copy_flush,
    .copy_table = ss_tgt_copy_table,
    .copy_replace = ss_tgt_copy_replace,
    .finish = ss_tgt_finish,
    .compare_schema = ss_tgt_compare,
    .digest_open = ss_tgt_digest_open,
    .digest = ss_tgt_digest,
    .digest_rows = ss_tgt_digest_rows,
    .digest_close = ss_tgt_digest_close,
};
