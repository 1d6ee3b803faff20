/* The directory of the state: ours alone, and used by one daemon at a time. */
#ifndef E2EE_STATEDIR_H
#define E2EE_STATEDIR_H

#include "base.h"

/*
 * Makes dir (and missing parents, mode 0700), checks that it is ours and closed to others, locks dir/lock and
 * makes an empty dir/state.db of mode 0600 if there is none. *ret_lock_fd holds the lock until it is closed;
 * the caller owns it. STORE_LOCKED if another process has it; -EPERM for the wrong owner or mode; negative
 * errno. *ret_text explains any result but 0.
 */
int statedir_open(const char *dir, int *ret_lock_fd, const char **ret_text) MUST_USE;

#endif
