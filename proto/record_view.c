/* A Change read straight into a view, in the one form in which our encoder writes it (record_codec.c).
 *
 * A backlog is mostly changes, so they skip the tree of messages: the record is copied once into the arena, and the cells
 * point into that copy. Whatever looks different in any way (another order of fields, an unknown one, lengths that disagree) is not
 * judged here: ss_record_get decodes it and says what is wrong. */
#include "sidespool/record.h"

#include <endian.h>

enum { TAG_RECORD_CHANGE = 2 << 3 | 2, TAG_SCHEMA = 1 << 3 | 1, TAG_OP = 2 << 3, TAG_BEFORE = 3 << 3 | 2, TAG_AFTER = 4 << 3 | 2,
       TAG_KINDS = 1 << 3 | 2, TAG_VALUE = 2 << 3 | 2 };

typedef struct {
    const uint8_t *at, *end;
    bool bad; /* sticky */
} reader;

static bool tag(reader *in, uint8_t want) {
    if (in->bad || in->at == in->end || *in->at != want)
        return false;
    in->at++;
    return true;
}

/* The bytes of a length-delimited field whose tag has been read. */
static ss_bytes delimited(reader *in) {
    uint64_t len = 0;
    for (unsigned shift = 0; !in->bad; shift += 7) {
        if (in->at == in->end || shift > 28) {
            in->bad = true;
            break;
        }
        uint8_t byte = *in->at++;
        len |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80))
            break;
    }
    if (in->bad || len > (size_t)(in->end - in->at)) {
        in->bad = true;
        return SS_BYTES_NONE;
    }
    ss_bytes ret = ss_bytes_of(in->at, (size_t)len);
    in->at += len;
    return ret;
}

/* A row's message into `ret`, its cells in memory of the arena. */
static void read_row(reader *change, ss_arena *arena, ss_row *ret) {
    ss_bytes body = delimited(change);
    reader in = {.at = body.ptr, .end = body.ptr + body.len, .bad = change->bad || body.len == 0};
    ss_bytes kinds = tag(&in, TAG_KINDS) ? delimited(&in) : SS_BYTES_NONE;
    ss_bytes *cells = in.bad || kinds.len == 0 ? NULL : ss_arena_alloc(arena, sizeof *cells * kinds.len);
    if (cells == NULL) {
        change->bad = true;
        return;
    }
    for (size_t i = 0; i < kinds.len; i++) {
        cells[i] = SS_BYTES_NONE;
        if (kinds.ptr[i] == SS_CELL_VALUE && tag(&in, TAG_VALUE))
            cells[i] = delimited(&in);
        else if (kinds.ptr[i] <= SS_CELL_VALUE || kinds.ptr[i] > SS_CELL_PIECES)
            in.bad = true;
    }
    change->bad |= in.bad || in.at != in.end;
    *ret = (ss_row){(uint32_t)kinds.len, kinds.ptr, cells};
}

bool ss_record_view_change(ss_bytes record, ss_arena *arena, ss_change *ret) {
    uint8_t *own = ss_arena_alloc(arena, record.len);
    if (own == NULL || record.len == 0)
        return false;
    memcpy(own, record.ptr, record.len);
    reader all = {.at = own, .end = own + record.len};
    ss_bytes body = tag(&all, TAG_RECORD_CHANGE) ? delimited(&all) : SS_BYTES_NONE;
    if (all.bad || all.at != all.end || body.len < 9 + 2)
        return false;
    reader in = {.at = body.ptr, .end = body.ptr + body.len};
    ss_change change = {0};
    if (!tag(&in, TAG_SCHEMA))
        return false;
    memcpy(&change.schema_id, in.at, 8);
    change.schema_id = le64toh(change.schema_id);
    in.at += 8;
    if (!tag(&in, TAG_OP))
        return false;
    uint8_t op = *in.at++;
    if (op < SIDESPOOL__OP__OP_INSERT || op > SIDESPOOL__OP__OP_DELETE)
        return false;
    change.op = (Sidespool__Op)op;
    if (tag(&in, TAG_BEFORE))
        read_row(&in, arena, &change.before);
    if (tag(&in, TAG_AFTER))
        read_row(&in, arena, &change.after);
    if (in.bad || in.at != in.end || (change.op == SIDESPOOL__OP__OP_INSERT && change.before.count != 0) ||
        (change.op == SIDESPOOL__OP__OP_DELETE && change.after.count != 0))
        return false;
    *ret = change;
    return true;
}
