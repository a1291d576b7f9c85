/* Schemas: from the catalogue for a copy, from a Relation message (with the catalogue's help) for
 * the stream. Both read the same statement and fill the same fields, so that an unchanged table has
 * one Schema with one id on either way. */
#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_catalog.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* What is known of a column's type. b: the type below domains; e: an array's element, else b
 * itself. comparable: has a default btree or hash class, itself or a type that it is silently the
 * same as (varchar is text); an array as its elements; composites are taken as not comparable,
 * because a field may not be. Before version 14 an array is known by its input function alone
 * (typsubscript came then); array_in is the same in all. */
static const char facts_columns[] =
    " CASE WHEN bt.oid IS NULL THEN 'other'"
    "  WHEN et.oid IS NOT NULL THEN 'array'"
    "  WHEN bt.oid = 16 THEN 'bool' WHEN bt.oid IN (20, 21, 23) THEN 'int' WHEN bt.oid IN (700, "
    "701) THEN 'float'"
    "  WHEN bt.oid = 1700 THEN 'decimal' WHEN bt.oid IN (18, 19, 25, 1042, 1043) OR bt.typtype = "
    "'e' THEN 'text'"
    "  WHEN bt.oid = 17 THEN 'bytes' WHEN bt.oid = 1082 THEN 'date' WHEN bt.oid = 1083 THEN 'time'"
    "  WHEN bt.oid = 1114 THEN 'timestamp' WHEN bt.oid = 1184 THEN 'timestamptz' WHEN bt.oid = "
    "2950 THEN 'uuid'"
    "  WHEN bt.oid IN (114, 3802) THEN 'json' ELSE 'other' END,"
    " coalesce(e.typtype IN ('e', 'r', 'm') OR EXISTS (SELECT FROM pg_catalog.pg_opclass o WHERE "
    "o.opcdefault"
    "  AND o.opcmethod IN (403, 405) AND (o.opcintype = e.oid OR o.opcintype IN (SELECT "
    "c.casttarget FROM pg_catalog.pg_cast c"
    "  WHERE c.castsource = e.oid AND c.castmethod = 'b' AND c.castcontext = 'i'))), false)";

static const char facts_joins[] = " CROSS JOIN LATERAL (WITH RECURSIVE d(oid, depth) AS (SELECT "
                                  "w.type, 0 UNION ALL SELECT t.typbasetype, d.depth + 1 FROM d"
                                  "   JOIN pg_catalog.pg_type t ON t.oid = d.oid AND t.typtype = "
                                  "'d') SELECT d.oid FROM d ORDER BY d.depth DESC LIMIT 1) b"
                                  " LEFT JOIN pg_catalog.pg_type bt ON bt.oid = b.oid"
                                  " LEFT JOIN pg_catalog.pg_type et ON et.oid = bt.typelem AND "
                                  "bt.typinput = 'array_in'::pg_catalog.regproc"
                                  " CROSS JOIN LATERAL (SELECT coalesce(et.oid, bt.oid) AS oid, "
                                  "coalesce(et.typtype, bt.typtype) AS typtype) e";

/* A column as the catalogue has it, in the arena. */
struct column {
    const char *name;
    uint32_t type;
    int32_t typmod;
    bool primary, keyed, generated;
    Sidespool__Column *made;
};
struct table {
    const char *ns, *name, *kind;
    char identity;
    size_t count;
    struct column *columns;
};

enum {
    C_NS,
    C_NAME,
    C_KIND,
    C_IDENTITY,
    C_COLUMN,
    C_TYPE,
    C_TYPMOD,
    C_NATIVE,
    C_NOTNULL,
    C_PRIMARY,
    C_KEYED,
    C_GENERATED,
    C_ATTIDENTITY,
    C_CANONICAL,
    C_COMPARABLE,
    C_RELID
};

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for a table's schema");
}

static char *copy_text(ss_arena *arena, const char *text) {
    return ss_arena_strndup(arena, text, strlen(text));
}

/* From 18 on a NOT NULL may be NOT VALID: new rows obey it, old ones need not. */
static const char proven_not_null[] =
    "a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid "
    "AND k.contype = 'n' AND k.conkey[1] = a.attnum AND NOT k.convalidated)";

/* Planning this takes longer than running it, so a copy asks for many tables at once. Rows of one
 * table stand together, by oid. */
static ss_status tables_query(PGconn *conn, const uint32_t *relids, size_t count, PGresult **ret,
                              ss_error *reterr) {
    int version = PQserverVersion(conn);
    const char *in_key = ss_postgres_sql_in_key(conn);
    char sql[5120];
    snprintf(
        sql, sizeof sql,
        "SELECT w.nspname, w.relname, w.relkind, w.relreplident, w.attname, w.type, w.atttypmod,"
        " pg_catalog.format_type(w.type, w.atttypmod), w.attnotnull, w.is_primary, w.keyed, "
        "w.generated, w.attidentity,%s, w.oid"
        " FROM (SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, a.attnum, a.attname, "
        "a.atttypid AS type,"
        "  a.atttypmod, %s AS attnotnull, a.attidentity, %s AS generated,"
        "  EXISTS (SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND "
        /* A deferrable key may name two rows inside a transaction: rows are then found whole. */
        "x.indisprimary AND x.indimmediate"
        "   AND %s) AS is_primary,"
        "  EXISTS (SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND "
        "x.indimmediate"
        "   AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND "
        "x.indisreplident)"
        "   AND %s) AS keyed"
        "  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        "  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT "
        "a.attisdropped"
        "  WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND c.relkind IN ('r', 'p')) w%s ORDER BY w.oid, "
        "w.attnum",
        facts_columns, version >= 180000 ? proven_not_null : "a.attnotnull",
        version >= 120000 ? "a.attgenerated <> ''" : "false", in_key, in_key, facts_joins);
    ss_buf oids;
    ss_buf_init(&oids);
    for (size_t i = 0; i < count; i++)
        ss_buf_printf(&oids, "%c%" PRIu32, i == 0 ? '{' : ',', relids[i]);
    ss_buf_put_byte(&oids, '}');
    const char *params[1] = {ss_buf_cstr(&oids)};
    ss_status status = oids.bad ? no_memory(reterr)
                                : ss_postgres_query(conn, "read a table's columns", sql, 1, params,
                                                    PGRES_TUPLES_OK, ret, reterr);
    ss_buf_done(&oids);
    return status;
}

static Sidespool__Column *column_make(const PGresult *res, int row, ss_arena *arena) {
    Sidespool__Column *made = ss_arena_alloc(arena, sizeof *made);
    if (!made)
        return NULL;
    sidespool__column__init(made);
    char identity = *ss_postgres_value(res, row, C_ATTIDENTITY);
    made->name = copy_text(arena, ss_postgres_value(res, row, C_COLUMN));
    made->native_type = copy_text(arena, ss_postgres_value(res, row, C_NATIVE));
    made->canonical = copy_text(arena, ss_postgres_value(res, row, C_CANONICAL));
    made->identity = copy_text(arena, identity == 'a'   ? "always"
                                      : identity == 'd' ? "default"
                                                        : "");
    made->nullable = *ss_postgres_value(res, row, C_NOTNULL) != 't';
    made->comparable = *ss_postgres_value(res, row, C_COMPARABLE) == 't';
    return made->name && made->native_type && made->canonical && made->identity ? made : NULL;
}

static uint32_t relid_of(const PGresult *res, int row) {
    return (uint32_t)strtoul(ss_postgres_value(res, row, C_RELID), NULL, 10);
}

/* *ret NULL: there is no such table. */
static ss_status table_find(const PGresult *res, uint32_t relid, ss_arena *arena,
                            struct table **ret, ss_error *reterr) {
    int low = 0, high = PQntuples(res);
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (relid_of(res, middle) < relid)
            low = middle + 1;
        else
            high = middle;
    }
    int end = low;
    while (end < PQntuples(res) && relid_of(res, end) == relid)
        end++;
    *ret = NULL;
    if (low == end)
        return SS_OK;
    struct table *out = ss_arena_zalloc(arena, sizeof *out);
    if (out)
        out->columns = ss_arena_zalloc(arena, ((size_t)(end - low) + 1) * sizeof *out->columns);
    if (!out || !out->columns)
        return no_memory(reterr);
    out->ns = copy_text(arena, ss_postgres_value(res, low, C_NS));
    out->name = copy_text(arena, ss_postgres_value(res, low, C_NAME));
    out->kind = *ss_postgres_value(res, low, C_KIND) == 'p' ? "partitioned" : "table";
    out->identity = *ss_postgres_value(res, low, C_IDENTITY);
    bool bad = !out->ns || !out->name;
    for (int row = low; row < end && !bad; row++) {
        if (PQgetisnull(res, row, C_COLUMN)) /* a table without columns */
            break;
        struct column *column = &out->columns[out->count++];
        column->type = (uint32_t)strtoul(ss_postgres_value(res, row, C_TYPE), NULL, 10);
        column->typmod = (int32_t)strtol(ss_postgres_value(res, row, C_TYPMOD), NULL, 10);
        column->primary = *ss_postgres_value(res, row, C_PRIMARY) == 't';
        column->keyed = *ss_postgres_value(res, row, C_KEYED) == 't';
        column->generated = *ss_postgres_value(res, row, C_GENERATED) == 't';
        column->made = column_make(res, row, arena);
        bad = column->made == NULL;
        column->name = bad ? NULL : column->made->name;
    }
    if (bad)
        return no_memory(reterr);
    *ret = out;
    return SS_OK;
}

static ss_status table_load(PGconn *conn, uint32_t relid, ss_arena *arena, struct table **ret,
                            ss_error *reterr) {
    PGresult *res;
    ss_status status = tables_query(conn, &relid, 1, &res, reterr);
    if (status != SS_OK)
        return status;
    status = table_find(res, relid, arena, ret, reterr);
    PQclear(res);
    return status;
}

static Sidespool__Schema *schema_new(ss_arena *arena, const char *ns, const char *name,
                                     const char *kind, size_t columns) {
    Sidespool__Schema *schema = ss_arena_alloc(arena, sizeof *schema);
    if (!schema)
        return NULL;
    sidespool__schema__init(schema);
    schema->engine = copy_text(arena, "postgres");
    schema->ns = copy_text(arena, ns);
    schema->name = copy_text(arena, name);
    schema->kind = copy_text(arena, kind);
    schema->columns = ss_arena_alloc(arena, (columns + 1) * sizeof *schema->columns);
    return schema->engine && schema->ns && schema->name && schema->kind && schema->columns ? schema
                                                                                           : NULL;
}

/* From what the catalogue holds now. A generated column in the primary key leaves the key unusable:
 * then there is none. */
static Sidespool__Schema *schema_of_table(const struct table *table, ss_arena *arena) {
    Sidespool__Schema *schema =
        schema_new(arena, table->ns, table->name, table->kind, table->count);
    if (!schema)
        return NULL;
    bool keyed = false, generated_keyed = false, generated_primary = false;
    for (size_t i = 0; i < table->count; i++) {
        keyed |= table->columns[i].keyed;
        generated_keyed |= table->columns[i].keyed && table->columns[i].generated;
        generated_primary |= table->columns[i].primary && table->columns[i].generated;
    }
    schema->identity = table->identity == 'f'      ? SIDESPOOL__IDENTITY__IDENTITY_FULL
                       : keyed && !generated_keyed ? SIDESPOOL__IDENTITY__IDENTITY_KEY
                                                   : SIDESPOOL__IDENTITY__IDENTITY_NONE;
    for (size_t i = 0; i < table->count; i++) {
        const struct column *column = &table->columns[i];
        if (column->generated)
            continue;
        column->made->key = schema->identity == SIDESPOOL__IDENTITY__IDENTITY_KEY
                                ? column->keyed
                                : column->primary && !generated_primary;
        schema->columns[schema->n_columns++] = column->made;
    }
    return schema;
}

ss_status ss_postgres_schemas_load(PGconn *conn, const uint32_t *relids, size_t count,
                                   ss_arena *arena, Sidespool__Schema **ret, ss_error *reterr) {
    PGresult *res;
    ss_status status = tables_query(conn, relids, count, &res, reterr);
    if (status != SS_OK)
        return status;
    for (size_t i = 0; i < count && status == SS_OK; i++) {
        struct table *table;
        status = table_find(res, relids[i], arena, &table, reterr);
        if (status == SS_OK && !table)
            status = ss_fail(reterr, SS_STOP, "SS-PG-0030",
                             "the table with oid %" PRIu32 " is gone from the source", relids[i]);
        if (status == SS_OK && !(ret[i] = schema_of_table(table, arena)))
            status = no_memory(reterr);
    }
    PQclear(res);
    return status;
}

/* ---- from the wire
 * ------------------------------------------------------------------------------------------------
 */

static bool same_name(ss_bytes wire, const char *name) {
    return name && ss_bytes_eq(wire, ss_bytes_str(name));
}

/* Do names, types, order, identity and key of the catalogue say what the message says? */
static bool agrees(const struct table *table, const ss_pgoutput_relation *relation) {
    if (!table || !same_name(relation->ns, table->ns) || !same_name(relation->name, table->name) ||
        table->identity != relation->identity)
        return false;
    uint32_t n = 0;
    for (size_t i = 0; i < table->count; i++) {
        const struct column *column = &table->columns[i];
        if (column->generated) {
            if (column->keyed)
                return false;
            continue;
        }
        if (n == relation->count)
            return false;
        const ss_pgoutput_column *wire = &relation->columns[n++];
        if (!same_name(wire->name, column->name) || wire->type != column->type ||
            wire->typmod != column->typmod)
            return false;
        if (relation->identity != 'f' && wire->key != column->keyed)
            return false;
    }
    return n == relation->count;
}

static const struct column *find_column(const struct table *table, ss_bytes name) {
    for (size_t i = 0; table && i < table->count; i++)
        if (same_name(name, table->columns[i].name) && !table->columns[i].generated)
            return &table->columns[i];
    return NULL;
}

/* native type, canonical, comparable for each column of the message: three columns, in order. */
static ss_status type_query(PGconn *conn, const ss_pgoutput_relation *relation, PGresult **ret,
                            ss_error *reterr) {
    ss_buf types, typmods;
    char sql[3072];
    ss_status status;
    ss_buf_init(&types);
    ss_buf_init(&typmods);
    ss_buf_put_byte(&types, '{');
    ss_buf_put_byte(&typmods, '{');
    for (uint32_t i = 0; i < relation->count; i++) {
        ss_buf_printf(&types, "%s%" PRIu32, i ? "," : "", relation->columns[i].type);
        ss_buf_printf(&typmods, "%s%" PRId32, i ? "," : "", relation->columns[i].typmod);
    }
    ss_buf_put_byte(&types, '}');
    ss_buf_put_byte(&typmods, '}');
    snprintf(
        sql, sizeof sql,
        "SELECT CASE WHEN t.oid IS NOT NULL THEN pg_catalog.format_type(w.type, w.typmod) END,%s"
        " FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), "
        "pg_catalog.unnest($2::pg_catalog.int4[]))"
        " WITH ORDINALITY AS w(type, typmod, n) LEFT JOIN pg_catalog.pg_type t ON t.oid = w.type%s "
        "ORDER BY w.n",
        facts_columns, facts_joins);
    if (types.bad || typmods.bad) {
        status = no_memory(reterr);
    } else {
        const char *params[2] = {ss_buf_cstr(&types), ss_buf_cstr(&typmods)};
        status = ss_postgres_query(conn, "read the types of a relation", sql, 2, params,
                                   PGRES_TUPLES_OK, ret, reterr);
    }
    ss_buf_done(&types);
    ss_buf_done(&typmods);
    return status;
}

static const char *type_name(const PGresult *res, int row, uint32_t oid,
                             const ss_postgres_type *types, size_t count, ss_arena *arena) {
    if (!PQgetisnull(res, row, 0))
        return copy_text(arena, ss_postgres_value(res, row, 0));
    for (size_t i = 0; i < count; i++)
        if (types[i].oid == oid)
            return copy_text(arena, types[i].name);
    return ss_arena_printf(arena, "dropped type %" PRIu32, oid);
}

static char *copy_bytes(ss_arena *arena, ss_bytes bytes) {
    return ss_arena_strndup(arena, bytes.ptr, bytes.len);
}

/* A column of a message that the catalogue no longer agrees with as a whole. */
static Sidespool__Column *wire_column(const ss_pgoutput_column *wire, const struct column *known,
                                      const PGresult *res, int row, const ss_postgres_type *types,
                                      size_t type_count, ss_arena *arena) {
    Sidespool__Column *made = ss_arena_alloc(arena, sizeof *made);
    if (!made)
        return NULL;
    sidespool__column__init(made);
    bool same = known && known->type == wire->type && known->typmod == wire->typmod;
    made->name = copy_bytes(arena, wire->name);
    made->native_type = (char *)(uintptr_t)type_name(res, row, wire->type, types, type_count,
                                                     arena); /* arena's own */
    made->canonical = copy_text(arena, ss_postgres_value(res, row, 1));
    made->comparable = *ss_postgres_value(res, row, 2) == 't';
    made->nullable = same ? known->made->nullable : true;
    made->identity = copy_text(arena, same ? known->made->identity : "");
    return made->name && made->native_type && made->canonical && made->identity ? made : NULL;
}

static ss_status schema_of_message(PGconn *conn, const ss_pgoutput_relation *relation,
                                   const struct table *table, const ss_postgres_type *types,
                                   size_t type_count, ss_arena *arena, Sidespool__Schema **ret,
                                   ss_error *reterr) {
    PGresult *res;
    char *ns = copy_bytes(arena, relation->ns.len ? relation->ns : ss_bytes_str("pg_catalog"));
    char *name = copy_bytes(arena, relation->name);
    Sidespool__Schema *schema =
        ns && name ? schema_new(arena, ns, name, table ? table->kind : "table", relation->count)
                   : NULL;
    if (!schema)
        return no_memory(reterr);
    ss_status status = type_query(conn, relation, &res, reterr);
    if (status != SS_OK)
        return status;
    bool any_key = false, primary_whole = true;
    for (uint32_t i = 0; i < relation->count; i++)
        any_key |= relation->columns[i].key;
    for (size_t i = 0; table && i < table->count;
         i++) { /* a primary key counts when the message has all of it */
        bool there = false;
        for (uint32_t k = 0; k < relation->count; k++)
            there |= same_name(relation->columns[k].name, table->columns[i].name);
        primary_whole &= there || !table->columns[i].primary;
    }
    schema->identity = relation->identity == 'f' ? SIDESPOOL__IDENTITY__IDENTITY_FULL
                       : any_key                 ? SIDESPOOL__IDENTITY__IDENTITY_KEY
                                                 : SIDESPOOL__IDENTITY__IDENTITY_NONE;
    for (uint32_t i = 0; i < relation->count; i++) {
        const struct column *known = find_column(table, relation->columns[i].name);
        Sidespool__Column *made =
            wire_column(&relation->columns[i], known, res, (int)i, types, type_count, arena);
        if (!made) {
            status = no_memory(reterr);
            break;
        }
        made->key = schema->identity == SIDESPOOL__IDENTITY__IDENTITY_KEY
                        ? relation->columns[i].key
                        : known && known->primary && primary_whole;
        schema->columns[schema->n_columns++] = made;
    }
    PQclear(res);
    if (status == SS_OK)
        *ret = schema;
    return status;
}

ss_status ss_postgres_schema_of_wire(PGconn *conn, const ss_pgoutput_relation *relation,
                                     const ss_postgres_type *types, size_t type_count,
                                     ss_arena *arena, Sidespool__Schema **ret, ss_error *reterr) {
    struct table *table;
    ss_status status = table_load(conn, relation->relid, arena, &table, reterr);
    if (status != SS_OK)
        return status;
    if (!agrees(table, relation))
        return schema_of_message(conn, relation, table, types, type_count, arena, ret, reterr);
    Sidespool__Schema *schema = schema_of_table(table, arena);
    if (!schema)
        return no_memory(reterr);
    *ret = schema;
    return SS_OK;
}
