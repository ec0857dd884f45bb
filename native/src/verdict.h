/*
 * verdict.h - the flat program that engine/filter compiles from the policy's rules, and the judge that runs it.
 *
 * Ownership: mh_program_load() copies and checks the bytes; the program never changes and belongs to a snapshot.
 * Threads: judging needs no lock; fragments are remembered in a table that belongs to one datapath thread.
 */
#ifndef MH_VERDICT_H
#define MH_VERDICT_H

#include "facts.h"
#include "reasons.h"

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
void mh_program_free(mh_program *p);
uint16_t mh_program_rules(const mh_program *p);

/* The stateless verdict. program NULL = NO_POLICY, blocked. A later fragment is judged by what it shows. */
mh_verdict mh_judge(const mh_program *p, const mh_facts *f);

/* With memory: a later fragment gets its first fragment's verdict; if that is unknown it is dropped while any rule
 * that could apply to this direction and interface looks at ports or ICMP types (FRAGMENT_UNKNOWN).
 * The table is bounded, forgets after 30 s, and is emptied by itself when the program changes. */
mh_fragments *mh_fragments_new(void);
void mh_fragments_free(mh_fragments *t);
mh_verdict mh_filter(const mh_program *p, mh_fragments *t, const mh_facts *f, uint64_t now_ns);

#endif
