/* What a worker thread may ask the source: its position now (for marks) and what it keeps for us
 * (for status). */
#include "agents/postgres/postgres_status.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* Sizes of XLogPageHeaderData and XLogLongPageHeaderData, the same in every version since 9.3. */
#define SHORT_HEADER 24
#define LONG_HEADER 40

uint64_t ss_postgres_lsn_before_header(uint64_t lsn, uint64_t block_size, uint64_t segment_size) {
    if (segment_size && lsn % segment_size == LONG_HEADER)
        return lsn - LONG_HEADER;
    if (block_size && lsn % block_size == SHORT_HEADER &&
        (!segment_size || lsn % segment_size > block_size))
        return lsn - SHORT_HEADER;
    return lsn;
}

/* The insert position covers commits that are not flushed yet (synchronous_commit = off). A
 * walsender only sends what is flushed, and on a quiet server nobody would flush for seconds: a
 * transaction number of our own makes the WAL writer do it. */
ss_status ss_postgres_now_position(const ss_source_env *env, char *ret, size_t size,
                                   ss_error *reterr) {
    PGconn *conn = NULL;
    PGresult *res = NULL;
    uint64_t lsn, flushed;
    ss_status status = ss_postgres_connect(env, false, &conn, reterr);
    if (status != SS_OK)
        return status;
    status = ss_postgres_query(
        conn, "read the source's position",
        "SELECT w.standby, w.lsn, CASE WHEN w.standby THEN w.lsn ELSE "
        "pg_catalog.pg_current_wal_flush_lsn() END,"
        " (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'wal_block_size'),"
        " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) FROM"
        " (SELECT pg_catalog.pg_is_in_recovery() AS standby, CASE WHEN "
        "pg_catalog.pg_is_in_recovery()"
        " THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END "
        "AS lsn) w",
        0, NULL, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        goto out;
    if (!ss_postgres_lsn_parse(ss_postgres_value(res, 0, 1), &lsn) ||
        !ss_postgres_lsn_parse(ss_postgres_value(res, 0, 2), &flushed)) {
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0051",
                         "the source does not say how far its WAL reaches");
        goto out;
    }
    lsn = ss_postgres_lsn_before_header(lsn, strtoull(ss_postgres_value(res, 0, 3), NULL, 10),
                                        strtoull(ss_postgres_value(res, 0, 4), NULL, 10));
    if (flushed < lsn)
        status = ss_postgres_exec(conn, "have the source flush its WAL",
                                  "SELECT pg_catalog.txid_current()", reterr);
    if (status == SS_OK)
        ss_postgres_lsn_text(lsn, ret, size);
out:
    PQclear(res);
    PQfinish(conn);
    return status;
}

/* ---- status
 * -----------------------------------------------------------------------------------------------------------
 */

/* Tables and publication are read without table locks, but the catalogue itself may be locked by a
 * VACUUM FULL of it. */
static const char limits[] = "SELECT pg_catalog.set_config('statement_timeout', '10s', false)";

static ss_status put_slot(PGconn *conn, const ss_postgres_names *names, json_t *out,
                          ss_error *reterr) {
    int version = PQserverVersion(conn);
    char sql[1024];
    snprintf(sql, sizeof sql,
             "SELECT s.active, s.active_pid, s.restart_lsn, s.confirmed_flush_lsn,"
             " pg_catalog.pg_wal_lsn_diff(w.lsn, s.restart_lsn)::pg_catalog.int8,"
             " pg_catalog.pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn)::pg_catalog.int8, %s, %s"
             " FROM (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN "
             "pg_catalog.pg_last_wal_replay_lsn()"
             " ELSE pg_catalog.pg_current_wal_lsn() END AS lsn) w"
             " JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1",
             version >= 130000 ? "s.wal_status, s.safe_wal_size" : "NULL, NULL",
             version >= 170000 ? "s.invalidation_reason" : "NULL");
    const char *params[1] = {names->slot};
    PGresult *res;
    ss_status status =
        ss_postgres_query(conn, "read the slot", sql, 1, params, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    json_object_set_new(out, "slot", json_string(names->slot));
    json_object_set_new(out, "slot_exists", json_boolean(PQntuples(res) > 0));
    static const char *const keys[] = {
        "slot_active", "slot_pid",   "restart_lsn",   "confirmed_flush_lsn", "retained_bytes",
        "lag_bytes",   "wal_status", "safe_wal_size", "invalidation_reason"};
    for (int i = 0; PQntuples(res) > 0 && i < 9; i++) {
        const char *value = ss_postgres_value(res, 0, i);
        json_t *item = PQgetisnull(res, 0, i) ? json_null()
                       : i == 0               ? json_boolean(*value == 't')
                       : i == 1 || i == 4 || i == 5 || i == 7
                           ? json_integer(strtoll(value, NULL, 10))
                           : json_string(value);
        json_object_set_new(out, keys[i], item);
    }
    PQclear(res);
    return SS_OK;
}

static ss_status put_tables(PGconn *conn, const ss_source_env *env, json_t *out, ss_error *reterr) {
    ss_postgres_table *tables;
    size_t count, published = 0;
    ss_arena *arena = ss_arena_new(0);
    if (!arena)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the list of tables");
    ss_status status = ss_postgres_tables_select(conn, env, false, arena, &tables, &count, reterr);
    if (status == SS_OK) {
        json_t *fresh = json_array();
        for (size_t i = 0; i < count; i++) {
            published += tables[i].published;
            if (!tables[i].published)
                json_array_append_new(fresh, json_sprintf("%s.%s", tables[i].ns, tables[i].name));
        }
        json_object_set_new(out, "tables", json_integer((json_int_t)published));
        json_object_set_new(out, "new_tables", fresh);
    } else if (status == SS_STOP && reterr) { /* e.g. a pattern whose last table was dropped: said,
                                                 and the rest stands */
        json_object_set_new(out, "tables_error", json_string(reterr->text));
        status = SS_OK;
    }
    ss_arena_free(arena);
    return status;
}

ss_status ss_postgres_status(const ss_source_env *env, void *json, ss_error *reterr) {
    json_t *out = json;
    ss_postgres_names names;
    PGconn *conn = NULL;
    ss_status status = ss_postgres_names_get(env, &names, reterr);
    if (status == SS_OK)
        status = ss_postgres_connect(env, false, &conn, reterr);
    if (status == SS_OK)
        status = ss_postgres_exec(conn, "limit the status queries", limits, reterr);
    if (status == SS_OK) {
        const char *version = PQparameterStatus(conn, "server_version");
        char server[64];
        snprintf(server, sizeof server, "PostgreSQL %.*s", (int)strcspn(version ? version : "", " "), version ? version : "");
        json_object_set_new(out, "server", json_string(server));
        json_object_set_new(out, "server_version", json_integer(PQserverVersion(conn)));
        json_object_set_new(out, "publication", json_string(names.publication));
        status = put_slot(conn, &names, out, reterr);
    }
    if (status == SS_OK)
        status = put_tables(conn, env, out, reterr);
    PQfinish(conn);
    return status;
}
