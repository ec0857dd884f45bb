/*
 * aead.h - ChaCha20-Poly1305 (RFC 8439, WireGuard's nonce: 4 zero bytes, 64-bit little-endian counter, empty AD)
 * over bursts, in place.
 *
 * Which code does it is chosen once, at the first need: "avx512" or "avx2" where the CPU has it (aead_wide.h), else
 * "libcrypto" (aead_libcrypto.h); the environment variable MOLEHILL_AEAD asks for one of them by name. What it asks
 * for and cannot have is an error and never another kernel: there are then no keys at all. Whatever was chosen,
 * libcrypto takes the bursts that are too small for it.
 *
 * Ownership: a key owns its cipher contexts until mh_aead_key_free(), which wipes them. Threads: any number
 * may seal at a time (libcrypto's part in turns), one may open (the key's holder, mh_session, locks).
 */
#ifndef MH_AEAD_H
#define MH_AEAD_H

#include "mh.h"

typedef struct mh_aead_key mh_aead_key;

/* One packet: data[0..len) is plaintext (seal) or ciphertext (open), data[len..len+MH_TAG_LEN) is the tag. */
typedef struct {
    uint8_t *data;
    uint32_t len;
    bool ok; /* out: sealed, or authentic; data[0..len) of a job that is not ok is zeroed */
    uint64_t counter;
} mh_aead_job;

const char *mh_aead_kernel(void);    /* the name of the chosen kernel; NULL: there is none, mh_aead_complaint says why */
const char *mh_aead_complaint(void); /* one sentence about the choice: an error, or a kernel passed over; NULL: none */

/* NULL: out of memory, no such cipher in libcrypto, or no kernel. */
mh_aead_key *mh_aead_key_new(const uint8_t key[MH_KEY_LEN]);
/* With a kernel by name, for tests and benchmarks. NULL also: not on this machine. */
mh_aead_key *mh_aead_key_new_with(const char *kernel, const uint8_t key[MH_KEY_LEN]);
void mh_aead_key_free(mh_aead_key *key);                     /* NULL is fine */

/* Both return how many jobs are ok; a bad job harms no other. */
size_t mh_aead_seal(mh_aead_key *key, mh_aead_job *jobs, size_t n);
size_t mh_aead_open(mh_aead_key *key, mh_aead_job *jobs, size_t n);

#endif
