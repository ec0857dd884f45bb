/*
 * kdf.h - the paper's KDF2 (section 5.4: HKDF with HMAC-BLAKE2s), for the transport keys alone.
 *
 * It is native so that the transport keys never exist in Python; the handshake's other derivations live in engine/wg.
 * Threads: no state.
 */
#ifndef MH_KDF_H
#define MH_KDF_H

#include "mh.h"

/* (first, second) = KDF2(key, input). Intermediates are wiped. false: libcrypto has no HMAC or BLAKE2s, or no memory;
 * both outputs are zero then. */
bool mh_kdf2(const uint8_t key[MH_KEY_LEN], const uint8_t *input, size_t input_len, uint8_t first[MH_KEY_LEN],
             uint8_t second[MH_KEY_LEN]);

#endif
