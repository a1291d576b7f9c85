/* `<source>/selected`, see selected.h. One JSON object:
 * {"sidespool_selected":1,"tables":{KEY:{"ns","name","id","state","since"}}}.
 *
 * States: "captured"; "broken": selected and announced by a TableGap, but the source does not publish it
 * until a copy has it published; "left": its changes are not whole, and no TableGap has said so yet. */
#include "agents/selected.h"

#include "agents/durable_file.h"
#include "agents/state.h"
#include "sidespool/bytes.h"
#include "sidespool/log.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define CAPTURED "captured"
#define BROKEN "broken"
#define LEFT "left"

struct ss_selected {
    pthread_mutex_t mutex;
    char *dir;
    json_t *tables; /* NULL: not read yet */
    bool absent;    /* there was no file */
};

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for the set of selected tables");
}

const char *ss_selected_reason(ss_selected_gap why) {
    static const char *const reasons[SS_GAP_REASONS] = {
        [SS_WHOLE] = "",
        [SS_GAP_AWAY] = "it was not captured for a while, and what changed meanwhile is in no stream",
        [SS_GAP_ANEW] = "it was dropped and created anew on the source",
        [SS_GAP_UNPUBLISHED] = "the source no longer publishes it",
        [SS_GAP_UNKNOWN] = ("the agent's file `selected` is missing, so nobody knows whether all of its "
                            "changes were captured"),
    };
    return why < SS_GAP_REASONS ? reasons[why] : "";
}

ss_status ss_selected_new(const char *dir, ss_selected **ret, ss_error *reterr) {
    ss_selected *s = calloc(1, sizeof *s);
    if (s != NULL)
        s->dir = strdup(dir);
    if (s == NULL || s->dir == NULL) {
        free(s);
        return no_memory(reterr);
    }
    int rc = pthread_mutex_init(&s->mutex, NULL);
    if (rc != 0) {
        free(s->dir);
        free(s);
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0001", rc, "cannot make a mutex");
    }
    *ret = s;
    return SS_OK;
}

void ss_selected_free(ss_selected *s) {
    if (s == NULL)
        return;
    json_decref(s->tables);
    pthread_mutex_destroy(&s->mutex);
    free(s->dir);
    free(s);
}

/* ---- the file
 * --------------------------------------------------------------------------------------------- */

static ss_status path_fail(ss_error *reterr, int err, const char *doing, const char *path) {
    return ss_fail_sys(reterr, SS_RETRY, "SS-AGENT-0010", err, "cannot %s %s", doing, path);
}

static bool entries_fit(json_t *tables) {
    const char *key;
    json_t *entry;

    json_object_foreach(tables, key, entry) {
        const char *ns, *name, *id, *state;
        json_int_t since;
        if (json_unpack(entry, "{s:s, s:s, s:s, s:s, s:I}", "ns", &ns, "name", &name, "id", &id,
                        "state", &state, "since", &since) != 0 ||
            (strcmp(state, CAPTURED) != 0 && strcmp(state, BROKEN) != 0 &&
             strcmp(state, LEFT) != 0))
            return false;
    }
    return true;
}

static ss_status load(ss_selected *s, ss_error *reterr) {
    char file[PATH_MAX];
    json_error_t error;
    int version = 0;
    json_t *tables = NULL;

    if (s->tables != NULL)
        return SS_OK;
    snprintf(file, sizeof file, "%s/selected", s->dir);
    FILE *in = fopen(file, "re");
    if (in == NULL && errno != ENOENT)
        return path_fail(reterr, errno, "read", file);
    if (in == NULL) {
        s->absent = true;
        s->tables = json_object();
        return s->tables != NULL ? SS_OK : no_memory(reterr);
    }
    json_t *root = json_loadf(in, JSON_REJECT_DUPLICATES, &error);
    int err = ferror(in) ? errno : 0;
    fclose(in);
    if (err != 0) {
        json_decref(root);
        return path_fail(reterr, err, "read", file);
    }
    if (root == NULL ||
        json_unpack(root, "{s:i, s:o}", "sidespool_selected", &version, "tables", &tables) != 0 ||
        version != 1 || !json_is_object(tables) || !entries_fit(tables)) {
        json_decref(root);
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0015",
                       "%s is damaged, so it is not known which tables were captured all the time; "
                       "remove it and resume: routes then copy their tables anew",
                       file);
    }
    s->tables = json_incref(tables);
    json_decref(root);
    return SS_OK;
}

/* If we die before the new set lasts, the old one stands, and the next comparison finds the same differences again. */
static ss_status save(const char *dir, json_t *tables, ss_error *reterr) {
    json_t *root = json_pack("{s:i, s:O}", "sidespool_selected", 1, "tables", tables);
    char *text = root != NULL ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (text == NULL)
        return no_memory(reterr);
    size_t len = strlen(text);
    text[len] = '\n'; /* in the NUL's place: a text file's last line ends */
    ss_status status = ss_durable_replace(dir, "selected", ss_bytes_of(text, len + 1), "SS-AGENT-0010", reterr);
    free(text);
    return status;
}

/* ---- entries
 * ---------------------------------------------------------------------------------------------- */

/* JSON holds UTF-8 only; a name that is none (a database of SQL_ASCII) is written with %XX. */
static void put_text(ss_buf *out, const char *text) {
    json_t *fits = json_string(text);

    if (fits != NULL)
        ss_buf_put_str(out, text);
    for (const char *p = text; fits == NULL && *p != '\0'; p++) {
        if ((unsigned char)*p >= 0x80 || *p == '%')
            ss_buf_printf(out, "%%%02X", (unsigned)(unsigned char)*p);
        else
            ss_buf_put_byte(out, (uint8_t)*p);
    }
    json_decref(fits);
}

/* The length of ns keeps "a.b"."c" and "a"."b.c" apart. NULL: no memory. */
static const char *key_of(ss_buf *key, const char *ns, const char *name) {
    ss_buf_clear(key);
    ss_buf_printf(key, "%zu ", strlen(ns));
    put_text(key, ns);
    ss_buf_put_byte(key, '.');
    put_text(key, name);
    return key->bad ? NULL : ss_buf_cstr(key);
}

static const char *text_at(const json_t *entry, const char *name) {
    const char *text = json_string_value(json_object_get(entry, name));
    return text != NULL ? text : "";
}

/* Puts an entry anew; `since` moves when the state does. false: no memory. */
static bool put_entry(json_t *tables, const char *ns, const char *name, const char *id,
                      const char *state) {
    ss_buf key, plain_ns, plain_name;
    bool done = false;

    ss_buf_init(&key);
    ss_buf_init(&plain_ns);
    ss_buf_init(&plain_name);
    put_text(&plain_ns, ns);
    put_text(&plain_name, name);
    const char *at = key_of(&key, ns, name);
    if (at != NULL && !plain_ns.bad && !plain_name.bad) {
        const json_t *old = json_object_get(tables, at);
        json_int_t since = strcmp(text_at(old, "state"), state) == 0
                               ? json_integer_value(json_object_get(old, "since"))
                               : (json_int_t)ss_now_us();
        json_t *entry = json_pack("{s:s, s:s, s:s, s:s, s:I}", "ns", ss_buf_cstr(&plain_ns), "name",
                                  ss_buf_cstr(&plain_name), "id", id, "state", state, "since", since);
        done = entry != NULL && json_object_set_new(tables, at, entry) == 0;
    }
    ss_buf_done(&key);
    ss_buf_done(&plain_ns);
    ss_buf_done(&plain_name);
    return done;
}

/* ---- comparing
 * --------------------------------------------------------------------------------------------- */

/* What became of a table that the source selects now. */
static ss_selected_gap judge(const ss_selected *s, const json_t *old, const ss_source_table *table,
                             bool adopt) {
    const char *state = text_at(old, "state");

    if (adopt)
        return SS_WHOLE;
    if (old == NULL)
        return s->absent && table->captured ? SS_GAP_UNKNOWN : SS_WHOLE;
    if (strcmp(state, LEFT) == 0)
        return SS_GAP_AWAY;
    if (strcmp(state, BROKEN) == 0) /* said already; again only when it comes back without a copy */
        return table->captured ? SS_GAP_AWAY : SS_WHOLE;
    if (strcmp(text_at(old, "id"), table->id) != 0)
        return SS_GAP_ANEW;
    return table->captured ? SS_WHOLE : SS_GAP_UNPUBLISHED;
}

static bool plan_table(const ss_selected *s, const ss_source_table *table, bool adopt, json_t *seen,
                       ss_buf *key, ss_selected_plan *plan, size_t i) {
    const char *at = key_of(key, table->ns, table->name);
    if (at == NULL || json_object_set_new(seen, at, json_true()) != 0)
        return false;
    const json_t *old = json_object_get(s->tables, at);
    if (old == NULL && !table->captured) /* new, and no route can have it before a copy */
        return true;
    const char *state = table->captured ? CAPTURED : BROKEN;
    plan->why[i] = (uint8_t)judge(s, old, table, adopt);
    plan->gaps += plan->why[i] != SS_WHOLE;
    plan->changes += strcmp(text_at(old, "state"), state) != 0 ||
                     strcmp(text_at(old, "id"), table->id) != 0;
    return put_entry(plan->after, table->ns, table->name, table->id, state);
}

static bool plan_leavers(const ss_selected *s, const json_t *seen, ss_selected_plan *plan) {
    const char *key;
    json_t *old;

    json_object_foreach(s->tables, key, old) {
        if (json_object_get(seen, key) != NULL || strcmp(text_at(old, "state"), LEFT) == 0)
            continue;
        json_t *entry = json_pack("{s:s, s:s, s:s, s:s, s:I}", "ns", text_at(old, "ns"), "name",
                                  text_at(old, "name"), "id", text_at(old, "id"), "state", LEFT,
                                  "since", (json_int_t)ss_now_us());
        if (entry == NULL || json_object_set_new(plan->after, key, entry) != 0)
            return false;
        plan->changes++;
    }
    return true;
}

ss_status ss_selected_compare(ss_selected *s, const ss_source_table *tables, size_t count, bool adopt,
                              ss_selected_plan *ret, ss_error *reterr) {
    ss_selected_plan plan = {0};
    json_t *seen = json_object();
    ss_buf key;

    ss_buf_init(&key);
    pthread_mutex_lock(&s->mutex);
    ss_status status = load(s, reterr);
    if (status == SS_OK) {
        plan.after = json_copy(s->tables); /* entries are replaced, never changed */
        plan.why = calloc(count + 1, sizeof *plan.why);
        bool ok = plan.after != NULL && plan.why != NULL && seen != NULL;
        for (size_t i = 0; ok && i < count; i++)
            ok = plan_table(s, &tables[i], adopt, seen, &key, &plan, i);
        ok = ok && plan_leavers(s, seen, &plan);
        plan.save = plan.changes > 0 || s->absent;
        if (!ok)
            status = no_memory(reterr);
    }
    pthread_mutex_unlock(&s->mutex);
    ss_buf_done(&key);
    json_decref(seen);
    if (status == SS_OK)
        *ret = plan;
    else
        ss_selected_plan_done(&plan);
    return status;
}

void ss_selected_plan_done(ss_selected_plan *plan) {
    json_decref(plan->after);
    free(plan->why);
    *plan = (ss_selected_plan){0};
}

static void log_leavers(const json_t *before, json_t *after) {
    const char *key;
    json_t *entry;

    json_object_foreach(after, key, entry) {
        if (strcmp(text_at(entry, "state"), LEFT) == 0 &&
            strcmp(text_at(json_object_get(before, key), "state"), LEFT) != 0)
            SS_LOG(SS_WARN, "table_left", SS_S("schema", text_at(entry, "ns")),
                   SS_S("table", text_at(entry, "name")),
                   SS_S("meaning", "it is not captured any more; its copies stand still, and are made "
                                   "anew if it comes back"));
    }
}

/* The mutex is held. */
static ss_status replace(ss_selected *s, json_t *after, ss_error *reterr) {
    ss_status status = save(s->dir, after, reterr);
    if (status != SS_OK)
        return status;
    log_leavers(s->tables, after);
    json_decref(s->tables);
    s->tables = json_incref(after);
    s->absent = false;
    return SS_OK;
}

/* What a copy noted between compare and accept is taken over: a table that the plan did not know. */
ss_status ss_selected_accept(ss_selected *s, const ss_selected_plan *plan, ss_error *reterr) {
    ss_status status = SS_OK;

    if (!plan->save)
        return SS_OK;
    pthread_mutex_lock(&s->mutex);
    if (json_object_update_missing(plan->after, s->tables) != 0)
        status = no_memory(reterr);
    if (status == SS_OK)
        status = replace(s, plan->after, reterr);
    pthread_mutex_unlock(&s->mutex);
    return status;
}

/* ---- copies, and tables that break
 * ----------------------------------------------------------------------------- */

static ss_status copied(const ss_selected *s, const ss_snapshot_table *table, json_t *after,
                        ss_buf *key, ss_error *reterr) {
    const char *at = key_of(key, table->schema->ns, table->schema->name);
    if (at == NULL)
        return no_memory(reterr);
    const json_t *old = json_object_get(s->tables, at);
    const char *state = text_at(old, "state");
    bool captured = strcmp(state, CAPTURED) == 0;
    if (strcmp(state, LEFT) == 0 || (captured && strcmp(text_at(old, "id"), table->id) != 0))
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0016",
                       "table %s.%s was replaced or broke while its copy began; that is noted first, "
                       "and a new snapshot taken",
                       table->schema->ns, table->schema->name);
    if (captured)
        return SS_OK;
    return put_entry(after, table->schema->ns, table->schema->name, table->id, CAPTURED)
               ? SS_OK
               : no_memory(reterr);
}

/* Crash argument: if we die between this and the CopyBegin, the set holds tables that no route has yet:
 * should they leave and come back, a TableGap is written that nobody needed. The other way round, a route
 * could hold a table that we do not know, and its leaving would go unnoticed. */
ss_status ss_selected_copied(ss_selected *s, const ss_snapshot_table *tables, size_t count,
                             ss_error *reterr) {
    json_t *after = NULL;
    ss_buf key;

    ss_buf_init(&key);
    pthread_mutex_lock(&s->mutex);
    ss_status status = load(s, reterr);
    if (status == SS_OK) {
        after = json_copy(s->tables);
        if (after == NULL)
            status = no_memory(reterr);
    }
    for (size_t i = 0; i < count && status == SS_OK; i++)
        status = copied(s, &tables[i], after, &key, reterr);
    if (status == SS_OK && !json_equal(after, s->tables))
        status = replace(s, after, reterr);
    pthread_mutex_unlock(&s->mutex);
    json_decref(after);
    ss_buf_done(&key);
    return status;
}

ss_status ss_selected_broken(ss_selected *s, const char *ns, const char *name, ss_error *reterr) {
    json_t *after = NULL;
    ss_buf key;

    ss_buf_init(&key);
    pthread_mutex_lock(&s->mutex);
    ss_status status = load(s, reterr);
    if (status == SS_OK) {
        const char *at = key_of(&key, ns, name);
        const json_t *old = at != NULL ? json_object_get(s->tables, at) : NULL;
        after = json_copy(s->tables);
        if (at == NULL || after == NULL || !put_entry(after, ns, name, text_at(old, "id"), LEFT))
            status = no_memory(reterr);
    }
    if (status == SS_OK)
        status = replace(s, after, reterr);
    pthread_mutex_unlock(&s->mutex);
    json_decref(after);
    ss_buf_done(&key);
    return status;
}

json_t *ss_selected_left(ss_selected *s, size_t most) {
    json_t *list = json_array(), *entry;
    const char *key;

    pthread_mutex_lock(&s->mutex);
    json_object_foreach(s->tables, key, entry) {
        if (strcmp(text_at(entry, "state"), LEFT) != 0 || json_array_size(list) >= most)
            continue;
        json_array_append_new(list,
                              json_pack("{s:o, s:O}", "table",
                                        json_sprintf("%s.%s", text_at(entry, "ns"), text_at(entry, "name")),
                                        "since", json_object_get(entry, "since")));
    }
    pthread_mutex_unlock(&s->mutex);
    return list;
}
