/* publish: the publication is made or completed before the WAL that is decoded with it is written.
 *
 * Never a table without identity: from then on the source would refuse its UPDATEs and DELETEs.
 * Never anything for an owner who is not us: then the error holds the statement for them. */
#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_link.h"
#include "sidespool/log.h"
#include <stdio.h>
#include <stdlib.h>

static void put_ident(ss_buf *out, const char *name) {
    ss_buf_put_byte(out, '"');
    for (const char *p = name; *p; p++) {
        if (*p == '"')
            ss_buf_put_byte(out, '"');
        ss_buf_put_byte(out, (uint8_t)*p);
    }
    ss_buf_put_byte(out, '"');
}

static void put_table(ss_buf *out, const ss_postgres_table *table) {
    put_ident(out, table->ns);
    ss_buf_put_byte(out, '.');
    put_ident(out, table->name);
}

/* What another hand may have set up so that changes would silently be missing. */
static ss_status refuse_partial(PGconn *conn, const char *name, const ss_postgres_publication *pub,
                                ss_error *reterr) {
    if (!pub->inserts || !pub->updates || !pub->deletes || !pub->truncates)
        return ss_fail(reterr, SS_STOP, "SS-PG-0023",
                       "publication %s leaves operations out; ALTER PUBLICATION \"%s\" SET "
                       "(publish = 'insert, update, delete, "
                       "truncate')",
                       name, name);
    if (pub->generated)
        return ss_fail(reterr, SS_STOP, "SS-PG-0023",
                       "publication %s publishes generated columns, which the copy computes "
                       "itself; ALTER PUBLICATION \"%s\" SET "
                       "(publish_generated_columns = none)",
                       name, name);
    if (PQserverVersion(conn) < 150000)
        return SS_OK;
    const char *params[1] = {name};
    PGresult *res;
    ss_status status = ss_postgres_query(
        conn, "read the publication's row filters and column lists",
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_publication_rel r JOIN "
        "pg_catalog.pg_publication p ON p.oid = r.prpubid"
        " JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid "
        "= c.relnamespace"
        " WHERE p.pubname = $1 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL) LIMIT 1",
        1, params, PGRES_TUPLES_OK, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQntuples(res) > 0)
        status = ss_fail(reterr, SS_STOP, "SS-PG-0023",
                         "publication %s has a row filter or a column list on %s.%s, so the copy "
                         "would miss data; drop and add the "
                         "table without it",
                         name, ss_postgres_value(res, 0, 0), ss_postgres_value(res, 0, 1));
    PQclear(res);
    return status;
}

static ss_status refuse_identity(const ss_postgres_table *tables, size_t count, ss_error *reterr) {
    for (size_t i = 0; i < count; i++) {
        const ss_postgres_table *table = &tables[i];
        if (table->has_identity || (table->published && table->relkind != 'p'))
            continue;
        return ss_fail(reterr, SS_STOP, "SS-PG-0024",
                       "%s.%s is not published: %s, and its UPDATEs would fail on the source. "
                       "Exclude it, or ALTER TABLE "
                       "\"%s\".\"%s\" REPLICA IDENTITY FULL%s",
                       table->ns, table->name, table->why_not, table->ns, table->name,
                       table->relkind == 'p' ? " (on the root and on each partition)" : "");
    }
    return SS_OK;
}

/* The statement that is still needed; *ret_first is the first table in it that is not ours, or
 * NULL. Empty: nothing is. */
static size_t build(const char *name, const ss_postgres_publication *pub,
                    const ss_postgres_table *tables, size_t count, ss_buf *sql,
                    const ss_postgres_table **ret_foreign) {
    size_t n = 0;
    *ret_foreign = NULL;
    ss_buf_put_str(sql, pub->exists ? "ALTER PUBLICATION " : "CREATE PUBLICATION ");
    put_ident(sql, name);
    for (size_t i = 0; i < count; i++) {
        if (tables[i].published)
            continue;
        ss_buf_put_str(sql, n++ > 0 ? ", " : pub->exists ? " ADD TABLE " : " FOR TABLE ");
        put_table(sql, &tables[i]);
        if (!tables[i].owned && !*ret_foreign)
            *ret_foreign = &tables[i];
    }
    if (!pub->exists && pub->via_root)
        ss_buf_put_str(sql, " WITH (publish_via_partition_root = true)");
    return n;
}

/* Waits at most 10 s for another's lock, so that a long VACUUM or ALTER of the source never has us
 * queue before its users. */
static ss_status run(PGconn *conn, const char *name, const char *sql, ss_error *reterr) {
    ss_status status = ss_postgres_exec(conn, "begin", "BEGIN", reterr);
    if (status == SS_OK)
        status = ss_postgres_exec(conn, "limit the wait for locks",
                                  "SET LOCAL lock_timeout = '10s'", reterr);
    if (status != SS_OK)
        return status;
    PGresult *res;
    status = ss_postgres_run(conn, "make or complete the publication", sql, 0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
        bool refused = state && strcmp(state, "42501") == 0;
        status = ss_postgres_fail(reterr, "SS-PG-0026", __func__, conn, res,
                                  refused ? "publication %s needs the CREATE right on the database "
                                            "(or have its owner run: %s)"
                                          : "cannot make or complete publication %s",
                                  name, sql);
        PQclear(res);
        PQclear(PQexec(conn, "ROLLBACK"));
        return status;
    }
    PQclear(res);
    return ss_postgres_exec(conn, "commit the publication", "COMMIT", reterr);
}

ss_status ss_postgres_publication_ensure(PGconn *conn, const ss_source_env *env,
                                         const ss_postgres_table *tables, size_t count,
                                         ss_error *reterr) {
    ss_postgres_names names;
    ss_postgres_publication pub;
    ss_buf sql;
    ss_buf_init(&sql);
    ss_arena *arena = ss_arena_new(0);
    ss_status status =
        arena ? ss_postgres_names_get(env, &names, reterr)
              : ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the publication");
    if (status == SS_OK)
        status = ss_postgres_publication_get(conn, env, arena, &pub, reterr);
    if (status == SS_OK && pub.exists)
        status = refuse_partial(conn, names.publication, &pub, reterr);
    if (status == SS_OK)
        status = refuse_identity(tables, count, reterr);
    if (status != SS_OK)
        goto out;
    const ss_postgres_table *foreign;
    size_t missing = build(names.publication, &pub, tables, count, &sql, &foreign);
    if (missing == 0 &&
        pub.exists) /* one that is made may be empty: its tables come with their copies */
        goto out;
    const char *text = ss_buf_cstr(&sql);
    if (sql.bad) {
        status =
            ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the publication's statement");
    } else if (foreign || (pub.exists && !pub.owned)) {
        status = ss_fail(reterr, SS_STOP, "SS-PG-0025",
                         "%s%s%s belongs to %s; that role (or a superuser) has to run: %s",
                         foreign ? foreign->ns : "publication ", foreign ? "." : "",
                         foreign ? foreign->name : names.publication,
                         foreign ? foreign->owner : pub.owner, text);
    } else {
        status = run(conn, names.publication, text, reterr);
        if (status == SS_OK)
            SS_LOG(SS_INFO, pub.exists ? "publication_extended" : "publication_made",
                   SS_S("publication", names.publication), SS_U("tables", missing));
    }
out:
    ss_arena_free(arena);
    ss_buf_done(&sql);
    return status;
}
