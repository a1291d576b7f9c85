/* `<source>/generation`: the number of the newest copy, and whether it is still open. One line,
 * replaced by rename. */
#ifndef AGENTS_GENERATION_H
#define AGENTS_GENERATION_H

#include "sidespool/error.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t number; /* 0: none yet */
    bool open;       /* its CopyEnd is not known to be durable */
    uint64_t
        from_sequence; /* the stream's committed when it was begun: its CopyBegin stands behind */
    char route[64];
    bool absent; /* there was no file: to be saved, so that the next start need not look through the
                    stream */
} ss_generation;

/* Reads the file of `source` under `path`; without one, says `absent`. */
SS_MUST ss_status ss_generation_load(const char *path, const char *source, ss_generation *ret,
                                     ss_error *reterr);
/* Without the file: looks through the stream log, which is open for writing in this process. */
SS_MUST ss_status ss_generation_rebuild(const char *path, const char *source, ss_generation *ret,
                                        ss_error *reterr);
/* Durable when it returns: file fsynced, renamed, directory fsynced. dir: the source's directory.
 */
SS_MUST ss_status ss_generation_save(const char *dir, const ss_generation *generation,
                                     ss_error *reterr);
/* Whether an open generation's CopyBegin stands in the stream without its CopyEnd. Reads the stream
 * from from_sequence. While the log is open for writing in this process, or no writer was killed. */
SS_MUST ss_status ss_generation_unfinished(const char *path, const char *source,
                                           const ss_generation *generation, bool *ret,
                                           ss_error *reterr);

#endif
