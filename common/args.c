/* Command lines. getopt is not used: it takes shortened names (which a later option may make ambiguous), lets the last of two
 * contradictory values win, takes an option for another one's value, and knows no nearest name. */
#include "sidespool/args.h"

#include "sidespool/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void ss_args_init(ss_args *args, int argc, char **argv, int at, const ss_arg_option *options) {
    *args = (ss_args){.options = options, .argv = argv, .argc = argc, .at = at};
}

__attribute__((format(printf, 2, 3))) static int wrong(ss_args *args, const char *fmt, ...) {
    va_list list;
    va_start(list, fmt);
    (void)vsnprintf(args->problem, sizeof args->problem, fmt, list);
    va_end(list);
    return SS_ARG_WRONG;
}

static int unknown(ss_args *args, const char *name) {
    const ss_arg_option *best = NULL;
    size_t least = SIZE_MAX;

    const char *letters = name + strspn(name, "-");
    for (const ss_arg_option *each = args->options; each->name != NULL; each++)
        if (!each->hidden && ss_nearer(letters, each->name + 2, &least))
            best = each;
    return best == NULL
               ? wrong(args, "There is no option \"%s\".", SS_SHOWN(name))
               : wrong(args, "There is no option \"%s\"; did you mean %s?", SS_SHOWN(name), best->name);
}

/* The value behind the name: after `=`, or the next argument. */
static int take_value(ss_args *args, const ss_arg_option *option, const char *value) {
    if (value == NULL) {
        if (args->at >= args->argc)
            return wrong(args, "%s wants a value.", option->name);
        value = args->argv[args->at];
        if (strncmp(value, "--", 2) == 0)
            return wrong(args, "%s wants a value, but %s stands behind it; write %s=VALUE when that is meant.",
                         option->name, SS_SHOWN(value), option->name);
        args->at++;
    }
    if (*value == '\0')
        return wrong(args, "%s wants a value, and was given an empty one.", option->name);
    args->value = value;
    return option->id;
}

int ss_args_next(ss_args *args) {
    char name[64];

    args->value = NULL;
    if (args->at < args->argc && !args->words_only && strcmp(args->argv[args->at], "--") == 0) {
        args->words_only = true;
        args->at++;
    }
    if (args->at >= args->argc)
        return SS_ARG_END;
    const char *text = args->argv[args->at++];
    if (args->words_only || text[0] != '-' || text[1] == '\0') {
        args->value = text;
        return SS_ARG_WORD;
    }
    const char *equals = strchr(text, '=');
    size_t len = equals != NULL ? (size_t)(equals - text) : strlen(text);
    if (len >= sizeof name)
        return wrong(args, "There is no option \"%s\".", SS_SHOWN(text));
    memcpy(name, text, len);
    name[len] = '\0';
    const ss_arg_option *option = args->options;
    while (option->name != NULL && strcmp(option->name, name) != 0)
        option++;
    if (option->name == NULL)
        return unknown(args, name);
    if (args->seen & UINT64_C(1) << option->id)
        return wrong(args, "%s stands twice; say it once.", option->name);
    args->seen |= UINT64_C(1) << option->id;
    if (option->wants_value)
        return take_value(args, option, equals != NULL ? equals + 1 : NULL);
    return equals == NULL ? option->id : wrong(args, "%s takes no value.", option->name);
}
