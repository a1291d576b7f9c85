/* pgoutput's messages written from what the decoder read: nothing may be lost on the way. */
#include "tests/fuzz/pgoutput_parts/pgoutput_world.h"

static void put_number(ss_buf *out, uint64_t value, unsigned bytes) {
    while (bytes-- > 0)
        ss_buf_put_byte(out, (uint8_t)(value >> (8 * bytes)));
}

static void put_string(ss_buf *out, ss_bytes text) {
    ss_buf_put(out, text.ptr, text.len);
    ss_buf_put_byte(out, 0);
}

static void put_time(ss_buf *out, int64_t us) {
    put_number(out, (uint64_t)us - (uint64_t)SS_PG_EPOCH_US, 8);
}

static void put_tuple(ss_buf *out, const ss_pgoutput_tuple *tuple) {
    put_number(out, tuple->count, 2);
    for (uint32_t i = 0; i < tuple->count; i++) {
        switch (tuple->kinds[i]) {
        case SS_CELL_VALUE:
            ss_buf_put_byte(out, 't');
            put_number(out, tuple->cells[i].len, 4);
            ss_buf_put(out, tuple->cells[i].ptr, tuple->cells[i].len);
            break;
        case SS_CELL_NULL:
            ss_buf_put_byte(out, 'n');
            break;
        case SS_CELL_UNCHANGED:
            ss_buf_put_byte(out, 'u');
            break;
        default:
            FUZZ_NEVER("a kind of cell that the wire does not have");
        }
    }
}

static void put_relation(ss_buf *out, const ss_pgoutput_relation *relation) {
    put_number(out, relation->relid, 4);
    put_string(out, relation->ns);
    put_string(out, relation->name);
    ss_buf_put_byte(out, (uint8_t)relation->identity);
    put_number(out, relation->count, 2);
    for (uint32_t i = 0; i < relation->count; i++) {
        ss_buf_put_byte(out, relation->columns[i].key);
        put_string(out, relation->columns[i].name);
        put_number(out, relation->columns[i].type, 4);
        put_number(out, (uint32_t)relation->columns[i].typmod, 4);
    }
}

static void put_change(ss_buf *out, const ss_pgoutput_message *message) {
    put_number(out, message->u.change.relid, 4);
    if (message->u.change.old_kind) {
        ss_buf_put_byte(out, (uint8_t)message->u.change.old_kind);
        put_tuple(out, &message->u.change.old);
    }
    if (message->u.change.has_new) {
        ss_buf_put_byte(out, 'N');
        put_tuple(out, &message->u.change.new);
    }
}

static void put_truncate(ss_buf *out, const ss_pgoutput_message *message) {
    put_number(out, message->u.truncate.count, 4);
    ss_buf_put_byte(out, (uint8_t)(message->u.truncate.cascade |
                                   (unsigned)message->u.truncate.restart_identity << 1));
    for (uint32_t i = 0; i < message->u.truncate.count; i++)
        put_number(out, message->u.truncate.relids[i], 4);
}

bool pgo_encode_again(const ss_pgoutput_message *message, ss_buf *out) {
    ss_buf_put_byte(out, (uint8_t)message->type);
    switch (message->type) {
    case 'B':
        put_number(out, message->u.begin.final_lsn, 8);
        put_time(out, message->u.begin.time_us);
        put_number(out, message->u.begin.xid, 4);
        return true;
    case 'C':
        ss_buf_put_byte(out, 0);
        put_number(out, message->u.commit.commit_lsn, 8);
        put_number(out, message->u.commit.end_lsn, 8);
        put_time(out, message->u.commit.time_us);
        return true;
    case 'O':
        put_number(out, message->u.origin.lsn, 8);
        put_string(out, message->u.origin.name);
        return true;
    case 'R':
        put_relation(out, &message->u.relation);
        return true;
    case 'Y':
        put_number(out, message->u.type.oid, 4);
        put_string(out, message->u.type.ns);
        put_string(out, message->u.type.name);
        return true;
    case 'I':
    case 'U':
    case 'D':
        put_change(out, message);
        return true;
    case 'T':
        put_truncate(out, message);
        return true;
    default: /* 'M': its content is dropped by the decoder */
        FUZZ_CHECK(message->type == 'M');
        return false;
    }
}
