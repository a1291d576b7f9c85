/* The driver of snapshot_objects: which relations are rebuilt, the order of the kinds, one Object for each row.
 *
 * All queries run in the holder's transaction, so the catalogue's tables are read as of the copy's snapshot. The functions
 * that write definitions (pg_get_expr, pg_get_indexdef, pg_get_constraintdef, pg_get_viewdef, pg_get_partkeydef,
 * format_type) look names up in the server's caches instead and see the newest catalogue: an object that was renamed
 * meanwhile is described by its new name, one that was dropped comes back as NULL or as an error. Both end in SS_RETRY,
 * and the copy starts again; nothing wrong can be built silently, because target and stream compare Schemas.
 *
 * search_path is pinned to pg_catalog, so every other name comes out qualified. Runs in the copy thread. */
#include "agents/postgres/postgres_objects.h"

#include <inttypes.h>
#include <stdlib.h>

/* sel: what is rebuilt; every: what is selected; ext: members of extensions; foul: objects that use functions, operators or
 * the like which are not mirrored, so that a target may have to do without them. */
static const char with_text[] =
    "WITH RECURSIVE sel(oid, tbl) AS (SELECT u.o, u.t FROM unnest($1::oid[], $2::text[]) u(o, t)),"
    " every(oid) AS (SELECT unnest($3::oid[])),"
    " asked(subset) AS (SELECT $4::bool),"
    " ext(classid, objid, extid) AS (SELECT classid, objid, refobjid FROM pg_depend WHERE deptype = 'e'),"
    " foul(classid, objid) AS (SELECT DISTINCT d.classid, d.objid FROM pg_depend d"
    "  WHERE d.refobjid >= " OBJ_USER " AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass,"
    "  'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_am'::regclass, 'pg_ts_config'::regclass,"
    "  'pg_ts_dict'::regclass, 'pg_conversion'::regclass)"
    "  AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = d.refclassid AND e.objid = d.refobjid)) ";
/* parts: every catalogue object that the rebuilt relations consist of (with all views, when all is rebuilt); uses: what
 * those depend on; types: what columns and expressions are made of, each at its greatest depth. */
static const char types_text[] =
    ", parts(classid, objid) AS (SELECT 'pg_class'::regclass::oid, oid FROM sel"
    " UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i JOIN sel ON sel.oid = i.indrelid"
    " UNION ALL SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d JOIN sel ON sel.oid = d.adrelid"
    " UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN sel ON sel.oid = c.conrelid"
    " UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class"
    "  WHERE v.relkind IN ('v', 'm') AND r.oid >= " OBJ_USER " AND NOT (SELECT subset FROM asked)),"
    " uses(classid, objid) AS (SELECT DISTINCT d.refclassid, d.refobjid FROM pg_depend d"
    "  JOIN parts p ON p.classid = d.classid AND p.objid = d.objid WHERE d.deptype <> 'e') "
    ", reach(oid, depth) AS ("
    " SELECT s.oid, 0 FROM (SELECT a.atttypid FROM pg_attribute a JOIN sel ON sel.oid = a.attrelid"
    "  WHERE a.attnum > 0 AND NOT a.attisdropped"
    "  UNION SELECT objid FROM uses WHERE classid = 'pg_type'::regclass) s(oid)"
    " UNION SELECT n.oid, r.depth + 1 FROM reach r JOIN pg_type t ON t.oid = r.oid CROSS JOIN LATERAL ("
    "  SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1"
    "  UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'"
    "  UNION ALL SELECT a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'"
    "   WHERE t.typtype = 'c' AND c.oid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped"
    "  UNION ALL SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid"
    "  UNION ALL @multirange@"
    "  UNION ALL SELECT d.refobjid FROM pg_constraint c JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass"
    "   AND d.objid = c.oid AND d.refclassid = 'pg_type'::regclass WHERE c.contypid = t.oid AND d.refobjid <> t.oid"
    " ) n(oid) WHERE r.depth < 64),"
    " types(oid, depth) AS (SELECT oid, max(depth) FROM reach GROUP BY oid) ";
/* seqs: owned by a column (a, i) or used by a default (n). */
static const char seqs_text[] =
    ", seqs(oid, tbl, relid, attnum, how) AS ("
    " SELECT d.objid, sel.tbl, d.refobjid, d.refobjsubid, d.deptype FROM pg_depend d JOIN sel ON sel.oid = d.refobjid"
    "  JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'"
    "  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0"
    "  AND d.deptype IN ('a', 'i')"
    " UNION SELECT d.refobjid, min(sel.tbl), 0, 0, 'n' FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid"
    "  JOIN sel ON sel.oid = f.adrelid JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'"
    "  WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass"
    "  AND NOT EXISTS (SELECT FROM pg_depend o JOIN sel ON sel.oid = o.refobjid WHERE o.objid = d.refobjid"
    "   AND o.classid = 'pg_class'::regclass AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i'))"
    "  GROUP BY d.refobjid),"
    " seqopts(oid, opts) AS (SELECT q.seqrelid, 'INCREMENT BY ' || q.seqincrement || ' MINVALUE ' || q.seqmin"
    "  || ' MAXVALUE ' || q.seqmax || ' START WITH ' || q.seqstart || ' CACHE ' || q.seqcache"
    "  || CASE WHEN q.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END FROM pg_sequence q"
    "  WHERE q.seqrelid IN (SELECT oid FROM seqs)) ";
/* A branch of the types: range types. A function of theirs is taken along only when the target has it anyway. */
static const char ranges_text[] =
    " UNION ALL SELECT depth, t.oid, 0, 'type', t.nspname, typname, 'CREATE TYPE ' || qname || ' AS RANGE (SUBTYPE = '"
    "  || format_type(g.rngsubtype, -1)"
    "  || CASE WHEN o.opcdefault THEN '' ELSE ', SUBTYPE_OPCLASS = ' || quote_ident(op.nspname) || '.' || quote_ident(o.opcname) END"
    "  || coalesce((SELECT ', COLLATION = ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname)"
    "   FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace JOIN pg_type b ON b.oid = g.rngsubtype"
    "   WHERE l.oid = g.rngcollation AND g.rngcollation <> b.typcollation), '')"
    "  || coalesce((SELECT ', SUBTYPE_DIFF = ' || quote_ident(pn.nspname) || '.' || quote_ident(p.proname) FROM pg_proc p"
    "   JOIN pg_namespace pn ON pn.oid = p.pronamespace WHERE p.oid = g.rngsubdiff AND (p.oid < " OBJ_USER
    "    OR EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid))), '')"
    "  || @multirange_name@ || ')',"
    "  CASE WHEN g.rngcanonical::oid >= " OBJ_USER " THEN 'made without its canonical function, which is not mirrored'"
    "   WHEN g.rngsubdiff::oid >= " OBJ_USER " THEN 'made without its subtype_diff function if that is not of an extension'"
    "   ELSE '' END, false"
    "  FROM named t JOIN pg_range g ON g.rngtypid = t.oid JOIN pg_opclass o ON o.oid = g.rngsubopc"
    "  JOIN pg_namespace op ON op.oid = o.opcnamespace WHERE typtype = 'r'";
/* inh: inheritance and partitioning among the rebuilt; col: their columns, `own` when CREATE TABLE lists it, and older: the
 * same as they can be on a target that has no virtual columns; lvl: parents before children, and a table before the tables
 * that have a column of its row type. */
static const char tables_text[] =
    ", rel AS (SELECT sel.tbl, @oid_of_c@c.*, n.nspname, " OBJ_NAME("n", "c") " AS qname FROM sel JOIN pg_class c ON c.oid = sel.oid"
    "  JOIN pg_namespace n ON n.oid = c.relnamespace),"
    " inh AS (SELECT i.inhrelid, i.inhparent, i.inhseqno, r.relispartition FROM pg_inherits i"
    "  JOIN rel r ON r.oid = i.inhrelid JOIN sel p ON p.oid = i.inhparent),"
    " facts AS (SELECT a.*, r.tbl, r.nspname, r.relname, r.qname, r.relispartition, y.typcollation, y.typstorage,"
    "  f.oid AS defoid, pg_get_expr(f.adbin, f.adrelid) AS expr, @generated@ AS gen, @virtual@ AS virt, @required@ AS required,"
    "  EXISTS (SELECT FROM foul WHERE foul.classid = 'pg_attrdef'::regclass AND foul.objid = f.oid) AS foul,"
    "  a.attislocal OR r.relispartition OR NOT EXISTS (SELECT FROM inh WHERE inh.inhrelid = r.oid) AS own"
    "  FROM pg_attribute a JOIN rel r ON r.oid = a.attrelid JOIN pg_type y ON y.oid = a.atttypid"
    "  LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum"
    "  WHERE a.attnum > 0 AND NOT a.attisdropped),"
    " col AS (SELECT facts.*, CASE WHEN virt THEN 'VIRTUAL' ELSE 'STORED' END AS kept FROM facts),"
    " older AS (SELECT facts.*, 'STORED' AS kept FROM facts),"
    " edge(child, parent) AS (SELECT inhrelid, inhparent FROM inh UNION SELECT a.attrelid, y.typrelid"
    "  FROM col a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type y ON y.oid IN (t.oid, t.typelem)"
    "  JOIN sel s ON s.oid = y.typrelid WHERE y.typrelid <> a.attrelid),"
    " chain(oid, depth) AS (SELECT oid, 0 FROM sel UNION SELECT e.child, c.depth + 1 FROM chain c"
    "  JOIN edge e ON e.parent = c.oid WHERE c.depth < 64),"
    " lvl(oid, depth) AS (SELECT oid, max(depth) FROM chain GROUP BY oid) ";
static const char column_text[] =
    "quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)"
    " || CASE WHEN a.attcollation <> 0 AND a.attcollation <> a.typcollation THEN (SELECT ' COLLATE '"
    "  || quote_ident(ln.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l"
    "  JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = a.attcollation) ELSE '' END"
    " || CASE WHEN a.expr IS NULL OR a.foul AND NOT a.gen THEN ''"
    "  WHEN a.gen THEN ' GENERATED ALWAYS AS (' || a.expr || ') ' || a.kept ELSE ' DEFAULT ' || a.expr END"
    " || CASE WHEN a.attidentity = '' OR a.relispartition THEN '' ELSE (SELECT ' GENERATED '"
    "  || CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END || ' AS IDENTITY (SEQUENCE NAME '"
    "  || " OBJ_NAME("sn", "sc") " || ' ' || o.opts || ')' FROM seqs q JOIN seqopts o ON o.oid = q.oid"
    "  JOIN pg_class sc ON sc.oid = q.oid JOIN pg_namespace sn ON sn.oid = sc.relnamespace"
    "  WHERE q.relid = a.attrelid AND q.attnum = a.attnum AND q.how = 'i') END"
    " || CASE WHEN a.required THEN @not_null_name@ || ' NOT NULL' ELSE '' END";

/* CREATE TABLE of a partitioned table `r` whose leaves are tables of their own. */
#define ROOT_OF(columns)                                                                                               \
    "'CREATE TABLE ' || r.qname || ' (' || coalesce((SELECT string_agg(" OBJ_COLUMN ", ', ' ORDER BY a.attnum)"       \
    " FROM " columns " a WHERE a.attrelid = r.oid AND NOT (a.gen AND a.foul)), '') || ') PARTITION BY '"              \
    " || pg_get_partkeydef(r.oid)"
static const char root_text[] =
    "CASE WHEN EXISTS (SELECT FROM col a WHERE a.attrelid = r.oid AND a.virt AND NOT a.foul) THEN "
    OBJ_FROM_18(ROOT_OF("col"), ROOT_OF("older")) " ELSE " ROOT_OF("col") " END";

/* Branches of the keys: constraints of idx, and what of 18's NOT NULLs no column definition can say. */
#define ADD_KEY "'ALTER TABLE ONLY ' || qname || ' ADD CONSTRAINT ' || quote_ident(conname) || ' ' || "
static const char keys_text[] =
    " SELECT tbl, CASE contype WHEN 'p' THEN 1 ELSE 2 END, 0, indexrelid, 'constraint', nspname, conname, CASE WHEN plain IS NULL"
    "  THEN " ADD_KEY "pg_get_constraintdef(con) ELSE " OBJ_FROM_18(ADD_KEY "pg_get_constraintdef(con)", ADD_KEY "plain") " END,"
    "  CASE WHEN foul THEN 'uses an operator or function that is not mirrored' ELSE '' END, foul FROM idx"
    "  WHERE con IS NOT NULL"
    " UNION ALL SELECT tbl, 2, 1, indexrelid, 'temporal_key', nspname, conname, "
    OBJ_BEFORE_18 ", 'key ' || conname || ' forbids overlaps at the source; here it is a plain one of the same columns', true"
    " FROM idx WHERE plain IS NOT NULL"
    " UNION ALL SELECT r.tbl, 5, 1, c.oid, 'not_null', r.nspname, c.conname, CASE WHEN @unproven@ THEN ''"
    "  ELSE 'ALTER TABLE ' || r.qname || ' ADD CONSTRAINT ' || quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid) END,"
    "  CASE WHEN @unproven@ THEN c.conname || " OBJ_UNPROVEN " ELSE '' END, true FROM pg_constraint c"
    "  JOIN rel r ON r.oid = c.conrelid WHERE c.contype = 'n' AND (c.connoinherit OR NOT c.convalidated) AND c.coninhcount = 0";

/* Branches of what is left out: sequences and types that nothing selected uses. */
static const char unused_text[] =
    " UNION ALL SELECT 'sequence', 'sequences (used by no selected table)', n.nspname || '.' || c.relname FROM pg_class c"
    "  JOIN ns n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.oid NOT IN (SELECT oid FROM seqs)"
    "  AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid)"
    "  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid"
    "   AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))"
    " UNION ALL SELECT 'type', 'types (used by no selected table)', n.nspname || '.' || t.typname FROM pg_type t JOIN ns n"
    "  ON n.oid = t.typnamespace WHERE t.oid >= " OBJ_USER " AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND EXISTS"
    "   (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) AND t.oid NOT IN (SELECT oid FROM types)"
    "  AND NOT EXISTS (SELECT FROM ext e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid)";

/* What stands for a word of a statement: a common table expression, or what older servers say differently. */
static const struct {
    const char *word;
    int since;
    const char *now, *before;
} words[] = {
    {"@with@", 0, with_text, ""},
    {"@types@", 0, types_text, ""},
    {"@seqs@", 0, seqs_text, ""},
    {"@ranges@", 0, ranges_text, ""},
    {"@root@", 0, root_text, ""},
    {"@keys@", 0, keys_text, ""},
    {"@unused@", 0, unused_text, ""},
    {"@tables@", 0, tables_text, ""},
    {"@column@", 0, column_text, ""},
    {"@multirange@", 140000, "SELECT g.rngtypid FROM pg_range g WHERE g.rngmultitypid = t.oid", "SELECT 0::oid WHERE false"},
    {"@multirange_name@", 140000,
     "(SELECT ', MULTIRANGE_TYPE_NAME = ' || quote_ident(mn.nspname) || '.' || quote_ident(m.typname) FROM pg_type m"
     " JOIN pg_namespace mn ON mn.oid = m.typnamespace WHERE m.oid = g.rngmultitypid)",
     "''"},
    {"@collation_deterministic@", 120000, "CASE WHEN l.collisdeterministic THEN '' ELSE ', DETERMINISTIC = false' END", "''"},
    {"@collation_locale@", 170000,
     "CASE WHEN l.collprovider = 'c' THEN ', LC_COLLATE = ' || quote_literal(l.collcollate) || ', LC_CTYPE = ' ||"
     " quote_literal(l.collctype) ELSE ', LOCALE = ' || quote_literal(l.colllocale) END",
     "CASE WHEN l.collprovider = 'c' THEN ', LC_COLLATE = ' || quote_literal(l.collcollate) || ', LC_CTYPE = ' ||"
     " quote_literal(l.collctype) ELSE ', LOCALE = ' || quote_literal(@icu_locale@) END"},
    {"@icu_locale@", 150000, "coalesce(l.colliculocale, l.collcollate)", "l.collcollate"},
    /* Before 12 the catalogue's oid is a hidden column, which * leaves out and USING does not find. */
    {"@oid_of_c@", 120000, "", "c.oid, "},
    {"@oid_of_t@", 120000, "", "t.oid, "},
    {"@generated@", 120000, "a.attgenerated <> ''", "false"},
    {"@virtual@", 180000, "a.attgenerated = 'v'", "false"},
    /* From 18 on a NOT NULL has a name, and may be unproven or of one table alone: such a one is made as a constraint. */
    {"@required@", 180000,
     "a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n'"
     " AND k.conkey[1] = a.attnum AND (k.connoinherit OR NOT k.convalidated))",
     "a.attnotnull"},
    {"@not_null_name@", 180000,
     "coalesce((SELECT ' CONSTRAINT ' || quote_ident(k.conname) FROM pg_constraint k WHERE k.conrelid = a.attrelid"
     " AND k.contype = 'n' AND k.conkey[1] = a.attnum), '')",
     "''"},
    {"@unproven@", 180000, "(c.conenforced AND NOT c.convalidated)", "NOT c.convalidated"},
    {"@period@", 180000, "c.conperiod", "false"},
    {"@compression@", 140000, "a.attcompression", "''"},
    /* Of a partition that stands alone here (its root is not rebuilt) the inherited ones too, but for those that the
     * server keeps for each partition of a referenced table. */
    {"@top_constraint@", 110000,
     "(c.conparentid = 0 OR r.relispartition AND NOT EXISTS (SELECT FROM pg_inherits h JOIN sel p ON p.oid = h.inhparent"
     " WHERE h.inhrelid = r.oid) AND NOT EXISTS (SELECT FROM pg_constraint u WHERE u.oid = c.conparentid"
     " AND u.conrelid = c.conrelid))",
     "true"},
    {"@function_kind@", 110000,
     "CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END",
     "CASE WHEN p.proisagg THEN 'aggregate' ELSE 'function' END"},
};

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to describe the source's objects");
}

/* A word may stand for text with words in it, but only with words further down the list. */
static void fill_in(ss_buf *out, const char *sql, int version, size_t from) {
    while (*sql != '\0') {
        const char *at = strchr(sql, '@');
        if (at == NULL) {
            ss_buf_put_str(out, sql);
            return;
        }
        ss_buf_put(out, sql, (size_t)(at - sql));
        size_t i = from;
        while (i < sizeof words / sizeof *words && strncmp(at, words[i].word, strlen(words[i].word)) != 0)
            i++;
        if (i == sizeof words / sizeof *words) {
            ss_buf_put_byte(out, '@');
            sql = at + 1;
            continue;
        }
        fill_in(out, version >= words[i].since ? words[i].now : words[i].before, version, i + 1);
        sql = at + strlen(words[i].word);
    }
}

ss_status ss_postgres_objects_query(ss_postgres_objects *objects, const char *what, const char *sql, PGresult **ret,
                                    ss_error *reterr) {
    ss_buf_clear(&objects->sql);
    fill_in(&objects->sql, sql, objects->snapshot->version, 0);
    const char *text = ss_buf_cstr(&objects->sql);
    if (objects->sql.bad)
        return no_memory(reterr);
    return ss_postgres_query(objects->conn, what, text, 4, objects->params, PGRES_TUPLES_OK, ret, reterr);
}

static ss_status emit_row(ss_postgres_objects *objects, const PGresult *res, int row, ss_error *reterr) {
    Sidespool__Object object = SIDESPOOL__OBJECT__INIT;
    if (PQgetisnull(res, row, 5))
        return ss_fail(reterr, SS_RETRY, "SS-PG-0109",
                       "%s %s.%s was dropped or altered while it was described: the copy starts again",
                       PQgetvalue(res, row, 1), PQgetvalue(res, row, 2), PQgetvalue(res, row, 3));
    object.phase = PQgetvalue(res, row, 0);
    object.kind = PQgetvalue(res, row, 1);
    object.ns = PQgetvalue(res, row, 2);
    object.name = PQgetvalue(res, row, 3);
    object.table = PQgetvalue(res, row, 4);
    object.definition = PQgetvalue(res, row, 5);
    object.note = PQgetvalue(res, row, 6);
    object.optional = PQgetvalue(res, row, 7)[0] == 't';
    return objects->emit(objects->ctx, &object, reterr);
}

ss_status ss_postgres_objects_run(ss_postgres_objects *objects, const char *what, const char *sql, ss_error *reterr) {
    PGresult *res = NULL;
    ss_status status = ss_postgres_objects_query(objects, what, sql, &res, reterr);
    for (int row = 0; status == SS_OK && row < PQntuples(res); row++)
        status = emit_row(objects, res, row, reterr);
    PQclear(res);
    return status;
}

ss_status ss_postgres_objects_emit(ss_postgres_objects *objects, const char *phase, const char *kind, const char *ns,
                                   const char *name, const char *definition, const char *note, bool optional,
                                   ss_error *reterr) {
    Sidespool__Object object = SIDESPOOL__OBJECT__INIT;
    object.phase = (char *)(uintptr_t)phase; /* protobuf-c has no const; nobody writes to them */
    object.kind = (char *)(uintptr_t)kind;
    object.ns = (char *)(uintptr_t)ns;
    object.name = (char *)(uintptr_t)name;
    object.definition = (char *)(uintptr_t)definition;
    object.note = (char *)(uintptr_t)note;
    object.optional = optional;
    return objects->emit(objects->ctx, &object, reterr);
}

/* ---- which relations --------------------------------------------------------------------------------------------- */

/* The tables themselves, and below a partitioned one its whole tree: [0] relids, [1] the captured table of each. Published
 * by leaf ($2) also the partitioned tables above: they belong to no captured table (''), see postgres_objects_tree.c. */
static const char relations_sql[] =
    "WITH RECURSIVE tree(root, oid) AS (SELECT o, o FROM unnest($1::oid[]) o"
    " UNION ALL SELECT t.root, i.inhrelid FROM tree t JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p'"
    " JOIN pg_inherits i ON i.inhparent = t.oid),"
    " up(oid) AS (SELECT i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition"
    " WHERE $2::bool AND i.inhrelid = ANY ($1::oid[])"
    " UNION SELECT i.inhparent FROM up JOIN pg_class c ON c.oid = up.oid AND c.relispartition"
    " JOIN pg_inherits i ON i.inhrelid = c.oid),"
    " named(root, oid, tbl) AS (SELECT t.root, t.oid, n.nspname || '.' || c.relname FROM tree t"
    " JOIN pg_class c ON c.oid = t.root JOIN pg_namespace n ON n.oid = c.relnamespace"
    " UNION ALL SELECT oid, oid, '' FROM up)"
    " SELECT array_agg(oid ORDER BY root, oid)::oid[], array_agg(tbl ORDER BY root, oid)::text[] FROM named";

static ss_status relations_load(ss_postgres_objects *objects, const uint32_t *relids, size_t count,
                                const char **ret_oids, const char **ret_tables, ss_error *reterr) {
    ss_arena *arena = objects->snapshot->arena;
    PGresult *res = NULL;
    ss_buf list;
    ss_buf_init(&list);
    for (size_t i = 0; i < count; i++)
        ss_buf_printf(&list, "%s%" PRIu32, i == 0 ? "{" : ",", relids[i]);
    ss_buf_put_str(&list, count == 0 ? "{}" : "}");
    const char *params[2] = {ss_buf_cstr(&list), objects->snapshot->by_leaf ? "true" : "false"};
    ss_status status = list.bad ? no_memory(reterr)
                                : ss_postgres_query(objects->conn, "read the partition trees", relations_sql, 2, params,
                                                    PGRES_TUPLES_OK, &res, reterr);
    if (status == SS_OK) {
        bool none = PQgetisnull(res, 0, 0);
        const char *oids = none ? "{}" : PQgetvalue(res, 0, 0), *tables = none ? "{}" : PQgetvalue(res, 0, 1);
        *ret_oids = ss_arena_strndup(arena, oids, strlen(oids));
        *ret_tables = ss_arena_strndup(arena, tables, strlen(tables));
        if (*ret_oids == NULL || *ret_tables == NULL)
            status = no_memory(reterr);
    }
    PQclear(res);
    ss_buf_done(&list);
    return status;
}

static ss_status params_fill(ss_postgres_objects *objects, ss_error *reterr) {
    ss_snapshot *snapshot = objects->snapshot;
    const char *unused = NULL;
    uint32_t *relids = calloc(snapshot->count + 1, sizeof *relids);
    if (relids == NULL)
        return no_memory(reterr);
    for (size_t i = 0; i < snapshot->count; i++)
        relids[i] = snapshot->sources[i].relid;
    ss_status status =
        relations_load(objects, relids, snapshot->count, &objects->params[0], &objects->params[1], reterr);
    if (status == SS_OK)
        status = relations_load(objects, snapshot->selected, snapshot->selected_count, &objects->params[2], &unused,
                                reterr);
    objects->params[3] = snapshot->subset ? "true" : "false";
    free(relids);
    return status;
}

/* ---- the order --------------------------------------------------------------------------------------------------- */

static ss_status all_kinds(ss_postgres_objects *objects, ss_error *reterr) {
    static ss_status (*const kinds[])(ss_postgres_objects *, ss_error *) = {
        ss_postgres_objects_types,        ss_postgres_objects_sequences, ss_postgres_objects_tables,
        ss_postgres_objects_keys,         ss_postgres_objects_foreign_keys, ss_postgres_objects_setval,
        ss_postgres_objects_views,        ss_postgres_objects_left_out,
    };
    ss_status status = params_fill(objects, reterr);
    for (size_t i = 0; status == SS_OK && i < sizeof kinds / sizeof *kinds; i++)
        status = kinds[i](objects, reterr);
    return status;
}

ss_status ss_postgres_snapshot_objects(ss_snapshot *snapshot, ss_postgres_emit emit, void *ctx, ss_error *reterr) {
    ss_postgres_objects objects = {.snapshot = snapshot, .conn = snapshot->holder, .emit = emit, .ctx = ctx};
    ss_buf_init(&objects.sql);
    ss_status status = ss_postgres_exec(objects.conn, "set a savepoint", "SAVEPOINT objects", reterr);
    if (status == SS_OK)
        status = all_kinds(&objects, reterr);
    if (status == SS_OK)
        status = ss_postgres_snapshot_record(snapshot, true, reterr);
    /* Gives back the locks that pg_get_viewdef and the like took; the snapshot stays. */
    if (status == SS_OK)
        status = ss_postgres_exec(objects.conn, "release the catalogue's locks", "ROLLBACK TO SAVEPOINT objects", reterr);
    ss_buf_done(&objects.sql);
    return status;
}
