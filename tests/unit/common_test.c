/* needs: common */
/* Errors, buffers, arenas, log lines, backoff, name patterns, daemon settings. */
#include "sidespool/arena.h"
#include "sidespool/backoff.h"
#include "sidespool/daemon.h"
#include "sidespool/log.h"
#include "sidespool/option.h"
#include "unit/temp_testing.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- errors
 * ----------------------------------------------------------------------------------------------------
 */

static void catalogue_is_whole(void **state) {
    size_t count = 0;
    const ss_error_entry *table = ss_error_table(&count);

    (void)state;
    assert_true(count > 20);
    for (size_t i = 0; i < count; i++) {
        char area[16];
        char digits[8];
        int used = 0;
        assert_int_equal(sscanf(table[i].code, "SS-%15[A-Z]-%4[0-9]%n", area, digits, &used), 2);
        assert_int_equal((size_t)used, strlen(table[i].code));
        assert_int_equal(strlen(digits), 4);
        assert_true(strlen(table[i].meaning) > 10);
        assert_true(strlen(table[i].cure) > 10);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(table[i].code, table[k].code);
        assert_ptr_equal(ss_error_find(table[i].code), &table[i]);
    }
    assert_null(ss_error_find("SS-NONE-0001"));
    assert_null(ss_error_find(NULL));
}

static void error_fills_and_returns(void **state) {
    ss_error err = {0};

    (void)state;
    assert_int_equal(ss_fail(NULL, SS_RETRY, "SS-SYS-0001", "nobody %s", "listens"), SS_RETRY);
    assert_int_equal(ss_fail(&err, SS_STOP, "SS-SYS-0001", "file %s", "x"), SS_STOP);
    assert_string_equal(err.text, "file x");
    assert_string_equal(err.code, "SS-SYS-0001");
    assert_string_equal(err.where, "error_fills_and_returns");
    assert_int_equal(err.sys_errno, 0);
    assert_int_equal(
        ss_fail_sys(&err, SS_STOP, "SS-SYS-0002", ENOSPC, "file %s cannot be written", "y"),
        SS_STOP);
    assert_string_equal(err.text, "file y cannot be written: No space left on device");
    assert_int_equal(err.sys_errno, ENOSPC);
    /* The old text as an argument of the new one. */
    assert_int_equal(ss_fail(&err, SS_STOP, err.code, "again: %s", err.text), SS_STOP);
    assert_string_equal(err.text, "again: file y cannot be written: No space left on device");
    ss_error_prefix(&err, "route %d", 7);
    assert_string_equal(err.text,
                        "route 7: again: file y cannot be written: No space left on device");
    ss_error_prefix(NULL, "nobody");
}

static void error_is_cut_between_characters(void **state) {
    char longer[3 * SS_ERROR_TEXT];
    ss_error err;

    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        size_t len = shift;
        memset(longer, 'a', shift);
        for (; len + 8 < sizeof longer; len += 7)
            memcpy(longer + len, "€😀", 7);
        longer[len] = '\0';
        assert_int_equal(ss_fail(&err, SS_STOP, NULL, "%s", longer), SS_STOP);
        size_t got = strlen(err.text);
        assert_in_range(got, SS_ERROR_TEXT - 5, SS_ERROR_TEXT - 1);
        assert_memory_equal(err.text, longer, got);
        assert_int_equal((got - shift) % 7 == 0 || (got - shift) % 7 == 3, 1);
        ss_error_prefix(&err, "here");
        got = strlen(err.text) - 6;
        assert_int_equal((got - shift) % 7 == 0 || (got - shift) % 7 == 3, 1);
    }
}

/* Names come from databases in any encoding, and %.Ns cuts without looking. */
static void error_is_fit_for_json_and_terminals(void **state) {
    ss_error err;

    (void)state;
    assert_int_equal(ss_fail(&err, SS_STOP, NULL, "table \xE4\xF6\xFF of %.1s: é \x1B[1m\n\x7F\xC2\x85.", "é"),
                     SS_STOP);
    assert_string_equal(err.text, "table ??? of ?: é ?[1m????.");
    assert_int_equal(ss_fail(&err, SS_STOP, NULL, "ends torn: \xE2\x82"), SS_STOP);
    assert_string_equal(err.text, "ends torn: ");
    ss_error_prefix(&err, "\xFFmpty");
    assert_string_equal(err.text, "?mpty: ends torn: ");
}

/* ---- buffers and arenas
 * ---------------------------------------------------------------------------------------- */

static void buffer_grows(void **state) {
    ss_buf buf;

    (void)state;
    ss_buf_init(&buf);
    assert_string_equal(ss_buf_cstr(&buf), "");
    for (int i = 0; i < 1000; i++)
        ss_buf_printf(&buf, "%d,", i);
    assert_false(buf.bad);
    assert_int_equal(buf.len, 3890);
    assert_string_equal(ss_buf_cstr(&buf) + buf.len - 8, "998,999,");
    ss_buf_clear(&buf);
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ss_buf_printf(&buf, "%s", longer);
    assert_string_equal(ss_buf_cstr(&buf), longer);
    ss_buf_put(&buf, NULL, 0);
    assert_int_equal(buf.len, sizeof longer - 1);
    ss_buf_done(&buf);
    ss_buf_done(&buf);
    ss_buf_done(NULL);
}

static void buffer_refuses_what_cannot_be(void **state) {
    ss_buf buf;

    (void)state;
    ss_buf_init(&buf);
    ss_buf_put_str(&buf, "kept");
    assert_null(ss_buf_reserve(&buf, SIZE_MAX));
    assert_true(buf.bad);
    ss_buf_put_str(&buf, "dropped");
    ss_buf_put_byte(&buf, 'd');
    ss_buf_printf(&buf, "dropped");
    assert_int_equal(buf.len, 4);
    assert_string_equal(ss_buf_cstr(&buf), "");
    ss_buf_clear(&buf);
    ss_buf_put_byte(&buf, 'n');
    assert_string_equal(ss_buf_cstr(&buf), "n");
    ss_buf_done(&buf);
}

static void arena_aligns_and_reuses(void **state) {
    ss_arena *arena = ss_arena_new(0);

    (void)state;
    for (int round = 0; round < 3; round++) {
        unsigned char *last = NULL;
        for (size_t len = 0; len < 5000; len += 7) {
            unsigned char *got = ss_arena_alloc(arena, len);
            assert_non_null(got);
            assert_int_equal((uintptr_t)got % 16, 0);
            memset(got, 0xAB, len);
            assert_ptr_not_equal(got, last);
            last = got;
        }
        unsigned char *large = ss_arena_zalloc(arena, 5u << 20);
        assert_non_null(large);
        assert_int_equal(large[0] | large[(5u << 20) - 1], 0);
        assert_string_equal(ss_arena_strndup(arena, "abcdef", 3), "abc");
        assert_string_equal(ss_arena_printf(arena, "%d-%s", 7, "x"), "7-x");
        assert_true(ss_arena_used(arena) > 5u << 20);
        ss_arena_reset(arena);
        assert_int_equal(ss_arena_used(arena), 0);
    }
    ss_arena_free(arena);
    ss_arena_free(NULL);
}

static void arena_keeps_its_limit(void **state) {
    ss_arena *arena = ss_arena_new(1000);
    size_t got = 0;

    (void)state;
    while (ss_arena_alloc(arena, 100) != NULL)
        got++;
    assert_int_equal(got, 8); /* 112 each */
    assert_true(ss_arena_refused(arena));
    assert_non_null(ss_arena_alloc(arena, 96)); /* what fits is still given */
    assert_null(ss_arena_alloc(arena, SIZE_MAX));
    assert_null(ss_arena_zalloc(arena, SIZE_MAX - 8));
    assert_null(ss_arena_strndup(arena, "x", SIZE_MAX));
    assert_true(ss_arena_used(arena) <= 1000);
    ss_arena_reset(arena);
    assert_false(ss_arena_refused(arena));
    assert_non_null(ss_arena_alloc(arena, 1000 - 16));
    assert_null(ss_arena_alloc(arena, 16));
    ss_arena_free(arena);
}

/* ---- log
 * -------------------------------------------------------------------------------------------------------
 */

/* What `write_it` puts on stderr. */
static char *logged(void (*write_it)(void)) {
    static char text[65536];
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);

    assert_non_null(file);
    dup2(fileno(file), STDERR_FILENO);
    write_it();
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    size_t len = fread(text, 1, sizeof text - 1, file);
    text[len] = '\0';
    fclose(file);
    return text;
}

static void log_hostile(void) {
    SS_LOG(SS_INFO, "tried", SS_S("plain", "0/16B3748"), SS_S("empty", ""), SS_S("none", NULL),
           SS_S("space", "a b"), SS_S("quote", "a\"b\\c"),
           SS_S("line", "x\nlevel=error event=forged\r\t"), SS_S("utf8", "größe €"),
           SS_S("control", "\x01\x1b[31m\x7f"), SS_S("broken", "a\xff\xc3(\xe2\x82"),
           SS_S("c1", "\xc2\x9b"), SS_S("equals", "a=b"), SS_I("minus", -5),
           SS_U("most", UINT64_MAX), SS_F("rate", 1.5));
}

static void log_escapes(void **state) {
    (void)state;
    char *text = logged(log_hostile);
    int millis = 0;
    int used = 0;

    assert_int_equal(sscanf(text, "time=%*4d-%*2d-%*2dT%*2d:%*2d:%*2d.%3dZ%n", &millis, &used), 1);
    assert_int_equal(used, 29);
    assert_string_equal(
        text + used,
        " level=info event=tried plain=0/16B3748 empty=\"\" none=\"\" space=\"a b\" "
        "quote=\"a\\\"b\\\\c\""
        " line=\"x\\nlevel=error event=forged\\r\\t\" utf8=\"größe €\""
        " control=\"\\x01\\x1b[31m\\x7f\" broken=\"a\\xff\\xc3(\\xe2\\x82\" c1=\"\\xc2\\x9b\""
        " equals=\"a=b\" minus=-5 most=18446744073709551615 rate=1.500\n");
}

static char *long_value;
static void log_long(void) {
    SS_LOG(SS_WARN, "long", SS_S("value", long_value), SS_S("next", "never"));
}

static void log_line_is_bounded(void **state) {
    (void)state;
    long_value = malloc(20001);
    memset(long_value, ' ', 20000);
    long_value[20000] = '\0';
    char *text = logged(log_long);
    size_t len = strlen(text);
    assert_in_range(len, 8000, 8192);
    assert_non_null(strstr(text, " …\" cut=true\n"));
    assert_ptr_equal(strchr(text, '\n'), text + len - 1);
    memset(long_value, 'x', 20000); /* needs no quotes: left out whole */
    text = logged(log_long);
    assert_non_null(strstr(text, "value= cut=true\n"));
    free(long_value);
}

static void log_levels(void) {
    SS_LOG(SS_DEBUG, "hidden", SS_I("n", 1));
    ss_log_threshold(SS_ERROR);
    SS_LOG(SS_WARN, "hidden", SS_I("n", 2));
    ss_error err = {0};
    if (ss_fail_sys(&err, SS_STOP, "SS-SYS-0001", EIO, "it broke") == SS_STOP)
        ss_log_error(SS_ERROR, "broken", &err);
    ss_log_threshold(SS_DEBUG);
    if (err.code)
        ss_log_error(SS_ERROR, "broken", &err);
    ss_log_common((const ss_kv[]){SS_S("source", "my orders")}, 1);
    SS_LOG(SS_DEBUG, "shown", SS_S("source", "said already"), SS_I("n", 3));
    ss_log_common(NULL, 0);
    ss_log_threshold(SS_INFO);
}

static void log_knows_levels_and_errors(void **state) {
    (void)state;
    char *text = logged(log_levels);
    assert_null(strstr(text, "hidden"));
    assert_non_null(strstr(
        text,
        "level=error event=broken code=SS-SYS-0001 error=\"it broke: Input/output error\" errno=5\n"));
    assert_non_null(strstr(text, "errno=5 where=log_levels\n"));
    assert_non_null(strstr(text, "level=debug event=shown source=\"my orders\" n=3\n"));
}

/* ---- backoff, patterns, daemon
 * --------------------------------------------------------------------------------- */

static void backoff_stays_in_bounds(void **state) {
    ss_backoff a, b;
    uint64_t ceiling = 200;

    (void)state;
    ss_backoff_init(&a, 100, 30000, 42);
    ss_backoff_init(&b, 100, 30000, 42);
    uint64_t most = 0;
    for (int i = 0; i < 2000; i++) {
        uint64_t got = ss_backoff_next(&a);
        assert_int_equal(got, ss_backoff_next(&b));
        assert_in_range(got, 100, ceiling);
        most = got > most ? got : most;
        ceiling = ceiling * 2 > 30000 ? 30000 : ceiling * 2;
    }
    assert_true(most > 29000); /* full jitter reaches the upper end, */
    ss_backoff_reset(&a);
    assert_in_range(ss_backoff_next(&a), 100, 200);
    ss_backoff_init(&a, 0, 0, 0); /* and odd bounds are made sense of */
    assert_int_equal(ss_backoff_next(&a), 1);
    ss_backoff_init(&a, 1, UINT64_MAX, 7);
    for (int i = 0; i < 100; i++)
        assert_true(ss_backoff_next(&a) >= 1);
    ss_backoff_init(&a, 1, 1000000, 0);
    ss_backoff_init(&b, 1, 1000000, 0);
    assert_true(a.prng != b.prng);
}

static void patterns_match(void **state) {
    static const struct {
        const char *pattern, *name;
        bool want;
    } cases[] = {{"public.*", "public.users", true},
                 {"public.*", "public.", true},
                 {"public.*", "publik.users", false},
                 {"*", "", true},
                 {"*", "a.b", true},
                 {"*.users", "x.users", true},
                 {"*.users", "x.users2", false},
                 {"a*b*c", "aXbYbZc", true},
                 {"a*b*c", "aXbYbZ", false},
                 {"public.users", "public.users", true},
                 {"public.users", "public.Users", false},
                 {"public.?", "public.x", false},
                 {"", "", true},
                 {"", "a", false},
                 {"**a**", "bab", true},
                 {"[a]", "a", false},
                 {"*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(ss_pattern_match(cases[i].pattern, cases[i].name), cases[i].want);
}

typedef struct {
    struct event_base *base;
    int stops;
} stopped;

static void on_stop(void *ctx, int signal_number) {
    stopped *s = ctx;
    s->stops += signal_number == SIGTERM;
    event_base_loopbreak(s->base);
}

/* In a child: these settings cannot be taken back. */
static int daemon_child(void) {
    ss_error err = {0};
    struct rlimit limit;
    ss_daemon *daemon = NULL;

    if (ss_daemon_process(&err) != SS_OK || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
        return 1;
    if (getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_cur != 0 || umask(0) != 0007)
        return 2;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur != limit.rlim_max ||
        raise(SIGPIPE) != 0)
        return 3;
    stopped s = {event_base_new(), 0};
    if (s.base == NULL || ss_daemon_new(s.base, on_stop, NULL, &s, &daemon, &err) != SS_OK)
        return 4;
    ss_daemon_ready(daemon);
    ss_daemon_status(daemon, "line\n%s", "break");
    if (raise(SIGHUP) != 0 || raise(SIGTERM) != 0 || event_base_dispatch(s.base) < 0 ||
        s.stops != 1)
        return 5;
    ss_daemon_stopping(daemon);
    ss_daemon_free(daemon);
    ss_daemon_free(NULL);
    event_base_free(s.base);
    return 0;
}

static void daemon_sets_up_the_process(void **state) {
    int status = 0;

    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        _exit(daemon_child());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int feeds;

static bool alive_at_first(void *ctx) {
    event_base_loopbreak(ctx);
    return ++feeds == 1;
}

static void no_stop(void *ctx, int signal_number) {
    (void)ctx;
    (void)signal_number;
}

/* The next datagram that systemd would get; "" when none comes at once. */
static const char *told(int fd) {
    static char text[256];
    ssize_t len = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[len < 0 ? 0 : len] = '\0';
    return text;
}

static void watchdog_is_fed_only_when_alive(void **state) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    ss_daemon *daemon = NULL;
    ss_error err = {0};
    char pid[24];

    (void)state;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    temp_name(addr.sun_path, sizeof addr.sun_path, "sidespool-notify");
    int name = mkstemp(addr.sun_path); /* of our own; bind wants it free */
    assert_true(name >= 0 && close(name) == 0 && unlink(addr.sun_path) == 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    snprintf(pid, sizeof pid, "%d", getpid());
    setenv("NOTIFY_SOCKET", addr.sun_path, 1);
    setenv("WATCHDOG_USEC", "20000", 1);
    setenv("WATCHDOG_PID", pid, 1);
    struct event_base *base = event_base_new();
    assert_non_null(base);
    assert_int_equal(ss_daemon_new(base, no_stop, alive_at_first, base, &daemon, &err), SS_OK);
    ss_daemon_ready(daemon);
    assert_string_equal(told(fd), "READY=1");
    ss_daemon_status(daemon, "streaming\nSTOPPING=1 %d", 7);
    assert_string_equal(told(fd), "STATUS=streaming STOPPING=1 7");
    assert_int_equal(event_base_dispatch(base), 0);
    assert_string_equal(told(fd), "WATCHDOG=1");
    assert_int_equal(event_base_dispatch(base), 0);
    assert_int_equal(feeds, 2);
    assert_string_equal(told(fd), ""); /* work stands still: systemd is left to act */
    ss_daemon_stopping(daemon);
    assert_string_equal(told(fd), "STOPPING=1");
    ss_daemon_free(daemon);
    event_base_free(base);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    unlink(addr.sun_path);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(catalogue_is_whole),
        cmocka_unit_test(error_fills_and_returns),
        cmocka_unit_test(error_is_cut_between_characters),
        cmocka_unit_test(error_is_fit_for_json_and_terminals),
        cmocka_unit_test(buffer_grows),
        cmocka_unit_test(buffer_refuses_what_cannot_be),
        cmocka_unit_test(arena_aligns_and_reuses),
        cmocka_unit_test(arena_keeps_its_limit),
        cmocka_unit_test(log_escapes),
        cmocka_unit_test(log_line_is_bounded),
        cmocka_unit_test(log_knows_levels_and_errors),
        cmocka_unit_test(backoff_stays_in_bounds),
        cmocka_unit_test(patterns_match),
        cmocka_unit_test(daemon_sets_up_the_process),
        cmocka_unit_test(watchdog_is_fed_only_when_alive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
