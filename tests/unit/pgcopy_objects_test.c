/* needs: agent_postgres */
/* A database with a schema torture is copied into an empty one through the copy's own functions: objects, rows, keys,
 * final objects, in the order in which they come. Then `pg_dump -s` of both must agree but for what is not mirrored, and the
 * digests of every table too. Skipped (77) where no PostgreSQL server programs are installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "agents/postgres/postgres_copy.h"
#include "sidespool/copytext.h"
#include "unit/pgcopy_torture.h"
#include "unit/temp_testing.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char bin[256], dir[64], own_dir[80];
static pid_t server;
static int port;

static const char *find_bin(void) {
    for (int version = 20; version >= 10; version--) {
        char path[sizeof bin + 16];
        snprintf(bin, sizeof bin, "/usr/lib/postgresql/%d/bin", version);
        snprintf(path, sizeof path, "%s/postgres", bin);
        if (access(path, X_OK) == 0)
            return bin;
    }
    return NULL;
}

static int free_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    close(fd);
    return ntohs(address.sin_port);
}

/* As nobody when we are root: the server refuses to run as root. */
static pid_t start(const char *const *argv) {
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
        _exit(126);
    if (freopen("/dev/null", "w", stdout) == NULL || freopen(getenv("PGCOPY_LOG") != NULL ? getenv("PGCOPY_LOG") : "/dev/null", "a", stderr) == NULL || chdir(dir) != 0)
        _exit(126);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static PGconn *connect_to(const char *database) {
    char dsn[160];
    snprintf(dsn, sizeof dsn, "host=%s port=%d user=postgres dbname=%s", dir, port, database);
    return PQconnectdb(dsn);
}

static void run(PGconn *conn, const char *sql) {
    PGresult *res = PQexec(conn, sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s\n  in: %s", PQerrorMessage(conn), sql);
    PQclear(res);
}

static int server_start(void **state) {
    (void)state;
    char program[sizeof bin + 16], port_text[16];
    int status = 0;
    temp_name(dir, sizeof dir, "sidespool-pgcopy");
    if (mkdtemp(dir) == NULL || (geteuid() == 0 && chown(dir, 65534, 65534) != 0))
        return -1;
    snprintf(own_dir, sizeof own_dir, "%s/data", dir);
    snprintf(program, sizeof program, "%s/initdb", bin);
    const char *const init[] = {program, "-D", own_dir, "-U", "postgres", "-A", "trust", "--no-sync", NULL};
    if (waitpid(start(init), &status, 0) < 0 || status != 0)
        return -1;
    port = free_port();
    snprintf(program, sizeof program, "%s/postgres", bin);
    snprintf(port_text, sizeof port_text, "%d", port);
    const char *const serve[] = {program, "-D", own_dir, "-p", port_text, "-c", "listen_addresses=", "-k", dir, "-c",
                                 "wal_level=logical", "-c", "fsync=off", "-c", "shared_buffers=16MB", NULL};
    server = start(serve);
    for (int i = 0; i < 200; i++, usleep(50000)) {
        PGconn *conn = connect_to("postgres");
        bool up = PQstatus(conn) == CONNECTION_OK;
        if (up) {
            run(conn, "CREATE DATABASE src");
            run(conn, "CREATE DATABASE dst");
        }
        PQfinish(conn);
        if (up)
            return 0;
    }
    return -1;
}

static int server_stop(void **state) {
    (void)state;
    char remove[96];
    if (server > 0) {
        kill(server, SIGINT);
        waitpid(server, NULL, 0);
    }
    snprintf(remove, sizeof remove, "rm -rf %s", dir);
    return strstr(dir, "/sidespool-pgcopy-") != NULL ? system(remove) : 0;
}

/* ---- the copy ------------------------------------------------------------------------------------------------------ */

typedef struct {
    char *phase, *kind, *name, *table, *definition, *note;
    bool optional;
} kept;
static kept *objects;
static size_t object_count;

static ss_status keep(void *ctx, Sidespool__Object *object, ss_error *reterr) {
    (void)ctx;
    (void)reterr;
    objects = realloc(objects, (object_count + 1) * sizeof *objects);
    objects[object_count++] = (kept){strdup(object->phase), strdup(object->kind),       strdup(object->name),
                                     strdup(object->table), strdup(object->definition), strdup(object->note),
                                     object->optional};
    if (getenv("PGCOPY_SHOW") != NULL)
        printf("%s %s %s.%s [%s]%s %s -- %s\n", object->phase, object->kind, object->ns, object->name, object->table,
               object->optional ? " optional" : "", object->definition, object->note);
    return SS_OK;
}

/* Executes a phase in the order given; an optional object that is refused is left out. */
static void execute(PGconn *conn, const char *phase, const char *table) {
    for (size_t i = 0; i < object_count; i++) {
        const kept *object = &objects[i];
        if (strcmp(object->phase, phase) != 0 || (table != NULL && strcmp(object->table, table) != 0) ||
            *object->definition == '\0')
            continue;
        PGresult *res = PQexec(conn, object->definition);
        ExecStatusType how = PQresultStatus(res);
        if (how != PGRES_COMMAND_OK && how != PGRES_TUPLES_OK && !object->optional)
            fail_msg("%s\n  in: %s", PQerrorMessage(conn), object->definition);
        PQclear(res);
    }
}

typedef struct {
    PGconn *conn;
    ss_copytext_writer writer;
    ss_buf text;
} loader;

static ss_status load(void *ctx, ss_bytes cells, uint32_t rows, ss_error *reterr) {
    loader *to = ctx;
    (void)reterr;
    assert_true(cells.len < (300u << 10) || rows == 1);
    ss_buf_clear(&to->text);
    assert_true(ss_copytext_writer_put(&to->writer, cells, rows, &to->text));
    assert_int_equal(PQputCopyData(to->conn, (const char *)to->text.ptr, (int)to->text.len), 1);
    return SS_OK;
}

static void copy_table(ss_copy_reader *reader, PGconn *to, const ss_snapshot_table *tables, size_t at) {
    const Sidespool__Schema *schema = tables[at].schema;
    loader into = {.conn = to};
    ss_error err = {0};
    ss_buf sql;
    uint32_t columns = 0;
    ss_buf_init(&sql);
    ss_buf_init(&into.text);
    char *ns = PQescapeIdentifier(to, schema->ns, strlen(schema->ns));
    char *name = PQescapeIdentifier(to, schema->name, strlen(schema->name));
    ss_buf_printf(&sql, "COPY %s.%s ", ns, name);
    for (size_t i = 0; i < schema->n_columns; i++) {
        if (schema->columns[i]->generated)
            continue;
        char *column = PQescapeIdentifier(to, schema->columns[i]->name, strlen(schema->columns[i]->name));
        ss_buf_printf(&sql, "%s%s", columns++ == 0 ? "(" : ", ", column);
        PQfreemem(column);
    }
    ss_buf_printf(&sql, "%sFROM STDIN", columns == 0 ? "" : ") ");
    PQclear(PQexec(to, ss_buf_cstr(&sql)));
    ss_copytext_writer_init(&into.writer, columns);
    for (size_t chunk = 0; chunk < tables[at].chunk_count; chunk++)
        if (ss_postgres_copy_reader_read(reader, at, chunk, load, &into, &err) != SS_OK)
            fail_msg("%s %s", err.code, err.text);
    assert_int_equal(PQputCopyEnd(to, NULL), 1);
    PGresult *res = PQgetResult(to);
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        fail_msg("%s: %s", schema->name, PQerrorMessage(to));
    PQclear(res);
    assert_null(PQgetResult(to));
    PQfreemem(ns);
    PQfreemem(name);
    ss_buf_done(&sql);
    ss_buf_done(&into.text);
}

static ss_snapshot *open_snapshot(const char *database, const char *const *tables, size_t count, ss_source_env *env,
                                  struct ss_postgres_options *options, char *dsn, size_t size) {
    static const char *excluded[] = {"public.left_out"};
    static const ss_strings exclude = {.items = excluded, .count = 1}, include = {.items = NULL};
    ss_snapshot *snapshot = NULL;
    ss_error err = {0};
    snprintf(dsn, size, "host=%s port=%d user=postgres dbname=%s", dir, port, database);
    *options = (struct ss_postgres_options){.dsn = dsn, .connect_timeout = 10000};
    char folder[96];
    snprintf(folder, sizeof folder, "%s/%s", dir, database);
    (void)mkdir(folder, 0700);
    *env = (ss_source_env){.name = database, .options = options, .include = &include, .spool_path = dir,
                           .exclude = strcmp(database, "src") == 0 ? &exclude : &include, .max_message = 1u << 30};
    if (ss_postgres_snapshot_open(env, tables, count, 2, 0, &snapshot, &err) != SS_OK)
        fail_msg("%s %s", err.code, err.text);
    return snapshot;
}

static void dump(const char *database, const char *file) {
    char command[640];
    /* What is not mirrored is left out of both dumps; what was made optional and refused shows as a difference below. */
    snprintf(command, sizeof command,
             "%s/pg_dump -s --no-owner --no-publications -h %s -p %d -U postgres -N sidespool %s > %s/%s", bin, dir, port,
             database, dir, file);
    assert_int_equal(system(command), 0);
}

/* The copy's dump has nothing that the source's has not, but for a list that ends earlier there. */
static void compare_dumps(void) {
    char command[512], text[256];
    snprintf(command, sizeof command,
             "cd %s && grep -v restrict src.sql | sed 's/,$//' | sort -u > a && grep -v restrict dst.sql | sed 's/,$//' | sort -u > b"
             " && comm -13 a b", dir);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    while (fgets(text, sizeof text, pipe) != NULL)
        if (strstr(text, "d boolean") == NULL) /* its default calls a function that is not mirrored */
            fail_msg("only in the copy: %s", text);
    assert_int_equal(pclose(pipe), 0);
    /* And what it has not is what the source's functions, unselected tables and unused objects are. */
    snprintf(command, sizeof command,
             "cd %s && comm -23 a b | grep -v -e is_even -e left_out -e fdiff -e grange -e gmulti -e empty_enum -e no_fields"
             " -e unused_seq -e v_foul -e v_left -e pgstattuple -e trg -e order_even -e even_check -e line_lo_fkey", dir);
    pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t left = 0;
    while (fgets(text, sizeof text, pipe) != NULL) {
        left++;
        if (getenv("PGCOPY_SHOW") != NULL)
            printf("only at the source: %s", text);
    }
    pclose(pipe);
    assert_true(left < 20); /* lines of those objects that do not name them */
}

/* Every table of `from` digests as in `to`. */
static void compare_digests(ss_copy_reader *a, ss_copy_reader *b, const ss_snapshot_table *tables, size_t count,
                            const ss_snapshot_table *others, size_t other_count) {
    static ss_digest_bucket left[SS_DIGEST_BUCKETS], right[SS_DIGEST_BUCKETS];
    ss_error err = {0};
    for (size_t i = 0; i < count; i++) {
        size_t j = 0;
        while (j < other_count && (strcmp(tables[i].schema->name, others[j].schema->name) != 0 ||
                                   strcmp(tables[i].schema->ns, others[j].schema->ns) != 0))
            j++;
        if (j == other_count)
            fail_msg("%s is not there", tables[i].schema->name);
        memset(left, 0, sizeof left);
        memset(right, 0, sizeof right);
        if (ss_postgres_copy_reader_digest(a, i, left, &err) != SS_OK ||
            ss_postgres_copy_reader_digest(b, j, right, &err) != SS_OK)
            fail_msg("%s %s", err.code, err.text);
        if (memcmp(left, right, sizeof left) != 0)
            fail_msg("%s differs", tables[i].schema->name);
    }
}

static void test_torture(void **state) {
    (void)state;
    char dsn[160], dsn_dst[160];
    ss_source_env env, env_dst;
    struct ss_postgres_options options, options_dst;
    ss_error err = {0};
    PGconn *src = connect_to("src"), *dst = connect_to("dst");
    for (size_t i = 0; i < sizeof torture / sizeof *torture; i++)
        run(src, torture[i]);
    ss_snapshot *snapshot = open_snapshot("src", NULL, 0, &env, &options, dsn, sizeof dsn);
    /* Behind the snapshot: must not be seen. */
    run(src, "INSERT INTO public.no_key VALUES (99, 'later')");
    if (ss_postgres_snapshot_objects(snapshot, keep, NULL, &err) != SS_OK)
        fail_msg("%s %s", err.code, err.text);
    run(dst, "SET client_min_messages = warning; SET search_path = pg_catalog; SET check_function_bodies = off");
    execute(dst, "pre", NULL);
    ss_copy_reader *reader = NULL;
    assert_int_equal(ss_postgres_copy_reader_open(snapshot, &reader, &err), SS_OK);
    const ss_snapshot_table *tables = NULL;
    size_t count = ss_postgres_snapshot_tables(snapshot, &tables);
    for (size_t i = 0; i < count; i++)
        copy_table(reader, dst, tables, i);
    for (size_t i = 0; i < count; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s.%s", tables[i].schema->ns, tables[i].schema->name);
        execute(dst, "table", name);
    }
    execute(dst, "final", NULL);
    dump("src", "src.sql");
    dump("dst", "dst.sql");
    ss_snapshot *copy = open_snapshot("dst", NULL, 0, &env_dst, &options_dst, dsn_dst, sizeof dsn_dst);
    ss_copy_reader *other = NULL;
    const ss_snapshot_table *others = NULL;
    size_t other_count = ss_postgres_snapshot_tables(copy, &others);
    assert_int_equal(ss_postgres_copy_reader_open(copy, &other, &err), SS_OK);
    compare_digests(reader, other, tables, count, others, other_count);
    compare_dumps();
    if (getenv("PGCOPY_KEEP") != NULL) {
        char command[256];
        snprintf(command, sizeof command, "cp %s/src.sql %s/dst.sql %s/", dir, dir, getenv("PGCOPY_KEEP"));
        assert_int_equal(system(command), 0);
    }
    ss_postgres_copy_reader_close(other);
    ss_postgres_snapshot_close(copy);
    ss_postgres_copy_reader_close(reader);
    ss_postgres_snapshot_close(snapshot);
    PQfinish(src);
    PQfinish(dst);
}

/* ---- chunks -------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t rows, bytes, largest;
    bool refuse;
} counter;

static ss_status count_rows(void *ctx, ss_bytes cells, uint32_t rows, ss_error *reterr) {
    counter *all = ctx;
    all->rows += rows;
    all->bytes += cells.len;
    if (cells.len > all->largest)
        all->largest = cells.len;
    return all->refuse ? ss_fail(reterr, SS_RETRY, "SS-PG-0100", "the reader of the rows gave up") : SS_OK;
}

static size_t find_table(const ss_snapshot_table *tables, size_t count, const char *name) {
    size_t i = 0;
    while (i < count && strcmp(tables[i].schema->name, name) != 0)
        i++;
    assert_true(i < count);
    return i;
}

static void test_chunks(void **state) {
    (void)state;
    char dsn[160];
    ss_source_env env;
    struct ss_postgres_options options;
    ss_error err = {0};
    PGconn *admin = connect_to("postgres");
    run(admin, "CREATE DATABASE big");
    PQfinish(admin);
    PGconn *conn = connect_to("big");
    run(conn, "CREATE TABLE public.big (id int PRIMARY KEY, pad text); ALTER TABLE public.big ALTER pad SET STORAGE PLAIN;"
              " INSERT INTO public.big SELECT i, repeat('x', 2000) FROM generate_series(1, 80000) i;"
              " DELETE FROM public.big WHERE id % 4 = 0;"
              " CREATE TABLE public.wide (id int PRIMARY KEY, body text);"
              " INSERT INTO public.wide SELECT i, repeat(E'tab\\t', i * 1000000) FROM generate_series(1, 6) i;"
              " CREATE TABLE public.moved (id int PRIMARY KEY); INSERT INTO public.moved VALUES (1), (2)");
    static const char *const asked[] = {"public.big", "public.moved", "public.wide"};
    ss_snapshot *snapshot = open_snapshot("big", asked, 3, &env, &options, dsn, sizeof dsn);
    run(conn, "INSERT INTO public.big SELECT i, 'later' FROM generate_series(100000, 100100) i;"
              " UPDATE public.big SET pad = 'changed' WHERE id < 5000; ALTER TABLE public.moved ALTER id TYPE bigint");
    const ss_snapshot_table *tables = NULL;
    size_t count = ss_postgres_snapshot_tables(snapshot, &tables), at = find_table(tables, count, "big");
    ss_copy_reader *readers[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(ss_postgres_copy_reader_open(snapshot, &readers[i], &err), SS_OK);
    counter big = {0}, wide = {0}, moved = {0}, refused = {.refuse = true};
    assert_int_equal(tables[at].chunk_count, 3);
    for (size_t chunk = 0; chunk < 3; chunk++)
        assert_int_equal(ss_postgres_copy_reader_read(readers[chunk % 2], at, chunk, count_rows, &big, &err), SS_OK);
    assert_int_equal(big.rows, 60000);
    assert_true(big.bytes > 60000u * 2000 && big.largest < (300u << 10));
    assert_int_equal(ss_postgres_copy_reader_read(readers[0], at, 0, count_rows, &refused, &err), SS_RETRY);
    at = find_table(tables, count, "wide");
    for (size_t chunk = 0; chunk < tables[at].chunk_count; chunk++)
        assert_int_equal(ss_postgres_copy_reader_read(readers[0], at, chunk, count_rows, &wide, &err), SS_OK);
    assert_int_equal(wide.rows, 6);
    assert_true(wide.largest > 24000000 && wide.largest < 24000100);
    /* As a server before 14 would be read: ranges of the key. */
    counter by_key = {0};
    at = find_table(tables, count, "big");
    snapshot->version = 130000;
    for (size_t i = 0; i < count; i++)
        snapshot->sources[i].leaf_count = snapshot->sources[i].chunk_count = 0;
    assert_int_equal(ss_postgres_chunks_plan(snapshot, &err), SS_OK);
    assert_int_equal(tables[at].chunk_count, 3);
    assert_int_equal(snapshot->sources[at].chunks[1].by, SS_CHUNK_KEY);
    for (size_t chunk = 0; chunk < 3; chunk++)
        assert_int_equal(ss_postgres_copy_reader_read(readers[0], at, chunk, count_rows, &by_key, &err), SS_OK);
    assert_int_equal(by_key.rows, 60000);
    /* Rewritten since: an old snapshot sees the rewritten rows no more. */
    at = find_table(tables, count, "moved");
    assert_int_equal(ss_postgres_copy_reader_read(readers[1], at, 0, count_rows, &moved, &err), SS_RETRY);
    assert_string_equal(err.code, "SS-PG-0102");
    for (int i = 0; i < 2; i++)
        ss_postgres_copy_reader_close(readers[i]);
    ss_postgres_snapshot_close(snapshot);
    PGresult *res = PQexec(conn, "SELECT count(*) FROM pg_replication_slots");
    assert_string_equal(PQgetvalue(res, 0, 0), "0");
    PQclear(res);
    PQfinish(conn);
}

/* ---- names that move --------------------------------------------------------------------------------------------- */

/* Each table is altered behind the snapshot so that its old heap is still there, but COPY's names mean something else. */
static void test_names(void **state) {
    (void)state;
    char dsn[160];
    ss_source_env env;
    struct ss_postgres_options options;
    ss_error err = {0};
    PGconn *admin = connect_to("postgres");
    run(admin, "CREATE DATABASE names");
    PQfinish(admin);
    PGconn *conn = connect_to("names");
    run(conn, "CREATE TABLE a_same (a int, b int); CREATE TABLE b_swapped (a int); CREATE TABLE b_other (a int);"
              " CREATE TABLE c_columns (a int, b int); CREATE TABLE d_dropped (a int, b int); CREATE TABLE e_back (a int, b int);"
              " CREATE TABLE f_more (a int); CREATE TABLE g_moved (a int); CREATE SCHEMA elsewhere;"
              " INSERT INTO a_same VALUES (1, 2); INSERT INTO b_swapped VALUES (1); INSERT INTO c_columns VALUES (1, 2);"
              " INSERT INTO d_dropped VALUES (1, 2); INSERT INTO e_back VALUES (1, 2); INSERT INTO f_more VALUES (1);"
              " INSERT INTO g_moved VALUES (1); ALTER TABLE a_same REPLICA IDENTITY FULL; ALTER TABLE b_swapped REPLICA IDENTITY FULL;"
              " ALTER TABLE b_other REPLICA IDENTITY FULL; ALTER TABLE c_columns REPLICA IDENTITY FULL;"
              " ALTER TABLE d_dropped REPLICA IDENTITY FULL; ALTER TABLE e_back REPLICA IDENTITY FULL;"
              " ALTER TABLE f_more REPLICA IDENTITY FULL; ALTER TABLE g_moved REPLICA IDENTITY FULL");
    ss_snapshot *snapshot = open_snapshot("names", NULL, 0, &env, &options, dsn, sizeof dsn);
    run(conn, "ALTER TABLE b_swapped RENAME TO b_old; ALTER TABLE b_other RENAME TO b_swapped");
    run(conn, "ALTER TABLE c_columns RENAME a TO x; ALTER TABLE c_columns RENAME b TO a; ALTER TABLE c_columns RENAME x TO b");
    run(conn, "ALTER TABLE d_dropped DROP b; ALTER TABLE d_dropped ADD b int");
    run(conn, "ALTER TABLE e_back RENAME a TO x");
    run(conn, "ALTER TABLE e_back RENAME x TO a");
    run(conn, "ALTER TABLE f_more ADD more int; ANALYZE f_more");
    run(conn, "VACUUM f_more");
    run(conn, "ALTER TABLE g_moved SET SCHEMA elsewhere; CREATE TABLE g_moved (a int)");
    static const struct {
        const char *name;
        ss_status status;
    } wanted[] = {{"a_same", SS_OK},       {"b_swapped", SS_RETRY}, {"b_other", SS_RETRY}, {"c_columns", SS_RETRY},
                  {"d_dropped", SS_RETRY}, {"e_back", SS_RETRY},    {"f_more", SS_OK},     {"g_moved", SS_RETRY}};
    const ss_snapshot_table *tables = NULL;
    size_t count = ss_postgres_snapshot_tables(snapshot, &tables);
    ss_copy_reader *reader = NULL;
    assert_int_equal(ss_postgres_copy_reader_open(snapshot, &reader, &err), SS_OK);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        counter seen = {0};
        ss_status got = ss_postgres_copy_reader_read(reader, find_table(tables, count, wanted[i].name), 0, count_rows, &seen, &err);
        if (got != wanted[i].status)
            fail_msg("%s: %d %s", wanted[i].name, got, got != SS_OK ? err.text : "");
        if (got != SS_OK)
            assert_string_equal(err.code, "SS-PG-0102");
    }
    ss_postgres_copy_reader_close(reader);
    ss_postgres_snapshot_close(snapshot);
    PQfinish(conn);
}

/* Commits a transaction that has made a table as soon as a copy's slot waits for it. */
static void *commit_when_awaited(void *arg) {
    PGconn *maker = arg, *conn = connect_to("postgres");
    bool awaited = false;
    for (int i = 0; i < 400 && !awaited; i++, usleep(20000)) {
        PGresult *res = PQexec(conn, "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'sidespool\\_copy%'");
        awaited = strcmp(PQgetvalue(res, 0, 0), "0") != 0;
        PQclear(res);
    }
    PQfinish(conn);
    run(maker, "COMMIT");
    return awaited ? arg : NULL;
}

/* The snapshot sees a table that the publication does not name yet: it must not be taken for whole. */
static void test_unpublished(void **state) {
    (void)state;
    char dsn[160];
    ss_source_env env;
    struct ss_postgres_options options;
    ss_error err = {0};
    ss_snapshot *snapshot = NULL;
    pthread_t thread;
    void *awaited = NULL;
    PGconn *admin = connect_to("postgres");
    run(admin, "CREATE DATABASE late");
    PQfinish(admin);
    PGconn *conn = connect_to("late");
    run(conn, "CREATE TABLE n1 (id int PRIMARY KEY)");
    snapshot = open_snapshot("late", NULL, 0, &env, &options, dsn, sizeof dsn);
    ss_postgres_snapshot_close(snapshot);
    run(conn, "BEGIN");
    run(conn, "CREATE TABLE n2 (id int PRIMARY KEY); INSERT INTO n2 VALUES (1)");
    assert_int_equal(pthread_create(&thread, NULL, commit_when_awaited, conn), 0);
    ss_status got = ss_postgres_snapshot_open(&env, NULL, 0, 1, 0, &snapshot, &err);
    assert_int_equal(pthread_join(thread, &awaited), 0);
    assert_non_null(awaited);
    assert_int_equal(got, SS_RETRY);
    assert_string_equal(err.code, "SS-PG-0111");
    assert_int_equal(ss_postgres_snapshot_open(&env, NULL, 0, 1, 0, &snapshot, &err), SS_OK);
    const ss_snapshot_table *tables = NULL;
    assert_int_equal(ss_postgres_snapshot_tables(snapshot, &tables), 2);
    ss_postgres_snapshot_close(snapshot);
    PQfinish(conn);
}

typedef struct {
    PGconn *holder;
    uint32_t rows;
    int asked;
    bool end;
} lock_reading;

static ss_status while_locked(void *ctx, ss_bytes cells, uint32_t rows, ss_error *reterr) {
    lock_reading *reading = ctx;
    (void)cells;
    reading->rows += rows;
    reading->asked += rows == 0;
    if (rows == 0 && reading->end)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0012", "the copy is being ended");
    if (rows == 0)
        run(reading->holder, "COMMIT");
    return SS_OK;
}

/* A reader behind somebody's lock can be ended, and reads on when the lock is gone. */
static void test_locked(void **state) {
    (void)state;
    char dsn[160];
    ss_source_env env;
    struct ss_postgres_options options;
    ss_error err = {0};
    PGconn *admin = connect_to("postgres");
    run(admin, "CREATE DATABASE locked");
    PQfinish(admin);
    PGconn *conn = connect_to("locked");
    run(conn, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    ss_snapshot *snapshot = open_snapshot("locked", NULL, 0, &env, &options, dsn, sizeof dsn);
    ss_copy_reader *reader = NULL;
    assert_int_equal(ss_postgres_copy_reader_open(snapshot, &reader, &err), SS_OK);
    run(conn, "BEGIN");
    run(conn, "LOCK TABLE t IN ACCESS EXCLUSIVE MODE");
    lock_reading ended = {.holder = conn, .end = true}, read = {.holder = conn};
    assert_int_equal(ss_postgres_copy_reader_read(reader, 0, 0, while_locked, &ended, &err), SS_RETRY);
    assert_string_equal(err.code, "SS-AGENT-0012");
    assert_int_equal(ended.rows, 0);
    assert_int_equal(ss_postgres_copy_reader_read(reader, 0, 0, while_locked, &read, &err), SS_OK);
    assert_int_equal(read.asked, 1);
    assert_int_equal(read.rows, 2);
    ss_postgres_copy_reader_close(reader);
    ss_postgres_snapshot_close(snapshot);
    PQfinish(conn);
}

/* ---- --check ------------------------------------------------------------------------------------------------------- */

typedef struct {
    char text[65536];
    size_t len;
    int bad;
} lines;

static void line(void *ctx, bool ok, const char *what, const char *found, const char *remedy) {
    lines *all = ctx;
    all->len += (size_t)snprintf(all->text + all->len, sizeof all->text - all->len, "%s | %s | %s | %s\n", ok ? "ok" : "BAD",
                                 what, found, remedy);
    all->bad += !ok;
    assert_true(all->len < sizeof all->text);
}

static void check(const char *user, const char *const *patterns, size_t count, lines *all) {
    char dsn[160];
    const ss_strings include = {.items = (const char **)(uintptr_t)patterns, .count = count}, exclude = {.items = NULL};
    snprintf(dsn, sizeof dsn, "host=%s port=%d user=%s dbname=checked", dir, port, user);
    struct ss_postgres_options options = {.dsn = dsn, .connect_timeout = 10000};
    ss_source_env env = {.name = "checked", .options = &options, .include = &include, .exclude = &exclude};
    ss_error err = {0};
    *all = (lines){.len = 0};
    if (ss_postgres_check(&env, line, all, &err) != SS_OK)
        fail_msg("%s %s", err.code, err.text);
    if (getenv("PGCOPY_SHOW") != NULL)
        printf("%s\n", all->text);
}

static void has(const lines *all, const char *text) {
    if (strstr(all->text, text) == NULL)
        fail_msg("not there: %s\n  in:\n%s", text, all->text);
}

static void test_check(void **state) {
    (void)state;
    static lines all;
    static const char *const wrong[] = {"public.nothing_like_it*"};
    PGconn *admin = connect_to("postgres");
    run(admin, "CREATE DATABASE checked");
    run(admin, "CREATE ROLE weak LOGIN");
    PQfinish(admin);
    PGconn *conn = connect_to("checked");
    run(conn, "CREATE TABLE public.good (id int PRIMARY KEY); CREATE TABLE public.\"No \"\"Key\" (a int);"
              " CREATE UNLOGGED TABLE public.fleeting (id int PRIMARY KEY); CREATE TABLE public.secret (id int PRIMARY KEY);"
              " ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY; GRANT SELECT ON public.secret TO weak");
    check("postgres", NULL, 0, &all);
    assert_int_equal(all.bad, 1);
    has(&all, "BAD | table public.No \"Key | ");
    has(&all, "ALTER TABLE \"public\".\"No \"\"Key\" REPLICA IDENTITY FULL");
    has(&all, "ok | table public.fleeting | not captured: an unlogged table has no WAL");
    has(&all, "ok | publication | sidespool_checked: not there yet, will be made");
    check("weak", NULL, 0, &all);
    has(&all, "BAD | right to replicate | weak may not | ALTER ROLE \"weak\" REPLICATION");
    has(&all, "BAD | table public.secret | row security hides rows from us");
    has(&all, "BAD | table public.good | no right to read it");
    has(&all, "CREATE PUBLICATION \"sidespool_checked\" FOR TABLE \"public\".\"No \"\"Key\", \"public\".\"good\", \"public\".\"secret\"");
    check("postgres", wrong, 1, &all);
    has(&all, "BAD | selection of tables | ");
    check("nobody_here", NULL, 0, &all);
    has(&all, "BAD | connection | ");
    run(conn, "ALTER TABLE public.\"No \"\"Key\" REPLICA IDENTITY FULL;"
              " CREATE PUBLICATION sidespool_checked FOR TABLE public.good WHERE (id > 1) WITH (publish = 'insert')");
    run(conn, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (a, \"Sidespool-Checked\")'");
    run(conn, "SELECT pg_reload_conf(), pg_sleep(0.5)");
    check("postgres", NULL, 0, &all);
    has(&all, "BAD | synchronous_standby_names | ");
    has(&all, "BAD | table public.good | the publication has a row filter on it");
    has(&all, "BAD | publication's operations | ");
    run(conn, "ALTER SYSTEM RESET synchronous_standby_names");
    run(conn, "SELECT pg_reload_conf()");
    PQfinish(conn);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_torture), cmocka_unit_test(test_chunks), cmocka_unit_test(test_names),
                                       cmocka_unit_test(test_unpublished), cmocka_unit_test(test_locked), cmocka_unit_test(test_check)};
    if (find_bin() == NULL) {
        printf("skipped: no PostgreSQL server programs below /usr/lib/postgresql\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, server_start, server_stop);
}
