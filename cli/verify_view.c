/* What `verify` found: as a document for programs, as a table and a list of keys for people. */
#include "cli/cli.h"

#include <stdio.h>

enum { TABLE, SOURCE, TARGET, MISSING, EXTRA, DIFFERENT, RESULT, COLUMNS };
static const char *const kinds[] = {"missing", "extra", "different"};

static int64_t count_of(const json_t *table, const char *kind) {
    return json_integer_value(json_object_get(json_object_get(table, kind), "count"));
}

/* A route tells the counts and one list of rows, each with its kind; the document has the keys
 * under their kind. */
static json_t *kind_object(const json_t *table, const char *kind) {
    size_t i;
    json_t *row, *keys = json_array();
    json_array_foreach(json_object_get(table, "rows"), i, row) {
        const char *of = json_string_value(json_object_get(row, "kind"));
        json_t *key = json_object_get(row, "key");
        if (of && key && strcmp(of, kind) == 0)
            (void)json_array_append(keys, key);
    }
    json_t *count = json_object_get(table, kind);
    return json_pack("{s:I,s:o}", "count",
                     json_is_integer(count) ? json_integer_value(count)
                                            : (json_int_t)json_array_size(keys),
                     "keys", keys);
}

json_t *ss_verify_document(const json_t *result) {
    size_t i;
    json_t *table, *tables = json_array();
    json_array_foreach(json_object_get(result, "tables"), i, table) {
        json_t *one = json_pack("{s:O*,s:b,s:O*,s:O*}", "table", json_object_get(table, "table"),
                                "equal", json_is_true(json_object_get(table, "equal")),
                                "source_rows", json_object_get(table, "source_rows"), "target_rows",
                                json_object_get(table, "target_rows"));
        for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
            (void)json_object_set_new(one, kinds[k], kind_object(table, kinds[k]));
        json_t *note = json_object_get(table, "note");
        (void)json_object_set_new(one, "note", note ? json_incref(note) : json_string(""));
        (void)json_array_append_new(tables, one);
    }
    return json_pack("{s:b,s:o}", "equal", json_is_true(json_object_get(result, "equal")), "tables",
                     tables);
}

static void put_count(ss_table *view, size_t column, int64_t count) {
    ss_table_set(view, column, count ? SS_RED : SS_PLAIN, "%s", ss_format_count(count).text);
}

static void put_rows(ss_table *view, size_t column, const json_t *rows) {
    if (json_is_integer(rows))
        ss_table_set(view, column, SS_PLAIN, "%s", ss_format_count(json_integer_value(rows)).text);
    else
        ss_table_set(view, column, SS_PLAIN, "-");
}

static void put_table(ss_table *view, const json_t *table) {
    bool equal = json_is_true(json_object_get(table, "equal"));
    const char *name = json_string_value(json_object_get(table, "table"));
    ss_table_row(view);
    ss_table_set(view, TABLE, SS_PLAIN, "%s", name ? name : "?");
    put_rows(view, SOURCE, json_object_get(table, "source_rows"));
    put_rows(view, TARGET, json_object_get(table, "target_rows"));
    put_count(view, MISSING, count_of(table, "missing"));
    put_count(view, EXTRA, count_of(table, "extra"));
    put_count(view, DIFFERENT, count_of(table, "different"));
    ss_table_set(view, RESULT, equal ? SS_GREEN : SS_RED, equal ? "equal" : "DIFFERS");
}

static void put_keys(const json_t *table, ss_buf *out) {
    const char *name = json_string_value(json_object_get(table, "table"));
    const char *note = json_string_value(json_object_get(table, "note"));
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        size_t i;
        const json_t *key, *keys = json_object_get(json_object_get(table, kinds[k]), "keys");
        json_array_foreach(keys, i, key) {
            const char *text = json_string_value(key);
            ss_buf_printf(out, "%s: %s: %s\n", name ? name : "?", kinds[k], text ? text : "?");
        }
        int64_t more = count_of(table, kinds[k]) - (int64_t)json_array_size(keys);
        if (more > 0)
            ss_buf_printf(out, "%s: %s: %s %s\n", name ? name : "?", kinds[k],
                          ss_format_count(more).text, json_array_size(keys) ? "more" : "rows");
    }
    if (note && *note)
        ss_buf_printf(out, "%s: %s\n", name ? name : "?", note);
}

static void put_hint(const json_t *tables, size_t differ, const ss_cli_args *args, ss_buf *out) {
    size_t i;
    const json_t *table;
    ss_buf_printf(out, "%zu of %zu table%s differ%s; copy %s anew with: sidespool resync --route %s",
                  differ, json_array_size(tables), json_array_size(tables) == 1 ? "" : "s",
                  differ == 1 ? "s" : "", differ == 1 ? "it" : "them", args->route);
    json_array_foreach(tables, i, table) {
        const char *name = json_string_value(json_object_get(table, "table"));
        if (json_is_true(json_object_get(table, "equal")) || !name)
            continue;
        bool plain = strpbrk(name, " \t'\"$`\\&;|<>()*?[]#~!{}") == NULL || strchr(name, '\'');
        ss_buf_printf(out, plain ? " %s" : " '%s'", name);
    }
    if (args->config_given)
        ss_buf_printf(out, " --config %s", args->config);
    ss_buf_put_byte(out, '\n');
}

void ss_view_verify(const json_t *document, const ss_cli_args *args, bool fancy, ss_buf *out) {
    static const char *const heads[] = {"TABLE", "SOURCE",    "TARGET", "MISSING",
                                        "EXTRA", "DIFFERENT", "RESULT"};
    const json_t *table, *tables = json_object_get(document, "tables");
    size_t i, differ = 0;
    ss_table view;
    ss_table_init(&view, COLUMNS);
    ss_table_row(&view);
    for (size_t c = 0; c < COLUMNS; c++)
        ss_table_set(&view, c, SS_DIM, "%s", heads[c]);
    for (size_t c = SOURCE; c <= DIFFERENT; c++)
        view.right[c] = true;
    json_array_foreach(tables, i, table) {
        put_table(&view, table);
        differ += !json_is_true(json_object_get(table, "equal"));
    }
    ss_table_print(&view, "", fancy, out);
    ss_table_done(&view);
    json_array_foreach(tables, i, table) put_keys(table, out);
    if (differ > 0)
        put_hint(tables, differ, args, out);
    else if (json_is_true(json_object_get(document, "equal")))
        ss_buf_printf(out, "%zu table%s equal in every cell.\n", json_array_size(tables),
                      json_array_size(tables) == 1 ? " is" : "s are");
}
