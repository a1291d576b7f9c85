/* needs: agent_postgres applier; wraps: socket connect */
/* Configuration files (common/config*.c) against the tables of agent and applier, and against one
 * that has every type of option.
 *
 * Held to: what is taken lies within what the table allows; what is refused is told with file,
 * code and one sentence; a file means the same each time that it is read. */
#include "tests/fuzz/config_parts/config_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* The input: a byte that names the table, then the file. */
enum { OF_AGENT, OF_APPLIER, OF_ALL_TYPES, OF_TABLES };

/* Reading a file asks nobody: a lookup of a host or a connection would hang a start. */
int __wrap_socket(int domain, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len);
int __wrap_socket(int domain, int type, int protocol) {
    (void)domain, (void)type, (void)protocol;
    FUZZ_NEVER("a file that is read opens a socket");
}
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len) {
    (void)fd, (void)address, (void)len;
    FUZZ_NEVER("a file that is read connects");
}

/* ---- every type of option ---- */

struct inner {
    int64_t number, any;
    ss_strings words;
};
struct every {
    const char *text;
    bool flag, present;
    int64_t number;
    uint64_t size, duration;
    int choice;
    ss_strings words;
    struct inner block;
    ss_list list;
    ss_place place;
};
static const ss_option inner_options[] = {
    {.key = "number", .type = SS_OPT_INT, .offset = offsetof(struct inner, number), .required = true, .min = -5, .max = 32},
    {.key = "any", .type = SS_OPT_INT, .offset = offsetof(struct inner, any)},
    {.key = "words", .type = SS_OPT_STRINGS, .offset = offsetof(struct inner, words), .deflt = "[a, \"b\"]"},
    {0}};
static const ss_option every_options[] = {
    {.key = "text", .type = SS_OPT_STRING, .offset = offsetof(struct every, text), .required = true, .place_offset = offsetof(struct every, place), .help = "Text."},
    {.key = "flag", .type = SS_OPT_BOOL, .offset = offsetof(struct every, flag)},
    {.key = "number", .type = SS_OPT_INT, .offset = offsetof(struct every, number), .deflt = "7", .min = 1, .max = 9},
    {.key = "size", .type = SS_OPT_SIZE, .offset = offsetof(struct every, size), .min = 1024, .max = 1 << 30},
    {.key = "duration", .type = SS_OPT_DURATION, .offset = offsetof(struct every, duration), .min = 5},
    {.key = "choice", .type = SS_OPT_ENUM, .offset = offsetof(struct every, choice), .choices = "one|!two|three"},
    {.key = "words", .type = SS_OPT_STRINGS, .offset = offsetof(struct every, words)},
    {.key = "block", .type = SS_OPT_BLOCK, .offset = offsetof(struct every, block), .children = inner_options, .present_offset = offsetof(struct every, present)},
    {.key = "list", .type = SS_OPT_LIST, .offset = offsetof(struct every, list), .children = inner_options, .child_size = sizeof(struct inner)},
    {.key = "later", .type = SS_OPT_UNSUPPORTED},
    {0}};

bool cfz_is_name(const char *name) {
    size_t len = strlen(name);
    return len > 0 && len < 64 && strpbrk(name, "/\n\r\t \"'") == NULL;
}

void cfz_check_strings(const ss_strings *strings) {
    for (size_t i = 0; i < strings->count; i++)
        FUZZ_CHECK(strings->items[i] != NULL && fuzz_is_utf8(ss_bytes_str(strings->items[i])));
}

static void check_inner(const struct inner *inner) {
    FUZZ_CHECK(inner->number >= -5 && inner->number <= 32);
    cfz_check_strings(&inner->words);
}

static void check_every(const struct every *it) {
    FUZZ_CHECK(it->text != NULL && *it->text != '\0' && it->place.line > 0 && it->place.column > 0);
    FUZZ_CHECK(it->number >= 1 && it->number <= 9);
    FUZZ_CHECK(it->size == 0 || (it->size >= 1024 && it->size <= 1 << 30));
    FUZZ_CHECK(it->duration == 0 || (it->duration >= 5 && it->duration <= INT64_MAX));
    FUZZ_CHECK(it->choice == 0 || it->choice == 2);
    cfz_check_strings(&it->words);
    if (it->present)
        check_inner(&it->block);
    for (size_t i = 0; i < it->list.count; i++)
        check_inner((const struct inner *)it->list.items + i);
}

static ss_status load(int table, const char *path, ss_error *err) {
    ss_status status;
    if (table == OF_AGENT) {
        status = cfz_agent(path, err);
    } else if (table == OF_APPLIER) {
        status = cfz_applier(path, err);
    } else {
        struct every it = {0};
        ss_config *config = NULL;
        status = ss_config_load(path, every_options, &it, &config, err);
        FUZZ_CHECK((status == SS_OK) == (config != NULL));
        if (status == SS_OK)
            check_every(&it);
        ss_config_free(config);
    }
    return status;
}

static int written(ss_bytes text) {
    int fd = memfd_create("config", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0);
    for (size_t at = 0; at < text.len;) {
        ssize_t n = write(fd, text.ptr + at, text.len - at);
        FUZZ_CHECK(n > 0);
        at += (size_t)n;
    }
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {ss_bytes_of(data, size)};
    int table = fuzz_u8(&in) % OF_TABLES;
    int fd = written(in.rest);
    ss_error err = {0}, again = {0};
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ss_status status = load(table, path, &err);
    fuzz_check_error(status, &err);
    FUZZ_CHECK_SAY(status == SS_OK || status == SS_STOP, err.text);
    if (status != SS_OK) {
        FUZZ_CHECK_SAY(strlen(err.text) < SS_ERROR_TEXT - 1, err.text); /* with its remedy */
        FUZZ_CHECK_SAY(strstr(err.text, path) != NULL, err.text);
    }
    FUZZ_CHECK(load(table, path, &again) == status);
    FUZZ_CHECK(strcmp(err.text, again.text) == 0);
    close(fd);
    return 0;
}
