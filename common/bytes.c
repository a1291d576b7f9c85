/* The growable buffer. Every put checks `bad` first, so that a writer checks once at its end. */
#include "sidespool/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void ss_buf_init(ss_buf *buf) {
    *buf = (ss_buf){0};
}

void ss_buf_done(ss_buf *buf) {
    if (buf == NULL)
        return;
    free(buf->ptr);
    *buf = (ss_buf){0};
}

void ss_buf_clear(ss_buf *buf) {
    buf->len = 0;
    buf->bad = false;
}

uint8_t *ss_buf_reserve(ss_buf *buf, size_t more) {
    if (buf->bad)
        return NULL;
    if (more <= buf->cap - buf->len && buf->ptr != NULL)
        return buf->ptr + buf->len;
    if (more > SIZE_MAX / 2 - buf->len) {
        buf->bad = true;
        return NULL;
    }
    size_t need = buf->len + more;
    size_t cap = buf->cap < 128 ? 256 : buf->cap * 2;
    if (cap < need)
        cap = need;
    uint8_t *grown = realloc(buf->ptr, cap);
    if (grown == NULL) {
        buf->bad = true;
        return NULL;
    }
    buf->ptr = grown;
    buf->cap = cap;
    return buf->ptr + buf->len;
}

void ss_buf_put(ss_buf *buf, const void *ptr, size_t len) {
    if (len == 0)
        return;
    uint8_t *to = ss_buf_reserve(buf, len);
    if (to == NULL)
        return;
    memcpy(to, ptr, len);
    buf->len += len;
}

void ss_buf_put_byte(ss_buf *buf, uint8_t byte) {
    uint8_t *to = ss_buf_reserve(buf, 1);
    if (to == NULL)
        return;
    *to = byte;
    buf->len++;
}

void ss_buf_put_str(ss_buf *buf, const char *s) {
    ss_buf_put(buf, s, strlen(s));
}

void ss_buf_printf(ss_buf *buf, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    uint8_t *to = ss_buf_reserve(buf, 128);
    if (to == NULL)
        goto out;
    int len = vsnprintf((char *)to, buf->cap - buf->len, fmt, args);
    if (len < 0) {
        buf->bad = true;
        goto out;
    }
    if ((size_t)len >= buf->cap - buf->len) {
        to = ss_buf_reserve(buf, (size_t)len + 1);
        if (to == NULL)
            goto out;
        vsnprintf((char *)to, (size_t)len + 1, fmt, again);
    }
    buf->len += (size_t)len;
out:
    va_end(again);
    va_end(args);
}

const char *ss_buf_cstr(ss_buf *buf) {
    uint8_t *end = ss_buf_reserve(buf, 1);
    if (end == NULL)
        return "";
    *end = '\0';
    return (const char *)buf->ptr;
}
