/*
 * For the check of constant running time only (tests/ct): marks what the protocol makes public though it was
 * computed from secrets, such as whether a tag was right. In every other build the macros are nothing.
 */
#ifndef E2EE_CT_H
#define E2EE_CT_H

#ifdef E2EED_CT_CHECK
#include <valgrind/memcheck.h>
#define CT_PUBLIC(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))
#else
#define CT_PUBLIC(p, n) ((void)0)
#endif

#endif
