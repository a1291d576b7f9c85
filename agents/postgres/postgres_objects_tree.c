/* Partition trees of a source whose publication names leaves (publish_via_partition_root = false, or before 13).
 *
 * Each leaf is a table of its own there: copied, resynced and streamed for itself. The partitioned tables above hold no
 * rows, so no copy brings them: they are made and their leaves attached when every table is ready, in one statement, so
 * that nobody reads half a tree. At that point all leaves stand at one position, at which their bounds held; attached
 * before, a row that moved from one leaf to another could be refused by either.
 *
 * A leaf that is put in place later as another table (a resync after its columns changed) is attached in that same
 * transaction by an object of its own. Everything here can be carried out any number of times. A leaf that is not selected
 * is not there, and so is not attached; the note says how many. */
#include "agents/postgres/postgres_objects.h"

/* What a relation's columns are, on either side: search_path is pg_catalog on both. */
#define COLUMNS_OF(oid)                                                                                                \
    "(SELECT coalesce(string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', '"                \
    " ORDER BY attname::text COLLATE \"C\"), '') FROM pg_attribute WHERE attrelid = " oid " AND attnum > 0 AND NOT attisdropped)"

/* tabs: {name, columns, definition} of each partitioned table; kids: {name, parent, bound}, from the top down, defaults
 * last (each partition attached beside a default one makes the server read that whole). A partitioned table whose columns
 * differ was made for an older shape of the source: it has no rows, so it is made anew, unless it holds a partition that is
 * not one of the source's. DROP refuses when views stand on it, and the message says so. format() fills in %1$s, %2$s. */
#define TREE_BODY                                                                                                      \
    "DECLARE tabs text[] := %1$s; kids text[] := %2$s; t text[]; k text[]; r oid; p oid; c oid;"                       \
    " BEGIN FOREACH t SLICE 1 IN ARRAY tabs LOOP r := to_regclass(t[1]);"                                              \
    "  IF r IS NOT NULL AND t[2] <> " COLUMNS_OF("r") " THEN"                                                          \
    "   FOR c IN SELECT inhrelid FROM pg_inherits WHERE inhparent = r LOOP"                                            \
    "    IF NOT EXISTS (SELECT FROM generate_subscripts(kids, 1) i WHERE to_regclass(kids[i][1]) = c) THEN"            \
    "     RAISE EXCEPTION 'the columns of partitioned table %% differ from the source, and it has partition %%, which" \
    " the source has not: alter it like the source''s, or detach that partition', t[1], c::regclass; END IF;"          \
    "    EXECUTE format('ALTER TABLE %%s DETACH PARTITION %%s', t[1], c::regclass); END LOOP;"                         \
    "   EXECUTE 'DROP TABLE ' || t[1]; r := NULL; END IF;"                                                             \
    "  IF r IS NULL THEN EXECUTE t[3]; END IF; END LOOP;"                                                              \
    " FOREACH k SLICE 1 IN ARRAY kids LOOP c := to_regclass(k[1]); p := to_regclass(k[2]);"                            \
    "  CONTINUE WHEN c IS NULL OR p IS NULL;"                                                                          \
    "  SELECT i.inhparent INTO r FROM pg_inherits i JOIN pg_class l ON l.oid = i.inhrelid AND l.relispartition"        \
    "   WHERE i.inhrelid = c;"                                                                                         \
    "  IF r = p AND k[3] = (SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = c) THEN CONTINUE; END IF;" \
    "  IF r IS NOT NULL THEN EXECUTE format('ALTER TABLE %%s DETACH PARTITION %%s', r::regclass, k[1]); END IF;"       \
    "  EXECUTE format('ALTER TABLE ONLY %%s ATTACH PARTITION %%s %%s', k[2], k[1], k[3]); END LOOP; END"

/* One statement for each topmost table. below: what stands under it, selected or not; its partitioned tables are in sel
 * with tbl ''. */
static const char trees_sql[] =
    OBJ_WITH OBJ_SEQS OBJ_TABLES
    ", below(top, oid, parent, depth) AS (SELECT r.oid, r.oid, 0::oid, 0 FROM rel r WHERE r.tbl = ''"
    "  AND NOT EXISTS (SELECT FROM inh WHERE inh.inhrelid = r.oid)"
    "  UNION ALL SELECT b.top, i.inhrelid, i.inhparent, b.depth + 1 FROM below b JOIN pg_inherits i ON i.inhparent = b.oid),"
    " tabs AS (SELECT b.top, array_agg(ARRAY[r.qname, " COLUMNS_OF("r.oid") ", " OBJ_ROOT "] ORDER BY b.depth, r.oid)::text"
    "  AS list FROM below b JOIN rel r ON r.oid = b.oid AND r.tbl = '' GROUP BY b.top),"
    " kids AS (SELECT b.top, array_agg(ARRAY[" OBJ_NAME("n", "c") ", " OBJ_NAME("pn", "p") ", pg_get_expr(c.relpartbound,"
    "  c.oid)] ORDER BY b.depth, pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT', c.oid)"
    "  FILTER (WHERE c.oid IN (SELECT oid FROM every))::text AS list,"
    "  count(*) FILTER (WHERE c.relkind <> 'p' AND c.oid NOT IN (SELECT oid FROM every)) AS missing"
    "  FROM below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
    "  JOIN pg_class p ON p.oid = b.parent JOIN pg_namespace pn ON pn.oid = p.relnamespace GROUP BY b.top)"
    " SELECT 'final', 'partition_tree', r.nspname, r.relname, '', 'DO ' || quote_literal(format($body$" TREE_BODY "$body$,"
    "  quote_literal(t.list), quote_literal(k.list))), '', false FROM tabs t JOIN kids k USING (top)"
    "  JOIN rel r ON r.oid = t.top"
    " UNION ALL SELECT 'final', 'partition', r.nspname, r.relname, '', '', 'partitioned table ' || r.qname"
    "  || ' is rebuilt without ' || k.missing || ' of its partitions, which are not selected', false"
    "  FROM kids k JOIN rel r ON r.oid = k.top WHERE k.missing > 0 ORDER BY 2 DESC, 3, 4";

/* A leaf's own: does nothing before its parent is there (the tree comes last), nor while the two differ in their columns
 * (the tree is made anew then), nor while rows of its range still stand in the default partition. */
#define LEAF_BODY                                                                                                      \
    "DECLARE c oid := to_regclass(%1$L); p oid := to_regclass(%2$L);"                                                  \
    " BEGIN IF c IS NULL OR p IS NULL OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c)"                          \
    "  OR " COLUMNS_OF("c") " <> " COLUMNS_OF("p") " THEN RETURN; END IF;"                                             \
    " BEGIN EXECUTE %3$L; EXCEPTION WHEN check_violation THEN NULL; END; END"

static const char leaves_sql[] =
    OBJ_WITH
    " SELECT 'table', 'partition', n.nspname, c.relname, s.tbl, 'DO ' || quote_literal(format($body$" LEAF_BODY "$body$,"
    "  " OBJ_NAME("n", "c") ", " OBJ_NAME("pn", "p") ", 'ALTER TABLE ONLY ' || " OBJ_NAME("pn", "p") " || ' ATTACH PARTITION '"
    "  || " OBJ_NAME("n", "c") " || ' ' || pg_get_expr(c.relpartbound, c.oid))), '', false"
    " FROM sel s JOIN pg_class c ON c.oid = s.oid AND c.relispartition JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_inherits i ON i.inhrelid = c.oid JOIN sel ps ON ps.oid = i.inhparent AND ps.tbl = ''"
    " JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace"
    " WHERE s.tbl <> '' ORDER BY 3, 4";

ss_status ss_postgres_objects_trees(ss_postgres_objects *objects, ss_error *reterr) {
    return objects->snapshot->by_leaf ? ss_postgres_objects_run(objects, "read the partition trees", trees_sql, reterr)
                                      : SS_OK;
}

ss_status ss_postgres_objects_leaves(ss_postgres_objects *objects, ss_error *reterr) {
    return objects->snapshot->by_leaf ? ss_postgres_objects_run(objects, "read the leaves' places", leaves_sql, reterr)
                                      : SS_OK;
}
