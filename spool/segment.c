/* One LMDB file: names, creation, opening, removal.
 *
 * A file is made under another name, given its meta in one commit, and renamed: whoever sees a segment sees one with a
 * valid meta, and a crash in between leaves a `.new` that recovery removes.
 *
 * The registry below is the one mutable global of this library, and it is needed: POSIX record locks belong to the
 * process and all of them on a file vanish at the first close of any descriptor of it. A file opened twice in one
 * process would thus lose its reader table's lock, and the next process to come would clear that table under a live
 * reader (TRAPS, LMDB 2). One handle per file per process, by device and inode, counted, behind one mutex. After a fork
 * the child forgets what it inherited: LMDB handles do not survive it. */
#include "spool/spool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static ss_segment *registry;
static pid_t registry_pid;

ss_status ss_dir_sync(const char *dir, ss_error *reterr) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ss_segment_fail(errno, dir, "open the directory", reterr);
    int rc = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return rc == 0 ? SS_OK : ss_segment_fail(rc, dir, "fsync the directory", reterr);
}

/* ---- opening ---- */

static char *with_suffix(const char *path, const char *suffix) {
    char *out = NULL;
    return asprintf(&out, "%s%s", path, suffix) < 0 ? NULL : out;
}

/* The reader table must be writable for every process of the group, whatever the umask of the one that made it was. */
static void share_lock_file(const char *path) {
    char *lock = with_suffix(path, "-lock");
    struct stat st;
    if (lock != NULL && stat(lock, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 0777) != 0660)
        (void)!chmod(lock, 0660); /* when it fails, others are told "permission denied" by name */
    free(lock);
}

static void segment_destroy(ss_segment *segment) {
    if (segment->env != NULL)
        mdb_env_close(segment->env);
    free(segment->path);
    free(segment);
}

static ss_segment *registry_find(dev_t dev, ino_t ino) {
    if (registry_pid != getpid()) {
        registry = NULL; /* inherited across a fork: not ours to use, and closing them is the parent's business */
        registry_pid = getpid();
    }
    for (ss_segment *at = registry; at != NULL; at = at->next)
        if (at->dev == dev && at->ino == ino)
            return at;
    return NULL;
}

static void registry_remove(ss_segment *segment) {
    for (ss_segment **at = &registry; *at != NULL; at = &(*at)->next)
        if (*at == segment) {
            *at = segment->next;
            return;
        }
}

/* A file that is shorter than the pages it speaks of would be SIGBUS later. */
static ss_status check_length(ss_segment *segment, ss_error *reterr) {
    MDB_envinfo info;
    MDB_stat stat_;
    struct stat st;
    mdb_filehandle_t fd;
    int rc = mdb_env_info(segment->env, &info);
    if (rc == 0)
        rc = mdb_env_stat(segment->env, &stat_);
    if (rc == 0)
        rc = mdb_env_get_fd(segment->env, &fd);
    if (rc != 0)
        return ss_segment_fail(rc, segment->path, "look at", reterr);
    if (fstat(fd, &st) != 0)
        return ss_segment_fail(errno, segment->path, "stat", reterr);
    segment->page = stat_.ms_psize;
    segment->dev = st.st_dev;
    segment->ino = st.st_ino;
    uint64_t needed = ((uint64_t)info.me_last_pgno + 1) * stat_.ms_psize;
    if (needed > info.me_mapsize || (uint64_t)st.st_size < needed)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                       "%s is damaged: truncated: it has %llu bytes and needs %llu; run `sidespool spool verify`",
                       segment->path, (unsigned long long)st.st_size, (unsigned long long)needed);
    return SS_OK;
}

static ss_status open_tables(ss_segment *segment, bool create, ss_error *reterr) {
    MDB_txn *txn;
    unsigned flags = create ? MDB_CREATE : 0;
    int rc = mdb_txn_begin(segment->env, NULL, create ? 0 : MDB_RDONLY, &txn);
    if (rc != 0)
        return ss_segment_fail(rc, segment->path, "begin on", reterr);
    rc = mdb_dbi_open(txn, "meta", flags, &segment->meta);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "frames", flags, &segment->frames);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "schemas", flags, &segment->schemas);
    if (rc != 0) {
        mdb_txn_abort(txn);
        if (rc == MDB_NOTFOUND)
            return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s is damaged: it lacks a table; run `sidespool spool verify`",
                           segment->path);
        return ss_segment_fail(rc, segment->path, "open the tables of", reterr);
    }
    rc = mdb_txn_commit(txn); /* keeps the handles */
    return rc == 0 ? SS_OK : ss_segment_fail(rc, segment->path, "open the tables of", reterr);
}

static int open_env(ss_segment *segment, const char *path, unsigned flags, uint64_t mapsize) {
    int rc = mdb_env_create(&segment->env);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(segment->env, 4);
    if (rc == 0)
        rc = mdb_env_set_mapsize(segment->env, mapsize);
    if (rc == 0)
        rc = mdb_env_open(segment->env, path, flags | MDB_NOSUBDIR | MDB_NOTLS | MDB_NORDAHEAD, 0660);
    return rc;
}

/* Opens LMDB alone. `mapsize` 0: the file's own, fixed when it was made. */
static ss_status segment_env(const char *path, unsigned flags, uint64_t mapsize, ss_segment **ret, ss_error *reterr) {
    ss_segment *segment = calloc(1, sizeof(*segment));
    if (segment == NULL || (segment->path = strdup(path)) == NULL) {
        free(segment);
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory opening %s", path);
    }
    segment->refs = 1;
    segment->writable = (flags & MDB_RDONLY) == 0;
    segment->unlocked = (flags & MDB_NOLOCK) != 0;
    int rc = open_env(segment, path, flags, mapsize);
    /* "Invalid" is also said of a lock file whose maker was killed before it wrote the head, to who had waited for it then.
     * Once all of those have closed it, the next one to open makes it anew. What is invalid itself stays so. */
    for (int tries = 0; rc == MDB_INVALID && !segment->unlocked && tries < 3; tries++) {
        mdb_env_close(segment->env);
        segment->env = NULL;
        (void)usleep(1000);
        rc = open_env(segment, path, flags, mapsize);
    }
    ss_status status = rc == 0 ? SS_OK : ss_segment_fail(rc, path, "open", reterr);
    if (status == SS_OK)
        status = check_length(segment, reterr);
    if (status != SS_OK) {
        segment_destroy(segment);
        return status;
    }
    *ret = segment;
    return SS_OK;
}

/* Before LMDB maps anything: is it there, and long enough to hold LMDB's own two meta pages? */
static ss_status look(const char *path, struct stat *st, ss_error *reterr) {
    if (stat(path, st) != 0) {
        if (errno == ENOENT)
            return ss_fail(reterr, SS_BUSY, SS_SPOOL_GAP, "%s is not there", path);
        return ss_segment_fail(errno, path, "stat", reterr);
    }
    if (!S_ISREG(st->st_mode) || st->st_size < 2 * 4096)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                       "%s is damaged: truncated: it has %lld bytes only; run `sidespool spool verify`", path,
                       (long long)st->st_size);
    return SS_OK;
}

static bool says_sealed(ss_segment *segment) {
    MDB_txn *txn;
    MDB_val key = {5, (void *)(uintptr_t) "state"}, value;
    bool sealed = false;
    if (mdb_txn_begin(segment->env, NULL, MDB_RDONLY, &txn) != 0)
        return false;
    if (mdb_get(txn, segment->meta, &key, &value) == 0 && value.mv_size == 4)
        sealed = ss_get_u32(value.mv_data) == SEGMENT_SEALED;
    mdb_txn_abort(txn);
    return sealed;
}

/* When a writer dies between writing LMDB's meta page and saying so in the lock file, and a reader keeps that file alive,
 * readers go on seeing the state before, while the next write transaction takes over the dead one's mutex and begins
 * behind it. Who reads first and writes then would decide upon the one and append to the other: so begin to write first. */
static ss_status adopt_dead_writer(ss_segment *segment, ss_error *reterr) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(segment->env, NULL, 0, &txn);
    if (rc != 0)
        return ss_segment_fail(rc, segment->path, "begin on", reterr);
    mdb_txn_abort(txn);
    return SS_OK;
}

/* The registry's lock is held. */
static ss_status open_new(const char *path, uint64_t first, int mode, const struct stat *st, ss_segment **ret,
                          ss_error *reterr) {
    /* A sealed segment is never written again; its mode says so before it is opened, its meta proves it. */
    bool unlocked = mode == SEGMENT_READ && (st->st_mode & S_IWUSR) == 0;
    for (;;) {
        ss_segment *segment = NULL;
        unsigned flags = mode == SEGMENT_WRITE ? 0 : MDB_RDONLY | (unlocked ? MDB_NOLOCK : 0);
        ss_status status = segment_env(path, flags, 0, &segment, reterr);
        if (status != SS_OK)
            return status;
        if (!unlocked)
            share_lock_file(path);
        if (segment->dev != st->st_dev || segment->ino != st->st_ino) {
            segment_destroy(segment); /* replaced between stat and open */
            return ss_fail(reterr, SS_BUSY, SS_SPOOL_GAP, "%s was replaced while it was opened", path);
        }
        if (mode == SEGMENT_WRITE)
            status = adopt_dead_writer(segment, reterr);
        if (status == SS_OK)
            status = open_tables(segment, false, reterr);
        if (status != SS_OK) {
            segment_destroy(segment);
            return status;
        }
        if (unlocked && !says_sealed(segment)) {
            segment_destroy(segment);
            unlocked = false;
            continue;
        }
        segment->first = first;
        segment->next = registry;
        registry = segment;
        *ret = segment;
        return SS_OK;
    }
}

static ss_status open_locked(const char *path, uint64_t first, int mode, ss_segment **ret, ss_error *reterr) {
    struct stat st;
    ss_status status = look(path, &st, reterr);
    if (status != SS_OK)
        return status;
    ss_segment *known = registry_find(st.st_dev, st.st_ino);
    if (known == NULL)
        return open_new(path, first, mode, &st, ret, reterr);
    if (mode == SEGMENT_WRITE && !known->writable)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL,
                       "%s was opened for reading in this process before its log was; open the log first", path);
    known->refs++;
    *ret = known;
    return SS_OK;
}

ss_status ss_segment_open(const char *path, uint64_t first, int mode, ss_segment **ret, ss_error *reterr) {
    pthread_mutex_lock(&registry_lock);
    ss_status status = open_locked(path, first, mode, ret, reterr);
    pthread_mutex_unlock(&registry_lock);
    return status;
}

void ss_segment_close(ss_segment *segment) {
    if (segment == NULL)
        return;
    pthread_mutex_lock(&registry_lock);
    if (registry_pid != getpid()) {
        pthread_mutex_unlock(&registry_lock);
        return; /* the parent's */
    }
    if (--segment->refs == 0) {
        registry_remove(segment);
        segment_destroy(segment);
    }
    pthread_mutex_unlock(&registry_lock);
}

bool ss_segment_is_current(const ss_segment *segment) {
    struct stat st;
    return stat(segment->path, &st) == 0 && st.st_dev == segment->dev && st.st_ino == segment->ino;
}

/* ---- creating and removing ---- */

static ss_status make_file(const char *temporary, const ss_meta *meta, uint64_t mapsize, ss_error *reterr) {
    ss_segment *segment = NULL;
    ss_status status = segment_env(temporary, MDB_NOLOCK, mapsize, &segment, reterr);
    if (status != SS_OK)
        return status;
    status = open_tables(segment, true, reterr);
    MDB_txn *txn;
    int rc = status == SS_OK ? mdb_txn_begin(segment->env, NULL, 0, &txn) : 0;
    if (status == SS_OK && rc == 0) {
        const ss_buf *identity = &meta->identity, *position = &meta->position;
        rc = ss_meta_put_u32(segment, txn, "format", SPOOL_META_FORMAT);
        rc = rc ? rc : ss_meta_put_u32(segment, txn, "min_reader", SPOOL_FORMAT);
        rc = rc ? rc : ss_meta_put(segment, txn, "spool_id", ss_bytes_str(meta->spool_id));
        rc = rc ? rc : ss_meta_put_u64(segment, txn, "epoch", meta->epoch);
        rc = rc ? rc : ss_meta_put_u64(segment, txn, "first", meta->first);
        rc = rc ? rc : ss_meta_put_u64(segment, txn, "committed", meta->committed);
        rc = rc ? rc : ss_meta_put_u32(segment, txn, "chain", meta->chain);
        rc = rc ? rc : ss_meta_put_u32(segment, txn, "state", meta->state);
        rc = rc ? rc : ss_meta_put(segment, txn, "identity", ss_bytes_of(identity->ptr, identity->len));
        rc = rc ? rc : ss_meta_put(segment, txn, "position", ss_bytes_of(position->ptr, position->len));
        if (rc != 0)
            mdb_txn_abort(txn);
        else
            rc = ss_meta_commit(segment, txn);
    }
    if (rc != 0)
        status = ss_segment_fail(rc, temporary, "create", reterr);
    segment_destroy(segment);
    return status;
}

ss_status ss_segment_create(const char *dir, const char *path, const ss_meta *meta, uint64_t mapsize,
                            ss_segment **ret, bool *ret_stays, ss_error *reterr) {
    char *temporary = with_suffix(path, ".new"), *lock = with_suffix(path, "-lock");
    ss_status status = SS_OK;
    *ret_stays = false;
    if (temporary == NULL || lock == NULL) {
        status = ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory creating %s", path);
        goto out;
    }
    (void)!unlink(temporary);
    (void)!unlink(lock); /* of a file that is gone: its transaction numbers are not this file's */
    status = make_file(temporary, meta, mapsize, reterr);
    if (status != SS_OK) {
        (void)!unlink(temporary);
        goto out;
    }
    (void)!chmod(temporary, 0660);
    /* The lock is held from the rename to the open, so that a reader thread of this process cannot open it read-only
     * in between. If we die before the rename, the older segment is still the newest one; after it, the new one says
     * exactly the same. The directory is synced before any record in it can be acknowledged. */
    pthread_mutex_lock(&registry_lock);
    if (rename(temporary, path) != 0)
        status = ss_segment_fail(errno, path, "create", reterr);
    if (status == SS_OK)
        status = ss_dir_sync(dir, reterr);
    if (status == SS_OK)
        status = open_locked(path, meta->first, SEGMENT_WRITE, ret, reterr);
    if (status != SS_OK) {
        (void)!unlink(temporary);
        *ret_stays = unlink(path) != 0 && errno != ENOENT;
    }
    pthread_mutex_unlock(&registry_lock);
out:
    free(temporary);
    free(lock);
    return status == SS_BUSY && reterr != NULL && reterr->code != NULL && strcmp(reterr->code, SS_SPOOL_GAP) == 0
               ? SS_RETRY
               : status;
}

ss_status ss_segment_unlink(const char *dir, const char *path, ss_error *reterr) {
    char *lock = with_suffix(path, "-lock");
    if (lock == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory removing %s", path);
    /* The lock file first: were the data file gone and the lock file left, a later file of that name would inherit the
     * wrong transaction numbers. A file without its lock file gets a new one at its next open. */
    int rc = unlink(lock) == 0 || errno == ENOENT ? 0 : errno;
    if (rc == 0)
        rc = unlink(path) == 0 || errno == ENOENT ? 0 : errno;
    free(lock);
    if (rc != 0)
        return ss_segment_fail(rc, path, "remove", reterr);
    return ss_dir_sync(dir, reterr);
}

ss_status ss_cursor_file_open(const char *path, ss_segment **ret, ss_error *reterr) {
    struct stat st;
    ss_status status = SS_OK;
    pthread_mutex_lock(&registry_lock);
    ss_segment *known = stat(path, &st) == 0 ? registry_find(st.st_dev, st.st_ino) : registry_find(0, 0);
    if (known != NULL) {
        known->refs++;
        *ret = known;
        goto out;
    }
    ss_segment *segment = NULL;
    status = segment_env(path, 0, (uint64_t)16 << 20, &segment, reterr);
    if (status != SS_OK)
        goto out;
    share_lock_file(path);
    if (stat(path, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 0777) != 0660)
        (void)!chmod(path, 0660);
    MDB_txn *txn;
    int rc = mdb_txn_begin(segment->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = mdb_dbi_open(txn, NULL, 0, &segment->meta);
        mdb_txn_abort(txn);
    }
    if (rc != 0) {
        segment_destroy(segment);
        status = ss_segment_fail(rc, path, "open", reterr);
        goto out;
    }
    segment->next = registry;
    registry = segment;
    *ret = segment;
out:
    pthread_mutex_unlock(&registry_lock);
    return status;
}
