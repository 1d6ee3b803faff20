#include "queue.h"

#include <errno.h>
#include <string.h>

struct queue_packet {
    struct queue_packet *next;
    size_t n;
    uint8_t bytes[];
};

void queue_init(struct queue *q)
{
    *q = (struct queue){.tail = &q->head};
}

void queue_done(struct queue *q)
{
    while (q->head)
        queue_pop(q);
}

int queue_push(struct queue *q, enum link_kind kind, const void *p, size_t n)
{
    if (q->packets >= TRANSPORT_QUEUE_PACKETS || n + 1 > TRANSPORT_QUEUE_BYTES - q->bytes)
        return TRANSPORT_FULL;
    struct queue_packet *packet = malloc(sizeof(*packet) + 1 + n);
    if (!packet)
        return -ENOMEM;
    packet->next = NULL;
    packet->n = 1 + n;
    packet->bytes[0] = (uint8_t)kind;
    memcpy(packet->bytes + 1, p, n);
    *q->tail = packet;
    q->tail = &packet->next;
    q->bytes += packet->n;
    q->packets++;
    return 0;
}

const uint8_t *queue_first(const struct queue *q, size_t *ret_n)
{
    if (!q->head)
        return NULL;
    *ret_n = q->head->n;
    return q->head->bytes;
}

void queue_pop(struct queue *q)
{
    struct queue_packet *packet = q->head;
    q->head = packet->next;
    if (!q->head)
        q->tail = &q->head;
    q->bytes -= packet->n;
    q->packets--;
    free(packet);
}

bool queue_half_empty(const struct queue *q)
{
    return q->bytes <= TRANSPORT_QUEUE_BYTES / 2 && q->packets <= TRANSPORT_QUEUE_PACKETS / 2;
}
