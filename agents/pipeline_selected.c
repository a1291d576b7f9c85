/* Tables that break: what a table changed while it was not captured is in no stream, so the stream says so
 * with a TableGap, and every route that holds rows of it copies it anew (docs/architecture.md, "A table that
 * was away"). Capture thread, but for ss_pipeline_look and ss_pipeline_selected.
 *
 * Crash argument for a comparison: TableGaps are durable first, then the set is saved, then streaming goes
 * on. If we die between, the next start finds the same differences and writes the TableGaps once more: a
 * route that has met the first holds those tables as absent (or copies them, from a snapshot behind it, and
 * begins that copy again). The other way round a set that is saved would hide a gap that nobody was told. */
#include "agents/pipeline_internal.h"

#include "sidespool/log.h"
#include <stdio.h>
#include <stdlib.h>

#define LOOK_AGAIN_MS 200 /* while a gap waits for the end of a transaction, or for room */

ss_selected *ss_pipeline_selected(ss_pipeline *p) {
    return p->selected;
}

/* The names' memory is the caller's. `out` gets the packed record. */
static ss_status pack_gap(const ss_source_table *tables, const uint8_t *why, size_t count, uint8_t wanted,
                          const char *reason, ss_buf *out, ss_error *reterr) {
    Sidespool__TableGap gap = SIDESPOOL__TABLE_GAP__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    Sidespool__Table *items = calloc(count + 1, sizeof *items), **list = calloc(count + 1, sizeof *list);

    bool ok = items != NULL && list != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        if (why != NULL && why[i] != wanted)
            continue;
        Sidespool__Table *item = &items[gap.n_tables];
        sidespool__table__init(item);
        item->ns = (char *)(uintptr_t)tables[i].ns; /* packed, never written to */
        item->name = (char *)(uintptr_t)tables[i].name;
        list[gap.n_tables++] = item;
    }
    gap.tables = list;
    gap.reason = (char *)(uintptr_t)reason;
    record.body_case = SIDESPOOL__RECORD__BODY_TABLE_GAP;
    record.table_gap = &gap;
    if (ok && gap.n_tables > 0)
        ss_record_put(out, &record);
    ok = ok && !out->bad;
    free(items);
    free(list);
    return ok ? SS_OK
              : ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory while encoding a record; retrying");
}

static void log_gaps(const ss_source_table *tables, const uint8_t *why, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (why[i] != SS_WHOLE)
            SS_LOG(SS_WARN, "table_gap", SS_S("schema", tables[i].ns), SS_S("table", tables[i].name),
                   SS_S("reason", ss_selected_reason(why[i])));
}

/* One record for each reason. */
static ss_status write_gaps(ss_pipeline *p, const ss_source_table *tables, const uint8_t *why, size_t count,
                            ss_error *reterr) {
    ss_status status = SS_OK;
    ss_buf packed;

    ss_buf_init(&packed);
    for (uint8_t reason = SS_WHOLE + 1; reason < SS_GAP_REASONS && status == SS_OK; reason++) {
        ss_buf_clear(&packed);
        status = pack_gap(tables, why, count, reason, ss_selected_reason(reason), &packed, reterr);
        if (status == SS_OK && packed.len > 0)
            status = ss_pipeline_put_durable(p, ss_bytes_of(packed.ptr, packed.len), reterr);
    }
    ss_buf_done(&packed);
    if (status == SS_OK)
        log_gaps(tables, why, count);
    return status;
}

/* *ret_source: the failure is the listing's. SS_BUSY: gaps have to wait for their place. */
static ss_status compare(ss_pipeline *p, bool adopt, bool may_write, bool *ret_source, ss_error *reterr) {
    ss_selected_plan plan = {0};
    ss_source_table *tables = NULL;
    size_t count = 0;
    ss_arena *arena = ss_arena_new(0);

    *ret_source = true;
    if (arena == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for the list of selected tables");
    ss_status status = p->setup.ops->selected(p->setup.env, arena, &tables, &count, reterr);
    if (status == SS_OK) {
        *ret_source = false;
        status = ss_selected_compare(p->selected, tables, count, adopt, &plan, reterr);
    }
    if (status == SS_OK && plan.gaps > 0)
        status = may_write ? write_gaps(p, tables, plan.why, count, reterr) : SS_BUSY;
    if (status == SS_OK)
        status = ss_selected_accept(p->selected, &plan, reterr);
    ss_selected_plan_done(&plan);
    ss_arena_free(arena);
    return status;
}

static uint64_t looks_wanted(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    uint64_t wanted = p->look_wanted;
    pthread_mutex_unlock(&p->mutex);
    return wanted;
}

static void look_done(ss_pipeline *p, uint64_t upto, ss_status status, const ss_error *err) {
    pthread_mutex_lock(&p->mutex);
    p->look_done = upto;
    p->look_status = status;
    p->look_error = *err;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->mutex);
}

ss_status ss_pipeline_compare_at_start(ss_pipeline *p, bool adopt, ss_error *reterr) {
    uint64_t wanted = looks_wanted(p);
    ss_error none = {0};
    bool source;

    if (p->setup.ops->selected == NULL)
        return SS_OK;
    ss_status status = compare(p, adopt, true, &source, reterr);
    if (status == SS_OK)
        look_done(p, wanted, SS_OK, &none);
    return status == SS_BUSY ? SS_RETRY : status;
}

ss_status ss_pipeline_compare_if_asked(ss_pipeline *p, ss_error *reterr) {
    uint64_t wanted = looks_wanted(p);
    ss_error err = {0};
    bool source;

    if (wanted == p->look_done || ss_monotonic_ms() < p->look_again_ms)
        return SS_OK;
    ss_status status = compare(p, false, !p->begun && !p->full, &source, &err);
    p->look_again_ms = status == SS_BUSY ? ss_monotonic_ms() + LOOK_AGAIN_MS : 0;
    if (status == SS_BUSY)
        return SS_OK;
    if (status != SS_OK && !source) {
        *reterr = err;
        return status;
    }
    look_done(p, wanted, status, &err); /* whoever asked hears what the source could not say */
    return SS_OK;
}

ss_status ss_pipeline_look(ss_pipeline *p, int wait_ms, ss_error *reterr) {
    int64_t until = ss_monotonic_ms() + wait_ms;
    ss_status status;

    if (p->setup.ops->selected == NULL)
        return SS_OK;
    pthread_mutex_lock(&p->mutex);
    uint64_t ticket = ++p->look_wanted;
    ss_pipeline_wake(p);
    while (p->look_done < ticket && !p->stop && ss_monotonic_ms() < until)
        ss_waiter_wait(&p->cond, &p->mutex, until - ss_monotonic_ms());
    if (p->stop)
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping");
    else if (p->look_done < ticket)
        status = ss_fail(reterr, SS_BUSY, "SS-AGENT-0007", "the source is not being captured now");
    else if ((status = p->look_status) != SS_OK)
        *reterr = p->look_error;
    pthread_mutex_unlock(&p->mutex);
    return status;
}

/* So that it stands behind the transaction at hand, not behind all that this poll brings. */
static void take_incoming(ss_pipeline *p) {
    pthread_mutex_lock(&p->mutex);
    if (p->incoming.first != NULL) {
        *p->markers.last = p->incoming.first;
        p->markers.last = p->incoming.last;
        ss_markers_init(&p->incoming);
    }
    pthread_mutex_unlock(&p->mutex);
}

/* Called by the source while it decodes, perhaps inside a transaction: then the record stands behind that.
 * Crash argument: the set says first, durably, that the table broke. If we die before the record is durable,
 * the next start writes it; if after, it writes another one, which finds that table absent. */
ss_status ss_pipeline_table_gap(void *ctx, const char *ns, const char *name, const char *reason,
                                ss_error *reterr) {
    ss_pipeline *p = ctx;
    const ss_source_table table = {.ns = ns, .name = name, .id = ""};
    ss_buf packed;

    ss_buf_init(&packed);
    ss_status status = ss_selected_broken(p->selected, ns, name, reterr);
    if (status == SS_OK)
        status = pack_gap(&table, NULL, 1, 0, reason, &packed, reterr);
    if (status == SS_OK)
        status = ss_pipeline_add_marker(p, "", 0, ss_bytes_of(packed.ptr, packed.len), 0, reterr);
    ss_buf_done(&packed);
    if (status == SS_OK)
        take_incoming(p);
    if (status == SS_BUSY) /* too many marks wait: the next session begins with a comparison */
        return SS_RETRY;
    if (status == SS_OK)
        SS_LOG(SS_WARN, "table_gap", SS_S("schema", ns), SS_S("table", name), SS_S("reason", reason));
    return status;
}
