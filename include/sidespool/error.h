/* What a function says when it cannot do its work.
 *
 * The status tells the caller what to do next, the struct tells a person why. Libraries fill the struct and return;
 * only the pipeline, the route and the main programs log it, once.
 *
 * Codes ("SS-SPOOL-0007") are stable: scripts and docs/errors.md name them. Every code stands once in common/errors.def
 * with its meaning and its cure; `sidespool explain CODE` prints that. */
#ifndef SIDESPOOL_ERROR_H
#define SIDESPOOL_ERROR_H

#include <stddef.h>

typedef enum {
    SS_OK = 0,
    SS_BUSY,  /* nothing to do or no room now; ask again, nothing is wrong */
    SS_RETRY, /* may succeed after reconnecting or waiting; the text says what is awaited */
    SS_STOP,  /* a person is needed; trying again cannot help */
} ss_status;

#define SS_ERROR_TEXT 768

typedef struct {
    const char *code;  /* static, from common/errors.def; NULL: none */
    const char *where; /* static: function or step */
    int sys_errno;     /* 0: not a system error */
    char text[SS_ERROR_TEXT]; /* one sentence: the thing, the place, the remedy; never a row value or a credential */
} ss_error;

#define SS_MUST __attribute__((warn_unused_result))
#define SS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Fills *reterr (which may be NULL) and returns `status`, so that a caller can `return ss_fail(...)`. */
ss_status ss_fail_at(ss_error *reterr, ss_status status, const char *code, const char *where, int sys_errno,
                     const char *fmt, ...) SS_PRINTF(6, 7);
/* The macros yield `status` itself, so that the compiler sees that a failed call left its `ret_` arguments untouched. */
static inline ss_status ss_said(ss_status noted, ss_status status) {
    (void)noted;
    return status;
}
#define ss_fail(reterr, status, code, ...) \
    ss_said(ss_fail_at((reterr), (status), (code), __func__, 0, __VA_ARGS__), (status))
#define ss_fail_sys(reterr, status, code, err, ...) \
    ss_said(ss_fail_at((reterr), (status), (code), __func__, (err), __VA_ARGS__), (status))

/* Puts "prefix: " before an error's text, keeping its code. */
void ss_error_prefix(ss_error *err, const char *fmt, ...) SS_PRINTF(2, 3);

/* One entry of the catalogue; NULL when the code is unknown. Static storage. */
typedef struct {
    const char *code;
    const char *meaning;
    const char *cure;
} ss_error_entry;
const ss_error_entry *ss_error_find(const char *code);
const ss_error_entry *ss_error_table(size_t *ret_count);

/* Exit codes, a contract with people's scripts. */
enum { SS_EXIT_DONE = 0, SS_EXIT_NOT_SO = 1, SS_EXIT_USAGE = 2, SS_EXIT_ABSENT = 69, SS_EXIT_IO = 74, SS_EXIT_AGAIN = 75,
       SS_EXIT_REFUSED = 77, SS_EXIT_CONFIG = 78 };
/* Of a program that could not start. 78 only where a person has to mend something: a service manager does not start it again
 * then. No memory, no descriptors, a disk that does not answer: 74, and the next start may find them. */
static inline int ss_exit_of_start(ss_status status) {
    return status == SS_BUSY ? SS_EXIT_AGAIN : status == SS_RETRY ? SS_EXIT_IO : SS_EXIT_CONFIG;
}

#endif
