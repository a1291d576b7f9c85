/* What the files of `sidespool spool …` share. */
#ifndef SPOOL_COMMAND_H
#define SPOOL_COMMAND_H

#include "spool/spool_internal.h"

typedef struct {
    char *path; /* spool.path */
    char **sources;
    size_t source_count;
    const char *command;
    bool json, yes;
    ss_log_kind log;
    uint64_t from, to, retain_ms;
    const char *consumer;
    const char *config; /* the file that was read; NULL: --spool was given */
} ss_spool_args;

int ss_spool_ls(const ss_spool_args *args);
int ss_spool_dump(const ss_spool_args *args);
int ss_spool_verify(const ss_spool_args *args);
/* "SS-…: text" on stderr; the exit code that fits. */
int ss_spool_say(const char *source, ss_status status, const ss_error *err);
/* Reads the arguments into `ret` (with its defaults set). -1: go on; else the exit code, all said. */
int ss_spool_parse(int argc, char **argv, ss_spool_args *ret);
/* Does the file still have a route of that name? (Its name is its source's when it has none.) A file that cannot be read, or
 * NULL, says no: this only words a question. */
bool ss_spool_route_configured(const char *file, const char *source, const char *consumer);
/* "1.2 MiB" in a buffer of the caller. */
const char *ss_spool_bytes_text(uint64_t bytes, char buf[32]);
/* Runs fn in a child that opens everything itself, so that a damaged page kills the child alone. Returns its exit code; a
 * death by signal is SS_EXIT_NOT_SO with *ret_signal set. What it writes to its fd (at most `most` bytes) is put into out. */
int ss_spool_in_child(void (*fn)(void *ctx, int fd), void *ctx, ss_buf *out, size_t most, int *ret_signal);

#endif
