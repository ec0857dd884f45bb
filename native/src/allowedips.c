/*
 * allowedips.c - longest prefix by a level-compressed trie (Nilsson and Karlsson, "IP-Address Lookup Using LC-Tries",
 * 1999): about three dependent loads at ten thousand prefixes.
 *
 * 1. The prefixes, sorted by address and then by length, form one array. Each knows its parent: the longest other
 *    prefix that contains it. Those that contain no other are the leaves; no leaf is a prefix of another leaf.
 * 2. Over the leaves stands a trie whose nodes skip the bits that all leaves below share and then branch on as many
 *    bits at once as keep at least half of the children in use. An unused child points at the leaf that has most
 *    leading bits in common with it.
 * 3. A lookup walks down without comparing, which ends at a leaf that shares as many leading bits with the address as
 *    any leaf does. Every prefix that contains the address is therefore that leaf or one of its ancestors; the first
 *    of them that is not longer than the shared bits is the answer.
 */
#include "allowedips.h"

#include <stdlib.h>

#define NONE UINT32_MAX
#define MAX_STRIDE 16

/* An address as 128 bits; IPv4 stands in the uppermost 32. */
typedef struct {
    uint64_t high, low;
} bits128;

typedef struct {
    bits128 addr;
    void *owner;
    uint32_t parent; /* index of the next shorter prefix that contains this one, or NONE */
    uint32_t order;  /* place in the caller's list */
    uint8_t cidr;
} prefix;

/* stride > 0: skip bits, then child + (the next stride bits) is the next node. stride == 0: child is a prefix. */
typedef struct {
    uint32_t child;
    uint8_t skip, stride;
} node;

typedef struct {
    prefix *prefixes;
    uint32_t n;
    node *nodes; /* nodes[0] is the root; NULL if there is no prefix */
    uint32_t used, room;
} trie;

struct mh_allowedips {
    trie v4, v6;
};

static bits128 load4(const uint8_t addr[4]) { return (bits128){(uint64_t)mh_get32be(addr) << 32, 0}; }

static bits128 load6(const uint8_t addr[16]) {
    return (bits128){(uint64_t)mh_get32be(addr) << 32 | mh_get32be(addr + 4),
                     (uint64_t)mh_get32be(addr + 8) << 32 | mh_get32be(addr + 12)};
}

/* The count (1 to 16) bits from bit `from` (0 = uppermost) on. */
static inline uint32_t take(bits128 a, unsigned from, unsigned count) {
    uint64_t window;
    if (from >= 64)
        window = a.low << (from - 64);
    else if (from + count <= 64)
        window = a.high << from;
    else
        window = a.high << from | a.low >> (64 - from); /* from > 48: no shift by 64 */
    return (uint32_t)(window >> (64 - count));
}

/* How many leading bits are equal. */
static inline unsigned shared(bits128 a, bits128 b) {
    if (a.high != b.high)
        return (unsigned)__builtin_clzll(a.high ^ b.high);
    if (a.low != b.low)
        return 64 + (unsigned)__builtin_clzll(a.low ^ b.low);
    return 128;
}

static bits128 masked(bits128 a, unsigned cidr) {
    uint64_t high = cidr >= 64 ? UINT64_MAX : ~(UINT64_MAX >> cidr);
    uint64_t low = cidr <= 64 ? 0 : cidr >= 128 ? UINT64_MAX : ~(UINT64_MAX >> (cidr - 64));
    return (bits128){a.high & high, a.low & low};
}

static bool contains(const prefix *outer, const prefix *inner) {
    return outer->cidr <= inner->cidr && shared(outer->addr, inner->addr) >= outer->cidr;
}

static int by_address(const void *x, const void *y) {
    const prefix *a = x, *b = y;
    if (a->addr.high != b->addr.high)
        return a->addr.high < b->addr.high ? -1 : 1;
    if (a->addr.low != b->addr.low)
        return a->addr.low < b->addr.low ? -1 : 1;
    if (a->cidr != b->cidr)
        return a->cidr < b->cidr ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* Sorts, lets the later of equal prefixes replace the earlier (so that no chain of parents is longer than the lengths
 * there are), and finds the parents. */
static void order_prefixes(trie *t) {
    uint32_t kept = 0;
    qsort(t->prefixes, t->n, sizeof *t->prefixes, by_address);
    for (uint32_t i = 0; i < t->n; i++) {
        prefix p = t->prefixes[i];
        if (kept && t->prefixes[kept - 1].cidr == p.cidr && contains(&t->prefixes[kept - 1], &p))
            kept--;
        uint32_t up = kept ? kept - 1 : NONE;
        while (up != NONE && !contains(&t->prefixes[up], &p))
            up = t->prefixes[up].parent;
        p.parent = up;
        t->prefixes[kept++] = p;
    }
    t->n = kept;
}

/* Room for n nodes in a row; the place of the first, or NONE. */
static uint32_t take_nodes(trie *t, uint32_t n) {
    if (n > t->room - t->used) {
        uint32_t room = t->room + (t->room > n ? t->room : n);
        node *more = room < t->room ? NULL : realloc(t->nodes, room * sizeof *more);
        if (!more)
            return NONE;
        t->nodes = more;
        t->room = room;
    }
    t->used += n;
    return t->used - n;
}

static const bits128 *leaf_addr(const trie *t, const uint32_t *leaves, uint32_t i) {
    return &t->prefixes[leaves[i]].addr;
}

/* How many different values the stride bits from `from` on take among n leaves (sorted, alike before `from`). */
static uint32_t values(const trie *t, const uint32_t *leaves, uint32_t n, unsigned from, unsigned stride) {
    uint32_t count = 1;
    for (uint32_t i = 1; i < n; i++)
        count += take(*leaf_addr(t, leaves, i), from, stride) != take(*leaf_addr(t, leaves, i - 1), from, stride);
    return count;
}

/* Builds nodes[at] over leaves[0..n), which are alike in the first `from` bits. Recursion is at most 128 deep, since
 * every level uses up at least one bit. */
static bool build(trie *t, uint32_t at, const uint32_t *leaves, uint32_t n, unsigned from) {
    if (n == 1) {
        t->nodes[at] = (node){leaves[0], 0, 0};
        return true;
    }
    unsigned branch = shared(*leaf_addr(t, leaves, 0), *leaf_addr(t, leaves, n - 1));
    unsigned stride = 1;
    while (stride < MAX_STRIDE && branch + stride < 128 && (UINT32_C(1) << stride) <= n &&
           2 * values(t, leaves, n, branch, stride + 1) >= (UINT32_C(2) << stride))
        stride++;
    uint32_t child = take_nodes(t, UINT32_C(1) << stride);
    if (child == NONE)
        return false;
    t->nodes[at] = (node){child, (uint8_t)(branch - from), (uint8_t)stride};
    uint32_t i = 0;
    for (uint32_t value = 0; value < UINT32_C(1) << stride; value++) {
        uint32_t first = i;
        while (i < n && take(*leaf_addr(t, leaves, i), branch, stride) == value)
            i++;
        if (i > first) {
            if (!build(t, child + value, leaves + first, i - first, branch + stride))
                return false;
            continue;
        }
        /* Unused: of the leaves beside it (there are some on at least one side), the one that is more alike. */
        uint32_t nearest = first;
        if (first == n)
            nearest = n - 1;
        else if (first > 0 && (take(*leaf_addr(t, leaves, first - 1), branch, stride) ^ value) <
                                  (take(*leaf_addr(t, leaves, first), branch, stride) ^ value))
            nearest = first - 1;
        t->nodes[child + value] = (node){leaves[nearest], 0, 0};
    }
    return true;
}

static bool finish(trie *t) {
    if (t->n == 0)
        return true;
    order_prefixes(t);
    uint32_t *leaves = calloc(t->n, sizeof *leaves);
    if (!leaves)
        return false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (i + 1 == t->n || !contains(&t->prefixes[i], &t->prefixes[i + 1]))
            leaves[n++] = i;
    bool ok = take_nodes(t, 1) == 0 && build(t, 0, leaves, n, 0);
    free(leaves);
    return ok;
}

mh_allowedips *mh_allowedips_new(const mh_prefix *prefixes, size_t n) {
    if (n > UINT32_MAX / 4)
        return NULL;
    mh_allowedips *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    uint32_t n4 = 0;
    for (size_t i = 0; i < n; i++)
        n4 += prefixes[i].family == 4;
    t->v4.prefixes = calloc(n4 + 1, sizeof(prefix));
    t->v6.prefixes = calloc(n - n4 + 1, sizeof(prefix));
    if (!t->v4.prefixes || !t->v6.prefixes)
        goto failed;
    for (size_t i = 0; i < n; i++) {
        const mh_prefix *p = &prefixes[i];
        bool four = p->family == 4;
        if ((!four && p->family != 6) || p->cidr > (four ? 32 : 128))
            goto failed;
        trie *side = four ? &t->v4 : &t->v6;
        bits128 addr = masked(four ? load4(p->addr) : load6(p->addr), p->cidr);
        side->prefixes[side->n++] = (prefix){addr, p->owner, NONE, (uint32_t)i, p->cidr};
    }
    if (finish(&t->v4) && finish(&t->v6))
        return t;
failed:
    mh_allowedips_free(t);
    return NULL;
}

void mh_allowedips_free(mh_allowedips *t) {
    if (!t)
        return;
    free(t->v4.prefixes);
    free(t->v4.nodes);
    free(t->v6.prefixes);
    free(t->v6.nodes);
    free(t);
}

static inline void *find(const trie *t, bits128 addr) {
    if (!t->nodes)
        return NULL;
    node at = t->nodes[0];
    unsigned from = 0;
    while (at.stride) {
        from += at.skip;
        uint32_t next = at.child + take(addr, from, at.stride);
        from += at.stride;
        at = t->nodes[next];
    }
    unsigned common = shared(addr, t->prefixes[at.child].addr);
    for (uint32_t i = at.child; i != NONE; i = t->prefixes[i].parent)
        if (t->prefixes[i].cidr <= common)
            return t->prefixes[i].owner;
    return NULL;
}

void *mh_allowedips_find4(const mh_allowedips *t, const uint8_t addr[4]) { return find(&t->v4, load4(addr)); }
void *mh_allowedips_find6(const mh_allowedips *t, const uint8_t addr[16]) { return find(&t->v6, load6(addr)); }
