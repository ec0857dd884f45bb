/* reasons.c - the words of reasons.h as tables. */
#include "reasons.h"

#include <stddef.h>

static const char *const names[MH_REASON_COUNT] = {
#define X(name, word, meaning) #name,
    MH_REASONS(X)
#undef X
};

static const char *const words[MH_REASON_COUNT] = {
#define X(name, word, meaning) word,
    MH_REASONS(X)
#undef X
};

static const char *const meanings[MH_REASON_COUNT] = {
#define X(name, word, meaning) meaning,
    MH_REASONS(X)
#undef X
};

const char *mh_reason_name(unsigned reason) { return reason < MH_REASON_COUNT ? names[reason] : NULL; }
const char *mh_reason_word(unsigned reason) { return reason < MH_REASON_COUNT ? words[reason] : NULL; }
const char *mh_reason_meaning(unsigned reason) { return reason < MH_REASON_COUNT ? meanings[reason] : NULL; }
