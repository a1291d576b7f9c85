/* The route's place in the stream: what the target says against what the spool holds (promise 5), and the trim cursors. */
#include "applier/route.h"

#include "sidespool/log.h"

#include <time.h>

#define CURSOR_SAY_MS 60000

uint64_t ss_route_now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int64_t ss_route_now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

ss_status ss_progress_judge(const ss_progress *p, const ss_log_state *log, const char *route, ss_error *reterr) {
    if (!p->exists)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0002",
                       "the target was written by route %s before, but its progress row is missing, so it is not known what the tables hold; "
                       "restore schema sidespool with the tables, or run: sidespool resync --route %s", route, route);
    if (strcmp(p->spool_id, log->spool_id) != 0)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0001",
                       "the target's progress belongs to spool %s, but the spool here is %s: what lies between is not known; run: sidespool resync --route %s",
                       p->spool_id, log->spool_id, route);
    if (p->epoch > log->epoch)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0001",
                       "the target's progress is of epoch %llu, the spool is at epoch %llu: the spool is an older one; run: sidespool resync --route %s",
                       (unsigned long long)p->epoch, (unsigned long long)log->epoch, route);
    if (p->sequence > log->committed)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0001",
                       "the target has applied sequence %llu, but the spool ends at %llu: the spool is an older one; run: sidespool resync --route %s",
                       (unsigned long long)p->sequence, (unsigned long long)log->committed, route);
    if (p->sequence + 1 < log->first)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0001",
                       "the target has applied up to sequence %llu, but the spool holds nothing before %llu: the changes between were trimmed; run: sidespool resync --route %s",
                       (unsigned long long)p->sequence, (unsigned long long)log->first, route);
    return SS_OK;
}

ss_status ss_progress_write(ss_route *r, const ss_progress *progress, ss_error *reterr) {
    ss_batch batch = {.progress = *progress, .freshness = ss_route_state_name(ss_route_state_now(r))};
    ss_status st = ss_route_states_dirty(r, &batch.states, &batch.state_count, reterr);
    if (st != SS_OK)
        return st;
    st = ss_route_target(r, r->ops->apply(r->target, &batch, reterr));
    if (st != SS_OK)
        return st;
    ss_route_states_clean(r);
    r->progress = *progress;
    r->progress.exists = true;
    r->progress_dirty = false;
    r->wrote_ms = ss_route_now_ms();
    return ss_progress_cursors(r, false, reterr);
}

/* A trim cursor follows what the target holds durable, never leads: if we die between the target's commit and this write, the
 * spool keeps a little more than is needed. The stream is also needed from the place of each copy that has not been passed. */
ss_status ss_progress_cursors(ss_route *r, bool now, ss_error *reterr) {
    uint64_t stream = r->progress.sequence;
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_table_state *st = &r->tables[i].st;
        if ((st->status == SS_TABLE_COPYING || st->status == SS_TABLE_CATCHING_UP) && st->from_sequence < stream)
            stream = st->from_sequence;
    }
    ss_status st = ss_cursors_set(r->cursors, r->conf->name, SS_LOG_STREAM, stream, now, reterr);
    if (st == SS_OK)
        st = ss_cursors_set(r->cursors, r->conf->name, SS_LOG_COPY, r->progress.copy_sequence, now, reterr);
    if (st != SS_BUSY)
        return st;
    /* No room on the file system. Where the cursor has to be there before we go on, the route waits for it; else it is written with
     * a later move, and until then the spool keeps more than it must. */
    if (now)
        return SS_RETRY;
    uint64_t ms = ss_route_now_ms();
    if (r->cursor_said_ms == 0 || ms - r->cursor_said_ms >= CURSOR_SAY_MS) {
        r->cursor_said_ms = ms;
        ss_log_error(SS_WARN, "cursor_not_saved", reterr);
    }
    return SS_OK;
}

ss_status ss_progress_rebuild(ss_route *r, const ss_log_state *log, ss_error *reterr) {
    for (size_t i = 0; i < r->table_count; i++) {
        ss_route_table *t = &r->tables[i];
        ss_route_table_absent(r, t);
        t->st.generation = t->st.from_sequence = 0; /* another spool counts its generations anew */
    }
    ss_route_states_changed(r);
    ss_progress p = {.exists = true, .epoch = log->epoch, .sequence = log->committed, .copy_sequence = r->copy.read_to, .as_of = r->progress.as_of};
    snprintf(p.spool_id, sizeof p.spool_id, "%s", log->spool_id);
    snprintf(p.position, sizeof p.position, "%s", log->position ? log->position : "");
    r->progress.sequence = p.sequence;
    SS_LOG(SS_WARN, "route_rebuilds", SS_U("tables", r->table_count), SS_U("sequence", p.sequence));
    return ss_progress_write(r, &p, reterr);
}
