/* select: which tables the file's patterns choose, as the publication publishes them, and what
 * stands in the way.
 *
 * Everything is read by one statement without locks on tables, so that it may run beside DDL and in
 * the status of a busy source; the patterns are matched here, not in SQL, because they are ours. */
#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_catalog.h"
#include "agents/postgres/postgres_record.h"
#include "agents/select.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- publication
 * ------------------------------------------------------------------------------------------------
 */

ss_status ss_postgres_publication_get(PGconn *conn, const ss_source_env *env, ss_arena *arena,
                                      ss_postgres_publication *ret, ss_error *reterr) {
    ss_postgres_names names;
    ss_status status = ss_postgres_names_get(env, &names, reterr);
    if (status != SS_OK)
        return status;
    int version = PQserverVersion(conn);
    char sql[1024];
    snprintf(sql, sizeof sql,
             "SELECT p.puballtables, %s, pg_catalog.pg_has_role(p.pubowner, 'USAGE'), p.pubinsert, "
             "p.pubupdate, p.pubdelete, %s,"
             " pg_catalog.pg_get_userbyid(p.pubowner), p.oid, %s"
             " FROM pg_catalog.pg_publication p WHERE p.pubname = $1",
             version >= 130000 ? "p.pubviaroot" : "false",
             version >= 110000 ? "p.pubtruncate" : "true",
             version >= 180000 ? "p.pubgencols <> 'n'" : "false");
    const char *params[1] = {names.publication};
    PGresult *res;
    status = ss_postgres_query(conn, "read the publication", sql, 1, params, PGRES_TUPLES_OK, &res,
                               reterr);
    if (status != SS_OK)
        return status;
    ss_postgres_publication out = {.via_root = version >= 130000, .owner = ""};
    if (PQntuples(res) > 0) {
#define FLAG(column) (*ss_postgres_value(res, 0, (column)) == 't')
        out.exists = true;
        out.all_tables = FLAG(0);
        out.via_root = FLAG(1);
        out.owned = FLAG(2);
        out.inserts = FLAG(3);
        out.updates = FLAG(4);
        out.deletes = FLAG(5);
        out.truncates = FLAG(6);
        out.owner = ss_arena_strndup(arena, ss_postgres_value(res, 0, 7),
                                     strlen(ss_postgres_value(res, 0, 7)));
        out.oid = (uint32_t)strtoul(ss_postgres_value(res, 0, 8), NULL, 10);
        out.generated = FLAG(9);
#undef FLAG
    }
    PQclear(res);
    if (!out.owner)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the publication");
    *ret = out;
    return SS_OK;
}

/* ---- the relations
 * ---------------------------------------------------------------------------------------------- */

/* One row of the catalogue, in the arena. */
struct relation {
    ss_postgres_table table;
    const char *full; /* "ns.name" */
    const char *key;  /* names of its identity's columns, sorted and quoted; "" none */
    uint32_t parent;  /* 0: not a partition */
    struct relation *up;
    bool unlogged, generated_key;
    bool included, excluded; /* by its own name or an ancestor's */
};

enum {
    C_RELID,
    C_NS,
    C_NAME,
    C_KIND,
    C_IDENTITY,
    C_UNLOGGED,
    C_PARENT,
    C_OWNER,
    C_OWNED,
    C_READABLE,
    C_KEY,
    C_GENERATED,
    C_PUBLISHED,
    C_ROWS,
    C_BYTES
};

const char *ss_postgres_sql_in_key(PGconn *conn) {
    /* Before 11 there is no INCLUDE. */
    return PQserverVersion(conn) >= 110000
               ? "a.attnum = ANY ((x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1])"
               : "a.attnum = ANY (x.indkey)";
}

/* The identity that decoding will use: only a valid, immediate index counts (RelationGetIndexList),
 * so a deferrable primary key is none. Generated columns are not sent before version 18, so a key
 * that holds one cannot be told. */
static ss_status relations_query(PGconn *conn, const char *publication, PGresult **ret,
                                 ss_error *reterr) {
    char sql[3072];
    snprintf(
        sql, sizeof sql,
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relpersistence = 'u',"
        " CASE WHEN c.relispartition THEN"
        "  (SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1) END,"
        " pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.pg_has_role(c.relowner, 'USAGE'),"
        " pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND "
        "pg_catalog.has_table_privilege(c.oid, 'SELECT'),"
        " k.names, coalesce(k.generated, false), p.tablename IS NOT NULL,"
        " CASE WHEN c.reltuples > 0 THEN c.reltuples::bigint ELSE "
        "pg_catalog.pg_stat_get_live_tuples(c.oid) END,"
        " c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint"
        " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ',' "
        "ORDER BY a.attname) AS names,"
        "   pg_catalog.bool_or(%s) AS generated"
        "  FROM pg_catalog.pg_index x JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND %s"
        "  WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate"
        "  AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND "
        "x.indisreplident)) k ON true"
        " LEFT JOIN pg_catalog.pg_publication_tables p"
        "  ON p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname"
        " WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND c.oid >= 16384"
        " AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname NOT IN ('information_schema', 'sidespool')"
        " ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\"",
        PQserverVersion(conn) >= 120000 ? "a.attgenerated <> ''" : "false",
        ss_postgres_sql_in_key(conn));
    const char *params[1] = {publication};
    return ss_postgres_query(conn, "read the list of tables", sql, 1, params, PGRES_TUPLES_OK, ret,
                             reterr);
}

static const char *text_of(ss_arena *arena, const PGresult *res, int row, int column, bool *bad) {
    const char *value = ss_postgres_value(res, row, column);
    const char *copy = ss_arena_strndup(arena, value, strlen(value));
    *bad |= copy == NULL;
    return copy;
}

static bool relation_read(ss_arena *arena, const PGresult *res, int row, struct relation *out) {
    bool bad = false;
#define FLAG(column) (*ss_postgres_value(res, row, (column)) == 't')
    *out = (struct relation){
        .table = {.relid = (uint32_t)strtoul(ss_postgres_value(res, row, C_RELID), NULL, 10),
                  .ns = text_of(arena, res, row, C_NS, &bad),
                  .name = text_of(arena, res, row, C_NAME, &bad),
                  .relkind = *ss_postgres_value(res, row, C_KIND),
                  .identity = *ss_postgres_value(res, row, C_IDENTITY),
                  .why_not = "",
                  .owner = text_of(arena, res, row, C_OWNER, &bad),
                  .owned = FLAG(C_OWNED),
                  .readable = FLAG(C_READABLE),
                  .published = FLAG(C_PUBLISHED),
                  .rows_estimate = strtoull(ss_postgres_value(res, row, C_ROWS), NULL, 10),
                  .bytes_estimate = strtoull(ss_postgres_value(res, row, C_BYTES), NULL, 10)},
        .key = text_of(arena, res, row, C_KEY, &bad),
        .parent = (uint32_t)strtoul(ss_postgres_value(res, row, C_PARENT), NULL, 10),
        .unlogged = FLAG(C_UNLOGGED),
        .generated_key = FLAG(C_GENERATED),
    };
#undef FLAG
    if (out->table.relkind == 'p') /* holds no rows itself; ANALYZE writes its leaves' sum there,
                                      which they bring anyway */
        out->table.rows_estimate = out->table.bytes_estimate = 0;
    if (!bad)
        out->full = ss_arena_printf(arena, "%s.%s", out->table.ns, out->table.name);
    return !bad && out->full;
}

static int by_relid(const void *a, const void *b) {
    uint32_t x = (*(struct relation *const *)a)->table.relid,
             y = (*(struct relation *const *)b)->table.relid;
    return x < y ? -1 : x > y;
}

/* Sets `up`, by a sorted index of relids. */
static bool link_parents(struct relation *all, size_t count, ss_arena *arena) {
    struct relation **index = ss_arena_alloc(arena, (count + 1) * sizeof *index);
    if (!index)
        return false;
    for (size_t i = 0; i < count; i++)
        index[i] = &all[i];
    qsort(index, count, sizeof *index, by_relid);
    for (size_t i = 0; i < count; i++) {
        if (!all[i].parent)
            continue;
        struct relation wanted = {.table.relid = all[i].parent}, *key = &wanted;
        struct relation **found = bsearch(&key, index, count, sizeof *index, by_relid);
        all[i].up = found ? *found : NULL;
    }
    return true;
}

/* ---- identity
 * ----------------------------------------------------------------------------------------------------
 */

static void identity_own(struct relation *rel) {
    ss_postgres_table *table = &rel->table;
    table->has_identity = table->identity == 'f' || (*rel->key && !rel->generated_key);
    table->publishable = table->relkind != 'f' && !rel->unlogged;
    if (table->relkind == 'f')
        table->why_not = "a foreign table has no WAL";
    else if (rel->unlogged)
        table->why_not = "an unlogged table has no WAL";
    else if (rel->generated_key && table->identity != 'f')
        table->why_not = "its replica identity holds a generated column";
    else if (table->identity == 'n')
        table->why_not = "its replica identity is NOTHING";
    else if (!table->has_identity)
        table->why_not = "it has no primary key (or only a deferrable one) and no REPLICA IDENTITY";
}

/* Published by root, a change is described by the root's identity but holds the leaf's: they have
 * to agree, or an image of key columns would be taken for a whole row. */
static void identity_inherit(struct relation *leaf, struct relation *top) {
    ss_postgres_table *root = &top->table, *table = &leaf->table;
    if (!root->has_identity || table->relkind == 'p')
        return;
    if (!table->has_identity || !table->publishable) {
        root->has_identity = false;
        root->why_not = table->publishable ? "one of its partitions has no replica identity"
                                           : "one of its partitions is unlogged or foreign";
    } else if (root->identity == 'f' ? table->identity != 'f'
                                     : table->identity != 'f' && strcmp(leaf->key, top->key) != 0) {
        root->has_identity = false;
        root->why_not = "one of its partitions has another replica identity than the root";
    }
}

/* ---- patterns
 * ----------------------------------------------------------------------------------------------------
 */

static bool matches_any(const ss_strings *patterns, const char *name, bool *hit) {
    bool any = false;
    for (size_t i = 0; patterns && i < patterns->count; i++) {
        if (ss_pattern_match(patterns->items[i], name)) {
            hit[i] = true;
            any = true;
        }
    }
    return any;
}

static ss_status check_hits(const ss_strings *patterns, const bool *hit, const char *list,
                            ss_error *reterr) {
    for (size_t i = 0; patterns && i < patterns->count; i++)
        if (!hit[i])
            return ss_fail(reterr, SS_STOP, "SS-PG-0020",
                           "the pattern \"%s\" in tables.%s matches no table of the source; "
                           "correct or remove it (names are "
                           "schema.table, system schemas and sidespool never count)",
                           patterns->items[i], list);
    return SS_OK;
}

static ss_status match_all(struct relation *all, size_t count, const ss_source_env *env,
                           ss_arena *arena, ss_error *reterr) {
    size_t includes = env->include ? env->include->count : 0,
           excludes = env->exclude ? env->exclude->count : 0;
    bool *hit = ss_arena_zalloc(arena, includes + excludes + 1);
    if (!hit)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the patterns of tables:");
    for (size_t i = 0; i < count; i++) {
        all[i].included = matches_any(env->include, all[i].full, hit) || includes == 0;
        all[i].excluded = matches_any(env->exclude, all[i].full, hit + includes);
    }
    ss_status status = check_hits(env->include, hit, "include", reterr);
    return status == SS_OK ? check_hits(env->exclude, hit + includes, "exclude", reterr) : status;
}

/* ---- what is published under which name
 * ---------------------------------------------------------------------------- */

static bool wanted(const struct relation *rel) {
    return rel->included && !rel->excluded;
}

/* By root: the topmost relation of a tree that is wanted stands for all below it. */
static ss_status choose_by_root(struct relation *rel, bool *ret, ss_error *reterr) {
    struct relation *top = NULL;
    for (struct relation *up = rel->up; up; up = up->up) {
        if (wanted(up))
            top = up;
        else if (wanted(rel) && up->table.published && !top)
            return ss_fail(reterr, SS_STOP, "SS-PG-0022",
                           "%s is selected, but the publication publishes it as a part of %s; "
                           "select %s, or take that out of the "
                           "publication",
                           rel->full, up->full, up->full);
    }
    if (top && rel->excluded)
        return ss_fail(reterr, SS_STOP, "SS-PG-0021",
                       "tables.exclude names %s, a partition of %s, which is published whole as "
                       "its root; exclude the root, or "
                       "set publish_via_partition_root = false on the publication",
                       rel->full, top->full);
    if (top) {
        identity_inherit(rel, top);
        if (rel->table.relkind != 'p') {
            top->table.rows_estimate += rel->table.rows_estimate;
            top->table.bytes_estimate += rel->table.bytes_estimate;
        }
    }
    *ret = wanted(rel) && !top;
    return SS_OK;
}

/* By leaf: a leaf is wanted by its own name or by that of any ancestor; an ancestor's exclusion
 * covers it too. */
static bool choose_by_leaf(const struct relation *rel) {
    bool included = rel->included, excluded = rel->excluded;
    for (const struct relation *up = rel->up; up; up = up->up) {
        included |= up->included;
        excluded |= up->excluded;
    }
    return rel->table.relkind != 'p' && included && !excluded;
}

static ss_status choose(struct relation *all, size_t count, bool via_root, bool every,
                        ss_arena *arena, ss_postgres_table **ret, size_t *ret_count,
                        ss_error *reterr) {
    ss_postgres_table *tables = ss_arena_alloc(arena, (count + 1) * sizeof *tables);
    bool *chosen = ss_arena_zalloc(arena, count + 1);
    if (!tables || !chosen)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the list of tables");
    for (size_t i = 0; i < count; i++)
        identity_own(&all[i]);
    for (size_t i = 0; i < count; i++) {
        if (via_root) {
            ss_status status = choose_by_root(&all[i], &chosen[i], reterr);
            if (status != SS_OK)
                return status;
        } else {
            chosen[i] = choose_by_leaf(&all[i]);
        }
    }
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        if (chosen[i] && (every || all[i].table.publishable))
            tables[n++] = all[i].table;
    *ret = tables;
    *ret_count = n;
    return SS_OK;
}

static ss_status relations_load(PGconn *conn, const ss_source_env *env, ss_arena *arena,
                                struct relation **ret, size_t *ret_count, ss_error *reterr) {
    ss_postgres_names names;
    PGresult *res = NULL;
    ss_status status = ss_postgres_names_get(env, &names, reterr);
    if (status == SS_OK)
        status = relations_query(conn, names.publication, &res, reterr);
    if (status != SS_OK)
        return status;
    size_t count = (size_t)PQntuples(res);
    struct relation *all = ss_arena_alloc(arena, (count + 1) * sizeof *all);
    bool ok = all != NULL;
    for (size_t i = 0; ok && i < count; i++)
        ok = relation_read(arena, res, (int)i, &all[i]);
    PQclear(res);
    if (!ok || !link_parents(all, count, arena))
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the list of tables");
    *ret = all;
    *ret_count = count;
    return SS_OK;
}

ss_status ss_postgres_tables_select(PGconn *conn, const ss_source_env *env, bool all,
                                    ss_arena *arena, ss_postgres_table **ret, size_t *ret_count,
                                    ss_error *reterr) {
    ss_postgres_publication publication;
    struct relation *relations;
    size_t count;
    ss_status status = ss_postgres_publication_get(conn, env, arena, &publication, reterr);
    if (status == SS_OK)
        status = relations_load(conn, env, arena, &relations, &count, reterr);
    if (status == SS_OK)
        status = match_all(relations, count, env, arena, reterr);
    if (status == SS_OK)
        status = choose(relations, count, publication.via_root, all, arena, ret, ret_count, reterr);
    return status;
}

/* A pattern without a table is no error: tables are dropped while an agent runs. --check and copies name it. */
static ss_status selected(PGconn *conn, const ss_source_env *env, ss_arena *arena,
                          ss_postgres_table **ret, size_t *ret_count, ss_error *reterr) {
    ss_postgres_publication publication;
    struct relation *relations;
    size_t count;
    ss_error unmatched = {0};
    ss_status status = ss_postgres_publication_get(conn, env, arena, &publication, reterr);
    if (status == SS_OK)
        status = relations_load(conn, env, arena, &relations, &count, reterr);
    if (status != SS_OK)
        return status;
    status = match_all(relations, count, env, arena, &unmatched);
    if (status == SS_RETRY) {
        *reterr = unmatched;
        return status;
    }
    return choose(relations, count, publication.via_root, false, arena, ret, ret_count, reterr);
}

ss_status ss_postgres_selected(const ss_source_env *env, ss_arena *arena, ss_source_table **ret,
                               size_t *ret_count, ss_error *reterr) {
    PGconn *conn = NULL;
    ss_postgres_table *tables;
    size_t count;
    ss_status status = ss_postgres_connect(env, false, &conn, reterr);
    if (status == SS_OK)
        status = selected(conn, env, arena, &tables, &count, reterr);
    PQfinish(conn);
    if (status != SS_OK)
        return status;
    ss_postgres_record record; /* a table that left there has a hole until a copy has it anew */
    status = ss_postgres_record_load(env, arena, &record, reterr);
    if (status != SS_OK)
        return status;
    ss_source_table *list = ss_arena_alloc(arena, (count + 1) * sizeof *list);
    bool ok = list != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        const ss_postgres_member *member = ss_postgres_record_find(&record, tables[i].relid);
        bool left = member != NULL && member->left;
        list[i] = (ss_source_table){.ns = tables[i].ns,
                                    .name = tables[i].name,
                                    .id = ss_arena_printf(arena, "%" PRIu32, tables[i].relid),
                                    .captured = tables[i].published && !left};
        ok = list[i].id != NULL;
    }
    if (!ok)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the list of tables");
    *ret = list;
    *ret_count = count;
    return SS_OK;
}

/* ---- one relation, while streaming
 * -------------------------------------------------------------------------------- */

/* [0] "ns.name", [1] oid of each. */
static ss_status ancestors_query(PGconn *conn, uint32_t relid, PGresult **ret, ss_error *reterr) {
    char oid[16];
    snprintf(oid, sizeof oid, "%" PRIu32, relid);
    const char *params[1] = {oid};
    return ss_postgres_query(
        conn, "read the ancestors of a partition",
        "WITH RECURSIVE up(relid) AS ("
        " SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c"
        "  ON c.oid = i.inhrelid WHERE i.inhrelid = $1::pg_catalog.oid AND c.relispartition"
        " UNION ALL SELECT i.inhparent FROM up JOIN pg_catalog.pg_class c"
        "  ON c.oid = up.relid AND c.relispartition"
        " JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid)"
        " SELECT n.nspname || '.' || c.relname, c.oid FROM up JOIN pg_catalog.pg_class c"
        "  ON c.oid = up.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
        1, params, PGRES_TUPLES_OK, ret, reterr);
}

ss_status ss_postgres_ancestors(PGconn *conn, uint32_t relid, uint32_t *ret, size_t most,
                                size_t *ret_count, ss_error *reterr) {
    PGresult *res;
    ss_status status = ancestors_query(conn, relid, &res, reterr);
    if (status != SS_OK)
        return status;
    size_t count = (size_t)PQntuples(res) < most ? (size_t)PQntuples(res) : most;
    for (size_t i = 0; i < count; i++)
        ret[i] = (uint32_t)strtoul(ss_postgres_value(res, (int)i, 1), NULL, 10);
    PQclear(res);
    *ret_count = count;
    return SS_OK;
}

ss_status ss_postgres_relation_wanted(PGconn *conn, const ss_source_env *env, uint32_t relid,
                                      const char *full, bool via_root, bool *ret,
                                      ss_error *reterr) {
    bool included = ss_select_match(env->include, NULL, full);
    bool excluded =
        env->exclude && env->exclude->count > 0 && ss_select_match(env->exclude, NULL, full);
    if (via_root) { /* the name that was sent is the one that was chosen */
        *ret = included && !excluded;
        return SS_OK;
    }
    PGresult *res;
    ss_status status = ancestors_query(conn, relid, &res, reterr);
    if (status != SS_OK)
        return status;
    for (int i = 0; i < PQntuples(res); i++) {
        const char *ancestor = ss_postgres_value(res, i, 0);
        included = included || ss_select_match(env->include, NULL, ancestor);
        excluded = excluded || (env->exclude && env->exclude->count > 0 &&
                                ss_select_match(env->exclude, NULL, ancestor));
    }
    PQclear(res);
    *ret = included && !excluded;
    return SS_OK;
}
