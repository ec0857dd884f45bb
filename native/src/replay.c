/*
 * replay.c - bit (counter mod 64) of word (counter / 64 mod MH_REPLAY_WORDS) says "seen".
 *
 * Moving forward never shifts bits: it clears the words that the new greatest counter enters, which are those that
 * fell out of the window.
 */
#include "replay.h"

void mh_replay_init(mh_replay *r) { memset(r, 0, sizeof *r); }

bool mh_replay_accept(mh_replay *r, uint64_t counter) {
    uint64_t word = counter / 64;
    if (!r->any || counter > r->greatest) {
        uint64_t entered = r->any ? word - r->greatest / 64 : 0;
        if (entered > MH_REPLAY_WORDS)
            entered = MH_REPLAY_WORDS;
        for (uint64_t i = 0; i < entered; i++)
            r->bits[(word - i) % MH_REPLAY_WORDS] = 0;
        r->greatest = counter;
        r->any = true;
    } else if (r->greatest - counter >= MH_REPLAY_WINDOW) {
        return false;
    }
    uint64_t bit = UINT64_C(1) << (counter % 64);
    uint64_t *seen = &r->bits[word % MH_REPLAY_WORDS];
    if (*seen & bit)
        return false;
    *seen |= bit;
    return true;
}
