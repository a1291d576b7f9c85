/* Columns that line up. Widths are counted in characters, not bytes; the last column is not padded.
 */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void ss_table_init(ss_table *table, size_t columns) {
    *table = (ss_table){.columns = columns < SS_TABLE_COLUMNS ? columns : SS_TABLE_COLUMNS};
}

void ss_table_done(ss_table *table) {
    free(table->cells);
    *table = (ss_table){0};
}

void ss_table_row(ss_table *table) {
    if (table->bad)
        return;
    if (table->rows == table->cap) {
        size_t cap = table->cap ? table->cap * 2 : 16;
        void *grown = realloc(table->cells, cap * table->columns * sizeof(*table->cells));
        if (!grown) {
            table->bad = true;
            return;
        }
        table->cells = grown;
        table->cap = cap;
    }
    memset(&table->cells[table->rows * table->columns], 0, table->columns * sizeof(*table->cells));
    table->rows++;
}

void ss_table_set(ss_table *table, size_t column, ss_colour colour, const char *fmt, ...) {
    if (table->bad || table->rows == 0 || column >= table->columns)
        return;
    struct ss_table_cell *cell = &table->cells[(table->rows - 1) * table->columns + column];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(cell->text, sizeof(cell->text), fmt, args);
    va_end(args);
    cell->colour = colour;
    /* What does not fit ends in three dots rather than in half a character. */
    size_t len = strlen(cell->text);
    if (len == sizeof(cell->text) - 1) {
        len -= 3;
        while (len > 0 && ((unsigned char)cell->text[len] & 0xC0) == 0x80)
            len--;
        memcpy(cell->text + len, "...", 4);
    }
}

static size_t width_of(const char *text) {
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

void ss_put_coloured(ss_buf *out, bool colours, ss_colour colour, const char *text) {
    static const char *const codes[] = {"",         "\033[32m", "\033[33m",
                                        "\033[31m", "\033[1m",  "\033[2m"};
    if (!colours || colour == SS_PLAIN || !*text) {
        ss_buf_put_str(out, text);
        return;
    }
    ss_buf_printf(out, "%s%s\033[0m", codes[colour], text);
}

static void put_spaces(ss_buf *out, size_t count) {
    while (count-- > 0)
        ss_buf_put_byte(out, ' ');
}

void ss_table_print(const ss_table *table, const char *indent, bool colours, ss_buf *out) {
    size_t widths[SS_TABLE_COLUMNS] = {0};
    out->bad |= table->bad;
    for (size_t r = 0; r < table->rows; r++)
        for (size_t c = 0; c < table->columns; c++) {
            size_t width = width_of(table->cells[r * table->columns + c].text);
            if (width > widths[c])
                widths[c] = width;
        }
    for (size_t r = 0; r < table->rows; r++) {
        size_t last = table->columns; /* behind the last cell that holds something */
        while (last > 1 && table->cells[r * table->columns + last - 1].text[0] == '\0')
            last--;
        ss_buf_put_str(out, indent);
        for (size_t c = 0; c < last; c++) {
            const struct ss_table_cell *cell = &table->cells[r * table->columns + c];
            size_t fill = widths[c] - width_of(cell->text);
            if (table->right[c])
                put_spaces(out, fill);
            ss_put_coloured(out, colours, cell->colour, cell->text);
            if (c + 1 == last)
                break;
            put_spaces(out, (table->right[c] ? 0 : fill) + 2);
        }
        ss_buf_put_byte(out, '\n');
    }
}
