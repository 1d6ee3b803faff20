/* The link's process: where its program is, how it starts, and how it is buried. */
#ifndef E2EE_TRANSPORT_CHILD_H
#define E2EE_TRANSPORT_CHILD_H

#include "transport.h"

struct child {
    pid_t pid; /* 0: none */
    int fd;    /* our end of the socketpair; -1: closed */
};

/* The scheme before "://" as the link program's name has it. TRANSPORT_BAD_URL. */
int child_scheme(const char *url, char ret_scheme[TRANSPORT_MAX_SCHEME + 1]) MUST_USE;
/*
 * Starts e2eed-link-SCHEME for url with the other end as descriptor 3, standard error as ours, and nothing
 * else of this process: no descriptors, no environment, no signal dispositions. 0 or -errno; on failure the
 * path that was tried is in ret_path.
 */
int child_start(struct child *c, const char *link_dir, const char *url, const char *ca_file,
        char ret_path[static 4096]) MUST_USE;
/* SIGKILL. The process is still to be reaped. */
void child_kill(const struct child *c);
/* Closes our end. */
void child_close(struct child *c);
/* True when the process has ended (its status in *ret_status) or there is none. Never blocks. */
bool child_reap(struct child *c, int *ret_status);
/* Kills, waits, and closes. */
void child_done(struct child *c);

#endif
