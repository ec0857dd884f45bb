#define MH_REASON_COUNT ...
const char *mh_reason_name(unsigned reason);
const char *mh_reason_word(unsigned reason);
const char *mh_reason_meaning(unsigned reason);
