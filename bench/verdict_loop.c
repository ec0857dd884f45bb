/*
 * verdict_loop.c - nanoseconds for parse + judge, and for judge alone, without Python around each packet.
 *
 * Compiled together with native/src/parse.c and verdict.c by bench/test_bench_verdict.py with the module's own flags.
 */
#include "verdict.h"

/* Packets lie at offsets[i] .. offsets[i + 1]. what: 0 parse, 1 parse and judge, 2 judge facts parsed before.
 * Returns a sum of the verdicts, so that nothing is optimised away. */
uint64_t bench_loop(const mh_program *p, const uint8_t *packets, const uint32_t *offsets, mh_facts *facts, uint32_t n,
                    uint32_t rounds, int what) {
    uint64_t sum = 0;
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t i = 0; i < n; i++) {
            if (what < 2) {
                if (mh_parse(packets + offsets[i], offsets[i + 1] - offsets[i], &facts[i]))
                    return UINT64_MAX;
                facts[i].iface_out = MH_TUNNEL;
            }
            if (what > 0)
                sum += mh_judge(p, &facts[i]).rule;
            else
                sum += facts[i].dport;
        }
    return sum;
}

uint32_t bench_facts_size(void) { return sizeof(mh_facts); }
