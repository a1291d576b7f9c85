/* The system calls by which the spool reaches the disk, counted, and made to fail or to kill at a chosen one.
 *
 * Defined in the test program, these stand before libc's for liblmdb as well. Syncs are counted and left out: what these
 * tests kill is a process, not the machine, and the kernel keeps what a killed process wrote. */
#ifndef SPOOL_MODEL_IO_H
#define SPOOL_MODEL_IO_H

#include <stdint.h>

extern _Atomic uint64_t io_calls; /* writes, syncs, renames, unlinks, truncates so far */
extern uint64_t io_kill_at;       /* SIGKILL in the middle of that call; 0: never */
extern uint64_t io_fail_at;       /* from that call on… */
extern uint64_t io_fail_calls;    /* …so many calls fail… */
extern int io_fail_errno;         /* …with this */
extern int io_real_syncs;

#endif
