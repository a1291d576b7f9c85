/* The source's own state; capture thread only. postgres_source.c is the vtable and the loop,
 * postgres_slot.c compares histories and makes and drops the slot, postgres_messages.c turns
 * messages into calls of the sink. */
#ifndef AGENTS_POSTGRES_SOURCE_H
#define AGENTS_POSTGRES_SOURCE_H

#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_catalog.h"
#include "agents/postgres/postgres_decode.h"
#include "agents/postgres/postgres_record.h"
#include "agents/postgres/postgres_stream.h"

/* A relation as its last Relation message of this session described it. Heap. */
typedef struct {
    uint32_t relid;
    bool selected;
    uint64_t until; /* selected only before this LSN; 0: without end */
    ss_pgoutput_shape shape; /* name and wire_key are the relation's own */
    char *name;
    char *key; /* names of the key's columns, sorted; "" under FULL and without an identity */
    bool *wire_key;
    char *raw; /* the message, to know an unchanged one again */
    size_t raw_len;
} ss_postgres_relation;

typedef struct {
    ss_postgres_relation **slots; /* open addressing by relid, a power of two */
    size_t cap, count;
    ss_postgres_relation *last; /* most changes are of the same relation as the one before */
} ss_postgres_relations;

struct ss_source {
    const ss_source_env *env;
    ss_postgres_names names;
    PGconn *catalog;     /* an ordinary session; NULL after it broke, made again when needed */
    PGconn *replication; /* until start() hands it to the stream */
    ss_postgres_stream stream;
    int64_t sender_timeout_ms;
    bool via_root;
    int64_t record_due_ms;  /* the next comparison with what was published (postgres_record.h) */
    int64_t record_soon_ms; /* and with record_news: a relation was described anew */
    bool record_news;
    ss_postgres_record_kept record_kept;
    uint32_t stale_said;    /* hash of the tables last named in the log for their partitions */
    bool slot_leftover; /* a half-made slot of our own, to be dropped by prepare */

    ss_pgoutput decoder;
    ss_postgres_relations relations;
    ss_postgres_type *types;
    size_t type_count;
    ss_arena *arena; /* one Relation message */
    uint64_t *truncate_ids;
    size_t truncate_cap;

    char *held; /* a message that the sink had no room for; libpq's buffer */
    size_t held_len;

    uint64_t reach_lsn; /* how far the source's WAL reached at open */
    uint64_t start_lsn;
    uint64_t last_lsn; /* end of the last commit or idle position handed over */
    bool in_transaction, begun, skipping;
    uint64_t final_lsn;
    int64_t commit_time_us;
    uint32_t xid;
    uint64_t dropped; /* transactions that were durable before this session */
};

/* ---- postgres_slot.c
 * -------------------------------------------------------------------------------------------- */
/* Compares what the server is with what the spool knows; fills verdict->identity always once the
 * server has answered. */
SS_MUST ss_status ss_postgres_history_compare(ss_source *source, const char *identity,
                                              const char *position, bool intended,
                                              ss_source_verdict *verdict, ss_error *reterr);
SS_MUST ss_status ss_postgres_slot_create(ss_source *source, ss_say_fn say, void *ctx,
                                          char *ret_position, size_t size, ss_error *reterr);
/* What names the source's history now, with the publication that prepare made. */
SS_MUST ss_status ss_postgres_identity(ss_source *source, char *ret, size_t size, ss_error *reterr);
/* Keeps in env->session what the server calls the session of `conn`, which is to stream. */
SS_MUST ss_status ss_postgres_session_note(ss_source *source, PGconn *conn, ss_error *reterr);
/* Is the slot there? */
SS_MUST ss_status ss_postgres_slot_exists(ss_source *source, bool *ret, ss_error *reterr);
/* Drops the slot of our name when it is ours and inactive; a missing one is fine. */
SS_MUST ss_status ss_postgres_slot_drop(ss_source *source, ss_error *reterr);
/* Makes source->catalog again when it broke. */
SS_MUST ss_status ss_postgres_catalog_ready(ss_source *source, ss_error *reterr);

/* ---- postgres_messages.c
 * ---------------------------------------------------------------------------------------- */
/* One CopyData message. Anything but SS_OK leaves the state as it was, so that the same bytes can
 * be offered again. */
SS_MUST ss_status ss_postgres_message(ss_source *source, const ss_sink *sink, ss_bytes bytes,
                                      ss_error *reterr);
void ss_postgres_messages_done(ss_source *source);

#endif
