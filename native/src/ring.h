/*
 * ring.h - events from the datapath thread(s) up to Python: handshake messages and "look at this peer".
 *
 * A bounded ring with a mutex (events are rare) and an eventfd that becomes readable when the ring goes from empty
 * to non-empty. A full ring refuses the new event (its pusher counts RING_FULL). Threads: push from any, pop from one.
 */
#ifndef MH_RING_H
#define MH_RING_H

#include "endpoint.h"
#include "mh.h"

enum mh_event_kind {
    MH_EVENT_MESSAGE = 1,   /* a handshake or cookie message: data, endpoint */
    MH_EVENT_HANDSHAKE = 2, /* peer: a packet waits for a session, or the session should be renewed */
    MH_EVENT_TIMERS = 3,    /* peer: traffic has set a deadline; read mh_peer_get_traffic() and arm a timer */
    MH_EVENT_CONFIRMED = 4, /* peer: first packet under the `next` session arrived, it is now `current` */
    MH_EVENT_PROBE = 5,     /* peer: the echo reply to the engine's own probe: data = inner packet */
    MH_EVENT_STOPPED = 6    /* the datapath ended by itself: error = errno (TUN deleted, ...) */
};

#define MH_EVENT_DATA_MAX 1500
typedef struct {
    uint32_t kind;
    uint32_t peer;  /* mh_peer id, or 0 */
    int32_t error;
    uint32_t depth;  /* entries still waiting behind this one */
    uint32_t proven; /* a handshake message that had to bring a cookie, and did */
    mh_endpoint endpoint;
    uint32_t len;
    uint8_t data[MH_EVENT_DATA_MAX];
} mh_event;

typedef struct mh_ring mh_ring;
mh_ring *mh_ring_new(uint32_t slots); /* a power of two; NULL: no memory or no eventfd */
void mh_ring_free(mh_ring *r);
uint32_t mh_ring_depth(mh_ring *r); /* how many events wait */
void mh_ring_wake(mh_ring *r); /* makes the fd readable though nothing was pushed */
int mh_ring_fd(const mh_ring *r);
bool mh_ring_push(mh_ring *r, const mh_event *e); /* copies header + len bytes; false: full, or len beyond the limit */
bool mh_ring_pop(mh_ring *r, mh_event *e); /* sets depth; false: empty (and the eventfd is drained) */

#endif
