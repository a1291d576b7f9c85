/* UTF-8, foreign text in our sentences, and which word may have been meant. */
#include "sidespool/text.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

size_t ss_utf8_len(const uint8_t *s, size_t left) {
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xC2 && s[0] <= 0xDF   ? 2
               : (s[0] & 0xF0) == 0xE0        ? 3
               : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4
                                              : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

bool ss_utf8_good(const char *text) {
    size_t left = strlen(text), n = 1;

    for (const uint8_t *s = (const uint8_t *)text; left > 0 && n > 0; s += n, left -= n)
        n = ss_utf8_len(s, left);
    return n > 0;
}

static const char more[] = "…";

/* How a character is shown: itself, or \xNN. Returns how many bytes of the text it takes. */
static size_t show_one(const uint8_t *s, size_t left, char piece[8], size_t *ret_width) {
    size_t n = ss_utf8_len(s, left);
    bool plain = n > 0 && *s >= 0x20 && *s != 0x7F && !(*s == 0xC2 && s[1] < 0xA0); /* C1 moves terminals */

    if (plain)
        memcpy(piece, s, n);
    *ret_width = plain ? n : (size_t)snprintf(piece, 8, "\\x%02x", *s);
    return plain ? n : 1;
}

static const char *show(const char *text, char *buf, size_t size) {
    const uint8_t *s = (const uint8_t *)text;
    size_t left = strlen(text), len = 0, whole = 0; /* whole: up to where the ellipsis would fit behind */
    char piece[8];

    while (left > 0) {
        size_t width, n = show_one(s, left, piece, &width);
        if (len + width >= size) {
            memcpy(buf + whole, more, sizeof more);
            return buf;
        }
        memcpy(buf + len, piece, width);
        len += width;
        if (len + sizeof more <= size)
            whole = len;
        s += n;
        left -= n;
    }
    buf[len] = '\0';
    return buf;
}

const char *ss_shown(const char *text, char buf[SS_SHOWN_BYTES]) {
    return show(text, buf, SS_SHOWN_BYTES);
}

const char *ss_shown_name(const char *text, char buf[SS_SHOWN_BYTES + 2]) {
    if (strstr(text, "://") != NULL || strchr(text, '=') != NULL)
        return "what looks like a connection string (not shown, it may hold a password)";
    snprintf(buf, SS_SHOWN_BYTES + 2, "\"%s\"", SS_SHOWN(text));
    return buf;
}

const char *ss_shown_path(const char *path, char buf[SS_SHOWN_PATH_BYTES]) {
    const uint8_t *s = (const uint8_t *)path;
    size_t left = strlen(path), width, all = 0;
    char piece[8];

    for (size_t at = 0; at < left; all += width)
        at += show_one(s + at, left - at, piece, &width);
    if (all < SS_SHOWN_PATH_BYTES)
        return show(path, buf, SS_SHOWN_PATH_BYTES);
    while (all >= SS_SHOWN_PATH_BYTES - sizeof more) {
        size_t n = show_one(s, left, piece, &width);
        all -= width;
        s += n;
        left -= n;
    }
    memcpy(buf, more, sizeof more);
    show((const char *)s, buf + sizeof more - 1, SS_SHOWN_PATH_BYTES - sizeof more + 1);
    return buf;
}

static bool same_letter(char a, char b) {
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* Edit distance with neighbours swapped as one step (optimal string alignment). */
static size_t distance(const char *a, const char *b) {
    enum { MOST = 48 };
    size_t la = strlen(a), lb = strlen(b);
    size_t row[3][MOST + 1];

    if (la > MOST || lb > MOST)
        return SIZE_MAX;
    for (size_t j = 0; j <= lb; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *now = row[i % 3], *before = row[(i - 1) % 3], *twice = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = before[j - 1] + !same_letter(a[i - 1], b[j - 1]);
            if (before[j] + 1 < best)
                best = before[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) &&
                same_letter(a[i - 2], b[j - 1]) && twice[j - 2] + 1 < best)
                best = twice[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[la % 3][lb];
}

bool ss_nearer(const char *word, const char *known, size_t *least) {
    size_t len = strlen(word);
    size_t allowed = len <= 2 ? 1 : len <= 5 ? 2 : len / 3 + 1;
    size_t far = distance(word, known);

    if (far >= *least || far > allowed || far >= strlen(known))
        return false;
    *least = far;
    return true;
}

bool ss_source_name_good(const char *name) {
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

    return len >= 1 && len <= 63 && name[len] == '\0' && name[0] != '-';
}
