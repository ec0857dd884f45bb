/*
 * loops.c - what the native benchmarks repeat, so that Python's share of a measurement is one call a round.
 *
 * One measurement at a time: its state stands in static variables, made by a *_setup function.
 */
#include "allowedips.h"
#include "replay.h"
#include "session.h"

#include <dlfcn.h>
#include <openssl/evp.h>
#include <stdlib.h>

#define BURST 64
#define ROOM 16640
#define ADDRESSES 65536 /* so many that no branch predictor learns them */

static const uint8_t secret[32] = {1, 2, 3};
static uint8_t buffers[BURST][ROOM];
static mh_aead_job jobs[BURST];
static mh_aead_key *key;
static mh_session *sender, *receiver;
static EVP_CIPHER_CTX *raw;

int burst_setup(uint32_t len);
int kernel_setup(const char *kernel, uint32_t len);
int million_cycles(void);
uint64_t burst_ns(uint32_t what, uint32_t n);
int kernel_seal(uint32_t n);
int kernel_open(uint32_t n);
int sodium_setup(const char *library);
int sodium_seal(uint32_t n);
int aead_seal(void);
int aead_open(void);
int raw_seal(void);
int session_seal(void);
int session_open(void);
int replay_in_order(void);
int replay_shuffled(void);
int allowedips_setup(uint32_t prefixes, int family);
int allowedips_find(void);

/* Fresh keys, and BURST packets of len bytes. */
int burst_setup(uint32_t len) {
    static const uint8_t nonce[12];
    mh_aead_key_free(key);
    mh_session_free(sender);
    mh_session_free(receiver);
    EVP_CIPHER_CTX_free(raw);
    key = mh_aead_key_new(secret);
    sender = mh_session_new(secret, true, 1, 2, 0);
    receiver = mh_session_new(secret, false, 2, 1, 0);
    raw = EVP_CIPHER_CTX_new();
    for (size_t i = 0; i < BURST; i++)
        jobs[i] = (mh_aead_job){.data = buffers[i] + MH_DATA_HEADER_LEN, .len = len, .counter = i};
    return key && sender && receiver && raw && len + MH_DATA_OVERHEAD <= ROOM &&
           EVP_EncryptInit_ex(raw, EVP_chacha20_poly1305(), NULL, secret, nonce) == 1;
}

/* As burst_setup, with a kernel by name; 0: it is not there. Packets lie as on the wire, end to end. */
int kernel_setup(const char *kernel, uint32_t len) {
    if (!burst_setup(len))
        return 0;
    mh_aead_key_free(key);
    key = mh_aead_key_new_with(kernel, secret);
    for (size_t i = 0; i < BURST; i++)
        jobs[i].data = buffers[0] + i * (len + MH_DATA_OVERHEAD) + MH_DATA_HEADER_LEN;
    return key != NULL;
}

/* A chain of a million dependent additions: one a cycle. */
int million_cycles(void) {
    uint32_t chain = 0;
    for (uint32_t i = 0; i < 1000000; i++) {
        chain++;
        __asm__ volatile("" : "+r"(chain));
    }
    return chain == 1000000;
}

int kernel_seal(uint32_t n) { return mh_aead_seal(key, jobs, n) == n; }
int kernel_open(uint32_t n) { return mh_aead_open(key, jobs, n) == n; }

/* libsodium as PyNaCl brings it: its symbols are those of the extension module that Python has loaded. */
typedef int sodium_encrypt(unsigned char *c, unsigned long long *clen, const unsigned char *m, unsigned long long mlen,
                           const unsigned char *ad, unsigned long long adlen, const unsigned char *nsec,
                           const unsigned char *npub, const unsigned char *k);
static sodium_encrypt *sodium;

int sodium_setup(const char *library) {
    void *handle = dlopen(library, RTLD_NOW);
    sodium = handle ? (sodium_encrypt *)dlsym(handle, "crypto_aead_chacha20poly1305_ietf_encrypt") : NULL;
    return sodium != NULL;
}

int sodium_seal(uint32_t n) {
    uint8_t nonce[12] = {0};
    for (size_t i = 0; i < n; i++) {
        mh_put64le(nonce + 4, i);
        if (sodium(jobs[i].data, NULL, jobs[i].data, jobs[i].len, NULL, 0, NULL, nonce, secret) != 0)
            return 0;
    }
    return 1;
}

/* The time of one burst, clocked here: a call from Python takes longer than a packet. 0: it failed. */
uint64_t burst_ns(uint32_t what, uint32_t n) {
    if (what == 1 && !kernel_seal(n))
        return 0;
    const uint64_t begin = mh_now_ns();
    const int good = what == 0 ? kernel_seal(n) : what == 1 ? kernel_open(n) : sodium_seal(n);
    return good ? mh_now_ns() - begin : 0;
}

int aead_seal(void) { return mh_aead_seal(key, jobs, BURST) == BURST; }
int aead_open(void) { return mh_aead_open(key, jobs, BURST) == BURST; }
int session_seal(void) { return mh_session_seal(sender, jobs, BURST, 0) == BURST; }

int session_open(void) {
    uint8_t reasons[BURST];
    return mh_session_open(receiver, jobs, reasons, BURST, 0) == BURST;
}

/* The least that libcrypto can be asked for a packet: what aead_seal is compared with. */
int raw_seal(void) {
    uint8_t nonce[12] = {0};
    for (size_t i = 0; i < BURST; i++) {
        uint8_t *data = jobs[i].data;
        int done, rest;
        mh_put64le(nonce + 4, i);
        if (EVP_EncryptInit_ex(raw, NULL, NULL, NULL, nonce) != 1 ||
            EVP_EncryptUpdate(raw, data, &done, data, (int)jobs[i].len) != 1 ||
            EVP_EncryptFinal_ex(raw, data + done, &rest) != 1 ||
            EVP_CIPHER_CTX_ctrl(raw, EVP_CTRL_AEAD_GET_TAG, MH_TAG_LEN, data + jobs[i].len) != 1)
            return 0;
    }
    return 1;
}

/* 100 000 counters as they come on a good day, and with neighbours of 64 turned round. */
#define COUNTERS 100000
int replay_in_order(void) {
    mh_replay window;
    mh_replay_init(&window);
    for (uint64_t i = 0; i < COUNTERS; i++)
        if (!mh_replay_accept(&window, i))
            return 0;
    return 1;
}

int replay_shuffled(void) {
    mh_replay window;
    mh_replay_init(&window);
    for (uint64_t i = 0; i < COUNTERS / 64 * 64; i++)
        if (!mh_replay_accept(&window, i ^ 63))
            return 0;
    return 1;
}

static mh_allowedips *table;
static uint8_t addresses[ADDRESSES][16];
static bool ipv6;

static uint64_t random_u64(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(2685821657736338717);
}

/* A table as of a busy server: a default route, random /16 to /32 (IPv4) or /48 to /64 under 2000::/3 (IPv6);
 * three of four addresses looked up lie in one of the longer prefixes. */
int allowedips_setup(uint32_t n, int family) {
    mh_prefix *prefixes = calloc(n, sizeof *prefixes);
    if (!prefixes || n == 0)
        return 0;
    ipv6 = family == 6;
    for (uint32_t i = 0; i < n; i++) {
        prefixes[i].family = (uint8_t)family;
        prefixes[i].owner = &prefixes[i];
        mh_put32be(prefixes[i].addr, (uint32_t)(random_u64() >> 32));
        mh_put32be(prefixes[i].addr + 4, (uint32_t)(random_u64() >> 32));
        if (ipv6)
            prefixes[i].addr[0] = 0x20 | (prefixes[i].addr[0] & 0x1f);
        prefixes[i].cidr = (uint8_t)(i == 0 ? 0 : (ipv6 ? 48 : 16) + random_u64() % 17);
    }
    for (size_t i = 0; i < ADDRESSES; i++) {
        mh_put32be(addresses[i], (uint32_t)(random_u64() >> 32));
        if (i % 4)
            memcpy(addresses[i], prefixes[random_u64() % n].addr, ipv6 ? 8 : 4);
    }
    mh_allowedips_free(table);
    table = mh_allowedips_new(prefixes, n);
    free(prefixes); /* the table carries owners without following them */
    return table != NULL;
}

int allowedips_find(void) {
    int found = 0;
    for (size_t i = 0; i < ADDRESSES; i++)
        found += (ipv6 ? mh_allowedips_find6(table, addresses[i]) : mh_allowedips_find4(table, addresses[i])) != NULL;
    return found == ADDRESSES;
}
