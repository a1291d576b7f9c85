/* needs: spool */
/* A spool damaged anywhere: flipped bits, zeroed pages, truncation, in every file of both logs, newest ones too.
 *
 *   spool_damage [--seed N] [--cases N]
 *
 * In each case one file of a fresh copy is damaged; then a reader, `spool verify` and a writer look at it, each in a child of
 * its own, for LMDB may abort or meet a SIGBUS. Allowed are: all records as they were written (the damage lies where nothing
 * is), an earlier committed state, whole (LMDB's newer meta page was hit; a source's slot then tells that it is older), a
 * refusal that names the damaged file, or death by a signal, which `verify` then tells of that file. Never a record that
 * was not written, a position of another place, or a hang. SIDESPOOL_SEED and SIDESPOOL_CASES say the same as the words. */
#include "sidespool/record.h"
#include "unit/spool_testing.h"

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>

#define STREAM_RECORDS 4000
#define COPY_RECORDS 2500
#define COMMIT_EVERY 100
#define HANG_SECONDS 30

enum { WHOLE, REFUSED, WRONG, OLDER, DIED, ANSWERS };
static const char *const answer_names[] = {"whole", "refused", "WRONG", "older state", "died"};

typedef struct {
    char name[64];
    uint8_t *bytes;
    size_t len;
    mode_t mode;
} kept_file;

static kept_file files[64];
static size_t file_count;
static test_spool t;
static uint64_t rng;
static char said[SS_ERROR_TEXT];
static uint64_t counts[3][ANSWERS]; /* reader, writer, verify (WHOLE and REFUSED alone) */

static uint64_t below(uint64_t n) {
    return mix(&rng) % n;
}

static size_t record_bytes(uint64_t sequence) {
    return 50 + (size_t)(sequence * 7919 % 900);
}

static uint64_t record_seed(ss_log_kind kind, uint64_t sequence) {
    return sequence * 2 + (uint64_t)kind;
}

static const char *position_of(uint64_t committed, char out[32]) {
    (void)snprintf(out, 32, "p%" PRIu64, committed);
    return committed == 0 ? "" : out;
}

/* Every fiftieth record begins with a schema of its own, so that there is much of them to damage. */
static uint64_t a_schema(uint64_t sequence, ss_buf *out) {
    char name[600];
    uint64_t seed = sequence / 50;
    for (size_t i = 0; i + 1 < sizeof(name); i++)
        name[i] = (char)('a' + mix(&seed) % 26);
    name[sizeof(name) - 1] = '\0';
    Sidespool__Schema schema = SIDESPOOL__SCHEMA__INIT;
    schema.ns = name;
    schema.name = name;
    ss_buf_clear(out);
    uint64_t id = ss_schema_seal(&schema, out);
    assert_false(out->bad);
    return id;
}

/* Real records, for `verify` decodes them; their bytes follow from log and number. */
static ss_bytes a_record(ss_log_kind kind, uint64_t sequence, uint64_t schema_id, ss_buf *out) {
    uint8_t data[1000];
    static const uint8_t value = SS_CELL_VALUE;
    ss_bytes cell = ss_bytes_of(data, record_bytes(sequence));
    fill_random(data, cell.len, record_seed(kind, sequence));
    ss_change change = {.schema_id = schema_id, .op = SIDESPOOL__OP__OP_INSERT, .after = {1, &value, &cell}};
    ss_buf_clear(out);
    ss_record_put_change(out, &change);
    assert_false(out->bad);
    return ss_bytes_of(out->ptr, out->len);
}

static bool append(ss_log *log, ss_log_kind kind, uint64_t sequence, ss_error *err) {
    uint64_t got = 0;
    ss_buf record, schema;
    ss_buf_init(&record);
    ss_buf_init(&schema);
    uint64_t id = a_schema(sequence, &schema);
    bool good = ss_log_put_schema(log, id, ss_bytes_of(schema.ptr, schema.len), err) == SS_OK &&
                ss_log_append(log, a_record(kind, sequence, id, &record), id, &got, err) == SS_OK && got == sequence;
    ss_buf_done(&record);
    ss_buf_done(&schema);
    return good;
}

static void write_log(ss_log_kind kind, uint64_t records) {
    ss_log *log;
    char position[32];
    must(ss_log_open(t.spool, kind, &log, &t.err), &t);
    must(ss_log_set_identity(log, "the source", false, &t.err), &t);
    for (uint64_t n = 1; n <= records; n++) {
        assert_true(append(log, kind, n, &t.err));
        if (n % COMMIT_EVERY == 0) {
            ss_log_mark_whole(log, ss_bytes_str(position_of(n, position)));
            must(ss_log_flush(log, true, NULL, &t.err), &t);
        }
    }
    ss_log_close(log);
}

static void keep_files(void) {
    DIR *d = opendir(t.dir);
    struct dirent *entry;
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        size_t len = strlen(entry->d_name);
        if (len < 4 || strcmp(entry->d_name + len - 4, ".mdb") != 0)
            continue;
        kept_file *file = &files[file_count++];
        struct stat st;
        assert_true(file_count < 64 && len < sizeof(file->name));
        memcpy(file->name, entry->d_name, len + 1);
        int fd = openat(dirfd(d), entry->d_name, O_RDONLY);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        file->mode = st.st_mode & 0777;
        file->len = (size_t)st.st_size;
        file->bytes = malloc(file->len);
        assert_non_null(file->bytes);
        assert_int_equal(read(fd, file->bytes, file->len), (ssize_t)file->len);
        close(fd);
    }
    closedir(d);
}

static void path_of(const kept_file *file, char out[200]) {
    (void)snprintf(out, 200, "%.100s/%.63s", t.dir, file->name);
}

static void put_files_back(void) {
    remove_dir(t.dir);
    assert_int_equal(mkdir(t.dir, 0770), 0);
    for (size_t i = 0; i < file_count; i++) {
        char path[200];
        path_of(&files[i], path);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0640);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, files[i].bytes, files[i].len), (ssize_t)files[i].len);
        assert_int_equal(fchmod(fd, files[i].mode), 0);
        close(fd);
    }
}

/* Half of the places lie in the heads of LMDB's pages, a tenth in its two meta pages: few bytes, much hangs on them. */
static size_t a_place(size_t len) {
    uint64_t way = below(10);
    size_t pages = len / 4096;
    size_t at = way == 0   ? (size_t)below(2) * 4096 + (size_t)below(200)
                : way <= 5 ? (size_t)below(pages) * 4096 + (size_t)below(64)
                           : (size_t)below(len);
    return at < len ? at : len - 1;
}

static void damage(const kept_file *file, char what[128]) {
    char path[200];
    path_of(file, path);
    assert_int_equal(chmod(path, 0640), 0);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    size_t at = a_place(file->len);
    uint64_t way = below(10);
    if (way == 0) {
        assert_int_equal(ftruncate(fd, (off_t)at), 0);
        (void)snprintf(what, 128, "%s truncated to %zu of %zu bytes", file->name, at, file->len);
    } else if (way == 1) {
        static const uint8_t zeros[4096];
        size_t page = at & ~(size_t)4095;
        assert_int_equal(pwrite(fd, zeros, sizeof(zeros), (off_t)page), (ssize_t)sizeof(zeros));
        (void)snprintf(what, 128, "%s: page at %zu zeroed", file->name, page);
    } else {
        uint8_t byte = (uint8_t)(file->bytes[at] ^ (way < 9 ? 1u << below(8) : 1 + below(255)));
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        (void)snprintf(what, 128, "%s: byte %zu is %02x, was %02x", file->name, at, byte, file->bytes[at]);
    }
    assert_int_equal(fchmod(fd, file->mode), 0);
    close(fd);
}

/* ---- in children ---- */

typedef int (*look_fn)(ss_log_kind kind, ss_error *err);

static int in_child(look_fn look, ss_log_kind kind) {
    int fds[2], status;
    assert_int_equal(pipe(fds), 0);
    (void)fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        ss_error err = {0};
        (void)!freopen("/dev/null", "w", stderr); /* LMDB's own assertion */
        (void)alarm(HANG_SECONDS);
        int answer = look(kind, &err);
        (void)!write(fds[1], err.text, strlen(err.text));
        _exit(answer);
    }
    close(fds[1]);
    size_t len = 0;
    for (ssize_t n; len < sizeof(said) - 1 && (n = read(fds[0], said + len, sizeof(said) - 1 - len)) > 0;)
        len += (size_t)n;
    said[len] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        (void)snprintf(said, sizeof(said), "signal %d", WTERMSIG(status));
        return WTERMSIG(status) == SIGALRM ? WRONG : DIED;
    }
    return WEXITSTATUS(status);
}

static uint64_t records_of(ss_log_kind kind) {
    return kind == SS_LOG_COPY ? COPY_RECORDS : STREAM_RECORDS;
}

/* What a log holds, from its first record to `upto`. */
static int read_all(ss_log_kind kind, uint64_t upto, ss_error *err) {
    ss_reader *reader = NULL;
    uint64_t expected = 1, sequence = 0;
    ss_bytes record;
    ss_buf wanted, schema;
    Sidespool__Schema *decoded;
    ss_arena *arena = ss_arena_new(1 << 20);
    ss_buf_init(&wanted);
    ss_buf_init(&schema);
    ss_status status = ss_reader_open(t.path, "s", kind, 1, &reader, err);
    while (status == SS_OK && (status = ss_reader_next(reader, &record, &sequence, err)) == SS_OK) {
        uint64_t id = a_schema(expected, &schema);
        if (sequence != expected || !ss_bytes_eq(record, a_record(kind, expected, id, &wanted))) {
            (void)snprintf(err->text, sizeof(err->text), "record %" PRIu64 " is not what was written", expected);
            return WRONG;
        }
        ss_bytes packed;
        ss_arena_reset(arena);
        status = ss_reader_schema(reader, id, &packed, err);
        if (status == SS_OK)
            status = ss_schema_get(packed, arena, t.dir, &decoded, err);
        if (status != SS_OK)
            return REFUSED;
        if (!ss_bytes_eq(packed, ss_bytes_of(schema.ptr, schema.len)))
            return WRONG;
        expected++;
    }
    if (status != SS_BUSY)
        return REFUSED;
    if (expected == upto + 1)
        return WHOLE;
    (void)snprintf(err->text, sizeof(err->text), "ends behind record %" PRIu64, expected - 1);
    return expected <= upto && (expected - 1) % COMMIT_EVERY == 0 ? OLDER : WRONG;
}

static int look_reader(ss_log_kind kind, ss_error *err) {
    return read_all(kind, records_of(kind), err);
}

static int look_writer(ss_log_kind kind, ss_error *err) {
    ss_spool *spool;
    ss_log *log;
    char position[32];
    if (ss_spool_open(t.path, "s", &t.options, &spool, err) != SS_OK || ss_log_open(spool, kind, &log, err) != SS_OK)
        return REFUSED;
    const ss_log_state *state = ss_log_get_state(log);
    uint64_t committed = state->committed;
    if (strcmp(state->position, position_of(committed, position)) != 0 || committed % COMMIT_EVERY != 0 ||
        committed > records_of(kind) || (committed > 0 && strcmp(state->identity, "the source") != 0)) {
        (void)snprintf(err->text, sizeof(err->text), "committed %" PRIu64 ", position '%s', identity '%s'", committed,
                       state->position, state->identity);
        return WRONG;
    }
    for (uint64_t n = committed + 1; n <= committed + COMMIT_EVERY; n++)
        if (!append(log, kind, n, err))
            return REFUSED;
    ss_log_mark_whole(log, ss_bytes_str(position_of(committed + COMMIT_EVERY, position)));
    if (ss_log_flush(log, true, NULL, err) != SS_OK)
        return REFUSED;
    /* What is acknowledged can be read, unless a reader meets the damage before it. */
    int read = read_all(kind, committed + COMMIT_EVERY, err);
    return read == WHOLE && committed < records_of(kind) ? OLDER : read == OLDER ? WRONG : read;
}

static int look_verify(ss_log_kind kind, ss_error *err) {
    (void)kind;
    (void)err;
    char *argv[] = {(char *)(uintptr_t) "verify", (char *)(uintptr_t) "--json", (char *)(uintptr_t) "--spool", t.path, NULL};
    (void)!freopen("/dev/null", "w", stdout);
    int code = ss_spool_command(4, argv);
    return code == SS_EXIT_DONE ? WHOLE : code == SS_EXIT_NOT_SO ? REFUSED : WRONG;
}

/* ---- a case ---- */

static bool names(const kept_file *file) {
    return strstr(said, file->name) != NULL;
}

/* cursors.mdb is no part of a log: nobody here reads it. */
static bool a_case(uint64_t number) {
    char what[128];
    const kept_file *file = &files[below(file_count)];
    ss_log_kind kind = strncmp(file->name, "copy", 4) == 0 ? SS_LOG_COPY : SS_LOG_STREAM;
    put_files_back();
    damage(file, what);
    int read = in_child(look_reader, kind);
    bool good = read != WRONG && (read != REFUSED || names(file));
    if (!good)
        printf("case %" PRIu64 ": %s: reader %s: %s\n", number, what, answer_names[read], said);
    int verified = in_child(look_verify, kind);
    bool told = verified == REFUSED || (verified == WHOLE && (read == WHOLE || read == OLDER));
    if (!told)
        printf("case %" PRIu64 ": %s: verify says %s, a reader %s\n", number, what, answer_names[verified], answer_names[read]);
    int written = in_child(look_writer, kind);
    bool kept = written != WRONG && (written != REFUSED || names(file));
    if (!kept)
        printf("case %" PRIu64 ": %s: writer %s: %s\n", number, what, answer_names[written], said);
    counts[0][read]++;
    counts[1][written]++;
    counts[2][verified]++;
    return good && told && kept;
}

static uint64_t wanted(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    static const struct option words[] = {
        {"seed", required_argument, NULL, 's'}, {"cases", required_argument, NULL, 'n'}, {NULL, 0, NULL, 0}};
    uint64_t seed = wanted("SIDESPOOL_SEED", (uint64_t)ss_wall_ms()), cases = wanted("SIDESPOOL_CASES", 200), bad = 0;
    int option;
    while ((option = getopt_long(argc, argv, "", words, NULL)) != -1) {
        if (option != 's' && option != 'n')
            return 2;
        *(option == 's' ? &seed : &cases) = strtoull(optarg, NULL, 10);
    }
    printf("spool_damage: --seed %" PRIu64 " --cases %" PRIu64 "\n", seed, cases);
    rng = seed;
    t = test_spool_begin(&(ss_spool_options){.segment_size = 1 << 20, .frame_bytes = 16 << 10});
    ss_log_close(t.log);
    t.log = NULL;
    write_log(SS_LOG_STREAM, STREAM_RECORDS);
    write_log(SS_LOG_COPY, COPY_RECORDS);
    ss_spool_close(t.spool);
    keep_files();
    assert_true(file_count >= 4);
    for (uint64_t n = 1; n <= cases; n++)
        bad += !a_case(n);
    static const char *const who[] = {"readers", "writers", "verify"};
    for (int i = 0; i < 3; i++)
        for (int answer = 0; answer < ANSWERS; answer++)
            if (counts[i][answer] > 0)
                printf("%s: %" PRIu64 " %s\n", who[i], counts[i][answer], answer_names[answer]);
    printf("spool_damage: %s: %zu files, %" PRIu64 " cases, %" PRIu64 " bad\n", bad == 0 ? "good" : "BAD", file_count, cases, bad);
    remove_dir(t.dir);
    remove_dir(t.path);
    for (size_t i = 0; i < file_count; i++)
        free(files[i].bytes);
    /* Damage that is never refused would mean that nothing was tested. */
    return bad == 0 && counts[0][REFUSED] * 10 > cases ? 0 : 1;
}
