#include "failalloc.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static unsigned long remaining; /* 0: nothing fails */
static bool fired;
static long live;
static void (*see_freed)(const void *p, size_t n);

void failalloc_arm(unsigned long k)
{
    remaining = k;
    fired = false;
    live = 0;
}

bool failalloc_disarm(void)
{
    remaining = 0;
    return fired;
}

long failalloc_live(void)
{
    return live;
}

void failalloc_on_free(void (*see)(const void *p, size_t n))
{
    see_freed = see;
}

static void show(const void *p)
{
    if (see_freed && p)
        see_freed(p, malloc_usable_size((void *)(uintptr_t)p));
}

static bool fails(void)
{
    if (remaining == 0 || --remaining > 0)
        return false;
    fired = true;
    return true;
}

void *__wrap_malloc(size_t n)
{
    void *p = fails() ? NULL : __real_malloc(n);

    live += p != NULL;
    return p;
}

void *__wrap_calloc(size_t count, size_t n)
{
    void *p = fails() ? NULL : __real_calloc(count, n);

    live += p != NULL;
    return p;
}

void *__wrap_realloc(void *p, size_t n)
{
    void *q;

    show(p);
    q = fails() ? NULL : __real_realloc(p, n);
    live += !p && q;
    return q;
}

void __wrap_free(void *p)
{
    show(p);
    live -= p != NULL;
    __real_free(p);
}
