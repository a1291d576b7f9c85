/* Text that came from outside, made fit for a sentence: how far it is UTF-8, how it is shown, which known word it may mean. */
#ifndef SIDESPOOL_TEXT_H
#define SIDESPOOL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the well-formed UTF-8 character at `s` (RFC 3629: no overlong forms, no surrogates), of which `left` bytes, at
 * least 1, may be read; 0 when it is none. */
size_t ss_utf8_len(const uint8_t *s, size_t left);
/* Is all of the string UTF-8? */
bool ss_utf8_good(const char *text);

/* What a sentence shows of a text: control characters and bytes that are no UTF-8 as \xNN, and no more of it than fits, with
 * an ellipsis then. Returns `buf`. */
#define SS_SHOWN_BYTES 88
const char *ss_shown(const char *text, char buf[SS_SHOWN_BYTES]);
/* The same for a path, of which the end is kept. */
#define SS_SHOWN_PATH_BYTES 240
const char *ss_shown_path(const char *path, char buf[SS_SHOWN_PATH_BYTES]);
#define SS_SHOWN(text) ss_shown((text), (char[SS_SHOWN_BYTES]){0}) /* lives as long as the block it stands in */

/* The same, quoted, for what should be a name; but what looks like a connection string is not shown, it may hold a password. */
#define SS_SHOWN_NAME(text) ss_shown_name((text), (char[SS_SHOWN_BYTES + 2]){0})
const char *ss_shown_name(const char *text, char buf[SS_SHOWN_BYTES + 2]);

/* Could `word` be a misspelt `known`, and is that nearer than *least (SIZE_MAX before the first)? Then *least is its distance.
 * Case is ignored. */
bool ss_nearer(const char *word, const char *known, size_t *least);

/* May a source be called that? 1 to 63 of a-z, 0-9, _ and -, not beginning with -: it names a folder of the spool and a unit. */
bool ss_source_name_good(const char *name);

#endif
