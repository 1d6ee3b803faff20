/* Inside the world of the scenarios. */
#ifndef E2EE_SIM_IMPL_H
#define E2EE_SIM_IMPL_H

#include "sim.h"
#include "state.h"

void *sim_must(void *p);
/* sim_check.c: what must hold of all that a node says and tells. */
/* To stderr, where SIM_TRACE is set. */
void sim_trace(const struct sim *s, int node, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void sim_digest(struct sim *s, const void *p, size_t n);
/* True if a committed record of the map has the bytes in it. */
bool sim_stored(const struct sim_node *n, uint8_t map, struct span needle);
struct sim_message *sim_message_of(struct sim *s, int from, const char *id);
/* Number of the last event that has been read. */
uint64_t sim_mirrored(const struct sim_node *n);
/* Reads what is new in a node's log; the turn has been committed. */
void sim_read_log(struct sim *s, int node);
void sim_check_sent(struct sim *s, int node, const uint8_t *p, size_t n);

#endif
