/* `<source>/generation`, so that the number of a copy is never used twice and a copy that a crash
 * cut short is ended.
 *
 * Format: "sidespool-generation 1 NUMBER open|closed FROM_SEQUENCE ROUTE\n". */
#include "agents/generation.h"

#include "agents/durable_file.h"
#include "sidespool/arena.h"
#include "sidespool/log.h"
#include "sidespool/record.h"
#include "sidespool/spool.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* First byte of a Record that holds a CopyBegin or CopyEnd: field number << 3 | length-delimited.
 */
#define TAG_COPY_BEGIN 0x42
#define TAG_COPY_END 0x4a
#define RECORD_LIMIT ((size_t)64 << 20)

static ss_status path_fail(ss_error *reterr, int err, const char *doing, const char *path) {
    return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0010", err, "cannot %s %s", doing, path);
}

/* ---- looking through the stream
 * ------------------------------------------------------------------------------------- */

typedef struct {
    ss_generation newest; /* of all CopyBegins seen */
    bool begun, ended;    /* of the generation `only`, or of the newest */
    bool exists;          /* there is a stream log */
    bool whole;           /* nothing has been trimmed from it: every CopyBegin there ever was has been seen */
} scan_result;

static void scan_record(scan_result *scan, const Sidespool__Record *record, uint64_t only) {
    if (record->body_case == SIDESPOOL__RECORD__BODY_COPY_BEGIN) {
        const Sidespool__CopyBegin *begin = record->copy_begin;
        if (only != 0 ? begin->generation == only : begin->generation >= scan->newest.number) {
            scan->newest.number = begin->generation;
            snprintf(scan->newest.route, sizeof scan->newest.route, "%s", begin->route);
            scan->begun = true;
            scan->ended = false;
        }
    } else if (record->body_case == SIDESPOOL__RECORD__BODY_COPY_END) {
        if (record->copy_end->generation == (only != 0 ? only : scan->newest.number))
            scan->ended = true;
    }
}

/* Reads the stream log from `from` (0, or when that is gone: from where it still begins). A log
 * that is not there yet holds nothing. */
static ss_status scan_stream(const char *path, const char *source, uint64_t from, uint64_t only,
                             scan_result *ret, ss_error *reterr) {
    ss_reader *reader = NULL;
    ss_arena *arena = NULL;
    ss_error err = {0};

    ss_status status = ss_reader_open(path, source, SS_LOG_STREAM, from, &reader, &err);
    if (status == SS_STOP && err.code != NULL && strcmp(err.code, SS_SPOOL_GAP) == 0) {
        /* Its beginning was trimmed away: then every consumer is past that CopyBegin, and what is
         * left tells the rest. */
        status = ss_reader_open(path, source, SS_LOG_STREAM, 0, &reader, &err);
    }
    if (status == SS_RETRY && err.code != NULL && strcmp(err.code, SS_SPOOL_ABSENT) == 0)
        return SS_OK;
    if (status != SS_OK) {
        *reterr = err;
        return status;
    }
    ret->exists = true;
    const ss_log_state *state;
    status = ss_reader_state(reader, &state, reterr);
    if (status == SS_OK)
        ret->whole = state->first <= 1;
    arena = ss_arena_new(RECORD_LIMIT);
    if (status == SS_OK && arena == NULL)
        status = ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "out of memory");
    while (status == SS_OK) {
        ss_bytes bytes;
        uint64_t sequence;
        status = ss_reader_next(reader, &bytes, &sequence, reterr);
        if (status != SS_OK || bytes.len == 0 ||
            (bytes.ptr[0] != TAG_COPY_BEGIN && bytes.ptr[0] != TAG_COPY_END))
            continue;
        Sidespool__Record *record;
        status = ss_record_get(bytes, arena, "stream", &record, reterr);
        if (status == SS_OK)
            scan_record(ret, record, only);
        ss_arena_reset(arena);
    }
    if (status == SS_BUSY) /* the end of what is committed */
        status = SS_OK;
    ss_arena_free(arena);
    ss_reader_close(reader);
    return status;
}

ss_status ss_generation_unfinished(const char *path, const char *source,
                                   const ss_generation *generation, bool *ret, ss_error *reterr) {
    scan_result scan = {0};

    uint64_t from = generation->from_sequence + 1;
    ss_status status = scan_stream(path, source, from, generation->number, &scan, reterr);
    if (status == SS_OK)
        *ret = scan.begun && !scan.ended;
    return status;
}

/* Without the file (removed by hand, a spool restored in part) the stream is looked through. Copies
 * whose records were trimmed are not seen there, so the number goes on from the clock, which no
 * counter has reached. (While one is open the number is its own; the one after it cannot have been
 * used.) */
ss_status ss_generation_rebuild(const char *path, const char *source, ss_generation *ret,
                                ss_error *reterr) {
    scan_result scan = {0};

    ss_status status = scan_stream(path, source, 0, 0, &scan, reterr);
    if (status != SS_OK || !scan.exists)
        return status;
    *ret = scan.newest;
    ret->absent = true; /* the file: to be saved */
    ret->open = scan.begun && !scan.ended;
    if (!ret->open && !scan.whole)
        ret->number = (uint64_t)time(NULL);
    if (scan.whole && ret->number == 0) /* a first start */
        return SS_OK;
    SS_LOG(SS_WARN, "generation_rebuilt", SS_U("generation", ret->number),
           SS_S("open", ret->open ? "yes" : "no"));
    return SS_OK;
}

/* ---- the file
 * ------------------------------------------------------------------------------------------------------
 */

ss_status ss_generation_load(const char *path, const char *source, ss_generation *ret,
                             ss_error *reterr) {
    char file[PATH_MAX], line[256], state[8], route[64] = "";
    ss_generation generation = {0};

    snprintf(file, sizeof file, "%s/%s/generation", path, source);
    FILE *in = fopen(file, "re");
    if (in == NULL && errno != ENOENT)
        return path_fail(reterr, errno, "read", file);
    if (in == NULL) {
        generation.absent = true;
        *ret = generation;
        return SS_OK;
    }
    bool got = fgets(line, sizeof line, in) != NULL;
    int err = ferror(in) ? errno : 0;
    fclose(in);
    if (err != 0)
        return path_fail(reterr, err, "read", file);
    if (!got || sscanf(line, "sidespool-generation 1 %" SCNu64 " %7s %" SCNu64 " %63s",
                       &generation.number, state, &generation.from_sequence, route) < 3)
        return ss_fail(
            reterr, SS_STOP, "SS-AGENT-0011",
            "%s is damaged; remove it, and the agent finds the newest copy in the stream again",
            file);
    generation.open = strcmp(state, "open") == 0;
    memcpy(generation.route, route, sizeof generation.route);
    *ret = generation;
    return SS_OK;
}

/* If we die before the new line lasts, the old one stands: its generation is either still open (and is looked for in the
 * stream at the next start) or older than one that no record names yet. */
ss_status ss_generation_save(const char *dir, const ss_generation *generation, ss_error *reterr) {
    char line[256];
    int len = snprintf(line, sizeof line, "sidespool-generation 1 %" PRIu64 " %s %" PRIu64 " %s\n", generation->number,
                       generation->open ? "open" : "closed", generation->from_sequence, generation->route);

    return ss_durable_replace(dir, "generation", ss_bytes_of(line, (size_t)len), "SS-AGENT-0010", reterr);
}
