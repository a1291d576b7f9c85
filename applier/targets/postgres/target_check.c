/* --check of a PostgreSQL target: every precondition, one line each, and how to mend it. Changes
 * nothing. */
#include "target_postgres.h"

#include "sidespool/dsn.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    const ss_target_env *env;
    PGconn *conn;
    ss_check_line line;
    void *ctx;
} check;

static ss_status ask(check *c, const char *sql, int count, const char *const *values,
                     PGresult **ret, ss_error *reterr) {
    PGresult *res = PQexecParams(c->conn, sql, count, NULL, values, NULL, NULL, 0);
    if (PQresultStatus(res) != PGRES_TUPLES_OK) {
        ss_status status = ss_tgt_error(c->conn, res, "checking the target", reterr);
        PQclear(res);
        return status;
    }
    *ret = res;
    return SS_OK;
}

/* "15.18 (Debian 15.18-0+deb12u1)": whoever packed it matters to nobody who reads a status. */
void ss_tgt_server(const ss_target *t, char *ret, size_t size) {
    const char *version = PQparameterStatus(t->conn, "server_version");
    if (version == NULL)
        version = "of unknown version";
    snprintf(ret, size, "PostgreSQL %.*s", (int)strcspn(version, " "), version);
}

static ss_status server(check *c, ss_error *reterr) {
    char found[160];
    int version = PQserverVersion(c->conn);
    snprintf(found, sizeof found, "PostgreSQL %s", PQparameterStatus(c->conn, "server_version"));
    c->line(c->ctx, version >= 100000, "target version", found,
            version >= 100000 ? "" : "PostgreSQL 10 or later is needed");
    const char *encoding = PQparameterStatus(c->conn, "server_encoding");
    bool utf8 = encoding != NULL && strcmp(encoding, "UTF8") == 0;
    c->line(c->ctx, utf8, "target encoding", encoding != NULL ? encoding : "unknown",
            utf8 ? "" : "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0");
    PGresult *res = NULL;
    ss_status status =
        ask(c,
            "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only'), "
            "(extract(epoch FROM clock_timestamp())::numeric * 1000000)::bigint",
            0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    bool standby = PQgetvalue(res, 0, 0)[0] == 't',
         read_only = strcmp(PQgetvalue(res, 0, 1), "on") == 0;
    c->line(c->ctx, !standby && !read_only, "target takes writes",
            standby     ? "a standby"
            : read_only ? "default_transaction_read_only"
                        : "yes",
            standby     ? "point the dsn at the primary"
            : read_only ? "ALTER DATABASE … RESET default_transaction_read_only"
                        : "");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double apart = ((double)strtoll(PQgetvalue(res, 0, 2), NULL, 10) / 1e6) -
                   ((double)now.tv_sec + (double)now.tv_nsec / 1e9);
    PQclear(res);
    snprintf(found, sizeof found, "%.1f s apart", apart);
    bool close = apart > -5 && apart < 5;
    c->line(c->ctx, close, "target clock", found,
            close ? "" : "let both hosts keep time (NTP): freshness is told by the clock");
    return SS_OK;
}

static ss_status rights(check *c, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ask(c,
                           "SELECT has_database_privilege(current_database(), 'CREATE'), "
                           "current_database(), current_user, "
                           "to_regclass('sidespool.version') IS NOT NULL, EXISTS (SELECT FROM "
                           "pg_namespace WHERE nspname = 'sidespool')",
                           0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    char remedy[300];
    bool create = PQgetvalue(res, 0, 0)[0] == 't', ours = PQgetvalue(res, 0, 3)[0] == 't',
         schema = PQgetvalue(res, 0, 4)[0] == 't';
    snprintf(remedy, sizeof remedy, "GRANT CREATE ON DATABASE \"%s\" TO \"%s\"",
             PQgetvalue(res, 0, 1), PQgetvalue(res, 0, 2));
    c->line(c->ctx, create, "right to create schemas", create ? "yes" : "no", create ? "" : remedy);
    bool fits = ours || !schema;
    char found[100];
    snprintf(found, sizeof found, "%s",
             ours     ? "there"
             : schema ? "a foreign schema sidespool"
                      : "will be made");
    char user[80];
    snprintf(user, sizeof user, "%s", PQgetvalue(res, 0, 2));
    PQclear(res);
    if (ours) {
        status = ask(c, "SELECT max(version) FROM sidespool.version", 0, NULL, &res, reterr);
        if (status != SS_OK)
            return status;
        fits = atoi(PQgetvalue(res, 0, 0)) == SS_TGT_BOOKKEEPING;
        snprintf(found, sizeof found, "version %s", PQgetvalue(res, 0, 0));
        PQclear(res);
    }
    c->line(c->ctx, fits, "bookkeeping", found,
            fits   ? ""
            : ours ? "run the version that made it, or a later one"
                   : "rename that schema");
    res = PQexec(c->conn, "SET session_replication_role = replica");
    bool replica = PQresultStatus(res) == PGRES_COMMAND_OK;
    PQclear(res);
    if (PQserverVersion(c->conn) >= 150000)
        snprintf(remedy, sizeof remedy,
                 "GRANT SET ON PARAMETER session_replication_role TO \"%s\"; without it, tables "
                 "with triggers or foreign keys are refused",
                 user);
    else
        snprintf(remedy, sizeof remedy,
                 "use a superuser; without it, tables with triggers or foreign keys are refused");
    c->line(c->ctx, true, "session_replication_role", replica ? "replica" : "not allowed",
            replica ? "" : remedy);
    if (replica)
        c->line(c->ctx, true, "deferrable unique constraints",
                "not rechecked while the role is replica",
                "the source has checked its rows; verify finds what somebody else wrote");
    return SS_OK;
}

/* Tables that hold rows and are no route's. Which of them the copy needs, only the source's
 * selection says: all are named. */
static ss_status strangers(check *c, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status =
        ask(c, "SELECT to_regclass('sidespool.table_state') IS NOT NULL", 0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    bool ours = PQgetvalue(res, 0, 0)[0] == 't';
    PQclear(res);
    const char *values[] = {c->env->route};
    status = ask(
        c,
        ours ? "SELECT string_agg(q, ', ') FROM (SELECT n.nspname || '.' || r.relname AS q FROM "
               "pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace "
               "WHERE r.relkind IN ('r', 'p') AND NOT r.relispartition AND n.nspname NOT IN "
               "('pg_catalog', 'information_schema', 'sidespool') AND n.nspname NOT LIKE 'pg\\_%' "
               "AND (SELECT pg_relation_size(r.oid)) > 0 AND NOT EXISTS (SELECT FROM "
               "sidespool.table_state s WHERE s.ns = n.nspname AND s.name = r.relname) "
               "ORDER BY 1 LIMIT 20) x WHERE $1::text IS NOT NULL"
             : "SELECT string_agg(q, ', ') FROM (SELECT n.nspname || '.' || r.relname AS q FROM "
               "pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace "
               "WHERE r.relkind IN ('r', 'p') AND NOT r.relispartition AND n.nspname NOT IN "
               "('pg_catalog', 'information_schema', 'sidespool') AND n.nspname NOT LIKE 'pg\\_%' "
               "AND (SELECT pg_relation_size(r.oid)) > 0 ORDER BY 1 LIMIT 20) x WHERE $1::text IS "
               "NOT NULL",
        1, values, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQgetisnull(res, 0, 0))
        c->line(c->ctx, true, "target tables of others", "none", "");
    else
        c->line(c->ctx, true, "target tables of others", PQgetvalue(res, 0, 0),
                c->env->adopt ? "adopt: true: those that the source selects will be emptied"
                              : "those that the source selects will be refused: empty or drop "
                                "them, or set adopt: true");
    PQclear(res);
    return SS_OK;
}

ss_status ss_tgt_check(const ss_target_env *env, ss_check_line line, void *ctx, ss_error *reterr) {
    check c = {.env = env, .line = line, .ctx = ctx};
    ss_error why = {0};
    bool password = false;
    ss_dsn_verdict verdict = ss_dsn_judge(((const ss_tgt_options *)env->options)->dsn, &password);
    if (verdict == SS_DSN_GOOD && password)
        line(ctx, true, "target password", "in the dsn",
             "move it to password_file: the configuration file is read by more people and tools");
    ss_status status = ss_tgt_connect(env->options, env->route, &c.conn, &why);
    line(ctx, status == SS_OK, "target reachable", status == SS_OK ? "yes" : why.text,
         status == SS_OK ? "" : "look at the dsn, the server and its pg_hba.conf");
    if (status != SS_OK)
        return SS_OK; /* the line has said it */
    PGresult *refused = NULL;
    if (!ss_tgt_pin(c.conn, 10000, &refused)) {
        status = ss_tgt_error(c.conn, refused, "session settings", reterr);
        PQclear(refused);
    }
    if (status == SS_OK)
        status = server(&c, reterr);
    if (status == SS_OK)
        status = rights(&c, reterr);
    if (status == SS_OK)
        status = strangers(&c, reterr);
    PQfinish(c.conn);
    return status;
}
