/* A reader: committed records in order, across segments, while another process writes.
 *
 * What it relies on: `committed` always falls between two frames, and a frame at or before it never changes. So a frame is
 * copied out, proven and decompressed once, and its records are handed out of that buffer.
 * A read transaction lives only while a frame or the meta is copied: a slow reader holds no page of the writer's. */
#include "spool/spool_internal.h"

#include "sidespool/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define RELIST_MS 1000

/* A segment that is open here, with a read transaction that is reset between uses. */
typedef struct {
    ss_segment *segment;
    MDB_txn *txn;
} reader_file;

struct ss_reader {
    char *dir;
    ss_log_kind kind;
    ss_segment_names names; /* as last listed */
    int64_t listed_ms;
    reader_file current, newest;
    uint64_t next;      /* sequence of the record to hand out next */
    uint64_t committed; /* as last seen */
    bool seen;          /* meta holds something */

    ss_buf frame;   /* as on disk */
    ss_buf payload; /* decoded */
    size_t at;      /* in payload */
    uint64_t at_sequence;
    uint32_t left; /* records of payload not yet passed */
    uint32_t chain;
    bool chain_known;

    ss_meta meta;
    ss_log_state state;
    ss_schema_map schemas; /* of the current segment */
    ZSTD_DCtx *zstd;
};

static void file_close(reader_file *file) {
    if (file->txn != NULL)
        mdb_txn_abort(file->txn);
    ss_segment_close(file->segment);
    *file = (reader_file){0};
}

static ss_status file_open(ss_reader *reader, const ss_segment_name *name, reader_file *ret, ss_error *reterr) {
    char *path = ss_segment_path(reader->dir, reader->kind, name->first, name->generation);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory reading %s", reader->dir);
    reader_file file = {0};
    ss_status status = ss_segment_open(path, name->first, SEGMENT_READ, &file.segment, reterr);
    if (status == SS_OK && atomic_load(&file.segment->poisoned)) {
        status = ss_fail(reterr, SS_RETRY, SS_SPOOL_IO, "%s: its writer in this process met an error", path);
        ss_segment_close(file.segment);
    } else if (status == SS_OK) {
        int rc = mdb_txn_begin(file.segment->env, NULL, MDB_RDONLY, &file.txn);
        if (rc != 0) {
            ss_segment_close(file.segment);
            status = ss_segment_fail(rc, path, "read", reterr);
        } else {
            mdb_txn_reset(file.txn);
        }
    }
    free(path);
    if (status == SS_OK)
        *ret = file;
    return status;
}

static ss_status relist(ss_reader *reader, ss_error *reterr) {
    ss_status status = ss_segment_list(reader->dir, reader->kind, &reader->names, reterr);
    if (status != SS_OK)
        return status;
    reader->listed_ms = ss_now_ms();
    if (reader->names.count == 0)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_ABSENT, "%s holds no %s log (yet)", reader->dir,
                       ss_kind_name(reader->kind));
    return SS_OK;
}

static ss_status gap(ss_reader *reader, uint64_t sequence, ss_error *reterr) {
    uint64_t first = reader->names.count > 0 ? reader->names.items[0].first : 0;
    return ss_fail(reterr, SS_STOP, SS_SPOOL_GAP,
                   "%s/%s does not hold record %llu: it holds %llu to %llu; resync the route", reader->dir,
                   ss_kind_name(reader->kind), (unsigned long long)sequence, (unsigned long long)first,
                   (unsigned long long)reader->committed);
}

/* ---- the newest segment ---- */

static bool usable(const reader_file *file) {
    return file->segment != NULL && !atomic_load(&file->segment->poisoned);
}

/* *ret_moved: another segment is the newest now, look again. */
static ss_status read_newest(ss_reader *reader, bool *ret_moved, ss_error *reterr) {
    if (!usable(&reader->newest) || !ss_segment_is_current(reader->newest.segment) ||
        ss_now_ms() - reader->listed_ms >= RELIST_MS) {
        ss_status status = relist(reader, reterr);
        if (status != SS_OK)
            return status;
        reader_file file = {0};
        status = file_open(reader, &reader->names.items[reader->names.count - 1], &file, reterr);
        if (status == SS_BUSY) { /* gone since the listing */
            *ret_moved = true;
            return SS_OK;
        }
        if (status != SS_OK)
            return status;
        file_close(&reader->newest);
        reader->newest = file;
    }
    char was[33];
    memcpy(was, reader->meta.spool_id, sizeof(was));
    int rc = mdb_txn_renew(reader->newest.txn);
    if (rc != 0)
        return ss_segment_fail(rc, reader->newest.segment->path, "read", reterr);
    ss_status status = ss_meta_read(reader->newest.segment, reader->newest.txn, &reader->meta, reterr);
    mdb_txn_reset(reader->newest.txn);
    if (status != SS_OK)
        return status;
    if (reader->seen && memcmp(was, reader->meta.spool_id, sizeof(was)) != 0)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_GAP, "%s/%s was replaced by another spool; resync the route",
                       reader->dir, ss_kind_name(reader->kind));
    reader->seen = true;
    *ret_moved = reader->meta.state != SEGMENT_OPEN;
    return SS_OK;
}

static ss_status refresh(ss_reader *reader, ss_error *reterr) {
    for (int tries = 0; tries < 5; tries++) {
        bool moved = false;
        ss_status status = read_newest(reader, &moved, reterr);
        if (status != SS_OK)
            return status;
        if (!moved) {
            /* Committed records do not vanish: if they did, this is an older state of the spool. */
            if (reader->meta.committed + 1 < reader->next) {
                reader->committed = reader->meta.committed;
                return gap(reader, reader->next, reterr);
            }
            reader->committed = reader->meta.committed;
            return SS_OK;
        }
        reader->listed_ms = 0;
        reader->listed_ms -= RELIST_MS;
    }
    if (usable(&reader->newest) && ss_segment_is_current(reader->newest.segment))
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                       "%s says that a newer segment follows, and that one is missing; run `sidespool spool verify`",
                       reader->newest.segment->path);
    return ss_fail(reterr, SS_RETRY, SS_SPOOL_IO, "%s: its segments change faster than they can be listed", reader->dir);
}

/* ---- frames ---- */

/* Opens the segment that holds `sequence`, by name: the last one that begins at or before it. */
static ss_status open_current(ss_reader *reader, uint64_t sequence, ss_error *reterr) {
    for (int tries = 0; tries < 5; tries++) {
        ss_status status = relist(reader, reterr);
        if (status != SS_OK)
            return status;
        size_t i = reader->names.count;
        while (i > 0 && reader->names.items[i - 1].first > sequence)
            i--;
        if (i == 0)
            return gap(reader, sequence, reterr);
        reader_file file = {0};
        status = file_open(reader, &reader->names.items[i - 1], &file, reterr);
        if (status == SS_BUSY)
            continue; /* trimmed since the listing */
        if (status != SS_OK)
            return status;
        file_close(&reader->current);
        ss_schema_map_clear(&reader->schemas);
        reader->current = file;
        return SS_OK;
    }
    return ss_fail(reterr, SS_RETRY, SS_SPOOL_IO, "%s: its segments change faster than they can be listed",
                   reader->dir);
}

/* The frame that begins at `sequence`, or (after a seek) the one that holds it. */
static int find_frame(ss_reader *reader, uint64_t sequence, bool exact, uint64_t *ret_first, MDB_val *value) {
    uint8_t bytes[8];
    ss_put_key(bytes, sequence);
    MDB_val key = {sizeof(bytes), bytes};
    if (exact) {
        *ret_first = sequence;
        return mdb_get(reader->current.txn, reader->current.segment->frames, &key, value);
    }
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(reader->current.txn, reader->current.segment->frames, &cursor);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(cursor, &key, value, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND)
        rc = mdb_cursor_get(cursor, &key, value, MDB_LAST);
    else if (rc == 0 && key.mv_size == 8 && ss_get_key(key.mv_data) != sequence)
        rc = mdb_cursor_get(cursor, &key, value, MDB_PREV);
    if (rc == 0 && key.mv_size != 8)
        rc = MDB_CORRUPTED;
    if (rc == 0)
        *ret_first = ss_get_key(key.mv_data);
    mdb_cursor_close(cursor);
    return rc;
}

static void advise_away(const MDB_val *value, size_t page) {
    uintptr_t from = (uintptr_t)value->mv_data & ~(uintptr_t)(page - 1);
    uintptr_t to = ((uintptr_t)value->mv_data + value->mv_size + page - 1) & ~(uintptr_t)(page - 1);
    if (to - from > page) /* a hint: it stays in the page cache, it only leaves this process */
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

/* Copies the frame out of the map; MDB_NOTFOUND when this segment does not have it. */
static int copy_frame(ss_reader *reader, uint64_t sequence, bool exact, uint64_t *ret_first, bool *ret_memory) {
    MDB_val value;
    int rc = mdb_txn_renew(reader->current.txn);
    if (rc != 0)
        return rc;
    rc = find_frame(reader, sequence, exact, ret_first, &value);
    if (rc == 0) {
        ss_buf_clear(&reader->frame);
        ss_buf_put(&reader->frame, value.mv_data, value.mv_size);
        *ret_memory = reader->frame.bad;
        reader->frame.bad = false;
        advise_away(&value, reader->current.segment->page);
    }
    mdb_txn_reset(reader->current.txn);
    return rc;
}

static ss_status damaged(ss_reader *reader, uint64_t sequence, const char *what, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                   "%s is damaged: frame at sequence %llu: %s; run `sidespool spool verify`, then resync the routes that "
                   "have not passed it",
                   reader->current.segment->path, (unsigned long long)sequence, what);
}

static ss_status take_frame(ss_reader *reader, uint64_t first, uint64_t sequence, ss_error *reterr) {
    ss_frame_header head;
    const char *path = reader->current.segment->path;
    ss_bytes frame = ss_bytes_of(reader->frame.ptr, reader->frame.len);
    ss_status status = ss_frame_check(frame, first, path, &head, reterr);
    if (status != SS_OK)
        return status;
    if (reader->chain_known && head.prev_crc != reader->chain)
        return damaged(reader, first, "chain: it does not follow the frame before", reterr);
    if (head.first + head.count - 1 > reader->committed)
        return damaged(reader, first, "count: it reaches beyond what was committed", reterr);
    if (head.first + head.count <= sequence)
        return damaged(reader, sequence, "missing, although it was committed", reterr);
    status = ss_frame_decode(reader->zstd, frame, &head, path, &reader->payload, reterr);
    if (status != SS_OK)
        return status;
    reader->chain = head.crc;
    reader->chain_known = true;
    reader->at = 0;
    reader->at_sequence = head.first;
    reader->left = head.count;
    return SS_OK;
}

/* This segment has no frame for `sequence`: it goes on in the segment of that name, or it is a gap, or damage. */
static ss_status next_segment(ss_reader *reader, uint64_t sequence, ss_error *reterr) {
    bool gone = !ss_segment_is_current(reader->current.segment);
    uint64_t was = reader->current.segment->first;
    ino_t ino = reader->current.segment->ino;
    ss_status status = open_current(reader, sequence, reterr);
    if (status != SS_OK)
        return status;
    if (reader->current.segment->first == was && reader->current.segment->ino == ino && !gone)
        return damaged(reader, sequence, "missing, although it was committed", reterr);
    if (reader->current.segment->first != sequence && reader->current.segment->first == was)
        return damaged(reader, sequence, "missing, although it was committed", reterr);
    return SS_OK;
}

static ss_status load_frame(ss_reader *reader, ss_error *reterr) {
    uint64_t sequence = reader->next, first = 0;
    for (int tries = 0; tries < 4; tries++) {
        if (!usable(&reader->current)) {
            ss_status status = open_current(reader, sequence, reterr);
            if (status != SS_OK)
                return status;
        }
        bool memory = false;
        int rc = copy_frame(reader, sequence, reader->chain_known, &first, &memory);
        if (memory)
            return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory reading a frame of %s", reader->dir);
        if (rc == 0)
            return take_frame(reader, first, sequence, reterr);
        if (rc != MDB_NOTFOUND)
            return ss_segment_fail(rc, reader->current.segment->path, "read", reterr);
        ss_status status = next_segment(reader, sequence, reterr);
        if (status != SS_OK)
            return status;
    }
    return damaged(reader, sequence, "missing, although it was committed", reterr);
}

ss_status ss_reader_next(ss_reader *reader, ss_bytes *ret_record, uint64_t *ret_sequence, ss_error *reterr) {
    for (;;) {
        while (reader->left > 0) {
            ss_bytes record;
            if (!ss_frame_next(&reader->payload, &reader->at, &record)) /* counted when it was decoded */
                return damaged(reader, reader->at_sequence, "records: their lengths disagree", reterr);
            uint64_t sequence = reader->at_sequence++;
            reader->left--;
            if (sequence < reader->next)
                continue; /* before the place that was sought */
            reader->next = sequence + 1;
            *ret_record = record;
            if (ret_sequence != NULL)
                *ret_sequence = sequence;
            return SS_OK;
        }
        if (reader->next > reader->committed) {
            ss_status status = refresh(reader, reterr);
            if (status != SS_OK)
                return status;
            if (reader->next > reader->committed)
                return SS_BUSY;
        }
        ss_status status = load_frame(reader, reterr);
        if (status != SS_OK)
            return status;
    }
}

ss_status ss_reader_seek(ss_reader *reader, uint64_t from, ss_error *reterr) {
    uint64_t was = reader->next;
    bool held_first = from == 0; /* whatever is held first: the caller knows nothing of this log yet */
    reader->next = 1; /* what is known of `committed` is looked at from the new place, not from the old one */
    ss_status status = refresh(reader, reterr);
    if (status == SS_OK)
        status = relist(reader, reterr);
    if (status == SS_OK && held_first) {
        from = reader->names.items[0].first;
        from = from > reader->committed + 1 ? reader->committed + 1 : from;
    }
    if (status == SS_OK && (from > reader->committed + 1 || from < reader->names.items[0].first))
        status = gap(reader, from, reterr);
    if (status != SS_OK) {
        reader->next = was;
        return status;
    }
    file_close(&reader->current);
    ss_schema_map_clear(&reader->schemas);
    reader->left = 0;
    reader->chain_known = false;
    reader->next = from;
    return SS_OK;
}

ss_status ss_reader_schema(ss_reader *reader, uint64_t schema_id, ss_bytes *ret_packed, ss_error *reterr) {
    ss_schema_entry *entry = ss_schema_map_find(&reader->schemas, schema_id);
    if (entry != NULL) {
        *ret_packed = entry->packed;
        return SS_OK;
    }
    if (!usable(&reader->current)) {
        if (reader->next <= 1)
            return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "a schema was asked for before a record was read");
        ss_status status = open_current(reader, reader->next - 1, reterr);
        if (status != SS_OK)
            return status;
    }
    uint8_t id[8];
    ss_put_key(id, schema_id);
    MDB_val key = {sizeof(id), id}, value;
    int rc = mdb_txn_renew(reader->current.txn);
    if (rc != 0)
        return ss_segment_fail(rc, reader->current.segment->path, "read", reterr);
    rc = mdb_get(reader->current.txn, reader->current.segment->schemas, &key, &value);
    if (rc == 0)
        entry = ss_schema_map_put(&reader->schemas, schema_id, ss_bytes_of(value.mv_data, value.mv_size));
    mdb_txn_reset(reader->current.txn);
    if (rc == MDB_NOTFOUND)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_SCHEMA, "%s does not hold schema %016llx, which record %llu uses",
                       reader->current.segment->path, (unsigned long long)schema_id,
                       (unsigned long long)(reader->next - 1));
    if (rc != 0)
        return ss_segment_fail(rc, reader->current.segment->path, "read", reterr);
    if (entry == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory for a schema of %s", reader->dir);
    if (!ss_schema_is(entry->packed, schema_id))
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                       "%s is damaged: its schema %016llx does not have the content of that id; run `sidespool spool verify`",
                       reader->current.segment->path, (unsigned long long)schema_id);
    *ret_packed = entry->packed;
    return SS_OK;
}

/* ---- what is there ---- */

ss_status ss_reader_state(ss_reader *reader, const ss_log_state **ret, ss_error *reterr) {
    ss_status status = refresh(reader, reterr);
    if (status == SS_OK)
        status = relist(reader, reterr);
    if (status != SS_OK)
        return status;
    ss_log_state *state = &reader->state;
    memcpy(state->spool_id, reader->meta.spool_id, sizeof(state->spool_id));
    state->epoch = reader->meta.epoch;
    state->committed = reader->committed;
    uint64_t first = reader->names.items[0].first;
    state->first = first <= state->committed ? first : state->committed + 1;
    state->identity = (char *)(uintptr_t)ss_buf_cstr(&reader->meta.identity);
    state->position = (char *)(uintptr_t)ss_buf_cstr(&reader->meta.position);
    *ret = state;
    return SS_OK;
}

ss_status ss_reader_behind(ss_reader *reader, uint64_t *ret_records, uint64_t *ret_bytes, ss_error *reterr) {
    ss_status status = refresh(reader, reterr);
    if (status == SS_OK)
        status = relist(reader, reterr);
    if (status != SS_OK)
        return status;
    uint64_t bytes = 0;
    for (size_t i = 0; i < reader->names.count; i++) {
        const ss_segment_name *name = &reader->names.items[i];
        uint64_t last = i + 1 < reader->names.count ? name[1].first - 1 : reader->committed;
        if (last > reader->committed)
            last = reader->committed;
        if (last < name->first || last < reader->next)
            continue;
        uint64_t from = reader->next > name->first ? reader->next : name->first;
        double share = (double)(last - from + 1) / (double)(last - name->first + 1);
        bytes += (uint64_t)(share * (double)name->bytes);
    }
    *ret_records = reader->committed + 1 - reader->next;
    *ret_bytes = bytes;
    return SS_OK;
}

/* ---- open and close ---- */

ss_status ss_reader_open(const char *path, const char *source, ss_log_kind kind, uint64_t from, ss_reader **ret,
                         ss_error *reterr) {
    ss_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL || asprintf(&reader->dir, "%s/%s", path, source) < 0) {
        free(reader);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s/%s", path, source);
    }
    reader->kind = kind;
    reader->next = 1;
    ss_meta_init(&reader->meta);
    ss_buf_init(&reader->frame);
    ss_buf_init(&reader->payload);
    reader->zstd = ZSTD_createDCtx();
    ss_status status = reader->zstd == NULL
                           ? ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", reader->dir)
                           : ss_reader_seek(reader, from, reterr);
    if (status != SS_OK) {
        ss_reader_close(reader);
        return status;
    }
    *ret = reader;
    return SS_OK;
}

void ss_reader_close(ss_reader *reader) {
    if (reader == NULL)
        return;
    file_close(&reader->current);
    file_close(&reader->newest);
    ss_segment_names_done(&reader->names);
    ss_schema_map_done(&reader->schemas);
    ss_meta_done(&reader->meta);
    ss_buf_done(&reader->frame);
    ss_buf_done(&reader->payload);
    ZSTD_freeDCtx(reader->zstd);
    free(reader->dir);
    free(reader);
}
