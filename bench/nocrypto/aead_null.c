/*
 * aead_null.c - the AEAD interface with the cryptography left out: sealing and opening cost nothing.
 *
 * Only for the benchmark's test build (bench/nocrypto.py puts it in place of native/src/aead.c in a copy of the
 * tree): the speed of the datapath with this is the ceiling that the real engine is measured against. It protects
 * nothing and must never be part of a module that is shipped.
 */
#include "aead.h"

#include <stdlib.h>

struct mh_aead_key {
    unsigned char unused;
};

mh_aead_key *mh_aead_key_new(const uint8_t key[MH_KEY_LEN])
{
    (void)key;
    return calloc(1, sizeof(mh_aead_key));
}

void mh_aead_key_free(mh_aead_key *key)
{
    free(key);
}

mh_aead_key *mh_aead_key_new_with(const char *kernel, const uint8_t key[MH_KEY_LEN])
{
    (void)kernel;
    return mh_aead_key_new(key);
}

const char *mh_aead_kernel(void)
{
    return "none";
}

const char *mh_aead_complaint(void)
{
    return NULL;
}

size_t mh_aead_seal(mh_aead_key *key, mh_aead_job *jobs, size_t n)
{
    (void)key;
    for (size_t i = 0; i < n; i++)
        jobs[i].ok = true;
    return n;
}

size_t mh_aead_open(mh_aead_key *key, mh_aead_job *jobs, size_t n)
{
    return mh_aead_seal(key, jobs, n);
}
