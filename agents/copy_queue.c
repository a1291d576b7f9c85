/* copy: readers -> copy thread. A block holds one encoded record of about 256 KiB; its memory goes
 * round. */
#include "agents/copy_queue.h"

#include <stdlib.h>

#define SPARES_MAX 16
#define SPARE_BYTES_MAX ((size_t)2 << 20)

static void block_free(ss_copy_block *block) {
    ss_buf_done(&block->record);
    free(block);
}

static void list_free(ss_copy_block *block) {
    while (block != NULL) {
        ss_copy_block *next = block->next;
        block_free(block);
        block = next;
    }
}

ss_status ss_copy_queue_init(ss_copy_queue *queue, ss_error *reterr) {
    *queue = (ss_copy_queue){0};
    queue->last = &queue->first;
    return ss_waiter_init(&queue->mutex, &queue->cond, reterr);
}

void ss_copy_queue_done(ss_copy_queue *queue) {
    list_free(queue->first);
    list_free(queue->spare);
    pthread_cond_destroy(&queue->cond);
    pthread_mutex_destroy(&queue->mutex);
}

ss_copy_block *ss_copy_queue_block(ss_copy_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    ss_copy_block *block = queue->spare;
    if (block != NULL) {
        queue->spare = block->next;
        queue->spares--;
    }
    pthread_mutex_unlock(&queue->mutex);
    if (block == NULL) {
        block = calloc(1, sizeof *block);
        if (block == NULL)
            return NULL;
        ss_buf_init(&block->record);
    }
    block->next = NULL;
    block->schema_id = block->rows = block->bytes = 0;
    block->table_done = false;
    ss_buf_clear(&block->record);
    return block;
}

void ss_copy_queue_put_spare(ss_copy_queue *queue, ss_copy_block *block) {
    if (block == NULL)
        return;
    pthread_mutex_lock(&queue->mutex);
    bool keep =
        queue->spares < SPARES_MAX && block->record.cap <= SPARE_BYTES_MAX && !block->record.bad;
    if (keep) {
        block->next = queue->spare;
        queue->spare = block;
        queue->spares++;
    }
    pthread_mutex_unlock(&queue->mutex);
    if (!keep)
        block_free(block);
}

/* A block that is larger than the whole bound still passes, alone. */
static bool may_push(const ss_copy_queue *queue, const void *who, size_t len) {
    if (queue->owner != NULL && queue->owner != who)
        return false;
    return queue->first == NULL || queue->bytes + len <= SS_COPY_QUEUE_BYTES;
}

ss_status ss_copy_queue_push(ss_copy_queue *queue, const void *who, ss_copy_block *block, bool more,
                             ss_error *reterr) {
    pthread_mutex_lock(&queue->mutex);
    while (!queue->closed && !may_push(queue, who, block->record.len))
        ss_waiter_wait(&queue->cond, &queue->mutex, 1000);
    bool closed = queue->closed;
    if (!closed) {
        queue->owner = more ? who : NULL;
        block->next = NULL;
        *queue->last = block;
        queue->last = &block->next;
        queue->bytes += block->record.len;
        pthread_cond_broadcast(&queue->cond);
    }
    pthread_mutex_unlock(&queue->mutex);
    if (!closed)
        return SS_OK;
    block_free(block);
    return ss_fail(reterr, SS_RETRY, "SS-AGENT-0012", "the copy is being ended");
}

ss_copy_block *ss_copy_queue_pop(ss_copy_queue *queue, int wait_ms) {
    pthread_mutex_lock(&queue->mutex);
    if (queue->first == NULL && wait_ms > 0)
        ss_waiter_wait(&queue->cond, &queue->mutex, wait_ms);
    ss_copy_block *block = queue->first;
    if (block != NULL) {
        queue->first = block->next;
        if (queue->first == NULL)
            queue->last = &queue->first;
        queue->bytes -= block->record.len;
        pthread_cond_broadcast(&queue->cond);
    }
    pthread_mutex_unlock(&queue->mutex);
    return block;
}

void ss_copy_queue_close(ss_copy_queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    queue->closed = true;
    pthread_cond_broadcast(&queue->cond);
    pthread_mutex_unlock(&queue->mutex);
}

ss_status ss_copy_queue_still(ss_copy_queue *queue, ss_error *reterr) {
    pthread_mutex_lock(&queue->mutex);
    bool closed = queue->closed;
    pthread_mutex_unlock(&queue->mutex);
    return closed ? ss_fail(reterr, SS_RETRY, "SS-AGENT-0012", "the copy is being ended") : SS_OK;
}
