/* --check: every precondition of capturing this source, one line each with what to do about it.
 *
 * Nothing is changed, neither at the source nor here. A line that cannot hold a remedy because nothing is wrong says what it
 * found. postgres_check_tables.c looks at the tables and the publication; the spool is the agent's own matter. Runs alone, before any thread. */
#include "agents/postgres/postgres_check.h"
#include "agents/postgres/postgres_source.h"

#include "sidespool/spool.h"

#include <stdlib.h>
#include <strings.h>
#include <time.h>

void ss_postgres_check_say(ss_postgres_checker *check, bool ok, const char *what, const char *found, const char *remedy) {
    check->line(check->ctx, ok, what, found == NULL ? "no memory to say it" : found,
                ok ? "" : remedy == NULL ? "no memory to say it" : remedy);
}

void ss_postgres_check_warn(ss_postgres_checker *check, const char *what, const char *found, const char *advice) {
    check->line(check->ctx, true, what, found == NULL ? "no memory to say it" : found, advice == NULL ? "no memory to say it" : advice);
}

/* "TEXT (CODE)", in the arena. */
static char *error_text(ss_postgres_checker *check, const ss_error *err) {
    return err->code == NULL ? ss_arena_printf(check->arena, "%s", err->text)
                             : ss_arena_printf(check->arena, "%s (%s)", err->text, err->code);
}

ss_status ss_postgres_check_query(ss_postgres_checker *check, const char *what, const char *sql, const char *param,
                                  PGresult **ret, ss_error *reterr) {
    const char *params[1] = {param};
    return ss_postgres_query(check->conn, what, sql, param == NULL ? 0 : 1, params, PGRES_TUPLES_OK, ret, reterr);
}

/* ---- server ------------------------------------------------------------------------------------------------------ */

static ss_status check_server(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_postgres_check_query(
        check, "read the server's settings",
        "SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('wal_level'), current_user,"
        " current_database(), (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)",
        NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    const char *version = ss_postgres_value(res, 0, 0), *level = ss_postgres_value(res, 0, 2);
    const char *role = ss_postgres_value(res, 0, 3);
    ss_postgres_check_say(check, true, "connection",
                          ss_arena_printf(check->arena, "database %s as %s", ss_postgres_value(res, 0, 4), role), "");
    ss_postgres_check_say(check, PQserverVersion(check->conn) >= 100000, "version",
                          ss_arena_printf(check->arena, "PostgreSQL %s", version), "use a source of PostgreSQL 10 or later");
    if (PQserverVersion(check->conn) < 110000)
        ss_postgres_check_warn(check, "TRUNCATE", "PostgreSQL 10 does not put it into its stream: the copy keeps the rows",
                               "use DELETE, or run sidespool resync for the table after a TRUNCATE");
    bool standby = ss_postgres_value(res, 0, 1)[0] == 't';
    ss_postgres_check_say(check, !standby, "primary", standby ? "it is a standby" : "it is a primary",
                          "point postgres.dsn at the primary (target_session_attrs=read-write)");
    ss_postgres_check_say(check, strcmp(level, "logical") == 0, "wal_level", ss_arena_printf(check->arena, "%s", level),
                          "ALTER SYSTEM SET wal_level = logical; then restart the source");
    bool may = ss_postgres_value(res, 0, 5)[0] == 't';
    ss_postgres_check_say(check, may, "right to replicate",
                          ss_arena_printf(check->arena, "%s %s", role, may ? "may" : "may not"),
                          ss_arena_printf(check->arena, "ALTER ROLE \"%s\" REPLICATION", role));
    PQclear(res);
    return SS_OK;
}

/* The right alone is not enough: pg_hba.conf has lines of its own, and max_wal_senders may be used up. */
static void check_replication(ss_postgres_checker *check) {
    PGconn *conn = NULL;
    ss_error err = {0};
    ss_status status = ss_postgres_connect(check->env, true, &conn, &err);
    if (status == SS_OK)
        status = ss_postgres_exec(conn, "identify the system", "IDENTIFY_SYSTEM", &err);
    PQfinish(conn);
    ss_postgres_check_say(check, status == SS_OK, "replication connection",
                          status == SS_OK ? "possible" : error_text(check, &err),
                          "see the message: REPLICATION right, max_wal_senders, and pg_hba.conf's line for this database");
}

static void room_line(ss_postgres_checker *check, const char *setting, const char *what, int most, int used, int need) {
    ss_postgres_check_say(check, most - used >= need, what,
                          ss_arena_printf(check->arena, "%d of %d in use, %d needed", used, most, need),
                          ss_arena_printf(check->arena, "ALTER SYSTEM SET %s = %d; then restart the source", setting,
                                          used + need));
}

/* One slot to stream from and one for a while at each copy; the same for senders. What is ours already is not counted. */
static ss_status check_room(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_postgres_check_query(
        check, "read the use of slots and senders",
        "SELECT current_setting('max_replication_slots'), (SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1),"
        " current_setting('max_wal_senders'), (SELECT count(*) FROM pg_stat_activity a WHERE backend_type = 'walsender'"
        " AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = a.pid AND s.slot_name = $1))",
        check->names.slot, &res, reterr);
    if (status != SS_OK)
        return status;
    room_line(check, "max_replication_slots", "free slots", atoi(ss_postgres_value(res, 0, 0)),
              atoi(ss_postgres_value(res, 0, 1)), 2);
    room_line(check, "max_wal_senders", "free senders", atoi(ss_postgres_value(res, 0, 2)),
              atoi(ss_postgres_value(res, 0, 3)), 2);
    PQclear(res);
    return SS_OK;
}

/* ---- what the spool holds already ---------------------------------------------------------------------------------- */

/* The newest state of the stream log; without one *ret_identity and *ret_position are "". */
static ss_status read_spool(ss_postgres_checker *check, const char **ret_identity, const char **ret_position, ss_error *reterr) {
    ss_reader *reader = NULL;
    const ss_log_state *state = NULL;
    ss_error err = {0};
    *ret_identity = *ret_position = "";
    ss_status status = ss_reader_open(check->env->spool_path, check->env->name, SS_LOG_STREAM, 0, &reader, &err);
    if (status != SS_OK && err.code != NULL && strcmp(err.code, SS_SPOOL_ABSENT) == 0)
        return SS_OK;
    if (status == SS_OK)
        status = ss_reader_state(reader, &state, &err);
    if (status == SS_OK) {
        *ret_identity = ss_arena_printf(check->arena, "%s", state->identity);
        *ret_position = ss_arena_printf(check->arena, "%s", state->position);
        if (*ret_identity == NULL || *ret_position == NULL)
            status = ss_fail(&err, SS_STOP, "SS-PG-0107", "no memory for the check");
    }
    ss_reader_close(reader);
    if (status != SS_OK)
        *reterr = err;
    return status;
}

/* The comparison that a start begins with, without its consequences: nothing is written, neither here nor there. */
static ss_status compare_history(ss_postgres_checker *check, const char *identity, const char *position, bool *ret_gap,
                                 ss_error *reterr) {
    ss_source source = {.env = check->env, .names = check->names, .catalog = check->conn};
    ss_source_verdict verdict = {0};
    ss_status status = ss_postgres_connect(check->env, true, &source.replication, reterr);
    if (status == SS_OK)
        status = ss_postgres_history_compare(&source, identity, position, *identity != '\0' && *position == '\0', &verdict, reterr);
    PQfinish(source.replication);
    *ret_gap = verdict.gap;
    return status;
}

/* Does the source go on from where the spool ends? A running agent moves both while we look. */
static ss_status check_history(ss_postgres_checker *check, ss_error *reterr) {
    const char *identity, *position, *later;
    bool gap = false;
    ss_error err = {0};
    ss_status status = read_spool(check, &identity, &position, reterr);
    if (status != SS_OK)
        return status;
    check->captured = *position != '\0';
    status = compare_history(check, identity, position, &gap, &err);
    if (status == SS_RETRY && err.code != NULL && strcmp(err.code, "SS-PG-0049") == 0) {
        ss_postgres_check_say(check, true, "history", "it goes on: our slot is being read, by the agent that runs", "");
        return SS_OK;
    }
    if (status != SS_OK) {
        ss_status again = read_spool(check, &identity, &later, reterr);
        if (again != SS_OK)
            return again;
        if (strcmp(position, later) != 0) {
            ss_postgres_check_say(check, true, "history", "it is being captured at this moment", "");
            return SS_OK;
        }
    }
    const char *remedy = "see the message";
    const ss_error_entry *entry = err.code == NULL ? NULL : ss_error_find(err.code);
    if (gap)
        remedy = ss_arena_printf(check->arena,
                                 "this is a gap: set on_gap: resync in the agent's file (everything is copied anew), then restart "
                                 "sidespool-postgres (systemctl restart sidespool-postgres@%s)",
                                 check->env->name);
    else if (entry != NULL)
        remedy = entry->cure;
    ss_postgres_check_say(check, status == SS_OK, "history",
                          status != SS_OK      ? error_text(check, &err)
                          : check->captured ? ss_arena_printf(check->arena, "the source goes on from where the spool ends, %s", position)
                                            : "nothing is captured yet",
                          remedy);
    return SS_OK;
}

static ss_status check_slot(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    bool status_known = PQserverVersion(check->conn) >= 130000;
    ss_status status = ss_postgres_check_query(
        check, "read the slot",
        status_known ? "SELECT plugin, database = current_database(), active_pid, wal_status,"
                       " pg_size_pretty(pg_current_wal_lsn() - restart_lsn) FROM pg_replication_slots WHERE slot_name = $1"
                     : "SELECT plugin, database = current_database(), active_pid, 'reserved',"
                       " pg_size_pretty(pg_current_wal_lsn() - restart_lsn) FROM pg_replication_slots WHERE slot_name = $1",
        check->names.slot, &res, reterr);
    if (status != SS_OK)
        return status;
    const char *slot = check->names.slot, *plugin = ss_postgres_value(res, 0, 0), *wal = ss_postgres_value(res, 0, 3);
    bool exists = PQntuples(res) > 0, ours = strcmp(plugin, "pgoutput") == 0 && ss_postgres_value(res, 0, 1)[0] == 't';
    bool lost = strcmp(wal, "lost") == 0;
    if (!exists && check->captured) { /* a gap, and said with it */
        PQclear(res);
        return SS_OK;
    }
    char *found = ss_arena_printf(check->arena, "%s: %s", slot, !exists ? "not there yet, will be made" : "there");
    if (exists)
        found = ss_arena_printf(check->arena, "%s: %s, holds %s of WAL (%s)%s%s", slot, plugin, ss_postgres_value(res, 0, 4),
                                wal, PQgetisnull(res, 0, 2) ? "" : ", in use by process ", ss_postgres_value(res, 0, 2));
    ss_postgres_check_say(check, !exists || (ours && !lost), "slot", found,
                          lost ? "its WAL is gone: on_gap: resync answers it with a new copy (halt keeps it stopped)"
                               : "it is not of pgoutput in this database: set another postgres.slot");
    PQclear(res);
    return SS_OK;
}

/* ---- settings that hurt, the source or us -------------------------------------------------------------------------- */

/* One name of synchronous_standby_names, as the server compares it: without quotes, whatever its case. */
static bool names_us(const char *list, const char *application) {
    size_t length = strlen(application);
    while (*list != '\0') {
        list += strspn(list, " ,()\t\n");
        bool quoted = *list == '"';
        list += quoted;
        size_t len = quoted ? strcspn(list, "\"") : strcspn(list, " ,()\t\n");
        if (len == 1 && *list == '*')
            return true;
        if (len == length && strncasecmp(list, application, len) == 0)
            return true;
        list += len + (quoted && list[len] == '"');
    }
    return false;
}

static ss_status check_settings(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_postgres_check_query(
        check, "read the settings of replication",
        "SELECT current_setting('synchronous_standby_names'), current_setting('max_slot_wal_keep_size', true),"
        " (SELECT setting::int8 * CASE unit WHEN 'ms' THEN 1 ELSE 1000 END FROM pg_settings WHERE name = 'wal_sender_timeout'),"
        " (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::int8 FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        " AND backend_xid IS NOT NULL), current_setting('idle_replication_slot_timeout', true)",
        NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    const char *names = ss_postgres_value(res, 0, 0), *keep = ss_postgres_value(res, 0, 1);
    long long timeout = atoll(ss_postgres_value(res, 0, 2)), oldest = atoll(ss_postgres_value(res, 0, 3));
    char *application = ss_arena_printf(check->arena, "sidespool-%s", check->env->name);
    bool counted = application != NULL && names_us(names, application);
    ss_postgres_check_say(check, !counted, "synchronous_standby_names",
                          *names == '\0' ? "empty" : ss_arena_printf(check->arena, "%s", names),
                          ss_arena_printf(check->arena,
                                          "name the standbys themselves there: as it stands, commits of the source would "
                                          "wait for %s",
                                          application == NULL ? "us" : application));
    bool limited = *keep != '\0' && strcmp(keep, "-1") != 0;
    if (limited)
        ss_postgres_check_say(check, true, "max_slot_wal_keep_size",
                              ss_arena_printf(check->arena, "%s: a stop that holds back more ends in a gap (on_gap)", keep), "");
    else
        ss_postgres_check_warn(check, "max_slot_wal_keep_size",
                               "no limit: while the agent is stopped or its spool is full, the source keeps its WAL until its disk is full",
                               PQserverVersion(check->conn) >= 130000
                                   ? "ALTER SYSTEM SET max_slot_wal_keep_size = '…'; SELECT pg_reload_conf(); with what the disk can spare"
                                   : "watch the room of pg_wal: before version 13 there is no limit to set");
    const char *idle = ss_postgres_value(res, 0, 4); /* from 18 on */
    if (*idle != '\0' && strcmp(idle, "0") != 0)
        ss_postgres_check_warn(check, "idle_replication_slot_timeout",
                               ss_arena_printf(check->arena, "%s: a stop of the agent that is longer ends in a gap (on_gap)", idle),
                               "ALTER SYSTEM SET idle_replication_slot_timeout = 0 (or longer than any stop); SELECT pg_reload_conf()");
    ss_postgres_check_say(check, timeout == 0 || timeout >= 5000, "wal_sender_timeout",
                          ss_arena_printf(check->arena, "%lld ms", timeout),
                          "set it to 5 s or more (default 60 s), or short pauses of the network end the link");
    ss_postgres_check_say(check, true, "running transactions",
                          ss_arena_printf(check->arena, "the oldest that has written is %lld s old: making a slot waits for it",
                                          oldest),
                          "");
    PQclear(res);
    return SS_OK;
}

/* Lag and as-of are differences between the two clocks; a large one is said, and stops nobody. */
static ss_status check_clock(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    struct timespec before, after;
    clock_gettime(CLOCK_REALTIME, &before);
    ss_status status = ss_postgres_check_query(check, "read the source's clock",
                                               "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8", NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    clock_gettime(CLOCK_REALTIME, &after);
    long long ours = ((long long)before.tv_sec + after.tv_sec) * 500 + (before.tv_nsec + after.tv_nsec) / 2000000;
    long long apart = atoll(ss_postgres_value(res, 0, 0)) - ours;
    PQclear(res);
    bool large = apart > 1000 || apart < -1000;
    char *found = ss_arena_printf(check->arena, "the source's is %lld ms %s ours", apart < 0 ? -apart : apart,
                                  apart < 0 ? "behind" : "ahead of");
    if (large)
        ss_postgres_check_warn(check, "clock", found, "lag is shown wrong by that much: let NTP keep both hosts");
    else
        ss_postgres_check_say(check, true, "clock", found, "");
    return SS_OK;
}

ss_status ss_postgres_check(const ss_source_env *env, ss_check_line line, void *ctx, ss_error *reterr) {
    ss_postgres_checker check = {.env = env, .line = line, .ctx = ctx, .arena = ss_arena_new(0)};
    ss_error err = {0};
    if (check.arena == NULL)
        return ss_fail(reterr, SS_STOP, "SS-PG-0107", "no memory for the check");
    ss_status status = ss_postgres_names_get(env, &check.names, reterr);
    if (status == SS_OK && ss_postgres_connect(env, false, &check.conn, &err) != SS_OK) {
        ss_postgres_check_say(&check, false, "connection", error_text(&check, &err),
                              "correct postgres.dsn or postgres.password_file, pg_hba.conf, or start the source");
        goto out;
    }
    static ss_status (*const steps[])(ss_postgres_checker *, ss_error *) = {
        check_server, check_history, check_room, check_slot, check_settings, check_clock, ss_postgres_check_tables,
    };
    if (status == SS_OK)
        check_replication(&check);
    for (size_t i = 0; status == SS_OK && i < sizeof steps / sizeof *steps; i++)
        status = steps[i](&check, reterr);
out:
    PQfinish(check.conn);
    ss_arena_free(check.arena);
    return status;
}
