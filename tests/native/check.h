/*
 * check.h - the least a C test needs: CHECK stops with file, line and the claim that failed; RUN names the test.
 *
 * random_bytes and friends are a small seeded generator (xorshift64*), so that a failure repeats.
 */
#ifndef MH_TEST_CHECK_H
#define MH_TEST_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(claim)                                                                   \
    do {                                                                               \
        if (!(claim)) {                                                                \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #claim);      \
            abort();                                                                   \
        }                                                                              \
    } while (0)

#define RUN(test)                   \
    do {                            \
        test();                     \
        printf("  ok %s\n", #test); \
    } while (0)

static inline uint64_t random_u64(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static inline uint32_t random_below(uint64_t *state, uint32_t limit) { return (uint32_t)(random_u64(state) >> 33) % limit; }

static inline void random_bytes(uint64_t *state, uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(random_u64(state) >> 56);
}

#endif
