/* Old segments go, whole: the file system gets the room back at once and no free list grows. Called once a second by the
 * log's owner, in its thread. Unapplied data never goes, whatever the quota says. */
#include "spool/spool_internal.h"

#include "sidespool/log.h"

#include <stdlib.h>
#include <unistd.h>

#define COPY_ROLL_BYTES ((uint64_t)1 << 20) /* an applied copy gives its room back at once */

static ss_status consumers(ss_log *log, size_t *ret_count, uint64_t *ret_least, ss_error *reterr) {
    if (log->cursors == NULL) {
        ss_status status = ss_cursors_open(log->spool->path, log->spool->source, &log->cursors, reterr);
        if (status != SS_OK)
            return status;
    }
    return ss_cursors_least(log->cursors, log->kind, log->meta.committed, ret_count, ret_least, reterr);
}

/* `retain` yields when less than an eighth of what may be held is left, by this log or by both, and whenever somebody found
 * no room: what an append counts and has not written yet is not in the files' sizes. */
static bool pressed(const ss_log *log) {
    uint64_t quota = log->spool->options.max_size, limit = ss_log_limit(log);
    uint64_t own = atomic_load(&log->spool->used[log->kind]), other = atomic_load(&log->spool->used[!log->kind]);
    if (quota == 0)
        return false;
    return own + other + quota / 8 > quota || own + limit / 8 > limit ||
           atomic_load(&log->spool->refused[log->kind]) != ROOM_FOUND ||
           atomic_load(&log->spool->refused[!log->kind]) == ROOM_SHARED;
}

static bool retained(const ss_log *log, const ss_segment_name *name) {
    if (log->kind == SS_LOG_COPY || pressed(log))
        return false;
    uint64_t age = (uint64_t)(ss_wall_ms() > name->changed_ms ? ss_wall_ms() - name->changed_ms : 0);
    return age < log->spool->options.retain_ms;
}

static ss_status remove_oldest(ss_log *log, ss_error *reterr) {
    char *path = ss_log_path(log, 0);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory trimming %s", log->spool->dir);
    ss_segment_close(log->names.items[0].handle);
    log->names.items[0].handle = NULL;
    /* Every consumer has this durable in its target. If we die half-way the file stays or is gone; both are a log whose
     * oldest segment is the oldest one there. */
    ss_status status = ss_segment_unlink(log->spool->dir, path, reterr);
    bool gone = status == SS_OK || access(path, F_OK) != 0; /* gone, though the directory could not be synced */
    free(path);
    if (!gone)
        return status;
    log->names.count--;
    memmove(&log->names.items[0], &log->names.items[1], log->names.count * sizeof(*log->names.items));
    ss_log_measure(log);
    ss_log_publish(log);
    return status;
}

/* The newest segment is never removed; when all in it is applied and its room is wanted, a fresh one takes its place. */
static ss_status roll_when_applied(ss_log *log, uint64_t least, ss_error *reterr) {
    const ss_segment_name *newest = &log->names.items[log->names.count - 1];
    bool wanted = (log->kind == SS_LOG_COPY && newest->bytes > COPY_ROLL_BYTES) || pressed(log);
    if (!wanted || least < log->meta.committed || log->disk_last != log->meta.committed ||
        log->meta.committed < newest->first)
        return SS_OK;
    ss_status status = ss_log_roll(log, 1, reterr);
    ss_log_publish(log);
    return status;
}

ss_status ss_log_seal_waiting(ss_log *log, ss_error *reterr) {
    ss_status status = SS_OK;
    bool waiting = false;
    for (size_t i = 0; log->seal_waiting && status == SS_OK && i + 1 < log->names.count; i++) {
        status = ss_log_mark_old(log, i, reterr);
        waiting = waiting || !log->names.items[i].sealed;
    }
    if (status == SS_OK)
        log->seal_waiting = waiting;
    return status;
}

ss_status ss_log_trim(ss_log *log, uint64_t *ret_removed, ss_error *reterr) {
    uint64_t removed = 0, least = 0;
    size_t count = 0;
    ss_log_land(log);
    ss_log_look_for_room(log);
    ss_status status = ss_log_reopen(log, reterr);
    if (status == SS_OK)
        status = ss_log_finish_roll(log, reterr);
    if (status == SS_OK)
        status = ss_log_reader_check(log, false, NULL, reterr);
    if (status == SS_OK)
        status = consumers(log, &count, &least, reterr);
    if (status == SS_OK && count > 0)
        status = roll_when_applied(log, least, reterr);
    if (status == SS_OK)
        status = ss_log_seal_waiting(log, reterr);
    while (status == SS_OK && count > 0 && log->names.count > 1 && log->names.items[0].sealed &&
           least >= log->names.items[1].first - 1 && !retained(log, &log->names.items[0])) {
        status = remove_oldest(log, reterr);
        removed += status == SS_OK;
    }
    if (removed > 0)
        SS_LOG(SS_DEBUG, "spool_trimmed", SS_S("log", ss_kind_name(log->kind)), SS_U("segments", removed),
               SS_U("first", log->state.first));
    if (ret_removed != NULL)
        *ret_removed = removed;
    return status;
}
