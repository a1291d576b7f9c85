/* needs: target_postgres */
/* Every type's cast on a real PostgreSQL: set-wise and one by one, by key, without one, and as the key. */
#include "target_postgres_testing.h"

static const struct {
    const char *type, *values;
} TYPES[] = {
    {"boolean", "(true),(false)"},
    {"smallint", "(-32768),(32767)"},
    {"integer", "(-2147483648),(7)"},
    {"bigint", "(-9223372036854775808),(9223372036854775807)"},
    {"numeric", "('NaN'),('Infinity'),('-Infinity'),(1.000),(repeat('9',1000)::numeric),('-0."
                "00000000000000000001')"},
    {"numeric(10,3)", "(1.5),(-0.001)"},
    {"real", "('NaN'),('-Infinity'),('-0'),(1e-40),(3.4028235e38)"},
    {"double precision", "('NaN'),('Infinity'),('-0'),(5e-324),(0.1),(1.7976931348623157e308)"},
    {"money", "('-92233720368547758.08'),('12.34')"},
    {"text", "(''),(E'\\\\N'),(E'a\\tb\\n\\\\c\\r'),('NULL'),('{}'),('ж€𝄞'),(repeat('x',100000))"},
    {"character varying(5)", "(''),('ab   '),('żółć')"},
    {"character(5)", "(''),('ab'),('abcde')"},
    {"character(1)", "('x')"},
    {"bpchar", "('a  ')"},
    {"name", "('a b'),(repeat('n',63))"},
    {"\"char\"", "('a'),(''),('\\')"},
    {"bytea", "(''),('\\x00ff5c'),('abc')"},
    {"bit(5)", "(B'10101')"},
    {"bit varying(7)", "(B''),(B'0011')"},
    {"bit varying", "(B'')"},
    {"date", "('infinity'),('-infinity'),('0044-03-15 BC'),('5874897-12-31'),('4713-01-01 BC')"},
    {"time without time zone", "('24:00:00'),('00:00:00.000001')"},
    {"time with time zone", "('23:59:59.999999+15:59:59'),('12:00-03')"},
    {"time(2) without time zone", "('01:02:03.45')"},
    {"timestamp without time zone",
     "('infinity'),('294276-12-31 23:59:59.999999'),('4713-01-01 00:00:00 BC')"},
    {"timestamp with time zone",
     "('-infinity'),('2024-02-29 12:34:56.789+05:30'),('0001-01-01 BC')"},
    {"timestamp(3) with time zone", "('2024-01-01 00:00:00.123')"},
    {"interval", "('1 mon -2 days 03:04:05.6'),('-178000000 years'),('24:00:00'),('1 day')"},
    {"interval day to second(2)", "('1 day 02:03:04.55')"},
    {"uuid", "('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')"},
    {"json", "('{\"a\":  1, \"a\":2}'),('null'),('\"x\"')"},
    {"jsonb", "('{\"b\":1,\"a\":[1.50,null]}'),('null')"},
    {"jsonpath", "('$.a[*] ? (@ > 1)')"},
    {"xml", "('<a>x&amp;y</a>'),('text <b/> more'),(''),('<?xml version=\"1.0\"?><r/>')"},
    {"inet", "('10.1.2.3'),('::1/64'),('192.168.0.0/24')"},
    {"cidr", "('10.0.0.0/8')"},
    {"macaddr", "('08:00:2b:01:02:03')"},
    {"macaddr8", "('08:00:2b:01:02:03:04:05')"},
    {"point", "('(1.5,-2)'),('(NaN,Infinity)')"},
    {"line", "('{1,-1,0.1}')"},
    {"lseg", "('[(0,0),(1,1)]')"},
    {"box", "('(1,1),(0,0)')"},
    {"path", "('[(0,0),(1,1)]'),('((0,0),(1,1))')"},
    {"polygon", "('((0,0),(1,1),(2,0))')"},
    {"circle", "('<(0,0),1.5>')"},
    {"tsvector", "('''a'':1A ''b c'':2,3'),('')"},
    {"tsquery", "('''a'' & !''b'':*'),('')"},
    {"int4range", "('empty'),('[1,5)'),('(,)')"},
    {"numrange", "('[1.0,1.00]')"},
    {"tstzrange", "('[-infinity,2020-01-01)')"},
    {"int4multirange", "('{[1,3),[5,7)}'),('{}')"},
    {"daterange", "('[2020-01-01,infinity)')"},
    {"oid", "(0),(4294967295)"},
    {"regclass", "('pg_class'),(0),(987654)"},
    {"regtype", "('integer'),(0)"},
    {"regproc", "('now'),(0)"},
    {"regprocedure", "('abs(integer)')"},
    {"regoper", "(0)"},
    {"regoperator", "('+(integer,integer)')"},
    {"regrole", "('postgres')"},
    {"regnamespace", "('pg_catalog')"},
    {"regcollation", "('\"C\"')"},
    {"regconfig", "('simple')"},
    {"regdictionary", "('simple')"},
    {"xid", "('4294967295')"},
    {"cid", "('7')"},
    {"tid", "('(1,2)')"},
    {"xid8", "('18446744073709551615')"},
    {"pg_lsn", "('16/B374D848'),('FFFFFFFF/FFFFFFFF')"},
    {"txid_snapshot", "('10:20:10,14,15')"},
    {"pg_snapshot", "('10:20:10,14,15')"},
    {"int2vector", "('1 2 3'),('')"},
    {"oidvector", "('1 2'),('')"},
    {"aclitem", "('=r/postgres')"},
    {"refcursor", "('c')"},
    {"integer[]", "('{}'),('{1,NULL,3}'),('[2:3]={7,8}'),('{{1,2},{3,4}}')"},
    {"text[]", "('{\"a,b\",\"\",NULL,\"NULL\",\"\\\"\"}')"},
    {"\"char\"[]", "('{a,b}')"},
    {"regclass[]", "('{pg_class,0}')"},
    {"json[]", "('{\"{\\\"a\\\":1}\"}')"},
    {"numeric(6,2)[]", "('{1.50}')"},
    {"character varying(3)[]", "('{abc}')"},
    {"xml[]", "('{<a/>}')"},
    {"public.mood", "('sad'),('it''s \"ok\"')"},
    {"public.mood[]", "('{sad}')"},
    {"public.posint", "(7)"},
    {"public.dreg", "('pg_class'),(0)"},
    {"public.dchar", "('z')"},
    {"public.dd", "(3)"},
    {"public.comp", "('(1,\"a,b\",\"\")'),('(,,)'),(ROW(1,NULL,E'q\"\\\\'))"},
    {"public.comp[]", "('{\"(1,x,)\"}')"},
    {"public.\"Odd Type\"", "('(1)')"},
    {"public.frange", "('[1.5,2.5]')"},
    {"public.fmultirange", "('{[1.5,2.5]}')"},
    {"public.dcomp", "('(5,y,z)')"},
};

static void make_types(void) {
    sql("CREATE TYPE public.mood AS ENUM ('sad', 'it''s \"ok\"'); CREATE DOMAIN public.posint AS "
        "integer CHECK (VALUE > 0); CREATE DOMAIN public.dreg AS regclass; CREATE DOMAIN "
        "public.dchar AS \"char\";"
        "CREATE DOMAIN public.dd AS public.posint; CREATE TYPE public.comp AS (a integer, b text, "
        "c character varying(9)); CREATE TYPE public.\"Odd Type\" AS (\"X y\" integer);"
        "CREATE TYPE public.frange AS RANGE (subtype = float8, multirange_type_name = "
        "public.fmultirange); CREATE DOMAIN public.dcomp AS public.comp");
}

/* One type: all its values set-wise, then one by one, inserted, updated and found; by key where
 * there is one, and without. */
static void try_type(ss_target *t, size_t i, bool keyless, uint64_t *sequence) {
    char text[8192];
    snprintf(
        text, sizeof text,
        "DROP TABLE IF EXISTS public.src, public.dst; CREATE TABLE public.src (id serial, v %s); "
        "CREATE TABLE public.dst (id integer, v %s); INSERT INTO public.src (v) VALUES %s, (NULL)",
        TYPES[i].type, TYPES[i].type, TYPES[i].values);
    sql(text);
    PGresult *res = PQexec(admin, "SELECT id, v FROM public.src ORDER BY id");
    int n = PQntuples(res);
    snprintf(text, sizeof text, "id integer%s; v %s", keyless ? "" : "*", TYPES[i].type);
    Sidespool__Schema *s = schema("dst", text);
    hand *h = batch_of(s, *sequence += 100);
    for (int r = 0; r < n; r++)
        INSERT(h, PQgetvalue(res, r, 0), PQgetisnull(res, r, 1) ? NULL : PQgetvalue(res, r, 1));
    grouped(h, "VV");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(
        ask("SELECT string_agg(s.id::text, ',') FROM public.src s FULL JOIN public.dst d USING "
            "(id) WHERE format('%s', s.v) IS DISTINCT FROM format('%s', d.v)"),
        "(null)");
    h = batch_of(s, *sequence += 100);
    for (int r = 0; r < n; r++) {
        const char *v = PQgetisnull(res, r, 1) ? NULL : PQgetvalue(res, r, 1);
        UPDATE(h, keyless ? ROW(PQgetvalue(res, r, 0), v) : NO_ROW, PQgetvalue(res, r, 0), NULL);
        UPDATE(h, keyless ? ROW(PQgetvalue(res, r, 0), NULL) : NO_ROW, PQgetvalue(res, r, 0), v);
    }
    h->table.ordered = true;
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(
        ask("SELECT string_agg(s.id::text, ',') FROM public.src s FULL JOIN public.dst d USING "
            "(id) WHERE format('%s', s.v) IS DISTINCT FROM format('%s', d.v)"),
        "(null)");
    h = batch_of(s, *sequence += 100);
    for (int r = 0; r < n; r++)
        DELETE(h, PQgetvalue(res, r, 0),
               !keyless                 ? ABSENT
               : PQgetisnull(res, r, 1) ? NULL
                                        : PQgetvalue(res, r, 1));
    if (keyless)
        h->table.ordered = true;
    else
        grouped(h, "");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.dst"), "0");
    PQclear(res);
}

static void test_types(void **state) {
    (void)state;
    ss_target *t = target_open();
    PGresult *refused = NULL;
    assert_true(ss_tgt_pin(admin, 5000, &refused));
    make_types();
    uint64_t sequence = 0;
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++) {
        try_type(t, i, false, &sequence);
        try_type(t, i, true, &sequence);
    }
    ss_target_postgres.close(t);
    sql("RESET ALL");
}

/* Every orderable type as a key, set-wise. */
static void test_types_as_key(void **state) {
    (void)state;
    ss_target *t = target_open();
    PGresult *refused = NULL;
    assert_true(ss_tgt_pin(admin, 5000, &refused));
    make_types();
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++) {
        char text[8192];
        snprintf(text, sizeof text,
                 "DROP TABLE IF EXISTS public.src, public.dst; CREATE TABLE public.src (v %s, w "
                 "integer); CREATE TABLE public.dst (v %s PRIMARY KEY, w integer)",
                 TYPES[i].type, TYPES[i].type);
        PGresult *res = PQexec(admin, text);
        bool fits = PQresultStatus(res) == PGRES_COMMAND_OK;
        PQclear(res);
        if (!fits || strncmp(TYPES[i].values, "('[1.0", 6) == 0)
            continue;
        snprintf(text, sizeof text,
                 "INSERT INTO public.src (v) SELECT DISTINCT ON (v) v FROM (VALUES %s) x(v0), "
                 "LATERAL (SELECT x.v0::text::%s AS v) y WHERE octet_length(v::text) < 2000",
                 TYPES[i].values, TYPES[i].type);
        res = PQexec(admin, text);
        fits = PQresultStatus(res) == PGRES_COMMAND_OK;
        PQclear(res);
        if (!fits)
            continue; /* no cast from text that keeps it; the values were tried above */
        res = PQexec(admin, "SELECT v FROM public.src");
        snprintf(text, sizeof text, "v %s*; w integer", TYPES[i].type);
        Sidespool__Schema *s = schema("dst", text);
        hand *h = batch_of(s, 100 * (i + 1)), *u = batch_of(s, 100 * (i + 1) + 40),
             *d = batch_of(s, 100 * (i + 1) + 80);
        for (int r = 0; r < PQntuples(res); r++) {
            INSERT(h, PQgetvalue(res, r, 0), "1");
            UPDATE(u, NO_ROW, PQgetvalue(res, r, 0), "2");
            DELETE(d, PQgetvalue(res, r, 0), ABSENT);
        }
        grouped(h, "VV");
        grouped(u, "UV");
        grouped(d, "");
        OK(ss_target_postgres.apply(t, &h->batch, &err));
        OK(ss_target_postgres.apply(t, &u->batch, &err));
        assert_string_equal(ask("SELECT count(*) FROM public.dst WHERE w <> 2"), "0");
        OK(ss_target_postgres.apply(t, &d->batch, &err));
        assert_string_equal(ask("SELECT count(*) FROM public.dst"), "0");
        PQclear(res);
    }
    ss_target_postgres.close(t);
    sql("RESET ALL");
}

int main(void) {
    server_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_types, every_before, every_after),
        cmocka_unit_test_setup_teardown(test_types_as_key, every_before, every_after),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    PQfinish(admin);
    return failed;
}
