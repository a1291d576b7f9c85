/* A client of <source>/agent.sock: requests with one answer each, and the connection that wakes the route at each commit. */
#include "applier/route.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST_ANSWER ((size_t)256 << 20)

ss_status ss_agent_connect(const char *spool_path, const char *source, int *ret_fd, ss_error *reterr) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int len = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s/agent.sock", spool_path, source);
    if (len < 0 || (size_t)len >= sizeof addr.sun_path)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0008", "the path %s/%s/agent.sock is longer than a socket's may be (107 bytes); choose a shorter spool.path",
                       spool_path, source);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0008", errno, "no socket for the agent of source %s", source);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0) {
        int saved = errno;
        close(fd);
        return ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0008", saved, "the agent of source %s does not answer at %s; start it", source, addr.sun_path);
    }
    *ret_fd = fd;
    return SS_OK;
}

/* Waits until the socket is ready for `events`, looking at `cancel` twice a second. */
static ss_status await(int fd, short events, uint64_t until, const atomic_bool *cancel, ss_error *reterr) {
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, 500);
        if (n > 0)
            return SS_OK;
        if (n < 0 && errno != EINTR)
            return ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0008", errno, "waiting for the agent's answer failed");
        if (cancel && atomic_load(cancel))
            return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0012", "given up before the agent answered");
        if (ss_route_now_ms() >= until)
            return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0008", "the agent did not answer in time");
    }
}

static ss_status send_all(int fd, const char *text, size_t len, uint64_t until, const atomic_bool *cancel, ss_error *reterr) {
    while (len) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            text += n;
            len -= (size_t)n;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0008", errno, "the agent closed its socket");
        ss_status st = await(fd, POLLOUT, until, cancel, reterr);
        if (st != SS_OK)
            return st;
    }
    return SS_OK;
}

static ss_status read_line(int fd, ss_buf *line, uint64_t until, const atomic_bool *cancel, ss_error *reterr) {
    for (;;) {
        ss_status st = await(fd, POLLIN, until, cancel, reterr);
        if (st != SS_OK)
            return st;
        char part[65536];
        ssize_t n = recv(fd, part, sizeof part, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return ss_fail_sys(reterr, SS_RETRY, "SS-ROUTE-0008", n ? errno : 0, "the agent closed its socket before it answered");
        ss_buf_put(line, part, (size_t)n);
        if (line->bad || line->len > MOST_ANSWER)
            return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0008", "the agent's answer is too large for this process");
        if (part[n - 1] == '\n')
            return SS_OK;
    }
}

ss_status ss_agent_ask(int fd, json_t *request, int timeout_ms, const atomic_bool *cancel, json_t **ret, ss_error *reterr) {
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!text)
        return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory for a request to the agent");
    uint64_t until = ss_route_now_ms() + (uint64_t)timeout_ms;
    ss_buf line;
    ss_buf_init(&line);
    json_t *answer = NULL;
    ss_status st = send_all(fd, text, strlen(text), until, cancel, reterr);
    if (st == SS_OK)
        st = send_all(fd, "\n", 1, until, cancel, reterr);
    if (st == SS_OK)
        st = read_line(fd, &line, until, cancel, reterr);
    if (st != SS_OK)
        goto out;
    answer = json_loadb((const char *)line.ptr, line.len, 0, NULL);
    if (!json_is_object(answer)) {
        st = ss_fail(reterr, SS_RETRY, "SS-ROUTE-0009", "the agent's answer is not what this version understands");
        goto out;
    }
    if (!json_is_true(json_object_get(answer, "ok"))) {
        const char *code = json_string_value(json_object_get(answer, "code"));
        const char *error = json_string_value(json_object_get(answer, "error"));
        st = ss_fail(reterr, SS_STOP, "SS-ROUTE-0009", "the agent refused: %s (%s)", error ? error : "no reason given", code ? code : "no code");
        goto out;
    }
    *ret = answer;
    answer = NULL;
out:
    json_decref(answer);
    ss_buf_done(&line);
    free(text);
    return st;
}

void ss_agent_wake_connect(ss_route *r) {
    if (r->wake_fd >= 0 || ss_route_now_ms() < r->wake_retry_ms)
        return;
    r->wake_retry_ms = ss_route_now_ms() + 1000;
    ss_error err = {0};
    int fd;
    if (ss_agent_connect(r->config->spool_path, r->conf->source, &fd, &err) != SS_OK) {
        /* An agent that is not there says so by itself in `status`. */
        if (err.sys_errno != ENOENT && err.sys_errno != ECONNREFUSED && !r->wake_said)
            ss_log_error(SS_WARN, "not_woken_by_agent", &err); /* looks for itself every second */
        r->wake_said = true;
        return;
    }
    r->wake_said = false;
    static const char hello[] = "{\"op\":\"wake\"}\n";
    if (send(fd, hello, sizeof hello - 1, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof hello - 1) {
        close(fd);
        return;
    }
    r->wake_fd = fd;
}

void ss_agent_wake_drain(ss_route *r) {
    char bytes[4096];
    for (;;) {
        ssize_t n = recv(r->wake_fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n > 0)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        close(r->wake_fd);
        r->wake_fd = -1;
        return;
    }
}
