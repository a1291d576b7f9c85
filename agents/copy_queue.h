/* The bounded way from copy readers to the copy thread: encoded records, in order, at most so many
 * bytes. */
#ifndef AGENTS_COPY_QUEUE_H
#define AGENTS_COPY_QUEUE_H

#include "agents/state.h"
#include "sidespool/bytes.h"

#define SS_COPY_QUEUE_BYTES ((size_t)8 << 20)

typedef struct ss_copy_block {
    struct ss_copy_block *next;
    ss_buf record; /* one encoded Record */
    uint64_t schema_id;
    uint64_t rows, bytes; /* for progress */
    bool table_done;      /* a CopyTable */
} ss_copy_block;

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    ss_copy_block *first, **last;
    ss_copy_block *spare; /* used blocks, with their memory */
    size_t bytes, spares;
    const void *owner; /* a row of several pieces is being pushed: nobody else may, so that its
                          pieces stay together */
    bool closed;       /* failed or being stopped: pushes are refused, what waits is thrown away */
} ss_copy_queue;

SS_MUST ss_status ss_copy_queue_init(ss_copy_queue *queue, ss_error *reterr);
void ss_copy_queue_done(ss_copy_queue *queue);
/* An empty block; NULL: out of memory. Either pushed or given back with put_spare. */
ss_copy_block *ss_copy_queue_block(ss_copy_queue *queue);
void ss_copy_queue_put_spare(ss_copy_queue *queue, ss_copy_block *block);
/* Takes the block. Blocks while there is no room or another `who` pushes pieces. `more`: its next
 * push belongs to this one. SS_RETRY: the queue was closed. */
SS_MUST ss_status ss_copy_queue_push(ss_copy_queue *queue, const void *who,
                                     ss_copy_block *block_take, bool more, ss_error *reterr);
/* The next block, after at most wait_ms; NULL: none came. */
ss_copy_block *ss_copy_queue_pop(ss_copy_queue *queue, int wait_ms);
void ss_copy_queue_close(ss_copy_queue *queue);
/* SS_OK: not closed yet; else what push says then. */
SS_MUST ss_status ss_copy_queue_still(ss_copy_queue *queue, ss_error *reterr);

#endif
