/*
 * aead_wide.h - ChaCha20-Poly1305 over many packets at once: what the wide kernels share.
 *
 * A kernel computes up to MH_WIDE packets of one key together. Vectors run across packets, "vertically": each lane of
 * a vector is one ChaCha20 block of some packet (a slot), or one packet's Poly1305 accumulator. No lane ever needs
 * another one, so nothing is shuffled inside a round, and packets of any length, each under its own counter, fill the
 * vectors together. Three steps make a packet, and their order is what tells sealing from opening (aead_wide.c):
 *
 *   keys    block 0 of each packet: its one-time Poly1305 key
 *   crypt   blocks 1, 2, ...: the key stream, combined with the data in place
 *   tags    Poly1305 of the ciphertexts
 *
 * Files: chacha20_avx512.c, poly1305_avx512.c, chacha20_avx2.c, poly1305_avx2.c, compiled in on x86-64 alone and run
 * only where the CPU has the instructions. No branch and no address depends on a key, a key stream or a plaintext:
 * lengths, counters, ciphertexts and whether a tag is good are all that steers (tests/native/ct_aead.c).
 * Ownership: everything is the caller's. Threads: no state.
 */
#ifndef MH_AEAD_WIDE_H
#define MH_AEAD_WIDE_H

#include "aead.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define MH_WIDE_X86 1
#endif

#define MH_WIDE 16          /* packets that are computed together */
#define MH_WIDE_MAX_LEN 65536 /* bytes of one packet; longer ones are not for these kernels */

/* One-time Poly1305 keys of MH_WIDE packets, word by word (as ChaCha20 leaves them): word[w][packet]. */
typedef struct {
    _Alignas(64) uint32_t word[8][MH_WIDE];
} mh_wide_keys;

typedef struct {
    const char *name;
    size_t lanes; /* packets of one Poly1305 vector */
    bool (*supported)(void);
    /* All three: n is 1..MH_WIDE; lengths are at most MH_WIDE_MAX_LEN. */
    void (*keys)(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys);
    void (*crypt)(const uint32_t key[8], const mh_aead_job *jobs, size_t n); /* jobs that are ok; others are not touched */
    void (*tags)(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]);
    void (*forget)(void); /* clears the vector registers */
} mh_wide;

#ifdef MH_WIDE_X86
extern const mh_wide mh_wide_avx512, mh_wide_avx2;
#endif

/* As mh_aead_seal and mh_aead_open, for n of 1..MH_WIDE and lengths up to MH_WIDE_MAX_LEN. key: its eight little-endian
 * words. Sealing cannot fail. */
void mh_wide_seal(const mh_wide *kernel, const uint32_t key[8], mh_aead_job *jobs, size_t n);
size_t mh_wide_open(const mh_wide *kernel, const uint32_t key[8], mh_aead_job *jobs, size_t n);

/* Seals and opens one fixed burst and compares with stored answers. */
bool mh_wide_selftest(const mh_wide *kernel);

/* The parts of the kernels. */
void mh_chacha20_keys_avx512(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys);
void mh_chacha20_crypt_avx512(const uint32_t key[8], const mh_aead_job *jobs, size_t n);
void mh_poly1305_tags_avx512(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]);
void mh_chacha20_keys_avx2(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys);
void mh_chacha20_crypt_avx2(const uint32_t key[8], const mh_aead_job *jobs, size_t n);
void mh_poly1305_tags_avx2(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]);

/* Slots: the blocks of a burst in order, a vector's worth at a time. */
typedef struct {
    _Alignas(64) uint32_t block[16], low[16], high[16]; /* block number and the counter's halves, per lane */
    uint8_t *at[16];
    uint32_t len[16]; /* bytes of the block that the packet has, 1..64 */
    size_t filled;
} mh_slots;

typedef struct {
    const mh_aead_job *job, *end;
    uint32_t offset;
} mh_slot_cursor;

/* Fills the next lanes. Those left over keep what they had: they are computed and not used. */
static inline void mh_slots_fill(mh_slots *s, mh_slot_cursor *c, size_t lanes) {
    size_t lane = 0;
    for (; c->job < c->end; c->job++, c->offset = 0) {
        const mh_aead_job *job = c->job;
        if (!job->ok)
            continue;
        for (; c->offset < job->len; c->offset += 64, lane++) {
            if (lane == lanes)
                goto full;
            const uint32_t rest = job->len - c->offset;
            s->block[lane] = c->offset / 64 + 1;
            s->low[lane] = (uint32_t)job->counter;
            s->high[lane] = (uint32_t)(job->counter >> 32);
            s->at[lane] = job->data + c->offset;
            s->len[lane] = rest < 64 ? rest : 64;
        }
    }
full:
    s->filled = lane;
}

#endif
