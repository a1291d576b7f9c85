/* needs: proto */
/* COPY text and the cells of CopyRows (common/copytext.c): rows as a server sends them, and cells as
 * the copy log holds them, cut anywhere.
 *
 * Held to: a row has the cells that were asked for or is refused untouched; cells, text and cells
 * again are the same; where a stream is cut does not matter. */
#include "sidespool/copytext.h"
#include "sidespool/record.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

/* The input: number of columns with the direction in its highest bit, where to cut, then row or cells. */
#define FROM_CELLS 0x80u

static bool same(const ss_buf *a, const ss_buf *b) {
    return ss_bytes_eq(ss_bytes_of(a->ptr, a->len), ss_bytes_of(b->ptr, b->len));
}

/* Cells as text, handed over in parts of `step` bytes. */
static bool to_text(ss_bytes cells, uint32_t columns, size_t step, ss_copytext_writer *writer,
                    ss_buf *out) {
    ss_copytext_writer_init(writer, columns);
    bool ok = true;
    for (size_t at = 0; at < cells.len && ok; at += step) {
        size_t len = cells.len - at < step ? cells.len - at : step;
        uint8_t *exact = fuzz_exact(ss_bytes_of(cells.ptr + at, len));
        ok = ss_copytext_writer_put(writer, ss_bytes_of(exact, len), 0, out);
        free(exact);
    }
    FUZZ_CHECK(!out->bad && ok == !writer->bad);
    return ok;
}

/* Each line of the text as cells again. */
static void check_lines(const ss_buf *text, uint32_t columns, uint64_t rows, ss_bytes cells) {
    ss_buf again;
    ss_bytes in, value;
    bool null, bad;
    size_t at = 0;
    ss_buf_init(&again);
    for (uint64_t row = 0; row < rows; row++) {
        const uint8_t *end = memchr(text->ptr + at, '\n', text->len - at);
        FUZZ_CHECK(end != NULL);
        size_t len = (size_t)(end - text->ptr) + 1 - at;
        FUZZ_CHECK(
            ss_copytext_row_to_cells(ss_bytes_of(text->ptr + at, len), columns, &again));
        at += len;
    }
    FUZZ_CHECK(at == text->len);
    in = ss_bytes_of(again.ptr, again.len);
    while (ss_cells_get(&in, &null, &value, &bad)) { /* lengths may be written longer than needed */
        ss_bytes value_before;
        bool null_before, bad_before;
        FUZZ_CHECK(ss_cells_get(&cells, &null_before, &value_before, &bad_before));
        FUZZ_CHECK(null == null_before && ss_bytes_eq(value, value_before));
    }
    FUZZ_CHECK(!bad && cells.len == 0);
    ss_buf_done(&again);
}

static void fuzz_cells(ss_bytes cells, uint32_t columns, size_t step) {
    ss_copytext_writer whole, parts;
    ss_buf text, text_of_parts;
    ss_buf_init(&text);
    ss_buf_init(&text_of_parts);
    bool ok = to_text(cells, columns, SIZE_MAX / 2, &whole, &text);
    FUZZ_CHECK(to_text(cells, columns, step, &parts, &text_of_parts) == ok);
    FUZZ_CHECK(ss_copytext_writer_whole(&whole) == ss_copytext_writer_whole(&parts));
    FUZZ_CHECK(same(&text, &text_of_parts) && whole.rows == parts.rows);
    if (ok && ss_copytext_writer_whole(&whole) && columns > 0)
        check_lines(&text, columns, whole.rows, cells);
    ss_buf_done(&text);
    ss_buf_done(&text_of_parts);
}

static void fuzz_row(ss_bytes line, uint32_t columns, size_t step) {
    ss_buf cells;
    ss_bytes in, value;
    bool null, bad;
    uint32_t count = 0;
    ss_buf_init(&cells);
    ss_buf_put_str(&cells, "before");
    if (!ss_copytext_row_to_cells(line, columns, &cells)) {
        FUZZ_CHECK(cells.len == 6);
        ss_buf_done(&cells);
        return;
    }
    FUZZ_CHECK(!cells.bad && memcmp(cells.ptr, "before", 6) == 0);
    ss_bytes row = in = ss_bytes_of(cells.ptr + 6, cells.len - 6);
    while (ss_cells_get(&in, &null, &value, &bad))
        count++;
    FUZZ_CHECK(!bad && count == columns);
    /* A line feed in the midst of a row is no row of a server's; its text would be two lines. */
    if (columns > 0)
        fuzz_cells(row, columns, step);
    ss_buf_done(&cells);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {ss_bytes_of(data, size)};
    uint8_t settings = fuzz_u8(&in);
    uint32_t columns = settings & 0x0Fu;
    size_t step = fuzz_u8(&in) % 17u + 1;
    uint8_t *exact = fuzz_exact(in.rest);

    if ((settings & FROM_CELLS) != 0)
        fuzz_cells(ss_bytes_of(exact, in.rest.len), columns, step);
    else
        fuzz_row(ss_bytes_of(exact, in.rest.len), columns, step);
    free(exact);
    return 0;
}
