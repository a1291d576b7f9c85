/* A small source for the pipeline's tests: transactions numbered 1, 2, 3 …; transaction n lies at
 * position n*10 and ends at n*10+5. The test moves `available` on and breaks things. */
#ifndef TESTS_PIPELINE_FAKE_H
#define TESTS_PIPELINE_FAKE_H

#include "agents/copy.h"
#include "agents/pipeline.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ss_source {
    int next; /* transaction to send */
    int step; /* 0: begin, 1..changes: change, then commit */
    int64_t start;
    uint64_t schema;
    bool cut; /* the link is broken: nothing can be said over it */
};

static struct {
    pthread_mutex_t mutex;
    int available, changes;
    size_t cell; /* bytes of incompressible text in each change */
    int stall_at; /* nothing more comes after step 6 of this transaction, though more was announced */
    int cut_at;  /* the link breaks once in the middle of this transaction */
    int taken;   /* the newest transaction that was taken whole */
    pthread_t capture;      /* the thread that starts the source; syncs below are those of other threads */
    int sync_brings;        /* once: while a sync runs, transactions up to it come, and are taken before the sync ends */
    bool sync_cuts;         /* and when it has ended the link breaks with the next position that is to be released… */
    bool cut_at_release;
    int64_t cut_released;   /* …this one */
    bool syncs_wait;        /* any other sync lasts until this is taken back */
    int syncs_waiting;      /* that do */
    bool gap;    /* open finds the history broken, until reset */
    char identity[16];
    int64_t released; /* the highest, and whether it ever ran ahead of what was durable */
    bool released_early;
    int opens, prepares, resets;
    bool was_intended;
    ss_agent_status *status;
    int64_t prepare_at;
    bool die_after_prepare; /* once: what prepare made is there, and its caller never hears of it */
    char made[16];          /* identity once prepare has made its things; "": as before */
} fake = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changes = 3, .cell = 8, .identity = "one"};

/* Stands before libc's for liblmdb: the disk is as slow as the test says. A call that holds the capture thread until the disk
 * has synced (a trim) may keep it from taking what comes: then the sync ends nevertheless. */
int fdatasync(int fd) {
    pthread_mutex_lock(&fake.mutex);
    bool beside = !pthread_equal(pthread_self(), fake.capture);
    int upto = beside ? fake.sync_brings : 0;
    if (upto > 0) {
        fake.sync_brings = 0;
        fake.available = upto;
    }
    fake.syncs_waiting += beside && upto == 0;
    for (int i = 0; upto > 0 ? i < 500 && fake.taken < upto : beside && fake.syncs_wait; i++) {
        pthread_mutex_unlock(&fake.mutex);
        usleep(2000);
        pthread_mutex_lock(&fake.mutex);
    }
    fake.syncs_waiting -= beside && upto == 0;
    if (upto > 0)
        fake.cut_at_release = fake.sync_cuts;
    pthread_mutex_unlock(&fake.mutex);
    return (int)syscall(SYS_fdatasync, fd);
}

#define FAKE(statement)                                                                            \
    do {                                                                                           \
        pthread_mutex_lock(&fake.mutex);                                                           \
        statement;                                                                                 \
        pthread_mutex_unlock(&fake.mutex);                                                         \
    } while (0)

static ss_status fake_open(const ss_source_env *env, const char *identity, const char *position,
                           bool intended, ss_source **ret, ss_source_verdict *verdict,
                           ss_error *reterr) {
    (void)env;
    ss_source *source = calloc(1, sizeof *source);
    if (source == NULL)
        abort();
    pthread_mutex_lock(&fake.mutex);
    fake.opens++;
    fake.was_intended = intended;
    verdict->gap = fake.gap || (identity[0] != '\0' && position[0] != '\0' &&
                                strcmp(identity, fake.identity) != 0);
    snprintf(verdict->identity, sizeof verdict->identity, "%s", fake.identity);
    pthread_mutex_unlock(&fake.mutex);
    *ret = source;
    return verdict->gap ? ss_fail(reterr, SS_STOP, "SS-PG-0001", "the history is broken") : SS_OK;
}

static ss_status fake_prepare(ss_source *source, ss_say_fn say, void *ctx, char *ret, size_t size,
                              ss_error *reterr) {
    (void)source;
    (void)say;
    (void)ctx;
    bool die;
    FAKE(fake.prepares++; snprintf(ret, size, "%ld", (long)fake.prepare_at);
         die = fake.die_after_prepare; fake.die_after_prepare = false;
         if (fake.made[0] != '\0') memcpy(fake.identity, fake.made, sizeof fake.identity));
    return die ? ss_fail(reterr, SS_RETRY, "SS-PG-0002", "the link broke") : SS_OK;
}

static ss_status fake_identity(ss_source *source, char *ret, size_t size, ss_error *reterr) {
    (void)source;
    (void)reterr;
    FAKE(snprintf(ret, size, "%s", fake.identity));
    return SS_OK;
}

static ss_status fake_start(ss_source *source, const char *position, ss_error *reterr) {
    (void)reterr;
    FAKE(fake.capture = pthread_self());
    source->start = strtoll(position, NULL, 10);
    source->next = (int)((source->start + 4) / 10) + 1;
    if (source->start < 5)
        source->next = 1;
    return SS_OK;
}

static ss_status fake_change(ss_source *source, const ss_sink *sink, int n, int step, size_t cell,
                             ss_error *reterr) {
    Sidespool__Schema schema = SIDESPOOL__SCHEMA__INIT;
    Sidespool__Column a = SIDESPOOL__COLUMN__INIT, b = SIDESPOOL__COLUMN__INIT,
                      *columns[] = {&a, &b};
    uint8_t kinds[2] = {SS_CELL_VALUE, SS_CELL_VALUE};
    char text[32];
    ss_bytes cells[2];
    ss_change change = {.op = SIDESPOOL__OP__OP_INSERT, .after = {2, kinds, cells}};

    if (source->schema == 0) {
        schema.engine = (char *)(uintptr_t) "fake";
        schema.ns = (char *)(uintptr_t) "s";
        schema.name = (char *)(uintptr_t) "t";
        a.name = (char *)(uintptr_t) "a";
        b.name = (char *)(uintptr_t) "b";
        schema.columns = columns;
        schema.n_columns = 2;
        ss_status status = sink->schema(sink->ctx, &schema, &source->schema, reterr);
        if (status != SS_OK)
            return status;
    }
    snprintf(text, sizeof text, "%d.%d", n, step);
    uint8_t *noise = malloc(cell);
    if (noise == NULL)
        abort();
    unsigned seed = (unsigned)(n * 100 + step);
    for (size_t i = 0; i < cell; i++)
        noise[i] = (uint8_t)('0' + rand_r(&seed) % 64);
    cells[0] = ss_bytes_str(text);
    cells[1] = ss_bytes_of(noise, cell);
    change.schema_id = source->schema;
    ss_status status = sink->change(sink->ctx, &change, reterr);
    free(noise);
    return status;
}

static ss_status fake_step(ss_source *source, const ss_sink *sink, int changes, size_t cell,
                           ss_error *reterr) {
    char position[32];
    ss_status status;

    if (source->step == 0) {
        snprintf(position, sizeof position, "%d", source->next * 10);
        status = sink->begin(sink->ctx, position, source->next, (uint64_t)source->next, reterr);
    } else if (source->step <= changes) {
        status = fake_change(source, sink, source->next, source->step, cell, reterr);
    } else {
        snprintf(position, sizeof position, "%d", source->next * 10 + 5);
        status = sink->commit(sink->ctx, position, source->next, reterr);
    }
    if (status != SS_OK)
        return status;
    if (++source->step > changes + 1) {
        source->step = 0;
        FAKE(fake.taken = source->next);
        source->next++;
    }
    return SS_OK;
}

static ss_status fake_poll(ss_source *source, const ss_sink *sink, int wait_ms, int wake_fd,
                           bool hold, bool *ret_more, ss_error *reterr) {
    int available, changes;
    size_t cell;
    bool cut = false;
    (void)wake_fd;

    FAKE(available = fake.available; changes = fake.changes; cell = fake.cell);
    *ret_more = false;
    for (int i = 0; !hold && i < 7;
         i++) { /* an odd number, so that polls end in the middle of transactions */
        if (source->next > available) {
            char position[32];
            int64_t at = (source->next - 1) * 10 + 5;
            snprintf(position, sizeof position, "%ld",
                     (long)(at > source->start ? at : source->start));
            usleep((unsigned)(wait_ms > 5 ? 5 : wait_ms) * 1000);
            return sink->idle(sink->ctx, position, 1, reterr);
        }
        int stall_at;
        FAKE(stall_at = fake.stall_at);
        if (source->next == stall_at && source->step == 6) {
            usleep(2000);
            break;
        }
        ss_status status = fake_step(source, sink, changes, cell, reterr);
        if (status != SS_OK)
            return status;
        FAKE(cut = fake.cut_at == source->next && source->step == 2;
             fake.cut_at = cut ? 0 : fake.cut_at);
        source->cut = source->cut || cut;
        if (cut)
            return ss_fail(reterr, SS_RETRY, "SS-PG-0002", "the link broke");
    }
    if (hold)
        usleep(2000);
    *ret_more = !hold;
    return SS_OK;
}

static ss_status fake_release(ss_source *source, const char *position, ss_error *reterr) {
    ss_agent_snapshot now;

    if (source->cut)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0002", "the link broke");
    ss_agent_status_get(fake.status, &now);
    int64_t upto = strtoll(position, NULL, 10);
    FAKE(fake.released_early |= upto > strtoll(now.position, NULL, 10);
         if (fake.cut_at_release) { fake.cut_released = upto; source->cut = true; } else fake.released = upto;
         fake.cut_at_release = false);
    return source->cut ? ss_fail(reterr, SS_RETRY, "SS-PG-0002", "the link broke") : SS_OK;
}

static ss_status fake_nudge(ss_source *source, ss_error *reterr) {
    (void)source;
    (void)reterr;
    return SS_OK;
}

static ss_status fake_reset(ss_source *source, ss_error *reterr) {
    (void)source;
    (void)reterr;
    FAKE(fake.resets++; fake.gap = false);
    return SS_OK;
}

static void fake_close(ss_source *source) {
    free(source);
}

static int fake_compare(const char *a, const char *b) {
    long long x = strtoll(a, NULL, 10), y = strtoll(b, NULL, 10);
    return x < y ? -1 : x > y;
}

#endif
