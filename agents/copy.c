/* copy: what routes ask for, one after the other. The copy thread waits for requests, runs them
 * (copy_run.c), and ends each in the stream by a CopyEnd.
 *
 * Crash argument: the generation file says "open" before a record names the generation, and
 * "closed" only when its CopyEnd is durable. If we die in between, the next start looks whether the
 * stream has a CopyBegin without its CopyEnd, and writes CopyEnd{aborted}: the route then asks
 * again for what it has not loaded. */
#include "agents/copy_internal.h"

#include "sidespool/log.h"
#include "sidespool/record.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HISTORY_BROKE "the source's history broke"

static void request_free(ss_copy_request *request) {
    if (request == NULL)
        return;
    for (size_t i = 0; i < request->count; i++)
        free(request->tables[i]);
    free(request->tables);
    free(request);
}

/* ---- requests, any thread
 * ------------------------------------------------------------------------------------------ */

static bool name_ok(const char *route) {
    size_t len = strlen(route);

    if (len == 0 || len > 63)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)route[i]) && strchr("_-.", route[i]) == NULL)
            return false;
    return true;
}

static bool fill_tables(ss_copy_request *request, const char *const *tables, size_t count) {
    if (count == 0)
        return true;
    request->tables = calloc(count, sizeof *request->tables);
    if (request->tables == NULL)
        return false;
    for (size_t i = 0; i < count; i++, request->count++) {
        request->tables[i] = strdup(tables[i]);
        if (request->tables[i] == NULL)
            return false;
    }
    return true;
}

static ss_copy_request *request_new(const char *route, const char *const *tables, size_t count) {
    ss_copy_request *request = calloc(1, sizeof *request);

    if (request == NULL)
        return NULL;
    snprintf(request->route, sizeof request->route, "%s", route);
    if (fill_tables(request, tables, count))
        return request;
    request_free(request);
    return NULL;
}

/* The tables of `from` that `into` lacks. Moved, not copied; `from` is freed by the caller. */
static bool request_merge(ss_copy_request *into, ss_copy_request *from) {
    if (into->count == 0)
        return true; /* everything already */
    if (from->count == 0) {
        for (size_t i = 0; i < into->count; i++)
            free(into->tables[i]);
        free(into->tables);
        into->tables = NULL;
        into->count = 0;
        return true;
    }
    char **grown = reallocarray(into->tables, into->count + from->count, sizeof *grown);
    if (grown == NULL)
        return false;
    into->tables = grown;
    for (size_t i = 0; i < from->count; i++) {
        size_t j = 0;
        while (j < into->count && strcmp(into->tables[j], from->tables[i]) != 0)
            j++;
        if (j < into->count)
            continue;
        into->tables[into->count++] = from->tables[i];
        from->tables[i] = NULL;
    }
    return true;
}

/* Under the mutex. A new number is only given out here; the copy thread makes it durable before a
 * record names it. A number that a crash forgets was told to a route whose connection that crash
 * ended: it asks again. */
static ss_status enqueue(ss_copies *copies, ss_copy_request **request_take,
                         uint64_t *ret_generation, bool *ret_running, ss_error *reterr) {
    ss_copy_request *request = *request_take;
    ss_copy_request **at = &copies->first;

    for (; *at != NULL; at = &(*at)->next) {
        ss_copy_request *waiting = *at;
        if (strcmp(waiting->route, request->route) != 0)
            continue;
        bool runs = waiting == copies->first && copies->running;
        if (!runs && !request_merge(waiting, request))
            return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a copy request");
        *ret_generation = waiting->generation;
        *ret_running = runs;
        return SS_OK;
    }
    if (copies->count >= SS_COPY_REQUESTS_MAX)
        return ss_fail(reterr, SS_BUSY, "SS-AGENT-0013", "%d copies wait already; ask again later",
                       SS_COPY_REQUESTS_MAX);
    request->generation = ++copies->newest;
    *at = request;
    *request_take = NULL;
    copies->count++;
    *ret_generation = request->generation;
    *ret_running = false;
    pthread_cond_broadcast(&copies->cond);
    return SS_OK;
}

ss_status ss_copies_request(ss_copies *copies, const char *route, const char *const *tables,
                            size_t count, uint64_t *ret_generation, bool *ret_running,
                            ss_error *reterr) {
    if (!name_ok(route))
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0014",
                       "a route's name has 1 to 63 letters, digits, '_', '-' or '.'");
    pthread_mutex_lock(&copies->mutex);
    bool ready = copies->ready;
    pthread_mutex_unlock(&copies->mutex);
    if (!ready)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0007",
                       "the agent is still opening its spool; ask again");
    if (count > SS_COPY_TABLES_MAX)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0014",
                       "a copy names at most %d tables; ask for [\"*\"]", SS_COPY_TABLES_MAX);
    ss_copy_request *request = request_new(route, tables, count);
    if (request == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a copy request");
    pthread_mutex_lock(&copies->mutex);
    ss_status status = enqueue(copies, &request, ret_generation, ret_running, reterr);
    pthread_mutex_unlock(&copies->mutex);
    if (status == SS_OK && request == NULL)
        SS_LOG(SS_INFO, "copy_requested", SS_S("route", route), SS_U("generation", *ret_generation),
               SS_U("tables", count));
    request_free(request);
    return status;
}

void ss_copies_abort(ss_copies *copies, const char *reason) {
    pthread_mutex_lock(&copies->mutex);
    if (copies->running && !copies->abort) {
        copies->abort = true;
        snprintf(copies->abort_reason, sizeof copies->abort_reason, "%s", reason);
        pthread_cond_broadcast(&copies->cond);
    }
    pthread_mutex_unlock(&copies->mutex);
}

/* ---- the copy thread
 * -----------------------------------------------------------------------------------------------
 */

bool ss_copies_stopping(ss_copies *copies) {
    pthread_mutex_lock(&copies->mutex);
    bool stop = copies->stop;
    pthread_mutex_unlock(&copies->mutex);
    return stop;
}

ss_status ss_copies_aborted(ss_copies *copies, ss_error *reterr) {
    ss_status status = SS_OK;

    pthread_mutex_lock(&copies->mutex);
    if (copies->stop)
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0006", "the agent is stopping");
    else if (copies->abort)
        status = ss_fail(reterr, SS_RETRY, "SS-AGENT-0004", "%s", copies->abort_reason);
    pthread_mutex_unlock(&copies->mutex);
    return status;
}

void ss_copies_show(ss_copies *copies, const char *reason) {
    snprintf(copies->progress.reason, sizeof copies->progress.reason, "%s", reason);
    ss_agent_status_copy(copies->setup.status, &copies->progress);
}

void ss_copies_each_second(ss_copies *copies) {
    int64_t now = ss_monotonic_ms();
    uint64_t removed = 0;
    ss_error err = {0};

    if (copies->log == NULL || now - copies->second_ms < 1000)
        return;
    copies->second_ms = now;
    ss_status status = ss_log_trim(copies->log, &removed, &err);
    if (status != SS_OK)
        ss_log_error(SS_WARN, "trim_failed", &err);
    if (copies->progress.running)
        ss_agent_status_copy(copies->setup.status, &copies->progress);
}

bool ss_copies_wait(ss_copies *copies, int64_t ms) {
    int64_t until = ss_monotonic_ms() + ms;

    for (;;) {
        ss_copies_each_second(copies); /* also in a short wait: a copy waits for room in short ones */
        int64_t now = ss_monotonic_ms();
        pthread_mutex_lock(&copies->mutex);
        if (!copies->stop && now < until)
            ss_waiter_wait(&copies->cond, &copies->mutex, until - now < 500 ? until - now : 500);
        bool stop = copies->stop;
        pthread_mutex_unlock(&copies->mutex);
        if (stop || ss_monotonic_ms() >= until)
            return stop;
    }
}

static ss_status put_end(ss_copies *copies, const char *position, uint64_t generation,
                         const char *route, const char *aborted, ss_error *reterr) {
    Sidespool__CopyEnd end = SIDESPOOL__COPY_END__INIT;
    Sidespool__Record record = SIDESPOOL__RECORD__INIT;
    ss_buf packed;

    end.generation = generation;
    end.route = (char *)(uintptr_t)route; /* packed, never written to */
    end.aborted = aborted != NULL;
    end.reason = (char *)(uintptr_t)(aborted != NULL ? aborted : "");
    record.body_case = SIDESPOOL__RECORD__BODY_COPY_END;
    record.copy_end = &end;
    ss_buf_init(&packed);
    ss_record_put(&packed, &record);
    ss_status status =
        packed.bad
            ? ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a marker")
            : ss_pipeline_add_marker(copies->setup.pipeline, position,
                                     position[0] != '\0' ? copies->history : 0,
                                     ss_bytes_of(packed.ptr, packed.len), generation, reterr);
    ss_buf_done(&packed);
    return status;
}

/* Until the CopyEnd is durable the file says "open". False: the agent stops; the next start looks
 * into the stream. */
static bool end_in_stream(ss_copies *copies, const char *position, uint64_t generation,
                          const char *route, const char *aborted) {
    ss_error err = {0};

    ss_copies_show(copies, "its end is being written into the stream");
    while (put_end(copies, position, generation, route, aborted, &err) != SS_OK) {
        if (position[0] != '\0' && err.code != NULL && strcmp(err.code, "SS-AGENT-0004") == 0)
            return end_in_stream(copies, "", generation, route, HISTORY_BROKE);
        ss_log_error(SS_WARN, "copy_end_waits", &err);
        if (ss_copies_wait(copies, 1000))
            return false;
    }
    /* A gap drops the markers that wait, and then counts them as durable: routes learn from the Gap
     * that the copy is void. A place of the old history means nothing in the new one. */
    while (ss_pipeline_marker_durable(copies->setup.pipeline) < generation) {
        if (position[0] != '\0' && ss_copies_aborted(copies, NULL) != SS_OK)
            return end_in_stream(copies, "", generation, route, "the source's history broke");
        if (ss_copies_wait(copies, 50))
            return false;
    }
    return true;
}

static void save_generation(ss_copies *copies) {
    ss_error err = {0};

    while (ss_generation_save(ss_spool_dir(copies->setup.spool), &copies->generation, &err) !=
           SS_OK) {
        ss_log_error(SS_ERROR, "generation_not_saved", &err);
        ss_copies_show(copies, err.text);
        if (ss_copies_wait(copies, 2000))
            return;
    }
}

static bool open_log(ss_copies *copies, ss_error *reterr) {
    if (copies->log != NULL)
        return true;
    if (ss_log_open(copies->setup.spool, SS_LOG_COPY, &copies->log, reterr) == SS_OK) {
        ss_agent_status_committed(copies->setup.status, NULL, ss_log_get_state(copies->log));
        return true;
    }
    copies->log = NULL;
    return false;
}

static ss_copy_request *take_request(ss_copies *copies) {
    pthread_mutex_lock(&copies->mutex);
    ss_copy_request *request = copies->stop ? NULL : copies->first;
    copies->running = request != NULL;
    copies->abort = false;
    pthread_mutex_unlock(&copies->mutex);
    return request;
}

static void finish_request(ss_copies *copies) {
    pthread_mutex_lock(&copies->mutex);
    ss_copy_request *request = copies->first;
    copies->first = request->next;
    copies->count--;
    copies->running = false;
    pthread_mutex_unlock(&copies->mutex);
    request_free(request);
}

static ss_status begin_generation(ss_copies *copies, const ss_copy_request *request,
                                  ss_error *reterr) {
    ss_agent_snapshot now;

    ss_status status = ss_pipeline_wait_prepared(copies->setup.pipeline, 1000, reterr);
    if (status != SS_OK)
        return status;
    ss_agent_status_get(copies->setup.status, &now);
    copies->generation.number = request->generation;
    copies->generation.open = true;
    copies->generation.from_sequence = now.committed;
    memcpy(copies->generation.route, request->route, sizeof request->route);
    return ss_generation_save(ss_spool_dir(copies->setup.spool), &copies->generation, reterr);
}

/* How long to leave the source alone afterwards: the route asks again for an aborted copy at once.
 */
static int64_t run_request(ss_copies *copies, const ss_copy_request *request) {
    char position[SS_POSITION_MAX] = "";
    ss_error err = {0};
    ss_status status;

    copies->progress = (ss_copy_progress){
        .running = true, .generation = request->generation, .started_us = ss_now_us()};
    memcpy(copies->progress.route, request->route, sizeof request->route);
    for (;;) {
        status = begin_generation(copies, request, &err);
        if (status == SS_OK && !open_log(copies, &err))
            status = SS_RETRY;
        if (status == SS_OK)
            break;
        ss_copies_show(copies, err.text);
        if (status != SS_BUSY)
            ss_log_error(SS_WARN, "copy_waits", &err);
        if (ss_copies_wait(copies,
                           status == SS_BUSY ? 100 : (int64_t)ss_backoff_next(&copies->backoff)))
            return 0;
    }
    SS_LOG(SS_INFO, "copy_begins", SS_S("route", request->route),
           SS_U("generation", request->generation));
    status = ss_copy_run_all(copies, request, position, &err);
    if (ss_copies_stopping(copies))
        return 0;
    if (status != SS_OK)
        ss_log_error(SS_ERROR, "copy_aborted", &err);
    /* Whole, but of a history that is void: never said to be whole behind the Gap. */
    if (ss_copies_aborted(copies, &err) != SS_OK) {
        position[0] = '\0';
        status = SS_RETRY;
    }
    if (!end_in_stream(copies, position, request->generation, request->route,
                       status == SS_OK ? NULL : err.text))
        return 0;
    copies->generation.open = false;
    save_generation(copies);
    SS_LOG(SS_INFO, "copy_ended", SS_S("route", request->route),
           SS_U("generation", request->generation), SS_U("rows", copies->progress.rows),
           SS_U("bytes", copies->progress.bytes),
           SS_S("result", status == SS_OK ? "whole" : "aborted"));
    copies->progress.running = false;
    ss_copies_show(copies, "");
    if (status != SS_OK)
        return (int64_t)ss_backoff_next(&copies->backoff);
    ss_backoff_reset(&copies->backoff);
    return 0;
}

/* What the last life left open, as the stream says. Only behind the writer's opening of the log: a
 * CopyBegin that a killed writer made durable last may be hidden from readers until then. */
static ss_status look_back(ss_copies *copies, ss_error *reterr) {
    const ss_source_env *env = copies->setup.env;
    ss_generation *generation = &copies->generation;

    ss_status status = ss_pipeline_wait_opened(copies->setup.pipeline, 1000, reterr);
    if (status == SS_OK && generation->absent)
        status = ss_generation_rebuild(env->spool_path, env->name, generation, reterr);
    else if (status == SS_OK && generation->open)
        status = ss_generation_unfinished(env->spool_path, env->name, generation,
                                          &generation->open, reterr);
    if (status == SS_OK && generation->absent)
        status = ss_generation_save(ss_spool_dir(copies->setup.spool), generation, reterr);
    if (status != SS_OK)
        return status;
    pthread_mutex_lock(&copies->mutex);
    copies->newest = generation->number;
    copies->ready = true;
    pthread_mutex_unlock(&copies->mutex);
    return SS_OK;
}

static void look_back_wait(ss_copies *copies) {
    ss_error err = {0};
    ss_status status;

    while (!ss_copies_stopping(copies) && (status = look_back(copies, &err)) != SS_OK) {
        if (status == SS_BUSY)
            continue;
        ss_log_error(SS_ERROR, "generation_not_known", &err);
        ss_copies_show(copies, err.text);
        ss_copies_wait(copies, (int64_t)ss_backoff_next(&copies->backoff));
    }
}

static void *copy_main(void *arg) {
    ss_copies *copies = arg;
    ss_error err = {0};

    look_back_wait(copies);
    if (!ss_copies_stopping(copies) && copies->generation.open &&
        end_in_stream(copies, "", copies->generation.number, copies->generation.route,
                      "the agent was restarted")) {
        copies->generation.open = false;
        save_generation(copies);
    }
    while (!ss_copies_stopping(copies)) {
        if (!open_log(copies, &err)) {
            ss_log_error(SS_ERROR, "copy_log_not_opened", &err);
            ss_copies_show(copies, err.text);
            ss_copies_wait(copies, (int64_t)ss_backoff_next(&copies->backoff));
            continue;
        }
        ss_copy_request *request = take_request(copies);
        if (request == NULL) {
            ss_copies_each_second(copies);
            pthread_mutex_lock(&copies->mutex);
            if (copies->first == NULL && !copies->stop)
                ss_waiter_wait(&copies->cond, &copies->mutex, 1000);
            pthread_mutex_unlock(&copies->mutex);
            continue;
        }
        int64_t pause_ms = run_request(copies, request);
        /* Before the pause: who asks meanwhile gets a generation that is still to come. */
        finish_request(copies);
        if (pause_ms > 0)
            ss_copies_wait(copies, pause_ms);
    }
    if (copies->log != NULL)
        ss_log_close(copies->log);
    copies->log = NULL;
    pthread_mutex_lock(&copies->mutex);
    copies->ended = true;
    pthread_cond_broadcast(&copies->cond);
    pthread_mutex_unlock(&copies->mutex);
    return NULL;
}

/* ---- lifecycle, main thread
 * ---------------------------------------------------------------------------------------- */

ss_status ss_copies_new(const ss_copies_setup *setup, ss_copies **ret, ss_error *reterr) {
    ss_copies *copies = calloc(1, sizeof *copies);
    if (copies == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "out of memory");
    copies->setup = *setup;
    ss_backoff_init(&copies->backoff, 1000, 60000, 0);
    ss_status status = ss_waiter_init(&copies->mutex, &copies->cond, reterr);
    if (status != SS_OK) {
        free(copies);
        return status;
    }
    const ss_source_env *env = setup->env;
    /* Nothing is written here: a file that is not there is made by look_back, which knows what the stream says. */
    status = ss_generation_load(env->spool_path, env->name, &copies->generation, reterr);
    if (status != SS_OK) {
        ss_copies_free(copies);
        return status;
    }
    copies->newest = copies->generation.number;
    *ret = copies;
    return SS_OK;
}

ss_status ss_copies_start(ss_copies *copies, ss_error *reterr) {
    int rc = pthread_create(&copies->thread, NULL, copy_main, copies);
    if (rc != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", rc, "cannot start the copy thread");
    copies->started = true;
    return SS_OK;
}

ss_status ss_copies_stop(ss_copies *copies, int wait_ms, ss_error *reterr) {
    int64_t until = ss_monotonic_ms() + wait_ms;

    if (!copies->started)
        return SS_OK;
    pthread_mutex_lock(&copies->mutex);
    copies->stop = true;
    pthread_cond_broadcast(&copies->cond);
    while (!copies->ended && ss_monotonic_ms() < until)
        ss_waiter_wait(&copies->cond, &copies->mutex, until - ss_monotonic_ms());
    bool ended = copies->ended;
    pthread_mutex_unlock(&copies->mutex);
    if (!ended)
        return ss_fail(reterr, SS_BUSY, "SS-AGENT-0006",
                       "a copy reader still waits for the source while the agent stops");
    pthread_join(copies->thread, NULL);
    copies->started = false;
    return SS_OK;
}

void ss_copies_free(ss_copies *copies) {
    if (copies == NULL)
        return;
    while (copies->first != NULL) {
        ss_copy_request *next = copies->first->next;
        request_free(copies->first);
        copies->first = next;
    }
    pthread_cond_destroy(&copies->cond);
    pthread_mutex_destroy(&copies->mutex);
    free(copies);
}
