/* Whether a libpq connection string can be meant, without connecting and without repeating it: libpq's own complaints quote
 * it, password and all. In the header, because agent and target use libpq and the common parts do not. */
#ifndef SIDESPOOL_DSN_H
#define SIDESPOOL_DSN_H

#include <errno.h>
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
    errno = 0;
    PQconninfoOption *parts = PQconninfoParse(dsn, &complaint);
    if (complaint != NULL)
        PQfreemem(complaint); /* may hold the password */
    *ret_password = false;
    if (parts == NULL) /* without memory nothing is known of it yet: connecting parses it again */
        return errno == ENOMEM ? SS_DSN_GOOD : SS_DSN_UNREADABLE;
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

/* What is wrong with a dsn, to be read behind its name; NULL: nothing. */
static inline const char *ss_dsn_complaint(const char *dsn, bool password_file) {
    bool password = false;
    ss_dsn_verdict verdict = ss_dsn_judge(dsn, &password);
    if (dsn[strspn(dsn, " \t\r\n")] == '\0')
        return "is empty; write how to reach the database, such as \"host=db.example.org dbname=orders user=sidespool\"";
    if (verdict == SS_DSN_UNREADABLE)
        return "cannot be parsed: it is neither key=value words of libpq nor a postgresql:// URI (an unknown word, a missing =, "
               "a quote that is not closed?); its text is not shown, because it may hold a password";
    if (verdict == SS_DSN_SPLIT)
        return "has a host, port or dbname that cannot be one; correct it, and write a password that holds @, : or / into "
               "password_file (or in a URI as %40, %3A, %2F)";
    if (password && password_file)
        return "holds a password, and password_file is set as well; take the password out of the dsn";
    return NULL;
}

#endif
