/* One copy: snapshot -> readers -> bounded queue -> copy log. See docs/architecture.md, "A copy,
 * step by step".
 *
 * The snapshot is opened while the capture thread takes nothing, so that CopyBegin stands at
 * exactly its place. Then both go on side by side: readers fill the queue, the copy thread alone
 * appends. */
#include "agents/copy_internal.h"
#include "agents/copy_queue.h"

#include "sidespool/log.h"
#include "sidespool/record.h"
#include <stdio.h>
#include <stdlib.h>

#define ROWS_BYTES ((size_t)256 << 10)    /* a CopyRows of several rows */
#define ROW_WHOLE_BYTES ((size_t)1 << 20) /* a larger row is written in pieces */

typedef struct copy_run {
    ss_copies *copies;
    const ss_copy_request *request;
    ss_snapshot *snapshot;
    const ss_snapshot_table *tables;
    size_t table_count;
    ss_copy_queue queue;

    pthread_mutex_t mutex;
    size_t next_table, next_chunk; /* the next work to give out */
    size_t *chunks_left;           /* of each table */
    uint64_t *rows, *bytes;        /* of each table */
    size_t running;                /* readers */
    ss_status failed;
    ss_error failure; /* the first one */
} copy_run;

typedef struct {
    copy_run *run;
    pthread_t thread;
    bool started;
    size_t table; /* that it reads now */
} copy_worker;

static const ss_source_ops *ops_of(const copy_run *run) {
    return run->copies->setup.ops;
}

/* ---- readers: each in a thread of its own
 * --------------------------------------------------------------------------- */

static void run_fail(copy_run *run, ss_status status, const ss_error *err) {
    pthread_mutex_lock(&run->mutex);
    if (run->failed == SS_OK) {
        run->failed = status;
        run->failure = *err;
    }
    pthread_mutex_unlock(&run->mutex);
    ss_copy_queue_close(&run->queue);
}

static ss_status push_record(copy_worker *worker, const Sidespool__Record *record, uint64_t rows,
                             uint64_t bytes, bool more, ss_error *reterr) {
    copy_run *run = worker->run;
    ss_copy_block *block = ss_copy_queue_block(&run->queue);

    if (block == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for the rows of a copy");
    ss_record_put(&block->record, record);
    if (block->record.bad) {
        ss_copy_queue_put_spare(&run->queue, block);
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for the rows of a copy");
    }
    block->schema_id = run->tables[worker->table].schema_id;
    block->rows = rows;
    block->bytes = bytes;
    block->table_done = record->body_case == SIDESPOOL__RECORD__BODY_COPY_TABLE;
    return ss_copy_queue_push(&run->queue, worker, block, more, reterr);
}

static ss_status push_rows(copy_worker *worker, ss_bytes cells, uint32_t rows, bool more,
                           ss_error *reterr) {
    Sidespool__CopyRows copy_rows = SIDESPOOL__COPY_ROWS__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;

    copy_rows.generation = worker->run->request->generation;
    copy_rows.schema_id = worker->run->tables[worker->table].schema_id;
    copy_rows.count = rows;
    copy_rows.cells.data = (uint8_t *)(uintptr_t)cells.ptr; /* packed, never written to */
    copy_rows.cells.len = cells.len;
    copy_rows.more = more;
    record.body_case = SIDESPOOL__RECORD__BODY_COPY_ROWS;
    record.copy_rows = &copy_rows;
    return push_record(worker, &record, rows, cells.len, more, reterr);
}

/* A row over 1 MiB, cut at any byte. It is counted in the record where it ends. */
static ss_status push_large_row(copy_worker *worker, ss_bytes row, ss_error *reterr) {
    ss_status status = SS_OK;

    while (status == SS_OK && row.len > 0) {
        size_t len = row.len < ROW_WHOLE_BYTES ? row.len : ROW_WHOLE_BYTES;
        bool more = len < row.len;
        status = push_rows(worker, ss_bytes_of(row.ptr, len), more ? 0 : 1, more, reterr);
        row = ss_bytes_of(row.ptr + len, row.len - len);
    }
    return status;
}

/* The length of the first row of `cells`, 0 when they are damaged. */
static size_t row_len(ss_bytes cells, size_t columns) {
    ss_bytes rest = cells, value;
    bool null, bad = false;

    for (size_t i = 0; i < columns; i++)
        if (!ss_cells_get(&rest, &null, &value, &bad) || bad)
            return 0;
    return cells.len - rest.len;
}

static size_t row_columns(const Sidespool__Schema *schema) {
    size_t count = 0;

    for (size_t i = 0; i < schema->n_columns; i++)
        if (!schema->columns[i]->generated)
            count++;
    return count;
}

/* A source hands over about 256 KiB at a time; only when a row was large this looks at where rows
 * end. */
static ss_status split_rows(copy_worker *worker, ss_bytes cells, uint32_t rows, ss_error *reterr) {
    size_t columns = row_columns(worker->run->tables[worker->table].schema);
    ss_status status = SS_OK;

    while (status == SS_OK && rows > 0) {
        size_t len = 0;
        uint32_t count = 0;
        while (count < rows && len < ROWS_BYTES) {
            size_t row = row_len(ss_bytes_of(cells.ptr + len, cells.len - len), columns);
            if (row == 0)
                return ss_fail(reterr, SS_STOP, "SS-AGENT-0003",
                               "the source handed over damaged rows of a copy");
            if (count > 0 && len + row > ROW_WHOLE_BYTES)
                break;
            len += row;
            count++;
        }
        status = len > ROW_WHOLE_BYTES
                     ? push_large_row(worker, ss_bytes_of(cells.ptr, len), reterr)
                     : push_rows(worker, ss_bytes_of(cells.ptr, len), count, false, reterr);
        cells = ss_bytes_of(cells.ptr + len, cells.len - len);
        rows -= count;
    }
    return status;
}

static ss_status take_rows(void *ctx, ss_bytes cells, uint32_t rows, ss_error *reterr) {
    copy_worker *worker = ctx;
    copy_run *run = worker->run;

    if (rows == 0)
        return ss_copy_queue_still(&run->queue, reterr);
    ss_status status;
    if (cells.len <= ROW_WHOLE_BYTES)
        status = push_rows(worker, cells, rows, false, reterr);
    else if (rows == 1)
        status = push_large_row(worker, cells, reterr);
    else
        status = split_rows(worker, cells, rows, reterr);
    if (status != SS_OK)
        return status;
    pthread_mutex_lock(&run->mutex);
    run->rows[worker->table] += rows;
    run->bytes[worker->table] += cells.len;
    pthread_mutex_unlock(&run->mutex);
    return SS_OK;
}

/* Chunks are given out in order, table by table, so that tables end one after the other. A table
 * without chunks counts as one. */
static bool take_work(copy_run *run, size_t *ret_table, size_t *ret_chunk) {
    bool got = false;

    pthread_mutex_lock(&run->mutex);
    if (run->failed == SS_OK && run->next_table < run->table_count) {
        *ret_table = run->next_table;
        *ret_chunk = run->next_chunk;
        got = true;
        if (++run->next_chunk >= run->tables[run->next_table].chunk_count) {
            run->next_table++;
            run->next_chunk = 0;
        }
    }
    pthread_mutex_unlock(&run->mutex);
    return got;
}

/* Whoever ends the last chunk writes CopyTable: all rows of all readers are in the queue before it.
 */
static ss_status end_chunk(copy_worker *worker, ss_error *reterr) {
    copy_run *run = worker->run;
    const ss_snapshot_table *table = &run->tables[worker->table];
    Sidespool__CopyTable done = SIDESPOOL__COPY_TABLE__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;

    pthread_mutex_lock(&run->mutex);
    bool last = --run->chunks_left[worker->table] == 0;
    done.rows = run->rows[worker->table];
    done.bytes = run->bytes[worker->table];
    pthread_mutex_unlock(&run->mutex);
    if (!last)
        return SS_OK;
    done.generation = run->request->generation;
    done.schema_id = table->schema_id;
    done.ns = table->schema->ns;
    done.name = table->schema->name;
    record.body_case = SIDESPOOL__RECORD__BODY_COPY_TABLE;
    record.copy_table = &done;
    return push_record(worker, &record, 0, 0, false, reterr);
}

static void *worker_main(void *arg) {
    copy_worker *worker = arg;
    copy_run *run = worker->run;
    ss_copy_reader *reader = NULL;
    ss_error err = {0};
    size_t chunk;

    ss_status status = ops_of(run)->copy_reader_open(run->snapshot, &reader, &err);
    while (status == SS_OK && take_work(run, &worker->table, &chunk)) {
        if (run->tables[worker->table].chunk_count > 0)
            status = ops_of(run)->copy_reader_read(reader, worker->table, chunk, take_rows, worker,
                                                   &err);
        if (status == SS_OK)
            status = end_chunk(worker, &err);
    }
    if (reader != NULL)
        ops_of(run)->copy_reader_close(reader);
    if (status != SS_OK)
        run_fail(run, status, &err);
    pthread_mutex_lock(&run->mutex);
    run->running--;
    pthread_mutex_unlock(&run->mutex);
    return NULL;
}

/* ---- copy thread: into the log
 * --------------------------------------------------------------------------------------- */

static ss_status flush(copy_run *run, bool now, ss_error *reterr) {
    ss_copies *copies = run->copies;
    bool committed = false;

    ss_status status = ss_log_flush(copies->log, now, &committed, reterr);
    if (status == SS_OK && (committed || now))
        ss_agent_status_committed(copies->setup.status, NULL, ss_log_get_state(copies->log));
    return status;
}

/* No room (or a disk that refuses for now): routes must load first. The stream's capture goes on
 * meanwhile. */
static ss_status wait_room(copy_run *run, const ss_error *why, ss_error *reterr) {
    /* A full quota is a large copy's way; a disk that refuses is trouble, said once until something is written again. */
    bool quota = why->code != NULL && strcmp(why->code, SS_SPOOL_FULL) == 0;
    const char *shown = run->copies->progress.reason;
    if (!quota && strncmp(shown, why->text, sizeof run->copies->progress.reason - 1) != 0)
        ss_log_error(SS_WARN, "copy_waits", why);
    ss_copies_show(run->copies, why->text);
    if (ss_copies_wait(run->copies, 250))
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping");
    return ss_copies_aborted(run->copies, reterr);
}

static ss_status flush_wait(copy_run *run, bool now, ss_error *reterr) {
    for (;;) {
        ss_error why = {0};
        ss_status status = flush(run, now, &why);
        if (status == SS_OK)
            return SS_OK;
        if (status == SS_STOP) {
            *reterr = why;
            return status;
        }
        status = wait_room(run, &why, reterr);
        if (status != SS_OK)
            return status;
    }
}

static ss_status append(copy_run *run, ss_bytes record, uint64_t schema_id, ss_error *reterr) {
    for (;;) {
        uint64_t sequence;
        ss_error why = {0};
        ss_status status = ss_log_append(run->copies->log, record, schema_id, &sequence, &why);
        if (status == SS_OK) {
            ss_log_mark_whole(run->copies->log,
                              ss_bytes_str("")); /* each record stands for itself */
            if (run->copies->progress.reason[0] != '\0')
                ss_copies_show(run->copies, "");
            return SS_OK;
        }
        if (status == SS_STOP) {
            *reterr = why;
            return status;
        }
        /* What was appended before waits with us: routes must see it to make room. */
        status = flush_wait(run, true, reterr);
        if (status == SS_OK)
            status = wait_room(run, &why, reterr);
        if (status != SS_OK)
            return status;
    }
}

static ss_status take_object(void *ctx, Sidespool__Object *object, ss_error *reterr) {
    copy_run *run = ctx;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    ss_buf packed;

    object->generation = run->request->generation;
    record.body_case = SIDESPOOL__RECORD__BODY_OBJECT;
    record.object = object;
    ss_buf_init(&packed);
    ss_record_put(&packed, &record);
    ss_status status =
        packed.bad ? ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for %s %s.%s",
                             object->kind, object->ns, object->name)
                   : append(run, ss_bytes_of(packed.ptr, packed.len), 0, reterr);
    ss_buf_done(&packed);
    if (status == SS_OK)
        status = ss_copies_aborted(run->copies, reterr);
    return status;
}

static ss_status put_schemas(copy_run *run, ss_error *reterr) {
    ss_status status = SS_OK;
    ss_buf packed;

    ss_buf_init(&packed);
    for (size_t i = 0; i < run->table_count && status == SS_OK; i++) {
        ss_buf_clear(&packed);
        uint64_t id = ss_schema_seal(run->tables[i].schema, &packed);
        status = packed.bad
                     ? ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a schema")
                     : ss_log_put_schema(run->copies->log, id, ss_bytes_of(packed.ptr, packed.len),
                                         reterr);
    }
    ss_buf_done(&packed);
    return status;
}

static bool readers_running(copy_run *run) {
    pthread_mutex_lock(&run->mutex);
    bool running = run->running > 0;
    pthread_mutex_unlock(&run->mutex);
    return running;
}

/* Until every reader has ended and the queue is empty. */
static ss_status drain(copy_run *run, ss_error *reterr) {
    ss_copies *copies = run->copies;
    ss_status status = SS_OK;

    while (status == SS_OK) {
        bool running = readers_running(run); /* before the pop: what ended has pushed all */
        ss_copy_block *block = ss_copy_queue_pop(&run->queue, running ? 20 : 0);
        if (block != NULL) {
            status = append(run, ss_bytes_of(block->record.ptr, block->record.len),
                            block->schema_id, reterr);
            copies->progress.rows += block->rows;
            copies->progress.bytes += block->bytes;
            copies->progress.tables_done += block->table_done;
            ss_copy_queue_put_spare(&run->queue, block);
        } else if (!running) {
            break;
        }
        if (status == SS_OK)
            status = flush_wait(run, block == NULL && ss_log_pending(copies->log) > 0, reterr);
        if (status == SS_OK)
            status = ss_copies_aborted(copies, reterr);
        ss_copies_each_second(copies);
    }
    pthread_mutex_lock(&run->mutex);
    if (status == SS_OK && run->failed != SS_OK) {
        status = run->failed;
        *reterr = run->failure;
    }
    pthread_mutex_unlock(&run->mutex);
    if (status != SS_OK)
        ss_copy_queue_close(&run->queue);
    return status;
}

static ss_status read_tables(copy_run *run, ss_error *reterr) {
    size_t count = run->copies->setup.readers;
    copy_worker *workers = calloc(count, sizeof *workers);
    ss_status status = SS_OK;

    if (workers == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for copy readers");
    run->running = 0;
    for (size_t i = 0; i < count && status == SS_OK; i++) {
        workers[i].run = run;
        pthread_mutex_lock(&run->mutex);
        run->running++;
        pthread_mutex_unlock(&run->mutex);
        int rc = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        workers[i].started = rc == 0;
        if (rc == 0)
            continue;
        pthread_mutex_lock(&run->mutex);
        run->running--;
        pthread_mutex_unlock(&run->mutex);
        status = ss_fail_sys(reterr, SS_RETRY, "SS-AGENT-0001", rc, "cannot start a copy reader");
    }
    if (status == SS_OK)
        status = drain(run, reterr);
    else
        run_fail(run, status, reterr);
    for (size_t i = 0; i < count; i++)
        if (workers[i].started)
            pthread_join(workers[i].thread, NULL);
    free(workers);
    return status;
}

/* ---- the snapshot and its place in the stream
 * ------------------------------------------------------------------------ */

static ss_status pack_begin(copy_run *run, const char *position, ss_buf *out, ss_error *reterr) {
    ss_copies *copies = run->copies;
    Sidespool__CopyBegin begin = SIDESPOOL__COPY_BEGIN__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    size_t count = run->table_count;
    Sidespool__Table *tables = calloc(count + 1, sizeof *tables);
    Sidespool__Table **list = calloc(count + 1, sizeof *list);
    ss_status status = SS_OK;

    if (tables == NULL || list == NULL) {
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for CopyBegin");
        goto out;
    }
    begin.generation = run->request->generation;
    begin.route = (char *)(uintptr_t)run->request->route;
    begin.position = (char *)(uintptr_t)position;
    begin.copy_sequence =
        ss_log_get_state(copies->log)->committed + 1; /* nothing is pending in the copy log */
    for (size_t i = 0; i < count; i++) {
        const ss_snapshot_table *table = &run->tables[i];
        sidespool__table__init(&tables[i]);
        tables[i].ns = table->schema->ns;
        tables[i].name = table->schema->name;
        tables[i].rows_estimate = table->rows_estimate;
        tables[i].bytes_estimate = table->bytes_estimate;
        begin.rows_estimate += table->rows_estimate;
        begin.bytes_estimate += table->bytes_estimate;
        list[i] = &tables[i];
    }
    begin.n_tables = count;
    begin.tables = list;
    record.body_case = SIDESPOOL__RECORD__BODY_COPY_BEGIN;
    record.copy_begin = &begin;
    ss_record_put(out, &record);
    if (out->bad)
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for CopyBegin");
    copies->progress.tables = count;
    copies->progress.rows_estimate = begin.rows_estimate;
    copies->progress.bytes_estimate = begin.bytes_estimate;
out:
    free(tables);
    free(list);
    return status;
}

/* Under hold: the capture thread takes nothing from before the snapshot is opened until CopyBegin
 * is in its list. Without that a transaction that the snapshot does not see could have been
 * captured before CopyBegin, and would be lost for the route. */
static ss_status open_snapshot(copy_run *run, int most_ms, char ret_position[SS_POSITION_MAX],
                               ss_error *reterr) {
    ss_copies *copies = run->copies;
    const ss_copy_request *request = run->request;
    ss_buf packed;

    ss_buf_init(&packed);
    ss_status status = ss_pipeline_hold(copies->setup.pipeline, reterr);
    if (status != SS_OK)
        return status;
    copies->history = ss_pipeline_history(copies->setup.pipeline);
    status = ops_of(run)->snapshot_open(copies->setup.env, (const char *const *)request->tables,
                                        request->count, copies->setup.readers, most_ms,
                                        &run->snapshot, reterr);
    if (status != SS_OK)
        goto out;
    run->table_count = ops_of(run)->snapshot_tables(run->snapshot, &run->tables);
    const char *position = ops_of(run)->snapshot_position(run->snapshot);
    status = pack_begin(run, position, &packed, reterr);
    if (status == SS_OK && ops_of(run)->selected != NULL)
        status = ss_selected_copied(ss_pipeline_selected(copies->setup.pipeline), run->tables,
                                    run->table_count, reterr);
    if (status == SS_OK)
        status = ss_pipeline_add_marker(copies->setup.pipeline, position, copies->history,
                                        ss_bytes_of(packed.ptr, packed.len), 0, reterr);
    if (status == SS_OK)
        snprintf(ret_position, SS_POSITION_MAX, "%s", position);
out:
    ss_pipeline_unhold(copies->setup.pipeline);
    ss_buf_done(&packed);
    return status;
}

static bool say_awaited(void *ctx, const char *awaited) {
    copy_run *run = ctx;

    ss_copies_show(run->copies, awaited);
    ss_copies_each_second(run->copies);
    return ss_copies_aborted(run->copies, NULL) == SS_OK;
}

/* Before the snapshot: a table that broke is told of before the copy that mends it begins. */
static ss_status look_at_tables(copy_run *run, ss_error *reterr) {
    for (;;) {
        ss_error why = {0};
        ss_status status = ss_pipeline_look(run->copies->setup.pipeline, 500, &why);
        if (status != SS_BUSY) {
            if (status != SS_OK)
                *reterr = why;
            return status;
        }
        ss_copies_show(run->copies, why.text);
        ss_copies_each_second(run->copies);
        status = ss_copies_aborted(run->copies, reterr);
        if (status != SS_OK)
            return status;
    }
}

/* Long transactions of the source are waited for while capture goes on; under hold only for a
 * moment. */
static ss_status try_snapshot(copy_run *run, int most_ms, char ret_position[SS_POSITION_MAX],
                              ss_error *reterr) {
    ss_copies_show(run->copies, "taking a snapshot of the source");
    ss_status status = look_at_tables(run, reterr);
    if (status == SS_OK && ops_of(run)->snapshot_await != NULL)
        status = ops_of(run)->snapshot_await(run->copies->setup.env, say_awaited, run, reterr);
    if (status == SS_OK)
        status = open_snapshot(run, most_ms, ret_position, reterr);
    if (status != SS_OK && run->snapshot != NULL) {
        ops_of(run)->snapshot_close(run->snapshot);
        run->snapshot = NULL;
    }
    return status;
}

/* What may pass by itself is tried again before the route hears of it. */
static ss_status open_snapshot_wait(copy_run *run, char ret_position[SS_POSITION_MAX],
                                    ss_error *reterr) {
    ss_copies *copies = run->copies;
    int most_ms = SS_HOLD_FIRST_MS;

    for (;;) {
        ss_status status = try_snapshot(run, most_ms, ret_position, reterr);
        if (status == SS_OK || status == SS_STOP)
            return status;
        ss_error why = *reterr;
        status = status == SS_BUSY ? SS_BUSY : SS_RETRY;
        if (ss_copies_aborted(copies, reterr) != SS_OK)
            return SS_RETRY;
        ss_log_error(status == SS_BUSY ? SS_INFO : SS_WARN, "copy_waits", &why);
        ss_copies_show(copies, why.text);
        most_ms = status == SS_BUSY ? ss_hold_longer(most_ms) : most_ms;
        if (ss_copies_wait(copies,
                           status == SS_BUSY ? 100 : (int64_t)ss_backoff_next(&copies->backoff)))
            return ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping");
        status = ss_copies_aborted(copies, reterr);
        if (status != SS_OK)
            return status;
    }
}

static ss_status alloc_counters(copy_run *run, ss_error *reterr) {
    size_t count = run->table_count + 1;

    run->chunks_left = calloc(count, sizeof *run->chunks_left);
    run->rows = calloc(count, sizeof *run->rows);
    run->bytes = calloc(count, sizeof *run->bytes);
    if (run->chunks_left == NULL || run->rows == NULL || run->bytes == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a copy of %zu tables",
                       run->table_count);
    for (size_t i = 0; i < run->table_count; i++)
        run->chunks_left[i] = run->tables[i].chunk_count > 0 ? run->tables[i].chunk_count : 1;
    return SS_OK;
}

ss_status ss_copy_run_all(ss_copies *copies, const ss_copy_request *request,
                          char ret_position[SS_POSITION_MAX], ss_error *reterr) {
    copy_run run = {.copies = copies, .request = request};

    ss_status status = ss_copy_queue_init(&run.queue, reterr);
    if (status != SS_OK)
        return status;
    int rc = pthread_mutex_init(&run.mutex, NULL);
    if (rc != 0) {
        ss_copy_queue_done(&run.queue);
        return ss_fail_sys(reterr, SS_RETRY, "SS-AGENT-0001", rc, "cannot make a mutex");
    }
    status = flush_wait(&run, true, reterr); /* an aborted copy may have left rows in memory */
    if (status == SS_OK) {
        ss_log_forget_schemas(copies->log); /* of copies before this one */
        status = open_snapshot_wait(&run, ret_position, reterr);
    }
    if (status == SS_OK)
        status = alloc_counters(&run, reterr);
    if (status == SS_OK)
        status = put_schemas(&run, reterr);
    if (status == SS_OK) {
        ss_copies_show(copies, "");
        status = ops_of(&run)->snapshot_objects(run.snapshot, take_object, &run, reterr);
    }
    if (status == SS_OK)
        status = read_tables(&run, reterr);
    if (run.snapshot != NULL)
        ops_of(&run)->snapshot_close(run.snapshot);
    /* All rows are durable before the CopyEnd that says so is even queued. */
    if (status == SS_OK)
        status = flush_wait(&run, true, reterr);
    free(run.chunks_left);
    free(run.rows);
    free(run.bytes);
    pthread_mutex_destroy(&run.mutex);
    ss_copy_queue_done(&run.queue);
    return status;
}
