/*
 * Every block of the heap that is given back is zeroed first, whoever had it: our own buffers, SQLite's
 * pages, libevent's. So no key and no message stays in free memory, and `lock` leaves none behind. The linker
 * binds free() and realloc() of all libraries to these; what is not defined here stays the system's.
 */
#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif

/* The sanitizers bring an allocator of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || HAS_FEATURE(address_sanitizer) ||       \
        HAS_FEATURE(thread_sanitizer) || !defined(__linux__)
typedef int wipe_is_off;
#else

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__

extern void __libc_free(void *p);

void free(void *p)
{
    if (!p)
        return;
    explicit_bzero(p, malloc_usable_size(p));
    __libc_free(p);
}

/* Moves always: growing in place would be quicker, but the system's realloc() does not wipe what it leaves.
 */
void *realloc(void *p, size_t n)
{
    size_t have = p ? malloc_usable_size(p) : 0;
    void *moved;

    if (p && n == 0) {
        free(p);
        return NULL;
    }
    if (p && n <= have && n >= have / 2)
        return p;
    moved = malloc(n);
    if (moved && p) {
        memcpy(moved, p, n < have ? n : have);
        free(p);
    }
    return moved;
}

#endif
#endif
