/* Commands of a person, handed on by the supervisor. Carried out between batches: nothing is half applied then. */
#include "applier/route.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* The agent must select the table, or it would be asked for in vain for ever. One that the route does not hold yet is asked for at
 * once; of the others only the name is looked at (an agent that is away is asked later, by route_copy.c). */
static ss_status ask_agent(ss_route *r, const char *name, bool known, ss_error *reterr) {
    if (!strchr(name, '.'))
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0011", "%s is not the name of a table; write schema.table", name);
    int fd;
    ss_status st = ss_agent_connect(r->config->spool_path, r->conf->source, &fd, reterr);
    if (st == SS_OK) {
        json_t *answer = NULL;
        st = ss_agent_ask(fd, json_pack("{s:s,s:s,s:[s],s:s}", "op", "copy", "route", r->conf->name, "tables", name, "check", known ? "known" : "new"),
                          10000, NULL, &answer, reterr);
        json_decref(answer);
        close(fd);
    }
    return known && st == SS_RETRY ? SS_OK : st;
}

static ss_status resync(ss_route *r, const json_t *command, ss_error *reterr) {
    json_t *tables = json_object_get(command, "tables"), *name;
    size_t i;
    bool all = !json_is_array(tables) || json_array_size(tables) == 0;
    json_array_foreach(tables, i, name) {
        const char *text = json_string_value(name);
        if (!text)
            return ss_fail(reterr, SS_STOP, "SS-ROUTE-0011", "resync wants names of tables");
        if (strcmp(text, "*") == 0) {
            all = true;
            continue;
        }
        ss_status st = ask_agent(r, text, ss_route_table_named(r, text) != NULL, reterr);
        if (st != SS_OK)
            return st;
    }
    if (all)
        r->resync_all = true;
    else {
        if (!r->resync)
            r->resync = json_array();
        if (!r->resync || json_array_extend(r->resync, tables) != 0)
            return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory for the command");
    }
    SS_LOG(SS_INFO, "resync_asked", SS_S("tables", all ? "all" : "named"));
    return SS_OK;
}

ss_status ss_route_resync_pending(ss_route *r, ss_error *reterr) {
    if (!r->resync_all && !r->resync)
        return SS_OK;
    json_t *name;
    size_t i;
    if (r->resync_all)
        for (i = 0; i < r->table_count; i++)
            ss_route_table_absent(r, &r->tables[i]);
    json_array_foreach(r->resync, i, name) {
        const char *text = json_string_value(name), *dot = text ? strchr(text, '.') : NULL;
        if (!text || !dot || strcmp(text, "*") == 0)
            continue;
        ss_route_table *t = ss_route_table_named(r, text);
        if (!t) {
            char ns[128];
            snprintf(ns, sizeof ns, "%.*s", (int)(dot - text), text);
            ss_status st = ss_route_table_add(r, ns, dot + 1, &t, reterr);
            if (st != SS_OK)
                return st;
        }
        ss_route_table_absent(r, t);
    }
    bool all = r->resync_all;
    ss_progress p = r->progress;
    ss_status st = ss_progress_write(r, &p, reterr);
    if (st != SS_OK)
        return st;
    if (all)
        r->copy.ask_all = true;
    r->resync_all = false;
    json_decref(r->resync);
    r->resync = NULL;
    ss_intake_close(&r->catchup);
    r->copy.next_ask_ms = 0;
    r->copy.one_by_one = false;
    return SS_OK;
}

/* Why the records behind `from` must not be applied a second time, whatever a person says. */
static ss_status replay_refused(ss_route *r, uint64_t from, ss_error *reterr) {
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_table_state *st = &r->tables[i].st;
        if (st->status == SS_TABLE_COPYING || st->status == SS_TABLE_CATCHING_UP)
            return ss_fail(reterr, SS_STOP, "SS-ROUTE-0006", "cannot replay while table %s.%s is %s; wait until it is ready", st->ns, st->name,
                           ss_table_status_name(st->status));
        if (st->status == SS_TABLE_READY && from <= st->from_sequence)
            return ss_fail(reterr, SS_STOP, "SS-ROUTE-0006",
                           "cannot replay from %" PRIu64 ": table %s.%s was copied at sequence %" PRIu64 ", and no change before it is applied to it; "
                           "replay from %" PRIu64 " or later, or resync that table",
                           from, st->ns, st->name, st->from_sequence, st->from_sequence + 1);
    }
    return SS_OK;
}

/* replay: the records from `from` on are applied once more. That is right only for a target whose tables a person put back to just before
 * that place while its bookkeeping (schema sidespool) says more. Else rows of tables without a key come twice and old values return,
 * which nothing notices: hence only with force. */
static ss_status replay_checked(ss_route *r, uint64_t from, bool force, const ss_log_state *log, ss_error *reterr) {
    uint64_t applied = r->progress.sequence;
    if (from < log->first || from > log->committed + 1)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0006", "cannot replay from %" PRIu64 ": the spool holds %" PRIu64 " to %" PRIu64, from, log->first,
                       log->committed);
    if (from > applied + 1)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0006",
                       "cannot replay from %" PRIu64 ": the target has applied up to %" PRIu64 ", and what lies between would be left out", from, applied);
    if (from <= applied && !force)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0006",
                       "the target says that it holds records up to %" PRIu64 "; applying from %" PRIu64 " again doubles rows of tables without a key and "
                       "brings old values back, unnoticed. If all its tables were put back to just before that, add --force", applied, from);
    return from <= applied ? replay_refused(r, from, reterr) : SS_OK;
}

static ss_status replay(ss_route *r, const json_t *command, ss_error *reterr) {
    json_t *from_json = json_object_get(command, "from");
    uint64_t from = json_is_integer(from_json) && json_integer_value(from_json) > 0 ? (uint64_t)json_integer_value(from_json) : 0;
    if (!from)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0011", "replay wants --from SEQ, a sequence of the stream (sidespool spool ls)");
    if (!r->paused && !r->halted)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0006", "route %s is running; first: sidespool pause --route %s", r->conf->name, r->conf->name);
    ss_reader *reader = NULL;
    const ss_log_state *log;
    /* Opened anew: the target may have been put back under a session that is still there. */
    ss_status st = ss_route_session_open(r, reterr);
    if (st != SS_OK)
        return st;
    st = ss_reader_open(r->config->spool_path, r->conf->source, SS_LOG_STREAM, 0, &reader, reterr);
    if (st == SS_OK)
        st = ss_reader_state(reader, &log, reterr);
    if (st == SS_OK)
        st = replay_checked(r, from, json_is_true(json_object_get(command, "force")), log, reterr);
    if (st == SS_OK && from <= r->progress.sequence) {
        SS_LOG(SS_WARN, "replay", SS_U("from", from), SS_U("was", r->progress.sequence),
               SS_S("meaning", "records from there on are applied again, by --force"));
        ss_progress p = r->progress;
        p.sequence = from - 1;
        st = ss_progress_write(r, &p, reterr);
    }
    ss_reader_close(reader);
    ss_route_session_close(r);
    return st;
}

static void go_on(ss_route *r) {
    if (r->halted) { /* said at once: who waits must not take the old reason for the answer to what comes now */
        ss_report_state(r, SS_ROUTE_STARTING, "");
        ss_report_status(r, true);
    }
    r->halted = false;
    r->retry_ms = 0;
    r->failures = 0;
}

/* The answer to a resync comes after the tables are absent on the target and in the status, so that a `wait` behind it waits for the new
 * copy. Without a session (target down, halted, paused) the state says that nothing streams until the next one has done it. */
static void resync_now(ss_route *r) {
    ss_error err = {0};
    if (!r->open || r->paused)
        return;
    if (ss_route_resync_pending(r, &err) == SS_OK) {
        ss_route_show_state(r);
    } else {
        ss_log_error(SS_WARN, "resync_is_put_off", &err); /* it stays asked for */
        ss_route_session_close(r);
        ss_report_state(r, r->blame_target ? SS_ROUTE_WAITING_TARGET : SS_ROUTE_STARTING, err.text);
    }
    ss_report_status(r, true);
}

void ss_route_command(ss_route *r, json_t *command) {
    const char *cmd = json_string_value(json_object_get(command, "cmd"));
    ss_error err = {0};
    ss_status st = SS_OK;
    if (!cmd) {
        st = ss_fail(&err, SS_STOP, "SS-ROUTE-0011", "a command without a name");
    } else if (strcmp(cmd, "pause") == 0) {
        r->paused = true; /* between batches: nothing is being applied */
        ss_verify_cancel(r, "the route was paused");
    } else if (strcmp(cmd, "resume") == 0) {
        r->paused = false;
        go_on(r);
    } else if (strcmp(cmd, "resync") == 0) {
        st = resync(r, command, &err);
        if (st == SS_OK) {
            go_on(r);
            resync_now(r);
        }
    } else if (strcmp(cmd, "replay") == 0) {
        st = replay(r, command, &err);
        if (st == SS_OK)
            go_on(r);
    } else if (strcmp(cmd, "verify_cancel") == 0) {
        const char *id = json_string_value(json_object_get(command, "id"));
        if (id && strcmp(id, ss_verify_id(r)) == 0)
            ss_verify_cancel(r, "nobody waits for it any more");
    } else if (strcmp(cmd, "verify") == 0) {
        ss_report_reply(r, command, NULL);
        ss_verify_start(r, command);
        return;
    } else {
        st = ss_fail(&err, SS_STOP, "SS-ROUTE-0011", "the command %s is not known to this version", cmd);
    }
    ss_report_reply(r, command, st == SS_OK ? NULL : &err);
}
