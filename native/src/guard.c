/*
 * guard.c - the MACs by libcrypto's keyed BLAKE2s; the cookie sealed with XChaCha20-Poly1305, which is
 * HChaCha20 (draft-irtf-cfrg-xchacha, section 2.2) in front of libcrypto's ChaCha20-Poly1305.
 *
 *   cookie = MAC(secret, source address || port),  reply = XAEAD(HASH("cookie--" || public), nonce, cookie, mac1)
 */
#include "guard.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

#define MAC_LEN 16
#define NONCE_LEN 24
#define SECRET_MAX_AGE_NS UINT64_C(120000000000) /* COOKIE_SECRET_MAX_AGE: engine/wg/constants.py */

struct mh_guard {
    pthread_mutex_t lock;
    EVP_MAC_CTX *mac1, *source, *mac2; /* keyed by: our public key, the secret, a cookie */
    EVP_CIPHER_CTX *seal;
    uint8_t cookie_key[MH_KEY_LEN];
    uint64_t secret_until_ns; /* 0: none yet */
};

static bool hash_labelled(const char label[8], const uint8_t public_key[MH_KEY_LEN], uint8_t out[MH_KEY_LEN]) {
    uint8_t input[8 + MH_KEY_LEN];
    memcpy(input, label, 8);
    memcpy(input + 8, public_key, MH_KEY_LEN);
    return EVP_Digest(input, sizeof input, out, NULL, EVP_blake2s256(), NULL) == 1;
}

static bool rekey(EVP_MAC_CTX *ctx, const uint8_t *key, size_t len) {
    size_t size = MAC_LEN;
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
        OSSL_PARAM_construct_end(),
    };
    return EVP_MAC_init(ctx, key, len, params) == 1;
}

/* Under the key that the context has. */
static bool mac(EVP_MAC_CTX *ctx, const uint8_t *data, size_t len, uint8_t out[MAC_LEN]) {
    size_t out_len = 0;
    return EVP_MAC_init(ctx, NULL, 0, NULL) == 1 && EVP_MAC_update(ctx, data, len) == 1 &&
           EVP_MAC_final(ctx, out, &out_len, MAC_LEN) == 1 && out_len == MAC_LEN;
}

mh_guard *mh_guard_new(const uint8_t public_key[MH_KEY_LEN]) {
    uint8_t mac1_key[MH_KEY_LEN];
    mh_guard *g = calloc(1, sizeof *g);
    EVP_MAC *blake2s = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    if (g) pthread_mutex_init(&g->lock, NULL); /* a default mutex: cannot fail on Linux */
    if (g && blake2s) {
        g->mac1 = EVP_MAC_CTX_new(blake2s);
        g->source = EVP_MAC_CTX_new(blake2s);
        g->mac2 = EVP_MAC_CTX_new(blake2s);
        g->seal = EVP_CIPHER_CTX_new();
    }
    EVP_MAC_free(blake2s); /* the contexts keep their own references */
    if (g && g->mac1 && g->source && g->mac2 && g->seal && hash_labelled("mac1----", public_key, mac1_key) &&
        hash_labelled("cookie--", public_key, g->cookie_key) && rekey(g->mac1, mac1_key, sizeof mac1_key) &&
        EVP_EncryptInit_ex(g->seal, EVP_chacha20_poly1305(), NULL, NULL, NULL) == 1)
        return g;
    mh_guard_free(g);
    return NULL;
}

void mh_guard_free(mh_guard *g) {
    if (!g) return;
    EVP_MAC_CTX_free(g->mac1); /* clears what is in it, as the others do */
    EVP_MAC_CTX_free(g->source);
    EVP_MAC_CTX_free(g->mac2);
    EVP_CIPHER_CTX_free(g->seal);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

bool mh_guard_mac1(mh_guard *g, const uint8_t *message, size_t len) {
    uint8_t right[MAC_LEN];
    if (len < 2 * MAC_LEN) return false;
    const size_t covered = len - 2 * MAC_LEN;
    pthread_mutex_lock(&g->lock);
    const bool made = mac(g->mac1, message, covered, right);
    pthread_mutex_unlock(&g->lock);
    return made && CRYPTO_memcmp(right, message + covered, MAC_LEN) == 0;
}

/* Caller holds the lock. */
static bool cookie_of(mh_guard *g, const mh_endpoint *from, uint64_t now_ns, uint8_t cookie[MAC_LEN]) {
    uint8_t secret[MH_KEY_LEN], source[18];
    const size_t address = from->family == 4 ? 4 : 16;
    if (now_ns >= g->secret_until_ns) {
        if (getrandom(secret, sizeof secret, 0) != sizeof secret) return false;
        const bool taken = rekey(g->source, secret, sizeof secret);
        mh_wipe(secret, sizeof secret);
        if (!taken) return false;
        g->secret_until_ns = now_ns + SECRET_MAX_AGE_NS;
    }
    memcpy(source, from->addr, address);
    mh_put16be(source + address, from->port);
    return mac(g->source, source, address + 2, cookie);
}

bool mh_guard_mac2(mh_guard *g, const uint8_t *message, size_t len, const mh_endpoint *from, uint64_t now_ns) {
    uint8_t cookie[MAC_LEN], right[MAC_LEN];
    static const uint8_t none[MAC_LEN];
    if (len < 2 * MAC_LEN) return false;
    const size_t covered = len - MAC_LEN;
    if (memcmp(message + covered, none, MAC_LEN) == 0) return false; /* what is not there costs nothing */
    pthread_mutex_lock(&g->lock);
    const bool made = cookie_of(g, from, now_ns, cookie) && rekey(g->mac2, cookie, MAC_LEN) &&
                      mac(g->mac2, message, covered, right);
    pthread_mutex_unlock(&g->lock);
    return made && CRYPTO_memcmp(right, message + covered, MAC_LEN) == 0;
}

static uint32_t turn_left(uint32_t v, int bits) { return (v << bits) | (v >> (32 - bits)); }

static void quarter_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
    *a += *b, *d = turn_left(*d ^ *a, 16);
    *c += *d, *b = turn_left(*b ^ *c, 12);
    *a += *b, *d = turn_left(*d ^ *a, 8);
    *c += *d, *b = turn_left(*b ^ *c, 7);
}

static void hchacha20(const uint8_t key[32], const uint8_t nonce[16], uint8_t subkey[32]) {
    uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}; /* "expand 32-byte k" */
    for (int i = 0; i < 8; i++) s[4 + i] = mh_get32le(key + 4 * i);
    for (int i = 0; i < 4; i++) s[12 + i] = mh_get32le(nonce + 4 * i);
    for (int i = 0; i < 10; i++) {
        for (int k = 0; k < 4; k++) quarter_round(&s[k], &s[4 + k], &s[8 + k], &s[12 + k]);
        for (int k = 0; k < 4; k++)
            quarter_round(&s[k], &s[4 + (k + 1) % 4], &s[8 + (k + 2) % 4], &s[12 + (k + 3) % 4]);
    }
    for (int i = 0; i < 4; i++) {
        mh_put32le(subkey + 4 * i, s[i]);
        mh_put32le(subkey + 16 + 4 * i, s[12 + i]);
    }
    mh_wipe(s, sizeof s);
}

bool mh_guard_reply(mh_guard *g, const uint8_t *message, size_t len, const mh_endpoint *from, uint64_t now_ns,
                    uint8_t reply[MH_COOKIE_LEN]) {
    uint8_t cookie[MAC_LEN], subkey[MH_KEY_LEN], short_nonce[12] = {0};
    int n = 0;
    if (len < 8 + 2 * MAC_LEN) return false;
    mh_put32le(reply, 3);
    memcpy(reply + 4, message + 4, 4); /* its sender index is our receiver */
    uint8_t *nonce = reply + 8, *sealed = nonce + NONCE_LEN;
    if (getrandom(nonce, NONCE_LEN, 0) != NONCE_LEN) return false;
    hchacha20(g->cookie_key, nonce, subkey);
    memcpy(short_nonce + 4, nonce + 16, 8);
    pthread_mutex_lock(&g->lock);
    const bool ok = cookie_of(g, from, now_ns, cookie) &&
                    EVP_EncryptInit_ex(g->seal, NULL, NULL, subkey, short_nonce) == 1 &&
                    EVP_EncryptUpdate(g->seal, NULL, &n, message + len - 2 * MAC_LEN, MAC_LEN) == 1 &&
                    EVP_EncryptUpdate(g->seal, sealed, &n, cookie, MAC_LEN) == 1 &&
                    EVP_EncryptFinal_ex(g->seal, sealed + MAC_LEN, &n) == 1 &&
                    EVP_CIPHER_CTX_ctrl(g->seal, EVP_CTRL_AEAD_GET_TAG, MH_TAG_LEN, sealed + MAC_LEN) == 1;
    pthread_mutex_unlock(&g->lock);
    mh_wipe(subkey, sizeof subkey);
    return ok;
}
