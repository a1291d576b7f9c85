/* --check, continued: patterns, the selected tables and their identities, the publication.
 *
 * Good tables make one line together, each bad one a line of its own, with the statement that mends it. What another role
 * owns is said as SQL for that role, whole. */
#include "agents/postgres/postgres_check.h"

typedef struct {
    size_t captured, partitioned, missing, foreign;
    bool refused; /* one without identity that is not published yet */
} table_counts;

static void put_name(ss_buf *out, const char *ns, const char *name) {
    const char *parts[2] = {ns, name};
    for (int i = 0; i < 2; i++) {
        ss_buf_put_str(out, i == 0 ? "\"" : ".\"");
        for (const char *at = parts[i]; *at != '\0'; at++) {
            if (*at == '"')
                ss_buf_put_byte(out, '"');
            ss_buf_put_byte(out, (uint8_t)*at);
        }
        ss_buf_put_byte(out, '"');
    }
}

/* "before NAME after", in the arena. */
static char *with_name(ss_postgres_checker *check, const char *before, const ss_postgres_table *table, const char *after) {
    ss_buf text;
    ss_buf_init(&text);
    ss_buf_put_str(&text, before);
    put_name(&text, table->ns, table->name);
    ss_buf_put_str(&text, after);
    const char *all = ss_buf_cstr(&text);
    char *ret = text.bad ? NULL : ss_arena_strndup(check->arena, all, strlen(all));
    ss_buf_done(&text);
    return ret;
}

static void check_table(ss_postgres_checker *check, const ss_postgres_table *table, table_counts *counts) {
    char *what = ss_arena_printf(check->arena, "table %s.%s", table->ns, table->name);
    if (what == NULL)
        what = "table";
    if (!table->publishable) {
        ss_postgres_check_warn(check, what, ss_arena_printf(check->arena, "not captured: %s", table->why_not),
                               table->relkind == 'f' ? "exclude it"
                                                     : with_name(check, "exclude it, or ALTER TABLE ", table, " SET LOGGED"));
        return;
    }
    counts->captured++;
    counts->partitioned += table->relkind == 'p';
    if (!table->has_identity) {
        counts->refused = true;
        ss_postgres_check_say(check, false, what,
                              ss_arena_printf(check->arena, "%s: once published, its UPDATEs and DELETEs fail at the source",
                                              table->why_not),
                              with_name(check, "ALTER TABLE ", table,
                                        table->relkind == 'p'
                                            ? " REPLICA IDENTITY FULL, and the same on each of its partitions; or exclude it"
                                            : " REPLICA IDENTITY FULL (or give it a primary key), or exclude it"));
    }
    if (!table->published) {
        counts->missing++;
        counts->foreign += !table->owned;
    }
}

/* ---- rights on leaves, row security ------------------------------------------------------------------------------- */

/* The copy reads heaps, so a partition's own rights and policies count. $1: the selected relids. */
static const char heaps_sql[] =
    "WITH RECURSIVE tree(oid) AS (SELECT unnest($1::oid[]) UNION SELECT i.inhrelid FROM tree t JOIN pg_class p ON p.oid = t.oid"
    " AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid)"
    " SELECT n.nspname, c.relname, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),"
    " row_security_active(c.oid) FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND (NOT has_table_privilege(c.oid, 'SELECT') OR NOT has_schema_privilege(n.oid, 'USAGE')"
    " OR row_security_active(c.oid)) ORDER BY 1, 2";

static ss_status check_heaps(ss_postgres_checker *check, const ss_postgres_table *tables, size_t count, ss_error *reterr) {
    PGresult *res = NULL;
    ss_buf oids;
    ss_buf_init(&oids);
    ss_buf_put_byte(&oids, '{');
    for (size_t i = 0; i < count; i++)
        if (tables[i].publishable)
            ss_buf_printf(&oids, "%s%u", oids.len == 1 ? "" : ",", tables[i].relid);
    ss_buf_put_byte(&oids, '}');
    const char *param = ss_buf_cstr(&oids);
    ss_status status = oids.bad ? ss_fail(reterr, SS_STOP, "SS-PG-0107", "no memory for the check")
                                : ss_postgres_check_query(check, "read the rights on the tables", heaps_sql, param, &res, reterr);
    for (int i = 0; status == SS_OK && i < PQntuples(res); i++) {
        ss_postgres_table leaf = {.ns = ss_postgres_value(res, i, 0), .name = ss_postgres_value(res, i, 1)};
        char *what = ss_arena_printf(check->arena, "table %s.%s", leaf.ns, leaf.name);
        bool readable = ss_postgres_value(res, i, 2)[0] == 't';
        if (readable)
            ss_postgres_check_say(check, false, what == NULL ? "table" : what, "row security hides rows from us",
                                  ss_arena_printf(check->arena, "ALTER ROLE \"%s\" BYPASSRLS", PQuser(check->conn)));
        else
            ss_postgres_check_say(check, false, what == NULL ? "table" : what, "no right to read it (a partition's own right counts)",
                                  with_name(check, "GRANT USAGE ON its SCHEMA and SELECT ON ", &leaf,
                                            ss_arena_printf(check->arena, " TO \"%s\"", PQuser(check->conn))));
    }
    PQclear(res);
    ss_buf_done(&oids);
    return status;
}

/* ---- publication -------------------------------------------------------------------------------------------------- */

/* The statement that is still needed, for its owner to run. NULL: no memory. */
static char *publication_sql(ss_postgres_checker *check, const ss_postgres_publication *publication,
                             const ss_postgres_table *tables, size_t count) {
    ss_buf sql;
    ss_buf_init(&sql);
    char *name = PQescapeIdentifier(check->conn, check->names.publication, strlen(check->names.publication));
    sql.bad = name == NULL;
    if (!sql.bad)
        ss_buf_printf(&sql, publication->exists ? "ALTER PUBLICATION %s ADD TABLE " : "CREATE PUBLICATION %s FOR TABLE ", name);
    bool first = true;
    for (size_t i = 0; i < count; i++) {
        if (tables[i].published || !tables[i].publishable)
            continue;
        ss_buf_put_str(&sql, first ? "" : ", ");
        put_name(&sql, tables[i].ns, tables[i].name);
        first = false;
    }
    if (!publication->exists && publication->via_root)
        ss_buf_put_str(&sql, " WITH (publish_via_partition_root = true)");
    const char *text = ss_buf_cstr(&sql);
    char *ret = sql.bad ? NULL : ss_arena_strndup(check->arena, text, strlen(text));
    PQfreemem(name);
    ss_buf_done(&sql);
    return ret;
}

static ss_status check_publication(ss_postgres_checker *check, const ss_postgres_publication *publication,
                                   const ss_postgres_table *tables, size_t count, const table_counts *counts,
                                   ss_error *reterr) {
    const char *name = check->names.publication;
    bool complete = counts->missing == 0, may = true;
    if (!publication->exists) {
        PGresult *res = NULL;
        ss_status status = ss_postgres_check_query(check, "read the right to make a publication",
                                                   "SELECT has_database_privilege(current_database(), 'CREATE')", NULL, &res,
                                                   reterr);
        if (status != SS_OK)
            return status;
        may = ss_postgres_value(res, 0, 0)[0] == 't';
        PQclear(res);
    } else {
        may = publication->owned || complete;
    }
    may = may && counts->foreign == 0;
    const char *state = !publication->exists ? may ? "not there yet, will be made" : "not there, and not ours to make"
                        : complete           ? "there, with every selected table"
                        : may                ? "there, the missing tables will be added"
                                             : "there, without all the selected tables, and not ours to complete";
    ss_postgres_check_say(check, may, "publication",
                          ss_arena_printf(check->arena, "%s: %s (%zu missing, %zu of them owned by other roles)", name, state,
                                          counts->missing, counts->foreign),
                          may ? ""
                              : ss_arena_printf(check->arena, "have the tables' owner, or a superuser, run: %s",
                                                publication_sql(check, publication, tables, count)));
    bool whole = publication->inserts && publication->updates && publication->deletes && publication->truncates;
    if (publication->exists && !whole)
        ss_postgres_check_say(check, false, "publication's operations", "it leaves some out",
                              ss_arena_printf(check->arena,
                                              "ALTER PUBLICATION \"%s\" SET (publish = 'insert, update, delete, truncate')", name));
    if (publication->exists && publication->generated)
        ss_postgres_check_say(check, false, "publication's generated columns", "it publishes them, and the target computes them",
                              ss_arena_printf(check->arena,
                                              "ALTER PUBLICATION \"%s\" SET (publish_generated_columns = none)", name));
    return SS_OK;
}

/* A filter or a list (15+) makes rows or columns missing that the copy has, and the source refuses UPDATEs where it does not
 * cover the identity. */
static ss_status check_filters(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    if (PQserverVersion(check->conn) < 150000)
        return SS_OK;
    ss_status status = ss_postgres_check_query(
        check, "read the publication's filters",
        "SELECT n.nspname, c.relname, r.prqual IS NOT NULL FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
        " JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE p.pubname = $1 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL) ORDER BY 1, 2",
        check->names.publication, &res, reterr);
    for (int i = 0; status == SS_OK && i < PQntuples(res); i++) {
        ss_postgres_table table = {.ns = ss_postgres_value(res, i, 0), .name = ss_postgres_value(res, i, 1)};
        char *before = ss_arena_printf(check->arena, "ALTER PUBLICATION \"%s\" DROP TABLE ", check->names.publication);
        char *what = ss_arena_printf(check->arena, "table %s.%s", table.ns, table.name);
        ss_postgres_check_say(check, false, what == NULL ? "table" : what,
                              ss_postgres_value(res, i, 2)[0] == 't' ? "the publication has a row filter on it"
                                                                     : "the publication has a column list for it",
                              before == NULL ? NULL
                                             : with_name(check, before, &table, "; then ADD TABLE it again without either"));
    }
    PQclear(res);
    return status;
}

#define NAMED 20

/* "a.b, a.c and 3 more", in the arena. NULL: no memory. */
static char *list_names(ss_postgres_checker *check, const ss_postgres_table *tables, size_t count, size_t captured) {
    ss_buf text;
    size_t named = 0;
    ss_buf_init(&text);
    for (size_t i = 0; i < count && named < NAMED; i++)
        if (tables[i].publishable)
            ss_buf_printf(&text, "%s%s.%s", named++ == 0 ? "" : ", ", tables[i].ns, tables[i].name);
    if (captured > named)
        ss_buf_printf(&text, " and %zu more", captured - named);
    const char *all = ss_buf_cstr(&text);
    char *ret = text.bad ? NULL : ss_arena_strndup(check->arena, all, strlen(all));
    ss_buf_done(&text);
    return ret;
}

static bool matches(const ss_strings *patterns, const char *name) {
    for (size_t i = 0; patterns != NULL && i < patterns->count; i++)
        if (ss_pattern_match(patterns->items[i], name))
            return true;
    return false;
}

/* What `exclude` took out of what `include` takes. */
static ss_status check_excluded(ss_postgres_checker *check, ss_error *reterr) {
    PGresult *res = NULL;
    const ss_source_env *env = check->env;
    if (env->exclude == NULL || env->exclude->count == 0)
        return SS_OK;
    ss_status status = ss_postgres_check_query(
        check, "read the names of tables",
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
        " AND NOT c.relispartition AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1",
        NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    ss_buf text;
    size_t out = 0;
    ss_buf_init(&text);
    for (int i = 0; i < PQntuples(res); i++) {
        const char *name = ss_postgres_value(res, i, 0);
        bool included = env->include == NULL || env->include->count == 0 || matches(env->include, name);
        if (!included || !matches(env->exclude, name))
            continue;
        if (out++ < NAMED)
            ss_buf_printf(&text, "%s%s", out == 1 ? "" : ", ", name);
    }
    if (out > NAMED)
        ss_buf_printf(&text, " and %zu more", out - NAMED);
    ss_postgres_check_say(check, true, "tables left out by exclude", out == 0 ? "none" : text.bad ? NULL : ss_buf_cstr(&text), "");
    ss_buf_done(&text);
    PQclear(res);
    return SS_OK;
}

ss_status ss_postgres_check_tables(ss_postgres_checker *check, ss_error *reterr) {
    ss_postgres_table *tables = NULL;
    ss_postgres_publication publication;
    table_counts counts = {0};
    size_t count = 0;
    ss_error err = {0};
    ss_status status = ss_postgres_publication_get(check->conn, check->env, check->arena, &publication, reterr);
    if (status != SS_OK)
        return status;
    status = ss_postgres_tables_select(check->conn, check->env, true, check->arena, &tables, &count, &err);
    if (status != SS_OK) {
        ss_postgres_check_say(check, false, "selection of tables",
                              err.code == NULL ? ss_arena_printf(check->arena, "%s", err.text)
                                               : ss_arena_printf(check->arena, "%s (%s)", err.text, err.code),
                              "correct tables.include and tables.exclude of the agent's file");
        return SS_OK;
    }
    for (size_t i = 0; i < count; i++)
        check_table(check, &tables[i], &counts);
    char *names = list_names(check, tables, count, counts.captured);
    ss_postgres_check_say(check, counts.captured > 0, "tables",
                          ss_arena_printf(check->arena, "%zu to capture, %zu of them partitioned%s%s%s", counts.captured,
                                          counts.partitioned,
                                          counts.refused ? "; those without an identity are named above" : "",
                                          counts.captured > 0 ? ": " : "", names == NULL ? "" : names),
                          "select at least one table that has WAL");
    status = check_excluded(check, reterr);
    if (status == SS_OK)
        status = check_heaps(check, tables, count, reterr);
    if (status == SS_OK)
        status = check_publication(check, &publication, tables, count, &counts, reterr);
    return status == SS_OK ? check_filters(check, reterr) : status;
}
