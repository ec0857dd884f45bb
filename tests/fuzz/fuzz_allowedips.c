/*
 * fuzz_allowedips.c - any list of prefixes into the trie, and any lookups, against a walk over the list.
 *
 * Records of 18 bytes: family (of its low bits), prefix length, address. A record is also looked up, as it stands and
 * with one bit turned. A list with a bad prefix length must be refused as a whole.
 */
#include "allowedips.h"

#include <stdlib.h>

#define RECORD 18
#define MOST 40 /* the walk over the list is what takes the time */

static bool within(const mh_prefix *p, const uint8_t *addr) {
    unsigned bytes = p->cidr / 8, bits = p->cidr % 8;
    return memcmp(p->addr, addr, bytes) == 0 && (bits == 0 || ((p->addr[bytes] ^ addr[bytes]) >> (8 - bits)) == 0);
}

static void check(const mh_allowedips *t, const mh_prefix *prefixes, size_t n, uint8_t family, const uint8_t *addr) {
    const mh_prefix *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (prefixes[i].family == family && (!best || prefixes[i].cidr >= best->cidr) && within(&prefixes[i], addr))
            best = &prefixes[i];
    void *found = family == 4 ? mh_allowedips_find4(t, addr) : mh_allowedips_find6(t, addr);
    if (found != (best ? best->owner : NULL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t n = size / RECORD < MOST ? size / RECORD : MOST;
    bool good = true;
    mh_prefix *prefixes = calloc(n + 1, sizeof *prefixes);
    if (!prefixes)
        abort();
    for (size_t i = 0; i < n; i++) {
        const uint8_t *record = data + i * RECORD;
        mh_prefix *p = &prefixes[i];
        p->family = record[0] & 1 ? 4 : 6;
        p->cidr = record[1];
        p->owner = p;
        memcpy(p->addr, record + 2, 16);
        good = good && p->cidr <= (p->family == 4 ? 32 : 128);
    }
    mh_allowedips *t = mh_allowedips_new(prefixes, n);
    if ((t != NULL) != good)
        abort();
    for (size_t i = 0; t && i < n; i++) {
        const uint8_t *record = data + i * RECORD;
        uint8_t addr[16];
        memcpy(addr, record + 2, 16);
        check(t, prefixes, n, 4, addr);
        check(t, prefixes, n, 6, addr);
        unsigned bit = record[0] >> 1;
        addr[bit / 8] ^= (uint8_t)(0x80 >> (bit % 8));
        check(t, prefixes, n, 4, addr);
        check(t, prefixes, n, 6, addr);
    }
    mh_allowedips_free(t);
    free(prefixes);
    return 0;
}
