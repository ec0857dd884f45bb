/*
 * fuzz_program.c - bytes as a verdict program, and packets judged by whatever loads.
 *
 * The first byte chooses: raw bytes as they are, or a well-formed program (made from the next 8 bytes as seed) in
 * which the rest overwrites places. An untouched one must load and agree with the naive judge.
 */
#include "../native/program.h"

static made_program m;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 9)
        return 0;
    uint64_t seed = mh_get64le(data + 1) | 1;
    const uint8_t *bytes = data + 9;
    size_t len = size - 9;
    bool whole = false;
    if (data[0] & 1) {
        make_program(&m, &seed, 1 + random_below(&seed, data[0] & 2 ? 64 : 200), 1 + random_below(&seed, 12));
        whole = len < 3;
        for (; len >= 3; bytes += 3, len -= 3)
            m.bytes[(bytes[0] | (size_t)bytes[1] << 8) % m.len] = bytes[2];
        bytes = m.bytes;
        len = m.len;
    }
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy)
        abort();
    memcpy(copy, bytes, len);
    mh_program *p = mh_program_load(copy, len);
    free(copy);
    if (whole && !p)
        abort();
    mh_fragments *t = mh_fragments_new();
    if (!t)
        abort();
    uint64_t now = 1;
    for (int i = 0; p && i < 16; i++) {
        mh_facts f = random_facts(&seed);
        mh_verdict v = mh_judge(p, &f);
        if (v.rule >= mh_program_rules(p) || v.accept == (v.reason != MH_REASON_NONE) || (v.accept && v.answer))
            abort();
        if (whole && !same(v, naive_judge(&m, &f)))
            abort();
        v = mh_filter(p, t, &f, now += random_u64(&seed) >> 30);
        if (v.rule >= mh_program_rules(p) || v.accept == (v.reason != MH_REASON_NONE))
            abort();
        if (f.fragment == MH_LATER && v.answer)
            abort();
    }
    mh_fragments_free(t);
    mh_program_free(p);
    return 0;
}
