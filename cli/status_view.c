/* `status` for people: a table of routes, a line for each copy, a line for each trouble. */
#include "cli/cli.h"

#include <stdio.h>

enum { ROUTE, STATE, TABLES, LAG, AS_OF, BEHIND, RATE, ETA, AGENT, COLUMNS };
enum { BAR = 24 };

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static bool number_of(const json_t *object, const char *key, double *ret) {
    const json_t *value = json_object_get(object, key);
    *ret = json_number_value(value);
    return json_is_number(value);
}

static ss_colour colour_of(const char *state) {
    static const char *const good[] = {"streaming", "finished"};
    static const char *const bad[] = {"halted", "absent", "silent", "spool_full"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (strcmp(state, good[i]) == 0)
            return SS_GREEN;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (strcmp(state, bad[i]) == 0)
            return SS_RED;
    return SS_YELLOW;
}

static void put_behind(ss_table *table, const json_t *route) {
    double records, bytes;
    if (!number_of(route, "behind_records", &records))
        ss_table_set(table, BEHIND, SS_PLAIN, "-");
    else if (records > 0 && number_of(route, "behind_bytes", &bytes) && bytes > 0)
        ss_table_set(table, BEHIND, SS_PLAIN, "%s (%s)", ss_format_count((int64_t)records).text,
                     ss_format_bytes(bytes).text);
    else
        ss_table_set(table, BEHIND, SS_PLAIN, "%s", ss_format_count((int64_t)records).text);
}

static void put_route(ss_table *table, const json_t *route, int64_t now_us) {
    const json_t *tables = json_object_get(route, "tables"),
                 *agent = json_object_get(route, "agent");
    const char *state = text_of(route, "state"), *agent_state = text_of(agent, "state");
    double lag, rate, eta, as_of, ready = 0, total = 0;
    bool paused = json_is_true(json_object_get(route, "paused"));
    (void)number_of(tables, "ready", &ready);
    (void)number_of(tables, "total", &total);
    ss_table_row(table);
    ss_table_set(table, ROUTE, SS_BOLD, "%s", text_of(route, "route"));
    /* Without its agent a route has only the past to be in step with. */
    bool blind = colour_of(state) == SS_GREEN && colour_of(agent_state) == SS_RED;
    ss_table_set(table, STATE, blind ? SS_YELLOW : colour_of(state), "%s%s%s", state,
                 blind ? " (no news)" : "",
                 paused && strcmp(state, "paused") != 0 ? " (pausing)" : "");
    ss_table_set(table, TABLES, ready < total ? SS_YELLOW : SS_PLAIN, "%.0f/%.0f", ready, total);
    if (number_of(route, "lag_seconds", &lag))
        ss_table_set(table, LAG, lag > 60 ? SS_YELLOW : SS_PLAIN, "%s",
                     ss_format_duration(lag).text);
    else
        ss_table_set(table, LAG, SS_PLAIN, "-");
    ss_table_set(table, AS_OF, SS_PLAIN, "%s",
                 number_of(route, "as_of", &as_of) ? ss_format_time((int64_t)as_of, now_us).text
                                                   : "-");
    put_behind(table, route);
    if (number_of(route, "rate", &rate))
        ss_table_set(table, RATE, SS_PLAIN, "%s/s", ss_format_short(rate).text);
    else
        ss_table_set(table, RATE, SS_PLAIN, "-");
    if (number_of(route, "eta_seconds", &eta) && eta > 0)
        ss_table_set(table, ETA, SS_PLAIN, "%s", ss_format_duration(eta).text);
    else
        ss_table_set(table, ETA, SS_PLAIN, "-");
    ss_table_set(table, AGENT, colour_of(agent_state), "%s",
                 *agent_state ? agent_state : "unknown");
}

static void put_head(ss_table *table) {
    static const char *const heads[] = {"ROUTE",  "STATE", "TABLES", "LAG",  "AS-OF",
                                        "BEHIND", "RATE",  "ETA",    "AGENT"};
    ss_table_row(table);
    for (size_t i = 0; i < COLUMNS; i++)
        ss_table_set(table, i, SS_DIM, "%s", heads[i]);
    for (size_t i = TABLES; i <= ETA; i++)
        table->right[i] = true;
}

static void put_bar(ss_buf *out, double share) {
    size_t full = (size_t)(share * BAR);
    ss_buf_put_byte(out, '[');
    for (size_t i = 0; i < BAR; i++)
        ss_buf_put_byte(out, i < full ? '#' : '.');
    ss_buf_put_str(out, "] ");
}

static void put_copy(ss_buf *out, const json_t *route, bool fancy) {
    const json_t *copy = json_object_get(route, "copy");
    double rows = 0, rows_estimate = 0, bytes = 0, rate = 0, eta;
    if (!json_is_object(copy))
        return;
    (void)number_of(copy, "rows", &rows);
    (void)number_of(copy, "rows_estimate", &rows_estimate);
    (void)number_of(copy, "bytes", &bytes);
    (void)number_of(copy, "rows_per_second", &rate);
    double share = rows_estimate > 0 ? rows / rows_estimate : 0;
    ss_buf_printf(out, "%s: copy ", text_of(route, "route"));
    if (fancy)
        put_bar(out, share > 1 ? 1 : share);
    if (rows_estimate > 0)
        ss_buf_printf(out, "%d %%, %s of about %s rows, %s", (int)(share * 100),
                      ss_format_short(rows).text, ss_format_short(rows_estimate).text,
                      ss_format_bytes(bytes).text);
    else
        ss_buf_printf(out, "%s rows, %s", ss_format_short(rows).text, ss_format_bytes(bytes).text);
    if (rate > 0)
        ss_buf_printf(out, ", %s rows/s", ss_format_short(rate).text);
    if (number_of(copy, "eta_seconds", &eta))
        ss_buf_printf(out, ", about %s left", ss_format_duration(eta).text);
    ss_buf_put_byte(out, '\n');
}

static void put_servers(ss_buf *out, const json_t *route) {
    const char *source = text_of(route, "source_server"), *target = text_of(route, "target_server");
    if (*source && *target)
        ss_buf_printf(out, "%s: %s -> %s\n", text_of(route, "route"), source, target);
}

/* Reasons that no trouble line repeats. */
static void put_reason(ss_buf *out, const json_t *route, int64_t now_us) {
    static const char *const said[] = {"halted", "waiting_target", "paused"};
    const char *state = text_of(route, "state"), *reason = text_of(route, "reason");
    double since;
    for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++)
        if (strcmp(state, said[i]) == 0)
            return;
    if (!*reason)
        return;
    ss_buf_printf(out, "%s: %s", text_of(route, "route"), state);
    if (number_of(route, "since", &since) && since > 0 && (double)now_us > since)
        ss_buf_printf(out, " for %s", ss_format_duration(((double)now_us - since) / 1e6).text);
    ss_buf_printf(out, ": %s\n", reason);
}

static void put_troubles(ss_buf *out, const json_t *status, bool fancy) {
    size_t i;
    const json_t *trouble;
    json_array_foreach(json_object_get(status, "troubles"), i, trouble) {
        const char *remedy = text_of(trouble, "remedy");
        if (i == 0)
            ss_buf_put_byte(out, '\n');
        ss_put_coloured(out, fancy, SS_RED, "!");
        ss_buf_printf(out, " %s", text_of(trouble, "text"));
        if (*remedy)
            ss_buf_printf(out, " -> %s", remedy);
        ss_buf_put_byte(out, '\n');
    }
}

void ss_view_status(const json_t *status, bool fancy, ss_buf *out) {
    const json_t *routes = json_object_get(status, "routes"), *route;
    double now = 0;
    size_t i;
    ss_table table;
    (void)number_of(status, "now", &now);
    ss_table_init(&table, COLUMNS);
    put_head(&table);
    json_array_foreach(routes, i, route) put_route(&table, route, (int64_t)now);
    ss_table_print(&table, "", fancy, out);
    ss_table_done(&table);
    json_array_foreach(routes, i, route) {
        put_servers(out, route);
        put_copy(out, route, fancy);
        put_reason(out, route, (int64_t)now);
    }
    put_troubles(out, status, fancy);
}
