/* A PostgreSQL server's words, made fit for a log: one line, no row values. For agent and target alike. */
#ifndef SIDESPOOL_SERVER_MESSAGE_H
#define SIDESPOOL_SERVER_MESSAGE_H

#include <stddef.h>

/* The primary message of an error with this SQLSTATE. Classes whose messages name objects are copied as they are. Data
 * exceptions (22) and what functions raise themselves (P0) may hold a value anywhere, so they become a fixed sentence. Of all
 * others, and of an unknown or missing SQLSTATE, everything from the first quote to the last goes. */
void ss_server_message(const char *sqlstate, const char *primary, char *ret, size_t size);
/* The first line, without what stands between its first quote and the last one of the whole text: a value may itself hold
 * quotes, or a newline. What is left open is cut to its end. */
void ss_server_message_cut(const char *message, char *ret, size_t size);
/* The first line as it is, for libpq's own words about a connection. */
void ss_server_message_line(const char *message, char *ret, size_t size);

#endif
