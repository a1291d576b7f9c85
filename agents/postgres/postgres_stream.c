/* stream: the replication connection in CopyBoth mode. Nothing here blocks but
 * ss_postgres_stream_wait.
 *
 * Feedback says one position for written, flushed and applied: the last that release() named, which
 * an fsynced spool commit holds. If we die before it is said, the server keeps more than it must
 * and sends it again; the start position drops it. It is said at least every interval_ms, well
 * within wal_sender_timeout, also while we do not read: a walsender that is blocked in its write
 * still takes replies. */
#include "agents/postgres/postgres_stream.h"
#include "agents/postgres/postgres_link.h"
#include "sidespool/link.h"
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>

#define FEEDBACK_MS 5000 /* at least so often */
#define RELEASE_MS 100   /* at most so often because of release() */
#define SILENCE_MS 10000 /* without an answer: told as a trouble */
#define LOOK_MS 10000    /* between two questions to the server what its walsender does */

int64_t ss_postgres_now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t wall_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void ss_postgres_stream_init(ss_postgres_stream *stream, PGconn *conn, int64_t sender_timeout_ms) {
    *stream = (ss_postgres_stream){.conn = conn, .interval_ms = FEEDBACK_MS};
    if (sender_timeout_ms > 0 && sender_timeout_ms / 3 < FEEDBACK_MS)
        stream->interval_ms = sender_timeout_ms / 3 > 10 ? sender_timeout_ms / 3 : 10;
}

void ss_postgres_stream_done(ss_postgres_stream *stream) {
    ss_error ignored;
    /* A courtesy: what is lost here is said by the next session, and until then the server only
     * keeps more. */
    if (stream->conn && stream->copying && stream->unsaid &&
        ss_postgres_stream_feedback(stream, true, &ignored) == SS_OK &&
        PQputCopyEnd(stream->conn, NULL) == 1)
        (void)PQflush(stream->conn);
    PQfinish(stream->conn);
    *stream = (ss_postgres_stream){0};
}

static ss_status broken(ss_postgres_stream *stream, const char *where, const PGresult *res,
                        ss_error *reterr) {
    ss_status status = ss_postgres_fail(reterr, "SS-PG-0054", where, stream->conn, res,
                                        "the replication connection ended");
    /* 55000 and 42704 say that slot or publication are gone or lost: open() looks at them and tells
     * whether that is a gap. */
    const char *sqlstate = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    stream->unknown = sqlstate && strcmp(sqlstate, "42704") == 0;
    if (sqlstate && (strcmp(sqlstate, "55000") == 0 || stream->unknown))
        return SS_RETRY;
    return status;
}

/* Names are quoted as the replication grammar wants them: identifiers by doubled ", strings by
 * doubled '. */
ss_status ss_postgres_stream_start(ss_postgres_stream *stream, const ss_postgres_names *names,
                                   uint64_t lsn, ss_error *reterr) {
    char sql[512], publication[300];
    size_t n = 0;
    /* publication_names is a list of identifiers inside a string: " is doubled for the list, ' for
     * the string. */
    publication[n++] = '"';
    for (const char *p = names->publication; *p; p++) {
        if (*p == '"' || *p == '\'')
            publication[n++] = *p;
        publication[n++] = *p;
    }
    publication[n++] = '"';
    publication[n] = '\0';
    snprintf(
        sql, sizeof sql,
        "START_REPLICATION SLOT \"%s\" LOGICAL %X/%X (proto_version '1', publication_names '%s')",
        names->slot, (unsigned)(lsn >> 32), (unsigned)lsn, publication);
    PGresult *res;
    ss_status status = ss_postgres_run(stream->conn, "start streaming", sql, 0, NULL, &res, reterr);
    if (status != SS_OK)
        return status;
    if (PQresultStatus(res) != PGRES_COPY_BOTH) {
        status = ss_postgres_fail(reterr, "SS-PG-0053", __func__, stream->conn, res,
                                  "cannot start streaming from slot %s", names->slot);
        const char *sqlstate = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
        if (sqlstate && (strcmp(sqlstate, "55000") == 0 || strcmp(sqlstate, "42704") == 0))
            status =
                SS_RETRY; /* lost or dropped since open() looked: the next open says so as a gap */
    }
    PQclear(res);
    if (status != SS_OK)
        return status;
    if (PQsetnonblocking(stream->conn, 1) != 0)
        return broken(stream, __func__, NULL, reterr);
    stream->copying = true;
    stream->released = lsn;
    stream->heard_ms = ss_postgres_now_ms();
    stream->said_ms =
        ss_postgres_now_ms() - stream->interval_ms; /* the first feedback is due at once */
    return SS_OK;
}

ss_status ss_postgres_stream_next(ss_postgres_stream *stream, char **ret, size_t *ret_len,
                                  ss_error *reterr) {
    char *buffer = NULL;
    int got = PQgetCopyData(stream->conn, &buffer, 1);
    if (got > 0) {
        *ret = buffer;
        *ret_len = (size_t)got;
        stream->asked_ms = 0;
        return SS_OK;
    }
    if (got == 0)
        return SS_BUSY;
    if (got == -1) { /* CopyDone or an error of the server: its result says which */
        PGresult *res = PQgetResult(stream->conn);
        ss_status status = PQresultStatus(res) == PGRES_FATAL_ERROR
                               ? broken(stream, __func__, res, reterr)
                               : ss_fail(reterr, SS_RETRY, "SS-PG-0054",
                                         "the source ended the replication stream; it is shutting "
                                         "down or the connection was ended");
        PQclear(res);
        return status;
    }
    return broken(stream, __func__, NULL, reterr);
}

ss_status ss_postgres_stream_read(ss_postgres_stream *stream, ss_error *reterr) {
    return PQconsumeInput(stream->conn) == 0 ? broken(stream, __func__, NULL, reterr) : SS_OK;
}

static ss_status flush(ss_postgres_stream *stream, ss_error *reterr) {
    int left = PQflush(stream->conn);
    if (left < 0)
        return broken(stream, __func__, NULL, reterr);
    stream->flush_pending = left > 0;
    return SS_OK;
}

ss_status ss_postgres_stream_feedback(ss_postgres_stream *stream, bool now, ss_error *reterr) {
    int64_t at = ss_postgres_now_ms();
    int64_t since = at - stream->said_ms;
    bool due = now || stream->ask || since >= stream->interval_ms ||
               (stream->unsaid && since >= RELEASE_MS);
    if (!due)
        return stream->flush_pending ? flush(stream, reterr) : SS_OK;
    uint8_t message[SS_WALSENDER_STATUS_BYTES];
    ss_walsender_status(message, stream->released, wall_us(), stream->ask);
    int put = PQputCopyData(stream->conn, (const char *)message, sizeof message);
    if (put < 0)
        return broken(stream, __func__, NULL, reterr);
    if (put ==
        0) { /* the output buffer is full: the socket is waited for, and this is tried again */
        stream->flush_pending = true;
        return flush(stream, reterr);
    }
    stream->said_ms = at;
    stream->unsaid = false;
    if (stream->ask && stream->asked_ms == 0)
        stream->asked_ms = at;
    stream->ask = false;
    return flush(stream, reterr);
}

static int wait_limit(const ss_postgres_stream *stream, int wait_ms) {
    int64_t since = ss_postgres_now_ms() - stream->said_ms;
    int64_t left = (stream->unsaid ? RELEASE_MS : stream->interval_ms) - since;
    if (left < 0)
        left = 0;
    return wait_ms >= 0 && wait_ms < left ? wait_ms : (int)left;
}

ss_status ss_postgres_stream_wait(ss_postgres_stream *stream, int wait_ms, int wake_fd, int other,
                                  bool hold, bool *ret_woken, bool *ret_other, ss_error *reterr) {
    struct pollfd fds[3] = {
        {.fd = PQsocket(stream->conn),
         .events = (short)((hold ? 0 : POLLIN) | (stream->flush_pending ? POLLOUT : 0))},
        {.fd = wake_fd, .events = POLLIN},
        {.fd = other, .events = POLLIN},
    };
    *ret_woken = false;
    *ret_other = false;
    if (hold) /* who does not listen cannot say that nobody speaks */
        stream->asked_ms = 0;
    int n = poll(fds, 3, wait_limit(stream, wait_ms));
    if (n < 0 && errno != EINTR)
        return ss_fail_sys(reterr, SS_RETRY, "SS-PG-0007", errno,
                           "cannot wait for the replication connection");
    if (n <= 0)
        return SS_OK;
    *ret_woken = (fds[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
    *ret_other = fds[2].revents != 0;
    if (hold && (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0)
        return ss_fail(reterr, SS_RETRY, "SS-PG-0054",
                       "the replication connection was closed while the spool had no room");
    if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !hold) {
        ss_status status = ss_postgres_stream_read(stream, reterr);
        if (status != SS_OK)
            return status;
    }
    if ((fds[0].revents & POLLIN) != 0)
        stream->heard_ms = ss_postgres_now_ms();
    if ((fds[0].revents & POLLOUT) != 0)
        return flush(stream, reterr);
    return SS_OK;
}

/* ---- silence
 * ---------------------------------------------------------------------------------------------------- */

/* A quiet source is asked each second (nudge). An answer that does not come is told as what it is: nothing comes, or what comes is
 * so slow that no message is whole. Neither is an end by itself, see postgres_link.c. */
bool ss_postgres_stream_trouble(const ss_postgres_stream *stream, ss_error *ret) {
    int64_t now = ss_postgres_now_ms();
    if (stream->asked_ms == 0 || now - stream->asked_ms < SILENCE_MS)
        return false;
    int seconds = (int)((now - stream->asked_ms) / 1000);
    ss_status told =
        now - stream->heard_ms < SILENCE_MS
            ? ss_fail(ret, SS_RETRY, "SS-PG-0114",
                      "the link to the source is slow: a message has been arriving for %d s", seconds)
            : ss_fail(ret, SS_RETRY, "SS-PG-0113", "the source's walsender has not answered for %d s%s%s", seconds,
                      stream->found[0] ? "; " : "", stream->found);
    return told == SS_RETRY;
}

ss_status ss_postgres_stream_look(ss_postgres_stream *stream, ss_error *reterr) {
    int64_t now = ss_postgres_now_ms();
    if (stream->asked_ms == 0 || now - stream->heard_ms < SS_LINK_DEAD_MS || now - stream->asked_ms < SS_LINK_DEAD_MS) {
        stream->look_ms = 0;
        stream->found[0] = '\0';
        return SS_OK;
    }
    if (now < stream->look_ms)
        return SS_OK;
    bool lost = ss_postgres_link_lost(stream->conn, stream->found, sizeof stream->found);
    stream->look_ms = ss_postgres_now_ms() + LOOK_MS;
    return lost ? ss_fail(reterr, SS_RETRY, "SS-PG-0115", "the source's walsender has not answered for %d s, and %s",
                          (int)((now - stream->asked_ms) / 1000), stream->found)
                : SS_OK;
}
