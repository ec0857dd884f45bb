/* test_ring.c - bounds, the eventfd, and many pushers against one popper. */
#include "check.h"
#include "ring.h"

#include <poll.h>
#include <pthread.h>

static bool readable(const mh_ring *r) {
    struct pollfd p = {.fd = mh_ring_fd(r), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void a_full_ring_refuses_and_keeps_what_it_has(void) {
    mh_ring *r = mh_ring_new(4);
    mh_event e = {.kind = MH_EVENT_TIMERS}, out;
    CHECK(r && !readable(r) && !mh_ring_pop(r, &out));
    for (uint32_t i = 0; i < 6; i++) {
        e.peer = i;
        CHECK(mh_ring_push(r, &e) == (i < 4));
        CHECK(readable(r)); /* from the first on */
    }
    for (uint32_t i = 0; i < 4; i++)
        CHECK(readable(r) && mh_ring_pop(r, &out) && out.peer == i && out.depth == 3 - i);
    CHECK(!mh_ring_pop(r, &out) && !readable(r));
    mh_ring_free(r);
}

static void an_event_keeps_its_data_to_the_limit_and_no_further(void) {
    mh_ring *r = mh_ring_new(2);
    mh_event e = {.kind = MH_EVENT_MESSAGE, .len = MH_EVENT_DATA_MAX}, out = {0};
    memset(e.data, 0xab, sizeof e.data);
    CHECK(r && mh_ring_push(r, &e) && mh_ring_pop(r, &out));
    CHECK(out.len == MH_EVENT_DATA_MAX && memcmp(out.data, e.data, sizeof e.data) == 0);
    e.len++;
    CHECK(!mh_ring_push(r, &e));
    mh_ring_free(r);
}

static void a_ring_needs_a_power_of_two(void) {
    CHECK(!mh_ring_new(0) && !mh_ring_new(3) && !mh_ring_new(12));
    mh_ring_free(NULL);
}

#define PUSHERS 3
#define EVENTS 2000

static void *push_all(void *arg) {
    mh_event e = {.kind = MH_EVENT_MESSAGE};
    for (uint32_t i = 0; i < EVENTS; i++) {
        e.peer = i;
        e.len = 4;
        memcpy(e.data, &i, 4);
        while (!mh_ring_push(arg, &e))
            poll(NULL, 0, 1);
    }
    return NULL;
}

static void waiting_on_the_eventfd_loses_no_event(void) {
    mh_ring *r = mh_ring_new(64);
    pthread_t threads[PUSHERS];
    static uint8_t seen[EVENTS];
    CHECK(r);
    for (size_t i = 0; i < PUSHERS; i++)
        CHECK(pthread_create(&threads[i], NULL, push_all, r) == 0);
    for (int left = PUSHERS * EVENTS; left > 0;) {
        struct pollfd p = {.fd = mh_ring_fd(r), .events = POLLIN};
        mh_event e;
        CHECK(poll(&p, 1, 20000) == 1);
        for (int burst = 0; burst < 16 && mh_ring_pop(r, &e); burst++, left--) {
            CHECK(e.len == 4 && memcmp(e.data, &e.peer, 4) == 0);
            seen[e.peer]++;
        }
    }
    for (size_t i = 0; i < PUSHERS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < EVENTS; i++)
        CHECK(seen[i] == PUSHERS);
    mh_ring_free(r);
}

int main(void) {
    RUN(a_full_ring_refuses_and_keeps_what_it_has);
    RUN(an_event_keeps_its_data_to_the_limit_and_no_further);
    RUN(a_ring_needs_a_power_of_two);
    RUN(waiting_on_the_eventfd_loses_no_event);
    return 0;
}
