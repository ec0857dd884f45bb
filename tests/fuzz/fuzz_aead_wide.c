/*
 * fuzz_aead_wide.c - bursts of any shape through each wide kernel and through libcrypto: the same ciphertexts, the
 * same tags, the same verdict on packets that were damaged.
 *
 * Input: 1 byte of flags (bit 0: which kernel; bit 1: Poly1305 texts come as they are, by opening, so that the
 * fuzzer chooses the ciphertext), 8 bytes of counter, 32 of key, then for each packet 2 bytes of length, 1 byte of
 * damage (0: none) and its bytes, the missing ones zero.
 */
#include "aead_libcrypto.h"
#include "aead_wide.h"

#include <stdlib.h>

#ifdef MH_WIDE_X86
static const mh_wide *const kernels[2] = {&mh_wide_avx512, &mh_wide_avx2};

static uint8_t *copy_of(const uint8_t *at, size_t n) { /* of the exact size, for the sanitizer */
    uint8_t *copy = malloc(n);
    if (!copy)
        abort();
    memcpy(copy, at, n);
    return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mh_aead_job jobs[MH_WIDE], twins[MH_WIDE];
    uint8_t damage[MH_WIDE];
    uint32_t key[8];
    mh_libcrypto libcrypto;
    size_t n = 0;
    if (size < 41)
        return 0;
    const mh_wide *kernel = kernels[data[0] & 1];
    const bool open_first = data[0] & 2;
    const uint64_t counter = mh_get64le(data + 1);
    if (!kernel->supported() || !mh_libcrypto_init(&libcrypto, data + 9))
        return 0;
    for (size_t i = 0; i < 8; i++)
        key[i] = mh_get32le(data + 9 + 4 * i);
    data += 41;
    size -= 41;
    for (; n < MH_WIDE && size >= 3; n++) {
        const uint32_t len = mh_get16be(data) % 5000;
        uint8_t *packet = calloc(1, len + MH_TAG_LEN);
        if (!packet)
            abort();
        damage[n] = data[2];
        data += 3;
        size -= 3;
        const size_t given = size < len ? size : len;
        memcpy(packet, data, given);
        data += given;
        size -= given;
        jobs[n] = (mh_aead_job){.data = packet, .len = len, .counter = counter + n};
        twins[n] = jobs[n];
        twins[n].data = copy_of(packet, len + MH_TAG_LEN);
    }
    if (n && open_first) { /* nobody has sealed these */
        if (mh_wide_open(kernel, key, jobs, n) != mh_libcrypto_open(&libcrypto, twins, n))
            abort();
    } else if (n) {
        mh_wide_seal(kernel, key, jobs, n);
        if (mh_libcrypto_seal(&libcrypto, twins, n) != n)
            abort();
        for (size_t i = 0; i < n; i++) {
            if (memcmp(jobs[i].data, twins[i].data, jobs[i].len + MH_TAG_LEN) != 0)
                abort();
            jobs[i].data[damage[i] * 7u % (jobs[i].len + MH_TAG_LEN)] ^= damage[i];
            twins[i].data[damage[i] * 7u % (jobs[i].len + MH_TAG_LEN)] ^= damage[i];
        }
        if (mh_wide_open(kernel, key, jobs, n) != mh_libcrypto_open(&libcrypto, twins, n))
            abort();
        for (size_t i = 0; i < n; i++)
            if (jobs[i].ok != (damage[i] == 0))
                abort();
    }
    for (size_t i = 0; i < n; i++) {
        if (jobs[i].ok != twins[i].ok || memcmp(jobs[i].data, twins[i].data, jobs[i].len) != 0)
            abort();
        free(jobs[i].data);
        free(twins[i].data);
    }
    mh_libcrypto_done(&libcrypto);
    return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)data, (void)size;
    return 0; /* this machine has no wide kernels */
}
#endif
