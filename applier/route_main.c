/* A route's process: descriptor 3 to the supervisor, SIGTERM by signalfd, then the loop (route.c). */
#include "applier/route.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

static ss_status set_up(ss_route *r, ss_error *reterr) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-ROUTE-0014", errno, "signals could not be set up");
    r->stop_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (r->stop_fd < 0)
        return ss_fail_sys(reterr, SS_STOP, "SS-ROUTE-0014", errno, "no descriptor for signals");
    r->batcher = ss_batcher_new(SS_ROUTE_BATCH_MEMORY);
    r->spare = ss_batcher_new(SS_ROUTE_BATCH_MEMORY);
    r->worker = ss_worker_new(); /* after the signals are blocked: it takes none */
    r->scratch = ss_arena_new(SS_ROUTE_BATCH_MEMORY);
    r->schema_arena = ss_arena_new(SS_ROUTE_SCHEMA_MEMORY + SS_ROUTE_SCHEMA_MEMORY_KEPT);
    if (!r->batcher || !r->spare || !r->worker || !r->scratch || !r->schema_arena)
        return ss_fail(reterr, SS_STOP, "SS-ROUTE-0003", "out of memory at the start of route %s", r->conf->name);
    return SS_OK;
}

static void tear_down(ss_route *r) {
    ss_route_tables_clear(r);
    free(r->tables);
    free(r->table_index);
    free(r->generations);
    free(r->states);
    free(r->schemas);
    ss_worker_free(r->worker);
    ss_batcher_free(r->batcher);
    ss_batcher_free(r->spare);
    ss_arena_free(r->scratch);
    ss_arena_free(r->schema_arena);
    ss_buf_done(&r->in);
    ss_buf_done(&r->out);
    json_decref(r->resync);
    if (r->stop_fd >= 0)
        close(r->stop_fd);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
}

int ss_route_main(const ss_applier_config *config, const ss_route_config *route, int fd) {
    ss_route *r = calloc(1, sizeof *r);
    if (!r)
        return SS_EXIT_AGAIN;
    *r = (ss_route){.config = config, .conf = route, .ops = route->target, .control = fd, .stop_fd = -1, .wake_fd = -1,
                    .env = {.route = route->name, .source = route->source, .options = route->target_options, .adopt = route->adopt}};
    ss_buf_init(&r->in);
    ss_buf_init(&r->out);
    srandom((unsigned)time(NULL) ^ (unsigned)getpid()); /* jitter of the backoff, nothing more */
    ss_error err = {0};
    int code = SS_EXIT_AGAIN;
    if (set_up(r, &err) == SS_OK)
        code = ss_route_run(r);
    else
        ss_log_error(SS_ERROR, "route_not_started", &err);
    tear_down(r);
    free(r);
    return code;
}
