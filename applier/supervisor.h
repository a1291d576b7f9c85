/* The supervisor's parts, shared by routes.c, control.c, status.c, agent_link.c and supervisor.c
 * alone.
 *
 * One process, one thread, one libevent loop: nothing here blocks, and nothing here opens a spool
 * file, because a damaged page may kill whoever maps it (that is why a route is a process of its
 * own). */
#ifndef SIDESPOOL_SUPERVISOR_H
#define SIDESPOOL_SUPERVISOR_H

#include "applier/applier_config.h"

#include "sidespool/backoff.h"
#include "sidespool/daemon.h"
#include "sidespool/listener.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <jansson.h>
#include <sys/types.h>

#define SS_LINE_MAX (16u << 20)    /* bytes of one JSON line from a route or an agent */
#define SS_REQUEST_MAX (64u << 10) /* bytes of one request at the control socket */
#define SS_CLIENTS_MAX 64u
#define SS_AGENT_TIMEOUT_MS 2000
#define SS_STOP_PATIENCE_S 8 /* between SIGTERM and SIGKILL to a route */
#define SS_ROUTE_SILENCE_US                                                                        \
    (600LL * 1000000) /* one statement or COMMIT that takes longer hangs */
#define SS_ROUTE_STANDSTILL_US                                                                     \
    (60LL * 1000000) /* saying for so long that nothing moves is no progress */

typedef struct ss_supervisor ss_supervisor;
typedef struct ss_client ss_client;

/* One route and its process. */
typedef struct {
    ss_supervisor *sup;
    const ss_route_config *config;
    pid_t pid;                /* 0: not running */
    struct bufferevent *link; /* our end of its descriptor 3; NULL: gone */
    struct event *timer;      /* next start; while it runs without a link: the end of patience */
    ss_backoff backoff;       /* between its starts */
    uint64_t restarts;        /* since the supervisor started */
    int64_t started_us, ended_us; /* wall clock */
    int64_t began_us, seen_us, next_start_us; /* these and the next three: steady clock */
    int64_t progress_us;              /* when it last said that it makes progress */
    int64_t standing_us;              /* when it last said that nothing moves though changes wait */
    char ended[96];                   /* how it ended last: "killed by SIGBUS" */
    json_t *status;                   /* its last status; NULL: none since it was started */
    bool paused;                      /* a person's wish; outlives the process by a file */
    double copy_rows_s, copy_bytes_s; /* smoothed rates of the rows loaded */
    double sample_rows, sample_bytes;
    int64_t sample_us;
} ss_route_proc;

struct ss_supervisor {
    const ss_applier_config *config;
    struct event_base *base;
    ss_listener *listener;
    char socket_path[SS_SOCKET_PATH_MAX + 1];
    int lock_fd;
    ss_route_proc *routes;
    size_t route_count;
    ss_client *clients; /* doubly linked list of control connections */
    size_t client_count;
    uint64_t next_number; /* of a command to a route */
    int64_t started_us;
    bool stopping;
    ss_daemon *daemon;
    struct event *child_ended, *tick;
    json_t *consumers; /* source -> consumer names, as last read; see status.c */
    int64_t consumers_us;
    char notified[256]; /* STATUS= as last said */
};

int64_t ss_wall_us(void);   /* for people: microseconds since 1970 UTC; may jump */
int64_t ss_steady_us(void); /* for durations: a clock that nobody sets */
const char *ss_json_text(const json_t *object, const char *key, const char *otherwise);
int64_t ss_json_int(const json_t *object, const char *key);

/* ---- supervisor.c ---------------------------------------------------------------------------- */
/* Runs until SIGTERM or SIGINT; returns the exit code. Logs what goes wrong. */
int ss_supervisor_run(const ss_applier_config *config);
/* The loop ends when every route has. */
void ss_supervisor_stopped(ss_supervisor *sup);

/* ---- routes.c -------------------------------------------------------------------------------- */
SS_MUST ss_status ss_routes_start(ss_supervisor *sup, ss_error *reterr);
void ss_routes_reap(ss_supervisor *sup);            /* on SIGCHLD */
void ss_routes_stop(ss_supervisor *sup, bool kill); /* SIGTERM, or SIGKILL at once */
bool ss_routes_running(const ss_supervisor *sup);
void ss_routes_free(ss_supervisor *sup);
ss_route_proc *ss_routes_find(ss_supervisor *sup, const char *name);
/* Sends a command (taken) with a number of its own; 0: the route's process cannot be reached now.
 */
uint64_t ss_route_send(ss_route_proc *route, json_t *command_take);
/* Remembers pause or resume beside the spool, so that a restart or a reboot does not undo it. */
SS_MUST ss_status ss_route_set_paused(ss_route_proc *route, bool paused, ss_error *reterr);
/* State and reason as a person should read them, the process's end included. `scratch` may hold the
 * reason. */
const char *ss_route_state(const ss_route_proc *route, char *scratch, size_t size,
                           const char **ret_reason);
/* SILENT: no word for longer than a statement may take. STANDS: it says that nothing moves though
 * changes wait, and gives no reason. */
typedef enum { SS_ROUTE_WELL, SS_ROUTE_SILENT, SS_ROUTE_STANDS } ss_route_health;
ss_route_health ss_route_is_well(const ss_route_proc *route, int64_t now_us);
/* Each second: ends those that are not well; they are started again. */
void ss_routes_look_after(ss_supervisor *sup, int64_t now_us);

/* ---- control.c ------------------------------------------------------------------------------- */
SS_MUST ss_status ss_control_open(ss_supervisor *sup, ss_error *reterr);
void ss_control_close(ss_supervisor *sup); /* no new clients; those that wait are refused */
void ss_control_free(ss_supervisor *sup);
/* What a route said, for those who wait for it. */
void ss_control_route_said(ss_route_proc *route, json_t *message);
void ss_control_route_status(ss_route_proc *route);
void ss_control_route_started(ss_route_proc *route);
void ss_control_route_ended(ss_route_proc *route);
/* A line of it was lost, perhaps the one that somebody waits for. */
void ss_control_route_unheard(ss_route_proc *route);
/* Where the socket is to be: the file's, else /run/sidespool, else the spool's directory. */
SS_MUST ss_status ss_control_path(const ss_applier_config *config, char ret[SS_SOCKET_PATH_MAX + 1],
                                  ss_error *reterr);

/* ---- agent_link.c ---------------------------------------------------------------------------- */
typedef struct ss_agent_link ss_agent_link;
/* Called for each line from the agent, and once with answer NULL when it cannot be reached, is
 * silent past the timeout, or has closed the connection: `error` then says it in one sentence,
 * `absent` that nobody listens. After NULL nothing follows. The answer is borrowed.
 * ss_agent_link_free may be called inside. */
typedef void (*ss_agent_answer)(void *ctx, json_t *answer, bool absent, const char *error);
/* Asks <spool.path>/<source>/agent.sock. The request is taken. NULL: out of memory. The callback
 * never runs inside this call. */
ss_agent_link *ss_agent_link_new(ss_supervisor *sup, const char *source, json_t *request_take,
                                 int timeout_ms, ss_agent_answer answer, void *ctx);
void ss_agent_link_free(ss_agent_link *ask); /* takes NULL */

/* ---- status.c -------------------------------------------------------------------------------- */
typedef struct ss_status_job ss_status_job;
typedef void (*ss_status_done)(void *ctx, json_t *status_take);
/* Asks every agent, then calls `done` with the document of docs/status-json.md. NULL: out of
 * memory. */
ss_status_job *ss_status_job_new(ss_supervisor *sup, ss_status_done done, void *ctx);
void ss_status_job_free(ss_status_job *job); /* takes NULL; `done` is then not called */
/* The document from what is known: agents = {source: answer or {"state":"absent",…}}. Pure, for
 * tests. */
json_t *ss_status_document(const ss_supervisor *sup, json_t *agents, int64_t now_us);
/* Microseconds; -1: unknown. 0 only when nothing waits. */
int64_t ss_status_lag(const json_t *route_status, const json_t *agent, int64_t now_us);
/* `--consumers SOURCE` of the program: prints the names in cursors.mdb as a JSON list. In a process
 * of its own, see above. */
int ss_status_print_consumers(const char *spool_path, const char *source);

#endif
