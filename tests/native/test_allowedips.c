/* test_allowedips.c - the trie against a walk over the list, for prefixes that nest, crowd and spread. */
#include "allowedips.h"
#include "check.h"

static void *naive(const mh_prefix *prefixes, size_t n, uint8_t family, const uint8_t *addr) {
    const mh_prefix *best = NULL;
    for (size_t i = 0; i < n; i++) {
        const mh_prefix *p = &prefixes[i];
        bool in = p->family == family && (!best || p->cidr >= best->cidr);
        for (unsigned bit = 0; in && bit < p->cidr; bit++)
            in = !(((p->addr[bit / 8] ^ addr[bit / 8]) >> (7 - bit % 8)) & 1);
        if (in)
            best = p;
    }
    return best ? best->owner : NULL;
}

static void *find(const mh_allowedips *t, uint8_t family, const uint8_t *addr) {
    return family == 4 ? mh_allowedips_find4(t, addr) : mh_allowedips_find6(t, addr);
}

/* crowd: how many leading bytes are taken out of few values, so that prefixes nest and share. */
static void run_against_twin(uint64_t seed, uint8_t family, size_t n, unsigned crowd) {
    unsigned width = family == 4 ? 4 : 16;
    mh_prefix *prefixes = calloc(n + 1, sizeof *prefixes);
    CHECK(prefixes);
    for (size_t i = 0; i < n; i++) {
        prefixes[i].family = family;
        prefixes[i].cidr = (uint8_t)random_below(&seed, 8 * width + 1);
        prefixes[i].owner = &prefixes[i];
        random_bytes(&seed, prefixes[i].addr, width);
        for (unsigned at = 0; at < crowd; at++)
            prefixes[i].addr[at] &= 0x81;
    }
    mh_allowedips *t = mh_allowedips_new(prefixes, n);
    CHECK(t);
    for (int i = 0; i < 3000; i++) {
        uint8_t addr[16];
        random_bytes(&seed, addr, sizeof addr);
        for (unsigned at = 0; at < crowd; at++)
            addr[at] &= 0x81;
        if (n && random_below(&seed, 2)) { /* near a prefix: one bit of it turned, the rest random or not */
            const mh_prefix *near = &prefixes[random_below(&seed, (uint32_t)n)];
            memcpy(addr, near->addr, random_below(&seed, 2) ? width : near->cidr / 8);
            unsigned bit = random_below(&seed, 8 * width);
            addr[bit / 8] ^= (uint8_t)(random_below(&seed, 2) << (bit % 8));
        }
        CHECK(find(t, family, addr) == naive(prefixes, n, family, addr));
    }
    uint8_t other[16] = {0};
    CHECK(find(t, family == 4 ? 6 : 4, other) == NULL);
    mh_allowedips_free(t);
    free(prefixes);
}

static void the_longest_prefix_wins_as_in_a_walk_over_the_list(void) {
    static const size_t sizes[] = {0, 1, 2, 3, 10, 100, 700};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (unsigned crowd = 0; crowd <= 4; crowd++) {
            run_against_twin(sizes[s] + crowd + 1, 4, sizes[s], crowd);
            run_against_twin(sizes[s] + crowd + 2, 6, sizes[s], crowd * 4);
        }
}

static void every_prefix_length_may_nest_in_one_chain(void) {
    mh_prefix prefixes[129 + 33];
    uint8_t addr[16];
    memset(addr, 0xa5, sizeof addr);
    for (unsigned i = 0; i < 129 + 33; i++) {
        unsigned cidr = i < 129 ? i : i - 129;
        prefixes[i] = (mh_prefix){.family = i < 129 ? 6 : 4, .cidr = (uint8_t)cidr, .owner = &prefixes[i]};
        memcpy(prefixes[i].addr, addr, 16);
    }
    mh_allowedips *t = mh_allowedips_new(prefixes, 129 + 33);
    CHECK(t);
    CHECK(mh_allowedips_find6(t, addr) == &prefixes[128] && mh_allowedips_find4(t, addr) == &prefixes[129 + 32]);
    for (unsigned bit = 0; bit < 128; bit++) {
        uint8_t off[16];
        memcpy(off, addr, 16);
        off[bit / 8] ^= (uint8_t)(0x80 >> (bit % 8));
        CHECK(mh_allowedips_find6(t, off) == &prefixes[bit]);
        CHECK(bit >= 32 || mh_allowedips_find4(t, off) == &prefixes[129 + bit]);
    }
    mh_allowedips_free(t);
}

static void branching_may_cross_the_64th_bit(void) {
    enum { N = 1024 }; /* every value of bits 59 to 68 */
    static mh_prefix prefixes[N];
    for (uint32_t i = 0; i < N; i++) {
        prefixes[i] = (mh_prefix){.family = 6, .cidr = 69, .addr = {0x20, 1}, .owner = &prefixes[i]};
        prefixes[i].addr[7] = (uint8_t)(i >> 5);
        prefixes[i].addr[8] = (uint8_t)(i << 3);
    }
    mh_allowedips *t = mh_allowedips_new(prefixes, N);
    CHECK(t);
    for (uint32_t i = 0; i < N; i++) {
        uint8_t addr[16];
        memcpy(addr, prefixes[i].addr, 16);
        addr[8] |= 5;
        CHECK(mh_allowedips_find6(t, addr) == &prefixes[i]);
        addr[7] |= 0x40;
        CHECK(mh_allowedips_find6(t, addr) == NULL);
    }
    mh_allowedips_free(t);
}

static void of_equal_prefixes_the_later_wins_whatever_its_host_bits(void) {
    int first, second;
    mh_prefix prefixes[] = {
        {.family = 4, .cidr = 8, .addr = {10, 1, 2, 3}, .owner = &first},
        {.family = 4, .cidr = 8, .addr = {10, 9, 9, 9}, .owner = &second},
    };
    mh_allowedips *t = mh_allowedips_new(prefixes, 2);
    CHECK(t && mh_allowedips_find4(t, (const uint8_t[]){10, 1, 2, 3}) == &second);
    mh_allowedips_free(t);
}

static void a_prefix_longer_than_its_address_is_refused(void) {
    mh_prefix bad[] = {{.family = 4, .cidr = 33}, {.family = 6, .cidr = 129}, {.family = 5, .cidr = 0}};
    for (size_t i = 0; i < 3; i++)
        CHECK(mh_allowedips_new(&bad[i], 1) == NULL);
    mh_allowedips_free(NULL);
}

int main(void) {
    RUN(the_longest_prefix_wins_as_in_a_walk_over_the_list);
    RUN(every_prefix_length_may_nest_in_one_chain);
    RUN(branching_may_cross_the_64th_bit);
    RUN(of_equal_prefixes_the_later_wins_whatever_its_host_bits);
    RUN(a_prefix_longer_than_its_address_is_refused);
    return 0;
}
