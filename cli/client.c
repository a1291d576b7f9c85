/* Talks to the applier: one request, progress lines, one last line. Blocking; a person may end it
 * with ^C at any time. */
#include "applier/applier_config.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RUN_SOCKET "/run/sidespool/applier.sock"
#define LINE_MOST (64u << 20)
#define SILENCE_S 15 /* the applier answers each request that asks nothing of others within three */

static int connect_to(const char *path, int *ret_errno) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) > SS_SOCKET_PATH_MAX) {
        *ret_errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* The kernel takes a connection for a process that does not turn, until its queue is full. */
    struct timeval limit = {.tv_sec = SILENCE_S};
    if (fd >= 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    }
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    *ret_errno = errno;
    if (fd >= 0)
        close(fd);
    return -1;
}

void ss_cli_say(ss_buf *out, const char *code, const char *fmt, ...) {
    char text[2048];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    ss_buf_printf(out, "sidespool: %s (%s)\n", text, code);
}

static int say_absent(const char *path, int err, const ss_cli_args *args, ss_buf *out) {
    if (err == EACCES || err == EPERM) {
        ss_cli_say(
            out, "SS-CLI-0002",
            "You may not speak to the applier at %s: join its group (usermod -aG sidespool USER), "
            "or use sudo.",
            path);
        return SS_EXIT_REFUSED;
    }
    if (err == ENAMETOOLONG) {
        ss_cli_say(
            out, "SS-CLI-0003",
            "The control socket %s is longer than the %d bytes that a socket's path may have: set "
            "control: {socket: …}.",
            path, SS_SOCKET_PATH_MAX);
        return SS_EXIT_CONFIG;
    }
    ss_cli_say(
        out, "SS-CLI-0001",
        "No sidespool-applier answers at %s: start it with systemctl start sidespool-applier, or "
        "sidespool-applier --config %s.",
        path, args->config);
    if (!args->config_given && access(args->config, F_OK) != 0)
        ss_buf_printf(out,
                      "sidespool: There is no file at the default place %s: name the applier's file "
                      "with --config FILE.\n",
                      args->config);
    if (err != ENOENT && err != ECONNREFUSED && err != ENOTDIR)
        ss_buf_printf(out, "sidespool: The system says: %s.\n", strerror(err));
    return SS_EXIT_ABSENT;
}

static int say_config(const ss_error *err, ss_buf *out) {
    ss_cli_say(out, err->code ? err->code : "SS-CLI-0004", "%s", err->text);
    return SS_EXIT_CONFIG;
}

/* Where the applier may listen, as it chose itself when the file does not say: in the spool's
 * directory first, because whoever listens there is certainly ours. `paths` has room for two. */
static int find_sockets(const ss_cli_args *args, char *spool, char paths[2][4096],
                        size_t *ret_count, ss_buf *out) {
    ss_error err = {0};
    ss_applier_config *config = NULL;
    spool[0] = '\0';
    if (!args->config_given && access(args->config, R_OK) != 0) {
        /* Someone who may not read the file may still ask; the socket's own mode decides. */
        (void)snprintf(paths[0], sizeof(paths[0]), RUN_SOCKET);
        *ret_count = 1;
        return SS_EXIT_DONE;
    }
    if (ss_applier_config_load(args->config, &config, &err) != SS_OK)
        return say_config(&err, out);
    (void)snprintf(spool, 4096, "%s", config->spool_path);
    if (config->control_socket) {
        (void)snprintf(paths[0], sizeof(paths[0]), "%s", config->control_socket);
        *ret_count = 1;
    } else {
        (void)snprintf(paths[0], sizeof(paths[0]), "%s/applier.sock", config->spool_path);
        (void)snprintf(paths[1], sizeof(paths[1]), RUN_SOCKET);
        *ret_count = 2;
    }
    ss_applier_config_free(config);
    return SS_EXIT_DONE;
}

static bool send_all(int fd, const char *text) {
    for (size_t left = strlen(text); left > 0;) {
        ssize_t sent = send(fd, text, left, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        text += sent;
        left -= (size_t)sent;
    }
    return true;
}

/* Takes whole lines out of `in`; returns the last line once it has come. */
static json_t *take_lines(ss_buf *in, ss_cli_progress progress, void *ctx) {
    for (;;) {
        uint8_t *end = in->len ? memchr(in->ptr, '\n', in->len) : NULL;
        if (!end)
            return NULL;
        size_t len = (size_t)(end - in->ptr);
        json_t *line = json_loadb((const char *)in->ptr, len, 0, NULL);
        memmove(in->ptr, end + 1, in->len - len - 1);
        in->len -= len + 1;
        if (json_object_get(line, "ok"))
            return line;
        if (json_object_get(line, "progress") && progress)
            progress(ctx, json_object_get(line, "progress"));
        json_decref(line);
    }
}

/* A request may wait for hours, a `wait` or a large verify. An applier that turns answers another one meanwhile. */
static bool turns(const char *path) {
    int err;
    char byte;
    int fd = connect_to(path, &err);
    bool heard = fd >= 0 && send_all(fd, "{\"cmd\":\"status\"}\n") && recv(fd, &byte, 1, 0) > 0;
    if (fd >= 0)
        close(fd);
    return heard;
}

static int say_silent(const char *path, ss_buf *out) {
    ss_cli_say(out, "SS-CLI-0007",
               "The applier listens at %s and has not answered for %d s: its process hangs or is stopped; see journalctl -u "
               "sidespool-applier. Restarting it loses nothing.",
               path, SILENCE_S);
    return SS_EXIT_AGAIN;
}

static int converse(int fd, const char *path, bool patient, const char *request, ss_cli_progress progress, void *ctx, json_t **ret,
                    ss_buf *out) {
    ss_buf in;
    json_t *last = NULL;
    bool sent = send_all(fd, request) && send_all(fd, "\n");
    ss_buf_init(&in);
    while (sent && !last && !in.bad && in.len < LINE_MOST) {
        uint8_t *room = ss_buf_reserve(&in, 65536);
        ssize_t got = room ? recv(fd, room, 65536, 0) : -1;
        if (got < 0 && room && errno == EINTR)
            continue;
        if (got < 0 && room && errno == EAGAIN) {
            if (patient && turns(path))
                continue;
            ss_buf_done(&in);
            return say_silent(path, out);
        }
        if (got <= 0)
            break;
        in.len += (size_t)got;
        last = take_lines(&in, progress, ctx);
    }
    ss_buf_done(&in);
    if (!last) {
        ss_cli_say(
            out, "SS-CLI-0005",
            "The applier closed the connection before it had answered; it may just be stopping: "
            "see sidespool status.");
        return SS_EXIT_ABSENT;
    }
    *ret = last;
    return (int)json_integer_value(json_object_get(last, "exit"));
}

int ss_cli_ask(const ss_cli_args *args, json_t *request_take, ss_cli_progress progress, void *ctx,
               json_t **ret_answer, ss_buf *out) {
    char paths[2][4096], spool[4096];
    size_t count = 0;
    int err = 0, fd = -1;
    size_t at = 0;
    *ret_answer = NULL;
    int exit_code = find_sockets(args, spool, paths, &count, out);
    for (size_t i = 0; exit_code == SS_EXIT_DONE && fd < 0 && i < count; i++) {
        int this_err = 0;
        at = i;
        fd = connect_to(paths[i], &this_err);
        if (this_err == EAGAIN) {
            json_decref(request_take);
            return say_silent(paths[i], out);
        }
        if (fd < 0 && (i == 0 || this_err == EACCES))
            err = this_err;
    }
    if (exit_code == SS_EXIT_DONE && fd < 0)
        exit_code = say_absent(err == EACCES ? paths[count - 1] : paths[0], err, args, out);
    if (fd >= 0) {
        if (spool[0])
            (void)json_object_set_new(request_take, "spool", json_string(spool));
        char *request = json_dumps(request_take, JSON_COMPACT);
        bool patient = strcmp(json_string_value(json_object_get(request_take, "cmd")), "status") != 0;
        exit_code = request ? converse(fd, paths[at], patient, request, progress, ctx, ret_answer, out) : SS_EXIT_IO;
        free(request);
        close(fd);
    }
    json_decref(request_take);
    return exit_code;
}
