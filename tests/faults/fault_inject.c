/* Preloaded into the programs under test: makes chosen system calls and allocations of theirs fail.
 *
 * The test and all programs share one small file, mapped by each (tests/lib/faults.py is its other reader; the layouts
 * stand side by side there). The counts are in it, so that "the third write to the spool fails, and the two after it"
 * also holds across a restart, and the test sees what was hit, and can take the fault away at any time.
 *
 * Files count when they lie below the folder of the test's world, but for what goes to a log (descriptors 1 and 2).
 * Everything of a socket counts. An allocation is known by its site: the return addresses from the allocator down to the
 * fourth function of the program itself, relative to their modules, so that a site has the same number in each run. */
#undef _FORTIFY_SOURCE /* its inline functions would stand in for the ones defined here */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { AGENT, SUPERVISOR, ROUTE, ROLES };
/* In the order of KINDS in faults.py. */
enum { OPEN, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, MMAP, MKDIR, SOCKET, CONNECT, ACCEPT, SEND, RECEIVE, POLL, EPOLL, THREAD, SPAWN, KINDS };
enum { MEMORY_OFF, MEMORY_RECORD, MEMORY_FAIL };
enum { SITES = 8192, FRAMES = 40, OWN_FRAMES = 4, SHORT = -1 };

typedef struct {
    _Atomic uint64_t site; /* 0: free */
    _Atomic uint32_t role;
    _Atomic uint32_t state; /* recording: times seen; failing: 1 armed, 2 has failed */
} site;

typedef struct {
    _Atomic uint64_t calls[ROLES][KINDS]; /* of each kind so far */
    _Atomic uint32_t role, kind;          /* whose calls of which kind fail… */
    _Atomic int32_t error;                /* …with this; SHORT: half is done; 0: none fails */
    _Atomic uint32_t memory;
    _Atomic uint64_t at, count;           /* of those seen since they were set: from this one on, so many */
    _Atomic uint64_t seen, failed;
    _Atomic uint64_t memory_more;         /* allocations of the role that still fail after one at an armed site */
    _Atomic uint64_t memory_count;        /* what memory_more is set to by that one */
    char about[1024];                     /* the call that failed last, and the file; of an allocation its frames */
    char folder[512];
    site sites[SITES];
} shared_state;

static shared_state *shared;
static uint32_t own_role = ROLES;
static __thread bool inside __attribute__((tls_model("initial-exec")));

/* ---- which call fails ---- */

static void tell(const char *call, const char *of) {
    (void)snprintf(shared->about, sizeof(shared->about), "%s %s", call, of);
}

static int fate(uint32_t kind, const char *call, const char *of) {
    if (shared == NULL || own_role == ROLES)
        return 0;
    atomic_fetch_add(&shared->calls[own_role][kind], 1);
    int error = atomic_load(&shared->error);
    if (error == 0 || atomic_load(&shared->role) != own_role || atomic_load(&shared->kind) != kind)
        return 0;
    uint64_t n = atomic_fetch_add(&shared->seen, 1) + 1, at = atomic_load(&shared->at);
    if (n < at || n - at >= atomic_load(&shared->count))
        return 0;
    tell(call, of);
    atomic_fetch_add(&shared->failed, 1);
    return error;
}

static bool ours(const char *path) {
    size_t len = strlen(shared->folder);
    return len > 0 && strncmp(path, shared->folder, len) == 0;
}

static int path_fate(uint32_t kind, const char *call, const char *path) {
    return shared != NULL && ours(path) ? fate(kind, call, path) : 0;
}

/* A socket of the file system by its path, seen from either end. */
static void tell_socket(const char *call, int fd) {
    struct sockaddr_un end = {0};
    socklen_t len = sizeof(end) - 1;
    if (getsockname(fd, (struct sockaddr *)&end, &len) == 0 && end.sun_family == AF_UNIX && end.sun_path[0] == '\0') {
        len = sizeof(end) - 1;
        if (getpeername(fd, (struct sockaddr *)&end, &len) != 0)
            return;
    }
    if (end.sun_family == AF_UNIX)
        tell(call, end.sun_path);
}

/* How libpq takes its leave, whatever becomes of it: nobody waits for that to arrive. */
static bool farewell(const void *data, size_t len) {
    return len == 5 && memcmp(data, "X\0\0\0\4", 5) == 0;
}

/* A link that fails is gone for both directions. Else libpq, which takes a failed send for a sign that the server has a
 * last word to say, would wait for it. */
static int socket_fate(uint32_t kind, const char *call, int fd) {
    int error = fate(kind, call, "");
    if (error != 0)
        tell_socket(call, fd);
    if (error == ECONNRESET || error == EPIPE || error == ETIMEDOUT)
        (void)syscall(SYS_shutdown, fd, SHUT_RDWR);
    return error;
}

/* A descriptor counts as a file below the folder (`kind`), or as a socket (`socket_kind`), or not at all. */
static int fd_fate(uint32_t kind, uint32_t socket_kind, const char *call, int fd) {
    char name[64], path[512];
    if (shared == NULL || own_role == ROLES || fd == STDOUT_FILENO || fd == STDERR_FILENO)
        return 0;
    (void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t len = readlink(name, path, sizeof(path) - 1);
    errno = saved;
    if (len <= 0)
        return 0;
    path[len] = '\0';
    if (strncmp(path, "socket:", 7) == 0)
        return socket_kind == KINDS ? 0 : socket_fate(socket_kind, call, fd);
    return kind != KINDS && ours(path) ? fate(kind, call, path) : 0;
}

/* True: the call fails, with errno set. A short call is done in part, where a part is possible. */
static bool refused(int error) {
    if (error > 0)
        errno = error;
    return error > 0;
}

static size_t part(int error, size_t len) {
    return error == SHORT && len > 1 ? len / 2 : len;
}

/* ---- files ---- */

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, int) : 0;
    va_end(args);
    return refused(path_fate(OPEN, "open", path)) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

FILE *fopen(const char *path, const char *mode) {
    static FILE *(*real)(const char *, const char *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "fopen");
    return refused(path_fate(OPEN, "fopen", path)) ? NULL : real(path, mode);
}

DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "opendir");
    return refused(path_fate(OPEN, "opendir", path)) ? NULL : real(path);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) {
    int error = fd_fate(WRITE, KINDS, "pwrite", fd);
    return refused(error) ? -1 : syscall(SYS_pwrite64, fd, data, part(error, len), at);
}

ssize_t write(int fd, const void *data, size_t len) {
    int error = fd_fate(WRITE, SEND, "write", fd);
    return refused(error) ? -1 : syscall(SYS_write, fd, data, part(error, len));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    int error = fd_fate(WRITE, SEND, "writev", fd);
    if (error == SHORT && count > 0)
        return syscall(SYS_write, fd, parts[0].iov_base, part(error, parts[0].iov_len));
    return refused(error) ? -1 : syscall(SYS_writev, fd, parts, count);
}

int fsync(int fd) {
    return refused(fd_fate(SYNC, KINDS, "fsync", fd)) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    return refused(fd_fate(SYNC, KINDS, "fdatasync", fd)) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int ftruncate(int fd, off_t len) {
    return refused(fd_fate(TRUNCATE, KINDS, "ftruncate", fd)) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

int fallocate(int fd, int mode, off_t at, off_t len) {
    return refused(fd_fate(TRUNCATE, KINDS, "fallocate", fd)) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, len);
}

int posix_fallocate(int fd, off_t at, off_t len) {
    static int (*real)(int, off_t, off_t);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "posix_fallocate");
    int error = fd_fate(TRUNCATE, KINDS, "posix_fallocate", fd);
    return error > 0 ? error : real(fd, at, len);
}

int rename(const char *from, const char *to) {
    return refused(path_fate(RENAME, "rename", to)) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path) {
    return refused(path_fate(UNLINK, "unlink", path)) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode) {
    return refused(path_fate(MKDIR, "mkdir", path)) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

void *mmap(void *where, size_t len, int protection, int flags, int fd, off_t at) {
    if (fd >= 0 && refused(fd_fate(MMAP, KINDS, "mmap", fd)))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, where, len, protection, flags, fd, at); // NOLINT(performance-no-int-to-ptr)
}

/* ---- sockets, waiting ---- */

int socket(int domain, int type, int protocol) {
    return refused(fate(SOCKET, "socket", "")) ? -1 : (int)syscall(SYS_socket, domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int pair[2]) {
    return refused(fate(SOCKET, "socketpair", "")) ? -1 : (int)syscall(SYS_socketpair, domain, type, protocol, pair);
}

int eventfd(unsigned count, int flags);
int eventfd(unsigned count, int flags) {
    return refused(fate(SOCKET, "eventfd", "")) ? -1 : (int)syscall(SYS_eventfd2, count, flags);
}

int connect(int fd, __CONST_SOCKADDR_ARG to, socklen_t len) {
    const struct sockaddr_un *unix_end = (const struct sockaddr_un *)(const void *)to.__sockaddr__;
    const char *path = unix_end->sun_family == AF_UNIX ? unix_end->sun_path : "";
    return refused(fate(CONNECT, "connect", path)) ? -1 : (int)syscall(SYS_connect, fd, to.__sockaddr__, len);
}

int accept4(int fd, __SOCKADDR_ARG from, socklen_t *len, int flags) {
    return refused(fate(ACCEPT, "accept", "")) ? -1 : (int)syscall(SYS_accept4, fd, from.__sockaddr__, len, flags);
}

int accept(int fd, __SOCKADDR_ARG from, socklen_t *len) {
    return accept4(fd, from, len, 0);
}

ssize_t send(int fd, const void *data, size_t len, int flags) {
    int error = farewell(data, len) ? 0 : socket_fate(SEND, "send", fd);
    return refused(error) ? -1 : syscall(SYS_sendto, fd, data, part(error, len), flags, NULL, 0);
}

ssize_t recv(int fd, void *data, size_t len, int flags) {
    int error = socket_fate(RECEIVE, "recv", fd);
    return refused(error) ? -1 : syscall(SYS_recvfrom, fd, data, part(error, len), flags, NULL, NULL);
}

ssize_t read(int fd, void *data, size_t len) {
    int error = fd_fate(KINDS, RECEIVE, "read", fd);
    return refused(error) ? -1 : syscall(SYS_read, fd, data, part(error, len));
}

ssize_t readv(int fd, const struct iovec *parts, int count) {
    int error = fd_fate(KINDS, RECEIVE, "readv", fd);
    if (error == SHORT && count > 0)
        return syscall(SYS_read, fd, parts[0].iov_base, part(error, parts[0].iov_len));
    return refused(error) ? -1 : syscall(SYS_readv, fd, parts, count);
}

int poll(struct pollfd *fds, nfds_t count, int ms) {
    struct timespec wait = {ms / 1000, (long)(ms % 1000) * 1000000};
    return refused(fate(POLL, "poll", "")) ? -1 : (int)syscall(SYS_ppoll, fds, count, ms < 0 ? NULL : &wait, NULL, 0);
}

int epoll_wait(int fd, struct epoll_event *events, int most, int ms) {
    return refused(fate(EPOLL, "epoll_wait", "")) ? -1 : (int)syscall(SYS_epoll_pwait, fd, events, most, ms, NULL, 0);
}

int epoll_ctl(int fd, int what, int of, struct epoll_event *event) {
    bool adds = what == EPOLL_CTL_ADD; /* the others need no memory in the kernel */
    return adds && refused(fate(EPOLL, "epoll_ctl", "")) ? -1 : (int)syscall(SYS_epoll_ctl, fd, what, of, event);
}

/* ---- threads and processes ---- */

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*work)(void *), void *ctx) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    int error = fate(THREAD, "pthread_create", "");
    return error > 0 ? error : real(thread, attr, work, ctx);
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
                char *const argv[], char *const env[]) {
    static int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
                       char *const[]);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "posix_spawn");
    int error = fate(SPAWN, "posix_spawn", path);
    return error > 0 ? error : real(pid, path, actions, attr, argv, env);
}

/* ---- memory ---- */

typedef struct {
    uintptr_t from, to;
    uint64_t name; /* hash of its file's name */
    const char *file;
} module;
static module modules[128];
static size_t module_count; /* of the libraries there at the start; what is loaded later is one unknown module */

static uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

static int note_module(struct dl_phdr_info *info, size_t size, void *ctx) {
    (void)size;
    (void)ctx;
    if (module_count == sizeof(modules) / sizeof(modules[0]))
        return 1;
    module *m = &modules[module_count];
    const char *slash = strrchr(info->dlpi_name, '/');
    *m = (module){UINTPTR_MAX, 0, 0, slash != NULL ? slash + 1 : info->dlpi_name};
    for (const char *c = m->file; *c != '\0'; c++)
        m->name = mix(m->name, (uint64_t)*c);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        if (info->dlpi_phdr[i].p_type != PT_LOAD)
            continue;
        m->from = from < m->from ? from : m->from;
        m->to = from + info->dlpi_phdr[i].p_memsz > m->to ? from + info->dlpi_phdr[i].p_memsz : m->to;
    }
    module_count++;
    return 0;
}

static const module *module_of(const void *address) {
    static const module unknown = {0, UINTPTR_MAX, 1, "?"};
    for (size_t i = 0; i < module_count; i++)
        if ((uintptr_t)address >= modules[i].from && (uintptr_t)address < modules[i].to)
            return &modules[i];
    return &unknown;
}

/* The frames above the allocator, as many as make the site. The program is the first module. */
static int site_frames(void **frames) {
    int count = backtrace(frames, FRAMES), from = 0, own = 0, to;
    const module *self = module_of((const void *)(uintptr_t)&site_frames);
    while (from < count && module_of(frames[from]) == self)
        from++;
    for (to = from; to < count && own < OWN_FRAMES; to++)
        own += module_of(frames[to]) == &modules[0];
    memmove(frames, frames + from, (size_t)(to - from) * sizeof(*frames));
    return own > 0 ? to - from : 0; /* of a loader's or a library's own thread: none of ours */
}

static void tell_frames(void *const *frames, int count) {
    size_t len = 0;
    shared->about[0] = '\0';
    for (int i = 0; i < count && len + 80 < sizeof(shared->about); i++) {
        const module *m = module_of(frames[i]);
        len += (size_t)snprintf(shared->about + len, sizeof(shared->about) - len, "%s+0x%zx ", m == &modules[0] ? "PROGRAM" : m->file,
                                (size_t)((uintptr_t)frames[i] - m->from));
    }
}

static bool memory_known(uint64_t number, bool record, void *const *frames, int count) {
    for (size_t probe = 0, i = number % SITES; probe < SITES; probe++, i = (i + 1) % SITES) {
        site *at = &shared->sites[i];
        uint64_t there = atomic_load(&at->site), none = 0;
        if (there == 0 && (!record || atomic_compare_exchange_strong(&at->site, &none, number))) {
            if (!record)
                return false;
            atomic_store(&at->role, own_role);
            there = number;
        }
        if (atomic_load(&at->site) != number)
            continue;
        if (record) {
            atomic_fetch_add(&at->state, 1);
            return false;
        }
        uint32_t armed = 1;
        if (!atomic_compare_exchange_strong(&at->state, &armed, 2))
            return false;
        tell_frames(frames, count);
        atomic_fetch_add(&shared->failed, 1);
        atomic_store(&shared->memory_more, atomic_load(&shared->memory_count) - 1);
        return true;
    }
    return false;
}

static bool memory_refused(void) {
    void *frames[FRAMES];
    if (shared == NULL || inside || own_role == ROLES || atomic_load(&shared->role) != own_role)
        return false;
    uint32_t mode = atomic_load(&shared->memory);
    if (mode == MEMORY_OFF)
        return false;
    bool refuse = false;
    inside = true;
    int count = site_frames(frames);
    if (count > 0) {
        uint64_t number = own_role + 1, more = atomic_load(&shared->memory_more);
        for (int i = 0; i < count; i++) {
            const module *m = module_of(frames[i]);
            number = mix(mix(number, m->name), m->from == 0 ? 0 : (uintptr_t)frames[i] - m->from);
        }
        while (more > 0 && !atomic_compare_exchange_weak(&shared->memory_more, &more, more - 1))
            ;
        refuse = more > 0 || memory_known(number, mode == MEMORY_RECORD, frames, count);
    }
    inside = false;
    if (refuse)
        errno = ENOMEM;
    return refuse;
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    return memory_refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return memory_refused() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    return size != 0 && memory_refused() ? NULL : __libc_realloc(old, size);
}

void *reallocarray(void *old, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(old, bytes);
}

int posix_memalign(void **ret, size_t alignment, size_t size) {
    void *memory = memory_refused() ? NULL : __libc_memalign(alignment, size);
    if (memory == NULL)
        return ENOMEM;
    *ret = memory;
    return 0;
}

/* ---- boot ---- */

static uint32_t role_of_process(void) {
    char line[4096];
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
    ssize_t len = fd < 0 ? 0 : syscall(SYS_read, fd, line, sizeof(line) - 1);
    if (fd >= 0)
        (void)syscall(SYS_close, fd);
    if (len <= 0)
        return ROLES;
    line[len] = '\0';
    bool route = false, other = false;
    for (const char *word = line; word < line + len; word += strlen(word) + 1) {
        route = route || strcmp(word, "--route") == 0;
        other = other || strcmp(word, "--consumers") == 0 || strcmp(word, "--check") == 0;
    }
    if (other)
        return ROLES;
    if (strstr(line, "sidespool-applier") != NULL)
        return route ? ROUTE : SUPERVISOR;
    return strstr(line, "sidespool-postgres") != NULL ? AGENT : ROLES;
}

/* Our programs leave no core, so a crash says into the log where it came about. */
static void on_crash(int number) {
    void *frames[FRAMES];
    inside = true;
    backtrace_symbols_fd(frames, backtrace(frames, FRAMES), STDERR_FILENO);
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static void __attribute__((constructor)) boot(void) {
    const char *path = getenv("SIDESPOOL_FAULTS");
    void *frames[4];
    if (path == NULL)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *at = (void *)syscall(SYS_mmap, NULL, sizeof(shared_state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); // NOLINT(performance-no-int-to-ptr)
    (void)syscall(SYS_close, fd);
    if (at == MAP_FAILED)
        return;
    (void)dl_iterate_phdr(note_module, NULL);
    (void)backtrace(frames, 4); /* loads the unwinder, which allocates */
    (void)signal(SIGSEGV, on_crash);
    (void)signal(SIGBUS, on_crash);
    (void)signal(SIGABRT, on_crash);
    own_role = role_of_process();
    shared = at;
}
