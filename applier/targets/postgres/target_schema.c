/* A table as it stands in the target: its columns against the Schema, and how a text value becomes
 * the column's type.
 *
 * Values arrive as the source's text output. Reading them must be exactly the type's input
 * function. For nearly all types a cast from text is that; where pg_cast holds a function of its
 * own for text ("char" takes the first byte, regclass parses a name and refuses a number, xml,
 * citext…) the input function is called by name. */
#include "target_postgres.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char COLUMNS[] =
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attidentity, " SS_TGT_GENERATED
    ", b.oid, "
    "(SELECT format('%I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = "
    "p.pronamespace "
    " WHERE p.oid = b.typinput AND EXISTS (SELECT FROM pg_cast c WHERE c.castsource = 25 AND "
    "c.casttarget = b.oid AND c.castmethod = 'f')), "
    "(SELECT p.pronargs FROM pg_proc p WHERE p.oid = b.typinput), CASE WHEN b.typelem <> 0 THEN "
    "b.typelem ELSE b.oid END, "
    "(SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_opclass k JOIN pg_am m ON "
    "m.oid = k.opcmethod AND m.amname = 'btree' "
    " JOIN pg_amop x ON x.amopfamily = k.opcfamily AND x.amoplefttype = k.opcintype AND "
    "x.amoprighttype = k.opcintype AND x.amopstrategy = 3 "
    " JOIN pg_operator o ON o.oid = x.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace "
    " WHERE k.opcintype = b.oid AND k.opcdefault AND n.nspname <> 'pg_catalog' LIMIT 1), "
    "a.attcollation = 0 OR coalesce((SELECT (to_jsonb(l) ->> 'collisdeterministic')::boolean FROM "
    "pg_collation l WHERE l.oid = a.attcollation), true) "
    "FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace JOIN pg_attribute a ON "
    "a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "CROSS JOIN LATERAL (WITH RECURSIVE d(oid) AS (SELECT a.atttypid UNION ALL SELECT "
    "y.typbasetype FROM d JOIN pg_type y ON y.oid = d.oid "
    " WHERE y.typtype = 'd') SELECT y.oid, y.typinput, y.typelem FROM d JOIN pg_type y ON y.oid = "
    "d.oid WHERE y.typtype <> 'd') b "
    "WHERE rn.nspname = $1 AND r.relname = $2 ORDER BY a.attnum";
enum {
    C_NAME,
    C_TYPE,
    C_IDENTITY,
    C_GENERATED,
    C_BASE,
    C_INPUT,
    C_INPUT_ARGS,
    C_IOPARAM,
    C_EQUAL,
    C_DETERMINISTIC
};

void ss_tgt_put_cast(ss_buf *out, const ss_tgt_column *column, const char *source) {
    if (column->input != NULL)
        ss_buf_printf(out, "%s(textout(%s)%s)::%s", column->input, source, column->input_tail,
                      column->type);
    else
        ss_buf_printf(out, "%s::%s", source, column->type);
}

void ss_tgt_put_columns(ss_buf *out, const ss_tgt_table *table) {
    for (uint32_t i = 0; i < table->count; i++) {
        if (i > 0)
            ss_buf_put_str(out, ", ");
        ss_buf_put_str(out, table->columns[i].ident);
    }
}

/* ---- loading
 * ------------------------------------------------------------------------------------------------------------
 */
static char *quoted(ss_arena *arena, const char *name) {
    ss_buf buf;
    ss_buf_init(&buf);
    ss_tgt_put_ident(&buf, name);
    char *ret = buf.bad ? NULL : ss_arena_strndup(arena, buf.ptr, buf.len);
    ss_buf_done(&buf);
    return ret;
}

/* Types whose = holds only between equal texts (so that an index finds the very row of a table
 * without key). */
static void judge_equality(ss_tgt_column *c, Oid base, bool deterministic) {
    static const Oid same[] = {16,   17,   19,   20,   21,   23,  25, 26,
                               1043, 1082, 1114, 1184, 2950, 829, 0};
    static const Oid weak[] = {700, 701, 1042, 1186, 1266, 1700, 1083, 0};
    for (size_t i = 0; same[i] != 0; i++)
        if (same[i] == base)
            c->same_by_equal = deterministic;
    for (size_t i = 0; weak[i] != 0; i++)
        if (weak[i] == base)
            c->also_equal = deterministic;
}

static bool load_column(PGresult *res, int row, ss_arena *arena, ss_tgt_column *c) {
    c->ident = quoted(arena, PQgetvalue(res, row, C_NAME));
    c->type = ss_arena_strndup(arena, PQgetvalue(res, row, C_TYPE),
                               (size_t)PQgetlength(res, row, C_TYPE));
    c->identity_always = PQgetvalue(res, row, C_IDENTITY)[0] == 'a';
    c->equal = "=";
    if (!PQgetisnull(res, row, C_EQUAL))
        c->equal = ss_arena_strndup(arena, PQgetvalue(res, row, C_EQUAL),
                                    (size_t)PQgetlength(res, row, C_EQUAL));
    if (!PQgetisnull(res, row, C_INPUT)) {
        c->input = ss_arena_strndup(arena, PQgetvalue(res, row, C_INPUT),
                                    (size_t)PQgetlength(res, row, C_INPUT));
        c->input_tail =
            atoi(PQgetvalue(res, row, C_INPUT_ARGS)) >= 3
                ? ss_arena_printf(arena, ", %s::oid, -1", PQgetvalue(res, row, C_IOPARAM))
                : "";
        if (c->input == NULL || c->input_tail == NULL)
            return false;
    }
    judge_equality(c, (Oid)strtoul(PQgetvalue(res, row, C_BASE), NULL, 10),
                   PQgetvalue(res, row, C_DETERMINISTIC)[0] == 't');
    return c->ident != NULL && c->type != NULL && c->equal != NULL;
}

static int find_column(PGresult *res, const char *name) {
    for (int i = 0; i < PQntuples(res); i++)
        if (strcmp(PQgetvalue(res, i, C_NAME), name) == 0)
            return i;
    return -1;
}

static const Sidespool__Column *schema_column(const Sidespool__Schema *schema, const char *name) {
    for (size_t i = 0; i < schema->n_columns; i++)
        if (strcmp(schema->columns[i]->name, name) == 0)
            return schema->columns[i];
    return NULL;
}

#define REMEDY "alter the target's table and resume, or resync it"
static ss_status differences(PGresult *res, const Sidespool__Schema *schema, ss_error *reterr) {
    for (size_t i = 0; i < schema->n_columns; i++) {
        const Sidespool__Column *c = schema->columns[i];
        int row = find_column(res, c->name);
        if (row < 0 && c->generated)
            continue;
        if (row < 0)
            return ss_fail(
                reterr, SS_STOP, "SS-TGT-0008",
                "Table %s.%s: the source has a column %s (%s) that the target has not; " REMEDY ".",
                schema->ns, schema->name, c->name, c->native_type);
        bool generated = PQgetvalue(res, row, C_GENERATED)[0] != '\0';
        if (generated != (bool)c->generated)
            return ss_fail(
                reterr, SS_STOP, "SS-TGT-0008",
                "Table %s.%s: column %s is %s in the target, but %s in the source; " REMEDY ".",
                schema->ns, schema->name, c->name, generated ? "generated" : "stored",
                generated ? "stored" : "generated");
        if (strcmp(PQgetvalue(res, row, C_TYPE), c->native_type) != 0)
            return ss_fail(
                reterr, SS_STOP, "SS-TGT-0008",
                "Table %s.%s: column %s is %s in the target, but %s in the source; " REMEDY ".",
                schema->ns, schema->name, c->name, PQgetvalue(res, row, C_TYPE), c->native_type);
    }
    for (int i = 0; i < PQntuples(res); i++)
        if (PQgetvalue(res, i, C_GENERATED)[0] == '\0' &&
            schema_column(schema, PQgetvalue(res, i, C_NAME)) == NULL)
            return ss_fail(
                reterr, SS_STOP, "SS-TGT-0008",
                "Table %s.%s: the target has a column %s (%s) that the source has not; " REMEDY ".",
                schema->ns, schema->name, PQgetvalue(res, i, C_NAME), PQgetvalue(res, i, C_TYPE));
    return SS_OK;
}

static ss_status fill(ss_tgt_table *table, PGresult *res, const Sidespool__Schema *schema,
                      ss_error *reterr) {
    ss_arena *arena = table->arena;
    table->columns = ss_arena_zalloc(arena, (schema->n_columns + 1) * sizeof *table->columns);
    if (table->columns == NULL)
        return ss_tgt_nomem(reterr);
    table->count = 0;
    for (size_t i = 0; i < schema->n_columns; i++) {
        const Sidespool__Column *c = schema->columns[i];
        if (c->generated)
            return ss_fail(reterr, SS_STOP, "SS-TGT-0008",
                           "Table %s.%s: the schema lists generated column %s, which no row holds; "
                           "resync the table.",
                           schema->ns, schema->name, c->name);
        if (!load_column(res, find_column(res, c->name), arena, &table->columns[table->count++]))
            return ss_tgt_nomem(reterr);
        table->key_count += c->key ? 1 : 0;
    }
    return SS_OK;
}

/* What fires on rows without the replica role. Foreign keys are triggers, too. */
static ss_status harmless(ss_target *t, const char *ns, const char *name, ss_error *reterr) {
    if (t->replica)
        return SS_OK;
    const char *values[] = {ns, name};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "looking for triggers",
                     "SELECT 'trigger ' || g.tgname FROM pg_trigger g JOIN pg_class r ON r.oid = "
                     "g.tgrelid JOIN pg_namespace n ON n.oid = r.relnamespace "
                     "LEFT JOIN pg_constraint k ON k.oid = g.tgconstraint WHERE n.nspname = $1 AND "
                     "r.relname = $2 AND g.tgenabled IN ('O', 'A') "
                     "AND (k.contype IS NULL OR k.contype = 'f') UNION ALL SELECT 'rule ' || "
                     "w.rulename FROM pg_rewrite w JOIN pg_class r ON r.oid = w.ev_class "
                     "JOIN pg_namespace n ON n.oid = r.relnamespace WHERE n.nspname = $1 AND "
                     "r.relname = $2 AND r.relkind <> 'v' AND w.ev_enabled IN ('O', 'A') "
                     "AND w.ev_type IN ('2', '3', '4') LIMIT 1",
                     2, values, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQntuples(res) > 0)
        status = ss_fail(
            reterr, SS_STOP, "SS-TGT-0010",
            "Table %s.%s: %s would fire for each change, because the target does not let us set "
            "session_replication_role; GRANT SET ON PARAMETER session_replication_role TO the "
            "route's role (15+), or disable it on the copy.",
            ns, name, PQgetvalue(res, 0, 0));
    PQclear(res);
    return status;
}

/* "ONLY " for a table that others may inherit from: their rows are not its own. A partitioned
 * table has no others. */
static const char *only_of(char kind) {
    return kind == 'p' ? "" : "ONLY ";
}

ss_status ss_tgt_only(ss_target *t, const char *ns, const char *name, const char **ret,
                      ss_error *reterr) {
    const char *values[] = {ns, name};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "reading the table's kind",
                     "SELECT r.relkind FROM pg_class r JOIN pg_namespace n ON n.oid = "
                     "r.relnamespace WHERE n.nspname = $1 AND r.relname = $2",
                     2, values, &res, reterr);
    if (status == SS_OK) {
        *ret = only_of(PQntuples(res) == 1 ? PQgetvalue(res, 0, 0)[0] : 'r');
        PQclear(res);
    }
    return status;
}

ss_status ss_tgt_children(ss_target *t, const char *ns, const char *name, PGresult **ret,
                          ss_error *reterr) {
    const char *values[] = {ns, name};
    return ss_tgt_query(
        t, "looking for inheritance children",
        "WITH RECURSIVE c(oid) AS (SELECT r.oid FROM pg_class r JOIN pg_namespace n ON n.oid = "
        "r.relnamespace WHERE n.nspname = $1 AND r.relname = $2 AND r.relkind = 'r' UNION SELECT "
        "i.inhrelid FROM pg_inherits i JOIN c ON c.oid = i.inhparent) SELECT n.nspname, r.relname "
        "FROM c JOIN pg_class r ON r.oid = c.oid JOIN pg_namespace n ON n.oid = r.relnamespace "
        "WHERE NOT (n.nspname = $1 AND r.relname = $2) ORDER BY 1, 2",
        2, values, ret, reterr);
}

/* ns.name is where the rows are (the table, or where a resync loads it). */
static ss_status relation(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                          const char *ns, const char *name, ss_error *reterr) {
    const char *values[] = {ns, name};
    PGresult *res = NULL;
    ss_status status =
        ss_tgt_query(t, "reading the table's kind",
                     "SELECT r.relkind, EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.oid "
                     "AND i.indisprimary AND NOT i.indimmediate) FROM pg_class r JOIN pg_namespace "
                     "n ON n.oid = r.relnamespace "
                     "WHERE n.nspname = $1 AND r.relname = $2",
                     2, values, &res, reterr);
    if (status != SS_OK)
        return status;
    char kind = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0)[0] : '\0';
    table->key_deferred = PQntuples(res) == 1 && PQgetvalue(res, 0, 1)[0] == 't';
    PQclear(res);
    if (kind == '\0')
        return ss_fail(reterr, SS_STOP, "SS-TGT-0018",
                       "Table %s.%s is missing on the target: resync it.", ns, name);
    if (kind != 'r' && kind != 'p')
        return ss_fail(reterr, SS_STOP, "SS-TGT-0008",
                       "%s.%s on the target is not a table (kind %c): rename it and resync.", ns,
                       name, kind);
    table->partitioned = kind == 'p';
    table->only = only_of(kind);
    ss_buf buf;
    ss_buf_init(&buf);
    ss_tgt_put_ident(&buf, ns);
    ss_buf_put_byte(&buf, '.');
    ss_tgt_put_ident(&buf, name);
    table->name = buf.bad ? NULL : ss_arena_strndup(table->arena, buf.ptr, buf.len);
    ss_buf_done(&buf);
    table->shown = ss_arena_printf(table->arena, "%s.%s", schema->ns, schema->name);
    return table->name != NULL && table->shown != NULL ? SS_OK : ss_tgt_nomem(reterr);
}

/* Partial, invalid, deferrable and expression indexes do not make a key of its columns. */
static ss_status find_unique(ss_target *t, ss_tgt_table *table, const Sidespool__Schema *schema,
                             const char *ns, const char *name, ss_error *reterr) {
    const char *values[] = {ns, name};
    PGresult *res = NULL;
    if (table->key_count == 0)
        return SS_OK;
    ss_status status = ss_tgt_query(
        t, "reading the table's indexes",
        "SELECT i.indexrelid, a.attname FROM pg_index i JOIN pg_class r ON r.oid = i.indrelid JOIN "
        "pg_namespace n ON n.oid = r.relnamespace CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH "
        "ORDINALITY k(attnum, at) JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = "
        "k.attnum WHERE n.nspname = $1 AND r.relname = $2 AND i.indisunique AND i.indisvalid AND "
        "i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND k.at <= "
        "coalesce((to_jsonb(i) ->> 'indnkeyatts')::integer, i.indnatts) ORDER BY 1",
        2, values, &res, reterr);
    if (status != SS_OK)
        return status;
    for (int from = 0, to = 0; from < PQntuples(res) && !table->unique; from = to) {
        bool all = true;
        for (; to < PQntuples(res) && strcmp(PQgetvalue(res, to, 0), PQgetvalue(res, from, 0)) == 0;
             to++) {
            const Sidespool__Column *c = schema_column(schema, PQgetvalue(res, to, 1));
            all = all && c != NULL && c->key;
        }
        table->unique = all && (uint32_t)(to - from) == table->key_count;
    }
    PQclear(res);
    return SS_OK;
}

ss_status ss_tgt_table_load(ss_target *t, const Sidespool__Schema *schema, const char *ns,
                            const char *name, ss_tgt_table **ret, ss_error *reterr) {
    ss_arena *arena = ss_arena_new(8u << 20);
    ss_tgt_table *table = arena != NULL ? ss_arena_zalloc(arena, sizeof *table) : NULL;
    if (table == NULL) {
        ss_arena_free(arena);
        return ss_tgt_nomem(reterr);
    }
    table->arena = arena;
    table->schema_id = schema->id;
    table->serial = ++t->table_serial;
    const char *values[] = {ns, name};
    PGresult *res = NULL;
    ss_status status = relation(t, table, schema, ns, name, reterr);
    if (status == SS_OK)
        status = harmless(t, ns, name, reterr);
    if (status == SS_OK)
        status = ss_tgt_query(t, "reading the table's columns", COLUMNS, 2, values, &res, reterr);
    if (status == SS_OK)
        status = differences(res, schema, reterr);
    if (status == SS_OK)
        status = fill(table, res, schema, reterr);
    PQclear(res);
    if (status == SS_OK)
        status = find_unique(t, table, schema, ns, name, reterr);
    if (status != SS_OK)
        ss_arena_free(arena);
    else
        *ret = table;
    return status;
}

void ss_tgt_table_free(ss_tgt_table *table) {
    if (table != NULL)
        ss_arena_free(table->arena);
}

void ss_tgt_tables_forget(ss_target *t) {
    for (size_t i = 0; i < SS_TGT_TABLE_BUCKETS; i++)
        while (t->tables[i] != NULL) {
            ss_tgt_table *table = t->tables[i];
            t->tables[i] = table->next;
            ss_tgt_table_free(table);
        }
}

ss_tgt_table *ss_tgt_table_find(const ss_target *t, const Sidespool__Schema *schema, bool beside) {
    ss_tgt_table *table = t->tables[schema->id % SS_TGT_TABLE_BUCKETS];
    while (table != NULL && (table->schema_id != schema->id || table->beside != beside))
        table = table->next;
    return table;
}

static void keep_table(ss_target *t, ss_tgt_table *table) {
    ss_tgt_table **bucket = &t->tables[table->schema_id % SS_TGT_TABLE_BUCKETS];
    table->next = *bucket;
    *bucket = table;
}

ss_status ss_tgt_table_get(ss_target *t, const Sidespool__Schema *schema, bool beside,
                           ss_tgt_table **ret, ss_error *reterr) {
    *ret = ss_tgt_table_find(t, schema, beside);
    if (*ret != NULL)
        return SS_OK;
    const char *ns = schema->ns, *name = schema->name;
    char copy[40];
    bool fresh = false;
    if (beside) {
        ss_tgt_beside where = {0};
        ss_status status = ss_tgt_beside_get(t, schema->ns, schema->name, &where, reterr);
        if (status != SS_OK)
            return status;
        if (where.beside) {
            snprintf(copy, sizeof copy, "copy_%" PRIu64, where.number);
            ns = "sidespool";
            name = copy;
            fresh = where.fresh;
        }
    }
    ss_tgt_table *table = NULL;
    ss_status status = ss_tgt_table_load(t, schema, ns, name, &table, reterr);
    if (status != SS_OK)
        return status;
    table->beside = beside;
    /* Made anew and without a unique index although rows are found by key: its key is to be
     * deferrable (ss_tgt_beside_index), so two rows may share it for a while. */
    table->key_deferred |= fresh && !table->unique && table->key_count > 0;
    keep_table(t, table);
    *ret = table;
    return SS_OK;
}

ss_status ss_tgt_compare_with(ss_target *t, const Sidespool__Schema *schema, const char *ns,
                              const char *name, ss_error *reterr) {
    ss_tgt_table *table = NULL;
    ss_status status = ss_tgt_table_load(t, schema, ns, name, &table, reterr);
    if (status == SS_OK)
        ss_tgt_table_free(table);
    return status;
}

ss_status ss_tgt_compare(ss_target *t, const Sidespool__Schema *schema, ss_error *reterr) {
    ss_tgt_beside where = {0};
    ss_status status = ss_tgt_beside_get(t, schema->ns, schema->name, &where, reterr);
    if (status != SS_OK)
        return status;
    if (!where.beside && ss_tgt_table_find(t, schema, false) == NULL) {
        /* What has been read for this serves the first batch as well. */
        ss_tgt_table *table = NULL;
        status = ss_tgt_table_load(t, schema, schema->ns, schema->name, &table, reterr);
        if (status == SS_OK)
            keep_table(t, table);
        return status;
    }
    if (!where.beside)
        return ss_tgt_compare_with(t, schema, schema->ns, schema->name, reterr);
    /* Changes go where it is loaded. The table in place may have other columns until the end: that
     * is what it is copied anew for. */
    char copy[40];
    snprintf(copy, sizeof copy, "copy_%" PRIu64, where.number);
    return where.number != 0 ? ss_tgt_compare_with(t, schema, "sidespool", copy, reterr) : SS_OK;
}
