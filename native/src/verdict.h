/*
 * verdict.h - the flat program that engine/filter compiles from the policy's rules, and the judge that runs it.
 *
 * Ownership: mh_program_load() copies and checks the bytes; the program never changes and belongs to a snapshot.
 * Threads: judging needs no lock; fragments are remembered in a table that belongs to one datapath thread.
 *
 * The program. A rule is a conjunction of conditions, each on one dimension of a packet. For each dimension the
 * program holds the whole line of values cut into intervals, and for each interval the set of rules, as a bitmap,
 * whose condition holds there. Judging is one lookup a dimension, the AND of the sets, and the lowest bit.
 * All numbers are little-endian:
 *
 *     0   4  magic "MHVP"
 *     4   2  version: 1
 *     6   2  rules: 1 to MH_MAX_RULES
 *     8   2  words: 64-bit words in a bitmap = ceil(rules / 64)
 *    10   2  dimensions: MH_DIMENSIONS
 *    12   4  length of the program in bytes
 *    16      one byte a rule: bit 0 accept, bit 1 reject (blocking rules only); zeros up to a multiple of 8
 *            then for each dimension, in the order of enum mh_dimension:
 *         8  n: how many intervals, 1 to 65535
 *    n * 8   their first values, ascending, the first is 0 (n * 16 for the IPv6 addresses: high half, low half)
 *  n * words * 8  their bitmaps: bit i of word j is rule 64 * j + i
 *
 * The last rule blocks, and its bit is set in every interval: there is no packet without a verdict.
 */
#ifndef MH_VERDICT_H
#define MH_VERDICT_H

#include "facts.h"
#include "reasons.h"

#define MH_MAX_RULES 1024
#define MH_PROGRAM_VERSION 1

/* What a rule may look at. "Absent" values stand for what a packet does not show. */
enum mh_dimension {
    MH_DIM_CONTEXT,  /* mh_context(): direction and interfaces, 0-14 */
    MH_DIM_PROTOCOL, /* protocol, + 256 for IPv6 */
    MH_DIM_ORIGIN,   /* enum mh_app * 2 + reply, 0-5 */
    MH_DIM_SPORT,    /* 0-65535, 65536: absent */
    MH_DIM_DPORT,
    MH_DIM_ICMP,     /* type * 256 + code, 65536: absent */
    MH_DIM_MARK,     /* 32 bits */
    MH_DIM_UID,      /* 32 bits, 2^32: absent */
    MH_DIM_SRC4,     /* 32 bits */
    MH_DIM_DST4,
    MH_DIM_SRC6,     /* 128 bits */
    MH_DIM_DST6,
    MH_DIMENSIONS
};

typedef struct mh_program mh_program;
typedef struct mh_fragments mh_fragments;

enum mh_answer { MH_ANSWER_NONE = 0, MH_ANSWER_REJECT = 1 }; /* REJECT: ICMP unreachable or TCP RST to the local sender */

typedef struct {
    uint16_t rule;  /* index in the program; the last rule is the catch-all P-0 */
    uint8_t accept; /* 0 or 1 */
    uint8_t reason; /* enum mh_reason; NONE if accepted */
    uint8_t answer; /* enum mh_answer */
} mh_verdict;

mh_program *mh_program_load(const uint8_t *bytes, size_t len); /* NULL: not a program (every field is checked) */
void mh_program_free(mh_program *p);                           /* NULL is fine */
uint16_t mh_program_rules(const mh_program *p);
uint64_t mh_program_fingerprint(const mh_program *p); /* equal for equal programs */

/* The stateless verdict. program NULL = NO_POLICY, blocked (rule 0 then means nothing). A later fragment is judged by
 * what it shows: use mh_filter() where fragments can be. */
mh_verdict mh_judge(const mh_program *p, const mh_facts *f);

/* The verdict of a later fragment by itself: the one that its first fragment must have got whatever it held, or
 * FRAGMENT_UNKNOWN where that depends on ports, ICMP types or, in IPv6, the protocol. */
mh_verdict mh_judge_later(const mh_program *p, const mh_facts *f);

/* direction * interfaces as one number, or MH_CONTEXTS for facts that are none. */
#define MH_CONTEXTS 15u
static inline unsigned mh_context(const mh_facts *f) {
    if (f->iface_in > MH_OTHER || f->iface_out > MH_OTHER)
        return MH_CONTEXTS;
    switch (f->direction) {
    case MH_OUT:
        return f->iface_out;
    case MH_IN:
        return 3u + f->iface_in;
    case MH_FORWARD:
        return 6u + 3u * f->iface_in + f->iface_out;
    default:
        return MH_CONTEXTS;
    }
}

/* With memory: a later fragment gets the verdict that p gives its first fragment (a blocked one's reason is
 * FRAGMENT_UNKNOWN, under the first one's rule); one that overlaps the first is FRAGMENT_BAD; if no first fragment is
 * known, mh_judge_later() decides. Fragments are never answered but for the first. The table (fragment.c) is bounded
 * and forgets after MH_FRAGMENT_LIFETIME_NS. */
#define MH_FRAGMENT_LIFETIME_NS UINT64_C(30000000000) /* as the kernel reassembles (net.ipv4.ipfrag_time) */
mh_fragments *mh_fragments_new(void); /* NULL: no memory */
void mh_fragments_free(mh_fragments *t);
mh_verdict mh_filter(const mh_program *p, mh_fragments *t, const mh_facts *f, uint64_t now_ns);

#endif
