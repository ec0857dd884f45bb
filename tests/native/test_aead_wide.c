/*
 * test_aead_wide.c - the wide kernels against libcrypto, against a readable Poly1305 with keys that no cipher would
 * give, and against what they may leave behind.
 *
 *   test_aead_wide                        every claim, with a quick random sample
 *   test_aead_wide --million N [KERNEL]   N million random packets for each kernel (or one), sealed and opened
 *
 * A kernel that this CPU has not is named and left out; libcrypto answers for it there too.
 */
#include "aead_libcrypto.h"
#include "aead_wide.h"
#include "check.h"

#include <pthread.h>
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#else
#define VALGRIND_MAKE_MEM_DEFINED(at, n) ((void)(at), (void)(n))
#endif

#ifdef MH_WIDE_X86
static const mh_wide *const all[] = {&mh_wide_avx512, &mh_wide_avx2, NULL};
#else
static const mh_wide *const all[] = {NULL};
#endif
static const mh_wide *kernel; /* the one under test */
static uint64_t seed = 20261123;

#define GUARD 0xa5
#define AROUND 64

static void fill(uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t v = random_u64(&seed);
        memcpy(out + i, &v, n - i < 8 ? n - i : 8);
    }
}

typedef struct {
    uint8_t key[MH_KEY_LEN];
    uint32_t words[8];
    mh_libcrypto libcrypto;
} keys;

static void keys_new(keys *k) {
    fill(k->key, sizeof k->key);
    for (size_t i = 0; i < 8; i++)
        k->words[i] = mh_get32le(k->key + 4 * i);
    CHECK(mh_libcrypto_init(&k->libcrypto, k->key));
}

/* A burst by the kernel, and the same by libcrypto: plaintexts, what libcrypto makes of them, guards around. */
static uint8_t room[MH_WIDE * (MH_WIDE_MAX_LEN + 4 * AROUND)], expected[sizeof room], plain[sizeof room];

static void burst(const keys *k, const uint32_t *lengths, size_t n, uint32_t bad) {
    mh_aead_job jobs[MH_WIDE], reference[MH_WIDE];
    size_t used = random_below(&seed, 64);
    const size_t start = used;
    const uint64_t counter = random_below(&seed, 4) ? random_u64(&seed) : UINT32_MAX - random_below(&seed, 16);
    for (size_t i = 0; i < n; i++) {
        used += AROUND;
        jobs[i] = (mh_aead_job){.data = room + used, .len = lengths[i], .counter = counter + i};
        reference[i] = (mh_aead_job){.data = expected + used, .len = lengths[i], .counter = counter + i};
        used += lengths[i] + MH_TAG_LEN + random_below(&seed, 32);
    }
    used += AROUND;
    fill(room + start, used - start);
    memcpy(expected + start, room + start, used - start);
    memcpy(plain + start, room + start, used - start);
    mh_libcrypto libcrypto = k->libcrypto;
    mh_wide_seal(kernel, k->words, jobs, n);
    CHECK(mh_libcrypto_seal(&libcrypto, reference, n) == n);
    CHECK(memcmp(room + start, expected + start, used - start) == 0);

    size_t good = n;
    for (size_t i = 0; i < n; i++) { /* bit i of bad: flip one bit of packet i, somewhere, often in the tag */
        if (!(bad >> i & 1))
            continue;
        const uint32_t at = random_below(&seed, 2) ? lengths[i] + random_below(&seed, MH_TAG_LEN)
                                                   : random_below(&seed, lengths[i] + MH_TAG_LEN);
        jobs[i].data[at] ^= (uint8_t)(1u << random_below(&seed, 8));
        good--;
        memset(plain + (jobs[i].data - room), 0, lengths[i]);
    }
    for (size_t i = 0; i < n; i++)
        memcpy(plain + (jobs[i].data - room) + lengths[i], jobs[i].data + lengths[i], MH_TAG_LEN);
    CHECK(mh_wide_open(kernel, k->words, jobs, n) == good);
    for (size_t i = 0; i < n; i++)
        CHECK(jobs[i].ok == !(bad >> i & 1));
    CHECK(memcmp(room + start, plain + start, used - start) == 0);
}

static void the_self_test_passes(void) { CHECK(mh_wide_selftest(kernel)); }

#ifdef MH_WIDE_X86
static void no_crypt(const uint32_t key[8], const mh_aead_job *jobs, size_t n) { (void)key, (void)jobs, (void)n; }

static void one_bit_off(const mh_wide_keys *k, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]) {
    mh_wide_avx2.tags(k, jobs, n, tags);
    if (n > 13)
        tags[13][15] ^= 128;
}

static void the_self_test_finds_a_kernel_that_is_wrong(void) {
    mh_wide wrong = *kernel;
    wrong.crypt = no_crypt;
    CHECK(!mh_wide_selftest(&wrong));
    if (mh_wide_avx2.supported()) {
        wrong = *kernel;
        wrong.tags = one_bit_off;
        CHECK(!mh_wide_selftest(&wrong));
    }
}
#endif

static void every_length_and_alignment_agrees_with_libcrypto(void) {
    keys k;
    keys_new(&k);
    for (uint32_t len = 0; len <= 4096; len += MH_WIDE) {
        uint32_t lengths[MH_WIDE];
        for (uint32_t i = 0; i < MH_WIDE; i++)
            lengths[i] = len + i;
        burst(&k, lengths, MH_WIDE, 0);
        for (uint32_t i = 0; i < MH_WIDE; i++)
            lengths[i] = len;
        burst(&k, lengths, 1 + random_below(&seed, MH_WIDE), 0);
    }
    const uint32_t longest[2] = {MH_WIDE_MAX_LEN, MH_WIDE_MAX_LEN - 1};
    burst(&k, longest, 2, 0);
    mh_libcrypto_done(&k.libcrypto);
}

static void a_bad_packet_anywhere_harms_no_other(void) {
    keys k;
    keys_new(&k);
    for (uint32_t n = 1; n <= MH_WIDE; n++) {
        uint32_t lengths[MH_WIDE];
        for (uint32_t i = 0; i < n; i++)
            lengths[i] = random_below(&seed, 400);
        for (uint32_t i = 0; i < n; i++)
            burst(&k, lengths, n, 1u << i);
        burst(&k, lengths, n, (1u << n) - 1);
        burst(&k, lengths, n, random_below(&seed, 1u << n));
    }
    mh_libcrypto_done(&k.libcrypto);
}

/* Bursts of all sizes by the way that sessions go, cut and divided between kernel and libcrypto as it comes. */
static void bursts_of_1_to_64_by_a_key_agree_with_libcrypto(void) {
    static uint8_t data[64][700], text[64][700];
    keys k;
    keys_new(&k);
    mh_aead_key *key = mh_aead_key_new_with(kernel->name, k.key);
    CHECK(key);
    for (size_t n = 1; n <= 64; n++) {
        mh_aead_job jobs[64], reference[64];
        const uint32_t same = random_below(&seed, 650);
        for (size_t i = 0; i < n; i++) {
            const uint32_t len = n % 2 ? same : random_below(&seed, 650);
            jobs[i] = (mh_aead_job){.data = data[i] + i % 7, .len = len, .counter = i};
            reference[i] = (mh_aead_job){.data = text[i], .len = len, .counter = i};
            fill(jobs[i].data, len);
            memcpy(text[i], jobs[i].data, len);
        }
        CHECK(mh_aead_seal(key, jobs, n) == n && mh_libcrypto_seal(&k.libcrypto, reference, n) == n);
        for (size_t i = 0; i < n; i++)
            CHECK(jobs[i].ok && memcmp(jobs[i].data, text[i], jobs[i].len + MH_TAG_LEN) == 0);
        const size_t bad = random_below(&seed, (uint32_t)n);
        jobs[bad].data[jobs[bad].len + 3] ^= 4;
        CHECK(mh_aead_open(key, jobs, n) == n - 1);
        CHECK(mh_libcrypto_open(&k.libcrypto, reference, n) == n);
        for (size_t i = 0; i < n; i++) {
            CHECK(jobs[i].ok == (i != bad));
            for (uint32_t at = 0; at < jobs[i].len; at++)
                CHECK(jobs[i].data[at] == (i == bad ? 0 : text[i][at]));
        }
    }
    mh_aead_key_free(key);
    mh_libcrypto_done(&k.libcrypto);
}

/* Poly1305 as RFC 8439 section 2.5 says it, digit by digit: h in 17 bytes, everything modulo 2^130 - 5. */
static void twin_poly1305(const uint8_t key[32], const uint8_t *message, size_t len, uint8_t tag[16]) {
    static const uint8_t clamp[16] = {255, 255, 255, 15, 252, 255, 255, 15, 252, 255, 255, 15, 252, 255, 255, 15};
    uint32_t h[17] = {0};
    for (size_t at = 0; at < len; at += 16) {
        uint32_t product[17] = {0}, up = 0;
        for (size_t i = 0; i < 16 && at + i < len; i++)
            h[i] += message[at + i];
        h[len - at < 16 ? len - at : 16] += 1;
        for (size_t i = 0; i < 17; i++)
            for (size_t j = 0; j < 16; j++) { /* 2^136 = 64 * 5 = 320 */
                const uint32_t digit = h[i] * (key[j] & clamp[j]);
                product[(i + j) % 17] += i + j < 17 ? digit : digit * 320;
            }
        for (int turn = 0; turn < 3; turn++) {
            for (size_t i = 0; i < 17; i++) {
                up += product[i];
                product[i] = i < 16 ? up & 255 : up & 3;
                up >>= i < 16 ? 8 : 2;
            }
            product[0] += up * 5;
            up = 0;
        }
        memcpy(h, product, sizeof h);
    }
    uint32_t g[17], up = 5;
    for (size_t i = 0; i < 17; i++) {
        up += h[i];
        g[i] = up & 255;
        up >>= 8;
    }
    const uint32_t *residue = g[16] & 4 ? g : h;
    up = 0;
    for (size_t i = 0; i < 16; i++) {
        up += residue[i] + key[16 + i];
        tag[i] = (uint8_t)up;
        up >>= 8;
    }
}

static void the_twin_gives_the_answers_of_the_rfc(void) {
    static const uint8_t key[32] = {0x85, 0xd6, 0xbe, 0x78, 0x57, 0x55, 0x6d, 0x33, 0x7f, 0x44, 0x52,
                                    0xfe, 0x42, 0xd5, 0x06, 0xa8, 0x01, 0x03, 0x80, 0x8a, 0xfb, 0x0d,
                                    0xb2, 0xfd, 0x4a, 0xbf, 0xf6, 0xaf, 0x41, 0x49, 0xf5, 0x1b};
    static const uint8_t answer[16] = {0xa8, 0x06, 0x1d, 0xc1, 0x30, 0x51, 0x36, 0xc6,
                                       0xc2, 0x2b, 0x8b, 0xaf, 0x0c, 0x01, 0x27, 0xa9};
    uint8_t tag[16], two[32] = {2}, ones[16], four[64];
    twin_poly1305(key, (const uint8_t *)"Cryptographic Forum Research Group", 34, tag); /* 2.5.2 */
    CHECK(memcmp(tag, answer, 16) == 0);
    memset(ones, 255, 16);
    twin_poly1305(two, ones, 16, tag); /* A.3 #7: h passes 2^130 - 5 */
    CHECK(tag[0] == 3 && tag[1] == 0 && tag[15] == 0);
    memset(two + 16, 255, 16);
    memset(four, 0, sizeof four);
    four[0] = 2;
    twin_poly1305(two, four, 16, tag); /* A.3 #8: the sum with s passes 2^128 */
    CHECK(tag[0] == 3 && tag[1] == 0 && tag[15] == 0);
    uint8_t one[32] = {1};
    memset(four, 255, 32);
    four[16] = 0xf0;
    four[32] = 0x11;
    memset(four + 33, 0, 15);
    twin_poly1305(one, four, 48, tag); /* A.3 #9 */
    CHECK(tag[0] == 5 && tag[1] == 0 && tag[15] == 0);
}

/* Poly1305 by the kernel and by the twin, of lanes with the given keys and messages. */
static void poly(const uint8_t key[MH_WIDE][32], mh_aead_job *jobs, size_t n) {
    static uint8_t padded[8192 + 32];
    mh_wide_keys k;
    uint8_t tags[MH_WIDE][MH_TAG_LEN], tag[16];
    for (size_t w = 0; w < 8; w++)
        for (size_t i = 0; i < MH_WIDE; i++)
            k.word[w][i] = mh_get32le(key[i] + 4 * w);
    kernel->tags(&k, jobs, n, tags);
    for (size_t i = 0; i < n; i++) {
        const size_t len = jobs[i].len, up = (len + 15) / 16 * 16;
        memset(padded, 0, up + 16);
        memcpy(padded, jobs[i].data, len);
        mh_put64le(padded + up + 8, len);
        twin_poly1305(key[i], padded, up + 16, tag);
        CHECK(memcmp(tags[i], tag, 16) == 0);
    }
}

static void a_pattern(uint8_t *out, size_t n) {
    static const uint8_t bytes[] = {0xff, 0x00, 0xfe, 0x80, 0x7f, 0x01};
    const uint32_t kind = random_below(&seed, 9);
    if (kind < 6) {
        memset(out, bytes[kind], n);
    } else {
        fill(out, n);
        for (size_t i = 0; kind > 6 && i < n; i++) /* whole blocks, or words, of ones and zeros */
            out[i] = kind == 7 ? (uint8_t)-(out[i / 16 * 16] & 1) : (uint8_t)-(out[i / 4 * 4] & 1);
    }
}

static void extreme_keys_and_messages_agree_with_the_twin(void) {
    static uint8_t data[MH_WIDE][1100];
    for (int round = 0; round < 1500; round++) {
        uint8_t key[MH_WIDE][32];
        mh_aead_job jobs[MH_WIDE];
        const size_t n = 1 + random_below(&seed, MH_WIDE);
        const uint32_t same = random_below(&seed, 3) ? 0 : random_below(&seed, 400);
        for (size_t i = 0; i < MH_WIDE; i++) {
            a_pattern(key[i], 16);
            a_pattern(key[i] + 16, 16);
            if (random_below(&seed, 4) == 0) { /* tiny r: 0 to 5 */
                memset(key[i], 0, 16);
                key[i][0] = (uint8_t)random_below(&seed, 6);
            }
            jobs[i] = (mh_aead_job){.data = data[i], .len = same ? same : random_below(&seed, 1 + 64u * (1 + i)), .ok = true};
            a_pattern(data[i], jobs[i].len);
        }
        poly(key, jobs, n);
    }
}

/* With r = 1 the accumulator is the plain sum of the blocks; here it ends at every value from 2^130 - 9 to 2^130 + 7,
 * that is, on both sides of p = 2^130 - 5 and of 2^130. */
static void the_accumulator_is_reduced_right_on_both_sides_of_p(void) {
    static uint8_t data[MH_WIDE + 1][32];
    for (int s = 0; s < 3; s++) {
        uint8_t key[MH_WIDE][32];
        mh_aead_job jobs[MH_WIDE];
        for (size_t k = 0; k <= MH_WIDE; k++) {
            memset(data[k], 0xff, 16);
            memset(data[k] + 16, 0, 16);
            data[k][0] = 0xff - 40;
            data[k][16] = (uint8_t)k;
        }
        for (size_t i = 0; i < MH_WIDE; i++) {
            memset(key[i], 0, 16);
            key[i][0] = 1;
            memset(key[i] + 16, s == 0 ? 0 : 255, 16);
            if (s == 2)
                fill(key[i] + 16, 16);
        }
        for (size_t first = 0; first < 2; first++) {
            for (size_t i = 0; i < MH_WIDE; i++)
                jobs[i] = (mh_aead_job){.data = data[i + first], .len = 32, .ok = true};
            poly(key, jobs, MH_WIDE);
        }
    }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which put frames elsewhere */
#define FRAMES_ON_THE_STACK

/* A thread of its own, so that all it may have left lies in a stack that we hold. */
#define STACK (256 * 1024)
static _Alignas(4096) uint8_t stack[STACK];
static keys thread_keys;
static mh_aead_job thread_jobs[MH_WIDE];

static void *seal_and_open(void *unused) {
    (void)unused;
    mh_wide_seal(kernel, thread_keys.words, thread_jobs, MH_WIDE);
    CHECK(mh_wide_open(kernel, thread_keys.words, thread_jobs, MH_WIDE) == MH_WIDE);
    return NULL;
}

static bool left(const void *what, size_t n) {
    for (size_t at = 0; at + n <= STACK; at += 4)
        if (memcmp(stack + at, what, n) == 0)
            return true;
    return false;
}

static void no_key_and_no_key_stream_stays_on_the_stack(void) {
    static uint8_t data[MH_WIDE][300], stream[320];
    pthread_attr_t attributes;
    pthread_t thread;
    keys_new(&thread_keys);
    for (size_t i = 0; i < MH_WIDE; i++) {
        thread_jobs[i] = (mh_aead_job){.data = data[i], .len = 200 + (uint32_t)i, .counter = i};
        fill(data[i], 300);
    }
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, STACK) == 0);
    CHECK(pthread_create(&thread, &attributes, seal_and_open, NULL) == 0 && pthread_join(thread, NULL) == 0);
    pthread_attr_destroy(&attributes);
    VALGRIND_MAKE_MEM_DEFINED(stack, STACK); /* a stack that is no more may be read here */
    for (size_t i = 0; i < MH_WIDE; i++) {
        mh_wide_keys k;
        mh_aead_job job = {.data = stream, .len = 256, .ok = true, .counter = i};
        memset(stream, 0, sizeof stream);
        kernel->crypt(thread_keys.words, &job, 1);
        for (size_t at = 0; at < 200; at += 8)
            CHECK(!left(stream + at, 8)); /* a piece of a block */
        for (size_t w = 0; w < 8; w++) { /* a row of words of the one-time keys */
            kernel->keys(thread_keys.words, thread_jobs, MH_WIDE, &k);
            CHECK(!left(k.word[w], 8));
        }
    }
    for (size_t w = 0; w < 8; w++) {
        const uint32_t spread[2] = {thread_keys.words[w], thread_keys.words[w]}; /* as the vectors hold it */
        CHECK(!left(spread, 8));
    }
    CHECK(!left(thread_keys.key, 8));
    mh_libcrypto_done(&thread_keys.libcrypto);
}
#endif

/* Lengths as traffic has them, and as it has not. */
static uint32_t some_length(void) {
    const uint32_t kind = random_below(&seed, 1000);
    return random_below(&seed, kind < 350 ? 257 : kind < 990 ? 1501 : kind < 999 ? 9001 : MH_WIDE_MAX_LEN + 1);
}

static void random_packets(uint64_t packets) {
    keys k;
    uint64_t done = 0, bursts = 0;
    keys_new(&k);
    for (; done < packets; bursts++) {
        uint32_t lengths[MH_WIDE], n = 1 + random_below(&seed, MH_WIDE);
        const uint32_t kind = random_below(&seed, 3);
        for (uint32_t i = 0; i < n; i++)
            lengths[i] = i > 0 && kind == 0 ? lengths[0] : some_length();
        if (bursts % 16 == 15) {
            mh_libcrypto_done(&k.libcrypto);
            keys_new(&k);
        }
        burst(&k, lengths, n, random_below(&seed, 3) ? 0 : random_below(&seed, 1u << n));
        done += n;
    }
    mh_libcrypto_done(&k.libcrypto);
    if (packets >= 1000000)
        printf("  %s: %llu random packets in %llu bursts, all as libcrypto seals and opens them\n", kernel->name,
               (unsigned long long)done, (unsigned long long)bursts);
}

static void random_packets_agree_with_libcrypto(void) { random_packets(5000); }

int main(int argc, char **argv) {
    const bool long_run = argc > 2 && strcmp(argv[1], "--million") == 0;
    memset(room, GUARD, sizeof room);
    memcpy(expected, room, sizeof room);
    RUN(the_twin_gives_the_answers_of_the_rfc);
    for (const mh_wide *const *one = all; (kernel = *one); one++) {
        if (!kernel->supported()) {
            printf("  -- this CPU has no %s: not tested\n", kernel->name);
            continue;
        }
        if (long_run) {
            if (argc < 4 || strcmp(argv[3], kernel->name) == 0)
                random_packets((uint64_t)atoll(argv[2]) * 1000000);
            continue;
        }
        printf("  %s\n", kernel->name);
        RUN(the_self_test_passes);
#ifdef MH_WIDE_X86
        RUN(the_self_test_finds_a_kernel_that_is_wrong);
#endif
        RUN(every_length_and_alignment_agrees_with_libcrypto);
        RUN(a_bad_packet_anywhere_harms_no_other);
        RUN(bursts_of_1_to_64_by_a_key_agree_with_libcrypto);
        RUN(extreme_keys_and_messages_agree_with_the_twin);
        RUN(the_accumulator_is_reduced_right_on_both_sides_of_p);
#ifdef FRAMES_ON_THE_STACK
        RUN(no_key_and_no_key_stream_stays_on_the_stack);
#endif
        RUN(random_packets_agree_with_libcrypto);
    }
    return 0;
}
