/* The control socket: one JSON request a connection, progress lines, one last line
 * (docs/architecture.md). Runs in the supervisor's loop. A client is freed when its last line has
 * been written or its peer has gone. */
#include "applier/supervisor.h"

#include "sidespool/log.h"
#include "sidespool/patient.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    REQUEST_PATIENCE_S = 10,
    REPLY_PATIENCE_S = 60,
    AGENT_AGAIN_MS = 1000,
    MARK_OVERDUE_US = 2000000
};

typedef enum { FOR_REQUEST, FOR_STATUS, FOR_REPLY, FOR_MARK, FOR_VERIFY, FOR_GOODBYE } client_waits;

struct ss_client {
    ss_supervisor *sup;
    ss_client *next, *prev;
    struct bufferevent *link;
    struct event *timer; /* patience; what its end means depends on `waits` */
    struct event *again; /* FOR_MARK: ask the agent once more */
    client_waits waits;
    ss_route_proc *route;
    uint64_t number;       /* of the command whose reply is awaited */
    char id[33];           /* of a mark or a verify */
    int64_t asked_us;      /* FOR_MARK: when the agent was asked last */
    bool marked;           /* FOR_MARK: the route has met the mark */
    bool pause, was_asked; /* FOR_REPLY: which wish is remembered once taken; FOR_MARK: the agent
                              has taken the mark once */
    char command[16];
    ss_status_job *job;
    ss_agent_link *ask;
};

/* ---- the end of a client --------------------------------------------------------------------- */

static void client_free(ss_client *client) {
    ss_supervisor *sup = client->sup;
    /* Whoever asked is gone: its verify must not go on holding a snapshot at the source. */
    if (client->waits == FOR_VERIFY)
        (void)ss_route_send(client->route,
                            json_pack("{s:s,s:s}", "cmd", "verify_cancel", "id", client->id));
    if (client->prev)
        client->prev->next = client->next;
    else
        sup->clients = client->next;
    if (client->next)
        client->next->prev = client->prev;
    sup->client_count--;
    ss_status_job_free(client->job);
    ss_agent_link_free(client->ask);
    if (client->timer)
        event_free(client->timer);
    if (client->again)
        event_free(client->again);
    if (client->link)
        bufferevent_free(client->link);
    free(client);
}

static void on_written(struct bufferevent *link, void *ctx) {
    ss_client *client = ctx;
    /* libevent also calls this once when writing is enabled, with nothing written yet. */
    if (client->waits == FOR_GOODBYE && evbuffer_get_length(bufferevent_get_output(link)) == 0)
        client_free(client);
}

static bool put_line(ss_client *client, json_t *line_take) {
    char *text = line_take ? json_dumps(line_take, JSON_COMPACT) : NULL;
    json_decref(line_take);
    bool put = text && ss_link_line(client->link, text);
    free(text);
    return put;
}

/* The last line (taken). What the client waited for no longer concerns it; it goes once the line is
 * out. */
static void finish(ss_client *client, json_t *line_take) {
    struct timeval patience = {REQUEST_PATIENCE_S, 0};
    client->waits = FOR_GOODBYE;
    ss_agent_link_free(client->ask);
    client->ask = NULL;
    if (client->again)
        evtimer_del(client->again);
    evtimer_add(client->timer, &patience);
    /* Out of memory: the peer sees the connection end without a last line, which the command
     * reports. */
    if (!put_line(client, line_take))
        client_free(client);
}

static void done(ss_client *client) {
    finish(client, json_pack("{s:b,s:i}", "ok", 1, "exit", SS_EXIT_DONE));
}

static void refuse(ss_client *client, int exit_code, const char *code, const char *fmt, ...)
    SS_PRINTF(4, 5);
static void refuse(ss_client *client, int exit_code, const char *code, const char *fmt, ...) {
    char text[2048];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    /* Cutting may have torn the last character, and torn text is no JSON. */
    size_t len = strlen(text);
    json_t *sentence = NULL;
    for (size_t cut = 0; !sentence && cut < 4 && cut <= len; cut++)
        sentence = json_stringn(text, len - cut);
    finish(client, json_pack("{s:b,s:i,s:s,s:o*}", "ok", 0, "exit", exit_code, "code", code,
                             "error", sentence));
}

/* ---- wait ------------------------------------------------------------------------------------ */

static void refuse_halted(ss_client *client, const char *reason) {
    refuse(client, SS_EXIT_NOT_SO, "SS-APP-0020", "Route %s is halted: %s",
           client->route->config->name, *reason ? reason : "it gives no reason; see its log.");
}

static void ask_mark(ss_client *client);

static void on_again(evutil_socket_t fd, short what, void *ctx) {
    (void)fd;
    (void)what;
    ask_mark(ctx);
}

static void on_mark_answer(void *ctx, json_t *answer, bool absent, const char *error) {
    ss_client *client = ctx;
    if (answer && json_is_true(json_object_get(answer, "ok"))) {
        /* The connection stays open: its end tells that the agent, and perhaps the mark in its
         * memory, is gone. */
        client->was_asked = true;
        return;
    }
    if (answer && json_is_true(json_object_get(answer, "halted"))) {
        const char *code = ss_json_text(answer, "code", "");
        refuse(client, SS_EXIT_NOT_SO, *code ? code : "SS-APP-0021",
               "The agent of source %s is halted: %s", client->route->config->source,
               ss_json_text(answer, "error", "it gives no reason; see its log."));
        return;
    }
    if (answer) {
        refuse(client, SS_EXIT_AGAIN, ss_json_text(answer, "code", "SS-APP-0021"), "%s",
               ss_json_text(answer, "error", "The agent refused the mark without saying why."));
        return;
    }
    if (!client->was_asked) {
        refuse(client, absent ? SS_EXIT_ABSENT : SS_EXIT_AGAIN, "SS-APP-0021",
               "%s Without it nobody knows what the source holds: start it with systemctl start "
               "sidespool-postgres@%s.",
               error, client->route->config->source);
        return;
    }
    ss_agent_link_free(client->ask);
    client->ask = NULL;
    /* It answered once, so it is being restarted. A second mark with the same id stands later: no
     * promise is weakened. */
    struct timeval wait = {AGENT_AGAIN_MS / 1000, AGENT_AGAIN_MS % 1000 * 1000};
    evtimer_add(client->again, &wait);
}

static void ask_mark(ss_client *client) {
    client->asked_us = ss_steady_us();
    ss_agent_link_free(client->ask);
    client->ask = ss_agent_link_new(
        client->sup, client->route->config->source,
        json_pack("{s:s,s:s,s:s}", "op", "mark", "id", client->id, "kind", "wait"),
        10 * SS_AGENT_TIMEOUT_MS, on_mark_answer, client);
    if (!client->ask)
        refuse(client, SS_EXIT_AGAIN, "SS-APP-0008", "The applier is out of memory.");
}

static void tell_state(ss_client *client) {
    char scratch[768];
    const char *reason;
    const char *state = ss_route_state(client->route, scratch, sizeof(scratch), &reason);
    if (evbuffer_get_length(bufferevent_get_output(client->link)) > SS_REQUEST_MAX)
        return; /* it does not read; the last line will do */
    /* Out of memory for a progress line is no reason to end the wait. */
    (void)put_line(client,
                   json_pack("{s:{s:s,s:s,s:I,s:O*}}", "progress", "state", state, "reason", reason,
                             "behind_records",
                             (json_int_t)ss_json_int(client->route->status, "behind_records"),
                             "tables", json_object_get(client->route->status, "tables")));
}

static bool make_id(char id[33]) {
    uint8_t random[16];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return false;
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(id + 2 * i, 3, "%02x", random[i]);
    return true;
}

static void start_wait(ss_client *client, const json_t *request) {
    char scratch[768];
    const char *reason;
    const json_t *limit = json_object_get(request, "timeout");
    if (strcmp(ss_route_state(client->route, scratch, sizeof(scratch), &reason), "halted") == 0) {
        refuse_halted(client, reason);
        return;
    }
    client->again = evtimer_new(client->sup->base, on_again, client);
    if (!client->again || !make_id(client->id)) {
        refuse(client, SS_EXIT_AGAIN, "SS-APP-0008",
               "The applier is out of memory or of random numbers.");
        return;
    }
    client->waits = FOR_MARK;
    if (json_is_number(limit)) {
        double seconds = json_number_value(limit);
        seconds = seconds < 0 ? 0 : seconds > 1e8 ? 1e8 : seconds;
        struct timeval wait = {(time_t)seconds,
                               (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
        evtimer_add(client->timer, &wait);
    } else {
        evtimer_del(client->timer);
    }
    ask_mark(client);
}

/* ---- commands that a route answers ----------------------------------------------------------- */

static void start_command(ss_client *client, json_t *command_take) {
    struct timeval patience = {REPLY_PATIENCE_S, 0};
    client->number = ss_route_send(client->route, command_take);
    if (client->number == 0) {
        char scratch[768];
        const char *reason;
        (void)ss_route_state(client->route, scratch, sizeof(scratch), &reason);
        refuse(client, SS_EXIT_AGAIN, "SS-APP-0022",
               "Route %s is not running now (%s): try again in a moment.",
               client->route->config->name, reason);
        return;
    }
    if (client->waits == FOR_VERIFY)
        evtimer_del(client->timer);
    else
        evtimer_add(client->timer, &patience);
}

static void start_pause(ss_client *client, bool pause) {
    ss_error err = {0};
    if (ss_route_set_paused(client->route, pause, &err) != SS_OK) {
        refuse(client, SS_EXIT_IO, err.code, "%s.", err.text);
        return;
    }
    if (client->route->pid == 0 || !client->route->link) {
        done(client); /* it is told as soon as its process is there */
        return;
    }
    client->waits = FOR_REPLY;
    client->pause = pause;
    start_command(client, json_pack("{s:s}", "cmd", pause ? "pause" : "resume"));
}

/* A list of table names, ["*"] when there is none. NULL: not such a list. */
static json_t *tables_of(const json_t *request) {
    json_t *tables = json_object_get(request, "tables");
    size_t i;
    json_t *name;
    if (!tables || (json_is_array(tables) && json_array_size(tables) == 0))
        return json_pack("[s]", "*");
    if (!json_is_array(tables))
        return NULL;
    json_array_foreach(tables, i, name) if (!json_is_string(name)) return NULL;
    return json_incref(tables);
}

static void start_tables(ss_client *client, const json_t *request) {
    json_t *tables = tables_of(request);
    if (!tables) {
        refuse(client, SS_EXIT_USAGE, "SS-APP-0023",
               "\"tables\" has to be a list of names such as \"public.users\".");
        return;
    }
    if (strcmp(client->command, "verify") == 0) {
        if (!make_id(client->id)) {
            json_decref(tables);
            refuse(client, SS_EXIT_AGAIN, "SS-APP-0008", "The applier is out of random numbers.");
            return;
        }
        client->waits = FOR_VERIFY;
        start_command(client, json_pack("{s:s,s:s,s:o}", "cmd", "verify", "id", client->id,
                                        "tables", tables));
        return;
    }
    client->waits = FOR_REPLY;
    start_command(client, json_pack("{s:s,s:o}", "cmd", "resync", "tables", tables));
}

static void start_replay(ss_client *client, const json_t *request) {
    const json_t *from = json_object_get(request, "from");
    if (!json_is_integer(from) || json_integer_value(from) < 1) {
        refuse(client, SS_EXIT_USAGE, "SS-APP-0023", "\"from\" has to be a sequence, 1 or more.");
        return;
    }
    client->waits = FOR_REPLY;
    start_command(client,
                  json_pack("{s:s,s:I,s:b}", "cmd", "replay", "from", json_integer_value(from), "force",
                            json_is_true(json_object_get(request, "force"))));
}

/* ---- the request ----------------------------------------------------------------------------- */

static void on_status_done(void *ctx, json_t *status_take) {
    ss_client *client = ctx;
    ss_status_job_free(client->job);
    client->job = NULL;
    finish(client, status_take);
}

static void start_status(ss_client *client) {
    client->waits = FOR_STATUS;
    evtimer_del(client->timer);
    client->job = ss_status_job_new(client->sup, on_status_done, client);
    if (!client->job)
        refuse(client, SS_EXIT_AGAIN, "SS-APP-0008", "The applier is out of memory.");
}

static void refuse_route(ss_client *client, const char *name) {
    char known[1024] = "";
    size_t used = 0;
    for (size_t i = 0; i < client->sup->route_count && used + 2 * SS_NAME_MAX < sizeof(known); i++)
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "",
                                 client->sup->routes[i].config->name);
    refuse(client, SS_EXIT_USAGE, "SS-APP-0024", "There is no route \"%.80s\". Known: %s.", name,
           known);
}

static void log_command(ss_client *client) {
    struct ucred peer = {0};
    socklen_t len = sizeof(peer);
    if (getsockopt(bufferevent_getfd(client->link), SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        peer.uid = (uid_t)-1;
    SS_LOG(SS_INFO, "command", SS_S("command", client->command),
           SS_S("route", client->route->config->name), SS_U("uid", peer.uid),
           SS_I("pid", peer.pid));
}

static void on_request(ss_client *client, const json_t *request) {
    const char *command = ss_json_text(request, "cmd", "");
    const char *name = ss_json_text(request, "route", "");
    const char *spool = ss_json_text(request, "spool", client->sup->config->spool_path);
    if (strcmp(spool, client->sup->config->spool_path) != 0) {
        refuse(client, SS_EXIT_ABSENT, "SS-APP-0025",
               "The applier that listens here serves the spool %s, not %s: it was started with "
               "another file; name that one with --config FILE.",
               client->sup->config->spool_path, spool);
        return;
    }
    (void)snprintf(client->command, sizeof(client->command), "%s", command);
    if (strcmp(command, "status") == 0) {
        start_status(client);
        return;
    }
    client->route = ss_routes_find(client->sup, name);
    if (!client->route) {
        refuse_route(client, name);
        return;
    }
    log_command(client);
    if (strcmp(command, "wait") == 0)
        start_wait(client, request);
    else if (strcmp(command, "pause") == 0 || strcmp(command, "resume") == 0)
        start_pause(client, command[0] == 'p');
    else if (strcmp(command, "resync") == 0 || strcmp(command, "verify") == 0)
        start_tables(client, request);
    else if (strcmp(command, "replay") == 0)
        start_replay(client, request);
    else
        refuse(client, SS_EXIT_USAGE, "SS-APP-0023", "The applier knows no command \"%.40s\".",
               command);
}

static void on_read(struct bufferevent *link, void *ctx) {
    ss_client *client = ctx;
    struct evbuffer *in = bufferevent_get_input(link);
    size_t len;
    if (client->waits != FOR_REQUEST) {
        (void)evbuffer_drain(in, evbuffer_get_length(in));
        return;
    }
    char *line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
    if (!line) {
        if (evbuffer_get_length(in) > SS_REQUEST_MAX)
            refuse(client, SS_EXIT_USAGE, "SS-APP-0023", "The request is longer than %u bytes.",
                   SS_REQUEST_MAX);
        return;
    }
    json_t *request = json_loadb(line, len, 0, NULL);
    free(line);
    if (json_is_object(request))
        on_request(client, request);
    else
        refuse(client, SS_EXIT_USAGE, "SS-APP-0023",
               "The request is not a JSON object on one line.");
    json_decref(request);
}

static void on_event(struct bufferevent *link, short what, void *ctx) {
    (void)link;
    (void)what;
    client_free(ctx);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx) {
    ss_client *client = ctx;
    char scratch[768];
    const char *reason, *state;
    (void)fd;
    (void)what;
    if (client->waits == FOR_MARK && !client->was_asked) {
        refuse(client, SS_EXIT_AGAIN, "SS-APP-0021",
               "The agent of source %s has not said in time how far its source is: it hangs, or its source does not answer; see "
               "sidespool status.",
               client->route->config->source);
        return;
    }
    if (client->waits == FOR_REPLY || client->waits == FOR_MARK) {
        state = ss_route_state(client->route, scratch, sizeof(scratch), &reason);
        refuse(client, SS_EXIT_AGAIN, client->waits == FOR_MARK ? "SS-APP-0026" : "SS-APP-0027",
               client->waits == FOR_MARK ? "Not there yet: route %s is %s%s%s."
                                         : "Route %s has not answered in time; it is %s%s%s.",
               client->route->config->name, state, *reason ? ": " : "", reason);
        return;
    }
    client_free(client);
}

/* ---- what routes say ------------------------------------------------------------------------- */

static void on_reply(ss_client *client, const json_t *message) {
    if (json_is_true(json_object_get(message, "ok"))) {
        if (client->waits == FOR_REPLY) {
            SS_LOG(SS_INFO, "command_done", SS_S("command", client->command),
                   SS_S("route", client->route->config->name));
            done(client);
        }
        return; /* a verify that was taken: its result follows */
    }
    const json_t *exit_code = json_object_get(message, "exit");
    char scratch[768];
    const char *reason;
    if (client->waits == FOR_VERIFY &&
        strcmp(ss_route_state(client->route, scratch, sizeof(scratch), &reason), "halted") == 0) {
        refuse(client, SS_EXIT_NOT_SO, "SS-ROUTE-0007",
               "verify needs a route that runs, and route %s is halted: %s Mend that first, then "
               "verify; `sidespool status` shows the command.",
               client->route->config->name, *reason ? reason : "it gives no reason; see its log.");
        return;
    }
    refuse(client, json_is_integer(exit_code) ? (int)json_integer_value(exit_code) : SS_EXIT_NOT_SO,
           ss_json_text(message, "code", "SS-APP-0028"), "%s",
           ss_json_text(message, "error", "The route refused without saying why; see its log."));
}

static void on_verify(ss_client *client, json_t *message) {
    json_t *progress = json_object_get(message, "progress"),
           *result = json_object_get(message, "result");
    if (progress) {
        (void)put_line(client, json_pack("{s:O}", "progress", progress));
    } else if (result) {
        bool equal = json_is_true(json_object_get(result, "equal"));
        finish(client, json_pack("{s:b,s:i,s:O}", "ok", equal, "exit",
                                 equal ? SS_EXIT_DONE : SS_EXIT_NOT_SO, "result", result));
    } else {
        char scratch[768];
        const char *why;
        bool halted = strcmp(ss_route_state(client->route, scratch, sizeof(scratch), &why),
                             "halted") == 0;
        refuse(client, halted ? SS_EXIT_NOT_SO : SS_EXIT_AGAIN,
               ss_json_text(message, "code", "SS-APP-0028"), "%s",
               ss_json_text(message, "error", "The route could not compare, and did not say why."));
    }
}

/* A mark that was met tells how far the stream is applied. While a table is still being copied or
 * catches up, the target does not hold all that the mark stands for; a table that is ready does,
 * because it joined at or beyond the stream's place. */
static bool is_whole(const ss_route_proc *route) {
    const json_t *tables = json_object_get(route->status, "tables");
    return strcmp(ss_json_text(route->status, "state", ""), "streaming") == 0 &&
           ss_json_int(tables, "ready") == ss_json_int(tables, "total");
}

/* The route has applied all there is and has not met the mark: it stood before the place where the
 * route began, or an agent that was restarted had it in memory alone. A later mark with the same id
 * is as good. */
static bool is_overdue(const ss_client *client) {
    return !client->marked && client->was_asked && is_whole(client->route) &&
           ss_json_int(client->route->status, "behind_records") == 0 &&
           ss_steady_us() - client->asked_us > MARK_OVERDUE_US;
}

static void on_mark(ss_client *client) {
    client->marked = true;
    if (is_whole(client->route))
        done(client);
}

void ss_control_route_said(ss_route_proc *route, json_t *message) {
    const char *mark = ss_json_text(message, "mark", NULL);
    const char *verify = ss_json_text(message, "verify", NULL);
    const json_t *reply = json_object_get(message, "reply");
    for (ss_client *client = route->sup->clients, *next; client; client = next) {
        next = client->next;
        if (client->route != route)
            continue;
        if (mark && client->waits == FOR_MARK && strcmp(client->id, mark) == 0)
            on_mark(client);
        else if (verify && client->waits == FOR_VERIFY && strcmp(client->id, verify) == 0)
            on_verify(client, message);
        else if (json_is_integer(reply) &&
                 (client->waits == FOR_REPLY || client->waits == FOR_VERIFY) &&
                 (uint64_t)json_integer_value(reply) == client->number)
            on_reply(client, message);
    }
}

void ss_control_route_status(ss_route_proc *route) {
    char scratch[768];
    const char *reason;
    bool halted = strcmp(ss_route_state(route, scratch, sizeof(scratch), &reason), "halted") == 0;
    for (ss_client *client = route->sup->clients, *next; client; client = next) {
        next = client->next;
        if (client->route != route || client->waits != FOR_MARK)
            continue;
        if (halted)
            refuse_halted(client, reason);
        else if (client->marked && is_whole(route))
            done(client);
        else if (is_overdue(client))
            ask_mark(client);
        else
            tell_state(client);
    }
}

/* The mark may have been applied just before the process died, unsaid: a new one is met again for
 * certain. */
void ss_control_route_started(ss_route_proc *route) {
    for (ss_client *client = route->sup->clients; client; client = client->next)
        if (client->route == route && client->waits == FOR_MARK)
            event_active(client->again, EV_TIMEOUT, 0);
}

void ss_control_route_unheard(ss_route_proc *route) {
    for (ss_client *client = route->sup->clients, *next; client; client = next) {
        next = client->next;
        if (client->route == route && (client->waits == FOR_REPLY || client->waits == FOR_VERIFY))
            refuse(client, SS_EXIT_AGAIN, "SS-APP-0022",
                   "What route %s answered could not be read: try again.", route->config->name);
    }
}

void ss_control_route_ended(ss_route_proc *route) {
    for (ss_client *client = route->sup->clients, *next; client; client = next) {
        next = client->next;
        if (client->route != route)
            continue;
        if (client->waits == FOR_REPLY && (strcmp(client->command, "pause") == 0))
            done(client); /* nothing is being applied, and its next process is told first of all */
        else if (client->waits == FOR_REPLY || client->waits == FOR_VERIFY)
            refuse(client, SS_EXIT_AGAIN, "SS-APP-0022",
                   "The process of route %s %s meanwhile: try again.", route->config->name,
                   route->ended);
    }
}

/* ---- the socket ------------------------------------------------------------------------------ */

static void on_accept(void *ctx, evutil_socket_t fd) {
    ss_supervisor *sup = ctx;
    struct timeval patience = {REQUEST_PATIENCE_S, 0};
    ss_client *client = sup->client_count < SS_CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
    if (!client) {
        SS_LOG(SS_WARN, "client_refused",
               SS_S("reason", sup->client_count < SS_CLIENTS_MAX ? "out of memory" : "too many at once"));
        close(fd);
        return;
    }
    client->sup = sup;
    client->next = sup->clients;
    if (client->next)
        client->next->prev = client;
    sup->clients = client;
    sup->client_count++;
    client->timer = evtimer_new(sup->base, on_timer, client);
    client->link =
        bufferevent_socket_new(sup->base, fd, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    if (!client->link)
        close(fd);
    if (!client->timer || !client->link) {
        SS_LOG(SS_WARN, "client_refused", SS_S("reason", "out of memory"));
        client_free(client);
        return;
    }
    bufferevent_setcb(client->link, on_read, on_written, on_event, client);
    if (bufferevent_enable(client->link, EV_READ | EV_WRITE) != 0 || evtimer_add(client->timer, &patience) != 0) {
        SS_LOG(SS_WARN, "client_refused", SS_S("reason", "the event loop has no memory"));
        client_free(client); /* it sees the end, and asks again */
    }
}

ss_status ss_control_path(const ss_applier_config *config, char ret[SS_SOCKET_PATH_MAX + 1],
                          ss_error *reterr) {
    char path[4096];
    if (config->control_socket)
        (void)snprintf(path, sizeof(path), "%s", config->control_socket);
    else if (access("/run/sidespool", W_OK) == 0)
        (void)snprintf(path, sizeof(path), "/run/sidespool/applier.sock");
    else
        (void)snprintf(path, sizeof(path), "%s/applier.sock", config->spool_path);
    if (strlen(path) > SS_SOCKET_PATH_MAX)
        return ss_fail(reterr, SS_STOP, "SS-APP-0006",
                       "The control socket %s would be longer than %d bytes, which a socket's path "
                       "may have: set "
                       "control: {socket: …} in %s to a shorter one.",
                       path, SS_SOCKET_PATH_MAX, config->path);
    memcpy(ret, path, strlen(path) + 1);
    return SS_OK;
}

/* We hold the flock beside it, so a socket that is there already belongs to nobody. */
ss_status ss_control_open(ss_supervisor *sup, ss_error *reterr) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    memcpy(addr.sun_path, sup->socket_path, strlen(sup->socket_path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err = fd < 0 ? errno : 0;
    if (err == 0 && unlink(sup->socket_path) < 0 && errno != ENOENT)
        err = errno;
    mode_t before = umask(0117); /* never open to others, not even between bind and chmod */
    if (err == 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        err = errno;
    (void)umask(before);
    if (err == 0 && (chmod(sup->socket_path, 0660) < 0 || listen(fd, 64) < 0))
        err = errno;
    if (err == 0) {
        ss_status status =
            ss_listener_new(sup->base, fd, sup->socket_path, on_accept, sup, &sup->listener, reterr);
        if (status != SS_OK)
            close(fd);
        return status;
    }
    if (fd >= 0)
        close(fd);
    return ss_fail_sys(reterr, SS_STOP, "SS-APP-0012", err,
                       "The control socket %s cannot be opened; give the applier write rights in "
                       "its directory, or set "
                       "control: {socket: …}",
                       sup->socket_path);
}

void ss_control_close(ss_supervisor *sup) {
    for (ss_client *client = sup->clients, *next; client; client = next) {
        next = client->next;
        if (client->waits != FOR_GOODBYE && client->waits != FOR_REQUEST)
            refuse(client, SS_EXIT_ABSENT, "SS-APP-0029", "The applier is being stopped.");
    }
    if (!sup->listener)
        return;
    ss_listener_free(sup->listener);
    sup->listener = NULL;
    (void)unlink(sup->socket_path);
}

void ss_control_free(ss_supervisor *sup) {
    while (sup->clients)
        client_free(sup->clients);
}
