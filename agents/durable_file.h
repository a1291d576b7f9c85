/* Small files beside a source's logs (`generation`, `selected`, `publication`) that must be whole and last after a crash. */
#ifndef AGENTS_DURABLE_FILE_H
#define AGENTS_DURABLE_FILE_H

#include "sidespool/bytes.h"
#include "sidespool/error.h"

/* `dir`/`name` holds `content` when this returns, and keeps it. After a crash it holds all of the old content or all of the
 * new. SS_RETRY with `code` when it failed: the old content stands, or (the directory's fsync alone failed) the new one does
 * and may not last; the same call again settles it. */
SS_MUST ss_status ss_durable_replace(const char *dir, const char *name, ss_bytes content, const char *code, ss_error *reterr);
/* `content` stands at the end of `dir`/`name`, which is made when missing. After a crash or SS_RETRY a part of it may stand
 * there: what reads the file has to tell a torn end. */
SS_MUST ss_status ss_durable_append(const char *dir, const char *name, ss_bytes content, const char *code, ss_error *reterr);

#endif
