/* needs: common */
/* A server's words on their way into a log (common/server_message.c).
 *
 * Held to: one line, within its size, and nothing of what stands between the first quote and the
 * last, in whatever language the server speaks. */
#include "sidespool/server_message.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>

/* The input: size of the caller's buffer, the SQLSTATE's five letters, kind of quotes, then what stands
 * before and behind the value, cut at a byte of the input's own. */
#define SECRET "S3cr3tValue" /* a value of a row; no input is to hold it by itself */

static const char *const quotes[][2] = {{"\"", "\""}, {"'", "'"}, {"„", "“"}, {"»", "«"}, {"「", "」"}};

static char *text_of(ss_bytes bytes) {
    char *text = malloc(bytes.len + 1);
    FUZZ_CHECK(text != NULL);
    for (size_t i = 0; i < bytes.len; i++)
        text[i] = bytes.ptr[i] == '\0' ? ' ' : (char)bytes.ptr[i];
    text[bytes.len] = '\0';
    return text;
}

static void check_line(const char *ret, size_t size) {
    size_t len = strnlen(ret, size);
    FUZZ_CHECK(len < size);
    FUZZ_CHECK(strpbrk(ret, "\r\n") == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {ss_bytes_of(data, size)};
    size_t room = fuzz_u8(&in) + 1u;
    char *sqlstate = text_of(fuzz_bytes(&in, 5));
    const char *const *quote = quotes[fuzz_u8(&in) % (sizeof quotes / sizeof *quotes)];
    char *before = text_of(fuzz_bytes(&in, fuzz_u8(&in)));
    char *behind = text_of(in.rest);
    char *ret = malloc(room), *message = NULL;
    int len = asprintf(&message, "%s%s%s%s%s", before, quote[0], SECRET, quote[1], behind);

    FUZZ_CHECK(ret != NULL && len > 0);
    if (strstr(before, SECRET) == NULL && strstr(behind, SECRET) == NULL) {
        ss_server_message_cut(message, ret, room);
        check_line(ret, room);
        FUZZ_CHECK_SAY(strstr(ret, SECRET) == NULL, ret);
        ss_server_message("22P02", message, ret, room);
        FUZZ_CHECK_SAY(strstr(ret, SECRET) == NULL, ret);
        ss_server_message("42601", message, ret, room);
        FUZZ_CHECK_SAY(strstr(ret, SECRET) == NULL, ret);
        ss_server_message(NULL, message, ret, room);
        FUZZ_CHECK_SAY(strstr(ret, SECRET) == NULL, ret);
    }
    ss_server_message(sqlstate, message, ret, room);
    check_line(ret, room);
    ss_server_message_line(behind, ret, room);
    check_line(ret, room);
    FUZZ_CHECK(strncmp(behind, ret, strlen(ret)) == 0);
    free(sqlstate);
    free(before);
    free(behind);
    free(ret);
    free(message);
    return 0;
}
