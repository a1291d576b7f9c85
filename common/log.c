/* The log: one write(2) a line on stderr, where systemd or a terminal takes it. Escaping stands
 * here alone.
 *
 * This file holds the process's only mutable globals outside the main programs: what every line
 * carries, and the threshold. Both are set before threads start; the threshold is atomic because
 * libraries read it from any thread. */
#include "sidespool/log.h"

#include "sidespool/text.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 8192 /* a line never grows beyond this; the value that does not fit is cut */
#define COMMON_BYTES 512
#define COMMON_KEYS 8

static char common_pairs[COMMON_BYTES];
static size_t common_len;
static const char *common_keys[COMMON_KEYS]; /* of those pairs; literals */
static size_t common_key_count;
static atomic_int threshold = -1; /* -1: not yet looked up */

typedef struct {
    char *ptr;
    size_t len, size; /* size leaves room for what ends a cut line */
    bool full, quoted;
} line;

static void put(line *l, const char *s, size_t len) {
    if (l->full || len > l->size - l->len) {
        l->full = true;
        return;
    }
    memcpy(l->ptr + l->len, s, len);
    l->len += len;
}

static void put_str(line *l, const char *s) {
    put(l, s, strlen(s));
}

/* As ss_utf8_len, but a C1 control, which moves terminals, is none. */
static size_t shown_len(const unsigned char *s, size_t left) {
    return s[0] == 0xC2 && left > 1 && s[1] < 0xA0 ? 0 : ss_utf8_len(s, left);
}

static bool is_bare(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("_.:/+-@%,*#~", c) != NULL);
}

static void put_value(line *l, const char *value) {
    const unsigned char *s = (const unsigned char *)value;
    bool bare = *s != '\0';

    for (const unsigned char *p = s; *p != '\0' && bare; p++)
        bare = is_bare(*p);
    if (bare) {
        put_str(l, value);
        return;
    }
    put(l, "\"", 1);
    l->quoted = !l->full;
    while (*s != '\0') {
        char hex[5];
        size_t n = shown_len(s, strnlen((const char *)s, 4));
        if (*s == '"' || *s == '\\') {
            put(l, (char[2]){'\\', (char)*s}, 2);
        } else if (*s == '\n') {
            put(l, "\\n", 2);
        } else if (*s == '\r') {
            put(l, "\\r", 2);
        } else if (*s == '\t') {
            put(l, "\\t", 2);
        } else if (*s < 0x20 || *s == 0x7F || n == 0) {
            n = 1;
            snprintf(hex, sizeof hex, "\\x%02x", *s);
            put(l, hex, 4);
        } else {
            put(l, (const char *)s, n);
        }
        s += n;
    }
    put(l, "\"", 1);
    l->quoted = l->quoted && l->full;
}

static void put_pair(line *l, const ss_kv *pair) {
    char number[64];

    put(l, " ", 1);
    put_str(l, pair->key);
    put(l, "=", 1);
    switch (pair->type) {
    case SS_KV_T_STR:
        put_value(l, pair->v.s == NULL ? "" : pair->v.s);
        return;
    case SS_KV_T_I64:
        snprintf(number, sizeof number, "%lld", (long long)pair->v.i);
        break;
    case SS_KV_T_U64:
        snprintf(number, sizeof number, "%llu", (unsigned long long)pair->v.u);
        break;
    case SS_KV_T_F:
        if (isfinite(pair->v.f) && fabs(pair->v.f) < 1e15)
            snprintf(number, sizeof number, "%.3f", pair->v.f);
        else
            snprintf(number, sizeof number, "%g", pair->v.f);
        break;
    default:
        snprintf(number, sizeof number, "?");
        break;
    }
    put_str(l, number);
}

static int least_level(void) {
    int least = atomic_load_explicit(&threshold, memory_order_relaxed);
    if (least >= 0)
        return least;
    const char *env = getenv("SIDESPOOL_LOG");
    least = env == NULL                     ? SS_INFO
            : strcasecmp(env, "debug") == 0 ? SS_DEBUG
            : strcasecmp(env, "warn") == 0  ? SS_WARN
            : strcasecmp(env, "error") == 0 ? SS_ERROR
                                            : SS_INFO;
    atomic_store_explicit(&threshold, least, memory_order_relaxed);
    return least;
}

static void write_line(const char *ptr, size_t len) {
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, ptr, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody is left to tell */
        ptr += n;
        len -= (size_t)n;
    }
}

/* What every line carries is not said twice. */
static bool is_common(const char *key) {
    size_t len = strlen(key);

    for (size_t i = 0; i < common_key_count; i++)
        if (strlen(common_keys[i]) == len && memcmp(common_keys[i], key, len) == 0)
            return true;
    return false;
}

void ss_log_write(ss_level level, const char *event, const ss_kv *pairs, size_t count) {
    static const char *const names[] = {"debug", "info", "warn", "error"};

    if ((int)level < least_level())
        return;
    int saved = errno;
    char text[LINE_BYTES];
    line l = {text, 0, sizeof text - 32, false, false};
    struct timespec now;
    struct tm utc;
    char stamp[48];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t len = strftime(stamp, sizeof stamp, "time=%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(stamp + len, sizeof stamp - len, ".%03dZ", (int)(now.tv_nsec / 1000000));
    put_str(&l, stamp);
    put_str(&l, " level=");
    put_str(&l, (size_t)level < 4 ? names[level] : "error");
    put_str(&l, " event=");
    put_str(&l, event);
    put(&l, common_pairs, common_len);
    for (size_t i = 0; i < count; i++)
        if (!is_common(pairs[i].key))
            put_pair(&l, &pairs[i]);
    if (l.full) {
        const char *end = l.quoted ? "…\" cut=true" : " cut=true";
        memcpy(text + l.len, end, strlen(end));
        l.len += strlen(end);
    }
    text[l.len++] = '\n';
    write_line(text, l.len);
    errno = saved;
}

void ss_log_common(const ss_kv *pairs, size_t count) {
    line l = {common_pairs, 0, sizeof common_pairs, false, false};
    common_key_count = 0;

    for (size_t i = 0; i < count; i++) {
        size_t before = l.len;
        put_pair(&l, &pairs[i]);
        if (l.full) {
            l.len = before; /* a pair is carried whole or not at all */
            break;
        }
        if (common_key_count < COMMON_KEYS)
            common_keys[common_key_count++] = pairs[i].key;
    }
    common_len = l.len;
}

void ss_log_threshold(ss_level least) {
    atomic_store_explicit(&threshold, (int)least, memory_order_relaxed);
}

void ss_log_error(ss_level level, const char *event, const ss_error *err) {
    ss_kv pairs[4];
    size_t count = 0;

    if (err->code != NULL)
        pairs[count++] = SS_S("code", err->code);
    pairs[count++] = SS_S("error", err->text);
    if (err->sys_errno != 0)
        pairs[count++] = SS_I("errno", err->sys_errno);
    /* The name of a function helps whoever looks for a fault in the program, nobody else. */
    if (err->where != NULL && least_level() == SS_DEBUG)
        pairs[count++] = SS_S("where", err->where);
    ss_log_write(level, event, pairs, count);
}
