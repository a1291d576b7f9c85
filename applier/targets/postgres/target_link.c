/* A target's host that went away while we were sending to it.
 *
 * Batches and copies are sent in one piece, and libpq waits in the kernel for room to send. A target that works on a slow statement, or
 * waits for a lock, does not read meanwhile: its window closes, and it answers each of the kernel's probes of it. TCP_USER_TIMEOUT would
 * end that healthy link (see sidespool/link.h), and without it the kernel itself gives a dead one up after a quarter of an hour. So this
 * thread looks once a second at what TCP knows: something is unacknowledged, it was sent again and again, and nothing at all has been
 * heard for SS_LINK_DEAD_MS. Then the socket is shut down, which ends libpq's wait. Where nothing is on its way, keepalives find a dead
 * link.
 *
 * The thread only looks at the socket and may shut it down. It has a descriptor of its own, since libpq closes its at the first error and
 * the number may then be another file's; it is closed before PQfinish, so that the server hears of the end. */
#include "sidespool/link.h"
#include "sidespool/log.h"
#include "target_postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <libpq-events.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TRIES_LEAST 2 /* retransmissions, or probes, that were not answered */

struct ss_tgt_link {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool stop; /* under the mutex */
    int fd;
    const char *route;
    atomic_bool dead;
};

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* `since` is from when something has been owed to us; what was heard moves it. */
bool ss_tgt_link_silent(const struct tcp_info *info, int64_t now, int64_t *since) {
    bool owed = info->tcpi_unacked > 0 || info->tcpi_probes > 0;
    int64_t ack = now - info->tcpi_last_ack_recv, data = now - info->tcpi_last_data_recv;
    int64_t heard = ack > data ? ack : data;
    if (!owed || *since == 0)
        *since = now;
    if (heard > *since)
        *since = heard;
    return owed && now - *since >= SS_LINK_DEAD_MS &&
           (info->tcpi_retransmits >= TRIES_LEAST || info->tcpi_probes >= TRIES_LEAST);
}

static void *look(void *arg) {
    ss_tgt_link *link = arg;
    int64_t since = 0;
    pthread_mutex_lock(&link->mutex);
    while (!link->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec++;
        while (!link->stop && pthread_cond_timedwait(&link->cond, &link->mutex, &until) != ETIMEDOUT)
            ;
        struct tcp_info info = {0};
        socklen_t size = sizeof info;
        if (link->stop || getsockopt(link->fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
            !ss_tgt_link_silent(&info, now_ms(), &since))
            continue;
        atomic_store(&link->dead, true);
        SS_LOG(SS_WARN, "target_link_dead", SS_S("route", link->route), SS_S("code", "SS-TGT-0023"),
               SS_I("silent_s", (now_ms() - since) / 1000));
        (void)shutdown(link->fd, SHUT_RDWR);
        break;
    }
    pthread_mutex_unlock(&link->mutex);
    return NULL;
}

/* Only so that ss_tgt_error finds the watch of a connection. */
static int known(PGEventId id, void *info, void *ctx) {
    (void)id;
    (void)info;
    (void)ctx;
    return 1;
}

bool ss_tgt_link_is_dead(const PGconn *conn) {
    ss_tgt_link *link = PQinstanceData(conn, known);
    return link != NULL && atomic_load(&link->dead);
}

static bool cond_make(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0)
        return false;
    bool made = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 && pthread_cond_init(cond, &attr) == 0;
    pthread_condattr_destroy(&attr);
    return made;
}

static void shut(ss_tgt_link *link) {
    if (link->fd >= 0)
        close(link->fd);
    free(link);
}

ss_status ss_tgt_link_watch(PGconn *conn, const char *route, ss_tgt_link **ret, ss_error *reterr) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    *ret = NULL;
    if (getsockname(PQsocket(conn), (struct sockaddr *)&address, &size) != 0 ||
        (address.ss_family != AF_INET && address.ss_family != AF_INET6))
        return SS_OK; /* a Unix socket: its server is here, or gone */
    unsigned timeout = 0;
    size = sizeof timeout;
    if (getsockopt(PQsocket(conn), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &size) == 0 && timeout == SS_LINK_DEAD_MS) {
        timeout = 0; /* another one is the dsn's own */
        (void)setsockopt(PQsocket(conn), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    }
    ss_tgt_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return ss_tgt_nomem(reterr);
    link->route = route;
    link->fd = fcntl(PQsocket(conn), F_DUPFD_CLOEXEC, 3);
    if (link->fd < 0 || pthread_mutex_init(&link->mutex, NULL) != 0) {
        shut(link);
        return ss_tgt_nomem(reterr);
    }
    if (!cond_make(&link->cond)) {
        pthread_mutex_destroy(&link->mutex);
        shut(link);
        return ss_tgt_nomem(reterr);
    }
    if (PQregisterEventProc(conn, known, "link", NULL) != 1 || PQsetInstanceData(conn, known, link) != 1 ||
        pthread_create(&link->thread, NULL, look, link) != 0) {
        pthread_cond_destroy(&link->cond);
        pthread_mutex_destroy(&link->mutex);
        shut(link);
        return ss_tgt_nomem(reterr);
    }
    *ret = link;
    return SS_OK;
}

void ss_tgt_link_free(ss_tgt_link *link) {
    if (link == NULL)
        return;
    pthread_mutex_lock(&link->mutex);
    link->stop = true;
    pthread_cond_signal(&link->cond);
    pthread_mutex_unlock(&link->mutex);
    pthread_join(link->thread, NULL);
    pthread_cond_destroy(&link->cond);
    pthread_mutex_destroy(&link->mutex);
    shut(link);
}
