/* A borrowed view of bytes. Whoever hands one out says until when it lives. Not NUL-terminated. */
#ifndef SIDESPOOL_BYTES_H
#define SIDESPOOL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *ptr;
    size_t len;
} ss_bytes;

#define SS_BYTES_NONE ((ss_bytes){NULL, 0})

static inline ss_bytes ss_bytes_of(const void *ptr, size_t len) {
    return (ss_bytes){(const uint8_t *)ptr, len};
}
static inline ss_bytes ss_bytes_str(const char *s) {
    return (ss_bytes){(const uint8_t *)s, strlen(s)};
}
static inline bool ss_bytes_eq(ss_bytes a, ss_bytes b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* A growable buffer on the heap. A failed growth sets `bad`, later puts do nothing: check once at the end. */
typedef struct {
    uint8_t *ptr;
    size_t len, cap;
    bool bad;
} ss_buf;

void ss_buf_init(ss_buf *buf);
void ss_buf_done(ss_buf *buf);
void ss_buf_clear(ss_buf *buf); /* keeps the memory */
uint8_t *ss_buf_reserve(ss_buf *buf, size_t more); /* room for `more` bytes past len; NULL and bad when refused */
void ss_buf_put(ss_buf *buf, const void *ptr, size_t len);
void ss_buf_put_byte(ss_buf *buf, uint8_t byte);
void ss_buf_put_str(ss_buf *buf, const char *s);
void ss_buf_printf(ss_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *ss_buf_cstr(ss_buf *buf); /* NUL-terminated, lives until the next put; "" when bad */

#endif
