/* needs: agent_postgres; wraps: ss_postgres_query ss_postgres_catalog_ready ss_postgres_stream_feedback ss_postgres_record_load ss_postgres_record_break PQserverVersion */
/* The stream of a PostgreSQL source: a row of messages, so that relations, types and transactions
 * build up, through envelope, decoder and meaning (postgres_decode.c, postgres_messages.c,
 * postgres_relation.c). The agent speaks protocol 1: there are no streamed transactions; their
 * messages have to be refused.
 *
 * Held to: what is decoded says every byte of the message, a cut message is never taken for a whole
 * one, a refused message leaves the state as it was and can be offered again, and all that the
 * contract of ss_sink says. */
#include "tests/fuzz/pgoutput_parts/pgoutput_world.h"

#include "sidespool/log.h"
#include <stdlib.h>

#define ENVELOPE 25u

/* What a message that is not taken may not change. `begun` may come true: the sink has taken the
 * Begin then, and the change is offered again behind it. */
typedef struct {
    bool in_transaction, skipping;
    uint64_t last_lsn, dropped;
    size_t relations, types;
} source_state;

static source_state state_of(const ss_source *source) {
    return (source_state){source->in_transaction, source->skipping,        source->last_lsn,
                          source->dropped,        source->relations.count, source->type_count};
}

static void check_state(const ss_source *source, const source_state *before) {
    source_state now = state_of(source);
    FUZZ_CHECK(now.in_transaction == before->in_transaction && now.skipping == before->skipping);
    FUZZ_CHECK(now.last_lsn == before->last_lsn && now.dropped == before->dropped);
    FUZZ_CHECK(now.relations == before->relations && now.types == before->types);
}

/* Every message that is a whole one is its own proof: written again it has the same bytes, and no
 * shorter run of them passes. */
static void check_decoded(pgo_world *world, ss_bytes payload) {
    ss_pgoutput_message cut;
    ss_error err = {0};
    ss_buf_clear(&world->record);
    if (pgo_encode_again(&world->message, &world->record))
        FUZZ_CHECK(
            ss_bytes_eq(payload, ss_bytes_of(world->record.ptr, world->record.len)));
    size_t lengths[] = {payload.len - 1, payload.len * (payload.ptr[payload.len - 1] & 15u) / 16};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t *exact = fuzz_exact(ss_bytes_of(payload.ptr, lengths[i]));
        ss_status status =
            ss_pgoutput_decode(&world->peek, ss_bytes_of(exact, lengths[i]), &cut, &err);
        FUZZ_CHECK(status == SS_STOP);
        fuzz_check_error(status, &err);
        free(exact);
    }
    FUZZ_CHECK(ss_pgoutput_decode(&world->peek, payload, &world->message, &err) == SS_OK);
}

static void peek(pgo_world *world, ss_bytes bytes) {
    ss_walsender_message envelope;
    ss_error err = {0};
    world->bytes = bytes;
    ss_status status = ss_walsender_decode(bytes, &envelope, &err);
    fuzz_check_error(status, &err);
    world->decoded = false;
    if (status != SS_OK || envelope.kind != SS_WALSENDER_DATA)
        return;
    status = ss_pgoutput_decode(&world->peek, envelope.payload, &world->message, &err);
    fuzz_check_error(status, &err);
    world->decoded = status == SS_OK;
    if (world->decoded)
        check_decoded(world, envelope.payload);
}

/* Offers one CopyData message, again when the sink was busy. false: the session ends here. */
static bool offer(pgo_world *world, ss_bytes bytes) {
    ss_sink sink = pgo_sink;
    sink.ctx = world;
    peek(world, bytes);
    world->offered = false;
    for (;;) {
        ss_error err = {0};
        source_state before = state_of(&world->source);
        world->excused = world->broke = false;
        world->calls = 0;
        ss_arena_reset(world->arena);
        ss_status status = ss_postgres_message(&world->source, &sink, bytes, &err);
        fuzz_check_error(status, &err);
        FUZZ_CHECK(world->in_transaction == world->source.begun);
        FUZZ_CHECK(world->source.in_transaction || !world->source.begun);
        if (status == SS_OK)
            return true;
        check_state(&world->source, &before);
        /* There is memory here: what may succeed later is the world's doing alone. */
        FUZZ_CHECK_SAY(status == SS_STOP || world->excused, err.text);
        FUZZ_CHECK(!world->broke || status == SS_STOP);
        if (status != SS_BUSY)
            return status == SS_RETRY;
    }
}

/* As the walsender would send it: 'w', where, how far, when. */
static uint8_t *wrapped(ss_bytes payload, size_t *ret_len) {
    uint8_t head[ENVELOPE] = {'w'};
    uint8_t *all = malloc(ENVELOPE + payload.len);
    FUZZ_CHECK(all != NULL);
    memcpy(all, head, ENVELOPE);
    if (payload.len > 0)
        memcpy(all + ENVELOPE, payload.ptr, payload.len);
    *ret_len = ENVELOPE + payload.len;
    return all;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {ss_bytes_of(data, size)};
    pgo_world world;
    bool going = true;

    ss_log_threshold(SS_ERROR + 1);
    pgo_world_init(&world, fuzz_u8(&in));
    while (going && in.rest.len > 0) {
        world.how = fuzz_u8(&in);
        ss_bytes payload = fuzz_bytes(&in, fuzz_u16(&in));
        size_t len = payload.len;
        uint8_t *exact = (world.how & 3u) == HOW_RAW ? fuzz_exact(payload) : wrapped(payload, &len);
        going = offer(&world, ss_bytes_of(exact, len));
        free(exact);
    }
    pgo_world_done(&world);
    return 0;
}
