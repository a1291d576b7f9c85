/* decode: see postgres_decode.h. The reader has one sticky `bad` flag: a read past the end gives
 * zero and sets it, and it is looked at once, when the message is over (and where a count is about
 * to size something). */
#include "agents/postgres/postgres_decode.h"
#include <inttypes.h>
#include <stdlib.h>

struct reader {
    const uint8_t *start, *at, *end;
    bool bad;
};

static bool take(struct reader *in, size_t len, const uint8_t **ret) {
    if (in->bad || (size_t)(in->end - in->at) < len) {
        in->bad = true;
        return false;
    }
    *ret = in->at;
    in->at += len;
    return true;
}

static uint8_t get8(struct reader *in) {
    const uint8_t *p;
    if (!take(in, 1, &p))
        return 0;
    return p[0];
}

static uint16_t get16(struct reader *in) {
    const uint8_t *p;
    if (!take(in, 2, &p))
        return 0;
    return (uint16_t)((p[0] << 8) | p[1]);
}

static uint32_t get32(struct reader *in) {
    const uint8_t *p;
    if (!take(in, 4, &p))
        return 0;
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
}

static uint64_t get64(struct reader *in) {
    uint64_t high = get32(in);
    return (high << 32) | get32(in);
}

static ss_bytes get_bytes(struct reader *in, size_t len) {
    const uint8_t *p;
    return take(in, len, &p) ? ss_bytes_of(p, len) : SS_BYTES_NONE;
}

/* A NUL-terminated string; the view is without its NUL, which stands behind it. */
static ss_bytes get_string(struct reader *in) {
    if (in->bad)
        return SS_BYTES_NONE;
    const uint8_t *nul = in->at == in->end ? NULL : memchr(in->at, 0, (size_t)(in->end - in->at));
    if (!nul) {
        in->bad = true;
        return SS_BYTES_NONE;
    }
    ss_bytes ret = ss_bytes_of(in->at, (size_t)(nul - in->at));
    in->at = nul + 1;
    return ret;
}

static int64_t get_time(struct reader *in) {
    /* Two's complement wrap is what a damaged clock deserves; signed overflow would be undefined.
     */
    return (int64_t)(get64(in) + (uint64_t)SS_PG_EPOCH_US);
}

static struct reader reader_of(ss_bytes bytes) {
    return (struct reader){bytes.ptr, bytes.ptr, bytes.ptr + bytes.len, bytes.len == 0};
}

/* ---- envelope
 * ---------------------------------------------------------------------------------------------------
 */

ss_status ss_walsender_decode(ss_bytes bytes, ss_walsender_message *ret, ss_error *reterr) {
    if (bytes.len == 0)
        return ss_fail(reterr, SS_STOP, "SS-PG-0010", "the walsender sent an empty message");
    struct reader in = reader_of(bytes);
    ss_walsender_message out = {0};
    uint8_t kind = get8(&in);
    if (kind == 'w') {
        out.kind = SS_WALSENDER_DATA;
        (void)get64(&in); /* start: the record that this message was made from; the messages say
                             where commits end */
        out.wal_end = get64(&in);
        out.sent_us = get_time(&in);
        out.payload = ss_bytes_of(in.at, (size_t)(in.end - in.at));
    } else if (kind == 'k') {
        out.kind = SS_WALSENDER_KEEPALIVE;
        out.wal_end = get64(&in);
        out.sent_us = get_time(&in);
        out.reply = get8(&in) != 0;
        in.bad |= in.at != in.end;
    } else {
        return ss_fail(reterr, SS_STOP, "SS-PG-0011",
                       "the walsender sent a message of unknown kind 0x%02x; this version reads "
                       "XLogData and keepalives",
                       kind);
    }
    if (in.bad)
        return ss_fail(reterr, SS_STOP, "SS-PG-0010",
                       "the walsender's message of kind '%c' with %zu bytes is cut or too long",
                       kind, bytes.len);
    *ret = out;
    return SS_OK;
}

static uint8_t *put64(uint8_t *out, uint64_t value) {
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> (56 - 8 * i));
    return out + 8;
}

void ss_walsender_status(uint8_t out[SS_WALSENDER_STATUS_BYTES], uint64_t lsn, int64_t now_us,
                         bool reply) {
    uint8_t *p = out;
    *p++ = 'r';
    p = put64(p, lsn); /* written */
    p = put64(p, lsn); /* flushed: what the slot may forget */
    p = put64(p, lsn); /* applied */
    p = put64(p, (uint64_t)now_us - (uint64_t)SS_PG_EPOCH_US);
    *p = reply ? 1 : 0;
}

/* ---- messages
 * ---------------------------------------------------------------------------------------------------
 */

void ss_pgoutput_init(ss_pgoutput *decoder) {
    *decoder = (ss_pgoutput){0};
}

static void arrays_done(struct ss_pgoutput_arrays *arrays) {
    free(arrays->kinds);
    free(arrays->cells);
}

void ss_pgoutput_done(ss_pgoutput *decoder) {
    arrays_done(&decoder->old);
    arrays_done(&decoder->new);
    free(decoder->columns);
    free(decoder->relids);
    *decoder = (ss_pgoutput){0};
}

/* Grows to the widest relation seen; never per message. */
static bool grow(void **array, uint32_t *cap, uint32_t want, size_t item) {
    if (want <= *cap)
        return true;
    uint32_t next = want < 64 ? 64 : want + want / 2;
    void *more = reallocarray(*array, next, item);
    if (!more)
        return false;
    *array = more;
    *cap = next;
    return true;
}

static bool arrays_grow(struct ss_pgoutput_arrays *arrays, uint32_t want) {
    if (want <= arrays->cap)
        return true;
    uint32_t kinds_cap = arrays->cap, cells_cap = arrays->cap;
    void *kinds = arrays->kinds, *cells = arrays->cells;
    bool ok = grow(&kinds, &kinds_cap, want, sizeof(uint8_t));
    arrays->kinds = kinds;
    ok = ok && grow(&cells, &cells_cap, want, sizeof(ss_bytes));
    arrays->cells = cells;
    if (ok)
        arrays->cap = cells_cap;
    return ok;
}

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-PG-0005",
                   "no memory for the columns of a pgoutput message");
}

/* TupleData. A column takes one byte at least, so a count beyond the message is refused before
 * anything is sized by it. */
static ss_status read_tuple(struct reader *in, struct ss_pgoutput_arrays *arrays,
                            ss_pgoutput_tuple *ret, ss_error *reterr) {
    uint16_t count = get16(in);
    if (in->bad || (size_t)(in->end - in->at) < count) {
        in->bad = true;
        return SS_OK;
    }
    if (!arrays_grow(arrays, count))
        return no_memory(reterr);
    for (uint16_t i = 0; i < count && !in->bad; i++) {
        switch (get8(in)) {
        case 'n':
            arrays->kinds[i] = SS_CELL_NULL;
            arrays->cells[i] = SS_BYTES_NONE;
            break;
        case 'u':
            arrays->kinds[i] = SS_CELL_UNCHANGED;
            arrays->cells[i] = SS_BYTES_NONE;
            break;
        case 't':
            arrays->kinds[i] = SS_CELL_VALUE;
            arrays->cells[i] = get_bytes(in, get32(in));
            break;
        default: /* 'b' (binary) is never asked for */
            in->bad = true;
        }
    }
    *ret = (ss_pgoutput_tuple){count, arrays->kinds, arrays->cells};
    return SS_OK;
}

static ss_status read_relation(ss_pgoutput *decoder, struct reader *in, ss_pgoutput_relation *ret,
                               ss_error *reterr) {
    ret->relid = get32(in);
    ret->ns = get_string(in);
    ret->name = get_string(in);
    ret->identity = (char)get8(in);
    ret->count = get16(in);
    if (in->bad ||
        (size_t)(in->end - in->at) / 10 < ret->count) { /* flags, name's NUL, type, typmod */
        in->bad = true;
        return SS_OK;
    }
    void *columns = decoder->columns;
    bool ok = grow(&columns, &decoder->column_cap, ret->count, sizeof(ss_pgoutput_column));
    decoder->columns = columns;
    if (!ok)
        return no_memory(reterr);
    for (uint32_t i = 0; i < ret->count && !in->bad; i++) {
        ss_pgoutput_column *column = &decoder->columns[i];
        uint8_t flags = get8(in);
        column->key = (flags & 1) != 0;
        in->bad |=
            (flags & ~1u) != 0; /* a flag that we do not know might change what a tuple means */
        column->name = get_string(in);
        column->type = get32(in);
        column->typmod = (int32_t)get32(in);
    }
    ret->columns = decoder->columns;
    return SS_OK;
}

static ss_status read_change(ss_pgoutput *decoder, struct reader *in, ss_pgoutput_message *message,
                             ss_error *reterr) {
    message->u.change.relid = get32(in);
    uint8_t kind = get8(in);
    if (message->type != 'I' && (kind == 'K' || kind == 'O')) {
        message->u.change.old_kind = (char)kind;
        ss_status status = read_tuple(in, &decoder->old, &message->u.change.old, reterr);
        if (status != SS_OK || message->type == 'D')
            return status;
        kind = get8(in);
    }
    if (kind != 'N' || message->type == 'D') {
        in->bad = true;
        return SS_OK;
    }
    message->u.change.has_new = true;
    return read_tuple(in, &decoder->new, &message->u.change.new, reterr);
}

static ss_status read_truncate(ss_pgoutput *decoder, struct reader *in,
                               ss_pgoutput_message *message, ss_error *reterr) {
    uint32_t count = get32(in);
    uint8_t flags = get8(in);
    if (in->bad || (size_t)(in->end - in->at) / 4 < count || (flags & ~3u) != 0) {
        in->bad = true;
        return SS_OK;
    }
    void *relids = decoder->relids;
    bool ok = grow(&relids, &decoder->relid_cap, count, sizeof(uint32_t));
    decoder->relids = relids;
    if (!ok)
        return no_memory(reterr);
    for (uint32_t i = 0; i < count; i++)
        decoder->relids[i] = get32(in);
    message->u.truncate.cascade = (flags & 1) != 0;
    message->u.truncate.restart_identity = (flags & 2) != 0;
    message->u.truncate.count = count;
    message->u.truncate.relids = decoder->relids;
    return SS_OK;
}

static ss_status read_body(ss_pgoutput *decoder, struct reader *in, ss_pgoutput_message *out,
                           ss_error *reterr) {
    switch (out->type) {
    case 'B':
        out->u.begin.final_lsn = get64(in);
        out->u.begin.time_us = get_time(in);
        out->u.begin.xid = get32(in);
        return SS_OK;
    case 'C':
        in->bad |= get8(in) != 0; /* flags: none defined */
        out->u.commit.commit_lsn = get64(in);
        out->u.commit.end_lsn = get64(in);
        out->u.commit.time_us = get_time(in);
        return SS_OK;
    case 'O':
        out->u.origin.lsn = get64(in);
        out->u.origin.name = get_string(in);
        return SS_OK;
    case 'R':
        return read_relation(decoder, in, &out->u.relation, reterr);
    case 'Y':
        out->u.type.oid = get32(in);
        out->u.type.ns = get_string(in);
        out->u.type.name = get_string(in);
        return SS_OK;
    case 'I':
    case 'U':
    case 'D':
        return read_change(decoder, in, out, reterr);
    case 'T':
        return read_truncate(decoder, in, out, reterr);
    case 'M': /* pg_logical_emit_message: its content is nobody's row, and is dropped here */
        in->bad |= (get8(in) & ~1u) != 0;
        (void)get64(in);
        (void)get_string(in);
        (void)get_bytes(in, get32(in));
        return SS_OK;
    default:
        return ss_fail(reterr, SS_STOP, "SS-PG-0011",
                       "pgoutput sent a message of unknown kind 0x%02x with %zu bytes; this "
                       "version speaks protocol 1",
                       (unsigned)(uint8_t)out->type, (size_t)(in->end - in->start));
    }
}

ss_status ss_pgoutput_decode(ss_pgoutput *decoder, ss_bytes bytes, ss_pgoutput_message *ret,
                             ss_error *reterr) {
    if (bytes.len == 0)
        return ss_fail(reterr, SS_STOP, "SS-PG-0010", "pgoutput sent an empty message");
    struct reader in = reader_of(bytes);
    ss_pgoutput_message out = {0};
    out.type = (char)get8(&in);
    ss_status status = read_body(decoder, &in, &out, reterr);
    if (status != SS_OK)
        return status;
    if (in.bad || in.at != in.end)
        return ss_fail(reterr, SS_STOP, "SS-PG-0010",
                       "pgoutput's message of kind '%c' with %zu bytes is %s at offset %zu; the "
                       "link or the server damaged it",
                       out.type, bytes.len, in.bad ? "cut or malformed" : "longer than its content",
                       (size_t)(in.at - in.start));
    *ret = out;
    return SS_OK;
}

/* ---- changes
 * ----------------------------------------------------------------------------------------------------
 */

/* A K tuple holds the key alone: the wire writes `n` for every other column, which says nothing
 * about its value. */
static ss_status shape_key(ss_pgoutput *decoder, const ss_pgoutput_shape *shape,
                           const ss_pgoutput_tuple *old, ss_row *ret, ss_error *reterr) {
    struct ss_pgoutput_arrays *arrays = &decoder->old;
    bool any = false;
    for (uint32_t i = 0; i < old->count; i++) {
        if (!shape->wire_key[i]) {
            arrays->kinds[i] = SS_CELL_ABSENT;
            arrays->cells[i] = SS_BYTES_NONE;
            continue;
        }
        any = true;
        if (arrays->kinds[i] != SS_CELL_VALUE)
            return ss_fail(reterr, SS_STOP, "SS-PG-0015",
                           "a change of %s came without a value for its key column number %" PRIu32
                           "; give its partitions the replica identity of their root",
                           shape->name, i + 1);
    }
    if (!any)
        return ss_fail(reterr, SS_STOP, "SS-PG-0015",
                       "a change of %s came with a key, but the relation names no key column",
                       shape->name);
    *ret = (ss_row){old->count, arrays->kinds, arrays->cells};
    return SS_OK;
}

/* `u` (a TOAST value that was not touched) stands in the new tuple even where the old one, sent
 * beside it, has the value: under REPLICA IDENTITY FULL for any column, under a key for the key's
 * own columns. */
static void fill_unchanged(ss_pgoutput *decoder, const ss_pgoutput_message *message) {
    const struct ss_pgoutput_arrays *old = &decoder->old;
    struct ss_pgoutput_arrays *new = &decoder->new;
    for (uint32_t i = 0; i < message->u.change.new.count; i++) {
        if (new->kinds[i] != SS_CELL_UNCHANGED)
            continue;
        if (old->kinds[i] == SS_CELL_VALUE || old->kinds[i] == SS_CELL_NULL) {
            new->kinds[i] = old->kinds[i];
            new->cells[i] = old->cells[i];
        }
    }
}

static ss_status check_count(const ss_pgoutput_shape *shape, char type, uint32_t count,
                             ss_error *reterr) {
    if (count == shape->count)
        return SS_OK;
    return ss_fail(reterr, SS_STOP, "SS-PG-0013",
                   "a pgoutput '%c' of %s has %" PRIu32
                   " columns, but its Relation message named %" PRIu32,
                   type, shape->name, count, shape->count);
}

ss_status ss_pgoutput_change(ss_pgoutput *decoder, const ss_pgoutput_shape *shape,
                             ss_pgoutput_message *message, ss_change *ret, ss_error *reterr) {
    ss_change out = {.schema_id = shape->schema_id};
    out.op = message->type == 'I'   ? SIDESPOOL__OP__OP_INSERT
             : message->type == 'U' ? SIDESPOOL__OP__OP_UPDATE
                                    : SIDESPOOL__OP__OP_DELETE;
    ss_status status = SS_OK;
    if (message->u.change.old_kind) {
        const ss_pgoutput_tuple *old = &message->u.change.old;
        status = check_count(shape, message->type, old->count, reterr);
        /* A root that became FULL later is not described anew for its partitions, which still log
         * their keys alone: that is no whole row. */
        if (status == SS_OK && message->u.change.old_kind == 'O' && !shape->full)
            return ss_fail(reterr, SS_STOP, "SS-PG-0017",
                           "a change of %s came with a whole old row, but its Relation message "
                           "names a key; give its partitions the replica identity of their root",
                           shape->name);
        if (status == SS_OK && message->u.change.old_kind == 'K')
            status = shape_key(decoder, shape, old, &out.before, reterr);
        else if (status == SS_OK)
            out.before = (ss_row){old->count, old->kinds, old->cells};
        if (status != SS_OK)
            return status;
    }
    if (message->u.change.has_new) {
        const ss_pgoutput_tuple *new = &message->u.change.new;
        status = check_count(shape, message->type, new->count, reterr);
        if (status != SS_OK)
            return status;
        if (message->u.change.old_kind)
            fill_unchanged(decoder, message);
        out.after = (ss_row){new->count, new->kinds, new->cells};
    }
    *ret = out;
    return SS_OK;
}
