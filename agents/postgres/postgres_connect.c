/* connect: a session whose text output means the same on every server, and errors that say what a
 * person has to do.
 *
 * Any thread; a connection belongs to the thread that made it. */
#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_link.h"
#include "sidespool/dsn.h"
#include "sidespool/link.h"
#include "sidespool/log.h"
#include "sidespool/password.h"
#include "sidespool/server_message.h"
#include "sidespool/text.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define OPT(member) offsetof(struct ss_postgres_options, member)
const ss_option ss_postgres_options_table[] = {
    {.key = "dsn",
     .type = SS_OPT_STRING,
     .offset = OPT(dsn),
     .required = true,
     .place_offset = OPT(dsn_place),
     .help = "How to reach the source database, as a libpq connection string or URI; it names "
             "exactly one database."},
    {.key = "publication",
     .type = SS_OPT_STRING,
     .offset = OPT(publication),
     .place_offset = OPT(publication_place),
     .help = "The publication; made when missing. Default: sidespool_ and the source's name."},
    {.key = "slot",
     .type = SS_OPT_STRING,
     .offset = OPT(slot),
     .place_offset = OPT(slot_place),
     .help = "The logical replication slot; made at the first start. Default: sidespool_ and the "
             "source's name."},
    {.key = "password_file",
     .type = SS_OPT_STRING,
     .offset = OPT(password_file),
     .help = "File with the password in its first line; a name without a slash is looked up in "
             "systemd's credentials."},
    {.key = "connect_timeout",
     .type = SS_OPT_DURATION,
     .offset = OPT(connect_timeout),
     .deflt = "10s",
     .min = 1000,
     .max = 3600000,
     .help = "How long one attempt to connect may take."},
    {.key = NULL},
};

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- names and LSNs
 * --------------------------------------------------------------------------------------------- */

static ss_status name_fill(char ret[64], const char *given, const ss_source_env *env,
                           const char *what, ss_error *reterr) {
    int len = given ? snprintf(ret, 64, "%s", given) : snprintf(ret, 64, "sidespool_%s", env->name);
    if (len > 0 && len < 64)
        return SS_OK;
    if (given)
        return ss_fail(reterr, SS_STOP, "SS-PG-0004",
                       "`postgres.%s` has %d bytes, PostgreSQL allows 1 to 63; choose another name",
                       what, len);
    return ss_fail(reterr, SS_STOP, "SS-PG-0004",
                   "the name of the %s would be sidespool_ and the source's name, %d bytes, and "
                   "PostgreSQL allows 63; set `postgres.%s`",
                   what, len, what);
}

static ss_status slot_fill(char ret[64], const struct ss_postgres_options *opt,
                           const ss_source_env *env, ss_error *reterr) {
    ss_status status = name_fill(ret, opt->slot, env, "slot", reterr);
    if (status != SS_OK)
        return status;
    for (char *p = ret; !opt->slot && *p; p++) /* source names may hold what a slot's name may not */
        *p = *p == '-' ? '_' : *p;
    if (ret[strspn(ret, "abcdefghijklmnopqrstuvwxyz0123456789_")] != '\0')
        return ss_fail(reterr, SS_STOP, "SS-PG-0004",
                       "`postgres.slot` is \"%s\", and a slot's name may only hold a-z, 0-9 and _; "
                       "choose another name",
                       SS_SHOWN(ret));
    return SS_OK;
}

ss_status ss_postgres_configured(const ss_source_env *env, ss_place *ret_place, ss_error *reterr) {
    const struct ss_postgres_options *opt = ss_postgres_opt(env);
    const char *complaint = ss_dsn_complaint(opt->dsn, opt->password_file != NULL);
    char name[64];
    *ret_place = opt->dsn_place;
    if (complaint)
        return ss_fail(reterr, SS_STOP, "SS-PG-0002", "`postgres.dsn` %s", complaint);
    *ret_place = opt->publication_place;
    ss_status status = name_fill(name, opt->publication, env, "publication", reterr);
    if (status != SS_OK)
        return status;
    *ret_place = opt->slot_place;
    return slot_fill(name, opt, env, reterr);
}

ss_status ss_postgres_names_get(const ss_source_env *env, ss_postgres_names *ret,
                                ss_error *reterr) {
    const struct ss_postgres_options *opt = ss_postgres_opt(env);
    ss_postgres_names out;
    ss_status status = name_fill(out.publication, opt->publication, env, "publication", reterr);
    if (status == SS_OK)
        status = slot_fill(out.slot, opt, env, reterr);
    if (status != SS_OK)
        return status;
    *ret = out;
    return SS_OK;
}

bool ss_postgres_lsn_parse(const char *text, uint64_t *ret) {
    uint64_t half[2] = {0, 0};
    int which = 0, digits = 0;
    for (const char *p = text; *p; p++) {
        int digit = *p >= '0' && *p <= '9'   ? *p - '0'
                    : *p >= 'A' && *p <= 'F' ? *p - 'A' + 10
                    : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10
                                             : -1;
        if (digit >= 0 && ++digits <= 8) {
            half[which] = half[which] << 4 | (uint64_t)digit;
        } else if (*p == '/' && which == 0 && digits > 0) {
            which = 1;
            digits = 0;
        } else {
            return false;
        }
    }
    if (which != 1 || digits == 0)
        return false;
    *ret = half[0] << 32 | half[1];
    return true;
}

void ss_postgres_lsn_text(uint64_t lsn, char *ret, size_t size) {
    /* twice for each transaction, where snprintf would cost more than to decode it */
    char text[18], *at = text + sizeof text;
    *--at = '\0';
    for (int half = 0; half < 2; half++) {
        uint32_t rest = half == 0 ? (uint32_t)lsn : (uint32_t)(lsn >> 32);
        do
            *--at = "0123456789ABCDEF"[rest & 15];
        while ((rest >>= 4) != 0);
        if (half == 0)
            *--at = '/';
    }
    size_t len = (size_t)(text + sizeof text - at);
    if (len <= size)
        memcpy(ret, at, len);
}

const char *ss_postgres_value(const PGresult *res, int row, int column) {
    const char *value = PQgetvalue(res, row, column);
    return value ? value : "";
}

/* ---- errors
 * -----------------------------------------------------------------------------------------------------
 */

ss_status ss_postgres_classify(const char *sqlstate) {
    if (!sqlstate || !*sqlstate)
        return SS_RETRY; /* no word from the server: the link broke */
    static const char *const retry[] = {
        "08",    /* connection exceptions */
        "40",    /* serialization failure, deadlock */
        "53",    /* out of connections, memory, disk: room may come */
        "57",    /* shutting down, starting up, cancelled */
        "58",    /* I/O trouble of the server */
        "55006", /* object in use: the slot is held by another process */
        "55P03", /* lock not available */
        "25006", /* read-only: a failover is going on */
        "25P02", "25P03", "25P04",
    };
    if (strcmp(sqlstate, "57P04") == 0) /* the database was dropped */
        return SS_STOP;
    for (size_t i = 0; i < sizeof retry / sizeof *retry; i++)
        if (strncmp(sqlstate, retry[i], strlen(retry[i])) == 0)
            return SS_RETRY;
    return SS_STOP;
}

static void put_field(char *text, size_t size, const PGresult *res, int field, const char *label) {
    const char *value = PQresultErrorField(res, field);
    size_t len = strlen(text);
    if (value && len < size)
        snprintf(text + len, size - len, ", %s %s", label, value);
}

ss_status ss_postgres_fail(ss_error *reterr, const char *code, const char *where, PGconn *conn,
                           const PGresult *res, const char *fmt, ...) {
    char what[256], said[300], text[SS_ERROR_TEXT] = "";
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    const char *sqlstate = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    if (!sqlstate) {
        /* libpq's own words: about the link. A damaged protocol may quote what it read, so quotes
         * are cut. */
        ss_server_message_cut(conn ? PQerrorMessage(conn) : "no memory", said, sizeof said);
        if (!*said)
            snprintf(said, sizeof said, "the connection was closed");
        return ss_fail_at(reterr, SS_RETRY, code, where, 0, "%s: %s", what, said);
    }
    const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    ss_server_message(sqlstate, primary ? primary : "", said, sizeof said);
    snprintf(text, sizeof text, "%s: %s (SQLSTATE %s", what, said, sqlstate);
    put_field(text, sizeof text, res, PG_DIAG_SCHEMA_NAME, "schema");
    put_field(text, sizeof text, res, PG_DIAG_TABLE_NAME, "table");
    put_field(text, sizeof text, res, PG_DIAG_COLUMN_NAME, "column");
    put_field(text, sizeof text, res, PG_DIAG_CONSTRAINT_NAME, "constraint");
    return ss_fail_at(reterr, ss_postgres_classify(sqlstate), code, where, 0, "%s)", text);
}

/* ---- connecting
 * -------------------------------------------------------------------------------------------------
 */

/* libpq's complaint about a bad dsn quotes it, password and all: it is parsed here first and never
 * repeated. */
static ss_status dsn_check(const char *dsn, bool *ret_many_hosts, ss_error *reterr) {
    char *ignored = NULL;
    errno = 0;
    PQconninfoOption *parts = PQconninfoParse(dsn, &ignored);
    bool memory = errno == ENOMEM;
    if (ignored)
        PQfreemem(ignored);
    if (!parts && memory)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "there is no memory to look at postgres.dsn");
    if (!parts)
        return ss_fail(reterr, SS_STOP, "SS-PG-0002",
                       "postgres.dsn is not a libpq connection string or URI (its text is not "
                       "shown, it may hold a password)");
    *ret_many_hosts = false;
    for (const PQconninfoOption *p = parts; p->keyword; p++) {
        if (!p->val)
            continue;
        if ((strcmp(p->keyword, "host") == 0 || strcmp(p->keyword, "hostaddr") == 0) &&
            strchr(p->val, ','))
            *ret_many_hosts = true;
    }
    PQconninfoFree(parts);
    return SS_OK;
}

/* libpq keeps the SQLSTATE of a refused connection to itself, except in the text of a verbose
 * error: so the connection is made step by step, with the verbosity set before the server can
 * speak. */
PGconn *ss_postgres_connect_steps(const char *const *keys, const char *const *values, int expand,
                                  uint64_t timeout_ms, bool *ret_late) {
    PGconn *conn = PQconnectStartParams(keys, values, expand);
    if (!conn || PQstatus(conn) == CONNECTION_BAD)
        return conn;
    PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
    int64_t deadline = now_ms() + (int64_t)timeout_ms;
    PostgresPollingStatusType step = PGRES_POLLING_WRITING;
    while (step != PGRES_POLLING_OK && step != PGRES_POLLING_FAILED) {
        int64_t left = deadline - now_ms();
        struct pollfd fd = {PQsocket(conn), step == PGRES_POLLING_READING ? POLLIN : POLLOUT, 0};
        if (left <= 0) {
            *ret_late = true;
            return conn;
        }
        if (poll(&fd, 1, (int)left) > 0)
            step = PQconnectPoll(conn);
    }
    return conn;
}

/* "…FATAL:  28P01: password authentication failed…" -> 28P01, and the message's first line. */
void ss_postgres_connect_said(const char *message, char sqlstate[6], char *ret, size_t size) {
    sqlstate[0] = '\0';
    for (const char *p = message; *p && *p != '\n'; p++) {
        if (p[0] == ':' && p[1] == ' ' && strlen(p) > 8) {
            const char *at = p + strspn(p + 1, " ") + 1;
            if (strspn(at, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && at[5] == ':' &&
                strcspn(at, "0123456789") < 5) { /* FATAL has five letters too, but no digit */
                memcpy(sqlstate, at, 5);
                sqlstate[5] = '\0';
                break;
            }
        }
    }
    ss_server_message_line(message, ret, size);
}

/* Every setting that changes what values, names or definitions look like, or what a session may do
 * to us. Names that an older server does not know are left out by the join. row_security off makes
 * a filtered read fail instead of losing rows. Keepalives: a session whose link died lets go of the
 * slot as soon as the link is well again, and not after wal_sender_timeout or two hours. */
static const char pin_settings[] =
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.set_config(s.name, w.v, false) FROM (VALUES"
    " ('DateStyle','ISO, "
    "MDY'),('IntervalStyle','postgres'),('bytea_output','hex'),('TimeZone','UTC'),"
    "('extra_float_digits','3'),('client_encoding','UTF8'),('xmloption','content'),('xmlbinary','"
    "base64'),('lc_monetary','C'),"
    "('search_path','pg_catalog'),('quote_all_identifiers','off'),('standard_conforming_strings','"
    "on'),"
    "('row_security','off'),('statement_timeout','0'),('lock_timeout','0'),('transaction_timeout','"
    "0'),"
    "('idle_in_transaction_session_timeout','0'),('idle_session_timeout','0'),('default_"
    "transaction_read_only','off'),"
    "('default_transaction_isolation','read committed'),('default_transaction_deferrable','off'),"
    "('synchronous_commit','local'),('client_min_messages','warning'),('synchronize_seqscans','off'"
    "),('tcp_keepalives_idle','10'),('tcp_keepalives_interval','2'),('tcp_keepalives_count','5'"
    ")) AS w(n, v)"
    " JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = pg_catalog.lower(w.n)";

/* Notices could hold row values and are nobody's business here. */
static void notice_drop(void *ctx, const PGresult *res) {
    (void)ctx;
    (void)res;
}

static ss_status connected(const ss_source_env *env, PGconn *conn, bool late, ss_error *reterr) {
    if (conn && !late && PQstatus(conn) == CONNECTION_OK) {
        ss_status status = ss_postgres_link_begin(conn, env, reterr);
        if (status != SS_OK)
            return status;
        PQsetNoticeReceiver(conn, notice_drop, NULL);
        PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
        int version = PQserverVersion(conn);
        if (version < 100000)
            return ss_fail(reterr, SS_STOP, "SS-PG-0006",
                           "source %s is PostgreSQL %d.%d; logical replication by pgoutput starts "
                           "with version 10",
                           env->name, version / 10000, version / 100 % 100);
        /* An empty answer or an error would leave a session whose output means something else. */
        PGresult *res;
        status = ss_postgres_query(conn, "pin the session's settings", pin_settings, 0, NULL,
                                   PGRES_TUPLES_OK, &res, reterr);
        if (status == SS_OK) {
            ss_postgres_link_known(conn, (int)strtol(ss_postgres_value(res, 0, 0), NULL, 10));
            PQclear(res);
        }
        return status;
    }
    if (!conn)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for a connection to source %s",
                       env->name);
    if (late)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0001",
                       "no connection to source %s at host %s within %" PRIu64
                       " ms (postgres.connect_timeout)",
                       env->name, PQhost(conn) ? PQhost(conn) : "?",
                       ss_postgres_opt(env)->connect_timeout);
    char sqlstate[6], said[400];
    ss_postgres_connect_said(PQerrorMessage(conn), sqlstate, said, sizeof said);
    ss_status status = ss_postgres_classify(sqlstate);
    return ss_fail(reterr, status, "SS-PG-0001", "cannot connect to source %s: %s", env->name,
                   said);
}

ss_status ss_postgres_connect(const ss_source_env *env, bool replication, PGconn **ret,
                              ss_error *reterr) {
    const struct ss_postgres_options *opt = ss_postgres_opt(env);
    bool many_hosts = false, late = false;
    if (!opt->dsn || !*opt->dsn)
        return ss_fail(reterr, SS_STOP, "SS-PG-0002",
                       "postgres.dsn is empty; it must name the database to read");
    ss_status status = dsn_check(opt->dsn, &many_hosts, reterr);
    char password[1024] = "", application[64], timeout[24];
    if (status == SS_OK && opt->password_file)
        status = ss_password_read(opt->password_file, "SS-PG-0002", password, sizeof password, reterr);
    if (status != SS_OK)
        return status;
    snprintf(application, sizeof application, "sidespool-%s", env->name);
    uint64_t timeout_ms = opt->connect_timeout ? opt->connect_timeout : 10000;
    snprintf(timeout, sizeof timeout, "%" PRIu64, (timeout_ms + 999) / 1000);
    const char *keys[16], *values[16];
    size_t n = ss_link_params(keys, values);
#define PARAM(key, value) (keys[n] = (key), values[n++] = (value))
    PARAM("dbname", opt->dsn);
    PARAM("application_name", application);
    PARAM("client_encoding", "UTF8");
    PARAM("connect_timeout", timeout);
    if (*password)
        PARAM("password", password);
    if (replication)
        PARAM("replication", "database");
    keys[n] = NULL;
    values[n] = NULL;
#undef PARAM
    /* With several hosts libpq's own loop has a timeout for each, at the price of the SQLSTATE of a
     * refusal. */
    PGconn *conn = many_hosts ? PQconnectdbParams(keys, values, 1)
                              : ss_postgres_connect_steps(keys, values, 1, timeout_ms, &late);
    explicit_bzero(password, sizeof password);
    status = connected(env, conn, late, reterr);
    if (status != SS_OK) {
        PQfinish(conn);
        return status;
    }
    *ret = conn;
    return SS_OK;
}

/* ---- statements
 * -------------------------------------------------------------------------------------------------
 */

ss_status ss_postgres_query(PGconn *conn, const char *what, const char *sql, int nparams,
                            const char *const *params, ExecStatusType expect, PGresult **ret,
                            ss_error *reterr) {
    PGresult *res;
    ss_status status = ss_postgres_run(conn, what, sql, nparams, params, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQresultStatus(res) != expect) {
        status =
            PQresultStatus(res) == PGRES_FATAL_ERROR || !res
                ? ss_postgres_fail(reterr, "SS-PG-0003", __func__, conn, res, "cannot %s", what)
                : ss_fail(reterr, SS_STOP, "SS-PG-0003", "cannot %s: the server answered %s", what,
                          PQresStatus(PQresultStatus(res)));
        PQclear(res);
        return status;
    }
    *ret = res;
    return SS_OK;
}

ss_status ss_postgres_exec(PGconn *conn, const char *what, const char *sql, ss_error *reterr) {
    PGresult *res;
    ss_status status = ss_postgres_run(conn, what, sql, 0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    ExecStatusType got = PQresultStatus(res);
    if (got != PGRES_COMMAND_OK && got != PGRES_TUPLES_OK)
        status = ss_postgres_fail(reterr, "SS-PG-0003", __func__, conn, res, "cannot %s", what);
    PQclear(res);
    return status;
}
