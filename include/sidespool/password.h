/* Password files, read alike for sources and targets. */
#ifndef SIDESPOOL_PASSWORD_H
#define SIDESPOOL_PASSWORD_H

#include "sidespool/error.h"

/* The first line of the file into `ret`, which the caller wipes. A name without a slash is looked up in systemd's credentials
 * when there are any. SS_STOP with `code` when it cannot be one: open to everybody, nothing on its first line, not a regular file. SS_RETRY when
 * it may be one soon: empty, which it is while it is written anew, or not to be read for want of something that may come back. */
SS_MUST ss_status ss_password_read(const char *path, const char *code, char *ret, size_t size, ss_error *reterr);

#endif
