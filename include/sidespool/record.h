/* Records in memory, and their codec (proto/record.proto).
 *
 * ss_change and ss_row are views: they borrow from the message (agent) or from the arena (applier) that they were made
 * from, and live as long. Encoding writes protobuf's wire form straight into a buffer, because a change is too small and
 * too frequent for a tree of messages; decoding goes through protobuf-c into an arena with a hard limit. */
#ifndef SIDESPOOL_RECORD_H
#define SIDESPOOL_RECORD_H

#include "sidespool/arena.h"
#include "sidespool/bytes.h"
#include "sidespool/error.h"
#include "record.pb-c.h" /* generated; Sidespool__Record and friends */

#define SS_PIECE_BYTES (1u << 20) /* cells above this size travel as Piece records */

enum { SS_CELL_VALUE = 1, SS_CELL_NULL = 2, SS_CELL_ABSENT = 3, SS_CELL_UNCHANGED = 4, SS_CELL_PIECES = 5 };

typedef struct {
    uint32_t count;       /* 0: the row is not there */
    const uint8_t *kinds; /* SS_CELL_*, `count` of them */
    const ss_bytes *cells; /* `count` of them; only those of kind VALUE are set */
} ss_row;

typedef struct {
    uint64_t schema_id;
    Sidespool__Op op;
    ss_row before, after;
} ss_change;

/* Encoders append one Record (without its length prefix) to `out`; check out->bad. ss_record_put_change writes cells
 * over SS_PIECE_BYTES as kind PIECES; the caller has written their Piece records before (ss_record_pieces does both). */
void ss_record_put_change(ss_buf *out, const ss_change *change);
/* The two that every transaction has. */
void ss_record_put_begin(ss_buf *out, int64_t commit_time_us, uint64_t xid);
void ss_record_put_commit(ss_buf *out, ss_bytes position, int64_t commit_time_us);
/* Calls `emit` with each encoded record of a change: its pieces, then the change. `scratch` is reused. */
typedef ss_status (*ss_record_emit)(void *ctx, ss_bytes record, uint64_t schema_id, ss_error *reterr);
SS_MUST ss_status ss_record_pieces(const ss_change *change, ss_buf *scratch, ss_record_emit emit, void *ctx,
                                   ss_error *reterr);
/* Any other kind, by protobuf-c. */
void ss_record_put(ss_buf *out, const Sidespool__Record *record);

/* Decodes one Record into the arena and refuses what this version does not know: unset oneof, unknown field or enum
 * value, a row whose kinds and values disagree. `place` (e.g. "orders/stream record 4711") stands in the message. */
SS_MUST ss_status ss_record_get(ss_bytes bytes, ss_arena *arena, const char *place, Sidespool__Record **ret,
                                ss_error *reterr);
/* A view of a decoded Change; arrays in the arena. Cells of kind PIECES are left for the caller to fill. */
SS_MUST ss_status ss_record_change(const Sidespool__Change *message, ss_arena *arena, ss_change *ret, ss_error *reterr);

/* Both in one, for a Change in the form in which our encoder writes it. The views point into a copy in the arena. false: `bytes` is something
 * else, or damaged, or more than the arena may hold; ss_record_get tells. */
bool ss_record_view_change(ss_bytes bytes, ss_arena *arena, ss_change *ret);

/* Schemas. The id is XXH3-64 of the packed message with id = 0, so equal schemas have equal ids on every restart. */
uint64_t ss_schema_seal(Sidespool__Schema *schema, ss_buf *out); /* sets id, appends the packed message to out */
/* Schemas stand outside the frames' checksums: their id is what shows damage. */
bool ss_schema_is(ss_bytes packed, uint64_t id);
SS_MUST ss_status ss_schema_get(ss_bytes bytes, ss_arena *arena, const char *place, Sidespool__Schema **ret,
                                ss_error *reterr);

/* CopyRows.cells: varint 0 = NULL, else length+1 and the bytes. */
void ss_cells_put_null(ss_buf *out);
void ss_cells_put(ss_buf *out, ss_bytes value);
/* Reads the next cell from *in (advanced). false at the end or when damaged (*ret_bad). */
bool ss_cells_get(ss_bytes *in, bool *ret_null, ss_bytes *ret, bool *ret_bad);

/* Appends one record as a JSON object without a line break (the caller ends the line), for `sidespool spool dump`.
 * Values that are not UTF-8 as {"hex":"…"}; absent, unchanged and pieces as {"absent":true} and so on; ids as hex text.
 * `schema` may be NULL (then columns are numbered). */
void ss_record_json(const Sidespool__Record *record, uint64_t sequence, const Sidespool__Schema *schema, ss_buf *out);

#endif
