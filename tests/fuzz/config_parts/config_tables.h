/* The tables of the target `config`. Agents and applier never meet in one source file, here neither. */
#ifndef TESTS_FUZZ_CONFIG_TABLES_H
#define TESTS_FUZZ_CONFIG_TABLES_H

#include "sidespool/option.h"
#include "tests/fuzz/fuzz.h"

/* Load the file and check what it gave. */
ss_status cfz_agent(const char *path, ss_error *err);
ss_status cfz_applier(const char *path, ss_error *err);

void cfz_check_strings(const ss_strings *strings); /* there, and UTF-8 */
bool cfz_is_name(const char *name);

#endif
