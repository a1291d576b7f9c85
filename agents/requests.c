/* agent.sock: JSON lines from routes and the supervisor. Main thread, never blocking: what asks the
 * source goes to a worker (requests_work.c) and the peer's next line waits for its answer. */
#include "agents/requests_internal.h"
#include "agents/select.h"

#include "sidespool/listener.h"
#include "sidespool/log.h"
#include "sidespool/patient.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MOST ((size_t)1 << 20)
#define OUTPUT_MOST ((size_t)16 << 20) /* of a peer that does not read */
#define WAKE_MOST 4096                 /* wake bytes that nobody reads are not worth more */
#define PEERS_MOST 128
#define STATUS_LEFT_MOST 1000 /* tables that left, in a status */
#define STATUS_FRESH_MS 2000
#define STATUS_WAIT_MS 500 /* then what was known of the source last; looked at once a second, and the applier waits two for us */
#define FULL_SAY_MS 60000
#define VERIFY_QUIET_MS 600000 /* a snapshot that nobody asks keeps the source from cleaning up */

struct ss_peer {
    ss_peer *next, **link;
    ss_requests *requests;
    struct bufferevent *bev; /* NULL: gone; the struct waits for its work to come back */
    ss_work *work;           /* that a worker does for it */
    bool wants_wake, busy, digests;
    int64_t verify_asked_ms; /* when its verify was used last */
    int64_t status_until_ms; /* waits for a fresh source_status until then; 0: does not */
    ss_verify *verify;
};

struct ss_requests {
    ss_requests_setup setup;
    ss_listener *listener;
    struct event *done_event;
    ss_work_pool pool;
    ss_peer *peers;
    size_t peer_count, verifies;
    json_t *source_status;
    int64_t source_status_ms, full_said_ms;
    int64_t status_said_ms; /* that no worker could be had for the source's status; 0: never */
    bool status_running;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void process_lines(ss_peer *peer);

/* ---- answering
 * -------------------------------------------------------------------------------------------------------
 */

/* Takes the answer. NULL: no memory for it; then the peer learns it from the connection's end. */
static void send_json(ss_peer *peer, json_t *answer_take) {
    char *text = answer_take != NULL ? json_dumps(answer_take, JSON_COMPACT) : NULL;

    json_decref(answer_take);
    if (peer->bev == NULL) {
        free(text);
        return;
    }
    if (text == NULL || !ss_link_line(peer->bev, text)) {
        SS_LOG(SS_WARN, "answer_lost", SS_S("reason", "out of memory"));
        shutdown(bufferevent_getfd(peer->bev), SHUT_RDWR);
    }
    free(text);
}

static void send_error(ss_peer *peer, const ss_error *err, ss_status status) {
    send_json(peer,
              json_pack("{s:b, s:s, s:s, s:b}", "ok", 0, "code", err->code != NULL ? err->code : "",
                        "error", err->text, "retry", status == SS_RETRY || status == SS_BUSY));
}

static void send_refusal(ss_peer *peer, const char *what) {
    ss_error err = {0};
    ss_status status =
        ss_fail(&err, SS_STOP, "SS-AGENT-0031", "the request is not right: %s", what);
    send_error(peer, &err, status);
}

static void send_ok(ss_peer *peer, json_t *answer_take) {
    if (answer_take != NULL && json_object_set_new(answer_take, "ok", json_true()) != 0) {
        json_decref(answer_take);
        answer_take = NULL;
    }
    send_json(peer, answer_take);
}

static json_t *copy_json(const ss_copy_progress *copy) {
    if (!copy->running)
        return json_null();
    return json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "generation",
                     (json_int_t)copy->generation, "route", copy->route, "tables",
                     (json_int_t)copy->tables, "tables_done", (json_int_t)copy->tables_done, "rows",
                     (json_int_t)copy->rows, "bytes", (json_int_t)copy->bytes, "rows_estimate",
                     (json_int_t)copy->rows_estimate, "bytes_estimate",
                     (json_int_t)copy->bytes_estimate, "started", (json_int_t)copy->started_us,
                     "reason", copy->reason);
}

static json_t *status_json(ss_requests *requests) {
    ss_agent_snapshot now;
    const ss_requests_setup *setup = &requests->setup;

    ss_agent_status_get(setup->status, &now);
    json_t *json =
        json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:s, s:I, s:I, s:I, "
                  "s:s, s:I, s:I, s:I, s:I}",
                  "source", setup->env->name, "engine", setup->ops->name, "pid", (int)getpid(),
                  "state", ss_agent_state_name(now.state), "reason", now.reason, "code", now.code,
                  "since", (json_int_t)now.since_us, "position", now.position, "committed",
                  (json_int_t)now.committed, "first", (json_int_t)now.first, "copy_committed",
                  (json_int_t)now.copy_committed, "spool_id", now.spool_id, "epoch",
                  (json_int_t)now.epoch, "spool_used", (json_int_t)now.spool_used, "spool_quota",
                  (json_int_t)now.spool_quota, "released", now.released, "records",
                  (json_int_t)now.records, "source_time", (json_int_t)now.source_time_us,
                  "heard_ms", (json_int_t)now.heard_ms,
                  "last_change", (json_int_t)now.last_change);
    if (json == NULL)
        return NULL;
    json_t *source =
        requests->source_status != NULL ? json_incref(requests->source_status) : json_null();
    json_t *left = ss_selected_left(ss_pipeline_selected(setup->pipeline), STATUS_LEFT_MOST);
    if (json_object_set_new(json, "left", left) != 0 ||
        json_object_set_new(json, "copy", copy_json(&now.copy)) != 0 ||
        json_object_set_new(json, "source_status", source) != 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static void send_status(ss_peer *peer) {
    peer->status_until_ms = 0;
    peer->busy = false;
    send_ok(peer, status_json(peer->requests));
}

/* ---- work
 * ------------------------------------------------------------------------------------------------------------
 */

static ss_status start_work(ss_requests *requests, ss_work_kind kind, ss_peer *peer,
                            json_t *request, ss_verify *verify, ss_error *reterr) {
    ss_work *work = calloc(1, sizeof *work);

    if (work == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-AGENT-0002", "out of memory for a request");
    work->setup = &requests->setup;
    work->kind = kind;
    work->peer = peer;
    work->request = json_incref(request);
    work->verify = verify;
    if (peer != NULL)
        peer->work = work;
    ss_status status = ss_work_start(&requests->pool, work, reterr);
    if (status != SS_OK) {
        if (peer != NULL)
            peer->work = NULL;
        ss_work_free(work);
    }
    return status;
}

static void peer_work(ss_peer *peer, ss_work_kind kind, json_t *request) {
    ss_error err = {0};

    ss_status status = start_work(peer->requests, kind, peer, request, peer->verify, &err);
    if (status != SS_OK) {
        send_error(peer, &err, status);
        return;
    }
    peer->busy = true;
}

static void close_verify(ss_requests *requests, ss_verify *verify) {
    ss_error err = {0};

    if (verify == NULL)
        return;
    requests->verifies--;
    if (start_work(requests, SS_WORK_CLOSE, NULL, NULL, verify, &err) == SS_OK)
        return;
    ss_log_error(SS_WARN, "verify_closed_in_loop",
                 &err); /* no thread to be had: rather wait here than keep the snapshot */
    ss_verify_free(requests->setup.ops, verify);
}

static void refresh_status(ss_requests *requests) {
    ss_error err = {0};

    if (requests->status_running)
        return;
    if (start_work(requests, SS_WORK_STATUS, NULL, NULL, NULL, &err) == SS_OK) {
        requests->status_running = true;
        return;
    }
    int64_t now = ss_monotonic_ms();
    if (requests->status_said_ms == 0 || now - requests->status_said_ms >= FULL_SAY_MS) {
        requests->status_said_ms = now;
        ss_log_error(SS_WARN, "source_status_failed", &err);
    }
}

static void say_full(ss_requests *requests) {
    int64_t now = ss_monotonic_ms();

    if (ss_agent_state_get(requests->setup.status) != SS_AGENT_SPOOL_FULL ||
        (requests->full_said_ms != 0 && now - requests->full_said_ms < FULL_SAY_MS))
        return;
    requests->full_said_ms = now;
    json_t *retained = json_object_get(requests->source_status, "retained_bytes");
    SS_LOG(SS_WARN, "spool_full",
           SS_U("source_retains_bytes", (uint64_t)json_integer_value(retained)));
}

static void take_status(ss_requests *requests, ss_work *work) {
    requests->status_running = false;
    requests->source_status_ms = ss_monotonic_ms();
    /* In the log once, until it is well again; in `status` all the while. */
    if (work->status != SS_OK && json_object_get(requests->source_status, "error") == NULL)
        ss_log_error(SS_WARN, "source_status_failed", &work->err);
    json_decref(requests->source_status);
    if (work->status == SS_OK) {
        requests->source_status = work->answer;
        work->answer = NULL;
    } else {
        requests->source_status =
            json_pack("{s:s, s:s}", "code", work->err.code != NULL ? work->err.code : "", "error",
                      work->err.text);
    }
    say_full(requests);
    for (ss_peer *peer = requests->peers, *next; peer != NULL; peer = next) {
        next = peer->next;
        if (peer->status_until_ms == 0 || peer->bev == NULL)
            continue;
        send_status(peer);
        process_lines(peer);
    }
}

static void peer_free(ss_peer *peer) {
    *peer->link = peer->next;
    if (peer->next != NULL)
        peer->next->link = peer->link;
    peer->requests->peer_count--;
    close_verify(peer->requests, peer->verify);
    free(peer);
}

/* The connection ends; the struct stays while a worker has it. */
static void peer_close(ss_peer *peer) {
    bool working = peer->busy && peer->status_until_ms == 0;

    if (peer->bev != NULL)
        bufferevent_free(peer->bev);
    peer->bev = NULL;
    if (peer->work != NULL)
        atomic_store(&peer->work->abandoned, true);
    if (!working)
        peer_free(peer);
}

static void work_came_back(ss_requests *requests, ss_work *work) {
    ss_peer *peer = work->peer;

    if (work->kind == SS_WORK_STATUS)
        take_status(requests, work);
    if (peer == NULL)
        return;
    peer->busy = false;
    peer->work = NULL;
    peer->verify_asked_ms = ss_monotonic_ms();
    if (work->kind == SS_WORK_VERIFY_OPEN) {
        peer->verify = work->verify;
        if (peer->verify == NULL)
            requests->verifies--;
    }
    if (peer->bev == NULL) {
        peer_free(peer);
        return;
    }
    if (work->status == SS_OK) {
        send_ok(peer, work->answer);
        work->answer = NULL;
    } else {
        send_error(peer, &work->err, work->status);
    }
    process_lines(peer);
}

static void on_done(evutil_socket_t fd, short what, void *ctx) {
    ss_requests *requests = ctx;
    (void)fd;
    (void)what;

    for (ss_work *work = ss_work_pool_take(&requests->pool), *next; work != NULL; work = next) {
        next = work->next;
        work_came_back(requests, work);
        ss_work_free(work);
    }
}

/* ---- requests
 * --------------------------------------------------------------------------------------------------------
 */

/* Whether a person may name this table. A partition may be selected by the name of a table over it,
 * which only the source knows: one that the route has had is taken (its copy says so if it is not
 * selected any more), and one that it has not when the source lists it as new. */
static bool may_be_selected(const ss_requests *requests, const char *name, const char *ask) {
    const ss_source_env *env = requests->setup.env;
    const json_t *fresh = json_object_get(requests->source_status, "new_tables");

    if (env->exclude != NULL && env->exclude->count > 0 &&
        ss_select_match(env->exclude, NULL, name))
        return false;
    if (strcmp(ask, "new") != 0 || ss_select_match(env->include, NULL, name))
        return true;
    for (size_t i = 0; i < json_array_size(fresh); i++) {
        const char *listed = json_string_value(json_array_get(fresh, i));
        if (listed != NULL && strcmp(listed, name) == 0)
            return true;
    }
    return false;
}

static void handle_copy(ss_peer *peer, json_t *request) {
    const char *route = json_string_value(json_object_get(request, "route"));
    const json_t *tables = json_object_get(request, "tables");
    size_t count = json_array_size(tables);
    const char **names;
    uint64_t generation;
    bool running;
    ss_error err = {0};

    if (route == NULL || count == 0) {
        send_refusal(
            peer, "copy needs \"route\" and \"tables\", an array of \"schema.table\" or [\"*\"]");
        return;
    }
    names = calloc(count, sizeof *names);
    if (names == NULL) {
        send_refusal(peer, "out of memory");
        return;
    }
    const ss_source_env *env = peer->requests->setup.env;
    const char *ask = json_string_value(json_object_get(request, "check"));
    const char *unselected = NULL;
    ask = ask != NULL ? ask : "";
    bool all = false, bad = false;
    for (size_t i = 0; i < count; i++) {
        names[i] = json_string_value(json_array_get(tables, i));
        bad = bad || names[i] == NULL;
        all = all || (names[i] != NULL && strcmp(names[i], "*") == 0);
        if (names[i] != NULL && strcmp(names[i], "*") != 0 &&
            !may_be_selected(peer->requests, names[i], ask))
            unselected = names[i];
    }
    if (bad) {
        send_refusal(peer, "\"tables\" holds strings only");
    } else if (unselected != NULL) {
        ss_status status = ss_fail(&err, SS_STOP, "SS-AGENT-0014",
                                   "table %.120s is not selected by tables: in the file of source "
                                   "%s; add it there first",
                                   unselected, env->name);
        send_error(peer, &err, status);
    } else if (strcmp(ask, "known") == 0) {
        send_ok(peer, json_object());
    } else {
        ss_status status = ss_copies_request(peer->requests->setup.copies, route, names,
                                             all ? 0 : count, &generation, &running, &err);
        if (status == SS_OK)
            send_ok(peer, json_pack("{s:I, s:s}", "generation", (json_int_t)generation, "state",
                                    running ? "running" : "queued"));
        else
            send_error(peer, &err, status);
    }
    free(names);
}

/* With a source that is away the answer comes at once, with what was known of it last. */
static void handle_status(ss_peer *peer) {
    ss_requests *requests = peer->requests;
    int64_t now = ss_monotonic_ms();
    ss_agent_state state = ss_agent_state_get(requests->setup.status);
    bool fresh =
        requests->source_status != NULL && now - requests->source_status_ms < STATUS_FRESH_MS;

    if (!fresh)
        refresh_status(requests);
    if (fresh || !requests->status_running || state == SS_AGENT_WAITING_SOURCE ||
        state == SS_AGENT_STARTING) {
        send_status(peer);
        return;
    }
    peer->busy = true;
    peer->status_until_ms = now + STATUS_WAIT_MS;
}

static void handle_verify_open(ss_peer *peer, json_t *request) {
    if (peer->verify != NULL) {
        send_refusal(peer, "this connection has a verify open already");
        return;
    }
    if (peer->requests->verifies >= SS_VERIFIES_MAX) {
        ss_error err = {0};
        ss_status status = ss_fail(&err, SS_BUSY, "SS-AGENT-0032",
                                   "%d verifies run already; ask again", SS_VERIFIES_MAX);
        send_error(peer, &err, status);
        return;
    }
    peer_work(peer, SS_WORK_VERIFY_OPEN, request);
    if (peer->busy)
        peer->requests->verifies++;
}

static void handle_digest(ss_peer *peer, json_t *request, ss_work_kind kind) {
    if (peer->verify == NULL) {
        send_refusal(peer, "no verify is open on this connection; send verify_open first");
        return;
    }
    peer->digests = true;
    peer_work(peer, kind, request);
}

/* While capture stands still for a person, nobody's mark would ever be written: whoever waits is
 * told so. */
static void handle_mark(ss_peer *peer, json_t *request) {
    ss_agent_snapshot now;

    ss_agent_status_get(peer->requests->setup.status, &now);
    if (now.state == SS_AGENT_HALTED)
        send_json(peer, json_pack("{s:b, s:s, s:s, s:b, s:b}", "ok", 0, "code", now.code, "error",
                                  now.reason, "retry", 0, "halted", 1));
    else
        peer_work(peer, SS_WORK_MARK, request);
}

static void handle(ss_peer *peer, json_t *request) {
    const char *op = json_string_value(json_object_get(request, "op"));

    if (op == NULL) {
        send_refusal(peer, "\"op\" is missing");
    } else if (strcmp(op, "wake") == 0) {
        peer->wants_wake = true;
    } else if (strcmp(op, "status") == 0) {
        handle_status(peer);
    } else if (strcmp(op, "mark") == 0) {
        handle_mark(peer, request);
    } else if (strcmp(op, "copy") == 0) {
        handle_copy(peer, request);
    } else if (strcmp(op, "verify_open") == 0) {
        handle_verify_open(peer, request);
    } else if (strcmp(op, "digest") == 0) {
        handle_digest(peer, request, SS_WORK_DIGEST);
    } else if (strcmp(op, "digest_rows") == 0) {
        handle_digest(peer, request, SS_WORK_DIGEST_ROWS);
    } else if (strcmp(op, "pause") == 0) {
        ss_pipeline_pause(peer->requests->setup.pipeline);
        send_ok(peer, json_object());
    } else if (strcmp(op, "resume") == 0) {
        ss_pipeline_resume(peer->requests->setup.pipeline);
        send_ok(peer, json_object());
    } else {
        send_refusal(peer, "this \"op\" is not known");
    }
}

static void handle_line(ss_peer *peer, const char *line, size_t len) {
    json_error_t parse;
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &parse);

    if (json_is_object(request))
        handle(peer, request);
    else
        send_refusal(peer, "a line is not one JSON object");
    json_decref(request);
}

/* ---- peers
 * -----------------------------------------------------------------------------------------------------------
 */

/* One line at a time; while a worker has this peer's request, nothing more is read from it. */
static void process_lines(ss_peer *peer) {
    struct evbuffer *in = bufferevent_get_input(peer->bev);

    while (!peer->busy) {
        size_t len = 0;
        char *line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
        if (line == NULL)
            break;
        if (len > 0)
            handle_line(peer, line, len);
        free(line);
        size_t most = peer->digests ? 2 * OUTPUT_MOST : OUTPUT_MOST;
        if (evbuffer_get_length(bufferevent_get_output(peer->bev)) > most) {
            SS_LOG(SS_WARN, "peer_closed", SS_S("reason", "it does not read its answers"));
            peer_close(peer);
            return;
        }
    }
    if (!peer->busy && evbuffer_get_length(in) >= LINE_MOST) {
        SS_LOG(SS_WARN, "peer_closed", SS_S("reason", "it sent a line over 1 MiB"));
        peer_close(peer);
        return;
    }
    if (peer->busy) {
        bufferevent_disable(peer->bev, EV_READ);
    } else if (bufferevent_enable(peer->bev, EV_READ) != 0) {
        SS_LOG(SS_WARN, "peer_closed", SS_S("reason", "the event loop has no memory for it"));
        peer_close(peer);
    }
}

static void on_read(struct bufferevent *bev, void *ctx) {
    (void)bev;
    process_lines(ctx);
}

static void on_event(struct bufferevent *bev, short what, void *ctx) {
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT))
        peer_close(ctx);
}

/* False: the socket is still the caller's. */
static bool peer_new(ss_requests *requests, evutil_socket_t fd) {
    ss_peer *peer = calloc(1, sizeof *peer);

    if (peer == NULL)
        return false;
    peer->bev = bufferevent_socket_new(requests->setup.base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (peer->bev == NULL) {
        free(peer);
        return false;
    }
    peer->requests = requests;
    peer->next = requests->peers;
    peer->link = &requests->peers;
    if (peer->next != NULL)
        peer->next->link = &peer->next;
    requests->peers = peer;
    requests->peer_count++;
    bufferevent_setcb(peer->bev, on_read, NULL, on_event, peer);
    if (bufferevent_enable(peer->bev, EV_READ | EV_WRITE) != 0) {
        SS_LOG(SS_WARN, "peer_closed", SS_S("reason", "the event loop has no memory for it"));
        peer_close(peer); /* it sees the end, and comes again */
    }
    return true;
}

static void on_accept(void *ctx, evutil_socket_t fd) {
    ss_requests *requests = ctx;
    struct ucred who = {0};
    socklen_t size = sizeof who;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
        SS_LOG(SS_DEBUG, "peer", SS_I("pid", who.pid), SS_I("uid", who.uid), SS_I("gid", who.gid));
    if (requests->peer_count >= PEERS_MOST || !peer_new(requests, fd)) {
        SS_LOG(SS_WARN, "peer_refused", SS_I("pid", who.pid), SS_I("uid", who.uid),
               SS_U("peers", requests->peer_count));
        close(fd);
    }
}

void ss_requests_wake(ss_requests *requests) {
    for (ss_peer *peer = requests->peers; peer != NULL; peer = peer->next) {
        if (!peer->wants_wake || peer->bev == NULL)
            continue;
        size_t waiting = evbuffer_get_length(bufferevent_get_output(peer->bev));
        if (waiting < WAKE_MOST && !ss_link_write(peer->bev, ".", 1))
            SS_LOG(SS_DEBUG, "wake_lost", SS_U("waiting", waiting)); /* it looks by itself every second */
    }
}

void ss_requests_tick(ss_requests *requests) {
    int64_t now = ss_monotonic_ms();

    for (ss_peer *peer = requests->peers, *next; peer != NULL; peer = next) {
        next = peer->next;
        if (peer->verify != NULL && !peer->busy && now - peer->verify_asked_ms >= VERIFY_QUIET_MS) {
            SS_LOG(SS_WARN, "peer_closed",
                   SS_S("reason", "its verify has asked nothing for 10 minutes"));
            peer_close(peer);
            continue;
        }
        if (peer->status_until_ms == 0 || now < peer->status_until_ms || peer->bev == NULL)
            continue;
        send_status(peer);
        process_lines(peer);
    }
    if (ss_agent_state_get(requests->setup.status) != SS_AGENT_SPOOL_FULL)
        requests->full_said_ms = 0;
    else if (requests->full_said_ms == 0 || now - requests->full_said_ms >= FULL_SAY_MS)
        refresh_status(requests);
}

/* ---- the socket
 * ------------------------------------------------------------------------------------------------------
 */

/* What is there at the path was left by a dead agent: a living one would hold the spool's lock,
 * which is ours. */
static ss_status bind_socket(ss_requests *requests, int *ret, ss_error *reterr) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[4096];

    int len = snprintf(path, sizeof path, "%s/agent.sock", ss_spool_dir(requests->setup.spool));
    if (len < 0 || (size_t)len >= sizeof address.sun_path)
        return ss_fail(reterr, SS_STOP, "SS-AGENT-0030",
                       "the path of the agent's socket, %s, has %d bytes, and a socket's may have "
                       "107: choose a shorter spool.path",
                       path, len);
    memcpy(requests->path, path, (size_t)len + 1);
    memcpy(address.sun_path, path, (size_t)len + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0030", errno,
                           "cannot make the agent's socket");
    if ((unlink(path) != 0 && errno != ENOENT) ||
        bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || chmod(path, 0660) != 0 ||
        listen(fd, 64) != 0) {
        int err = errno;
        close(fd);
        return ss_fail_sys(reterr, SS_STOP, "SS-AGENT-0030", err, "cannot listen on %s", path);
    }
    *ret = fd;
    return SS_OK;
}

static void free_parts(ss_requests *requests) {
    if (requests->listener != NULL) {
        ss_listener_free(requests->listener);
        unlink(requests->path);
    }
    if (requests->done_event != NULL)
        event_free(requests->done_event);
    json_decref(requests->source_status);
    ss_work_pool_done(&requests->pool);
    free(requests);
}

ss_status ss_requests_new(const ss_requests_setup *setup, ss_requests **ret, ss_error *reterr) {
    ss_requests *requests = calloc(1, sizeof *requests);
    int fd = -1;

    if (requests == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "out of memory");
    requests->setup = *setup;
    ss_status status = ss_work_pool_init(&requests->pool, reterr);
    if (status != SS_OK) {
        free(requests);
        return status;
    }
    status = bind_socket(requests, &fd, reterr);
    if (status != SS_OK)
        goto out;
    status = ss_listener_new(setup->base, fd, requests->path, on_accept, requests,
                             &requests->listener, reterr);
    if (status != SS_OK) {
        close(fd);
        goto out;
    }
    requests->done_event =
        event_new(setup->base, requests->pool.done_fd, EV_READ | EV_PERSIST, on_done, requests);
    if (requests->done_event == NULL || event_add(requests->done_event, NULL) != 0) {
        status = ss_fail(reterr, SS_RETRY, "SS-SYS-0002",
                         "the event loop cannot take the agent's workers");
        goto out;
    }
    *ret = requests;
    return SS_OK;
out:
    free_parts(requests);
    return status;
}

bool ss_requests_free(ss_requests *requests, int wait_ms) {
    ss_peer *next;

    for (ss_peer *peer = requests->peers; peer != NULL; peer = next) {
        next = peer->next;
        if (peer->bev != NULL)
            peer_close(peer);
    }
    bool none = ss_work_pool_wait(&requests->pool, wait_ms);
    on_done(-1, 0,
            requests); /* frees peers whose work came back, and may start closing their snapshots */
    none = none && ss_work_pool_wait(&requests->pool, wait_ms);
    on_done(-1, 0, requests);
    if (none)
        free_parts(requests);
    return none;
}
