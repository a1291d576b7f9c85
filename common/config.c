/* The configuration file: libyaml's events, read against a table of options into the program's
 * struct.
 *
 * Nothing is accepted and ignored: a key that stands twice, that is unknown, or that this version
 * does not carry out is refused with its place, and so is every part of YAML that could make the
 * text mean something else than it looks like (anchors, aliases, tags, several documents). Runs
 * once at start, in the main thread. Reading the file itself, libyaml's events and its complaints,
 * and the forms of single values stand in config_file.c, config_yaml.c and config_value.c. */
#include "common/config_internal.h"
#include "sidespool/text.h"

#include <stdio.h>
#include <stdlib.h>

/* Where we are, from the top of the file down; lives on the stack of the recursion. */
typedef struct frame {
    const struct frame *up;
    const char *key; /* NULL for an element of a list */
    size_t index;
} frame;

typedef cfg_reader reader;

static size_t path_text(const frame *at, char *out, size_t size) {
    if (at == NULL) {
        out[0] = '\0';
        return 0;
    }
    size_t len = path_text(at->up, out, size);
    int n = at->key == NULL ? snprintf(out + len, size - len, "[%zu]", at->index)
                            : snprintf(out + len, size - len, "%s%s", len == 0 ? "" : ".", at->key);
    if (n < 0)
        return len;
    return len + (size_t)n < size ? len + (size_t)n : size - 1;
}

const char *cfg_path(const void *at, char *out, size_t size) {
    path_text(at, out, size);
    return out;
}

#define FAIL(r, place, code, ...) cfg_fail((r), (place), (code), __VA_ARGS__)
#define PATH(at) SS_SHOWN(cfg_path((at), (char[256]){0}, 256))

/* " with the keys `a`, `b`": the required ones, or all when none is. */
static const char *keys_text(const ss_option *table, char *out, size_t size) {
    bool any = false, first = true;
    size_t len = 0;
    for (const ss_option *opt = table; opt->key != NULL; opt++)
        any = any || opt->required;
    out[0] = '\0';
    for (const ss_option *opt = table; opt->key != NULL && len + 64 < size; opt++) {
        if (opt->type == SS_OPT_UNSUPPORTED || (any && !opt->required))
            continue;
        int n = snprintf(out + len, size - len, "%s`%.40s`", first ? any ? "; it needs " : "; its keys are " : ", ",
                         opt->key);
        len += n > 0 ? (size_t)n : 0;
        first = false;
    }
    return out;
}

static ss_status wrong_form(reader *r, const frame *at, const yaml_event_t *event,
                            const char *wanted) {
    return FAIL(r, cfg_place_of(&event->start_mark), "SS-CFG-0011", "`%s` wants %s, but here stands %s",
                PATH(at), wanted, cfg_event_form(event));
}

/* Copies a scalar. `key: ` and `key: ~` are no value; an empty text is written "". */
static ss_status scalar_text(reader *r, const frame *at, const yaml_event_t *event,
                             const char **ret) {
    const char *value = (const char *)event->data.scalar.value;
    size_t len = event->data.scalar.length;
    ss_place place = cfg_place_of(&event->start_mark);

    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
        (len == 0 || strcmp(value, "~") == 0 || strcmp(value, "null") == 0))
        return FAIL(r, place, "SS-CFG-0011", "`%s` has no value; give it one or remove the key",
                    PATH(at));
    if (strlen(value) != len)
        return FAIL(r, place, "SS-CFG-0012", "`%s` holds a NUL byte, which no value here can have",
                    PATH(at));
    *ret = ss_arena_strndup(r->config->arena, value, len);
    return *ret == NULL ? cfg_no_memory(r) : SS_OK;
}

static ss_status read_mapping(reader *r, const frame *at, const ss_option *table, void *out,
                              ss_place opened);

typedef struct item {
    struct item *next;
    ss_place place;
    void *value;
} item;

/* One element, whose first event has been read, into `value`. */
typedef ss_status (*element_fn)(reader *r, const frame *at, const ss_option *opt,
                                const yaml_event_t *event, void *value);

static ss_status read_text_element(reader *r, const frame *at, const ss_option *opt,
                                   const yaml_event_t *event, void *value) {
    (void)opt;
    return event->type == YAML_SCALAR_EVENT ? scalar_text(r, at, event, value)
                                            : wrong_form(r, at, event, "a single value");
}

static ss_status read_block_element(reader *r, const frame *at, const ss_option *opt,
                                    const yaml_event_t *event, void *value) {
    if (event->type != YAML_MAPPING_START_EVENT)
        return wrong_form(r, at, event, "a block of keys");
    ss_status ret = cfg_defaults(r->config, opt->children, value, r->reterr);
    return ret != SS_OK ? ret
                        : read_mapping(r, at, opt->children, value,
                                       cfg_place_of(&event->start_mark));
}

/* Elements are gathered in a chain and laid out in one array when their count is known. */
static ss_status read_elements(reader *r, const frame *at, const ss_option *opt, size_t size,
                               element_fn read_one, ss_list *ret, ss_place **ret_places) {
    item *first = NULL;
    item **last = &first;
    size_t count = 0;

    for (;; count++) {
        yaml_event_t event;
        ss_status status = cfg_next_event(r, &event);
        if (status != SS_OK)
            return status;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            break;
        }
        frame here = {at, NULL, count};
        item *added = ss_arena_zalloc(r->config->arena, sizeof *added);
        void *value = ss_arena_zalloc(r->config->arena, size);
        status = added == NULL || value == NULL ? cfg_no_memory(r)
                                                : read_one(r, &here, opt, &event, value);
        ss_place place = cfg_place_of(&event.start_mark);
        yaml_event_delete(&event);
        if (status != SS_OK)
            return status;
        *added = (item){.place = place, .value = value};
        *last = added;
        last = &added->next;
    }
    char *items = ss_arena_zalloc(r->config->arena, (count + 1) * size);
    ss_place *places = ss_arena_zalloc(r->config->arena, (count + 1) * sizeof *places);
    if (items == NULL || places == NULL)
        return cfg_no_memory(r);
    for (size_t i = 0; first != NULL; first = first->next, i++) {
        memcpy(items + i * size, first->value, size);
        places[i] = first->place;
    }
    *ret = (ss_list){items, count};
    *ret_places = places;
    return SS_OK;
}

static ss_status read_strings(reader *r, const frame *at, const ss_option *opt, ss_strings *out) {
    ss_list list;
    ss_place *places;
    ss_status ret =
        read_elements(r, at, opt, sizeof(const char *), read_text_element, &list, &places);
    if (ret == SS_OK)
        *out = (ss_strings){list.items, list.count, places};
    return ret;
}

static ss_status read_list(reader *r, const frame *at, const ss_option *opt, ss_list *out) {
    ss_place *places;
    return read_elements(r, at, opt, opt->child_size, read_block_element, out, &places);
}

static ss_status read_scalar(reader *r, const frame *at, const ss_option *opt,
                             const yaml_event_t *event, void *to) {
    const char *text = NULL;
    char why[512];
    const char *code = NULL;

    if (event->type != YAML_SCALAR_EVENT)
        return wrong_form(r, at, event, "a single value");
    ss_status ret = scalar_text(r, at, event, &text);
    if (ret != SS_OK)
        return ret;
    if (opt->type == SS_OPT_STRING && opt->required && *text == '\0')
        return FAIL(r, cfg_place_of(&event->start_mark), "SS-CFG-0012",
                    "`%s` is empty; give it a value", PATH(at));
    if (!cfg_value(opt, text, to, &code, why, sizeof why))
        return FAIL(r, cfg_place_of(&event->start_mark), code, "`%s` %s", PATH(at), why);
    return SS_OK;
}

/* One value of the key `opt`; the event that opens it has been read. */
static ss_status read_value(reader *r, const frame *at, const ss_option *opt,
                            const yaml_event_t *event, char *out) {
    ss_place place = cfg_place_of(&event->start_mark);

    if (opt->place_offset != 0)
        memcpy(out + opt->place_offset, &place, sizeof place);
    switch (opt->type) {
    case SS_OPT_BLOCK:
        if (event->type != YAML_MAPPING_START_EVENT) {
            char keys[512];
            return FAIL(r, place, "SS-CFG-0011", "`%s` wants a block of keys, but here stands %s%s", PATH(at),
                        cfg_event_form(event), keys_text(opt->children, keys, sizeof keys));
        }
        if (opt->present_offset != 0)
            *(bool *)(out + opt->present_offset) = true;
        return read_mapping(r, at, opt->children, out + opt->offset, place);
    case SS_OPT_LIST:
        if (event->type != YAML_SEQUENCE_START_EVENT)
            return wrong_form(r, at, event, "a list of blocks (each begins with `- `)");
        return read_list(r, at, opt, (ss_list *)(void *)(out + opt->offset));
    case SS_OPT_STRINGS:
        if (event->type != YAML_SEQUENCE_START_EVENT)
            return wrong_form(r, at, event, "a list, such as [a, b]");
        return read_strings(r, at, opt, (ss_strings *)(void *)(out + opt->offset));
    default:
        return read_scalar(r, at, opt, event, out + opt->offset);
    }
}

/* Finds the key's option, or says what is wrong with the key. *ret stays untouched for an unknown one
 * that is passed over. */
static ss_status find_key(reader *r, const frame *at, const ss_option *table,
                          const yaml_event_t *event, ss_place *seen, const ss_option **ret) {
    ss_place place = cfg_place_of(&event->start_mark);

    if (event->type != YAML_SCALAR_EVENT)
        return FAIL(r, place, "SS-CFG-0011", "a key must be a single word, but here stands %s",
                    cfg_event_form(event));
    const char *key = (const char *)event->data.scalar.value;
    const ss_option *opt = table;
    while (opt->key != NULL && strcmp(opt->key, key) != 0)
        opt++;
    frame here = {at, opt->key == NULL ? key : opt->key, 0};
    if (opt->key == NULL && r->peeks)
        return SS_OK;
    if (opt->key == NULL) {
        const char *near = cfg_nearest(table, key);
        if (near != NULL)
            return FAIL(r, place, "SS-CFG-0009",
                        "the key `%s` is not known; did you mean `%s`?", PATH(&here), near);
        ss_buf known;
        ss_buf_init(&known);
        for (const ss_option *each = table; each->key != NULL; each++)
            if (each->type != SS_OPT_UNSUPPORTED)
                ss_buf_printf(&known, "%s`%s`", known.len == 0 ? "" : ", ", each->key);
        ss_status status =
            FAIL(r, place, "SS-CFG-0009", "the key `%s` is not known; known here are %s",
                 PATH(&here), ss_buf_cstr(&known));
        ss_buf_done(&known);
        return status;
    }
    if (opt->type == SS_OPT_UNSUPPORTED)
        return FAIL(r, place, "SS-CFG-0010",
                    "`%s` is not supported yet by this version; remove the key", PATH(&here));
    ss_place *before = &seen[opt - table];
    if (before->line != 0)
        return FAIL(r, place, "SS-CFG-0008",
                    "the key `%s` stands twice, first at line %d column %d; remove one",
                    PATH(&here), before->line, before->column);
    *before = place;
    *ret = opt;
    return SS_OK;
}

static ss_status check_required(reader *r, const frame *at, const ss_option *table,
                                const ss_place *seen, ss_place opened) {
    for (const ss_option *opt = table; opt->key != NULL; opt++) {
        if (!opt->required || seen[opt - table].line != 0)
            continue;
        const char *help = opt->help == NULL ? "" : opt->help;
        size_t len = strlen(help);
        char hint[256] = "";
        if (len > 0) /* a sentence, as a part of ours */
            snprintf(hint, sizeof hint, " (%.*s)", (int)(help[len - 1] == '.' ? len - 1 : len), help);
        if (at == NULL)
            return FAIL(r, opened, "SS-CFG-0014", "the required key `%s` is missing; add it%s", opt->key, hint);
        return FAIL(r, opened, "SS-CFG-0014", "the block `%s` lacks its required key `%s`; add it%s",
                    PATH(at), opt->key, hint);
    }
    return SS_OK;
}

/* The value whose first event is given (and taken), whatever it is. */
static ss_status pass_over(reader *r, yaml_event_t *event) {
    for (size_t depth = 0;;) {
        yaml_event_type_t type = event->type;
        yaml_event_delete(event);
        if (type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT)
            depth++;
        else if (type == YAML_SEQUENCE_END_EVENT || type == YAML_MAPPING_END_EVENT)
            depth--;
        if (depth == 0)
            return SS_OK;
        ss_status ret = cfg_next_event(r, event);
        if (ret != SS_OK)
            return ret;
    }
}

/* The keys of one block, up to its end. The event that opens it has been read. */
static ss_status read_mapping(reader *r, const frame *at, const ss_option *table, void *out,
                              ss_place opened) {
    size_t count = 0;
    while (table[count].key != NULL)
        count++;
    ss_place *seen = ss_arena_zalloc(r->config->arena, (count + 1) * sizeof *seen);
    if (seen == NULL)
        return cfg_no_memory(r);
    for (;;) {
        yaml_event_t event;
        const ss_option *opt = NULL;
        ss_status ret = cfg_next_event(r, &event);
        if (ret != SS_OK)
            return ret;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return check_required(r, at, table, seen, opened);
        }
        ret = find_key(r, at, table, &event, seen, &opt);
        yaml_event_delete(&event);
        if (ret == SS_OK)
            ret = cfg_next_event(r, &event);
        if (ret != SS_OK)
            return ret;
        if (opt == NULL) { /* peeking: somebody else's key */
            ret = pass_over(r, &event);
            if (ret != SS_OK)
                return ret;
            continue;
        }
        frame here = {at, opt->key, 0};
        ret = read_value(r, &here, opt, &event, out);
        yaml_event_delete(&event);
        if (ret != SS_OK)
            return ret;
    }
}

static ss_status expect(reader *r, const ss_option *table, yaml_event_type_t type, ss_place *ret_place) {
    yaml_event_t event;
    char keys[512];
    ss_status ret = cfg_next_event(r, &event);

    if (ret != SS_OK)
        return ret;
    yaml_event_type_t got = event.type;
    *ret_place = cfg_place_of(&event.start_mark);
    bool blank = got == YAML_SCALAR_EVENT && event.data.scalar.length == 0;
    const char *form = cfg_event_form(&event);
    yaml_event_delete(&event);
    if (got == type)
        return SS_OK;
    if (got == YAML_STREAM_END_EVENT || (type == YAML_MAPPING_START_EVENT && blank))
        return ss_fail(r->reterr, SS_STOP, "SS-CFG-0003",
                       "the configuration file %s holds no keys%s", r->config->shown,
                       keys_text(table, keys, sizeof keys));
    if (got == YAML_DOCUMENT_START_EVENT)
        return FAIL(r, *ret_place, "SS-CFG-0007", "%s",
                    "a second document begins here; keep one document in a file");
    return FAIL(r, *ret_place, "SS-CFG-0011",
                "the file wants `key: value` lines at its top, with a space behind the colon, but here "
                "stands %s",
                form);
}

static ss_status read_document(reader *r, const ss_option *table, void *out) {
    ss_place place;
    ss_status ret = expect(r, table, YAML_STREAM_START_EVENT, &place);

    if (ret == SS_OK)
        ret = expect(r, table, YAML_DOCUMENT_START_EVENT, &place);
    if (ret == SS_OK)
        ret = expect(r, table, YAML_MAPPING_START_EVENT, &place);
    if (ret == SS_OK)
        ret = read_mapping(r, NULL, table, out, place);
    if (ret == SS_OK)
        ret = expect(r, table, YAML_DOCUMENT_END_EVENT, &place);
    if (ret == SS_OK)
        ret = expect(r, table, YAML_STREAM_END_EVENT, &place);
    return ret;
}

static ss_status load(const char *path, const ss_option *table, bool peeks, void *out,
                      ss_config **ret, ss_error *reterr) {
    ss_config *config = calloc(1, sizeof *config);
    reader r = {.config = config, .reterr = reterr, .peeks = peeks};
    bool begun = false;
    ss_status status = SS_OK;

    if (config != NULL) {
        config->arena = ss_arena_new(0);
        if (config->arena != NULL)
            config->path = ss_arena_strndup(config->arena, path, strlen(path));
        ss_shown_path(path, config->shown);
    }
    if (config == NULL || config->path == NULL) {
        status = ss_fail(reterr, SS_RETRY, "SS-SYS-0001",
                         "there is no memory to read a configuration file");
        goto out;
    }
    status = cfg_read_file(config, reterr);
    if (status == SS_OK)
        status = cfg_defaults(config, table, out, reterr);
    if (status != SS_OK)
        goto out;
    begun = yaml_parser_initialize(&r.yaml) != 0;
    if (!begun) {
        status = cfg_no_memory(&r);
        goto out;
    }
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.yaml, config->text.ptr, config->text.len);
    status = read_document(&r, table, out);
out:
    if (begun)
        yaml_parser_delete(&r.yaml);
    if (config != NULL)
        ss_buf_done(&config->text);
    if (status == SS_OK)
        *ret = config;
    else
        ss_config_free(config);
    return status;
}

ss_status ss_config_load(const char *path, const ss_option *table, void *out, ss_config **ret,
                         ss_error *reterr) {
    return load(path, table, false, out, ret, reterr);
}

ss_status ss_config_peek(const char *path, const ss_option *table, void *out, ss_config **ret,
                         ss_error *reterr) {
    return load(path, table, true, out, ret, reterr);
}

void ss_config_free(ss_config *config) {
    if (config == NULL)
        return;
    ss_buf_done(&config->text);
    ss_arena_free(config->arena);
    free(config);
}

const char *ss_config_place(const ss_config *config, ss_place place) {
    static _Thread_local char text[SS_SHOWN_PATH_BYTES + 32];

    if (place.line == 0)
        snprintf(text, sizeof text, "%s", config->shown);
    else
        snprintf(text, sizeof text, "%s:%d:%d", config->shown, place.line, place.column);
    return text;
}
