/* Reading the stream: records become batches of whole source transactions, applied as they fill.
 *
 * What is there is applied at once when the reader is at its end, so that a change waits for nothing; under load the reader
 * is never at its end, and batches grow by themselves up to their bounds. A transaction larger than a batch goes as
 * sub-batches in one open target transaction. A source transaction is never split, several may be merged.
 *
 * Crash argument: rows and progress are one target transaction. If we die before it commits, the target's progress still
 * says the old place and everything is read again from there; if we die after, the next start reads behind it. */
#include "applier/route.h"

#include <inttypes.h>
#include <stdlib.h>

enum { K_BEGIN = 1, K_CHANGE, K_COMMIT, K_TRUNCATE, K_PIECE, K_IDLE, K_MARK, K_COPY_BEGIN, K_COPY_END, K_COPY_ROWS,
       K_COPY_TABLE, K_OBJECT, K_GAP, K_TABLE_GAP };

enum { RECORDS_A_TURN = 4096 };

unsigned ss_record_kind(ss_bytes record) {
    /* The body is the record's only field, so its tag is the first byte (fields 1-15, wire type 2). */
    return record.len && (record.ptr[0] & 7) == 2 && !(record.ptr[0] & 0x80) ? record.ptr[0] >> 3 : 0;
}

/* The schema of an encoded Change, when it stands first in it as our encoder writes it. false: decode to know. */
static bool peek_schema(ss_bytes record, uint64_t *ret) {
    size_t at = 1;
    while (at < record.len && at < 11 && (record.ptr[at] & 0x80))
        at++;
    at++;
    if (at + 9 > record.len || record.ptr[at] != ((1 << 3) | 1))
        return false;
    uint64_t id = 0;
    for (int i = 8; i > 0; i--)
        id = id << 8 | record.ptr[at + (size_t)i];
    *ret = id;
    return true;
}

static size_t batch_records(const ss_route *r) { return r->conf->batch_records ? r->conf->batch_records : SS_BATCH_RECORDS; }

ss_status ss_intake_open(ss_route *r, ss_intake *in, bool catchup, uint64_t from, ss_error *reterr) {
    ss_intake_close(in);
    r->batch_most = batch_records(r);
    *in = (ss_intake){.catchup = catchup, .whole = from - 1};
    return ss_reader_open(r->config->spool_path, r->conf->source, SS_LOG_STREAM, from, &in->reader, reterr);
}

static void pieces_drop(ss_intake *in) {
    for (size_t i = 0; i < in->piece_count; i++)
        free(in->pieces[i].ptr);
    in->piece_count = in->piece_bytes = 0;
}

void ss_intake_close(ss_intake *in) {
    pieces_drop(in);
    free(in->pieces);
    ss_reader_close(in->reader);
    *in = (ss_intake){0};
}

static ss_status damaged(ss_route *r, const ss_intake *in, const char *what, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, "SS-ROUTE-0004", "%s/stream record %" PRIu64 ": %s; run sidespool spool verify %s", r->conf->source,
                   in->sequence, what, r->conf->source);
}

static const char *place_of(ss_route *r, const ss_intake *in, char *buf, size_t size) {
    snprintf(buf, size, "%s/stream record %" PRIu64, r->conf->source, in->sequence);
    return buf;
}

/* ---- applying -------------------------------------------------------------------------------------------------- */

static ss_status batch_states(ss_route *r, ss_intake *in, ss_batch *batch, ss_error *reterr) {
    if (in->catchup)
        for (size_t i = 0; i < r->table_count; i++) {
            ss_route_table *t = &r->tables[i];
            if (!ss_route_catchup_has(r, t))
                continue;
            /* In the same transaction as the rows: after a crash the catch-up goes on exactly here. */
            t->st.status = SS_TABLE_CATCHING_UP;
            if (t->st.from_sequence < in->whole)
                t->st.from_sequence = in->whole;
            t->dirty = true;
        }
    if (in->catchup)
        ss_route_states_changed(r);
    return ss_route_states_dirty(r, &batch->states, &batch->state_count, reterr);
}

static void batch_clear(ss_route *r) {
    ss_batcher_reset(r->batcher);
    r->batch++;
}

/* Large batches cost least for each change, but one is not to keep the target busy for long (rows found without an index, a far-away server):
 * a stop would wait for it, and a lost connection would undo it. */
static void adapt(ss_route *r, size_t changes, uint64_t took_ms) {
    if (took_ms > SS_BATCH_LONG_MS) {
        size_t fits = (size_t)((double)changes * SS_BATCH_LONG_MS / (double)took_ms);
        r->batch_most = fits > SS_BATCH_LEAST ? fits : SS_BATCH_LEAST;
    } else if (took_ms < SS_BATCH_LONG_MS / 4) {
        r->batch_most *= 2;
    }
    if (r->batch_most > batch_records(r))
        r->batch_most = batch_records(r);
}

/* A batch is in: its transaction has been committed, or it is a part of one that is open. */
static ss_status applied(ss_route *r, bool partial, size_t changes, uint64_t took_ms, const ss_progress *progress, ss_error *reterr) {
    r->applied_total += changes;
    adapt(r, changes, took_ms);
    if (partial)
        return SS_OK;
    ss_route_states_clean(r);
    r->progress = *progress;
    r->progress_dirty = false;
    r->wrote_ms = ss_route_now_ms();
    return ss_progress_cursors(r, false, reterr);
}

ss_status ss_intake_settle(ss_route *r, ss_intake *in, ss_error *reterr) {
    if (!in->sent.open)
        return SS_OK;
    uint64_t took_ms = 0;
    ss_status st = ss_route_target(r, ss_worker_wait(r->worker, &took_ms, reterr));
    in->sent.open = false;
    in->sent.failed = st != SS_OK;
    ss_batcher_reset(r->spare);
    return st == SS_OK ? applied(r, in->sent.partial, in->sent.changes, took_ms, &in->sent.progress, reterr) : st;
}

/* Whether the next batch may be prepared while this one is applied: only in the plain case, where nothing but batches is asked of the
 * target, and not while a bad transaction is looked for. Nor beside a huge value, so that two of them are never held at once. */
static bool may_run_ahead(ss_route *r, const ss_intake *in) {
    return !in->catchup && ss_route_all_ready(r) && in->sequence > r->careful_until && ss_batcher_bytes(r->batcher) < 2 * SS_BATCH_BYTES;
}

static void hand_over(ss_route *r, ss_intake *in, const ss_batch *batch) {
    in->sent.open = true;
    in->sent.partial = batch->partial;
    in->sent.changes = ss_batcher_changes(r->batcher);
    in->sent.progress = batch->progress;
    ss_worker_apply(r->worker, r->ops, r->target, batch);
    ss_batcher *other = r->spare;
    r->spare = r->batcher;
    r->batcher = other;
}

/* Hands the batch to the target: whole (progress moves to in->whole) or as a part of the transaction at hand. `more`: other batches
 * follow at once, so this one need not be awaited. */
static ss_status apply(ss_route *r, ss_intake *in, bool partial, bool more, ss_error *reterr) {
    ss_batch batch = {.partial = partial, .freshness = ss_route_state_name(ss_route_state_now(r)), .beside = in->catchup ? "catch_up" : NULL};
    ss_status st = ss_batcher_tables(r->batcher, &batch.tables, &batch.table_count, reterr);
    if (st == SS_OK)
        st = ss_intake_settle(r, in, reterr);
    if (st != SS_OK)
        return st;
    batch.progress = r->progress;
    batch.progress.copy_sequence = r->copy.dirty ? r->progress.copy_sequence : r->copy.read_to;
    if (!partial) {
        st = batch_states(r, in, &batch, reterr);
        if (st != SS_OK)
            return st;
        if (!in->catchup) {
            batch.progress.sequence = in->whole;
            /* "The copy holds all that the source had committed by then": not while rows of a table are missing or old. */
            batch.progress.as_of = in->as_of && ss_route_all_ready(r) ? in->as_of : r->progress.as_of;
            if (in->position[0])
                memcpy(batch.progress.position, in->position, sizeof batch.progress.position);
        }
    }
    size_t changes = ss_batcher_changes(r->batcher);
    bool ahead = more && may_run_ahead(r, in);
    uint64_t began_ms = ss_route_now_ms();
    in->failed_apply = true;
    if (ahead)
        hand_over(r, in, &batch);
    else
        st = ss_route_target(r, r->ops->apply(r->target, &batch, reterr));
    if (st != SS_OK)
        return st;
    in->failed_apply = false;
    in->partial_open = partial;
    batch_clear(r);
    if (!partial)
        in->transactions = 0;
    return ahead ? SS_OK : applied(r, partial, changes, ss_route_now_ms() - began_ms, &batch.progress, reterr);
}

/* Within a transaction: commands are read and status is sent, but nothing else touches the target. */
static ss_status turn(ss_route *r, ss_error *reterr) {
    if (!ss_route_tick(r))
        return SS_OK;
    return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0014", "the route is ending; the transaction at hand is rolled back and applied at the next start");
}

/* A sub-batch of the transaction at hand. */
static ss_status apply_part(ss_route *r, ss_intake *in, ss_error *reterr) {
    ss_status st = apply(r, in, true, true, reterr);
    return st == SS_OK ? turn(r, reterr) : st;
}

/* ---- records --------------------------------------------------------------------------------------------------- */

/* Whether this reading applies changes of that table at this place. */
static bool wanted(ss_route *r, const ss_intake *in, const ss_route_schema *rs) {
    if (rs->table == SIZE_MAX)
        return false;
    const ss_route_table *t = &r->tables[rs->table];
    if (in->sequence <= t->st.from_sequence)
        return false; /* the copy has it */
    return in->catchup ? ss_route_catchup_has(r, t) : t->st.status == SS_TABLE_READY;
}

/* The first change by a schema: does the target's table fit? `*ret_skip`: the table is copied anew, its changes are not wanted. */
static ss_status compare(ss_route *r, ss_intake *in, ss_route_schema *rs, bool *ret_skip, ss_error *reterr) {
    *ret_skip = false;
    if (rs->compared)
        return SS_OK;
    ss_route_table *t = &r->tables[rs->table];
    ss_status st = ss_intake_settle(r, in, reterr);
    if (st != SS_OK)
        return st;
    st = ss_route_target(r, r->ops->compare_schema(r->target, rs->schema, reterr));
    if (st == SS_STOP && in->catchup) {
        /* A table that changed its shape while it was copied is copied anew. Not for ever: production pays for each copy. */
        if (++t->restarts > 3) {
            ss_error_prefix(reterr, "table %s.%s changed its shape during each of its last copies", t->st.ns, t->st.name);
            return SS_STOP;
        }
        ss_log_error(SS_WARN, "copy_restarts", reterr);
        ss_route_table_absent(r, t);
        r->progress_dirty = true;
        *ret_skip = true;
        return SS_OK;
    }
    if (st != SS_OK)
        return st;
    rs->compared = true;
    if (t->st.schema_id != rs->id) {
        t->st.schema_id = rs->id;
        t->dirty = true;
    }
    return SS_OK;
}

static ss_status take_piece(ss_route *r, ss_intake *in, const Sidespool__Piece *p, ss_error *reterr) {
    ss_route_piece *piece = NULL;
    for (size_t i = 0; i < in->piece_count && !piece; i++)
        if (in->pieces[i].before == (bool)p->before && in->pieces[i].column == p->column)
            piece = &in->pieces[i];
    if (piece && piece->last)
        return damaged(r, in, "a piece of a value that had already ended", reterr);
    in->piece_bytes += p->data.len;
    if (in->piece_bytes > SS_ROUTE_MAX_MESSAGE)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0005", "%s/stream record %" PRIu64 ": one row holds more than 1 GiB; exclude its table in the agent's file",
                       r->conf->source, in->sequence);
    if (!piece) {
        if (in->piece_count == in->piece_cap) {
            size_t cap = in->piece_cap ? in->piece_cap * 2 : 8;
            ss_route_piece *more = reallocarray(in->pieces, cap, sizeof *more);
            if (!more)
                return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while putting a value together");
            in->pieces = more;
            in->piece_cap = cap;
        }
        piece = &in->pieces[in->piece_count++];
        *piece = (ss_route_piece){.before = p->before, .column = p->column};
    }
    if (piece->len + p->data.len > piece->cap || !piece->ptr) {
        size_t cap = piece->cap ? piece->cap * 2 : (size_t)2 << 20;
        while (cap < piece->len + p->data.len)
            cap *= 2;
        uint8_t *more = realloc(piece->ptr, cap);
        if (!more)
            return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while putting a value together");
        piece->ptr = more;
        piece->cap = cap;
    }
    if (p->data.len)
        memcpy(piece->ptr + piece->len, p->data.data, p->data.len);
    piece->len += p->data.len;
    piece->last = p->last;
    return SS_OK;
}

/* Puts the values that came in pieces into their cells; their memory becomes the batch's. */
static ss_status fill_row(ss_route *r, ss_intake *in, bool before, ss_row *row, size_t *ret_used, ss_error *reterr) {
    uint8_t *kinds = NULL;
    ss_bytes *cells = NULL;
    for (uint32_t c = 0; c < row->count; c++) {
        if (row->kinds[c] != SS_CELL_PIECES)
            continue;
        if (!kinds) {
            ss_arena *arena = ss_batcher_arena(r->batcher);
            kinds = ss_arena_alloc(arena, row->count);
            cells = ss_arena_alloc(arena, sizeof *cells * row->count);
            if (!kinds || !cells)
                return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while putting a value together");
            memcpy(kinds, row->kinds, row->count);
            memcpy(cells, row->cells, sizeof *cells * row->count);
        }
        ss_route_piece *piece = NULL;
        for (size_t i = 0; i < in->piece_count && !piece; i++)
            if (in->pieces[i].before == before && in->pieces[i].column == c && in->pieces[i].last && in->pieces[i].ptr)
                piece = &in->pieces[i];
        if (!piece)
            return damaged(r, in, "a value whose pieces are missing or unfinished", reterr);
        ss_status st = ss_batcher_adopt(r->batcher, piece->ptr, piece->len, reterr);
        if (st != SS_OK)
            return st;
        kinds[c] = SS_CELL_VALUE;
        cells[c] = ss_bytes_of(piece->ptr, piece->len);
        piece->ptr = NULL; /* the batch frees it */
        ++*ret_used;
    }
    if (kinds)
        *row = (ss_row){row->count, kinds, cells};
    return SS_OK;
}

static ss_status fill_pieces(ss_route *r, ss_intake *in, ss_change *change, ss_error *reterr) {
    size_t used = 0;
    ss_status st = fill_row(r, in, true, &change->before, &used, reterr);
    if (st == SS_OK)
        st = fill_row(r, in, false, &change->after, &used, reterr);
    if (st == SS_OK && used != in->piece_count)
        st = damaged(r, in, "pieces of values that the change does not have", reterr);
    if (st == SS_OK)
        pieces_drop(in);
    return st;
}

/* The record as a change, in the batch's memory. */
static ss_status read_change(ss_route *r, ss_intake *in, ss_change *ret, ss_error *reterr) {
    ss_arena *arena = ss_batcher_arena(r->batcher);
    if (ss_record_view_change(in->record, arena, ret))
        return SS_OK;
    char place[160];
    Sidespool__Record *record;
    ss_status st = ss_record_get(in->record, arena, place_of(r, in, place, sizeof place), &record, reterr);
    return st == SS_OK ? ss_record_change(record->change, arena, ret, reterr) : st;
}

static ss_status take_change(ss_route *r, ss_intake *in, ss_error *reterr) {
    uint64_t id = 0;
    ss_status st;
    if (!peek_schema(in->record, &id)) {
        char place[160];
        Sidespool__Record *record;
        ss_arena_reset(r->scratch);
        st = ss_record_get(in->record, r->scratch, place_of(r, in, place, sizeof place), &record, reterr);
        if (st != SS_OK)
            return st;
        id = record->change->schema_id;
    }
    ss_route_schema *rs;
    bool skip;
    st = ss_route_schema_get(r, in->reader, id, &rs, reterr);
    if (st != SS_OK)
        return st;
    if (!wanted(r, in, rs)) {
        pieces_drop(in);
        return SS_OK;
    }
    st = compare(r, in, rs, &skip, reterr);
    if (st != SS_OK || skip) {
        pieces_drop(in);
        return st;
    }
    ss_route_table *t = &r->tables[rs->table];
    if (t->batch == r->batch && t->in_batch != rs->schema) {
        /* The table changed its shape inside this batch: what came before goes first. */
        st = apply_part(r, in, reterr);
        if (st != SS_OK)
            return st;
    }
    t->in_batch = rs->schema;
    t->batch = r->batch;
    ss_change change;
    st = read_change(r, in, &change, reterr);
    if (st == SS_OK)
        st = fill_pieces(r, in, &change, reterr);
    if (st == SS_OK)
        st = ss_batcher_add(r->batcher, rs->schema, &change, in->sequence, reterr);
    return st;
}

/* A truncate is a batch of its own inside its transaction, so what came before goes first. */
static ss_status take_truncate(ss_route *r, ss_intake *in, const Sidespool__Truncate *truncate, ss_error *reterr) {
    ss_arena *arena = ss_batcher_arena(r->batcher);
    const Sidespool__Schema **schemas = ss_arena_alloc(arena, sizeof *schemas * (truncate->n_schema_ids + 1));
    if (!schemas)
        return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory for a truncate");
    size_t count = 0;
    for (size_t i = 0; i < truncate->n_schema_ids; i++) {
        ss_route_schema *rs;
        bool skip = true;
        ss_status st = ss_route_schema_get(r, in->reader, truncate->schema_ids[i], &rs, reterr);
        if (st == SS_OK && wanted(r, in, rs))
            st = compare(r, in, rs, &skip, reterr);
        if (st != SS_OK)
            return st;
        if (!skip)
            schemas[count++] = rs->schema;
    }
    if (count == 0)
        return SS_OK;
    ss_batch batch = {.truncate = truncate, .truncated = schemas, .truncated_count = count, .partial = true,
                      .progress = r->progress, .beside = in->catchup ? "catch_up" : NULL};
    ss_status st = ss_intake_settle(r, in, reterr);
    if (st != SS_OK)
        return st;
    in->failed_apply = true;
    st = ss_route_target(r, r->ops->apply(r->target, &batch, reterr));
    if (st != SS_OK)
        return st;
    in->failed_apply = false;
    in->partial_open = true;
    batch_clear(r);
    return SS_OK;
}

static void set_position(ss_intake *in, const char *position, int64_t as_of) {
    snprintf(in->position, sizeof in->position, "%s", position);
    if (as_of)
        in->as_of = as_of;
    in->whole = in->sequence;
}

/* Gap: the agent's file answered a break of the source's history with a new epoch (on_gap: resync). What was applied up to here may
 * be stale, so every table is copied anew, beside the old rows. The route's own on_gap is for gaps of its target. */
static ss_status take_gap(ss_route *r, ss_intake *in, const Sidespool__Gap *gap, ss_error *reterr) {
    SS_LOG(SS_WARN, "gap_passed", SS_U("sequence", in->sequence), SS_S("reason", gap->reason));
    for (size_t i = 0; i < r->table_count; i++)
        ss_route_table_absent(r, &r->tables[i]);
    ss_progress p = r->progress;
    p.epoch = gap->epoch;
    p.sequence = in->sequence;
    snprintf(p.position, sizeof p.position, "%s", gap->position);
    set_position(in, gap->position, 0);
    r->copy.ended = 0;
    return ss_progress_write(r, &p, reterr);
}

/* Rows of t that were copied before this record are not whole: what came from the source meanwhile is in no stream. */
static bool breaks(ss_route *r, const ss_intake *in, const ss_route_table *t) {
    if (t == NULL || t->st.status == SS_TABLE_ABSENT || in->sequence <= t->st.from_sequence)
        return false;
    return !in->catchup || ss_route_catchup_has(r, t);
}

/* The names for a person, and those that a resync command takes. */
static ss_status halt_broken(ss_route *r, const ss_intake *in, const Sidespool__TableGap *gap, ss_error *reterr) {
    char names[384] = "";
    size_t used = 0, named = 0, more = 0;
    for (size_t i = 0; i < gap->n_tables; i++) {
        const ss_route_table *t = ss_route_table_find(r, gap->tables[i]->ns, gap->tables[i]->name);
        if (!breaks(r, in, t))
            continue;
        size_t need = strlen(t->st.ns) + strlen(t->st.name) + 2;
        if (used + need >= sizeof names - 1) {
            more++;
            continue;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s.%s", named++ ? " " : "", t->st.ns, t->st.name);
    }
    if (more)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0015", "%zu tables (%.60s and others): %.110s, so what they hold here is not whole; run: sidespool resync --route %s",
                       named + more, names, gap->reason, r->conf->name);
    return ss_fail(reterr, SS_STOP, "SS-ROUTE-0015", "%s: %.110s, so what the target holds is not whole; run: sidespool resync --route %s %s", names,
                   gap->reason, r->conf->name, names);
}

/* TableGap: the agent could not tell all that these tables changed. Under on_gap: resync they are copied anew, beside their old rows;
 * else a person says when. A resync before this place sets them absent, so the stream goes on past it.
 * In one target transaction with progress: if we die before it, the record is met again; after, they are absent and asked for. */
static ss_status take_table_gap(ss_route *r, ss_intake *in, const Sidespool__TableGap *gap, ss_error *reterr) {
    size_t broken = 0;
    for (size_t i = 0; i < gap->n_tables; i++)
        broken += breaks(r, in, ss_route_table_find(r, gap->tables[i]->ns, gap->tables[i]->name));
    in->whole = in->sequence;
    if (!broken)
        return SS_OK;
    if (r->conf->on_gap != SS_ON_GAP_RESYNC)
        return halt_broken(r, in, gap, reterr);
    for (size_t i = 0; i < gap->n_tables; i++) {
        ss_route_table *t = ss_route_table_find(r, gap->tables[i]->ns, gap->tables[i]->name);
        if (!breaks(r, in, t))
            continue;
        SS_LOG(SS_WARN, "table_gap_answered_by_resync", SS_S("schema", t->st.ns), SS_S("table", t->st.name),
               SS_U("sequence", in->sequence), SS_S("reason", gap->reason));
        ss_route_table_absent(r, t);
    }
    ss_progress p = r->progress;
    if (!in->catchup) {
        p.sequence = in->sequence;
        ss_intake_close(&r->catchup); /* its group may have changed */
    }
    r->copy.next_ask_ms = 0;
    r->copy.one_by_one = false;
    return ss_progress_write(r, &p, reterr);
}

/* Records that stand between transactions and end a batch. Everything before them has been applied. */
static ss_status take_special(ss_route *r, ss_intake *in, const Sidespool__Record *record, ss_error *reterr) {
    switch (record->body_case) {
    case SIDESPOOL__RECORD__BODY_MARK:
        if (in->catchup)
            break;
        /* All rows before it are durable on the target, progress may say less. It is not moved past the mark before that has been
         * reported: if we die here, or the answer of a commit is lost, the mark is read and reported again. */
        set_position(in, record->mark->position, 0);
        if (strcmp(record->mark->kind, "verify") == 0)
            ss_verify_mark(r, record->mark->id);
        ss_report_mark(r, record->mark->id);
        return SS_OK;
    case SIDESPOOL__RECORD__BODY_COPY_BEGIN:
        in->whole = in->sequence;
        return in->catchup ? SS_OK : ss_route_copy_begin(r, record->copy_begin, in->sequence, reterr);
    case SIDESPOOL__RECORD__BODY_COPY_END:
        in->whole = in->sequence;
        if (!in->catchup)
            ss_route_copy_end(r, record->copy_end);
        return SS_OK;
    case SIDESPOOL__RECORD__BODY_GAP:
        if (!in->catchup)
            return take_gap(r, in, record->gap, reterr);
        break;
    case SIDESPOOL__RECORD__BODY_TABLE_GAP:
        return take_table_gap(r, in, record->table_gap, reterr);
    default:
        return damaged(r, in, "a record that does not belong into the stream", reterr);
    }
    in->whole = in->sequence;
    return SS_OK;
}

/* One record of a transaction, or an Idle. */
static ss_status take(ss_route *r, ss_intake *in, unsigned kind, ss_error *reterr) {
    if (kind == K_CHANGE)
        return in->in_transaction ? take_change(r, in, reterr) : damaged(r, in, "a change outside a transaction", reterr);
    char place[160];
    Sidespool__Record *record;
    if (kind == K_TRUNCATE && ss_batcher_changes(r->batcher)) {
        ss_status st = apply_part(r, in, reterr);
        if (st != SS_OK)
            return st;
    }
    ss_arena *arena = kind == K_TRUNCATE ? ss_batcher_arena(r->batcher) : r->scratch;
    if (kind != K_TRUNCATE)
        ss_arena_reset(r->scratch);
    ss_status st = ss_record_get(in->record, arena, place_of(r, in, place, sizeof place), &record, reterr);
    if (st != SS_OK)
        return st;
    if ((kind == K_BEGIN || kind == K_IDLE) == in->in_transaction)
        return damaged(r, in, "transactions that are interleaved or have no begin", reterr);
    switch (kind) {
    case K_BEGIN:
        in->in_transaction = true;
        in->began = in->sequence;
        return SS_OK;
    case K_IDLE:
        set_position(in, record->idle->position, record->idle->time);
        return SS_OK;
    case K_PIECE:
        return take_piece(r, in, record->piece, reterr);
    case K_TRUNCATE:
        return take_truncate(r, in, record->truncate, reterr);
    case K_COMMIT:
        if (in->piece_count)
            return damaged(r, in, "pieces of a value without their change", reterr);
        in->in_transaction = false;
        in->transactions++;
        set_position(in, record->commit->position, record->commit->commit_time);
        return SS_OK;
    default:
        return damaged(r, in, "a record of a kind that this version does not know", reterr);
    }
}

/* ---- one batch ------------------------------------------------------------------------------------------------- */

/* `quarters` of its bounds are reached. */
static bool batch_full(const ss_route *r, size_t quarters) {
    return ss_batcher_bytes(r->batcher) >= SS_BATCH_BYTES * quarters / 4 ||
           ss_batcher_changes(r->batcher) * 4 >= r->batch_most * quarters;
}

/* Whether what is there is enough to be handed over, or uses so many schemas that they are to go first. While the target is busy the
 * batch grows towards its bounds, for a large one costs less for each change; an idle target gets the little that there is, so that
 * neither waits for the other. */
static bool batch_ripe(ss_route *r, const ss_intake *in, uint64_t until) {
    if (batch_full(r, 4) || ss_route_schemas_many(r))
        return true;
    if (in->sent.open && ss_worker_busy(r->worker))
        return false;
    return ss_route_now_ms() >= until || (may_run_ahead(r, in) && ss_batcher_changes(r->batcher) >= SS_BATCH_LEAST);
}

/* Fills a batch. SS_OK: there is more to read; SS_BUSY: the reader is at its end, or a special record is held. */
static ss_status fill(ss_route *r, ss_intake *in, ss_error *reterr) {
    uint64_t until = ss_route_now_ms() + SS_BATCH_AGE_MS;
    for (;;) {
        if (!in->held) {
            if (in->limit && in->whole >= in->limit)
                return SS_BUSY;
            ss_status st = ss_reader_next(in->reader, &in->record, &in->sequence, reterr);
            if (st == SS_BUSY && in->in_transaction)
                return damaged(r, in, "the committed log ends inside a transaction", reterr);
            if (st != SS_OK)
                return st;
            in->held = true;
        }
        unsigned kind = ss_record_kind(in->record);
        if (!in->in_transaction && kind >= K_MARK)
            return SS_BUSY;
        if (kind == K_BEGIN && in->transactions && in->sequence <= r->careful_until)
            return SS_OK; /* one at a time, to name a bad one */
        ss_status st = take(r, in, kind, reterr);
        if (st != SS_OK)
            return st;
        in->held = false;
        /* A transaction that only straddles the bound is taken along whole: a part of it would cost a round trip of its own. */
        if (in->in_transaction && batch_full(r, 5)) {
            st = apply_part(r, in, reterr);
            if (st != SS_OK)
                return st;
        }
        /* Changes that are not applied fill no batch, and a huge transaction of them is not to look like a target that hangs. */
        if (in->in_transaction && in->sequence % RECORDS_A_TURN == 0 && (st = turn(r, reterr)) != SS_OK)
            return st;
        if (!in->in_transaction && batch_ripe(r, in, until))
            return SS_OK;
    }
}

ss_status ss_intake_keep_place(ss_route *r, ss_intake *in, ss_error *reterr) {
    return in->whole > r->progress.sequence ? apply(r, in, false, false, reterr) : SS_OK;
}

/* A batch of several transactions was refused: they are applied again one by one, so that the good ones pass and the bad
 * one is named. */
static ss_status again_carefully(ss_route *r, ss_intake *in, ss_error *reterr) {
    ss_error refused = *reterr;
    uint64_t from = (in->catchup ? in->whole : r->progress.sequence) + 1;
    r->careful_until = in->sequence;
    r->again = true;
    SS_LOG(SS_WARN, "batch_refused", SS_U("from", from), SS_U("to", in->sequence),
           SS_U("transactions", in->transactions), SS_S("code", refused.code ? refused.code : ""), SS_S("error", refused.text));
    return ss_fail(reterr, SS_RETRY, refused.code, "%s", refused.text);
}

static ss_status failed(ss_route *r, ss_intake *in, ss_status st, ss_error *reterr) {
    if (st != SS_STOP)
        return st;
    bool several = in->sent.failed || in->transactions > (in->in_transaction ? 0u : 1u);
    if (several && r->careful_until < in->sequence)
        return again_carefully(r, in, reterr);
    if (in->failed_apply)
        ss_error_prefix(reterr, "source transaction at record %" PRIu64, in->began);
    return SS_STOP;
}

/* One batch, or one special record. */
static ss_status run_once(ss_route *r, ss_intake *in, ss_error *reterr) {
    in->failed_apply = false;
    if (in->held && !in->in_transaction && ss_record_kind(in->record) >= K_MARK) {
        char place[160];
        Sidespool__Record *record;
        ss_arena *arena = ss_batcher_arena(r->batcher); /* empty now; a special record may be used after scratch is reset */
        ss_status st = ss_record_get(in->record, arena, place_of(r, in, place, sizeof place), &record, reterr);
        if (st == SS_OK)
            st = take_special(r, in, record, reterr);
        if (st != SS_OK)
            return st;
        batch_clear(r);
        in->held = false;
        return SS_OK;
    }
    ss_status more = fill(r, in, reterr);
    if (more != SS_OK && more != SS_BUSY) {
        /* The batch before it counts, and if it failed, too, that came first. */
        ss_error mine = *reterr;
        ss_status st = ss_intake_settle(r, in, reterr);
        if (st == SS_OK) {
            *reterr = mine;
            st = more;
        }
        return failed(r, in, st, reterr);
    }
    if (ss_batcher_changes(r->batcher) || in->partial_open) {
        ss_status st = apply(r, in, false, more == SS_OK, reterr);
        return st == SS_OK ? st : failed(r, in, st, reterr);
    }
    ss_status st = ss_intake_settle(r, in, reterr);
    if (st != SS_OK)
        return failed(r, in, st, reterr);
    in->transactions = 0;
    batch_clear(r);
    /* Nothing for our tables: progress follows at most once a second (catch-up: at its end). */
    bool moved = in->catchup ? in->limit && in->whole >= in->limit : in->whole > r->progress.sequence;
    if (moved && (in->catchup || in->held || ss_route_now_ms() >= r->wrote_ms + 1000)) {
        st = apply(r, in, false, false, reterr);
        if (st != SS_OK)
            return st;
        more = SS_OK;
    }
    return in->held ? SS_OK : more;
}

ss_status ss_intake_run(ss_route *r, ss_intake *in, ss_error *reterr) {
    uint64_t until = ss_route_now_ms() + SS_AHEAD_MS;
    ss_route_schemas_trim(r);
    ss_status st;
    do {
        st = run_once(r, in, reterr);
    } while (st == SS_OK && in->sent.open && !ss_route_schemas_many(r) && !ss_route_tick(r) && r->in.len == 0 && ss_route_now_ms() < until);
    if (!in->sent.open)
        return st;
    ss_error late = {0};
    ss_status settled = ss_intake_settle(r, in, &late);
    if (st != SS_OK || settled == SS_OK)
        return st;
    *reterr = late;
    return failed(r, in, settled, reterr);
}
