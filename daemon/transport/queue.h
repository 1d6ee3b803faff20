/* What waits to be sent to the link, in front of the socket's own buffer. Bounded in bytes and packets. */
#ifndef E2EE_TRANSPORT_QUEUE_H
#define E2EE_TRANSPORT_QUEUE_H

#include "transport.h"

struct queue_packet;
struct queue {
    struct queue_packet *head, **tail;
    size_t bytes; /* kind bytes included */
    uint32_t packets;
};

void queue_init(struct queue *q);
void queue_done(struct queue *q);
/* TRANSPORT_FULL over a bound, -ENOMEM. */
int queue_push(struct queue *q, enum link_kind kind, const void *p, size_t n) MUST_USE;
/* The bytes of the first packet, or NULL. */
const uint8_t *queue_first(const struct queue *q, size_t *ret_n);
void queue_pop(struct queue *q);
bool queue_half_empty(const struct queue *q);

#endif
