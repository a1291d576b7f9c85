/* Net effect of a batch: see batch.h.
 *
 * For each table, changes are folded into one slot for each key. A slot knows whether its row was there before the batch
 * (origin) and whether it is there now (present), by what key the target finds it, and its latest cells:
 *
 *     origin  present   work
 *     no      yes       INSERT
 *     yes     yes       UPDATE (by the old key; of all columns when it was deleted and inserted again)
 *     yes     no        DELETE
 *     no      no        nothing
 *
 * DELETEs run first, then UPDATEs, then INSERTs. That is the in-order result as long as no two rows exchange keys: an
 * UPDATE that changes the key leaves a tombstone at the old key and takes an empty place at the new one; whatever meets a
 * tombstone, or a new key that already had something in this batch (chains 1->2, 2->3; swaps), makes the table `ordered`
 * for this batch. So does everything a consistent source would not send (an INSERT of a present key): executed one
 * by one, the target's strict counts find it. Keys are compared by their bytes; a source sends one form of a stored
 * value, and two forms that the target holds equal collide in its unique index, which leads to the fallback.
 *
 * One thread; all memory is the batch's arena, but for tables that are reused from batch to batch. */
#include "applier/batch.h"

#include <stdlib.h>
#include <xxhash.h>

#define NO_SLOT UINT32_MAX
#define MOST_GROUPS 256 /* more sets of written columns than this in one batch: in order */

typedef struct {
    uint64_t hash;
    uint32_t table, next; /* next slot of the same table */
    bool origin, present, tomb, moved, own;
    const ss_row *old_key;  /* origin: holds the key by which the target finds the row */
    const ss_bytes *key;    /* the current key's cells */
    ss_row row;             /* present: the cells so far; in memory of the slot's own when `own` */
    uint32_t group;
} slot;

typedef struct {
    const Sidespool__Schema *schema;
    const uint32_t *key_columns;
    uint32_t key_count;
    bool ordered, only_inserts;
    ss_batch_change *first, *last;
    size_t changes;
    uint32_t first_slot, last_slot;
} work;

typedef struct { uint64_t hash; uint32_t stamp, ref; } place;
#define REF_TABLE 0x80000000u

/* A slot by where its key stands in the target's index. */
#define RANKS 2
typedef struct { uint64_t ranks[RANKS]; uint32_t slot; } place_in_order;

typedef struct {
    Sidespool__Op op;
    uint64_t hash;
    const uint8_t *kinds;
    size_t count, filled;
    const ss_row **keys, **rows;
    place_in_order *order; /* UPDATE, DELETE */
} pending_group;

struct ss_batcher {
    ss_arena *arena;
    slot *slots;
    size_t slot_count, slot_cap;
    work *tables;
    size_t table_count, table_cap;
    place *places; /* open addressing over slots and tables; an entry counts only with the current stamp */
    size_t place_count, place_cap;
    uint32_t stamp;
    void **heap;
    size_t heap_count, heap_cap, heap_bytes;
    size_t changes;
    ss_bytes *key; /* scratch: the key looked up */
    size_t key_cap;
    uint8_t *mask;
    size_t mask_cap;
    pending_group groups[MOST_GROUPS];
    size_t group_count;
};

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-ROUTE-0003", "out of memory while building a batch; the route starts again from the target's progress");
}

/* Makes room for one more element of `size` bytes. */
static bool grow(void **array, size_t *cap, size_t count, size_t size, size_t least) {
    if (count < *cap)
        return true;
    size_t want = *cap ? *cap * 2 : least;
    while (want <= count)
        want *= 2;
    void *more = reallocarray(*array, want, size);
    if (!more)
        return false;
    *array = more;
    *cap = want;
    return true;
}

ss_batcher *ss_batcher_new(size_t limit_bytes) {
    ss_batcher *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->arena = ss_arena_new(limit_bytes);
    b->place_cap = 4096;
    b->places = calloc(b->place_cap, sizeof *b->places);
    b->stamp = 1;
    if (!b->arena || !b->places) {
        ss_batcher_free(b);
        return NULL;
    }
    return b;
}

static void free_heap(ss_batcher *b) {
    for (size_t i = 0; i < b->heap_count; i++)
        free(b->heap[i]);
    b->heap_count = b->heap_bytes = 0;
}

void ss_batcher_free(ss_batcher *b) {
    if (!b)
        return;
    free_heap(b);
    free(b->heap);
    ss_arena_free(b->arena);
    free(b->slots);
    free(b->tables);
    free(b->places);
    free(b->key);
    free(b->mask);
    free(b);
}

void ss_batcher_reset(ss_batcher *b) {
    free_heap(b);
    ss_arena_reset(b->arena);
    b->slot_count = b->table_count = b->place_count = b->changes = 0;
    if (++b->stamp == 0) { /* wrapped round: old entries would count again */
        memset(b->places, 0, b->place_cap * sizeof *b->places);
        b->stamp = 1;
    }
}

ss_arena *ss_batcher_arena(ss_batcher *b) { return b->arena; }
size_t ss_batcher_bytes(const ss_batcher *b) { return ss_arena_used(b->arena) + b->heap_bytes; }
size_t ss_batcher_changes(const ss_batcher *b) { return b->changes; }

ss_status ss_batcher_adopt(ss_batcher *b, void *heap, size_t len, ss_error *reterr) {
    if (!grow((void **)&b->heap, &b->heap_cap, b->heap_count, sizeof *b->heap, 8))
        return no_memory(reterr);
    b->heap[b->heap_count++] = heap;
    b->heap_bytes += len;
    return SS_OK;
}

/* ---- the hash table -------------------------------------------------------------------------------------------- */

static bool places_grow(ss_batcher *b) {
    size_t cap = b->place_cap * 2;
    place *more = calloc(cap, sizeof *more);
    if (!more)
        return false;
    for (size_t i = 0; i < b->place_cap; i++) {
        if (b->places[i].stamp != b->stamp)
            continue;
        size_t at = b->places[i].hash & (cap - 1);
        while (more[at].stamp == b->stamp)
            at = (at + 1) & (cap - 1);
        more[at] = b->places[i];
    }
    free(b->places);
    b->places = more;
    b->place_cap = cap;
    return true;
}

static bool places_put(ss_batcher *b, uint64_t hash, uint32_t ref) {
    if (b->place_count * 2 >= b->place_cap && !places_grow(b))
        return false;
    size_t at = hash & (b->place_cap - 1);
    while (b->places[at].stamp == b->stamp)
        at = (at + 1) & (b->place_cap - 1);
    b->places[at] = (place){hash, b->stamp, ref};
    b->place_count++;
    return true;
}

static bool keys_equal(const ss_bytes *a, const ss_bytes *b, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!ss_bytes_eq(a[i], b[i]))
            return false;
    return true;
}

static uint64_t key_hash(const ss_bytes *key, uint32_t count, uint32_t table) {
    uint64_t hash = table * UINT64_C(0x9E3779B97F4A7C15);
    for (uint32_t i = 0; i < count; i++)
        hash = XXH3_64bits_withSeed(key[i].ptr ? key[i].ptr : (const uint8_t *)"", key[i].len, hash + key[i].len);
    return hash;
}

static uint32_t slot_find(const ss_batcher *b, uint32_t table, const ss_bytes *key, uint64_t hash) {
    for (size_t at = hash & (b->place_cap - 1); b->places[at].stamp == b->stamp; at = (at + 1) & (b->place_cap - 1)) {
        const place *p = &b->places[at];
        if (p->hash != hash || (p->ref & REF_TABLE))
            continue;
        const slot *s = &b->slots[p->ref];
        if (s->table == table && keys_equal(s->key, key, b->tables[table].key_count))
            return p->ref;
    }
    return NO_SLOT;
}

/* A new slot for `key`, which is copied (the cells are not). NULL: out of memory. */
static slot *slot_new(ss_batcher *b, uint32_t table, const ss_bytes *key, uint64_t hash) {
    work *t = &b->tables[table];
    ss_bytes *kept = ss_arena_alloc(b->arena, sizeof *kept * t->key_count);
    if (!kept || b->slot_count >= REF_TABLE ||
        !grow((void **)&b->slots, &b->slot_cap, b->slot_count, sizeof *b->slots, 1024) ||
        !places_put(b, hash, (uint32_t)b->slot_count))
        return NULL;
    memcpy(kept, key, sizeof *kept * t->key_count);
    uint32_t ref = (uint32_t)b->slot_count++;
    slot *s = &b->slots[ref];
    *s = (slot){.hash = hash, .table = table, .next = NO_SLOT, .key = kept};
    if (t->last_slot == NO_SLOT)
        t->first_slot = ref;
    else
        b->slots[t->last_slot].next = ref;
    t->last_slot = ref;
    return s;
}

static uint32_t table_find(const ss_batcher *b, const Sidespool__Schema *schema, uint64_t hash) {
    for (size_t at = hash & (b->place_cap - 1); b->places[at].stamp == b->stamp; at = (at + 1) & (b->place_cap - 1)) {
        const place *p = &b->places[at];
        if (p->hash == hash && (p->ref & REF_TABLE) && b->tables[p->ref & ~REF_TABLE].schema == schema)
            return p->ref & ~REF_TABLE;
    }
    return NO_SLOT;
}

/* The table's entry, made when missing; NO_SLOT: out of memory. */
static uint32_t table_of(ss_batcher *b, const Sidespool__Schema *schema) {
    if (b->table_count && b->tables[b->table_count - 1].schema == schema)
        return (uint32_t)b->table_count - 1;
    uint64_t hash = XXH3_64bits(&schema, sizeof schema);
    uint32_t found = table_find(b, schema, hash);
    if (found != NO_SLOT)
        return found;
    if (!grow((void **)&b->tables, &b->table_cap, b->table_count, sizeof *b->tables, 64))
        return NO_SLOT;
    uint32_t count = 0, *columns = ss_arena_alloc(b->arena, sizeof *columns * (schema->n_columns + 1));
    if (!columns || !places_put(b, hash, (uint32_t)b->table_count | REF_TABLE))
        return NO_SLOT;
    for (size_t i = 0; i < schema->n_columns; i++)
        if (schema->columns[i]->key)
            columns[count++] = (uint32_t)i;
    if (count > b->key_cap) {
        ss_bytes *more = reallocarray(b->key, (size_t)count * 2, sizeof *more);
        if (!more)
            return NO_SLOT;
        b->key = more;
        b->key_cap = count;
    }
    b->tables[b->table_count] = (work){.schema = schema, .key_columns = columns, .key_count = count, .only_inserts = true,
                                       .first_slot = NO_SLOT, .last_slot = NO_SLOT};
    return (uint32_t)b->table_count++;
}

/* ---- folding --------------------------------------------------------------------------------------------------- */

/* Collects the key's cells from `row`, or from `other` where the row only says that it did not change. false: not all known. */
static bool key_of(const work *t, const ss_row *row, const ss_row *other, ss_bytes *key) {
    for (uint32_t i = 0; i < t->key_count; i++) {
        uint32_t c = t->key_columns[i];
        if (row->kinds[c] == SS_CELL_VALUE)
            key[i] = row->cells[c];
        else if (row->kinds[c] == SS_CELL_UNCHANGED && other && other->count && other->kinds[c] == SS_CELL_VALUE)
            key[i] = other->cells[c];
        else
            return false;
    }
    return true;
}

/* All that an INSERT of the whole row says; a cell left out would keep what stood there before. */
static bool row_whole(const Sidespool__Schema *schema, const ss_row *row) {
    for (uint32_t i = 0; i < row->count; i++)
        if (row->kinds[i] != SS_CELL_VALUE && row->kinds[i] != SS_CELL_NULL && !schema->columns[i]->generated)
            return false;
    return true;
}

/* Lays `after` over the slot's cells: the last one that says something counts. */
static bool slot_merge(ss_batcher *b, slot *s, const ss_row *after) {
    uint32_t count = after->count;
    if (!s->own) {
        uint8_t *kinds = ss_arena_alloc(b->arena, count);
        ss_bytes *cells = ss_arena_alloc(b->arena, sizeof *cells * count);
        if (!kinds || !cells)
            return false;
        memcpy(kinds, s->row.kinds, count);
        memcpy(cells, s->row.cells, sizeof *cells * count);
        s->row = (ss_row){count, kinds, cells};
        s->own = true;
    }
    uint8_t *kinds = (uint8_t *)(uintptr_t)s->row.kinds; /* ours, allocated above */
    ss_bytes *cells = (ss_bytes *)(uintptr_t)s->row.cells;
    for (uint32_t i = 0; i < count; i++) {
        if (after->kinds[i] != SS_CELL_VALUE && after->kinds[i] != SS_CELL_NULL)
            continue;
        kinds[i] = after->kinds[i];
        cells[i] = after->cells[i];
    }
    return true;
}

static bool fold_insert(ss_batcher *b, uint32_t table, const ss_change *c) {
    work *t = &b->tables[table];
    if (!key_of(t, &c->after, NULL, b->key) || !row_whole(t->schema, &c->after)) {
        t->ordered = true;
        return true;
    }
    uint64_t hash = key_hash(b->key, t->key_count, table);
    uint32_t at = slot_find(b, table, b->key, hash);
    slot *s;
    if (at == NO_SLOT) {
        s = slot_new(b, table, b->key, hash);
        if (!s)
            return false;
    } else {
        s = &b->slots[at];
        if (s->present || s->tomb) {
            t->ordered = true;
            return true;
        }
    }
    s->present = true;
    s->own = false;
    s->row = c->after;
    return true;
}

static bool fold_delete(ss_batcher *b, uint32_t table, const ss_change *c) {
    work *t = &b->tables[table];
    if (!c->before.count || !key_of(t, &c->before, NULL, b->key)) {
        t->ordered = true;
        return true;
    }
    uint64_t hash = key_hash(b->key, t->key_count, table);
    uint32_t at = slot_find(b, table, b->key, hash);
    if (at == NO_SLOT) {
        slot *s = slot_new(b, table, b->key, hash);
        if (!s)
            return false;
        s->origin = true;
        s->old_key = &c->before;
        return true;
    }
    slot *s = &b->slots[at];
    if (!s->present)
        t->ordered = true;
    s->present = false;
    return true;
}

/* The row moves from the old key's slot to a new slot at `key`. */
static bool fold_move(ss_batcher *b, uint32_t table, const ss_change *c, uint32_t from, const ss_bytes *key) {
    work *t = &b->tables[table];
    uint64_t hash = key_hash(key, t->key_count, table);
    if (slot_find(b, table, key, hash) != NO_SLOT) {
        t->ordered = true;
        return true;
    }
    slot *s = slot_new(b, table, key, hash);
    if (!s)
        return false;
    slot *old = &b->slots[from]; /* after slot_new: the array may have moved */
    s->origin = old->origin;
    s->old_key = old->old_key;
    s->present = s->moved = true;
    s->row = old->row;
    s->own = old->own;
    old->tomb = true;
    old->present = old->origin = false;
    return slot_merge(b, s, &c->after);
}

static bool fold_update(ss_batcher *b, uint32_t table, const ss_change *c) {
    work *t = &b->tables[table];
    const ss_row *by = c->before.count ? &c->before : &c->after;
    ss_bytes *after_key = b->key + t->key_count; /* the scratch has room for two keys */
    if (!key_of(t, by, NULL, b->key) || !key_of(t, &c->after, &c->before, after_key)) {
        t->ordered = true;
        return true;
    }
    uint64_t hash = key_hash(b->key, t->key_count, table);
    uint32_t at = slot_find(b, table, b->key, hash);
    if (at == NO_SLOT) {
        slot *s = slot_new(b, table, b->key, hash);
        if (!s)
            return false;
        s->origin = s->present = true;
        s->old_key = by;
        s->row = c->after;
        at = (uint32_t)b->slot_count - 1;
    } else if (!b->slots[at].present) {
        t->ordered = true;
        return true;
    } else if (!slot_merge(b, &b->slots[at], &c->after)) {
        return false;
    }
    return keys_equal(b->key, after_key, t->key_count) || fold_move(b, table, c, at, after_key);
}

static bool row_fits(const Sidespool__Schema *schema, const ss_row *row) {
    return row->count == 0 || row->count == schema->n_columns;
}

ss_status ss_batcher_add(ss_batcher *b, const Sidespool__Schema *schema, const ss_change *change, uint64_t sequence,
                         ss_error *reterr) {
    bool wants_after = change->op != SIDESPOOL__OP__OP_DELETE;
    if (!row_fits(schema, &change->before) || !row_fits(schema, &change->after) ||
        (schema->n_columns > 0 && wants_after != (change->after.count > 0))) /* a row of a table without columns has no cells */
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0004", "record %llu of the stream does not fit the schema of table %s.%s; run sidespool spool verify",
                       (unsigned long long)sequence, schema->ns, schema->name);
    uint32_t table = table_of(b, schema);
    ss_batch_change *kept = ss_arena_alloc(b->arena, sizeof *kept);
    if (table == NO_SLOT || !kept)
        return no_memory(reterr);
    *kept = (ss_batch_change){.change = *change, .sequence = sequence};
    work *t = &b->tables[table];
    if (t->last)
        t->last->next = kept;
    else
        t->first = kept;
    t->last = kept;
    t->changes++;
    b->changes++;
    t->only_inserts = t->only_inserts && change->op == SIDESPOOL__OP__OP_INSERT;
    if (t->ordered || !t->key_count)
        return SS_OK;
    bool ok = change->op == SIDESPOOL__OP__OP_INSERT   ? fold_insert(b, table, &kept->change)
              : change->op == SIDESPOOL__OP__OP_UPDATE ? fold_update(b, table, &kept->change)
                                                       : fold_delete(b, table, &kept->change);
    return ok ? SS_OK : no_memory(reterr);
}

/* ---- grouping -------------------------------------------------------------------------------------------------- */

/* Which columns a row writes, into b->mask. false: none. */
static bool written(ss_batcher *b, const work *t, const ss_row *row, bool update, bool moved) {
    size_t count = 0;
    for (uint32_t i = 0; i < row->count; i++) {
        bool says = row->kinds[i] == SS_CELL_VALUE || row->kinds[i] == SS_CELL_NULL;
        bool skip = update && !moved && t->schema->columns[i]->key;
        b->mask[i] = says && !skip ? SS_CELL_VALUE : SS_CELL_UNCHANGED;
        count += b->mask[i] == SS_CELL_VALUE;
    }
    if (count || !update)
        return count > 0;
    /* Nothing but the key: it is written as it is, so that the strict count still finds a missing row. */
    for (uint32_t i = 0; i < t->key_count; i++)
        if (row->kinds[t->key_columns[i]] == SS_CELL_VALUE) {
            b->mask[t->key_columns[i]] = SS_CELL_VALUE;
            count++;
        }
    return count > 0;
}

/* The group of `op` with the columns of b->mask. MOST_GROUPS: too many. UINT32_MAX - 1: out of memory. */
#define GROUP_MEMORY (UINT32_MAX - 1)
static uint32_t group_of(ss_batcher *b, Sidespool__Op op, size_t columns) {
    uint64_t hash = op == SIDESPOOL__OP__OP_DELETE ? 0 : XXH3_64bits(b->mask, columns);
    for (size_t i = b->group_count; i-- > 0;) {
        pending_group *g = &b->groups[i];
        if (g->op == op && g->hash == hash && (!g->kinds || memcmp(g->kinds, b->mask, columns) == 0)) {
            g->count++;
            return (uint32_t)i;
        }
    }
    if (b->group_count == MOST_GROUPS)
        return MOST_GROUPS;
    pending_group *g = &b->groups[b->group_count];
    *g = (pending_group){.op = op, .hash = hash, .count = 1};
    if (op != SIDESPOOL__OP__OP_DELETE) {
        uint8_t *kinds = ss_arena_alloc(b->arena, columns);
        if (!kinds)
            return GROUP_MEMORY;
        memcpy(kinds, b->mask, columns);
        g->kinds = kinds;
    }
    return (uint32_t)b->group_count++;
}

static bool groups_alloc(ss_batcher *b) {
    for (size_t i = 0; i < b->group_count; i++) {
        pending_group *g = &b->groups[i];
        g->keys = g->op == SIDESPOOL__OP__OP_INSERT ? NULL : ss_arena_alloc(b->arena, sizeof *g->keys * g->count);
        g->rows = g->op == SIDESPOOL__OP__OP_DELETE ? NULL : ss_arena_alloc(b->arena, sizeof *g->rows * g->count);
        g->order = g->op == SIDESPOOL__OP__OP_INSERT ? NULL : ss_arena_alloc(b->arena, sizeof *g->order * g->count);
        if ((!g->order && g->op != SIDESPOOL__OP__OP_INSERT) || (!g->keys && g->op != SIDESPOOL__OP__OP_INSERT) ||
            (!g->rows && g->op != SIDESPOOL__OP__OP_DELETE))
            return false;
    }
    return true;
}

/* Where a key cell stands: whole numbers by their value, all else by its first bytes. Equal ranks may still be other keys. */
static uint64_t rank_of(const Sidespool__Column *column, ss_bytes cell) {
    uint64_t rank = 0;
    if (strcmp(column->canonical, "int") != 0) {
        for (size_t i = 0; i < 8; i++)
            rank = rank << 8 | (i < cell.len ? cell.ptr[i] : 0);
        return rank;
    }
    bool minus = cell.len && cell.ptr[0] == '-';
    for (size_t i = minus; i < cell.len; i++)
        rank = rank * 10 + (uint64_t)(cell.ptr[i] - '0');
    return (minus ? 0 - rank : rank) ^ UINT64_C(1) << 63;
}

static int compare_places(const void *a, const void *b) {
    const place_in_order *x = a, *y = b;
    for (uint32_t i = 0; i < RANKS; i++)
        if (x->ranks[i] != y->ranks[i])
            return x->ranks[i] < y->ranks[i] ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot; /* as they came */
}

/* UPDATEs and DELETEs by key: neighbours in the target's index and pages are then met together, each page is read and written once
 * for all its rows, and two routes or programs that write there meet the rows in one order. INSERTs stay in the order of the source. */
static void group_in_order(ss_batcher *b, const work *t, pending_group *g) {
    for (size_t i = 0; i < g->filled; i++) {
        const slot *s = &b->slots[g->order[i].slot];
        for (uint32_t k = 0; k < RANKS; k++)
            g->order[i].ranks[k] = k < t->key_count ? rank_of(t->schema->columns[t->key_columns[k]], s->key[k]) : 0;
    }
    qsort(g->order, g->filled, sizeof *g->order, compare_places);
    for (size_t i = 0; i < g->filled; i++) {
        slot *s = &b->slots[g->order[i].slot];
        g->keys[i] = s->old_key;
        if (g->rows)
            g->rows[i] = &s->row;
    }
}

/* Tables with a key: each slot into its group. false: out of memory. */
static bool group_slots(ss_batcher *b, work *t) {
    for (uint32_t i = t->first_slot; i != NO_SLOT; i = b->slots[i].next) {
        slot *s = &b->slots[i];
        s->group = NO_SLOT;
        if (s->tomb || (!s->origin && !s->present))
            continue;
        Sidespool__Op op = !s->present ? SIDESPOOL__OP__OP_DELETE : s->origin ? SIDESPOOL__OP__OP_UPDATE : SIDESPOOL__OP__OP_INSERT;
        if (s->present && !written(b, t, &s->row, s->origin, s->moved)) {
            t->ordered = true;
            return true;
        }
        s->group = group_of(b, op, t->schema->n_columns);
        if (s->group == GROUP_MEMORY)
            return false;
        if (s->group == MOST_GROUPS) {
            t->ordered = true;
            return true;
        }
    }
    if (!groups_alloc(b))
        return false;
    for (uint32_t i = t->first_slot; i != NO_SLOT; i = b->slots[i].next) {
        if (b->slots[i].group == NO_SLOT)
            continue;
        pending_group *g = &b->groups[b->slots[i].group];
        if (g->order)
            g->order[g->filled++].slot = i;
        else
            g->rows[g->filled++] = &b->slots[i].row;
    }
    for (size_t i = 0; i < b->group_count; i++)
        if (b->groups[i].order)
            group_in_order(b, t, &b->groups[i]);
    return true;
}

/* Tables without a key that only got INSERTs: their order does not matter. false: out of memory. */
static bool group_inserts(ss_batcher *b, work *t) {
    for (int pass = 0; pass < 2; pass++) {
        for (ss_batch_change *c = t->first; c; c = c->next) {
            if (!written(b, t, &c->change.after, false, false)) {
                t->ordered = true;
                return true;
            }
            uint32_t g = group_of(b, SIDESPOOL__OP__OP_INSERT, t->schema->n_columns);
            if (g == GROUP_MEMORY)
                return false;
            if (g == MOST_GROUPS) {
                t->ordered = true;
                return true;
            }
            if (pass)
                b->groups[g].rows[b->groups[g].filled++] = &c->change.after;
        }
        if (!pass && !groups_alloc(b))
            return false;
    }
    return true;
}

static bool emit_groups(ss_batcher *b, ss_batch_table *out) {
    ss_group *groups = ss_arena_alloc(b->arena, sizeof *groups * (b->group_count + 1));
    if (!groups)
        return false;
    static const Sidespool__Op order[] = {SIDESPOOL__OP__OP_DELETE, SIDESPOOL__OP__OP_UPDATE, SIDESPOOL__OP__OP_INSERT};
    size_t n = 0;
    for (size_t o = 0; o < 3; o++)
        for (size_t i = 0; i < b->group_count; i++) {
            const pending_group *g = &b->groups[i];
            if (g->op == order[o])
                groups[n++] = (ss_group){.op = g->op, .kinds = g->kinds, .count = g->filled, .keys = g->keys, .rows = g->rows};
        }
    out->groups = groups;
    out->group_count = n;
    return true;
}

static bool finish_table(ss_batcher *b, work *t, ss_batch_table *out) {
    size_t columns = t->schema->n_columns;
    if (columns > b->mask_cap) {
        uint8_t *more = realloc(b->mask, columns);
        if (!more)
            return false;
        b->mask = more;
        b->mask_cap = columns;
    }
    b->group_count = 0;
    if (!t->key_count && !t->only_inserts)
        t->ordered = true;
    if (!t->ordered && !(t->key_count ? group_slots(b, t) : group_inserts(b, t)))
        return false;
    if (t->ordered)
        b->group_count = 0;
    *out = (ss_batch_table){.schema = t->schema, .ordered = t->ordered, .first = t->first, .change_count = t->changes};
    return emit_groups(b, out);
}

ss_status ss_batcher_tables(ss_batcher *b, const ss_batch_table **ret, size_t *ret_count, ss_error *reterr) {
    ss_batch_table *out = ss_arena_alloc(b->arena, sizeof *out * (b->table_count + 1));
    if (!out)
        return no_memory(reterr);
    for (size_t i = 0; i < b->table_count; i++)
        if (!finish_table(b, &b->tables[i], &out[i]))
            return no_memory(reterr);
    *ret = out;
    *ret_count = b->table_count;
    return SS_OK;
}
