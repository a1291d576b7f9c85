/* select: which relations are captured. Sources ask while they resolve the file's patterns. */
#include "agents/select.h"

static bool any_match(const ss_strings *patterns, const char *name) {
    for (size_t i = 0; patterns != NULL && i < patterns->count; i++)
        if (ss_pattern_match(patterns->items[i], name))
            return true;
    return false;
}

bool ss_select_match(const ss_strings *include, const ss_strings *exclude, const char *name) {
    bool everything = include == NULL || include->count == 0;

    return (everything || any_match(include, name)) && !any_match(exclude, name);
}
