/* verify: every cell of source and target compared at one position, order-free (docs/architecture.md).
 *
 * A thread of its own opens a snapshot at the agent, which puts a Mark into the stream at the snapshot's place. When the route
 * has applied everything before that Mark, its own thread opens the digest on the target (a snapshot on a second connection) and
 * goes on applying at once: that is all that verify holds it up for. The thread then compares bucket by bucket and looks at the rows of
 * those that differ. The thread touches its ss_verify alone; what both touch is under `lock`. */
#include "applier/route.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NAMED 100u              /* rows named for each kind of difference */
#define ROWS_AT_ONCE 200000u    /* rows of differing buckets looked at together */
#define NAMED_BYTES ((size_t)3 << 19) /* of all keys named: the result is one line, and escaping may make it six times as long */
#define AWAIT_MARK_S 600        /* a snapshot holds back the source's VACUUM: not for as long as a backlog takes */
#define ANSWER_MS (24 * 3600 * 1000) /* a digest of a large table takes its time; a dead agent closes the socket */

struct ss_verify {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool cancel;
    int event_fd;
    char id[128];
    const char *spool_path, *source, *route; /* the configuration's */
    const ss_target_ops *ops;
    json_t *names;                           /* the thread's */
    size_t named_bytes;                      /* the thread's */
    /* under lock */
    bool marked, mark_failed, finished, news;
    int agent;                               /* the connection that holds the source's snapshot; -1: none */
    void *digest;
    ss_error mark_error;
    const char *step;
    char table[200];
    size_t done, total;
    ss_status status;
    ss_error error;
    json_t *result;
};

/* ---- the thread ------------------------------------------------------------------------------------------------ */

static void poke(ss_verify *v) {
    uint64_t one = 1;
    while (write(v->event_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void say(ss_verify *v, const char *step, const char *table, size_t done, size_t total) {
    pthread_mutex_lock(&v->lock);
    v->step = step;
    snprintf(v->table, sizeof v->table, "%s", table);
    v->done = done;
    v->total = total;
    v->news = true;
    pthread_mutex_unlock(&v->lock);
    poke(v);
}

static uint64_t hex_of(const json_t *value) {
    const char *text = json_string_value(value);
    return text ? strtoull(text, NULL, 16) : 0;
}

/* The packed Schema, as the agent's hex. NULL: not hex. */
static uint8_t *unhex(const char *text, size_t *ret_len) {
    size_t len = strlen(text);
    uint8_t *out = len % 2 ? NULL : malloc(len / 2 + 1);
    for (size_t i = 0; out && i < len / 2; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1) {
            free(out);
            return NULL;
        }
        out[i] = (uint8_t)byte;
    }
    *ret_len = len / 2;
    return out;
}

typedef struct { ss_digest_row row; bool target; } side_row;

static int by_row(const void *a, const void *b) {
    const ss_digest_row *x = &((const side_row *)a)->row, *y = &((const side_row *)b)->row;
    if (x->key_hash != y->key_hash)
        return x->key_hash < y->key_hash ? -1 : 1;
    if (x->row_lo != y->row_lo)
        return x->row_lo < y->row_lo ? -1 : 1;
    return x->row_hi == y->row_hi ? 0 : x->row_hi < y->row_hi ? -1 : 1;
}

typedef struct { uint64_t missing, extra, different, unexplained; json_t *rows; size_t named[3]; size_t *bytes; } findings;

static void found(findings *f, int kind, const char *key) {
    static const char *const kinds[] = {"missing", "extra", "different"};
    *(kind == 0 ? &f->missing : kind == 1 ? &f->extra : &f->different) += 1;
    size_t len = key ? strlen(key) : 0;
    if (f->named[kind] >= NAMED || *f->bytes + len > NAMED_BYTES)
        return;
    f->named[kind]++;
    *f->bytes += len + 48;
    json_array_append_new(f->rows, json_pack("{s:s,s:s}", "kind", kinds[kind], "key", key ? key : ""));
}

/* Rows of one key hash, sorted: equal rows of both sides cancel out, what is left over differs, is missing or extra. */
static void compare_key(side_row *rows, size_t count, findings *f, side_row *left[2], size_t *left_count) {
    left_count[0] = left_count[1] = 0;
    for (size_t i = 0; i < count;) {
        size_t k = i, side[2] = {0, 0};
        for (; k < count && by_row(&rows[i], &rows[k]) == 0; k++)
            side[rows[k].target]++;
        bool target = side[1] > side[0];
        size_t over = target ? side[1] - side[0] : side[0] - side[1];
        for (size_t m = i; m < k && over; m++)
            if (rows[m].target == target) {
                left[target][left_count[target]++] = rows[m];
                over--;
            }
        i = k;
    }
    size_t both = left_count[0] < left_count[1] ? left_count[0] : left_count[1];
    for (size_t i = 0; i < both; i++)
        found(f, 2, left[0][i].row.key);
    for (size_t i = both; i < left_count[0]; i++)
        found(f, 0, left[0][i].row.key);
    for (size_t i = both; i < left_count[1]; i++)
        found(f, 1, left[1][i].row.key);
}

static ss_status compare_rows(side_row *rows, size_t count, findings *f, ss_error *reterr) {
    qsort(rows, count, sizeof *rows, by_row);
    side_row *left[2] = {malloc(sizeof *rows * (count + 1)), malloc(sizeof *rows * (count + 1))};
    size_t left_count[2];
    ss_status st = SS_OK;
    if (!left[0] || !left[1])
        st = ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while comparing rows");
    for (size_t i = 0; st == SS_OK && i < count;) {
        size_t k = i;
        while (k < count && rows[k].row.key_hash == rows[i].row.key_hash)
            k++;
        compare_key(rows + i, k - i, f, left, left_count);
        i = k;
    }
    free(left[0]);
    free(left[1]);
    return st;
}

/* The rows of the wanted buckets of both sides. */
static ss_status drill(ss_verify *v, int fd, const char *table, const Sidespool__Schema *schema, const uint8_t *wanted, uint64_t most,
                       findings *f, ss_error *reterr) {
    ss_arena *arena = ss_arena_new(0);
    json_t *answer = NULL, *list = json_array(), *row;
    side_row *rows = NULL;
    ss_digest_row *target = NULL;
    size_t target_count = 0, i;
    for (size_t b = 0; b < SS_DIGEST_BUCKETS; b++)
        if (wanted[b])
            json_array_append_new(list, json_integer((json_int_t)b));
    ss_status st = arena ? SS_OK : ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while comparing rows");
    json_t *ask = json_pack("{s:s,s:s,s:o,s:I}", "op", "digest_rows", "table", table, "buckets", list, "most", (json_int_t)most + 1);
    if (st == SS_OK)
        st = ss_agent_ask(fd, ask, ANSWER_MS, &v->cancel, &answer, reterr);
    else
        json_decref(ask);
    if (st == SS_OK)
        st = v->ops->digest_rows(v->digest, schema, wanted, (size_t)most + 1, arena, &target, &target_count, reterr);
    if (st != SS_OK)
        goto out;
    json_t *source = json_object_get(answer, "rows");
    rows = calloc(json_array_size(source) + target_count + 1, sizeof *rows);
    if (!rows) {
        st = ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while comparing rows");
        goto out;
    }
    size_t n = 0;
    json_array_foreach(source, i, row)
        rows[n++].row = (ss_digest_row){hex_of(json_array_get(row, 0)), hex_of(json_array_get(row, 1)), hex_of(json_array_get(row, 2)),
                                        json_string_value(json_array_get(row, 3))};
    for (i = 0; i < target_count; i++)
        rows[n++] = (side_row){target[i], true};
    st = compare_rows(rows, n, f, reterr);
out:
    free(rows);
    json_decref(answer);
    ss_arena_free(arena);
    return st;
}

static ss_status source_buckets(ss_verify *v, int fd, const char *table, ss_digest_bucket *buckets, ss_error *reterr) {
    json_t *answer = NULL, *b;
    size_t i;
    ss_status st = ss_agent_ask(fd, json_pack("{s:s,s:s}", "op", "digest", "table", table), ANSWER_MS, &v->cancel, &answer, reterr);
    if (st != SS_OK)
        return st;
    json_array_foreach(json_object_get(answer, "buckets"), i, b) {
        json_int_t at = json_integer_value(json_array_get(b, 0));
        if (at < 0 || at >= SS_DIGEST_BUCKETS) {
            st = ss_fail(reterr, SS_STOP, "SS-ROUTE-0009", "the agent's digest has a bucket that this version does not know; use the same version on both sides");
            break;
        }
        buckets[at] = (ss_digest_bucket){(uint64_t)json_integer_value(json_array_get(b, 1)), hex_of(json_array_get(b, 2)),
                                         hex_of(json_array_get(b, 3))};
    }
    json_decref(answer);
    return st;
}

/* Buckets that differ, gathered until their rows are worth a look. */
typedef struct {
    uint8_t wanted[SS_DIGEST_BUCKETS];
    uint64_t buckets, rows, missing, extra;
} gathering;

/* Looks at the rows of the gathered buckets. A digest that differed is a difference, whether or not its rows are found: a row's key may not
 * tell (rows counted otherwise by the two sides, a reader that was cut short). It is never taken back. */
static ss_status look_closer(ss_verify *v, int fd, const char *table, const Sidespool__Schema *schema, gathering *g, findings *f,
                             ss_error *reterr) {
    uint64_t before = f->missing + f->extra + f->different;
    ss_status st = g->rows ? drill(v, fd, table, schema, g->wanted, g->rows, f, reterr) : SS_OK;
    if (st == SS_OK && f->missing + f->extra + f->different == before) {
        f->unexplained += g->buckets;
        f->missing += g->missing;
        f->extra += g->extra;
        if (g->missing + g->extra == 0)
            f->different += g->buckets;
    }
    memset(g, 0, sizeof *g);
    return st;
}

static ss_status compare_buckets(ss_verify *v, int fd, const char *table, const Sidespool__Schema *schema, const ss_digest_bucket *source,
                                 const ss_digest_bucket *target, findings *f, ss_error *reterr) {
    gathering g = {0};
    ss_status st = SS_OK;
    for (size_t b = 0; st == SS_OK && b < SS_DIGEST_BUCKETS; b++) {
        if (memcmp(&source[b], &target[b], sizeof source[b]) != 0) {
            g.wanted[b] = 1;
            g.buckets++;
            g.rows += source[b].rows + target[b].rows;
            g.missing += source[b].rows > target[b].rows ? source[b].rows - target[b].rows : 0;
            g.extra += target[b].rows > source[b].rows ? target[b].rows - source[b].rows : 0;
        }
        if (g.buckets && (g.rows >= ROWS_AT_ONCE || b == SS_DIGEST_BUCKETS - 1))
            st = look_closer(v, fd, table, schema, &g, f, reterr);
    }
    return st;
}

static json_t *table_result(const char *table, const findings *f, uint64_t source_rows, uint64_t target_rows) {
    bool equal = !f->missing && !f->extra && !f->different;
    char note[160] = "";
    if (f->unexplained)
        snprintf(note, sizeof note, "%" PRIu64 " of %u parts differ whose rows could not be told apart: counts are at least so many",
                 f->unexplained, SS_DIGEST_BUCKETS);
    else if (f->missing + f->extra + f->different > json_array_size(f->rows))
        snprintf(note, sizeof note, "more rows differ than are named");
    return json_pack("{s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:O,s:s}", "table", table, "equal", equal, "source_rows", (json_int_t)source_rows,
                     "target_rows", (json_int_t)target_rows, "missing", (json_int_t)f->missing, "extra", (json_int_t)f->extra, "different",
                     (json_int_t)f->different, "rows", f->rows, "note", note);
}

static ss_status compare_table(ss_verify *v, int fd, const char *table, const Sidespool__Schema *schema, json_t *results, ss_error *reterr) {
    ss_digest_bucket *source = calloc(SS_DIGEST_BUCKETS, sizeof *source), *target = calloc(SS_DIGEST_BUCKETS, sizeof *target);
    findings f = {.rows = json_array(), .bytes = &v->named_bytes};
    ss_status st = SS_OK;
    uint64_t rows[2] = {0, 0};
    if (!source || !target || !f.rows)
        st = ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory for a digest");
    if (st == SS_OK)
        st = source_buckets(v, fd, table, source, reterr);
    if (st == SS_OK)
        st = v->ops->digest(v->digest, schema, target, reterr);
    for (size_t b = 0; st == SS_OK && b < SS_DIGEST_BUCKETS; b++) {
        rows[0] += source[b].rows;
        rows[1] += target[b].rows;
    }
    if (st == SS_OK)
        st = compare_buckets(v, fd, table, schema, source, target, &f, reterr);
    if (st == SS_OK)
        json_array_append_new(results, table_result(table, &f, rows[0], rows[1]));
    else
        ss_error_prefix(reterr, "table %s", table);
    json_decref(f.rows);
    free(source);
    free(target);
    return st;
}

/* Waits until the route has reached the mark and opened the target's snapshot. */
static ss_status await_mark(ss_verify *v, ss_error *reterr) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += AWAIT_MARK_S;
    int late = 0;
    pthread_mutex_lock(&v->lock);
    while (!v->marked && !v->mark_failed && !atomic_load(&v->cancel) && late == 0)
        late = pthread_cond_timedwait(&v->changed, &v->lock, &until);
    ss_status st = SS_OK;
    if (!v->marked && !v->mark_failed && late) {
        v->mark_failed = true;
        st = ss_fail(reterr, SS_RETRY, "SS-ROUTE-0012",
                     "verify was given up: route %s did not reach the snapshot's place within %d minutes; let it catch up first "
                     "(sidespool wait --route %s), then ask again", v->route, AWAIT_MARK_S / 60, v->route);
    } else if (!v->marked) {
        *reterr = v->mark_error;
        st = SS_RETRY;
    }
    pthread_mutex_unlock(&v->lock);
    return st;
}

static ss_status compare_all(ss_verify *v, int fd, json_t *opened, json_t *results, ss_error *reterr) {
    json_t *tables = json_object_get(opened, "tables"), *t;
    ss_arena *arena = ss_arena_new(0);
    ss_status st = arena ? SS_OK : ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory for schemas");
    size_t i;
    json_array_foreach(tables, i, t) {
        const char *ns = json_string_value(json_object_get(t, "ns")), *name = json_string_value(json_object_get(t, "name"));
        const char *hex = json_string_value(json_object_get(t, "schema"));
        char table[200];
        size_t len = 0;
        uint8_t *packed = hex ? unhex(hex, &len) : NULL;
        if (!ns || !name || !packed) {
            free(packed);
            st = ss_fail(reterr, SS_STOP, "SS-ROUTE-0009", "the agent did not say how the tables look; use the same version on both sides");
            break;
        }
        snprintf(table, sizeof table, "%s.%s", ns, name);
        say(v, "comparing", table, i, json_array_size(tables));
        Sidespool__Schema *schema;
        st = ss_schema_get(ss_bytes_of(packed, len), arena, table, &schema, reterr);
        if (st == SS_OK)
            st = compare_table(v, fd, table, schema, results, reterr);
        free(packed);
        if (st == SS_OK && atomic_load(&v->cancel))
            st = ss_fail(reterr, SS_RETRY, "SS-ROUTE-0012", "verify was given up");
        if (st != SS_OK)
            break;
    }
    ss_arena_free(arena);
    return st;
}

static void *run(void *arg) {
    ss_verify *v = arg;
    ss_error err = {0};
    json_t *opened = NULL, *results = json_array();
    int fd = -1;
    say(v, "opening a snapshot at the source", "", 0, 0);
    ss_status st = ss_agent_connect(v->spool_path, v->source, &fd, &err);
    pthread_mutex_lock(&v->lock);
    v->agent = fd;
    pthread_mutex_unlock(&v->lock);
    if (st == SS_OK)
        st = ss_agent_ask(fd, json_pack("{s:s,s:s,s:s,s:O}", "op", "verify_open", "id", v->id, "route", v->route, "tables", v->names),
                          ANSWER_MS, &v->cancel, &opened, &err);
    if (st == SS_OK) {
        say(v, "waiting until the target has reached the snapshot's place", "", 0, 0);
        st = await_mark(v, &err);
    }
    if (st == SS_OK)
        st = compare_all(v, fd, opened, results, &err);
    json_decref(opened);
    pthread_mutex_lock(&v->lock);
    if (fd >= 0)
        close(fd); /* ends the snapshot at the source */
    v->agent = -1;
    if (st != SS_OK && atomic_load(&v->cancel)) /* why it was given up, not what broke of that */
        err = v->mark_error;
    v->finished = true;
    v->status = st;
    v->error = err;
    v->result = results;
    pthread_mutex_unlock(&v->lock);
    poke(v);
    return NULL;
}

/* ---- the route's side ------------------------------------------------------------------------------------------ */

static void report_failure(ss_route *r, const char *id, const ss_error *err) {
    ss_report_line(r, json_pack("{s:s,s:b,s:s,s:s}", "verify", id, "ok", 0, "code", err->code ? err->code : "SS-ROUTE-0012", "error", err->text));
}

/* The tables asked for, all of them ready. */
static ss_status select_tables(ss_route *r, const json_t *wanted, json_t *names, ss_error *reterr) {
    bool all = !json_is_array(wanted) || json_array_size(wanted) == 0;
    const json_t *want;
    size_t k, matched = 0;
    json_array_foreach(wanted, k, want)
        all = all || (json_string_value(want) && strcmp(json_string_value(want), "*") == 0);
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_table_state *st = &r->tables[i].st;
        char name[256];
        snprintf(name, sizeof name, "%s.%s", st->ns, st->name);
        bool take = all;
        json_array_foreach(wanted, k, want)
            take = take || (json_string_value(want) && strcmp(json_string_value(want), name) == 0);
        if (!take)
            continue;
        matched++;
        if (st->status != SS_TABLE_READY)
            return ss_fail(reterr, SS_BUSY, "SS-ROUTE-0007", "table %s is %s, so it cannot be compared yet; wait until it is ready", name,
                           ss_table_status_name(st->status));
        json_array_append_new(names, json_string(name));
    }
    if (matched == 0 || (!all && matched < json_array_size(wanted)))
        return ss_fail(reterr, SS_BUSY, "SS-ROUTE-0007", matched ? "route %s does not hold all of the tables named" : "route %s holds none of these tables yet",
                       r->conf->name);
    return SS_OK;
}

static void verify_free(ss_verify *v) {
    if (v->digest)
        v->ops->digest_close(v->digest);
    json_decref(v->names);
    json_decref(v->result);
    if (v->event_fd >= 0)
        close(v->event_fd);
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

static ss_status start(ss_route *r, const char *id, const json_t *command, ss_error *reterr) {
    if (r->verify)
        return ss_fail(reterr, SS_BUSY, "SS-ROUTE-0007", "another verify of route %s is running", r->conf->name);
    if (r->halted)
        return ss_fail(reterr, SS_BUSY, "SS-ROUTE-0007", "verify needs a route that runs, and route %s is halted: %s; mend that first "
                       "(sidespool status shows the command), then verify", r->conf->name, r->reason);
    if (r->paused)
        return ss_fail(reterr, SS_BUSY, "SS-ROUTE-0007", "verify needs a route that runs, and route %s is paused; first: sidespool resume --route %s",
                       r->conf->name, r->conf->name);
    ss_verify *v = calloc(1, sizeof *v);
    if (!v)
        return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory for verify");
    pthread_mutex_init(&v->lock, NULL);
    pthread_condattr_t steady;
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_cond_init(&v->changed, &steady);
    pthread_condattr_destroy(&steady);
    v->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    v->agent = -1;
    v->names = json_array();
    v->spool_path = r->config->spool_path;
    v->source = r->conf->source;
    v->route = r->conf->name;
    v->ops = r->ops;
    snprintf(v->id, sizeof v->id, "%s", id);
    ss_status st = v->event_fd >= 0 && v->names ? SS_OK : ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0014", errno, "no descriptor for verify");
    if (st == SS_OK)
        st = select_tables(r, json_object_get(command, "tables"), v->names, reterr);
    int failed = st == SS_OK ? pthread_create(&v->thread, NULL, run, v) : 0;
    if (failed)
        st = ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0014", failed, "no thread for verify");
    if (st == SS_OK)
        r->verify = v;
    else
        verify_free(v);
    return st;
}

void ss_verify_start(ss_route *r, const json_t *command) {
    const char *id = json_string_value(json_object_get(command, "id"));
    ss_error err = {0};
    if (!id)
        id = "";
    if (start(r, id, command, &err) != SS_OK)
        report_failure(r, id, &err);
}

void ss_verify_mark(ss_route *r, const char *id) {
    ss_verify *v = r->verify;
    if (!v || strcmp(v->id, id) != 0)
        return;
    pthread_mutex_lock(&v->lock);
    if (!v->marked && !v->mark_failed && !atomic_load(&v->cancel)) {
        v->marked = r->ops->digest_open(&r->env, r->target, &v->digest, &v->mark_error) == SS_OK;
        v->mark_failed = !v->marked;
        pthread_cond_signal(&v->changed);
    }
    pthread_mutex_unlock(&v->lock);
}

const char *ss_verify_id(const ss_route *r) { return r->verify ? r->verify->id : ""; }

int ss_verify_fd(const ss_route *r) { return r->verify ? r->verify->event_fd : -1; }

void ss_verify_cancel(ss_route *r, const char *why) {
    ss_verify *v = r->verify;
    if (!v)
        return;
    pthread_mutex_lock(&v->lock);
    if (!atomic_load(&v->cancel) && !v->mark_failed) {
        ss_fail(&v->mark_error, SS_RETRY, "SS-ROUTE-0012", "verify was given up: %s", why);
        v->mark_failed = !v->marked;
    }
    atomic_store(&v->cancel, true);
    if (v->agent >= 0)
        shutdown(v->agent, SHUT_RDWR); /* the snapshot at the source ends now, whatever the thread is waiting for */
    pthread_cond_signal(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

void ss_verify_poll(ss_route *r) {
    ss_verify *v = r->verify;
    if (!v)
        return;
    uint64_t seen;
    while (read(v->event_fd, &seen, sizeof seen) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&v->lock);
    bool finished = v->finished, news = v->news;
    json_t *progress = news ? json_pack("{s:s,s:s,s:I,s:I}", "step", v->step, "table", v->table, "done", (json_int_t)v->done, "total",
                                        (json_int_t)v->total)
                            : NULL;
    v->news = false;
    pthread_mutex_unlock(&v->lock);
    if (progress)
        ss_report_line(r, json_pack("{s:s,s:o}", "verify", v->id, "progress", progress));
    if (!finished)
        return;
    pthread_join(v->thread, NULL);
    r->verify = NULL;
    if (v->status != SS_OK) {
        report_failure(r, v->id, &v->error);
    } else {
        bool equal = true;
        json_t *t;
        size_t i;
        json_array_foreach(v->result, i, t)
            equal = equal && json_is_true(json_object_get(t, "equal"));
        SS_LOG(equal ? SS_INFO : SS_WARN, "verified", SS_U("tables", json_array_size(v->result)),
               SS_S("equal", equal ? "yes" : "no"));
        ss_report_line(r, json_pack("{s:s,s:{s:b,s:O}}", "verify", v->id, "result", "equal", equal, "tables", v->result));
    }
    verify_free(v);
}
