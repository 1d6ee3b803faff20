/*
 * MessagePack for the generators of several targets.
 */
#ifndef E2EE_FUZZ_GEN_MP_H
#define E2EE_FUZZ_GEN_MP_H

#include "driver.h"

/* One value with at most `depth` levels of arrays and maps; now and then with a length or a type that is
 * wrong. */
void gen_mp_value(struct gen *g, unsigned depth);
/* A length head of str, bin, array or map in a form that fits, or sometimes not the shortest. */
enum gen_mp_kind { GEN_STR, GEN_BIN, GEN_ARRAY, GEN_MAP };
void gen_mp_head(struct gen *g, enum gen_mp_kind kind, uint64_t n);
void gen_mp_int(struct gen *g, uint64_t v);
void gen_mp_str(struct gen *g, const char *s);

#endif
