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

/* What gcc would not do by itself: it makes all products of a sum before it adds the first, and all words of a state that
 * no register is left for change places on every use, and each of them waits for the store buffer. MH_KEEP says "this
 * value is in a register now", MH_REST "in memory"; neither is an instruction. clang needs neither, and its
 * MemorySanitizer could not see through them. */
#ifdef __clang__
#define MH_KEEP(x) ((void)0)
#define MH_REST(x) ((void)0)
#else
#define MH_KEEP(x) __asm__("" : "+x"(x))
#define MH_REST(x) __asm__("" : "+m"(x))
#endif

#define MH_WIDE 16          /* packets that are computed together */
#define MH_WIDE_MAX_LEN 65536 /* bytes of one packet; longer ones are not for these kernels */

/* One-time Poly1305 keys of MH_WIDE packets, word by word (as ChaCha20 leaves them): word[w][packet]. */
typedef struct {
    _Alignas(64) uint32_t word[8][MH_WIDE];
} mh_wide_keys;

/* What a burst costs, in cycles on Zen 4 (docs/performance.md has the measurements that these are taken from). Only
 * their proportions matter: by them a burst goes to the kernel or to libcrypto. */
typedef struct {
    uint32_t burst;         /* whatever is in it: one-time keys, filling and draining of the vectors, wiping */
    uint32_t vector;        /* sixteen or eight blocks of ChaCha20 */
    uint32_t step;          /* 64 bytes of each lane through Poly1305 */
    uint32_t packet, block; /* libcrypto's, where this kernel is the best: a packet, and each 64 bytes of it */
} mh_wide_cost;

typedef struct {
    const char *name;
    uint32_t blocks, lanes; /* ChaCha20 blocks, and packets, in one vector */
    mh_wide_cost cost;
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

/* Is the kernel quicker than libcrypto for these? false also if it may not have them. n: 1..MH_WIDE. */
bool mh_wide_worth(const mh_wide *kernel, const mh_aead_job *jobs, size_t n);

/* Seals and opens one fixed burst and compares with stored answers. */
bool mh_wide_selftest(const mh_wide *kernel);

/* The parts of the kernels. */
void mh_chacha20_keys_avx512(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys);
void mh_chacha20_crypt_avx512(const uint32_t key[8], const mh_aead_job *jobs, size_t n);
void mh_poly1305_tags_avx512(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]);
void mh_chacha20_keys_avx2(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys);
void mh_chacha20_crypt_avx2(const uint32_t key[8], const mh_aead_job *jobs, size_t n);
void mh_poly1305_tags_avx2(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]);

/* Slots: the blocks of a burst, a vector's worth at a time: first the whole blocks of all packets, then what their
 * ends have of one, so that nearly every vector is combined with 64 bytes everywhere, without asking. */
typedef struct {
    _Alignas(64) uint32_t block[32], low[32], high[32]; /* by lane: block number, the halves of the packet's counter */
    _Alignas(64) uintptr_t at[32];                      /* where the block's data are */
    uint32_t len[16];                                   /* of an end: how many, 1..63 */
    uint32_t whole, filled;                             /* lanes below `whole` have 64 bytes */
} mh_slots;

typedef struct {
    const mh_aead_job *jobs;
    size_t n, i;    /* the packet that is next, */
    uint32_t block; /* and its block of 64 bytes, from 0 */
    bool ends;      /* the whole blocks are through */
} mh_slot_cursor;

static inline void mh_slots_clear(mh_slots *s) {
    memset(s->block, 0, 64);
    memset(s->low, 0, 64);
    memset(s->high, 0, 64);
}

/* Fills the next lanes. Those left over have some other content: they are computed and not used. Writing as many
 * lanes as a vector has for each packet, more than it needs, makes each of the four lines one or two stores. */
static inline __attribute__((always_inline)) void mh_slots_fill(mh_slots *s, mh_slot_cursor *c, const uint32_t lanes) {
    uint32_t lane = 0;
    for (; !c->ends && c->i < c->n; c->i++, c->block = 0) {
        const mh_aead_job *job = &c->jobs[c->i];
        const uint32_t rest = job->ok ? job->len / 64 - c->block : 0, run = rest < lanes - lane ? rest : lanes - lane;
        if (run) {
            const uintptr_t at = (uintptr_t)job->data + (uintptr_t)64 * c->block;
            const uint32_t first = c->block + 1, low = (uint32_t)job->counter, high = (uint32_t)(job->counter >> 32);
            uint32_t *const to_block = s->block + lane, *const to_low = s->low + lane, *const to_high = s->high + lane;
            uintptr_t *const to_at = s->at + lane;
            for (size_t i = 0; i < lanes; i++) to_block[i] = first + (uint32_t)i;
            for (size_t i = 0; i < lanes; i++) to_low[i] = low;
            for (size_t i = 0; i < lanes; i++) to_high[i] = high;
            for (size_t i = 0; i < lanes; i++) to_at[i] = at + 64 * i;
            lane += run;
            c->block += run;
        }
        if (run < rest) {
            s->whole = s->filled = lane;
            return;
        }
    }
    s->whole = lane;
    if (!c->ends) {
        c->ends = true;
        c->i = 0;
    }
    for (; c->i < c->n && lane < lanes; c->i++) {
        const mh_aead_job *job = &c->jobs[c->i];
        const uint32_t whole = job->len / 64;
        if (job->ok && job->len % 64) {
            s->block[lane] = whole + 1;
            s->low[lane] = (uint32_t)job->counter;
            s->high[lane] = (uint32_t)(job->counter >> 32);
            s->at[lane] = (uintptr_t)job->data + (uintptr_t)64 * whole;
            s->len[lane++] = job->len % 64;
        }
    }
    s->filled = lane;
}

#endif
