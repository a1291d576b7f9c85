/* What is not mirrored: one Object without definition for each kind, whose note counts and names it. A person sees it
 * once, in the route's log and in `finish`; nothing is left out silently. */
#include "agents/postgres/postgres_objects.h"

/* kind, plural, and the names: each branch adds rows (kind, name). The first 20 of a kind are named. */
static const char left_out_sql[] =
    OBJ_WITH OBJ_TYPES OBJ_SEQS
    ", ns AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
    "  AND nspname NOT IN ('information_schema', 'sidespool')),"
    " found(kind, plural, name) AS ("
    " SELECT @function_kind@, @function_kind@ || 's', n.nspname || '.' || p.proname FROM pg_proc p JOIN ns n ON n.oid ="
    "  p.pronamespace WHERE p.oid >= " OBJ_USER " AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_proc'::regclass"
    "   AND e.objid = p.oid) AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass"
    "   AND d.objid = p.oid AND d.deptype = 'i')"
    " UNION ALL SELECT 'trigger', 'triggers', n.nspname || '.' || c.relname || '.' || t.tgname FROM pg_trigger t JOIN pg_class c"
    "  ON c.oid = t.tgrelid JOIN ns n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal"
    " UNION ALL SELECT 'rule', 'rules', n.nspname || '.' || c.relname || '.' || r.rulename FROM pg_rewrite r JOIN pg_class c"
    "  ON c.oid = r.ev_class JOIN ns n ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN' AND r.oid >= " OBJ_USER
    " UNION ALL SELECT 'policy', 'row security policies', n.nspname || '.' || c.relname || '.' || p.polname FROM pg_policy p"
    "  JOIN pg_class c ON c.oid = p.polrelid JOIN ns n ON n.oid = c.relnamespace"
    " UNION ALL SELECT 'event_trigger', 'event triggers', evtname FROM pg_event_trigger"
    " UNION ALL SELECT 'extension', 'extensions', x.extname FROM pg_extension x WHERE x.oid >= " OBJ_USER
    "  AND x.oid NOT IN (SELECT e.extid FROM ext e JOIN uses u ON u.classid = e.classid AND u.objid = e.objid"
    "  UNION SELECT e.extid FROM ext e JOIN types t ON e.classid = 'pg_type'::regclass AND e.objid = t.oid)"
    " UNION ALL SELECT 'foreign_table', 'foreign tables', n.nspname || '.' || c.relname FROM pg_class c JOIN ns n"
    "  ON n.oid = c.relnamespace WHERE c.relkind = 'f'"
    " UNION ALL SELECT 'operator', 'operators', n.nspname || '.' || o.oprname FROM pg_operator o JOIN ns n"
    "  ON n.oid = o.oprnamespace WHERE o.oid >= " OBJ_USER " AND NOT EXISTS (SELECT FROM ext e"
    "   WHERE e.classid = 'pg_operator'::regclass AND e.objid = o.oid)"
    " UNION ALL SELECT 'operator_class', 'operator classes', n.nspname || '.' || o.opcname FROM pg_opclass o JOIN ns n"
    "  ON n.oid = o.opcnamespace WHERE o.oid >= " OBJ_USER " AND NOT EXISTS (SELECT FROM ext e"
    "   WHERE e.classid = 'pg_opclass'::regclass AND e.objid = o.oid)"
    " UNION ALL SELECT 'text_search', 'text search configurations', n.nspname || '.' || f.cfgname FROM pg_ts_config f JOIN ns n"
    "  ON n.oid = f.cfgnamespace WHERE f.oid >= " OBJ_USER " AND NOT EXISTS (SELECT FROM ext e"
    "   WHERE e.classid = 'pg_ts_config'::regclass AND e.objid = f.oid)"
    OBJ_UNUSED
    " UNION ALL SELECT 'grant', 'owners and rights of relations (the route''s role owns the copy; grant there)',"
    "  n.nspname || '.' || c.relname FROM sel JOIN pg_class c ON c.oid = sel.oid JOIN ns n ON n.oid = c.relnamespace"
    "  WHERE c.relacl IS NOT NULL),"
    " numbered AS (SELECT *, row_number() OVER (PARTITION BY kind ORDER BY name) AS at,"
    "  count(*) OVER (PARTITION BY kind) AS total FROM found),"
    " large(total) AS (SELECT count(*) FROM pg_largeobject_metadata)"
    " SELECT 'final', kind, '', kind, '', '', 'not mirrored, ' || plural || ' (' || total || '): '"
    "  || string_agg(name, ', ' ORDER BY name) || CASE WHEN total > 20 THEN ' and ' || (total - 20) || ' more' ELSE '' END,"
    "  false FROM numbered WHERE at <= 20 AND NOT (SELECT subset FROM asked) GROUP BY kind, plural, total"
    " UNION ALL SELECT 'final', 'large_object', '', 'large_object', '', '', 'not mirrored, large objects (' || total || ')',"
    "  false FROM large WHERE total > 0 AND NOT (SELECT subset FROM asked) ORDER BY 2";

ss_status ss_postgres_objects_left_out(ss_postgres_objects *objects, ss_error *reterr) {
    return ss_postgres_objects_run(objects, "read what is not mirrored", left_out_sql, reterr);
}
