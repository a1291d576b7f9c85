/* decode -> append: what the source hands over becomes records in the stream log, with markers
 * between them. Capture thread only.
 *
 * A transaction's Begin is written with its first change, so that an empty transaction costs no
 * record: it is an idle position. When the spool is full SS_BUSY goes back and the source offers
 * the same call again; what of that call already stands in the log (pieces of a large change) is
 * not written a second time. */
#include "agents/pipeline_internal.h"

#include "sidespool/log.h"
#include <stdio.h>
#include <stdlib.h>

#define IDLE_EVERY_MS 1000
#define SCRATCH_KEEP ((size_t)8 << 20)
#define SCHEMAS_FIRST ((size_t)64 << 20) /* packed schemas in memory: tens of thousands of tables */
#define SCHEMAS_MOST ((size_t)1 << 30)
#define SCHEMAS_SOON_MS 600000

void ss_markers_init(ss_marker_list *list) {
    list->first = NULL;
    list->last = &list->first;
}

uint64_t ss_markers_newest(const ss_marker_list *list) {
    uint64_t newest = 0;

    for (const ss_marker *marker = list->first; marker != NULL; marker = marker->next)
        if (marker->id > newest)
            newest = marker->id;
    return newest;
}

size_t ss_markers_clear(ss_marker_list *list) {
    size_t count = 0;

    for (ss_marker *marker = list->first, *next; marker != NULL; marker = next, count++) {
        next = marker->next;
        free(marker);
    }
    ss_markers_init(list);
    return count;
}

void ss_pipeline_set_full(ss_pipeline *p, const ss_error *err) {
    int64_t now = ss_monotonic_ms();

    if (!p->full)
        p->full_since_ms = now;
    p->full = true;
    p->full_error = *err;
    p->full_retry_ms = now + 500;
}

ss_status ss_pipeline_append_bytes(ss_pipeline *p, ss_bytes record, uint64_t schema_id,
                                   ss_error *reterr) {
    ss_error err = {0};
    ss_status status = ss_log_append(p->log, record, schema_id, &p->sequence, &err);

    if (status == SS_OK) {
        p->records++;
        return SS_OK;
    }
    if (reterr != NULL)
        *reterr = err;
    /* An I/O error or want of memory loses nothing either: the call is offered again like one that
     * met a full spool. */
    if (status == SS_RETRY)
        status = SS_BUSY;
    if (status == SS_BUSY)
        ss_pipeline_set_full(p, &err);
    else
        p->spool_failed = true;
    return status;
}

static ss_status encoded(ss_pipeline *p, ss_error *reterr) {
    if (!p->record.bad)
        return SS_OK;
    ss_buf_done(&p->record); /* a later, smaller record may find memory */
    ss_buf_init(&p->record);
    return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002",
                   "out of memory while encoding a record; retrying");
}

/* Appends what stands in p->record. */
static ss_status append_encoded(ss_pipeline *p, bool idle, ss_error *reterr) {
    ss_status status = encoded(p, reterr);
    if (status != SS_OK)
        return status;
    status = ss_pipeline_append_bytes(p, ss_bytes_of(p->record.ptr, p->record.len), 0, reterr);
    if (status == SS_OK && !idle)
        p->last_change = p->sequence;
    return status;
}

ss_status ss_pipeline_append(ss_pipeline *p, const Sidespool__Record *record, ss_error *reterr) {
    ss_buf_clear(&p->record);
    ss_record_put(&p->record, record);
    return append_encoded(p, record->body_case == SIDESPOOL__RECORD__BODY_IDLE, reterr);
}

void ss_pipeline_whole(ss_pipeline *p) {
    ss_log_mark_whole(p->log, ss_bytes_str(p->captured));
    p->whole_pending = true;
    p->whole_sequence = p->sequence;
}

static bool due(const ss_pipeline *p, const ss_marker *marker, const char *upto) {
    return marker->position[0] == '\0' ||
           p->setup.ops->position_compare(upto, marker->position) >= 0;
}

bool ss_pipeline_marker_waits(const ss_pipeline *p) {
    return p->markers.first != NULL;
}

ss_status ss_pipeline_write_markers(ss_pipeline *p, const char *upto, ss_error *reterr) {
    ss_marker **at = &p->markers.first;

    while (*at != NULL) {
        ss_marker *marker = *at;
        if (!due(p, marker, upto)) {
            at = &marker->next;
            continue;
        }
        ss_status status = ss_pipeline_append_bytes(p, ss_bytes_of(marker->record, marker->len), 0, reterr);
        if (status != SS_OK)
            return status;
        /* Whole by itself: a transaction behind it that is cut and sent again does not take it
         * away. */
        ss_pipeline_whole(p);
        if (marker->id > p->marker_written) {
            p->marker_written = marker->id;
            p->marker_sequence = p->sequence;
        }
        *at = marker->next;
        if (p->markers.last == &marker->next)
            p->markers.last = at;
        free(marker);
        pthread_mutex_lock(&p->mutex);
        p->marker_count--;
        pthread_mutex_unlock(&p->mutex);
    }
    return SS_OK;
}

static ss_status sink_begin(void *ctx, const char *at, int64_t commit_time_us, uint64_t xid,
                            ss_error *reterr) {
    ss_pipeline *p = ctx;

    if (p->in_transaction)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                       "the source began a transaction inside another one");
    if (strlen(at) >= sizeof p->at)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                       "the source gave a position longer than %zu bytes", sizeof p->at - 1);
    memcpy(p->at, at, strlen(at) + 1);
    p->commit_time = commit_time_us;
    p->xid = xid;
    p->in_transaction = true;
    p->begun = false;
    p->heard_ms = ss_monotonic_ms();
    return SS_OK;
}

/* Before a transaction's first record: the markers that belong before it, then its Begin. */
static ss_status ensure_begun(ss_pipeline *p, ss_error *reterr) {
    if (p->begun)
        return SS_OK;
    if (!p->in_transaction)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                       "the source sent a change outside a transaction");
    ss_status status = ss_pipeline_write_markers(p, p->at, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&p->record);
    ss_record_put_begin(&p->record, p->commit_time, p->xid);
    status = append_encoded(p, false, reterr);
    if (status == SS_OK)
        p->begun = true;
    return status;
}

/* A table that is altered leaves its old schemas in memory until the source is connected anew. When they are very many that
 * is done now; when they all came at once, so many are needed, and the bound grows instead. */
static ss_status bound_schemas(ss_pipeline *p, ss_error *reterr) {
    if (p->schemas_most == 0)
        p->schemas_most = SCHEMAS_FIRST;
    size_t bytes = ss_log_schema_bytes(p->log);
    if (bytes <= p->schemas_most)
        return SS_OK;
    bool soon = ss_monotonic_ms() - p->schemas_ms < SCHEMAS_SOON_MS;
    if (soon && p->schemas_most < SCHEMAS_MOST) {
        p->schemas_most *= 2;
        return SS_OK;
    }
    return ss_fail(reterr, soon ? SS_STOP : SS_RETRY, "SS-AGENT-0002",
                   "the definitions of the source's tables take %zu MiB of memory; %s", bytes >> 20,
                   soon ? "select fewer tables" : "connecting anew, to forget the old ones");
}

static ss_status sink_schema(void *ctx, Sidespool__Schema *schema, uint64_t *ret_id,
                             ss_error *reterr) {
    ss_pipeline *p = ctx;

    ss_buf_clear(&p->schema);
    uint64_t id = ss_schema_seal(schema, &p->schema);
    if (p->schema.bad) {
        ss_buf_done(&p->schema);
        ss_buf_init(&p->schema);
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002",
                       "out of memory while encoding the schema of %s.%s; retrying", schema->ns,
                       schema->name);
    }
    ss_status status =
        ss_log_put_schema(p->log, id, ss_bytes_of(p->schema.ptr, p->schema.len), reterr);
    if (status != SS_OK) {
        p->spool_failed = status == SS_STOP;
        return status;
    }
    *ret_id = id;
    return bound_schemas(p, reterr);
}

static ss_status emit(void *ctx, ss_bytes record, uint64_t schema_id, ss_error *reterr) {
    ss_pipeline *p = ctx;

    if (p->emitted < p->emit_skip) { /* stands in the log since the last offer of this change */
        p->emitted++;
        return SS_OK;
    }
    ss_status status = ss_pipeline_append_bytes(p, record, schema_id, reterr);
    if (status == SS_OK)
        p->emit_skip = ++p->emitted;
    return status;
}

static ss_status sink_change(void *ctx, const ss_change *change, ss_error *reterr) {
    ss_pipeline *p = ctx;

    ss_status status = ensure_begun(p, reterr);
    if (status != SS_OK)
        return status;
    p->emitted = 0;
    status = ss_record_pieces(change, &p->record, emit, p, reterr);
    if (status == SS_OK)
        p->emit_skip = 0;
    if (p->record.cap > SCRATCH_KEEP) { /* one very wide row does not hold its memory for ever */
        ss_buf_done(&p->record);
        ss_buf_init(&p->record);
    }
    return status;
}

static ss_status sink_truncate(void *ctx, const uint64_t *schema_ids, size_t count, bool cascade,
                               bool restart_identity, ss_error *reterr) {
    ss_pipeline *p = ctx;

    ss_status status = ensure_begun(p, reterr);
    if (status != SS_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        status = ss_log_use_schema(p->log, schema_ids[i], reterr);
        if (status != SS_OK) {
            p->spool_failed = status == SS_STOP;
            return status;
        }
    }
    Sidespool__Truncate truncate = SIDESPOOL__TRUNCATE__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    truncate.n_schema_ids = count;
    truncate.schema_ids = (uint64_t *)(uintptr_t)schema_ids; /* packed, never written to */
    truncate.cascade = cascade;
    truncate.restart_identity = restart_identity;
    record.body_case = SIDESPOOL__RECORD__BODY_TRUNCATE;
    record.truncate = &truncate;
    return ss_pipeline_append(p, &record, reterr);
}

static ss_status set_captured(ss_pipeline *p, const char *position, ss_error *reterr) {
    size_t len = strlen(position);

    if (len >= sizeof p->captured)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                       "the source gave a position longer than %zu bytes", sizeof p->captured - 1);
    memcpy(p->captured, position, len + 1);
    return SS_OK;
}

/* Behind a whole transaction or an idle position the markers are written if there is room; if not
 * they wait, and nothing is taken until they are in, so they still stand before the next
 * transaction. */
static ss_status markers_behind(ss_pipeline *p, ss_error *reterr) {
    ss_status status = ss_pipeline_write_markers(p, p->captured, reterr);
    return status == SS_BUSY ? SS_OK : status;
}

static bool marker_due(const ss_pipeline *p, const char *upto) {
    for (const ss_marker *marker = p->markers.first; marker != NULL; marker = marker->next)
        if (due(p, marker, upto))
            return true;
    return false;
}

static ss_status sink_idle(void *ctx, const char *position, int64_t source_time_us,
                           ss_error *reterr) {
    ss_pipeline *p = ctx;

    if (p->in_transaction)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                       "the source said that it is idle inside a transaction");
    int64_t now = ss_monotonic_ms();
    p->heard_ms = now;
    /* A server that has just been reconnected may name a place that lies behind us. */
    if (p->setup.ops->position_compare(position, p->captured) < 0)
        return SS_OK;
    ss_status status = set_captured(p, position, reterr);
    if (status != SS_OK)
        return status;
    if (now - p->idle_ms < IDLE_EVERY_MS && !marker_due(p, position))
        return SS_OK;

    Sidespool__Idle idle = SIDESPOOL__IDLE__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    idle.position = p->captured;
    idle.time = source_time_us;
    record.body_case = SIDESPOOL__RECORD__BODY_IDLE;
    record.idle = &idle;
    status = ss_pipeline_append(p, &record, reterr);
    if (status == SS_BUSY)
        return SS_OK; /* an idle position may be left out; that the spool is full has been noted */
    if (status != SS_OK)
        return status;
    ss_pipeline_whole(p);
    p->idle_ms = now;
    p->source_time = source_time_us;
    return markers_behind(p, reterr);
}

static ss_status sink_commit(void *ctx, const char *position, int64_t commit_time_us,
                             ss_error *reterr) {
    ss_pipeline *p = ctx;

    if (!p->in_transaction)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                       "the source committed outside a transaction");
    if (!p->begun) { /* nothing in it was for us */
        p->in_transaction = false;
        return sink_idle(p, position, commit_time_us, reterr);
    }
    ss_buf_clear(&p->record);
    ss_record_put_commit(&p->record, ss_bytes_str(position), commit_time_us);
    ss_status status = append_encoded(p, false, reterr);
    if (status != SS_OK)
        return status;
    p->in_transaction = false;
    p->begun = false;
    status = set_captured(p, position, reterr);
    if (status != SS_OK)
        return status;
    ss_pipeline_whole(p);
    p->source_time = commit_time_us;
    p->heard_ms = ss_monotonic_ms();
    return markers_behind(p, reterr);
}

const ss_sink ss_pipeline_sink = {
    .begin = sink_begin,
    .schema = sink_schema,
    .change = sink_change,
    .truncate = sink_truncate,
    .commit = sink_commit,
    .idle = sink_idle,
    .table_gap = ss_pipeline_table_gap,
};
