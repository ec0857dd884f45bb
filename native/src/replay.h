/*
 * replay.h - the sliding window of counters already seen (RFC 6479's ring of words), 8192 packets.
 *
 * Only a packet that is authentic may be shown to it. Ownership: a plain value. Threads: one at a time (its holder,
 * mh_session, locks).
 */
#ifndef MH_REPLAY_H
#define MH_REPLAY_H

#include "mh.h"

#define MH_REPLAY_WINDOW 8192

/* One word more than the window, because the newest word is only partly used. */
#define MH_REPLAY_WORDS (MH_REPLAY_WINDOW / 64 + 1)

typedef struct {
    uint64_t greatest;
    bool any; /* greatest is meant */
    uint64_t bits[MH_REPLAY_WORDS];
} mh_replay;

void mh_replay_init(mh_replay *r);

/* true and remembered: new, and fewer than MH_REPLAY_WINDOW behind the greatest. false: seen or too old. */
bool mh_replay_accept(mh_replay *r, uint64_t counter);

#endif
