/*
 * reasons.h - every reason for which a packet is dropped, once: the same word is used in counters, `explain`,
 * captures, metrics and docs. X(enumerator, word, what it means)
 */
#ifndef MH_REASONS_H
#define MH_REASONS_H

#define MH_REASONS(X)                                                                                        \
    X(NONE, "none", "not dropped")                                                                           \
    X(NO_POLICY, "no-policy", "no policy is loaded: everything is blocked")                                  \
    X(POLICY, "policy", "the rule named in the verdict blocks it")                                           \
    X(MALFORMED, "malformed", "the packet's own lengths or headers contradict each other")                   \
    X(FRAGMENT_UNKNOWN, "fragment-unknown", "a fragment whose first fragment was not seen or was blocked")   \
    X(FRAGMENT_BAD, "fragment-bad", "a tiny, overlapping or oversized fragment")                             \
    X(NO_PEER, "no-peer", "no peer's allowed IPs cover the destination")                                     \
    X(NO_ENDPOINT, "no-endpoint", "the peer has no known endpoint")                                          \
    X(STAGE_FULL, "stage-full", "waiting for a handshake, pushed out by newer packets")                      \
    X(STAGE_EXPIRED, "stage-expired", "waited for a handshake that was given up")                            \
    X(LOOP, "loop", "our own outer packet came back into the TUN")                                           \
    X(TOO_BIG, "too-big", "does not fit the tunnel's MTU")                                                   \
    X(UNKNOWN_TYPE, "unknown-type", "a datagram that is no WireGuard message")                               \
    X(UNKNOWN_INDEX, "unknown-index", "a receiver index that belongs to no session")                         \
    X(SESSION_EXPIRED, "session-expired", "the session is past its time or message limit")                   \
    X(AUTH, "auth", "the authentication tag is wrong")                                                       \
    X(REPLAY, "replay", "the counter was already seen or is too old")                                        \
    X(SOURCE, "source-not-allowed", "the inner source address does not belong to the peer")                  \
    X(CHECKSUM, "checksum", "the inner checksum is wrong")                                                   \
    X(RING_FULL, "ring-full", "the control plane's message ring is full")                                    \
    X(UDP_SEND, "udp-send", "the outer send failed")                                                         \
    X(TUN_WRITE, "tun-write", "the write into the TUN failed")                                               \
    X(UNKNOWN_PEER, "unknown-peer", "a handshake with a key that is no peer's")                              \
    X(NO_COOKIE, "no-cookie", "under load a handshake message without a valid mac2: a cookie was sent")      \
    X(RATE_LIMIT, "rate-limit", "more handshake messages than one source or peer may send")                \
    X(ECN, "ecn", "a congestion mark outside a packet that cannot carry one (RFC 6040)")

enum mh_reason {
#define X(name, word, meaning) MH_REASON_##name,
    MH_REASONS(X)
#undef X
        MH_REASON_COUNT
};

/* The enumerator without its prefix, the word, the meaning; NULL for a number that is no reason. Static strings. */
const char *mh_reason_name(unsigned reason);
const char *mh_reason_word(unsigned reason);
const char *mh_reason_meaning(unsigned reason);

#endif
