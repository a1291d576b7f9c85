/* A listening socket in an event loop that cannot be choked: when a connection cannot be taken (no descriptors, no memory)
 * it says so with the socket's path, at most once a minute, and rests for a moment instead of being called again at once for
 * ever. Main thread of the loop's owner. */
#ifndef SIDESPOOL_LISTENER_H
#define SIDESPOOL_LISTENER_H

#include "sidespool/error.h"

#include <event2/event.h>

typedef struct ss_listener ss_listener;
/* A peer has connected; `fd` is non-blocking, not inherited by programs that are started, and the callee's. */
typedef void (*ss_listener_fn)(void *ctx, evutil_socket_t fd);

/* `fd` listens at `path` (copied) and is non-blocking; it is taken when this succeeds. */
SS_MUST ss_status ss_listener_new(struct event_base *base, evutil_socket_t fd, const char *path, ss_listener_fn fn, void *ctx,
                                  ss_listener **ret, ss_error *reterr);
void ss_listener_free(ss_listener *listener); /* closes the socket; takes NULL */

#endif
