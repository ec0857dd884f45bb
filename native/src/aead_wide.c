/*
 * aead_wide.c - the order of events around the wide kernels, the same for all of them.
 *
 * Sealing: one-time keys, encrypt, tags. Opening: one-time keys, tags of all, compare, and only then decrypt those
 * that are good: the key stream never meets a ciphertext that nobody vouches for, and no plaintext is there before
 * its tag was checked. After both: the one-time keys are wiped, then the stack that the kernels used (spilled
 * vectors), then the vector registers.
 */
#include "aead_wide.h"

/* More than the deepest frames below mh_wide_seal; test_aead_wide.c looks for what a kernel left. */
#define STACK_USED 6144

static __attribute__((noinline)) void wipe_stack(void) {
    uint8_t used[STACK_USED];
    mh_wipe(used, sizeof used);
}

static void wipe(const mh_wide *kernel, mh_wide_keys *keys) {
    mh_wipe(keys, sizeof *keys);
    wipe_stack();
    kernel->forget();
}

void mh_wide_seal(const mh_wide *kernel, const uint32_t key[8], mh_aead_job *jobs, size_t n) {
    mh_wide_keys keys;
    uint8_t tags[MH_WIDE][MH_TAG_LEN];
    for (size_t i = 0; i < n; i++)
        jobs[i].ok = true;
    kernel->keys(key, jobs, n, &keys);
    kernel->crypt(key, jobs, n);
    kernel->tags(&keys, jobs, n, tags);
    for (size_t i = 0; i < n; i++)
        memcpy(jobs[i].data + jobs[i].len, tags[i], MH_TAG_LEN);
    wipe(kernel, &keys);
}

/* Equal? In a time that does not tell where they differ. */
static bool same_tag(const uint8_t a[MH_TAG_LEN], const uint8_t b[MH_TAG_LEN]) {
    const uint64_t low = mh_get64le(a) ^ mh_get64le(b), high = mh_get64le(a + 8) ^ mh_get64le(b + 8);
    return (low | high) == 0;
}

size_t mh_wide_open(const mh_wide *kernel, const uint32_t key[8], mh_aead_job *jobs, size_t n) {
    mh_wide_keys keys;
    uint8_t tags[MH_WIDE][MH_TAG_LEN];
    size_t good = 0;
    kernel->keys(key, jobs, n, &keys);
    kernel->tags(&keys, jobs, n, tags);
    for (size_t i = 0; i < n; i++) {
        jobs[i].ok = same_tag(tags[i], jobs[i].data + jobs[i].len);
        if (jobs[i].ok)
            good++;
        else
            mh_wipe(jobs[i].data, jobs[i].len);
    }
    kernel->crypt(key, jobs, n);
    mh_wipe(tags, sizeof tags); /* the right tag of a forged packet is nobody's business */
    wipe(kernel, &keys);
    return good;
}

bool mh_wide_worth(const mh_wide *kernel, const mh_aead_job *jobs, size_t n) {
    uint64_t blocks = 0, steps = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        if (jobs[i].len > MH_WIDE_MAX_LEN)
            return false;
        const uint32_t of_packet = (jobs[i].len + 63) / 64;
        blocks += of_packet;
        longest = of_packet > longest ? of_packet : longest;
        if ((i + 1) % kernel->lanes == 0 || i + 1 == n) {
            steps += longest; /* the lanes wait for the longest of them */
            longest = 0;
        }
    }
    const mh_wide_cost *c = &kernel->cost;
    const uint64_t vectors = (blocks + kernel->blocks - 1) / kernel->blocks;
    return c->burst + vectors * c->vector + steps * c->step < n * c->packet + blocks * c->block;
}

/* A burst of many lengths is sealed; its tags, one after the other, are then the plaintext of one more packet, whose
 * tag thus depends on every bit of the burst. */
#define TESTED 16
#define LONGEST 528

bool mh_wide_selftest(const mh_wide *kernel) {
    static const uint16_t lengths[TESTED] = {0, 1, 15, 16, 17, 63, 64, 65, 100, 127, 128, 192, 256, 300, 511, LONGEST};
    static const uint8_t answer[MH_TAG_LEN] = { /* as libcrypto gives it */
        0x77, 0x88, 0x95, 0x26, 0xc0, 0x14, 0x47, 0x93, 0x22, 0x6d, 0x31, 0xc8, 0xc1, 0x22, 0x9a, 0x08};
    static const uint32_t key[8] = {0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c,
                                    0x13121110, 0x17161514, 0x1b1a1918, 0x1f1e1d1c};
    uint8_t data[TESTED][LONGEST + MH_TAG_LEN], tags[TESTED * MH_TAG_LEN + MH_TAG_LEN];
    mh_aead_job jobs[TESTED], last = {.data = tags, .len = TESTED * MH_TAG_LEN, .counter = UINT64_MAX};
    for (uint32_t i = 0; i < TESTED; i++) {
        memset(data[i], (int)i, lengths[i]);
        jobs[i] = (mh_aead_job){.data = data[i], .len = lengths[i], .counter = UINT32_MAX - 3 + (uint64_t)i};
    }
    mh_wide_seal(kernel, key, jobs, TESTED);
    for (size_t i = 0; i < TESTED; i++)
        memcpy(tags + i * MH_TAG_LEN, data[i] + lengths[i], MH_TAG_LEN);
    mh_wide_seal(kernel, key, &last, 1);
    if (!same_tag(tags + TESTED * MH_TAG_LEN, answer))
        return false;

    const size_t forged = 9;
    data[forged][0] ^= 1;
    if (mh_wide_open(kernel, key, jobs, TESTED) != TESTED - 1)
        return false;
    for (uint32_t i = 0; i < TESTED; i++) {
        if (jobs[i].ok != (i != forged))
            return false;
        for (uint32_t at = 0; at < lengths[i]; at++)
            if (data[i][at] != (i == forged ? 0 : i))
                return false;
    }
    return true;
}
