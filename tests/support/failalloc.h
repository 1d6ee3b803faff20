/*
 * Fails one allocation of the code under test (e2ee_failalloc() in failalloc.cmake). A test runs the same
 * steps with k = 1, 2, … until nothing fails any more:
 *
 *     for (unsigned long k = 1;; k++) {
 *         failalloc_arm(k);
 *         r = steps();
 *         if (!failalloc_disarm())
 *             break;
 *         assert_int_equal(r, -ENOMEM);
 *     }
 *
 * One thread only.
 */
#ifndef E2EE_FAILALLOC_H
#define E2EE_FAILALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* The k-th allocation from now on fails (1 is the next one), once; counting of live blocks begins at 0. */
void failalloc_arm(unsigned long k);
/* Nothing fails any more. True if an allocation has failed since failalloc_arm(). */
bool failalloc_disarm(void);
/* Blocks allocated less blocks freed since failalloc_arm(): 0 where the steps gave everything back. */
long failalloc_live(void);
/* Sees each block (its usable size) just before free() and before realloc() may move it; NULL ends it. */
void failalloc_on_free(void (*see)(const void *p, size_t n));

#endif
