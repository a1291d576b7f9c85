/* Two libraries forget to look whether they got memory; here is what the programs do about it.
 *
 * jansson's parser goes on with a text that lost characters, and writes beyond its buffers. So its allocator waits for memory a
 * while, and then ends the program: its supervisor starts it again. libevent does not tell when it could not arm the writing of
 * what is queued: so writing is asked for each time. */
#ifndef SIDESPOOL_PATIENT_H
#define SIDESPOOL_PATIENT_H

#include "sidespool/error.h"
#include "sidespool/log.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline void *ss_patient_malloc(size_t size) {
    const struct timespec pause = {0, 50000000};
    for (int tries = 0; tries < 20; tries++) {
        void *memory = malloc(size);
        if (memory != NULL)
            return memory;
        (void)nanosleep(&pause, NULL);
    }
    SS_LOG(SS_ERROR, "no_memory", SS_S("code", "SS-SYS-0001"), SS_S("error", "there is no memory for a message in JSON; this process ends"));
    _exit(SS_EXIT_IO);
}

/* First of all in main(), before threads. */
static inline void ss_patient_json(void) {
    json_set_alloc_funcs(ss_patient_malloc, free);
}

/* False: some of it is lost, or will not be written; end the connection. */
static inline bool ss_link_write(struct bufferevent *link, const char *text, size_t len) {
    return evbuffer_add(bufferevent_get_output(link), text, len) == 0 && bufferevent_enable(link, EV_WRITE) == 0;
}

static inline bool ss_link_line(struct bufferevent *link, const char *text) {
    return evbuffer_add_printf(bufferevent_get_output(link), "%s\n", text) > 0 && bufferevent_enable(link, EV_WRITE) == 0;
}

#endif
