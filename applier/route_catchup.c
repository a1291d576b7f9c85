/* Tables whose copy is in catch up with the stream: it is read again from where their copy stands up to where the route is,
 * for them alone, and then they join (docs/architecture.md, a copy, step 5). */
#include "applier/route.h"

#define NEAR 20000u      /* closer than so many records, the route's own stream waits until they have joined */

bool ss_route_catchup_has(ss_route *r, const ss_route_table *t) {
    ss_route_tally(r);
    return t->catches_up;
}

bool ss_route_stream_waits(ss_route *r) {
    const ss_route_counts *c = ss_route_tally(r);
    if (c->in[SS_TABLE_COPYING] + c->in[SS_TABLE_CATCHING_UP] && !c->in[SS_TABLE_READY])
        return true;
    return c->any_catches_up && r->progress.sequence < c->catchup_from + NEAR;
}

static void finish_line(void *ctx, bool ok, const char *what, const char *found, const char *remedy) {
    (void)ctx;
    SS_LOG(ok ? SS_INFO : SS_WARN, ok ? "mirrored" : "not_mirrored", SS_S("object", what), SS_S("found", found),
           SS_S("remedy", remedy));
}

ss_status ss_route_finish(ss_route *r, ss_error *reterr) {
    ss_route_doing(r, "building foreign keys, views and sequences", "");
    ss_status st = ss_route_target(r, r->ops->finish(r->target, finish_line, r, reterr));
    ss_route_doing(r, NULL, NULL);
    if (st == SS_OK) {
        r->finish_due = false;
        r->progress_dirty = r->progress_dirty || r->state == SS_ROUTE_CATCHING_UP; /* freshness may have said that */
    }
    return st;
}

/* The group stands where the route stands: rows put in place and states ready, in one transaction. If we die before it, the
 * group joins again at the next start; readers see the old tables or the new ones, never half. */
static ss_status join(ss_route *r, ss_error *reterr) {
    ss_arena_reset(r->scratch);
    ss_table_state *states = ss_arena_alloc(r->scratch, sizeof *states * (r->table_count + 1));
    if (!states)
        return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while tables join");
    size_t n = 0;
    bool *joins = ss_arena_zalloc(r->scratch, sizeof *joins * (r->table_count + 1));
    if (!joins)
        return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while tables join");
    for (size_t i = 0; i < r->table_count; i++) {
        joins[i] = ss_route_catchup_has(r, &r->tables[i]);
        if (!joins[i])
            continue;
        states[n] = r->tables[i].st;
        states[n].status = SS_TABLE_READY;
        states[n].from_sequence = r->progress.sequence;
        n++;
    }
    char what[64];
    snprintf(what, sizeof what, "putting %zu copied table%s", n, n == 1 ? "" : "s");
    ss_route_doing(r, what, "in place");
    ss_progress p = r->progress;
    if (ss_route_tables_in(r, SS_TABLE_READY) + n == r->table_count && r->stream.as_of)
        p.as_of = r->stream.as_of; /* held back while a table was missing */
    ss_status st = ss_route_target(r, r->ops->copy_replace(r->target, states, n, &p, reterr));
    ss_route_doing(r, NULL, NULL);
    if (st != SS_OK)
        return st;
    r->progress = p;
    r->progress_dirty = true; /* freshness says so with the next write */
    for (size_t i = 0; i < r->table_count; i++) {
        if (!joins[i])
            continue;
        ss_route_table *t = &r->tables[i];
        t->st.status = SS_TABLE_READY;
        t->st.from_sequence = r->progress.sequence;
        t->st.beside = t->dirty = false;
        t->restarts = 0;
    }
    ss_route_states_changed(r);
    SS_LOG(SS_INFO, "tables_ready", SS_U("tables", n), SS_U("sequence", r->progress.sequence));
    ss_intake_close(&r->catchup);
    ss_route_schemas_clear(r); /* compared against the tables beside; the ones in place are looked at anew */
    r->finish_due = ss_route_all_ready(r);
    r->status_due = true;
    return ss_progress_cursors(r, true, reterr);
}

ss_status ss_route_catchup_step(ss_route *r, ss_error *reterr) {
    const ss_route_counts *c = ss_route_tally(r);
    uint64_t from = c->catchup_from, members = c->catchup_members;
    if (!c->any_catches_up) {
        ss_intake_close(&r->catchup);
        return SS_BUSY;
    }
    /* Where the stream stands, not where progress does: the changes of these tables in between have been read and passed over, and
     * nobody would apply them. */
    if (from >= r->progress.sequence) {
        ss_status st = ss_intake_keep_place(r, &r->stream, reterr);
        if (st != SS_OK)
            return st;
    }
    if (from >= r->progress.sequence)
        return join(r, reterr);
    if (!r->catchup.reader || members != r->catchup_members) {
        /* Begins, or another generation's tables have joined the group, perhaps farther back. */
        ss_status st = ss_intake_open(r, &r->catchup, true, from + 1, reterr);
        if (st != SS_OK)
            return st;
        r->catchup_members = members;
    }
    r->catchup.limit = r->progress.sequence;
    ss_status st = ss_intake_run(r, &r->catchup, reterr);
    return st == SS_BUSY ? SS_OK : st;
}
