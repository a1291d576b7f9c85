/* One table of options serves the parser, --help and the reference in docs/configuration.md.
 *
 * A program describes its file as a tree of ss_option; ss_config_load fills the program's struct by offset. Every
 * unknown key is an error with file, line, column and the nearest known key; a key that this version does not carry
 * out yet (SS_OPT_UNSUPPORTED) is refused: "not supported yet". All strings live in the ss_config's memory. */
#ifndef SIDESPOOL_OPTION_H
#define SIDESPOOL_OPTION_H

#include "sidespool/bytes.h"
#include "sidespool/error.h"

typedef enum {
    SS_OPT_STRING,   /* const char *           (NULL when absent and no default) */
    SS_OPT_BOOL,     /* bool */
    SS_OPT_INT,      /* int64_t, within min..max */
    SS_OPT_SIZE,     /* uint64_t bytes: 64GiB, 256MiB, 100KiB, 12B or plain digits */
    SS_OPT_DURATION, /* uint64_t milliseconds: 24h, 5m, 30s, 200ms, 2d */
    SS_OPT_ENUM,     /* int: index into choices ("halt|resync") */
    SS_OPT_STRINGS,  /* ss_strings */
    SS_OPT_BLOCK,    /* a mapping; children at offset; `present` bool at present_offset when non-zero */
    SS_OPT_LIST,     /* a sequence of mappings: ss_list of child_size structs */
    SS_OPT_UNSUPPORTED,
} ss_opt_type;

/* Where a value stood, for messages about it after parsing. */
typedef struct { int line, column; } ss_place;
typedef struct { const char **items; size_t count; const ss_place *places; /* one for each; NULL: by default */ } ss_strings;
typedef struct { void *items; size_t count; } ss_list;

typedef struct ss_option {
    const char *key;
    ss_opt_type type;
    size_t offset;             /* in the enclosing struct */
    bool required;
    const char *deflt;         /* as it would stand in the file; NULL: zero value */
    const char *choices;       /* SS_OPT_ENUM: "halt|resync"; "apply|!ignore": ignore is known, but refused as not supported yet */
    int64_t min, max;          /* SS_OPT_INT, SIZE (bytes), DURATION (ms); both 0: any; of SIZE and DURATION max 0: none */
    const char *help;          /* one sentence for --help and the reference */
    const struct ss_option *children; /* BLOCK, LIST: ends with key == NULL */
    size_t child_size;         /* LIST: size of one element's struct */
    size_t present_offset;     /* BLOCK: offset of a bool set when the block is there; 0: none */
    size_t place_offset;       /* offset of an ss_place set to where the value stood; 0: none */
} ss_option;

typedef struct ss_config ss_config; /* owns every string and list of a loaded file */

/* Reads `path` into `out` (zeroed by the caller). On failure *reterr says file:line:column, key, remedy. */
SS_MUST ss_status ss_config_load(const char *path, const ss_option *table, void *out, ss_config **ret, ss_error *reterr);
/* The same for a program that wants a few keys of another's file: keys that `table` does not know are passed over unread. */
SS_MUST ss_status ss_config_peek(const char *path, const ss_option *table, void *out, ss_config **ret, ss_error *reterr);
void ss_config_free(ss_config *config);
/* "FILE:LINE:COL" of a place, for later checks. Static buffer per thread. */
const char *ss_config_place(const ss_config *config, ss_place place);
/* The reference as Markdown (docs/configuration.md is generated from it) and as --help text. */
void ss_option_print_markdown(const ss_option *table, const char *title, ss_buf *out);
void ss_option_print_help(const ss_option *table, ss_buf *out);

/* As it would stand in a file: "64MiB", "100000" when it is no whole KiB. */
const char *ss_size_text(uint64_t bytes, char buf[32]);

/* Name patterns: `*` matches any run of characters, everything else itself. "schema.table". */
bool ss_pattern_match(const char *pattern, const char *name);

#endif
