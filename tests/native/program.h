/*
 * program.h - random verdict programs and facts for the C test and the fuzzer, and a naive judge of programs' bytes.
 *
 * Everything is drawn from a seed, so a failure repeats. The naive judge walks the bytes of verdict.h's layout.
 */
#ifndef MH_TEST_PROGRAM_H
#define MH_TEST_PROGRAM_H

#include "check.h"
#include "verdict.h"

typedef struct {
    uint8_t bytes[1 << 17];
    size_t len;
    unsigned rules, words;
    struct {
        size_t n, starts, rows; /* offsets of both arrays */
    } dims[MH_DIMENSIONS];
} made_program;

static const uint64_t ends[MH_DIMENSIONS] = {15, 512, 6, 65537, 65537, 65537, 1ull << 32, (1ull << 32) + 1, 1ull << 32, 1ull << 32, 0, 0};

/* Up to `most` intervals a dimension; values keep to few bits now and then, so that packets hit the edges. */
static inline void make_program(made_program *m, uint64_t *seed, unsigned rules, unsigned most) {
    memset(m, 0, sizeof *m);
    m->rules = rules;
    m->words = (rules + 63) / 64;
    uint8_t *p = m->bytes;
    memcpy(p, "MHVP", 4);
    p[4] = 1;
    p[6] = (uint8_t)rules, p[7] = (uint8_t)(rules >> 8);
    p[8] = (uint8_t)m->words;
    p[10] = MH_DIMENSIONS;
    size_t at = 16;
    for (unsigned i = 0; i + 1 < rules; i++)
        p[at + i] = (uint8_t)random_below(seed, 3);
    at += (rules + 7) / 8 * 8;
    for (int dim = 0; dim < MH_DIMENSIONS; dim++) {
        unsigned width = dim < MH_DIM_SRC6 ? 8 : 16;
        uint64_t starts[64] = {0};
        size_t n = 1, wanted = 1 + random_below(seed, most);
        uint64_t step = ends[dim] ? ends[dim] / wanted : UINT64_MAX / wanted;
        while (n < wanted && step) {
            starts[n] = starts[n - 1] + 1 + random_u64(seed) % step;
            if (ends[dim] ? starts[n] >= ends[dim] : starts[n] < starts[n - 1])
                break;
            n++;
        }
        mh_put64le(p + at, n);
        m->dims[dim].n = n;
        m->dims[dim].starts = at += 8;
        for (size_t i = 0; i < n; i++, at += width) {
            mh_put64le(p + at, starts[i]);
            if (width == 16)
                mh_put64le(p + at + 8, i ? random_u64(seed) : 0);
        }
        m->dims[dim].rows = at;
        for (size_t i = 0; i < n; i++)
            for (unsigned w = 0; w < m->words; w++, at += 8) {
                uint64_t bits = random_u64(seed) | random_u64(seed) | random_u64(seed);
                if (w == m->words - 1) {
                    unsigned last = (rules - 1) % 64;
                    bits |= 1ull << last;
                    if (last < 63)
                        bits &= (1ull << (last + 1)) - 1;
                }
                mh_put64le(p + at, bits);
            }
    }
    mh_put32le(p + 12, (uint32_t)at);
    m->len = at;
}

static inline mh_facts random_facts(uint64_t *seed) {
    mh_facts f = {.version = random_below(seed, 2) ? 4 : 6, .proto = (uint8_t)random_u64(seed)};
    f.fragment = (uint8_t)random_below(seed, 3);
    f.has_ports = f.fragment != MH_LATER && random_below(seed, 2);
    f.has_icmp = f.fragment != MH_LATER && !f.has_ports;
    f.sport = (uint16_t)random_u64(seed);
    f.dport = (uint16_t)random_u64(seed);
    f.icmp_type = (uint8_t)random_u64(seed);
    f.icmp_code = (uint8_t)random_u64(seed);
    random_bytes(seed, f.src, f.version == 4 ? 4 : 16);
    random_bytes(seed, f.dst, f.version == 4 ? 4 : 16);
    f.frag_id = random_below(seed, 4);
    f.frag_len = 8 * (1 + random_below(seed, 8));
    f.frag_offset = f.fragment == MH_LATER ? 8 * (1 + random_below(seed, 16)) : 0;
    f.direction = (uint8_t)random_below(seed, 3);
    f.iface_in = (uint8_t)random_below(seed, 3);
    f.iface_out = (uint8_t)random_below(seed, 3);
    f.reply = random_below(seed, 2);
    f.app = (uint8_t)random_below(seed, 3);
    f.has_uid = random_below(seed, 2);
    f.uid = random_below(seed, 2) ? 0 : UINT32_MAX;
    f.mark = (uint32_t)random_u64(seed);
    return f;
}

/* Does rule hold at (high, low) of a dimension? high is of IPv6 addresses alone. */
static inline bool holds(const made_program *m, int dim, unsigned rule, uint64_t high, uint64_t low) {
    const uint8_t *starts = m->bytes + m->dims[dim].starts;
    size_t found = 0;
    for (size_t i = 0; i < m->dims[dim].n; i++) {
        uint64_t a = mh_get64le(starts + i * (dim < MH_DIM_SRC6 ? 8 : 16));
        uint64_t b = dim < MH_DIM_SRC6 ? 0 : mh_get64le(starts + i * 16 + 8);
        if (dim < MH_DIM_SRC6 ? a <= low : a < high || (a == high && b <= low))
            found = i;
    }
    return mh_get64le(m->bytes + m->dims[dim].rows + (found * m->words + rule / 64) * 8) >> (rule % 64) & 1;
}

static inline uint64_t get64be(const uint8_t *p) { return (uint64_t)mh_get32be(p) << 32 | mh_get32be(p + 4); }

static inline mh_verdict naive_judge(const made_program *m, const mh_facts *f) {
    static const uint8_t context_of[3][3][3] = {/* direction, in, out */
                                                {{0, 1, 2}, {0, 1, 2}, {0, 1, 2}},
                                                {{3, 3, 3}, {4, 4, 4}, {5, 5, 5}},
                                                {{6, 7, 8}, {9, 10, 11}, {12, 13, 14}}};
    bool four = f->version == 4;
    for (unsigned rule = 0; rule < m->rules; rule++) {
        if (!holds(m, MH_DIM_CONTEXT, rule, 0, context_of[f->direction][f->iface_in][f->iface_out]) ||
            !holds(m, MH_DIM_PROTOCOL, rule, 0, f->proto + (four ? 0u : 256u)) ||
            !holds(m, MH_DIM_ORIGIN, rule, 0, f->app * 2u + f->reply) ||
            !holds(m, MH_DIM_SPORT, rule, 0, f->has_ports ? f->sport : 65536) ||
            !holds(m, MH_DIM_DPORT, rule, 0, f->has_ports ? f->dport : 65536) ||
            !holds(m, MH_DIM_ICMP, rule, 0, f->has_icmp ? f->icmp_type * 256u + f->icmp_code : 65536) ||
            !holds(m, MH_DIM_MARK, rule, 0, f->mark) ||
            !holds(m, MH_DIM_UID, rule, 0, f->has_uid ? f->uid : UINT64_C(1) << 32))
            continue;
        if (four && (!holds(m, MH_DIM_SRC4, rule, 0, mh_get32be(f->src)) || !holds(m, MH_DIM_DST4, rule, 0, mh_get32be(f->dst))))
            continue;
        if (!four && (!holds(m, MH_DIM_SRC6, rule, get64be(f->src), get64be(f->src + 8)) ||
                      !holds(m, MH_DIM_DST6, rule, get64be(f->dst), get64be(f->dst + 8))))
            continue;
        uint8_t flags = m->bytes[16 + rule];
        mh_verdict v = {.rule = (uint16_t)rule, .accept = flags & 1};
        if (!v.accept) {
            v.reason = MH_REASON_POLICY;
            v.answer = flags & 2 && f->direction != MH_IN;
        }
        return v;
    }
    abort(); /* the last rule holds everywhere */
}

static inline bool same(mh_verdict a, mh_verdict b) {
    return a.rule == b.rule && a.accept == b.accept && a.reason == b.reason && a.answer == b.answer;
}

#endif
