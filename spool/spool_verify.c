/* `sidespool spool verify`: every frame of every segment, and that each follows the one before.
 *
 * LMDB has no page checksums: a damaged page can abort the process that meets it or hand it a SIGBUS. So each segment is
 * read by a child, which opens everything after the fork (an LMDB handle does not survive one); how the child ends is
 * part of the answer. */
#include "spool/spool_command.h"

#include "sidespool/record.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    uint64_t records, frames, bytes, last; /* last sequence read; first-1 when none */
    uint64_t committed;
    uint32_t first_prev, last_crc, state;
    int32_t status;
    char text[SS_ERROR_TEXT];
} finding;

typedef struct {
    const char *path;
    uint64_t first, upto; /* read to here: what is beyond may be taken back at any time */
    bool newest;
    finding found;
    ZSTD_DCtx *zstd;
    ss_buf frame, payload;
    ss_arena *arena;
    ss_segment *segment;
    MDB_txn *txn;
} check;

/* ---- in the child ---- */

static ss_status check_schema(check *c, uint64_t id, uint64_t sequence, ss_error *reterr) {
    uint8_t bytes[8];
    ss_put_key(bytes, id);
    MDB_val key = {sizeof(bytes), bytes}, value;
    bool good = false;
    int rc = mdb_txn_renew(c->txn);
    if (rc == 0) {
        rc = mdb_get(c->txn, c->segment->schemas, &key, &value);
        if (rc == 0)
            good = ss_schema_is(ss_bytes_of(value.mv_data, value.mv_size), id);
        mdb_txn_reset(c->txn);
    }
    if (rc == MDB_NOTFOUND)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_SCHEMA, "%s lacks schema %016" PRIx64 ", which record %" PRIu64 " uses",
                       c->path, id, sequence);
    if (rc == 0 && !good)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s is damaged: its schema %016" PRIx64 " does not have the content of that id",
                       c->path, id);
    return rc == 0 ? SS_OK : ss_segment_fail(rc, c->path, "read", reterr);
}

static ss_status check_records(check *c, uint64_t sequence, ss_error *reterr) {
    size_t at = 0;
    ss_bytes bytes;
    uint64_t known = 0;
    while (ss_frame_next(&c->payload, &at, &bytes)) {
        char place[64];
        Sidespool__Record *record;
        (void)snprintf(place, sizeof(place), "record %" PRIu64, sequence);
        ss_arena_reset(c->arena);
        ss_status status = ss_record_get(bytes, c->arena, place, &record, reterr);
        if (status != SS_OK)
            return status;
        uint64_t id = record->body_case == SIDESPOOL__RECORD__BODY_CHANGE      ? record->change->schema_id
                      : record->body_case == SIDESPOOL__RECORD__BODY_COPY_ROWS ? record->copy_rows->schema_id
                                                                               : 0;
        if (id != 0 && id != known && (status = check_schema(c, id, sequence, reterr)) != SS_OK)
            return status;
        known = id != 0 ? id : known;
        sequence++;
    }
    return SS_OK;
}

static ss_status next_frame(check *c, bool *ret_end, ss_error *reterr) {
    uint8_t bytes[8];
    uint64_t sequence = c->found.last + 1;
    ss_put_key(bytes, sequence);
    MDB_val key = {sizeof(bytes), bytes}, value;
    int rc = mdb_txn_renew(c->txn);
    if (rc == 0) {
        rc = mdb_get(c->txn, c->segment->frames, &key, &value);
        ss_buf_clear(&c->frame);
        if (rc == 0)
            ss_buf_put(&c->frame, value.mv_data, value.mv_size);
        mdb_txn_reset(c->txn);
    }
    if (rc == MDB_NOTFOUND)
        return ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s is damaged: frame at sequence %" PRIu64 ": missing", c->path,
                       sequence);
    if (rc != 0)
        return ss_segment_fail(rc, c->path, "read", reterr);
    ss_frame_header head;
    ss_bytes frame = ss_bytes_of(c->frame.ptr, c->frame.len);
    ss_status status = ss_frame_check(frame, sequence, c->path, &head, reterr);
    if (status == SS_OK && c->found.frames > 0 && head.prev_crc != c->found.last_crc)
        status = ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                         "%s is damaged: frame at sequence %" PRIu64 ": chain: it does not follow the frame before", c->path,
                         sequence);
    if (status == SS_OK)
        status = ss_frame_decode(c->zstd, frame, &head, c->path, &c->payload, reterr);
    if (status == SS_OK)
        status = check_records(c, sequence, reterr);
    if (status != SS_OK)
        return status;
    if (c->found.frames++ == 0)
        c->found.first_prev = head.prev_crc;
    c->found.last_crc = head.crc;
    c->found.last = sequence + head.count - 1;
    c->found.records += head.count;
    c->found.bytes += head.raw_bytes;
    *ret_end = c->found.last >= c->upto;
    return SS_OK;
}

static ss_status check_segment(check *c, ss_error *reterr) {
    ss_meta meta;
    ss_meta_init(&meta);
    c->found.last = c->first - 1;
    c->zstd = ZSTD_createDCtx();
    c->arena = ss_arena_new(SPOOL_RECORD_LIMIT * 2);
    if (c->zstd == NULL || c->arena == NULL)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory");
    ss_status status = ss_segment_open(c->path, c->first, SEGMENT_READ, &c->segment, reterr);
    if (status != SS_OK)
        return status;
    int rc = mdb_txn_begin(c->segment->env, NULL, MDB_RDONLY, &c->txn);
    if (rc != 0)
        return ss_segment_fail(rc, c->path, "read", reterr);
    status = ss_meta_read(c->segment, c->txn, &meta, reterr);
    mdb_txn_reset(c->txn);
    if (status != SS_OK)
        return status;
    c->found.committed = meta.committed;
    c->found.state = meta.state;
    c->found.first_prev = c->found.last_crc = meta.chain; /* an empty segment passes it on */
    if (c->newest)
        c->upto = meta.committed;
    bool end = c->found.last >= c->upto;
    while (!end && status == SS_OK)
        status = next_frame(c, &end, reterr);
    if (status == SS_OK && c->found.last > c->upto)
        status = ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED, "%s is damaged: its last frame reaches into the next segment",
                         c->path);
    if (status == SS_OK && c->found.frames > 0 && c->found.first_prev != meta.chain)
        status = ss_fail(reterr, SS_STOP, SS_SPOOL_DAMAGED,
                         "%s is damaged: frame at sequence %" PRIu64 ": chain: it does not follow the segment before", c->path,
                         c->first);
    mdb_txn_abort(c->txn);
    ss_segment_close(c->segment);
    return status;
}

static void segment_in_child(void *ctx, int fd) {
    check *c = ctx;
    ss_error err = {0};
    c->found.status = (int32_t)check_segment(c, &err);
    (void)snprintf(c->found.text, sizeof(c->found.text), "%s", err.text);
    if (write(fd, &c->found, sizeof(c->found)) != (ssize_t)sizeof(c->found))
        _exit(SS_EXIT_AGAIN);
    _exit(SS_EXIT_DONE);
}

/* ---- in the parent ---- */

typedef struct {
    const ss_spool_args *args;
    json_t *all;
    int code;
} verifying;

static void report(verifying *v, const char *path, const finding *found, const char *trouble) {
    if (trouble != NULL)
        v->code = SS_EXIT_NOT_SO;
    if (v->args->json) {
        json_t *o = json_object();
        (void)json_object_set_new(o, "file", json_string(path));
        (void)json_object_set_new(o, "ok", json_boolean(trouble == NULL));
        (void)json_object_set_new(o, "frames", json_integer((json_int_t)found->frames));
        (void)json_object_set_new(o, "records", json_integer((json_int_t)found->records));
        if (trouble != NULL)
            (void)json_object_set_new(o, "error", json_string(trouble));
        (void)json_array_append_new(v->all, o);
    } else if (trouble == NULL) {
        char size[32];
        printf("ok       %s  %" PRIu64 " frames, %" PRIu64 " records, %s\n", path, found->frames, found->records,
               ss_spool_bytes_text(found->bytes, size));
    } else {
        printf("DAMAGED  %s  after %" PRIu64 " records: %s\n", path, found->records, trouble);
    }
}

/* true: the next segment can be compared with it. */
static bool verify_segment(verifying *v, const char *path, check *c) {
    ss_buf out;
    int signal_ = 0;
    char trouble[SS_ERROR_TEXT + 128];
    ss_buf_init(&out);
    int code = ss_spool_in_child(segment_in_child, c, &out, sizeof(finding), &signal_);
    bool whole = out.len == sizeof(finding);
    if (whole)
        memcpy(&c->found, out.ptr, sizeof(finding));
    ss_buf_done(&out);
    struct stat st;
    if (whole && c->found.status != SS_OK && stat(path, &st) != 0)
        return false; /* trimmed while we looked */
    if (signal_ != 0)
        (void)snprintf(trouble, sizeof(trouble), "%s is damaged: reading it ended with signal %d (%s)", path, signal_,
                       strsignal(signal_));
    else if (!whole)
        (void)snprintf(trouble, sizeof(trouble), "%s: its reader ended with exit code %d", path, code);
    else
        (void)snprintf(trouble, sizeof(trouble), "%s", c->found.text);
    bool good = whole && c->found.status == SS_OK;
    report(v, path, &c->found, good ? NULL : trouble);
    return good;
}

typedef struct {
    const char *path, *source;
    ss_log_kind kind;
} asking;

static void committed_in_child(void *ctx, int fd) {
    const asking *ask = ctx;
    ss_error err;
    ss_reader *reader = NULL;
    const ss_log_state *state;
    uint64_t committed = UINT64_MAX;
    if (ss_reader_open(ask->path, ask->source, ask->kind, 0, &reader, &err) == SS_OK &&
        ss_reader_state(reader, &state, &err) == SS_OK)
        committed = state->committed;
    _exit(write(fd, &committed, sizeof(committed)) == (ssize_t)sizeof(committed) ? SS_EXIT_DONE : SS_EXIT_AGAIN);
}

/* UINT64_MAX when it cannot be told; the newest segment's own check then says why. */
static uint64_t committed_now(const char *path, const char *source, ss_log_kind kind) {
    ss_buf out;
    int signal_;
    uint64_t committed = UINT64_MAX;
    ss_buf_init(&out);
    (void)ss_spool_in_child(committed_in_child, &(asking){path, source, kind}, &out, sizeof(committed), &signal_);
    if (out.len == sizeof(committed))
        memcpy(&committed, out.ptr, sizeof(committed));
    ss_buf_done(&out);
    return committed;
}

static bool still_newest(const char *dir, ss_log_kind kind, uint64_t first) {
    ss_segment_names names = {0};
    ss_error err;
    bool still = ss_segment_list(dir, kind, &names, &err) == SS_OK && names.count > 0 &&
                 names.items[names.count - 1].first == first;
    ss_segment_names_done(&names);
    return still;
}

static ss_status verify_log(verifying *v, const char *source, ss_log_kind kind, ss_error *reterr) {
    ss_segment_names names = {0};
    char *dir = NULL;
    if (asprintf(&dir, "%s/%s", v->args->path, source) < 0)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory");
    ss_status status = ss_segment_list(dir, kind, &names, reterr);
    uint32_t chain = 0;
    bool chained = false;
    uint64_t committed = status == SS_OK && names.count > 1 ? committed_now(v->args->path, source, kind) : UINT64_MAX;
    for (size_t i = 0; status == SS_OK && i < names.count; i++) {
        char *path = ss_segment_path(dir, kind, names.items[i].first, names.items[i].generation);
        if (path == NULL) {
            status = ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory");
            break;
        }
        bool newest = i + 1 == names.count;
        check c = {.path = path, .first = names.items[i].first, .newest = newest};
        c.upto = newest ? 0 : names.items[i + 1].first - 1;
        if (c.upto > committed) /* the rest is an unfinished transaction, which may be taken back as we look */
            c.upto = committed;
        bool good = verify_segment(v, path, &c);
        if (good && chained && c.found.first_prev != chain)
            report(v, path, &c.found, "chain: its first frame does not follow the segment before");
        if (good && newest && c.found.state != SEGMENT_OPEN && still_newest(dir, kind, names.items[i].first))
            report(v, path, &c.found, "it says that a newer segment follows, and that one is missing");
        chained = good;
        chain = c.found.last_crc;
        free(path);
    }
    ss_segment_names_done(&names);
    free(dir);
    return status;
}

int ss_spool_verify(const ss_spool_args *args) {
    verifying v = {.args = args, .all = json_array(), .code = SS_EXIT_DONE};
    for (size_t i = 0; i < args->source_count; i++)
        for (int kind = SS_LOG_STREAM; kind >= SS_LOG_COPY; kind--) {
            ss_error err = {0};
            ss_status status = verify_log(&v, args->sources[i], (ss_log_kind)kind, &err);
            if (status != SS_OK) {
                int one = ss_spool_say(args->sources[i], status, &err);
                v.code = v.code == SS_EXIT_DONE ? one : v.code;
                if (err.code != NULL && strcmp(err.code, SS_SPOOL_ABSENT) == 0)
                    break; /* neither log is there: said once */
            }
        }
    if (args->json) {
        json_t *o = json_pack("{s:b,s:o}", "ok", v.code == SS_EXIT_DONE, "segments", v.all);
        (void)json_dumpf(o, stdout, JSON_COMPACT);
        (void)putchar('\n');
        json_decref(o);
    } else {
        json_decref(v.all);
    }
    return v.code;
}
