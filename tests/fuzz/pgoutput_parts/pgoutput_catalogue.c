/* The catalogue and the record of what was copied, as the input wants them: what the source asks
 * of a server is answered here (--wrap). Each answer is one that a real server could give, at some
 * other moment than the stream's. */
#include "agents/postgres/postgres_record.h"
#include "tests/fuzz/pgoutput_parts/pgoutput_world.h"

#include <stdio.h>
#include <stdlib.h>

/* Calls that name neither source nor environment (a PGconn alone) come while this one is asked. */
static pgo_world *asked;

/* What the source calls in their place. */
ss_status __wrap_ss_postgres_catalog_ready(ss_source *source, ss_error *reterr);
ss_status __wrap_ss_postgres_query(PGconn *conn, const char *what, const char *sql, int nparams,
                                   const char *const *params, ExecStatusType expect, PGresult **ret,
                                   ss_error *reterr);
int __wrap_PQserverVersion(const PGconn *conn);
ss_status __wrap_ss_postgres_stream_feedback(ss_postgres_stream *stream, bool now,
                                             ss_error *reterr);
ss_status __wrap_ss_postgres_record_load(const ss_source_env *env, ss_arena *arena,
                                         ss_postgres_record *ret, ss_error *reterr);
ss_status __wrap_ss_postgres_record_break(const ss_source_env *env, const char *text,
                                          ss_error *reterr);

static unsigned catalogue(void) {
    return pgo_catalogue(asked);
}

ss_status __wrap_ss_postgres_catalog_ready(ss_source *source, ss_error *reterr) {
    asked = (pgo_world *)(void *)source;
    if ((asked->how & 3u) != HOW_FAILS)
        return SS_OK;
    asked->excused = true;
    return ss_fail(reterr, SS_RETRY, "SS-PG-0001", "the catalogue is away");
}

int __wrap_PQserverVersion(const PGconn *conn) {
    (void)conn;
    return 150000;
}

ss_status __wrap_ss_postgres_stream_feedback(ss_postgres_stream *stream, bool now,
                                             ss_error *reterr) {
    pgo_world *world = (pgo_world *)(void *)((char *)stream - offsetof(ss_source, stream));
    FUZZ_CHECK(now);
    if ((world->how & 3u) != HOW_FAILS)
        return SS_OK;
    world->excused = true;
    return ss_fail(reterr, SS_RETRY, "SS-PG-0054", "the link is cut");
}

/* ---- results ------------------------------------------------------------------------------------ */

static PGresult *result_new(int columns) {
    static char name[] = "c"; /* nobody asks */
    PGresAttDesc descriptions[16] = {0};
    PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    FUZZ_CHECK(res != NULL && columns <= 16);
    for (int i = 0; i < columns; i++)
        descriptions[i].name = name;
    FUZZ_CHECK(PQsetResultAttrs(res, columns, descriptions) != 0);
    return res;
}

static void set_bytes(PGresult *res, int row, int column, ss_bytes value) {
    char *copy = strndup(value.len == 0 ? "" : (const char *)value.ptr, value.len);
    FUZZ_CHECK(copy != NULL && PQsetvalue(res, row, column, copy, (int)strlen(copy)) != 0);
    free(copy);
}

static void set_text(PGresult *res, int row, int column, const char *value) {
    set_bytes(res, row, column, ss_bytes_str(value));
}

static void set_null(PGresult *res, int row, int column) {
    FUZZ_CHECK(PQsetvalue(res, row, column, NULL, -1) != 0);
}

static void set_number(PGresult *res, int row, int column, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    set_text(res, row, column, text);
}

static const char *flag(bool value) {
    return value ? "t" : "f";
}

/* The columns of postgres_relation.c's own statement, in its order. */
enum { T_NS, T_NAME, T_KIND, T_IDENTITY, T_COLUMN, T_TYPE, T_TYPMOD, T_NATIVE, T_NOTNULL, T_PRIMARY, T_KEYED, T_GENERATED,
       T_ATTIDENTITY, T_CANONICAL, T_COMPARABLE, T_RELID, T_COLUMNS };

static void column_row(PGresult *res, int row, const ss_pgoutput_relation *wire, uint32_t i) {
    static const char *const identities[] = {"", "a", "d"};
    const ss_pgoutput_column *column = &wire->columns[i];
    unsigned how = catalogue();
    bool key = column->key && wire->identity != 'f';
    set_bytes(res, row, T_COLUMN, how == CAT_RENAMED && i == 0 ? ss_bytes_str("renamed") : column->name);
    set_number(res, row, T_TYPE, how == CAT_OTHER_TYPE && i == 0 ? 20 : column->type);
    set_number(res, row, T_TYPMOD, column->typmod);
    set_text(res, row, T_NATIVE, "text");
    set_text(res, row, T_NOTNULL, flag(column->key));
    set_text(res, row, T_PRIMARY, flag(column->key));
    set_text(res, row, T_KEYED, flag(key));
    set_text(res, row, T_GENERATED, flag(how == CAT_KEY_GENERATED && column->key));
    set_text(res, row, T_ATTIDENTITY, identities[i % 3]);
    set_text(res, row, T_CANONICAL, "text");
    set_text(res, row, T_COMPARABLE, flag(i % 2 == 0));
}

/* A generated column is in no message. */
static void generated_row(PGresult *res, int row) {
    set_text(res, row, T_COLUMN, "computed");
    set_number(res, row, T_TYPE, 25);
    set_number(res, row, T_TYPMOD, -1);
    set_text(res, row, T_NATIVE, "text");
    set_text(res, row, T_NOTNULL, "f");
    set_text(res, row, T_PRIMARY, "f");
    set_text(res, row, T_KEYED, "f");
    set_text(res, row, T_GENERATED, "t");
    set_text(res, row, T_ATTIDENTITY, "");
    set_text(res, row, T_CANONICAL, "text");
    set_text(res, row, T_COMPARABLE, "t");
}

static PGresult *table_result(const ss_pgoutput_relation *wire) {
    PGresult *res = result_new(T_COLUMNS);
    unsigned how = catalogue();
    uint32_t count = how == CAT_EMPTY ? 0 : wire->count;
    int rows = (int)count + (how == CAT_GENERATED);
    if (how == CAT_GONE)
        return res;
    for (int row = 0; row < (rows == 0 ? 1 : rows); row++) {
        char identity[2] = {wire->identity == '\0' ? 'd' : wire->identity, '\0'};
        set_bytes(res, row, T_NS, wire->ns.len == 0 ? ss_bytes_str("pg_catalog") : wire->ns);
        set_bytes(res, row, T_NAME, wire->name);
        set_text(res, row, T_KIND, wire->relid % 2 == 0 ? "p" : "r");
        set_text(res, row, T_IDENTITY, identity);
        set_number(res, row, T_RELID, wire->relid);
        if (rows == 0)
            set_null(res, row, T_COLUMN);
        else if ((uint32_t)row < count)
            column_row(res, row, wire, (uint32_t)row);
        else
            generated_row(res, row);
    }
    return res;
}

static PGresult *types_result(const ss_pgoutput_relation *wire) {
    PGresult *res = result_new(3);
    for (uint32_t i = 0; i < wire->count; i++) {
        if (wire->columns[i].type >= 16384) /* dropped since */
            set_null(res, (int)i, 0);
        else
            set_text(res, (int)i, 0, "text");
        set_text(res, (int)i, 1, "text");
        set_text(res, (int)i, 2, "t");
    }
    return res;
}

static PGresult *ancestors_result(const ss_pgoutput_relation *wire) {
    PGresult *res = result_new(2);
    if ((asked->how & HOW_PARTITION) == 0)
        return res;
    for (int i = 0; i < 2; i++) { /* the table's number without its last one and two digits */
        set_text(res, i, 0, i == 0 ? "public.parent" : "root.root");
        set_number(res, i, 1, wire->relid / (i == 0 ? 10 : 100));
    }
    return res;
}

ss_status __wrap_ss_postgres_query(PGconn *conn, const char *what, const char *sql, int nparams,
                                   const char *const *params, ExecStatusType expect, PGresult **ret,
                                   ss_error *reterr) {
    (void)conn;
    (void)sql;
    FUZZ_CHECK(expect == PGRES_TUPLES_OK && nparams >= 1 && params[0] != NULL);
    FUZZ_CHECK(asked != NULL && asked->decoded && asked->message.type == 'R');
    const ss_pgoutput_relation *wire = &asked->message.u.relation;
    if (catalogue() == CAT_BROKEN) {
        asked->excused = true;
        return ss_fail(reterr, SS_RETRY, "SS-PG-0001", "cannot %s", what);
    }
    if (strcmp(what, "read a table's columns") == 0)
        *ret = table_result(wire);
    else if (strcmp(what, "read the types of a relation") == 0)
        *ret = types_result(wire);
    else if (strcmp(what, "read the ancestors of a partition") == 0)
        *ret = ancestors_result(wire);
    else
        FUZZ_NEVER(what); /* a question that this catalogue has no answer to */
    return SS_OK;
}

/* ---- the record --------------------------------------------------------------------------------- */

ss_status __wrap_ss_postgres_record_load(const ss_source_env *env, ss_arena *arena,
                                         ss_postgres_record *ret, ss_error *reterr) {
    const ss_pgoutput_relation *wire = &asked->message.u.relation;
    unsigned how = asked->how >> 6;
    (void)reterr;
    FUZZ_CHECK(env == &asked->env);
    *ret = (ss_postgres_record){.exists = how != REC_NONE, .flags = "", .xmin = "", .owner = ""};
    if (how == REC_NONE)
        return SS_OK;
    ret->members = ss_arena_zalloc(arena, sizeof *ret->members);
    FUZZ_CHECK(ret->members != NULL);
    ret->count = 1;
    *ret->members = (ss_postgres_member){
        .relid = wire->relid,
        .left = how == REC_LEFT,
        .tokens = "-",
        .tree = "-",
        .at = how == REC_LEFT ? 0x2000 : 0x10,
        .name = how == REC_OTHER_NAME
                    ? "public.before"
                    : ss_arena_printf(arena, "%.*s.%.*s", (int)wire->ns.len,
                                      (const char *)wire->ns.ptr, (int)wire->name.len,
                                      (const char *)wire->name.ptr)};
    return SS_OK;
}

ss_status __wrap_ss_postgres_record_break(const ss_source_env *env, const char *text,
                                          ss_error *reterr) {
    FUZZ_CHECK(env == &asked->env && *text != '\0');
    asked->broke = true;
    return ss_fail(reterr, SS_STOP, "SS-PG-0057", "%s", text);
}
