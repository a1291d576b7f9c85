/* decode: bytes of the replication link -> messages -> changes. Bytes only: no socket, no
 * catalogue, no clock.
 *
 * Formats: PostgreSQL documentation, "Streaming Replication Protocol" (XLogData, Primary keepalive)
 * and "Logical Replication Message Formats", protocol version 1 in text form. A transaction arrives
 * whole and in commit order.
 *
 * Every view borrows from the message's bytes; arrays belong to the ss_pgoutput and live until its
 * next decode. */
#ifndef AGENTS_POSTGRES_DECODE_H
#define AGENTS_POSTGRES_DECODE_H

#include "sidespool/record.h"

/* Microseconds from 1970-01-01 (ours) to 2000-01-01 (PostgreSQL's). */
#define SS_PG_EPOCH_US INT64_C(946684800000000)

/* ---- the walsender's envelope
 * ----------------------------------------------------------------------------------- */
typedef enum { SS_WALSENDER_DATA, SS_WALSENDER_KEEPALIVE } ss_walsender_kind;
typedef struct {
    ss_walsender_kind kind;
    uint64_t wal_end; /* keepalive: everything that commits before it has been sent */
    int64_t sent_us;  /* the server's clock, microseconds since 1970 */
    bool reply;       /* keepalive: the server wants to hear from us at once */
    ss_bytes payload; /* data: one pgoutput message */
} ss_walsender_message;
SS_MUST ss_status ss_walsender_decode(ss_bytes bytes, ss_walsender_message *ret, ss_error *reterr);

/* Standby status update: everything before `lsn` is durable here. */
#define SS_WALSENDER_STATUS_BYTES 34
void ss_walsender_status(uint8_t out[SS_WALSENDER_STATUS_BYTES], uint64_t lsn, int64_t now_us,
                         bool reply);

/* ---- pgoutput messages
 * ------------------------------------------------------------------------------------------ */
typedef struct {
    ss_bytes name;
    uint32_t type; /* oid */
    int32_t typmod;
    bool key; /* part of the replica identity; every column is under REPLICA IDENTITY FULL */
} ss_pgoutput_column;

typedef struct {
    uint32_t relid;
    ss_bytes ns, name; /* ns is empty for pg_catalog */
    char identity;     /* 'd' 'n' 'f' 'i' */
    uint32_t count;
    const ss_pgoutput_column *columns;
} ss_pgoutput_relation;

typedef struct {
    uint32_t count;
    uint8_t *kinds; /* SS_CELL_VALUE, NULL or UNCHANGED as the wire says */
    ss_bytes *cells;
} ss_pgoutput_tuple;

typedef struct {
    char type; /* 'B' 'C' 'O' 'R' 'Y' 'I' 'U' 'D' 'T' 'M' */
    union {
        struct {
            uint64_t final_lsn;
            int64_t time_us;
            uint32_t xid;
        } begin;
        struct {
            uint64_t commit_lsn, end_lsn;
            int64_t time_us;
        } commit;
        struct {
            uint64_t lsn;
            ss_bytes name;
        } origin;
        ss_pgoutput_relation relation;
        struct {
            uint32_t oid;
            ss_bytes ns, name;
        } type;
        /* old_kind: 'K', 'O' or 0; new_tuple.count 0 and has_new false for a delete */
        struct {
            uint32_t relid;
            char old_kind;
            bool has_new;
            ss_pgoutput_tuple old, new;
        } change;
        struct {
            bool cascade, restart_identity;
            uint32_t count;
            const uint32_t *relids;
        } truncate;
    } u;
} ss_pgoutput_message;

/* Arrays that are used again for each message. */
typedef struct {
    struct ss_pgoutput_arrays {
        uint8_t *kinds;
        ss_bytes *cells;
        uint32_t cap;
    } old, new;
    ss_pgoutput_column *columns;
    uint32_t column_cap;
    uint32_t *relids;
    uint32_t relid_cap;
} ss_pgoutput;

void ss_pgoutput_init(ss_pgoutput *decoder);
void ss_pgoutput_done(ss_pgoutput *decoder);
/* SS_STOP for a message that is cut, too long, or of a kind that this version does not know:
 * nothing is skipped because it is new. The text names the message's kind and the offset. */
SS_MUST ss_status ss_pgoutput_decode(ss_pgoutput *decoder, ss_bytes bytes, ss_pgoutput_message *ret,
                                     ss_error *reterr);

/* ---- from the wire's tuples to a change
 * ------------------------------------------------------------------------- */
/* What has to be known of a relation: its wire columns are the schema's columns, one to one, in
 * order. */
typedef struct {
    uint64_t schema_id;
    const char *name; /* "ns.name", for messages */
    uint32_t count;
    const bool *wire_key; /* the key flags of the Relation message */
    bool full;            /* REPLICA IDENTITY FULL */
} ss_pgoutput_shape;
/* Makes an ss_change of an 'I', 'U' or 'D' message. Views and arrays live until the decoder's next
 * decode. */
SS_MUST ss_status ss_pgoutput_change(ss_pgoutput *decoder, const ss_pgoutput_shape *shape,
                                     ss_pgoutput_message *message, ss_change *ret,
                                     ss_error *reterr);

#endif
