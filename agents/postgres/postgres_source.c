/* The vtable of a PostgreSQL source, and the capture thread's loop over its replication connection.
 */
#include "agents/postgres/postgres_source.h"
#include "agents/postgres/postgres_copy.h"
#include "agents/postgres/postgres_record.h"
#include "agents/postgres/postgres_status.h"
#include "sidespool/log.h"
#include <stdlib.h>

#define POLL_BYTES (1u << 20) /* of one poll */
#define POLL_MS 5
#define ANSWER_MS 2000 /* of a walsender that has nothing else to do */
#define HEARD_MS 200
#define RECORD_MS 3000 /* between two comparisons with the record, and at least */
#define RECORD_SHARE 50 /* times what one takes, with a new relation too: a backlog over many tables brings many */

static void source_close(ss_source *source) {
    if (!source)
        return;
    PQfreemem(source->held);
    ss_postgres_stream_done(&source->stream);
    PQfinish(source->replication);
    PQfinish(source->catalog);
    ss_postgres_messages_done(source);
    ss_postgres_record_kept_done(&source->record_kept);
    free(source);
}

/* ---- what is published, against what was (postgres_record.h) ---- */

typedef struct {
    uint32_t hash;
    char names[512];
} stale_names;

static void stale_add(void *ctx, const char *name, const char *tree) {
    stale_names *stale = ctx;
    size_t len = strlen(stale->names);
    for (const char *p = name; *p; p++)
        stale->hash = stale->hash * 31 + (uint8_t)*p;
    for (const char *p = tree; *p; p++)
        stale->hash = stale->hash * 31 + (uint8_t)*p;
    snprintf(stale->names + len, sizeof stale->names - len, "%s%s", len ? ", " : "", name);
}

/* Rows that came or went with a partition are in no stream: said once for each state of them. */
static void stale_say(ss_source *source, const stale_names *stale) {
    if (stale->hash != source->stale_said && stale->names[0] != '\0')
        SS_LOG(SS_ERROR, "partitions_changed", SS_S("code", "SS-PG-0059"), SS_S("tables", stale->names),
               SS_S("error", "partitions were attached or taken away; what rows came or went with them is not in the stream"),
               SS_S("remedy", "sidespool resync of these tables, on every route that has them"));
    source->stale_said = stale->hash;
}

static ss_status record_compare(ss_source *source, stale_names *stale, ss_error *reterr) {
    ss_postgres_record record;
    ss_arena *arena = ss_arena_new(0);
    if (!arena)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the record of the publication");
    ss_status status = ss_postgres_record_load(source->env, arena, &record, reterr);
    if (status == SS_OK && record.exists)
        status = ss_postgres_record_compare(source->catalog, source->env, &record, stale_add, stale, reterr);
    ss_arena_free(arena);
    return status;
}

/* Writes down what is not selected any more. */
static ss_status record_select(ss_source *source, uint64_t at, ss_error *reterr) {
    ss_postgres_record record;
    ss_arena *arena = ss_arena_new(0);
    if (!arena)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the record of the publication");
    ss_status status = ss_postgres_record_load(source->env, arena, &record, reterr);
    if (status == SS_OK && record.exists && record.broken == NULL)
        status = ss_postgres_record_selection(source->catalog, source->env, &record, at, reterr);
    ss_arena_free(arena);
    return status;
}

static ss_status reach_now(ss_source *source, uint64_t *ret, ss_error *reterr) {
    PGresult *res;
    ss_status status = ss_postgres_query(
        source->catalog, "read the source's position",
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END", 0, NULL,
        PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    if (!ss_postgres_lsn_parse(ss_postgres_value(res, 0, 0), ret))
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0051", "the source does not say how far its WAL reaches");
    PQclear(res);
    return status;
}

/* A table that is not published as it was, because it is not selected any more (a partition that was detached), has left:
 * that is said, and is no hole. While the stream runs this is looked at only when something differs. */
static ss_status record_check(ss_source *source, bool opening, ss_error *reterr) {
    stale_names stale = {0};
    ss_error why = {0};
    ss_status status = opening ? record_select(source, source->reach_lsn, reterr) : SS_OK;
    if (status == SS_OK)
        status = record_compare(source, &stale, reterr);
    if (status == SS_STOP && !opening && reach_now(source, &source->reach_lsn, &why) == SS_OK &&
        record_select(source, source->reach_lsn, &why) == SS_OK) {
        stale = (stale_names){0};
        status = record_compare(source, &stale, reterr);
    }
    if (status == SS_OK)
        stale_say(source, &stale);
    return status;
}

/* What was found is durable before it is said: it may look right again by the next open. */
static ss_status hole(ss_source *source, ss_error *reterr) {
    ss_error why = *reterr;
    return ss_postgres_record_break(source->env, why.text, reterr);
}

static ss_status record_watch(ss_source *source, ss_error *reterr) {
    int64_t start = ss_postgres_now_ms();
    /* Right after the walsender has spoken (a quiet one is asked each second): over a dead link the question would only wait, and
     * nobody would look at the stream, or say what is wrong, meanwhile. From a source that is silent nothing is taken either. */
    int64_t due = source->record_news ? source->record_soon_ms : source->record_due_ms;
    if (start < due || start - source->stream.heard_ms >= HEARD_MS)
        return SS_OK;
    ss_error why = {0};
    ss_status status = ss_postgres_catalog_ready(source, &why);
    if (status == SS_OK)
        status = record_check(source, false, &why);
    int64_t now = ss_postgres_now_ms(), pause = (now - start) * RECORD_SHARE;
    source->record_due_ms = now + (pause > RECORD_MS ? pause : RECORD_MS);
    source->record_soon_ms = now + (pause < RECORD_MS ? pause : RECORD_MS);
    source->record_news = false;
    if (status == SS_STOP && why.code && strcmp(why.code, "SS-PG-0057") == 0) {
        *reterr = why;
        return hole(source, reterr);
    }
    if (status != SS_OK) { /* the link, or a right: the next time tells; the stream goes on meanwhile */
        ss_log_error(SS_WARN, "publication_not_compared", &why);
        PQfinish(source->catalog);
        source->catalog = NULL;
    }
    return SS_OK;
}

/* The walsender met WAL that was written while there was no publication of that name. The slot being there, every try would
 * end at the same place. */
static ss_status stream_ended(ss_source *source, ss_status status, ss_error *reterr) {
    bool exists = false;
    ss_error ignored;
    if (status != SS_RETRY || !source->stream.unknown || ss_postgres_slot_exists(source, &exists, &ignored) != SS_OK || !exists)
        return status;
    ss_fail(reterr, SS_STOP, "SS-PG-0057", "publication %s was not there when changes were written, so they cannot be decoded",
            source->names.publication);
    return hole(source, reterr);
}

/* On a gap the source is handed out too, for reset() and prepare(). */
static ss_status source_open(const ss_source_env *env, const char *identity, const char *position,
                             bool intended, ss_source **ret, ss_source_verdict *verdict,
                             ss_error *reterr) {
    *verdict = (ss_source_verdict){0};
    ss_source *source = calloc(1, sizeof *source);
    if (!source)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for source %s", env->name);
    source->env = env;
    ss_pgoutput_init(&source->decoder);
    source->arena =
        ss_arena_new((size_t)16 << 20); /* 1600 columns with their names are far below */
    ss_status status = source->arena ? ss_postgres_names_get(env, &source->names, reterr)
                                     : ss_fail(reterr, SS_RETRY, "SS-PG-0005",
                                               "no memory for source %s", env->name);
    if (status == SS_OK)
        status = ss_postgres_connect(env, false, &source->catalog, reterr);
    if (status == SS_OK)
        status = ss_postgres_connect(env, true, &source->replication, reterr);
    if (status == SS_OK)
        status = ss_postgres_history_compare(source, identity, position, intended, verdict, reterr);
    if (status == SS_OK && *position) {
        status = record_check(source, true, reterr);
        verdict->gap = status == SS_STOP && reterr->code && strcmp(reterr->code, "SS-PG-0057") == 0;
    }
    if (status == SS_OK || (status == SS_STOP && verdict->gap))
        *ret = source;
    else
        source_close(source);
    return status;
}

/* Publication first: only WAL written after it can be decoded with it; how it publishes is written down at once, because a
 * copy may follow as soon as there is a position. Then the slot, whose
 * consistent point is the first position. If we die between, the next start (intended) drops the
 * slot, from which nothing was taken, and makes it again. */
static ss_status source_prepare(ss_source *source, ss_say_fn say, void *ctx, char *ret_position,
                                size_t size, ss_error *reterr) {
    ss_postgres_table *tables;
    size_t count;
    ss_arena *arena = ss_arena_new(0);
    if (!arena)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the list of tables");
    ss_status status = ss_postgres_catalog_ready(source, reterr);
    if (status == SS_OK)
        status = ss_postgres_tables_select(source->catalog, source->env, false, arena, &tables,
                                           &count, reterr);
    if (status == SS_OK)
        status =
            ss_postgres_publication_ensure(source->catalog, source->env, tables, count, reterr);
    ss_arena_free(arena);
    if (status == SS_OK)
        status = ss_postgres_record_write_all(source->catalog, source->env, reterr);
    if (status == SS_OK && source->slot_leftover)
        status = ss_postgres_slot_drop(source, reterr);
    if (status == SS_OK)
        source->slot_leftover = false;
    return status == SS_OK
               ? ss_postgres_slot_create(source, say, ctx, ret_position, size, reterr)
               : status;
}

/* A spool that has none, because its file was lost, begins one with what is published now. */
static ss_status record_begin(ss_source *source, ss_error *reterr) {
    ss_postgres_record record;
    ss_arena_reset(source->arena);
    ss_status status = ss_postgres_record_load(source->env, source->arena, &record, reterr);
    if (status != SS_OK || record.exists)
        return status;
    SS_LOG(SS_WARN, "publication_recorded", SS_S("publication", source->names.publication),
           SS_S("reason", "the spool does not say how tables were published before"));
    return ss_postgres_record_write_all(source->catalog, source->env, reterr);
}

static ss_status source_start(ss_source *source, const char *position, ss_error *reterr) {
    ss_postgres_publication publication;
    uint64_t lsn;
    if (!ss_postgres_lsn_parse(position, &lsn))
        return ss_fail(
            reterr, SS_STOP, "SS-PG-0055",
            "the spool's position is not one of PostgreSQL; it belongs to another source");
    ss_status status = ss_postgres_catalog_ready(source, reterr);
    if (status == SS_OK) {
        ss_arena_reset(source->arena);
        status = ss_postgres_publication_get(source->catalog, source->env, source->arena,
                                             &publication, reterr);
    }
    if (status == SS_OK && !publication.exists)
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0048", "publication %s is gone",
                         source->names.publication);
    if (status == SS_OK)
        status = ss_postgres_publication_ensure(source->catalog, source->env, NULL, 0, reterr);
    if (status == SS_OK)
        status = record_begin(source, reterr);
    if (status == SS_OK)
        status = ss_postgres_session_note(source, source->replication, reterr);
    if (status != SS_OK)
        return status;
    source->via_root = publication.via_root;
    source->start_lsn = source->last_lsn = lsn;
    ss_postgres_stream_init(&source->stream, source->replication, source->sender_timeout_ms);
    source->replication = NULL;
    return ss_postgres_stream_start(&source->stream, &source->names, lsn, reterr);
}

/* The source's fast shutdown waits until a walsender has sent everything. While we do not read,
 * that would be for ever: so when our ordinary session is ended and a new one is refused, we let go
 * of the link and come back with the server. */
static ss_status look_at_catalog(ss_source *source, ss_error *reterr) {
    if (source->catalog && PQconsumeInput(source->catalog) == 1 &&
        PQstatus(source->catalog) == CONNECTION_OK) {
        (void)PQisBusy(source->catalog); /* lets libpq digest what came: a parameter, or the
                                            server's last words */
        return SS_OK;
    }
    PQfinish(source->catalog);
    source->catalog = NULL;
    return ss_postgres_catalog_ready(source, reterr);
}

static ss_status hold_on(ss_source *source, int wait_ms, int wake_fd, ss_error *reterr) {
    bool woken, other;
    int catalog = source->catalog ? PQsocket(source->catalog) : -1;
    ss_status status = ss_postgres_stream_feedback(&source->stream, false, reterr);
    if (status == SS_OK)
        status = ss_postgres_stream_wait(&source->stream, wait_ms, wake_fd, catalog, true, &woken,
                                         &other, reterr);
    if (status == SS_OK && other)
        status = look_at_catalog(source, reterr);
    return status == SS_OK ? ss_postgres_stream_feedback(&source->stream, false, reterr) : status;
}

/* Handles one message, and keeps it when there is no room for what it says. */
static ss_status take(ss_source *source, const ss_sink *sink, char *buffer, size_t len,
                      ss_error *reterr) {
    ss_status status = ss_postgres_message(source, sink, ss_bytes_of(buffer, len), reterr);
    if (status == SS_BUSY) {
        source->held = buffer;
        source->held_len = len;
    } else {
        PQfreemem(buffer);
    }
    return status;
}

/* Hands over what libpq has; SS_BUSY: all of it. *ret_more: the limit of one poll is reached before. */
static ss_status drain(ss_source *source, const ss_sink *sink, int64_t start, size_t *bytes, bool *ret_more,
                       ss_error *reterr) {
    char *buffer;
    size_t len;
    if (source->held) {
        buffer = source->held;
        source->held = NULL;
        ss_status status = take(source, sink, buffer, source->held_len, reterr);
        if (status != SS_OK)
            return status;
        *bytes += source->held_len;
    }
    for (unsigned n = 1;; n++) {
        ss_status status = ss_postgres_stream_next(&source->stream, &buffer, &len, reterr);
        if (status != SS_OK)
            return status; /* SS_BUSY: all is read */
        *bytes += len;
        status = take(source, sink, buffer, len, reterr);
        if (status != SS_OK)
            return status;
        if (*bytes >= POLL_BYTES || ((n & 63) == 0 && ss_postgres_now_ms() - start >= POLL_MS)) {
            *ret_more = true;
            return SS_OK;
        }
    }
}

static ss_status source_poll(ss_source *source, const ss_sink *sink, int wait_ms, int wake_fd,
                             bool hold, bool *ret_more, ss_error *reterr) {
    *ret_more = false;
    if (hold)
        return hold_on(source, wait_ms, wake_fd, reterr);
    ss_status status = ss_postgres_stream_look(&source->stream, reterr);
    if (status == SS_OK)
        status = record_watch(source, reterr);
    if (status == SS_OK)
        status = ss_postgres_stream_feedback(&source->stream, false, reterr);
    int64_t start = ss_postgres_now_ms();
    size_t bytes = 0, before;
    bool woken = false, other = false;
    if (status == SS_OK)
        status = drain(source, sink, start, &bytes, ret_more, reterr);
    /* Everything in libpq's buffer is handed over. If there was nothing, something is waited for; then the socket is read
     * until it is empty or the limit is reached. */
    if (status == SS_BUSY && !source->held && bytes == 0) {
        status = ss_postgres_stream_wait(&source->stream, wait_ms, wake_fd, -1, false, &woken, &other, reterr);
        start = ss_postgres_now_ms();
        if (status == SS_OK)
            status = drain(source, sink, start, &bytes, ret_more, reterr);
    }
    for (before = 0; status == SS_BUSY && !source->held && bytes > before;) {
        before = bytes;
        source->stream.heard_ms = ss_postgres_now_ms();
        if (source->stream.heard_ms - start >= POLL_MS) { /* each read may bring less than drain looks at the clock for */
            *ret_more = true;
            status = SS_OK;
            break;
        }
        status = ss_postgres_stream_read(&source->stream, reterr);
        if (status == SS_OK)
            status = drain(source, sink, start, &bytes, ret_more, reterr);
    }
    if (status == SS_BUSY && !source->held)
        status = SS_OK;
    if (status == SS_RETRY)
        status = stream_ended(source, status, reterr);
    return status == SS_OK ? ss_postgres_stream_feedback(&source->stream, false, reterr) : status;
}

static ss_status source_release(ss_source *source, const char *position, ss_error *reterr) {
    uint64_t lsn;
    if (!ss_postgres_lsn_parse(position, &lsn))
        return ss_fail(reterr, SS_STOP, "SS-PG-0055",
                       "the position to release is not one of PostgreSQL");
    if (lsn <= source->stream.released)
        return SS_OK;
    source->stream.released = lsn;
    source->stream.unsaid = true;
    return source->stream.copying ? ss_postgres_stream_feedback(&source->stream, false, reterr)
                                  : SS_OK;
}

static ss_status source_nudge(ss_source *source, ss_error *reterr) {
    /* It will come to a question that it has not answered yet; more of them would only fill a slow link. */
    if (source->stream.asked_ms != 0 && ss_postgres_now_ms() - source->stream.asked_ms >= ANSWER_MS)
        return SS_OK;
    source->stream.ask = true;
    return source->stream.copying ? ss_postgres_stream_feedback(&source->stream, true, reterr)
                                  : SS_OK;
}

static bool source_trouble(ss_source *source, ss_error *ret) {
    return ss_postgres_stream_trouble(&source->stream, ret);
}

static ss_status source_reset(ss_source *source, ss_error *reterr) {
    ss_postgres_stream_done(&source->stream);
    ss_status status = ss_postgres_slot_drop(source, reterr);
    if (status == SS_OK && !source->replication)
        status = ss_postgres_connect(source->env, true, &source->replication, reterr);
    if (status == SS_OK)
        source->slot_leftover = false;
    return status;
}

static int position_compare(const char *a, const char *b) {
    uint64_t x = 0, y = 0; /* what is not a position ("") stands before all */
    bool has_x = ss_postgres_lsn_parse(a, &x), has_y = ss_postgres_lsn_parse(b, &y);
    if (has_x != has_y)
        return has_x ? 1 : -1;
    return x < y ? -1 : x > y;
}

const ss_source_ops ss_source_postgres = {
    .name = "postgres",
    .options = ss_postgres_options_table,
    .options_size = sizeof(struct ss_postgres_options),
    .configured = ss_postgres_configured,
    .check = ss_postgres_check,
    .open = source_open,
    .prepare = source_prepare,
    .identity = ss_postgres_identity,
    .start = source_start,
    .poll = source_poll,
    .release = source_release,
    .nudge = source_nudge,
    .trouble = source_trouble,
    .reset = source_reset,
    .close = source_close,
    .position_compare = position_compare,
    .now_position = ss_postgres_now_position,
    .status = ss_postgres_status,
    .selected = ss_postgres_selected,
    .snapshot_await = ss_postgres_snapshot_await,
    .snapshot_open = ss_postgres_snapshot_open,
    .snapshot_position = ss_postgres_snapshot_position,
    .snapshot_tables = ss_postgres_snapshot_tables,
    .snapshot_objects = ss_postgres_snapshot_objects,
    .copy_reader_open = ss_postgres_copy_reader_open,
    .copy_reader_read = ss_postgres_copy_reader_read,
    .copy_reader_digest = ss_postgres_copy_reader_digest,
    .copy_reader_digest_rows = ss_postgres_copy_reader_digest_rows,
    .copy_reader_close = ss_postgres_copy_reader_close,
    .snapshot_close = ss_postgres_snapshot_close,
};
