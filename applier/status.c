/* `status`: what every route said last, joined with what each agent says now, and a line for each
 * trouble. The document is described in docs/status-json.md and is a contract with people's
 * scripts.
 *
 * Consumers stand in cursors.mdb, a file that must not be mapped here (supervisor.h): a child of
 * ours reads it. */
#include "applier/supervisor.h"

#include "sidespool/log.h"
#include "sidespool/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define RETAINED_IS_MUCH                                                                           \
    (1LL << 30) /* bytes of log that a source keeps for us before it is called a trouble */
#define QUIET_US (65LL * 1000000)
#define CONSUMERS_MOST 65536u /* bytes read from the child */

struct probe {
    ss_status_job *job;
    const char *source;
    ss_agent_link *ask;
    json_t *agent; /* the answer; NULL: not yet */
    pid_t child;   /* reads the consumers */
    int out;
    struct event *readable;
    struct evbuffer *text;
    json_t *consumers;
};

struct ss_status_job {
    ss_supervisor *sup;
    ss_status_done done;
    void *ctx;
    struct event *deadline;
    struct probe *probes; /* one for each source */
    size_t count;
};

/* ---- the numbers ----------------------------------------------------------------------------- */

/* Only an agent that streams can say that the source has nothing more; without it time goes on and
 * nobody knows. A quiet source speaks at least twice in its wal_sender_timeout (60 s); one that
 * never does is asked for its distance instead. The agent counts that time by a clock that nobody
 * sets: the source's clock may be an hour off. */
static bool agent_is_current(const json_t *agent) {
    const json_t *distance = json_object_get(json_object_get(agent, "source_status"), "lag_bytes");
    if (strcmp(ss_json_text(agent, "state", ""), "streaming") != 0)
        return false;
    /* An agent of an older version does not say it: that is no sign of life. */
    const json_t *heard = json_object_get(agent, "heard_ms");
    return (json_is_integer(heard) && json_integer_value(heard) < QUIET_US / 1000) ||
           (json_is_integer(distance) && json_integer_value(distance) <= 0);
}

/* What stands behind the agent's last change are signs of life, written once a second for as long as
 * nothing happens: they are no work. A route that has read further than this answer of the agent
 * knows more than it. */
static bool only_idle_waits(const json_t *route_status, const json_t *agent) {
    const json_t *change = json_object_get(agent, "last_change");
    return json_is_integer(change) &&
           json_integer_value(change) <= ss_json_int(route_status, "sequence") &&
           ss_json_int(route_status, "committed") <= ss_json_int(agent, "committed");
}

int64_t ss_status_lag(const json_t *route_status, const json_t *agent, int64_t now_us) {
    int64_t as_of = ss_json_int(route_status, "as_of");
    int64_t sequence = ss_json_int(route_status, "sequence");
    if (as_of <= 0)
        return -1;
    bool waits = !only_idle_waits(route_status, agent) &&
                 (ss_json_int(route_status, "behind_records") > 0 ||
                  ss_json_int(agent, "committed") > sequence);
    if (!waits && agent_is_current(agent) &&
        strcmp(ss_json_text(route_status, "state", ""), "streaming") == 0)
        return 0;
    return now_us > as_of ? now_us - as_of : 0;
}

/* Milliseconds are as much as the clocks of two hosts are good for. */
static json_t *rounded(double number) {
    return json_real((double)(int64_t)(number * 1000 + 0.5) / 1000);
}

static json_t *rounded_or_null(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? rounded(json_number_value(value)) : json_null();
}

static void sum_tables(const json_t *tables, double *rows, double *rows_estimate, double *bytes,
                       double *bytes_estimate) {
    size_t i;
    json_t *table;
    *rows = *rows_estimate = *bytes = *bytes_estimate = 0;
    json_array_foreach(json_object_get(tables, "list"), i, table) {
        double got = (double)ss_json_int(table, "rows"),
               want = (double)ss_json_int(table, "rows_estimate");
        double got_bytes = (double)ss_json_int(table, "bytes");
        double want_bytes = (double)ss_json_int(table, "bytes_estimate");
        bool ready = strcmp(ss_json_text(table, "status", ""), "ready") == 0;
        *rows += got;
        *bytes += got_bytes;
        /* An estimate that was too low, or one of a table that is done, must not make 100 %
         * unreachable. */
        *rows_estimate += ready || want < got ? got : want;
        *bytes_estimate += ready || want_bytes < got_bytes ? got_bytes : want_bytes;
    }
}

static json_t *copy_of(const ss_route_proc *route, const char *state) {
    double rows, rows_estimate, bytes, bytes_estimate;
    if (strcmp(state, "copying") != 0)
        return json_null();
    sum_tables(json_object_get(route->status, "tables"), &rows, &rows_estimate, &bytes,
               &bytes_estimate);
    json_t *eta = route->copy_rows_s > 0 ? rounded((rows_estimate - rows) / route->copy_rows_s)
                                         : json_null();
    return json_pack("{s:I,s:I,s:I,s:I,s:o,s:o,s:o}", "rows", (json_int_t)rows, "rows_estimate",
                     (json_int_t)rows_estimate, "bytes", (json_int_t)bytes, "bytes_estimate",
                     (json_int_t)bytes_estimate, "rows_per_second", rounded(route->copy_rows_s),
                     "bytes_per_second", rounded(route->copy_bytes_s), "eta_seconds", eta);
}

static json_t *number_or_null(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_incref(value) : json_null();
}

/* What waits is known best by whoever looked last: a route that is paused or down does not look. */
static json_t *larger(const json_t *status, const char *key, int64_t least) {
    const json_t *value = json_object_get(status, key);
    if (!json_is_integer(value))
        return json_null();
    return json_integer(json_integer_value(value) > least ? json_integer_value(value) : least);
}

static json_t *eta_of(const json_t *status, const json_t *copy, int64_t lag) {
    double behind = (double)ss_json_int(status, "behind_records");
    double rate = json_number_value(json_object_get(status, "rate"));
    if (json_is_object(copy))
        return json_incref(json_object_get(copy, "eta_seconds"));
    if (lag == 0)
        return json_real(0);
    return rate > 0 && behind > 0 ? rounded(behind / rate) : json_null();
}

/* "" is what a route says before its target was ever open. */
static json_t *server_of(const json_t *object) {
    const char *server = json_string_value(json_object_get(object, "server"));
    return server && *server ? json_string(server) : json_null();
}

static json_t *route_object(const ss_route_proc *route, json_t *agent, int64_t now_us) {
    char scratch[768];
    const char *reason;
    const char *state = ss_route_state(route, scratch, sizeof(scratch), &reason);
    const json_t *status = route->status;
    int64_t lag = ss_status_lag(status, agent, now_us);
    int64_t committed = ss_json_int(agent, "committed");
    bool idle = only_idle_waits(status, agent);
    int64_t since = route->pid == 0 ? route->ended_us : ss_json_int(status, "since");
    json_t *copy = copy_of(route, state);
    json_t *eta = eta_of(status, copy, lag);
    json_t *tables = json_object_get(status, "tables");
    tables = json_is_object(tables) ? json_incref(tables)
                                    : json_pack("{s:i,s:i,s:[]}", "ready", 0, "total", 0, "list");
    return json_pack(
        "{s:s,s:s,s:s,s:o,s:o,s:s,s:s,s:I,s:o,s:I,s:b,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:O}",
        "route", route->config->name, "source", route->config->source, "target",
        route->config->target->name, "source_server",
        server_of(json_object_get(agent, "source_status")), "target_server", server_of(status), "state", state, "reason", reason, "since",
        (json_int_t)(since ? since : route->started_us), "pid",
        route->pid ? json_integer(route->pid) : json_null(), "restarts",
        (json_int_t)route->restarts, "paused", route->paused, "sequence",
        number_or_null(status, "sequence"), "committed", larger(status, "committed", committed),
        "behind_records",
        idle ? json_integer(0)
             : larger(status, "behind_records", committed - ss_json_int(status, "sequence")),
        "behind_bytes", idle ? json_integer(0) : number_or_null(status, "behind_bytes"), "as_of",
        number_or_null(status, "as_of"), "lag_seconds",
        lag < 0 ? json_null() : rounded((double)lag / 1e6), "rate",
        rounded_or_null(status, "rate"), "eta_seconds", eta, "tables", tables, "copy", copy, "agent",
        agent);
}

/* ---- troubles -------------------------------------------------------------------------------- */

static void trouble(json_t *list, const char *kind, const char *route, const char *source,
                    const char *remedy, const char *fmt, ...) SS_PRINTF(6, 7);
static void trouble(json_t *list, const char *kind, const char *route, const char *source,
                    const char *remedy, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    size_t len = strlen(text);
    json_t *sentence = NULL;
    for (size_t cut = 0; !sentence && cut < 4 && cut <= len; cut++)
        sentence = json_stringn(text, len - cut); /* a torn last character is no JSON */
    (void)json_array_append_new(list,
                                json_pack("{s:s,s:s?,s:s?,s:o*,s:s}", "kind", kind, "route", route,
                                          "source", source, "text", sentence, "remedy", remedy));
}

typedef struct {
    char text[4600];
} remedy_text;

/* A command as it is to be typed: with the file, when that is not the default one. */
static remedy_text command(const ss_supervisor *sup, const char *before, const char *words) {
    remedy_text ret;
    bool other = strcmp(sup->config->path, SS_APPLIER_CONFIG_DEFAULT) != 0;
    (void)snprintf(ret.text, sizeof(ret.text), "%ssidespool %s%s%.3500s", before, words,
                   other ? " --config " : "", other ? sup->config->path : "");
    return ret;
}

/* The table of the route that a reason names; NULL: none, or more than one. */
static const char *table_in(const ss_route_proc *route, const char *reason) {
    size_t i;
    const json_t *table;
    const char *ret = NULL;
    json_array_foreach(json_object_get(json_object_get(route->status, "tables"), "list"), i, table) {
        const char *name = ss_json_text(table, "name", "");
        for (const char *at = *name ? strstr(reason, name) : NULL; at; at = strstr(at + 1, name)) {
            char before = at > reason ? at[-1] : ' ', after = at[strlen(name)];
            if (strchr(" \"'`(", before) == NULL || strchr(" \"'`),:;.", after) == NULL)
                continue;
            if (ret && strcmp(ret, name) != 0)
                return NULL;
            ret = name;
        }
    }
    return ret;
}

/* A name that a shell would take apart stands in single quotes. */
static const char *quoted(const char *name, char *to, size_t size) {
    bool plain = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
                 strlen(name);
    if (plain || strchr(name, '\''))
        (void)snprintf(to, size, "%s", name);
    else
        (void)snprintf(to, size, "'%s'", name);
    return to;
}

static remedy_text remedy_of_halt(const ss_route_proc *route, const char *reason) {
    char words[512], name[300];
    const char *table = table_in(route, reason);
    (void)snprintf(words, sizeof(words), "resume --route %s", route->config->name);
    remedy_text ret = command(route->sup, "when its cause is mended: ", words);
    if (!table)
        return ret;
    (void)snprintf(words, sizeof(words), "resync --route %s %s", route->config->name,
                   quoted(table, name, sizeof(name)));
    remedy_text resync = command(route->sup, "load the table anew: ", words);
    size_t len = strlen(resync.text);
    (void)snprintf(resync.text + len, sizeof(resync.text) - len, "; or, %.*s", 4000, ret.text);
    return resync;
}

static void trouble_of_process(json_t *list, const ss_route_proc *route, const char *reason) {
    char remedy[256] = "see the log of the applier: journalctl -u sidespool-applier";
    const char *name = route->config->name;
    if (strstr(route->ended, "SIGBUS") || strstr(route->ended, "SIGABRT") ||
        strstr(route->ended, "SIGSEGV"))
        (void)snprintf(remedy, sizeof(remedy), "look for damage with: sidespool spool verify %s",
                       route->config->source);
    if (route->pid == 0)
        trouble(list, "route_down", name, route->config->source, remedy, "Route %s is down: %s.",
                name, reason);
    else if (!route->status && route->restarts > 0)
        trouble(list, "route_down", name, route->config->source, remedy,
                "Route %s: %s (%llu restarts).", name, reason, (unsigned long long)route->restarts);
}

static void troubles_of_route(json_t *list, const ss_route_proc *route) {
    char scratch[768], words[256];
    const char *reason, *name = route->config->name, *source = route->config->source;
    const char *state = ss_route_state(route, scratch, sizeof(scratch), &reason);
    trouble_of_process(list, route, reason);
    if (strcmp(state, "halted") == 0) {
        trouble(list, "route_halted", name, source, remedy_of_halt(route, reason).text,
                "Route %s is halted: %s", name, *reason ? reason : "it gives no reason; see its log.");
    } else if (strcmp(state, "waiting_target") == 0) {
        trouble(list, "target_unreachable", name, source,
                "changes wait in the spool; the route goes on by itself",
                "Route %s waits for its target: %s", name,
                *reason ? reason : "it cannot be reached.");
    } else if (route->paused || strcmp(state, "paused") == 0) {
        (void)snprintf(words, sizeof(words), "resume --route %s", name);
        trouble(list, "route_paused", name, source, command(route->sup, "", words).text,
                "Route %s is paused; changes wait in the spool.", name);
    }
    if (ss_route_is_well(route, ss_steady_us()) != SS_ROUTE_WELL) {
        trouble(list, "route_stalled", name, source,
                "it is ended and started again by itself; see its log",
                "Route %s makes no progress though changes wait, and gives no reason.", name);
    }
}

static void troubles_of_new_tables(json_t *list, const ss_supervisor *sup, const char *source,
                                   const json_t *agent) {
    size_t i;
    json_t *table;
    json_array_foreach(json_object_get(json_object_get(agent, "source_status"), "new_tables"), i,
                       table) {
        const char *name = json_string_value(table);
        for (size_t k = 0; name && k < sup->route_count; k++) {
            char words[512], shown[300];
            if (strcmp(sup->routes[k].config->source, source) != 0)
                continue;
            (void)snprintf(words, sizeof(words), "resync --route %s %s",
                           sup->routes[k].config->name, quoted(name, shown, sizeof(shown)));
            trouble(list, "new_table", sup->routes[k].config->name, source,
                    command(sup, "", words).text,
                    "Table %s of source %s matches and is not captured.", name, source);
        }
    }
}

/* The route goes on holding a table that its agent no longer captures: nothing will ever change it again. */
static bool holds_ready(const ss_route_proc *route, const char *name) {
    json_t *table;
    size_t i;
    const json_t *tables = json_object_get(route->status, "tables"),
                 *listed = json_object_get(tables, "list");
    json_array_foreach(listed, i, table) {
        if (strcmp(ss_json_text(table, "name", ""), name) == 0)
            return strcmp(ss_json_text(table, "status", ""), "ready") == 0;
    }
    return ss_json_int(tables, "total") > (int64_t)json_array_size(listed); /* said rather than not */
}

static void troubles_of_left_tables(json_t *list, const ss_supervisor *sup, const char *source,
                                    const json_t *agent) {
    size_t i;
    json_t *left;
    json_array_foreach(json_object_get(agent, "left"), i, left) {
        const char *name = ss_json_text(left, "table", "");
        time_t since = (time_t)(ss_json_int(left, "since") / 1000000);
        struct tm utc;
        char when[32] = "";
        if (gmtime_r(&since, &utc) != NULL)
            (void)strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &utc);
        for (size_t k = 0; k < sup->route_count; k++) {
            if (strcmp(sup->routes[k].config->source, source) != 0 ||
                !holds_ready(&sup->routes[k], name))
                continue;
            trouble(list, "table_left", sup->routes[k].config->name, source,
                    "include it in the agent's file again, or drop the copy when nobody needs it",
                    "Table %s of source %s is not captured any more since %s; its copy stands still.",
                    name, source, when);
        }
    }
}

/* The engine's name is the middle of its unit's. */
static const char *engine_of(const json_t *agent) {
    return ss_json_text(agent, "engine", "postgres");
}

static remedy_text restart_of(const char *before, const char *source, const json_t *agent) {
    remedy_text ret;
    (void)snprintf(ret.text, sizeof(ret.text),
                   "%srestart sidespool-%s (systemctl restart sidespool-%s@%s)", before,
                   engine_of(agent), engine_of(agent), source);
    return ret;
}

static void troubles_of_source_log(json_t *list, const char *source, const json_t *agent) {
    const json_t *own = json_object_get(agent, "source_status");
    /* A halted agent says itself what broke: one remedy, not two. */
    if (strcmp(ss_json_text(agent, "state", ""), "halted") == 0)
        return;
    int64_t retained = ss_json_int(own, "retained_bytes");
    const char *wal = ss_json_text(own, "wal_status", "");
    char remedy[256];
    (void)snprintf(remedy, sizeof(remedy),
                   "see why the agent does not go on: journalctl -u sidespool-%s@%s", engine_of(agent),
                   source);
    if (strcmp(wal, "lost") == 0 || json_is_false(json_object_get(own, "slot_exists")))
        trouble(list, "source_gap", NULL, source,
                restart_of("set on_gap: resync in the agent's file, then ", source, agent).text,
                "Source %s no longer holds the log that the copy needs: our slot is lost or gone.",
                source);
    else if (strcmp(wal, "unreserved") == 0)
        trouble(list, "source_retains", NULL, source, remedy,
                "Source %s is about to drop the log that our slot needs.", source);
    else if (retained >= RETAINED_IS_MUCH)
        trouble(list, "source_retains", NULL, source, remedy,
                "Source %s holds back %.1f GiB of its log for us.", source,
                (double)retained / (double)(1 << 30));
}

static void troubles_of_agent(json_t *list, const ss_supervisor *sup, const char *source,
                              const json_t *agent) {
    const char *state = ss_json_text(agent, "state", ""),
               *reason = ss_json_text(agent, "reason", "");
    double used = (double)ss_json_int(agent, "spool_used"),
           quota = (double)ss_json_int(agent, "spool_quota");
    char remedy[256];
    if (strcmp(state, "absent") == 0 || strcmp(state, "silent") == 0) {
        (void)snprintf(remedy, sizeof(remedy),
                       "start sidespool-%s (systemctl start sidespool-%s@%s)", engine_of(agent),
                       engine_of(agent), source);
        trouble(list, state[0] == 'a' ? "agent_absent" : "agent_silent", NULL, source, remedy, "%s",
                reason);
    } else if (strcmp(state, "halted") == 0) {
        bool gap = strstr(reason, "on_gap") != NULL;
        trouble(list, "agent_halted", NULL, source,
                restart_of(gap ? "set on_gap: resync in the agent's file (everything is copied anew), "
                                 "then "
                               : "when its cause is mended, ",
                           source, agent)
                    .text,
                "The agent of source %s is halted: %s", source, reason);
    } else if (strcmp(state, "waiting_source") == 0) {
        trouble(list, "source_unreachable", NULL, source,
                "the agent goes on by itself when the source is back",
                "The agent of source %s waits for it: %s", source,
                *reason ? reason : "it cannot be reached.");
    } else if (strcmp(state, "spool_full") == 0) {
        trouble(list, "spool_full", NULL, source,
                "let the routes catch up, raise spool.max_size, or forget consumers that are gone",
                "The spool of source %s is full (%.1f of %.1f GiB); capture has stopped: %s",
                source, used / (1 << 30), quota / (1 << 30), reason);
    } else if (quota > 0 && used > 0.9 * quota) {
        trouble(list, "spool_nearly_full", NULL, source,
                "let the routes catch up, or raise spool.max_size",
                "The spool of source %s is %.0f %% full.", source, 100 * used / quota);
    }
    troubles_of_source_log(list, source, agent);
    troubles_of_new_tables(list, sup, source, agent);
    troubles_of_left_tables(list, sup, source, agent);
}

static bool owned(const ss_supervisor *sup, const char *source, const char *consumer) {
    for (size_t i = 0; i < sup->route_count; i++)
        if (strcmp(sup->routes[i].config->source, source) == 0 &&
            strcmp(sup->routes[i].config->name, consumer) == 0)
            return true;
    return false;
}

static void troubles_of_consumers(json_t *list, const ss_supervisor *sup) {
    const char *source;
    json_t *names, *name;
    size_t i;
    json_object_foreach(sup->consumers, source, names) {
        json_array_foreach(names, i, name) {
            char words[512];
            const char *consumer = json_string_value(name);
            if (!consumer || owned(sup, source, consumer))
                continue;
            (void)snprintf(words, sizeof(words), "spool forget --consumer %s %s", consumer, source);
            trouble(list, "consumer_without_route", NULL, source,
                    command(sup, "if it is gone for good: ", words).text,
                    "Consumer %s of source %s belongs to no route here; what it has not applied is "
                    "kept for it.",
                    consumer, source);
        }
    }
}

/* ---- the document ---------------------------------------------------------------------------- */

json_t *ss_status_document(const ss_supervisor *sup, json_t *agents, int64_t now_us) {
    /* A trouble that was left out for want of memory would read as "all is well". */
    errno = 0;
    json_t *routes = json_array(), *troubles = json_array(), *agent;
    const char *source;
    bool whole = true;
    for (size_t i = 0; i < sup->route_count; i++) {
        const ss_route_proc *route = &sup->routes[i];
        agent = json_object_get(agents, route->config->source);
        whole = json_array_append_new(routes, route_object(route, agent, now_us)) == 0 && whole;
        troubles_of_route(troubles, route);
    }
    json_object_foreach(agents, source, agent) troubles_of_agent(troubles, sup, source, agent);
    troubles_of_consumers(troubles, sup);
    if (!whole || errno == ENOMEM) {
        json_decref(routes);
        json_decref(troubles);
        return NULL;
    }
    return json_pack("{s:b,s:i,s:i,s:I,s:{s:s,s:i,s:I,s:s,s:s,s:s},s:o,s:o}", "ok", 1, "exit",
                     SS_EXIT_DONE, "version", 1, "now", (json_int_t)now_us, "applier", "version",
                     SS_VERSION, "pid", (int)getpid(), "since", (json_int_t)sup->started_us,
                     "config", sup->config->path, "spool", sup->config->spool_path, "socket",
                     sup->socket_path, "routes", routes, "troubles", troubles);
}

/* ---- asking ---------------------------------------------------------------------------------- */

static void child_done(struct probe *probe) {
    if (probe->readable)
        event_free(probe->readable);
    probe->readable = NULL;
    if (probe->out >= 0)
        close(probe->out);
    probe->out = -1;
    if (probe->child > 0) {
        /* It has closed its output as its last act, or is late: either way it ends now. */
        (void)kill(probe->child, SIGKILL);
        (void)waitpid(probe->child, NULL, 0);
    }
    probe->child = 0;
}

static void job_finish(ss_status_job *job) {
    json_t *agents = json_object();
    for (size_t i = 0; i < job->count; i++) {
        struct probe *probe = &job->probes[i];
        if (!probe->agent)
            probe->agent =
                json_pack("{s:s,s:s}", "state", "silent", "reason",
                          "The agent did not answer in time; it may be busy or stopped.");
        (void)json_object_set(agents, probe->source, probe->agent);
        child_done(probe);
        if (probe->consumers) {
            if (!job->sup->consumers)
                job->sup->consumers = json_object();
            (void)json_object_set(job->sup->consumers, probe->source, probe->consumers);
        }
    }
    json_t *document = ss_status_document(job->sup, agents, ss_wall_us());
    json_decref(agents);
    job->done(job->ctx, document);
}

static void job_look(ss_status_job *job) {
    for (size_t i = 0; i < job->count; i++)
        if (!job->probes[i].agent || job->probes[i].child > 0)
            return;
    event_active(job->deadline, EV_TIMEOUT, 0);
}

static void on_deadline(evutil_socket_t fd, short what, void *ctx) {
    (void)fd;
    (void)what;
    job_finish(ctx);
}

static void on_agent(void *ctx, json_t *answer, bool absent, const char *error) {
    struct probe *probe = ctx;
    if (probe->agent)
        return;
    if (answer && json_is_true(json_object_get(answer, "ok"))) {
        probe->agent = json_incref(answer);
        (void)json_object_del(probe->agent, "ok");
    } else if (answer) {
        probe->agent =
            json_pack("{s:s,s:s}", "state", "silent", "reason",
                      ss_json_text(answer, "error", "The agent refused to tell its status."));
    } else {
        probe->agent =
            json_pack("{s:s,s:s}", "state", absent ? "absent" : "silent", "reason", error);
    }
    job_look(probe->job);
}

static void on_child(evutil_socket_t fd, short what, void *ctx) {
    struct probe *probe = ctx;
    (void)what;
    int got = evbuffer_read(probe->text, fd, 4096);
    if (got > 0 && evbuffer_get_length(probe->text) < CONSUMERS_MOST)
        return;
    size_t len = evbuffer_get_length(probe->text);
    const unsigned char *text = evbuffer_pullup(probe->text, -1);
    json_t *names = text ? json_loadb((const char *)text, len, 0, NULL) : NULL;
    if (json_is_array(names))
        probe->consumers = names;
    else
        json_decref(names); /* no list: unknown, and the last one known is shown */
    child_done(probe);
    job_look(probe->job);
}

/* A failure here leaves the consumers unknown this time, which costs a line of advice and nothing
 * else. */
static void start_child(struct probe *probe) {
    ss_supervisor *sup = probe->job->sup;
    posix_spawn_file_actions_t actions;
    char *argv[] = {(char *)"sidespool-applier",          (char *)"--config",
                    (char *)(uintptr_t)sup->config->path, (char *)"--consumers",
                    (char *)(uintptr_t)probe->source,     NULL};
    char path[4096];
    int pair[2];
    (void)snprintf(path, sizeof(path), "%s/%s/cursors.mdb", sup->config->spool_path, probe->source);
    if (access(path, F_OK) != 0 || pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return;
    probe->out = pair[0];
    probe->text = evbuffer_new();
    probe->readable = event_new(sup->base, pair[0], EV_READ | EV_PERSIST, on_child, probe);
    if (probe->text && probe->readable && posix_spawn_file_actions_init(&actions) == 0) {
        int err = posix_spawn_file_actions_adddup2(&actions, pair[1], STDOUT_FILENO);
        if (err == 0)
            err = posix_spawn(&probe->child, "/proc/self/exe", &actions, NULL, argv, environ);
        if (err != 0) {
            probe->child = 0;
            SS_LOG(SS_WARN, "consumers_not_listed", SS_S("source", probe->source), SS_S("error", strerror(err)));
        }
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    close(pair[1]);
    if (probe->child > 0)
        event_add(probe->readable, NULL);
    else
        child_done(probe);
}

static bool start_probes(ss_status_job *job) {
    ss_supervisor *sup = job->sup;
    for (size_t i = 0; i < sup->route_count; i++) {
        const char *source = sup->routes[i].config->source;
        bool known = false;
        for (size_t k = 0; k < job->count; k++)
            known |= strcmp(job->probes[k].source, source) == 0;
        if (known)
            continue;
        struct probe *probe = &job->probes[job->count++];
        *probe = (struct probe){.job = job, .source = source, .out = -1};
        probe->ask = ss_agent_link_new(sup, source, json_pack("{s:s}", "op", "status"),
                                       SS_AGENT_TIMEOUT_MS, on_agent, probe);
        if (!probe->ask)
            return false;
        start_child(probe);
    }
    return true;
}

ss_status_job *ss_status_job_new(ss_supervisor *sup, ss_status_done done, void *ctx) {
    struct timeval wait = {SS_AGENT_TIMEOUT_MS / 1000, 200000};
    ss_status_job *job = calloc(1, sizeof(*job));
    if (!job)
        return NULL;
    job->sup = sup;
    job->done = done;
    job->ctx = ctx;
    job->probes = calloc(sup->route_count, sizeof(*job->probes));
    job->deadline = evtimer_new(sup->base, on_deadline, job);
    if (!job->probes || !job->deadline || !start_probes(job)) {
        ss_status_job_free(job);
        return NULL;
    }
    evtimer_add(job->deadline, &wait);
    return job;
}

void ss_status_job_free(ss_status_job *job) {
    if (!job)
        return;
    for (size_t i = 0; i < job->count; i++) {
        struct probe *probe = &job->probes[i];
        ss_agent_link_free(probe->ask);
        child_done(probe);
        if (probe->text)
            evbuffer_free(probe->text);
        json_decref(probe->agent);
        json_decref(probe->consumers);
    }
    if (job->deadline)
        event_free(job->deadline);
    free(job->probes);
    free(job);
}

/* ---- in the child ---------------------------------------------------------------------------- */

static void add_name(void *ctx, const char *consumer, uint64_t copy, uint64_t stream) {
    (void)copy;
    (void)stream;
    (void)json_array_append_new(ctx, json_string(consumer));
}

int ss_status_print_consumers(const char *spool_path, const char *source) {
    ss_error err = {0};
    ss_cursors *cursors = NULL;
    json_t *names = json_array();
    ss_status status = ss_cursors_open(spool_path, source, &cursors, &err);
    if (status == SS_OK)
        status = ss_cursors_each(cursors, add_name, names, &err);
    ss_cursors_close(cursors);
    int exit_code = SS_EXIT_IO;
    if (status != SS_OK)
        ss_log_error(SS_WARN, "consumers_unreadable", &err);
    else if (json_dumpf(names, stdout, JSON_COMPACT) == 0 && fflush(stdout) == 0)
        exit_code = SS_EXIT_DONE;
    json_decref(names);
    return exit_code;
}
