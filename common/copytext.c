/* COPY text <-> cells; see include/sidespool/copytext.h. Bytes only: no connection, no allocation
 * of its own. Used by the agent's copy readers, the target's loader and by verify on both sides. */
#include "sidespool/copytext.h"

#define VARINT_MAX 10

static void put_length(ss_buf *out, uint64_t value) {
    uint8_t bytes[VARINT_MAX];
    size_t n = 0;
    while (value >= 0x80) {
        bytes[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    bytes[n++] = (uint8_t)value;
    ss_buf_put(out, bytes, n);
}

/* What the server writes after a backslash. 0: not one of its escapes. */
static uint8_t unescaped(uint8_t c) {
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'v':
        return '\v';
    case '\\':
        return '\\';
    default:
        return 0;
    }
}

static bool put_field(const uint8_t *at, const uint8_t *end, ss_buf *out) {
    size_t len = (size_t)(end - at);
    if (len == 2 && at[0] == '\\' && at[1] == 'N') {
        ss_buf_put_byte(out, 0);
        return true;
    }
    const uint8_t *slash = len > 0 ? memchr(at, '\\', len) : NULL;
    if (slash == NULL) {
        put_length(out, (uint64_t)len + 1);
        ss_buf_put(out, at, len);
        return true;
    }
    uint64_t escapes = 0;
    for (const uint8_t *p = slash; p != NULL;) {
        if (end - p < 2 || unescaped(p[1]) == 0)
            return false;
        escapes++;
        p += 2;
        p = p < end ? memchr(p, '\\', (size_t)(end - p)) : NULL;
    }
    put_length(out, (uint64_t)len - escapes + 1);
    uint8_t *to = ss_buf_reserve(out, len);
    if (to == NULL)
        return true; /* out->bad says so */
    const uint8_t *from = at;
    while (slash != NULL) {
        size_t run = (size_t)(slash - from);
        if (run > 0)
            memcpy(to, from, run);
        to += run;
        *to++ = unescaped(slash[1]);
        from = slash + 2;
        slash = from < end ? memchr(from, '\\', (size_t)(end - from)) : NULL;
    }
    if (end > from)
        memcpy(to, from, (size_t)(end - from));
    out->len += len - (size_t)escapes;
    return true;
}

bool ss_copytext_row_to_cells(ss_bytes line, uint32_t columns, ss_buf *out) {
    const uint8_t *at = line.ptr, *end = line.ptr + line.len;
    size_t before = out->len;
    if (line.len > 0 && end[-1] == '\n')
        end--;
    if (columns == 0)
        return at == end;
    for (uint32_t column = 0; column < columns; column++) {
        const uint8_t *tab = at < end ? memchr(at, '\t', (size_t)(end - at)) : NULL;
        bool last = column + 1 == columns;
        if (last != (tab == NULL) || !put_field(at, last ? end : tab, out)) {
            out->len = before;
            return false;
        }
        at = last ? end : tab + 1;
    }
    return true;
}

void ss_copytext_escape(ss_buf *out, const void *ptr, size_t len) {
    const uint8_t *at = ptr, *end = at + len, *run = at;
    /* Every byte could need its backslash; asking for the worst case at once keeps the loop free of
     * checks. */
    if (len > SIZE_MAX / 2) {
        out->bad = true;
        return;
    }
    uint8_t *start = len > 0 ? ss_buf_reserve(out, 2 * len) : NULL;
    if (start == NULL)
        return;
    uint8_t *to = start;
    for (; at < end; at++) {
        uint8_t c = *at;
        if (c > '\r' && c != '\\') /* the common case first */
            continue;
        if (c != '\\' && c != '\t' && c != '\n' && c != '\r')
            continue;
        memcpy(to, run, (size_t)(at - run));
        to += at - run;
        *to++ = '\\';
        *to++ = c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : '\\';
        run = at + 1;
    }
    memcpy(to, run, (size_t)(end - run));
    to += end - run;
    out->len += (size_t)(to - start);
}

void ss_copytext_writer_init(ss_copytext_writer *writer, uint32_t columns) {
    *writer = (ss_copytext_writer){.columns = columns};
}

static void end_cell(ss_copytext_writer *writer, ss_buf *out) {
    writer->in_cell = false;
    writer->column++;
    if (writer->column < writer->columns) {
        ss_buf_put_byte(out, '\t');
        return;
    }
    ss_buf_put_byte(out, '\n');
    writer->column = 0;
    writer->rows++;
}

/* Takes one byte of a cell's length; true when the length is complete. */
static bool take_length(ss_copytext_writer *writer, uint8_t byte) {
    if (writer->shift > 63 || (writer->shift == 63 && (byte & 0x7e) != 0)) {
        writer->bad = true;
        return false;
    }
    writer->length |= (uint64_t)(byte & 0x7f) << writer->shift;
    if ((byte & 0x80) != 0) {
        writer->shift += 7;
        return false;
    }
    writer->shift = 0;
    return true;
}

bool ss_copytext_writer_put(ss_copytext_writer *writer, ss_bytes cells, uint32_t rows,
                            ss_buf *out) {
    const uint8_t *at = cells.ptr, *end = at + cells.len;
    if (writer->columns == 0) {
        writer->bad |= cells.len > 0;
        for (uint32_t i = 0; i < rows && !writer->bad; i++)
            ss_buf_put_byte(out, '\n');
        writer->rows += writer->bad ? 0 : rows;
        return !writer->bad;
    }
    while (at < end && !writer->bad) {
        if (writer->in_cell) {
            uint64_t have = (uint64_t)(end - at);
            size_t take = (size_t)(have < writer->left ? have : writer->left);
            ss_copytext_escape(out, at, take);
            at += take;
            writer->left -= take;
            if (writer->left == 0)
                end_cell(writer, out);
            continue;
        }
        if (!take_length(writer, *at++))
            continue;
        uint64_t length = writer->length;
        writer->length = 0;
        writer->in_cell = true;
        writer->left = length == 0 ? 0 : length - 1;
        if (length == 0)
            ss_buf_put(out, "\\N", 2);
        if (writer->left == 0)
            end_cell(writer, out);
    }
    return !writer->bad;
}
