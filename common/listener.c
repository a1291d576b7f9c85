/* Listening sockets of the daemons. libevent's own listener prints its errors past our log, and spins on a connection that it
 * cannot take: such a one stays in the queue, and the socket readable. */
#include "sidespool/listener.h"

#include "sidespool/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REST_MS 250
#define SAY_AGAIN_S 60

struct ss_listener {
    struct event *readable, *rested;
    evutil_socket_t fd;
    ss_listener_fn fn;
    void *ctx;
    time_t said; /* monotonic; 0: never */
    char path[];
};

static time_t now_s(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1; /* never 0 */
}

static void rest(ss_listener *listener, int err) {
    const struct timeval wait = {REST_MS / 1000, REST_MS % 1000 * 1000};
    time_t now = now_s();

    if (listener->said == 0 || now - listener->said >= SAY_AGAIN_S) {
        listener->said = now;
        SS_LOG(SS_WARN, "connection_not_taken", SS_S("socket", listener->path), SS_S("error", strerror(err)));
    }
    /* Without memory for the timer it goes on listening: busy, but not deaf. */
    if (event_add(listener->rested, &wait) == 0)
        (void)event_del(listener->readable);
}

static void on_rested(evutil_socket_t fd, short what, void *ctx) {
    ss_listener *listener = ctx;
    (void)fd;
    (void)what;

    if (event_add(listener->readable, NULL) != 0)
        rest(listener, ENOMEM);
}

/* These are the peer's affair or nobody's: the next connection is taken as if they had not been. */
static bool passing(int err) {
    return err == EINTR || err == ECONNABORTED || err == EPROTO;
}

static void on_readable(evutil_socket_t fd, short what, void *ctx) {
    ss_listener *listener = ctx;
    (void)what;

    for (;;) {
        int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (peer >= 0)
            listener->fn(listener->ctx, peer);
        else if (passing(errno))
            continue;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        else {
            rest(listener, errno);
            return;
        }
    }
}

ss_status ss_listener_new(struct event_base *base, evutil_socket_t fd, const char *path, ss_listener_fn fn, void *ctx,
                          ss_listener **ret, ss_error *reterr) {
    size_t len = strlen(path) + 1;
    ss_listener *listener = calloc(1, sizeof *listener + len);

    if (listener == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001", "there is no memory to listen on %s", path);
    memcpy(listener->path, path, len);
    listener->fd = fd;
    listener->fn = fn;
    listener->ctx = ctx;
    listener->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, listener);
    listener->rested = evtimer_new(base, on_rested, listener);
    if (listener->readable == NULL || listener->rested == NULL || event_add(listener->readable, NULL) != 0) {
        listener->fd = -1;
        ss_listener_free(listener);
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0002", "the event loop cannot take the socket %s", path);
    }
    *ret = listener;
    return SS_OK;
}

void ss_listener_free(ss_listener *listener) {
    if (listener == NULL)
        return;
    if (listener->readable != NULL)
        event_free(listener->readable);
    if (listener->rested != NULL)
        event_free(listener->rested);
    if (listener->fd >= 0)
        close(listener->fd);
    free(listener);
}
