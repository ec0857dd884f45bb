/*
 * aead_libcrypto.h - ChaCha20-Poly1305 by libcrypto, one packet after the other.
 *
 * Ownership: the two contexts are the holder's, from init to done, which wipes them. Threads: one at a time for each
 * direction.
 */
#ifndef MH_AEAD_LIBCRYPTO_H
#define MH_AEAD_LIBCRYPTO_H

#include "aead.h"

#include <openssl/types.h>

typedef struct {
    EVP_CIPHER_CTX *seal, *open;
} mh_libcrypto;

bool mh_libcrypto_init(mh_libcrypto *k, const uint8_t key[MH_KEY_LEN]); /* false: out of memory, or no such cipher */
void mh_libcrypto_done(mh_libcrypto *k);                                /* also after a failed init */

/* As mh_aead_seal and mh_aead_open. */
size_t mh_libcrypto_seal(mh_libcrypto *k, mh_aead_job *jobs, size_t n);
size_t mh_libcrypto_open(mh_libcrypto *k, mh_aead_job *jobs, size_t n);

#endif
