/* `sidespool spool ls` and `dump`. */
#include "spool/spool_command.h"

#include "sidespool/record.h"

#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what there is ---- */

typedef struct {
    bool there;
    ss_segment_names names;
    char spool_id[33];
    uint64_t epoch, first, committed, bytes;
    char *identity, *position;
} log_view;

static void view_done(log_view *view) {
    ss_segment_names_done(&view->names);
    free(view->identity);
    free(view->position);
    *view = (log_view){0};
}

static ss_status view_log(const char *path, const char *source, ss_log_kind kind, log_view *ret, ss_error *reterr) {
    ss_reader *reader = NULL;
    const ss_log_state *state;
    log_view view = {0};
    char *dir = NULL;
    if (asprintf(&dir, "%s/%s", path, source) < 0)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory");
    ss_status status = ss_segment_list(dir, kind, &view.names, reterr);
    free(dir);
    if (status != SS_OK || view.names.count == 0) {
        *ret = view;
        return status;
    }
    status = ss_reader_open(path, source, kind, 0, &reader, reterr);
    if (status == SS_OK)
        status = ss_reader_state(reader, &state, reterr);
    if (status == SS_OK) {
        view.there = true;
        memcpy(view.spool_id, state->spool_id, sizeof(view.spool_id));
        view.epoch = state->epoch;
        view.first = state->first;
        view.committed = state->committed;
        view.identity = strdup(state->identity);
        view.position = strdup(state->position);
        for (size_t i = 0; i < view.names.count; i++)
            view.bytes += view.names.items[i].bytes;
    }
    ss_reader_close(reader);
    if (status != SS_OK)
        view_done(&view);
    *ret = view;
    return status;
}

typedef struct {
    const log_view *views;
    json_t *consumers;
} consumers_in;

static uint64_t behind(const log_view *view, uint64_t applied) {
    return view->there && view->committed > applied ? view->committed - applied : 0;
}

static void add_consumer(void *ctx, const char *name, uint64_t copy, uint64_t stream) {
    consumers_in *in = ctx;
    json_t *o = json_object();
    (void)json_object_set_new(o, "name", json_string(name));
    (void)json_object_set_new(o, "stream", json_integer((json_int_t)stream));
    (void)json_object_set_new(o, "stream_behind", json_integer((json_int_t)behind(&in->views[SS_LOG_STREAM], stream)));
    (void)json_object_set_new(o, "copy", json_integer((json_int_t)copy));
    (void)json_object_set_new(o, "copy_behind", json_integer((json_int_t)behind(&in->views[SS_LOG_COPY], copy)));
    (void)json_array_append_new(in->consumers, o);
}

static json_t *log_json(ss_log_kind kind, const log_view *view) {
    json_t *o = json_object(), *segments = json_array();
    (void)json_object_set_new(o, "log", json_string(ss_kind_name(kind)));
    for (size_t i = 0; i < view->names.count; i++) {
        const ss_segment_name *name = &view->names.items[i];
        json_t *s = json_object();
        (void)json_object_set_new(s, "first", json_integer((json_int_t)name->first));
        (void)json_object_set_new(s, "bytes", json_integer((json_int_t)name->bytes));
        (void)json_object_set_new(s, "sealed", json_boolean(name->sealed));
        (void)json_array_append_new(segments, s);
    }
    (void)json_object_set_new(o, "segments", segments);
    (void)json_object_set_new(o, "records", json_integer((json_int_t)(view->committed + 1 - view->first)));
    (void)json_object_set_new(o, "bytes", json_integer((json_int_t)view->bytes));
    (void)json_object_set_new(o, "first", json_integer((json_int_t)view->first));
    (void)json_object_set_new(o, "committed", json_integer((json_int_t)view->committed));
    (void)json_object_set_new(o, "position", json_string(view->position));
    (void)json_object_set_new(o, "identity", json_string(view->identity));
    (void)json_object_set_new(o, "spool_id", json_string(view->spool_id));
    (void)json_object_set_new(o, "epoch", json_integer((json_int_t)view->epoch));
    return o;
}

static ss_status read_consumers(const char *path, const char *source, const log_view *views, json_t *ret,
                                ss_error *reterr) {
    char *file = NULL;
    struct stat st;
    if (asprintf(&file, "%s/%s/cursors.mdb", path, source) < 0)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory");
    bool there = stat(file, &st) == 0; /* opening would make it */
    free(file);
    if (!there)
        return SS_OK;
    ss_cursors *cursors = NULL;
    ss_status status = ss_cursors_open(path, source, &cursors, reterr);
    if (status == SS_OK)
        status = ss_cursors_each(cursors, add_consumer, &(consumers_in){views, ret}, reterr);
    ss_cursors_close(cursors);
    return status;
}

/* ---- for people ---- */

static void print_source(const char *source, const log_view *views, json_t *consumers) {
    char size[32];
    printf("%s\n  %-8s %8s %14s %12s %14s %14s  %s\n", source, "LOG", "SEGMENTS", "RECORDS", "BYTES", "FIRST", "COMMITTED",
           "POSITION");
    for (int kind = SS_LOG_STREAM; kind >= SS_LOG_COPY; kind--) {
        const log_view *view = &views[kind];
        if (view->there)
            printf("  %-8s %8zu %14" PRIu64 " %12s %14" PRIu64 " %14" PRIu64 "  %s\n", ss_kind_name((ss_log_kind)kind),
                   view->names.count, view->committed + 1 - view->first, ss_spool_bytes_text(view->bytes, size),
                   view->first, view->committed, view->position[0] != '\0' ? view->position : "-");
    }
    const log_view *any = views[SS_LOG_STREAM].there ? &views[SS_LOG_STREAM] : &views[SS_LOG_COPY];
    if (any->there)
        printf("  spool %s, epoch %" PRIu64 "%s%s\n", any->spool_id, any->epoch, any->identity[0] != '\0' ? ", source " : "",
               any->identity);
    if (json_array_size(consumers) == 0) {
        printf("  no consumer is registered: nothing is trimmed\n\n");
        return;
    }
    printf("  %-24s %14s %14s %14s %14s\n", "CONSUMER", "STREAM", "BEHIND", "COPY", "BEHIND");
    size_t i;
    json_t *c;
    json_array_foreach(consumers, i, c)
        printf("  %-24s %14lld %14lld %14lld %14lld\n", json_string_value(json_object_get(c, "name")),
               (long long)json_integer_value(json_object_get(c, "stream")),
               (long long)json_integer_value(json_object_get(c, "stream_behind")),
               (long long)json_integer_value(json_object_get(c, "copy")),
               (long long)json_integer_value(json_object_get(c, "copy_behind")));
    printf("\n");
}

static int ls_source(const ss_spool_args *args, const char *source, json_t *all) {
    log_view views[2] = {{0}, {0}};
    ss_error err = {0};
    json_t *consumers = json_array();
    ss_status status = view_log(args->path, source, SS_LOG_STREAM, &views[SS_LOG_STREAM], &err);
    if (status == SS_OK)
        status = view_log(args->path, source, SS_LOG_COPY, &views[SS_LOG_COPY], &err);
    if (status == SS_OK)
        status = read_consumers(args->path, source, views, consumers, &err);
    if (status == SS_OK && args->json) {
        json_t *o = json_object(), *logs = json_array();
        for (int kind = SS_LOG_STREAM; kind >= SS_LOG_COPY; kind--)
            if (views[kind].there)
                (void)json_array_append_new(logs, log_json((ss_log_kind)kind, &views[kind]));
        (void)json_object_set_new(o, "source", json_string(source));
        (void)json_object_set_new(o, "logs", logs);
        (void)json_object_set(o, "consumers", consumers);
        (void)json_array_append_new(all, o);
    } else if (status == SS_OK) {
        print_source(source, views, consumers);
    }
    view_done(&views[0]);
    view_done(&views[1]);
    json_decref(consumers);
    return status == SS_OK ? SS_EXIT_DONE : ss_spool_say(source, status, &err);
}

int ss_spool_ls(const ss_spool_args *args) {
    json_t *all = json_array();
    int code = SS_EXIT_DONE;
    for (size_t i = 0; i < args->source_count; i++) {
        int one = ls_source(args, args->sources[i], all);
        code = code == SS_EXIT_DONE ? one : code;
    }
    if (args->json) {
        json_t *o = json_pack("{s:o}", "sources", all);
        (void)json_dumpf(o, stdout, JSON_COMPACT);
        (void)putchar('\n');
        json_decref(o);
    } else {
        if (args->source_count == 0)
            printf("%s holds no spool\n", args->path);
        json_decref(all);
    }
    return code;
}

/* ---- dump ---- */

static uint64_t schema_of(const Sidespool__Record *record) {
    switch (record->body_case) {
    case SIDESPOOL__RECORD__BODY_CHANGE:
        return record->change->schema_id;
    case SIDESPOOL__RECORD__BODY_COPY_ROWS:
        return record->copy_rows->schema_id;
    case SIDESPOOL__RECORD__BODY_COPY_TABLE:
        return record->copy_table->schema_id;
    default:
        return 0;
    }
}

typedef struct {
    const ss_spool_args *args;
    ss_reader *reader;
    ss_arena *arena, *schema_arena;
    uint64_t schema_id;
    Sidespool__Schema *schema;
    ss_buf line;
} dumping;

static ss_status take_schema(dumping *d, uint64_t id, const char *place, ss_error *reterr) {
    if (id == 0 || id == d->schema_id)
        return SS_OK;
    ss_bytes packed;
    ss_status status = ss_reader_schema(d->reader, id, &packed, reterr);
    if (status != SS_OK)
        return status;
    ss_arena_reset(d->schema_arena);
    d->schema_id = 0;
    status = ss_schema_get(packed, d->schema_arena, place, &d->schema, reterr);
    d->schema_id = status == SS_OK ? id : 0;
    return status;
}

static ss_status dump_one(dumping *d, ss_bytes bytes, uint64_t sequence, ss_error *reterr) {
    char place[256];
    Sidespool__Record *record;
    (void)snprintf(place, sizeof(place), "%s/%s record %" PRIu64, d->args->sources[0], ss_kind_name(d->args->log), sequence);
    ss_arena_reset(d->arena);
    ss_status status = ss_record_get(bytes, d->arena, place, &record, reterr);
    uint64_t id = status == SS_OK ? schema_of(record) : 0;
    if (status == SS_OK)
        status = take_schema(d, id, place, reterr);
    if (status != SS_OK)
        return status;
    ss_buf_clear(&d->line);
    ss_record_json(record, sequence, id != 0 ? d->schema : NULL, &d->line);
    ss_buf_put_byte(&d->line, '\n');
    if (d->line.bad)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_MEMORY, "out of memory for %s", place);
    if (fwrite(d->line.ptr, 1, d->line.len, stdout) != d->line.len)
        return ss_fail(reterr, SS_RETRY, SS_SPOOL_IO, "cannot write the output");
    return SS_OK;
}

static void dump_in_child(void *ctx, int fd) {
    dumping d = {.args = ctx, .arena = ss_arena_new(SPOOL_RECORD_LIMIT * 2), .schema_arena = ss_arena_new(SPOOL_RECORD_LIMIT)};
    ss_error err = {0};
    close(fd);
    (void)signal(SIGPIPE, SIG_DFL);
    ss_buf_init(&d.line);
    ss_status status = d.arena == NULL || d.schema_arena == NULL ? ss_fail(&err, SS_RETRY, SS_SPOOL_MEMORY, "out of memory")
                                                                 : SS_OK;
    if (status == SS_OK)
        status = ss_reader_open(d.args->path, d.args->sources[0], d.args->log, d.args->from, &d.reader, &err);
    while (status == SS_OK) {
        ss_bytes bytes;
        uint64_t sequence;
        status = ss_reader_next(d.reader, &bytes, &sequence, &err);
        if (status == SS_OK && sequence > d.args->to)
            break;
        if (status == SS_OK)
            status = dump_one(&d, bytes, sequence, &err);
    }
    if (fflush(stdout) != 0)
        _exit(SS_EXIT_IO);
    if (status != SS_OK && status != SS_BUSY)
        _exit(ss_spool_say(d.args->sources[0], status, &err));
    _exit(SS_EXIT_DONE);
}

int ss_spool_dump(const ss_spool_args *args) {
    int signal_ = 0;
    ss_buf none;
    ss_buf_init(&none);
    int code = ss_spool_in_child(dump_in_child, (void *)(uintptr_t)args, &none, 0, &signal_);
    ss_buf_done(&none);
    if (signal_ == SIGPIPE)
        return SS_EXIT_DONE; /* the reader of our output has seen enough */
    if (signal_ != 0)
        fprintf(stderr, "sidespool: %s/%s is damaged: reading it ended with signal %d (%s); run `sidespool spool verify`\n",
                args->sources[0], ss_kind_name(args->log), signal_, strsignal(signal_));
    return code;
}
