/* PostgreSQL's COPY text format <-> the cells of CopyRows (include/sidespool/record.h, ss_cells_*).
 *
 * Both sides need both directions: the agent turns COPY TO STDOUT rows into cells, the target turns cells into COPY FROM
 * STDIN, and verify digests COPY TO STDOUT rows on either side. Only defaults of COPY text are spoken: tab, \N, one row a
 * line. Format: PostgreSQL documentation, SQL COPY, "Text Format". The cells of a row are those of the schema's columns that
 * are not `generated`, in schema order: a generated column is never in a row. No allocation but the buffer's growth. */
#ifndef SIDESPOOL_COPYTEXT_H
#define SIDESPOOL_COPYTEXT_H

#include "sidespool/bytes.h"

/* One row as the server sent it (one CopyData message, with or without its newline) -> `columns` cells appended to `out`.
 * false: another number of columns, or an escape that the server does not write; `out` is as before then. Check out->bad
 * for memory. */
bool ss_copytext_row_to_cells(ss_bytes line, uint32_t columns, ss_buf *out);

/* Appends one value with what COPY FROM needs escaped. NULL is written as \N by the caller. */
void ss_copytext_escape(ss_buf *out, const void *ptr, size_t len);

/* Cells -> COPY text, as a stream: a row, a cell, even a length may be cut at any byte between two calls, so that a cell of
 * a gigabyte passes without ever being held whole. */
typedef struct {
    uint32_t columns;
    uint32_t column;    /* of the row that is being written */
    uint64_t left;      /* bytes of the current cell still to come */
    uint64_t length;    /* varint that is being read */
    unsigned shift;
    bool in_cell;
    bool bad;           /* a damaged length: sticky */
    uint64_t rows;      /* whole rows written so far */
} ss_copytext_writer;

void ss_copytext_writer_init(ss_copytext_writer *writer, uint32_t columns);
/* `rows` only counts for tables without columns, whose rows have no bytes. false: damaged. */
bool ss_copytext_writer_put(ss_copytext_writer *writer, ss_bytes cells, uint32_t rows, ss_buf *out);
/* true between two rows: everything that was begun has been ended. */
static inline bool ss_copytext_writer_whole(const ss_copytext_writer *writer) {
    return !writer->bad && writer->column == 0 && !writer->in_cell && writer->shift == 0;
}

#endif
