/* connect: is this the history that the spool holds the beginning of? And the slot's making and
 * dropping.
 *
 * The identity kept in the spool's meta is "sysid=… timeline=… slot=… publication=OID dbname=…". A
 * slot that is missing, lost, someone else's or ahead of us, another system, a timeline that left
 * ours before our position, a server behind us, another publication of the same name: each of these
 * means that changes are missing, and is said as a gap, never passed over. */
#include "agents/postgres/postgres_source.h"
#include "sidespool/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PREDECESSOR_TRIES 20 /* of 100 ms */

/* What the server says of itself. */
struct facts {
    char sysid[32], dbname[64];
    uint32_t timeline;
    uint64_t lsn; /* flushed, on a standby: replayed */
    bool standby;
    uint32_t publication; /* oid; 0: there is none */
    bool slot_exists, slot_ours, slot_lost;
    char slot_why[64];
    int slot_pid; /* 0: inactive */
    uint64_t confirmed;
};

ss_status ss_postgres_catalog_ready(ss_source *source, ss_error *reterr) {
    if (source->catalog && PQstatus(source->catalog) == CONNECTION_OK)
        return SS_OK;
    PQfinish(source->catalog);
    source->catalog = NULL;
    return ss_postgres_connect(source->env, false, &source->catalog, reterr);
}

static ss_status read_system(ss_source *source, struct facts *out, ss_error *reterr) {
    PGresult *res;
    ss_status status = ss_postgres_query(source->replication, "identify the source",
                                         "IDENTIFY_SYSTEM", 0, NULL, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    snprintf(out->sysid, sizeof out->sysid, "%s", ss_postgres_value(res, 0, 0));
    out->timeline = (uint32_t)strtoul(ss_postgres_value(res, 0, 1), NULL, 10);
    snprintf(out->dbname, sizeof out->dbname, "%s", ss_postgres_value(res, 0, 3));
    if (PQntuples(res) != 1 || !*out->sysid || !out->timeline)
        status =
            ss_fail(reterr, SS_RETRY, "SS-PG-0051", "the source does not say which system it is");
    PQclear(res);
    return status;
}

static ss_status read_server(ss_source *source, struct facts *out, ss_error *reterr) {
    const char *params[1] = {source->names.publication};
    PGresult *res;
    ss_status status = ss_postgres_query(
        source->catalog, "read the source's position",
        "SELECT pg_catalog.pg_is_in_recovery(), CASE WHEN pg_catalog.pg_is_in_recovery()"
        " THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END,"
        " (SELECT p.oid FROM pg_catalog.pg_publication p WHERE p.pubname = $1),"
        " (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'wal_sender_timeout')",
        1, params, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    out->standby = *ss_postgres_value(res, 0, 0) == 't';
    out->publication = (uint32_t)strtoul(ss_postgres_value(res, 0, 2), NULL, 10);
    source->sender_timeout_ms = strtoll(ss_postgres_value(res, 0, 3), NULL, 10);
    if (!ss_postgres_lsn_parse(ss_postgres_value(res, 0, 1), &out->lsn))
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0051",
                         "the source does not say how far its WAL reaches");
    PQclear(res);
    return status;
}

static ss_status read_slot(ss_source *source, struct facts *out, ss_error *reterr) {
    int version = PQserverVersion(source->catalog);
    char sql[1024];
    snprintf(sql, sizeof sql,
             "SELECT s.slot_type, s.plugin, s.database, coalesce(s.active_pid, 0), "
             "s.confirmed_flush_lsn, s.restart_lsn IS NULL,"
             " s.temporary, %s, %s FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1",
             version >= 130000 ? "coalesce(s.wal_status, '')" : "''",
             version >= 170000   ? "coalesce(s.invalidation_reason, '')"
             : version >= 160000 ? "CASE WHEN s.conflicting THEN 'rows_removed' ELSE '' END"
                                 : "''");
    const char *params[1] = {source->names.slot};
    PGresult *res;
    ss_status status = ss_postgres_query(source->catalog, "read the slot", sql, 1, params,
                                         PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQntuples(res) > 0) {
        const char *wal_status = ss_postgres_value(res, 0, 7),
                   *invalid = ss_postgres_value(res, 0, 8);
        out->slot_exists = true;
        out->slot_ours = strcmp(ss_postgres_value(res, 0, 0), "logical") == 0 &&
                         strcmp(ss_postgres_value(res, 0, 1), "pgoutput") == 0 &&
                         strcmp(ss_postgres_value(res, 0, 2), out->dbname) == 0 &&
                         *ss_postgres_value(res, 0, 6) != 't';
        out->slot_pid = (int)strtol(ss_postgres_value(res, 0, 3), NULL, 10);
        bool confirmed = ss_postgres_lsn_parse(ss_postgres_value(res, 0, 4), &out->confirmed);
        bool restart_gone = *ss_postgres_value(res, 0, 5) == 't';
        out->slot_lost = strcmp(wal_status, "lost") == 0 || *invalid || (confirmed && restart_gone);
        snprintf(out->slot_why, sizeof out->slot_why, "%s", *invalid ? invalid : "wal_removed");
    }
    PQclear(res);
    return SS_OK;
}

/* ---- the old identity
 * -----------------------------------------------------------------------------------------------
 */

/* The value of "key=" in an identity; dbname comes last, because it may hold blanks. */
static bool identity_get(const char *identity, const char *key, char *ret, size_t size) {
    size_t len = strlen(key);
    for (const char *p = identity; p && *p;) {
        if (strncmp(p, key, len) == 0 && p[len] == '=') {
            p += len + 1;
            int n = strcmp(key, "dbname") == 0 ? (int)strlen(p) : (int)strcspn(p, " ");
            snprintf(ret, size, "%.*s", n, p);
            return true;
        }
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    return false;
}

static ss_status gap(ss_source_verdict *verdict) {
    verdict->gap = true;
    return SS_STOP;
}

/* A timeline's history lists each ancestor and where it was left: "1\t0/3000000\treason". */
static ss_status compare_timeline(ss_source *source, const struct facts *now, uint32_t before,
                                  uint64_t position, ss_source_verdict *verdict, ss_error *reterr) {
    if (before == now->timeline)
        return SS_OK;
    uint64_t left_at = 0;
    bool found = false;
    if (before < now->timeline) {
        char sql[64];
        PGresult *res;
        snprintf(sql, sizeof sql, "TIMELINE_HISTORY %" PRIu32, now->timeline);
        ss_status status = ss_postgres_query(source->replication, "read the timeline's history",
                                             sql, 0, NULL, PGRES_TUPLES_OK, &res, reterr);
        if (status != SS_OK)
            return status;
        for (const char *line = ss_postgres_value(res, 0, 1); line && *line && !found;) {
            char lsn[24];
            uint32_t id;
            if (sscanf(line, "%" SCNu32 " %23s", &id, lsn) == 2 && id == before)
                found = ss_postgres_lsn_parse(lsn, &left_at);
            line = strchr(line, '\n');
            line = line ? line + 1 : NULL;
        }
        PQclear(res);
    }
    if (found && left_at >= position) {
        SS_LOG(SS_WARN, "timeline_changed", SS_U("before", before), SS_U("now", now->timeline));
        return SS_OK;
    }
    (void)ss_fail(reterr, SS_STOP, "SS-PG-0046",
                  "the source is on timeline %" PRIu32
                  ", which does not hold what timeline %" PRIu32
                  " had up to our position: a failover or restore went back before it",
                  now->timeline, before);
    return gap(verdict);
}

static ss_status compare_identity(ss_source *source, const char *identity, const struct facts *now,
                                  uint64_t position, ss_source_verdict *verdict, ss_error *reterr) {
    char sysid[32] = "", timeline[16] = "", slot[64] = "", dbname[64] = "", publication[16] = "0";
    if (!identity_get(identity, "sysid", sysid, sizeof sysid) ||
        !identity_get(identity, "timeline", timeline, sizeof timeline) ||
        !identity_get(identity, "slot", slot, sizeof slot) ||
        !identity_get(identity, "dbname", dbname, sizeof dbname))
        return ss_fail(reterr, SS_STOP, "SS-PG-0051",
                       "the spool's identity is not that of a PostgreSQL source");
    (void)identity_get(identity, "publication", publication, sizeof publication);
    if (strcmp(sysid, now->sysid) != 0) {
        (void)ss_fail(reterr, SS_STOP, "SS-PG-0040",
                      "the source is another system (identifier %s, the spool's is %s)", now->sysid,
                      sysid);
        return gap(verdict);
    }
    if (strcmp(slot, source->names.slot) != 0 || strcmp(dbname, now->dbname) != 0) {
        (void)ss_fail(reterr, SS_STOP, "SS-PG-0047",
                      "the spool follows slot %s of database %s, the agent's file now says slot %s "
                      "of database %s",
                      slot, dbname, source->names.slot, now->dbname);
        return gap(verdict);
    }
    uint32_t before = (uint32_t)strtoul(publication, NULL, 10);
    if (now->publication == 0 || (before != 0 && before != now->publication)) {
        (void)ss_fail(reterr, SS_STOP, "SS-PG-0048",
                      "publication %s was dropped%s; changes written without it cannot be decoded",
                      source->names.publication, now->publication ? " and made anew" : "");
        return gap(verdict);
    }
    return compare_timeline(source, now, (uint32_t)strtoul(timeline, NULL, 10), position, verdict,
                            reterr);
}

static ss_status compare_slot(ss_source *source, const struct facts *now, uint64_t position,
                              ss_source_verdict *verdict, ss_error *reterr) {
    const char *slot = source->names.slot;
    char ours[24], theirs[24];
    ss_postgres_lsn_text(position, ours, sizeof ours);
    if (!now->slot_exists) {
        (void)ss_fail(reterr, SS_STOP, "SS-PG-0041",
                      "slot %s is gone from the source; what came after %s cannot be had", slot,
                      ours);
    } else if (!now->slot_ours) {
        (void)ss_fail(
            reterr, SS_STOP, "SS-PG-0043",
            "slot %s is no longer a pgoutput slot of database %s: somebody made another one "
            "under its name",
            slot, now->dbname);
    } else if (now->slot_lost) {
        (void)ss_fail(reterr, SS_STOP, "SS-PG-0042",
                      "the source invalidated slot %s (%s); what came after %s cannot be had", slot,
                      now->slot_why, ours);
    } else if (now->confirmed > position) {
        ss_postgres_lsn_text(now->confirmed, theirs, sizeof theirs);
        (void)ss_fail(
            reterr, SS_STOP, "SS-PG-0044",
            "slot %s stands at %s, beyond our %s: it was made anew or moved by somebody else", slot,
            theirs, ours);
    } else {
        return SS_OK;
    }
    return gap(verdict);
}

/* A server that has less WAL than we captured was restored from a backup. A standby may still be
 * replaying. */
static ss_status compare_reach(const struct facts *now, uint64_t position,
                               ss_source_verdict *verdict, ss_error *reterr) {
    if (now->lsn >= position)
        return SS_OK;
    char ours[24], theirs[24];
    ss_postgres_lsn_text(position, ours, sizeof ours);
    ss_postgres_lsn_text(now->lsn, theirs, sizeof theirs);
    if (now->standby)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0045",
                       "the standby has replayed up to %s, our position is %s", theirs, ours);
    (void)ss_fail(
        reterr, SS_STOP, "SS-PG-0045",
        "the source's WAL ends at %s, before our position %s: it was restored from a backup",
        theirs, ours);
    return gap(verdict);
}

static ss_status first_start(ss_source *source, const struct facts *now, bool intended,
                             ss_error *reterr) {
    source->slot_leftover = now->slot_exists;
    if (!now->slot_exists || (intended && now->slot_ours))
        return SS_OK;
    return ss_fail(reterr, SS_STOP, "SS-PG-0050",
                   "slot %s is on the source, but this spool did not make it; set another "
                   "postgres.slot, or if nobody uses it run "
                   "SELECT pg_drop_replication_slot('%s') on the source",
                   source->names.slot, source->names.slot);
}

static void identity_text(const ss_source *source, const struct facts *now, char *ret,
                          size_t size) {
    snprintf(ret, size,
             "sysid=%s timeline=%" PRIu32 " slot=%s publication=%" PRIu32 " dbname=%s", now->sysid,
             now->timeline, source->names.slot, now->publication, now->dbname);
}

/* Once the publication is made: before that it has no oid that a later start could compare. */
ss_status ss_postgres_identity(ss_source *source, char *ret, size_t size, ss_error *reterr) {
    struct facts now = {0};
    ss_status status = ss_postgres_catalog_ready(source, reterr);
    if (status == SS_OK)
        status = read_system(source, &now, reterr);
    if (status == SS_OK)
        status = read_server(source, &now, reterr);
    if (status == SS_OK && now.publication == 0)
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0048",
                         "publication %s was dropped just after it was made",
                         source->names.publication);
    if (status == SS_OK)
        identity_text(source, &now, ret, size);
    return status;
}

ss_status ss_postgres_slot_exists(ss_source *source, bool *ret, ss_error *reterr) {
    struct facts now = {0};
    ss_status status = ss_postgres_catalog_ready(source, reterr);
    if (status == SS_OK)
        status = read_slot(source, &now, reterr);
    if (status == SS_OK)
        *ret = now.slot_exists;
    return status;
}

/* ---- our own session before this one
 * ---------------------------------------------------------------------------------------------
 */

/* Its process and when it began: both together are nobody else's, ever. */
ss_status ss_postgres_session_note(ss_source *source, PGconn *conn, ss_error *reterr) {
    char pid[16];
    const char *params[1] = {pid};
    PGresult *res;
    if (source->env->session == NULL)
        return SS_OK;
    snprintf(pid, sizeof pid, "%d", PQbackendPID(conn));
    ss_status status = ss_postgres_query(
        source->catalog, "read which session is ours",
        "SELECT pid || ' ' || extract(epoch FROM backend_start) FROM pg_catalog.pg_stat_activity WHERE pid = $1::int4", 1,
        params, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    snprintf(source->env->session, SS_SESSION_MAX, "%s", PQntuples(res) == 1 ? ss_postgres_value(res, 0, 0) : "");
    PQclear(res);
    return SS_OK;
}

/* We have closed that link, perhaps because it was dead; the server would find that out much later (wal_sender_timeout, or never),
 * and keep the slot until then. */
static ss_status end_predecessor(ss_source *source, struct facts *now, ss_error *reterr) {
    const char *params[2] = {source->env->session, source->names.slot};
    if (source->env->session == NULL || strtol(source->env->session, NULL, 10) != now->slot_pid)
        return SS_OK;
    for (int attempt = 0; attempt < PREDECESSOR_TRIES && now->slot_pid != 0; attempt++) {
        PGresult *res;
        ss_status status = ss_postgres_query(
            source->catalog, "end our session before this one",
            "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_replication_slots s"
            " ON s.active_pid = a.pid WHERE s.slot_name = $2 AND a.pid || ' ' || extract(epoch FROM a.backend_start) = $1",
            2, params, PGRES_TUPLES_OK, &res, reterr);
        if (status != SS_OK)
            return status;
        if (attempt == 0 && PQntuples(res) > 0)
            SS_LOG(SS_INFO, "session_before_ended", SS_S("slot", source->names.slot), SS_I("pid", now->slot_pid));
        PQclear(res);
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
        status = read_slot(source, now, reterr);
        if (status != SS_OK)
            return status;
    }
    return SS_OK;
}

ss_status ss_postgres_history_compare(ss_source *source, const char *identity, const char *position,
                                      bool intended, ss_source_verdict *verdict, ss_error *reterr) {
    struct facts now = {0};
    uint64_t lsn = 0;
    ss_status status = read_system(source, &now, reterr);
    if (status == SS_OK)
        status = read_server(source, &now, reterr);
    if (status == SS_OK)
        status = read_slot(source, &now, reterr);
    if (status != SS_OK)
        return status;
    source->reach_lsn = now.lsn;
    identity_text(source, &now, verdict->identity, sizeof verdict->identity);
    if (!*position)
        return first_start(source, &now, intended, reterr);
    if (!ss_postgres_lsn_parse(position, &lsn))
        return ss_fail(
            reterr, SS_STOP, "SS-PG-0055",
            "the spool's position is not one of PostgreSQL; it belongs to another source");
    status = compare_identity(source, identity, &now, lsn, verdict, reterr);
    if (status == SS_OK)
        status = compare_slot(source, &now, lsn, verdict, reterr);
    if (status == SS_OK)
        status = compare_reach(&now, lsn, verdict, reterr);
    if (status == SS_OK && now.slot_pid != 0)
        status = end_predecessor(source, &now, reterr);
    if (status == SS_OK && now.slot_pid != 0)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0049",
                       "slot %s is in use by the source's process %d; waiting until it lets go",
                       source->names.slot, now.slot_pid);
    return status;
}

/* ---- making it
 * ------------------------------------------------------------------------------------------------------
 */

/* If we are told to stop, the creation is cancelled and leaves nothing behind; if it was done just
 * then, the slot is one of a first start cut short (slot_leftover) and made anew by the next. */
ss_status ss_postgres_slot_create(ss_source *source, ss_say_fn say, void *ctx, char *ret_position,
                                  size_t size, ss_error *reterr) {
    char sql[256], what[80];
    PGresult *res = NULL;
    uint64_t lsn;
    /* From 17 on standbys that sync slots take this one over; where none does, it costs nothing.
     * Before, the old spelling of the options: every version from 10 takes it. */
    const char *options = PQserverVersion(source->replication) >= 170000
                              ? "(SNAPSHOT 'nothing', FAILOVER true)"
                              : "NOEXPORT_SNAPSHOT";
    snprintf(sql, sizeof sql, "CREATE_REPLICATION_SLOT \"%s\" LOGICAL pgoutput %s",
             source->names.slot, options);
    snprintf(what, sizeof what, "make slot %s", source->names.slot);
    ss_postgres_await await = {
        .env = source->env, .what = what, .code = "SS-PG-0052", .say = say, .ctx = ctx};
    ss_status status = ss_postgres_await_query(&await, source->replication, sql, &res, reterr);
    if (status != SS_OK)
        return status;
    if (!ss_postgres_lsn_parse(ss_postgres_value(res, 0, 1), &lsn))
        status =
            ss_fail(reterr, SS_STOP, "SS-PG-0052",
                    "the source made slot %s without saying where it starts", source->names.slot);
    PQclear(res);
    if (status != SS_OK)
        return status;
    ss_postgres_lsn_text(lsn, ret_position, size);
    SS_LOG(SS_INFO, "slot_made", SS_S("slot", source->names.slot), SS_S("position", ret_position));
    return SS_OK;
}

ss_status ss_postgres_slot_drop(ss_source *source, ss_error *reterr) {
    const char *params[1] = {source->names.slot};
    ss_status status = ss_postgres_catalog_ready(source, reterr);
    /* Our own walsender needs a moment to let go after its connection was closed. */
    for (int attempt = 0; status == SS_OK; attempt++) {
        struct facts now = {0};
        PGresult *res;
        snprintf(now.dbname, sizeof now.dbname, "%s", PQdb(source->catalog));
        status = read_slot(source, &now, reterr);
        if (status != SS_OK || !now.slot_exists)
            return status;
        if (!now.slot_ours)
            return ss_fail(
                reterr, SS_STOP, "SS-PG-0056",
                "slot %s is not a pgoutput slot of database %s, so it is not dropped; set "
                "another postgres.slot",
                source->names.slot, now.dbname);
        if (now.slot_pid == 0) {
            status =
                ss_postgres_query(source->catalog, "drop the slot",
                                  "SELECT pg_catalog.pg_drop_replication_slot($1::pg_catalog.name)",
                                  1, params, PGRES_TUPLES_OK, &res, reterr);
            if (status == SS_OK) {
                PQclear(res);
                SS_LOG(SS_WARN, "slot_dropped", SS_S("slot", source->names.slot));
                return SS_OK;
            }
            if (status != SS_RETRY || PQstatus(source->catalog) != CONNECTION_OK)
                return status;
        }
        if (attempt == 50)
            return ss_fail(reterr, SS_RETRY, "SS-PG-0049",
                           "slot %s is in use by the source's process %d and cannot be dropped yet",
                           source->names.slot, now.slot_pid);
        status = SS_OK;
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    }
    return status;
}
