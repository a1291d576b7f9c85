/* Prepared statements and the pipeline.
 *
 * A batch is sent without waiting: preparations, rows, states and progress, then one sync. libpq
 * answers in order, and after the first error the server skips to the sync, so the answers say
 * exactly how far it came. Prepared statements outlive transactions; one whose preparation was
 * skipped is forgotten here, too. */
#include "target_postgres.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define SYNC_MOST_MS 10000

struct ss_tgt_stmt {
    struct ss_tgt_stmt *chain;         /* same slot */
    struct ss_tgt_stmt *newer, *older; /* by use */
    uint64_t hash, serial;
    bool leaving; /* its DEALLOCATE was sent: not found any more, and in no order of use */
    size_t key_len;
    uint8_t key[];
};

static void stmt_name(const ss_tgt_stmt *stmt, char *ret, size_t size) {
    snprintf(ret, size, "s%" PRIu64, stmt->serial);
}

static uint64_t hash_of(const uint8_t *ptr, size_t len) {
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ ptr[i]) * 1099511628211u;
    return hash ^ (hash >> 32);
}

static void unlink_use(ss_target *t, ss_tgt_stmt *s) {
    *(s->newer != NULL ? &s->newer->older : &t->newest) = s->older;
    *(s->older != NULL ? &s->older->newer : &t->oldest) = s->newer;
    s->newer = s->older = NULL;
}

static void link_newest(ss_target *t, ss_tgt_stmt *s) {
    s->older = t->newest;
    s->newer = NULL;
    *(t->newest != NULL ? &t->newest->newer : &t->oldest) = s;
    t->newest = s;
}

static void forget(ss_target *t, ss_tgt_stmt *s) {
    ss_tgt_stmt **at = &t->slots[s->hash % SS_TGT_STMT_SLOTS];
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    if (!s->leaving) {
        unlink_use(t, s);
        t->stmt_count--;
    }
    free(s);
}

void ss_tgt_stmts_forget(ss_target *t) {
    for (size_t i = 0; i < SS_TGT_STMT_SLOTS; i++)
        while (t->slots[i] != NULL)
            forget(t, t->slots[i]);
}

ss_tgt_stmt *ss_tgt_stmt_find(ss_target *t) {
    uint64_t hash = hash_of(t->key.ptr, t->key.len);
    for (ss_tgt_stmt *s = t->slots[hash % SS_TGT_STMT_SLOTS]; s != NULL; s = s->chain)
        if (!s->leaving && s->hash == hash && s->key_len == t->key.len &&
            memcmp(s->key, t->key.ptr, s->key_len) == 0) {
            unlink_use(t, s);
            link_newest(t, s);
            return s;
        }
    return NULL;
}

/* ---- the pipeline
 * --------------------------------------------------------------------------------------------------------
 */
static ss_status owe(ss_target *t, ss_tgt_answer answer, ss_error *reterr) {
    if (t->answer_count == t->answer_cap) {
        size_t cap = t->answer_cap == 0 ? 256 : 2 * t->answer_cap;
        ss_tgt_answer *more = reallocarray(t->answers, cap, sizeof *more);
        if (more == NULL)
            return ss_tgt_nomem(reterr);
        t->answers = more;
        t->answer_cap = cap;
    }
    t->answers[t->answer_count++] = answer;
    return SS_OK;
}

ss_status ss_tgt_pipe_open(ss_target *t, ss_error *reterr) {
    t->answer_count = 0;
    if (PQenterPipelineMode(t->conn) != 1)
        return ss_tgt_error(t->conn, NULL, "opening the pipeline", reterr);
    return SS_OK;
}

ss_status ss_tgt_control(ss_target *t, const char *sql, ss_error *reterr) {
    ss_status status = owe(t, (ss_tgt_answer){.kind = SS_TGT_CONTROL}, reterr);
    if (status == SS_OK && PQsendQueryParams(t->conn, sql, 0, NULL, NULL, NULL, NULL, 0) != 1)
        status = ss_tgt_error(t->conn, NULL, "sending to the target", reterr);
    return status;
}

static ss_status evict(ss_target *t, ss_error *reterr) {
    char name[32], sql[64];
    ss_tgt_stmt *old = t->oldest;
    stmt_name(old, name, sizeof name);
    snprintf(sql, sizeof sql, "DEALLOCATE %s", name);
    /* It is forgotten when the server has: skipped after an error, its DEALLOCATE does nothing, and
     * the statement would stay for the session's life. */
    ss_status status = owe(t, (ss_tgt_answer){.kind = SS_TGT_DEALLOCATE, .stmt = old}, reterr);
    if (status != SS_OK)
        return status;
    unlink_use(t, old);
    t->stmt_count--;
    old->leaving = true;
    if (PQsendQueryParams(t->conn, sql, 0, NULL, NULL, NULL, NULL, 0) != 1)
        return ss_tgt_error(t->conn, NULL, "sending to the target", reterr);
    return SS_OK;
}

/* Its DEALLOCATE was skipped: it is there, and the first to go. */
static void keep(ss_target *t, ss_tgt_stmt *s) {
    s->leaving = false;
    s->newer = t->oldest;
    s->older = NULL;
    *(t->oldest != NULL ? &t->oldest->older : &t->newest) = s;
    t->oldest = s;
    t->stmt_count++;
}

ss_status ss_tgt_stmt_make(ss_target *t, int params, Oid type, ss_tgt_stmt **ret,
                           ss_error *reterr) {
    const char *sql = ss_buf_cstr(&t->sql);
    if (t->sql.bad || t->key.bad)
        return ss_tgt_nomem(reterr);
    ss_status status = t->stmt_count >= SS_TGT_STMT_MOST ? evict(t, reterr) : SS_OK;
    if (status != SS_OK)
        return status;
    Oid *types = calloc((size_t)params + 1, sizeof *types);
    ss_tgt_stmt *s = calloc(1, sizeof *s + t->key.len);
    if (types == NULL || s == NULL) {
        free(types);
        free(s);
        return ss_tgt_nomem(reterr);
    }
    for (int i = 0; i < params; i++)
        types[i] = type;
    memcpy(s->key, t->key.ptr, t->key.len);
    s->key_len = t->key.len;
    s->hash = hash_of(s->key, s->key_len);
    s->serial = ++t->stmt_serial;
    s->chain = t->slots[s->hash % SS_TGT_STMT_SLOTS];
    t->slots[s->hash % SS_TGT_STMT_SLOTS] = s;
    link_newest(t, s);
    t->stmt_count++;
    char name[32];
    stmt_name(s, name, sizeof name);
    status = owe(t, (ss_tgt_answer){.kind = SS_TGT_PREPARE, .stmt = s}, reterr);
    if (status == SS_OK && PQsendPrepare(t->conn, name, sql, params, types) != 1)
        status = ss_tgt_error(t->conn, NULL, "sending to the target", reterr);
    free(types);
    *ret = s;
    return status;
}

ss_status ss_tgt_stmt_send(ss_target *t, ss_tgt_stmt *stmt, int params, ss_tgt_answer answer,
                           ss_error *reterr) {
    char name[32];
    stmt_name(stmt, name, sizeof name);
    ss_status status = owe(t, answer, reterr);
    if (status == SS_OK &&
        PQsendQueryPrepared(t->conn, name, params, t->values, t->lengths, t->formats, 0) != 1)
        status = ss_tgt_error(t->conn, NULL, "sending to the target", reterr);
    return status;
}

ss_status ss_tgt_values_room(ss_target *t, size_t count, ss_error *reterr) {
    if (count <= t->value_cap)
        return SS_OK;
    size_t cap = count < 64 ? 64 : count * 2;
    const char **values = reallocarray(t->values, cap, sizeof *values);
    if (values != NULL)
        t->values = values;
    int *lengths = reallocarray(t->lengths, cap, sizeof *lengths);
    if (lengths != NULL)
        t->lengths = lengths;
    int *formats = reallocarray(t->formats, cap, sizeof *formats);
    if (formats != NULL)
        t->formats = formats;
    if (values == NULL || lengths == NULL || formats == NULL)
        return ss_tgt_nomem(reterr);
    t->value_cap = cap;
    return SS_OK;
}

/* ---- reading the answers
 * ----------------------------------------------------------------------------------------------------
 */
static void describe(const ss_tgt_answer *a, char *ret, size_t size) {
    if (a->kind == SS_TGT_ROWS && a->sequence != 0)
        snprintf(ret, size, "table %s, %s, record %" PRIu64, a->table->shown, ss_tgt_op_name(a->op),
                 a->sequence);
    else if (a->kind == SS_TGT_ROWS)
        snprintf(ret, size, "table %s, %s", a->table->shown, ss_tgt_op_name(a->op));
    else
        snprintf(ret, size, "writing a batch");
}

static ss_status drift(const ss_tgt_answer *a, uint64_t matched, ss_error *reterr) {
    char record[48] = "";
    if (a->sequence != 0)
        snprintf(record, sizeof record, " (record %" PRIu64 ")", a->sequence);
    return ss_fail(reterr, SS_STOP, "SS-TGT-0007",
                   "Drift in table %s: %s%s expected %" PRIu64 " row%s, matched %" PRIu64
                   "; the copy was written by somebody else: "
                   "a resync of the table makes it equal.",
                   a->table->shown, ss_tgt_op_name(a->op), record, a->expected,
                   a->expected == 1 ? "" : "s", matched);
}

/* One answer. SS_BUSY: a group that the table's order may still heal. */
static ss_status judge(ss_target *t, const ss_tgt_answer *a, PGresult *res, ss_tgt_trouble *trouble,
                       ss_error *reterr) {
    ExecStatusType got = PQresultStatus(res);
    if (got == PGRES_PIPELINE_ABORTED)
        return SS_OK; /* the failure before it speaks */
    char what[256];
    if (got != PGRES_COMMAND_OK && got != PGRES_TUPLES_OK) {
        const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
        if (a->kind == SS_TGT_ROWS && !a->ordered && state != NULL &&
            ss_tgt_sqlstate_refusal(state)) {
            *trouble = (ss_tgt_trouble){.table = a->table, .refused = true};
            return SS_BUSY;
        }
        describe(a, what, sizeof what);
        return ss_tgt_error(t->conn, res, what, reterr);
    }
    if (a->kind != SS_TGT_ROWS)
        return SS_OK;
    uint64_t matched = strtoull(PQcmdTuples(res), NULL, 10);
    if (matched == a->expected)
        return SS_OK;
    if (a->ordered)
        return drift(a, matched, reterr);
    *trouble = (ss_tgt_trouble){.table = a->table};
    return SS_BUSY;
}

/* Takes one whole answer (a result, then NULL). Only the first trouble counts. */
static ss_status read_one(ss_target *t, size_t i, ss_tgt_trouble *trouble, ss_status so_far,
                          ss_error *reterr) {
    PGresult *res = PQgetResult(t->conn);
    if (res == NULL)
        return so_far == SS_OK ? ss_tgt_error(t->conn, NULL, "reading the target's answers", reterr)
                               : so_far;
    ss_tgt_answer *a = &t->answers[i];
    bool done = PQresultStatus(res) == PGRES_COMMAND_OK;
    if (a->kind == SS_TGT_PREPARE && a->stmt != NULL && !done) {
        for (size_t k = i + 1; k < t->answer_count; k++) /* evicted in this very pipeline */
            if (t->answers[k].stmt == a->stmt)
                t->answers[k].stmt = NULL;
        forget(t, a->stmt);
    } else if (a->kind == SS_TGT_DEALLOCATE && a->stmt != NULL) {
        if (done)
            forget(t, a->stmt);
        else
            keep(t, a->stmt);
    }
    ss_status status = so_far == SS_OK ? judge(t, a, res, trouble, reterr) : so_far;
    PQclear(res);
    while ((res = PQgetResult(t->conn)) != NULL)
        PQclear(res);
    return status;
}

/* libpq (15) that finds no memory for an answer either takes it off the wire and waits for another, for ever, or leaves it in its
 * buffer and looks at it again when more comes, which never does: so what is there is looked at again each 100 ms, at most
 * `most_ms` long (0: without end). */
PGresult *ss_tgt_result(PGconn *conn, int most_ms) {
    for (int waited = 0; PQisBusy(conn); waited += 100) {
        struct pollfd link = {.fd = PQsocket(conn), .events = POLLIN};
        if ((most_ms > 0 && waited >= most_ms) || (poll(&link, 1, 100) < 0 && errno != EINTR) || PQconsumeInput(conn) != 1)
            return NULL;
    }
    return PQgetResult(conn);
}

ss_status ss_tgt_pipe_close(ss_target *t, ss_tgt_trouble *trouble, ss_error *reterr) {
    *trouble = (ss_tgt_trouble){0};
    if (PQpipelineSync(t->conn) != 1)
        return ss_tgt_error(t->conn, NULL, "sending to the target", reterr);
    ss_status status = SS_OK;
    for (size_t i = 0; i < t->answer_count && PQstatus(t->conn) == CONNECTION_OK; i++)
        status = read_one(t, i, trouble, status, reterr);
    t->answer_count = 0;
    if (PQstatus(t->conn) != CONNECTION_OK)
        return status == SS_OK || status == SS_BUSY
                   ? ss_tgt_error(t->conn, NULL, "reading the target's answers", reterr)
                   : status;
    PGresult *res = ss_tgt_result(t->conn, SYNC_MOST_MS); /* it follows the last answer at once */
    bool synced = PQresultStatus(res) == PGRES_PIPELINE_SYNC;
    PQclear(res);
    if (!synced || PQexitPipelineMode(t->conn) != 1)
        return ss_tgt_error(t->conn, NULL, "reading the target's answers", reterr);
    return status;
}
