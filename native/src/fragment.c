/*
 * fragment.c - remembers first fragments, so that the rest of a datagram shares their verdict: the one that the program
 * of now gives. A datagram on its way while the program changes is neither torn nor judged by what is no longer in force.
 *
 * Key: the reassembly key of RFC 791 (IPv6, RFC 8200: without the protocol), and besides it the packet's context and
 * sender, so that nobody rides on what another one was allowed. A set-associative table of fixed size: a full set
 * gives up its oldest entry, which can only lead to more drops.
 */
#include "verdict.h"

#include <stdlib.h>

#define SETS 256u
#define WAYS 4u

typedef struct {
    uint8_t src[16], dst[16];
    uint32_t id;
    uint32_t mark;
    uint32_t uid;
    uint8_t version, proto, context, origin; /* origin: app * 2 + has_uid */
} key; /* no padding: compared and hashed as bytes */
_Static_assert(sizeof(key) == 48, "key has padding");

typedef struct {
    key key; /* version 0: free */
    uint64_t since_ns;
    uint64_t fingerprint; /* of the program that gave the verdict */
    mh_verdict verdict;
    mh_facts first; /* its frag_len is where a later one may begin: before it, it overlaps */
} entry;

struct mh_fragments {
    entry entries[SETS][WAYS];
};

mh_fragments *mh_fragments_new(void) { return calloc(1, sizeof(mh_fragments)); }
void mh_fragments_free(mh_fragments *t) { free(t); }

static key key_of(const mh_facts *f) {
    key k = {.id = f->frag_id, .mark = f->mark, .uid = f->has_uid ? f->uid : 0, .version = f->version};
    memcpy(k.src, f->src, 16);
    memcpy(k.dst, f->dst, 16);
    k.proto = f->version == 4 ? f->proto : 0;
    k.context = (uint8_t)mh_context(f);
    k.origin = (uint8_t)(f->app << 1 | f->has_uid);
    return k;
}

static entry *set_of(mh_fragments *t, const key *k) {
    uint64_t words[sizeof(key) / 8], h = 0;
    memcpy(words, k, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        h = (h ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    return t->entries[h % SETS];
}

static bool fresh(const entry *e, uint64_t now_ns) {
    return e->key.version && now_ns - e->since_ns < MH_FRAGMENT_LIFETIME_NS;
}

static void remember(mh_fragments *t, const mh_facts *f, uint64_t fingerprint, mh_verdict v, uint64_t now_ns) {
    key k = key_of(f);
    entry *set = set_of(t, &k);
    entry *place = &set[0];
    for (unsigned i = 0; i < WAYS; i++) {
        if (memcmp(&set[i].key, &k, sizeof k) == 0) {
            place = &set[i];
            break;
        }
        if (!set[i].key.version ? place->key.version != 0 : place->key.version && set[i].since_ns < place->since_ns)
            place = &set[i];
    }
    *place = (entry){.key = k, .since_ns = now_ns, .fingerprint = fingerprint, .verdict = v, .first = *f};
}

mh_verdict mh_filter(const mh_program *p, mh_fragments *t, const mh_facts *f, uint64_t now_ns) {
    if (!p || f->fragment == MH_WHOLE)
        return mh_judge(p, f);
    const uint64_t fingerprint = mh_program_fingerprint(p);
    if (f->fragment == MH_FIRST) {
        mh_verdict v = mh_judge(p, f);
        remember(t, f, fingerprint, v, now_ns);
        return v;
    }
    key k = key_of(f);
    entry *set = set_of(t, &k);
    for (unsigned i = 0; i < WAYS; i++) {
        entry *e = &set[i];
        if (memcmp(&e->key, &k, sizeof k) != 0 || !fresh(e, now_ns))
            continue;
        if (e->fingerprint != fingerprint) {
            e->fingerprint = fingerprint;
            e->verdict = mh_judge(p, &e->first);
        }
        mh_verdict v = e->verdict;
        if (f->frag_offset < e->first.frag_len)
            return (mh_verdict){.rule = v.rule, .reason = MH_REASON_FRAGMENT_BAD};
        if (!v.accept)
            v.reason = MH_REASON_FRAGMENT_UNKNOWN;
        v.answer = MH_ANSWER_NONE;
        return v;
    }
    return mh_judge_later(p, f);
}
