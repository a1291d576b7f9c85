/* The record of what is published: see the header. */
#include "agents/postgres/postgres_record.h"
#include "agents/durable_file.h"
#include "sidespool/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_NAME "publication"
#define RECORD_MOST ((size_t)256 << 20)

static ss_status no_memory(ss_error *reterr) {
    return ss_fail(reterr, SS_RETRY, "SS-PG-0005", "no memory for the record of the publication");
}

static void path_of(const ss_source_env *env, char *ret, size_t size) {
    snprintf(ret, size, "%s/%s/" RECORD_NAME, env->spool_path, env->name);
}

static ss_status file_fail(ss_error *reterr, const char *doing, const char *path) {
    return ss_fail_sys(reterr, SS_RETRY, "SS-PG-0058", errno, "cannot %s %s", doing, path);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

/* Names may hold anything: control characters and % become %XX, so that a line stays a line. */
static const char *escaped(char c, char ret[4]) {
    if ((unsigned char)c < 0x20 || c == '%')
        snprintf(ret, 4, "%%%02x", (unsigned)(unsigned char)c);
    else
        snprintf(ret, 4, "%c", c);
    return ret;
}

static void put_escaped(ss_buf *out, const char *text) {
    char part[4];
    for (const char *p = text; *p != '\0'; p++)
        ss_buf_put_str(out, escaped(*p, part));
}

bool ss_postgres_record_named(const ss_postgres_member *member, const char *name) {
    /* Without memory of its own: a comparison that fails for want of it would read as "renamed", which is a gap. */
    const char *rest = member->name;
    char part[4];
    for (const char *p = name; *p != '\0'; p++) {
        size_t len = strlen(escaped(*p, part));
        if (strncmp(rest, part, len) != 0)
            return false;
        rest += len;
    }
    return *rest == '\0';
}

/* Durable when this returns. A line that a crash cut short is ended by the newline that every append begins with. */
static ss_status lines_put(const ss_source_env *env, const ss_buf *lines, bool anew, ss_error *reterr) {
    char folder[PATH_MAX];
    if (lines->bad)
        return no_memory(reterr);
    snprintf(folder, sizeof folder, "%s/%s", env->spool_path, env->name);
    ss_bytes content = ss_bytes_of(lines->ptr, lines->len);
    return anew ? ss_durable_replace(folder, RECORD_NAME, content, "SS-PG-0058", reterr)
                : ss_durable_append(folder, RECORD_NAME, content, "SS-PG-0058", reterr);
}

static char *field(char **rest) {
    char *start = *rest, *end = strchr(start, ' ');
    if (end == NULL)
        return NULL;
    *end = '\0';
    *rest = end + 1;
    return start;
}

static uint32_t *slot_of(const ss_postgres_record *record, uint32_t relid) {
    size_t at = (relid * UINT32_C(2654435761)) & record->mask;
    while (record->slots[at] != 0 && record->members[record->slots[at] - 1].relid != relid)
        at = (at + 1) & record->mask;
    return &record->slots[at];
}

static ss_postgres_member *member_at(ss_postgres_record *record, uint32_t relid) {
    uint32_t *slot = slot_of(record, relid);
    if (*slot != 0)
        return &record->members[*slot - 1];
    ss_postgres_member *fresh = &record->members[record->count++];
    *fresh = (ss_postgres_member){.relid = relid, .tokens = "-", .tree = "-", .name = ""};
    *slot = (uint32_t)record->count;
    return fresh;
}

/* false: not one of ours. */
static bool line_read(ss_postgres_record *record, char *line) {
    char kind = line[0], *rest = line + 2;
    if (line[0] == '\0' || line[1] != ' ')
        return false;
    if (kind == 'B') {
        record->broken = rest;
        return true;
    }
    char *oid = field(&rest);
    if (oid == NULL)
        return false;
    uint32_t number = (uint32_t)strtoul(oid, NULL, 10);
    if (kind == 'L') {
        char *at = field(&rest);
        ss_postgres_member *member = member_at(record, number);
        if (at == NULL || !ss_postgres_lsn_parse(at, &member->at))
            return false;
        member->left = true;
        member->name = rest;
        return true;
    }
    char *first = field(&rest), *second = first != NULL ? field(&rest) : NULL;
    char *at = second != NULL && kind == 'T' ? field(&rest) : NULL;
    uint64_t lsn = 0;
    if (second == NULL || (kind == 'T' && (at == NULL || !ss_postgres_lsn_parse(at, &lsn))) || (kind != 'P' && kind != 'T'))
        return false;
    if (kind == 'P') {
        record->publication = number;
        record->flags = first;
        record->xmin = second;
        record->owner = rest;
    } else {
        *member_at(record, number) =
            (ss_postgres_member){.relid = number, .tokens = first, .tree = second, .at = lsn, .name = rest};
    }
    return true;
}

static ss_status file_read(const char *path, ss_arena *arena, char **ret, size_t *ret_lines, ss_error *reterr) {
    struct stat st;
    size_t len = 0;
    ss_status status = SS_OK;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        *ret = NULL;
        return SS_OK;
    }
    if (fd < 0 || fstat(fd, &st) != 0) {
        status = file_fail(reterr, "read", path);
        goto out;
    }
    text = (uint64_t)st.st_size > RECORD_MOST ? NULL : ss_arena_alloc(arena, (size_t)st.st_size + 1);
    if (text == NULL) {
        status = no_memory(reterr);
        goto out;
    }
    while (len < (size_t)st.st_size) {
        ssize_t n = read(fd, text + len, (size_t)st.st_size - len);
        if (n < 0) {
            status = file_fail(reterr, "read", path);
            goto out;
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    *ret_lines = 1;
    for (size_t i = 0; i < len; i++)
        *ret_lines += text[i] == '\n';
    *ret = text;
out:
    if (fd >= 0)
        close(fd);
    return status;
}

ss_status ss_postgres_record_load(const ss_source_env *env, ss_arena *arena, ss_postgres_record *ret, ss_error *reterr) {
    char path[PATH_MAX], *text = NULL;
    size_t lines = 0;
    ss_postgres_record record = {.flags = "", .xmin = "", .owner = ""};
    path_of(env, path, sizeof path);
    ss_status status = file_read(path, arena, &text, &lines, reterr);
    if (status != SS_OK)
        return status;
    size_t slots = 16;
    while (slots < 2 * lines) /* at most one member a line */
        slots *= 2;
    record.mask = slots - 1;
    record.slots = ss_arena_zalloc(arena, slots * sizeof *record.slots);
    record.members = ss_arena_alloc(arena, (lines + 1) * sizeof *record.members);
    if (record.members == NULL || record.slots == NULL)
        return no_memory(reterr);
    record.exists = text != NULL;
    for (char *line = text; line != NULL;) {
        char *next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        size_t len = strlen(line);
        if (len > 2 && strcmp(line + len - 2, " ;") == 0) {
            line[len - 2] = '\0';
            if (!line_read(&record, line))
                return ss_fail(reterr, SS_STOP, "SS-PG-0058", "%s holds a line of an unknown kind", path);
        }
        line = next;
    }
    *ret = record;
    return SS_OK;
}

/* Looked at before it is read: what is appended meanwhile makes the next look differ. */
ss_status ss_postgres_record_look(const ss_source_env *env, ss_postgres_record_kept *kept, const ss_postgres_record **ret,
                                  ss_error *reterr) {
    char path[PATH_MAX];
    struct stat st = {0};
    path_of(env, path, sizeof path);
    if (stat(path, &st) != 0 && errno != ENOENT)
        return file_fail(reterr, "look at", path);
    if (kept->arena == NULL || st.st_dev != kept->dev || st.st_ino != kept->ino || st.st_size != kept->size ||
        st.st_ctim.tv_sec != kept->changed.tv_sec || st.st_ctim.tv_nsec != kept->changed.tv_nsec) {
        ss_postgres_record_kept_done(kept);
        kept->arena = ss_arena_new(0);
        if (kept->arena == NULL)
            return no_memory(reterr);
        ss_status status = ss_postgres_record_load(env, kept->arena, &kept->record, reterr);
        if (status != SS_OK) {
            ss_postgres_record_kept_done(kept);
            return status;
        }
        kept->dev = st.st_dev;
        kept->ino = st.st_ino;
        kept->size = st.st_size;
        kept->changed = st.st_ctim;
    }
    *ret = &kept->record;
    return SS_OK;
}

void ss_postgres_record_kept_done(ss_postgres_record_kept *kept) {
    ss_arena_free(kept->arena);
    *kept = (ss_postgres_record_kept){0};
}

const ss_postgres_member *ss_postgres_record_find(const ss_postgres_record *record, uint32_t relid) {
    uint32_t at = *slot_of(record, relid);
    return at != 0 ? &record->members[at - 1] : NULL;
}

ss_status ss_postgres_record_break(const ss_source_env *env, const char *text, ss_error *reterr) {
    ss_buf line;
    ss_buf_init(&line);
    ss_buf_put_str(&line, "\nB ");
    put_escaped(&line, text);
    ss_buf_put_str(&line, " ;\n");
    ss_status status = lines_put(env, &line, false, reterr);
    ss_buf_done(&line);
    return status == SS_OK ? ss_fail(reterr, SS_STOP, "SS-PG-0057", "%s", text) : status;
}

/* ---- the catalogue ----------------------------------------------------------------------------------------------- */

/* $1 publication, $2 oids. Any way of changing an entry (row filter, column list, taking it out and putting it back) makes
 * another oid. A partition was made as one when its table and its place came with one transaction, and no later command of it
 * touched its columns: ATTACH marks them as inherited. Else it was attached, perhaps with
 * rows. */
static ss_status members_query(PGconn *conn, const char *publication, const char *oids, PGresult **ret, ss_error *reterr) {
    char sql[3072];
    snprintf(
        sql, sizeof sql,
        "SELECT c.oid, n.nspname || '.' || c.relname,"
        " coalesce((WITH RECURSIVE up(oid) AS (SELECT c.oid UNION ALL SELECT i.inhparent FROM up"
        "   JOIN pg_class k ON k.oid = up.oid AND k.relispartition JOIN pg_inherits i ON i.inhrelid = up.oid)"
        "  SELECT string_agg(t.oid::text, ',' ORDER BY t.oid) FROM (SELECT r.oid FROM pg_publication_rel r"
        "   JOIN up ON up.oid = r.prrelid WHERE r.prpubid = p.oid%s) t), '-'),"
        " coalesce((WITH RECURSIVE down(oid) AS (SELECT c.oid UNION ALL SELECT i.inhrelid FROM down"
        "   JOIN pg_class k ON k.oid = down.oid AND k.relkind = 'p' JOIN pg_inherits i ON i.inhparent = down.oid)"
        "  SELECT string_agg(i.inhrelid::text || ':' || i.xmin::text || CASE WHEN EXISTS (SELECT FROM pg_attribute a"
        "    WHERE a.attrelid = i.inhrelid AND a.attnum = -1 AND a.xmin = i.xmin) AND NOT EXISTS (SELECT FROM pg_attribute a"
        "    WHERE a.attrelid = i.inhrelid AND a.attnum > 0 AND a.xmin = i.xmin"
        "    AND a.cmin::text::int8 >= i.cmin::text::int8) THEN ':c' ELSE ':a' END, ',' ORDER BY i.inhrelid)"
        "   FROM down d JOIN pg_inherits i ON i.inhrelid = d.oid JOIN down o ON o.oid = i.inhparent"
        "   JOIN pg_class ok ON ok.oid = o.oid AND ok.relkind = 'p'), '-')"
        " FROM unnest($2::oid[]) u(oid) JOIN pg_class c ON c.oid = u.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_publication p ON p.pubname = $1",
        PQserverVersion(conn) >= 150000
            ? " UNION ALL SELECT s.oid FROM pg_publication_namespace s JOIN pg_class k ON k.relnamespace = s.pnnspid"
              " JOIN up ON up.oid = k.oid WHERE s.pnpubid = p.oid"
            : "");
    const char *params[2] = {publication, oids};
    return ss_postgres_query(conn, "read how tables are published", sql, 2, params, PGRES_TUPLES_OK, ret, reterr);
}

static ss_status publication_query(PGconn *conn, const char *publication, PGresult **ret, ss_error *reterr) {
    int version = PQserverVersion(conn);
    char sql[512];
    snprintf(sql, sizeof sql,
             "SELECT p.oid, concat(p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, %s, %s, %s), p.xmin,"
             " pg_get_userbyid(p.pubowner) FROM pg_publication p WHERE p.pubname = $1",
             version >= 110000 ? "p.pubtruncate" : "''", version >= 130000 ? "p.pubviaroot" : "''",
             version >= 180000 ? "p.pubgencols" : "''");
    return ss_postgres_query(conn, "read the publication's state", sql, 1, &publication, PGRES_TUPLES_OK, ret, reterr);
}

static void put_oids(ss_buf *out, const uint32_t *relids, size_t count) {
    ss_buf_put_byte(out, '{');
    for (size_t i = 0; i < count; i++)
        ss_buf_printf(out, "%s%" PRIu32, i == 0 ? "" : ",", relids[i]);
    ss_buf_put_byte(out, '}');
}

static void put_member(ss_buf *out, const PGresult *res, int row, const char *at) {
    ss_buf_put_str(out, "\nT ");
    for (int column = 0; column < 4; column += column == 0 ? 2 : 1) {
        ss_buf_put_str(out, ss_postgres_value(res, row, column));
        ss_buf_put_byte(out, ' ');
    }
    ss_buf_put_str(out, at);
    ss_buf_put_byte(out, ' ');
    put_escaped(out, ss_postgres_value(res, row, 1));
    ss_buf_put_str(out, " ;\n");
}

ss_status ss_postgres_record_write(PGconn *conn, const ss_source_env *env, const uint32_t *relids, size_t count, bool anew,
                                   ss_error *reterr) {
    ss_postgres_names names;
    PGresult *res = NULL;
    ss_buf oids, lines;
    ss_buf_init(&oids);
    ss_buf_init(&lines);
    put_oids(&oids, relids, count);
    ss_status status = oids.bad ? no_memory(reterr) : ss_postgres_names_get(env, &names, reterr);
    if (status == SS_OK && anew) {
        status = publication_query(conn, names.publication, &res, reterr);
        if (status == SS_OK && PQntuples(res) == 1) {
            ss_buf_printf(&lines, "P %s %s %s ", ss_postgres_value(res, 0, 0), ss_postgres_value(res, 0, 1),
                          ss_postgres_value(res, 0, 2));
            put_escaped(&lines, ss_postgres_value(res, 0, 3));
            ss_buf_put_str(&lines, " ;\n");
        }
        PQclear(res);
        res = NULL;
    }
    if (status == SS_OK)
        status = members_query(conn, names.publication, ss_buf_cstr(&oids), &res, reterr);
    for (int row = 0; status == SS_OK && row < PQntuples(res); row++)
        put_member(&lines, res, row, "0/0");
    if (status == SS_OK && (anew || lines.len > 0))
        status = lines_put(env, &lines, anew, reterr);
    PQclear(res);
    ss_buf_done(&oids);
    ss_buf_done(&lines);
    return status;
}

ss_status ss_postgres_record_write_all(PGconn *conn, const ss_source_env *env, ss_error *reterr) {
    ss_postgres_table *tables = NULL;
    size_t count = 0, n = 0;
    uint32_t *relids = NULL;
    ss_arena *arena = ss_arena_new(0);
    if (arena == NULL)
        return no_memory(reterr);
    ss_status status = ss_postgres_tables_select(conn, env, false, arena, &tables, &count, reterr);
    if (status == SS_OK && (relids = ss_arena_alloc(arena, (count + 1) * sizeof *relids)) == NULL)
        status = no_memory(reterr);
    for (size_t i = 0; status == SS_OK && i < count; i++)
        if (tables[i].published)
            relids[n++] = tables[i].relid;
    if (status == SS_OK)
        status = ss_postgres_record_write(conn, env, relids, n, true, reterr);
    ss_arena_free(arena);
    return status;
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

/* Is every item of the list `all` in `in`? both "a,b,c" or "-". */
static bool list_holds(const char *in, const char *item, size_t len) {
    for (const char *p = in; *p != '\0'; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n == len && memcmp(p, item, len) == 0)
            return true;
        p += n;
    }
    return false;
}

static bool list_within(const char *all, const char *in) {
    if (strcmp(all, "-") == 0)
        return true;
    for (const char *p = all; *p != '\0'; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (!list_holds(in, p, n))
            return false;
        p += n;
    }
    return true;
}

ss_status ss_postgres_record_add(PGconn *conn, const ss_source_env *env, const uint32_t *relids, size_t count,
                                 const char *at, bool partitions, ss_error *reterr) {
    ss_postgres_names names;
    ss_postgres_record record;
    PGresult *res = NULL;
    ss_buf oids, lines;
    ss_arena *arena = ss_arena_new(0);
    if (arena == NULL)
        return no_memory(reterr);
    ss_buf_init(&oids);
    ss_buf_init(&lines);
    put_oids(&oids, relids, count);
    ss_status status = oids.bad ? no_memory(reterr) : ss_postgres_names_get(env, &names, reterr);
    if (status == SS_OK)
        status = ss_postgres_record_load(env, arena, &record, reterr);
    if (status == SS_OK)
        status = members_query(conn, names.publication, ss_buf_cstr(&oids), &res, reterr);
    for (int row = 0; status == SS_OK && row < PQntuples(res); row++) {
        const ss_postgres_member *member =
            ss_postgres_record_find(&record, (uint32_t)strtoul(ss_postgres_value(res, row, 0), NULL, 10));
        if (member == NULL || member->left || (partitions && !member->left && strcmp(member->tree, ss_postgres_value(res, row, 3)) != 0 &&
                               ss_postgres_record_named(member, ss_postgres_value(res, row, 1)) &&
                               list_within(member->tokens, ss_postgres_value(res, row, 2))))
            put_member(&lines, res, row, at);
    }
    if (status == SS_OK && lines.len > 0)
        status = lines_put(env, &lines, false, reterr);
    PQclear(res);
    ss_buf_done(&oids);
    ss_buf_done(&lines);
    ss_arena_free(arena);
    return status;
}

/* A partition that was made empty is no change of rows; one attached may be. */
static bool attached_since(const char *before, const char *now) {
    if (strcmp(now, "-") == 0)
        return false;
    for (const char *p = now; *p != '\0'; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n > 2 && p[n - 1] == 'a' && !list_holds(before, p, n))
            return true;
        p += n;
    }
    return false;
}

static ss_status changed(ss_error *reterr, const char *name, const char *what) {
    return ss_fail(reterr, SS_STOP, "SS-PG-0057", "%s %s: what was written to it meanwhile may be missing from the stream",
                   name, what);
}

static ss_status publication_compare(PGconn *conn, const char *name, const ss_postgres_record *record, ss_error *reterr) {
    PGresult *res = NULL;
    char place[96];
    snprintf(place, sizeof place, "publication %s", name);
    ss_status status = publication_query(conn, name, &res, reterr);
    if (status != SS_OK || record->publication == 0) {
        PQclear(res);
        return status;
    }
    ss_buf owner;
    ss_buf_init(&owner);
    put_escaped(&owner, ss_postgres_value(res, 0, 3));
    bool same_owner = strcmp(ss_buf_cstr(&owner), record->owner) == 0;
    if (PQntuples(res) == 0)
        status = changed(reterr, place, "was dropped");
    else if (strtoul(ss_postgres_value(res, 0, 0), NULL, 10) != record->publication)
        status = changed(reterr, place, "was dropped and made anew");
    else if (strcmp(ss_postgres_value(res, 0, 1), record->flags) != 0)
        status = changed(reterr, place, "was altered (its operations, publish_via_partition_root or publish_generated_columns)");
    else if (strcmp(ss_postgres_value(res, 0, 2), record->xmin) != 0 && same_owner)
        status = changed(reterr, place, "was altered, perhaps there and back");
    ss_buf_done(&owner);
    PQclear(res);
    return status;
}

static void put_members(ss_buf *out, const ss_postgres_record *record);

static ss_status member_compare(PGconn *conn, const ss_source_env *env, const ss_postgres_member *member,
                                const PGresult *res, int row, ss_postgres_stale_fn stale, void *ctx, ss_error *reterr) {
    const char *tree = ss_postgres_value(res, row, 3);
    if (!ss_postgres_record_named(member, ss_postgres_value(res, row, 1)))
        return changed(reterr, member->name, "was renamed");
    if (!list_within(member->tokens, ss_postgres_value(res, row, 2)))
        return changed(reterr, member->name, "was taken out of the publication, or is published differently since");
    if (strcmp(tree, member->tree) == 0)
        return SS_OK;
    if (!list_within(member->tree, tree) || attached_since(member->tree, tree)) {
        if (stale != NULL)
            stale(ctx, member->name, tree);
        return SS_OK;
    }
    /* Partitions that were made since: known from now on, so that their end is noticed. */
    return ss_postgres_record_write(conn, env, &member->relid, 1, false, reterr);
}

ss_status ss_postgres_record_compare(PGconn *conn, const ss_source_env *env, const ss_postgres_record *record,
                                     ss_postgres_stale_fn stale, void *ctx, ss_error *reterr) {
    ss_postgres_names names;
    PGresult *res = NULL;
    ss_buf oids;
    if (record->broken != NULL)
        return ss_fail(reterr, SS_STOP, "SS-PG-0057", "%s", record->broken);
    ss_buf_init(&oids);
    put_members(&oids, record);
    ss_status status = oids.bad ? no_memory(reterr) : ss_postgres_names_get(env, &names, reterr);
    if (status == SS_OK)
        status = publication_compare(conn, names.publication, record, reterr);
    if (status == SS_OK)
        status = members_query(conn, names.publication, ss_buf_cstr(&oids), &res, reterr);
    for (int row = 0; status == SS_OK && row < PQntuples(res); row++) {
        const ss_postgres_member *member =
            ss_postgres_record_find(record, (uint32_t)strtoul(ss_postgres_value(res, row, 0), NULL, 10));
        if (member != NULL)
            status = member_compare(conn, env, member, res, row, stale, ctx, reterr);
    }
    PQclear(res);
    ss_buf_done(&oids);
    return status;
}

/* Relids of the record as an array's text. */
static void put_members(ss_buf *out, const ss_postgres_record *record) {
    ss_buf_put_byte(out, '{');
    for (size_t i = 0, n = 0; i < record->count; i++)
        if (!record->members[i].left)
            ss_buf_printf(out, "%s%" PRIu32, n++ == 0 ? "" : ",", record->members[i].relid);
    ss_buf_put_byte(out, '}');
}

/* Is it there under another name? Then nobody deselected it: comparing says so. */
static bool renamed(const PGresult *names, const ss_postgres_member *member) {
    for (int row = 0; row < PQntuples(names); row++)
        if ((uint32_t)strtoul(ss_postgres_value(names, row, 0), NULL, 10) == member->relid)
            return !ss_postgres_record_named(member, ss_postgres_value(names, row, 1));
    return false;
}

static bool selected(const ss_postgres_table *tables, size_t count, uint32_t relid) {
    for (size_t i = 0; i < count; i++)
        if (tables[i].relid == relid)
            return true;
    return false;
}

ss_status ss_postgres_record_selection(PGconn *conn, const ss_source_env *env, const ss_postgres_record *record,
                                       uint64_t at, ss_error *reterr) {
    ss_postgres_table *tables = NULL;
    size_t count = 0;
    ss_buf lines, oids;
    PGresult *names = NULL;
    ss_arena *arena = ss_arena_new(0);
    if (arena == NULL)
        return no_memory(reterr);
    ss_buf_init(&lines);
    ss_buf_init(&oids);
    put_members(&oids, record);
    ss_error why = {0};
    ss_status status = ss_postgres_tables_select(conn, env, false, arena, &tables, &count, &why);
    if (status == SS_STOP) { /* a pattern whose last table was dropped: status and copies say so; streaming goes on */
        status = SS_OK;
        goto out;
    }
    if (status != SS_OK) {
        *reterr = why;
        goto out;
    }
    const char *param = ss_buf_cstr(&oids);
    status = oids.bad ? no_memory(reterr)
                      : ss_postgres_query(conn, "read the names of tables",
                                          "SELECT c.oid, n.nspname || '.' || c.relname FROM unnest($1::oid[]) u(oid)"
                                          " JOIN pg_class c ON c.oid = u.oid JOIN pg_namespace n ON n.oid = c.relnamespace",
                                          1, &param, PGRES_TUPLES_OK, &names, reterr);
    for (size_t i = 0; status == SS_OK && i < record->count; i++) {
        const ss_postgres_member *member = &record->members[i];
        bool now = selected(tables, count, member->relid);
        /* One that left and is selected again stays L until a copy has it anew (ss_postgres_record_add): also when it left and came
         * back while the stream ran, selected() lists it as not captured till then, and the pipeline tells the routes by a TableGap. */
        if (!member->left && !now && !renamed(names, member)) {
            char from[24];
            ss_postgres_lsn_text(at, from, sizeof from);
            ss_buf_printf(&lines, "\nL %" PRIu32 " %s ", member->relid, from);
            ss_buf_put_str(&lines, member->name);
            ss_buf_put_str(&lines, " ;\n");
            SS_LOG(SS_WARN, "table_not_taken", SS_S("table", member->name),
                   SS_S("reason", "the agent's file selects it no more, or it was dropped; its changes are not taken from here on"));
        }
    }
    if (status == SS_OK && lines.len > 0)
        status = lines_put(env, &lines, false, reterr);
out:
    PQclear(names);
    ss_buf_done(&oids);
    ss_buf_done(&lines);
    ss_arena_free(arena);
    return status;
}
