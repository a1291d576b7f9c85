/* Arenas: a list of blocks, cut from the front. What is asked for in large pieces gets a block of
 * its own behind the current one, so that the rest of the current block is not wasted. The limit
 * counts what was handed out (rounded up to 16 bytes), so a record is refused at the same size on
 * every machine. */
#include "sidespool/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FIRST_BLOCK ((size_t)16 << 10)
#define LARGEST_BLOCK ((size_t)1 << 20)

typedef struct block {
    struct block *next;
    size_t size, used;
    _Alignas(16) uint8_t data[];
} block;

struct ss_arena {
    block *head; /* the one being cut; the rest are full or dedicated */
    size_t used, limit;
    bool refused, starved;
    ProtobufCAllocator allocator;
};

static void *protobuf_alloc(void *data, size_t size) {
    return ss_arena_alloc(data, size);
}

static void protobuf_free(void *data, void *pointer) {
    (void)data;
    (void)pointer;
}

ss_arena *ss_arena_new(size_t limit_bytes) {
    ss_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        return NULL;
    arena->limit = limit_bytes;
    arena->allocator = (ProtobufCAllocator){protobuf_alloc, protobuf_free, arena};
    return arena;
}

static void free_blocks(block *first) {
    while (first != NULL) {
        block *next = first->next;
        free(first);
        first = next;
    }
}

void ss_arena_free(ss_arena *arena) {
    if (arena == NULL)
        return;
    free_blocks(arena->head);
    free(arena);
}

void ss_arena_reset(ss_arena *arena) {
    block *keep = NULL;
    block **link = &arena->head;

    /* The largest block within the bound is kept: an arena that is reset per batch then rarely goes
     * to the heap. */
    for (block **at = &arena->head; *at != NULL; at = &(*at)->next)
        if ((*at)->size <= LARGEST_BLOCK && (keep == NULL || (*at)->size > keep->size)) {
            keep = *at;
            link = at;
        }
    if (keep != NULL) {
        *link = keep->next;
        keep->next = NULL;
        keep->used = 0;
    }
    free_blocks(arena->head);
    arena->head = keep;
    arena->used = 0;
    arena->refused = arena->starved = false;
}

static block *block_new(size_t size) {
    block *fresh = malloc(sizeof *fresh + size);
    if (fresh == NULL)
        return NULL;
    fresh->next = NULL;
    fresh->size = size;
    fresh->used = 0;
    return fresh;
}

static void *alloc_slow(ss_arena *arena, size_t size) {
    size_t block_size = arena->head == NULL ? FIRST_BLOCK : arena->head->size * 2;
    if (block_size > LARGEST_BLOCK)
        block_size = LARGEST_BLOCK;
    bool dedicated = size > block_size / 4;
    block *fresh = block_new(dedicated ? size : block_size);
    if (fresh == NULL) {
        arena->starved = true;
        return NULL;
    }
    fresh->used = size;
    if (dedicated && arena->head != NULL) {
        fresh->next = arena->head->next;
        arena->head->next = fresh;
    } else {
        fresh->next = arena->head;
        arena->head = fresh;
    }
    arena->used += size;
    return fresh->data;
}

void *ss_arena_alloc(ss_arena *arena, size_t len) {
    size_t size = len == 0 ? 16 : (len + 15) & ~(size_t)15;
    if (len > SIZE_MAX / 2 || (arena->limit != 0 && size > arena->limit - arena->used)) {
        arena->refused = true;
        return NULL;
    }
    block *head = arena->head;
    if (head == NULL || size > head->size - head->used)
        return alloc_slow(arena, size);
    void *ret = head->data + head->used;
    head->used += size;
    arena->used += size;
    return ret;
}

void *ss_arena_zalloc(ss_arena *arena, size_t len) {
    void *ret = ss_arena_alloc(arena, len);
    if (ret != NULL)
        memset(ret, 0, len);
    return ret;
}

char *ss_arena_strndup(ss_arena *arena, const void *ptr, size_t len) {
    if (len == SIZE_MAX)
        return NULL;
    char *ret = ss_arena_alloc(arena, len + 1);
    if (ret == NULL)
        return NULL;
    if (len != 0)
        memcpy(ret, ptr, len);
    ret[len] = '\0';
    return ret;
}

char *ss_arena_printf(ss_arena *arena, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0)
        return NULL;
    char *ret = ss_arena_alloc(arena, (size_t)len + 1);
    if (ret == NULL)
        return NULL;
    va_start(args, fmt);
    vsnprintf(ret, (size_t)len + 1, fmt, args);
    va_end(args);
    return ret;
}

size_t ss_arena_used(const ss_arena *arena) {
    return arena->used;
}

bool ss_arena_refused(const ss_arena *arena) {
    return arena->refused;
}

bool ss_arena_starved(const ss_arena *arena) {
    return arena->starved;
}

ProtobufCAllocator *ss_arena_protobuf(ss_arena *arena) {
    return &arena->allocator;
}
