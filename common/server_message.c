/* What may be repeated of a server's error. See the header; DETAIL, HINT, CONTEXT and statement text never get this far. */
#include "sidespool/server_message.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool in_any(const char *sqlstate, const char *const *classes) {
    for (size_t i = 0; classes[i] != NULL; i++)
        if (strncmp(sqlstate, classes[i], strlen(classes[i])) == 0)
            return true;
    return false;
}

/* 42601 and 42P02 quote the statement, which may hold a literal. */
static bool names_objects(const char *sqlstate) {
    static const char *const names[] = {"08", "0A", "23", "25", "28", "2BP01", "3D", "3F", "40", "42", "53", "55", "57", NULL};
    static const char *const not[] = {"42601", "42P02", NULL};
    return in_any(sqlstate, names) && !in_any(sqlstate, not);
}

/* Bytes of the quote at `p`, 0: none. Servers speak other languages too: lc_messages. */
static size_t quote_at(const char *p) {
    static const char *const quotes[] = {"\"", "'", "`", "„", "“", "”", "‚", "‘", "’", "«", "»", "‹", "›", "「", "」", NULL};
    for (size_t i = 0; quotes[i] != NULL; i++)
        if (strncmp(p, quotes[i], strlen(quotes[i])) == 0)
            return strlen(quotes[i]);
    return 0;
}

void ss_server_message_line(const char *message, char *ret, size_t size) {
    snprintf(ret, size, "%.*s", (int)strcspn(message, "\r\n"), message);
}

void ss_server_message_cut(const char *message, char *ret, size_t size) {
    const char *first = NULL, *last = NULL;
    for (const char *p = message; *p != '\0'; p++) {
        size_t len = quote_at(p);
        if (len == 0)
            continue;
        first = first == NULL ? p : first;
        last = p + len;
        p += len - 1;
    }
    size_t line = strcspn(message, "\r\n");
    if (first == NULL || first >= message + line) {
        ss_server_message_line(message, ret, size);
        return;
    }
    bool closed = last != first + quote_at(first);
    const char *rest = closed ? last : "";
    snprintf(ret, size, "%.*s\"..\"%.*s", (int)(first - message), message, (int)strcspn(rest, "\r\n"), rest);
}

void ss_server_message(const char *sqlstate, const char *primary, char *ret, size_t size) {
    const char *state = sqlstate != NULL ? sqlstate : "";
    if (strncmp(state, "22", 2) == 0)
        snprintf(ret, size, "a value does not fit its type, range or format");
    else if (strncmp(state, "P0", 2) == 0)
        snprintf(ret, size, "a function or trigger raised an error; its text is in the server's log");
    else if (names_objects(state))
        ss_server_message_line(primary, ret, size);
    else
        ss_server_message_cut(primary, ret, size);
}
