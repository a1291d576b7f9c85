/* libyaml's events, and its complaints in words that name the remedy. What could make the text mean something else than it
 * looks like is refused here, wherever it stands. */
#include "common/config_internal.h"

#include <stdarg.h>
#include <stdio.h>

ss_place cfg_place_of(const yaml_mark_t *mark) {
    return (ss_place){(int)mark->line + 1, (int)mark->column + 1};
}

ss_status cfg_fail(cfg_reader *r, ss_place place, const char *code, const char *fmt, ...) {
    char text[SS_ERROR_TEXT];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    return ss_fail_at(r->reterr, SS_STOP, code, "read the configuration", 0, "%s: %s",
                      ss_config_place(r->config, place), text);
}

ss_status cfg_no_memory(cfg_reader *r) {
    return ss_fail(r->reterr, SS_RETRY, "SS-SYS-0001",
                   "there is no memory for the configuration file %s", r->config->shown);
}

/* libyaml says what its grammar missed; a person wants to know what to write. Told where the problem is, or where that began
 * which it ends (its context), or there with the problem's place. */
static const struct {
    const char *problem;
    enum { AT_PROBLEM, AT_CONTEXT, AT_OPENING } told;
    const char *sentence;
} sentences[] = {
    {"mapping values are not allowed in this context", AT_PROBLEM,
     "a `:` is not expected here; put a text that holds `: ` in quotes, or correct the indent"},
    {"could not find expected ':'", AT_CONTEXT,
     "this line is neither `key: value` nor `- value`; mind the space behind `:` and `-`, or correct the indent"},
    {"did not find expected key", AT_PROBLEM,
     ("this is not the next key of its block; keys of one block begin in one column, and a text with quotes in it must stand in "
     "quotes as a whole, every quote closed")},
    {"did not find expected '-' indicator", AT_PROBLEM,
     "this is not the next `- ` of its list; the elements of one list begin in one column"},
    {"block sequence entries are not allowed in this context", AT_PROBLEM,
     "a list cannot begin here; write its first `- ` on a line of its own below the key"},
    {"mapping keys are not allowed in this context", AT_PROBLEM,
     "a key cannot begin here; write it on a line of its own, or put a text that begins with ? in quotes"},
    {"did not find expected ',' or ']'", AT_OPENING, "the list that begins here with [ lacks its ] or a comma"},
    {"did not find expected ',' or '}'", AT_OPENING, "the block that begins here with { lacks its } or a comma"},
    {"found unexpected end of stream", AT_CONTEXT, "the quote that begins here is not closed"},
    {"found unexpected document indicator", AT_CONTEXT, "the quote that begins here is not closed before a line with --- or ..."},
    {"found unknown escape character", AT_PROBLEM,
     "a backslash in double quotes does not go with this character; write \\\\ for a backslash, or use single quotes"},
    {"did not find expected hexdecimal number", AT_PROBLEM,
     "a \\x, \\u or \\U in double quotes wants 2, 4 or 8 hexadecimal digits; write \\\\ for a backslash, or use single quotes"},
    {"found invalid Unicode character escape code", AT_PROBLEM, "this escape in double quotes is the number of no character"},
    {"did not find expected <document start>", AT_PROBLEM,
     "the keys of the file have ended before this place; remove what stands here, or correct brackets and indent"},
    {"did not find expected node content", AT_PROBLEM, "a value is missing here; write one, or put it in quotes"},
    {"did not find expected alphabetic or numeric character", AT_CONTEXT,
     "a text that begins with * or & must stand in quotes, such as \"*.users\""},
    {"found undefined tag handle", AT_CONTEXT, "a text that begins with ! must stand in quotes"},
    {"did not find expected '!'", AT_CONTEXT, "a text that begins with ! must stand in quotes"},
    {"found unexpected ':'", AT_PROBLEM, "put a text that holds `:` between brackets or braces in quotes"},
    {"found incompatible YAML document", AT_PROBLEM, "remove the line %YAML; this file is read as YAML 1.1"},
    {"found unexpected non-alphabetical character", AT_PROBLEM, "a line may not begin with %; put the text in quotes"},
    {"found unknown directive name", AT_PROBLEM, "a line may not begin with %; put the text in quotes"},
    {"found a tab character where an indentation space is expected", AT_PROBLEM,
     "a tab stands here; indent with spaces, YAML takes no tabs"},
    {"found a tab character that violates indentation", AT_PROBLEM,
     "a tab stands here; indent with spaces, YAML takes no tabs"},
};

/* "found character that cannot start any token": which one decides what to say. */
static ss_status bad_beginning(cfg_reader *r) {
    ss_place place = cfg_place_of(&r->yaml.problem_mark);
    char c = (char)cfg_byte_at(r->config, place);

    if (c == '\t')
        return cfg_fail(r, place, "SS-CFG-0006", "a tab stands here; indent with spaces, YAML takes no tabs");
    return cfg_fail(r, place, "SS-CFG-0006", "nothing may begin with '%c'; put the text in quotes", c);
}

static ss_status yaml_problem(cfg_reader *r) {
    const yaml_parser_t *y = &r->yaml;
    const char *problem = y->problem == NULL ? "syntax error" : y->problem;

    if (y->error == YAML_MEMORY_ERROR)
        return cfg_no_memory(r);
    if (y->error == YAML_READER_ERROR)
        return cfg_fail(r, cfg_place_at(r->config, y->problem_offset), "SS-CFG-0006",
                        "the control character 0x%02x stands here; remove it, or write it as an escape in double quotes",
                        (unsigned)y->problem_value);
    if (strcmp(problem, "found character that cannot start any token") == 0)
        return bad_beginning(r);
    for (size_t i = 0; i < sizeof sentences / sizeof sentences[0]; i++)
        if (strcmp(problem, sentences[i].problem) == 0)
            return sentences[i].told == AT_OPENING
                       ? cfg_fail(r, cfg_place_of(&y->context_mark), "SS-CFG-0006",
                                  "%s; what stands at line %zu column %zu does not belong in it", sentences[i].sentence,
                                  y->problem_mark.line + 1, y->problem_mark.column + 1)
                       : cfg_fail(r, cfg_place_of(sentences[i].told == AT_CONTEXT ? &y->context_mark : &y->problem_mark),
                                  "SS-CFG-0006", "%s", sentences[i].sentence);
    return cfg_fail(r, cfg_place_of(&y->problem_mark), "SS-CFG-0006",
                    "this is not well-formed YAML (%s%s%s); look for a missing quote, bracket or space", problem,
                    y->context == NULL ? "" : " ", y->context == NULL ? "" : y->context);
}

ss_status cfg_next_event(cfg_reader *r, yaml_event_t *event) {
    if (!yaml_parser_parse(&r->yaml, event))
        return yaml_problem(r);
    const yaml_char_t *anchor = NULL;
    const yaml_char_t *tag = NULL;
    switch (event->type) {
    case YAML_ALIAS_EVENT:
        anchor = event->data.alias.anchor;
        break;
    case YAML_SCALAR_EVENT:
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        break;
    default:
        break;
    }
    ss_status ret = SS_OK;
    ss_place place = cfg_place_of(&event->start_mark);
    if (anchor != NULL)
        ret = cfg_fail(r, place, "SS-CFG-0007",
                       "anchors and aliases (`%s%s`) are not taken here; write the value out, or put a text that begins "
                       "with & or * in quotes",
                       event->type == YAML_ALIAS_EVENT ? "*" : "&", SS_SHOWN((const char *)anchor));
    else if (tag != NULL)
        ret = cfg_fail(r, place, "SS-CFG-0007",
                       "YAML tags (`%s`) are not taken here; remove the tag, or put a text that begins with ! in quotes",
                       SS_SHOWN((const char *)tag));
    if (ret != SS_OK)
        yaml_event_delete(event);
    return ret;
}

const char *cfg_event_form(const yaml_event_t *event) {
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.length == 0 && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE
                   ? "nothing"
                   : "a single value";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a block of keys";
    default:
        return "nothing";
    }
}
