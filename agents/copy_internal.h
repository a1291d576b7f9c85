/* What copy.c (the queue of requests, the thread) and copy_run.c (one copy) share. */
#ifndef AGENTS_COPY_INTERNAL_H
#define AGENTS_COPY_INTERNAL_H

#include "agents/copy.h"
#include "agents/generation.h"
#include "sidespool/backoff.h"

#define SS_COPY_REQUESTS_MAX 64
#define SS_COPY_TABLES_MAX 100000

typedef struct ss_copy_request {
    struct ss_copy_request *next;
    uint64_t generation;
    char route[64];
    char **tables; /* NULL: everything selected */
    size_t count;
} ss_copy_request;

struct ss_copies {
    ss_copies_setup setup;
    pthread_t thread;
    bool started;

    /* Under the mutex. */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool stop, ended;
    ss_copy_request *first; /* oldest first; the head stays in the list while it runs */
    size_t count;
    bool running;
    bool ready; /* what the last life left is known: numbers may be given out */
    bool abort;
    char abort_reason[SS_ERROR_TEXT];
    uint64_t newest; /* generation number given out last */

    /* The copy thread's own. */
    ss_generation generation; /* as the file says */
    ss_log *log;
    uint64_t history; /* of the source, that the snapshot's position belongs to */
    ss_copy_progress progress;
    ss_backoff backoff;
    int64_t second_ms;
};

/* Waits `ms` or until the agent stops; true: it stops. Trims the copy log meanwhile. */
bool ss_copies_wait(ss_copies *copies, int64_t ms);
bool ss_copies_stopping(ss_copies *copies);
/* The copy that runs is to end: SS_RETRY with the reason. */
SS_MUST ss_status ss_copies_aborted(ss_copies *copies, ss_error *reterr);
void ss_copies_each_second(ss_copies *copies);
void ss_copies_show(ss_copies *copies, const char *reason);
/* Runs one request to its end; *reterr says what failed. *ret_position: the snapshot's, "" when
 * none was taken. */
SS_MUST ss_status ss_copy_run_all(ss_copies *copies, const ss_copy_request *request,
                                  char ret_position[SS_POSITION_MAX], ss_error *reterr);

#endif
