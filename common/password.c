/* A password file is read anew for each connection, so that a changed one counts at once. */
#include "sidespool/password.h"

#include "sidespool/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Only what is wrong with the file itself needs a person. No descriptor left, no memory, a disk that does not answer: the next
 * connection may find it well. */
static ss_status failed(int error) {
    static const int lasting[] = {ENOENT, EACCES, ENOTDIR, ELOOP, ENAMETOOLONG, ENXIO};
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++)
        if (error == lasting[i])
            return SS_STOP;
    return SS_RETRY;
}

static ss_status refused(const char *path, ss_status status, const char *code, const char *why, ss_error *reterr) {
    return ss_fail(reterr, status, code, "the password_file %s %s", SS_SHOWN(path), why);
}

static ss_status take_line(int fd, const char *path, const char *code, char *ret, size_t size, ss_error *reterr) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return ss_fail_sys(reterr, failed(errno), code, errno, "the password_file %s cannot be looked at", SS_SHOWN(path));
    if (!S_ISREG(st.st_mode))
        return refused(path, SS_STOP, code, "is not a regular file; name the file that holds the password", reterr);
    if ((st.st_mode & S_IRWXO) != 0)
        return refused(path, SS_STOP, code, "is open to everybody; take that away: chmod o= FILE", reterr);
    ssize_t len = read(fd, ret, size);
    if (len < 0)
        return ss_fail_sys(reterr, failed(errno), code, errno, "the password_file %s cannot be read", SS_SHOWN(path));
    size_t line = 0;
    while (line < (size_t)len && ret[line] != '\r' && ret[line] != '\n')
        line++;
    if (memchr(ret, '\0', line) != NULL)
        return refused(path, SS_STOP, code, "holds a NUL byte; write the password as text on its first line", reterr);
    if (line == size)
        return refused(path, SS_STOP, code, "has a first line that is too long for a password; check that it is the right file", reterr);
    if (line == 0) /* `echo NEW > FILE` empties it before it writes */
        return refused(path, len == 0 ? SS_RETRY : SS_STOP, code, "has nothing on its first line; write the password there", reterr);
    ret[line] = '\0';
    return SS_OK;
}

ss_status ss_password_read(const char *path, const char *code, char *ret, size_t size, ss_error *reterr) {
    char full[PATH_MAX];
    const char *dir = strchr(path, '/') == NULL ? getenv("CREDENTIALS_DIRECTORY") : NULL;
    snprintf(full, sizeof full, "%s%s%s", dir != NULL ? dir : "", dir != NULL ? "/" : "", path);
    /* O_NONBLOCK: a FIFO must not hang the program. */
    int fd = open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return ss_fail_sys(reterr, failed(errno), code, errno, "the password_file %s cannot be opened; check its path, its owner and its mode",
                           SS_SHOWN(full));
    ss_status status = take_line(fd, full, code, ret, size, reterr);
    close(fd);
    if (status != SS_OK)
        explicit_bzero(ret, size);
    return status;
}
