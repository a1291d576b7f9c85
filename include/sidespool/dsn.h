/* Whether a libpq connection string can be meant, without connecting and without repeating it: libpq's own complaints quote
 * it, password and all. In the header, because agent and target use libpq and the common parts do not. */
#ifndef SIDESPOOL_DSN_H
#define SIDESPOOL_DSN_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <string.h>

typedef enum {
    SS_DSN_GOOD,
    SS_DSN_UNREADABLE, /* libpq cannot parse it */
    SS_DSN_SPLIT,      /* host, port or dbname look like the rest of a password with an @, : or / that is not written as %40… */
} ss_dsn_verdict;

static inline ss_dsn_verdict ss_dsn_judge(const char *dsn, bool *ret_password) {
    char *complaint = NULL;
    PQconninfoOption *parts = PQconninfoParse(dsn, &complaint);
    if (complaint != NULL)
        PQfreemem(complaint); /* may hold the password */
    *ret_password = false;
    if (parts == NULL)
        return SS_DSN_UNREADABLE;
    bool uri = strncmp(dsn, "postgres://", 11) == 0 || strncmp(dsn, "postgresql://", 13) == 0;
    ss_dsn_verdict verdict = SS_DSN_GOOD;
    for (const PQconninfoOption *p = parts; p->keyword != NULL; p++) {
        if (p->val == NULL)
            continue;
        if (strcmp(p->keyword, "password") == 0)
            *ret_password = true;
        if (strcmp(p->keyword, "port") == 0 && p->val[strspn(p->val, "0123456789, ")] != '\0')
            verdict = SS_DSN_SPLIT;
        /* A Linux socket in the abstract namespace begins with @. */
        if (strcmp(p->keyword, "host") == 0 && p->val[0] != '\0' && strchr(p->val + 1, '@') != NULL)
            verdict = SS_DSN_SPLIT;
        if (uri && strcmp(p->keyword, "dbname") == 0 && strchr(p->val, '@') != NULL)
            verdict = SS_DSN_SPLIT;
    }
    PQconninfoFree(parts);
    return verdict;
}

#endif
