/* The spool against a small model: random work, crashes, failing writes, readers in another process.
 *
 *   spool_model [--seed N] [--steps N] [--dir DIR] [--sync]
 *
 * The parent holds nothing but a piece of shared memory with the model: for each sequence the seed and length of its record,
 * which sequences end a whole transaction, what was acknowledged as durable, what was marked whole. Sessions (children)
 * write, and end cleanly, by SIGKILL from the parent at a random moment, or by SIGKILL in the middle of their n-th write,
 * sync, rename or unlink. After each, the log must stand at a whole transaction between the two. A reader process runs all
 * the while and compares every record. The seed that is printed first repeats the random choices (not the scheduling). */
#include "faults/spool_model_io.h"
#include "sidespool/record.h"
#include "spool/spool_internal.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RING ((uint64_t)1 << 22)
#define LAG_MOST (RING / 4)

typedef struct {
    uint64_t seed;
    uint32_t len;
    bool whole; /* a mark was set behind it */
} entry;

typedef struct {
    _Atomic uint64_t steps, durable, marked, read_to;
    _Atomic uint64_t identity; /* number in the identity that was last set for sure */
    _Atomic uint64_t emptied; /* 1 + `committed` when a new epoch emptied the position last */
    _Atomic bool finish, identity_moving;
    _Atomic uint64_t crashes, rewinds, rolls, trims, busy, failures, reads, full, too_large;
    entry ring[RING];
} model;

static model *m;
static char spool_path[256];


static uint64_t rng;
static uint64_t draw(void) {
    uint64_t z = (rng += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static uint64_t below(uint64_t n) {
    return draw() % n;
}

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "spool_model: %s:%d: %s: ", __FILE__, __LINE__, #condition);                               \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static bool is_code(const ss_error *err, const char *code) {
    return err->code != NULL && strcmp(err->code, code) == 0;
}

static uint8_t bytes_of[3 << 20];
/* Half of each record can be compressed, so that frames differ in size. */
static ss_bytes content(uint64_t seed, uint32_t len) {
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t v = i % 64 < 32 ? seed * 0x9E3779B97F4A7C15u + i * 0xD1B54A32D192ED03u : seed;
        v ^= i % 64 < 32 ? v >> 29 : 0;
        memcpy(bytes_of + i, &v, len - i < 8 ? len - i : 8);
    }
    return ss_bytes_of(bytes_of, len);
}

static void check_record(uint64_t sequence, ss_bytes record) {
    const entry *e = &m->ring[sequence % RING];
    CHECK(record.len == e->len, "record %" PRIu64 " has %zu bytes, not %u", sequence, record.len, e->len);
    ss_bytes wanted = content(e->seed, e->len);
    CHECK(ss_bytes_eq(record, wanted), "record %" PRIu64 " has other bytes", sequence);
}

/* ---- the writer's session ---- */

static ss_spool *spool;
static ss_log *stream;
static ss_cursors *cursors;
static uint64_t next;

static void position_of(uint64_t sequence, char out[64]) {
    (void)snprintf(out, 64, "p%" PRIu64 "%.*s", sequence, (int)(sequence % 30), "..............................");
}

/* What holds after every step. */
static void check_state(void) {
    const ss_log_state *state = ss_log_get_state(stream);
    uint64_t committed = state->committed, durable = m->durable;
    char position[64];
    CHECK(committed >= durable && committed <= m->marked, "committed %" PRIu64 ", durable %" PRIu64 ", marked %" PRIu64,
          committed, durable, (uint64_t)m->marked);
    CHECK(committed == 0 || m->ring[committed % RING].whole, "committed %" PRIu64 " is inside a transaction", committed);
    position_of(committed, position);
    bool emptied = state->position[0] == '\0' && m->emptied == committed + 1;
    CHECK(committed == 0 || emptied || strcmp(position, state->position) == 0, "position %s at %" PRIu64, state->position,
          committed);
    CHECK(state->first <= committed + 1, "first %" PRIu64 " committed %" PRIu64, state->first, committed);
    m->durable = committed;
}

static ss_spool_options options_now(void) {
    return (ss_spool_options){.segment_size = 1 << 20, .max_size = 10 << 20, .retain_ms = 5, .frame_bytes = 64 << 10};
}

/* A failing call may be asked again; a person is needed only where the model says so. */
static bool passing(ss_status status, const ss_error *err) {
    if (status == SS_OK)
        return false;
    CHECK(status != SS_STOP, "%s %s", err->code, err->text);
    m->busy++;
    return true;
}

static void close_all(void) {
    ss_cursors_close(cursors);
    ss_log_close(stream);
    ss_spool_close(spool);
    cursors = NULL;
    stream = NULL;
    spool = NULL;
}

static void open_all(bool after_crash) {
    ss_error err = {0};
    ss_spool_options options = options_now();
    for (int tries = 0;; tries++) {
        ss_status status = ss_spool_open(spool_path, "s", &options, &spool, &err);
        if (status == SS_OK)
            status = ss_log_open(spool, SS_LOG_STREAM, &stream, &err);
        if (status == SS_OK)
            status = ss_cursors_open(spool_path, "s", &cursors, &err);
        if (status == SS_OK)
            break;
        bool injected = io_fail_at != 0 && tries < 100;
        CHECK(injected && status != SS_STOP, "open: %s %s", err.code, err.text);
        m->failures++;
        close_all();
    }
    uint64_t committed = ss_log_get_state(stream)->committed;
    CHECK(after_crash || committed == m->durable, "reopened at %" PRIu64 ", not %" PRIu64, committed, (uint64_t)m->durable);
    check_state();
    m->marked = committed;
    next = committed + 1;
    uint64_t number = 0;
    const char *identity = ss_log_get_state(stream)->identity;
    number = identity[0] == '\0' ? 0 : strtoull(identity + 3, NULL, 10);
    CHECK(number == m->identity || m->identity_moving, "identity %s, not %" PRIu64, identity, (uint64_t)m->identity);
    m->identity = number;
    m->identity_moving = false;
}


/* Four schemas of different sizes, the same in every process: a reader proves them by their ids. */
static ss_buf schemas[4];
static uint64_t schema_ids[4];
static void make_schemas(void) {
    for (size_t i = 0; i < 4; i++) {
        char name[3000];
        size_t len = (i + 1) * 700;
        memset(name, (int)('1' + i), len);
        name[len] = '\0';
        Sidespool__Schema schema = SIDESPOOL__SCHEMA__INIT;
        schema.name = name;
        ss_buf_init(&schemas[i]);
        schema_ids[i] = ss_schema_seal(&schema, &schemas[i]);
    }
}

static uint32_t random_len(void) {
    uint64_t kind = below(1000);
    if (kind < 620)
        return (uint32_t)below(300);
    if (kind < 900)
        return (uint32_t)below(4096);
    if (kind < 990)
        return (uint32_t)below(65536);
    if (kind < 998)
        return (uint32_t)below(700000);
    return (uint32_t)below(3 << 20);
}

static void rewind_all(void) {
    ss_error err = {0};
    for (int tries = 0; tries < 100; tries++) {
        ss_status status = ss_log_rewind(stream, &err);
        if (!passing(status, &err)) {
            next = m->marked + 1;
            m->rewinds++;
            return;
        }
        m->failures++;
    }
    CHECK(false, "rewind: %s %s", err.code, err.text);
}

static void trim(void) {
    ss_error err = {0};
    uint64_t removed = 0;
    (void)passing(ss_log_trim(stream, &removed, &err), &err);
    m->trims += removed;
}

/* Full: consumers move on and room is made; a transaction that stands in its own way is given up. */
static void when_full(const ss_error *full) {
    ss_error err = {0};
    m->full++;
    if (is_code(full, SS_SPOOL_TOO_LARGE)) {
        m->too_large++;
        rewind_all();
        return;
    }
    (void)passing(ss_cursors_set(cursors, "c1", SS_LOG_STREAM, m->durable, true, &err), &err);
    if (m->read_to < m->durable)
        usleep(200);
    trim();
    if (below(3) == 0)
        rewind_all();
}

static void append(void) {
    uint64_t count = below(10) == 0 ? below(200) : 1 + below(6);
    for (uint64_t i = 0; i < count; i++) {
        if (next > m->read_to + LAG_MOST)
            return;
        ss_error err = {0};
        uint64_t sequence = 0, schema = schema_ids[below(3)];
        entry *e = &m->ring[next % RING];
        *e = (entry){.seed = draw(), .len = random_len()};
        if (below(8) == 0)
            CHECK(ss_log_use_schema(stream, schema_ids[3], &err) == SS_OK, "%s", err.text);
        ss_status status = ss_log_append(stream, content(e->seed, e->len), schema, &sequence, &err);
        if (status != SS_OK && (is_code(&err, SS_SPOOL_FULL) || is_code(&err, SS_SPOOL_TOO_LARGE))) {
            when_full(&err);
            return;
        }
        if (passing(status, &err)) {
            m->failures++;
            return;
        }
        CHECK(sequence == next, "appended as %" PRIu64 ", not %" PRIu64, sequence, next);
        next++;
    }
}

static void mark_whole(void) {
    char position[64];
    uint64_t sequence = next - 1;
    position_of(sequence, position);
    if (sequence > 0)
        m->ring[sequence % RING].whole = true;
    m->marked = sequence;
    ss_log_mark_whole(stream, ss_bytes_str(position));
}

static void flush(bool now) {
    ss_error err = {0};
    bool committed = false;
    uint64_t marked = m->marked;
    ss_status status = ss_log_flush(stream, now, &committed, &err);
    if (passing(status, &err)) {
        m->failures++;
        return;
    }
    CHECK(!now || ss_log_get_state(stream)->committed == marked, "flushed now, committed %" PRIu64 " of %" PRIu64,
          ss_log_get_state(stream)->committed, marked);
}

/* A commit is begun, or ends by the way, while the steps that follow go on. */
static void flush_beside(void) {
    ss_error err = {0};
    ss_log_turn turn;
    if (passing(ss_log_flush_beside(stream, -1, &turn, &err), &err))
        m->failures++;
    if (turn.now == SS_LOG_RESTS && below(2) == 0)
        usleep((useconds_t)below((uint64_t)turn.wait_us * 2));
}

static void land(void) {
    ss_log_land(stream);
    check_state();
}

static void read_all_here(void) {
    ss_error err = {0};
    land();
    ss_reader *reader = NULL;
    ss_bytes record;
    uint64_t sequence, expected = ss_log_get_state(stream)->first;
    ss_status status = ss_reader_open(spool_path, "s", SS_LOG_STREAM, 0, &reader, &err);
    if (status != SS_OK) {
        CHECK(status == SS_RETRY && m->failures > 0, "%s %s", err.code, err.text);
        return;
    }
    while ((status = ss_reader_next(reader, &record, &sequence, &err)) == SS_OK) {
        CHECK(sequence == expected, "read %" PRIu64 ", expected %" PRIu64, sequence, expected);
        check_record(sequence, record);
        expected++;
    }
    CHECK(status == SS_BUSY && expected == m->durable + 1, "ended at %" PRIu64 " of %" PRIu64 ": %s", expected - 1,
          (uint64_t)m->durable, err.text);
    ss_reader_close(reader);
}

static void set_identity(void) {
    ss_error err = {0};
    if (ss_log_pending(stream) > 0 || next != m->durable + 1)
        return;
    char text[32];
    uint64_t number = m->identity + 1;
    (void)snprintf(text, sizeof(text), "id %" PRIu64, number);
    m->identity_moving = true;
    bool new_epoch = below(2) == 0;
    if (new_epoch)
        m->emptied = m->durable + 1;
    ss_status status = ss_log_set_identity(stream, text, new_epoch, &err);
    if (status == SS_STOP && is_code(&err, SS_SPOOL_INTERNAL)) { /* a mark waits */
        m->identity_moving = false;
        return;
    }
    if (passing(status, &err)) {
        m->failures++;
        return; /* it may have come to disk: asked again or found out at the next open */
    }
    CHECK(!new_epoch || ss_log_get_state(stream)->position[0] == '\0', "a new epoch kept the position %s",
          ss_log_get_state(stream)->position);
    m->identity = number;
    m->identity_moving = false;
}

static void consumers(void) {
    ss_error err = {0};
    uint64_t first = ss_log_get_state(stream)->first, durable = m->durable;
    if (below(4) == 0)
        (void)passing(ss_cursors_forget(cursors, "c2", NULL, &err), &err);
    else if (below(4) == 0)
        (void)passing(ss_cursors_set(cursors, "c2", SS_LOG_STREAM, durable, below(2) == 0, &err), &err);
    else if (durable >= first)
        (void)passing(ss_cursors_set(cursors, "c1", SS_LOG_STREAM, first + below(durable - first + 1), true, &err), &err);
}

static void put_schemas(void) {
    ss_error err = {0};
    for (size_t i = 0; i < 4; i++)
        CHECK(ss_log_put_schema(stream, schema_ids[i], ss_bytes_of(schemas[i].ptr, schemas[i].len), &err) == SS_OK, "%s",
              err.text);
}

static void reopen(void) {
    land();
    close_all();
    open_all(false);
    put_schemas();
}

static void step(void) {
    uint64_t kind = below(1000);
    if (kind < 500)
        append();
    else if (kind < 720)
        mark_whole();
    else if (kind < 780)
        flush(true);
    else if (kind < 850)
        flush_beside();
    else if (kind < 880)
        flush(false);
    else if (kind < 900)
        rewind_all();
    else if (kind < 940)
        trim();
    else if (kind < 975)
        consumers();
    else if (kind < 985)
        set_identity();
    else if (kind < 993)
        read_all_here();
    else
        reopen();
    check_state();
    m->steps++;
}

static void session(uint64_t seed, uint64_t steps_most) {
    rng = seed;
    io_calls = 0;
    uint64_t what = below(10), most = 1 + below(120);
    if (what < 5)
        io_kill_at = 1 + below(what == 0 ? 12 : 150);
    if (what == 5 || what == 6) {
        io_fail_at = 12 + below(150);
        io_fail_calls = 1 + below(6);
        io_fail_errno = below(2) == 0 ? ENOSPC : EIO;
    }
    open_all(true);
    put_schemas();
    for (uint64_t i = 0; i < most && m->steps < steps_most; i++)
        step();
    close_all();
    _exit(0);
}

/* ---- the reader process ---- */

static void read_somewhere(void) {
    ss_error err = {0};
    ss_reader *reader = NULL;
    uint64_t durable = m->durable, back = below(4000), from = durable > back ? durable - back : 1, sequence = 0;
    ss_status status = ss_reader_open(spool_path, "s", SS_LOG_STREAM, from, &reader, &err);
    for (int i = 0; status == SS_OK && i < 300; i++) {
        ss_bytes record, schema;
        status = ss_reader_next(reader, &record, &sequence, &err);
        if (status != SS_OK)
            break;
        CHECK(sequence == from, "read %" PRIu64 ", expected %" PRIu64, sequence, from);
        check_record(sequence, record);
        from++;
        if (below(16) == 0)
            CHECK(ss_reader_schema(reader, schema_ids[below(3)], &schema, &err) == SS_OK || is_code(&err, SS_SPOOL_SCHEMA) ||
                      is_code(&err, SS_SPOOL_GAP), /* reopened after its segment was trimmed */
                  "%s %s", err.code, err.text);
    }
    CHECK(status != SS_STOP || is_code(&err, SS_SPOOL_GAP), "%s %s", err.code, err.text);
    ss_reader_close(reader);
}

static void read_along(uint64_t seed) {
    ss_error err = {0};
    ss_reader *reader = NULL;
    ss_cursors *mine = NULL;
    rng = seed ^ 0x5eed;
    ss_status status;
    while ((status = ss_cursors_open(spool_path, "s", &mine, &err)) == SS_RETRY && !m->finish)
        usleep(1000);
    CHECK(status == SS_OK, "%s %s", err.code, err.text);
    CHECK(ss_cursors_set(mine, "reader", SS_LOG_STREAM, 0, true, &err) == SS_OK, "%s", err.text);
    while ((status = ss_reader_open(spool_path, "s", SS_LOG_STREAM, 1, &reader, &err)) == SS_RETRY && !m->finish)
        usleep(1000);
    CHECK(status == SS_OK, "%s %s", err.code, err.text);
    uint64_t expected = 1;
    for (;;) {
        bool finish = m->finish;
        ss_bytes record;
        uint64_t sequence;
        status = ss_reader_next(reader, &record, &sequence, &err);
        if (status == SS_OK) {
            CHECK(sequence == expected, "read %" PRIu64 ", expected %" PRIu64, sequence, expected);
            check_record(sequence, record);
            m->read_to = sequence;
            expected++;
            m->reads++;
            if (below(200) == 0)
                (void)passing(ss_cursors_set(mine, "reader", SS_LOG_STREAM, sequence, true, &err), &err);
            if (below(5000) == 0)
                read_somewhere();
            continue;
        }
        CHECK(status != SS_STOP, "reader: %s %s", err.code, err.text);
        if (finish)
            break;
        (void)passing(ss_cursors_set(mine, "reader", SS_LOG_STREAM, expected - 1, true, &err), &err);
        usleep((useconds_t)below(400));
    }
    CHECK(expected == m->durable + 1, "the reader ends at %" PRIu64 ", not %" PRIu64, expected - 1, (uint64_t)m->durable);
    ss_cursors_close(mine);
    ss_reader_close(reader);
    _exit(0);
}

/* ---- the parent ---- */

static bool ended_well(pid_t pid, bool kill_allowed) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return false;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && kill_allowed) {
        m->crashes++;
        return true;
    }
    if (WIFSIGNALED(status))
        fprintf(stderr, "spool_model: a child ended with signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool run_sessions(uint64_t seed, uint64_t steps, pid_t reader) {
    rng = seed;
    bool good = true;
    for (uint64_t n = 0; good && m->steps < steps; n++) {
        uint64_t session_seed = draw(), delay = below(4) == 0 ? 1 + below(8000) : 0;
        pid_t pid = fork();
        if (pid == 0)
            session(session_seed, steps);
        if (pid > 0 && delay > 0) {
            usleep((useconds_t)delay);
            (void)kill(pid, SIGKILL);
        }
        good = pid > 0 && ended_well(pid, true);
        if (!good)
            fprintf(stderr, "spool_model: session %" PRIu64 " failed at step %" PRIu64 "\n", n, (uint64_t)m->steps);
        int status;
        if (good && waitpid(reader, &status, WNOHANG) == reader) {
            fprintf(stderr, "spool_model: the reader ended early (status %d)\n", status);
            good = false;
        }
    }
    return good;
}

static void last_session(void) {
    open_all(true);
    read_all_here();
    put_schemas();
    append();
    mark_whole();
    flush(true);
    check_state();
    read_all_here();
    close_all();
    _exit(0);
}

int main(int argc, char **argv) {
    static const struct option long_options[] = {{"seed", required_argument, NULL, 's'},
                                                 {"steps", required_argument, NULL, 'n'},
                                                 {"dir", required_argument, NULL, 'd'},
                                                 {"sync", no_argument, NULL, 'v'},
                                                 {NULL, 0, NULL, 0}};
    uint64_t seed = (uint64_t)ss_wall_ms() * 1000003u + (uint64_t)getpid(), steps = 20000;
    const char *given = getenv("SIDESPOOL_SEED"), *wanted = getenv("SIDESPOOL_STEPS"); /* how scripts/test asks */
    if (given != NULL && *given != '\0')
        seed = strtoull(given, NULL, 10);
    if (wanted != NULL && *wanted != '\0')
        steps = strtoull(wanted, NULL, 10);
    const char *dir = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    int option;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (option == 'n')
            steps = strtoull(optarg, NULL, 10);
        else if (option == 'd')
            dir = optarg;
        else if (option == 'v')
            io_real_syncs = 1;
        else
            return 2;
    }
    make_schemas();
    (void)snprintf(spool_path, sizeof(spool_path), "%s/spool_model.XXXXXX", dir);
    m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED || mkdtemp(spool_path) == NULL) {
        perror("spool_model");
        return 1;
    }
    printf("spool_model: --seed %" PRIu64 " --steps %" PRIu64 " in %s\n", seed, steps, spool_path);
    (void)fflush(stdout);
    int64_t began = ss_now_ms();
    pid_t reader = fork();
    if (reader == 0)
        read_along(seed);
    bool good = reader > 0 && run_sessions(seed, steps, reader);
    if (good) {
        pid_t pid = fork();
        if (pid == 0)
            last_session();
        good = pid > 0 && ended_well(pid, false);
    }
    m->finish = true;
    if (!good && reader > 0)
        (void)kill(reader, SIGKILL);
    if (reader > 0)
        good = ended_well(reader, false) && good;
    printf("spool_model: %s: %" PRIu64 " steps, %" PRIu64 " records, %" PRIu64 " read, %" PRIu64 " crashes, %" PRIu64
           " failed writes, %" PRIu64 " rewinds, %" PRIu64 " segments trimmed, %" PRIu64 " times full, %" PRIu64
           " too large, %.1f s\n",
           good ? "good" : "BAD", (uint64_t)m->steps, (uint64_t)m->durable, (uint64_t)m->reads, (uint64_t)m->crashes,
           (uint64_t)m->failures, (uint64_t)m->rewinds, (uint64_t)m->trims, (uint64_t)m->full, (uint64_t)m->too_large,
           (double)(ss_now_ms() - began) / 1000);
    if (good) {
        char command[400];
        (void)snprintf(command, sizeof(command), "rm -rf '%s'", spool_path);
        (void)!system(command);
    }
    return good ? 0 : 1;
}
