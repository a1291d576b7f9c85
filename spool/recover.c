/* Opening a log, and taking back what is not whole.
 *
 * The newest segment's `committed` counts. What lies beyond it belongs to a transaction that was not whole when the
 * writer died (or when its source's connection broke): the source was never told that it may forget it, and sends it
 * again. Segments go first, newest first, then frames, newest first: whenever we die in between, what is left is a log
 * without holes whose newest segment says the same `committed`, because a roll copied it forward. */
#include "spool/spool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define POSITION_ROOM 4096 /* of a position; a longer one may find no memory */
#define DELETE_CHUNK 256 /* frames in one transaction: their pages go to the free list, which needs room too */

void ss_log_publish(ss_log *log) {
    ss_log_state *state = &log->state;
    memcpy(state->spool_id, log->meta.spool_id, sizeof(state->spool_id));
    if (log->segment != NULL)
        log->page = log->segment->page;
    state->epoch = log->meta.epoch;
    state->committed = log->meta.committed;
    uint64_t first = log->names.count > 0 ? log->names.items[0].first : 1;
    state->first = first <= state->committed ? first : state->committed + 1;
    /* both have room for their NUL since they were set, so these cannot fail */
    state->identity = (char *)(uintptr_t)ss_buf_cstr(&log->meta.identity);
    state->position = (char *)(uintptr_t)ss_buf_cstr(&log->meta.position);
}

const ss_log_state *ss_log_get_state(const ss_log *log) {
    return &log->state;
}

/* ---- the directory ---- */

static ss_status lock_source(ss_spool *spool, ss_error *reterr) {
    char *path = NULL;
    if (asprintf(&path, "%s/lock", spool->dir) < 0)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", spool->dir);
    ss_status status = SS_OK;
    spool->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0660);
    if (spool->lock_fd < 0) {
        status = ss_segment_fail(errno, path, "open", reterr);
    } else if (flock(spool->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        char pid[24] = "";
        ssize_t n = errno == EWOULDBLOCK ? pread(spool->lock_fd, pid, sizeof(pid) - 1, 0) : 0;
        pid[n > 0 ? n : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        status = ss_fail(reterr, SS_STOP, SS_SPOOL_LOCKED,
                         "%s is held by another process%s%s; one agent only may run for a source", path,
                         pid[0] != '\0' ? " with id " : "", pid);
    } else {
        struct stat st;
        if (fstat(spool->lock_fd, &st) == 0 && st.st_uid == geteuid())
            (void)fchmod(spool->lock_fd, 0660); /* a person of the group may trim while no agent runs */
        char pid[24];
        int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
        /* for that message only */
        if (ftruncate(spool->lock_fd, 0) != 0 || pwrite(spool->lock_fd, pid, (size_t)n, 0) != n)
            status = ss_segment_fail(errno, path, "write", reterr);
    }
    free(path);
    return status;
}

static ss_status make_dir(const char *dir, const char *parent, ss_error *reterr) {
    struct stat st;
    if (stat(dir, &st) == 0)
        return S_ISDIR(st.st_mode) ? SS_OK : ss_segment_fail(ENOTDIR, dir, "use", reterr);
    if (mkdir(dir, 0770) != 0 && errno != EEXIST)
        return ss_segment_fail(errno, dir, "create", reterr);
    if (chmod(dir, 02770) != 0) /* whatever the umask: agent and applier share the group */
        return ss_segment_fail(errno, dir, "chmod", reterr);
    return ss_dir_sync(parent, reterr);
}

/* spool.path itself, with the folders above it: --check says that it will be made. */
static ss_status make_path(const char *path, ss_error *reterr) {
    struct stat st;
    if (path[0] == '\0' || stat(path, &st) == 0)
        return SS_OK;
    char *parent = strdup(path);
    if (parent == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", path);
    char *slash = strrchr(parent, '/');
    if (slash != NULL)
        *slash = '\0';
    ss_status status = slash != NULL ? make_path(parent, reterr) : SS_OK;
    if (status == SS_OK)
        status = make_dir(path, slash == NULL ? "." : parent[0] == '\0' ? "/" : parent, reterr);
    free(parent);
    return status;
}

static void spool_options(ss_spool_options *o) {
    if (o->segment_size == 0)
        o->segment_size = SPOOL_SEGMENT_BYTES;
    /* what is trimmed is whole segments: a small quota needs small ones */
    if (o->max_size != 0 && o->segment_size > o->max_size / 8)
        o->segment_size = o->max_size / 8;
    if (o->segment_size < SPOOL_SEGMENT_LEAST)
        o->segment_size = SPOOL_SEGMENT_LEAST;
    o->segment_size &= ~(uint64_t)4095;
    if (o->frame_bytes == 0)
        o->frame_bytes = SPOOL_FRAME_BYTES;
    if (o->frame_bytes > SPOOL_PENDING_BYTES / 2)
        o->frame_bytes = SPOOL_PENDING_BYTES / 2;
    if (o->zstd_level == 0)
        o->zstd_level = 1;
}

static ss_status measure_both(ss_spool *spool, ss_error *reterr) {
    for (int kind = SS_LOG_COPY; kind <= SS_LOG_STREAM; kind++) {
        ss_segment_names names = {0};
        ss_status status = ss_segment_list(spool->dir, (ss_log_kind)kind, &names, reterr);
        if (status != SS_OK)
            return status;
        uint64_t used = 0;
        for (size_t i = 0; i < names.count; i++)
            used += names.items[i].bytes;
        atomic_store(&spool->used[kind], used);
        ss_segment_names_done(&names);
    }
    return SS_OK;
}

ss_status ss_spool_open(const char *path, const char *source, const ss_spool_options *options, ss_spool **ret,
                        ss_error *reterr) {
    if (source[0] == '\0' || source[0] == '.' || strchr(source, '/') != NULL)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "\"%s\" cannot be a source's name: it names a directory",
                       source);
    ss_spool *spool = calloc(1, sizeof(*spool));
    if (spool == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s/%s", path, source);
    spool->lock_fd = -1;
    spool->options = *options;
    spool_options(&spool->options);
    spool->path = strdup(path);
    spool->source = strdup(source);
    ss_status status = SS_OK;
    if (spool->path == NULL || spool->source == NULL || asprintf(&spool->dir, "%s/%s", path, source) < 0) {
        spool->dir = NULL;
        status = ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s/%s", path, source);
    }
    if (status == SS_OK)
        status = make_path(path, reterr);
    if (status == SS_OK)
        status = make_dir(spool->dir, path, reterr);
    if (status == SS_OK)
        status = lock_source(spool, reterr);
    if (status == SS_OK)
        status = measure_both(spool, reterr);
    if (status != SS_OK) {
        ss_spool_close(spool);
        return status;
    }
    *ret = spool;
    return SS_OK;
}

void ss_spool_close(ss_spool *spool) {
    if (spool == NULL)
        return;
    if (spool->lock_fd >= 0)
        close(spool->lock_fd);
    free(spool->dir);
    free(spool->path);
    free(spool->source);
    free(spool);
}

const char *ss_spool_dir(const ss_spool *spool) {
    return spool->dir;
}

ss_status ss_spool_usage(ss_spool *spool, uint64_t *ret_used, uint64_t *ret_quota, ss_error *reterr) {
    (void)reterr;
    *ret_used = atomic_load(&spool->used[SS_LOG_COPY]) + atomic_load(&spool->used[SS_LOG_STREAM]);
    *ret_quota = spool->options.max_size;
    return SS_OK;
}

/* ---- taking back ---- */

static ss_status read_meta(ss_log *log, ss_meta *ret, ss_error *reterr) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(log->segment->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return ss_segment_fail(rc, log->segment->path, "begin on", reterr);
    ss_status status = ss_meta_read(log->segment, txn, ret, reterr);
    mdb_txn_abort(txn);
    return status;
}

static ss_status damaged(ss_log *log, const char *what, ss_error *reterr) {
    return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s is damaged: %s (committed is %llu); run `sidespool spool verify`",
                   log->segment != NULL ? log->segment->path : log->spool->dir, what,
                   (unsigned long long)log->meta.committed);
}

static ss_status open_newest(ss_log *log, ss_error *reterr) {
    size_t newest = log->names.count - 1;
    ss_segment_name *name = &log->names.items[newest];
    if (name->handle != NULL) {
        log->segment = name->handle;
        name->handle = NULL;
        return SS_OK;
    }
    /* Its mode forbids writing, so without this a service user would be told of a missing right. */
    if (name->sealed)
        return damaged(log, "its newest segment is sealed, so a newer one followed, and that one is missing", reterr);
    char *path = ss_log_path(log, newest);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", log->spool->dir);
    ss_status status = ss_segment_open(path, name->first, SEGMENT_WRITE, &log->segment, reterr);
    free(path);
    return status == SS_BUSY ? SS_RETRY : status;
}

/* The one before becomes the newest again: it says so before the newer one goes, so that a newest segment that does not
 * say that it is open always means that a newer one has been lost. */
static ss_status open_older(ss_log *log, size_t index, ss_error *reterr) {
    ss_segment_name *name = &log->names.items[index];
    if (name->sealed)
        return damaged(log, "the segment before it is sealed, although it is not whole", reterr);
    char *path = ss_log_path(log, index);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory recovering %s", log->spool->dir);
    ss_status status = SS_OK;
    if (name->handle == NULL)
        status = ss_segment_open(path, name->first, SEGMENT_WRITE, &name->handle, reterr);
    free(path);
    if (status == SS_OK)
        status = ss_segment_set_state(name->handle, SEGMENT_OPEN, reterr);
    if (status != SS_OK && name->handle != NULL) {
        atomic_store(&name->handle->poisoned, true);
        ss_segment_close(name->handle);
        name->handle = NULL;
    }
    if (status == SS_OK)
        name->marked = SEGMENT_OPEN;
    return status == SS_BUSY ? SS_RETRY : status;
}

/* Removes the newest segment and steps back to the one before. */
static ss_status step_back(ss_log *log, ss_error *reterr) {
    size_t newest = log->names.count - 1;
    if (newest == 0)
        return damaged(log, "its only segment begins beyond what was committed", reterr);
    ss_status status = open_older(log, newest - 1, reterr);
    if (status != SS_OK)
        return status;
    char *path = ss_log_path(log, newest);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory recovering %s", log->spool->dir);
    ss_segment_close(log->segment);
    log->segment = NULL;
    if (log->names.items[newest].first > log->removed_first)
        log->removed_first = log->names.items[newest].first;
    status = ss_segment_unlink(log->spool->dir, path, reterr);
    bool gone = status == SS_OK || access(path, F_OK) != 0; /* gone, though the directory could not be synced */
    free(path);
    if (gone)
        log->names.count--;
    if (status == SS_OK)
        status = open_newest(log, reterr);
    if (status != SS_OK)
        return status;
    uint64_t committed = log->meta.committed;
    status = read_meta(log, &log->meta, reterr);
    if (status == SS_OK && log->meta.committed != committed)
        status = damaged(log, "two segments disagree about what was committed", reterr);
    return status;
}

/* *ret: is there a frame beyond `committed`? */
static int anything_beyond(ss_log *log, bool *ret) {
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key;
    *ret = false;
    int rc = mdb_txn_begin(log->segment->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_open(txn, log->segment->frames, &cursor);
    if (rc == 0) {
        rc = mdb_cursor_get(cursor, &key, NULL, MDB_LAST);
        *ret = rc == 0 && (key.mv_size != 8 || ss_get_key(key.mv_data) > log->meta.committed);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static ss_status delete_frames(ss_log *log, ss_error *reterr) {
    for (;;) {
        bool more;
        size_t deleted;
        MDB_txn *txn;
        int rc = anything_beyond(log, &more);
        if (rc == 0 && !more)
            return SS_OK;
        if (rc == 0) {
            ss_log_extend_file(log->segment);
            rc = mdb_txn_begin(log->segment->env, NULL, 0, &txn);
        }
        if (rc == 0) {
            rc = ss_log_delete_beyond(log, txn, log->meta.committed, DELETE_CHUNK, &deleted);
            if (rc == 0)
                rc = mdb_txn_commit(txn);
            else
                mdb_txn_abort(txn);
        }
        if (rc != 0)
            return ss_log_broken(log, rc, "recover", reterr);
    }
}

/* The last frame must end exactly at `committed`, and gives the CRC that the next one carries. */
static ss_status find_end(ss_log *log, ss_error *reterr) {
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    int rc = mdb_txn_begin(log->segment->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return ss_segment_fail(rc, log->segment->path, "begin on", reterr);
    ss_status status = SS_OK;
    rc = mdb_cursor_open(txn, log->segment->frames, &cursor);
    rc = rc ? rc : mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    uint32_t chain = log->meta.chain;
    uint64_t last = log->meta.first - 1;
    if (rc == 0) {
        ss_frame_header head = {0};
        status = key.mv_size != 8 ? damaged(log, "a frame's key has another length", reterr)
                                  : ss_frame_check(ss_bytes_of(value.mv_data, value.mv_size), ss_get_key(key.mv_data),
                                                   log->segment->path, &head, reterr);
        last = head.first + head.count - 1;
        chain = head.crc;
    } else if (rc != MDB_NOTFOUND) {
        status = ss_segment_fail(rc, log->segment->path, "read", reterr);
    }
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    if (status == SS_OK && last != log->meta.committed)
        status = damaged(log, "its last frame does not end where the last transaction did", reterr);
    if (status != SS_OK)
        return status;
    log->disk_last = log->meta.committed;
    log->disk_chain = chain;
    return SS_OK;
}

/* An attempt that failed half-way may have left the meta of a segment that is gone. */
static ss_status reread(ss_log *log, ss_error *reterr) {
    ss_meta seen;
    ss_meta_init(&seen);
    ss_status status = ss_log_reopen(log, reterr);
    if (status == SS_OK)
        status = read_meta(log, &seen, reterr);
    if (status == SS_OK) {
        log->meta.first = seen.first;
        log->meta.chain = seen.chain;
        log->meta.state = seen.state;
    }
    ss_meta_done(&seen);
    return status;
}

ss_status ss_log_truncate(ss_log *log, ss_error *reterr) {
    ss_status status = ss_log_remove_leftover(log, reterr);
    while (status == SS_OK && log->names.items[log->names.count - 1].first > log->meta.committed + 1)
        status = step_back(log, reterr);
    if (status == SS_OK)
        status = reread(log, reterr);
    if (status == SS_OK && log->meta.state != SEGMENT_OPEN)
        status = damaged(log, "it says that a newer segment follows, and that one is missing", reterr);
    if (status == SS_OK)
        status = delete_frames(log, reterr);
    if (status == SS_OK)
        status = find_end(log, reterr);
    if (status != SS_OK)
        return status;
    log->segment_serial++; /* schemas are put again: NOOVERWRITE makes that free */
    log->suspect = false;
    ss_log_measure(log);
    ss_log_publish(log);
    return SS_OK;
}

ss_status ss_log_rewind(ss_log *log, ss_error *reterr) {
    ss_log_land(log);
    ss_log_forget_unmarked(log);
    if (!ss_log_has_flight(log))
        log->beside.status = SS_OK; /* what failed is forgotten; else that it failed is still to be told */
    if (log->disk_last <= log->mark)
        return SS_OK; /* it had not come to disk */
    /* Whole transactions are never partly on disk beyond `committed`: everything beyond it is the one to be dropped. */
    ss_status status = ss_log_reopen(log, reterr);
    if (status == SS_OK)
        status = ss_log_finish_roll(log, reterr);
    if (status == SS_OK)
        status = ss_log_truncate(log, reterr);
    if (status != SS_OK)
        return status;
    /* a mark without records may wait: it only moves the position */
    ss_frames *last = log->gather.marked || !log->flight.marked ? &log->gather : &log->flight;
    bool waiting = last->marked;
    ss_buf keep = last->position;
    last->position = log->gather.position;
    ss_log_forget_pending(log);
    log->gather.position = keep;
    log->gather.marked = waiting;
    return SS_OK;
}

/* ---- opening ---- */

static ss_status random_id(char out[33], ss_error *reterr) {
    uint8_t bytes[16];
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return ss_fail_sys(reterr, SS_RETRY, SS_SPOOL_IO, errno, "cannot get random bytes for a spool_id");
    for (size_t i = 0; i < sizeof(bytes); i++)
        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return SS_OK;
}

/* The same one again when making the first segment failed and is tried again: a route may have seen the file before it was taken
 * back, and then a log with another id is a gap to it. */
static ss_status first_id(ss_log *log, ss_error *reterr) {
    char *id = log->spool->first_id[log->kind];
    ss_status status = id[0] != '\0' ? SS_OK : random_id(id, reterr);
    if (status == SS_OK)
        memcpy(log->meta.spool_id, id, sizeof(log->meta.spool_id));
    return status;
}

static ss_status first_segment(ss_log *log, ss_error *reterr) {
    char *path = ss_segment_path(log->spool->dir, log->kind, 1, 0);
    ss_segment_name *items = realloc(log->names.items, 16 * sizeof(*items));
    ss_status status = SS_OK;
    bool stays;
    if (items != NULL) {
        log->names.items = items;
        log->names.cap = 16;
    }
    if (path == NULL || items == NULL)
        status = ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory creating %s", log->spool->dir);
    if (status == SS_OK)
        status = first_id(log, reterr);
    log->meta.epoch = 1;
    log->meta.first = 1;
    if (status == SS_OK)
        status = ss_segment_create(log->spool->dir, path, &log->meta, log->spool->options.segment_size, &log->segment,
                                   &stays, reterr); /* one that stays is as good as a new one */
    if (status == SS_OK) {
        items[0] = (ss_segment_name){.first = 1, .changed_ms = ss_wall_ms()};
        log->names.count = 1;
    }
    free(path);
    return status;
}

/* A reader that opened a segment just as it was removed may have made its lock file anew. */
static void remove_orphaned_lock(int dir, const char *name) {
    char data[NAME_MAX + 1];
    struct stat st;
    size_t len = strlen(name) - strlen("-lock");
    memcpy(data, name, len);
    data[len] = '\0';
    if (fstatat(dir, data, &st, 0) != 0 && errno == ENOENT)
        (void)!unlinkat(dir, name, 0); /* in the way of nobody when it stays */
}

/* `.new` files of a creation that we died in, and smaller twins of a segment that was replaced by a larger one. */
static ss_status remove_leftovers(ss_log *log, ss_error *reterr) {
    const char *kind = ss_kind_name(log->kind);
    DIR *d = opendir(log->spool->dir);
    if (d == NULL)
        return ss_segment_fail(errno, log->spool->dir, "list", reterr);
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        size_t len = strlen(entry->d_name);
        if (strncmp(entry->d_name, kind, strlen(kind)) == 0 && len > 8 && strcmp(entry->d_name + len - 8, ".mdb.new") == 0)
            (void)!unlinkat(dirfd(d), entry->d_name, 0); /* in the way of nobody when it stays */
        if (strncmp(entry->d_name, kind, strlen(kind)) == 0 && len > 9 && strcmp(entry->d_name + len - 9, ".mdb-lock") == 0)
            remove_orphaned_lock(dirfd(d), entry->d_name);
    }
    closedir(d);
    for (size_t i = 0; i + 1 < log->names.count;) {
        if (log->names.items[i].first != log->names.items[i + 1].first) {
            i++;
            continue;
        }
        char *path = ss_log_path(log, i);
        if (path == NULL)
            return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory recovering %s", log->spool->dir);
        ss_status status = ss_segment_unlink(log->spool->dir, path, reterr);
        free(path);
        if (status != SS_OK)
            return status;
        memmove(&log->names.items[i], &log->names.items[i + 1], (log->names.count - i - 1) * sizeof(*log->names.items));
        log->names.count--;
    }
    return SS_OK;
}

ss_status ss_log_recover(ss_log *log, ss_error *reterr) {
    ss_status status = ss_segment_list(log->spool->dir, log->kind, &log->names, reterr);
    if (status == SS_OK)
        status = remove_leftovers(log, reterr);
    if (status != SS_OK)
        return status;
    for (size_t i = 0; i < log->names.count; i++) /* a name must be new, also within the second of a restart */
        if (log->names.items[i].generation > log->generation)
            log->generation = log->names.items[i].generation;
    if (log->names.count == 0) {
        status = first_segment(log, reterr);
    } else {
        status = open_newest(log, reterr);
        if (status == SS_OK)
            status = read_meta(log, &log->meta, reterr);
        for (size_t i = 0; i + 1 < log->names.count; i++)
            log->names.items[i].marked = log->names.items[i].sealed ? SEGMENT_SEALED : SEGMENT_OPEN;
    }
    if (status == SS_OK)
        status = ss_log_truncate(log, reterr);
    for (size_t i = 0; status == SS_OK && i + 1 < log->names.count; i++)
        status = ss_log_mark_old(log, i, reterr);
    if (status == SS_OK)
        status = ss_log_reader_check(log, true, NULL, reterr);
    if (status != SS_OK)
        return status;
    ss_log_forget_pending(log);
    ss_log_measure(log);
    ss_log_publish(log);
    return SS_OK;
}

ss_status ss_log_open(ss_spool *spool, ss_log_kind kind, ss_log **ret, ss_error *reterr) {
    ss_log *log = calloc(1, sizeof(*log));
    if (log == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", spool->dir);
    log->spool = spool;
    log->kind = kind;
    log->segment_serial = log->frame_serial = log->next_serial = 1; /* 0 is "never" */
    ss_meta_init(&log->meta);
    ss_buf_init(&log->open);
    ss_buf_init(&log->gather.bytes);
    ss_buf_init(&log->gather.position);
    ss_buf_init(&log->flight.bytes);
    ss_buf_init(&log->flight.position);
    log->beside.wake_fd = -1;
    /* A mark must find room: it cannot fail, and what it could not note would keep every later commit from being made. */
    bool room = ss_buf_reserve(&log->meta.identity, 1) != NULL && ss_buf_reserve(&log->meta.position, POSITION_ROOM) != NULL &&
                ss_buf_reserve(&log->gather.position, POSITION_ROOM) != NULL &&
                ss_buf_reserve(&log->flight.position, POSITION_ROOM) != NULL;
    log->zstd = ZSTD_createCCtx();
    ss_status status = log->zstd == NULL || !room
                           ? ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", spool->dir)
                           : ss_log_recover(log, reterr);
    if (status != SS_OK) {
        ss_log_close(log);
        return status;
    }
    *ret = log;
    return SS_OK;
}

void ss_log_close(ss_log *log) {
    if (log == NULL)
        return;
    ss_beside_done(log);
    atomic_store(&log->spool->refused[log->kind], ROOM_FOUND);
    ss_segment_close(log->segment);
    ss_cursors_close(log->cursors);
    free(log->leftover);
    for (size_t i = 0; i < log->names.count; i++)
        ss_segment_close(log->names.items[i].handle);
    ss_segment_names_done(&log->names);
    ss_meta_done(&log->meta);
    ss_buf_done(&log->open);
    ss_frames_done(&log->gather);
    ss_frames_done(&log->flight);
    ss_schema_map_done(&log->schemas);
    free(log->open_ids);
    free(log->next_ids);
    ZSTD_freeCCtx(log->zstd);
    free(log);
}
