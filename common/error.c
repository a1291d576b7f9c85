/* Errors: filling the caller's struct, and the catalogue that `sidespool explain` and
 * docs/errors.md print. */
#include "sidespool/error.h"

#include "sidespool/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const ss_error_entry catalogue[] = {
#define X(code, meaning, cure) {code, meaning, cure},
#include "errors.def"
#undef X
};

/* The beginning of a character whose rest vsnprintf had no room for. */
static bool is_torn(const uint8_t *s, size_t left) {
    size_t want = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < left; i++)
        if ((s[i] & 0xC0) != 0x80)
            return false;
    return want > left;
}

/* A sentence ends up in JSON and in terminals, so it is UTF-8 without control characters, whatever was put into it: names
 * of a database in SQL_ASCII, a name cut by its %.100s. What is not becomes a question mark; a torn end goes. */
static void make_fit(char *text) {
    uint8_t *s = (uint8_t *)text;

    for (size_t left = strlen(text); left > 0;) {
        size_t n = ss_utf8_len(s, left);
        if (n == 0 && is_torn(s, left)) {
            *s = '\0';
            return;
        }
        bool control = *s < 0x20 || *s == 0x7F || (*s == 0xC2 && n == 2 && s[1] < 0xA0);
        if (n == 0 || control) {
            n = n == 0 ? 1 : n;
            memset(s, '?', n);
        }
        s += n;
        left -= n;
    }
}

/* The arguments may point into the very struct that is being filled ("%s", err->text), hence the
 * way round. */
static void set_text(ss_error *err, int sys_errno, const char *fmt, va_list args) {
    char text[SS_ERROR_TEXT];
    char reason[128];
    int len = vsnprintf(text, sizeof text, fmt, args);

    if (len < 0)
        snprintf(text, sizeof text, "%s", fmt);
    if (sys_errno != 0 && len >= 0 && (size_t)len < sizeof text - 1)
        snprintf(text + len, sizeof text - (size_t)len, ": %s",
                 strerror_r(sys_errno, reason, sizeof reason));
    make_fit(text);
    memcpy(err->text, text, strlen(text) + 1);
}

ss_status ss_fail_at(ss_error *reterr, ss_status status, const char *code, const char *where,
                     int sys_errno, const char *fmt, ...) {
    if (reterr == NULL)
        return status;
    va_list args;
    va_start(args, fmt);
    set_text(reterr, sys_errno, fmt, args);
    va_end(args);
    reterr->code = code;
    reterr->where = where;
    reterr->sys_errno = sys_errno;
    return status;
}

void ss_error_prefix(ss_error *err, const char *fmt, ...) {
    if (err == NULL)
        return;
    char text[SS_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text - 2, fmt, args);
    va_end(args);
    if (n < 0)
        return;
    make_fit(text);
    size_t head = strlen(text);
    memcpy(text + head, ": ", 2);
    head += 2;
    size_t rest = strlen(err->text);
    if (rest > sizeof text - 1 - head)
        rest = sizeof text - 1 - head;
    memcpy(text + head, err->text, rest);
    text[head + rest] = '\0';
    make_fit(text);
    memcpy(err->text, text, head + rest + 1);
}

const ss_error_entry *ss_error_find(const char *code) {
    if (code == NULL)
        return NULL;
    for (size_t i = 0; i < sizeof catalogue / sizeof catalogue[0]; i++)
        if (strcmp(catalogue[i].code, code) == 0)
            return &catalogue[i];
    return NULL;
}

const ss_error_entry *ss_error_table(size_t *ret_count) {
    *ret_count = sizeof catalogue / sizeof catalogue[0];
    return catalogue;
}
