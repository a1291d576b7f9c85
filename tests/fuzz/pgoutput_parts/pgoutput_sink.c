/* The pipeline's place: takes what the source hands over, holds it to the contract of ss_sink, and
 * refuses when the input wants it to. */
#include "tests/fuzz/pgoutput_parts/pgoutput_world.h"

#include <stdlib.h>

void pgo_world_init(pgo_world *world, uint8_t settings) {
    static const char *included[] = {"public.*", "root.*"};
    static const char *excluded[] = {"*.not_*"};
    static const ss_strings include = {.items = included, .count = 2};
    static const ss_strings exclude = {.items = excluded, .count = 1};
    *world = (pgo_world){0};
    world->env = (ss_source_env){
        .name = "fuzz",
        .spool_path = "/nonexistent",
        .max_message = (settings & SET_SMALL) != 0 ? SMALL_MESSAGE : 0,
        .include = (settings & SET_PATTERNS) != 0 ? &include : NULL,
        .exclude = (settings & SET_PATTERNS) != 0 ? &exclude : NULL,
    };
    world->source.env = &world->env;
    world->source.via_root = (settings & SET_VIA_ROOT) != 0;
    world->source.start_lsn = (settings & SET_RESUMED) != 0 ? RESUMED_AT : 0;
    world->source.last_lsn = world->source.start_lsn;
    world->source.arena = ss_arena_new(0);
    world->arena = ss_arena_new(0);
    FUZZ_CHECK(world->source.arena != NULL && world->arena != NULL);
    ss_pgoutput_init(&world->source.decoder);
    ss_pgoutput_init(&world->peek);
    ss_buf_init(&world->record);
}

void pgo_world_done(pgo_world *world) {
    ss_postgres_messages_done(&world->source);
    ss_pgoutput_done(&world->peek);
    ss_arena_free(world->arena);
    ss_buf_done(&world->record);
}

/* The first call of a message is refused once. */
static ss_status answer(pgo_world *world, ss_error *reterr) {
    unsigned how = world->how & 3u;
    if ((how == HOW_BUSY && !world->offered) || how == HOW_FAILS) {
        world->offered = world->excused = true;
        return how == HOW_BUSY ? ss_fail(reterr, SS_BUSY, "SS-SPOOL-0001", "the spool is full")
                               : ss_fail(reterr, SS_RETRY, "SS-SPOOL-0006", "the disk fails");
    }
    world->calls++;
    return SS_OK;
}

static void check_position(const char *position) {
    uint64_t lsn;
    FUZZ_CHECK_SAY(ss_postgres_lsn_parse(position, &lsn), position);
}

static ss_status sink_begin(void *ctx, const char *at, int64_t commit_time_us, uint64_t xid,
                            ss_error *reterr) {
    pgo_world *world = ctx;
    (void)commit_time_us;
    (void)xid;
    FUZZ_CHECK(!world->in_transaction);
    check_position(at);
    ss_status status = answer(world, reterr);
    world->in_transaction = status == SS_OK;
    return status;
}

static uint32_t *columns_of(pgo_world *world, uint64_t id) {
    for (size_t i = 0; i < world->schemas.count; i++)
        if (world->schemas.ids[i] == id)
            return &world->schemas.columns[i];
    return NULL;
}

/* A catalogue that agrees says more than the message: what may be NULL. This also shows when the
 * catalogue of this target no longer answers what postgres_relation.c asks. */
static void check_catalogue(const pgo_world *world, const Sidespool__Schema *schema) {
    const ss_pgoutput_relation *wire = &world->message.u.relation;
    FUZZ_CHECK(world->decoded && world->message.type == 'R');
    if (pgo_catalogue(world) != CAT_AGREES || wire->identity == '\0')
        return;
    FUZZ_CHECK(schema->n_columns == wire->count);
    for (uint32_t i = 0; i < wire->count; i++)
        FUZZ_CHECK(schema->columns[i]->nullable == !wire->columns[i].key);
}

/* Seals, as the pipeline does, and reads back what it sealed. */
static ss_status sink_schema(void *ctx, Sidespool__Schema *schema, uint64_t *ret_id,
                             ss_error *reterr) {
    pgo_world *world = ctx;
    Sidespool__Schema *again = NULL;
    ss_error err = {0};
    ss_status status = answer(world, reterr);
    if (status != SS_OK)
        return status;
    check_catalogue(world, schema);
    ss_buf_clear(&world->record);
    uint64_t id = ss_schema_seal(schema, &world->record);
    FUZZ_CHECK(id != 0 && !world->record.bad);
    status = ss_schema_get(ss_bytes_of(world->record.ptr, world->record.len), world->arena, "schema",
                           &again, &err);
    FUZZ_CHECK_SAY(status == SS_OK, err.text);
    FUZZ_CHECK(again->n_columns == schema->n_columns && strcmp(again->name, schema->name) == 0);
    uint32_t *known = columns_of(world, id);
    FUZZ_CHECK(known == NULL || *known == schema->n_columns);
    if (known == NULL && world->schemas.count < SCHEMAS_MOST) {
        world->schemas.columns[world->schemas.count] = (uint32_t)schema->n_columns;
        world->schemas.ids[world->schemas.count++] = id;
    }
    *ret_id = id;
    return SS_OK;
}

/* A cell is a view into the message, or nothing. */
static void check_row(const pgo_world *world, const ss_row *row, uint32_t columns, bool old) {
    const uint8_t *start = world->bytes.ptr, *end = start + world->bytes.len;
    FUZZ_CHECK(row->count == columns);
    for (uint32_t i = 0; i < row->count; i++) {
        uint8_t kind = row->kinds[i];
        FUZZ_CHECK(kind == SS_CELL_VALUE || kind == SS_CELL_NULL || kind == SS_CELL_UNCHANGED ||
                   (kind == SS_CELL_ABSENT && old));
        if (kind == SS_CELL_VALUE)
            FUZZ_CHECK(row->cells[i].ptr >= start &&
                       row->cells[i].len <= (size_t)(end - row->cells[i].ptr));
    }
}

static void check_same_row(const ss_row *a, const ss_row *b) {
    FUZZ_CHECK(a->count == b->count);
    for (uint32_t i = 0; i < a->count; i++) {
        FUZZ_CHECK(a->kinds[i] == b->kinds[i]);
        if (a->kinds[i] == SS_CELL_VALUE)
            FUZZ_CHECK(ss_bytes_eq(a->cells[i], b->cells[i]));
    }
}

/* What is appended can be read again, as it was. */
static void check_record(pgo_world *world, const ss_change *change) {
    Sidespool__Record *record = NULL;
    ss_change again;
    ss_error err = {0};
    ss_buf_clear(&world->record);
    ss_record_put_change(&world->record, change);
    FUZZ_CHECK(!world->record.bad);
    ss_status status = ss_record_get(ss_bytes_of(world->record.ptr, world->record.len),
                                     world->arena, "record", &record, &err);
    FUZZ_CHECK_SAY(status == SS_OK, err.text);
    FUZZ_CHECK(record->body_case == SIDESPOOL__RECORD__BODY_CHANGE);
    FUZZ_CHECK(ss_record_change(record->change, world->arena, &again, &err) == SS_OK);
    FUZZ_CHECK(again.schema_id == change->schema_id && again.op == change->op);
    check_same_row(&change->before, &again.before);
    check_same_row(&change->after, &again.after);
}

static ss_status sink_change(void *ctx, const ss_change *change, ss_error *reterr) {
    pgo_world *world = ctx;
    FUZZ_CHECK(world->in_transaction);
    uint32_t *columns = columns_of(world, change->schema_id);
    FUZZ_CHECK(columns != NULL || world->schemas.count == SCHEMAS_MOST);
    /* A table without columns has rows without cells. */
    uint32_t count = columns != NULL ? *columns : change->after.count + change->before.count;
    FUZZ_CHECK(change->op == SIDESPOOL__OP__OP_INSERT || change->op == SIDESPOOL__OP__OP_UPDATE ||
               change->op == SIDESPOOL__OP__OP_DELETE);
    if (change->before.count > 0)
        check_row(world, &change->before, columns != NULL ? count : change->before.count, true);
    if (change->after.count > 0)
        check_row(world, &change->after, columns != NULL ? count : change->after.count, false);
    FUZZ_CHECK(change->op != SIDESPOOL__OP__OP_INSERT || change->before.count == 0);
    FUZZ_CHECK(change->op != SIDESPOOL__OP__OP_DELETE || change->after.count == 0);
    check_record(world, change);
    return answer(world, reterr);
}

static ss_status sink_truncate(void *ctx, const uint64_t *schema_ids, size_t count, bool cascade,
                               bool restart_identity, ss_error *reterr) {
    pgo_world *world = ctx;
    (void)cascade;
    (void)restart_identity;
    FUZZ_CHECK(world->in_transaction && count > 0);
    for (size_t i = 0; i < count; i++)
        FUZZ_CHECK(columns_of(world, schema_ids[i]) != NULL ||
                   world->schemas.count == SCHEMAS_MOST);
    return answer(world, reterr);
}

static ss_status sink_commit(void *ctx, const char *position, int64_t commit_time_us,
                             ss_error *reterr) {
    pgo_world *world = ctx;
    (void)commit_time_us;
    FUZZ_CHECK(world->in_transaction);
    check_position(position);
    ss_status status = answer(world, reterr);
    if (status == SS_OK)
        world->in_transaction = false;
    return status;
}

static ss_status sink_idle(void *ctx, const char *position, int64_t source_time_us,
                           ss_error *reterr) {
    pgo_world *world = ctx;
    (void)source_time_us;
    FUZZ_CHECK(!world->in_transaction);
    check_position(position);
    return answer(world, reterr);
}

const ss_sink pgo_sink = {.begin = sink_begin,
                          .schema = sink_schema,
                          .change = sink_change,
                          .truncate = sink_truncate,
                          .commit = sink_commit,
                          .idle = sink_idle};
