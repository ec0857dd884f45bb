/* test_replay.c - the window against a naive twin that remembers every counter. */
#include "check.h"
#include "replay.h"

#define SPAN 60000 /* counters of a run, relative to its base */

static void run_against_twin(uint64_t seed, uint64_t base, uint32_t jump) {
    static uint8_t seen[SPAN];
    mh_replay window;
    uint64_t greatest = 0;
    bool any = false;
    memset(seen, 0, sizeof seen);
    mh_replay_init(&window);
    for (uint32_t head = 0, i = 0; i < 30000; i++) {
        if (random_below(&seed, 4) == 0)
            head += random_below(&seed, jump);
        uint32_t back = random_below(&seed, MH_REPLAY_WINDOW + 300);
        uint32_t at = back > head ? 0 : head - (random_below(&seed, 2) ? back : back % 70);
        if (at >= SPAN)
            break;
        uint64_t counter = base + at;
        bool expected = !any || counter > greatest || (greatest - counter < MH_REPLAY_WINDOW && !seen[at]);
        CHECK(mh_replay_accept(&window, counter) == expected);
        if (expected) {
            seen[at] = 1;
            greatest = !any || counter > greatest ? counter : greatest;
            any = true;
        }
    }
}

static void the_window_agrees_with_a_twin_that_forgets_nothing(void) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        run_against_twin(seed, 0, 8);
        run_against_twin(seed, 63, 130);
        run_against_twin(seed, UINT64_C(1) << 40, 9000);
        run_against_twin(seed, MH_REJECT_AFTER_MESSAGES - SPAN, 20);
    }
}

static void the_window_is_8192_wide_to_the_packet(void) {
    for (uint64_t greatest = 8192; greatest < 8192 + 200; greatest++) {
        mh_replay window;
        mh_replay_init(&window);
        CHECK(mh_replay_accept(&window, greatest));
        CHECK(!mh_replay_accept(&window, greatest - 8192));
        CHECK(mh_replay_accept(&window, greatest - 8191));
        CHECK(!mh_replay_accept(&window, greatest - 8191));
        CHECK(!mh_replay_accept(&window, greatest));
    }
}

int main(void) {
    RUN(the_window_agrees_with_a_twin_that_forgets_nothing);
    RUN(the_window_is_8192_wide_to_the_packet);
    return 0;
}
