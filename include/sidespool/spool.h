/* The spool: two logs for each source, `copy` and `stream`, each a row of append-only LMDB segments (spool/FORMAT.md).
 *
 * A log numbers its records 1, 2, 3 … without holes. Records are gathered into frames; frames and the position after
 * them are one LMDB transaction. `committed` is the last sequence of the last *whole* transaction on disk: a reader never
 * sees beyond it, and recovery removes what lies beyond it.
 *
 * Threads: an ss_log belongs to the thread that opened it. With ss_log_flush_beside it has a second thread inside, which its
 * owner does not see: every other call waits where it has to.
 * An ss_reader belongs to one thread; several readers of one file in one process share one LMDB handle inside. In a process
 * that also writes, open the log first: a file that a reader has opened read-only cannot be opened for writing beside it.
 * Nothing here survives a fork.
 *
 * When a write fails (no room: SS_BUSY with SS_SPOOL_NOSPACE; I/O: SS_RETRY with SS_SPOOL_IO) the log gives its LMDB handle
 * up and keeps in memory what was pending. Nothing counts as written, whether it can be seen on disk or not: the next flush
 * opens the file again, reads `committed` again and writes the same frames anew. So the caller goes on calling
 * ss_log_flush; it may also append (until 8 MiB wait, then ss_log_append returns the same error before it takes anything)
 * or rewind. Until a flush has returned SS_OK nothing of it may be acknowledged. */
#ifndef SIDESPOOL_SPOOL_H
#define SIDESPOOL_SPOOL_H

#include "sidespool/arena.h"
#include "sidespool/bytes.h"
#include "sidespool/error.h"

/* Codes that a caller may have to tell apart. All stand in common/errors/spool.def. */
#define SS_SPOOL_FULL "SS-SPOOL-0001"     /* SS_BUSY: the quota is reached */
#define SS_SPOOL_GAP "SS-SPOOL-0002"      /* SS_STOP: the log does not hold that sequence (trimmed, or not there yet) */
#define SS_SPOOL_DAMAGED "SS-SPOOL-0003"  /* SS_STOP: a file or frame is damaged; the text names file, sequence, what */
#define SS_SPOOL_LOCKED "SS-SPOOL-0004"   /* SS_STOP: another process writes this source's spool */
#define SS_SPOOL_NOSPACE "SS-SPOOL-0005"  /* SS_BUSY: the disk is full; nothing is lost, flush again */
#define SS_SPOOL_IO "SS-SPOOL-0006"       /* SS_RETRY: an I/O error; nothing is lost, flush again */
#define SS_SPOOL_TOO_LARGE "SS-SPOOL-0007" /* SS_STOP: one transaction alone exceeds the quota */
#define SS_SPOOL_ABSENT "SS-SPOOL-0008"   /* SS_RETRY: there is no such spool or log yet */
#define SS_SPOOL_SCHEMA "SS-SPOOL-0009"   /* SS_STOP: a schema that was not put, or is not in the segment */
#define SS_SPOOL_VERSION "SS-SPOOL-0010"  /* SS_STOP: written by a newer version */
#define SS_SPOOL_MEMORY "SS-SPOOL-0011"   /* SS_RETRY: out of memory */
#define SS_SPOOL_ACCESS "SS-SPOOL-0012"   /* SS_STOP: permission denied */
#define SS_SPOOL_INTERNAL "SS-SPOOL-0013" /* SS_STOP: the program broke the contract of this header */
#define SS_SPOOL_RECORD "SS-SPOOL-0014"   /* SS_STOP: one record is larger than max_message */

typedef enum { SS_LOG_COPY, SS_LOG_STREAM } ss_log_kind;

typedef struct {
    uint64_t segment_size;    /* bytes, 0: 256 MiB; at most an eighth of max_size, at least 1 MiB; fixed at creation */
    uint64_t max_size;        /* quota of both logs, bytes; 0: none. The copy log may hold half of it. The stream leaves the copy
                                 log an eighth of it, at least 1.5 MiB (at most half): while tables are copied the stream
                                 cannot be trimmed, and a copy without room would never end */
    uint64_t retain_ms;       /* applied stream segments are kept so long */
    size_t frame_bytes;       /* 0: 256 KiB of payload before compression */
    int zstd_level;           /* 0: 1 */
} ss_spool_options;

/* ---- the source's directory ------------------------------------------------------------------------------------ */
typedef struct ss_spool ss_spool; /* holds the flock on <source>/lock for its life: one writer */
/* Creates <path>/<source>/ (mode 2770) when missing. SS_STOP SS-SPOOL-… when another process holds the lock. */
SS_MUST ss_status ss_spool_open(const char *path, const char *source, const ss_spool_options *options, ss_spool **ret,
                                ss_error *reterr);
void ss_spool_close(ss_spool *spool);
const char *ss_spool_dir(const ss_spool *spool); /* "<path>/<source>"; lives as long as spool */

/* ---- writing --------------------------------------------------------------------------------------------------- */
typedef struct ss_log ss_log;
typedef struct {
    char spool_id[33];     /* random, hex */
    uint64_t epoch;        /* 1 at first; +1 at each source gap that was answered by a resync */
    uint64_t committed;    /* last sequence of the last whole transaction; 0: none yet */
    uint64_t first;        /* first sequence still held; committed+1 when empty */
    char *identity;        /* source identity as the source's ops gave it; "" before the first set. heap, owned by the log */
    char *position;        /* source position after `committed`; "" before the first */
} ss_log_state;

/* Opens a log, recovers it (removes what lies beyond `committed`), creates the first segment when there is none. */
SS_MUST ss_status ss_log_open(ss_spool *spool, ss_log_kind kind, ss_log **ret, ss_error *reterr);
void ss_log_close(ss_log *log); /* what was not flushed is gone: the source sends it again */
const ss_log_state *ss_log_get_state(const ss_log *log);
/* Durable at once. Only while nothing is pending. `new_epoch` moves the epoch on and empties the position, in one
 * transaction: what the position said belongs to the old history. */
SS_MUST ss_status ss_log_set_identity(ss_log *log, const char *identity, bool new_epoch, ss_error *reterr);
/* Remembers a packed Schema (in memory: say it again after each open); it is written in the same commit as the first frame of a segment that uses it. */
SS_MUST ss_status ss_log_put_schema(ss_log *log, uint64_t schema_id, ss_bytes packed, ss_error *reterr);
/* Forgets the schemas that were put: before a source is connected anew, which puts those that it uses again. Does nothing
 * while something is pending. */
void ss_log_forget_schemas(ss_log *log);
size_t ss_log_schema_bytes(const ss_log *log);
/* Appends one record (bytes are copied). schema_id: the schema it uses, 0 none; for several call ss_log_use_schema.
 * Nothing is durable yet. SS_BUSY with SS_SPOOL_FULL: the quota is reached: nothing was appended, ask again (what
 * ss_log_use_schema said stays said). SS_STOP with SS_SPOOL_TOO_LARGE: this transaction alone does not fit: rewind. */
SS_MUST ss_status ss_log_append(ss_log *log, ss_bytes record, uint64_t schema_id, uint64_t *ret_sequence, ss_error *reterr);
SS_MUST ss_status ss_log_use_schema(ss_log *log, uint64_t schema_id, ss_error *reterr); /* of the record appended next */
/* The records so far are whole transactions, up to `position`. Nothing is durable yet. */
void ss_log_mark_whole(ss_log *log, ss_bytes position);
/* Commits when 8 MiB or `SS_LOG_COMMIT_MS` have gathered, or at once with `now`. After SS_OK with now, all that was
 * marked whole is durable (fsync). *ret_committed (may be NULL) tells whether a commit took place.
 * SS_BUSY: spool full, kept in memory (bounded by one frame set), ask again. */
#define SS_LOG_COMMIT_MS 5
SS_MUST ss_status ss_log_flush(ss_log *log, bool now, bool *ret_committed, ss_error *reterr);
/* Commits without making the caller wait: a thread of the log's own does it, while the caller goes on appending and marking.
 * For a loop that calls this in each turn. It begins a commit when something is marked whole and none is under way: at once
 * after quiet, else when the disk has rested three times as long as the last one took (SS_LOG_COMMIT_MS at most), or when
 * 4 MiB have gathered. The end of a commit writes to the eventfd wake_fd (-1: none; it lives as long as the log). What has
 * become durable ss_log_get_state says, after this call or any other.
 * An error is that of the commit that ended, told once: the frames stay in memory, and the next ss_log_flush tries again. */
typedef enum { SS_LOG_QUIET, SS_LOG_RESTS, SS_LOG_COMMITS } ss_log_beside;
typedef struct {
    ss_log_beside now; /* _RESTS: what waits is committed by a call after wait_us; _COMMITS: wake_fd tells when it has ended */
    int wait_us;
} ss_log_turn;
SS_MUST ss_status ss_log_flush_beside(ss_log *log, int wake_fd, ss_log_turn *ret, ss_error *reterr);
size_t ss_log_pending(const ss_log *log); /* bytes not yet committed, or on their way */
/* Drops what was appended since the last ss_log_mark_whole, in memory and on disk (the source's connection broke in
 * mid-transaction and it will send that transaction again). */
SS_MUST ss_status ss_log_rewind(ss_log *log, ss_error *reterr);
/* Removes sealed segments that every registered consumer is past and whose retain has run out (stream only; copy has
 * no retain; retain yields when less than an eighth of the quota is left). *ret_removed: segments. Runs
 * mdb_reader_check. Cheap; called once a second by the log's owner, also while the log is full. */
SS_MUST ss_status ss_log_trim(ss_log *log, uint64_t *ret_removed, ss_error *reterr);
/* Bytes of both logs' files, and the quota. Counted are file lengths (st_size), not blocks: file systems allocate ahead and
 * compress, so blocks go up and down by themselves, while LMDB's files have next to no holes. Any thread may ask. */
SS_MUST ss_status ss_spool_usage(ss_spool *spool, uint64_t *ret_used, uint64_t *ret_quota, ss_error *reterr);

/* ---- reading --------------------------------------------------------------------------------------------------- */
typedef struct ss_reader ss_reader;
/* from: first sequence wanted; 0: the first that is held (to look at the state of a log of which nothing is known). SS_STOP SS-SPOOL-GAP… when the log no longer (or not yet: from > committed + 1) holds it. */
SS_MUST ss_status ss_reader_open(const char *path, const char *source, ss_log_kind kind, uint64_t from, ss_reader **ret,
                                 ss_error *reterr);
void ss_reader_close(ss_reader *reader);
/* The next committed record; SS_BUSY when there is none now. The bytes live until the next call on this reader. */
SS_MUST ss_status ss_reader_next(ss_reader *reader, ss_bytes *ret_record, uint64_t *ret_sequence, ss_error *reterr);
SS_MUST ss_status ss_reader_seek(ss_reader *reader, uint64_t from, ss_error *reterr);
/* The packed Schema that a record just read uses. The bytes live until the reader is closed or moves to another segment. */
SS_MUST ss_status ss_reader_schema(ss_reader *reader, uint64_t schema_id, ss_bytes *ret_packed, ss_error *reterr);
/* A fresh look at the newest segment's meta (spool_id, epoch, committed, first, position). Strings live as in ss_log_state,
 * owned by the reader. */
SS_MUST ss_status ss_reader_state(ss_reader *reader, const ss_log_state **ret, ss_error *reterr);
/* Sequence and bytes between the reader and `committed`: what waits. Bytes are compressed bytes on disk, an estimate. */
SS_MUST ss_status ss_reader_behind(ss_reader *reader, uint64_t *ret_records, uint64_t *ret_bytes, ss_error *reterr);

/* ---- cursors.mdb ----------------------------------------------------------------------------------------------- */
/* Consumer name -> applied sequence, for each log. A hint for trim; the truth is the target's own progress. */
typedef struct ss_cursors ss_cursors;
SS_MUST ss_status ss_cursors_open(const char *path, const char *source, ss_cursors **ret, ss_error *reterr);
void ss_cursors_close(ss_cursors *cursors);
/* Registers or moves. At most one write a second is done unless `now`. */
SS_MUST ss_status ss_cursors_set(ss_cursors *cursors, const char *consumer, ss_log_kind kind, uint64_t applied, bool now,
                                 ss_error *reterr);
SS_MUST ss_status ss_cursors_forget(ss_cursors *cursors, const char *consumer, bool *ret_was_there, ss_error *reterr);
typedef void (*ss_cursors_each_fn)(void *ctx, const char *consumer, uint64_t copy, uint64_t stream);
SS_MUST ss_status ss_cursors_each(ss_cursors *cursors, ss_cursors_each_fn fn, void *ctx, ss_error *reterr);

/* ---- looking at it (sidespool spool ls | dump | verify | trim) ------------------------------------------------- */
int ss_spool_command(int argc, char **argv); /* argv[0] = "ls" | "dump" | "verify" | "trim" | "forget"; returns the exit code */

#endif
