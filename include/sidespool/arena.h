/* One arena per unit of work (a batch, a message): allocations are freed together.
 * A hard limit bounds what a hostile or damaged record can make us allocate. Not thread-safe. */
#ifndef SIDESPOOL_ARENA_H
#define SIDESPOOL_ARENA_H

#include "sidespool/bytes.h"
#include <protobuf-c/protobuf-c.h>

typedef struct ss_arena ss_arena;

ss_arena *ss_arena_new(size_t limit_bytes); /* NULL: out of memory. limit 0: none */
void ss_arena_free(ss_arena *arena);
void ss_arena_reset(ss_arena *arena); /* frees all; keeps one block of at most 1 MiB for reuse */
void *ss_arena_alloc(ss_arena *arena, size_t len); /* 16-byte aligned, not zeroed; NULL beyond the limit */
void *ss_arena_zalloc(ss_arena *arena, size_t len);
char *ss_arena_strndup(ss_arena *arena, const void *ptr, size_t len); /* NUL-terminated copy */
char *ss_arena_printf(ss_arena *arena, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
size_t ss_arena_used(const ss_arena *arena); /* bytes handed out, each rounded up to 16; what the limit counts */
bool ss_arena_refused(const ss_arena *arena); /* the limit refused an allocation since the last reset */
bool ss_arena_starved(const ss_arena *arena); /* the system refused one: trying again may succeed */
/* For protobuf-c unpacking; free is a no-op. Lives as long as the arena. */
ProtobufCAllocator *ss_arena_protobuf(ss_arena *arena);

#endif
