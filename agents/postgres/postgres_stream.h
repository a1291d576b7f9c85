/* The replication connection: START_REPLICATION, messages out, feedback in. Capture thread only. */
#ifndef AGENTS_POSTGRES_STREAM_H
#define AGENTS_POSTGRES_STREAM_H

#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_decode.h"

typedef struct {
    PGconn *conn;        /* owned */
    bool copying;        /* START_REPLICATION was accepted */
    uint64_t released;   /* durable here: what every feedback says */
    bool unsaid;         /* released moved since the last feedback */
    bool ask;            /* the next feedback asks for a reply */
    int64_t asked_ms;    /* monotonic, of the oldest question after which no message came; 0: none */
    int64_t heard_ms;    /* of the last bytes */
    int64_t look_ms;     /* when the server may be asked what its walsender does */
    char found[200];     /* what it said then */
    int64_t said_ms;     /* monotonic, of the last feedback */
    int64_t interval_ms; /* between feedbacks when nothing moves */
    bool unknown;        /* it ended because slot or publication were not there for the WAL at hand */
    bool flush_pending;  /* libpq holds output that the socket did not take */
} ss_postgres_stream;

/* Takes the connection. sender_timeout_ms: the server's wal_sender_timeout, 0: off. */
void ss_postgres_stream_init(ss_postgres_stream *stream, PGconn *conn, int64_t sender_timeout_ms);
void ss_postgres_stream_done(
    ss_postgres_stream *stream); /* says what is still unsaid, as far as the socket takes it */

SS_MUST ss_status ss_postgres_stream_start(ss_postgres_stream *stream,
                                           const ss_postgres_names *names, uint64_t lsn,
                                           ss_error *reterr);
/* The next message, without waiting. SS_BUSY: none is there. *ret is libpq's own buffer, to be
 * given to PQfreemem. */
SS_MUST ss_status ss_postgres_stream_next(ss_postgres_stream *stream, char **ret, size_t *ret_len,
                                          ss_error *reterr);
/* Takes from the socket what is there, without waiting. */
SS_MUST ss_status ss_postgres_stream_read(ss_postgres_stream *stream, ss_error *reterr);
/* Sends feedback when it is due or `now`; also takes further what the socket did not take before.
 */
SS_MUST ss_status ss_postgres_stream_feedback(ss_postgres_stream *stream, bool now,
                                              ss_error *reterr);
/* Waits for the socket (not for reading when `hold`), wake_fd or `other` (-1: none), at most
 * wait_ms and until feedback is due. *ret_other: `other` has something to say. */
SS_MUST ss_status ss_postgres_stream_wait(ss_postgres_stream *stream, int wait_ms, int wake_fd,
                                          int other, bool hold, bool *ret_woken, bool *ret_other,
                                          ss_error *reterr);
/* Whether the walsender has been asked and has not answered for long enough to be told. False: all is well. */
bool ss_postgres_stream_trouble(const ss_postgres_stream *stream, ss_error *ret);
/* SS_RETRY: the link is lost, though TCP does not say so. May ask the server, which takes up to ten seconds. */
SS_MUST ss_status ss_postgres_stream_look(ss_postgres_stream *stream, ss_error *reterr);
int64_t ss_postgres_now_ms(void); /* monotonic */

#endif
