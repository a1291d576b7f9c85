/* One conversation with an agent over <spool.path>/<source>/agent.sock, in the supervisor's loop.
 */
#include "applier/supervisor.h"

#include "sidespool/patient.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct ss_agent_link {
    struct bufferevent *link;
    struct event *timer; /* the timeout, or at once: what failed before the first line */
    ss_agent_answer answer;
    void *ctx;
    bool absent, heard;
    char error[512];
};

static void ended(ss_agent_link *ask) {
    ss_agent_answer answer = ask->answer;
    ask->answer = NULL;
    if (ask->link)
        bufferevent_disable(ask->link, EV_READ | EV_WRITE);
    if (answer)
        answer(ask->ctx, NULL, ask->absent, ask->error);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx) {
    (void)fd;
    (void)what;
    ended(ctx);
}

static void on_read(struct bufferevent *link, void *ctx) {
    ss_agent_link *ask = ctx;
    struct evbuffer *in = bufferevent_get_input(link);
    size_t len;
    char *line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
    if (!line) {
        if (evbuffer_get_length(in) > SS_LINE_MAX) {
            (void)snprintf(ask->error, sizeof(ask->error),
                           "The agent answers with a line that is too long.");
            ended(ask);
        }
        return;
    }
    ask->heard = true;
    evtimer_del(ask->timer);
    json_t *answer = json_loadb(line, len, 0, NULL);
    free(line);
    if (!json_is_object(answer)) {
        json_decref(answer);
        (void)snprintf(ask->error, sizeof(ask->error), "The agent's answer is not a JSON object.");
        ended(ask);
        return;
    }
    /* One line a call: the callback may free us. What else has come is read at the next turn of the
     * loop. */
    if (evbuffer_get_length(in) > 0)
        bufferevent_trigger(link, EV_READ, BEV_TRIG_DEFER_CALLBACKS);
    ask->answer(ask->ctx, answer, false, "");
    json_decref(answer);
}

static void on_event(struct bufferevent *link, short what, void *ctx) {
    ss_agent_link *ask = ctx;
    (void)link;
    (void)what;
    (void)snprintf(ask->error, sizeof(ask->error), "The agent closed the connection%s.",
                   ask->heard ? "" : " without an answer");
    evtimer_del(ask->timer);
    ended(ask);
}

/* Returns the connected socket, or -1 with ask->error and ask->absent set. */
static int connect_agent(ss_agent_link *ask, const char *spool_path, const char *source) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int len =
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s/agent.sock", spool_path, source);
    ask->absent = true;
    if (len < 0 || (size_t)len >= sizeof(addr.sun_path)) {
        (void)snprintf(ask->error, sizeof(ask->error),
                       "%.200s/%s/agent.sock is longer than %d bytes: choose a shorter spool.path.",
                       spool_path, source, SS_SOCKET_PATH_MAX);
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
        ask->absent = false;
        return fd;
    }
    int err = errno;
    /* A full backlog means that somebody listens and does not come round to us. */
    ask->absent = err == ENOENT || err == ECONNREFUSED || err == ENOTDIR;
    if (ask->absent)
        (void)snprintf(ask->error, sizeof(ask->error),
                       "No agent is running for source %s (nobody listens at %s).", source,
                       addr.sun_path);
    else
        (void)snprintf(ask->error, sizeof(ask->error),
                       "The agent of source %s cannot be reached at %s: %s.", source, addr.sun_path,
                       strerror(err));
    if (fd >= 0)
        close(fd);
    return -1;
}

ss_agent_link *ss_agent_link_new(ss_supervisor *sup, const char *source, json_t *request_take,
                                 int timeout_ms, ss_agent_answer answer, void *ctx) {
    ss_agent_link *ask = calloc(1, sizeof(*ask));
    char *line = request_take ? json_dumps(request_take, JSON_COMPACT) : NULL;
    json_decref(request_take);
    if (ask)
        ask->timer = evtimer_new(sup->base, on_timer, ask);
    if (!ask || !line || !ask->timer) {
        free(line);
        ss_agent_link_free(ask);
        return NULL;
    }
    ask->answer = answer;
    ask->ctx = ctx;
    struct timeval wait = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    bool asked = true;
    int fd = connect_agent(ask, sup->config->spool_path, source);
    if (fd < 0) {
        wait = (struct timeval){0, 0};
    } else {
        ask->link = bufferevent_socket_new(sup->base, fd, BEV_OPT_CLOSE_ON_FREE);
        if (!ask->link)
            close(fd);
        (void)snprintf(ask->error, sizeof(ask->error),
                       "The agent of source %s did not answer within %d ms.", source, timeout_ms);
        if (ask->link)
            bufferevent_setcb(ask->link, on_read, NULL, on_event, ask);
        asked = ask->link && bufferevent_enable(ask->link, EV_READ) == 0 && ss_link_line(ask->link, line);
    }
    if (!asked || evtimer_add(ask->timer, &wait) != 0) {
        ss_agent_link_free(ask);
        ask = NULL;
    }
    free(line);
    return ask;
}

void ss_agent_link_free(ss_agent_link *ask) {
    if (!ask)
        return;
    if (ask->timer)
        event_free(ask->timer);
    if (ask->link)
        bufferevent_free(ask->link);
    free(ask);
}
