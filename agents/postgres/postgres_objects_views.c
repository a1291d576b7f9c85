/* Objects of the phase "final" that stand on tables: views and materialized views, in dependency order.
 *
 * A view is mirrored when all that it reads is: selected tables, mirrored views, the server's own catalogues, relations of
 * extensions. Another one becomes a note. One that calls a function which is not mirrored is optional, and so is
 * every view above it. Runs in the copy thread. */
#include "agents/postgres/postgres_objects.h"

#include <stdlib.h>

enum { V_OID, V_NS, V_NAME, V_KIND, V_FULL, V_OPTIONS, V_FOUL, V_FILLED, V_DEFINITION };
static const char views_sql[] =
    OBJ_WITH
    " SELECT c.oid, n.nspname, c.relname, c.relkind, " OBJ_NAME("n", "c") ","
    "  coalesce((SELECT ' WITH (' || string_agg(quote_ident(split_part(x, '=', 1)) || '='"
    "   || quote_literal(substr(x, strpos(x, '=') + 1)), ', ') || ')' FROM unnest(c.reloptions) x), ''),"
    "  EXISTS (SELECT FROM foul f JOIN pg_rewrite r ON r.oid = f.objid WHERE f.classid = 'pg_rewrite'::regclass"
    "   AND r.ev_class = c.oid), c.relispopulated, pg_get_viewdef(c.oid)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('v', 'm') AND c.oid >= " OBJ_USER " AND NOT (SELECT subset FROM asked)"
    " AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'sidespool') AND n.nspname !~ '^pg_'"
    " AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid) ORDER BY c.oid";

/* What each view reads: the relation, and whether it is there in any case ('y'), a view ('v') or never there ('n'). */
static const char reads_sql[] =
    OBJ_WITH
    " SELECT DISTINCT r.ev_class, c.oid, CASE WHEN c.oid < " OBJ_USER " OR c.oid IN (SELECT oid FROM every)"
    "   OR EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid) THEN 'y'"
    "  WHEN c.relkind IN ('v', 'm') THEN 'v' ELSE 'n' END, n.nspname || '.' || c.relname"
    " FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm') AND v.oid >= " OBJ_USER
    " JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass"
    " JOIN pg_class c ON c.oid = d.refobjid AND c.oid <> v.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2";

/* What belongs to the views; emitted behind them all. $1 and $2 are theirs here. */
static const char behind_sql[] =
    OBJ_WITH
    ", v AS (SELECT c.oid, c.relkind, n.nspname, c.relname, " OBJ_NAME("n", "c") " AS qname FROM sel JOIN pg_class c"
    "  ON c.oid = sel.oid JOIN pg_namespace n ON n.oid = c.relnamespace),"
    " made(step, oid, sub, kind, ns, name, def) AS ("
    " SELECT 1, i.indexrelid, 0, 'index', v.nspname, x.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i"
    "  JOIN v ON v.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indisvalid"
    " UNION ALL SELECT 2, v.oid, d.objsubid, 'comment', v.nspname, v.relname, CASE WHEN d.objsubid > 0"
    "  THEN 'COMMENT ON COLUMN ' || v.qname || '.' || quote_ident(a.attname) WHEN v.relkind = 'm'"
    "  THEN 'COMMENT ON MATERIALIZED VIEW ' || v.qname ELSE 'COMMENT ON VIEW ' || v.qname END || ' IS '"
    "  || quote_literal(d.description) FROM v JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = v.oid"
    "  LEFT JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum = d.objsubid AND d.objsubid > 0)"
    " SELECT 'final', kind, ns, name, '', def, '', true FROM made ORDER BY step, oid, sub";

typedef enum { VIEW_WAITS, VIEW_MADE, VIEW_LEFT_OUT } ss_view_state;

typedef struct {
    ss_postgres_objects *objects;
    PGresult *views, *reads;
    ss_view_state *state;
    bool *foul;
    const char **why; /* name of what is missing, of a view left out */
    ss_buf text, made_oids, made_tables;
} ss_views;

static uint32_t oid_of(const PGresult *res, int row, int column) {
    return (uint32_t)strtoul(PQgetvalue(res, row, column), NULL, 10);
}

static int view_find(const ss_views *views, uint32_t oid) {
    int low = 0, high = PQntuples(views->views);
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (oid_of(views->views, middle, V_OID) < oid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < PQntuples(views->views) && oid_of(views->views, low, V_OID) == oid ? low : -1;
}

/* Looks at all that the view reads; true when it can be made now. */
static bool view_ready(ss_views *views, int at) {
    uint32_t oid = oid_of(views->views, at, V_OID);
    int low = 0, high = PQntuples(views->reads);
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (oid_of(views->reads, middle, 0) < oid)
            low = middle + 1;
        else
            high = middle;
    }
    bool ready = true;
    for (int i = low; i < PQntuples(views->reads) && oid_of(views->reads, i, 0) == oid; i++) {
        char how = PQgetvalue(views->reads, i, 2)[0];
        int below = how == 'v' ? view_find(views, oid_of(views->reads, i, 1)) : -1;
        if (how == 'y')
            continue;
        if (how == 'n' || below < 0 || views->state[below] == VIEW_LEFT_OUT) {
            views->state[at] = VIEW_LEFT_OUT;
            views->why[at] = PQgetvalue(views->reads, i, 3);
            return false;
        }
        ready &= views->state[below] == VIEW_MADE;
        views->foul[at] |= views->foul[below];
    }
    return ready;
}

static ss_status view_emit(ss_views *views, int at, ss_error *reterr) {
    const PGresult *res = views->views;
    const char *full = PQgetvalue(res, at, V_FULL), *options = PQgetvalue(res, at, V_OPTIONS);
    const char *ns = PQgetvalue(res, at, V_NS), *name = PQgetvalue(res, at, V_NAME);
    bool stored = PQgetvalue(res, at, V_KIND)[0] == 'm', foul = views->foul[at];
    size_t len = (size_t)PQgetlength(res, at, V_DEFINITION);
    const char *body = PQgetvalue(res, at, V_DEFINITION);
    if (PQgetisnull(res, at, V_DEFINITION))
        return ss_fail(reterr, SS_RETRY, "SS-PG-0109", "view %s was dropped while it was described: the copy starts again",
                       full);
    while (len > 0 && (body[len - 1] == ';' || body[len - 1] == '\n' || body[len - 1] == ' '))
        len--;
    ss_buf_clear(&views->text);
    char *quoted_ns = PQescapeIdentifier(views->objects->conn, ns, strlen(ns));
    if (quoted_ns == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to describe view %s", full);
    ss_buf_printf(&views->text, "CREATE SCHEMA IF NOT EXISTS %s; ", quoted_ns);
    PQfreemem(quoted_ns);
    ss_buf_printf(&views->text, "CREATE %s %s%s AS", stored ? "MATERIALIZED VIEW" : "VIEW", full, options);
    ss_buf_put_byte(&views->text, '\n');
    ss_buf_put(&views->text, body, len);
    /* REFRESH comes with it, because a view above may be materialized from this one. */
    if (stored)
        ss_buf_put_str(&views->text, "\nWITH NO DATA");
    if (stored && PQgetvalue(res, at, V_FILLED)[0] == 't')
        ss_buf_printf(&views->text, "; REFRESH MATERIALIZED VIEW %s", full);
    const char *text = ss_buf_cstr(&views->text);
    if (views->text.bad)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to describe view %s", full);
    return ss_postgres_objects_emit(views->objects, "final", stored ? "materialized_view" : "view", ns, name, text,
                                    foul ? "uses a function that is not mirrored, or a view that does" : "", foul, reterr);
}

/* Passes over the views until nothing moves any more: each pass makes those whose bases are there. */
static ss_status views_make(ss_views *views, ss_error *reterr) {
    ss_status status = SS_OK;
    for (bool moved = true; moved && status == SS_OK;) {
        moved = false;
        for (int i = 0; i < PQntuples(views->views) && status == SS_OK; i++) {
            if (views->state[i] != VIEW_WAITS)
                continue;
            bool ready = view_ready(views, i);
            moved |= ready || views->state[i] == VIEW_LEFT_OUT;
            if (!ready)
                continue;
            status = view_emit(views, i, reterr);
            views->state[i] = VIEW_MADE;
            ss_buf_printf(&views->made_oids, ",%s", PQgetvalue(views->views, i, V_OID));
            ss_buf_put_str(&views->made_tables, ",\"\"");
        }
    }
    return status;
}

static ss_status views_behind(ss_views *views, ss_error *reterr) {
    ss_postgres_objects of_views = *views->objects; /* the same, over the views instead of the tables */
    if (views->made_oids.len == 0)
        return SS_OK;
    ss_buf_put_byte(&views->made_oids, '}');
    ss_buf_put_byte(&views->made_tables, '}');
    const char *oids = ss_buf_cstr(&views->made_oids), *tables = ss_buf_cstr(&views->made_tables);
    if (views->made_oids.bad || views->made_tables.bad)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to describe the source's views");
    views->made_oids.ptr[0] = '{'; /* in place of the first comma */
    views->made_tables.ptr[0] = '{';
    of_views.params[0] = oids;
    of_views.params[1] = tables;
    ss_buf_init(&of_views.sql);
    ss_status status = ss_postgres_objects_run(&of_views, "read the views' indexes and comments", behind_sql, reterr);
    ss_buf_done(&of_views.sql);
    return status;
}

static ss_status views_left_out(ss_views *views, ss_error *reterr) {
    ss_status status = SS_OK;
    for (int i = 0; i < PQntuples(views->views) && status == SS_OK; i++) {
        if (views->state[i] == VIEW_MADE)
            continue;
        const char *full = PQgetvalue(views->views, i, V_FULL);
        ss_buf_clear(&views->text);
        ss_buf_printf(&views->text, "view %s is not mirrored: it reads %s, which is not", full,
                      views->why[i] == NULL ? "itself through a rule" : views->why[i]);
        const char *note = ss_buf_cstr(&views->text);
        status = ss_postgres_objects_emit(views->objects, "final", "view", PQgetvalue(views->views, i, V_NS),
                                          PQgetvalue(views->views, i, V_NAME), "", note, false, reterr);
    }
    return status;
}

ss_status ss_postgres_objects_views(ss_postgres_objects *objects, ss_error *reterr) {
    ss_views views = {.objects = objects};
    ss_buf_init(&views.text);
    ss_buf_init(&views.made_oids);
    ss_buf_init(&views.made_tables);
    ss_status status = ss_postgres_objects_query(objects, "read the views", views_sql, &views.views, reterr);
    if (status == SS_OK)
        status = ss_postgres_objects_query(objects, "read what the views read", reads_sql, &views.reads, reterr);
    if (status != SS_OK)
        goto out;
    size_t count = (size_t)PQntuples(views.views);
    views.state = calloc(count + 1, sizeof *views.state);
    views.foul = calloc(count + 1, sizeof *views.foul);
    views.why = calloc(count + 1, sizeof *views.why);
    if (views.state == NULL || views.foul == NULL || views.why == NULL) {
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to describe the source's views");
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        views.foul[i] = PQgetvalue(views.views, (int)i, V_FOUL)[0] == 't';
    status = views_make(&views, reterr);
    if (status == SS_OK)
        status = views_behind(&views, reterr);
    if (status == SS_OK)
        status = views_left_out(&views, reterr);
out:
    PQclear(views.views);
    PQclear(views.reads);
    free(views.state);
    free(views.foul);
    free(views.why);
    ss_buf_done(&views.text);
    ss_buf_done(&views.made_oids);
    ss_buf_done(&views.made_tables);
    return status;
}
