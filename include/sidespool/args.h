/* Command lines, read alike by every program: long options, spelt in full and at most once, anywhere between the words; all
 * after `--` are words. Nothing is accepted and ignored. */
#ifndef SIDESPOOL_ARGS_H
#define SIDESPOOL_ARGS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *name; /* "--route"; NULL ends a table */
    int id;           /* 1 to 63; options with the same id are one option */
    bool wants_value;
    bool hidden;      /* never suggested: for programs, or a short form */
} ss_arg_option;

enum { SS_ARG_END = 0, SS_ARG_WORD = -1, SS_ARG_WRONG = -2 };

typedef struct {
    const ss_arg_option *options;
    char **argv;
    int argc, at;
    bool words_only; /* `--` has been passed */
    uint64_t seen;   /* one bit for each id */
    const char *value; /* what the option was given, or the word; of argv */
    char problem[400]; /* after SS_ARG_WRONG: one sentence */
} ss_args;

/* Begins at argv[at]. */
void ss_args_init(ss_args *args, int argc, char **argv, int at, const ss_arg_option *options);
/* The next option's id, SS_ARG_WORD, SS_ARG_END or SS_ARG_WRONG. */
int ss_args_next(ss_args *args);

#endif
