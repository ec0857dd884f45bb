/* test_backlog.c - the ring of reads: order, bounds, and which packets have to wait behind which. */
#include "backlog.h"
#include "check.h"

static mh_facts flow(uint8_t fragment, uint16_t sport) {
    mh_facts f = {.version = 4, .proto = 6, .fragment = fragment, .has_ports = fragment != MH_LATER, .sport = sport, .dport = 443};
    f.src[3] = 1;
    f.dst[3] = 2;
    return f;
}

static void what_waits_longest_comes_first_and_no_more_fit_than_there_are_slots(void) {
    mh_backlog b;
    uint64_t seed = 3;
    uint32_t in = 0, out = 0;
    CHECK(mh_backlog_init(&b));
    CHECK(!mh_backlog_oldest(&b));
    for (int i = 0; i < 100000; i++) {
        if (random_below(&seed, 2)) {
            mh_read *r = mh_backlog_next(&b);
            CHECK((r == NULL) == (in - out == MH_BACKLOG_SLOTS));
            if (!r) continue;
            r->len = in;
            memset(r->packet - MH_READ_HEADROOM, (int)in, MH_READ_HEADROOM + MH_READ_BYTES); /* it is all its own */
            mh_backlog_push(&b);
            in++;
            i += 10; /* the memset is slow under the sanitizers */
        } else {
            const mh_read *r = mh_backlog_oldest(&b);
            CHECK((r == NULL) == (in == out));
            if (!r) continue;
            CHECK(r->len == out && r->packet[0] == (uint8_t)out && r->packet[MH_READ_BYTES - 1] == (uint8_t)out);
            mh_backlog_drop(&b);
            out++;
        }
    }
    CHECK(in > 1000);
    mh_backlog_free(&b);
}

static void a_packet_waits_behind_its_own_flow_alone(void) {
    mh_backlog b;
    CHECK(mh_backlog_init(&b));
    mh_facts one = flow(MH_WHOLE, 1), other = flow(MH_WHOLE, 2), later = flow(MH_LATER, 0), elsewhere = flow(MH_LATER, 0);
    elsewhere.dst[3] = 9;
    CHECK(!mh_backlog_has_flow(&b, &one));
    mh_backlog_next(&b)->facts = one;
    CHECK(!mh_backlog_has_flow(&b, &one)); /* it waits once it is pushed */
    mh_backlog_push(&b);
    CHECK(mh_backlog_has_flow(&b, &one) && !mh_backlog_has_flow(&b, &other));
    CHECK(mh_backlog_has_flow(&b, &later) && !mh_backlog_has_flow(&b, &elsewhere)); /* no ports: by addresses */
    mh_backlog_drop(&b);
    CHECK(!mh_backlog_has_flow(&b, &one) && !mh_backlog_has_flow(&b, &later));
    mh_backlog_free(&b);
}

int main(void) {
    RUN(what_waits_longest_comes_first_and_no_more_fit_than_there_are_slots);
    RUN(a_packet_waits_behind_its_own_flow_alone);
    return 0;
}
