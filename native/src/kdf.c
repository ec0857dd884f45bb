/*
 * kdf.c - KDF2 by libcrypto's HMAC over BLAKE2s-256:
 *   t0 = HMAC(key, input);  first = HMAC(t0, 0x1);  second = HMAC(t0, first || 0x2)
 */
#include "kdf.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

static bool hmac(EVP_MAC_CTX *ctx, const uint8_t key[MH_KEY_LEN], const uint8_t *data, size_t len,
                 uint8_t out[MH_KEY_LEN]) {
    char digest[] = "BLAKE2S-256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    size_t out_len = 0;
    return EVP_MAC_init(ctx, key, MH_KEY_LEN, params) == 1 && EVP_MAC_update(ctx, data, len) == 1 &&
           EVP_MAC_final(ctx, out, &out_len, MH_KEY_LEN) == 1 && out_len == MH_KEY_LEN;
}

bool mh_kdf2(const uint8_t key[MH_KEY_LEN], const uint8_t *input, size_t input_len, uint8_t first[MH_KEY_LEN],
             uint8_t second[MH_KEY_LEN]) {
    uint8_t t0[MH_KEY_LEN];
    uint8_t block[MH_KEY_LEN + 1]; /* the former output, then the counter byte */
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
    bool ok = ctx && hmac(ctx, key, input, input_len, t0);
    if (ok) {
        block[0] = 1;
        ok = hmac(ctx, t0, block, 1, first);
    }
    if (ok) {
        memcpy(block, first, MH_KEY_LEN);
        block[MH_KEY_LEN] = 2;
        ok = hmac(ctx, t0, block, sizeof block, second);
    }
    EVP_MAC_CTX_free(ctx); /* clears the key material in it */
    EVP_MAC_free(mac);
    mh_wipe(t0, sizeof t0);
    mh_wipe(block, sizeof block);
    if (!ok) {
        mh_wipe(first, MH_KEY_LEN);
        mh_wipe(second, MH_KEY_LEN);
    }
    return ok;
}
