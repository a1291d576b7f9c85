/* Requests that ask the source something: each in a short-lived thread, with a connection of its
 * own, so that a slow source never holds the main loop up. */
#include "agents/requests_internal.h"

#include "sidespool/record.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DIGEST_ROWS_MOST 10000
#define DIGEST_ROWS_BYTES ((size_t)16 << 20)

struct ss_verify {
    ss_snapshot *snapshot;
    ss_copy_reader *reader;
    const ss_snapshot_table *tables;
    size_t count;
};

void ss_verify_free(const ss_source_ops *ops, ss_verify *verify) {
    if (verify == NULL)
        return;
    if (verify->reader != NULL)
        ops->copy_reader_close(verify->reader);
    if (verify->snapshot != NULL)
        ops->snapshot_close(verify->snapshot);
    free(verify);
}

void ss_work_free(ss_work *work) {
    if (work == NULL)
        return;
    json_decref(work->request);
    json_decref(work->answer);
    free(work);
}

static ss_status bad_request(ss_work *work, const char *what) {
    return ss_fail(&work->err, SS_STOP, "SS-AGENT-0031", "the request is not right: %s", what);
}

static ss_status no_memory(ss_work *work) {
    return ss_fail(&work->err, SS_RETRY, "SS-AGENT-0002", "out of memory for a request");
}

/* ---- mark, status
 * ----------------------------------------------------------------------------------------------------
 */

static ss_status put_mark(ss_work *work, const char *id, const char *kind, const char *position,
                          uint64_t history) {
    Sidespool__Mark mark = SIDESPOOL__MARK__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    ss_buf packed;

    mark.id = (char *)(uintptr_t)id; /* packed, never written to */
    mark.kind = (char *)(uintptr_t)kind;
    mark.position = (char *)(uintptr_t)position;
    record.body_case = SIDESPOOL__RECORD__BODY_MARK;
    record.mark = &mark;
    ss_buf_init(&packed);
    ss_record_put(&packed, &record);
    ss_status status =
        packed.bad ? no_memory(work)
                   : ss_pipeline_add_marker(work->setup->pipeline, position, history,
                                            ss_bytes_of(packed.ptr, packed.len), 0, &work->err);
    ss_buf_done(&packed);
    return status;
}

static const char *string_of(const json_t *request, const char *key, size_t most) {
    const char *value = json_string_value(json_object_get(request, key));
    return value != NULL && value[0] != '\0' && strlen(value) <= most ? value : NULL;
}

/* What the source has committed at this moment lies at or before its position now; a mark there
 * stands behind all of it. */
static ss_status do_mark(ss_work *work) {
    char position[SS_POSITION_MAX] = "";
    const char *id = string_of(work->request, "id", 200);
    const char *kind = string_of(work->request, "kind", 32);

    if (id == NULL)
        return bad_request(work, "mark needs \"id\", a string of 1 to 200 bytes");
    uint64_t history = ss_pipeline_history(work->setup->pipeline);
    ss_status status = ss_pipeline_wait_prepared(work->setup->pipeline, 0, &work->err);
    if (status != SS_OK)
        return status;
    status =
        work->setup->ops->now_position(work->setup->env, position, sizeof position, &work->err);
    if (status == SS_OK)
        status = put_mark(work, id, kind != NULL ? kind : "wait", position, history);
    if (status != SS_OK)
        return status;
    work->answer = json_pack("{s:s}", "position", position);
    return work->answer != NULL ? SS_OK : no_memory(work);
}

static ss_status do_status(ss_work *work) {
    work->answer = json_object();
    if (work->answer == NULL)
        return no_memory(work);
    return work->setup->ops->status(work->setup->env, work->answer, &work->err);
}

/* ---- verify
 * ----------------------------------------------------------------------------------------------------------
 */

static ss_status table_names(ss_work *work, const char ***ret, size_t *ret_count) {
    const json_t *tables = json_object_get(work->request, "tables");
    size_t count = json_array_size(tables);

    if (tables != NULL && !json_is_array(tables))
        return bad_request(work, "\"tables\" is an array of \"schema.table\"");
    *ret = NULL;
    *ret_count = 0;
    if (count == 0)
        return SS_OK;
    const char **names = calloc(count, sizeof *names);
    if (names == NULL)
        return no_memory(work);
    for (size_t i = 0; i < count; i++) {
        names[i] = json_string_value(json_array_get(tables, i));
        if (names[i] == NULL || strcmp(names[i], "*") == 0) {
            bool all = names[i] != NULL;
            free(names);
            return all ? SS_OK : bad_request(work, "\"tables\" is an array of strings");
        }
    }
    *ret = names;
    *ret_count = count;
    return SS_OK;
}

/* The packed Schema as hex digits; lives until the next one. */
static const char *schema_hex(Sidespool__Schema *schema, ss_buf *out) {
    static const char digits[] = "0123456789abcdef";
    ss_buf packed;

    ss_buf_init(&packed);
    ss_schema_seal(schema, &packed);
    ss_buf_clear(out);
    for (size_t i = 0; i < packed.len; i++) {
        ss_buf_put_byte(out, (uint8_t)digits[packed.ptr[i] >> 4]);
        ss_buf_put_byte(out, (uint8_t)digits[packed.ptr[i] & 15]);
    }
    bool bad = packed.bad || out->bad;
    ss_buf_done(&packed);
    return bad ? NULL : ss_buf_cstr(out); /* NULL makes the object fail, and with it the answer */
}

static ss_status answer_verify(ss_work *work, const ss_verify *verify, const char *position) {
    json_t *list = json_array();
    ss_buf hex;

    ss_buf_init(&hex);
    for (size_t i = 0; i < verify->count; i++) {
        char id[24];
        snprintf(id, sizeof id, "%016" PRIx64, verify->tables[i].schema_id);
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:s}", "ns", verify->tables[i].schema->ns,
                                        "name", verify->tables[i].schema->name, "schema_id", id,
                                        "schema", schema_hex(verify->tables[i].schema, &hex)));
    }
    ss_buf_done(&hex);
    if (json_array_size(list) != verify->count) {
        json_decref(list);
        return no_memory(work);
    }
    work->answer = json_pack("{s:s, s:o}", "position", position, "tables", list);
    return work->answer != NULL ? SS_OK : no_memory(work);
}

/* The snapshot is opened under hold, as for a copy: the mark then stands at exactly its place. Long
 * transactions of the source are waited for before, while capture goes on. */
static ss_status take_snapshot(ss_work *work, ss_verify *verify, const char *id,
                               const char *const *names, size_t count, int most_ms) {
    const ss_source_ops *ops = work->setup->ops;

    ss_status status = ss_pipeline_hold(work->setup->pipeline, &work->err);
    if (status != SS_OK)
        return status;
    uint64_t history = ss_pipeline_history(work->setup->pipeline);
    status = ops->snapshot_open(work->setup->env, names, count, 1, most_ms, &verify->snapshot,
                                &work->err);
    if (status == SS_OK)
        status = put_mark(work, id, "verify", ops->snapshot_position(verify->snapshot), history);
    ss_pipeline_unhold(work->setup->pipeline);
    return status;
}

static bool still_wanted(void *ctx, const char *awaited) {
    ss_work *work = ctx;
    (void)awaited;
    return !atomic_load(&work->abandoned);
}

static ss_status open_verify(ss_work *work, ss_verify *verify, const char *id,
                             const char *const *names, size_t count) {
    const ss_source_ops *ops = work->setup->ops;
    int most_ms = SS_HOLD_FIRST_MS;
    ss_status status;

    do {
        status = ops->snapshot_await == NULL
                     ? SS_OK
                     : ops->snapshot_await(work->setup->env, still_wanted, work, &work->err);
        if (status != SS_OK)
            return status;
        status = take_snapshot(work, verify, id, names, count, most_ms);
        most_ms = ss_hold_longer(most_ms);
    } while (status == SS_BUSY && verify->snapshot == NULL);
    if (status != SS_OK)
        return status;
    const char *position = ops->snapshot_position(verify->snapshot);
    verify->count = ops->snapshot_tables(verify->snapshot, &verify->tables);
    status = ops->copy_reader_open(verify->snapshot, &verify->reader, &work->err);
    return status == SS_OK ? answer_verify(work, verify, position) : status;
}

static ss_status do_verify_open(ss_work *work) {
    const char *id = string_of(work->request, "id", 200);
    const char **names = NULL;
    size_t count = 0;

    if (id == NULL)
        return bad_request(work, "verify_open needs \"id\", a string of 1 to 200 bytes");
    ss_status status = table_names(work, &names, &count);
    if (status != SS_OK)
        return status;
    ss_verify *verify = calloc(1, sizeof *verify);
    status = verify == NULL ? no_memory(work)
                            : ss_pipeline_wait_prepared(work->setup->pipeline, 0, &work->err);
    if (status == SS_OK)
        status = open_verify(work, verify, id, names, count);
    free(names);
    if (status == SS_OK)
        work->verify = verify;
    else
        ss_verify_free(work->setup->ops, verify);
    return status;
}

static ss_status find_table(ss_work *work, size_t *ret) {
    const char *name = json_string_value(json_object_get(work->request, "table"));

    for (size_t i = 0; name != NULL && i < work->verify->count; i++) {
        const Sidespool__Schema *schema = work->verify->tables[i].schema;
        size_t len = strlen(schema->ns);
        if (strncmp(name, schema->ns, len) == 0 && name[len] == '.' &&
            strcmp(name + len + 1, schema->name) == 0) {
            *ret = i;
            return SS_OK;
        }
    }
    return bad_request(work, "\"table\" is not one of the tables of verify_open");
}

static ss_status do_digest(ss_work *work) {
    size_t table;

    ss_status status = find_table(work, &table);
    if (status != SS_OK)
        return status;
    ss_digest_bucket *buckets = calloc(SS_DIGEST_BUCKETS, sizeof *buckets);
    json_t *list = json_array();
    if (buckets == NULL || list == NULL) {
        status = no_memory(work);
        goto out;
    }
    status = work->setup->ops->copy_reader_digest(work->verify->reader, table, buckets, &work->err);
    for (size_t i = 0; status == SS_OK && i < SS_DIGEST_BUCKETS; i++) {
        char lo[24], hi[24];
        if (buckets[i].rows == 0)
            continue;
        snprintf(lo, sizeof lo, "%016" PRIx64, buckets[i].sum_lo);
        snprintf(hi, sizeof hi, "%016" PRIx64, buckets[i].sum_hi);
        if (json_array_append_new(list, json_pack("[I, I, s, s]", (json_int_t)i,
                                                  (json_int_t)buckets[i].rows, lo, hi)) != 0)
            status = no_memory(work);
    }
    if (status == SS_OK) {
        work->answer = json_pack("{s:O}", "buckets", list);
        if (work->answer == NULL)
            status = no_memory(work);
    }
out:
    json_decref(list);
    free(buckets);
    return status;
}

static ss_status wanted_buckets(ss_work *work, uint8_t wanted[SS_DIGEST_BUCKETS]) {
    const json_t *buckets = json_object_get(work->request, "buckets");

    if (!json_is_array(buckets))
        return bad_request(work, "digest_rows needs \"buckets\", an array of numbers");
    for (size_t i = 0; i < json_array_size(buckets); i++) {
        const json_t *bucket = json_array_get(buckets, i);
        json_int_t number = json_integer_value(bucket);
        if (!json_is_integer(bucket) || number < 0 || number >= SS_DIGEST_BUCKETS)
            return bad_request(work, "a bucket is a number below 4096");
        wanted[number] = 1;
    }
    return SS_OK;
}

static ss_status do_digest_rows(ss_work *work) {
    uint8_t wanted[SS_DIGEST_BUCKETS] = {0};
    json_int_t most = json_integer_value(json_object_get(work->request, "most"));
    ss_digest_row *rows = NULL;
    size_t table, count = 0;

    ss_status status = find_table(work, &table);
    if (status == SS_OK)
        status = wanted_buckets(work, wanted);
    if (status != SS_OK)
        return status;
    if (most < 1 || most > DIGEST_ROWS_MOST)
        most = DIGEST_ROWS_MOST;
    ss_arena *arena = ss_arena_new(DIGEST_ROWS_BYTES);
    json_t *list = json_array();
    if (arena == NULL || list == NULL) {
        status = no_memory(work);
        goto out;
    }
    status = work->setup->ops->copy_reader_digest_rows(
        work->verify->reader, table, wanted, (size_t)most, arena, &rows, &count, &work->err);
    for (size_t i = 0; status == SS_OK && i < count; i++) {
        char hash[24], lo[24], hi[24];
        snprintf(hash, sizeof hash, "%016" PRIx64, rows[i].key_hash);
        snprintf(lo, sizeof lo, "%016" PRIx64, rows[i].row_lo);
        snprintf(hi, sizeof hi, "%016" PRIx64, rows[i].row_hi);
        if (json_array_append_new(list, json_pack("[s, s, s, s]", hash, lo, hi,
                                                  rows[i].key != NULL ? rows[i].key : "")) != 0)
            status = no_memory(work); /* or a key that is not UTF-8 */
    }
    if (status == SS_OK) {
        work->answer = json_pack("{s:O}", "rows", list);
        if (work->answer == NULL)
            status = no_memory(work);
    }
out:
    json_decref(list);
    ss_arena_free(arena);
    return status;
}

/* ---- threads
 * ---------------------------------------------------------------------------------------------------------
 */

static void do_work(ss_work *work) {
    switch (work->kind) {
    case SS_WORK_STATUS:
        work->status = do_status(work);
        break;
    case SS_WORK_MARK:
        work->status = do_mark(work);
        break;
    case SS_WORK_VERIFY_OPEN:
        work->status = do_verify_open(work);
        break;
    case SS_WORK_DIGEST:
        work->status = do_digest(work);
        break;
    case SS_WORK_DIGEST_ROWS:
        work->status = do_digest_rows(work);
        break;
    case SS_WORK_CLOSE:
        ss_verify_free(work->setup->ops, work->verify);
        work->verify = NULL;
        work->status = SS_OK;
        break;
    }
}

static void *work_main(void *arg) {
    ss_work *work = arg;
    ss_work_pool *pool = work->pool;
    uint64_t one = 1;

    do_work(work);
    pthread_mutex_lock(&pool->mutex);
    work->next = pool->done;
    pool->done = work;
    pool->running--;
    ssize_t n = write(pool->done_fd, &one, sizeof one);
    (void)n; /* would block: it is readable already */
    pthread_cond_broadcast(&pool->cond);
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

ss_status ss_work_pool_init(ss_work_pool *pool, ss_error *reterr) {
    pool->done = NULL;
    pool->running = 0;
    pool->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pool->done_fd < 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", errno, "cannot make an eventfd");
    ss_status status = ss_waiter_init(&pool->mutex, &pool->cond, reterr);
    if (status != SS_OK)
        close(pool->done_fd);
    return status;
}

void ss_work_pool_done(ss_work_pool *pool) {
    pthread_cond_destroy(&pool->cond);
    pthread_mutex_destroy(&pool->mutex);
    close(pool->done_fd);
}

ss_status ss_work_start(ss_work_pool *pool, ss_work *work, ss_error *reterr) {
    pthread_attr_t attr;
    pthread_t thread;

    work->pool = pool;
    pthread_mutex_lock(&pool->mutex);
    bool room = pool->running < SS_WORKERS_MAX || work->kind == SS_WORK_CLOSE;
    if (room)
        pool->running++;
    pthread_mutex_unlock(&pool->mutex);
    if (!room)
        return ss_fail(reterr, SS_BUSY, "SS-AGENT-0032",
                       "%d requests ask the source already; ask again", SS_WORKERS_MAX);
    int rc = pthread_attr_init(&attr);
    if (rc == 0) {
        rc = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        if (rc == 0)
            rc = pthread_create(&thread, &attr, work_main, work);
        pthread_attr_destroy(&attr);
    }
    if (rc == 0)
        return SS_OK;
    pthread_mutex_lock(&pool->mutex);
    pool->running--;
    pthread_mutex_unlock(&pool->mutex);
    return ss_fail_sys(reterr, SS_RETRY, "SS-AGENT-0001", rc,
                       "cannot start a thread for a request");
}

ss_work *ss_work_pool_take(ss_work_pool *pool) {
    uint64_t count;
    ssize_t n = read(pool->done_fd, &count, sizeof count);
    (void)n;
    pthread_mutex_lock(&pool->mutex);
    ss_work *done = pool->done;
    pool->done = NULL;
    pthread_mutex_unlock(&pool->mutex);
    return done;
}

bool ss_work_pool_wait(ss_work_pool *pool, int wait_ms) {
    int64_t until = ss_monotonic_ms() + wait_ms;

    pthread_mutex_lock(&pool->mutex);
    while (pool->running > 0 && ss_monotonic_ms() < until)
        ss_waiter_wait(&pool->cond, &pool->mutex, until - ss_monotonic_ms());
    bool none = pool->running == 0;
    pthread_mutex_unlock(&pool->mutex);
    return none;
}
