/* What a worker thread may ask the source, each by a connection of its own. */
#ifndef AGENTS_POSTGRES_STATUS_H
#define AGENTS_POSTGRES_STATUS_H

#include "agents/postgres/postgres.h"

SS_MUST ss_status ss_postgres_now_position(const ss_source_env *env, char *ret, size_t size,
                                           ss_error *reterr);
/* json: a json_t object. */
SS_MUST ss_status ss_postgres_status(const ss_source_env *env, void *json, ss_error *reterr);
/* An insert position that stands right behind a page's header -> the page's start: no record ends
 * inside a header, and a walsender reports the record's end, before it. */
uint64_t ss_postgres_lsn_before_header(uint64_t lsn, uint64_t block_size, uint64_t segment_size);

#endif
