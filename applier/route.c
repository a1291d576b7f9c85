/* The route's loop: commands, then a step of copying, catching up and streaming, then waiting for the agent's wake-up.
 *
 * Whatever fails closes the session. SS_RETRY: it is opened again after a pause that grows, for ever, and the state says what is
 * awaited. SS_STOP: the route is halted, stays alive and serves commands. Either way the next session begins with the target's own
 * progress, which is the truth (promises 1, 2). */
#include "applier/route.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define BACKOFF_FIRST_MS 50u /* a route that is started together with its agent finds the spool a moment later */
#define BACKOFF_MOST_MS 5000u /* a link that is well again is used within ten seconds */
#define CATCHUP_TURNS 4 /* batches of the catch-up for each of the stream, so that it gains on it */

ss_status ss_route_target(ss_route *r, ss_status status) {
    if (status != SS_OK)
        r->blame_target = true;
    return status;
}

bool ss_route_tick(ss_route *r) {
    struct pollfd p = {.fd = r->stop_fd, .events = POLLIN};
    if (poll(&p, 1, 0) > 0)
        r->stopping = true;
    if (!ss_report_read(r))
        r->stopping = true;
    ss_report_status(r, false);
    return r->stopping;
}

void ss_route_doing(ss_route *r, const char *what, const char *table) {
    if (what)
        snprintf(r->doing, sizeof r->doing, "%s %s", what, table);
    else
        r->doing[0] = 0;
    ss_report_doing(r); /* nothing more is said until it is done, and perhaps nothing for long after it */
}

/* ---- a session ------------------------------------------------------------------------------------------------- */

void ss_route_session_close(ss_route *r) {
    if (r->batcher)
        ss_batcher_reset(r->batcher);
    if (r->spare)
        ss_batcher_reset(r->spare);
    ss_intake_close(&r->stream);
    ss_intake_close(&r->catchup);
    ss_route_copy_close(r);
    ss_cursors_close(r->cursors);
    r->cursors = NULL;
    if (r->target)
        r->ops->close(r->target);
    r->target = NULL;
    r->batch++;
    r->open = false;
}

/* What the log says of itself; strings in `keep`. Also of a log that holds nothing at the place we want. */
static ss_status log_state(ss_route *r, ss_log_kind kind, ss_log_state *ret, char *position, size_t size, ss_error *reterr) {
    ss_reader *reader;
    const ss_log_state *state;
    ss_status st = ss_reader_open(r->config->spool_path, r->conf->source, kind, 0, &reader, reterr);
    if (st != SS_OK)
        return st;
    st = ss_reader_state(reader, &state, reterr);
    if (st == SS_OK) {
        *ret = *state;
        snprintf(position, size, "%s", state->position ? state->position : "");
        ret->position = position;
        ret->identity = NULL;
    }
    ss_reader_close(reader);
    return st;
}

typedef struct { const char *name; uint64_t copy, stream; } own_cursor;
static void find_cursor(void *ctx, const char *consumer, uint64_t copy, uint64_t stream) {
    own_cursor *c = ctx;
    if (strcmp(consumer, c->name) == 0) {
        c->copy = copy;
        c->stream = stream;
    }
}

/* A target that no route of this name has written: begins at the spool's end, since nothing it holds is older. Saved before a copy is
 * asked for, so that the CopyBegin that answers it stands behind this place even if we die in between. */
static ss_status begin_fresh(ss_route *r, const ss_log_state *log, ss_error *reterr) {
    ss_log_state copy = {0};
    char position[512];
    ss_error err = {0};
    ss_status st = log_state(r, SS_LOG_COPY, &copy, position, sizeof position, &err);
    if (st != SS_OK && !(err.code && strcmp(err.code, SS_SPOOL_ABSENT) == 0)) {
        *reterr = err;
        return st;
    }
    ss_progress p = {.exists = true, .epoch = log->epoch, .sequence = log->committed, .copy_sequence = copy.committed};
    snprintf(p.spool_id, sizeof p.spool_id, "%s", log->spool_id);
    snprintf(p.position, sizeof p.position, "%s", log->position);
    r->progress = p;
    r->copy.read_to = p.copy_sequence;
    st = ss_progress_cursors(r, true, reterr);
    if (st != SS_OK)
        return st;
    SS_LOG(SS_INFO, "route_begins", SS_U("sequence", p.sequence));
    return ss_progress_write(r, &p, reterr);
}

static ss_status take_up(ss_route *r, const ss_log_state *log, ss_error *reterr) {
    if (!r->progress.exists && !r->progress.ours_before)
        return begin_fresh(r, log, reterr);
    ss_status st = ss_progress_judge(&r->progress, log, r->conf->name, reterr);
    if (st == SS_STOP && (r->conf->on_gap == SS_ON_GAP_RESYNC || r->resync_all)) {
        ss_log_error(SS_WARN, "gap_answered_by_resync", reterr);
        ss_log_state copy = {0};
        char position[512];
        ss_error err = {0};
        st = log_state(r, SS_LOG_COPY, &copy, position, sizeof position, &err);
        if (st != SS_OK && !(err.code && strcmp(err.code, SS_SPOOL_ABSENT) == 0)) {
            *reterr = err;
            return st;
        }
        r->copy.read_to = copy.committed;
        return ss_progress_rebuild(r, log, reterr);
    }
    if (st != SS_OK)
        return st;
    own_cursor own = {.name = r->conf->name};
    st = ss_cursors_each(r->cursors, find_cursor, &own, reterr);
    if (st == SS_OK && own.stream > r->progress.sequence && ss_route_tables_in(r, SS_TABLE_READY))
        SS_LOG(SS_WARN, "target_is_older", SS_U("sequence", r->progress.sequence), SS_U("was", own.stream),
               SS_S("meaning", "the target was put back to an older state; the spool still holds all that follows and it is applied again"));
    r->copy.read_to = r->progress.copy_sequence;
    return st;
}

static ss_status session_open(ss_route *r, ss_error *reterr) {
    ss_log_state log = {0};
    char position[512];
    ss_status st = log_state(r, SS_LOG_STREAM, &log, position, sizeof position, reterr);
    if (st == SS_OK) {
        r->committed = log.committed; /* what waits is also right while the target is away */
        if (r->progress.exists && log.committed > r->progress.sequence)
            r->behind_records = log.committed - r->progress.sequence;
    }
    if (st == SS_OK)
        st = ss_cursors_open(r->config->spool_path, r->conf->source, &r->cursors, reterr);
    if (st != SS_OK)
        return st;
    st = ss_route_target(r, r->ops->open(&r->env, &r->target, reterr));
    if (st != SS_OK) {
        r->target = NULL;
        return st;
    }
    if (r->ops->server)
        r->ops->server(r->target, r->target_server, sizeof r->target_server);
    memset(&r->progress, 0, sizeof r->progress);
    st = ss_route_target(r, r->ops->progress(r->target, &r->progress, reterr));
    if (st == SS_OK)
        st = ss_route_tables_load(r, reterr);
    if (st == SS_OK)
        st = take_up(r, &log, reterr);
    if (st == SS_OK)
        st = ss_progress_cursors(r, true, reterr);
    if (st == SS_OK)
        st = ss_intake_open(r, &r->stream, false, r->progress.sequence + 1, reterr);
    if (st != SS_OK)
        return st;
    r->committed = log.committed;
    for (size_t i = 0; i < r->table_count; i++) /* the newest CopyBegin that was met: what is older has ended */
        if (r->tables[i].st.generation > r->copy.passed + 1)
            r->copy.passed = r->tables[i].st.generation - 1;
    r->copy.ask_all = r->copy.ask_all || r->table_count == 0;
    r->finish_due = ss_route_all_ready(r);
    r->open = true;
    return SS_OK;
}

ss_status ss_route_session_open(ss_route *r, ss_error *reterr) {
    ss_route_session_close(r);
    r->blame_target = false;
    ss_status st = session_open(r, reterr);
    if (st != SS_OK)
        ss_route_session_close(r);
    return st;
}

/* ---- a step ---------------------------------------------------------------------------------------------------- */

/* What waits, and whether the log has moved to an epoch whose Gap record never came. */
static ss_status look(ss_route *r, bool at_end, ss_error *reterr) {
    if (r->stream.held)
        return SS_OK; /* asking the reader would take the record away */
    const ss_log_state *log;
    ss_status st = ss_reader_state(r->stream.reader, &log, reterr);
    if (st != SS_OK)
        return st;
    r->committed = log->committed;
    bool settled = at_end && r->stream.whole >= log->committed;
    /* A new epoch without a position is one whose Gap record the agent is about to write. */
    if (settled && *log->position && (log->epoch != r->progress.epoch || strcmp(log->spool_id, r->progress.spool_id) != 0))
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0001", "the spool moved from epoch %" PRIu64 " to %" PRIu64 " without saying where; run: sidespool resync --route %s",
                       r->progress.epoch, log->epoch, r->conf->name);
    st = ss_reader_behind(r->stream.reader, &r->behind_records, &r->behind_bytes, reterr);
    if (st == SS_OK && settled)
        r->behind_records = r->behind_bytes = 0;
    return st;
}

/* "streaming" is said only when every table is ready and what stands on several is built: else rows of some are missing or old, or there
 * is no view of them yet, whatever the stream has reached. */
ss_route_state ss_route_state_now(ss_route *r) {
    if (ss_route_all_ready(r))
        return r->finish_due ? SS_ROUTE_CATCHING_UP : SS_ROUTE_STREAMING;
    size_t absent = ss_route_tables_in(r, SS_TABLE_ABSENT);
    if (ss_route_tables_in(r, SS_TABLE_COPYING) || !ss_route_tables_in(r, SS_TABLE_CATCHING_UP))
        return absent == r->table_count && r->copy.ask_trouble[0] ? SS_ROUTE_WAITING_SOURCE : SS_ROUTE_COPYING;
    return SS_ROUTE_CATCHING_UP;
}

void ss_route_show_state(ss_route *r) {
    ss_route_state state = ss_route_state_now(r);
    size_t ready = ss_route_tables_in(r, SS_TABLE_READY), absent = ss_route_tables_in(r, SS_TABLE_ABSENT);
    const ss_route_copy *c = &r->copy;
    const char *trouble = c->ask_trouble[0] ? c->ask_trouble : c->ended_aborted ? c->ended_reason : "";
    char tables[240], reason[SS_ERROR_TEXT + 64] = "";
    ss_route_tables_waiting(r, tables, sizeof tables);
    if (state == SS_ROUTE_STREAMING)
        ;
    else if (absent == r->table_count)
        snprintf(reason, sizeof reason, "%s", trouble[0] ? trouble : "waiting for the agent to begin the copy");
    else if (absent)
        snprintf(reason, sizeof reason, "%zu of %zu tables not ready: %s%s%.200s", r->table_count - ready, r->table_count, tables,
                 trouble[0] ? "; " : "", trouble);
    else if (ready == r->table_count)
        snprintf(reason, sizeof reason, "foreign keys, views and sequences come next");
    else if (ready)
        snprintf(reason, sizeof reason, "%zu of %zu tables not ready: %s", r->table_count - ready, r->table_count, tables);
    ss_report_state(r, state, reason);
}

/* SS_OK: something was done; SS_BUSY: nothing to do now. */
static ss_status step(ss_route *r, ss_error *reterr) {
    ss_status st = ss_route_resync_pending(r, reterr);
    if (st == SS_OK && r->finish_due)
        st = ss_route_finish(r, reterr);
    if (st != SS_OK)
        return st;
    bool did = false, at_end = false;
    if (ss_route_tables_in(r, SS_TABLE_COPYING) || ss_route_now_ms() >= r->copy_look_ms) {
        st = ss_route_copy_step(r, reterr);
        if (st != SS_OK && st != SS_BUSY)
            return st;
        did = st == SS_OK;
        r->copy_look_ms = did ? 0 : ss_route_now_ms() + 1000;
    }
    for (int i = 0; i < CATCHUP_TURNS; i++) {
        st = ss_route_catchup_step(r, reterr);
        if (st == SS_BUSY)
            break;
        if (st != SS_OK)
            return st;
        did = true;
    }
    if (!ss_route_stream_waits(r)) {
        st = ss_intake_run(r, &r->stream, reterr);
        if (st != SS_OK && st != SS_BUSY)
            return st;
        did = did || st == SS_OK;
        at_end = st == SS_BUSY;
    }
    if (!did || ss_route_now_ms() >= r->look_ms) {
        r->look_ms = ss_route_now_ms() + 500;
        st = look(r, at_end, reterr);
        if (st != SS_OK)
            return st;
    }
    if (r->progress_dirty && !r->stream.partial_open && ss_route_now_ms() >= r->wrote_ms + 1000) {
        ss_progress p = r->progress;
        if (!r->copy.dirty)
            p.copy_sequence = r->copy.read_to;
        st = ss_progress_write(r, &p, reterr);
        if (st != SS_OK)
            return st;
    }
    if (!did && at_end) {
        st = ss_route_copy_ask(r, reterr);
        if (st != SS_OK && st != SS_BUSY)
            return st;
    }
    ss_route_show_state(r);
    if (did)
        return SS_OK;
    /* The last move within a second is written late. Were it left for the next batch, an agent whose spool is full would wait for room
     * that is there, and we for a batch that it cannot capture. */
    st = ss_progress_cursors(r, false, reterr);
    return st == SS_OK ? SS_BUSY : st;
}

/* ---- failing --------------------------------------------------------------------------------------------------- */

static void failed(ss_route *r, ss_status st, const ss_error *err) {
    bool again = r->again;
    r->again = false;
    ss_route_session_close(r);
    if (again)
        return;
    char reason[SS_ERROR_TEXT + 48];
    snprintf(reason, sizeof reason, "%s (%s)", err->text, err->code ? err->code : "no code");
    if (st == SS_STOP) {
        ss_log_error(SS_ERROR, "route_halted", err);
        r->halted = true;
        r->careful_until = 0;
        ss_report_state(r, SS_ROUTE_HALTED, reason);
        ss_verify_cancel(r, "the route has halted");
        return;
    }
    uint64_t wait = (uint64_t)BACKOFF_FIRST_MS << (r->failures < 8 ? r->failures : 8);
    if (wait > BACKOFF_MOST_MS)
        wait = BACKOFF_MOST_MS;
    wait = wait / 2 + (uint64_t)random() % (wait / 2 + 1);
    r->retry_ms = ss_route_now_ms() + wait;
    if (r->failures++ == 0 || strncmp(r->reason, reason, sizeof reason) != 0)
        ss_log_error(SS_WARN, r->blame_target ? "target_not_available" : "source_not_available", err);
    ss_report_state(r, r->blame_target ? SS_ROUTE_WAITING_TARGET : SS_ROUTE_WAITING_SOURCE, reason);
    ss_verify_cancel(r, r->reason); /* it holds a snapshot of the source, and nobody knows for how long */
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static void wait_for_something(ss_route *r, int timeout_ms) {
    struct pollfd p[4] = {{.fd = r->control, .events = POLLIN}, {.fd = r->stop_fd, .events = POLLIN},
                          {.fd = r->wake_fd, .events = POLLIN}, {.fd = ss_verify_fd(r), .events = POLLIN}};
    if (poll(p, 4, timeout_ms) < 0 && errno != EINTR) {
        SS_LOG(SS_ERROR, "poll_failed", SS_I("errno", errno));
        r->stopping = true;
    }
    if (p[1].revents)
        r->stopping = true;
    if (p[2].revents && r->wake_fd >= 0)
        ss_agent_wake_drain(r);
}

static void serve(ss_route *r) {
    if (!ss_report_read(r))
        r->stopping = true; /* the supervisor is gone: so do we, another one would start a route beside us */
    json_t *command;
    while (!r->stopping && (command = ss_report_command(r)) != NULL) {
        ss_route_command(r, command);
        json_decref(command);
    }
    ss_verify_poll(r);
}

/* One turn. Returns how long nothing can be expected, in ms. */
static int turn(ss_route *r) {
    if (r->halted)
        return 1000;
    if (r->paused) {
        ss_report_state(r, SS_ROUTE_PAUSED, "paused by a person; sidespool resume goes on");
        return 1000;
    }
    uint64_t now = ss_route_now_ms();
    if (now < r->retry_ms)
        return (int)(r->retry_ms - now < 1000 ? r->retry_ms - now : 1000);
    ss_error err = {0};
    r->blame_target = false;
    ss_status st = r->open ? step(r, &err) : ss_route_session_open(r, &err);
    if (st == SS_OK || st == SS_BUSY) {
        if (r->open)
            r->failures = st == SS_BUSY || r->applied_total != r->applied_seen ? 0 : r->failures;
        r->applied_seen = r->applied_total;
        return st == SS_BUSY ? 1000 : 0;
    }
    failed(r, st, &err);
    return 0;
}

int ss_route_run(ss_route *r) {
    r->since_us = ss_route_now_us();
    while (!r->stopping) {
        serve(r);
        if (r->stopping)
            break;
        ss_agent_wake_connect(r);
        int idle = turn(r);
        ss_report_status(r, false);
        if (r->wake_fd < 0 && idle > 200 && r->open)
            idle = 200; /* nobody wakes us: look often */
        wait_for_something(r, r->status_due && idle > 200 ? 200 : idle);
    }
    ss_verify_cancel(r, "the route is ending");
    while (r->verify) {
        struct pollfd p = {.fd = ss_verify_fd(r), .events = POLLIN};
        poll(&p, 1, 200);
        ss_verify_poll(r);
    }
    ss_route_session_close(r);
    return SS_EXIT_DONE;
}
