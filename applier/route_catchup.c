/* Tables whose copy is in catch up with the stream: it is read again from where their copy stands up to where the route is,
 * for them alone, and then they join (docs/architecture.md, a copy, step 5). */
#include "applier/route.h"

#define NEAR 20000u      /* closer than so many records, the route's own stream waits until they have joined */

/* A table of a generation that still loads rows waits for the others of its generation. */
static bool generation_loads(const ss_route *r, uint64_t generation) {
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_table_state *st = &r->tables[i].st;
        if (st->status == SS_TABLE_COPYING && !st->loaded && st->generation == generation)
            return true;
    }
    return false;
}

bool ss_route_catchup_has(const ss_route *r, const ss_route_table *t) {
    return t->st.status == SS_TABLE_CATCHING_UP ||
           (t->st.status == SS_TABLE_COPYING && t->st.loaded && !generation_loads(r, t->st.generation));
}

/* Its lowest place in the stream, and a number that changes with its members. false: nobody is in it. */
static bool group(const ss_route *r, uint64_t *ret_from, uint64_t *ret_members) {
    bool any = false;
    *ret_from = UINT64_MAX;
    *ret_members = 0;
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_route_table *t = &r->tables[i];
        if (!ss_route_catchup_has(r, t))
            continue;
        any = true;
        *ret_members += (i + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ t->st.generation;
        if (t->st.from_sequence < *ret_from)
            *ret_from = t->st.from_sequence;
    }
    return any;
}

bool ss_route_stream_waits(const ss_route *r) {
    size_t ready = ss_route_tables_in(r, SS_TABLE_READY);
    size_t busy = ss_route_tables_in(r, SS_TABLE_COPYING) + ss_route_tables_in(r, SS_TABLE_CATCHING_UP);
    if (busy && !ready)
        return true;
    uint64_t from, members;
    return group(r, &from, &members) && r->progress.sequence < from + NEAR;
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
    if (st == SS_OK)
        r->finish_due = false;
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
    ss_status st = ss_route_target(r, r->ops->copy_replace(r->target, states, n, &r->progress, reterr));
    if (st != SS_OK)
        return st;
    for (size_t i = 0; i < r->table_count; i++) {
        if (!joins[i])
            continue;
        ss_route_table *t = &r->tables[i];
        t->st.status = SS_TABLE_READY;
        t->st.from_sequence = r->progress.sequence;
        t->st.beside = t->dirty = false;
        t->restarts = 0;
    }
    SS_LOG(SS_INFO, "tables_ready", SS_U("tables", n), SS_U("sequence", r->progress.sequence));
    ss_intake_close(&r->catchup);
    ss_route_schemas_clear(r); /* compared against the tables beside; the ones in place are looked at anew */
    r->finish_due = ss_route_tables_in(r, SS_TABLE_READY) == r->table_count;
    r->status_due = true;
    return ss_progress_cursors(r, true, reterr);
}

ss_status ss_route_catchup_step(ss_route *r, ss_error *reterr) {
    uint64_t from, members;
    if (!group(r, &from, &members)) {
        ss_intake_close(&r->catchup);
        return SS_BUSY;
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
