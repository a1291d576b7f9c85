/* A server's answer as status and sentence. Never DETAIL, CONTEXT or statement text, never a row's
 * value. */
#include "sidespool/link.h"
#include "sidespool/server_message.h"
#include "target_postgres.h"

#include <stdio.h>

static bool in_class(const char *sqlstate, const char *class) {
    return strncmp(sqlstate, class, strlen(class)) == 0;
}

bool ss_tgt_sqlstate_retry(const char *sqlstate) {
    /* 08 connection, 53 resources (disk full, connections, memory), 57P0x shutdown and recovery, 58
     * I/O of the server's host, 25006 a standby or a read-only database, 40 serialization and
     * deadlock, 55P03 lock timeout, 57014 somebody's cancel. */
    static const char *const retry[] = {"08",    "53",    "57P0",  "57014", "58030", "25006",
                                        "40001", "40P01", "40003", "55P03", NULL};
    if (sqlstate[0] == '\0')
        return true;
    for (size_t i = 0; retry[i] != NULL; i++)
        if (in_class(sqlstate, retry[i]))
            return true;
    return false;
}

bool ss_tgt_sqlstate_refusal(const char *sqlstate) {
    return in_class(sqlstate, "23") || in_class(sqlstate, "27000") || in_class(sqlstate, "21000");
}

/* Raised by somebody's code, which may put a row's value under any SQLSTATE: RAISE and ASSERT, the
 * other languages' ways to raise, and whatever failed inside a function (CONTEXT names the language
 * in every translation). */
bool ss_tgt_from_user_code(const PGresult *res) {
    static const char *const functions[] = {
        "exec_stmt_raise", "exec_stmt_assert", "PLy_",     "plperl_",
        "pltcl_",          "throw_tcl_",       "fmgr_sql", NULL};
    const char *function = PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION);
    const char *context = PQresultErrorField(res, PG_DIAG_CONTEXT);
    for (size_t i = 0; function != NULL && functions[i] != NULL; i++)
        if (in_class(function, functions[i]))
            return true;
    return PQresultErrorField(res, PG_DIAG_INTERNAL_QUERY) != NULL ||
           (context != NULL && strstr(context, "PL/") != NULL);
}

void ss_tgt_message(const PGresult *res, char *ret, size_t size) {
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    if (text == NULL)
        text = "no message";
    if (state == NULL || ss_tgt_from_user_code(res)) {
        ss_server_message("P0001", text, ret, size);
        return;
    }
    /* A name that was looked up in vain can be a row's value (regclass, regtype…). With a place in
     * the statement it is the statement's own word, and values are never part of one. */
    bool looked_up = in_class(state, "42") || in_class(state, "3");
    if (looked_up && PQresultErrorField(res, PG_DIAG_STATEMENT_POSITION) == NULL)
        ss_server_message_cut(text, ret, size);
    else
        ss_server_message(state, text, ret, size);
}

static const char *awaited(const char *state) {
    if (in_class(state, "53100"))
        return "the target's disk is full; it goes on when there is room";
    if (in_class(state, "53300"))
        return "the target has no free connection; it goes on when there is one (max_connections)";
    if (in_class(state, "53"))
        return "the target lacks resources; it goes on when there are some";
    if (in_class(state, "25006"))
        return "the target is read-only (a standby, or default_transaction_read_only); it goes on "
               "when it can be written to";
    if (in_class(state, "55P03"))
        return "another session holds a lock on the target's table (see pg_locks; a running verify "
               "holds one while it reads the table); it is tried again";
    if (in_class(state, "40"))
        return "it collided with another session on the target and is tried again";
    if (in_class(state, "57014"))
        return "somebody cancelled the statement on the target; it is tried again";
    return "the target went away; it goes on when it is back";
}

static void put_field(char *text, size_t size, const PGresult *res, int field, const char *label) {
    const char *value = PQresultErrorField(res, field);
    size_t len = strlen(text);
    if (value != NULL && len < size)
        snprintf(text + len, size - len, ", %s %s", label, value);
}

ss_status ss_tgt_error(PGconn *conn, const PGresult *res, const char *what, ss_error *reterr) {
    const char *state = res != NULL ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    char message[300], place[300] = "";
    if (state == NULL) {
        if (ss_tgt_link_is_dead(conn))
            return ss_fail(reterr, SS_RETRY, "SS-TGT-0023",
                           "%s: the target's host has not answered for %d s, so the link is dead; it is "
                           "connected again.",
                           what, SS_LINK_DEAD_MS / 1000);
        /* libpq's own words; a damaged exchange may quote what it read. */
        ss_server_message_cut(PQerrorMessage(conn), message, sizeof message);
        if (PQstatus(conn) != CONNECTION_BAD && message[0] != '\0')
            return ss_fail(reterr, SS_RETRY, "SS-TGT-0005",
                           "%s: the exchange with the target broke (%s); it is connected again.",
                           what, message);
        return ss_fail(reterr, SS_RETRY, "SS-TGT-0005",
                       "%s: the connection to the target was lost (%s); it is connected again.",
                       what, message[0] != '\0' ? message : "no answer");
    }
    ss_tgt_message(res, message, sizeof message);
    if (ss_tgt_sqlstate_retry(state))
        return ss_fail(reterr, SS_RETRY, "SS-TGT-0005", "%s: %s (%s: %s).", what, awaited(state),
                       state, message);
    const char *constraint = PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME);
    if (constraint != NULL && strcmp(constraint, "table_state_one_route") == 0)
        return ss_fail(reterr, SS_STOP, "SS-TGT-0021",
                       "%s: another route writes one of this route's tables on the target (select "
                       "route, ns, name from sidespool.table_state): exclude it in one of them, or "
                       "copy into another database.",
                       what);
    /* These fields are filled by who raises the error, so of user code's they are text like any. */
    if (!ss_tgt_from_user_code(res)) {
        put_field(place, sizeof place, res, PG_DIAG_TABLE_NAME, "table");
        put_field(place, sizeof place, res, PG_DIAG_COLUMN_NAME, "column");
        put_field(place, sizeof place, res, PG_DIAG_CONSTRAINT_NAME, "constraint");
    }
    return ss_fail(reterr, SS_STOP, "SS-TGT-0006",
                   "%s: the target refused it with %s: %s%s; mend the target's table and resume, "
                   "or resync it.",
                   what, state, message, place);
}

ss_status ss_tgt_nomem(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-TGT-0014",
                   "The target's side of the route ran out of memory; the batch is tried again.");
}
