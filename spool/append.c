/* Records become frames, in memory. commit.c makes them durable; nothing here touches the disk but through it.
 *
 * A frame never holds the latest mark in its middle: it is closed at the mark, and what follows opens the next one. So
 * `committed` always falls between two frames on disk, a reader never decodes a frame that recovery may remove, and a
 * rewind cuts no frame in two. Runs in the thread that owns the log. */
#include "spool/spool_internal.h"

#include <stdlib.h>

#define ROOM_SLICE ((uint64_t)1 << 20) /* the quota is looked at again at least so often: the other log writes too */
#define KEEP_BYTES ((size_t)16 << 20)
/* What the stream leaves to the copy log at least: a piece of a row with its segment. While tables are copied nothing of
 * the stream can be trimmed, and a copy without room would never come to its end. */
#define COPY_FLOOR ((uint64_t)1536 << 10)

static ss_status no_memory(ss_log *log, ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory appending to %s/%s", log->spool->dir,
                   ss_kind_name(log->kind));
}

static bool ids_reserve(uint64_t **ids, size_t *cap, size_t need) {
    if (need <= *cap)
        return true;
    size_t want = *cap == 0 ? 32 : *cap * 2;
    if (want < need)
        want = need;
    uint64_t *grown = realloc(*ids, want * sizeof(*grown));
    if (grown == NULL)
        return false;
    *ids = grown;
    *cap = want;
    return true;
}

/* ---- schemas ---- */

ss_status ss_log_put_schema(ss_log *log, uint64_t schema_id, ss_bytes packed, ss_error *reterr) {
    if (schema_id == 0)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "schema 0 was put into %s/%s", log->spool->dir,
                       ss_kind_name(log->kind));
    if (ss_schema_map_find(&log->schemas, schema_id) != NULL)
        return SS_OK;
    ss_log_land(log);
    return ss_schema_map_put(&log->schemas, schema_id, packed) != NULL ? SS_OK : no_memory(log, reterr);
}

void ss_log_forget_schemas(ss_log *log) {
    ss_log_land(log);
    if (ss_log_pending(log) == 0 && log->gather.count == 0 && log->flight.count == 0 && log->next_ids_count == 0) {
        log->open_ids_count = 0; /* of a frame without records */
        ss_schema_map_clear(&log->schemas);
    }
}

size_t ss_log_schema_bytes(const ss_log *log) {
    return log->schemas.bytes;
}

ss_status ss_log_use_schema(ss_log *log, uint64_t schema_id, ss_error *reterr) {
    if (schema_id == 0)
        return SS_OK;
    if (ss_schema_map_find(&log->schemas, schema_id) == NULL)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_SCHEMA, "%s/%s: schema %016llx is used before it was put",
                       log->spool->dir, ss_kind_name(log->kind), (unsigned long long)schema_id);
    ss_schema_entry *entry = ss_schema_map_find(&log->schemas, schema_id);
    if (entry->in_next == log->next_serial)
        return SS_OK; /* said before: of a record that is offered again and again while the log is full */
    if (!ids_reserve(&log->next_ids, &log->next_ids_cap, log->next_ids_count + 1))
        return no_memory(log, reterr);
    entry->in_next = log->next_serial;
    log->next_ids[log->next_ids_count++] = schema_id;
    return SS_OK;
}

static void forget_next_ids(ss_log *log) {
    log->next_ids_count = 0;
    log->next_serial++;
}

static void list_in_frame(ss_log *log, uint64_t id) {
    ss_schema_entry *entry = ss_schema_map_find(&log->schemas, id);
    if (entry == NULL || entry->in_frame == log->frame_serial)
        return;
    entry->in_frame = log->frame_serial;
    log->open_ids[log->open_ids_count++] = id; /* room was made before */
}

/* ---- closing a frame ---- */

static ss_status keep_ready(ss_log *log, ss_ready ready, ss_error *reterr) {
    ss_frames *to = &log->gather;
    if (to->count == to->cap) {
        size_t cap = to->cap == 0 ? 64 : to->cap * 2;
        ss_ready *frames = realloc(to->frames, cap * sizeof(*frames));
        if (frames == NULL)
            return no_memory(log, reterr);
        to->frames = frames;
        to->cap = cap;
    }
    if (!ids_reserve(&to->ids, &to->ids_cap, to->ids_count + log->open_ids_count))
        return no_memory(log, reterr);
    ready.ids_at = to->ids_count;
    ready.ids = log->open_ids_count;
    if (ready.ids > 0)
        memcpy(to->ids + to->ids_count, log->open_ids, ready.ids * sizeof(uint64_t));
    to->ids_count += ready.ids;
    to->frames[to->count++] = ready;
    to->raw += ready.raw;
    return SS_OK;
}

ss_status ss_log_close_frame(ss_log *log, ss_error *reterr) {
    bool split = log->open_mark > 0 && log->open_mark < log->open.len;
    size_t len = split ? log->open_mark : log->open.len;
    uint32_t count = split ? log->mark_count : log->open_count;
    if (len == 0)
        return SS_OK;
    ss_buf *bytes = &log->gather.bytes;
    ss_ready ready = {.at = bytes->len, .raw = len, .first = log->open_first, .count = count};
    int level = log->spool->options.zstd_level;
    ss_status status = ss_frame_encode(log->zstd, level, ss_bytes_of(log->open.ptr, len), log->open_first, count,
                                       log->chain, bytes, &ready.crc, reterr);
    bytes->bad = false; /* a refused growth is reported once and may succeed later */
    if (status != SS_OK)
        return status;
    ready.len = bytes->len - ready.at;
    status = keep_ready(log, ready, reterr);
    if (status != SS_OK) {
        bytes->len = ready.at;
        return status;
    }
    log->chain = ready.crc;
    log->open_first += count;
    log->open_count -= count;
    log->open.len -= len;
    if (log->open.len > 0)
        memmove(log->open.ptr, log->open.ptr + len, log->open.len);
    log->open_mark = 0;
    log->mark_count = 0;
    log->frame_serial++;
    if (split) { /* which of them the rest uses is not known: listing one too many costs a page, one too few the data */
        for (size_t i = 0; i < log->open_ids_count; i++)
            ss_schema_map_find(&log->schemas, log->open_ids[i])->in_frame = log->frame_serial;
    } else {
        log->open_ids_count = 0;
    }
    return SS_OK;
}

/* ---- forgetting ---- */

static void forget_frames_beyond(ss_frames *frames, uint64_t mark) {
    while (frames->count > frames->done && frames->frames[frames->count - 1].first > mark) {
        ss_ready *last = &frames->frames[--frames->count];
        frames->bytes.len = last->at;
        frames->raw -= last->raw;
        frames->ids_count = last->ids_at;
    }
}

void ss_frames_clear(ss_frames *frames) {
    ss_buf_clear(&frames->bytes);
    frames->count = frames->done = frames->ids_count = frames->raw = 0;
    frames->marked = false;
}

void ss_frames_done(ss_frames *frames) {
    ss_buf_done(&frames->bytes);
    ss_buf_done(&frames->position);
    free(frames->frames);
    free(frames->ids);
}

void ss_log_forget_unmarked(ss_log *log) {
    size_t left = log->open_mark;
    forget_next_ids(log);
    if (left == 0) {
        /* the mark is at the end of a closed frame, or further back: frames beyond it go too */
        const ss_frames *sets[] = {&log->flight, &log->gather};
        forget_frames_beyond(&log->gather, log->mark);
        forget_frames_beyond(&log->flight, log->mark);
        log->chain = log->disk_chain;
        for (size_t i = 0; i < 2; i++)
            if (sets[i]->count > sets[i]->done)
                log->chain = sets[i]->frames[sets[i]->count - 1].crc;
        log->open_first = log->mark + 1;
        log->open_ids_count = 0;
        log->frame_serial++;
    }
    log->open.len = left;
    log->open_count = log->mark_count;
    log->next = log->mark + 1;
}

void ss_log_forget_pending(ss_log *log) {
    ss_buf_clear(&log->open);
    ss_frames_clear(&log->gather);
    ss_frames_clear(&log->flight);
    log->open_ids_count = 0;
    forget_next_ids(log);
    log->open_count = log->mark_count = 0;
    log->open_mark = 0;
    log->frame_serial++;
    log->chain = log->disk_chain;
    log->mark = log->flight_mark = log->meta.committed;
    log->next = log->disk_last + 1;
    log->open_first = log->next;
}

void ss_log_memory_low(ss_log *log) {
    if (log->open.len == 0 && log->open.cap > KEEP_BYTES)
        ss_buf_done(&log->open);
    ss_frames *sets[] = {&log->flight, &log->gather};
    for (size_t i = 0; i < 2; i++)
        if (sets[i]->bytes.len == 0 && sets[i]->bytes.cap > KEEP_BYTES)
            ss_buf_done(&sets[i]->bytes);
}

/* ---- quota ---- */

uint64_t ss_log_limit(const ss_log *log) {
    uint64_t quota = log->spool->options.max_size;
    if (quota == 0)
        return UINT64_MAX / 4;
    if (log->kind == SS_LOG_COPY)
        return quota / 2;
    uint64_t least = COPY_FLOOR < quota / 2 ? COPY_FLOOR : quota / 2;
    return quota - (quota / 8 > least ? quota / 8 : least);
}

/* What this log would hold were everything pending, and `need` more, written now: compressed bytes for closed frames,
 * plain bytes for the open one, page rounding and the pages that a commit touches. While a commit is under way what it has
 * written counts twice. */
static uint64_t would_hold(const ss_log *log, uint64_t need) {
    return atomic_load(&log->spool->used[log->kind]) + log->flight.bytes.len + log->gather.bytes.len + log->open.len +
           need + (log->flight.count + log->gather.count + 24) * log->page;
}

/* Full, and waiting cannot help? Only what lies wholly before the unfinished transaction can ever be trimmed. */
static bool never_fits(const ss_log *log, uint64_t need) {
    bool trimmable = log->names.count > 1 && log->names.items[1].first <= log->mark + 1;
    uint64_t others = log->kind == SS_LOG_STREAM ? (uint64_t)128 << 10 : 0;
    if (log->next - 1 == log->mark) /* a transaction's first record */
        return need + others + ((uint64_t)256 << 10) > ss_log_limit(log);
    return !trimmable && would_hold(log, need) + others > ss_log_limit(log);
}

static uint64_t transaction_bytes(const ss_log *log) {
    uint64_t bytes = log->open.len - log->open_mark;
    const ss_frames *sets[] = {&log->flight, &log->gather};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = sets[k]->done; i < sets[k]->count; i++)
            if (sets[k]->frames[i].first > log->mark)
                bytes += sets[k]->frames[i].len;
    for (size_t i = 0; i < log->names.count; i++)
        if (i + 1 == log->names.count || log->names.items[i + 1].first > log->mark + 1)
            bytes += log->names.items[i].bytes;
    return bytes;
}

/* *ret_shared: it is what both logs hold together that bounds it. */
static uint64_t room_now(const ss_log *log, bool *ret_shared) {
    uint64_t quota = log->spool->options.max_size, other = atomic_load(&log->spool->used[!log->kind]);
    uint64_t hold = would_hold(log, 0), most = ss_log_limit(log), left = quota - (other < quota ? other : quota);
    *ret_shared = left < most;
    most = left < most ? left : most;
    return most > hold ? most - hold : 0;
}

static ss_status too_large(const ss_log *log, uint64_t need, ss_error *reterr) {
    bool copy = log->kind == SS_LOG_COPY;
    return ss_fail(reterr, SS_STOP, SS_SPOOL_TOO_LARGE,
                   "%s/%s: one %s needs more than %llu bytes, and of spool.max_size this log may hold %llu; raise "
                   "spool.max_size and restart the agent",
                   log->spool->dir, ss_kind_name(log->kind), copy ? "record of a copy" : "transaction",
                   (unsigned long long)(transaction_bytes(log) + need), (unsigned long long)ss_log_limit(log));
}

static ss_status make_room(ss_log *log, uint64_t need, ss_error *reterr) {
    uint64_t quota = log->spool->options.max_size, other = atomic_load(&log->spool->used[!log->kind]);
    uint64_t slice = need > ROOM_SLICE ? need : ROOM_SLICE;
    if (quota == 0) {
        log->room = slice;
        return SS_OK;
    }
    bool shared;
    uint64_t room = room_now(log, &shared);
    if (room < need) { /* before anything is refused: what is there, exactly */
        ss_log_land(log);
        room = room_now(log, &shared);
    }
    uint64_t hold = would_hold(log, 0);
    if (room >= need) {
        log->room = room < slice ? room : slice;
        atomic_store(&log->spool->refused[log->kind], ROOM_FOUND);
        return SS_OK;
    }
    log->room = 0;
    if (never_fits(log, need))
        return too_large(log, need, reterr);
    log->refused_need = need;
    atomic_store(&log->spool->refused[log->kind], shared ? ROOM_SHARED : ROOM_OWN);
    bool copy = log->kind == SS_LOG_COPY;
    return ss_fail(reterr, SS_BUSY, SS_SPOOL_FULL,
                   "%s has no room%s: the %s log holds %llu bytes of at most %llu%s, both logs %llu of %llu; %s waits for "
                   "the routes",
                   log->spool->dir, copy ? " for the copy" : "", ss_kind_name(log->kind), (unsigned long long)hold,
                   (unsigned long long)ss_log_limit(log), copy ? " (half of spool.max_size)" : "",
                   (unsigned long long)(hold + other), (unsigned long long)quota, copy ? "the copy" : "capture");
}

void ss_log_look_for_room(ss_log *log) {
    bool shared;
    if (atomic_load(&log->spool->refused[log->kind]) != ROOM_FOUND && room_now(log, &shared) >= log->refused_need)
        atomic_store(&log->spool->refused[log->kind], ROOM_FOUND);
}

/* ---- appending ---- */

/* What is on its way to disk is not counted here, a flight that failed is. */
static bool gathered_much(const ss_log *log) {
    const ss_beside *b = &log->beside;
    if (b->started && (b->under_way || !ss_log_has_flight(log)))
        return log->open.len + log->gather.raw >= SPOOL_BESIDE_BYTES;
    return ss_log_pending(log) >= SPOOL_PENDING_BYTES;
}

static ss_status append_prepare(ss_log *log, size_t need, ss_error *reterr) {
    if (need > SPOOL_RECORD_LIMIT)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_RECORD, "%s/%s: a record of %zu bytes is larger than %zu",
                       log->spool->dir, ss_kind_name(log->kind), need, SPOOL_RECORD_LIMIT);
    if (need > log->room) {
        ss_status status = make_room(log, need, reterr);
        if (status != SS_OK)
            return status;
    }
    if (gathered_much(log)) {
        ss_status status = log->beside.started ? ss_log_commit_beside(log, reterr) : ss_log_commit(log, reterr);
        if (status != SS_OK)
            return status;
    }
    /* At most twice: once at the mark, once for the rest. */
    while (log->open.len > 0 && log->open.len + need > log->spool->options.frame_bytes) {
        ss_status status = ss_log_close_frame(log, reterr);
        if (status != SS_OK)
            return status;
    }
    return SS_OK;
}

ss_status ss_log_append(ss_log *log, ss_bytes record, uint64_t schema_id, uint64_t *ret_sequence, ss_error *reterr) {
    size_t need = record.len + 10;
    if (schema_id != 0 && ss_schema_map_find(&log->schemas, schema_id) == NULL)
        return ss_log_use_schema(log, schema_id, reterr); /* fails, with the reason */
    if (need > log->room || log->open.len + need > log->spool->options.frame_bytes ||
        gathered_much(log)) {
        ss_status status = append_prepare(log, need, reterr);
        if (status != SS_OK)
            return status;
    }
    uint8_t *to = ss_buf_reserve(&log->open, need);
    if (to == NULL || !ids_reserve(&log->open_ids, &log->open_ids_cap, log->open_ids_count + log->next_ids_count + 1)) {
        log->open.bad = false;
        return no_memory(log, reterr);
    }
    if (log->open.len == 0 && log->gather.count == 0 && !log->gather.marked)
        log->since_ms = ss_now_ms();
    size_t prefix = ss_varint_put(to, record.len);
    if (record.len > 0)
        memcpy(to + prefix, record.ptr, record.len);
    log->open.len += prefix + record.len;
    log->open_count++;
    log->room -= need;
    if (schema_id != 0)
        list_in_frame(log, schema_id);
    for (size_t i = 0; i < log->next_ids_count; i++)
        list_in_frame(log, log->next_ids[i]);
    forget_next_ids(log);
    if (ret_sequence != NULL)
        *ret_sequence = log->next;
    log->next++;
    return SS_OK;
}

void ss_log_mark_whole(ss_log *log, ss_bytes position) {
    ss_frames *gather = &log->gather;
    if (!gather->marked && log->open.len == 0 && gather->count == 0)
        log->since_ms = ss_now_ms();
    ss_buf_clear(&gather->position);
    ss_buf_put(&gather->position, position.ptr, position.len);
    (void)ss_buf_cstr(&gather->position);
    log->mark = log->next - 1;
    gather->marked = true;
    log->open_mark = log->open.len;
    log->mark_count = log->open_count;
}

size_t ss_log_pending(const ss_log *log) {
    return log->open.len + log->gather.raw + log->flight.raw;
}
