/* Single values: how each type is written, the defaults, and which known key is nearest to a
 * misspelt one. */
#include "common/config_internal.h"
#include "sidespool/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define KIND "SS-CFG-0012"
#define RANGE "SS-CFG-0013"

typedef struct {
    const char *name;
    uint64_t factor;
} unit;

static const unit sizes[] = {{"", 1},
                             {"B", 1},
                             {"KiB", 1ull << 10},
                             {"MiB", 1ull << 20},
                             {"GiB", 1ull << 30},
                             {"TiB", 1ull << 40},
                             {NULL, 0}};
static const unit durations[] = {{"ms", 1},      {"s", 1000},     {"m", 60000},
                                 {"h", 3600000}, {"d", 86400000}, {NULL, 0}};

#define SAY(...) snprintf(why, size, __VA_ARGS__)

/* digits and a unit. A sum that does not fit is out of range, not wrapped. */
static bool read_quantity(const char *text, const unit *units, bool plain_zero, uint64_t *ret,
                          bool *ret_overflow) {
    uint64_t value = 0;
    const char *p = text;

    *ret_overflow = false;
    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            *ret_overflow = true;
    if (plain_zero && *p == '\0' && value == 0 && !*ret_overflow) {
        *ret = 0;
        return true;
    }
    for (; units->name != NULL; units++)
        if (strcmp(units->name, p) == 0) {
            if (*ret_overflow || __builtin_mul_overflow(value, units->factor, ret) ||
                *ret > INT64_MAX)
                *ret_overflow = true;
            return true;
        }
    return false;
}

/* In the largest unit that it is a whole number of: what a person would write. */
static void bounds_text(uint64_t value, const unit *units, char ret[32]) {
    const unit *best = units;

    for (; units->name != NULL; units++)
        if (units->factor > best->factor && value % units->factor == 0)
            best = units;
    snprintf(ret, 32, "%llu%s", (unsigned long long)(value / best->factor), best->name);
}

const char *ss_size_text(uint64_t bytes, char buf[32]) {
    bounds_text(bytes, sizes, buf);
    return buf;
}

static bool quantity(const ss_option *opt, const char *text, void *to, const char **ret_code,
                     char *why, size_t size) {
    bool is_size = opt->type == SS_OPT_SIZE;
    bool overflow;
    uint64_t value;

    if (!read_quantity(text, is_size ? sizes : durations, !is_size, &value, &overflow)) {
        *ret_code = KIND;
        if (is_size)
            SAY("wants a size such as 64GiB, 256MiB, 100KiB or 512B (whole numbers, these units), "
                "not `%s`",
                SS_SHOWN(text));
        else
            SAY("wants a duration such as 24h, 5m, 30s, 200ms or 2d (a whole number and its unit), "
                "not `%s`",
                SS_SHOWN(text));
        return false;
    }
    char least[32], most[32];
    bounds_text((uint64_t)opt->min, is_size ? sizes : durations, least);
    bounds_text(opt->max != 0 ? (uint64_t)opt->max : INT64_MAX, is_size ? sizes : durations, most);
    bool bounded = opt->min != 0 || opt->max != 0;
    if (overflow || (bounded && (value < (uint64_t)opt->min ||
                                 (opt->max != 0 && value > (uint64_t)opt->max)))) {
        *ret_code = RANGE;
        if (opt->max != 0)
            SAY("is %s, but must lie between %s and %s", SS_SHOWN(text), least, most);
        else if (overflow)
            SAY("is %s, which is more than can be counted; choose a smaller %s", SS_SHOWN(text),
                is_size ? "size" : "duration");
        else
            SAY("is %s, but must be at least %s", SS_SHOWN(text), least);
        return false;
    }
    *(uint64_t *)to = value;
    return true;
}

static bool integer(const ss_option *opt, const char *text, void *to, const char **ret_code,
                    char *why, size_t size) {
    char *end = NULL;

    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!(isdigit((unsigned char)*text) || (*text == '-' && isdigit((unsigned char)text[1]))) ||
        *end != '\0') {
        *ret_code = KIND;
        SAY("wants a whole number, not `%s`", SS_SHOWN(text));
        return false;
    }
    bool bounded = opt->min != 0 || opt->max != 0;
    if (errno == ERANGE || (bounded && (value < opt->min || value > opt->max))) {
        *ret_code = RANGE;
        SAY("is %s, but must lie between %lld and %lld", SS_SHOWN(text),
            bounded ? (long long)opt->min : (long long)INT64_MIN,
            bounded ? (long long)opt->max : (long long)INT64_MAX);
        return false;
    }
    *(int64_t *)to = value;
    return true;
}

/* A choice that begins with `!` is known, but not carried out by this version. */
static bool choice(const ss_option *opt, const char *text, void *to, const char **ret_code,
                   char *why, size_t size) {
    int index = 0;
    size_t text_len = strlen(text);

    for (const char *at = opt->choices; *at != '\0'; index++) {
        size_t len = strcspn(at, "|");
        bool refused = *at == '!';
        if (len - refused == text_len && memcmp(at + refused, text, text_len) == 0) {
            if (refused) {
                *ret_code = "SS-CFG-0010";
                SAY("is `%s`, which is not supported yet by this version; choose another value",
                    SS_SHOWN(text));
                return false;
            }
            *(int *)to = index;
            return true;
        }
        at += len;
        if (*at == '|')
            at++;
    }
    *ret_code = KIND;
    int n = SAY("wants one of");
    const char *before = " ";
    for (const char *at = opt->choices; *at != '\0' && n > 0 && (size_t)n < size;) {
        size_t len = strcspn(at, "|");
        if (*at != '!') {
            n += snprintf(why + n, size - (size_t)n, "%s`%.*s`", before, (int)len, at);
            before = ", ";
        }
        at += len;
        if (*at == '|')
            at++;
    }
    if (n > 0 && (size_t)n < size)
        snprintf(why + n, size - (size_t)n, ", not `%s`", SS_SHOWN(text));
    return false;
}

bool cfg_value(const ss_option *opt, const char *text, void *to, const char **ret_code, char *why,
               size_t size) {
    switch (opt->type) {
    case SS_OPT_STRING:
        *(const char **)to = text;
        return true;
    case SS_OPT_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            *ret_code = KIND;
            SAY("wants true or false, not `%s`", SS_SHOWN(text));
            return false;
        }
        *(bool *)to = *text == 't';
        return true;
    case SS_OPT_INT:
        return integer(opt, text, to, ret_code, why, size);
    case SS_OPT_SIZE:
    case SS_OPT_DURATION:
        return quantity(opt, text, to, ret_code, why, size);
    case SS_OPT_ENUM:
        return choice(opt, text, to, ret_code, why, size);
    default:
        *ret_code = "SS-CFG-0015";
        SAY("has a type that takes no single value");
        return false;
    }
}

/* "[a, \"b\"]" or "a, b" */
static ss_status default_strings(ss_config *config, const char *text, ss_strings *out,
                                 ss_error *reterr) {
    char *copy = ss_arena_strndup(config->arena, text, strlen(text));
    size_t most = 1;

    for (const char *p = text; *p != '\0'; p++)
        most += *p == ',';
    const char **items = ss_arena_zalloc(config->arena, (most + 1) * sizeof *items);
    if (copy == NULL || items == NULL)
        return ss_fail(reterr, SS_RETRY, "SS-SYS-0001",
                       "there is no memory for the configuration file %s", config->path);
    out->items = items;
    out->count = 0;
    char *save = NULL;
    for (char *word = strtok_r(copy, "[], \"", &save); word != NULL;
         word = strtok_r(NULL, "[], \"", &save))
        items[out->count++] = word;
    return SS_OK;
}

ss_status cfg_defaults(ss_config *config, const ss_option *table, void *out, ss_error *reterr) {
    for (const ss_option *opt = table; opt->key != NULL; opt++) {
        char *to = (char *)out + opt->offset;
        char why[512];
        const char *code = NULL;
        ss_status ret = SS_OK;
        if (opt->type == SS_OPT_BLOCK)
            ret = cfg_defaults(config, opt->children, to, reterr);
        else if (opt->deflt == NULL || opt->type == SS_OPT_UNSUPPORTED || opt->type == SS_OPT_LIST)
            continue;
        else if (opt->type == SS_OPT_STRINGS)
            ret = default_strings(config, opt->deflt, (ss_strings *)(void *)to, reterr);
        else if (!cfg_value(opt, opt->deflt, to, &code, why, sizeof why))
            ret = ss_fail(reterr, SS_STOP, "SS-CFG-0015",
                          "the default of `%s` in the program's own table %s", opt->key, why);
        if (ret != SS_OK)
            return ret;
    }
    return SS_OK;
}

const char *cfg_nearest(const ss_option *table, const char *key) {
    const char *ret = NULL;
    size_t least = SIZE_MAX;

    for (const ss_option *opt = table; opt->key != NULL; opt++)
        if (opt->type != SS_OPT_UNSUPPORTED && ss_nearer(key, opt->key, &least))
            ret = opt->key;
    return ret;
}
