/*
 * fuzz_session_open.c - a datagram from the wire into session opening.
 *
 * The first byte chooses: the rest is a raw datagram as it came; or the rest is a script by which a peer's authentic
 * messages are made, damaged and delivered again, so that the fuzzer gets beyond the tag. What it may never see: an
 * accepted forgery, an accepted replay, a refused good message, a byte read or written outside the datagram.
 *
 * Includes the source, to give one pair of sessions back its first state for every input: deriving keys is slow.
 */
#include "../../native/src/session.c"

static const uint8_t chaining_key[32] = {3};
static const uint64_t now_ns = 1000;

/* Delivers a copy of exactly len bytes. The reason, or MH_REASON_UNKNOWN_TYPE/_INDEX as the data path would say. */
static int deliver(mh_session *s, const uint8_t *message, size_t len, uint8_t **plain) {
    uint8_t *copy = malloc(len ? len : 1);
    uint32_t receiver;
    uint64_t counter;
    uint8_t reason;
    if (!copy)
        abort();
    memcpy(copy, message, len);
    *plain = copy;
    if (!mh_data_header_get(copy, len, &receiver, &counter))
        return MH_REASON_UNKNOWN_TYPE;
    if (receiver != mh_session_local_index(s))
        return MH_REASON_UNKNOWN_INDEX;
    const uint32_t body = (uint32_t)(len - MH_DATA_OVERHEAD);
    mh_aead_job job = {.data = copy + MH_DATA_HEADER_LEN, .len = body, .counter = counter};
    size_t good = mh_session_open(s, &job, &reason, 1, now_ns);
    if (good != job.ok || good != (reason == MH_REASON_NONE))
        abort();
    for (uint32_t i = 0; !good && i < job.len; i++)
        if (job.data[i])
            abort();
    return reason;
}

static void expect(mh_session *s, const uint8_t *message, size_t len, int reason) {
    uint8_t *plain;
    if (deliver(s, message, len, &plain) != reason)
        abort();
    free(plain);
}

static void play(mh_session *peer, mh_session *us, const uint8_t *script, size_t size) {
    for (int steps = 0; steps < 8 && size >= 4; steps++) {
        size_t len = script[0];
        uint8_t damage = script[1];
        size_t at = mh_get16be(script + 2);
        script += 4;
        size -= 4;
        len = len < size ? len : size;
        uint8_t *message = malloc(len + MH_DATA_OVERHEAD), *plain;
        if (!message)
            abort();
        memcpy(message + MH_DATA_HEADER_LEN, script, len);
        mh_aead_job job = {.data = message + MH_DATA_HEADER_LEN, .len = (uint32_t)len};
        if (mh_session_seal(peer, &job, 1, now_ns) != 1)
            abort();
        at %= len + MH_DATA_OVERHEAD;
        if (damage) {
            message[at] ^= damage;
            expect(us, message, len + MH_DATA_OVERHEAD,
                   at < 4 ? MH_REASON_UNKNOWN_TYPE : at < 8 ? MH_REASON_UNKNOWN_INDEX : MH_REASON_AUTH);
            message[at] ^= damage;
        }
        if (deliver(us, message, len + MH_DATA_OVERHEAD, &plain) != MH_REASON_NONE ||
            memcmp(plain + MH_DATA_HEADER_LEN, script, len) != 0)
            abort();
        free(plain);
        expect(us, message, len + MH_DATA_OVERHEAD, MH_REASON_REPLAY);
        expect(us, message, at, at < MH_DATA_OVERHEAD ? MH_REASON_UNKNOWN_TYPE : MH_REASON_AUTH); /* cut short */
        free(message);
        script += len;
        size -= len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mh_session *us, *peer;
    if (!us) {
        us = mh_session_new(chaining_key, false, 1, 2, 0);
        peer = mh_session_new(chaining_key, true, 2, 1, 0);
    }
    if (!us || !peer)
        abort();
    mh_replay_init(&us->window);
    peer->sent = 0;
    if (size == 0)
        return 0;
    if (data[0] & 1) {
        play(peer, us, data + 1, size - 1);
    } else {
        uint8_t *plain;
        if (deliver(us, data + 1, size - 1, &plain) == MH_REASON_NONE)
            abort(); /* nobody knows the key: a forgery was accepted */
        free(plain);
    }
    return 0;
}
