/*
 * What the link gives up before it reads a byte from the network. Each step is taken as far as the kernel has
 * it; steps that every supported kernel has must succeed.
 */
#ifndef E2EE_LINK_SANDBOX_H
#define E2EE_LINK_SANDBOX_H

#include "base.h"

/*
 * At the start: standard descriptors exist, all others but LINK_FD are closed, the environment is empty (it
 * could name certificate stores and resolvers), no new privileges, no core dumps, not traceable, no further
 * processes, few descriptors, and SIGKILL when the thread that started the link ends. 0 or -errno.
 */
int sandbox_enter(void) MUST_USE;
/* No file can be written, made, removed or executed from now on (Landlock, Linux 5.13 and later). */
void sandbox_read_only(void);
/* No file can be opened any more, for good (Landlock). */
void sandbox_no_files(void);

#endif
