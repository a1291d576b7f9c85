/* See the header. Any thread; two callers of one name must exclude each other. */
#include "agents/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static ss_status failed(ss_error *reterr, const char *code, const char *doing, const char *path) {
    return ss_fail_sys(reterr, SS_RETRY, code, errno, "cannot %s %s", doing, path);
}

/* Writes it all, durably, and closes it whatever comes. */
static ss_status put(const char *path, int flags, ss_bytes content, const char *code, ss_error *reterr) {
    ss_status status = SS_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0660);
    if (fd < 0)
        return failed(reterr, code, "create", path);
    for (size_t at = 0; status == SS_OK && at < content.len;) {
        ssize_t n = write(fd, content.ptr + at, content.len - at);
        if (n >= 0)
            at += (size_t)n;
        else if (errno != EINTR)
            status = failed(reterr, code, "write", path);
    }
    if (status == SS_OK && fsync(fd) != 0)
        status = failed(reterr, code, "write", path);
    if (close(fd) != 0 && status == SS_OK)
        status = failed(reterr, code, "close", path);
    return status;
}

static ss_status sync_folder(const char *dir, const char *code, ss_error *reterr) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ss_status status =
        fd >= 0 && fsync(fd) == 0 ? SS_OK : failed(reterr, code, "fsync the directory", dir);
    if (fd >= 0)
        close(fd);
    return status;
}

/* Crash argument: the new content is fsynced under another name before rename puts it in the old one's place at once; the
 * directory's fsync makes that last. If we die before the rename, the old content stands and `name`.new is written over the
 * next time; if we die after it, the new content stands. */
ss_status ss_durable_replace(const char *dir, const char *name, ss_bytes content, const char *code, ss_error *reterr) {
    char path[PATH_MAX], temporary[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(temporary, sizeof temporary, "%s/%s.new", dir, name);
    ss_status status = put(temporary, O_TRUNC, content, code, reterr);
    if (status == SS_OK && rename(temporary, path) != 0)
        status = failed(reterr, code, "rename to", path);
    return status == SS_OK ? sync_folder(dir, code, reterr) : status;
}

ss_status ss_durable_append(const char *dir, const char *name, ss_bytes content, const char *code, ss_error *reterr) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    ss_status status = put(path, O_APPEND, content, code, reterr);
    return status == SS_OK ? sync_folder(dir, code, reterr) : status;
}
