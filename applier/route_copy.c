/* Copies as a route sees them: asking the agent, meeting CopyBegin in the stream, loading rows from the copy log in turn with
 * the stream (docs/architecture.md, a copy, step by step).
 *
 * Crash argument: rows and the place in the copy log are one target transaction (copy_flush, copy_table), so a route that dies goes
 * on behind the last chunk that the target holds. Nothing here waits for the agent: what it has not written yet is looked for again. */
#include "applier/route.h"

#include <inttypes.h>
#include <unistd.h>

#define CHUNK_TURN ((size_t)4 << 20)    /* loaded in one turn while other tables stream */
#define CHUNK_ALONE ((size_t)32 << 20)  /* while nothing else goes on */
#define ASK_AGAIN_MS 10000u
/* Up to here a table shares its transaction with others: their indexes are built in no time. A larger one has its own, so that nobody
 * waits meanwhile for a lock on a table that is loaded already. */
#define TABLE_SMALL ((uint64_t)4 << 20)
#define OBJECTS_TOGETHER 100u /* objects and tables of one transaction: the target's lock table is of a fixed size */

enum { K_COPY_END = 9, K_COPY_ROWS = 10, K_COPY_TABLE = 11, K_OBJECT = 12 };

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while copying; the route starts again from the target's progress");
}

void ss_route_copy_close(ss_route *r) {
    ss_reader_close(r->copy.reader);
    ss_reader_close(r->copy.ahead);
    ss_route_copy kept = r->copy;
    r->copy = (ss_route_copy){.next_ask_ms = kept.next_ask_ms, .asks_failed = kept.asks_failed, .ask_all = kept.ask_all,
                              .ask_single = kept.ask_single, .one_by_one = kept.one_by_one};
    memcpy(r->copy.ask_trouble, kept.ask_trouble, sizeof kept.ask_trouble);
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static json_t *tables_to_ask(ss_route *r) {
    json_t *list = json_array();
    if (r->copy.ask_all || r->table_count == 0) {
        json_array_append_new(list, json_string("*"));
        return list;
    }
    size_t absent = 0, n = 0;
    for (size_t i = 0; i < r->table_count; i++)
        absent += r->tables[i].st.status == SS_TABLE_ABSENT;
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_table_state *st = &r->tables[i].st;
        if (st->status != SS_TABLE_ABSENT || (r->copy.one_by_one && n++ != r->copy.ask_single % absent))
            continue;
        char name[256];
        snprintf(name, sizeof name, "%s.%s", st->ns, st->name);
        json_array_append_new(list, json_string(name));
    }
    return list;
}

static void ask_failed(ss_route *r, ss_status st, const ss_error *err) {
    ss_route_copy *c = &r->copy;
    if (strcmp(c->ask_trouble, err->text) != 0) {
        snprintf(c->ask_trouble, sizeof c->ask_trouble, "%.500s", err->text);
        ss_log_error(SS_WARN, "copy_not_started", err);
        r->status_due = true;
    }
    if (st == SS_STOP && !c->ask_all && r->table_count > 1) { /* the agent refused: one table may stand in the way of the others */
        if (c->one_by_one)
            c->ask_single++;
        c->one_by_one = true;
    }
    uint64_t wait = (uint64_t)500 << (c->asks_failed < 5 ? c->asks_failed : 5);
    c->asks_failed++;
    c->next_ask_ms = ss_route_now_ms() + (wait < ASK_AGAIN_MS ? wait : ASK_AGAIN_MS);
}

/* Asked only when the stream and the copy log are read to their ends, so that a copy that already runs has been met. Asking
 * again is harmless: the agent answers with the generation that runs for this route. */
ss_status ss_route_copy_ask(ss_route *r, ss_error *reterr) {
    (void)reterr;
    bool wants = r->copy.ask_all || r->table_count == 0 || ss_route_tables_in(r, SS_TABLE_ABSENT) > 0;
    if (!wants) {
        r->copy.ask_trouble[0] = 0;
        r->copy.one_by_one = false;
        return SS_BUSY;
    }
    if (ss_route_now_ms() < r->copy.next_ask_ms)
        return SS_BUSY;
    int fd = -1;
    ss_error err = {0};
    json_t *answer = NULL;
    ss_status st = ss_agent_connect(r->config->spool_path, r->conf->source, &fd, &err);
    if (st == SS_OK) {
        json_t *ask = json_pack("{s:s,s:s,s:o}", "op", "copy", "route", r->conf->name, "tables", tables_to_ask(r));
        st = ss_agent_ask(fd, ask, 10000, NULL, &answer, &err);
        close(fd);
    }
    if (st != SS_OK) {
        ask_failed(r, st, &err);
        return SS_BUSY;
    }
    json_t *generation = json_object_get(answer, "generation");
    const char *state = json_string_value(json_object_get(answer, "state"));
    SS_LOG(SS_INFO, "copy_asked", SS_I("generation", json_integer_value(generation)), SS_S("state", state ? state : ""));
    json_decref(answer);
    r->copy.ask_trouble[0] = 0;
    r->copy.asks_failed = 0;
    if (r->copy.one_by_one)
        r->copy.ask_single++;
    r->copy.next_ask_ms = ss_route_now_ms() + ASK_AGAIN_MS;
    r->status_due = true;
    return SS_BUSY;
}

/* ---- what the stream says about copies ------------------------------------------------------------------------- */

/* The stream tells where generations begin and end; rows of passed ones that are not ours need not be kept for us. */
static void passed(ss_route *r, uint64_t generation) {
    if (generation > r->copy.passed)
        r->copy.passed = generation;
}

/* Whether a table is loaded beside is the target's to say: old rows may have been dropped by hand. */
static ss_status after_begin(ss_route *r, uint64_t generation, ss_error *reterr) {
    ss_table_state *saved = NULL;
    size_t count = 0;
    ss_arena_reset(r->scratch);
    ss_status st = ss_route_target(r, r->ops->states(r->target, r->scratch, &saved, &count, reterr));
    for (size_t i = 0; st == SS_OK && i < count; i++) {
        ss_route_table *t = ss_route_table_find(r, saved[i].ns, saved[i].name);
        if (!t || t->st.generation != generation)
            continue;
        t->st.beside = saved[i].beside;
        t->dirty = false;
    }
    return st;
}

ss_status ss_route_copy_begin(ss_route *r, const Sidespool__CopyBegin *begin, uint64_t sequence, ss_error *reterr) {
    if (begin->generation)
        passed(r, begin->generation - 1);
    if (strcmp(begin->route, r->conf->name) != 0)
        return SS_OK;
    bool others_load = ss_route_tally(r)->loading != 0;
    if (r->copy.dirty)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0004", "a copy begins while rows of another are unsaved; this is a defect, report it");
    ss_arena_reset(r->scratch);
    ss_table_state *states = ss_arena_alloc(r->scratch, sizeof *states * (begin->n_tables + 1));
    if (!states)
        return no_memory(reterr);
    size_t n = 0;
    for (size_t i = 0; i < begin->n_tables; i++) {
        const Sidespool__Table *want = begin->tables[i];
        ss_route_table *t = ss_route_table_find(r, want->ns, want->name);
        if (t && t->st.generation >= begin->generation)
            continue; /* an older copy than the one it has or gave up (the stream is replayed) */
        if (!t) {
            ss_status st = ss_route_table_add(r, want->ns, want->name, &t, reterr);
            if (st != SS_OK)
                return st;
        }
        ss_route_table_absent(r, t); /* a ready one keeps its rows until the new ones are in */
        t->st.status = SS_TABLE_COPYING;
        t->st.generation = begin->generation;
        t->st.from_sequence = sequence;
        t->st.schema_id = 0;
        t->st.rows_estimate = want->rows_estimate;
        t->st.bytes_estimate = want->bytes_estimate;
    }
    ss_route_states_changed(r);
    /* Collected in a second round: adding tables may have moved the array. */
    for (size_t i = 0; i < begin->n_tables; i++) {
        const ss_route_table *t = ss_route_table_find(r, begin->tables[i]->ns, begin->tables[i]->name);
        if (t && t->st.generation == begin->generation && t->st.status == SS_TABLE_COPYING && t->st.from_sequence == sequence)
            states[n++] = t->st;
    }
    ss_progress p = r->progress;
    p.sequence = sequence;
    p.copy_sequence = r->copy.read_to;
    if (!others_load && begin->copy_sequence > p.copy_sequence + 1)
        p.copy_sequence = begin->copy_sequence - 1; /* what stands before is of older generations */
    if (n) {
        ss_status st = ss_route_target(r, r->ops->copy_begin(r->target, begin, states, n, &p, reterr));
        if (st != SS_OK)
            return st;
        r->progress = p;
        st = after_begin(r, begin->generation, reterr);
        if (st != SS_OK)
            return st;
    }
    if (p.copy_sequence != r->copy.read_to || r->copy.held) {
        ss_reader_close(r->copy.reader);
        r->copy.reader = NULL;
        r->copy.held = false;
        r->copy.read_to = p.copy_sequence;
    }
    r->copy.ask_all = false;
    r->copy.next_ask_ms = 0;
    r->status_due = true;
    SS_LOG(SS_INFO, "copy_begins", SS_U("generation", begin->generation), SS_U("tables", n),
           SS_U("sequence", sequence), SS_U("rows_estimate", begin->rows_estimate));
    return ss_progress_cursors(r, true, reterr);
}

void ss_route_copy_end(ss_route *r, const Sidespool__CopyEnd *end) {
    passed(r, end->generation);
    if (strcmp(end->route, r->conf->name) != 0 || end->generation < r->copy.ended)
        return;
    r->copy.ended = end->generation;
    r->copy.ended_aborted = end->aborted;
    snprintf(r->copy.ended_reason, sizeof r->copy.ended_reason, "%.150s", end->reason ? end->reason : "");
}

/* Looks for the CopyEnd of `generation` in the stream from its CopyBegin on: the route's own reading may wait before it, or
 * may have passed it before a restart. */
static ss_status look_ahead(ss_route *r, uint64_t generation, uint64_t from, ss_error *reterr) {
    ss_route_copy *c = &r->copy;
    if (c->ahead && c->ahead_generation != generation) {
        ss_reader_close(c->ahead);
        c->ahead = NULL;
    }
    if (!c->ahead) {
        ss_status st = ss_reader_open(r->config->spool_path, r->conf->source, SS_LOG_STREAM, from + 1, &c->ahead, reterr);
        if (st != SS_OK)
            return st;
        c->ahead_generation = generation;
    }
    for (unsigned n = 0; n < 100000; n++) {
        ss_bytes bytes;
        uint64_t sequence;
        ss_status st = ss_reader_next(c->ahead, &bytes, &sequence, reterr);
        if (st != SS_OK)
            return st;
        if (ss_record_kind(bytes) != K_COPY_END)
            continue;
        Sidespool__Record *record;
        char place[160];
        snprintf(place, sizeof place, "%s/stream record %" PRIu64, r->conf->source, sequence);
        ss_arena_reset(r->scratch);
        st = ss_record_get(bytes, r->scratch, place, &record, reterr);
        if (st != SS_OK)
            return st;
        ss_route_copy_end(r, record->copy_end);
        if (c->ended >= generation)
            return SS_OK;
    }
    return SS_OK;
}

/* ---- loading --------------------------------------------------------------------------------------------------- */

static ss_route_table *loading(ss_route *r, const char *ns, const char *name, uint64_t generation) {
    ss_route_table *t = ss_route_table_find(r, ns, name);
    return t && t->st.status == SS_TABLE_COPYING && !t->st.loaded && t->st.generation == generation ? t : NULL;
}

/* Asked for each record of the copy log, nearly always with the generation of the record before. */
static bool ours(ss_route *r, uint64_t generation) {
    ss_route_tally(r);
    ss_route_counts *c = &r->counts;
    if (c->ours_asked && c->ours_generation == generation)
        return c->ours;
    c->ours = false;
    for (size_t i = 0; i < r->table_count && !c->ours; i++)
        c->ours = r->tables[i].st.generation == generation && r->tables[i].st.status == SS_TABLE_COPYING;
    c->ours_asked = true;
    c->ours_generation = generation;
    return c->ours;
}

/* Durable on the target: rows, states and the place in the copy log together. */
static ss_status flush(ss_route *r, ss_error *reterr) {
    ss_route_copy *c = &r->copy;
    if (!c->dirty) /* a cursor that was written less than a second ago is written when the second is over: the agent waits
                      for it to make room, and we for the agent */
        return ss_progress_cursors(r, false, reterr);
    const ss_table_state *states;
    size_t count;
    ss_status st = ss_route_states_dirty(r, &states, &count, reterr);
    if (st != SS_OK)
        return st;
    ss_progress p = r->progress;
    p.copy_sequence = c->read_to;
    st = ss_route_target(r, r->ops->copy_flush(r->target, &p, states, count, reterr));
    if (st != SS_OK)
        return st;
    r->progress = p;
    ss_route_states_clean(r);
    c->dirty = false;
    c->bytes = 0;
    c->objects = 0;
    return ss_progress_cursors(r, false, reterr);
}

static ss_status load_rows(ss_route *r, const Sidespool__CopyRows *rows, ss_error *reterr) {
    ss_route_schema *rs;
    ss_status st = ss_route_schema_get(r, r->copy.reader, rows->schema_id, &rs, reterr);
    if (st != SS_OK)
        return st;
    ss_route_table *t = loading(r, rs->schema->ns, rs->schema->name, rows->generation);
    if (!t)
        return SS_OK;
    st = ss_route_target(r, r->ops->copy_rows(r->target, rs->schema, ss_bytes_of(rows->cells.data, rows->cells.len), rows->count,
                                              rows->more, reterr));
    if (st != SS_OK)
        return st;
    t->st.schema_id = rows->schema_id;
    t->st.rows += rows->count - (rows->more && rows->count ? 1 : 0);
    t->st.bytes += rows->cells.len;
    t->dirty = true;
    r->copied_total += rows->count;
    r->copy.dirty = true;
    r->copy.bytes += rows->cells.len;
    return SS_OK;
}

static ss_status load_object(ss_route *r, const Sidespool__Object *object, ss_error *reterr) {
    if (!ours(r, object->generation))
        return SS_OK;
    /* Objects of a table that is not (any more) loaded by this generation are of no use. */
    char own[300];
    snprintf(own, sizeof own, "%s.%s", object->ns, object->name);
    const char *of = object->table && object->table[0] ? object->table : strcmp(object->kind, "table") == 0 ? own : NULL;
    if (of) {
        const ss_route_table *t = ss_route_table_named(r, of);
        if (!t || t->st.generation != object->generation || t->st.status != SS_TABLE_COPYING)
            return SS_OK;
    }
    ss_status st = ss_route_target(r, r->ops->copy_object(r->target, object, reterr));
    if (st == SS_OK) {
        r->copy.dirty = true;
        r->copy.objects++;
    }
    return st;
}

static ss_status load_table_end(ss_route *r, const Sidespool__CopyTable *end, uint64_t sequence, ss_error *reterr) {
    if (!loading(r, end->ns, end->name, end->generation))
        return SS_OK;
    bool small = end->bytes <= TABLE_SMALL;
    ss_status st = small ? SS_OK : flush(r, reterr); /* up to the record before */
    if (st != SS_OK)
        return st;
    ss_route_schema *rs;
    st = ss_route_schema_get(r, r->copy.reader, end->schema_id, &rs, reterr);
    if (st != SS_OK)
        return st;
    ss_route_table *t = loading(r, end->ns, end->name, end->generation);
    if (!t)
        return SS_OK;
    if (t->st.rows != end->rows)
        SS_LOG(SS_DEBUG, "copy_rows_differ", SS_S("table", end->name), SS_U("rows", t->st.rows), SS_U("said", end->rows));
    ss_table_state state = t->st;
    state.loaded = true;
    state.schema_id = end->schema_id;
    state.rows = end->rows;
    state.bytes = end->bytes;
    ss_progress p = r->progress;
    p.copy_sequence = sequence;
    char name[140];
    snprintf(name, sizeof name, "%.60s.%.60s", end->ns, end->name);
    if (!small)
        ss_route_doing(r, "building keys and indexes of", name);
    st = ss_route_target(r, r->ops->copy_table(r->target, rs->schema, small ? NULL : &p, &state, reterr));
    if (!small)
        ss_route_doing(r, NULL, NULL);
    if (st != SS_OK)
        return st;
    const char *ns = t->st.ns, *own = t->st.name;
    t->st = state;
    t->st.ns = ns;
    t->st.name = own;
    t->dirty = false;
    ss_route_states_changed(r);
    if (small) {
        r->copy.dirty = true;
        r->copy.objects++;
    } else {
        r->progress = p;
    }
    r->status_due = true;
    SS_LOG(SS_INFO, "table_loaded", SS_S("table", name), SS_U("rows", end->rows));
    return SS_OK;
}

/* One record of the copy log. SS_BUSY: its CopyBegin has not been met, it stays held. */
static ss_status load(ss_route *r, bool *ret_more, ss_error *reterr) {
    ss_route_copy *c = &r->copy;
    char place[160];
    snprintf(place, sizeof place, "%s/copy record %" PRIu64, r->conf->source, c->sequence);
    ss_arena_reset(r->scratch);
    Sidespool__Record *record;
    *ret_more = false;
    ss_status st = ss_record_get(c->record, r->scratch, place, &record, reterr);
    if (st != SS_OK)
        return st;
    uint64_t generation = 0;
    switch (record->body_case) {
    case SIDESPOOL__RECORD__BODY_COPY_ROWS: generation = record->copy_rows->generation; break;
    case SIDESPOOL__RECORD__BODY_COPY_TABLE: generation = record->copy_table->generation; break;
    case SIDESPOOL__RECORD__BODY_OBJECT: generation = record->object->generation; break;
    default:
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0004", "%s holds a record that does not belong into the copy log; run sidespool spool verify", place);
    }
    bool mine = ours(r, generation);
    if (!mine && generation > c->passed)
        return SS_BUSY;
    if (mine && record->body_case == SIDESPOOL__RECORD__BODY_COPY_ROWS) {
        *ret_more = record->copy_rows->more;
        return load_rows(r, record->copy_rows, reterr);
    }
    if (mine && record->body_case == SIDESPOOL__RECORD__BODY_COPY_TABLE)
        return load_table_end(r, record->copy_table, c->sequence, reterr);
    return mine ? load_object(r, record->object, reterr) : SS_OK;
}

/* The copy log is drained of `generation`: tables without all their rows are absent again and asked for anew. */
static ss_status give_up(ss_route *r, uint64_t generation, const char *why, ss_error *reterr) {
    size_t n = 0;
    for (size_t i = 0; i < r->table_count; i++) {
        ss_route_table *t = &r->tables[i];
        if (t->st.status != SS_TABLE_COPYING || t->st.loaded || t->st.generation != generation)
            continue;
        ss_route_table_absent(r, t);
        n++;
    }
    SS_LOG(SS_WARN, "copy_given_up", SS_U("generation", generation), SS_U("tables", n), SS_S("reason", why));
    r->status_due = true;
    return ss_progress_write(r, &r->progress, reterr);
}

/* Opens the copy log behind what the target holds. *ret_lost: what is needed was trimmed. */
static ss_status open_reader(ss_route *r, bool *ret_lost, ss_error *reterr) {
    *ret_lost = false;
    ss_status st = ss_reader_open(r->config->spool_path, r->conf->source, SS_LOG_COPY, r->copy.read_to + 1, &r->copy.reader, reterr);
    if (st == SS_STOP && reterr->code && strcmp(reterr->code, SS_SPOOL_GAP) == 0) {
        *ret_lost = true;
        return SS_OK;
    }
    return st;
}

/* What the route would read next was trimmed. With nothing of ours to load that is no loss: go on where the log begins. */
static ss_status lost(ss_route *r, uint64_t generation, ss_error *reterr) {
    if (generation)
        return give_up(r, generation, "its rows are no longer in the spool", reterr);
    ss_reader *reader;
    const ss_log_state *state;
    ss_status st = ss_reader_open(r->config->spool_path, r->conf->source, SS_LOG_COPY, 0, &reader, reterr);
    if (st != SS_OK)
        return st;
    st = ss_reader_state(reader, &state, reterr);
    if (st == SS_OK) {
        r->copy.read_to = state->first > r->copy.read_to + 1 ? state->first - 1 : state->committed;
        r->progress_dirty = true;
    }
    ss_reader_close(reader);
    return st;
}

ss_status ss_route_copy_step(ss_route *r, ss_error *reterr) {
    ss_route_copy *c = &r->copy;
    ss_route_schemas_trim(r);
    const ss_route_counts *counts = ss_route_tally(r);
    uint64_t from = counts->loading_from, generation = counts->loading;
    if (!c->reader) {
        bool is_lost;
        ss_status st = open_reader(r, &is_lost, reterr);
        if (st == SS_RETRY && reterr->code && strcmp(reterr->code, SS_SPOOL_ABSENT) == 0 && !generation)
            return SS_BUSY; /* no copy was ever made */
        if (st != SS_OK)
            return st;
        if (is_lost)
            return lost(r, generation, reterr);
    }
    bool alone = ss_route_tables_in(r, SS_TABLE_READY) == 0;
    size_t most = alone ? CHUNK_ALONE : CHUNK_TURN;
    uint64_t until = ss_route_now_ms() + (alone ? 1000 : 200);
    bool more = false, did = false;
    ss_status st = SS_OK;
    while (more || (c->bytes < most && c->objects < OBJECTS_TOGETHER && !ss_route_schemas_many(r) && ss_route_now_ms() < until)) {
        if (!c->held) {
            st = ss_reader_next(c->reader, &c->record, &c->sequence, reterr);
            if (st != SS_OK)
                break;
            c->held = true;
        }
        st = load(r, &more, reterr);
        if (st != SS_OK)
            break;
        c->held = false;
        c->read_to = c->sequence;
        did = true;
        if (more && ss_route_tick(r))
            return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0014", "the route is ending; rows at hand are loaded again at the next start");
    }
    if (st != SS_OK && st != SS_BUSY)
        return st;
    if (more) /* the row's end has not been written yet: neither is its beginning */
        return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0004", "the copy log ends within a row; it is read again");
    ss_status flushed = flush(r, reterr);
    if (flushed != SS_OK)
        return flushed;
    if (did || st == SS_OK) {
        if (c->read_to != r->progress.copy_sequence)
            r->progress_dirty = true;
        return SS_OK;
    }
    if (!generation)
        return SS_BUSY;
    if (c->ended >= generation)
        return give_up(r, generation, c->ended_reason[0] ? c->ended_reason : "it ended without these tables", reterr);
    return look_ahead(r, generation, from, reterr);
}
