/*
 * Lengths of padded plaintexts: multiples of 256 bytes up to 4 KiB, Padmé above (Nikitin et al., "Reducing
 * Metadata Leakage from Encrypted Files and Communication with PURBs", PETS 2019, algorithm 1).
 */
#ifndef E2EE_PADDING_H
#define E2EE_PADDING_H

#include <stddef.h>

#define PADDING_STEP 256u
#define PADDING_LINEAR_MAX 4096u

/* The length that n bytes are padded to; n below SIZE_MAX / 2. padded_length(0) is 0. */
size_t padded_length(size_t n);

#endif
