#define MH_REPLAY_WINDOW 8192
typedef struct {
    uint64_t greatest;
    ...;
} mh_replay;

void mh_replay_init(mh_replay *r);
bool mh_replay_accept(mh_replay *r, uint64_t counter);
