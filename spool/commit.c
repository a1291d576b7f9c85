/* Frames become durable here, together with the position after them, in one LMDB transaction.
 *
 * `committed` moves in the commit that holds the last frame up to the mark, never before. If we die earlier, recovery
 * removes what was written beyond the old `committed` and the source sends it again, because it was never told that it
 * may forget it; if we die later, the source's next start begins at the position that stands beside `committed`. */
#include "spool/spool_internal.h"

#include "sidespool/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMIT_PAGES 16u /* what a commit rewrites beside its frames: roots, branches, free list */
#define READER_CHECK_MS 60000

char *ss_log_path(const ss_log *log, size_t index) {
    const ss_segment_name *name = &log->names.items[index];
    return ss_segment_path(log->spool->dir, log->kind, name->first, name->generation);
}

uint64_t ss_segment_reserve_pages(uint64_t pages) {
    return pages / 64 + 32;
}

void ss_log_measure(ss_log *log) {
    struct stat st;
    if (log->segment != NULL && stat(log->segment->path, &st) == 0)
        log->names.items[log->names.count - 1].bytes = (uint64_t)st.st_size;
    uint64_t used = 0;
    for (size_t i = 0; i < log->names.count; i++)
        used += log->names.items[i].bytes;
    atomic_store(&log->spool->used[log->kind], used);
}

ss_status ss_log_reader_check(ss_log *log, bool now, bool *ret_found, ss_error *reterr) {
    int64_t ms = ss_now_ms();
    int dead = 0;
    if (ret_found != NULL)
        *ret_found = false;
    if (log->segment == NULL || (!now && ms - log->reader_check_ms < READER_CHECK_MS))
        return SS_OK;
    log->reader_check_ms = ms;
    int rc = mdb_reader_check(log->segment->env, &dead);
    if (rc != 0)
        return ss_segment_fail(rc, log->segment->path, "check the readers of", reterr);
    if (ret_found != NULL)
        *ret_found = dead > 0;
    return SS_OK;
}

/* ---- when a write failed ---- */

/* Whether the failed commit can be seen on disk or not, it is not to be trusted: the kernel may have dropped pages that
 * it could not write. The handle is given up, and what the commit held (still in memory) is written anew. */
ss_status ss_log_broken(ss_log *log, int rc, const char *doing, ss_error *reterr) {
    ss_status status = ss_segment_fail(rc, log->segment->path, doing, reterr);
    atomic_store(&log->segment->poisoned, true);
    ss_segment_close(log->segment);
    log->segment = NULL;
    log->suspect = true;
    return status;
}

ss_status ss_log_reopen(ss_log *log, ss_error *reterr) {
    if (log->segment != NULL)
        return SS_OK;
    size_t newest = log->names.count - 1;
    /* A rewind that failed half-way may have kept it open: poisoned, it would be in the way of every later try. */
    ss_segment_close(log->names.items[newest].handle);
    log->names.items[newest].handle = NULL;
    char *path = ss_log_path(log, newest);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory reopening %s", log->spool->dir);
    ss_segment *segment = NULL;
    ss_status status = ss_segment_open(path, log->names.items[newest].first, SEGMENT_WRITE, &segment, reterr);
    free(path);
    if (status != SS_OK)
        return status == SS_BUSY ? SS_STOP : status; /* "not there": somebody removed our newest file */
    if (atomic_load(&segment->poisoned)) {
        ss_segment_close(segment);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_IO, "%s/%s: waiting for this process's readers to let go of a file",
                       log->spool->dir, ss_kind_name(log->kind));
    }
    MDB_txn *txn;
    ss_meta seen;
    ss_meta_init(&seen);
    int rc = mdb_txn_begin(segment->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0) {
        status = ss_segment_fail(rc, segment->path, "begin on", reterr);
    } else {
        status = ss_meta_read(segment, txn, &seen, reterr);
        mdb_txn_abort(txn);
    }
    /* The failed commit may be there (then `committed` is its mark), or not; anything else is not our file. */
    if (status == SS_OK && (strcmp(seen.spool_id, log->meta.spool_id) != 0 ||
                            (seen.committed != log->meta.committed && seen.committed > log->flight_mark)))
        status = ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s was changed by somebody else", segment->path);
    ss_meta_done(&seen);
    if (status != SS_OK) {
        ss_segment_close(segment);
        return status;
    }
    log->segment = segment;
    return SS_OK;
}

/* A delete can leave pages at the file's end unwritten, and a file shorter than its last page counts as truncated:
 * make it longer beforehand, by a hole. */
void ss_log_extend_file(ss_segment *segment) {
    MDB_envinfo info;
    mdb_filehandle_t fd;
    struct stat st;
    if (mdb_env_info(segment->env, &info) != 0 || mdb_env_get_fd(segment->env, &fd) != 0 || fstat(fd, &st) != 0)
        return;
    uint64_t want = ((uint64_t)info.me_last_pgno + 129) * segment->page;
    if (want > info.me_mapsize)
        want = info.me_mapsize;
    if ((uint64_t)st.st_size < want)
        (void)!ftruncate(fd, (off_t)want); /* fails on a full disk; then the delete fails too, and says so */
}

/* Deletes frames whose first sequence is beyond `sequence`, newest first, at most `most`. */
int ss_log_delete_beyond(ss_log *log, MDB_txn *txn, uint64_t sequence, size_t most, size_t *ret_deleted) {
    MDB_cursor *cursor;
    MDB_val key, value;
    size_t deleted = 0;
    int rc = mdb_cursor_open(txn, log->segment->frames, &cursor);
    if (rc != 0)
        return rc;
    while (deleted < most) {
        rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
        if (rc != 0)
            break;
        if (key.mv_size != 8) {
            rc = MDB_CORRUPTED;
            break;
        }
        if (ss_get_key(key.mv_data) <= sequence)
            break;
        rc = mdb_cursor_del(cursor, 0);
        if (rc != 0)
            break;
        deleted++;
    }
    mdb_cursor_close(cursor);
    *ret_deleted = deleted;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* ---- roll ---- */

static uint32_t next_generation(ss_log *log) {
    int64_t seconds = ss_wall_ms() / 1000;
    uint32_t now = seconds > 0 && seconds < UINT32_MAX ? (uint32_t)seconds : 1;
    log->generation = now > log->generation ? now : log->generation + 1;
    return log->generation;
}

/* Says in a segment that a newer one stands beside it, or, once every record in it belongs to a whole transaction, that
 * it is sealed and never written again (then other processes open it without locks). The handle is kept until then. */
ss_status ss_log_mark_old(ss_log *log, size_t index, ss_error *reterr) {
    ss_segment_name *name = &log->names.items[index];
    bool whole = log->names.items[index + 1].first - 1 <= log->meta.committed;
    uint32_t state = whole ? SEGMENT_SEALED : SEGMENT_ROLLED;
    if (name->sealed || name->marked == state)
        return SS_OK;
    char *path = ss_log_path(log, index);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory sealing in %s", log->spool->dir);
    ss_status status = SS_OK;
    if (name->handle == NULL)
        status = ss_segment_open(path, name->first, SEGMENT_WRITE, &name->handle, reterr);
    if (status == SS_OK)
        status = ss_segment_set_state(name->handle, state, reterr);
    if (status != SS_OK) {
        if (name->handle != NULL)
            atomic_store(&name->handle->poisoned, true);
        ss_segment_close(name->handle);
        name->handle = NULL;
        goto out;
    }
    struct stat st;
    if (stat(path, &st) == 0)
        name->bytes = (uint64_t)st.st_size;
    name->marked = state;
    name->changed_ms = ss_wall_ms();
    log->seal_waiting = log->seal_waiting || !whole;
    if (whole) {
        name->sealed = true;
        ss_segment_close(name->handle);
        name->handle = NULL;
    }
out:
    free(path);
    return status;
}

/* A file that stands there as the newest segment, but in which nothing is written, would outdate what is committed
 * elsewhere after it: recovery would believe its meta. */
ss_status ss_log_remove_leftover(ss_log *log, ss_error *reterr) {
    if (log->leftover == NULL)
        return SS_OK;
    ss_status status = ss_segment_unlink(log->spool->dir, log->leftover, reterr);
    if (status != SS_OK)
        return status;
    free(log->leftover);
    log->leftover = NULL;
    return SS_OK;
}

/* Before anything is committed to a new segment, the one before it says that it is no longer the newest. If we die
 * before that, recovery says it; until then readers see nothing new, and there is nothing new. */
ss_status ss_log_finish_roll(ss_log *log, ss_error *reterr) {
    ss_status status = ss_log_remove_leftover(log, reterr);
    if (status != SS_OK)
        return status;
    if (log->names.count < 2 || log->names.items[log->names.count - 2].marked != SEGMENT_OPEN)
        return SS_OK;
    return ss_log_mark_old(log, log->names.count - 2, reterr);
}

static ss_status add_newest(ss_log *log, bool replace, uint64_t first, uint32_t generation, ss_error *reterr) {
    if (!replace && log->names.count == log->names.cap) {
        size_t cap = log->names.cap == 0 ? 16 : log->names.cap * 2;
        ss_segment_name *items = realloc(log->names.items, cap * sizeof(*items));
        if (items == NULL)
            return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory rolling %s", log->spool->dir);
        log->names.items = items;
        log->names.cap = cap;
    }
    size_t at = replace ? log->names.count - 1 : log->names.count++;
    log->names.items[at] =
        (ss_segment_name){.first = first, .generation = generation, .changed_ms = ss_wall_ms()};
    return SS_OK;
}

static uint64_t pages_of(const ss_log *log, size_t len) {
    return (len + 16 + log->segment->page - 1) / log->segment->page + 1;
}

static uint64_t frame_pages(ss_log *log, const ss_ready *frame) {
    uint64_t pages = pages_of(log, frame->len);
    for (size_t i = 0; i < frame->ids; i++) {
        ss_schema_entry *entry = ss_schema_map_look(&log->schemas, log->flight.ids[frame->ids_at + i]);
        if (entry != NULL && entry->in_segment != log->segment_serial)
            pages += pages_of(log, entry->packed.len);
    }
    return pages;
}

/* How many of the waiting frames the newest segment can still take; pages that the free list could give are not counted. */
static ss_status plan(ss_log *log, size_t *ret_to, ss_error *reterr) {
    MDB_envinfo info;
    int rc = mdb_env_info(log->segment->env, &info);
    if (rc != 0)
        return ss_segment_fail(rc, log->segment->path, "look at", reterr);
    uint64_t total = info.me_mapsize / log->segment->page;
    uint64_t taken = info.me_last_pgno + 1 + ss_segment_reserve_pages(total) + COMMIT_PAGES;
    size_t to = log->flight.done;
    while (to < log->flight.count) {
        uint64_t pages = frame_pages(log, &log->flight.frames[to]);
        if (taken + pages > total)
            break;
        taken += pages;
        to++;
    }
    *ret_to = to;
    return SS_OK;
}

static int put_frame(ss_log *log, MDB_txn *txn, const ss_ready *frame) {
    for (size_t i = 0; i < frame->ids; i++) {
        ss_schema_entry *entry = ss_schema_map_look(&log->schemas, log->flight.ids[frame->ids_at + i]);
        if (entry == NULL || entry->in_segment == log->segment_serial)
            continue;
        uint8_t id[8];
        ss_put_key(id, entry->id);
        MDB_val k = {sizeof(id), id}, v = {entry->packed.len, (void *)(uintptr_t)entry->packed.ptr};
        int rc = mdb_put(txn, log->segment->schemas, &k, &v, MDB_NOOVERWRITE);
        if (rc != 0 && rc != MDB_KEYEXIST)
            return rc;
    }
    uint8_t sequence[8];
    ss_put_key(sequence, frame->first);
    MDB_val k = {sizeof(sequence), sequence}, v = {frame->len, log->flight.bytes.ptr + frame->at};
    return mdb_put(txn, log->segment->frames, &k, &v, MDB_APPEND);
}

static int write_some(ss_log *log, size_t to, bool with_mark) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(log->segment->env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    if (log->suspect) {
        size_t deleted = 0;
        ss_log_extend_file(log->segment);
        rc = ss_log_delete_beyond(log, txn, log->disk_last, SIZE_MAX, &deleted);
    }
    const ss_buf *position = &log->flight.position;
    for (size_t i = log->flight.done; rc == 0 && i < to; i++)
        rc = put_frame(log, txn, &log->flight.frames[i]);
    if (with_mark) {
        rc = rc ? rc : ss_meta_put_u64(log->segment, txn, "committed", log->flight_mark);
        rc = rc ? rc : ss_meta_put(log->segment, txn, "position", ss_bytes_of(position->ptr, position->len));
    } else if (log->suspect) { /* a failed commit may have moved them */
        rc = rc ? rc : ss_meta_put_u64(log->segment, txn, "committed", log->meta.committed);
        rc = rc ? rc : ss_meta_put(log->segment, txn, "position",
                                   ss_bytes_of(log->meta.position.ptr, log->meta.position.len));
    }
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    /* Here the records become durable: pages, fdatasync, then LMDB's own meta page through its O_DSYNC descriptor. */
    return with_mark || log->suspect ? ss_meta_commit(log->segment, txn) : mdb_txn_commit(txn);
}

/* Removes from the newest segment what a failed commit may have left there, before another file follows it. */
static ss_status clean(ss_log *log, ss_error *reterr) {
    int rc = write_some(log, log->flight.done, false);
    if (rc != 0)
        return ss_log_broken(log, rc, "clean up", reterr);
    log->suspect = false;
    return SS_OK;
}

ss_status ss_log_roll(ss_log *log, uint64_t pages, ss_error *reterr) {
    ss_status status = ss_log_finish_roll(log, reterr);
    if (status == SS_OK && log->suspect)
        status = clean(log, reterr);
    if (status != SS_OK)
        return status;
    uint64_t first = log->disk_last + 1, page = log->segment->page;
    bool replace = first == log->names.items[log->names.count - 1].first;
    uint64_t least = (pages + 3 * COMMIT_PAGES) * page;
    uint64_t mapsize = log->spool->options.segment_size;
    if (least + ss_segment_reserve_pages(mapsize / page) * page > mapsize)
        mapsize = least + least / 32 + ss_segment_reserve_pages(least / page) * page;
    mapsize = (mapsize + page - 1) / page * page;
    uint32_t generation = replace || first <= log->removed_first ? next_generation(log) : 0;
    char *path = ss_segment_path(log->spool->dir, log->kind, first, generation);
    /* An empty newest segment that is too small for the next frame gives way to a larger one of the same first sequence. */
    char *replaced = replace ? ss_log_path(log, log->names.count - 1) : NULL;
    if (path == NULL || (replace && replaced == NULL)) {
        free(path);
        free(replaced);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory rolling %s", log->spool->dir);
    }

    /* meta copied forward; the strings are borrowed for the call */
    ss_meta meta = log->meta;
    meta.first = first;
    meta.chain = log->disk_chain;
    meta.state = SEGMENT_OPEN;
    ss_segment *segment = NULL;
    bool stays;
    status = ss_segment_create(log->spool->dir, path, &meta, mapsize, &segment, &stays, reterr);
    if (status == SS_OK) {
        status = add_newest(log, replace, first, generation, reterr);
        stays = status != SS_OK;
        if (stays)
            ss_segment_close(segment);
    }
    if (status != SS_OK)
        log->removed_first = first > log->removed_first ? first : log->removed_first; /* its name was used */
    if (stays)
        log->leftover = path;
    else
        free(path);
    if (status != SS_OK) {
        free(replaced);
        return status;
    }
    ss_segment *old = log->segment;
    log->segment = segment;
    log->segment_serial++;
    log->meta.first = first;
    log->meta.chain = meta.chain;
    log->meta.state = SEGMENT_OPEN;
    log->leftover = replaced; /* removed before anything is written */
    if (replace)
        ss_segment_close(old);
    else
        log->names.items[log->names.count - 2].handle = old;
    ss_log_measure(log);
    return ss_log_finish_roll(log, reterr);
}

/* ---- commit ---- */

static void wrote_some(ss_log *log, size_t to, bool with_mark) {
    ss_frames *flight = &log->flight;
    for (size_t i = flight->done; i < to; i++) {
        const ss_ready *frame = &flight->frames[i];
        for (size_t k = 0; k < frame->ids; k++)
            ss_schema_map_look(&log->schemas, flight->ids[frame->ids_at + k])->in_segment = log->segment_serial;
        log->disk_last = frame->first + frame->count - 1;
        log->disk_chain = frame->crc;
    }
    flight->done = to;
    log->suspect = false;
    if (with_mark) {
        ss_buf old = log->meta.position;
        log->meta.position = flight->position;
        flight->position = old; /* state.position still points into it, until ss_log_landed */
        log->meta.committed = log->flight_mark;
        flight->marked = false;
    }
    ss_log_measure(log);
}

/* MAP_FULL although it was planned: a reader that died keeps old pages from being used again. */
static ss_status map_full(ss_log *log, unsigned *tries, ss_error *reterr) {
    bool found = false;
    ss_status status = ss_log_reader_check(log, true, &found, reterr);
    if (status != SS_OK)
        return status;
    if (++*tries > 8)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "%s stays full however often it is rolled",
                       log->segment->path);
    if (found && *tries == 1)
        return SS_OK;
    const ss_frames *flight = &log->flight;
    uint64_t pages = flight->done < flight->count ? frame_pages(log, &flight->frames[flight->done]) : 1;
    return ss_log_roll(log, pages << *tries, reterr);
}

/* Drops the durable frames of a commit that stopped half-way from memory, keeping what waits. */
static void compact(ss_frames *flight) {
    size_t done = flight->done;
    if (done == 0)
        return;
    size_t bytes = flight->frames[done].at, ids = flight->frames[done].ids_at;
    memmove(flight->bytes.ptr, flight->bytes.ptr + bytes, flight->bytes.len - bytes);
    memmove(flight->ids, flight->ids + ids, (flight->ids_count - ids) * sizeof(uint64_t));
    for (size_t i = 0; i < done; i++)
        flight->raw -= flight->frames[i].raw;
    memmove(flight->frames, flight->frames + done, (flight->count - done) * sizeof(*flight->frames));
    flight->count -= done;
    flight->bytes.len -= bytes;
    flight->ids_count -= ids;
    flight->done = 0;
    for (size_t i = 0; i < flight->count; i++) {
        flight->frames[i].at -= bytes;
        flight->frames[i].ids_at -= ids;
    }
}

static ss_status commit_step(ss_log *log, unsigned *tries, ss_error *reterr) {
    size_t to = 0;
    ss_status status = ss_log_reopen(log, reterr);
    if (status == SS_OK)
        status = ss_log_finish_roll(log, reterr);
    if (status == SS_OK)
        status = plan(log, &to, reterr);
    if (status != SS_OK)
        return status;
    const ss_frames *flight = &log->flight;
    if (to == flight->done && to < flight->count)
        return ss_log_roll(log, frame_pages(log, &flight->frames[to]), reterr);
    bool with_mark = flight->marked && (to == flight->count || flight->frames[to].first > log->flight_mark);
    int rc = write_some(log, to, with_mark);
    if (rc == MDB_MAP_FULL)
        return map_full(log, tries, reterr);
    if (rc != 0)
        return ss_log_broken(log, rc, "commit to", reterr);
    wrote_some(log, to, with_mark);
    return SS_OK;
}

ss_status ss_log_take_off(ss_log *log, ss_error *reterr) {
    if (log->gather.marked && log->gather.position.bad)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory for the position of %s", log->spool->dir);
    while (log->open_mark > 0 || log->open.len >= log->spool->options.frame_bytes) {
        ss_status status = ss_log_close_frame(log, reterr);
        if (status != SS_OK)
            return status;
    }
    ss_frames empty = log->flight;
    log->flight = log->gather;
    log->gather = empty;
    log->flight_mark = log->mark;
    return SS_OK;
}

bool ss_log_has_flight(const ss_log *log) {
    return log->flight.count > 0 || log->flight.marked;
}

void ss_log_landed(ss_log *log) {
    ss_frames *flight = &log->flight;
    if (flight->done < flight->count) {
        compact(flight);
    } else {
        bool marked = flight->marked; /* a mark that still waits, behind frames that are durable */
        ss_frames_clear(flight);
        flight->marked = marked;
        ss_log_memory_low(log);
    }
    ss_log_publish(log);
}

ss_status ss_log_fly(ss_log *log, ss_error *reterr) {
    ss_status status = SS_OK;
    unsigned tries = 0;
    while (status == SS_OK && (log->flight.done < log->flight.count || log->flight.marked))
        status = commit_step(log, &tries, reterr);
    if (status == SS_OK && log->seal_waiting) {
        ss_error later; /* what is committed is committed; ss_log_trim tries again and returns it */
        if (ss_log_seal_waiting(log, &later) != SS_OK)
            ss_log_error(SS_WARN, "spool_segment_not_sealed_yet", &later);
    }
    return status;
}

ss_status ss_log_commit(ss_log *log, ss_error *reterr) {
    ss_status status = SS_OK;
    ss_log_land(log);
    log->beside.status = SS_OK; /* what failed is tried again here */
    /* First what failed, then what has gathered since; a second flight only after the first has landed. */
    for (int flight = ss_log_has_flight(log) ? 0 : 1; status == SS_OK && flight < 2; flight++) {
        if (flight == 1)
            status = ss_log_take_off(log, reterr);
        if (status == SS_OK) {
            status = ss_log_fly(log, reterr);
            ss_log_landed(log);
        }
    }
    return status;
}

ss_status ss_log_flush(ss_log *log, bool now, bool *ret_committed, ss_error *reterr) {
    if (ret_committed != NULL)
        *ret_committed = false;
    ss_log_land(log);
    bool due = ss_log_pending(log) >= SPOOL_PENDING_BYTES;
    if (!due && (log->gather.marked || ss_log_has_flight(log)))
        due = now || ss_now_ms() - log->since_ms >= SS_LOG_COMMIT_MS;
    if (!due)
        return SS_OK;
    ss_status status = ss_log_commit(log, reterr);
    if (status != SS_OK)
        return status;
    log->since_ms = ss_now_ms();
    if (ret_committed != NULL)
        *ret_committed = true;
    return SS_OK;
}

/* ---- identity ---- */

/* With a new epoch the position goes in the same transaction: from here until the new history's first commit a start finds
 * an epoch without a position, and so never takes the old position for one of the new history. */
static int write_identity(ss_log *log, const char *identity, uint64_t epoch) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(log->segment->env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    rc = ss_meta_put(log->segment, txn, "identity", ss_bytes_str(identity));
    rc = rc ? rc : ss_meta_put_u64(log->segment, txn, "epoch", epoch);
    if (epoch != log->meta.epoch)
        rc = rc ? rc : ss_meta_put(log->segment, txn, "position", SS_BYTES_NONE);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return ss_meta_commit(log->segment, txn);
}

ss_status ss_log_set_identity(ss_log *log, const char *identity, bool new_epoch, ss_error *reterr) {
    ss_log_land(log);
    if (ss_log_pending(log) > 0 || log->gather.marked || ss_log_has_flight(log) ||
        log->disk_last != log->meta.committed)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "%s: the identity was set inside a transaction",
                       log->spool->dir);
    ss_buf copy;
    ss_buf_init(&copy);
    ss_buf_put_str(&copy, identity);
    (void)ss_buf_cstr(&copy);
    if (copy.bad) {
        ss_buf_done(&copy);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory for the identity of %s", log->spool->dir);
    }
    uint64_t epoch = log->meta.epoch + (new_epoch ? 1 : 0);
    ss_status status = ss_log_reopen(log, reterr);
    if (status == SS_OK)
        status = ss_log_finish_roll(log, reterr);
    int rc = status == SS_OK ? write_identity(log, identity, epoch) : 0;
    if (rc == MDB_MAP_FULL) {
        status = ss_log_roll(log, 8, reterr);
        rc = status == SS_OK ? write_identity(log, identity, epoch) : 0;
    }
    if (status == SS_OK && rc != 0)
        status = ss_log_broken(log, rc, "write the identity to", reterr);
    if (status != SS_OK) {
        ss_buf_done(&copy);
        return status;
    }
    ss_buf_done(&log->meta.identity);
    log->meta.identity = copy;
    log->meta.epoch = epoch;
    if (new_epoch) {
        ss_buf_clear(&log->meta.position);
        (void)ss_buf_cstr(&log->meta.position); /* it has had room for its NUL before */
    }
    ss_log_publish(log);
    return SS_OK;
}
