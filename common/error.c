/* Errors: filling the caller's struct, and the catalogue that `sidespool explain` and
 * docs/errors.md print. */
#include "sidespool/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const ss_error_entry catalogue[] = {
#define X(code, meaning, cure) {code, meaning, cure},
#include "errors.def"
#undef X
};

/* vsnprintf cuts anywhere; a sentence ends up in JSON and in terminals, so take a torn last
 * character away. */
static void cut_torn_utf8(char *text) {
    size_t len = strlen(text);
    size_t back = 0;

    while (back < 3 && back < len && ((unsigned char)text[len - 1 - back] & 0xC0) == 0x80)
        back++;
    if (back == len)
        return;
    unsigned char lead = (unsigned char)text[len - 1 - back];
    size_t want = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    if (want > back)
        text[len - 1 - back] = '\0';
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
    cut_torn_utf8(text);
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
    cut_torn_utf8(text);
    size_t head = strlen(text);
    memcpy(text + head, ": ", 2);
    head += 2;
    size_t rest = strlen(err->text);
    if (rest > sizeof text - 1 - head)
        rest = sizeof text - 1 - head;
    memcpy(text + head, err->text, rest);
    text[head + rest] = '\0';
    cut_torn_utf8(text);
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
