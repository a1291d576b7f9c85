/* Where tests put their files: below TMPDIR, so that whoever runs them can clear up after them. */
#ifndef TEMP_TESTING_H
#define TEMP_TESTING_H

#include <stdio.h>
#include <stdlib.h>

/* "TMPDIR/name-XXXXXX" for mkdtemp or mkstemp. /tmp when there is no TMPDIR, or one so long that the name does not fit: sockets
 * below it have 107 bytes. */
static inline void temp_name(char *ret, size_t size, const char *name) {
    const char *tmp = getenv("TMPDIR");
    int len = tmp != NULL && tmp[0] == '/' ? snprintf(ret, size, "%s/%s-XXXXXX", tmp, name) : -1;
    if (len < 0 || (size_t)len >= size)
        (void)snprintf(ret, size, "/tmp/%s-XXXXXX", name);
}

#endif
