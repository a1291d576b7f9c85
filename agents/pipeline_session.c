/* One connection's life: connect, compare histories, stream, flush, release. Capture thread only.
 *
 * The order that promise 1 rests on is in tell_durable: fsynced commit first, then release. */
#include "agents/pipeline_internal.h"

#include "sidespool/log.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define POLL_WAIT_MS 500
#define NUDGE_QUIET_MS 1000 /* a quiet source is asked how far it is, so that lag and wait move */
#define NUDGE_MARKER_MS 200 /* the same while a marker waits */
#define FULL_RETRY_MS 500
#define GATHER_US 200
#define GATHER_MANY 64
#define SAY_PREPARING_MS 10000

bool ss_pipeline_stopping(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    bool stop = p->stop;
    pthread_mutex_unlock(&p->mutex);
    return stop;
}

static void set_prepared(ss_pipeline *p, bool prepared) {
    pthread_mutex_lock(&p->mutex);
    p->prepared = prepared;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->mutex);
}

/* ---- durable, then released
 * --------------------------------------------------------------------------------------- */

static ss_status release(ss_pipeline *p, const char *position, ss_error *reterr) {
    if (p->source == NULL || position[0] == '\0' || strcmp(position, p->released) == 0)
        return SS_OK;
    ss_status status = p->setup.ops->release(p->source, position, reterr);
    if (status != SS_OK)
        return status == SS_BUSY ? SS_OK
                                 : status; /* not taken now: said again with the next flush */
    snprintf(p->released, sizeof p->released, "%s", position);
    ss_agent_status_released(p->setup.status, position);
    return SS_OK;
}

/* No room, or the disk refuses: kept in memory, flushed again. */
static ss_status flush_failed(ss_pipeline *p, ss_status status, const ss_error *err, ss_error *reterr) {
    if (reterr != NULL)
        *reterr = *err;
    if (status == SS_BUSY || status == SS_RETRY) {
        ss_pipeline_set_full(p, err);
        return SS_BUSY;
    }
    p->spool_failed = true;
    return status;
}

/* Markers go on being written while a commit is under way: told are those that stood in the log before it. */
static void tell_markers(ss_pipeline *p, uint64_t committed) {
    uint64_t durable = p->noted_sequence <= committed ? p->marker_noted : 0;

    if (p->marker_sequence <= committed)
        durable = p->marker_written;
    if (p->noted_sequence <= committed) {
        p->marker_noted = p->marker_written;
        p->noted_sequence = p->marker_sequence;
    }
    pthread_mutex_lock(&p->mutex);
    if (durable > p->marker_durable) {
        p->marker_durable = durable;
        pthread_cond_broadcast(&p->cond);
    }
    pthread_mutex_unlock(&p->mutex);
}

static ss_status tell_durable(ss_pipeline *p, ss_error *reterr) {
    const ss_log_state *state = ss_log_get_state(p->log);

    if (p->whole_sequence <= state->committed)
        p->whole_pending = false;
    p->told = state->committed;
    ss_backoff_reset(&p->backoff);
    ss_agent_status_source_time(p->setup.status, p->source_time, p->records);
    ss_agent_status_last_change(p->setup.status, p->last_change);
    ss_agent_status_committed(p->setup.status, state, NULL);
    tell_markers(p, state->committed);
    return release(p, state->position, reterr);
}

/* Commits what has gathered (or all, with `now`), then tells the source.
 * If we die before the commit, the source sends everything behind its last release again, and
 * recovery has removed what was half written. If we die between commit and release, the source only
 * keeps its log a little longer: at the next start we resume from the position that the commit
 * holds, so nothing comes twice. */
ss_status ss_pipeline_flush(ss_pipeline *p, bool now, ss_error *reterr) {
    bool committed = false;
    ss_error err = {0};

    if (now && !p->whole_pending && ss_log_pending(p->log) == 0)
        return SS_OK;
    ss_status status = ss_log_flush(p->log, now, &committed, &err);
    if (status != SS_OK)
        return flush_failed(p, status, &err, reterr);
    return committed || now ? tell_durable(p, reterr) : SS_OK;
}

/* Keeps commits under way while the source is read, and tells what has become durable since the last turn. */
static ss_status flush_beside(ss_pipeline *p, ss_log_turn *ret, ss_error *reterr) {
    ss_error err = {0};

    ss_status status = ss_log_flush_beside(p->log, p->request_fd, ret, &err);
    if (status != SS_OK)
        return flush_failed(p, status, &err, reterr);
    return ss_log_get_state(p->log)->committed > p->told ? tell_durable(p, reterr) : SS_OK;
}

/* ---- connecting
 * ---------------------------------------------------------------------------------------------------
 */

/* While there is no room for a new history's first record: routes make it, and we trim. */
static ss_status wait_for_room(ss_pipeline *p, ss_error *reterr) {
    ss_agent_state_set(p->setup.status, SS_AGENT_SPOOL_FULL, NULL, &p->full_error);
    ss_pipeline_wait(p, FULL_RETRY_MS);
    return ss_pipeline_stopping(p)
               ? ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping")
               : SS_OK;
}

/* Appends `record` as a whole unit up to `position` and makes it durable, however long there is no
 * room: nothing else may come before it. */
static ss_status append_durable(ss_pipeline *p, const Sidespool__Record *record,
                                const char *position, ss_error *reterr) {
    ss_status status;

    snprintf(p->captured, sizeof p->captured, "%s", position);
    while ((status = ss_pipeline_append(p, record, reterr)) == SS_BUSY) {
        status = wait_for_room(p, reterr);
        if (status != SS_OK)
            return status;
    }
    if (status != SS_OK)
        return status;
    ss_pipeline_whole(p);
    while ((status = ss_pipeline_flush(p, true, reterr)) == SS_BUSY) {
        status = wait_for_room(p, reterr);
        if (status != SS_OK)
            return status;
    }
    if (status == SS_OK)
        p->full = false;
    return status;
}

/* As append_durable, up to what has been captured. If there is no room the session ends and comes back. */
ss_status ss_pipeline_put_durable(ss_pipeline *p, ss_bytes record, ss_error *reterr) {
    ss_status status = ss_pipeline_append_bytes(p, record, 0, reterr);
    if (status == SS_OK) {
        ss_pipeline_whole(p);
        status = ss_pipeline_flush(p, true, reterr);
    }
    return status == SS_BUSY ? SS_RETRY : status;
}

/* What prepare waits for, as the state's reason; not each second, because a new reason is a line in
 * the log. */
static bool say_preparing(void *ctx, const char *awaited) {
    ss_pipeline *p = ctx;
    int64_t now = ss_monotonic_ms();

    ss_agent_status_turned(p->setup.status);
    if (now - p->second_ms >= SAY_PREPARING_MS) {
        p->second_ms = now;
        ss_agent_state_set(p->setup.status, SS_AGENT_STARTING, awaited, NULL);
    }
    return !ss_pipeline_stopping(p);
}

/* Prepares the source and writes the history's first record: Gap with a `gap`, else Idle. The log
 * has an identity and no position. If we die before that record is durable, the next start finds
 * the same, knows by it that a slot of our name is our own half-made one, from which nothing was
 * taken, drops it and comes here again. */
static ss_status begin_history(ss_pipeline *p, const char *gap, ss_error *reterr) {
    const ss_source_ops *ops = p->setup.ops;
    char position[SS_POSITION_MAX] = "";
    ss_source_verdict made = {0};
    Sidespool__Idle idle = SIDESPOOL__IDLE__INIT;
    Sidespool__Gap begins = SIDESPOOL__GAP__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;

    ss_agent_state_set(
        p->setup.status, SS_AGENT_STARTING,
        gap == NULL ? "preparing the source; it may first wait for its running transactions to end"
                    : "starting afresh after a gap; the source may first wait for its running "
                      "transactions to end",
        NULL);
    ss_status status = ops->prepare(p->source, say_preparing, p, position, sizeof position, reterr);
    /* What prepare made is part of the identity that later starts compare. */
    if (status == SS_OK && ops->identity != NULL) {
        status = ops->identity(p->source, made.identity, sizeof made.identity, reterr);
        if (status == SS_OK)
            status = ss_log_set_identity(p->log, made.identity, false, reterr);
    }
    if (status != SS_OK)
        return status;
    if (gap == NULL) {
        idle.position = position;
        idle.time = ss_now_us();
        record.body_case = SIDESPOOL__RECORD__BODY_IDLE;
        record.idle = &idle;
    } else {
        begins.epoch = ss_log_get_state(p->log)->epoch;
        begins.reason = (char *)(uintptr_t)gap; /* packed, never written to */
        begins.position = position;
        record.body_case = SIDESPOOL__RECORD__BODY_GAP;
        record.gap = &begins;
    }
    p->released[0] = '\0';
    return append_durable(p, &record, position, reterr);
}

/* The log has no position: the very first start, or one after a life that died in one. With records
 * or a later epoch it was a gap that was being answered: then the new history begins with its Gap,
 * whatever on_gap says now, because the old one is void since the epoch moved. */
static ss_status first_start(ss_pipeline *p, const char *identity, ss_error *reterr) {
    const ss_log_state *state = ss_log_get_state(p->log);
    bool gap = state->epoch > 1 || state->committed > 0;

    ss_status status = ss_log_set_identity(p->log, identity, false, reterr);
    if (status != SS_OK)
        return status;
    return begin_history(
        p, gap ? "the source's history was broken, and the agent ended while it began anew" : NULL,
        reterr);
}

/* The history is broken and the file says resync: everything of the old history is void, a new
 * epoch begins. If we die before the epoch is durable, the next start sees the same gap (reset
 * removed the slot); if we die behind it, the log has no position any more, and the next start goes
 * on in first_start: it never takes the old position for one of the new history. */
static ss_status new_history(ss_pipeline *p, const char *identity, const char *reason,
                             ss_error *reterr) {
    set_prepared(p, false);
    pthread_mutex_lock(&p->mutex);
    p->history++;
    uint64_t incoming = ss_markers_newest(&p->incoming), waiting = ss_markers_newest(&p->markers);
    if (incoming > p->marker_written)
        p->marker_written = incoming;
    if (waiting > p->marker_written)
        p->marker_written = waiting;
    size_t dropped = ss_markers_clear(&p->incoming) + ss_markers_clear(&p->markers);
    p->marker_count = 0;
    pthread_mutex_unlock(&p->mutex);
    SS_LOG(SS_WARN, "gap_resync", SS_S("reason", reason), SS_U("markers_dropped", dropped));
    if (p->setup.history_broke != NULL)
        p->setup.history_broke(p->setup.ctx, reason);

    ss_status status = p->setup.ops->reset(p->source, reterr);
    if (status != SS_OK)
        return status;
    status = ss_log_set_identity(p->log, identity, true, reterr);
    return status == SS_OK ? begin_history(p, reason, reterr) : status;
}

static ss_status answer_gap(ss_pipeline *p, ss_source_verdict *verdict, ss_error *reterr) {
    ss_error gap = *reterr;

    if (p->setup.on_gap != SS_ON_GAP_RESYNC) {
        ss_fail(reterr, SS_STOP, gap.code != NULL ? gap.code : "SS-AGENT-0004",
                "%s. Nothing is taken until a person decides: set on_gap: resync and restart to "
                "copy everything anew",
                gap.text);
        return SS_STOP;
    }
    if (p->source ==
        NULL) { /* the engine closed it: open again without a history of ours to compare with */
        ss_status status =
            p->setup.ops->open(p->setup.env, "", "", true, &p->source, verdict, reterr);
        if (status != SS_OK)
            return status;
    }
    return new_history(p, verdict->identity, gap.text, reterr);
}

static ss_status connect_source(ss_pipeline *p, ss_error *reterr) {
    const ss_source_ops *ops = p->setup.ops;
    const ss_log_state *state = ss_log_get_state(p->log);
    ss_source_verdict verdict = {0};
    ss_log_forget_schemas(p->log); /* the new connection says those that it uses */
    p->schemas_ms = ss_monotonic_ms();
    bool intended = state->identity[0] != '\0' && state->position[0] == '\0';
    bool begins = state->position[0] == '\0'; /* or a gap is answered: a new history */

    if (ss_agent_state_get(p->setup.status) == SS_AGENT_STARTING)
        ss_agent_state_set(p->setup.status, SS_AGENT_STARTING, "connecting to the source", NULL);
    ss_status status = ops->open(p->setup.env, state->identity, state->position, intended,
                                 &p->source, &verdict, reterr);
    if (status == SS_STOP && verdict.gap) {
        begins = true;
        status = answer_gap(p, &verdict, reterr);
    } else if (status == SS_OK && state->position[0] == '\0')
        status = first_start(p, verdict.identity, reterr);
    else if (status == SS_OK && strcmp(verdict.identity, state->identity) != 0)
        status = ss_log_set_identity(p->log, verdict.identity, false, reterr);
    if (status != SS_OK)
        return status;

    state = ss_log_get_state(p->log);
    snprintf(p->captured, sizeof p->captured, "%s", state->position);
    p->released[0] = '\0';
    /* Before streaming goes on: a table that left must be noted before its changes are dropped, and one
     * that broke must be told of before its changes come again. */
    status = ss_pipeline_compare_at_start(p, begins, reterr);
    if (status != SS_OK)
        return status;
    status = ops->start(p->source, p->captured, reterr);
    if (status == SS_OK)
        set_prepared(p, true);
    return status;
}

/* ---- the loop
 * -----------------------------------------------------------------------------------------------------
 */

typedef struct {
    bool stop, hold, paused, held;
} turn_requests;

/* One critical section: what another thread handed over before it lifted its hold is in our list
 * before we take again. */
static turn_requests take_requests(ss_pipeline *p) {
    uint64_t count;
    ssize_t n = read(p->request_fd, &count, sizeof count);
    (void)n;
    turn_requests turn;

    pthread_mutex_lock(&p->mutex);
    if (p->incoming.first != NULL) {
        *p->markers.last = p->incoming.first;
        p->markers.last = p->incoming.last;
        ss_markers_init(&p->incoming);
    }
    turn.stop = p->stop;
    turn.paused = p->paused;
    turn.held = p->holds > 0;
    turn.hold = turn.paused || turn.held || p->full;
    p->taking = !turn.hold && !turn.stop;
    pthread_mutex_unlock(&p->mutex);
    return turn;
}

static void stop_taking(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    if (p->taking) {
        p->taking = false;
        pthread_cond_broadcast(&p->cond);
    }
    pthread_mutex_unlock(&p->mutex);
}

static void say_state(ss_pipeline *p, const turn_requests *turn) {
    ss_error trouble = {0};

    if (p->full)
        ss_agent_state_set(p->setup.status, SS_AGENT_SPOOL_FULL, NULL, &p->full_error);
    else if (turn->paused)
        ss_agent_state_set(p->setup.status, SS_AGENT_PAUSED,
                           "paused by request; the source keeps its log until resume", NULL);
    else if (p->setup.ops->trouble != NULL && p->setup.ops->trouble(p->source, &trouble))
        ss_agent_state_set(p->setup.status, SS_AGENT_WAITING_SOURCE, NULL, &trouble);
    else
        ss_agent_state_set(p->setup.status, SS_AGENT_STREAMING,
                           turn->held ? "waits for a snapshot of the source to be taken" : NULL,
                           NULL);
}

static ss_status each_second(ss_pipeline *p, ss_error *reterr) {
    int64_t now = ss_monotonic_ms();
    uint64_t removed = 0, used = 0, quota = 0;
    ss_error err = {0};

    if (now - p->second_ms < 1000)
        return SS_OK;
    p->second_ms = now;
    ss_status status = ss_log_trim(p->log, &removed, &err);
    if (status == SS_OK)
        status = ss_spool_usage(p->setup.spool, &used, &quota, &err);
    if (status == SS_STOP) {
        p->spool_failed = true;
        *reterr = err;
        return SS_STOP;
    }
    if (status == SS_OK)
        ss_agent_status_usage(p->setup.status, used, quota);
    else
        ss_log_error(SS_WARN, "trim_failed", &err); /* the next second tries again */
    if (removed > 0)
        ss_agent_status_committed(p->setup.status, ss_log_get_state(p->log), NULL);
    ss_agent_status_source_time(p->setup.status, p->source_time, p->records);
    ss_agent_status_last_change(p->setup.status, p->last_change);
    return SS_OK;
}

static ss_status nudge(ss_pipeline *p, ss_error *reterr) {
    int64_t now = ss_monotonic_ms();
    bool marker = ss_pipeline_marker_waits(p);
    int64_t since = now - p->nudged_ms;

    if (!(marker && since >= NUDGE_MARKER_MS) &&
        !(now - p->heard_ms >= NUDGE_QUIET_MS && since >= NUDGE_QUIET_MS))
        return SS_OK;
    p->nudged_ms = now;
    ss_status status = p->setup.ops->nudge(p->source, reterr);
    return status == SS_BUSY ? SS_OK : status;
}

/* While there is no room: what is in memory is flushed again, and then one call is let through to
 * see whether it fits. */
static bool may_try_again(ss_pipeline *p, ss_status *ret_status, ss_error *reterr) {
    int64_t now = ss_monotonic_ms();

    *ret_status = SS_OK;
    if (!p->full || now < p->full_retry_ms)
        return false;
    p->full_retry_ms = now + FULL_RETRY_MS;
    ss_error err = {0};
    ss_status status = ss_pipeline_flush(p, true, &err);
    if (status == SS_BUSY)
        return false;
    if (status != SS_OK) {
        *ret_status = status;
        *reterr = err;
        return false;
    }
    p->full = false;
    return true;
}

/* While a busy source's records cannot be committed yet, nothing is gained by taking each as it comes: every message would
 * wake this thread, and cost the source the waking. So they gather where they are, until the commit has ended or the next one
 * is due; when many come, for so short a while that a source whose socket holds a few hundred messages (a walsender's over a
 * Unix socket: about 270) is not stopped by it. */
static void gather(ss_pipeline *p, const ss_log_turn *log) {
    struct pollfd wake = {.fd = p->request_fd, .events = POLLIN};
    bool many = p->records - p->records_polled >= GATHER_MANY;
    long us = log->now == SS_LOG_RESTS ? log->wait_us : log->now == SS_LOG_COMMITS ? SS_LOG_COMMIT_MS * 1000 : 0;
    if (many && us > GATHER_US)
        us = GATHER_US;
    if (us > 0)
        (void)ppoll(&wake, 1, &(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static int poll_wait(const ss_pipeline *p, const ss_log_turn *log) {
    int most = ss_pipeline_marker_waits(p) ? NUDGE_MARKER_MS : POLL_WAIT_MS;
    int due = log->now == SS_LOG_RESTS ? (log->wait_us + 999) / 1000 : most;

    return p->more ? 0 : due < most ? due : most;
}

static ss_status one_turn(ss_pipeline *p, bool *ret_stop, ss_error *reterr) {
    ss_sink sink = ss_pipeline_sink;
    ss_status status;

    sink.ctx = p;
    ss_agent_status_turned(p->setup.status);
    bool trying = may_try_again(p, &status, reterr);
    if (status != SS_OK)
        return status;
    turn_requests turn = take_requests(p);
    *ret_stop = turn.stop;
    if (turn.stop)
        return SS_OK;
    if (!p->begun && !p->full) {
        status = ss_pipeline_write_markers(p, p->captured, reterr);
        if (status != SS_OK && status != SS_BUSY)
            goto out;
    }
    status = ss_pipeline_compare_if_asked(p, reterr);
    if (status != SS_OK)
        goto out;
    bool hold = turn.hold || p->full;
    if (!trying)
        say_state(p, &turn);
    status = nudge(p, reterr);
    if (status != SS_OK)
        goto out;
    ss_log_turn log;
    status = flush_beside(p, &log, reterr);
    if (status != SS_OK && status != SS_BUSY)
        goto out;
    if (p->records_polled != p->records && !p->more && !p->full)
        gather(p, &log);
    p->records_polled = p->records;
    status = p->setup.ops->poll(p->source, &sink, poll_wait(p, &log), p->request_fd, hold || p->full, &p->more, reterr);
    if (status == SS_BUSY)
        status = SS_OK; /* p->full says so when it was the spool */
    if (status == SS_OK)
        status = each_second(p, reterr);
out:
    stop_taking(p);
    return status;
}

ss_status ss_pipeline_session(ss_pipeline *p, ss_error *reterr) {
    bool stop = false;

    ss_status status = connect_source(p, reterr);
    p->heard_ms = p->nudged_ms = ss_monotonic_ms();
    while (status == SS_OK && !stop)
        status = one_turn(p, &stop, reterr);
    ss_error err = {0};
    if (stop && ss_pipeline_flush(p, true, &err) != SS_OK) /* the source hears of it once more */
        ss_log_error(SS_DEBUG, "last_flush_failed", &err); /* settle does what must be done */
    return status;
}

/* The source resumes from the position that is *durable*, so what is whole must be durable before
 * it is opened again: else it would send again what still stands in memory. The link goes first: a
 * release over a broken one fails, and the source learns the same position when it is opened
 * again. */
ss_status ss_pipeline_settle(ss_pipeline *p, ss_error *reterr) {
    if (p->source != NULL)
        p->setup.ops->close(p->source);
    p->source = NULL;
    if (p->in_transaction)
        SS_LOG(SS_INFO, "transaction_cut", SS_U("xid", p->xid));
    p->in_transaction = p->begun = p->more = false;
    p->emitted = p->emit_skip = 0;
    ss_status status = ss_log_rewind(p->log, reterr);
    if (status == SS_OK && p->whole_pending)
        status = ss_pipeline_flush(p, true, reterr);
    return status;
}

bool ss_pipeline_is_gap(ss_pipeline *p) {
    const ss_log_state *state = ss_log_get_state(p->log);
    ss_source_verdict verdict = {0};
    ss_source *source = NULL;
    ss_error err = {0};

    if (state->position[0] == '\0')
        return false;
    ss_status status = p->setup.ops->open(p->setup.env, state->identity, state->position, false,
                                          &source, &verdict, &err);
    if (source != NULL)
        p->setup.ops->close(source);
    return status == SS_STOP && verdict.gap;
}
