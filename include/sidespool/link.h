/* How long a link may say nothing before it is taken for dead, for sources and targets alike. In the header, because both use
 * libpq and the common parts do not.
 *
 * A person is promised half a minute; the rest of it is for what follows. Less would take each short outage of a network for a
 * broken link, and a copy that reads a large table begins that table again.
 *
 * Two clocks of TCP. Keepalives find a dead link on which nobody has anything to say, or on which we wait for an answer: a server
 * that works on a long statement answers them, however long it takes. TCP_USER_TIMEOUT finds one that has taken something from us and
 * never said so. But since Linux 5.11 it also ends a healthy link whose other side just does not read for so long (a zero window,
 * each probe of which is answered): it is for connections on which little is sent, so that the window never closes. For the
 * same reason it is never set at the server, which sends us rows while we may wait for room in the spool. */
#ifndef SIDESPOOL_LINK_H
#define SIDESPOOL_LINK_H

#include <stddef.h>

#define SS_LINK_DEAD_MS 20000
#define SS_LINK_PARAMS 5
/* For PQconnectdbParams: before "dbname", so that what a dsn says of its own goes before it. */
static inline size_t ss_link_params(const char **keys, const char **values) {
    static const char *const params[SS_LINK_PARAMS][2] = {
        {"keepalives", "1"},
        {"keepalives_idle", "10"},
        {"keepalives_interval", "2"},
        {"keepalives_count", "5"},
        {"tcp_user_timeout", "20000"},
    };
    for (size_t i = 0; i < SS_LINK_PARAMS; i++) {
        keys[i] = params[i][0];
        values[i] = params[i][1];
    }
    return SS_LINK_PARAMS;
}

#endif
