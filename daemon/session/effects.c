#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "state.h"

static struct effect *effect_new(struct engine *e, enum effect_kind kind)
{
    struct effect_node *node = calloc(1, sizeof(*node));
    if (!node)
        return NULL;
    node->effect.kind = kind;
    buf_init(&node->effect.data, EFFECT_MAX_DATA);
    STAILQ_INSERT_TAIL(&e->effects, node, next);
    return &node->effect;
}

int effect_push(struct engine *e, enum effect_kind kind, const void *data, size_t n)
{
    struct effect *f = effect_new(e, kind);
    if (!f)
        return -ENOMEM;
    buf_bytes(&f->data, data, n);
    return buf_status(&f->data);
}

int effect_text(struct engine *e, enum effect_kind kind, const char *text, uint32_t retry_after_ms)
{
    struct effect *f = effect_new(e, kind);
    if (!f)
        return -ENOMEM;
    f->retry_after_ms = retry_after_ms;
    (void)snprintf(f->text, sizeof(f->text), "%s", text);
    return 0;
}

int answer_ok(struct engine *e, uint64_t ticket, const struct buf *result)
{
    int r = result ? buf_status(result) : 0;
    struct effect *f;
    if (!ticket)
        return 0;
    if (r == -EMSGSIZE || (r == 0 && result && result->len > EFFECT_MAX_DATA))
        return answer_fail(e, ticket, API_TOO_LARGE, 0,
                "the result is longer than an answer may be, %u bytes; ask for less", EFFECT_MAX_DATA);
    if (r < 0)
        return r;
    f = effect_new(e, EFFECT_ANSWER);
    if (!f)
        return -ENOMEM;
    f->ticket = ticket;
    if (result)
        buf_bytes(&f->data, result->data, result->len);
    else
        mp_put_map(&f->data, 0);
    return buf_status(&f->data);
}

int answer_fail(struct engine *e, uint64_t ticket, enum api_error error, uint32_t retry_after_ms,
        const char *fmt, ...)
{
    struct effect *f;
    va_list ap;
    if (!ticket)
        return 0;
    f = effect_new(e, EFFECT_ANSWER);
    if (!f)
        return -ENOMEM;
    f->ticket = ticket;
    f->error = error;
    f->retry_after_ms = retry_after_ms;
    va_start(ap, fmt);
    (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
    return 0;
}

struct effect *engine_next_effect(struct engine *e)
{
    struct effect_node *node = STAILQ_FIRST(&e->effects);
    if (!node)
        return NULL;
    STAILQ_REMOVE_HEAD(&e->effects, next);
    return &node->effect;
}

void effect_free(struct effect *f)
{
    if (!f)
        return;
    buf_done(&f->data);
    free(f); /* the first member of its node */
}
