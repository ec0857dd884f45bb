enum mh_event_kind {
    MH_EVENT_MESSAGE = 1,
    MH_EVENT_HANDSHAKE = 2,
    MH_EVENT_TIMERS = 3,
    MH_EVENT_CONFIRMED = 4,
    MH_EVENT_PROBE = 5,
    MH_EVENT_STOPPED = 6
};
#define MH_EVENT_DATA_MAX 1500
typedef struct {
    uint32_t kind;
    uint32_t peer;
    int32_t error;
    uint32_t depth;
    uint32_t proven;
    mh_endpoint endpoint;
    uint32_t len;
    uint8_t data[1500];
} mh_event;

typedef struct mh_ring mh_ring;
mh_ring *mh_ring_new(uint32_t slots);
void mh_ring_free(mh_ring *r);
int mh_ring_fd(const mh_ring *r);
bool mh_ring_push(mh_ring *r, const mh_event *e);
bool mh_ring_pop(mh_ring *r, mh_event *e);
