/*
 * fuzz_guard.c - handshake messages of any length through the guard's MACs and into cookie replies.
 *
 * What it was not keyed for is refused, but by chance; a reply answers the sender's index and has the wire's length.
 */
#include <stdlib.h>

#include "guard.h"

#define CHECK(claim) \
    do {             \
        if (!(claim)) abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mh_guard *g;
    const uint8_t key[MH_KEY_LEN] = {9};
    if (!g) g = mh_guard_new(key);
    if (size < sizeof(mh_endpoint)) return 0;
    mh_endpoint from;
    memcpy(&from, data, sizeof from);
    size -= sizeof from;
    uint8_t *message = malloc(size + 1), *reply = malloc(MH_COOKIE_LEN);
    CHECK(g && message && reply);
    memcpy(message, data + sizeof from, size);
    const uint64_t now_ns = UINT64_C(1000000000) * (size & 255);
    CHECK(!mh_guard_mac2(g, message, size, &from, now_ns));
    (void)mh_guard_mac1(g, message, size);
    if (mh_guard_reply(g, message, size, &from, now_ns, reply))
        CHECK(size >= 40 && mh_get32le(reply) == 3 && memcmp(reply + 4, message + 4, 4) == 0);
    free(message);
    free(reply);
    return 0;
}
