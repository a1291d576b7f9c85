/* `<source>/selected`: which tables are captured, and which once were and left. It is what tells a table
 * that comes back from one that was never there: a route may still hold rows of the former, and what it
 * changed while it was away is in no stream.
 *
 * Every call is safe in any thread. Changes other than a copy's are made by the capture thread alone, so
 * that what a plan says still holds when it is accepted. */
#ifndef AGENTS_SELECTED_H
#define AGENTS_SELECTED_H

#include "sidespool/source.h"
#include <jansson.h>

typedef struct ss_selected ss_selected;

typedef enum {
    SS_WHOLE = 0,
    SS_GAP_AWAY,        /* it was not captured for a while */
    SS_GAP_ANEW,        /* dropped, and another one created under its name */
    SS_GAP_UNPUBLISHED, /* the source says nothing of it any more */
    SS_GAP_UNKNOWN,     /* there is no file that could tell */
    SS_GAP_REASONS
} ss_selected_gap;
const char *ss_selected_reason(ss_selected_gap why);

typedef struct {
    json_t *after;        /* the set as it will be */
    uint8_t *why;         /* an ss_selected_gap for each table that was given */
    size_t gaps, changes; /* tables with a gap; entries that differ from what is saved */
    bool save;
} ss_selected_plan;

/* dir: the source's directory, copied. The file is read by the first call that needs it. */
SS_MUST ss_status ss_selected_new(const char *dir, ss_selected **ret, ss_error *reterr);
void ss_selected_free(ss_selected *selected);

/* Compares what the source selects now with what is saved; saves nothing. `adopt`: the stream has just told
 * of a new history (or of the first), which says more than any gap of a table. */
SS_MUST ss_status ss_selected_compare(ss_selected *selected, const ss_source_table *tables, size_t count,
                                      bool adopt, ss_selected_plan *ret, ss_error *reterr);
/* Durable when it returns. To be called when the gaps that the plan names are durable in the stream. */
SS_MUST ss_status ss_selected_accept(ss_selected *selected, const ss_selected_plan *plan, ss_error *reterr);
void ss_selected_plan_done(ss_selected_plan *plan);

/* A copy of these tables is about to begin: they are captured from here on. Durable when it returns, before
 * the copy's CopyBegin. SS_RETRY: one of them broke since the last comparison, which has to come first. */
SS_MUST ss_status ss_selected_copied(ss_selected *selected, const ss_snapshot_table *tables, size_t count,
                                     ss_error *reterr);
/* The source found that what it says of this table is not whole. Durable when it returns, so that the next
 * start writes the TableGap if this life does not get so far. */
SS_MUST ss_status ss_selected_broken(ss_selected *selected, const char *ns, const char *name,
                                     ss_error *reterr);

/* [{"table":"ns.name","since":us}] of those that left, at most `most`. NULL: no memory. */
json_t *ss_selected_left(ss_selected *selected, size_t most);

#endif
