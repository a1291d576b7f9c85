/* A throwaway PostgreSQL on loopback, and rows and schemas in few words, for the tests of the
 * PostgreSQL target. PG_BIN names another server's programs; without a server the tests are skipped
 * (77) and say so. */
#ifndef TARGET_POSTGRES_TESTING_H
#define TARGET_POSTGRES_TESTING_H

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "applier/targets/postgres/target_postgres.h"
#include "unit/temp_testing.h"

typedef struct {
    char dir[64], dsn[160], bin[128];
    int port;
    pid_t pid;
    uid_t uid;
    gid_t gid;
} pg_server;

static pg_server server;
static PGconn *admin; /* a person's connection */

static inline void as_nobody(void) {
    if (getuid() != 0)
        return;
    if (setgroups(0, NULL) != 0 || setgid(server.gid) != 0 || setuid(server.uid) != 0)
        _exit(126);
}

static inline int run_as_nobody(const char *const *argv, bool wait) {
    pid_t pid = fork();
    if (pid == 0) {
        as_nobody();
        int log = open("/dev/null", O_WRONLY);
        char path[100];
        snprintf(path, sizeof path, "%s/log", server.dir);
        log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(log, 1);
        dup2(log, 2);
        if (chdir(server.dir) != 0)
            _exit(126);
        /* A test that is killed takes its server along; set after the change of user, which clears
         * it. */
        if (!wait && prctl(PR_SET_PDEATHSIG, SIGQUIT) != 0)
            _exit(126);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (!wait) {
        server.pid = pid;
        return 0;
    }
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

static inline int free_port(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0), port = -1;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        port = ntohs(at.sin_port);
    close(fd);
    return port;
}

static inline void server_stop(void) {
    if (server.pid > 0) {
        kill(server.pid, SIGQUIT);
        waitpid(server.pid, NULL, 0);
        server.pid = 0;
    }
    if (server.dir[0] != '\0') {
        const char *rm[] = {"/bin/rm", "-rf", server.dir, NULL};
        pid_t pid = fork();
        if (pid == 0) {
            execv(rm[0], (char *const *)(uintptr_t)rm);
            _exit(127);
        }
        waitpid(pid, NULL, 0);
    }
}

static inline void server_launch(void) {
    char postgres[160], data[80], port[16], socket_dir[120];
    snprintf(postgres, sizeof postgres, "%s/postgres", server.bin);
    snprintf(data, sizeof data, "%s/data", server.dir);
    snprintf(port, sizeof port, "%d", server.port);
    snprintf(socket_dir, sizeof socket_dir, "unix_socket_directories=%s", server.dir);
    const char *argv[] = {postgres,
                          "-D",
                          data,
                          "-p",
                          port,
                          "-c",
                          "listen_addresses=127.0.0.1",
                          "-c",
                          socket_dir,
                          "-c",
                          "fsync=off",
                          "-c",
                          "shared_buffers=16MB",
                          "-c",
                          "autovacuum=off",
                          NULL};
    run_as_nobody(argv, false);
    for (int i = 0; i < 200; i++) {
        PGconn *conn = PQconnectdb(server.dsn);
        bool up = PQstatus(conn) == CONNECTION_OK;
        PQfinish(conn);
        if (up)
            return;
        usleep(50000);
    }
    printf("the test's server did not start: see %s/log\n", server.dir);
    exit(1);
}

static void no_notice(void *ctx, const PGresult *res) {
    (void)ctx;
    (void)res;
}

static inline void server_start(void) {
    const char *bin = getenv("PG_BIN");
    snprintf(server.bin, sizeof server.bin, "%s", bin != NULL ? bin : "/usr/lib/postgresql/15/bin");
    char initdb[160], data[80];
    snprintf(initdb, sizeof initdb, "%s/initdb", server.bin);
    if (access(initdb, X_OK) != 0) {
        printf("skipped: no PostgreSQL server programs in %s (set PG_BIN)\n", server.bin);
        exit(77);
    }
    struct passwd *nobody = getpwnam("nobody");
    server.uid = nobody != NULL ? nobody->pw_uid : getuid();
    server.gid = nobody != NULL ? nobody->pw_gid : getgid();
    temp_name(server.dir, sizeof server.dir, "ss-target");
    if (mkdtemp(server.dir) == NULL ||
        (getuid() == 0 && chown(server.dir, server.uid, server.gid) != 0))
        exit(1);
    atexit(server_stop);
    snprintf(data, sizeof data, "%s/data", server.dir);
    const char *argv[] = {initdb,  "-D",        data, "-U",   "postgres",         "-A",
                          "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", NULL};
    if (run_as_nobody(argv, true) != 0) {
        printf("initdb failed: see %s/log\n", server.dir);
        exit(1);
    }
    server.port = free_port();
    snprintf(server.dsn, sizeof server.dsn, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             server.port);
    server_launch();
    admin = PQconnectdb(server.dsn);
    if (PQstatus(admin) != CONNECTION_OK)
        exit(1);
    PQsetNoticeReceiver(admin, no_notice, NULL);
}

static inline void sql(const char *text) {
    PGresult *res = PQexec(admin, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(admin));
    PQclear(res);
}

/* The first value of a query; lives until the next call. */
static inline const char *ask(const char *text) {
    static char ret[65536];
    PGresult *res = PQexec(admin, text);
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(admin));
    snprintf(ret, sizeof ret, "%s",
             PQntuples(res) == 0      ? "(no row)"
             : PQgetisnull(res, 0, 0) ? "(null)"
                                      : PQgetvalue(res, 0, 0));
    PQclear(res);
    return ret;
}

/* ---- the target
 * ---------------------------------------------------------------------------------------------------------------
 */
static ss_tgt_options options;
static ss_target_env env = {.route = "r1", .source = "src", .options = &options};
static ss_error err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        ss_status status_ = (call);                                                                \
        if (status_ != SS_OK)                                                                      \
            fail_msg("%s: status %d: %s %s", #call, (int)status_,                                  \
                     err.code != NULL ? err.code : "", err.text);                                  \
    } while (0)
#define STOPS(call, with)                                                                          \
    do {                                                                                           \
        memset(&err, 0, sizeof err);                                                               \
        ss_status status_ = (call);                                                                \
        if (status_ != SS_STOP || err.code == NULL || strcmp(err.code, (with)) != 0)               \
            fail_msg("%s: status %d, %s %s", #call, (int)status_,                                  \
                     err.code != NULL ? err.code : "", err.text);                                  \
    } while (0)

static inline ss_target *target_open(void) {
    ss_target *t = NULL;
    options.dsn = server.dsn;
    options.connect_timeout = 5000;
    options.lock_timeout = 5000;
    OK(ss_target_postgres.open(&env, &t, &err));
    return t;
}

/* ---- schemas and rows
 * ------------------------------------------------------------------------------------------------------------
 */
static ss_arena *arena;

/* "id integer*, v text": a star marks the key. */
static inline Sidespool__Schema *schema(const char *name, const char *columns) {
    Sidespool__Schema *s = ss_arena_alloc(arena, sizeof *s);
    sidespool__schema__init(s);
    s->engine = ss_arena_printf(arena, "postgres");
    s->kind = ss_arena_printf(arena, "table");
    s->ns = ss_arena_printf(arena, "public");
    s->name = ss_arena_printf(arena, "%s", name);
    s->columns = ss_arena_alloc(arena, 1700 * sizeof *s->columns);
    char *copy = ss_arena_printf(arena, "%s", columns), *rest = copy;
    while (rest != NULL && *rest != '\0') {
        char *end = strstr(rest, "; ");
        if (end != NULL)
            *end = '\0';
        Sidespool__Column *c = ss_arena_alloc(arena, sizeof *c);
        sidespool__column__init(c);
        size_t len = strlen(rest);
        c->key = len > 0 && rest[len - 1] == '*';
        if (c->key)
            rest[len - 1] = '\0';
        char *space = strchr(rest, ' ');
        assert_non_null(space);
        *space = '\0';
        c->name = rest;
        c->native_type = space + 1;
        c->canonical = ss_arena_printf(arena, "text");
        c->identity = ss_arena_printf(arena, "%s", "");
        c->nullable = true;
        s->columns[s->n_columns++] = c;
        rest = end != NULL ? end + 2 : NULL;
    }
    static uint64_t serial = 1000;
    s->id = ++serial;
    return s;
}

#define UNCHANGED ((const char *)1)
#define ABSENT ((const char *)2)

static inline ss_row row_of(size_t count, const char *const *values) {
    uint8_t *kinds = ss_arena_zalloc(arena, count + 1);
    ss_bytes *cells = ss_arena_zalloc(arena, (count + 1) * sizeof *cells);
    for (size_t i = 0; i < count; i++) {
        if (values[i] == NULL) {
            kinds[i] = SS_CELL_NULL;
        } else if (values[i] == UNCHANGED) {
            kinds[i] = SS_CELL_UNCHANGED;
        } else if (values[i] == ABSENT) {
            kinds[i] = SS_CELL_ABSENT;
        } else {
            kinds[i] = SS_CELL_VALUE;
            cells[i] = ss_bytes_of(ss_arena_strndup(arena, values[i], strlen(values[i])),
                                   strlen(values[i]));
        }
    }
    return (ss_row){.count = (uint32_t)count, .kinds = kinds, .cells = cells};
}
#define ROW(...)                                                                                   \
    row_of(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})
#define NO_ROW ((ss_row){0})

/* A batch of one table, by hand. */
#define HAND_MOST (SS_TGT_BULK_ROWS + 100)
typedef struct {
    ss_batch batch;
    ss_batch_table table;
    ss_group groups[3];
    ss_batch_change changes[HAND_MOST];
    size_t change_count;
    uint64_t sequence;
} hand;

static inline ss_progress progress_at(uint64_t sequence) {
    ss_progress p = {.exists = true, .epoch = 1, .sequence = sequence, .as_of = 1700000000000000};
    snprintf(p.spool_id, sizeof p.spool_id, "%s", "0123456789abcdef0123456789abcdef");
    snprintf(p.position, sizeof p.position, "0/%llX", (unsigned long long)sequence);
    return p;
}

static inline hand *batch_of(const Sidespool__Schema *s, uint64_t sequence) {
    hand *h = ss_arena_zalloc(arena, sizeof *h);
    h->table.schema = s;
    h->batch.tables = &h->table;
    h->batch.table_count = 1;
    h->batch.progress = progress_at(sequence);
    h->batch.freshness = "streaming";
    h->sequence = sequence;
    return h;
}

static inline void change(hand *h, Sidespool__Op op, ss_row before, ss_row after) {
    ss_batch_change *c = &h->changes[h->change_count];
    *c = (ss_batch_change){
        .change = {.schema_id = h->table.schema->id, .op = op, .before = before, .after = after},
        .sequence = h->sequence - 32 + h->change_count};
    if (h->change_count > 0)
        h->changes[h->change_count - 1].next = c;
    h->change_count++;
    h->table.first = h->changes;
    h->table.change_count = h->change_count;
}
#define INSERT(h, ...) change((h), SIDESPOOL__OP__OP_INSERT, NO_ROW, ROW(__VA_ARGS__))
#define UPDATE(h, before, ...) change((h), SIDESPOOL__OP__OP_UPDATE, (before), ROW(__VA_ARGS__))
#define DELETE(h, ...) change((h), SIDESPOOL__OP__OP_DELETE, ROW(__VA_ARGS__), NO_ROW)

/* One group of all changes, which are of one operation; `mask` as the batcher would give it ("VU":
 * value, unchanged). */
static inline void grouped(hand *h, const char *mask) {
    ss_group *g = &h->groups[h->table.group_count++];
    uint8_t *kinds = ss_arena_zalloc(arena, strlen(mask) + 1);
    for (size_t i = 0; mask[i] != '\0'; i++)
        kinds[i] = mask[i] == 'V' ? SS_CELL_VALUE : SS_CELL_UNCHANGED;
    g->op = h->changes[0].change.op;
    g->kinds = g->op == SIDESPOOL__OP__OP_DELETE ? NULL : kinds;
    const ss_row **keys = ss_arena_zalloc(arena, HAND_MOST * sizeof *keys),
                 **rows = ss_arena_zalloc(arena, HAND_MOST * sizeof *rows);
    for (size_t i = 0; i < h->change_count; i++) {
        const ss_change *c = &h->changes[i].change;
        keys[i] = c->before.count > 0 ? &c->before : &c->after;
        rows[i] = &c->after;
    }
    g->count = h->change_count;
    g->keys = g->op == SIDESPOOL__OP__OP_INSERT ? NULL : keys;
    g->rows = g->op == SIDESPOOL__OP__OP_DELETE ? NULL : rows;
    h->table.groups = h->groups;
}

static int every_before(void **state) {
    (void)state;
    memset(&err, 0, sizeof err);
    arena = ss_arena_new(0);
    /* A test that failed leaves its connection behind. */
    sql("RESET ALL; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name "
        "LIKE 'sidespool-%'");
    sql("DROP SCHEMA IF EXISTS sidespool CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA "
        "public");
    return arena != NULL ? 0 : -1;
}
static int every_after(void **state) {
    (void)state;
    ss_arena_free(arena);
    arena = NULL;
    return 0;
}

#endif
