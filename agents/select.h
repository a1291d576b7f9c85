/* Which relations the file's `tables:` selects. */
#ifndef AGENTS_SELECT_H
#define AGENTS_SELECT_H

#include "sidespool/option.h"

/* name is "namespace.relation". No include patterns: everything that is not excluded. */
bool ss_select_match(const ss_strings *include, const ss_strings *exclude, const char *name);

#endif
