/* cursors.mdb: consumer -> how far it has applied each log. Written by routes, read by trim.
 *
 * A hint only: a route's truth is the progress row in its target. A cursor that lags costs disk; one that ran ahead of
 * the target would cost data, so a route sets it after its target's commit, never before. */
#include "spool/spool_internal.h"

#include "sidespool/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CURSOR_BYTES 28 /* copy, stream, when (ms since 1970): u64 little-endian each; CRC32C of name and these: u32 */
#define CURSOR_SUMMED 24
#define WRITE_EVERY_MS 1000

typedef struct {
    char *name;
    uint64_t applied[2];
    bool dirty, stored;
    int64_t written_ms;
} consumer;

struct ss_cursors {
    ss_segment *file;
    consumer *items;
    size_t count;
};

ss_status ss_cursors_open(const char *path, const char *source, ss_cursors **ret, ss_error *reterr) {
    ss_cursors *cursors = calloc(1, sizeof(*cursors));
    char *file = NULL;
    if (cursors == NULL || asprintf(&file, "%s/%s/cursors.mdb", path, source) < 0) {
        free(cursors);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening the cursors of %s", source);
    }
    ss_status status = ss_cursor_file_open(file, &cursors->file, reterr);
    if (status == SS_RETRY && reterr != NULL && reterr->sys_errno == ENOENT)
        status = ss_fail(reterr, SS_RETRY, SS_SPOOL_ABSENT, "there is no spool of %s in %s (yet)", source, path);
    free(file);
    int dead;
    if (status == SS_OK)
        (void)mdb_reader_check(cursors->file->env, &dead); /* a dead reader costs room only, and there is plenty */
    if (status != SS_OK) {
        free(cursors);
        return status;
    }
    *ret = cursors;
    return SS_OK;
}

static uint32_t cursor_crc(const void *name, size_t len, const uint8_t *bytes) {
    return ss_crc32c(ss_crc32c(0, name, len), bytes, CURSOR_SUMMED);
}

/* One that is damaged counts as one that has applied nothing: that keeps what it may still need. Earlier versions wrote
 * none (24 bytes). */
static void decode(const MDB_val *key, const MDB_val *value, uint64_t applied[2]) {
    const uint8_t *bytes = value->mv_data;
    applied[SS_LOG_COPY] = applied[SS_LOG_STREAM] = 0;
    if (value->mv_size != CURSOR_SUMMED &&
        (value->mv_size != CURSOR_BYTES || ss_get_u32(bytes + CURSOR_SUMMED) != cursor_crc(key->mv_data, key->mv_size, bytes)))
        return;
    applied[SS_LOG_COPY] = ss_get_u64(value->mv_data);
    applied[SS_LOG_STREAM] = ss_get_u64((const uint8_t *)value->mv_data + 8);
}

static int load(ss_cursors *cursors, consumer *c) {
    MDB_txn *txn;
    MDB_val key = {strlen(c->name), c->name}, value;
    int rc = mdb_txn_begin(cursors->file->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return rc;
    rc = mdb_get(txn, cursors->file->meta, &key, &value);
    if (rc == 0) {
        decode(&key, &value, c->applied);
        c->stored = true;
    }
    mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static ss_status find(ss_cursors *cursors, const char *name, consumer **ret, ss_error *reterr) {
    for (size_t i = 0; i < cursors->count; i++)
        if (strcmp(cursors->items[i].name, name) == 0) {
            *ret = &cursors->items[i];
            return SS_OK;
        }
    if (name[0] == '\0' || strlen(name) > 255)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "a consumer's name has 1 to 255 bytes");
    consumer c = {.name = strdup(name)};
    consumer *items = c.name == NULL ? NULL : realloc(cursors->items, (cursors->count + 1) * sizeof(*items));
    if (items == NULL) {
        free(c.name);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory for consumer %s", name);
    }
    cursors->items = items;
    int rc = load(cursors, &c);
    if (rc != 0) {
        free(c.name);
        return ss_segment_fail(rc, cursors->file->path, "read", reterr);
    }
    items[cursors->count] = c;
    *ret = &items[cursors->count++];
    return SS_OK;
}

static int store(ss_cursors *cursors, const consumer *c) {
    uint8_t bytes[CURSOR_BYTES];
    ss_put_u64(bytes, c->applied[SS_LOG_COPY]);
    ss_put_u64(bytes + 8, c->applied[SS_LOG_STREAM]);
    ss_put_u64(bytes + 16, (uint64_t)ss_wall_ms());
    ss_put_u32(bytes + CURSOR_SUMMED, cursor_crc(c->name, strlen(c->name), bytes));
    MDB_val key = {strlen(c->name), c->name}, value = {sizeof(bytes), bytes};
    MDB_txn *txn;
    int rc = mdb_txn_begin(cursors->file->env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    rc = mdb_put(txn, cursors->file->meta, &key, &value, 0);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

ss_status ss_cursors_set(ss_cursors *cursors, const char *name, ss_log_kind kind, uint64_t applied, bool now,
                         ss_error *reterr) {
    consumer *c = NULL;
    ss_status status = find(cursors, name, &c, reterr);
    if (status != SS_OK)
        return status;
    c->dirty = c->dirty || !c->stored || c->applied[kind] != applied;
    c->applied[kind] = applied;
    int64_t ms = ss_now_ms();
    if (!c->dirty || (!now && c->stored && ms - c->written_ms < WRITE_EVERY_MS))
        return SS_OK;
    /* If we die before this commit the cursor lags, and trim keeps more than it must. */
    int rc = store(cursors, c);
    if (rc == MDB_MAP_FULL) {
        int dead;
        rc = mdb_reader_check(cursors->file->env, &dead);
        rc = rc ? rc : store(cursors, c);
    }
    if (rc != 0)
        return ss_segment_fail(rc, cursors->file->path, "write", reterr);
    c->dirty = false;
    c->stored = true;
    c->written_ms = ms;
    return SS_OK;
}

void ss_cursors_close(ss_cursors *cursors) {
    int rc;
    if (cursors == NULL)
        return;
    for (size_t i = 0; i < cursors->count; i++) {
        if (cursors->items[i].dirty && (rc = store(cursors, &cursors->items[i])) != 0) {
            ss_error late; /* a hint: trim keeps more than it must */
            if (ss_segment_fail(rc, cursors->file->path, "write", &late) != SS_OK)
                ss_log_error(SS_WARN, "cursor_not_saved", &late);
        }
        free(cursors->items[i].name);
    }
    free(cursors->items);
    ss_segment_close(cursors->file);
    free(cursors);
}

ss_status ss_cursors_forget(ss_cursors *cursors, const char *name, bool *ret_was_there, ss_error *reterr) {
    MDB_val key = {strlen(name), (void *)(uintptr_t)name};
    MDB_txn *txn;
    bool was_there = false;
    int rc = key.mv_size == 0 || key.mv_size > 255 ? MDB_NOTFOUND : 0;
    if (rc == 0 && (rc = mdb_txn_begin(cursors->file->env, NULL, 0, &txn)) == 0) {
        rc = mdb_del(txn, cursors->file->meta, &key, NULL);
        was_there = rc == 0;
        if (rc == 0)
            rc = mdb_txn_commit(txn);
        else
            mdb_txn_abort(txn);
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return ss_segment_fail(rc, cursors->file->path, "write", reterr);
    for (size_t i = 0; i < cursors->count; i++)
        if (strcmp(cursors->items[i].name, name) == 0) {
            free(cursors->items[i].name);
            cursors->items[i] = cursors->items[--cursors->count];
            break;
        }
    if (ret_was_there != NULL)
        *ret_was_there = was_there;
    return SS_OK;
}

ss_status ss_cursors_each(ss_cursors *cursors, ss_cursors_each_fn fn, void *ctx, ss_error *reterr) {
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    int rc = mdb_txn_begin(cursors->file->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return ss_segment_fail(rc, cursors->file->path, "read", reterr);
    rc = mdb_cursor_open(txn, cursors->file->meta, &cursor);
    while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        char name[256];
        uint64_t applied[2];
        size_t len = key.mv_size < sizeof(name) ? key.mv_size : sizeof(name) - 1;
        memcpy(name, key.mv_data, len);
        name[len] = '\0';
        decode(&key, &value, applied);
        fn(ctx, name, applied[SS_LOG_COPY], applied[SS_LOG_STREAM]);
    }
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND ? SS_OK : ss_segment_fail(rc, cursors->file->path, "read", reterr);
}

typedef struct {
    ss_log_kind kind;
    uint64_t committed, least;
    size_t count;
} least_in;

static void take_least(void *ctx, const char *name, uint64_t copy, uint64_t stream) {
    least_in *in = ctx;
    uint64_t applied = in->kind == SS_LOG_COPY ? copy : stream;
    (void)name;
    if (applied > in->committed)
        applied = 0;
    if (in->count++ == 0 || applied < in->least)
        in->least = applied;
}

ss_status ss_cursors_least(ss_cursors *cursors, ss_log_kind kind, uint64_t committed, size_t *ret_count,
                           uint64_t *ret_least, ss_error *reterr) {
    least_in in = {.kind = kind, .committed = committed};
    ss_status status = ss_cursors_each(cursors, take_least, &in, reterr);
    if (status != SS_OK)
        return status;
    *ret_count = in.count;
    *ret_least = in.least;
    return SS_OK;
}
