/* Objects before any table: schemas, extensions, collations, types, sequences. Phase "pre".
 *
 * Types come in dependency order, also through arrays, domains, composites and ranges: OBJ_TYPES gives each its greatest
 * depth below a column, and the deepest are made first. Nothing here runs a statement on the target. */
#include "agents/postgres/postgres_objects.h"

static const char schemas_sql[] =
    OBJ_WITH OBJ_TYPES OBJ_SEQS
    " SELECT 'pre', 'schema', n.nspname, n.nspname, '', 'CREATE SCHEMA IF NOT EXISTS ' || quote_ident(n.nspname), '', false"
    " FROM pg_namespace n WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'sidespool') AND n.oid IN ("
    "  SELECT c.relnamespace FROM pg_class c JOIN sel ON sel.oid = c.oid"
    "  UNION SELECT c.relnamespace FROM pg_class c JOIN seqs ON seqs.oid = c.oid"
    "  UNION SELECT t.typnamespace FROM pg_type t JOIN types ON types.oid = t.oid"
    "  UNION SELECT l.collnamespace FROM pg_collation l JOIN uses u ON u.classid = 'pg_collation'::regclass"
    "   AND u.objid = l.oid) ORDER BY n.nspname";

static const char schema_comments_sql[] =
    OBJ_WITH
    " SELECT 'pre', 'comment', n.nspname, n.nspname, '', format('COMMENT ON SCHEMA %I IS %L', n.nspname, d.description),"
    "  '', true FROM pg_namespace n JOIN pg_description d ON d.classoid = 'pg_namespace'::regclass AND d.objoid = n.oid"
    " WHERE NOT (SELECT subset FROM asked) AND n.oid >= " OBJ_USER
    " AND n.oid IN (SELECT c.relnamespace FROM pg_class c JOIN sel ON sel.oid = c.oid) ORDER BY 3";

/* Those alone whose types, operator classes or functions are used by what is mirrored. */
static const char extensions_sql[] =
    OBJ_WITH OBJ_TYPES
    " SELECT 'pre', 'extension', n.nspname, x.extname, '',"
    "  format('CREATE SCHEMA IF NOT EXISTS %I; CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I CASCADE', n.nspname,"
    "  x.extname, n.nspname), 'used by mirrored objects', true"
    " FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.oid IN ("
    "  SELECT e.extid FROM ext e JOIN uses u ON u.classid = e.classid AND u.objid = e.objid"
    "  UNION SELECT e.extid FROM ext e JOIN types t ON e.classid = 'pg_type'::regclass AND e.objid = t.oid)"
    " ORDER BY x.oid";

static const char collations_sql[] =
    OBJ_WITH OBJ_TYPES
    " SELECT 'pre', 'collation', n.nspname, l.collname, '',"
    "  'CREATE COLLATION IF NOT EXISTS ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) || ' (PROVIDER = '"
    "  || CASE l.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END || @collation_locale@"
    "  || @collation_deterministic@ || ')', '', false"
    " FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace"
    " WHERE l.oid >= " OBJ_USER " AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_collation'::regclass AND e.objid = l.oid)"
    " AND l.oid IN (SELECT objid FROM uses WHERE classid = 'pg_collation'::regclass"
    "  UNION SELECT a.attcollation FROM pg_attribute a JOIN sel ON sel.oid = a.attrelid"
    "  UNION SELECT t.typcollation FROM pg_type t JOIN types ON types.oid = t.oid"
    "  UNION SELECT a.attcollation FROM types t JOIN pg_type y ON y.oid = t.oid AND y.typtype = 'c'"
    "   JOIN pg_attribute a ON a.attrelid = y.typrelid) ORDER BY l.oid";

/* One branch for each typtype. The checks of a domain follow it in the same record, but those that call a function
 * which is not mirrored: these are optional and stand alone. */
static const char types_sql[] =
    OBJ_WITH OBJ_TYPES
    ", named AS (SELECT @oid_of_t@t.*, ty.depth, n.nspname, quote_ident(n.nspname) || '.' || quote_ident(t.typname) AS qname"
    "  FROM types ty JOIN pg_type t ON t.oid = ty.oid JOIN pg_namespace n ON n.oid = t.typnamespace"
    "  WHERE t.oid >= " OBJ_USER
    "  AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid)),"
    " made(depth, oid, step, kind, ns, name, def, note, optional) AS ("
    " SELECT depth, oid, 0, 'type', nspname, typname, 'CREATE TYPE ' || qname || ' AS ENUM (' || coalesce((SELECT"
    "  string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),"
    "  '') || ')', '', false FROM named t WHERE typtype = 'e'"
    " UNION ALL SELECT depth, oid, 0, 'type', nspname, typname, 'CREATE TYPE ' || qname || ' AS (' || coalesce((SELECT"
    "  string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)"
    "   || CASE WHEN a.attcollation <> y.typcollation AND a.attcollation <> 0"
    "    THEN ' COLLATE ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname) ELSE '' END, ', ' ORDER BY a.attnum)"
    "  FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation"
    "  LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace"
    "  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') || ')', '', false"
    "  FROM named t WHERE typtype = 'c' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')"
    " UNION ALL SELECT depth, oid, 0, 'type', nspname, typname, 'CREATE DOMAIN ' || qname || ' AS '"
    "  || format_type(typbasetype, typtypmod)"
    "  || coalesce((SELECT ' COLLATE ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l"
    "   JOIN pg_namespace ln ON ln.oid = l.collnamespace JOIN pg_type b ON b.oid = t.typbasetype"
    "   WHERE l.oid = t.typcollation AND t.typcollation <> b.typcollation), '')"
    "  || coalesce(' DEFAULT ' || pg_get_expr(typdefaultbin, 0), '') || CASE WHEN typnotnull THEN ' NOT NULL' ELSE '' END"
    "  || coalesce((SELECT string_agg('; ALTER DOMAIN ' || qname || ' ADD CONSTRAINT ' || quote_ident(c.conname) || ' '"
    "   || pg_get_constraintdef(c.oid), '' ORDER BY c.conname) FROM pg_constraint c WHERE c.contypid = t.oid"
    "   AND c.contype = 'c' AND NOT EXISTS (SELECT FROM foul f WHERE f.classid = 'pg_constraint'::regclass"
    "   AND f.objid = c.oid)), ''), '', false FROM named t WHERE typtype = 'd'"
    " UNION ALL SELECT depth, t.oid, 1, 'check', nspname, c.conname, 'ALTER DOMAIN ' || qname || ' ADD CONSTRAINT '"
    "  || quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid), 'uses a function that is not mirrored', true"
    "  FROM named t JOIN pg_constraint c ON c.contypid = t.oid AND c.contype = 'c' JOIN foul f"
    "  ON f.classid = 'pg_constraint'::regclass AND f.objid = c.oid"
    OBJ_RANGES
    " UNION ALL SELECT depth, oid, 0, 'type', nspname, typname, '',"
    "  'base type ' || qname || ' is not mirrored: install what makes it on the target', false FROM named t"
    "  WHERE typtype = 'b' AND NOT (typelem <> 0 AND typlen = -1)"
    " UNION ALL SELECT t.depth, t.oid, 2, 'comment', nspname, typname, CASE typtype WHEN 'd' THEN 'COMMENT ON DOMAIN '"
    "  ELSE 'COMMENT ON TYPE ' END || qname || ' IS ' || quote_literal(d.description), '', true FROM named t"
    "  JOIN pg_description d ON d.classoid = 'pg_type'::regclass AND d.objoid = t.oid AND d.objsubid = 0"
    "  WHERE typtype IN ('e', 'd', 'r') OR typtype = 'c' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid"
    "   AND c.relkind = 'c'))"
    " SELECT 'pre', kind, ns, name, '', def, note, optional FROM made ORDER BY depth DESC, oid, step, name";

/* Sequences of identity columns are made with their table. IF NOT EXISTS: several tables may share one, and a table that
 * is copied later finds it there. */
static const char sequences_sql[] =
    OBJ_WITH OBJ_SEQS
    " SELECT 'pre', 'sequence', n.nspname, c.relname, min(s.tbl), 'CREATE SEQUENCE IF NOT EXISTS ' || " OBJ_NAME("n", "c")
    " || ' AS ' || format_type(q.seqtypid, NULL) || ' ' || o.opts, '', false"
    " FROM seqs s JOIN seqopts o ON o.oid = s.oid JOIN pg_sequence q ON q.seqrelid = s.oid JOIN pg_class c ON c.oid = s.oid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE s.how <> 'i'"
    " GROUP BY n.nspname, c.relname, q.seqtypid, o.opts ORDER BY 3, 4";

static const char sequence_comments_sql[] =
    OBJ_WITH OBJ_SEQS
    " SELECT 'pre', 'comment', n.nspname, c.relname, min(s.tbl),"
    "  format('COMMENT ON SEQUENCE %I.%I IS %L', n.nspname, c.relname, d.description), '', true"
    " FROM seqs s JOIN pg_class c ON c.oid = s.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = 0"
    " WHERE s.how <> 'i' GROUP BY n.nspname, c.relname, d.description ORDER BY 3, 4";

ss_status ss_postgres_objects_types(ss_postgres_objects *objects, ss_error *reterr) {
    ss_status status = ss_postgres_objects_run(objects, "read the schemas", schemas_sql, reterr);
    if (status == SS_OK)
        status = ss_postgres_objects_run(objects, "read the schemas' comments", schema_comments_sql, reterr);
    if (status == SS_OK)
        status = ss_postgres_objects_run(objects, "read the extensions", extensions_sql, reterr);
    if (status == SS_OK)
        status = ss_postgres_objects_run(objects, "read the collations", collations_sql, reterr);
    return status == SS_OK ? ss_postgres_objects_run(objects, "read the types", types_sql, reterr) : status;
}

ss_status ss_postgres_objects_sequences(ss_postgres_objects *objects, ss_error *reterr) {
    ss_status status = ss_postgres_objects_run(objects, "read the sequences", sequences_sql, reterr);
    return status == SS_OK
               ? ss_postgres_objects_run(objects, "read the sequences' comments", sequence_comments_sql, reterr)
               : status;
}
