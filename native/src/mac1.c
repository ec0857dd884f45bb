/* mac1.c - keyed BLAKE2s with 16 bytes of output, by libcrypto: the key is set once, each message only starts anew. */
#include "mac1.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>

#define MAC_LEN 16

struct mh_mac1 {
    EVP_MAC_CTX *ctx;
};

mh_mac1 *mh_mac1_new(const uint8_t key[MH_KEY_LEN]) {
    size_t size = MAC_LEN;
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
        OSSL_PARAM_construct_end(),
    };
    mh_mac1 *m = calloc(1, sizeof *m);
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    const bool ok = m && mac && (m->ctx = EVP_MAC_CTX_new(mac)) && EVP_MAC_init(m->ctx, key, MH_KEY_LEN, params) == 1;
    EVP_MAC_free(mac); /* the context keeps its own reference */
    if (ok) return m;
    mh_mac1_free(m);
    return NULL;
}

void mh_mac1_free(mh_mac1 *m) {
    if (!m) return;
    EVP_MAC_CTX_free(m->ctx);
    free(m);
}

bool mh_mac1_right(mh_mac1 *m, const uint8_t *message, size_t len) {
    uint8_t mac[MAC_LEN];
    size_t out_len = 0;
    if (len < 2 * MAC_LEN) return false;
    const size_t covered = len - 2 * MAC_LEN;
    return EVP_MAC_init(m->ctx, NULL, 0, NULL) == 1 && EVP_MAC_update(m->ctx, message, covered) == 1 &&
           EVP_MAC_final(m->ctx, mac, &out_len, sizeof mac) == 1 && out_len == sizeof mac &&
           CRYPTO_memcmp(mac, message + covered, sizeof mac) == 0;
}
