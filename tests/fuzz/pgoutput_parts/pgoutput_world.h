/* What stands around the decoder in the target `pgoutput`: a catalogue that answers as the input
 * says, and a sink that holds the source to the order of its calls. */
#ifndef TESTS_FUZZ_PGOUTPUT_WORLD_H
#define TESTS_FUZZ_PGOUTPUT_WORLD_H

#include "agents/postgres/postgres_source.h"
#include "tests/fuzz/fuzz.h"

/* The input: a byte of settings, then messages, each behind a byte that says what the world does
 * while it is read, and its length in two bytes. */
enum { SET_VIA_ROOT = 1, SET_SMALL = 2, SET_PATTERNS = 4, SET_RESUMED = 8 };
#define SMALL_MESSAGE 96u /* max_message with SET_SMALL */
#define RESUMED_AT 0x1000u

enum { HOW_PLAIN, HOW_RAW, HOW_BUSY, HOW_FAILS };   /* bits 0-1: raw: the bytes are a whole CopyData */
enum { CAT_AGREES, CAT_GONE, CAT_GENERATED, CAT_RENAMED, CAT_OTHER_TYPE, CAT_KEY_GENERATED, CAT_EMPTY, CAT_BROKEN }; /* 2-4 */
#define HOW_PARTITION 32u                           /* bit 5: it has ancestors */
enum { REC_NONE, REC_KNOWN, REC_OTHER_NAME, REC_LEFT }; /* bits 6-7: what the record says of it */

#define SCHEMAS_MOST 64u
typedef struct {
    uint64_t ids[SCHEMAS_MOST];
    uint32_t columns[SCHEMAS_MOST];
    size_t count;
} pgo_schemas;

typedef struct {
    ss_source source; /* the first: the catalogue's calls find the world by it */
    ss_source_env env;
    uint8_t how;
    ss_pgoutput peek; /* decodes beside the source, for the catalogue and the checks */
    ss_pgoutput_message message;
    bool decoded;       /* `message` is what the source is being offered */
    ss_bytes bytes;     /* of that message */
    pgo_schemas schemas;
    ss_arena *arena;    /* of one message */
    ss_buf record;      /* scratch */
    bool in_transaction, offered; /* offered: the sink has refused this message once */
    bool excused;       /* this message met a BUSY or RETRY that the world made */
    size_t calls;       /* of the sink during this message, but for refused ones */
    bool broke;         /* ss_postgres_record_break was called */
} pgo_world;

static inline unsigned pgo_catalogue(const pgo_world *world) {
    return world->how >> 2 & 7u;
}
void pgo_world_init(pgo_world *world, uint8_t settings);
void pgo_world_done(pgo_world *world);
extern const ss_sink pgo_sink; /* its ctx is to be set */

/* The wire form of a decoded message, from what the decoder made of it. false: not to be told from the struct ('M'). */
bool pgo_encode_again(const ss_pgoutput_message *message, ss_buf *out);

#endif
