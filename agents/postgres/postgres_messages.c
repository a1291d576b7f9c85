/* decode -> select -> sink: what each message of the stream means for the pipeline. Capture thread.
 *
 * A message that the sink refuses (SS_BUSY: the spool is full) has changed nothing here and is
 * offered again as it was. */
#include "agents/postgres/postgres_record.h"
#include "agents/postgres/postgres_source.h"
#include "sidespool/log.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- relations of this session
 * ------------------------------------------------------------------------------------ */

static void relation_free(ss_postgres_relation *rel) {
    if (!rel)
        return;
    free(rel->name);
    free(rel->key);
    free(rel->wire_key);
    free(rel->raw);
    free(rel);
}

static size_t slot_of(const ss_postgres_relations *all, uint32_t relid) {
    size_t i = (relid * UINT32_C(2654435761)) & (all->cap - 1);
    while (all->slots[i] && all->slots[i]->relid != relid)
        i = (i + 1) & (all->cap - 1);
    return i;
}

static ss_postgres_relation *find(ss_postgres_relations *all, uint32_t relid) {
    if (all->last && all->last->relid == relid)
        return all->last;
    if (all->cap == 0)
        return NULL;
    ss_postgres_relation *found = all->slots[slot_of(all, relid)];
    if (found)
        all->last = found;
    return found;
}

/* Takes `rel`, replacing an older one of that relid. false: no memory, nothing taken. */
static bool relations_put(ss_postgres_relations *all, ss_postgres_relation *rel) {
    if ((all->count + 1) * 2 > all->cap) {
        ss_postgres_relations more = {.cap = all->cap ? all->cap * 2 : 64, .count = all->count};
        more.slots = calloc(more.cap, sizeof *more.slots);
        if (!more.slots)
            return false;
        for (size_t i = 0; i < all->cap; i++)
            if (all->slots[i])
                more.slots[slot_of(&more, all->slots[i]->relid)] = all->slots[i];
        free(all->slots);
        *all = more;
    }
    size_t at = slot_of(all, rel->relid);
    if (all->slots[at])
        relation_free(all->slots[at]);
    else
        all->count++;
    all->slots[at] = rel;
    all->last = rel;
    return true;
}

void ss_postgres_messages_done(ss_source *source) {
    for (size_t i = 0; i < source->relations.cap; i++)
        relation_free(source->relations.slots[i]);
    free(source->relations.slots);
    for (size_t i = 0; i < source->type_count; i++)
        free(source->types[i].name);
    free(source->types);
    free(source->truncate_ids);
    ss_arena_free(source->arena);
    ss_pgoutput_done(&source->decoder);
}

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for a message of the source");
}

/* ---- Relation and Type
 * ---------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    const ss_bytes *x = &(*(const ss_pgoutput_column *const *)a)->name,
                   *y = &(*(const ss_pgoutput_column *const *)b)->name;
    int order = memcmp(x->ptr, y->ptr, x->len < y->len ? x->len : y->len);
    return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* The key's columns as one text that two relations can be compared by, whatever order their columns
 * have. NULL: no memory. */
static char *key_text(const ss_pgoutput_relation *wire) {
    const ss_pgoutput_column **keyed = calloc(wire->count + 1u, sizeof(void *));
    size_t n = 0;
    ss_buf text;

    ss_buf_init(&text);
    for (uint32_t i = 0; keyed && i < wire->count; i++)
        if (wire->columns[i].key && wire->identity != 'f')
            keyed[n++] = &wire->columns[i];
    if (keyed)
        qsort(keyed, n, sizeof *keyed, by_name);
    for (size_t i = 0; i < n; i++)
        ss_buf_printf(&text, "%s%.*s", i ? ", " : "", (int)keyed[i]->name.len,
                      (const char *)keyed[i]->name.ptr);
    char *copy = keyed ? strdup(ss_buf_cstr(&text)) : NULL;
    bool bad = text.bad;
    ss_buf_done(&text);
    free(keyed);
    if (bad) {
        free(copy);
        return NULL;
    }
    return copy;
}

/* A server compiled with a larger NAMEDATALEN may have longer names than the usual 63 bytes. */
#define NAME_MOST 255

/* NULL: no memory. */
static ss_postgres_relation *relation_make(const ss_pgoutput_relation *wire, ss_bytes raw) {
    ss_postgres_relation *rel = calloc(1, sizeof *rel);
    if (!rel)
        return NULL;
    rel->relid = wire->relid;
    rel->raw = malloc(raw.len);
    rel->raw_len = raw.len;
    rel->wire_key = calloc(wire->count + 1u, sizeof *rel->wire_key);
    if (asprintf(&rel->name, "%.*s.%.*s", wire->ns.len ? (int)wire->ns.len : 10,
                 wire->ns.len ? (const char *)wire->ns.ptr : "pg_catalog", (int)wire->name.len,
                 (const char *)wire->name.ptr) < 0)
        rel->name = NULL;
    rel->key = key_text(wire);
    if (!rel->raw || !rel->wire_key || !rel->name || !rel->key) {
        relation_free(rel);
        return NULL;
    }
    memcpy(rel->raw, raw.ptr, raw.len);
    for (uint32_t i = 0; i < wire->count; i++)
        rel->wire_key[i] = wire->columns[i].key;
    rel->shape =
        (ss_pgoutput_shape){0, rel->name, wire->count, rel->wire_key, wire->identity == 'f'};
    return rel;
}

/* Published by root, a change of a partition is told as one of the root, with what the partition's
 * own identity logged of the old row. pgoutput describes the partition, too, as of that place in
 * the WAL: where the two disagree, a key could be taken for a whole row, and nothing in the change
 * itself tells. So it stops here; `ALTER TABLE … REPLICA IDENTITY` on a partition alone, or a
 * partition attached with another one, comes out so. Without an identity the source refuses UPDATE
 * and DELETE itself. */
static ss_status compare_to_root(ss_source *source, const ss_postgres_relation *rel,
                                 ss_error *reterr) {
    uint32_t up[32];
    size_t count = 0;
    if (!source->via_root || (!rel->shape.full && !*rel->key))
        return SS_OK;
    ss_status status = ss_postgres_ancestors(source->catalog, rel->relid, up,
                                             sizeof up / sizeof *up, &count, reterr);
    for (size_t i = 0; status == SS_OK && i < count; i++) {
        const ss_postgres_relation *root = find(&source->relations, up[i]);
        if (!root || !root->selected)
            continue;
        if (root->shape.full ? rel->shape.full
                             : rel->shape.full || strcmp(rel->key, root->key) == 0)
            continue;
        return ss_fail(reterr, SS_STOP, "SS-PG-0017",
                       "partition %s identifies its rows by %s%s, but %s, as which it is "
                       "published, by %s%s: its updates and deletes cannot be told exactly",
                       rel->name, *rel->key ? "" : "the whole row", rel->key, root->name,
                       *root->key ? "" : "the whole row", root->key);
    }
    return status;
}

/* The record knows what was copied: such a table is taken whatever the catalogue says of it by now (it may be dropped, or a
 * partition no more), unless the agent's file selects it no more. Under another name it is a hole: what comes under that name
 * belongs to a table that the targets do not have, and nothing would tell once it is named back. */
static ss_status known_by_record(ss_source *source, ss_postgres_relation *rel, ss_error *reterr) {
    const ss_postgres_record *record = NULL;
    char text[SS_ERROR_TEXT];
    ss_status status = ss_postgres_record_look(source->env, &source->record_kept, &record, reterr);
    const ss_postgres_member *member =
        status == SS_OK ? ss_postgres_record_find(record, rel->relid) : NULL;
    if (member && member->left) {
        if (!rel->selected && source->final_lsn < member->at) {
            rel->selected = true;
            rel->until = member->at;
        }
    } else if (member && source->final_lsn >= member->at) {
        rel->selected = true;
        if (!ss_postgres_record_named(member, rel->name)) {
            snprintf(text, sizeof text,
                     "%.150s was renamed to %.150s: what is written to it under that name is missing "
                     "from its copies; name it back and copy it anew (on_gap: resync)",
                     member->name, rel->name);
            SS_LOG(SS_ERROR, "table_renamed", SS_S("table", member->name), SS_S("now", rel->name));
            status = ss_postgres_record_break(source->env, text, reterr);
        }
    }
    return status;
}

/* pgoutput repeats a Relation whenever its cache was invalidated (an ANALYZE is enough): only
 * another content is news. The catalogue is read on a session of its own and may be ahead of the
 * stream; the Schema follows the message. */
static ss_status on_relation(ss_source *source, const ss_sink *sink,
                             const ss_pgoutput_relation *wire, ss_bytes raw, ss_error *reterr) {
    const ss_postgres_relation *known = find(&source->relations, wire->relid);
    if (known && known->raw_len == raw.len && memcmp(known->raw, raw.ptr, raw.len) == 0)
        return SS_OK;
    if (wire->ns.len > NAME_MOST || wire->name.len > NAME_MOST)
        return ss_fail(reterr, SS_STOP, "SS-PG-0010",
                       "the Relation message of oid %" PRIu32 " has a name of %zu bytes, longer than "
                       "any of PostgreSQL's; the link or the server damaged it",
                       wire->relid, wire->ns.len > NAME_MOST ? wire->ns.len : wire->name.len);
    ss_status status = ss_postgres_catalog_ready(source, reterr);
    if (status != SS_OK)
        return status;
    ss_postgres_relation *rel = relation_make(wire, raw);
    if (!rel)
        return no_memory(reterr);
    status = compare_to_root(source, rel, reterr);
    if (status == SS_OK)
        status = ss_postgres_relation_wanted(source->catalog, source->env, wire->relid, rel->name,
                                             source->via_root, &rel->selected, reterr);
    if (status == SS_OK)
        status = known_by_record(source, rel, reterr);
    if (status == SS_OK && known && known->selected != rel->selected)
        SS_LOG(SS_WARN, "relation_selected", SS_S("table", rel->name), SS_S("before", known->name),
               SS_U("selected", rel->selected));
    if (status == SS_OK)
        source->record_news = true;
    if (status == SS_OK && rel->selected) {
        Sidespool__Schema *schema;
        ss_arena_reset(source->arena);
        status = ss_postgres_schema_of_wire(source->catalog, wire, source->types,
                                            source->type_count, source->arena, &schema, reterr);
        if (status == SS_OK)
            status = sink->schema(sink->ctx, schema, &rel->shape.schema_id, reterr);
    }
    if (status == SS_OK && !known)
        SS_LOG(SS_DEBUG, "relation", SS_S("table", rel->name), SS_U("relid", rel->relid),
               SS_U("selected", rel->selected));
    if (status == SS_OK && !relations_put(&source->relations, rel))
        status = no_memory(reterr);
    if (status != SS_OK)
        relation_free(rel);
    return status;
}

static void put_quoted(ss_buf *out, ss_bytes name) {
    ss_buf_put_byte(out, '"');
    for (size_t i = 0; i < name.len; i++) {
        if (name.ptr[i] == '"')
            ss_buf_put_byte(out, '"');
        ss_buf_put_byte(out, name.ptr[i]);
    }
    ss_buf_put_byte(out, '"');
}

static ss_status on_type(ss_source *source, uint32_t oid, ss_bytes ns, ss_bytes name,
                         ss_error *reterr) {
    ss_buf text;
    ss_buf_init(&text);
    put_quoted(&text, ns.len ? ns : ss_bytes_str("pg_catalog"));
    ss_buf_put_byte(&text, '.');
    put_quoted(&text, name);
    char *copy = strdup(ss_buf_cstr(&text));
    bool bad = text.bad;
    ss_buf_done(&text);
    size_t at = 0;
    while (at < source->type_count && source->types[at].oid != oid)
        at++;
    if (!bad && copy && at == source->type_count) {
        ss_postgres_type *more = reallocarray(source->types, at + 1, sizeof *more);
        if (more) {
            source->types = more;
            source->types[at] = (ss_postgres_type){oid, NULL};
            source->type_count++;
        } else {
            bad = true;
        }
    }
    if (bad || !copy) {
        free(copy);
        return no_memory(reterr);
    }
    free(source->types[at].name);
    source->types[at].name = copy;
    return SS_OK;
}

/* ---- transactions
 * ---------------------------------------------------------------------------------------------------
 */

static ss_status on_begin(ss_source *source, const ss_pgoutput_message *message, ss_error *reterr) {
    if (source->in_transaction)
        return ss_fail(reterr, SS_STOP, "SS-PG-0016",
                       "the source began a transaction inside another one");
    source->in_transaction = true;
    source->begun = false;
    source->final_lsn = message->u.begin.final_lsn;
    source->commit_time_us = message->u.begin.time_us;
    source->xid = message->u.begin.xid;
    /* A start position is the end of a WAL record. A commit record that starts before it therefore
     * ends at or before it: the transaction was durable here when that position was. */
    source->skipping = source->final_lsn < source->start_lsn;
    return SS_OK;
}

/* Said with the first change: a transaction that holds nothing for us leaves no Begin behind. */
static ss_status begin_once(ss_source *source, const ss_sink *sink, ss_error *reterr) {
    if (source->begun)
        return SS_OK;
    char at[24];
    ss_postgres_lsn_text(source->final_lsn, at, sizeof at);
    ss_status status = sink->begin(sink->ctx, at, source->commit_time_us, source->xid, reterr);
    source->begun = status == SS_OK;
    return status;
}

static ss_status on_commit(ss_source *source, const ss_sink *sink,
                           const ss_pgoutput_message *message, ss_error *reterr) {
    uint64_t end = message->u.commit.end_lsn;
    char position[24];
    ss_postgres_lsn_text(end, position, sizeof position);
    if (!source->in_transaction || message->u.commit.commit_lsn != source->final_lsn)
        return ss_fail(reterr, SS_STOP, "SS-PG-0016",
                       "the commit at %s does not end the transaction that was begun", position);
    if (source->skipping != (end <= source->start_lsn))
        return ss_fail(reterr, SS_STOP, "SS-PG-0016",
                       "the transaction that ends at %s reaches over the position it resumes from",
                       position);
    ss_status status = SS_OK;
    if (source->skipping)
        SS_LOG(SS_INFO, "transaction_known", SS_S("position", position),
               SS_U("dropped", source->dropped + 1));
    else if (source->begun)
        status = sink->commit(sink->ctx, position, message->u.commit.time_us, reterr);
    else
        status = sink->idle(sink->ctx, position, message->u.commit.time_us, reterr);
    if (status != SS_OK)
        return status;
    source->dropped += source->skipping;
    if (!source->skipping)
        source->last_lsn = end;
    source->in_transaction = source->begun = source->skipping = false;
    return SS_OK;
}

static ss_status relation_of(ss_source *source, uint32_t relid, ss_postgres_relation **ret,
                             ss_error *reterr) {
    if (!source->in_transaction)
        return ss_fail(reterr, SS_STOP, "SS-PG-0016",
                       "the source sent a change outside of a transaction");
    ss_postgres_relation *rel = find(&source->relations, relid);
    if (!rel)
        return ss_fail(reterr, SS_STOP, "SS-PG-0012",
                       "the source sent a change of oid %" PRIu32 " without its Relation message",
                       relid);
    *ret = rel;
    return SS_OK;
}

static bool taken(const ss_source *source, const ss_postgres_relation *rel) {
    return rel->selected && (rel->until == 0 || source->final_lsn < rel->until);
}

static ss_status on_change(ss_source *source, const ss_sink *sink, ss_pgoutput_message *message,
                           ss_error *reterr) {
    ss_postgres_relation *rel;
    ss_change change;
    ss_status status = relation_of(source, message->u.change.relid, &rel, reterr);
    if (status != SS_OK || source->skipping || !taken(source, rel))
        return status;
    status = ss_pgoutput_change(&source->decoder, &rel->shape, message, &change, reterr);
    if (status == SS_OK)
        status = begin_once(source, sink, reterr);
    return status == SS_OK ? sink->change(sink->ctx, &change, reterr) : status;
}

static ss_status on_truncate(ss_source *source, const ss_sink *sink,
                             const ss_pgoutput_message *message, ss_error *reterr) {
    size_t count = message->u.truncate.count, n = 0;
    if (count > source->truncate_cap) {
        uint64_t *more = reallocarray(source->truncate_ids, count, sizeof *more);
        if (!more)
            return no_memory(reterr);
        source->truncate_ids = more;
        source->truncate_cap = count;
    }
    for (size_t i = 0; i < count; i++) {
        ss_postgres_relation *rel;
        ss_status status = relation_of(source, message->u.truncate.relids[i], &rel, reterr);
        if (status != SS_OK)
            return status;
        if (taken(source, rel))
            source->truncate_ids[n++] = rel->shape.schema_id;
    }
    if (n == 0 || source->skipping)
        return SS_OK;
    ss_status status = begin_once(source, sink, reterr);
    if (status == SS_OK)
        status = sink->truncate(sink->ctx, source->truncate_ids, n, message->u.truncate.cascade,
                                message->u.truncate.restart_identity, reterr);
    return status;
}

static ss_status on_message(ss_source *source, const ss_sink *sink, ss_bytes payload,
                            ss_error *reterr) {
    ss_pgoutput_message message;
    ss_status status = ss_pgoutput_decode(&source->decoder, payload, &message, reterr);
    if (status != SS_OK)
        return status;
    switch (message.type) {
    case 'B':
        return on_begin(source, &message, reterr);
    case 'C':
        return on_commit(source, sink, &message, reterr);
    case 'R':
        return on_relation(source, sink, &message.u.relation, payload, reterr);
    case 'Y':
        return on_type(source, message.u.type.oid, message.u.type.ns, message.u.type.name, reterr);
    case 'I':
    case 'U':
    case 'D':
        return on_change(source, sink, &message, reterr);
    case 'T':
        return on_truncate(source, sink, &message, reterr);
    default: /* 'O' (where the source itself had it from) and 'M' (logical messages) are dropped by
                policy */
        return SS_OK;
    }
}

/* Outside a transaction every commit before wal_end has been sent and handed over: it is a position
 * to resume from. */
static ss_status on_keepalive(ss_source *source, const ss_sink *sink,
                              const ss_walsender_message *envelope, ss_error *reterr) {
    if (envelope->reply) {
        ss_status status = ss_postgres_stream_feedback(&source->stream, true, reterr);
        if (status != SS_OK)
            return status;
    }
    if (source->in_transaction || envelope->wal_end < source->last_lsn)
        return SS_OK;
    char position[24];
    ss_postgres_lsn_text(envelope->wal_end, position, sizeof position);
    ss_status status = sink->idle(sink->ctx, position, envelope->sent_us, reterr);
    if (status == SS_OK)
        source->last_lsn = envelope->wal_end;
    return status;
}

static ss_status refuse_size(ss_source *source, ss_bytes payload, ss_error *reterr) {
    uint32_t relid = payload.len < 5
                         ? 0
                         : (uint32_t)payload.ptr[1] << 24 | (uint32_t)payload.ptr[2] << 16 |
                               (uint32_t)payload.ptr[3] << 8 | payload.ptr[4];
    const ss_postgres_relation *rel = find(&source->relations, relid);
    return ss_fail(reterr, SS_STOP, "SS-PG-0014",
                   "a change of %s has %zu bytes, max_message allows %" PRIu64,
                   rel ? rel->name : "an unknown table", payload.len, source->env->max_message);
}

ss_status ss_postgres_message(ss_source *source, const ss_sink *sink, ss_bytes bytes,
                              ss_error *reterr) {
    ss_walsender_message envelope;
    ss_status status = ss_walsender_decode(bytes, &envelope, reterr);
    if (status == SS_OK && envelope.kind == SS_WALSENDER_KEEPALIVE)
        return on_keepalive(source, sink, &envelope, reterr);
    if (status == SS_OK && source->env->max_message &&
        envelope.payload.len > source->env->max_message)
        status = refuse_size(source, envelope.payload, reterr);
    if (status == SS_OK)
        status = on_message(source, sink, envelope.payload, reterr);
    if (status == SS_STOP && source->in_transaction && reterr)
        ss_error_prefix(reterr, "transaction %" PRIu32 " that commits at %X/%X", source->xid,
                        (unsigned)(source->final_lsn >> 32), (unsigned)source->final_lsn);
    return status;
}
