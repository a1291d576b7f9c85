/* needs: target_postgres */
/* Copies on a real PostgreSQL: fresh tables, tables in the way, resync beside the rows that readers
 * see, objects, digests. */
#include "target_postgres_testing.h"

static Sidespool__Object *object(const char *phase, const char *kind, const char *name,
                                 const char *table, const char *definition, bool optional) {
    Sidespool__Object *o = ss_arena_alloc(arena, sizeof *o);
    sidespool__object__init(o);
    o->generation = 1;
    o->phase = ss_arena_printf(arena, "%s", phase);
    o->kind = ss_arena_printf(arena, "%s", kind);
    o->ns = ss_arena_printf(arena, "public");
    o->name = ss_arena_printf(arena, "%s", name);
    o->table = ss_arena_printf(arena, "%s", table);
    o->definition = ss_arena_printf(arena, "%s", definition);
    o->note = ss_arena_printf(arena, "%s", definition[0] == '\0' ? "is not mirrored" : "");
    o->optional = optional;
    return o;
}

static ss_table_state state_of(const char *name, ss_table_status status, uint64_t generation) {
    return (ss_table_state){
        .ns = "public", .name = name, .status = status, .generation = generation};
}

static const Sidespool__CopyBegin BEGIN = SIDESPOOL__COPY_BEGIN__INIT;

static ss_bytes cells_of(ss_buf *buf, int from, int to) {
    ss_buf_clear(buf);
    for (int i = from; i <= to; i++) {
        char id[16], v[64];
        snprintf(id, sizeof id, "%d", i);
        snprintf(v, sizeof v, "v\t%d\n\\ж", i);
        ss_cells_put(buf, ss_bytes_str(id));
        if (i % 10 == 0)
            ss_cells_put_null(buf);
        else
            ss_cells_put(buf, ss_bytes_str(v));
    }
    return ss_bytes_of(buf->ptr, buf->len);
}

static void load(ss_target *t, Sidespool__Schema *s, ss_table_state *state, uint64_t copy_sequence,
                 int from, int to) {
    ss_buf buf;
    ss_buf_init(&buf);
    ss_bytes cells = cells_of(&buf, from, to);
    /* Cut anywhere: the rest comes in the next piece. */
    OK(ss_target_postgres.copy_rows(t, s, ss_bytes_of(cells.ptr, cells.len / 3), 0, true, &err));
    OK(ss_target_postgres.copy_rows(
        t, s, ss_bytes_of(cells.ptr + cells.len / 3, cells.len - cells.len / 3),
        (uint32_t)(to - from + 1), false, &err));
    ss_progress p = progress_at(10);
    p.copy_sequence = copy_sequence;
    OK(ss_target_postgres.copy_flush(t, &p, state, 1, &err));
    ss_buf_done(&buf);
}

static int lines;
static void count_line(void *ctx, bool ok, const char *what, const char *found,
                       const char *remedy) {
    (void)ctx;
    (void)remedy;
    (void)found;
    (void)what;
    lines += ok ? 0 : 1;
}

/* A generation of two tables from nothing to ready. */
static void fresh(ss_target *t, Sidespool__Schema *a, Sidespool__Schema *b) {
    ss_table_state states[] = {state_of("a", SS_TABLE_COPYING, 1),
                               state_of("b", SS_TABLE_COPYING, 1)};
    ss_progress p = progress_at(10);
    OK(ss_target_postgres.copy_begin(t, &BEGIN, states, 2, &p, &err));
    OK(ss_target_postgres.copy_object(
        t, object("pre", "enum", "mood", "", "CREATE TYPE public.mood AS ENUM ('x')", false),
        &err));
    OK(ss_target_postgres.copy_object(t,
                                      object("pre", "table", "a", "public.a",
                                             "CREATE TABLE public.a (id integer NOT NULL, v text)",
                                             false),
                                      &err));
    OK(ss_target_postgres.copy_object(t,
                                      object("pre", "table", "b", "public.b",
                                             "CREATE TABLE public.b (id integer NOT NULL, v text)",
                                             false),
                                      &err));
    OK(ss_target_postgres.copy_object(
        t,
        object("pre", "default", "b", "public.b",
               "ALTER TABLE public.b ALTER v SET DEFAULT public.missing()", true),
        &err));
    OK(ss_target_postgres.copy_object(
        t,
        object("table", "constraint", "a_pkey", "public.a",
               "ALTER TABLE ONLY public.a ADD CONSTRAINT a_pkey PRIMARY KEY (id)", false),
        &err));
    OK(ss_target_postgres.copy_object(
        t,
        object("table", "constraint", "b_pkey", "public.b",
               "ALTER TABLE ONLY public.b ADD CONSTRAINT b_pkey PRIMARY KEY (id)", false),
        &err));
    OK(ss_target_postgres.copy_object(
        t,
        object("final", "foreign_key", "fk", "public.b",
               "ALTER TABLE public.b ADD CONSTRAINT fk FOREIGN KEY (id) REFERENCES public.a(id)",
               false),
        &err));
    OK(ss_target_postgres.copy_object(
        t,
        object("final", "view", "w", "",
               "CREATE VIEW public.w AS SELECT count(*) AS n FROM public.a", false),
        &err));
    OK(ss_target_postgres.copy_object(
        t,
        object("final", "view", "broken", "",
               "CREATE VIEW public.broken AS SELECT public.missing() AS n", true),
        &err));
    OK(ss_target_postgres.copy_object(t, object("final", "function", "f", "", "", false), &err));
    load(t, a, &states[0], 20, 1, 1000);
    load(t, b, &states[1], 21, 1, 7);
    for (int i = 0; i < 2; i++) {
        states[i].loaded = true;
        states[i].status = SS_TABLE_READY;
        p.copy_sequence = 22 + (uint64_t)i;
        OK(ss_target_postgres.copy_table(t, i == 0 ? a : b, &p, &states[i], &err));
    }
    lines = 0;
    OK(ss_target_postgres.finish(t, count_line, NULL, &err));
}

static void test_fresh_copy(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    assert_int_equal(lines, 3); /* a default, a view, a function */
    assert_string_equal(ask("SELECT n FROM public.w"), "1000");
    assert_string_equal(ask("SELECT count(*) FROM public.a WHERE v = E'v\\t' || id || E'\\n\\\\ж' "
                            "OR v IS NULL AND id % 10 = 0"),
                        "1000");
    assert_string_equal(ask("SELECT count(*) FROM pg_constraint WHERE conname IN ('a_pkey', "
                            "'b_pkey', 'fk') AND convalidated"),
                        "3");
    ss_progress p;
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_int_equal(p.copy_sequence, 23);
    ss_table_state *states = NULL;
    size_t count = 0;
    OK(ss_target_postgres.states(t, arena, &states, &count, &err));
    assert_int_equal(count, 2);
    assert_int_equal(states[0].status, SS_TABLE_READY);
    OK(ss_target_postgres.finish(t, count_line, NULL, &err));
    assert_int_equal(lines, 3); /* listed once */
    ss_target_postgres.close(t);
}

static void test_tables_in_the_way(void **state) {
    (void)state;
    sql("CREATE TABLE public.a (id integer PRIMARY KEY, v text); INSERT INTO public.a VALUES (1, "
        "'mine'); CREATE TABLE public.b (id integer, v text); INSERT INTO public.b VALUES (1)");
    ss_target *t = target_open();
    ss_table_state states[] = {state_of("a", SS_TABLE_COPYING, 1),
                               state_of("b", SS_TABLE_COPYING, 1)};
    ss_progress p = progress_at(10);
    STOPS(ss_target_postgres.copy_begin(t, &BEGIN, states, 2, &p, &err), "SS-TGT-0009");
    assert_non_null(strstr(err.text, "public.a, public.b"));
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "1");
    env.adopt = true;
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    env.adopt = false;
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "1000");
    ss_target_postgres.close(t);
}

/* Whatever adopt says and whether there are rows: a table has one writer. */
/* An adopted table keeps its primary key only when it is the source's. */
static void test_another_primary_key(void **state) {
    (void)state;
    static const struct {
        const char *key;
        bool same;
    } keys[] = {{"id", true}, {"id, v", false}, {"v", false}, {"v, id", false}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char ddl[200];
        snprintf(ddl, sizeof ddl,
                 "DROP SCHEMA IF EXISTS sidespool CASCADE; DROP TABLE IF EXISTS public.a; CREATE "
                 "TABLE public.a (id integer, v text NOT NULL, PRIMARY KEY (%s))",
                 keys[i].key);
        sql(ddl);
        ss_target *t = target_open();
        Sidespool__Schema *a = schema("a", "id integer*; v text");
        ss_table_state copy = state_of("a", SS_TABLE_COPYING, 1);
        ss_progress p = progress_at(10);
        OK(ss_target_postgres.copy_begin(t, &BEGIN, &copy, 1, &p, &err));
        OK(ss_target_postgres.copy_object(
            t,
            object("table", "constraint", "k", "public.a",
                   "ALTER TABLE ONLY public.a ADD CONSTRAINT k PRIMARY KEY (id) INCLUDE (v)",
                   false),
            &err));
        copy.loaded = true;
        if (keys[i].same)
            OK(ss_target_postgres.copy_table(t, a, &p, &copy, &err));
        else
            STOPS(ss_target_postgres.copy_table(t, a, &p, &copy, &err), "SS-TGT-0013");
        ss_target_postgres.close(t);
    }
}

static void test_one_route_for_a_table(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    ss_target_postgres.close(t);
    sql("DROP VIEW public.w; TRUNCATE public.a, public.b");
    ss_target_env first = env;
    env.route = "r2";
    env.adopt = true;
    t = target_open();
    ss_table_state taken = state_of("a", SS_TABLE_COPYING, 1);
    ss_progress p = progress_at(10);
    STOPS(ss_target_postgres.copy_begin(t, &BEGIN, &taken, 1, &p, &err), "SS-TGT-0021");
    assert_non_null(strstr(err.text, "route r1"));
    assert_non_null(strstr(err.text, "forget_route('r1')"));
    /* And where nobody looked, the index does. */
    hand *h = batch_of(a, 20);
    h->batch.table_count = 0;
    h->batch.states = &taken;
    h->batch.state_count = 1;
    STOPS(ss_target_postgres.apply(t, &h->batch, &err), "SS-TGT-0021");
    sql("SELECT sidespool.forget_route('r1')");
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &taken, 1, &p, &err));
    ss_target_postgres.close(t);
    env = first;
}

static void test_interrupted_copy_starts_again(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    ss_table_state states[] = {state_of("a", SS_TABLE_COPYING, 1)};
    ss_progress p = progress_at(10);
    OK(ss_target_postgres.copy_begin(t, &BEGIN, states, 1, &p, &err));
    OK(ss_target_postgres.copy_object(t,
                                      object("pre", "table", "a", "public.a",
                                             "CREATE TABLE public.a (id integer NOT NULL, v text)",
                                             false),
                                      &err));
    load(t, a, &states[0], 20, 1, 50);
    ss_buf buf;
    ss_buf_init(&buf);
    OK(ss_target_postgres.copy_rows(t, a, cells_of(&buf, 51, 60), 10, false, &err));
    ss_buf_done(&buf);
    ss_target_postgres.close(t); /* in mid-transaction */
    t = target_open();
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "50");
    OK(ss_target_postgres.progress(t, &p, &err));
    assert_int_equal(p.copy_sequence, 20);
    fresh(t, a, b);
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "1000");
    ss_target_postgres.close(t);
}

static void test_resync_beside(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    ss_table_state again = state_of("a", SS_TABLE_COPYING, 2);
    again.beside = true;
    ss_progress p = progress_at(30);
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
    Sidespool__Object *table = object("pre", "table", "a", "public.a",
                                      "CREATE TABLE public.a (id integer NOT NULL, v text)", false);
    Sidespool__Object *key =
        object("table", "constraint", "a_pkey", "public.a",
               "ALTER TABLE ONLY public.a ADD CONSTRAINT a_pkey PRIMARY KEY (id)", false);
    table->generation = key->generation = 2;
    OK(ss_target_postgres.copy_object(t, table, &err));
    OK(ss_target_postgres.copy_object(t, key, &err));
    load(t, a, &again, 40, 1, 500);
    assert_string_equal(ask("SELECT count(*) FROM public.a"),
                        "1000"); /* readers see the old rows */
    again.loaded = true;
    again.status = SS_TABLE_CATCHING_UP;
    OK(ss_target_postgres.copy_table(t, a, &p, &again, &err));
    hand *h = batch_of(a, 30);
    DELETE(h, "500", ABSENT);
    DELETE(h, "499", ABSENT);
    grouped(h, "");
    h->batch.beside = "a";
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "1000");
    PGconn *reader = PQconnectdb(server.dsn);
    PQclear(
        PQexec(reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM public.a LIMIT 1"));
    again.status = SS_TABLE_READY;
    OK(ss_target_postgres.copy_replace(t, &again, 1, &p, &err));
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "498");
    PGresult *res = PQexec(reader, "SELECT count(*) FROM public.a");
    assert_string_equal(PQgetvalue(res, 0, 0),
                        "1000"); /* an old snapshot still sees the old table */
    PQclear(res);
    PQfinish(reader);
    assert_string_equal(ask("SELECT count(*) FROM pg_class WHERE relname ~ '^copy_[0-9]+$'"), "0");
    ss_table_state *states = NULL;
    size_t count = 0;
    OK(ss_target_postgres.states(t, arena, &states, &count, &err));
    assert_false(states[0].beside);
    OK(ss_target_postgres.finish(t, count_line, NULL, &err));
    h = batch_of(a, 60);
    INSERT(h, "9001", "x");
    INSERT(h, "9002", "y");
    grouped(h, "VV");
    OK(ss_target_postgres.apply(t, &h->batch, &err));
    ss_target_postgres.close(t);
}

/* Each resync loads another copy_<n>: nothing prepared for the last one is used. */
static void test_resync_twice_in_one_session(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    for (uint64_t generation = 2; generation <= 4; generation++) {
        ss_table_state again = state_of("a", SS_TABLE_COPYING, generation);
        again.beside = true;
        ss_progress p = progress_at(30);
        OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
        load(t, a, &again, 40, 1, 10);
        again.loaded = true;
        again.status = SS_TABLE_CATCHING_UP;
        OK(ss_target_postgres.copy_table(t, a, &p, &again, &err));
        for (int way = 0; way < 2; way++) { /* set-wise and one by one */
            hand *h = batch_of(a, 30);
            DELETE(h, way == 0 ? "1" : "3", ABSENT);
            DELETE(h, way == 0 ? "2" : "4", ABSENT);
            grouped(h, "");
            h->table.ordered = way == 1;
            h->batch.beside = "a";
            OK(ss_target_postgres.apply(t, &h->batch, &err));
        }
        again.status = SS_TABLE_READY;
        OK(ss_target_postgres.copy_replace(t, &again, 1, &p, &err));
        assert_string_equal(ask("SELECT count(*) FROM public.a"), "6");
    }
    ss_target_postgres.close(t);
}

static void make_family(ss_target *t) {
    static const char *const names[] = {"a", "b"};
    static const char *const ddl[] = {"CREATE TABLE public.a (id integer NOT NULL, v text)",
                                      "CREATE TABLE public.b () INHERITS (public.a)"};
    for (int i = 0; i < 2; i++) {
        char of[20];
        snprintf(of, sizeof of, "public.%s", names[i]);
        OK(ss_target_postgres.copy_object(t, object("pre", "table", names[i], of, ddl[i], false),
                                          &err));
    }
}

/* A child's rows are not its parent's: nothing done to the parent touches them. */
static void test_inheritance(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    ss_progress p = progress_at(10);
    for (int attempt = 1; attempt <= 2; attempt++) { /* the second drops both half-loaded tables */
        ss_table_state states[] = {state_of("a", SS_TABLE_COPYING, (uint64_t)attempt),
                                   state_of("b", SS_TABLE_COPYING, (uint64_t)attempt)};
        OK(ss_target_postgres.copy_begin(t, &BEGIN, states, 2, &p, &err));
        make_family(t);
        load(t, a, &states[0], 20, 1, 50);
        load(t, b, &states[1], 21, 1, 7);
    }
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "57");
    /* The parent alone begins again: its child stays, so it is emptied and not dropped. */
    ss_table_state again = state_of("a", SS_TABLE_COPYING, 3);
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
    assert_string_equal(ask("SELECT count(*) FROM ONLY public.a"), "0");
    assert_string_equal(ask("SELECT count(*) FROM public.b"), "7");
    load(t, a, &again, 30, 1, 9);
    again.loaded = true;
    again.status = SS_TABLE_READY;
    OK(ss_target_postgres.copy_table(t, a, &p, &again, &err));
    /* A resync of the parent. */
    again = state_of("a", SS_TABLE_COPYING, 4);
    again.beside = true;
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
    load(t, a, &again, 40, 1, 20);
    again.loaded = true;
    OK(ss_target_postgres.copy_table(t, a, &p, &again, &err));
    again.status = SS_TABLE_READY;
    OK(ss_target_postgres.copy_replace(t, &again, 1, &p, &err));
    assert_string_equal(ask("SELECT count(*) FROM ONLY public.a"), "20");
    assert_string_equal(ask("SELECT count(*) FROM public.b"), "7");
    ss_target_postgres.close(t);
    /* Adopting: a parent without rows of its own is not in the way; one with rows loses only them.
     */
    sql("DROP SCHEMA sidespool CASCADE; DELETE FROM ONLY public.a");
    t = target_open();
    again = state_of("a", SS_TABLE_COPYING, 1);
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
    ss_target_postgres.close(t);
    sql("DROP SCHEMA sidespool CASCADE; INSERT INTO public.a VALUES (1, 'mine')");
    env.adopt = true;
    t = target_open();
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
    env.adopt = false;
    assert_string_equal(ask("SELECT count(*) FROM ONLY public.a"), "0");
    assert_string_equal(ask("SELECT count(*) FROM public.b"), "7");
    ss_target_postgres.close(t);
}

static void test_resync_with_other_columns(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    sql("ALTER TABLE public.b DROP CONSTRAINT fk");
    ss_table_state again = state_of("a", SS_TABLE_COPYING, 2);
    again.beside = true;
    ss_progress p = progress_at(30);
    OK(ss_target_postgres.copy_begin(t, &BEGIN, &again, 1, &p, &err));
    Sidespool__Object *table = object("pre", "table", "a", "public.a",
                                      "CREATE TABLE public.a (id bigint NOT NULL, v text)", false);
    Sidespool__Object *key =
        object("table", "constraint", "a_pkey", "public.a",
               "ALTER TABLE ONLY public.a ADD CONSTRAINT a_pkey PRIMARY KEY (id)", false);
    table->generation = key->generation = 2;
    OK(ss_target_postgres.copy_object(t, table, &err));
    OK(ss_target_postgres.copy_object(t, key, &err));
    Sidespool__Schema *wider = schema("a", "id bigint*; v text");
    load(t, wider, &again, 40, 1, 10);
    OK(ss_target_postgres.compare_schema(t, wider, &err)); /* changes go to the new one */
    STOPS(ss_target_postgres.compare_schema(t, a, &err), "SS-TGT-0008");
    assert_string_equal(ask("SELECT count(*) FROM public.a"), "1000");
    again.loaded = true;
    OK(ss_target_postgres.copy_table(t, wider, &p, &again, &err));
    again.status = SS_TABLE_READY;
    STOPS(ss_target_postgres.copy_replace(t, &again, 1, &p, &err),
          "SS-TGT-0016"); /* the view w stands on it */
    sql("DROP VIEW public.w");
    OK(ss_target_postgres.copy_replace(t, &again, 1, &p, &err));
    assert_string_equal(ask("SELECT count(*) || ' ' || pg_typeof(min(id)) FROM public.a"),
                        "10 bigint");
    assert_string_equal(ask("SELECT count(*) FROM pg_constraint WHERE conname = 'a_pkey' AND "
                            "conrelid = 'public.a'::regclass"),
                        "1");
    OK(ss_target_postgres.compare_schema(t, wider, &err));
    ss_target_postgres.close(t);
}

static void test_digest(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    sql("CREATE TABLE public.copy_of_a AS SELECT * FROM public.a ORDER BY random(); UPDATE "
        "public.copy_of_a SET v = 'changed' WHERE id = 77");
    Sidespool__Schema *other = schema("copy_of_a", "id integer*; v text");
    void *digest = NULL;
    OK(ss_target_postgres.digest_open(&env, t, &digest, &err));
    sql("DELETE FROM public.b; DELETE FROM public.a"); /* not in the snapshot */
    static ss_digest_bucket one[SS_DIGEST_BUCKETS], two[SS_DIGEST_BUCKETS];
    memset(one, 0, sizeof one);
    memset(two, 0, sizeof two);
    OK(ss_target_postgres.digest(digest, a, one, &err));
    OK(ss_target_postgres.digest(digest, other, two, &err));
    static uint8_t wanted[SS_DIGEST_BUCKETS];
    size_t differ = 0;
    for (size_t i = 0; i < SS_DIGEST_BUCKETS; i++) {
        wanted[i] = memcmp(&one[i], &two[i], sizeof one[i]) != 0;
        differ += wanted[i];
    }
    assert_int_equal(differ, 1);
    ss_digest_row *rows = NULL;
    size_t count = 0, found = 0;
    OK(ss_target_postgres.digest_rows(digest, other, wanted, 100, arena, &rows, &count, &err));
    for (size_t i = 0; i < count; i++)
        found += strcmp(rows[i].key, "77") == 0;
    assert_int_equal(found, 1);
    ss_target_postgres.digest_close(digest);
    ss_target_postgres.close(t);
}

/* A table that was emptied or replaced after the snapshot must not be taken for an empty one. */
static void test_digest_of_a_table_that_was_emptied(void **state) {
    (void)state;
    ss_target *t = target_open();
    Sidespool__Schema *a = schema("a", "id integer*; v text"),
                      *b = schema("b", "id integer*; v text");
    fresh(t, a, b);
    sql("DROP VIEW public.w; CREATE TABLE public.p (id integer, v text) PARTITION BY RANGE (id); "
        "CREATE TABLE public.p1 PARTITION OF public.p DEFAULT; INSERT INTO public.p VALUES (1)");
    Sidespool__Schema *p = schema("p", "id integer*; v text");
    static ss_digest_bucket buckets[SS_DIGEST_BUCKETS];
    static const char *const ddl[] = {
        "TRUNCATE public.a, public.b", "TRUNCATE public.p",
        "DROP TABLE public.a CASCADE; CREATE TABLE public.a (id integer, v text)"};
    for (size_t i = 0; i < 3; i++) {
        void *digest = NULL;
        Sidespool__Schema *s = i == 1 ? p : a;
        OK(ss_target_postgres.digest_open(&env, t, &digest, &err));
        OK(ss_target_postgres.digest(digest, s, buckets, &err));
        sql("SET lock_timeout = 3000"); /* what was read is not locked any more */
        sql(ddl[i]);
        memset(&err, 0, sizeof err);
        assert_int_equal(ss_target_postgres.digest(digest, s, buckets, &err), SS_RETRY);
        assert_string_equal(err.code, "SS-TGT-0022");
        ss_target_postgres.digest_close(digest);
        OK(ss_target_postgres.digest_open(&env, t, &digest, &err));
        OK(ss_target_postgres.digest(digest, s, buckets, &err));
        ss_target_postgres.digest_close(digest);
    }
    ss_target_postgres.close(t);
}

static int refusals, deferrable;
static void refusal(void *ctx, bool ok, const char *what, const char *found, const char *remedy) {
    (void)ctx;
    assert_non_null(what);
    assert_non_null(found);
    assert_true(ok || remedy[0] != '\0');
    refusals += ok ? 0 : 1;
    deferrable += ok && strcmp(what, "deferrable unique constraints") == 0;
}

static void test_check(void **state) {
    (void)state;
    options.dsn = server.dsn;
    options.connect_timeout = 5000;
    refusals = 0;
    OK(ss_target_postgres.check(&env, refusal, NULL, &err));
    assert_int_equal(refusals, 0);
    assert_int_equal(deferrable, 1);
    sql("CREATE SCHEMA sidespool"); /* not ours */
    OK(ss_target_postgres.check(&env, refusal, NULL, &err));
    assert_int_equal(refusals, 1);
    options.dsn = "host=127.0.0.1 port=1 user=postgres";
    OK(ss_target_postgres.check(&env, refusal, NULL, &err));
    assert_int_equal(refusals, 2);
}

static int advised;
static void advice(void *ctx, bool ok, const char *what, const char *found, const char *remedy) {
    (void)ctx;
    assert_null(strstr(found, "hunter"));
    assert_null(strstr(remedy, "hunter"));
    advised +=
        ok && strcmp(what, "target password") == 0 && strstr(remedy, "password_file") != NULL;
}

/* libpq's own complaint about each of these holds the password or a part of it. */
static void test_no_password_in_errors(void **state) {
    (void)state;
    static const char *const dsns[] = {
        "host=127.0.0.1 user=u password='hunter2", "host=127.0.0.1 user=u password=hunter two",
        "postgresql://u:hunter%zz@127.0.0.1/x",    "postgresql://u:hu@hunter2@127.0.0.1/x",
        "postgresql://u:hunter2/two@127.0.0.1/x",  "postgresql://u:1/hunter2@127.0.0.1/x",
    };
    for (size_t i = 0; i < sizeof dsns / sizeof *dsns; i++) {
        ss_target *t = NULL;
        ss_place place;
        options.dsn = dsns[i];
        STOPS(ss_target_postgres.configured(&options, &place, &err), "SS-TGT-0020");
        assert_null(strstr(err.text, "hunter"));
        STOPS(ss_target_postgres.open(&env, &t, &err), "SS-TGT-0020");
        assert_null(strstr(err.text, "hunter"));
        OK(ss_target_postgres.check(&env, advice, NULL, &err));
    }
    char dsn[200];
    snprintf(dsn, sizeof dsn, "%s password=hunter2", server.dsn);
    options.dsn = dsn;
    ss_place place;
    OK(ss_target_postgres.configured(&options, &place, &err));
    advised = 0;
    OK(ss_target_postgres.check(&env, advice, NULL, &err));
    assert_int_equal(advised, 1);
    options.dsn = server.dsn;
}

int main(void) {
    server_start();
#define T(name) cmocka_unit_test_setup_teardown(name, every_before, every_after)
    const struct CMUnitTest tests[] = {
        T(test_fresh_copy),
        T(test_tables_in_the_way),
        T(test_another_primary_key),
        T(test_one_route_for_a_table),
        T(test_interrupted_copy_starts_again),
        T(test_resync_beside),
        T(test_resync_twice_in_one_session),
        T(test_inheritance),
        T(test_resync_with_other_columns),
        T(test_digest),
        T(test_digest_of_a_table_that_was_emptied),
        T(test_check),
        T(test_no_password_in_errors),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    PQfinish(admin);
    return failed;
}
