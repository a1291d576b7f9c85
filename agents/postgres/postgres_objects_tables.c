/* Objects of the tables: CREATE TABLE with columns (phase "pre"), keys, indexes and checks (phase "table"), foreign
 * keys and sequences' values (phase "final").
 *
 * A partition is made as a table of its own and attached: so its columns may stand in another order than the root's.
 * Keys and indexes of a partitioned table are made ON ONLY and its partitions' attached to them, so that every index keeps
 * its name. A table that inherits lists its own columns and INHERITS the rest. */
#include "agents/postgres/postgres_objects.h"

#include <stdio.h>

#define TABLE_OF(columns)                                                                                              \
    "'CREATE TABLE ' || r.qname || ' ('"                                                                               \
    "  || coalesce((SELECT string_agg(" OBJ_COLUMN ", ', ' ORDER BY a.attnum) FROM " columns " a"                      \
    "   WHERE a.attrelid = r.oid AND a.own AND NOT (a.gen AND a.foul)), '') || ')'"                                    \
    "  || coalesce((SELECT ' INHERITS (' || string_agg(p.qname, ', ' ORDER BY i.inhseqno) || ')' FROM inh i"           \
    "   JOIN rel p ON p.oid = i.inhparent WHERE i.inhrelid = r.oid AND NOT i.relispartition), '')"                     \
    "  || CASE WHEN r.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(r.oid) ELSE '' END"                     \
    "  || coalesce((SELECT ' WITH (' || string_agg(quote_ident(split_part(x, '=', 1)) || '='"                          \
    "   || quote_literal(substr(x, strpos(x, '=') + 1)), ', ') || ')' FROM unnest(r.reloptions) x), '')"
static const char tables_sql[] =
    OBJ_WITH OBJ_SEQS OBJ_TABLES
    " SELECT 'pre', 'table', r.nspname, r.relname, r.tbl, CASE WHEN EXISTS (SELECT FROM col a WHERE a.attrelid = r.oid"
    "   AND a.own AND a.virt AND NOT a.foul) THEN " OBJ_FROM_18(TABLE_OF("col"), TABLE_OF("older"))
    "  ELSE " TABLE_OF("col") " END, '', false"
    " FROM rel r JOIN lvl ON lvl.oid = r.oid WHERE r.tbl <> '' ORDER BY lvl.depth, r.oid";

/* What CREATE TABLE could not say, in the order of `step`. */
static const char details_sql[] =
    OBJ_WITH OBJ_SEQS OBJ_TABLES
    ", made(depth, oid, step, attnum, kind, ns, name, tbl, def, note, optional) AS ("
    " SELECT 0, a.attrelid, 1, a.attnum, 'column', a.nspname, a.relname, a.tbl, 'ALTER TABLE ' || a.qname || ' ADD COLUMN '"
    "  || " OBJ_COLUMN ", 'generated column ' || a.attname || ' uses a function that is not mirrored', true FROM col a"
    "  WHERE a.own AND a.gen AND a.foul"
    " UNION ALL SELECT 0, a.attrelid, 1, a.attnum, 'generated_column', a.nspname, a.relname, a.tbl, "
    OBJ_BEFORE_18 ", 'generated column ' || a.attname || ' is virtual at the source and stored here', true FROM col a"
    "  WHERE a.own AND a.virt AND NOT a.foul"
    " UNION ALL SELECT 0, a.attrelid, 2, a.attnum, 'default', a.nspname, a.relname, a.tbl, format('ALTER TABLE ONLY %s"
    " ALTER COLUMN %I SET DEFAULT %s', a.qname, a.attname, a.expr), CASE WHEN a.foul THEN 'default of column '"
    "  || a.attname || ' uses a function that is not mirrored' ELSE '' END, a.foul FROM col a"
    "  WHERE a.expr IS NOT NULL AND NOT a.gen AND (a.foul OR NOT a.own)"
    " UNION ALL SELECT 0, a.attrelid, 2, a.attnum, 'column', a.nspname, a.relname, a.tbl,"
    "  format('ALTER TABLE ONLY %s ALTER COLUMN %I SET NOT NULL', a.qname, a.attname), '', false FROM col a"
    "  WHERE a.required AND NOT a.own"
    " UNION ALL SELECT 0, a.attrelid, 3, a.attnum, 'storage', a.nspname, a.relname, a.tbl, format('ALTER TABLE ONLY %s"
    " ALTER COLUMN %I SET STORAGE %s', a.qname, a.attname, CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'm' THEN 'MAIN'"
    "  WHEN 'x' THEN 'EXTENDED' ELSE 'EXTERNAL' END), '', true FROM col a WHERE a.attstorage <> a.typstorage"
    " UNION ALL SELECT 0, a.attrelid, 3, a.attnum, 'compression', a.nspname, a.relname, a.tbl, format('ALTER TABLE ONLY %s"
    " ALTER COLUMN %I SET COMPRESSION %s', a.qname, a.attname, CASE @compression@ WHEN 'l' THEN 'lz4' ELSE 'pglz' END),"
    "  '', true FROM col a WHERE @compression@ IN ('p', 'l')"
    " UNION ALL SELECT 0, a.attrelid, 4, a.attnum, 'sequence_owner', sn.nspname, sc.relname, a.tbl,"
    "  format('ALTER SEQUENCE %I.%I OWNED BY %s.%I', sn.nspname, sc.relname, a.qname, a.attname), '', false FROM col a"
    "  JOIN seqs q ON q.relid = a.attrelid AND q.attnum = a.attnum AND q.how = 'a' JOIN pg_class sc ON sc.oid = q.oid"
    "  JOIN pg_namespace sn ON sn.oid = sc.relnamespace"
    " UNION ALL SELECT lvl.depth, r.oid, 5, 0, 'partition', r.nspname, r.relname, r.tbl, 'ALTER TABLE ONLY ' || p.qname"
    "  || ' ATTACH PARTITION ' || r.qname || ' ' || pg_get_expr(r.relpartbound, r.oid), '', false FROM inh i"
    "  JOIN rel r ON r.oid = i.inhrelid JOIN rel p ON p.oid = i.inhparent JOIN lvl ON lvl.oid = r.oid WHERE i.relispartition"
    "  AND p.tbl <> ''"
    " UNION ALL SELECT 0, r.oid, 6, 0, 'replica_identity', r.nspname, r.relname, r.tbl, 'ALTER TABLE ONLY ' || r.qname"
    "  || ' REPLICA IDENTITY ' || CASE r.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END, '', false FROM rel r"
    "  WHERE r.relreplident IN ('f', 'n')"
    " UNION ALL SELECT 0, r.oid, 7, d.objsubid, 'comment', r.nspname, r.relname, r.tbl,"
    "  CASE WHEN d.objsubid = 0 THEN 'COMMENT ON TABLE ' || r.qname ELSE 'COMMENT ON COLUMN ' || r.qname || '.'"
    "  || quote_ident(a.attname) END || ' IS ' || quote_literal(d.description), '',"
    "  coalesce(a.gen AND a.foul, false) FROM rel r JOIN pg_description d ON d.classoid = 'pg_class'::regclass"
    "  AND d.objoid = r.oid LEFT JOIN col a ON a.attrelid = r.oid AND a.attnum = d.objsubid"
    "  WHERE d.objsubid = 0 OR a.attname IS NOT NULL)"
    " SELECT CASE WHEN tbl = '' THEN 'final' ELSE 'pre' END, kind, ns, name, tbl, def, note, optional FROM made"
    " ORDER BY step, depth, oid, attnum";

ss_status ss_postgres_objects_tables(ss_postgres_objects *objects, ss_error *reterr) {
    ss_status status = ss_postgres_objects_run(objects, "read the tables", tables_sql, reterr);
    if (status == SS_OK)
        status = ss_postgres_objects_trees(objects, reterr);
    return status == SS_OK ? ss_postgres_objects_run(objects, "read the tables' details", details_sql, reterr) : status;
}

/* ---- keys, checks, indexes ---------------------------------------------------------------------------------------- */

/* idx.con: the constraint that an index makes; plain: one WITHOUT OVERLAPS as an older target can have it. Order within a table: keys, other indexes, attaching of partitions'
 * indexes (deepest first: a partitioned index becomes valid with its last one), checks, statistics, identity, comments. */
static const char keys_sql[] =
    OBJ_WITH
    ", rel AS (SELECT sel.tbl, @oid_of_c@c.*, n.nspname, " OBJ_NAME("n", "c") " AS qname FROM sel JOIN pg_class c ON c.oid = sel.oid"
    "  JOIN pg_namespace n ON n.oid = c.relnamespace),"
    " idx AS (SELECT i.*, r.tbl, r.nspname, r.relname AS tblname, r.qname, r.oid AS relid, x.relname, x.relkind,"
    "  quote_ident(r.nspname) || '.' || quote_ident(x.relname) AS idxfull, c.oid AS con, c.conname, c.contype,"
    "  CASE WHEN @period@ THEN (SELECT CASE c.contype WHEN 'p' THEN 'PRIMARY KEY (' ELSE 'UNIQUE (' END"
    "   || string_agg(quote_ident(a.attname), ', ' ORDER BY k.at) || ')' FROM unnest(c.conkey) WITH ORDINALITY k(attnum, at)"
    "   JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.attnum) END AS plain,"
    "  EXISTS (SELECT FROM foul WHERE foul.classid = 'pg_class'::regclass AND foul.objid = i.indexrelid"
    "   OR foul.classid = 'pg_constraint'::regclass AND foul.objid = c.oid) AS foul"
    "  FROM pg_index i JOIN rel r ON r.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid"
    "  LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u', 'x')),"
    " made(tbl, step, sub, oid, kind, ns, name, def, note, optional) AS ("
    OBJ_KEYS
    " UNION ALL SELECT tbl, 3, 0, indexrelid, 'index', nspname, relname, pg_get_indexdef(indexrelid),"
    "  CASE WHEN foul THEN 'uses an operator or function that is not mirrored' ELSE '' END, foul FROM idx"
    "  WHERE con IS NULL AND (indisvalid OR relkind = 'I')"
    " UNION ALL SELECT tbl, 3, 0, indexrelid, 'index', nspname, relname, '', 'index ' || idxfull"
    "  || ' is invalid at the source and is not mirrored: REINDEX or DROP it there', false FROM idx"
    "  WHERE con IS NULL AND NOT indisvalid AND relkind <> 'I'"
    " UNION ALL SELECT CASE WHEN p.tbl = '' THEN '' ELSE k.tbl END, 4, CASE k.relkind WHEN 'I' THEN 1 ELSE 0 END,"
    "  k.indexrelid, 'index_partition', k.nspname, k.relname, 'ALTER INDEX ' || p.idxfull || ' ATTACH PARTITION ' || k.idxfull, '', k.foul OR p.foul FROM idx k"
    "  JOIN pg_inherits h ON h.inhrelid = k.indexrelid JOIN idx p ON p.indexrelid = h.inhparent"
    " UNION ALL SELECT r.tbl, 5, 0, c.oid, 'check', r.nspname, c.conname, CASE WHEN @unproven@ THEN ''"
    "  ELSE 'ALTER TABLE ' || r.qname || ' ADD CONSTRAINT ' || quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid) END,"
    "  CASE WHEN @unproven@ THEN c.conname || " OBJ_UNPROVEN " WHEN f.objid IS NOT NULL THEN 'uses an operator or function that is not mirrored' ELSE '' END,"
    "  f.objid IS NOT NULL FROM pg_constraint c JOIN rel r ON r.oid = c.conrelid LEFT JOIN foul f"
    "  ON f.classid = 'pg_constraint'::regclass AND f.objid = c.oid WHERE c.contype = 'c' AND (c.coninhcount = 0"
    "  OR NOT EXISTS (SELECT FROM pg_inherits h JOIN sel ON sel.oid = h.inhparent AND sel.tbl <> ''"
    "   WHERE h.inhrelid = r.oid))"
    " UNION ALL SELECT r.tbl, 6, 0, s.oid, 'statistics', sn.nspname, s.stxname, pg_get_statisticsobjdef(s.oid), '', true"
    "  FROM pg_statistic_ext s JOIN rel r ON r.oid = s.stxrelid JOIN pg_namespace sn ON sn.oid = s.stxnamespace"
    " UNION ALL SELECT tbl, 7, 0, indexrelid, 'replica_identity', nspname, tblname, 'ALTER TABLE ONLY ' || qname"
    "  || ' REPLICA IDENTITY USING INDEX ' || quote_ident(relname), '', foul FROM idx WHERE indisreplident"
    "  AND (SELECT relreplident FROM rel WHERE rel.oid = idx.relid) = 'i'"
    " UNION ALL SELECT tbl, 8, 0, indexrelid, 'comment', nspname, relname, 'COMMENT ON INDEX ' || idxfull || ' IS '"
    "  || quote_literal(d.description), '', true FROM idx JOIN pg_description d ON d.classoid = 'pg_class'::regclass"
    "  AND d.objoid = indexrelid"
    " UNION ALL SELECT r.tbl, 8, 1, c.oid, 'comment', r.nspname, c.conname, format('COMMENT ON CONSTRAINT %I ON %s IS %L',"
    "  c.conname, r.qname, d.description), '', true FROM pg_constraint c JOIN rel r ON r.oid = c.conrelid"
    "  JOIN pg_description d ON d.classoid = 'pg_constraint'::regclass AND d.objoid = c.oid"
    "  WHERE c.contype IN ('p', 'u', 'x', 'c', 'n'))"
    " SELECT CASE WHEN tbl = '' THEN 'final' ELSE 'table' END, kind, ns, name, tbl, def, note, optional FROM made"
    " ORDER BY tbl, step, sub, oid";

ss_status ss_postgres_objects_keys(ss_postgres_objects *objects, ss_error *reterr) {
    ss_status status = ss_postgres_objects_run(objects, "read the keys and indexes", keys_sql, reterr);
    return status == SS_OK ? ss_postgres_objects_leaves(objects, reterr) : status;
}

/* A foreign key of a partitioned table is made on the root and comes down to its partitions by itself. */
static const char foreign_keys_sql[] =
    OBJ_WITH
    ", fk AS (SELECT c.oid, c.conname, c.confrelid, sel.tbl, n.nspname, " OBJ_NAME("n", "r") " AS qname,"
    "  EXISTS (SELECT FROM every WHERE every.oid = c.confrelid) AS whole FROM pg_constraint c"
    "  JOIN sel ON sel.oid = c.conrelid JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace"
    "  WHERE c.contype = 'f' AND @top_constraint@)"
    " SELECT 'final', 'foreign_key', nspname, conname, tbl, CASE WHEN whole THEN 'ALTER TABLE ' || qname"
    "  || ' ADD CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid) ELSE '' END,"
    "  CASE WHEN whole THEN '' ELSE 'foreign key ' || conname || ' of ' || tbl || ' is not mirrored: it references '"
    "   || coalesce((SELECT pn.nspname || '.' || p.relname FROM pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace"
    "   WHERE p.oid = confrelid), 'a table') || ', which is not selected' END, false FROM fk"
    " UNION ALL SELECT 'final', 'comment', nspname, conname, tbl, format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname,"
    "  qname, d.description), '', true FROM fk JOIN pg_description d ON d.classoid = 'pg_constraint'::regclass"
    "  AND d.objoid = fk.oid WHERE whole ORDER BY 2 DESC, 3, 5, 4";

ss_status ss_postgres_objects_foreign_keys(ss_postgres_objects *objects, ss_error *reterr) {
    return ss_postgres_objects_run(objects, "read the foreign keys", foreign_keys_sql, reterr);
}

/* ---- sequences' values --------------------------------------------------------------------------------------------- */

#define SETVAL_AT_ONCE 200 /* sequences in one statement */

static const char sequence_names_sql[] =
    OBJ_WITH OBJ_SEQS
    " SELECT n.nspname, c.relname, min(s.tbl), has_sequence_privilege(c.oid, 'SELECT')::text, " OBJ_NAME("n", "c")
    " FROM seqs s JOIN pg_class c ON c.oid = s.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " GROUP BY n.nspname, c.relname, c.oid ORDER BY 1, 2";

/* One SELECT over [from, end) of the names; sequences are not transactional, so their values are as of now: not older than
 * the snapshot, which is what keeps the target from handing a value out twice. */
static ss_status setval_some(ss_postgres_objects *objects, const PGresult *names, int from, int end, ss_error *reterr) {
    bool any = false;
    ss_buf sql;
    ss_buf_init(&sql);
    for (int i = from; i < end; i++) {
        if (PQgetvalue(names, i, 3)[0] != 't')
            continue;
        char *ns = PQescapeLiteral(objects->conn, PQgetvalue(names, i, 0), (size_t)PQgetlength(names, i, 0));
        char *name = PQescapeLiteral(objects->conn, PQgetvalue(names, i, 1), (size_t)PQgetlength(names, i, 1));
        char *tbl = PQescapeLiteral(objects->conn, PQgetvalue(names, i, 2), (size_t)PQgetlength(names, i, 2));
        sql.bad |= ns == NULL || name == NULL || tbl == NULL;
        if (!sql.bad)
            ss_buf_printf(&sql,
                          "%sSELECT 'final', 'setval', %s, %s, %s, format('SELECT pg_catalog.setval(%%L::regclass, %%s, %%s)',"
                          " format('%%I.%%I', %s, %s), last_value, is_called::text), '', false FROM %s",
                          any ? " UNION ALL " : OBJ_WITH, ns, name, tbl, ns, name, PQgetvalue(names, i, 4));
        any = true;
        PQfreemem(ns);
        PQfreemem(name);
        PQfreemem(tbl);
    }
    ss_status status = SS_OK;
    const char *text = ss_buf_cstr(&sql);
    if (sql.bad)
        status = ss_fail(reterr, SS_RETRY, "SS-PG-0107", "no memory to describe the source's sequences");
    else if (any)
        status = ss_postgres_objects_run(objects, "read the sequences' values", text, reterr);
    ss_buf_done(&sql);
    return status;
}

ss_status ss_postgres_objects_setval(ss_postgres_objects *objects, ss_error *reterr) {
    PGresult *names = NULL;
    ss_status status =
        ss_postgres_objects_query(objects, "read the sequences' names", sequence_names_sql, &names, reterr);
    int count = status == SS_OK ? PQntuples(names) : 0;
    for (int from = 0; status == SS_OK && from < count; from += SETVAL_AT_ONCE)
        status = setval_some(objects, names, from, from + SETVAL_AT_ONCE < count ? from + SETVAL_AT_ONCE : count, reterr);
    for (int i = 0; status == SS_OK && i < count; i++) {
        char note[256];
        if (PQgetvalue(names, i, 3)[0] == 't')
            continue;
        snprintf(note, sizeof note, "its value is not mirrored: the agent's role has no SELECT right on sequence %s",
                 PQgetvalue(names, i, 4));
        status = ss_postgres_objects_emit(objects, "final", "setval", PQgetvalue(names, i, 0), PQgetvalue(names, i, 1), "",
                                          note, false, reterr);
    }
    PQclear(names);
    return status;
}
