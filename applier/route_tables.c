/* The route's tables with their states, and the schemas by which the stream speaks of them. */
#include "applier/route.h"

#include <stdlib.h>

#define MOST_SCHEMAS 4096 /* kept at once; beyond that they are read again from the spool */

const char *ss_table_status_name(ss_table_status status) {
    static const char *const names[] = {"absent", "copying", "catching_up", "ready"};
    return (unsigned)status < 4 ? names[status] : "unknown";
}

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory; the route starts again from the target's progress");
}

ss_route_table *ss_route_table_find(ss_route *r, const char *ns, const char *name) {
    for (size_t i = 0; i < r->table_count; i++)
        if (strcmp(r->tables[i].st.name, name) == 0 && strcmp(r->tables[i].st.ns, ns) == 0)
            return &r->tables[i];
    return NULL;
}

ss_status ss_route_table_add(ss_route *r, const char *ns, const char *name, ss_route_table **ret, ss_error *reterr) {
    if (r->table_count == r->table_cap) {
        size_t cap = r->table_cap ? r->table_cap * 2 : 64;
        ss_route_table *more = reallocarray(r->tables, cap, sizeof *more);
        if (!more)
            return no_memory(reterr);
        r->tables = more;
        r->table_cap = cap;
    }
    char *own_ns = strdup(ns), *own_name = strdup(name);
    if (!own_ns || !own_name) {
        free(own_ns);
        free(own_name);
        return no_memory(reterr);
    }
    ss_route_table *t = &r->tables[r->table_count++];
    *t = (ss_route_table){.st = {.ns = own_ns, .name = own_name}};
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
    return SS_OK;
}

size_t ss_route_tables_in(const ss_route *r, ss_table_status status) {
    size_t n = 0;
    for (size_t i = 0; i < r->table_count; i++)
        n += r->tables[i].st.status == status;
    return n;
}

void ss_route_table_absent(ss_route_table *t) {
    /* One that was never copied is not saved before its CopyBegin: the target takes a saved table for ours to drop. */
    if (t->st.generation == 0 && t->st.status == SS_TABLE_ABSENT && !t->st.beside)
        return;
    t->st.beside = t->st.beside || t->st.status == SS_TABLE_READY;
    t->st.status = SS_TABLE_ABSENT;
    t->st.loaded = false;
    t->st.rows = t->st.bytes = 0;
    t->dirty = true;
}

/* ---- schemas --------------------------------------------------------------------------------------------------- */

void ss_route_schemas_clear(ss_route *r) {
    if (r->schemas)
        memset(r->schemas, 0, r->schema_cap * sizeof *r->schemas);
    r->schema_count = 0;
    if (r->schema_arena)
        ss_arena_reset(r->schema_arena);
    for (size_t i = 0; i < r->table_count; i++)
        r->tables[i].in_batch = NULL;
}

static ss_route_schema *slot_of(ss_route *r, uint64_t id) {
    size_t at = id & (r->schema_cap - 1);
    while (r->schemas[at].id && r->schemas[at].id != id)
        at = (at + 1) & (r->schema_cap - 1);
    return &r->schemas[at];
}

ss_status ss_route_schema_get(ss_route *r, ss_reader *reader, uint64_t id, ss_route_schema **ret, ss_error *reterr) {
    if (!r->schemas) {
        r->schema_cap = MOST_SCHEMAS * 2;
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
    if (r->schema_count >= MOST_SCHEMAS && ss_batcher_changes(r->batcher) == 0) {
        ss_route_schemas_clear(r); /* nothing points into them between batches */
        found = slot_of(r, id);
    } else if (r->schema_count >= r->schema_cap - 1) {
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0003", "one transaction of source %s uses more than %zu schemas", r->conf->source, r->schema_cap);
    }
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
