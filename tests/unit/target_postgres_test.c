/* needs: target_postgres */
/* Batches on a real PostgreSQL: strict counts, fallback, rows without key, partial batches, lost commits. */
#include "target_postgres_testing.h"

/* ---- strictness and fallback
 * -----------------------------------------------------------------------------------------------------
 */
static void test_drift_stops_and_takes_back(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY, v text); INSERT INTO public.t VALUES (1, "
        "'a'), (2, 'b')");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; v text");
    hand *h = batch_of(s, 100);
    UPDATE(h, NO_ROW, "1", "x");
    UPDATE(h, NO_ROW, "3", "y");
    grouped(h, "UV");
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0007");
    assert_non_null(strstr(err.text, "public.t"));
    assert_non_null(strstr(err.text, "UPDATE"));
    assert_null(strstr(err.text, "\"y\""));
    assert_string_equal(ask("SELECT v FROM public.t WHERE id = 1"), "a");
    h = batch_of(s, 200);
    DELETE(h, "9", ABSENT);
    grouped(h, "");
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0007");
    h = batch_of(s, 300);
    INSERT(h, "1", "again");
    INSERT(h, "5", "new");
    grouped(h, "VV");
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0006");
    assert_non_null(strstr(err.text, "t_pkey"));
    assert_non_null(strstr(err.text, "record 268"));
    assert_string_equal(ask("SELECT count(*) FROM public.t"), "2");
    ss_progress p;
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_false(p.exists);
    ss_target_postgres.close(t);
}

/* Whatever raises an error, and in whatever language, no value of a row reaches a log. */
static void test_no_value_in_errors(void **state) {
    (void)state;
    static const char *const raises[] = {
        "RAISE EXCEPTION 'no \"%\" here', NEW.v",
        "RAISE EXCEPTION 'no %', NEW.v USING ERRCODE = '42P01'",
        "RAISE EXCEPTION 'no %', NEW.v USING ERRCODE = '23505', CONSTRAINT = NEW.v, TABLE = NEW.v",
        "RAISE EXCEPTION 'no %', NEW.v USING ERRCODE = '40001'",
        "ASSERT false, NEW.v",
        "EXECUTE 'SELECT ' || quote_ident(NEW.v)",
        "PERFORM NEW.v::regclass",
    };
    for (size_t i = 0; i < sizeof raises / sizeof *raises; i++) {
        char text[600];
        snprintf(text, sizeof text,
                 "DROP TABLE IF EXISTS public.t; CREATE TABLE public.t (id integer PRIMARY KEY, v "
                 "text); CREATE OR REPLACE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql "
                 "AS $f$ BEGIN %s; RETURN NEW; END $f$; CREATE TRIGGER no BEFORE INSERT ON "
                 "public.t FOR EACH ROW EXECUTE FUNCTION public.no(); ALTER TABLE public.t ENABLE "
                 "ALWAYS TRIGGER no",
                 raises[i]);
        sql(text);
        ss_target *t = target_open();
        hand *h = batch_of(schema("t", "id integer*; v text"), 100);
        INSERT(h, "1", "hunter\"2\"secret");
        h->table.ordered = true;
        memset(&err, 0, sizeof err);
        assert_int_not_equal(ss_target_postgres.apply(t, &h->batch, &err), SS_OK);
        if (strstr(err.text, "secret") != NULL || strstr(err.text, "hunter") != NULL)
            fail_msg("%s: %s", raises[i], err.text);
        ss_target_postgres.close(t);
    }
    sql("DROP TABLE public.t; CREATE TABLE public.t (id integer PRIMARY KEY, r regclass, u uuid)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; r regclass; u uuid");
    for (int i = 0; i < 2; i++) {
        hand *h = batch_of(s, 100);
        if (i == 0)
            INSERT(h, "1", "\"hunter\"\"secret\"", NULL);
        else
            INSERT(h, "1", NULL, "hunter\"2\"secret");
        h->table.ordered = true;
        STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0006");
        if (strstr(err.text, "secret") != NULL || strstr(err.text, "hunter") != NULL)
            fail_msg("%s", err.text);
    }
    ss_target_postgres.close(t);
}

/* Two rows for one key must not make up for a missing one, whatever index there is. */
static void test_counts_without_a_unique_key(void **state) {
    (void)state;
    static const char *const indexes[] = {
        "SELECT 1",
        "CREATE INDEX ON public.t (id)",
        "CREATE UNIQUE INDEX ON public.t (id) WHERE id > 100",
        "CREATE UNIQUE INDEX ON public.t (id, v)",
        "CREATE UNIQUE INDEX ON public.t ((id + 0), v)",
        "ALTER TABLE public.t ADD UNIQUE (id, v) DEFERRABLE",
        "CREATE UNIQUE INDEX ON public.t (v) INCLUDE (id)",
    };
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++)
        for (int deletes = 0; deletes < 2; deletes++) {
            sql("DROP SCHEMA IF EXISTS sidespool CASCADE; DROP TABLE IF EXISTS public.t; CREATE "
                "TABLE public.t (id integer, v text, w text); INSERT INTO public.t VALUES (1, "
                "'a'), (1, "
                "'b'), (3, 'c')");
            sql(indexes[i]);
            ss_target *t = target_open();
            hand *h = batch_of(schema("t", "id integer*; v text; w text"), 100);
            for (int id = 1; id <= 2; id++)
                if (deletes == 1)
                    DELETE(h, id == 1 ? "1" : "2", ABSENT, ABSENT);
                else
                    UPDATE(h, NO_ROW, id == 1 ? "1" : "2", UNCHANGED, "x");
            grouped(h, "UUV");
            STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0007");
            assert_string_equal(ask("SELECT string_agg(id || v, ' ' ORDER BY v) FROM public.t"),
                                "1a 1b 3c");
            ss_target_postgres.close(t);
        }
    /* Without drift such a table is written all the same. */
    sql("DELETE FROM public.t WHERE v = 'b'");
    ss_target *t = target_open();
    hand *h = batch_of(schema("t", "id integer*; v text; w text"), 200);
    UPDATE(h, NO_ROW, "1", "x", "p");
    UPDATE(h, NO_ROW, "3", "y", "q");
    grouped(h, "UVV");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT string_agg(id || v, ' ' ORDER BY v) FROM public.t"), "1x 3y");
    ss_target_postgres.close(t);
}

static void test_unique_swap_falls_back(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE, v text); INSERT INTO "
        "public.t VALUES (1, 10, 'a'), (2, 20, 'b')");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; u integer; v text");
    hand *h = batch_of(s, 100);
    UPDATE(h, NO_ROW, "1", "-1", "a");
    UPDATE(h, NO_ROW, "2", "10", "b");
    UPDATE(h, NO_ROW, "1", "20", "a");
    /* What the batcher would make of it: the last cells of each row. */
    const ss_row *keys[] = {&h->changes[2].change.after, &h->changes[1].change.after};
    const uint8_t mask[] = {SS_CELL_UNCHANGED, SS_CELL_VALUE, SS_CELL_VALUE};
    h->groups[0] = (ss_group){
        .op = SIDESPOOL__OP__OP_UPDATE, .kinds = mask, .count = 2, .keys = keys, .rows = keys};
    h->table.groups = h->groups;
    h->table.group_count = 1;
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT string_agg(id || ':' || u, ',' ORDER BY id) FROM public.t"),
                        "1:20,2:10");
    ss_progress p;
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_true(p.exists);
    assert_int_equal(p.sequence, 100);
    assert_int_equal(p.as_of, 1700000000000000);
    assert_string_equal(
        ask("SELECT state || ' ' || extract(epoch FROM as_of)::bigint FROM sidespool.freshness"),
        "streaming 1700000000");
    ss_target_postgres.close(t);
}

static void test_fallback_inside_a_large_transaction(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE); INSERT INTO public.t "
        "VALUES (1, 10), (2, 20)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; u integer");
    hand *h = batch_of(s, 100);
    h->batch.partial = true;
    INSERT(h, "3", "30");
    INSERT(h, "4", "40");
    grouped(h, "VV");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    h = batch_of(s, 200);
    h->batch.partial = true;
    UPDATE(h, NO_ROW, "1", "-1");
    UPDATE(h, NO_ROW, "2", "10");
    UPDATE(h, NO_ROW, "1", "20");
    const ss_row *keys[] = {&h->changes[2].change.after, &h->changes[1].change.after};
    const uint8_t mask[] = {SS_CELL_UNCHANGED, SS_CELL_VALUE};
    h->groups[0] = (ss_group){
        .op = SIDESPOOL__OP__OP_UPDATE, .kinds = mask, .count = 2, .keys = keys, .rows = keys};
    h->table.groups = h->groups;
    h->table.group_count = 1;
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.t"),
                        "2"); /* nothing is seen before the end */
    h = batch_of(s, 300);
    DELETE(h, "4", ABSENT);
    grouped(h, "");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT string_agg(id || ':' || u, ',' ORDER BY id) FROM public.t"),
                        "1:20,2:10,3:30");
    /* And one that is given up leaves nothing. */
    h = batch_of(s, 400);
    h->batch.partial = true;
    DELETE(h, "3", ABSENT);
    grouped(h, "");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    OK(ss_target_postgres.rollback(t, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.t"), "3");
    ss_progress p;
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_int_equal(p.sequence, 300);
    ss_target_postgres.close(t);
}

static void test_deferrable_key(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY DEFERRABLE, v text); INSERT INTO public.t "
        "VALUES (1, 'a'), (2, 'b')");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; v text");
    hand *h = batch_of(s, 100);
    h->table.ordered = true;
    UPDATE(h, ROW("1", "a"), "2", "a"); /* two rows share the key for a moment */
    UPDATE(h, ROW("2", "b"), "1", "b");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT string_agg(id || v, ' ' ORDER BY id) FROM public.t"), "1b 2a");
    ss_target_postgres.close(t);
}

static void test_zero_columns(void **state) {
    (void)state;
    sql("CREATE TABLE public.none (); INSERT INTO public.none DEFAULT VALUES; INSERT INTO "
        "public.none DEFAULT VALUES");
    ss_target *t = target_open();
    hand *h = batch_of(schema("none", ""), 100);
    h->table.ordered = true;
    change(h, SIDESPOOL__OP__OP_DELETE, NO_ROW, NO_ROW);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.none"), "1");
    ss_target_postgres.close(t);
}

static void test_rows_without_key(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (n numeric, j json, i interval); INSERT INTO public.t VALUES (1.0, "
        "'{}', '1 day'), (1.00, '{}', '1 day'), (1.0, '{}', '1 day'), (1.0, NULL, '24:00:00'), "
        "(NULL, NULL, NULL)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "n numeric; j json; i interval");
    hand *h = batch_of(s, 100);
    h->table.ordered = true;
    DELETE(h, "1.00", "{}", "1 day");
    DELETE(h, "1.0", "{}", "1 day");
    UPDATE(h, ROW(NULL, NULL, NULL), "7", "[]", NULL);
    DELETE(h, "1.0", NULL, "24:00:00");
    INSERT(h, "8", NULL, NULL);
    INSERT(h, "8", NULL, NULL);
    INSERT(h, "9", NULL, NULL);
    DELETE(h, "8", NULL, NULL);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(
        ask("SELECT string_agg(concat_ws('/', n, j, i), ' ' ORDER BY n) FROM public.t"),
        "1.0/{}/1 day 7/[] 8 9");
    h = batch_of(s, 200);
    h->table.ordered = true;
    DELETE(h, "1.00", "{}", "1 day");
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0007");
    ss_target_postgres.close(t);
}

static void test_identity_always(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, keep "
        "text DEFAULT 'd', g integer GENERATED ALWAYS AS (length(v)) STORED)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; v text; keep text");
    hand *h = batch_of(s, 100);
    INSERT(h, "5", "a", "toast");
    INSERT(h, "6", "b", "toast2");
    INSERT(h, "7", "c", "toast3");
    grouped(h, "VVV");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    h = batch_of(s, 200);
    UPDATE(h, ROW("5", ABSENT, ABSENT), "15", "aa", UNCHANGED);
    UPDATE(h, ROW("6", ABSENT, ABSENT), "16", "bb", UNCHANGED);
    grouped(h, "VVU");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    h = batch_of(s, 300);
    h->table.ordered = true;
    UPDATE(h, ROW("7", ABSENT, ABSENT), "17", "ccc", UNCHANGED);
    UPDATE(h, NO_ROW, "17", "cccc", UNCHANGED);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(
        ask("SELECT string_agg(id || v || keep || g, ' ' ORDER BY id) FROM public.t"),
        "15aatoast2 16bbtoast22 17cccctoast34");
    ss_target_postgres.close(t);
}

static void test_truncate(void **state) {
    (void)state;
    sql("CREATE TABLE public.a (id integer PRIMARY KEY); CREATE TABLE public.b (id integer "
        "REFERENCES public.a); CREATE TABLE public.c (id integer REFERENCES public.a);"
        "CREATE TABLE public.p (id integer) PARTITION BY RANGE (id); CREATE TABLE public.p1 "
        "PARTITION OF public.p DEFAULT;"
        "INSERT INTO public.a VALUES (1); INSERT INTO public.b VALUES (1); INSERT INTO public.c "
        "VALUES (1); INSERT INTO public.p VALUES (1)");
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*"), *b = schema("b", "id integer"),
                      *p = schema("p", "id integer");
    const Sidespool__Schema *list[] = {a, b, p};
    Sidespool__Truncate truncate = SIDESPOOL__TRUNCATE__INIT;
    ss_batch batch = {.truncate = &truncate,
                      .truncated = list,
                      .truncated_count = 3,
                      .progress = progress_at(9),
                      .freshness = "streaming"};
    OK(ss_target_postgres.apply(t, &batch, &err)); /* c still points to a: DELETE instead */
    assert_string_equal(ask("SELECT (SELECT count(*) FROM public.a) + (SELECT count(*) FROM "
                            "public.b) + (SELECT count(*) FROM public.p)"),
                        "0");
    assert_string_equal(ask("SELECT count(*) FROM public.c"), "1");
    sql("DROP TABLE public.c; INSERT INTO public.a VALUES (1); INSERT INTO public.p VALUES (1)");
    OK(ss_target_postgres.apply(t, &batch, &err));
    assert_string_equal(
        ask("SELECT (SELECT count(*) FROM public.a) + (SELECT count(*) FROM public.p)"), "0");
    ss_target_postgres.close(t);
}

static void test_triggers_do_not_fire(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY); CREATE FUNCTION public.no() RETURNS "
        "trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''fired''; END';"
        "CREATE TRIGGER x BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.no()");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*");
    hand *h = batch_of(s, 100);
    INSERT(h, "1");
    INSERT(h, "2");
    grouped(h, "V");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    ss_target_postgres.close(t);
    /* A role that may not set it is told which trigger is in its way. */
    sql("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN; ALTER TABLE public.t OWNER TO plain; "
        "GRANT ALL ON SCHEMA public, sidespool TO plain; GRANT ALL ON ALL TABLES IN SCHEMA "
        "sidespool TO plain");
    char dsn[200];
    snprintf(dsn, sizeof dsn, "host=127.0.0.1 port=%d user=plain dbname=postgres", server.port);
    ss_target *plain = NULL;
    options.dsn = dsn;
    OK(ss_target_postgres.open(&env, &plain, &err));
    STOPS(ss_target_postgres.apply(plain, &h->batch, &err), "SS-TGT-0010");
    assert_non_null(strstr(err.text, "trigger x"));
    ss_target_postgres.close(plain);
    sql("DROP OWNED BY plain; DROP ROLE plain");
}

static void test_wide_and_empty_tables(void **state) {
    (void)state;
    ss_target *t = target_open();
    ss_buf ddl, columns;
    ss_buf_init(&ddl);
    ss_buf_init(&columns);
    ss_buf_put_str(&ddl, "CREATE TABLE public.wide (");
    for (int i = 0; i < 1600; i++) {
        ss_buf_printf(&ddl, "%sc%d smallint%s", i > 0 ? ", " : "", i, i == 0 ? " PRIMARY KEY" : "");
        ss_buf_printf(&columns, "%sc%d smallint%s", i > 0 ? "; " : "", i, i == 0 ? "*" : "");
    }
    ss_buf_put_str(&ddl, ")");
    sql(ss_buf_cstr(&ddl));
    Sidespool__Schema *s = schema("wide", ss_buf_cstr(&columns));
    const char *values[1600];
    char mask[1601];
    for (int i = 0; i < 1600; i++)
        values[i] = "7";
    memset(mask, 'V', 1600);
    mask[1600] = '\0';
    hand *h = batch_of(s, 100);
    change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW, row_of(1600, values));
    values[0] = "8";
    change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW, row_of(1600, values));
    grouped(h, mask);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    h = batch_of(s, 200);
    values[5] = "9";
    change(h, SIDESPOOL__OP__OP_UPDATE, NO_ROW, row_of(1600, values));
    values[0] = "7";
    change(h, SIDESPOOL__OP__OP_UPDATE, NO_ROW, row_of(1600, values));
    mask[0] = 'U';
    grouped(h, mask);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.wide WHERE c5 = 9 AND c1599 = 7"), "2");
    sql("CREATE TABLE public.none ()");
    s = schema("none", "");
    h = batch_of(s, 300);
    change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW, (ss_row){0});
    change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW, (ss_row){0});
    grouped(h, "");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.none"), "2");
    ss_buf_done(&ddl);
    ss_buf_done(&columns);
    ss_target_postgres.close(t);
}

static void test_large_cells_and_many_statements(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY, v text, b bytea)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; v text; b bytea");
    size_t big = 40u << 20;
    char *text = malloc(big + 1);
    memset(text, 'a', big);
    text[0] = '\\';
    text[1] = 'x';
    text[big] = '\0';
    hand *h = batch_of(s, 100);
    INSERT(h, "1", text, NULL);
    INSERT(h, "2", NULL, text);
    INSERT(h, "3", "small", NULL);
    grouped(h, "VVV");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(
        ask("SELECT sum(coalesce(length(v), 0) + coalesce(length(b), 0)) FROM public.t"),
        "62914564");
    free(text);
    /* More kinds of statements than are kept prepared. */
    sql("CREATE TABLE public.m (a integer, b integer, c integer, d integer, e integer, f integer, "
        "g integer, h integer, i integer, j integer)");
    s = schema("m", "a integer; b integer; c integer; d integer; e integer; f integer; g integer; "
                    "h integer; i integer; j integer");
    for (unsigned bits = 0; bits < 1024; bits += 16) {
        h = batch_of(s, 1000 + bits);
        h->table.ordered = true;
        for (unsigned k = bits; k < bits + 16; k++) {
            const char *v[10];
            for (unsigned c = 0; c < 10; c++)
                v[c] = (k >> c & 1) != 0 ? "1" : NULL;
            change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW, row_of(10, v));
            change(h, SIDESPOOL__OP__OP_DELETE, row_of(10, v), NO_ROW);
        }
        OK(ss_target_postgres.apply(t, &h->batch, &err));
    }
    assert_string_equal(ask("SELECT count(*) FROM public.m"), "0");
    assert_true(t->stmt_count <= SS_TGT_STMT_MOST);
    ss_target_postgres.close(t);
}

/* Rows that COPY is to take, ids from `from` on; but for `twice`, whose id is 1. */
static hand *many_inserts(const Sidespool__Schema *s, uint64_t sequence, int from, int twice) {
    static const char *const texts[] = {"plain", "", NULL, "a\tb", "a\nb\r", "a\\b", "\\.", "\\N", "ä€"};
    hand *h = batch_of(s, sequence);
    for (int i = 0; i < SS_TGT_BULK_ROWS + 8; i++)
        INSERT(h, ss_arena_printf(arena, "%d", i == twice ? 1 : from + i), texts[i % 9], ABSENT);
    grouped(h, "VVU");
    assert_true(ss_tgt_bulk_fits(&h->groups[0]));
    return h;
}

static void test_many_inserts(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, d text DEFAULT 'left out')");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; v text; d text");
    hand *h = many_inserts(s, 2000, 1, -1);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT string_agg(coalesce(quote_literal(v), 'NULL') || d, ' ' ORDER BY id) FROM public.t "
                            "WHERE id > 999"),
                        "'plain'left out ''left out NULLleft out 'a\tb'left out 'a\nb\r'left out E'a\\\\b'left out "
                        "E'\\\\.'left out E'\\\\N'left out 'ä€'left out");
    assert_string_equal(ask("SELECT count(*) FROM public.t"), "1008");
    /* Beside other work of the same transaction, which is larger than a batch. */
    h = many_inserts(s, 4000, 2001, -1);
    h->batch.partial = true;
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    h = many_inserts(s, 6000, 4001, -1);
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) || ' ' || sum(id) FROM public.t"), "3024 7573608");
    /* One that cannot be: named, and nothing of it stays. */
    h = many_inserts(s, 8000, 6001, 700);
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0006");
    assert_non_null(strstr(err.text, "t_pkey"));
    assert_non_null(strstr(err.text, ss_arena_printf(arena, "record %d", 8000 - 32 + 700)));
    assert_string_equal(ask("SELECT count(*) || ' ' || sum(id) FROM public.t"), "3024 7573608");
    ss_progress p;
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_int_equal(p.sequence, 6000);
    ss_target_postgres.close(t);
}

/* What the target does not take without an error is another count. */
static void test_many_inserts_are_counted(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY, v text, d text); CREATE FUNCTION public.eat() RETURNS trigger LANGUAGE "
        "plpgsql AS 'BEGIN IF new.id = 500 THEN RETURN NULL; END IF; RETURN new; END'; CREATE TRIGGER eat BEFORE INSERT ON "
        "public.t FOR EACH ROW EXECUTE FUNCTION public.eat(); ALTER TABLE public.t ENABLE ALWAYS TRIGGER eat");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*; v text; d text");
    hand *h = many_inserts(s, 2000, 1, -1);
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0007");
    assert_non_null(strstr(err.text, ss_arena_printf(arena, "record %d", 2000 - 32 + 499)));
    assert_string_equal(ask("SELECT count(*) FROM public.t"), "0");
    ss_target_postgres.close(t);
}

/* ---- connection and bookkeeping
 * -------------------------------------------------------------------------------------------------
 */
/* A batch that fails skips what follows, also the end of statements that made room: what we think
 * is prepared and what the server holds stay the same. */
static void test_statements_after_failures(void **state) {
    (void)state;
    sql("CREATE TABLE public.m (a integer, b integer, c integer, d integer, e integer, f integer, "
        "g integer, h integer, i integer, j integer, k integer PRIMARY KEY)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("m", "a integer; b integer; c integer; d integer; e integer; f "
                                       "integer; g integer; h integer; i integer; j integer; k "
                                       "integer*");
    for (int n = 0; n < 700; n++) {
        hand *h = batch_of(s, 100 + (uint64_t)n);
        const char *values[11];
        for (int i = 0; i < 10; i++)
            values[i] = (n & 1 << i) != 0 ? "1" : ABSENT;
        char key[12];
        snprintf(key, sizeof key, "%d", n);
        values[10] = key;
        /* From the moment on when statements have to go, most batches fail before they do. */
        bool fails = n > 500 && n % 4 != 0;
        h->table.ordered = true;
        if (fails)
            change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW,
                   ROW("x", ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT,
                       "-1"));
        change(h, SIDESPOOL__OP__OP_INSERT, NO_ROW, row_of(11, values));
        if (fails)
            STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0006");
        else
            OK(ss_target_postgres.apply(t, &h->batch, &err));
    }
    PGresult *res = PQexec(t->conn, "SELECT count(*) FROM pg_prepared_statements");
    assert_int_equal(atoi(PQgetvalue(res, 0, 0)), t->stmt_count + t->query_count);
    assert_true(t->stmt_count <= SS_TGT_STMT_MOST);
    PQclear(res);
    ss_target_postgres.close(t);
}

static void test_one_session_per_route(void **state) {
    (void)state;
    ss_target *t = target_open(), *second = NULL;
    assert_int_equal(ss_target_postgres.open(&env, &second, &err), SS_RETRY);
    assert_string_equal(err.code, "SS-TGT-0002");
    ss_target_postgres.close(t);
    t = target_open();
    ss_target_postgres.close(t);
    sql("UPDATE sidespool.version SET version = 99");
    STOPS(ss_target_postgres.open(&env, &second, &err), "SS-TGT-0004");
}

static void test_lost_and_read_only(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY)");
    ss_target *t = target_open();
    Sidespool__Schema *s = schema("t", "id integer*");
    hand *h = batch_of(s, 100);
    INSERT(h, "1");
    INSERT(h, "2");
    grouped(h, "V");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        "'sidespool-r1'");
    usleep(100000);
    h = batch_of(s, 200);
    INSERT(h, "3");
    INSERT(h, "4");
    grouped(h, "V");
    assert_int_equal(ss_target_postgres.apply(t, &h->batch, &err), SS_RETRY);
    assert_string_equal(err.code, "SS-TGT-0005");
    ss_target_postgres.close(t);
    t = target_open();
    ss_progress p;
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_int_equal(p.sequence, 100);
    PQclear(PQexec(t->conn, "SET default_transaction_read_only = on"));
    assert_int_equal(ss_target_postgres.apply(t, &h->batch, &err), SS_RETRY);
    assert_non_null(strstr(err.text, "read-only"));
    PQclear(PQexec(t->conn, "SET default_transaction_read_only = off"));
    OK(ss_target_postgres.apply(t, &h->batch, &err)); /* the same connection goes on */
    assert_string_equal(ask("SELECT count(*) FROM public.t"), "4");
    ss_target_postgres.close(t);
}

/* The server dies under the batch: afterwards rows and progress agree, whatever the client was
 * told. */
static void test_server_killed(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY)");
    uint64_t at = 0;
    for (int round = 0; round < 3; round++) {
        ss_target *t = target_open();
        ss_progress p;
        OK(ss_target_postgres.progress(t, &p, &err));
        at = p.exists ? p.sequence : 0;
        Sidespool__Schema *s = schema("t", "id integer*");
        pid_t killer = fork();
        if (killer == 0) {
            usleep(30000u + (unsigned)round * 7000u);
            kill(server.pid, SIGQUIT);
            _exit(0);
        }
        for (ss_status status = SS_OK; status == SS_OK;) {
            char a[24], b[24];
            hand *h = batch_of(s, at + 2);
            snprintf(a, sizeof a, "%llu", (unsigned long long)at + 1);
            snprintf(b, sizeof b, "%llu", (unsigned long long)at + 2);
            INSERT(h, a);
            INSERT(h, b);
            grouped(h, "V");
            status = ss_target_postgres.apply(t, &h->batch, &err);
            assert_true(status == SS_OK || status == SS_RETRY);
            if (status == SS_OK)
                at += 2;
        }
        ss_target_postgres.close(t);
        waitpid(killer, NULL, 0);
        waitpid(server.pid, NULL, 0);
        server_launch();
        PQreset(admin);
        t = target_open();
        OK(ss_target_postgres.progress(t, &p, &err));
        char rows[24];
        snprintf(rows, sizeof rows, "%llu", (unsigned long long)p.sequence);
        assert_string_equal(ask("SELECT count(*) FROM public.t"), rows);
        assert_true(p.sequence == at || p.sequence == at + 2);
        ss_target_postgres.close(t);
    }
}

static void test_compare(void **state) {
    (void)state;
    sql("CREATE TABLE public.t (id integer PRIMARY KEY, v character varying(5), g integer "
        "GENERATED ALWAYS AS (1) STORED)");
    ss_target *t = target_open();
    OK(ss_target_postgres.compare_schema(t, schema("t", "v character varying(5); id integer*"),
                                         &err));
    STOPS(ss_target_postgres.compare_schema(t, schema("t", "id integer*; v text"), &err),
          "SS-TGT-0008");
    assert_non_null(strstr(err.text, "character varying(5)"));
    STOPS(ss_target_postgres.compare_schema(t, schema("t", "id integer*"), &err), "SS-TGT-0008");
    STOPS(ss_target_postgres.compare_schema(
              t, schema("t", "id integer*; v character varying(5); w text"), &err),
          "SS-TGT-0008");
    STOPS(ss_target_postgres.compare_schema(t, schema("gone", "id integer*"), &err), "SS-TGT-0018");
    ss_target_postgres.close(t);
}

int main(void) {
    server_start();
#define T(name) cmocka_unit_test_setup_teardown(name, every_before, every_after)
    const struct CMUnitTest tests[] = {
        T(test_drift_stops_and_takes_back),
        T(test_no_value_in_errors),
        T(test_counts_without_a_unique_key),
        T(test_unique_swap_falls_back),
        T(test_fallback_inside_a_large_transaction),
        T(test_deferrable_key),
        T(test_zero_columns),
        T(test_rows_without_key),
        T(test_identity_always),
        T(test_truncate),
        T(test_triggers_do_not_fire),
        T(test_wide_and_empty_tables),
        T(test_large_cells_and_many_statements),
        T(test_many_inserts),
        T(test_many_inserts_are_counted),
        T(test_statements_after_failures),
        T(test_one_session_per_route),
        T(test_lost_and_read_only),
        T(test_server_killed),
        T(test_compare),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    PQfinish(admin);
    return failed;
}
