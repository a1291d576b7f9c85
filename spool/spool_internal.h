/* What the files of the spool share with each other; nobody else includes this.
 *
 * frame.c    a frame's bytes: header, zstd, CRC32C
 * segment.c  one LMDB file: create, open (one handle per file per process), meta, names, errors
 * schema_map.c  schema id -> packed Schema, for writer and reader
 * append.c   records -> frames in memory        commit.c  frames in memory -> disk, roll
 * beside.c   the thread that commits while the log's owner goes on appending
 * recover.c  open, rewind: what lies beyond `committed` goes
 * trim.c     what every consumer has passed goes    cursor.c  consumers    read.c  readers */
#ifndef SPOOL_INTERNAL_H
#define SPOOL_INTERNAL_H

#include "sidespool/spool.h"

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <zstd.h>

#define SPOOL_FORMAT 1u      /* of frames, and what a reader must know */
#define SPOOL_META_FORMAT 2u /* 2: meta has a checksum */
#define SPOOL_PENDING_BYTES ((size_t)8 << 20)
#define SPOOL_BESIDE_BYTES (SPOOL_PENDING_BYTES / 2) /* while as much again may be on its way to disk */
#define SPOOL_FRAME_BYTES ((size_t)256 << 10)
#define SPOOL_SEGMENT_BYTES ((uint64_t)256 << 20)
#define SPOOL_SEGMENT_LEAST ((uint64_t)1 << 20)
#define SPOOL_RECORD_LIMIT ((size_t)1 << 30) /* max_message: a larger record is refused */

/* ---- frame.c ---------------------------------------------------------------------------------------------------- */
#define FRAME_HEADER_BYTES 40u
typedef struct {
    uint64_t first;
    uint32_t count, raw_bytes, packed_bytes, prev_crc, crc;
} ss_frame_header;

/* Appends header and compressed payload to `out`. */
SS_MUST ss_status ss_frame_encode(ZSTD_CCtx *zstd, int level, ss_bytes payload, uint64_t first, uint32_t count,
                                  uint32_t prev_crc, ss_buf *out, uint32_t *ret_crc, ss_error *reterr);
/* Checks everything but the payload's own shape. `file` stands in the message. */
SS_MUST ss_status ss_frame_check(ss_bytes frame, uint64_t expected_first, const char *file, ss_frame_header *ret,
                                 ss_error *reterr);
/* Replaces out's content by the payload and checks that it holds exactly `count` records. */
SS_MUST ss_status ss_frame_decode(ZSTD_DCtx *zstd, ss_bytes frame, const ss_frame_header *header, const char *file,
                                  ss_buf *out, ss_error *reterr);
/* The next record of a decoded payload; false at the end or when the length is damaged. */
bool ss_frame_next(const ss_buf *payload, size_t *at, ss_bytes *ret);
size_t ss_varint_put(uint8_t *to, uint64_t value); /* at most 10 bytes */
uint32_t ss_crc32c(uint32_t crc, const void *ptr, size_t len); /* 0 to begin; crc of what stood before to go on */

/* ---- segment.c -------------------------------------------------------------------------------------------------- */
typedef struct {
    uint64_t first;
    uint32_t generation; /* 0 as a rule; a name that was removed is never used again while a reader may still open it */
    uint64_t bytes;      /* st_size */
    int64_t changed_ms;  /* st_mtime */
    bool sealed;         /* by the file's mode: no write permission */
    uint32_t marked;     /* writer: the state that the file is known to say */
    struct ss_segment *handle; /* writer: of a segment that was rolled and is not sealed yet */
} ss_segment_name;
typedef struct {
    ss_segment_name *items; /* by first, ascending */
    size_t count, cap;
} ss_segment_names;

enum { SEGMENT_OPEN = 0, SEGMENT_ROLLED = 1, SEGMENT_SEALED = 2 };
typedef struct {
    char spool_id[33];
    uint64_t epoch, first, committed;
    uint32_t chain; /* CRC of the frame before this segment's first; 0 before sequence 1 */
    uint32_t state;
    ss_buf identity, position;
} ss_meta;

/* An open file. Shared inside the process and counted; MDB_env calls on it are LMDB's own business to lock. */
typedef struct ss_segment {
    MDB_env *env;
    MDB_dbi frames, schemas, meta; /* cursors.mdb: only `meta`, the unnamed database */
    dev_t dev;
    ino_t ino;
    uint64_t first;
    size_t page;
    bool writable, unlocked;
    _Atomic bool poisoned; /* a write failed: LMDB refuses this handle until all of its users have closed it */
    unsigned refs;
    char *path;
    struct ss_segment *next;
} ss_segment;

enum { SEGMENT_READ, SEGMENT_WRITE };
void ss_meta_init(ss_meta *meta);
void ss_meta_done(ss_meta *meta);
const char *ss_kind_name(ss_log_kind kind);
/* "<dir>/<kind>-<first>[.<generation>].mdb" on the heap; NULL: out of memory. */
char *ss_segment_path(const char *dir, ss_log_kind kind, uint64_t first, uint32_t generation);
SS_MUST ss_status ss_segment_list(const char *dir, ss_log_kind kind, ss_segment_names *ret, ss_error *reterr);
void ss_segment_names_done(ss_segment_names *names);
/* SS_BUSY with SS_SPOOL_GAP's code when the file is not there (any more). */
SS_MUST ss_status ss_segment_open(const char *path, uint64_t first, int mode, ss_segment **ret, ss_error *reterr);
void ss_segment_close(ss_segment *segment); /* takes NULL */
/* Whole or not at all: made under another name, then renamed. Open for writing on return. *ret_stays (set on failure too):
 * the file is there under its name although the creation failed, and could not be removed. */
SS_MUST ss_status ss_segment_create(const char *dir, const char *path, const ss_meta *meta, uint64_t mapsize,
                                    ss_segment **ret, bool *ret_stays, ss_error *reterr);
SS_MUST ss_status ss_segment_unlink(const char *dir, const char *path, ss_error *reterr);
SS_MUST ss_status ss_dir_sync(const char *dir, ss_error *reterr);
bool ss_segment_is_current(const ss_segment *segment); /* does its path still lead to this file? */
SS_MUST ss_status ss_meta_read(ss_segment *segment, MDB_txn *txn, ss_meta *ret, ss_error *reterr);
int ss_meta_put_u64(ss_segment *segment, MDB_txn *txn, const char *key, uint64_t value);
int ss_meta_put_u32(ss_segment *segment, MDB_txn *txn, const char *key, uint32_t value);
int ss_meta_put(ss_segment *segment, MDB_txn *txn, const char *key, ss_bytes value);
/* Ends every transaction that has put something: with meta's checksum. Takes txn, also when it fails. */
int ss_meta_commit(ss_segment *segment, MDB_txn *txn);
/* An LMDB or system error code as a status: no room SS_BUSY, I/O and passing trouble SS_RETRY, damage SS_STOP. */
SS_MUST ss_status ss_segment_fail(int rc, const char *path, const char *doing, ss_error *reterr);
/* In one write transaction: state (and the file's mode when sealed). */
SS_MUST ss_status ss_segment_set_state(ss_segment *segment, uint32_t state, ss_error *reterr);
SS_MUST ss_status ss_cursor_file_open(const char *path, ss_segment **ret, ss_error *reterr);
void ss_put_u64(uint8_t *to, uint64_t v); /* little-endian */
uint64_t ss_get_u64(const uint8_t *from);
void ss_put_u32(uint8_t *to, uint32_t v);
uint32_t ss_get_u32(const uint8_t *from);
void ss_put_key(uint8_t *to, uint64_t sequence); /* big-endian */
uint64_t ss_get_key(const uint8_t *from);
int64_t ss_now_ms(void);  /* monotonic */
int64_t ss_wall_ms(void); /* since 1970 */

/* ---- schema_map.c ----------------------------------------------------------------------------------------------- */
typedef struct {
    uint64_t id;
    ss_bytes packed;    /* heap */
    uint64_t in_frame;  /* writer: serial of the last frame that lists it */
    uint64_t in_segment; /* writer: serial of the last segment that holds it */
    uint64_t in_next;    /* writer: serial of the last next record that uses it */
} ss_schema_entry;
typedef struct {
    ss_schema_entry *slots;
    size_t cap, count;
    size_t bytes; /* of what is packed */
    ss_schema_entry *last; /* most records use the schema of the record before */
} ss_schema_map;
ss_schema_entry *ss_schema_map_find(ss_schema_map *map, uint64_t id);
/* The same for the thread beside: without remembering the last one. */
ss_schema_entry *ss_schema_map_look(const ss_schema_map *map, uint64_t id);
/* Copies `packed`; NULL: out of memory. An entry that is there stays. Pointers to entries move, bytes do not. */
ss_schema_entry *ss_schema_map_put(ss_schema_map *map, uint64_t id, ss_bytes packed);
void ss_schema_map_clear(ss_schema_map *map);
void ss_schema_map_done(ss_schema_map *map);

/* ---- the writer ------------------------------------------------------------------------------------------------- */
struct ss_spool {
    char *dir;
    char *path, *source;
    ss_spool_options options;
    int lock_fd;
    char first_id[2][33]; /* of each log's very first segment: kept while making it fails, since a reader may have seen it */
    _Atomic uint64_t used[2]; /* bytes of each log's files; each log's thread stores its own, anyone loads */
    _Atomic int refused[2];   /* ROOM_…: why the log's last append found no room; each log's thread stores its own */
};

enum { ROOM_FOUND, ROOM_OWN, ROOM_SHARED }; /* _OWN: the log's own limit; _SHARED: what both may hold together */

/* A frame that waits for its commit: `len` bytes at `at` of its set's bytes. */
typedef struct {
    size_t at, len, raw;
    uint64_t first;
    uint32_t count, crc;
    size_t ids_at, ids; /* schemas that it uses, in its set's ids */
} ss_ready;

/* Frames that wait, in order, and the mark that their commit moves to. */
typedef struct {
    ss_buf bytes;
    ss_ready *frames;
    size_t count, cap;
    size_t done; /* frames that are durable already, while a commit is under way */
    uint64_t *ids;
    size_t ids_count, ids_cap;
    size_t raw; /* bytes before compression */
    bool marked; /* the mark is not durable yet */
    ss_buf position;
} ss_frames;

/* The thread of beside.c. Everything but the thread itself is under the mutex, or the owner's alone. */
typedef struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool made, started;      /* owner: mutex and cond; thread */
    bool said;               /* owner: that the thread could not be started */
    bool under_way;          /* owner: the flight is the thread's until ss_log_land */
    int wake_fd;             /* owner; -1: none */
    bool asked, ended, quit; /* under the mutex */
    ss_status status;        /* of the last commit; owner, once landed */
    ss_error error;
    int64_t due_us;          /* owner: when the next one is due, monotonic */
    int64_t took_us;         /* under the mutex */
} ss_beside;

struct ss_log {
    ss_spool *spool;
    ss_log_kind kind;
    ss_log_state state;
    ss_meta meta; /* of the newest segment, as durable; state's strings point into it */
    ss_segment *segment; /* newest; NULL after an error, until reopened */
    ss_segment_names names; /* ours alone to change, so kept in memory */
    uint64_t segment_serial;
    uint64_t page; /* of the newest segment's file, as first seen */
    uint32_t generation; /* for names that were used before: the last one given, or seen at recovery */
    uint64_t removed_first; /* highest first sequence of a segment removed by rewind or recovery */
    bool suspect; /* a commit failed: what it wrote is rewritten, whether it can be seen or not */
    char *leftover; /* a segment whose creation failed and whose file stays: nothing is written until it is gone */
    bool seal_waiting; /* a rolled segment holds the beginning of a transaction that was not whole at the roll */

    uint64_t next;       /* sequence of the record appended next */
    uint64_t disk_last;  /* last sequence in a durable frame */
    uint32_t disk_chain; /* CRC of that frame */

    ss_buf open; /* payload of the frame being gathered */
    uint64_t open_first;
    uint32_t open_count, mark_count; /* records; records up to the last mark in it */
    size_t open_mark;                /* bytes up to that mark; 0: none in this frame */
    uint64_t frame_serial;
    uint64_t *open_ids;
    size_t open_ids_count, open_ids_cap;

    ss_frames gather; /* closed since the last commit was begun */
    ss_frames flight; /* of the commit under way, or of one that failed: written before anything of gather */
    uint64_t flight_mark; /* last mark that was handed to a commit */
    ss_beside beside;
    uint32_t chain; /* CRC of the last closed frame */

    uint64_t mark; /* last sequence that was marked whole; >= state.committed */
    int64_t since_ms;  /* when the oldest record of gather came */
    uint64_t room;     /* bytes that may be appended before the quota is looked at again */
    uint64_t refused_need; /* bytes that found no room, while spool->refused says so */
    uint64_t *next_ids; /* schemas of the record appended next, each once */
    size_t next_ids_count, next_ids_cap;
    uint64_t next_serial; /* of that record */
    int64_t reader_check_ms;
    ss_cursors *cursors; /* opened by the first trim */
    ZSTD_CCtx *zstd;
    ss_schema_map schemas;
};

/* A commit under way beside the owner has these to itself: meta, segment, segment_serial, names, generation, removed_first,
 * suspect, leftover, seal_waiting, disk_last, disk_chain, reader_check_ms, and of flight `done` and `marked` with its position; of
 * a schema's entry in_segment. The owner calls ss_log_land before it touches one of them, or changes the map of schemas. */

/* append.c */
SS_MUST ss_status ss_log_close_frame(ss_log *log, ss_error *reterr); /* at the mark when there is one in it */
void ss_log_forget_pending(ss_log *log);                             /* all of it */
void ss_log_forget_unmarked(ss_log *log);                            /* in memory, beyond the mark */
void ss_log_memory_low(ss_log *log);                                 /* gives back what a giant record made us take */
void ss_frames_clear(ss_frames *frames);                             /* keeps the memory */
void ss_frames_done(ss_frames *frames);
/* commit.c */
SS_MUST ss_status ss_log_commit(ss_log *log, ss_error *reterr);
/* What has gathered becomes the flight, which must be empty. */
SS_MUST ss_status ss_log_take_off(ss_log *log, ss_error *reterr);
SS_MUST ss_status ss_log_fly(ss_log *log, ss_error *reterr); /* makes the flight durable; the owner or its thread beside */
void ss_log_landed(ss_log *log);                             /* after it, whatever it returned; owner */
bool ss_log_has_flight(const ss_log *log);                   /* owner, landed: one that failed */
/* beside.c */
SS_MUST ss_status ss_log_commit_beside(ss_log *log, ss_error *reterr); /* begins; errors of the commit itself come later */
void ss_log_land(ss_log *log); /* waits for the commit under way, if any */
void ss_beside_done(ss_log *log);
SS_MUST ss_status ss_log_roll(ss_log *log, uint64_t pages, ss_error *reterr); /* the new one has room for `pages` */
int ss_log_delete_beyond(ss_log *log, MDB_txn *txn, uint64_t sequence, size_t most, size_t *ret_deleted);
void ss_log_extend_file(ss_segment *segment);
ss_status ss_log_broken(ss_log *log, int rc, const char *doing, ss_error *reterr);
SS_MUST ss_status ss_log_reader_check(ss_log *log, bool now, bool *ret_found, ss_error *reterr);
SS_MUST ss_status ss_log_reopen(ss_log *log, ss_error *reterr);
SS_MUST ss_status ss_log_remove_leftover(ss_log *log, ss_error *reterr);
SS_MUST ss_status ss_log_finish_roll(ss_log *log, ss_error *reterr);
SS_MUST ss_status ss_log_mark_old(ss_log *log, size_t index, ss_error *reterr);
char *ss_log_path(const ss_log *log, size_t index); /* of names.items[index], on the heap */
uint64_t ss_log_limit(const ss_log *log); /* quota of this log alone */
void ss_log_look_for_room(ss_log *log);   /* takes a refusal back once there is room for what was refused */
void ss_log_measure(ss_log *log);         /* the newest segment's size into names and used */
/* The room that the segment keeps back for its seal and for recovery's deletes. */
uint64_t ss_segment_reserve_pages(uint64_t pages);
/* cursor.c: the least applied sequence of all consumers; *ret_count 0: there is none. A cursor beyond `committed` speaks of
 * another spool and counts as 0. */
SS_MUST ss_status ss_cursors_least(ss_cursors *cursors, ss_log_kind kind, uint64_t committed, size_t *ret_count,
                                   uint64_t *ret_least, ss_error *reterr);
/* trim.c: seals rolled segments that have become whole */
SS_MUST ss_status ss_log_seal_waiting(ss_log *log, ss_error *reterr);
/* recover.c */
SS_MUST ss_status ss_log_recover(ss_log *log, ss_error *reterr);
SS_MUST ss_status ss_log_truncate(ss_log *log, ss_error *reterr); /* on disk, beyond committed */
void ss_log_publish(ss_log *log); /* meta -> state */

#endif
