/* Lines between a route and its supervisor (docs/architecture.md, Supervisor and route). The route's thread only. */
#include "applier/route.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#define MOST_LINE ((size_t)8 << 20)
#define LISTED 1000u /* tables named in a status line */

const char *ss_route_state_name(ss_route_state state) {
    static const char *const names[] = {"starting", "copying", "catching_up", "streaming", "paused", "waiting_source", "waiting_target", "halted"};
    return names[state];
}

void ss_report_state(ss_route *r, ss_route_state state, const char *reason) {
    bool same = r->state == state;
    if (same && strcmp(r->reason, reason) == 0)
        return;
    snprintf(r->reason, sizeof r->reason, "%s", reason);
    r->status_due = true;
    if (same)
        return;
    r->state = state;
    r->since_us = ss_route_now_us();
    SS_LOG(SS_INFO, "route_state", SS_S("state", ss_route_state_name(state)), SS_S("reason", reason));
}

/* Writes what is waiting. The supervisor reads all the time; if it does not for long, this waits: there is nobody else to report to. */
void ss_report_flush(ss_route *r) {
    size_t at = 0;
    while (at < r->out.len) {
        ssize_t n = send(r->control, r->out.ptr + at, r->out.len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            at += (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN || r->out.len - at < MOST_LINE)
            break;
        struct pollfd p = {.fd = r->control, .events = POLLOUT};
        if (poll(&p, 1, 1000) < 0 && errno != EINTR)
            break;
    }
    if (at && at < r->out.len)
        memmove(r->out.ptr, r->out.ptr + at, r->out.len - at);
    r->out.len -= at;
}

static bool put_line(ss_route *r, json_t *line) {
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    size_t before = r->out.len;
    if (text) {
        ss_buf_put_str(&r->out, text);
        ss_buf_put_byte(&r->out, '\n');
    }
    bool put = text && !r->out.bad;
    if (!put) { /* half a line would spoil those before and after it */
        r->out.len = before;
        r->out.bad = false;
    }
    free(text);
    return put;
}

void ss_report_line(ss_route *r, json_t *line) {
    if (!put_line(r, line))
        SS_LOG(SS_WARN, "report_lost", SS_S("reason", "out of memory"));
    ss_report_flush(r);
}

/* A status first: whoever waits for the mark judges by the tables' states as they are at it, not by what was said up to a second ago. */
void ss_report_mark(ss_route *r, const char *id) {
    ss_report_status(r, true);
    ss_report_line(r, json_pack("{s:s}", "mark", id));
}

void ss_report_reply(ss_route *r, const json_t *command, const ss_error *err) {
    json_int_t n = json_integer_value(json_object_get(command, "n"));
    json_t *line = err ? json_pack("{s:I,s:b,s:s,s:s}", "reply", n, "ok", 0, "code", err->code ? err->code : "", "error", err->text)
                       : json_pack("{s:I,s:b}", "reply", n, "ok", 1);
    if (!put_line(r, line)) {
        /* Whoever asked would wait for it until his patience ends. */
        char text[160];
        int len = snprintf(text, sizeof text, "{\"reply\":%lld,\"ok\":%s,\"code\":\"%s\",\"error\":\"the route is out of memory\"}\n", (long long)n,
                           err ? "false" : "true", "SS-ROUTE-0003");
        ss_buf_put(&r->out, text, (size_t)len);
        SS_LOG(SS_WARN, "report_lost", SS_S("reason", "out of memory"));
    }
    ss_report_flush(r);
}

/* Records a second over the last seconds. */
static double rate_of(ss_route *r) {
    uint64_t now = ss_route_now_ms(), total = r->applied_total + r->copied_total;
    size_t count = sizeof r->samples / sizeof r->samples[0];
    size_t last = (r->sample_at + count - 1) % count;
    if (r->samples[last].ms + 1000 <= now) {
        r->samples[r->sample_at].ms = now;
        r->samples[r->sample_at].total = total;
        r->sample_at = (r->sample_at + 1) % count;
    }
    size_t oldest = r->sample_at;
    for (size_t i = 0; i < count && (r->samples[oldest].ms == 0 || r->samples[oldest].ms + 6000 < now); i++)
        oldest = (oldest + 1) % count;
    uint64_t span = now - r->samples[oldest].ms;
    return span && r->samples[oldest].ms ? (double)(total - r->samples[oldest].total) * 1000.0 / (double)span : 0.0;
}

static json_t *tables_json(ss_route *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->table_count && i < LISTED; i++) {
        const ss_table_state *st = &r->tables[i].st;
        char name[256];
        snprintf(name, sizeof name, "%s.%s", st->ns, st->name);
        json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:I,s:I}", "name", name, "status", ss_table_status_name(st->status), "rows",
                                              (json_int_t)st->rows, "rows_estimate", (json_int_t)st->rows_estimate, "bytes",
                                              (json_int_t)st->bytes));
    }
    return json_pack("{s:I,s:I,s:o}", "ready", (json_int_t)ss_route_tables_in(r, SS_TABLE_READY), "total", (json_int_t)r->table_count, "list", list);
}

/* Progress for the supervisor: something moved, or nothing waits, or the state says why it stands. A copy waits for the agent. */
static bool progress_made(ss_route *r) {
    uint64_t moved = r->progress.sequence + r->applied_total + r->copied_total + r->copy.read_to + r->stream.whole + r->catchup.whole;
    bool made = moved != r->moved_seen || r->behind_records == 0 || r->doing[0] ||
                (r->state != SS_ROUTE_STREAMING && r->state != SS_ROUTE_CATCHING_UP && (r->state != SS_ROUTE_COPYING || ss_route_stream_waits(r)));
    r->moved_seen = moved;
    return made;
}

void ss_report_status(ss_route *r, bool now) {
    uint64_t ms = ss_route_now_ms();
    bool due = now || (r->status_due && ms >= r->status_ms + 200) || ms >= r->status_ms + 1000;
    if (!due)
        return;
    r->status_ms = ms;
    r->status_due = false;
    const char *reason = r->doing[0] ? r->doing : r->reason;
    json_t *status = json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:o,s:b}", "state", ss_route_state_name(r->state), "reason", reason,
                               "doing", r->doing, "server", r->target_server,
                               "since", (json_int_t)r->since_us, "sequence", (json_int_t)r->progress.sequence, "committed",
                               (json_int_t)r->committed, "behind_records", (json_int_t)r->behind_records, "behind_bytes",
                               (json_int_t)r->behind_bytes, "as_of", (json_int_t)r->progress.as_of, "rate", rate_of(r), "tables",
                               tables_json(r), "progress", progress_made(r));
    ss_report_line(r, json_pack("{s:o}", "status", status));
}

/* By itself, because a status lists the tables, and each table has long steps. */
void ss_report_doing(ss_route *r) {
    ss_report_line(r, json_pack("{s:s,s:s}", "doing", r->doing, "reason", r->doing[0] ? r->doing : r->reason));
}

bool ss_report_read(ss_route *r) {
    for (;;) {
        char part[16384];
        ssize_t n = recv(r->control, part, sizeof part, MSG_DONTWAIT);
        if (n > 0) {
            ss_buf_put(&r->in, part, (size_t)n);
            if (r->in.bad || r->in.len > MOST_LINE)
                return false;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        return n < 0 && errno == EAGAIN;
    }
}

json_t *ss_report_command(ss_route *r) {
    for (;;) {
        uint8_t *end = r->in.len ? memchr(r->in.ptr, '\n', r->in.len) : NULL;
        if (!end)
            return NULL;
        size_t len = (size_t)(end - r->in.ptr) + 1;
        json_t *command = json_loadb((const char *)r->in.ptr, len, 0, NULL);
        memmove(r->in.ptr, r->in.ptr + len, r->in.len - len);
        r->in.len -= len;
        if (json_is_object(command))
            return command;
        json_decref(command);
        SS_LOG(SS_WARN, "command_unreadable", SS_S("route", r->conf->name));
    }
}
