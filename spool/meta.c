/* A segment's name and its `meta` table: what the newest segment says is what counts (spool/FORMAT.md). */
#include "spool/spool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

/* ---- numbers ---- */

void ss_put_u64(uint8_t *to, uint64_t v) {
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)(v >> (8 * i));
}
uint64_t ss_get_u64(const uint8_t *from) {
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v |= (uint64_t)from[i] << (8 * i);
    return v;
}
void ss_put_u32(uint8_t *to, uint32_t v) {
    for (unsigned i = 0; i < 4; i++)
        to[i] = (uint8_t)(v >> (8 * i));
}
uint32_t ss_get_u32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}
void ss_put_key(uint8_t *to, uint64_t sequence) {
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)(sequence >> (56 - 8 * i));
}
uint64_t ss_get_key(const uint8_t *from) {
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | from[i];
    return v;
}
static int64_t clock_ms(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
int64_t ss_now_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}
int64_t ss_wall_ms(void) {
    return clock_ms(CLOCK_REALTIME);
}

/* ---- errors ---- */

/* LMDB reports a short write, which is how a disk runs full in the middle of a page run, as EIO. */
static bool disk_is_full(const char *path) {
    struct statvfs vfs;
    return statvfs(path, &vfs) == 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize < SPOOL_PENDING_BYTES;
}

ss_status ss_segment_fail(int rc, const char *path, const char *doing, ss_error *reterr) {
    switch (rc) {
    case ENOSPC:
    case EDQUOT:
        return ss_fail_sys(reterr, SS_BUSY, SS_SPOOL_NOSPACE, rc, "cannot %s %s: no room on the file system", doing,
                           path);
    case EIO:
        if (disk_is_full(path)) /* LMDB calls a short write an I/O error */
            return ss_fail_sys(reterr, SS_BUSY, SS_SPOOL_NOSPACE, ENOSPC, "cannot %s %s: no room on the file system",
                               doing, path);
        return ss_fail_sys(reterr, SS_RETRY, SS_SPOOL_IO, rc, "cannot %s %s", doing, path);
    case EACCES:
    case EPERM:
    case EROFS:
        return ss_fail_sys(reterr, SS_STOP, SS_SPOOL_ACCESS, rc,
                           "cannot %s %s; agent and applier must share a group that may write there", doing, path);
    case ENOTDIR:
        return ss_fail(reterr, SS_STOP, SS_SPOOL_ACCESS,
                       "cannot %s %s: a part of that path is a file; correct spool.path, or move that file away", doing, path);
    case ENOMEM:
        return ss_fail_sys(reterr, SS_RETRY, SS_SPOOL_MEMORY, rc, "cannot %s %s", doing, path);
    case MDB_VERSION_MISMATCH:
        return ss_fail(reterr, SS_STOP, SS_SPOOL_VERSION, "cannot %s %s: %s", doing, path, mdb_strerror(rc));
    case MDB_PANIC:
    case MDB_READERS_FULL:
    case MDB_MAP_FULL:
    case MDB_MAP_RESIZED:
    /* The last process to close an LMDB file destroys the lock file's mutexes; one that opens it in that moment waits for the file
     * lock and then finds them destroyed. Closed and opened again it is well. */
    case EINVAL:
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_IO, "cannot %s %s: %s", doing, path, mdb_strerror(rc));
    case MDB_BAD_TXN:
    case MDB_BAD_RSLOT:
    case MDB_BAD_DBI:
    case MDB_BAD_VALSIZE:
        return ss_fail(reterr, SS_STOP, SS_SPOOL_INTERNAL, "cannot %s %s: %s", doing, path, mdb_strerror(rc));
    default:
        if (rc > 0)
            return ss_fail_sys(reterr, SS_RETRY, SS_SPOOL_IO, rc, "cannot %s %s", doing, path);
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s is damaged: cannot %s it: %s; run `sidespool spool verify`",
                       path, doing, mdb_strerror(rc));
    }
}

/* ---- names ---- */

const char *ss_kind_name(ss_log_kind kind) {
    return kind == SS_LOG_COPY ? "copy" : "stream";
}

char *ss_segment_path(const char *dir, ss_log_kind kind, uint64_t first, uint32_t generation) {
    char *out = NULL;
    int n = generation == 0
                ? asprintf(&out, "%s/%s-%020" PRIu64 ".mdb", dir, ss_kind_name(kind), first)
                : asprintf(&out, "%s/%s-%020" PRIu64 ".%" PRIu32 ".mdb", dir, ss_kind_name(kind), first, generation);
    return n < 0 ? NULL : out;
}

static bool parse_name(const char *name, ss_log_kind kind, uint64_t *ret_first, uint32_t *ret_generation) {
    const char *kind_name = ss_kind_name(kind);
    size_t len = strlen(kind_name);
    if (strncmp(name, kind_name, len) != 0 || name[len] != '-')
        return false;
    const char *at = name + len + 1;
    uint64_t first = 0, generation = 0;
    for (int i = 0; i < 20; i++, at++) {
        if (*at < '0' || *at > '9' || first > (UINT64_MAX - 9) / 10)
            return false;
        first = first * 10 + (uint64_t)(*at - '0');
    }
    if (*at == '.' && at[1] >= '0' && at[1] <= '9')
        for (at++; *at >= '0' && *at <= '9' && generation <= UINT32_MAX; at++)
            generation = generation * 10 + (uint64_t)(*at - '0');
    if (strcmp(at, ".mdb") != 0 || first == 0 || generation > UINT32_MAX)
        return false;
    *ret_first = first;
    *ret_generation = (uint32_t)generation;
    return true;
}

void ss_segment_names_done(ss_segment_names *names) {
    free(names->items);
    *names = (ss_segment_names){0};
}

static int by_first(const void *a, const void *b) {
    const ss_segment_name *x = a, *y = b;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->generation < y->generation ? -1 : x->generation > y->generation;
}

static ss_status add_name(ss_segment_names *names, const char *dir, ss_log_kind kind, ss_segment_name name,
                          ss_error *reterr) {
    struct stat st;
    char *path = ss_segment_path(dir, kind, name.first, name.generation);
    if (path == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory listing %s", dir);
    int rc = stat(path, &st) == 0 ? 0 : errno;
    free(path);
    if (rc == ENOENT)
        return SS_OK; /* removed meanwhile */
    if (rc != 0)
        return ss_segment_fail(rc, dir, "list", reterr);
    name.bytes = (uint64_t)st.st_size;
    name.changed_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    name.sealed = (st.st_mode & S_IWUSR) == 0;
    if (names->count == names->cap) {
        size_t cap = names->cap == 0 ? 16 : names->cap * 2;
        ss_segment_name *items = realloc(names->items, cap * sizeof(*items));
        if (items == NULL)
            return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory listing %s", dir);
        names->items = items;
        names->cap = cap;
    }
    names->items[names->count++] = name;
    return SS_OK;
}

ss_status ss_segment_list(const char *dir, ss_log_kind kind, ss_segment_names *ret, ss_error *reterr) {
    ss_segment_names names = {0};
    ss_status status = SS_OK;
    DIR *d = opendir(dir);
    if (d == NULL) {
        if (errno == ENOENT)
            return ss_fail(reterr, SS_RETRY, SS_SPOOL_ABSENT, "there is no spool at %s (yet)", dir);
        return ss_segment_fail(errno, dir, "list", reterr);
    }
    struct dirent *entry;
    while (status == SS_OK && (errno = 0, entry = readdir(d)) != NULL) {
        ss_segment_name name = {0};
        if (parse_name(entry->d_name, kind, &name.first, &name.generation))
            status = add_name(&names, dir, kind, name, reterr);
    }
    if (status == SS_OK && errno != 0)
        status = ss_segment_fail(errno, dir, "list", reterr);
    closedir(d);
    if (status != SS_OK) {
        ss_segment_names_done(&names);
        return status;
    }
    if (names.count > 1)
        qsort(names.items, names.count, sizeof(*names.items), by_first);
    ss_segment_names_done(ret);
    *ret = names;
    return SS_OK;
}

/* ---- the meta table ---- */

void ss_meta_init(ss_meta *meta) {
    *meta = (ss_meta){0};
    ss_buf_init(&meta->identity);
    ss_buf_init(&meta->position);
}
void ss_meta_done(ss_meta *meta) {
    ss_buf_done(&meta->identity);
    ss_buf_done(&meta->position);
}

int ss_meta_put(ss_segment *segment, MDB_txn *txn, const char *key, ss_bytes value) {
    static const uint8_t none[1] = {0};
    MDB_val k = {strlen(key), (void *)(uintptr_t)key};
    MDB_val v = {value.len, (void *)(uintptr_t)(value.len > 0 ? value.ptr : none)};
    return mdb_put(txn, segment->meta, &k, &v, 0);
}
int ss_meta_put_u64(ss_segment *segment, MDB_txn *txn, const char *key, uint64_t value) {
    uint8_t bytes[8];
    ss_put_u64(bytes, value);
    return ss_meta_put(segment, txn, key, ss_bytes_of(bytes, sizeof(bytes)));
}
int ss_meta_put_u32(ss_segment *segment, MDB_txn *txn, const char *key, uint32_t value) {
    uint8_t bytes[4];
    ss_put_u32(bytes, value);
    return ss_meta_put(segment, txn, key, ss_bytes_of(bytes, sizeof(bytes)));
}

typedef struct {
    ss_segment *segment;
    MDB_txn *txn;
    const char *missing;
} meta_in;

static ss_bytes meta_get(meta_in *in, const char *key, size_t len) {
    MDB_val k = {strlen(key), (void *)(uintptr_t)key}, v;
    if (mdb_get(in->txn, in->segment->meta, &k, &v) != 0 || (len != 0 && v.mv_size != len)) {
        in->missing = in->missing != NULL ? in->missing : key;
        return SS_BYTES_NONE;
    }
    return ss_bytes_of(v.mv_data, v.mv_size);
}
static uint64_t meta_u64(meta_in *in, const char *key) {
    ss_bytes v = meta_get(in, key, 8);
    return v.ptr != NULL ? ss_get_u64(v.ptr) : 0;
}
static uint32_t meta_u32(meta_in *in, const char *key) {
    ss_bytes v = meta_get(in, key, 4);
    return v.ptr != NULL ? ss_get_u32(v.ptr) : 0;
}
/* LMDB has no page checksums, and everything hangs on these few values: with another `committed` recovery would delete what
 * was released at the source, with another `position` the source would be asked for another place. */
static uint32_t meta_crc(meta_in *in) {
    static const char *const keys[] = {"format", "min_reader", "spool_id", "epoch",    "first",
                                       "committed", "chain",   "state",    "identity", "position"};
    uint32_t crc = 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        uint8_t len[8];
        ss_bytes value = meta_get(in, keys[i], 0);
        ss_put_u64(len, value.len);
        crc = ss_crc32c(crc, keys[i], strlen(keys[i]));
        crc = ss_crc32c(crc, len, sizeof(len));
        crc = ss_crc32c(crc, value.len > 0 ? value.ptr : len, value.len);
    }
    return crc;
}

int ss_meta_commit(ss_segment *segment, MDB_txn *txn) {
    meta_in in = {.segment = segment, .txn = txn};
    uint32_t crc = meta_crc(&in);
    int rc = in.missing != NULL ? MDB_CORRUPTED : ss_meta_put_u32(segment, txn, "crc", crc);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* Format 1 had no checksum until its first writing by a version that has one. */
static bool crc_agrees(meta_in *in) {
    MDB_val k = {3, (void *)(uintptr_t) "crc"}, v;
    if (mdb_get(in->txn, in->segment->meta, &k, &v) != 0)
        return meta_u32(in, "format") == 1;
    return v.mv_size == 4 && ss_get_u32(v.mv_data) == meta_crc(in);
}

static bool set_text(ss_buf *buf, ss_bytes text) {
    ss_buf_clear(buf);
    ss_buf_put(buf, text.ptr, text.len);
    (void)ss_buf_cstr(buf); /* room for its NUL, so that a later look cannot fail */
    return !buf->bad;
}

ss_status ss_meta_read(ss_segment *segment, MDB_txn *txn, ss_meta *ret, ss_error *reterr) {
    meta_in in = {.segment = segment, .txn = txn};
    uint32_t min_reader = meta_u32(&in, "min_reader");
    if (in.missing == NULL && min_reader > SPOOL_FORMAT)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_VERSION, "%s asks for a reader of format %u, this is %u; upgrade it",
                       segment->path, min_reader, SPOOL_FORMAT);
    ss_bytes id = meta_get(&in, "spool_id", 32);
    uint64_t epoch = meta_u64(&in, "epoch"), first = meta_u64(&in, "first"), committed = meta_u64(&in, "committed");
    uint32_t chain = meta_u32(&in, "chain"), state = meta_u32(&in, "state");
    ss_bytes identity = meta_get(&in, "identity", 0), position = meta_get(&in, "position", 0);
    if (in.missing == NULL && (first != segment->first || state > SEGMENT_SEALED))
        in.missing = first != segment->first ? "first" : "state";
    if (in.missing == NULL && !crc_agrees(&in))
        in.missing = "crc";
    if (in.missing != NULL)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                       "%s is damaged: meta `%s` is missing or wrong; run `sidespool spool verify`", segment->path,
                       in.missing);
    if (!set_text(&ret->identity, identity) || !set_text(&ret->position, position))
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory reading %s", segment->path);
    memcpy(ret->spool_id, id.ptr, 32);
    ret->spool_id[32] = '\0';
    ret->epoch = epoch;
    ret->first = first;
    ret->committed = committed;
    ret->chain = chain;
    ret->state = state;
    return SS_OK;
}

ss_status ss_segment_set_state(ss_segment *segment, uint32_t state, ss_error *reterr) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(segment->env, NULL, 0, &txn);
    if (rc == 0) {
        rc = ss_meta_put_u32(segment, txn, "state", state);
        if (rc == 0)
            rc = ss_meta_commit(segment, txn);
        else
            mdb_txn_abort(txn);
    }
    if (rc == 0 && state == SEGMENT_SEALED && chmod(segment->path, 0440) != 0)
        rc = errno;
    return rc == 0 ? SS_OK : ss_segment_fail(rc, segment->path, "mark", reterr);
}
