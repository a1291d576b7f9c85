/* The `sidespool` command: arguments, talking to the applier, and what people see. Nothing here is
 * shared with daemons. */
#ifndef SIDESPOOL_CLI_H
#define SIDESPOOL_CLI_H

#include "sidespool/bytes.h"
#include "sidespool/error.h"

#include <jansson.h>

/* ---- arguments (args.c) ---------------------------------------------------------------------- */
typedef struct {
    const char *command; /* NULL: none was given */
    const char *config;  /* the applier's file */
    bool config_given;
    const char *route;
    bool json, watch, help, version, markdown, force;
    double timeout; /* seconds; below 0: none */
    uint64_t from;  /* 0: not given */
    char **words;   /* after the command: tables, a code */
    int word_count;
} ss_cli_args;

/* Options may stand before or after the command. false: a usage error; its sentence, with the right
 * usage, is in `out`. */
bool ss_cli_parse(int argc, char **argv, ss_cli_args *ret, ss_buf *out);
/* Of one command, or (NULL, or an unknown one) of all. */
void ss_cli_usage(const char *name, ss_buf *out);
/* For `sidespool spool …`: index of the word "spool" when it is the command, else 0. Of the options
 * only --config may stand before it. */
int ss_cli_find_spool(int argc, char **argv);

/* ---- talking to the applier (client.c) ------------------------------------------------------- */
typedef void (*ss_cli_progress)(void *ctx, const json_t *progress);
/* Sends the request (taken) and waits for the last line. Returns the exit code; *ret_answer is the
 * last line, NULL when there was none (then `out` says why and what to do). */
int ss_cli_ask(const ss_cli_args *args, json_t *request_take, ss_cli_progress progress, void *ctx,
               json_t **ret_answer, ss_buf *out);
/* "sidespool: SENTENCE (CODE)" */
void ss_cli_say(ss_buf *out, const char *code, const char *fmt, ...) SS_PRINTF(3, 4);

/* ---- numbers for people (format.c); each returns `out` --------------------------------------- */
typedef struct {
    char text[48];
} ss_text;
ss_text ss_format_duration(double seconds); /* 0 s, 0.4 s, 3 min 20 s, 2 h 5 min, 3 d 4 h */
ss_text ss_format_bytes(double bytes);      /* 0 B, 1.2 KiB, 3.4 GiB */
ss_text ss_format_count(int64_t count);     /* 1,234,567 */
ss_text ss_format_short(double count);      /* 950, 1.2k, 34k, 5.6M */
ss_text ss_format_time(int64_t us,
                       int64_t now_us); /* local: 22:41:07, or 2026-11-19 22:41:07 when not today */
/* "30", "1.5", "500ms", "30s", "5m", "2h" to seconds; false: none of these. */
bool ss_parse_seconds(const char *text, double *ret);

/* ---- tables (table.c) ------------------------------------------------------------------------ */
typedef enum { SS_PLAIN, SS_GREEN, SS_YELLOW, SS_RED, SS_BOLD, SS_DIM } ss_colour;
#define SS_TABLE_COLUMNS 12
#define SS_CELL_BYTES 96
typedef struct {
    size_t columns, rows, cap;
    bool right[SS_TABLE_COLUMNS]; /* aligned to the right */
    struct ss_table_cell {
        char text[SS_CELL_BYTES];
        ss_colour colour;
    } * cells;
    bool bad; /* out of memory: checked by ss_table_print */
} ss_table;
void ss_table_init(ss_table *table, size_t columns);
void ss_table_done(ss_table *table);
void ss_table_row(ss_table *table); /* begins a row of empty cells */
void ss_table_set(ss_table *table, size_t column, ss_colour colour, const char *fmt, ...)
    SS_PRINTF(4, 5);
void ss_table_print(const ss_table *table, const char *indent, bool colours, ss_buf *out);
void ss_put_coloured(ss_buf *out, bool colours, ss_colour colour, const char *text);

/* ---- views (status_view.c, verify_view.c) ---------------------------------------------------- */
/* fancy: a terminal: colours and bars. */
void ss_view_status(const json_t *status, bool fancy, ss_buf *out);
/* The route's result as `verify --json` documents it: {"equal", "tables": […]}. */
json_t *ss_verify_document(const json_t *result);
/* args: whose route and file the hint at the end names. */
void ss_view_verify(const json_t *document, const ss_cli_args *args, bool fancy, ss_buf *out);

#endif
