/* sidespool-<engine>: one process for each source. main() is the list of what is started, in order,
 * and stopped, in reverse.
 *
 * Compiled once for each engine with -DSS_AGENT_OPS=<its ss_source_ops>; nothing else here depends
 * on which. */
#include "agents/agent.h"
#include "agents/copy.h"
#include "agents/pipeline.h"
#include "agents/requests.h"
#include "sidespool/args.h"
#include "sidespool/daemon.h"
#include "sidespool/log.h"
#include "sidespool/patient.h"
#include "sidespool/spool.h"
#include "sidespool/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STOP_CAPTURE_MS 5000
#define STOP_COPY_MS 3000
#define STOP_WORKERS_MS 1000

static const ss_source_ops *const ops = &SS_AGENT_OPS;

typedef struct {
    const char *config;
    bool check;
} agent_arguments;

typedef struct {
    ss_agent_config *config;
    struct event_base *base;
    ss_daemon *daemon;
    struct event *wake_event, *tick_event;
    ss_spool *spool;
    ss_agent_status status;
    bool status_made;
    ss_pipeline *pipeline;
    ss_copies *copies;
    ss_requests *requests;
    bool ready; /* systemd was told */
} agent_process;

static int usage(FILE *out, int code) {
    ss_buf text;
    ss_error err = {0};

    fprintf(out,
            "Usage: sidespool-%s --config FILE [--check]\n"
            "Captures every change of one source into its spool.\n\n"
            "  --config FILE              the agent's file\n"
            "  --check                    look at every precondition, a line each: ok, warn (it "
            "works, but see\n"
            "                             the advice) or FAIL; exit 0, or 78 when one fails; changes "
            "nothing\n"
            "  --version                  print the version\n"
            "  --help-markdown            the same keys as Markdown, for the reference\n"
            "  --help                     print this\n\n"
            "Exit codes: 0 done, 2 usage, 74 I/O, 75 another agent holds this spool, 78 "
            "configuration.\n\nKeys of the file:\n",
            ops->name);
    ss_buf_init(&text);
    if (ss_agent_options_print(ops, false, &text, &err) == SS_OK)
        fputs(ss_buf_cstr(&text), out);
    ss_buf_done(&text);
    return code;
}

static int print_markdown(void) {
    ss_buf text;
    ss_error err = {0};

    ss_buf_init(&text);
    ss_status status = ss_agent_options_print(ops, true, &text, &err);
    if (status == SS_OK)
        fputs(ss_buf_cstr(&text), stdout);
    else
        ss_log_error(SS_ERROR, "not_printed", &err);
    ss_buf_done(&text);
    return status == SS_OK && fflush(stdout) == 0 ? SS_EXIT_DONE : SS_EXIT_IO;
}

static int misuse(const char *sentence) {
    fprintf(stderr, "sidespool-%s: %s\nTry: sidespool-%s --help\n", ops->name, sentence, ops->name);
    return SS_EXIT_USAGE;
}

enum { OPT_CONFIG = 1, OPT_CHECK, OPT_HELP, OPT_VERSION, OPT_MARKDOWN };

static const ss_arg_option options[] = {
    {"--config", OPT_CONFIG, true, false}, {"--check", OPT_CHECK, false, false},
    {"--help", OPT_HELP, false, false},    {"-h", OPT_HELP, false, true},
    {"--version", OPT_VERSION, false, false}, {"--help-markdown", OPT_MARKDOWN, false, true},
    {NULL, 0, false, false},
};

/* -1: go on; else the exit code. */
static int parse_arguments(int argc, char **argv, agent_arguments *ret) {
    ss_args line;
    int got;
    char sentence[200];

    ss_args_init(&line, argc, argv, 1, options);
    while ((got = ss_args_next(&line)) != SS_ARG_END) {
        switch (got) {
        case OPT_CONFIG:
            ret->config = line.value;
            break;
        case OPT_CHECK:
            ret->check = true;
            break;
        case OPT_HELP:
            return usage(stdout, SS_EXIT_DONE);
        case OPT_VERSION:
            printf("sidespool-%s %s\n", ops->name, SS_VERSION);
            return SS_EXIT_DONE;
        case OPT_MARKDOWN:
            return print_markdown();
        case SS_ARG_WORD:
            snprintf(sentence, sizeof sentence, "\"%s\" is one word too many; the file is named by --config FILE.",
                     SS_SHOWN(line.value));
            return misuse(sentence);
        default:
            return misuse(line.problem);
        }
    }
    return ret->config != NULL ? -1 : misuse("--config FILE is missing, which names the agent's file.");
}

/* ---- what the loop does
 * ---------------------------------------------------------------------------------------------- */

static void on_stop(void *ctx, int signal) {
    agent_process *agent = ctx;

    SS_LOG(SS_INFO, "stopping", SS_I("signal", signal));
    event_base_loopbreak(agent->base);
}

static bool on_alive(void *ctx) {
    agent_process *agent = ctx;
    return ss_agent_status_alive(&agent->status);
}

/* Ready once capture has reached the source, or states why it has not. */
static void tell_systemd(agent_process *agent) {
    ss_agent_snapshot now;

    ss_agent_status_get(&agent->status, &now);
    ss_daemon_status(agent->daemon, "%s%s%.200s", ss_agent_state_name(now.state),
                     now.reason[0] != '\0' ? ": " : "", now.reason);
    if (agent->ready || now.state == SS_AGENT_STARTING)
        return;
    agent->ready = true;
    ss_daemon_ready(agent->daemon);
}

static void on_wake(evutil_socket_t fd, short what, void *ctx) {
    agent_process *agent = ctx;
    (void)fd;
    (void)what;

    if (ss_agent_status_woken(&agent->status))
        ss_requests_wake(agent->requests);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx) {
    agent_process *agent = ctx;
    (void)fd;
    (void)what;

    tell_systemd(agent);
    ss_requests_tick(agent->requests);
}

static void on_history_broke(void *ctx, const char *reason) {
    agent_process *agent = ctx;
    ss_copies_abort(agent->copies, reason);
}

/* ---- boot
 * -------------------------------------------------------------------------------------------------------------
 */

static ss_status make_parts(agent_process *agent, ss_error *reterr) {
    const ss_agent_settings *settings = ss_agent_config_settings(agent->config);
    const ss_source_env *env = ss_agent_config_env(agent->config);
    ss_spool_options spool = ss_agent_config_spool(agent->config);

    ss_status status = ss_agent_status_init(&agent->status, reterr);
    if (status != SS_OK)
        return status;
    agent->status_made = true;
    status = ss_spool_open(env->spool_path, env->name, &spool, &agent->spool, reterr);
    if (status != SS_OK)
        return status;
    ss_pipeline_setup pipeline = {
        ops, env, agent->spool, &agent->status, settings->on_gap, on_history_broke, agent};
    status = ss_pipeline_new(&pipeline, &agent->pipeline, reterr);
    if (status != SS_OK)
        return status;
    ss_copies_setup copies = {
        ops, env, agent->spool, &agent->status, agent->pipeline, (size_t)settings->copy.readers};
    status = ss_copies_new(&copies, &agent->copies, reterr);
    if (status != SS_OK)
        return status;
    ss_requests_setup requests = {
        ops, env, agent->spool, &agent->status, agent->pipeline, agent->copies, agent->base};
    return ss_requests_new(&requests, &agent->requests, reterr);
}

static ss_status make_loop(agent_process *agent, ss_error *reterr) {
    agent->base = event_base_new();
    if (agent->base == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0002", "cannot make the event loop");
    return ss_daemon_new(agent->base, on_stop, on_alive, agent, &agent->daemon, reterr);
}

static ss_status make_events(agent_process *agent, ss_error *reterr) {
    const struct timeval second = {1, 0};

    agent->wake_event =
        event_new(agent->base, agent->status.wake_fd, EV_READ | EV_PERSIST, on_wake, agent);
    agent->tick_event = event_new(agent->base, -1, EV_PERSIST, on_tick, agent);
    if (agent->wake_event == NULL || agent->tick_event == NULL ||
        event_add(agent->wake_event, NULL) != 0 || event_add(agent->tick_event, &second) != 0)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0002", "cannot add events to the loop");
    return SS_OK;
}

static ss_status run(agent_process *agent, ss_error *reterr) {
    ss_status status = ss_pipeline_start(agent->pipeline, reterr);
    if (status == SS_OK)
        status = ss_copies_start(agent->copies, reterr);
    if (status != SS_OK)
        return status;
    SS_LOG(SS_INFO, "started", SS_S("version", SS_VERSION),
           SS_S("spool", ss_spool_dir(agent->spool)));
    if (event_base_dispatch(agent->base) < 0)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0002", "the event loop ended by itself");
    ss_daemon_stopping(agent->daemon);
    return SS_OK;
}

/* Everything of ours that is worth anything is durable at every instant, so a thread that waits for
 * a silent source does not keep the process: then it just exits, and what it leaves open the next
 * start ends (CopyEnd{aborted}) or resumes. */
static void leave(agent_process *agent, int code) {
    ss_error err = {0};
    bool clean = true;

    if (agent->pipeline != NULL &&
        ss_pipeline_stop(agent->pipeline, STOP_CAPTURE_MS, &err) != SS_OK)
        clean = false;
    if (agent->copies != NULL && ss_copies_stop(agent->copies, STOP_COPY_MS, &err) != SS_OK)
        clean = false;
    if (agent->requests != NULL && !ss_requests_free(agent->requests, STOP_WORKERS_MS))
        clean = false;
    if (!clean) {
        SS_LOG(SS_INFO, "stopped_at_once", SS_S("reason", "the source does not answer"));
        _exit(code);
    }
    if (agent->wake_event != NULL)
        event_free(agent->wake_event);
    if (agent->tick_event != NULL)
        event_free(agent->tick_event);
    ss_copies_free(agent->copies);
    ss_pipeline_free(agent->pipeline);
    if (agent->spool != NULL)
        ss_spool_close(agent->spool);
    if (agent->status_made)
        ss_agent_status_done(&agent->status);
    ss_daemon_free(agent->daemon);
    if (agent->base != NULL)
        event_base_free(agent->base);
    ss_agent_config_free(agent->config);
    SS_LOG(SS_INFO, "stopped", SS_I("exit", code));
}

int main(int argc, char **argv) {
    agent_arguments arguments = {0};
    agent_process agent = {0};
    ss_error err = {0};

    ss_patient_json();
    int code = parse_arguments(argc, argv, &arguments);
    if (code >= 0)
        return code;
    if (ss_daemon_process(&err) != SS_OK) {
        ss_log_error(SS_ERROR, "not_started", &err);
        return SS_EXIT_IO;
    }
    ss_status status = ss_agent_config_load(arguments.config, ops, &agent.config, &err);
    if (status != SS_OK) {
        if (arguments.check)
            printf("FAIL  configuration: %s (%s)\n", err.text, err.code != NULL ? err.code : "");
        else
            ss_log_error(SS_ERROR, "configuration_refused", &err);
        return ss_exit_of_start(status);
    }
    if (arguments.check) {
        code = ss_agent_check(agent.config, ops);
        ss_agent_config_free(agent.config);
        return code;
    }
    const ss_kv common[] = {SS_S("source", ss_agent_config_settings(agent.config)->source)};
    ss_log_common(common, 1);
    status = make_loop(&agent, &err);
    if (status == SS_OK)
        status = make_parts(&agent, &err);
    if (status == SS_OK)
        status = make_events(&agent, &err);
    if (status == SS_OK)
        status = run(&agent, &err);
    if (status != SS_OK)
        ss_log_error(SS_ERROR, "not_started", &err);
    /* Another agent that still runs may end: a service manager tries again. */
    bool locked = status != SS_OK && err.code != NULL && strcmp(err.code, SS_SPOOL_LOCKED) == 0;
    code = status == SS_OK ? SS_EXIT_DONE : locked ? SS_EXIT_AGAIN : SS_EXIT_IO;
    leave(&agent, code);
    return code;
}
