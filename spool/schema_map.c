/* schema id -> packed Schema: open addressing, grown at half full. The id is a hash already (XXH3), so it is its own. */
#include "spool/spool_internal.h"

#include <stdlib.h>

static size_t slot_of(const ss_schema_map *map, uint64_t id) {
    size_t at = (size_t)(id * 0x9E3779B97F4A7C15u >> 20) & (map->cap - 1);
    while (map->slots[at].packed.ptr != NULL && map->slots[at].id != id)
        at = (at + 1) & (map->cap - 1);
    return at;
}

ss_schema_entry *ss_schema_map_look(const ss_schema_map *map, uint64_t id) {
    if (map->cap == 0)
        return NULL;
    ss_schema_entry *entry = &map->slots[slot_of(map, id)];
    return entry->packed.ptr == NULL ? NULL : entry;
}

ss_schema_entry *ss_schema_map_find(ss_schema_map *map, uint64_t id) {
    if (map->last != NULL && map->last->id == id)
        return map->last;
    ss_schema_entry *entry = ss_schema_map_look(map, id);
    if (entry != NULL)
        map->last = entry;
    return entry;
}

static bool grow(ss_schema_map *map) {
    ss_schema_map bigger = {.cap = map->cap == 0 ? 64 : map->cap * 2, .count = map->count, .bytes = map->bytes};
    bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
    if (bigger.slots == NULL)
        return false;
    for (size_t i = 0; i < map->cap; i++)
        if (map->slots[i].packed.ptr != NULL)
            bigger.slots[slot_of(&bigger, map->slots[i].id)] = map->slots[i];
    free(map->slots);
    *map = bigger;
    return true;
}

ss_schema_entry *ss_schema_map_put(ss_schema_map *map, uint64_t id, ss_bytes packed) {
    ss_schema_entry *entry = ss_schema_map_find(map, id);
    if (entry != NULL)
        return entry;
    if (map->count * 2 >= map->cap && !grow(map))
        return NULL;
    uint8_t *copy = malloc(packed.len + 1);
    if (copy == NULL)
        return NULL;
    if (packed.len > 0)
        memcpy(copy, packed.ptr, packed.len);
    entry = &map->slots[slot_of(map, id)];
    *entry = (ss_schema_entry){.id = id, .packed = ss_bytes_of(copy, packed.len)};
    map->count++;
    map->bytes += packed.len + sizeof(*entry);
    return entry;
}

void ss_schema_map_clear(ss_schema_map *map) {
    for (size_t i = 0; i < map->cap; i++) {
        free((void *)(uintptr_t)map->slots[i].packed.ptr);
        map->slots[i] = (ss_schema_entry){0};
    }
    map->count = 0;
    map->bytes = 0;
    map->last = NULL;
}

void ss_schema_map_done(ss_schema_map *map) {
    ss_schema_map_clear(map);
    free(map->slots);
    *map = (ss_schema_map){0};
}
