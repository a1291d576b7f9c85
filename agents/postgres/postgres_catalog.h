/* What the stream asks the catalogue beside postgres.h. */
#ifndef AGENTS_POSTGRES_CATALOG_H
#define AGENTS_POSTGRES_CATALOG_H

#include "agents/postgres/postgres.h"
#include "agents/postgres/postgres_decode.h"

/* Is the relation that a Relation message names (full: "ns.name") selected: by its own name or,
 * published by leaf, by an ancestor's? A leaf that has been dropped since is known by its own name
 * alone. */
SS_MUST ss_status ss_postgres_relation_wanted(PGconn *conn, const ss_source_env *env,
                                              uint32_t relid, const char *full, bool via_root,
                                              bool *ret, ss_error *reterr);

/* The partitioned tables above a partition, as the catalogue has them now; none for another table. At
 * most `most`. */
SS_MUST ss_status ss_postgres_ancestors(PGconn *conn, uint32_t relid, uint32_t *ret, size_t most,
                                        size_t *ret_count, ss_error *reterr);

/* A condition in SQL: attribute a is of the key of index x, not only INCLUDEd in it. Old images hold the key alone. */
const char *ss_postgres_sql_in_key(PGconn *conn);

/* The vtable's selected(). */
SS_MUST ss_status ss_postgres_selected(const ss_source_env *env, ss_arena *arena,
                                       ss_source_table **ret, size_t *ret_count, ss_error *reterr);

/* A type that a Type message named: the only word about it once it has been dropped. */
typedef struct {
    uint32_t oid;
    char *name; /* quoted "ns"."name"; heap */
} ss_postgres_type;

/* The Schema that a Relation message describes: its names, types and order, whatever the catalogue
 * says by now; what the message does not say (nullability, identity, defaults of meaning) comes
 * from the catalogue where that still agrees. Lives as long as the arena; not sealed. */
SS_MUST ss_status ss_postgres_schema_of_wire(PGconn *conn, const ss_pgoutput_relation *relation,
                                             const ss_postgres_type *types, size_t type_count,
                                             ss_arena *arena, Sidespool__Schema **ret,
                                             ss_error *reterr);

#endif
