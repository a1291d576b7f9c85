/* What a table of options says about itself: the reference, --help, and name patterns. */
#include "sidespool/option.h"

#include <stdio.h>

/* Classic greedy match with one point to come back to: linear for every pattern a person writes,
 * never exponential. */
bool ss_pattern_match(const char *pattern, const char *name) {
    const char *star = NULL;
    const char *from = NULL;

    while (*name != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            from = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star != NULL) {
            pattern = star + 1;
            name = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

/* "halt|!skip|resync": without the ones that are not carried out yet. */
static void put_choices(const char *choices, const char *between, ss_buf *out) {
    bool first = true;

    for (const char *at = choices; *at != '\0';) {
        size_t len = strcspn(at, "|");
        if (*at != '!') {
            if (!first)
                ss_buf_put_str(out, between);
            ss_buf_put(out, at, len);
            first = false;
        }
        at += len;
        if (*at == '|')
            at++;
    }
}

static void put_form(const ss_option *opt, const char *between, ss_buf *out) {
    switch (opt->type) {
    case SS_OPT_STRING:
        ss_buf_put_str(out, "text");
        break;
    case SS_OPT_BOOL:
        ss_buf_printf(out, "true%sfalse", between);
        break;
    case SS_OPT_INT:
        if (opt->min != 0 || opt->max != 0)
            ss_buf_printf(out, "number %lld to %lld", (long long)opt->min, (long long)opt->max);
        else
            ss_buf_put_str(out, "number");
        break;
    case SS_OPT_SIZE:
        ss_buf_put_str(out, "size");
        break;
    case SS_OPT_DURATION:
        ss_buf_put_str(out, "duration");
        break;
    case SS_OPT_ENUM:
        put_choices(opt->choices, between, out);
        break;
    case SS_OPT_STRINGS:
        ss_buf_put_str(out, "list of text");
        break;
    case SS_OPT_BLOCK:
        ss_buf_put_str(out, "block");
        break;
    case SS_OPT_LIST:
        ss_buf_put_str(out, "list of blocks");
        break;
    case SS_OPT_UNSUPPORTED:
        ss_buf_put_str(out, "not supported yet");
        break;
    }
}

/* A pipe would end the table's cell. */
static void put_cell(const char *text, ss_buf *out) {
    for (; *text != '\0'; text++) {
        if (*text == '|')
            ss_buf_put_byte(out, '\\');
        ss_buf_put_byte(out, (uint8_t)*text);
    }
}

static void markdown_rows(const ss_option *table, const char *prefix, ss_buf *out) {
    for (const ss_option *opt = table; opt->key != NULL; opt++) {
        if (opt->type == SS_OPT_UNSUPPORTED)
            continue;
        ss_buf_printf(out, "| `%s%s` | ", prefix, opt->key);
        put_form(opt, ", ", out);
        ss_buf_put_str(out, " | ");
        if (opt->required)
            ss_buf_put_str(out, "required");
        else if (opt->deflt != NULL && *opt->deflt != '\0') {
            ss_buf_put_byte(out, '`');
            put_cell(opt->deflt, out);
            ss_buf_put_byte(out, '`');
        }
        ss_buf_put_str(out, " | ");
        put_cell(opt->help == NULL ? "" : opt->help, out);
        ss_buf_put_str(out, " |\n");
        if (opt->children != NULL) {
            char deeper[256];
            snprintf(deeper, sizeof deeper, "%s%s%s.", prefix, opt->key,
                     opt->type == SS_OPT_LIST ? "[]" : "");
            markdown_rows(opt->children, deeper, out);
        }
    }
}

static bool unsupported_keys(const ss_option *table, const char *prefix, bool any, ss_buf *out) {
    for (const ss_option *opt = table; opt->key != NULL; opt++) {
        if (opt->type == SS_OPT_UNSUPPORTED) {
            ss_buf_printf(
                out, "%s`%s%s`",
                any ? ", "
                    : "\nKnown, but refused because this version does not carry them out yet: ",
                prefix, opt->key);
            any = true;
        } else if (opt->children != NULL) {
            char deeper[256];
            snprintf(deeper, sizeof deeper, "%s%s%s.", prefix, opt->key,
                     opt->type == SS_OPT_LIST ? "[]" : "");
            any = unsupported_keys(opt->children, deeper, any, out);
        }
    }
    return any;
}

void ss_option_print_markdown(const ss_option *table, const char *title, ss_buf *out) {
    ss_buf_printf(out, "## %s\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n", title);
    markdown_rows(table, "", out);
    if (unsupported_keys(table, "", false, out))
        ss_buf_put_str(out, ".\n");
}

static void help_rows(const ss_option *table, int depth, ss_buf *out) {
    for (const ss_option *opt = table; opt->key != NULL; opt++) {
        if (opt->type == SS_OPT_UNSUPPORTED)
            continue;
        size_t before = out->len;
        ss_buf_printf(out, "%*s%s: ", 2 + depth * 2, "", opt->key);
        put_form(opt, "|", out);
        if (opt->required)
            ss_buf_put_str(out, " (required)");
        else if (opt->deflt != NULL && *opt->deflt != '\0')
            ss_buf_printf(out, " (default %s)", opt->deflt);
        if (opt->help != NULL) {
            size_t width = out->len - before;
            ss_buf_printf(out, "%*s%s", width < 46 ? (int)(46 - width) : 2, "", opt->help);
        }
        ss_buf_put_byte(out, '\n');
        if (opt->children != NULL)
            help_rows(opt->children, depth + 1, out);
    }
}

void ss_option_print_help(const ss_option *table, ss_buf *out) {
    help_rows(table, 0, out);
    ss_buf_put_str(out,
                   "  Sizes: 64GiB, 256MiB, 100KiB, 512B. Durations: 2d, 24h, 5m, 30s, 200ms.\n");
}
