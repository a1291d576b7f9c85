/* See fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>

void fuzz_broken(const char *file, int line, const char *condition, const char *words) {
    fprintf(stderr, "%s:%d: the contract is broken: %s\n", file, line, condition);
    if (words != NULL)
        fprintf(stderr, "    %s\n", words);
    abort();
}

/* RFC 3629, written apart from the product's own on purpose. */
bool fuzz_is_utf8(ss_bytes text) {
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    for (size_t i = 0; i < text.len;) {
        uint8_t lead = text.ptr[i++];
        unsigned more = lead < 0x80 ? 0 : lead < 0xC0 ? 9 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        if (more == 9 || lead > 0xF7 || more > text.len - i)
            return false;
        uint32_t point = more == 0 ? lead : lead & (0x3Fu >> more);
        for (unsigned k = 0; k < more; k++, i++) {
            if ((text.ptr[i] & 0xC0) != 0x80)
                return false;
            point = point << 6 | (text.ptr[i] & 0x3Fu);
        }
        if (point < least[more] || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
            return false;
    }
    return true;
}

void fuzz_check_error(ss_status status, const ss_error *err) {
    if (status == SS_OK)
        return;
    FUZZ_CHECK(status == SS_BUSY || status == SS_RETRY || status == SS_STOP);
    size_t len = strnlen(err->text, sizeof err->text);
    FUZZ_CHECK(len > 0 && len < sizeof err->text);
    FUZZ_CHECK_SAY(err->code != NULL && ss_error_find(err->code) != NULL, err->text);
    FUZZ_CHECK(err->where != NULL);
    FUZZ_CHECK_SAY(fuzz_is_utf8(ss_bytes_of(err->text, len)), err->text);
    for (size_t i = 0; i < len; i++)
        FUZZ_CHECK_SAY((unsigned char)err->text[i] >= 0x20 && err->text[i] != 0x7F, err->text);
}

ss_bytes fuzz_bytes(fuzz_input *in, size_t most) {
    size_t len = most < in->rest.len ? most : in->rest.len;
    ss_bytes ret = ss_bytes_of(in->rest.ptr, len);
    if (len > 0)
        in->rest = ss_bytes_of(in->rest.ptr + len, in->rest.len - len);
    return ret;
}

uint8_t fuzz_u8(fuzz_input *in) {
    ss_bytes got = fuzz_bytes(in, 1);
    return got.len == 0 ? 0 : got.ptr[0];
}

uint16_t fuzz_u16(fuzz_input *in) {
    uint8_t high = fuzz_u8(in);
    return (uint16_t)(high << 8 | fuzz_u8(in));
}

uint8_t *fuzz_exact(ss_bytes bytes) {
    uint8_t *copy = malloc(bytes.len);
    FUZZ_CHECK(copy != NULL || bytes.len == 0);
    if (bytes.len > 0)
        memcpy(copy, bytes.ptr, bytes.len);
    return copy;
}
