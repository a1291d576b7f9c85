#include "faults/spool_model_io.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

_Atomic uint64_t io_calls; /* a log may write beside its owner */
uint64_t io_kill_at, io_fail_at, io_fail_calls;
int io_fail_errno, io_real_syncs;

/* What to do with this call: 0 go on, 1 fail, 2 die in its middle. */
static int fate(void) {
    uint64_t call = ++io_calls;
    if (io_kill_at != 0 && call == io_kill_at)
        return 2;
    if (io_fail_at != 0 && call >= io_fail_at && call < io_fail_at + io_fail_calls) {
        errno = io_fail_errno;
        return 1;
    }
    return 0;
}

static void die(void) {
    (void)kill(getpid(), SIGKILL);
    for (;;)
        (void)pause();
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t at) {
    switch (fate()) {
    case 1:
        return -1;
    case 2: /* half of the pages, or half of a meta page */
        (void)syscall(SYS_pwrite64, fd, buf, len > 8192 ? len / 2 & ~(size_t)4095 : len & (io_calls & 1 ? SIZE_MAX : 0), at);
        die();
    }
    return syscall(SYS_pwrite64, fd, buf, len, at);
}

ssize_t writev(int fd, const struct iovec *iov, int count) {
    switch (fate()) {
    case 1:
        return -1;
    case 2:
        (void)syscall(SYS_writev, fd, iov, (count + 1) / 2);
        die();
    }
    return syscall(SYS_writev, fd, iov, count);
}

static int plain(long number, long a, long b) {
    switch (fate()) {
    case 1:
        return -1;
    case 2:
        if (io_calls & 1) /* before it, or after it */
            (void)syscall(number, a, b);
        die();
    }
    if ((number == SYS_fsync || number == SYS_fdatasync) && !io_real_syncs)
        return 0;
    return (int)syscall(number, a, b);
}

int fdatasync(int fd) {
    return plain(SYS_fdatasync, fd, 0);
}
int fsync(int fd) {
    return plain(SYS_fsync, fd, 0);
}
int ftruncate(int fd, off_t len) {
    return plain(SYS_ftruncate, fd, len);
}
int rename(const char *from, const char *to) {
    return plain(SYS_rename, (long)(uintptr_t)from, (long)(uintptr_t)to);
}
int unlink(const char *path) {
    return plain(SYS_unlink, (long)(uintptr_t)path, 0);
}
