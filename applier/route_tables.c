/* The route's tables with their states, and the schemas by which the stream speaks of them. */
#include "applier/route.h"

#include <stdlib.h>
#include <xxhash.h>

const char *ss_table_status_name(ss_table_status status) {
    static const char *const names[] = {"absent", "copying", "catching_up", "ready"};
    return (unsigned)status < 4 ? names[status] : "unknown";
}

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory; the route starts again from the target's progress");
}

/* ---- by name --------------------------------------------------------------------------------------------------- */

static size_t bucket_of(const ss_route *r, const char *ns, const char *name) {
    uint64_t hash = XXH3_64bits_withSeed(name, strlen(name), XXH3_64bits(ns, strlen(ns)));
    return (size_t)(hash & (r->table_cap - 1));
}

static void index_put(ss_route *r, size_t i) {
    size_t *head = &r->table_index[bucket_of(r, r->tables[i].st.ns, r->tables[i].st.name)];
    r->tables[i].next = *head;
    *head = i + 1;
}

ss_route_table *ss_route_table_find(ss_route *r, const char *ns, const char *name) {
    if (r->table_count == 0)
        return NULL;
    for (size_t i = r->table_index[bucket_of(r, ns, name)]; i; i = r->tables[i - 1].next) {
        ss_route_table *t = &r->tables[i - 1];
        if (strcmp(t->st.name, name) == 0 && strcmp(t->st.ns, ns) == 0)
            return t;
    }
    return NULL;
}

/* The table of "schema.table"; a schema's name may hold a dot, so each is tried. NULL: the route does not hold it. */
ss_route_table *ss_route_table_named(ss_route *r, const char *text) {
    for (const char *dot = strchr(text, '.'); dot; dot = strchr(dot + 1, '.')) {
        char ns[256];
        int len = snprintf(ns, sizeof ns, "%.*s", (int)(dot - text), text);
        ss_route_table *t = len > 0 && (size_t)len < sizeof ns ? ss_route_table_find(r, ns, dot + 1) : NULL;
        if (t)
            return t;
    }
    return NULL;
}

static ss_status grow(ss_route *r, ss_error *reterr) {
    size_t cap = r->table_cap ? r->table_cap * 2 : 64; /* a power of two: bucket_of */
    size_t *index = calloc(cap, sizeof *index);
    ss_route_table *more = index ? reallocarray(r->tables, cap, sizeof *more) : NULL;
    if (!more) {
        free(index);
        return no_memory(reterr);
    }
    free(r->table_index);
    r->table_index = index;
    r->tables = more;
    r->table_cap = cap;
    for (size_t i = 0; i < r->table_count; i++)
        index_put(r, i);
    return SS_OK;
}

ss_status ss_route_table_add(ss_route *r, const char *ns, const char *name, ss_route_table **ret, ss_error *reterr) {
    if (r->table_count == r->table_cap) {
        ss_status st = grow(r, reterr);
        if (st != SS_OK)
            return st;
    }
    char *own_ns = strdup(ns), *own_name = strdup(name);
    if (!own_ns || !own_name) {
        free(own_ns);
        free(own_name);
        return no_memory(reterr);
    }
    ss_route_table *t = &r->tables[r->table_count++];
    *t = (ss_route_table){.st = {.ns = own_ns, .name = own_name}};
    index_put(r, r->table_count - 1);
    ss_route_states_changed(r);
    ss_route_schemas_clear(r); /* a schema may have been noted as one of no table */
    *ret = t;
    return SS_OK;
}

void ss_route_tables_clear(ss_route *r) {
    for (size_t i = 0; i < r->table_count; i++) {
        free((char *)(uintptr_t)r->tables[i].st.ns); /* ours, from strdup */
        free((char *)(uintptr_t)r->tables[i].st.name);
    }
    r->table_count = 0;
    if (r->table_index)
        memset(r->table_index, 0, r->table_cap * sizeof *r->table_index);
    ss_route_states_changed(r);
    ss_route_schemas_clear(r);
}

ss_status ss_route_tables_load(ss_route *r, ss_error *reterr) {
    ss_table_state *states = NULL;
    size_t count = 0;
    ss_arena_reset(r->scratch);
    ss_status st = ss_route_target(r, r->ops->states(r->target, r->scratch, &states, &count, reterr));
    if (st != SS_OK)
        return st;
    ss_route_tables_clear(r);
    for (size_t i = 0; i < count; i++) {
        ss_route_table *t;
        st = ss_route_table_add(r, states[i].ns, states[i].name, &t, reterr);
        if (st != SS_OK)
            return st;
        const char *ns = t->st.ns, *name = t->st.name;
        t->st = states[i];
        t->st.ns = ns;
        t->st.name = name;
    }
    ss_route_states_changed(r);
    return SS_OK;
}

/* ---- what all of them are at ----------------------------------------------------------------------------------- */

void ss_route_states_changed(ss_route *r) { r->counts.fresh = false; }

static bool loads(const ss_route *r, size_t count, uint64_t generation) {
    for (size_t i = 0; i < count; i++)
        if (r->generations[i] == generation)
            return true;
    return false;
}

/* The generations that still load rows: one or two, as an agent runs one copy at a time. false: no memory; they are then all
 * taken to load, so that nothing joins too early. */
static bool note_loading(ss_route *r, size_t *count, uint64_t generation) {
    if (loads(r, *count, generation))
        return true;
    if (*count == r->generation_cap) {
        size_t cap = r->generation_cap ? r->generation_cap * 2 : 8;
        uint64_t *more = reallocarray(r->generations, cap, sizeof *more);
        if (!more)
            return false;
        r->generations = more;
        r->generation_cap = cap;
    }
    r->generations[(*count)++] = generation;
    return true;
}

const ss_route_counts *ss_route_tally(ss_route *r) {
    ss_route_counts *c = &r->counts;
    if (c->fresh)
        return c;
    *c = (ss_route_counts){.fresh = true, .catchup_from = UINT64_MAX};
    size_t count = 0;
    bool known = true;
    for (size_t i = 0; i < r->table_count; i++) {
        const ss_table_state *st = &r->tables[i].st;
        c->in[st->status]++;
        if (st->status != SS_TABLE_COPYING || st->loaded)
            continue;
        known = note_loading(r, &count, st->generation) && known;
        if (c->loading == 0 || st->generation < c->loading) {
            c->loading = st->generation;
            c->loading_from = st->from_sequence;
        }
    }
    for (size_t i = 0; i < r->table_count; i++) {
        ss_route_table *t = &r->tables[i];
        /* A table of a generation that still loads rows waits for the others of its generation. */
        t->catches_up = t->st.status == SS_TABLE_CATCHING_UP ||
                        (t->st.status == SS_TABLE_COPYING && t->st.loaded && known && !loads(r, count, t->st.generation));
        if (!t->catches_up)
            continue;
        c->any_catches_up = true;
        c->catchup_members += (i + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ t->st.generation;
        if (t->st.from_sequence < c->catchup_from)
            c->catchup_from = t->st.from_sequence;
    }
    return c;
}

size_t ss_route_tables_in(ss_route *r, ss_table_status status) { return ss_route_tally(r)->in[status]; }

bool ss_route_all_ready(ss_route *r) { return r->table_count && ss_route_tables_in(r, SS_TABLE_READY) == r->table_count; }

void ss_route_tables_waiting(ss_route *r, char *text, size_t size) {
    size_t named = 0, waiting = r->table_count - ss_route_tables_in(r, SS_TABLE_READY);
    int used = 0;
    text[0] = 0;
    for (size_t i = 0; i < r->table_count && named < 3 && named < waiting; i++) {
        const ss_table_state *st = &r->tables[i].st;
        if (st->status == SS_TABLE_READY)
            continue;
        used += snprintf(text + used, size - (size_t)used, "%s%.60s.%.60s", named++ ? ", " : "", st->ns, st->name);
        if ((size_t)used >= size)
            return;
    }
    if (named < waiting)
        snprintf(text + used, size - (size_t)used, " and %zu more", waiting - named);
}

void ss_route_table_absent(ss_route *r, ss_route_table *t) {
    /* One that was never copied is not saved before its CopyBegin: the target takes a saved table for ours to drop. */
    if (t->st.generation == 0 && t->st.status == SS_TABLE_ABSENT && !t->st.beside)
        return;
    t->st.beside = t->st.beside || t->st.status == SS_TABLE_READY;
    t->st.status = SS_TABLE_ABSENT;
    t->st.loaded = false;
    t->st.rows = t->st.bytes = 0;
    t->dirty = true;
    ss_route_states_changed(r);
}

/* ---- schemas --------------------------------------------------------------------------------------------------- */

void ss_route_schemas_clear(ss_route *r) {
    if (r->schema_count == 0)
        return;
    memset(r->schemas, 0, r->schema_cap * sizeof *r->schemas);
    r->schema_count = 0;
    ss_arena_reset(r->schema_arena);
    r->batch++; /* no table is in the batch at hand by a schema that is gone */
}

bool ss_route_schemas_many(const ss_route *r) {
    return r->schema_count >= SS_ROUTE_SCHEMAS_KEPT || ss_arena_used(r->schema_arena) >= SS_ROUTE_SCHEMA_MEMORY_KEPT;
}

void ss_route_schemas_trim(ss_route *r) {
    if (ss_route_schemas_many(r))
        ss_route_schemas_clear(r);
}

static ss_route_schema *slot_of(ss_route *r, uint64_t id) {
    size_t at = id & (r->schema_cap - 1);
    while (r->schemas[at].id && r->schemas[at].id != id)
        at = (at + 1) & (r->schema_cap - 1);
    return &r->schemas[at];
}

ss_status ss_route_schema_get(ss_route *r, ss_reader *reader, uint64_t id, ss_route_schema **ret, ss_error *reterr) {
    if (!r->schemas) {
        r->schema_cap = 2 * SS_ROUTE_SCHEMAS; /* a power of two: slot_of; beside those kept, at most 5/8 full */
        r->schemas = calloc(r->schema_cap, sizeof *r->schemas);
        if (!r->schemas)
            return no_memory(reterr);
    }
    ss_route_schema *found = slot_of(r, id);
    if (found->id) {
        *ret = found;
        return SS_OK;
    }
    if (id == 0)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0004", "a change of source %s names no schema; run sidespool spool verify", r->conf->source);
    /* Never let go here: whoever asks may hold others, which a batch, a truncate or a row being loaded still uses. */
    if (r->schema_count >= SS_ROUTE_SCHEMAS + SS_ROUTE_SCHEMAS_KEPT)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0003", "one transaction of source %s changes more than %zu tables", r->conf->source, SS_ROUTE_SCHEMAS);
    ss_bytes packed;
    ss_status st = ss_reader_schema(reader, id, &packed, reterr);
    if (st != SS_OK)
        return st;
    Sidespool__Schema *schema;
    st = ss_schema_get(packed, r->schema_arena, r->conf->source, &schema, reterr);
    if (st != SS_OK)
        return st;
    ss_route_table *t = ss_route_table_find(r, schema->ns, schema->name);
    *found = (ss_route_schema){.id = id, .schema = schema, .table = t ? (size_t)(t - r->tables) : SIZE_MAX};
    r->schema_count++;
    *ret = found;
    return SS_OK;
}

ss_status ss_route_states_dirty(ss_route *r, const ss_table_state **ret, size_t *ret_count, ss_error *reterr) {
    if (r->state_cap < r->table_count) {
        ss_table_state *more = reallocarray(r->states, r->table_cap, sizeof *more);
        if (!more)
            return no_memory(reterr);
        r->states = more;
        r->state_cap = r->table_cap;
    }
    size_t n = 0;
    for (size_t i = 0; i < r->table_count; i++)
        if (r->tables[i].dirty)
            r->states[n++] = r->tables[i].st;
    *ret = r->states;
    *ret_count = n;
    return SS_OK;
}

void ss_route_states_clean(ss_route *r) {
    for (size_t i = 0; i < r->table_count; i++)
        r->tables[i].dirty = false;
}
